"""Which receipts are missing past their deadline, by peer: for people, notices and metrics.

Pure reading, on a locked node too: only the references of incidents stand in the casebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keys.trust import Peer
from node.clock import Clock, rfc3339
from node.core import Core
from node.outbox import Late, Route
from protocol import limits
from protocol.errors import RequestError

Row = dict[str, Any]


class Overdue:
    """What peers owe a receipt for, over a Core."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        name: Callable[[bytes], str],
        linked: Callable[[], frozenset[bytes] | None],
    ) -> None:
        """Show *core*; *linked* says with whom it is linked, None if it does not run."""
        self._core, self._clock = core, clock
        self._name, self._linked = name, linked

    def by_peer(self, peer: Peer | None = None) -> dict[bytes, Late]:
        """Return of each peer, or of *peer*, how much is overdue and since when, if anything is.

        Nothing is due from those that this node gives nothing to any more.
        """
        known = self._core.trust.peers if peer is None else (peer.node_id,)
        asked = [node_id for node_id in known if self._core.trust.gives_to(node_id)]
        return self._core.outbox.overdue(asked, now=self._clock.now(), linked=self._linked())

    def listed(self, peer: Peer | None, *, limit: int) -> Row:
        """Return what is overdue, the oldest of each peer first, at most *limit* of each.

        Raises:
            RequestError: *limit* is out of bounds.
        """
        if not 1 <= limit <= limits.MAX_PAGE:
            raise RequestError(f"limit is outside 1 to {limits.MAX_PAGE}", fix="ask for less")
        found = sorted(
            ((self._name(node_id), node_id, late) for node_id, late in self.by_peer(peer).items()),
            key=lambda each: each[0].casefold(),
        )
        return {
            "running": self._linked() is not None,
            "locked": self._core.vault is None,
            "peers": [
                {
                    "peer": name, "count": late.count, "oldest": rfc3339(late.oldest),
                    "items": self._items(node_id, limit),
                }
                for name, node_id, late in found
            ],
        }  # fmt: skip

    def _items(self, node_id: bytes, limit: int) -> list[Row]:
        rows = self._core.outbox.overdue_rows(
            node_id, now=self._clock.now(), linked=self._linked(), limit=limit
        )
        refs: Mapping[bytes, str] = {}
        if self._core.vault is not None:
            refs = self._core.opened()[1].refs_of([row["envelope_id"] for row in rows])
        return [self._item(row, refs.get(row["envelope_id"])) for row in rows]

    def _item(self, row: Mapping[str, Any], ref: str | None) -> Row:
        return {
            "ref": ref,
            "envelope_id": row["envelope_id"].hex(),
            "author": self._name(row["author"]),
            "own": row["author"] == self._core.node_id,
            "part": "carrier" if row["route"] == Route.CARRIER else "recipient",
            "since": rfc3339(row["since"]),
            "tries": row["attempts"],
            "code": row["code"],
        }
