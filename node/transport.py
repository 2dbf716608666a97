"""Peer links: WebSockets over mutual TLS 1.3 with pinned certificates (aiohttp).

- A certificate is accepted if it is, byte for byte, on a linkable peer's card. OpenSSL checks it
  against these anchors in the handshake; both ends compare the DER again afterwards, because to
  OpenSSL an anchor might also vouch for others.
- No session tickets: with one, a peer removed since could come back without a handshake.
- Under TLS 1.3 a refused client learns of it at its first read only, so "connected" means nothing
  here; the signed hello above decides.
- Every connection is counted from the moment it is accepted, and has one deadline for TLS and HTTP
  together. Bounds are explicit; compression, redirects, cookies and proxies are off.
- Live links are closed by the caller: ``set_anchors`` concerns new handshakes only.
- Who has changed its certificate shows the old one to a dialer that asks for it: a peer that was
  away knows no other. It asks by a server name (RFC 6066 section 3), and only if it was shown one
  that is not on the card that it holds.
- Besides links there is one thing to be had here: the files of the log, by GET, without entries. A
  connection that reads them has shown its certificate, so it is no half-open one any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import aiohttp
import structlog
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web
from typing_extensions import override

from node import metrics
from node.certificates import certificate_digest, from_pem
from node.door import NAME, PATHS, Door
from node.metrics import Metrics
from node.tiles import Resource
from protocol import limits, suite
from protocol.errors import (
    AddressInUseError,
    BusyError,
    ConfigError,
    ConnectError,
    DecodeError,
    HandshakeError,
    LinkError,
    LinkTimeoutError,
    NotFoundError,
    NotKnownError,
    OversizeError,
    PicketError,
    UntrustedKeyError,
)
from protocol.statement import check_endpoint

PATH: Final = "/picket/1"
LOG_PREFIX: Final = "/log/"
_BACKLOG: Final = 128
_ACCEPT_PAUSE_S: Final = 0.1
_READ_AGAIN_S: Final = "1"
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which Python does not name
_ORDERLY: Final = frozenset({0, WSCloseCode.OK, WSCloseCode.GOING_AWAY})
_BROKEN: Final = (OSError, RuntimeError, aiohttp.ClientError)
_WAIT: Final = (
    "this node goes on trying; if it lasts, ask its operator: its node, a firewall or the network "
    "is down"
)
_ASK: Final = "something is in between, or the peer has a new card: ask its operator"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long to wait for the other end, and how much of it to bear."""

    handshake_s: float = limits.HELLO_TIMEOUT_MS / 1000
    send_s: float = limits.SEND_TIMEOUT_S
    frame_s: float = limits.FRAME_TIMEOUT_S
    heartbeat_s: float = limits.HEARTBEAT_S
    close_s: float = limits.CLOSE_TIMEOUT_S
    half_open: int = limits.MAX_HALF_OPEN
    half_open_per_address: int = limits.MAX_HALF_OPEN_PER_ADDRESS
    links_per_certificate: int = limits.MAX_LINKS_PER_CERTIFICATE
    readers: int = limits.MAX_LOG_READERS
    readers_per_certificate: int = limits.MAX_LOG_READERS_PER_PEER
    reader_idle_s: float = limits.LOG_READER_IDLE_S


BOUNDS: Final = Bounds()


# --- TLS -------------------------------------------------------------------------------------
def _context(
    protocol: ssl._SSLMethod, identity_pem: Path, anchors: Collection[bytes]
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is compared instead
    context.verify_mode = ssl.CERT_REQUIRED
    # PARTIAL_CHAIN looks for the very certificate; without it, OpenSSL looks for an issuer of that
    # name first, and a peer that copies another's name would keep the other out. The dates decide
    # nothing: a node with a wrong clock must be able to link, to be told so.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    try:
        context.load_cert_chain(identity_pem)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"the TLS key in {identity_pem} cannot be used: {error.strerror or error}",
            fix="restore the file from the backup of this node's folder",
        ) from None
    for anchor in anchors:
        # One by one, so that one odd certificate on one card does not shut everybody out.
        try:
            context.load_verify_locations(cadata=anchor)
        except (ssl.SSLError, ValueError):
            _log.warning("certificate-unusable", code=certificate_digest(anchor).hex())
    return context


def _read_certificate(identity_pem: Path) -> bytes:
    try:
        return from_pem(identity_pem.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(
            f"the TLS key in {identity_pem} cannot be used",
            fix="restore the file from the backup of this node's folder",
        ) from None


def _server_context(
    identity_pem: Path, anchors: Collection[bytes], *, strangers: bool
) -> ssl.SSLContext:
    context = _context(ssl.PROTOCOL_TLS_SERVER, identity_pem, anchors)
    if strangers:
        # A certificate that is shown must be an anchor still; without one only the door opens.
        context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    return context


def tls_name(certificate: bytes) -> str:
    """Return the server name by which a dialer asks to be shown *certificate* (DER)."""
    return f"{suite.digest('tls-name', certificate).hex()[:32]}.picket.invalid"


def _certificate(transport: asyncio.BaseTransport | None) -> bytes | None:
    secured = None if transport is None else transport.get_extra_info("ssl_object")
    return None if secured is None else secured.getpeercert(binary_form=True)


# --- a link ----------------------------------------------------------------------------------
class Link:
    """One WebSocket; messages are bytes. One task receives, and one sends."""

    def __init__(
        self,
        websocket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        *,
        peer_certificate: bytes,
        remote: str,
        bounds: Bounds,
        own_certificate: bytes = b"",
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        """Wrap an open *websocket*; *session* is closed with it.

        *own_certificate* is the one that this end has shown.
        """
        self.peer_certificate = peer_certificate
        self.own_certificate = own_certificate
        self.remote = remote
        self._websocket = websocket
        self._socket = websocket.get_extra_info("socket")
        self._session = session
        self._bounds = bounds
        self._closing = False
        self._ended = False
        self._lost = False
        self._stalled = False

    async def send(self, data: bytes) -> None:
        """Send one message, once the other end has taken most of what was sent before.

        Raises:
            LinkTimeoutError: the other end did not read for too long; the link is cut.
            LinkError: the connection is gone.
        """
        if self._lost:
            raise LinkError(f"the link with {self.remote} is gone")
        try:
            with self._cut_after(self._bounds.send_s):
                await self._websocket.send_bytes(data)
        except _BROKEN as error:
            if not self._stalled:
                raise LinkError(
                    f"the link with {self.remote} broke: {type(error).__name__}"
                ) from None
        if self._stalled:
            raise LinkTimeoutError(f"{self.remote} took nothing for {self._bounds.send_s:g} s")

    async def receive(self) -> bytes | None:
        """Return the next message, or None when the link was closed in order by either end.

        Raises:
            LinkTimeoutError: nothing whole came for too long, not even an answer to a ping.
            LinkError: something came that is no binary message within the bound, or the connection
                is gone.
        """
        if self._ended:
            return None
        try:
            message = await self._websocket.receive()
        except TimeoutError:
            self._end()
            raise LinkTimeoutError(
                f"nothing whole came from {self.remote} for {self._bounds.frame_s:g} s"
            ) from None
        except _BROKEN as error:
            self._end()
            raise LinkError(f"the link with {self.remote} broke: {type(error).__name__}") from None
        if message.type is WSMsgType.BINARY:
            return bytes(message.data)
        if message.type is WSMsgType.TEXT:
            await self._close(WSCloseCode.UNSUPPORTED_DATA, b"")
        if not self._is_orderly(message):
            self._end()
            raise self._fault(message)
        self._ended = True
        return None

    def _is_orderly(self, message: WSMessage) -> bool:
        if message.type is WSMsgType.CLOSE:
            return message.data in _ORDERLY
        return self._closing and message.type in {WSMsgType.CLOSING, WSMsgType.CLOSED}

    def _fault(self, message: WSMessage) -> LinkError:
        cause = self._websocket.exception()
        if message.type is WSMsgType.TEXT:
            return LinkError(f"{self.remote} sent text where only binary frames are allowed")
        if message.type is WSMsgType.CLOSE:
            return LinkError(f"{self.remote} closed the link with WebSocket code {message.data}")
        if isinstance(message.data, aiohttp.WebSocketError):
            code = message.data.code
            if code == WSCloseCode.MESSAGE_TOO_BIG:
                return OversizeError(f"{self.remote} sent a frame over the limit (WebSocket 1009)")
            return LinkError(f"{self.remote} sent no frames (WebSocket code {int(code)})")
        if isinstance(cause, TimeoutError):
            return LinkTimeoutError(f"{self.remote} did not answer a ping")
        return LinkError(f"the link with {self.remote} ended without a goodbye")

    async def close(self, code: str) -> None:
        """Close; *code* says why in the closing frame. Closing again does nothing."""
        self._closing = True
        await self._close(WSCloseCode.OK, code.encode("ascii", "replace")[: limits.MAX_CODE])

    async def _close(self, status: WSCloseCode, reason: bytes) -> None:
        try:
            with contextlib.suppress(*_BROKEN), self._cut_after(self._bounds.close_s):
                await self._websocket.close(code=status, message=reason)
        finally:
            if self._session is not None:
                await self._session.close()

    @contextlib.contextmanager
    def _cut_after(self, seconds: float) -> Iterator[None]:
        """Cut the link if the block takes longer.

        Cancelling the block instead would cancel a future that aiohttp shares between all who
        write, so that another task would take itself for cancelled.
        """

        def cut() -> None:
            self._stalled = True
            self._cut()

        timer = asyncio.get_running_loop().call_later(seconds, cut)
        try:
            yield
        finally:
            timer.cancel()

    def _end(self) -> None:
        self._ended = True
        self._cut()

    def _cut(self) -> None:
        """Shut the socket down, so that nothing waits for data that will never be taken."""
        self._lost = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is gone already
                self._socket.shutdown(socket.SHUT_RDWR)


# --- accepting -------------------------------------------------------------------------------
class _Server(web.Server):
    """Tells when a connection is lost."""

    def __init__(
        self,
        respond: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        lost: Callable[[web.RequestHandler], None],
        idle_s: float,
    ) -> None:
        super().__init__(respond, access_log=None, lingering_time=0.0, keepalive_timeout=idle_s)
        self._lost = lost

    @override
    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        super().connection_lost(handler, exc)
        self._lost(handler)


class Listener:
    """Accepts links from peers."""

    def __init__(
        self,
        *,
        identity_pem: Path,
        anchors: Collection[bytes],
        on_link: Callable[[Link], Awaitable[None]],
        on_read: Callable[[bytes, str], Awaitable[Resource]] | None = None,
        door: Door | None = None,
        bounds: Bounds = BOUNDS,
        counts: Metrics | None = None,
    ) -> None:
        """Prepare; *on_link* runs for each pinned link, and the link ends with it.

        *on_read* returns what a pinned certificate may read of the log, by its path there. It
        raises UntrustedKeyError, NotFoundError or BusyError where it may not, or not now. With a
        *door* a caller without a certificate may use that; without one nobody gets so far.

        Raises:
            ConfigError: *identity_pem* cannot be used.
        """
        self._pem = identity_pem
        self._door = door
        self._on_link = on_link
        self._on_read = on_read
        self._metrics = counts or Metrics()
        self._bounds = bounds
        self._anchors = frozenset(anchors)
        self._others: Mapping[bytes, Path] = {}
        self._shown: WeakKeyDictionary[ssl.SSLContext, bytes] = WeakKeyDictionary()
        self._context = self._contexts()
        self._server: _Server | None = None
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._admitting: set[asyncio.Task[None]] = set()
        self._half_open: Counter[str] = Counter()
        self._settling: dict[web.RequestHandler, asyncio.Future[None]] = {}
        self._links: set[Link] = set()
        self._readers: dict[web.RequestHandler, bytes] = {}

    def set_anchors(self, anchors: Collection[bytes]) -> None:
        """Accept exactly the certificates *anchors* (DER) from now on.

        Anchors cannot be taken out of a context, so each handshake is given the newest one.

        Raises:
            ConfigError: this node's own TLS key cannot be read any more.
        """
        if frozenset(anchors) != self._anchors:
            self._anchors = frozenset(anchors)
            self._context = self._contexts()

    def set_certificates(self, others: Mapping[bytes, Path]) -> None:
        """Show what lies in *identity_pem* now, and one of *others* (by DER) to whoever asks.

        Raises:
            ConfigError: one of them cannot be used.
        """
        self._others = dict(others)
        self._context = self._contexts()

    def _contexts(self) -> ssl.SSLContext:
        strangers = self._door is not None
        context = _server_context(self._pem, self._anchors, strangers=strangers)
        self._shown[context] = _read_certificate(self._pem)
        named: dict[str, ssl.SSLContext] = {}
        for certificate, pem in self._others.items():
            other = _server_context(pem, self._anchors, strangers=strangers)
            named[tls_name(certificate)] = other
            self._shown[other] = certificate

        def choose(secured: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if name in named:
                secured.context = named[name]

        if named:
            context.sni_callback = choose
        return context

    async def start(self, host: str, port: int) -> int:
        """Listen on *host* (``::`` is every address, IPv4 as well); return the bound port.

        Raises:
            AddressInUseError: another program has the port.
            ConfigError: the address is not one of this machine, or not allowed to us.
        """
        self._listening = await _listen(host, port)
        self._server = _Server(self._respond, self._lost, self._bounds.reader_idle_s)
        self._accepting = asyncio.create_task(self._accept(self._server, self._listening))
        bound: int = self._listening.getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop accepting, drop what is half-open, and close the links."""
        if self._server is None or self._listening is None or self._accepting is None:
            return
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listening.close()
        for task in self._admitting:
            task.cancel()
        await asyncio.gather(*self._admitting, return_exceptions=True)
        await asyncio.gather(*(link.close("shutdown") for link in self._links))
        await self._server.shutdown(self._bounds.close_s)

    # --- from accept to WebSocket ------------------------------------------------------------
    async def _accept(self, server: _Server, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:
                # Out of descriptors, or the fault of one client: what is open lives on.
                _log.warning("accept-failed", code=errno.errorcode.get(error.errno or 0))
                self._metrics.add(metrics.CONNECTIONS_REFUSED, "files")
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            self._count_in(server, connection, address[0], address[1])
            await asyncio.sleep(0)  # a flood of connections must not starve the links

    def _count_in(self, server: _Server, connection: socket.socket, host: str, port: int) -> None:
        origin = _origin(host)
        full = self._half_open.total() >= self._bounds.half_open
        if full or self._half_open[origin] >= self._bounds.half_open_per_address:
            reason = "half-open" if full else "half-open-address"
            self._metrics.add(metrics.CONNECTIONS_REFUSED, reason)
            connection.close()
            return
        self._half_open[origin] += 1
        task = asyncio.create_task(self._admit(server, connection, origin, _join(host, port)))
        self._admitting.add(task)
        task.add_done_callback(self._admitting.discard)

    async def _admit(
        self, server: _Server, connection: socket.socket, origin: str, remote: str
    ) -> None:
        """See one connection through TLS and HTTP until it is a link or lost, in time."""
        loop = asyncio.get_running_loop()
        handler = server()
        settled = self._settling[handler] = loop.create_future()
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(self._bounds.handshake_s):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: handler,
                    connection,
                    ssl=self._context,
                    ssl_handshake_timeout=self._bounds.handshake_s,
                    ssl_shutdown_timeout=self._bounds.close_s,
                )
                await settled
        except OSError as error:  # also TimeoutError and ssl.SSLError
            if isinstance(error, TimeoutError):
                self._metrics.add(metrics.HANDSHAKE_TIMEOUTS)
            _log.debug("connection-refused", code=type(error).__name__)
        finally:
            if transport is not None and settled.cancelled():
                transport.abort()
            self._settling.pop(handler, None)
            self._half_open[origin] -= 1
            if not self._half_open[origin]:
                del self._half_open[origin]

    def _lost(self, handler: web.RequestHandler) -> None:
        self._readers.pop(handler, None)
        self._settle(handler)

    def _settle(self, handler: web.RequestHandler) -> None:
        settled = self._settling.pop(handler, None)
        if settled is not None and not settled.done():
            settled.set_result(None)

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._door is not None and request.raw_path in PATHS and request.transport is not None:
            host = request.transport.get_extra_info("peername")[0]
            return await self._door.answer(request, _origin(host))
        reads = self._on_read is not None and request.raw_path.startswith(LOG_PREFIX)
        if request.raw_path != PATH and not reads:
            return _refusal(HTTPStatus.NOT_FOUND)
        transport = request.transport
        certificate = _certificate(transport)
        if transport is None or certificate is None or certificate not in self._anchors:
            return _refusal(HTTPStatus.FORBIDDEN)
        if reads:
            return await self._read(request, certificate)
        same = sum(link.peer_certificate == certificate for link in self._links)
        if same >= self._bounds.links_per_certificate:
            self._metrics.add(metrics.CONNECTIONS_REFUSED, "links-per-certificate")
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE)
        websocket = web.WebSocketResponse(
            # aiohttp refuses a message that is as long as its bound
            max_msg_size=limits.MAX_FRAME + 1,
            compress=False,
            heartbeat=self._bounds.heartbeat_s,
            receive_timeout=self._bounds.frame_s,
            timeout=self._bounds.close_s,
        )
        if request.method != "GET" or not websocket.can_prepare(request):
            return _refusal(HTTPStatus.UPGRADE_REQUIRED)
        await websocket.prepare(request)
        self._settle(request.protocol)
        await self._run(
            Link(
                websocket,
                peer_certificate=certificate,
                remote=_join(*transport.get_extra_info("peername")[:2]),
                bounds=self._bounds,
                own_certificate=self._shown[transport.get_extra_info("ssl_object").context],
            )
        )
        return websocket

    # --- the log's files ---------------------------------------------------------------------
    async def _read(self, request: web.BaseRequest, certificate: bytes) -> web.StreamResponse:
        """Answer one request for a file of the log, and see that the answer is taken in time."""
        handler = request.protocol
        if not self._admits_reader(handler, certificate):
            self._metrics.add(metrics.CONNECTIONS_REFUSED, "log-readers")
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE)
        self._readers[handler] = certificate
        self._settle(handler)
        response = await self._page(request, certificate)
        try:
            async with asyncio.timeout(self._bounds.send_s):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    def _admits_reader(self, handler: web.RequestHandler, certificate: bytes) -> bool:
        if handler in self._readers:
            return True
        same = sum(reader == certificate for reader in self._readers.values())
        full = len(self._readers) >= self._bounds.readers
        return not full and same < self._bounds.readers_per_certificate

    async def _page(self, request: web.BaseRequest, certificate: bytes) -> web.Response:
        if self._on_read is None or request.method not in {"GET", "HEAD"}:
            return _refusal(HTTPStatus.NOT_FOUND)
        try:
            found = await self._on_read(certificate, request.raw_path.removeprefix(LOG_PREFIX))
        except NotFoundError:
            return web.Response(status=HTTPStatus.NOT_FOUND)
        except UntrustedKeyError:
            return _refusal(HTTPStatus.FORBIDDEN)
        except BusyError:
            return web.Response(
                status=HTTPStatus.TOO_MANY_REQUESTS, headers={"Retry-After": _READ_AGAIN_S}
            )
        except PicketError as error:
            _log.error("log-unreadable", code=error.code)
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR)
        return web.Response(
            body=found.body,
            content_type=found.content_type,
            charset="utf-8" if found.content_type.startswith("text/") else None,
            headers={"Cache-Control": found.caching, "X-Content-Type-Options": "nosniff"},
        )

    async def _run(self, link: Link) -> None:
        self._links.add(link)
        try:
            await self._on_link(link)
        finally:
            self._links.discard(link)
            await link.close("done")


def _refusal(status: int) -> web.Response:
    response = web.Response(status=status, headers={"Server": NAME})
    response.force_close()
    return response


async def _listen(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    try:
        family, _, _, _, address = (
            await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )[0]
        listening = socket.create_server(
            address[:2],
            family=family,
            backlog=_BACKLOG,
            dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        kind = AddressInUseError if error.errno == errno.EADDRINUSE else ConfigError
        raise kind(
            f"peers cannot be awaited on {_join(host, port)}: {error.strerror}",
            fix="stop the other program, or set another address: peer.listen in picket.toml",
        ) from None
    listening.setblocking(False)
    return listening


def _origin(host: str) -> str:
    """Return what connections are counted by: whoever has one IPv6 address has a whole /64."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- dialling --------------------------------------------------------------------------------
async def dial(
    endpoint: str,
    *,
    identity_pem: Path,
    expected: Collection[bytes],
    ask: bytes | None = None,
    bounds: Bounds = BOUNDS,
) -> Link:
    """Open a link to *endpoint*, whose certificate must be one of *expected* (DER).

    With *ask* it is asked to show that one, in case that it has another in use by now.

    Raises:
        ConnectError: nobody answers there, or not in time.
        OtherCertificateError: it shows another certificate.
        HandshakeError: another certificate, or the other end does not accept ours.
        ConfigError: *identity_pem* cannot be used.
    """
    try:
        check_endpoint(endpoint)
    except DecodeError as error:
        raise ConnectError(error.message, fix="the peer must correct its card") from None
    where = urlsplit(endpoint).netloc
    gate = _Gate(where, frozenset(expected))
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            ssl=_context(ssl.PROTOCOL_TLS_CLIENT, identity_pem, expected),
            force_close=True,
            use_dns_cache=False,
        ),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(gate,),
        auto_decompress=False,
        trust_env=False,
    )
    try:
        async with asyncio.timeout(bounds.handshake_s):
            websocket = await _upgrade(session, endpoint, where, bounds, ask)
    except TimeoutError:
        await session.close()
        raise ConnectError(
            f"{where} did not answer in {bounds.handshake_s:g} s", fix=_WAIT
        ) from None
    except BaseException:
        await session.close()
        raise
    return Link(
        websocket, peer_certificate=gate.certificate, remote=where, bounds=bounds, session=session,
        own_certificate=_read_certificate(identity_pem),
    )  # fmt: skip


async def _upgrade(
    session: aiohttp.ClientSession, endpoint: str, where: str, bounds: Bounds, ask: bytes | None
) -> aiohttp.ClientWebSocketResponse:
    try:
        return await session.ws_connect(
            endpoint + PATH,
            max_msg_size=limits.MAX_FRAME + 1,
            compress=0,
            heartbeat=bounds.heartbeat_s,
            server_hostname=None if ask is None else tls_name(ask),
            timeout=aiohttp.ClientWSTimeout(ws_receive=bounds.frame_s, ws_close=bounds.close_s),
        )
    except aiohttp.WSServerHandshakeError as error:
        raise HandshakeError(
            f"{where} did not open a WebSocket: {error.message}", fix=_ASK
        ) from None
    except (aiohttp.InvalidURL, UnicodeError):
        raise ConnectError(
            f"{where} is no possible address", fix="the peer must correct its card"
        ) from None


class _Gate:
    """Lets exactly one request through, and only to the expected certificate.

    Without it aiohttp would follow redirects to wherever the peer points, and try a refused
    request again.
    """

    def __init__(self, where: str, expected: frozenset[bytes]) -> None:
        self._where = where
        self._expected = expected
        self.certificate = b""

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        try:
            response = await handler(request)
        except (aiohttp.ClientError, OSError) as error:
            raise _explain(error, self._where) from None
        try:
            self._check(response)
        except HandshakeError:
            response.close()
            raise
        return response

    def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status != HTTPStatus.SWITCHING_PROTOCOLS:
            raise HandshakeError(
                f"{self._where} answered with HTTP status {response.status} instead of a link",
                fix=_ASK,
            )
        connection = response.connection
        certificate = _certificate(None if connection is None else connection.transport)
        if certificate is None:
            raise _refused(self._where)
        if certificate not in self._expected:
            raise _interception(self._where)
        self.certificate = certificate


def _explain(error: Exception, where: str) -> LinkError:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return _interception(where)
        case aiohttp.ClientConnectorSSLError():
            return HandshakeError(f"{where} does not speak TLS 1.3", fix=_ASK)
        case aiohttp.ClientConnectorError():
            return ConnectError(f"{where} cannot be reached: {_plainly(error)}", fix=_WAIT)
        case _:
            return _refused(where)


def _plainly(error: aiohttp.ClientConnectorError) -> str:
    """Return why no connection came about; the text of the system names Python's own calls."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "no such host name is known here"
    match error.os_error.errno:
        case errno.ECONNREFUSED:
            return "nothing answers at that port"
        case errno.EHOSTUNREACH | errno.ENETUNREACH:
            return "the network has no way to it"
        case errno.ETIMEDOUT:
            return "it does not answer"
        case None | 0:
            return "it closed the connection"
        case number:
            return os.strerror(number).lower()


def _refused(where: str) -> HandshakeError:
    return NotKnownError(
        f"it does not know this node yet, or is no Picket node ({where} ended the handshake)",
        fix="send it this node's card (picket keys card --out my.card); "
        "its operator adds it with: picket peers add my.card",
    )


class OtherCertificateError(HandshakeError):
    """The other end shows a certificate that is not on the card that is held of it."""


def _interception(where: str) -> OtherCertificateError:
    return OtherCertificateError(
        f"the certificate of {where} is not the one on the peer's card", fix=_ASK
    )
