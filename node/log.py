"""The verifiable log in node.db: entries, tiles and signed checkpoints, grown in transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from keys.identity import Random, ServiceKeys
from node.store import Store
from protocol import merkle
from protocol.canonical import encode
from protocol.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint
from protocol.entry import BLIND_SIZE, EntryKind, local_digest, make_entry, parse_entry
from protocol.errors import LogCorruptionError, PeerError, ProofError
from protocol.frames import SHORT_ID, ReceiptItem, Receipts, Run, Runs

_CHECKPOINTS_KEPT: Final = 64
_MEMO_MAX: Final = 65_536  # hashes, about 12 MB


@dataclass(frozen=True, slots=True)
class Act:
    """Something to log: its kind, its subject and what only we know of it."""

    kind: EntryKind
    subject: bytes
    local: Sequence[object] = ()


class _Tiles:
    """Reads tiles from node.db for ``protocol.merkle``; the right edge is kept in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._edge: dict[int, tuple[int, bytes]] = {}  # of each level: tile index, its hashes

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        """Return the stored bytes of each tile in *keys*."""
        return {(level, index): self._read(level, index) for level, index in keys}

    def _read(self, level: int, index: int) -> bytes:
        at, data = self._edge.get(level, (-1, b""))
        if at == index:
            return data
        stored: bytes | None = self._store.scalar(
            "SELECT data FROM tiles WHERE level = ? AND idx = ?", level, index
        )
        if stored is None:
            raise LogCorruptionError(f"tile {level}/{index} of the log is missing")
        return stored

    def write(self, tiles: Sequence[tuple[int, int, bytes]]) -> None:
        """Store *tiles*, in the order of their levels and indexes."""
        self._store.insert_all(
            "tiles",
            [{"level": level, "idx": index, "data": data} for level, index, data in tiles],
            replace=True,
        )
        self._edge.update({level: (index, data) for level, index, data in tiles})

    def forget(self) -> None:
        """Forget what is kept in memory."""
        self._edge.clear()


class _Rebuilt:
    """Makes the tiles anew, leaf by leaf, and compares each with the stored one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._edges: list[tuple[int, bytearray]] = []  # of each level: tile index, its hashes
        self._tiles = 0

    def add(self, leaf: bytes) -> None:
        """Take the next leaf hash."""
        level, value = 0, leaf
        while True:
            if level == len(self._edges):
                self._edges.append((0, bytearray()))
            index, edge = self._edges[level]
            edge += value
            if len(edge) < merkle.TILE_WIDTH * merkle.HASH_SIZE:
                return
            self._compare(level, index, bytes(edge))
            self._edges[level] = (index + 1, bytearray())
            level, value = level + 1, merkle.tile_root(bytes(edge))

    def finish(self) -> None:
        """Compare the right edge, and see that there is no tile besides."""
        for level, (index, edge) in enumerate(self._edges):
            if edge:
                self._compare(level, index, bytes(edge))
        if self._store.scalar("SELECT count(*) FROM tiles") != self._tiles:
            raise LogCorruptionError("the log has tiles that belong to no entry")

    def _compare(self, level: int, index: int, data: bytes) -> None:
        stored = self._store.scalar(
            "SELECT data FROM tiles WHERE level = ? AND idx = ?", level, index
        )
        if stored != data:
            raise LogCorruptionError(f"tile {level}/{index} differs from the entries it stands for")
        self._tiles += 1


class Log:
    """One node's log. Call ``append`` and then ``seal`` inside one transaction."""

    def __init__(
        self, store: Store, *, keys: ServiceKeys, origin: str, random: Random, node_id: bytes
    ) -> None:
        """Open the log; only the size is read."""
        self._store = store
        self._keys = keys
        self._random = random
        self._node_id = node_id
        self._tiles = _Tiles(store)
        self._memo: merkle.Memo = {}
        self._size: int | None = None
        # The newest checkpoint if it may not be stored yet: size, note, when.
        self._newest: tuple[int, bytes, int] | None = None
        self._is_stored = False
        self.origin = origin

    def forget(self) -> None:
        """Forget all that is not in the database: a transaction was undone."""
        self._memo.clear()
        self._tiles.forget()
        self._size = None
        self._is_stored = False

    @property
    def size(self) -> int:
        """Number of entries."""
        if self._size is None:
            self._size = int(self._store.scalar("SELECT coalesce(max(idx) + 1, 0) FROM entries"))
        return self._size

    @property
    def signed_size(self) -> int:
        """Number of entries under the newest signed checkpoint."""
        if self._newest is not None:
            return self._newest[0]
        return int(self._store.scalar("SELECT coalesce(max(size), 0) FROM checkpoints"))

    def append(self, acts: Sequence[Act]) -> range:
        """Append one entry per act and return their indexes. Call inside a transaction."""
        first = self.size
        rows, leaves = [], []
        for index, act in enumerate(acts, start=first):
            local, local_blind = encode(list(act.local)), self._random(BLIND_SIZE)
            entry = make_entry(
                act.kind,
                act.subject,
                local_commitment=local_digest(local, local_blind),
                blind=self._random(BLIND_SIZE),
            )
            leaves.append(merkle.leaf_hash(entry))
            rows.append(
                {
                    "idx": index, "kind": int(act.kind), "entry": entry, "local": local,
                    "local_blind": local_blind,
                }
            )  # fmt: skip
        if len(self._memo) > _MEMO_MAX:
            self._memo.clear()
        try:
            tiles = merkle.grow(size=first, new_leaves=leaves, reader=self._tiles)
        except ProofError as error:
            raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None
        self._store.insert_all("entries", rows)
        self._tiles.write(tiles)
        self.keep()
        self._size = first + len(acts)
        return range(first, first + len(acts))

    def seal(self, now: int) -> Checkpoint:
        """Sign the present tree head, whose entries are stored.

        It is stored with the next entry, or by ``keep``. If a crash comes before, the same head
        is signed once more; the fence sees to it that it is the same.
        """
        checkpoint = Checkpoint(self.origin, self.size, self.root())
        note = sign_checkpoint(
            checkpoint,
            ed25519=self._keys.log_ed25519,
            mldsa44=self._keys.log_mldsa44,
            now_s=now // 1000,
        )
        self._newest, self._is_stored = (checkpoint.size, note, now), False
        return checkpoint

    def keep(self) -> None:
        """Store the newest checkpoint. Call inside a transaction."""
        if self._newest is None or self._is_stored:
            return
        size, note, at = self._newest
        self._store.insert("checkpoints", {"size": size, "note": note, "at": at}, replace=True)
        # One takes 4 KiB; old ones are implied by newer ones and live on in the peers' receipts.
        self._store.run(
            "DELETE FROM checkpoints WHERE size <= "
            "(SELECT size FROM checkpoints ORDER BY size DESC LIMIT 1 OFFSET ?)",
            _CHECKPOINTS_KEPT,
        )
        self._is_stored = True

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first *size* entries (all by default).

        Raises:
            LogCorruptionError: a tile is missing or too narrow.
        """
        try:
            return merkle.root(self.size if size is None else size, self._tiles, self._memo)
        except ProofError as error:
            raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None

    def checkpoint(self) -> tuple[int, bytes]:
        """Return size and signed note of the newest checkpoint.

        Raises:
            LogCorruptionError: there is none.
        """
        if self._newest is not None:
            return self._newest[:2]
        row = self._store.row("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1")
        if row is None:
            raise LogCorruptionError("the log has no signed checkpoint")
        return row["size"], row["note"]

    def entry(self, index: int) -> bytes:
        """Return the bytes of entry *index*."""
        entry: bytes = self._store.scalar("SELECT entry FROM entries WHERE idx = ?", index)
        return entry

    def prove(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the inclusion proof of entry *index* in the first *size* entries.

        Raises:
            LogCorruptionError: a tile is missing or too narrow.
        """
        try:
            return merkle.prove_inclusion(index, size, self._tiles, self._memo)
        except ProofError as error:
            raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None

    def receipts(self, items: Sequence[tuple[bytes, int]]) -> Receipts:
        """Return receipts for (envelope id, log index) pairs under the newest checkpoint."""
        size, note = self.checkpoint()
        return Receipts(
            self._node_id,
            note,
            tuple(
                ReceiptItem(envelope_id, index, self.entry(index), self.prove(index, size))
                for envelope_id, index in items
            ),
        )

    def runs(self, items: Sequence[tuple[bytes, int]]) -> Runs:
        """Return receipts in bulk for (envelope id, log index) pairs, the ids in short."""
        size, note = self.checkpoint()
        runs = []
        for first, ids in _consecutive(items):
            last = first + len(ids) - 1
            rows = self._store.rows(
                "SELECT kind, entry FROM entries WHERE idx BETWEEN ? AND ? ORDER BY idx",
                first, last,
            )  # fmt: skip
            entries = [parse_entry(row["entry"]) for row in rows]
            # Neighbours of two kinds, received and carried, are runs of their own.
            for low, high in _alike([row["kind"] for row in rows]):
                runs.append(
                    Run(
                        first + low,
                        rows[low]["kind"],
                        tuple(each[:SHORT_ID] for each in ids[low:high]),
                        tuple(e.local_digest + e.blind for e in entries[low:high]),
                        self._prove_run(first + low, first + high - 1, size),
                    )
                )
        return Runs(self._node_id, note, tuple(runs))

    def _prove_run(self, first: int, last: int, size: int) -> tuple[bytes, ...]:
        try:
            return merkle.prove_run(first, last, size, self._tiles, self._memo)
        except ProofError as error:
            raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None

    def verify(self, progress: Callable[[int], None] | None = None) -> int:
        """Rebuild the tree from every entry and compare it with every stored checkpoint and tile.

        Returns:
            The number of entries checked.

        Raises:
            LogCorruptionError: an entry, tile or checkpoint does not fit; names which.
        """
        checkpoints = self._verified_checkpoints()
        size = self.size
        newest = max(checkpoints, default=-1)
        if newest != size:
            raise LogCorruptionError(f"{max(newest, 0)} entries were signed, but there are {size}")
        checkpoints.pop(0, None)
        tiles = _Rebuilt(self._store)
        count = 0
        peaks: list[tuple[int, bytes]] = []  # (leaves, hash) of perfect subtrees, left to right
        for count, (index, entry) in enumerate(self._entries(), start=1):
            if index != count - 1:
                raise LogCorruptionError(f"entry {count - 1} of the log is missing")
            leaf = merkle.leaf_hash(entry)
            _push(peaks, leaf)
            root = checkpoints.pop(count, None)
            if root is not None and root != _root(peaks):
                raise LogCorruptionError(f"the log differs from its checkpoint of size {count}")
            tiles.add(leaf)
            if progress is not None:
                progress(count)
        if checkpoints or count != size:
            raise LogCorruptionError(f"{size} entries were signed, but there are {count}")
        tiles.finish()
        return count

    def _entries(self) -> Iterator[tuple[int, bytes]]:
        following = -1
        while rows := self._store.rows(
            "SELECT * FROM entries WHERE idx > ? ORDER BY idx LIMIT 1000", following
        ):
            for row in rows:
                self._check(row)
                yield row["idx"], row["entry"]
            following = rows[-1]["idx"]
        if self._store.scalar("SELECT 1 FROM entries WHERE idx < 0"):
            raise LogCorruptionError("the log has an entry before its first one")

    @staticmethod
    def _check(row: Mapping[str, Any]) -> None:
        """Check what only this node knows of an entry against what the entry commits to."""
        index = row["idx"]
        try:
            entry = parse_entry(row["entry"])
        except PeerError as error:
            raise LogCorruptionError(f"entry {index} of the log is damaged: {error}") from None
        opening = local_digest(row["local"], row["local_blind"])
        if (entry.kind, entry.local_digest) != (row["kind"], opening):
            raise LogCorruptionError(f"the record beside log entry {index} was changed")

    def _verified_checkpoints(self) -> dict[int, bytes]:
        keys = self._keys.log_keys(self.origin)
        roots = {}
        rows = self._store.rows("SELECT size, note FROM checkpoints")
        if self._newest is not None and not self._is_stored:
            rows.append({"size": self._newest[0], "note": self._newest[1]})
        for row in rows:
            try:
                checkpoint = verify_checkpoint(
                    row["note"], origin=keys.name, ed25519=keys.ed25519, mldsa44=keys.mldsa44
                )
            except PeerError as error:
                raise LogCorruptionError(
                    f"the checkpoint of size {row['size']} does not verify: {error}"
                ) from None
            if checkpoint.size != row["size"]:
                raise LogCorruptionError(f"the checkpoint of size {row['size']} was moved")
            roots[checkpoint.size] = checkpoint.root
        return roots


def _consecutive(items: Sequence[tuple[bytes, int]]) -> list[tuple[int, list[bytes]]]:
    """Group (id, index) pairs whose indexes follow one another; return first index and ids."""
    groups: list[tuple[int, list[bytes]]] = []
    for envelope_id, index in items:
        if groups and groups[-1][0] + len(groups[-1][1]) == index:
            groups[-1][1].append(envelope_id)
        else:
            groups.append((index, [envelope_id]))
    return groups


def _alike(kinds: Sequence[int]) -> list[tuple[int, int]]:
    """Return the half-open stretches of equal *kinds*."""
    bounds = [0, *(i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]), len(kinds)]
    return list(pairwise(bounds))


def _push(peaks: list[tuple[int, bytes]], leaf: bytes) -> None:
    peaks.append((1, leaf))
    while len(peaks) > 1 and peaks[-1][0] == peaks[-2][0]:
        (count, right), (_, left) = peaks.pop(), peaks.pop()
        peaks.append((2 * count, merkle.node_hash(left, right)))


def _root(peaks: Sequence[tuple[int, bytes]]) -> bytes:
    root = peaks[-1][1]
    for _, left in reversed(peaks[:-1]):
        root = merkle.node_hash(left, root)
    return root
