"""C2SP signed notes, parsed strictly.

    text (ends in newline)
    <empty line>
    U+2014 SP key-name SP base64(key id (4) || signature) NL        (one or more)

- The signature covers the text with its final newline, without the empty line.
- Key id = SHA-256(name || LF || type || public key)[:4].
- Signatures of unknown (name, key id) are ignored; a known one that fails refuses the whole note.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol import limits
from protocol.errors import DecodeError, LimitError, SignatureError

ED25519: Final = 0x01
COSIGNATURE_ED25519: Final = 0x04
COSIGNATURE_MLDSA44: Final = 0x06
KEY_ID_SIZE: Final = 4
_DASH: Final = "\u2014"
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_LINE: Final = re.compile(rf"{_DASH} ([^ ]+) ([A-Za-z0-9+/=]+)")


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed, unverified note."""

    text: str
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name it signs notes under."""

    name: str
    key_id: bytes
    type: int
    public_key: bytes


def check_name(name: str) -> str:
    """Return *name* if it may name a key.

    Raises:
        DecodeError: it is empty, or has white space or a plus sign.
    """
    if not name or "+" in name or " " in name or not name.isprintable():
        raise DecodeError("a note key name is empty, or has white space or a plus sign")
    return name


def key_id(name: str, type_byte: int, public_key: bytes) -> bytes:
    """Return the 4-byte key id."""
    digest = hashlib.sha256(name.encode() + b"\n" + bytes([type_byte]) + public_key).digest()
    return digest[:KEY_ID_SIZE]


def strict_base64(text: str, field: str) -> bytes:
    """Decode standard padded base64 (RFC 4648 section 4) that re-encodes to itself.

    Raises:
        DecodeError: it does not.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DecodeError(f"{field} is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise DecodeError(f"{field} is not canonical base64")
    return data


def format_vkey(name: str, type_byte: int, public_key: bytes) -> str:
    """Return the text form of a verifier key."""
    shown = key_id(check_name(name), type_byte, public_key).hex()
    return f"{name}+{shown}+{base64.b64encode(bytes([type_byte]) + public_key).decode()}"


def parse_vkey(text: str) -> VerifierKey:
    """Return the verifier key in *text*.

    Raises:
        DecodeError: it has another form, or its key id is wrong.
    """
    name, _, rest = text.partition("+")
    shown, _, encoded = rest.partition("+")
    check_name(name)
    data = strict_base64(encoded, "the verifier key")
    if len(data) < 1 + limits.MIN_NOTE_KEY:
        raise DecodeError("the verifier key is too short")
    key = VerifierKey(name, key_id(name, data[0], data[1:]), data[0], data[1:])
    if key.key_id.hex() != shown:
        raise DecodeError("the verifier key's id is not that of the key")
    return key


def format_note(note: Note) -> bytes:
    """Return the bytes of *note*."""
    lines = "".join(map(format_signature, note.signatures))
    return f"{note.text}\n{lines}".encode()


def format_signature(signature: NoteSignature) -> str:
    """Return the line of *signature*, with its newline."""
    data = base64.b64encode(signature.key_id + signature.signature).decode()
    return f"{_DASH} {signature.name} {data}\n"


def parse_note(data: bytes) -> Note:
    """Return the note that *data* holds, unverified.

    Raises:
        DecodeError: it has another form; re-formatting must give the same bytes.
        LimitError: it is too long or has too many signatures.
    """
    if len(data) > limits.MAX_NOTE:
        raise LimitError(f"a note is longer than {limits.MAX_NOTE} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise DecodeError("a note is not UTF-8") from None
    if _CONTROL.search(text):
        raise DecodeError("a note has a control character")
    body, found, tail = text.rpartition("\n\n")
    if not found or not body or not tail.endswith("\n"):
        raise DecodeError("a note lacks its empty line, its text or its last newline")
    lines = tail[:-1].split("\n")
    if len(lines) > limits.MAX_NOTE_SIGNATURES:
        raise LimitError(f"a note has more than {limits.MAX_NOTE_SIGNATURES} signatures")
    note = Note(body + "\n", tuple(parse_signature(line) for line in lines))
    if format_note(note) != data:
        raise DecodeError("a note is not in its one form")
    return note


def parse_signature(line: str) -> NoteSignature:
    """Return the signature in *line*, which is without its newline.

    Raises:
        DecodeError: it has another form.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise DecodeError("a note's signature line has another form")
    data = strict_base64(match[2], "a note's signature")
    if len(data) <= KEY_ID_SIZE:
        raise DecodeError("a note's signature is too short")
    return NoteSignature(check_name(match[1]), data[:KEY_ID_SIZE], data[KEY_ID_SIZE:])


def find(note: Note, name: str, wanted: bytes) -> NoteSignature | None:
    """Return the signature of *name* and key id *wanted*, if the note has it.

    Raises:
        DecodeError: it has two of them.
    """
    found = [s for s in note.signatures if (s.name, s.key_id) == (name, wanted)]
    if len(found) > 1:
        raise DecodeError("a note has two signatures of one key")
    return found[0] if found else None


def verify_note(
    note: Note, verifiers: Sequence[tuple[VerifierKey, Callable[[str, bytes], None]]]
) -> None:
    """Verify *note* with known keys, each with a function that raises on a bad signature.

    Raises:
        SignatureError: a known key's signature fails, or no known key signed.
    """
    good = 0
    for key, check in verifiers:
        signature = find(note, key.name, key.key_id)
        if signature is not None:
            check(note.text, signature.signature)
            good += 1
    if not good:
        raise SignatureError("the note is not signed by any known key")
