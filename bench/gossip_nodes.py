"""Picket as a system under test: real nodes on loopback, driven by JSON commands.

``together N`` runs N nodes in this process, which compares with the baselines; ``alone`` runs one
node. Both read one JSON command a line from standard input and answer each with one JSON line; see
bench/gossip.py for what the commands mean. A released envelope counts as logged at another node
when the durable commit that holds it has returned there.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import secrets
import socket
import sqlite3
import struct
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from flight import LOST_S, Flight

from keys.identity import load_vault
from keys.keystore import Argon2Params, load, save
from keys.trust import Level, Verification
from node import __version__, journal
from node.app import initialise, open_core
from node.clock import SystemClock
from node.config import load_config
from node.core import Core, Shipment
from node.engine import Engine
from node.home import Home
from node.service import Network, Service
from protocol.canonical import encode
from protocol.errors import BusyError
from protocol.frames import SHORT_ID, Runs
from protocol.incident import make_ref, parse_incident, to_record
from protocol.quota import Quota, Rate
from protocol.receipt import complete

NETWORK: Final = "bench.example"
PASSPHRASE: Final = b"a passphrase for nodes that live for minutes"
CHEAP: Final = Argon2Params(memory_kib=19 * 1024, iterations=1)
CLIENTS: Final = 16  # release calls of one author under way at once
BATCH: Final = 64  # envelopes of one transaction when a history is made
POLL_S: Final = 0.002
PATIENCE_S: Final = 60.0
_FAST: Final = Rate(amount=2**30, burst=2**30)
UNBOUND: Final = Quota(envelopes=_FAST, bytes=_FAST, cpu=_FAST)
"""For sustained rates: what a node takes of one peer is bounded far below what it can do."""
_ID: Final = "00000000-0000-4000-8000-000000000000"
Answer = dict[str, Any]


# --- homes -----------------------------------------------------------------------------------
def make_homes(folder: Path, names: Sequence[str]) -> list[Path]:
    """Make nodes in *folder* that all trust each other at level share."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        ports = [probe.getsockname()[1] for probe in sockets]
    homes = [folder / name for name in names]
    for path, port in zip(homes, ports, strict=True):
        values = {
            "node.authority": path.name.title(),
            "node.country": "XA",
            "node.network": NETWORK,
            "node.contact": f"duty@{path.name}.example",
            "peer.listen": f"127.0.0.1:{port}",
            "peer.endpoints": [f"wss://127.0.0.1:{port}"],
        }
        initialise(path, values, PASSPHRASE)
        keystore = Home(path).keystore
        save(keystore, load(keystore, PASSPHRASE), PASSPHRASE, CHEAP)
    with ExitStack() as held:
        cores = [held.enter_context(opened(path)) for path in homes]
        for core in cores:
            for other in cores:
                if core is not other:
                    core.add_peer(other.trust.own, other.home.path.name)
                    verification = Verification("in-person", "bench", core.clock.now())
                    core.approve_peer(other.node_id, Level.SHARE, verification)
    return homes


@contextmanager
def opened(path: Path) -> Iterator[Core]:
    """Open the databases and the keystore of the node in *path*."""
    home = Home(path)
    with open_core(home, load_config(home), SystemClock()) as core:
        core.unlock(load_vault(load(home.keystore, PASSPHRASE)))
        yield core


class Bodies:
    """Records of one size in bytes, each about an incident of its own."""

    def __init__(self, size: int) -> None:
        """Make the pattern of all of them."""
        self._ref = make_ref("XA", 2026, bytes(8))
        bare = len(self._encode(""))
        if size <= bare:
            raise ValueError(f"a record has at least {bare + 1} bytes")
        pattern = self._encode("x" * (size - bare - 2))  # two bytes of length from 32 characters on
        pattern = self._encode("x" * (size - bare - 2 + size - len(pattern)))
        assert len(pattern) == size
        self._before, rest = pattern.split(_ID.encode())
        self._between, self._after = rest.split(self._ref.encode())

    def _encode(self, narrative: str) -> bytes:
        value: dict[str, Any] = {
            "face": {
                "incident_type": "seizure",
                "origin_country": "XA",
                "detected_at": "2026-03-04T08:20:00Z",
                "exercise": True,
                "summary": "20160 litres in 120 drums",
                "handling": {"tlp": "AMBER"},
                "location": {"country": "XA"},
                "substances": [
                    {
                        "substance_id": "acetic-anhydride",
                        "form": "liquid",
                        "qty": {"value": "20160", "unit": "LTR"},
                    }
                ],
            }
        }
        if narrative:
            value["annex"] = {"narrative": narrative}
        layers = frozenset(value)
        return encode(
            to_record(
                parse_incident(value), incident_id=_ID, ref=self._ref, revision=1, prev=None,
                layers=layers, first_shared_at="2026-03-04T09:00:00Z",
            )
        )  # fmt: skip

    def next(self) -> tuple[bytes, bytes]:
        """Return a token to release under, and a body."""
        token = secrets.token_bytes(32)
        ref = make_ref("XA", 2026, token[16:24]).encode()
        incident_id = str(uuid.UUID(bytes=token[:16], version=4)).encode()
        return token, b"".join((self._before, incident_id, self._between, ref, self._after))


# --- one node --------------------------------------------------------------------------------
def watch(
    core: Core,
    logged: Callable[[list[bytes], float], None],
    settled: Callable[[list[tuple[bytes, bytes]]], None],
) -> None:
    """Tell after each commit of *core* which envelopes and which receipts it holds now.

    A receipt is named by its envelope and its recipient.
    """
    stored: list[bytes] = []
    receipted: list[tuple[bytes, bytes]] = []
    begin, take, settle = core.store.transaction, core.take_in, core.take_receipts

    @contextmanager
    def transaction(*args: Any, **kwargs: Any) -> Iterator[None]:  # noqa: ANN401
        with begin(*args, **kwargs):
            yield
        at = time.monotonic()
        if stored:
            logged(stored.copy(), at)
            stored.clear()
        if receipted:
            settled(receipted.copy())
            receipted.clear()

    def take_in(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  passed on as it is
        taken = take(*args, **kwargs)
        stored.extend(taken.stored)
        return taken

    def take_receipts(receipts: Any) -> tuple[bytes, ...]:  # noqa: ANN401  of two kinds
        ids = settle(receipts)
        receipted.extend((envelope_id, receipts.recipient) for envelope_id in ids)
        return ids

    for owner, name, function in (
        (core.store, "transaction", transaction),
        (core, "take_in", take_in),
        (core, "take_receipts", take_receipts),
    ):
        setattr(owner, name, function)


class Member:
    """One node of this process; all that the benchmark does with a node goes through here."""

    def __init__(self, path: Path, size: int, *, bound: bool) -> None:
        """Prepare the node in *path*, whose bodies have *size* bytes; *bound* keeps the quotas."""
        self.home = Home(path)
        self._quota = None if bound else UNBOUND
        self.on_released: Callable[[bytes, float], None] = lambda envelope_id, begun: None
        self.on_logged: Callable[[list[bytes], float], None] = lambda envelope_ids, at: None
        self.on_settled: Callable[[list[tuple[bytes, bytes]]], None] = lambda pairs: None
        self._bodies = Bodies(size)
        self._held = ExitStack()
        self._running: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Open the databases of the node."""
        self._loop = asyncio.get_running_loop()
        self.core = self._held.enter_context(opened(self.home.path))
        watch(
            self.core,
            lambda ids, at: self._tell(lambda: self.on_logged(ids, at)),
            lambda pairs: self._tell(lambda: self.on_settled(pairs)),
        )
        self.config = load_config(self.home)

    async def start(self) -> None:
        """Listen and dial."""
        self.engine = Engine(
            self.core, clock=SystemClock(), random=secrets.token_bytes,
            identity_pem=self.home.tls_pem, dials=True, quota=self._quota,
        )  # fmt: skip
        assert self.config.peer.listen_address is not None
        await self.engine.start(*self.config.peer.listen_address)
        self._running = asyncio.create_task(self.engine.run())

    def _tell(self, call: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(call)

    async def wait_linked(self, count: int) -> None:
        """Wait until *count* links are open."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.engine.linked()) < count:  # noqa: ASYNC110  it has no event
                await asyncio.sleep(POLL_S)

    async def wait_opened(self) -> None:
        """Wait until all that was logged is opened into case.db."""
        async with asyncio.timeout(PATIENCE_S):
            while self.core.pending:  # noqa: ASYNC110  it has no event
                await asyncio.sleep(POLL_S)

    async def stop(self) -> None:
        """Stop the node and close it."""
        if self._running is not None:
            await self.engine.stop()
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._held.close()

    def address(self, names: Sequence[str]) -> None:
        """Release to the peers of these names from now on."""
        wanted = [peer.node_id for peer in self.core.trust.peers.values() if peer.name in names]
        assert len(wanted) == len(names)
        self._cards = self.core.trust.recipients(wanted, now=self.core.clock.now())

    def shipment(self) -> tuple[bytes, Shipment]:
        """Return a token and one more record to release."""
        token, body = self._bodies.next()
        return token, Shipment(body, "face annex", self._cards, ())

    async def release(self) -> None:
        """Release one record: seal, sign, log, commit."""
        token, shipment = self.shipment()
        begun = time.monotonic()

        def act() -> None:
            (envelope_id,) = self.core.release(token, [shipment])
            self._tell(lambda: self.on_released(envelope_id, begun))

        await self.engine.together(act)

    async def release_many(self, count: int) -> int:
        """Release *count* records in one transaction; return how many fitted."""
        made = [self.shipment() for _ in range(count)]

        def act() -> int:
            try:
                self.core.release(made[0][0], [shipment for _, shipment in made])
            except BusyError:
                return 0
            return count

        released = await self.engine.desk(act)
        self.engine.poke()
        return released


async def keep_under_way(
    flight: Flight, authors: Sequence[Member], *, seconds: float, window: int
) -> None:
    """Let *authors* release for *seconds*, at most *window* envelopes at a time under way."""
    free = asyncio.Semaphore(window)
    flight.on_complete = free.release
    deadline = flight.begun + seconds

    async def client(author: Member) -> None:
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + LOST_S / 4):
                    await free.acquire()
            except TimeoutError:
                for _ in range(flight.give_up()):
                    free.release()
                continue
            await author.release()

    await asyncio.gather(*(client(author) for author in authors for _ in range(CLIENTS)))


# --- N nodes in one process ------------------------------------------------------------------
class Together:
    """N nodes and what is under way between them."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._members: list[Member] = []
        self._flight = Flight(0)

    async def start(self, *, nodes: int, size: int, folder: str | None = None) -> Answer:
        """Make and start *nodes* nodes, and wait for the links."""
        path = self._held.enter_context(tempfile.TemporaryDirectory(dir=folder))
        homes = make_homes(Path(path), [f"node{number}" for number in range(nodes)])
        self._members = [Member(home, size, bound=False) for home in homes]
        for member in self._members:
            member.open()
            await member.start()
            member.on_released = self._on_released
            member.on_logged = self._on_logged
        for member in self._members:
            await member.wait_linked(nodes - 1)
            others = [home.name for home in homes if home != member.home.path]
            member.address(others)
        return {"about": f"Picket {__version__}, Python {sys.version.split()[0]}"}

    def _on_released(self, envelope_id: bytes, begun: float) -> None:
        self._flight.send(envelope_id, begun)

    def _on_logged(self, envelope_ids: list[bytes], at: float) -> None:
        for envelope_id in envelope_ids:
            self._flight.arrive(envelope_id, at)

    def _begin(self) -> Flight:
        self._flight = Flight(len(self._members) - 1)
        return self._flight

    async def latency(self, *, rounds: int, authors: int) -> Answer:
        """Release one record after the other."""
        flight = self._begin()
        done = asyncio.Event()
        flight.on_complete = done.set
        for number in range(rounds):
            done.clear()
            await self._members[number % authors].release()
            try:
                async with asyncio.timeout(LOST_S):
                    await done.wait()
            except TimeoutError:
                continue
        await self._opened()
        return flight.result()

    async def _opened(self) -> None:
        for member in self._members:
            await member.wait_opened()

    async def rate(self, *, seconds: float, window: int, authors: int) -> Answer:
        """Keep *window* records under way for *seconds*, then wait for the rest."""
        flight = self._begin()
        await keep_under_way(flight, self._members[:authors], seconds=seconds, window=window)
        while not flight.settled:  # noqa: ASYNC110  it also ends by the clock
            await asyncio.sleep(POLL_S)
        await self._opened()
        return {**flight.result(), "ms": [], "opened_seconds": time.monotonic() - flight.begun}

    async def stop(self) -> None:
        """Stop all nodes and remove their homes."""
        for member in self._members:
            await member.stop()
        self._held.close()


# --- one node in one process -----------------------------------------------------------------
@dataclass
class _Wire:
    """Bytes that the sockets of this process have carried, without TCP and IP headers."""

    received: int = 0
    sent: int = 0


def wire_bytes() -> _Wire:
    """Add up what the kernel says of every open TCP socket of this process."""
    total = _Wire()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            copy = socket.socket(fileno=os.dup(int(entry.name)))
        except OSError:
            continue  # no socket, or closed meanwhile
        with copy:
            if copy.family in {socket.AF_INET, socket.AF_INET6} and copy.type == socket.SOCK_STREAM:
                info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                # tcpi_bytes_acked and tcpi_bytes_received of struct tcp_info
                acked, received = struct.unpack_from("=QQ", info, 120)
                total.sent += acked
                total.received += received
    return total


def memory(*, reset: bool) -> tuple[int, int]:
    """Return resident memory in bytes and its peak, which *reset* lets begin anew."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kib = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line[:2] == "Vm"}
    return 1024 * int(kib["VmRSS"]), 1024 * int(kib["VmHWM"])


class Alone:
    """One node."""

    def __init__(self) -> None:
        self._logged: dict[bytes, float] = {}
        self._sent: dict[bytes, float] = {}
        self._receipts: set[tuple[bytes, bytes]] = set()
        self._changed = asyncio.Event()
        self._flight: Flight | None = None
        self._flood: asyncio.Task[None] | None = None
        self._flooded = 0

    async def open(self, *, home: str, size: int, to: Sequence[str], bound: bool) -> Answer:
        """Open the node in *home*, which releases to *to*."""
        self._member = Member(Path(home), size, bound=bound)
        self._member.on_released = self._on_released
        self._member.on_logged = self._on_logged
        self._member.on_settled = self._on_settled
        self._need = len(to)
        self._member.open()
        self._member.address(to)
        return {"about": f"Picket {__version__}, Python {sys.version.split()[0]}"}

    async def start(self) -> Answer:
        """Let the node listen and dial."""
        await self._member.start()
        return {}

    async def linked(self, *, links: int) -> Answer:
        """Wait for *links* links; return when they were there."""
        await self._member.wait_linked(links)
        return {"at": time.monotonic()}

    def _on_released(self, envelope_id: bytes, begun: float) -> None:
        self._sent[envelope_id] = begun
        if self._flight is not None:
            self._flight.send(envelope_id, begun)

    def _on_logged(self, envelope_ids: list[bytes], at: float) -> None:
        self._logged.update(dict.fromkeys(envelope_ids, at))
        self._changed.set()

    def _on_settled(self, pairs: list[tuple[bytes, bytes]]) -> None:
        fresh = [pair for pair in pairs if pair not in self._receipts]
        self._receipts.update(fresh)
        self._changed.set()
        if self._flight is not None:
            for envelope_id, _ in fresh:
                self._flight.arrive(envelope_id)

    async def _change(self, idle: float) -> bool:
        """Wait until something is logged or settled; False if nothing is for *idle* seconds."""
        self._changed.clear()
        try:
            async with asyncio.timeout(idle):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def clear(self) -> Answer:
        """Forget what was released, logged and settled so far."""
        self._logged.clear()
        self._sent.clear()
        self._receipts.clear()
        return {}

    async def release(self) -> Answer:
        """Release one record."""
        self._sent.clear()
        await self._member.release()
        while not self._sent:  # noqa: ASYNC110  told through the loop, a turn later
            await asyncio.sleep(0)
        ((envelope_id, begun),) = self._sent.items()
        return {"id": envelope_id.hex(), "begun": begun}

    async def when(self, *, key: str) -> Answer:
        """Wait until one envelope is logged; return when that was, None if it is lost."""
        envelope_id, deadline = bytes.fromhex(key), time.monotonic() + LOST_S
        while envelope_id not in self._logged and time.monotonic() < deadline:
            await self._change(deadline - time.monotonic())
        return {"at": self._logged.get(envelope_id)}

    async def logged(self, *, count: int, idle: float) -> Answer:
        """Wait until *count* envelopes are logged, or none for *idle* seconds."""
        while len(self._logged) < count and await self._change(idle):
            pass
        return {"count": len(self._logged), "last": max(self._logged.values(), default=None)}

    async def opened(self) -> Answer:
        """Wait until all that was logged is opened; return when that was."""
        await self._member.wait_opened()
        return {"at": time.monotonic()}

    async def times(self) -> Answer:
        """Return when each envelope was logged."""
        return {"at": {key.hex(): at for key, at in self._logged.items()}}

    async def receipted(self, *, count: int, idle: float) -> Answer:
        """Wait until *count* receipts are settled, or none for *idle* seconds."""
        while len(self._receipts) < count and await self._change(idle):
            pass
        return {"count": len(self._receipts), "at": time.monotonic()}

    async def rate(self, *, seconds: float, window: int) -> Answer:
        """Keep *window* records without all receipts for *seconds*; return what was released."""
        flight = self._flight = Flight(self._need)
        await keep_under_way(flight, [self._member], seconds=seconds, window=window)
        self._flight = None
        return {"sent": {key.hex(): at for key, at in self._sent.items()}}

    async def flood(self, *, on: bool) -> Answer:
        """Begin or end to release as fast as it goes; return how many envelopes that were."""
        if self._flood is not None:
            self._flood.cancel()
            await asyncio.gather(self._flood, return_exceptions=True)
            self._flood = None
        if on:
            self._flooded = 0
            self._flood = asyncio.create_task(self._release_forever())
        return {"released": self._flooded, "receipts": len(self._receipts)}

    async def _release_forever(self) -> None:
        while True:
            released = await self._member.release_many(BATCH)
            self._flooded += released
            if not released:
                await asyncio.sleep(POLL_S)

    async def held(self) -> Answer:
        """Return how many envelopes of each peer are stored, by its name."""
        core = self._member.core

        def count() -> dict[str, int]:
            with sqlite3.connect(core.home.node_db) as database:
                rows = database.execute("SELECT author, count(*) FROM envelopes GROUP BY author")
                names = {peer.node_id: peer.name for peer in core.trust.peers.values()}
                return {names[author]: n for author, n in rows if author in names}

        return await asyncio.to_thread(count)

    async def notices(self) -> Answer:
        """Return what the operator is told, and how many envelopes each peer's quota kept out."""
        member = self._member
        service = Service(
            member.core, config=member.config, clock=SystemClock(), random=secrets.token_bytes,
            network=Network(
                running=True, linked=member.engine.linked, trouble=member.engine.trouble
            ),
        )  # fmt: skip
        status = await member.engine.desk(service.status)
        names = {peer.node_id: peer.name for peer in member.core.trust.peers.values()}
        over = member.engine.gossip.over_quota()
        return {
            "notices": [f"{row['code']}: {row['message']}" for row in status["notices"]],
            "over_quota": {names[node_id]: count for node_id, count in over.items()},
        }

    async def usage(self, *, reset: bool = False) -> Answer:
        """Return memory, CPU and wire bytes of this process; with *reset* measure the peak anew."""
        rss, peak = memory(reset=reset)
        used = resource.getrusage(resource.RUSAGE_SELF)
        wire = wire_bytes()
        return {
            "rss": rss, "peak": peak, "cpu": used.ru_utime + used.ru_stime,
            "received": wire.received, "sent": wire.sent,
        }  # fmt: skip

    async def stop(self) -> None:
        """Stop the node."""
        await self._member.stop()


# --- a history -------------------------------------------------------------------------------
def make_history(author: Path, reader: Path, *, size: int, total: int, missing: int) -> list[int]:
    """Let *author* release *total* records, of which *reader* gets all but the last *missing*.

    Nothing goes over a network. Returns the sizes of the envelopes that are missing.
    """
    bodies = Bodies(size)
    with opened(author) as giver, opened(reader) as taker:
        cards = giver.trust.recipients([taker.node_id], now=giver.clock.now())
        for first in range(0, total, BATCH):
            count = min(BATCH, total - first)
            made = [bodies.next() for _ in range(count)]
            giver.release(made[0][0], [Shipment(body, "face annex", cards, ()) for _, body in made])
            passed = max(0, min(count, total - missing - first))
            pairs = giver.outbox.due(taker.node_id, limit=passed, skip=frozenset())
            if pairs and passed:
                taken = taker.take([wire for _, wire in pairs], giver=giver.node_id)
                assert not taken.refusals
                ids = {envelope_id[:SHORT_ID]: envelope_id for envelope_id, _ in pairs}
                for given in taken.receipts:
                    whole = complete(given, ids) if isinstance(given, Runs) else given
                    giver.take_receipts(whole)
        rows = giver.store.rows(
            "SELECT length(v.wire) AS size FROM outbox o JOIN envelopes v ON v.id = o.envelope_id "
            "WHERE o.state = 'queued'"
        )
        sizes = [int(row["size"]) for row in rows]
        assert len(sizes) == missing
        return sizes


# --- commands --------------------------------------------------------------------------------
async def _serve(system: Together | Alone) -> None:
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            act = partial(getattr(system, command.pop("do")), **command)
            try:
                answer = await act()
            except Exception as error:  # noqa: BLE001  whatever it is, the caller is told
                answer = {"error": repr(error)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        await system.stop()


if __name__ == "__main__":
    journal.set_up("error", "json")
    asyncio.run(_serve(Together() if sys.argv[1:] == ["together"] else Alone()))
