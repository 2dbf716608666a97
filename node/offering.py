"""What is offered to each linked peer, in which order: the outbox, and what peers have asked for.

- What is released while the link is open is live; what waited before, and what was asked for, is
  catch-up and takes at most half of the credit, so that nothing live waits for it.
- Nothing live overtakes the backlog of its own stream: a stream arrives in its order.
- What the peer has said that it holds is not sent; its receipt is asked for instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from node.clock import Clock
from node.core import Core
from node.line import Line
from node.streams import READER
from protocol import limits
from protocol.frames import WantReceipts
from protocol.frontier import NOTHING, StreamKey, count, lacking
from protocol.session import Effect, Lane

PATIENCE_MS: Final = 1_000
"""How long we wait for what a peer says it holds before we send what waited for it."""


class Offering:
    """Fills the lanes of links from node.db."""

    def __init__(
        self, core: Core, *, clock: Clock, perform: Callable[[Line, Iterable[Effect]], None]
    ) -> None:
        self._core, self._clock, self._perform = core, clock, perform

    def offer(self, line: Line) -> None:
        """Send what is due to the peer of *line*, as far as its credit goes."""
        now = self._clock.monotonic()
        assert line.opened_at is not None  # noqa: S101  only open links are offered anything
        if not line.heard and now - line.opened_at < PATIENCE_MS:
            return
        if line.waiting > limits.LINK_QUEUE:
            return
        if line.backlog is None:
            self._begin(line, now)
        if line.wants:
            self._serve(line, now)
        if now < line.throttled_until:
            return  # a little at each tick, see ``retry``
        self._live(line, now, limits.LINK_WINDOW)
        if line.backlog:
            self._backlog(line, now, limits.LINK_WINDOW)

    def _begin(self, line: Line, now: int) -> None:
        """See what waits from before the link; what is much the peer will ask for by itself."""
        waiting = self._core.outbox.streams_due(line.peer, below=line.opened_position)
        line.backlog = set(waiting)
        line.live_cursor = line.opened_position - 1
        if line.heard:
            # A carrier compares nothing with its author, so it asks for nothing.
            line.pulled = {key: n for key, n in waiting.items() if self._will_ask(line, key)}
            line.pulled_at = now

    def _will_ask(self, line: Line, key: StreamKey) -> bool:
        """Whether the peer lacks so much of a stream that it asks for it by itself."""
        mine = self._core.streams.have(key)
        if mine is None or self._core.streams.members(key).get(line.peer) != READER:
            return False
        if line.in_step_below > 0 and key not in line.theirs:
            return False
        return count(lacking(line.theirs.get(key, NOTHING), mine)) > limits.BULK

    def _watch_pulled(self, line: Line, now: int) -> None:
        """Push after all what the peer was to ask for and does not."""
        if not line.pulled:
            return
        waiting = self._core.outbox.streams_due(line.peer, below=line.opened_position)
        left = {key: waiting[key] for key in line.pulled if waiting.get(key)}
        if left != line.pulled:
            line.pulled, line.pulled_at = left, now
        elif now - line.pulled_at >= limits.RECEIPT_TIMEOUT_MS:
            line.pulled = {}
            line.backlog_cursor = -1

    def _live(self, line: Line, now: int, most: int) -> None:
        envelopes, size = line.session.room(Lane.LIVE)
        envelopes = min(envelopes, most)
        if not envelopes:
            return
        assert line.backlog is not None  # noqa: S101  set before
        changes = self._core.outbox.changes
        if line.offered_at == changes:
            return  # nothing was released since all was offered
        rows, whole = self._core.outbox.after(
            line.peer, line.live_cursor, limit=envelopes, size=size
        )
        if whole:
            line.offered_at = changes
        if rows:
            line.live_cursor = rows[-1]["position"]
            self._send(line, [r for r in rows if _key(r) not in line.backlog], Lane.LIVE, now)

    def _backlog(self, line: Line, now: int, most: int) -> None:
        envelopes, size = line.session.room(Lane.CATCH_UP)
        envelopes = min(envelopes, most)
        if not envelopes:
            return
        rows, _ = self._core.outbox.after(
            line.peer, line.backlog_cursor, limit=envelopes, size=size
        )
        if rows:
            line.backlog_cursor = rows[-1]["position"]
            pushed = [row for row in rows if _key(row) not in line.pulled]
            self._send(line, pushed, Lane.CATCH_UP, now)
        elif not line.pulled and not line.waits_in(Lane.CATCH_UP):
            # Written, not only queued: else what is live could still overtake it.
            line.backlog = set()

    def retry(self, line: Line) -> None:
        """Send again what was offered on this link, not taken, and is due again."""
        if not line.open or line.backlog is None or not self._core.trust.gives_to(line.peer):
            return
        now = self._clock.monotonic()
        self._watch_pulled(line, now)
        envelopes, _ = line.session.room(Lane.CATCH_UP)
        if not envelopes or line.waiting > limits.LINK_QUEUE or now < line.held_until:
            return
        if line.pulled:
            return  # what the peer asks for would be sent twice
        if now < line.throttled_until:
            envelopes = min(envelopes, limits.THROTTLED_OFFER)
            self._live(line, now, envelopes)
            self._backlog(line, now, envelopes)
        asked = {key: until for key, until in line.asked_receipts.items() if now < until}
        line.asked_receipts = asked
        skip = line.session.in_flight | asked.keys()
        pairs = self._core.outbox.due(
            line.peer, limit=envelopes, skip=skip, below=self._offered_below(line)
        )
        self._perform(line, line.session.deliver(pairs, now, Lane.CATCH_UP))

    @staticmethod
    def _offered_below(line: Line) -> int:
        """Return the log index below which everything was offered on this link."""
        return (line.backlog_cursor if line.backlog else line.live_cursor) + 1

    def _send(self, line: Line, rows: Sequence[Mapping[str, Any]], lane: Lane, now: int) -> None:
        held = [row["envelope_id"] for row in rows if self._is_held(line, row)]
        line.asked_receipts.update(dict.fromkeys(held, now + limits.RECEIPT_TIMEOUT_MS))
        for at in range(0, len(held), limits.MAX_FRAME_RECEIPTS):
            page = tuple(held[at : at + limits.MAX_FRAME_RECEIPTS])
            self._perform(line, line.session.say(WantReceipts(page)))
        known = frozenset(held)
        pairs = [(r["envelope_id"], r["wire"]) for r in rows if r["envelope_id"] not in known]
        self._perform(line, line.session.deliver(pairs, now, lane))

    def _is_held(self, line: Line, row: Mapping[str, Any]) -> bool:
        """Whether the peer has said on this link that it holds the envelope of *row*."""
        key = _key(row)
        if line.theirs.get(key, NOTHING).holds(row["seq"]):
            return True
        if row["position"] >= line.in_step_below:
            return False
        # In step means: of all streams that both read the peer holds what we hold.
        members = self._core.streams.members(key)
        both = (members.get(line.peer), members.get(self._core.node_id))
        return both == (READER, READER)

    def _serve(self, line: Line, now: int) -> None:
        """Send what the peer asked for, as far as the credit goes."""
        envelopes, size = line.session.room(Lane.CATCH_UP)
        while line.wants and envelopes > 0 and size > 0:
            key, ranges = line.wants.popleft()
            pairs, left = self._core.streams.wires(key, ranges, envelopes=envelopes, size=size)
            if left:
                line.wants.appendleft((key, left))
            self._perform(line, line.session.deliver(pairs, now, Lane.CATCH_UP))
            envelopes, size = line.session.room(Lane.CATCH_UP)


def _key(row: Mapping[str, Any]) -> StreamKey:
    return StreamKey(row["author"], row["incarnation"], row["stream"])
