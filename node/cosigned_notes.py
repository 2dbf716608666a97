"""What heartbeat entries say of heads that a quorum had cosigned, and holding node.db against it.

    local record of a heartbeat = [] or [[origin, size, quorum at, first at, [mark, ...]], ...]

- The times and cosignatures of heads stand in tables beside the log, where whoever has the stopped
  machine could change or delete them. So the next heartbeat puts them into the log, and what
  witnesses cosign after that holds them fast.
- A *mark* stands for one cosignature that was there then. More may come later; none may go.
- ``quorum at`` is nil of a head that was not kept until then: a later one showed as much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final

from node.store import Store
from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.entry import EntryKind
from protocol.errors import LogCorruptionError, PeerError
from protocol.shape import array, octets, text, uint

_MARK: Final = 8
_NEWEST: Final = 4
"""Heads that may not have been noted yet: no more than two are shown to witnesses at a time."""
_NOTHING: Final = encode([])
_PAGE: Final = 500
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CosignedNote:
    """What one heartbeat says of one head; times are seconds."""

    origin: str
    size: int
    quorum_at: int | None
    first_at: int
    marks: frozenset[bytes]

    @property
    def value(self) -> list[object]:
        """What stands in the local record."""
        return [self.origin, self.size, self.quorum_at, self.first_at, sorted(self.marks)]


def mark_of(row: Row) -> bytes:
    """Return the mark of a cosignature as it is kept."""
    return suite.digest("cosigned-mark", row["name"].encode(), row["key_id"], row["signature"])[
        :_MARK
    ]


def parse_notes(local: bytes) -> tuple[CosignedNote, ...]:
    """Return what the local record of a heartbeat says.

    Raises:
        DecodeError: it has another form.
    """
    value = array(decode(local, max_bytes=limits.MAX_HEADER * 4), "heartbeat", maximum=_NEWEST)
    return tuple(_note(array(each, "heartbeat.head", size=5)) for each in value)


def _note(fields: Sequence[Value]) -> CosignedNote:
    marks = array(fields[4], "heartbeat.marks", maximum=limits.MAX_NOTE_SIGNATURES)
    return CosignedNote(
        text(fields[0], "heartbeat.origin", maximum=limits.MAX_NOTE_NAME),
        uint(fields[1], "heartbeat.size", maximum=limits.MAX_LOG_SIZE),
        None if fields[2] is None else uint(fields[2], "heartbeat.quorum_at"),
        uint(fields[3], "heartbeat.first_at"),
        frozenset(octets(each, "heartbeat.mark", size=_MARK) for each in marks),
    )


# --- writing ---------------------------------------------------------------------------------
def notes_to_make(store: Store) -> list[list[object]]:
    """Return the local record of the next heartbeat: heads that no entry speaks of yet."""
    newest = store.rows(
        "SELECT h.origin, h.size, h.at, c.quorum_at FROM head_times h LEFT JOIN cosigned c "
        "ON c.origin = h.origin AND c.size = h.size ORDER BY h.size DESC LIMIT ?",
        _NEWEST,
    )
    return [
        CosignedNote(
            row["origin"], row["size"], row["quorum_at"], row["at"],
            frozenset(map(mark_of, _lines(store, row["origin"], row["size"]))),
        ).value
        for row in reversed(newest)
        if _said(store, row["origin"], row["size"]) is None
    ]  # fmt: skip


def _lines(store: Store, origin: str, size: int) -> list[dict[str, Any]]:
    return store.rows("SELECT * FROM cosignatures WHERE origin = ? AND size = ?", origin, size)


def _after(store: Store, size: int) -> Iterator[CosignedNote]:
    """Yield what the first heartbeats say that come after a head and say anything."""
    for _ in range(_NEWEST):
        # One by one: the first is nearly always the right one, and the next may be far.
        row = store.row(
            "SELECT idx, local FROM entries WHERE idx >= ? AND kind = ? AND local != ? "
            "ORDER BY idx LIMIT 1",
            size, int(EntryKind.HEARTBEAT), _NOTHING,
        )  # fmt: skip
        if row is None:
            return
        yield from _parsed(row["local"])
        size = row["idx"] + 1


def _said(store: Store, origin: str, size: int) -> CosignedNote | None:
    """Return what the log says of a head."""
    notes = _after(store, size)
    return next((each for each in notes if (each.origin, each.size) == (origin, size)), None)


def _parsed(local: bytes) -> tuple[CosignedNote, ...]:
    try:
        return parse_notes(local)
    except PeerError as error:
        raise LogCorruptionError(f"what a heartbeat says of heads is damaged: {error}") from None


# --- verifying -------------------------------------------------------------------------------
def verify_noted(store: Store, origin: str, size: int, lines: Sequence[Row]) -> None:
    """Hold what is kept of a head against what the log says of it.

    Raises:
        LogCorruptionError: a time was changed, or a cosignature is missing.
    """
    said = _said(store, origin, size)
    at = store.scalar("SELECT at FROM head_times WHERE origin = ? AND size = ?", origin, size)
    kept = store.row("SELECT quorum_at FROM cosigned WHERE origin = ? AND size = ?", origin, size)
    if said is None:
        _verify_unsaid(store, size, kept, at, lines)
        return
    if at not in {None, said.first_at}:
        raise _retimed(size)
    if kept is None:
        return  # that it may be missing is another question
    missing = len(said.marks - set(map(mark_of, lines)))
    if missing:
        raise LogCorruptionError(
            f"{missing} of the cosignatures of the head of size {size} are missing: the log says "
            "that they were there"
        )
    if said.quorum_at is not None and kept["quorum_at"] != said.quorum_at:
        raise _retimed(size)


def _verify_unsaid(
    store: Store, size: int, kept: Row | None, at: int | None, lines: Sequence[Row]
) -> None:
    """Verify what no heartbeat speaks of: it is quite new, or older than all that speak of any."""
    first = store.scalar(
        "SELECT min(idx) FROM entries WHERE kind = ? AND local != ?",
        int(EntryKind.HEARTBEAT), _NOTHING,
    )  # fmt: skip
    later = store.scalar(
        "SELECT count(*) FROM (SELECT 1 FROM entries WHERE idx >= ? AND kind = ? AND local != ? "
        "LIMIT ?)",
        size, int(EntryKind.HEARTBEAT), _NOTHING, _NEWEST,
    )  # fmt: skip
    met = None if kept is None else kept["quorum_at"]
    if met is None and at is None:
        return
    times = {row["time_s"] for row in lines}
    if kept is not None and not ({met, at} - {None} <= times):
        raise _retimed(size)
    if first is not None and size >= first and later >= _NEWEST:
        raise LogCorruptionError(
            f"that the head of size {size} was cosigned stands in no entry of the log"
        )


def _retimed(size: int) -> LogCorruptionError:
    return LogCorruptionError(
        f"when the head of size {size} was cosigned by enough witnesses was changed"
    )


def verify_kept(store: Store, *, news: Callable[[int, int], bool], before: int) -> Iterator[None]:
    """Verify, page by page, that no head is missing that shows something that no other does.

    Args:
        store: node.db.
        news: whether entries from one index up to another are more than heartbeats.
        before: entries of this index and above are left out: they came meanwhile.

    Raises:
        LogCorruptionError: one is missing.
    """
    checks: dict[str, _Kept] = {}
    after = -1
    while True:
        rows = store.rows(
            "SELECT idx, local FROM entries WHERE idx > ? AND idx < ? AND kind = ? AND local != ? "
            "ORDER BY idx LIMIT ?",
            after, before, int(EntryKind.HEARTBEAT), _NOTHING, _PAGE,
        )  # fmt: skip
        for row in rows:
            for note in _parsed(row["local"]):
                checks.setdefault(note.origin, _Kept(store, news)).take(note)
        if len(rows) < _PAGE:
            break
        after = rows[-1]["idx"]
        yield
    for check in checks.values():
        check.end()
    yield


class _Kept:
    """The heads of one name of the log, in the order of their sizes."""

    def __init__(self, store: Store, news: Callable[[int, int], bool]) -> None:
        self._store, self._news = store, news
        self._waiting: list[tuple[int, str]] = []
        self._quiet = 0

    def take(self, note: CosignedNote) -> None:
        """Take what an entry says; of heads that met nearly together it may not be in order."""
        if note.quorum_at is not None:
            heappush(self._waiting, (note.size, note.origin))
        while len(self._waiting) > 2 * _NEWEST:
            self._check(*heappop(self._waiting))

    def end(self) -> None:
        """Check the rest."""
        while self._waiting:
            self._check(*heappop(self._waiting))

    def _check(self, size: int, origin: str) -> None:
        if size <= self._quiet or not self._news(self._quiet, size):
            self._quiet = max(self._quiet, size)
            return
        self._quiet = size
        if self._store.scalar(
            "SELECT 1 FROM cosigned WHERE origin = ? AND size = ? AND quorum_at IS NOT NULL",
            origin, size,
        ) is None:  # fmt: skip
            raise LogCorruptionError(
                f"the head of size {size}, which the log says was cosigned by enough witnesses, is "
                "missing"
            )
