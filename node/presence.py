"""When each peer was linked: what a delivery statement calls reachable, and no more than is known.

- A row is one time of being linked, ``[opened_at, closed_at]``. While it is open its ``seen_at`` is
  written anew each minute; after a crash it counts only as far as that.
- A break of less than a minute in one run of the node is not told apart: a peer that comes and goes
  all day takes no more than one row a minute. A statement's window is longer than such a break, so
  this never makes somebody reachable who was not.
- Rows are kept for 90 days; ``known_since`` says from when on the record is whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from node.store import Store
from protocol import limits

REFRESH_MS: Final = 60_000
KEPT_MS: Final = limits.MAX_LIFETIME_MS
SINCE: Final = "presence-since"
_TIDIED: Final = "presence-tidied"
_DAY_MS: Final = 86_400_000
_END: Final = "coalesce(closed_at, seen_at)"  # until when a row counts


@dataclass(frozen=True, slots=True)
class Span:
    """The first and the last time (ms) at which a peer is known to have been linked."""

    first: int
    last: int


class Presence:
    """The table ``presence`` of node.db."""

    def __init__(self, store: Store) -> None:
        """Use *store*; nothing counts as open until this process has noted it."""
        self._store = store
        self._open: dict[bytes, int] = {}  # when the open row of each linked peer begins
        self._closed: dict[bytes, Span] = {}  # the last row that this process closed

    # --- noting ------------------------------------------------------------------------------
    def note_open(self, peer: bytes, now: int) -> None:
        """Note that a link with *peer* is open now; nothing if one was.

        Raises:
            BusyError: the disk is full; ``refresh`` makes up for it.
        """
        if peer not in self._open:
            with self._store.transaction():
                opened = self._begin(peer, now)
            self._open[peer] = opened

    def note_close(self, peer: bytes, now: int) -> None:
        """Note that the last link with *peer* has ended now; nothing if none was open.

        Raises:
            BusyError: the disk is full; the row then counts as far as it was refreshed.
        """
        opened = self._open.pop(peer, None)
        if opened is not None:
            with self._store.transaction():
                self._end(peer, opened, now)
            self._closed[peer] = Span(opened, max(opened, now))

    def refresh(self, linked: Iterable[bytes], now: int) -> None:
        """Write down that the peers *linked* are so still, and put right what was not noted.

        Call it about every REFRESH_MS, and once on starting. Rows past their time go, once a day.

        Raises:
            BusyError: the disk is full; nothing was changed.
        """
        present = frozenset(linked)
        gone = set(self._open) - present
        opened = dict(self._open)
        with self._store.transaction():
            for peer in gone:  # when it ended nobody knows: it counts as far as it was seen
                del opened[peer]
            for peer, since in opened.items():
                self._store.run(
                    "UPDATE presence SET seen_at = ? WHERE peer = ? AND opened_at = ?",
                    max(since, now), peer, since,
                )  # fmt: skip
            for peer in present - set(opened):
                opened[peer] = self._begin(peer, now)
            self._tidy(now)
        self._open = opened

    def _tidy(self, now: int) -> None:
        last = self._time(_TIDIED)
        if last == 0 or now < last:
            self._set_time(_TIDIED, now)
        elif now - last >= _DAY_MS:
            # A clock that jumps ahead must not take the whole record with it.
            self._compact(min(now, last + 2 * _DAY_MS))
            self._set_time(_TIDIED, now)

    def _begin(self, peer: bytes, now: int) -> int:
        before = self._closed.get(peer)
        if before is not None and 0 <= now - before.last < REFRESH_MS:
            self._store.run(
                "UPDATE presence SET closed_at = NULL, seen_at = ? "
                "WHERE peer = ? AND opened_at = ?",
                now, peer, before.first,
            )  # fmt: skip
            return before.first
        row = {"peer": peer, "opened_at": now, "closed_at": None, "seen_at": now}
        self._store.insert("presence", row, replace=True)
        return now

    def _end(self, peer: bytes, opened: int, now: int) -> None:
        self._store.run(
            "UPDATE presence SET closed_at = ? WHERE peer = ? AND opened_at = ?",
            max(opened, now), peer, opened,
        )  # fmt: skip

    def compact(self, now: int) -> int:
        """Drop rows that ended more than 90 days ago; return how many.

        Of each peer the newest of these stays, so that what was last seen before any time from
        ``known_since`` on stays known.
        """
        with self._store.transaction():
            return self._compact(now)

    def _compact(self, now: int) -> int:
        horizon = now - KEPT_MS
        dropped = self._store.run(
            f"DELETE FROM presence WHERE {_END} < ? AND EXISTS (SELECT 1 FROM presence later "  # noqa: S608  constants
            "WHERE later.peer = presence.peer AND later.opened_at > presence.opened_at "
            "AND coalesce(later.closed_at, later.seen_at) < ?)",
            horizon, horizon,
        )  # fmt: skip
        if dropped and horizon > self.known_since:
            self._set_time(SINCE, horizon)
        return dropped

    def _time(self, key: str) -> int:
        return int.from_bytes(self._store.meta(key) or b"", "big")

    def _set_time(self, key: str, at: int) -> None:
        self._store.set_meta(key, at.to_bytes(8, "big"))

    # --- asking ------------------------------------------------------------------------------
    @property
    def known_since(self) -> int:
        """The time (ms) from which on nothing is missing; 0 if the table is as old as the node."""
        return self._time(SINCE)

    def linked_in(self, peer: bytes, since: int, until: int) -> Span | None:
        """Return when *peer* was linked within [since, until], or None if it was not.

        A link that is open in this process counts up to *until*, which must not lie in the future.
        """
        live = self._open.get(peer, -1)
        row = self._store.row(
            f"SELECT min(opened_at) AS first, max({_END}) AS last, max(opened_at) AS newest "  # noqa: S608  constants
            f"FROM presence WHERE peer = ? AND opened_at <= ? AND ({_END} >= ? OR opened_at = ?)",
            peer, until, since, live,
        )  # fmt: skip
        if row is None or row["first"] is None:
            return None
        last = until if row["newest"] == live else min(row["last"], until)
        return Span(max(row["first"], since), last)

    def seen(self, peer: bytes, since: int, until: int) -> bool:
        """Whether *peer* was linked at any time within [since, until]."""
        return self.linked_in(peer, since, until) is not None

    def last_seen(self, peer: bytes, *, before: int | None = None) -> int | None:
        """Return when *peer* was last known to be linked, or when last ahead of *before*."""
        if before is None:
            found = self._store.scalar(f"SELECT max({_END}) FROM presence WHERE peer = ?", peer)  # noqa: S608  a constant
        else:
            found = self._store.scalar(
                f"SELECT max(min({_END}, ?)) FROM presence WHERE peer = ? AND opened_at < ?",  # noqa: S608  a constant
                before - 1, peer, before,
            )  # fmt: skip
        return None if found is None else int(found)
