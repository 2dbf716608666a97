"""Which nodes are trusted, for what: directional, local, and only ever by an operator's act.

- An unknown node is nothing: its envelopes are refused, its links are not made.
- A pinned node may link and exchange key statements, no more.
- Levels rise by approval only; approval needs the safety number and says who compared it and how.
- Lowering needs no comparison: who trusts less risks nothing by it.
- A node that signed two different statements of one number is frozen until its owner settles it
  with the next keys; one that used these twice is frozen for good.
- A node that says that it recovered is held: neither its old keys nor its new ones count, until
  72 h have passed and an operator here has spoken to its own.
- A revoked node stays revoked, whatever else comes.
- Held, frozen and revoked nodes neither link, nor are their new envelopes accepted, nor do they
  receive.
- A suspended node keeps its level and links, and receives nothing until that has ended by itself.
- Which statements came first makes no difference to any of this.
- Changing trust makes a new store; the one in use never changes under a reader.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from keys.fingerprint import format_node_id, parse_node_id
from protocol import limits
from protocol.chain import KeyHistory, Standing
from protocol.envelope import SUITE
from protocol.errors import (
    EquivocationError,
    NotFoundError,
    PeerError,
    TrustConflictError,
    UnknownRecipientError,
    UntrustedKeyError,
)
from protocol.statement import RECOVER, Card, Chain, Statement


class Level(StrEnum):
    """How far we trust a node, ascending up to SHARE."""

    PINNED = "pinned"
    OBSERVE = "observe"
    RELAY = "relay"
    SHARE = "share"
    HELD = "held"
    FROZEN = "frozen"
    REVOKED = "revoked"


METHODS = ("in-person", "voice", "note-verbale")
_LINKS = frozenset({Level.PINNED, Level.OBSERVE, Level.RELAY, Level.SHARE})
_AUTHORS = frozenset({Level.OBSERVE, Level.RELAY, Level.SHARE})
_CARRIERS = frozenset({Level.RELAY, Level.SHARE})


_RISING = (Level.PINNED, Level.OBSERVE, Level.RELAY, Level.SHARE)


def is_lower(level: Level, *, than: Level) -> bool:
    """Whether a peer of level *than* is trusted with less at *level*; frozen ones have no steps."""
    if level not in _RISING or than not in _RISING:
        return False
    return _RISING.index(level) < _RISING.index(than)


@dataclass(frozen=True, slots=True)
class Verification:
    """How a node id was compared, by whom and when (ms)."""

    method: str
    by: str
    at: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A node we know, under the name by which our operators call it."""

    chain: Chain
    name: str
    level: Level
    verification: Verification | None = None
    given: Level | None = None
    """The level that operators gave it, if what it signed takes that away."""
    aside: KeyHistory | None = None
    """All that is held of its statements, if that is more than the chain."""
    confirmed: frozenset[bytes] = frozenset()
    """Digests of the recoveries that count here."""

    @property
    def node_id(self) -> bytes:
        """The peer's node id."""
        return self.chain.node_id

    @property
    def history(self) -> KeyHistory:
        """All that is held of its statements."""
        return self.aside or KeyHistory(self.chain)

    @property
    def card(self) -> Card:
        """The newest card, or the last one that it had before a recovery."""
        cards = [self.chain.card] if self.chain.card else []
        bodies = (s.body for s in (*reversed(self.chain.statements), *self.history.aside))
        cards += [body for body in bodies if isinstance(body, Card)]
        return cards[0]  # pin refuses a chain without a card

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """The certificates (DER) that it may show on a link: of its newest card, then older ones.

        A node that was restored from a backup shows one that it has changed since. That it is this
        node its link key proves; what it used before a recovery counts no more.
        """
        return certificates_of(self.chain, self.card)

    @property
    def pending(self) -> tuple[Statement, ...]:
        """The recoveries that do not count yet."""
        return tuple(s for s in self.history.recoveries if s.digest not in self.confirmed)

    def with_history(self, history: KeyHistory) -> Peer:
        """Return the peer at the level that *history* leaves it."""
        return replace(self, chain=history.chain, aside=history).settled()

    def settled(self) -> Peer:
        """Return the peer at the level that follows from all that is known of it."""
        given = self.given or self.level
        history, level = self.history, given
        if history.revocation is not None or given is Level.REVOKED:
            level = Level.REVOKED
        elif history.standing is not Standing.CLEAR or given is Level.FROZEN:
            level = Level.FROZEN
        elif self.pending:
            level = Level.HELD
        return replace(self, level=level, given=None if level is given else given)


def certificates_of(chain: Chain, newest: Card) -> tuple[bytes, ...]:
    """Return the certificates of *newest* and of the cards before it, up to a recovery."""
    found = dict.fromkeys(newest.tls)
    for statement in reversed(chain.statements):
        if isinstance(statement.body, Card):
            found |= dict.fromkeys(statement.body.tls)
        elif statement.type == RECOVER:
            break
    return tuple(found)[: limits.MAX_OLDER_CERTIFICATES]


@dataclass(frozen=True, slots=True)
class TrustStore:
    """All peers, immutable."""

    own: Chain
    peers: Mapping[bytes, Peer] = field(default_factory=lambda: MappingProxyType({}))
    suspended: Mapping[bytes, int] = field(default_factory=lambda: MappingProxyType({}))
    """Until when (ms) a directory asks not to send to a node."""

    @classmethod
    def of(cls, own: Chain, peers: Iterable[Peer]) -> TrustStore:
        """Return a store of *peers* around our *own* chain."""
        return cls(own, MappingProxyType({peer.node_id: peer for peer in peers}))

    def _with(self, peer: Peer) -> TrustStore:
        return replace(self, peers=MappingProxyType({**self.peers, peer.node_id: peer}))

    # --- changes -----------------------------------------------------------------------------
    def pin(self, chain: Chain, name: str) -> TrustStore:
        """Return a store that also knows *chain*, as pinned, or with its newer statements.

        Raises:
            TrustConflictError: it is our own card, or another peer has that name.
            UntrustedKeyError: the chain has no card.
            EquivocationError: it contradicts the chain that we hold.
        """
        if chain.node_id == self.own.node_id:
            raise TrustConflictError(
                "this is this node's own card", fix="exchange cards: add the card of the other node"
            )
        if chain.card is None:
            raise UntrustedKeyError("the chain holds no card")
        known = self.peers.get(chain.node_id)
        if known is not None:
            return self.apply(chain.node_id, chain.statements)
        # Who is met after a recovery is compared as it is now: there is no one to confuse it with.
        recovered = frozenset(s.digest for s in KeyHistory(chain).recoveries)
        folded = name.strip().casefold()
        if any(peer.name.casefold() == folded for peer in self.peers.values()):
            raise TrustConflictError(
                f"there is another peer called {name!r}", fix="give this one a name of its own"
            )
        # The name may come from the card: its owner must not be found in another's place.
        known_ids = (*self.peers, self.own.node_id)
        if any(_id_matches(node_id, folded) for node_id in known_ids) or _is_node_id(folded):
            raise TrustConflictError(
                f"the name {name!r} reads like a node id", fix="give this one a name of its own"
            )
        return self._with(Peer(chain, name, Level.PINNED, confirmed=recovered))

    def apply(self, node_id: bytes, statements: Sequence[Statement]) -> TrustStore:
        """Return a store in which *node_id* has also made *statements*.

        Raises:
            UntrustedKeyError: the node is not a peer, or its newest card would lack a body.
            PeerError: a rule of the chain is broken.
            EquivocationError: its statements contradict each other; ``learn`` takes them all the
                same, and freezes it.
        """
        after = self.learn(node_id, statements)
        standing = after.peer(node_id).history.standing
        if standing is not Standing.CLEAR and standing is not self.peer(node_id).history.standing:
            raise equivocation(standing)
        return after

    def learn(self, node_id: bytes, statements: Sequence[Statement]) -> TrustStore:
        """Return a store in which *node_id* has also made *statements*, at the level they leave.

        Raises:
            UntrustedKeyError: the node is not a peer, or its newest card would lack a body.
            PeerError: a rule of the chain is broken.
        """
        peer = self.peers.get(node_id)
        if peer is None:
            raise UntrustedKeyError("key statements of a node that is not a peer")
        history = peer.history.take(statements)
        return self if history == peer.history else self._with(peer.with_history(history))

    def confirm(self, node_id: bytes, recoveries: Iterable[bytes]) -> TrustStore:
        """Return a store in which the *recoveries* (digests) of *node_id* count.

        Raises:
            NotFoundError: it is not a peer.
            TrustConflictError: it has not said yet which keys it uses now.
        """
        peer = self.peer(node_id)
        if peer.chain.card is None:
            raise TrustConflictError(
                f"{peer.name} has recovered, but its new card has not come yet",
                fix="ask that authority for its new card",
            )
        confirmed = peer.confirmed | frozenset(recoveries)
        return self._with(replace(peer, confirmed=confirmed).settled())

    def suspend(self, suspended: Mapping[bytes, int]) -> TrustStore:
        """Return a store in which exactly the nodes *suspended* receive nothing, until then."""
        return replace(self, suspended=MappingProxyType(dict(suspended)))

    def approve(self, node_id: bytes, level: Level, verification: Verification) -> TrustStore:
        """Return a store in which *node_id* has *level*.

        Raises:
            NotFoundError: it is not a peer.
            TrustConflictError: it is frozen or revoked, or the level is none to approve.
        """
        peer = self.peer(node_id)
        if level not in _AUTHORS:
            raise TrustConflictError(
                f"{level} is not a level to approve", fix="choose observe, relay or share"
            )
        self.check_approvable(peer, level)
        return self._with(replace(peer, level=level, verification=verification))

    @staticmethod
    def check_approvable(peer: Peer, level: Level) -> None:
        """Check that operators may give *peer* a level at all, such as *level*.

        Raises:
            TrustConflictError: it is held, frozen or revoked.
        """
        already = ", and nothing is sent to it already" if level is Level.OBSERVE else ""
        if peer.level is Level.HELD:
            raise TrustConflictError(
                f"{peer.name} is held: it says that it has recovered its identity{already}",
                fix=f"call it, then: picket peers confirm {shlex.quote(peer.name)}",
            )
        if peer.level in {Level.FROZEN, Level.REVOKED}:
            raise TrustConflictError(
                f"{peer.name} is {peer.level}{already}",
                fix="it must recover, or needs a new identity, before it can be approved",
            )

    def lower(self, node_id: bytes, level: Level) -> TrustStore:
        """Return a store in which *node_id* has *level*, which is below the one it has now.

        How it was compared once stays noted.

        Raises:
            NotFoundError: it is not a peer.
            TrustConflictError: *level* is not below its level, or is none to approve.
        """
        peer = self.peer(node_id)
        if level not in _AUTHORS or not is_lower(level, than=peer.level):
            raise TrustConflictError(
                f"{peer.name} is at level {peer.level}: {level} is not lower",
                fix="to raise it, compare the safety number",
            )
        return self._with(replace(peer, level=level))

    def unpin(self, node_id: bytes) -> TrustStore:
        """Return a store that does not know *node_id* any more, which nobody ever approved.

        Raises:
            NotFoundError: it is not a peer.
            TrustConflictError: it was approved, or what it signed took its level away.
        """
        peer = self.peer(node_id)
        if peer.level is not Level.PINNED or peer.verification is not None or peer.given:
            raise TrustConflictError(
                f"{peer.name} is at level {peer.level} since, and stays known",
                fix=f"lower it: picket peers approve {shlex.quote(peer.name)} --level observe",
            )
        left = {key: value for key, value in self.peers.items() if key != node_id}
        return replace(self, peers=MappingProxyType(left))

    def freeze(self, node_id: bytes) -> TrustStore:
        """Return a store in which *node_id* is frozen for good (a revoked node stays revoked)."""
        peer = self.peer(node_id)
        if peer.level is Level.REVOKED:
            return self
        return self._with(replace(peer, level=Level.FROZEN, given=None))

    # --- questions ---------------------------------------------------------------------------
    def peer(self, node_id: bytes) -> Peer:
        """Return the peer *node_id*.

        Raises:
            NotFoundError: there is none.
        """
        peer = self.peers.get(node_id)
        if peer is None:
            raise NotFoundError("no such peer", fix="list them with: picket peers list")
        return peer

    def find(self, text: str) -> Peer:
        """Return the peer called *text*, or whose node id is or begins with it.

        Raises:
            NotFoundError: none or several match.
        """
        folded = text.strip().casefold()
        named = [peer for peer in self.peers.values() if peer.name.casefold() == folded]
        matches = named or [p for p in self.peers.values() if _id_matches(p.node_id, folded)]
        if len(matches) != 1:
            reason = "no peer" if not matches else "more than one peer"
            raise NotFoundError(f"{reason} matches {text!r}", fix="see: picket peers list")
        return matches[0]

    def accepts_link(self, node_id: bytes) -> bool:
        """Whether we hold a link with *node_id*."""
        peer = self.peers.get(node_id)
        return peer is not None and peer.level in _LINKS

    def accepts_author(self, node_id: bytes) -> bool:
        """Whether envelopes of *node_id* are accepted."""
        peer = self.peers.get(node_id)
        return peer is not None and peer.level in _AUTHORS

    def gives_to(self, node_id: bytes) -> bool:
        """Whether envelopes and what we know of streams are given to *node_id* at all."""
        peer = self.peers.get(node_id)
        return peer is not None and peer.level in _CARRIERS and node_id not in self.suspended

    def linkable(self) -> tuple[Peer, ...]:
        """Return the peers with which we hold links, by name."""
        peers = (peer for peer in self.peers.values() if peer.level in _LINKS)
        return tuple(sorted(peers, key=lambda peer: peer.name))

    def by_certificate(self, certificate: bytes) -> Peer | None:
        """Return the linkable peer that may show *certificate* (DER); newest cards decide first."""
        peers = self.linkable()
        for peer in peers:
            if certificate in peer.card.tls:
                return peer
        return next((peer for peer in peers if certificate in peer.certificates), None)

    def card_at(self, node_id: bytes, n: int) -> Card | None:
        """Return the card that is statement *n* of a peer or of ourselves and that counts."""
        if node_id == self.own.node_id:
            return self.own.card_at(n)
        peer = self.peers.get(node_id)
        return None if peer is None else peer.chain.card_at(n)

    def cards_at(self, node_id: bytes, n: int) -> tuple[Card, ...]:
        """Return every card that was ever signed as statement *n*: what is held must verify."""
        if node_id == self.own.node_id:
            card = self.own.card_at(n)
            return () if card is None else (card,)
        peer = self.peers.get(node_id)
        return () if peer is None else peer.history.cards_numbered(n)

    def any_card_at(self, node_id: bytes, n: int) -> Card | None:
        """Return the card that is statement *n*, or one that was before it was taken back."""
        return next(iter(self.cards_at(node_id, n)), None)

    def recovered_at(self, node_id: bytes) -> int:
        """Return the number below which cards of *node_id* sign nothing new; 0 if there is none.

        A recovery closes them as soon as it is known, whether it counts yet or not.
        """
        if node_id == self.own.node_id:
            return self.own.recovered_at
        peer = self.peers.get(node_id)
        return 0 if peer is None else peer.chain.recovered_at

    def recipients(self, node_ids: Iterable[bytes], *, now: int) -> dict[bytes, Card]:
        """Return the cards to seal to, for nodes that may receive from us at *now*.

        Raises:
            UnknownRecipientError: one is not a peer at level share, or its card has expired.
        """
        cards = {}
        for node_id in node_ids:
            peer = self._recipient(node_id)
            if peer.level is not Level.SHARE:
                raise UnknownRecipientError(
                    f"{peer.name} is at level {peer.level} and may not receive incidents",
                    fix="compare safety numbers, then: "
                    f"picket peers approve {shlex.quote(peer.name)}",
                )
            self._check_suspension(peer, now)
            if peer.card.min_suite > SUITE:
                raise UnknownRecipientError(
                    f"{peer.name} takes envelopes from suite {peer.card.min_suite} on only",
                    fix="update Picket on this machine",
                )
            try:
                peer.card.seal_key(now)
            except PeerError as error:
                raise UnknownRecipientError(
                    f"{peer.name} cannot receive: {error.message}",
                    fix="ask that authority for its new card",
                ) from None
            cards[node_id] = peer.card
        return cards

    def _check_suspension(self, peer: Peer, now: int | None = None) -> None:
        until = self.suspended.get(peer.node_id)
        if until is not None and (now is None or now < until):
            raise UnknownRecipientError(
                f"{peer.name} is suspended by the directory and receives nothing now",
                fix=f"leave it out, or wait: picket peers show {shlex.quote(peer.name)}",
            )

    def _recipient(self, node_id: bytes) -> Peer:
        try:
            return self.peer(node_id)
        except NotFoundError as error:
            raise UnknownRecipientError(error.message, fix=error.fix) from None

    def carriers(self, node_ids: Iterable[bytes]) -> tuple[bytes, ...]:
        """Return *node_ids* if all of them may carry for us.

        Raises:
            UnknownRecipientError: one is not a peer at level relay or share.
        """
        chosen = tuple(node_ids)
        for node_id in chosen:
            peer = self._recipient(node_id)
            if peer.level not in _CARRIERS:
                raise UnknownRecipientError(
                    f"{peer.name} is at level {peer.level} and may not carry for us",
                    fix="approve it first: "
                    f"picket peers approve {shlex.quote(peer.name)} --level relay",
                )
            self._check_suspension(peer)
        return chosen


def equivocation(standing: Standing) -> EquivocationError:
    """Return what to say of a node whose statements contradict each other."""
    if standing is Standing.SPENT:
        return EquivocationError(
            "the next keys of this node were used twice: somebody else has its recovery code",
            fix="it needs a new identity; speak to its operator",
        )
    return EquivocationError(
        "two different key statements of one number: the keys of this node may be stolen",
        fix="do not trust this node until you have spoken to its operator",
    )


def _id_matches(node_id: bytes, folded: str) -> bool:
    shown = format_node_id(node_id).casefold().replace("-", "")
    letters = folded.replace("-", "").replace(" ", "")
    return (len(letters) >= len("xxxxxxx") and shown.startswith(letters)) or _reads_as(
        folded, node_id
    )


def _reads_as(folded: str, node_id: bytes) -> bool:
    try:
        return parse_node_id(folded) == node_id
    except PeerError:
        return False


def _is_node_id(folded: str) -> bool:
    try:
        parse_node_id(folded)
    except PeerError:
        return False
    return True
