"""How logs stand, for people and programs: ours with its witnesses, and those of peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from keys.trust import Peer
from node.audit import Audit, Reader
from node.clock import Clock, rfc3339
from node.core import Core
from node.witness import fork_origin
from node.words import counted, quoted
from protocol.errors import ConflictError, NotFoundError, RequestError
from protocol.log_fork import parse_log_fork
from protocol.policy import format_policy
from protocol.statement import Card

_UNWITNESSED_MS: Final = 15 * 60_000
_UNPROVEN_MS: Final = 60 * 60_000
Row = dict[str, Any]
Notice = tuple[str, str, str]


class LogView:
    """What is shown of logs, over a Core; audits over the links of a running node."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        name: Callable[[bytes], str],
        read: Reader | None,
        stop_reading: Callable[[bytes], None] = lambda peer: None,
        linked: Callable[[], frozenset[bytes]] = frozenset,
        started: int = 0,
    ) -> None:
        """Show *core*; *read* asks peers for resources of their logs, if the node runs."""
        self._core, self._clock, self._name = core, clock, name
        self._read, self._stop, self._linked = read, stop_reading, linked
        self._started = started or clock.now()
        self._audits: dict[bytes, Audit] = {}

    # --- our log -----------------------------------------------------------------------------
    def standing(self) -> Row:
        """Return how our log stands with its witnesses, and what is wrong with logs of peers."""
        standing = self._core.cosigning.standing()
        return {
            "origin": self._core.log.origin,
            "size": self._core.log.size,
            "signed": self._core.log.signed_size,
            "cosigned": standing.size,
            "cosigned_at": None if standing.not_after is None else _time(standing.not_after),
            "needed": standing.needed,
            "witnesses": list(standing.witnesses),
            "cosigned_by": list(standing.cosigned),
            "missing": list(standing.missing),
            "contradictions": [
                self._name(node_id) for node_id in self._forked() if node_id != self._core.node_id
            ],
            "own_contradiction": self._core.node_id in self._forked(),
            "unproven": {
                self._name(node_id): count
                for node_id, (count, _) in sorted(self._core.witness.waiting().items())
            },
        }

    def policy(self) -> bytes:
        """Return the policy in force, as a file that other programs read."""
        return format_policy(self._core.cosigning.policy).encode()

    def bracket(self, index: int, anchor: Any) -> Row:  # noqa: ANN401  protocol.envelope.Anchor
        """Return between which times an envelope was made, as far as witnesses show it.

        Args:
            index: of its log entry here.
            anchor: the head that its author named in it, or None.
        """
        after = self._core.cosigning.bracket(index)
        row: Row = {
            "not_before": None,
            "anchor": None,
            "not_after": None if after is None else _time(after.not_after),
            "cosigned_size": None if after is None else after.size,
        }
        if anchor is not None:
            owner = self._core.log_owner(anchor.origin)
            at = self._core.cosigning.time_of(anchor.origin, anchor.size, anchor.root)
            row["anchor"] = {
                "origin": anchor.origin,
                "size": anchor.size,
                "owner": None if owner is None else self._name(owner),
                "own": owner == self._core.node_id,
            }
            row["not_before"] = None if at is None else _time(at)
        return row

    # --- notices -----------------------------------------------------------------------------
    def notices(self) -> Iterator[Notice]:
        """Yield what needs a person: code, plain words, and what to do."""
        for node_id in self._forked():
            if node_id == self._core.node_id:
                yield (
                    "own-log-fork",
                    "the log of this node contradicts itself: peers hold the proof",
                    "see it with picket log fork. If an old copy was put back, begin a new log: "
                    "picket log reopen; if not, somebody has its keys",
                )
                continue
            name = self._name(node_id)
            yield (
                "log-fork",
                f"the log of {name} contradicts itself: it was rewritten, or it shows different "
                "logs to different nodes",
                f"believe no receipt of {name} before you know why: call {name}. "
                f"The proof: picket log fork {quoted(name)}",
            )
        yield from self._reopened()
        yield from self._unproven()
        yield from self._unwitnessed()

    def _forked(self) -> Iterator[bytes]:
        """Yield whose logs contradict themselves; of ours the one that it has now."""
        for node_id, proofs in self._core.witness.forks().items():
            if node_id != self._core.node_id or self._own(proofs):
                yield node_id

    def _own(self, proofs: Sequence[bytes]) -> list[bytes]:
        """Return those against our present log: a new one was the way out of those before."""
        return [each for each in proofs if fork_origin(each) == self._core.log.origin]

    def _reopened(self) -> Iterator[Notice]:
        for row in self._core.store.rows("SELECT node_id, origin, size FROM witnessed"):
            peer = self._core.trust.peers.get(row["node_id"])
            if peer is not None and peer.card.log.name != row["origin"]:
                began = f"{peer.name} began a new log; its old one was seen with "
                message = began + counted(row["size"], "entry")
                audit = f"picket log audit {quoted(peer.name)}"
                fix = (
                    f"call {peer.name} and ask why: it is right after an old copy was put back or "
                    f"a recovery, and after nothing else. Then check the old log: {audit}"
                )
                if _by_recovery(peer, row["origin"]):
                    message += ". It recovered its identity, and that begins a new log"
                    fix = f"check that nothing of the old one was changed: {audit}"
                yield "log-reopened", message, fix

    def _unproven(self) -> Iterator[Notice]:
        now = self._clock.now()
        for node_id, (count, since) in sorted(self._core.witness.waiting().items()):
            if now - since >= _UNPROVEN_MS and node_id in self._linked():
                name = self._name(node_id)
                yield (
                    "log-unproven",
                    f"{name} has not proven {counted(count, 'head')} of its log since "
                    f"{rfc3339(since)}",
                    f"see: picket log audit {quoted(name)}",
                )

    def _unwitnessed(self) -> Iterator[Notice]:
        if self._read is None:
            return  # a node that does not run asks nobody
        standing = self._core.cosigning.standing()
        last = self._started if standing.not_after is None else standing.not_after * 1_000
        last = max(last, self._started)
        if standing.needed and self._clock.now() - last >= _UNWITNESSED_MS:
            since = "yet" if standing.not_after is None else f"since {_time(standing.not_after)}"
            missing = ", ".join(standing.missing)
            yield (
                "log-unwitnessed",
                f"too few witnesses have confirmed this node's log {since}; missing: {missing}",
                "nothing is lost and delivery goes on; see that they are linked: picket status",
            )

    def fork(self, peer: Peer) -> Row:
        """Return the proof that the log of *peer* contradicts itself.

        Raises:
            NotFoundError: there is none.
        """
        return _fork(peer.name, self._core.witness.forks().get(peer.node_id, ()))

    def own_fork(self) -> Row:
        """Return the proof that our log contradicts itself, the one that it has now if there is.

        Raises:
            NotFoundError: there is none.
        """
        node_id = self._core.node_id
        proofs = self._core.witness.forks().get(node_id, [])
        return _fork(self._name(node_id), self._own(proofs) or proofs)

    # --- audits ------------------------------------------------------------------------------
    def audit(self, peer: Peer) -> Row:
        """Begin to audit the log of *peer*, or return how far that has come.

        Raises:
            RequestError: the node does not run, or the peer is not linked.
        """
        running = self._audits.get(peer.node_id)
        if running is not None:
            self._expire(running)
        if running is None or running.over:
            self._begin(peer)
        return self.audited(peer)

    def _expire(self, audit: Audit) -> None:
        """End an audit from which nothing can come any more."""
        if not audit.over and audit.peer.node_id not in self._linked():
            audit.stop("the link with it has ended")
        audit.expire()

    def _begin(self, peer: Peer) -> Audit:
        if self._read is None:
            raise RequestError("the node is not running", fix="start it first")
        audit = Audit(
            peer, store=self._core.store, clock=self._clock, read=self._read,
            on_head=lambda note: self._core.note_head(peer.node_id, note),
        )  # fmt: skip
        self._stop(peer.node_id)  # what an earlier one asked for is not answered to this one
        self._audits[peer.node_id] = audit
        if not audit.start():
            del self._audits[peer.node_id]
            raise ConflictError(
                f"{peer.name} is not linked now", fix="try again when picket status shows the link"
            )
        return audit

    def audited(self, peer: Peer) -> Row:
        """Return how far the audit of *peer* has come, or what it found.

        Raises:
            NotFoundError: none was begun since the node started.
        """
        audit = self._audits.get(peer.node_id)
        if audit is None:
            raise NotFoundError(f"no audit of {peer.name} was begun", fix="begin one")
        self._expire(audit)
        if audit.over:
            self._stop(peer.node_id)
        return {
            "peer": peer.name,
            "running": not audit.over,
            "done": audit.done,
            "total": audit.total,
            "ok": audit.over and all(check.ok is not False for check in audit.checks),
            "checks": [
                {"check": check.name, "ok": check.ok, "detail": check.detail}
                for check in audit.checks
            ],
        }


def _fork(name: str, proofs: Sequence[bytes]) -> Row:
    if not proofs:
        raise NotFoundError(f"there is no proof against the log of {name}")
    fork = parse_log_fork(proofs[0])
    return {
        "peer": name,
        "first": fork.first.decode(),
        "second": fork.second.decode(),
        "proof": [each.hex() for each in fork.proof],
    }


def _by_recovery(peer: Peer, origin: str) -> bool:
    """Whether no card since the recovery of *peer* names its log *origin*, but one before did."""
    chain = peer.chain
    cards = [(s.n, s.body) for s in chain.statements if isinstance(s.body, Card)]
    naming = [n for n, card in cards if card.log.name == origin]
    return chain.recovered_at > 0 and bool(naming) and max(naming) < chain.recovered_at


def _time(seconds: int) -> str:
    return rfc3339(seconds * 1_000)
