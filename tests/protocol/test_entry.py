"""Log entries: what is looked at for many at once is what is looked at one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from protocol.entry import EntryKind, all_open, local_digest, make_entry, parse_entry
from protocol.errors import PeerError

SUBJECT, LOCAL, BLIND, LOCAL_BLIND = bytes(range(32)), b"\x91\x05", b"b" * 16, b"l" * 16
FREE = {*range(5, 37), *range(73, 89)}  # the places of subject and blind


@dataclass(frozen=True)
class Row:
    """An entry and what stands beside it."""

    kind: int
    entry: bytes
    local_blind: bytes = LOCAL_BLIND
    local: bytes = LOCAL


def row_of(kind: EntryKind) -> Row:
    commitment = local_digest(LOCAL, LOCAL_BLIND)
    return Row(int(kind), make_entry(kind, SUBJECT, local_commitment=commitment, blind=BLIND))


def together(*rows: Row) -> bool:
    return all_open(
        [row.kind for row in rows], [row.entry for row in rows],
        local_blinds=[row.local_blind for row in rows], locals_=[row.local for row in rows],
    )  # fmt: skip


def alone(row: Row) -> bool:
    try:
        entry = parse_entry(row.entry)
    except PeerError:
        return False
    opened = local_digest(row.local, row.local_blind)
    return (entry.kind, entry.local_digest) == (row.kind, opened)


@pytest.mark.parametrize("kind", EntryKind)
def test_entries_of_each_kind_are_whole(kind: EntryKind) -> None:
    row = row_of(kind)
    assert alone(row)
    assert together(row)
    assert together(*(row_of(each) for each in EntryKind), row)


@pytest.mark.parametrize("at", range(89))
def test_a_change_in_any_place_is_seen_where_one_by_one_sees_it(at: int) -> None:
    good = row_of(EntryKind.ACCESS)
    for bit in range(8):
        changed = bytearray(good.entry)
        changed[at] ^= 1 << bit
        row = replace(good, entry=bytes(changed))
        assert together(good, row, good) == alone(row) == (at in FREE)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 1}, {"kind": 0}, {"kind": 127}, {"kind": 256}, {"kind": -1},
        {"local": b"\x91\x06"}, {"local": b""}, {"local_blind": b"m" * 16},
        {"local_blind": LOCAL_BLIND[:-1], "local": b"l" + LOCAL},
        {"entry": b""}, {"entry": row_of(EntryKind.ACCESS).entry + b"\0"},
        {"entry": row_of(EntryKind.ACCESS).entry[:-1]},
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_seen(change: dict[str, bytes | int]) -> None:
    good = row_of(EntryKind.ACCESS)
    row = replace(good, **change)  # type: ignore[arg-type]
    for rows in ((row,), (good, row), (row, good, good)):
        assert not together(*rows)


def test_two_entries_whose_lengths_only_add_up_are_seen() -> None:
    good = row_of(EntryKind.ACCESS)
    long, short = replace(good, entry=good.entry + good.entry[:1]), good.entry[1:]
    assert not together(long, replace(good, entry=short))


def test_an_entry_under_an_unknown_kind_is_seen() -> None:
    good = row_of(EntryKind.ACCESS)
    changed = bytearray(good.entry)
    changed[2] = 100
    row = replace(good, kind=100, entry=bytes(changed))
    assert not alone(row)
    assert not together(row)


def test_none_are_not_all() -> None:
    assert not together()
