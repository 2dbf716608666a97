"""The driver: feeds link sessions with events and performs their effects, in order.

- Every database act runs on one worker thread (the desk), one after the other.
- A session and what it sends are touched under its link's lock; sending itself happens in a task
  of its own, so that a peer that reads slowly never stops us from reading.
- Whatever the engine sends was committed before: the desk returns only after commit and fence.
- A StoreError stops the node; a peer's fault ends that peer's link and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, assert_never

import structlog

from keys.identity import Random
from keys.trust import Peer
from node import journal
from node.clock import Clock
from node.core import Core
from node.transport import Link, Listener, dial
from protocol import limits, suite
from protocol.errors import (
    BusyError,
    LinkError,
    LinkTimeoutError,
    PeerError,
    PicketError,
    ReceiptError,
    StoreError,
    UnknownCardError,
    UntrustedKeyError,
)
from protocol.frames import Receipts, Refusal
from protocol.session import (
    Close,
    Commit,
    Effect,
    LoadStatements,
    Local,
    NoteRefusals,
    NoteSettled,
    Opened,
    Phase,
    Remote,
    Send,
    Session,
    StoreReceipts,
    StoreStatements,
)

_log = structlog.get_logger()
_T = TypeVar("_T")
_TICK_S: Final = 1.0
_SWEEP_TICKS: Final = 60
_BACKOFF_MAX_S: Final = 60.0


@dataclass(eq=False)
class Connection:
    """One live link with its session and its outgoing queue."""

    link: Link
    session: Session
    peer: bytes
    dialer: bool
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    queue: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    queued_bytes: int = 0
    code: str = "link-lost"


class Engine:
    """Links, dialling and the pump that empties the outbox."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        random: Random,
        identity_pem: Path,
        dials: bool,
    ) -> None:
        """Prepare; nothing runs before ``run``."""
        self.core = core
        self._clock = clock
        self._random = random
        self._pem = identity_pem
        self._dials = dials
        self._desk = ThreadPoolExecutor(1, thread_name_prefix="desk")
        self._links: dict[bytes, Connection] = {}
        self._dialers: dict[bytes, asyncio.Task[None]] = {}
        self._dropped: dict[bytes, asyncio.Event] = {}
        self._connections: set[Connection] = set()
        self._poked = asyncio.Event()
        self._fatal: asyncio.Future[None] | None = None
        self._trust = core.trust
        self._stopping = False
        self._busy = False
        self.trouble: dict[bytes, str] = {}
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

    def _fail(self, error: BaseException) -> None:
        if self._fatal is not None and not self._fatal.done():
            self._fatal.set_exception(error)

    async def start(self, host: str | None, port: int) -> int:
        """Begin to listen (unless *host* is None) and to dial; return the port that is bound.

        Raises:
            AddressInUseError: another program has the port.
        """
        self._fatal = asyncio.get_running_loop().create_future()
        self.listener = Listener(
            identity_pem=self._pem, anchors=self._anchors(), on_link=self._accepted
        )
        bound = await self.listener.start(host, port) if host is not None else 0
        self._reconcile()
        return bound

    async def run(self) -> None:
        """Pump until cancelled.

        Raises:
            StoreError: the node must stop.
        """
        assert self._fatal is not None  # noqa: S101  start comes first
        pump = asyncio.create_task(self._pump())
        try:
            await asyncio.wait({pump, self._fatal}, return_when=asyncio.FIRST_COMPLETED)
            if self._fatal.done():
                self._fatal.result()
            pump.result()
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def stop(self) -> None:
        """Close listeners and links in order, then the desk."""
        self._stopping = True
        await asyncio.gather(*(self._end(c, "shutdown") for c in list(self._connections)))
        for task in self._dialers.values():
            task.cancel()
        await asyncio.gather(*self._dialers.values(), return_exceptions=True)
        if self.listener is not None:
            await self.listener.stop()
        if self._fatal is not None:
            self._fatal.cancel()
        self._desk.shutdown(wait=True)

    # --- what others ask ---------------------------------------------------------------------
    def linked(self) -> frozenset[bytes]:
        """Return the node ids with which a proven link is open."""
        return frozenset(self._links)

    def poke(self) -> None:
        """Say that something may have changed: outbox, trust, lock."""
        if self.core.trust is not self._trust:
            self._trust = self.core.trust
            self._reconcile()
        self._poked.set()

    def _anchors(self) -> tuple[bytes, ...]:
        return tuple(der for peer in self.core.trust.linkable() for der in peer.card.tls)

    def _reconcile(self) -> None:
        """Fit anchors, dialling tasks and live links to the trust store."""
        if self.listener is not None:
            self.listener.set_anchors(self._anchors())
        wanted = {p.node_id: p for p in self.core.trust.linkable() if self._dials}
        for node_id in set(self._dialers) - set(wanted):
            self._dialers.pop(node_id).cancel()
        for node_id in set(wanted) - set(self._dialers):
            self._dialers[node_id] = asyncio.create_task(self._dial_forever(node_id))
        for connection in list(self._connections):
            if not self.core.trust.accepts_link(connection.peer):
                self._spawn_end(connection, "untrusted-key")

    def _spawn_end(self, connection: Connection, code: str) -> None:
        task = asyncio.create_task(self._end(connection, code))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    # --- making links ------------------------------------------------------------------------
    async def _accepted(self, link: Link) -> None:
        peer = self.core.trust.by_certificate(link.peer_certificate)
        if peer is None:
            await link.close(UntrustedKeyError.code)
            return
        await self._serve(link, peer, dialer=False)

    async def _dial_forever(self, node_id: bytes) -> None:
        attempt = 0
        while not self._stopping:
            peer = self.core.trust.peers.get(node_id)
            if peer is None:
                return
            if node_id in self._links or not peer.card.endpoints:
                await self._wait_for_drop(node_id)
                attempt = 0
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
        if node_id in self._links or not self.core.trust.peer(node_id).card.endpoints:
            await event.wait()

    async def _dial_once(self, peer: Peer) -> bool:
        for endpoint in peer.card.endpoints:
            try:
                link = await dial(endpoint, identity_pem=self._pem, expected=peer.card.tls)
            except LinkError as error:
                self._note_trouble(peer, error)
                continue
            return await self._serve(link, peer, dialer=True)
        return False

    def _note_trouble(self, peer: Peer, error: PicketError) -> None:
        if self.trouble.get(peer.node_id) != error.diagnostics():
            _log.info("dial-failed", peer=peer.name, code=error.code)
        self.trouble[peer.node_id] = error.diagnostics()

    # --- one link ----------------------------------------------------------------------------
    async def _serve(self, link: Link, peer: Peer, *, dialer: bool) -> bool:
        """Run one link to its end; True if it ever opened."""
        connection = Connection(
            link, self._session(link, peer, dialer=dialer), peer.node_id, dialer
        )
        self._connections.add(connection)
        writer = asyncio.create_task(self._write(connection))
        opened = False
        try:
            await self._feed(connection, lambda session, now: session.start())
            while connection.session.phase is not Phase.CLOSED:
                message = await link.receive()
                if message is None:
                    break
                await self._feed(connection, partial(Session.receive, message=message))
                opened = opened or self._links.get(peer.node_id) is connection
        except LinkError as error:
            connection.code = error.code
            if not opened:
                self._note_trouble(peer, error)
        except PicketError as error:
            connection.code = error.code
        except Exception as error:  # noqa: BLE001  a bug met on one link must not end the others
            connection.code = journal.bug(error)
        finally:
            await self._forget(connection, writer)
        return opened

    def _session(self, link: Link, peer: Peer, *, dialer: bool) -> Session:
        own, head = self.core.trust.own, peer.chain.head
        local = Local(
            own.network, own.node_id, own.head.n, own.head.digest,
            suite.digest("certificate", self.core.card.tls[0]), self.core.keys.link,
        )  # fmt: skip
        remote = Remote(
            peer.node_id, suite.digest("certificate", link.peer_certificate), peer.card.link,
            head.n, head.digest,
        )  # fmt: skip
        return Session(
            local=local, remote=remote, dialer=dialer, nonce=self._random(32),
            now=self._clock.monotonic(),
        )  # fmt: skip

    async def _forget(self, connection: Connection, writer: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        if self._links.get(connection.peer) is connection:
            del self._links[connection.peer]
            _log.info("link-closed", peer=self._name(connection.peer), code=connection.code)
        if (event := self._dropped.get(connection.peer)) is not None:
            event.set()
        connection.queue.put_nowait(None)
        await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, connection: Connection) -> None:
        while (message := await connection.queue.get()) is not None:
            try:
                await connection.link.send(message)
            except LinkError as error:
                connection.code = error.code
                await connection.link.close(error.code)
                return
            connection.queued_bytes -= len(message)
        await connection.link.close(connection.code)

    async def _end(self, connection: Connection, code: str) -> None:
        await self._feed(connection, lambda session, now: session.close(code))

    async def _feed(self, connection: Connection, event: Callable[..., list[Effect]]) -> None:
        """Give the session one event, and perform what comes of it, under the link's lock."""
        async with connection.lock:
            effects = event(connection.session, now=self._clock.monotonic())
            await self._perform(connection, effects)

    # --- effects -----------------------------------------------------------------------------
    async def _perform(self, connection: Connection, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._enqueue(connection, effect.message)
                case Opened():
                    await self._opened(connection)
                case Commit():
                    await self._commit(connection, effect.wires)
                case StoreReceipts():
                    await self._store_receipts(connection, effect.receipts)
                case NoteSettled():
                    await self._note_settled(connection, effect.items)
                case NoteRefusals():
                    await self._note_refusals(connection, effect.items)
                case LoadStatements():
                    # Ours only: whom else we know is nobody's business.
                    if effect.node_id == self.core.node_id:
                        await self._send_statements(connection, effect.node_id, effect.first)
                case StoreStatements():
                    await self._store_statements(connection, effect)
                case Close():
                    self._closed(connection, effect)
                case _:
                    assert_never(effect)

    def _enqueue(self, connection: Connection, message: bytes) -> None:
        if connection.queued_bytes > limits.MAX_LINK_QUEUE:
            raise LinkTimeoutError("the peer asks for more than it reads")
        connection.queued_bytes += len(message)
        connection.queue.put_nowait(message)

    async def _opened(self, connection: Connection) -> None:
        peer = connection.peer
        other = self._links.get(peer)
        if other is not None and not self._newer_wins(other, connection):
            await self._perform(connection, connection.session.close("second-link"))
            return
        self._links[peer] = connection
        self.trouble.pop(peer, None)
        if other is not None:
            self._spawn_end(other, "second-link")
        _log.info("link-open", peer=self._name(peer))
        self._poked.set()
        try:
            await self.desk(lambda: self.core.contact(peer))
        except BusyError as error:
            _log.warning("contact-not-noted", peer=self._name(peer), code=error.code)

    def _newer_wins(self, old: Connection, new: Connection) -> bool:
        """Of two links the one dialled by the lower node id stays; of two alike, the newer."""
        if old.dialer == new.dialer:
            return True
        return new.dialer == (self.core.node_id < new.peer)

    async def _commit(self, connection: Connection, wires: Sequence[bytes]) -> None:
        taken = await self.desk(lambda: self.core.take(wires, giver=connection.peer))
        for refusal in taken.refusals:
            _log.warning("envelope-refused", peer=self._name(connection.peer), code=refusal.code)
        if taken.stored:
            _log.info("envelopes-logged", peer=self._name(connection.peer), count=len(taken.stored))
        answer = connection.session.committed(taken.receipts, taken.refusals, faults=taken.faults)
        await self._perform(connection, answer)
        if taken.stored:
            self._poked.set()

    async def _store_receipts(self, connection: Connection, receipts: Receipts) -> None:
        session = connection.session
        try:
            await self.desk(lambda: self.core.take_receipts(receipts))
        except PeerError as error:
            _log.warning("receipt-refused", peer=self._name(connection.peer), code=error.code)
            if receipts.recipient == connection.peer:
                await self._perform(connection, session.close(error.code))
            else:
                # A carrier passes on what it holds; we may have lost the envelope or lack a card.
                blameless = isinstance(error, (ReceiptError, UntrustedKeyError))
                await self._perform(connection, session.blame(0 if blameless else 1))
            return
        await self._perform(connection, session.stored(receipts))
        self._poked.set()

    async def _note_settled(
        self, connection: Connection, items: Sequence[tuple[bytes, bytes]]
    ) -> None:
        await self.desk(lambda: self.core.receipts_settled(connection.peer, items))

    async def _note_refusals(self, connection: Connection, items: Sequence[Refusal]) -> None:
        await self.desk(lambda: self.core.outbox.refused(connection.peer, items))
        _log.warning(
            "peer-refused", peer=self._name(connection.peer), code=items[0].code, count=len(items)
        )
        lacking = [item.envelope_id for item in items if item.code == UnknownCardError.code]
        authors = await self.desk(lambda: self.core.authors_of(lacking))
        for author in authors:
            await self._send_statements(connection, author, 0)

    async def _send_statements(self, connection: Connection, node_id: bytes, first: int) -> None:
        wires = await self.desk(lambda: self.core.statements_of(node_id, first))
        await self._perform(connection, connection.session.statements_loaded(node_id, wires))

    async def _store_statements(self, connection: Connection, effect: StoreStatements) -> None:
        try:
            fresh = await self.desk(lambda: self.core.take_statements(effect.node_id, effect.wires))
        except PeerError as error:
            _log.warning("statements-refused", peer=self._name(connection.peer), code=error.code)
            await self._perform(connection, connection.session.close(error.code))
            return
        if fresh and effect.node_id == connection.peer:
            head = self.core.trust.peer(connection.peer).chain.head.n
            await self._perform(connection, connection.session.statements_stored(head))
        self.poke()

    def _closed(self, connection: Connection, effect: Close) -> None:
        connection.code = effect.code
        connection.queue.put_nowait(None)  # the writer closes the link behind the goodbye
        if effect.error is not None:
            self.trouble[connection.peer] = effect.error.diagnostics()
            _log.warning("link-refused", peer=self._name(connection.peer), code=effect.code)
        elif effect.code not in {"shutdown", "second-link"}:
            self.trouble[connection.peer] = f"{self._name(connection.peer)} ended: {effect.code}"

    def _name(self, node_id: bytes) -> str:
        peer = self.core.trust.peers.get(node_id)
        return peer.name if peer is not None else "unknown"

    # --- the pump ----------------------------------------------------------------------------
    async def _pump(self) -> None:
        ticks = 0
        while True:
            # Not wait_for: on Python 3.11 it loses a cancellation that comes as the wait ends.
            try:
                async with asyncio.timeout(_TICK_S):
                    await self._poked.wait()
            except TimeoutError:
                ticks += 1
            self._poked.clear()
            try:
                if ticks >= _SWEEP_TICKS:
                    ticks = 0
                    await self.desk(self.core.outbox.expire_forwards)
                await self._attend()
            except BusyError as error:
                if not self._busy:
                    _log.error("disk-busy", code=error.code)
                self._busy = True
            else:
                self._busy = False

    async def _attend(self) -> None:
        """Do what is due: follow, ask carriers, offer on each link.

        Raises:
            BusyError: the disk is full; the next tick tries again.
        """
        linked = self.linked()
        if self.core.behind is not None:
            await self.desk(self.core.try_follow)
        await self.desk(lambda: self.core.outbox.ask_carriers(linked))
        results = await asyncio.gather(
            *(self._pump_one(c) for c in list(self._connections)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _pump_one(self, connection: Connection) -> None:
        """Offer what is due on one link; a fault of its own ends this link only."""
        try:
            await self._offer(connection)
        except (BusyError, StoreError):
            raise
        except PicketError as error:
            await self._drop(connection, error.code)
        except Exception as error:  # noqa: BLE001  as in _serve
            await self._drop(connection, journal.bug(error))

    async def _drop(self, connection: Connection, code: str) -> None:
        connection.code = code
        await connection.link.close(code)

    async def _offer(self, connection: Connection) -> None:
        async with connection.lock:
            session, peer = connection.session, connection.peer
            await self._perform(connection, session.tick(self._clock.monotonic()))
            if self._links.get(peer) is not connection or session.phase is not Phase.OPEN:
                return
            for receipts in await self.desk(
                lambda: self.core.receipts_for(peer, passed=session.passed)
            ):
                await self._perform(connection, session.relay_receipts(receipts))
            if connection.queued_bytes > limits.LINK_QUEUE or not session.room:
                return
            room, flying = session.room, session.in_flight
            pairs = await self.desk(lambda: self.core.outbox.due(peer, limit=room, skip=flying))
            if pairs:
                effects = session.deliver(pairs, self._clock.monotonic())
                await self.desk(lambda: self.core.outbox.offered(peer, [i for i, _ in pairs]))
                await self._perform(connection, effects)
