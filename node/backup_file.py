"""The one file of a backup: a short head, and everything else encrypted as one stream.

    file   = "picket/backup/1" LF | u8 sheets (1 or 2) | salt (32) | Cobblestone-256 of the stream
    stream = for each file: record [1, name, size] | its bytes | record [2, SHA-256]
             at the end:    record [3, what ``About`` holds, number of files, their bytes]
    record = u32 length | canonical array

- The key is that of ``keys.paper``; the context is the head. So each changed byte is noticed, and
  that nothing was cut off; nothing that was read counts before the end has verified.
- The records alone, one behind the other, are the manifest. Its digest stands in the log.
- Only names that a home has are taken, so no backup can write elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from cryptography.exceptions import InvalidTag

from keys.identity import Random
from keys.paper import SALT_SIZE, SECRET_SIZE, PaperCode, backup_key, join_codes, make_codes
from node.blobfile import sync_folder
from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.errors import (
    BackupError,
    BusyError,
    ConfigError,
    ConflictError,
    DecodeError,
    PeerError,
    PicketError,
)
from protocol.shape import array, octets, text, uint

MAGIC: Final = b"picket/backup/1\n"
_HEAD: Final = len(MAGIC) + 1 + SALT_SIZE
_LENGTH: Final = 4
_PIECE: Final = 256 * 1024
_FILE, _DIGEST, _END = 1, 2, 3
_ID: Final = 16
_FACTS: Final = 12
ALONE: Final = (
    "picket.toml", "witness-policy", "directory", "keystore", "sealing", "message", "service.key",
    "tls.pem", "fence", "node.db", "case.db", "case.db-wal",
)  # fmt: skip
"""Files of a home that a backup may hold, besides those in the folders ``tls`` and ``attachments``.
"""
NEEDED: Final = ("picket.toml", "keystore", "service.key", "tls.pem", "fence", "node.db")
_IN_FOLDERS: Final = re.compile(r"tls/[0-9a-f]{1,64}\.pem|attachments/[0-9a-f]{64}-[0-9a-f]{1,8}")
Sink = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class About:
    """What a backup says of itself."""

    backup_id: bytes
    node_id: bytes
    authority: str
    country: str
    network: str
    made_at: int
    origin: str
    log_size: int
    log_root: bytes
    statement: int
    version: str
    attachments: bool


@dataclass(frozen=True, slots=True)
class Item:
    """One file in a backup."""

    name: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a backup holds, verified to its last byte; *manifest* is the digest of that."""

    about: About
    items: tuple[Item, ...]
    manifest: bytes

    def item(self, name: str) -> Item | None:
        """Return the file *name*."""
        return next((item for item in self.items if item.name == name), None)


def allowed(name: str) -> bool:
    """Whether a backup may hold a file of that name."""
    return name in ALONE or _IN_FOLDERS.fullmatch(name) is not None


class _Records:
    """The digest over all records of a backup."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256(suite.label("backup-manifest"))

    def add(self, record: bytes) -> bytes:
        """Count *record* in and return it with its length."""
        framed = len(record).to_bytes(_LENGTH, "big") + record
        self._digest.update(framed)
        return framed

    def digest(self) -> bytes:
        return self._digest.digest()


# --- writing ---------------------------------------------------------------------------------
class BackupWriter:
    """Seals files into *file*, one after the other."""

    def __init__(self, file: BinaryIO, secret: bytes, salt: bytes, *, halves: bool) -> None:
        """Write the head."""
        head = MAGIC + bytes([2 if halves else 1]) + salt
        self._file = file
        self._seal = suite.encryptor(backup_key(secret, salt), head)
        self._records = _Records()
        self._items: list[Item] = []
        file.write(head)

    def add(self, name: str, size: int, source: BinaryIO) -> Item:
        """Seal the *size* bytes of *source* under *name*.

        Raises:
            BusyError: it has fewer bytes by now.
        """
        if not allowed(name):
            raise ValueError(f"{name} is no file of a home")
        self._record([_FILE, name, size])
        digest, left = hashlib.sha256(), size
        while left:
            piece = source.read(min(_PIECE, left))
            if not piece:
                raise BusyError(f"{name} became shorter while it was read", fix="try again")
            digest.update(piece)
            self._write(piece)
            left -= len(piece)
        self._record([_DIGEST, digest.digest()])
        self._items.append(Item(name, size, digest.digest()))
        return self._items[-1]

    def finish(self, about: About) -> Contents:
        """Seal what is said of the whole, and end."""
        total = sum(item.size for item in self._items)
        self._record([_END, *astuple(about), len(self._items), total])
        self._file.write(self._seal.finalize())
        return Contents(about, tuple(self._items), self._records.digest())

    def _record(self, value: Sequence[object]) -> None:
        self._write(self._records.add(encode(list(value))))

    def _write(self, data: bytes) -> None:
        self._file.write(self._seal.update(data))


def fresh_codes(random: Random, *, halves: bool) -> tuple[bytes, bytes, tuple[PaperCode, ...]]:
    """Return a new secret, a new salt, and the codes that stand for the secret."""
    secret, salt = random(SECRET_SIZE), random(SALT_SIZE)
    return secret, salt, make_codes(secret, salt, pad=random(SECRET_SIZE) if halves else None)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file that becomes *path* once the block has ended and all of it is durable.

    Raises:
        ConflictError: *path* exists.
        BusyError, ConfigError: the disk is full, or *path* cannot be written; nothing is left.
    """
    check_new(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        handle = os.open(temporary, flags, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _name(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        sync_folder(path.absolute().parent)
    except OSError as error:
        raise disk_error(f"{path} cannot be written", error) from None


def disk_error(what: str, error: OSError) -> PicketError:
    """Return *error*, met while a file outside the home was written, in one line."""
    message = f"{what}: {error.strerror}; nothing was left there"
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return BusyError(message, fix="free some space, or choose another place")
    return ConfigError(message, fix="choose another place")


def _name(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)  # unlike a rename it never replaces what came meanwhile
    except FileExistsError:
        check_new(path)
        raise
    except OSError:  # a file system without links
        check_new(path)
        temporary.rename(path)


def check_new(path: Path) -> None:
    """Check that nothing is at *path*.

    Raises:
        ConflictError: something is.
    """
    if os.path.lexists(path):
        raise ConflictError(
            f"{path} exists; nothing was changed", fix="choose a new name for each backup"
        )


# --- reading ---------------------------------------------------------------------------------
class _Plain:
    """The decrypted stream."""

    def __init__(self, file: BinaryIO, key: bytes, head: bytes) -> None:
        self._file, self._open = file, suite.decryptor(key, head)
        self._waiting, self._at, self._ended = b"", 0, False

    def read(self, most: int) -> bytes:
        """Return 1 to *most* bytes; none at the end, which has verified then."""
        while self._at == len(self._waiting):
            if self._ended:
                return b""
            self._waiting, self._at = self._more(), 0
        piece = self._waiting[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def _more(self) -> bytes:
        with _readable("the backup"):
            sealed = self._file.read(_PIECE)
        self._ended = not sealed
        try:
            return self._open.update(sealed) if sealed else self._open.finalize()
        except (InvalidTag, ValueError):
            raise BackupError(
                "the backup does not open: the code is wrong, or the file is damaged",
                fix="compare file and sheet; if both are right, take another copy of the file",
            ) from None

    def exactly(self, size: int) -> bytes:
        """Return *size* bytes."""
        data = bytearray()
        while len(data) < size:
            piece = self.read(size - len(data))
            if not piece:
                raise DecodeError("it ends too early")
            data += piece
        return bytes(data)


def read_head(path: Path) -> tuple[bytes, bool]:
    """Return the salt of a backup, and whether it needs two sheets.

    Raises:
        BackupError: it is no backup of this version.
        ConfigError: it cannot be read.
    """
    with _opened(path) as file:
        return _head(path, file.read(_HEAD))


def _head(path: Path, head: bytes) -> tuple[bytes, bool]:
    if len(head) != _HEAD or not head.startswith(MAGIC) or head[len(MAGIC)] not in {1, 2}:
        raise BackupError(
            f"{path} is no backup of Picket, or of another version", fix="name the right file"
        )
    return head[-SALT_SIZE:], head[len(MAGIC)] == 2  # noqa: PLR2004  sheets


def _opened(path: Path) -> BinaryIO:
    with _readable(str(path)):
        return path.open("rb")


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{what} cannot be read: {error.strerror}", fix="check the path and its permissions"
        ) from None


def read_backup(
    path: Path, codes: Sequence[PaperCode], sink: Callable[[Item], Sink | None]
) -> Contents:
    """Decrypt and verify all of a backup.

    Args:
        path: of the file.
        codes: on its sheets.
        sink: is told of each file, without its digest yet, and returns where its bytes go; the
            digest is verified in any case.

    Raises:
        RequestError: a sheet is missing or of another backup.
        BackupError: it does not open, or is damaged.
        ConfigError: it cannot be read.
    """
    with _opened(path) as file:
        head = file.read(_HEAD)
        salt, halves = _head(path, head)
        key = backup_key(join_codes(codes, salt, halves=halves), salt)
        try:
            return _read_stream(_Plain(file, key, head), sink)
        except PeerError as error:  # it was sealed so: no file of this program
            raise BackupError(
                f"{path} was not written by Picket: {error.message}", fix="name the right file"
            ) from None


def _read_stream(plain: _Plain, sink: Callable[[Item], Sink | None]) -> Contents:
    records, items = _Records(), dict[str, Item]()
    while True:
        fields = _next(plain, records)
        if fields[0] == _END:
            break
        if len(items) == limits.MAX_BACKUP_FILES:
            raise DecodeError("it holds too many files")
        item = _parse_file(fields)
        if item.name in items or not allowed(item.name):
            raise DecodeError(f"it holds {item.name!r}, which it may not")
        digest = _copy(plain, item.size, sink(item))
        end = array(_next(plain, records), "backup.digest", size=2)
        if end[0] != _DIGEST or octets(end[1], "backup.sha256", size=32) != digest:
            raise DecodeError(f"{item.name} is not what was backed up")
        items[item.name] = Item(item.name, item.size, digest)
    about = _parse_end(fields, items)
    if plain.read(1):
        raise DecodeError("something follows its end")
    return Contents(about, tuple(items.values()), records.digest())


def _next(plain: _Plain, records: _Records) -> list[Value]:
    size = int.from_bytes(plain.exactly(_LENGTH), "big")
    if not 0 < size <= limits.MAX_BACKUP_RECORD:
        raise DecodeError("a record has an impossible length")
    data = plain.exactly(size)
    records.add(data)
    value = decode(data, max_bytes=limits.MAX_BACKUP_RECORD)
    if not isinstance(value, list) or not value:
        raise DecodeError("a record is no array")
    return value


def _copy(plain: _Plain, size: int, sink: Sink | None) -> bytes:
    digest = hashlib.sha256()
    while size:
        piece = plain.read(min(size, _PIECE))
        if not piece:
            raise DecodeError("it ends too early")
        digest.update(piece)
        if sink is not None:
            sink(piece)
        size -= len(piece)
    return digest.digest()


def _parse_file(fields: list[Value]) -> Item:
    row = array(fields, "backup.file", size=3)
    if row[0] != _FILE:
        raise DecodeError("a file is missing its name")
    name = text(row[1], "backup.name", maximum=limits.MAX_NAME)
    return Item(name, uint(row[2], "backup.size", maximum=limits.MAX_BACKUP_FILE), b"")


def _parse_end(fields: list[Value], items: dict[str, Item]) -> About:
    row = array(fields, "backup.about", size=_FACTS + 3)
    if type(row[12]) is not bool:
        raise DecodeError("backup.attachments is not true or false")
    about = About(
        backup_id=octets(row[1], "backup.id", size=_ID),
        node_id=octets(row[2], "backup.node_id", size=32),
        authority=text(row[3], "backup.authority"),
        country=text(row[4], "backup.country"),
        network=text(row[5], "backup.network"),
        made_at=uint(row[6], "backup.made_at"),
        origin=text(row[7], "backup.origin"),
        log_size=uint(row[8], "backup.log_size"),
        log_root=octets(row[9], "backup.log_root", size=32),
        statement=uint(row[10], "backup.statement"),
        version=text(row[11], "backup.version"),
        attachments=row[12],
    )
    total = sum(item.size for item in items.values())
    if (row[13], row[14]) != (len(items), total):
        raise DecodeError("it holds other files than it says")
    if missing := sorted(set(NEEDED) - set(items)):
        raise DecodeError(f"it lacks {missing[0]}")
    return about
