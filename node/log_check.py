"""Checking all entries and tiles of a log, by two processes where there are very many.

- A part begins at a multiple of 65,536 entries, so it has tiles of levels 0 and 1 to itself.
- The other process opens the database for reading only and gets no key; it sees what is committed.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from protocol import merkle
from protocol.entry import BLIND_SIZE, all_open, local_digest, parse_entry
from protocol.errors import LogCorruptionError, PeerError

_FULL_TILE: Final = merkle.TILE_WIDTH * merkle.HASH_SIZE
_PART: Final = merkle.TILE_WIDTH**2
_PART_LEVEL: Final = 2  # of the tiles that hold the roots of parts
_SHARED_FROM: Final = 4 * _PART
"""Entries: to start another process takes as long as checking some 100,000."""


class Rows(Protocol):
    """Runs a query."""

    def __call__(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query as tuples."""
        ...


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a part: the roots of 65,536 entries each, and how many tiles were compared."""

    roots: tuple[bytes, ...]
    tiles: int


class _Rebuilt:
    """Makes tiles anew from one level up to another, and compares each with the stored one.

    Where *first* is inside a tile of some level, what that tile holds before it is taken as stored.
    """

    def __init__(self, rows: Rows, *, first: int = 0, level: int = 0, end: int = 64) -> None:
        self._rows = rows
        self._first, self._level, self._end = first, level, end
        self._edges: list[tuple[int, bytes]] = []  # of each level: tile index, its hashes
        self.above: list[bytes] = []  # of level *end*, which is not made
        self.tiles = 0

    def add(self, data: bytes) -> None:
        """Take the next hashes of the lowest level, of one tile at most."""
        level = self._level
        while level < self._end:
            at = level - self._level
            if at == len(self._edges):
                self._edges.append(self._begun(level, at))
            index, edge = self._edges[at]
            edge += data
            if len(edge) < _FULL_TILE:
                self._edges[at] = (index, edge)
                return
            self._compare(level, index, edge)
            self._edges[at] = (index + 1, b"")
            level, data = level + 1, merkle.tile_root(edge)
        self.above.append(data)

    def _begun(self, level: int, at: int) -> tuple[int, bytes]:
        """Return index and hashes before the first new one of the tile where *level* begins."""
        index, width = divmod(self._first // merkle.TILE_WIDTH**at, merkle.TILE_WIDTH)
        if not width:
            return index, b""
        given = self._stored(level, index)[: width * merkle.HASH_SIZE]
        if len(given) != width * merkle.HASH_SIZE:
            raise _differs(level, index)
        return index, given

    def finish(self, *, grown: bool = False) -> None:
        """Compare the right edge; with *grown* the stored one may be wider by now."""
        for level, (index, edge) in enumerate(self._edges, start=self._level):
            if edge:
                self._compare(level, index, edge, grown=grown)

    def _compare(self, level: int, index: int, data: bytes, *, grown: bool = False) -> None:
        stored = self._stored(level, index)
        if (stored[: len(data)] if grown else stored) != data:
            raise _differs(level, index)
        self.tiles += 1

    def _stored(self, level: int, index: int) -> bytes:
        found = self._rows("SELECT data FROM tiles WHERE level = ? AND idx = ?", level, index)
        return bytes(found[0][0]) if found else b""


def _differs(level: int, index: int) -> LogCorruptionError:
    return LogCorruptionError(
        f"tile {level}/{index} differs from the entries it stands for",
        fix="keep the folder as it is, and restore node.db from its newest backup",
    )


def check_log(
    rows: Rows, size: int, *, path: Path | None, progress: Callable[[int], None] | None = None
) -> None:
    """Check every entry and tile of a log of *size* entries; checkpoints are not looked at.

    Args:
        rows: reads the database.
        size: number of entries that were signed.
        path: the database's file if another process may open it; None keeps the work in this one.
        progress: is told how many entries were checked.

    Raises:
        LogCorruptionError: an entry or tile does not fit; names which.
    """
    if path is None or size < _SHARED_FROM or len(os.sched_getaffinity(0)) == 1:
        parts = [check_part(rows, 0, size, progress)]
    else:
        # This process, which need not start, takes the larger half.
        middle = -(-size // (2 * _PART)) * _PART
        with _other_process(path, middle, size) as other:
            try:
                own = check_part(rows, 0, middle, progress)
                parts = [own, _answer(*other.communicate())]
            except BaseException:
                other.kill()
                raise
        if progress is not None:
            progress(size)
    upper = _Rebuilt(rows, level=_PART_LEVEL)
    for part in parts:
        for root in part.roots:
            upper.add(root)
    upper.finish()
    check_ends(rows, size)


def check_steps(rows: Rows, first: int, size: int) -> Iterator[int]:
    """Check the entries from *first* to before *size* and the tiles above them, tile by tile.

    The log may grow meanwhile. *first* is a multiple of 256.

    Yields:
        The number of entries up to which all was checked.

    Raises:
        LogCorruptionError: an entry or tile does not fit; names which.
    """
    rebuilt = _Rebuilt(rows, first=first)
    for low in range(first, size, merkle.TILE_WIDTH):
        high = min(low + merkle.TILE_WIDTH, size)
        rebuilt.add(b"".join(merkle.leaf_hashes(_checked_entries(rows, low, high))))
        if high == size:
            rebuilt.finish(grown=True)
        yield high


def check_ends(rows: Rows, size: int) -> None:
    """Check that there are as many tiles and entries as a log of *size* entries has, and no more.

    Raises:
        LogCorruptionError: there are others, or a last tile has another width.
    """
    tiles, level, count = 0, 0, size
    while count:
        index, width = divmod(count, merkle.TILE_WIDTH)
        tiles += index + bool(width)
        sql = "SELECT length(data) FROM tiles WHERE level = ? AND idx = ?"
        if width and rows(sql, level, index) != [(width * merkle.HASH_SIZE,)]:
            raise _differs(level, index)
        level, count = level + 1, index
    if rows("SELECT count(*) FROM tiles") != [(tiles,)]:
        raise LogCorruptionError("the log has tiles that belong to no entry")
    if rows("SELECT 1 FROM entries WHERE idx >= ? LIMIT 1", size):
        raise LogCorruptionError(f"{size} entries were signed, but there are more")
    if rows("SELECT 1 FROM entries WHERE idx < 0 LIMIT 1"):
        raise LogCorruptionError("the log has an entry before its first one")


def check_part(
    rows: Rows, first: int, end: int, progress: Callable[[int], None] | None = None
) -> Checked:
    """Check the entries from *first* to before *end*, and the tiles above them up to their parts.

    Raises:
        LogCorruptionError: an entry or tile does not fit; names which.
    """
    rebuilt = _Rebuilt(rows, first=first, end=_PART_LEVEL)
    for low in range(first, end, merkle.TILE_WIDTH):
        high = min(low + merkle.TILE_WIDTH, end)
        rebuilt.add(b"".join(merkle.leaf_hashes(_checked_entries(rows, low, high))))
        if progress is not None:
            progress(high)
    rebuilt.finish()
    return Checked(tuple(rebuilt.above), rebuilt.tiles)


def _checked_entries(rows: Rows, low: int, high: int) -> Sequence[bytes]:
    """Return the entries from *low* to before *high*, each as what stands beside it says."""
    found = rows(
        "SELECT kind, entry, local_blind, local FROM entries "
        "WHERE idx >= ? AND idx < ? ORDER BY idx",
        low, high,
    )  # fmt: skip
    if len(found) != high - low:
        raise LogCorruptionError(f"entry {_first_missing(rows, low)} of the log is missing")
    kinds, entries, local_blinds, locals_ = zip(*found, strict=True)
    if not all_open(kinds, entries, local_blinds=local_blinds, locals_=locals_):
        for index, row in enumerate(found, start=low):
            _check_entry(index, *row)
    return entries


def _first_missing(rows: Rows, low: int) -> int:
    found = rows("SELECT idx FROM entries WHERE idx >= ? ORDER BY idx", low)
    later = (index for index, (there,) in enumerate(found, start=low) if index != there)
    return next(later, low + len(found))


def _check_entry(index: int, kind: int, data: bytes, local_blind: bytes, local: bytes) -> None:
    """Check an entry and what only this node knows of it against what it commits to."""
    try:
        entry = parse_entry(data)
    except PeerError as error:
        raise LogCorruptionError(f"entry {index} of the log is damaged: {error}") from None
    opened = (kind, BLIND_SIZE, local_digest(local, local_blind))
    if (entry.kind, len(local_blind), entry.local_digest) != opened:
        raise LogCorruptionError(f"the record beside log entry {index} was changed")


# --- the other process -----------------------------------------------------------------------
def _other_process(path: Path, first: int, end: int) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PICKET_")}
    return subprocess.Popen(  # noqa: S603  our own interpreter and module
        [sys.executable, "-P", "-m", "node.log_check", str(path.absolute()), str(first), str(end)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment, text=True,
    )  # fmt: skip


def _answer(said: str, _: object) -> Checked:
    if not said:
        raise LogCorruptionError("the log could not be checked: a process for it ended early")
    answer = json.loads(said)
    if "error" in answer:
        raise LogCorruptionError(answer["error"])
    return Checked(tuple(map(bytes.fromhex, answer["roots"])), answer["tiles"])


def _main(path: str, first: str, end: str) -> None:
    """Check a part of the database in *path* and print what came of it."""
    with closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True)) as connection:

        def rows(sql: str, *values: object) -> list[tuple[Any, ...]]:
            return connection.execute(sql, values).fetchall()

        try:
            part = check_part(rows, int(first), int(end))
            answer = {"roots": [root.hex() for root in part.roots], "tiles": part.tiles}
        except LogCorruptionError as error:
            answer = {"error": error.message}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main(*sys.argv[1:])
