"""Whom to ask for what is missing: playbooks over virtual time, and liars who withhold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits
from protocol.frontier import HEAD_SIZE, NOTHING, Have, Range, StreamKey, count
from protocol.pull import GRACE_MS, TURN_MS, Ask, Puller, Stall
from tests.factories import seed

KEY = StreamKey(seed("alder", "id"), 1, bytes(16))
OTHER = StreamKey(seed("alder", "id"), 1, b"another stream..")
STALL_MS = limits.RECEIPT_TIMEOUT_MS
LONGEST_MS = 600_000
A, B, C = b"a", b"b", b"c"


def have_of(numbers: Iterable[int]) -> Have:
    """Return what a node says that holds exactly *numbers*."""
    ranges: list[Range] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    if ranges and ranges[0][0] == 1:
        return Have(ranges[0][1], b"8 bytes!", tuple(ranges[1:]))
    return Have(0, bytes(HEAD_SIZE), tuple(ranges))


def upto(last: int) -> Have:
    return have_of(range(1, last + 1))


class Node:
    """What one node holds, and the puller that it asks."""

    def __init__(self) -> None:
        self.held: dict[StreamKey, set[int]] = {}
        self.puller = Puller(self.have)

    def have(self, key: StreamKey) -> Have | None:
        return have_of(self.held[key]) if key in self.held else None

    def offer(self, peer: bytes, have: Have, now: int = 0, *, pushes: bool = False) -> None:
        self.puller.offered(peer, KEY, have, pushes=pushes, now=now)

    def take(self, peer: bytes, numbers: Iterable[int], now: int, key: StreamKey = KEY) -> None:
        self.held.setdefault(key, set()).update(numbers)
        self.puller.arrived(peer, key, now)

    def due(self, now: int) -> list[Ask | Stall]:
        return self.puller.due(now)


# --- asking ----------------------------------------------------------------------------------
def test_what_a_peer_holds_and_we_lack_is_asked_for_at_once() -> None:
    node = Node()
    node.held[KEY] = {1, 2, 5}
    node.offer(A, upto(7))
    assert node.puller.waiting == 1
    assert node.due(0) == [Ask(A, KEY, ((3, 4), (6, 7)))]


def test_a_stream_never_heard_of_is_asked_for_from_its_beginning() -> None:
    node = Node()
    node.offer(A, have_of({2, 3}))
    assert node.due(0) == [Ask(A, KEY, ((2, 3),))]


def test_nothing_is_asked_for_that_is_held_or_not_offered() -> None:
    node = Node()
    node.held[KEY] = {1, 2, 3}
    for have in (NOTHING, upto(3), have_of({2})):
        node.offer(A, have)
        assert node.puller.waiting == 0 and node.due(10**9) == []


def test_a_stream_has_one_source_at_a_time() -> None:
    node = Node()
    for peer in (A, B, C):
        node.offer(peer, upto(9))
    assert [type(act) for act in node.due(0)] == [Ask]
    for now in range(0, STALL_MS, 1_000):
        assert node.due(now) == []


def test_each_stream_has_its_own_source() -> None:
    node = Node()
    node.offer(A, upto(3))
    node.puller.offered(B, OTHER, upto(4), pushes=False, now=0)
    assert set(node.due(0)) == {Ask(A, KEY, ((1, 3),)), Ask(B, OTHER, ((1, 4),))}


def test_the_one_that_holds_most_of_what_is_lacking_is_asked_first() -> None:
    node = Node()
    node.held[KEY] = set(range(1, 50))
    node.offer(A, upto(51))
    node.offer(B, have_of({50, 53, 57}))
    assert node.due(0) == [Ask(B, KEY, ((50, 50), (53, 53), (57, 57)))]


def test_a_want_is_bounded_and_the_rest_is_asked_for_when_it_has_come() -> None:
    node = Node()
    total = limits.MAX_WANT + 10
    node.offer(A, upto(total))
    assert node.due(0) == [Ask(A, KEY, ((1, limits.MAX_WANT),))]
    node.take(A, range(1, limits.MAX_WANT), now=500)
    assert node.due(500) == []
    node.take(A, [limits.MAX_WANT], now=900)
    assert node.due(900) == [Ask(A, KEY, ((limits.MAX_WANT + 1, total),))]


def test_scattered_gaps_are_bounded_as_well() -> None:
    node = Node()
    node.held[KEY] = set(range(2, 2_000, 2))
    node.offer(A, upto(2_000))
    (ask,) = node.due(0)
    assert isinstance(ask, Ask) and len(ask.ranges) == limits.MAX_WANT_RANGES
    assert count(ask.ranges) == limits.MAX_WANT_RANGES and ask.ranges[0] == (1, 1)


# --- those who push by themselves ------------------------------------------------------------
def test_whoever_pushes_is_given_time_before_anybody_is_asked() -> None:
    """Else everything would travel twice: pushed by its author and pulled from a reader."""
    node = Node()
    node.offer(A, upto(3), pushes=True)
    node.offer(B, upto(3))
    for now in range(0, GRACE_MS, 100):
        assert node.due(now) == []
    assert [type(act) for act in node.due(GRACE_MS)] == [Ask]


def test_what_was_pushed_in_time_is_never_asked_for() -> None:
    node = Node()
    node.offer(A, upto(3), pushes=True)
    node.offer(B, upto(3))
    node.due(0)
    node.take(A, {1, 2, 3}, now=GRACE_MS - 1)
    assert node.puller.waiting == 0 and node.due(GRACE_MS * 2) == []


def test_nobody_waits_for_a_pusher_that_holds_nothing_of_it() -> None:
    node = Node()
    node.held[KEY] = {1}
    node.offer(A, upto(1), pushes=True)
    node.offer(B, upto(3))
    assert node.due(0) == [Ask(B, KEY, ((2, 3),))]


def test_nobody_waits_for_a_pusher_that_has_stalled() -> None:
    node = Node()
    node.offer(A, upto(3), pushes=True)
    assert node.due(GRACE_MS) == [Ask(A, KEY, ((1, 3),))]
    assert node.due(GRACE_MS + STALL_MS) == [Stall(A, KEY, 1)]
    node.offer(B, upto(3), now=GRACE_MS + STALL_MS + 1)
    assert node.due(GRACE_MS + STALL_MS + 1) == [Ask(B, KEY, ((1, 3),))]


# --- stalling --------------------------------------------------------------------------------
def test_a_source_that_brings_nothing_for_thirty_seconds_is_replaced() -> None:
    node = Node()
    node.offer(A, upto(9))
    node.offer(B, upto(5))
    assert node.due(0) == [Ask(A, KEY, ((1, 9),))]
    assert node.due(STALL_MS - 1) == []
    assert node.due(STALL_MS) == [Stall(A, KEY, 1), Ask(B, KEY, ((1, 5),))]


def test_a_source_that_brings_what_it_was_asked_for_has_its_time_again() -> None:
    node = Node()
    node.offer(A, upto(9))
    node.offer(B, upto(9))
    first = node.due(0)
    assert first == [Ask(A, KEY, ((1, 9),))]
    for at in range(1, 9):
        node.take(A, [at], now=at * (STALL_MS - 1_000))
        assert node.due(at * (STALL_MS - 1_000) + 500) == []


def test_a_source_is_asked_again_after_longer_and_longer_waits() -> None:
    node = Node()
    node.offer(A, upto(3))
    asked, stalls = [], []
    for now in range(0, 3_600_000, 1_000):
        for act in node.due(now):
            if isinstance(act, Ask):
                asked.append(now)
            else:
                stalls.append(act.times)
    waits = [(b - a - STALL_MS) // 1_000 for a, b in pairwise(asked)]
    assert waits[:4] == [60, 120, 240, 480]
    assert set(waits[4:]) == {LONGEST_MS // 1_000}
    assert stalls == list(range(1, len(stalls) + 1)) and len(stalls) >= 7


def test_stalls_in_a_row_end_with_what_was_asked_for() -> None:
    node = Node()
    node.offer(A, upto(3))
    node.due(0)
    assert node.due(STALL_MS) == [Stall(A, KEY, 1)]
    again = STALL_MS + 2 * STALL_MS
    assert node.due(again) == [Ask(A, KEY, ((1, 3),))]
    node.take(A, {1}, now=again + 10)
    assert node.due(again + 10 + STALL_MS) == [Stall(A, KEY, 1)]


# --- what changes meanwhile ------------------------------------------------------------------
def test_what_another_brings_is_asked_for_no_more() -> None:
    node = Node()
    node.offer(A, upto(5))
    node.offer(B, upto(3))
    node.due(0)
    node.take(B, {1, 2, 3, 4, 5}, now=10)
    assert node.puller.waiting == 0 and node.due(STALL_MS) == []


def test_an_offer_grows_and_shrinks_with_what_the_peer_says() -> None:
    node = Node()
    node.offer(A, upto(2), pushes=True)
    node.offer(A, upto(4))
    assert node.due(0) == [Ask(A, KEY, ((1, 4),))]
    node.offer(A, NOTHING)
    assert node.puller.waiting == 0 and node.due(STALL_MS) == []


def test_a_lost_link_is_no_stall_and_the_next_is_asked_at_once() -> None:
    node = Node()
    node.offer(A, upto(9))
    node.offer(B, upto(5))
    node.due(0)
    node.puller.lost(A)
    assert node.due(1) == [Ask(B, KEY, ((1, 5),))]
    node.puller.lost(B)
    node.puller.lost(B)
    assert node.puller.waiting == 0 and node.due(10**9) == []


def test_what_is_forgotten_is_pulled_no_more() -> None:
    node = Node()
    node.offer(A, upto(9))
    node.due(0)
    node.puller.forget(KEY)
    node.puller.forget(KEY)
    assert node.puller.waiting == 0 and node.due(10**9) == []


def test_what_arrives_unasked_changes_nothing() -> None:
    node = Node()
    node.take(A, {1}, now=0)
    assert node.puller.waiting == 0 and node.due(0) == []


# --- liars -----------------------------------------------------------------------------------
class Peer:
    """One that says it holds *claims* and, of what it is asked for, brings *brings* at most."""

    def __init__(self, name: bytes, claims: Have, brings: frozenset[int], *, pushes: bool) -> None:
        self.name, self.claims, self.brings, self.pushes = name, claims, brings, pushes

    def asked(self, ranges: Sequence[Range]) -> set[int]:
        return {seq for seq in self.brings if any(low <= seq <= high for low, high in ranges)}


NUMBERS = st.frozensets(st.integers(1, 12), min_size=1)
LIARS = st.lists(
    st.tuples(NUMBERS, st.frozensets(st.integers(1, 12), max_size=6), st.booleans()), max_size=4
)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.booleans(), st.frozensets(st.integers(1, 12)), LIARS, st.integers(0, 4))
def test_whatever_others_claim_and_withhold_what_one_honest_peer_holds_comes(
    held: frozenset[int],
    pushes: bool,
    mine: frozenset[int],
    liars: list[tuple[frozenset[int], frozenset[int], bool]],
    place: int,
) -> None:
    """One round over all candidates, each with its thirty seconds, is as long as it may take."""
    peers = [
        Peer(b"liar %d" % n, have_of(claims), brings, pushes=lying)
        for n, (claims, brings, lying) in enumerate(liars)
    ]
    # Its name decides between equals, so it is tried in each place among the liars.
    honest = Peer(b"liar %d!" % place, have_of(held), held, pushes=pushes)
    node = Node()
    node.held[KEY] = set(mine)
    for peer in (*peers, honest):
        node.offer(peer.name, peer.claims, pushes=peer.pushes)
    asks: list[tuple[int, bytes]] = []
    by_name = {peer.name: peer for peer in (*peers, honest)}
    deadline = GRACE_MS + (len(peers) * 7 + 1) * (STALL_MS + GRACE_MS)
    for now in range(0, deadline, 500):
        for act in node.due(now):
            if isinstance(act, Ask):
                asks.append((now, act.peer))
                assert count(act.ranges) > 0
                if brought := by_name[act.peer].asked(act.ranges) - node.held[KEY]:
                    node.take(act.peer, brought, now)
    assert held <= node.held[KEY]
    # Never a hot loop: nobody is asked again before it has stalled or brought something.
    per_peer = {peer.name: sum(name == peer.name for _, name in asks) for peer in by_name.values()}
    assert all(times <= 12 + deadline // STALL_MS for times in per_peer.values())
    assert len({now for now, _ in asks}) == len(asks)


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(0, 9), st.booleans())))
def test_nothing_is_asked_for_twice_at_once_whatever_is_said(
    said: list[tuple[bytes, int, bool]],
) -> None:
    """A peer that repeats itself as often as it can makes us ask no more often."""
    node = Node()
    asks = 0
    for peer, last, pushes in said:
        node.offer(peer, upto(last + 1), pushes=pushes)
        asks += len(node.due(GRACE_MS))
    assert asks <= 1


def test_other_things_that_a_source_brings_do_not_hide_what_it_withholds() -> None:
    """An author that withholds number 5 from us goes on writing, to keep us from asking others."""
    node = Node()
    node.held[KEY] = {1, 2, 3, 4}
    node.offer(A, upto(6), pushes=True)
    node.offer(B, have_of({5}))
    node.take(A, {6}, now=0)
    asks: list[tuple[int, bytes]] = []
    for now in range(0, 2 * STALL_MS, 1_000):
        node.take(A, {7 + now // 1_000}, now=now)
        asks += [(now, act.peer) for act in node.due(now) if isinstance(act, Ask)]
    assert asks[0][0] <= GRACE_MS and {A, B} == {peer for _, peer in asks}
    assert asks[-1][0] <= GRACE_MS + STALL_MS


def test_a_gap_is_filled_while_its_author_goes_on_pushing() -> None:
    """It believes that number 1 was delivered; we have lost it. No second is without news."""
    node = Node()
    node.offer(A, have_of({1}), pushes=True)
    for now in range(0, GRACE_MS, 500):
        node.take(A, {2 + now // 500}, now=now)
        assert node.due(now) == []
    node.take(A, {100}, now=GRACE_MS)
    assert node.due(GRACE_MS) == [Ask(A, KEY, ((1, 1),))]


def test_a_source_that_trickles_hands_over_to_another() -> None:
    node = Node()
    node.offer(A, upto(1_000))
    node.offer(B, have_of({999}))
    node.due(0)
    asks: list[Ask | Stall] = []
    for now in range(1_000, TURN_MS + 1_000, 1_000):
        if now % 20_000 == 0:
            node.take(A, {now // 20_000}, now=now)
        asks += node.due(now)
    assert asks == [Ask(B, KEY, ((999, 999),))]


def test_a_slow_source_that_is_alone_keeps_its_turn() -> None:
    node = Node()
    node.offer(A, upto(1_000))
    node.due(0)
    for now in range(1_000, 2 * TURN_MS, 1_000):
        if now % 20_000 == 0:
            node.take(A, {now // 20_000}, now=now)
        assert node.due(now) == []


def test_taking_a_claim_back_and_making_it_again_wins_no_turn() -> None:
    node = Node()
    node.offer(A, upto(9))
    node.offer(B, upto(5))
    assert node.due(0) == [Ask(A, KEY, ((1, 9),))]
    node.offer(A, NOTHING)
    node.offer(A, upto(9))
    assert node.due(STALL_MS - 1) == [Ask(B, KEY, ((1, 5),))]


def test_a_pusher_that_changes_its_claim_all_the_time_gains_none() -> None:
    node = Node()
    node.offer(B, have_of({5}))
    for now in range(0, GRACE_MS, 500):
        node.offer(A, have_of({3 + now // 500 % 2}), now=now, pushes=True)
        assert node.due(now) == []
    node.offer(A, have_of({9}), now=GRACE_MS, pushes=True)
    assert node.due(GRACE_MS) == [Ask(B, KEY, ((5, 5),))]


def test_streams_of_one_peer_are_bounded_and_others_are_not_hurt() -> None:
    node = Node()
    for number in range(limits.MAX_OFFERS + 10):
        key = StreamKey(KEY.author, 1, number.to_bytes(16, "big"))
        node.puller.offered(A, key, upto(1), pushes=False, now=0)
    assert node.puller.waiting == limits.MAX_OFFERS
    node.puller.offered(B, OTHER, upto(1), pushes=False, now=0)
    assert node.puller.waiting == limits.MAX_OFFERS + 1
    node.puller.lost(A)
    assert node.puller.waiting == 1
    node.offer(A, upto(1))
    assert node.puller.waiting == 2


def test_what_came_without_being_told_of_is_not_asked_for() -> None:
    node = Node()
    node.offer(A, upto(3))
    node.held[KEY] = {1, 2, 3}
    assert node.due(0) == []
