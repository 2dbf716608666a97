"""Evidence against a log: two checkpoints it signed that cannot be of one growing tree.

    evidence = [first note bin, second note bin, [hash bin32, ...]]
    digest   = H("log-fork", evidence)

- At one size the roots differ, and there is no path. At different sizes the path (that of
  ``merkle.prove_prefix``) leads to the second root and computes another root than the first: the
  later tree has another beginning. A first tree of size 0 has a root that is not the empty one.
- The smaller size stands first, of two with one size the smaller root. Notes keep only the
  signature lines under the log's own name, so that a contradiction has few forms.
- It proves itself: nobody needs the entries, or has to believe whoever passes it on. An honest log
  is never blamed: a path that leads to its root holds the hashes of its own tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol import limits, merkle, suite
from protocol.canonical import decode, encode
from protocol.checkpoint import Checkpoint, parse_body
from protocol.errors import DecodeError, ProofError
from protocol.note import Note, format_note, parse_note
from protocol.shape import array, octets
from protocol.statement import NamedKeys
from protocol.witness import verify_log


@dataclass(frozen=True, slots=True)
class LogFork:
    """Two signed notes of one log, and a path; believe it only after ``verify_log_fork``."""

    first: bytes
    second: bytes
    proof: tuple[bytes, ...]


def make_log_fork(first_note: bytes, second_note: bytes, proof: Sequence[bytes] = ()) -> LogFork:
    """Return the evidence that two notes, in whichever order, make with the path between them.

    Raises:
        DecodeError: a note is no checkpoint, or lacks a signature line under the log's own name.
        LimitError: a note is too long.
        ProofError: the two checkpoints contradict nothing.
    """
    pair = sorted((_own(first_note), _own(second_note)), key=lambda each: _order(each[1]))
    fork = LogFork(pair[0][0], pair[1][0], tuple(proof))
    _check(pair[0][1], pair[1][1], fork.proof)
    return fork


def encode_log_fork(fork: LogFork) -> bytes:
    """Return the canonical bytes of *fork*."""
    return encode([fork.first, fork.second, list(fork.proof)])


def log_fork_digest(fork: LogFork) -> bytes:
    """Return the digest under which *fork* is kept and logged."""
    return suite.digest("log-fork", encode_log_fork(fork))


def parse_log_fork(data: bytes) -> LogFork:
    """Return the evidence in *data*: a contradiction, but nobody's until the signatures verify.

    Raises:
        DecodeError: it is not canonical, or a note is no checkpoint in its one form.
        LimitError: it, a note or the path is too long.
        ProofError: the two checkpoints contradict nothing, or stand in the wrong order.
    """
    value = array(decode(data, max_bytes=limits.MAX_LOG_FORK), "log fork", size=3)
    hashes = array(value[2], "log fork.proof", maximum=limits.MAX_PROOF)
    fork = LogFork(
        octets(value[0], "log fork.first", maximum=limits.MAX_NOTE),
        octets(value[1], "log fork.second", maximum=limits.MAX_NOTE),
        tuple(octets(each, "log fork.proof", size=merkle.HASH_SIZE) for each in hashes),
    )
    _check(_read(fork.first)[1], _read(fork.second)[1], fork.proof)
    return fork


def verify_log_fork(fork: LogFork, *, logs: Sequence[NamedKeys]) -> tuple[Checkpoint, Checkpoint]:
    """Verify that a log of *logs* signed both checkpoints, and that they contradict each other.

    Raises:
        DecodeError: a note is no checkpoint in its one form.
        ProofError: the checkpoints contradict nothing, or stand in the wrong order.
        SignatureError: no log of *logs* signed one of them with all of its keys.
    """
    (first_note, first), (second_note, second) = _read(fork.first), _read(fork.second)
    _check(first, second, fork.proof)
    verify_log(first_note, first, logs)
    verify_log(second_note, second, logs)
    return first, second


# --- the contradiction -----------------------------------------------------------------------
def _order(checkpoint: Checkpoint) -> tuple[int, bytes]:
    return checkpoint.size, checkpoint.root


def _check(first: Checkpoint, second: Checkpoint, proof: Sequence[bytes]) -> None:
    """Raise a ProofError unless no honest log can have signed both checkpoints."""
    if first.origin != second.origin:
        raise ProofError("log fork: the two checkpoints are of different logs")
    if _order(first) >= _order(second):
        raise ProofError("log fork: the checkpoints are the same, or stand in the wrong order")
    if first.size in {0, second.size}:
        if proof:
            raise ProofError("log fork: a path where none is needed")
        if first.size != second.size and first.root == merkle.EMPTY_ROOT:
            raise ProofError("log fork: every tree grows from the empty one")
        return
    old_root, new_root = merkle.prefix_roots(old_size=first.size, new_size=second.size, path=proof)
    if new_root != second.root:
        raise ProofError("log fork: the path does not lead to the second root")
    if old_root == first.root:
        raise ProofError("log fork: the second tree holds the first, as it should")


# --- notes -----------------------------------------------------------------------------------
def _own(data: bytes) -> tuple[bytes, Checkpoint]:
    """Return a note with only the lines under the log's own name, and its checkpoint."""
    note = parse_note(data)
    checkpoint = parse_body(note.text)
    lines = tuple(each for each in note.signatures if each.name == checkpoint.origin)
    if not lines:
        raise DecodeError("log fork: a checkpoint lacks the signature of its log")
    return format_note(Note(note.text, lines)), checkpoint


def _read(data: bytes) -> tuple[Note, Checkpoint]:
    own, checkpoint = _own(data)
    if own != data:
        raise DecodeError("log fork: a checkpoint has signatures of others than its log")
    return parse_note(data), checkpoint
