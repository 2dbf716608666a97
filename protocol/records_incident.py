"""Records of the life of an incident: amended, retracted, acknowledged, linked; and alerts.

- An amendment is a whole new revision, never a patch: whoever has it needs nothing else to read it.
- ``prev`` names the layers of the revision before by their digests, each layer for itself: who got
  the face alone can check the face, and cannot confirm a guess about the annex.
- A retraction is a tombstone: ids, a reason of the list, a time. It has no place for words.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, Field, model_validator

from protocol import limits, suite
from protocol import vocabulary as v
from protocol.canonical import encode
from protocol.incident import (
    LAYERS,
    Annex,
    Country,
    Face,
    Handling,
    Hex32,
    Many,
    ModusOperandi,
    Short,
    Time,
    Uuid,
)
from protocol.record_fields import IncidentRef, Item, LongText, Note, to_ms, word

ERASING: Final = frozenset({"legal_order", "personal_data_erasure"})
"""Reasons of a retraction for which every holder deletes the content."""
_REF: Final = r"^PI-[A-Z]{2}-[0-9]{4}-[0-9A-HJKMNP-TV-Z]{6}$"


class Prev(Item):
    """The digests of the layers of the revision before, as far as this audience has them."""

    face: Hex32 | None = None
    annex: Hex32 | None = None


class Amend(Item):
    """A whole new revision of an incident, by its originator.

    ``layers`` says what the revision consists of, for whoever gets a part of it. All who get any
    layer read ``change_note``, so it must name no person.
    """

    KIND: ClassVar[str] = "incident.amend"
    incident_id: Uuid
    ref: Annotated[str, Field(pattern=_REF)]
    revision: Annotated[int, Field(ge=2, le=limits.MAX_SEQ)]
    prev: Prev
    layers: Annotated[
        tuple[Annotated[str, word(LAYERS)], ...], Field(min_length=1, max_length=len(LAYERS))
    ]
    change_note: Note | None = None
    shared_at: Time
    face: Face | None = None
    annex: Annex | None = None

    @model_validator(mode="after")
    def _has_a_layer(self) -> Amend:
        if self.layers not in {("face",), LAYERS}:
            raise ValueError("layers are face, or face and annex")
        if self.face is None and self.annex is None:
            raise ValueError("needs a face or an annex")
        if self.annex is not None and "annex" not in self.layers:
            raise ValueError("has an annex that its layers do not name")
        return self


class Retract(Item):
    """An incident is withdrawn by its originator; ``duplicate_of`` stands for a duplicate alone."""

    KIND: ClassVar[str] = "incident.retract"
    incident_id: Uuid
    ref: Annotated[str, Field(pattern=_REF)]
    revision: Annotated[int, Field(ge=1, le=limits.MAX_SEQ)]
    reason: Annotated[str, word(v.RETRACT_REASON)]
    duplicate_of: IncidentRef | None = None
    at: Time

    @model_validator(mode="after")
    def _names_another(self) -> Retract:
        if self.duplicate_of is not None and self.reason != "duplicate":
            raise ValueError("names another incident, which only a duplicate does")
        return self

    @property
    def erases(self) -> bool:
        """Whether every holder must delete the content."""
        return self.reason in ERASING


class Ack(Item):
    """How far a recipient has got with an incident; ``unit`` is a desk, not a person."""

    KIND: ClassVar[str] = "ack"
    incident: IncidentRef
    revision: Annotated[int, Field(ge=1, le=limits.MAX_SEQ)]
    level: Annotated[str, word(v.ACK_LEVEL)]
    unit: Short | None = None
    at: Time


class LinkAssert(Item):
    """A holder says that two incidents belong together, and on what that rests."""

    KIND: ClassVar[str] = "link.assert"
    link_id: Uuid
    incident: IncidentRef
    kind: Annotated[str, word(v.LINK_KIND)]
    target: IncidentRef
    basis: Note
    handling: Handling
    at: Time

    @model_validator(mode="after")
    def _two(self) -> LinkAssert:
        if self.incident == self.target:
            raise ValueError("links an incident with itself")
        return self


class Alert(Item):
    """A warning about a method or a substance, of no single incident."""

    KIND: ClassVar[str] = "alert.special"
    alert_id: Uuid
    title: Short
    text: LongText
    substances: tuple[Short, ...] = Many
    mo: ModusOperandi | None = None
    countries: tuple[Country, ...] = Many
    exercise: bool = False
    handling: Handling
    at: Time
    expires: Time

    @model_validator(mode="after")
    def _ends(self) -> Alert:
        if not 0 < to_ms(self.expires) - to_ms(self.at) <= limits.MAX_ALERT_MS:
            days = limits.MAX_ALERT_MS // 86_400_000
            raise ValueError(f"expires outside the {days} days after it was given")
        return self


# --- digests of layers -----------------------------------------------------------------------
def layer_digest(
    layer: str, value: BaseModel, *, incident_id: str, revision: int, prev: str | None
) -> str:
    """Return the digest by which the next revision names this layer, in hex.

    Blobs and keys of attachments, which differ from audience to audience, are left out.

    Args:
        layer: face or annex.
        value: the layer.
        incident_id: of the incident.
        revision: the number of this revision.
        prev: what this revision says of the layer before, so that the digests form a chain.
    """
    plain: dict[str, Any] = value.model_dump(mode="json", exclude_defaults=True)
    for attachment in plain.get("attachments", ()):
        attachment.pop("blob", None)
        attachment.pop("key", None)
    before = None if prev is None else bytes.fromhex(prev)
    return suite.digest(
        "incident-layer", encode([layer, incident_id, revision, before, plain])
    ).hex()
