"""The only caller of time functions; everything else is handed ``now``."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where ``now`` comes from."""

    def now(self) -> int:
        """Return UTC in integer milliseconds since 1970."""
        ...

    def monotonic(self) -> int:
        """Return milliseconds that never go back, for timers."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        """Return UTC in integer milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> int:
        """Return milliseconds that never go back, for timers."""
        return time.monotonic_ns() // 1_000_000


def rfc3339(ms: int) -> str:
    """Return *ms* as RFC 3339 UTC with milliseconds and a Z."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"
