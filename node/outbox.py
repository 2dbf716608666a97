"""The outbox: what each peer still has to receive, kept in node.db so that it survives restarts.

- A row is one (envelope, peer); it ends only with a verified receipt, never with an attempt.
- Carriers are held back until a recipient is not reached, and spared once all have their receipts.
- Rows are offered in log order, so that an epoch's opener goes before what names it.
- What this node carries for others is counted against the bounds of custody, and its bytes are let
  go when nobody is owed anything of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from node.clock import Clock
from node.store import Store, expand
from protocol import custody, envelope, limits
from protocol.custody import Bound, Room
from protocol.delivery import CarrierState, needs_carrier, next_carriers, next_offer
from protocol.entry import EntryKind
from protocol.errors import BusyError, CustodyFullError, UnknownEpochError
from protocol.frames import Refusal
from protocol.frontier import StreamKey
from protocol.quota import NOTICE_MS

_SOON_MS: Final = 1_000
_PAGE: Final = 512
_COUNT_MS: Final = 1_000
_COUNT_SHARE: Final = 20
"""Custody is counted once a second at most, and for a twentieth of the time at most."""
_LET_GO_PAGE: Final = 256
_LET_GO_MOST: Final = 4_096
"""Carried envelopes that one sweep looks at, and how many of them in one transaction."""

# The end of custody in these is that of ``protocol.custody.ends``.
_OWED: Final = (
    "WITH v AS (SELECT id, author, incarnation, stream, giver, length(wire) AS size "
    "FROM envelopes WHERE part = 'carrier' AND wire IS NOT NULL "
    "AND min(expires, arrived + ?1) > ?2) "
    "SELECT 'recipient' AS bound, m.node_id, sum(v.size) AS size FROM v "
    "JOIN members m ON m.author = v.author AND m.incarnation = v.incarnation "
    "AND m.stream = v.stream AND m.role = 'reader' AND m.node_id <> v.author "
    "JOIN peers p ON p.node_id = m.node_id WHERE NOT EXISTS (SELECT 1 FROM receipts r "
    "WHERE r.envelope_id = v.id AND r.recipient = m.node_id AND r.kind = ?3) GROUP BY m.node_id "
    "UNION ALL SELECT 'giver', v.giver, sum(v.size) FROM v WHERE EXISTS (SELECT 1 FROM members m "
    "WHERE m.author = v.author AND m.incarnation = v.incarnation "
    "AND m.stream = v.stream AND m.role = 'reader' AND m.node_id <> v.author "
    "AND NOT EXISTS (SELECT 1 FROM receipts r WHERE r.envelope_id = v.id "
    "AND r.recipient = m.node_id AND r.kind = ?3 AND r.relayed = 1)) GROUP BY v.giver"
)
"""Bytes of which a recipient gave no receipt; and of which the author lacks a receipt."""
_OVER: Final = (
    "SELECT v.id FROM envelopes v WHERE v.part = 'carrier' AND v.wire IS NOT NULL "
    "AND v.log_index > ? AND v.log_index <= ? AND NOT EXISTS (SELECT 1 FROM outbox o WHERE "
    "o.envelope_id = v.id AND o.route = 'forward' AND o.state = 'queued') "
    "AND (min(v.expires, v.arrived + ?) <= ? OR NOT EXISTS (SELECT 1 FROM members m "
    "WHERE m.author = v.author AND m.incarnation = v.incarnation "
    "AND m.stream = v.stream AND m.role = 'reader' AND m.node_id <> v.author "
    "AND NOT EXISTS (SELECT 1 FROM receipts r WHERE r.envelope_id = v.id "
    "AND r.recipient = m.node_id AND r.kind = ? AND r.relayed = 1))) "
    # Who still waits for an envelope of the epoch may have to be given its opener first.
    "AND (v.opener IS NOT NULL OR NOT EXISTS (SELECT 1 FROM envelopes w WHERE "
    "w.author = v.author AND w.incarnation = v.incarnation AND w.stream = v.stream "
    "AND w.opener = v.id AND w.part = 'carrier' AND w.wire IS NOT NULL))"
)
"""What was carried and is owed to nobody, of a part of the log."""

_WAITING: Final = (
    "FROM outbox o JOIN envelopes v ON v.id = o.envelope_id "
    "JOIN peers p ON p.node_id = o.peer WHERE o.state = 'queued' "
)
# Of a carrier it is not known since when it is asked, so it must have been offered at least.
_OVERDUE: Final = (
    "AND ((o.first_at <= ? AND {linked}) OR (v.arrived <= ? AND p.last_contact >= v.arrived "
    "AND (o.route <> 'carrier' OR o.attempts > 0)))"
)
_SINCE: Final = "coalesce(o.first_at, v.arrived)"


class Route(StrEnum):
    """Why a peer gets an envelope."""

    DIRECT = "direct"
    CARRIER = "carrier"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Late:
    """How many deliveries to one peer are overdue, and since when (ms) the oldest has waited."""

    count: int
    oldest: int


class Outbox:
    """The table ``outbox`` of node.db."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.changes = 0
        """Rises whenever more may have to be offered."""
        self._waiting = limits.MAX_OUTBOX  # at most so many deliveries wait
        self.custody = Custody(store, clock)

    def add(
        self, envelope_id: bytes, routes: Iterable[tuple[bytes, Route]], *, position: int
    ) -> None:
        """Queue an envelope for peers, carriers held back. Call inside a transaction."""
        self.changes += 1
        rows = [_row(envelope_id, peer, route, position) for peer, route in routes]
        self._waiting += len(rows)
        self._store.insert_all("outbox", rows)

    def row(self, envelope_id: bytes, peer: bytes) -> dict[str, Any] | None:
        """Return one row."""
        return self._store.row(
            "SELECT * FROM outbox WHERE envelope_id = ? AND peer = ?", envelope_id, peer
        )

    def size(self, peer: bytes | None = None) -> int:
        """Return how many deliveries wait, to *peer* or to all."""
        sql = "SELECT count(*) FROM outbox WHERE state IN ('queued', 'held')"
        if peer is None:
            return int(self._store.scalar(sql))
        return int(self._store.scalar(sql + " AND peer = ?", peer))

    def check_room(self, more: int) -> None:
        """Check that *more* deliveries fit.

        Raises:
            BusyError: they do not.
        """
        if self._waiting + more <= limits.MAX_OUTBOX:
            return
        # Counted only now and then: those that were settled since are still in the bound above.
        waiting = self._waiting = self.size()
        if waiting + more > limits.MAX_OUTBOX:
            raise BusyError(
                f"the outbox is full: {waiting} deliveries wait, {limits.MAX_OUTBOX} are allowed",
                fix="see which peers are not reached: picket status; nothing was released",
            )

    def forget_waits(self) -> None:
        """Let everything be due now: the clock by which it waits was set, or may have been."""
        with self._store.transaction():
            self._store.run("UPDATE outbox SET next_at = 0 WHERE next_at > 0 AND state = 'queued'")

    def hasten(self, peer: bytes) -> None:
        """Let what waits for *peer*, which holds all that it should have by now, be due at once.

        Raises:
            BusyError: the disk is full; it is due when it was.
        """
        now = self._clock.now()
        late = self._store.scalar(
            "SELECT 1 FROM outbox WHERE peer = ? AND state = 'queued' AND route = 'direct' "
            "AND next_at > ? LIMIT 1", peer, now
        )  # fmt: skip
        if late:
            with self._store.transaction():
                self._store.run(
                    "UPDATE outbox SET next_at = 0 WHERE peer = ? AND state = 'queued' "
                    "AND route = 'direct' AND next_at > ?", peer, now
                )  # fmt: skip

    def due(
        self, peer: bytes, *, limit: int, skip: frozenset[bytes], below: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return up to *limit* (id, wire) pairs to offer *peer* now, oldest first.

        Args:
            peer: whom to offer them.
            limit: how many at most.
            skip: ids to pass over.
            below: only what stands before this log index.
        """
        rows = self._store.rows(
            "SELECT envelope_id FROM outbox WHERE peer = ? AND state = 'queued' "
            "AND next_at <= ? AND position < ? ORDER BY position LIMIT ?",
            peer, self._clock.now(), limits.MAX_LOG_SIZE if below is None else below,
            limit + len(skip),
        )  # fmt: skip
        chosen = [row["envelope_id"] for row in rows if row["envelope_id"] not in skip]
        return self._store.wires(chosen[:limit])

    def after(
        self, peer: bytes, position: int, *, limit: int, size: int
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return what waits for *peer* past a log index, with wires, and whether that is all.

        It is in log order. At most *limit* rows are returned, and about *size* bytes of envelopes,
        but one at least.
        """
        rows = self._store.rows(
            "SELECT o.envelope_id, o.position, v.author, v.incarnation, v.stream, v.seq, v.wire "
            "FROM outbox o JOIN envelopes v ON v.id = o.envelope_id WHERE o.peer = ? "
            "AND o.state = 'queued' AND o.next_at <= ? AND o.position > ? "
            "ORDER BY o.position LIMIT ?",
            peer, self._clock.now(), position, limit := min(limit, _PAGE),
        )  # fmt: skip
        for number, row in enumerate(rows):
            size -= len(row["wire"])
            if size <= 0:
                return rows[: number + 1], False
        return rows, len(rows) < limit

    def streams_due(self, peer: bytes, *, below: int) -> dict[StreamKey, int]:
        """Return how much waits for *peer* of each stream that is older than *below*."""
        rows = self._store.rows(
            "SELECT v.author, v.incarnation, v.stream, count(*) AS waiting FROM outbox o "
            "JOIN envelopes v ON v.id = o.envelope_id "
            "WHERE o.peer = ? AND o.state = 'queued' AND o.position < ? "
            "GROUP BY v.author, v.incarnation, v.stream",
            peer, below,
        )  # fmt: skip
        return {
            StreamKey(row["author"], row["incarnation"], row["stream"]): row["waiting"]
            for row in rows
        }

    def late(self, peer: bytes, envelope_ids: Sequence[bytes]) -> None:
        """Note that *peer* gave no answer for these in time. Call inside a transaction."""
        since = self._clock.now() - limits.RECEIPT_TIMEOUT_MS
        for envelope_id in envelope_ids:
            self._store.run(
                "UPDATE outbox SET attempts = attempts + 1, first_at = coalesce(first_at, ?) "
                "WHERE envelope_id = ? AND peer = ? AND state = 'queued'",
                since, envelope_id, peer,
            )  # fmt: skip

    # --- what is overdue ---------------------------------------------------------------------
    def overdue(
        self, peers: Sequence[bytes], *, now: int, linked: frozenset[bytes] | None
    ) -> dict[bytes, Late]:
        """Return which of *peers* owe a receipt past its deadline, how many, and since when.

        It is due from a peer that is linked and was sent the envelope RECEIPT_OVERDUE_MS ago, and
        from one that was linked since it was queued DELIVERY_OVERDUE_MS ago.

        Args:
            peers: about whom to ask.
            now: UTC in ms.
            linked: who is linked now; None if the node does not run, and then whoever was linked
                that time after the sending.
        """
        late, values = _overdue(now, linked)
        rows = self._store.rows(
            expand(
                f"SELECT o.peer, count(*) AS n, min({_SINCE}) AS since {_WAITING} {late} "
                "AND o.peer IN (??) GROUP BY o.peer",
                peers,
            ),
            *values, *peers,
        )  # fmt: skip
        return {row["peer"]: Late(row["n"], row["since"]) for row in rows}

    def overdue_rows(
        self, peer: bytes, *, now: int, linked: frozenset[bytes] | None, limit: int
    ) -> list[dict[str, Any]]:
        """Return up to *limit* deliveries that ``overdue`` counts of *peer*, the oldest first."""
        late, values = _overdue(now, linked)
        return self._store.rows(
            f"SELECT o.*, v.author, {_SINCE} AS since {_WAITING} {late} "
            "AND o.peer = ? ORDER BY since, o.position LIMIT ?",
            *values, peer, limit,
        )  # fmt: skip

    # --- carriers and ends -------------------------------------------------------------------
    def ask_carriers(self, connected: frozenset[bytes]) -> int:
        """Queue held carrier deliveries whose recipient is not reached; return how many."""
        rows = self._store.rows(
            "SELECT c.envelope_id, c.peer, c.state, c.code, c.first_at AS offered, "
            "d.peer AS recipient, "
            "d.first_at FROM outbox c JOIN outbox d ON d.envelope_id = c.envelope_id "
            "AND d.route = 'direct' AND d.state = 'queued' "
            "WHERE c.route = 'carrier' AND c.envelope_id IN "
            "(SELECT envelope_id FROM outbox WHERE route = 'carrier' AND state = 'held')"
        )
        now = self._clock.now()
        asked: dict[bytes, dict[bytes, CarrierState]] = {}
        for row in rows:
            if needs_carrier(
                connected=row["recipient"] in connected, first_offered=row["first_at"], now=now
            ):
                asked.setdefault(row["envelope_id"], {})[row["peer"]] = CarrierState(
                    held=row["state"] == "held",
                    done=row["state"] == "carried",
                    linked=row["peer"] in connected,
                    # One that refuses it is no better than one that is silent.
                    late=row["offered"] is not None or row["code"] is not None,
                )
        needed = [(key, peer) for key, states in asked.items() for peer in next_carriers(states)]
        if needed:
            with self._store.transaction():
                for envelope_id, peer in needed:
                    self._requeue(envelope_id, peer)
        return len(needed)

    def _requeue(self, envelope_id: bytes, peer: bytes) -> None:
        self.changes += 1
        self._store.run(
            "UPDATE outbox SET state = 'queued', next_at = 0 WHERE envelope_id = ? AND peer = ?",
            envelope_id, peer,
        )  # fmt: skip

    def expire_forwards(self) -> int:
        """Stop carrying what has expired; return how many deliveries that ends."""
        now = self._clock.now()
        due = self._store.scalar(
            "SELECT count(*) FROM outbox o JOIN envelopes v ON v.id = o.envelope_id "
            "WHERE o.route = 'forward' AND o.state = 'queued' "
            "AND min(v.expires, v.arrived + ?) <= ?",
            limits.MAX_LIFETIME_MS, now,
        )  # fmt: skip
        if due:
            with self._store.transaction():
                self._store.run(
                    "UPDATE outbox SET state = 'expired', settled_at = ? WHERE route = 'forward' "
                    "AND state = 'queued' AND envelope_id IN "
                    "(SELECT id FROM envelopes WHERE min(expires, arrived + ?) <= ?)",
                    now, limits.MAX_LIFETIME_MS, now,
                )  # fmt: skip
        return int(due)

    def refused(self, peer: bytes, items: Sequence[Refusal]) -> None:
        """Note what *peer* did not take, and when to offer it again. Call inside a transaction."""
        now = self._clock.now()
        for item in items:
            row = self._store.row(
                "SELECT attempts FROM outbox WHERE envelope_id = ? AND peer = ? "
                "AND state = 'queued'",
                item.envelope_id, peer,
            )  # fmt: skip
            if row is None:
                continue
            attempts = row["attempts"] + 1
            again = next_offer(attempts=attempts, retry_after=item.retry_after, now=now)
            self._store.run(
                "UPDATE outbox SET code = ?, next_at = ?, attempts = ? "
                "WHERE envelope_id = ? AND peer = ?",
                item.code, again, attempts, item.envelope_id, peer,
            )  # fmt: skip
            if item.code == UnknownEpochError.code:
                self._send_opener(item.envelope_id, peer)

    def _send_opener(self, envelope_id: bytes, peer: bytes) -> None:
        """Queue the opener of *envelope_id* for *peer*, which lacks it, and retry soon after."""
        row = self._store.envelope(envelope_id)
        if row is None or row["opener"] is None:
            return
        opener = self._store.envelope(row["opener"])
        if opener is None or opener["wire"] is None:
            return
        waiting = self.row(envelope_id, peer)
        route = Route(waiting["route"]) if waiting else Route.DIRECT
        first = _row(opener["id"], peer, route, opener["log_index"])
        self._waiting += 1
        self._store.insert("outbox", {**first, "state": "queued"}, replace=True)
        self._store.run(
            "UPDATE outbox SET next_at = ? WHERE envelope_id = ? AND peer = ?",
            self._clock.now() + _SOON_MS, envelope_id, peer,
        )  # fmt: skip

    def routes(self, peer: bytes, envelope_ids: Sequence[bytes]) -> dict[bytes, Route]:
        """Return why *peer* gets each of these envelopes; those it does not get are left out."""
        found = {}
        for part in _parts(envelope_ids):
            sql = "SELECT envelope_id, route FROM outbox WHERE peer = ? AND envelope_id IN (??)"
            rows = self._store.rows(expand(sql, part), peer, *part)
            found.update({row["envelope_id"]: Route(row["route"]) for row in rows})
        return found

    def owed(self, envelope_ids: Sequence[bytes]) -> frozenset[bytes]:
        """Return the recipients to which some of these envelopes are still to be delivered."""
        found: set[bytes] = set()
        for part in _parts(envelope_ids):
            sql = (
                "SELECT DISTINCT peer FROM outbox WHERE route <> 'carrier' AND state = 'queued' "
                "AND envelope_id IN (??)"
            )
            found.update(row["peer"] for row in self._store.rows(expand(sql, part), *part))
        return frozenset(found)

    def withdraw(self, envelope_ids: Sequence[bytes]) -> None:
        """Take back what of these is not delivered yet. Call inside a transaction.

        What is on its way may still arrive; its receipt then counts as ever.
        """
        for part in _parts(envelope_ids):
            sql = (
                "UPDATE outbox SET state = 'withdrawn', code = NULL, settled_at = ? "
                "WHERE state IN ('queued', 'held') AND envelope_id IN (??)"
            )
            self._store.run(expand(sql, part), self._clock.now(), *part)

    def settle(self, envelope_ids: Sequence[bytes], peer: bytes, *, carried: bool) -> None:
        """Note verified receipts of *peer*. Call inside a transaction."""
        now, state = self._clock.now(), "carried" if carried else "received"
        settled = (
            "UPDATE outbox SET state = ?, code = NULL, settled_at = ? WHERE peer = ? "
            "AND state NOT IN ('received', 'carried') AND envelope_id IN (??)"
        )
        # Carriers that were not asked yet are spared once every recipient has it.
        spared = (
            "UPDATE outbox SET state = 'spared' WHERE state = 'held' AND envelope_id IN (??) "
            "AND NOT EXISTS (SELECT 1 FROM outbox d WHERE d.envelope_id = outbox.envelope_id "
            "AND d.route = 'direct' AND d.state = 'queued')"
        )
        for part in _parts(envelope_ids):
            self._store.run(expand(settled, part), state, now, peer, *part)
            self._store.run(expand(spared, part), *part)


@dataclass(frozen=True, slots=True)
class KeptOut:
    """How many envelopes a bound of custody kept out lately, and when (monotonic) the last one."""

    room: Room
    count: int
    last: int


@dataclass(slots=True)
class _Sums:
    """Bytes that wait for each recipient, and that each giver brought."""

    waiting: Counter[bytes] = field(default_factory=Counter)
    given: Counter[bytes] = field(default_factory=Counter)

    def of(self, bound: Bound) -> Counter[bytes]:
        return self.waiting if bound is Bound.RECIPIENT else self.given


class Custody:
    """What this node carries for others, and still owes to a recipient or an author.

    The sums are never too low: what ends is taken off only when a bound seems to be reached and all
    is counted again. So an envelope costs a few additions, and no end of a delivery anything.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._sums = _Sums()
        self._unwritten = _Sums()
        self._peers: frozenset[bytes] = frozenset()
        self._doubtful = True
        self._count_after: int | None = None
        self._kept_out: dict[Room, KeptOut] = {}
        self._looked_at = -1

    # --- bounds ------------------------------------------------------------------------------
    def check(self, size: int, *, giver: bytes, recipients: Sequence[bytes]) -> None:
        """Check that an envelope of *size* bytes fits. Call inside the transaction that takes it.

        Args:
            size: of the whole envelope.
            giver: the peer that brought it.
            recipients: those of its recipients that are peers.

        Raises:
            CustodyFullError: there is no room for one of them, or for what *giver* brings.
        """
        if self._doubtful or not self._peers.issuperset(recipients):
            self._count()
        room = self._full(size, giver, recipients)
        if room is not None and self._count():
            room = self._full(size, giver, recipients)
        if room is None:
            return
        now = self._clock.monotonic()
        before = self._kept_out.get(room)
        self._kept_out[room] = KeptOut(room, (before.count if before else 0) + 1, now)
        raise CustodyFullError(
            "this carrier has no room left for one of its recipients"
            if room.bound is Bound.RECIPIENT
            else "this carrier has no room left for what the peer that gave it brings"
        )

    def _full(self, size: int, giver: bytes, recipients: Sequence[bytes]) -> Room | None:
        written, more = self._sums.waiting, self._unwritten.waiting
        waiting = {each: written[each] + more[each] for each in recipients}
        given = self._sums.given[giver] + self._unwritten.given[giver]
        return custody.full(size, giver=giver, given=given, waiting=waiting)

    def held(self, room: Room) -> int:
        """Return how many bytes count against a bound, or a few more."""
        return sum(each.of(room.bound)[room.node_id] for each in (self._sums, self._unwritten))

    def add(self, size: int, *, giver: bytes, recipients: Sequence[bytes]) -> None:
        """Count an envelope that is taken, but not written yet."""
        self._unwritten.given[giver] += size
        for recipient in recipients:
            self._unwritten.waiting[recipient] += size

    def written(self) -> None:
        """Note that all that was added stands in the database now."""
        if self._unwritten.given:
            self._sums.given.update(self._unwritten.given)
            self._sums.waiting.update(self._unwritten.waiting)
            self._unwritten = _Sums()

    def forget(self) -> None:
        """Trust the sums no more: a transaction was undone."""
        self._unwritten = _Sums()
        self._doubtful = True

    def _count(self) -> bool:
        """Count anew, unless that was done just now; whoever makes us do it costs us little."""
        now = self._clock.monotonic()
        if self._count_after is not None and now < self._count_after:
            return False
        rows = self._store.rows(
            _OWED, limits.MAX_LIFETIME_MS, self._clock.now(), int(EntryKind.RECEIVED)
        )
        self._sums = _Sums()
        for row in rows:
            self._sums.of(Bound(row["bound"]))[row["node_id"]] = row["size"]
        self._peers = frozenset(r["node_id"] for r in self._store.rows("SELECT node_id FROM peers"))
        self._doubtful = False
        done = self._clock.monotonic()
        self._count_after = done + max(_COUNT_MS, _COUNT_SHARE * (done - now))
        return True

    # --- telling -----------------------------------------------------------------------------
    def kept_out(self) -> list[KeptOut]:
        """Return which bounds have kept envelopes out lately; who is told may not look at once."""
        now = self._clock.monotonic()
        for room, note in list(self._kept_out.items()):
            if now - note.last >= NOTICE_MS:
                del self._kept_out[room]
        return sorted(self._kept_out.values(), key=lambda note: (note.room.bound, -note.count))

    def most_from(self, recipient: bytes) -> bytes | None:
        """Return who wrote most of what is kept for *recipient*."""
        author: bytes | None = self._store.scalar(
            "SELECT v.author FROM envelopes v JOIN members m USING (author, incarnation, stream) "
            "WHERE v.part = 'carrier' AND v.wire IS NOT NULL AND m.node_id = ? "
            "AND m.role = 'reader' AND m.node_id <> v.author AND NOT EXISTS "
            "(SELECT 1 FROM receipts r WHERE r.envelope_id = v.id AND r.recipient = m.node_id "
            "AND r.kind = ?) "
            "GROUP BY v.author ORDER BY sum(length(v.wire)) DESC LIMIT 1",
            recipient, int(EntryKind.RECEIVED),
        )  # fmt: skip
        return author

    def given(self) -> dict[bytes, int]:
        """Return how many bytes are kept of what each peer gave."""
        rows = self._store.rows(
            "SELECT giver, sum(length(wire)) AS size FROM envelopes "
            "WHERE part = 'carrier' AND wire IS NOT NULL GROUP BY giver"
        )
        return {row["giver"]: row["size"] for row in rows}

    # --- letting go --------------------------------------------------------------------------
    def let_go(self) -> int:
        """Delete the bytes of what nobody is owed anything of any more; return of how many.

        What stays proves that it was carried, and what it was: row, log entry, receipts and stub.
        One call looks at a part of what is carried, each at the next part, a few at a time.

        Raises:
            BusyError: the disk is full; the next call goes on.
        """
        gone = 0
        for _ in range(_LET_GO_MOST // _LET_GO_PAGE):
            last = self._store.scalar(
                "SELECT max(log_index) FROM (SELECT log_index FROM envelopes WHERE "
                "part = 'carrier' AND wire IS NOT NULL AND log_index > ? "
                "ORDER BY log_index LIMIT ?)",
                self._looked_at, _LET_GO_PAGE,
            )  # fmt: skip
            if last is None:
                self._looked_at = -1
                break
            over = self._store.rows(
                _OVER, self._looked_at, last, limits.MAX_LIFETIME_MS, self._clock.now(),
                int(EntryKind.RECEIVED),
            )  # fmt: skip
            if over:
                with self._store.shredding(), self._store.transaction():
                    for row in over:
                        self._let_go_one(row["id"])
            gone += len(over)
            self._looked_at = last
        return gone

    def _let_go_one(self, envelope_id: bytes) -> None:
        wire = self._store.scalar("SELECT wire FROM envelopes WHERE id = ?", envelope_id)
        stub = custody.stub_of(envelope.parse(wire))
        self._store.insert("stubs", {"envelope_id": envelope_id, "stub": stub.encode()})
        self._store.run("UPDATE envelopes SET wire = NULL WHERE id = ?", envelope_id)


def _overdue(now: int, linked: frozenset[bytes] | None) -> tuple[str, list[object]]:
    """Return the condition under which a waiting delivery is overdue, and its values."""
    sent, queued = now - limits.RECEIPT_OVERDUE_MS, now - limits.DELIVERY_OVERDUE_MS
    if linked is None:
        condition = _OVERDUE.format(linked="p.last_contact >= o.first_at + ?")
        return condition, [sent, limits.RECEIPT_OVERDUE_MS, queued]
    present = sorted(linked)
    condition = _OVERDUE.format(linked=expand("o.peer IN (??)", present))
    return condition, [sent, *present, queued]


def _parts(values: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [values[at : at + _PAGE] for at in range(0, len(values), _PAGE)]


def _row(envelope_id: bytes, peer: bytes, route: Route, position: int) -> dict[str, object]:
    return {
        "envelope_id": envelope_id, "peer": peer, "route": route.value,
        "state": "held" if route is Route.CARRIER else "queued", "position": position,
        "attempts": 0, "next_at": 0, "first_at": None, "code": None, "settled_at": None,
    }  # fmt: skip
