"""The outbox: who is still owed what, in which order it is offered, and when carriers are asked."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from node.outbox import Outbox, Route
from node.store import Store
from node.streams import key_of
from protocol import limits
from protocol.delivery import CARRIERS_ASKED
from protocol.frames import Refusal
from tests.factories import seed
from tests.node.factories import (
    MINUTE,
    NOW,
    ManualClock,
    Station,
    World,
    copied,
    hand,
    made_once,
    pass_on,
)

LATE: Final = limits.RECEIPT_TIMEOUT_MS


@dataclass
class Desk:
    """An outbox over a database without a node, and who it serves."""

    store: Store
    clock: ManualClock
    outbox: Outbox
    recipient: bytes = field(default_factory=lambda: seed("recipient", "id"))
    carriers: tuple[bytes, ...] = field(
        default_factory=lambda: tuple(sorted(seed(f"carrier {n}", "id") for n in range(4)))
    )

    def post(self, number: int = 1, *, carriers: int = 4) -> bytes:
        """Queue one envelope for the recipient, with some carriers allowed."""
        envelope_id = seed(f"envelope {number}", "id")
        routes = [(self.recipient, Route.DIRECT)]
        routes += [(carrier, Route.CARRIER) for carrier in self.carriers[:carriers]]
        with self.store.transaction():
            self.outbox.add(envelope_id, routes, position=number)
        return envelope_id

    def asked(self, envelope_id: bytes) -> set[int]:
        """Return the numbers of the carriers that are no longer held back."""
        states = {n: self.state(envelope_id, c) for n, c in enumerate(self.carriers)}
        return {n for n, state in states.items() if state not in {"held", "spared", None}}

    def state(self, envelope_id: bytes, peer: bytes) -> str | None:
        row = self.outbox.row(envelope_id, peer)
        return None if row is None else str(row["state"])

    def late(self, envelope_id: bytes, peer: bytes) -> None:
        with self.store.transaction():
            self.outbox.late(peer, [envelope_id])

    def settle(self, envelope_id: bytes, peer: bytes) -> None:
        with self.store.transaction():
            self.outbox.settle([envelope_id], peer, carried=peer in self.carriers)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    store, clock = Store(tmp_path / "node.db", create=True), ManualClock()
    yield Desk(store, clock, Outbox(store, clock))
    store.close()


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


# --- carriers ----------------------------------------------------------------------------------
def test_no_carrier_is_asked_while_the_recipient_is_reached_and_in_time(desk: Desk) -> None:
    key = desk.post()
    linked = frozenset({desk.recipient, *desk.carriers})
    assert desk.outbox.ask_carriers(linked) == 0
    desk.clock.advance(LATE)
    desk.late(key, desk.recipient)
    desk.clock.advance(-1)
    assert desk.outbox.ask_carriers(linked) == 0
    desk.clock.advance(1)
    assert desk.outbox.ask_carriers(linked) == CARRIERS_ASKED


def test_two_carriers_are_asked_for_who_is_not_linked_and_linked_ones_first(desk: Desk) -> None:
    key = desk.post()
    linked = frozenset(desk.carriers[2:])
    assert desk.outbox.ask_carriers(linked) == 2
    assert desk.asked(key) == {2, 3}
    for _ in range(3):
        desk.clock.advance(MINUTE)
        assert desk.outbox.ask_carriers(linked) == 0, "two are enough"


def test_one_carrier_is_asked_if_one_is_allowed_and_none_if_none_is(desk: Desk) -> None:
    alone, none = desk.post(1, carriers=1), desk.post(2, carriers=0)
    assert desk.outbox.ask_carriers(frozenset()) == 1
    assert desk.asked(alone) == {0}
    assert desk.asked(none) == set()


def test_a_carrier_that_is_late_or_gone_is_replaced_and_one_that_has_it_is_not(desk: Desk) -> None:
    key = desk.post()
    linked = frozenset(desk.carriers)
    desk.outbox.ask_carriers(linked)
    assert desk.asked(key) == {0, 1}
    desk.settle(key, desk.carriers[0])
    assert desk.outbox.ask_carriers(linked) == 0
    desk.clock.advance(LATE)
    desk.late(key, desk.carriers[1])
    assert desk.outbox.ask_carriers(linked) == 1
    assert desk.asked(key) == {0, 1, 2}
    assert desk.outbox.ask_carriers(linked - {desk.carriers[0]}) == 0, "what it has it keeps"
    assert desk.outbox.ask_carriers(linked - {desk.carriers[2]}) == 1
    assert desk.asked(key) == {0, 1, 2, 3}
    assert desk.outbox.ask_carriers(frozenset()) == 0, "there is nobody left to ask"


def test_carriers_are_spared_once_every_recipient_has_it(desk: Desk) -> None:
    key, other = desk.post(), seed("other recipient", "id")
    with desk.store.transaction():
        desk.outbox.add(key, [(other, Route.DIRECT)], position=1)
    desk.settle(key, desk.recipient)
    assert {desk.state(key, carrier) for carrier in desk.carriers} == {"held"}
    desk.settle(key, other)
    assert {desk.state(key, carrier) for carrier in desk.carriers} == {"spared"}
    desk.clock.advance(LATE)
    assert desk.outbox.ask_carriers(frozenset()) == 0
    assert desk.outbox.size() == 0


def test_who_carries_survives_a_restart(desk: Desk) -> None:
    key = desk.post()
    desk.outbox.ask_carriers(frozenset(desk.carriers))
    again = Outbox(desk.store, desk.clock)
    assert again.ask_carriers(frozenset(desk.carriers)) == 0
    assert desk.asked(key) == {0, 1}


# --- late and refused --------------------------------------------------------------------------
def test_the_first_lateness_stands_and_each_counts_as_an_attempt(desk: Desk) -> None:
    key = desk.post()
    for _ in range(3):
        desk.clock.advance(LATE)
        desk.late(key, desk.recipient)
    row = desk.outbox.row(key, desk.recipient)
    assert row is not None
    assert (row["attempts"], row["first_at"], row["state"]) == (3, NOW, "queued")
    desk.settle(key, desk.recipient)
    desk.late(key, desk.recipient)
    row = desk.outbox.row(key, desk.recipient)
    assert row is not None
    assert (row["attempts"], row["state"]) == (3, "received")


def test_what_was_refused_waits_longer_each_time_and_as_long_as_was_asked(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    waits = []
    for _ in range(12):
        refuse(alder, birch, key, "busy")
        assert not due(alder, birch)
        row = alder.core.outbox.row(key, birch.id)
        assert row is not None
        waits.append(row["next_at"] - world.clock.now())
        assert row["code"] == "busy"
        world.clock.advance(waits[-1] - 1)
        assert not due(alder, birch)
        world.clock.advance(1)
        assert due(alder, birch) == [key]
    assert waits[:3] == [2_000, 4_000, 8_000]
    assert waits == sorted(waits)
    assert waits[-1] == 10 * MINUTE
    refuse(alder, birch, key, "quota", retry_after=11 * MINUTE)
    world.clock.advance(11 * MINUTE - 1)
    assert not due(alder, birch)
    world.clock.advance(1)
    assert pass_on(alder, birch).stored == (key,)
    assert alder.core.outbox.row(key, birch.id)["code"] is None  # type: ignore[index]


def test_a_refusal_of_what_was_never_offered_or_is_settled_changes_nothing(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch)
    pass_on(alder, birch)
    before = alder.dump()
    refuse(alder, birch, key, "busy")
    refuse(alder, cedar, key, "unknown-epoch")
    refuse(alder, birch, bytes(32), "unknown-epoch")
    assert alder.dump() == before


def refuse(
    author: Station, peer: Station, envelope_id: bytes, code: str, retry_after: int = 0
) -> None:
    with author.core.logged():
        author.core.outbox.refused(peer.id, [Refusal(envelope_id, code, retry_after)])


def due(author: Station, peer: Station) -> list[bytes]:
    pairs = author.core.outbox.due(peer.id, limit=100, skip=frozenset())
    return [envelope_id for envelope_id, _ in pairs]


# --- what is offered, and in which order -------------------------------------------------------
def test_what_waits_is_offered_in_log_order_in_pages_however_they_are_cut(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    sent = [alder.release(n, birch, *([cedar] if n % 3 == 0 else [])) for n in range(20)]
    dice = random.Random(7)
    position, got = -1, []
    while True:
        limit, size = dice.randint(1, 5), dice.randint(1, 9_000)
        rows, _ = alder.core.outbox.after(birch.id, position, limit=limit, size=size)
        if not rows:
            break
        assert len(rows) <= limit
        assert sum(len(row["wire"]) for row in rows[:-1]) < size
        assert all(alder.envelope(row["envelope_id"]).wire == row["wire"] for row in rows)
        position = rows[-1]["position"]
        got += [row["envelope_id"] for row in rows]
    assert got == sent
    hand_and_settle(alder, birch, *sent[:10])
    rest, _ = alder.core.outbox.after(birch.id, -1, limit=100, size=10**7)
    assert [row["envelope_id"] for row in rest] == sent[10:]
    for row in rest:
        held = alder.envelope(row["envelope_id"]).header
        assert (row["author"], row["incarnation"]) == (held.author, held.incarnation)
        assert (row["stream"], row["seq"]) == (held.stream, held.seq)


def hand_and_settle(giver: Station, taker: Station, *keys: bytes) -> None:
    for receipts in hand(giver, taker, *keys).receipts:
        giver.core.take_receipts(receipts)


def test_only_streams_of_which_something_old_waits_are_backlog(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    old = alder.release(1, birch)
    both = alder.release(2, birch, cedar)
    limit = alder.core.log.size
    alder.release(3, cedar)
    alder.release(4, birch, carriers=[cedar])
    outbox = alder.core.outbox
    keys = [key_of(alder.envelope(each)) for each in (old, both)]
    assert outbox.streams_due(birch.id, below=limit).keys() == set(keys)
    assert outbox.streams_due(cedar.id, below=limit) == {keys[1]: 1}
    assert outbox.streams_due(birch.id, below=0) == {}
    assert len(outbox.streams_due(birch.id, below=alder.core.log.size)) == 3
    hand_and_settle(alder, birch, old)
    assert outbox.streams_due(birch.id, below=limit) == {keys[1]: 1}


def test_only_what_stands_below_a_log_index_is_offered_again(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.release(1, birch)
    limit = alder.core.log.size
    second = alder.release(2, birch)
    outbox = alder.core.outbox
    assert [k for k, _ in outbox.due(birch.id, limit=9, skip=frozenset(), below=limit)] == [first]
    assert [k for k, _ in outbox.due(birch.id, limit=9, skip=frozenset({first}))] == [second]


def test_an_expired_forward_ends_and_a_delivery_of_our_own_does_not(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch, carriers=[cedar])
    alder.core.outbox.ask_carriers(frozenset({cedar.id}))
    pass_on(alder, cedar)
    assert cedar.core.outbox.expire_forwards() == 0
    world.clock.at = alder.envelope(key).header.expires
    for station in (alder, cedar):
        station.core.outbox.expire_forwards()
    assert cedar.state(key, birch) == "expired"
    assert alder.state(key, birch) == "queued", "late is better than never"


def test_settling_many_at_once_is_as_settling_each(world: World, tmp_path: Path) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [alder.release(n, birch) for n in range(3)]
    alder.close()
    one = shutil.copytree(alder.home.path, tmp_path / "one" / "alder")
    alder.open()
    with alder.core.logged():
        alder.core.outbox.settle(keys, birch.id, carried=False)
    twin = Station(type(alder.home)(one), alder.secrets, alder.clock, alder.random)
    twin.open()
    for key in reversed(keys):
        with twin.core.logged():
            twin.core.outbox.settle([key], birch.id, carried=False)
    assert twin.dump()["outbox"] == alder.dump()["outbox"]
    twin.close()


def test_what_was_put_off_is_due_at_once_for_a_peer_that_holds_it(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    sent = alder.release(1, birch, cedar)
    outbox = alder.core.outbox
    for peer in (birch.id, cedar.id):
        with alder.core.store.transaction():
            outbox.refused(peer, [Refusal(sent, "busy", 60_000)])
        assert outbox.due(peer, limit=9, skip=frozenset()) == []
    outbox.hasten(birch.id)
    assert [key for key, _ in outbox.due(birch.id, limit=9, skip=frozenset())] == [sent]
    assert outbox.due(cedar.id, limit=9, skip=frozenset()) == []
