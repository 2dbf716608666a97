"""Versions of lists that peers propose: seen, taken by an operator alone, used, given up again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keys.trust import Level, Verification
from protocol import reference
from tests.node.factories import World, copied, incident, made_once
from tests.node.test_record_routes import Desk, carry

Row = dict[str, Any]
NEW = {"key": "quokka-reagent", "since": "2026-01-01",
       "fields": {"name": "Quokka reagent", "cas": "50-00-0", "table": "I"}}  # fmt: skip
CHANGED = {"key": "acetone", "fields": {"synonyms": "quokka spirit"}}


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch", "cedar")) as opened:
        yield opened


@pytest.fixture
def alder(world: World) -> Desk:
    return Desk(world, "alder")


@pytest.fixture
def birch(world: World) -> Desk:
    return Desk(world, "birch")


def propose(world: World, by: Desk, *rows: Row, name: str = "substances", version: int = 1) -> None:
    body = {"name": name, "version": version, "effective": "2026-01-01", "source": "the Board",
            "rows": list(rows) or [NEW, CHANGED], "to": ["alder"]}  # fmt: skip
    by.post("/list-updates", body)
    carry(world)


def waiting(desk: Desk) -> list[str]:
    return [each["id"] for each in desk.get("/list-updates")["items"]]


def found(desk: Desk, text: str, name: str = "substances") -> list[str]:
    items = desk.get(f"/lists/{name}", q=text)["items"]
    return [each.get("id", each["name"]) for each in items if each.get("found_by") != "similar"]


def test_nothing_is_taken_by_itself(world: World, alder: Desk, birch: Desk) -> None:
    propose(world, birch)
    told = alder.notices()["list-proposed"]
    assert told == "birch proposes version 1 of substances: 1 row new, 1 changed"
    seen = alder.get("/list-updates/substances-1@birch")
    assert (seen["new"], seen["changed"], seen["gone"]) == (["quokka-reagent"], ["acetone"], [])
    assert [each["key"] for each in seen["items"]] == ["quokka-reagent", "acetone"]
    assert found(alder, "quokka-reagent") == []
    assert alder.service.lists.known() is reference.substances()


def test_what_is_taken_is_looked_up_and_warned_by(world: World, alder: Desk, birch: Desk) -> None:
    data = incident()
    data["face"]["substances"][0]["substance_id"] = "quokka-reagent"

    def codes() -> set[str]:
        key = alder.service.create_draft(data)["id"]
        return {each["code"] for each in alder.get(f"/incidents/{key}")["warnings"]}

    before = codes()
    propose(world, birch)
    alder.post("/list-updates/substances-1@birch/accept", {}, 200)
    assert found(alder, "quokka reagent") == found(alder, "50-00-0") == ["quokka-reagent"]
    assert found(alder, "quokka spirit") == ["acetone"]
    for on, table in (("2025-12-31", None), ("2026-01-01", "I")):
        (row,) = alder.get("/lists/substances", q="quokka-reagent", on=on)["items"]
        assert row["status"]["table"] == table
    assert "unknown-substance" in before - codes()
    assert waiting(alder) == []
    assert "list-proposed" not in alder.notices()
    # It is there again after a restart, and gone with the list.
    world["alder"].reopen()
    again = Desk(world, "alder")
    assert found(again, "quokka reagent") == ["quokka-reagent"]
    assert again.ask("DELETE", "/imported-lists/substances").status == 200
    assert found(again, "quokka-reagent") == []
    assert waiting(again) == ["substances-1@birch"]


def test_an_older_version_is_refused(world: World, alder: Desk, birch: Desk) -> None:
    propose(world, birch, version=3)
    alder.post("/list-updates/substances-3@birch/accept", {}, 200)
    propose(world, birch, CHANGED, version=2)
    assert waiting(alder) == []
    for version in (2, 3):
        alder.refused(f"/list-updates/substances-{version}@birch/accept", {}, "not-found")
    propose(world, birch, CHANGED, version=4)
    seen = alder.get("/list-updates/substances-4@birch")
    assert (seen["changed"], seen["gone"]) == ([], ["quokka-reagent"])
    assert alder.notices()["list-proposed"].endswith("0 rows new, 0 changed, 1 gone")


def test_what_is_ignored_is_shown_no_more_until_a_newer_one_comes(
    world: World, alder: Desk, birch: Desk
) -> None:
    propose(world, birch)
    alder.post("/list-updates/substances-1@birch/ignore", {}, 200)
    assert waiting(alder) == []
    propose(world, birch, version=2)
    assert waiting(alder) == ["substances-2@birch"]


def test_only_peers_at_level_share_propose(world: World, alder: Desk, birch: Desk) -> None:
    propose(world, birch)
    verification = Verification("voice", "test", world.clock.now())
    alder.service.core.approve_peer(world["birch"].id, Level.RELAY, verification)
    assert waiting(alder) == []
    alder.refused("/list-updates/substances-1@birch/accept", {}, "not-found")
    # Whoever proposes has nothing to decide itself, and others were not asked.
    assert waiting(birch) == waiting(Desk(world, "cedar")) == []


def test_a_version_that_contradicts_itself_is_none(world: World, alder: Desk, birch: Desk) -> None:
    propose(world, birch)
    propose(world, birch, CHANGED)
    assert waiting(alder) == []


def test_another_list_is_taken_as_an_imported_one(world: World, alder: Desk, birch: Desk) -> None:
    rows = [{"key": "Benzaldehyde", "since": "2020", "fields": {"cas": "100-52-7"}}]
    propose(world, birch, *rows, name=reference.SPECIAL)
    key = f"{reference.SPECIAL}-1@birch"
    assert alder.get(f"/list-updates/{key}")["new"] == ["Benzaldehyde"]
    alder.post(f"/list-updates/{key}/accept", {}, 200)
    (row,) = alder.get("/lists/substances", q="benzaldehyde")["items"]
    assert row["lists"] == [reference.SPECIAL]
    assert found(alder, "benzaldehyde", reference.SPECIAL) == ["Benzaldehyde"]


@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("countries", {"key": "XA", "fields": {"name": "A"}}, "cannot be called"),
        ("substances", {"key": "acetone", "fields": {"table": "III"}}, "none of I, II"),
        ("substances", {"key": "acetone", "fields": {"table": "I"}}, "no day from which"),
        ("substances", {"key": "acetone", "since": "2026", "until": "2025",
                        "fields": {"table": "I"}}, "before it stands in it"),
        (reference.SPECIAL, {"key": "A", "fields": {"price": "1"}}, "unknown column"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_says_why(world: World, name: str, row: Row, why: str) -> None:
    alder = Desk(world, "alder")
    propose(world, Desk(world, "birch"), row, name=name)
    (seen,) = alder.get("/list-updates")["items"]
    assert why in seen["refused"]
    assert why in alder.refused(f"/list-updates/{seen['id']}/accept", {}, "conflict")


def test_two_tables_at_one_time_are_refused(world: World, alder: Desk, birch: Desk) -> None:
    tables = [{"key": "acetone", "since": since, "fields": {"table": table}}
              for since, table in (("2020", "I"), ("2026-01-01", "II"))]  # fmt: skip
    propose(world, birch, *tables)
    (seen,) = alder.get("/list-updates")["items"]
    assert "two tables" in seen["refused"]
    tables[0]["until"] = "2025-12-31"
    propose(world, birch, *tables, version=2)
    alder.post("/list-updates/substances-2@birch/accept", {}, 200)
    for on, table in (("2025-12-31", "I"), ("2026-01-01", "II")):
        row = alder.get("/lists/substances", q="acetone", on=on)["items"][0]
        assert (row["status"]["table"], row["status"]["certain"]) == (table, True)
