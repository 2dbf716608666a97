"""Receipts: those we give, those we hold as proof of delivery, and those we pass on.

- Receipts in bulk are kept as they came, once, and one of them is taken out when it is needed.
- Each lot that is taken is one log entry, over exactly the bytes that are kept.
- All that changes node.db here runs inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from keys.trust import Peer, TrustStore
from node.clock import Clock
from node.log import Act, Log
from node.outbox import Outbox, Route
from node.store import Store, expand
from node.streams import READER, Streams
from protocol import limits, suite
from protocol.admission import Part
from protocol.entry import EntryKind
from protocol.errors import (
    LogCorruptionError,
    PeerError,
    ProofError,
    ReceiptError,
    SignatureError,
    UntrustedKeyError,
)
from protocol.frames import Receipts, Run, Runs, decode_frame, encode_frame
from protocol.frontier import StreamKey
from protocol.receipt import VerifiedReceipt, single, verify_receipts, verify_runs
from protocol.statement import Card, NamedKeys

_CHUNK: Final = 500  # parameters of one statement
_ERASURES: Final = 64  # in one frame
_R = TypeVar("_R")


class Owner(Protocol):
    """What receipts need of the node that they belong to."""

    trust: TrustStore


class HeadKeeper(Protocol):
    """Who keeps the heads under receipts, to compare them."""

    def saw_receipts(self, verified: Sequence[VerifiedReceipt]) -> None:
        """Note the head under receipts that were verified."""
        ...


class ReceiptBook:
    """The tables ``receipts`` and ``receipt_lots`` of node.db."""

    def __init__(
        self,
        owner: Owner,
        *,
        store: Store,
        log: Log,
        outbox: Outbox,
        streams: Streams,
        clock: Clock,
    ) -> None:
        self._owner = owner
        self._store, self._log, self._outbox = store, log, outbox
        self._streams, self._clock = streams, clock
        self.changes = 0
        """Rises whenever there may be more to pass on."""
        self.witness: HeadKeeper | None = None

    # --- taking ------------------------------------------------------------------------------
    def verify(self, receipts: Receipts | Runs) -> tuple[VerifiedReceipt, ...]:
        """Verify *receipts* against the log keys of the node that gave them.

        Raises:
            UntrustedKeyError: the recipient is not a peer.
            PeerError: a receipt is forged.
        """
        # A proof stays one whatever has become of the peer since, so its level does not matter.
        peer = self._owner.trust.peers.get(receipts.recipient)
        if peer is None:
            raise UntrustedKeyError("a receipt of a node that is not a peer")
        log = _log_of(peer, receipts.checkpoint)
        if isinstance(receipts, Runs):
            return verify_runs(receipts, log=log)
        return verify_receipts(receipts, log=log)

    def take(self, receipts: Receipts | Runs) -> tuple[bytes, ...]:
        """Verify *receipts*, settle what they prove, and keep and log what is new.

        Returns:
            The envelope ids that are settled now, or were before.

        Raises:
            UntrustedKeyError: the recipient is not a peer.
            PeerError: a receipt is forged, or about something never sent to that node.
        """
        verified = self.verify(receipts)
        if len({receipt.envelope_id for receipt in verified}) != len(verified):
            raise ReceiptError("the receipts name one envelope twice")
        routes = self._outbox.routes(receipts.recipient, [r.envelope_id for r in verified])
        for receipt in verified:
            if receipt.kind is EntryKind.ERASED:
                routes[receipt.envelope_id] = self._of_ours(receipt)
                continue
            route = routes.get(receipt.envelope_id) or self._pulled(receipt)
            routes[receipt.envelope_id] = route
            expected = EntryKind.CARRIED if route is Route.CARRIER else EntryKind.RECEIVED
            if receipt.kind is not expected:
                raise ReceiptError(
                    "a receipt that claims another part in the envelope than was given"
                )
        fresh = self._fresh(verified)
        if isinstance(receipts, Runs):
            self._keep_lot(receipts, [r for r in verified if r.envelope_id in fresh], routes)
        else:
            items = {item.envelope_id: item for item in receipts.items}
            for receipt in verified:
                if receipt.envelope_id in fresh:
                    item = items[receipt.envelope_id]
                    lone = Receipts(receipts.recipient, receipts.checkpoint, (item,))
                    self._keep(encode_frame(lone), [receipt], routes, lot=None)
        for kind in EntryKind.CARRIED, EntryKind.RECEIVED:
            ids = [receipt.envelope_id for receipt in verified if receipt.kind is kind]
            self._outbox.settle(ids, receipts.recipient, carried=kind is EntryKind.CARRIED)
        if self.witness is not None:
            self.witness.saw_receipts(verified)
        return tuple(receipt.envelope_id for receipt in verified)

    def _pulled(self, receipt: VerifiedReceipt) -> Route:
        """Note the delivery of an envelope that a reader of it fetched of its own accord.

        Raises:
            ReceiptError: it is none of theirs.
        """
        held = self._store.envelope(receipt.envelope_id)
        if held is None or receipt.recipient == held["author"]:
            raise ReceiptError("a receipt for an envelope that was not sent to that node")
        key = StreamKey(held["author"], held["incarnation"], held["stream"])
        if self._streams.members(key).get(receipt.recipient) != READER:
            raise ReceiptError("a receipt for an envelope that was not sent to that node")
        route = Route.DIRECT if held["part"] == Part.AUTHOR.value else Route.FORWARD
        pair = (receipt.recipient, route)
        self._outbox.add(receipt.envelope_id, [pair], position=held["log_index"])
        return route

    def _of_ours(self, receipt: VerifiedReceipt) -> Route:
        """Check that a reader says of an envelope of ours that it erased it.

        It settles no delivery: what was not received was not delivered.

        Raises:
            ReceiptError: it is none of ours, or was not for that node.
        """
        held = self._store.envelope(receipt.envelope_id)
        if held is None or held["author"] != self._owner.trust.own.node_id:
            raise ReceiptError("an erasure of an envelope that this node did not write")
        key = StreamKey(held["author"], held["incarnation"], held["stream"])
        if self._streams.members(key).get(receipt.recipient) != READER:
            raise ReceiptError("an erasure by a node to which the envelope was not sent")
        return Route.DIRECT

    def _fresh(self, verified: Sequence[VerifiedReceipt]) -> frozenset[bytes]:
        """Return the ids of those that are not held yet; the first receipt of its kind stands."""
        held: set[tuple[bytes, int]] = set()
        ids = [receipt.envelope_id for receipt in verified]
        sql = "SELECT envelope_id, kind FROM receipts WHERE recipient = ? AND envelope_id IN (??)"
        for at in range(0, len(ids), _CHUNK):
            part = ids[at : at + _CHUNK]
            rows = self._store.rows(expand(sql, part), verified[0].recipient, *part)
            held.update((row["envelope_id"], row["kind"]) for row in rows)
        return frozenset(r.envelope_id for r in verified if (r.envelope_id, r.kind) not in held)

    def _keep_lot(
        self, runs: Runs, fresh: Sequence[VerifiedReceipt], routes: Mapping[bytes, Route]
    ) -> None:
        if not fresh:
            return
        frame = encode_frame(runs)
        lot = suite.digest("receipt-lot", frame)
        self._store.insert("receipt_lots", {"id": lot, "frame": frame}, replace=True)
        self._keep(frame, fresh, routes, lot=lot)

    def _keep(
        self,
        frame: bytes,
        fresh: Sequence[VerifiedReceipt],
        routes: Mapping[bytes, Route],
        *,
        lot: bytes | None,
    ) -> None:
        now = self._clock.now()
        rows = [
            {
                "envelope_id": receipt.envelope_id, "recipient": receipt.recipient,
                "kind": int(receipt.kind), "log_index": receipt.index,
                "tree_size": receipt.checkpoint.size, "frame": None if lot else frame, "lot": lot,
                "at": now, "relayed": int(routes[receipt.envelope_id] is not Route.FORWARD),
            }
            for receipt in fresh
        ]  # fmt: skip
        self._store.insert_all("receipts", rows)
        # Of those that settle a delivery of our own nothing is passed on.
        self.changes += any(not row["relayed"] for row in rows)
        subject = receipt_subject(fresh[0].recipient, frame)
        self._log.append([Act(EntryKind.RECEIPT, subject, (fresh[0].envelope_id,))])

    # --- holding -----------------------------------------------------------------------------
    def stored(self, row: Mapping[str, Any]) -> Receipts:
        """Return the receipt that a row of the receipts table holds, to stand by itself.

        Raises:
            PeerError: it was damaged on disk.
        """
        if row["lot"] is None:
            frame = decode_frame(row["frame"])
            if not isinstance(frame, Receipts):
                raise ReceiptError("the stored receipt is not one")
            return frame
        data = self._store.scalar("SELECT frame FROM receipt_lots WHERE id = ?", row["lot"])
        peer = self._owner.trust.peers.get(row["recipient"])
        lot = None if data is None else decode_frame(data)
        if not isinstance(lot, Runs) or peer is None:
            raise ReceiptError("the stored receipts are missing, or of a node that is no peer")
        return _under_any(log_keys(peer), lambda log: single(lot, row["envelope_id"], log=log))

    def held(self, envelope_id: bytes) -> list[Receipts]:
        """Return all receipts for one envelope."""
        rows = self._store.rows(
            "SELECT * FROM receipts WHERE envelope_id = ? ORDER BY recipient, kind", envelope_id
        )
        return [self.stored(row) for row in rows]

    def subjects(self) -> set[bytes]:
        """Return the subjects of the log entries that what is stored must have."""
        found = set()
        for row in self._store.rows("SELECT recipient, frame FROM receipts WHERE lot IS NULL"):
            found.add(receipt_subject(row["recipient"], row["frame"]))
        for row in self._store.rows(
            "SELECT r.recipient, l.frame FROM "
            "(SELECT DISTINCT recipient, lot FROM receipts WHERE lot IS NOT NULL) r "
            "JOIN receipt_lots l ON l.id = r.lot"
        ):
            found.add(receipt_subject(row["recipient"], row["frame"]))
        return found

    def verified_lot(self, lot: bytes, recipient: bytes) -> Mapping[bytes, VerifiedReceipt]:
        """Verify receipts that are kept as one lot; return them by envelope id.

        Raises:
            PeerError: they are missing, forged or damaged.
        """
        data = self._store.scalar("SELECT frame FROM receipt_lots WHERE id = ?", lot)
        peer = self._owner.trust.peers.get(recipient)
        runs = None if data is None else decode_frame(data)
        if not isinstance(runs, Runs) or peer is None:
            raise ReceiptError("the stored receipts are missing, or of a node that is no peer")
        found: dict[bytes, VerifiedReceipt] = {}
        for each in _under_any(log_keys(peer), lambda log: verify_runs(runs, log=log)):
            found.setdefault(each.envelope_id, each)
        return found

    def lost(self) -> Iterator[bytes | None]:
        """Look at one kept lot after the other; yield None if there is a row for all of it.

        Else yield the id of an envelope whose receipt stands in the lot and in no row.

        Raises:
            PeerError: a lot was damaged on disk.
        """
        last = -1
        while row := self._store.row(
            "SELECT rowid AS number, frame FROM receipt_lots WHERE rowid > ? "
            "ORDER BY rowid LIMIT 1",
            last,
        ):
            last = row["number"]
            runs = decode_frame(row["frame"])
            if not isinstance(runs, Runs):
                raise ReceiptError("the stored receipts are none")
            yield next((each for run in runs.runs for each in self._absent(runs, run)), None)

    def _absent(self, runs: Runs, run: Run) -> list[bytes]:
        """Return the ids of a run for which there is no row."""
        held: set[bytes] = set()
        sql = "SELECT envelope_id FROM receipts WHERE recipient = ? AND kind = ? AND envelope_id IN"
        for at in range(0, len(run.ids), _CHUNK):
            part = run.ids[at : at + _CHUNK]
            rows = self._store.tuples(expand(f"{sql} (??)", part), runs.recipient, run.kind, *part)
            held.update(envelope_id for (envelope_id,) in rows)
        return [each for each in run.ids if each not in held]

    # --- giving ------------------------------------------------------------------------------
    def answers(self, items: Sequence[tuple[bytes, int]]) -> list[Receipts | Runs]:
        """Return receipts of our own for (envelope id, log index) pairs, for who knows the ids."""
        items = list(dict.fromkeys(items))
        if len(items) == 1:
            return [self._log.receipts(items)]
        return [self._log.runs(page) for page in _pages(items)]

    def wanted(self, envelope_ids: Iterable[bytes], *, asker: bytes) -> list[Receipts | Runs]:
        """Return our receipts for envelopes that *asker*, a member of them, believes we hold."""
        items = []
        for envelope_id in dict.fromkeys(envelope_ids):
            row = self._store.envelope(envelope_id)
            if row is None or row["part"] == Part.AUTHOR.value:
                continue
            key = StreamKey(row["author"], row["incarnation"], row["stream"])
            if asker in self._streams.members(key):
                items.append((envelope_id, row["log_index"]))
        return self.answers(items) if items else []

    # --- passing on --------------------------------------------------------------------------
    def for_author(
        self, author: bytes, *, passed: frozenset[tuple[bytes, bytes]]
    ) -> list[Receipts]:
        """Return receipts about envelopes of *author*, who has not settled them.

        They are those that we took of third nodes, and ours of what we erased.

        Args:
            author: whose envelopes we carried or brought.
            passed: (envelope id, recipient) of those that this link has had already.
        """
        rows = self._store.rows(
            "SELECT r.* FROM receipts r JOIN envelopes v ON v.id = r.envelope_id "
            "WHERE r.relayed = 0 AND v.author = ? ORDER BY r.at LIMIT ?",
            author, limits.MAX_FRAME_RECEIPTS + len(passed),
        )  # fmt: skip
        fresh = [row for row in rows if (row["envelope_id"], row["recipient"]) not in passed]
        try:
            found = [self.stored(row) for row in fresh[: limits.MAX_FRAME_RECEIPTS]]
        except PeerError as error:
            raise LogCorruptionError(f"a stored receipt is damaged: {error}") from None
        return found + self._erasures(author, passed)

    def _erasures(self, author: bytes, passed: frozenset[tuple[bytes, bytes]]) -> list[Receipts]:
        """Return our receipts for what of *author* we erased, as far as the log is signed."""
        own = self._owner.trust.own.node_id
        rows = self._store.rows(
            # Not turned around: of all that an author wrote, little was erased.
            "SELECT x.envelope_id, x.log_index FROM erasures x "
            "CROSS JOIN envelopes v ON v.id = x.envelope_id "
            "WHERE x.settled = 0 AND v.author = ? AND x.log_index < ? ORDER BY x.log_index",
            author, self._log.signed_size,
        )  # fmt: skip
        items = [(r["envelope_id"], r["log_index"]) for r in rows]
        items = [item for item in items if (item[0], own) not in passed]
        pages = [items[at : at + _ERASURES] for at in range(0, len(items), _ERASURES)]
        return [self._log.receipts(page) for page in pages]

    def settled(self, author: bytes, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Note that *author* holds the receipts *items*: (envelope id, recipient) pairs."""
        for envelope_id, recipient in items:
            self._store.run(
                "UPDATE receipts SET relayed = 1 WHERE envelope_id = ? AND recipient = ? "
                "AND envelope_id IN (SELECT id FROM envelopes WHERE author = ?)",
                envelope_id, recipient, author,
            )  # fmt: skip
            if recipient == self._owner.trust.own.node_id:
                self._store.run(
                    "UPDATE erasures SET settled = 1 WHERE envelope_id = ? "
                    "AND envelope_id IN (SELECT id FROM envelopes WHERE author = ?)",
                    envelope_id, author,
                )  # fmt: skip


def _pages(items: Sequence[tuple[bytes, int]]) -> list[list[tuple[bytes, int]]]:
    """Group (id, log index) pairs for frames of runs; of scattered ones fewer fit into each."""
    pages: list[list[tuple[bytes, int]]] = []
    runs = 0
    for item in items:
        begins = not pages or item[1] != pages[-1][-1][1] + 1
        if not pages or len(pages[-1]) >= limits.MAX_RUN or runs + begins > limits.MAX_RUNS // 2:
            pages.append([])
            runs, begins = 0, True
        runs += begins
        pages[-1].append(item)
    return pages


def log_keys(peer: Peer) -> tuple[NamedKeys, ...]:
    """Return the log keys of all cards of *peer*, the newest first: a receipt outlives its card."""
    bodies = (s.body for s in (*reversed(peer.chain.statements), *peer.history.aside))
    cards = (body for body in bodies if isinstance(body, Card))
    return tuple(dict.fromkeys(card.log for card in cards))


def _log_of(peer: Peer, checkpoint: bytes) -> NamedKeys:
    """Return the log of *peer* that a checkpoint names, or its present one.

    A carrier may bring a receipt of before the peer began a new log.
    """
    named = checkpoint.partition(b"\n")[0]
    if named == peer.card.log.name.encode():
        return peer.card.log
    return next((log for log in log_keys(peer) if log.name.encode() == named), peer.card.log)


def _under_any(keys: Sequence[NamedKeys], act: Callable[[NamedKeys], _R]) -> _R:
    """Return what *act* gives for the first of *keys* under which it does not fail.

    Raises:
        PeerError: it fails under each; this is what the last one raised.
    """
    if not keys:
        raise ReceiptError("no key of the log is known")
    for key in keys[:-1]:
        with suppress(SignatureError, ProofError, ReceiptError):
            return act(key)
    return act(keys[-1])


def verify_stored(receipts: Receipts, peer: Peer) -> VerifiedReceipt:
    """Verify one receipt of *peer* that was kept, under any log key that it has had.

    Raises:
        PeerError: it is forged or damaged.
    """
    (verified,) = _under_any(log_keys(peer), lambda log: verify_receipts(receipts, log=log))
    return verified


def receipt_subject(recipient: bytes, frame: bytes) -> bytes:
    """Return the subject of the log entry of what is kept as *frame*."""
    return suite.digest("receipt", recipient, frame)
