"""The network: who can dial whom, how fast, and what goes wrong on the way.

- A link is TLS over TCP: what is sent arrives once and in order, or the link dies. Loss and
  reordering of packets are only delay here; duplicates come from links that die and are made again.
- A *cut* path resets its links at once. A *silent* one keeps them open and carries nothing; each
  end finds out by its heartbeat, after 12.5 to 37.5 s. A host that does not read, or lost its
  power, looks the same to its peers.
- A sender has up to ``WINDOW`` bytes on the way; then it has to wait, as sockets make it do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final, Protocol

from protocol import limits
from tests.sim.clock import MS, SECOND, Events

WINDOW: Final = 256 * 1024
_DIAL_TIMEOUT: Final = 10 * SECOND
_HANDSHAKE_TRIPS: Final = 3


class Host(Protocol):
    """What the network needs of a node."""

    index: int
    reads: bool

    def next_message(self, end: End) -> bytes | None:
        """Give away the next message for this end."""
        ...

    def arrived(self, end: End, message: bytes) -> None:
        """Take a message."""
        ...

    def lost(self, end: End) -> None:
        """Hear that the transport of this end is gone."""
        ...


@dataclass
class Path:
    """One direction between two nodes; *bandwidth* is bytes a second, 0 for no limit."""

    latency: int
    bandwidth: int = 0
    silent: bool = False
    cut: bool = False


@dataclass(eq=False)
class End:
    """One end of a link, and what is on the way from it to the other end."""

    host: Host
    path: Path
    dialer: bool
    open: bool = True
    other: End = field(init=False, repr=False)
    flying: deque[tuple[int, bytes]] = field(default_factory=deque)
    bytes: int = 0
    closing: bool = False
    impaired_since: int | None = None
    free_at: int = 0
    last: int = 0
    paused_until: int = 0

    @property
    def impaired(self) -> bool:
        """Whether the heartbeat of this end gets no answer."""
        other = self.other
        reading = self.host.reads and other.host.reads
        gone = not other.open and not other.closing
        return self.path.silent or other.path.silent or gone or not reading


class Network:
    """All paths and links of a world."""

    def __init__(self, events: Events, rng: Random) -> None:
        """Begin without a link; each path has a latency of its own."""
        self._events, self._rng = events, rng
        self._paths: dict[tuple[int, int], Path] = {}
        self._ends: dict[End, None] = {}
        self._draining: dict[End, None] = {}  # closed, with something still on the way
        self.bytes = 0
        self.messages = 0

    def path(self, one: int, other: int) -> Path:
        """Return the path from *one* to *other*."""
        found = self._paths.get((one, other))
        if found is None:
            found = self._paths[one, other] = Path(self._rng.randrange(5, 120) * MS)
        return found

    def ends(self, host: Host | None = None) -> list[End]:
        """Return the open ends, of *host* or all, oldest first."""
        return [end for end in self._ends if end.open and (host is None or end.host is host)]

    # --- faults ------------------------------------------------------------------------------
    def cut(self, one: int, other: int) -> None:
        """Reset what is between two nodes, and refuse what is new."""
        self.path(one, other).cut = self.path(other, one).cut = True
        for end in self.ends():
            if {end.host.index, end.other.host.index} == {one, other}:
                self.reset(end)

    def silence(self, one: int, other: int) -> None:
        """Let nothing pass from *one* to *other*, without an error for either."""
        self.path(one, other).silent = True
        self.judge()

    def heal(self, one: int | None = None, other: int | None = None) -> None:
        """End all faults, or those between two nodes."""
        for pair, path in self._paths.items():
            if one is None or set(pair) == {one, other}:
                path.cut = path.silent = False
                path.bandwidth = 0
        for end in [*self._ends, *self._draining]:
            self._hasten(end)
        self.judge()

    def _hasten(self, end: End) -> None:
        """Let what was to crawl over a path that is slow no more arrive as it would now."""
        if end.path.bandwidth or not end.flying:
            return
        soon = self._events.now + end.path.latency
        end.flying = deque((min(time, soon), message) for time, message in end.flying)
        end.free_at, end.last = min(end.free_at, self._events.now), min(end.last, soon)
        self._events.at(soon, partial(self._deliver, end))

    def judge(self) -> None:
        """Look which links are impaired now: heartbeats begin to fail, or go on."""
        for end in [*self._ends, *self._draining]:
            if end.impaired and end.impaired_since is None:
                end.impaired_since = self._events.now
                self._expect_loss(end, end.impaired_since)
            elif not end.impaired and end.impaired_since is not None:
                end.impaired_since = None
            if not end.impaired and end.flying:
                self._events.after(end.path.latency, partial(self._deliver, end))

    def _expect_loss(self, end: End, since: int) -> None:
        half = limits.HEARTBEAT_S * SECOND // 2

        def check() -> None:
            if end.open and end.impaired_since == since:
                self._lose(end)

        self._events.after(half + self._rng.randrange(2 * half), check)

    # --- making and ending links -------------------------------------------------------------
    def dial(
        self, dialer: Host, listener: Host, *, listens: Callable[[], bool],
        done: Callable[[End | None], None],
    ) -> None:  # fmt: skip
        """Try to make a link; *done* gets the dialer's end of it, or None."""
        out, back = (
            self.path(dialer.index, listener.index), self.path(listener.index, dialer.index)
        )  # fmt: skip
        silent = (out.silent or back.silent) and not (out.cut or back.cut)
        wait = _DIAL_TIMEOUT if silent else _HANDSHAKE_TRIPS * (out.latency + back.latency)

        def settle() -> None:
            if out.cut or back.cut or out.silent or back.silent or not listens():
                done(None)
                return
            one, other = End(dialer, out, dialer=True), End(listener, back, dialer=False)
            one.other, other.other = other, one
            self._ends[one] = self._ends[other] = None
            done(one)

        self._events.after(wait, settle)

    def close(self, end: End) -> None:
        """Close from this end, in order: the other end first gets what is on the way."""
        if end.open:
            self._forget(end)
            end.closing = True
            if end.flying:
                self._draining[end] = None
            self._finish(end)

    def unplug(self, end: End) -> None:
        """Let this end vanish without a word."""
        if end.open:
            self._forget(end)
            end.flying.clear()
            self.judge()

    def reset(self, end: End) -> None:
        """Break a link for both ends; what is on the way is gone."""
        for side in (end, end.other):
            side.flying.clear()
        for side in (end, end.other):
            if side.open:
                self._forget(side)
                side.closing = True
                side.host.lost(side)

    def _lose(self, end: End) -> None:
        """Let this end give up: what it sent is gone, and the other end hears of it if it can."""
        self._forget(end)
        end.flying.clear()
        end.closing = True
        end.host.lost(end)
        self._finish(end)

    def _forget(self, end: End) -> None:
        end.open = False
        self._ends.pop(end, None)

    def _finish(self, end: End) -> None:
        if not end.flying:
            self._events.after(end.path.latency, lambda: self._fin(end))

    def _fin(self, end: End) -> None:
        self._draining.pop(end, None)
        other = end.other
        if other.open and not end.path.silent and other.host.reads:
            self._forget(other)
            other.flying.clear()
            other.closing = True
            other.host.lost(other)
        elif other.open:
            end.closing = False  # nobody will hear of it: only heartbeats tell
            self.judge()

    def pause(self, end: End, until: int) -> None:
        """Let the host of *end* read nothing from this link before *until*."""
        end.paused_until = max(end.paused_until, until)
        self._events.at(end.paused_until, lambda: self._deliver(end.other))

    # --- carrying ----------------------------------------------------------------------------
    def send(self, end: End) -> None:
        """Put on the way what the host of *end* has to say, as far as the window allows."""
        while end.open and end.bytes < WINDOW:
            message = end.host.next_message(end)
            if message is None or not end.open:
                return
            self.bytes += len(message)
            self.messages += 1
            now = self._events.now
            depart = max(now, end.free_at)
            if end.path.bandwidth:
                depart += len(message) * SECOND // end.path.bandwidth
            end.free_at = depart
            end.last = max(depart + end.path.latency, end.last)
            end.bytes += len(message)
            end.flying.append((end.last, message))
            self._events.at(end.last, lambda: self._deliver(end))

    def _deliver(self, end: End) -> None:
        other, moved = end.other, False
        while (
            end.flying
            and end.flying[0][0] <= self._events.now
            and other.open
            and other.paused_until <= self._events.now
            and other.host.reads
            and not end.path.silent
        ):
            _, message = end.flying.popleft()
            end.bytes -= len(message)
            moved = True
            other.host.arrived(other, message)
        if end.closing and not end.flying:
            self._fin(end)
        elif moved and end.open:
            self.send(end)
