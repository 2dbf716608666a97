"""The one canonical msgpack form: a value has exactly one encoding, and nothing else decodes.

- nil, bool, integers from -2^63 to 2^63 - 1, byte strings, text, arrays, and maps with text keys.
- Text is UTF-8 in Unicode Normalization Form C, without C0 controls other than newline.
- Maps are ordered by the UTF-8 bytes of their keys; every length and integer is in its shortest
  form; no floats, no extension types.

``decode`` therefore re-encodes what it read and refuses bytes that differ. Digests and signatures
are always taken over the bytes as received, never over re-encoded ones.
"""

from __future__ import annotations

import unicodedata
from typing import Any, Final, TypeAlias, cast

import msgpack

from protocol import limits
from protocol.errors import DecodeError, LimitError

Value: TypeAlias = "bool | int | bytes | str | list[Value] | dict[str, Value] | None"

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**63 - 1
_CONTROLS: Final = frozenset(map(chr, range(32))) - {"\n"}


def encode(value: object) -> bytes:
    """Return the canonical encoding of *value*; tuples encode as arrays.

    Raises:
        DecodeError: a value of a type, range or form that the canonical rules do not allow.
        LimitError: nesting, a count or a text beyond its bound.
    """
    return cast("bytes", msgpack.packb(_ordered(value, 0), use_bin_type=True))


def decode(data: bytes, *, max_bytes: int) -> Value:
    """Return the value that *data* is the canonical encoding of.

    Raises:
        DecodeError: *data* is not the canonical encoding of any allowed value.
        LimitError: *data*, its nesting, or one of its parts is beyond its bound.
    """
    if len(data) > max_bytes:
        raise LimitError(f"{len(data)} bytes where at most {max_bytes} are allowed")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            max_ext_len=0,
            max_array_len=limits.MAX_ARRAY,
            max_map_len=limits.MAX_MAP,
            object_pairs_hook=_unique,
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise DecodeError(f"not msgpack as Picket allows it: {type(error).__name__}") from None
    if encode(value) != data:
        raise DecodeError("not in canonical form: it would be encoded differently")
    return cast("Value", value)


def _unique(pairs: list[tuple[object, object]]) -> dict[object, object]:
    keys = [key for key, _ in pairs]
    if any(type(key) is not str for key in keys):
        raise DecodeError("a map key is not text")
    if len(set(keys)) != len(keys):
        raise DecodeError("a map key occurs twice")
    return dict(pairs)


def _ordered(value: Any, depth: int) -> object:  # noqa: ANN401  whatever is to be encoded
    # Exact types: bool is an int in Python, and a subclass could encode as anything.
    kind = type(value)
    if kind is bytes or value is None or kind is bool:
        return value
    if kind is int:
        return _integer(value)
    if kind is str:
        return _text(value)
    if depth >= limits.MAX_DEPTH:
        raise LimitError(f"nested deeper than {limits.MAX_DEPTH}")
    if kind is list or kind is tuple:
        return _array(value, depth)
    if kind is dict:
        return _map(value, depth)
    raise DecodeError(f"a value of type {kind.__name__} has no canonical form")


def _integer(value: int) -> int:
    if not _INT_MIN <= value <= _INT_MAX:
        raise DecodeError("an integer is outside the signed 64-bit range")
    return value


def _text(value: str) -> str:
    if value.isascii() and value.isprintable() and len(value) <= limits.MAX_TEXT:
        return value  # nearly all texts; the rules below could not refuse it
    if not value.isascii():
        # Judged before normalisation, which may take time that grows with the text.
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise DecodeError("a text holds a lone surrogate") from None
        if size > limits.MAX_TEXT:
            raise LimitError(f"a text is longer than {limits.MAX_TEXT} bytes")
        if not unicodedata.is_normalized("NFC", value):
            raise DecodeError("a text is not in Unicode Normalization Form C")
    elif len(value) > limits.MAX_TEXT:
        raise LimitError(f"a text is longer than {limits.MAX_TEXT} bytes")
    if not _CONTROLS.isdisjoint(value):
        raise DecodeError("a text holds a control character other than newline")
    return value


def _array(value: list[object], depth: int) -> list[object]:
    if len(value) > limits.MAX_ARRAY:
        raise LimitError(f"an array has more than {limits.MAX_ARRAY} elements")
    depth += 1
    # Byte strings, which most of what is encoded consists of, need no second look.
    return [item if type(item) is bytes else _ordered(item, depth) for item in value]


def _map(value: dict[object, object], depth: int) -> dict[str, object]:
    if len(value) > limits.MAX_MAP:
        raise LimitError(f"a map has more than {limits.MAX_MAP} pairs")
    if any(type(key) is not str for key in value):
        raise DecodeError("a map key is not text")
    # The order of code points is that of UTF-8 bytes.
    keys = sorted(_text(cast("str", key)) for key in value)
    depth += 1
    return {key: _ordered(value[key], depth) for key in keys}
