"""Confirming link candidates: both incidents, the reason, who is told and who must not be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keys.trust import Level, Verification
from node.search_desk import SearchDesk
from protocol.errors import BusyError
from tests.node.factories import World, copied, incident, made_once
from tests.node.test_record_routes import Desk, carry

Row = dict[str, Any]
BASIS = "same container CSQU3054383"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


@pytest.fixture
def birch(world: World) -> Desk:
    return Desk(world, "birch")


def release(
    world: World, author: str, face: list[str], annex: list[str], tlp: str = "AMBER"
) -> str:
    """Release an incident with the container that all have, and hand it to all."""
    data = incident(annex=True)
    data["face"]["handling"]["tlp"] = tlp
    service = world[author].service()
    key = str(service.create_draft(data)["id"])
    service.release(key, to=face, annex_to=annex, carriers=[], separately=False, digest=None)
    carry(world)
    return key


def only(desk: Desk, state: str = "open") -> Row:
    (pair,) = desk.get("/links/candidates", state=state)["items"]
    return dict(pair)


def path_of(desk: Desk) -> str:
    return f"/links/{only(desk)['id']}/confirm"


def test_those_who_hold_both_in_full_are_told_and_no_others(world: World, birch: Desk) -> None:
    release(world, "alder", ["birch", "cedar", "dogwood"], ["birch", "cedar"])
    other = release(world, "birch", ["alder", "cedar", "dogwood"], ["alder", "cedar", "dogwood"])
    path = path_of(birch)
    preview = birch.post(f"{path}/preview", {}, 200)
    assert preview["candidate"]["basis"] == BASIS
    assert [each["author"] for each in preview["candidate"]["incidents"]] == ["Birch", "alder"]
    assert [each["to"] for each in preview["envelopes"]] == [["alder", "cedar"]]
    # It got no annex of Alder's, where the container stands.
    assert preview["will_not_receive"] == ["dogwood"]
    assert (preview["local"], preview["not_reached"]) == (False, [])
    assert only(birch)["state"] == "open"
    told = birch.post(path, {"digest": preview["digest"]})
    assert (told["recipients"], told["new"], told["local"]) == (["alder", "cedar"], True, False)
    assert told["candidate"]["state"] == only(birch, "confirmed")["state"] == "confirmed"
    carry(world)
    for name, links in (("alder", 1), ("cedar", 1), ("dogwood", 0)):
        found = Desk(world, name).get(f"/incidents/{other}/state")["links"]
        assert [each["link"]["basis"] for each in found] == [BASIS] * links


def test_the_originator_of_one_that_lacks_the_other_is_not_told(world: World, birch: Desk) -> None:
    release(world, "alder", ["birch", "dogwood"], ["birch", "dogwood"])
    release(world, "cedar", ["birch", "dogwood"], ["birch", "dogwood"])
    told = birch.post(path_of(birch))
    assert told["recipients"] == ["dogwood"]


def test_where_nobody_else_holds_both_it_is_noted_here_alone(world: World, birch: Desk) -> None:
    release(world, "alder", ["birch", "dogwood"], ["birch"])
    release(world, "cedar", ["birch", "dogwood"], ["birch"])
    path, size = path_of(birch), birch.service.core.log.size
    preview = birch.post(f"{path}/preview", {}, 200)
    assert (preview["local"], preview["envelopes"]) == (True, [])
    assert preview["will_not_receive"] == ["alder", "cedar", "dogwood"]
    birch.refused(path, {"digest": "00"}, "conflict")
    told = birch.post(path, {"digest": preview["digest"]}, 200)
    assert (told["local"], told["new"], told["recipients"]) == (True, False, [])
    assert only(birch, "confirmed")["basis"] == BASIS
    assert birch.service.core.log.size == size


def test_after_a_crash_between_release_and_note_nothing_is_released_twice(
    world: World, birch: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(world, "alder", ["birch"], ["birch"])
    release(world, "birch", ["alder"], ["alder"])
    path = path_of(birch)

    def full(*_: object) -> Row:
        raise BusyError("the disk is full", fix="free some")

    with monkeypatch.context() as broken:
        broken.setattr(SearchDesk, "decide", full)
        birch.refused(path, {}, "busy")
    size = birch.service.core.log.size
    assert only(birch)["state"] == "open"
    again = birch.post(path, {}, 200)
    assert (again["new"], again["local"], again["recipients"]) == (False, False, ["alder"])
    assert birch.post(path, {}, 200)["envelopes"] == again["envelopes"]
    assert birch.service.core.log.size == size
    assert only(birch, "confirmed")


def test_a_link_is_handled_as_strictly_as_the_stricter_of_the_two(
    world: World, birch: Desk
) -> None:
    older = release(world, "alder", ["birch"], ["birch"], tlp="RED")
    release(world, "birch", ["alder"], ["alder"], tlp="GREEN")
    birch.post(path_of(birch))
    (found,) = birch.get(f"/incidents/{older}/state")["links"]
    assert found["link"]["handling"]["tlp"] == "RED"


def test_who_may_receive_nothing_now_is_left_out_and_named(world: World, birch: Desk) -> None:
    release(world, "alder", ["birch", "cedar"], ["birch", "cedar"])
    release(world, "birch", ["alder", "cedar"], ["alder", "cedar"])
    verification = Verification("voice", "test", world.clock.now())
    world["birch"].core.approve_peer(world["cedar"].id, Level.RELAY, verification)
    path = path_of(birch)
    assert birch.post(f"{path}/preview", {}, 200)["not_reached"] == ["cedar"]
    assert birch.post(path)["recipients"] == ["alder"]


def test_a_retracted_incident_is_not_linked(world: World, birch: Desk) -> None:
    key = release(world, "alder", ["birch"], ["birch"])
    release(world, "birch", ["alder"], ["alder"])
    path = path_of(birch)
    Desk(world, "alder").post(f"/incidents/{key}/retract", {"reason": "entered_in_error"})
    carry(world)
    assert "retracted" in birch.refused(path, {}, "conflict")
    assert only(birch)["state"] == "open"


def test_a_program_previews_first_and_may_not_release_with_the_right_to_write(
    world: World, birch: Desk
) -> None:
    release(world, "alder", ["birch"], ["birch"])
    release(world, "birch", ["alder"], ["alder"])
    path = path_of(birch)
    writes, releases = birch.token("incidents:write"), birch.token("incidents:release")
    assert birch.ask("POST", path, {}, token=writes).status == 403
    assert "digest is missing" in birch.refused(path, {}, "bad-request", token=releases)
    birch.refused(path, {"digest": "00"}, "conflict", token=releases)
    digest = json.loads(birch.ask("POST", f"{path}/preview", {}, token=writes).body)["digest"]
    assert birch.ask("POST", path, {"digest": digest}, token=releases).status == 201
    birch.refused("/links/1-2-same_mood/confirm", {}, "not-found")
