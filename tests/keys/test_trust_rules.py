"""Rules of trust that need more than one statement, and every order in which these can come."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import pytest

from keys.trust import Level, TrustStore, Verification, certificates_of
from protocol import limits, suite
from protocol.errors import StatementError, UnknownRecipientError
from protocol.statement import Card, Chain, Statement
from protocol.suspension import Suspension, make_suspension, parse_suspension
from tests.factories import (
    DAY,
    NETWORK,
    NOW,
    TestNode,
    certificate_of,
    hybrid,
    inception_of,
)
from tests.protocol.test_chain import AFTER, PAPER, World, card, recover

CHECKED = Verification("voice", "A. Operator", NOW)
OFFICERS = tuple(hybrid(f"directory {number}", "key") for number in range(3))
Item: TypeAlias = Statement | Suspension


@pytest.fixture(scope="module", autouse=True)
def verified_once() -> Iterator[None]:
    """Verify each signature once: thousands of orders have the same few of them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(suite, "verify_hybrid", lru_cache(maxsize=None)(suite.verify_hybrid))
        yield


@pytest.fixture(scope="module")
def world() -> World:
    return World(Chain.start(inception_of("alder"), network=NETWORK))


@pytest.fixture(scope="module")
def store(birch: TestNode, world: World) -> TrustStore:
    """Birch's store, in which alder is a peer at level share."""
    pinned = TrustStore.of(birch.chain, []).pin(world.one, "Alder")
    return pinned.approve(world.born.node_id, Level.SHARE, CHECKED)


def learned(store: TrustStore, *chains: Chain | Statement) -> TrustStore:
    for each in chains:
        statements = [each] if isinstance(each, Statement) else list(each.statements)
        store = store.learn(statements[0].node_id, statements)
    return store


def takes(store: TrustStore, node_id: bytes) -> tuple[bool, bool, bool]:
    """Whether alder may link, write, and receive."""
    try:
        receives = bool(store.recipients([node_id], now=NOW))
    except UnknownRecipientError:
        receives = False
    return store.accepts_link(node_id), store.accepts_author(node_id), receives


# --- rules -----------------------------------------------------------------------------------
def test_a_node_that_signed_two_different_statements_of_one_number_is_frozen_until_settled(
    store: TrustStore, world: World
) -> None:
    frozen = learned(store, world.two, world.rival)
    assert frozen.peer(world.born.node_id).level is Level.FROZEN
    rotated = world.two.extend(_rotated(world.two))
    assert learned(frozen, rotated).peer(world.born.node_id).level is Level.SHARE
    spent = learned(frozen, rotated, world.settled)
    assert spent.peer(world.born.node_id).level is Level.FROZEN, "the next keys were used twice"
    assert learned(spent, world.final).peer(world.born.node_id).level is Level.FROZEN


def _rotated(chain: Chain) -> Statement:
    from tests.protocol.test_chain import rotate

    return rotate(chain)


def test_a_node_that_says_that_it_recovered_is_held(store: TrustStore, world: World) -> None:
    node_id = world.born.node_id
    held = learned(store, world.settled)
    assert held.peer(node_id).level is Level.HELD
    assert takes(held, node_id) == (False, False, False)
    counted = held.confirm(node_id, [world.recovered.head.digest])
    assert counted.peer(node_id).level is Level.SHARE
    assert takes(counted, node_id) == (True, True, True)


def test_certificates_of_before_a_recovery_open_no_link(store: TrustStore, world: World) -> None:
    chain = world.settled
    at = next(s.n for s in chain.statements if s.type == "recover")
    cards = {s.n: s.body for s in chain.statements if isinstance(s.body, Card)}
    last = cards[max(cards)]
    other = replace(last, tls=(certificate_of("another"),))
    before = [replace(s, body=other) if s.n in cards and s.n < at else s for s in chain.statements]
    assert any(s.body == other for s in before)
    assert certificates_of(replace(chain, statements=tuple(before)), last) == last.tls


@pytest.mark.parametrize(
    ("level", "chains"),
    [
        (Level.HELD, ("settled",)),
        (Level.FROZEN, ("two", "rival")),
        (Level.REVOKED, ("revoked",)),
    ],
)
def test_held_frozen_and_revoked_nodes_neither_link_nor_are_their_new_envelopes_accepted(
    store: TrustStore, world: World, level: Level, chains: tuple[str, ...]
) -> None:
    after = learned(store, *(getattr(world, name) for name in chains))
    assert after.peer(world.born.node_id).level is level
    assert takes(after, world.born.node_id) == (False, False, False)


def test_a_suspended_node_keeps_its_level_and_links_and_receives_nothing(
    store: TrustStore, world: World
) -> None:
    node_id = world.born.node_id
    suspended = store.suspend({node_id: NOW + DAY})
    assert suspended.peer(node_id).level is Level.SHARE
    assert takes(suspended, node_id) == (True, True, False)
    assert not suspended.gives_to(node_id)
    assert takes(suspended.suspend({}), node_id) == (True, True, True)


# --- any order -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Trust:
    """All that one receiver knows of alder: statements, and what a directory says of it."""

    store: TrustStore
    suspended: Suspension | None = None

    def take(self, item: Item) -> Trust:
        if isinstance(item, Suspension):
            return Trust(self.store, item) if item.replaces(self.suspended) else self
        return Trust(self.store.learn(item.node_id, [item]), self.suspended)


def told(trust: Trust, items: Iterable[Item]) -> Trust:
    """Take *items* one by one; what is early is offered again, as by gossip."""
    waiting = list(items)
    while waiting:
        left: list[Item] = []
        for item in waiting:
            try:
                trust = trust.take(item)
            except StatementError:
                left.append(item)
        assert len(left) < len(waiting), "something is never taken"
        waiting = left
    return trust


def state(trust: Trust, node_id: bytes) -> tuple[object, ...]:
    peer = trust.store.peer(node_id)
    history = peer.history
    return (
        peer.level, peer.given, [s.digest for s in history.chain.statements],
        [s.digest for s in history.aside], history.standing, history.revocation,
        None if trust.suspended is None else trust.suspended.digest,
    )  # fmt: skip


def suspension(node_id: bytes, issued: int) -> Suspension:
    signers = [(each.public, each) for each in OFFICERS]
    return parse_suspension(
        make_suspension(
            network=NETWORK, node_id=node_id, issued=issued, until=issued + DAY,
            reason="keys stolen", signers=signers,
        )
    )  # fmt: skip


def whole_life(world: World) -> Sequence[Item]:
    """Card, recovery, card, rotation and card, a thief's rival card, and a suspension."""
    return [
        *world.final.statements[2:], world.rival.head, suspension(world.born.node_id, NOW),
    ]  # fmt: skip


def an_end(world: World) -> Sequence[Item]:
    """Two cards and a rival, a revocation, and a suspension that was renewed."""
    return [
        world.two.head, world.stolen.head, world.rival.head, world.revoked,
        suspension(world.born.node_id, NOW), suspension(world.born.node_id, NOW + 1),
    ]  # fmt: skip


def a_fight(world: World) -> Sequence[Item]:
    """The next keys used twice: nothing settles that, and nothing hides it."""
    twice = world.one.extend(recover(world.one, new=PAPER, following=AFTER))
    return [
        *world.settled.statements[2:], twice.head, twice.extend(card(twice, PAPER, "other")).head,
        world.rival.head, suspension(world.born.node_id, NOW),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("items", "level"),
    [(whole_life, Level.HELD), (an_end, Level.REVOKED), (a_fight, Level.FROZEN)],
)
def test_which_statements_came_first_makes_no_difference_to_any_of_this(
    store: TrustStore, world: World, items: Callable[[World], Sequence[Item]], level: Level
) -> None:
    """Every order of 6 or 7 statements, with each of them twice, and those of before again."""
    chosen, node_id = items(world), world.born.node_id
    assert len(chosen) in {6, 7}
    before: Sequence[Item] = world.one.statements  # inception and first card, which are known
    wanted = state(told(Trust(store), chosen), node_id)
    assert wanted[0] is level
    for count, order in enumerate(itertools.permutations(chosen)):
        after = told(Trust(store), order)
        assert state(after, node_id) == wanted
        if count % 50 == 0:
            assert state(told(Trust(store), [*order, *before, *order]), node_id) == wanted
            assert state(told(after, reversed(order)), node_id) == wanted
    assert len(chosen) <= limits.MAX_ASIDE, "nothing was left out for its number"
