"""Verifying what is kept of heads and evidence: cosigned heads, heads of others, forks, new slots.

- Cosignatures under keys that are not known any more cannot be verified; they are counted.
- When enough witnesses had cosigned, and with which cosignatures, is compared with what the next
  heartbeat put into the log (``node.cosigned_notes``): who was needed then may have changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from node.cosigned_notes import verify_noted
from node.cosigning import witness_vkeys
from node.receipts import log_keys
from node.resealing import OPENED_LATE
from node.verify_rows import subject_of
from protocol import limits, suite
from protocol.access import parse_access
from protocol.canonical import Value, decode, encode
from protocol.checkpoint import Checkpoint, format_body, parse_body, verify_checkpoint
from protocol.cosignatures import verify_cosignatures
from protocol.entry import EntryKind
from protocol.errors import (
    DigestError,
    LogCorruptionError,
    PeerError,
    SignatureError,
    UnknownCardError,
)
from protocol.fork import parse_fork, verify_fork
from protocol.frontier import StreamKey
from protocol.log_fork import log_fork_digest, parse_log_fork, verify_log_fork
from protocol.note import Note, NoteSignature, VerifierKey, parse_note
from protocol.reseal import parse_sealed_again, parse_unopened
from protocol.shape import array
from protocol.statement import Card, Chain, NamedKeys
from protocol.witness import verify_log

if TYPE_CHECKING:
    from node.core import Core

_LATE: Final = encode(OPENED_LATE)
"""With what the local part of an entry begins that says that an envelope opened late."""
Row = Mapping[str, Any]


@contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except PeerError as error:
        raise LogCorruptionError(f"{what} does not verify: {error}") from None


def _cards(chain: Chain) -> list[Card]:
    return [s.body for s in chain.statements if isinstance(s.body, Card)]


def _log_keys(core: Core, node_id: bytes) -> tuple[NamedKeys, ...]:
    """Return all log keys that a node has had; none if it is not known."""
    if node_id == core.node_id:
        return tuple(dict.fromkeys(card.log for card in _cards(core.trust.own)))
    peer = core.trust.peers.get(node_id)
    return () if peer is None else log_keys(peer)


# --- heads of this log -----------------------------------------------------------------------
@dataclass
class HeadChecker:
    """Verifies heads of this log that witnesses cosigned, and the cosignatures."""

    core: Core
    root_of: Callable[[int], bytes]
    unknown: int = 0
    """Cosignatures that could not be verified: their keys are not known here."""
    _keys: dict[tuple[str, bytes], set[VerifierKey]] = field(default_factory=dict)
    _logs: dict[str, NamedKeys] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Take the keys of all witnesses that are known; trust must have been verified."""
        self._logs = {log.name: log for log in _log_keys(self.core, self.core.node_id)}
        keys = [line.key for line in self.core.cosigning.policy.witnesses.values()]
        for peer in self.core.trust.peers.values():
            for card in _cards(peer.chain):
                keys += witness_vkeys(card.witness)
        # The four bytes of a key id can be hit by somebody who tries: one key is not enough.
        for key in keys:
            self._keys.setdefault((key.name, key.key_id), set()).add(key)

    def sizes(self, after: int, count: int) -> list[int]:
        """Return the next *count* sizes of such heads beyond *after*, in order."""
        rows = self.core.store.tuples(
            "SELECT size FROM cosigned WHERE size > ?1 UNION "
            "SELECT size FROM cosignatures WHERE size > ?1 UNION "
            "SELECT size FROM head_times WHERE size > ?1 ORDER BY size LIMIT ?2",
            after, count,
        )  # fmt: skip
        return [size for (size,) in rows]

    def verify(self, size: int) -> None:
        """Verify all that is kept of the head of one size.

        Raises:
            LogCorruptionError: it does not verify; names the size.
        """
        if not 0 <= size <= self.core.log.size:
            raise LogCorruptionError(
                f"a cosigned head has {size} entries, but there are {self.core.log.size}"
            )
        # Heads that have an older name of this log are heads of its tree as well.
        for named in self.core.store.rows(
            "SELECT origin FROM cosigned WHERE size = ?1 UNION "
            "SELECT origin FROM cosignatures WHERE size = ?1 UNION "
            "SELECT origin FROM head_times WHERE size = ?1",
            size,
        ):
            self._verify_head(Checkpoint(named["origin"], size, self.root_of(size)))

    def _verify_head(self, expected: Checkpoint) -> None:
        origin, size = expected.origin, expected.size
        if origin not in self._logs:
            raise LogCorruptionError(
                f"the cosigned head of size {size} is of a log that is none of this node"
            )
        row = self.core.store.row(
            "SELECT note, quorum_at FROM cosigned WHERE origin = ? AND size = ?", origin, size
        )
        lines = self._verify_cosignatures(expected)
        verify_noted(self.core.store, origin, size, lines)
        if row is not None:
            self._verify_note(row["note"], expected)
            if row["quorum_at"] not in {None, *(line["time_s"] for line in lines)}:
                raise LogCorruptionError(
                    f"when the head of size {size} was cosigned by enough witnesses was changed"
                )
        root = self.core.store.scalar(
            "SELECT root FROM head_times WHERE origin = ? AND size = ?", origin, size
        )
        if root not in {None, expected.root}:
            raise LogCorruptionError(f"the log differs from its cosigned head of size {size}")

    def _verify_note(self, note: bytes, expected: Checkpoint) -> None:
        keys = self._logs[expected.origin]
        with _naming(f"the cosigned head of size {expected.size}"):
            checkpoint = verify_checkpoint(
                note, origin=keys.name, ed25519=keys.ed25519, mldsa44=keys.mldsa44
            )
        if checkpoint != expected:
            raise LogCorruptionError(
                f"the log differs from its cosigned head of size {expected.size}"
            )

    def _verify_cosignatures(self, checkpoint: Checkpoint) -> list[dict[str, Any]]:
        """Verify the cosignatures of one head; return them."""
        what = f"a cosignature of the head of size {checkpoint.size}"
        rows = self.core.store.rows(
            "SELECT * FROM cosignatures WHERE origin = ? AND size = ?",
            checkpoint.origin, checkpoint.size,
        )  # fmt: skip
        for row in rows:
            keys = self._keys.get((row["name"], row["key_id"]))
            if keys is None:
                self.unknown += 1
                continue
            line = NoteSignature(row["name"], row["key_id"], row["signature"])
            with _naming(what):
                time_s = _time_of(Note(format_body(checkpoint), (line,)), keys)
            if time_s != row["time_s"]:
                raise LogCorruptionError(f"the time of {what} was changed")
        return rows


def _time_of(note: Note, keys: set[VerifierKey]) -> int:
    """Return the time of the one cosignature on *note*, which one of *keys* made.

    Raises:
        PeerError: none of them did.
    """
    fault: PeerError = SignatureError("no key is known")
    for key in keys:
        try:
            return verify_cosignatures(note, [key])[0].time_s
        except PeerError as error:
            fault = error
    raise fault


# --- heads of other logs ---------------------------------------------------------------------
def verify_witnessed(core: Core) -> int:
    """Verify heads of other logs: those cosigned here, waiting for a proof, or named as anchors.

    Returns:
        How many.

    Raises:
        LogCorruptionError: one does not verify; names the log.
    """
    names = dict.fromkeys(card.witness for card in _cards(core.trust.own))
    own = [key for keys in names for key in witness_vkeys(keys)]
    witnessed = core.store.rows("SELECT * FROM witnessed ORDER BY origin")
    for row in witnessed:
        with _naming(f"the head that this node cosigned of {row['origin']}"):
            note, checkpoint = _head(core, row)
            if checkpoint.origin != row["origin"]:
                raise DigestError("it is of another log")
            if not verify_cosignatures(note, own):
                raise SignatureError("it lacks the cosignature of this node")
    waiting = core.store.rows("SELECT * FROM peer_heads WHERE note IS NOT NULL ORDER BY size")
    for row in waiting:
        with _naming(f"a head of {row['size']} entries that a peer showed"):
            _head(core, row)
    anchors = core.store.rows("SELECT * FROM anchors ORDER BY origin, size")
    owners = (core.node_id, *core.trust.peers)
    logs = [log for node_id in owners for log in _log_keys(core, node_id)]
    for row in anchors:
        with _naming(f"the head of {row['origin']} that an envelope names"):
            note = parse_note(row["note"])
            checkpoint = parse_body(note.text)
            if (checkpoint.origin, checkpoint.size) != (row["origin"], row["size"]):
                raise DigestError("it is another head than is said beside it")
            verify_log(note, checkpoint, logs)
    return len(witnessed) + len(waiting) + len(anchors)


def _head(core: Core, row: Row) -> tuple[Note, Checkpoint]:
    """Return the head of another log that stands in a row.

    Raises:
        PeerError: that log did not sign it, or it is another one than the row says.
    """
    note = parse_note(row["note"])
    checkpoint = parse_body(note.text)
    if (checkpoint.size, checkpoint.root) != (row["size"], row["root"]):
        raise DigestError("it is another head than is said beside it")
    verify_log(note, checkpoint, _log_keys(core, row["node_id"]))
    return note, checkpoint


# --- evidence --------------------------------------------------------------------------------
def verify_evidence(core: Core) -> int:
    """Verify what proves that others contradicted themselves, and that the log names all of it.

    Returns:
        How many pieces.

    Raises:
        LogCorruptionError: one does not verify, is missing, or stands in no log entry.
    """
    logged = {
        subject_of(row["idx"], row["entry"]): row["idx"]
        for row in core.store.rows(
            "SELECT idx, entry FROM entries WHERE kind = ?", int(EntryKind.EQUIVOCATION)
        )
    }
    count = 0
    for row in core.store.rows("SELECT * FROM forks"):
        with _naming("the proof that an author forked a stream"):
            fork = parse_fork(row["proof"])
            verify_fork(fork, network=core.trust.own.network, card_at=core.trust.any_card_at)
            if fork.key != StreamKey(row["author"], row["incarnation"], row["stream"]):
                raise DigestError("it is about another stream than is said beside it")
        count += _is_logged(fork.digest, row["digest"], logged)
    for row in core.store.rows("SELECT digest, proof, node_id FROM log_forks"):
        with _naming("the proof that a log contradicts itself"):
            log_fork = parse_log_fork(row["proof"])
            verify_log_fork(log_fork, logs=_log_keys(core, row["node_id"]))
        count += _is_logged(log_fork_digest(log_fork), row["digest"], logged)
    if logged:
        raise LogCorruptionError(f"the proof of log entry {min(logged.values())} is missing")
    return count


def _is_logged(digest: bytes, stored: bytes, logged: dict[bytes, int]) -> int:
    if digest != stored or logged.pop(digest, None) is None:
        raise LogCorruptionError("a proof that somebody contradicts itself stands in no log entry")
    return 1


# --- new slots -------------------------------------------------------------------------------
def verify_resealing(core: Core) -> None:
    """Verify what was signed about epochs that did not open, and what the log says opened late.

    Raises:
        LogCorruptionError: something does not verify.
    """
    _verify_late(core)
    for row in core.store.rows("SELECT * FROM unopened WHERE slot IS NOT NULL"):
        with _naming("a new slot that an author sent"):
            _verify_slot(core, row["slot"], row["author"], row["opener"], core.node_id)
    for row in core.store.rows("SELECT * FROM reseals"):
        with _naming("a notice of a reader that an envelope did not open"):
            said = parse_unopened(_fields(row["notice"], "unopened"))
            notice = said.notice
            if (notice.reader, notice.opener) != (row["reader"], row["opener"]):
                raise DigestError("it is another notice than is said beside it")
            card = _card(core, notice.reader, notice.card_n)
            suite.verify("unopened", card.message, notice.encode(), said.signature)
        if row["answer"] is not None:
            with _naming("a new slot that this node gave"):
                ekid = _verify_slot(core, row["answer"], core.node_id, row["opener"], row["reader"])
                if ekid != row["ekid"]:
                    raise DigestError("it is for another key than is said beside it")


def _verify_late(core: Core) -> None:
    rows = core.store.rows(
        "SELECT l.*, e.kind, e.local FROM late l LEFT JOIN entries e ON e.idx = l.log_index"
    )
    for row in rows:
        index = row["log_index"]
        with _naming(f"the act of log entry {index}"):
            act = parse_access(row["local"] or b"")
        if (row["kind"], act.what, act.ids) != (
            int(EntryKind.ACCESS), OPENED_LATE, (row["envelope_id"],),
        ):  # fmt: skip
            raise LogCorruptionError(f"log entry {index} opened no envelope late")
    logged = core.store.scalar(
        "SELECT count(*) FROM entries WHERE kind = ? AND substr(local, 2, ?) = ?",
        int(EntryKind.ACCESS), len(_LATE), _LATE,
    )  # fmt: skip
    if logged != len(rows):
        raise LogCorruptionError("an envelope that the log says opened late is not found again")


def _verify_slot(core: Core, stored: bytes, author: bytes, opener: bytes, reader: bytes) -> bytes:
    """Verify a new slot as it is kept; return the id of the key that it is for.

    Raises:
        PeerError: *author* did not sign it, or it is another one.
    """
    said = parse_sealed_again(_fields(stored, "sealed_again"))
    slot = said.slot
    if (slot.author, slot.opener, slot.reader) != (author, opener, reader):
        raise DigestError("it is another slot than is said beside it")
    card = _card(core, author, slot.card_n)
    suite.verify("sealed-again", card.message, slot.encode(), said.signature)
    return slot.ekid


def _card(core: Core, node_id: bytes, n: int) -> Card:
    card = core.trust.any_card_at(node_id, n)
    if card is None:
        raise UnknownCardError("the card under which it is signed is not known")
    return card


def _fields(stored: bytes, name: str) -> list[Value]:
    return list(array(decode(stored, max_bytes=limits.MAX_FRAME), name, size=3))
