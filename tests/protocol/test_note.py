"""Signed notes: the published example byte for byte, and the one form in which they parse."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits
from protocol.errors import DecodeError, LimitError, PeerError, SignatureError
from protocol.note import (
    COSIGNATURE_ED25519,
    ED25519,
    Note,
    NoteSignature,
    VerifierKey,
    check_name,
    find,
    format_note,
    format_vkey,
    key_id,
    parse_note,
    parse_vkey,
    strict_base64,
    verify_note,
)

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "log.json").read_text(encoding="utf-8")
)
WHOLE: bytes = VECTOR["checkpoint"]["note"].encode()
TEXT, LINES = VECTOR["checkpoint"]["note"].split("\n\n")
LOG_LINE, WITNESS_LINE = (f"{line}\n" for line in LINES.splitlines())
SIGNED: bytes = f"{TEXT}\n\n{LOG_LINE}".encode()

Check = Callable[[str, bytes], None]


def private(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["seeds"][name]))


def verifier(name: str) -> tuple[VerifierKey, Check]:
    """Return the key *name* of the vector with a plain Ed25519 check over the text."""
    key = parse_vkey(VECTOR["vkeys"][name])

    def check(text: str, signature: bytes) -> None:
        try:
            Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, text.encode())
        except InvalidSignature:
            raise SignatureError("the note's signature does not verify") from None

    return key, check


def signed_by(names: int) -> bytes:
    """Return the example's text with as many signature lines, each of another key."""
    lines = [NoteSignature(f"k{n}.example", bytes(4), bytes(64)) for n in range(names)]
    return format_note(Note(f"{TEXT}\n", tuple(lines)))


# --- the published example -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "type_byte"),
    [("log", ED25519), ("witness_b", COSIGNATURE_ED25519), ("witness_c", COSIGNATURE_ED25519)],
)
def test_the_published_verifier_keys(name: str, type_byte: int) -> None:
    shown: str = VECTOR["vkeys"][name]
    public = private(name).public_key().public_bytes_raw()
    key = parse_vkey(shown)
    assert (key.type, key.public_key) == (type_byte, public)
    assert key.key_id == key_id(key.name, type_byte, public) == bytes.fromhex(shown.split("+")[1])
    assert format_vkey(key.name, type_byte, public) == shown


def test_the_published_note_comes_back_byte_for_byte() -> None:
    note = parse_note(WHOLE)
    assert note.text == f"{TEXT}\n"
    assert [s.name for s in note.signatures] == [VECTOR["origin"], "picket.example/node-b/witness"]
    assert format_note(note) == WHOLE


def test_the_log_s_published_signature_is_made_again_from_its_seed() -> None:
    key, _ = verifier("log")
    signature = private("log").sign(f"{TEXT}\n".encode())
    note = Note(f"{TEXT}\n", (NoteSignature(key.name, key.key_id, signature),))
    assert format_note(note) == SIGNED


def test_each_single_bit_change_of_a_signed_note_is_refused() -> None:
    def refused(data: bytes) -> bool:
        try:
            verify_note(parse_note(data), [verifier("log")])
        except PeerError:
            return True
        return False

    assert not refused(SIGNED)
    changes = [(at, bit) for at in range(len(SIGNED)) for bit in range(8)]
    accepted = [
        (at, bit)
        for at, bit in changes
        if not refused(SIGNED[:at] + bytes([SIGNED[at] ^ 1 << bit]) + SIGNED[at + 1 :])
    ]
    assert accepted == []


def test_each_truncation_of_a_signed_note_is_refused() -> None:
    for length in range(len(SIGNED)):
        with pytest.raises(DecodeError):
            parse_note(SIGNED[:length])


# --- form ------------------------------------------------------------------------------------
def line(data: str, name: str = "picket.example/node-a", dash: str = "\u2014") -> bytes:
    return f"{TEXT}\n\n{dash} {name} {data}\n".encode()


GOOD = LOG_LINE.split(" ")[2].strip()
REFUSED: dict[str, tuple[bytes, type[PeerError]]] = {
    "nothing": (b"", DecodeError),
    "no last newline": (SIGNED[:-1], DecodeError),
    "no signature": (f"{TEXT}\n\n".encode(), DecodeError),
    "no empty line": (f"{TEXT}\n{LOG_LINE}".encode(), DecodeError),
    "no text": (f"\n\n{LOG_LINE}".encode(), DecodeError),
    "an empty line after the signatures": (SIGNED + b"\n", DecodeError),
    "text after the signatures": (SIGNED + b"more\n", DecodeError),
    "Windows line ends": (SIGNED.replace(b"\n", b"\r\n"), DecodeError),
    "a tab in the text": (SIGNED.replace(b"5\n", b"5\t\n", 1), DecodeError),
    "a NUL in the text": (b"\0" + SIGNED, DecodeError),
    "an escape in a name": (line(GOOD, name="a\x1bb"), DecodeError),
    "bytes that are not UTF-8": (b"\xff" + SIGNED, DecodeError),
    "a byte order mark in place of the dash": (line(GOOD, dash="\ufeff"), DecodeError),
    "a hyphen in place of the dash": (line(GOOD, dash="-"), DecodeError),
    "an en dash in place of the dash": (line(GOOD, dash="\u2013"), DecodeError),
    "two spaces": (line(GOOD, dash="\u2014 "), DecodeError),
    "a space at the end": (line(f"{GOOD} "), DecodeError),
    "a third word": (line(f"{GOOD} x"), DecodeError),
    "no name": (f"{TEXT}\n\n\u2014 {GOOD}\n".encode(), DecodeError),
    "a plus sign in the name": (line(GOOD, name="a+b"), DecodeError),
    "a no-break space in the name": (line(GOOD, name="a\u00a0b"), DecodeError),
    "a zero-width space in the name": (line(GOOD, name="a\u200bb"), DecodeError),
    "junk in the base64": (line(GOOD[:8] + "*" + GOOD[9:]), DecodeError),
    "junk beside the base64": (line(GOOD[:8] + "*" + GOOD[8:]), DecodeError),
    "base64 of the URL alphabet": (line(GOOD.replace("/", "_")), DecodeError),
    "base64 without padding": (line(GOOD.rstrip("=")), DecodeError),
    "base64 with too much padding": (line(f"{GOOD}="), DecodeError),
    "base64 with stray last bits": (line(GOOD[:-2] + "9="), DecodeError),
    "a signature of no bytes": (line(base64.b64encode(bytes(4)).decode()), DecodeError),
    "a key id cut short": (line(base64.b64encode(bytes(3)).decode()), DecodeError),
    "too many signatures": (signed_by(limits.MAX_NOTE_SIGNATURES + 1), LimitError),
    "more bytes than a note may have": (b"x" * limits.MAX_NOTE + SIGNED, LimitError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_note_of_another_form_is_refused(name: str) -> None:
    data, error = REFUSED[name]
    with pytest.raises(PeerError) as caught:
        parse_note(data)
    assert type(caught.value) is error


def test_sixteen_signatures_are_accepted() -> None:
    assert len(parse_note(signed_by(16)).signatures) == 16


def test_text_and_signatures_part_at_the_last_empty_line() -> None:
    """What looks like a signature above it is text, and nobody's signature."""
    note = parse_note(WHOLE.replace(LOG_LINE.encode(), f"{LOG_LINE}\n".encode()))
    assert note.text == f"{TEXT}\n\n{LOG_LINE}"
    assert len(note.signatures) == 1
    with pytest.raises(SignatureError):
        verify_note(note, [verifier("log")])


NAME = st.text(
    st.characters(categories=["L", "N", "P", "S"], exclude_characters="+"), min_size=1, max_size=40
)
BODY = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(32))]), max_size=40
)


@settings(deadline=None)
@given(
    st.lists(BODY, min_size=1, max_size=5),
    st.lists(st.tuples(NAME, st.binary(min_size=1, max_size=80)), min_size=1, max_size=16),
)
def test_parsing_undoes_formatting(lines: list[str], signatures: list[tuple[str, bytes]]) -> None:
    signed = tuple(NoteSignature(name, key_id(name, 1, data), data) for name, data in signatures)
    note = Note("x" + "\n".join(lines) + "\n", signed)
    assert parse_note(format_note(note)) == note


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_format_back_to_themselves(data: bytes) -> None:
    try:
        note = parse_note(data)
    except PeerError:
        return
    assert format_note(note) == data


# --- who signed ------------------------------------------------------------------------------
def test_a_known_key_is_enough_and_unknown_keys_are_ignored() -> None:
    verify_note(parse_note(WHOLE), [verifier("log")])
    verify_note(parse_note(WHOLE), [verifier("witness_c"), verifier("log")])


def test_a_note_that_no_known_key_signed_is_refused() -> None:
    for known in ([], [verifier("witness_c")]):
        with pytest.raises(SignatureError):
            verify_note(parse_note(WHOLE), known)


def test_a_bad_signature_of_a_known_key_refuses_the_whole_note() -> None:
    """Even beside a good one: the witness's line is no plain signature over the text."""
    assert parse_note(WHOLE).signatures[1].key_id == verifier("witness_b")[0].key_id
    with pytest.raises(SignatureError):
        verify_note(parse_note(WHOLE), [verifier("log"), verifier("witness_b")])


def test_two_signatures_of_one_key_are_refused() -> None:
    note = parse_note(f"{TEXT}\n\n{LOG_LINE}{LOG_LINE}".encode())
    key, _ = verifier("log")
    with pytest.raises(DecodeError):
        find(note, key.name, key.key_id)
    with pytest.raises(DecodeError):
        verify_note(note, [verifier("log")])


def test_a_key_counts_only_under_its_own_name() -> None:
    key, check = verifier("log")
    note = parse_note(line(GOOD, name="picket.example/node-x"))
    assert find(note, key.name, key.key_id) is None
    with pytest.raises(SignatureError):
        verify_note(note, [(key, check)])


# --- names, keys, base64 ---------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["", "a b", "a+b", "a\tb", "a\nb", "a\u2003b", "a\u200bb", "a\x7fb", " a", "a "]
)
def test_names_that_cannot_name_a_key_are_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        check_name(name)
    with pytest.raises(DecodeError):
        format_vkey(name, ED25519, bytes(32))


def test_the_key_id_depends_on_name_type_and_key() -> None:
    ids = {
        key_id(name, type_byte, public)
        for name in ("a", "b")
        for type_byte in (ED25519, COSIGNATURE_ED25519)
        for public in (bytes(32), bytes([1]) * 32)
    }
    assert len(ids) == 8


VKEY: str = VECTOR["vkeys"]["log"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "picket.example/node-a",
        VKEY.replace("+a15e6a3e+", "+"),
        VKEY.replace("a15e6a3e", "a15e6a3f"),
        VKEY.replace("a15e6a3e", "A15E6A3E"),
        VKEY.replace("a15e6a3e", ""),
        VKEY.replace("node-a", "node-b"),
        VKEY.replace("node-a", "node a"),
        VKEY[VKEY.index("+") :],
        VKEY[:-1],
        VKEY + "=",
        VKEY + "\n",
        " " + VKEY,
        VKEY[:-4],
        VKEY + "+x",
    ],
)
def test_a_verifier_key_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_vkey(text)


@pytest.mark.parametrize(
    "text",
    [
        "AA", "AA=", "AB==", "AAB=", "AA===", "=AA=", "AA==AA==", "AA==\n", " AA==", "A A=", "A",
        "A-_=", "AA\u00e9=", "AA*=", "\uff21A==",
    ],
)  # fmt: skip
def test_base64_that_does_not_encode_back_to_itself_is_refused(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        strict_base64(text, "the root")
    assert "the root" in str(caught.value)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_base64_of_any_bytes_comes_back(data: bytes) -> None:
    assert strict_base64(base64.b64encode(data).decode(), "data") == data
