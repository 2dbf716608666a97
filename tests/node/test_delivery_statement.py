"""Delivery statements of real databases, and the record of who was linked that they rest on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keys.fingerprint import format_node_id
from node import delivery
from node.clock import rfc3339
from node.presence import KEPT_MS, REFRESH_MS, SINCE, Presence, Span
from node.store import Store
from protocol import limits
from protocol.delivery_statement import (
    Claim,
    Delivered,
    DeliveryStatement,
    Owed,
    Report,
    Unreachable,
    check_statement,
)
from protocol.errors import BusyError, ConflictError, LogCorruptionError, NotFoundError
from tests.node.factories import (
    DAY,
    MINUTE,
    NOW,
    Station,
    World,
    copied,
    dump,
    full_disk,
    hand,
    incident_id,
    made_once,
    record,
)

PEER = b"\1" * 32
OTHER = b"\2" * 32


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory)


@pytest.fixture
def world(homes: Path, tmp_path: Path) -> Iterator[World]:
    with copied(homes, tmp_path) as world:
        yield world


@dataclass
class Desk:
    """One node with its record of links, as a running process holds both."""

    station: Station
    presence: Presence = field(init=False)

    def __post_init__(self) -> None:
        self.presence = Presence(self.station.core.store)

    @property
    def now(self) -> int:
        return self.station.clock.now()

    def restart(self, *, locked: bool = False) -> None:
        """Start again without a word of farewell: nothing is closed."""
        self.station.reopen(locked=locked)
        self.presence = Presence(self.station.core.store)

    def link(self, *peers: Station) -> None:
        for peer in peers:
            self.presence.note_open(peer.id, self.now)

    def unlink(self, *peers: Station) -> None:
        for peer in peers:
            self.presence.note_close(peer.id, self.now)

    def make(self, envelope_id: bytes) -> bytes:
        return delivery.make(self.station.core, self.presence, envelope_id, now=self.now)

    def check(self, envelope_id: bytes) -> Report:
        report = check_statement(self.make(envelope_id), author=self.station.id)
        assert report.genuine, [check for check in report.checks if not check.ok]
        return report

    def says(self, envelope_id: bytes) -> DeliveryStatement:
        said = self.check(envelope_id).statement
        assert said is not None
        return said

    def states(self, envelope_id: bytes) -> dict[bytes, str]:
        items = self.says(envelope_id).items
        return {item.node_id: type(item).__name__.lower() for item in items}


@pytest.fixture
def alder(world: World) -> Desk:
    return Desk(world["alder"])


def over(desk: Desk) -> None:
    """Let the window pass."""
    desk.station.clock.advance(limits.REACHABLE_WINDOW_MS + 1)


def offered(desk: Desk, envelope_id: bytes) -> None:
    """Let the outbox say that it was offered now, which takes a link."""
    sql = "UPDATE outbox SET first_at = ? WHERE envelope_id = ?"
    desk.station.core.store.run(sql, desk.now, envelope_id)


def give(giver: Station, taker: Station, *envelope_ids: bytes) -> None:
    """Give these envelopes and take the receipts."""
    for receipts in hand(giver, taker, *envelope_ids).receipts:
        giver.core.take_receipts(receipts)


# --- statements ------------------------------------------------------------------------------
def test_each_recipient_is_delivered_owed_or_unreachable(world: World, alder: Desk) -> None:
    birch, cedar, dogwood = world["birch"], world["cedar"], world["dogwood"]
    alder.link(dogwood)
    world.clock.advance(5 * MINUTE)
    alder.unlink(dogwood)
    world.clock.advance(5 * MINUTE)
    alder.link(birch, cedar)
    sent = alder.station.release(1, birch, cedar, dogwood)
    give(alder.station, birch, sent)
    over(alder)
    said = alder.says(sent)
    found = {item.node_id: item for item in said.items}
    assert isinstance(found[birch.id], Delivered)
    released = NOW + 10 * MINUTE
    assert found[cedar.id] == Owed(cedar.id, released, released + limits.REACHABLE_WINDOW_MS)
    assert found[dogwood.id] == Unreachable(dogwood.id, NOW + 5 * MINUTE)
    assert (said.released, said.made) == (released, released + limits.REACHABLE_WINDOW_MS + 1)
    assert said.claim is Claim.FAILS
    give(alder.station, cedar, sent)
    assert alder.check(sent).holds
    give(alder.station, dogwood, sent)
    assert set(alder.states(sent).values()) == {"delivered"}


def test_the_claim_is_open_until_the_window_is_over(world: World, alder: Desk) -> None:
    sent = alder.station.release(1, world["birch"], world["cedar"])
    give(alder.station, world["birch"], sent)
    assert alder.says(sent).claim is Claim.OPEN
    over(alder)
    assert alder.says(sent).claim is Claim.HOLDS


@pytest.mark.parametrize(
    ("opens", "closes", "state"),
    [
        (-10 * MINUTE, -1, "unreachable"),
        (-10 * MINUTE, 0, "owed"),
        (limits.REACHABLE_WINDOW_MS, limits.REACHABLE_WINDOW_MS + MINUTE, "owed"),
        (limits.REACHABLE_WINDOW_MS + 1, limits.REACHABLE_WINDOW_MS + MINUTE, "unreachable"),
        (1, 2, "owed"),
    ],
)
def test_only_a_link_within_the_window_makes_a_debt(
    world: World, alder: Desk, opens: int, closes: int, state: str
) -> None:
    birch, released = world["birch"], NOW + 20 * MINUTE
    world.clock.at = released
    sent = alder.station.release(1, birch)
    alder.presence.note_open(birch.id, released + opens)
    alder.presence.note_close(birch.id, released + closes)
    world.clock.at = released + DAY
    assert alder.states(sent) == {birch.id: state}


def test_whoever_was_offered_it_is_owed_even_if_no_record_says_that_it_was_linked(
    world: World, alder: Desk
) -> None:
    birch = world["birch"]
    sent = alder.station.release(1, birch)
    world.clock.advance(MINUTE)
    offered(alder, sent)
    over(alder)
    assert alder.says(sent).items == (Owed(birch.id, NOW + MINUTE, NOW + MINUTE),)


def test_an_offer_after_the_window_makes_no_debt(world: World, alder: Desk) -> None:
    sent = alder.station.release(1, world["birch"])
    over(alder)
    offered(alder, sent)
    assert alder.states(sent) == {world["birch"].id: "unreachable"}


def test_a_receipt_that_came_by_way_of_a_carrier_counts_and_the_carriers_own_does_not(
    world: World, alder: Desk
) -> None:
    birch, cedar = world["birch"], world["cedar"]
    sent = alder.station.release(1, birch, carriers=[cedar])
    give(alder.station, cedar, sent)
    over(alder)
    assert alder.states(sent) == {birch.id: "unreachable"}
    give(cedar, birch, sent)
    for receipts in cedar.core.receipts.for_author(alder.station.id, passed=frozenset()):
        alder.station.core.take_receipts(receipts)
    assert alder.states(sent) == {birch.id: "delivered"}


def test_a_locked_node_makes_statements(world: World, alder: Desk) -> None:
    sent = alder.station.release(1, world["birch"])
    give(alder.station, world["birch"], sent)
    alder.restart(locked=True)
    assert alder.station.core.vault is None
    assert alder.check(sent).holds


def test_the_same_receipts_give_the_same_statement_whenever_and_wherever_it_is_made(
    world: World, alder: Desk
) -> None:
    birch, cedar, dogwood = world["birch"], world["cedar"], world["dogwood"]
    alder.link(birch, cedar)
    sent = alder.station.release(1, birch, cedar, dogwood)
    give(alder.station, birch, sent)
    over(alder)
    alder.presence.refresh([birch.id, cedar.id], alder.now)
    first = alder.says(sent)
    for later in (0, MINUTE, DAY, 80 * DAY):
        world.clock.at = first.made + later
        alder.presence.refresh([birch.id, cedar.id, dogwood.id], alder.now)
        again = alder.says(sent)
        assert again.facts == first.facts
        assert again.items == first.items
        assert (again.encode() == first.encode()) == (later == 0)
    alder.restart(locked=True)
    assert alder.says(sent).facts == first.facts


def test_making_a_statement_changes_nothing(world: World, alder: Desk) -> None:
    sent = alder.station.release(1, world["birch"], world["cedar"])
    alder.link(world["cedar"])
    give(alder.station, world["birch"], sent)
    before = dump(alder.station.home.node_db)
    alder.make(sent)
    assert dump(alder.station.home.node_db) == before


def test_an_envelope_in_the_middle_of_an_epoch_has_the_audience_of_its_opener(
    world: World, alder: Desk
) -> None:
    birch, cedar = world["birch"], world["cedar"]
    sent = [alder.station.release(number, birch, cedar) for number in (1, 2)]
    assert alder.station.envelope(sent[1]).audience is None
    give(alder.station, birch, *sent)
    assert alder.states(sent[1]) == {birch.id: "delivered", cedar.id: "unreachable"}


def test_a_statement_cannot_be_made_of_what_another_released(world: World, alder: Desk) -> None:
    sent = alder.station.release(1, world["birch"])
    give(alder.station, world["birch"], sent)
    birch = Desk(world["birch"])
    with pytest.raises(ConflictError, match="only the author"):
        birch.make(sent)
    with pytest.raises(NotFoundError):
        birch.make(bytes(32))


def test_an_own_envelope_that_came_back_from_a_peer_is_stated_once_all_receipts_are_here(
    world: World, alder: Desk
) -> None:
    """The record of links was lost with the database that released it."""
    birch, cedar = world["birch"], world["cedar"]
    sent = alder.station.release(1, birch, cedar)
    alder.station.core.store.run("UPDATE envelopes SET giver = ?", birch.id)
    give(alder.station, birch, sent)
    with pytest.raises(ConflictError, match="not known any more"):
        alder.make(sent)
    give(alder.station, cedar, sent)
    assert alder.check(sent).holds


def test_a_clock_behind_the_release_makes_no_statement(world: World, alder: Desk) -> None:
    sent = alder.station.release(1, world["birch"])
    world.clock.at -= 1
    with pytest.raises(ConflictError, match="clock"):
        alder.make(sent)


def test_what_is_forgotten_is_not_called_unreachable(world: World, alder: Desk) -> None:
    birch, cedar = world["birch"], world["cedar"]
    alder.link(birch, cedar)
    sent = alder.station.release(1, birch, cedar)
    give(alder.station, birch, sent)
    world.clock.advance(MINUTE)
    alder.unlink(birch, cedar)
    for _ in range(3):  # two later links each, so that the first is not the newest old one
        world.clock.advance(KEPT_MS)
        alder.link(birch, cedar)
        world.clock.advance(MINUTE)
        alder.unlink(birch, cedar)
    alder.station.core.store.run("UPDATE outbox SET first_at = NULL")
    assert alder.states(sent)[cedar.id] == "owed"
    assert alder.presence.compact(alder.now) > 0
    with pytest.raises(ConflictError, match="not known any more"):
        alder.make(sent)
    give(alder.station, cedar, sent)
    assert alder.check(sent).holds, "receipts need no record of links"


def test_a_damaged_receipt_is_not_signed(world: World, alder: Desk) -> None:
    sent = alder.station.release(1, world["birch"])
    give(alder.station, world["birch"], sent)
    store = alder.station.core.store
    frame: bytes = store.scalar("SELECT frame FROM receipts")
    for damaged in (frame[:-1], frame[:-1] + bytes([frame[-1] ^ 1])):
        store.run("UPDATE receipts SET frame = ?", damaged)
        with pytest.raises(LogCorruptionError, match="receipt of birch"):
            alder.make(sent)


def test_a_receipt_that_is_not_heard_is_no_delivery(world: World, alder: Desk) -> None:
    birch = world["birch"]
    sent = alder.station.release(1, birch)
    alder.link(birch)
    hand(alder.station, birch, sent)
    over(alder)
    assert alder.states(sent) == {birch.id: "owed"}


def test_a_check_is_shown_as_json_with_names_and_times(world: World, alder: Desk) -> None:
    birch, cedar, dogwood = world["birch"], world["cedar"], world["dogwood"]
    alder.link(cedar)
    sent = alder.station.release(1, birch, cedar, dogwood)
    give(alder.station, birch, sent)
    over(alder)
    row: dict[str, Any] = json.loads(json.dumps(delivery.report_row(alder.check(sent))))
    said = row["statement"]
    assert (row["genuine"], row["holds"], said["claim"]) == (True, False, "fails")
    assert (said["authority"], said["author"]) == ("Alder", format_node_id(alder.station.id))
    assert said["window_s"] == 150
    shown = {item.pop("authority"): item for item in said["recipients"]}
    assert shown["Birch"]["state"] == "delivered"
    assert shown["Cedar"]["linked_until"] == rfc3339(NOW + limits.REACHABLE_WINDOW_MS)
    assert shown["Dogwood"] == {
        "node_id": format_node_id(dogwood.id), "state": "unreachable", "last_seen": None,
    }  # fmt: skip
    broken = delivery.report_row(check_statement(b"x"))
    assert broken["statement"] is None
    assert broken["checks"][0]["code"]


def test_envelope_ids_are_told_from_references() -> None:
    assert delivery.parse_envelope_id("ab" * 32) == b"\xab" * 32
    for text in ("PI-XA-2026-7K3F9Q", "ab" * 31, "zz" * 32, incident_id(1), ""):
        assert delivery.parse_envelope_id(text) is None


def test_a_release_to_few_is_small_enough_to_mail(world: World, alder: Desk) -> None:
    sent = alder.station.release(1, world["birch"])
    give(alder.station, world["birch"], sent)
    assert len(alder.make(sent)) < 48 * 1024


# --- who was linked --------------------------------------------------------------------------
@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "node.db", create=True)
    yield store
    store.close()


@pytest.fixture
def presence(store: Store) -> Presence:
    return Presence(store)


def count(store: Store) -> int:
    return int(store.scalar("SELECT count(*) FROM presence"))


def test_a_peer_was_linked_from_open_to_close_and_no_longer(presence: Presence) -> None:
    presence.note_open(PEER, NOW)
    presence.note_close(PEER, NOW + 100)
    assert presence.linked_in(PEER, NOW - 50, NOW + 500) == Span(NOW, NOW + 100)
    assert presence.linked_in(PEER, NOW + 20, NOW + 30) == Span(NOW + 20, NOW + 30)
    assert presence.seen(PEER, NOW + 100, NOW + 200)
    assert presence.seen(PEER, NOW - 5, NOW)
    assert not presence.seen(PEER, NOW + 101, NOW + 200)
    assert not presence.seen(PEER, NOW - 5, NOW - 1)
    assert not presence.seen(OTHER, NOW, NOW + 100)
    assert presence.last_seen(PEER) == NOW + 100
    assert presence.last_seen(PEER, before=NOW + 50) == NOW + 49
    assert presence.last_seen(PEER, before=NOW) is None
    assert presence.last_seen(OTHER) is None


def test_an_open_link_counts_up_to_now(presence: Presence) -> None:
    presence.note_open(PEER, NOW)
    assert presence.linked_in(PEER, NOW + 1, NOW + DAY) == Span(NOW + 1, NOW + DAY)


def test_a_second_link_of_a_linked_peer_changes_nothing(store: Store, presence: Presence) -> None:
    presence.note_open(PEER, NOW)
    presence.note_open(PEER, NOW + 10)
    presence.note_close(PEER, NOW + 20)
    presence.note_close(PEER, NOW + 90)
    presence.note_close(OTHER, NOW)
    assert count(store) == 1
    assert presence.last_seen(PEER) == NOW + 20


def test_after_a_crash_a_link_counts_as_far_as_it_was_refreshed(
    store: Store, presence: Presence
) -> None:
    presence.note_open(PEER, NOW)
    presence.note_open(OTHER, NOW)
    presence.refresh([PEER, OTHER], NOW + REFRESH_MS)
    presence.note_close(OTHER, NOW + REFRESH_MS + 5)
    after = Presence(store)
    assert after.last_seen(PEER) == NOW + REFRESH_MS
    assert after.seen(PEER, NOW + REFRESH_MS, NOW + DAY)
    assert not after.seen(PEER, NOW + REFRESH_MS + 1, NOW + DAY)
    assert after.last_seen(OTHER) == NOW + REFRESH_MS + 5
    # Linked again at once: what lies between stays unknown.
    after.note_open(PEER, NOW + REFRESH_MS + 10)
    assert not after.seen(PEER, NOW + REFRESH_MS + 1, NOW + REFRESH_MS + 9)
    assert after.seen(PEER, NOW + REFRESH_MS + 10, NOW + DAY)
    assert count(store) == 3


def test_a_refresh_puts_right_what_was_not_noted(store: Store, presence: Presence) -> None:
    presence.refresh([], NOW)
    presence.note_open(PEER, NOW)
    presence.refresh([PEER], NOW + MINUTE)
    presence.refresh([OTHER], NOW + 2 * MINUTE)
    assert not presence.seen(PEER, NOW + MINUTE + 1, NOW + DAY), "nobody knows when it went"
    assert presence.seen(OTHER, NOW + 2 * MINUTE, NOW + DAY)
    presence.note_close(PEER, NOW + 3 * MINUTE)
    assert presence.last_seen(PEER) == NOW + MINUTE
    assert count(store) == 2


def test_short_breaks_are_not_told_apart_and_never_hide_or_make_a_debt(
    store: Store, presence: Presence
) -> None:
    """Rows stay few, and for any whole window the answer is that of the exact times."""
    exact: list[tuple[int, int]] = []
    at = NOW
    for gap in (0, 1, 20_000, 59_999, 60_000, 61_000, 149_000, 200_000, 5, 400_000):
        at += gap
        presence.note_open(PEER, at)
        presence.note_close(PEER, at + 7)
        exact.append((at, at + 7))
        at += 7
    assert count(store) == 6
    for since in range(NOW - 200_000, at + 1_000, 997):
        until = since + limits.REACHABLE_WINDOW_MS
        linked = any(first <= until and last >= since for first, last in exact)
        assert presence.seen(PEER, since, until) == linked, since - NOW


def test_a_peer_that_comes_and_goes_all_day_takes_one_row_a_minute_at_most(
    store: Store, presence: Presence
) -> None:
    for second in range(0, 3600, 3):
        presence.note_open(PEER, NOW + second * 1000)
        presence.note_close(PEER, NOW + second * 1000 + 1)
    assert count(store) == 1
    for minute in range(60, 120):
        presence.note_open(PEER, NOW + minute * MINUTE + MINUTE)
        presence.note_close(PEER, NOW + minute * MINUTE + MINUTE + 1)
    assert count(store) <= 61


def test_rows_go_after_90_days_and_what_is_asked_within_stays_known(
    store: Store, presence: Presence
) -> None:
    for day in range(200):
        presence.note_open(PEER, NOW + day * DAY)
        presence.note_close(PEER, NOW + day * DAY + MINUTE)
    presence.note_open(OTHER, NOW)
    presence.note_close(OTHER, NOW + MINUTE)
    now = NOW + 200 * DAY
    before = {day: presence.last_seen(PEER, before=NOW + day * DAY) for day in range(110, 200)}
    assert presence.known_since == 0
    assert presence.compact(now) == 109
    assert count(store) == 91 + 1
    assert presence.known_since == now - KEPT_MS
    assert presence.compact(now) == 0
    assert presence.last_seen(OTHER) == NOW + MINUTE, "the newest of a peer stays"
    after = {day: presence.last_seen(PEER, before=NOW + day * DAY) for day in range(110, 200)}
    assert after == before


def test_a_refresh_drops_old_rows_once_a_day_and_no_clock_that_jumps_ahead_drops_all(
    store: Store, presence: Presence
) -> None:
    for day in range(100):
        presence.refresh([], NOW + day * DAY)
        presence.note_open(PEER, NOW + day * DAY)
        presence.note_close(PEER, NOW + day * DAY + MINUTE)
    assert count(store) == 92
    presence.refresh([], NOW + 465 * DAY)
    assert count(store) > 88
    assert presence.known_since <= NOW + 11 * DAY
    presence.refresh([], NOW + 100 * DAY)
    assert presence.seen(PEER, NOW + 50 * DAY, NOW + 50 * DAY)


def test_a_clock_that_goes_back_leaves_no_row_that_ends_before_it_begins(
    store: Store, presence: Presence
) -> None:
    presence.note_open(PEER, NOW)
    presence.refresh([PEER], NOW - DAY)
    presence.note_close(PEER, NOW - DAY)
    presence.note_open(PEER, NOW - DAY + 1)
    presence.note_close(PEER, NOW - DAY + 2)
    assert presence.seen(PEER, NOW, NOW)
    assert presence.seen(PEER, NOW - DAY + 2, NOW - DAY + 2)
    assert not presence.seen(PEER, NOW - DAY + 3, NOW - 1)
    assert store.scalar("SELECT count(*) FROM presence WHERE closed_at < opened_at") == 0


def test_a_full_disk_claims_less_and_is_made_up_for(world: World, alder: Desk) -> None:
    birch, cedar, presence = world["birch"], world["cedar"], alder.presence
    store = alder.station.core.store
    alder.link(birch)
    store.run("CREATE TABLE filler (x BLOB)")
    with full_disk(alder.station), pytest.raises(BusyError):
        for number in range(10_000):  # until the table needs a page more
            presence.note_open(number.to_bytes(32, "big"), NOW)
    with full_disk(alder.station), pytest.raises(BusyError):
        presence.refresh([birch.id, *(bytes([7, n]) * 16 for n in range(200))], NOW + 1)
    assert presence.linked_in(birch.id, NOW, NOW + 5) == Span(NOW, NOW + 5), "as before"
    presence.refresh([birch.id, cedar.id], NOW + MINUTE)
    assert presence.seen(cedar.id, NOW + MINUTE, NOW + MINUTE)


def test_a_table_that_is_younger_than_the_node_says_since_when_it_knows(
    world: World, alder: Desk
) -> None:
    sent = alder.station.release(1, world["birch"])
    alder.station.core.store.set_meta(SINCE, (NOW + 1).to_bytes(8, "big"))
    with pytest.raises(ConflictError, match="not known any more"):
        alder.make(sent)


def test_bodies_never_stand_in_a_statement(world: World, alder: Desk) -> None:
    sent = alder.station.release(1, world["birch"])
    give(alder.station, world["birch"], sent)
    data = alder.make(sent)
    assert b"drums" in record(1)
    assert b"drums" not in data
    assert alder.station.envelope(sent).ciphertext[24:56] not in data
