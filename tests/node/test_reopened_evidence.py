"""Evidence, receipts and times over the beginning of a new log, also on what is left of an old one.

Birch is the node that begins a new log; its witnesses are the others.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from node import delivery
from node.cli.main import _made, app
from node.clock import rfc3339
from node.evidence import anchor_note, best_checkpoint
from node.logview import LogView
from node.stamps import read_stamp
from protocol import evidence_zip as zips
from protocol.checkpoint import parse_body
from protocol.delivery_statement import (
    Delivered,
    Report,
    check_statement,
    make_statement,
    recipient_bundle,
    verify_delivery,
)
from protocol.errors import LogBehindError, PeerError
from protocol.evidence import Expected, holds
from protocol.evidence_files import format_manifest, parse_access, parse_manifest, sign_manifest
from protocol.frames import encode_frame
from protocol.note import format_note, parse_note
from protocol.policy import parse_policy
from protocol.statement import make_bundle, verify_bundle
from protocol.tlog_proof import parse_tlog_proof, verify_tlog_proof
from tests.node.factories import (
    MINUTE,
    PASSPHRASE,
    Station,
    World,
    copied,
    give,
    hand,
    made_once,
    pass_on,
)
from tests.node.test_evidence import OPENSSL, check, cosign, export, failed, make_authority, read
from tests.node.wiring import Web

Files = Mapping[str, bytes]


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as each:
        yield each


def begin_anew(world: World) -> str:
    """Let Birch begin a new log and tell the others its card; return the name of the new log."""
    birch = world["birch"]
    birch.close()
    birch.open(reopen=True)
    tell(birch, *(each for each in world if each is not birch))
    return birch.core.log.origin


def tell(station: Station, *others: Station) -> None:
    for other in others:
        wires = [statement.wire for statement in station.core.trust.own.statements]
        other.core.take_statements(station.id, wires)


def witnessed(world: World) -> None:
    """Let a majority of the others cosign the head of Birch's log."""
    cosign(world["birch"], world["alder"], world["cedar"])


def deliver(giver: Station, taker: Station, number: int) -> bytes:
    """Release an incident and deliver it; return the id of its envelope."""
    envelope_id = giver.release(number, taker)
    pass_on(giver, taker)
    taker.core.try_follow()
    return envelope_id


def origin_of(files: Files) -> str:
    return parse_body(parse_note(parse_tlog_proof(files[zips.PROOF]).checkpoint).text).origin


def made(station: Station, envelope_id: bytes) -> dict[str, object]:
    """Return the time bracket of an envelope."""
    held = station.core.store.envelope(envelope_id)
    header = station.core.header(envelope_id)
    assert held is not None
    assert header is not None
    names = {station.id: "us", **{p: each.name for p, each in station.core.trust.peers.items()}}
    view = LogView(station.core, clock=station.clock, name=names.__getitem__, read=None)
    return view.bracket(held["log_index"], header[1].anchor)


def relisted(files: Files, holder: Station, **changes: bytes) -> dict[str, bytes]:
    """Return *files* with members changed, listed and signed by their holder."""
    members = {name.partition(".")[0].replace("-", "_"): name for name in zips.MEMBERS}
    said = parse_manifest(files[zips.MANIFEST])
    chosen = {**files, **{members[name]: data for name, data in changes.items()}}
    chosen[zips.MANIFEST] = format_manifest(
        chosen, network=said.network, envelope_id=said.envelope_id, holder=said.holder, made=0,
        act=said.act,
    )  # fmt: skip
    chosen[zips.SIGNATURE] = sign_manifest(chosen[zips.MANIFEST], signer=holder.core.keys.link)
    return chosen


# --- the holder began a new log ----------------------------------------------------------------
def test_a_message_of_before_is_proven_under_the_old_name_and_one_of_after_under_the_new(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    first = deliver(alder, birch, 1)
    witnessed(world)
    old, before = birch.core.log.origin, made(birch, first)
    new = begin_anew(world)
    assert new == f"{old}2"
    second = deliver(alder, birch, 2)
    for cosigned in (False, True):
        if cosigned:
            witnessed(world)
        files = read(export(birch, first, content=True))
        found = check(files)
        assert holds(tuple(found.values())), failed(files)
        assert origin_of(files) == old
        assert found["quorum"].ok is True
        assert f"it goes on as {new}" in found["access"].detail
        assert made(birch, first) == before, "what was shown stays shown"
        files = read(export(birch, second))
        found = check(files)
        assert holds(tuple(found.values())), failed(files)
        assert origin_of(files) == new
        assert found["quorum"].ok is (True if cosigned else None)
        assert "goes on" not in found["access"].detail
        assert (made(birch, second)["not_after"] is not None) is cosigned
    assert birch.core.verify()


def test_after_a_second_new_log_all_three_names_are_in_use(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    sent, names = [], []
    for number in range(3):
        if number:
            begin_anew(world)
        sent.append(deliver(alder, birch, number))
        witnessed(world)
        names.append(birch.core.log.origin)
    assert len(set(names)) == 3
    for envelope_id, name in zip(sent, names, strict=True):
        files = read(export(birch, envelope_id))
        assert origin_of(files) == name
        assert not failed(files)
        assert check(files)["quorum"].ok is True
    times = [str(made(birch, each)["not_after"]) for each in sent]
    assert times == sorted(set(times))


def test_a_proof_file_of_a_message_of_before_verifies_by_the_policy_of_its_bundle(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    first = deliver(alder, birch, 1)
    witnessed(world)
    begin_anew(world)
    witnessed(world)
    row = birch.service().evidence.proof(first, who="operator")
    proof = parse_tlog_proof(row["tlog_proof"].encode())
    policy = parse_policy(read(export(birch, first))[zips.POLICY])
    found = verify_tlog_proof(proof, entry=bytes.fromhex(row["entry"]), policy=policy)
    assert found.not_after is not None
    assert rfc3339(found.not_after * 1_000) == made(birch, first)["not_after"]
    assert set(policy.cosigners(policy.witnesses)) == {"alder", "cedar", "dogwood"}, (
        "who had to cosign is told, not only who did"
    )


def test_a_message_of_before_that_nobody_cosigned_is_proven_under_the_new_name(
    world: World,
) -> None:
    birch = world["birch"]
    first = deliver(world["alder"], birch, 1)
    new = begin_anew(world)
    assert made(birch, first)["not_after"] is None
    witnessed(world)
    files = read(export(birch, first))
    assert origin_of(files) == new
    assert not failed(files)
    assert check(files)["quorum"].ok is True


def test_a_bundle_made_before_still_verifies(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first = deliver(alder, birch, 1)
    witnessed(world)
    files = read(export(birch, first, content=True))
    expected = Expected(holder=birch.id, author=alder.id, network="test.example")
    before = check(files, expected)
    begin_anew(world)
    witnessed(world)
    assert check(files, expected) == before
    assert not failed(files, expected)
    policy = parse_policy(read(export(birch, first))[zips.POLICY])
    assert not failed(files, Expected(policy=policy)), "and by the policy of today's bundles"


def test_the_next_witness_begins_at_nothing_under_the_new_name(world: World) -> None:
    birch, alder = world["birch"], world["alder"]
    witnessed(world)
    begin_anew(world)
    assert birch.core.cosigning.cosigned() is None
    assert not birch.core.cosigning.was_cosigned()
    standing = birch.core.cosigning.standing()
    assert (standing.size, standing.not_after, standing.cosigned) == (0, None, ())
    size = birch.core.heartbeat()
    request = birch.core.cosigning.request(alder.core.card.witness.name, size)
    assert request.startswith(b"old 0\n\n")


# --- a node that was set back --------------------------------------------------------------------
class SetBack:
    """Birch, put back from a copy with the first message; the second and a head went lost."""

    def __init__(self, world: World, folder: Path) -> None:
        alder, birch = world["alder"], world["birch"]
        self.first = deliver(alder, birch, 1)
        witnessed(world)
        birch.close()
        copy = shutil.copytree(birch.home.path, folder / "copy")
        birch.open()
        self.second = deliver(alder, birch, 2)
        witnessed(world)
        self.lost = read(export(birch, self.second))
        self.lost_size = birch.core.log.size
        # Names the lost head, which Alder has cosigned; Birch never got it.
        self.third = alder.release(3, birch)
        birch.close()
        shutil.rmtree(birch.home.path)
        shutil.copytree(copy, birch.home.path)
        birch.open()
        with pytest.raises(LogBehindError):
            birch.core.check_shown(alder.core.witness.head_of(birch.id))
        self.new = begin_anew(world)


@pytest.fixture
def set_back(world: World, tmp_path: Path) -> SetBack:
    return SetBack(world, tmp_path)


def test_what_is_left_is_proven_as_before(world: World, set_back: SetBack) -> None:
    birch = world["birch"]
    assert birch.core.log.size < set_back.lost_size
    files = read(export(birch, set_back.first))
    assert not failed(files)
    assert check(files)["quorum"].ok is True
    assert origin_of(files) == set_back.new.removesuffix("2")
    assert birch.core.store.envelope(set_back.second) is None
    assert birch.core.verify()


def test_what_was_lost_and_came_again_is_proven_under_the_new_name_alone(
    world: World, set_back: SetBack
) -> None:
    alder, birch = world["alder"], world["birch"]
    hand(alder, birch, set_back.second)
    assert made(birch, set_back.second)["not_after"] is None, "the lost head shows nothing here"
    witnessed(world)
    files = read(export(birch, set_back.second))
    assert origin_of(files) == set_back.new
    assert not failed(files)
    assert str(made(birch, set_back.second)["not_after"]) > check_time(set_back.lost)
    assert not failed(set_back.lost), "the bundle of before proves what it proved"


def check_time(files: Files) -> str:
    """Return the latest time that a bundle proves."""
    return check(files)["quorum"].detail.removeprefix("in the log at ")[:20]


def test_a_new_log_that_does_not_continue_the_old_one_is_not_shown_as_one_that_does(
    world: World, set_back: SetBack
) -> None:
    birch = world["birch"]
    hand(world["alder"], birch, set_back.second)
    files = read(export(birch, set_back.second))
    # The proof of what went lost, and the acts of the new log, which does not follow from that.
    lost = (zips.PROOF, zips.ENTRY, zips.LOCAL, zips.LOCAL_BLIND, zips.POLICY, zips.VKEYS)
    forged = {**files, **{name: set_back.lost[name] for name in lost}}
    # A bundle of what is left has the cards of both names.
    forged[zips.HOLDER] = read(export(birch, set_back.first))[zips.HOLDER]
    assert failed(relisted(forged, birch)) == {"access"}


def test_a_head_that_went_lost_dates_nothing_here_and_the_author_still_proves_it(
    world: World, set_back: SetBack
) -> None:
    alder, birch = world["alder"], world["birch"]
    anchor = alder.envelope(set_back.third).header.anchor
    assert anchor is not None
    assert (anchor.origin, anchor.size) == (set_back.new.removesuffix("2"), set_back.lost_size - 1)
    pass_on(alder, birch)
    said = made(birch, set_back.third)
    assert said["not_before"] is None
    assert said["anchor"] == {
        "origin": anchor.origin, "size": anchor.size, "owner": "us", "own": True,
    }  # fmt: skip
    assert made(alder, set_back.third)["anchor"] == {
        "origin": anchor.origin, "size": anchor.size, "owner": "birch", "own": False,
    }  # fmt: skip
    witnessed(world)
    assert anchor_note(birch.core, anchor) is None
    assert check(read(export(birch, set_back.third)))["anchor"].ok is None
    assert anchor_note(alder.core, anchor) is not None
    found = check(read(export(alder, set_back.third)))
    assert found["anchor"].ok is True, found["anchor"]
    assert holds(tuple(found.values()))


# --- receipts under an old name ------------------------------------------------------------------
def statement_of(author: Station, envelope_id: bytes) -> Report:
    data = delivery.make(
        author.core, author.core.presence, envelope_id, now=author.clock.now() + 10 * MINUTE
    )
    return check_statement(data, author=author.id)


def test_receipts_that_a_peer_gave_under_its_old_name_stay_proofs_of_delivery(
    world: World,
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    first = alder.release(1, birch, cedar)
    pass_on(alder, birch)
    pass_on(alder, cedar)
    assert statement_of(alder, first).holds
    begin_anew(world)
    files = read(export(alder, first))
    assert not failed(files)
    assert check(files)["receipts"].detail.startswith("2 receipts")
    report = statement_of(alder, first)
    assert report.genuine, [each for each in report.checks if not each.ok]
    assert report.holds
    second = deliver(alder, birch, 2)
    assert not failed(read(export(alder, second)))
    assert statement_of(alder, second).holds
    assert alder.core.verify()


def test_a_receipt_counts_under_the_log_that_it_names_and_under_no_other(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    first = deliver(alder, birch, 1)
    deliver(alder, cedar, 2)
    begin_anew(world)
    chain, network = alder.core.trust.peer(birch.id).chain, alder.core.trust.own.network
    (receipts,) = alder.core.receipts.held(first)
    item = Delivered(birch.id, encode_frame(receipts))
    kept = verify_bundle(recipient_bundle(chain, item), network=network)
    verify_delivery(item, envelope_id=first, chain=kept)
    newest_alone = verify_bundle(make_bundle(chain), network=network)
    with pytest.raises(PeerError):
        verify_delivery(item, envelope_id=first, chain=newest_alone)
    with pytest.raises(PeerError):
        verify_delivery(item, envelope_id=first, chain=alder.core.trust.peer(cedar.id).chain)
    statement, evidence = delivery.gather(
        alder.core, alder.core.presence, first, now=alder.clock.now()
    )
    without = type(evidence)(
        evidence.header, evidence.signature, evidence.audience, evidence.author,
        (make_bundle(chain),),
    )  # fmt: skip
    report = check_statement(make_statement(statement, without, signer=alder.core.keys.link))
    assert [each.name for each in report.checks if each.code] == ["receipts"]


def test_a_carrier_may_bring_a_receipt_that_was_given_under_the_old_name(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    witnessed(world)
    first = alder.release(1, birch, carriers=[cedar])
    alder.core.outbox.ask_carriers(frozenset({cedar.id}))
    pass_on(alder, cedar)
    pass_on(cedar, birch)
    begin_anew(world)
    web = Web(alder, cedar)
    web.link("alder", "cedar")
    assert alder.state(first, birch) == "received"
    assert b"picket_bad_signatures_total{" not in web["alder"].gossip.metrics.render()
    heads = alder.core.store.rows(
        "SELECT size FROM peer_heads WHERE node_id = ?1 AND source = ?1", birch.id
    )
    assert heads == [], "the old log proves nothing any more, so nothing waits for that"
    assert statement_of(alder, first).holds
    assert alder.core.verify()


# --- heads that were named -----------------------------------------------------------------------
def test_the_head_that_an_author_named_is_kept_when_the_next_is_cosigned(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    witnessed(world)
    first = deliver(alder, birch, 1)
    again = deliver(alder, birch, 2)
    named = alder.envelope(first).header.anchor
    assert named is not None
    assert alder.envelope(again).header.anchor == named
    before = anchor_note(alder.core, named)
    for _ in range(3):
        witnessed(world)
    assert alder.core.witness.note_of(birch.id, named.size) == b"", "the witness keeps the last"
    assert anchor_note(alder.core, named) == before
    assert alder.core.store.scalar("SELECT count(*) FROM anchors") == 1
    found = check(read(export(alder, first)))
    assert found["anchor"].ok is True, found["anchor"]
    alder.reopen()
    assert anchor_note(alder.core, named) == before


def test_nothing_is_kept_of_a_release_that_is_undone(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    witnessed(world)
    with pytest.raises(RuntimeError), alder.core.logged():
        alder.release(1, birch)
        raise RuntimeError
    assert alder.core.store.rows("SELECT * FROM anchors") == []


def test_a_head_of_an_old_name_still_gives_the_earliest_time_to_who_owned_it(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    witnessed(world)
    first = deliver(alder, birch, 1)
    witnessed(world)
    before = made(birch, first)
    assert before["not_before"] is not None
    begin_anew(world)
    witnessed(world)
    assert made(birch, first) == before
    found = check(read(export(birch, first)))
    assert found["anchor"].ok is True, found["anchor"]
    # The receipt is of the old log and the anchor, too: a receipt of the new one needs both cards.
    late = alder.release(2, birch)
    assert alder.envelope(late).header.anchor is not None
    pass_on(alder, birch)
    found = check(read(export(alder, late)))
    assert found["anchor"].ok is True, found["anchor"]


def test_a_receipt_under_the_new_name_brings_the_card_of_the_head_that_was_named(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    witnessed(world)
    sent = alder.release(1, birch)
    anchor = alder.envelope(sent).header.anchor
    assert anchor is not None
    new = begin_anew(world)
    assert anchor.origin != new
    pass_on(alder, birch)
    files = read(export(alder, sent))
    assert check(files)["receipts"].ok is True
    assert check(files)["anchor"].ok is True, check(files)["anchor"]


# --- time stamps ---------------------------------------------------------------------------------
def test_a_time_stamp_over_a_proof_of_before_goes_with_a_bundle_of_after(
    world: World, tmp_path: Path
) -> None:
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path / "tsa"
    folder.mkdir()
    authority = make_authority(folder, "Time")
    birch = world["birch"]
    first = deliver(world["alder"], birch, 1)
    proof = birch.service().evidence.proof(first, who="operator")["tlog_proof"].encode()
    stamp = authority.stamp(proof)
    new = begin_anew(world)
    witnessed(world)
    index = birch.core.store.envelope(first)
    assert index is not None
    assert best_checkpoint(birch.core, index["log_index"])[0] > 0
    files = read(export(birch, first, stamp=stamp, stamped=proof))
    assert origin_of(files) == new
    expected = Expected(read_stamp=partial(read_stamp, authorities=()))
    assert not failed(files, expected)
    assert check(files, expected)["time stamp"].ok is True


# --- what others cannot do -----------------------------------------------------------------------
def test_the_acts_of_another_nodes_log_prove_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first = deliver(alder, birch, 1)
    witnessed(world)
    begin_anew(world)
    files = read(export(birch, first))
    access = parse_access(files[zips.ACCESS])
    alder.core.seal()
    other = alder.core.log.checkpoint()[1]
    note = parse_note(access.checkpoint)
    renamed = note.text.replace(birch.core.log.origin, birch.core.log.origin + "0")
    for checkpoint in (other, format_note(type(note)(renamed, note.signatures))):
        text = files[zips.ACCESS].replace(
            as_json(access.checkpoint), as_json(checkpoint)
        )  # fmt: skip
        assert text != files[zips.ACCESS]
        assert failed(relisted(files, birch, access=text)) == {"access"}


def as_json(note: bytes) -> bytes:
    return note.replace(b"\n", b"\\n")


def test_a_receipt_that_is_given_late_is_one_of_the_new_log(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.release(1, birch)
    hand(alder, birch, first)
    begin_anew(world)
    taken = give(alder, birch, alder.envelope(first).wire)
    for receipts in taken.receipts:
        alder.core.take_receipts(receipts)
    assert alder.state(first, birch) == "received"
    assert statement_of(alder, first).holds


# --- on a terminal -------------------------------------------------------------------------------
FIRST, LAST = "2026-03-04T08:20:00Z", "2026-03-04T09:21:00Z"
OWN = {"origin": "x", "size": 1, "owner": "Birch", "own": True}


@pytest.mark.parametrize(
    ("first", "last", "anchor", "said"),
    [
        (FIRST, LAST, OWN, [
            "made      between 2026-03-04 08:20 UTC and 2026-03-04 09:21 UTC, as witnesses show",
        ]),
        (None, LAST, None, [
            "made      before 2026-03-04 09:21 UTC, as witnesses show",
            "          its author named no log head, so nothing says after when",
        ]),
        (None, LAST, {**OWN, "own": False, "size": 40}, [
            "made      before 2026-03-04 09:21 UTC, as witnesses show",
            "          and after the log of Birch had 40 entries: ask Birch when that was",
        ]),
        (None, LAST, {**OWN, "own": False, "owner": None}, [
            "made      before 2026-03-04 09:21 UTC, as witnesses show",
            "          and after a log that is not known here had 1 entry",
        ]),
        (FIRST, None, OWN, [
            "made      after 2026-03-04 08:20 UTC, as witnesses show",
            "          too few witnesses have confirmed its log entry yet to say before when",
        ]),
        (None, None, OWN, [
            "made      at a time that witnesses do not show",
            "          and after this node's log had 1 entry; when that was is not known here "
            "any more",
            "          too few witnesses have confirmed its log entry yet to say before when",
        ]),
    ],
)  # fmt: skip
def test_the_time_of_a_message_is_told_in_words(
    first: str | None,
    last: str | None,
    anchor: Mapping[str, object] | None,
    said: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    _made({"not_before": first, "not_after": last, "anchor": anchor})
    assert capsys.readouterr().out.splitlines() == said


def test_an_incident_is_shown_with_its_time_before_and_after_a_new_log(
    world: World, tmp_path: Path
) -> None:
    birch = world["birch"]
    witnessed(world)
    deliver(world["alder"], birch, 1)
    world.clock.advance(MINUTE)
    witnessed(world)
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    text = birch.home.config.read_text()
    birch.home.config.write_text(
        text.replace('# passphrase_file = ""', f'passphrase_file = "{secret}"')
    )
    lines = []
    for again in (False, True):
        if again:
            begin_anew(world)
        birch.close()
        command = ["--home", str(birch.home.path), "incidents", "show", "PI-XA-2026-000001"]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        lines.append(next(each for each in done.stdout.splitlines() if each.startswith("made")))
        birch.open()
    assert lines[0].startswith("made      between 2026-")
    assert lines[0] == lines[1]
