"""What several operators have to approve before this node does it, and what the log says of that.

- ``core.approvals`` is the book. Whoever does something of ``protocol.approval.Kind`` calls
  ``require`` before its transaction, and ``use`` of the permit inside it: so the act and the use of
  its approval are durable together, or neither is.
- No policy: nothing is needed. With one, ``require`` asks once, refuses until enough operators have
  voted, and gives each approval once. What it refuses is logged in a transaction of its own.
- There are no tables: the entries of kind 12 are the records. Before a permit is given all of them
  are read and verified anew, and every entry since the last of them against the signed tree, so
  that none is changed, added or hidden.
- Who can write node.db *and* sign the log can rewrite both. The heads that witnesses and peers hold
  show that; approvals cannot prevent it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from keys.identity import Random, recovery_signer
from keys.operators import parse_lines
from keys.trust import TrustStore
from node.access import OPERATOR
from node.approval_words import short, what
from node.clock import Clock, rfc3339
from node.log import Act, Log
from node.store import Store
from node.words import counted
from protocol import limits, merkle
from protocol.approval import (
    NONCE_SIZE,
    Kind,
    Operator,
    Policy,
    Subject,
    make_action,
    make_policy,
    parse_vote,
)
from protocol.approval_log import (
    ApprovalAct,
    Asked,
    FirstPolicy,
    Ledger,
    NextPolicy,
    Recovered,
    Refused,
    Request,
    Used,
    Voted,
    What,
    parse_act,
    sign_reset,
    subject_of,
)
from protocol.bodies import Rotation, identity_digest
from protocol.canonical import encode
from protocol.entry import EntryKind, local_digest, parse_entry
from protocol.errors import (
    ApprovalNeededError,
    ApprovalRecordError,
    ConflictError,
    DecodeError,
    ExpiredError,
    LogCorruptionError,
    NotFoundError,
    PeerError,
    RequestError,
)

TOO_FEW: Final = "too-few"
LOST: Final = "quorum-lost"
# Found by their bytes, which the tree covers: the column beside them can be changed alone. The
# condition is that of an index of node.db.
_ROWS: Final = (
    "SELECT idx, kind, entry, local, local_blind FROM entries WHERE substr(entry, 3, 1) = x'0c' "
)
RESET_FIX: Final = (
    "put a new policy in force with the recovery code from the safe: "
    "picket operators reset FILE --required M --code-file CODE"
)
_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
Row = Mapping[str, Any]


class Owner(Protocol):
    """What approvals need of the node that they belong to."""

    trust: TrustStore

    @property
    def node_id(self) -> bytes:
        """Our node id."""
        ...

    def logged(self) -> AbstractContextManager[None]:
        """Run a block as one transaction that grows the log."""
        ...

    def seal(self) -> None:
        """Sign the log as far as it has grown."""
        ...


@dataclass(frozen=True, slots=True)
class Permit:
    """That something may be done once; ``use`` it in the transaction that does it."""

    book: ApprovalBook
    digest: bytes | None
    who: str

    def use(self) -> None:
        """Log that it is done, so that nobody does it again with the same approvals.

        Raises:
            ConflictError: it was done meanwhile, or approvals are needed since.
        """
        self.book.use(self)


@dataclass(frozen=True, slots=True)
class Logged:
    """An act, and the log entry in which it stands."""

    index: int
    act: ApprovalAct


@dataclass(frozen=True, slots=True)
class _Known:
    """How far the records were read, what they come to, and a digest of all that was read."""

    index: int
    entry: bytes
    ledger: Ledger
    seen: bytes


class ApprovalBook:
    """The approval entries of the log of one node."""

    def __init__(
        self, owner: Owner, *, store: Store, log: Log, clock: Clock, random: Random
    ) -> None:
        """Begin; nothing is read before it is needed."""
        self._owner, self._store, self._log = owner, store, log
        self._clock, self._random = clock, random
        self._known: _Known | None = None
        self._refused: dict[tuple[bytes, str, str], int] = {}

    # --- reading -----------------------------------------------------------------------------
    def ledger(self) -> Ledger:
        """Return the state that the records come to; those that were read before are not again.

        Raises:
            ApprovalRecordError: one was changed.
        """
        known = self._known
        if known is not None and self._entry(known.index) != known.entry:
            known = None  # a transaction was undone
        after = -1 if known is None else known.index
        ledger = Ledger(self._owner.node_id) if known is None else known.ledger
        seen = b"" if known is None else known.seen
        for row in self._store.rows(f"{_ROWS} AND idx > ? ORDER BY idx", after):
            try:
                ledger = self._take(ledger, row)
            except PeerError:
                return self._replayed()[0]  # after a reset what came before does not matter
            seen = _seen(seen, row)
            known = _Known(row["idx"], row["entry"], ledger, seen)
        self._known = known
        return ledger

    def _entry(self, index: int) -> bytes | None:
        entry: bytes | None = self._store.scalar("SELECT entry FROM entries WHERE idx = ?", index)
        return entry

    def _take(self, ledger: Ledger, row: Row) -> Ledger:
        return ledger.take(_act(row), committed=lambda: self._committed(row["idx"]))

    def _begin_again(self, ledger: Ledger, row: Row) -> Ledger:
        return ledger.begin_again(_act(row), committed=lambda: self._committed(row["idx"]))

    def _committed(self, index: int) -> frozenset[bytes]:
        """Return the digests of the next identity keys as of log entry *index*."""
        chain = self._owner.trust.own
        found = chain.inception.next_digests
        for statement in chain.statements:
            if isinstance(statement.body, Rotation):
                rows = self._store.rows(
                    "SELECT idx, entry FROM entries WHERE kind = ? AND local = ?",
                    int(EntryKind.KEY_STATEMENT), encode([statement.n]),
                )  # fmt: skip
                at = [r["idx"] for r in rows if parse_entry(r["entry"]).subject == statement.digest]
                if at and min(at) > index:
                    break
                found = statement.body.next_digests
        return frozenset(found)

    def _replayed(self) -> tuple[Ledger, int]:
        """Read and verify all records; return what they come to, and where the last one stands.

        Those that this process has verified, and that are the same to the last byte, are not
        verified again.

        Raises:
            ApprovalRecordError: one was changed, and none that begins anew follows it.
        """
        rows = self._store.rows(f"{_ROWS} ORDER BY idx")
        ledger, seen, count = self._same(rows)
        last, fault = rows[count - 1]["idx"] if count else -1, ""
        for row in rows[count:]:
            last, seen = row["idx"], _seen(seen, row)
            try:
                ledger = self._begin_again(ledger, row) if fault else self._take(ledger, row)
                fault = ""
            except PeerError as error:
                fault = fault or f"log entry {last}: {error.message}"
        if fault:
            raise ApprovalRecordError(
                f"an approval record was changed: {fault}",
                fix="find out who changed node.db: picket log verify; then restore it, or "
                + RESET_FIX,
            )
        self._known = _Known(last, rows[-1]["entry"], ledger, seen) if rows else None
        return ledger, last

    def _same(self, rows: Sequence[Row]) -> tuple[Ledger, bytes, int]:
        """Return the state and digest of as many of *rows* as were verified, and their number."""
        known, seen, count = self._known, b"", 0
        while known is not None and count < len(rows) and rows[count]["idx"] <= known.index:
            seen, count = _seen(seen, rows[count]), count + 1
        if known is None or seen != known.seen:
            return Ledger(self._owner.node_id), b"", 0
        return known.ledger, seen, count

    def _verified(self) -> Ledger:
        """Return the state of all records, each of which stands in the signed tree.

        Raises:
            ApprovalRecordError: one was changed, or an entry since the last one was.
            BusyError: nothing can be signed now.
            LogCorruptionError: an entry stands where the next one will: the node must stop.
        """
        size = self._log.size
        if self._store.scalar("SELECT 1 FROM entries WHERE idx >= ? LIMIT 1", size):
            raise LogCorruptionError(f"the log has {size} entries, but there are more in node.db")
        ledger, last = self._replayed()
        if last < 0:
            return ledger
        # The last one names all before it; one that was hidden would come after it.
        first = last // merkle.TILE_WIDTH * merkle.TILE_WIDTH
        try:
            self._verify_entries(first)
        except LogCorruptionError as error:
            raise ApprovalRecordError(
                f"the log does not verify, so no approval counts: {error.message}",
                fix="find out who changed node.db: picket log verify",
            ) from None
        return ledger

    def _verify_entries(self, first: int) -> None:
        """Verify the entries from *first* on against the signed tree.

        Raises:
            LogCorruptionError: one does not fit.
            BusyError: nothing can be signed now.
        """
        self._owner.seal()
        size = self._log.size
        root = self._log.verified_heads()[size]
        for _ in self._log.verify_steps(first, size):
            pass
        if self._log.stored_roots()(size) != root:
            raise LogCorruptionError(f"the log differs from its checkpoint of size {size}")

    def verify(self) -> None:
        """Check every record: that it stands in its entry, and was allowed by those before it.

        Raises:
            LogCorruptionError: one was changed; names its log entry.
        """
        ledger = Ledger(self._owner.node_id)
        for row in self._store.rows(f"{_ROWS} ORDER BY idx"):
            try:
                ledger = self._take(ledger, row)
            except PeerError as error:
                raise LogCorruptionError(
                    f"the approval record of log entry {row['idx']} was changed: {error.message}"
                ) from None

    def acts(self, *, limit: int) -> list[Logged]:
        """Return the newest *limit* records, the newest first.

        Raises:
            ApprovalRecordError: one cannot be read.
        """
        found = []
        for row in self._store.rows(f"{_ROWS} ORDER BY idx DESC LIMIT ?", limit):
            try:
                found.append(Logged(row["idx"], _act(row)))
            except PeerError as error:
                raise ApprovalRecordError(
                    f"an approval record was changed: log entry {row['idx']}: {error.message}",
                    fix="find out who changed node.db: picket log verify",
                ) from None
        return found

    def open_requests(self) -> tuple[Request, ...]:
        """Return what waits for votes, or is approved and not done, the oldest first.

        Raises:
            ApprovalRecordError: a record was changed.
        """
        return self._open(self.ledger())

    def _open(self, ledger: Ledger) -> tuple[Request, ...]:
        # What was asked before the log was begun anew may be forgotten as done.
        here = self._log.origin
        return tuple(r for r in ledger.open(self._clock.now()) if r.action.log == here)

    def find(self, text: str) -> Request:
        """Return the open request that *text*, its first digits, means.

        Raises:
            NotFoundError: none, or several.
            ApprovalRecordError: a record was changed.
        """
        typed = text.strip().lower()
        found = [r for r in self.open_requests() if r.action.digest.hex().startswith(typed)]
        if not typed or len(found) != 1:
            raise NotFoundError(
                f"{'several requests begin' if typed and found else 'no open request begins'} "
                f"with {text!r}",
                fix="see: picket approve list",
            )
        return found[0]

    # --- asking ------------------------------------------------------------------------------
    def require(self, kind: Kind, subject: Subject, *, who: str, about: str = "") -> Permit:
        """Return the permit to do *subject* once; ask the operators for it if there is none.

        Call it outside of a transaction, after all other checks.

        Args:
            kind: what is to be done.
            subject: exactly what; asking for anything else is another request.
            who: ``node.access.OPERATOR`` or ``token_actor(id)``.
            about: a name for people, which does not tell requests apart.

        Raises:
            ApprovalNeededError: approvals are missing; it says how many, and how to give them.
            ApprovalRecordError: a record was changed.
            ConflictError: too many requests wait.
            BusyError: the disk is full, or nothing can be signed now.
        """
        assert not self._store.in_transaction  # noqa: S101  what is refused is logged
        ledger = self._checked(who)
        policy, now = ledger.policy, self._clock.now()
        if policy is None:
            return Permit(self, None, who)
        alike = (kind, subject, who)
        mine = [
            r
            for r in self._open(ledger)
            if (r.action.kind, r.action.subject, r.action.who) == alike
        ]
        found = next((r for r in mine if not ledger.tally(r, now=now).missing), None)
        if found is not None:
            return Permit(self, found.action.digest, who)
        # Of a request that was asked but can never be approved any more it is said why.
        self._check_quorum(ledger, policy, mine, who)
        if not mine:
            mine = [self._ask(ledger, policy, kind, subject, who=who, about=about)]
        else:
            self._refuse(mine[0].action.digest, TOO_FEW, what(mine[0].action), who)
        raise self._needed(ledger, mine[0])

    def _checked(self, who: str) -> Ledger:
        """Return the verified state; that it does not verify is logged as a refusal.

        Raises:
            ApprovalRecordError: a record was changed.
        """
        try:
            return self._verified()
        except ApprovalRecordError as error:
            self._refuse(b"", error.code, error.message, who)
            raise

    def _check_quorum(
        self, ledger: Ledger, policy: Policy, mine: Sequence[Request], who: str
    ) -> None:
        now = self._clock.now()
        alive = policy.voters(now)
        lost = len(alive) < policy.required
        if mine:
            lost = ledger.tally(mine[0], now=now).lost
        if not lost:
            return
        message = (
            f"{counted(policy.required, 'approval is', 'approvals are')} needed, but of "
            f"{counted(len(policy.operators), 'operator')} only {len(alive)} "
            f"{'has a key' if len(alive) == 1 else 'have keys'} that did not end"
        )
        self._refuse(mine[0].action.digest if mine else b"", LOST, message, who)
        raise ApprovalNeededError(message, fix=RESET_FIX)

    def _ask(
        self, ledger: Ledger, policy: Policy, kind: Kind, subject: Subject, *, who: str, about: str
    ) -> Request:
        waiting = self._open(ledger)
        own = sum(r.action.who == who for r in waiting)
        if len(waiting) >= limits.MAX_APPROVALS_OPEN or (
            who.startswith("token:") and own >= limits.MAX_APPROVALS_OF_TOKEN
        ):
            raise ConflictError(
                "too many requests wait for approvals already",
                fix="approve or reject some: picket approve list",
            )
        now = self._clock.now()
        try:
            action = make_action(
                kind, subject, policy=policy, log=self._log.origin, about=about, who=who, now=now,
                nonce=self._random(NONCE_SIZE),
            )  # fmt: skip
        except PeerError as error:  # a text that was typed here
            raise RequestError(error.message, fix=error.fix) from None
        self._append(Asked(action), who, at=now)
        return Request(action)

    def _needed(self, ledger: Ledger, request: Request) -> ApprovalNeededError:
        action = request.action
        counts = ledger.tally(request, now=self._clock.now())
        missing = counted(counts.missing, "more approval")
        called = short(action.digest)
        return ApprovalNeededError(
            f"to {what(action)} needs {missing} ({len(counts.yes)} of {counts.required} so far); "
            f"the request ends on {_day_and_minute(action.ends)}",
            fix=f"operators run: picket approve sign {called} --key FILE; "
            "then run the same command again",
        )

    def use(self, permit: Permit) -> None:
        """Log that what *permit* allows is done. Call inside the transaction that does it.

        Raises:
            ConflictError: it was done meanwhile, or approvals are needed since.
        """
        assert self._store.in_transaction  # noqa: S101  both or neither
        if permit.digest is None:
            if self.ledger().policy is not None:
                raise ConflictError("approvals are needed since a moment ago", fix="try again")
            return
        try:
            self._append(Used(permit.digest), permit.who)
        except PeerError as error:
            raise ConflictError(error.message, fix="see: picket approve list") from None

    # --- votes and policies ------------------------------------------------------------------
    def vote(self, wire: bytes, *, who: str) -> Request:
        """Take the signed vote of an operator; return the request that it is about.

        Raises:
            PeerError: it does not verify, or may not be given; that is logged.
            ApprovalRecordError: a record was changed.
        """
        ledger, digest = self._checked(who), b""
        try:
            vote = parse_vote(wire)
            digest = vote.action
            request = ledger.request(digest)
            if request.action.log != self._log.origin:
                raise ExpiredError("a new log was begun since", fix="let it be asked again")
            self._append(Voted(vote), who)
        except PeerError as error:
            self._refuse(digest, error.code, error.message, who)
            raise
        return self.ledger().request(digest)

    def set_policy(self, *, required: int, lines: str, who: str) -> Policy:
        """Put a policy in force: the first one freely, another with the votes of the one before.

        Args:
            required: how many operators must say yes.
            lines: the public key lines of all operators.
            who: asks for it.

        Raises:
            RequestError: a line is damaged, a key has ended or is weak, or the numbers are wrong.
            ConflictError: it is the policy in force.
            ApprovalNeededError: the operators of now have to approve it.
        """
        ledger = self._checked(who)
        policy = self._policy_of(ledger.policy, required=required, lines=lines)
        before = ledger.policy
        if before is None:
            self._append(FirstPolicy(policy), who)
            return policy
        if (before.required, before.operators) == (policy.required, policy.operators):
            raise ConflictError("this policy is in force already", fix="nothing needs to be done")
        permit = self.require(Kind.CHANGE_POLICY, (policy.wire,), who=who)
        if permit.digest is None:
            raise ConflictError("the policy was changed meanwhile", fix="try again")
        self._append(NextPolicy(policy, permit.digest), who)
        return policy

    def reset(self, code: bytes, *, required: int, lines: str, who: str) -> Policy:
        """Put a policy in force by the recovery *code*, whatever the operators of now say.

        Raises:
            RequestError: it is another code, or as for ``set_policy``; nothing was changed.
        """
        signer = recovery_signer(code)
        if identity_digest(signer.public) not in self._owner.trust.own.identity.next_digests:
            message = "this is not the recovery code in force"
            self._refuse(b"", "wrong-code", message, who)
            raise RequestError(
                message,
                fix="take the newest recovery sheet; the code on it that is called RECOVERY CODE",
            )
        try:
            before = self.ledger().policy
        except ApprovalRecordError:
            before = None  # it begins anew, whatever was changed
        policy = self._policy_of(before, required=required, lines=lines)
        self._append(sign_reset(policy, signer=signer), who, anew=before is None)
        return policy

    def _policy_of(self, before: Policy | None, *, required: int, lines: str) -> Policy:
        try:
            operators: Sequence[Operator] = parse_lines(lines)
            if not operators:
                raise DecodeError("there is no operator's line", fix="one line for each operator")
            if not 1 <= required <= len(operators):
                raise DecodeError(
                    f"{required} of {counted(len(operators), 'operator')} cannot be required",
                    fix=f"choose 1 to {len(operators)}",
                )
            now = self._clock.now()
            if ended := [each.name for each in operators if each.ends <= now]:
                raise ExpiredError(
                    f"the key of {ended[0]} has ended",
                    fix="make a new one: picket operators new-key FILE",
                )
            return make_policy(
                node_id=self._owner.node_id, before=before, required=required, operators=operators
            )
        except PeerError as error:  # typed here, by no peer
            raise RequestError(error.message, fix=error.fix) from None

    # --- writing -----------------------------------------------------------------------------
    def _append(self, act_of: What, who: str, *, anew: bool = False, at: int | None = None) -> None:
        """Verify one more act against all before it, and log it.

        With *anew*, or if it only notes a refusal, it may stand on records that do not verify.

        Raises:
            PeerError: it is not allowed.
        """
        at = self._clock.now() if at is None else at
        act = ApprovalAct(*self._place(), at, who, act_of)
        with self._owner.logged():
            index = self._log.size
            if not anew and not isinstance(act_of, Refused):
                self.ledger().take(act, committed=lambda: self._committed(index))
            self._log.append([Act(EntryKind.APPROVAL, act.subject, act.local)])

    def recovered(self, digest: bytes) -> list[Act]:
        """Return the act that the paper code put the statement *digest* in force, without votes.

        There is none where no policy ever stood. It may stand on records that do not verify: the
        paper is the way out of that, too.
        """
        if self._store.row(f"{_ROWS} LIMIT 1") is None:
            return []
        act = ApprovalAct(*self._place(), self._clock.now(), OPERATOR, Recovered(digest))
        return [Act(EntryKind.APPROVAL, act.subject, act.local)]

    def _place(self) -> tuple[int, bytes]:
        """Return number and name of the act that the next one stands on.

        It is of the newest record as its entry commits to it, even if those before do not verify.
        """
        row = self._store.row(f"{_ROWS} ORDER BY idx DESC LIMIT 1")
        if row is None:
            return 0, Ledger(self._owner.node_id).head
        try:
            return parse_act(row["local"]).n + 1, parse_entry(row["entry"]).subject
        except PeerError:
            return 0, subject_of(row["local"])  # it is damaged: only a reset can follow

    def _refuse(self, digest: bytes, code: str, detail: str, who: str) -> None:
        """Log a refusal, in a transaction of its own; the same one again only after a while.

        Raises:
            BusyError: the disk is full.
        """
        now, key = self._clock.now(), (digest, code, who)
        last = self._refused.get(key)
        if last is not None and 0 <= now - last < limits.APPROVAL_REFUSAL_EVERY_MS:
            return
        text = "".join(c if c.isprintable() else " " for c in detail)[: limits.MAX_REASON]
        self._append(Refused(digest, code, text), who)
        if len(self._refused) >= limits.MAX_APPROVALS_OPEN:
            self._refused.clear()
        self._refused[key] = now


def _day_and_minute(at: int) -> str:
    """Return *at* for people: ``2 Dec 2026 22:18 UTC``."""
    shown = rfc3339(at)
    return f"{int(shown[8:10])} {_MONTHS[int(shown[5:7]) - 1]} {shown[:4]} {shown[11:16]} UTC"


def _seen(before: bytes, row: Row) -> bytes:
    """Return the digest of all records up to *row*, of which *before* is that without it."""
    fields = [row[name] for name in ("idx", "kind", "entry", "local", "local_blind")]
    return hashlib.sha256(before + encode(fields)).digest()


def _act(row: Row) -> ApprovalAct:
    """Return the act of a log entry, which commits to it twice.

    Raises:
        PeerError: it is damaged, or is not what the entry commits to.
    """
    entry, local = parse_entry(row["entry"]), row["local"]
    if local is None or row["local_blind"] is None:
        raise DecodeError("what stands beside the entry is gone")
    if entry.subject != subject_of(local) or entry.local_digest != local_digest(
        local, row["local_blind"]
    ):
        raise DecodeError("what stands beside the entry is not what it commits to")
    if row["kind"] != EntryKind.APPROVAL:
        raise DecodeError("the entry is listed as one of another kind")
    return parse_act(local)
