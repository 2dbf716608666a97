"""When to offer again, and when to ask carriers for help: pure rules over times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol import limits

_SLOWEST_MS: Final = 600_000
CARRIERS_ASKED: Final = 2
"""Carriers asked for one envelope at a time: two, so that one that withholds does no harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierState:
    """Where one allowed carrier of an envelope stands.

    ``held``: not asked yet; ``done``: gave its receipt; ``linked``: reached now; ``late``: was sent
    the envelope and gave no receipt in time.
    """

    held: bool
    done: bool
    linked: bool
    late: bool


def next_carriers(states: Mapping[bytes, CarrierState]) -> tuple[bytes, ...]:
    """Return which held carriers to ask now, so that two that can be counted on have been asked.

    One that is late, or was asked and is not linked, does not count; linked ones come first.
    """
    counted = sum(
        state.done or (state.linked and not state.late)
        for state in states.values()
        if not state.held
    )
    order = sorted(
        (peer for peer, state in states.items() if state.held),
        key=lambda peer: (not states[peer].linked, peer),
    )
    return tuple(order[: max(0, CARRIERS_ASKED - counted)])


def needs_carrier(*, connected: bool, first_offered: int | None, now: int) -> bool:
    """Whether a recipient that gave no receipt should be reached through carriers as well.

    It should if it is not connected, or was offered the envelope more than 30 s ago; or so it seems
    after the clock was set back, for nobody can tell any more.
    """
    if not connected:
        return True
    if first_offered is None:
        return False
    return not 0 <= now - first_offered < limits.RECEIPT_TIMEOUT_MS


def next_offer(*, attempts: int, retry_after: int, now: int) -> int:
    """Return when (ms) to offer again after the refusal of attempt number *attempts*.

    Waits double from two seconds (the first attempt is number 1) to ten minutes, and are never
    shorter than the peer asked for.
    """
    wait = min(1_000 << min(attempts, 20), _SLOWEST_MS)
    return now + max(wait, min(retry_after, limits.MAX_RETRY_MS))
