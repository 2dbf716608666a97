"""Looking into a backup, and making a home of it: all of it, or nothing.

- Both decrypt the whole file and verify each digest, open node.db, and compare the log with its
  signed heads. A look writes node.db alone, to a private folder that is gone afterwards, and of
  case.db nothing is decrypted.
- A home is built apart and then moved, so that a crash leaves no half-made node. The fence is made
  of the log as it was backed up, and node.db is marked: what a restored node must not do, and until
  when, is in ``node.restored``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from keys.identity import ServiceKeys, load_service
from keys.keystore import decrypt, normalise_passphrase
from keys.paper import PaperCode
from node.backup_file import ALONE, About, Contents, Item, Sink, disk_error, read_backup
from node.blobfile import create, sync_folder
from node.fence import Fence
from node.home import Home
from node.log import Log
from node.restored import MARK, TOKENS, Mark
from node.store import Store
from protocol import limits, suite
from protocol.canonical import decode
from protocol.errors import (
    BackupError,
    KeystoreError,
    PeerError,
    StoreError,
    WrongPassphraseError,
)
from protocol.statement import Chain, parse_statement

_DATABASES: Final = frozenset({"node.db", "case.db", "case.db-wal"})
_MAX_SERVICE: Final = 4_096


@dataclass(frozen=True, slots=True)
class Report:
    """What is in a backup, all of it verified."""

    contents: Contents
    entries: int
    peers: tuple[tuple[str, str], ...]
    passphrase_opens: bool | None

    @property
    def about(self) -> About:
        """What it says of itself."""
        return self.contents.about


def verify(path: Path, codes: Sequence[PaperCode], passphrase: bytes | None = None) -> Report:
    """Look into the backup *path*, and touch no home.

    Args:
        path: of the file.
        codes: on its sheets.
        passphrase: of its keystore, to see whether it opens it; may be missing.

    Raises:
        RequestError: a sheet is missing or of another backup.
        BackupError: it is damaged, does not open, or does not hold together.
    """
    with _disk("the temporary folder"), tempfile.TemporaryDirectory(prefix="picket-") as folder:
        into = Path(folder)
        small: dict[str, bytearray] = {}
        with _Writing(into, only=frozenset({"node.db"})) as writing:

            def sink(item: Item) -> Sink | None:
                if item.name in ALONE and item.name not in _DATABASES:
                    _check_small(item)
                    return small.setdefault(item.name, bytearray()).extend
                return writing.sink(item)

            contents = read_backup(path, codes, sink)
        files = {name: bytes(data) for name, data in small.items()}
        entries, peers = _check_database(into / "node.db", contents.about, files["service.key"])
        opens = None if passphrase is None else _opens(files["keystore"], passphrase)
        return Report(contents, entries, peers, opens)


def restore(path: Path, codes: Sequence[PaperCode], home_path: Path, *, now: int) -> Report:
    """Make a home of the backup *path*.

    Args:
        path: of the file.
        codes: on its sheets.
        home_path: a folder that does not exist or is empty.
        now: UTC in ms.

    Raises:
        ConfigError: the folder is in use.
        RequestError: a sheet is missing or of another backup.
        BackupError: it is damaged, does not open, or does not hold together.
        BusyError: the disk is full; nothing was changed.
    """
    home = Home(home_path.absolute())
    exists = home.check_empty()
    name = f".{home.path.name}.{secrets.token_hex(4)}"
    fresh = Home(home.path / name if exists else home.path.with_name(name))
    with _disk(str(home.path)):
        fresh.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.path.mkdir(mode=0o700)
            report = _fill(fresh, path, codes, now)
            _move(fresh, home, exists=exists)
        finally:
            shutil.rmtree(fresh.path, ignore_errors=True)
    return report


def _fill(fresh: Home, path: Path, codes: Sequence[PaperCode], now: int) -> Report:
    with _Writing(fresh.path) as writing:
        contents = read_backup(path, codes, writing.sink)
    service = fresh.service_key.read_bytes()
    entries, peers = _check_database(fresh.node_db, contents.about, service)
    _mark(fresh, contents.about, now)
    _sync(fresh.path)
    return Report(contents, entries, peers, None)


def _mark(fresh: Home, about: About, now: int) -> None:
    """Say in node.db that it was restored, and let the fence begin with its log as it is."""
    with closing(Store(fresh.node_db)) as store, store.transaction():
        store.set_meta(MARK, Mark(about.made_at, now).encode())
        store.set_meta(TOKENS, b"\x01")
    fresh.fence.unlink()
    fence = Fence(fresh.fence)
    try:
        fence.raise_to(about.log_size, about.log_root)
    finally:
        fence.close()
    for tail in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            fresh.node_db.with_name(fresh.node_db.name + tail).unlink()


def _move(fresh: Home, home: Home, *, exists: bool) -> None:
    """Put the new home in its place; the configuration, which makes it one, comes last."""
    if not exists:
        fresh.path.rename(home.path)
    else:
        home.path.chmod(0o700)
        for file in sorted(fresh.path.iterdir(), key=lambda file: file == fresh.config):
            file.rename(home.path / file.name)
        sync_folder(home.path)
    sync_folder(home.path.parent)


def _sync(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_dir():
            sync_folder(file)
        else:
            handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    sync_folder(folder)


class _Writing:
    """Writes the files of a backup below one folder, each private, one after the other."""

    def __init__(self, folder: Path, *, only: frozenset[str] | None = None) -> None:
        self._folder, self._only = folder, only
        self._file: BinaryIO | None = None

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def sink(self, item: Item) -> Sink | None:
        """Return where the bytes of *item* go."""
        self._end()
        if self._only is not None and item.name not in self._only:
            return None
        path = self._folder / item.name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._file = os.fdopen(create(path), "wb")
        return self._file.write


@contextmanager
def _disk(what: str) -> Iterator[None]:
    """Turn a fault of the disk into one line."""
    try:
        yield
    except OSError as error:
        raise disk_error(f"{what} cannot be written", error) from None


def _check_small(item: Item) -> None:
    if item.size > limits.MAX_BACKUP_SMALL:
        raise BackupError(f"{item.name} in the backup is larger than it can be")


# --- what is in it ---------------------------------------------------------------------------
def _check_database(
    path: Path, about: About, service: bytes
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Verify node.db against what the backup says; return its entries, and name and level of peers.

    Raises:
        BackupError: it does not hold together.
    """
    try:
        with closing(Store(path)) as store:
            _check_owner(store, about)
            log = Log(
                store, keys=_service(service), origin=about.origin, random=_no_random,
                node_id=about.node_id,
            )  # fmt: skip
            entries = log.verify()
            _check_head(about, entries, log.root(entries))
            rows = store.rows("SELECT name, level FROM peers ORDER BY name")
            return entries, tuple((row["name"], row["level"]) for row in rows)
    except (KeystoreError, StoreError) as error:
        raise BackupError(
            f"node.db in the backup does not hold together: {error.message}",
            fix="keep the file, and take an older backup",
        ) from None


def _check_head(about: About, size: int, root: bytes) -> None:
    if (size, root) != (about.log_size, about.log_root):
        raise StoreError("its log is another one than it says")


def _check_owner(store: Store, about: About) -> None:
    network = suite.network_id(about.network)
    if (store.meta("node_id"), store.meta("network")) != (about.node_id, network):
        raise StoreError("it is of another node or network than it says")
    rows = store.rows("SELECT wire FROM statements WHERE node_id = ? ORDER BY n", about.node_id)
    try:
        statements = [parse_statement(row["wire"]) for row in rows]
        chain = Chain.start(statements[0], network=network)
        for statement in statements[1:]:
            chain = chain.extend(statement)
    except (PeerError, IndexError) as error:
        raise StoreError(f"its key statements are damaged: {error}") from None
    card = chain.card
    if chain.node_id != about.node_id or card is None or card.log.name != about.origin:
        raise StoreError("its key statements are of another node or log")
    if chain.head.n != about.statement:
        raise StoreError("it holds other key statements than it says")


def _service(data: bytes) -> ServiceKeys:
    try:
        value = decode(data, max_bytes=_MAX_SERVICE)
    except PeerError as error:
        raise StoreError(f"service.key is damaged: {error.message}") from None
    if not isinstance(value, dict):
        raise StoreError("service.key holds no keys")
    return load_service({name: v for name, v in value.items() if isinstance(v, bytes)})


def _no_random(size: int) -> bytes:
    raise AssertionError(size)  # a look appends nothing


def _opens(keystore: bytes, passphrase: bytes) -> bool:
    try:
        decrypt(keystore, normalise_passphrase(passphrase.decode()))
    except WrongPassphraseError:
        return False
    return True
