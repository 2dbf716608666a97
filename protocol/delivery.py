"""When to offer again, and when to ask carriers for help: pure rules over times."""

from __future__ import annotations

from typing import Final

from protocol import limits

_SLOWEST_MS: Final = 600_000


def needs_carrier(*, connected: bool, first_offered: int | None, now: int) -> bool:
    """Whether a recipient that gave no receipt should be reached through carriers as well.

    It should if it is not connected, or was offered the envelope more than 30 s ago.
    """
    if not connected:
        return True
    return first_offered is not None and now - first_offered >= limits.RECEIPT_TIMEOUT_MS


def next_offer(*, attempts: int, retry_after: int, now: int) -> int:
    """Return when (ms) to offer again after the refusal of attempt number *attempts*.

    Waits double from two seconds (the first attempt is number 1) to ten minutes, and are never
    shorter than the peer asked for.
    """
    wait = min(1_000 << min(attempts, 20), _SLOWEST_MS)
    return now + max(wait, min(retry_after, limits.MAX_LIFETIME_MS))
