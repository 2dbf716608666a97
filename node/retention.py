"""Retention: what its originator said must be erased after a day is erased, or somebody is asked.

- 30 days before, and from then on, the status says so. Under ``incidents.retention = "ask"`` that
  is all: a person erases. Under ``"erase"`` the node does, once a day, after the day has passed.
- It never erases what was not announced: a notice must have stood for ``GRACE_DAYS`` first, also if
  the incident came late or the node was off. A wrong erasure loses a case; a late one is a few
  days.
- Erased are the envelopes that hold an annex and what was written about the incident. A face that
  travelled apart stays: it names nobody, and statistics need it.
- ``decide`` is pure; the desk asks it and acts. Every erasure stands in the log.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import structlog

from node.casebook import Casebook
from node.clock import Clock, rfc3339
from node.core import Core
from node.erasure import Doomed
from node.words import counted
from protocol.errors import BusyError, NotFoundError, PeerError
from protocol.reference import bounds

NOTICE_DAYS: Final = 30
GRACE_DAYS: Final = 7
RULE: Final = "retention rule"
"""By whom the node erases when nobody is asked."""
_log = structlog.get_logger()
Row = dict[str, Any]


class Stage(StrEnum):
    """How far an incident is: it ends soon, has ended, or is erased by the next pass."""

    SOON = "soon"
    OVER = "over"
    ERASE = "erase"


def decide(
    until: str, *, today: datetime.date, noticed: datetime.date | None, erases: bool
) -> Stage | None:
    """Return what is to happen to an incident today; None if its time is far.

    Args:
        until: the day, month or year up to whose end it may be kept.
        today: the day, UTC.
        noticed: since when its end is announced here.
        erases: whether the node erases by itself.
    """
    _, last = bounds(until)
    if today <= last:
        return Stage.SOON if (last - today).days <= NOTICE_DAYS else None
    announced = noticed is not None and (today - noticed).days >= GRACE_DAYS
    return Stage.ERASE if erases and announced else Stage.OVER


@dataclass(frozen=True, slots=True)
class _Kept:
    incident_id: str
    author: bytes
    ref: str
    until: str


class Retention:
    """The desk for retention, over a Core."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        erases: bool,
        name: Callable[[bytes], str],
        drop: Callable[[bytes], None],
    ) -> None:
        """Serve *core*.

        Args:
            core: the node.
            clock: which day it is.
            erases: whether it erases by itself, or a person is asked.
            name: how to call a node id.
            drop: stops fetching an attachment.
        """
        self._core, self._clock, self._erases = core, clock, erases
        self._name, self._drop = name, drop
        self._day: datetime.date | None = None
        self._stages: list[tuple[_Kept, Stage]] = []

    def _today(self) -> datetime.date:
        return datetime.date.fromisoformat(rfc3339(self._clock.now())[:10])

    # --- looking -----------------------------------------------------------------------------
    def _kept(self, cases: Casebook) -> Iterator[_Kept]:
        """Yield what has a day to be erased and still something to erase."""
        rows = cases.database.query(
            "SELECT incident_id, author, ref, "
            "json_extract(face, '$.handling.retain_until') AS until FROM incidents "
            "WHERE json_extract(face, '$.handling.retain_until') IS NOT NULL ORDER BY log_index"
        )
        for row in list(rows):
            kept = _Kept(row["incident_id"], row["author"], row["ref"], row["until"])
            _, last = bounds(kept.until)
            if (last - self._today()).days > NOTICE_DAYS or self._doomed(cases, kept):
                yield kept

    def _doomed(self, cases: Casebook, kept: _Kept) -> list[Doomed]:
        """Return what of an incident is personal, or may be: all but faces that travelled apart."""
        every = self._core.holdings.doomed(cases, kept.incident_id, kept.author)
        return [each for each in every if each.layers != "face"]

    def _look(self) -> list[tuple[_Kept, Stage]]:
        """Bring the announcements up to date; return what is announced, and how far it is."""
        _, cases = self._core.opened()
        today, now = self._today(), self._clock.now()
        known = {
            (row["incident_id"], row["author"]): row
            for row in cases.database.query("SELECT * FROM retention")
        }
        found, fresh = [], []
        for kept in self._kept(cases):
            old = known.pop((kept.incident_id, kept.author), None)
            # An amendment that names another day is another announcement.
            since = None if old is None or old["until"] != kept.until else old["noticed"]
            noticed = None if since is None else _day(since)
            stage = decide(kept.until, today=today, noticed=noticed, erases=self._erases)
            if stage is None:
                continue
            found.append((kept, stage))
            if since is None:
                fresh.append((kept.incident_id, kept.author, kept.until, now))
        if fresh or known:
            with cases.transaction():
                for row in fresh:
                    cases.database.execute("INSERT OR REPLACE INTO retention VALUES (?,?,?,?)", row)
                for key in known:
                    cases.database.execute(
                        "DELETE FROM retention WHERE incident_id = ? AND author = ?", key
                    )
        self._stages = found
        return found

    def due(self) -> Row:
        """Return the incidents whose time ends within NOTICE_DAYS or has ended.

        Raises:
            LockedError: the node is locked.
            BusyError: the disk is full.
        """
        items = [
            {
                "id": kept.incident_id, "ref": kept.ref, "author": self._name(kept.author),
                "retain_until": kept.until, "stage": stage.value,
            }
            for kept, stage in self._look()
        ]  # fmt: skip
        return {"mode": "erase" if self._erases else "ask", "items": items}

    # --- acting ------------------------------------------------------------------------------
    def tick(self) -> None:
        """Do the pass of a day, once a day; call it now and then."""
        today = self._today()
        if self._day == today or self._core.vault is None or self._core.cases is None:
            return
        try:
            self.run(who=RULE)
        except BusyError:
            return  # the next call tries again; the status says that the disk is full
        self._day = today

    def run(self, *, who: str) -> Row:
        """Announce what is due and erase what may be; return what was done.

        Raises:
            LockedError: the node is locked.
            BusyError: the disk is full; what was erased before stays erased.
        """
        erased: list[str] = []
        waiting: list[str] = []
        failed: list[str] = []
        for kept, stage in self._look():
            if stage is not Stage.ERASE:
                waiting.append(kept.ref)
                continue
            try:
                done = self._erase(kept, who)
            except (NotFoundError, PeerError) as error:
                _log.warning("retention-failed", code=error.code)
                failed.append(kept.ref)
            else:
                (erased if done else waiting).append(kept.ref)
        if erased:
            _log.info("retention-erased", count=len(erased))
        self._look()
        return {"erased": erased, "waiting": waiting, "failed": failed}

    def _erase(self, kept: _Kept, who: str) -> bool:
        """Erase the personal layers of one incident; False if somebody is still owed them."""
        from protocol.erasure import Reason  # noqa: PLC0415

        _, cases = self._core.opened()
        doomed = self._doomed(cases, kept)
        ids = [each.envelope_id for each in doomed]
        if self._core.outbox.owed(ids):
            return False  # taking it back from a recipient is for a person to decide
        for blob_id in {blob for each in ids for blob in cases.blobs_of(each)}:
            if self._core.blob_refs.naming(blob_id) <= frozenset(ids):
                self._drop(blob_id)
        self._core.erase(doomed, reason=Reason.RETENTION, by=RULE, who=who)
        return True

    # --- telling -----------------------------------------------------------------------------
    def notices(self) -> Iterator[tuple[str, str, str]]:
        """Yield what a person has to know: what ends soon, and what has ended."""
        if self._core.vault is None or self._core.cases is None:
            return
        soon = [kept for kept, stage in self._stages if stage is Stage.SOON]
        over = [kept for kept, stage in self._stages if stage is not Stage.SOON]
        if soon:
            message = f"{counted(len(soon), 'incident')} must be erased soon: {_first(soon)}"
            yield "retention-soon", message, _SOON[self._erases]
        if over:
            message = f"{counted(len(over), 'incident')} should be erased by now: {_first(over)}"
            yield "retention-over", message, _OVER[self._erases]


_SOON: Final = {
    True: "the node erases them after that day; see: picket incidents retention",
    False: "see: picket incidents retention",
}
_OVER: Final = {
    True: "the node erases them a week after it said so first; see: picket incidents retention",
    False: "erase each with: picket incidents erase REFERENCE --reason retention",
}


def _first(kept: Sequence[_Kept]) -> str:
    first = min(kept, key=lambda each: (bounds(each.until)[1], each.ref))
    return f"the first is {first.ref}, to be kept until {first.until}"


def _day(ms: int) -> datetime.date:
    return datetime.date.fromisoformat(rfc3339(ms)[:10])
