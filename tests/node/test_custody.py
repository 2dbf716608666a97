"""Custody: what a carrier takes, refuses without blame, and lets go when it owes it to nobody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from node import metrics
from node.intake import Taken, id_of
from node.outbox import _OWED
from node.streams import key_of
from protocol import envelope, limits
from protocol.custody import Bound, Room, parse_stub, stub_of
from protocol.errors import LogCorruptionError
from protocol.frames import Deliver, Refuse, Want
from protocol.frontier import HEAD_SIZE, Have
from protocol.quota import NOTICE_MS
from tests.node.factories import (
    DAY,
    Station,
    World,
    copied,
    full_disk,
    hand,
    made_once,
    pass_on,
    record,
    seep,
)
from tests.node.wiring import Web

SECOND = 1_000


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def four(world: World) -> list[Station]:
    return [world[name] for name in ("alder", "birch", "cedar", "dogwood")]


def written(author: Station, numbers: Sequence[int], *to: Station, by: Station) -> list[bytes]:
    """Let *author* release incidents that *by* may carry."""
    return [author.release(number, *to, carriers=[by]) for number in numbers]


def size(author: Station, *keys: bytes) -> int:
    return sum(len(author.envelope(key).wire) for key in keys)


def codes(taken: Taken) -> list[tuple[bytes, str]]:
    return [(refusal.envelope_id, refusal.code) for refusal in taken.refusals]


def waiting(carrier: Station, recipient: Station) -> int:
    """Return what counts as waiting for *recipient*."""
    return carrier.core.outbox.custody.held(Room(Bound.RECIPIENT, recipient.id))


def given(carrier: Station, giver: Station) -> int:
    """Return what counts as brought by *giver*."""
    return carrier.core.outbox.custody.held(Room(Bound.GIVER, giver.id))


# --- bounds ------------------------------------------------------------------------------------
def test_what_goes_beyond_the_mailbox_of_a_recipient_is_put_off_and_blames_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, dogwood = four(world)
    keys = written(alder, range(4), birch, by=cedar)
    other = written(alder, [9], dogwood, by=cedar)
    monkeypatch.setattr(limits, "MAX_CUSTODY_RECIPIENT", size(alder, *keys[:3]))
    before = cedar.core.log.size
    taken = hand(alder, cedar, *keys, *other)
    assert taken.stored == (*keys[:3], *other), "another mailbox is not touched"
    assert codes(taken) == [(keys[3], "custody-full")]
    assert taken.refusals[0].retry_after == limits.CUSTODY_RETRY_MS
    assert (taken.faults, taken.bad_signatures) == (0, 0)
    assert not cedar.core.store.holds(keys[3])
    assert cedar.core.log.size == before + 4
    assert waiting(cedar, birch) == size(alder, *keys[:3])
    assert given(cedar, alder) == size(alder, *keys[:3], *other)
    assert hand(alder, cedar, *keys[:3]).known == 3, "what is held is receipted again"
    assert cedar.core.verify()["envelopes"] == 4


def test_who_is_itself_the_recipient_takes_whatever_comes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, _ = four(world)
    monkeypatch.setattr(limits, "MAX_CUSTODY_RECIPIENT", 1)
    monkeypatch.setattr(limits, "MAX_CUSTODY_GIVER", 1)
    keys = written(alder, range(3), birch, by=cedar)
    assert hand(alder, birch, *keys).stored == tuple(keys)
    assert hand(alder, cedar, *keys).stored == ()


def test_no_giver_uses_up_the_room_of_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, dogwood = four(world)
    keys = written(alder, range(3), birch, by=cedar)
    others = written(dogwood, range(10, 13), birch, by=cedar)
    monkeypatch.setattr(limits, "MAX_CUSTODY_GIVER", size(alder, *keys[:2]))
    assert codes(hand(alder, cedar, *keys)) == [(keys[2], "custody-full")]
    assert hand(dogwood, cedar, *others[:2]).stored == tuple(others[:2])
    notices = [note.room for note in cedar.core.outbox.custody.kept_out()]
    assert notices == [Room(Bound.GIVER, alder.id)]


def test_an_envelope_for_several_counts_whole_for_each_and_once_for_its_giver(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, dogwood = four(world)
    (both,) = written(alder, [1], birch, dogwood, by=cedar)
    (one,) = written(alder, [2], dogwood, by=cedar)
    hand(alder, cedar, both)
    assert (waiting(cedar, birch), waiting(cedar, dogwood)) == (size(alder, both),) * 2
    assert given(cedar, alder) == size(alder, both)
    monkeypatch.setattr(limits, "MAX_CUSTODY_RECIPIENT", size(alder, both) + 10)
    assert codes(hand(alder, cedar, one)) == [(one, "custody-full")]
    assert [n.room for n in cedar.core.outbox.custody.kept_out()] == [
        Room(Bound.RECIPIENT, dogwood.id)
    ]


# --- counting ----------------------------------------------------------------------------------
def test_a_receipt_makes_room_for_the_recipient_and_its_author_having_it_for_the_giver(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, _ = four(world)
    keys = written(alder, range(4), birch, by=cedar)
    monkeypatch.setattr(limits, "MAX_CUSTODY_RECIPIENT", size(alder, *keys[:2]))
    assert len(hand(alder, cedar, *keys[:3]).refusals) == 1
    pass_on(cedar, birch)
    world.clock.advance(SECOND)
    assert hand(alder, cedar, keys[2]).stored == (keys[2],)
    assert waiting(cedar, birch) == size(alder, keys[2])
    assert given(cedar, alder) == size(alder, *keys[:3]), "alder has no receipt yet"
    monkeypatch.setattr(limits, "MAX_CUSTODY_GIVER", size(alder, *keys[:3]))
    for receipts in cedar.core.receipts.for_author(alder.id, passed=frozenset()):
        pairs = [(item.envelope_id, birch.id) for item in receipts.items]
        cedar.core.receipts_settled(alder.id, pairs)
    world.clock.advance(SECOND)
    assert hand(alder, cedar, keys[3]).stored == (keys[3],)
    assert given(cedar, alder) == size(alder, *keys[2:])


def test_the_end_of_custody_makes_room_and_dating_ahead_does_not_put_it_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, _ = four(world)
    world.clock.advance(120 * DAY)
    keys = written(alder, range(2), birch, by=cedar)
    world.clock.advance(-120 * DAY)  # so these are dated ahead
    monkeypatch.setattr(limits, "MAX_CUSTODY_RECIPIENT", size(alder, keys[0]))
    assert len(hand(alder, cedar, *keys).refusals) == 1
    world.clock.advance(90 * DAY - 1)
    assert cedar.core.outbox.expire_forwards() == 0
    assert hand(alder, cedar, keys[1]).stored == ()
    world.clock.advance(SECOND)
    assert cedar.core.outbox.expire_forwards() == 1
    assert hand(alder, cedar, keys[1]).stored == (keys[1],)


def test_the_count_is_right_after_a_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alder, birch, cedar, dogwood = four(world)
    keys = written(alder, range(4), birch, by=cedar)
    read = written(dogwood, range(10, 12), birch, alder, by=cedar)
    hand(alder, cedar, *keys[:3])
    hand(dogwood, cedar, *read)
    pass_on(cedar, alder)
    monkeypatch.setattr(limits, "MAX_CUSTODY_RECIPIENT", 10**6)
    cedar.reopen()
    hand(alder, cedar, keys[3])
    assert waiting(cedar, birch) == size(alder, *keys) + size(dogwood, *read)
    assert waiting(cedar, alder) == 0
    assert given(cedar, alder) == size(alder, *keys)
    assert given(cedar, dogwood) == size(dogwood, *read)


def test_what_was_undone_does_not_count(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    keys = written(alder, range(3), birch, by=cedar)

    class PowerError(Exception):
        pass

    for _ in range(3):
        with pytest.raises(PowerError), cedar.core.logged():
            cedar.core.take_in([alder.envelope(k).wire for k in keys[:2]], giver=alder.id)
            raise PowerError
    with full_disk(cedar):
        many = written(alder, range(10, 80), birch, by=cedar)
        assert {code for _, code in codes(hand(alder, cedar, *keys, *many))} == {"busy"}
    world.clock.advance(SECOND)
    assert hand(alder, cedar, *keys[:1]).stored
    assert waiting(cedar, birch) == given(cedar, alder) == size(alder, keys[0])


def test_counting_anew_within_a_transaction_that_is_undone_leaves_no_room_that_is_not_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, _ = four(world)
    keys = written(alder, range(3), birch, by=cedar)
    monkeypatch.setattr(limits, "MAX_CUSTODY_RECIPIENT", size(alder, *keys[:2]))
    hand(alder, cedar, *keys[:2])
    receipts = hand(cedar, birch, *keys[:2]).receipts
    world.clock.advance(SECOND)

    class PowerError(Exception):
        pass

    wire = alder.envelope(keys[2]).wire
    with pytest.raises(PowerError), cedar.core.logged():
        for each in receipts:
            cedar.core.take_receipts(each)
        assert cedar.core.take_in([wire], giver=alder.id).stored
        raise PowerError
    world.clock.advance(SECOND)
    assert codes(hand(alder, cedar, keys[2])) == [(keys[2], "custody-full")]


def test_a_full_mailbox_is_counted_once_a_second_whoever_knocks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, _ = four(world)
    keys = written(alder, range(60), birch, by=cedar)
    monkeypatch.setattr(limits, "MAX_CUSTODY_RECIPIENT", size(alder, *keys[:2]))
    counts = 0

    def trace(sql: str) -> None:
        nonlocal counts
        counts += sql.startswith(_OWED[:20])

    cedar.core.store._connection.set_trace_callback(trace)
    for _ in range(3):
        assert len(hand(alder, cedar, *keys).refusals) == 58
    assert counts == 1
    world.clock.advance(SECOND)
    for key in keys[2:]:
        assert hand(alder, cedar, key).refusals
    assert counts == 2
    for _ in range(5):
        cedar.core.intake.forget()
        hand(alder, cedar, keys[5])
    assert counts == 2, "nor does a peer whose faults undo transactions"
    cedar.core.store._connection.set_trace_callback(None)


# --- what comes of a refusal -------------------------------------------------------------------
def test_an_author_turns_to_another_carrier_and_offers_again_when_there_is_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, dogwood = four(world)
    filler = written(dogwood, [9], birch, by=cedar)
    hand(dogwood, cedar, *filler)
    monkeypatch.setattr(limits, "MAX_CUSTODY_RECIPIENT", size(dogwood, *filler) + 10)
    key = alder.release(1, birch, carriers=[cedar])
    web = Web(alder, birch, cedar)
    web.link("alder", "cedar")
    web.run(5)
    refused = [i for f in web.frames(Refuse, "cedar", "alder") for i in f.items]
    assert [(item.envelope_id, item.code) for item in refused] == [(key, "custody-full")]
    assert web.linked("alder", "cedar"), "it is nobody's fault"
    row = alder.core.outbox.row(key, cedar.id)
    assert row is not None
    assert (row["state"], row["code"]) == ("queued", "custody-full")
    web.run(60)
    assert len(web.frames(Refuse, "cedar", "alder")) == 1, "it waits as it was asked to"
    web.link("birch", "cedar")
    web.run(30)
    assert birch.core.store.holds(filler[0])
    web.cut("birch", "cedar")
    web.run(limits.CUSTODY_RETRY_MS // SECOND)
    assert alder.state(key, cedar) == "carried"
    both = alder.release(2, birch, carriers=[cedar, dogwood])
    hand(dogwood, cedar, *written(dogwood, [10], birch, by=cedar))
    web.run(5)
    assert alder.state(both, cedar) == alder.state(both, dogwood) == "queued"
    assert alder.core.outbox.row(both, cedar.id)["code"] == "custody-full"  # type: ignore[index]


def test_the_operator_is_told_who_fills_a_mailbox_and_the_metrics_say_how_full_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, dogwood = four(world)
    filling = written(dogwood, range(10, 13), birch, by=cedar)
    (key,) = written(alder, [1], birch, by=cedar)
    monkeypatch.setattr(limits, "MAX_CUSTODY_RECIPIENT", size(dogwood, *filling))
    hand(dogwood, cedar, *filling)
    assert "custody-full" not in cedar.notices()
    hand(alder, cedar, key)
    hand(alder, cedar, key)
    assert cedar.notices()["custody-full"] == (
        "no more is carried for birch until it fetches what waits: 2 envelopes were put off; "
        "most of that is of dogwood"
    )
    service = cedar.service()
    service.metrics_text()
    counts = service.network.metrics
    assert counts.value(metrics.CUSTODY_GIVEN, "dogwood") == size(dogwood, *filling)
    assert counts.value(metrics.CUSTODY_BYTES) == size(dogwood, *filling)
    assert counts.value(metrics.CUSTODY_KEPT_OUT, "birch") == 2
    world.clock.advance(NOTICE_MS)
    assert "custody-full" not in cedar.notices()

    monkeypatch.setattr(limits, "MAX_CUSTODY_GIVER", size(dogwood, *filling))
    hand(dogwood, cedar, dogwood.release(20, alder, carriers=[cedar]))
    assert cedar.notices()["custody-full"] == (
        "dogwood gave more to carry than one peer may: 1 envelope was put off"
    )


# --- letting go --------------------------------------------------------------------------------
def bytes_of(carrier: Station, key: bytes) -> bytes | None:
    wire: bytes | None = carrier.core.store.scalar("SELECT wire FROM envelopes WHERE id = ?", key)
    return wire


def through(world: World, *numbers: int) -> list[bytes]:
    """Let cedar carry incidents from alder to birch, and bring all receipts back."""
    alder, birch, cedar, _ = four(world)
    keys = written(alder, numbers, birch, by=cedar)
    alder.core.outbox.ask_carriers(frozenset({cedar.id}))
    seep(alder, cedar, birch)
    return keys


def test_bytes_are_let_go_once_the_author_holds_all_receipts_and_the_record_stays(
    world: World,
) -> None:
    alder, birch, cedar, dogwood = four(world)
    keys = written(alder, range(3), birch, dogwood, by=cedar)
    hand(alder, cedar, *keys)
    custody = cedar.core.outbox.custody
    assert custody.let_go() == 0
    pass_on(cedar, birch)
    assert custody.let_go() == 0, "dogwood has not got it"
    pass_on(cedar, dogwood)
    assert custody.let_go() == 0, "alder does not know yet"
    rows = {key: cedar.core.store.envelope(key) for key in keys}
    entries = cedar.dump()["entries"]
    for receipts in cedar.core.receipts.for_author(alder.id, passed=frozenset()):
        pairs = [(item.envelope_id, receipts.recipient) for item in receipts.items]
        cedar.core.receipts_settled(alder.id, pairs)
    assert [custody.let_go() for _ in range(3)] == [2, 1, 0], "what names an opener goes first"
    for key in keys:
        row = rows[key]
        assert row is not None
        assert cedar.core.store.envelope(key) == {**row, "wire": None}
        assert parse_stub(cedar.core.store.stub(key) or b"").header == alder.envelope(key).header
    assert cedar.dump()["entries"] == entries
    assert custody.given() == {}
    assert cedar.core.verify()["envelopes"] == 3
    cedar.reopen()
    assert cedar.core.verify()["receipts"] == 6


def test_the_opener_stays_while_somebody_waits_for_what_names_it(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    opener, second = written(alder, [1, 2], birch, by=cedar)
    third = alder.release(3, birch, carriers=[cedar])
    hand(alder, cedar, opener, second, third)
    custody = cedar.core.outbox.custody
    for receipts in hand(cedar, birch, opener, second).receipts:
        cedar.core.take_receipts(receipts)
    settle(alder, cedar)
    for _ in range(4):
        custody.let_go()
    assert bytes_of(cedar, second) is None
    assert bytes_of(cedar, opener) is not None
    pass_on(cedar, birch)
    settle(alder, cedar)
    for _ in range(4):
        custody.let_go()
    assert (bytes_of(cedar, third), bytes_of(cedar, opener)) == (None, None)
    fourth = alder.release(4, birch, carriers=[cedar])
    assert alder.envelope(fourth).header.opener == opener
    cedar.reopen()
    assert hand(alder, cedar, fourth).stored == (fourth,), "its epoch is known all the same"
    assert cedar.core.verify()["envelopes"] == 4


def settle(author: Station, carrier: Station) -> None:
    """Bring the author what the carrier has for it, and settle it."""
    for receipts in carrier.core.receipts.for_author(author.id, passed=frozenset()):
        author.core.take_receipts(receipts)
        pairs = [(item.envelope_id, receipts.recipient) for item in receipts.items]
        carrier.core.receipts_settled(author.id, pairs)


def test_bytes_are_let_go_when_custody_has_ended(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    keys = written(alder, range(2), birch, by=cedar)
    hand(alder, cedar, *keys)
    world.clock.at = alder.envelope(keys[1]).header.expires
    custody = cedar.core.outbox.custody
    assert custody.let_go() == 0, "it still counts as queued"
    assert cedar.core.outbox.expire_forwards() == 2
    while any(bytes_of(cedar, key) for key in keys):
        custody.let_go()
    assert cedar.core.verify()["envelopes"] == 2
    assert cedar.state(keys[0], birch) == "expired"


def test_what_was_let_go_is_receipted_again_and_nothing_of_it_is_offered(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    keys = through(world, 1, 2)
    while any(bytes_of(cedar, key) for key in keys):
        cedar.core.outbox.custody.let_go()
    cedar.reopen()
    size_before = cedar.core.log.size
    again = hand(alder, cedar, *keys)
    assert (again.stored, again.known, again.refusals) == ((), 2, ())
    assert [index for _, index in again.answers] == [
        cedar.core.store.envelope(key)["log_index"]  # type: ignore[index]
        for key in keys
    ]
    assert cedar.core.log.size == size_before
    assert cedar.core.store.wires(keys) == []
    with cedar.core.logged():
        cedar.core.outbox.refused(birch.id, [])
        cedar.core.outbox._send_opener(keys[1], birch.id)
    assert cedar.core.outbox.due(birch.id, limit=9, skip=frozenset()) == []


def test_letting_go_looks_at_a_bounded_part_at_a_time_and_gets_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.outbox._LET_GO_PAGE", 2)
    monkeypatch.setattr("node.outbox._LET_GO_MOST", 4)
    alder, birch, cedar, dogwood = four(world)
    stay = written(dogwood, range(20, 25), birch, by=cedar)
    hand(dogwood, cedar, *stay)
    keys = written(alder, range(9), birch, by=cedar)
    hand(alder, cedar, *keys)
    for receipts in hand(cedar, birch, *keys).receipts:
        cedar.core.take_receipts(receipts)
    settle(alder, cedar)
    gone = [cedar.core.outbox.custody.let_go() for _ in range(10)]
    assert max(gone) <= 4
    assert sum(gone) == 9
    assert all(bytes_of(cedar, key) for key in stay)


def test_a_crash_in_letting_go_leaves_it_whole(world: World) -> None:
    cedar = world["cedar"]
    (key,) = through(world, 1)
    before = bytes_of(cedar, key)

    class PowerError(Exception):
        pass

    with pytest.raises(PowerError), cedar.core.store.transaction():
        cedar.core.outbox.custody._let_go_one(key)
        raise PowerError
    assert bytes_of(cedar, key) == before
    assert cedar.core.store.stub(key) is None


TAMPERING = {
    "the bytes of what is owed": "UPDATE envelopes SET wire = NULL WHERE id = :owed",
    "the bytes, with a stub that says so": (
        "INSERT INTO stubs SELECT :owed, :stub",
        "UPDATE envelopes SET wire = NULL WHERE id = :owed",
    ),
    "the receipt that allowed it": "DELETE FROM receipts WHERE envelope_id = :gone",
    "its stub": "DELETE FROM stubs WHERE envelope_id = :gone",
    "a byte of its stub": (
        "UPDATE stubs SET stub = CAST(substr(stub, 1, 60) || CASE substr(stub, 61, 1) "
        "WHEN x'00' THEN x'01' ELSE x'00' END || substr(stub, 62) AS BLOB)"
    ),
    "when it expired": "UPDATE envelopes SET expires = 1 WHERE id = :gone",
    "when it arrived": "UPDATE envelopes SET arrived = 1 WHERE id = :gone",
    "its number": "UPDATE envelopes SET seq = seq + 7 WHERE id = :gone",
    "its part": "UPDATE envelopes SET part = 'recipient' WHERE id = :gone",
    "all of it": "DELETE FROM envelopes WHERE id = :gone",
}


@pytest.mark.parametrize("what", TAMPERING)
def test_nothing_that_is_taken_away_or_changed_passes_for_let_go(world: World, what: str) -> None:
    alder, birch, cedar, _ = four(world)
    _, gone = through(world, 1, 2)
    (owed,) = written(alder, [3], birch, by=cedar)
    hand(alder, cedar, owed)
    while bytes_of(cedar, gone):
        cedar.core.outbox.custody.let_go()
    assert cedar.core.verify()["envelopes"] == 3
    values = {"gone": gone, "owed": owed, "stub": stub_of(alder.envelope(owed)).encode()}
    statements = TAMPERING[what]
    with cedar.core.store.transaction():
        for sql in [statements] if isinstance(statements, str) else statements:
            cedar.core.store._connection.execute(sql, values)
    with pytest.raises(LogCorruptionError):
        cedar.core.verify()


def test_what_a_recipient_holds_is_never_let_go_nor_may_be_gone(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    (key,) = through(world, 1)
    for station in (alder, birch):
        for _ in range(3):
            assert station.core.outbox.custody.let_go() == 0
        assert bytes_of(station, key)
    stub = stub_of(alder.envelope(key)).encode()
    with birch.core.store.transaction():
        birch.core.store.insert("stubs", {"envelope_id": key, "stub": stub})
        birch.core.store.run("UPDATE envelopes SET wire = NULL WHERE id = ?", key)
    with pytest.raises(LogCorruptionError):
        birch.core.verify()


# --- afterwards --------------------------------------------------------------------------------
def let_go(carrier: Station) -> None:
    """Let go all that can be."""
    for _ in range(3):
        carrier.core.outbox.custody.let_go()


def test_the_sweep_lets_go_and_nothing_of_it_is_told_offered_or_fetched_again(
    world: World,
) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, cedar)
    web.link("alder", "cedar")
    keys = written(alder, range(5), birch, by=cedar)
    web.run(5)
    web.stop("alder")
    web.start(closed(birch))
    web.link("birch", "cedar")
    web.run(5)
    assert len(birch.shows()) == 5
    web.start(alder)
    web.link("alder", "cedar")
    web.run(180)
    assert [bytes_of(cedar, key) for key in keys] == [None] * 5
    stream = key_of(alder.envelope(keys[0]))
    have = cedar.core.streams.have(stream)
    assert have is not None
    assert have.contiguous == 5, "it is counted as seen"
    assert cedar.core.streams.custody(birch.id) == []
    assert cedar.core.streams.wires(stream, ((1, 5),), envelopes=9, size=10**6) == ([], ())
    web.passed.clear()
    web.say("birch", "cedar", Want(stream, ((1, 5),)))
    web.run(30)
    assert not web.frames(Deliver)
    assert web.linked("birch", "cedar")
    for station in (alder, birch, cedar):
        assert station.core.verify()["envelopes"] == 5


def test_only_what_is_still_kept_is_told_to_a_recipient(world: World) -> None:
    alder, birch, cedar, dogwood = four(world)
    keys = written(alder, range(6), birch, dogwood, by=cedar)
    hand(alder, cedar, *keys)
    for taker, numbers in ((birch, (0, 1, 2, 4)), (dogwood, (0, 1, 2, 4))):
        for receipts in hand(cedar, taker, *(keys[n] for n in numbers)).receipts:
            cedar.core.take_receipts(receipts)
    settle(alder, cedar)
    let_go(cedar)
    (item,) = cedar.core.streams.custody(birch.id)
    opener = alder.envelope(keys[0])
    assert item == (key_of(opener), Have(1, opener.id[:HEAD_SIZE], ((4, 4), (6, 6))))
    pairs, left = cedar.core.streams.wires(item[0], ((1, 6),), envelopes=2, size=10**6)
    assert [key for key, _ in pairs] == [keys[0], keys[3]]
    assert left == ((5, 6),)
    for taker in (birch, dogwood):
        pass_on(cedar, taker)
    settle(alder, cedar)
    let_go(cedar)
    assert cedar.core.streams.custody(birch.id) == []


def test_a_fork_of_what_was_let_go_is_found_all_the_same(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    (first,) = written(alder, [1], birch, by=cedar)
    honest = alder.release(2, birch, carriers=[cedar])
    alder.core.outbox.ask_carriers(frozenset({cedar.id}))
    twin = twin_of(alder, honest)
    seep(alder, cedar, birch)
    let_go(cedar)
    assert bytes_of(cedar, honest) is None
    cedar.reopen()
    taken = cedar.core.take([twin], giver=alder.id)
    (fork,) = taken.forks
    assert {fork.first.id, fork.second.id} == {honest, id_of(twin)}
    assert cedar.core.streams.forks(fork.key) == [fork.encode()]
    assert first in {row["id"] for row in cedar.core.store.rows("SELECT id FROM envelopes")}


def twin_of(author: Station, key: bytes) -> bytes:
    """Return another envelope that *author* signs for the place of one that it has released."""
    held = author.envelope(key)
    opener = author.envelope(held.header.opener or key)
    epoch = envelope.unseal_epoch(
        envelope.VerifiedEnvelope(opener), node_id=author.id, unsealer=author.vault
    )
    return envelope.continue_epoch(
        held.header, record(77), epoch=epoch, signer=author.vault.message
    ).wire


def test_a_reader_that_lost_what_was_let_go_blames_no_carrier_for_it(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    birch.close()
    backup = shutil.copytree(birch.home.path, birch.home.path.with_name("backup"))
    birch.open()
    keys = through(world, *range(4))
    let_go(cedar)
    birch.close()
    shutil.rmtree(birch.home.path)
    shutil.copytree(backup, birch.home.path)
    birch.open(reopen=True)  # cedar holds heads of its log that the copy does not know
    web = Web(birch, cedar)
    web.link("birch", "cedar")
    web.run(240)
    assert not web.frames(Want, "birch", "cedar"), "it is not told of what it cannot get"
    assert web["birch"].gossip.metrics.value(metrics.STALLS, "cedar") == 0
    assert birch.shows() == set()
    web.start(closed(alder))
    web.link("alder", "birch")
    web.run(60)
    assert len(birch.shows()) == len(keys)


def closed(station: Station) -> Station:
    station.close()
    return station
