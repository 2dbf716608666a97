"""Counts what is under way in a benchmark and who has it; used by every system written in Python.

Only the standard library: the baselines run in an environment of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

LOST_S: Final = 5.0
"""A message that has not reached all for so long counts as lost; what comes later still counts."""
IDLE_S: Final = 2.0
"""Publishing is over, something is missing, and nothing more has arrived for so long."""


@dataclass(slots=True)
class _Message:
    begun: float
    count: int = 0


class Flight:
    """The messages of one measurement; each must reach *need* nodes."""

    def __init__(self, need: int) -> None:
        """Begin now, with nothing sent."""
        self.begun = time.monotonic()
        self.sent = self.complete = self.delivered = 0
        self.last_complete = self.last_arrival = self.begun
        self.latencies: list[float] = []
        self._need = need
        self._under_way: dict[Hashable, _Message] = {}
        self._late: dict[Hashable, _Message] = {}
        self.on_complete: Callable[[], None] = lambda: None

    @property
    def under_way(self) -> int:
        """How many messages have not reached all and are not given up."""
        return len(self._under_way)

    @property
    def settled(self) -> bool:
        """Whether all that was sent has reached all, or nothing has arrived for a while."""
        idle = time.monotonic() - max(self.last_arrival, self.begun) > IDLE_S
        return self.complete == self.sent or idle

    def send(self, key: Hashable, begun: float | None = None) -> None:
        """Note that message *key* is sent, now or at *begun*."""
        self.sent += 1
        self._under_way[key] = _Message(time.monotonic() if begun is None else begun)

    def arrive(self, key: Hashable, at: float | None = None) -> None:
        """Note that one more node has *key*; of earlier measurements nothing is counted."""
        message = self._under_way.get(key) or self._late.get(key)
        if message is None:
            return
        at = time.monotonic() if at is None else at
        message.count += 1
        self.delivered += 1
        self.last_arrival = max(at, self.last_arrival)
        if message.count == self._need:
            self._under_way.pop(key, None)
            self._late.pop(key, None)
            self.complete += 1
            self.last_complete = max(at, self.last_complete)
            self.latencies.append(1000 * (at - message.begun))
            self.on_complete()

    def give_up(self) -> int:
        """Let what is lost stand in nobody's way; return how many are given up now."""
        lost_before = time.monotonic() - LOST_S
        lost = [key for key, message in self._under_way.items() if message.begun < lost_before]
        for key in lost:
            self._late[key] = self._under_way.pop(key)
        return len(lost)

    def result(self) -> dict[str, Any]:
        """Return the figures as the answer to a command."""
        return {
            "seconds": self.last_complete - self.begun,
            "complete": self.complete,
            "expected": self.sent * self._need,
            "delivered": self.delivered,
            "ms": self.latencies,
        }
