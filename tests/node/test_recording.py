"""Records about incidents between nodes: amended, retracted, followed up; who may write what."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from node.blobs import BlobStore
from node.casebook import SCHEMA_VERSION, Casebook
from protocol.canonical import encode
from protocol.entry import EntryKind
from protocol.errors import (
    BusyError,
    ConflictError,
    InvalidIncidentError,
    KeystoreError,
    NotFoundError,
    RecordError,
    RequestError,
    UnknownRecipientError,
)
from tests.node.factories import (
    Station,
    World,
    copied,
    incident,
    incident_id,
    made_once,
    pass_on,
)

Row = dict[str, Any]
HOUR = 3_600_000


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def carry(world: World) -> None:
    """Let all that is due be delivered, and be opened."""
    for giver in world:
        for taker in world:
            if giver is not taker:
                while pass_on(giver, taker).receipts:
                    pass
                taker.core.try_follow()
                giver.core.try_follow()


def released(world: World, *, annex: bool = True, **choice: Any) -> str:  # noqa: ANN401
    """Release an incident of alder's, to birch and cedar, and deliver it."""
    service = world["alder"].service()
    key = str(service.create_draft(incident(annex=annex))["id"])
    options = {"to": ["birch", "cedar"], "annex_to": ["birch"] if annex else None, **choice}
    options = {"carriers": [], "separately": False, "digest": None, **options}
    service.release(key, **options)
    carry(world)
    return key


def changed(summary: str = "weighed", *, annex: bool = True, container: str = "CSQU3054384") -> Row:
    value = incident(summary)
    if annex:
        value["annex"] = {"containers": [{"no": container}]}
    return value


def shown(station: Station, key: str) -> Row:
    return station.service().incident(key)


def write(station: Station, kind: str, data: Row, **choice: Any) -> Row:  # noqa: ANN401
    return station.service().records.release(kind, data, **choice)


# --- amending --------------------------------------------------------------------------------
def test_an_amendment_goes_to_exactly_those_who_got_each_layer(world: World) -> None:
    key = released(world)
    records = world["alder"].service().records
    draft = records.draft_amend(key)
    assert draft["revision"] == 2
    assert draft["incident"]["annex"] == incident(annex=True)["annex"]
    preview = records.preview_amend(key, changed(), note="weighed")
    assert {(tuple(e["to"]), *e["layers"]) for e in preview["envelopes"]} == {
        (("birch", "cedar"), "face"), (("birch",), "annex"),
    }  # fmt: skip
    assert preview["will_not_receive"] == ["dogwood"]
    assert preview["changes"]["face"] == [
        {"pointer": "/summary", "before": "20160 litres in 120 drums", "after": "weighed"}
    ]
    records.release_amend(key, changed(), note="weighed", digest=preview["digest"])
    carry(world)
    for name in ("alder", "birch"):
        assert shown(world[name], key)["revision"] == 2
        assert shown(world[name], key)["face"]["summary"] == "weighed"
        assert shown(world[name], key)["annex"] == changed()["annex"]
        state = world[name].service().records.state(key)
        assert [v["follows"] for v in state["annex"]["versions"]] == [True, True]
        assert state["face"]["heads"][0]["note"] == "weighed"
    assert shown(world["cedar"], key)["annex"] is None
    state = world["cedar"].service().records.state(key)
    assert [v["follows"] for v in state["face"]["versions"]] == [True, True]
    with pytest.raises(NotFoundError):
        shown(world["dogwood"], key)


def test_released_separately_the_amendment_names_nobody_to_another(world: World) -> None:
    key = released(world, annex=False, separately=True)
    preview = world["alder"].service().records.preview_amend(key, changed(annex=False))
    assert sorted(e["to"] for e in preview["envelopes"]) == [["birch"], ["cedar"]]


def test_recipients_are_added_in_envelopes_of_their_own_and_left_out_without_taking_back(
    world: World,
) -> None:
    key = released(world)
    records = world["alder"].service().records
    choice: Row = {"also_to": ["dogwood"], "annex_also_to": ["dogwood"], "without": ["cedar"]}
    preview = records.preview_amend(key, changed(), **choice)
    assert preview["left_out_keep_what_they_have"] == ["cedar"]
    assert {(tuple(e["to"]), *e["layers"]) for e in preview["envelopes"]} == {
        (("birch",), "face"), (("birch",), "annex"), (("dogwood",), "face", "annex"),
    }  # fmt: skip
    records.release_amend(key, changed(), **choice)
    carry(world)
    assert shown(world["dogwood"], key)["annex"] == changed()["annex"]
    assert shown(world["cedar"], key)["revision"] == 1
    with pytest.raises(UnknownRecipientError, match="annex but not the face"):
        records.preview_amend(key, changed(), annex_also_to=["cedar"], without=["cedar"])


def test_an_amendment_without_an_annex_takes_the_annex_away_where_it_was(world: World) -> None:
    key = released(world)
    world["alder"].service().records.release_amend(key, changed(annex=False))
    carry(world)
    assert shown(world["birch"], key)["annex"] is None


def test_the_list_shows_the_state_in_whatever_order_the_revisions_came(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    service = alder.service()
    key = str(service.create_draft(incident())["id"])
    service.release(key, to=["birch"], annex_to=None, carriers=[], separately=False, digest=None)
    for summary in ("second", "third"):
        service.records.release_amend(key, changed(summary, annex=False))
    wires = [e["envelope_id"] for e in service.incident(key)["envelopes"]]
    assert len(wires) == 3
    # The first opens the epoch, without which nothing opens.
    for wire in (wires[0], wires[2], wires[1]):
        birch.core.take([alder.envelope(bytes.fromhex(wire)).wire], giver=alder.id)
        birch.core.try_follow()
    assert shown(birch, key)["face"]["summary"] == "third"
    assert shown(birch, key)["revision"] == 3


def test_only_own_incidents_that_stand_are_amended(world: World) -> None:
    key = released(world)
    with pytest.raises(ConflictError, match="alder's: only it can change that"):
        world["birch"].service().records.draft_amend(key)
    write(world["alder"], "incident.retract", {"incident": key, "reason": "entered_in_error"})
    with pytest.raises(ConflictError, match="retracted, which is final"):
        world["alder"].service().records.release_amend(key, changed())
    bad = changed()
    del bad["face"]["summary"]
    with pytest.raises(InvalidIncidentError) as caught:
        world["alder"].service().records.preview_amend(released(world), bad)
    assert caught.value.problems[0][0] == "/face/summary"


def test_the_digest_of_another_preview_releases_nothing(world: World) -> None:
    key = released(world)
    records = world["alder"].service().records
    digest = records.preview_amend(key, changed())["digest"]
    with pytest.raises(ConflictError, match="preview"):
        records.release_amend(key, changed("other"), digest=digest)
    assert shown(world["alder"], key)["revision"] == 1


def test_one_token_releases_once(world: World) -> None:
    key = released(world)
    records = world["alder"].service().records
    first = records.release_amend(key, changed(), token="a")
    again = records.release_amend(key, changed("other"), token="a")
    assert first["new"]
    assert not again["new"]
    assert again["envelopes"] == first["envelopes"]
    assert shown(world["alder"], key)["revision"] == 2
    ack = {"incident": key, "level": "opened"}
    one, two = (write(world["birch"], "ack", ack, token="b") for _ in range(2))
    assert one["envelopes"] == two["envelopes"]


def test_a_dishonest_amendment_changes_nothing_that_is_shown(world: World) -> None:
    key = released(world)
    birch = world["birch"]
    body = {
        "record": "incident.amend", "incident_id": key, "ref": shown(birch, key)["ref"],
        "revision": 9, "prev": {}, "layers": ["face"], "shared_at": "2026-03-05T09:00:00Z",
        "face": incident("nothing")["face"],
    }  # fmt: skip
    birch.core.release(bytes(32), [birch.ship(world["alder"], world["cedar"], body=encode(body))])
    carry(world)
    for name in ("alder", "cedar"):
        state = world[name].service().records.state(f"{key}@alder")
        assert state["face"]["heads"][0]["value"]["summary"] == "20160 litres in 120 drums"
        assert [each["author"] for each in state["ignored"]] == ["birch"]


# --- retracting ------------------------------------------------------------------------------
def test_a_retraction_marks_the_incident_and_leaves_it_readable(world: World) -> None:
    key = released(world)
    write(world["alder"], "incident.retract", {"incident": key, "reason": "substance_refuted"})
    carry(world)
    for name in ("alder", "birch", "cedar"):
        state = world[name].service().records.state(key)
        assert state["retracted"]["reason"] == "substance_refuted"
        assert shown(world[name], key)["face"] is not None


@pytest.mark.parametrize("reason", ["legal_order", "personal_data_erasure"])
def test_a_retraction_under_law_erases_the_incident_and_what_was_written_about_it_everywhere(
    world: World, reason: str
) -> None:
    key = released(world)
    alder, birch = world["alder"], world["birch"]
    alder.service().records.release_amend(key, changed("canary"))
    carry(world)
    asked = write(
        birch, "followup.request",
        {"incident": key, "to": ["alder"], "kinds": ["backtracking"], "question": "canary?"},
    )  # fmt: skip
    carry(world)
    write(alder, "incident.retract", {"incident": key, "reason": reason})
    carry(world)
    for name in ("alder", "birch", "cedar"):
        station = world[name]
        row = shown(station, key)
        assert (row["face"], row["annex"], row["state"]) == (None, None, "erased")
        assert row["erased"]["reason"] == reason
        _, cases = station.core.opened()
        kinds = {item["kind"] for item in cases.items_about(key)}
        assert kinds == {"incident.retract"}
        assert not cases.condemned()
        assert EntryKind.ERASED in station.kinds()
        station.core.verify()
        dumped = repr(list(cases._database.query("SELECT * FROM items, incidents")))
        assert "canary" not in dumped
    assert alder.core.held(bytes.fromhex(asked["envelopes"][0])) is None
    delivered = shown(alder, key)["deliveries"]
    assert all(each["erased_at"] for each in delivered if each["state"] == "delivered")


def test_whoever_gets_the_tombstone_without_the_report_can_read_it(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    service = alder.service()
    key = str(service.create_draft(incident())["id"])
    service.release(key, to=["birch"], annex_to=None, carriers=[], separately=False, digest=None)
    write(alder, "incident.retract", {"incident": key, "reason": "legal_order"})
    carry(world)
    assert birch.service().records.state(key)["retracted"]["reason"] == "legal_order"
    assert shown(birch, key)["face"] is None


def test_what_comes_after_the_tombstone_is_erased_as_well(world: World) -> None:
    key = released(world, annex=False)
    alder, birch = world["alder"], world["birch"]
    write(
        alder, "followup.request",
        {"incident": key, "to": ["birch"], "kinds": ["backtracking"], "question": "canary?"},
    )  # fmt: skip
    write(alder, "incident.retract", {"incident": key, "reason": "legal_order"})
    carry(world)
    _, cases = birch.core.opened()
    assert {item["kind"] for item in cases.items_about(key)} == {"incident.retract"}


# --- follow-up -------------------------------------------------------------------------------
def ask(world: World, key: str, *, by: str = "birch", to: str = "alder", **fields: Any) -> str:  # noqa: ANN401
    data = {
        "incident": key, "to": [to], "kinds": ["trace_batch"], "question": "Who bought it?",
        **fields,
    }  # fmt: skip
    made = write(world[by], "followup.request", data)
    carry(world)
    return str(made["id"])


def test_a_request_is_asked_answered_and_talked_about(world: World) -> None:
    key = released(world)
    request = ask(world, key)
    (state,) = world["alder"].service().records.state(key)["requests"]
    assert (state["state"], state["author"]) == ("open", "birch")
    assert state["request"]["to"] == ["Alder"], "its own authority, as it calls itself"
    answer = {
        "request": request, "outcome": "final", "text": "The buyer.",
        "annex": {"parties": [{"role": "buyer", "kind": "org", "name": "Ex Ltd"}]},
    }  # fmt: skip
    write(world["alder"], "followup.response", answer)
    write(world["birch"], "thread.message", {"request": request, "text": "Thank you."})
    carry(world)
    for name in ("alder", "birch"):
        found = world[name].service().records.state(key)
        (state,) = found["requests"]
        assert state["state"] == "answered"
        assert state["answers"][0]["responses"][0]["annex"]["parties"][0]["name"] == "Ex Ltd"
        assert [each["message"]["text"] for each in found["thread"]] == ["Thank you."]
        assert state["handling"]["tlp"] == "AMBER"
    assert world["cedar"].service().records.state(key)["requests"] == []


def test_a_request_is_due_by_its_priority_and_escalates(world: World) -> None:
    key = released(world)
    ask(world, key, priority="immediate")
    world.clock.advance(9 * HOUR)
    (state,) = world["birch"].service().records.state(key)["requests"]
    assert (state["state"], state["escalation"]) == ("overdue", 2)


def test_nothing_about_an_incident_goes_to_one_who_does_not_hold_it(world: World) -> None:
    key = released(world)
    with pytest.raises(UnknownRecipientError, match="dogwood is not known to hold"):
        ask(world, key, to="dogwood")
    with pytest.raises(UnknownRecipientError, match="dogwood is not known to hold"):
        write(world["birch"], "ack", {"incident": key, "level": "opened"}, to=["dogwood"])
    with pytest.raises(NotFoundError):
        ask(world, key, by="dogwood")


def test_a_follow_up_is_handled_at_least_as_strictly_as_the_incident(world: World) -> None:
    key = released(world)
    with pytest.raises(RequestError, match="freer"):
        ask(world, key, handling={"tlp": "GREEN"})
    with pytest.raises(InvalidIncidentError) as caught:
        ask(world, key, handling={"tlp": "PINK"})
    assert caught.value.problems[0][0] == "/handling/tlp"
    ask(world, key, handling={"tlp": "RED"})


def test_only_those_asked_answer_and_only_parties_write(world: World) -> None:
    key = released(world)
    request = ask(world, key)
    with pytest.raises(ConflictError, match="was not asked"):
        write(world["birch"], "followup.response", {"request": request, "outcome": "negative"})
    with pytest.raises(NotFoundError, match="no request"):
        write(world["cedar"], "thread.message", {"request": request, "text": "?"})


def test_nobody_keeps_a_request_from_being_answered_by_copying_its_id(world: World) -> None:
    key = released(world)
    request = ask(world, key)
    for number, (about, to) in enumerate([(key, "alder"), (incident_id(7), "alder")]):
        body = {
            "record": "followup.request", "request_id": request, "kinds": ["contact_only"],
            "incident": {"incident_id": about, "author": world["alder"].id.hex()},
            "to": [world[to].id.hex()], "question": "?", "handling": {"tlp": "AMBER"},
            "at": "2026-10-01T00:00:00Z", "due": "2026-10-02T00:00:00Z",
        }  # fmt: skip
        cedar = world["cedar"]
        cedar.core.release(bytes([number]) * 32, [cedar.ship(world[to], body=encode(body))])
    carry(world)
    answer = {"request": request, "outcome": "negative"}
    with pytest.raises(NotFoundError, match="more than one"):
        write(world["alder"], "followup.response", answer)
    made = write(world["alder"], "followup.response", {**answer, "request": f"{request}@birch"})
    assert made["recipients"] == ["birch"]


def test_every_fault_of_a_record_is_told_at_once(world: World) -> None:
    key = released(world)
    with pytest.raises(InvalidIncidentError) as caught:
        ask(world, key, kinds=["gossip"], question="", more=1)
    assert {pointer for pointer, _, _ in caught.value.problems} >= {
        "/kinds/0", "/question", "/more",
    }  # fmt: skip


def test_acks_rise_and_are_the_recipients_own(world: World) -> None:
    key = released(world)
    for level in ("opened", "actioned"):
        write(world["birch"], "ack", {"incident": key, "level": level})
    carry(world)
    (ack,) = world["alder"].service().records.state(key)["acks"]
    assert (ack["recipient"], ack["level"]) == ("birch", "actioned")
    with pytest.raises(ConflictError, match="of its own"):
        write(world["alder"], "ack", {"incident": key, "level": "opened"})


def test_a_link_reaches_the_originators_that_hold_the_incident(world: World) -> None:
    first, second = released(world, annex=False), released(world, annex=False)
    link = {"incident": first, "target": second, "kind": "same_batch", "basis": "batch 33"}
    assert write(world["birch"], "link.assert", link)["recipients"] == ["alder"]
    carry(world)
    for key in (first, second):
        (found,) = world["alder"].service().records.state(key)["links"]
        assert (found["author"], found["link"]["basis"]) == ("birch", "batch 33")


# --- operations, shipments, alerts -----------------------------------------------------------
def test_an_operation_is_opened_tagged_tallied_alike_and_closed(world: World) -> None:
    data = {
        "name": "Acronym", "participants": ["birch", "cedar"], "reporting_rule": "Within a day.",
        "scope": {"starts": "2026-09-01T00:00:00Z", "ends": "2026-12-01T00:00:00Z"},
        "handling": {"tlp": "AMBER"},
    }  # fmt: skip
    operation = write(world["alder"], "operation.open", data)["id"]
    carry(world)
    service = world["birch"].service()
    tagged = incident()
    tagged["face"]["operation_id"] = operation
    key = str(service.create_draft(tagged)["id"])
    service.release(
        key, to=["alder", "cedar"], annex_to=None, carriers=[], separately=False, digest=None
    )
    service.records.release_amend(key, tagged)
    carry(world)
    tallies = []
    for name in ("alder", "birch", "cedar"):
        found = world[name].service().records.operation(operation)["tallies"]
        tallies.append({each.pop("participant").casefold(): each for each in found})
    assert tallies[0] == tallies[1] == tallies[2]
    assert tallies[0]["birch"] == {
        "incidents": 1, "totals": [["acetic-anhydride", "LTR", "20160"]],
    }  # fmt: skip
    assert tallies[0]["cedar"]["incidents"] == 0
    with pytest.raises(ConflictError, match="alder's"):
        write(world["birch"], "operation.close", {"operation": operation})
    write(world["alder"], "operation.close", {"operation": operation})
    carry(world)
    closed = world["cedar"].service().records.operation(operation)
    assert (closed["state"], closed["differing"]) == ("closed", [])
    assert [c["incidents"] for c in closed["closed"][0]["counts"]].count(1) == 1


def test_a_shipment_is_notified_answered_and_followed(world: World) -> None:
    party = {"kind": "org", "name": "Ex Ltd"}
    data = {
        "to": ["birch"], "exporting_country": "XA", "importing_country": "XB",
        "substances": incident()["face"]["substances"], "handling": {"tlp": "AMBER"},
        "exporter": {"role": "exporter", **party}, "importer": {"role": "importer", **party},
        "reply_by": "2026-10-30T12:00:00Z",
    }  # fmt: skip
    made = write(world["alder"], "pen.notification", data, to=["cedar"])
    assert made["recipients"] == ["birch", "cedar"]
    pen = made["id"]
    carry(world)
    with pytest.raises(ConflictError, match="not asked"):
        write(world["cedar"], "pen.reply", {"pen": pen, "answer": "no_objection"})
    with pytest.raises(InvalidIncidentError, match="reason"):
        write(world["birch"], "pen.reply", {"pen": pen, "answer": "objection"})
    reply = write(world["birch"], "pen.reply", {"pen": pen, "answer": "no_objection"})
    assert reply["recipients"] == ["alder"]
    event = {"pen": pen, "event": "departed", "happened": "2026-10-01T00:00:00Z"}
    write(world["cedar"], "consignment.event", event)
    carry(world)
    found = world["alder"].service().records.shipment(pen)
    assert found["state"] == "no_objection"
    assert [each["event"] for each in found["events"]] == ["departed"]
    with pytest.raises(UnknownRecipientError, match="was not told"):
        write(world["birch"], "consignment.event", event, to=["dogwood"])


def test_alerts_and_lists_go_to_whom_they_are_sent(world: World) -> None:
    alert = {
        "title": "New cover", "text": "Sold as a cleaner.", "handling": {"tlp": "GREEN"},
        "expires": "2026-12-31T00:00:00Z",
    }  # fmt: skip
    preview = world["alder"].service().records.preview("alert.special", alert, to=["birch"])
    assert preview["will_not_receive"] == ["cedar", "dogwood"]
    write(world["alder"], "alert.special", alert, to=["birch"], digest=preview["digest"])
    rows = [{"key": "safrole", "fields": {"cas": "94-59-7"}}]
    data = {"name": "substances", "version": 1, "effective": "2026-01-01", "source": "INCB",
            "rows": rows}  # fmt: skip
    write(world["alder"], "list.update", data, to=["birch"])
    carry(world)
    records = world["birch"].service().records
    assert [each["alert"]["title"] for each in records.alerts()["items"]] == ["New cover"]
    assert records.reference_list("substances", "alder")["version"] == 1
    assert world["cedar"].service().records.alerts()["items"] == []
    with pytest.raises(UnknownRecipientError):
        write(world["alder"], "alert.special", alert)
    with pytest.raises(RequestError, match="no record 'gossip'"):
        write(world["alder"], "gossip", {})


# --- case.db ---------------------------------------------------------------------------------
def test_a_kind_that_is_not_known_is_set_aside(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    body = encode({"record": "incident.dance", "at": "2026-03-05T09:00:00Z"})
    alder.core.release(bytes(32), [alder.ship(birch, body=body)])
    carry(world)
    _, cases = birch.core.opened()
    assert [row["code"] for row in cases.quarantined()] == [RecordError.code]


def test_an_older_case_db_gets_its_tables_and_opens_what_it_could_not_read(world: World) -> None:
    key = released(world)
    birch = world["birch"]
    world["alder"].service().records.release_amend(key, changed())
    carry(world)
    vault, cases = birch.core.opened()
    amended = cases.items_about(key)
    assert amended
    # As version 3 left it: the amendments were set aside, the cursor went on.
    with cases.transaction():
        for row in amended:
            cases.quarantine(row["envelope_id"], row["log_index"], RecordError.code, 1)
        for table in ("items", "standing"):
            cases._connection.execute(f"DROP TABLE {table}")
        cases._connection.execute("DROP INDEX incidents_operation")
        cases._connection.execute("DELETE FROM records WHERE revision = 2")
        cases._connection.execute("PRAGMA user_version = 3")
    path, storage = cases.path, vault.storage
    birch.close()
    with closing(Casebook(path, storage)) as opened:
        version = opened._connection.execute("PRAGMA user_version").fetchone()[0]
        assert version == SCHEMA_VERSION
        assert opened.quarantined() == []
    birch.open()
    assert shown(birch, key)["face"]["summary"] == "weighed"


def test_a_case_db_that_found_no_room_is_not_left_half_made(tmp_path: Path) -> None:
    path = tmp_path / "case.db"
    whole = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 100, 1_024, 4_096, 5_000, 16_384, 65_536):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, whole[1]))
        try:
            with pytest.raises(BusyError):
                Casebook(path, bytes(32))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, whole)
        assert not list(tmp_path.iterdir())
    with closing(Casebook(path, bytes(32))) as made:
        assert made.incidents(after=0, limit=1, own=None) == []
    with pytest.raises(KeystoreError):
        Casebook(path, bytes([1]) * 32)
    assert path.exists(), "what was there before is never taken away"


def test_what_stands_in_case_db_of_a_response_holds_no_key_of_an_attachment(world: World) -> None:
    key = released(world)
    request = ask(world, key)
    alder = world["alder"]
    attachment = {
        "sha256": "a" * 64, "media_type": "image/jpeg", "size": 9, "kind": "label_photo",
        "blob": "b" * 64, "key": "c" * 64,
    }  # fmt: skip
    body = {
        "record": "followup.response", "response_id": "00000000-0000-4000-8000-000000000009",
        "incident": {"incident_id": key, "author": alder.id.hex()},
        "request": {"request_id": request, "author": world["birch"].id.hex()},
        "outcome": "final", "annex": {"attachments": [attachment]}, "handling": {"tlp": "AMBER"},
        "at": "2026-10-01T00:00:00Z",
    }  # fmt: skip
    alder.core.release(bytes(32), [alder.ship(world["birch"], body=encode(body))])
    carry(world)
    _, cases = world["birch"].core.opened()
    (held,) = cases.attachments(sha256=bytes.fromhex("a" * 64))
    assert (held["incident_id"], held["author"]) == (key, alder.id)
    assert held["ref"].key == bytes.fromhex("c" * 64)
    assert "c" * 64 not in json.dumps([row["body"] for row in cases.items_about(key)])


# --- attachments of revisions ----------------------------------------------------------------
def test_a_revision_names_the_blobs_that_its_audience_has_and_new_ones_for_those_added(
    world: World,
) -> None:
    alder, birch, dogwood = world["alder"], world["birch"], world["dogwood"]
    alder.core.blobs = BlobStore(alder.home.attachments, quota=2**30, min_free=0)
    content = b"label" * 1_000
    sha256 = hashlib.sha256(content).hexdigest()
    service = alder.service()
    upload = service.enclosures.upload(sha256)
    writer = upload.open(len(content))
    assert writer is not None
    with writer:
        writer.write(content)
        upload.keep(writer.finish(sha256=bytes.fromhex(sha256)))
    about = {"sha256": sha256, "media_type": "image/jpeg", "size": len(content),
             "kind": "label_photo"}  # fmt: skip
    value = {**incident(), "annex": {"attachments": [about]}}
    key = str(service.create_draft(value)["id"])
    service.release(key, to=["birch"], annex_to=None, carriers=[], separately=False, digest=None)
    again = {**incident("weighed"), "annex": {"attachments": [about]}}
    service.records.release_amend(key, again, also_to=["dogwood"], annex_also_to=["dogwood"])
    carry(world)

    def blobs(station: Station) -> set[bytes]:
        _, cases = station.core.opened()
        return {row["ref"].id for row in cases.attachments(sha256=bytes.fromhex(sha256))}

    assert len(blobs(birch)) == 1
    assert len(blobs(dogwood)) == 1
    assert not blobs(birch) & blobs(dogwood)
    assert blobs(alder) == blobs(birch) | blobs(dogwood)
    digests = {
        station.service().records.state(key)["annex"]["versions"][-1]["digest"]
        for station in (alder, birch)
    }
    assert len(digests) == 1
    write(alder, "incident.retract", {"incident": key, "reason": "legal_order"})
    carry(world)
    assert not blobs(birch)
    assert not any(alder.core.blobs.whole()), "the files are gone as well"
