"""Cosignatures on a checkpoint (C2SP tlog-cosignature), and whether they meet a policy.

- A signature line of an unknown (name, key id) is ignored; one of a known key that fails refuses
  the whole note (C2SP signed-note).
- A cosignature of time 0 makes no statement about time, so it never counts towards a quorum.
- A quorum is met at the time of the last cosignature that it needed: before that nobody but the
  log and fewer witnesses have vouched for the tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol import limits
from protocol.checkpoint import Checkpoint, parse_body, verify_ed25519, verify_mldsa44
from protocol.errors import DecodeError, LimitError, ProofError, SignatureError
from protocol.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    Note,
    NoteSignature,
    VerifierKey,
    find,
    format_note,
    parse_note,
)
from protocol.policy import LogLine, Policy

_TIME: Final = 8
_TIMED: Final = frozenset({_TIME + 64, _TIME + 2_420})
"""Lengths of the two signatures that begin with a time; that of a log's Ed25519 one is 64."""
_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A verified cosignature: whose key, and when its owner says it was made."""

    name: str
    type: int
    key_id: bytes
    time_s: int


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint that meets a policy.

    ``labels`` are the witness lines of the policy that cosigned, needed or not. ``not_after`` is
    the earliest time, in seconds, by which the quorum was met; None if it needs no witness.
    """

    checkpoint: Checkpoint
    labels: frozenset[str]
    not_after: int | None


def verify_cosignatures(note: Note, vkeys: Iterable[VerifierKey]) -> tuple[Cosignature, ...]:
    """Return the cosignatures of *note* that keys of *vkeys* made, in the order of the keys.

    Raises:
        DecodeError: the text is no checkpoint, or a key signed twice.
        SignatureError: a cosignature of one of the keys does not verify.
    """
    checkpoint = parse_body(note.text)
    keys = dict.fromkeys(vkeys)
    return tuple(
        Cosignature(key.name, key.type, key.key_id, verify_cosignature(note, checkpoint, key))
        for key in keys
        if find(note, key.name, key.key_id) is not None
    )


def verify_cosignature(note: Note, checkpoint: Checkpoint, key: VerifierKey) -> int:
    """Verify the cosignature of *key* on *note*, which holds *checkpoint*; return its time (s).

    Raises:
        SignatureError: it is missing or bad, or the key cannot make one.
    """
    if key.type == COSIGNATURE_ED25519:
        return verify_ed25519(note, name=key.name, public_key=key.public_key)
    if key.type == COSIGNATURE_MLDSA44 and len(key.name.encode()) <= limits.MAX_NOTE_NAME:
        return verify_mldsa44(note, checkpoint, name=key.name, public_key=key.public_key)
    raise SignatureError(f"the key of {key.name} cannot make a cosignature")


def check_policy(data: bytes, policy: Policy) -> Cosigned:
    """Verify that the note *data* is a checkpoint of a log of *policy*, cosigned as that demands.

    Raises:
        DecodeError: it is no checkpoint in its one form.
        SignatureError: no log of the policy signed it, or a known key's signature fails.
        ProofError: the quorum is not met; names who is missing.
    """
    note = parse_note(data)
    checkpoint = parse_body(note.text)
    _check_log(note, checkpoint, policy.logs)
    lines = {(line.key.name, line.key.key_id): line for line in policy.witnesses.values()}
    times = {
        lines[each.name, each.key_id].name: each.time_s
        for each in verify_cosignatures(note, [line.key for line in lines.values()])
        if each.time_s
    }
    return Cosigned(checkpoint, frozenset(times), _met_at(policy, times))


def _check_log(note: Note, checkpoint: Checkpoint, logs: Sequence[LogLine]) -> None:
    """Verify what the logs of this origin signed; one signature is enough, a bad one too many."""
    known = [log.key for log in logs if log.key.name == checkpoint.origin]
    signed = [key for key in known if find(note, key.name, key.key_id) is not None]
    for key in signed:
        if key.type == ED25519:
            _verify_log(note, key)
        else:
            verify_cosignature(note, checkpoint, key)
    if not signed:
        raise SignatureError(f"no log of the policy signed this checkpoint of {checkpoint.origin}")


def _verify_log(note: Note, key: VerifierKey) -> None:
    found = find(note, key.name, key.key_id)
    if found is None:
        raise SignatureError(f"the checkpoint lacks the Ed25519 signature of {key.name}")
    try:
        public = Ed25519PublicKey.from_public_bytes(key.public_key)
        public.verify(found.signature, note.text.encode())
    except (InvalidSignature, ValueError):
        raise SignatureError(f"the Ed25519 signature of {key.name} does not verify") from None


def quorum_time(policy: Policy, times: Mapping[str, int]) -> int | None:
    """Return by when (s) witness lines that cosigned at *times* met the quorum; None if never.

    A policy without a quorum is met at no time.
    """
    if policy.quorum is None:
        return None
    for time_s in sorted(set(times.values())):
        if policy.satisfied(name for name, at in times.items() if at <= time_s):
            return time_s
    return None


def _met_at(policy: Policy, times: Mapping[str, int]) -> int | None:
    met = quorum_time(policy, times)
    if met is None and policy.quorum is not None:
        missing = policy.missing(times)
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise ProofError(
            "too few witnesses cosigned the checkpoint; missing: "
            f"{', '.join(missing[:_SHOWN])}{more}"
        )
    return met


# --- collecting ------------------------------------------------------------------------------
def add_signatures(data: bytes, lines: Iterable[NoteSignature]) -> bytes:
    """Return the note *data* with signature *lines* added; the newest of one key takes its place.

    Verify the lines first: a bad one with a later time would push out a good one.

    Raises:
        DecodeError: *data* is no note in its one form, or a key signed it twice.
        LimitError: there would be too many signatures, or too long a note.
    """
    note = parse_note(data)
    merged = {(each.name, each.key_id): each for each in note.signatures}
    if len(merged) != len(note.signatures):
        raise DecodeError("a note has two signatures of one key")
    for line in lines:
        held = merged.get((line.name, line.key_id))
        if held is None or (_length(line) == _length(held) and _time(line) > _time(held)):
            merged[line.name, line.key_id] = line
    if len(merged) > limits.MAX_NOTE_SIGNATURES:
        raise LimitError(f"a note has more than {limits.MAX_NOTE_SIGNATURES} signatures")
    result = format_note(Note(note.text, tuple(merged.values())))
    if len(result) > limits.MAX_NOTE:
        raise LimitError(f"a note is longer than {limits.MAX_NOTE} bytes")
    return result


def _length(line: NoteSignature) -> int:
    return len(line.signature)


def _time(line: NoteSignature) -> int:
    """Return the time of a cosignature; a signature without one is older than any."""
    if len(line.signature) not in _TIMED:
        return -1
    return int.from_bytes(line.signature[:_TIME], "big")
