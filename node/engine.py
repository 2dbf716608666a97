"""The driver: brings what arrives on links to ``node.gossip`` and writes what waits in its lanes.

- Everything that decides or touches a database runs on one worker thread (the desk), one job after
  the other. What arrives while a job runs is taken together by the next: so one commit serves many.
- Each link has a reader and a writer task, so that a peer that reads slowly never stops us from
  reading. A reader waits until what it has read was handled, so that every link gets its turn and
  nothing piles up: TCP holds back whoever sends faster.
- Receipts wait a moment for others, to go under one signature. What was received is opened in
  the first quiet moment, and page by page once a second if there is none.
- A StoreError stops the node; a peer's fault ends that peer's link and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, cast

import structlog

from keys.identity import Random
from keys.trust import Peer
from node import journal, metrics
from node.clock import Clock
from node.core import Core
from node.door import Porter
from node.gossip import Gossip
from node.knocking import Knocker
from node.line import Line
from node.outside import OutsideWitnesses
from node.tiles import LogFiles, Resource
from node.tls_rotation import held_by
from node.transport import Link, Listener, OtherCertificateError, dial
from node.witnessing import BEAT_MS
from protocol import limits
from protocol.errors import (
    BusyError,
    HandshakeError,
    LinkError,
    OversizeError,
    PicketError,
    StoreError,
    UntrustedKeyError,
)
from protocol.quota import Bucket, Quota, Rate

_log = structlog.get_logger()
_T = TypeVar("_T")
_A = TypeVar("_A")
_R = TypeVar("_R")
_TICK_S: Final = 1.0
_BACKOFF_MAX_S: Final = 60.0
_READ_AHEAD: Final = 512 * 1024
"""Bytes of one link that may wait for the desk, and one message more: a commit of catch-up."""
_PARALLEL_MIN: Final = 16
_RECEIPTS_WAIT_MS: Final = 20
_QUIET_S: Final = 0.1
_LAG_S: Final = 1.0
"""How long opening what was received waits for a quiet moment, before each page of it."""
_SWITCH_S: Final = 0.0005
_THREADS: Final = min(4, os.cpu_count() or 1)
_LOG_READS: Final = Rate(amount=limits.LOG_READS_PER_S, burst=limits.LOG_READS_BURST)


@dataclass(eq=False)
class Connection:
    """One live link with its line and the messages that wait for the desk."""

    link: Link
    line: Line
    writer: asyncio.Task[None] | None = None
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    handled: asyncio.Event = field(default_factory=asyncio.Event)
    pending: int = 0
    code: str = "link-lost"


class Engine:
    """Links, dialling, and the desk."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        random: Random,
        identity_pem: Path,
        dials: bool,
        quota: Quota | None = None,
        beat_ms: int = BEAT_MS,
        show_card: bool = True,
    ) -> None:
        """Prepare; nothing runs before ``run``."""
        self.core = core
        self.gossip = Gossip(
            core, clock=clock, random=random, quota=quota, receipts_wait_ms=_RECEIPTS_WAIT_MS,
            beat_ms=beat_ms,
        )  # fmt: skip
        self._clock = clock
        self._random = random
        self._pem = identity_pem
        self._dials = dials
        self._desk = ThreadPoolExecutor(1, thread_name_prefix="desk")
        self._checkers = ThreadPoolExecutor(_THREADS, thread_name_prefix="check")
        core.intake.verify_all = self._verify_all
        self._outside = OutsideWitnesses(core, desk=self.desk, counts=self.gossip.metrics)
        self._porter = Porter(core, clock=clock, desk=self.desk, show_card=show_card)
        self.knocker = Knocker(core, clock=clock)
        self.upkeep: Callable[[], object] = lambda: None
        """What else is to be done now and then, on the thread of the databases."""
        self._connections: dict[Line, Connection] = {}
        self._dialers: dict[bytes, asyncio.Task[None]] = {}
        self._dropped: dict[bytes, asyncio.Event] = {}
        self._log_reads: dict[bytes, Bucket] = {}
        self._inbox: list[tuple[Connection, bytes]] = []
        self._acts: list[tuple[Callable[[], object], asyncio.Future[object]]] = []
        self._work = asyncio.Event()
        self._received = asyncio.Event()
        self._worked_at = 0.0
        self._fatal: asyncio.Future[None] | None = None
        self._trust = core.trust
        self._tls_changes = -1
        self._other_pems: tuple[Path, ...] = ()
        self._stopping = False
        self.listener: Listener | None = None

    # --- life --------------------------------------------------------------------------------
    async def desk(self, act: Callable[[], _T]) -> _T:
        """Run *act* on the one thread that owns the databases.

        A StoreError out of it stops the node: what is on disk is not what was promised.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._desk, act)
        except StoreError as error:
            self._fail(error)
            raise

    async def together(self, act: Callable[[], _T]) -> _T:
        """Run *act* on the desk in one transaction with whatever else is to be done then.

        It is durable when this returns. *act* must change nothing but node.db.

        Raises:
            PicketError: what *act* raised; it alone was undone then.
        """
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._acts.append((act, done))
        self._work.set()
        return cast(_T, await done)

    def _verify_all(self, act: Callable[[_A], _R], items: Sequence[_A]) -> Iterable[_R]:
        """Do as ``map`` does, in threads if it is worth it."""
        if len(items) < _PARALLEL_MIN:
            return map(act, items)
        size = -(-len(items) // _THREADS)
        parts = [items[at : at + size] for at in range(0, len(items), size)]
        done = self._checkers.map(lambda part: [act(item) for item in part], parts)
        return [result for part in done for result in part]

    def _fail(self, error: BaseException) -> None:
        if self._fatal is not None and not self._fatal.done():
            self._fatal.set_exception(error)

    async def start(self, host: str | None, port: int) -> int:
        """Begin to listen (unless *host* is None) and to dial; return the port that is bound.

        Raises:
            AddressInUseError: another program has the port.
        """
        self._fatal = asyncio.get_running_loop().create_future()
        # The desk must not keep the loop from the sockets for the usual 5 ms at a time.
        sys.setswitchinterval(_SWITCH_S)
        self.listener = Listener(
            identity_pem=self._pem,
            anchors=self._anchors(),
            on_link=self._accepted,
            on_read=self.read_log,
            door=self._porter.door(),
            counts=self.gossip.metrics,
        )
        bound = await self.listener.start(host, port) if host is not None else 0
        self._reconcile()
        return bound

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            StoreError: the node must stop.
        """
        assert self._fatal is not None  # noqa: S101  start comes first
        parts = (self._work_on(), self._tick_on(), self._follow_on())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.wait({*tasks, self._fatal}, return_when=asyncio.FIRST_COMPLETED)
            if self._fatal.done():
                self._fatal.result()
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Close listeners and links in order, then the desk."""
        self._stopping = True
        try:
            await self.desk(lambda: self._end_all("shutdown"))
        except PicketError as error:
            _log.warning("goodbye-failed", code=error.code)
        self._wake()
        writers = [c.writer for c in self._connections.values() if c.writer is not None]
        if writers:
            await asyncio.wait(writers, timeout=limits.CLOSE_TIMEOUT_S)
        await asyncio.gather(*(c.link.close("shutdown") for c in list(self._connections.values())))
        await self._outside.stop()
        for task in self._dialers.values():
            task.cancel()
        await asyncio.gather(*self._dialers.values(), return_exceptions=True)
        if self.listener is not None:
            await self.listener.stop()
        await self._porter.stop()
        if self._fatal is not None:
            self._fatal.cancel()
        self._checkers.shutdown(wait=True)
        self._desk.shutdown(wait=True)

    def _end_all(self, code: str) -> None:
        for line in list(self.gossip.lines):
            self.gossip.end(line, code)

    # --- what others ask ---------------------------------------------------------------------
    def linked(self) -> frozenset[bytes]:
        """Return the node ids with which a proven link is open."""
        return frozenset(self.gossip.links)

    @property
    def trouble(self) -> dict[bytes, str]:
        """What last went wrong with peers, in words for an operator."""
        return self.gossip.trouble

    def poke(self) -> None:
        """Say that something may have changed: outbox, trust, lock."""
        if self._is_behind:
            self._trust = self.core.trust
            self._reconcile()
        self._work.set()

    @property
    def _is_behind(self) -> bool:
        """Whether links have to be fitted to trust or certificates that changed."""
        return self.core.trust is not self._trust or self.core.tls_changes != self._tls_changes

    def _anchors(self) -> tuple[bytes, ...]:
        return tuple(der for peer in self.core.trust.linkable() for der in peer.certificates)

    def _reconcile(self) -> None:
        """Fit anchors, dialling tasks and live links to the trust store."""
        if self.listener is not None:
            self._show_certificates(self.listener)
            self.listener.set_anchors(self._anchors())
        wanted = {p.node_id: p for p in self.core.trust.linkable() if self._dials}
        for node_id in set(self._dialers) - set(wanted):
            self._dialers.pop(node_id).cancel()
        for node_id in set(wanted) - set(self._dialers):
            self._dialers[node_id] = asyncio.create_task(self._dial_forever(node_id))
        for line, connection in list(self._connections.items()):
            if not self.core.trust.accepts_link(line.peer):
                connection.code = UntrustedKeyError.code
                task = asyncio.create_task(self._end(line, UntrustedKeyError.code))
                task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _show_certificates(self, listener: Listener) -> None:
        """Let links be begun with the certificates that this node has now."""
        changes = self.core.tls_changes
        if changes == self._tls_changes:
            return
        try:
            held = held_by(self.core.home)
            others = {der: held.files[der] for der in held.others}
            listener.set_certificates(others)
        except PicketError as error:
            # The links that are open go on; it is tried again with the next change.
            _log.error("certificate-unusable", code=error.code)
        else:
            self._other_pems = tuple(others.values())
        self._tls_changes = changes

    async def _end(self, line: Line, code: str) -> None:
        await self.desk(lambda: self.gossip.end(line, code))
        self._wake()

    # --- making links ------------------------------------------------------------------------
    async def _accepted(self, link: Link) -> None:
        peer = self.core.trust.by_certificate(link.peer_certificate)
        if peer is None:
            await link.close(UntrustedKeyError.code)
            return
        await self._serve(link, peer, dialer=False)

    async def read_log(self, certificate: bytes, path: str) -> Resource:
        """Return a file of the log, but no entries, to the peer that has *certificate*.

        Nothing is signed for it: a peer cannot make the log say how far it has grown.

        Raises:
            UntrustedKeyError: no peer that may link has it.
            BusyError: the peer has read too much lately.
            NotFoundError: there is no such file.
        """
        peer = self.core.trust.by_certificate(certificate)
        if peer is None:
            raise UntrustedKeyError("the certificate is on no peer's card")
        now = self._clock.monotonic()
        reads = self._log_reads.setdefault(peer.node_id, Bucket(_LOG_READS, now))
        if reads.wait(1, now):
            raise BusyError("the peer reads the log too fast", fix="read it more slowly")
        reads.take(1, now)
        # Not the newest head: between two beats nobody is told how fast the log grows.
        return await self.desk(
            lambda: LogFiles(self.core.log, head=self.core.cosigning.shown).resolve(path)
        )

    async def _dial_forever(self, node_id: bytes) -> None:
        attempt = 0
        while not self._stopping:
            peer = self.core.trust.peers.get(node_id)
            if peer is None:
                return
            if node_id in self.gossip.links or not peer.card.endpoints:
                await self._wait_for_drop(node_id)
                attempt = 0
            elif node_id in self.gossip.barred():
                attempt += 1
            elif await self._dial_once(peer):
                attempt = 0
            else:
                attempt += 1
            # Full jitter: after a relay restarts, its peers do not come back in one herd.
            ceiling = min(_BACKOFF_MAX_S, 2.0 ** min(attempt, 6))
            await asyncio.sleep(ceiling * int.from_bytes(self._random(2), "big") / 65_536)

    async def _wait_for_drop(self, node_id: bytes) -> None:
        event = self._dropped.setdefault(node_id, asyncio.Event())
        event.clear()
        if node_id in self.gossip.links or not self.core.trust.peer(node_id).card.endpoints:
            await event.wait()

    async def _dial_once(self, peer: Peer) -> bool:
        self.knocker.begin(peer.node_id)
        for endpoint in peer.card.endpoints:
            try:
                link = await self._dial(endpoint, peer)
            except LinkError as error:
                self._note_trouble(peer, await self.knocker.explain(peer, endpoint, error))
                continue
            self.knocker.linked(peer.node_id)
            return await self._serve(link, peer, dialer=True)
        return False

    async def _dial(self, endpoint: str, peer: Peer) -> Link:
        """Dial, also with what a peer may know that has missed a change of certificates here.

        Raises:
            LinkError: no link came about.
        """
        pems, ask = [self._pem, *self._other_pems], None
        while True:
            try:
                return await dial(
                    endpoint, identity_pem=pems[0], expected=peer.certificates, ask=ask
                )
            except OtherCertificateError:
                if ask is not None:
                    raise
                ask = peer.card.tls[-1]  # it may have changed its own
            except HandshakeError:
                if len(pems) == 1:
                    raise
                pems.pop(0)

    def _note_trouble(self, peer: Peer, error: PicketError) -> None:
        if self.trouble.get(peer.node_id) != error.diagnostics():
            _log.info("dial-failed", peer=peer.name, code=error.code)
        self.trouble[peer.node_id] = error.diagnostics()

    # --- one link ----------------------------------------------------------------------------
    async def _serve(self, link: Link, peer: Peer, *, dialer: bool) -> bool:
        """Run one link to its end; True if it ever opened."""
        line = await self.desk(
            lambda: self.gossip.join(
                peer, link.peer_certificate, shown=link.own_certificate or None, dialer=dialer
            )
        )
        connection = self._connections[line] = Connection(link, line)
        connection.writer = asyncio.create_task(self._write(connection))
        try:
            await self._read(connection)
        except LinkError as error:
            connection.code = error.code
            if isinstance(error, OversizeError):
                self.gossip.metrics.add(metrics.OVERSIZE, peer.name)
            if line.opened_at is None:
                self._note_trouble(peer, error)
        except PicketError as error:
            connection.code = error.code
        except Exception as error:  # noqa: BLE001  a bug met on one link must not end the others
            connection.code = journal.bug(error)
        finally:
            await self._forget(connection)
        return line.opened_at is not None

    async def _read(self, connection: Connection) -> None:
        """Bring messages to the desk until either end closes."""
        line = connection.line
        while line.closed is None:
            while connection.pending >= _READ_AHEAD:
                connection.handled.clear()
                await connection.handled.wait()
            message = await connection.link.receive()
            if message is None:
                return
            connection.pending += len(message)
            self._inbox.append((connection, message))
            self._work.set()
            if line.pause_ms:
                pause, line.pause_ms = line.pause_ms, 0
                await asyncio.sleep(pause / 1_000)

    async def _write(self, connection: Connection) -> None:
        """Write what waits, the most urgent first, and close when the line is closed."""
        link, line = connection.link, connection.line
        while True:
            connection.waiting.clear()
            while (message := line.next_message()) is not None:
                try:
                    await link.send(message)
                except LinkError as error:
                    connection.code = error.code
                    await link.close(error.code)
                    return
            if line.closed is not None:
                await link.close(line.closed)
                return
            await connection.waiting.wait()

    async def _forget(self, connection: Connection) -> None:
        line = connection.line
        try:
            await self.desk(lambda: self.gossip.lost(line, connection.code))
        finally:
            self._connections.pop(line, None)
            if (event := self._dropped.get(line.peer)) is not None:
                event.set()
            connection.waiting.set()
            if connection.writer is not None:
                await asyncio.gather(connection.writer, return_exceptions=True)

    # --- the desk's work ---------------------------------------------------------------------
    async def _work_on(self) -> None:
        """Handle what arrived, offer what is due and receipt what was taken, over and over."""
        loop = asyncio.get_running_loop()
        answering: asyncio.TimerHandle | None = None
        while True:
            await self._work.wait()
            self._work.clear()
            arrived, self._inbox = self._inbox, []
            acts, self._acts = self._acts, []
            await self._do([(c.line, m) for c, m in arrived], acts)
            for connection, message in arrived:
                connection.pending -= len(message)
                connection.handled.set()
            self._wake()
            if self._is_behind:
                self.poke()
            if answering is not None:
                answering.cancel()
            if (wait := self.gossip.answer_in) is not None:
                answering = loop.call_later(wait / 1_000, self._work.set)
            if arrived or acts:
                self._worked_at = loop.time()
            if self.core.pending:
                self._received.set()

    async def _follow_on(self) -> None:
        """Open what was received, behind all that others wait for."""
        loop = asyncio.get_running_loop()
        while True:
            await self._received.wait()
            self._received.clear()
            while self.core.pending:
                end = loop.time() + _LAG_S
                while (wait := min(end, self._worked_at + _QUIET_S) - loop.time()) > 0:  # noqa: ASYNC110  it waits for nothing to happen
                    await asyncio.sleep(wait)
                await self.desk(lambda: self.core.try_follow(pages=1))

    async def _do(
        self,
        arrived: Sequence[tuple[Line, bytes]],
        acts: Sequence[tuple[Callable[[], object], asyncio.Future[object]]],
    ) -> None:
        try:
            results = await self.desk(lambda: self._handle(arrived, [act for act, _ in acts]))
        except BaseException as error:
            for _, done in acts:
                if not done.done():
                    done.set_exception(error)
            raise
        for (_, done), result in zip(acts, results, strict=True):
            if done.done():
                continue  # whoever asked has gone; it is done all the same
            if isinstance(result, PicketError):
                done.set_exception(result)
            else:
                done.set_result(result)

    def _handle(
        self, arrived: Sequence[tuple[Line, bytes]], acts: Sequence[Callable[[], object]]
    ) -> list[object]:
        results = self.gossip.handle(arrived, acts)
        self.gossip.answer()
        self.gossip.pump()
        return results

    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            beats = self.gossip.witnessing.beats
            await self.desk(self.gossip.tick)
            await self.desk(self.upkeep)
            if self.gossip.witnessing.beats != beats:
                self._outside.ask(self.gossip.witnessing.offered)
            if self.core.behind is not None:
                await self.desk(lambda: self.core.try_follow(pages=1))
            if self.core.pending:
                self._received.set()
            self._work.set()

    def _wake(self) -> None:
        for connection in self._connections.values():
            if connection.line.waiting or connection.line.closed is not None:
                connection.waiting.set()
