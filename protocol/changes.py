"""What differs between two revisions, field by field; pure comparison of JSON-able values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from protocol.canonical import encode


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs; None stands for a field that is absent."""

    pointer: str
    before: Any
    after: Any


def changes(before: object, after: object) -> tuple[Change, ...]:
    """Return what differs, in the order of the fields.

    Elements of lists are paired by what they hold, so that one put in front does not make all of
    them differ. A pointer of something that is gone counts in the old list, any other in the new.
    """
    return tuple(_changes("", before, after))


def _changes(pointer: str, before: object, after: object) -> Iterator[Change]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            yield from _changes(f"{pointer}/{_escaped(name)}", before.get(name), after.get(name))
    elif isinstance(before, list) and isinstance(after, list):
        yield from _list_changes(pointer, before, after)
    else:
        yield Change(pointer, before, after)


def _list_changes(pointer: str, before: list[Any], after: list[Any]) -> Iterator[Change]:
    one, other = [encode(item) for item in before], [encode(item) for item in after]
    for _, i, i_end, j, j_end in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if one[i:i_end] == other[j:j_end]:
            continue
        paired = min(i_end - i, j_end - j)
        for step in range(paired):
            yield from _changes(f"{pointer}/{j + step}", before[i + step], after[j + step])
        for place in range(i + paired, i_end):
            yield Change(f"{pointer}/{place}", before[place], None)
        for place in range(j + paired, j_end):
            yield Change(f"{pointer}/{place}", None, after[place])


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
