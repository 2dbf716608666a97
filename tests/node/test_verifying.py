"""Verifying in steps and since the last time: what it covers, what it remembers, what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner, Result

from node.api import dispatch
from node.calls import Request
from node.cli.main import app
from node.cosigning import witness_vkeys
from node.log import Act
from node.receipts import ReceiptBook
from node.verifying import Passed, Verification, Verifier, read_mark, remember
from node.witness import make_fork
from protocol import suite
from protocol.canonical import decode, encode
from protocol.entry import EntryKind
from protocol.errors import BusyError, LogCorruptionError, NotFoundError
from protocol.note import Note, format_note, parse_note
from protocol.receipt import VerifiedReceipt
from tests.node.factories import (
    MINUTE,
    Station,
    World,
    copied,
    forge,
    full_disk,
    give,
    made_once,
    pass_on,
)
from tests.node.test_log import change
from tests.node.test_resealing import SOON, release_badly
from tests.node.test_witnessing import BEAT, Twin, cosign
from tests.node.wiring import Web

OK, UNVERIFIED = 0, 5


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def trade(world: World, *numbers: int) -> None:
    """Let Alder and Birch send each other incidents; both hold envelopes and receipts then."""
    alder, birch = world["alder"], world["birch"]
    for number in numbers:
        alder.release(number, birch)
        birch.release(1_000 + number, alder)
    pass_on(alder, birch)
    pass_on(birch, alder)


def verified(station: Station, *, since: bool) -> Passed:
    """Verify as the local endpoint does, which remembers it."""
    passed = Verification(station.core, since=since).run()
    assert remember(station.core, passed)
    return passed


def beats(station: Station, count: int) -> None:
    acts = [Act(EntryKind.HEARTBEAT, suite.digest("beat", b"%d" % n)) for n in range(count)]
    with station.core.logged():
        station.core.log.append(acts)


# --- in steps ----------------------------------------------------------------------------------
def test_while_it_goes_on_the_node_works_and_what_comes_is_not_counted(world: World) -> None:
    alder = world["alder"]
    trade(world, *range(1, 40))
    beats(alder, 600)
    size = alder.core.log.size
    verification = Verification(alder.core, since=False)
    numbers = iter(range(100, 1_000))
    done = 0
    for _ in verification.steps():
        trade(world, next(numbers))
        done += 1
    assert done > 10
    passed = verification.passed
    assert passed is not None
    assert (passed.entries, passed.envelopes, passed.receipts) == (size, 78, 39)
    assert passed.covered.size == size < alder.core.log.size
    assert passed.covered.root == alder.core.log.root(size)
    assert Verification(alder.core, since=False).run().entries == alder.core.log.size


@pytest.mark.parametrize("grown", [1, 255, 256, 700])
@pytest.mark.parametrize("size", [255, 256, 257, 511, 65_535, 65_536, 65_700])
def test_a_tile_at_the_edge_may_grow_meanwhile_but_not_change(
    world: World, size: int, grown: int
) -> None:
    alder = world["alder"]
    beats(alder, size - alder.core.log.size)
    steps = Verification(alder.core, since=False).steps()
    next(steps)
    beats(alder, grown)
    for _ in steps:
        pass
    store = alder.core.store
    level = 0 if size % 256 else 1 if size % 65_536 else 2
    index = size // 256 ** (level + 1)
    steps = Verification(alder.core, since=False).steps()
    next(steps)
    beats(alder, grown)
    with pytest.raises(LogCorruptionError, match=rf"tile {level}/{index} "), store.transaction():
        data = store.scalar("SELECT data FROM tiles WHERE level = ? AND idx = ?", level, index)
        store.run(
            "UPDATE tiles SET data = ? WHERE level = ? AND idx = ?",
            change(data, "first"), level, index,
        )  # fmt: skip
        for _ in steps:
            pass


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE entries SET kind = 1 WHERE idx = 300", "beside log entry 300 was changed"),
        ("DELETE FROM entries WHERE idx = 300", "entry 300 of the log is missing"),
        ("UPDATE tiles SET data = zeroblob(length(data)) WHERE level = 1", "tile 1/0 differs"),
        ("UPDATE tiles SET data = CAST(data || zeroblob(32) AS BLOB) WHERE level = 1",
         "tile 1/0 differs"),
        ("INSERT INTO tiles VALUES (9, 9, zeroblob(32))", "tiles that belong to no entry"),
        ("UPDATE envelopes SET arrived = arrived + 1", "the record of the envelope of log entry"),
        ("UPDATE receipts SET log_index = log_index + 1", "the record of a stored receipt was"),
        ("DELETE FROM receipts WHERE lot IS NOT NULL", "log entry .* is missing or was changed"),
        ("UPDATE receipt_lots SET frame = CAST(frame || x'00' AS BLOB)", "missing or was changed"),
    ],
)  # fmt: skip
def test_damage_has_the_same_name_in_steps_as_at_once(world: World, sql: str, said: str) -> None:
    alder = world["alder"]
    trade(world, *range(1, 6))
    beats(alder, 700)
    names = []
    for at_once in (True, False):
        with (
            pytest.raises(LogCorruptionError, match=said) as caught,
            alder.core.store.transaction(),
        ):
            assert alder.core.store.run(sql) > 0
            for _ in Verification(alder.core, since=False).steps(at_once=at_once):
                pass
            pytest.fail("silent")
        names.append(caught.value.message)
    assert names[0] == names[1]


def test_a_receipt_of_a_lot_costs_no_more_than_the_lot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder = world["alder"]
    trade(world, *range(1, 60))
    verify_lot = ReceiptBook.verified_lot
    calls: list[bytes] = []

    def counting(
        self: ReceiptBook, lot: bytes, recipient: bytes
    ) -> Mapping[bytes, VerifiedReceipt]:
        calls.append(lot)
        return verify_lot(self, lot, recipient)

    monkeypatch.setattr(ReceiptBook, "verified_lot", counting)
    assert alder.core.verify()["receipts"] == 59
    assert len(calls) == alder.core.store.scalar("SELECT count(*) FROM receipt_lots") == 1


# --- since the last time -----------------------------------------------------------------------
def test_only_what_is_new_is_looked_at_and_it_says_so(world: World) -> None:
    alder = world["alder"]
    trade(world, 1, 2, 3)
    beats(alder, 600)
    first = verified(alder, since=True)
    assert first.since is None, "nothing was verified before"
    trade(world, 4, 5)
    world.clock.advance(MINUTE)
    second = verified(alder, since=True)
    size = first.covered.size
    assert (second.entries, second.envelopes, second.receipts) == (
        second.covered.size - size, 4, 2
    )  # fmt: skip
    assert second.since == (first.covered, world.clock.now() - MINUTE)
    assert (second.covered.whole_size, second.covered.whole_at) == (size, first.covered.whole_at)
    third = verified(alder, since=True)
    assert (third.entries, third.envelopes, third.receipts) == (1, 0, 0), "the note of the last one"
    assert verified(alder, since=False).since is None


def test_what_was_changed_after_it_was_verified_only_a_full_one_finds(world: World) -> None:
    alder = world["alder"]
    trade(world, 1, 2)
    beats(alder, 600)
    verified(alder, since=True)
    beats(alder, 1)
    with alder.core.store.transaction():
        alder.core.store.run("UPDATE envelopes SET arrived = arrived + 1")
    verified(alder, since=True)
    with pytest.raises(LogCorruptionError, match="the record of the envelope"):
        verified(alder, since=False)


@pytest.mark.parametrize("before", [255, 256, 257, 511, 512, 700])
def test_damage_to_what_is_new_is_found(world: World, before: int) -> None:
    alder, store = world["alder"], world["alder"].core.store
    beats(alder, before - alder.core.log.size)
    size = verified(alder, since=True).covered.size
    trade(world, 1, 2, 3)
    beats(alder, 300)
    last = alder.core.log.size - 1
    for sql in (
        f"UPDATE entries SET local = x'9101' WHERE idx = {size}",
        f"UPDATE entries SET local = x'9101' WHERE idx = {last}",
        f"DELETE FROM entries WHERE idx = {last - 1}",
        f"UPDATE tiles SET data = zeroblob(length(data)) WHERE level = 0 AND idx = {size // 256}",
        f"UPDATE tiles SET data = zeroblob(length(data)) WHERE level = 0 AND idx = {last // 256}",
        "UPDATE tiles SET data = zeroblob(length(data)) WHERE level = 1",
        "UPDATE envelopes SET giver = zeroblob(32)",
        "DELETE FROM envelopes",
        "DELETE FROM receipts",
        "UPDATE receipts SET tree_size = tree_size + 1",
    ):
        with pytest.raises(LogCorruptionError), store.transaction():
            assert store.run(sql) > 0, sql
            Verification(alder.core, since=True).run()
            pytest.fail(sql)
    verified(alder, since=True)


def test_hashes_over_what_was_verified_before_must_lead_to_the_same_root(world: World) -> None:
    alder, store = world["alder"], world["alder"].core.store
    beats(alder, 300 - alder.core.log.size)
    verified(alder, since=True)
    beats(alder, 700)
    for level, index, how in ((1, 0, "first"), (0, 1, "first")):
        with pytest.raises(LogCorruptionError, match="lead to another root"), store.transaction():
            data = store.scalar("SELECT data FROM tiles WHERE level = ? AND idx = ?", level, index)
            store.run(
                "UPDATE tiles SET data = ? WHERE level = ? AND idx = ?",
                change(data, how), level, index,
            )  # fmt: skip
            Verification(alder.core, since=True).run()


# --- what is remembered ------------------------------------------------------------------------
def stored_mark(station: Station) -> list[Any]:
    value = decode(station.core.store.meta("verified") or b"", max_bytes=4_096)
    assert isinstance(value, list)
    return value


def set_mark(station: Station, value: bytes) -> None:
    station.core.store.set_meta("verified", value)


def test_a_made_up_note_of_a_verification_is_refused(world: World) -> None:
    alder = world["alder"]
    trade(world, 1, 2)
    verified(alder, since=True)
    trade(world, 3)
    world.clock.advance(MINUTE)
    verified(alder, since=True)
    fields = stored_mark(alder)
    size = alder.core.log.size
    later = [1, size - 1, size, alder.core.log.root(), *fields[4:]]
    forged = [later, [*fields[:3], bytes(32), *fields[4:]], [2, *fields[1:]], fields[:-1], "x"]
    for at in (1, 2, 4, 5, 6, 7):
        forged += [
            [*fields[:at], max(0, fields[at] + step), *fields[at + 1 :]]
            for step in (1, -1, 1 << 40)
        ]
    values = [encode(each) for each in forged if each != fields] + [b"", b"\xff"]
    for value in values:
        with (
            pytest.raises(LogCorruptionError, match="remembers of the last verification"),
            alder.core.store.transaction(),
        ):
            set_mark(alder, value)
            Verification(alder.core, since=True).run()
    with alder.core.store.transaction():
        set_mark(alder, values[0])
    assert verified(alder, since=False).since is None, "a full one looks at all and mends it"
    assert verified(alder, since=True).since is not None


def test_a_note_that_is_made_up_in_the_log_too_is_among_what_is_verified(world: World) -> None:
    """Whoever edits node.db, but has not the keys, changes an entry to what the mark needs."""
    alder, store = world["alder"], world["alder"].core.store
    trade(world, 1)
    verified(alder, since=True)
    index = stored_mark(alder)[1]
    trade(world, 2)
    mark = read_mark(alder.core)
    assert mark is not None
    beats(alder, 1)
    victim = alder.core.log.size - 1
    entry = store.row("SELECT * FROM entries WHERE idx = ?", index)
    assert entry is not None
    with (
        pytest.raises(LogCorruptionError, match=f"tile 0/{victim // 256} differs"),
        store.transaction(),
    ):
        store.run(
            "UPDATE entries SET kind = ?, entry = ?, local = ?, local_blind = ? WHERE idx = ?",
            entry["kind"], entry["entry"], entry["local"], entry["local_blind"], victim,
        )  # fmt: skip
        set_mark(alder, encode([1, victim, *stored_mark(alder)[2:]]))
        assert read_mark(alder.core) == mark, "taken by itself it looks right"
        Verification(alder.core, since=True).run()


def test_whoever_deletes_the_note_gets_a_full_verification(world: World) -> None:
    alder = world["alder"]
    trade(world, 1)
    verified(alder, since=True)
    with alder.core.store.transaction():
        alder.core.store.run("DELETE FROM meta WHERE key = 'verified'")
    assert verified(alder, since=True).since is None


def test_a_full_disk_costs_only_that_it_is_remembered(world: World) -> None:
    alder = world["alder"]
    trade(world, 1)
    passed = Verification(alder.core, since=False).run()
    alder.core.seal()
    beats(alder, 300)
    with full_disk(alder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(alder.core.access), "record", lambda *_: (_ for _ in ()).throw(BusyError("full"))
        )
        assert not remember(alder.core, passed)
    assert read_mark(alder.core) is None
    assert remember(alder.core, passed)


# --- heads and evidence ------------------------------------------------------------------------
GALLERY: Final = (
    "cosigned", "cosignatures", "head_times", "witnessed", "peer_heads", "anchors", "forks",
    "log_forks", "unopened", "reseals", "late",
)  # fmt: skip
# What nothing vouches for: when this node did something, and what it means to do next.
LOOSE: Final = {
    ("cosigned", "at"), ("head_times", "at"), ("witnessed", "at"), ("peer_heads", "at"),
    ("peer_heads", "source"), ("forks", "at"), ("log_forks", "at"),
    *(("unopened", name) for name in (
        "fault", "noted_at", "asked_at", "attempts", "next_at", "wrong", "mended_at", "looked")),
    *(("reseals", name) for name in (
        "asked_at", "asked", "owed", "code", "answered_at", "since", "answers")),
}  # fmt: skip


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Make nodes that cosigned, met two liars, and could not open what they received."""
    folder = tmp_path_factory.mktemp("gallery")
    with copied(made_once(tmp_path_factory), folder) as world:
        alder, birch, cedar, dogwood = world
        web = Web(alder, birch, cedar)
        web.link("alder", "birch", "cedar")
        alder.release(1, birch, cedar)
        web.run(2 * BEAT)
        release_badly(cedar, 2, 3, to=birch)
        release_badly(birch, 4, to=cedar)
        web.pump()
        web.run(SOON)
        birch.release(5, cedar)
        web.run(2 * BEAT)
        dogwood.release(8, birch, cedar)
        dogwood.release(9, birch)
        for reader in (birch, cedar):
            pass_on(dogwood, reader)
        wires = forge(dogwood, birch, numbers=[6])
        dogwood.release(7, birch)
        give(dogwood, birch, *wires)
        pass_on(dogwood, birch)
        for name in ("alder", "birch", "cedar"):
            web.stop(name)
        for station in (alder, birch, cedar):
            station.open()
        twin = Twin(dogwood, folder).station
        notes = []
        for view in (twin, dogwood):
            beats(view, 3)
            view.core.seal()
            notes.append(view.core.log.checkpoint()[1])
        with birch.core.logged():
            assert birch.core.witness.keep_fork(dogwood.id, make_fork(notes[0], notes[1], ()))
        twin.close()
        with birch.core.logged():
            cedar.core.heartbeat()
            birch.core.witness.saw_head(cedar.id, cedar.core.log.checkpoint()[1])
        yield world


def test_the_gallery_is_whole_and_counts_what_it_holds(gallery: World) -> None:
    birch = gallery["birch"]
    for table in GALLERY:
        assert birch.core.store.scalar(f"SELECT count(*) FROM {table}"), table
    passed = Verification(birch.core, since=False).run()
    assert passed.heads == birch.core.store.scalar(
        "SELECT count(DISTINCT size) FROM (SELECT size FROM cosigned UNION ALL "
        "SELECT size FROM head_times UNION ALL SELECT size FROM cosignatures)"
    )
    assert passed.others >= 5
    assert passed.unknown_cosignatures == 0


@pytest.mark.parametrize("table", GALLERY)
def test_a_changed_head_or_proof_is_noticed(gallery: World, table: str) -> None:
    birch, silent = gallery["birch"], []
    store = birch.core.store
    rows = store.rows(f"SELECT rowid AS number, * FROM {table} ORDER BY rowid")
    for row in (rows[0], rows[-1]):
        for column, value in row.items():
            bare = {"unopened": "slot", "peer_heads": "note"}.get(table)
            loose = (table, column) in LOOSE or (bare is not None and row[bare] is None)
            if value is None or column == "number" or loose:
                continue
            with pytest.raises(LogCorruptionError), store.transaction():
                store.run(
                    f"UPDATE OR REPLACE {table} SET {column} = ? WHERE rowid = ?",
                    change(value, "last" if column != "quorum_at" else "middle"), row["number"],
                )  # fmt: skip
                passed = Verification(birch.core, since=False).run()
                if not passed.unknown_cosignatures:
                    silent.append(column)
                raise LogCorruptionError("undo it")
    assert silent == []


@pytest.mark.parametrize("table", ["forks", "log_forks", "late"])
def test_a_lost_proof_is_noticed(gallery: World, table: str) -> None:
    store = gallery["birch"].core.store
    with pytest.raises(LogCorruptionError, match=r"missing|not found again"), store.transaction():
        store.run(f"DELETE FROM {table}")
        gallery["birch"].core.verify()


def test_a_head_that_is_cosigned_after_a_verification_is_new_to_the_next(world: World) -> None:
    alder, birch, cedar, _ = world
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    web.run(4 * BEAT)
    verified(alder, since=True)
    alder.release(1, birch)
    web.run(2 * BEAT)
    with (
        pytest.raises(LogCorruptionError, match="cosignature of the head"),
        alder.core.store.transaction(),
    ):
        alder.core.store.run(
            "UPDATE cosignatures SET time_s = time_s + 1 "
            "WHERE size = (SELECT max(size) FROM cosigned)"
        )
        Verification(alder.core, since=True).run()
    assert 0 < verified(alder, since=True).heads <= 6


def test_a_head_that_was_shown_before_a_verification_and_cosigned_after_it_is_new(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.core.heartbeat()
    size = alder.core.cosigning.offer()
    verified(alder, since=True)
    keys = birch.core.card.witness
    status, body = cosign(birch, alder.core.cosigning.request(keys.name, size))
    assert status == 200
    with alder.core.logged():
        alder.core.cosigning.take(size, body, keys=witness_vkeys(keys))
    with (
        pytest.raises(LogCorruptionError, match="cosignature of the head"),
        alder.core.store.transaction(),
    ):
        assert alder.core.store.run("UPDATE cosignatures SET time_s = time_s + 1") == 2
        Verification(alder.core, since=True).run()
    assert verified(alder, since=True).heads == 1


def test_a_head_of_another_log_without_our_cosignature_is_noticed(gallery: World) -> None:
    birch = gallery["birch"]
    own = birch.core.card.witness.name
    for row in birch.core.store.rows("SELECT origin, note FROM witnessed"):
        note = parse_note(row["note"])
        kept = tuple(line for line in note.signatures if line.name != own)
        assert len(kept) == len(note.signatures) - 2
        with (
            pytest.raises(LogCorruptionError, match="lacks the cosignature of this node"),
            birch.core.store.transaction(),
        ):
            birch.core.store.run(
                "UPDATE witnessed SET note = ? WHERE origin = ?",
                format_note(Note(note.text, kept)), row["origin"],
            )  # fmt: skip
            birch.core.verify()


# --- for the desk ------------------------------------------------------------------------------
def test_one_goes_on_at_a_time_and_others_join_it(world: World) -> None:
    alder = world["alder"]
    trade(world, 1)
    beats(alder, 60_000)
    verifier = Verifier(alder.core)
    with pytest.raises(NotFoundError):
        verifier.go_on()
    first = verifier.begin(since=True)
    assert first is not None
    second = verifier.begin(since=True)
    assert second is not None
    assert second["done"] > first["done"], "joined"  # type: ignore[operator]
    world.clock.advance(2 * MINUTE)
    third = verifier.begin(since=True)
    assert third == first, "nobody asked after it any more: anew"
    slices = 0
    while verifier.go_on() is not None:
        slices += 1
    assert slices
    assert verifier.last is not None
    assert verifier.last[1], "remembered"
    assert verifier.go_on() is None, "what came of it stays"
    beats(alder, 20_000)
    assert verifier.begin(since=True) is not None
    full = verifier.begin(since=False)
    assert full is not None
    assert full["total"] == alder.core.log.size, "it gave way"


def test_one_that_failed_is_over(world: World) -> None:
    alder, store = world["alder"], world["alder"].core.store
    beats(alder, 20_000)
    verifier = Verifier(alder.core)
    assert verifier.begin(since=False) is not None
    with pytest.raises(LogCorruptionError, match="log entry 19000"), store.transaction():
        store.run("UPDATE entries SET kind = 1 WHERE idx = 19000")
        while verifier.go_on() is not None:
            pass
    with pytest.raises(NotFoundError):
        verifier.go_on()
    assert verifier.begin(since=False) is not None


def ask(station: Station, method: str, path: str, body: object = None) -> dict[str, Any]:
    data = b"" if body is None else json.dumps(body).encode()
    request = Request(method, f"/api/v1/log/{path}", body=data, operator=True)
    value: dict[str, Any] = json.loads(dispatch(station.service(), request).body)
    return value


def test_the_endpoint_answers_at_once_or_in_steps(world: World) -> None:
    alder = world["alder"]
    trade(world, 1, 2)
    beats(alder, 20_000)
    whole = ask(alder, "POST", "verify", {})
    assert (whole["ok"], whole["full"], whole["running"]) == (True, True, False)
    assert (whole["envelopes_checked"], whole["receipts_checked"]) == (4, 2)
    service = alder.service()

    def say(method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        request = Request(method, f"/api/v1/log/{path}", body=body, operator=True)
        value: dict[str, Any] = json.loads(dispatch(service, request).body)
        return value

    assert say("GET", "verification")["code"] == "not-found"
    assert say("POST", "verify", b'{"since": 1}')["code"] == "bad-request"
    seen = say("POST", "verify", b'{"steps": true}')
    assert (seen["running"], seen["what"]) == (True, "entries")
    while seen["running"]:
        assert 0 <= seen["done"] <= seen["total"]
        seen = say("GET", "verification")
    assert seen["entries_checked"] == whole["entries_checked"] + 1
    assert (seen["ok"], seen["full"], seen["remembered"]) == (True, True, True)
    new = say("POST", "verify", b'{"since": true}')
    assert (new["full"], new["entries_checked"], new["first_entry"]) == (
        False, 1, seen["entries_checked"]
    )  # fmt: skip


# --- the command -------------------------------------------------------------------------------
def command(station: Station, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(station.home.path), "log", "verify", *arguments])


def test_the_command_says_the_verdict_first_and_what_it_left_out(world: World) -> None:
    alder = world["alder"]
    trade(world, 1, 2)
    size = alder.core.log.size
    alder.close()
    done = command(alder, "--new")
    assert done.exit_code == OK, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"The log verifies: {size} entries, 4 envelopes, 2 receipts."
    assert "Nothing was verified before" in lines[1]
    done = command(alder, "--new")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("What is new since ")
    assert lines[0].endswith(" verifies: 1 entry, 0 envelopes, 0 receipts.")
    assert f"the {size} entries before" in lines[1]
    assert "picket log verify" in lines[1]
    assert done.stderr == "", "no bar where nobody looks"
    seen = json.loads(command(alder, "--new", "--json").stdout)
    assert (seen["ok"], seen["full"], seen["last_full"]["entries"]) == (True, False, size)
    alder.open()


def test_the_command_names_what_does_not_verify(world: World) -> None:
    alder = world["alder"]
    trade(world, 1)
    with alder.core.store.transaction():
        alder.core.store.run("UPDATE envelopes SET arrived = arrived + 1")
    alder.close()
    done = command(alder)
    assert done.exit_code == UNVERIFIED
    first, second = done.stderr.splitlines()
    assert first == "The log does NOT verify."
    assert "the record of the envelope of log entry" in second
    assert command(alder, "--json").exit_code == UNVERIFIED
    alder.open()
