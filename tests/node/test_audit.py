"""Audits of peers' logs: over the beginning of a new log, of liars, and of who does not answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.audit import PATIENCE_MS
from node.cli.doctor import _contradictions
from node.log import Act
from node.logview import LogView
from node.openings import own_openings, parse_openings
from node.tiles import LogFiles
from node.witness import make_fork
from node.witnessing import Witnessing
from protocol import limits, merkle
from protocol.canonical import decode, encode
from protocol.checkpoint import Checkpoint, sign_checkpoint
from protocol.entry import EntryKind, local_digest, make_entry, parse_entry
from protocol.errors import NotFoundError, PeerError
from protocol.log_frames import LogForked, LogPart
from protocol.witness import AddCheckpoint, format_add_checkpoint
from tests.node.factories import Station, World, copied, made_once
from tests.node.test_witnessing import BEAT, Twin, cosign, four, offer, size_of
from tests.node.wiring import Web

CONTINUED = "old log goes on in the new one"
LOST = "nothing of the old log is lost"
READ = "whole log read"
HEADS = "all heads seen before fit"
RECEIPTS = "receipts stand in the log"
UNFORKED = "no proof that it contradicts itself"
DAY = 86_400_000


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as each:
        yield each


class Auditor:
    """One node that audits another over a link."""

    def __init__(self, web: Web, by: str, peer: str) -> None:
        self.web, self.by = web, by
        witnessing = web[by].gossip.witnessing
        self.view = LogView(
            web[by].core, clock=web.clock, name=lambda node_id: node_id.hex(),
            read=witnessing.read, stop_reading=witnessing.stop_reading,
            linked=lambda: frozenset(web[by].gossip.links),
        )  # fmt: skip
        self.peer = web[by].core.trust.peer(web[peer].station.id)

    def begin(self) -> None:
        self.view.audit(self.peer)
        self.web.pump()

    def details(self) -> dict[str, str]:
        """Return what it says of each check."""
        return {row["check"]: row["detail"] for row in self.view.audited(self.peer)["checks"]}

    def found(self) -> dict[str, bool | None]:
        """Audit to the end; return the checks by name."""
        self.begin()
        row = self.view.audited(self.peer)
        assert not row["running"]
        assert row["ok"] is all(check["ok"] is not False for check in row["checks"])
        return {check["check"]: check["ok"] for check in row["checks"]}

    def failed(self) -> set[str]:
        return {name for name, ok in self.found().items() if ok is False}


def linked(world: World) -> Web:
    """Let Birch give receipts to Alder, and all cosign."""
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    for number in range(8):
        alder.release(number, birch)
        web.pump()
    web.run(2 * BEAT)
    return web


def begin_anew(web: Web, change: Callable[[Station], None] = lambda birch: None) -> None:
    """Stop Birch, let its operator *change* what it holds, and begin a new log."""
    birch = web.stop("birch")
    birch.open()
    change(birch)
    birch.close()
    web.start(birch, reopen=True)
    web.link("alder", "birch")
    web.run(2 * BEAT)


def date_back(birch: Station) -> None:
    """Set the arrival of an entry back by 200 days, in row, entry, tile and above."""
    core, store = birch.core, birch.core.store
    row = store.row("SELECT * FROM entries WHERE kind = ? LIMIT 1", int(EntryKind.RECEIVED))
    assert row is not None
    index = row["idx"]
    fields: Any = decode(row["local"], max_bytes=limits.MAX_HEADER)
    fields[5] -= 200 * DAY
    local, parsed = encode(fields), parse_entry(row["entry"])
    entry = make_entry(
        parsed.kind, parsed.subject, local_commitment=local_digest(local, row["local_blind"]),
        blind=parsed.blind,
    )  # fmt: skip
    leaf, old = merkle.leaf_hash(entry), merkle.leaf_hash(row["entry"])
    data = store.scalar("SELECT data FROM tiles WHERE level = 0 AND idx = 0")
    with store.transaction():
        store.run("UPDATE entries SET entry = ?, local = ? WHERE idx = ?", entry, local, index)
        store.run(
            "UPDATE envelopes SET arrived = arrived - ? WHERE log_index = ?", 200 * DAY, index
        )
        store.run("UPDATE tiles SET data = ? WHERE level = 0 AND idx = 0", data.replace(old, leaf))
        for table in ("cosigned", "cosignatures", "head_times"):
            store.run(f"DELETE FROM {table} WHERE size > ?", index)
    assert core.log.size < merkle.TILE_WIDTH, "there is one tile"


# --- over a new log ----------------------------------------------------------------------------
def test_a_log_that_goes_on_under_a_new_name_passes_with_what_the_old_one_gave(
    world: World,
) -> None:
    web = linked(world)
    begin_anew(web)
    auditor = Auditor(web, "alder", "birch")
    found = auditor.found()
    assert auditor.details()[RECEIPTS] == "8 compared"
    assert found == {
        "checkpoint signed by both log keys": True, CONTINUED: True, READ: True,
        "tree leads to the checkpoint": True, HEADS: True, RECEIPTS: True, UNFORKED: True,
    }  # fmt: skip
    world["alder"].release(99, world["birch"])
    web.pump()
    begin_anew(web)
    begin_anew(web)
    assert Auditor(web, "alder", "birch").failed() == set()


def test_a_log_that_is_rewritten_and_begun_anew_is_found_by_whom_it_gave_a_receipt(
    world: World,
) -> None:
    web = linked(world)
    begin_anew(web, date_back)
    auditor = Auditor(web, "alder", "birch")
    assert auditor.failed() == {HEADS, RECEIPTS}
    origin = world["birch"].core.log.origin.removesuffix("2")
    assert auditor.details()[RECEIPTS].startswith(f"as {origin} a receipt was given for entry")
    web.link("cedar", "birch")
    cedar = Auditor(web, "cedar", "birch")
    assert cedar.failed() == {HEADS}, "it cosigned the old head"


def test_what_a_new_log_left_behind_is_told_and_blamed_on_nobody(
    world: World, tmp_path: Path
) -> None:
    web = linked(world)
    early = Twin(web.stop("birch"), tmp_path).station
    early.close()
    web.start(closed(world["birch"]))
    web.link("alder", "birch")
    for number in range(20, 23):
        world["alder"].release(number, world["birch"])
        web.pump()
    web.run(2 * BEAT)
    web.stop("birch")
    web.start(early, reopen=True)
    web.link("alder", "birch")
    auditor = Auditor(web, "alder", "birch")
    found = auditor.found()
    assert {name for name, ok in found.items() if ok is False} == set()
    assert found[LOST] is None
    assert "3 of which it gave a receipt" in auditor.details()[LOST]


def closed(station: Station) -> Station:
    station.close()
    return station


@pytest.mark.parametrize("what", ["nothing", "junk", "less", "another"])
def test_what_a_log_says_of_its_beginning_has_to_stand_in_it(
    world: World, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = linked(world)
    begin_anew(web)
    birch = world["birch"]
    true: Any = decode(own_openings(birch.core.store), max_bytes=limits.MAX_LOG_PART)
    index, entry, _, blind = true[0]
    parsed = parse_entry(entry)
    local = encode([birch.core.log.origin.removesuffix("2"), 3, bytes(32), 3])
    lie = make_entry(
        EntryKind.LOG_OPENED, opened(birch.core.log.origin, local),
        local_commitment=local_digest(local, blind), blind=parsed.blind,
    )  # fmt: skip
    said = {
        "nothing": encode([]),
        "junk": b"\xc1",
        "less": encode([[3, lie, local, blind]]),
        "another": encode([[index - 1, *true[0][1:]]]),
    }[what]
    monkeypatch.setattr("node.witnessing.own_openings", lambda store: said)
    web[birch.name].gossip.witnessing._openings = b""
    assert Auditor(web, "alder", "birch").failed() == {CONTINUED}


def opened(origin: str, local: bytes) -> bytes:
    return hashlib.sha256(b"picket/1/log-opened\0" + origin.encode() + local).digest()


def test_openings_have_one_form(world: World) -> None:
    web = linked(world)
    assert parse_openings(own_openings(world["birch"].core.store)) == ()
    begin_anew(web)
    begin_anew(web)
    data = own_openings(world["birch"].core.store)
    first, second = parse_openings(data)
    assert second.opens(world["birch"].core.log.origin)
    assert (first.old, first.index < second.index) == (world["birch"].core.log.origin[:-1], True)
    value: Any = decode(data, max_bytes=limits.MAX_LOG_PART)
    others: list[object] = [[*reversed(value)], [value[0]] * 2, [[*value[0], 0]], [[]], {}]
    for other in others:
        with pytest.raises(PeerError):
            parse_openings(encode(other))


# --- liars -------------------------------------------------------------------------------------
def speak(monkeypatch: pytest.MonkeyPatch, change: Callable[[str, bytes], list[LogPart]]) -> None:
    """Let all nodes answer otherwise than their logs are."""

    def send(self: Witnessing, line: object, path: str) -> None:
        try:
            body = LogFiles(self._core.log, head=self._core.cosigning.shown).resolve(path).body
        except NotFoundError:
            body = b""
        for part in change(path, body):
            self._say(line, part)  # type: ignore[arg-type]

    monkeypatch.setattr(Witnessing, "_send_part", send)


@pytest.mark.parametrize("size", [limits.MAX_AUDIT_ENTRIES + 1, 2**40, 2**48 - 1])
def test_a_size_that_no_honest_log_has_is_refused_before_a_tile_is_asked_for(
    world: World, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = linked(world)
    asked: list[str] = []
    keys = world["birch"].core.keys
    note = sign_checkpoint(
        Checkpoint(world["birch"].core.log.origin, size, bytes(32)),
        ed25519=keys.log_ed25519, mldsa44=keys.log_mldsa44, now_s=web.clock.now() // 1_000,
    )  # fmt: skip

    def lie(path: str, body: bytes) -> list[LogPart]:
        asked.append(path)
        return [LogPart(path, note)]

    speak(monkeypatch, lie)
    auditor = Auditor(web, "alder", "birch")
    assert auditor.failed() == {READ}
    assert f"it claims {size} entries" in auditor.details()[READ]
    assert asked == ["checkpoint"]


def test_an_audit_of_the_largest_log_that_is_read_begins_at_once_and_keeps_little(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = linked(world)
    keys, size = world["birch"].core.keys, limits.MAX_AUDIT_ENTRIES
    note = sign_checkpoint(
        Checkpoint(world["birch"].core.log.origin, size, bytes(32)),
        ed25519=keys.log_ed25519, mldsa44=keys.log_mldsa44, now_s=web.clock.now() // 1_000,
    )  # fmt: skip
    speak(monkeypatch, lambda path, body: [LogPart(path, note)] if path == "checkpoint" else [])
    auditor = Auditor(web, "alder", "birch")
    auditor.begin()
    row = auditor.view.audited(auditor.peer)
    assert (row["running"], row["total"]) == (True, 2**20 + 2**12 + 2**4 + 1)
    audit = auditor.view._audits[auditor.peer.node_id]
    leaves = bytes(merkle.TILE_WIDTH * merkle.HASH_SIZE)
    for index in range(600):
        path = f"tile/0/{index:03}"
        if audit._asked[0] == f"tile/1/{index // 256 - 1:03}":
            audit._take(audit._asked[0], merkle.tile_root(leaves) * 256)
        audit._take(path, leaves)
        assert sum(map(len, audit._upper.values())) <= 2 * merkle.TILE_WIDTH * merkle.HASH_SIZE
    assert audit.done == 602
    assert not audit.over


def test_a_damaged_tile_is_no_accusation_however_often_it_is_audited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = linked(world)

    def flip(path: str, body: bytes) -> list[LogPart]:
        flipped = body if path == "checkpoint" else body[:5] + bytes([body[5] ^ 1]) + body[6:]
        return [LogPart(path, flipped)]

    with monkeypatch.context() as patch:
        speak(patch, flip)
        for _ in range(3):
            auditor = Auditor(web, "alder", "birch")
            assert auditor.failed() == {"tree leads to the checkpoint"}
            assert auditor.details()["tree leads to the checkpoint"] == (
                "its leaves give another root"
            )
    assert Auditor(web, "alder", "birch").failed() == set()
    web.run(2 * BEAT)
    assert world["alder"].core.witness.forks() == {}


# --- who does not answer -----------------------------------------------------------------------
ANSWERS: dict[str, Callable[[str, bytes], list[LogPart]]] = {
    "silent": lambda path, body: [],
    "half": lambda path, body: [LogPart(path, body)] if path == "checkpoint" else [],
    "other path": lambda path, body: [LogPart("tile/0/999", bytes(32))],
    "flood": lambda path, body: [LogPart("tile/0/998", b"z" * 100) for _ in range(50)],
}


@pytest.mark.parametrize("how", ANSWERS)
def test_an_audit_of_who_does_not_answer_ends_by_itself_and_the_next_one_works(
    world: World, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = linked(world)
    with monkeypatch.context() as patch:
        speak(patch, ANSWERS[how])
        auditor = Auditor(web, "alder", "birch")
        auditor.begin()
        assert auditor.view.audited(auditor.peer)["running"]
        web.clock.advance(PATIENCE_MS + 1)
        row = auditor.view.audited(auditor.peer)
        assert (row["running"], row["ok"]) == (False, False)
        assert auditor.details()[READ] == "it has not answered for 60 s"
        auditor.begin()
        web.clock.advance(PATIENCE_MS + 1)
    assert auditor.failed() == set(), "it is asked anew, without being looked at between"


def test_who_answers_ever_so_slowly_does_not_hold_an_audit_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = linked(world)
    waiting: list[tuple[Witnessing, object, str]] = []
    monkeypatch.setattr(
        Witnessing, "_send_part", lambda self, line, path: waiting.append((self, line, path))
    )
    with world["birch"].core.logged():
        world["birch"].core.log.append(beats(3_000))
    world["birch"].core.seal()
    world["birch"].core.cosigning.offer()
    auditor = Auditor(web, "alder", "birch")
    auditor.begin()
    steps = 0
    while auditor.view.audited(auditor.peer)["running"]:
        steps += 1
        web.clock.advance(PATIENCE_MS - 1_000)
        sender, line, path = waiting.pop(0)
        body = LogFiles(sender._core.log).resolve(path).body
        sender._say(line, LogPart(path, body))  # type: ignore[arg-type]
        web.pump()
    assert steps < 4
    assert "too slowly" in auditor.details()[READ]


def test_an_audit_ends_with_the_link_though_there_is_a_new_one_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = linked(world)
    with monkeypatch.context() as patch:
        speak(patch, ANSWERS["silent"])
        auditor = Auditor(web, "alder", "birch")
        auditor.begin()
    web.cut("alder", "birch")
    web.link("alder", "birch")
    web.clock.advance(PATIENCE_MS + 1)
    assert auditor.failed() == set()


# --- what is proven against a log --------------------------------------------------------------
def forked(world: World, tmp_path: Path) -> tuple[Web, Station]:
    """Let somebody sign a second history with the keys of Birch; Alder has the proof."""
    alder, birch, cedar, _ = four(world)
    alder.release(1, birch, cedar)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    web.run(2 * BEAT)
    thief = Twin(web.stop("birch"), tmp_path).station
    web.start(closed(birch))
    with birch.core.logged():
        birch.core.log.append(beats(1, b"b"))
    with thief.core.logged():
        thief.core.log.append(beats(1, b"t"))
    birch.core.signing_waits = False  # as after half a minute
    size, note = offer(birch)
    old = size_of(alder.core.witness.head_of(birch.id))
    proof = birch.core.log.prove_consistency(old, size)
    assert cosign(alder, format_add_checkpoint(AddCheckpoint(old, proof, note)))[0] == 200
    _, second = offer(thief)
    assert size_of(second) == size
    with alder.core.logged():
        alder.core.witness.saw_head(birch.id, second)
    assert set(alder.core.witness.forks()) == {birch.id}
    return web, thief


def beats(count: int, name: bytes = b"") -> list[Act]:
    return [
        Act(EntryKind.HEARTBEAT, hashlib.sha256(name + bytes([n % 256])).digest())
        for n in range(count)
    ]


def test_a_log_that_is_proven_to_contradict_itself_does_not_hold_together(
    world: World, tmp_path: Path
) -> None:
    web, thief = forked(world, tmp_path)
    web.link("alder", "birch")
    assert UNFORKED in Auditor(web, "alder", "birch").failed()
    thief.close()


def test_doctor_names_logs_that_contradict_themselves(world: World, tmp_path: Path) -> None:
    web, thief = forked(world, tmp_path)
    alder, birch = world["alder"], world["birch"]
    (found,) = _contradictions(alder.service().logs.standing())
    assert (found.name, found.ok) == ("log of birch", False)
    web.link("alder", "birch")
    (own,) = _contradictions(birch.service().logs.standing())
    assert (own.name, own.ok) == ("own log", False)
    (none,) = _contradictions(world["cedar"].service().logs.standing())
    assert none.ok
    thief.close()


def test_a_node_whose_keys_sign_a_second_history_hears_of_it(world: World, tmp_path: Path) -> None:
    web, thief = forked(world, tmp_path)
    birch = world["birch"]
    web.link("alder", "birch")
    assert [frame.node_id for frame in web.frames(LogForked, "alder", "birch")] == [birch.id]
    assert EntryKind.EQUIVOCATION in birch.kinds()
    assert "contradicts itself" in birch.notices()["own-log-fork"]
    seen = birch.service().logs
    assert seen.standing()["own_contradiction"] is True
    assert seen.own_fork()["first"].startswith(birch.core.log.origin)
    assert birch.core.verify()
    web.cut("alder", "birch")
    web.link("alder", "birch")
    assert birch.kinds().count(EntryKind.EQUIVOCATION) == 1, "known already"
    thief.close()


def test_it_hears_of_it_at_once_if_it_is_linked(world: World, tmp_path: Path) -> None:
    web, thief = forked(world, tmp_path)
    alder, birch = world["alder"], world["birch"]
    with alder.core.store.transaction():
        alder.core.store.run("DELETE FROM log_forks")
    web.link("alder", "birch")
    assert "own-log-fork" not in birch.notices()
    _, second = thief.core.log.checkpoint()
    first = alder.core.witness.note_of(birch.id, size_of(second))
    with alder.core.logged():
        fork = alder.core.witness.keep_fork(birch.id, make_fork(first, second, ()))
    assert fork is not None
    web["alder"].gossip.witnessing.alarm([fork])
    web.pump()
    assert "own-log-fork" in birch.notices()
    thief.close()


def test_after_a_new_log_the_old_contradiction_is_no_notice_any_more(
    world: World, tmp_path: Path
) -> None:
    web, thief = forked(world, tmp_path)
    web.link("alder", "birch")
    assert "own-log-fork" in world["birch"].notices()
    begin_anew(web)
    assert "own-log-fork" not in world["birch"].notices()
    assert world["birch"].service().logs.standing()["own_contradiction"] is False
    assert "log-fork" in world["alder"].notices(), "what was proven stays proven"
    thief.close()
