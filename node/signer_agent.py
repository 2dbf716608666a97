"""The signer in a process of its own, which holds the signing keys for the node.

It reads what it is to sign, and notes each signature before it gives it away.

- Synchronous, one signature at a time. Only the users that it was told of are answered, by what the
  kernel says of the other end (unix(7), SO_PEERCRED).
- A line of the journal is on the disk before the signature leaves: whatever a thief of the network
  process lets it sign stands there. Each line names the digest of the one before.
- The journal is its memory, too: no key statement is signed that contradicts an earlier one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import selectors
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from keys import agent
from keys.identity import IDENTITY_ED25519, IDENTITY_MLDSA65, MESSAGE_NAME
from keys.keystore import load
from keys.signers import Outside, Place, SplitSigner, Token, TokenSigner
from node.clock import Clock, rfc3339
from node.home import user_name
from node.signer_moves import KEYSTORE, NETWORK, NODE
from protocol import limits, suite
from protocol.errors import (
    AlreadyRunningError,
    ConfigError,
    DecodeError,
    EquivocationError,
    KeystoreError,
    PeerError,
    PicketError,
)

JOURNAL: Final = "journal"
_LOCK: Final = "lock"
_CREDENTIALS: Final = struct.Struct("3i")
_BACKLOG: Final = 16
_TAIL: Final = 4_096
_KEY_NAME: Final = 16
_AWAY_S: Final = 60
_MAX_AWAY: Final = 256
"""Users that have lines of their own; the rest share one."""
_MAX_CALLS: Final = 16
"""Connections that are read side by side; more wait until one ends."""
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
        self._clock, self._path = clock, path
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

    def statements(self, by: str) -> dict[int, str]:
        """Return the digest of each key statement that the identity key *by* has signed.

        Raises:
            KeystoreError: the journal cannot be read.
        """
        book = _Statements(by)
        try:
            with self._path.open("rb") as file:
                for line in file:
                    if b'"n": ' in line:  # the many others are not worth parsing
                        with suppress(ValueError):  # a crash cut it short: nothing was signed
                            book.replay(json.loads(line))
        except OSError as error:
            raise KeystoreError(
                f"the signer's journal {self._path} cannot be read: {error.strerror}",
                fix="check its folder and permissions",
            ) from None
        return book.signed

    def note(self, did: str, *, durable: bool = True, **fields: Any) -> None:  # noqa: ANN401  JSON
        """Write one line, and unless it is not *durable*, wait until it is on the disk.

        Raises:
            OSError: it cannot be written; nothing may be signed.
        """
        row = {"at": rfc3339(self._clock.now()), "did": did, **fields, "before": self._before}
        line = json.dumps(row, ensure_ascii=True).encode()
        start = os.fstat(self._handle).st_size
        try:
            _write_all(self._handle, line + b"\n")
            if durable:
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


class _Statements:
    """The key statements that one identity key has signed, as the lines of the journal say."""

    def __init__(self, by: str) -> None:
        self._by, self.signed = by, dict[int, str]()
        self._before: str | None = None

    def replay(self, row: dict[str, Any]) -> None:
        """Take the next line into account."""
        if row.get("by") != self._by:
            return
        n = row["n"]
        match row["did"]:
            case "signed":
                self._before = self.signed.get(n)
                self.signed[n] = row["digest"]
            case "not-signed" if self._before is not None:
                self.signed[n] = self._before
            case "not-signed" | "sign-again":
                self.signed.pop(n, None)
            case _:
                pass  # a line of another kind says nothing of numbers


# --- what it does ----------------------------------------------------------------------------
@dataclass(slots=True)
class _Away:
    """How often a user was turned away since the last line, and when the next one is due."""

    times: int = 0
    due: float = 0


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
        # A rotation or a recovery brings another key, whose statements are judged by themselves.
        self._by = hashlib.sha256(b"".join(identity.public)).hexdigest()[:_KEY_NAME]
        self._signed = journal.statements(self._by)
        self._away: dict[int | None, _Away] = {}

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
            self._check_number(judged)
        except PeerError as error:
            digest = hashlib.sha256(data).hexdigest()
            self._journal.note(
                "refused", what=error.message[:200], digest=digest, uid=caller.uid, pid=caller.pid
            )
            raise
        # First the line, then the signature: one too many in the journal harms nobody.
        number: dict[str, Any] = {} if judged.n is None else {"n": judged.n, "by": self._by}
        self._journal.note(
            "signed", key=request.key, what=judged.what, digest=judged.digest.hex(),
            uid=caller.uid, pid=caller.pid, **number,
        )  # fmt: skip
        try:
            made = signer.sign(request.message, request.source)
        except PicketError:
            if number:
                self._journal.note("not-signed", key=request.key, **number)
            raise
        if judged.n is not None:
            self._signed[judged.n] = judged.digest.hex()
        return agent.Signed(made if isinstance(made, tuple) else (made,))

    def _check_number(self, judged: agent.Judged) -> None:
        """Check that no other statement of that number, and none after it, was signed before.

        Raises:
            EquivocationError: one was; whoever held both would freeze this node at its peers.
        """
        highest = max(self._signed, default=-1)
        if judged.n is None or judged.n > highest or (
            self._signed.get(judged.n) == judged.digest.hex()
        ):  # fmt: skip
            return
        raise EquivocationError(
            f"it has signed key statement {highest} before, and would contradict it",
            fix="restore the newest node.db; if the node never kept that statement, as on a full "
            f"disk: picket signer run with --sign-again {highest}",
        )

    def sign_again(self, n: int) -> None:
        """Forget that the newest statement, which has the number *n*, was signed.

        Raises:
            ConfigError: it has another number.
        """
        highest = max(self._signed, default=None)
        if n != highest:
            raise ConfigError(
                f"the newest statement that this key has signed here is not {n}",
                fix="start without --sign-again" if highest is None or n < highest
                else f"it is {highest}",
            )  # fmt: skip
        self._journal.note("sign-again", n=n, by=self._by)
        del self._signed[n]

    def refuse(self, caller: Caller, now: float) -> None:
        """Note that a user that it does not serve has called; at most one line a minute for each.

        Args:
            caller: that user.
            now: monotonic, in seconds.
        """
        uid = caller.uid if caller.uid in self._away or len(self._away) < _MAX_AWAY else None
        away = self._away.setdefault(uid, _Away())
        away.times += 1
        if now < away.due:
            return
        with suppress(OSError):
            # Nothing is signed, so a power cut may take the line.
            self._journal.note(
                "turned-away", durable=False, uid=uid, pid=caller.pid, times=away.times
            )
        away.times, away.due = 0, now + _AWAY_S


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
    with (
        _listening(path, shared=uids != {os.geteuid()}) as listener,
        closing(_Calls(signer, listener, uids)) as calls,
    ):
        ready()
        while True:
            calls.turn()


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


@dataclass(slots=True)
class _Call:
    """A connection whose request is not whole yet."""

    caller: Caller
    until: float
    data: bytearray = field(default_factory=bytearray)

    def request(self) -> bytes | None:
        """Return the request once it is whole.

        Raises:
            DecodeError: what comes is no frame.
        """
        head = bytes(self.data[: agent.LENGTH_SIZE])
        if len(head) < agent.LENGTH_SIZE:
            return None
        end = agent.LENGTH_SIZE + agent.frame_size(head)
        return bytes(self.data[agent.LENGTH_SIZE : end]) if len(self.data) >= end else None


class _Calls:
    """The connections of one signer: many are read, so that a slow one holds up nobody."""

    def __init__(self, signer: SignerAgent, listener: socket.socket, uids: frozenset[int]) -> None:
        self._signer, self._listener, self._uids = signer, listener, uids
        listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._open: dict[socket.socket, _Call] = {}
        self._listens = True

    def turn(self) -> None:
        """Wait for something to do, and do it."""
        now = time.monotonic()
        ends = [call.until for call in self._open.values()]
        wait = max(0.0, min(ends) - now) if ends else None
        for key, _ in self._selector.select(wait):
            if key.fileobj is self._listener:
                self._accept()
            else:
                assert isinstance(key.fileobj, socket.socket)  # noqa: S101  nothing else is there
                self._read(key.fileobj)
        now = time.monotonic()
        for wire in [wire for wire, call in self._open.items() if call.until <= now]:
            self._end(wire)

    def _accept(self) -> None:
        try:
            wire, _ = self._listener.accept()
        except OSError:
            return  # whoever it was is gone
        raw = wire.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        caller, now = Caller(pid, uid), time.monotonic()
        wire.setblocking(False)
        if uid not in self._uids:
            self._signer.refuse(caller, now)
            refused = agent.Refused(
                "forbidden", f"this signer does not serve the user {user_name(uid)}",
                "start it with: --allow-user NAME",
            )  # fmt: skip
            with wire, suppress(OSError):
                wire.sendall(agent.frame(agent.encode_answer(refused)))
            return
        self._open[wire] = _Call(caller, now + limits.SIGNER_TIMEOUT_S)
        self._selector.register(wire, selectors.EVENT_READ)
        self._listen()

    def _read(self, wire: socket.socket) -> None:
        """Read on; answer what is whole, and close what is no request or breaks off."""
        call = self._open[wire]
        try:
            part = wire.recv(limits.MAX_SIGNER_FRAME)
            call.data += part
            request = call.request()
            if request is not None:
                # An answer is far smaller than the buffer of the socket, so this never waits.
                wire.sendall(agent.frame(self._signer.answer(request, call.caller)))
            elif part:
                return
        except BlockingIOError:
            return
        except (OSError, PeerError):
            pass  # it was no request, or whoever made it is gone
        self._end(wire)

    def _end(self, wire: socket.socket) -> None:
        self._selector.unregister(wire)
        del self._open[wire]
        wire.close()
        self._listen()

    def _listen(self) -> None:
        """Take new connections while there is room for them."""
        room = len(self._open) < _MAX_CALLS
        if room and not self._listens:
            self._selector.register(self._listener, selectors.EVENT_READ)
        if self._listens and not room:
            self._selector.unregister(self._listener)
        self._listens = room

    def close(self) -> None:
        """Close what is open."""
        for wire in self._open:
            wire.close()
        self._selector.close()
