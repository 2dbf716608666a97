"""Story 10, Monday obligations: entries for PICS, totals for Form D, and a program with a cursor.

The totals are those of a count by hand, of which amendments and duplicates are one, at every node;
and the program misses and repeats nothing, though its node is killed in the middle.
"""

from __future__ import annotations

import csv
import http.client
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from openpyxl import load_workbook

from tests.net.harness import Net, Node, Row, free_ports, incident, wait
from tests.net.stories.officer import amend, retract

YEAR: Final = 2025
AA: Final = ("acetic-anhydride", "108-24-7")
PIPERIDINE: Final = ("piperidine", "110-89-4")
Amount = tuple[tuple[str, str], str, str]
Totals = dict[tuple[str, str], Decimal]
"""By CAS number and unit."""


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    (port,) = free_ports(1)
    with Net(tmp_path) as net:
        net.make("alder", http_port=port)
        net.make("birch")
        flag = str(tmp_path / "now")
        net["alder"].launch(
            "-m", "tests.net.crashing", "--home", str(net["alder"].home.path), "--point", "1",
            "--only", "before commit of case.db", "--after", flag,
        )  # fmt: skip
        net.start("birch")
        net["alder"].wait_ready()
        net.pair(("alder", "birch"))
        net.wait_linked("alder", "birch")
        yield net
        net.check_journals()


# --- the year, written and counted by hand ---------------------------------------------------
@dataclass
class Year:
    """What alder reported, and what of it a person would count."""

    totals: Totals = field(default_factory=lambda: defaultdict(Decimal))
    to_send: set[str] = field(default_factory=set)

    def count(self, *amounts: Amount) -> None:
        """Add to the totals."""
        for (_, cas), unit, value in amounts:
            self.totals[cas, unit] += Decimal(value)


def seizure(*amounts: Amount, copy: str = "to_send", **face: object) -> Row:
    value = incident("drums")
    handling = {"tlp": "AMBER", "onward": "peers_same_handling", "incb_copy": {"status": copy}}
    value["face"] |= {
        "exercise": False, "detected_at": f"{YEAR}-03-04T08:20:00Z", "handling": handling,
        "substances": [
            {"substance_id": name, "form": "unknown", "qty": {"value": number, "unit": unit}}
            for (name, _), unit, number in amounts
        ],
        **face,
    }  # fmt: skip
    return value


def release(node: Node, value: Row, *to: str) -> tuple[str, str]:
    """Release an incident; return its id and reference."""
    key = node.draft(value)
    return key, str(node.release(key, *to)["ref"])


def report_year(alder: Node) -> Year:
    """Let alder report a year of all that makes counting hard."""
    year = Year()
    plain: list[tuple[Amount, ...]] = [
        ((AA, "LTR", "20160"),), ((AA, "KGM", "0.1"), (PIPERIDINE, "KGM", "2.5")),
        ((AA, "KGM", "0.2"),), ((PIPERIDINE, "LTR", "1000000.000001"),),
    ]  # fmt: skip
    first = ""
    for amounts in plain:
        first, ref = release(alder, seizure(*amounts), "birch")
        year.count(*amounts)
        year.to_send.add(ref)
    amended, ref = release(alder, seizure((AA, "KGM", "500")), "birch")
    amend(alder, amended, seizure((AA, "KGM", "50.05")))
    amend(alder, amended, seizure((AA, "KGM", "49.95")))
    year.count((AA, "KGM", "49.95"))
    year.to_send.add(ref)
    # Not sent, and no seizure: it is put into PICS, and not into the form.
    _, ref = release(alder, seizure((AA, "KGM", "7"), incident_type="stopped_shipment"), "birch")
    year.to_send.add(ref)
    laboratory = ((PIPERIDINE, "KGM", "3"),)
    release(alder, seizure(*laboratory, copy="sent", incident_type="illicit_laboratory"), "birch")
    year.count(*laboratory)
    same = [{"kind": "duplicate_of", "target": first}]
    no = "not_intended"
    release(alder, seizure((PIPERIDINE, "LTR", "1000000"), copy=no, links=same), "birch")
    for change in (
        {"detected_at": f"{YEAR - 1}-12-31T23:59:59Z"}, {"location": {"country": "XB"}},
        {"exercise": True},
    ):  # fmt: skip
        release(alder, seizure((AA, "KGM", "11"), copy=no, **change), "birch")
    gone, _ = release(alder, seizure((AA, "KGM", "13"), copy=no), "birch")
    retract(alder, gone, "substance_refuted")
    return year


def totals(rows: list[list[str]], columns: list[str]) -> Totals:
    """Return the totals of a sheet."""
    cas, unit, amount = (columns.index(name) for name in ("CAS", "Unit code", "Amount"))
    found = {(row[cas], row[unit]): Decimal(row[amount]) for row in rows}
    assert len(found) == len(rows)
    return found


def asked(node: Node, path: str) -> bytes:
    status, data = node.exchange("GET", f"/api/v1/obligations/{path}")
    assert status == 200, data
    return data


def check_form(alder: Node, birch: Node, by_hand: Totals) -> None:
    """Check Form D at both nodes, and as the files that are handed out."""
    form = f"form-d?year={YEAR}"
    for node, of in ((alder, ""), (birch, "&of=alder")):
        sheet = json.loads(asked(node, form + of))
        assert totals(sheet["rows"], sheet["columns"]) == by_hand, node.key
    lines = list(csv.reader(io.StringIO(asked(alder, f"{form}&format=csv").decode("utf-8-sig"))))
    head = next(n for n, line in enumerate(lines) if "CAS" in line)
    body = [line for line in lines[head + 1 :] if len(line) == len(lines[head])]
    assert totals(body, lines[head]) == by_hand
    page = load_workbook(io.BytesIO(asked(alder, f"{form}&format=xlsx"))).active
    assert page is not None
    cells = [[str(cell) for cell in row] for row in page.iter_rows(values_only=True)]
    head = next(n for n, row in enumerate(cells) if "CAS" in row)
    body = [row for row in cells[head + 1 :] if row[2] != "None"]
    assert totals(body, cells[head]) == by_hand


def check_worksheet(alder: Node, due: set[str]) -> None:
    """Check that the worksheet has each incident that is due once, until it is noted as sent."""
    assert len(due) == 6
    sheet = json.loads(asked(alder, "pics"))
    assert sorted(sheet["refs"]) == sorted(due)
    assert len(sheet["rows"]) == len(due)
    first = min(due)
    entered = {"pics_ref": "PICS-2025-1", "by": "duty officer"}
    alder.ask("POST", f"/api/v1/incidents/{first}/pics", entered)
    assert set(json.loads(asked(alder, "pics"))["refs"]) == due - {first}


# --- the program of the agency ---------------------------------------------------------------
class CaseSystem:
    """A program that follows its node by a cursor, which it keeps with what it took."""

    def __init__(self, node: Node) -> None:
        body = {"name": "case system", "scopes": ["incidents:read"]}
        self._node, self._token = node, node.ask("POST", "/api/v1/tokens", body)["token"]
        self.cursor = 0
        self.kept: list[Row] = []

    def pull(self) -> bool:
        """Take one page; return whether there is more."""
        connection = http.client.HTTPConnection("127.0.0.1", self._node.http_port, timeout=60)
        try:
            headers = {"Authorization": f"Bearer {self._token}"}
            path = f"/api/v1/changes?after={self.cursor}&limit=3"
            connection.request("GET", path, headers=headers)
            page = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        self.kept += page["items"]
        self.cursor = page["next"]
        return bool(page["more"])

    def pull_all(self) -> None:
        """Take all that is there."""
        while self.pull():
            pass

    def has(self, key: str) -> bool:
        """Whether an incident has come, once all was taken that is there."""
        self.pull_all()
        return any(row["id"] == key for row in self.kept)


def check_cursor(alder: Node, birch: Node, crash: Path) -> None:
    """Check that a program that follows alder neither skips nor repeats when alder is killed."""
    program = CaseSystem(alder)
    assert program.pull()
    before = [release(birch, incident(f"before {n}"), "alder")[0] for n in range(4)]
    wait(lambda: all(alder.reads(key) for key in before), "the incidents before the crash")
    assert program.pull()
    crash.touch()  # what comes next is in the log, and not in case.db, when the node dies
    after = [release(birch, incident(f"after {n}"), "alder")[0] for n in range(4)]
    alder.wait_killed("it was to die of the next incident")
    alder.start()
    wait(lambda: all(map(program.has, after)), "the incidents after the crash")

    indexes = [row["log_index"] for row in program.kept]
    assert indexes == sorted(set(indexes)), "nothing is told twice or out of order"
    whole: list[dict[str, Any]] = alder.ask("GET", "/api/v1/changes?limit=500")["items"]
    assert program.kept == whole
    mine = [row["id"] for row in whole if row["by"] == "birch"]
    assert mine == [*before, *after]


def test_story_10_monday_obligations(net: Net, tmp_path: Path) -> None:
    alder, birch = net["alder"], net["birch"]
    year = report_year(alder)
    wait(lambda: alder.ask("GET", "/api/v1/status")["outbox"] == 0, "birch to have all of it")
    check_worksheet(alder, year.to_send)
    check_form(alder, birch, year.totals)
    check_cursor(alder, birch, tmp_path / "now")
    check_form(alder, birch, year.totals)
