"""Verifying what a node holds, in full or since the last time, in short steps.

- Between two steps the desk does other work and the log grows. What comes one by one (entries,
  envelopes, receipts, cosigned heads) is covered as far as it had come at the first step; what is
  compared as a whole (nothing missing, erasures, accesses, trust, evidence) as it is at the end.
- A verification that passed is noted in the log, as an access entry, and in ``meta``. The next one
  may begin where it ended, if node.db has that note exactly as the log has it, the entry stands
  among those that it verifies itself, and the stored tiles still lead to the root that was noted.
  So whoever edits node.db can not make up a verification or move it: that takes the log's keys, and
  a log that was rewritten contradicts what witnesses cosigned.
- What it cannot see: a row from before the note that was changed after it. It says so, and only a
  full verification finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node import row_types
from node.access import OPERATOR
from node.clock import rfc3339
from node.cosigned_notes import verify_kept
from node.verify_heads import HeadChecker, verify_evidence, verify_resealing, verify_witnessed
from node.verify_rows import (
    Checkers,
    ReceiptChecker,
    envelopes_between,
    subject_of,
    verify_envelopes,
    verify_no_strays,
    verify_none_missing,
    verify_trust,
)
from protocol import limits, merkle
from protocol.access import AccessAct, parse_access
from protocol.canonical import decode, encode
from protocol.entry import EntryKind
from protocol.errors import BusyError, LogCorruptionError, NotFoundError, PeerError
from protocol.shape import array, octets, uint

if TYPE_CHECKING:
    from node.core import Core

VERIFY_LOG: Final = "verify-log"
"""What the log calls it when the node was verified."""
SLICE_MS: Final = 50
"""How long the desk is held at a time, about."""
_STEPS_MAX: Final = 64
_FORGOTTEN_MS: Final = 60_000
_META: Final = "verified"
_VERSION: Final = 1
_LOWEST: Final = -(2**63)
_ENVELOPES: Final = 64
_RECEIPTS: Final = 256
_HEADS: Final = 8
_LATE_HEADS: Final = 3
"""Cosigned heads, the newest, to which cosignatures may still come."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a verification came that passed.

    ``receipts`` is the last row of that table; ``heads`` the size of a head of this log to which,
    and to those before it, no cosignature comes any more. The others are about the last full one.
    """

    size: int
    root: bytes
    receipts: int
    heads: int
    whole_size: int
    whole_at: int

    @property
    def note(self) -> str:
        """What the log entry of the verification says of it."""
        return (
            f"{self.size} entries, root {self.root.hex()}, receipts to {self.receipts}, "
            f"cosigned heads to {self.heads}; {self.whole_size} in full at {self.whole_at}"
        )


@dataclass(frozen=True, slots=True)
class Passed:
    """A verification that found nothing wrong: what it looked at, and what not.

    ``since`` is the verification that it began from, and when that was; None after a full one.
    """

    entries: int
    envelopes: int
    receipts: int
    heads: int
    others: int
    unknown_cosignatures: int
    covered: Mark
    since: tuple[Mark, int] | None


class Verification:
    """One verification of a node; ``steps`` does the work."""

    def __init__(self, core: Core, *, since: bool) -> None:
        """Prepare; with *since* leave out what the last verification looked at, if there is one."""
        self._core, self._since = core, since
        self._checkers = Checkers()
        self._counts = dict.fromkeys(("entries", "envelopes", "receipts", "heads", "others"), 0)
        self._unknown = 0
        self._last: tuple[Mark, int] | None = None
        self._covered = Mark(0, merkle.EMPTY_ROOT, 0, 0, 0, 0)
        self.what, self.done, self.total = "rows", 0, len(row_types.ALL)
        """What is looked at now, how many of them were, and how many there are to do."""
        self.passed: Passed | None = None

    @property
    def since(self) -> bool:
        """Whether it may leave out what was verified before."""
        return self._since

    def run(self) -> Passed:
        """Do all steps at once.

        Raises:
            LogCorruptionError: something does not verify; names what.
        """
        for _ in self.steps(at_once=True):
            pass
        assert self.passed is not None  # noqa: S101  the last step makes it
        return self.passed

    def steps(self, *, at_once: bool = False) -> Generator[None, None, None]:
        """Do one step after the other; each takes some ms. ``passed`` is set by the last one.

        With *at_once* nothing else happens in between, and a long log is shared by two processes.

        Raises:
            LogCorruptionError: something does not verify; names what.
            BusyError: the node has just started, and may not sign what is to be verified.
        """
        try:
            with row_types.explained(self._core.store):
                self._begin()
            yield
            yield from self._rows()
            yield from self._entries(at_once=at_once)
            try:
                yield from self._envelopes()
                yield from self._receipts()
            except LogCorruptionError:
                # What is missing, or is not what the log says, is the better name for it.
                for _ in self._comparisons():
                    pass
                raise
            yield from self._comparisons()
            yield from self._cosigned()
            yield from self._the_rest()
        finally:
            self._checkers.close()
        self.passed = Passed(
            **self._counts,
            unknown_cosignatures=self._unknown, covered=self._covered, since=self._last,
        )  # fmt: skip

    # --- what all of it relies on -------------------------------------------------------------
    def _rows(self) -> Iterator[None]:
        """Look at what kind of values there are."""
        self.what, self.done, self.total = "rows", 0, len(row_types.ALL)
        for table in row_types.ALL:
            yield from row_types.check_steps(self._core.store, table)
            self.done += 1

    # --- the first step ----------------------------------------------------------------------
    def _begin(self) -> None:
        core = self._core
        core.seal()
        heads, size = core.log.verified_heads(), core.log.size
        if self._since and (last := read_mark(core)) is not None:
            mark, at = last
            if mark.size > size or core.log.stored_roots()(mark.size) != mark.root:
                raise LogCorruptionError(
                    f"the first {mark.size} entries are not those that were verified "
                    f"{rfc3339(at)}: the hashes lead to another root"
                )
            self._last = last
        settled = core.store.tuples(
            "SELECT size FROM cosigned ORDER BY size DESC LIMIT 1 OFFSET ?", _LATE_HEADS - 1
        )
        self._covered = Mark(
            size=size,
            root=heads[size],
            receipts=core.store.scalar("SELECT coalesce(max(rowid), 0) FROM receipts"),
            heads=settled[0][0] if settled else -1,
            whole_size=size if self._last is None else self._last[0].whole_size,
            whole_at=core.clock.now() if self._last is None else self._last[0].whole_at,
        )

    # --- one by one --------------------------------------------------------------------------
    def _entries(self, *, at_once: bool) -> Iterator[None]:
        size, log = self._covered.size, self._core.log
        self.what, self.done = "entries", 0
        before = 0 if self._last is None else self._last[0].size
        self._counts["entries"] = self.total = size - before
        if at_once and self._last is None:
            log.verify()
            return
        # The hashes of the tile where it begins are bound by the root that was compared.
        first = before // merkle.TILE_WIDTH * merkle.TILE_WIDTH
        for checked in log.verify_steps(first, size):
            self.done = max(0, checked - before)
            yield
        if log.stored_roots()(size) != self._covered.root:
            raise LogCorruptionError(f"the log differs from its checkpoint of size {size}")

    def _envelopes(self) -> Iterator[None]:
        first, end = 0 if self._last is None else self._last[0].size, self._covered.size
        self._count_to(
            "envelopes",
            "SELECT count(*) FROM envelopes WHERE log_index >= ? AND log_index < ?", first, end,
        )  # fmt: skip
        while rows := envelopes_between(self._core, first, end, _ENVELOPES):
            verify_envelopes(self._core, rows, self._checkers)
            first = rows[-1]["log_index"] + 1
            self._did("envelopes", len(rows))
            yield

    def _receipts(self) -> Iterator[None]:
        first = _LOWEST if self._last is None else self._last[0].receipts + 1
        end = self._covered.receipts
        self._count_to(
            "receipts", "SELECT count(*) FROM receipts WHERE rowid BETWEEN ? AND ?", first, end
        )
        checker = ReceiptChecker(self._core)
        while rows := self._core.store.rows(
            "SELECT rowid AS number, * FROM receipts WHERE rowid BETWEEN ? AND ? "
            "ORDER BY rowid LIMIT ?",
            first, end, _RECEIPTS,
        ):  # fmt: skip
            for row in rows:
                checker.verify(row)
            first = rows[-1]["number"] + 1
            self._did("receipts", len(rows))
            yield

    def _cosigned(self) -> Iterator[None]:
        after = _LOWEST if self._last is None else self._last[0].heads
        self._count_to("heads", "SELECT count(*) FROM cosigned WHERE size > ?", after)
        checker = HeadChecker(self._core, self._core.log.stored_roots())
        while sizes := checker.sizes(after, _HEADS):
            for size in sizes:
                checker.verify(size)
            after = sizes[-1]
            self._did("heads", len(sizes))
            yield
        self._unknown = checker.unknown
        if self._last is None:
            core = self._core
            yield from verify_kept(core.store, news=core.cosigning.news, before=self._covered.size)

    def _count_to(self, what: str, sql: str, *values: object) -> None:
        self.what, self.done = what, 0
        self.total = int(self._core.store.scalar(sql, *values))

    def _did(self, what: str, count: int) -> None:
        self._counts[what] += count
        self.done += count
        self.total = max(self.done, self.total)

    # --- as a whole --------------------------------------------------------------------------
    def _comparisons(self) -> Iterator[None]:
        core = self._core
        acts = (
            core.erasures.verify, core.access.verify, core.approvals.verify,
            lambda: verify_trust(core),
        )  # fmt: skip
        self.what, self.done, self.total = "comparisons", 0, len(acts) + 1
        with _damaged():
            for _ in verify_none_missing(core):
                yield
        yield from self._compare(*acts)

    def _the_rest(self) -> Iterator[None]:
        acts = (self._others, lambda: verify_no_strays(self._core), self._ends)
        self.what, self.done, self.total = "evidence", 0, len(acts)
        yield from self._compare(*acts)

    def _compare(self, *acts: Callable[[], object]) -> Iterator[None]:
        for act in acts:
            with _damaged():
                act()
            self.done += 1
            yield

    def _others(self) -> None:
        core = self._core
        self._counts["others"] = verify_witnessed(core) + verify_evidence(core)
        verify_resealing(core)

    def _ends(self) -> None:
        self._core.seal()
        self._core.log.verify_ends()


@contextmanager
def _damaged() -> Iterator[None]:
    """Name an entry that cannot be read though it is not among those that were looked at."""
    try:
        yield
    except PeerError as error:
        raise LogCorruptionError(
            f"an entry of the log is damaged: {error}", fix="run: picket log verify"
        ) from None


def verify_all(core: Core) -> dict[str, int]:
    """Verify all that *core* holds, at once; return how many entries, envelopes and receipts.

    Raises:
        LogCorruptionError: something does not verify; names what.
    """
    passed = Verification(core, since=False).run()
    return {
        "entries": passed.entries, "envelopes": passed.envelopes, "receipts": passed.receipts,
    }  # fmt: skip


def shown(passed: Passed, remembered: bool) -> dict[str, object]:
    """Return what a verification looked at, and what it did not, as values for JSON."""
    mark = passed.covered
    return {
        "full": passed.since is None,
        "first_entry": 0 if passed.since is None else passed.since[0].size,
        "since": None if passed.since is None else rfc3339(passed.since[1]),
        "last_full": {"entries": mark.whole_size, "at": rfc3339(mark.whole_at)},
        "entries_checked": passed.entries,
        "envelopes_checked": passed.envelopes,
        "receipts_checked": passed.receipts,
        "cosigned_heads_checked": passed.heads,
        "heads_and_evidence_checked": passed.others,
        "cosignatures_unknown": passed.unknown_cosignatures,
        "remembered": remembered,
    }


# --- remembering -----------------------------------------------------------------------------
def remember(core: Core, passed: Passed) -> bool:
    """Note in the log and beside it how far a verification came; False if the disk is full."""
    mark = passed.covered
    try:
        with core.logged():
            index = core.access.record(VERIFY_LOG, (), OPERATOR, mark.note)
            fields = (
                _VERSION, index, mark.size, mark.root, mark.receipts, mark.heads + 1,
                mark.whole_size, mark.whole_at,
            )  # fmt: skip
            core.store.set_meta(_META, encode(fields))
    except BusyError:
        return False
    return True


def read_mark(core: Core) -> tuple[Mark, int] | None:
    """Return how far the last verification came, and when (UTC in ms); None if there was none.

    Raises:
        LogCorruptionError: what is remembered of it is not what the log says.
    """
    stored = core.store.meta(_META)
    if stored is None:
        return None
    try:
        index, mark = _parse_mark(stored)
        row = core.store.row("SELECT kind, entry, local FROM entries WHERE idx = ?", index)
        if row is None or row["kind"] != EntryKind.ACCESS or index < mark.size:
            raise _forged()
        act = parse_access(row["local"])
    except PeerError:
        raise _forged() from None
    # The entry itself is among those that are verified next: it came after what it is about.
    said = AccessAct(VERIFY_LOG, (), act.who, act.at, mark.note)
    if act != said or subject_of(index, row["entry"]) != said.subject:
        raise _forged()
    return mark, act.at


def _forged() -> LogCorruptionError:
    return LogCorruptionError(
        "what node.db remembers of the last verification is not what the log says of it",
        fix="find out who changed node.db; verify all of it: picket log verify",
    )


def _parse_mark(stored: bytes) -> tuple[int, Mark]:
    fields = array(decode(stored, max_bytes=limits.MAX_HEADER), "verified", size=8)
    uint(fields[0], "verified.version", minimum=_VERSION, maximum=_VERSION)
    return uint(fields[1], "verified.entry"), Mark(
        size=uint(fields[2], "verified.size"),
        root=octets(fields[3], "verified.root", size=merkle.HASH_SIZE),
        receipts=uint(fields[4], "verified.receipts"),
        heads=uint(fields[5], "verified.heads") - 1,
        whole_size=uint(fields[6], "verified.whole_size"),
        whole_at=uint(fields[7], "verified.whole_at"),
    )


# --- for the desk ----------------------------------------------------------------------------
class Verifier:
    """The verification that goes on, slice by slice, and what came of the last one."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._running: tuple[Verification, Generator[None, None, None]] | None = None
        self._asked_at = 0
        self.last: tuple[Passed, bool] | None = None
        """What the last one looked at, and whether it is remembered."""

    def begin(self, *, since: bool) -> dict[str, object] | None:
        """Begin a verification, or join the one that goes on, and do its next slice.

        One that leaves out what was verified before gives way to a full one, and one that nobody
        asked after for a minute to any.

        Returns:
            How far it is, or None if it has just passed.

        Raises:
            LogCorruptionError: something does not verify; names what.
        """
        now, going = self._core.clock.monotonic(), self._running
        over = going is None or now - self._asked_at > _FORGOTTEN_MS
        if going is None or over or (going[0].since and not since):
            self.stop()
            verification = Verification(self._core, since=since)
            self._running = (verification, verification.steps())
        return self.go_on()

    def go_on(self) -> dict[str, object] | None:
        """Do the next slice; return as ``begin`` does.

        Raises:
            LogCorruptionError: something does not verify; names what.
            NotFoundError: none was begun.
        """
        if self._running is None:
            if self.last is None:
                raise NotFoundError("no verification was begun", fix="begin one")
            return None
        verification, steps = self._running
        began = self._asked_at = self._core.clock.monotonic()
        try:
            for _ in range(_STEPS_MAX):
                next(steps)
                if self._core.clock.monotonic() - began >= SLICE_MS:
                    break
        except StopIteration:
            self._running = None
            self._passed(verification)
            return None
        except BaseException:
            self._running = self.last = None
            raise
        return {"what": verification.what, "done": verification.done, "total": verification.total}

    def at_once(self, *, since: bool) -> None:
        """Do a whole verification here and now; ``last`` says what it looked at.

        Raises:
            LogCorruptionError: something does not verify; names what.
        """
        verification = Verification(self._core, since=since)
        verification.run()
        self._passed(verification)

    def _passed(self, verification: Verification) -> None:
        assert verification.passed is not None  # noqa: S101  its steps came to their end
        self.last = (verification.passed, remember(self._core, verification.passed))

    def stop(self) -> None:
        """Leave off the one that goes on."""
        if self._running is not None:
            self._running[1].close()
            self._running = None
