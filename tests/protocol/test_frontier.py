"""Frontiers: range arithmetic against plain sets, digests, and what a reader refuses."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.canonical import Value, decode, encode
from protocol.errors import DecodeError, LimitError
from protocol.frontier import (
    AUTHOR_DIGEST_SIZE,
    HEAD_SIZE,
    NOTHING,
    Have,
    Item,
    Range,
    StreamKey,
    add,
    author_digests,
    contradicts,
    count,
    differing,
    digest,
    first_of,
    item_value,
    lacking,
    parse_item,
    parse_ranges,
    subtract,
)
from tests.factories import seed

AUTHOR = seed("alder", "id")
HEAD = b"8 bytes!"
SETS = st.sets(st.integers(1, 40))


def ranges_of(numbers: Iterable[int]) -> tuple[Range, ...]:
    """Return the maximal ascending ranges of *numbers*, one number at a time."""
    found: list[Range] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def numbers_of(ranges: Iterable[Range]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


def have_of(numbers: Iterable[int], head: bytes = HEAD, *, forked: bool = False) -> Have:
    """Return what a node says that holds exactly *numbers*."""
    ranges = ranges_of(numbers)
    if ranges and ranges[0][0] == 1:
        return Have(ranges[0][1], head, ranges[1:], forked)
    return Have(0, bytes(HEAD_SIZE), ranges, forked)


# --- ranges ----------------------------------------------------------------------------------
@given(SETS, st.integers(1, 40))
def test_adding_a_number_is_adding_it_to_the_set(held: set[int], seq: int) -> None:
    assert add(ranges_of(held), seq) == ranges_of(held | {seq})


@given(SETS, SETS)
def test_subtracting_is_the_difference_of_the_sets(left: set[int], right: set[int]) -> None:
    assert subtract(ranges_of(left), ranges_of(right)) == ranges_of(left - right)


@given(SETS)
def test_counting_is_the_size_of_the_set(held: set[int]) -> None:
    assert count(ranges_of(held)) == len(held)


@given(SETS, st.integers(-1, 45))
def test_the_first_are_the_lowest_of_the_set(held: set[int], limit: int) -> None:
    assert first_of(ranges_of(held), limit) == ranges_of(sorted(held)[: max(0, limit)])


def test_the_first_are_never_more_ranges_than_a_want_may_name() -> None:
    scattered = tuple((n * 2, n * 2) for n in range(1, 1_000))
    assert first_of(scattered, limits.MAX_WANT) == scattered[: limits.MAX_WANT_RANGES]


@given(SETS)
def test_what_is_held_is_what_was_said(held: set[int]) -> None:
    have = have_of(held)
    assert numbers_of(have.ranges) == held
    assert have.highest == max(held, default=0)
    # Numbers begin with 1, so the question is only asked of those.
    assert {seq for seq in range(1, 45) if have.holds(seq)} == held


@given(SETS, SETS)
def test_what_is_lacking_is_what_only_the_other_has(mine: set[int], theirs: set[int]) -> None:
    assert lacking(have_of(mine), have_of(theirs)) == ranges_of(theirs - mine)


@given(st.permutations(range(1, 13)))
def test_a_gap_is_remembered_until_it_is_filled_whatever_the_order(order: list[int]) -> None:
    whole = have_of(range(1, 13))
    ranges: tuple[Range, ...] = ()
    for at, seq in enumerate(order):
        ranges = add(ranges, seq)
        assert numbers_of(lacking(have_of(numbers_of(ranges)), whole)) == set(order[at + 1 :])


def test_numbers_may_be_as_large_as_a_sequence_number() -> None:
    whole = Have(limits.MAX_SEQ, HEAD)
    assert lacking(have_of({2}), whole) == ((1, 1), (3, limits.MAX_SEQ))
    assert first_of(lacking(NOTHING, whole), 10) == ((1, 10),)


# --- forks -----------------------------------------------------------------------------------
def test_only_two_heads_of_one_number_contradict() -> None:
    other = b"another!"
    mine = have_of({1, 2})
    assert contradicts(mine, have_of({1, 2}, other))
    assert contradicts(have_of({1, 2, 9}), have_of({1, 2, 5}, other))
    for theirs in (
        have_of({1, 2}), have_of({1}, other), have_of({1, 2, 3}, other), NOTHING,
        have_of({1, 2}, other, forked=True),
    ):  # fmt: skip
        assert not contradicts(mine, theirs) and not contradicts(theirs, mine)
    assert not contradicts(have_of({5}), have_of({5}))  # nothing contiguous, so no heads


@given(SETS, SETS)
def test_an_honest_author_is_never_contradicted(mine: set[int], theirs: set[int]) -> None:
    """Of one chain the head is the same for whoever holds it."""

    def held(numbers: set[int]) -> Have:
        contiguous = have_of(numbers).contiguous
        return have_of(numbers, seed("chain", str(contiguous))[:HEAD_SIZE])

    assert not contradicts(held(mine), held(theirs))


# --- digests ---------------------------------------------------------------------------------
def key(author: str, incarnation: int = 1, stream: int = 0) -> StreamKey:
    return StreamKey(seed(author, "id"), incarnation, bytes([stream]) * 16)


ITEMS: list[Item] = [
    (key("alder"), have_of({1, 2, 3})),
    (key("alder", 2), have_of({1, 4, 7})),
    (key("alder", 2, 1), have_of({2})),
    (key("birch"), have_of({1}, forked=True)),
    (key("cedar"), NOTHING),
]


@given(st.permutations(ITEMS))
def test_a_digest_does_not_depend_on_the_order(items: list[Item]) -> None:
    assert digest(items) == digest(ITEMS)
    assert author_digests(items) == author_digests(ITEMS)


def test_every_part_of_every_item_changes_both_digests() -> None:
    one, have = ITEMS[1]
    changed: list[Item] = [
        (StreamKey(one.author, 3, one.stream), have),
        (StreamKey(one.author, one.incarnation, bytes([9]) * 16), have),
        (one, have_of({1, 2, 4, 7})),
        (one, have_of({1, 4, 7}, b"another!")),
        (one, have_of({1, 4})),
        (one, have_of({1, 4, 8})),
        (one, have_of({1, 4, 7}, forked=True)),
    ]
    seen = {digest(ITEMS)}
    for item in changed:
        items = [*ITEMS[:1], item, *ITEMS[2:]]
        seen.add(digest(items))
        assert differing(author_digests(ITEMS), author_digests(items)) == {one.author}
    seen |= {digest(ITEMS[1:]), digest([]), digest([*ITEMS, (key("dogwood"), NOTHING)])}
    moved = (StreamKey(seed("elm", "id"), one.incarnation, one.stream), have)
    seen.add(digest([*ITEMS[:1], moved, *ITEMS[2:]]))
    assert len(seen) == len(changed) + 5


def test_authors_differ_whom_one_side_does_not_have_at_all() -> None:
    mine, theirs = author_digests(ITEMS), author_digests(ITEMS[3:])
    assert differing(mine, mine) == frozenset()
    assert differing(mine, theirs) == differing(theirs, mine) == {seed("alder", "id")}
    assert differing({}, theirs) == {seed("birch", "id"), seed("cedar", "id")}
    assert all(len(value) == AUTHOR_DIGEST_SIZE for value in mine.values())


def test_an_authors_digest_is_the_beginning_of_that_of_its_items_alone() -> None:
    alone = [item for item in ITEMS if item[0].author == seed("alder", "id")]
    assert author_digests(ITEMS)[seed("alder", "id")] == digest(alone)[:AUTHOR_DIGEST_SIZE]


# --- reading ---------------------------------------------------------------------------------
@pytest.mark.parametrize("item", ITEMS, ids=range(len(ITEMS)))
def test_an_item_is_read_as_it_was_written(item: Item) -> None:
    value = decode(encode(item_value(item)), max_bytes=1_000)
    assert parse_item(value, item[0].author) == item


@given(SETS, st.booleans())
def test_every_item_is_read_as_it_was_written(held: set[int], forked: bool) -> None:
    item = (key("alder"), have_of(held, forked=forked))
    assert parse_item(item_value(item), AUTHOR) == item  # type: ignore[arg-type]


GOOD: list[Value] = [2, bytes(16), 3, HEAD, [[5, 5], [7, 9]], 0]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, 0), (0, 2**32), (0, True), (0, None), (1, bytes(15)), (1, "stream"), (2, -1),
        (2, limits.MAX_SEQ + 1), (3, bytes(7)), (3, bytes(9)), (3, bytes(8)), (2, 0),
        (4, [[4, 4]]), (4, [[3, 5]]), (4, [[5, 4]]), (4, [[5, 5], [6, 6]]), (4, [[7, 7], [5, 5]]),
        (4, [[5, 6], [6, 7]]), (4, [[5, 5], [5, 5]]), (4, [[5]]), (4, [[5, 5, 5]]), (4, [5]),
        (4, [[0, 5]]), (4, [[5, limits.MAX_SEQ + 1]]), (4, None), (5, 2), (5, True), (5, None),
    ],
    ids=repr,
)  # fmt: skip
def test_an_item_that_breaks_a_rule_is_refused(at: int, value: Value) -> None:
    parse_item(GOOD, AUTHOR)
    with pytest.raises(DecodeError):
        parse_item([*GOOD[:at], value, *GOOD[at + 1 :]], AUTHOR)


@pytest.mark.parametrize("value", [None, 7, {}, [], GOOD[:5], [*GOOD, 0]], ids=repr)
def test_anything_but_an_item_is_refused(value: Value) -> None:
    with pytest.raises(DecodeError):
        parse_item(value, AUTHOR)


def test_nothing_contiguous_has_a_head_of_zeros_and_begins_past_the_first() -> None:
    zero = bytes(HEAD_SIZE)
    assert parse_item([1, bytes(16), 0, zero, [[2, 2]], 0], AUTHOR)[1].beyond == ((2, 2),)
    broken_items: list[Value] = [
        [1, bytes(16), 0, zero, [[1, 1]], 0],
        [1, bytes(16), 0, HEAD, [[2, 2]], 0],
    ]
    for broken in broken_items:
        with pytest.raises(DecodeError):
            parse_item(broken, AUTHOR)


def test_ranges_are_bounded() -> None:
    most: list[Value] = [[n * 2, n * 2] for n in range(3, limits.MAX_ITEM_RANGES + 3)]
    assert len(parse_item([*GOOD[:4], most, 0], AUTHOR)[1].beyond) == limits.MAX_ITEM_RANGES
    with pytest.raises(LimitError):
        parse_item([*GOOD[:4], [*most, [10_000, 10_000]], 0], AUTHOR)
    with pytest.raises(LimitError):
        parse_ranges([[1, 1], [3, 3]], "field", after=0, maximum=1)
    assert parse_ranges([[1, 1], [3, 3]], "field", after=0, maximum=2) == ((1, 1), (3, 3))


def test_a_stream_costs_about_fifty_bytes_in_a_frontier() -> None:
    """Two hundred authors of three streams each fit one frame."""
    item = (key("alder", 1_790_000_000), have_of(range(1, 100_000)))
    assert len(encode(item_value(item))) < 50
