"""Epochs that do not open: who says so to whom, who is answered, and that nothing of it is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from keys.trust import Level, Verification
from node import metrics
from node.access import Logged
from node.casebook import Casebook
from node.resealing import OPENED_LATE, SEAL_AGAIN
from node.service import Service
from protocol import envelope, limits, reseal, suite
from protocol.entry import EntryKind
from protocol.envelope import Audience, Header
from protocol.errors import AudienceError, OpenError, UnknownEpochError
from protocol.frames import Bye, Statements
from protocol.reseal import Fault, Notice, SealedAgain, Unopened
from protocol.statement import SealKey
from tests.node.factories import (
    DAY,
    MINUTE,
    CrashError,
    FaultyStore,
    Station,
    UndoError,
    World,
    copied,
    full_disk,
    give,
    incident_id,
    made_once,
    pass_on,
    record,
    token,
)
from tests.node.wiring import Web

PAIR: Final = ("alder", "birch")
SOON: Final = 3
"""Seconds: more than a node waits before it says what is due."""


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


# --- authors that seal badly -------------------------------------------------------------------
def release_badly(
    author: Station, *numbers: int, to: Station, also: tuple[Station, ...] = ()
) -> list[bytes]:
    """Let *author* release incidents in one epoch whose slot for *to* is for a key of nobody."""
    found: list[bytes] = []
    for number in numbers:
        shipment = author.ship(to, *also, body=record(number))
        card = shipment.recipients[to.id]
        nobody = SealKey(suite.seal_public_bytes(bytes(31) + b"\x01"), 0, card.expires)
        changed = {**shipment.recipients, to.id: replace(card, seal=(nobody,))}
        found += author.core.release(token(number), [replace(shipment, recipients=changed)])
    author.core.try_follow()
    return found


def lose_key(station: Station, name: str = "again") -> None:
    """Let *station* go on with another sealing key than the one on its card, and say so in a card.

    So it is when the keystore was lost and only the identity is back.
    """
    fresh = suite.digest("lost", name.encode())
    station.secrets = {**station.secrets, "seal/1": fresh}
    now = station.clock.now()
    key = SealKey(suite.seal_public_bytes(fresh), now, station.core.card.expires)
    station.renew_card(seal=(key,))


def ids(*numbers: int) -> set[str]:
    return {incident_id(number) for number in numbers}


def set_aside(station: Station) -> set[bytes]:
    return {row["envelope_id"] for row in station.core.opened()[1].quarantined()}


def waits_for(station: Station) -> set[bytes]:
    """Return the openers for which *station* waits for a new slot."""
    rows = station.core.store.rows("SELECT opener FROM unopened WHERE mended_at IS NULL")
    return {row["opener"] for row in rows}


def acts(station: Station, *envelope_ids: bytes) -> list[tuple[str, tuple[bytes, ...]]]:
    logged: list[Logged] = station.core.access.about(envelope_ids)
    return [(each.act.what, each.act.ids) for each in logged]


def notice_of(reader: Station, opener: bytes, **changes: object) -> Unopened:
    """Return a notice that *reader* signs, whatever it says."""
    core = reader.core
    notice = Notice(
        core.trust.own.network, reader.id, core.card_n, opener, Fault.SLOT, reader.clock.now()
    )
    return reseal.sign_notice(replace(notice, **changes), reader.vault.message)  # type: ignore[arg-type]


def slot_of(author: Station, opener: bytes, reader: Station, *, key: bytes) -> SealedAgain:
    """Return a new slot that *author* signs, with any *key* in it."""
    held = author.envelope(opener)
    epoch = replace(author.core.epoch(opener), key=key)
    return reseal.seal_again(
        epoch, author=(held.header, author.core.card_n), reader=reader.id,
        card=author.core.trust.peer(reader.id).card, now=author.clock.now(),
        signer=author.vault.message,
    )  # fmt: skip


def silent(web: Web) -> bool:
    """Whether nobody was given a new slot."""
    return not web.frames(SealedAgain)


# --- how it goes -------------------------------------------------------------------------------
def test_a_reader_that_cannot_open_its_slot_says_so_and_reads_it_after_the_answer(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = release_badly(alder, 1, 2, to=birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    assert birch.shows() == set()
    assert set_aside(birch) == set(keys)
    assert waits_for(birch) == {keys[0]}, "one epoch, however many envelopes"
    assert birch.notices()["unopened"].startswith("2 envelopes of alder could not be opened here")
    assert "quarantined" not in birch.notices(), "said once"
    web.run(SOON)
    (notice,) = web.frames(Unopened, "birch", "alder")
    assert (notice.notice.opener, notice.notice.fault) == (keys[0], Fault.SLOT)
    (answer,) = web.frames(SealedAgain, "alder", "birch")
    assert answer.slot.reader == birch.id
    assert birch.shows() == ids(1, 2)
    assert set_aside(birch) == waits_for(birch) == set()
    assert "unopened" not in birch.notices()
    assert "could not open 2 envelopes of this node" in alder.notices()["sealed-again"]
    assert acts(alder, *keys) == [(SEAL_AGAIN, (keys[0],))]
    assert acts(birch, *keys) == [(OPENED_LATE, (key,)) for key in keys]
    for station in (alder, birch):
        assert station.core.verify()["entries"] == station.core.log.size
    web.run(3_700)
    assert len(web.frames(Unopened)) == len(web.frames(SealedAgain)) == 1, "and that is all"


def test_what_comes_later_in_the_epoch_opens_at_once(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    release_badly(alder, 1, to=birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    (key,) = release_badly(alder, 2, to=birch)
    web.run(SOON)
    assert alder.envelope(key).header.opener is not None, "the same epoch"
    assert birch.shows() == ids(1, 2)
    assert [what for what, _ in acts(birch, key)] == []
    birch.reopen()
    assert birch.shows() == ids(1, 2)
    birch.core.open(key)


def test_whoever_reads_by_a_cursor_meets_what_opened_late(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    release_badly(alder, 1, to=birch)
    alder.release(2, birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    service: Service = birch.service()
    first = service.incidents(state="received", after=0, limit=10)
    assert [row["id"] for row in first["items"]] == [incident_id(2)]
    web.run(SOON)
    rest = service.incidents(state="received", after=first["next"], limit=10)
    assert [row["id"] for row in rest["items"]] == [incident_id(1)]
    assert service.proof(incident_id(1))["index"] < first["next"], "the proof is of its arrival"


def test_a_reader_that_lost_its_key_gets_everything_again_under_its_new_one(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    birch.reopen(locked=True)
    one, two = alder.release(1, birch), alder.release(2, birch, cedar)
    pass_on(alder, birch)
    lose_key(birch)
    birch.reopen()
    assert birch.shows() == set()
    assert waits_for(birch) == {one, two}
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    assert {each.slot.ekid for each in web.frames(SealedAgain)} == {birch.core.card.seal[0].ekid}
    assert birch.shows() == ids(1, 2)
    assert cedar.id not in {each.slot.reader for each in web.frames(SealedAgain)}


def test_a_key_that_is_back_needs_nobody(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    kept = birch.secrets
    birch.reopen(locked=True)
    key = alder.release(1, birch)
    pass_on(alder, birch)
    birch.secrets = {**kept, "seal/1": bytes(32)}
    birch.reopen()
    assert (birch.shows(), waits_for(birch)) == (set(), {key})
    birch.secrets = kept
    birch.reopen()
    assert (birch.shows(), waits_for(birch)) == (ids(1), set())


def test_a_card_that_is_new_on_an_open_link_is_fetched_before_the_answer(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    release_badly(alder, 1, to=birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    lose_key(birch)
    birch.core.vault = birch.vault
    web.run(SOON)
    web.run(limits.RESEAL_RETRY_MS // 1_000 + SOON)
    assert birch.shows() == ids(1)
    said = [type(each.frame) for each in web.passed if each.giver == "birch"]
    answered = [type(each.frame) for each in web.passed].index(SealedAgain)
    assert Statements in said[:answered], "first the card that the answer is sealed to"


def test_an_epoch_of_many_envelopes_is_opened_page_by_page(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    numbers = range(1, 151)
    release_badly(alder, *numbers, to=birch)
    while pass_on(alder, birch).stored:
        pass
    assert len(set_aside(birch)) == len(numbers)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    assert birch.shows() == ids(*numbers)
    assert not set_aside(birch)
    assert birch.core.verify()["entries"] == birch.core.log.size
    late = [what for what, _ in acts(birch, *(r["id"] for r in stored(birch)))]
    assert late == [OPENED_LATE] * len(numbers), "each once"


def test_two_envelopes_in_one_place_are_both_opened_at_the_edge_of_a_page(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    release_badly(alder, *range(1, 64), to=birch)
    twins: list[bytes] = []
    with suppress(UndoError), alder.core.logged():
        (taken_back,) = release_badly(alder, 64, to=birch)
        twins.append(alder.envelope(taken_back).wire)
        raise UndoError
    release_badly(alder, 65, to=birch)
    while pass_on(alder, birch).stored:
        pass
    assert give(alder, birch, *twins).forks, "it signed twice in one place"
    assert len(set_aside(birch)) == 65
    one_round(alder, birch)
    assert not set_aside(birch)
    assert birch.shows() == ids(*range(1, 66))


def stored(station: Station) -> list[dict[str, bytes]]:
    return station.core.store.rows("SELECT id FROM envelopes")


def test_a_case_book_made_anew_shows_the_same(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    release_badly(alder, 1, 2, to=birch)
    alder.release(3, birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    birch.close()
    for path in birch.home.path.glob("case.db*"):
        path.unlink()
    birch.open()
    assert birch.shows() == ids(1, 2, 3)
    assert not set_aside(birch)
    assert birch.core.opened()[1].next_index == birch.core.log.size


# --- locked, away, again -----------------------------------------------------------------------
def test_a_locked_author_answers_once_it_is_unlocked(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    (key,) = release_badly(alder, 1, to=birch)
    alder.reopen(locked=True)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    assert web.frames(Unopened)
    assert silent(web)
    assert "wait to be sealed again" in alder.notices()["sealed-again"]
    web.stop("alder")
    alder.open(locked=True)
    assert alder.core.store.scalar("SELECT owed FROM reseals WHERE opener = ?", key) == 1
    alder.core.unlock(alder.vault)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    assert not web.frames(Unopened), "it is not asked again so soon, and need not be"
    assert birch.shows() == ids(1)


def test_a_locked_reader_says_nothing_and_keeps_the_answer_until_it_is_unlocked(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    (key,) = release_badly(alder, 1, to=birch)
    pass_on(alder, birch)
    birch.reopen(locked=True)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    assert not web.frames(Unopened)
    answer = slot_of(alder, key, birch, key=alder.core.epoch(key).key)
    web.say("alder", "birch", answer)
    assert waits_for(birch) == {key}
    birch.core.unlock(birch.vault)
    assert (birch.shows(), waits_for(birch)) == (ids(1), set())
    web.run(limits.RESEAL_RETRY_MS // 1_000 + SOON)
    assert not web.frames(Unopened)


def test_an_author_that_is_away_is_asked_when_it_is_back_and_others_are_not(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    release_badly(alder, 1, to=birch, also=(cedar,))
    pass_on(alder, birch)
    web = Web(alder, birch, cedar)
    web.link("birch", "cedar")
    web.run(SOON)
    assert not web.frames(Unopened), "only the author is told"
    web.restart("birch")
    web.link("alder", "birch")
    web.run(SOON)
    assert birch.shows() == ids(1)
    assert not web.frames(Unopened, taker="cedar")


def test_a_notice_is_repeated_more_and_more_rarely_until_it_is_answered(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    (key,) = release_badly(alder, 1, to=birch)
    # An author that hears nothing: it does not hold what it released.
    web = Web(alder, birch)
    web.link("alder", "birch")
    with alder.core.store.transaction():
        alder.core.store.run("UPDATE envelopes SET id = ? WHERE id = ?", bytes(32), key)
    alder.core.intake.forget()
    web.run(3_600)
    minutes = [
        (frame.notice.issued - world.clock.at) // MINUTE + 60 for frame in web.frames(Unopened)
    ]
    assert minutes == [0, 1, 3, 7, 15, 31]
    web.restart("birch")
    web.link("alder", "birch")
    web.run(60)
    assert len(web.frames(Unopened)) == len(minutes), "a restart asks no sooner"
    with alder.core.store.transaction():
        alder.core.store.run("UPDATE envelopes SET id = ? WHERE id = ?", key, bytes(32))
    alder.core.intake.forget()
    web.run(3_600)
    assert birch.shows() == ids(1)


def test_an_answer_that_was_lost_is_given_again_as_it_was(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    (key,) = release_badly(alder, 1, to=birch)
    pass_on(alder, birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    for party in web.parties.values():
        party.gossip.tick()
    # The notice arrives, and the link is gone before its answer is written.
    line, there = web.line("birch", "alder"), web.line("alder", "birch")
    while (message := line.next_message()) is not None:
        web.handle("alder", (there, message))
    assert there.waiting
    web.cut("alder", "birch")
    first = alder.core.store.scalar("SELECT answer FROM reseals WHERE opener = ?", key)
    assert first is not None
    web.link("alder", "birch")
    web.run(limits.RESEAL_RETRY_MS // 1_000 + SOON)
    assert birch.shows() == ids(1)
    assert alder.core.store.scalar("SELECT answer FROM reseals WHERE opener = ?", key) == first
    assert len(acts(alder, key)) == 1, "one act, however often it is said"


@pytest.mark.parametrize("who", ["alder", "birch"])
def test_a_full_disk_costs_a_repetition_and_nothing_else(world: World, who: str) -> None:
    alder, birch = world["alder"], world["birch"]
    release_badly(alder, *range(1, 60), to=birch)
    while pass_on(alder, birch).stored:
        pass
    web = Web(alder, birch)
    web.link("alder", "birch")
    with full_disk(world[who]):
        web.run(SOON)
    web.run(2 * limits.RESEAL_RETRY_MS // 1_000 + SOON)
    if birch.core.behind is not None:
        birch.core.try_follow()  # as the engine does once a second
    assert birch.shows() == ids(*range(1, 60))


@contextmanager
def no_case_commit(station: Station, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the process end when case.db is about to be written, behind node.db."""

    def crash(self: Casebook, next_index: int) -> None:
        raise CrashError(f"before case.db had {next_index}")

    with monkeypatch.context() as patched, pytest.raises(CrashError):
        patched.setattr(Casebook, "advance", crash)
        yield
    station.close()


def test_a_crash_between_the_two_databases_only_repeats_a_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch = world["alder"], world["birch"]
    numbers = range(1, 40)
    keys = release_badly(alder, *numbers, to=birch)
    with no_case_commit(birch, monkeypatch):
        pass_on(alder, birch)
    birch.open(locked=True)
    assert waits_for(birch) == {keys[0]}, "node.db has it, case.db does not"
    birch.core.unlock(birch.vault)
    while pass_on(alder, birch).stored or birch.core.pending:
        birch.core.try_follow()
    assert set_aside(birch) == set(keys)
    with no_case_commit(birch, monkeypatch):
        one_round(alder, birch)
    birch.open()
    assert birch.shows() == ids(*numbers)
    assert acts(birch, *keys) == [(OPENED_LATE, (key,)) for key in keys], "each once"


# --- crashes -----------------------------------------------------------------------------------
def reopen_faulty(station: Station) -> FaultyStore:
    made: list[FaultyStore] = []

    def store(path: Path) -> FaultyStore:
        made.append(FaultyStore(path))
        return made[0]

    station.reopen(store=store)
    return made[0]


def test_a_crash_at_any_step_of_the_reader_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    crashes = 0
    for step in range(1, 60):
        with copied(made_once(tmp_path_factory), tmp_path / str(step), PAIR) as world:
            alder, birch = world["alder"], world["birch"]
            keys = release_badly(alder, 1, 2, to=birch)
            store = reopen_faulty(birch)
            store.arm(step)
            crashed = False
            try:
                one_round(alder, birch)
            except CrashError:
                crashed = True
            store.arm(0)
            birch.reopen()
            for _ in range(3):
                one_round(alder, birch)
                world.clock.advance(limits.RESEAL_RETRY_MAX_MS)
            assert birch.shows() == ids(1, 2), step
            assert not set_aside(birch)
            assert not waits_for(birch)
            assert birch.core.verify()["entries"] == birch.core.log.size
            assert acts(birch, *keys) == [(OPENED_LATE, (key,)) for key in keys], step
        if not crashed:
            break
        crashes += 1
    assert crashes > 10


def test_a_crash_at_any_step_of_the_author_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    crashes = 0
    for step in range(1, 60):
        with copied(made_once(tmp_path_factory), tmp_path / str(step), PAIR) as world:
            alder, birch = world["alder"], world["birch"]
            (key,) = release_badly(alder, 1, to=birch)
            pass_on(alder, birch)
            store = reopen_faulty(alder)
            store.arm(step)
            crashed = False
            try:
                one_round(alder, birch)
            except CrashError:
                crashed = True
            store.arm(0)
            alder.reopen()
            for _ in range(3):
                one_round(alder, birch)
                world.clock.advance(limits.RESEAL_RETRY_MAX_MS)
            assert birch.shows() == ids(1), step
            assert alder.core.verify()["entries"] == alder.core.log.size
            assert acts(alder, key) == [(SEAL_AGAIN, (key,))], step
        if not crashed:
            break
        crashes += 1
    assert crashes > 3


def one_round(alder: Station, birch: Station) -> None:
    """Deliver, ask, answer and open once, as links do it."""
    pass_on(alder, birch)
    birch.core.try_follow()
    for notice in birch.core.resealing.notices(alder.id):
        with alder.core.logged():
            alder.core.resealing.take_notice(notice)
    for answer in alder.core.resealing.answers(birch.id):
        with birch.core.logged(), suppress(UnknownEpochError):
            birch.core.resealing.take_slot(answer)
    birch.core.try_follow()


# --- who gets nothing --------------------------------------------------------------------------
def test_whoever_is_no_recipient_hears_nothing_and_cannot_tell_what_exists(world: World) -> None:
    alder, birch, cedar, dogwood = (world[name] for name in ("alder", "birch", "cedar", "dogwood"))
    key = alder.release(1, birch, carriers=[dogwood])
    web = Web(alder, birch, cedar, dogwood)
    web.link("alder", "cedar")
    web.link("alder", "dogwood")
    before = alder.dump()
    for who in (cedar, dogwood):
        web.say(who.name, "alder", notice_of(who, key))
        web.say(who.name, "alder", notice_of(who, suite.digest("no", b"such")))
        said = [each.frame for each in web.between("alder", who.name)]
        assert not any(isinstance(frame, SealedAgain | Bye) for frame in said)
        assert web.linked("alder", who.name)
    after = alder.dump()
    assert after["reseals"] == before["reseals"] == []
    counted = web["alder"].gossip.metrics.value(metrics.RESEALS_REFUSED, AudienceError.code)
    assert counted == 4


def test_a_notice_about_an_epoch_of_another_author_gets_nothing(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = cedar.release(1, alder, birch)
    pass_on(cedar, alder)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.say("birch", "alder", notice_of(birch, key))
    assert silent(web)


def lower(station: Station, peer: Station) -> None:
    verification = Verification("voice", "test", station.clock.now())
    station.core.approve_peer(peer.id, Level.RELAY, verification)


def test_a_reader_that_is_trusted_less_by_now_gets_nothing_until_it_is_trusted_again(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    release_badly(alder, 1, to=birch)
    pass_on(alder, birch)
    lower(alder, birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    assert web.frames(Unopened)
    assert silent(web)
    assert alder.dump()["reseals"] == []
    alder.core.approve_peer(birch.id, Level.SHARE, Verification("voice", "test", 1))
    web.run(limits.RESEAL_RETRY_MS // 1_000 + SOON)
    assert birch.shows() == ids(1)


def test_an_answer_that_is_owed_is_not_given_to_whoever_was_frozen_meanwhile(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    release_badly(alder, 1, to=birch)
    pass_on(alder, birch)
    alder.reopen(locked=True)
    (notice,) = birch.core.resealing.notices(alder.id)
    with alder.core.logged():
        alder.core.resealing.take_notice(notice)
    alder.core.trust = alder.core.trust.freeze(birch.id)
    alder.core.unlock(alder.vault)
    assert alder.core.resealing.answers(birch.id) == ()


def test_what_is_older_than_90_days_is_neither_asked_for_nor_given(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    (key,) = release_badly(alder, 1, to=birch)
    pass_on(alder, birch)
    world.clock.advance(limits.RESEAL_WINDOW_MS)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    assert not web.frames(Unopened)
    assert "too old" in birch.notices()["unopened"]
    web.say("birch", "alder", notice_of(birch, key))
    assert silent(web)
    assert web["alder"].gossip.metrics.value(metrics.RESEALS_REFUSED, "expired") == 1


def test_whoever_asks_again_and_again_gets_four_answers_an_epoch_and_day(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    for _ in range(20):
        web.say("birch", "alder", notice_of(birch, key))
    assert len(web.frames(SealedAgain)) == limits.MAX_RESEALS_PER_OPENER
    assert birch.shows() == ids(1), "that it did not ask does it no harm"
    world.clock.advance(DAY)
    web.say("birch", "alder", notice_of(birch, key))
    assert len(web.frames(SealedAgain)) == limits.MAX_RESEALS_PER_OPENER + 1


def test_one_reader_gets_no_more_than_its_bound_in_a_day_and_the_rest_on_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_RESEALS_PER_DAY", 3)
    alder, birch = world["alder"], world["birch"]
    others = [world[name] for name in ("cedar", "dogwood")]
    audiences = [(), others[:1], others[1:], others]
    keys = [
        release_badly(alder, number, to=birch, also=tuple(also))[0]
        for number, also in enumerate(audiences, 1)
    ]
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    assert len(web.frames(Unopened)) == len(keys)
    assert len(web.frames(SealedAgain)) == 3
    assert len(birch.shows()) == 3
    world.clock.advance(DAY)
    web.run(SOON)
    assert birch.shows() == ids(1, 2, 3, 4)


# --- what is false -----------------------------------------------------------------------------
def test_a_slot_that_does_not_open_is_counted_and_changes_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    (key,) = release_badly(alder, 1, to=birch)
    pass_on(alder, birch)
    alder.reopen(locked=True)  # so that it gives no true answer of its own
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    alder.core.vault = alder.vault
    wrong = slot_of(alder, key, birch, key=bytes(32))
    alder.core.vault = None
    web.say("alder", "birch", wrong, wrong)
    assert (birch.shows(), waits_for(birch), set_aside(birch)) == (set(), {key}, {key})
    assert "2 answers did not open either" in birch.notices()["unopened"]
    assert web["birch"].gossip.metrics.value(metrics.RESEALS_REFUSED, OpenError.code) == 2
    birch.reopen()
    assert "2 answers did not open either" in birch.notices()["unopened"]
    alder.core.unlock(alder.vault)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(2 * limits.RESEAL_RETRY_MS // 1_000)
    assert birch.shows() == ids(1)


def test_an_author_that_goes_on_giving_bad_slots_loses_its_link(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    (key,) = release_badly(alder, 1, to=birch)
    pass_on(alder, birch)
    wrong = slot_of(alder, key, birch, key=bytes(32))
    web = Web(alder, birch)
    web.link("alder", "birch")
    with suppress(KeyError):
        for _ in range(limits.MAX_REFUSALS_PER_LINK):
            web.say("alder", "birch", wrong)
    assert not web.linked("alder", "birch")
    assert birch.shows() == set()


def test_a_slot_that_nobody_asked_for_changes_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    before = birch.dump()
    web.say("alder", "birch", slot_of(alder, key, birch, key=bytes(32)))
    after = birch.dump()
    assert after["unopened"] == before["unopened"] == []
    assert after["entries"] == before["entries"]
    assert birch.core.open(key) == record(1)


def test_an_answer_that_comes_twice_is_taken_once(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    release_badly(alder, 1, to=birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    (answer,) = web.frames(SealedAgain)
    before = birch.dump()
    web.say("alder", "birch", answer, answer)
    assert birch.dump()["unopened"] == before["unopened"]
    refused = web["birch"].gossip.metrics.value(metrics.RESEALS_REFUSED, UnknownEpochError.code)
    assert refused == 2
    assert web.linked("alder", "birch")


def test_only_what_was_set_aside_is_said_to_open_late(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    (one,) = release_badly(alder, 1, to=birch)
    pass_on(alder, birch)
    (notice,) = birch.core.resealing.notices(alder.id)
    with alder.core.logged():
        alder.core.resealing.take_notice(notice)
    (answer,) = alder.core.resealing.answers(birch.id)
    with birch.core.logged():
        birch.core.resealing.take_slot(answer)
    (two,) = release_badly(alder, 2, to=birch)
    pass_on(alder, birch)
    assert birch.shows() == ids(1, 2)
    assert acts(birch, one) == [(OPENED_LATE, (one,))]
    assert acts(birch, two) == []


def test_a_signature_that_does_not_verify_is_the_fault_of_the_peer(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    forged = replace(notice_of(birch, key), signature=bytes(64))
    web.say("birch", "alder", forged)
    assert silent(web)
    assert web["alder"].gossip.metrics.value(metrics.BAD_SIGNATURES, "birch") == 1
    with suppress(KeyError):
        for _ in range(limits.MAX_REFUSALS_PER_LINK):
            web.say("birch", "alder", forged)
    assert not web.linked("alder", "birch")


def test_nobody_speaks_for_another(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    (key,) = release_badly(alder, 1, to=birch, also=(cedar,))
    pass_on(alder, birch)
    pass_on(alder, cedar)
    answer = slot_of(alder, key, birch, key=alder.core.epoch(key).key)
    for giver, taker, frame in (
        (cedar, alder, notice_of(birch, key)),
        (cedar, birch, answer),
        (alder, cedar, answer),
    ):
        web = Web(giver, taker)
        web.link(giver.name, taker.name)
        web.say(giver.name, taker.name, frame)
        assert web.frames(Bye, taker.name, giver.name) == [Bye("untrusted-key")]
    assert waits_for(birch) == {key}


def test_a_slot_whose_key_is_another_than_that_of_the_epoch_is_found_out(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    wire = with_wrong_key(alder, birch)
    birch.core.take([wire], giver=alder.id)
    opener = envelope.parse(wire).id
    assert waits_for(birch) == {opener}
    (notice,) = birch.core.resealing.notices(alder.id)
    assert notice.notice.fault is Fault.KEY


def with_wrong_key(author: Station, reader: Station) -> bytes:
    """Return an opener of *author* in whose slot for *reader* another key than its own stands."""
    cards = author.core.trust.recipients([reader.id], now=author.clock.now())
    audience: Audience = envelope.audience_of(author.core.card, cards, (), now=author.clock.now())
    key, other = bytes(32), bytes(31) + b"\1"
    now = author.clock.now()
    header = Header(
        author.core.trust.own.network, author.id, author.core.card_n, 1, bytes(16), 1, suite.ZERO,
        now, now + DAY, envelope.KIND_RECORD, 1, None,
        suite.digest("audience", audience.encode()), None,
    )  # fmt: skip
    pre = header.encode()
    digest = suite.digest("pre", pre)
    seals = {seal.ekid: seal.public for card in (author.core.card, *cards.values())
             for seal in card.seal}  # fmt: skip
    slots = tuple(
        suite.seal_to(seals[ekid], what, suite.label("slot") + digest + ekid)
        for ekid, what in ((audience.author_ekid, key), (audience.recipients[0][1], other))
    )
    return envelope._seal(
        pre, record(1), key, author.vault.message, audience=audience.encode(), slots=slots
    ).wire


def test_a_body_that_alone_does_not_open_is_nothing_to_ask_for(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    pass_on(alder, birch)
    opener = alder.core.store.scalar("SELECT opener FROM own_streams")
    epoch = alder.core.epoch(opener)
    alder.core._epochs[opener] = replace(epoch, key=bytes(32))
    key = alder.release(2, birch)
    pass_on(alder, birch)
    assert set_aside(birch) == {key}
    assert waits_for(birch) == set()
    assert "quarantined" in birch.notices()


def test_an_author_that_cannot_open_its_own_slot_says_so_to_its_operator(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    release_badly(alder, 1, to=birch)
    pass_on(alder, birch)
    lose_key(alder)
    alder.close()
    for path in alder.home.path.glob("case.db*"):
        path.unlink()
    alder.open()
    assert set_aside(alder), "it cannot open its own by now"
    assert waits_for(alder) == set(), "which nobody else can mend"
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(limits.RESEAL_RETRY_MS // 1_000 + SOON)
    assert silent(web)
    assert "some of them could not be sealed again" in alder.notices()["sealed-again"]
    assert EntryKind.ACCESS not in alder.kinds()
