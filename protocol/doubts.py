"""What looks wrong in an incident. It is told to whoever reports; nothing is changed or blocked.

Codes: ``check-digit`` and ``form`` for numbers, ``unknown-substance`` and ``listed`` for the list
of substances, ``mismatch`` for two fields that contradict each other, ``unit``, ``no-contact``,
``no-indicator``, ``no-such-item`` for a reference to something that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from protocol import checks
from protocol.reference import Substances, substances

if TYPE_CHECKING:
    from protocol.incident import Annex, Face, Incident, Party, Substance

_SOLID: Final = frozenset({"solid_powder", "crystalline"})
_LIQUID_UNITS: Final = frozenset({"LTR", "MLT", "MTQ", "HLT"})
_SUSPICIONS: Final = frozenset({"suspicious_order", "suspicious_enquiry"})
_HS_LENGTH: Final = 6
_UN_LENGTH: Final = 4
# What a number of a document, registration or selector has to look like.
_DOCUMENTS: Final = {"postal_s10": "s10", "mawb": "awb"}
_SCHEMES: Final = {"vat": "vat", "eori": "eori", "lei": "lei"}
_SELECTORS: Final = {"phone": "phone", "email": "email"}


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001  the domain's word
    """Something odd that does not stop a release."""

    pointer: str
    code: str
    message: str


def warnings(incident: Incident, known: Substances | None = None) -> list[Warning]:
    """Return what looks wrong; nothing of it is changed or blocked.

    Args:
        incident: as it was entered or received.
        known: the list of substances to judge by; the one that comes with Picket if not given.
    """
    found = [*_of_face(incident.face, known or substances())]
    if incident.annex is not None:
        found += _of_annex(incident.annex, incident.face)
    return found


def _number(kind: str, text: str | None, pointer: str) -> Iterator[Warning]:
    if text is None or (code := checks.fault(kind, text)) is None:
        return
    wrong = "fails its check digit" if code == checks.CHECK_DIGIT else "has an unusual form"
    yield Warning(pointer, code, f"the {checks.NAMES[kind]} {wrong}; kept as written")


# --- the face --------------------------------------------------------------------------------
def _of_face(face: Face, known: Substances) -> Iterator[Warning]:
    for number, substance in enumerate(face.substances):
        yield from _of_substance(substance, f"/face/substances/{number}", known)
    if face.contact is None:
        yield Warning("/face/contact", "no-contact", "without a contact (A8) nobody can follow up")
    else:
        yield from _number("phone", face.contact.phone, "/face/contact/phone")
        yield from _number("email", face.contact.mailbox, "/face/contact/mailbox")
    if face.incident_type in _SUSPICIONS and not face.indicators:
        yield Warning("/face/indicators", "no-indicator", "says of nothing why it was suspicious")
    place = face.location
    yield from _in_country("locode", place.locode, place.country, "/face/location/locode")
    yield from _in_country(
        "subdivision", place.subdivision, place.country, "/face/location/subdivision"
    )
    for number, leg in enumerate(face.route):
        pointer = f"/face/route/{number}"
        yield from _number("locode", leg.locode, f"{pointer}/locode")
        yield from _in_country("locode", leg.origin_locode, leg.origin, f"{pointer}/origin_locode")
        yield from _in_country(
            "locode", leg.destination_locode, leg.destination, f"{pointer}/destination_locode"
        )
        if leg.departed and leg.arrived and leg.arrived < leg.departed[: len(leg.arrived)]:
            yield Warning(f"{pointer}/arrived", "mismatch", "it arrived before it departed")


def _in_country(
    kind: str, text: str | None, country: str | None, pointer: str
) -> Iterator[Warning]:
    yield from _number(kind, text, pointer)
    if text and country and not text.startswith(country):
        yield Warning(pointer, "mismatch", f"it is not in {country}, the country given")


def _of_substance(substance: Substance, pointer: str, known: Substances) -> Iterator[Warning]:
    if substance.other is not None:
        other = substance.other
        yield from _number("cas", other.cas, f"{pointer}/other/cas")
        yield from _number("inchikey", other.inchikey, f"{pointer}/other/inchikey")
        yield from _number("formula", other.formula, f"{pointer}/other/formula")
        names = (other.cas, other.name)
        matches = next((match for name in names if name and (match := known.exactly(name))), [])
        if len(matches) == 1:
            listed = matches[0].substance
            yield Warning(f"{pointer}/other", "listed", f"the list has it as {listed.id}")
    elif substance.substance_id and substance.substance_id not in known.by_id:
        near = ", ".join(row.id for row in known.nearest(substance.substance_id))
        hint = f"nearest: {near}" if near else "search with: picket lists find TEXT"
        yield Warning(f"{pointer}/substance_id", "unknown-substance",
                      f"this version of the list has no such substance; {hint}")  # fmt: skip
    yield from _number("hs", substance.hs_declared, f"{pointer}/hs_declared")
    yield from _number("hs", substance.hs_true, f"{pointer}/hs_true")
    yield from _number("un", substance.un_number, f"{pointer}/un_number")
    yield from _against_list(substance, pointer, known)
    if substance.form in _SOLID and substance.qty.unit in _LIQUID_UNITS:
        yield Warning(f"{pointer}/qty/unit", "unit", "a solid measured in litres")


def _against_list(substance: Substance, pointer: str, known: Substances) -> Iterator[Warning]:
    row = known.by_id.get(substance.substance_id or "")
    if row is None:
        return
    true = (substance.hs_true or "").replace(".", "").replace(" ", "")
    known_hs = row.hs if "hs" in row.checked else None
    if known_hs and len(true) >= _HS_LENGTH and true[:_HS_LENGTH] != known_hs:
        yield Warning(f"{pointer}/hs_true", "mismatch", f"the list has {row.hs} for it")
    number = (substance.un_number or "").replace(" ", "").removeprefix("UN")
    if len(number) == _UN_LENGTH and row.un_number and number != row.un_number:
        yield Warning(f"{pointer}/un_number", "mismatch", f"the list has UN {row.un_number} for it")


# --- the annex -------------------------------------------------------------------------------
def _of_annex(annex: Annex, face: Face) -> Iterator[Warning]:
    for at, container in enumerate(annex.containers):
        yield from _number("container", container.no, f"/annex/containers/{at}/no")
    legs = {leg.seq for leg in face.route}
    for at, conveyance in enumerate(annex.conveyances):
        pointer = f"/annex/conveyances/{at}"
        yield from _number("imo", conveyance.imo, f"{pointer}/imo")
        if conveyance.leg not in legs:
            yield Warning(f"{pointer}/leg", "no-such-item", "the route has no leg of this number")
    for at, document in enumerate(annex.documents):
        if kind := _DOCUMENTS.get(document.type):
            yield from _number(kind, document.number, f"/annex/documents/{at}/number")
    for at, party in enumerate(annex.parties):
        yield from _of_party(party, f"/annex/parties/{at}")
    for at, origin in enumerate(annex.origins):
        pointer = f"/annex/origins/{at}"
        if origin.substance > len(face.substances):
            yield Warning(f"{pointer}/substance", "no-such-item", "there is no such substance")
        if origin.mfg_date and origin.expiry and origin.expiry < origin.mfg_date:
            yield Warning(f"{pointer}/expiry", "mismatch", "it expired before it was made")
    for at, mark in enumerate(annex.equipment_marks):
        if mark.equipment > len(face.equipment):
            yield Warning(f"/annex/equipment_marks/{at}/equipment", "no-such-item",
                          "there is no such equipment")  # fmt: skip


def _of_party(party: Party, pointer: str) -> Iterator[Warning]:
    for at, identifier in enumerate(party.ids):
        if kind := _SCHEMES.get(identifier.scheme):
            yield from _number(kind, identifier.value, f"{pointer}/ids/{at}/value")
    for at, selector in enumerate(party.contacts):
        kind = _SELECTORS.get(selector.kind)
        # Many countries have account numbers of their own: only what begins as an IBAN is one.
        if selector.kind == "bank_account" and selector.value[:2].isalpha():
            kind = "iban"
        if kind:
            yield from _number(kind, selector.value, f"{pointer}/contacts/{at}/value")
