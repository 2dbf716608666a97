"""Checkpoints (C2SP tlog-checkpoint) and cosignatures (tlog-cosignature).

    <origin> NL <size> NL <base64 root> NL

Picket signs each checkpoint twice: note type 0x01, Ed25519 over the text, and type 0x06, ML-DSA-44
over the subtree message with a time. Both must be there and good. No extension lines: ML-DSA
cosignatures would not cover them.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from protocol import limits
from protocol.errors import DecodeError, SignatureError
from protocol.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    Note,
    NoteSignature,
    check_name,
    find,
    format_note,
    key_id,
    parse_note,
    strict_base64,
)

_LINES: Final = 3
_ROOT: Final = 32
_TIME: Final = 8
_TIME_END: Final = 2**63  # tlog-cosignature: it fits every reader's integer
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: which log, how many entries, which root."""

    origin: str
    size: int
    root: bytes


def format_body(checkpoint: Checkpoint) -> str:
    """Return the note text of *checkpoint*."""
    root = base64.b64encode(checkpoint.root).decode()
    return f"{checkpoint.origin}\n{checkpoint.size}\n{root}\n"


def parse_body(text: str) -> Checkpoint:
    """Return the checkpoint in a note's *text*.

    Raises:
        DecodeError: it has another form, or extension lines.
    """
    lines = text.split("\n")
    if len(lines) != _LINES + 1 or lines[-1]:
        raise DecodeError("a checkpoint does not have exactly three lines")
    if not _SIZE.fullmatch(lines[1]):
        raise DecodeError("a checkpoint's size is not a decimal number without leading zeros")
    size = int(lines[1])
    if size > limits.MAX_LOG_SIZE:
        raise DecodeError("a checkpoint's size is out of range")
    root = strict_base64(lines[2], "a checkpoint's root")
    if len(root) != _ROOT:
        raise DecodeError("a checkpoint's root does not have 32 bytes")
    if len(lines[0].encode()) > limits.MAX_NOTE_NAME:
        raise DecodeError(f"a checkpoint's origin is longer than {limits.MAX_NOTE_NAME} bytes")
    return Checkpoint(check_name(lines[0]), size, root)


def sign_checkpoint(
    checkpoint: Checkpoint,
    *,
    ed25519: Ed25519PrivateKey,
    mldsa44: MLDSA44PrivateKey,
    now_s: int,
) -> bytes:
    """Return the signed note of *checkpoint*; *now_s* is UTC in seconds."""
    first = sign_ed25519(checkpoint, key=ed25519)
    return sign_again(checkpoint, first, mldsa44=mldsa44, now_s=now_s)


def sign_ed25519(checkpoint: Checkpoint, *, key: Ed25519PrivateKey) -> NoteSignature:
    """Return the first of the log's two signatures, of type 0x01 (C2SP signed-note)."""
    name, public = checkpoint.origin, key.public_key().public_bytes_raw()
    signature = key.sign(format_body(checkpoint).encode())
    return NoteSignature(name, key_id(name, ED25519, public), signature)


def sign_again(
    checkpoint: Checkpoint, first: NoteSignature, *, mldsa44: MLDSA44PrivateKey, now_s: int
) -> bytes:
    """Return the signed note of *checkpoint*, whose *first* signature is made already."""
    second = cosign_mldsa44(checkpoint, name=checkpoint.origin, key=mldsa44, now_s=now_s)
    return format_note(Note(format_body(checkpoint), (first, second)))


def verify_checkpoint(data: bytes, *, origin: str, ed25519: bytes, mldsa44: bytes) -> Checkpoint:
    """Verify that the log *origin* signed this checkpoint with both of its keys.

    Raises:
        DecodeError: it is no checkpoint in its one form.
        SignatureError: it is of another log, or one of the signatures is missing or bad.
    """
    note = parse_note(data)
    checkpoint = parse_body(note.text)
    if checkpoint.origin != origin:
        raise SignatureError("the checkpoint is of another log")
    first = find(note, origin, key_id(origin, ED25519, ed25519))
    if first is None:
        raise SignatureError("the checkpoint lacks the log's Ed25519 signature")
    try:
        Ed25519PublicKey.from_public_bytes(ed25519).verify(first.signature, note.text.encode())
    except (InvalidSignature, ValueError):
        raise SignatureError("the checkpoint's Ed25519 signature does not verify") from None
    verify_mldsa44(note, checkpoint, name=origin, public_key=mldsa44)
    return checkpoint


# --- cosignatures ----------------------------------------------------------------------------
def subtree_message(checkpoint: Checkpoint, *, name: str, time_s: int) -> bytes:
    """Return what an ML-DSA-44 cosignature of the whole tree covers (tlog-cosignature v1.1)."""
    cosigner, origin = name.encode(), checkpoint.origin.encode()
    return b"".join(
        (
            b"subtree/v1\n\0",
            bytes([len(cosigner)]), cosigner,
            time_s.to_bytes(_TIME, "big"),
            bytes([len(origin)]), origin,
            (0).to_bytes(_TIME, "big"),
            checkpoint.size.to_bytes(_TIME, "big"),
            checkpoint.root,
        )
    )  # fmt: skip


def cosign_mldsa44(
    checkpoint: Checkpoint, *, name: str, key: MLDSA44PrivateKey, now_s: int
) -> NoteSignature:
    """Return the type 0x06 signature of *name* at *now_s*."""
    message = subtree_message(checkpoint, name=name, time_s=now_s)
    public = key.public_key().public_bytes_raw()
    signature = now_s.to_bytes(_TIME, "big") + key.sign(message)
    return NoteSignature(name, key_id(name, COSIGNATURE_MLDSA44, public), signature)


def verify_mldsa44(note: Note, checkpoint: Checkpoint, *, name: str, public_key: bytes) -> int:
    """Verify the type 0x06 signature of *name*; return its time in seconds.

    Raises:
        SignatureError: it is missing or bad.
    """
    found = find(note, name, key_id(name, COSIGNATURE_MLDSA44, public_key))
    if found is None:
        raise SignatureError(f"the checkpoint lacks the ML-DSA-44 signature of {name}")
    time_s = _time_of(found)
    message = subtree_message(checkpoint, name=name, time_s=time_s)
    try:
        MLDSA44PublicKey.from_public_bytes(public_key).verify(found.signature[_TIME:], message)
    except (InvalidSignature, ValueError):
        raise SignatureError("the checkpoint's ML-DSA-44 signature does not verify") from None
    return time_s


def _time_of(signature: NoteSignature) -> int:
    time_s = int.from_bytes(signature.signature[:_TIME], "big")
    if time_s >= _TIME_END:
        raise SignatureError(f"the cosignature of {signature.name} has an impossible time")
    return time_s


def _cosignature_message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def cosign_ed25519(
    checkpoint: Checkpoint, *, name: str, key: Ed25519PrivateKey, now_s: int
) -> NoteSignature:
    """Return the type 0x04 signature of the witness *name* at *now_s*."""
    message = _cosignature_message(format_body(checkpoint), now_s)
    public = key.public_key().public_bytes_raw()
    signature = now_s.to_bytes(_TIME, "big") + key.sign(message)
    return NoteSignature(name, key_id(name, COSIGNATURE_ED25519, public), signature)


def verify_ed25519(note: Note, *, name: str, public_key: bytes) -> int:
    """Verify the type 0x04 signature of the witness *name*; return its time in seconds.

    Raises:
        SignatureError: it is missing or bad.
    """
    found = find(note, name, key_id(name, COSIGNATURE_ED25519, public_key))
    if found is None:
        raise SignatureError(f"the checkpoint lacks the cosignature of {name}")
    time_s = _time_of(found)
    message = _cosignature_message(note.text, time_s)
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(found.signature[_TIME:], message)
    except (InvalidSignature, ValueError):
        raise SignatureError(f"the cosignature of {name} does not verify") from None
    return time_s
