"""The one place that touches the node's classes: opens a core and drives its gossip.

Everything here is the code of a real node, except three seams: key chains of peers are shared
between the nodes of a process, bodies are opened but not read as incidents, and case.db is a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from typing_extensions import override

from keys.identity import Random
from keys.trust import TrustStore
from node import journal
from node.clock import Clock
from node.core import Core
from node.gossip import Gossip
from node.line import Line
from protocol.entry import EntryKind
from protocol.errors import PeerError
from protocol.quota import Quota
from protocol.reseal import Fault
from protocol.statement import Chain
from tests.sim.disk import Disk, Fuse, MemoryCases
from tests.sim.genesis import HOME, Identity

_CHAINS: Final[dict[tuple[bytes, ...], Chain]] = {}

RECEIPTS_WAIT_MS: Final = 20
BEAT_MS: Final = 4_000
"""How often witnesses are asked: short, as most runs end within a minute."""
SLOW_BEAT_MS: Final = 20_000
"""In runs of many minutes that are about something else."""


CAUGHT: Final[list[Exception]] = []
"""Bugs that a node met on a link and noted, ending the link only."""


@contextmanager
def catching() -> Iterator[None]:
    """Let ``node.journal.bug`` tell what it was given."""
    note = journal.bug

    def caught(error: Exception) -> str:
        CAUGHT.append(error)
        return note(error)

    journal.bug = caught
    try:
        yield
    finally:
        journal.bug = note
        CAUGHT.clear()


class SimCore(Core):
    """A core whose trust may be given, and which keeps bodies instead of incidents."""

    shared_trust: TrustStore | None = None
    cases: Any

    @override
    def _load_trust(self) -> TrustStore:
        return self.shared_trust or super()._load_trust()

    @override
    def _load_chain(self, node_id: bytes) -> Chain:
        rows = self.store.rows("SELECT wire FROM statements WHERE node_id = ? ORDER BY n", node_id)
        key = tuple(row["wire"] for row in rows)
        if key not in _CHAINS:
            _CHAINS[key] = super()._load_chain(node_id)
        return _CHAINS[key]

    @override
    def follow(self, *, pages: int | None = None) -> int:
        self.pending = False
        if self.vault is None or self.cases is None:
            return 0
        count = self._follow_on(self.cases)
        while self.resealing.requeue(self.cases):
            count += self._follow_on(self.cases)
        return count

    def _follow_on(self, cases: MemoryCases) -> int:
        rows = self.store.rows(
            "SELECT e.idx, e.kind, v.id, l.envelope_id AS late FROM entries e "
            "LEFT JOIN late l ON l.log_index = e.idx LEFT JOIN envelopes v "
            "ON v.log_index = e.idx WHERE e.idx >= ? ORDER BY e.idx",
            cases.next_index,
        )
        faults: dict[bytes, Fault] = {}
        with cases.transaction():
            for row in rows:
                if row["kind"] in {EntryKind.RECEIVED, EntryKind.RELEASED}:
                    cases.keep(row["id"], row["idx"], self._body(row["id"], faults))
                elif row["late"] is not None:
                    cases.mend(row["late"], self._body(row["late"], faults))
                cases.advance(row["idx"] + 1)
            if faults:
                with self.logged():
                    self.resealing.note(faults)
        return len(rows)

    def _body(self, envelope_id: bytes, faults: dict[bytes, Fault]) -> bytes | None:
        try:
            return self.open(envelope_id)
        except PeerError as error:
            held = self.held(envelope_id)
            opener = envelope_id if held is None else held.header.opener or envelope_id
            if (fault := self.resealing.fault(opener, error)) is not None:
                faults[opener] = fault
            return None


def open_core(
    disk: Disk, identity: Identity, fuse: Fuse, *, random: Random, clock: Clock, carries: bool,
    trust: TrustStore | None = None, accept: bool = False, locked: bool = False,
    reopen: bool = False,
) -> SimCore:  # fmt: skip
    """Open the databases of *disk*, as a start of the process does.

    Raises:
        RollbackError: the database is older than what was published.
    """
    store, fence = disk.mount(fuse)

    class Opened(SimCore):
        shared_trust = trust

    core = Opened(
        home=HOME, store=store, fence=fence, keys=identity.service, clock=clock, random=random,
        carries=carries, accept=accept, reopen=reopen,
    )  # fmt: skip
    if not locked or reopen:
        unlock(core, identity, disk)
    if reopen:
        core.reopen_log()
    return core


def unlock(core: SimCore, identity: Identity, disk: Disk) -> None:
    """Give the core its keys and casebook, and let it catch up."""
    core.cases, core.vault = disk.cases, identity.vault
    core.resealing.unlocked()
    core.try_follow()


class Process:
    """One run of a node, from its start to its end."""

    def __init__(
        self, core: SimCore, clock: Clock, random: Random, quota: Quota | None = None, *,
        beat_ms: int = BEAT_MS,
    ) -> None:  # fmt: skip
        """Start the gossip of *core*."""
        self.core = core
        self.gossip = Gossip(
            core, clock=clock, random=random, quota=quota, receipts_wait_ms=RECEIPTS_WAIT_MS,
            beat_ms=beat_ms,
        )  # fmt: skip

    def join(self, certificate: bytes, peer_id: bytes, *, dialer: bool) -> Line | None:
        """Start a session with whom the pinned *certificate* belongs to, if it may link."""
        peer = self.core.trust.by_certificate(certificate)
        if peer is None or peer.node_id != peer_id:
            return None
        return self.gossip.join(peer, certificate, dialer=dialer)
