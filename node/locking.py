"""When a running node forgets its keys, how long it stays without them, and what that ends.

- A lock counts in memory first and is written down next: a full disk keeps no keys open.
- What a person or the clock has locked stays locked over restarts, whatever file or credential
  holds the passphrase, until a person says ``unlock``.
- What was begun with the keys holds a ``Lease`` and ends with the lock, in one clear error.
- A node is in use while somebody asks for what needs its keys. Looking at its status is no use, nor
  is what it does by itself.

The deciding function has no clock; ``Locking`` is called on the thread that owns the databases, a
``Lease`` from any.
"""

from __future__ import annotations

import gc
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from keys.keystore import read_passphrase_file
from node.clock import Clock, rfc3339
from node.words import counted
from protocol.canonical import decode, encode
from protocol.errors import BusyError, KeystoreError, LockedError, PeerError, StoreError
from protocol.shape import array, text, uint

if TYPE_CHECKING:
    from node.store import Store

CREDENTIAL: Final = "picket-passphrase"
"""What systemd's credential with the passphrase is called."""
_FOLDER: Final = "CREDENTIALS_DIRECTORY"
_META: Final = "locked"
_MAX_META: Final = 64
_MINUTE_MS: Final = 60_000
_HINT: Final = "run: picket unlock"
_log = structlog.get_logger()
Row = dict[str, Any]


class By(StrEnum):
    """Who or what locked a node."""

    OPERATOR = "operator"
    TIME = "time"
    START = "start"


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on both clocks, in ms: UTC, and one that never goes back but may sleep."""

    now: int
    monotonic: int


@dataclass(frozen=True, slots=True)
class Lock:
    """Since when a node is locked (UTC in ms), by whom, and after how many minutes without use."""

    since: int
    by: By
    minutes: int = 0

    @property
    def why(self) -> str:
        """The cause, in words."""
        match self.by:
            case By.OPERATOR:
                return "by operator"
            case By.TIME:
                return f"after {counted(self.minutes, 'minute')} without use"
            case By.START:
                return "it was started without its passphrase"


def lock_due(used: Moment, at: Moment, *, after_ms: int) -> bool:
    """Return whether a node that was last used at *used* is to be locked at *at*.

    Either clock is enough: a machine that slept was not in use, and one whose clock was set back
    still counts its minutes. With *after_ms* 0 it never is.
    """
    idle = max(at.now - used.now, at.monotonic - used.monotonic)
    return 0 < after_ms <= idle


class Owner(Protocol):
    """What a lock needs of the node that it belongs to."""

    @property
    def is_open(self) -> bool:
        """Whether the node has its keys."""
        ...

    def forget_keys(self) -> None:
        """Forget the keys and all that they opened."""
        ...


class Lease:
    """The right of something that takes long to use the keys, until the node is locked."""

    def __init__(self, locking: Locking) -> None:
        """Begin under the keys that are open now."""
        self._locking = locking
        self._number = locking.number

    def check(self) -> None:
        """Check that the node was not locked since, and note that it is in use.

        Raises:
            LockedError: it was; what was begun has to be begun again.
        """
        if self._locking.number != self._number:
            raise LockedError(
                "the node was locked before this was done", fix="run: picket unlock, and repeat it"
            )
        self._locking.use()


class Locking:
    """Whether, since when and why one node is locked, and when it will be."""

    def __init__(self, owner: Owner, *, store: Store, clock: Clock) -> None:
        """Lock *owner*; a lock that was written down in *store* still stands.

        Raises:
            StoreError: what is written there is damaged.
        """
        self._owner, self._store, self._clock = owner, store, clock
        self.after_ms = 0
        """After how long without use the node locks itself; 0 for never."""
        self.number = 0
        """How many locks there were: what was begun under another one is over."""
        self._asking = False
        self._stands = self._written = self._load()
        self._started = clock.now()
        self._used = self._moment()

    def _load(self) -> Lock | None:
        data = self._store.meta(_META)
        if data is None:
            return None
        try:
            since, by, minutes = array(decode(data, max_bytes=_MAX_META), "locked", size=3)
            return Lock(uint(since, "since"), By(text(by, "by")), uint(minutes, "minutes"))
        except (PeerError, ValueError) as error:
            raise StoreError(
                f"node.db holds a damaged note of a lock: {error}",
                fix="restore node.db from its newest backup",
            ) from None

    def _moment(self) -> Moment:
        return Moment(self._clock.now(), self._clock.monotonic())

    # --- what others ask ---------------------------------------------------------------------
    @property
    def stands(self) -> Lock | None:
        """The lock that a person has to end, which also keeps the next start locked."""
        return self._stands

    @property
    def kept(self) -> bool:
        """Whether the next start would know of it."""
        return self._written == self._stands

    def shown(self) -> Lock | None:
        """Return why the node is locked now; None if it has its keys."""
        if self._owner.is_open:
            return None
        return self._stands or Lock(self._started, By.START)

    def row(self) -> Row | None:
        """Return ``shown`` as a JSON-able value."""
        lock = self.shown()
        if lock is None:
            return None
        return {"since": rfc3339(lock.since), "by": lock.by.value, "minutes": lock.minutes or None}

    def notice(self) -> tuple[str, str] | None:
        """Return what the status says of it, and what to do; None if the node has its keys."""
        lock = self.shown()
        if lock is None:
            return None
        at = rfc3339(lock.since)
        said = f"the node is locked since {at[:10]} {at[11:16]} UTC ({lock.why})"
        if not self.kept:
            said += "; the disk is full, so a restart would not know of it"
        return f"{said}: it receives, but shows and releases nothing", _HINT

    def check_released(self, incident_id: str) -> None:
        """Check that an incident whose release is durable can be shown.

        Raises:
            LockedError: the node was locked in between; it says that nothing has to be repeated.
        """
        if not self._owner.is_open:
            raise LockedError(
                f"{incident_id} is released and will be delivered, but the node was locked then",
                fix="do not release it again; to see it, run: picket unlock",
            )

    def lease(self) -> Lease:
        """Return what checks, while something takes long, that the node is not locked yet."""
        return Lease(self)

    # --- use ---------------------------------------------------------------------------------
    def use(self) -> None:
        """Note that somebody uses the node now."""
        self._used = self._moment()

    @contextmanager
    def asking(self, *, counts: bool) -> Iterator[None]:
        """Run one request; if it *counts* and needs the keys, the node is in use."""
        self._asking = counts
        try:
            yield
        finally:
            self._asking = False

    def needed(self) -> None:
        """Note that the keys are needed just now: by a request, or by the node itself."""
        if self._asking:
            self.use()

    # --- locking and unlocking ---------------------------------------------------------------
    def lock(self, by: By, *, minutes: int = 0) -> bool:
        """Forget the keys at once; return False if only a full disk keeps it from being noted.

        Then ``tick`` notes it later. A node that is locked already keeps the lock that it has,
        unless that one would not outlive a start.
        """
        if self._owner.is_open or self._stands is None:
            self._owner.forget_keys()
            self.number += 1
            self._stands = Lock(self._clock.now(), by, minutes)
            # Opened texts and keys that only a cycle of objects holds would stay for long.
            gc.collect()
            _log.info("locked", code=by.value)
        return self._settle()

    def unlocked(self) -> None:
        """Note that a person gave the passphrase: starts open by themselves again."""
        self._stands = None
        self.use()
        self._settle()
        _log.info("unlocked")

    def tick(self) -> None:
        """Lock the node if nobody used it for long enough; note what could not be noted before."""
        if self.after_ms and self._owner.is_open:
            at = self._moment()
            if lock_due(self._used, at, after_ms=self.after_ms):
                self.lock(By.TIME, minutes=self.after_ms // _MINUTE_MS)
        self._settle()

    def _settle(self) -> bool:
        """Write the lock down, or that there is none; False if the disk is full."""
        if not self.kept:
            try:
                with self._store.transaction():
                    self._write(self._stands)
            except BusyError:
                return False  # tick tries again, and until then the status says so
            self._written = self._stands
        return True

    def _write(self, lock: Lock | None) -> None:
        if lock is None:
            self._store.run("DELETE FROM meta WHERE key = ?", _META)
        else:
            self._store.set_meta(_META, encode([lock.since, lock.by.value, lock.minutes]))


# --- passphrases that nobody types -----------------------------------------------------------
def read_credential(environment: Mapping[str, str] = os.environ) -> bytes | None:
    """Return the passphrase in systemd's credential; None if the service was given none.

    systemd puts credentials as files of mode 0400 on a file system in memory (systemd.exec(5),
    LoadCredential and LoadCredentialEncrypted); where it lets the service's user in by an access
    list, the group's bits show that list.

    Raises:
        KeystoreError: there is one that cannot be read, is open to every user, or is none.
    """
    folder = environment.get(_FOLDER)
    if not folder:
        return None
    path = Path(folder) / CREDENTIAL
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeystoreError(
            f"the credential {path} cannot be read: {error.strerror}",
            fix="see User= and LoadCredential= in the unit",
        ) from None
    if not stat.S_ISREG(mode) or mode & stat.S_IRWXO:
        raise KeystoreError(
            f"the credential {path} is no file, or other users can read it",
            fix="let systemd make it: LoadCredential=, see docs/operating.md",
        )
    return read_passphrase_file(path)
