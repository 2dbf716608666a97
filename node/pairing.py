"""What an operator may ask about nodes that want to be added, as JSON-able values.

A caller's name, country and contact are its own words: they are shown in quotes, never used as a
name here unless an operator takes them, and a name that reads like that of a peer is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from keys.fingerprint import format_node_id
from keys.trust import Level, Peer
from node.callers import Caller, Done
from node.clock import Clock, rfc3339
from node.core import Core
from node.knocking import ask_to_confirm, call_it
from node.lookalikes import alike, quoted
from node.words import counted, minute
from protocol import limits
from protocol.armor import armor_block, dearmor_block
from protocol.errors import (
    ConflictError,
    ExpiredError,
    NotFoundError,
    PeerError,
    RequestError,
    TrustConflictError,
    UntrustedKeyError,
)
from protocol.introduction import make_introduction, parse_introduction, verify_introduction
from protocol.statement import Card

INTRODUCTION: Final = "introduction"
_EVERYBODY: Final = "all"
_NAMED: Final = 3
Row = dict[str, Any]


class PairingDesk:
    """Operations on callers and introductions, over a Core."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        name: Callable[[bytes], str],
        peer_row: Callable[[Peer], Row],
        asked: Mapping[bytes, int],
        linked: Callable[[], frozenset[bytes]],
    ) -> None:
        """Serve *core*.

        Args:
            core: of the node.
            clock: for times.
            name: says what a node is called here.
            peer_row: shows a peer.
            asked: which peers refuse this node and have its knock, and since when (ms).
            linked: with whom links are open.
        """
        self._core, self._clock, self._name = core, clock, name
        self._peer_row, self._asked, self._linked = peer_row, asked, linked

    # --- cards -------------------------------------------------------------------------------
    def check_current(self, card: Card) -> None:
        """Check that *card* can be used now.

        Raises:
            ExpiredError: it is over, or from the future.
        """
        now = self._clock.now()
        if card.expires <= now:
            raise ExpiredError(
                f"the card of {quoted(card.authority)} ended at {minute(card.expires)}",
                fix="ask that authority for its new card",
            )
        try:
            card.seal_key(now)
        except ExpiredError:
            raise ExpiredError(
                f"the card of {quoted(card.authority)} has no sealing key that is valid now",
                fix="ask that authority for its new card; if it was made just now, compare the "
                "clocks of both machines",
            ) from None

    # --- names -------------------------------------------------------------------------------
    def check_name(self, name: str, *, but: bytes | None = None) -> str:
        """Return *name*, without white space around it, if a node may be called so here.

        Args:
            name: for a node that is about to be pinned.
            but: a peer that may have it already, because it is the one.

        Raises:
            RequestError: it is empty, too long, not printable, or means everybody.
            TrustConflictError: it reads like a name that is here already.
        """
        chosen = name.strip()
        if not chosen or len(chosen) > limits.MAX_NAME or not chosen.isprintable():
            raise RequestError("the name is empty, too long or not printable", fix="use --name")
        if chosen.casefold() == _EVERYBODY:
            raise RequestError(
                f"the name {chosen!r} means every peer in a release", fix="use --name"
            )
        if but not in self._core.trust.peers:
            self._check_unlike(chosen)
        return chosen

    def _check_unlike(self, chosen: str) -> None:
        names = [peer.name for peer in self._core.trust.peers.values()]
        other = alike(chosen, names)
        if other is not None:
            raise TrustConflictError(
                f"the name {quoted(chosen)} reads like that of the peer {other}, maybe on purpose",
                fix="find out who it is; if it is right, give it another name with --name",
            )
        if alike(chosen, [self._core.card.authority]) is not None:
            raise TrustConflictError(
                f"the name {quoted(chosen)} reads like that of this node itself",
                fix="find out who it is; if it is right, give it another name with --name",
            )

    def _imitated(self, authority: str) -> str | None:
        """Return whose name *authority* reads like: that of a peer, on its card, or our own."""
        for peer in self._core.trust.peers.values():
            if alike(authority, (peer.name, peer.card.authority)) is not None:
                return peer.name
        own = self._core.card.authority
        return own if alike(authority, (own,)) is not None else None

    # --- callers -----------------------------------------------------------------------------
    def callers(self) -> Row:
        """Return who asks to be added."""
        return {"items": [self._row(caller) for caller in self._core.callers.pending()]}

    def _row(self, caller: Caller) -> Row:
        by = caller.introduced_by
        return {
            "caller": caller.short,
            "node_id": format_node_id(caller.node_id),
            "authority": caller.authority,
            "country": caller.country,
            "contact": caller.contact,
            "address": caller.address,
            "first_seen": rfc3339(caller.first_seen),
            "last_seen": rfc3339(caller.last_seen),
            "introduced_by": None if by is None else self._name(by),
            "state": "later" if caller.ask_at > self._clock.now() else "pending",
            "ask_at": rfc3339(caller.ask_at),
            "imitates": self._imitated(caller.authority),
        }

    def accept(self, key: str, name: str | None) -> Row:
        """Pin a caller, under *name* or else its own; nothing is shared with it by that.

        Raises:
            NotFoundError: there is no such caller.
            ConflictError: it is a peer already.
            TrustConflictError: the name is taken, or reads like another.
        """
        caller = self._new_caller(key)
        imitated = self._imitated(caller.authority)
        if name is None and imitated is not None:
            raise TrustConflictError(
                f"it calls itself {quoted(caller.authority)}, which reads like {imitated}",
                fix="find out who it is; if it is right, give it another name with --name",
            )
        chosen = self.check_name(name or caller.authority)
        return self._peer_row(self._core.callers.accept(caller, chosen))

    def _new_caller(self, key: str) -> Caller:
        try:
            return self._core.callers.find(key)
        except NotFoundError:
            with suppress(NotFoundError):
                raise _already(self._core.trust.find(key)) from None
            raise

    def ignore(self, key: str) -> Row:
        """Forget a caller, and do not show it again.

        Raises:
            NotFoundError: there is no such caller.
        """
        caller = self._core.callers.find(key)
        self._core.callers.ignore(caller)
        return {**self._row(caller), "state": "ignored"}

    def later(self, key: str) -> Row:
        """Put a caller off for a day.

        Raises:
            NotFoundError: there is no such caller.
        """
        return self._row(self._core.callers.later(self._core.callers.find(key)))

    def last(self) -> Row:
        """Return which act of pairing can be taken back.

        Raises:
            NotFoundError: there was none in the last hour.
        """
        return _shown(self._core.callers.last())

    def undo(self, act: str) -> Row:
        """Take back the last act of pairing, which *act* names as ``last`` does.

        Raises:
            NotFoundError: there was none in the last hour.
            ConflictError, TrustConflictError: it is another, or something has followed from it.
        """
        return _shown(self._core.callers.undo(act))

    # --- introductions -----------------------------------------------------------------------
    def introduce(self, about: str, to: str) -> Row:
        """Return an introduction of the peer *about* to the peer *to*, as text.

        Raises:
            NotFoundError: there is no such peer.
            PeerError: both are the same, or the card is too long.
        """
        trust = self._core.trust
        peer, reader = trust.find(about), trust.find(to)
        if not trust.accepts_author(peer.node_id):
            raise TrustConflictError(
                f"{peer.name} is at level {peer.level}: nobody here has compared its number",
                fix="compare it first; whoever is introduced is expected to be known to you",
            )
        try:
            wire = make_introduction(
                peer.chain, introducer=trust.own, to=reader.node_id, now=self._clock.now(),
                signer=self._core.keys.link,
            )  # fmt: skip
        except PeerError as error:
            raise RequestError(error.message, fix=error.fix) from None
        text = armor_block(INTRODUCTION, wire)
        return {"introduction": text, "name": peer.name, "to": reader.name}

    def take_introduction(self, armoured: str) -> Row:
        """Let a node wait that a peer introduces; nobody trusts it by that.

        Raises:
            UntrustedKeyError: the introducer is no peer whose number was compared.
            PeerError: it does not verify, is old, or was made for another node.
            ConflictError: that node is a peer already.
        """
        wire = dearmor_block(INTRODUCTION, armoured, maximum=limits.MAX_INTRODUCTION)
        parsed, trust = parse_introduction(wire), self._core.trust
        by = parsed.introducer
        card = trust.card_at(by, parsed.card_n) if trust.accepts_author(by) else None
        if card is None or parsed.card_n < trust.recovered_at(by):
            raise UntrustedKeyError(
                "it is signed by a node that is no peer, whose number nobody here has compared, or "
                "by a key that is not known here",
                fix="compare the number with the introducer first, and ask it for its new card",
            )
        chain = verify_introduction(
            parsed, network=trust.own.network, to=self._core.node_id, link=card.link,
            now=self._clock.now(),
        )  # fmt: skip
        return self._row(self._core.callers.introduce(chain, by=by))

    # --- notices -----------------------------------------------------------------------------
    def notices(self) -> Iterator[tuple[str, str, str]]:
        """Return what needs a person: code, message and what to do."""
        asking = self._core.callers.asking()
        if asking:
            shown = ", ".join(self._told(caller) for caller in asking[:_NAMED])
            more = f" and {len(asking) - _NAMED} more" if len(asking) > _NAMED else ""
            asks = counted(len(asking), "node asks", "nodes ask")
            message = f"{asks} to be added: {shown}{more}"
            yield "callers", message, "see who it is: picket peers pending"
        for node_id, at in sorted(self._asked.items()):
            if node_id in self._linked() or self._core.statements.revoked:
                continue
            name = self._name(node_id)
            last = self._core.store.scalar(
                "SELECT last_contact FROM peers WHERE node_id = ?", node_id
            )
            if self._core.statements.recovered_since(last):
                message = f"{name} has not confirmed yet that this node recovered"
                yield "not-approved", message, ask_to_confirm(name)
                continue
            message = f"{name} has not approved this node yet; it was asked at {minute(at)}"
            yield "not-approved", message, call_it(name)

    def waits_for(self, node_id: bytes) -> bool:
        """Whether the peer *node_id* refuses this node and was asked to add it."""
        return node_id in self._asked

    def _told(self, caller: Caller) -> str:
        told = f"{quoted(caller.authority)} ({caller.country})"
        if caller.introduced_by is not None:
            told += f", introduced by {self._name(caller.introduced_by)}"
        imitated = self._imitated(caller.authority)
        return told if imitated is None else f"{told}, which is NOT {imitated}"


def _already(peer: Peer) -> ConflictError:
    shown = quoted(peer.name)
    pinned = peer.level is Level.PINNED
    return ConflictError(
        f"{shown} is a peer already, at level {peer.level}",
        fix="compare the number, then: picket peers approve" if pinned else "nothing is left to do",
    )


def _shown(done: Done) -> Row:
    return {
        "act": done.key, "what": done.what, "name": done.name,
        "node_id": format_node_id(done.node_id), "at": rfc3339(done.at),
    }  # fmt: skip
