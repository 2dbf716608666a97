"""The transport over real loopback sockets: who gets in, who does not, and what it may cost."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import socket
import ssl
import struct
import tracemalloc
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.testing import capture_logs

from node.certificates import make_certificate, to_pem
from node.transport import PATH, Bounds, Link, Listener, _origin, dial
from protocol import limits
from protocol.errors import (
    AddressInUseError,
    ConfigError,
    ConnectError,
    HandshakeError,
    LinkError,
    LinkTimeoutError,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PATIENCE_S = 10.0
UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
BINARY, TEXT, CONTINUED, CLOSE, FIN = 2, 1, 0, 8, 0x80


# --- nodes -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Identity:
    der: bytes
    pem: Path

    def context(self, protocol: ssl._SSLMethod, anchors: Collection[bytes] = ()) -> ssl.SSLContext:
        """A plain context with this certificate, pinned to *anchors* if there are any."""
        context = ssl.SSLContext(protocol)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED if anchors else ssl.CERT_NONE
        context.load_cert_chain(self.pem)
        for anchor in anchors:
            context.load_verify_locations(cadata=anchor)
        return context


Make = Callable[..., Identity]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_identity(number: int, *, name: str = "", now: datetime = NOW) -> Identity:
        seed = bytes([number]) * 32
        der = make_certificate(seed, name=name or f"Authority {number}", now=now)
        return write(tmp_path, number, to_pem(der, seed), der)

    return make_identity


def write(folder: Path, number: int, pem: bytes, der: bytes) -> Identity:
    path = folder / f"{number}.pem"
    path.write_bytes(pem)
    path.chmod(0o600)
    return Identity(der, path)


@pytest.fixture
def server(make: Make) -> Identity:
    return make(1)


@pytest.fixture
def client(make: Make) -> Identity:
    return make(2)


@pytest.fixture
def stranger(make: Make) -> Identity:
    return make(3)


@dataclass
class Host:
    """A listener with what happened on it."""

    listener: Listener
    identity: Identity
    port: int = 0
    links: asyncio.Queue[Link] = field(default_factory=asyncio.Queue)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def dial(self, who: Identity, **bounds: float) -> Link:
        return await dial(
            f"wss://127.0.0.1:{self.port}",
            identity_pem=who.pem,
            expected=(self.identity.der,),
            bounds=Bounds(**{"close_s": 0.2} | bounds),  # type: ignore[arg-type]
        )


@asynccontextmanager
async def hosting(
    identity: Identity,
    anchors: Collection[bytes],
    *,
    on_link: Callable[[Link], Awaitable[None]] | None = None,
    address: str = "127.0.0.1",
    **bounds: float,
) -> AsyncIterator[Host]:
    """Listen; by default each link is queued for the test and lives until the end."""
    host: Host

    async def keep(link: Link) -> None:
        host.links.put_nowait(link)
        await host.release.wait()

    listener = Listener(
        identity_pem=identity.pem,
        anchors=anchors,
        on_link=on_link or keep,
        bounds=Bounds(**bounds),  # type: ignore[arg-type]
    )
    host = Host(listener, identity)
    host.port = await listener.start(address, 0)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield host
    finally:
        host.release.set()
        await listener.stop()


async def echo(link: Link) -> None:
    while (message := await link.receive()) is not None:
        await link.send(message)


# --- a client and a server that break the rules ----------------------------------------------
class Raw:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def frame(self, first: int, payload: bytes, *, length: int | None = None) -> None:
        size = len(payload) if length is None else length
        head = bytes([first, 0x80 | size]) if size < 126 else b""
        if 126 <= size <= 0xFFFF:
            head = bytes([first, 0x80 | 126]) + struct.pack(">H", size)
        if size > 0xFFFF:
            head = bytes([first, 0x80 | 127]) + struct.pack(">Q", size)
        self.send(head + bytes(4) + payload)  # a mask of zeros changes nothing

    async def request(self, head: str) -> str:
        """Send a request, return the status line and headers of the answer."""
        self.send(head.encode())
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def open(self) -> None:
        assert (await self.request(UPGRADE.format(path=PATH))).startswith("HTTP/1.1 101 ")

    async def accept(self) -> None:
        """Answer the request of a WebSocket client (RFC 6455 section 4.2.2)."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        key = head.split("Sec-WebSocket-Key: ")[1].split("\r\n")[0]
        guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = b64encode(hashlib.sha1((key + guid).encode(), usedforsecurity=False).digest())
        self.send(
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    async def read_close(self) -> tuple[int, bytes]:
        """Return code and reason of the closing frame that comes next."""
        first, size = await self.reader.readexactly(2)
        assert first == FIN | CLOSE
        payload = await self.reader.readexactly(size)
        return int.from_bytes(payload[:2], "big"), payload[2:]

    async def rest(self) -> bytes:
        """Return what still comes before the other end is gone."""
        try:
            return await self.reader.read()
        except (ConnectionError, ssl.SSLError):
            return b""

    async def dribble(self, data: bytes) -> float:
        """Send a byte of *data* (repeated) every 20 ms until cut off; return how long it took."""
        loop = asyncio.get_running_loop()
        began, at = loop.time(), 0
        while True:
            try:
                async with asyncio.timeout(0.02):
                    await self.reader.read(1)
            except TimeoutError:
                self.send(data[at % len(data) : at % len(data) + 1])
                at += 1
                continue
            except (ConnectionError, ssl.SSLError):
                pass
            return loop.time() - began


@asynccontextmanager
async def raw(
    port: int, context: ssl.SSLContext | None = None, *, source: str = "127.0.0.1"
) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        port,
        ssl=context,
        server_hostname="" if context else None,
        local_addr=(source, 0),
    )
    try:
        yield Raw(reader, writer)
    finally:
        await end(writer)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


@asynccontextmanager
async def fake(
    act: Callable[[Raw], Awaitable[None]], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve *act* to whoever connects; give the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await act(Raw(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            await end(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with asyncio.timeout(PATIENCE_S):
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


@asynccontextmanager
async def opened(host: Host, who: Identity) -> AsyncIterator[tuple[Raw, Link]]:
    """An open WebSocket in the hands of a raw peer, and the link at the other end."""
    context = who.context(ssl.PROTOCOL_TLS_CLIENT, [host.identity.der])
    async with raw(host.port, context) as peer:
        await peer.open()
        yield peer, await host.links.get()


# --- pinned both ways ------------------------------------------------------------------------
async def test_pinned_both_ways_carries_messages(server: Identity, client: Identity) -> None:
    async with hosting(server, [client.der]) as host:
        near = await host.dial(client)
        far = await host.links.get()
        assert (near.peer_certificate, far.peer_certificate) == (server.der, client.der)
        assert near.remote == f"127.0.0.1:{host.port}"
        assert far.remote.startswith("127.0.0.1:")
        for message in (b"", b"x", bytes(limits.MAX_FRAME)):
            await near.send(message)
            assert await far.receive() == message
            await far.send(message)
            assert await near.receive() == message
        await near.close("done")


async def test_twenty_links_in_parallel(make: Make, server: Identity) -> None:
    peers = [make(100 + i) for i in range(20)]

    async def talk(host: Host, peer: Identity) -> bytes | None:
        link = await host.dial(peer)
        await link.send(peer.der)
        answer = await link.receive()
        await link.close("done")
        return answer

    anchors = [peer.der for peer in peers]
    async with hosting(server, anchors, on_link=echo, half_open_per_address=20) as host:
        answers = await asyncio.gather(*(talk(host, peer) for peer in peers))
    assert answers == anchors


@pytest.mark.parametrize("at", ["[::1]", "127.0.0.1"])
async def test_all_addresses_are_ipv6_and_ipv4(server: Identity, client: Identity, at: str) -> None:
    async with hosting(server, [client.der], address="::", on_link=echo) as host:
        endpoint = f"wss://{at}:{host.port}"
        link = await dial(endpoint, identity_pem=client.pem, expected=[server.der])
        assert link.remote == f"{at}:{host.port}"
        await link.send(b"x")
        assert await link.receive() == b"x"
        await link.close("done")


@pytest.mark.parametrize("days", [-4000, 400])
async def test_wrong_clock_does_not_keep_a_pinned_peer_out(
    make: Make, server: Identity, days: int
) -> None:
    odd = make(4, now=datetime.now(UTC) + timedelta(days=days))
    async with hosting(server, [odd.der]) as host:
        await (await host.dial(odd)).close("done")


async def test_proxy_of_the_environment_is_not_used(
    server: Identity, client: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "ws_proxy", "wss_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with hosting(server, [client.der]) as host:
        await (await host.dial(client)).close("done")


# --- who is refused --------------------------------------------------------------------------
async def test_unknown_client_is_refused_before_on_link(
    server: Identity, client: Identity, stranger: Identity
) -> None:
    async with hosting(server, [client.der]) as host:
        with pytest.raises(HandshakeError, match="does not know this node"):
            await host.dial(stranger)
        assert host.links.empty()


async def test_nobody_gets_in_without_anchors(server: Identity, client: Identity) -> None:
    async with hosting(server, []) as host:
        with pytest.raises(HandshakeError, match="does not know this node"):
            await host.dial(client)
        assert host.links.empty()


async def test_client_without_certificate_is_refused(server: Identity, client: Identity) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with hosting(server, [client.der]) as host, raw(host.port, context) as peer:
        peer.send(UPGRADE.format(path=PATH).encode())
        assert await peer.rest() == b""
        assert host.links.empty()


async def test_tls_1_2_client_is_refused(server: Identity, client: Identity) -> None:
    context = client.context(ssl.PROTOCOL_TLS_CLIENT, [server.der])
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with hosting(server, [client.der]) as host:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", host.port, ssl=context, server_hostname="")
        assert host.links.empty()


async def test_plain_http_client_is_refused(server: Identity, client: Identity) -> None:
    async with hosting(server, [client.der]) as host, raw(host.port) as peer:
        peer.send(UPGRADE.format(path=PATH).encode())
        assert b"HTTP" not in await peer.rest()
        assert host.links.empty()


async def test_certificate_in_between_is_named(server: Identity, stranger: Identity) -> None:
    heard: list[bytes] = []

    async def inspect(peer: Raw) -> None:
        heard.append(await peer.rest())

    async with fake(inspect, stranger.context(ssl.PROTOCOL_TLS_SERVER)) as port:
        with pytest.raises(HandshakeError) as caught:
            await dial(f"wss://127.0.0.1:{port}", identity_pem=stranger.pem, expected=[server.der])
    assert caught.value.diagnostics() == (
        f"the certificate of 127.0.0.1:{port} is not the one on the peer's card. something is in "
        "between, or the peer has a new card: ask its operator"
    )
    assert heard in ([], [b""])


async def test_any_of_several_expected_certificates_will_do(
    make: Make, server: Identity, client: Identity
) -> None:
    async with hosting(server, [client.der], on_link=echo) as host:
        link = await dial(
            f"wss://127.0.0.1:{host.port}",
            identity_pem=client.pem,
            expected=[make(4).der, server.der],
        )
        assert link.peer_certificate == server.der
        await link.close("done")


async def test_no_expected_certificate_means_nobody(server: Identity, client: Identity) -> None:
    async with hosting(server, [client.der]) as host:
        with pytest.raises(HandshakeError, match="not the one on the peer's card"):
            await dial(f"wss://127.0.0.1:{host.port}", identity_pem=client.pem, expected=[])


@pytest.fixture
def vouched(tmp_path: Path) -> tuple[bytes, Identity]:
    """A certificate that may vouch for others, and one that it vouches for."""
    issuer, key = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (50, 51))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Issuer")])
    blank = (
        x509.CertificateBuilder()
        .issuer_name(name)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=9000))
        .serial_number(7)
    )
    anchor = (
        blank.subject_name(name)
        .public_key(issuer.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(issuer, None)
    )
    leaf = (
        blank.subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Leaf")]))
        .public_key(key.public_key())
        .sign(issuer, None)
    )
    der = leaf.public_bytes(Encoding.DER)
    return anchor.public_bytes(Encoding.DER), write(
        tmp_path, 51, to_pem(der, bytes([51]) * 32), der
    )


async def test_client_that_a_pinned_certificate_vouches_for_is_refused(
    server: Identity, vouched: tuple[bytes, Identity]
) -> None:
    anchor, leaf = vouched
    async with hosting(server, [anchor]) as host:
        with pytest.raises(HandshakeError, match="HTTP status 403"):
            await host.dial(leaf)
        assert host.links.empty()


async def test_server_that_the_expected_certificate_vouches_for_is_refused(
    client: Identity, vouched: tuple[bytes, Identity]
) -> None:
    anchor, leaf = vouched
    async with hosting(leaf, [client.der]) as host:
        with pytest.raises(HandshakeError, match="not the one on the peer's card"):
            await dial(f"wss://127.0.0.1:{host.port}", identity_pem=client.pem, expected=[anchor])


@pytest.mark.parametrize("mimic_first", [True, False])
async def test_peer_with_the_name_of_another_does_not_keep_it_out(
    make: Make, server: Identity, mimic_first: bool
) -> None:
    victim, mimic = make(4, name="Utopia"), make(5, name="Utopia")
    anchors = [mimic.der, victim.der] if mimic_first else [victim.der, mimic.der]
    async with hosting(server, anchors, on_link=echo) as host:
        for peer in (victim, mimic):
            await (await host.dial(peer)).close("done")


@pytest.mark.parametrize("junk", [b"", b"no certificate", b"0\x82\x01\x00"])
async def test_unusable_certificate_on_one_card_does_not_shut_others_out(
    server: Identity, client: Identity, junk: bytes
) -> None:
    with capture_logs() as logs:
        async with hosting(server, [junk, client.der]) as host:
            await (await host.dial(client)).close("done")
    assert "certificate-unusable" in [entry["event"] for entry in logs]


# --- revocation ------------------------------------------------------------------------------
async def test_revoked_certificate_is_refused_and_the_live_link_is_left_to_the_caller(
    server: Identity, client: Identity, stranger: Identity
) -> None:
    async with hosting(server, [client.der], on_link=echo) as host:
        link = await host.dial(client)
        host.listener.set_anchors([stranger.der])
        with pytest.raises(HandshakeError, match="does not know this node"):
            await host.dial(client)
        await (await host.dial(stranger)).close("done")
        await link.send(b"still here")
        assert await link.receive() == b"still here"
        await link.close("done")
        host.listener.set_anchors([client.der])
        await (await host.dial(client)).close("done")


async def test_certificate_revoked_between_handshake_and_request_is_refused(
    server: Identity, client: Identity
) -> None:
    context = client.context(ssl.PROTOCOL_TLS_CLIENT, [server.der])
    async with hosting(server, [client.der]) as host, raw(host.port, context) as peer:
        host.listener.set_anchors([])
        assert (await peer.request(UPGRADE.format(path=PATH))).startswith("HTTP/1.1 403 ")
        assert host.links.empty()


def upgrade_with(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bytes, ssl.SSLSession | None, bool | None]:
    """Upgrade over a blocking socket, which unlike asyncio's can offer an old TLS session."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain,
        context.wrap_socket(plain, session=session) as secured,
    ):
        try:
            secured.sendall(UPGRADE.format(path=PATH).encode())
            answer = secured.recv(12)
        except (ssl.SSLError, ConnectionError):
            answer = b""
        return answer, secured.session, secured.session_reused


async def test_old_tls_session_brings_nobody_back(server: Identity, client: Identity) -> None:
    context = client.context(ssl.PROTOCOL_TLS_CLIENT, [server.der])
    async with hosting(server, [client.der], on_link=echo) as host:
        answer, session, _ = await asyncio.to_thread(upgrade_with, host.port, context, None)
        assert answer == b"HTTP/1.1 101"
        assert session is not None
        assert not session.has_ticket
        again = await asyncio.to_thread(upgrade_with, host.port, context, session)
        assert (again[0], again[2]) == (b"HTTP/1.1 101", False)
        host.listener.set_anchors([])
        again = await asyncio.to_thread(upgrade_with, host.port, context, session)
        assert (again[0], again[2]) == (b"", False)


# --- HTTP ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (UPGRADE.format(path="/"), 404),
        (UPGRADE.format(path="/picket/2"), 404),
        (UPGRADE.format(path=f"{PATH}?x=1"), 404),
        (UPGRADE.format(path=f"{PATH}/"), 404),
        (UPGRADE.format(path="/picket/%31"), 404),
        (UPGRADE.format(path=PATH).replace("GET", "POST"), 426),
        (f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (UPGRADE.format(path=PATH).replace("Version: 13", "Version: 12"), 426),
        (UPGRADE.format(path=PATH).replace("AAAA==", "=="), 426),
    ],
)
async def test_other_requests_get_an_empty_refusal(
    server: Identity, client: Identity, head: str, status: int
) -> None:
    context = client.context(ssl.PROTOCOL_TLS_CLIENT, [server.der])
    async with hosting(server, [client.der]) as host, raw(host.port, context) as peer:
        answer = await peer.request(head)
        assert answer.startswith(f"HTTP/1.1 {status} ")
        assert "Content-Length: 0\r\n" in answer
        assert await peer.rest() == b""
        assert host.links.empty()


@pytest.mark.parametrize("status", [200, 302, 404, 503])
async def test_answer_that_is_no_link_is_a_handshake_error_and_no_redirect_is_followed(
    server: Identity, client: Identity, status: int
) -> None:
    reached = asyncio.Event()

    async def elsewhere(_peer: Raw) -> None:
        reached.set()

    async with fake(elsewhere) as other:

        async def answer(peer: Raw) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            peer.send(
                f"HTTP/1.1 {status} x\r\nLocation: http://127.0.0.1:{other}/\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            await peer.rest()

        async with fake(answer, server.context(ssl.PROTOCOL_TLS_SERVER)) as port:
            with pytest.raises(HandshakeError, match=f"HTTP status {status}"):
                await dial(
                    f"wss://127.0.0.1:{port}", identity_pem=client.pem, expected=[server.der]
                )
    assert not reached.is_set()


async def test_wrong_websocket_answer_is_a_handshake_error(
    server: Identity, client: Identity
) -> None:
    async def answer(peer: Raw) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: AAAA\r\n\r\n"
        )
        await peer.rest()

    async with fake(answer, server.context(ssl.PROTOCOL_TLS_SERVER)) as port:
        with pytest.raises(HandshakeError, match="did not open a WebSocket"):
            await dial(f"wss://127.0.0.1:{port}", identity_pem=client.pem, expected=[server.der])


async def test_server_that_vanishes_behind_its_answer_is_a_link_error(
    server: Identity, client: Identity
) -> None:
    async def once(port: int) -> None:
        link = await dial(f"wss://127.0.0.1:{port}", identity_pem=client.pem, expected=[server.der])
        try:
            await link.receive()
        finally:
            await link.close("done")

    async with fake(Raw.accept, server.context(ssl.PROTOCOL_TLS_SERVER)) as port:
        for _ in range(20):
            with pytest.raises(LinkError, match="ended"):
                await once(port)


async def test_refused_client_does_not_try_twice(server: Identity, client: Identity) -> None:
    tries: list[Raw] = []

    async def hang_up(peer: Raw) -> None:
        tries.append(peer)
        await peer.reader.readuntil(b"\r\n\r\n")

    async with fake(hang_up, server.context(ssl.PROTOCOL_TLS_SERVER)) as port:
        with pytest.raises(HandshakeError, match="ended the handshake"):
            await dial(f"wss://127.0.0.1:{port}", identity_pem=client.pem, expected=[server.der])
    assert len(tries) == 1


# --- dialling into nothing -------------------------------------------------------------------
async def test_refused_connection_names_the_endpoint(client: Identity) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectError, match=rf"127\.0\.0\.1:{port} cannot be reached: .+"):
        await dial(f"wss://127.0.0.1:{port}", identity_pem=client.pem, expected=[client.der])


@pytest.mark.parametrize("secured", [True, False])
async def test_silent_server_is_given_up(server: Identity, client: Identity, secured: bool) -> None:
    async def wait(peer: Raw) -> None:
        await peer.rest()

    context = server.context(ssl.PROTOCOL_TLS_SERVER) if secured else None
    async with fake(wait, context) as port:
        with pytest.raises(ConnectError, match=rf"127\.0\.0\.1:{port} did not answer in 0\.2 s"):
            await dial(
                f"wss://127.0.0.1:{port}",
                identity_pem=client.pem,
                expected=[server.der],
                bounds=Bounds(handshake_s=0.2),
            )


async def test_server_without_tls_is_a_handshake_error(client: Identity) -> None:
    async def answer(peer: Raw) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.rest()

    async with fake(answer) as port:
        with pytest.raises(HandshakeError, match=r"does not speak TLS 1\.3"):
            await dial(f"wss://127.0.0.1:{port}", identity_pem=client.pem, expected=[client.der])


async def test_server_of_an_older_tls_is_a_handshake_error(client: Identity) -> None:
    async def answer(peer: Raw) -> None:
        await peer.reader.read(1)
        peer.send(b"\x15\x03\x03\x00\x02\x02\x46")  # RFC 8446 section 6: protocol_version
        await peer.rest()

    async with fake(answer) as port:
        with pytest.raises(HandshakeError, match=r"does not speak TLS 1\.3"):
            await dial(f"wss://127.0.0.1:{port}", identity_pem=client.pem, expected=[client.der])


@pytest.mark.parametrize(
    "endpoint",
    [
        "", "wss://", "wss://host", "ws://host:1", "https://host:1", "wss://host:99999",
        "wss://user@host:1", "wss://host:1/path", "wss://[::1:1", f"wss://{'a' * 70}.example:1",
        "wss://a..example:1",
    ],
)  # fmt: skip
async def test_impossible_endpoint_is_a_connect_error(client: Identity, endpoint: str) -> None:
    with pytest.raises(ConnectError):
        await dial(endpoint, identity_pem=client.pem, expected=[client.der])


async def test_unusable_own_key_is_the_operators_matter(client: Identity, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_bytes(client.pem.read_bytes()[:150])
    for pem in (tmp_path / "missing.pem", broken):
        with pytest.raises(ConfigError, match=pem.name):
            await dial("wss://127.0.0.1:1", identity_pem=pem, expected=[client.der])
        with pytest.raises(ConfigError, match=pem.name):
            Listener(identity_pem=pem, anchors=[], on_link=echo)


# --- closing ---------------------------------------------------------------------------------
async def test_orderly_close_by_the_client(server: Identity, client: Identity) -> None:
    async with hosting(server, [client.der]) as host:
        near = await host.dial(client)
        far = await host.links.get()
        ending = asyncio.create_task(far.receive())
        await near.close("shutdown")
        assert await ending is None
        assert await far.receive() is None
        assert await near.receive() is None
        with pytest.raises(LinkError):
            await near.send(b"late")
        await near.close("twice")


async def test_orderly_close_by_the_server_while_both_receive(
    server: Identity, client: Identity
) -> None:
    async with hosting(server, [client.der]) as host:
        near = await host.dial(client)
        far = await host.links.get()
        endings = [asyncio.create_task(link.receive()) for link in (near, far)]
        await asyncio.wait(endings, timeout=0.01)
        await far.close("shutdown")
        assert await asyncio.gather(*endings) == [None, None]
        with pytest.raises(LinkError):
            await far.send(b"late")
        await near.close("done")


async def test_messages_before_the_close_arrive(server: Identity, client: Identity) -> None:
    async with hosting(server, [client.der]) as host:
        near = await host.dial(client)
        far = await host.links.get()
        await near.send(b"last words")
        closing = asyncio.create_task(near.close("done"))
        assert await far.receive() == b"last words"
        assert await far.receive() is None
        await closing


@pytest.mark.parametrize(
    ("code", "reason"),
    [("bad-frame", b"bad-frame"), ("é", b"?"), ("x" * 500, b"x" * limits.MAX_CODE)],
)
async def test_code_travels_in_the_closing_frame(
    server: Identity, client: Identity, code: str, reason: bytes
) -> None:
    async with (
        hosting(server, [client.der], close_s=0.1) as host,
        opened(host, client) as (peer, link),
    ):
        await link.close(code)
        assert await peer.read_close() == (1000, reason)


async def test_link_ends_with_on_link(server: Identity, client: Identity) -> None:
    async def turn_away(_link: Link) -> None:
        return

    context = client.context(ssl.PROTOCOL_TLS_CLIENT, [server.der])
    async with (
        hosting(server, [client.der], on_link=turn_away, close_s=0.1) as host,
        raw(host.port, context) as peer,
    ):
        await peer.open()
        assert await peer.read_close() == (1000, b"done")
        assert await peer.rest() == b""


async def test_fault_in_on_link_ends_the_link_and_is_logged(
    server: Identity, client: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_link: Link) -> None:
        raise ZeroDivisionError

    context = client.context(ssl.PROTOCOL_TLS_CLIENT, [server.der])
    with caplog.at_level("ERROR"):
        await _fails_and_ends(context, server, client, fail)
    assert "ZeroDivisionError" in caplog.text


async def _fails_and_ends(
    context: ssl.SSLContext,
    server: Identity,
    client: Identity,
    fail: Callable[[Link], Awaitable[None]],
) -> None:
    async with (
        hosting(server, [client.der], on_link=fail, close_s=0.1) as host,
        raw(host.port, context) as peer,
    ):
        await peer.open()
        assert await peer.read_close() == (1000, b"done")
        assert await peer.rest() == b""


async def test_vanished_peer_is_no_orderly_close(server: Identity, client: Identity) -> None:
    async with hosting(server, [client.der]) as host, opened(host, client) as (peer, link):
        ending = asyncio.create_task(link.receive())
        peer.writer.transport.abort()
        with pytest.raises(LinkError, match="without a goodbye"):
            await ending
        assert await link.receive() is None
        with pytest.raises(LinkError):
            for _ in range(100):
                await link.send(bytes(limits.TARGET_FRAME))


async def test_vanished_server_is_no_orderly_close(server: Identity, client: Identity) -> None:
    async with hosting(server, [client.der]) as host:
        near = await host.dial(client)
        far = await host.links.get()
        far._cut()
        with pytest.raises(LinkError, match="without a goodbye"):
            await near.receive()
        await near.close("done")


@pytest.mark.parametrize("code", [1002, 1009, 1011, 4000])
async def test_close_with_a_complaint_is_an_error(
    server: Identity, client: Identity, code: int
) -> None:
    async with hosting(server, [client.der]) as host, opened(host, client) as (peer, link):
        peer.frame(FIN | CLOSE, code.to_bytes(2, "big"))
        with pytest.raises(LinkError, match=f"WebSocket code {code}"):
            await link.receive()


async def test_stop_closes_links_in_order_and_frees_the_port(
    server: Identity, client: Identity
) -> None:
    async with hosting(server, [client.der], on_link=echo) as host:
        link = await host.dial(client)
        async with raw(host.port) as half_open:
            await host.listener.stop()
            assert await half_open.rest() == b""
        assert await link.receive() is None
        await link.close("done")
        with pytest.raises(ConnectError):
            await host.dial(client)
        with socket.create_server(("127.0.0.1", host.port)):
            pass


async def test_stop_does_not_wait_for_a_link_that_hangs(server: Identity, client: Identity) -> None:
    async def hang(_link: Link) -> None:
        await asyncio.Event().wait()

    async with hosting(server, [client.der], on_link=hang, close_s=0.1) as host:
        link = await host.dial(client)
        async with asyncio.timeout(2):
            await host.listener.stop()
        assert await link.receive() is None
        await link.close("done")


async def test_taken_port_is_named(server: Identity) -> None:
    async with hosting(server, []) as host:
        second = Listener(identity_pem=server.pem, anchors=[], on_link=echo)
        with pytest.raises(AddressInUseError, match=rf"127\.0\.0\.1:{host.port}"):
            await second.start("127.0.0.1", host.port)
        await second.stop()


@pytest.mark.parametrize("address", ["192.0.2.1", "::2", "no such host"])
async def test_address_of_another_machine_is_a_config_error(server: Identity, address: str) -> None:
    listener = Listener(identity_pem=server.pem, anchors=[], on_link=echo)
    with pytest.raises(ConfigError, match="peers cannot be awaited on"):
        await listener.start(address, 0)


# --- messages that break the rules -----------------------------------------------------------
@contextmanager
def growth(maximum: int) -> Iterator[None]:
    """Check that no more than *maximum* bytes more than before are ever held."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < maximum
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [limits.MAX_FRAME + 1, 2**31, 2**63 - 1, 2**64 - 1])
async def test_oversized_frame_ends_the_link_before_it_is_read(
    server: Identity, client: Identity, length: int
) -> None:
    async with hosting(server, [client.der]) as host, opened(host, client) as (peer, link):
        peer.frame(FIN | BINARY, b"", length=length)
        ending = asyncio.create_task(link.receive())
        assert (await peer.read_close())[0] == 1009
        with growth(2 * 1024 * 1024):
            for _ in range(512):
                peer.send(bytes(limits.TARGET_FRAME))
                try:
                    await peer.writer.drain()
                except (ConnectionError, ssl.SSLError):
                    break
            with pytest.raises(LinkError, match="over the limit"):
                await ending


@pytest.mark.parametrize("size", [64, 4096])
async def test_message_in_too_many_fragments_ends_the_link(
    server: Identity, client: Identity, size: int
) -> None:
    async with hosting(server, [client.der]) as host, opened(host, client) as (peer, link):
        with growth(4 * 1024 * 1024):
            ending = asyncio.create_task(link.receive())
            peer.frame(BINARY, bytes(size))
            for _ in range(limits.MAX_FRAME // size):
                peer.frame(CONTINUED, bytes(size))
                await peer.writer.drain()
            assert (await peer.read_close())[0] == 1009
            peer.frame(FIN | CLOSE, (1009).to_bytes(2, "big"))
            with pytest.raises(LinkError, match="over the limit"):
                await ending


async def test_message_in_fragments_within_the_limit_is_taken(
    server: Identity, client: Identity
) -> None:
    async with hosting(server, [client.der]) as host, opened(host, client) as (peer, link):
        peer.frame(BINARY, b"a")
        peer.frame(CONTINUED, b"b")
        peer.frame(FIN | CONTINUED, b"c")
        assert await link.receive() == b"abc"


async def test_oversized_frame_of_the_server_ends_the_link(
    server: Identity, client: Identity
) -> None:
    async with hosting(server, [client.der]) as host:
        near = await host.dial(client)
        far = await host.links.get()
        await far.send(bytes(limits.MAX_FRAME + 1))
        with pytest.raises(LinkError, match="over the limit"):
            await near.receive()
        with pytest.raises(LinkError, match="WebSocket code 1009"):
            await far.receive()
        await near.close("done")


async def test_text_ends_the_link(server: Identity, client: Identity) -> None:
    async with (
        hosting(server, [client.der], close_s=0.1) as host,
        opened(host, client) as (peer, link),
    ):
        peer.frame(FIN | TEXT, b"hello")
        with pytest.raises(LinkError, match="sent text"):
            await link.receive()
        assert (await peer.read_close())[0] == 1003
        assert await peer.rest() == b""


@pytest.mark.parametrize(
    "first",
    [FIN | 3, FIN | 0x40 | BINARY, FIN | 0x20 | BINARY, FIN | CONTINUED, CLOSE],
    ids=["opcode", "compressed", "reserved", "continues-nothing", "fragmented-close"],
)
async def test_frame_against_the_rules_ends_the_link(
    server: Identity, client: Identity, first: int
) -> None:
    async with (
        hosting(server, [client.der], close_s=0.1) as host,
        opened(host, client) as (peer, link),
    ):
        peer.frame(first, b"x")
        with pytest.raises(LinkError, match="WebSocket code 1002"):
            await link.receive()


# --- peers that stall ------------------------------------------------------------------------
@pytest.mark.parametrize("reader_is_client", [True, False])
async def test_peer_that_never_reads_stops_the_sender_and_holds_little(
    server: Identity, client: Identity, reader_is_client: bool
) -> None:
    async with hosting(server, [client.der], send_s=0.3, close_s=0.1) as host:
        near = await host.dial(client, send_s=0.3, close_s=0.1)
        far = await host.links.get()
        sender, deaf = (far, near) if reader_is_client else (near, far)
        taken = 0
        with (
            growth(4 * 1024 * 1024),
            pytest.raises(LinkTimeoutError, match=r"took nothing for 0\.3 s"),
        ):
            while True:
                await sender.send(bytes(limits.TARGET_FRAME))
                taken += limits.TARGET_FRAME
        assert taken < 32 * 1024 * 1024  # kernel buffers; the receiver holds far less
        with pytest.raises(LinkError):
            await sender.send(bytes(limits.TARGET_FRAME))
        async with asyncio.timeout(2):
            await sender.close("link-timeout")
            await deaf.close("done")


async def test_peer_that_answers_no_ping_is_found(server: Identity, client: Identity) -> None:
    async with (
        hosting(server, [client.der], heartbeat_s=0.2) as host,
        opened(host, client) as (_, link),
    ):
        with pytest.raises(LinkTimeoutError, match="did not answer a ping"):
            await link.receive()


async def test_idle_link_stays_open(server: Identity, client: Identity) -> None:
    async with hosting(server, [client.der], heartbeat_s=0.1, frame_s=0.3) as host:
        near = await host.dial(client, heartbeat_s=0.1, frame_s=0.3, send_s=0.3)
        far = await host.links.get()
        await near.send(b"x")
        assert await far.receive() == b"x"
        waiting = {asyncio.create_task(link.receive()) for link in (near, far)}
        done, _ = await asyncio.wait(waiting, timeout=0.8)
        assert not done
        await near.close("done")
        assert await asyncio.gather(*waiting) == [None, None]


@pytest.mark.parametrize(
    "dribbled", [bytes(64), bytes([CONTINUED, 0x80, 0, 0, 0, 0])], ids=["frame", "empty-fragments"]
)
async def test_message_that_never_ends_is_cut_off(
    server: Identity, client: Identity, dribbled: bytes
) -> None:
    async with (
        hosting(server, [client.der], frame_s=0.4, heartbeat_s=5) as host,
        opened(host, client) as (peer, link),
    ):
        ending = asyncio.create_task(link.receive())
        if any(dribbled):
            peer.frame(BINARY, b"x")
        else:
            peer.frame(FIN | BINARY, b"x", length=limits.TARGET_FRAME)
        assert await peer.dribble(dribbled) >= 0.3
        with pytest.raises(LinkTimeoutError, match="nothing whole came"):
            await ending
        with pytest.raises(LinkError, match="is gone"):
            await link.send(b"late")


async def test_message_of_the_server_that_never_ends_is_cut_off(
    server: Identity, client: Identity
) -> None:
    async def stall(peer: Raw) -> None:
        await peer.accept()
        peer.send(bytes([FIN | BINARY, 126, 0xFF, 0xFF]))
        await peer.dribble(b"x")

    async with fake(stall, server.context(ssl.PROTOCOL_TLS_SERVER)) as port:
        link = await dial(
            f"wss://127.0.0.1:{port}",
            identity_pem=client.pem,
            expected=[server.der],
            bounds=Bounds(frame_s=0.4, close_s=0.1),
        )
        with pytest.raises(LinkTimeoutError, match="nothing whole came"):
            await link.receive()
        await link.close("link-timeout")


# --- before a link: deadlines and counts -----------------------------------------------------
def client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("stage", ["silent", "hello", "http"])
async def test_slow_handshake_is_cut_at_the_deadline(
    server: Identity, client: Identity, stage: str
) -> None:
    context = client.context(ssl.PROTOCOL_TLS_CLIENT, [server.der]) if stage == "http" else None
    async with hosting(server, [client.der], handshake_s=0.3, half_open=1) as host:
        async with raw(host.port, context) as peer:
            if stage == "silent":
                assert await peer.rest() == b""
            else:
                slow = client_hello() if stage == "hello" else b"GET / HTTP/1.1\r\nX: y\r\n"
                assert 0.2 < await peer.dribble(slow[:-2] + b"y" * 1000) < 3
        await (await host.dial(client)).close("done")  # the one place is free again
        assert host.links.qsize() == 1


async def test_deadline_ends_with_the_handshake(server: Identity, client: Identity) -> None:
    async with hosting(server, [client.der], on_link=echo, handshake_s=0.2) as host:
        link = await host.dial(client)
        reading = asyncio.create_task(link.receive())
        assert not (await asyncio.wait({reading}, timeout=0.5))[0]
        await link.send(b"x")
        assert await reading == b"x"
        await link.close("done")


async def test_half_open_connections_of_one_address_are_bounded(
    server: Identity, client: Identity
) -> None:
    context = client.context(ssl.PROTOCOL_TLS_CLIENT, [server.der])
    async with hosting(server, [client.der], half_open_per_address=2) as host:
        async with AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(raw(host.port))
            async with raw(host.port) as third:
                assert await third.rest() == b""
            with pytest.raises(ConnectError, match="cannot be reached"):
                await host.dial(client)
            async with raw(host.port, context, source="127.0.0.2") as neighbour:
                await neighbour.open()
            await host.links.get()
        await (await dial_until_free(host, client)).close("done")


async def test_client_that_leaves_before_its_request_frees_its_place(
    server: Identity, client: Identity
) -> None:
    context = client.context(ssl.PROTOCOL_TLS_CLIENT, [server.der])
    async with hosting(server, [client.der], on_link=echo, half_open=1) as host:
        async with raw(host.port, context) as peer:
            peer.send(b"GET ")
        await (await dial_until_free(host, client)).close("done")


async def test_half_open_connections_of_all_addresses_are_bounded(
    server: Identity, client: Identity
) -> None:
    async with hosting(server, [client.der], half_open=3) as host:
        async with AsyncExitStack() as stack:
            for number in range(3):
                await stack.enter_async_context(raw(host.port, source=f"127.0.0.{2 + number}"))
            with pytest.raises(ConnectError, match="cannot be reached"):
                await host.dial(client)
        await (await dial_until_free(host, client)).close("done")


async def dial_until_free(host: Host, client: Identity) -> Link:
    while True:
        try:
            return await host.dial(client)
        except ConnectError:  # the listener has not yet seen the others go
            continue


async def test_open_links_do_not_count_as_half_open(server: Identity, make: Make) -> None:
    peers = [make(10 + i) for i in range(5)]
    async with hosting(server, [p.der for p in peers], half_open=1) as host:
        links = [await dial_until_free(host, peer) for peer in peers]
        assert len({link.peer_certificate for link in links}) == 1
        for link in links:
            await link.close("done")


async def test_links_of_one_certificate_are_bounded(
    server: Identity, client: Identity, stranger: Identity
) -> None:
    anchors = [client.der, stranger.der]
    async with hosting(server, anchors, on_link=echo, links_per_certificate=2) as host:
        links = [await host.dial(client) for _ in range(2)]
        with pytest.raises(HandshakeError, match="HTTP status 503"):
            await host.dial(client)
        links.append(await host.dial(stranger))
        for link in links:
            await link.send(b"alive")
            assert await link.receive() == b"alive"
            await link.close("done")


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_what_connections_are_counted_by(host: str, origin: str) -> None:
    assert _origin(host) == origin


async def test_lack_of_descriptors_refuses_new_links_and_spares_the_old(
    server: Identity, client: Identity
) -> None:
    context = client.context(ssl.PROTOCOL_TLS_CLIENT, [server.der])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with hosting(server, [client.der], on_link=echo) as host:
        link = await host.dial(client)
        # Waits in the backlog, as the loop does not run between this and the limit.
        waiting = socket.create_connection(("127.0.0.1", host.port))
        spare = os.dup(waiting.fileno())
        os.close(spare)
        with capture_logs() as logs:
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare, before[1]))
            try:
                for _ in range(5):
                    await link.send(b"alive")
                    assert await link.receive() == b"alive"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert {"event": "accept-failed", "code": "EMFILE", "log_level": "warning"} in logs
        reader, writer = await asyncio.open_connection(
            sock=waiting, ssl=context, server_hostname=""
        )
        await Raw(reader, writer).open()
        await end(writer)
        await link.close("done")
