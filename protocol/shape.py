"""Readers that take decoded canonical values apart with exact types and named fields.

Each function returns the value with its static type, or raises a DecodeError that names the field:
``type(x) is int`` and never ``isinstance``, because True is an int in Python.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol import limits
from protocol.canonical import Value
from protocol.errors import DecodeError, LimitError


def uint(value: Value, field: str, *, maximum: int = 2**63 - 1, minimum: int = 0) -> int:
    """Return *value* as an integer from *minimum* to *maximum*.

    Raises:
        DecodeError: it is not an integer, or out of range.
    """
    if type(value) is not int:
        raise DecodeError(f"{field} is not an integer")
    if not minimum <= value <= maximum:
        raise DecodeError(f"{field} is outside {minimum} to {maximum}")
    return value


def octets(value: Value, field: str, *, size: int | None = None, maximum: int = 0) -> bytes:
    """Return *value* as a byte string of exactly *size*, or of 1 to *maximum* bytes.

    Raises:
        DecodeError: it is not a byte string, is empty, or has another size.
        LimitError: it is longer than *maximum*.
    """
    if type(value) is not bytes:
        raise DecodeError(f"{field} is not a byte string")
    if size is not None:
        if len(value) != size:
            raise DecodeError(f"{field} has {len(value)} bytes instead of {size}")
    elif not value:
        raise DecodeError(f"{field} is empty")
    elif len(value) > maximum:
        raise LimitError(f"{field} is longer than {maximum} bytes")
    return value


def text(value: Value, field: str, *, maximum: int = limits.MAX_NAME) -> str:
    """Return *value* as one line of text of 1 to *maximum* characters.

    Raises:
        DecodeError: it is not text, is empty, or has a line break.
        LimitError: it is longer than *maximum*.
    """
    if type(value) is not str:
        raise DecodeError(f"{field} is not text")
    if not value or "\n" in value:
        raise DecodeError(f"{field} is empty or has a line break")
    if len(value) > maximum:
        raise LimitError(f"{field} is longer than {maximum} characters")
    return value


def array(
    value: Value, field: str, *, size: int | None = None, minimum: int = 0, maximum: int = 0
) -> list[Value]:
    """Return *value* as an array of exactly *size*, or of *minimum* to *maximum* elements.

    Raises:
        DecodeError: it is not an array, or has another length.
        LimitError: it has more than *maximum* elements.
    """
    if type(value) is not list:
        raise DecodeError(f"{field} is not an array")
    if size is not None:
        if len(value) != size:
            raise DecodeError(f"{field} has {len(value)} elements instead of {size}")
    elif len(value) > maximum:
        raise LimitError(f"{field} has more than {maximum} elements")
    elif len(value) < minimum:
        raise DecodeError(f"{field} has fewer than {minimum} elements")
    return value


def exact_map(value: Value, field: str, keys: Sequence[str]) -> dict[str, Value]:
    """Return *value* as a map with exactly *keys*, and possibly ``ext``.

    ``ext`` is the one place where a later version may add fields: a map that readers keep, cover
    with the signature, and otherwise ignore.

    Raises:
        DecodeError: it is not a map, a key is missing, or one is unknown.
    """
    if type(value) is not dict:
        raise DecodeError(f"{field} is not a map")
    if missing := [key for key in keys if key not in value]:
        raise DecodeError(f"{field} lacks {missing[0]}")
    if unknown := sorted(set(value) - set(keys) - {"ext"}):
        raise DecodeError(f"{field} has the unknown key {unknown[0]!r}")
    if "ext" in value and type(value["ext"]) is not dict:
        raise DecodeError(f"{field}.ext is not a map")
    return value
