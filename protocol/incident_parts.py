"""The parts that a face and an annex consist of."""

from __future__ import annotations

import decimal
import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, model_validator

from protocol import vocabulary as v
from protocol.incident_fields import (
    Country,
    Date,
    Decimal,
    Hex32,
    Language,
    Many,
    Model,
    Short,
    Signed,
    Text,
    Time,
    clean,
    matching,
    word,
)

_MAX_LATITUDE: Final = 90
_MAX_LONGITUDE: Final = 180


class Contact(Model):
    """A8: who answers a follow-up; a role mailbox rather than a person."""

    unit: Short
    mailbox: Short | None = None
    phone: Short | None = None
    hours: Short | None = None
    languages: tuple[Language, ...] = Many


class IncbCopy(Model):
    """Whether the International Narcotics Control Board gets a copy, and its reference there."""

    status: Annotated[str, word(v.INCB_COPY)]
    pics_ref: Short | None = None


class Handling(Model):
    """How the record may be used and passed on."""

    tlp: Annotated[str, word(v.TLP)]
    hc: tuple[Annotated[str, word(v.HANDLING_CODE)], ...] = Many
    hc_text: Short | None = None
    pap: Annotated[str, word(v.PAP)] | None = None
    src_eval: Annotated[str, word(v.SOURCE_EVALUATION)] = "X"
    info_eval: Annotated[str, word(v.INFORMATION_EVALUATION)] = "4"
    eval_as_given: Short | None = None
    confidential_12_11: bool = False
    onward: Annotated[str, word(v.ONWARD)] = "ask_originator"
    evidence_use: Annotated[str, word(v.EVIDENCE_USE)] = "intelligence_only"
    retain_until: Date | None = None
    incb_copy: IncbCopy | None = None


class Occurred(Model):
    """When it happened, and how exactly that is known."""

    start: Date | None = None
    end: Date | None = None
    precision: Annotated[str, word(v.PRECISION)]


class Location(Model):
    """Where it was found, as coarse as the reporter wishes."""

    country: Country
    subdivision: (
        Annotated[
            str,
            AfterValidator(matching(re.compile(r"[A-Z]{2}-[A-Z0-9]{1,3}"), "an ISO 3166-2 code")),
        ]
        | None
    ) = None
    locode: (
        Annotated[str, AfterValidator(matching(re.compile(r"[A-Z]{2}[A-Z2-9]{3}"), "a UN/LOCODE"))]
        | None
    ) = None
    facility_type: Annotated[str, word(v.FACILITY_TYPE)] | None = None


class Quantity(Model):
    """A quantity as it was measured; never converted in the record."""

    value: Decimal
    unit: Annotated[str, word(v.UNIT)]
    qualifier: Annotated[str, word(v.QUALIFIER)] = "exact"
    basis: Annotated[str, word(v.BASIS)] = "unknown"


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
    id_status: Annotated[str, word(v.ID_STATUS)] = "declared_only"
    method: Annotated[str, word(v.ID_METHOD)] | None = None
    declared_as: Short | None = None
    hs_declared: Short | None = None
    hs_true: Short | None = None
    purity_pct: Decimal | None = None
    form: Annotated[str, word(v.FORM)]
    qty: Quantity
    qty_expected: Quantity | None = None
    un_number: Short | None = None
    role_in_case: Annotated[str, word(v.SUBSTANCE_ROLE)] | None = None
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


class FoundDrug(Model):
    """A drug that was found with it, and how much."""

    name: Short
    form: Annotated[str, word(v.FORM)] = "unknown"
    qty: Quantity | None = None


class Leg(Model):
    """One leg of the route, by country and date."""

    seq: Annotated[int, Field(ge=1, le=50)]
    mode: Annotated[str, word(v.MODE)]
    subtype: Annotated[str, word(v.MODE_SUBTYPE)] | None = None
    role: Annotated[str, word(v.LEG_ROLE)]
    origin: Country | None = None
    destination: Country | None = None
    locode: Short | None = None
    origin_locode: Short | None = None
    destination_locode: Short | None = None
    place: Short | None = None
    departed: Date | None = None
    arrived: Date | None = None


class ModusOperandi(Model):
    """How it was acquired, hidden, covered and paid."""

    acquisition: tuple[Annotated[str, word(v.ACQUISITION)], ...] = Many
    concealment: tuple[Annotated[str, word(v.CONCEALMENT)], ...] = Many
    false_cover: tuple[Annotated[str, word(v.FALSE_COVER)], ...] = Many
    payment: tuple[Annotated[str, word(v.PAYMENT)], ...] = Many
    diversion_point: Annotated[str, word(v.DIVERSION_POINT)] | None = None


class Laboratory(Model):
    """An illicit laboratory or dump, in coarse words only."""

    lab_type: Annotated[str, word(v.LAB_TYPE)]
    scale: Annotated[str, word(v.SCALE)] | None = None
    activities: tuple[Annotated[str, word(v.LAB_TYPE)], ...] = Many
    status: Annotated[str, word(v.LAB_STATUS)] | None = None
    waste: tuple[Annotated[str, word(v.WASTE)], ...] = Many
    hazards: tuple[Annotated[str, word(v.HAZARD)], ...] = Many
    casualties: Annotated[int, Field(ge=0, le=10_000)] | None = None


class Equipment(Model):
    """One kind of equipment, by type and number."""

    type: Short
    qty: Annotated[int, Field(ge=1, le=1_000_000)]
    new_used: Annotated[str, word(("new", "used", "unknown"))] = "unknown"
    made_to_order: bool = False


class Link(Model):
    """A tie to another incident, with its reason."""

    kind: Annotated[str, word(v.LINK_KIND)]
    target: Short
    basis: Short | None = None


class Identifier(Model):
    """A registration of a party."""

    scheme: Annotated[str, word(v.ID_SCHEME)]
    value: Short
    country: Country | None = None


class Selector(Model):
    """A way to reach or find a party."""

    kind: Annotated[str, word(v.CONTACT_KIND)]
    value: Annotated[str, Field(min_length=1, max_length=1_024), AfterValidator(clean)]


class IdDocument(Model):
    """A document that names a person."""

    type: Annotated[str, word(v.ID_DOCUMENT)]
    number: Short
    country: Country | None = None
    expires: Date | None = None


class Party(Model):
    """A firm or person in the case; often a victim of misuse."""

    role: Annotated[str, word(v.PARTY_ROLE)]
    kind: Annotated[str, word(v.PARTY_KIND)]
    name: Short
    aliases: tuple[Short, ...] = Many
    ids: tuple[Identifier, ...] = Many
    country: Country | None = None
    address: Short | None = None
    contacts: tuple[Selector, ...] = Many
    licence_no: Short | None = None
    nationality: Country | None = None
    dob: Date | None = None
    id_docs: tuple[IdDocument, ...] = Many
    verification: Annotated[str, word(v.VERIFICATION)] = "unchecked"
    involvement: Annotated[str, word(v.INVOLVEMENT)] = "unknown"


class Money(Model):
    """An amount in a currency (ISO 4217)."""

    amount: Decimal
    currency: Annotated[
        str, AfterValidator(matching(re.compile(r"[A-Z]{3}"), "a currency code such as EUR"))
    ]


class Document(Model):
    """A transport or trade document."""

    type: Annotated[str, word(v.DOCUMENT_TYPE)]
    number: Short
    issuer: Short | None = None
    date: Date | None = None
    genuine: Annotated[str, word(v.GENUINE)] = "unknown"
    pen_ref: Short | None = None
    permit_no: Short | None = None
    declared_value: Money | None = None
    incoterm: Annotated[str, word(v.INCOTERM)] | None = None


class Conveyance(Model):
    """A vessel, flight or vehicle of one leg."""

    leg: Annotated[int, Field(ge=1, le=50)]
    carrier: Short | None = None
    carrier_code: Short | None = None
    vessel_name: Short | None = None
    imo: Short | None = None
    voyage: Short | None = None
    flight: Short | None = None
    plate: Short | None = None
    plate_country: Country | None = None
    trailer_plate: Short | None = None
    wagon: Short | None = None


class Container(Model):
    """A freight container and its seals."""

    no: Short
    size_type: Short | None = None
    seals: tuple[Short, ...] = Many


class Packages(Model):
    """Packages of one kind."""

    count: Annotated[int, Field(ge=1, le=10_000_000)]
    rec21: Annotated[str, word(v.PACKAGE)]
    capacity: Quantity | None = None
    marks: Short | None = None


class Origin(Model):
    """A4: who made a substance, and which batch; ``substance`` counts from 1."""

    substance: Annotated[int, Field(ge=1, le=50)]
    manufacturer: Short | None = None
    country: Country | None = None
    brand: Short | None = None
    grade: Short | None = None
    batch_no: Short | None = None
    mfg_date: Date | None = None
    expiry: Date | None = None
    label_text: Text | None = None
    label_lang: Language | None = None
    label_reused: bool = False
    packages: tuple[Packages, ...] = Many


class EquipmentMark(Model):
    """What is written on equipment of the face; ``equipment`` counts from 1."""

    equipment: Annotated[int, Field(ge=1, le=50)]
    make: Short | None = None
    model: Short | None = None
    serial: Short | None = None


class Place(Model):
    """Where exactly; a private address is personal data."""

    facility_name: Short | None = None
    address: Short | None = None
    lat: Signed | None = None
    lon: Signed | None = None
    precision_m: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    @model_validator(mode="after")
    def _on_earth(self) -> Place:
        if (self.lat is None) != (self.lon is None):
            raise ValueError("has one of lat and lon without the other")
        if self.lat and abs(decimal.Decimal(self.lat)) > _MAX_LATITUDE:
            raise ValueError("lat is outside -90 to 90")
        if self.lon and abs(decimal.Decimal(self.lon)) > _MAX_LONGITUDE:
            raise ValueError("lon is outside -180 to 180")
        return self


class Online(Model):
    """An offer or account on the internet."""

    platform_type: Annotated[str, word(v.PLATFORM)]
    platform: Short | None = None
    url: Annotated[str, Field(max_length=1_024), AfterValidator(clean)] | None = None
    handle: Short | None = None
    listing_title: Short | None = None
    captured_at: Time | None = None
    price: Money | None = None
    payment: tuple[Annotated[str, word(v.PAYMENT)], ...] = Many


class Attachment(Model):
    """What is known of a file that travels apart from the record."""

    sha256: Hex32
    media_type: Short
    size: Annotated[int, Field(ge=1, le=2**30)]
    kind: Annotated[str, word(v.ATTACHMENT_KIND)]
    caption: Short | None = None
    contains_personal: bool = False
    blob: Hex32 | None = None
    key: Hex32 | None = Field(default=None, repr=False)

    @model_validator(mode="after")
    def _both_or_neither(self) -> Attachment:
        if (self.blob is None) != (self.key is None):
            raise ValueError("has one of blob and key without the other")
        return self
