"""Approvals: who may vote on what, and the chain of acts from which all of it follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from protocol import limits, suite
from protocol.approval import (
    Action,
    Kind,
    Operator,
    Policy,
    Subject,
    Vote,
    make_action,
    make_policy,
    make_vote,
    parse_action,
    parse_policy,
    parse_vote,
    tally,
    verify_follows,
    verify_vote,
)
from protocol.approval_log import (
    ApprovalAct,
    Asked,
    FirstPolicy,
    Ledger,
    NextPolicy,
    Refused,
    Used,
    Voted,
    What,
    parse_act,
    sign_reset,
)
from protocol.bodies import identity_digest
from protocol.canonical import decode, encode
from protocol.errors import (
    DecodeError,
    EquivocationError,
    ExpiredError,
    LimitError,
    PeerError,
    SignatureError,
    UntrustedKeyError,
    VersionError,
    WeakKeyError,
)
from tests.factories import DAY, NOW, hybrid, seed

NODE = seed("alder", "id")
PEER = seed("birch", "id")
KEYS = tuple(suite.Ed25519Signer(seed(f"operator {n}", "key")) for n in range(4))
NAMES = ("Ana", "Bo", "Cleo", "Dov")
PAPER = hybrid("alder", "paper")
COMMITTED = frozenset({identity_digest(PAPER.public)})
LOG = "picket.invalid/alder/log"


def operator(n: int, **changes: object) -> Operator:
    return replace(Operator(NAMES[n], KEYS[n].public, NOW + 365 * DAY), **changes)  # type: ignore[arg-type]


def policy(
    required: int = 2, count: int = 3, *, before: Policy | None = None, node_id: bytes = NODE
) -> Policy:
    return make_policy(
        node_id=node_id, before=before, required=required,
        operators=[operator(n) for n in range(count)],
    )  # fmt: skip


POLICY = policy()


def action(
    kind: Kind = Kind.RAISE_TRUST, subject: Subject = (PEER,), *, under: Policy = POLICY,
    now: int = NOW, who: str = "operator", nonce: bytes = bytes(16),
) -> Action:  # fmt: skip
    return make_action(
        kind, subject, policy=under, log=LOG, about="Birch", who=who, now=now, nonce=nonce
    )


def vote(n: int, about: Action | None = None, *, yes: bool = True, at: int = NOW) -> Vote:
    return make_vote(about or action(), signer=KEYS[n], yes=yes, at=at)


def changed(wire: bytes, place: int, value: object) -> bytes:
    fields = decode(wire, max_bytes=limits.MAX_APPROVAL_ACT)
    assert isinstance(fields, list)
    return encode([*fields[:place], value, *fields[place + 1 :]])


# --- policies --------------------------------------------------------------------------------
def test_a_policy_reads_as_it_was_made() -> None:
    assert parse_policy(POLICY.wire) == POLICY
    assert (POLICY.required, [o.name for o in POLICY.operators]) == (2, ["Ana", "Bo", "Cleo"])


@pytest.mark.parametrize("required", [0, 4])
def test_no_fewer_than_one_and_no_more_than_all_can_be_required(required: int) -> None:
    with pytest.raises(DecodeError, match=r"policy\.required"):
        policy(required)


def test_no_person_and_no_key_stands_in_a_policy_twice() -> None:
    for twin, error in (
        (operator(1, name="ANA"), DecodeError),
        (operator(1, public=KEYS[0].public), WeakKeyError),
    ):
        with pytest.raises(error):
            make_policy(node_id=NODE, before=None, required=1, operators=[operator(0), twin])


def test_a_weak_key_is_refused() -> None:
    weak = operator(0, public=(1).to_bytes(32, "little"))
    with pytest.raises(WeakKeyError):
        make_policy(node_id=NODE, before=None, required=1, operators=[weak])


@pytest.mark.parametrize("name", ["", " Ana", "Ana  Silva", "A\u202ena", "x" * 65])
def test_a_name_that_could_mislead_is_refused(name: str) -> None:
    with pytest.raises((DecodeError, LimitError)):
        make_policy(node_id=NODE, before=None, required=1, operators=[operator(0, name=name)])


def test_a_policy_has_a_bounded_number_of_operators() -> None:
    many = [
        Operator(f"Op {n}", suite.Ed25519Signer(seed(f"many {n}", "key")).public, NOW)
        for n in range(limits.MAX_OPERATORS + 1)
    ]
    make_policy(node_id=NODE, before=None, required=1, operators=many[:-1])
    with pytest.raises(LimitError):
        make_policy(node_id=NODE, before=None, required=1, operators=many)


def test_each_policy_stands_on_the_one_before() -> None:
    after = policy(1, before=POLICY)
    verify_follows(POLICY, None, node_id=NODE)
    verify_follows(after, POLICY, node_id=NODE)
    with pytest.raises(EquivocationError):
        verify_follows(after, policy(1), node_id=NODE)
    with pytest.raises(EquivocationError):
        verify_follows(after, None, node_id=NODE)
    with pytest.raises(UntrustedKeyError):
        verify_follows(POLICY, None, node_id=PEER)


# --- actions ---------------------------------------------------------------------------------
SUBJECTS: dict[Kind, Subject] = {
    Kind.RAISE_TRUST: (PEER,),
    Kind.ROTATE_IDENTITY: (seed("next", "key"),),
    Kind.REVOKE_IDENTITY: (),
    Kind.DISCLOSE: (seed("e", "id"), "Court of X", "J. Judge", ""),
    Kind.EXPORT_EVIDENCE: (seed("e", "id"), 1, "", ""),
    Kind.EXPORT_LOG: (0,),
    Kind.CHANGE_POLICY: (policy(1, before=POLICY).wire,),
}


@pytest.mark.parametrize("kind", Kind)
def test_an_action_reads_as_it_was_made(kind: Kind) -> None:
    made = action(kind, SUBJECTS[kind])
    assert parse_action(made.wire) == made
    assert (made.kind, made.subject, made.ends - made.asked_at) == (
        kind, SUBJECTS[kind], limits.APPROVAL_LIFE_MS,
    )  # fmt: skip


@pytest.mark.parametrize("kind", Kind)
def test_an_action_with_the_subject_of_another_is_refused(kind: Kind) -> None:
    for other in SUBJECTS.values():
        if other != SUBJECTS[kind] and not {kind} & {Kind.RAISE_TRUST, Kind.ROTATE_IDENTITY}:
            with pytest.raises(PeerError):
                action(kind, other)
    with pytest.raises(PeerError):
        action(kind, (*SUBJECTS[kind], "more"))


def test_an_action_ends_within_its_life() -> None:
    for ends in (NOW, NOW + limits.APPROVAL_LIFE_MS + 1):
        with pytest.raises(DecodeError, match="ends"):
            parse_action(changed(action().wire, 9, ends))


@pytest.mark.parametrize(
    "place_and_value",
    [(0, 2), (1, b"short"), (2, ""), (3, b""), (4, "raise-all"), (6, "a\nb"), (7, ""), (10, b"1")],
)
def test_a_damaged_action_is_refused(place_and_value: tuple[int, object]) -> None:
    with pytest.raises(PeerError):
        parse_action(changed(action().wire, *place_and_value))


# --- votes -----------------------------------------------------------------------------------
def test_an_operator_votes() -> None:
    assert verify_vote(vote(0), action(), POLICY, now=NOW).name == "Ana"
    assert parse_vote(vote(0).wire) == vote(0)


def test_a_vote_for_another_request_is_refused() -> None:
    for other in (
        action(subject=(NODE,)),
        action(nonce=b"1" * 16),
        action(under=policy(node_id=PEER)),
        action(under=policy(1, before=POLICY)),
        action(who="token:1"),
    ):
        with pytest.raises(UntrustedKeyError, match="something else"):
            verify_vote(vote(0, other), action(), POLICY, now=NOW)


def test_a_vote_under_another_policy_is_refused() -> None:
    after = policy(1, before=POLICY)
    with pytest.raises(UntrustedKeyError, match="another policy"):
        verify_vote(vote(0), action(), after, now=NOW)


def test_a_vote_of_a_stranger_is_refused() -> None:
    with pytest.raises(UntrustedKeyError, match="no operator"):
        verify_vote(vote(3), action(), POLICY, now=NOW)


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (0, 2, VersionError),
        (3, 0, SignatureError),
        (4, NOW + 1, SignatureError),
        (5, bytes(64), SignatureError),
        (2, operator(1).id, SignatureError),
        (3, 2, DecodeError),
    ],
)
def test_a_changed_vote_is_refused(place: int, value: object, error: type[PeerError]) -> None:
    with pytest.raises(error):
        verify_vote(parse_vote(changed(vote(0).wire, place, value)), action(), POLICY, now=NOW)


def test_a_signature_for_another_purpose_is_no_vote() -> None:
    core = encode([1, action().digest, operator(0).id, 1, NOW])
    signature = KEYS[0].sign(suite.label("operator-key") + core)
    forged = parse_vote(encode([1, action().digest, operator(0).id, 1, NOW, signature]))
    with pytest.raises(SignatureError):
        verify_vote(forged, action(), POLICY, now=NOW)


def test_nobody_votes_after_the_request_or_the_key_has_ended() -> None:
    end = action().ends
    verify_vote(vote(0, at=end - 1), action(), POLICY, now=end - 1)
    with pytest.raises(ExpiredError, match="request is over"):
        verify_vote(vote(0, at=NOW), action(), POLICY, now=end)
    short = make_policy(
        node_id=NODE, before=None, required=1, operators=[operator(0, ends=NOW + 5)]
    )
    asked = action(under=short)
    verify_vote(vote(0, asked), asked, short, now=NOW + 4)
    with pytest.raises(ExpiredError, match="key of Ana"):
        verify_vote(vote(0, asked), asked, short, now=NOW + 5)


def test_a_vote_dated_outside_the_request_is_refused() -> None:
    for at in (NOW - limits.CLOCK_AHEAD_MS - 1, NOW + limits.CLOCK_AHEAD_MS + 1):
        with pytest.raises(ExpiredError, match="dated"):
            verify_vote(vote(0, at=at), action(), POLICY, now=NOW)


def test_votes_are_counted_by_person() -> None:
    counts = tally(POLICY, [vote(0), vote(1, yes=False)], now=NOW)
    assert (counts.yes, counts.no, counts.open) == (("Ana",), ("Bo",), ("Cleo",))
    assert (counts.missing, counts.lost) == (1, False)
    assert tally(POLICY, [vote(0, yes=False), vote(1, yes=False)], now=NOW).lost
    assert tally(POLICY, [], now=NOW + 365 * DAY).lost
    with pytest.raises(EquivocationError):
        tally(POLICY, [vote(0), vote(0, yes=False)], now=NOW)


# --- the chain of acts -----------------------------------------------------------------------
class Chain:
    """A ledger, and the acts that led to it."""

    def __init__(self) -> None:
        self.ledger = Ledger(NODE)
        self.acts: list[ApprovalAct] = []

    def add(self, what: What, *, at: int = NOW) -> Chain:
        act = ApprovalAct(self.ledger.count, self.ledger.head, at, "operator", what)
        self.ledger = self.ledger.take(act, committed=lambda: COMMITTED)
        self.acts.append(act)
        return self

    def refuses(self, what: What, error: type[PeerError], match: str, *, at: int = NOW) -> None:
        before = self.ledger
        with pytest.raises(error, match=match):
            self.add(what, at=at)
        assert self.ledger is before


@pytest.fixture
def chain() -> Chain:
    return Chain().add(FirstPolicy(POLICY)).add(Asked(action()))


def test_what_enough_operators_approve_is_done_once(chain: Chain) -> None:
    chain.add(Voted(vote(0)))
    chain.refuses(Used(action().digest), SignatureError, "too few")
    chain.add(Voted(vote(1))).add(Used(action().digest))
    chain.refuses(Used(action().digest), EquivocationError, "twice")
    chain.refuses(Voted(vote(2)), EquivocationError, "done already")
    assert chain.ledger.open(NOW) == ()


def test_a_no_is_no_approval_and_enough_of_them_end_the_request(chain: Chain) -> None:
    chain.add(Voted(vote(0))).add(Voted(vote(1, yes=False)))
    chain.refuses(Used(action().digest), SignatureError, "too few")
    assert len(chain.ledger.open(NOW)) == 1
    chain.add(Voted(vote(2, yes=False)))
    assert chain.ledger.open(NOW) == ()


def test_each_operator_has_one_vote(chain: Chain) -> None:
    chain.add(Voted(vote(0)))
    chain.refuses(Voted(vote(0, at=NOW + 1)), EquivocationError, "voted already")
    chain.refuses(Voted(vote(0, yes=False)), EquivocationError, "voted already")


def test_nothing_is_done_after_its_time(chain: Chain) -> None:
    chain.add(Voted(vote(0))).add(Voted(vote(1)))
    chain.refuses(Used(action().digest), ExpiredError, "over", at=action().ends)


def test_nothing_is_done_that_was_not_asked() -> None:
    alone = Chain().add(FirstPolicy(POLICY))
    alone.refuses(Used(action().digest), UntrustedKeyError, "never asked")
    alone.refuses(Voted(vote(0)), UntrustedKeyError, "never asked")
    alone.refuses(Asked(action(under=policy(1))), UntrustedKeyError, "another policy")
    alone.refuses(Asked(action(now=NOW - 1)), ExpiredError, "dated otherwise")
    Chain().refuses(Asked(action()), UntrustedKeyError, "no policy")


def test_a_policy_is_set_freely_only_once(chain: Chain) -> None:
    chain.refuses(FirstPolicy(policy(1)), UntrustedKeyError, "there was one")
    Chain().refuses(FirstPolicy(policy(node_id=PEER)), UntrustedKeyError, "another node")


def test_a_policy_is_changed_by_its_own_operators(chain: Chain) -> None:
    after = policy(1, before=POLICY)
    asked = action(Kind.CHANGE_POLICY, (after.wire,), nonce=b"2" * 16)
    chain.add(Asked(asked)).add(Voted(vote(0, asked)))
    chain.refuses(NextPolicy(after, asked.digest), SignatureError, "too few")
    chain.add(Voted(vote(1, asked)))
    chain.refuses(Used(asked.digest), UntrustedKeyError, "none was set")
    other = policy(3, before=POLICY)
    chain.refuses(NextPolicy(other, asked.digest), UntrustedKeyError, "another policy")
    chain.add(NextPolicy(after, asked.digest))
    assert chain.ledger.policy == after
    assert chain.ledger.open(NOW) == (), "what was asked before is asked again"
    chain.refuses(Voted(vote(2)), UntrustedKeyError, "another policy")


def test_an_approval_of_something_else_changes_no_policy(chain: Chain) -> None:
    chain.add(Voted(vote(0))).add(Voted(vote(1)))
    after = policy(1, before=POLICY)
    chain.refuses(NextPolicy(after, action().digest), UntrustedKeyError, "another policy")


def test_the_recovery_code_alone_resets_a_policy(chain: Chain) -> None:
    after = policy(1, before=POLICY)
    stranger = sign_reset(after, signer=hybrid("mallory", "paper"))
    chain.refuses(stranger, UntrustedKeyError, "not the next identity key")
    good = sign_reset(after, signer=PAPER)
    swapped = replace(good, policy=policy(2, before=POLICY))
    chain.refuses(swapped, SignatureError, "does not verify")
    chain.add(good)
    assert (chain.ledger.policy, chain.ledger.reset) == (after, True)


def test_a_reset_begins_anew_whatever_came_before(chain: Chain) -> None:
    reset = ApprovalAct(7, b"x" * 32, NOW, "operator", sign_reset(policy(1), signer=PAPER))
    anew = Ledger(NODE).begin_again(reset, committed=lambda: COMMITTED)
    assert (anew.policy, anew.count, anew.head) == (policy(1), 8, reset.subject)
    with pytest.raises(UntrustedKeyError):
        Ledger(NODE).begin_again(reset, committed=frozenset)
    with pytest.raises(UntrustedKeyError):
        Ledger(NODE).begin_again(chain.acts[0], committed=lambda: COMMITTED)


EDITS: dict[str, Callable[[list[ApprovalAct]], list[ApprovalAct]]] = {
    "changed M": lambda acts: [replace(acts[0], what=FirstPolicy(policy(1))), *acts[1:]],
    "replaced key": lambda acts: [
        replace(acts[0], what=FirstPolicy(policy(2, count=2))), *acts[1:],
    ],
    "added vote": lambda acts: [*acts[:3], replace(acts[2], n=3, what=Voted(vote(2))), *acts[3:]],
    "removed vote": lambda acts: [*acts[:2], *acts[3:]],
    "changed vote": lambda acts: [*acts[:2], replace(acts[2], what=Voted(vote(2))), *acts[3:]],
    "changed time": lambda acts: [*acts[:2], replace(acts[2], at=NOW + 1), *acts[3:]],
    "other order": lambda acts: [acts[0], acts[1], acts[3], acts[2], *acts[4:]],
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_chain_of_acts_is_refused(chain: Chain, edit: str) -> None:
    chain.add(Voted(vote(0))).add(Voted(vote(1))).add(Used(action().digest))

    def replay(acts: list[ApprovalAct]) -> None:
        ledger = Ledger(NODE)
        for act in acts:
            ledger = ledger.take(parse_act(encode(act.local)), committed=lambda: COMMITTED)

    replay(chain.acts)
    with pytest.raises(PeerError):
        replay(EDITS[edit](chain.acts))


def test_every_act_reads_as_it_was_made(chain: Chain) -> None:
    chain.add(Voted(vote(0))).add(Voted(vote(1))).add(Used(action().digest))
    chain.add(Refused(b"", "too-few", "nothing")).add(Refused(action().digest, "expired", "x"))
    asked = action(Kind.CHANGE_POLICY, (policy(1, before=POLICY).wire,), nonce=b"3" * 16)
    chain.add(Asked(asked)).add(Voted(vote(0, asked))).add(Voted(vote(1, asked)))
    chain.add(NextPolicy(policy(1, before=POLICY), asked.digest))
    chain.add(sign_reset(policy(2, before=policy(1, before=POLICY)), signer=PAPER))
    for act in chain.acts:
        assert parse_act(encode(act.local)) == act
        for cut in (
            encode(act.local)[:-1],
            encode(act.local) + b"\0",
            changed(encode(act.local), 3, "x"),
        ):
            with pytest.raises(PeerError):
                parse_act(cut)


def test_the_largest_act_is_within_its_bound() -> None:
    names = ["\U0001f333" * (limits.MAX_OPERATOR_NAME - 2) + f"{n:02}" for n in range(16)]
    operators = [
        Operator(name, suite.Ed25519Signer(seed(name, "key")).public, 2**62) for name in names
    ]
    full = make_policy(node_id=NODE, before=POLICY, required=16, operators=operators)
    act = ApprovalAct(9, bytes(32), NOW, "operator", sign_reset(full, signer=PAPER))
    assert parse_act(encode(act.local)) == act
    asked = action(Kind.CHANGE_POLICY, (full.wire,))
    assert parse_act(encode(replace(act, what=Asked(asked)).local)).what == Asked(asked)
    long = (seed("e", "id"), "\U0001f333" * 256, "\U0001f333" * 256, "\U0001f333" * 500)
    assert action(Kind.DISCLOSE, long).subject == long


def test_requests_that_are_over_are_forgotten(chain: Chain) -> None:
    later = action().ends
    chain.add(Asked(action(now=later)), at=later)
    assert list(chain.ledger.requests) == [action(now=later).digest]
