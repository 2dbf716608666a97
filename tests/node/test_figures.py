"""Figures over incidents: medians, what counts and what does not, and who is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.clock import rfc3339
from protocol import limits
from tests.node.factories import NOW, World, copied, incident, made_once
from tests.node.test_record_routes import Desk, carry

Row = dict[str, Any]
HOUR = 3_600_000
LEGS = [{"seq": 1, "mode": "1", "role": "origin", "origin": "XA"},
        {"seq": 2, "mode": "3", "role": "destination_declared", "destination": "XB"}]  # fmt: skip
ACTIONABLE = {"route": LEGS, "contact": {"unit": "duty desk", "mailbox": "duty@alder.example"}}


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch", "cedar")) as opened:
        yield opened


def release(
    world: World, author: str = "alder", hours: int = 1, to: str = "birch", **face: object
) -> str:
    """Release an incident that was detected some hours ago, and hand it to all."""
    data = incident(annex=True)
    data["face"] |= {"exercise": False, "detected_at": rfc3339(world.clock.at - hours * HOUR)}
    data["face"] |= face
    service = world[author].service()
    key = str(service.create_draft(data)["id"])
    service.release(key, to=[to], annex_to=[to], carriers=[], separately=False, digest=None)
    carry(world)
    return key


def test_medians_and_shares_are_told_for_all_own_and_received(world: World) -> None:
    for hours in (1, 2, 10):
        release(world, hours=hours)
    release(world, "birch", hours=4, to="alder", **ACTIONABLE)
    seen = Desk(world, "birch").get("/figures")
    assert {name: seen[name]["incidents"] for name in ("all", "own", "received")} == {
        "all": 4, "own": 1, "received": 3,
    }  # fmt: skip
    assert seen["received"]["time_to_share_s"] == {"median": 7_200, "p90": 36_000}
    assert seen["all"]["time_to_share_s"] == {"median": 10_800, "p90": 36_000}
    assert (seen["received"]["median_score"], seen["own"]["median_score"]) == ("1", "3")
    assert (seen["all"]["median_score"], seen["all"]["actionable_share"]) == ("1", "0.25")
    assert (seen["own"]["actionable"], seen["received"]["actionable_share"]) == (1, "0.00")
    assert seen["all"]["by_anchor"]["A3"] == 4
    assert (seen["left_out"], seen["more"], seen["since"]) == (0, False, None)
    assert Desk(world, "alder").get("/figures")["received"] == seen["own"]


def test_nobody_is_named_unless_it_is_asked_for(world: World) -> None:
    release(world)
    release(world, "birch", to="alder")
    birch = Desk(world, "birch")
    assert "alder" not in birch.ask("GET", "/figures").body.decode().casefold()
    named = birch.get("/figures", by_authority="yes")["by_authority"]
    assert [(row["authority"], row["incidents"]) for row in named] == [("alder", 1), ("Birch", 1)]


def test_exercises_and_retracted_incidents_count_for_nothing(world: World) -> None:
    release(world, exercise=True)
    key = release(world)
    alder = Desk(world, "alder")
    assert alder.get("/figures")["all"]["incidents"] == 1
    alder.post(f"/incidents/{key}/retract", {"reason": "entered_in_error"})
    empty = alder.get("/figures")["all"]
    assert (empty["incidents"], empty["median_score"], empty["actionable_share"]) == (0, None, None)
    assert empty["time_to_share_s"] == {"median": None, "p90": None}


def test_an_amended_incident_is_as_quick_as_its_first_report_and_as_complete_as_its_last(
    world: World,
) -> None:
    key = release(world, hours=2)
    world.clock.advance(30 * HOUR)
    alder = Desk(world, "alder")
    whole = alder.get(f"/incidents/{key}/amend")["incident"]
    whole["face"] |= ACTIONABLE
    alder.post(f"/incidents/{key}/amend", {"incident": whole, "also_to": ["cedar"]})
    carry(world)
    for name in ("alder", "birch"):
        seen = Desk(world, name).get("/figures")["all"]
        assert (seen["median_first_score"], seen["median_score"]) == ("1", "3")
        assert (seen["actionable"], seen["time_to_share_s"]["median"]) == (1, 7_200)
    # Cedar has not got the first report: when it was shared first is not known there.
    late = Desk(world, "cedar").get("/figures")
    assert (late["left_out"], late["all"]["incidents"]) == (1, 0)


def test_figures_begin_where_it_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for hours in (1, 50):
        release(world, hours=hours)
    alder = Desk(world, "alder")
    since = rfc3339(NOW - 48 * HOUR)
    assert alder.get("/figures", since=since)["all"]["incidents"] == 1
    monkeypatch.setattr(limits, "MAX_FIGURES", 1)
    seen = alder.get("/figures")
    assert (seen["all"]["incidents"], seen["more"]) == (1, True)
    assert alder.get("/figures", since=since)["more"] is False


@pytest.mark.parametrize(
    "query",
    [{"since": "yesterday"}, {"since": "2026-03-01T00:00:00+02:00"}, {"since": "2026-03-01"},
     {"by_authority": "all"}, {"peer": "alder"}],
)  # fmt: skip
def test_a_wrong_parameter_is_told(world: World, query: dict[str, str]) -> None:
    found = Desk(world, "alder").ask("GET", "/figures", query=query)
    assert found.status == 400, found.body
