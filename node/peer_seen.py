"""Whom a test of a peer looks at, and what there is to be seen; values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from protocol import limits
from protocol.statement import HybridKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long each step may take, and all of them together (s)."""

    step_s: float = limits.PEER_TEST_STEP_S
    total_s: float = limits.PEER_TEST_S
    pings: int = limits.PEER_TEST_PINGS


BOUNDS: Final = Bounds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom to look at, and as whom; ``pems`` are our TLS keys, the one in use first."""

    endpoints: tuple[str, ...]
    certificates: tuple[bytes, ...]
    pems: tuple[tuple[bytes, Path], ...]
    network: bytes
    own_id: bytes
    chain_n: int
    chain_head: bytes
    node_id: bytes
    link: HybridKey


class Name(StrEnum):
    """What came of looking up the host on the card."""

    LITERAL = "literal"
    FOUND = "found"
    UNKNOWN = "unknown"
    SILENT = "silent"


class Tcp(StrEnum):
    """What came of connecting."""

    OPEN = "open"
    CLOSED = "closed"
    NO_ROUTE = "no-route"
    SILENT = "silent"


class Tls(StrEnum):
    """What came of the TLS handshake, whatever certificate was shown."""

    UP = "up"
    NOT_TLS = "not-tls"
    ENDED = "ended"
    SILENT = "silent"


class Upgrade(StrEnum):
    """What came of asking for a WebSocket with our certificate."""

    OPEN = "open"
    NOT_KNOWN = "not-known"
    FULL = "full"
    NO_WEBSOCKET = "no-websocket"
    SILENT = "silent"


class Greeting(StrEnum):
    """What came of our hello, to which a node answers with its proof."""

    PROVEN = "proven"
    OTHER_NETWORK = "other-network"
    OTHER_VERSION = "other-version"
    OTHER_NODE = "other-node"
    UNPROVEN = "unproven"
    CLOSED = "closed"
    GARBAGE = "garbage"
    SILENT = "silent"


class AtDoor(StrEnum):
    """What a node shows to whom it does not know."""

    OURS = "ours"
    OTHER_NETWORK = "other-network"
    OTHER_NODE = "other-node"
    SHUT = "shut"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was seen at one address of a peer; what was not come to is None.

    ``ahead_ms`` is how far its clock is ahead of ours at least, ``pings_us`` how long answers to
    pings took, and ``code`` what it gave as the reason for closing.
    """

    host: str
    port: int
    name: Name
    ip: str | None = None
    tcp: Tcp | None = None
    tls: Tls | None = None
    certificate: bytes = b""
    upgrade: Upgrade | None = None
    status: int | None = None
    door: AtDoor | None = None
    greeting: Greeting | None = None
    code: str = ""
    ahead_ms: int | None = None
    pings_us: tuple[int, ...] = ()

    @property
    def reached(self) -> int:
        """How far it came: of several addresses, the one that came furthest is told of."""
        return sum(
            1 for each in (self.tcp is Tcp.OPEN, self.tls is Tls.UP, self.upgrade, self.greeting)
            if each
        )  # fmt: skip
