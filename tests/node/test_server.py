"""The local endpoint on real sockets: who may ask, how much may be sent, and what gets out."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import secrets
import shutil
import socket
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from typing_extensions import override

from keys.keystore import Argon2Params, load, save
from node import journal
from node.app import initialise, open_core, unlock
from node.clock import SystemClock
from node.config import load_config
from node.engine import Engine
from node.home import Home
from node.server import Server
from node.service import SCOPES, Service
from protocol import limits
from protocol.errors import AddressInUseError, OperatorError

PASSPHRASE: Final = b"correct horse battery"
CANARY: Final = "canary-7f3a"
PATIENCE_S: Final = 20.0
Row = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "alder"
    initialise(
        path,
        {"node.authority": "Alder", "node.country": "XA", "node.network": "test.example",
         "node.contact": "duty desk"},
        PASSPHRASE,
    )  # fmt: skip
    keystore = Home(path).keystore
    cheap = Argon2Params(memory_kib=19 * 1024, iterations=1)
    save(keystore, load(keystore, PASSPHRASE), PASSPHRASE, cheap)
    return path


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Home:
    return Home(shutil.copytree(made, tmp_path / "n"))


# --- talking HTTP by hand --------------------------------------------------------------------
@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Row:
        value: Row = json.loads(self.body)
        return value


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:-2])}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(head[0].split()[1]), headers, body)


@dataclass
class Running:
    server: Server
    service: Service
    engine: Engine
    home: Home
    port: int = 0
    token: str = field(default="", repr=False)

    @asynccontextmanager
    async def connected(
        self, *, control: bool = False
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        if control:
            reader, writer = await asyncio.open_unix_connection(str(self.home.control_sock))
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def send(self, data: bytes, *, control: bool = False) -> Answer:
        async with self.connected(control=control) as (reader, writer):
            writer.write(data)
            return await read_answer(reader)

    async def ask(
        self, method: str, path: str, *headers: str, body: bytes = b"", control: bool = False,
        host: str = "127.0.0.1", token: bool = True,
    ) -> Answer:  # fmt: skip
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
        if token and not control:
            lines.append(f"Authorization: Bearer {self.token}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        return await self.send(head + body, control=control)


@asynccontextmanager
async def served(
    home: Home, *, hosts: frozenset[str] = frozenset(), kind: type[Service] = Service
) -> AsyncIterator[Running]:
    config, clock = load_config(home), SystemClock()
    with open_core(home, config, clock) as core:
        unlock(core, config, lambda: PASSPHRASE)
        engine = Engine(
            core, clock=clock, random=secrets.token_bytes, identity_pem=home.tls_pem, dials=False
        )
        service = kind(core, config=config, clock=clock, random=secrets.token_bytes)
        made = service.create_token(name="test", scopes=SCOPES, days=1)
        running = Running(
            Server(service, engine, hosts=hosts), service, engine, home, token=made["token"]
        )
        try:
            running.port = await running.server.listen("127.0.0.1", 0)
            await running.server.listen_control(home.control_sock)
            yield running
        finally:
            await running.server.stop()
            await engine.stop()


async def still_serves(running: Running) -> None:
    assert (await running.ask("GET", "/api/v1/node")).json["authority"] == "Alder"


def problem_of(answer: Answer, status: int, code: str) -> Row:
    assert answer.status == status, answer.body
    assert answer.headers["content-type"].startswith("application/problem+json")
    value = answer.json
    assert value["code"] == code
    assert value["instance"] == f"urn:picket:request:{answer.headers['x-request-id']}"
    assert b"Traceback" not in answer.body
    return value


# --- who may ask -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9", "localhost:8463", "LocalHost", "[::1]:80", "[::1]"]
)
async def test_the_loopback_names_are_accepted(home: Home, host: str) -> None:
    async with served(home) as running:
        assert (await running.ask("GET", "/api/v1/node", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:8463", "localhost.evil.example", "evil@127.0.0.1",
     "127.0.0.2", "[::2]:1", "127.0.0.1.", ""],
)  # fmt: skip
async def test_a_foreign_host_name_is_refused_even_with_a_token(home: Home, host: str) -> None:
    """A page that rebinds its name to 127.0.0.1 must not reach the node."""
    async with served(home) as running:
        problem_of(await running.ask("GET", "/healthz", host=host), 403, "forbidden")


async def test_a_request_without_a_host_is_refused(home: Home) -> None:
    async with served(home) as running:
        answer = await running.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        problem_of(answer, 403, "forbidden")


@pytest.mark.parametrize("configured", ["node.example", "Node.Example"])
async def test_a_configured_host_name_is_accepted_in_any_case(home: Home, configured: str) -> None:
    async with served(home, hosts=frozenset({configured})) as running:
        for host in ("node.example", "NODE.example:443"):
            assert (await running.ask("GET", "/healthz", host=host)).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:8463", ""])
async def test_a_request_of_a_web_page_is_refused(home: Home, origin: str) -> None:
    async with served(home) as running:
        for method, path in (("GET", "/api/v1/node"), ("POST", "/api/v1/incidents")):
            answer = await running.ask(method, path, f"Origin: {origin}")
            problem_of(answer, 403, "forbidden")


async def test_a_token_counts_in_its_header_only(home: Home) -> None:
    async with served(home) as running:
        token = running.token
        for path, header in (
            (f"/api/v1/node?token={token}", "X: y"),
            (f"/api/v1/node?access_token={token}", "X: y"),
            ("/api/v1/node", f"Cookie: token={token}"),
            ("/api/v1/node", f"Authorization: Basic {token}"),
            ("/api/v1/node", f"Authorization: {token}"),
            ("/api/v1/node", f"Proxy-Authorization: Bearer {token}"),
        ):
            answer = await running.ask("GET", path, header, token=False)
            problem_of(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await running.ask("GET", "/api/v1/node")).status == 200


async def test_a_token_of_odd_bytes_is_no_token(home: Home) -> None:
    async with served(home) as running:
        odd = b"\xff\xfe".decode("utf-8", "surrogateescape")
        header = f"Authorization: Bearer pkt_{odd}_00"
        answer = await running.ask("GET", "/api/v1/node", header, token=False)
        problem_of(answer, 401, "unauthorized")


async def test_operator_routes_are_on_the_control_socket_alone(home: Home) -> None:
    async with served(home) as running:
        problem_of(await running.ask("GET", "/api/v1/tokens"), 404, "not-found")
        answer = await running.ask("GET", "/api/v1/tokens", control=True)
        assert [row["name"] for row in answer.json["items"]] == ["test"]
        assert running.token.split("_")[2].encode() not in answer.body


async def test_the_control_socket_opens_to_its_owner_alone(home: Home) -> None:
    async with served(home):
        mode = home.control_sock.lstat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600


async def test_what_a_killed_node_left_in_place_of_the_socket_is_replaced(home: Home) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(home.control_sock))
    async with served(home) as running:
        assert (await running.ask("GET", "/api/v1/tokens", control=True)).status == 200


@pytest.mark.parametrize("kind", ["file", "folder"])
async def test_what_is_no_socket_is_left_alone_and_named(home: Home, kind: str) -> None:
    if kind == "file":
        home.control_sock.write_text("mine")
    else:
        home.control_sock.mkdir()
    with pytest.raises(OperatorError, match=r"control\.sock"):
        async with served(home):
            pass
    assert home.control_sock.exists()
    assert kind == "folder" or home.control_sock.read_text() == "mine"


async def test_a_home_too_deep_for_a_socket_is_refused_with_the_reason(
    made: Path, tmp_path: Path
) -> None:
    deep = Home(shutil.copytree(made, tmp_path / ("d" * 100) / "n"))
    with pytest.raises(OperatorError) as caught:
        async with served(deep):
            pass
    assert str(deep.path) in caught.value.message
    assert caught.value.fix


# --- where it listens ------------------------------------------------------------------------
async def test_a_port_in_use_is_named_with_what_to_do(home: Home) -> None:
    async with served(home) as running:
        with pytest.raises(AddressInUseError, match=str(running.port)) as caught:
            await running.server.listen("127.0.0.1", running.port)
        assert "http.listen" in caught.value.fix
        await still_serves(running)


async def test_a_name_that_does_not_resolve_is_named_with_what_to_do(home: Home) -> None:
    async with served(home) as running:
        with pytest.raises(OperatorError, match=r"no-such-host\.invalid") as caught:
            await running.server.listen("no-such-host.invalid", 8463)
        assert caught.value.fix
        await still_serves(running)


# --- how much may be sent --------------------------------------------------------------------
def post(running: Running, path: str, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {running.token}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


async def cut_off(running: Running, head: bytes, piece: Callable[[], bytes], bound: int) -> int:
    """Send without end until answered 413; return how many bytes of body were taken."""
    sent = 0
    async with running.connected() as (reader, writer):
        writer.write(head)
        answered = asyncio.create_task(read_answer(reader))
        while not answered.done() and sent < 8 * bound:
            data = piece()
            writer.write(data)
            sent += len(data)
            drained = asyncio.create_task(writer.drain())
            await asyncio.wait({answered, drained}, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
            await asyncio.gather(drained, return_exceptions=True)
        problem_of(await answered, 413, "too-large")
    return sent


async def test_a_body_that_never_ends_is_answered_at_the_bound(home: Home) -> None:
    async with served(home) as running:
        head = post(running, "/api/v1/incidents", "Transfer-Encoding: chunked")
        chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        sent = await cut_off(running, head, lambda: chunk, limits.MAX_REQUEST)
        assert sent < 8 * limits.MAX_REQUEST, "it was answered while more was on its way"
        await still_serves(running)


async def test_a_body_announced_too_long_is_answered_before_it_is_all_there(home: Home) -> None:
    async with served(home) as running:
        head = post(running, "/api/v1/incidents", f"Content-Length: {100 * limits.MAX_REQUEST}")
        sent = await cut_off(running, head, lambda: b" " * 0x4000, limits.MAX_REQUEST)
        assert sent < 8 * limits.MAX_REQUEST
        await still_serves(running)


async def test_a_body_that_unpacks_beyond_the_bound_is_refused(home: Home) -> None:
    async with served(home) as running:
        data = gzip.compress(b" " * (40 * limits.MAX_REQUEST))
        assert len(data) < limits.MAX_REQUEST
        answer = await running.ask("POST", "/api/v1/incidents", "Content-Encoding: gzip", body=data)
        assert answer.status in {413, 400, 415}, answer.body
        await still_serves(running)


async def test_only_imports_may_be_longer(home: Home) -> None:
    async with served(home) as running:
        body = json.dumps({"lines": ["x" * (2 * limits.MAX_REQUEST)]}).encode()
        answer = await running.ask("POST", "/api/v1/imports", body=body)
        assert (answer.status, answer.json["rejected"]) == (200, 1)
        problem_of(await running.ask("POST", "/api/v1/incidents", body=body), 413, "too-large")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (("Transfer-Encoding: chunked",), b"zz\r\nnonsense\r\n0\r\n\r\n"),
        (("Content-Encoding: gzip", "Content-Length: 8"), b"no gzip!"),
        (("Content-Encoding: deflate", "Content-Length: 8"), b"no gzip!"),
        (("Content-Length: 3", "Transfer-Encoding: chunked"), b"0\r\n\r\n"),
    ],
    ids=["bad chunk", "bad gzip", "bad deflate", "two lengths"],
)
async def test_a_damaged_body_is_the_senders_fault(
    home: Home, headers: tuple[str, ...], body: bytes
) -> None:
    async with served(home) as running:
        answer = await running.send(post(running, "/api/v1/incidents", *headers) + body)
        assert answer.status in {400, 413, 415}, answer.body
        assert b"Traceback" not in answer.body
        await still_serves(running)


async def test_a_program_that_hangs_up_half_way_hurts_nobody(home: Home) -> None:
    async with served(home) as running:
        async with running.connected() as (_, writer):
            writer.write(post(running, "/api/v1/incidents", "Content-Length: 100") + b'{"face')
            await writer.drain()
        await still_serves(running)
        drafts = await running.ask("GET", "/api/v1/incidents?state=draft")
        assert drafts.json["items"] == []


# --- what gets out ---------------------------------------------------------------------------
async def test_every_answer_forbids_keeping_sniffing_and_framing(home: Home) -> None:
    async with served(home) as running:
        for path, token in (("/healthz", False), ("/api/v1/node", True), ("/nothing", True)):
            answer = await running.ask("GET", path, token=token)
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
            assert len(answer.headers["x-request-id"]) == 16


@pytest.mark.parametrize(
    "path",
    ["/api/v1/incidents/%ED%A0%80", "/api/v1/incidents/%FF", "/api/v1/incidents/%00",
     "/api/v1/incidents?state=%ED%A0%80", "/api/v1/incidents?after=%FF", "/%ED%A0%80"],
)  # fmt: skip
async def test_odd_bytes_in_an_address_are_the_senders_fault(home: Home, path: str) -> None:
    async with served(home) as running:
        answer = await running.ask("GET", path)
        assert answer.status in {400, 404}, answer.body
        await still_serves(running)


class Broken(Service):
    """A service with a bug."""

    @override
    def status(self) -> Row:
        raise RuntimeError(CANARY)


async def test_a_bug_answers_without_its_text_and_is_noted_without_it(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    import structlog

    journal.set_up("info", "json")
    try:
        async with served(home, kind=Broken) as running:
            answer = await running.ask("GET", "/api/v1/status")
            problem_of(answer, 500, "error")
            assert CANARY.encode() not in answer.body
            assert b"test_server.py" not in answer.body
            await still_serves(running)
        noted = capsys.readouterr().err
    finally:
        structlog.reset_defaults()
    assert "RuntimeError at test_server.py:" in noted
    assert CANARY not in noted


async def test_a_broken_log_is_told_to_the_caller(home: Home) -> None:
    async with served(home) as running:
        with contextlib.closing(sqlite3.connect(home.node_db)) as database, database:
            database.execute("UPDATE entries SET entry = zeroblob(length(entry)) WHERE idx = 0")
        answer = await running.ask("POST", "/api/v1/log/verify", control=True)
        assert "entry 0" in problem_of(answer, 500, "log-corrupt")["detail"]
