"""Story 9, time-bound operation: ten days, many participants, and one tally.

Every participant counts from its own log, and all come to the same; so does whoever counts by hand.
It is shown with 34 nodes that are in one process, and with four that are processes of their own.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from tests.net.harness import Net, Node, incident, wait
from tests.net.stories.many import many, spread
from tests.net.stories.officer import amend, retract
from tests.net.test_log import OK, picket, told
from tests.node.factories import DAY, NOW, Station, World

NAMES: Final = tuple(f"node{number:02}" for number in range(34))
DAYS: Final = 10
SUBSTANCES: Final = (("acetic-anhydride", "LTR"), ("piperidine", "KGM"), ("acetone", "LTR"))
NOT_FOUND: Final = 404
HANDLED: Final = {"tlp": "AMBER"}
Row = dict[str, Any]
Amounts = dict[tuple[str, str], Decimal]
Tally = dict[str, tuple[int, Amounts]]
"""By participant: how many incidents, and how much by substance and unit."""


# --- counting by hand ------------------------------------------------------------------------
@dataclass
class Written:
    """One incident as its author left it."""

    author: str
    amounts: list[tuple[str, str, str]]
    counts: bool = True


@dataclass
class Notebook:
    """Who keeps a count of all that was written, and knows nothing of nodes."""

    rows: dict[str, Written] = field(default_factory=dict)

    def tally(self, participants: Iterable[str]) -> Tally:
        """Count."""
        found: Tally = {name: (0, defaultdict(Decimal)) for name in participants}
        for row in self.rows.values():
            if row.counts:
                number, amounts = found[row.author]
                found[row.author] = (number + 1, amounts)
                for name, unit, value in row.amounts:
                    amounts[name, unit] += Decimal(value)
        return found


def seen(row: Row) -> Tally:
    """Return the tally that a node shows; each calls itself by the name of its authority."""
    assert not row["differing"]
    return {
        each["participant"].lower(): (
            each["incidents"],
            {(t["substance"], t["unit"]): Decimal(t["value"]) for t in each["totals"]},
        )
        for each in row["items"]
    }


def courier(operation: str, amounts: list[tuple[str, str, str]], **face: object) -> Row:
    """Return an incident that belongs to an operation."""
    value = incident("parcels by courier")
    value["face"] |= {
        "operation_id": operation,
        "substances": [
            {"substance_id": name, "form": "unknown", "qty": {"value": number, "unit": unit}}
            for name, unit, number in amounts
        ],
        **face,
    }  # fmt: skip
    return value


# --- many in one process ---------------------------------------------------------------------
class Courier:
    """What the participants of one operation do, by dice, and what is noted of it."""

    def __init__(self, world: World, operation: str, dice: Random) -> None:
        self.world, self.operation, self.dice = world, operation, dice
        self.notebook = Notebook()

    def amounts(self) -> list[tuple[str, str, str]]:
        chosen = self.dice.sample(SUBSTANCES, self.dice.randint(1, 2))
        return [(name, unit, f"{self.dice.randint(1, 99_999) / 100:.2f}") for name, unit in chosen]

    def report(self, station: Station, **face: object) -> str:
        """Write one incident."""
        amounts = self.amounts()
        service = station.service()
        key = str(service.create_draft(courier(self.operation, amounts, **face))["id"])
        everybody = [name for name in NAMES if name != station.name]
        service.release(
            key, to=everybody, annex_to=None, carriers=[], separately=False, digest=None
        )
        self.notebook.rows[key] = Written(station.name, amounts)
        return key

    def work(self, station: Station) -> None:
        """Report, and then correct, withdraw, or say that it is the same as another's."""
        service = station.service()
        kept = self.report(station)
        match self.dice.randrange(4):
            case 0:
                amounts = self.amounts()
                service.records.release_amend(kept, courier(self.operation, amounts))
                self.notebook.rows[kept].amounts = amounts
            case 1:
                other = self.report(station)
                service.records.release(
                    "incident.retract", {"incident": other, "reason": "entered_in_error"}
                )
                self.notebook.rows[other].counts = False
            case 2:
                first = self.dice.choice([k for k, row in self.notebook.rows.items() if row.counts])
                same = self.report(station, links=[{"kind": "duplicate_of", "target": first}])
                self.notebook.rows[same].counts = False
            case _:
                pass


@pytest.mark.long
def test_story_09_operation_of_34(tmp_path: Path) -> None:
    dice = Random(9)
    with many(tmp_path, NAMES) as world:
        convenor = world[NAMES[0]]
        opened = convenor.service().records.release(
            "operation.open",
            {
                "name": "Acronym", "participants": list(NAMES[1:]), "handling": HANDLED,
                "scope": {"modes": ["4"], "starts": stamp(NOW), "ends": stamp(NOW + DAYS * DAY)},
                "reporting_rule": "Within a day.",
            },
        )  # fmt: skip
        spread(world, NAMES[:1], dice)
        story = Courier(world, opened["id"], dice)
        for day in range(DAYS):
            authors = NAMES[day::DAYS]
            for name in authors:
                story.work(world[name])
            spread(world, authors, dice)
            check_tallies(story, dice.sample(NAMES, 4))
            world.clock.advance(DAY)
        convenor.service().records.release("operation.close", {"operation": opened["id"]})
        spread(world, NAMES[:1], dice)
        check_tallies(story, NAMES)
        assert state(convenor, opened["id"])["state"] == "closed"


def stamp(ms: int) -> str:
    at = datetime.datetime.fromtimestamp(ms // 1000, datetime.UTC)
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def state(station: Station, operation: str) -> Row:
    return station.service().views.tally(operation)


def check_tallies(story: Courier, names: Iterable[str]) -> None:
    """Check that these nodes count the same, and right."""
    by_hand = story.notebook.tally(NAMES)
    for name in names:
        assert seen(state(story.world[name], story.operation)) == by_hand, name


# --- processes of their own ------------------------------------------------------------------
def test_story_09_operation_of_four(quartet: Net) -> None:
    names = ("alder", "birch", "cedar", "dogwood")
    nodes = [quartet[name] for name in names]
    convenor = nodes[0]
    scope = {"modes": ["4"], "starts": stamp(NOW - 3650 * DAY), "ends": stamp(NOW + 3650 * DAY)}
    operation = convenor.ask(
        "POST", "/api/v1/operations",
        {"name": "Four", "participants": list(names[1:]), "scope": scope, "handling": HANDLED,
         "reporting_rule": "Within a day."},
    )["id"]  # fmt: skip
    for node in nodes:
        wait(lambda n=node: shown(n, operation) is not None, "the operation")  # type: ignore[misc]
    notebook = Notebook()
    for node in nodes:
        notebook.rows |= reported(node, [name for name in names if name != node.key], operation)
    by_hand = notebook.tally(names)
    for node in nodes:
        wait(lambda n=node: shown(n, operation) == by_hand, f"the tally of {node.key}")  # type: ignore[misc]
    convenor.ask("POST", f"/api/v1/operations/{operation}/close", {})
    for node in nodes:
        wait(lambda n=node: stage(n, operation) == "closed", "the end")  # type: ignore[misc]
        assert exported(node, operation) == by_hand


def reported(node: Node, others: list[str], operation: str) -> dict[str, Written]:
    """Let a node report five incidents: two stand, one is amended, two do not count."""
    rows: dict[str, Written] = {}

    def report(number: int, value: str, **face: object) -> str:
        name, unit = SUBSTANCES[number % len(SUBSTANCES)]
        amounts = [(name, unit, value)]
        key = node.draft(courier(operation, amounts, **face))
        node.release(key, *others)
        rows[key] = Written(node.key, amounts)
        return key

    first, second, wrong = report(0, "0.1"), report(1, "0.2"), report(2, "1000")
    report(0, "0.05")
    same = report(1, "77", links=[{"kind": "duplicate_of", "target": first}])
    rows[same].counts = rows[wrong].counts = False
    rows[second].amounts = [(*SUBSTANCES[1], "12.345")]
    amend(node, second, courier(operation, rows[second].amounts))
    retract(node, wrong, "entered_in_error")
    return rows


def stage(node: Node, operation: str) -> str:
    return str(node.ask("GET", f"/api/v1/operations/{operation}/tally")["state"])


def shown(node: Node, operation: str) -> Tally | None:
    """Return the tally of a node; None until it knows of the operation."""
    path = f"/api/v1/operations/{operation}/tally"
    return None if node.status_of(path) == NOT_FOUND else seen(node.ask("GET", path))


def exported(node: Node, operation: str) -> Tally:
    """Return the tally as the command writes it for a spreadsheet."""
    done = picket(node.home.path, "operations", "tally", operation, "--csv")
    rows = list(csv.DictReader(io.StringIO(told(done, OK).removeprefix("\ufeff"))))
    found: Tally = {}
    for row in rows:
        number, amounts = found.setdefault(row["participant"].lower(), (int(row["incidents"]), {}))
        assert number == int(row["incidents"])
        amounts[row["substance"], row["unit"]] = Decimal(row["value"])
    return found
