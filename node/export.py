"""An export of the log: the static files of C2SP tlog-tiles in a folder, begun or continued.

- Every file is checked against the checkpoint before it counts, from the root down; so are the full
  tiles of an earlier export, which are kept. A damaged one is fetched again.
- The checkpoint comes last and replaces the old one at once: until then a reader of the folder sees
  the earlier export whole. What is being fetched is named in ``.checkpoint`` meanwhile.
- A folder that holds another log, a larger one or another history of this one is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from node.tiles import CHECKPOINT, TilePath, parse_tile_path, tiles_of
from protocol import limits, merkle
from protocol.checkpoint import Checkpoint, parse_body
from protocol.errors import (
    ConflictError,
    NotFoundError,
    OperatorError,
    PeerError,
    ProofError,
    RollbackError,
)
from protocol.note import parse_note

_BEGUN: Final = ".checkpoint"
_TILES: Final = "tile"
_NEW: Final = ".new"
_LENGTH_SIZE: Final = 2
_WIDTH: Final = merkle.TILE_WIDTH
_OTHER_FOLDER: Final = "choose a new folder"
Read = Callable[[int, int, int], bytes]
"""Returns so many hashes, by level, index of the tile and width."""


class Source(Protocol):
    """Where the log comes from."""

    def file(self, path: str) -> bytes:
        """Return the file at *path*."""
        ...

    def begin(self, *, entries: bool) -> bytes:
        """Have the export logged, and return the checkpoint that it is to end at."""
        ...


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported: how large the log was, how many files there are, how many are new."""

    origin: str
    size: int
    files: int
    new: int


def export_log(
    folder: Path,
    source: Source,
    *,
    entries: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Write the log into *folder*, which is new, empty or an earlier export of this log.

    Args:
        folder: where to.
        source: the log.
        entries: write bundles of entries, too.
        progress: is told how many files are done, of how many.

    Raises:
        ConflictError: the folder holds something else, or entries that would not be continued.
        RollbackError: it holds more of this log than the node has.
        ProofError: it holds another history of this log, or the node's files do not verify.
        OperatorError: it cannot be written.
    """
    try:
        earlier = _look(folder, entries=entries)
        _check_continues(folder, earlier, _parse(source.file(CHECKPOINT)), source)
        note = source.begin(entries=entries)
        head = _parse(note)
        _check_continues(folder, earlier, head, source)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / _BEGUN, note)
        run = _Run(folder, source, head, progress)
        run.take_all(entries=entries)
        os.sync()  # what the checkpoint stands for is on the disk before it
        (folder / _BEGUN).replace(folder / CHECKPOINT)
        _sweep(folder, head.size, entries=entries)
    except OSError as error:
        raise OperatorError(
            f"{folder} cannot be used: {error.strerror}",
            fix="check its disk and permissions; the same command continues where it stopped",
        ) from None
    return Exported(head.origin, head.size, run.done + 1, run.fetched + 1)


# --- what is there ---------------------------------------------------------------------------
def _look(folder: Path, *, entries: bool) -> list[Checkpoint]:
    """Return the checkpoints of an earlier export in *folder*: whole ones and a begun one."""
    names = {file.name for file in folder.iterdir()} if folder.exists() else set()
    if not names:
        return []
    if strange := sorted(names - {CHECKPOINT, _BEGUN, _BEGUN + _NEW, _TILES}):
        raise ConflictError(
            f"{folder} holds {strange[0]!r}, which is no part of an export", fix=_OTHER_FOLDER
        )
    if (folder / _TILES / "entries").exists() and not entries:
        raise ConflictError(
            f"{folder} is an export with entries", fix="give --entries, or choose a new folder"
        )
    found = []
    for name in sorted(names & {CHECKPOINT, _BEGUN}):
        with (folder / name).open("rb") as opened:
            data = opened.read(limits.MAX_NOTE + 1)
        try:
            found.append(_parse(data))
        except PeerError:
            raise ConflictError(f"{folder / name} is no checkpoint", fix=_OTHER_FOLDER) from None
    if not found and _TILES in names:
        raise ConflictError(f"{folder} holds tiles without a checkpoint", fix=_OTHER_FOLDER)
    return found


def _parse(note: bytes) -> Checkpoint:
    return parse_body(parse_note(note).text)


def _check_continues(
    folder: Path, earlier: list[Checkpoint], head: Checkpoint, source: Source
) -> None:
    """Check that each of the *earlier* checkpoints is of a beginning of the log at *head*."""

    def read(level: int, index: int, width: int) -> bytes:
        return source.file(str(TilePath(level, index, width)))

    for old in earlier:
        if old.origin != head.origin:
            raise ConflictError(
                f"{folder} holds the log {old.origin}, and this is {head.origin}",
                fix=_OTHER_FOLDER,
            )
        if old.size > head.size:
            raise RollbackError(
                f"{folder} holds {old.size} entries of this log, and the node only {head.size}",
                fix="find out whether node.db is an old copy; keep the folder as evidence",
            )
        if _root(old.size, read) != old.root:
            raise ProofError(
                f"{folder} holds another history of this log: its first {old.size} entries differ",
                fix="keep the folder as evidence, and choose a new one",
            )


def _root(size: int, read: Read) -> bytes:
    """Return the root of *size* leaves from the partial tile of each level, and nothing else."""
    peaks = []
    for level in reversed(range(_levels(size))):
        index, width = divmod(size >> (merkle.TILE_HEIGHT * level), _WIDTH)
        data = read(level, index, width) if width else b""
        if len(data) != width * merkle.HASH_SIZE:
            raise ProofError(f"{TilePath(level, index, width)} has the wrong length")
        at = 0
        for bit in reversed(range(merkle.TILE_HEIGHT)):
            if width >> bit & 1:
                step = merkle.HASH_SIZE << bit
                peaks.append(merkle.tile_root(data[at : at + step]))
                at += step
    if not peaks:
        return merkle.EMPTY_ROOT
    root = peaks.pop()
    while peaks:
        root = merkle.node_hash(peaks.pop(), root)
    return root


def _levels(size: int) -> int:
    return -(-size.bit_length() // merkle.TILE_HEIGHT)


# --- fetching --------------------------------------------------------------------------------
class _Run:
    """One export under way."""

    def __init__(
        self, folder: Path, source: Source, head: Checkpoint, progress: Callable[[int, int], None]
    ) -> None:
        self._folder = folder
        self._source = source
        self._head = head
        self._progress = progress
        self._total = 0
        self._last: tuple[TilePath, bytes] | None = None
        self.done = 0
        self.fetched = 0

    def take_all(self, *, entries: bool) -> None:
        """Take every file but the checkpoint, so that each is checked by those before it."""
        size = self._head.size
        tiles = list(tiles_of(size, entries=entries))
        self._total = len(tiles)
        # The partial ones make the root; each full one is a hash in a tile of the level above.
        if _root(size, self._take_edge) != self._head.root:
            raise _unfit(CHECKPOINT)
        full = [tile for tile in tiles if tile.level is not None and tile.width == _WIDTH]
        for tile in sorted(full, key=lambda tile: (-(tile.level or 0), tile.index)):
            self._take(tile, self._is_tile)
        for tile in tiles:
            if tile.level is None:
                self._take(tile, self._is_bundle)

    def _take_edge(self, level: int, index: int, width: int) -> bytes:
        tile = TilePath(level, index, width)
        data = self._source.file(str(tile))
        self._put(tile, data)
        return data

    def _take(self, tile: TilePath, fits: Callable[[TilePath, bytes], bool]) -> None:
        if tile.width == _WIDTH and fits(tile, self._kept(tile)):
            self._count()
            return
        data = self._source.file(str(tile))
        if not fits(tile, data):
            raise _unfit(str(tile))
        self._put(tile, data)

    def _put(self, tile: TilePath, data: bytes) -> None:
        _write(self._folder / str(tile), data)
        self.fetched += 1
        self._count()

    def _kept(self, tile: TilePath) -> bytes:
        try:
            return (self._folder / str(tile)).read_bytes()
        except FileNotFoundError:
            return b""

    def _count(self) -> None:
        self.done += 1
        self._progress(self.done, self._total)

    # --- checking ----------------------------------------------------------------------------
    def _is_tile(self, tile: TilePath, data: bytes) -> bool:
        if len(data) != _WIDTH * merkle.HASH_SIZE:
            return False
        return merkle.tile_root(data) == self._hash((tile.level or 0) + 1, tile.index)

    def _is_bundle(self, tile: TilePath, data: bytes) -> bool:
        first = tile.index * _WIDTH
        leaves = [merkle.leaf_hash(entry) for entry in _split(data)]
        return leaves == [self._hash(0, first + place) for place in range(tile.width)]

    def _hash(self, level: int, place: int) -> bytes:
        """Return hash number *place* of *level* out of a tile that was taken before."""
        index, at = divmod(place, _WIDTH)
        hashes = self._head.size >> (merkle.TILE_HEIGHT * level)
        tile = TilePath(level, index, min(_WIDTH, hashes - index * _WIDTH))
        if self._last is None or self._last[0] != tile:
            self._last = (tile, self._kept(tile))
        return self._last[1][at * merkle.HASH_SIZE : (at + 1) * merkle.HASH_SIZE]


def _split(bundle: bytes) -> Iterator[bytes]:
    """Yield the entries of a bundle; what is cut short yields something that hashes otherwise."""
    at = 0
    while at < len(bundle):
        size = int.from_bytes(bundle[at : at + _LENGTH_SIZE], "big")
        at += _LENGTH_SIZE
        entry = bundle[at : at + size]
        yield entry if len(entry) == size else b""
        at += size


def _unfit(path: str) -> ProofError:
    return ProofError(
        f"{path} of this node's log does not verify; nothing was made of the export",
        fix="run: picket log verify",
    )


# --- writing ---------------------------------------------------------------------------------
def _write(file: Path, data: bytes) -> None:
    """Put a whole file in place, or none."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = file.with_name(file.name + _NEW)
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:  # noqa: PTH123  a handle
        opened.write(data)
    fresh.replace(file)


def _sweep(folder: Path, size: int, *, entries: bool) -> None:
    """Remove the partial tiles of earlier checkpoints, and what was left half-written."""
    wanted = {str(tile) for tile in tiles_of(size, entries=entries) if tile.width != _WIDTH}
    for file in list((folder / _TILES).rglob("*")):
        path = file.relative_to(folder).as_posix()
        if path.endswith(_NEW) or (_is_partial(path) and path not in wanted):
            file.unlink()
        if file.parent.suffix == ".p" and not any(file.parent.iterdir()):
            file.parent.rmdir()


def _is_partial(path: str) -> bool:
    try:
        return parse_tile_path(path).width != _WIDTH
    except NotFoundError:
        return False
