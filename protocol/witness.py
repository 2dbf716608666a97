"""What a witness answers to ``add-checkpoint`` (C2SP tlog-witness); no clock, no storage.

    old <size> NL
    <base64 hash> NL          (0 to 63, a consistency proof)
    <empty line>
    <signed checkpoint>

- The one that calls ``decide`` reads what was recorded, and records what ``Accept`` names, in one
  transaction: two requests at a time would otherwise roll the witness back.
- Nothing is cosigned but a tree that holds all that this witness cosigned before.
- Signature lines of unknown keys are ignored; a bad one of a known key refuses the checkpoint.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from protocol import limits, merkle
from protocol.checkpoint import (
    Checkpoint,
    cosign_ed25519,
    cosign_mldsa44,
    parse_body,
    verify_mldsa44,
)
from protocol.errors import DecodeError, LimitError, PeerError, ProofError, SignatureError
from protocol.note import (
    COSIGNATURE_MLDSA44,
    ED25519,
    Note,
    NoteSignature,
    find,
    format_note,
    format_signature,
    key_id,
    parse_note,
    parse_signature,
    strict_base64,
)
from protocol.statement import NamedKeys

OK: Final = 200
BAD_REQUEST: Final = 400
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
CONFLICT: Final = 409
UNPROCESSABLE: Final = 422
TEXT: Final = "text/plain; charset=utf-8"
SIZE_TEXT: Final = "text/x.tlog.size"
_OLD: Final = re.compile(rb"old (0|[1-9][0-9]{0,15})")
_SIZE: Final = re.compile(rb"(0|[1-9][0-9]{0,15})\n")


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request to cosign: the size cosigned before, the proof from there, and a signed note."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """What this witness cosigned last of one log."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer; *conflict* is the offered checkpoint if it contradicts the recorded one."""

    status: int
    body: bytes
    content_type: str
    conflict: Checkpoint | None = None


@dataclass(frozen=True, slots=True)
class Accept:
    """Record *seen*, then cosign *checkpoint*.

    *note* is the note as sent; *log_note* has only the good signature lines of the log itself.
    Keep and pass on the latter: whoever sends a note can add lines to it.
    """

    checkpoint: Checkpoint
    note: bytes
    log_note: bytes
    seen: Seen


# --- the request -----------------------------------------------------------------------------
def format_add_checkpoint(request: AddCheckpoint) -> bytes:
    """Return the body of *request*."""
    proof = b"".join(base64.b64encode(value) + b"\n" for value in request.proof)
    return b"old %d\n%b\n%b" % (request.old, proof, request.note)


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Return the request in *body*, its note still unread.

    Raises:
        DecodeError: it has another form; re-formatting must give the same bytes.
        LimitError: it is too long or has too many proof lines.
    """
    if len(body) > limits.MAX_ADD_CHECKPOINT:
        raise LimitError(f"the request is longer than {limits.MAX_ADD_CHECKPOINT} bytes")
    head, found, note = body.partition(b"\n\n")
    if not found or not note or note.startswith(b"\n"):
        raise DecodeError("the request lacks its one empty line or its checkpoint")
    first, *lines = head.split(b"\n")
    old = _OLD.fullmatch(first)
    if old is None:
        raise DecodeError("the request's old size is not a decimal number without leading zeros")
    if len(lines) > limits.MAX_WITNESS_PROOF:
        raise LimitError(f"the request has more than {limits.MAX_WITNESS_PROOF} proof lines")
    request = AddCheckpoint(int(old[1]), tuple(map(_hash, lines)), note)
    if format_add_checkpoint(request) != body:
        raise DecodeError("the request is not in its one form")
    return request


def _hash(line: bytes) -> bytes:
    if not line.isascii():
        raise DecodeError("a proof line is not base64")
    value = strict_base64(line.decode("ascii"), "a proof line")
    if len(value) != merkle.HASH_SIZE:
        raise DecodeError("a proof line does not have 32 bytes")
    return value


# --- the answer ------------------------------------------------------------------------------
def decide(
    body: bytes,
    *,
    logs: Callable[[str], Sequence[NamedKeys]],
    seen: Callable[[str], Seen | None],
) -> Accept | Answer:
    """Decide on a request: cosign the checkpoint, or answer why not (C2SP tlog-witness).

    *logs* gives the trusted keys of an origin, none if it is unknown; *seen* what was recorded.
    """
    try:
        request = parse_add_checkpoint(body)
        note = parse_note(request.note)
        checkpoint = parse_body(note.text)
    except PeerError as error:
        return _refuse(BAD_REQUEST, error.message)
    trusted = logs(checkpoint.origin)
    if not trusted:
        return _refuse(NOT_FOUND, "this witness does not know that log")
    try:
        own = verify_log(note, checkpoint, trusted)
    except PeerError as error:
        return _refuse(FORBIDDEN, error.message)
    return _judge(request, checkpoint, format_note(own), seen(checkpoint.origin))


def _judge(
    request: AddCheckpoint, checkpoint: Checkpoint, own: bytes, recorded: Seen | None
) -> Accept | Answer:
    """Decide on a checkpoint whose signatures are good, in the order of the specification."""
    last = recorded or Seen(0, merkle.EMPTY_ROOT)
    conflict = checkpoint if recorded and _contradicts(request, checkpoint, recorded) else None
    if request.old > checkpoint.size:
        return _refuse(BAD_REQUEST, "the old size is larger than the checkpoint", conflict)
    if request.old != last.size:
        return Answer(CONFLICT, b"%d\n" % last.size, SIZE_TEXT, conflict)
    try:
        merkle.verify_consistency(
            old_size=last.size,
            old_root=last.root,
            new_size=checkpoint.size,
            new_root=checkpoint.root,
            proof=request.proof,
        )
    except ProofError as error:
        return _refuse(UNPROCESSABLE, error.message, conflict)
    return Accept(checkpoint, request.note, own, Seen(checkpoint.size, checkpoint.root))


def _contradicts(request: AddCheckpoint, checkpoint: Checkpoint, recorded: Seen) -> bool:
    """Return whether no honest log can have signed both what is offered and what is recorded.

    At another size only a path that leads to the offered root shows it. A bad proof alone does not:
    whoever sends the request can spoil it.
    """
    if checkpoint.size == recorded.size:
        return checkpoint.root != recorded.root
    if request.old != recorded.size:
        return False
    try:
        old_root, new_root = merkle.prefix_roots(
            old_size=recorded.size, new_size=checkpoint.size, path=request.proof
        )
    except ProofError:
        return False
    return new_root == checkpoint.root and old_root != recorded.root


def _refuse(status: int, why: str, conflict: Checkpoint | None = None) -> Answer:
    return Answer(status, f"{why}\n".encode(), TEXT, conflict)


# --- who signed ------------------------------------------------------------------------------
def verify_log(note: Note, checkpoint: Checkpoint, logs: Sequence[NamedKeys]) -> Note:
    """Verify that one of *logs* signed; return *note* with its signature lines alone.

    A log of this network signs with both of its keys. Keys without ML-DSA-44 are those of a foreign
    log, which signs with Ed25519 alone. The key name is the origin in either case.

    Raises:
        DecodeError: a known key signed twice.
        SignatureError: a signature of a known key is bad, or no log signed with all of its keys.
    """
    signed = [
        lines
        for keys in logs
        if keys.name == checkpoint.origin and (lines := _lines(note, checkpoint, keys))
    ]
    if not signed:
        raise SignatureError("the checkpoint is not signed with all keys of a log that is trusted")
    return Note(note.text, signed[0])


def _lines(note: Note, checkpoint: Checkpoint, keys: NamedKeys) -> tuple[NoteSignature, ...]:
    """Return the good signature lines of *keys*, none if one is missing."""
    first = find(note, keys.name, key_id(keys.name, ED25519, keys.ed25519))
    if first is not None:
        _verify_ed25519(note, first, keys.ed25519)
    if not keys.mldsa44:
        return (first,) if first else ()
    second = find(note, keys.name, key_id(keys.name, COSIGNATURE_MLDSA44, keys.mldsa44))
    if second is not None:
        verify_mldsa44(note, checkpoint, name=keys.name, public_key=keys.mldsa44)
    return (first, second) if first and second else ()


def _verify_ed25519(note: Note, line: NoteSignature, public_key: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(line.signature, note.text.encode())
    except (InvalidSignature, ValueError):
        raise SignatureError("the checkpoint's Ed25519 signature does not verify") from None


# --- cosignatures ----------------------------------------------------------------------------
def cosign(
    checkpoint: Checkpoint,
    *,
    name: str,
    ed25519: Ed25519PrivateKey,
    mldsa44: MLDSA44PrivateKey,
    now_s: int,
) -> tuple[NoteSignature, NoteSignature]:
    """Return both cosignatures of the witness *name*; *now_s* is UTC in seconds."""
    return (
        cosign_ed25519(checkpoint, name=name, key=ed25519, now_s=now_s),
        cosign_mldsa44(checkpoint, name=name, key=mldsa44, now_s=now_s),
    )


def format_signatures(signatures: Sequence[NoteSignature]) -> bytes:
    """Return the body of a good answer: signature lines, and nothing else."""
    return "".join(map(format_signature, signatures)).encode()


def parse_signatures(data: bytes) -> tuple[NoteSignature, ...]:
    """Return the signature lines in *data*, unverified.

    Raises:
        DecodeError: it has another form, or no line; re-formatting must give the same bytes.
        LimitError: it is too long or has too many lines.
    """
    if len(data) > limits.MAX_NOTE:
        raise LimitError(f"the signature lines are longer than {limits.MAX_NOTE} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise DecodeError("the signature lines are not UTF-8") from None
    if not text.endswith("\n"):
        raise DecodeError("the signature lines lack their last newline")
    lines = text[:-1].split("\n")
    if len(lines) > limits.MAX_NOTE_SIGNATURES:
        raise LimitError(f"there are more than {limits.MAX_NOTE_SIGNATURES} signature lines")
    signatures = tuple(map(parse_signature, lines))
    if format_signatures(signatures) != data:
        raise DecodeError("the signature lines are not in their one form")
    return signatures


def parse_size(body: bytes) -> int:
    """Return the size in the *body* of a 409 answer of type ``text/x.tlog.size``.

    Raises:
        DecodeError: it is not a decimal number without leading zeros, and a newline.
    """
    found = _SIZE.fullmatch(body)
    if found is None:
        raise DecodeError("the witness's size is not a decimal number and a newline")
    return int(found[1])


def origin_hash(origin: str) -> str:
    """Return the hex SHA-256 of *origin*: the part of a monitoring path that names the log."""
    return hashlib.sha256(origin.encode()).hexdigest()
