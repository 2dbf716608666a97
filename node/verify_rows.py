"""Verifying rows of node.db: envelopes, receipts, trust, and what the log says must be there.

- Each function looks at what it is given and returns; ``node.verifying`` calls them in order, and
  lets other work of the desk come between.
- What does not verify is a LogCorruptionError that names the log entry, or the envelope.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from keys.fingerprint import format_node_id
from node.intake import KINDS, envelope_local, envelope_row
from node.receipts import verify_stored
from protocol import envelope, limits
from protocol.admission import Part
from protocol.canonical import decode, encode
from protocol.custody import Stub, check_over, parse_stub, verify_stub
from protocol.entry import EntryKind, parse_entry
from protocol.envelope import Envelope
from protocol.errors import (
    LogCorruptionError,
    PeerError,
    ProofError,
    ReceiptError,
    SignatureError,
)
from protocol.receipt import VerifiedReceipt
from protocol.statement import Card

if TYPE_CHECKING:
    from node.core import Core

_KINDS: Final = tuple(int(kind) for kind in KINDS.values())
_THREADS: Final = min(4, os.cpu_count() or 1)
_PARALLEL_MIN: Final = 16
_LOTS_KEPT: Final = 4
_EXTRA: Final = ("stub", "entry", "entry_kind", "local")
_SELECT: Final = (
    "SELECT v.*, s.stub, e.entry, e.kind AS entry_kind, e.local FROM envelopes v "
    "LEFT JOIN stubs s ON s.envelope_id = v.id LEFT JOIN entries e ON e.idx = v.log_index "
)
_T = TypeVar("_T")
_R = TypeVar("_R")
Row = Mapping[str, Any]


def subject_of(index: int, entry: bytes) -> bytes:
    """Return the subject of a stored log entry.

    Raises:
        LogCorruptionError: it is damaged.
    """
    try:
        return parse_entry(entry).subject
    except PeerError as error:
        raise LogCorruptionError(f"entry {index} of the log is damaged: {error}") from None


# --- envelopes -------------------------------------------------------------------------------
class Checkers:
    """Threads for signatures: checking one releases the interpreter's lock."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def map(self, act: Callable[[_T], _R], items: Sequence[_T]) -> Iterable[_R]:
        """Do as ``map`` does, in threads if it is worth it."""
        if len(items) < _PARALLEL_MIN or _THREADS == 1:
            return map(act, items)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="verify")
        size = -(-len(items) // _THREADS)
        parts = [items[at : at + size] for at in range(0, len(items), size)]
        done = self._pool.map(lambda part: [act(item) for item in part], parts)
        return [result for part in done for result in part]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def envelopes_between(core: Core, first: int, end: int, count: int) -> list[dict[str, Any]]:
    """Return up to *count* envelopes with what stands beside them, in log order.

    They are those of the log entries from *first* to before *end*.
    """
    sql = _SELECT + "WHERE v.log_index >= ? AND v.log_index < ? ORDER BY v.log_index LIMIT ?"
    return core.store.rows(sql, first, end, count)


def verify_envelopes(core: Core, rows: Sequence[Row], checkers: Checkers) -> None:
    """Verify envelopes against their authors' cards, and their rows against the log.

    Raises:
        LogCorruptionError: one does not verify; names its log entry.
    """
    for row, signed in zip(rows, checkers.map(_Signed(core), rows), strict=True):
        try:
            if isinstance(signed, PeerError | LogCorruptionError):
                raise signed
            if isinstance(signed, Stub) and not core.erasures.knows(signed.id):
                _verify_let_go(core, signed, row)
        except PeerError as error:
            raise LogCorruptionError(
                f"the envelope of log entry {row['log_index']} does not verify: {error}"
            ) from None
        _verify_record(signed, row)


class _Signed:
    """Verifies one row's envelope, or what is left of it; returns its fault, as threads need."""

    def __init__(self, core: Core) -> None:
        self._trust = core.trust

    def __call__(self, row: Row) -> Envelope | Stub | PeerError | LogCorruptionError:
        try:
            return self._verified(row)
        except (PeerError, LogCorruptionError) as error:
            return error

    def _verified(self, row: Row) -> Envelope | Stub:
        index = row["log_index"]
        held = _read(row)
        if held is None:
            raise LogCorruptionError(f"the bytes of the envelope of log entry {index} are gone")
        # It may have come under a card that a recovery has taken back since.
        cards = self._trust.cards_at(held.header.author, held.header.card_n)
        if not cards:
            raise LogCorruptionError(f"the author's card of log entry {index} is missing")
        for card in cards[:-1]:
            with suppress(SignatureError):
                return self._under(held, card)
        return self._under(held, cards[-1])

    def _under(self, held: Envelope | Stub, card: Card) -> Envelope | Stub:
        network = self._trust.own.network
        if isinstance(held, Stub):
            verify_stub(held, network=network, message_key=card.message)
        else:
            envelope.verify(held, network=network, message_key=card.message)
        return held


def _read(row: Row) -> Envelope | Stub | None:
    if row["wire"] is not None:
        return envelope.parse(row["wire"])
    return None if row["stub"] is None else parse_stub(row["stub"])


def _verify_let_go(core: Core, stub: Stub, row: Row) -> None:
    """Check that this node carried what it keeps no bytes of, and owes them to nobody.

    Raises:
        PeerError: it did not, or does.
    """
    known = core.opener(stub.header.opener or stub.id)
    if row["part"] != Part.CARRIER.value or known is None:
        raise ProofError("its bytes are gone, and it was not only carried")
    receipts = core.store.rows(
        "SELECT recipient FROM receipts WHERE envelope_id = ? AND kind = ?",
        stub.id, int(EntryKind.RECEIVED),
    )  # fmt: skip
    check_over(
        stub.header,
        known[1],
        received=frozenset(receipt["recipient"] for receipt in receipts),
        arrived=row["arrived"],
        now=core.clock.now(),
    )


def _verify_record(held: Envelope | Stub, row: Row) -> None:
    index, entry = row["log_index"], row["entry"]
    if entry is None or subject_of(index, entry) != held.id:
        raise LogCorruptionError(f"log entry {index} is about another envelope")
    local = encode(envelope_local(held.header, row["giver"], row["arrived"]))
    part = next((part for part in Part if part.value == row["part"]), None)
    if part is None:
        raise LogCorruptionError(f"the record of the envelope of log entry {index} was changed")
    expected = envelope_row(held, part, row["giver"], row["arrived"], index)
    stored = {name: value for name, value in row.items() if name not in _EXTRA}
    if stored != expected or local != row["local"] or KINDS.get(part) != row["entry_kind"]:
        raise LogCorruptionError(f"the record of the envelope of log entry {index} was changed")


def verify_no_strays(core: Core) -> None:
    """Check that no envelope is stored without a log entry about one.

    Raises:
        LogCorruptionError: one is.
    """
    stray = core.store.row(
        f"{_SELECT} WHERE e.idx IS NULL OR e.kind NOT IN (?, ?, ?) LIMIT 1",
        *_KINDS,
    )
    if stray is not None:
        verify_envelopes(core, [stray], Checkers())
        raise LogCorruptionError(f"log entry {stray['log_index']} is about no envelope")


# --- receipts --------------------------------------------------------------------------------
@dataclass
class ReceiptChecker:
    """Verifies rows of receipts; a lot that many of them share it verifies once."""

    core: Core
    _lots: dict[tuple[bytes, bytes], Mapping[bytes, VerifiedReceipt]] = field(default_factory=dict)

    def verify(self, row: Row) -> None:
        """Verify one row.

        Raises:
            LogCorruptionError: it does not verify.
        """
        try:
            verified = self._verified(row)
        except (PeerError, ValueError) as error:
            raise LogCorruptionError(f"a stored receipt does not verify: {error}") from None
        stored = (
            row["envelope_id"], row["recipient"], row["kind"], row["log_index"], row["tree_size"],
        )  # fmt: skip
        if stored != (
            verified.envelope_id, verified.recipient, int(verified.kind), verified.index,
            verified.checkpoint.size,
        ):  # fmt: skip
            raise LogCorruptionError("the record of a stored receipt was changed")

    def _verified(self, row: Row) -> VerifiedReceipt:
        if row["lot"] is not None:
            return self._of_lot(row)
        receipts = self.core.receipts.stored(row)
        peer = self.core.trust.peers.get(receipts.recipient)
        if peer is None:
            raise ReceiptError("it is of a node that is not a peer")
        return verify_stored(receipts, peer)

    def _of_lot(self, row: Row) -> VerifiedReceipt:
        key = row["lot"], row["recipient"]
        if key not in self._lots:
            if len(self._lots) >= _LOTS_KEPT:
                self._lots.clear()
            self._lots[key] = self.core.receipts.verified_lot(*key)
        found = self._lots[key].get(row["envelope_id"])
        if found is None:
            raise ReceiptError("the receipts hold none for that envelope")
        return found


# --- what must be here -----------------------------------------------------------------------
def verify_none_missing(core: Core) -> Iterator[None]:
    """Check, in steps, that each entry about an envelope or receipt still has it.

    Raises:
        LogCorruptionError: one is missing; names which.
    """
    index = core.store.scalar(
        "SELECT e.idx FROM entries e LEFT JOIN envelopes v ON v.log_index = e.idx "
        "WHERE e.kind IN (?, ?, ?) AND v.id IS NULL ORDER BY e.idx LIMIT 1",
        *_KINDS,
    )
    if index is not None:
        raise LogCorruptionError(f"the envelope of log entry {index} is missing")
    yield
    held = core.receipts.subjects()
    for row in core.store.rows(
        "SELECT idx, entry FROM entries WHERE kind = ? ORDER BY idx", int(EntryKind.RECEIPT)
    ):
        subject = subject_of(row["idx"], row["entry"])
        if subject not in held:
            raise LogCorruptionError(
                f"the receipt of log entry {row['idx']} is missing or was changed"
            )
        held.discard(subject)
    if held:
        raise LogCorruptionError(f"{len(held)} stored receipts stand in no log entry")
    yield
    try:
        for lost in core.receipts.lost():
            if lost is not None:
                raise LogCorruptionError(f"the receipt of envelope {lost.hex()[:16]} is missing")
            yield
    except PeerError as error:
        raise LogCorruptionError(f"a stored receipt does not verify: {error}") from None


# --- trust -----------------------------------------------------------------------------------
def verify_trust(core: Core) -> None:
    """Check peers and key statements against the last act that the log has of each.

    Raises:
        LogCorruptionError: they differ; names the peer.
    """
    acts: dict[bytes, tuple[object, ...]] = {}
    own: object = _first_card_n(core)
    for row in core.store.rows(
        "SELECT local FROM entries WHERE kind IN (?, ?) ORDER BY idx",
        int(EntryKind.TRUST_CHANGE), int(EntryKind.KEY_STATEMENT),
    ):  # fmt: skip
        local = decode(row["local"], max_bytes=limits.MAX_HEADER)
        if isinstance(local, list) and len(local) == 1:
            own = local[0]
        elif isinstance(local, list) and local and isinstance(local[0], bytes):
            acts[local[0]] = tuple(local[2:])
            if local[1:] == ["removed"]:  # added by mistake, and undone
                del acts[local[0]]
    if own != core.trust.own.head.n:
        raise LogCorruptionError(f"{own} key statements of this node were logged, others stored")
    held = {
        peer.node_id: (
            peer.level.value,
            peer.chain.head.n,
            peer.verification.by if peer.verification else None,
            peer.name,
        )
        for peer in core.trust.peers.values()
    }
    for node_id in acts.keys() | held.keys():
        if acts.get(node_id) != held.get(node_id):
            raise LogCorruptionError(
                f"what is stored of the peer {format_node_id(node_id)[:7]} differs from the "
                "last act that the log has of it"
            )


def _first_card_n(core: Core) -> int:
    """Return the number of the card made with the node, which stands in no entry."""
    return next(s.n for s in core.trust.own.statements if isinstance(s.body, Card))
