"""Words for people: counts with their noun."""

from __future__ import annotations


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
