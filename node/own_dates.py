"""The dates of this node's own statements, on a machine whose clock was or is wrong.

- A statement is never dated before the one that it follows. After a clock error it takes the date
  of that one, and what it promises is counted from its own date: peers take it.
- Windows of sealing keys are the exception: they begin now, since peers look at them by the clock.
- Nothing is renewed by itself when the clock is half a year after the newest statement. A node that
  is in use makes one each month, so that either the clock is wrong or nobody used the node.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from node.clock import rfc3339
from node.core import Core
from node.key_lives import DAY_MS
from protocol.errors import ConflictError
from protocol.statement import CARD, Chain

LONGEST_SILENCE_MS: Final = 180 * DAY_MS
TOLERATED_MS: Final = 3_600_000
"""How far ahead of the clock our newest statement may be dated without a word."""


def issue_time(chain: Chain, now: int) -> int:
    """Return the date (ms) of the statement that is made at *now* on top of *chain*."""
    return max(now, chain.head.issued)


def jump(core: Core) -> ConflictError | None:
    """Return why nothing may be renewed by itself now, None if it may."""
    now, newest = core.clock.now(), core.trust.own.head.issued
    if now < newest + LONGEST_SILENCE_MS:
        return None
    days = (now - newest) // DAY_MS
    return ConflictError(
        f"the clock says {rfc3339(now)}, {days} days after this node last renewed a key",
        fix="if the clock is wrong, set it; if it is right, run: picket keys rotate-seal",
    )


def check_clock(core: Core) -> None:
    """Check that the clock can be right, before something is renewed by itself.

    Raises:
        ConflictError: only a person can say that.
    """
    found = jump(core)
    if found is not None:
        raise found


def ahead_notice(core: Core) -> Iterator[tuple[str, str, str]]:
    """Return the notice that our newest statement is dated in the future, if it is."""
    now, own = core.clock.now(), core.trust.own
    if own.head.issued <= now + TOLERATED_MS:
        return
    right = max((s.n for s in own.statements if s.issued <= now), default=0)
    message = (
        f"the last card is dated {rfc3339(own.head.issued)}: was this machine's clock wrong? "
        "New cards and keys work, and take that date until then"
    )
    fix = "if the clock is wrong now, set it; if it is right, run: picket keys rotate-seal"
    if any(key.not_before <= now + TOLERATED_MS for key in core.card.seal):
        fix = "nothing has to be done"  # the rotation is done
        # The paper is good for the keys in force, and so for no number before these.
        if right > 0 and all(s.type == CARD for s in own.statements[right + 1 :]):
            fix += (
                "; to be rid of the date: stop the node, "
                f"then picket keys recover --after {right} (peers must confirm that)"
            )
    yield "clock-was-ahead", message, fix
