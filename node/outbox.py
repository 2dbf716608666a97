"""The outbox: what each peer still has to receive, kept in node.db so that it survives restarts.

- A row is one (envelope, peer); it ends only with a verified receipt, never with an attempt.
- Carriers are held back until a recipient is not reached, and spared once all have their receipts.
- Rows are offered in log order, so that an epoch's opener goes before what names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final

from node.clock import Clock
from node.store import Store, expand
from protocol import limits
from protocol.delivery import CarrierState, needs_carrier, next_carriers, next_offer
from protocol.errors import BusyError, UnknownEpochError
from protocol.frames import Refusal
from protocol.frontier import StreamKey

_SOON_MS: Final = 1_000
_PAGE: Final = 512


class Route(StrEnum):
    """Why a peer gets an envelope."""

    DIRECT = "direct"
    CARRIER = "carrier"
    FORWARD = "forward"


class Outbox:
    """The table ``outbox`` of node.db."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.changes = 0
        """Rises whenever more may have to be offered."""

    def add(
        self, envelope_id: bytes, routes: Iterable[tuple[bytes, Route]], *, position: int
    ) -> None:
        """Queue an envelope for peers, carriers held back. Call inside a transaction."""
        self.changes += 1
        self._store.insert_all(
            "outbox", [_row(envelope_id, peer, route, position) for peer, route in routes]
        )

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
        waiting = self.size()
        if waiting + more > limits.MAX_OUTBOX:
            raise BusyError(
                f"the outbox is full: {waiting} deliveries wait, {limits.MAX_OUTBOX} are allowed",
                fix="see which peers are not reached: picket status; nothing was released",
            )

    def forget_waits(self) -> None:
        """Let everything be due now: the clock by which it waits was set, or may have been."""
        with self._store.transaction():
            self._store.run("UPDATE outbox SET next_at = 0 WHERE next_at > 0 AND state = 'queued'")

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

    def after(self, peer: bytes, position: int, *, limit: int, size: int) -> list[dict[str, Any]]:
        """Return what waits for *peer* past a log index, with wires, in log order.

        At most *limit* rows are returned, and about *size* bytes of envelopes, but one at least.
        """
        rows = self._store.rows(
            "SELECT o.envelope_id, o.position, v.author, v.incarnation, v.stream, v.seq, v.wire "
            "FROM outbox o JOIN envelopes v ON v.id = o.envelope_id WHERE o.peer = ? "
            "AND o.state = 'queued' AND o.next_at <= ? AND o.position > ? "
            "ORDER BY o.position LIMIT ?",
            peer, self._clock.now(), position, min(limit, _PAGE),
        )  # fmt: skip
        for number, row in enumerate(rows):
            size -= len(row["wire"])
            if size <= 0:
                return rows[: number + 1]
        return rows

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
            "WHERE o.route = 'forward' AND o.state = 'queued' AND v.expires <= ?", now
        )  # fmt: skip
        if due:
            with self._store.transaction():
                self._store.run(
                    "UPDATE outbox SET state = 'expired', settled_at = ? WHERE route = 'forward' "
                    "AND state = 'queued' AND envelope_id IN "
                    "(SELECT id FROM envelopes WHERE expires <= ?)",
                    now, now,
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
        if opener is None:
            return
        waiting = self.row(envelope_id, peer)
        route = Route(waiting["route"]) if waiting else Route.DIRECT
        first = _row(opener["id"], peer, route, opener["log_index"])
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


def _parts(values: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [values[at : at + _PAGE] for at in range(0, len(values), _PAGE)]


def _row(envelope_id: bytes, peer: bytes, route: Route, position: int) -> dict[str, object]:
    return {
        "envelope_id": envelope_id, "peer": peer, "route": route.value,
        "state": "held" if route is Route.CARRIER else "queued", "position": position,
        "attempts": 0, "next_at": 0, "first_at": None, "code": None, "settled_at": None,
    }  # fmt: skip
