"""The incident record: a face without personal data, and an annex for those who need it.

- Both layers are frozen models that refuse unknown fields; text is NFC and bounded, quantities are
  decimal strings with a unit, times are RFC 3339 UTC. No floats anywhere.
- Nothing is corrected: a wrong check digit is a warning and the number stays as it was written.
- Who receives a record is not in it: released separately, nobody may learn of the others.
- No field asks how anything is made.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from protocol import limits
from protocol import vocabulary as v
from protocol.blob import BlobRef
from protocol.classification import personal_data
from protocol.completeness import anchors
from protocol.errors import InvalidIncidentError, RecordError
from protocol.incident_fields import (
    TIME,
    Country,
    Date,
    Decimal,
    Hex32,
    Language,
    Many,
    Model,
    Short,
    Text,
    Time,
    Uuid,
    clean,
    real_time,
    word,
)
from protocol.incident_parts import (
    Attachment,
    Contact,
    Container,
    Conveyance,
    Document,
    Equipment,
    EquipmentMark,
    FoundDrug,
    Handling,
    IdDocument,
    Identifier,
    IncbCopy,
    Laboratory,
    Leg,
    Link,
    Location,
    ModusOperandi,
    Money,
    Occurred,
    Online,
    Origin,
    OtherSubstance,
    Packages,
    Party,
    Place,
    Quantity,
    Selector,
    Substance,
)

RECORD: Final = "incident.report"
LAYERS: Final = ("face", "annex")
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_REF_LENGTH: Final = 6
_WITHOUT_SUBSTANCE: Final = frozenset({"equipment_only", "mo_warning"})

__all__ = [
    "LAYERS",
    "RECORD",
    "Annex",
    "Attachment",
    "Contact",
    "Container",
    "Conveyance",
    "Country",
    "Date",
    "Decimal",
    "Document",
    "Enclosed",
    "Equipment",
    "EquipmentMark",
    "Face",
    "FoundDrug",
    "Handling",
    "Hex32",
    "IdDocument",
    "Identifier",
    "IncbCopy",
    "Incident",
    "Laboratory",
    "Language",
    "Leg",
    "Link",
    "Location",
    "Many",
    "Model",
    "ModusOperandi",
    "Money",
    "Occurred",
    "Online",
    "Origin",
    "OtherSubstance",
    "Packages",
    "Party",
    "Place",
    "Quantity",
    "Record",
    "Selector",
    "Short",
    "Substance",
    "Time",
    "Uuid",
    "enclose",
    "from_record",
    "make_ref",
    "parse_handling",
    "parse_incident",
    "split_attachments",
    "summary_line",
    "to_record",
]


class Face(Model):
    """What may be shared widely: no person, no number that names one."""

    incident_type: Annotated[str, word(v.INCIDENT_TYPE)]
    origin_country: Country
    agency_type: Annotated[str, word(v.AGENCY_TYPE)] | None = None
    agency: Short | None = None
    national_ref: Short | None = None
    detected_at: Time
    occurred: Occurred | None = None
    status: Annotated[str, word(v.STATUS)] = "open"
    discovery: Annotated[str, word(v.DISCOVERY)] | None = None
    exercise: bool = False
    lang: Language = "en"
    summary: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(clean)]
    handling: Handling
    location: Location
    contact: Contact | None = None
    substances: tuple[Substance, ...] = Many
    drugs: tuple[Short, ...] = Many
    drugs_found: tuple[FoundDrug, ...] = Many
    equipment: tuple[Equipment, ...] = Many
    route: tuple[Leg, ...] = Many
    mo: ModusOperandi | None = None
    lab: Laboratory | None = None
    indicators: tuple[Annotated[str, word(v.INDICATOR)], ...] = Many
    operation_id: Uuid | None = None
    links: tuple[Link, ...] = Many
    anchors: tuple[Annotated[str, word(tuple(f"A{n}" for n in range(1, 9)))], ...] = Many
    personal_data: bool = False

    @model_validator(mode="after")
    def _names_a_substance(self) -> Face:
        if not self.substances and self.incident_type not in _WITHOUT_SUBSTANCE:
            raise ValueError(f"needs at least one substance where the type is {self.incident_type}")
        return self


@dataclass(frozen=True, slots=True)
class Enclosed:
    """An attachment whose content can be had: the blob, and what the record says about it."""

    ref: BlobRef
    about: Mapping[str, str]


class Annex(Model):
    """What opens a file at the counterpart: names, numbers, documents."""

    narrative: Annotated[str, Field(max_length=8_000), AfterValidator(clean)] | None = None
    parties: tuple[Party, ...] = Many
    documents: tuple[Document, ...] = Many
    containers: tuple[Container, ...] = Many
    conveyances: tuple[Conveyance, ...] = Many
    origins: tuple[Origin, ...] = Many
    equipment_marks: tuple[EquipmentMark, ...] = Many
    place: Place | None = None
    mo_text: Text | None = None
    online: tuple[Online, ...] = Many
    attachments: tuple[Attachment, ...] = Many


class Incident(Model):
    """A face and, where there is more to tell, an annex."""

    face: Face
    annex: Annex | None = None


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


def parse_handling(data: object) -> Handling:
    """Return the handling that *data*, decoded JSON, describes.

    Raises:
        InvalidIncidentError: it breaks the model; lists every problem.
    """
    try:
        return Handling.model_validate(_tuples(data))
    except ValidationError as error:
        found = [_problem(item) for item in error.errors(include_url=False)]
        problems = [(f"/handling{pointer}", code, message) for pointer, code, message in found]
        raise InvalidIncidentError(
            f"{problems[0][0]}: {problems[0][2]}", fix="correct the field", problems=problems
        ) from None


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

    The face says which anchors the whole incident has, so that whoever lacks the annex can ask,
    and whether it has personal data.
    """
    said = {"anchors": anchors(incident), "personal_data": personal_data(incident)}
    face = incident.face.model_copy(update=said)
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
    if not TIME.fullmatch(text):
        return False
    try:
        real_time(text)
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


# --- lists -----------------------------------------------------------------------------------
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
