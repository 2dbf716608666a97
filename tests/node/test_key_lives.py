"""Keys and their lives: what is due when, and rotations that a crash at any step cannot harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keys.keystore import load, load_message
from node import keyfiles, message_rotation, tls_rotation
from node.app import _check_tls, _service_keys
from node.certificates import from_pem, seed_of
from node.key_lives import (
    DAY_MS,
    LIVES,
    YEAR_MS,
    Key,
    Purpose,
    Renewal,
    Stage,
    TlsStep,
    due,
    keys_of,
    rotatable,
    stage_of,
    tls_step,
)
from node.store import Store
from protocol import suite
from protocol.errors import BusyError, ConflictError
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

END = 10 * YEAR_MS


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


class Crash(BaseException):
    """The process dies."""


def crash(*_: object, **__: object) -> None:
    raise Crash


# --- the policy ------------------------------------------------------------------------------
def test_every_purpose_has_a_life_and_says_who_renews_it() -> None:
    assert set(LIVES) == set(Purpose)
    for purpose, life in LIVES.items():
        assert bool(life.itself) is (life.renewal is Renewal.ITSELF), purpose
        assert life.person
    days = {p: life.ms // DAY_MS for p, life in LIVES.items() if life.ms is not None}
    assert days == {"card": 365, "identity": 730, "message": 365, "sealing": 30, "tls": 90}


@pytest.mark.parametrize(
    ("left", "stage"),
    [
        (30 * DAY_MS + 1, Stage.FINE), (30 * DAY_MS, Stage.MONTH), (7 * DAY_MS + 1, Stage.MONTH),
        (7 * DAY_MS, Stage.WEEK), (1, Stage.WEEK), (0, Stage.OVER), (-1, Stage.OVER),
    ],
)  # fmt: skip
def test_a_person_is_told_30_7_and_0_days_ahead(left: int, stage: Stage) -> None:
    key = Key(Purpose.IDENTITY, 0, END)
    assert stage_of(key, END - left) is stage
    found = due([key], END - left)
    assert [each.stage for each in found] == ([] if stage is Stage.FINE else [stage])
    assert all(each.person and not each.itself for each in found)


def test_of_what_goes_on_by_itself_a_person_hears_only_when_it_did_not() -> None:
    key = Key(Purpose.MESSAGE, 0, END)
    assert [(d.itself, d.person) for d in due([key], END - DAY_MS)] == [(False, False)]
    assert [(d.itself, d.person) for d in due([key], END)] == [(True, False)]
    assert [(d.itself, d.person) for d in due([key], END + DAY_MS)] == [(True, True)]


def test_a_key_in_a_token_is_never_renewed_by_itself() -> None:
    key = Key(Purpose.MESSAGE, 0, END, rotatable=False)
    assert [(d.itself, d.person) for d in due([key], END - 7 * DAY_MS)] == [(False, True)]
    assert [(d.itself, d.person) for d in due([key], END + DAY_MS)] == [(False, True)]
    assert rotatable(suite.Ed25519Signer(bytes(32))) and not rotatable(object())


def test_what_has_no_end_is_never_due() -> None:
    assert due([Key(Purpose.LOG, 0, None)], END) == ()


def test_the_certificate_waits_for_peers_and_at_most_a_week() -> None:
    def next_one(now: int, *told: int | None, announced: int | None = 0) -> TlsStep:
        return tls_step(since=0, announced=announced, told=told, now=now)

    assert next_one(90 * DAY - 1, announced=None) is TlsStep.WAIT
    assert next_one(90 * DAY, announced=None) is TlsStep.ANNOUNCE
    assert next_one(MINUTE) is TlsStep.USE, "there is nobody to wait for"
    assert next_one(MINUTE, 1) is TlsStep.WAIT, "the link may break before the card is there"
    assert next_one(MINUTE + 1, 1) is TlsStep.USE
    assert next_one(7 * DAY - 1, 1, None) is TlsStep.WAIT
    assert next_one(7 * DAY, 1, None) is TlsStep.USE


def test_since_when_a_key_is_in_use_follows_from_the_cards(world: World) -> None:
    alder = world["alder"]
    begun = {key.purpose: key.since for key in alder.service().keys.lives()}
    world.clock.advance(5 * DAY)
    alder.service().keys.rotate_sealing()
    world.clock.advance(DAY)
    alder.service().keys.rotate_message()
    now = {key.purpose: key.since for key in keys_of(alder.core.trust.own, alder.core.card)}
    changed = {purpose: at - begun[purpose] for purpose, at in now.items() if at != begun[purpose]}
    assert changed == {
        Purpose.CARD: 7 * DAY, Purpose.MESSAGE: 7 * DAY, Purpose.SEALING: 6 * DAY,
    }  # fmt: skip


# --- status, notices, metrics -----------------------------------------------------------------
def test_status_lists_every_key_and_what_is_to_be_done(world: World) -> None:
    seen = world["alder"].service().keys.status()
    assert [key["purpose"] for key in seen["keys"]] == [purpose.value for purpose in Purpose]
    assert not any(key["due"] for key in seen["keys"])
    assert {key["purpose"] for key in seen["keys"] if key["until"] is None} == {
        "link", "log", "witness", "storage",
    }  # fmt: skip


def test_an_identity_of_two_years_is_told_in_status_and_metrics(world: World) -> None:
    alder = world["alder"]
    world.clock.advance(699 * DAY - 1)
    assert "key-due" not in alder.notices()
    world.clock.advance(DAY)
    assert alder.notices()["key-due"] == "a new identity key is due in 30 days"
    world.clock.advance(30 * DAY)
    assert "since 20" in alder.notices()["key-due"]
    told = alder.service().metrics_text().decode()
    for purpose in ("card", "identity", "message", "sealing", "tls"):
        assert f'picket_key_expires_timestamp_seconds{{purpose="{purpose}"}} 1.' in told
    assert alder.notices()["key-not-renewed"], "nobody let it renew its own keys"


# --- the message key --------------------------------------------------------------------------
def test_the_message_key_is_renewed_once_a_year_and_the_old_one_is_destroyed(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.core.card.message
    world.clock.advance(363 * DAY)
    birch.service().keys.rotate_sealing()
    alder.core.take_statements(birch.id, [s.wire for s in birch.core.trust.own.statements])
    before = alder.release(1, birch)
    world.clock.advance(DAY - 1)
    assert not message_rotation.due(alder.core)
    world.clock.advance(1)
    message_rotation.keep_up(alder.core)
    second = alder.core.card.message
    assert first != second == alder.core.keys_open().message.public
    message_rotation.keep_up(alder.core)
    assert alder.core.card.message == second
    after = alder.release(2, birch)
    birch.core.take_statements(alder.id, [s.wire for s in alder.core.trust.own.statements])
    for key in (before, after):  # what the old key signed verifies by the card of its time
        assert birch.core.signed(key) is None
        birch.core.take([alder.envelope(key).wire], giver=alder.id)
        assert birch.core.signed(key) is not None
    alder.reopen()
    assert alder.core.keys_open().message.public == second
    message_rotation.rotate(alder.core)
    assert len(load_message(alder.home.message_key, alder.secrets["storage"])) == 1
    alder.core.verify()


def test_the_first_message_key_is_destroyed_at_the_next_unlocking(world: World) -> None:
    alder = world["alder"]
    held = load(alder.home.keystore, PASSPHRASE)
    assert message_rotation.destroy_first(alder.core, held, PASSPHRASE) is held
    message_rotation.rotate(alder.core)
    after = message_rotation.destroy_first(alder.core, held, PASSPHRASE)
    assert load(alder.home.keystore, PASSPHRASE) == after
    assert {name for name in held if after[name] != held[name]} == {"message"}
    assert message_rotation.destroy_first(alder.core, after, PASSPHRASE) is after
    alder.secrets = after
    alder.reopen()
    assert alder.core.keys_open().message.public == alder.core.card.message


def test_a_message_key_in_a_token_is_not_rotated(world: World) -> None:
    class Token:
        public = world["alder"].core.card.message

        def sign(self, message: bytes) -> bytes:
            raise AssertionError(message)

    alder = world["alder"]
    alder.core.vault = replace(alder.core.keys_open(), message=Token())  # type: ignore[arg-type]
    world.clock.advance(400 * DAY)
    assert not message_rotation.due(alder.core)
    with pytest.raises(ConflictError, match="does not lie in this node's keystore"):
        message_rotation.rotate(alder.core)
    assert "token or signer" in str(
        [n for n in alder.service().keys.notices() if n[0] == "key-due" and "message" in n[1]]
    )


@pytest.mark.parametrize("moment", ["before the card", "before the end of the old one"])
def test_a_crash_while_the_message_key_changes_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.core.card.message
    with monkeypatch.context() as patched:
        if moment == "before the card":
            patched.setattr(alder.core, "add_statement", crash)
        else:
            patched.setattr(message_rotation, "destroy", crash)
        with pytest.raises(Crash):
            message_rotation.rotate(alder.core)
    alder.reopen()
    rotated = moment != "before the card"
    assert (alder.core.card.message != first) is rotated
    assert alder.core.keys_open().message.public == alder.core.card.message
    if not rotated:
        spare = load_message(alder.home.message_key, alder.secrets["storage"])
        message_rotation.rotate(alder.core)
        assert load_message(alder.home.message_key, alder.secrets["storage"]) == spare
    message_rotation.keep_up(alder.core)
    assert len(load_message(alder.home.message_key, alder.secrets["storage"])) == 1
    key = alder.release(3, birch)
    birch.core.take_statements(alder.id, [s.wire for s in alder.core.trust.own.statements])
    assert birch.core.take([alder.envelope(key).wire], giver=alder.id).stored == (key,)


# --- the certificate --------------------------------------------------------------------------
def linked(station: Station) -> None:
    """Let every peer be linked, long enough to have the newest card."""
    for peer in station.core.trust.peers:
        station.core.contact(peer)
    station.core.still_linked(frozenset(station.core.trust.peers))
    station.clock.advance(MINUTE)


def certificates(station: Station) -> set[bytes]:
    return set(tls_rotation.held_by(station.home).files)


def fits(station: Station) -> None:
    """Check that files and card belong together, as a start does."""
    _check_tls(station.home, station.core)
    keys = _service_keys(station.home)
    assert keys.tls_seed == seed_of(station.home.tls_pem.read_bytes())
    assert keys.link.public == station.core.card.link
    assert not [path for path in station.home.path.iterdir() if path.name.endswith(".next")]


def test_a_new_certificate_is_on_the_card_before_it_is_used(world: World) -> None:
    alder = world["alder"]
    (first,) = alder.core.card.tls
    tls_rotation.keep_up(alder.core)
    assert list(alder.core.card.tls) == [first]
    world.clock.advance(89 * DAY)
    tls_rotation.keep_up(alder.core)
    kept, second = alder.core.card.tls
    assert kept == first
    assert from_pem(alder.home.tls_pem.read_bytes()) == first
    with pytest.raises(ConflictError, match="on the card already"):
        tls_rotation.announce(alder.core)
    world.clock.advance(DAY)
    tls_rotation.keep_up(alder.core)
    assert list(alder.core.card.tls) == [first, second], "no peer has seen it"
    assert len(tls_rotation.waits_for(alder.core)) == 3
    linked(alder)
    tls_rotation.keep_up(alder.core)
    assert list(alder.core.card.tls) == [second]
    assert from_pem(alder.home.tls_pem.read_bytes()) == second
    fits(alder)
    assert certificates(alder) == {first, second}, "peers that were away know the old one only"
    linked(alder)
    tls_rotation.keep_up(alder.core)
    assert certificates(alder) == {second}, "and now nobody needs it any more"
    alder.reopen()
    alder.core.verify()


def test_who_was_away_can_link_by_the_old_certificate_for_a_year(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    (first,) = alder.core.card.tls
    for round_ in range(4):
        tls_rotation.announce(alder.core)
        world.clock.advance(7 * DAY)
        tls_rotation.keep_up(alder.core)
        assert len(alder.core.card.tls) == 1, round_
        for peer in set(alder.core.trust.peers) - {birch.id}:
            alder.core.contact(peer)
        world.clock.advance(84 * DAY)
        tls_rotation.give_up(alder.core)
    world.clock.advance(8 * DAY - 1)
    tls_rotation.give_up(alder.core)
    assert first in certificates(alder)
    world.clock.advance(1)
    tls_rotation.give_up(alder.core)
    assert first not in certificates(alder), "no card lives longer"


def test_a_lost_key_that_was_announced_is_replaced_by_another(world: World) -> None:
    alder = world["alder"]
    (first,) = alder.core.card.tls
    tls_rotation.announce(alder.core)
    lost = alder.core.card.tls[1]
    for path in alder.home.tls_others.iterdir():
        path.unlink()
    world.clock.advance(7 * DAY)
    tls_rotation.keep_up(alder.core)
    assert alder.core.card.tls[0] == first and lost not in alder.core.card.tls
    world.clock.advance(7 * DAY)
    tls_rotation.keep_up(alder.core)
    assert len(alder.core.card.tls) == 1
    fits(alder)


def announced(station: Station) -> None:
    tls_rotation.announce(station.core)


def in_use(station: Station) -> None:
    tls_rotation.use(station.core)


@pytest.mark.parametrize(
    ("name", "act", "rotated"),
    [
        ("node.tls_rotation.write_private", announced, None),
        ("core.add_statement", announced, None),
        ("node.tls_rotation.write_private", in_use, False),
        ("node.keyfiles.note", in_use, False),
        ("node.keyfiles.finish", in_use, True),
        ("node.tls_rotation.give_up", in_use, True),
    ],
)
def test_a_crash_while_the_certificate_changes_loses_nothing(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    act: Callable[[Station], None],
    rotated: bool | None,
) -> None:
    alder = world["alder"]
    (first,) = alder.core.card.tls
    if rotated is not None:
        announced(alder)
    with monkeypatch.context() as patched:
        if name == "core.add_statement":
            patched.setattr(alder.core, "add_statement", crash)
        else:
            patched.setattr(name, crash)
        patched.setattr(keyfiles, "discard", crash)  # a dead process tidies up nothing
        with pytest.raises(Crash):
            act(alder)
    alder.close()
    store = Store(alder.home.node_db)
    keyfiles.finish(alder.home, store)
    store.close()
    alder.open()
    fits(alder)
    used = from_pem(alder.home.tls_pem.read_bytes())
    assert (used != first) is bool(rotated)
    assert set(alder.core.card.tls) <= certificates(alder)
    if rotated is None:
        announced(alder)
        assert len(certificates(alder)) == 2, "what a crash left is as good as a new one"
    if not rotated:
        in_use(alder)
    fits(alder)
    linked(alder)
    tls_rotation.give_up(alder.core)
    assert len(certificates(alder)) == 1
    alder.core.verify()


def test_a_full_disk_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alder = world["alder"]
    announced(alder)
    before = alder.core.card

    def full(*_: object, **__: object) -> None:
        raise BusyError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(alder.core.store, "insert", full)
        with pytest.raises(BusyError):
            in_use(alder)
    assert alder.core.card == before
    fits(alder)
    in_use(alder)
    fits(alder)


def test_links_by_both_certificates_come_about_while_one_replaces_the_other(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    web = Web(alder, birch)
    announced(alder)
    web.link("alder", "birch")
    assert web.linked("alder", "birch")
    assert birch.core.trust.peer(alder.id).card.tls == alder.core.card.tls
    in_use(alder)
    web.run(2)
    assert birch.core.trust.peer(alder.id).card.tls == alder.core.card.tls
    assert web.linked("alder", "birch"), "a link that is open goes on"
