"""Key statements of this node and of its peers in node.db: what came of them, and what is told.

- Everything that is kept was verified; what does not count is kept beside what does, because old
  envelopes and receipts still verify under it.
- A recovery of a peer is held: it counts once an operator here has confirmed it and it has been
  known for 72 h. Until then neither the old keys of that peer nor its new ones are used.
- What peers hold of our own statements comes back to us. It is taken if it names the keys that this
  node has; else somebody else signed it, and this node signs no statement any more.
- Evidence (recoveries, revocations, contradictions) is told to those who know of that node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from keys.fingerprint import format_node_id
from keys.identity import ServiceKeys
from keys.trust import Level, Peer, TrustStore, Verification, equivocation
from node.clock import Clock
from node.log import Act, Log
from node.store import Store
from protocol import envelope, limits, suite
from protocol.canonical import encode
from protocol.chain import KeyHistory, Standing
from protocol.entry import EntryKind
from protocol.errors import (
    BusyError,
    ConflictError,
    PeerError,
    PicketError,
    SignatureError,
    StatementError,
    StoreError,
    TrustConflictError,
    UntrustedKeyError,
)
from protocol.statement import CARD, RECOVER, REVOKE, Card, Chain, Statement, parse_statement
from protocol.suspension import Directory, Suspension, parse_suspension, verify_suspension

_TOLD: Final = limits.MAX_FRAME_STATEMENTS - 8
"""Statements of another node's chain that are told at once, besides what contradicts it."""
_RIVALS_TOLD: Final = 4


class Owner(Protocol):
    """What the statements need of the node that they belong to."""

    trust: TrustStore
    keys: ServiceKeys
    signing_waits: bool

    def logged(self) -> Any:  # noqa: ANN401  a context manager
        """Run a block as one transaction that grows the log."""
        ...

    def change_trust(self, after: TrustStore, node_id: bytes, what: str) -> None:
        """Write a peer, log the act, and make *after* the store in use."""
        ...


@dataclass(frozen=True, slots=True)
class Pending:
    """A recovery of a peer that does not count yet."""

    node_id: bytes
    digest: bytes
    seen_at: int
    counts_from: int
    confirmed_by: str | None


class StatementBook:
    """All key statements that node.db holds."""

    def __init__(self, owner: Owner, *, store: Store, clock: Clock) -> None:
        """Prepare; ``begin`` comes before anything is taken."""
        self._owner, self._store, self._clock = owner, store, clock
        self._log: Log | None = None
        self.hold_ms = limits.RECOVERY_HOLD_MS
        self.directory: Directory | None = None
        self.own: KeyHistory | None = None
        self._doubtful: dict[bytes, tuple[int, int]] = {}
        self.upkeep: Callable[[], None] | None = None
        """What a running, unlocked node does to its own keys by itself; it may sign statements."""
        self.upkept = False
        self.hindered: PicketError | None = None
        """Why this node could not renew its own card or keys."""
        self.misused: Statement | None = None
        """A statement that somebody else signed with this node's identity key."""

    # --- loading -----------------------------------------------------------------------------
    def history(self, chain: Chain) -> KeyHistory:
        """Return all that is stored of the node of *chain*.

        Raises:
            StoreError: it is damaged.
        """
        rows = self._store.rows(
            "SELECT wire FROM statements_aside WHERE node_id = ?", chain.node_id
        )
        try:
            history = KeyHistory(chain).take([parse_statement(row["wire"]) for row in rows])
        except PeerError as error:
            raise _damaged(chain.node_id, str(error)) from None
        if history.chain.head.digest != chain.head.digest:
            raise _damaged(chain.node_id, "others count than those that are stored as counting")
        return history

    def begin(self, chain: Chain, log: Log) -> None:
        """Take our own *chain* as it is stored, what was said beside it, and the log.

        Raises:
            StoreError: it is damaged.
        """
        self._log = log
        self.own = KeyHistory(chain)
        rows = self._store.rows(
            "SELECT wire FROM statements_aside WHERE node_id = ?", chain.node_id
        )
        try:
            beside = [parse_statement(row["wire"]) for row in rows]
            for statement in sorted(beside, key=lambda each: each.n):
                self._look_at_own(statement)
        except PeerError as error:
            raise _damaged(chain.node_id, str(error)) from None

    def load_peer(self, chain: Chain, row: Mapping[str, Any], check: Verification | None) -> Peer:
        """Return the peer of a row of the table of peers.

        Raises:
            StoreError: what is stored of it is damaged.
        """
        given = self._store.scalar(
            "SELECT level FROM levels_given WHERE node_id = ?", chain.node_id
        )
        rows = self._store.rows(
            "SELECT digest FROM recoveries WHERE node_id = ? AND counts = 1", chain.node_id
        )
        try:
            level, before = Level(row["level"]), None if given is None else Level(given)
        except ValueError:
            raise StoreError(
                f"the stored trust level of {row['name']} is none",
                fix="restore node.db from its newest backup",
            ) from None
        confirmed = frozenset(each["digest"] for each in rows)
        history = self.history(chain)
        # Not corrected here: that level and statements differ is for the verification to say.
        return Peer(chain, row["name"], level, check, before, history, confirmed)

    # --- writing -----------------------------------------------------------------------------
    def write(self, peer: Peer) -> None:
        """Write what is held of *peer*. Call inside a transaction."""
        self._write_history(peer.history)
        node_id, given = peer.node_id, peer.given
        self._store.run("DELETE FROM levels_given WHERE node_id = ?", node_id)
        if given is not None:
            self._store.insert("levels_given", {"node_id": node_id, "level": given.value})
        now = self._clock.now()
        for statement in peer.history.recoveries:
            counts = int(statement.digest in peer.confirmed)
            self._store.run(
                "INSERT INTO recoveries (digest, node_id, seen_at, counts) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (digest) DO UPDATE SET counts = excluded.counts",
                statement.digest, node_id, now, counts,
            )  # fmt: skip

    def _write_history(self, history: KeyHistory) -> None:
        node_id, chain = history.chain.node_id, history.chain.statements
        self._store.run("DELETE FROM statements WHERE node_id = ? AND n >= ?", node_id, len(chain))
        self._store.insert_all(
            "statements",
            [{"node_id": node_id, "n": s.n, "wire": s.wire} for s in chain],
            replace=True,
        )
        beside = [*history.aside, *([history.revocation] if history.revocation else [])]
        self._store.run("DELETE FROM statements_aside WHERE node_id = ?", node_id)
        self._store.insert_all(
            "statements_aside",
            [{"node_id": node_id, "digest": s.digest, "wire": s.wire} for s in beside],
        )

    # --- taking ------------------------------------------------------------------------------
    def take(self, node_id: bytes, wires: Sequence[bytes]) -> int:
        """Verify and store key statements of a peer, or of ourselves; return how many were new.

        Raises:
            PeerError: a rule is broken. Two statements of one number freeze the peer.
        """
        statements = [parse_statement(wire) for wire in wires]
        if any(statement.node_id != node_id for statement in statements):
            raise UntrustedKeyError("key statements of another node than announced")
        if node_id == self._owner.trust.own.node_id:
            return self.take_own(statements)
        return self.learn(node_id, statements)

    def learn(self, node_id: bytes, statements: Sequence[Statement]) -> int:
        """Store verified *statements* of a peer and what they come to; return how many were new.

        Raises:
            PeerError: a rule is broken. Two statements of one number freeze the peer.
        """
        trust = self._owner.trust
        before = trust.peers.get(node_id)
        after = trust.learn(node_id, statements)
        if after is trust or before is None:
            return 0
        peer = after.peer(node_id)
        self._owner.change_trust(after, node_id, _what_came(before, peer))
        standing = peer.history.standing
        if standing is not Standing.CLEAR and standing is not before.history.standing:
            raise equivocation(standing)
        known = {s.digest for s in _all_of(before.history)}
        return len([s for s in _all_of(peer.history) if s.digest not in known])

    # --- our own -----------------------------------------------------------------------------
    @property
    def revoked(self) -> bool:
        """Whether this node's identity is over."""
        return self.own is not None and self.own.revocation is not None

    def recovered_since(self, at: int | None) -> bool:
        """Whether this node took its identity back after *at* (UTC in ms)."""
        chain = self._owner.trust.own.statements
        last = max((s.issued for s in chain if s.type == RECOVER), default=None)
        return last is not None and at is not None and last >= at

    def check_own(self) -> None:
        """Check that this node may sign a statement of its own.

        Raises:
            BusyError: it has just started; a peer may hold statements that it has lost.
            ConflictError: its identity is over, or somebody else signs with its key.
        """
        if self.revoked:
            raise ConflictError("this identity is revoked", fix="make a new one: picket init")
        if self.misused is not None:
            raise ConflictError(
                "somebody else has signed with this node's identity key, "
                "or this home is older than the keys in use",
                fix="take the recovery sheet out of the safe and run: picket keys recover",
            )
        if self._owner.signing_waits:
            raise BusyError(
                "the node has just started and asks its peers which cards it made before",
                fix="try again in half a minute",
            )

    def take_own(self, statements: Iterable[Statement]) -> int:
        """Take statements of our own that peers hold and we have lost; return how many.

        Raises:
            PeerError: they were not signed by our own keys.
        """
        assert self.own is not None  # noqa: S101  set on loading
        known = {s.digest for s in _all_of(self.own)}
        fresh = sorted((s for s in statements if s.digest not in known), key=lambda each: each.n)
        taken = 0
        for statement in fresh:
            if self.misused is not None and statement.type != REVOKE:
                break  # whoever signed that signed what stands on it, too
            before = self.own
            self._look_at_own(statement)
            if self.own is not before or self.misused is statement:
                grown = len(self.own.chain.statements) > len(before.chain.statements)
                self._keep_own(statement, counts=grown)
                taken += 1
        return taken

    def _look_at_own(self, statement: Statement) -> None:
        """Take one statement of our own, or note that somebody else signed it.

        Raises:
            PeerError: it was not signed by our own keys.
        """
        assert self.own is not None  # noqa: S101  set on loading
        after = self.own.take([statement])
        grows = after.chain.statements[:-1] == self.own.chain.statements
        ours = not isinstance(statement.body, Card) or self._is_of_this_node(statement.body)
        if statement.type == REVOKE or (grows and ours):
            self.own = after
        elif statement.digest not in {s.digest for s in after.aside} or (
            after.standing is not Standing.CLEAR
        ):
            # Else a recovery or rotation has dealt with it.
            self.misused = self.misused or statement

    def _is_of_this_node(self, card: Card) -> bool:
        keys = self._owner.keys
        return (card.link, card.log, card.witness) == (
            keys.link.public, keys.log_keys(card.log.name), keys.witness_keys(card.witness.name)
        )  # fmt: skip

    def _keep_own(self, statement: Statement, *, counts: bool) -> None:
        with self._owner.logged():
            if counts:
                self.write_own(statement)
            else:
                self._store.insert(
                    "statements_aside",
                    {
                        "node_id": statement.node_id, "digest": statement.digest,
                        "wire": statement.wire,
                    },
                    replace=True,
                )  # fmt: skip
                self._log_aside(statement)
        if counts:
            self._take_over()

    def write_own(self, statement: Statement) -> None:
        """Write and log the next statement of our own chain. Call inside a transaction."""
        assert self._log is not None  # noqa: S101  set on loading
        row = {"node_id": statement.node_id, "n": statement.n, "wire": statement.wire}
        self._store.insert("statements", row)
        self._log.append([Act(EntryKind.KEY_STATEMENT, statement.digest, (statement.n,))])

    def _log_aside(self, statement: Statement) -> None:
        assert self._log is not None  # noqa: S101  set on loading
        act = ("own", statement.type, statement.n)
        subject = suite.digest("trust-act", encode([statement.digest, *act]))
        self._log.append([Act(EntryKind.TRUST_CHANGE, subject, act)])

    def add_own(self, *statements: Statement, also: Callable[[], None] | None = None) -> None:
        """Take statements of our own, signed just now, into chain, database and log.

        *also* runs inside the same transaction.

        Raises:
            BusyError, ConflictError: as for ``check_own``; nothing was changed.
        """
        assert self.own is not None  # noqa: S101  set on loading
        self.check_own()
        before = self.own
        chain = before.chain
        for statement in statements:
            chain = chain.extend(statement)
        with self._owner.logged():
            for statement in statements:
                self.write_own(statement)
            if also is not None:
                also()
        self.own = before.take(statements)
        self._take_over()

    def revoke_own(self, statement: Statement) -> None:
        """End this node's identity for good.

        Raises:
            StatementError: the code is another node's.
        """
        assert self.own is not None  # noqa: S101  set on loading
        if self.take_own([statement]) == 0 and not self.revoked:
            raise StatementError("this revocation is of another node")

    def _take_over(self) -> None:
        assert self.own is not None  # noqa: S101  set on loading
        self._owner.trust = replace(self._owner.trust, own=self.own.chain)

    # --- recoveries of peers -----------------------------------------------------------------
    def pending(self) -> list[Pending]:
        """Return the recoveries that do not count yet."""
        found = []
        for peer in self._owner.trust.peers.values():
            for statement in peer.pending:
                row = self._store.row("SELECT * FROM recoveries WHERE digest = ?", statement.digest)
                if row is not None:
                    found.append(
                        Pending(
                            peer.node_id, statement.digest, row["seen_at"],
                            row["seen_at"] + self.hold_ms, row["confirmed_by"],
                        )
                    )  # fmt: skip
        return found

    def awaiting(self, node_id: bytes) -> list[Pending]:
        """Return the recoveries of a peer that do not count yet.

        Raises:
            TrustConflictError: it has none.
        """
        waiting = [each for each in self.pending() if each.node_id == node_id]
        if not waiting:
            raise TrustConflictError(
                f"{self._owner.trust.peer(node_id).name} has no recovery that waits for a "
                "confirmation",
                fix="see: picket peers list",
            )
        return waiting

    def confirm(
        self, node_id: bytes, check: Verification, *, also: Callable[[], None] = lambda: None
    ) -> bool:
        """Note that an operator confirmed the recovery of a peer; return whether it counts now.

        *also* is in the same transaction.

        Raises:
            TrustConflictError: it has none that waits.
        """
        waiting = self.awaiting(node_id)
        with self._owner.logged():
            also()
            for each in waiting:
                self._store.run(
                    "UPDATE recoveries SET confirmed_at = ?, confirmed_by = ?, method = ? "
                    "WHERE digest = ?", check.at, check.by, check.method, each.digest,
                )  # fmt: skip
            what = f"recovery confirmed by {check.by}, {check.method}"
            self._owner.change_trust(self._owner.trust, node_id, what)
        self.mature()
        return not self._owner.trust.peer(node_id).pending

    def mature(self) -> list[bytes]:
        """Let recoveries count that are confirmed and were held long enough; return whose."""
        now, done = self._clock.now(), []
        waiting = [each for each in self.pending() if each.confirmed_by is not None]
        for node_id in dict.fromkeys(each.node_id for each in waiting):
            mine = [each for each in waiting if each.node_id == node_id]
            peer = self._owner.trust.peer(node_id)
            if peer.chain.card is None or any(now < each.counts_from for each in mine):
                continue
            after = self._owner.trust.confirm(node_id, [each.digest for each in mine])
            self._owner.change_trust(after, node_id, "recovered")
            done.append(node_id)
        return done

    def doubtful(self, peer: Peer) -> int:
        """Return how many envelopes are held under cards that *peer* has taken back.

        They came before the recovery was known here; whoever had its keys may have written them.
        """
        if not peer.history.aside or not peer.history.recoveries:
            return 0
        known = self._doubtful.get(peer.node_id)
        if known is None or known[0] != peer.chain.recovered_at:
            rows = self._store.rows(
                "SELECT wire FROM envelopes WHERE author = ? AND wire IS NOT NULL", peer.node_id
            )
            count = sum(_taken_back(peer, envelope.parse(row["wire"])) for row in rows)
            # It can only shrink: nothing more is taken under these cards.
            known = self._doubtful[peer.node_id] = (peer.chain.recovered_at, count)
        return known[1]

    # --- suspensions -------------------------------------------------------------------------
    def load_suspensions(self) -> TrustStore:
        """Return the trust store with what the directory suspends now."""
        now, found = self._clock.now(), {}
        for row in self._store.rows("SELECT * FROM suspensions"):
            suspension = self._verified(row["wire"], now)
            if suspension is not None and row["node_id"] in self._owner.trust.peers:
                found[row["node_id"]] = suspension.until
        return self._owner.trust.suspend(found)

    def _verified(self, wire: bytes, now: int) -> Suspension | None:
        if self.directory is None:
            return None
        try:
            suspension = parse_suspension(wire)
            network = self._owner.trust.own.network
            verify_suspension(suspension, self.directory, network=network, now=now)
        except PeerError:
            return None
        return suspension

    def suspend(self, wire: bytes) -> Suspension:
        """Follow a suspension by the directory that this node has chosen.

        Raises:
            TrustConflictError: this node has chosen no directory.
            PeerError: it is not signed by enough of its keys, is over, or about no peer.
        """
        if self.directory is None:
            raise TrustConflictError(
                "this node follows no directory", fix="its keys go into the file: directory"
            )
        suspension, now = parse_suspension(wire), self._clock.now()
        network = self._owner.trust.own.network
        verify_suspension(suspension, self.directory, network=network, now=now)
        if suspension.node_id not in self._owner.trust.peers:
            raise UntrustedKeyError("the suspension is about a node that is no peer")
        row = self._store.row("SELECT * FROM suspensions WHERE node_id = ?", suspension.node_id)
        # One that is over still counts as the last word: an earlier one may come round again.
        last = None if row is None else parse_suspension(row["wire"])
        old = None if last is None else self._verified(last.wire, last.issued)
        if suspension.replaces(old):
            with self._owner.logged():
                self._store.insert(
                    "suspensions",
                    {"node_id": suspension.node_id, "wire": wire, "at": now},
                    replace=True,
                )
                what = f"suspended until {suspension.until}"
                self._owner.change_trust(self._owner.trust, suspension.node_id, what)
            self._owner.trust = self.load_suspensions()
        return suspension

    def lapse(self) -> None:
        """Let suspensions end that are over."""
        now = self._clock.now()
        if any(until <= now for until in self._owner.trust.suspended.values()):
            self._owner.trust = self.load_suspensions()

    # --- telling -----------------------------------------------------------------------------
    def remarkable(self) -> frozenset[bytes]:
        """Return the peers of which there is evidence that others should hear."""
        return frozenset(
            peer.node_id for peer in self._owner.trust.peers.values() if _remarkable(peer.history)
        )

    def evidence_of(self, node_id: bytes) -> tuple[bytes, ...]:
        """Return what to tell others of a peer: its chain, replaced cards as skeletons, and more.

        What they lack before it they ask for.
        """
        peer = self._owner.trust.peers.get(node_id)
        if peer is None:
            return ()
        history = peer.history
        if history.revocation is not None:
            return (history.revocation.wire,)
        chain = history.chain.statements
        recovered = history.chain.recovered_at
        last = max((s.n for s in chain if isinstance(s.body, Card)), default=0)
        # The card that a recovery stands on stays whole: not all have it.
        whole = {last, recovered - 1, *(s.n for s in history.aside)}
        told = [s for s in chain[1:] if s.n <= last or s.type != CARD][-_TOLD:]
        wires = [
            (s.n, s.skeleton() if s.type == CARD and s.n not in whole else s.wire) for s in told
        ]
        if history.standing is not Standing.CLEAR:
            wires += [(s.n, s.wire) for s in history.aside if s.body is not None][-_RIVALS_TOLD:]
        size = 0
        kept: list[tuple[int, bytes]] = []
        for n, wire in sorted(wires, reverse=True):
            size += len(wire)
            if kept and size > limits.MAX_STATEMENTS_BYTES:
                break
            kept.append((n, wire))
        return tuple(wire for _, wire in sorted(kept))

    def own_revocation(self) -> tuple[bytes, ...]:
        """Return our own revocation, if there is one."""
        if self.own is None or self.own.revocation is None:
            return ()
        return (self.own.revocation.wire,)


def _taken_back(peer: Peer, held: envelope.Envelope) -> bool:
    """Whether *held* stands on a card that does not count: another may bear its number by now."""
    card = peer.chain.card_at(held.header.card_n)
    if card is None:
        return True
    if len(peer.history.cards_numbered(held.header.card_n)) == 1:
        return False
    try:
        suite.verify("message", card.message, held.id, held.signature)
    except SignatureError:
        return True
    return False


def _all_of(history: KeyHistory) -> list[Statement]:
    revocation = [history.revocation] if history.revocation is not None else []
    return [*history.chain.statements, *history.aside, *revocation]


def _remarkable(history: KeyHistory) -> bool:
    return (
        history.revocation is not None
        or bool(history.recoveries)
        or history.standing is not Standing.CLEAR
    )


def _what_came(before: Peer, after: Peer) -> str:
    """Return what new statements came to, in the words of the log."""
    if after.level is not before.level:
        match after.level:
            case Level.REVOKED:
                return "revoked by its code"
            case Level.FROZEN:
                spent = after.history.standing is Standing.SPENT
                return "frozen: next keys used twice" if spent else "frozen: two statements"
            case Level.HELD:
                return "held: it says that it recovered"
            case _:
                return "settled by its next keys"
    return "key statement"


def _damaged(node_id: bytes, why: str) -> StoreError:
    return StoreError(
        f"the stored key statements of {format_node_id(node_id)} are damaged: {why}",
        fix="restore node.db from its newest backup",
    )
