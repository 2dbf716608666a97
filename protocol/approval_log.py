"""What a log says of approvals: a chain of acts, and the state that follows from them alone.

    act     = [1, n, prev, type, at, who, [field, ...]]
    subject = H("approval-act", act)

- Acts are numbered from 0, and each names the subject of the one before: whoever has the last one
  has all. The log entry commits to an act twice, by its subject and by its local part, the act.
- ``Ledger.take`` verifies each act against all that came before it: who may vote, every signature,
  one vote a person, and that nothing is done twice. What it refuses was never done by a node.
- The first policy is set freely. A later one has the votes of the one before it, or is signed by
  the next identity key, which only the recovery code on paper has.
- After a reset by that code the acts before it do not matter any more: it is the way out when keys
  of operators, or records, are lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, TypeAlias, assert_never

from protocol import limits, suite
from protocol.approval import (
    Action,
    Kind,
    Operator,
    Policy,
    Tally,
    Vote,
    parse_action,
    parse_policy,
    parse_vote,
    tally,
    verify_follows,
    verify_vote,
)
from protocol.bodies import HybridKey, identity_digest
from protocol.canonical import Value, decode, encode
from protocol.errors import (
    DecodeError,
    EquivocationError,
    ExpiredError,
    SignatureError,
    UntrustedKeyError,
    VersionError,
)
from protocol.shape import array, octets, text, uint

VERSION: Final = 1
RESET: Final = "approval-reset"


# --- acts ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class FirstPolicy:
    """A policy where there was none."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class NextPolicy:
    """A policy in the place of another, whose operators approved the action *digest*."""

    policy: Policy
    digest: bytes


@dataclass(frozen=True, slots=True)
class ResetPolicy:
    """A policy that the holder of the recovery code put in force."""

    policy: Policy
    key: HybridKey
    signatures: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody wants to do something that needs approvals."""

    action: Action


@dataclass(frozen=True, slots=True)
class Voted:
    """An operator said yes or no."""

    vote: Vote


@dataclass(frozen=True, slots=True)
class Used:
    """What was approved is done, in the same transaction as this act."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """Something was not done: *digest* says which request it was about, if any (else empty)."""

    digest: bytes
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """The paper code replaced the identity, without votes: *digest* is that of the statement."""

    digest: bytes


What: TypeAlias = (
    FirstPolicy | NextPolicy | ResetPolicy | Asked | Voted | Used | Refused | Recovered
)


@dataclass(frozen=True, slots=True)
class ApprovalAct:
    """One act in the log, at *at* (UTC in ms), by *who*."""

    n: int
    prev: bytes
    at: int
    who: str
    what: What

    @property
    def local(self) -> tuple[object, ...]:
        """What the log entry keeps beside itself."""
        word, fields = _fields(self.what)
        return (VERSION, self.n, self.prev, word, self.at, self.who, fields)

    @property
    def subject(self) -> bytes:
        """The subject of its log entry, by which the next act names it."""
        return subject_of(encode(self.local))


def subject_of(local: bytes) -> bytes:
    """Return the subject of the log entry whose local part is the act *local*."""
    return suite.digest("approval-act", local)


def _fields(what: What) -> tuple[str, list[object]]:
    match what:
        case FirstPolicy(policy):
            return "first-policy", [policy.wire]
        case NextPolicy(policy, digest):
            return "next-policy", [policy.wire, digest]
        case ResetPolicy(policy, key, signatures):
            return "reset-policy", [policy.wire, *key, *signatures]
        case Asked(action):
            return "asked", [action.wire]
        case Voted(vote):
            return "voted", [vote.wire]
        case Used(digest):
            return "used", [digest]
        case Recovered(digest):
            return "recovered", [digest]
        case Refused(digest, code, detail):
            return "refused", [digest or None, code, detail]
        case _:
            assert_never(what)


def parse_act(data: bytes) -> ApprovalAct:
    """Return the act that *data*, the local part of an entry of kind 12, holds.

    Raises:
        PeerError: it, or a part of it, is not canonical, has the wrong shape or is too long.
    """
    fields = array(decode(data, max_bytes=limits.MAX_APPROVAL_ACT), "act", size=7)
    if uint(fields[0], "act.version") != VERSION:
        raise VersionError("the version of an approval act is not known; update Picket")
    return ApprovalAct(
        n=uint(fields[1], "act.n"),
        prev=octets(fields[2], "act.prev", size=32),
        at=uint(fields[4], "act.at"),
        who=text(fields[5], "act.who"),
        what=_what(text(fields[3], "act.type"), fields[6]),
    )


def _what(word: str, value: Value) -> What:
    def fields(size: int) -> list[Value]:
        return array(value, f"act.{word}", size=size)

    match word:
        case "first-policy":
            return FirstPolicy(_policy(fields(1)[0]))
        case "next-policy":
            wire, digest = fields(2)
            return NextPolicy(_policy(wire), octets(digest, "act.digest", size=32))
        case "reset-policy":
            wire, ed25519, mldsa65, first, second = fields(5)
            return ResetPolicy(
                _policy(wire),
                (
                    octets(ed25519, "act.ed25519", size=suite.ED25519_SIZE),
                    octets(mldsa65, "act.mldsa65", size=suite.MLDSA65_SIZE),
                ),
                (
                    octets(first, "act.signature", size=suite.ED25519_SIGNATURE),
                    octets(second, "act.signature", size=suite.MLDSA65_SIGNATURE),
                ),
            )
        case "asked":
            wire = octets(fields(1)[0], "act.action", maximum=limits.MAX_APPROVAL_ACTION)
            return Asked(parse_action(wire))
        case "voted":
            wire = octets(fields(1)[0], "act.vote", maximum=limits.MAX_APPROVAL_VOTE)
            return Voted(parse_vote(wire))
        case "used":
            return Used(octets(fields(1)[0], "act.digest", size=32))
        case "recovered":
            return Recovered(octets(fields(1)[0], "act.digest", size=32))
        case "refused":
            digest, code, detail = fields(3)
            about = b"" if digest is None else octets(digest, "act.digest", size=32)
            return Refused(
                about, text(code, "act.code"), text(detail, "act.detail", maximum=limits.MAX_REASON)
            )
        case _:
            raise DecodeError(f"act.type {word!r} is not known")


def _policy(value: Value) -> Policy:
    return parse_policy(octets(value, "act.policy", maximum=limits.MAX_APPROVAL_POLICY))


# --- the reset by the recovery code ----------------------------------------------------------
def sign_reset(policy: Policy, *, signer: suite.HybridSigner) -> ResetPolicy:
    """Return *policy* as signed by the next identity key, which the recovery code stands for."""
    message = suite.label(RESET) + policy.digest
    return ResetPolicy(policy, signer.public, signer.sign(message))


def verify_reset(reset: ResetPolicy, committed: frozenset[bytes]) -> None:
    """Verify that a key signed *reset* to which the identity in force had committed.

    Raises:
        UntrustedKeyError: it is another key.
        SignatureError: a signature does not verify.
    """
    if identity_digest(reset.key) not in committed:
        raise UntrustedKeyError("the policy was reset with a key that is not the next identity key")
    suite.verify_hybrid(RESET, reset.key, reset.policy.digest, reset.signatures)


# --- the state that follows ------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Request:
    """An action that was asked, the votes about it, and whether it is done."""

    action: Action
    votes: tuple[Vote, ...] = ()
    used: bool = False


@dataclass(frozen=True, slots=True)
class Ledger:
    """All acts of a node up to one, as what they come to."""

    node_id: bytes
    count: int = 0
    head: bytes = suite.ZERO
    policy: Policy | None = None
    requests: Mapping[bytes, Request] = field(default_factory=lambda: MappingProxyType({}))
    set_at: int = 0
    """When the policy in force was set."""
    reset: bool = False
    """Whether the recovery code set it."""

    def take(self, act: ApprovalAct, *, committed: Callable[[], frozenset[bytes]]) -> Ledger:
        """Return the ledger with *act*, once it is verified against what came before.

        Args:
            act: the next one.
            committed: gives the digests of the next identity keys, as of that act.

        Raises:
            PeerError: it is not the next act, or was not allowed.
        """
        if (act.n, act.prev) != (self.count, self.head):
            raise EquivocationError(f"approval act {act.n} does not stand on the one before it")
        return replace(self._after(act, committed), count=act.n + 1, head=act.subject)

    def begin_again(self, act: ApprovalAct, *, committed: Callable[[], frozenset[bytes]]) -> Ledger:
        """Return the ledger that begins with a reset, whatever came before it.

        Raises:
            PeerError: it is no reset, or not signed by the next identity key.
        """
        match act.what:
            case ResetPolicy(policy):
                if policy.node_id != self.node_id:
                    raise UntrustedKeyError("the policy is another node's")
                verify_reset(act.what, committed())
                return Ledger(
                    self.node_id, act.n + 1, act.subject, policy, set_at=act.at, reset=True
                )
            case _:
                raise UntrustedKeyError("this act does not begin anew")

    def _after(self, act: ApprovalAct, committed: Callable[[], frozenset[bytes]]) -> Ledger:
        match act.what:
            case FirstPolicy(policy):
                if self.policy is not None:
                    raise UntrustedKeyError("a policy was set though there was one")
                verify_follows(policy, None, node_id=self.node_id)
                return replace(self, policy=policy, set_at=act.at)
            case NextPolicy(policy, digest):
                request = self._approved(digest, act.at)
                if (request.action.kind, request.action.subject) != (
                    Kind.CHANGE_POLICY, (policy.wire,),
                ):  # fmt: skip
                    raise UntrustedKeyError("another policy was set than was approved")
                verify_follows(policy, self.policy, node_id=self.node_id)
                done = replace(request, used=True)
                return replace(self._with(done), policy=policy, set_at=act.at, reset=False)
            case ResetPolicy(policy):
                verify_reset(act.what, committed())
                verify_follows(policy, self.policy, node_id=self.node_id)
                return replace(self, policy=policy, set_at=act.at, reset=True)
            case Asked(action):
                self._check_asked(action, act.at)
                return self._without_ended(act.at)._with(Request(action))
            case Voted(vote):
                return self._voted(vote, act.at)
            case Used(digest):
                request = self._approved(digest, act.at)
                if request.action.kind is Kind.CHANGE_POLICY:
                    raise UntrustedKeyError("a change of the policy was used, and none was set")
                return self._with(replace(request, used=True))
            case Refused() | Recovered():
                return self
            case _:
                assert_never(act.what)

    def _with(self, request: Request) -> Ledger:
        requests = {**self.requests, request.action.digest: request}
        return replace(self, requests=MappingProxyType(requests))

    def _without_ended(self, at: int) -> Ledger:
        """Return the ledger without requests of which nothing can come any more."""
        kept = {d: each for d, each in self.requests.items() if at < each.action.ends}
        return replace(self, requests=MappingProxyType(kept))

    def _check_asked(self, action: Action, at: int) -> None:
        policy = self._policy()
        if (action.node_id, action.policy) != (self.node_id, policy.digest):
            raise UntrustedKeyError(
                "something was asked under another policy than the one in force"
            )
        if action.digest in self.requests:
            raise EquivocationError("one request was made twice")
        if action.asked_at != at:
            raise ExpiredError("a request is dated otherwise than its act")

    def _voted(self, vote: Vote, at: int) -> Ledger:
        request = self.request(vote.action)
        if request.used:
            raise EquivocationError("it is done already", fix="there is nothing to vote on")
        operator = verify_vote(vote, request.action, self._policy(), now=at)
        if any(each.operator == vote.operator for each in request.votes):
            raise EquivocationError(
                f"{operator.name} has voted already", fix="each operator has one vote"
            )
        return self._with(replace(request, votes=(*request.votes, vote)))

    def _approved(self, digest: bytes, at: int) -> Request:
        """Return a request that may be done at *at*.

        Raises:
            PeerError: it may not.
        """
        request = self.request(digest)
        if request.used:
            raise EquivocationError("what was approved once was done twice")
        if request.action.policy != self._policy().digest:
            raise UntrustedKeyError("it was approved under another policy")
        if not request.action.holds(at):
            raise ExpiredError("it was approved, and the request is over")
        if self.tally(request, now=at).missing:
            raise SignatureError("it was done with too few approvals")
        return request

    def _policy(self) -> Policy:
        if self.policy is None:
            raise UntrustedKeyError("there is no policy")
        return self.policy

    # --- looking -----------------------------------------------------------------------------
    def request(self, digest: bytes) -> Request:
        """Return the request for the action *digest*.

        Raises:
            UntrustedKeyError: there is none.
        """
        found = self.requests.get(digest)
        if found is None:
            raise UntrustedKeyError("that was never asked", fix="see: picket approve list")
        return found

    def open(self, now: int) -> tuple[Request, ...]:
        """Return the requests that can still be approved or done at *now*, the oldest first."""
        policy = self.policy
        return tuple(
            each
            for each in self.requests.values()
            if policy is not None
            and not each.used
            and each.action.policy == policy.digest
            and each.action.holds(now)
            and not self._rejected(each)
        )

    def _rejected(self, request: Request) -> bool:
        """Whether so many said no that it can never be approved."""
        no = sum(not vote.yes for vote in request.votes)
        policy = self._policy()
        return len(policy.operators) - no < policy.required

    def tally(self, request: Request, *, now: int) -> Tally:
        """Return how the operators stand to an open request."""
        return tally(self._policy(), request.votes, now=now)

    def ending(self, *, now: int, within: int) -> Sequence[Operator]:
        """Return the operators whose keys end in less than *within* ms, or have ended."""
        policy = self.policy
        return () if policy is None else [o for o in policy.operators if o.ends - now < within]
