"""Looks for words and keys in whatever nodes leave behind, in every form that software writes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

Needle = TypeVar("Needle", str, bytes)


@cache
def forms(needle: str | bytes) -> frozenset[bytes]:
    """Return *needle* as it would look written down plainly, in hex or base64.

    A text also in UTF-16, and that in hex and base64 as well.
    """
    if isinstance(needle, str):
        plain = {needle.encode(), needle.encode("utf-16-le"), needle.encode("utf-16-be")}
    else:
        plain = {needle}
    found = set(plain)
    for data in plain:
        found |= {data.hex().encode(), data.hex().upper().encode(), *_base64(data)}
    return frozenset(found)


def _base64(data: bytes) -> set[bytes]:
    """Return what of *data* is sure to stand in any base64 of what contains it."""
    found = set()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data)
        # The first and last group also depend on what stands around it.
        inner = encoded[4:-4]
        found |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def hits(data: bytes, needles: Sequence[Needle]) -> list[Needle]:
    """Return which of *needles* occur in *data* in any form."""
    return [needle for needle in needles if any(form in data for form in forms(needle))]
