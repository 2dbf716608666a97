"""The verifiable log in node.db: entries, tiles and signed checkpoints, grown in transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from keys.identity import Random, ServiceKeys
from node.log_check import check_ends, check_log, check_steps
from node.store import Store
from protocol import merkle
from protocol.canonical import encode
from protocol.checkpoint import Checkpoint, sign_again, sign_ed25519, verify_checkpoint
from protocol.entry import BLIND_SIZE, EntryKind, local_digest, make_entry, parse_entry
from protocol.errors import LogCorruptionError, PeerError, ProofError
from protocol.frames import SHORT_ID, ReceiptItem, Receipts, Run, Runs
from protocol.note import NoteSignature

_CHECKPOINTS_KEPT: Final = 64
_KEEP_EVERY: Final = 256
"""Entries after which the newest checkpoint is stored: it takes a page and more of each commit,
and the second signature."""
_MEMO_MAX: Final = 65_536  # hashes, about 14 MB; enough for each lookup in 2,000,000 entries


@dataclass(frozen=True, slots=True)
class Act:
    """Something to log: its kind, its subject and what only we know of it."""

    kind: EntryKind
    subject: bytes
    local: Sequence[object] = ()


@dataclass(frozen=True, slots=True)
class _Head:
    """The newest signed head and when it was signed (ms); the whole note once it was needed."""

    checkpoint: Checkpoint
    first: NoteSignature
    at: int
    note: bytes | None = None


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


class Log:
    """One node's log. Call ``append`` and then ``seal`` inside one transaction."""

    def __init__(
        self,
        store: Store,
        *,
        keys: ServiceKeys,
        origin: str,
        random: Random,
        node_id: bytes,
        before_showing: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the log; only the size is read. A head is given out after *before_showing*."""
        self._store = store
        self._keys = keys
        self._random = random
        self._node_id = node_id
        self._tiles = _Tiles(store)
        self._memo: merkle.Memo = {}
        self._size: int | None = None
        self._newest: _Head | None = None  # which may not be stored yet
        self._is_stored = False
        self._kept_size: int | None = None
        self._before_showing = before_showing
        self.origin = origin

    def forget(self) -> None:
        """Forget all that is not in the database: a transaction was undone."""
        self._memo.clear()
        self._tiles.forget()
        self._size = self._kept_size = None
        self._is_stored = False

    def rename(self, origin: str) -> None:
        """Go on under another name; no head was signed under it yet."""
        self.origin, self._newest, self._is_stored = origin, None, False
        self._kept_size = None

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
            return self._newest.checkpoint.size
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
        try:
            tiles = merkle.grow(size=first, new_leaves=leaves, reader=self._tiles)
        except ProofError as error:
            raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None
        self._store.insert_all("entries", rows)
        self._tiles.write(tiles)
        if self._newest is not None and self.signed_size - self._kept() >= _KEEP_EVERY:
            self.keep()
        self._size = first + len(acts)
        return range(first, first + len(acts))

    def seal(self, now: int) -> Checkpoint:
        """Sign the present tree head, whose entries are stored.

        The second signature, which takes most of the time, is made once somebody asks for the
        head: most heads are overtaken before that. It is stored with an entry to come, or by
        ``keep``. If a crash comes before, the head of what is stored is signed anew; the fence sees
        to it that it contains what was published.
        """
        checkpoint = Checkpoint(self.origin, self.size, self.root())
        first = sign_ed25519(checkpoint, key=self._keys.log_ed25519)
        self._newest, self._is_stored = _Head(checkpoint, first, now), False
        return checkpoint

    def _whole(self, head: _Head) -> tuple[int, bytes]:
        """Return size and note of the newest *head*, with both signatures."""
        note = head.note
        if note is None:
            note = sign_again(
                head.checkpoint, head.first, mldsa44=self._keys.log_mldsa44,
                now_s=head.at // 1000,
            )  # fmt: skip
            self._newest = replace(head, note=note)
        return head.checkpoint.size, note

    def keep(self) -> None:
        """Store the newest checkpoint. Call inside a transaction."""
        if self._newest is None or self._is_stored:
            return
        at, (size, note) = self._newest.at, self._whole(self._newest)
        self._store.insert("checkpoints", {"size": size, "note": note, "at": at}, replace=True)
        # One takes 4 KiB; old ones are implied by newer ones and live on in the peers' receipts.
        self._store.run(
            "DELETE FROM checkpoints WHERE size <= "
            "(SELECT size FROM checkpoints ORDER BY size DESC LIMIT 1 OFFSET ?)",
            _CHECKPOINTS_KEPT,
        )
        self._is_stored, self._kept_size = True, size

    def _kept(self) -> int:
        """Return the size of the largest stored checkpoint."""
        if self._kept_size is None:
            self._kept_size = int(
                self._store.scalar("SELECT coalesce(max(size), 0) FROM checkpoints")
            )
        return self._kept_size

    def root(self, size: int | None = None) -> bytes:
        """Return the root of the first *size* entries (all by default).

        Raises:
            LogCorruptionError: a tile is missing or too narrow.
        """
        try:
            return merkle.root(
                self.size if size is None else size, self._tiles, self._bounded_memo()
            )
        except ProofError as error:
            raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None

    def checkpoint(self) -> tuple[int, bytes]:
        """Return size and signed note of the newest checkpoint, which may leave the node.

        Raises:
            LogCorruptionError: there is none.
        """
        self._before_showing()
        if self._newest is not None:
            return self._whole(self._newest)
        row = self._store.row("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1")
        if row is None:
            raise LogCorruptionError("the log has no signed checkpoint")
        return row["size"], row["note"]

    def entry(self, index: int) -> bytes:
        """Return the bytes of entry *index*."""
        entry: bytes = self._store.scalar("SELECT entry FROM entries WHERE idx = ?", index)
        return entry

    def entries(self, first: int, count: int) -> tuple[bytes, ...]:
        """Return the bytes of *count* entries from *first* on.

        Raises:
            LogCorruptionError: one is missing.
        """
        rows = self._store.rows(
            "SELECT entry FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx",
            first, first + count,
        )  # fmt: skip
        if len(rows) != count:
            raise LogCorruptionError(f"an entry after {first} of the log is missing")
        return tuple(row["entry"] for row in rows)

    def tile(self, level: int, index: int) -> bytes:
        """Return the hashes of one tile, as far as the log has grown.

        Raises:
            LogCorruptionError: it is missing.
        """
        return self._tiles.read_tiles([(level, index)])[level, index]

    def prove(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the inclusion proof of entry *index* in the first *size* entries.

        Raises:
            LogCorruptionError: a tile is missing or too narrow.
        """
        try:
            return merkle.prove_inclusion(index, size, self._tiles, self._bounded_memo())
        except ProofError as error:
            raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None

    def prove_consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the first *new* entries extend the first *old*.

        Raises:
            LogCorruptionError: a tile is missing or too narrow.
        """
        try:
            return merkle.prove_consistency(old, new, self._tiles)
        except ProofError as error:
            raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None

    def prove_prefix(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the path that shows the root of the first *old* of *new* entries.

        Raises:
            LogCorruptionError: a tile is missing or too narrow.
        """
        try:
            return merkle.prove_prefix(old, new, self._tiles)
        except ProofError as error:
            raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None

    def _bounded_memo(self) -> merkle.Memo:
        if len(self._memo) > _MEMO_MAX:
            self._memo.clear()
        return self._memo

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
            return merkle.prove_run(first, last, size, self._tiles, self._bounded_memo())
        except ProofError as error:
            raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None

    def verify(self, progress: Callable[[int], None] | None = None) -> int:
        """Rebuild the tree from every entry and compare it with every stored checkpoint and tile.

        *progress* is told how many entries were checked, again and again and at the end.

        Returns:
            The number of entries checked.

        Raises:
            LogCorruptionError: an entry, tile or checkpoint does not fit; names which.
        """
        heads = self.verified_heads()
        size = self.size
        path = None if self._store.in_transaction else self._store.path
        check_log(self._store.tuples, size, path=path, progress=progress)
        self._check_roots(heads)
        return size

    def verify_steps(self, first: int, size: int) -> Iterator[int]:
        """Check the entries from *first* to before *size*, and the tiles over them, step by step.

        Between the steps the log may grow. ``verify_ends`` follows the last one.

        Args:
            first: a multiple of 256; what the tiles hold of entries before it is taken as it is.
            size: at most that of the log.

        Yields:
            The number of entries up to which all was checked.

        Raises:
            LogCorruptionError: an entry or tile does not fit; names which.
        """
        yield from check_steps(self._store.tuples, first, size)

    def verify_ends(self) -> None:
        """Check that what is signed leads to all stored tiles, and that nothing is left over.

        Raises:
            LogCorruptionError: a checkpoint or tile does not fit; names which.
        """
        heads = self.verified_heads()
        check_ends(self._store.tuples, self.size)
        self._check_roots(heads)

    def verified_heads(self) -> dict[int, bytes]:
        """Verify the signatures of all kept checkpoints; return their roots by size.

        Raises:
            LogCorruptionError: one does not verify, or none is of the whole log.
        """
        heads = self._verified_checkpoints()
        newest = max(heads, default=-1)
        if newest != self.size:
            raise LogCorruptionError(
                f"{max(newest, 0)} entries were signed, but there are {self.size}"
            )
        return heads

    def stored_roots(self) -> Callable[[int], bytes]:
        """Return what gives the root of any size, of the stored tiles and not of our memory.

        It raises a LogCorruptionError if a tile is missing or too narrow.
        """
        stored, memo = _Tiles(self._store), dict[tuple[int, int], bytes]()

        def root(size: int) -> bytes:
            try:
                return merkle.root(size, stored, memo)
            except ProofError as error:
                raise LogCorruptionError(f"the stored tree is damaged: {error.message}") from None

        return root

    def _check_roots(self, heads: Mapping[int, bytes]) -> None:
        root_of = self.stored_roots()
        for size, root in heads.items():
            if root_of(size) != root:
                raise LogCorruptionError(f"the log differs from its checkpoint of size {size}")

    def _verified_checkpoints(self) -> dict[int, bytes]:
        keys = self._keys.log_keys(self.origin)
        roots = {}
        rows = self._store.rows("SELECT size, note FROM checkpoints")
        if self._newest is not None and not self._is_stored:
            size, note = self._whole(self._newest)
            rows.append({"size": size, "note": note})
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
