"""Who read, exported or disclosed what: each such act is a log entry before anything is handed out.

- ``core.access`` is the book. Whoever shows or exports something of an incident calls ``record``
  (each time) or ``record_reading`` (once a day) first, and hands it out only after it returned.
- If the disk is full it raises the busy error, and nothing is handed out.
- The table ``accesses`` only finds the entries of an envelope again; the log is what counts, and
  ``verify`` compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from node.clock import Clock
from node.log import Act, Log
from node.store import Store, expand
from protocol import limits
from protocol.access import AccessAct, parse_access
from protocol.entry import EntryKind, parse_entry
from protocol.errors import LogCorruptionError, PeerError

OPERATOR: Final = "operator"
"""Who acts over the control socket, or on the command line of a node that does not run."""
_DAY_MS: Final = 86_400_000
_PAGE: Final = 64
_STEP: Final = limits.MAX_ACCESS_IDS
_CHUNK: Final = 500  # parameters of one statement


def token_actor(token_id: str) -> str:
    """Return who acts by means of the token *token_id*."""
    return f"token:{token_id}"


@dataclass(frozen=True, slots=True)
class Logged:
    """An act, and the log entry in which it stands."""

    index: int
    act: AccessAct


class AccessBook:
    """The access entries of the log, and the table ``accesses`` of node.db."""

    def __init__(
        self,
        *,
        store: Store,
        log: Log,
        clock: Clock,
        logged: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Begin; *logged* opens a transaction that signs the log, or takes part in an open one."""
        self._store, self._log, self._clock, self._logged = store, log, clock, logged
        self._day = -1
        self._today: set[tuple[str, str, str, tuple[bytes, ...]]] = set()

    # --- writing -----------------------------------------------------------------------------
    def record(self, what: str, ids: Sequence[bytes], who: str, note: str = "") -> int:
        """Log that *who* does *what* with the envelopes *ids*; return the index of the last entry.

        Call it before anything is handed out. Of many envelopes there are several entries.

        Args:
            what: a short word, see ``protocol.access``.
            ids: envelope ids; none for an act about the log as a whole.
            who: ``OPERATOR`` or ``token_actor(id)``.
            note: to whom, by whom and why, in one line of up to MAX_ACCESS_NOTE characters.

        Raises:
            BusyError: the disk is full; nothing is logged, so nothing may be handed out.
        """
        now = self._clock.now()
        parts = [ids[at : at + _STEP] for at in range(0, len(ids), _STEP)] or [()]
        acts = [AccessAct(what, tuple(part), who, now, note) for part in parts]
        with self._logged():
            indexes = self._log.append(
                [Act(EntryKind.ACCESS, act.subject, act.local) for act in acts]
            )
            rows = [
                {"envelope_id": envelope_id, "idx": index}
                for index, act in zip(indexes, acts, strict=True)
                for envelope_id in dict.fromkeys(act.ids)
            ]
            self._store.insert_all("accesses", rows)
        return indexes[-1]

    def record_reading(
        self, what: str, ids: Sequence[bytes], who: str, note: str = ""
    ) -> int | None:
        """Do as ``record`` does, but once a UTC day for the same act; None if it stands there.

        So a program that asks again and again does not fill the log.

        Raises:
            BusyError: the disk is full; nothing may be handed out.
        """
        day = self._clock.now() // _DAY_MS
        if day != self._day:
            self._day = day
            self._today.clear()
        key = (what, who, note, tuple(ids))
        if key in self._today:
            return None
        index = None
        if not all(self._is_logged(each, what, who, note, day) for each in ids):
            index = self.record(what, ids, who, note)
        self._today.add(key)
        return index

    def _is_logged(self, envelope_id: bytes, what: str, who: str, note: str, day: int) -> bool:
        for logged in self._newest_first(envelope_id):
            act = logged.act
            if act.at // _DAY_MS < day:
                return False
            if (act.what, act.who, act.note, act.at // _DAY_MS) == (what, who, note, day):
                return True
        return False

    def _newest_first(self, envelope_id: bytes) -> Iterator[Logged]:
        before = limits.MAX_LOG_SIZE
        while rows := self._store.rows(
            "SELECT a.idx, e.local FROM accesses a JOIN entries e ON e.idx = a.idx "
            "WHERE a.envelope_id = ? AND a.idx < ? ORDER BY a.idx DESC LIMIT ?",
            envelope_id, before, _PAGE,
        ):  # fmt: skip
            for row in rows:
                yield Logged(row["idx"], _parsed(row["idx"], row["local"]))
            before = rows[-1]["idx"]

    # --- reading -----------------------------------------------------------------------------
    def about(self, ids: Sequence[bytes]) -> list[Logged]:
        """Return what was logged about the envelopes *ids*, the oldest first.

        Raises:
            LogCorruptionError: an entry is damaged.
        """
        found: dict[int, Logged] = {}
        for at in range(0, len(ids), _CHUNK):
            part = ids[at : at + _CHUNK]
            sql = (
                "SELECT DISTINCT a.idx, e.local FROM accesses a JOIN entries e ON e.idx = a.idx "
                "WHERE a.envelope_id IN (??)"
            )
            for row in self._store.rows(expand(sql, part), *part):
                found[row["idx"]] = Logged(row["idx"], _parsed(row["idx"], row["local"]))
        return [found[index] for index in sorted(found)]

    def verify(self) -> None:
        """Check that each act can be read, is the one of its entry, and is found by its envelopes.

        Raises:
            LogCorruptionError: it is not; names which.
        """
        pairs = 0
        for row in self._store.rows(
            "SELECT idx, entry, local FROM entries WHERE kind = ? ORDER BY idx",
            int(EntryKind.ACCESS),
        ):
            index = row["idx"]
            act = _parsed(index, row["local"])
            if parse_entry(row["entry"]).subject != act.subject:
                raise LogCorruptionError(f"log entry {index} is about another act")
            for envelope_id in frozenset(act.ids):
                pairs += 1
                if not self._store.scalar(
                    "SELECT 1 FROM accesses WHERE envelope_id = ? AND idx = ?", envelope_id, index
                ):
                    raise LogCorruptionError(f"who acted in log entry {index} is not found again")
        if pairs != self._store.scalar("SELECT count(*) FROM accesses"):
            raise LogCorruptionError("acts are listed that stand in no log entry")


def _parsed(index: int, local: bytes) -> AccessAct:
    try:
        return parse_access(local)
    except PeerError as error:
        raise LogCorruptionError(f"the act of log entry {index} is damaged: {error}") from None
