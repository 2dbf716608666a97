"""Peer links: WebSockets over mutual TLS 1.3 with pinned certificates (aiohttp).

- A certificate is accepted if it is, byte for byte, on a linkable peer's card: OpenSSL checks it
  against these anchors in the handshake, and both ends compare the DER again afterwards.
- No session tickets: with one, a peer removed since could come back without a handshake.
- Under TLS 1.3 a refused client learns of it at its first read only, so "connected" means nothing
  here; the signed hello above decides.
- Bounds on message size, on half-open connections and on how long a send may stall are explicit;
  compression is off.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from protocol import limits
from protocol.errors import (
    AddressInUseError,
    ConnectError,
    HandshakeError,
    LinkError,
    LinkTimeoutError,
)

PATH: Final = "/picket/1"
_log = structlog.get_logger()
_SHUTDOWN_S: Final = 2.0
_CLOSE_S: Final = 2.0


class Link:
    """One WebSocket; messages are bytes."""

    def __init__(
        self,
        socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        *,
        peer_certificate: bytes,
        remote: str,
        session: aiohttp.ClientSession | None = None,
        send_timeout_s: float = limits.SEND_TIMEOUT_S,
    ) -> None:
        """Wrap an open *socket*; *session* is closed with it."""
        self._socket = socket
        self._session = session
        self._send_timeout_s = send_timeout_s
        self.peer_certificate = peer_certificate
        self.remote = remote

    async def send(self, data: bytes) -> None:
        """Send one message.

        Raises:
            LinkTimeoutError: the other end did not read for too long.
            LinkError: the connection is gone.
        """
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await self._socket.send_bytes(data)
        except TimeoutError:
            raise LinkTimeoutError(f"{self.remote} does not read what is sent to it") from None
        except (ConnectionError, RuntimeError, aiohttp.ClientError, ssl.SSLError) as error:
            raise LinkError(f"the link with {self.remote} broke: {type(error).__name__}") from None

    async def receive(self) -> bytes | None:
        """Return the next message, or None when the other end has closed.

        Raises:
            LinkError: it sent something that is no binary message within the bound, or broke.
        """
        try:
            message = await self._socket.receive()
        except (ConnectionError, RuntimeError, aiohttp.ClientError, ssl.SSLError) as error:
            raise LinkError(f"the link with {self.remote} broke: {type(error).__name__}") from None
        if message.type is WSMsgType.BINARY:
            data: bytes = message.data
            return data
        if message.type is WSMsgType.TEXT:
            await self._socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
            raise LinkError(f"{self.remote} sent text where only frames are allowed")
        if message.type is WSMsgType.ERROR:
            raise LinkError(f"the link with {self.remote} broke: {self._socket.exception()!r}")
        return None

    async def close(self, code: str) -> None:
        """Close; *code* travels in the close frame."""
        with contextlib.suppress(
            ConnectionError, RuntimeError, aiohttp.ClientError, ssl.SSLError, TimeoutError
        ):
            async with asyncio.timeout(_CLOSE_S):
                await self._socket.close(message=code.encode())
        if self._session is not None:
            await self._session.close()


def _context(purpose: int, pem: Path, anchors: Collection[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(purpose)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is compared instead
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pem)
    if anchors:
        context.load_verify_locations(cadata=b"".join(anchors))
    return context


def _server_context(pem: Path, anchors: Collection[bytes]) -> ssl.SSLContext:
    context = _context(ssl.PROTOCOL_TLS_SERVER, pem, anchors)
    context.num_tickets = 0
    return context


class Listener:
    """Accepts links from peers."""

    def __init__(
        self,
        *,
        identity_pem: Path,
        anchors: Collection[bytes],
        on_link: Callable[[Link], Awaitable[None]],
        handshake_timeout_s: float = limits.HELLO_TIMEOUT_MS / 1000,
    ) -> None:
        """Prepare; *on_link* runs for each pinned link and the link ends with it."""
        self._pem = identity_pem
        self._on_link = on_link
        self._timeout_s = handshake_timeout_s
        self._anchors: frozenset[bytes] = frozenset(anchors)
        self._inner = _server_context(identity_pem, anchors)
        self._runner: web.AppRunner | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def set_anchors(self, anchors: Collection[bytes]) -> None:
        """Accept exactly the certificates *anchors* (DER) from the next handshake on."""
        if frozenset(anchors) != self._anchors:
            self._anchors = frozenset(anchors)
            self._inner = _server_context(self._pem, anchors)

    async def start(self, host: str, port: int) -> int:
        """Listen; return the bound port.

        Raises:
            AddressInUseError: the address cannot be used.
        """
        app = web.Application()
        app.router.add_get(PATH, self._handle)
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=_SHUTDOWN_S, handle_signals=False
        )
        await runner.setup()
        outer = _server_context(self._pem, self._anchors)
        # Anchors cannot be taken out of a context, so each handshake is given the newest one.
        outer.sni_callback = self._newest
        guard = _Guard(runner.server)
        try:
            loop = asyncio.get_running_loop()
            server = await loop.create_server(
                guard, host, port, ssl=outer, ssl_handshake_timeout=self._timeout_s,
                reuse_address=True,
            )  # fmt: skip
        except OSError as error:
            await runner.cleanup()
            if error.errno in {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES}:
                raise AddressInUseError(
                    f"the peer address {host}:{port} cannot be used: {error.strerror}",
                    fix="stop the other program, or set another [peer] listen",
                ) from None
            raise
        self._runner, self._server = runner, server
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def _newest(self, connection: ssl.SSLObject, _name: str | None, _context: object) -> None:
        connection.context = self._inner

    async def stop(self) -> None:
        """Stop accepting and close what is open."""
        if self._runner is not None:
            self._server.close()
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        secured = None if transport is None else transport.get_extra_info("ssl_object")
        der = None if secured is None else secured.getpeercert(binary_form=True)
        if der is None or der not in self._anchors:
            return web.Response(status=403)
        socket = web.WebSocketResponse(
            max_msg_size=limits.MAX_FRAME, compress=False, heartbeat=limits.HEARTBEAT_S,
            timeout=_CLOSE_S,
        )  # fmt: skip
        await socket.prepare(request)
        await self._on_link(Link(socket, peer_certificate=der, remote=str(request.remote)))
        return socket


class _Guard:
    """Makes protocols for accepted connections."""

    def __init__(self, server: web.Server | None) -> None:
        assert server is not None  # noqa: S101  set up before
        self._server = server

    def __call__(self) -> asyncio.BaseProtocol:
        return self._server()


async def dial(
    endpoint: str,
    *,
    identity_pem: Path,
    expected: Collection[bytes],
    timeout_s: float = limits.HELLO_TIMEOUT_MS / 1000,
) -> Link:
    """Open a link to *endpoint*, whose certificate must be one of *expected* (DER).

    Raises:
        ConnectError: nobody answers there.
        HandshakeError: another certificate, or the other end does not accept ours.
    """
    where = urlsplit(endpoint).netloc
    context = _context(ssl.PROTOCOL_TLS_CLIENT, identity_pem, expected)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=1, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout_s),
        auto_decompress=False,
        trust_env=False,
    )
    try:
        async with asyncio.timeout(timeout_s):
            socket = await session.ws_connect(
                endpoint + PATH, max_msg_size=limits.MAX_FRAME, compress=0,
                heartbeat=limits.HEARTBEAT_S,
            )  # fmt: skip
        secured = socket.get_extra_info("ssl_object")
        der = None if secured is None else secured.getpeercert(binary_form=True)
        if der is None or der not in expected:
            await socket.close()
            await session.close()
            _refuse(where)
    except TimeoutError:
        await session.close()
        raise ConnectError(f"{where} did not answer in {timeout_s:.0f} s") from None
    except aiohttp.ClientConnectorCertificateError:
        await session.close()
        raise _interception(where) from None
    except (aiohttp.ClientSSLError, ssl.SSLError):
        await session.close()
        raise _interception(where) from None
    except aiohttp.ClientConnectorError as error:
        await session.close()
        raise ConnectError(f"{where} cannot be reached: {error.strerror}") from None
    except (aiohttp.ClientError, ConnectionError, OSError):
        await session.close()
        raise HandshakeError(
            f"{where} ended the handshake: it has not approved this node yet, or is no Picket node",
            fix="ask its operator to approve this node",
        ) from None
    except BaseException:
        await session.close()
        raise
    return Link(socket, peer_certificate=der, remote=where, session=session)


def _refuse(where: str) -> NoReturn:
    raise _interception(where)


def _interception(where: str) -> HandshakeError:
    return HandshakeError(
        f"the certificate of {where} is not the one on its card",
        fix="something is in between, or the peer has a new card: ask its operator",
    )
