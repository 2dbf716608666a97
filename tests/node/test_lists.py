"""Reference lists at the endpoint and the command line; an imported one stays in case.db."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node import api
from node.calls import Request
from node.home import Home
from node.locking import By
from protocol import limits, reference
from protocol.errors import LockedError, NotFoundError, RequestError
from tests.node.factories import Station, World, copied, made_once
from tests.node.test_cli import OK, PASSPHRASE, USAGE, Done, fine, make, picket, told

Row = dict[str, Any]
SPECIAL = reference.SPECIAL
OWN = [
    {"name": "Benzaldehyde", "cas": "100-52-7", "since": "2020"},
    {"name": "Nitroethane", "substance_id": "nitroethane", "until": "2025-12-31"},
    {"name": "IODINE", "note": "by name"},
    {"name": "Something new", "cas": "108-24-8"},
]
CANARY = "Quokka reagent"


@pytest.fixture
def alder(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Station]:
    world: World
    with copied(made_once(tmp_path_factory), tmp_path, ("alder",)) as world:
        yield world["alder"]


def ask(station: Station, method: str, path: str, body: object = None, **query: str) -> Row:
    response = api.dispatch(
        station.service(),
        Request(method, f"/api/v1{path}", query, b"" if body is None else json.dumps(body).encode(),
                operator=True),
    )  # fmt: skip
    answer: Row = json.loads(response.body)
    return {"http": response.status, **answer}


def take(
    station: Station, rows: object = OWN, name: str = SPECIAL, version: str = "2026-01"
) -> Row:
    body = {"version": version, "source": "the Board", "rows": rows}
    return ask(station, "PUT", f"/imported-lists/{name}", body)


def on_lists(station: Station, substance: str, **query: str) -> list[str]:
    (row,) = ask(station, "GET", "/lists/substances", q=substance, **query)["items"]
    lists: list[str] = row["lists"]
    return lists


# --- what comes with Picket ------------------------------------------------------------------
def test_the_lists_that_come_with_picket_are_shown_with_their_version(alder: Station) -> None:
    items = ask(alder, "GET", "/lists")["items"]
    assert [each["name"] for each in items] == list(reference.NAMES)
    assert all(each["origin"] == "built-in" and each["version"] for each in items)
    sizes = {each["name"]: each["rows"] for each in items}
    assert (sizes["substances"], sizes["countries"]) == (163, 249)


def test_a_substance_is_found_with_its_status_on_a_day(alder: Station) -> None:
    for on, table in (("2024-12-02", None), ("2024-12-03", "I")):
        seen = ask(alder, "GET", "/lists/substances", q="1 BOC 4 piperidone", on=on)
        assert seen["items"][0]["id"] == "1-boc-4-piperidone"
        assert seen["items"][0]["status"] == {
            "table": table, "since": "2024-12-03" if table else None, "certain": True,
        }  # fmt: skip


def test_the_salt_of_an_acid_is_not_controlled(alder: Station) -> None:
    (row,) = ask(alder, "GET", "/lists/substances", q="50-98-6")["items"]
    assert (row["id"], row["salt"], row["status"]["table"]) == ("ephedrine", "hydrochloride", "I")


def test_pages_have_every_row_once(alder: Station) -> None:
    found: list[str] = []
    after = 0
    while True:
        seen = ask(alder, "GET", "/lists/substances", after=str(after), limit="50")
        found += [each["id"] for each in seen["items"]]
        after = seen["next"]
        if not seen["more"]:
            break
    assert found == list(reference.substances().by_id)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [("countries", "pays-bas", "NL"), ("packages", "1a", "1A"), ("units", "hecto", "HLT"),
     ("modes", "maritime", "1")],
)  # fmt: skip
def test_other_lists_are_searched_by_any_value(
    alder: Station, name: str, text: str, code: str
) -> None:
    items = ask(alder, "GET", f"/lists/{name}", q=text)["items"]
    assert items[0]["code"] == code


@pytest.mark.parametrize(
    "query", [{"on": "yesterday"}, {"on": "2026-02-30"}, {"limit": "0"}, {"x": "1"}]
)
def test_a_wrong_parameter_is_named(alder: Station, query: dict[str, str]) -> None:
    assert ask(alder, "GET", "/lists/substances", **query)["http"] == 400


# --- imported --------------------------------------------------------------------------------
def test_an_imported_list_marks_substances_by_id_number_and_name(alder: Station) -> None:
    assert on_lists(alder, "benzaldehyde") == []
    done = take(alder)
    assert (done["http"], done["rows"]) == (200, 4)
    assert [(each["row"], each["code"]) for each in done["warnings"]] == [(4, "check-digit")]
    assert on_lists(alder, "benzaldehyde") == [SPECIAL]
    assert on_lists(alder, "iodine") == [SPECIAL]
    assert on_lists(alder, "acetic-anhydride") == []
    # A row holds from its first to its last day; of a date of one year all days count.
    assert on_lists(alder, "benzaldehyde", on="2019-12-31") == []
    assert on_lists(alder, "nitroethane", on="2025-12-31") == [SPECIAL]
    assert on_lists(alder, "nitroethane", on="2026-01-01") == []
    listed = ask(alder, "GET", "/lists")["items"][-1]
    assert (listed["name"], listed["origin"], listed["rows"]) == (SPECIAL, "imported", 4)
    assert ask(alder, "GET", f"/lists/{SPECIAL}", q="new")["items"] == [OWN[3]]


def test_importing_replaces_and_removing_deletes(alder: Station) -> None:
    take(alder)
    take(alder, [{"name": "Acetone"}], version="2026-02")
    assert on_lists(alder, "benzaldehyde") == []
    assert on_lists(alder, "acetone") == [SPECIAL]
    assert ask(alder, "GET", f"/lists/{SPECIAL}")["version"] == "2026-02"
    assert ask(alder, "DELETE", f"/imported-lists/{SPECIAL}")["http"] == 200
    assert ask(alder, "DELETE", f"/imported-lists/{SPECIAL}")["http"] == 404
    assert on_lists(alder, "acetone") == []


def test_an_imported_list_lies_encrypted_and_is_shown_unlocked_only(alder: Station) -> None:
    take(alder, [{"name": CANARY}, {"name": "Benzaldehyde"}])
    assert on_lists(alder, "benzaldehyde") == [SPECIAL]
    alder.core.locking.lock(By.OPERATOR)
    seen = ask(alder, "GET", "/lists")
    assert seen["imported_shown"] is False
    assert [each["name"] for each in seen["items"]] == list(reference.NAMES)
    assert on_lists(alder, "benzaldehyde") == []
    for method, path in (("GET", f"/lists/{SPECIAL}"), ("DELETE", f"/imported-lists/{SPECIAL}")):
        assert ask(alder, method, path)["code"] == LockedError.code
    assert take(alder)["code"] == LockedError.code
    for file in alder.home.path.rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("rows", "name", "version"),
    [
        ([], SPECIAL, "1"),
        ([{"cas": "108-24-7"}], SPECIAL, "1"),
        (["Acetone"], SPECIAL, "1"),
        ([{"name": "Acetone", "colour": "red"}], SPECIAL, "1"),
        ([{"name": "Acetone", "since": "soon"}], SPECIAL, "1"),
        ([{"name": "Acetone", "since": "2026-02-30"}], SPECIAL, "1"),
        ([{"name": 7}], SPECIAL, "1"),
        ([{"name": "x" * 257}], SPECIAL, "1"),
        ([{"name": "x"}] * (limits.MAX_IMPORTED_ROWS + 1), SPECIAL, "1"),
        ([{"name": "Acetone"}], "substances", "1"),
        ([{"name": "Acetone"}], "Special", "1"),
        ([{"name": "Acetone"}], SPECIAL, " "),
    ],
)
def test_a_bad_list_changes_nothing(
    alder: Station, rows: list[object], name: str, version: str
) -> None:
    take(alder, [{"name": "Benzaldehyde"}])
    done = take(alder, rows, name, version)
    assert (done["http"], done["code"]) == (400, RequestError.code)
    assert done["fix"]
    assert on_lists(alder, "benzaldehyde") == [SPECIAL]


def test_a_list_that_is_not_there(alder: Station) -> None:
    assert ask(alder, "GET", "/lists/nothing")["code"] == NotFoundError.code


# --- the command line ------------------------------------------------------------------------
@pytest.fixture(scope="module")
def born(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("born")
    secret = folder / "passphrase"
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    make(folder / "alder", "Alder", "test.example", secret)
    return folder


@pytest.fixture
def home(born: Path, tmp_path: Path) -> Path:
    return shutil.copytree(born / "alder", tmp_path / "n")


def imported(home: Path, text: str, *more: str) -> Done:
    file = home.parent / "own"
    file.write_text(text, encoding="utf-8")
    return picket(home, "lists", "import", str(file), *more)


def test_a_person_imports_a_spreadsheet_and_finds_what_is_on_it(home: Path) -> None:
    done = imported(home, "\ufeffName;CAS\nBenzaldehyde;100-52-7\nWrong;108-24-8\n",
                    "--version", "2026-01")  # fmt: skip
    assert fine(done) == f"{SPECIAL} 2026-01: 2 rows\n"
    assert "! row 2: the CAS number looks wrong; kept as written" in done.stderr
    found = fine(picket(home, "lists", "find", "benzaldehyd", "--on", "2026-01-01"))
    assert found.splitlines()[0].split() == ["ID", "CAS", "ON", "2026-01-01", "LISTS", "NAME"]
    assert SPECIAL in found
    assert "not controlled" in found
    assert SPECIAL in fine(picket(home, "lists", "status"))
    assert "Benzaldehyde" in fine(picket(home, "lists", "show", SPECIAL))
    assert "deleted" in fine(picket(home, "lists", "remove", SPECIAL))


def test_what_is_wrong_with_a_file_is_said_in_one_line(home: Path) -> None:
    assert "version" in told(imported(home, "name\nAcetone\n"), USAGE)
    assert "not JSON" in told(imported(home, "[{", "--version", "1"), USAGE)
    assert "more columns" in told(imported(home, "name\nAcetone,1,2\n", "--version", "1"), USAGE)
    assert "row 1" in told(imported(home, "cas\n1\n", "--version", "1"), USAGE)


def test_a_person_finds_substances_and_countries(home: Path) -> None:
    assert "Table I" in fine(picket(home, "lists", "find", "PMK", "--on", "2026-01-01"))
    near = picket(home, "lists", "find", "acetic anhidride", "--on", "2001-06-01")
    assert near.returncode == OK
    assert "Table II (day unclear)" in near.stdout
    assert "No exact match" in near.stderr
    assert "NLD" in fine(picket(home, "lists", "find", "netherlands", "--in", "countries"))
    told(picket(home, "lists", "find", "qqqqxx"), 1)
    rows = json.loads(fine(picket(home, "lists", "show", "modes", "--json")))["items"]
    assert len(rows) == 10
    status = picket(home, "lists", "status")
    assert "rows with fields that no second source was found for" in status.stderr
    assert Home(home).path.exists()
