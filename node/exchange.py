"""Comparing frontiers with peers, pulling what is missing, and passing on heads and fork evidence.

- Nothing about a stream is said to a peer that does not belong to it, nor to one to which our
  operators give nothing.
- What a peer says it holds is a claim: it decides whom to ask, never what is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog

from keys.identity import Random
from node import metrics
from node.clock import Clock
from node.core import Core
from node.line import Line
from node.metrics import Metrics
from node.streams import CARRIER, READER, streams_of
from protocol import frontier, limits
from protocol.admission import Part
from protocol.fork import Fork
from protocol.frames import Authors, Forked, Frontier, Summary, Want, WantReceipts
from protocol.frontier import NOTHING, Have, Item, Range, StreamKey
from protocol.pull import Ask, Puller, Stall
from protocol.session import Effect, Gossip

_log = structlog.get_logger()
COMPARE_MS: Final = 60_000
"""Frontiers are compared at every connect and about this often."""
_ANSWER_MS: Final = 5_000
_STALLS_TOLD: Final = 3
_MISSED_MS: Final = 30_000
"""How long after a link has opened what its peer says it holds counts as missed before."""


class Exchange:
    """What all links together know of streams."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        random: Random,
        links: Mapping[bytes, Line],
        perform: Callable[[Line, Iterable[Effect]], None],
        counts: Metrics,
    ) -> None:
        self._core, self._clock, self._random = core, clock, random
        self._links, self._perform, self._metrics = links, perform, counts
        self._news: dict[StreamKey, set[bytes]] = {}
        # Of which streams something was said or taken since ``pull``; in order, without repeats.
        self._touched: dict[StreamKey, None] = {}
        self.puller = Puller(
            core.streams.have, allow=self._allowed, author_linked=self._author_is_linked
        )
        self.stalled: dict[bytes, int] = {}

    # --- life of a link ----------------------------------------------------------------------
    def opened(self, line: Line) -> None:
        """Begin to compare with a peer whose link has opened."""
        if self._core.trust.gives_to(line.peer):
            self._say_summary(line, self._clock.monotonic())

    def lost(self, line: Line) -> None:
        """Forget what a peer said whose link is gone."""
        self.puller.lost(line.peer)

    def _say_summary(self, line: Line, now: int) -> None:
        # Spread out, so that two hundred peers are not compared with in the same second.
        jitter = int.from_bytes(self._random(2), "big") * (COMPARE_MS // 4) // 65_536
        line.summary_at = now + COMPARE_MS - jitter
        self._say(line, Summary(self._core.streams.digest(line.peer)))

    def _say(self, line: Line, frame: Gossip) -> None:
        self._perform(line, line.session.say(frame))

    # --- what peers say ----------------------------------------------------------------------
    def heard(self, line: Line, frame: Gossip) -> None:
        """Take what a peer says or asks about streams."""
        if isinstance(frame, Summary):
            line.given_at = self._clock.monotonic()
        if not line.open or not self._core.trust.gives_to(line.peer):
            return
        match frame:
            case Summary(digest):
                self._heard_summary(line, digest)
            case Authors(digests):
                self._heard_authors(line, dict(digests))
            case Frontier():
                line.heard = True
                for item in frame.items:
                    self._heard_item(line, *item)
            case Want(key, ranges):
                if len(line.wants) < limits.MAX_WANTS and self._may_have(line.peer, key):
                    line.wants.append((key, ranges))
            case WantReceipts(ids):
                if self._core.signing_waits:
                    return  # it asks again
                self._core.seal()
                receipts = self._core.receipts.wanted(ids, asker=line.peer)
                self._perform(line, line.session.committed(receipts, (), faults=0))
            case Forked():
                raise AssertionError(frame)  # that is a database act

    def _author_is_linked(self, key: StreamKey) -> bool:
        line = self._links.get(key.author)
        return line is not None and line.open

    def _may_have(self, peer: bytes, key: StreamKey) -> bool:
        members = self._core.streams.members(key)
        return peer in members and self._core.node_id in members

    def _heard_summary(self, line: Line, digest: bytes) -> None:
        now = self._clock.monotonic()
        if digest == self._core.streams.digest(line.peer):
            line.heard = True
            line.in_step_below = self._core.log.size
            # It holds what it once refused, so nothing is left to wait for but its receipts.
            self._core.outbox.hasten(line.peer)
        elif now - line.compared_at >= _ANSWER_MS:
            line.compared_at = now
            shared = frontier.author_digests(self._core.streams.shared(line.peer))
            self._say(line, Authors(tuple(sorted(shared.items())[: limits.MAX_AUTHORS])))

    def _heard_authors(self, line: Line, theirs: Mapping[bytes, bytes]) -> None:
        now = self._clock.monotonic()
        if now - line.told_at < _ANSWER_MS:
            return  # it costs little to ask and much to answer
        line.told_at = now
        shared = self._core.streams.shared(line.peer)
        apart = frontier.differing(frontier.author_digests(shared), theirs)
        # Of authors that it does not name it holds nothing; of the others it will say what.
        line.heard = line.heard or apart.isdisjoint(theirs)
        line.theirs.update(item for item in shared if item[0].author not in apart)
        self._tell(line, streams_of(shared, apart))

    def _tell(self, line: Line, grouped: Mapping[bytes, list[Item]]) -> None:
        for author, items in sorted(grouped.items()):
            for at in range(0, len(items), limits.MAX_FRAME_ITEMS):
                page = tuple(_bounded(item) for item in items[at : at + limits.MAX_FRAME_ITEMS])
                line.said.update(page)
                self._say(line, Frontier(author, page))

    def _heard_item(self, line: Line, key: StreamKey, have: Have) -> None:
        mine = self._core.streams.have(key)
        own = key.author == self._core.node_id
        if not own and not self._core.trust.accepts_author(key.author):
            return
        if mine is not None and not self._may_have(line.peer, key):
            return  # it lies, or the stream is none of its business
        role = self._core.streams.members(key).get(line.peer)
        pushes = line.peer == key.author or role == CARRIER
        now = self._clock.monotonic()
        noted = self.puller.offered(line.peer, key, have, pushes=pushes, now=now)
        if mine is None and not noted:
            line.theirs.pop(key, None)
            line.missed.pop(key, None)
            return  # one of too many that nobody else has heard of
        self._touched[key] = None
        line.theirs[key] = have
        if line.opened_at is not None and now - line.opened_at < _MISSED_MS:
            line.missed.setdefault(key, have.highest)
        if mine is None:
            return
        if mine.forked and not have.forked:
            for proof in self._core.streams.forks(key):
                self._say(line, Forked(proof))
        else:
            self._seek_twin(line, key, mine, have)

    # --- what we tell ------------------------------------------------------------------------
    def committed(self, line: Line, keys: Iterable[StreamKey]) -> None:
        """Take note that *line* brought something of these streams that is durable now."""
        now = self._clock.monotonic()
        for key in keys:
            self.puller.arrived(line.peer, key, now)
            self._touched[key] = None
            self._compare_heads(key)
            self._news.setdefault(key, set()).add(line.peer)

    def _compare_heads(self, key: StreamKey) -> None:
        """Look again whether a linked member holds another envelope where we now hold one."""
        mine = self._core.streams.have(key)
        for member in self._core.streams.members(key):
            line = self._links.get(member)
            if line is not None and line.open and mine is not None and key in line.theirs:
                self._seek_twin(line, key, mine, line.theirs[key])

    def _seek_twin(self, line: Line, key: StreamKey, mine: Have, theirs: Have) -> None:
        """Ask for the other envelope of a number that both hold under two ids: the evidence."""
        if frontier.contradicts(mine, theirs) and key not in line.twins:
            line.twins.add(key)
            line.meter.invite(envelopes=1, bytes=limits.MAX_ENVELOPE)
            self._say(line, Want(key, ((theirs.contiguous, theirs.contiguous),)))

    def forked(self, fork: Fork, *, giver: bytes) -> None:
        """Pass evidence of a fork on to the other members of its stream that are linked."""
        for member in self._core.streams.members(fork.key):
            line = self._links.get(member)
            if line is not None and member != giver and self._core.trust.gives_to(member):
                self._say(line, Forked(fork.encode()))

    def tick(self, now: int) -> None:
        """Announce heads, ask for what is missing, and compare with whom it is time."""
        self._announce()
        for line in list(self._links.values()):
            if line.open and self._core.trust.gives_to(line.peer):
                self._tell_custody(line)
                if now >= line.summary_at:
                    self._say_summary(line, now)
        self._touched.clear()
        self._act(self.puller.due(now))

    def pull(self) -> None:
        """Ask at once for what peers have just said that they hold, and for what comes next."""
        touched, self._touched = self._touched, {}
        if touched:
            self._act(self.puller.due(self._clock.monotonic(), only=touched))

    def _act(self, acts: Iterable[Ask | Stall]) -> None:
        for act in acts:
            match act:
                case Ask():
                    self._ask(act)
                case Stall():
                    self._note_stall(act)

    def _ask(self, ask: Ask) -> None:
        line = self._links.get(ask.peer)
        if line is None or not line.open:
            return
        wanted, now = frontier.count(ask.ranges), self._clock.monotonic()
        if ask.ranges[-1][1] <= line.missed.get(ask.key, 0):
            line.meter.pull(envelopes=wanted, bytes=wanted * limits.MAX_ENVELOPE, now=now)
        self._metrics.add(metrics.PULLS)
        self._say(line, Want(ask.key, ask.ranges))

    def _allowed(self, peer: bytes, key: StreamKey, ranges: tuple[Range, ...]) -> tuple[Range, ...]:
        """Return how much of *ranges* may be asked of *peer* now.

        What it held when its link opened comes beside its quota, as far as it has saved that up;
        what came since is charged like what it pushes, so that offering is no way around.
        """
        line = self._links.get(peer)
        if line is None or not line.open:
            return ()
        now, missed = self._clock.monotonic(), line.missed.get(key, 0)
        old = frontier.subtract(ranges, ((missed + 1, limits.MAX_SEQ),))
        if old:
            return frontier.first_of(old, line.meter.pull_room(now))
        return frontier.first_of(ranges, line.meter.room(now))

    def _note_stall(self, stall: Stall) -> None:
        peer = self._core.trust.peers.get(stall.peer)
        name = peer.name if peer is not None else "unknown"
        self._metrics.add(metrics.STALLS, name)
        _log.warning("peer-stalled", peer=name, count=stall.times)
        if stall.times >= _STALLS_TOLD:
            self.stalled[stall.peer] = stall.times

    def _announce(self) -> None:
        """Tell the linked members of streams that have grown how far, unless they know."""
        news, self._news = self._news, {}
        fresh: dict[bytes, dict[bytes, list[Item]]] = {}
        for key, givers in news.items():
            state = self._core.streams.state(key)
            if state is None or state.part is Part.CARRIER:
                continue
            for member, role in self._core.streams.members(key).items():
                line = self._links.get(member)
                known = line is None or member in givers or role != READER
                if line is None or known or not self._core.trust.gives_to(member):
                    continue
                news_to_it = frontier.lacking(line.theirs.get(key, NOTHING), state.have)
                if news_to_it and line.said.get(key) != state.have:
                    grouped = fresh.setdefault(member, {})
                    grouped.setdefault(key.author, []).append((key, state.have))
        for member, by_author in fresh.items():
            self._tell(
                self._links[member],
                {author: sorted(i, key=_key) for author, i in by_author.items()},
            )

    def _tell_custody(self, line: Line) -> None:
        """Say once on each link what we carry for the peer, when nothing of it waits for it."""
        if line.custody_told or line.backlog is None:
            return
        items = self._core.streams.custody(line.peer)
        if line.backlog:
            # Of much, the peer must know before, for it is to ask for it.
            items = [item for item in items if item[0] in line.pulled and item[0] not in line.said]
        else:
            line.custody_told = True
        self._tell(line, streams_of(items, frozenset(key.author for key, _ in items)))


def _key(item: Item) -> StreamKey:
    return item[0]


def _bounded(item: Item) -> Item:
    """Return *item* with as many ranges as one may name; the others are named later."""
    key, have = item
    if len(have.beyond) <= limits.MAX_ITEM_RANGES:
        return item
    return key, Have(have.contiguous, have.head, have.beyond[: limits.MAX_ITEM_RANGES], have.forked)
