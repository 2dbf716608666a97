"""Form D on every node is what a person counts by hand over the same records.

Four nodes write by dice all that makes counting hard: revisions, retractions, duplicates, other
years, countries and types, and amounts that are none. Every node then counts for every authority.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from tests.net.harness import incident
from tests.net.stories.many import many, spread
from tests.node.factories import Station

NAMES: Final = ("alder", "birch", "cedar", "dogwood")
YEARS: Final = (2024, 2025)
EACH: Final = 20
SEIZED: Final = ("seizure", "illicit_laboratory", "storage_site", "dump_site")
TYPES: Final = (*SEIZED, *SEIZED, "stopped_shipment", "theft")
CAS: Final = {"acetic-anhydride": "108-24-7", "acetone": "67-64-1", "piperidine": "110-89-4"}
QUALIFIERS: Final = ("exact", "exact", "approximately", "at_least", "capacity", "expected")
Row = dict[str, Any]
Totals = dict[tuple[str, str], Decimal]


@dataclass
class Hand:
    """What a person notes down of one authority's incidents, by year."""

    totals: dict[int, Totals] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Decimal))
    )
    standing: list[str] = field(default_factory=list)

    def note(self, face: Row) -> bool:
        """Add a face that stands; return whether any of it counts."""
        fits = (
            face["incident_type"] in SEIZED
            and face["location"]["country"] == "XA"
            and not face["exercise"]
        )
        counted = [
            each
            for each in face["substances"]
            if fits
            and each["qty"]["qualifier"] not in {"capacity", "expected"}
            and each["id_status"] != "refuted"
            and each.get("role_in_case") != "cover_load"
        ]
        year = self.totals[int(face["detected_at"][:4])]
        for each in counted:
            key = (CAS[each["substance_id"]], each["qty"]["unit"])
            year[key] += Decimal(each["qty"]["value"])
        return bool(counted)


def substance(dice: Random) -> Row:
    row: Row = {
        "substance_id": dice.choice(list(CAS)), "form": "unknown",
        "id_status": dice.choice(("declared_only", "laboratory_confirmed", "refuted")),
        "qty": {
            "value": f"{dice.randint(1, 10**9)}.{dice.randint(1, 999_999):06}",
            "unit": dice.choice(("KGM", "LTR")), "qualifier": dice.choice(QUALIFIERS),
        },
    }  # fmt: skip
    return {**row, "role_in_case": "cover_load"} if dice.random() < 0.1 else row


def thrown(dice: Random) -> Row:
    value = incident("thrown by dice")
    value["face"] |= {
        "incident_type": dice.choice(TYPES), "exercise": dice.random() < 0.1,
        "detected_at": f"{dice.choice(YEARS)}-12-31T23:59:59Z",
        "location": {"country": "XB" if dice.random() < 0.1 else "XA"},
        "substances": [substance(dice) for _ in range(dice.randint(1, 3))],
    }  # fmt: skip
    return value


def write(station: Station, dice: Random, hand: Hand) -> None:
    """Release an incident, and then amend or retract it, or call it the same as another."""
    service, value = station.service(), thrown(dice)
    act = dice.choice(("stand", "stand", "amend", "retract", "same"))
    if act == "same" and hand.standing:
        links = [{"kind": "duplicate_of", "target": dice.choice(hand.standing)}]
        value["face"]["links"] = links
    key = str(service.create_draft(value)["id"])
    others = [name for name in NAMES if name != station.name]
    service.release(key, to=others, annex_to=None, carriers=[], separately=False, digest=None)
    if act == "retract":
        reason = {"incident": key, "reason": "substance_refuted"}
        service.records.release("incident.retract", reason)
        return
    if "links" in value["face"]:
        return
    if act == "amend":
        for _ in range(dice.randint(1, 3)):
            value = thrown(dice)
            service.records.release_amend(key, value)
    if hand.note(value["face"]):
        hand.standing.append(key)


def shown(station: Station, year: int, of: str) -> Totals:
    """Return the totals that a node has of an authority."""
    peer = None if of == station.name else of
    sheet = station.service().obligations.form_d(year, who="operator", by="J. Judge", of=peer)
    cas, unit, amount = (sheet["columns"].index(n) for n in ("CAS", "Unit code", "Amount"))
    return {(row[cas], row[unit]): Decimal(row[amount]) for row in sheet["rows"]}


@pytest.mark.parametrize("seed", range(3))
def test_form_d_is_a_count_by_hand_on_every_node(tmp_path: Path, seed: int) -> None:
    dice = Random(seed)
    with many(tmp_path, NAMES) as world:
        hands = {name: Hand() for name in NAMES}
        for _ in range(EACH):
            for name in NAMES:
                write(world[name], dice, hands[name])
        spread(world, NAMES, dice)
        for station in world:
            for name in NAMES:
                for year in YEARS:
                    seen = shown(station, year, name)
                    assert seen == hands[name].totals[year], (station.name, name, year)
        sums = [len(hand.totals[year]) for hand in hands.values() for year in YEARS]
        assert sum(sums) >= len(sums), "the dice left nothing to count"
