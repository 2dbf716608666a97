"""Key statements between nodes: recoveries are held, revocations are final, lost ones come back."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from keys.fingerprint import parse_code, safety_number
from keys.identity import Offline, load_vault, recovery_signer, rotation_of
from keys.keystore import Argon2Params, load, load_sealing
from keys.trust import Level, Verification
from node import keyfiles, ownkeys
from node.home import Home
from node.logview import LogView
from node.pairing import PairingDesk
from node.store import Store
from protocol import limits
from protocol.chain import KeyHistory
from protocol.errors import (
    BusyError,
    ConflictError,
    PeerError,
    RequestError,
    TrustConflictError,
    UnknownRecipientError,
)
from protocol.statement import Chain, Statement, make_card, make_recover, make_revocation
from protocol.suspension import Directory, make_suspension
from tests.factories import hybrid
from tests.node.factories import (
    DAY,
    MINUTE,
    PASSPHRASE,
    Station,
    World,
    copied,
    made_once,
)
from tests.node.wiring import Web

HOUR = 3_600_000
FOLLOWING = bytes(range(32))
CALLED = Verification("voice", "A. Officer", 1)


CHEAP = Argon2Params(memory_kib=19 * 1024, iterations=1)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def offline(station: Station) -> Offline:
    """Return the codes on the recovery sheet, as the paper in the safe has them."""
    sheet = station.home.path.with_name(f"{station.name}.sheet")
    text = sheet.read_text()
    codes = re.findall(r"^    ([A-Z2-7]{7}(?:-[A-Z2-7]{7}){7})$", text, re.MULTILINE)
    return Offline(*map(parse_code, codes))


def recovery(station: Station, chain: Chain | None = None) -> tuple[Statement, Statement]:
    """Return a recovery of *station* on top of *chain*, and the card after it."""
    chain = chain or station.core.trust.own
    code = offline(station).recovery
    signer = recovery_signer(code)
    now = station.clock.now()
    body = rotation_of(code, following=FOLLOWING)
    recovered = make_recover(body, chain=chain, issued=now, signers=[signer])
    after = chain.extend(recovered)
    card = replace(station.core.card, message=hybrid("fresh", "message").public[0])
    return recovered, make_card(card, chain=after, issued=now, signer=signer)


def give(taker: Station, *statements: Statement) -> int:
    return taker.core.take_statements(statements[0].node_id, [s.wire for s in statements])


def revoked(station: Station) -> Statement:
    own = station.core.trust.own
    return make_revocation(
        network=own.network, node_id=own.node_id, code=offline(station).revocation
    )


def level(here: Station, there: Station) -> Level:
    return here.core.trust.peer(there.id).level


def consistent(station: Station) -> None:
    """Check the log of *station* against its tables, before and after a restart."""
    station.core.verify()
    before = station.core.trust.peers
    station.reopen()
    assert station.core.trust.peers == before
    station.core.verify()


# --- recovery --------------------------------------------------------------------------------
def test_a_recovery_is_held_at_once_and_counts_after_72_h_and_a_confirmation(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    old = birch.core.card
    assert give(alder, *recovery(birch)) == 2
    assert level(alder, birch) is Level.HELD
    consistent(alder)
    trust = alder.core.trust
    assert not trust.accepts_link(birch.id) and not trust.accepts_author(birch.id)
    with pytest.raises(UnknownRecipientError, match="held"):
        alder.release(1, birch)
    assert alder.core.statements.confirm(birch.id, CALLED) is False
    assert level(alder, birch) is Level.HELD
    world.clock.advance(72 * HOUR - 1)
    assert alder.core.statements.mature() == []
    world.clock.advance(1)
    assert alder.core.statements.mature() == [birch.id]
    assert level(alder, birch) is Level.SHARE, "the level that operators gave it is back"
    assert alder.core.trust.peer(birch.id).card.message != old.message
    consistent(alder)


def test_72_h_alone_confirm_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    give(alder, *recovery(birch))
    world.clock.advance(100 * DAY)
    assert alder.core.statements.mature() == []
    assert level(alder, birch) is Level.HELD
    assert alder.core.statements.confirm(birch.id, CALLED) is True
    assert level(alder, birch) is Level.SHARE


def test_a_recovery_without_a_card_cannot_count(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    recovered, card = recovery(birch)
    give(alder, recovered)
    consistent(alder)
    world.clock.advance(4 * DAY)
    assert alder.core.statements.confirm(birch.id, CALLED) is False
    give(alder, card)
    assert alder.core.statements.mature() == [birch.id]
    consistent(alder)


def test_only_a_recovery_can_be_confirmed(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    with pytest.raises(TrustConflictError, match="no recovery"):
        alder.core.statements.confirm(birch.id, CALLED)


def test_the_operator_confirms_with_the_safety_number(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    give(alder, *recovery(birch))
    world.clock.advance(4 * DAY)
    desk, peer = alder.service().keys, alder.core.trust.peer(birch.id)
    number = safety_number(alder.id, birch.id, network=alder.core.trust.own.network)
    wrong = number.replace(number[0], str((int(number[0]) + 1) % 10), 1)
    for digits, method, by, error in (
        (wrong, "voice", "me", TrustConflictError),
        (number, "fax", "me", TrustConflictError),
        (number, "voice", " ", RequestError),
        ("12", "voice", "me", RequestError),
    ):
        with pytest.raises(error):
            desk.confirm(peer, digits=digits, method=method, by=by)
        assert level(alder, birch) is Level.HELD
    assert "recovery" in alder.notices()
    done = desk.confirm(peer, digits=number, method="voice", by="me")
    assert done["counts"] is True and level(alder, birch) is Level.SHARE
    assert "recovery" not in alder.notices()


def test_a_held_peer_cannot_be_approved_around_the_hold(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    give(alder, *recovery(birch))
    with pytest.raises(TrustConflictError, match="held"):
        alder.core.approve_peer(birch.id, Level.SHARE, CALLED)


@pytest.mark.parametrize("revoke", [False, True])
def test_nobody_is_asked_for_digits_to_send_a_held_or_revoked_peer_nothing(
    world: World, revoke: bool
) -> None:
    alder, birch = world["alder"], world["birch"]
    give(alder, *([revoked(birch)] if revoke else recovery(birch)))
    with pytest.raises(TrustConflictError, match="nothing is sent to it already"):
        alder.service().approve_peer(
            "birch", level="observe", safety_digits=None, method=None, by=""
        )


def test_who_has_recovered_asks_peers_to_confirm_and_who_is_revoked_asks_for_nothing(
    world: World,
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]

    def told(code: str) -> list[str]:
        pairing = PairingDesk(
            alder.core, clock=alder.clock, name=lambda node_id: alder.core.trust.peer(node_id).name,
            peer_row=lambda peer: {}, asked={birch.id: 1, cedar.id: 1}, linked=frozenset,
        )  # fmt: skip
        return [f"{text}; {fix}" for found, text, fix in pairing.notices() if found == code]

    alder.core.contact(birch.id)
    world.clock.advance(MINUTE)
    own = KeyHistory(alder.core.trust.own).take(recovery(alder))
    alder.core.statements.own, alder.core.trust = own, replace(alder.core.trust, own=own.chain)
    world.clock.advance(MINUTE)
    alder.core.contact(cedar.id)
    by_name = {line.split()[0]: line for line in told("not-approved")}
    assert "birch has not confirmed yet that this node recovered" in by_name["birch"]
    assert "picket peers confirm" in by_name["birch"]
    assert "picket peers number cedar" in by_name["cedar"], "it was linked since"
    alder.core.statements.own = own.take([revoked(alder)])
    assert told("not-approved") == []


def test_a_new_log_after_a_recovery_is_told_as_that(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    row = {"node_id": birch.id, "origin": birch.core.card.log.name, "size": 3}

    class Rows:
        def rows(self, _: str) -> list[dict[str, object]]:
            return [row]

    def told() -> list[tuple[str, str, str]]:
        core = SimpleNamespace(store=Rows(), trust=alder.core.trust)
        view = LogView(core, clock=alder.clock, name=str, read=None)  # type: ignore[arg-type]
        return list(view._reopened())

    assert told() == []
    recovered, card = recovery(birch)
    body = replace(birch.core.card, log=replace(birch.core.card.log, name="birch.example/log2"))
    chain = birch.core.trust.own
    signer = recovery_signer(offline(birch).recovery)
    after = make_card(body, chain=chain.extend(recovered), issued=card.issued, signer=signer)
    give(alder, recovered, after)
    ((_, message, fix),) = told()
    assert "It recovered its identity" in message
    assert fix.endswith("picket log audit birch")
    row["origin"] = "birch.example/log7"
    ((_, message, fix),) = told()
    assert "recovered" not in message
    assert fix.startswith("call birch and ask why")


def test_old_messages_verify_and_no_back_dated_one_is_taken_after_a_recovery(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    taken = birch.release(1, alder)
    alder.core.take([birch.envelope(taken).wire], giver=birch.id)
    late = birch.release(2, alder)
    statements = recovery(birch)
    give(alder, *statements)
    alder.core.statements.confirm(birch.id, CALLED)
    world.clock.advance(4 * DAY)
    alder.core.statements.mature()
    assert level(alder, birch) is Level.SHARE
    done = alder.core.take([birch.envelope(late).wire], giver=birch.id)
    assert [refusal.code for refusal in done.refusals] == ["superseded-card"]
    assert not done.faults, "who passes it on is not to blame"
    assert alder.core.held(taken) is not None
    consistent(alder)


def test_what_a_thief_signed_before_the_recovery_is_kept_verifies_and_is_told(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    mine = birch.core.trust.own
    world.clock.advance(MINUTE)
    stolen_key = hybrid("mallory", "message")
    card = replace(birch.core.card, message=stolen_key.public[0])
    stolen = make_card(card, chain=mine, issued=birch.clock.now(), signer=birch.vault.identity)
    give(alder, stolen)
    assert level(alder, birch) is Level.SHARE, "nobody can tell yet"
    give(alder, *recovery(birch, mine))
    assert level(alder, birch) is Level.HELD
    assert [c.message for c in alder.core.trust.cards_at(birch.id, 2)] == [stolen_key.public[0]]
    consistent(alder)


def test_what_a_thief_sent_under_a_number_that_the_owner_used_again_is_doubtful(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    fair = birch.release(1, alder)
    alder.core.take([birch.envelope(fair).wire], giver=birch.id)
    mine = birch.core.trust.own
    for contact in ("one", "two"):  # by whoever has the keys
        world.clock.advance(MINUTE)
        birch.renew_card(contact=contact)
    stolen = birch.core.trust.own.statements[-2:]
    give(alder, *stolen)
    key = birch.release(2, alder)
    alder.core.take([birch.envelope(key).wire], giver=birch.id)
    statements = recovery(birch, mine)
    assert [s.n for s in statements] == [s.n for s in stolen]
    give(alder, *statements)
    world.clock.advance(4 * DAY)
    assert alder.core.statements.confirm(birch.id, CALLED) is True
    assert alder.core.statements.doubtful(alder.core.trust.peer(birch.id)) == 1
    assert "doubtful" in alder.notices()
    consistent(alder)


# --- freezing --------------------------------------------------------------------------------
def test_a_recovery_settles_a_contradiction_and_only_people_thaw_it(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    mine = birch.core.trust.own
    for contact in ("one desk", "another desk"):
        card = replace(birch.core.card, contact=contact)
        made = make_card(card, chain=mine, issued=birch.clock.now(), signer=birch.vault.identity)
        try:
            give(alder, made)
        except PeerError:
            assert level(alder, birch) is Level.FROZEN
    assert level(alder, birch) is Level.FROZEN
    assert "frozen" in alder.notices()
    consistent(alder)
    give(alder, *recovery(birch, mine))
    assert level(alder, birch) is Level.HELD
    world.clock.advance(4 * DAY)
    alder.core.statements.confirm(birch.id, CALLED)
    assert level(alder, birch) is Level.SHARE
    consistent(alder)


# --- revocation ------------------------------------------------------------------------------
def test_a_revoked_peer_is_over_for_good(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    statements = recovery(birch)
    assert give(alder, revoked(birch)) == 1
    assert level(alder, birch) is Level.REVOKED
    assert "revoked" in alder.notices()
    give(alder, *statements)
    assert level(alder, birch) is Level.REVOKED
    with pytest.raises(TrustConflictError, match="revoked"):
        alder.core.approve_peer(birch.id, Level.SHARE, CALLED)
    world.clock.advance(100 * DAY)
    alder.core.statements.mature()
    assert level(alder, birch) is Level.REVOKED
    consistent(alder)


def test_a_revocation_and_evidence_reach_those_who_share_a_stream(world: World) -> None:
    alder, birch, cedar, dogwood = (world[name] for name in ("alder", "birch", "cedar", "dogwood"))
    key = birch.release(1, alder, cedar)
    for taker in (alder, cedar):
        taker.core.take([birch.envelope(key).wire], giver=birch.id)
    web = Web(alder, cedar, dogwood)
    web.link("alder", "cedar", "dogwood")
    give(alder, *recovery(birch))
    web["alder"].gossip.keys.spread(birch.id)
    web.pump()
    assert level(cedar, birch) is Level.HELD
    assert level(dogwood, birch) is Level.SHARE, "it has no stream with birch: nobody tells it"
    give(cedar, revoked(birch))
    web["cedar"].gossip.keys.spread(birch.id)
    web.pump()
    assert level(alder, birch) is Level.REVOKED


def test_evidence_is_told_when_a_link_opens(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = birch.release(1, alder, cedar)
    for taker in (alder, cedar):
        taker.core.take([birch.envelope(key).wire], giver=birch.id)
    give(alder, *recovery(birch))
    web = Web(alder, cedar)
    web.link("alder", "cedar")
    assert level(cedar, birch) is Level.HELD


def test_a_node_that_revokes_itself_tells_its_peers_and_signs_no_more(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    web = Web(alder, birch)
    web.link("alder", "birch")
    with pytest.raises(RequestError):
        ownkeys.revoke(birch.core, bytes(32))
    ownkeys.revoke(birch.core, offline(birch).revocation)
    web["birch"].gossip.tick()
    web.pump()
    assert level(alder, birch) is Level.REVOKED
    assert "own-revoked" in birch.notices()
    birch.core.signing_waits = False
    with pytest.raises(ConflictError, match="revoked"):
        birch.renew_card(contact="new desk")


# --- what is lost comes back -----------------------------------------------------------------
def restored(station: Station, folder: Path) -> Station:
    """Return the node from a copy of its home as it is now."""
    station.close()
    shutil.copytree(station.home.path, folder)
    station.open()
    return Station(Home(folder), station.secrets, station.clock, station.random)


def test_a_restored_node_gets_its_statements_back_before_it_signs_one(
    world: World, tmp_path: Path
) -> None:
    alder, birch = world["alder"], world["birch"]
    old = restored(birch, tmp_path / "old" / "birch")
    world.clock.advance(MINUTE)
    birch.renew_card(contact="new desk")
    give(alder, birch.core.trust.own.head)
    head = birch.core.trust.own.head.digest
    birch.close()
    old.open()
    web = Web(alder, old)
    old.core.signing_waits = True
    with pytest.raises(BusyError):
        old.renew_card(contact="third desk")
    web.link("alder", "birch")
    assert old.core.trust.own.head.digest == head
    assert old.core.card.contact == "new desk"
    consistent(old)
    old.core.signing_waits = False
    old.renew_card(contact="third desk")
    give(alder, old.core.trust.own.head)
    assert level(alder, old) is Level.SHARE
    old.close()


def test_a_card_that_somebody_else_signed_is_never_taken_for_our_own(
    world: World, tmp_path: Path
) -> None:
    birch = world["birch"]
    own = birch.core.trust.own
    card = replace(birch.core.card, link=hybrid("mallory", "link").public)
    stolen = make_card(card, chain=own, issued=birch.clock.now(), signer=birch.vault.identity)
    more = own.extend(stolen)
    again = make_card(card, chain=more, issued=birch.clock.now(), signer=birch.vault.identity)
    for _ in range(2):
        give(birch, stolen, again)
        assert birch.core.trust.own == own
        assert "identity-misused" in birch.notices()
        with pytest.raises(ConflictError, match="somebody else"):
            birch.renew_card(contact="new desk")
        consistent(birch)


# --- suspension ------------------------------------------------------------------------------
def test_a_suspended_peer_receives_nothing_until_it_ends_by_itself(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    signers = [hybrid(f"directory {number}", "key") for number in range(3)]
    alder.core.statements.directory = Directory(tuple(s.public for s in signers), 2)
    now = alder.clock.now()
    wire = make_suspension(
        network=alder.core.trust.own.network, node_id=birch.id, issued=now,
        until=now + limits.MAX_SUSPENSION_MS, reason="test",
        signers=[(s.public, s) for s in signers[:2]],
    )  # fmt: skip
    alder.core.statements.suspend(wire)
    trust = alder.core.trust
    assert level(alder, birch) is Level.SHARE
    assert not trust.gives_to(birch.id)
    assert trust.accepts_link(birch.id) and trust.accepts_author(birch.id)
    with pytest.raises(UnknownRecipientError, match="suspended"):
        alder.release(1, birch)
    assert "suspended" in alder.notices()
    alder.core.verify()
    world.clock.advance(limits.MAX_SUSPENSION_MS)
    alder.core.statements.lapse()
    assert alder.core.trust.gives_to(birch.id)
    alder.release(1, birch)


def test_a_node_without_a_directory_follows_none(world: World) -> None:
    with pytest.raises(TrustConflictError, match="no directory"):
        world["alder"].core.statements.suspend(b"")


# --- our own keys ----------------------------------------------------------------------------
def rotate(station: Station, code: bytes, *, following: bytes = FOLLOWING) -> None:
    ownkeys.rotate_identity(
        station.core,
        passphrase=PASSPHRASE,
        code=code,
        sheet="new sheet\n",
        following=following,
        params=CHEAP,
    )


@pytest.fixture
def paper(world: World) -> Offline:
    """The codes of alder on paper."""
    return offline(world["alder"])


def test_a_rotation_needs_the_recovery_code_in_force(world: World, paper: Offline) -> None:
    alder, birch = world["alder"], world["birch"]
    for wrong in (bytes(32), paper.revocation):
        with pytest.raises(RequestError, match="not the recovery code"):
            rotate(alder, wrong)
    assert not alder.home.recovery_sheet.exists()
    before = alder.core.trust.own.head.n
    rotate(alder, paper.recovery)
    own = alder.core.trust.own
    assert own.identity.keys == (recovery_signer(paper.recovery).public,)
    assert alder.home.recovery_sheet.read_text() == "new sheet\n"
    assert [s.type for s in own.statements[before + 1 :]] == ["rotate", "card"]
    alder.core.verify()
    give(birch, *own.statements)
    assert level(birch, alder) is Level.SHARE, "a rotation needs no confirmation"
    # The same code does not work twice, the next one does.
    alder.home.recovery_sheet.unlink()
    with pytest.raises(RequestError):
        rotate(alder, paper.recovery)
    rotate(alder, FOLLOWING, following=bytes(reversed(FOLLOWING)))
    give(birch, *alder.core.trust.own.statements)
    assert level(birch, alder) is Level.SHARE


def test_a_sheet_that_lies_on_the_machine_is_not_overwritten(world: World) -> None:
    alder = world["alder"]
    alder.home.recovery_sheet.write_text("the first sheet")
    before = alder.home.recovery_sheet.read_bytes()
    with pytest.raises(ConflictError, match="sheet"):
        rotate(alder, offline(alder).recovery)
    assert alder.home.recovery_sheet.read_bytes() == before


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_a_crash_in_a_rotation_loses_nothing(
    moment: str, world: World, paper: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder = world["alder"]
    keystore = alder.home.keystore.read_bytes()

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        if moment == "before the commit":
            patched.setattr(keyfiles, "note", crash)
            patched.setattr(keyfiles, "discard", crash)  # a dead process tidies up nothing
        else:
            patched.setattr(keyfiles, "finish", crash)
        with pytest.raises(Crash):
            rotate(alder, paper.recovery)
    assert alder.home.keystore.read_bytes() == keystore
    assert not alder.home.recovery_sheet.exists(), "one that can be seen has the code in force"
    alder.close()
    store = Store(alder.home.node_db)
    keyfiles.finish(alder.home, store)
    store.close()
    held = load(alder.home.keystore, PASSPHRASE)
    alder.secrets = held
    alder.open()
    assert load_vault(held).identity.public in alder.core.trust.own.identity.keys
    rotated = moment == "after the commit"
    assert (alder.home.keystore.read_bytes() != keystore) is rotated
    assert not [path for path in alder.home.path.iterdir() if path.name.endswith(".next")]
    if rotated:
        assert alder.home.recovery_sheet.read_text() == "new sheet\n"
    else:
        assert not alder.home.recovery_sheet.exists()
        rotate(alder, paper.recovery)
    alder.core.verify()


@pytest.mark.parametrize("committed", [False, True])
def test_a_crash_in_a_recovery_shows_no_sheet_that_is_not_in_force(
    committed: bool, world: World, paper: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder = world["alder"]

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(keyfiles, "finish", crash)  # a dead process tidies up nothing
        if not committed:
            patched.setattr(keyfiles, "note", crash)
        with pytest.raises(Crash):
            ownkeys.recover(
                alder.core, code=paper.recovery, following=FOLLOWING, sheet="new sheet\n",
                passphrase=b"another passphrase", old=alder.secrets, params=CHEAP,
            )  # fmt: skip
    assert not alder.home.recovery_sheet.exists()
    alder.close()
    store = Store(alder.home.node_db)
    keyfiles.finish(alder.home, store)
    store.close()
    assert alder.home.recovery_sheet.exists() is committed
    passphrase = b"another passphrase" if committed else PASSPHRASE
    alder.secrets = load(alder.home.keystore, passphrase)
    alder.open()
    consistent(alder)


def test_a_failure_after_the_commit_of_a_rotation_loses_no_sheet(
    world: World, paper: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder = world["alder"]

    def full() -> None:
        raise BusyError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(alder.core.statements, "_take_over", full)
        with pytest.raises(BusyError):
            rotate(alder, paper.recovery)
    assert alder.home.recovery_sheet.read_text() == "new sheet\n"
    alder.close()
    alder.secrets = load(alder.home.keystore, PASSPHRASE)
    alder.open()
    assert alder.core.trust.own.identity.keys == (recovery_signer(paper.recovery).public,)
    consistent(alder)


def test_sealing_keys_rotate_monthly_and_old_ones_are_destroyed_once_nothing_needs_them(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.core.card.seal[0]
    assert not ownkeys.sealing_due(alder.core)
    world.clock.advance(30 * DAY)
    assert ownkeys.sealing_due(alder.core)
    ownkeys.rotate_sealing(alder.core)
    assert not ownkeys.sealing_due(alder.core)
    second = alder.core.card.seal[0]
    assert first.public != second.public and len(alder.core.card.seal) == 1
    # What is sealed to the old key still opens, and after a restart both are there.
    key = birch.release(1, alder)
    alder.core.take([birch.envelope(key).wire], giver=birch.id)
    alder.core.try_follow()
    assert len(alder.shows()) == 1
    alder.reopen()
    assert set(alder.core.keys_open().seal_publics) == {first.public, second.public}
    world.clock.advance(100 * DAY)
    assert ownkeys.spent_sealing(alder.core) == frozenset(), "no peer has heard of the new one"
    for peer in alder.core.trust.peers:
        alder.core.contact(peer)
    world.clock.advance(90 * DAY - 1)
    assert ownkeys.spent_sealing(alder.core) == frozenset()
    world.clock.advance(1)
    assert ownkeys.spent_sealing(alder.core) == {first.ekid}
    ownkeys.destroy_sealing(alder.core)
    assert alder.core.keys_open().seal_publics == (second.public,)


def test_a_spent_key_is_gone_from_the_disk(world: World) -> None:
    alder = world["alder"]
    ownkeys.rotate_sealing(alder.core)
    world.clock.advance(MINUTE)
    ownkeys.rotate_sealing(alder.core)
    storage = alder.secrets["storage"]
    assert len(load_sealing(alder.home.sealing, storage)) == 2
    for peer in alder.core.trust.peers:
        alder.core.contact(peer)
    world.clock.advance(91 * DAY)
    assert ownkeys.destroy_sealing(alder.core) == 1
    assert len(load_sealing(alder.home.sealing, storage)) == 1
    held = load(alder.home.keystore, PASSPHRASE)
    ownkeys.destroy_first(alder.core, held, PASSPHRASE)
    assert load(alder.home.keystore, PASSPHRASE)["seal/1"] != held["seal/1"]


def test_a_crash_between_a_new_sealing_key_and_its_card_wastes_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder = world["alder"]

    def full(*_: object, **__: object) -> None:
        raise BusyError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(alder.core, "add_statement", full)
        with pytest.raises(BusyError):
            ownkeys.rotate_sealing(alder.core)
    alder.reopen()
    ownkeys.rotate_sealing(alder.core)
    assert len(load_sealing(alder.home.sealing, alder.secrets["storage"])) == 1


def test_a_recovery_replaces_every_key_and_goes_on_in_the_same_home(
    world: World, paper: Offline
) -> None:
    alder, birch = world["alder"], world["birch"]
    sent = alder.release(1, birch)
    before = alder.core.card
    ownkeys.recover(
        alder.core, code=paper.recovery, following=FOLLOWING, sheet="sheet\n",
        passphrase=b"another passphrase", old=alder.secrets, params=CHEAP,
    )  # fmt: skip
    alder.close()
    alder.secrets = load(alder.home.keystore, b"another passphrase")
    alder.open()
    after = alder.core.card
    for name in ("message", "link", "log", "witness", "tls", "seal"):
        assert getattr(after, name) != getattr(before, name)
    assert after.log.name.endswith("/log2")
    assert alder.core.held(sent) is not None and len(alder.shows()) == 1
    consistent(alder)
    give(birch, *alder.core.trust.own.statements)
    assert level(birch, alder) is Level.HELD
    world.clock.advance(4 * DAY)
    birch.core.statements.confirm(alder.id, CALLED)
    fresh = alder.release(2, birch)
    done = birch.core.take([alder.envelope(fresh).wire], giver=alder.id)
    assert done.stored == (fresh,)


def test_what_hinders_the_renewal_of_keys_is_told_and_stops_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    web = Web(alder, birch)
    web.link("alder", "birch")
    alder.core.signing_waits = False

    def hindered() -> None:
        raise ConflictError("the disk is read only", fix="mend it")

    alder.core.statements.upkeep = hindered
    alder.core.statements.upkept = False
    web["alder"].gossip.tick()
    assert "read only" in alder.notices()["keys-not-renewed"]
    alder.core.statements.upkeep = lambda: None
    alder.core.statements.upkept = False
    web["alder"].gossip.tick()
    assert "keys-not-renewed" not in alder.notices()


def test_a_new_card_of_ours_reaches_linked_peers_at_once(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    web = Web(alder, birch)
    web.link("alder", "birch")
    alder.core.signing_waits = False
    alder.renew_card(contact="new desk")
    before = len(web.passed)
    web["alder"].gossip.tick()
    web.pump()
    assert birch.core.trust.peer(alder.id).card.contact == "new desk"
    count = len(web.passed)
    assert count > before
    for _ in range(3):
        web["alder"].gossip.tick()
        web.pump()
    told = [p for p in web.passed[count:] if type(p.frame).__name__ == "Statements"]
    assert told == [], "it is said once"


def test_two_rotations_at_once_shut_out_whoever_saw_the_code(world: World, paper: Offline) -> None:
    """After the first one the code that was seen stands for the key in force."""
    alder, birch = world["alder"], world["birch"]
    rotate(alder, paper.recovery)
    alder.home.recovery_sheet.unlink()
    seen = alder.core.trust.own
    rotate(alder, FOLLOWING, following=bytes(reversed(FOLLOWING)))
    give(birch, *alder.core.trust.own.statements)
    thief = make_card(
        alder.core.card, chain=seen, issued=alder.clock.now(),
        signer=recovery_signer(paper.recovery),
    )  # fmt: skip
    give(birch, thief)
    assert level(birch, alder) is Level.SHARE
    assert birch.core.trust.peer(alder.id).chain == alder.core.trust.own
