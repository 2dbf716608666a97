"""What needs several operators: asked once, done once, and every refusal stands in the log."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keys.fingerprint import format_code, safety_number
from keys.identity import recovery_signer
from keys.keystore import load
from keys.operators import OperatorKey, format_line, new_operator
from keys.trust import Level
from node import api, ownkeys
from node.access import OPERATOR, token_actor
from node.approvals import TOO_FEW
from node.calls import Request as HttpRequest
from node.home import Home
from protocol import limits, suite
from protocol.approval import Kind, make_vote, parse_action
from protocol.approval_log import Refused, parse_act, sign_reset, subject_of
from protocol.canonical import decode, encode
from protocol.entry import EntryKind, local_digest, make_entry, parse_entry
from protocol.errors import (
    ApprovalNeededError,
    ApprovalRecordError,
    ConflictError,
    EquivocationError,
    ExpiredError,
    LogCorruptionError,
    NotFoundError,
    PeerError,
    PicketError,
    RequestError,
    SignatureError,
    StoreError,
)
from tests.node.factories import (
    DAY,
    NOW,
    Bytes,
    Station,
    World,
    copied,
    incident_id,
    made_once,
    pass_on,
)
from tests.node.test_cli import PASSPHRASE, REFUSED, UNVERIFIED, USAGE, fine, make, picket, told
from tests.node.test_statements import CHEAP, FOLLOWING, give, offline, recovery

NAMES = ("Ana", "Bo", "Cleo")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[OperatorKey]:
    folder, random = tmp_path_factory.mktemp("operators"), Bytes("operators")
    return [
        new_operator(
            folder / name, name=name, passphrase=PASSPHRASE.encode(), now=NOW - DAY,
            random=random, params=CHEAP,
        )
        for name in NAMES
    ]  # fmt: skip


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch")) as opened:
        yield opened


@pytest.fixture
def alder(world: World, keys: list[OperatorKey]) -> Station:
    """A node where two of three have to approve, and whose peer birch may only be read."""
    station = world["alder"]
    lower(station)
    put(station, keys)
    return station


def lower(station: Station) -> None:
    birch = station.core.trust.find("birch")
    station.core.lower_peer(birch.node_id, Level.OBSERVE, by="test")


def lines(keys: list[OperatorKey]) -> str:
    return "\n".join(map(format_line, keys))


def put(station: Station, keys: list[OperatorKey], required: int = 2) -> dict[str, Any]:
    return station.service().approvals.set_operators(
        required=required, lines=lines(keys), who=OPERATOR
    )


def raise_birch(
    alder: Station, *, by: str = "A. Officer", method: str = "voice", who: str = OPERATOR
) -> str:
    """Do what ``picket peers approve birch`` does; return the level that it has then."""
    core = alder.core
    birch = core.trust.find("birch")
    digits = safety_number(core.node_id, birch.node_id, network=core.trust.own.network)
    row = alder.service().approve_peer(
        birch.name, level="share", safety_digits=digits, method=method, by=by, who=who
    )
    return str(row["level"])


def level(alder: Station) -> str:
    peer = alder.core.trust.find("birch")
    stored = alder.core.store.scalar("SELECT level FROM peers WHERE node_id = ?", peer.node_id)
    assert stored == peer.level.value
    return str(stored)


def waiting(station: Station) -> dict[str, Any]:
    (row,) = station.service().approvals.requests()["items"]
    return dict(row)


def sign(station: Station, key: OperatorKey, *, yes: bool = True, at: int | None = None) -> None:
    """Vote as ``picket approve sign`` does, on the only request that waits."""
    action = parse_action(bytes.fromhex(waiting(station)["action"]))
    at = station.clock.now() if at is None else at
    vote = make_vote(action, signer=key.signer, yes=yes, at=at)
    station.service().approvals.vote(action.digest.hex(), vote.wire.hex(), who=OPERATOR)


def approve(station: Station, *keys: OperatorKey) -> None:
    for key in keys:
        sign(station, key)


def types(station: Station) -> list[str]:
    """The types of all approval acts in the log, in order; of refusals their code."""
    found = []
    for row in station.core.store.rows("SELECT local FROM entries WHERE kind = 12 ORDER BY idx"):
        act = parse_act(row["local"])
        refused = isinstance(act.what, Refused)
        found.append(act.what.code if isinstance(act.what, Refused) and refused else
                     type(act.what).__name__)  # fmt: skip
    return found


# --- without a policy ------------------------------------------------------------------------
def test_without_a_policy_one_operator_does_everything(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    lower(alder)
    assert raise_birch(alder) == "share"
    alder.release(1, birch)
    alder.service().log_export_begin(entries=True, by=OPERATOR)
    assert EntryKind.APPROVAL not in alder.kinds()
    assert alder.service().approvals.operators()["operators"] == []


# --- asking, approving, doing ----------------------------------------------------------------
def test_a_single_operator_is_refused_and_the_log_says_so(alder: Station) -> None:
    needs = (
        r"birch.*needs 2 more approvals \(0 of 2 so far\); "
        r"the request ends on \d+ [A-Z][a-z]{2} 2026 \d\d:\d\d UTC$"
    )
    with pytest.raises(ApprovalNeededError, match=needs) as caught:
        raise_birch(alder)
    called = waiting(alder)["digest"][:16]
    assert f"picket approve sign {called} --key FILE" in caught.value.fix
    assert level(alder) == "observe"
    assert types(alder) == ["FirstPolicy", "Asked"]
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    assert waiting(alder)["digest"][:16] == called, "asking again asks for the same"
    assert types(alder) == ["FirstPolicy", "Asked", TOO_FEW]


def test_two_of_three_approve_and_it_is_done_once(alder: Station, keys: list[OperatorKey]) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    sign(alder, keys[0])
    with pytest.raises(ApprovalNeededError, match=r"needs 1 more approval \(1 of 2"):
        raise_birch(alder)
    sign(alder, keys[2])
    assert waiting(alder)["missing"] == 0
    assert raise_birch(alder) == level(alder) == "share"
    assert types(alder) == ["FirstPolicy", "Asked", "Voted", TOO_FEW, "Voted", "Used"]
    lower(alder)
    with pytest.raises(ApprovalNeededError, match="0 of 2"):
        raise_birch(alder)
    alder.core.verify()


def test_an_approval_is_for_nothing_and_nobody_else(
    alder: Station, keys: list[OperatorKey]
) -> None:
    book = alder.core.approvals
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    approve(alder, keys[0], keys[1])
    for kind, subject, who in (
        (Kind.RAISE_TRUST, (alder.id,), OPERATOR),
        (Kind.EXPORT_LOG, (0,), OPERATOR),
        (Kind.RAISE_TRUST, waiting_subject(alder), token_actor("1")),
    ):
        with pytest.raises(ApprovalNeededError):
            book.require(kind, subject, who=who)
    assert raise_birch(alder) == "share"


def waiting_subject(alder: Station) -> tuple[bytes | str, ...]:
    return (alder.core.trust.find("birch").node_id, "voice", "A. Officer")


def test_an_approval_covers_how_and_by_whom_it_was_compared(
    alder: Station, keys: list[OperatorKey]
) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    row = waiting(alder)
    assert row["what"] == "raise the trust of birch to share, as A. Officer compared it (voice)"
    assert {"label": "compared by", "text": "A. Officer"} in row["details"]
    approve(alder, keys[0], keys[1])
    for changed in ({"by": "Other"}, {"method": "in-person"}):
        with pytest.raises(ApprovalNeededError, match="0 of 2"):
            raise_birch(alder, **changed)
        assert level(alder) == "observe"
    assert raise_birch(alder) == "share"


def test_confirming_a_recovery_back_to_share_needs_approvals(
    world: World, keys: list[OperatorKey]
) -> None:
    alder, birch = world["alder"], world["birch"]
    put(alder, keys)
    alder.core.statements.hold_ms = 0
    first = recovery(birch)
    give(alder, *first)
    with pytest.raises(ApprovalNeededError, match=r"confirm the recovery of birch.*0 of 2"):
        confirm_birch(alder)
    assert level(alder) == "held"
    assert alder.core.statements.pending()[0].confirmed_by is None
    approve(alder, keys[0], keys[1])
    with pytest.raises(ApprovalNeededError):
        confirm_birch(alder, by="Other")
    assert level(alder) == "held"
    assert confirm_birch(alder) is True
    assert level(alder) == "share"
    assert types(alder)[-1] == "Used"
    alder.core.verify()


def test_confirming_a_recovery_to_less_than_share_needs_none(alder: Station, world: World) -> None:
    alder.core.statements.hold_ms = 0
    give(alder, *recovery(world["birch"]))
    assert confirm_birch(alder) is True
    assert level(alder) == "observe"


def test_a_recovery_by_paper_needs_no_votes_and_stands_among_the_approvals(
    alder: Station, keys: list[OperatorKey]
) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    ownkeys.recover(
        alder.core, code=offline(alder).recovery, following=FOLLOWING, sheet="sheet\n",
        passphrase=b"another passphrase", old=alder.secrets, params=CHEAP,
    )  # fmt: skip
    alder.close()
    alder.secrets = load(alder.home.keystore, b"another passphrase")
    alder.open()
    acts = [row["act"] for row in alder.service().approvals.history(1)["items"]]
    assert acts == ["identity RECOVERED by the paper code, without approvals"]
    assert types(alder) == ["FirstPolicy", "Asked", "Recovered"]
    alder.core.approvals.verify()
    alder.core.verify()
    with pytest.raises(ApprovalNeededError, match="0 of 2"):
        raise_birch(alder)
    approve(alder, keys[0], keys[1])
    assert raise_birch(alder) == "share", "the policy stands, and the records go on"


def confirm_birch(alder: Station, *, by: str = "A. Officer") -> bool:
    core = alder.core
    birch = core.trust.find("birch")
    digits = safety_number(core.node_id, birch.node_id, network=core.trust.own.network)
    done = alder.service().keys.confirm(birch, digits=digits, method="voice", by=by)
    return bool(done["counts"])


def test_an_approval_ends_after_a_week(alder: Station, keys: list[OperatorKey]) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    approve(alder, keys[0], keys[1])
    alder.clock.advance(limits.APPROVAL_LIFE_MS)
    with pytest.raises(ApprovalNeededError, match="0 of 2"):
        raise_birch(alder)
    assert level(alder) == "observe"


def test_a_restart_forgets_nothing(alder: Station, keys: list[OperatorKey]) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    sign(alder, keys[0])
    alder.reopen(locked=True)
    sign(alder, keys[1])  # a locked node takes votes too
    alder.reopen()
    assert raise_birch(alder) == "share"
    alder.reopen()
    with pytest.raises(NotFoundError):
        alder.service().approvals.request("0")


def test_the_use_and_the_act_are_one_transaction(
    alder: Station, keys: list[OperatorKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    approve(alder, keys[0], keys[1])
    before = alder.dump()
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(alder.core.statements, "write", broken)  # comes after the use
        raise_birch(alder)
    assert alder.dump()["entries"] == before["entries"]
    assert level(alder) == "observe"
    assert raise_birch(alder) == "share"


def broken(*_: object) -> None:
    raise RuntimeError


def test_two_uses_of_one_permit_are_one_act(alder: Station, keys: list[OperatorKey]) -> None:
    book = alder.core.approvals
    with pytest.raises(ApprovalNeededError):
        book.require(Kind.EXPORT_LOG, (0,), who=OPERATOR)
    approve(alder, keys[0], keys[1])
    permits = [book.require(Kind.EXPORT_LOG, (0,), who=OPERATOR) for _ in range(2)]
    with alder.core.logged():
        permits[0].use()
    with pytest.raises(ConflictError), alder.core.logged():
        permits[1].use()


# --- each of the acts ------------------------------------------------------------------------
def test_rotating_and_revoking_need_approvals(alder: Station, keys: list[OperatorKey]) -> None:
    paper = offline(alder)

    def rotate() -> None:
        ownkeys.rotate_identity(
            alder.core, passphrase=b"correct horse battery", code=paper.recovery, sheet="new\n",
            following=FOLLOWING, params=CHEAP,
        )  # fmt: skip

    def revoke() -> None:
        ownkeys.revoke(alder.core, paper.revocation)

    def state() -> object:
        return alder.core.trust.own.identity.keys[0], alder.core.statements.revoked

    for act in (rotate, revoke):
        before = state()
        with pytest.raises(ApprovalNeededError):
            act()
        assert state() == before
        assert not alder.home.recovery_sheet.exists()
        approve(alder, keys[1], keys[2])
        act()
        assert state() != before
        alder.home.recovery_sheet.unlink(missing_ok=True)
    alder.core.verify()


@pytest.fixture
def reader(world: World, keys: list[OperatorKey]) -> Station:
    """A node that received incident 1, and where two of three have to approve."""
    world["alder"].release(1, world["birch"])
    pass_on(world["alder"], world["birch"])
    world["birch"].core.try_follow()
    put(world["birch"], keys)
    return world["birch"]


def test_disclosing_needs_approvals_for_exactly_that(
    reader: Station, keys: list[OperatorKey]
) -> None:
    def disclose(to: str) -> dict[str, Any]:
        return reader.service().handling.disclose(
            incident_id(1), number=None, to=to, by="J. Judge", reason="", who=OPERATOR
        )

    with pytest.raises(ApprovalNeededError, match=r"of incident PI-XA-2026-000001 to Court of X"):
        disclose("Court of X")
    approve(reader, keys[0], keys[1])
    assert waiting(reader)["details"][0] == {"label": "incident", "text": "PI-XA-2026-000001"}
    with pytest.raises(ApprovalNeededError):
        disclose("Court of Y")
    assert [e["what"] for e in reader.service().handling.accesses(incident_id(1))["items"]] == []
    assert disclose("Court of X")["disclosure"]
    with pytest.raises(ApprovalNeededError):
        disclose("Court of X")


def test_a_token_exports_evidence_only_with_approvals(
    reader: Station, keys: list[OperatorKey]
) -> None:
    service = reader.service()
    tokens = [
        service.create_token(name=name, scopes=["evidence:export"], days=1)["token"]
        for name in ("one", "two")
    ]

    def export(token: str) -> int:
        path = f"/api/v1/incidents/{incident_id(1)}/evidence"
        asked = HttpRequest("POST", path, body=b'{"content": true}', token=token)
        response = api.dispatch(service, asked)
        if response.status == 409:
            assert json.loads(response.body)["code"] == "approval-needed"
        return response.status

    assert export(tokens[0]) == 409
    approve(reader, keys[0], keys[1])
    assert "WITH its text" in waiting(reader)["what"]
    assert export(tokens[1]) == 409, "the approvals are for the token that asked"
    assert export(tokens[0]) == 200
    assert export(tokens[0]) == 409


def test_exporting_the_log_needs_approvals(alder: Station, keys: list[OperatorKey]) -> None:
    with pytest.raises(ApprovalNeededError, match="with its entries"):
        alder.service().log_export_begin(entries=True, by=OPERATOR)
    approve(alder, keys[0], keys[1])
    alder.service().log_export_begin(entries=True, by=OPERATOR)
    with pytest.raises(ApprovalNeededError):
        alder.service().log_export_begin(entries=True, by=OPERATOR)


def test_a_program_cannot_fill_the_log_with_requests(alder: Station) -> None:
    book, who = alder.core.approvals, token_actor("1")

    def ask(number: int, who: str = who) -> None:
        book.require(Kind.RAISE_TRUST, (suite.digest("x", bytes([number])),), who=who)

    for number in range(limits.MAX_APPROVALS_OF_TOKEN):
        with pytest.raises(ApprovalNeededError):
            ask(number)
    with pytest.raises(ConflictError, match="too many"):
        ask(100)
    with pytest.raises(ApprovalNeededError):
        ask(100, OPERATOR)
    size = alder.core.log.size
    for _ in range(3):
        with pytest.raises(ApprovalNeededError):
            ask(0)
    assert alder.core.log.size == size + 1, "the same refusal stands there once in ten minutes"
    alder.clock.advance(limits.APPROVAL_REFUSAL_EVERY_MS)
    with pytest.raises(ApprovalNeededError):
        ask(0)
    assert alder.core.log.size == size + 2


# --- votes -----------------------------------------------------------------------------------
def test_a_bad_vote_is_refused_and_the_log_says_so(alder: Station, keys: list[OperatorKey]) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    sign(alder, keys[0])
    stranger = OperatorKey("Mallory", NOW, suite.Ed25519Signer(bytes(range(32))))
    with pytest.raises(PeerError, match="no operator"):
        sign(alder, stranger)
    with pytest.raises(EquivocationError, match="voted already"):
        sign(alder, keys[0], yes=False)
    with pytest.raises(ExpiredError, match="dated"):
        sign(alder, keys[1], at=NOW - DAY)
    action = parse_action(bytes.fromhex(waiting(alder)["action"]))
    good = make_vote(action, signer=keys[1].signer, yes=False, at=NOW).wire
    forged = good.replace(encode([0, NOW])[1:], encode([1, NOW])[1:])
    assert forged != good
    with pytest.raises(SignatureError):
        alder.service().approvals.vote(action.digest.hex(), forged.hex(), who=OPERATOR)
    codes = ["untrusted-key", "equivocation", "expired", "bad-signature"]
    assert types(alder) == ["FirstPolicy", "Asked", "Voted", *codes]
    assert waiting(alder)["approved_by"] == ["Ana"]
    alder.core.verify()


def test_enough_rejections_end_a_request(alder: Station, keys: list[OperatorKey]) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    first = waiting(alder)["digest"]
    sign(alder, keys[0], yes=False)
    assert waiting(alder)["rejected_by"] == ["Ana"]
    sign(alder, keys[1])
    sign(alder, keys[2], yes=False)
    assert alder.service().approvals.requests()["items"] == []
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    assert waiting(alder)["digest"] != first


# --- the policy ------------------------------------------------------------------------------
def test_the_policy_is_changed_by_its_operators_alone(
    alder: Station, keys: list[OperatorKey]
) -> None:
    with pytest.raises(ApprovalNeededError, match="1 of 1: Ana"):
        put(alder, keys[:1], required=1)
    assert alder.service().approvals.operators()["required"] == 2
    approve(alder, keys[1], keys[2])
    assert put(alder, keys[:1], required=1)["number"] == 1
    with pytest.raises(ConflictError, match="in force already"):
        put(alder, keys[:1], required=1)
    with pytest.raises(ApprovalNeededError, match="1 more approval"):
        raise_birch(alder)
    sign(alder, keys[0])
    assert raise_birch(alder) == "share"
    alder.core.verify()


@pytest.mark.parametrize("required", [0, 4])
def test_a_policy_that_cannot_be_met_is_refused(
    world: World, keys: list[OperatorKey], required: int
) -> None:
    with pytest.raises(RequestError, match="cannot be required"):
        put(world["alder"], keys, required=required)
    world["alder"].clock.advance(366 * DAY)
    with pytest.raises(RequestError, match="Ana has ended"):
        put(world["alder"], keys)


def test_a_lost_quorum_is_told_and_the_recovery_code_is_the_way_out(
    alder: Station, keys: list[OperatorKey], tmp_path: Path
) -> None:
    alder.clock.advance(365 * DAY)
    with pytest.raises(ApprovalNeededError, match="only 0 have keys") as caught:
        raise_birch(alder)
    assert "picket operators reset" in caught.value.fix
    assert types(alder)[-1] == "quorum-lost"
    assert "operators-lost" in alder.notices()
    fresh = [
        new_operator(tmp_path / "new", name="Dov", passphrase=b"correct horse battery",
                     now=alder.clock.now(), random=Bytes("dov"), params=CHEAP)
    ]  # fmt: skip
    desk = alder.service().approvals
    with pytest.raises(RequestError, match="not the recovery code"):
        desk.reset_operators(bytes(32), required=1, lines=lines(fresh), who=OPERATOR)
    assert types(alder)[-1] == "wrong-code"
    code = offline(alder).recovery
    assert desk.reset_operators(code, required=1, lines=lines(fresh), who=OPERATOR)["number"] == 1
    assert "reset with the recovery code" in alder.notices()["operators-reset"]
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    sign(alder, fresh[0])
    assert raise_birch(alder) == "share"
    alder.core.verify()
    alder.clock.advance(30 * DAY)
    assert "operators-reset" not in alder.notices()


def test_the_key_in_force_resets_nothing(alder: Station, keys: list[OperatorKey]) -> None:
    """A code that was used stands for the key on the machine: it is no paper any more."""
    paper = offline(alder)

    def rotate() -> None:
        ownkeys.rotate_identity(
            alder.core, passphrase=b"correct horse battery", code=paper.recovery, sheet="new\n",
            following=FOLLOWING, params=CHEAP,
        )  # fmt: skip

    desk = alder.service().approvals
    desk.reset_operators(paper.recovery, required=1, lines=lines(keys[:1]), who=OPERATOR)
    with pytest.raises(ApprovalNeededError):
        rotate()
    sign(alder, keys[0])
    rotate()
    with pytest.raises(RequestError, match="not the recovery code"):
        desk.reset_operators(paper.recovery, required=1, lines=lines(keys[1:]), who=OPERATOR)
    desk.reset_operators(FOLLOWING, required=1, lines=lines(keys[1:]), who=OPERATOR)
    alder.core.verify()  # both resets hold, each with what was on paper then
    book = alder.core.approvals
    policy = book._policy_of(book.ledger().policy, required=1, lines=lines(keys[:1]))
    forged = sign_reset(policy, signer=recovery_signer(paper.recovery))
    with pytest.raises(PeerError, match="not the next identity key"):
        book._append(forged, OPERATOR)
    book._append(forged, OPERATOR, anew=True)  # as another program would
    with pytest.raises(ApprovalRecordError):
        raise_birch(alder)


def test_a_lost_quorum_of_those_who_can_still_vote_is_told(
    world: World, keys: list[OperatorKey], tmp_path: Path
) -> None:
    alder = world["alder"]
    old = new_operator(tmp_path / "old", name="Dov", passphrase=b"correct horse battery",
                       now=NOW - 364 * DAY, random=Bytes("dov"), params=CHEAP)  # fmt: skip
    put(alder, [keys[0], old])
    assert "Dov ends" in alder.notices()["operator-key-ending"]
    alder.clock.advance(2 * DAY)
    with pytest.raises(ApprovalNeededError, match="only 1 has a key that did not end"):
        alder.service().log_export_begin(entries=True, by=OPERATOR)


# --- edited records --------------------------------------------------------------------------
Rows = list[tuple[int, bytes, bytes, bytes]]


def edit_local(database: sqlite3.Connection, index: int, **change: object) -> None:
    """Change an act, and make the entry commit to it as if it had always been so."""
    local, blind, entry = database.execute(
        "SELECT local, local_blind, entry FROM entries WHERE idx = ?", (index,)
    ).fetchone()
    fields = decode(local, max_bytes=limits.MAX_APPROVAL_ACT)
    assert isinstance(fields, list)
    fields[6] = change["fields"](fields[6]) if "fields" in change else fields[6]  # type: ignore[operator]
    if "place" in change:
        fields[1:3] = change["place"]  # type: ignore[call-overload]
    local = encode(fields)
    if change.get("deep", True):
        entry = make_entry(
            EntryKind.APPROVAL, subject_of(local), local_commitment=local_digest(local, blind),
            blind=parse_entry(entry).blind,
        )  # fmt: skip
    database.execute("UPDATE entries SET local = ?, entry = ? WHERE idx = ?", (local, entry, index))


def fewer(fields: list[bytes]) -> list[bytes]:
    policy = decode(fields[0], max_bytes=limits.MAX_APPROVAL_POLICY)
    assert isinstance(policy, list)
    return [encode([*policy[:4], 1, policy[5]])]


def other_key(fields: list[bytes]) -> list[bytes]:
    policy = decode(fields[0], max_bytes=limits.MAX_APPROVAL_POLICY)
    assert isinstance(policy, list)
    rows = policy[5]
    assert isinstance(rows, list)
    rogue = suite.Ed25519Signer(bytes(range(32))).public
    return [encode([*policy[:5], [[rows[0][0], rogue, rows[0][2]], *rows[1:]]])]  # type: ignore[index]


def hide(database: sqlite3.Connection, index: int) -> None:
    """Let an entry be a heartbeat, in its bytes too."""
    (entry,) = database.execute("SELECT entry FROM entries WHERE idx = ?", (index,)).fetchone()
    database.execute(
        "UPDATE entries SET kind = 9, entry = ? WHERE idx = ?",
        (entry[:2] + b"\x09" + entry[3:], index),
    )


def vote_again(database: sqlite3.Connection, index: int) -> None:
    """Write the first vote over the one that came next."""
    before = database.execute(
        "SELECT kind, entry, local, local_blind FROM entries WHERE idx = ?", (index - 1,)
    ).fetchone()
    database.execute(
        "UPDATE entries SET kind = ?, entry = ?, local = ?, local_blind = ? WHERE idx = ?",
        (*before, index),
    )


def another_kind(database: sqlite3.Connection, index: int) -> None:
    database.execute("UPDATE entries SET kind = 9 WHERE idx = ?", (index,))


EDITS: dict[str, tuple[int, Callable[[sqlite3.Connection, int], object]]] = {
    "changed M": (0, lambda db, i: edit_local(db, i, fields=fewer)),
    "changed M beside the entry": (0, lambda db, i: edit_local(db, i, fields=fewer, deep=False)),
    "replaced key": (0, lambda db, i: edit_local(db, i, fields=other_key)),
    "repeated vote": (3, vote_again),
    "hidden vote": (3, hide),
    "cleared use": (4, hide),
    "cleared use in the list": (4, another_kind),
    "removed act": (
        1,
        lambda db, i: db.execute("UPDATE entries SET local = NULL WHERE idx = ?", (i,)),
    ),
    "changed refusal": (5, lambda db, i: edit_local(db, i, fields=lambda f: [f[0], "x", f[2]])),
}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_record_is_refused_and_the_log_says_so(
    alder: Station, keys: list[OperatorKey], edit: str, restarted: bool
) -> None:
    with pytest.raises(ApprovalNeededError):
        alder.service().log_export_begin(entries=True, by=OPERATOR)
    approve(alder, keys[0], keys[1])
    alder.service().log_export_begin(entries=True, by=OPERATOR)
    alder.core.approvals._refuse(b"", "test", "the last one", OPERATOR)
    acts = alder.core.store.rows("SELECT idx FROM entries WHERE kind = 12 ORDER BY idx")
    assert len(acts) == 6
    number, change = EDITS[edit]
    index = acts[number]["idx"]
    with closing(sqlite3.connect(alder.home.node_db)) as database, database:
        change(database, index)
    if restarted:
        alder.reopen()
    with pytest.raises(ApprovalRecordError) as caught:
        raise_birch(alder)
    assert level(alder) == "observe"
    with pytest.raises(ApprovalRecordError):
        alder.service().log_export_begin(entries=True, by=OPERATOR)
    last = alder.core.store.row("SELECT local FROM entries ORDER BY idx DESC LIMIT 1")
    assert last is not None
    said = parse_act(last["local"]).what
    assert isinstance(said, Refused)
    assert said.code == caught.value.code == "approval-record"
    assert re.search(r"entry \d+|tile|entries", said.detail)
    with pytest.raises(LogCorruptionError):
        alder.core.verify()
    if edit == "changed M" and restarted:
        assert "log entry" in alder.notices()["approvals-changed"]


def test_a_use_that_is_hidden_at_the_end_of_the_log_is_not_forgotten(
    alder: Station, keys: list[OperatorKey]
) -> None:
    with pytest.raises(ApprovalNeededError):
        alder.service().log_export_begin(entries=True, by=OPERATOR)
    approve(alder, keys[0], keys[1])
    alder.service().log_export_begin(entries=True, by=OPERATOR)
    last = alder.core.store.scalar("SELECT max(idx) FROM entries WHERE kind = 12")
    with closing(sqlite3.connect(alder.home.node_db)) as database, database:
        hide(database, last)
    with pytest.raises(ApprovalRecordError, match="the log does not verify"):
        alder.service().log_export_begin(entries=True, by=OPERATOR)
    alder.reopen()
    with pytest.raises(ApprovalRecordError, match="the log does not verify"):
        alder.service().log_export_begin(entries=True, by=OPERATOR)


def test_the_verification_names_the_edited_record(alder: Station, keys: list[OperatorKey]) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    sign(alder, keys[0])
    rows = alder.core.store.rows("SELECT idx FROM entries WHERE kind = 12 ORDER BY idx")
    with closing(sqlite3.connect(alder.home.node_db)) as database, database:
        edit_local(database, rows[1]["idx"], place=[7, bytes(32)])
    with pytest.raises(LogCorruptionError, match=rf"approval record of log entry {rows[1]['idx']}"):
        alder.core.approvals.verify()
    with closing(sqlite3.connect(alder.home.node_db)) as database, database:
        edit_local(database, rows[1]["idx"], place=[8, bytes(32)], deep=False)
    with pytest.raises(LogCorruptionError, match=rf"entry {rows[1]['idx']}"):
        alder.core.verify()


def test_an_added_entry_is_refused(alder: Station, keys: list[OperatorKey]) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    sign(alder, keys[0])
    with closing(sqlite3.connect(alder.home.node_db)) as database, database:
        database.execute(
            "INSERT INTO entries SELECT idx + 1, kind, entry, local, local_blind FROM entries "
            "ORDER BY idx DESC LIMIT 1"
        )
    with pytest.raises(LogCorruptionError, match="there are more"):
        raise_birch(alder)
    alder.close()
    with pytest.raises(StoreError):
        alder.open()


def test_after_a_reset_what_was_edited_before_does_not_matter(
    alder: Station, keys: list[OperatorKey]
) -> None:
    first = alder.core.store.scalar("SELECT min(idx) FROM entries WHERE kind = 12")
    with closing(sqlite3.connect(alder.home.node_db)) as database, database:
        edit_local(database, first, fields=fewer, deep=False)
    for _ in range(300):  # so that the next act stands in another tile
        alder.core.heartbeat()
    with pytest.raises(ApprovalRecordError, match="approval record was changed"):
        raise_birch(alder)
    desk = alder.service().approvals
    desk.reset_operators(offline(alder).recovery, required=1, lines=lines(keys), who=OPERATOR)
    with pytest.raises(ApprovalNeededError, match="1 more"):
        raise_birch(alder)
    sign(alder, keys[2])
    assert raise_birch(alder) == "share"
    with pytest.raises(LogCorruptionError):
        alder.core.verify()


def test_what_was_approved_before_a_new_log_was_begun_is_asked_again(
    alder: Station, keys: list[OperatorKey]
) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    approve(alder, keys[0], keys[1])
    alder.core.reopen_log()
    with pytest.raises(ApprovalNeededError, match="0 of 2"):
        raise_birch(alder)


# --- showing ---------------------------------------------------------------------------------
def test_the_status_says_what_waits(alder: Station, keys: list[OperatorKey]) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    sign(alder, keys[0])
    notice = alder.notices()["approval-pending"]
    assert notice.startswith("1 of 2 approvals to raise the trust of birch to share, as A. Officer")


def test_the_history_tells_it_in_words(alder: Station, keys: list[OperatorKey]) -> None:
    with pytest.raises(ApprovalNeededError):
        raise_birch(alder)
    approve(alder, keys[0], keys[1])
    raise_birch(alder)
    acts = [row["act"] for row in alder.service().approvals.history(10)["items"]]
    called = acts[0].removeprefix("done ")
    assert acts == [
        f"done {called}", f"Bo approved {called}", f"Ana approved {called}",
        f"asked {called}: raise the trust of birch to share, as A. Officer compared it (voice)",
        "policy set: 2 of 3: Ana, Bo, Cleo",
    ]  # fmt: skip


# --- the command line ------------------------------------------------------------------------
@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a node, three persons' keys, and the passphrases of all of them."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "passphrase").write_text(PASSPHRASE)
    (folder / "passphrase").chmod(0o600)
    make(folder / "alder", "Alder", "test.example", folder / "passphrase")
    made = []
    for name in NAMES:
        key = new_operator(
            folder / name, name=name, passphrase=PASSPHRASE.encode(),
            now=now_of(folder), random=Bytes(f"cli {name}"), params=CHEAP,
        )  # fmt: skip
        made.append(format_line(key))
    (folder / "lines").write_text("# ours\n" + "\n".join(made))
    return folder


def now_of(folder: Path) -> int:
    with closing(sqlite3.connect(Home(folder / "alder").node_db)) as database:
        (made,) = database.execute("SELECT max(at) FROM checkpoints").fetchone()
    return int(made)


@pytest.fixture
def home(desk: Path, tmp_path: Path) -> Path:
    return shutil.copytree(desk / "alder", tmp_path / "n")


def test_new_key_needs_no_node_and_prints_the_line(tmp_path: Path) -> None:
    (tmp_path / "p").write_text(PASSPHRASE)
    done = picket(tmp_path / "none", "operators", "new-key", str(tmp_path / "k"), "--name",
                  "Ana Silva", "--passphrase-file", str(tmp_path / "p"))  # fmt: skip
    assert fine(done).startswith("picket-operator 1 Ana Silva ")
    again = picket(tmp_path / "none", "operators", "new-key", str(tmp_path / "k"), "--name",
                   "Ana", "--passphrase-file", str(tmp_path / "p"))  # fmt: skip
    assert "exists" in again.stderr
    assert again.returncode


def test_two_persons_approve_at_the_command_line(home: Path, desk: Path, tmp_path: Path) -> None:
    fine(picket(home, "operators", "set", str(desk / "lines"), "--required", "2"))
    assert "2 of 3" in fine(picket(home, "operators", "list"))
    out = str(tmp_path / "log")
    line = told(picket(home, "log", "export", out), REFUSED)
    found = re.search(r"picket approve sign ([0-9a-f]{16}) --key FILE", line)
    assert found
    called = found[1]
    listed = fine(picket(home, "approve", "list"))
    assert f"{called}  0 of 2" in listed
    assert "export the log's hashes" in fine(picket(home, "approve", "show", called))
    secret = ("--passphrase-file", str(desk / "passphrase"))
    alone = picket(home, "approve", "sign", called, "--key", str(desk / "Ana"), *secret)
    assert alone.returncode == USAGE
    assert "give --yes" in alone.stderr
    for name in ("Ana", "Bo"):
        done = picket(home, "approve", "sign", called, "--key", str(desk / name), "--yes", *secret)
        assert f"{name} has approved it" in fine(done)
        assert "You approve: export the log's hashes" in done.stderr
    again = picket(home, "approve", "reject", called, "--key", str(desk / "Bo"), "--yes", *secret)
    assert again.returncode == UNVERIFIED
    assert "Bo has voted already" in again.stderr
    fine(picket(home, "log", "export", out))
    told(picket(home, "log", "export", out), REFUSED)
    fine(picket(home, "log", "verify"))
    history = json.loads(fine(picket(home, "approve", "history", "--json")))["items"]
    assert any("REFUSED" in row["act"] and "Bo has voted" in row["act"] for row in history)


def test_the_recovery_code_resets_at_the_command_line(
    home: Path, desk: Path, tmp_path: Path
) -> None:
    fine(picket(home, "operators", "set", str(desk / "lines"), "--required", "3"))
    sheet = Home(home).recovery_sheet.read_text()
    codes = re.findall(r"^    ([A-Z2-7]{7}(?:-[A-Z2-7]{7}){7})$", sheet, re.MULTILINE)
    (tmp_path / "right").write_text(codes[0])
    (tmp_path / "wrong").write_text(format_code(bytes(32)))
    command = ("operators", "reset", str(desk / "lines"), "--required", "1", "--yes")
    wrong = picket(home, *command, "--code-file", str(tmp_path / "wrong"))
    assert "not the recovery code" in told(wrong, USAGE)
    fine(picket(home, *command, "--code-file", str(tmp_path / "right")))
    assert "reset with the recovery code" in fine(picket(home, "status"))
    assert "with the recovery code" in fine(picket(home, "operators", "list"))


def test_no_secret_is_taken_from_the_command_line() -> None:
    for verb in (("approve", "sign"), ("approve", "reject"), ("operators", "new-key"),
                 ("operators", "reset")):  # fmt: skip
        shown = fine(picket(Path("none"), *verb, "--help"))
        assert not re.search(r"--(code|passphrase)\b(?!-file)", shown)


def test_what_is_refused_is_a_refusal_of_the_local_agency() -> None:
    for kind in (ApprovalNeededError, ApprovalRecordError):
        assert issubclass(kind, ConflictError)
        assert issubclass(kind, PicketError)
