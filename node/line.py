"""One link as gossip sees it: its session, what waits to be written, and what its peer has said.

Everything but ``next_message`` belongs to the thread that owns the databases. ``next_message`` is
called by whoever writes to the socket; it touches the lanes and the outgoing tags, nothing else.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from protocol import limits
from protocol.errors import LinkTimeoutError
from protocol.frontier import Have, Range, StreamKey
from protocol.quota import Meter
from protocol.session import Lane, Phase, Send, Session


@dataclass(eq=False, slots=True)
class Line:
    """A link from the moment that TLS is up; times are monotonic ms."""

    peer: bytes
    dialer: bool
    session: Session
    meter: Meter
    closed: str | None = None
    opened_at: int | None = None
    opened_position: int = 0
    # what the peer said
    heard: bool = False
    in_step_below: int = 0
    theirs: dict[StreamKey, Have] = field(default_factory=dict)
    said: dict[StreamKey, Have] = field(default_factory=dict)
    given_at: int | None = None
    """When the peer last said what it says only to those that it gives to."""
    compared_at: int = -limits.RECEIPT_TIMEOUT_MS
    told_at: int = -limits.RECEIPT_TIMEOUT_MS
    missed: dict[StreamKey, int] = field(default_factory=dict)
    twins: set[StreamKey] = field(default_factory=set)
    # what it asked for
    wants: deque[tuple[StreamKey, tuple[Range, ...]]] = field(default_factory=deque)
    # how far the outbox was offered
    backlog: set[StreamKey] | None = None
    backlog_cursor: int = -1
    live_cursor: int = -1
    pulled: dict[StreamKey, int] = field(default_factory=dict)
    pulled_at: int = 0
    held_until: int = 0
    throttled_until: int = 0
    offered_at: int = -1
    relayed_at: int = -1
    asked_receipts: dict[bytes, int] = field(default_factory=dict)
    custody_told: bool = False
    summary_at: int = 0
    pause_ms: int = 0
    # what was taken and is not receipted yet: (envelope id, log index), and its bytes
    unanswered: list[tuple[bytes, int]] = field(default_factory=list)
    unanswered_count: int = 0
    unanswered_bytes: int = 0
    unanswered_since: int = 0
    answer_at: int = 0
    in_bulk: bool = False
    _lanes: tuple[deque[Send], ...] = field(default_factory=lambda: tuple(deque() for _ in Lane))
    _pushed: int = 0
    _popped: int = 0

    @property
    def open(self) -> bool:
        """Whether both ends have proved themselves and neither has said goodbye."""
        return self.session.phase is Phase.OPEN and self.closed is None

    @property
    def waiting(self) -> int:
        """Bytes that wait to be written."""
        return self._pushed - self._popped

    def waits_in(self, lane: Lane) -> bool:
        """Whether something of *lane* waits to be written."""
        return bool(self._lanes[lane])

    def push(self, send: Send) -> None:
        """Let one payload wait in its lane.

        Raises:
            LinkTimeoutError: the peer asks for more than it reads.
        """
        if self.waiting > limits.MAX_LINK_QUEUE:
            raise LinkTimeoutError("the peer asks for more than it reads")
        self._pushed += len(send.payload)
        self._lanes[send.lane].append(send)

    def next_message(self) -> bytes | None:
        """Return the next message to write, the most urgent lane first; None if none waits."""
        for lane in self._lanes:
            if lane:
                send = lane.popleft()
                self._popped += len(send.payload)
                return self.session.message(send)
        return None
