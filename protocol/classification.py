"""Which fields of an incident can tell something of a person, and whether one does.

- Each field has the highest class that it can have; a field without a class is a bug, and a test
  says so. Maps have none of their own: theirs is that of their fields.
- What is said of a company is business, of a person personal: ``personal_data`` looks at whom.
- The contact of a face is the desk of the authority that reports. It is classed as personal,
  because somebody may answer there by name, but it is nobody of whom the incident tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pydantic import BaseModel

    from protocol.incident import Incident


class Privacy(IntEnum):
    """The classes, from the least to the most to be guarded."""

    NONE = 0
    BUSINESS = 1
    """Confidential between authorities and firms (1988 Convention, article 12, paragraph 11)."""
    PERSONAL = 2
    SUSPICION = 3
    """Personal data about a suspicion of crime: the strictest handling."""


def _classes(text: str, privacy: Privacy) -> dict[str, Privacy]:
    found: dict[str, Privacy] = {}
    for line in text.split("\n"):
        model, _, fields = line.strip().partition(": ")
        found |= {f"{model}.{field}": privacy for field in fields.split()}
    return found


PRIVACY: Final[dict[str, Privacy]] = {
    **_classes(
        """Face: incident_type origin_country agency_type agency detected_at status discovery
        Face: exercise lang summary drugs indicators operation_id anchors personal_data
        IncbCopy: status
        Handling: tlp hc hc_text pap src_eval info_eval eval_as_given confidential_12_11 onward
        Handling: evidence_use retain_until
        Occurred: start end precision
        Location: country subdivision locode facility_type
        Contact: unit hours languages
        Quantity: value unit qualifier basis
        OtherSubstance: name cas inchikey formula
        Substance: substance_id id_status method declared_as hs_declared hs_true purity_pct form
        Substance: un_number role_in_case intended_drug
        FoundDrug: name form
        Leg: seq mode subtype role origin destination locode origin_locode destination_locode place
        Leg: departed arrived
        ModusOperandi: acquisition concealment false_cover payment diversion_point
        Laboratory: lab_type scale activities status waste hazards casualties
        Equipment: type qty new_used made_to_order
        EquipmentMark: equipment
        Link: kind target basis
        Place: precision_m
        Conveyance: leg
        Origin: substance label_lang
        Packages: count rec21
        Online: platform_type payment
        Attachment: sha256 media_type size kind contains_personal blob key
        Party: kind""",
        Privacy.NONE,
    ),
    **_classes(
        """Face: national_ref
        IncbCopy: pics_ref
        Money: amount currency
        Document: type number issuer date genuine pen_ref permit_no incoterm
        Conveyance: carrier carrier_code vessel_name imo voyage flight wagon plate_country
        Container: no size_type seals
        Origin: manufacturer country brand grade batch_no mfg_date expiry label_text label_reused
        Packages: marks
        EquipmentMark: make model serial
        Place: facility_name
        Online: platform listing_title captured_at
        Party: role verification""",
        Privacy.BUSINESS,
    ),
    **_classes(
        """Contact: mailbox phone
        Place: address lat lon
        Conveyance: plate trailer_plate
        Online: url handle
        Attachment: caption
        Identifier: scheme value country
        Selector: kind value
        IdDocument: type number country expires
        Party: name aliases country address licence_no dob nationality""",
        Privacy.PERSONAL,
    ),
    **_classes(
        """Party: involvement
        Annex: narrative mo_text""",
        Privacy.SUSPICION,
    ),
}
"""The class of each field that holds a value, by ``Map.field``."""

# Of a company these are business, and so are its registrations.
_OF_COMPANIES: Final = frozenset({"name", "aliases", "country", "address", "licence_no"})
_OF_PERSONS: Final = frozenset({"passport", "national_id", "tax"})
_SUSPECTED: Final = frozenset({"negligent", "suspected", "charged", "convicted"})


def personal_data(incident: Incident) -> bool:
    """Whether *incident* tells something of a person: known before anybody reads it.

    A narrative counts, because nobody can tell by machine whether it names one.
    """
    annex = incident.annex
    if annex is None:
        return False
    if any(each.contains_personal for each in annex.attachments):
        return True
    return any(privacy >= Privacy.PERSONAL for _, privacy in classified(annex, "/annex"))


def classified(model: BaseModel, pointer: str = "") -> Iterator[tuple[str, Privacy]]:
    """Yield the pointer of each field of *model* that has a value, and the class that it has."""
    name = type(model).__name__
    for field, info in type(model).model_fields.items():
        value = getattr(model, field)
        if value is None or (not info.is_required() and value == info.default):
            continue
        place = f"{pointer}/{field}"
        parts = value if isinstance(value, tuple) else (value,)
        nested = [part for part in parts if hasattr(type(part), "model_fields")]
        for number, part in enumerate(nested):
            yield from classified(part, f"{place}/{number}" if value is parts else place)
        if not nested:
            yield place, _of_value(model, name, field, value)


def _of_value(model: Any, name: str, field: str, value: object) -> Privacy:  # noqa: ANN401
    """Return the class of one value, which may be less than the highest of its field."""
    highest = PRIVACY[f"{name}.{field}"]
    if name == "Party" and field in _OF_COMPANIES and model.kind != "person":
        return Privacy.BUSINESS
    if name == "Party" and field == "involvement" and value not in _SUSPECTED:
        return Privacy.PERSONAL if model.kind == "person" else Privacy.BUSINESS
    if name == "Identifier" and model.scheme not in _OF_PERSONS:
        return Privacy.BUSINESS
    if name == "Place" and model.facility_name is not None:
        return Privacy.BUSINESS  # a firm's or an authority's, not somebody's home
    if name == "Attachment" and field == "caption" and not model.contains_personal:
        return Privacy.NONE
    return highest
