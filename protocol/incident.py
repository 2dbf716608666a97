"""The incident record: a face without personal data, and an annex for those who need it.

- Both layers are frozen models that refuse unknown fields; text is NFC and bounded, quantities are
  decimal strings with a unit, times are RFC 3339 UTC. No floats anywhere.
- Nothing is corrected: a wrong check digit is a warning and the number stays as it was written.
- Who receives a record is not in it: released separately, nobody may learn of the others.
- No field asks how anything is made.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from protocol import limits
from protocol import vocabulary as v
from protocol.blob import BlobRef
from protocol.errors import InvalidIncidentError, RecordError

RECORD: Final = "incident.report"
LAYERS: Final = ("face", "annex")
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_REF_LENGTH: Final = 6
_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?")
_TIME: Final = re.compile(
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]{1,3})?Z"
)
_DATE: Final = re.compile(r"[0-9]{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?")
_WITHOUT_SUBSTANCE: Final = frozenset({"equipment_only", "mo_warning"})
_PRIORITY: Final = ("A4", "A2", "A1", "A3", "A6", "A7")


# --- field types -----------------------------------------------------------------------------
def _clean(value: str) -> str:
    if not unicodedata.is_normalized("NFC", value):
        raise ValueError("is not in Unicode Normalization Form C")
    if any(c < " " and c != "\n" for c in value):
        raise ValueError("holds a control character")
    return value


def _among(words: Sequence[str] | frozenset[str]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in words:
            raise ValueError(f"is none of: {', '.join(sorted(words))}")
        return value

    return check


def _country(value: str) -> str:
    if value not in v.COUNTRIES:
        # There are too many to list.
        example = value.upper() if value.upper() in v.COUNTRIES else "NL"
        raise ValueError(
            f"is not a country code of two capital letters (ISO 3166-1), such as {example}"
        )
    return value


def _matching(pattern: re.Pattern[str], wanted: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"is not {wanted}")
        return value

    return check


def _word(words: Sequence[str] | frozenset[str]) -> AfterValidator:
    return AfterValidator(_among(words))


def _real_time(value: str) -> str:
    """Refuse days that no calendar has, which the form alone lets through."""
    date, _, _ = value.partition("T")
    year, month, day = [*date.split("-"), "1", "1"][:3]
    try:
        datetime.date(int(year), int(month), int(day))
    except ValueError:
        raise ValueError("is a day that does not exist") from None
    return value


Short = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_clean)]
Country = Annotated[str, AfterValidator(_country)]
Time = Annotated[
    str,
    AfterValidator(_matching(_TIME, "a UTC time such as 2026-03-01T08:30:00Z")),
    AfterValidator(_real_time),
]
Date = Annotated[
    str,
    AfterValidator(_matching(_DATE, "a date such as 2026-03-01, 2026-03 or 2026")),
    AfterValidator(_real_time),
]
Decimal = Annotated[
    str, AfterValidator(_matching(_DECIMAL, 'a decimal number as text, such as "20160" or "1.5"'))
]
Hex32 = Annotated[
    str, AfterValidator(_matching(re.compile(r"[0-9a-f]{64}"), "64 lower-case hex digits"))
]
Language = Annotated[
    str, AfterValidator(_matching(re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*"), "a language tag"))
]
Many = Field(default=(), max_length=50)


class Model(BaseModel):
    """Base of all parts: frozen, exact types, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Contact(Model):
    """A8: who answers a follow-up; a role mailbox rather than a person."""

    unit: Short
    mailbox: Short | None = None
    phone: Short | None = None
    hours: Short | None = None
    languages: tuple[Language, ...] = Many


class Handling(Model):
    """How the record may be used and passed on."""

    tlp: Annotated[str, _word(v.TLP)]
    hc: tuple[Annotated[str, _word(v.HANDLING_CODE)], ...] = Many
    hc_text: Short | None = None
    pap: Annotated[str, _word(v.PAP)] | None = None
    src_eval: Annotated[str, _word(v.SOURCE_EVALUATION)] = "X"
    info_eval: Annotated[str, _word(v.INFORMATION_EVALUATION)] = "4"
    confidential_12_11: bool = False
    onward: Annotated[str, _word(v.ONWARD)] = "ask_originator"
    evidence_use: Annotated[str, _word(v.EVIDENCE_USE)] = "intelligence_only"
    retain_until: Date | None = None


class Occurred(Model):
    """When it happened, and how exactly that is known."""

    start: Date | None = None
    end: Date | None = None
    precision: Annotated[str, _word(v.PRECISION)]


class Location(Model):
    """Where it was found, as coarse as the reporter wishes."""

    country: Country
    subdivision: (
        Annotated[
            str,
            AfterValidator(_matching(re.compile(r"[A-Z]{2}-[A-Z0-9]{1,3}"), "an ISO 3166-2 code")),
        ]
        | None
    ) = None
    locode: (
        Annotated[str, AfterValidator(_matching(re.compile(r"[A-Z]{2}[A-Z2-9]{3}"), "a UN/LOCODE"))]
        | None
    ) = None
    facility_type: Annotated[str, _word(v.FACILITY_TYPE)] | None = None


class Quantity(Model):
    """A quantity as it was measured; never converted in the record."""

    value: Decimal
    unit: Annotated[str, _word(v.UNIT)]
    qualifier: Annotated[str, _word(v.QUALIFIER)] = "exact"
    basis: Annotated[str, _word(v.BASIS)] = "unknown"


class OtherSubstance(Model):
    """A substance that is not in the reference list."""

    name: Short
    cas: Short | None = None
    inchikey: Short | None = None
    formula: Short | None = None


class Substance(Model):
    """One substance of the incident."""

    substance_id: Short | None = None
    other: OtherSubstance | None = None
    id_status: Annotated[str, _word(v.ID_STATUS)] = "declared_only"
    method: Annotated[str, _word(v.ID_METHOD)] | None = None
    declared_as: Short | None = None
    hs_declared: Short | None = None
    hs_true: Short | None = None
    purity_pct: Decimal | None = None
    form: Annotated[str, _word(v.FORM)]
    qty: Quantity
    qty_expected: Quantity | None = None
    un_number: Short | None = None
    intended_drug: Short | None = None

    @model_validator(mode="after")
    def _one_name(self) -> Substance:
        if (self.substance_id is None) == (self.other is None):
            raise ValueError("needs either substance_id or other, not both")
        return self

    @property
    def name(self) -> str:
        """How to call it in a line of text."""
        if self.other is not None:
            return self.other.name
        return str(self.substance_id)


class Leg(Model):
    """One leg of the route, by country and date."""

    seq: Annotated[int, Field(ge=1, le=50)]
    mode: Annotated[str, _word(v.MODE)]
    subtype: Annotated[str, _word(v.MODE_SUBTYPE)] | None = None
    role: Annotated[str, _word(v.LEG_ROLE)]
    origin: Country | None = None
    destination: Country | None = None
    locode: Short | None = None
    departed: Date | None = None
    arrived: Date | None = None


class ModusOperandi(Model):
    """How it was acquired, hidden, covered and paid."""

    acquisition: tuple[Annotated[str, _word(v.ACQUISITION)], ...] = Many
    concealment: tuple[Annotated[str, _word(v.CONCEALMENT)], ...] = Many
    false_cover: tuple[Annotated[str, _word(v.FALSE_COVER)], ...] = Many
    payment: tuple[Annotated[str, _word(v.PAYMENT)], ...] = Many
    diversion_point: Annotated[str, _word(v.DIVERSION_POINT)] | None = None


class Laboratory(Model):
    """An illicit laboratory or dump, in coarse words only."""

    lab_type: Annotated[str, _word(v.LAB_TYPE)]
    scale: Annotated[str, _word(v.SCALE)] | None = None
    casualties: Annotated[int, Field(ge=0, le=10_000)] | None = None


class Equipment(Model):
    """One kind of equipment, by type and number."""

    type: Short
    qty: Annotated[int, Field(ge=1, le=1_000_000)]
    new_used: Annotated[str, _word(("new", "used", "unknown"))] = "unknown"
    made_to_order: bool = False


class Link(Model):
    """A tie to another incident, with its reason."""

    kind: Annotated[str, _word(v.LINK_KIND)]
    target: Short
    basis: Short | None = None


class Face(Model):
    """What may be shared widely: no person, no number that names one."""

    incident_type: Annotated[str, _word(v.INCIDENT_TYPE)]
    origin_country: Country
    agency_type: Annotated[str, _word(v.AGENCY_TYPE)] | None = None
    national_ref: Short | None = None
    detected_at: Time
    occurred: Occurred | None = None
    status: Annotated[str, _word(v.STATUS)] = "open"
    discovery: Annotated[str, _word(v.DISCOVERY)] | None = None
    exercise: bool = False
    lang: Language = "en"
    summary: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_clean)]
    handling: Handling
    location: Location
    contact: Contact | None = None
    substances: tuple[Substance, ...] = Many
    drugs: tuple[Short, ...] = Many
    equipment: tuple[Equipment, ...] = Many
    route: tuple[Leg, ...] = Many
    mo: ModusOperandi | None = None
    lab: Laboratory | None = None
    indicators: tuple[Annotated[str, _word(v.INDICATOR)], ...] = Many
    links: tuple[Link, ...] = Many
    anchors: tuple[Annotated[str, _word(tuple(f"A{n}" for n in range(1, 9)))], ...] = Many

    @model_validator(mode="after")
    def _names_a_substance(self) -> Face:
        if not self.substances and self.incident_type not in _WITHOUT_SUBSTANCE:
            raise ValueError(f"needs at least one substance where the type is {self.incident_type}")
        return self


class Identifier(Model):
    """A registration of a party."""

    scheme: Annotated[str, _word(v.ID_SCHEME)]
    value: Short
    country: Country | None = None


class Selector(Model):
    """A way to reach or find a party."""

    kind: Annotated[str, _word(v.CONTACT_KIND)]
    value: Annotated[str, Field(min_length=1, max_length=1_024), AfterValidator(_clean)]


class Party(Model):
    """A firm or person in the case; often a victim of misuse."""

    role: Annotated[str, _word(v.PARTY_ROLE)]
    kind: Annotated[str, _word(v.PARTY_KIND)]
    name: Short
    aliases: tuple[Short, ...] = Many
    ids: tuple[Identifier, ...] = Many
    country: Country | None = None
    address: Short | None = None
    contacts: tuple[Selector, ...] = Many
    licence_no: Short | None = None
    verification: Annotated[str, _word(v.VERIFICATION)] = "unchecked"
    involvement: Annotated[str, _word(v.INVOLVEMENT)] = "unknown"


class Document(Model):
    """A transport or trade document."""

    type: Annotated[str, _word(v.DOCUMENT_TYPE)]
    number: Short
    issuer: Short | None = None
    date: Date | None = None
    genuine: Annotated[str, _word(v.GENUINE)] = "unknown"


class Conveyance(Model):
    """A vessel, flight or vehicle of one leg."""

    leg: Annotated[int, Field(ge=1, le=50)]
    carrier: Short | None = None
    vessel_name: Short | None = None
    imo: Short | None = None
    voyage: Short | None = None
    flight: Short | None = None
    plate: Short | None = None
    plate_country: Country | None = None


class Container(Model):
    """A freight container and its seals."""

    no: Short
    size_type: Short | None = None
    seals: tuple[Short, ...] = Many


class Packages(Model):
    """Packages of one kind."""

    count: Annotated[int, Field(ge=1, le=10_000_000)]
    rec21: Annotated[str, _word(v.PACKAGE)]
    capacity: Quantity | None = None
    marks: Short | None = None


class Origin(Model):
    """A4: who made a substance, and which batch; ``substance`` counts from 1."""

    substance: Annotated[int, Field(ge=1, le=50)]
    manufacturer: Short | None = None
    country: Country | None = None
    brand: Short | None = None
    batch_no: Short | None = None
    label_text: Annotated[str, Field(max_length=2_000), AfterValidator(_clean)] | None = None
    packages: tuple[Packages, ...] = Many


class Online(Model):
    """An offer or account on the internet."""

    platform_type: Annotated[str, _word(v.PLATFORM)]
    platform: Short | None = None
    url: Annotated[str, Field(max_length=1_024), AfterValidator(_clean)] | None = None
    handle: Short | None = None
    listing_title: Short | None = None
    captured_at: Time | None = None


class Attachment(Model):
    """What is known of a file that travels apart from the record."""

    sha256: Hex32
    media_type: Short
    size: Annotated[int, Field(ge=1, le=2**30)]
    kind: Annotated[str, _word(v.ATTACHMENT_KIND)]
    caption: Short | None = None
    blob: Hex32 | None = None
    key: Hex32 | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _both_or_neither(self) -> Attachment:
        if (self.blob is None) != (self.key is None):
            raise ValueError("has one of blob and key without the other")
        return self


@dataclass(frozen=True, slots=True)
class Enclosed:
    """An attachment whose content can be had: the blob, and what the record says about it."""

    ref: BlobRef
    about: Mapping[str, str]


class Annex(Model):
    """What opens a file at the counterpart: names, numbers, documents."""

    narrative: Annotated[str, Field(max_length=8_000), AfterValidator(_clean)] | None = None
    parties: tuple[Party, ...] = Many
    documents: tuple[Document, ...] = Many
    containers: tuple[Container, ...] = Many
    conveyances: tuple[Conveyance, ...] = Many
    origins: tuple[Origin, ...] = Many
    online: tuple[Online, ...] = Many
    attachments: tuple[Attachment, ...] = Many


class Incident(Model):
    """A face and, where there is more to tell, an annex."""

    face: Face
    annex: Annex | None = None


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001  the domain's word
    """Something odd that does not stop a release."""

    pointer: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Record:
    """An opened incident record: what one envelope held."""

    incident_id: str
    ref: str
    revision: int
    prev: bytes | None
    first_shared_at: str
    face: Face | None
    annex: Annex | None


# --- parsing ---------------------------------------------------------------------------------
def parse_incident(data: object) -> Incident:
    """Return the incident that *data*, decoded JSON, describes.

    Raises:
        InvalidIncidentError: it breaks the model; lists every problem with its JSON pointer.
    """
    try:
        parsed = Incident.model_validate(_tuples(data))
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors(include_url=False)]
        pointer, _, message = problems[0]
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InvalidIncidentError(
            f"{pointer or 'the incident'}: {message}{more}",
            fix="correct the field and send it again; nothing was stored",
            problems=problems,
        ) from None
    for number, attachment in enumerate(parsed.annex.attachments if parsed.annex else ()):
        if attachment.blob is not None:
            pointer = f"/annex/attachments/{number}/blob"
            raise InvalidIncidentError(
                f"{pointer}: is chosen by the node at release",
                fix="leave out blob and key; upload the file under its SHA-256",
                problems=[(pointer, "unknown-field", "is chosen by the node at release")],
            )
    return parsed


def enclose(incident: Incident, refs: Mapping[str, BlobRef]) -> Incident:
    """Return *incident* with a blob for each attachment whose SHA-256 (hex) is in *refs*."""
    if incident.annex is None or not refs:
        return incident
    attachments = tuple(
        each.model_copy(update={"blob": ref.id.hex(), "key": ref.key.hex()})
        if (ref := refs.get(each.sha256)) is not None and ref.size == each.size
        else each
        for each in incident.annex.attachments
    )
    annex = incident.annex.model_copy(update={"attachments": attachments})
    return incident.model_copy(update={"annex": annex})


def split_attachments(record: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Enclosed, ...]]:
    """Return a valid record without the blobs and keys of its attachments, and these apart.

    What is shown, exported or logged of a record is made of the first part alone.
    """
    annex = record.get("annex") or {}
    shown: list[dict[str, Any]] = []
    found: list[Enclosed] = []
    for item in annex.get("attachments", ()):
        about = {name: value for name, value in item.items() if name not in {"blob", "key"}}
        shown.append(about)
        if "blob" in item:
            blob, key, sha256 = (bytes.fromhex(item[name]) for name in ("blob", "key", "sha256"))
            ref = BlobRef(id=blob, key=key, size=item["size"], sha256=sha256)
            words = {
                name: about[name] for name in ("media_type", "kind", "caption") if name in about
            }
            found.append(Enclosed(ref, words))
    if not found:
        return dict(record), ()
    return {**record, "annex": {**annex, "attachments": shown}}, tuple(found)


def _tuples(value: object, depth: int = 0) -> object:
    # Strict models take tuples; JSON has only arrays. Nothing as deep as this fits the model.
    if depth > limits.MAX_DEPTH:
        return None
    if isinstance(value, list):
        return tuple(_tuples(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item, depth + 1) for key, item in value.items()}
    return value


def _problem(item: Mapping[str, Any]) -> tuple[str, str, str]:
    pointer = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in item["loc"])
    codes = {"missing": "missing", "extra_forbidden": "unknown-field", "value_error": "bad-value"}
    text = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        text = "is required"
    elif item["type"] == "extra_forbidden":
        text = "is not a field of an incident"
    elif item["type"] == "string_too_short":
        text = "is empty"
    elif item["type"] == "string_too_long":
        text = f"is longer than {item['ctx']['max_length']} characters"
    return pointer, codes.get(item["type"], "bad-value"), text


def to_record(
    incident: Incident,
    *,
    incident_id: str,
    ref: str,
    revision: int,
    prev: bytes | None,
    layers: frozenset[str],
    first_shared_at: str,
) -> dict[str, object]:
    """Return the canonical value of the *layers* of an incident, ready to encode.

    The face says which anchors the whole incident has, so that whoever lacks the annex can ask.
    """
    face = incident.face.model_copy(update={"anchors": anchors(incident)})
    parts: dict[str, BaseModel | None] = {"face": face, "annex": incident.annex}
    record: dict[str, object] = {
        "record": RECORD, "incident_id": incident_id, "ref": ref, "revision": revision,
        "prev": prev, "first_shared_at": first_shared_at,
    }  # fmt: skip
    for name in LAYERS:
        part = parts[name]
        if name in layers and part is not None:
            record[name] = part.model_dump(mode="json", exclude_defaults=True)
    return record


def from_record(data: object) -> Record:
    """Return the record that an opened body holds.

    Raises:
        RecordError: it breaks the schema.
    """
    keys = {"record", "incident_id", "ref", "revision", "prev", "first_shared_at"}
    if not isinstance(data, dict) or not keys <= set(data) <= keys | set(LAYERS):
        raise RecordError("the record has missing or unknown fields")
    incident_id, ref, revision = data["incident_id"], data["ref"], data["revision"]
    prev, shared = data["prev"], data["first_shared_at"]
    if data["record"] != RECORD or type(revision) is not int or revision < 1:
        raise RecordError("the record is of another kind, or its revision is none")
    if type(incident_id) is not str or not _is_uuid(incident_id):
        raise RecordError("incident_id is not a UUID")
    if type(ref) is not str or not _is_ref(ref):
        raise RecordError("ref is not an incident reference")
    if prev is not None and (type(prev) is not bytes or len(prev) != 32):  # noqa: PLR2004
        raise RecordError("prev is not a digest")
    if type(shared) is not str or not _is_time(shared):
        raise RecordError("first_shared_at is not a UTC time")
    face, annex = data.get("face"), data.get("annex")
    if face is None and annex is None:
        raise RecordError("the record has neither face nor annex")
    try:
        return Record(
            incident_id, ref, revision, prev, shared,
            None if face is None else Face.model_validate(_tuples(face)),
            None if annex is None else Annex.model_validate(_tuples(annex)),
        )  # fmt: skip
    except ValidationError as error:
        raise RecordError(f"the record breaks the model in {error.error_count()} places") from None


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        _real_time(text)
    except ValueError:
        return False
    return True


def _is_ref(text: str) -> bool:
    return (
        re.fullmatch(rf"PI-[A-Z]{{2}}-[0-9]{{4}}-[{_CROCKFORD}]{{{_REF_LENGTH}}}", text) is not None
    )


def make_ref(country: str, year: int, randomness: bytes) -> str:
    """Return a reference that can be read out, such as PI-NL-2026-7K3F9Q."""
    number = int.from_bytes(randomness, "big")
    letters = "".join(_CROCKFORD[(number >> (5 * place)) % 32] for place in range(_REF_LENGTH))
    return f"PI-{country}-{year:04d}-{letters}"


# --- completeness ----------------------------------------------------------------------------
def anchors(incident: Incident) -> tuple[str, ...]:
    """Return which of the eight anchors, that let a counterpart open a file, are present."""
    face, annex = incident.face, incident.annex or Annex()
    conveyed = any(c.imo or c.flight or c.plate or c.vessel_name for c in annex.conveyances)
    selectors = any(party.contacts for party in annex.parties)
    images = {"label_photo", "document_scan", "container_photo"}
    present = {
        "A1": any(p.ids or p.address or p.licence_no for p in annex.parties),
        "A2": bool(annex.documents),
        "A3": bool(annex.containers) or conveyed,
        "A4": any(o.batch_no or o.label_text for o in annex.origins)
        or any(a.kind == "label_photo" for a in annex.attachments),
        "A5": len(face.route) > 1 and any(leg.role == "origin" for leg in face.route),
        "A6": selectors or any(o.url or o.handle for o in annex.online),
        "A7": any(a.kind in images for a in annex.attachments),
        "A8": face.contact is not None,
    }
    return tuple(name for name, there in present.items() if there)


def missing_anchors(incident: Incident) -> tuple[str, ...]:
    """Return what to look for next, most useful first."""
    present = anchors(incident)
    return tuple(name for name in _PRIORITY if name not in present)


def is_actionable(incident: Incident) -> bool:
    """Whether a counterpart can act on it: a route, a contact, and one more anchor."""
    present = set(anchors(incident))
    return {"A5", "A8"} <= present and not present.isdisjoint({"A1", "A2", "A3", "A4", "A6"})


def concerned_countries(incident: Incident) -> tuple[str, ...]:
    """Return the countries that a route, a party, a manufacturer or the place points to."""
    face, annex = incident.face, incident.annex or Annex()
    found = {face.location.country}
    for leg in face.route:
        found |= {leg.origin, leg.destination} - {None}  # type: ignore[arg-type]
    found |= {party.country for party in annex.parties if party.country}
    found |= {origin.country for origin in annex.origins if origin.country}
    return tuple(sorted(found))


def summary_line(face: Mapping[str, Any]) -> str:
    """Return one line for a list, from the JSON form of a face."""
    substances: Sequence[Mapping[str, Any]] = face.get("substances") or ()
    if not substances:
        return ", ".join(f"{item['qty']} {item['type']}" for item in face.get("equipment") or ())
    first = substances[0]
    # Hyphens stay: "1-Boc-4-AP" without them is another word.
    name = (first.get("other") or {}).get("name") or str(first.get("substance_id", ""))
    quantity = first.get("qty") or {}
    unit = v.UNIT_SYMBOL.get(quantity.get("unit", ""), "")
    more = f" +{len(substances) - 1}" if len(substances) > 1 else ""
    return f"{name} {quantity.get('value', '')} {unit}{more}"


# --- warnings --------------------------------------------------------------------------------
def warnings(incident: Incident) -> list[Warning]:
    """Return what looks wrong; nothing of it is changed or blocked."""
    found = []
    for number, substance in enumerate(incident.face.substances):
        pointer = f"/face/substances/{number}"
        if substance.other and substance.other.cas and not cas_is_valid(substance.other.cas):
            found.append(Warning(f"{pointer}/other/cas", "check-digit", "the CAS number has a "
                                 "wrong check digit; kept as written"))  # fmt: skip
        if substance.form in {"solid_powder", "crystalline"} and substance.qty.unit in {
            "LTR",
            "MLT",
        }:
            found.append(Warning(f"{pointer}/qty/unit", "unit", "a solid measured in litres"))
    if incident.face.contact is None:
        found.append(
            Warning("/face/contact", "no-contact", "without a contact (A8) nobody can follow up")
        )
    annex = incident.annex or Annex()
    for number, container in enumerate(annex.containers):
        if not container_is_valid(container.no):
            found.append(Warning(f"/annex/containers/{number}/no", "check-digit", "the container "
                                 "number fails its check digit; kept as written"))  # fmt: skip
    for number, conveyance in enumerate(annex.conveyances):
        if conveyance.imo and not imo_is_valid(conveyance.imo):
            found.append(Warning(f"/annex/conveyances/{number}/imo", "check-digit", "the IMO "
                                 "number fails its check digit; kept as written"))  # fmt: skip
    return found


def cas_is_valid(text: str) -> bool:
    """Tell whether a CAS registry number has its check digit."""
    match = re.fullmatch(r"([1-9][0-9]{1,6})-([0-9]{2})-([0-9])", text)
    if match is None:
        return False
    digits = [int(c) for c in reversed(match[1] + match[2])]
    return sum(place * digit for place, digit in enumerate(digits, 1)) % 10 == int(match[3])


def container_is_valid(text: str) -> bool:
    """Tell whether an ISO 6346 container number has its check digit."""
    if not re.fullmatch(r"[A-Z]{3}[UJZ][0-9]{7}", text):
        return False
    # Letters count 10 to 38, leaving out the multiples of 11 (ISO 6346 annex A).
    values = [n for n in range(10, 39) if n % 11]
    numbers = [values[ord(c) - 65] if c.isalpha() else int(c) for c in text[:10]]
    total = sum(number << place for place, number in enumerate(numbers))
    return total % 11 % 10 == int(text[10])


def imo_is_valid(text: str) -> bool:
    """Tell whether an IMO ship number has its check digit."""
    if not re.fullmatch(r"[0-9]{7}", text):
        return False
    return sum(int(c) * (7 - place) for place, c in enumerate(text[:6])) % 10 == int(text[6])
