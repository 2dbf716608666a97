"""What counts of all that is held of one node's key statements, whatever the order it came in.

Statements form a tree: each names the digest of the one before it, which fixes the whole branch
below it and so the keys that must have signed it. What counts follows from the tree alone:

- The keys in force sign cards. Two cards that follow one statement contradict each other: somebody
  else may hold the keys, and nothing new of the node counts.
- A rotation or recovery settles that: of the cards under the keys that it replaces, those that it
  stands on count, and no others, whatever their number. So the owner names the last statement that
  counts by standing on it, and a thief of live keys cannot freeze an identity for ever.
- The next keys settle once: two rotations or recoveries from one set of keys are a contradiction
  that nothing settles, because whoever made the second one had the paper too.
- A revocation ends everything, whenever it comes.
- A skeleton says nothing by itself: it counts where a signed statement stands on it.

What does not count is kept beside, up to a bound: it is the evidence, and what was taken under such
a card before must still verify.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from protocol import limits
from protocol.errors import StatementError, UntrustedKeyError, WrongNetworkError
from protocol.statement import (
    CARD,
    RECOVER,
    REVOKE,
    Card,
    Chain,
    Statement,
    check_revocation,
)


class Standing(Enum):
    """What a node's own statements say of its keys."""

    CLEAR = "clear"
    CONTRADICTED = "contradicted"
    SPENT = "spent"


@dataclass(frozen=True, slots=True)
class KeyHistory:
    """Verified statements of one node: the chain that counts, and what lies beside it."""

    chain: Chain
    aside: tuple[Statement, ...] = ()
    revocation: Statement | None = None
    standing: Standing = Standing.CLEAR

    @property
    def recoveries(self) -> tuple[Statement, ...]:
        """The recoveries in the chain, oldest first."""
        return tuple(s for s in self.chain.statements if s.type == RECOVER)

    def cards_numbered(self, n: int) -> tuple[Card, ...]:
        """Return every card that was signed as statement *n*, the one that counts first."""
        found = [self.chain.card_at(n)]
        found += [s.body for s in self.aside if s.n == n and isinstance(s.body, Card)]
        return tuple(card for card in found if card is not None)

    def take(self, statements: Iterable[Statement]) -> KeyHistory:
        """Return the history with *statements* as well, of which each was signed as it must.

        Raises:
            WrongNetworkError: one belongs to another network.
            StatementError: one is of another node, or what it stands on is not held.
            SignatureError: too few identity keys signed one.
            UntrustedKeyError: a skeleton that nothing confirms stands at the end.
        """
        nodes = {s.digest: s for s in (*self.chain.statements, *self.aside)}
        revocation = self.revocation
        fresh = False
        for statement in sorted(statements, key=lambda each: each.n):
            if statement.network != self.chain.network:
                raise WrongNetworkError("the statement was made for another Picket network")
            if statement.node_id != self.chain.node_id:
                raise StatementError("the statement belongs to another node")
            if statement.type == REVOKE:
                check_revocation(statement, self.chain.inception)
                fresh = fresh or revocation is None
                revocation = revocation or statement
                continue
            known = nodes.get(statement.digest)
            if known is None or (known.body is None and statement.body is not None):
                self._branch(nodes, statement).extend(statement)
                nodes[statement.digest] = statement
                fresh = True
        if not fresh:
            return self
        tree = _Tree(nodes)
        loose = [s for s in nodes.values() if s.digest not in tree.solid]
        if loose:
            if min(s.n for s in loose) < len(self.chain.statements):
                raise StatementError("an unsigned statement contradicts the chain")
            raise UntrustedKeyError("the newest key statement is a skeleton that nothing confirms")
        return tree.history(self.chain, revocation)

    def _branch(self, nodes: Mapping[bytes, Statement], statement: Statement) -> Chain:
        """Return the verified chain on top of which *statement* stands."""
        if statement.n == 0:
            raise StatementError("the chain begins with another inception")
        below = nodes.get(statement.prev)
        if below is None or below.n != statement.n - 1:
            if statement.n > len(self.chain.statements):
                raise StatementError(f"statement {len(self.chain.statements)} is missing before it")
            raise StatementError("the statement does not name the digest of the one before it")
        return replace(self.chain, statements=_trail(nodes, below))


def _trail(nodes: Mapping[bytes, Statement], last: Statement) -> tuple[Statement, ...]:
    """Return the statements from the inception to *last*."""
    trail = [last]
    while trail[-1].n:
        trail.append(nodes[trail[-1].prev])
    return tuple(reversed(trail))


class _Tree:
    """Verified statements by digest, and which of them count."""

    def __init__(self, nodes: Mapping[bytes, Statement]) -> None:
        self.nodes = nodes
        self.children: dict[bytes, list[Statement]] = {}
        self.solid: set[bytes] = set()
        for statement in sorted(nodes.values(), key=lambda each: each.n, reverse=True):
            if statement.body is not None or statement.digest in self.children:
                self.solid.add(statement.digest)
            if statement.digest in self.solid and statement.n:
                self.children.setdefault(statement.prev, []).append(statement)

    def history(self, chain: Chain, revocation: Statement | None) -> KeyHistory:
        """Return what the tree comes to; *chain* is any chain of the node."""
        path, epoch, standing = self._settle(next(s for s in self.nodes.values() if not s.n))
        kept = self._kept(path, epoch)
        return KeyHistory(replace(chain, statements=path), kept, revocation, standing)

    def _settle(self, root: Statement) -> tuple[tuple[Statement, ...], list[Statement], Standing]:
        """Return the chain that counts, all under the keys in force, and how they stand."""
        while True:
            epoch, successors = self._epoch(root)
            if len(successors) > 1:
                # Which one is looked at makes no difference: nothing new counts any more.
                last = min(successors, key=lambda each: each.digest)
                return _trail(self.nodes, last), [*epoch, *successors], Standing.SPENT
            if not successors:
                break
            root = successors[0]
        standing, last = Standing.CLEAR, root
        while after := self.children.get(last.digest):
            if len(after) > 1:
                standing = Standing.CONTRADICTED
            last = min(after, key=lambda each: each.digest)
        return _trail(self.nodes, last), epoch, standing

    def _epoch(self, root: Statement) -> tuple[list[Statement], list[Statement]]:
        """Return the cards under the keys that *root* puts in force, and what replaces these."""
        cards: list[Statement] = []
        successors: list[Statement] = []
        waiting = [root]
        while waiting:
            for child in self.children.get(waiting.pop().digest, ()):
                if child.type == CARD:
                    cards.append(child)
                    waiting.append(child)
                else:
                    successors.append(child)
        return cards, successors

    def _kept(self, path: tuple[Statement, ...], epoch: list[Statement]) -> tuple[Statement, ...]:
        """Return what is kept beside *path*: the evidence about the keys in force first."""
        done = {statement.digest for statement in path}
        now = {statement.digest for statement in epoch}
        kept: list[Statement] = []
        order = sorted(
            (s for s in self.nodes.values() if s.digest not in done),
            key=lambda s: (s.type == CARD, s.digest not in now, s.n, s.digest),
        )
        for statement in order:
            fresh = [s for s in _trail(self.nodes, statement) if s.digest not in done]
            if len(kept) + len(fresh) <= limits.MAX_ASIDE:
                kept += fresh
                done |= {s.digest for s in fresh}
        return tuple(sorted(kept, key=lambda s: (s.n, s.digest)))
