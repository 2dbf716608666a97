"""Times and cosignatures of heads, changed on the disk of a stopped node: each change is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cosigned_notes import CosignedNote, parse_notes
from node.cosigning import witness_vkeys
from protocol.canonical import encode
from protocol.checkpoint import parse_body
from protocol.entry import EntryKind
from protocol.errors import LogCorruptionError, PeerError, SignatureError
from protocol.evidence import verify_evidence
from protocol.evidence_files import when
from protocol.note import parse_note
from protocol.witness import cosign as make_cosignatures
from protocol.witness import format_signatures, parse_add_checkpoint
from tests.node.factories import Station, World, copied, made_once
from tests.node.test_evidence import export, read
from tests.node.test_witnessing import BEAT, four
from tests.node.wiring import Web

MONTH = 86_400 * 30


@pytest.fixture(scope="module")
def alder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with copied(made_once(tmp_path_factory), tmp_path_factory.mktemp("notes")) as world:
        yield cosigned(world)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as each:
        yield each


def cosigned(world: World) -> Station:
    """Let Alder release incidents over an hour with quiet in between, and all cosign its log."""
    alder, birch, cedar, dogwood = four(world)
    web = Web(alder, birch, cedar, dogwood)
    web.link("alder", "birch", "cedar", "dogwood")
    for number in range(6):
        web.run(5 * BEAT)
        alder.release(number, birch)
        web.pump()
    web.run(6 * BEAT)
    assert alder.core.verify()
    return alder


def said(station: Station) -> list[CosignedNote]:
    return [
        note
        for row in station.core.store.rows(
            "SELECT local FROM entries WHERE kind = ? ORDER BY idx", int(EntryKind.HEARTBEAT)
        )
        for note in parse_notes(row["local"])
    ]


def test_each_head_is_noted_once_by_the_beat_after_it(alder: Station) -> None:
    notes = said(alder)
    sizes = [note.size for note in notes]
    assert sizes == sorted(set(sizes))
    assert len(sizes) >= 35
    heads = {row["size"]: row for row in alder.core.store.rows("SELECT * FROM cosigned")}
    assert set(heads) - {max(heads)} <= set(sizes)
    for note in notes:
        if note.size in heads:
            assert note.quorum_at == heads[note.size]["quorum_at"]
            assert len(note.marks) == 6, "both keys of three witnesses"


def test_a_quiet_log_keeps_few_heads_and_says_little(alder: Station) -> None:
    assert alder.core.store.scalar("SELECT count(*) FROM cosigned") <= 10
    longest = alder.core.store.scalar(
        "SELECT max(length(local)) FROM entries WHERE kind = ?", int(EntryKind.HEARTBEAT)
    )
    assert longest < 200


CHANGES = {
    "every quorum earlier": f"UPDATE cosigned SET quorum_at = quorum_at - {MONTH}",
    "one quorum earlier": "UPDATE cosigned SET quorum_at = quorum_at - 1 WHERE size = "
    "(SELECT min(size) FROM cosigned)",
    "one quorum later": "UPDATE cosigned SET quorum_at = quorum_at + 1 WHERE size = "
    "(SELECT min(size) FROM cosigned)",
    "no quorum": "UPDATE cosigned SET quorum_at = NULL",
    "one without a quorum": "UPDATE cosigned SET quorum_at = NULL WHERE size = "
    "(SELECT min(size) FROM cosigned)",
    "first cosigned later": "UPDATE head_times SET at = at + 200",
    "first of one later": "UPDATE head_times SET at = at + 1 WHERE size = "
    "(SELECT min(size) FROM head_times)",
    "of a head that is not kept": "UPDATE head_times SET at = at - 1 WHERE size NOT IN "
    "(SELECT size FROM cosigned)",
    "one cosignature": "DELETE FROM cosignatures WHERE rowid = (SELECT min(rowid) FROM "
    "cosignatures WHERE size = (SELECT min(size) FROM cosigned))",
    "all of one witness": "DELETE FROM cosignatures WHERE name = (SELECT min(name) FROM "
    "cosignatures)",
    "all of one head": "DELETE FROM cosignatures WHERE size = (SELECT min(size) FROM cosigned)",
    "every cosignature": "DELETE FROM cosignatures",
    "one head": "DELETE FROM cosigned WHERE size = (SELECT min(size) FROM cosigned)",
    "every head": "DELETE FROM cosigned",
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_changed_on_disk_is_named(alder: Station, what: str) -> None:
    store = alder.core.store
    with (
        pytest.raises(LogCorruptionError, match="cosign") as caught,
        store.transaction(),
    ):
        assert store.run(CHANGES[what]) > 0
        alder.core.verify()
    assert "size" in caught.value.message
    assert alder.core.verify(), "the transaction was undone"


def test_everything_about_a_head_is_not_to_be_taken_away(alder: Station) -> None:
    store = alder.core.store
    with pytest.raises(LogCorruptionError, match="is missing"), store.transaction():
        for table in ("cosigned", "cosignatures", "head_times"):
            store.run(f"DELETE FROM {table}")
        alder.core.verify()


def test_an_answer_that_comes_late_is_more_and_no_change(world: World) -> None:
    alder, birch, cedar, dogwood = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    web.run(2 * BEAT)
    size = alder.core.cosigning.offer()
    late = dogwood.core.card.witness
    body = alder.core.cosigning.request(late.name, size)
    assert alder.core.cosigning.bracket(size - 1) is not None
    alder.core.heartbeat()
    with dogwood.core.logged():
        answer, _ = dogwood.core.witness.add_checkpoint(body)
    with alder.core.logged():
        alder.core.cosigning.take(size, answer.body, keys=witness_vkeys(late))
    assert alder.core.verify()
    web.run(3 * BEAT)
    assert alder.core.verify()


def test_a_new_log_and_a_restart_leave_nothing_unsaid(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    for _ in range(3):
        alder.release(len(web.passed), birch)
        web.run(2 * BEAT)
        web.restart("alder")
        web.link("alder", "birch", "cedar")
    web.start(web.stop("alder"), reopen=True)
    web.link("alder", "birch", "cedar")
    web.run(8 * BEAT)
    assert alder.core.verify()
    origins = {note.origin for note in said(alder)}
    assert len(origins) == 2


def test_heartbeats_of_another_form_are_refused() -> None:
    good = ["a/log", 5, 10, 9, [bytes(8)]]
    assert parse_notes(encode([good]))[0].size == 5
    assert parse_notes(encode([])) == ()
    wrong: tuple[object, ...] = (
        [good] * 5, [good[:4]], [["", 5, 10, 9, []]], [["a", -1, 10, 9, []]],
        [["a", 5, 10, None, []]], [["a", 5, 10, 9, [bytes(7)]]], [["a", 5, b"", 9, []]], {},
    )  # fmt: skip
    for bad in wrong:
        with pytest.raises(PeerError):
            parse_notes(encode(bad))


def test_a_head_that_an_envelope_names_is_kept_and_evidence_says_what_is_shown(
    world: World,
) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    web.run(3 * BEAT)
    envelope_id = alder.release(1, birch)
    web.pump()
    web.run(6 * BEAT)
    anchor = birch.envelope(envelope_id).header.anchor
    assert anchor is not None
    assert anchor.origin == birch.core.log.origin
    shown = birch.core.cosigning.time_of(anchor.origin, anchor.size, anchor.root)
    assert shown is not None
    found = {each.name: each for each in verify_evidence(read(export(birch, envelope_id)))}
    assert found["anchor"].ok
    assert f"new at {when(shown * 1_000)}" in found["anchor"].detail
    assert birch.core.verify()


# --- times that cannot be ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("off", "taken"), [(-299, True), (-301, False), (299, True), (301, False), (-(10**9), False)]
)
def test_a_cosignature_from_before_its_head_or_from_the_future_does_not_count(
    world: World, off: int, taken: bool
) -> None:
    alder, birch, *_ = four(world)
    size = alder.core.heartbeat()
    keys = birch.core.card.witness
    note = parse_add_checkpoint(alder.core.cosigning.request(keys.name, size)).note
    now_s = world.clock.now() // 1_000
    lines = make_cosignatures(
        parse_body(parse_note(note).text), name=keys.name,
        ed25519=birch.core.keys.witness_ed25519, mldsa44=birch.core.keys.witness_mldsa44,
        now_s=max(0, now_s + off),
    )  # fmt: skip
    body = format_signatures(lines)
    if taken:
        with alder.core.logged():
            alder.core.cosigning.take(size, body, keys=witness_vkeys(keys))
        assert alder.core.store.scalar("SELECT count(*) FROM cosignatures") == 2
        assert not alder.core.cosigning.is_off(size, body)
        return
    with pytest.raises(SignatureError, match="time"), alder.core.logged():
        alder.core.cosigning.take(size, body, keys=witness_vkeys(keys))
    assert alder.core.store.scalar("SELECT count(*) FROM cosignatures") == 0
    assert alder.core.cosigning.is_off(size, body), "a clock is wrong; nobody is blamed"
