"""Peers as witnesses: cosigning on a beat, and logs that are rewritten, split or set back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from keys.trust import Peer
from node.audit import FRESH_MS
from node.cosigning import MAX_WITNESSES, witness_vkeys
from node.log import Act
from node.log_memory import Seen, remember
from node.logview import LogView
from node.store import Store
from node.tiles import Resource, parse_tile_path
from node.witnessing import BEAT_MS, HEADS_MS, START_MS
from protocol import merkle
from protocol.checkpoint import Checkpoint, parse_body, sign_checkpoint
from protocol.cosignatures import check_policy
from protocol.entry import EntryKind
from protocol.errors import (
    BusyError,
    ConfigError,
    ConflictError,
    LogBehindError,
    NotFoundError,
    PeerError,
    RollbackError,
)
from protocol.log_fork import parse_log_fork, verify_log_fork
from protocol.log_frames import (
    Consistency,
    Cosign,
    Cosigned,
    Head,
    Heads,
    LogForked,
    LogPart,
    WantConsistency,
    WantHead,
    WantLog,
)
from protocol.note import format_note, parse_note
from protocol.policy import format_policy, make_policy
from protocol.witness import (
    AddCheckpoint,
    format_add_checkpoint,
    format_signatures,
    parse_add_checkpoint,
    parse_signatures,
)
from tests.node.factories import Station, World, copied, full_disk, made_once, pass_on
from tests.node.wiring import Web

BEAT = BEAT_MS // 1_000 + 1
TALK = HEADS_MS // 1_000 + 2


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as each:
        yield each


def four(world: World) -> tuple[Station, Station, Station, Station]:
    alder, birch, cedar, dogwood = world
    return alder, birch, cedar, dogwood


def size_of(note: bytes) -> int:
    return parse_body(parse_note(note).text).size


# --- cosigning ---------------------------------------------------------------------------------
def test_each_beat_every_log_is_cosigned_by_its_peers_and_meets_its_policy(world: World) -> None:
    web = Web(*world)
    web.link("alder", "birch", "cedar", "dogwood")
    web.run(2 * BEAT)
    for station in world:
        found = station.core.cosigning.cosigned()
        assert found is not None
        size, note = found
        cosigned = check_policy(note, station.core.cosigning.policy)
        assert cosigned.checkpoint.size == size
        assert len(cosigned.labels) == 6, "both keys of three peers"
        assert cosigned.not_after is not None
        now_s = world.clock.now() // 1_000
        assert now_s - 2 * BEAT <= cosigned.not_after <= now_s
        standing = station.core.cosigning.standing()
        assert (standing.size, standing.needed, standing.missing) == (size, 2, ())
        assert len(standing.witnesses) == 3


def test_what_is_asked_of_witnesses_does_not_depend_on_the_traffic(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    web.run(BEAT)

    def asked(incidents: range) -> list[int]:
        web.passed.clear()
        for number in incidents:
            alder.release(number, birch)
            web.pump()
        web.run(5 * BEAT_MS // 1_000)
        return [
            size_of(parse_add_checkpoint(frame.request).note)
            for frame in web.frames(Cosign, "alder", "birch")
        ]

    quiet, busy = asked(range(0)), asked(range(40))
    assert len(quiet) == len(busy) == 5
    assert {b - a for a, b in pairwise(quiet)} == {1}, "a heartbeat each"


def test_who_is_away_is_missing_and_stops_nothing(world: World) -> None:
    alder, birch, *_ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    alder.release(1, birch)
    web.run(2 * BEAT)
    standing = alder.core.cosigning.standing()
    assert (standing.size, standing.not_after, standing.cosigned) == (0, None, ("birch",))
    assert set(standing.missing) == {"cedar", "dogwood"}
    assert alder.core.cosigning.cosigned() is None
    assert birch.shows(), "delivery waits for no witness"
    held = alder.core.store.scalar("SELECT count(*) FROM cosigned")
    web.run(20 * BEAT)
    assert alder.core.store.scalar("SELECT count(*) FROM cosigned") <= held + 2, "nor is it hoarded"
    assert alder.core.store.scalar("SELECT count(*) FROM cosignatures") <= 8


def test_the_first_cosigned_head_over_an_entry_is_kept_and_dates_it(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    web.run(2 * BEAT)
    released_s = world.clock.now() // 1_000
    envelope_id = alder.release(1, birch)
    row = alder.core.store.envelope(envelope_id)
    assert row is not None
    web.run(2 * BEAT)
    bracket = alder.core.cosigning.bracket(row["log_index"])
    assert bracket is not None
    assert released_s <= bracket.not_after <= released_s + 2 * BEAT
    web.run(30 * BEAT)
    assert alder.core.cosigning.bracket(row["log_index"]) == bracket
    covering = alder.core.cosigning.cosigned(row["log_index"])
    assert covering is not None
    assert covering[0] == bracket.size
    assert check_policy(covering[1], alder.core.cosigning.policy).not_after == bracket.not_after
    kept = alder.core.store.scalar("SELECT count(*) FROM cosigned")
    web.run(20 * BEAT)
    assert alder.core.store.scalar("SELECT count(*) FROM cosigned") == kept, "heartbeats alone"


def test_an_envelope_names_a_head_that_its_author_cosigned_and_a_reader_can_date_it(
    world: World,
) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    assert alder.envelope(alder.release(1, birch)).header.anchor is None, "nothing cosigned yet"
    web.run(2 * BEAT)
    before_s = world.clock.now() // 1_000
    envelope_id = alder.release(2, birch)
    web.pump()
    anchor = birch.envelope(envelope_id).header.anchor
    assert anchor is not None
    assert anchor.origin == birch.core.card.log.name, "known to the audience; never our own"
    at = birch.core.cosigning.time_of(anchor.origin, anchor.size, anchor.root)
    assert at is not None
    assert at <= before_s


def test_the_policy_file_says_who_counts(world: World) -> None:
    alder, birch, cedar, dogwood = four(world)
    log = alder.core.card.log
    policy = make_policy(log, [("only cedar", cedar.core.card.witness)], 1)
    alder.home.witness_policy.write_text(format_policy(policy))
    alder.reopen()
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(2 * BEAT)
    assert alder.core.cosigning.cosigned() is None
    web.start(web_closed(cedar))
    web.link("alder", "cedar")
    web.run(2 * BEAT)
    found = alder.core.cosigning.cosigned()
    assert found is not None
    assert check_policy(found[1], policy).not_after is not None
    assert dogwood.core.cosigning.standing().needed == 2


def web_closed(station: Station) -> Station:
    station.close()
    return station


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("quorum\n", "line 1"),
        ("quorum none\n", "no line for the log"),
        ("quorum none", "line 1"),
        ("\xff\n", "line 1"),
    ],
)
def test_a_policy_file_that_is_wrong_is_named_at_the_start(
    world: World, text: str, names: str
) -> None:
    alder, *_ = world
    alder.home.witness_policy.write_text(text, encoding="latin-1")
    alder.close()
    with pytest.raises(ConfigError, match=names):
        alder.open()


def test_no_more_witnesses_count_than_one_note_can_hold() -> None:
    assert 2 * (MAX_WITNESSES + 1) <= 64


# --- what a witness refuses --------------------------------------------------------------------
def offer(alder: Station) -> tuple[int, bytes]:
    size = alder.core.heartbeat()
    return size, alder.core.log.checkpoint()[1]


def cosign(birch: Station, body: bytes) -> tuple[int, bytes]:
    with birch.core.logged():
        answer, _ = birch.core.witness.add_checkpoint(body)
    return answer.status, answer.body


def test_of_two_requests_that_race_one_is_told_the_new_size(world: World) -> None:
    alder, birch, *_ = four(world)
    first, note = offer(alder)
    assert cosign(birch, format_add_checkpoint(AddCheckpoint(0, (), note)))[0] == 200
    requests = []
    for _ in range(2):
        size, note = offer(alder)
        proof = alder.core.log.prove_consistency(first, size)
        requests.append((size, format_add_checkpoint(AddCheckpoint(first, proof, note))))
    (smaller, early), (larger, late) = requests
    assert cosign(birch, late)[0] == 200
    assert cosign(birch, early) == (409, f"{larger}\n".encode())
    assert smaller < larger
    assert birch.core.store.scalar("SELECT size FROM witnessed") == larger, "never rolled back"


def test_a_log_that_nobody_here_trusts_is_not_cosigned(world: World) -> None:
    alder, birch, *_ = four(world)
    _, note = offer(alder)
    birch.core.trust = birch.core.trust.freeze(alder.id)
    status, body = cosign(birch, format_add_checkpoint(AddCheckpoint(0, (), note)))
    assert (status, birch.core.store.rows("SELECT * FROM witnessed")) == (404, [])
    assert body


@pytest.mark.parametrize("what", ["stripped", "time", "other key", "future", "none"])
def test_an_answer_without_good_cosignatures_is_not_counted(world: World, what: str) -> None:
    alder, birch, cedar, _ = four(world)
    size, note = offer(alder)
    _, lines = cosign(birch, format_add_checkpoint(AddCheckpoint(0, (), note)))
    keys = witness_vkeys(birch.core.card.witness)
    ed, mldsa = parse_signatures(lines)
    if what == "stripped":
        lines = format_signatures(
            [replace(ed, signature=ed.signature[:-1] + bytes([ed.signature[-1] ^ 1])), mldsa]
        )
    elif what == "time":
        late = (world.clock.now() // 1_000 - 5).to_bytes(8, "big")
        lines = format_signatures([replace(ed, signature=late + ed.signature[8:]), mldsa])
    elif what == "other key":
        lines = format_signatures([replace(ed, name=cedar.core.card.witness.name)])
    elif what == "future":
        world.clock.advance(-600_000)
    else:
        lines = lines.replace(b"birch", b"cedar") if b"birch" in lines else lines[:40] + b"\n"
    with pytest.raises(PeerError), alder.core.logged():
        alder.core.cosigning.take(size, lines, keys=keys)
    assert alder.core.store.rows("SELECT * FROM cosignatures") == []


def test_the_head_that_others_relied_on_cannot_be_replaced_by_a_shorter_one(world: World) -> None:
    alder, birch, *_ = four(world)
    _, old = offer(alder)
    size, new = offer(alder)
    assert cosign(birch, format_add_checkpoint(AddCheckpoint(0, (), new)))[0] == 200
    status, body = cosign(birch, format_add_checkpoint(AddCheckpoint(0, (), old)))
    assert (status, body) == (409, f"{size}\n".encode())


# --- heads that come by ------------------------------------------------------------------------
def test_each_head_under_a_receipt_is_proven_consistent_with_the_cosigned_one(
    world: World,
) -> None:
    alder, birch, *_ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    for number in range(12):
        alder.release(number, birch)
        web.pump()
    assert alder.core.witness.waiting()[birch.id][0] >= 10
    web.run(2 * BEAT)
    assert alder.core.witness.waiting() == {}
    assert web.frames(WantConsistency, "alder", "birch")
    assert alder.core.witness.forks() == {}


def test_more_heads_than_one_frame_can_prove_are_proven_one_page_after_the_other(
    world: World,
) -> None:
    alder, birch, *_ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    for number in range(150):
        alder.release(number, birch)
        web.pump()
    web.run(2 * BEAT)
    assert alder.core.witness.waiting() == {}
    assert len(web.frames(Consistency, "birch", "alder")) >= 3


# --- a dishonest log ---------------------------------------------------------------------------
class Twin:
    """A second history of a node, from a copy of its home: what a dishonest operator can make."""

    def __init__(self, station: Station, folder: Path) -> None:
        station.close()
        home = replace(station.home, path=folder / "twin" / station.name)
        shutil.copytree(station.home.path, home.path)
        self.station = Station(home, station.secrets, station.clock, station.random)
        station.open()
        self.station.open()


@pytest.mark.parametrize("ahead", [0, 7], ids=["same size", "one is longer"])
def test_a_log_that_shows_two_views_is_caught_by_the_two_who_saw_them(
    world: World, tmp_path: Path, ahead: int
) -> None:
    alder, birch, cedar, _ = four(world)
    alder.release(1, birch, cedar)
    for reader in (birch, cedar):
        pass_on(alder, reader)
    twin = Twin(alder, tmp_path).station
    for number in range(ahead):
        with twin.core.logged():
            twin.core.log.append([Act(EntryKind.HEARTBEAT, bytes([number]) * 32)])
    for view, witness in ((alder, birch), (twin, cedar)):
        _, note = offer(view)
        assert cosign(witness, format_add_checkpoint(AddCheckpoint(0, (), note)))[0] == 200
    web = Web(twin, birch, cedar)
    web.link("birch", "cedar")
    web.link("alder", "cedar")  # its operator goes on showing the second view to the second reader
    web.run(TALK)
    for station in (birch, cedar):
        evidence = station.core.witness.forks()
        assert set(evidence) == {alder.id}, "nobody else is accused"
        for proof in evidence[alder.id]:
            verify_log_fork(parse_log_fork(proof), logs=[alder.core.card.log])
        assert EntryKind.EQUIVOCATION in station.kinds()
        assert "alder" in station.notices()["log-fork"]
        assert station.core.verify()
    twin.close()


def test_a_whole_log_rewritten_by_its_operator_is_refused_by_its_witnesses(
    world: World,
) -> None:
    alder, birch, *_ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(BEAT)
    recorded = birch.core.store.row("SELECT * FROM witnessed WHERE node_id = ?", alder.id)
    assert recorded is not None
    size = recorded["size"] + 5
    leaves = [merkle.leaf_hash(bytes([n])) for n in range(size)]
    tiles: dict[tuple[int, int], bytes] = {}

    class Reader:
        def read_tiles(self, keys: object) -> dict[tuple[int, int], bytes]:
            return tiles

    tiles.update({(lv, i): data for lv, i, data in merkle.grow(
        size=0, new_leaves=leaves, reader=Reader())})  # fmt: skip
    keys = alder.core.keys
    note = sign_checkpoint(
        Checkpoint(alder.core.card.log.name, size, merkle.root(size, Reader())),
        ed25519=keys.log_ed25519,
        mldsa44=keys.log_mldsa44,
        now_s=world.clock.now() // 1_000,
    )
    path = merkle.prove_prefix(recorded["size"], size, Reader())
    request = format_add_checkpoint(AddCheckpoint(recorded["size"], path, note))
    web.say("alder", "birch", Cosign(request))
    answers = web.frames(Cosigned, "birch", "alder")
    assert answers[-1].status == 422
    assert birch.core.store.row("SELECT * FROM witnessed WHERE node_id = ?", alder.id) == recorded
    assert set(birch.core.witness.forks()) == {alder.id}, "and it proved the rewriting itself"


def test_who_only_claims_that_a_log_is_forked_convinces_nobody(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    alder.release(1, birch, cedar)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    web.run(2 * BEAT)
    seen = birch.core.store.row("SELECT * FROM witnessed WHERE node_id = ?", alder.id)
    assert seen is not None
    web.say("cedar", "birch", Heads(((alder.id, seen["size"], bytes(32)),)))
    assert web.frames(WantHead, "birch", "cedar") == [WantHead(alder.id, seen["size"])]
    web.say("cedar", "birch", Heads(((alder.id, seen["size"] - 1, bytes(32)),)))
    web.run(2 * BEAT)
    assert birch.core.witness.forks() == {}
    assert birch.core.witness.waiting() == {}, "the log itself refuted it"


def test_evidence_of_nothing_counts_against_its_bringer(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(birch, cedar)
    web.link("birch", "cedar")
    web.say("cedar", "birch", LogForked(alder.id, b"\x00"))
    assert birch.core.witness.forks() == {}
    assert birch.core.witness is not None
    assert web["birch"].gossip.metrics.render().find(b'log_refused_total{peer="cedar"} 1') > 0


def test_an_auditor_of_heads_learns_nothing_of_nodes_outside_its_streams(world: World) -> None:
    alder, birch, cedar, dogwood = four(world)
    alder.release(1, birch, cedar)
    web = Web(alder, birch, cedar, dogwood)
    web.link("alder", "birch", "cedar", "dogwood")
    web.run(TALK + BEAT)
    for giver, taker in (("birch", "dogwood"), ("dogwood", "birch"), ("alder", "dogwood")):
        assert web.frames(Heads, giver, taker) == []
    named = {item[0] for frame in web.frames(Heads, "birch", "cedar") for item in frame.items}
    assert named == {alder.id}
    web.say("dogwood", "birch", WantHead(alder.id, 1))
    assert not [f for f in web.frames(Head, "birch", "dogwood") if f.node_id == alder.id]


# --- a log that was set back -------------------------------------------------------------------
def test_a_node_set_back_signs_nothing_and_is_led_to_a_new_log(
    world: World, tmp_path: Path
) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    alder.release(1, birch, cedar)
    web.run(2 * BEAT)
    web.stop("alder")
    copy = shutil.copytree(alder.home.path, tmp_path / "copy")
    web.start(alder)
    web.link("alder", "birch", "cedar")
    alder.release(2, birch, cedar)
    web.run(2 * BEAT)
    far = alder.core.log.signed_size
    web.stop("alder")
    shutil.rmtree(alder.home.path)
    shutil.copytree(copy, alder.home.path)
    web.start(alder)
    signed = alder.core.log.signed_size
    with pytest.raises(BusyError, match="whether its log is whole"):
        alder.core.heartbeat()
    with pytest.raises(LogBehindError, match=f"{far} entries"):
        web.link("alder", "birch")
    assert alder.core.log.signed_size == signed < far
    web.stop("alder")
    with pytest.raises(RollbackError, match="old copy"):
        alder.open()
    alder.open(reopen=True)
    name = alder.core.log.origin
    assert name.endswith("/log2")
    assert alder.core.verify()
    act = alder.core.store.row(
        "SELECT local FROM entries WHERE kind = ? ORDER BY idx DESC LIMIT 1",
        int(EntryKind.LOG_OPENED),
    )
    assert act is not None
    assert str(far).encode() in repr(act).encode() or far.to_bytes(1, "big") in act["local"]
    web.start(web_closed(alder))
    web.link("alder", "birch", "cedar")
    web.run(3 * BEAT)
    found = alder.core.cosigning.cosigned()
    assert found is not None
    assert parse_body(parse_note(found[1]).text).origin == name
    for station in (alder, birch, cedar):
        assert station.core.witness.forks() == {}, "nothing inconsistent was ever signed"
        assert station.core.verify()
    assert "new log" in birch.notices()["log-reopened"]


def test_who_still_names_the_old_log_of_a_node_that_began_a_new_one_is_not_blamed(
    world: World,
) -> None:
    alder, birch, cedar, _ = four(world)
    alder.release(1, birch, cedar)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    web.run(2 * BEAT)
    web.cut("alder", "cedar")
    web.start(web.stop("alder"), reopen=True)
    web.link("alder", "birch")
    web.run(2 * BEAT)
    seen = cedar.core.store.row("SELECT * FROM witnessed WHERE node_id = ?", alder.id)
    now = birch.core.store.row(
        "SELECT * FROM witnessed WHERE node_id = ? ORDER BY at DESC", alder.id
    )
    assert seen is not None
    assert now is not None
    assert seen["origin"] != now["origin"]
    # As if the two logs had come apart at that size.
    for size, root in ((now["size"], bytes(32)), (seen["size"], seen["root"])):
        web.say("cedar", "birch", Heads(((alder.id, size, root),)))
    web.run(TALK)
    for station in (birch, cedar):
        assert station.core.witness.forks() == {}
    assert b"log_refused_total{" not in web["birch"].gossip.metrics.render()
    assert web.linked("birch", "cedar")


def test_without_any_peer_the_node_signs_again_after_a_while(world: World) -> None:
    alder, birch, *_ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(BEAT)
    web.stop("birch")
    web.restart("alder")
    with alder.core.logged():
        alder.core.log.append([Act(EntryKind.HEARTBEAT, bytes(32))])
    assert alder.core.log.signed_size < alder.core.log.size
    web.run(START_MS // 1_000 + 1)
    assert alder.core.log.signed_size == alder.core.log.size


def test_a_full_disk_puts_the_beat_off(world: World) -> None:
    alder, birch, *_ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    with full_disk(alder):
        web.run(BEAT)
        before = alder.core.log.size
    web.run(2 * BEAT)
    assert alder.core.log.size > before
    assert web.linked("alder", "birch")


# --- reading a peer's log ----------------------------------------------------------------------
def test_a_peer_can_read_hash_tiles_but_no_entries(world: World) -> None:
    alder, birch, *_ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    size = alder.core.log.signed_size
    for path in ("checkpoint", f"tile/0/000.p/{size}", f"tile/entries/000.p/{size}", "../fence"):
        web.say("birch", "alder", WantLog(path))
    parts = {frame.path: frame.body for frame in web.frames(LogPart, "alder", "birch")}
    assert size_of(parts["checkpoint"]) == size
    assert len(parts[f"tile/0/000.p/{size}"]) == 32 * size
    assert parts[f"tile/entries/000.p/{size}"] == parts["../fence"] == b""


# --- auditing ----------------------------------------------------------------------------------
def audit(web: Web, by: str, peer: str) -> dict[str, bool | None]:
    """Let one node audit the log of another, to the end; return its checks by name."""
    witnessing = web[by].gossip.witnessing
    view = LogView(
        web[by].core, clock=web.clock, name=lambda node_id: node_id.hex(), read=witnessing.read,
        stop_reading=witnessing.stop_reading, linked=lambda: frozenset(web[by].gossip.links),
    )  # fmt: skip
    known = web[by].core.trust.peer(web[peer].station.id)
    view.audit(known)
    web.pump()
    row = view.audited(known)
    assert not row["running"]
    assert row["ok"] is all(check["ok"] is not False for check in row["checks"])
    return {check["check"]: check["ok"] for check in row["checks"]}


@pytest.mark.parametrize("entries", [0, 600])
def test_an_honest_log_passes_an_audit(world: World, entries: int) -> None:
    alder, birch, *_ = four(world)
    with birch.core.logged():
        birch.core.log.append([Act(EntryKind.HEARTBEAT, bytes(32)) for _ in range(entries)])
    web = Web(alder, birch)
    web.link("alder", "birch")
    for number in range(20):
        alder.release(number, birch)
        web.pump()
    web.run(2 * BEAT)
    alder.release(21, birch)
    web.pump()
    assert audit(web, "alder", "birch") == {
        "checkpoint signed by both log keys": True,
        "whole log read": True,
        "tree leads to the checkpoint": True,
        "all heads seen before fit": True,
        "receipts stand in the log": True,
        "no proof that it contradicts itself": True,
    }
    web.run(2 * BEAT)
    assert alder.core.witness.forks() == {}


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("replaced", ["all heads seen before fit", "no proof that it contradicts itself"]),
        ("deleted", ["all heads seen before fit", "receipts stand in the log"]),
        ("edited", ["receipts stand in the log"]),
        ("tile", ["tiles fit the leaves"]),
        ("missing tile", ["whole log read"]),
        ("signature", ["checkpoint signed by both log keys"]),
    ],
)
def test_an_audit_names_what_was_done_to_a_log(
    world: World, what: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, *_ = four(world)
    with birch.core.logged():
        birch.core.log.append([Act(EntryKind.HEARTBEAT, bytes(32)) for _ in range(600)])
    web = Web(alder, birch)
    web.link("alder", "birch")
    alder.release(1, birch)
    web.pump()
    entry = birch.kinds().index(EntryKind.RECEIVED)
    leaves = [
        merkle.leaf_hash(row["entry"])
        for row in birch.core.store.rows("SELECT entry FROM entries ORDER BY idx")
    ]
    if what == "replaced":
        leaves[3] = bytes(32)
    elif what == "deleted":
        del leaves[3]
    elif what == "edited":
        leaves[entry] = bytes(32)
    forged = Rewritten(birch, leaves, cut=what == "missing tile", bend=what == "tile")
    if what == "signature":
        note = parse_note(forged.note)
        forged.note = format_note(replace(note, signatures=note.signatures[:1]))
    monkeypatch.setattr("node.witnessing.LogFiles", lambda log, head: forged)
    if what == "deleted":
        world.clock.advance(FRESH_MS + 1)
    if what == "edited":
        # It is too late for the head that was signed over the true entry to be forgotten.
        alder.core.store.run("DELETE FROM peer_heads")
        monkeypatch.setattr("node.audit.remember", no_heads)
    checks = audit(web, "alder", "birch")
    assert [name for name, ok in checks.items() if ok is False] == names


def no_heads(peer: Peer, store: Store, *, before: int) -> dict[str, Seen]:
    """Stand for an auditor that has kept the receipts alone."""
    seen = remember(peer, store, before=before)
    for each in seen.values():
        each.heads.clear()
        each.floor = 0
    return seen


class Rewritten:
    """The files of a log with other leaves, signed by its owner."""

    def __init__(self, station: Station, leaves: list[bytes], *, cut: bool, bend: bool) -> None:
        self._tiles: dict[tuple[int, int], bytes] = {}
        self._cut = cut
        grown = merkle.grow(size=0, new_leaves=leaves, reader=self)
        self._tiles.update({(level, index): data for level, index, data in grown})
        keys, size = station.core.keys, len(leaves)
        self.note = sign_checkpoint(
            Checkpoint(station.core.card.log.name, size, merkle.root(size, self)),
            ed25519=keys.log_ed25519,
            mldsa44=keys.log_mldsa44,
            now_s=station.clock.now() // 1_000,
        )
        if bend:
            self._tiles[1, 0] = bytes(32) + self._tiles[1, 0][32:]

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        return self._tiles

    def resolve(self, path: str) -> Resource:
        if path == "checkpoint":
            return Resource(self.note, "text/plain", immutable=False)
        tile = parse_tile_path(path)
        if self._cut and tile.index == 1:
            raise NotFoundError("there is no such tile")
        assert tile.level is not None
        return Resource(self._tiles[tile.level, tile.index][: 32 * tile.width], "", immutable=True)


def test_an_audit_of_a_peer_that_leaves_ends(world: World) -> None:
    alder, birch, *_ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    witnessing = web["alder"].gossip.witnessing
    view = LogView(
        alder.core, clock=web.clock, name=lambda node_id: node_id.hex(), read=witnessing.read,
        linked=lambda: frozenset(web["alder"].gossip.links),
    )  # fmt: skip
    known = alder.core.trust.peer(birch.id)
    assert view.audit(known)["running"]
    web.cut("alder", "birch")
    row = view.audited(known)
    assert (row["running"], row["ok"]) == (False, False)
    with pytest.raises(ConflictError, match="not linked"):
        view.audit(known)
