"""The signer in a process of its own, which holds the signing keys for the node.

It reads what it is to sign, and notes each signature before it gives it away.

- Synchronous, one request at a time. Only the users that it was told of are answered, by what the
  kernel says of the other end (unix(7), SO_PEERCRED).
- A line of the journal is on the disk before the signature leaves: whatever a thief of the network
  process lets it sign stands there. Each line names the digest of the one before.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from keys import agent
from keys.identity import IDENTITY_ED25519, IDENTITY_MLDSA65, MESSAGE_NAME
from keys.keystore import load
from keys.signers import Outside, Place, SplitSigner, Token, TokenSigner
from node.clock import Clock, rfc3339
from node.home import user_name
from node.signer_client import receive
from node.signer_moves import KEYSTORE, NETWORK, NODE
from protocol import limits, suite
from protocol.errors import (
    AlreadyRunningError,
    ConfigError,
    DecodeError,
    KeystoreError,
    PeerError,
    PicketError,
)

JOURNAL: Final = "journal"
_LOCK: Final = "lock"
_CREDENTIALS: Final = struct.Struct("3i")
_BACKLOG: Final = 16
_TAIL: Final = 4_096
_FIRST: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of a connection, as the kernel says."""

    pid: int
    uid: int


# --- the journal -----------------------------------------------------------------------------
class SignerJournal:
    """An append-only file of what was signed and refused, one JSON object a line."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Go on with the file *path*, which may not exist yet.

        Raises:
            KeystoreError: it cannot be opened.
        """
        self._clock = clock
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._handle = os.open(path, flags, 0o600)
        except OSError as error:
            raise KeystoreError(
                f"the signer's journal {path} cannot be opened: {error.strerror}",
                fix="check its folder and permissions",
            ) from None
        self._before = self._last()

    def _last(self) -> str:
        """Return the digest of the last line; one that a crash cut short is ended first."""
        size = os.fstat(self._handle).st_size
        tail = os.pread(self._handle, _TAIL, max(0, size - _TAIL))
        if tail and not tail.endswith(b"\n"):
            os.write(self._handle, b"\n")
            tail += b"\n"
        lines = tail.splitlines()
        return hashlib.sha256(lines[-1]).hexdigest() if lines else _FIRST

    def note(self, did: str, **fields: Any) -> None:  # noqa: ANN401  JSON
        """Write one line, durably.

        Raises:
            OSError: it cannot be written; nothing may be signed.
        """
        row = {"at": rfc3339(self._clock.now()), "did": did, **fields, "before": self._before}
        line = json.dumps(row, ensure_ascii=True).encode()
        start = os.fstat(self._handle).st_size
        try:
            _write_all(self._handle, line + b"\n")
            os.fsync(self._handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, start)
            raise
        self._before = hashlib.sha256(line).hexdigest()

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def _write_all(handle: int, data: bytes) -> None:
    if os.write(handle, data) != len(data):
        raise OSError(errno.ENOSPC, "no space is left")


# --- what it does ----------------------------------------------------------------------------
class SignerAgent:
    """Answers requests with the keys of one node."""

    def __init__(
        self,
        *,
        network: bytes,
        node_id: bytes,
        identity: suite.HybridSigner,
        message: suite.Signer | None,
        journal: SignerJournal,
    ) -> None:
        """Sign with *identity*, and with *message* if it is here, for the node *node_id*."""
        self._keys: Mapping[str, suite.HybridSigner | suite.Signer | None] = {
            agent.IDENTITY: identity, agent.MESSAGE: message,
        }  # fmt: skip
        self._held = agent.Held(
            network, node_id, identity.public, None if message is None else message.public
        )
        self._journal = journal

    def answer(self, data: bytes, caller: Caller) -> bytes:
        """Return the answer to the request *data* of *caller*."""
        try:
            answer = self._answer(data, caller)
        except PicketError as error:
            answer = agent.Refused(error.code, error.message[:900], error.fix[:900])
        except OSError as error:
            answer = agent.Refused(
                "busy", f"its journal cannot be written: {error.strerror}",
                "free some disk space where the signer is",
            )  # fmt: skip
        return agent.encode_answer(answer)

    def _answer(self, data: bytes, caller: Caller) -> agent.Answer:
        try:
            request = agent.parse_request(data)
            if isinstance(request, agent.About):
                return self._held
            signer = self._keys[request.key]
            if signer is None:
                raise DecodeError(f"the {request.key} key is not with this signer")
            judged = agent.judge(request, network=self._held.network, node_id=self._held.node_id)
        except PeerError as error:
            digest = hashlib.sha256(data).hexdigest()
            self._journal.note(
                "refused", what=error.message[:200], digest=digest, uid=caller.uid, pid=caller.pid
            )
            raise
        # First the line, then the signature: one too many in the journal harms nobody.
        self._journal.note(
            "signed", key=request.key, what=judged.what, digest=judged.digest.hex(),
            uid=caller.uid, pid=caller.pid,
        )  # fmt: skip
        made = signer.sign(request.message, request.source)
        return agent.Signed(made if isinstance(made, tuple) else (made,))

    def refuse(self, caller: Caller) -> None:
        """Note that a user that it does not serve has called."""
        with suppress(OSError):
            self._journal.note("turned-away", uid=caller.uid, pid=caller.pid)


# --- opening ---------------------------------------------------------------------------------
@contextmanager
def opened(
    folder: Path,
    passphrase: bytes,
    *,
    clock: Clock,
    place: Place | None = None,
    pin: str = "",
    labels: tuple[str, str] = ("", ""),
) -> Iterator[SignerAgent]:
    """Give the signer over the keys in *folder*, and in the token at *place* if there is one.

    Args:
        folder: that ``picket signer move`` made.
        passphrase: of the keystore in it.
        clock: for its journal.
        place: of a token that holds what the keystore does not.
        pin: of the token.
        labels: of the identity and of the message key in the token; empty if it is not there.

    Raises:
        AlreadyRunningError: another signer uses the folder.
        PicketError: the keystore or the token cannot be used.
    """
    if folder.exists() and folder.stat().st_mode & 0o077:
        raise ConfigError(f"other users can look into {folder}", fix=f"chmod 700 {folder}")
    held = load(folder / KEYSTORE, passphrase)
    token = None if place is None else Token(place, pin)
    with _alone(folder / _LOCK):
        journal = SignerJournal(folder / JOURNAL, clock)
        try:
            outside = _outside(held, token, labels)
            identity: suite.HybridSigner = outside.identity or _local(held)
            message: suite.Signer | None = outside.message
            if message is None and MESSAGE_NAME in held:
                message = suite.Ed25519Signer(held[MESSAGE_NAME])
            yield SignerAgent(
                network=_named(held, NETWORK), node_id=_named(held, NODE), identity=identity,
                message=message, journal=journal,
            )  # fmt: skip
        finally:
            journal.close()
            if token is not None:
                token.close()


def _outside(held: Mapping[str, bytes], token: Token | None, labels: tuple[str, str]) -> Outside:
    if token is None:
        return Outside()
    identity, message = labels
    return Outside(
        SplitSigner(TokenSigner(token, identity), _named(held, IDENTITY_MLDSA65))
        if identity and IDENTITY_ED25519 not in held else None,
        TokenSigner(token, message) if message and MESSAGE_NAME not in held else None,
    )  # fmt: skip


def _local(held: Mapping[str, bytes]) -> suite.LocalHybridSigner:
    if IDENTITY_ED25519 not in held:
        raise KeystoreError(
            "the Ed25519 half of the identity key is in a token",
            fix="give --hsm MODULE and --token LABEL",
        )
    return suite.LocalHybridSigner(held[IDENTITY_ED25519], _named(held, IDENTITY_MLDSA65))


def _named(held: Mapping[str, bytes], name: str) -> bytes:
    if len(held.get(name, b"")) != suite.SEED_SIZE:
        raise KeystoreError(
            f"the signer's keystore lacks {name!r}", fix="name the folder of: picket signer move"
        )
    return held[name]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be opened: {error.strerror}", fix="check the signer's folder"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunningError(
                f"another signer uses {path.parent}", fix="stop it first"
            ) from None
        yield
    finally:
        os.close(handle)


# --- serving ---------------------------------------------------------------------------------
def serve(
    signer: SignerAgent, path: Path, *, uids: frozenset[int], ready: Callable[[], None]
) -> None:
    """Answer the users *uids* on the socket *path*, until an exception ends it.

    Raises:
        AlreadyRunningError: somebody listens there.
        ConfigError: the socket cannot be made.
    """
    with _listening(path, shared=uids != {os.geteuid()}) as listener:
        ready()
        while True:
            wire, _ = listener.accept()
            with wire:
                _one(signer, wire, uids)


@contextmanager
def _listening(path: Path, *, shared: bool) -> Iterator[socket.socket]:
    _clear(path)
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            # Whoever gets through the folder may knock; who is answered, the kernel's word decides.
            before = os.umask(0o111 if shared else 0o177)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            listener.listen(_BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"the socket {path} cannot be made: {error.strerror or error}",
                fix="choose another with --socket",
            ) from None
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    """Remove a socket that a signer left that was killed; nothing else is removed."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path} is no socket", fix="choose another with --socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(limits.SIGNER_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be used: {error.strerror or error}",
                fix="choose another with --socket",
            ) from None
    raise AlreadyRunningError(f"somebody listens on {path}", fix="stop that signer first")


def _one(signer: SignerAgent, wire: socket.socket, uids: frozenset[int]) -> None:
    """Answer one connection; one that stalls or breaks off is closed."""
    raw = wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    caller = Caller(pid, uid)
    wire.settimeout(limits.SIGNER_TIMEOUT_S)
    try:
        if uid not in uids:
            signer.refuse(caller)
            refused = agent.Refused(
                "forbidden", f"this signer does not serve the user {user_name(uid)}",
                "start it with: --allow-user NAME",
            )  # fmt: skip
            wire.sendall(agent.frame(agent.encode_answer(refused)))
            return
        data = receive(wire, time.monotonic() + limits.SIGNER_TIMEOUT_S)
        wire.sendall(agent.frame(signer.answer(data, caller)))
    except (OSError, PeerError):
        return  # it was no request, or whoever made it is gone
