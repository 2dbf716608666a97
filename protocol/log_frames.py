"""What links say about logs: cosigning, heads, consistency, resources and evidence of a rewrite.

Everything here is about the log of one of the two ends, or about a log whose owner both ends know
to be known to the other (they are members of a stream together).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from protocol import limits
from protocol.canonical import Value
from protocol.errors import FrameError
from protocol.shape import array, octets, text, uint

COSIGN: Final = 24
COSIGNED: Final = 25
HEADS: Final = 26
WANT_HEAD: Final = 27
HEAD: Final = 28
WANT_CONSISTENCY: Final = 29
CONSISTENCY: Final = 30
LOG_FORKED: Final = 31
WANT_LOG: Final = 32
LOG_PART: Final = 33
_HASH: Final = 32
_STATUS_MIN: Final = 200
_STATUS_MAX: Final = 599


@dataclass(frozen=True, slots=True)
class Cosign:
    """Ask the peer to cosign a checkpoint of the sender's log: a tlog-witness request."""

    request: bytes


@dataclass(frozen=True, slots=True)
class Cosigned:
    """The answer of a witness: HTTP status and body as tlog-witness has them."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Heads:
    """What the sender saw of logs of third nodes: (node id, size, root), ascending."""

    items: tuple[tuple[bytes, int, bytes], ...]


@dataclass(frozen=True, slots=True)
class WantHead:
    """Ask for the signed checkpoint of *size* of the log of *node_id*, which the peer named."""

    node_id: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Head:
    """A signed checkpoint of the log of *node_id* that the sender holds; empty if it has none.

    Said at once when a link opens, about the log of the reader: so a node that was set back to
    an old state learns of it before it signs anything.
    """

    node_id: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class WantConsistency:
    """Ask the peer to prove that the first *size* entries of its log extend each of *olds*."""

    size: int
    olds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Consistency:
    """Consistency proofs of the sender's log at *size*: (old size, hashes), ascending."""

    size: int
    items: tuple[tuple[int, tuple[bytes, ...]], ...]


@dataclass(frozen=True, slots=True)
class LogForked:
    """Evidence that the log of *node_id* contradicts itself, as ``protocol.log_fork`` has it."""

    node_id: bytes
    proof: bytes


@dataclass(frozen=True, slots=True)
class WantLog:
    """Ask for a resource of the peer's log, by its path as in C2SP tlog-tiles."""

    path: str


@dataclass(frozen=True, slots=True)
class LogPart:
    """A resource of the sender's log; empty if there is none of that path."""

    path: str
    body: bytes


LogFrame: TypeAlias = (
    Cosign
    | Cosigned
    | Heads
    | WantHead
    | Head
    | WantConsistency
    | Consistency
    | LogForked
    | WantLog
    | LogPart
)


def log_frame_value(frame: LogFrame) -> list[object]:
    """Return the canonical value of *frame*."""
    match frame:
        case Cosign():
            return [COSIGN, frame.request]
        case Cosigned():
            return [COSIGNED, frame.status, frame.body or None]
        case Heads():
            return [HEADS, frame.items]
        case WantHead():
            return [WANT_HEAD, frame.node_id, frame.size]
        case Head():
            return [HEAD, frame.node_id, frame.note or None]
        case WantConsistency():
            return [WANT_CONSISTENCY, frame.size, frame.olds]
        case Consistency():
            return [CONSISTENCY, frame.size, frame.items]
        case LogForked():
            return [LOG_FORKED, frame.node_id, frame.proof]
        case WantLog():
            return [WANT_LOG, frame.path]
        case LogPart():
            return [LOG_PART, frame.path, frame.body or None]
        case _:
            assert_never(frame)


def _maybe(value: Value, field: str, *, maximum: int) -> bytes:
    """Return a byte string, or an empty one for nil."""
    return b"" if value is None else octets(value, field, maximum=maximum)


def _cosign(fields: Sequence[Value]) -> Cosign:
    return Cosign(octets(fields[1], "cosign.request", maximum=limits.MAX_ADD_CHECKPOINT))


def _cosigned(fields: Sequence[Value]) -> Cosigned:
    return Cosigned(
        uint(fields[1], "cosigned.status", minimum=_STATUS_MIN, maximum=_STATUS_MAX),
        _maybe(fields[2], "cosigned.body", maximum=limits.MAX_COSIGNED),
    )


def _heads(fields: Sequence[Value]) -> Heads:
    items = []
    for value in array(fields[1], "heads.items", minimum=1, maximum=limits.MAX_HEADS):
        node_id, size, root = array(value, "heads.item", size=3)
        items.append((
            octets(node_id, "heads.node_id", size=_HASH),
            uint(size, "heads.size", minimum=1, maximum=limits.MAX_LOG_SIZE),
            octets(root, "heads.root", size=_HASH),
        ))  # fmt: skip
    nodes = [item[0] for item in items]
    if nodes != sorted(set(nodes)):
        raise FrameError("heads.items is not in ascending order, or has one node twice")
    return Heads(tuple(items))


def _want_head(fields: Sequence[Value]) -> WantHead:
    return WantHead(
        octets(fields[1], "want_head.node_id", size=_HASH),
        uint(fields[2], "want_head.size", minimum=1, maximum=limits.MAX_LOG_SIZE),
    )


def _head(fields: Sequence[Value]) -> Head:
    return Head(
        octets(fields[1], "head.node_id", size=_HASH),
        _maybe(fields[2], "head.note", maximum=limits.MAX_SIGNED_HEAD),
    )


def _want_consistency(fields: Sequence[Value]) -> WantConsistency:
    size = uint(fields[1], "want_consistency.size", minimum=1, maximum=limits.MAX_LOG_SIZE)
    values = array(
        fields[2], "want_consistency.olds", minimum=1, maximum=limits.MAX_CONSISTENCY_PROOFS
    )
    olds = tuple(uint(v, "want_consistency.old", minimum=1, maximum=size) for v in values)
    if list(olds) != sorted(set(olds)):
        raise FrameError("want_consistency.olds is not in ascending order, or has one twice")
    return WantConsistency(size, olds)


def _consistency(fields: Sequence[Value]) -> Consistency:
    size = uint(fields[1], "consistency.size", minimum=1, maximum=limits.MAX_LOG_SIZE)
    items = []
    for value in array(fields[2], "consistency.items", maximum=limits.MAX_CONSISTENCY_PROOFS):
        old, hashes = array(value, "consistency.item", size=2)
        proof = array(hashes, "consistency.proof", maximum=limits.MAX_PROOF)
        items.append((
            uint(old, "consistency.old", minimum=1, maximum=size),
            tuple(octets(each, "consistency.hash", size=_HASH) for each in proof),
        ))  # fmt: skip
    olds = [item[0] for item in items]
    if olds != sorted(set(olds)):
        raise FrameError("consistency.items is not in ascending order, or has one twice")
    return Consistency(size, tuple(items))


def _log_forked(fields: Sequence[Value]) -> LogForked:
    return LogForked(
        octets(fields[1], "log_forked.node_id", size=_HASH),
        octets(fields[2], "log_forked.proof", maximum=limits.MAX_LOG_FORK),
    )


def _want_log(fields: Sequence[Value]) -> WantLog:
    return WantLog(text(fields[1], "want_log.path", maximum=limits.MAX_LOG_PATH))


def _log_part(fields: Sequence[Value]) -> LogPart:
    return LogPart(
        text(fields[1], "log_part.path", maximum=limits.MAX_LOG_PATH),
        _maybe(fields[2], "log_part.body", maximum=limits.MAX_LOG_PART),
    )


LOG_READERS: Final[dict[int, tuple[int, Callable[[Sequence[Value]], LogFrame]]]] = {
    COSIGN: (2, _cosign),
    COSIGNED: (3, _cosigned),
    HEADS: (2, _heads),
    WANT_HEAD: (3, _want_head),
    HEAD: (3, _head),
    WANT_CONSISTENCY: (3, _want_consistency),
    CONSISTENCY: (3, _consistency),
    LOG_FORKED: (3, _log_forked),
    WANT_LOG: (2, _want_log),
    LOG_PART: (3, _log_part),
}
