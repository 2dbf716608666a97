"""Receipts that are missing past their deadline: who owes one, since when, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from keys.trust import Level
from node.api import dispatch
from node.calls import Request
from node.cli.main import app
from node.clock import rfc3339
from node.service import Network, Service
from protocol import limits
from protocol.frames import Refusal
from tests.node.factories import (
    DAY,
    MINUTE,
    PASSPHRASE,
    Station,
    World,
    copied,
    hand,
    made_once,
    pass_on,
    seep,
)

SENT = limits.RECEIPT_OVERDUE_MS
QUEUED = limits.DELIVERY_OVERDUE_MS
Row = dict[str, Any]


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as each:
        yield each


def running(station: Station, *linked: Station) -> Service:
    """Return what a running node offers that has links with these."""
    service, ids = station.service(), frozenset(each.id for each in linked)
    service.network = Network(running=True, linked=lambda: ids)
    return service


def sent(station: Station, peer: Station, *ids: bytes) -> None:
    """Let the outbox note that these were sent half a minute ago and not answered."""
    with station.core.store.transaction():
        station.core.outbox.late(peer.id, ids)


def refused(station: Station, peer: Station, code: str, *ids: bytes) -> None:
    with station.core.logged():
        station.core.outbox.refused(peer.id, [Refusal(each, code, 1_000) for each in ids])


def owed(service: Service, peer: str | None = None) -> dict[str, list[Row]]:
    """Return what is missing, by peer."""
    listed = service.missing_receipts(peer, limit=limits.MAX_PAGE)
    return {row["peer"]: row["items"] for row in listed["peers"]}


def who(service: Service) -> set[str]:
    return set(owed(service))


# --- when a receipt is overdue -------------------------------------------------------------------
def test_a_linked_peer_has_ten_minutes_from_the_sending(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    first = alder.release(1, birch, cedar)
    assert who(running(alder, birch, cedar)) == set()
    sent(alder, birch, first)
    world.clock.advance(SENT - limits.RECEIPT_TIMEOUT_MS - 1)
    assert who(running(alder, birch, cedar)) == set()
    world.clock.advance(1)
    assert who(running(alder, birch, cedar)) == {"birch"}
    assert who(running(alder, cedar)) == set(), "who is not linked cannot answer"
    pass_on(alder, birch)
    assert who(running(alder, birch, cedar)) == set(), "the receipt settles it"


def test_what_was_queued_a_day_ago_is_overdue_if_the_peer_was_linked_meanwhile(
    world: World,
) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    alder.core.contact(cedar.id)
    alder.core.left(cedar.id)
    world.clock.advance(1)
    alder.release(1, birch, cedar)
    world.clock.advance(MINUTE)
    alder.core.contact(birch.id)
    alder.core.left(birch.id)
    world.clock.advance(QUEUED - MINUTE - 1)
    assert who(running(alder)) == set()
    world.clock.advance(1)
    assert who(running(alder)) == {"birch"}, "Cedar was linked before it was queued, not since"


def test_nothing_is_due_from_who_gets_nothing_any_more(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    sent(alder, birch, alder.release(1, birch))
    world.clock.advance(SENT)
    alder.core.lower_peer(birch.id, Level.OBSERVE, by="test")
    assert who(running(alder, birch)) == set()
    assert "receipts-missing" not in notices(running(alder, birch))


def test_a_carrier_owes_only_what_it_was_asked_for(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    first = alder.release(1, birch, carriers=[cedar])
    alder.core.contact(cedar.id)
    world.clock.advance(QUEUED)
    assert who(running(alder, cedar)) == set(), "held, as it was not needed"
    alder.core.outbox.ask_carriers(frozenset({cedar.id}))
    assert who(running(alder, cedar)) == set(), "asked just now"
    sent(alder, cedar, first)
    (row,) = owed(running(alder, cedar))["cedar"]
    assert (row["part"], row["own"]) == ("carrier", True)


def test_what_is_carried_for_others_is_listed_too(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    first = alder.release(1, birch, carriers=[cedar])
    alder.core.outbox.ask_carriers(frozenset({cedar.id}))
    pass_on(alder, cedar)
    sent(cedar, birch, first)
    world.clock.advance(SENT)
    (row,) = owed(running(cedar, birch))["birch"]
    assert (row["author"], row["own"], row["ref"], row["part"]) == (
        "alder", False, None, "recipient",
    )  # fmt: skip
    seep(alder, cedar, birch)
    assert who(running(cedar, birch)) == set()


def test_each_peer_is_told_apart_and_the_oldest_stands_first(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    first = alder.release(1, birch, cedar)
    sent(alder, birch, first)
    world.clock.advance(MINUTE)
    second = alder.release(2, birch, cedar)
    sent(alder, birch, second)
    sent(alder, cedar, second)
    world.clock.advance(SENT)
    service = running(alder, birch, cedar)
    found = owed(service)
    assert [row["envelope_id"] for row in found["birch"]] == [first.hex(), second.hex()]
    assert [row["envelope_id"] for row in found["cedar"]] == [second.hex()]
    assert owed(service, "cedar") == {"cedar": found["cedar"]}
    assert owed(service, "dogwood") == {}
    short = service.missing_receipts("birch", limit=1)["peers"]
    assert [(row["count"], len(row["items"])) for row in short] == [(2, 1)]
    assert (
        short[0]["oldest"]
        == short[0]["items"][0]["since"]
        == rfc3339(world.clock.now() - SENT - MINUTE - limits.RECEIPT_TIMEOUT_MS)
    )


def test_what_the_peer_answered_last_and_how_often_it_was_tried_stands_there(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    first, second = alder.release(1, birch), alder.release(2, birch)
    for _ in range(3):
        sent(alder, birch, first)
    refused(alder, birch, "busy", first)
    sent(alder, birch, second)
    world.clock.advance(SENT)
    rows = {row["envelope_id"]: row for row in owed(running(alder, birch))["birch"]}
    assert (rows[first.hex()]["tries"], rows[first.hex()]["code"]) == (4, "busy")
    assert (rows[second.hex()]["tries"], rows[second.hex()]["code"]) == (1, None)
    assert rows[first.hex()]["ref"] == "PI-XA-2026-000001"


# --- telling -------------------------------------------------------------------------------------
def notices(service: Service) -> dict[str, Row]:
    return {row["code"]: row for row in service.status()["notices"]}


def test_a_notice_and_a_metric_name_each_peer_that_owes(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    before = running(alder, birch, cedar)
    assert "receipts-missing" not in notices(before)
    assert b'picket_receipts_overdue{peer="birch"} 0.0' in before.metrics_text()
    for number in (1, 2):
        sent(alder, birch, alder.release(number, birch, cedar))
    world.clock.advance(SENT)
    service = running(alder, birch, cedar)
    notice = notices(service)["receipts-missing"]
    assert notice["message"].startswith("birch owes 2 receipts; the oldest is missing since 2026-")
    assert notice["fix"] == "see: picket delivery missing birch"
    text = service.metrics_text()
    assert b'picket_receipts_overdue{peer="birch"} 2.0' in text
    assert b'picket_receipts_overdue{peer="cedar"} 0.0' in text


def ask(service: Service, query: dict[str, str]) -> tuple[int, Row]:
    request = Request("GET", "/api/v1/deliveries/missing", query, b"", operator=True)
    answer = dispatch(service, request)
    return answer.status, json.loads(answer.body)


def test_programs_get_the_same_list(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    sent(alder, birch, first := alder.release(1, birch))
    world.clock.advance(SENT)
    service = running(alder, birch)
    status, row = ask(service, {"peer": "birch"})
    assert status == 200
    assert (row["running"], row["locked"]) == (True, False)
    assert row["peers"][0]["items"][0]["envelope_id"] == first.hex()
    token = service.create_token(name="program", scopes=["peers:read"], days=1)["token"]
    request = Request("GET", "/api/v1/deliveries/missing", {}, b"", token=token)
    assert json.loads(dispatch(service, request).body)["code"] == "forbidden"


@pytest.mark.parametrize(
    ("query", "code"),
    [({"peer": "nobody"}, "not-found"), ({"limit": "0"}, "bad-request"),
     ({"limit": "501"}, "bad-request")],
)  # fmt: skip
def test_what_cannot_be_listed_is_refused(world: World, query: dict[str, str], code: str) -> None:
    assert ask(running(world["alder"]), query)[1]["code"] == code


def test_a_locked_node_lists_envelopes_without_references(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    sent(alder, birch, first := alder.release(1, birch))
    world.clock.advance(SENT)
    alder.reopen(locked=True)
    (row,) = owed(running(alder, birch))["birch"]
    assert (row["ref"], row["own"], row["envelope_id"]) == (None, True, first.hex())


# --- on a terminal -------------------------------------------------------------------------------
def picket(station: Station, *arguments: str) -> Result:
    """Run a command on the home of a node that is stopped for it."""
    station.close()
    done = CliRunner().invoke(app, ["--home", str(station.home.path), *arguments])
    assert done.exit_code == 0, done.output
    return done


def unlocked_by_file(station: Station, folder: Path) -> None:
    secret = folder / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    text = station.home.config.read_text()
    station.home.config.write_text(
        text.replace('# passphrase_file = ""', f'passphrase_file = "{secret}"')
    )


def test_a_stopped_node_lists_what_it_knew_and_says_so(world: World, tmp_path: Path) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    first = alder.release(1, birch, cedar)
    sent(alder, birch, first)
    refused(alder, birch, "untrusted-key", first)
    sent(alder, cedar, first)
    world.clock.advance(SENT - limits.RECEIPT_TIMEOUT_MS)
    alder.core.contact(birch.id)
    unlocked_by_file(alder, tmp_path)
    done = picket(alder, "delivery", "missing")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("birch owes 1 receipt, the oldest since 2026-")
    assert lines[1].split("  ")[0] == "INCIDENT"
    assert lines[2].startswith(f"PI-XA-2026-000001  {first.hex()[:16]}  recipient  2026-")
    assert lines[2].endswith("it has not approved this node yet (untrusted-key)")
    assert len(lines) == 3, "Cedar was not linked once it was due"
    assert "not running" in done.stderr
    alder.open()


def test_a_locked_node_says_that_references_are_missing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.release(1, birch)
    sent(alder, birch, first)
    world.clock.advance(SENT)
    alder.core.contact(birch.id)
    done = picket(alder, "delivery", "missing", "birch")
    assert f"-         {first.hex()[:16]}  recipient" in done.stdout
    assert done.stdout.splitlines()[2].endswith("  1      none")
    assert "unlock" in done.stderr
    alder.open()


def test_that_nothing_is_missing_is_said_plainly(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.release(1, birch)
    for receipts in hand(alder, birch, first).receipts:
        alder.core.take_receipts(receipts)
    world.clock.advance(2 * DAY)
    assert picket(alder, "delivery", "missing").stdout == "No receipt is overdue.\n"
    assert picket(alder, "delivery", "missing", "birch").stdout == (
        "No receipt from birch is overdue.\n"
    )
    seen = json.loads(picket(alder, "delivery", "missing", "--json").stdout)
    assert seen == {"running": False, "locked": True, "peers": []}
    alder.open()
