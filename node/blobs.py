"""Attachments on disk: encrypted blobs in one folder, whole or on their way in.

    <id>-<padded>         a whole blob: its chunks, then its tree
    <id>-<padded>.part    the same layout with holes: a download
    <random>.put          a file that is being encrypted; worth nothing after a crash

- A file gets its final name only after it was synced, so what is served is whole. A download that
  was cut is taken up again by judging each chunk against the proof that was stored beside it, and
  nothing else is believed: a torn, lost or rotten chunk is simply missing.
- Every chunk is judged again before it is served: a rotten disk must not make us look dishonest. A
  whole blob that fails becomes a download, so only what rotted is fetched again.
- The key is nowhere in here, and a file is never on disk in clear, except where the operator asks.
- All of it blocks: call it from threads. Methods may be called from several threads at once, a
  ``Writer`` from one at a time.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from node.blobfile import (
    Download,
    Reading,
    check_digest,
    check_free,
    chunk_at,
    create,
    create_reserved,
    disk,
    file_size,
    is_whole,
    name_of,
    parse_name,
    part_of,
    read_chunk,
    reserve,
    sync_folder,
    target_of,
    write_at,
)
from protocol import blob as pure
from protocol.blob import BLOB_CHUNK, Blob, BlobRef, ChunkCipher
from protocol.errors import (
    BlobStoreError,
    BusyError,
    ConfigError,
    DigestError,
    NotFoundError,
    OpenError,
    PeerError,
    RequestError,
    TooLargeError,
)
from protocol.limits import MAX_BLOB_STORE, MAX_DOWNLOADS, MIN_DISK_FREE, SYNC_CHUNKS
from protocol.merkle import HASH_SIZE


class Source(Protocol):
    """Whatever a file can be read from."""

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes; none at the end."""
        ...


# --- files on their way in -------------------------------------------------------------------
class Writer:
    """Encrypts one file of a known size, piece by piece; use it as a context manager."""

    def __init__(self, store: BlobStore, size: int, key: bytes) -> None:
        self._store = store
        self._key = key
        self._cipher = ChunkCipher(key, size)
        self._hash = hashlib.sha256()
        self._leaves: list[bytes] = []
        self._rest = bytearray()
        self._taken = 0
        self._name = f"{secrets.token_hex(16)}.put"
        nodes = pure.tree_nodes(self._cipher.count)
        encrypted = self._cipher.padded + self._cipher.count * pure.BLOB_TAG
        self._handle: int | None = store._make(self._name, encrypted + nodes * HASH_SIZE)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    def write(self, data: bytes) -> None:
        """Take the next bytes of the file.

        Raises:
            RequestError: the file is longer than was said.
            BusyError: the disk is full.
            BlobStoreError: the disk fails.
        """
        if self._handle is None:
            raise ValueError("the writer is closed")
        self._taken += len(data)
        if self._taken > self._cipher.size:
            raise RequestError(
                f"the file is longer than the {self._cipher.size} bytes that were announced",
                fix="send its exact size, and do not change it meanwhile",
            )
        self._hash.update(data)
        self._rest += data
        while len(self._rest) >= BLOB_CHUNK:
            self._put(bytes(self._rest[:BLOB_CHUNK]))
            del self._rest[:BLOB_CHUNK]

    def _put(self, plaintext: bytes) -> None:
        if self._handle is None:
            raise ValueError("the writer is closed")
        index = len(self._leaves)
        data = self._cipher.seal(index, plaintext)
        try:
            with disk("the attachment cannot be stored"):
                write_at(self._handle, data, chunk_at(index))
        except BaseException:
            self.abort()  # a second attempt could seal other bytes under the same nonce
            raise
        self._leaves.append(pure.chunk_hash(self._cipher.padded, data))

    def finish(self, *, sha256: bytes | None = None) -> BlobRef:
        """Make the blob durable and visible; return what the record must say of it.

        Args:
            sha256: the digest that the file must have, if the sender named one.

        Raises:
            RequestError: the file is shorter than was said.
            DigestError: it has another digest.
            BusyError: the disk is full.
            BlobStoreError: the disk fails.
        """
        cipher, found = self._cipher, self._hash.digest()
        if self._taken != cipher.size:
            raise RequestError(
                f"the file ended after {self._taken} of {cipher.size} bytes", fix="send it again"
            )
        if sha256 not in {None, found}:
            raise DigestError(
                "the file does not have the SHA-256 that was named", fix="send it again"
            )
        if self._rest:
            self._put(bytes(self._rest))
            self._rest.clear()
        while len(self._leaves) < cipher.count:
            self._put(b"")
        blob_id, nodes = pure.grow_tree(self._leaves)
        blob = Blob(blob_id, cipher.padded)
        with disk("the attachment cannot be stored"):
            assert self._handle is not None  # noqa: S101  _put wrote to it
            write_at(self._handle, nodes, blob.encrypted)
            os.fsync(self._handle)
        self._store._settle(self._name, blob)
        self._close()
        return BlobRef(id=blob_id, key=self._key, size=cipher.size, sha256=found)

    def abort(self) -> None:
        """Drop what was taken so far; does nothing after ``finish``."""
        if self._handle is not None:
            self._close()
            self._store._drop(self._name)

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


# --- the store -------------------------------------------------------------------------------
class BlobStore:
    """One folder of encrypted attachments; only one process may use it."""

    def __init__(
        self,
        folder: Path,
        *,
        quota: int = MAX_BLOB_STORE,
        min_free: int = MIN_DISK_FREE,
        new_key: Callable[[], bytes] = lambda: secrets.token_bytes(32),
    ) -> None:
        """Open or make *folder* and clear away what a crash left of unfinished files.

        Raises:
            ConfigError: others can look into the folder, or it is none.
            BusyError: the disk is full.
            BlobStoreError: it cannot be read or written.
        """
        self.folder = folder
        self.quota = quota
        self._min_free = min_free
        self._new_key = new_key
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._whole: dict[bytes, Blob] = {}
        self._sizes: dict[str, int] = {}
        self._downloads: dict[Blob, Download] = {}
        with disk(f"{folder} cannot be used"):
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.stat()
            if not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
                raise ConfigError(f"other users can look into {folder}", fix=f"chmod 700 {folder}")
            self._scan()

    def _scan(self) -> None:
        for entry in sorted(self.folder.iterdir()):
            if entry.suffix == ".put":
                entry.unlink()
                continue
            parsed = parse_name(entry.name)
            if parsed is None:
                continue
            blob, partial = parsed
            size = entry.lstat().st_size
            if not partial and size == file_size(blob):
                self._whole[blob.id] = blob
            elif not partial:
                entry.replace(self.folder / part_of(blob))
            self._sizes[entry.name if partial or blob.id in self._whole else part_of(blob)] = size
        sync_folder(self.folder)

    def close(self) -> None:
        """Close the files of downloads; what they hold stays."""
        with self._lock:
            open_ones = list(self._downloads)
        for blob in open_ones:
            self.suspend(blob)

    @property
    def used(self) -> int:
        """Bytes of all blobs and downloads, as counted against the quota."""
        with self._lock:
            return sum(self._sizes.values())

    def whole(self) -> tuple[Blob, ...]:
        """Return the blobs that can be served."""
        with self._lock:
            return tuple(self._whole.values())

    def holds(self, blob_id: bytes) -> bool:
        """Whether the blob is here as a whole; no disk is touched."""
        with self._lock:
            return blob_id in self._whole

    def partial(self) -> tuple[Blob, ...]:
        """Return the downloads that are here, open or not."""
        with self._lock:
            parsed = [parse_name(name) for name in self._sizes]
        return tuple(found[0] for found in parsed if found is not None and found[1])

    def _make(self, name: str, size: int) -> int:
        """Create the file *name* with room for *size* bytes, counted against the quota."""
        with disk("the attachment cannot be stored"):
            free = shutil.disk_usage(self.folder).free
        if free < size + self._min_free:
            raise BusyError(
                f"the attachment would leave less than {self._min_free} bytes free on the disk",
                fix="free some space, or delete attachments that are no longer needed",
            )
        with self._lock:
            if sum(self._sizes.values()) + size > self.quota:
                raise BusyError(
                    f"attachments may take {self.quota} bytes; this one does not fit any more",
                    fix="delete attachments that are no longer needed, or raise the bound",
                )
            self._sizes[name] = size
        try:
            with disk("the attachment cannot be stored"):
                return create_reserved(self.folder / name, size)
        except BaseException:
            self._drop(name)
            raise

    def _drop(self, name: str) -> None:
        with disk("an attachment cannot be deleted"):
            (self.folder / name).unlink(missing_ok=True)
        with self._lock:
            self._sizes.pop(name, None)

    def _settle(self, name: str, blob: Blob) -> None:
        """Give the synced file *name* its final name, durably, and serve it from now on."""
        final = name_of(blob)
        with disk("the attachment cannot be stored"):
            with self._lock:
                if name in self._sizes:  # else only the sync of the folder failed before
                    (self.folder / name).replace(self.folder / final)
                    self._sizes[final] = self._sizes.pop(name)
            sync_folder(self.folder)
        with self._lock:
            self._whole[blob.id] = blob

    # --- putting -----------------------------------------------------------------------------
    def writer(self, size: int) -> Writer:
        """Return a writer for a file of exactly *size* bytes, with room for it reserved.

        Raises:
            RequestError: the file is empty.
            TooLargeError: it is larger than 1 GiB.
            BusyError: the quota or the disk has no room.
            BlobStoreError: the disk fails.
        """
        if size < 1:
            raise RequestError("the file is empty", fix="attach a file with content")
        if size > pure.MAX_BLOB:
            raise TooLargeError(
                f"the file has {size} bytes; an attachment may have {pure.MAX_BLOB}",
                fix="split the file, or hand it over in another way",
            )
        return Writer(self, size, self._new_key())

    def put(self, source: Path | Source, *, size: int | None = None) -> BlobRef:
        """Encrypt a file, or a stream of *size* bytes, and keep it; return how to open it.

        Raises:
            RequestError: the file is empty, cannot be read, or is not as long as it was at first.
            TooLargeError: it is larger than 1 GiB.
            BusyError: the quota or the disk has no room.
            BlobStoreError: the disk fails.
        """
        if isinstance(source, Path):
            return self._put_file(source)
        if size is None:
            raise ValueError("a stream needs its size")
        with self.writer(size) as writer:
            while data := source.read(BLOB_CHUNK):
                writer.write(data)
            return writer.finish()

    def _put_file(self, path: Path) -> BlobRef:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise RequestError(
                f"{path} cannot be read: {error.strerror}", fix="check the name and its permissions"
            ) from None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise RequestError(f"{path} is not a plain file", fix="name a plain file")
            return self.put(Reading(handle, path), size=status.st_size)
        finally:
            os.close(handle)

    # --- serving -----------------------------------------------------------------------------
    def chunk(self, blob_id: bytes, index: int) -> tuple[bytes, tuple[bytes, ...]]:
        """Return one encrypted chunk and its proof, judged as the receiver will judge them.

        Raises:
            NotFoundError: the blob is not here as a whole, or has no such chunk.
            BlobStoreError: the disk fails or the chunk is damaged; the blob is no longer served.
        """
        with self._lock:
            blob = self._whole.get(blob_id)
        if blob is None or not 0 <= index < blob.count:
            raise NotFoundError("no such attachment, or no such part of it, is here")
        path = self.folder / name_of(blob)
        with disk("an attachment cannot be read"):
            try:
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                self._lost(blob)
                raise NotFoundError("the attachment was removed") from None
            try:
                data, proof = read_chunk(handle, blob, index)
            finally:
                os.close(handle)
        try:
            pure.verify_chunk(blob, index, data, proof)
        except PeerError:
            self._demote(blob)
            raise BlobStoreError(
                f"{path} is damaged in part {index}",
                fix="check the disk; fetch the attachment again: only what is damaged will travel",
            ) from None
        return data, proof

    def _lost(self, blob: Blob) -> None:
        with self._lock:
            self._whole.pop(blob.id, None)
            self._sizes.pop(name_of(blob), None)

    def _demote(self, blob: Blob) -> None:
        """Turn a whole blob that proved damaged into a download."""
        name, part = name_of(blob), part_of(blob)
        with disk("an attachment cannot be renamed"), self._lock:
            if self._whole.pop(blob.id, None) is not None:
                (self.folder / name).replace(self.folder / part)
                self._sizes[part] = self._sizes.pop(name, file_size(blob))

    # --- fetching ----------------------------------------------------------------------------
    def begin(self, blob: Blob) -> int | None:
        """Begin or take up a download; return the first missing chunk, None if it is whole.

        Taking up reads all that is there: about 2 s for 1 GiB.

        Raises:
            DigestError: the blob is here with another size; the record that named it is wrong.
            BusyError: the quota or the disk has no room, or too many downloads are open.
            BlobStoreError: the disk fails.
        """
        with self._opening:
            while True:
                with self._lock:
                    held, download = self._whole.get(blob.id), self._downloads.get(blob)
                if held is not None and held != blob:
                    raise DigestError("the attachment is not of the size that the record states")
                if held is not None:
                    return None
                download = download or self._open_download(blob)
                with download.lock:
                    if not download.closed:  # else it has just been finished, or failed
                        return self._advance(download)

    def _open_download(self, blob: Blob) -> Download:
        name = part_of(blob)
        if len(self._downloads) >= MAX_DOWNLOADS:
            raise BusyError(
                f"{MAX_DOWNLOADS} attachments are being fetched already",
                fix="wait until one has arrived",
            )
        if name in self._sizes:
            download = self._resume(blob)
        else:
            handle = self._make(name, file_size(blob))
            download = Download(blob, handle, bytearray(blob.count), blob.count)
        with self._lock:
            self._downloads[blob] = download
        return download

    def _resume(self, blob: Blob) -> Download:
        path = self.folder / part_of(blob)
        with disk("a download cannot be taken up"):
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                reserve(handle, file_size(blob))
                have = bytearray(is_whole(handle, blob, i) for i in range(blob.count))
            except BaseException:
                os.close(handle)
                raise
        with self._lock:
            self._sizes[path.name] = file_size(blob)
        # Whether what is there was ever synced is not known.
        return Download(blob, handle, have, have.count(0), unsynced=have.count(1))

    def accept(self, blob: Blob, index: int, data: bytes, proof: Sequence[bytes]) -> int | None:
        """Keep one chunk if it is genuine; return the first missing chunk, None once whole.

        Chunks may come in any order and more than once. None means durable and served.

        Raises:
            NotFoundError: no download of it is open.
            DecodeError: there is no such chunk, or it has another length.
            ProofError: it is not a chunk of this blob; nothing was written.
            BusyError: the disk is full; the chunk is still missing.
            BlobStoreError: the disk fails.
        """
        leaf = pure.verify_chunk(blob, index, data, proof)
        download = self._download(blob)
        with download.lock:
            if download.closed:
                raise NotFoundError("no download of this attachment is open")
            if not download.have[index]:
                self._write(download, index, data, leaf=leaf, proof=proof)
            return self._advance(download)

    def _download(self, blob: Blob) -> Download:
        with self._lock:
            download = self._downloads.get(blob)
        if download is None:
            raise NotFoundError("no download of this attachment is open")
        return download

    def _write(
        self, download: Download, index: int, data: bytes, *, leaf: bytes, proof: Sequence[bytes]
    ) -> None:
        blob = download.blob
        places = (index, *pure.proof_places(index, blob.count))
        with disk("the attachment cannot be stored"):
            write_at(download.handle, data, chunk_at(index))
            for place, value in zip(places, (leaf, *proof), strict=True):
                write_at(download.handle, value, blob.encrypted + HASH_SIZE * place)
        download.have[index] = 1
        download.left -= 1
        download.unsynced += 1

    def _advance(self, download: Download) -> int | None:
        """Sync if it is time; finish if nothing is missing. The download's lock is held."""
        if download.unsynced and (not download.left or download.unsynced >= SYNC_CHUNKS):
            try:
                with disk("the attachment cannot be stored"):
                    os.fsync(download.handle)
            except BaseException:
                # After a failed sync the system may forget what it could not write and show it as
                # good all the same, so nothing in this file can be believed any more.
                self._forget(download)
                self._drop(part_of(download.blob))
                raise
            download.unsynced = 0
        if download.left:
            return download.missing(1)[0]
        self._settle(part_of(download.blob), download.blob)
        self._forget(download)
        return None

    def _forget(self, download: Download) -> None:
        with self._lock:
            self._downloads.pop(download.blob, None)
        download.close()

    def missing(self, blob: Blob, limit: int) -> tuple[int, ...]:
        """Return the first *limit* chunks that an open download lacks.

        Raises:
            NotFoundError: no download of it is open.
        """
        return self._download(blob).missing(limit)

    def suspend(self, blob: Blob) -> None:
        """Close a download and keep what it has; ``begin`` takes it up again."""
        with self._opening:
            self._suspend(blob)

    def _suspend(self, blob: Blob) -> None:
        with self._lock:
            download = self._downloads.pop(blob, None)
        if download is not None:
            with download.lock:
                download.close()

    # --- opening -----------------------------------------------------------------------------
    def read(self, ref: BlobRef, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Return the bytes *start* to *stop* of the file, piece by piece, each chunk verified.

        The SHA-256 of the file is not compared: ``check`` does that.

        Raises:
            NotFoundError: the blob is not here as a whole.
            RequestError: the range is not inside the file.
            OpenError: (now or from a later piece) wrong key or size.
            BlobStoreError: (from any piece) the disk fails or a chunk is damaged.
        """
        stop = ref.size if stop is None else stop
        if not 0 <= start <= stop <= ref.size:
            raise RequestError(f"the range is not inside the {ref.size} bytes of the file")
        with self._lock:
            held = self._whole.get(ref.id)
        if held is None:
            raise NotFoundError("the attachment is not here", fix="fetch it first")
        if held != ref.blob:
            raise OpenError("the attachment does not open")
        return self._pieces(ref, start, stop)

    def _pieces(self, ref: BlobRef, start: int, stop: int) -> Iterator[bytes]:
        cipher = ChunkCipher(ref.key, ref.size)
        for index in range(start // BLOB_CHUNK, -(-stop // BLOB_CHUNK)):
            plaintext = cipher.open(index, self.chunk(ref.id, index)[0])
            at = index * BLOB_CHUNK
            if piece := plaintext[max(0, start - at) : stop - at]:
                yield piece

    def check(self, ref: BlobRef) -> None:
        """Check that the whole blob opens and is the file that the record names.

        Raises:
            DigestError: it opens to another file than the record names.
            NotFoundError, OpenError, BlobStoreError: as for ``read``.
        """
        found = hashlib.sha256()
        for piece in self._whole_file(ref):
            found.update(piece)
        check_digest(ref, found.digest())

    def _whole_file(self, ref: BlobRef) -> Iterator[bytes]:
        """Return all of the file, and judge the chunks that hold nothing but padding."""
        yield from self.read(ref)
        cipher = ChunkCipher(ref.key, ref.size)
        for index in range(-(-ref.size // BLOB_CHUNK), cipher.count):
            cipher.open(index, self.chunk(ref.id, index)[0])

    def open_to(self, ref: BlobRef, target: Path) -> None:
        """Decrypt to the new file *target*, which appears when all of it has verified.

        Raises:
            ConflictError: there is something of that name.
            DigestError: it opens to another file than the record names.
            RequestError: the file cannot be written there.
            NotFoundError, OpenError, BlobStoreError: as for ``read``.
        """
        temporary = target.parent / f".picket-{secrets.token_hex(8)}"
        check_free(target)
        with target_of(target):
            handle = create(temporary)
        try:
            self._decrypt(ref, handle, target)
            check_free(target)
            with target_of(target):
                temporary.replace(target)
                sync_folder(target.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _decrypt(self, ref: BlobRef, handle: int, target: Path) -> None:
        found = hashlib.sha256()
        at = 0
        try:
            for piece in self._whole_file(ref):
                found.update(piece)
                with target_of(target):
                    write_at(handle, piece, at)
                at += len(piece)
            check_digest(ref, found.digest())
            with target_of(target):
                os.fsync(handle)
        finally:
            os.close(handle)

    # --- deleting ----------------------------------------------------------------------------
    def delete(self, blob_id: bytes) -> None:
        """Remove the blob and every download of it; nothing happens if there is none.

        Raises:
            BlobStoreError: the disk fails.
        """
        with self._opening:
            with self._lock:
                open_ones = [each for each in self._downloads if each.id == blob_id]
            for blob in open_ones:
                self._suspend(blob)
            with self._lock:
                self._whole.pop(blob_id, None)
                names = [name for name in self._sizes if name.startswith(f"{blob_id.hex()}-")]
            for name in names:
                self._drop(name)
            if names:
                with disk("an attachment cannot be deleted"):
                    sync_folder(self.folder)
