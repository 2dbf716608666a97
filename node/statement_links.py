"""What links say about key statements: giving our own, giving others theirs back, telling evidence.

- Our own new statements go to every link at once.
- A peer whose hello shows that it has lost statements of its own gets them back before anything
  else is said, so that it never signs a second one of a number.
- Recoveries, revocations and contradictions of a third node are told to those who share a stream
  with it; whom else we know is nobody's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog

from node.core import Core
from node.line import Line
from protocol.errors import (
    BusyError,
    EquivocationError,
    PeerError,
    PicketError,
    SignerAwayError,
    StatementError,
    StoreError,
)
from protocol.session import Effect, StoreStatements

_log = structlog.get_logger()
_FIRST: Final = 1


class StatementLinks:
    """The conversation about key statements over all links of a node."""

    def __init__(
        self,
        core: Core,
        *,
        links: Mapping[bytes, Line],
        perform: Callable[[Line, Iterable[Effect]], None],
        end: Callable[[Line, str], None],
    ) -> None:
        """Begin: what this node has signed so far, peers learn from its hello."""
        self._core, self._links, self._perform, self._end = core, links, perform, end
        self._told = core.trust.own.head.n
        self._told_end = False
        self._trust = core.trust
        self._asked: set[tuple[bytes, bytes]] = set()

    # --- saying ------------------------------------------------------------------------------
    def send(self, line: Line, node_id: bytes, first: int) -> None:
        """Send statements of ourselves or of the peer at the other end, from *first* on."""
        wires = self._core.statements_of(node_id, first)
        self._perform(line, line.session.statements_loaded(node_id, wires))

    def asked(self, line: Line, node_id: bytes, first: int) -> None:
        """Answer whoever asks for statements: for ours, for its own, or for those of a member."""
        if node_id in {self._core.node_id, line.peer}:
            self.send(line, node_id, first)
        elif self._tells(line, node_id):
            self._perform(
                line,
                line.session.statements_loaded(node_id, self._core.statements.evidence_of(node_id)),
            )

    def opened(self, line: Line) -> None:
        """Tell a peer what it must know of this node and of others."""
        self._asked = {pair for pair in self._asked if pair[0] != line.peer}
        revocation = self._core.statements.own_revocation()
        if revocation:
            self._perform(line, line.session.statements_loaded(self._core.node_id, revocation))
        for node_id in sorted(self._core.statements.remarkable()):
            self._tell(line, node_id)

    def _tells(self, line: Line, node_id: bytes) -> bool:
        return node_id not in {line.peer, self._core.node_id} and self._core.witness.shares(
            line.peer, node_id
        )

    def _tell(self, line: Line, node_id: bytes) -> None:
        if self._tells(line, node_id):
            wires = self._core.statements.evidence_of(node_id)
            self._perform(line, line.session.statements_loaded(node_id, wires))

    def spread(self, node_id: bytes) -> None:
        """Tell all whom it concerns what is known of *node_id*."""
        for line in list(self._links.values()):
            if line.open:
                self._tell(line, node_id)

    # --- hearing -----------------------------------------------------------------------------
    def heard(self, line: Line, effect: StoreStatements) -> None:
        """Take what a peer says of its own statements, of ours, or of those of a third node.

        Raises:
            StoreError: the node must stop.
        """
        core, node_id = self._core, effect.node_id
        third = node_id not in {line.peer, core.node_id}
        if third and node_id not in core.trust.peers:
            return  # it need not know whom we know
        try:
            fresh = core.take_statements(node_id, effect.wires)
        except EquivocationError as error:
            self._refused(line, error)
            self._watch()
            if not third:
                self._end(line, error.code)
            return
        except PeerError as error:
            self._refused(line, error)
            if self._ask_again(line, node_id, error) or third:
                return
            self._end(line, error.code)
            return
        after = core.trust.peers.get(node_id)
        if node_id == core.node_id:
            if core.statements.misused is not None:
                _log.error("identity-misused", peer=self._name(line.peer))
            return
        if fresh and not third and after is not None:
            self._perform(line, line.session.statements_stored(after.chain.head.n))
        self._watch()

    def _watch(self) -> None:
        """Pass on what changed the standing of a peer, and end links that it may not hold now."""
        before, self._trust = self._trust.peers, self._core.trust
        for node_id in sorted(self._core.statements.remarkable()):
            peer, old = self._trust.peers[node_id], before.get(node_id)
            if old is None or peer.history == old.history:
                continue
            _log.warning("trust-changed", peer=peer.name, code=peer.level.value)
            self.spread(node_id)
            if not self._trust.accepts_link(node_id) and node_id in self._links:
                self._end(self._links[node_id], "untrusted-key")

    def _ask_again(self, line: Line, node_id: bytes, error: PeerError) -> bool:
        """Ask once a link for all statements, if what came may only lack what it stands on."""
        pair = (line.peer, node_id)
        if not isinstance(error, StatementError) or pair in self._asked:
            return False
        self._asked.add(pair)
        self._perform(line, line.session.ask_statements(_FIRST, node_id))
        return True

    def _refused(self, line: Line, error: PeerError) -> None:
        _log.warning("statements-refused", peer=self._name(line.peer), code=error.code)

    # --- time --------------------------------------------------------------------------------
    def tick(self) -> None:
        """Tell every link what this node has signed since; do what has waited for peers.

        Raises:
            BusyError: the disk is full.
        """
        core = self._core
        book = core.statements
        if core.trust is not self._trust:
            self._watch()
        if book.upkeep is not None and not core.signing_waits and not book.upkept:
            book.upkept = True
            self._keep_up(book.upkeep)
        head = core.trust.own.head.n
        if head > self._told or (book.revoked and not self._told_end):
            self._tell_own(head)

    def _keep_up(self, act: Callable[[], None]) -> None:
        """Renew our own card and keys; what stands in the way is told, and stops nothing else."""
        book = self._core.statements
        try:
            act()
        except SignerAwayError as error:
            book.hindered = error
        except (BusyError, StoreError):
            raise
        except PicketError as error:
            if book.hindered is None:
                _log.error("keys-not-renewed", code=error.code)
            book.hindered = error
        else:
            book.hindered = None

    def _tell_own(self, head: int) -> None:
        first, self._told = self._told + 1, head
        self._told_end = self._core.statements.revoked
        revocation = self._core.statements.own_revocation()
        for line in list(self._links.values()):
            if line.open:
                wires = (*self._core.statements_of(self._core.node_id, first), *revocation)
                self._perform(line, line.session.statements_loaded(self._core.node_id, wires))

    def sweep(self) -> None:
        """Let recoveries count that were held long enough, and suspensions end; once a minute.

        Raises:
            BusyError: the disk is full.
        """
        for node_id in self._core.statements.mature():
            _log.warning("recovery-counts", peer=self._name(node_id))
        self._core.statements.lapse()
        self._core.statements.upkept = False

    def _name(self, node_id: bytes) -> str:
        peer = self._core.trust.peers.get(node_id)
        return peer.name if peer is not None else "unknown"
