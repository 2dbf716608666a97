"""Approvals by several operators: who may give them, what is asked, and a vote about it.

    policy = [1, node_id, number, prev, required, [[name, ed25519, ends], ...]]
    action = [1, node_id, log, policy digest, kind, [subject...], about, who, asked_at, ends, nonce]
    vote   = [1, action digest, operator id, yes, at, ed25519]

- A policy names the operators of one node and how many of them must say yes. Policies of a node
  are numbered from 0, and each names the digest of the one before.
- An action is what is asked, exactly: a vote for it is for nothing else, at no other node, under no
  other policy, in no other log, and only until it ends.
- A vote is signed with the operator's own key. Each key and each person has one vote, and it cannot
  be taken back.
- ``about`` is for people, such as a peer's name; what an action does, its subject alone says.
- All here is pure: what parses is well-formed but unverified, and ``verify_*`` raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.errors import (
    DecodeError,
    EquivocationError,
    ExpiredError,
    UntrustedKeyError,
    VersionError,
    WeakKeyError,
)
from protocol.shape import array, octets, text, uint

VERSION: Final = 1
NONCE_SIZE: Final = 16
POLICY: Final = "approval-policy"
ACTION: Final = "approval"
VOTE: Final = "approval-vote"
OPERATOR: Final = "operator"
Subject: TypeAlias = tuple[bytes | str | int, ...]


class Kind(StrEnum):
    """What several operators have to agree to."""

    RAISE_TRUST = "raise-trust"
    ROTATE_IDENTITY = "rotate-identity"
    REVOKE_IDENTITY = "revoke-identity"
    DISCLOSE = "disclose"
    EXPORT_EVIDENCE = "export-evidence"
    EXPORT_LOG = "export-log"
    CHANGE_POLICY = "change-policy"


# --- operators and policies ------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Operator:
    """A person who may vote until *ends* (UTC in ms), and the Ed25519 key that shows it."""

    name: str
    public: bytes
    ends: int

    @property
    def id(self) -> bytes:
        """The digest by which votes name the key."""
        return suite.digest(OPERATOR, self.public)


@dataclass(frozen=True, slots=True)
class Policy:
    """Who votes at a node, and how many of them must say yes."""

    wire: bytes
    node_id: bytes
    number: int
    prev: bytes
    required: int
    operators: tuple[Operator, ...]

    @property
    def digest(self) -> bytes:
        """The digest by which actions and the next policy name this one."""
        return suite.digest(POLICY, self.wire)

    def operator(self, operator_id: bytes) -> Operator:
        """Return the operator whose key id it is.

        Raises:
            UntrustedKeyError: the policy names none.
        """
        found = next((each for each in self.operators if each.id == operator_id), None)
        if found is None:
            raise UntrustedKeyError(
                "that key is of no operator of this node", fix="see: picket operators list"
            )
        return found

    def voters(self, now: int) -> tuple[Operator, ...]:
        """Return the operators whose keys have not ended at *now*."""
        return tuple(each for each in self.operators if now < each.ends)


def make_policy(
    *, node_id: bytes, before: Policy | None, required: int, operators: Sequence[Operator]
) -> Policy:
    """Return the policy that follows the one *before*, or the first.

    Raises:
        DecodeError: *required* is out of bounds, or two operators share a name.
        WeakKeyError: a key is weak, or two operators share it.
        LimitError: there are too many operators.
    """
    number, prev = (0, suite.ZERO) if before is None else (before.number + 1, before.digest)
    rows = [[each.name, each.public, each.ends] for each in operators]
    return parse_policy(encode([VERSION, node_id, number, prev, required, rows]))


def parse_policy(wire: bytes) -> Policy:
    """Return the policy that *wire* holds.

    Raises:
        DecodeError: it is not canonical, a field has the wrong shape, fewer than one or more than
            all operators are required, or two share a name.
        WeakKeyError: a key is malformed, weak, or that of two operators.
        LimitError: it is too long, or has too many operators.
        VersionError: it is of a later version.
    """
    fields = array(decode(wire, max_bytes=limits.MAX_APPROVAL_POLICY), "policy", size=6)
    _version(fields[0], "policy")
    rows = array(fields[5], "policy.operators", minimum=1, maximum=limits.MAX_OPERATORS)
    operators = tuple(map(_operator, rows))
    if len({each.name.casefold() for each in operators}) != len(operators):
        raise DecodeError("policy.operators has two of one name")
    if len({each.public for each in operators}) != len(operators):
        raise WeakKeyError("policy.operators has one key twice")
    return Policy(
        wire=wire,
        node_id=octets(fields[1], "policy.node_id", size=32),
        number=uint(fields[2], "policy.number"),
        prev=octets(fields[3], "policy.prev", size=32),
        required=uint(fields[4], "policy.required", minimum=1, maximum=len(operators)),
        operators=operators,
    )


def _operator(value: Value) -> Operator:
    name, public, ends = array(value, "operator", size=3)
    return Operator(
        check_operator_name(text(name, "operator.name", maximum=limits.MAX_OPERATOR_NAME)),
        suite.check_ed25519(octets(public, "operator.key", size=32), "operator.key"),
        uint(ends, "operator.ends"),
    )


def check_operator_name(name: str) -> str:
    """Return *name* if it is one tidy line that can be told apart from others.

    Raises:
        DecodeError: it is not.
    """
    tidy = " ".join(name.split())
    if not 0 < len(name) <= limits.MAX_OPERATOR_NAME or tidy != name or not name.isprintable():
        raise DecodeError(
            f"an operator's name is one line of 1 to {limits.MAX_OPERATOR_NAME} printable "
            "characters, with single spaces"
        )
    return name


def verify_follows(policy: Policy, before: Policy | None, *, node_id: bytes) -> None:
    """Verify that *policy* is of this node, and stands on the one *before*.

    Raises:
        UntrustedKeyError: it is another node's.
        EquivocationError: it stands on another policy.
    """
    if policy.node_id != node_id:
        raise UntrustedKeyError("the policy is another node's")
    expected = (0, suite.ZERO) if before is None else (before.number + 1, before.digest)
    if (policy.number, policy.prev) != expected:
        raise EquivocationError("the policy does not stand on the one before it")


# --- actions ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Action:
    """What is asked of the operators, by *who*, from *asked_at* until *ends* (UTC in ms)."""

    wire: bytes
    node_id: bytes
    log: str
    policy: bytes
    kind: Kind
    subject: Subject
    about: str
    who: str
    asked_at: int
    ends: int

    @property
    def digest(self) -> bytes:
        """What votes are for."""
        return suite.digest(ACTION, self.wire)

    def holds(self, now: int) -> bool:
        """Whether it can be voted on and done at *now*."""
        return self.asked_at <= now + limits.CLOCK_AHEAD_MS and now < self.ends


def make_action(
    kind: Kind,
    subject: Subject,
    *,
    policy: Policy,
    log: str,
    about: str,
    who: str,
    now: int,
    nonce: bytes,
) -> Action:
    """Return the action that asks for *subject* from *now* on; *nonce* is fresh.

    Raises:
        DecodeError: the subject is not one of that kind.
        LimitError: it, or a text in it, is too long.
    """
    ends = now + limits.APPROVAL_LIFE_MS
    return parse_action(
        encode(
            [
                VERSION, policy.node_id, log, policy.digest, kind.value, subject, about, who, now,
                ends, nonce,
            ]
        )
    )  # fmt: skip


def parse_action(wire: bytes) -> Action:
    """Return the action that *wire* holds.

    Raises:
        DecodeError: it is not canonical, a field has the wrong shape, or it does not end in time.
        LimitError: it, or a text in it, is too long.
        VersionError: it is of a later version.
    """
    fields = array(decode(wire, max_bytes=limits.MAX_APPROVAL_ACTION), "action", size=11)
    _version(fields[0], "action")
    word = text(fields[4], "action.kind")
    if word not in list(Kind):
        raise DecodeError("action.kind is not known", fix="update Picket")
    kind = Kind(word)
    asked_at, ends = uint(fields[8], "action.asked_at"), uint(fields[9], "action.ends")
    if not 0 < ends - asked_at <= limits.APPROVAL_LIFE_MS:
        raise DecodeError("action.ends is not within the life of a request")
    octets(fields[10], "action.nonce", size=NONCE_SIZE)
    return Action(
        wire=wire,
        node_id=octets(fields[1], "action.node_id", size=32),
        log=text(fields[2], "action.log"),
        policy=octets(fields[3], "action.policy", size=32),
        kind=kind,
        subject=_subject(kind, fields[5]),
        about=_any_text(fields[6], "action.about", limits.MAX_NAME),
        who=text(fields[7], "action.who"),
        asked_at=asked_at,
        ends=ends,
    )


def _subject(kind: Kind, value: Value) -> Subject:
    items = array(value, "action.subject", maximum=limits.MAX_IDENTITY_KEYS)

    def fields(size: int) -> list[Value]:
        return array(value, "action.subject", size=size)

    match kind:
        case Kind.RAISE_TRUST:
            return _raised(array(value, "action.subject", minimum=1, maximum=4))
        case Kind.ROTATE_IDENTITY:
            array(value, "action.subject", minimum=1, maximum=limits.MAX_IDENTITY_KEYS)
            return tuple(octets(each, "subject.next", size=32) for each in items)
        case Kind.REVOKE_IDENTITY:
            return tuple(uint(each, "subject") for each in fields(0))
        case Kind.DISCLOSE:
            envelope, to, by, reason = fields(4)
            return (
                octets(envelope, "subject.envelope", size=32),
                text(to, "subject.to"),
                text(by, "subject.by"),
                _any_text(reason, "subject.reason", limits.MAX_REASON),
            )
        case Kind.EXPORT_EVIDENCE:
            envelope, content, by, reason = fields(4)
            return (
                octets(envelope, "subject.envelope", size=32),
                uint(content, "subject.content", maximum=1),
                _any_text(by, "subject.by", limits.MAX_NAME),
                _any_text(reason, "subject.reason", limits.MAX_REASON),
            )
        case Kind.EXPORT_LOG:
            return (uint(fields(1)[0], "subject.entries", maximum=1),)
        case Kind.CHANGE_POLICY:
            wire = octets(fields(1)[0], "subject.policy", maximum=limits.MAX_APPROVAL_POLICY)
            parse_policy(wire)
            return (wire,)
        case _:
            assert_never(kind)


def _raised(items: list[Value]) -> Subject:
    """Return whom to trust, how and by whom it was compared, and what recoveries are confirmed.

    What an older version asked names the node alone.
    """
    node_id = octets(items[0], "subject.node_id", size=32)
    match items[1:]:
        case []:
            return (node_id,)
        case [method, by, *recoveries]:
            digests = [octets(each, "subject.recoveries", size=32) for each in recoveries]
            return (node_id, text(method, "subject.method"), text(by, "subject.by"), *digests)
        case _:
            raise DecodeError("action.subject says how it was compared, but not by whom")


def _any_text(value: Value, field: str, maximum: int) -> str:
    return "" if value == "" else text(value, field, maximum=maximum)


# --- votes -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Vote:
    """What one operator says of one action; unverified until ``verify_vote``."""

    wire: bytes
    action: bytes
    operator: bytes
    yes: bool
    at: int
    signature: bytes


def make_vote(action: Action, *, signer: suite.Signer, yes: bool, at: int) -> Vote:
    """Return the signed vote of whoever *signer* belongs to."""
    core = [VERSION, action.digest, suite.digest(OPERATOR, signer.public), int(yes), at]
    signature = signer.sign(suite.label(VOTE) + encode(core))
    return parse_vote(encode([*core, signature]))


def parse_vote(wire: bytes) -> Vote:
    """Return the vote that *wire* holds, well-formed but unverified.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it is too long.
        VersionError: it is of a later version.
    """
    fields = array(decode(wire, max_bytes=limits.MAX_APPROVAL_VOTE), "vote", size=6)
    _version(fields[0], "vote")
    return Vote(
        wire=wire,
        action=octets(fields[1], "vote.action", size=32),
        operator=octets(fields[2], "vote.operator", size=32),
        yes=bool(uint(fields[3], "vote.yes", maximum=1)),
        at=uint(fields[4], "vote.at"),
        signature=octets(fields[5], "vote.signature", size=suite.ED25519_SIGNATURE),
    )


def verify_vote(vote: Vote, action: Action, policy: Policy, *, now: int) -> Operator:
    """Verify that an operator of *policy* signed *vote* for *action*, and may at *now*.

    *now* is when the node takes it: the time in a vote is its signer's word.

    Raises:
        UntrustedKeyError: the vote is for another action, the action for another policy or node, or
            the key is no operator's.
        ExpiredError: the action or the operator's key is over, or the vote is dated outside both.
        SignatureError: it does not verify.
    """
    if vote.action != action.digest:
        raise UntrustedKeyError("the vote is about something else")
    if (action.policy, action.node_id) != (policy.digest, policy.node_id):
        raise UntrustedKeyError(
            "what is asked stands under another policy", fix="let it be asked again"
        )
    operator = policy.operator(vote.operator)
    if not action.holds(now):
        raise ExpiredError("the request is over", fix="let it be asked again")
    if now >= operator.ends:
        raise ExpiredError(
            f"the key of {operator.name} has ended",
            fix="make a new one: picket operators new-key FILE",
        )
    early = vote.at + limits.CLOCK_AHEAD_MS < action.asked_at
    if early or vote.at > now + limits.CLOCK_AHEAD_MS:
        raise ExpiredError("the vote is dated outside the time of the request", fix="set the clock")
    core = encode([VERSION, vote.action, vote.operator, int(vote.yes), vote.at])
    suite.verify(VOTE, operator.public, core, vote.signature)
    return operator


@dataclass(frozen=True, slots=True)
class Tally:
    """How the operators, by name, stand to an action."""

    required: int
    yes: tuple[str, ...]
    no: tuple[str, ...]
    open: tuple[str, ...]

    @property
    def missing(self) -> int:
        """How many more must say yes."""
        return max(0, self.required - len(self.yes))

    @property
    def lost(self) -> bool:
        """Whether too few are left who could say yes."""
        return len(self.yes) + len(self.open) < self.required


def tally(policy: Policy, votes: Sequence[Vote], *, now: int) -> Tally:
    """Count verified *votes* under *policy*; who has not voted counts as open while its key lives.

    Raises:
        EquivocationError: an operator has two votes.
        UntrustedKeyError: one is of no operator of the policy.
    """
    said = {vote.operator: vote.yes for vote in votes}
    if len(said) != len(votes):
        raise EquivocationError("an operator has two votes")
    for operator_id in said:
        policy.operator(operator_id)
    voters = policy.voters(now)
    return Tally(
        policy.required,
        tuple(each.name for each in policy.operators if said.get(each.id) is True),
        tuple(each.name for each in policy.operators if said.get(each.id) is False),
        tuple(each.name for each in voters if each.id not in said),
    )


def _version(value: Value, what: str) -> None:
    if (version := uint(value, f"{what}.version")) != VERSION:
        raise VersionError(f"{what} version {version} is not known; update Picket")
