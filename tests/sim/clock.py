"""Virtual time: one queue of events, and for each node a clock that may be wrong.

Times are integer microseconds since the start of the run, unless the name says otherwise.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

START_MS: Final = 1_790_000_000_000
MS: Final = 1_000
SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


class Events:
    """What will happen, in order of time and, at one time, of asking."""

    def __init__(self) -> None:
        """Begin at zero with nothing to come."""
        self.now = 0
        self.done = 0
        self._count = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []

    def at(self, time: int, act: Callable[[], None]) -> None:
        """Do *act* at *time*, or now if that is past."""
        self._count += 1
        heapq.heappush(self._queue, (max(time, self.now), self._count, act))

    def after(self, delay: int, act: Callable[[], None]) -> None:
        """Do *act* in *delay*."""
        self.at(self.now + delay, act)

    def run_until(self, time: int, stop: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until *time*, or until *stop* holds after an event."""
        while self._queue and self._queue[0][0] <= time:
            self.now, _, act = heapq.heappop(self._queue)
            self.done += 1
            act()
            if stop():
                return
        self.now = max(self.now, time)


class NodeClock:
    """The clock of one node; satisfies ``node.clock.Clock``."""

    def __init__(self, events: Events) -> None:
        """Begin with the right time."""
        self._events = events
        self.offset_ms = 0
        self.rate_ppm = 0
        self._booted = 0

    def boot(self) -> None:
        """Begin to count monotonic time, as a machine that starts does."""
        self._booted = self._events.now

    def now(self) -> int:
        """Return UTC in ms, as this node believes it to be."""
        return START_MS + self._elapsed(0) + self.offset_ms

    def monotonic(self) -> int:
        """Return ms since the machine started."""
        return self._elapsed(self._booted)

    def _elapsed(self, since: int) -> int:
        passed = self._events.now - since
        return (passed + passed * self.rate_ppm // 1_000_000) // MS
