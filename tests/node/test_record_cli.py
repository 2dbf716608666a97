"""The life cycle of incidents at the command line: seven questions, amendments, follow-up."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from node.app import open_service
from node.cli import releasing
from node.cli.questions import (
    named_substance,
    pick,
    read_contact,
    read_place,
    read_quantity,
    read_route,
)
from node.cli.records import put, read_value
from node.client import Client
from protocol import vocabulary as v
from tests.node.test_cli import (
    NOT_FOUND,
    OK,
    PASSPHRASE,
    REFUSED,
    USAGE,
    at_terminal_often,
    fine,
    incident,
    make,
    picket,
    told,
)

Row = dict[str, Any]
SCREEN: Final = 34
"""Lines of a window in which the questions, the answers and what comes of them are to fit."""
OLD_SCREEN: Final = 24
"""Lines of a terminal of old, for what comes after the seventh answer."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alder and Birch, who trust each other."""
    folder = tmp_path_factory.mktemp("made")
    secret = folder / "passphrase"
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    names = ("alder", "birch")
    for name in names:
        make(folder / name, name.title(), "test.example", secret)
    cards = {n: Client(folder / n).call("GET", "/api/v1/card")[1]["card"] for n in names}
    for name, other in (names, names[::-1]):
        client = Client(folder / name)
        peer = client.call("POST", "/api/v1/peers", {"card": cards[other], "name": other})[1]
        approval = {"level": "share", "safety_number": peer["safety_number"], "method": "voice",
                    "by": "test"}  # fmt: skip
        assert client.call("POST", f"/api/v1/peers/{other}/approve", approval)[0] == 200
    return folder


@pytest.fixture
def homes(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "n")


def carry(giver: Path, taker: Path) -> None:
    """Hand all that one node released to the other, as a link would."""
    secret = PASSPHRASE.encode()
    with open_service(giver, lambda: secret) as gives, open_service(taker, lambda: secret) as takes:
        own = gives.core.node_id
        rows = gives.core.store.rows("SELECT wire FROM envelopes WHERE author = ?", own)
        takes.core.take([row["wire"] for row in rows], giver=own)
        takes.core.try_follow()


def released(homes: Path) -> str:
    """Release an incident of Alder's to Birch."""
    file = homes / "incident.json"
    file.write_text(json.dumps(incident()))
    done = picket(homes / "alder", "incidents", "new", "--file", str(file), "--to", "birch",
                  "--yes", "--json")  # fmt: skip
    carry(homes / "alder", homes / "birch")
    return str(json.loads(fine(done))["ref"])


# --- seven questions -------------------------------------------------------------------------
SEVEN: Final = (
    ("1/7 Its", "stopped"), ("2/7", "Netherlands, NLRTM, seaport"), ("3/7", "2026-03-01 08:30"),
    ("4/7", "108-24-7"), ("5/7", "20160 L"), ("6/7", "Drums held at the port."),
    ("7/7", "Duty desk, duty@alder.example"), ("Handling", ""), ("The way", "XB > NL > PL"),
)  # fmt: skip


def pressed(answers: Sequence[tuple[str, str]]) -> list[tuple[str, bytes]]:
    return [(when, answer.encode() + b"\n") for when, answer in answers]


def test_seven_answers_are_a_released_report_on_one_screen(homes: Path) -> None:
    answers = [*SEVEN, ("Release it to", "birch"), ("exactly these", "y")]
    code, shown = at_terminal_often(homes / "alder", "incidents", "new", presses=pressed(answers))
    assert code == OK, shown
    (ref,) = re.findall(r"^(PI-\S+) is released\.$", shown, re.MULTILINE)
    assert len(shown.splitlines()) <= SCREEN, shown
    assert len(shown[shown.index("7/7") :].splitlines()) <= OLD_SCREEN, shown
    assert "manufacturer and batch (A4), a transport document number (A2)" in shown
    assert re.search(r"Countries concerned: NL, PL, XB\. Peers there: \S+", shown)
    assert "Table I" in shown
    assert "108-24-7" in shown
    carry(homes / "alder", homes / "birch")
    seen = Client(homes / "birch").call("GET", f"/api/v1/incidents/{ref}")[1]
    face = seen["face"]
    assert face["incident_type"] == "stopped_shipment"
    assert face["location"] == {
        "country": "NL", "locode": "NLRTM", "facility_type": "seaport",
    }  # fmt: skip
    assert face["substances"][0]["substance_id"] == "acetic-anhydride"
    assert [leg["role"] for leg in face["route"]] == ["origin", "destination_declared"]
    assert face["contact"] == {"unit": "Duty desk", "mailbox": "duty@alder.example"}
    assert face["handling"] == {"tlp": "AMBER"}


def test_a_typed_no_leaves_the_draft(homes: Path) -> None:
    answers = [*SEVEN, ("Release it to", "birch"), ("exactly these", "n")]
    code, shown = at_terminal_often(homes / "alder", "incidents", "new", presses=pressed(answers))
    assert code == REFUSED, shown
    drafts = Client(homes / "alder").call("GET", "/api/v1/incidents?state=draft")[1]["items"]
    assert len(drafts) == 1


FLAGS: Final = (
    "--type", "seizure", "--place", "XA", "--when", "2026-03-01 08:30", "--substance", "Acetone",
    "--amount", "about 25 kg powder", "--summary", "A bag.", "--contact", "Duty desk",
)  # fmt: skip


def test_a_script_gives_the_seven_answers_as_options(homes: Path) -> None:
    alder = homes / "alder"
    done = picket(alder, "incidents", "new", *FLAGS, "--tlp", "red", "--exercise", "--json")
    ref = json.loads(fine(done))["ref"]
    face = Client(alder).call("GET", f"/api/v1/incidents/{ref}")[1]["face"]
    assert face["substances"] == [
        {"substance_id": "acetone", "form": "solid_powder",
         "qty": {"value": "25", "unit": "KGM", "qualifier": "approximately"}}
    ]  # fmt: skip
    assert (face["handling"], face["exercise"]) == ({"tlp": "RED"}, True)


@pytest.mark.parametrize("at", [0, 4, 6, 8, 10])  # place and contact may be the node's own
def test_a_script_is_told_which_answer_is_missing(made: Path, at: int) -> None:
    arguments = FLAGS[:at] + FLAGS[at + 2 :]
    line = told(picket(made / "alder", "incidents", "new", *arguments), USAGE)
    assert FLAGS[at] in line


def test_a_wrong_answer_of_a_script_is_named_with_its_option(homes: Path) -> None:
    changed = ["25 stone" if word.startswith("about") else word for word in FLAGS]
    line = told(picket(homes / "alder", "incidents", "new", *changed), USAGE)
    assert "--amount '25 stone'" in line


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        ("nl", {"country": "NL"}), ("The Netherlands", None), ("Netherlands", {"country": "NL"}),
        ("NLRTM", {"country": "NL", "locode": "NLRTM"}), ("Chile", {"country": "CL"}),
        ("nl rtm", {"country": "NL", "locode": "NLRTM"}), ("Itlay", None),
        ("XA", {"country": "XA"}),
        ("NL seaport", {"country": "NL", "facility_type": "seaport"}), ("", None),
        ("NLRTM, free zone", {"country": "NL", "locode": "NLRTM", "facility_type": "free_zone"}),
        ("NL castle", None),
    ],
)  # fmt: skip
def test_a_place_is_read_as_people_write_it(typed: str, place: Row | None) -> None:
    if place is None:
        with pytest.raises(ValueError, match="give"):
            read_place(typed)
    else:
        assert read_place(typed) == place


@pytest.mark.parametrize(
    ("typed", "quantity", "form"),
    [
        ("20160 L", {"value": "20160", "unit": "LTR"}, "liquid"),
        ("25 kg", {"value": "25", "unit": "KGM"}, "unknown"),
        ("at least 3 drums", None, ""), ("up to 2 t liquid", {
            "value": "2", "unit": "TNE", "qualifier": "at_most"}, "liquid"),
        ("~ 5 kg crystalline", {"value": "5", "unit": "KGM", "qualifier": "approximately"},
         "crystalline"),
        ("some", None, ""),
    ],
)  # fmt: skip
def test_a_quantity_is_read_with_how_sure_it_is(
    typed: str, quantity: Row | None, form: str
) -> None:
    if quantity is None:
        with pytest.raises(ValueError, match=r"unit|number"):
            read_quantity(typed)
    else:
        assert read_quantity(typed) == (quantity, form)


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("acetic anhydride", {"substance_id": "acetic-anhydride"}),
        ("108-24-7", {"substance_id": "acetic-anhydride"}),
        ("White powder 7", {"other": {"name": "White powder 7"}}),
        ("50-00-0", {"other": {"name": "50-00-0", "cas": "50-00-0"}}),
    ],
)
def test_a_substance_is_named_by_the_list_or_stays_as_it_was_typed(typed: str, named: Row) -> None:
    assert named_substance(typed) == named


def test_words_are_picked_by_number_beginning_or_part() -> None:
    assert pick(v.INCIDENT_TYPE, "1") == "seizure"
    assert pick(v.INCIDENT_TYPE, "Stopped shipment") == "stopped_shipment"
    assert pick(v.INCIDENT_TYPE, "declined") == "order_declined_by_industry"
    for typed, reason in (("suspicious", "suspicious shipment or"), ("gossip", "name or number")):
        with pytest.raises(ValueError, match=reason):
            pick(v.INCIDENT_TYPE, typed)


def test_contacts_and_routes_are_read_as_people_write_them() -> None:
    assert read_contact("duty@x.example, +31 20 555 0100") == {
        "unit": "Duty desk", "mailbox": "duty@x.example", "phone": "+31 20 555 0100",
    }  # fmt: skip
    legs = read_route("China > NL, Poland")
    assert [(leg["origin"], leg["destination"]) for leg in legs] == [("CN", "NL"), ("NL", "PL")]
    for typed in ("CN", "CN > Atlantis"):
        with pytest.raises(ValueError, match="give"):
            read_route(typed)


# --- amending --------------------------------------------------------------------------------
def test_an_amendment_shows_what_changes_for_whom_before_it_goes(homes: Path) -> None:
    ref, alder = released(homes), homes / "alder"
    change = ("incidents", "amend", ref, "--set", "/face/status=concluded", "--note", "closed")
    refused = picket(alder, *change)
    assert refused.returncode == USAGE
    assert "face: status: added concluded" in refused.stderr
    assert "Will receive the face:   birch" in refused.stderr
    assert "Will NOT receive it:     nobody" in refused.stderr
    assert "there is nobody to ask" in refused.stderr.casefold()
    assert Client(alder).call("GET", f"/api/v1/incidents/{ref}")[1]["revision"] == 1
    assert f"{ref} is amended: revision 2." in fine(picket(alder, *change, "--yes"))
    carry(alder, homes / "birch")
    shown = fine(picket(homes / "birch", "incidents", "history", ref))
    assert "Revision 2" in shown
    assert "closed" in shown
    assert "face: status: added concluded" in shown


def test_a_whole_document_replaces_what_stands(homes: Path) -> None:
    ref, alder = released(homes), homes / "alder"
    whole = incident()
    whole["face"]["summary"] = "All of it, weighed."
    file = homes / "whole.json"
    file.write_text(json.dumps(whole))
    fine(picket(alder, "incidents", "amend", ref, "--file", str(file), "--yes"))
    seen = Client(alder).call("GET", f"/api/v1/incidents/{ref}")[1]
    assert seen["face"]["summary"] == "All of it, weighed."


def test_every_fault_of_an_amendment_is_told(homes: Path) -> None:
    ref = released(homes)
    done = picket(homes / "alder", "incidents", "amend", ref, "--yes", "--set", "/face/status=gone",
                  "--set", "/face/gossip=1")  # fmt: skip
    assert done.returncode != OK
    for pointer in ("/face/status", "/face/gossip"):
        assert pointer in done.stderr


def test_a_field_is_put_where_its_pointer_says() -> None:
    whole: Row = {"face": {"a": [{"b": "1"}], "c": "x"}}
    put(whole, "/face/a/0/b", "2")
    put(whole, "/face/a/-", {"b": "3"})
    put(whole, "/annex/containers/-/no", "CSQU3054383")
    put(whole, "/face/c", None)
    assert whole == {
        "face": {"a": [{"b": "2"}, {"b": "3"}]},
        "annex": {"containers": [{"no": "CSQU3054383"}]},
    }
    assert read_value("/face/exercise", "true") is True
    assert read_value("/face/summary", "true") == "true"
    assert read_value("/face/substances/0/qty/value", "25") == "25"
    assert read_value("/annex/containers", '[{"no": "1"}]') == [{"no": "1"}]


@pytest.mark.parametrize(
    ("pointer", "value"),
    [("status", "x"), ("/status", "x"), ("/body/x", "x"), ("/face/a/7", "x"), ("/face/a/x", "x"),
     ("/face/c/d", "x"), ("/face/gone", None), ("/face/a/7", None)],
)  # fmt: skip
def test_a_pointer_to_nothing_is_refused(pointer: str, value: object) -> None:
    with pytest.raises(typer.Exit):
        put({"face": {"a": ["1"], "c": "x"}}, pointer, value)


def test_a_retraction_asks_first_and_is_shown_with_its_reason(homes: Path) -> None:
    ref, alder = released(homes), homes / "alder"
    told(picket(alder, "incidents", "retract", ref, "--reason", "mood", "--yes"), USAGE)
    retract = ("incidents", "retract", ref, "--reason", "entered_in_error")
    assert picket(alder, *retract).returncode == USAGE
    fine(picket(alder, *retract, "--yes"))
    carry(alder, homes / "birch")
    shown = fine(picket(homes / "birch", "incidents", "history", ref))
    assert "entered in error" in shown
    assert "RETRACTED" in fine(picket(homes / "birch", "incidents", "list"))
    assert "RETRACTED" in fine(picket(homes / "birch", "incidents", "show", ref))


# --- follow-up -------------------------------------------------------------------------------
def test_a_request_goes_through_all_commands(homes: Path) -> None:
    ref, alder, birch = released(homes), homes / "alder", homes / "birch"
    question = homes / "question.txt"
    question.write_text("Who bought batch 33?\nAnd when?\n")
    asked = picket(
        birch, "followup", "ask", ref, "--kind", "trace_batch", "--to", "alder",
        "--question-file", str(question), "--priority", "urgent", "--yes",
    )  # fmt: skip
    (request,) = re.findall(r"^Request (\S+)$", fine(asked), re.MULTILINE)
    assert "Due: " in asked.stderr
    carry(birch, alder)
    listed = fine(picket(alder, "followup", "list", "--theirs"))
    assert request[:8] in listed
    assert "Who bought" not in listed
    assert "trace batch" in listed
    shown = fine(picket(alder, "followup", "show", request[:8]))
    assert "Who bought batch 33?" in shown
    assert "And when?" in shown
    anchors = homes / "anchors.json"
    anchors.write_text(
        json.dumps({"annex": {"parties": [{"role": "buyer", "kind": "org", "name": "Ex Ltd"}]}})
    )
    answer = ("followup", "answer", request[:8])
    told(picket(alder, *answer, "--final", "--negative"), USAGE)
    told(picket(alder, *answer), USAGE)
    told(picket(alder, *answer, "--refused", "mood"), USAGE)
    fine(picket(alder, *answer, "--final", "--text", "Sold in May.", "--anchors-file",
                str(anchors), "--yes"))  # fmt: skip
    carry(alder, birch)
    assert "No request waits." in fine(picket(birch, "followup", "list", "--mine"))
    shown = fine(picket(birch, "followup", "show", request[:8]))
    assert "final" in shown
    assert "Ex Ltd" in shown
    fine(picket(birch, "incidents", "say", ref, "Thank you.", "--yes"))
    carry(birch, alder)
    thread = fine(picket(alder, "incidents", "thread", ref))
    order = [thread.index(text) for text in ("Who bought", "Sold in May", "Thank you")]
    assert order == sorted(order)


def test_an_acknowledgement_clears_the_board(homes: Path) -> None:
    ref, alder, birch = released(homes), homes / "alder", homes / "birch"
    board = fine(picket(alder, "incidents", "board"))
    assert "not received: birch (revision 1)" in board
    told(picket(birch, "incidents", "ack", ref, "seen"), USAGE)
    fine(picket(birch, "incidents", "ack", ref, "opened", "--unit", "Desk 2"))
    carry(birch, alder)
    seen = json.loads(fine(picket(alder, "incidents", "board", "--json")))
    (row,) = [each for each in seen["incidents"] if each["ref"] == ref]
    assert row["not_acknowledged"] == []
    assert row["recipients"][0]["ack"] == "opened"


def test_a_link_is_confirmed_with_both_incidents_in_view(homes: Path) -> None:
    refs, alder, birch = [released(homes), released(homes)], homes / "alder", homes / "birch"
    listed = json.loads(fine(picket(birch, "links", "list", "--json")))["items"]
    name, basis = listed[0]["id"], listed[0]["basis"]
    told(picket(birch, "links", "confirm", "1-2-same_mood", "--yes"), NOT_FOUND)
    code, shown = at_terminal_often(birch, "links", "confirm", name,
                                    presses=[("exactly these", b"n\n")])  # fmt: skip
    assert code == REFUSED
    assert [each in shown for each in (*refs, basis)] == [True] * 3
    assert re.search(r"Will receive the face: +alder|Will receive it: +alder", shown)
    assert "They belong together" in fine(picket(birch, "links", "confirm", name, "--yes"))
    again = fine(picket(birch, "links", "confirm", name, "--yes"))
    assert "released before, to alder; nothing is sent again" in again
    seen = json.loads(fine(picket(birch, "links", "confirm", name, "--yes", "--json")))
    assert (seen["new"], seen["candidate"]["state"]) == (False, "confirmed")
    carry(birch, alder)
    state = Client(alder).call("GET", f"/api/v1/incidents/{refs[0]}/state")[1]
    assert [each["link"]["basis"] for each in state["links"]] == [basis]


def test_figures_are_shown_without_a_name_unless_asked(homes: Path) -> None:
    birch = homes / "birch"
    shown = fine(picket(birch, "incidents", "figures", "--since", "90d"))
    assert re.search(r"^all +0 +- +- +- +-$", shown, re.MULTILINE)
    assert "alder" not in shown
    seen = json.loads(fine(picket(birch, "incidents", "figures", "--by-authority", "--json")))
    assert (seen["all"]["incidents"], seen["by_authority"]) == (0, [])


def test_a_list_is_proposed_looked_at_and_taken(homes: Path) -> None:
    alder, birch, file = homes / "alder", homes / "birch", homes / "list.csv"
    file.write_text("key;name;cas;table;since\nquokka;Quokka reagent;50-00-0;I;2026-01-01\n")
    sent = fine(picket(alder, "lists", "propose", str(file), "--version", "2", "--to", "birch",
                       "--source", "the Board", "--yes"))  # fmt: skip
    assert "Version 2 of substances is proposed." in sent
    carry(alder, birch)
    assert "alder proposes version 2 of substances: 1 row new" in fine(picket(birch, "status"))
    assert "substances-2@alder: 1 row, 1 new" in fine(picket(birch, "lists", "proposals"))
    shown = fine(picket(birch, "lists", "show-update", "substances-2@alder"))
    assert "quokka: cas 50-00-0, name Quokka reagent, table I (2026-01-01)" in shown
    told(picket(birch, "lists", "accept", "substances-3@alder", "--yes"), NOT_FOUND)
    code, _ = at_terminal_often(birch, "lists", "accept", "substances-2@alder",
                                presses=[("Take it?", b"n\n")])  # fmt: skip
    assert code == REFUSED
    taken = fine(picket(birch, "lists", "accept", "substances-2@alder", "--yes"))
    assert "substances 2 of alder is taken." in taken
    assert "Table I" in fine(picket(birch, "lists", "find", "quokka reagent"))
    assert "Nothing is proposed." in fine(picket(birch, "lists", "proposals"))


# --- operations, shipments, alerts -----------------------------------------------------------
def test_an_operation_is_opened_tagged_and_tallied_as_csv(homes: Path) -> None:
    alder, birch = homes / "alder", homes / "birch"
    fine(picket(
        birch, "operations", "open", "--name", "=Acronym", "--participant", "alder", "--starts",
        "now", "--ends", "10d", "--rule", "Within a day.", "--yes",
    ))  # fmt: skip
    carry(birch, alder)
    assert "=Acronym" in fine(picket(alder, "operations", "list"))
    draft = picket(alder, "incidents", "new", *FLAGS, "--operation", "=acronym", "--json")
    ref = json.loads(fine(draft))["ref"]
    fine(picket(alder, "operations", "tag", ref, "--remove"))
    fine(picket(alder, "operations", "tag", ref, "=Acronym"))
    told(picket(alder, "operations", "tag", ref), USAGE)
    fine(picket(alder, "incidents", "release", ref, "--to", "birch", "--yes"))
    carry(alder, birch)
    for home in (alder, birch):
        done = picket(home, "operations", "tally", "=Acronym", "--csv")
        rows = list(csv.reader(io.StringIO(fine(done))))
        sums = {tuple(row[2:]) for row in rows[1:]}
        assert ("1", "acetone", "KGM", "25") in sums
        assert {row[0] for row in rows[1:]} == {"'=Acronym"}, "no spreadsheet runs it"
    fine(picket(birch, "operations", "close", "=Acronym", "--yes"))
    carry(birch, alder)
    assert "closed" in fine(picket(alder, "operations", "show", "=Acronym"))


def test_a_shipment_is_notified_and_answered(homes: Path) -> None:
    alder, birch = homes / "alder", homes / "birch"
    made = picket(
        alder, "shipments", "notify", "--to", "birch", "--reply-by", "5d", "--substance",
        "acetic anhydride", "--amount", "900 L", "--exporter", "Ex Ltd", "--importer", "Im Ltd",
        "--from", "XA", "--into", "XB", "--number", "PEN-7", "--yes",
    )  # fmt: skip
    fine(made)
    carry(alder, birch)
    assert "waits for this node" in fine(picket(birch, "shipments", "list"))
    notices = json.loads(fine(picket(birch, "status", "--json")))["notices"]
    assert "shipments-waiting" in {n["code"] for n in notices}
    told(picket(birch, "shipments", "reply", "PEN-7"), USAGE)
    fine(picket(birch, "shipments", "reply", "PEN-7", "--no-objection", "--yes"))
    fine(picket(birch, "shipments", "event", "PEN-7", "arrived", "--locode", "NLRTM", "--yes"))
    carry(birch, alder)
    shown = fine(picket(alder, "shipments", "show", "PEN-7"))
    assert "no objection" in shown
    assert "arrived" in shown


def test_an_alert_is_read_once_it_is_shown(homes: Path) -> None:
    alder, birch = homes / "alder", homes / "birch"
    fine(picket(alder, "alerts", "new", "--title", "New cover", "--text", "Sold as a cleaner.",
                "--to", "birch", "--yes"))  # fmt: skip
    carry(alder, birch)
    (row,) = json.loads(fine(picket(birch, "alerts", "list", "--json")))["items"]
    assert row["read"] is False
    assert "Sold as a cleaner." in fine(picket(birch, "alerts", "show", "new cover"))
    (row,) = json.loads(fine(picket(birch, "alerts", "list", "--json")))["items"]
    assert row["read"] is True


# --- words -----------------------------------------------------------------------------------
def test_changes_and_times_are_told_in_words() -> None:
    change = {"pointer": "/substances/0/id_status", "before": "label_only",
              "after": "laboratory_confirmed"}  # fmt: skip
    assert releasing.change_words(change, "face") == (
        "face: substances 1, id status: label_only -> laboratory_confirmed"
    )
    gone = {"pointer": "/containers/1", "before": {"no": "X"}, "after": None}
    assert releasing.change_words(gone, "annex") == "annex: containers 2: removed (no X)"
    spans = {None: "-", 5: "5 s", 90: "1 min", 7_260: "2 h 1 min", 90_000: "1 d 1 h", 86_400: "1 d"}
    assert {span: releasing.seconds_words(span) for span in spans} == spans


@pytest.mark.parametrize(
    ("typed", "time"),
    [
        ("2026-03-01", "2026-03-01T23:59:59Z"), ("2026-03-01 08:30", "2026-03-01T08:30:00Z"),
        ("2026-03-01T08:30:15Z", "2026-03-01T08:30:15Z"),
    ],
)  # fmt: skip
def test_a_due_time_is_read_as_people_write_it(typed: str, time: str) -> None:
    assert releasing.moment(typed, "--due") == time


@pytest.mark.parametrize("typed", ["soon", "5", "-3d", "2026-3-1"])
def test_a_due_time_that_is_none_is_refused(typed: str) -> None:
    with pytest.raises(typer.Exit):
        releasing.moment(typed, "--due")
