"""Planted bugs about logs and witnesses: what the simulator must notice, as in ``mutants``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import node.witness
import protocol.witness
from node.core import Core
from node.cosigning import Cosigning
from node.line import Line
from node.witness import WitnessBook
from node.witnessing import Outcome, Witnessing
from protocol import merkle
from protocol.checkpoint import Checkpoint
from protocol.errors import ProofError
from protocol.note import NoteSignature, VerifierKey
from protocol.witness import Accept, AddCheckpoint, Answer, Seen
from tests.sim.patches import patched


@contextmanager
def cosigning_before_commit() -> Iterator[None]:
    """Send a cosignature as soon as it is made, whatever becomes of its record."""
    act = Witnessing._cosign

    def early(self: Witnessing, line: Line, request: bytes) -> Outcome:
        outcome = act(self, line, request)
        for frame in outcome.say:
            self._say(line, frame)
        return Outcome(forks=outcome.forks)

    with patched(Witnessing, "_cosign", early):
        yield


@contextmanager
def no_consistency_proof() -> Iterator[None]:
    """Cosign a larger log without a proof that it holds the smaller one."""
    with _unproven(lambda old, new: old != new):
        yield


@contextmanager
def any_root_at_one_size() -> Iterator[None]:
    """Cosign whatever head has the size of the one that was cosigned last."""
    with _unproven(lambda old, new: old == new):
        yield


@contextmanager
def _unproven(skips: Callable[[int, int], bool]) -> Iterator[None]:
    verify = merkle.verify_consistency

    def lax(*, old_size: int, new_size: int, **rest: Any) -> None:  # noqa: ANN401  what it takes
        try:
            verify(old_size=old_size, new_size=new_size, **rest)
        except ProofError:
            if not skips(old_size, new_size):
                raise

    with patched(merkle, "verify_consistency", lax):
        yield


@contextmanager
def forgetful_witness() -> Iterator[None]:
    """Take a log's word for what was cosigned last, so that the record goes back."""
    judge = protocol.witness._judge

    def trusting(
        request: AddCheckpoint, checkpoint: Checkpoint, own: bytes, recorded: Seen | None
    ) -> Accept | Answer:
        if recorded is not None and request.old < recorded.size:
            return Accept(checkpoint, request.note, own, Seen(checkpoint.size, checkpoint.root))
        return judge(request, checkpoint, own, recorded)

    with patched(protocol.witness, "_judge", trusting):
        yield


@contextmanager
def signing_at_once() -> Iterator[None]:
    """Sign after a start before any peer has shown what it holds, and ignore what they show."""
    with (
        patched(Core, "has_been_linked", lambda self: False),
        patched(Core, "check_shown", lambda self, note: True),
    ):
        yield


@contextmanager
def heads_for_everybody() -> Iterator[None]:
    """Tell each peer of all logs that were seen, whomever it knows."""

    def all_heads(self: WitnessBook, peer: bytes) -> tuple[tuple[bytes, int, bytes], ...]:
        rows = self._store.rows(
            "SELECT node_id, size, root FROM witnessed WHERE size > 0 AND node_id != ? "
            "ORDER BY node_id, at",
            peer,
        )
        newest = {row["node_id"]: (row["node_id"], row["size"], row["root"]) for row in rows}
        return tuple(newest.values())

    with patched(WitnessBook, "heads_for", all_heads):
        yield


@contextmanager
def counting_unverified() -> Iterator[None]:
    """Keep and count whatever a witness sends as its cosignature."""

    def believe(
        self: Cosigning, note: bytes, lines: Iterable[NoteSignature], keys: Sequence[VerifierKey]
    ) -> list[tuple[NoteSignature, int]]:
        del note
        now_s, names = self._clock.now() // 1_000, {(key.name, key.key_id) for key in keys}
        return [(line, now_s) for line in lines if (line.name, line.key_id) in names]

    with patched(Cosigning, "_verified", believe):
        yield


@contextmanager
def silent_about_a_log_fork() -> Iterator[None]:
    """Find that a log contradicts itself, and keep nothing of it."""

    with patched(WitnessBook, "keep_fork", lambda self, node_id, proof: None):
        yield


@contextmanager
def believing_any_evidence() -> Iterator[None]:
    """Keep evidence against a log without looking who signed it."""

    def unchecked(*arguments: object, **options: object) -> None:
        del arguments, options

    with patched(node.witness, "verify_log_fork", unchecked):
        yield


@contextmanager
def denying_what_was_told() -> Iterator[None]:
    """Keep no signed head of what was told to others, so that nobody can be convicted by it."""
    with patched(Witnessing, "_note_told", lambda self, node_id, size: b""):
        yield
