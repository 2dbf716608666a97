"""The files behind ``node.blobs``: their names and layout, and what can go wrong with them."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from protocol import blob as pure
from protocol.blob import BLOB_CHUNK, Blob, BlobRef
from protocol.errors import (
    BlobStoreError,
    BusyError,
    ConflictError,
    DigestError,
    PeerError,
    RequestError,
)
from protocol.merkle import HASH_SIZE

_NAME: Final = re.compile(r"([0-9a-f]{64})-([0-9a-f]{1,8})(\.part)?")
_FULL: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)
_CANNOT_RESERVE: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


# --- files -----------------------------------------------------------------------------------
@contextmanager
def disk(what: str) -> Iterator[None]:
    """Turn a fault of the disk into BusyError if it is full, else into BlobStoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise BusyError(
                f"{what}: {error.strerror}; nothing was changed",
                fix="free some space, or delete attachments that are no longer needed",
            ) from None
        raise BlobStoreError(
            f"{what}: {error.strerror}", fix="check the disk and its permissions, then try again"
        ) from None


def create(path: Path) -> int:
    """Make the new private file *path* and return its handle."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.open(path, flags, 0o600)


def reserve(handle: int, size: int) -> None:
    """Make room for *size* bytes, so that a full disk is met before the work and not in it."""
    os.ftruncate(handle, size)
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in _CANNOT_RESERVE:
            raise


def create_reserved(path: Path, size: int) -> int:
    """Make the new private file *path* with room for *size* bytes."""
    handle = create(path)
    try:
        reserve(handle, size)
    except BaseException:
        os.close(handle)
        raise
    return handle


def write_at(handle: int, data: bytes, offset: int) -> None:
    """Write all of *data* at *offset*."""
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- the layout of one file ------------------------------------------------------------------
def name_of(blob: Blob) -> str:
    """Return the file name of a whole blob."""
    return f"{blob.id.hex()}-{blob.padded:x}"


def part_of(blob: Blob) -> str:
    """Return the file name of a download."""
    return f"{name_of(blob)}.part"


def parse_name(name: str) -> tuple[Blob, bool] | None:
    """Return the blob that a file called *name* holds and whether it is a download."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    with suppress(PeerError):
        blob = Blob(bytes.fromhex(found[1]), int(found[2], 16))
        return (blob, found[3] is not None) if name.startswith(name_of(blob)) else None
    return None


def file_size(blob: Blob) -> int:
    """Return the bytes of either file."""
    return blob.encrypted + HASH_SIZE * pure.tree_nodes(blob.count)


def chunk_at(index: int) -> int:
    """Return where chunk *index* begins."""
    return index * (BLOB_CHUNK + pure.BLOB_TAG)


def read_chunk(handle: int, blob: Blob, index: int) -> tuple[bytes, tuple[bytes, ...]]:
    """Return chunk *index* and its proof as they are on disk, whatever they are."""
    data = os.pread(handle, blob.length(index), chunk_at(index))
    proof = tuple(
        os.pread(handle, HASH_SIZE, blob.encrypted + HASH_SIZE * place)
        for place in pure.proof_places(index, blob.count)
    )
    return data, proof


def is_whole(handle: int, blob: Blob, index: int) -> bool:
    """Whether chunk *index* is there as it must be."""
    try:
        pure.verify_chunk(blob, index, *read_chunk(handle, blob, index))
    except PeerError:
        return False
    return True


@dataclass(slots=True)
class Download:
    """A file with holes, and which of its chunks are there."""

    blob: Blob
    handle: int
    have: bytearray
    left: int
    unsynced: int = 0
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def missing(self, limit: int) -> tuple[int, ...]:
        """Return the first *limit* chunks that are not there."""
        found: list[int] = []
        at = self.have.find(0)
        while at >= 0 and len(found) < limit:
            found.append(at)
            at = self.have.find(0, at + 1)
        return tuple(found)

    def close(self) -> None:
        """Close the file; nothing if it is closed."""
        if not self.closed:
            self.closed = True
            os.close(self.handle)


# --- files of the operator -------------------------------------------------------------------
class Reading:
    """A file of the operator; its faults are the request's, not those of the store's disk."""

    def __init__(self, handle: int, path: Path) -> None:
        self._handle = handle
        self._path = path

    def read(self, size: int, /) -> bytes:
        """Return up to *size* bytes; none at the end."""
        try:
            return os.read(self._handle, size)
        except OSError as error:
            raise RequestError(
                f"{self._path} cannot be read: {error.strerror}", fix="check the file"
            ) from None


@contextmanager
def target_of(target: Path) -> Iterator[None]:
    """Turn a fault in writing the operator's file *target* into RequestError."""
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"{target} cannot be written: {error.strerror}",
            fix="choose a folder with room where you may write",
        ) from None


def check_free(target: Path) -> None:
    """Check that nothing of the name *target* exists."""
    with target_of(target):
        if os.path.lexists(target):
            raise ConflictError(f"{target} exists", fix="choose another name, or remove it")


def check_digest(ref: BlobRef, found: bytes) -> None:
    """Check that *found* is the digest that the record states."""
    if found != ref.sha256:
        raise DigestError("the attachment is not the file that the record names")
