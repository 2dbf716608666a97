"""A test of a peer against peers that fail in one way each, over loopback; and over real nodes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from keys.trust import Level
from node.door import Door
from node.peer_seen import Bounds, Seen, Target
from node.peer_test import Line, LinkState, Result, Stage, Subject, conclude
from node.peer_test_run import look_at
from node.transport import Bounds as LinkBounds
from node.transport import Link, Listener
from protocol import suite
from protocol.session import Local, Remote, Send, Session
from protocol.statement import make_bundle
from tests.factories import DAY, NETWORK, NOW, TestNode, card_of, hybrid, make_node
from tests.net.harness import Net, Row, wait
from tests.node.test_transport import PATIENCE_S, Identity, Make, client, make, server, stranger

__all__ = ["client", "make", "server", "stranger"]  # fixtures

OK, FAILED, NOT_TRIED = Result.OK, Result.FAILED, Result.NOT_TRIED
STEP_S = 0.4
QUICK = Bounds(step_s=STEP_S, total_s=3.0, pings=3)
FAR = suite.network_id("another.example")
UPGRADED = (
    "HTTP/1.1 101 Switching Protocols\r\nDate: {date}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
)
_ID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


# --- who tests, and whom ---------------------------------------------------------------------
@dataclass
class Case:
    """Alder, which tests, and Birch, whose card names the certificate of *birch_pem*."""

    alder: TestNode
    birch: TestNode
    ours: Identity
    theirs: Identity
    seen: Seen | None = None

    def target(self, port: int, host: str = "127.0.0.1") -> Target:
        chain = self.alder.chain
        return Target(
            endpoints=(f"wss://{host}:{port}",), certificates=(self.theirs.der,),
            pems=((self.ours.der, self.ours.pem),), network=NETWORK, own_id=self.alder.id,
            chain_n=chain.head.n, chain_head=chain.head.digest, node_id=self.birch.id,
            link=self.birch.card.link,
        )  # fmt: skip

    def subject(self, **changes: object) -> Subject:
        subject = Subject(
            name="birch", own_id="AAAAAAA", level=Level.SHARE, certificates=(self.theirs.der,),
            now=NOW, running=True, own=frozenset({self.ours.der}),
            link=LinkState(age_ms=60_000, given_ms=1_000),
        )  # fmt: skip
        return replace(subject, **changes)  # type: ignore[arg-type]

    async def test(
        self, port: int, *, host: str = "127.0.0.1", bounds: Bounds = QUICK, **known: object
    ) -> dict[Stage, Line]:
        """Look at *port* and return what the test says, by stage; it took no longer than bound."""
        began = time.monotonic()
        self.seen = await look_at(self.target(port, host), now=real_now, bounds=bounds)
        assert time.monotonic() - began < bounds.total_s + 1
        lines = conclude(self.subject(**known), self.seen)
        assert tuple(line.stage for line in lines) == tuple(Stage)
        return {line.stage: line for line in lines}


def real_now() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def case(client: Identity, server: Identity) -> Case:
    birch = make_node("birch")
    chain = birch.chain.extend(card_of(birch.chain, "birch", issued=NOW, tls=(server.der,)))
    return Case(make_node("alder"), replace(birch, chain=chain), client, server)


def failed_at(lines: dict[Stage, Line], stage: Stage) -> Line:
    """Check that *stage* is the one that failed, with cause and fix, and the rest not tried."""
    results = [line.result for line in lines.values()]
    at = list(Stage).index(stage)
    assert FAILED not in results[:at]
    assert results[at] is FAILED, lines
    assert set(results[at + 1 :]) <= {NOT_TRIED}
    line = lines[stage]
    assert line.detail
    assert line.fix
    assert "\n" not in line.detail + line.fix
    return line


# --- fake peers ------------------------------------------------------------------------------
Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(act: Act, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Let *act* speak to whoever connects; give the port."""

    going: set[asyncio.Task[object]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        going.add(task)
        with suppress(OSError, asyncio.IncompleteReadError):
            await act(reader, writer)
        writer.transport.abort()

    served = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield served.sockets[0].getsockname()[1]
    finally:
        served.close()
        if going:
            await asyncio.wait(going, timeout=PATIENCE_S)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del writer
    await reader.read()  # until the other end goes


def saying(answer: bytes) -> Act:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4_096)
        writer.write(answer)
        await writer.drain()

    return say


@dataclass
class Fake:
    """A node that goes as far as a test looks: WebSocket, hello, proof, pongs."""

    case: Case
    ahead_s: int = 0
    network: bytes = NETWORK
    link: suite.LocalHybridSigner = field(default_factory=lambda: hybrid("birch", "link"))
    node_id: bytes = b""
    instead: bytes | None = None
    closes: str | None = None
    pongs: bool = True
    heard: list[bytes] = field(default_factory=list)

    def context(self) -> ssl.SSLContext:
        return self.case.theirs.context(ssl.PROTOCOL_TLS_SERVER)

    async def act(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(x[19:] for x in head.split("\r\n") if x.startswith("Sec-WebSocket-Key: "))
        accept = base64.b64encode(
            hashlib.sha1(key.encode() + _ID, usedforsecurity=False).digest()
        ).decode()
        now = datetime.fromtimestamp(int(time.time()) + self.ahead_s, UTC)
        date = format_datetime(now, usegmt=True)
        writer.write(UPGRADED.format(date=date, accept=accept).encode())
        if self.closes is not None:
            reason = b"\x03\xe8" + self.closes.encode()
            writer.write(bytes([0x88, len(reason)]) + reason)
            await writer.drain()
            return
        await self.converse(self.session(), reader, writer)

    def session(self) -> Session:
        case = self.case
        digests = [suite.digest("certificate", who.der) for who in (case.theirs, case.ours)]
        return Session(
            local=Local(self.network, self.node_id or case.birch.id, 1, bytes(32), digests[0],
                        self.link),
            remote=Remote(case.alder.id, digests[1], case.alder.card.link, 1, bytes(32)),
            dialer=False, nonce=bytes(32), now=0,
        )  # fmt: skip

    async def converse(
        self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        for effect in session.start():
            assert isinstance(effect, Send)
            hello = session.message(effect) if self.instead is None else self.instead
            writer.write(frame(2, hello))
        while True:
            opcode, payload = await read_frame(reader)
            if opcode == 9 and self.pongs:
                writer.write(frame(10, payload))
            if opcode == 2:
                self.heard.append(payload)
                for effect in session.receive(payload, 0):
                    if isinstance(effect, Send):
                        writer.write(frame(2, session.message(effect)))
            await writer.drain()


def frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    head = bytes([0x80 | opcode, size]) if size < 126 else bytes([0x80 | opcode, 126])
    return head + (b"" if size < 126 else size.to_bytes(2, "big")) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, second = await reader.readexactly(2)
    assert second & 0x80, "a client masks what it sends"
    size = second & 0x7F
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    mask, masked = await reader.readexactly(4), await reader.readexactly(size)
    return first & 0x0F, bytes(b ^ mask[at % 4] for at, b in enumerate(masked))


async def faked(fake: Fake, **known: Any) -> dict[Stage, Line]:  # noqa: ANN401
    async with serving(fake.act, fake.context()) as port:
        return await fake.case.test(port, **known)


# --- each failure ----------------------------------------------------------------------------
async def test_a_whole_peer_passes_every_stage_and_gets_no_proof_of_ours(case: Case) -> None:
    fake = Fake(case)
    lines = await faked(fake, is_witness=True, cosigned_at=NOW - 5_000, cosigned_size=7)
    assert {line.result for line in lines.values()} == {OK}, lines
    assert "median of 3 pings" in lines[Stage.ROUND_TRIP].detail
    assert "5 seconds ago" in lines[Stage.WITNESS].detail
    assert len(fake.heard) == 1, "nothing but the hello was said: the peer never takes it as linked"


async def test_a_name_that_nobody_knows(case: Case) -> None:
    line = failed_at(await case.test(8462, host="nobody.invalid"), Stage.NAME)
    assert "no host nobody.invalid is known here" in line.detail or "gave no answer" in line.detail


async def test_a_name_that_is_known_is_told_with_its_address(case: Case) -> None:
    fake = Fake(case)
    async with serving(fake.act, fake.context()) as port:
        lines = await case.test(port, host="localhost")
    assert lines[Stage.NAME].detail.startswith("localhost is ")
    assert lines[Stage.TLS].result is OK


async def test_a_closed_port(case: Case) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    line = failed_at(await case.test(port), Stage.TCP)
    assert line.detail == f"nothing answers at port {port} of 127.0.0.1"


@contextmanager
def black_hole() -> Iterator[int]:
    """A port whose queue is full, so that the system drops whoever knocks; gives the port."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    waiting = []
    for _ in range(3):
        each = socket.socket()
        each.setblocking(False)
        with suppress(BlockingIOError):
            each.connect(listening.getsockname())
        waiting.append(each)
    try:
        yield listening.getsockname()[1]
    finally:
        for each in (*waiting, listening):
            each.close()


async def test_a_black_hole_is_given_up_in_time(case: Case) -> None:
    with black_hole() as port:
        line = failed_at(await case.test(port), Stage.TCP)
    assert "does not answer" in line.detail
    assert "firewall" in line.fix


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad\r\n\r\n"])
async def test_another_program_on_the_port(case: Case, answer: bytes) -> None:
    async with serving(saying(answer)) as port:
        line = failed_at(await case.test(port), Stage.TLS)
    assert "another program" in line.detail


async def test_a_port_that_takes_connections_and_says_nothing(case: Case) -> None:
    async with serving(silence) as port:
        line = failed_at(await case.test(port), Stage.TLS)
    assert "says nothing" in line.detail


async def test_a_port_that_ends_every_connection(case: Case) -> None:
    async with serving(saying(b"")) as port:
        line = failed_at(await case.test(port), Stage.TLS)
    assert "ends each connection" in line.detail


async def test_another_certificate_and_whose_it_is(case: Case, stranger: Identity) -> None:
    context = stranger.context(ssl.PROTOCOL_TLS_SERVER)
    async with serving(silence, context) as port:
        line = failed_at(await case.test(port), Stage.TLS)
        assert "not the one on its card" in line.detail
        line = failed_at(await case.test(port, others={stranger.der: "cedar"}), Stage.TLS)
        assert line.detail == "it is cedar that answers there"
        line = failed_at(await case.test(port, older=frozenset({stranger.der})), Stage.TLS)
        assert "older card" in line.detail
    async with serving(silence, case.ours.context(ssl.PROTOCOL_TLS_SERVER)) as port:
        assert "this node itself" in failed_at(await case.test(port), Stage.TLS).detail


async def test_a_card_that_is_over(case: Case) -> None:
    lines = await faked(Fake(case), card_until=NOW - 3 * DAY)
    line = failed_at(lines, Stage.TLS)
    assert line.detail == "its card ended 3 days ago, by this clock"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "(HTTP status 404)"),
        (b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n", "open a link"),
        (b"220 mail.example ESMTP\r\n\r\n", "does not open a link"),
        (b"x" * 40_000, "does not open a link"),
    ],
)
async def test_tls_without_a_websocket(case: Case, answer: bytes, said: str) -> None:
    async with serving(saying(answer), Fake(case).context()) as port:
        line = failed_at(await case.test(port), Stage.PROTOCOL)
    assert said in line.detail


async def test_a_node_that_has_no_room(case: Case) -> None:
    async with serving(saying(b"HTTP/1.1 503 Busy\r\n\r\n"), Fake(case).context()) as port:
        assert "no room" in failed_at(await case.test(port), Stage.PROTOCOL).detail


async def test_tls_and_then_silence(case: Case) -> None:
    async with serving(silence, Fake(case).context()) as port:
        assert "says nothing" in failed_at(await case.test(port), Stage.PROTOCOL).detail


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": FAR}, "another Picket network"),
        ({"node_id": bytes(range(32))}, "another node than the one on the card"),
        ({"link": hybrid("mallory", "link")}, "does not prove the key"),
        ({"instead": b"hello?"}, "no hello of a Picket node"),
        ({"instead": b""}, "no hello of a Picket node"),
        ({"closes": "backoff"}, "keeps this node out"),
        ({"closes": "shutdown"}, "closes the link at once (shutdown)"),
    ],
)
async def test_a_hello_that_is_wrong(case: Case, changes: dict[str, object], said: str) -> None:
    lines = await faked(Fake(case, **changes))  # type: ignore[arg-type]
    assert said in failed_at(lines, Stage.PROTOCOL).detail


async def test_a_clock_that_is_off(case: Case) -> None:
    lines = await faked(Fake(case, ahead_s=86_500))
    line = failed_at(lines, Stage.CLOCK)
    assert line.detail == "its clock is 1 day ahead of this one"
    lines = await faked(Fake(case, ahead_s=-200))
    assert lines[Stage.CLOCK].result is Result.WARNING
    assert lines[Stage.CLOCK].detail == "its clock is 3 minutes behind this one"
    assert lines[Stage.ROUND_TRIP].result is OK


async def test_pings_that_nobody_answers(case: Case) -> None:
    line = failed_at(await faked(Fake(case, pongs=False)), Stage.ROUND_TRIP)
    assert "pings" in line.detail


async def test_of_several_addresses_the_best_is_told(case: Case) -> None:
    fake = Fake(case)
    async with serving(fake.act, fake.context()) as port, serving(silence) as mute:
        target = replace(
            case.target(port), endpoints=(f"wss://127.0.0.1:{mute}", f"wss://127.0.0.1:{port}")
        )
        seen = await look_at(target, now=real_now, bounds=QUICK)
    assert seen.port == port


# --- a node that does not know us ------------------------------------------------------------
@asynccontextmanager
async def listening(case: Case, *, bundle: bytes | None, door: bool = True) -> AsyncIterator[int]:
    async def refuse(link: Link) -> None:
        raise AssertionError(f"a stranger was let in: {link.remote}")

    async def take(wire: bytes, address: str) -> None:
        raise AssertionError(f"a test knocked: {address}, {wire!r}")

    shown = Door(card=lambda: bundle, take=take, monotonic=lambda: 0)
    listener = Listener(
        identity_pem=case.theirs.pem, anchors=(), on_link=refuse, door=shown if door else None,
        bounds=LinkBounds(close_s=0.2),
    )  # fmt: skip
    port = await listener.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await listener.stop()


async def test_a_peer_that_has_not_pinned_us(case: Case) -> None:
    async with listening(case, bundle=make_bundle(case.birch.chain)) as port:
        lines = await case.test(port, link=None, asked_at=NOW, contact="+31 70 555 0100")
    assert [lines[stage].result for stage in list(Stage)[:4]] == [OK] * 4
    line = failed_at(lines, Stage.TRUST)
    assert line.detail == "birch has not approved this node yet"
    assert line.fix == (
        "call the duty desk of birch (+31 70 555 0100) and ask it to run: picket peers pending"
    )


@pytest.mark.parametrize("door", [True, False])
async def test_a_peer_that_does_not_know_us_and_shows_nothing(case: Case, door: bool) -> None:
    async with listening(case, bundle=None, door=door) as port:
        lines = await case.test(port, link=None)
    assert lines[Stage.PROTOCOL].result is Result.UNSEEN
    assert "picket peers add my.card" in failed_at(lines, Stage.TRUST).fix


async def test_a_peer_that_froze_us_since(case: Case) -> None:
    async with listening(case, bundle=None) as port:
        line = failed_at(await case.test(port, link=None, last_contact=NOW), Stage.TRUST)
    assert "any more" in line.detail
    assert "frozen" in line.fix


async def test_the_door_of_another_network_or_node(case: Case) -> None:
    for chain, said in (
        (make_node("birch", network=FAR).chain, "another Picket network"),
        (make_node("cedar").chain, "another node"),
    ):
        async with listening(case, bundle=make_bundle(chain)) as port:
            assert said in failed_at(await case.test(port, link=None), Stage.PROTOCOL).detail


async def test_an_older_certificate_of_ours_is_tried_as_links_do(case: Case, make: Make) -> None:
    fresh = make(9)
    fake = Fake(case)
    context = case.theirs.context(ssl.PROTOCOL_TLS_SERVER, [case.ours.der])
    async with serving(fake.act, context) as port:
        target = case.target(port)
        target = replace(target, pems=((fresh.der, fresh.pem), *target.pems))
        seen = await look_at(target, now=real_now, bounds=QUICK)
    assert conclude(case.subject(), seen)[4].result is OK


# --- real nodes ------------------------------------------------------------------------------
def results(row: Row) -> dict[str, str]:
    return {check["stage"]: check["result"] for check in row["checks"]}


def check(net: Net, here: str, there: str) -> Row:
    row: Row = net[here].ask("POST", f"/api/v1/peers/{there}/test", {})
    return row


def test_between_real_nodes(tmp_path: Path) -> None:
    with Net(tmp_path) as net:
        for key in ("alder", "birch"):
            net.make(key, witness__beat=1)
        net.make("cedar", endpoint=False, witness__beat=1)
        net.start("alder", "birch", "cedar")
        net.pair(("alder", "birch"), ("alder", "cedar"))
        net.wait_linked("alder", "birch")
        net.wait_linked("alder", "cedar")
        wait(lambda: results(check(net, "alder", "birch"))["witness"] == "ok", "a cosignature")
        row = check(net, "alder", "birch")
        assert row["ok"] is True
        assert set(results(row).values()) == {"ok"}, row
        contact = net["birch"].ask("GET", "/api/v1/status")["peers"][0]["last_contact"]
        for _ in range(5):
            assert check(net, "alder", "birch")["ok"]
        after = net["birch"].ask("GET", "/api/v1/status")
        assert (after["peers"][0]["last_contact"], after["peers"][0]["linked"]) == (contact, True)
        assert not [each for each in after["notices"] if each["code"] == "peer-trouble"]

        wait(lambda: results(check(net, "alder", "cedar"))["round trip"] == "ok", "an answer")
        row = check(net, "alder", "cedar")
        assert row["address"] is None
        assert set(results(row).values()) == {"ok"}, row

        metrics = net["alder"].exchange("GET", "/metrics")[1].decode()
        assert 'picket_peer_clock_skew_seconds{peer="birch"} 0.0' in metrics

        net.stop("birch")
        row = check(net, "alder", "birch")
        assert results(row) == {
            "name": "ok", "tcp": "failed", **dict.fromkeys(list(results(row))[2:], "not tried")
        }  # fmt: skip
        net.check_journals()
