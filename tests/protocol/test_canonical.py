"""The canonical form: one encoding a value, and nothing else decodes."""

from __future__ import annotations

import struct
import unicodedata

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.canonical import decode, encode
from protocol.errors import DecodeError, LimitError, PeerError

MAX = 1 << 20
REFUSED = {
    "uint8 for a small integer": b"\xcc\x05",
    "uint16 for a small integer": b"\xcd\x00\x05",
    "uint32 for a small integer": b"\xce\x00\x00\x00\x05",
    "uint64 for a small integer": b"\xcf" + bytes(7) + b"\x05",
    "int8 for a small integer": b"\xd0\x05",
    "int16 for minus one": b"\xd1\xff\xff",
    "int64 five": b"\xd3" + bytes(7) + b"\x05",
    "uint64 beyond signed 64 bits": b"\xcf" + b"\xff" * 8,
    "str8 for a short text": b"\xd9\x01a",
    "str16 for a short text": b"\xda\x00\x01a",
    "bin16 for few bytes": b"\xc5\x00\x01a",
    "bin32 for few bytes": b"\xc6\x00\x00\x00\x01a",
    "array16 for few elements": b"\xdc\x00\x01\x01",
    "array32 for few elements": b"\xdd\x00\x00\x00\x01\x01",
    "map16 for few pairs": b"\xde\x00\x01\xa1a\x01",
    "duplicate key": b"\x82\xa1a\x01\xa1a\x02",
    "unsorted map": b"\x82\xa1b\x01\xa1a\x02",
    "integer key": b"\x81\x01\x01",
    "one and true as keys": b"\x82\x01\x01\xc3\x02",
    "bytes key": b"\x81\xc4\x01a\x01",
    "list as key": b"\x81\x90\x01",
    "float32": b"\xca" + struct.pack(">f", 1.5),
    "float64": b"\xcb" + struct.pack(">d", 1.5),
    "not a number": b"\xcb" + struct.pack(">d", float("nan")),
    "minus zero": b"\xcb" + struct.pack(">d", -0.0),
    "extension": b"\xd4\x05\x00",
    "empty extension": b"\xc7\x00\x05",
    "timestamp": b"\xd6\xff\x00\x00\x00\x00",
    "text not in NFC": msgpack.packb(unicodedata.normalize("NFD", "é")),
    "control character": b"\xa1\x07",
    "NUL in a text": b"\xa1\x00",
    "carriage return": b"\xa1\r",
    "control character in a key": b"\x81\xa1\x07\x01",
    "trailing byte": b"\x01\x01",
    "nothing": b"",
    "cut short": b"\x92\x01",
    "invalid UTF-8": b"\xa1\xff",
    "surrogate in UTF-8": b"\xa3\xed\xa0\x80",
    "overlong UTF-8": b"\xa2\xc0\x80",
    "reserved byte": b"\xc1",
    "array that claims 4 billion elements": b"\xdd\xff\xff\xff\xff",
    "map that claims 4 billion pairs": b"\xdf\xff\xff\xff\xff",
    "bytes that claim 4 GiB": b"\xc6\xff\xff\xff\xff",
    "depth bomb": b"\x91" * 100_000 + b"\x01",
    "one level too deep": b"\x91" * (limits.MAX_DEPTH + 1) + b"\x01",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    with pytest.raises(PeerError) as caught:
        decode(REFUSED[name], max_bytes=MAX)
    assert caught.value.code in {"bad-encoding", "over-limit"}


def test_longer_than_its_bound_is_refused_before_it_is_read() -> None:
    with pytest.raises(LimitError):
        decode(b"\xc1" * 11, max_bytes=10)


def test_deepest_allowed_value_decodes() -> None:
    data = b"\x91" * limits.MAX_DEPTH + b"\x01"
    assert encode(decode(data, max_bytes=MAX)) == data


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1.5, DecodeError),
        (2**63, DecodeError),
        (-(2**63) - 1, DecodeError),
        ({1: 2}, DecodeError),
        ({"a": object()}, DecodeError),
        ("\ud800", DecodeError),
        ("e\u0301", DecodeError),
        ("\t", DecodeError),
        (bytearray(b"a"), DecodeError),
        ("x" * (limits.MAX_TEXT + 1), LimitError),
        ("é" * (limits.MAX_TEXT // 2 + 1), LimitError),
        ([0] * (limits.MAX_ARRAY + 1), LimitError),
        ({f"{n:04}": n for n in range(limits.MAX_MAP + 1)}, LimitError),
    ],
)
def test_values_without_a_canonical_form_are_refused(value: object, error: type[PeerError]) -> None:
    with pytest.raises(error):
        encode(value)


def test_tuples_are_arrays_and_maps_are_sorted_by_the_bytes_of_their_keys() -> None:
    assert encode((1, 2)) == encode([1, 2])
    assert encode({"z": 1, "é": 2, "a": 3}) == b"\x83\xa1a\x03\xa1z\x01\xa2\xc3\xa9\x02"


TEXT = st.text(
    alphabet=st.characters(blacklist_categories=["Cs", "Cc"], whitelist_characters="\n"),
    max_size=30,
).map(lambda text: unicodedata.normalize("NFC", text))
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=40) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@given(VALUE)
def test_decode_undoes_encode(value: object) -> None:
    assert decode(encode(value), max_bytes=MAX) == value


@given(st.binary(max_size=200))
def test_any_bytes_either_are_refused_or_are_canonical(data: bytes) -> None:
    try:
        value = decode(data, max_bytes=MAX)
    except PeerError:
        return
    assert encode(value) == data


@given(VALUE, st.data())
def test_a_changed_byte_never_decodes_to_the_same_value(value: object, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode(bytes(encoded), max_bytes=MAX)
    except PeerError:
        return
    assert encode(changed) != encode(value)
