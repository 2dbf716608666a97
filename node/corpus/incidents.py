"""One incident after another, as an agency would send it; pure but for the dice it is given."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import exp, log, log10
from random import Random
from typing import Any, Final

from node.corpus import knobs, numbers, tables
from node.corpus.firms import Firm, Firms
from node.corpus.tables import Stuff

Row = dict[str, Any]
_LABS: Final = frozenset({"illicit_laboratory", "dump_site", "storage_site"})
_NO_GOODS: Final = frozenset(
    {"suspicious_enquiry", "suspicious_order", "order_declined_by_industry"}
)
_SIGNIFICANT: Final = 3
_KILOGRAMS_PER_LITRE: Final = 1.1


@dataclass
class Planted:
    """What an incident must hold, because it belongs to a series; ``written`` is for the truth."""

    kind: str
    batch: tuple[str, str] | None = None
    selector: tuple[str, str] | None = None
    firm: Firm | None = None
    container: str = ""
    plate: str = ""
    voyage: tuple[str, str, str] | None = None
    document: tuple[str, str] | None = None
    country: str = ""
    written: list[str] = field(default_factory=list)


def pick(dice: Random, weights: Mapping[Any, float]) -> Any:  # noqa: ANN401  the mapping's own keys
    """Return a key of *weights*, drawn by its weight."""
    return dice.choices(list(weights), list(weights.values()))[0]


def zipf(count: int, exponent: float) -> list[float]:
    """Return the cumulative weights of *count* ranks."""
    total, found = 0.0, []
    for rank in range(1, count + 1):
        total += rank**-exponent
        found.append(total)
    return found


class Scribe:
    """Writes incidents; all it draws comes from one source."""

    def __init__(self, dice: Random, count: int) -> None:
        """Write a corpus of *count* incidents."""
        self._dice, self._count = dice, count
        self._reporters = list(tables.REPORTERS)
        dice.shuffle(self._reporters)
        self._rank = zipf(len(self._reporters), knobs.ZIPF_COUNTRIES)
        self._listed = zipf(len(tables.SCHEDULED), knobs.ZIPF_SUBSTANCES)
        self._unlisted = zipf(len(tables.NON_SCHEDULED), knobs.ZIPF_SUBSTANCES)
        self.firms = Firms(dice)

    # --- the whole ---------------------------------------------------------------------------
    def write(self, number: int, planted: Planted | None) -> Row:
        """Return incident *number*, with what is *planted* in it."""
        dice = self._dice
        kind = pick(dice, knobs.TYPES)
        mode = "" if kind in _LABS else pick(dice, knobs.MODES)
        if planted is not None and (planted.container or planted.voyage):
            mode = "1"
        elif planted is not None and planted.plate:
            mode = "3"
        reporter = dice.choices(self._reporters, cum_weights=self._rank)[0]
        language = pick(dice, knobs.LANGUAGES)
        concerned = self._countries(reporter)
        has = {name for name, share in knobs.ANCHORS.items() if dice.random() < share}
        goods = [] if kind == "equipment_only" else self._substances(number, mode)
        face: Row = {
            "incident_type": kind,
            "origin_country": reporter,
            "agency": f"Exercise Authority {reporter}",
            "detected_at": self._detected(number),
            "status": dice.choice(("open", "open", "under_investigation", "concluded")),
            "exercise": True,
            "lang": language,
            "handling": {"tlp": dice.choice(("AMBER", "AMBER", "GREEN", "AMBER+STRICT"))},
            "location": {"country": reporter, "facility_type": tables.FACILITIES[mode]},
        }
        face["summary"] = self._summary(language, goods, face, kind)
        if goods:
            face["substances"] = [self._substance(each, mode) for each in goods]
        else:
            face["equipment"] = [{"type": "tablet press", "qty": dice.randrange(1, 4)}]
        if "A5" in has and mode:
            face["route"] = self._route(mode, concerned, reporter)
        if "A8" in has:
            face["contact"] = {
                "unit": f"Precursor desk {reporter}", "mailbox": f"desk@{reporter.lower()}.example",
                "hours": "24/7", "languages": [language],
            }  # fmt: skip
        if kind in _LABS:
            face["lab"] = {"lab_type": "synthesis" if kind == "illicit_laboratory" else "storage",
                           "scale": dice.choice(("kitchen", "small", "medium"))}  # fmt: skip
        if kind in _NO_GOODS:
            face["indicators"] = ["vague_end_use", "free_webmail"]
        annex = self._annex(
            has, mode=mode, language=language, concerned=concerned, goods=goods, planted=planted
        )
        return {"face": face, "annex": annex} if annex else {"face": face}

    def _detected(self, number: int) -> str:
        day = knobs.FIRST_DAY + datetime.timedelta(days=number * knobs.DAYS // self._count)
        return f"{day}T{self._dice.randrange(24):02d}:{self._dice.randrange(60):02d}:00Z"

    def _countries(self, reporter: str) -> list[str]:
        wanted = pick(self._dice, knobs.CONCERNED)
        if wanted == 3 and self._dice.random() < 0.3:  # noqa: PLR2004  three or more
            wanted = 4
        others = [each for each in self._dice.sample(self._reporters, wanted) if each != reporter]
        return [reporter, *others][:wanted]

    def _summary(self, language: str, goods: Sequence[Stuff], face: Row, kind: str) -> str:
        what = goods[0].id.replace("-", " ") if goods else "tablet press"
        cover = goods[0].cover if goods else "machine parts"
        verb = tables.VERBS[language][0 if kind == "seizure" else 1 if "shipment" in kind else 2]
        where = f"{face['location']['facility_type'].replace('_', ' ')} {face['origin_country']}"
        return tables.SUMMARIES[language].format(what=what, verb=verb, where=where, cover=cover)

    # --- substances --------------------------------------------------------------------------
    def _substances(self, number: int, mode: str) -> list[Stuff]:
        del mode
        first, last = knobs.NON_SCHEDULED
        share = first + (last - first) * number / self._count
        count = 1
        while self._dice.random() < knobs.MORE_SUBSTANCES / (1 + knobs.MORE_SUBSTANCES):
            count += 1
        found: dict[str, Stuff] = {}
        for _ in range(count):
            if self._dice.random() < share:
                each = self._dice.choices(tables.NON_SCHEDULED, cum_weights=self._unlisted)[0]
            else:
                each = self._dice.choices(tables.SCHEDULED, cum_weights=self._listed)[0]
            found[each.id] = each
        return list(found.values())

    def _substance(self, stuff: Stuff, mode: str) -> Row:
        dice = self._dice
        usual = stuff.kilograms * tables.MODE_FACTOR[mode]
        amount = max(exp(dice.gauss(log(usual), dice.uniform(*knobs.SIGMA)) * 0.999), 0.001)
        liquid = stuff.form in {"liquid", "solution", "oil"}
        unit = "LTR" if liquid or dice.random() < knobs.LITRES_FOR_KILOGRAMS else "KGM"
        if unit == "LTR":
            amount /= _KILOGRAMS_PER_LITRE
        if unit == "KGM" and amount < 0.1:  # noqa: PLR2004  nobody weighs a letter in kilograms
            unit, amount = "GRM", amount * 1_000
        row: Row = {
            "id_status": dice.choice(("declared_only", "label_only", "field_test",
                                      "laboratory_confirmed")),
            "declared_as": stuff.cover, "hs_declared": stuff.hs_cover, "hs_true": stuff.hs,
            "form": stuff.form,
            "qty": {"value": _decimal(amount), "unit": unit,
                    "qualifier": pick(dice, knobs.QUALIFIERS)},
        }  # fmt: skip
        if dice.random() < knobs.WRONG_HS:
            row["hs_true"] = dice.choice(("330499", "210690", "847989"))
        if dice.random() < knobs.FREE_TEXT:
            name, cas = dice.choice(tables.FREE_NAMES)
            if dice.random() < knobs.BAD_CAS / knobs.FREE_TEXT:
                cas = f"{cas[:-1]}{(int(cas[-1]) + 1) % 10}"
            return {"other": {"name": name, "cas": cas}, **row}
        return {"substance_id": stuff.id, **row}

    # --- transport ---------------------------------------------------------------------------
    def _route(self, mode: str, concerned: Sequence[str], reporter: str) -> list[Row]:
        dice = self._dice
        stops = [*concerned[1:], reporter]
        if len(stops) == 1:
            stops = [reporter, reporter]
        legs = []
        for seq, (one, other) in enumerate(pairwise(stops), start=1):
            role = "origin" if seq == 1 else "transit"
            leg = {"seq": seq, "mode": mode, "role": role, "origin": one, "destination": other}
            if mode == "4" and dice.random() < knobs.COURIER:
                leg["subtype"] = "express_courier"
            legs.append(leg)
        if dice.random() < knobs.NO_DESTINATION:
            legs[-1].pop("destination")
        else:
            legs.append({
                "seq": len(legs) + 1, "mode": mode, "role": "destination_declared",
                "origin": reporter, "destination": dice.choice(concerned),
            })  # fmt: skip
        return legs

    # --- annex -------------------------------------------------------------------------------
    def _annex(
        self, has: set[str], *, mode: str, language: str, concerned: Sequence[str],
        goods: Sequence[Stuff], planted: Planted | None,
    ) -> Row:  # fmt: skip
        dice = self._dice
        annex: Row = {}
        parties = self._parties(has, planted)
        if parties:
            annex["parties"] = parties
        documents = self._documents(has, planted)
        if documents:
            annex["documents"] = documents
        annex |= self._conveyed(has, mode, planted)
        origins = self._origins(has, goods, concerned, planted)
        if origins:
            annex["origins"] = origins
        if "A7" in has:
            few, most, small, large = knobs.ATTACHMENTS
            annex["attachments"] = [
                {"sha256": f"{dice.getrandbits(256):064x}", "media_type": "image/jpeg",
                 "size": dice.randrange(small, large),
                 "kind": dice.choice(("label_photo", "document_scan", "container_photo"))}
                for _ in range(dice.randrange(few, most + 1))
            ]  # fmt: skip
        if annex or dice.random() < 0.5:  # noqa: PLR2004
            annex["narrative"] = tables.NARRATIVES[language]
        return annex

    def _parties(self, has: set[str], planted: Planted | None) -> list[Row]:
        found: list[Row] = []
        if planted is not None and planted.firm is not None:
            name = self._called(planted.firm)
            planted.written.append(name)
            found.append(self._party("consignor", planted.firm, name))
        if "A1" in has:
            for role in ("consignor", "consignee")[: self._dice.randrange(1, 3)]:
                owner = self.firms()
                found.append(self._party(role, owner, self._called(owner)))
        if "A6" in has or (planted is not None and planted.selector is not None):
            if not found:
                owner = self.firms()
                found.append(self._party("buyer", owner, self._called(owner)))
            if planted is not None and planted.selector is not None:
                kind, value = planted.selector
                text = numbers.selector_as_written(kind, value, self._dice)
                planted.written.append(text)
                found[0]["contacts"] = [{"kind": kind, "value": text}]
            else:
                kind = self._dice.choice(numbers.SELECTOR_KINDS)
                value = numbers.selector(kind, self.firms(), self._dice)
                text = numbers.selector_as_written(kind, value, self._dice)
                found[-1]["contacts"] = [{"kind": kind, "value": text}]
        return found

    def _called(self, owner: Firm) -> str:
        return owner.written(self._dice, native=1 - knobs.OTHER_SCRIPT)

    def _party(self, role: str, owner: Firm, name: str) -> Row:
        row: Row = {"role": role, "kind": "org", "name": name}
        if self._dice.random() < 0.85:  # noqa: PLR2004  some leave it out
            row["country"] = owner.country
        if self._dice.random() < 0.4:  # noqa: PLR2004
            row["address"] = f"{self._dice.randrange(1, 200)} Exercise Road"
        return row

    def _documents(self, has: set[str], planted: Planted | None) -> list[Row]:
        dice = self._dice
        found = []
        if planted is not None and planted.document is not None:
            kind, number = planted.document
            text = numbers.document_as_written(number, dice)
            planted.written.append(text)
            found.append({"type": kind, "number": text})
        if "A2" in has:
            for _ in range(dice.randrange(1, 4)):
                kind, number = numbers.document(dice)
                genuine = dice.choice(("unknown", "forged", "genuine"))
                found.append({"type": kind, "number": number, "genuine": genuine})
        return found

    def _conveyed(self, has: set[str], mode: str, planted: Planted | None) -> Row:
        dice = self._dice
        boxes: list[Row] = []
        carried: list[Row] = []
        if planted is not None and planted.container:
            text = numbers.container_as_written(planted.container, dice)
            planted.written.append(text)
            boxes.append({"no": text})
        if planted is not None and planted.plate:
            text = numbers.plate_as_written(planted.plate, dice)
            planted.written.append(text)
            carried.append({"leg": 1, "plate": text})
        if planted is not None and planted.voyage is not None:
            vessel, imo, voyage = planted.voyage
            planted.written.append(f"{imo} {voyage}")
            carried.append({"leg": 1, "vessel_name": vessel, "imo": imo, "voyage": voyage})
        if "A3" in has and mode == "1":
            for _ in range(dice.choice((1, 1, 2))):
                number = numbers.container(dice)
                if dice.random() < knobs.BAD_CONTAINER:
                    number = numbers.wrong_container(number, dice)
                boxes.append({"no": number, "seals": [f"SL{numbers.digits(dice, 7)}"]})
        elif "A3" in has and mode == "3":
            carried.append({"leg": 1, "plate": numbers.plate(dice)})
        elif "A3" in has and mode == "4":
            carried.append(
                {"leg": 1, "carrier": "Corvid Air Cargo", "flight": f"XC{dice.randrange(900)}"}
            )
        found: Row = {}
        if boxes:
            found["containers"] = boxes
        if carried:
            found["conveyances"] = carried
        return found

    def _origins(
        self, has: set[str], goods: Sequence[Stuff], concerned: Sequence[str],
        planted: Planted | None,
    ) -> list[Row]:  # fmt: skip
        dice = self._dice
        if planted is not None and planted.batch is not None:
            number, maker = planted.batch
            text = numbers.batch_as_written(number, dice)
            planted.written.append(text)
            row: Row = {"substance": 1, "batch_no": text}
            if dice.random() < 0.7:  # noqa: PLR2004  the label is torn where the maker stood
                row["manufacturer"] = maker
            return [row]
        if "A4" not in has:
            return []
        maker = dice.choice(tables.MAKERS)
        return [{
            "substance": 1, "manufacturer": maker, "country": dice.choice(concerned),
            "batch_no": numbers.batch(dice) if dice.random() > 0.1 else numbers.short_batch(dice),  # noqa: PLR2004
            "packages": [{"count": dice.randrange(1, 800),
                          "rec21": goods[0].package if goods else "PK"}],
        }]  # fmt: skip


def _decimal(amount: float) -> str:
    """Return a measured amount as people write it: three digits that count."""
    places = max(0, _SIGNIFICANT - 1 - int(log10(max(amount, 1e-9))))
    text = f"{amount:.{min(places, 3)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text if text not in {"0", ""} else "0.001"
