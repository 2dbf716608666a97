"""Which peer to ask for what we lack: one source for each stream, others when it stalls.

- What peers hold is only ever known from what they said on a link that is still open; it is never
  remembered across restarts.
- An author and a carrier push by themselves. While one that holds what we lack is linked we wait a
  little before we ask anybody, so that nothing travels twice. What is more than they push (BULK)
  is asked for at once.
- A source that brings nothing of what it was asked for in 30 s has stalled: the next one is asked,
  it is noted, and asked again only after longer and longer waits. One that brings too little in
  five minutes hands over to another that waits. So nobody can withhold by promising, by trickling,
  or by bringing other things meanwhile.
- Nothing here decides what is true: whatever a source brings is admitted like all else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol import limits
from protocol.frontier import NOTHING, Have, Range, StreamKey, count, first_of, lacking, subtract

GRACE_MS: Final = 2_000
TURN_MS: Final = 300_000
"""How long one source may take for what it was asked for while another one waits."""
_SLOWEST_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask *peer* for *ranges* of the stream *key*."""

    peer: bytes
    key: StreamKey
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Stall:
    """*peer* said that it holds what it then did not bring, *times* in a row."""

    peer: bytes
    key: StreamKey
    times: int


@dataclass(slots=True)
class _Offer:
    have: Have
    pushes: bool
    since: int  # when the lowest of what it holds began to be lacked
    lowest: int = 0
    stalls: int = 0
    not_before: int = 0
    asked: tuple[Range, ...] = ()
    left: int = 0  # numbers of asked that have not come
    more: bool = False  # it had more than it was asked for


@dataclass(slots=True)
class _Pull:
    offers: dict[bytes, _Offer] = field(default_factory=dict)
    asks: dict[bytes, int] = field(default_factory=dict)  # of peers whose offers are gone as well
    source: bytes | None = None
    asked_at: int = 0
    progress: int = 0


def _all(_peer: bytes, _key: StreamKey, ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    return ranges


def _never(_key: StreamKey) -> bool:
    return False


class Puller:
    """The pulls of one node; times are monotonic ms."""

    def __init__(
        self,
        have: Callable[[StreamKey], Have | None],
        *,
        allow: Callable[[bytes, StreamKey, tuple[Range, ...]], tuple[Range, ...]] = _all,
        author_linked: Callable[[StreamKey], bool] = _never,
    ) -> None:
        """Begin with nothing to pull.

        Args:
            have: tells what the node holds of a stream now.
            allow: returns how much of some ranges may be asked of a peer now; none is later.
            author_linked: tells whether the author of a stream is linked, who pushes what it has
                just written before it says that it holds it.
        """
        self._have, self._allow, self._author_linked = have, allow, author_linked
        self._pulls: dict[StreamKey, _Pull] = {}
        self._counts: dict[bytes, int] = {}

    @property
    def waiting(self) -> int:
        """How many streams have something that some linked peer holds and we lack."""
        return len(self._pulls)

    def offered(self, peer: bytes, key: StreamKey, have: Have, *, pushes: bool, now: int) -> bool:
        """Take note that *peer* holds *have*; *pushes* if it sends that by itself.

        Of one peer so many streams are noted at a time; what is left out it will say again.

        Returns:
            Whether something of it is to be pulled.
        """
        if not lacking(self._have(key) or NOTHING, have):
            self._drop(peer, key)
            return False
        pull = self._pulls.get(key)
        known = pull.offers.get(peer) if pull is not None else None
        if known is not None:
            known.have, known.pushes = have, pushes
            return True
        if self._counts.get(peer, 0) >= limits.MAX_OFFERS:
            return False
        self._counts[peer] = self._counts.get(peer, 0) + 1
        pull = self._pulls.setdefault(key, _Pull())
        pull.offers[peer] = _Offer(have, pushes, since=now)
        return True

    def arrived(self, peer: bytes, key: StreamKey, now: int) -> None:
        """Take note that *peer* brought something of the stream *key* that was taken."""
        pull = self._pulls.get(key)
        if pull is None:
            return
        mine = self._have(key) or NOTHING
        offer = pull.offers.get(peer)
        if offer is not None and (left := count(subtract(offer.asked, mine.ranges))) < offer.left:
            # Only what it was asked for counts: else other things could hide that this is withheld.
            offer.left, offer.stalls = left, 0
            if pull.source == peer:
                pull.progress = now
        for other in [each for each, held in pull.offers.items() if not lacking(mine, held.have)]:
            self._drop(other, key)

    def lost(self, peer: bytes) -> None:
        """Forget what *peer* said: its link is gone."""
        for key in list(self._pulls):
            self._drop(peer, key)

    def forget(self, key: StreamKey) -> None:
        """Pull nothing more of the stream *key*."""
        pull = self._pulls.get(key)
        for peer in list(pull.offers) if pull is not None else []:
            self._drop(peer, key)

    def _drop(self, peer: bytes, key: StreamKey) -> None:
        pull = self._pulls.get(key)
        if pull is None or pull.offers.pop(peer, None) is None:
            return
        self._counts[peer] -= 1
        if not self._counts[peer]:
            del self._counts[peer]
        if pull.source == peer:
            pull.source = None
        if not pull.offers:
            del self._pulls[key]

    def due(self, now: int, *, only: Iterable[StreamKey] | None = None) -> list[Ask | Stall]:
        """Return whom to ask for what now, and who has stalled; of streams *only*, if given."""
        acts: list[Ask | Stall] = []
        for key in list(self._pulls if only is None else only):
            if (pull := self._pulls.get(key)) is None:
                continue
            wanted = self._wanted(key, pull, now)
            goes_on = False
            if pull.source is not None:
                offer = pull.offers[pull.source]
                mine = self._have(key) or NOTHING
                if subtract(offer.asked, mine.ranges):
                    if now - pull.progress >= limits.RECEIPT_TIMEOUT_MS:
                        acts.append(self._stalled(key, pull, pull.source, now))
                    elif not self._turn_is_over(pull, wanted, now):
                        continue
                    else:
                        offer.not_before = now + TURN_MS
                        pull.source = None
                else:
                    goes_on = offer.more
            if (chosen := self._choose(key, pull, wanted, goes_on=goes_on, now=now)) is not None:
                acts.append(chosen)
        return acts

    def _wanted(self, key: StreamKey, pull: _Pull, now: int) -> dict[bytes, tuple[Range, ...]]:
        """Return what each peer holds that we lack, and note since when the lowest is lacked."""
        mine = self._have(key) or NOTHING
        wanted = {}
        for peer, offer in pull.offers.items():
            if not (ranges := lacking(mine, offer.have)):
                continue
            wanted[peer] = ranges
            if offer.lowest != ranges[0][0]:
                offer.since = now if offer.lowest else offer.since
                offer.lowest = ranges[0][0]
        return wanted

    @staticmethod
    def _turn_is_over(pull: _Pull, wanted: Mapping[bytes, tuple[Range, ...]], now: int) -> bool:
        others = (peer for peer in wanted if peer != pull.source)
        return now - pull.asked_at >= TURN_MS and any(
            pull.offers[peer].not_before <= now for peer in others
        )

    @staticmethod
    def _stalled(key: StreamKey, pull: _Pull, source: bytes, now: int) -> Stall:
        offer = pull.offers[source]
        offer.stalls += 1
        wait = limits.RECEIPT_TIMEOUT_MS << min(offer.stalls, 10)
        offer.not_before = now + min(wait, _SLOWEST_MS)
        pull.source = None
        return Stall(source, key, offer.stalls)

    def _choose(
        self,
        key: StreamKey,
        pull: _Pull,
        wanted: Mapping[bytes, tuple[Range, ...]],
        *,
        goes_on: bool,
        now: int,
    ) -> Ask | None:
        few = {peer for peer, ranges in wanted.items() if count(ranges) <= limits.BULK}
        pushed = any(pull.offers[p].pushes and not pull.offers[p].stalls for p in few)
        pushed = pushed or (len(few) == len(wanted) and self._author_linked(key))
        at_once = goes_on or not pushed
        # Whoever was asked least comes first, so that no claim keeps another from its turn.
        ready = [
            (pull.asks.get(peer, 0), pull.offers[peer].stalls, -count(ranges), peer)
            for peer, ranges in wanted.items()
            if pull.offers[peer].not_before <= now
            and (at_once or now - pull.offers[peer].since >= GRACE_MS)
        ]
        if not ready:
            return None
        peer = min(ready)[3]
        offer = pull.offers[peer]
        ranges = self._allow(peer, key, first_of(wanted[peer], limits.MAX_WANT))
        if not ranges:
            return None
        offer.asked, offer.left = ranges, count(ranges)
        offer.more = offer.left < count(wanted[peer])
        pull.asks[peer] = pull.asks.get(peer, 0) + 1
        pull.source, pull.asked_at, pull.progress = peer, now, now
        return Ask(peer, key, ranges)
