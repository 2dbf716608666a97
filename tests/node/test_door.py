"""The door over real sockets: what a caller without a certificate gets, and what it may cost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from node.door import Door, Turnstile
from node.tiles import Resource
from node.transport import PATH, Bounds, Listener, dial
from node.visiting import endpoint_of, fetch_card, visit
from protocol import limits
from protocol.errors import (
    ConnectError,
    DecodeError,
    ExpiredError,
    HandshakeError,
    NotKnownError,
)
from protocol.quota import Rate
from tests.node.test_transport import (
    PATIENCE_S,
    UPGRADE,
    Identity,
    Raw,
    client,
    echo,
    fake,
    make,
    raw,
    server,
    stranger,
)

__all__ = ["client", "make", "server", "stranger"]  # fixtures

CARD = b"a card bundle"
KNOCK = "POST /knock HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"


@dataclass
class House:
    """A listener with a door, and what came to it."""

    identity: Identity
    shows: bool = True
    now: int = 0
    fault: Exception | None = None
    taken: list[tuple[bytes, str]] = field(default_factory=list)
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"wss://127.0.0.1:{self.port}"

    async def take(self, wire: bytes, address: str) -> None:
        self.taken.append((wire, address))
        if self.fault is not None:
            raise self.fault

    def __post_init__(self) -> None:
        self.door = Door(
            card=lambda: CARD if self.shows else None, take=self.take, monotonic=lambda: self.now
        )

    async def knock(self, body: bytes = b"x") -> tuple[int, bytes]:
        answer = await visit(
            self.endpoint, "POST", "/knock", body=lambda _: body, maximum=limits.MAX_KNOCK
        )
        return answer.status, answer.body


async def no_page(certificate: bytes, path: str) -> Resource:
    raise AssertionError(f"{path} was read with {certificate!r}")


@asynccontextmanager
async def house(
    identity: Identity, anchors: Collection[bytes] = (), **bounds: float
) -> AsyncIterator[House]:
    found = House(identity)
    listener = Listener(
        identity_pem=identity.pem, anchors=anchors, on_link=echo, on_read=no_page,
        door=found.door, bounds=Bounds(**bounds),  # type: ignore[arg-type]
    )  # fmt: skip
    found.port = await listener.start("127.0.0.1", 0)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield found
    finally:
        await listener.stop()


def nobody() -> ssl.SSLContext:
    """A context of a caller without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def check_links(at: House, who: Identity) -> None:
    """Check that a link of a pinned peer is made and answers at once."""
    link = await dial(at.endpoint, identity_pem=who.pem, expected=[at.identity.der])
    await link.send(b"business as usual")
    assert await link.receive() == b"business as usual"
    await link.close("done")


# --- who gets in -----------------------------------------------------------------------------
@pytest.mark.parametrize("path", [PATH, "/log/checkpoint", "/log/tile/0/000"])
async def test_links_and_the_log_need_a_certificate_as_before(
    server: Identity, client: Identity, path: str
) -> None:
    async with house(server, [client.der]) as at, raw(at.port, nobody()) as peer:
        answer = await peer.request(UPGRADE.format(path=path))
        assert answer.startswith("HTTP/1.1 403 ")
        assert await peer.rest() == b""


async def test_a_certificate_that_is_shown_must_be_pinned_even_at_the_door(
    server: Identity, client: Identity, stranger: Identity
) -> None:
    for anchors in ([client.der], []):
        async with house(server, anchors) as at:
            context = stranger.context(ssl.PROTOCOL_TLS_CLIENT, [server.der])
            async with raw(at.port, context) as peer:
                peer.send(b"GET /card HTTP/1.1\r\nHost: x\r\n\r\n")
                assert await peer.rest() == b""
            with pytest.raises(NotKnownError):
                await dial(at.endpoint, identity_pem=stranger.pem, expected=[server.der])


async def test_without_a_door_nobody_gets_so_far(server: Identity, client: Identity) -> None:
    listener = Listener(identity_pem=server.pem, anchors=[client.der], on_link=echo)
    port = await listener.start("127.0.0.1", 0)
    try:
        async with raw(port, nobody()) as peer:
            peer.send(b"GET /card HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await peer.rest() == b""
    finally:
        await listener.stop()


async def test_the_card_is_shown_unless_it_is_kept_back(server: Identity) -> None:
    async with house(server) as at:
        assert await fetch_card(at.endpoint) == CARD
        at.shows = False
        with pytest.raises(HandshakeError, match="shows no card"):
            await fetch_card(at.endpoint)


async def test_a_knock_is_answered_and_tells_nothing(server: Identity, client: Identity) -> None:
    async with house(server, [client.der]) as at:
        assert await at.knock(b"wire") == (200, b'{"state": "waiting"}')
        assert at.taken == [(b"wire", "127.0.0.1")]
        at.fault = ExpiredError("too old")
        assert await at.knock() == (400, b'{"state": "refused", "code": "expired"}')
        await check_links(at, client)


async def test_nothing_is_said_of_the_program_that_answers(server: Identity) -> None:
    async with house(server) as at:
        for path in ("/card", "/knock", "/", PATH):
            async with raw(at.port, nobody()) as peer:
                answer = await peer.request(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
                assert "Server: picket\r\n" in answer
                assert "ython" not in answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /knock HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("POST /card HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 404),
        ("GET /card?x=1 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /cards HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("POST /knock HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (KNOCK.format(size="1\r\nContent-Encoding: gzip"), 411),
        (KNOCK.format(size=limits.MAX_KNOCK + 1), 413),
        (KNOCK.format(size=10**15), 413),
    ],
)
async def test_what_is_no_request_for_the_door_costs_nothing(
    server: Identity, head: str, status: int
) -> None:
    async with house(server) as at, raw(at.port, nobody()) as peer:
        assert (await peer.request(head)).startswith(f"HTTP/1.1 {status} ")
        assert at.taken == []


async def test_the_largest_knock_is_taken(server: Identity) -> None:
    async with house(server) as at:
        assert (await at.knock(bytes(limits.MAX_KNOCK)))[0] == 200


# --- what it may cost ------------------------------------------------------------------------
async def test_one_address_may_knock_so_often_and_no_more(
    server: Identity, client: Identity
) -> None:
    async with house(server, [client.der]) as at:
        statuses = [(await at.knock())[0] for _ in range(limits.KNOCKS_BURST + 5)]
        assert statuses == [200] * limits.KNOCKS_BURST + [429] * 5
        assert len(at.taken) == limits.KNOCKS_BURST, "nothing more was read"
        async with raw(at.port, nobody(), source="127.0.0.2") as other:
            other.send(KNOCK.format(size=1).encode() + b"x")
            assert b"200 OK" in await other.rest()
        at.now += 60_000
        assert (await at.knock())[0] == 200
        await check_links(at, client)


def test_all_addresses_together_have_a_bound_and_the_table_too() -> None:
    each, everybody = Rate(amount=1, burst=2), Rate(amount=1, burst=5)
    gate = Turnstile(each=each, everybody=everybody, now=0)
    assert [gate.wait(f"a{number}", 0) for number in range(5)] == [0] * 5
    assert gate.wait("b", 0) == 1_000
    assert gate.wait("b", 1_000) == 0
    for number in range(2 * limits.MAX_DOOR_ADDRESSES):
        gate.wait(f"c{number}", 2_000)
    assert len(gate._addresses) == limits.MAX_DOOR_ADDRESSES


def test_what_one_address_is_refused_costs_the_others_nothing() -> None:
    gate = Turnstile(each=Rate(amount=1, burst=1), everybody=Rate(amount=1, burst=2), now=0)
    assert gate.wait("flood", 0) == 0
    assert all(gate.wait("flood", 0) for _ in range(50))
    assert gate.wait("honest", 0) == 0


async def test_slow_knocks_are_cut_and_slow_no_link(server: Identity, client: Identity) -> None:
    async with (
        house(server, [client.der], handshake_s=0.5) as at,
        raw(at.port, nobody()) as one,
        raw(at.port, nobody()) as two,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        for peer in (one, two):
            peer.send(KNOCK.format(size=1_000).encode() + b"only so much")
        while at.door._inside.total() < limits.MAX_AT_DOOR_PER_ADDRESS:  # noqa: ASYNC110  bounded
            await asyncio.sleep(0)
        assert (await at.knock())[0] == 503, "two of one address are inside"
        await check_links(at, client)
        assert await one.rest() == await two.rest() == b""
        assert loop.time() - began < 5
        assert not at.door._inside
        assert (await at.knock())[0] == 200
        assert at.taken == [(b"x", "127.0.0.1")]


# --- visiting --------------------------------------------------------------------------------
async def test_a_visit_with_a_pin_goes_to_no_other_certificate(
    server: Identity, stranger: Identity
) -> None:
    async with house(server) as at:
        sent: list[bytes] = []

        def body(certificate: bytes) -> bytes:
            sent.append(certificate)
            return b""

        with pytest.raises(HandshakeError, match="not the one on the peer's card"):
            await visit(
                at.endpoint, "POST", "/knock", body=body,
                expected=[stranger.der], maximum=10,
            )  # fmt: skip
        assert sent == [] and at.taken == []
        await visit(
            at.endpoint, "POST", "/knock", body=body,
            expected=[server.der], maximum=100,
        )  # fmt: skip
        assert sent == [server.der]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "without an answer"),
        (b"SSH-2.0-x\r\n", "no Picket node"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n" + bytes(400_000), "too much"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(limits.MAX_DOOR_BUNDLE + 1), "too much"),
        (b"HTTP/1.1 302 x\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
         "shows no card"),
    ],
)  # fmt: skip
async def test_a_strange_answer_is_one_line(server: Identity, answer: bytes, words: str) -> None:
    async def act(peer: Raw) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.send(answer)
        await peer.writer.drain()

    async with fake(act, server.context(ssl.PROTOCOL_TLS_SERVER)) as port:
        with pytest.raises(HandshakeError, match=words) as caught:
            await fetch_card(f"wss://127.0.0.1:{port}")
    assert caught.value.fix


async def test_nobody_there_is_another_fault(server: Identity) -> None:
    async with house(server) as at:
        port = at.port
    with pytest.raises(ConnectError, match="cannot be reached"):
        await fetch_card(f"wss://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("wss://a.example:8462", "wss://a.example:8462"),
        ("https://a.example:8462", "wss://a.example:8462"),
        ("https://a.example", "wss://a.example:443"),
        (" https://a.example/card\n", "wss://a.example:443"),
        ("https://[::1]:8462/", "wss://[::1]:8462"),
        ("https://[::1]", "wss://[::1]:443"),
    ],
)
def test_addresses_are_taken_as_people_give_them(url: str, endpoint: str) -> None:
    assert endpoint_of(url) == endpoint


@pytest.mark.parametrize(
    "url",
    ["", "a.example", "http://a.example", "ws://a:1", "https://u@a", "https://a/x", "wss://a"],
)
def test_other_addresses_are_none(url: str) -> None:
    with pytest.raises(DecodeError, match="no address of a node"):
        endpoint_of(url)
