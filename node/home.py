"""Where one node keeps its files."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError

_SOCKET_PATH: Final = 107


@dataclass(frozen=True, slots=True)
class Home:
    """A node's folder and the files in it."""

    path: Path

    @property
    def config(self) -> Path:
        """Settings (TOML)."""
        return self.path / "picket.toml"

    @property
    def node_db(self) -> Path:
        """Ciphertext, log, peers, outbox."""
        return self.path / "node.db"

    @property
    def witness_policy(self) -> Path:
        """Whose cosignatures count (C2SP tlog-policy); may be missing."""
        return self.path / "witness-policy"

    @property
    def case_db(self) -> Path:
        """Opened incidents and drafts, encrypted."""
        return self.path / "case.db"

    @property
    def attachments(self) -> Path:
        """Encrypted attachments."""
        return self.path / "attachments"

    @property
    def keystore(self) -> Path:
        """Secrets under the passphrase."""
        return self.path / "keystore"

    @property
    def sealing(self) -> Path:
        """Sealing keys made since, under the storage key."""
        return self.path / "sealing"

    @property
    def message_key(self) -> Path:
        """The message key made since, under the storage key."""
        return self.path / "message"

    @property
    def service_key(self) -> Path:
        """Keys a locked node works with."""
        return self.path / "service.key"

    @property
    def tls_pem(self) -> Path:
        """TLS key and certificate."""
        return self.path / "tls.pem"

    @property
    def tls_others(self) -> Path:
        """TLS keys and certificates that are not in use yet, or not any more."""
        return self.path / "tls"

    @property
    def fence(self) -> Path:
        """The last published tree head."""
        return self.path / "fence"

    @property
    def lock(self) -> Path:
        """Held by the one process that uses the databases."""
        return self.path / "lock"

    @property
    def control_sock(self) -> Path:
        """The operator's socket."""
        return self.path / "control.sock"

    @property
    def directory(self) -> Path:
        """Whose suspensions this node follows; may be missing."""
        return self.path / "directory"

    @property
    def recovery_sheet(self) -> Path:
        """The recovery codes, until the operator moves them to paper."""
        return self.path / "recovery-sheet.txt"

    def check(self) -> None:
        """Check that there is a node here and that nobody else can read it.

        Raises:
            ConfigError: there is none, or the folder is open to others.
        """
        self.check_socket_path()
        if not self.config.exists():
            raise ConfigError(f"there is no node in {self.path}", fix="make one with: picket init")
        if self.path.stat().st_mode & 0o077:
            raise ConfigError(
                f"other users can look into {self.path}", fix=f"chmod 700 {self.path}"
            )

    def check_empty(self) -> bool:
        """Check that a node can be made here; return whether the folder exists.

        Raises:
            ConfigError: it is in use or cannot be seen.
        """
        self.check_socket_path()
        try:
            exists = self.path.is_dir()
            used = any(self.path.iterdir()) if exists else os.path.lexists(self.path)
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be made: {error.strerror}", fix="choose another with --home"
            ) from None
        if used:
            raise ConfigError(
                f"{self.path} is not empty: a node may live there already",
                fix="choose another folder with --home; nothing was changed",
            )
        return exists

    def check_socket_path(self) -> None:
        """Check that the operator's socket can be made in this folder.

        Raises:
            ConfigError: its path is longer than a socket's may be (unix(7), sun_path).
        """
        size = len(os.fsencode(self.control_sock.absolute()))
        if size > _SOCKET_PATH:
            raise ConfigError(
                f"the path of {self.control_sock} has {size} bytes; a socket's may have "
                f"{_SOCKET_PATH}",
                fix="choose a shorter folder with --home",
            )


def user_name(number: int | None = None) -> str:
    """Return what the user of this process, or user *number*, is called."""
    number = os.geteuid() if number is None else number
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # as in a container
        return f"number {number}"


def owner_of(path: Path) -> str | None:
    """Return whose *path* is, or the folder that keeps us from seeing it; None if it is ours."""
    for each in (path, *path.absolute().parents):
        try:
            number = each.stat().st_uid
        except OSError:
            continue
        return None if number == os.geteuid() else user_name(number)
    return None


def default_home() -> Path:
    """Return PICKET_HOME, or the usual place for a program's data."""
    chosen = os.environ.get("PICKET_HOME")
    if chosen:
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "picket"
