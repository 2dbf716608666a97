"""Intake: a frame is screened, verified together, decided one by one, and stored at once."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from node.intake import Checked, Taken, id_of
from node.outbox import Route
from node.streams import key_of
from protocol import envelope, limits, suite
from protocol.admission import Screened
from protocol.canonical import decode, encode
from protocol.entry import EntryKind
from protocol.errors import PeerError
from protocol.frames import ReceiptItem
from tests.node.factories import (
    MINUTE,
    Station,
    World,
    copied,
    forge,
    full_disk,
    hand,
    incident_id,
    made_once,
    record,
    token,
)

_A = TypeVar("_A")
_R = TypeVar("_R")
CODES: Final = {
    "flipped": "bad-digest",
    "rubbish": "bad-encoding",
    "foreign": "wrong-audience",
    "epoch": "unknown-epoch",
}


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def twin_of(station: Station, folder: Path) -> Station:
    """Return an open copy of a node that draws the same random bytes from here on."""
    station.close()
    copy = shutil.copytree(station.home.path, folder / station.name)
    station.open()
    twin = Station(type(station.home)(copy), station.secrets, station.clock, station.random)
    twin.random = type(station.random)("twin")
    station.core.log._random = type(station.random)("twin")
    twin.open()
    return twin


def threaded(pool: ThreadPoolExecutor) -> Callable[..., Iterable[Any]]:
    """Return what works like ``map``, in threads that end in no fixed order."""

    def verify(act: Callable[[_A], _R], items: Sequence[_A]) -> list[_R]:
        return list(pool.map(act, items))

    return verify


def bad_wires(world: World) -> dict[str, bytes]:
    """Return envelopes that birch must refuse, by why."""
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    good = alder.envelope(alder.release(90, birch)).wire
    unseen = [alder.release(number, cedar, birch) for number in (91, 92)]
    return {
        "flipped": good[:-3] + bytes([good[-3] ^ 4]) + good[-2:],
        "rubbish": b"\xc1rubbish",
        "foreign": alder.envelope(alder.release(93, cedar)).wire,
        "epoch": alder.envelope(unseen[1]).wire,
    }


def tables(station: Station) -> dict[str, list[tuple[Any, ...]]]:
    """Return what is stored of envelopes, streams, members, forks and log."""
    rows = station.dump()
    names = ("envelopes", "streams", "members", "forks", "entries", "tiles", "outbox")
    return {name: rows[name] for name in names}


# --- a frame -----------------------------------------------------------------------------------
@pytest.mark.parametrize("number", range(4))
def test_a_mixed_frame_is_taken_as_if_each_came_alone_and_threads_change_nothing(
    world: World, tmp_path: Path, number: int
) -> None:
    alder, birch = world["alder"], world["birch"]
    dice = random.Random(number)
    good = [alder.envelope(alder.release(n, birch)).wire for n in range(12)]
    bad = bad_wires(world)
    frame = [*good, *bad.values()]
    if number:
        dice.shuffle(frame)
    twin, alone = twin_of(birch, tmp_path / "twin"), twin_of(birch, tmp_path / "alone")
    serial = birch.core.take(frame, giver=alder.id)
    with ThreadPoolExecutor(4) as pool:
        twin.core.intake.verify_all = threaded(pool)
        threads = twin.core.take(frame, giver=alder.id)
    assert replace(threads, receipts=()) == replace(serial, receipts=())
    assert [receipts.recipient for receipts in threads.receipts] == [birch.id]
    assert tables(twin) == tables(birch)

    singly = [alone.core.take([wire], giver=alder.id) for wire in frame]
    assert sum((taken.stored for taken in singly), ()) == serial.stored
    assert sum((taken.refusals for taken in singly), ()) == serial.refusals
    assert sum(taken.faults for taken in singly) == serial.faults
    codes = {refusal.envelope_id: refusal.code for refusal in serial.refusals}
    assert set(serial.stored) <= {id_of(wire) for wire in good}
    for name, wire in bad.items():
        assert codes[id_of(wire)] == CODES[name]
    assert serial.faults == len(serial.refusals) - sum(c == "unknown-epoch" for c in codes.values())
    if not number:
        assert serial.stored == tuple(id_of(wire) for wire in good)
    for station in (birch, twin, alone):
        assert station.core.verify()["envelopes"] == len(serial.stored)
        assert len(station.shows()) == len(serial.stored)
    twin.close()
    alone.close()


def test_signatures_are_checked_together_and_only_of_what_passed_the_screen(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [alder.release(n, birch) for n in range(6)]
    hand(alder, birch, *keys[:2])
    batches: list[int] = []

    def verify(act: Callable[[Screened], Checked], items: Sequence[Screened]) -> list[Checked]:
        batches.append(len(items))
        return [act(item) for item in items]

    birch.core.intake.verify_all = verify
    wires = [alder.envelope(key).wire for key in keys]
    taken = birch.core.take([*wires, b"rubbish"], giver=alder.id)
    assert batches == [4], "two are known, and rubbish has no signature"
    assert (taken.stored, taken.known) == (tuple(keys[2:]), 2)
    with birch.core.store.transaction():
        birch.core.store.run("UPDATE peers SET level = 'frozen' WHERE node_id = ?", alder.id)
    birch.reopen()
    birch.core.intake.verify_all = verify
    hand(alder, birch, alder.release(9, birch))
    assert batches == [4, 0], "an author we do not accept costs no check"


def test_a_frame_is_one_transaction_and_one_signed_head(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [alder.release(n, birch) for n in range(8)]
    commits: list[str] = []
    birch.core.store._connection.set_trace_callback(
        lambda sql: commits.append(sql) if sql in {"COMMIT", "BEGIN IMMEDIATE"} else None
    )
    size = birch.core.log.size
    taken = hand(alder, birch, *keys)
    birch.core.store._connection.set_trace_callback(None)
    assert commits == ["BEGIN IMMEDIATE", "COMMIT"]
    assert birch.core.log.signed_size == size + 8, "it is stored with the next entry"
    assert birch.core.log.size == size + 8
    assert [index for _, index in taken.answers] == list(range(size, size + 8))
    assert birch.kinds()[size:] == [EntryKind.RECEIVED] * 8


def test_a_frame_on_a_full_disk_leaves_nothing_and_is_answered_busy_as_a_whole(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [alder.release(n, birch) for n in range(60)]
    before = birch.dump()
    with full_disk(birch):
        taken = hand(alder, birch, *keys)
        assert birch.dump() == before
    assert [refusal.code for refusal in taken.refusals] == ["busy"] * 60
    assert [refusal.envelope_id for refusal in taken.refusals] == keys
    assert (taken.answers, taken.receipts, taken.stored, taken.faults) == ((), (), (), 0)
    assert birch.core.streams.state(key_of(alder.envelope(keys[0]))) is None
    assert hand(alder, birch, *keys).stored == tuple(keys)
    assert birch.core.verify()["envelopes"] == 60


# --- within one frame --------------------------------------------------------------------------
def test_the_opener_may_stand_before_what_names_it_and_not_behind(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first, second, third = (alder.release(n, birch) for n in (1, 2, 3))
    taken = hand(alder, birch, second, first, third)
    assert taken.stored == (first, third)
    assert [(r.envelope_id, r.code) for r in taken.refusals] == [(second, "unknown-epoch")]
    assert taken.faults == 0
    assert hand(alder, birch, second).stored == (second,)
    assert birch.shows() == {incident_id(n) for n in (1, 2, 3)}


def test_the_same_envelope_twice_in_a_frame_is_stored_once_and_answered_twice(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    taken = hand(alder, birch, key, key, key)
    assert (taken.stored, taken.known) == ((key,), 2)
    assert len(set(taken.answers)) == 1
    assert len(taken.answers) == 3
    assert birch.core.verify()["envelopes"] == 1


def test_a_fork_within_one_frame_is_found_kept_and_told(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.envelope(alder.release(1, birch)).wire
    one, other, third = (forge(alder, birch, numbers=(n,))[0] for n in (2, 12, 22))
    taken = birch.core.take([first, one, other, third], giver=alder.id)
    assert taken.stored == tuple(map(id_of, (first, one, other)))
    assert [refusal.code for refusal in taken.refusals] == ["equivocation"]
    assert taken.faults == 0, "who hands it on need not know"
    (fork,) = taken.forks
    assert {fork.first.id, fork.second.id} == {id_of(one), id_of(other)}
    assert birch.kinds()[-1] is EntryKind.EQUIVOCATION
    again = birch.core.take([first, one, other, third], giver=alder.id)
    assert (again.stored, again.forks, again.known) == ((), (), 3)
    assert len(birch.core.streams.forks(fork.key)) == 1


def test_only_the_streams_that_grew_are_named(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    one, other = alder.release(1, birch), alder.release(2, birch, cedar)
    foreign = alder.release(3, cedar)
    taken = hand(alder, birch, one, other, foreign)
    assert taken.streams == {key_of(alder.envelope(key)) for key in (one, other)}
    assert hand(alder, birch, one, other).streams == frozenset()


# --- parts -------------------------------------------------------------------------------------
def test_what_is_carried_waits_for_its_recipients_only(world: World) -> None:
    alder, birch, cedar, dogwood = (world[n] for n in ("alder", "birch", "cedar", "dogwood"))
    key = alder.release(1, birch, dogwood, carriers=[cedar])
    own = alder.release(2, cedar)
    assert hand(alder, cedar, key, own).stored == (key, own)
    rows = cedar.core.store.rows("SELECT envelope_id, peer, route FROM outbox ORDER BY peer")
    assert rows == [
        {"envelope_id": key, "peer": peer, "route": Route.FORWARD.value}
        for peer in sorted((birch.id, dogwood.id))
    ]
    receipts = cedar.core.log.receipts([(key, cedar.core.store.envelope(key)["log_index"])])  # type: ignore[index]
    assert isinstance(receipts.items[0], ReceiptItem)
    assert alder.core.take_receipts(receipts) == (key,)
    assert alder.state(key, cedar) == "carried"


def test_a_lost_envelope_of_ours_comes_back_from_a_carrier_too(
    world: World, tmp_path: Path
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    alder.close()
    backup = shutil.copytree(alder.home.path, tmp_path / "backup")
    alder.open()
    keys = [alder.release(n, birch, carriers=[cedar]) for n in (1, 2)]
    assert hand(alder, cedar, *keys).stored == tuple(keys)
    alder.close()
    shutil.rmtree(alder.home.path)
    shutil.copytree(backup, alder.home.path)
    alder.open()
    world.clock.advance(MINUTE)
    taken = hand(cedar, alder, *keys)
    assert taken.stored == tuple(keys)
    assert {refusal.code for refusal in taken.refusals} == {"own-envelope"}
    assert (taken.faults, taken.receipts) == (0, ())
    assert alder.core.open(keys[1]) == record(2)
    assert alder.core.outbox.size(birch.id) == 2
    third = alder.release(3, birch, carriers=[cedar])
    header = alder.envelope(third).header
    assert header.incarnation > alder.envelope(keys[0]).header.incarnation
    assert header.seq == 1


def test_a_copy_of_ours_without_our_slot_is_refused(world: World, tmp_path: Path) -> None:
    """Else whoever trims it could make sure that what we lost can never be opened again."""
    alder, birch = world["alder"], world["birch"]
    alder.close()
    backup = shutil.copytree(alder.home.path, tmp_path / "backup")
    alder.open()
    wire = alder.envelope(alder.release(1, birch)).wire
    hand(alder, birch, id_of(wire))
    alder.close()
    shutil.rmtree(alder.home.path)
    shutil.copytree(backup, alder.home.path)
    alder.open()
    trimmed = without_slot(wire, 0)
    assert id_of(trimmed) == id_of(wire)
    taken = alder.core.take([trimmed], giver=birch.id)
    assert [refusal.code for refusal in taken.refusals] == ["bad-digest"]
    assert (taken.stored, taken.faults) == ((), 1)
    assert alder.core.take([wire], giver=birch.id).stored == (id_of(wire),)


def without_slot(wire: bytes, number: int) -> bytes:
    """Return a copy of an opener in which only the digest of one slot is left."""
    slots = list(envelope.parse(wire).slots)
    slots[number] = suite.digest("slot-digest", slots[number])
    outer = decode(wire, max_bytes=limits.MAX_ENVELOPE)
    assert isinstance(outer, list)
    return encode([*outer[:4], slots])


# --- undone ------------------------------------------------------------------------------------
def test_what_a_failed_transaction_took_is_taken_anew(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first, second = (alder.envelope(alder.release(n, birch)).wire for n in (1, 2))

    class PowerError(Exception):
        pass

    before = birch.dump()
    with pytest.raises(PowerError), birch.core.logged():
        done: Taken = birch.core.take_in([first], giver=alder.id)
        assert done.stored
        assert birch.core.opener(id_of(first)) is not None
        raise PowerError
    assert birch.dump() == before
    assert not birch.core.intake.holds(id_of(first))
    assert birch.core.opener(id_of(first)) is None
    refused = birch.core.take([second], giver=alder.id).refusals
    assert [refusal.code for refusal in refused] == ["unknown-epoch"]
    assert birch.core.take([first, second], giver=alder.id).stored
    assert birch.core.verify() == {"entries": birch.core.log.size, "envelopes": 2, "receipts": 0}


def test_releases_and_deliveries_share_one_transaction_in_any_order(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    wires = [alder.envelope(alder.release(n, birch)).wire for n in (1, 2)]
    with birch.core.logged():
        birch.core.take_in(wires[:1], giver=alder.id)
        own = birch.core.release(token(7), [birch.ship(alder, body=record(7))])
        birch.core.take_in(wires[1:], giver=alder.id)
    assert birch.core.verify()["envelopes"] == 3
    assert birch.kinds()[-3:] == [EntryKind.RECEIVED, EntryKind.RELEASED, EntryKind.RECEIVED]
    assert hand(birch, alder, *own).stored == own


@pytest.mark.parametrize("wire", [b"", b"\xc1", b"\x95" + b"\xc4\x00" * 5, bytes(200)])
def test_what_has_no_id_is_named_by_a_digest_of_it(world: World, wire: bytes) -> None:
    alder, birch = world["alder"], world["birch"]
    with pytest.raises(PeerError):
        envelope.parse(wire)
    taken = birch.core.take([wire], giver=alder.id)
    (refusal,) = taken.refusals
    assert refusal.envelope_id == id_of(wire)
    assert len(refusal.envelope_id) == 32
    assert taken.faults == 1
