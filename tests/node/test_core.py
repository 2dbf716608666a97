"""The node's core: what is released, taken and receipted is whole, once, and for its audience."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from keys.trust import Level, Verification
from node.casebook import Casebook
from node.core import EPOCH_LIFETIME_MS, Core
from node.log import Act
from node.outbox import Route
from node.streams import key_of
from protocol import envelope, limits, suite
from protocol.admission import Part
from protocol.canonical import encode
from protocol.entry import EntryKind
from protocol.envelope import VerifiedEnvelope, parse
from protocol.errors import (
    AudienceError,
    BusyError,
    ConflictError,
    KeystoreError,
    LockedError,
    PeerError,
    ProofError,
    ReceiptError,
    SignatureError,
    StoreError,
    UntrustedKeyError,
    WeakKeyError,
)
from protocol.fork import parse_fork, verify_fork
from protocol.frames import ReceiptItem, Receipts
from protocol.statement import SealKey
from tests.node.factories import (
    DAY,
    MINUTE,
    CrashError,
    FaultyStore,
    Station,
    World,
    copied,
    dump,
    forge,
    full_case_disk,
    full_disk,
    hand,
    incident_id,
    introduce,
    made_once,
    pass_on,
    record,
    seep,
    token,
)

WEEK: Final = 7 * DAY


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def place(station: Station, envelope_id: bytes) -> tuple[bytes, int, bytes]:
    header = station.envelope(envelope_id).header
    return header.stream, header.seq, header.prev


# --- one transaction ---------------------------------------------------------------------------
def crash_everywhere(station: Station, act: Callable[[Core], object]) -> int:
    """Let *act* fail at each of its writes in turn, and check that nothing of it is left.

    Returns:
        How many places it failed at, before it went through.
    """
    core = station.reopen(store=FaultyStore)
    store = core.store
    assert isinstance(store, FaultyStore)
    before = station.dump()
    for step in range(1, 200):
        store.arm(step)
        try:
            act(core)
        except CrashError:
            assert station.dump() == before, f"a crash at step {step} left something"
        else:
            store.arm(0)
            return step - 1
    raise AssertionError("it never went through")


def test_a_release_that_fails_anywhere_leaves_nothing_and_then_works(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]

    def release(core: Core) -> object:
        shipments = [
            alder.ship(birch, cedar, body=record(1)),
            alder.ship(birch, body=record(1, annex=True), carriers=[world["dogwood"]]),
        ]
        return core.release(token(1), shipments)

    assert crash_everywhere(alder, release) >= 2 * 6, "each envelope is at least six writes"
    assert alder.core.verify() == {"entries": 9, "envelopes": 2, "receipts": 0}
    kinds = Counter(alder.kinds())
    assert kinds[EntryKind.RELEASED] == 2
    size, _ = alder.core.log.checkpoint()
    assert size == alder.core.log.size
    assert alder.core.outbox.size() == 4
    for peer in (birch, cedar):
        assert not pass_on(alder, peer).refusals
        assert peer.shows() == {incident_id(1)}


def test_an_acceptance_that_fails_anywhere_leaves_nothing_and_then_works(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    wires = [alder.envelope(alder.release(number, birch)).wire for number in (1, 2)]
    crash_everywhere(birch, lambda core: core.take(wires, giver=alder.id))
    assert birch.core.verify()["envelopes"] == 2
    assert birch.shows() == {incident_id(1), incident_id(2)}


def test_a_receipt_that_fails_anywhere_leaves_nothing_and_then_settles(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    sent = [alder.release(number, birch) for number in (1, 2)]
    (receipts,) = hand(alder, birch, *sent).receipts
    crash_everywhere(alder, lambda core: core.take_receipts(receipts))
    assert [alder.state(envelope_id, birch) for envelope_id in sent] == ["received"] * 2
    assert alder.core.verify()["receipts"] == 2


def test_a_trust_change_that_fails_anywhere_leaves_nothing_in_file_or_memory(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    check = Verification("in-person", "duty officer", world.clock.now())

    def observe(core: Core) -> None:
        try:
            core.approve_peer(birch.id, Level.OBSERVE, check)
        except CrashError:
            assert core.trust.peer(birch.id).level is Level.SHARE
            raise

    crash_everywhere(alder, observe)
    alder.reopen()
    assert alder.core.trust.peer(birch.id).level is Level.OBSERVE
    assert alder.core.trust.peer(birch.id).verification == check


def test_files_copied_in_the_middle_of_a_release_open_as_before_it(
    world: World, tmp_path: Path
) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    core = alder.reopen(store=FaultyStore)
    before = alder.dump()
    store = core.store
    assert isinstance(store, FaultyStore)
    for step in range(1, 8):
        torn = tmp_path / f"torn-{step}"

        def die(torn: Path = torn) -> None:
            shutil.copytree(alder.home.path, torn, ignore=shutil.ignore_patterns("*-shm"))
            raise CrashError

        store.arm(0)
        store._step = stepping(step, die)  # type: ignore[method-assign]
        with pytest.raises(CrashError):
            core.release(token(2), [alder.ship(birch, body=record(2))])
        assert dump(torn / "node.db") == before


def stepping(step: int, die: Callable[[], None]) -> Callable[[], None]:
    """Return a counter that calls *die* at *step*."""
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done == step:
            die()

    return count


def test_a_crash_between_commit_and_fence_loses_and_repeats_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch = world["alder"], world["birch"]

    def crash(*_: object) -> None:
        raise CrashError

    monkeypatch.setattr(alder.core._fence, "raise_to", crash)
    alder.release(1, birch)
    with pytest.raises(CrashError):
        alder.core.log.checkpoint()
    monkeypatch.undo()
    alder.reopen()
    assert alder.shows() == {incident_id(1)}
    with pytest.raises(ConflictError):
        alder.release(1, birch)
    assert pass_on(alder, birch).stored
    assert alder.core.verify()["envelopes"] == 1


def test_a_fence_that_cannot_be_written_stops_the_node(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data is committed but not fenced, so nothing may leave: only a StoreError says that."""
    alder, birch = world["alder"], world["birch"]
    core = alder.core
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(core._fence, "_file", full.fileno())
        alder.release(1, birch)
        for _ in range(2):
            with pytest.raises(StoreError):
                alder.core.log.checkpoint()
        monkeypatch.undo()
    alder.reopen()
    assert alder.shows() == {incident_id(1)}


def test_one_token_releases_once(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    alder.release(1, birch)
    alder.reopen()
    before = alder.dump()
    for to in ([birch], [cedar], [birch, cedar]):
        with pytest.raises(ConflictError):
            alder.release(1, *to)
    alder.reopen()
    with pytest.raises(ConflictError):
        alder.release(1, cedar)
    assert alder.dump() == before


def test_a_recipient_whose_key_cannot_be_used_stops_the_whole_release(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    good = alder.ship(birch, body=record(1))
    weak = alder.ship(cedar, body=record(1))
    card = weak.recipients[cedar.id]
    zero = SealKey(bytes(suite.SEAL_SIZE), 0, card.expires)
    bad = replace(weak, recipients={cedar.id: replace(card, seal=(zero,))})
    before = alder.dump()
    with pytest.raises(WeakKeyError):
        alder.core.release(token(1), [good, bad])
    assert alder.dump() == before
    assert alder.core.release(token(1), [good, weak])


def test_a_full_outbox_refuses_a_release_and_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    monkeypatch.setattr(limits, "MAX_OUTBOX", 3)
    alder.release(1, birch, cedar)
    before = alder.dump()
    with pytest.raises(BusyError):
        alder.release(2, birch, cedar)
    with pytest.raises(BusyError):
        alder.release(2, birch, carriers=[cedar])
    assert alder.dump() == before
    pass_on(alder, birch)
    assert alder.release(2, birch, cedar), "a receipt made room"


def test_a_locked_node_releases_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    shipment = alder.ship(birch, body=record(1))
    alder.reopen(locked=True)
    before = alder.dump()
    with pytest.raises(LockedError):
        alder.core.release(token(1), [shipment])
    assert alder.dump() == before


# --- streams and epochs ------------------------------------------------------------------------
def test_each_audience_has_a_stream_of_its_own_with_unbroken_links(world: World) -> None:
    alder, birch, cedar, dogwood = (world[n] for n in ("alder", "birch", "cedar", "dogwood"))
    audiences = [([birch], []), ([birch, cedar], []), ([birch], [dogwood]), ([cedar], [dogwood])]
    streams = set()
    for number, (to, carriers) in enumerate(audiences):
        first = alder.release(10 * number, *to, carriers=carriers)
        second = alder.release(10 * number + 1, *reversed(to), carriers=carriers)
        stream, seq, prev = place(alder, first)
        assert (seq, prev) == (1, suite.ZERO)
        assert place(alder, second) == (stream, 2, first)
        streams.add(stream)
    assert len(streams) == len(audiences)


def test_only_the_opener_of_an_epoch_has_slots_and_its_continuation_opens_everywhere(
    world: World,
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    first, second = (alder.release(number, birch, cedar) for number in (1, 2))
    assert len(alder.envelope(first).slots) == 3
    assert alder.envelope(second).slots == ()
    assert alder.envelope(second).header.opener == first
    assert len(alder.envelope(second).wire) < 2_000
    for peer in (birch, cedar):
        pass_on(alder, peer)
        assert peer.core.open(second) == record(2)
        assert peer.shows() == {incident_id(1), incident_id(2)}


def test_a_restarted_author_begins_an_incarnation_that_is_linked_to_its_last_head(
    world: World,
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    first, second = (alder.release(number, birch) for number in (1, 2))
    alder.reopen()
    third = alder.release(3, birch)
    fourth = alder.release(4, birch)
    old, new, after = (alder.envelope(key).header for key in (second, third, fourth))
    assert new.incarnation > old.incarnation
    assert new.stream != old.stream
    assert (new.seq, new.prev) == (1, second), "the new stream says where the last one ended"
    assert (new.epoch, new.opener) == (1, None), "the key of a stream is of that stream alone"
    assert place(alder, fourth) == (new.stream, 2, third)
    assert after.opener == third
    _, seq, prev = place(alder, alder.release(5, cedar))
    assert (seq, prev) == (1, suite.ZERO), "nothing was ever sent to that audience"
    pass_on(alder, birch)
    assert birch.shows() == {incident_id(number) for number in (1, 2, 3, 4)}
    assert "equivocation" not in birch.notices()
    assert birch.core.streams.forks(key_of(birch.envelope(third))) == []
    assert alder.envelope(first).header.prev == suite.ZERO


def test_no_incarnation_is_used_twice_whatever_the_clock_or_a_backup_says(
    world: World, tmp_path: Path
) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.close()
    backup = shutil.copytree(alder.home.path, tmp_path / "backup")
    alder.open()
    used = [alder.envelope(alder.release(1, birch)).header]
    world.clock.advance(-DAY)
    for number in (2, 3):
        alder.reopen()
        used.append(alder.envelope(alder.release(number, birch)).header)
    assert [header.incarnation - used[0].incarnation for header in used] == [0, 1, 2]
    world.clock.advance(DAY + MINUTE)
    alder.close()
    shutil.rmtree(alder.home.path)
    shutil.copytree(backup, alder.home.path)
    alder.open()
    header = alder.envelope(alder.release(4, birch)).header
    assert header.incarnation > used[-1].incarnation
    assert (header.seq, header.stream in {old.stream for old in used}) == (1, False)


def test_an_epoch_ends_after_a_week_and_not_before(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    assert EPOCH_LIFETIME_MS == WEEK
    first = alder.release(1, birch)
    world.clock.advance(WEEK - 1)
    second = alder.release(2, birch)
    world.clock.advance(1)
    third = alder.release(3, birch)
    fourth = alder.release(4, birch)
    headers = [alder.envelope(key).header for key in (first, second, third, fourth)]
    assert [header.opener for header in headers] == [None, first, None, third]
    assert [header.epoch for header in headers] == [1, 1, 2, 2]
    assert [header.seq for header in headers] == [1, 2, 3, 4]
    assert headers[2].stream == headers[0].stream
    pass_on(alder, birch)
    assert len(birch.shows()) == 4


def test_an_epoch_ends_when_the_sealing_key_of_a_member_changes(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.release(1, birch)
    other = suite.seal_public_bytes(bytes(31) + b"\x01")
    shipment = alder.ship(birch, body=record(2))
    card = shipment.recipients[birch.id]
    changed = replace(card, seal=(SealKey(other, 0, card.expires),))
    (second,) = alder.core.release(token(2), [replace(shipment, recipients={birch.id: changed})])
    header = alder.envelope(second).header
    assert (header.opener, header.epoch, header.seq, header.prev) == (None, 2, 2, first)
    audience = alder.envelope(second).audience
    assert audience is not None
    assert dict(audience.recipients)[birch.id] == suite.ekid(other)


def test_a_node_that_joins_later_opens_nothing_older(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    old = [alder.release(number, birch) for number in (1, 2)]
    new = [alder.release(number, birch, cedar) for number in (3, 4)]
    pass_on(alder, cedar)
    assert cedar.shows() == {incident_id(3), incident_id(4)}
    taken = hand(alder, cedar, *old)
    assert not taken.stored
    assert not taken.receipts
    epoch = cedar.core._epoch(new[0])
    for key in old:
        held = VerifiedEnvelope(alder.envelope(key))
        with pytest.raises(PeerError):
            envelope.unseal_epoch(held, node_id=cedar.id, unsealer=cedar.vault)
        with pytest.raises(PeerError):
            envelope.open_body(held, envelope.content_key(held, epoch))


def test_an_author_with_a_new_card_goes_on_once_its_peer_has_the_card(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.release(1, birch)
    pass_on(alder, birch)
    world.clock.advance(MINUTE)
    alder.renew_card(contact="another desk")
    second = alder.release(2, birch)
    taken = pass_on(alder, birch)
    assert [refusal.code for refusal in taken.refusals] == ["unknown-card"]
    assert taken.faults == 0
    birch.core.take_statements(alder.id, alder.core.statements_of(alder.id, 2))
    world.clock.advance(MINUTE)
    assert pass_on(alder, birch).stored == (second,)
    assert birch.shows() == {incident_id(1), incident_id(2)}
    assert birch.envelope(first).header.card_n < birch.envelope(second).header.card_n
    assert birch.core.verify()["envelopes"] == 2


# --- unknown epoch -----------------------------------------------------------------------------
def test_who_lacks_the_opener_is_sent_it_and_then_takes_both_in_order(
    world: World, tmp_path: Path
) -> None:
    alder, birch = world["alder"], world["birch"]
    birch.close()
    backup = shutil.copytree(birch.home.path, tmp_path / "backup")
    birch.open()
    first = alder.release(1, birch)
    pass_on(alder, birch)
    assert alder.state(first, birch) == "received"
    birch.close()
    shutil.rmtree(birch.home.path)
    shutil.copytree(backup, birch.home.path)
    birch.open()
    second = alder.release(2, birch)
    taken = pass_on(alder, birch)
    assert [refusal.code for refusal in taken.refusals] == ["unknown-epoch"]
    assert taken.faults == 0, "it is no fault of the giver"
    world.clock.advance(MINUTE)
    assert pass_on(alder, birch).stored == (first, second)
    assert birch.shows() == {incident_id(1), incident_id(2)}
    assert [alder.state(key, birch) for key in (first, second)] == ["received", "received"]
    assert Counter(alder.kinds())[EntryKind.RECEIPT] == 2, "the opener's first receipt stands"
    assert alder.core.verify()["receipts"] == 2


def test_a_continuation_offered_before_its_opener_in_one_frame_comes_through(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first, second = (alder.release(number, birch) for number in (1, 2))
    taken = hand(alder, birch, second, first)
    assert taken.stored == (first,)
    alder.core.outbox.refused(birch.id, taken.refusals)
    for receipts in taken.receipts:
        alder.core.take_receipts(receipts)
    world.clock.advance(MINUTE)
    while pass_on(alder, birch).stored:
        pass
    assert birch.shows() == {incident_id(1), incident_id(2)}
    assert alder.core.outbox.size() == 0


# --- gaps and forks ----------------------------------------------------------------------------
def test_a_gap_delays_nothing_and_is_filled_later(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    ids = [alder.release(number, birch) for number in (1, 2, 3, 4)]
    stream = key_of(alder.envelope(ids[0]))
    hand(alder, birch, ids[0], ids[3])
    assert birch.shows() == {incident_id(1), incident_id(4)}
    state = birch.core.streams.state(stream)
    assert state is not None
    assert (state.contiguous, state.beyond, state.head) == (1, ((4, 4),), ids[0])
    hand(alder, birch, ids[2])
    hand(alder, birch, ids[1])
    state = birch.core.streams.state(stream)
    assert state is not None
    assert (state.contiguous, state.beyond, state.head) == (4, (), ids[3])
    assert not state.forked
    assert len(birch.shows()) == 4
    assert "equivocation" not in birch.notices()


class Forked:
    """One stream that its author goes on with in two ways."""

    def __init__(self, alder: Station, birch: Station) -> None:
        self.first = alder.envelope(alder.release(1, birch)).wire
        self.one = forge(alder, birch, numbers=(2, 3))
        self.other = forge(alder, birch, numbers=(12, 13))
        self.author = alder.id


@pytest.mark.parametrize(
    "order",
    [
        ("first", "one0", "other0"),
        ("first", "one0", "one1", "other0", "other1"),
        ("first", "one0", "other1"),
        ("first", "other1", "one0"),
        ("first", "one1", "other0"),
        ("first", "one1", "other1"),
    ],
    ids=" ".join,
)
def test_a_fork_is_kept_twice_logged_as_equivocation_and_shown(
    world: World, order: tuple[str, ...]
) -> None:
    birch = world["birch"]
    fork = Forked(world["alder"], birch)
    named = {"first": fork.first, "one0": fork.one[0], "one1": fork.one[1]}
    named |= {"other0": fork.other[0], "other1": fork.other[1]}
    wires = [named[name] for name in order]
    stored = [birch.core.take([wire], giver=fork.author).stored for wire in wires]
    assert all(stored), "each of them is kept"
    assert len(birch.shows()) == len(wires), "each of them is shown"
    assert EntryKind.EQUIVOCATION in birch.kinds()
    key = key_of(parse(fork.first))
    for _ in range(2):
        assert "alder" in birch.notices()["equivocation"]
        state = birch.core.streams.state(key)
        assert state is not None
        assert state.forked
        for proof in birch.core.streams.forks(key):
            verify_fork(
                parse_fork(proof), network=birch.core.trust.own.network,
                card_at=birch.core.trust.card_at,
            )  # fmt: skip
        birch.reopen()
    assert birch.core.verify()["envelopes"] == len(wires)


def test_an_envelope_of_ours_that_we_lost_comes_back_without_blame_and_is_sent_again(
    world: World, tmp_path: Path
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    alder.close()
    backup = shutil.copytree(alder.home.path, tmp_path / "backup")
    alder.open()
    lost = alder.release(1, birch, cedar)
    assert hand(alder, birch, lost).stored == (lost,)
    alder.close()
    shutil.rmtree(alder.home.path)
    shutil.copytree(backup, alder.home.path)
    alder.open()
    taken = hand(birch, alder, lost)
    assert [refusal.code for refusal in taken.refusals] == ["own-envelope"]
    assert (taken.faults, taken.stored, taken.receipts) == (0, (lost,), ())
    assert alder.kinds()[-1] is EntryKind.RELEASED
    assert alder.shows() == {incident_id(1)}
    assert alder.core.verify()["envelopes"] == 1
    assert [alder.state(lost, peer) for peer in (birch, cedar)] == ["queued", "queued"]
    assert pass_on(alder, cedar).stored == (lost,)
    again = hand(birch, alder, lost)
    assert [refusal.code for refusal in again.refusals] == ["own-envelope"]
    assert (again.faults, again.stored) == (0, ())


# --- taking ------------------------------------------------------------------------------------
def test_the_same_envelope_is_stored_once_however_often_it_comes(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    taken = hand(alder, birch, key, key)
    assert taken.stored == (key,)
    (one,) = taken.receipts
    assert isinstance(one, Receipts)
    assert [item.envelope_id for item in one.items] == [key], "and receipted once"
    size = birch.core.log.size
    again = hand(alder, birch, key)
    assert (again.stored, again.refusals) == ((), ())
    (other,) = again.receipts
    assert isinstance(other, Receipts)
    assert other.items[0].index == one.items[0].index
    assert birch.core.log.size == size
    alder.core.take_receipts(taken.receipts[0])
    alder.core.take_receipts(again.receipts[0])
    assert alder.core.verify()["receipts"] == 1


def test_one_bad_envelope_does_not_spoil_the_frame(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [alder.release(number, birch) for number in (1, 2, 3)]
    wires = [alder.envelope(key).wire for key in keys]
    wires[1] = wires[1][:-1] + bytes([wires[1][-1] ^ 1])
    taken = birch.core.take([*wires, b"rubbish"], giver=alder.id)
    assert taken.stored == (keys[0], keys[2])
    assert len(taken.refusals) == 2
    assert taken.faults == 2
    assert birch.core.verify()["envelopes"] == 2


def test_nothing_is_kept_or_admitted_outside_the_audience(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch)
    wire = alder.envelope(key).wire
    before = cedar.dump()
    taken = cedar.core.take([wire], giver=alder.id)
    assert [refusal.code for refusal in taken.refusals] == ["wrong-audience"]
    assert cedar.dump() == before
    pass_on(alder, birch)
    stranger = birch.core.take([wire], giver=cedar.id)
    assert not stranger.receipts, "who is not in the audience does not learn that it is held"
    assert [refusal.code for refusal in stranger.refusals] == ["wrong-audience"]


@pytest.mark.parametrize("level", [None, Level.OBSERVE])
def test_an_author_is_heard_from_level_observe_on(
    world: World, tmp_path: Path, level: Level | None
) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    with birch.core.store.transaction():
        birch.core.store.run("DELETE FROM peers WHERE node_id = ?", alder.id)
    birch.reopen()
    assert not hand(alder, birch, key).stored
    introduce(birch, alder, level)
    taken = hand(alder, birch, key)
    assert bool(taken.stored) == (level is not None)
    assert taken.faults == 0


# --- carriers ----------------------------------------------------------------------------------
def test_a_carrier_stores_forwards_and_never_opens(world: World) -> None:
    alder, birch, cedar, dogwood = (world[n] for n in ("alder", "birch", "cedar", "dogwood"))
    key = alder.release(1, birch, carriers=[cedar])
    assert alder.state(key, cedar) == "held"
    assert not pass_on(alder, cedar).stored, "it is held back while the recipient may be reached"
    assert alder.core.outbox.ask_carriers(frozenset({cedar.id})) == 1
    assert pass_on(alder, cedar).stored == (key,)
    assert alder.state(key, cedar) == "carried"
    assert cedar.kinds()[-1] is EntryKind.CARRIED
    assert cedar.shows() == set()
    with pytest.raises(AudienceError):
        cedar.core.open(key)
    waiting = cedar.core.store.rows("SELECT peer, route FROM outbox")
    assert waiting == [{"peer": birch.id, "route": Route.FORWARD.value}]
    assert not pass_on(cedar, dogwood).stored
    assert pass_on(cedar, birch).stored == (key,)
    assert birch.shows() == {incident_id(1)}
    assert cedar.core.verify() == {"entries": 9, "envelopes": 1, "receipts": 1}


def test_a_carrier_forwards_to_nobody_that_it_has_frozen_or_never_met(world: World) -> None:
    alder, birch, cedar, dogwood = (world[n] for n in ("alder", "birch", "cedar", "dogwood"))
    with cedar.core.store.transaction():
        cedar.core.store.run("UPDATE peers SET level = 'frozen' WHERE node_id = ?", birch.id)
        cedar.core.store.run("DELETE FROM peers WHERE node_id = ?", dogwood.id)
    cedar.reopen()
    alder.release(1, birch, dogwood, carriers=[cedar])
    alder.core.outbox.ask_carriers(frozenset({cedar.id}))
    assert pass_on(alder, cedar).stored
    assert cedar.core.outbox.size() == 0


def test_a_node_that_does_not_carry_refuses_to(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    cedar.carries = False
    cedar.reopen()
    before = cedar.dump()
    key = alder.release(1, birch, carriers=[cedar])
    taken = hand(alder, cedar, key)
    assert [refusal.code for refusal in taken.refusals] == ["not-carrying"]
    assert cedar.dump() == before


def test_a_carrier_refuses_what_has_expired_and_a_recipient_does_not(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch, carriers=[cedar])
    world.clock.at = alder.envelope(key).header.expires
    assert [refusal.code for refusal in hand(alder, cedar, key).refusals] == ["expired"]
    assert hand(alder, birch, key).stored == (key,)
    assert birch.shows() == {incident_id(1)}


def test_a_receipt_is_passed_on_until_its_author_has_settled_it(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch, carriers=[cedar])
    alder.core.outbox.ask_carriers(frozenset({cedar.id}))
    pass_on(alder, cedar)
    assert cedar.core.receipts.for_author(alder.id, passed=frozenset()) == []
    pass_on(cedar, birch)
    pair = (key, birch.id)
    (receipts,) = cedar.core.receipts.for_author(alder.id, passed=frozenset())
    assert cedar.core.receipts.for_author(alder.id, passed=frozenset({pair})) == [], "once a link"
    assert cedar.core.receipts.for_author(birch.id, passed=frozenset()) == [], "it is alder's alone"
    # Said, and the carrier ends before it hears that it was settled.
    alder.core.take_receipts(receipts)
    cedar.reopen(locked=True)
    (again,) = cedar.core.receipts.for_author(alder.id, passed=frozenset())
    assert alder.core.take_receipts(again) == (key,)
    cedar.core.receipts_settled(birch.id, [pair])
    assert cedar.core.receipts.for_author(alder.id, passed=frozenset()), "its author settles it"
    cedar.core.receipts_settled(alder.id, [pair])
    cedar.reopen()
    assert cedar.core.receipts.for_author(alder.id, passed=frozenset()) == []
    assert alder.state(key, birch) == "received"
    assert alder.core.verify()["receipts"] == 2, "of the carrier and of the recipient"


def test_an_author_that_ends_before_it_settles_a_passed_receipt_gets_it_again(
    world: World,
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch, carriers=[cedar])
    alder.core.outbox.ask_carriers(frozenset({cedar.id}))
    pass_on(alder, cedar)
    pass_on(cedar, birch)
    assert cedar.core.receipts.for_author(alder.id, passed=frozenset())
    alder.reopen()
    seep(alder, cedar, birch)
    assert alder.state(key, birch) == "received"
    assert cedar.core.receipts.for_author(alder.id, passed=frozenset()) == []


# --- receipts ----------------------------------------------------------------------------------
def forged(receipts: Receipts, how: str, cedar: Station, alder: Station) -> Receipts:
    item = receipts.items[0]
    match how:
        case "another node":
            return replace(receipts, recipient=cedar.id)
        case "a stranger":
            return replace(receipts, recipient=bytes(32))
        case "a changed checkpoint":
            note = receipts.checkpoint.replace(b"\n", b"0\n", 2)
            return replace(receipts, checkpoint=note)
        case "the checkpoint of another log":
            return replace(receipts, checkpoint=cedar.core.log.checkpoint()[1])
        case "another envelope":
            other = alder.core.store.scalar("SELECT id FROM envelopes ORDER BY log_index DESC")
            return replace(receipts, items=(replace(item, envelope_id=other),))
        case "another index":
            return replace(receipts, items=(replace(item, index=item.index - 1),))
        case "a changed entry":
            entry = item.entry[:-1] + bytes([item.entry[-1] ^ 1])
            return replace(receipts, items=(replace(item, entry=entry),))
        case _:
            return replace(receipts, items=(ReceiptItem(*_whole(item)[:3], item.proof[1:]),))


def _whole(item: ReceiptItem) -> tuple[bytes, int, bytes, tuple[bytes, ...]]:
    return item.envelope_id, item.index, item.entry, item.proof


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("another node", SignatureError), ("a stranger", UntrustedKeyError),
        ("a changed checkpoint", PeerError), ("the checkpoint of another log", SignatureError),
        ("another envelope", ReceiptError), ("another index", ProofError),
        ("a changed entry", ProofError), ("a short proof", ProofError),
    ],
)  # fmt: skip
def test_a_forged_receipt_settles_nothing(world: World, how: str, error: type[PeerError]) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch)
    (receipts,) = hand(alder, birch, key).receipts
    assert isinstance(receipts, Receipts)
    alder.release(2, birch)
    before = alder.dump()
    with pytest.raises(error):
        alder.core.take_receipts(forged(receipts, how, cedar, alder))
    assert alder.dump() == before
    assert alder.core.take_receipts(receipts) == (key,)


@pytest.mark.parametrize(
    ("route", "claimed"),
    [(Route.DIRECT, EntryKind.CARRIED), (Route.CARRIER, EntryKind.RECEIVED),
     (Route.DIRECT, EntryKind.RELEASED)],
)  # fmt: skip
def test_a_receipt_that_claims_another_part_settles_nothing(
    world: World, route: Route, claimed: EntryKind
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch, carriers=[cedar])
    liar = birch if route is Route.DIRECT else cedar
    with liar.core.logged():
        index = liar.core.log.append([Act(claimed, key)])[0]
    receipts = liar.core.log.receipts([(key, index)])
    before = alder.dump()
    with pytest.raises(ReceiptError):
        alder.core.take_receipts(receipts)
    assert alder.dump() == before


def test_a_receipt_for_what_was_never_sent_to_that_node_is_refused(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch)
    with cedar.core.logged():
        index = cedar.core.log.append([Act(EntryKind.RECEIVED, key)])[0]
    with pytest.raises(ReceiptError):
        alder.core.take_receipts(cedar.core.log.receipts([(key, index)]))
    assert alder.state(key, birch) == "queued"


def test_a_receipt_settles_once(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    (receipts,) = hand(alder, birch, key).receipts
    alder.core.take_receipts(receipts)
    world.clock.advance(MINUTE)
    before = alder.dump()
    assert alder.core.take_receipts(receipts) == (key,), "it is settled; that was heard before"
    assert alder.dump() == before


def test_a_receipt_of_a_peer_that_was_frozen_since_still_counts(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    (receipts,) = hand(alder, birch, key).receipts
    with alder.core.store.transaction():
        alder.core.store.run("UPDATE peers SET level = 'frozen' WHERE node_id = ?", birch.id)
    alder.reopen()
    assert alder.core.take_receipts(receipts) == (key,)


# --- full disks --------------------------------------------------------------------------------
def test_a_full_disk_is_answered_busy_loses_nothing_and_passes(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    for number in range(40):
        alder.release(number, birch)
    with full_disk(birch):
        answers = []
        for _ in range(40):
            pair = alder.core.outbox.due(birch.id, limit=1, skip=frozenset())
            before = birch.dump()
            taken = birch.core.take([pair[0][1]], giver=alder.id)
            if not taken.stored:
                answers.append(taken)
                assert birch.dump() == before
                break
            alder.core.take_receipts(taken.receipts[0])
        (taken,) = answers
        assert [refusal.code for refusal in taken.refusals] == ["busy"]
        assert taken.refusals[0].retry_after >= 1_000
        assert (taken.receipts, taken.faults) == ((), 0)
        alder.core.outbox.refused(birch.id, taken.refusals)
    world.clock.advance(10 * MINUTE)
    pass_on(alder, birch)
    assert birch.shows() == {incident_id(number) for number in range(40)}
    assert alder.core.outbox.size() == 0
    assert birch.core.verify()["envelopes"] == 40


def test_a_release_on_a_full_disk_says_busy_and_works_later(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    with full_disk(alder):
        number = 0
        before = alder.dump()
        with pytest.raises(BusyError):
            for number in range(100):
                before = alder.dump()
                alder.release(number, birch)
        assert alder.dump() == before
    assert alder.release(number, birch)
    pass_on(alder, birch)
    assert len(birch.shows()) == number + 1
    assert alder.core.verify()["envelopes"] == number + 1


def test_a_receipt_on_a_full_disk_stays_unsettled_and_comes_again(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [alder.release(number, birch) for number in range(40)]
    (receipts,) = hand(alder, birch, *keys).receipts
    before = alder.dump()
    with full_disk(alder), pytest.raises(BusyError):
        alder.core.take_receipts(receipts)
    assert alder.dump() == before
    assert alder.core.take_receipts(receipts) == tuple(keys)
    assert alder.core.verify()["receipts"] == 40


def test_a_full_disk_under_the_casebook_delays_reading_only(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = []
    with full_case_disk(birch):
        for number in range(100):
            keys.append(alder.release(number, birch))
            assert not pass_on(alder, birch).refusals
            if birch.core.behind is not None:
                break
        assert birch.core.behind is not None
        assert alder.state(keys[-1], birch) == "received", "it is durable, and so receipted"
        assert incident_id(len(keys) - 1) not in birch.shows()
        assert "behind" in birch.notices()
    birch.core.try_follow()
    assert not is_behind(birch)
    assert birch.shows() == {incident_id(number) for number in range(len(keys))}
    assert "behind" not in birch.notices()


def is_behind(station: Station) -> bool:
    """Read it anew: a type checker takes an attribute for what it was seen to be."""
    return station.core.behind is not None


def test_a_full_disk_under_the_casebook_does_not_keep_a_node_locked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that starts on a full disk goes on receiving; only what it shows has to wait."""
    alder, birch = world["alder"], world["birch"]
    birch.reopen(locked=True)
    for number in range(40):
        alder.release(number, birch)
    pass_on(alder, birch)

    class FullCasebook(Casebook):
        def __init__(self, path: Path, storage_key: bytes) -> None:
            super().__init__(path, storage_key)
            self._connection.execute("PRAGMA max_page_count = 1")

    monkeypatch.setattr("node.core.Casebook", FullCasebook)
    birch.core.unlock(birch.vault)
    assert birch.core.behind is not None
    assert not birch.shows()
    birch.core.opened()[1]._connection.execute("PRAGMA max_page_count = 1000000")
    birch.core.try_follow()
    assert not is_behind(birch)
    assert len(birch.shows()) == 40


# --- locked ------------------------------------------------------------------------------------
def test_a_locked_node_receives_logs_receipts_and_forwards_and_opens_all_when_unlocked(
    world: World,
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    birch.reopen(locked=True)
    own = [alder.release(number, birch) for number in (1, 2)]
    carried = alder.release(3, cedar, carriers=[birch])
    alder.core.outbox.ask_carriers(frozenset({birch.id}))
    pass_on(alder, birch)
    assert [alder.state(key, birch) for key in own] == ["received", "received"]
    assert alder.state(carried, birch) == "carried"
    pass_on(birch, cedar)
    assert cedar.shows() == {incident_id(3)}
    assert birch.core.verify()["envelopes"] == 3
    with pytest.raises(LockedError):
        birch.core.open(own[0])
    birch.core.unlock(birch.vault)
    assert birch.shows() == {incident_id(1), incident_id(2)}
    assert "locked" not in birch.notices()


def test_a_keystore_of_another_node_unlocks_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.reopen(locked=True)
    with pytest.raises(StoreError):
        alder.core.unlock(birch.vault)
    assert alder.core.vault is None
    assert not list(alder.home.path.glob("case.db.new*"))
    alder.core.unlock(alder.vault)


def test_service_keys_of_another_node_open_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.close()
    shutil.copy(birch.home.service_key, alder.home.service_key)
    with pytest.raises(KeystoreError):
        alder.open()


# --- what breaks the schema --------------------------------------------------------------------
def poison(how: str) -> bytes:
    good = record(2)
    match how:
        case "not canonical":
            return b"\xc1" + good
        case "not a map":
            return encode(["incident.report"])
        case "empty":
            return b""
        case "unknown field":
            return encode({"record": "incident.report", "more": 1})
        case "no layer":
            return encode(
                {
                    "record": "incident.report", "incident_id": incident_id(2),
                    "ref": "PI-XA-2026-000002", "revision": 1, "prev": None,
                    "first_shared_at": "2026-03-04T09:00:00Z",
                }
            )  # fmt: skip
        case "bytes for text":
            return good.replace(b"\xa5drums", b"\xc4\x05drums")
        case _:
            return good.replace(b"seizure", b"robbery")


@pytest.mark.parametrize(
    "how",
    ["not canonical", "not a map", "empty", "unknown field", "no layer", "bytes for text",
     "unknown word"],
)  # fmt: skip
def test_a_record_that_breaks_the_schema_is_set_aside_and_the_next_is_shown(
    world: World, how: str
) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    (bad,) = alder.core.release(token(2), [alder.ship(birch, body=poison(how))])
    alder.release(3, birch)
    pass_on(alder, birch)
    for station in (alder, birch):
        assert station.shows() == {incident_id(1), incident_id(3)}
        _, cases = station.core.opened()
        assert [row["envelope_id"] for row in cases.quarantined()] == [bad]
        assert "quarantined" in station.notices()
    assert alder.state(bad, birch) == "received", "it arrived, which is all a receipt says"
    birch.reopen()
    assert birch.shows() == {incident_id(1), incident_id(3)}
    assert birch.core.opened()[1].next_index == birch.core.log.size
    assert birch.core.verify()["envelopes"] == 3


def test_an_epoch_sealed_to_a_key_that_is_not_ours_is_set_aside(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    shipment = alder.ship(birch, body=record(2))
    card = shipment.recipients[birch.id]
    other = SealKey(suite.seal_public_bytes(bytes(31) + b"\x01"), 0, card.expires)
    changed = replace(shipment, recipients={birch.id: replace(card, seal=(other,))})
    keys = [
        alder.core.release(token(number), [replace(changed, body=record(number))])[0]
        for number in (2, 3)
    ]
    alder.release(4, birch)
    assert not pass_on(alder, birch).refusals
    assert birch.shows() == {incident_id(1), incident_id(4)}
    _, cases = birch.core.opened()
    assert [(row["envelope_id"], row["code"]) for row in cases.quarantined()] == [
        (key, "cannot-open") for key in keys
    ]


# --- key statements ----------------------------------------------------------------------------
def test_statements_are_given_of_ourselves_and_of_peers_that_may_link_only(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    assert len(alder.core.statements_of(alder.id, 0)) == 2
    assert len(alder.core.statements_of(birch.id, 1)) == 1
    assert alder.core.statements_of(bytes(32), 0) == ()
    with alder.core.store.transaction():
        alder.core.store.run("UPDATE peers SET level = 'frozen' WHERE node_id = ?", birch.id)
    alder.reopen()
    assert alder.core.statements_of(birch.id, 0) == ()


def test_statements_under_another_name_are_refused(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    wires = birch.core.statements_of(birch.id, 0)
    before = alder.dump()
    with pytest.raises(UntrustedKeyError):
        alder.core.take_statements(cedar.id, wires)
    assert alder.core.take_statements(birch.id, wires) == 0, "known already"
    assert alder.dump() == before


def test_two_statements_of_one_number_freeze_the_peer(world: World, tmp_path: Path) -> None:
    alder, birch = world["alder"], world["birch"]
    birch.close()
    other = shutil.copytree(birch.home.path, tmp_path / "twin" / "birch")
    birch.open()
    world.clock.advance(MINUTE)
    birch.renew_card(contact="one desk")
    twin = Station(type(birch.home)(other), birch.secrets, birch.clock, birch.random)
    twin.open()
    twin.renew_card(contact="another desk")
    alder.core.take_statements(birch.id, birch.core.statements_of(birch.id, 2))
    with pytest.raises(PeerError):
        alder.core.take_statements(birch.id, twin.core.statements_of(birch.id, 2))
    twin.close()
    for _ in range(2):
        assert alder.core.trust.peer(birch.id).level is Level.FROZEN
        # Which of the two is looked at does not depend on which came first.
        assert alder.core.trust.peer(birch.id).card.contact in {"one desk", "another desk"}
        alder.reopen()
    key = birch.release(1, alder)
    assert not hand(birch, alder, key).stored
    assert alder.core.verify()["entries"] == alder.core.log.size


def test_parts_in_an_envelope_are_recorded_as_they_are(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch, carriers=[cedar])
    seep(alder, cedar, birch)
    found = {s.name: s.core.store.envelope(key) for s in (alder, birch, cedar)}
    parts = {name: row["part"] for name, row in found.items() if row is not None}
    assert parts == {
        "alder": Part.AUTHOR.value, "birch": Part.RECIPIENT.value, "cedar": Part.CARRIER.value
    }  # fmt: skip
