"""How far the clocks of peers are from this one, as far as their own words show it.

- A witness signs the time at which it cosigns a head. It lies between our question and its answer
  if both clocks are right, so a slow link is never taken for a wrong clock.
- What a peer says of its clock decides nothing: it is shown to people, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from node.words import counted

WORTH_TELLING_MS: Final = 60_000
"""How far two clocks may be apart before a person is told."""
_SECOND_MS: Final = 1_000
_UNITS: Final = (
    (86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (_SECOND_MS, "second"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """What one answer showed: how far its clock is ahead, and how long it took (both ms)."""

    ahead_ms: int
    took_ms: int


def ahead(said_s: int, *, asked_ms: int, answered_ms: int) -> int:
    """Return by how many ms at least a clock is ahead of ours; 0 if both may be right.

    Args:
        said_s: the whole second that the other clock showed.
        asked_ms: when we asked, by our clock.
        answered_ms: when the answer was here, by our clock.
    """
    least = said_s * _SECOND_MS - answered_ms
    most = (said_s + 1) * _SECOND_MS - asked_ms
    if least > 0:
        return least
    return min(most, 0)


def span(apart_ms: int) -> str:
    """Return *apart_ms* as people say it, in the largest unit that fits."""
    size = abs(apart_ms)
    # What is measured is a little less than what is: a day must not be told as 23 hours.
    counts = ((name, (size + unit // 100) // unit) for unit, name in _UNITS)
    return next((counted(n, name) for name, n in counts if n), counted(0, "second"))


def direction(apart_ms: int) -> str:
    """Return how a clock that is *apart_ms* ahead stands to this one."""
    return f"{span(apart_ms)} {'ahead of' if apart_ms > 0 else 'behind'} this one"


class PeerClocks:
    """The newest reading of each peer, since the start of the node."""

    def __init__(self) -> None:
        """Begin without readings."""
        self._readings: dict[bytes, Reading] = {}

    def read(self, node_id: bytes, said_s: int, *, asked_ms: int, answered_ms: int) -> None:
        """Note the second that the clock of *node_id* showed between question and answer."""
        apart = ahead(said_s, asked_ms=asked_ms, answered_ms=answered_ms)
        self._readings[node_id] = Reading(apart, max(0, answered_ms - asked_ms))

    def of(self, node_id: bytes) -> Reading | None:
        """Return the newest reading of *node_id*, if there is one."""
        return self._readings.get(node_id)

    def seconds(self, name: Callable[[bytes], str]) -> Mapping[str, int]:
        """Return by how many whole seconds each clock is ahead, by the name of its peer."""
        return {
            name(node_id): int(reading.ahead_ms / _SECOND_MS)
            for node_id, reading in self._readings.items()
        }

    def notices(self, name: Callable[[bytes], str]) -> Iterator[tuple[str, str, str]]:
        """Yield what needs a person: code, plain words, and what to do."""
        off = {k: r for k, r in self._readings.items() if abs(r.ahead_ms) >= WORTH_TELLING_MS}
        if len(off) > 1 and len(off) == len(self._readings):
            message = f"the clocks of all {len(off)} peers that tell theirs differ from this one"
            yield "clock-apart", message, "this machine's own clock is wrong, most likely: set it"
            return
        for node_id, reading in sorted(off.items()):
            message = f"the clock of {name(node_id)} is {direction(reading.ahead_ms)}"
            fix = "compare both with a third clock, and set the one that is wrong; keep NTP on"
            yield "clock-apart", message, fix
