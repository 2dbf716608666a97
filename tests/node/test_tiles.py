"""The log as files: which there are, and who gets them over which port."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from keys.trust import Level
from node.app import open_service
from node.clock import SystemClock
from node.engine import Engine
from node.log import Act
from node.server import Server
from node.service import SCOPES, Service
from node.tiles import LogFiles, TilePath, parse_tile_path, tiles_of
from node.transport import Bounds, Link, Listener
from protocol import limits
from protocol.entry import EntryKind
from protocol.errors import (
    BusyError,
    LogCorruptionError,
    NotFoundError,
    UntrustedKeyError,
)
from tests.node.factories import Station, World, copied, made_once
from tests.node.log_reader import leaf, name, tree
from tests.node.small_logs import ask, grow, make_home

PATIENCE_S: Final = 20.0
PROBLEM: Final = "application/problem+json"


# --- logs ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def born(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a node whose log has one entry."""
    return make_home(tmp_path_factory.mktemp("born") / "alder")


@pytest.fixture
def service(born: Path, tmp_path: Path) -> Iterator[Service]:
    with open_service(shutil.copytree(born, tmp_path / "n")) as opened:
        yield opened


# --- paths -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "tile"),
    [
        ("tile/0/005", TilePath(0, 5)),
        ("tile/0/256", TilePath(0, 256)),
        ("tile/0/x001/x234/067", TilePath(0, 1_234_067)),
        ("tile/0/x001/000.p/1", TilePath(0, 1_000, 1)),
        ("tile/63/000.p/255", TilePath(63, 0, 255)),
        ("tile/entries/000.p/5", TilePath(None, 0, 5)),
        ("tile/entries/x001/x099/x511/x627/775.p/255", TilePath(None, 2**40 - 1, 255)),
    ],
)
def test_a_path_names_its_tile_and_only_that(path: str, tile: TilePath) -> None:
    assert parse_tile_path(path) == tile
    assert str(tile) == path
    assert len(path) <= limits.MAX_TILE_PATH


WRONG: Final = (
    "", "tile", "tile/", "tile/0", "tile/0/", "tile/00/000", "tile/01/000", "tile/64/000",
    "tile/-1/000", "tile/+1/000", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/0/5", "tile/0/x000",
    "tile/0/x000/005", "tile/0/001/000", "tile/0/x001/0", "tile/0/x01/000", "tile/0/X001/000",
    "tile/0/x001/x000", "tile/0/x000/x001/000", "tile/0/000.p", "tile/0/000.p/", "tile/0/000.p/0",
    "tile/0/000.p/00", "tile/0/000.p/05", "tile/0/000.p/256", "tile/0/000.p/257", "tile/0/000.p/-1",
    "tile/0/000.p/1000", "tile/0/000.p/\u0663", "tile/0/000.P/5", "tile/0/000.p/5/", "/tile/0/000",
    "tile/0/000/", "tile//0/000", "tile/0//000", "tile/0/../0/000", "tile/0/000\n",
    "tile/\u0660/000",
    "tile/0/000?x=1", "tile/0/000 ", "tile/data/000", "tile/entries/0", "tile/Entries/000",
    "tile/0/x001/x001/x001/x001/x001/000", "tile/0/" + "x000/" * 40 + "000", "Checkpoint",
    "checkpoint/", "checkpoint.new", "tile/0x0/000", "tile/1e0/000", "tile/0/0_0",
)  # fmt: skip


@pytest.mark.parametrize("path", WRONG)
def test_a_path_in_any_other_form_names_nothing(service: Service, path: str) -> None:
    with pytest.raises(NotFoundError):
        parse_tile_path(path)
    with pytest.raises(NotFoundError):
        LogFiles(service.core.log, head=lambda: (2**48, b"")).resolve(path, entries=True)


def test_every_index_has_one_path_in_groups_of_three_digits() -> None:
    for index in (*range(1_100), 999_999, 1_000_000, 999_999_999, 10**9, 2**40 - 1):
        assert str(TilePath(0, index)) == f"tile/0/{name(index)}"
        assert parse_tile_path(f"tile/0/{name(index)}") == TilePath(0, index)


def test_the_tiles_of_a_log_are_those_of_the_specification() -> None:
    assert list(map(str, tiles_of(0))) == []
    assert list(map(str, tiles_of(5, entries=True))) == ["tile/0/000.p/5", "tile/entries/000.p/5"]
    assert list(map(str, tiles_of(256))) == ["tile/0/000", "tile/1/000.p/1"]
    levels = [(tile.level, tile.width) for tile in tiles_of(70_000)]
    assert [levels.count((0, 256)), levels.count((1, 256))] == [273, 1]
    assert [pair for pair in levels if pair[1] != 256] == [(0, 112), (1, 17), (2, 1)]


# --- what is given out -----------------------------------------------------------------------
@pytest.mark.parametrize("signed", [1, 2, 255, 256, 257, 511, 512, 600])
def test_exactly_the_tiles_up_to_the_head_exist(service: Service, signed: int) -> None:
    grow(service, 600)
    leaves = [leaf(entry) for entry in service.core.log.entries(0, 600)]
    files = LogFiles(service.core.log, head=lambda: (signed, b"note"))
    for index in range(3):
        for width in range(1, 257):
            path, last = str(TilePath(0, index, width)), index * 256 + width
            bundle = str(TilePath(None, index, width))
            if last > signed:
                for absent in (path, bundle):
                    with pytest.raises(NotFoundError):
                        files.resolve(absent, entries=True)
                continue
            assert files.resolve(path).body == b"".join(leaves[index * 256 : last])
            entries = service.core.log.entries(index * 256, width)
            body = b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
            assert files.resolve(bundle, entries=True).body == body
    above = [tree(leaves[:256]), tree(leaves[256:512])][: signed // 256]
    for width in range(1, 257):
        if width > len(above):
            with pytest.raises(NotFoundError):
                files.resolve(str(TilePath(1, 0, width)))
        else:
            assert files.resolve(f"tile/1/000.p/{width}").body == b"".join(above[:width])
    for absent in ("tile/1/000", "tile/2/000.p/1", "tile/63/000.p/1", "tile/0/x001/000.p/1"):
        with pytest.raises(NotFoundError):
            files.resolve(absent)


def test_without_a_word_about_entries_there_are_none(service: Service) -> None:
    with pytest.raises(NotFoundError):
        LogFiles(service.core.log).resolve("tile/entries/000.p/1")


def test_what_is_not_signed_yet_does_not_exist(service: Service) -> None:
    core = service.core
    with core.logged(seal=False):
        core.log.append([Act(EntryKind.HEARTBEAT, bytes(32))])
    files = LogFiles(core.log)
    before = files.resolve("checkpoint").body
    with pytest.raises(NotFoundError):
        files.resolve("tile/0/000.p/2")
    assert files.resolve("checkpoint").body == before, "looking signed it"
    assert service.log_file("checkpoint").body != before
    assert len(files.resolve("tile/0/000.p/2").body) == 64


@pytest.mark.parametrize(
    "damage",
    ["DELETE FROM tiles", "UPDATE tiles SET data = x'00'", "DELETE FROM entries WHERE idx = 7"],
)
def test_what_is_damaged_is_not_given_out(
    service: Service, born: Path, tmp_path: Path, damage: str
) -> None:
    grow(service, 20)
    with service.core.store.transaction():
        service.core.store.run(damage)
    service.core.log.forget()
    with pytest.raises(LogCorruptionError):
        for path in ("tile/0/000.p/20", "tile/entries/000.p/20"):
            LogFiles(service.core.log, head=lambda: (20, b"")).resolve(path, entries=True)


# --- the local endpoint ----------------------------------------------------------------------
@asynccontextmanager
async def served(service: Service) -> AsyncIterator[str]:
    """Serve *service* to programs; give the URL of its log."""
    engine = Engine(
        service.core, clock=SystemClock(), random=secrets.token_bytes,
        identity_pem=service.core.home.tls_pem, dials=False,
    )  # fmt: skip
    server = Server(service, engine, hosts=frozenset())
    try:
        async with asyncio.timeout(PATIENCE_S):
            port = await server.listen("127.0.0.1", 0)
            yield f"http://127.0.0.1:{port}/api/v1/log/"
    finally:
        await server.stop()
        await engine.stop()


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


@dataclass
class Token:
    """A token of a node with some scopes."""

    service: Service
    scopes: tuple[str, ...]

    @property
    def secret(self) -> str:
        made = self.service.create_token(name="test", scopes=self.scopes, days=1)
        return str(made["token"])

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}"}


async def test_the_files_have_their_types_and_may_be_kept_as_long_as_they_last(
    world: World,
) -> None:
    service = world["alder"].service()
    header = Token(service, SCOPES).header
    forever = "private, max-age=31536000, immutable"
    async with served(service) as url, aiohttp.ClientSession(headers=header) as session:
        size = service.core.log.size
        for path, kind, caching in (
            ("checkpoint", "text/plain; charset=utf-8", "no-cache"),
            (f"tile/0/000.p/{size}", "application/octet-stream", forever),
            (f"tile/entries/000.p/{size}", "application/octet-stream", forever),
        ):  # fmt: skip
            async with session.get(url + path) as answer:
                assert answer.status == 200
                assert answer.headers["Content-Type"] == kind
                assert answer.headers["Cache-Control"] == caching
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                body = await answer.read()
                assert body == service.log_file(path, entries=True).body
            async with session.head(url + path) as answer:
                assert (answer.status, await answer.read()) == (200, b"")
                assert answer.headers["Content-Length"] == str(len(body))
        async with session.get(url + "tile/0/000.p/255") as answer:
            assert answer.status == 404
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["Content-Type"].startswith(PROBLEM)


def test_entries_need_a_scope_of_their_own(world: World) -> None:
    service = world["alder"].service()
    reader = Token(service, tuple(scope for scope in SCOPES if scope != "log:audit")).secret
    auditor = Token(service, ("log:audit",)).secret
    bundle, tile = "/api/v1/log/tile/entries/000.p/1", "/api/v1/log/tile/0/000.p/1"
    assert ask(service, "GET", tile, token=reader).status == 200
    assert ask(service, "GET", bundle, token=auditor).status == 200
    assert ask(service, "GET", bundle).status == 200  # the operator
    assert ask(service, "GET", tile, token=auditor).status == 403
    refused = ask(service, "GET", bundle, token=reader)
    assert refused.status == 403
    assert b"log:audit" in refused.body


@pytest.mark.parametrize(
    "way",
    ["tile/%65ntries/000.p/1", "tile/entries%2f000.p/1", "tile%2Fentries/000.p/1",
     "tile//entries/000.p/1", "tile/./entries/000.p/1", "tile/0/../entries/000.p/1",
     "tile/ENTRIES/000.p/1"],
)  # fmt: skip
def test_no_other_way_of_writing_leads_to_entries(world: World, way: str) -> None:
    service = world["alder"].service()
    reader = Token(service, tuple(scope for scope in SCOPES if scope != "log:audit")).secret
    assert ask(service, "GET", f"/api/v1/log/{way}", token=reader).status == 404


def test_programs_cannot_begin_an_export(world: World) -> None:
    service = world["alder"].service()
    before = service.core.log.size
    everything = Token(service, SCOPES).secret
    assert ask(service, "POST", "/api/v1/log/export", b"{}", everything).status == 404
    for body in (b'{"entries": 1}', b'{"entries": "yes"}', b'{"all": true}'):
        assert ask(service, "POST", "/api/v1/log/export", body).status == 400
    assert service.core.log.size == before


# --- the peers' port -------------------------------------------------------------------------
@dataclass
class Served:
    """A node that listens for peers, and clients with the certificates of others."""

    station: Station
    engine: Engine
    port: int

    def session(self, who: Station) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            f"https://127.0.0.1:{self.port}/log/",
            connector=aiohttp.TCPConnector(ssl=context(who, self.station), limit=1),
        )

    async def status(self, session: aiohttp.ClientSession, path: str = "checkpoint") -> int:
        async with session.get(path) as answer:
            await answer.read()
            return answer.status


def context(who: Station, host: Station) -> ssl.SSLContext:
    """What a TLS client with the certificate of *who* needs to reach *host*."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_flags |= 0x200000  # no check of times: the certificates are of the test's time
    made.load_verify_locations(cadata=host.core.card.tls[0])
    made.load_cert_chain(who.home.tls_pem)
    return made


@asynccontextmanager
async def listening(station: Station) -> AsyncIterator[Served]:
    engine = Engine(
        station.core, clock=station.clock, random=secrets.token_bytes,
        identity_pem=station.home.tls_pem, dials=False,
    )  # fmt: skip
    port = await engine.start("127.0.0.1", 0)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield Served(station, engine, port)
    finally:
        await engine.stop()


def grown(station: Station, size: int) -> None:
    with station.core.logged():
        station.core.log.append(
            [Act(EntryKind.HEARTBEAT, bytes(32)) for _ in range(size - station.core.log.size)]
        )


async def test_a_peer_reads_checkpoint_and_hashes_and_nothing_else(world: World) -> None:
    alder = world["alder"]
    grown(alder, 300)
    async with listening(alder) as host, host.session(world["birch"]) as session:
        async with session.get("checkpoint") as answer:
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert answer.headers["Cache-Control"] == "no-cache"
            assert await answer.read() == alder.core.log.checkpoint()[1]
        leaves = [leaf(entry) for entry in alder.core.log.entries(0, 300)]
        for path, hashes in (
            ("tile/0/000", leaves[:256]),
            ("tile/0/000.p/7", leaves[:7]),
            ("tile/0/001.p/44", leaves[256:]),
            ("tile/1/000.p/1", [tree(leaves[:256])]),
        ):
            async with session.get(path) as answer:
                assert answer.headers["Content-Type"] == "application/octet-stream"
                assert "immutable" in answer.headers["Cache-Control"]
                assert await answer.read() == b"".join(hashes)
            async with session.head(path) as answer:
                assert (answer.status, await answer.read()) == (200, b"")
        for path in ("tile/0/001.p/45", "tile/0/001", "tile/entries/000", "tile/entries/000.p/1",
                     "tile/%65ntries/000", "tile/0/000?x", "", "tile/", "head",
                     "/api/v1/node", "/", "/log", "/metrics"):  # fmt: skip
            async with session.get(path) as answer:
                assert (answer.status, await answer.read()) == (404, b""), path
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            async with session.request(method, "checkpoint") as answer:
                assert (answer.status, await answer.read()) == (404, b"")


async def test_a_peer_that_reads_makes_the_log_sign_nothing(world: World) -> None:
    alder = world["alder"]
    with alder.core.logged(seal=False):
        alder.core.log.append([Act(EntryKind.HEARTBEAT, bytes(32))])
    signed, size = alder.core.log.signed_size, alder.core.log.size
    async with listening(alder) as host, host.session(world["birch"]) as session:
        assert await host.status(session) == 200
        assert await host.status(session, f"tile/0/000.p/{size}") == 404
    assert alder.core.log.signed_size == signed < size


async def test_a_stranger_does_not_get_through_the_handshake(world: World) -> None:
    alder, cedar = world["alder"], world["cedar"]
    revoke(alder, cedar)
    async with listening(alder) as host, host.session(cedar) as session:
        with pytest.raises(aiohttp.ClientError):
            await host.status(session)


@pytest.mark.parametrize("noticed", [False, True])
async def test_a_peer_that_was_revoked_reads_no_more_over_an_open_connection(
    world: World, *, noticed: bool
) -> None:
    alder, birch = world["alder"], world["birch"]
    async with listening(alder) as host, host.session(birch) as session:
        assert await host.status(session) == 200
        await host.engine.desk(lambda: revoke(alder, birch))
        if noticed:
            host.engine.poke()
        async with session.get("tile/0/000.p/1") as answer:
            assert (answer.status, await answer.read()) == (403, b"")


def revoke(station: Station, peer: Station) -> None:
    core = station.core
    core._change_trust(core.trust.freeze(peer.id), peer.id, "frozen: test")
    assert core.trust.peer(peer.id).level is Level.FROZEN


async def test_a_peer_that_reads_too_fast_is_told_to_wait_and_others_are_not(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    async with (
        listening(alder) as host, host.session(birch) as session,
        host.session(world["cedar"]) as another,
    ):  # fmt: skip
        certificate = birch.core.card.tls[0]
        for _ in range(limits.LOG_READS_BURST):
            await host.engine.read_log(certificate, "checkpoint")
        with pytest.raises(BusyError):
            await host.engine.read_log(certificate, "checkpoint")
        async with session.get("checkpoint") as answer:
            assert (answer.status, await answer.read()) == (429, b"")
            assert answer.headers["Retry-After"] == "1"
        assert await host.status(another) == 200
        alder.clock.advance(1_000)
        for _ in range(limits.LOG_READS_PER_S):
            assert await host.status(session) == 200
        assert await host.status(session) == 429


async def test_no_certificate_but_a_peers_reads_the_log(world: World) -> None:
    async with listening(world["alder"]) as host:
        for certificate in (b"", world["alder"].core.card.tls[0]):
            with pytest.raises(UntrustedKeyError):
                await host.engine.read_log(certificate, "checkpoint")


async def test_a_peer_has_a_few_connections_for_reading_and_gets_them_back(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    async with listening(alder) as host, AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(host.session(birch))
            for _ in range(limits.MAX_LOG_READERS_PER_PEER)
        ]
        for session in sessions:
            assert await host.status(session) == 200
        async with host.session(birch) as more:
            assert await host.status(more) == 503
        async with host.session(world["cedar"]) as another:
            assert await host.status(another) == 200
        for session in sessions:
            assert await host.status(session) == 200
        await sessions[0].close()
        status = 503
        while status == 503:  # until the node has noticed; the test's own time is bounded
            async with host.session(birch) as more:
                status = await host.status(more)
        assert status == 200


@asynccontextmanager
async def reading(
    world: World, **bounds: float
) -> AsyncIterator[tuple[Listener, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare listener that serves one large tile, and a connection of birch's to it."""
    alder, birch = world["alder"], world["birch"]
    grown(alder, 256)
    files = LogFiles(alder.core.log)

    async def on_link(link: Link) -> None:
        raise AssertionError("nobody links here")

    async def on_read(certificate: bytes, path: str) -> Any:  # noqa: ANN401
        assert certificate == birch.core.card.tls[0]
        return files.resolve(path)

    listener = Listener(
        identity_pem=alder.home.tls_pem, anchors=birch.core.card.tls, on_link=on_link,
        on_read=on_read, bounds=Bounds(**bounds),  # type: ignore[arg-type]
    )  # fmt: skip
    port = await listener.start("127.0.0.1", 0)
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context(birch, alder), server_hostname=""
            )
            yield listener, reader, writer
            writer.transport.abort()
    finally:
        await listener.stop()


async def until(done: Callable[[], bool]) -> None:
    """Let the loop turn until *done*; the time of each test is bounded."""
    while not done():  # noqa: ASYNC110  nothing tells when the other end has noticed
        await asyncio.sleep(0)


ONE: Final = b"GET /log/tile/0/000 HTTP/1.1\r\nHost: x\r\n\r\n"


async def answered(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return await reader.readexactly(8_192)


async def test_a_reader_outlives_the_handshake_timeout_but_not_idleness(world: World) -> None:
    async with reading(world, handshake_s=0.3, reader_idle_s=1.0) as (listener, reader, writer):
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 0.6:
            writer.write(ONE)
            await answered(reader)
        writer.write(ONE[:20])  # a request that never ends is idleness as well
        assert await reader.read() == b""
        assert loop.time() - began > 0.9
        await until(lambda: not listener._readers)


async def test_a_reader_that_takes_nothing_is_cut_off(world: World) -> None:
    async with reading(world, send_s=0.3) as (listener, reader, writer):
        writer.write(ONE)
        await answered(reader)
        assert len(listener._readers) == 1
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(ONE * 4_000)
        await until(lambda: not listener._readers)
