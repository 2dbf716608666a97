"""The log as static files (C2SP tlog-tiles): which there are, and what each of them holds.

- A path is a resource only in its one form; whatever else is asked for is not found.
- Nothing beyond the given head exists: neither a wider partial tile nor an unsigned entry, so that
  looking for one tells nobody how far the log has grown since.
- A partial tile is cut from the stored one. It is there for every width up to the head, also when
  the full tile is: whoever has an older checkpoint finds what belongs to it.
- Entries are given only where they are asked for as such: they name envelopes, hash tiles do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from node.log import Log
from protocol import limits, merkle
from protocol.errors import LogCorruptionError, NotFoundError

CHECKPOINT: Final = "checkpoint"
CHECKPOINT_TYPE: Final = "text/plain"
TILE_TYPE: Final = "application/octet-stream"
_ENTRIES: Final = "entries"
_LENGTH_SIZE: Final = 2  # of an entry in a bundle
_PATH: Final = re.compile(
    r"tile/(?P<level>entries|[0-9]{1,2})/(?P<index>(?:x[0-9]{3}/){0,4}[0-9]{3})"
    r"(?:\.p/(?P<width>[0-9]{1,3}))?"
)
_GROUP: Final = 1_000
_MAX_LEVEL: Final = 63

Head = Callable[[], tuple[int, bytes]]
"""Size and signed note of the checkpoint up to which files are given out."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One file: what it holds, what that is, and whether it will ever change."""

    body: bytes
    content_type: str
    immutable: bool

    @property
    def caching(self) -> str:
        """How long who may ask for it may keep it, and nobody else: a Cache-Control header."""
        return "private, max-age=31536000, immutable" if self.immutable else "no-cache"


@dataclass(frozen=True, slots=True)
class TilePath:
    """Which tile a path names; a *level* of None is a bundle of entries."""

    level: int | None
    index: int
    width: int = merkle.TILE_WIDTH

    @property
    def end(self) -> int:
        """How many hashes its level has to have for it to exist."""
        return self.index * merkle.TILE_WIDTH + self.width

    @override
    def __str__(self) -> str:
        """Return the path (tlog-tiles: Merkle Tree, Log entries)."""
        groups = [f"{self.index % _GROUP:03}"]
        rest = self.index // _GROUP
        while rest:
            groups.insert(0, f"x{rest % _GROUP:03}")
            rest //= _GROUP
        level = _ENTRIES if self.level is None else str(self.level)
        suffix = "" if self.width == merkle.TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(groups)}{suffix}"


def parse_tile_path(path: str) -> TilePath:
    """Return the tile that *path* names.

    Raises:
        NotFoundError: it names none, or not in its one form.
    """
    found = _PATH.fullmatch(path) if len(path) <= limits.MAX_TILE_PATH else None
    if found is None or found["width"] == str(merkle.TILE_WIDTH):
        raise _missing()
    level = None if found["level"] == _ENTRIES else int(found["level"])
    index = int(found["index"].replace("x", "").replace("/", ""))
    width = merkle.TILE_WIDTH if found["width"] is None else int(found["width"])
    tile = TilePath(level, index, width)
    if not 1 <= width <= merkle.TILE_WIDTH or (level or 0) > _MAX_LEVEL or str(tile) != path:
        raise _missing()
    return tile


def _missing() -> NotFoundError:
    return NotFoundError(
        "the log has no such file", fix="read its checkpoint first; it says how large the log is"
    )


def tiles_of(size: int, *, entries: bool = False) -> Iterator[TilePath]:
    """Yield the tiles of a log of *size* entries, level by level; bundles of *entries* come last.

    Of each level these are the full ones and at most one partial one (tlog-tiles: Partial Tiles).
    """
    level, hashes = 0, size
    while hashes:
        yield from _row(level, hashes)
        level, hashes = level + 1, hashes // merkle.TILE_WIDTH
    if entries:
        yield from _row(None, size)


def _row(level: int | None, hashes: int) -> Iterator[TilePath]:
    full, width = divmod(hashes, merkle.TILE_WIDTH)
    for index in range(full):
        yield TilePath(level, index)
    if width:
        yield TilePath(level, full, width)


class LogFiles:
    """The files of one log."""

    def __init__(self, log: Log, *, head: Head | None = None) -> None:
        """Give out *log* up to *head*, by default its newest signed checkpoint."""
        self._log = log
        self._head = head or log.checkpoint

    def resolve(self, path: str, *, entries: bool = False) -> Resource:
        """Return the file at *path*; with *entries* a bundle of entries is one, too.

        Raises:
            NotFoundError: there is none.
            LogCorruptionError: what is stored of it is damaged.
        """
        size, note = self._head()
        if path == CHECKPOINT:
            return Resource(note, CHECKPOINT_TYPE, immutable=False)
        tile = parse_tile_path(path)
        if tile.level is None and not entries:
            raise _missing()
        if tile.end > size >> (merkle.TILE_HEIGHT * (tile.level or 0)):
            raise _missing()
        body = self._bundle(tile) if tile.level is None else self._hashes(tile, tile.level)
        return Resource(body, TILE_TYPE, immutable=True)

    def _hashes(self, tile: TilePath, level: int) -> bytes:
        data = self._log.tile(level, tile.index)[: tile.width * merkle.HASH_SIZE]
        if len(data) != tile.width * merkle.HASH_SIZE:
            raise LogCorruptionError(f"tile {level}/{tile.index} of the log is too narrow")
        return data

    def _bundle(self, tile: TilePath) -> bytes:
        entries = self._log.entries(tile.index * merkle.TILE_WIDTH, tile.width)
        return b"".join(len(entry).to_bytes(_LENGTH_SIZE, "big") + entry for entry in entries)
