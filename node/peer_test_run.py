"""Looks at the address of a peer, one step after the other: what was seen, and no verdict.

- Each step has its own bound and all of them together one, so that nobody waits for long.
- It never becomes a link: our hello goes out, which nobody has to sign, and the peer's proof comes
  back; ours is never made. So the peer does not take this node for linked, and an open link stays.
- Only what stands on the pinned card is dialled, as the node itself would do it.
- It runs on a thread and loop of its own, beside the node's: nothing in it touches a database.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import ipaddress
import re
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from node.peer_clocks import ahead
from node.peer_seen import (
    BOUNDS,
    AtDoor,
    Bounds,
    Greeting,
    Name,
    Seen,
    Target,
    Tcp,
    Tls,
    Upgrade,
)
from node.transport import PATH, tls_name
from node.visiting import CARD_PATH, Answer, visit
from protocol import limits, suite
from protocol.errors import (
    LimitError,
    LinkError,
    PeerError,
    PicketError,
    SignatureError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.session import Close, Effect, Local, Opened, Remote, Send, Session
from protocol.statement import verify_bundle

_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10
_FIN: Final = 0x80
_WEBSOCKET_ID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_STATUS: Final = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})( .*)?")
_REFUSALS: Final[Mapping[int, Upgrade]] = {
    HTTPStatus.FORBIDDEN: Upgrade.NOT_KNOWN, HTTPStatus.SERVICE_UNAVAILABLE: Upgrade.FULL
}  # fmt: skip
_MAX_HEAD: Final = 16 * 1024
_MAX_MESSAGE: Final = 64 * 1024
"""A hello has 150 bytes and a proof 3.4 KiB: whoever sends more is no node."""
_MAX_CONTROL: Final = 125  # RFC 6455 section 5.5
_LONG: Final = 126
_LONGER: Final = 127


def look(target: Target, *, now: Callable[[], int], bounds: Bounds = BOUNDS) -> Seen | None:
    """Return what is to be seen of *target* where it came furthest; None if it has no address.

    Blocks; call it on a thread without a loop. *now* returns UTC in ms.
    """
    return asyncio.run(look_at(target, now=now, bounds=bounds)) if target.endpoints else None


async def look_at(target: Target, *, now: Callable[[], int], bounds: Bounds = BOUNDS) -> Seen:
    """Do as ``look`` does, on the loop of the caller; there is an address."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + bounds.total_s
    best: Seen | None = None
    for endpoint in target.endpoints:
        probe = _Probe(target, endpoint, now=now, bounds=bounds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await probe.run()
        if best is None or probe.seen.reached > best.reached:
            best = probe.seen
        if best.greeting is Greeting.PROVEN or loop.time() >= deadline:
            break
    assert best is not None  # noqa: S101  there is an address
    return best


class _Probe:
    """One look at one address; ``seen`` grows with each step, so that it counts if time is up."""

    def __init__(
        self, target: Target, endpoint: str, *, now: Callable[[], int], bounds: Bounds
    ) -> None:
        self._target, self._endpoint, self._now, self._bounds = target, endpoint, now, bounds
        parts = urlsplit(endpoint)
        self._host, self._port = parts.hostname or "", parts.port or 0
        self.seen = Seen(host=self._host, port=self._port, name=Name.SILENT)

    def _note(self, **values: object) -> None:
        self.seen = replace(self.seen, **values)  # type: ignore[arg-type]

    async def run(self) -> None:
        """Take one step after the other as far as they lead."""
        addresses = await self._look_up()
        for address in addresses:
            if await self._try(address):
                return

    # --- name and TCP ------------------------------------------------------------------------
    async def _look_up(self) -> list[str]:
        try:
            ipaddress.ip_address(self._host)
        except ValueError:
            return await self._ask_dns()
        self._note(name=Name.LITERAL, ip=self._host)
        return [self._host]

    async def _ask_dns(self) -> list[str]:
        try:
            async with asyncio.timeout(self._bounds.step_s):
                found = await _resolve(self._host, self._port)
        except TimeoutError:
            return []
        if not found:
            self._note(name=Name.UNKNOWN)
            return []
        self._note(name=Name.FOUND, ip=found[0])
        return found[: limits.PEER_TEST_ADDRESSES]

    async def _try(self, address: str) -> bool:
        """Look at one IP address; True if something listens there."""
        self._note(ip=address, tcp=Tcp.SILENT)
        await self._secured(address)
        return self.seen.tcp is Tcp.OPEN

    async def _connect(self, address: str) -> socket.socket | None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(self._bounds.step_s):
                await asyncio.get_running_loop().sock_connect(connection, (address, self._port))
        except OSError as error:  # TimeoutError is one
            connection.close()
            self._note(tcp=_tcp_of(error))
            return None
        except BaseException:
            connection.close()
            raise
        self._note(tcp=Tcp.OPEN)
        return connection

    # --- TLS ---------------------------------------------------------------------------------
    async def _secured(self, address: str) -> None:
        """Go through TLS as the node does: also with older certificates, of it and of ours."""
        pems, ask = list(self._target.pems), None
        while True:
            certificate, pem = pems[0]
            await self._session(address, certificate, pem, ask)
            other = self.seen.certificate not in self._target.certificates
            if self.seen.tls is Tls.UP and other and ask is None:
                ask = self._target.certificates[-1]
            elif self.seen.upgrade is Upgrade.NOT_KNOWN and len(pems) > 1:
                pems.pop(0)
            else:
                break
        if self.seen.upgrade is Upgrade.NOT_KNOWN:
            await self._look_at_door()

    async def _session(
        self, address: str, certificate: bytes, pem: Path, ask: bytes | None
    ) -> None:
        connection = await self._connect(address)
        if connection is None:
            return
        self._note(tls=Tls.SILENT, upgrade=None, certificate=b"")
        context = _context(pem)
        name = self._host if ask is None else tls_name(ask)
        try:
            async with asyncio.timeout(self._bounds.step_s):
                reader, writer = await asyncio.open_connection(
                    sock=connection, ssl=context, server_hostname=name, limit=_MAX_HEAD
                )
        except OSError as error:
            connection.close()
            self._note(tls=_tls_of(error))
            return
        except BaseException:
            connection.close()
            raise
        wire = _Wire(reader, writer)
        try:
            self._note(tls=Tls.UP, certificate=wire.certificate())
            if self.seen.certificate in self._target.certificates:
                await self._upgrade(wire, certificate)
        finally:
            writer.transport.abort()

    # --- WebSocket ---------------------------------------------------------------------------
    async def _upgrade(self, wire: _Wire, certificate: bytes) -> None:
        self._note(upgrade=Upgrade.SILENT)
        key = base64.b64encode(secrets.token_bytes(16))
        netloc = urlsplit(self._endpoint).netloc
        asked = self._now()
        try:
            async with asyncio.timeout(self._bounds.step_s):
                status, headers = await wire.ask_upgrade(netloc, key)
        except TimeoutError:
            return
        except (OSError, EOFError):
            # It proved its certificate, and hung up on ours (RFC 8446 section 4.4.2.4).
            self._note(upgrade=Upgrade.NOT_KNOWN)
            return
        except (ValueError, asyncio.LimitOverrunError):
            self._note(upgrade=Upgrade.NO_WEBSOCKET)
            return
        self._note_date(headers.get("date"), asked)
        if status != HTTPStatus.SWITCHING_PROTOCOLS:
            self._note(upgrade=_REFUSALS.get(status, Upgrade.NO_WEBSOCKET), status=status)
            return
        if headers.get("sec-websocket-accept") != _accept_of(key):
            self._note(upgrade=Upgrade.NO_WEBSOCKET)
            return
        self._note(upgrade=Upgrade.OPEN)
        await self._greet(wire, certificate)
        if self.seen.greeting is Greeting.PROVEN:
            await self._ping(wire)

    def _note_date(self, text: str | None, asked: int) -> None:
        if text is None:
            return
        try:
            said = int(parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp())
        except (ValueError, OverflowError):
            return
        self._note_time(said, asked)

    def _note_time(self, said_s: int, asked: int) -> None:
        self._note(ahead_ms=ahead(said_s, asked_ms=asked, answered_ms=self._now()))

    # --- hello -------------------------------------------------------------------------------
    async def _greet(self, wire: _Wire, certificate: bytes) -> None:
        """Say hello, and hear hello and proof; never answer with a proof of our own."""
        self._note(greeting=Greeting.SILENT)
        target = self._target
        session = Session(
            local=Local(
                target.network, target.own_id, target.chain_n, target.chain_head,
                suite.digest("certificate", certificate), _throwaway(),
            ),
            remote=Remote(
                target.node_id, suite.digest("certificate", self.seen.certificate), target.link,
                0, bytes(32),
            ),
            dialer=True, nonce=secrets.token_bytes(32), now=0,
        )  # fmt: skip
        (hello,) = session.start()
        assert isinstance(hello, Send)  # noqa: S101  a session begins with its hello
        try:
            async with asyncio.timeout(self._bounds.step_s):
                await wire.send(_BINARY, session.message(hello))
                for _ in range(2):
                    greeting, code = _heard(session.receive(await wire.message(), 0))
                    if greeting is not None:
                        self._note(greeting=greeting, code=code)
                        return
        except TimeoutError:
            return
        except _ClosedError as closed:
            kind = Upgrade.NOT_KNOWN if closed.code == UntrustedKeyError.code else Upgrade.OPEN
            self._note(upgrade=kind, greeting=Greeting.CLOSED, code=closed.code)
        except (OSError, EOFError, ValueError):
            self._note(greeting=Greeting.GARBAGE)

    async def _ping(self, wire: _Wire) -> None:
        took: list[int] = []
        with contextlib.suppress(OSError, EOFError, ValueError, _ClosedError):
            for _ in range(self._bounds.pings):
                async with asyncio.timeout(self._bounds.step_s / 2):
                    took.append(await wire.ping())
                    self._note(pings_us=tuple(took))
            async with asyncio.timeout(self._bounds.step_s / 2):
                await wire.send(_CLOSE, (1000).to_bytes(2, "big"))

    # --- the door ----------------------------------------------------------------------------
    async def _look_at_door(self) -> None:
        """Ask as a stranger, who may see the card and hears the time."""
        self._note(door=AtDoor.SHUT)
        asked = self._now()
        try:
            answer = await visit(
                self._endpoint, "GET", CARD_PATH, expected=self._target.certificates,
                maximum=limits.MAX_DOOR_BUNDLE, timeout_s=self._bounds.step_s,
            )  # fmt: skip
        except (LinkError, LimitError):
            return
        if answer.date is not None:
            self._note_time(answer.date // 1000, asked)
        self._note(door=self._shown(answer))

    def _shown(self, answer: Answer) -> AtDoor:
        if answer.status != HTTPStatus.OK:
            return AtDoor.SHUT
        try:
            chain = verify_bundle(answer.body, network=self._target.network)
        except WrongNetworkError:
            return AtDoor.OTHER_NETWORK
        except PeerError:
            return AtDoor.SHUT
        return AtDoor.OURS if chain.node_id == self._target.node_id else AtDoor.OTHER_NODE


# --- what comes ------------------------------------------------------------------------------
_GREETINGS: Final[tuple[tuple[type[PicketError], Greeting], ...]] = (
    (VersionError, Greeting.OTHER_VERSION),
    (WrongNetworkError, Greeting.OTHER_NETWORK),
    (UntrustedKeyError, Greeting.OTHER_NODE),
    (SignatureError, Greeting.UNPROVEN),
)


def _heard(effects: Iterable[Effect]) -> tuple[Greeting | None, str]:
    """Return what a message of the peer came to; None if more has to come."""
    for effect in effects:
        match effect:
            case Opened():
                return Greeting.PROVEN, ""
            case Close(error, code):
                found = (kind for base, kind in _GREETINGS if isinstance(error, base))
                return next(found, Greeting.GARBAGE), code
            case _:
                continue  # what a session would do next is left undone here
    return None, ""


def _tcp_of(error: OSError) -> Tcp:
    if isinstance(error, TimeoutError) and error.errno is None:
        return Tcp.SILENT
    match error.errno:
        case errno.ECONNREFUSED | errno.ECONNRESET:
            return Tcp.CLOSED
        case errno.EHOSTUNREACH | errno.ENETUNREACH | errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return Tcp.NO_ROUTE
        case _:
            return Tcp.SILENT


def _tls_of(error: OSError) -> Tls:
    match error:
        case TimeoutError():
            return Tls.SILENT
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return Tls.ENDED
        case ssl.SSLError():
            return Tls.NOT_TLS
        case _:
            return Tls.ENDED


def _context(pem: Path) -> ssl.SSLContext:
    """Return a context that takes any certificate: which one was shown is what is to be seen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(pem)
    return context


def _throwaway() -> suite.HybridSigner:
    """Return a key for the proof that a session makes of itself, and that is never sent."""
    return suite.LocalHybridSigner(secrets.token_bytes(32), secrets.token_bytes(32))


def _accept_of(key: bytes) -> str:
    digest = hashlib.sha1(key + _WEBSOCKET_ID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


async def _resolve(host: str, port: int) -> list[str]:
    """Return the addresses of *host*, none if it is not known.

    The system's resolver cannot be interrupted: on a thread that nobody waits for, it keeps neither
    the test nor the loop's end.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[str]] = loop.create_future()

    def settle(addresses: list[str]) -> None:
        if not found.done():
            found.set_result(addresses)

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            rows = []
        addresses = list(dict.fromkeys(str(row[4][0]) for row in rows))
        with contextlib.suppress(RuntimeError):  # the test is over, and its loop closed
            loop.call_soon_threadsafe(settle, addresses)

    threading.Thread(target=ask, daemon=True, name="peer-test-dns").start()
    return await found


# --- a WebSocket, as far as a test needs it --------------------------------------------------
class _ClosedError(Exception):
    """The other end closed the WebSocket; ``code`` is its reason in a word."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class _Wire:
    """A client's end of a WebSocket (RFC 6455) over TLS; what breaks its rules is a ValueError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def certificate(self) -> bytes:
        """Return the certificate (DER) that the other end has shown."""
        shown: bytes | None = self._writer.get_extra_info("ssl_object").getpeercert(True)
        return shown or b""

    async def ask_upgrade(self, netloc: str, key: bytes) -> tuple[int, dict[str, str]]:
        """Ask for a WebSocket; return the status and the headers of the answer.

        Raises:
            ValueError: what comes is no HTTP.
        """
        self._writer.write(
            f"GET {PATH} HTTP/1.1\r\nHost: {netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key.decode()}\r\n\r\n".encode("ascii")
        )
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = _STATUS.fullmatch(head[0])
        if status is None:
            raise ValueError("no status line")
        pairs = (line.partition(":") for line in head[1:] if ":" in line)
        return int(status[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}

    async def send(self, opcode: int, payload: bytes) -> None:
        """Send one frame, masked as a client must (section 5.3)."""
        size, mask = len(payload), secrets.token_bytes(4)
        if size < _LONG:
            head = bytes([_FIN | opcode, 0x80 | size])
        else:
            head = bytes([_FIN | opcode, 0x80 | _LONG]) + size.to_bytes(2, "big")
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        self._writer.write(head + mask + masked)
        await self._writer.drain()

    async def message(self) -> bytes:
        """Return the next binary message; answer pings meanwhile.

        Raises:
            ValueError: something else came.
            _ClosedError: the other end closed.
        """
        while True:
            opcode, payload = await self._frame()
            if opcode == _BINARY:
                return payload

    async def ping(self) -> int:
        """Return how many microseconds the answer to a ping took."""
        loop, token = asyncio.get_running_loop(), secrets.token_bytes(8)
        begun = loop.time()
        await self.send(_PING, token)
        while True:
            opcode, payload = await self._frame()
            if opcode == _PONG and payload == token:
                return round((loop.time() - begun) * 1_000_000)

    async def _frame(self) -> tuple[int, bytes]:
        first, second = await self._reader.readexactly(2)
        size = second
        if second == _LONG:
            size = int.from_bytes(await self._reader.readexactly(2), "big")
        elif second == _LONGER:
            size = int.from_bytes(await self._reader.readexactly(8), "big")
        opcode = first & 0x0F
        control = opcode in {_CLOSE, _PING, _PONG}
        # A server masks nothing, and nothing that is looked for is sent in pieces.
        if second > _LONGER or first != _FIN | opcode or not (control or opcode == _BINARY):
            raise ValueError("no frame of a node")
        if size > (_MAX_CONTROL if control else _MAX_MESSAGE):
            raise ValueError("a frame is too long")
        payload = await self._reader.readexactly(size)
        if opcode == _PING:
            await self.send(_PONG, payload)
        if opcode == _CLOSE:
            reason = payload[2 : 2 + limits.MAX_CODE].decode("ascii", "replace")
            raise _ClosedError(reason if reason.isprintable() else "")
        return opcode, payload
