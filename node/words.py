"""Words for people: counts with their noun, times, names."""

from __future__ import annotations

from node.clock import rfc3339


def counted(number: int, one: str, many: str = "") -> str:
    """Return *number* with its noun: ``1 entry``, ``2 entries``.

    Args:
        number: how many.
        one: the word, or words, for one.
        many: the words for any other number, where the ending of *one* does not make them.
    """
    if number == 1:
        return f"1 {one}"
    if not many:
        ends_in_y = one.endswith("y") and one[-2:-1] not in set("aeiou")
        many = f"{one[:-1]}ies" if ends_in_y else f"{one}s"
    return f"{number} {many}"


def minute(at: int) -> str:
    """Return a time (ms) to the minute: ``2026-03-01 08:30 UTC``."""
    shown = rfc3339(at)
    return f"{shown[:10]} {shown[11:16]} UTC"


def quoted(name: str) -> str:
    """Return *name* as it is typed in a command: in quotes if it has blanks."""
    return f'"{name}"' if " " in name else name
