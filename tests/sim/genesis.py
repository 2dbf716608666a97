"""The beginning of a world: identities, cards and the databases of nodes that know each other.

All of it depends on names alone and is made once in a process. Chains are immutable, so all nodes
share them; a database is a copy of bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from keys.identity import (
    CardFields,
    Offline,
    ServiceKeys,
    Vault,
    incept,
    load_service,
    load_vault,
    make_card_body,
    new_service,
    new_vault,
)
from keys.trust import Level, Peer, TrustStore, Verification
from node.home import Home
from node.log import Act, Log
from protocol import suite
from protocol.entry import EntryKind
from protocol.statement import Chain, make_card
from tests.sim import crypto
from tests.sim.clock import START_MS
from tests.sim.disk import Backup, Disk, Fuse, MemoryCases, MemoryStore

NETWORK: Final = suite.network_id("sim.example")
BORN_MS: Final = START_MS - 86_400_000
_YEAR_MS: Final = 365 * 86_400_000
_BULK: Final = 24
HOME: Final = Home(Path("sim"))


class Bytes:
    """Random bytes that depend on nothing but a name and how often they were asked for."""

    def __init__(self, name: str) -> None:
        """Begin the stream called *name*."""
        self._name = name
        self._count = 0

    def __call__(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        self._count += 1
        return hashlib.shake_128(f"{self._name}/{self._count}".encode()).digest(size)


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything private and public of one node that never changes in a run."""

    index: int
    name: str
    inbound: bool
    vault: Vault
    service: ServiceKeys
    certificate: bytes
    chain: Chain

    @property
    def node_id(self) -> bytes:
        """The node id."""
        return self.chain.node_id

    @property
    def peer(self) -> Peer:
        """What others have of it, at full trust."""
        return Peer(self.chain, self.name, Level.SHARE, Verification("voice", "sim", BORN_MS))


@cache
def identity(index: int, *, inbound: bool) -> Identity:
    """Return node number *index*; only with *inbound* does its card name an endpoint."""
    name = f"n{index}"
    random = Bytes(f"genesis/{name}")
    secrets, service_secrets = new_vault(random), new_service(random)
    vault, service = load_vault(secrets), load_service(service_secrets)
    inception = incept(vault, Offline(random(32), random(32)), network=NETWORK, now=BORN_MS)
    chain = Chain.start(inception, network=NETWORK)
    certificate = crypto.make_certificate(service_secrets["tls"])
    fields = CardFields(
        authority=name.upper(), country="XA", role="national-authority",
        contact=f"duty@{name}.example",
        endpoints=(f"wss://{name}.example:443",) if inbound else (), expires=BORN_MS + _YEAR_MS,
    )  # fmt: skip
    card = make_card_body(
        fields, chain=chain, vault=vault, service=service, certificate=certificate,
        seal_until=BORN_MS + _YEAR_MS, now=BORN_MS,
    )  # fmt: skip
    statement = make_card(card, chain=chain, issued=BORN_MS, signer=vault.identity)
    return Identity(index, name, inbound, vault, service, certificate, chain.extend(statement))


@dataclass(frozen=True, slots=True)
class Genesis:
    """The nodes of a world and what each has on its disk when it begins."""

    identities: tuple[Identity, ...]
    homes: tuple[Backup, ...]
    bulk: bool

    def trust(self, index: int) -> TrustStore:
        """Return what node number *index* knows of the others."""
        own = self.identities[index]
        return TrustStore.of(own.chain, [i.peer for i in self.identities if i is not own])

    def disk(self, index: int) -> Disk:
        """Return a fresh disk of node number *index*."""
        return Disk.of(self.homes[index])


@lru_cache(maxsize=16)
def genesis(inbound: tuple[bool, ...]) -> Genesis:
    """Return the world of nodes that all trust each other, which *inbound* says who can be dialled.

    In large worlds (``bulk``) the key statements of peers are shared in memory rather than stored
    200 times 200 times, and trust is not logged.
    """
    identities = tuple(identity(n, inbound=flag) for n, flag in enumerate(inbound))
    bulk = len(identities) > _BULK
    homes = tuple(_home(own, identities, bulk=bulk) for own in identities)
    return Genesis(identities, homes, bulk)


def _home(own: Identity, identities: Sequence[Identity], *, bulk: bool) -> Backup:
    disk = Disk.of(Backup(_empty_database(), None, MemoryCases()))
    store = MemoryStore(disk.connection)
    random = Bytes(f"home/{own.name}")
    card = own.chain.card
    assert card is not None
    log = Log(store, keys=own.service, origin=card.log.name, random=random, node_id=own.node_id)
    with store.transaction():
        store.set_meta("node_id", own.node_id)
        store.set_meta("network", NETWORK)
        _store_chain(store, own.chain)
        log.seal(BORN_MS)
        log.keep()
        opened = suite.digest("log-opened", card.log.name.encode())
        log.append([Act(EntryKind.LOG_OPENED, opened)])
        log.seal(BORN_MS)
        log.keep()
        if bulk:
            for other in identities:
                if other is not own:
                    _store_peer(store, other.peer)
    disk.fence = (log.size, log.root())
    if not bulk:
        _introduce(disk, own, identities, random)
    return disk.backup()


def _introduce(disk: Disk, own: Identity, identities: Sequence[Identity], random: Bytes) -> None:
    """Let the node's own code take up its peers."""
    from tests.sim.process import open_core

    core = open_core(disk, own, Fuse(lambda _: None), random=random, clock=_Birth(), carries=True)
    for other in identities:
        if other is not own:
            core.add_peer(other.chain, other.name)
            core.approve_peer(other.node_id, Level.SHARE, Verification("voice", "sim", BORN_MS))


class _Birth:
    """The clock at the beginning."""

    def now(self) -> int:
        """Return when all nodes were made."""
        return BORN_MS

    def monotonic(self) -> int:
        """Return zero."""
        return 0


@lru_cache(maxsize=1)
def _empty_database() -> bytes:
    disk = Disk()
    MemoryStore(disk.connection, create=True)
    return disk.connection.serialize()


def _store_chain(store: MemoryStore, chain: Chain) -> None:
    store.insert_all(
        "statements",
        [{"node_id": chain.node_id, "n": s.n, "wire": s.wire} for s in chain.statements],
    )


def _store_peer(store: MemoryStore, peer: Peer) -> None:
    check = peer.verification
    assert check is not None
    store.insert(
        "peers",
        {
            "node_id": peer.node_id, "name": peer.name, "level": peer.level.value,
            "method": check.method, "verified_by": check.by, "verified_at": check.at,
            "added_at": BORN_MS, "last_contact": None,
        },
    )  # fmt: skip
