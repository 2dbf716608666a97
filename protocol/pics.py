"""An incident as it is typed into PICS, the incident platform of the Board: field by field.

- Everything comes from the record as it was written; nothing is converted or guessed.
- What can name a person stays out unless it is asked for: persons, narrative, plates, selectors.
  The line at the end of each entry says what was left out.
- PICS is restricted, so order and names of its screens could not be checked; the fields follow what
  its users are asked for: what, where, when, how much, the route, the firms, the papers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from protocol import reference
from protocol import vocabulary as v
from protocol.obligations import Case

COLUMNS: Final = (
    "Reference", "National reference", "Type of incident", "Detected (UTC)", "Occurred",
    "Reporting country", "Reporting agency", "Contact", "Place", "How found", "Status",
    "Substances", "Manufacturer and batch", "Packages", "Equipment", "Drugs",
    "Origin", "Transit", "Destination", "Route", "Conveyance", "Containers", "Documents",
    "Companies", "Persons", "How obtained", "How hidden", "Cover", "Point of diversion",
    "Laboratory", "Online", "Indicators", "Summary", "Narrative", "Operation", "Linked to",
    "Attachments", "Revision", "Left out here", "PICS reference (write it down)",
)  # fmt: skip
_ORIGIN: Final = frozenset({"origin"})
_TRANSIT: Final = frozenset({"transit", "transshipment", "deviation", "interception"})
_TARGET: Final = frozenset({"destination_declared", "destination_suspected"})
Part = Mapping[str, Any]


def entry(case: Case, *, persons: bool = False) -> tuple[str, ...]:
    """Return the fields of *case* in the order of COLUMNS; with *persons* all that names one."""
    face, annex = case.face or {}, case.annex or {}
    fields = {
        "Reference": case.ref,
        "Revision": str(case.revision),
        **_what(face),
        **_goods(face, annex),
        **_way(face, annex, persons=persons),
        **_who(annex, persons=persons),
        **_how(face, annex, persons=persons),
        "Left out here": "" if persons else _left_out(annex),
    }
    return tuple(fields.get(name, "") for name in COLUMNS)


def _words(*parts: object) -> str:
    return ", ".join(str(part).replace("_", " ") for part in parts if part)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(line for line in lines if line)


def _exact(label: str, value: object) -> str:
    return f"{label} {value}" if value else ""


def _what(face: Part) -> dict[str, str]:
    place, contact = face.get("location", {}), face.get("contact") or {}
    occurred = face.get("occurred") or {}
    spelled = [occurred.get("start"), occurred.get("end")]
    return {
        "National reference": str(face.get("national_ref", "")),
        "Type of incident": _words(face.get("incident_type")),
        "Detected (UTC)": str(face.get("detected_at", "")),
        "Occurred": " to ".join(filter(None, spelled)),
        "Reporting country": _country(face.get("origin_country")),
        "Reporting agency": _words(face.get("agency"), face.get("agency_type")),
        "Contact": ", ".join(
            str(contact[name]) for name in ("unit", "mailbox", "phone", "hours") if name in contact
        ),
        "Place": ", ".join(
            filter(None, [_country(place.get("country")), place.get("subdivision", ""),
                          place.get("locode", ""), _words(place.get("facility_type"))])
        ),
        "How found": _words(face.get("discovery")),
        "Status": _words(face.get("status", "open")),
        "Summary": str(face.get("summary", "")),
        "Operation": str(face.get("operation_id", "")),
        "Linked to": _lines(
            f"{link['kind'].replace('_', ' ')} {link['target']}" for link in face.get("links", ())
        ),
    }  # fmt: skip


def _country(code: str | None) -> str:
    known = None if code is None else reference.countries().get(code)
    return code or "" if known is None else f"{known.names['en']} ({code})"


# --- goods -----------------------------------------------------------------------------------
def quantity(qty: Part | None) -> str:
    """Return a quantity as it was measured, in words."""
    if qty is None:
        return ""
    unit = v.UNIT_SYMBOL[qty["unit"]]
    about = qty.get("qualifier", "exact")
    basis = qty.get("basis", "unknown")
    text = f"{qty['value']} {unit}"
    text += "" if basis == "unknown" else f" {basis.replace('_', ' ')}"
    return text if about == "exact" else f"{about.replace('_', ' ')} {text}"


def _goods(face: Part, annex: Part) -> dict[str, str]:
    origins = annex.get("origins", ())
    marks = {mark["equipment"]: mark for mark in annex.get("equipment_marks", ())}
    return {
        "Substances": _lines(map(_substance, face.get("substances", ()))),
        "Manufacturer and batch": _lines(
            ", ".join(
                str(one[name])
                for name in ("manufacturer", "country", "brand", "grade", "batch_no", "mfg_date")
                if name in one
            )
            for one in origins
        ),
        "Packages": _lines(_packages(each) for one in origins for each in one.get("packages", ())),
        "Equipment": _lines(
            f"{each['qty']} x {each['type']}" + _mark(marks.get(number, {}))
            for number, each in enumerate(face.get("equipment", ()), 1)
        ),
        "Drugs": _lines(
            [*face.get("drugs", ()),
             *(f"{each['name']} {quantity(each.get('qty'))}".strip()
               for each in face.get("drugs_found", ()))]
        ),
    }  # fmt: skip


def _substance(substance: Part) -> str:
    other = substance.get("other")
    if other is not None:
        name, cas = other["name"], other.get("cas")
    else:
        listed = reference.substances().by_id.get(substance["substance_id"])
        name = substance["substance_id"] if listed is None else listed.name
        cas = None if listed is None else listed.cas
    expected = quantity(substance.get("qty_expected"))
    parts = [
        f"{name} (CAS {cas})" if cas else name,
        quantity(substance["qty"]),
        _exact("ordered or intended:", expected),
        _words(substance.get("form")),
        _words(substance.get("id_status", "declared_only"), substance.get("method")),
        _exact("purity %", substance.get("purity_pct")),
        _exact("declared as", substance.get("declared_as")),
        _exact("HS declared", substance.get("hs_declared")),
        _exact("HS", substance.get("hs_true")),
        _exact("for", substance.get("intended_drug")),
        _words(substance.get("role_in_case")),
    ]
    return "; ".join(filter(None, parts))


def _packages(each: Part) -> str:
    kind = reference.code_names("packages").get(each["rec21"], each["rec21"])
    held = quantity(each.get("capacity"))
    return f"{each['count']} x {kind}" + (f" of {held}" if held else "") + (
        f", marked {each['marks']}" if "marks" in each else ""
    )  # fmt: skip


def _mark(mark: Part) -> str:
    said = [str(mark[name]) for name in ("make", "model", "serial") if name in mark]
    return f" ({', '.join(said)})" if said else ""


# --- the way ---------------------------------------------------------------------------------
def _way(face: Part, annex: Part, *, persons: bool) -> dict[str, str]:
    legs = face.get("route", ())
    return {
        "Origin": _places(legs, _ORIGIN, "origin"),
        "Transit": _places(legs, _TRANSIT, "destination"),
        "Destination": _places(legs, _TARGET, "destination"),
        "Route": _lines(map(_leg, legs)),
        "Conveyance": _lines(_conveyance(each, persons) for each in annex.get("conveyances", ())),
        "Containers": _lines(
            ", ".join([each["no"], *(f"seal {seal}" for seal in each.get("seals", ()))])
            for each in annex.get("containers", ())
        ),
        "Documents": _lines(map(_document, annex.get("documents", ()))),
    }


def _places(legs: Iterable[Part], roles: frozenset[str], side: str) -> str:
    found = [leg.get(side) for leg in legs if leg["role"] in roles]
    return _lines(dict.fromkeys(_country(code) for code in found if code))


def _leg(leg: Part) -> str:
    mode = reference.code_names("modes").get(leg["mode"], leg["mode"])
    ends = [
        " ".join(filter(None, [leg.get(side), leg.get(f"{side}_locode")]))
        for side in ("origin", "destination")
    ]
    dates = " to ".join(filter(None, [leg.get("departed"), leg.get("arrived")]))
    said = [
        f"{leg['seq']}: {ends[0] or '?'} to {ends[1] or '?'}",
        mode,
        _words(leg.get("subtype")),
        _words(leg["role"]),
        leg.get("place", ""),
        dates,
    ]
    return "; ".join(filter(None, said))


def _conveyance(each: Part, persons: bool) -> str:
    named = ["carrier", "carrier_code", "vessel_name", "imo", "voyage", "flight", "wagon"]
    named += ["plate", "plate_country", "trailer_plate"] if persons else []
    said = [f"{name.replace('_', ' ')} {each[name]}" for name in named if name in each]
    return f"leg {each['leg']}: {', '.join(said)}" if said else ""


def _document(each: Part) -> str:
    value = each.get("declared_value")
    said = [
        f"{each['type'].replace('_', ' ')} {each['number']}",
        _exact("by", each.get("issuer")),
        str(each.get("date", "")),
        _words(each.get("genuine", "unknown")),
        _exact("PEN", each.get("pen_ref")),
        _exact("permit", each.get("permit_no")),
        "" if value is None else f"{value['amount']} {value['currency']}",
    ]
    return "; ".join(filter(None, said))


# --- who and how -----------------------------------------------------------------------------
def _who(annex: Part, *, persons: bool) -> dict[str, str]:
    parties = annex.get("parties", ())
    people = [each for each in parties if each["kind"] == "person"]
    firms = [each for each in parties if each["kind"] != "person"]
    return {
        "Companies": _lines(_party(each, persons) for each in firms),
        "Persons": _lines(_party(each, persons) for each in people) if persons else "",
    }


def _party(each: Part, persons: bool) -> str:
    said = [
        f"{each['role'].replace('_', ' ')}: {each['name']}",
        each.get("country", ""),
        each.get("address", ""),
        _exact("licence", each.get("licence_no")),
        *(f"{one['scheme']} {one['value']}" for one in each.get("ids", ())),
        _words(each.get("verification", "unchecked")),
    ]
    if persons:
        said += [f"{one['kind']} {one['value']}" for one in each.get("contacts", ())]
    return "; ".join(filter(None, said))


def _how(face: Part, annex: Part, *, persons: bool) -> dict[str, str]:
    mo, lab = face.get("mo") or {}, face.get("lab") or {}
    narrative = [annex.get("narrative", ""), annex.get("mo_text", "")] if persons else []
    return {
        "How obtained": _words(*mo.get("acquisition", ())),
        "How hidden": _words(*mo.get("concealment", ())),
        "Cover": _words(*mo.get("false_cover", ())),
        "Point of diversion": _words(mo.get("diversion_point")),
        "Laboratory": _words(
            lab.get("lab_type"), lab.get("scale"), lab.get("status"), *lab.get("waste", ())
        ),
        "Online": _lines(_online(each, persons) for each in annex.get("online", ())),
        "Indicators": _words(*face.get("indicators", ())),
        "Narrative": _lines(narrative),
        "Attachments": str(len(annex.get("attachments", ())) or ""),
    }


def _online(each: Part, persons: bool) -> str:
    names = ["platform", "listing_title", *(["url", "handle"] if persons else [])]
    said = [each["platform_type"].replace("_", " "), *(each[n] for n in names if n in each)]
    return "; ".join(said)


def _left_out(annex: Part) -> str:
    parties = annex.get("parties", ())
    counts = {
        "persons": sum(each["kind"] == "person" for each in parties),
        "telephones, mail and accounts": sum(
            len(each.get("contacts", ())) for each in parties if each["kind"] != "person"
        ),
        "plates": sum("plate" in c or "trailer_plate" in c for c in annex.get("conveyances", ())),
        "addresses and handles online": sum(
            "url" in each or "handle" in each for each in annex.get("online", ())
        ),
        "narrative": sum(name in annex for name in ("narrative", "mo_text")),
    }
    return ", ".join(f"{name}: {count}" for name, count in counts.items() if count)
