"""The routes of the life cycle of incidents: previews and digests, clocks, board, who sees what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.api import dispatch
from node.calls import Request, Response
from node.record_routes import ROUTES
from node.service import Service
from protocol.canonical import encode
from tests.node.factories import World, copied, incident, made_once, pass_on

Row = dict[str, Any]
HOUR = 3_600_000
MINUTE = 60_000
HANDLING = {"tlp": "AMBER"}


class Desk:
    """One node as its operator, or as a program with a token."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.name = world, name
        self.service: Service = world[name].service()

    def ask(
        self, method: str, path: str, body: Row | None = None, *, token: str | None = None,
        query: dict[str, str] | None = None,
    ) -> Response:  # fmt: skip
        data = b"" if body is None else json.dumps(body).encode()
        request = Request(
            method,
            f"/api/v1{path}",
            query or {},
            data,
            token,
            operator=token is None,
            request_id="r1",
        )
        return dispatch(self.service, request)

    def get(self, path: str, **query: str) -> Any:  # noqa: ANN401  JSON
        found = self.ask("GET", path, query=query)
        assert found.status == 200, found.body
        return json.loads(found.body)

    def post(self, path: str, body: Row | None = None, status: int = 201) -> Any:  # noqa: ANN401
        found = self.ask("POST", path, body or {})
        assert found.status == status, found.body
        return json.loads(found.body)

    def refused(self, path: str, body: Row, code: str, *, token: str | None = None) -> str:
        found = json.loads(self.ask("POST", path, body, token=token).body)
        assert found["code"] == code, found
        assert found["fix"]
        return str(found["detail"])

    def token(self, *scopes: str) -> str:
        made = self.service.create_token(name="t", scopes=scopes, days=1)
        return str(made["token"])

    def notices(self) -> dict[str, str]:
        return {each["code"]: each["message"] for each in self.service.status()["notices"]}


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


@pytest.fixture
def alder(world: World) -> Desk:
    return Desk(world, "alder")


@pytest.fixture
def birch(world: World) -> Desk:
    return Desk(world, "birch")


@pytest.fixture
def cedar(world: World) -> Desk:
    return Desk(world, "cedar")


def carry(world: World) -> None:
    for giver in world:
        for taker in world:
            if giver is not taker:
                while pass_on(giver, taker).receipts:
                    pass
                taker.core.try_follow()
                giver.core.try_follow()


def released(world: World, alder: Desk, **face: Any) -> str:  # noqa: ANN401
    data = incident(annex=True)
    data["face"] |= face
    key = str(alder.service.create_draft(data)["id"])
    alder.service.release(
        key, to=["birch", "cedar"], annex_to=["birch"], carriers=[], separately=False, digest=None
    )
    carry(world)
    return key


def request_of(key: str, *to: str, **fields: Any) -> Row:  # noqa: ANN401
    return {
        "incident": key, "to": list(to), "kinds": ["trace_batch"], "question": "Who bought it?",
        **fields,
    }  # fmt: skip


# --- previews and digests --------------------------------------------------------------------
def test_a_program_releases_only_what_it_previewed(world: World, alder: Desk) -> None:
    key = released(world, alder)
    whole = alder.get(f"/incidents/{key}/amend")["incident"]
    whole["face"]["status"] = "concluded"
    body = {"incident": whole, "note": "closed"}
    writes, releases = alder.token("incidents:write"), alder.token("incidents:release")
    path = f"/incidents/{key}/amend"
    preview = json.loads(alder.ask("POST", f"{path}/preview", body, token=writes).body)
    assert preview["changes"]["face"] == [
        {"pointer": "/status", "before": None, "after": "concluded"}
    ]
    assert "digest is missing" in alder.refused(path, body, "bad-request", token=releases)
    assert alder.ask("POST", path, body, token=writes).status == 403
    changed = {**body, "without": ["cedar"], "digest": preview["digest"]}
    alder.refused(path, changed, "conflict", token=releases)
    given = {**body, "digest": preview["digest"], "token": "one"}
    first, again = (alder.ask("POST", path, given, token=releases) for _ in range(2))
    assert (first.status, again.status) == (201, 200)
    one, two = json.loads(first.body), json.loads(again.body)
    assert (one["new"], two["new"]) == (True, False)
    assert one["envelopes"] == two["envelopes"]
    assert alder.get(f"/incidents/{key}")["revision"] == 2


@pytest.mark.parametrize("path", sorted({r.path for r in ROUTES if r.path.endswith("/preview")}))
def test_every_act_has_a_preview_a_release_and_an_operators_route(path: str) -> None:
    act = path.removesuffix("/preview")
    scopes = {r.scope for r in ROUTES if r.method == "POST" and r.path == act}
    assert scopes == {"operator", "incidents:release"}
    (preview,) = [r for r in ROUTES if r.path == path]
    assert (preview.method, preview.scope) == ("POST", "incidents:write")


def test_no_act_of_a_program_goes_without_the_digest(
    world: World, alder: Desk, birch: Desk
) -> None:
    key = released(world, alder)
    token = birch.token("incidents:release", "incidents:write")
    path, body = f"/incidents/{key}/acks", {"level": "opened"}
    assert "digest is missing" in birch.refused(path, body, "bad-request", token=token)
    digest = json.loads(birch.ask("POST", f"{path}/preview", body, token=token).body)["digest"]
    birch.refused(path, {"level": "assigned", "digest": digest}, "conflict", token=token)
    assert birch.ask("POST", path, {**body, "digest": digest}, token=token).status == 201


def test_a_preview_releases_nothing(world: World, alder: Desk, birch: Desk) -> None:
    key = released(world, alder)
    size = birch.service.core.log.size
    preview = birch.post(f"/incidents/{key}/acks/preview", {"level": "opened"}, 200)
    assert preview["envelopes"][0]["to"] == ["alder"]
    assert "cedar" in preview["will_not_receive"]
    assert birch.service.core.log.size == size


def test_what_the_path_names_is_not_named_again(world: World, alder: Desk, birch: Desk) -> None:
    key = released(world, alder)
    body = {"incident": key, "level": "opened"}
    birch.refused(f"/incidents/{key}/acks", body, "bad-request")
    birch.refused(f"/incidents/{key}/acks", {"level": "seen"}, "invalid-incident")


# --- reading ---------------------------------------------------------------------------------
def test_the_history_says_what_each_revision_changed(
    world: World, alder: Desk, birch: Desk
) -> None:
    key = released(world, alder)
    whole = alder.get(f"/incidents/{key}/amend")["incident"]
    whole["face"]["substances"][0]["id_status"] = "laboratory_confirmed"
    alder.post(f"/incidents/{key}/amend", {"incident": whole, "note": "laboratory"})
    alder.post(f"/incidents/{key}/retract", {"reason": "substance_refuted"})
    carry(world)
    seen = birch.get(f"/incidents/{key}/history")
    assert [each["revision"] for each in seen["items"]] == [1, 2]
    (change,) = seen["items"][1]["changes"]
    assert change == {
        "layer": "face", "pointer": "/substances/0/id_status", "before": None,
        "after": "laboratory_confirmed",
    }  # fmt: skip
    assert seen["items"][1]["note"] == "laboratory"
    assert seen["retracted"]["reason"] == "substance_refuted"


@pytest.mark.parametrize("what", ["state", "history", "thread"])
def test_reading_a_state_stands_in_the_log(
    world: World, alder: Desk, birch: Desk, what: str
) -> None:
    key = released(world, alder)
    birch.get(f"/incidents/{key}/{what}")
    (read,) = birch.get(f"/incidents/{key}/access")["items"]
    assert (read["what"], read["who"]) == ("read", "operator")


def test_reading_a_request_stands_in_the_log_and_listing_it_shows_no_text(
    world: World, alder: Desk, birch: Desk
) -> None:
    key = released(world, alder)
    request = birch.post("/followups", request_of(key, "alder", question="canary?"))["id"]
    carry(world)
    listed = alder.ask("GET", "/followups")
    assert b"canary" not in listed.body
    assert alder.get(f"/incidents/{key}/access")["items"] == []
    assert alder.get(f"/followups/{request[:8]}")["question"] == "canary?"
    assert len(alder.get(f"/incidents/{key}/access")["items"]) == 1


# --- follow-up -------------------------------------------------------------------------------
def test_a_request_is_found_by_its_beginning_answered_and_closed(
    world: World, alder: Desk, birch: Desk, cedar: Desk
) -> None:
    key = released(world, alder)
    made = birch.post("/followups", request_of(key, "alder", priority="urgent"))
    request = made["id"]
    carry(world)
    (row,) = alder.get("/followups", side="theirs")["items"]
    assert (row["author"], row["we_owe"], row["from_us"]) == ("birch", True, False)
    assert (row["state"], row["waiting_for"]) == ("open", ["Alder"])
    assert birch.get("/followups", side="theirs")["items"] == []
    assert [r["id"] for r in birch.get("/followups", side="mine")["items"]] == [request]
    answer = {
        "outcome": "final", "text": "Sold to Ex Ltd.",
        "annex": {"parties": [{"role": "buyer", "kind": "org", "name": "Ex Ltd"}]},
    }  # fmt: skip
    world.clock.advance(HOUR)
    alder.post(f"/followups/{request[:8]}/responses", {**answer, "outcome": "interim"})
    carry(world)
    assert birch.get(f"/followups/{request[:8]}")["state"] == "interim"
    alder.post(f"/followups/{request[:8]}/responses", answer)
    carry(world)
    assert birch.get("/followups")["items"] == []
    (closed,) = birch.get("/followups", state="answered")["items"]
    assert (closed["state"], closed["response_s"]) == ("answered", 3600)
    whole = birch.get(f"/followups/{request}")
    (given,) = whole["answers"]
    assert given["responses"][-1]["annex"]["parties"][0]["name"] == "Ex Ltd"
    assert birch.post(f"/incidents/{key}/thread", {"text": "Thank you."})["recipients"] == ["alder"]
    carry(world)
    spoken = [(i["what"], i["author"]) for i in alder.get(f"/incidents/{key}/thread")["items"]]
    assert spoken[0] == ("request", "birch")
    assert spoken[-1] == ("message", "birch")
    assert cedar.get(f"/incidents/{key}/thread")["items"] == []
    assert birch.ask("GET", "/followups/abcdef").status == 404
    assert birch.ask("GET", "/followups/%25").status == 404


def test_a_false_response_does_not_hide_that_a_request_is_open(
    world: World, alder: Desk, birch: Desk
) -> None:
    key = released(world, alder)
    request = birch.post("/followups", request_of(key, "alder", priority="immediate"))["id"]
    station = world["cedar"]
    body = {
        "record": "followup.response", "response_id": key, "outcome": "final",
        "incident": {"incident_id": key, "author": world["alder"].id.hex()},
        "request": {"request_id": request, "author": world["birch"].id.hex()},
        "handling": HANDLING, "at": "2026-10-01T00:00:00Z",
    }  # fmt: skip
    station.core.release(bytes(32), [station.ship(world["birch"], body=encode(body))])
    carry(world)
    world.clock.advance(5 * HOUR)
    (row,) = birch.get("/followups", state="overdue")["items"]
    assert (row["id"], row["waiting_for"], row["escalation"]) == (request, ["alder"], 1)


def test_a_message_needs_one_request_it_belongs_to(world: World, alder: Desk, birch: Desk) -> None:
    key, other = released(world, alder), released(world, alder)
    path = f"/incidents/{key}/thread"
    assert "no request" in birch.refused(path, {"text": "?"}, "bad-request")
    one, _ = (birch.post("/followups", request_of(key, "alder"))["id"] for _ in range(2))
    assert "several" in birch.refused(path, {"text": "?"}, "bad-request")
    said = {"text": "?", "request": one}
    assert "another" in birch.refused(f"/incidents/{other}/thread", said, "bad-request")
    birch.post(path, said)


def test_overdue_requests_are_noticed_on_both_sides_until_they_are_answered(
    world: World, alder: Desk, birch: Desk
) -> None:
    key = released(world, alder)
    request = birch.post(
        "/followups", request_of(key, "alder", priority="immediate", question="canary?")
    )["id"]
    carry(world)
    assert "answer-overdue" not in alder.notices()
    world.clock.advance(9 * HOUR)
    assert "1 request waits" in alder.notices()["answer-overdue"]
    assert "of birch" in alder.notices()["answer-overdue"]
    assert "by alder" in birch.notices()["request-overdue"]
    assert "request-overdue" not in alder.notices()
    assert "canary" not in repr(alder.service.status()["notices"])
    (row,) = alder.get("/followups", state="overdue", side="theirs")["items"]
    assert (row["state"], row["escalation"]) == ("overdue", 2)
    alder.post(f"/followups/{request}/responses", {"outcome": "negative"})
    carry(world)
    assert "answer-overdue" not in alder.notices()
    assert "request-overdue" not in birch.notices()


def test_nothing_is_overdue_about_a_retracted_incident(
    world: World, alder: Desk, birch: Desk
) -> None:
    key = released(world, alder)
    birch.post("/followups", request_of(key, "alder", priority="immediate"))
    alder.post(f"/incidents/{key}/retract", {"reason": "entered_in_error"})
    carry(world)
    world.clock.advance(9 * HOUR)
    assert "request-overdue" not in birch.notices()
    assert birch.get("/followups")["items"] == []
    assert birch.get("/followups", state="all")["items"][0]["state"] == "withdrawn"


@pytest.mark.parametrize(
    "query", [{"state": "late"}, {"side": "ours"}, {"limit": "0"}, {"limit": "501"}, {"x": "1"}]
)
def test_a_wrong_parameter_of_the_list_is_told(alder: Desk, query: dict[str, str]) -> None:
    assert alder.ask("GET", "/followups", query=query).status == 400


def test_the_list_of_requests_pages_without_loss(world: World, alder: Desk, birch: Desk) -> None:
    key = released(world, alder)
    made = {birch.post("/followups", request_of(key, "alder"))["id"] for _ in range(5)}
    found: list[str] = []
    after = "0"
    while True:
        page = birch.get("/followups", after=after, limit="2")
        found += [row["id"] for row in page["items"]]
        after = str(page["next"])
        if not page["more"]:
            break
    assert len(found) == 5
    assert set(found) == made


# --- the board -------------------------------------------------------------------------------
def test_the_board_shows_who_has_not_received_opened_or_answered(
    world: World, alder: Desk, birch: Desk
) -> None:
    key = str(alder.service.create_draft(incident())["id"])
    world.clock.advance(30 * MINUTE)
    alder.service.release(
        key, to=["birch", "cedar"], annex_to=None, carriers=[], separately=False, digest=None
    )
    (row,) = alder.get("/board")["incidents"]
    assert row["not_received"] == ["birch", "cedar"]
    assert row["first_ack_s"] is None
    carry(world)
    (row,) = alder.get("/board")["incidents"]
    assert (row["not_received"], row["not_acknowledged"]) == ([], ["birch", "cedar"])
    world.clock.advance(HOUR)
    birch.post(f"/incidents/{key}/acks", {"level": "opened", "unit": "Desk 2"})
    birch.post("/followups", request_of(key, "alder", priority="immediate"))
    alder.post("/followups", request_of(key, "cedar", priority="immediate"))
    carry(world)
    world.clock.advance(5 * HOUR)
    seen = alder.get("/board")
    (row,) = seen["incidents"]
    assert row["not_acknowledged"] == ["cedar"]
    assert (row["open_requests"], row["overdue_requests"]) == (2, 2)
    by_peer = {each["peer"]: each for each in seen["counterparts"]}
    assert by_peer["cedar"]["owes_overdue"] == 1
    assert by_peer["birch"]["waits_overdue"] == 1
    assert row["first_ack_s"] == 3600


@pytest.mark.parametrize("reason", ["entered_in_error", "legal_order"])
def test_the_board_shows_who_has_not_heard_of_a_retraction(
    world: World, alder: Desk, reason: str
) -> None:
    key = released(world, alder)
    alder.post(f"/incidents/{key}/retract", {"reason": reason})
    (row,) = alder.get("/board")["incidents"]
    assert row["not_told_of_retraction"] == ["birch", "cedar"]
    carry(world)
    rows = alder.get("/board")["incidents"]
    assert [row["not_told_of_retraction"] for row in rows] == ([] if "legal" in reason else [[]])


def test_the_first_acknowledgement_counts_of_a_country_concerned_alone(
    world: World, alder: Desk, birch: Desk, cedar: Desk
) -> None:
    world["cedar"].renew_card(country="XC")
    world["alder"].core.add_peer(world["cedar"].core.trust.own, "cedar")
    key = released(world, alder)
    world.clock.advance(HOUR)
    cedar.post(f"/incidents/{key}/acks", {"level": "opened"})
    world.clock.advance(HOUR)
    birch.post(f"/incidents/{key}/acks", {"level": "opened"})
    carry(world)
    (row,) = alder.get("/board")["incidents"]
    assert {r["peer"]: r["concerned"] for r in row["recipients"]} == {"birch": True, "cedar": False}
    assert row["first_ack_s"] == 7200


def test_what_waits_longest_stays_on_the_board(world: World, alder: Desk) -> None:
    key = released(world, alder)
    alder.post("/followups", request_of(key, "birch", priority="immediate"))
    for _ in range(3):
        released(world, alder)
    world.clock.advance(5 * HOUR)
    rows = alder.get("/board", limit="1")["incidents"]
    assert rows[0]["id"] == key, "overdue stands first, however old"
    assert len(rows) == 2


def test_an_amendment_that_did_not_arrive_is_named_by_its_revision(
    world: World, alder: Desk
) -> None:
    key = released(world, alder)
    whole = alder.get(f"/incidents/{key}/amend")["incident"]
    alder.post(f"/incidents/{key}/amend", {"incident": whole, "note": "again"})
    (row,) = alder.get("/board")["incidents"]
    assert {r["peer"]: r["waiting"] for r in row["recipients"]} == {"birch": [2], "cedar": [2]}


# --- alerts ----------------------------------------------------------------------------------
def test_an_alert_is_new_until_it_is_read_here(world: World, alder: Desk, birch: Desk) -> None:
    body = {
        "title": "canary", "text": "Sold as a cleaner.", "handling": {"tlp": "GREEN"},
        "to": ["birch"], "expires": "2026-12-31T00:00:00Z",
    }  # fmt: skip
    alert = alder.post("/alerts", body)["id"]
    carry(world)
    assert "alerts-new" not in alder.notices(), "one's own is not new"
    assert birch.notices()["alerts-new"] == "1 alert not read yet, from alder"
    assert birch.get(f"/alerts/{alert[:6]}")["alert"]["text"] == "Sold as a cleaner."
    birch.post(f"/alerts/{alert}/read", {}, 200)
    birch.post(f"/alerts/{alert}/read", {}, 200)
    assert "alerts-new" not in birch.notices()
    (row,) = birch.get("/alerts")["items"]
    assert (row["read"], row["own"]) == (True, False)
    assert birch.ask("GET", "/alerts/zzz").status == 404


# --- operations ------------------------------------------------------------------------------
def opened(alder: Desk, **fields: Any) -> str:  # noqa: ANN401
    body = {
        "name": "Acronym", "participants": ["birch", "cedar"], "reporting_rule": "Within a day.",
        "scope": {"starts": "2026-09-01T00:00:00Z", "ends": "2026-12-01T00:00:00Z"},
        "handling": HANDLING, **fields,
    }  # fmt: skip
    return str(alder.post("/operations", body)["id"])


def test_a_tagged_draft_counts_in_the_tally_of_every_node(
    world: World, alder: Desk, birch: Desk, cedar: Desk
) -> None:
    operation = opened(alder)
    carry(world)
    key = str(birch.service.create_draft(incident())["id"])
    tagged = birch.post(f"/incidents/{key}/operation", {"operation": "acronym"}, 200)
    assert (tagged["operation_id"], tagged["operation"]) == (operation, "Acronym")
    birch.service.release(
        key, to=["alder", "cedar"], annex_to=None, carriers=[], separately=False, digest=None
    )
    birch.refused(f"/incidents/{key}/operation", {"operation": "acronym"}, "conflict")
    carry(world)
    tallies = [desk.get("/operations/Acronym/tally") for desk in (alder, birch, cedar)]
    for each in tallies:
        assert each["incidents"] == 1
        assert each["totals"] == [
            {"substance": "acetic-anhydride", "unit": "LTR", "value": "20160"}
        ]
    alder.post("/operations/acronym/notices", {"title": "Day 2", "text": "Go on."})
    alder.post(f"/operations/{operation[:8]}/close", {"note": "Done."})
    carry(world)
    (row,) = cedar.get("/operations")["items"]
    assert (row["state"], row["incidents"], row["convenor"]) == ("closed", 1, "alder")
    shown = cedar.get(f"/operations/{operation}")
    assert [each["title"] for each in shown["notices"]] == ["Day 2"]
    late = str(birch.service.create_draft(incident())["id"])
    detail = birch.refused(f"/incidents/{late}/operation", {"operation": operation}, "conflict")
    assert "closed" in detail


def test_a_tag_is_taken_off_again(world: World, alder: Desk) -> None:
    operation = opened(alder)
    key = str(alder.service.create_draft(incident())["id"])
    alder.post(f"/incidents/{key}/operation", {"operation": operation}, 200)
    assert alder.get(f"/incidents/{key}")["face"]["operation_id"] == operation
    alder.post(f"/incidents/{key}/operation", {}, 200)
    assert "operation_id" not in alder.get(f"/incidents/{key}")["face"]


def test_a_name_that_two_operations_have_is_not_guessed(alder: Desk) -> None:
    opened(alder), opened(alder)
    assert alder.ask("GET", "/operations/Acronym").status == 404
    assert alder.ask("GET", "/operations/").status == 404


# --- shipments -------------------------------------------------------------------------------
def test_a_notified_shipment_waits_is_answered_and_followed(
    world: World, alder: Desk, birch: Desk
) -> None:
    firm = {"kind": "org", "name": "Ex Ltd"}
    body = {
        "to": ["birch"], "also_to": ["cedar"], "number": "PEN-7", "handling": HANDLING,
        "exporting_country": "XA", "importing_country": "XB",
        "substances": incident()["face"]["substances"],
        "exporter": {"role": "exporter", **firm}, "importer": {"role": "importer", **firm},
        "reply_by": "2026-10-30T12:00:00Z",
    }  # fmt: skip
    pen = alder.post("/shipments", body)["id"]
    carry(world)
    assert "until 2026-10-30 12:00" in birch.notices()["shipments-waiting"]
    assert "shipments-waiting" not in alder.notices()
    (row,) = birch.get("/shipments")["items"]
    assert (row["we_owe"], row["overdue"], row["number"]) == (True, False, "PEN-7")
    later = {"answer": "more_time", "until": "2026-11-05T12:00:00Z"}
    birch.post("/shipments/pen-7/replies", later)
    assert "until 2026-11-05" in birch.notices()["shipments-waiting"]
    world.clock.advance(1)
    birch.post(f"/shipments/{pen[:8]}/replies", {"answer": "no_objection"})
    carry(world)
    assert "shipments-waiting" not in birch.notices()
    event = {"event": "departed", "happened": "2026-10-01T00:00:00Z"}
    birch.post("/shipments/PEN-7/events", event)
    carry(world)
    (row,) = alder.get("/shipments")["items"]
    assert (row["state"], row["last_event"], row["waiting_for"]) == ("no_objection", "departed", [])
    assert alder.get(f"/shipments/{pen}")["events"][0]["event"] == "departed"


# --- links -----------------------------------------------------------------------------------
def test_a_link_is_told_to_the_originators_that_hold_both(
    world: World, alder: Desk, birch: Desk
) -> None:
    one, two = released(world, alder), released(world, alder)
    link = {"target": two, "kind": "same_batch", "basis": "batch 33"}
    assert birch.post(f"/incidents/{one}/links", link)["recipients"] == ["alder"]
    carry(world)
    (found,) = alder.get(f"/incidents/{two}/state")["links"]
    assert found["link"]["kind"] == "same_batch"
