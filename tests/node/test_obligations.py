"""Obligations over a node: Form D, the PICS worksheet, notes of what was sent; as files."""

from __future__ import annotations

import csv
import io
import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook

from node import api
from node.access import OPERATOR
from node.calls import Request, Response
from node.obligations import rendered, sheet_of
from protocol.errors import ConflictError, NotFoundError, RequestError
from tests.node.factories import Station, World, copied, incident, made_once, pass_on
from tests.node.test_cli import PASSPHRASE, REFUSED, USAGE, fine, picket, told

Row = dict[str, Any]
TOTAL = "acetic-anhydride"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch")) as opened:
        yield opened


@pytest.fixture
def alder(world: World) -> Station:
    return world["alder"]


def seizure(value: str = "100", unit: str = "KGM", **face: Any) -> Row:  # noqa: ANN401
    row = incident("Seized at the port")
    row["face"] |= {"exercise": False, **face}
    row["face"]["substances"][0]["qty"] = {"value": value, "unit": unit}
    return row


def released(station: Station, row: Row, to: str = "birch") -> str:
    service = station.service()
    made = service.create_draft(row)
    service.release(made["id"], to=[to], annex_to=None, carriers=[], separately=False, digest=None)
    return str(made["ref"])


def form(station: Station, **choice: Any) -> Row:  # noqa: ANN401
    given = {"who": OPERATOR, "by": "J. Smith", **choice}
    return station.service().obligations.form_d(given.pop("year", 2026), **given)


def amounts(seen: Row) -> list[tuple[str, str]]:
    at = [seen["columns"].index(name) for name in ("Amount", "Unit code")]
    return [(row[at[0]], row[at[1]]) for row in seen["rows"]]


def get(station: Station, path: str, **query: str) -> Response:
    return api.dispatch(station.service(), Request("GET", f"/api/v1{path}", query, operator=True))


# --- Form D ----------------------------------------------------------------------------------
def test_totals_are_of_the_newest_revisions_without_drafts_copies_and_what_was_withdrawn(
    world: World,
) -> None:
    alder = world["alder"]
    service = alder.service()
    first = released(alder, seizure("100.5"))
    amended = released(alder, seizure("7"))
    service.records.release_amend(amended, seizure("8.25"))
    copy = released(alder, seizure("100", links=[{"kind": "duplicate_of", "target": first}]))
    gone = released(alder, seizure("1000"))
    service.records.release("incident.retract", {"incident": gone, "reason": "entered_in_error"})
    linked = released(alder, seizure("99"))
    service.records.release(
        "link.assert",
        {"incident": linked, "kind": "duplicate_of", "target": first, "basis": "same drums",
         "handling": {"tlp": "AMBER"}},
        to=["birch"],
    )  # fmt: skip
    released(alder, {**seizure("5"), "face": {**seizure("5")["face"], "exercise": True}})
    service.create_draft(seizure("10000"))
    seen = form(alder)
    assert amounts(seen) == [("108.75", "KGM")]
    assert seen["counted"] == sorted([first, amended])
    assert seen["left_out"]["a duplicate of one that is counted"] == sorted([copy, linked])
    assert seen["left_out"]["retracted"] == [gone]
    assert form(alder, year=2025)["rows"] == []
    # Whoever holds them all counts the same for that country.
    pass_on(alder, world["birch"])
    while pass_on(alder, world["birch"]).receipts:
        pass
    world["birch"].core.try_follow()
    theirs = form(world["birch"], of="alder")
    assert amounts(theirs) == amounts(seen)
    assert theirs["counted"] == seen["counted"]
    with pytest.raises(ConflictError, match="asks for permission of its author"):
        form(world["birch"], of="alder", leaves=True)
    with pytest.raises(NotFoundError):
        form(alder, of="nobody")
    with pytest.raises(RequestError):
        form(alder, year=0)


def test_a_link_of_somebody_else_makes_nothing_a_duplicate(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    refs = [released(alder, seizure("1")), released(alder, seizure("2"))]
    while pass_on(alder, birch).receipts:
        pass
    birch.core.try_follow()
    birch.service().records.release(
        "link.assert",
        {"incident": refs[0], "kind": "duplicate_of", "target": refs[1], "basis": "guess",
         "handling": {"tlp": "AMBER"}},
    )  # fmt: skip
    while pass_on(birch, alder).receipts:
        pass
    alder.core.try_follow()
    assert amounts(form(alder)) == [("3", "KGM")]


def test_each_copy_carries_the_strictest_handling_and_stands_in_the_log(alder: Station) -> None:
    released(alder, seizure("1", handling={"tlp": "GREEN", "hc": ["H1"]}))
    ref = released(
        alder, seizure("2", handling={"tlp": "AMBER", "hc": ["H3"], "hc_text": "Not by mail"})
    )
    seen = form(alder)
    assert seen["head"][0].startswith("TLP:AMBER - ")
    assert {line[:2] for line in seen["head"]} >= {"H1", "H3"}
    assert "Restrictions: Not by mail" in seen["head"]
    assert "Exported by J. Smith at " in seen["head"][-1]
    row = dict(zip(seen["columns"], seen["rows"][0], strict=True))
    assert row["Handling"].splitlines() == list(seen["head"][:-1])
    assert row["Exported"] == seen["head"][-1]
    acts = alder.service().handling.accesses(ref)["items"]
    assert [(act["what"], act["note"]) for act in acts] == [
        ("export-sheet", "Form D 2026, by J. Smith")
    ]


# --- PICS ------------------------------------------------------------------------------------
SEND = {"tlp": "AMBER", "incb_copy": {"status": "to_send"}}


def pics(station: Station) -> list[str]:
    refs: list[str] = station.service().obligations.pics(who=OPERATOR, by="")["refs"]
    return refs


def test_an_incident_is_on_the_worksheet_until_it_is_noted_as_sent(alder: Station) -> None:
    refs = [released(alder, seizure(handling=SEND)) for _ in range(2)]
    released(alder, seizure(handling={"tlp": "AMBER", "incb_copy": {"status": "not_intended"}}))
    released(alder, seizure(handling={"tlp": "AMBER"}))
    desk = alder.service().obligations
    assert pics(alder) == refs
    assert desk.sent(refs[0], pics_ref="P-7", by="J. Smith")["new"] is True
    assert desk.sent(refs[0], pics_ref="P-7", by="A. Nother")["new"] is False
    with pytest.raises(ConflictError, match="under P-7 already"):
        desk.sent(refs[0], pics_ref="P-8", by="J. Smith")
    assert pics(alder) == refs[1:]
    seen = desk.incb()
    assert seen["counts"] == {"not_intended": 1, "sent": 1, "to_send": 1, "undecided": 1}
    assert [(i["ref"], i["pics_ref"], i["noted_by"]) for i in seen["items"] if i["pics_ref"]] == [
        (refs[0], "P-7", "J. Smith")
    ]
    # What the Board has is not the newest any more.
    alder.service().records.release_amend(refs[0], seizure("50", handling=SEND))
    assert pics(alder) == refs
    desk.sent(refs[0], pics_ref="P-8", by="J. Smith", replace=True)
    assert pics(alder) == refs[1:]
    alder.service().records.release(
        "incident.retract", {"incident": refs[0], "reason": "substance_refuted"}
    )
    assert {i["ref"]: i["status"] for i in desk.incb()["items"]}[refs[0]] == "retracted_since"


def test_what_another_authority_found_is_not_ours_to_send(world: World) -> None:
    ref = released(world["alder"], seizure(handling=SEND))
    pass_on(world["alder"], world["birch"])
    world["birch"].core.try_follow()
    desk = world["birch"].service().obligations
    assert desk.incb()["items"] == []
    with pytest.raises(ConflictError, match="another authority's"):
        desk.sent(ref, pics_ref="P-1", by="x")


# --- files -----------------------------------------------------------------------------------
def test_a_sheet_is_a_file_that_runs_nothing(alder: Station) -> None:
    evil = '=HYPERLINK("http://x","y")'
    released(alder, seizure(handling=SEND, national_ref=evil, agency="+1 & Co"))
    sheet = sheet_of(alder.service().obligations.pics(who=OPERATOR, by="=cmd"))
    head, row = csv.reader(io.StringIO(rendered(sheet, "csv").decode(), newline=""))
    assert len(head) == len(row)
    assert dict(zip(head, row, strict=True))["National reference"] == f"'{evil}"
    assert rendered(sheet, "csv", bom=True).startswith(b"\xef\xbb\xbf")
    page: Any = load_workbook(io.BytesIO(rendered(sheet, "xlsx"))).active
    cells = [cell for line in page.iter_rows() for cell in line if cell.value is not None]
    assert evil in {cell.value for cell in cells}
    assert {cell.data_type for cell in cells} == {"s"}
    assert "TLP:AMBER" in page.oddHeader.center.text
    assert "Exported by =cmd" in page.oddFooter.center.text
    assert evil in rendered(sheet, "text").decode()


def test_routes_answer_in_each_form_and_log_nothing_for_one_that_is_none(alder: Station) -> None:
    ref = released(alder, seizure("3"))
    assert get(alder, "/obligations/form-d", year="2026", format="doc").status == 400
    assert alder.service().handling.accesses(ref)["items"] == []
    kinds = {"csv": "text/csv", "xlsx": "application/vnd.openxml", "text": "text/plain"}
    for name, kind in kinds.items():
        response = get(alder, "/obligations/form-d", year="2026", format=name)
        assert (response.status, response.content_type.startswith(kind)) == (200, True)
    seen = json.loads(get(alder, "/obligations/form-d", year="2026").body)
    assert amounts(seen) == [("3", "KGM")]
    assert json.loads(get(alder, "/obligations/incb").body)["counts"] == {"undecided": 1}


# --- the command line ------------------------------------------------------------------------
@pytest.fixture
def home(alder: Station, tmp_path: Path) -> Path:
    released(alder, seizure("12.5", handling=SEND))
    alder.close()
    secret = tmp_path / "passphrase"
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    text = alder.home.config.read_text(encoding="utf-8")
    setting = f'[keystore]\npassphrase_file = "{secret}"\n'
    alder.home.config.write_text(text.replace("[keystore]\n", setting), encoding="utf-8")
    return alder.home.path


def test_the_officer_does_it_all_on_the_command_line(home: Path, tmp_path: Path) -> None:
    out = fine(picket(home, "obligations", "form-d", "--year", "2026"))
    assert "12.5" in out
    assert "TLP:AMBER" in out
    assert "Counted: 1 seizures" in out
    sheet = fine(picket(home, "obligations", "pics"))
    assert "Acetic anhydride (CAS 108-24-7); 12.5 kg" in sheet
    assert "Exported by " in sheet
    file = tmp_path / "form.csv"
    fine(picket(home, "obligations", "form-d", "--year", "2026", "--out", str(file), "--bom"))
    assert file.read_bytes().startswith(b"\xef\xbb\xbfTable,")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "exists" in told(picket(home, "obligations", "pics", "--out", str(file)), REFUSED)
    assert "--out" in told(picket(home, "obligations", "pics", "--format", "xlsx"), USAGE)
    ref = json.loads(fine(picket(home, "obligations", "pics", "--json")))["refs"][0]
    fine(picket(home, "obligations", "sent", ref, "--pics-ref", "P-1"))
    assert "sent" in fine(picket(home, "obligations", "incb"))
    assert "Nothing." in fine(picket(home, "obligations", "pics"))


def test_without_openpyxl_it_says_so_in_one_line(
    alder: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(RequestError, match="openpyxl, which writes XLSX, is not installed"):
        rendered(sheet_of(form(alder)), "xlsx")
