"""Frontiers: what each side of a link holds of the streams that both belong to, and what it lacks.

    item   = [incarnation, stream, contiguous, head[:8], [[first, last], ...], forked 0|1]
    digest = H("frontier", items of all shared streams, each with its author, ascending)

- A stream is named by author, incarnation and stream id; its envelopes are numbered from 1.
- ``contiguous`` is the number up to which none is missing, and ``head`` begins the id of the
  envelope there; ``beyond`` are the ranges held past the first gap. So a gap is never forgotten.
- Two nodes compare one digest. Only if it differs do they compare a digest for each author, and
  only of authors that differ the items. A node in step pays one round trip of one digest.
- Whoever computes an item for a peer has checked that the peer belongs to the stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from protocol import limits, suite
from protocol.canonical import Value, encode
from protocol.envelope import STREAM_SIZE
from protocol.errors import DecodeError
from protocol.shape import array, octets, uint

HEAD_SIZE: Final = 8
AUTHOR_DIGEST_SIZE: Final = 16
_NO_HEAD: Final = bytes(HEAD_SIZE)

Range: TypeAlias = tuple[int, int]
"""First and last sequence number, both inside."""


@dataclass(frozen=True, slots=True, order=True)
class StreamKey:
    """The name of a stream."""

    author: bytes
    incarnation: int
    stream: bytes


@dataclass(frozen=True, slots=True)
class Have:
    """What a node holds of one stream; *head* is 8 bytes, zero while nothing is contiguous."""

    contiguous: int = 0
    head: bytes = _NO_HEAD
    beyond: tuple[Range, ...] = ()
    forked: bool = False

    @property
    def highest(self) -> int:
        """The highest number held; 0 if none is."""
        return self.beyond[-1][1] if self.beyond else self.contiguous

    def holds(self, seq: int) -> bool:
        """Whether number *seq* is held."""
        return seq <= self.contiguous or any(first <= seq <= last for first, last in self.beyond)

    @property
    def ranges(self) -> tuple[Range, ...]:
        """All that is held, as ascending ranges."""
        whole = ((1, self.contiguous),) if self.contiguous else ()
        return (*whole, *self.beyond)


Item: TypeAlias = tuple[StreamKey, Have]
NOTHING: Final = Have()


# --- ranges ----------------------------------------------------------------------------------
def add(ranges: Sequence[Range], seq: int) -> tuple[Range, ...]:
    """Return ascending *ranges* with *seq* in them, neighbours joined."""
    first = last = seq
    kept = []
    for low, high in ranges:
        if high + 1 < first or last + 1 < low:
            kept.append((low, high))
        else:
            first, last = min(first, low), max(last, high)
    return tuple(sorted([*kept, (first, last)]))


def subtract(ranges: Iterable[Range], taken: Sequence[Range]) -> tuple[Range, ...]:
    """Return what of ascending *ranges* is not in ascending *taken*."""
    left = []
    for first, last in ranges:
        low = first
        for start, end in taken:
            if end < low:
                continue
            if start > last:
                break
            if start > low:
                left.append((low, start - 1))
            low = end + 1
        if low <= last:
            left.append((low, last))
    return tuple(left)


def count(ranges: Iterable[Range]) -> int:
    """Return how many numbers *ranges* hold."""
    return sum(last - first + 1 for first, last in ranges)


def first_of(ranges: Sequence[Range], limit: int) -> tuple[Range, ...]:
    """Return the first *limit* numbers of ascending *ranges*, as at most MAX_WANT_RANGES ranges."""
    chosen = []
    for first, last in ranges[: limits.MAX_WANT_RANGES]:
        if limit <= 0:
            break
        end = min(last, first + limit - 1)
        chosen.append((first, end))
        limit -= end - first + 1
    return tuple(chosen)


def lacking(mine: Have, theirs: Have) -> tuple[Range, ...]:
    """Return the numbers that *theirs* holds and *mine* lacks."""
    return subtract(theirs.ranges, mine.ranges)


def contradicts(mine: Have, theirs: Have) -> bool:
    """Whether the two hold different envelopes under one number, which only a fork explains."""
    return (
        mine.contiguous == theirs.contiguous > 0
        and mine.head != theirs.head
        and not mine.forked
        and not theirs.forked
    )


# --- digests ---------------------------------------------------------------------------------
def item_value(item: Item) -> list[object]:
    """Return the canonical value of *item*, without its author."""
    key, have = item
    return [
        key.incarnation, key.stream, have.contiguous, have.head,
        [list(each) for each in have.beyond], int(have.forked),
    ]  # fmt: skip


def parse_item(value: Value, author: bytes) -> Item:
    """Return the item that *value* holds.

    Raises:
        DecodeError: it has the wrong shape, or its ranges are not ascending with gaps between.
        LimitError: it has too many ranges.
    """
    fields = array(value, "item", size=6)
    key = StreamKey(
        author,
        uint(fields[0], "item.incarnation", minimum=1, maximum=2**32 - 1),
        octets(fields[1], "item.stream", size=STREAM_SIZE),
    )
    contiguous = uint(fields[2], "item.contiguous", maximum=limits.MAX_SEQ)
    head = octets(fields[3], "item.head", size=HEAD_SIZE)
    if (contiguous == 0) != (head == _NO_HEAD):
        raise DecodeError("item.head is zero exactly when nothing is contiguous")
    beyond = parse_ranges(
        fields[4], "item.beyond", after=contiguous + 1, maximum=limits.MAX_ITEM_RANGES
    )
    return key, Have(contiguous, head, beyond, uint(fields[5], "item.forked", maximum=1) == 1)


def parse_ranges(value: Value, field: str, *, after: int, maximum: int) -> tuple[Range, ...]:
    """Return ascending ranges with a gap between neighbours, the first beginning past *after*.

    Raises:
        DecodeError: they are not.
        LimitError: there are more than *maximum*.
    """
    ranges = []
    for each in array(value, field, maximum=maximum):
        first, last = array(each, field, size=2)
        low = uint(first, field, minimum=1, maximum=limits.MAX_SEQ)
        high = uint(last, field, minimum=low, maximum=limits.MAX_SEQ)
        if low <= after:
            raise DecodeError(f"{field} is not ascending with gaps between")
        ranges.append((low, high))
        after = high + 1
    return tuple(ranges)


def digest(items: Iterable[Item]) -> bytes:
    """Return the 32-byte digest of all *items*, whatever their order."""
    ordered = sorted(items, key=lambda item: item[0])
    return suite.digest(
        "frontier", encode([[key.author, *_entry(key, have)] for key, have in ordered])
    )


def _entry(key: StreamKey, have: Have) -> list[object]:
    return item_value((key, have))


def author_digests(items: Iterable[Item]) -> dict[bytes, bytes]:
    """Return a 16-byte digest for each author that *items* name."""
    grouped: dict[bytes, list[Item]] = {}
    for item in items:
        grouped.setdefault(item[0].author, []).append(item)
    return {author: digest(group)[:AUTHOR_DIGEST_SIZE] for author, group in grouped.items()}


def differing(mine: Mapping[bytes, bytes], theirs: Mapping[bytes, bytes]) -> frozenset[bytes]:
    """Return the authors of whom the two sides do not hold the same."""
    return frozenset(
        author for author in mine.keys() | theirs.keys() if mine.get(author) != theirs.get(author)
    )
