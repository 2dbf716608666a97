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
from node.store import Store
from protocol import limits
from protocol.delivery import needs_carrier, next_offer
from protocol.errors import BusyError, UnknownEpochError
from protocol.frames import Refusal

_SOON_MS: Final = 1_000


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

    def add(
        self, envelope_id: bytes, routes: Iterable[tuple[bytes, Route]], *, position: int
    ) -> None:
        """Queue an envelope for peers, carriers held back. Call inside a transaction."""
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

    def due(self, peer: bytes, *, limit: int, skip: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
        """Return up to *limit* (id, wire) pairs to offer *peer* now, oldest first."""
        now = self._clock.now()
        rows = self._store.rows(
            "SELECT envelope_id FROM outbox WHERE peer = ? AND state = 'queued' AND next_at <= ? "
            "ORDER BY position LIMIT ?",
            peer, now, limit + len(skip),
        )  # fmt: skip
        chosen = [row["envelope_id"] for row in rows if row["envelope_id"] not in skip]
        return self._store.wires(chosen[:limit])

    def offered(self, peer: bytes, envelope_ids: Sequence[bytes]) -> None:
        """Note that these were sent to *peer*."""
        now = self._clock.now()
        with self._store.transaction():
            for envelope_id in envelope_ids:
                self._store.run(
                    "UPDATE outbox SET attempts = attempts + 1, first_at = coalesce(first_at, ?) "
                    "WHERE envelope_id = ? AND peer = ?",
                    now, envelope_id, peer,
                )  # fmt: skip

    def ask_carriers(self, connected: frozenset[bytes]) -> int:
        """Queue held carrier deliveries whose recipient is not reached; return how many."""
        rows = self._store.rows(
            "SELECT c.envelope_id, c.peer, d.peer AS recipient, d.first_at FROM outbox c "
            "JOIN outbox d ON d.envelope_id = c.envelope_id AND d.route = 'direct' "
            "AND d.state = 'queued' WHERE c.route = 'carrier' AND c.state = 'held'"
        )
        now = self._clock.now()
        needed = {
            (row["envelope_id"], row["peer"])
            for row in rows
            if needs_carrier(
                connected=row["recipient"] in connected, first_offered=row["first_at"], now=now
            )
        }
        if needed:
            with self._store.transaction():
                for envelope_id, peer in needed:
                    self._requeue(envelope_id, peer)
        return len(needed)

    def _requeue(self, envelope_id: bytes, peer: bytes) -> None:
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
        """Note what *peer* did not take, and when to offer it again."""
        now = self._clock.now()
        with self._store.transaction():
            for item in items:
                row = self._store.row(
                    "SELECT attempts FROM outbox WHERE envelope_id = ? AND peer = ? "
                    "AND state = 'queued'",
                    item.envelope_id, peer,
                )  # fmt: skip
                if row is None:
                    continue
                again = next_offer(attempts=row["attempts"], retry_after=item.retry_after, now=now)
                self._store.run(
                    "UPDATE outbox SET code = ?, next_at = ? WHERE envelope_id = ? AND peer = ?",
                    item.code, again, item.envelope_id, peer,
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

    def settle(self, envelope_id: bytes, peer: bytes, *, carried: bool) -> bool:
        """Note a verified receipt; False if it was noted before. Call inside a transaction."""
        done = self._store.run(
            "UPDATE outbox SET state = ?, code = NULL, settled_at = ? "
            "WHERE envelope_id = ? AND peer = ? AND state NOT IN ('received', 'carried')",
            "carried" if carried else "received", self._clock.now(), envelope_id, peer,
        )  # fmt: skip
        waiting = self._store.row(
            "SELECT 1 FROM outbox WHERE envelope_id = ? AND route = 'direct' AND state = 'queued'",
            envelope_id,
        )
        if waiting is None:
            self._store.run(
                "UPDATE outbox SET state = 'spared' WHERE envelope_id = ? AND state = 'held'",
                envelope_id,
            )
        return bool(done)


def _row(envelope_id: bytes, peer: bytes, route: Route, position: int) -> dict[str, object]:
    return {
        "envelope_id": envelope_id, "peer": peer, "route": route.value,
        "state": "held" if route is Route.CARRIER else "queued", "position": position,
        "attempts": 0, "next_at": 0, "first_at": None, "code": None, "settled_at": None,
    }  # fmt: skip
