"""Records of no single incident: operations, notified shipments, and reference lists.

- An operation is its convenor's: only it says who takes part and when it ends.
- A pre-export notification (article 12(10)(a) of the 1988 Convention) is answered by those whom it
  asks; the events of the shipment may be told by whoever got the notification.
- A list is taken over by nobody automatically: that its update is signed says who made it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from protocol import limits
from protocol import vocabulary as v
from protocol.incident import (
    Container,
    Country,
    Date,
    Decimal,
    Handling,
    Hex32,
    Leg,
    Location,
    Many,
    Party,
    Short,
    Substance,
    Time,
    Uuid,
)
from protocol.record_fields import Asked, Item, LongText, Note, OperationRef, PenRef, to_ms, word


# --- operations ------------------------------------------------------------------------------
class Scope(Item):
    """What an operation is about; an empty list sets no bound."""

    substances: tuple[Short, ...] = Many
    modes: tuple[Annotated[str, word(v.MODE)], ...] = Many
    countries: tuple[Country, ...] = Many
    starts: Time
    ends: Time

    @model_validator(mode="after")
    def _lasts(self) -> Scope:
        if to_ms(self.ends) <= to_ms(self.starts):
            raise ValueError("ends before it starts")
        return self


class OperationOpen(Item):
    """An operation of limited time begins; incidents name it by its id."""

    KIND: ClassVar[str] = "operation.open"
    operation_id: Uuid
    name: Short
    scope: Scope
    participants: Annotated[
        tuple[Hex32, ...], Field(min_length=1, max_length=limits.MAX_PARTICIPANTS)
    ]
    reporting_rule: LongText
    exercise: bool = False
    handling: Handling
    at: Time


class OperationNotice(Item):
    """News of an operation, from its convenor to those who take part."""

    KIND: ClassVar[str] = "operation.notice"
    notice_id: Uuid
    operation: OperationRef
    title: Short
    text: LongText
    handling: Handling
    at: Time


class Total(Item):
    """How much of one substance, in one unit; never converted."""

    substance: Short
    unit: Annotated[str, word(v.UNIT)]
    value: Decimal


class Count(Item):
    """What one participant brought to an operation, as its convenor counted."""

    participant: Hex32
    incidents: Annotated[int, Field(ge=0, le=10_000_000)]
    totals: tuple[Total, ...] = Many


class OperationClose(Item):
    """An operation is over; the counts are the convenor's, and each node has its own."""

    KIND: ClassVar[str] = "operation.close"
    operation: OperationRef
    counts: Annotated[tuple[Count, ...], Field(max_length=limits.MAX_PARTICIPANTS)] = ()
    note: LongText | None = None
    handling: Handling
    at: Time


# --- notified shipments ----------------------------------------------------------------------
class PenNotification(Item):
    """A shipment that is to be exported, told to the authorities on its way beforehand."""

    KIND: ClassVar[str] = "pen.notification"
    pen_id: Uuid
    number: Short | None = None
    to: Asked
    substances: Annotated[tuple[Substance, ...], Field(min_length=1, max_length=50)]
    exporter: Party
    importer: Party
    end_user: Party | None = None
    exporting_country: Country
    importing_country: Country
    route: tuple[Leg, ...] = Many
    departs: Date | None = None
    arrives: Date | None = None
    authorisation_no: Short | None = None
    exercise: bool = False
    handling: Handling
    at: Time
    reply_by: Time

    @model_validator(mode="after")
    def _leaves_time(self) -> PenNotification:
        if not 0 < to_ms(self.reply_by) - to_ms(self.at) <= limits.MAX_DUE_MS:
            raise ValueError("is to be answered before it was given, or more than 366 days later")
        return self


class PenReply(Item):
    """What an authority that was asked says to a notified shipment."""

    KIND: ClassVar[str] = "pen.reply"
    pen: PenRef
    answer: Annotated[str, word(v.PEN_ANSWER)]
    reason: Note | None = None
    until: Time | None = None
    handling: Handling
    at: Time

    @model_validator(mode="after")
    def _says_why(self) -> PenReply:
        if self.answer == "objection" and self.reason is None:
            raise ValueError("an objection needs a reason")
        if (self.until is not None) != (self.answer == "more_time"):
            raise ValueError("who asks for more time, and nobody else, says until when")
        return self


class ConsignmentEvent(Item):
    """Something that happened to a notified shipment on its way."""

    KIND: ClassVar[str] = "consignment.event"
    event_id: Uuid
    pen: PenRef
    event: Annotated[str, word(v.CONSIGNMENT_EVENT)]
    happened: Time
    location: Location | None = None
    place: Short | None = None
    containers: tuple[Container, ...] = Many
    note: Note | None = None
    handling: Handling
    at: Time


# --- reference lists -------------------------------------------------------------------------
Fields = Annotated[dict[Short, Short], Field(min_length=1, max_length=limits.MAX_LIST_FIELDS)]


class ListRow(Item):
    """One row of a reference list, and from when to when it holds; ``until`` is the last day."""

    key: Short
    since: Date | None = None
    until: Date | None = None
    fields: Fields


class ListUpdate(Item):
    """One part of one whole version of a reference list."""

    KIND: ClassVar[str] = "list.update"
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    version: Annotated[int, Field(ge=1, le=limits.MAX_SEQ)]
    part: Annotated[int, Field(ge=1, le=limits.MAX_LIST_PARTS)] = 1
    parts: Annotated[int, Field(ge=1, le=limits.MAX_LIST_PARTS)] = 1
    effective: Date
    source: Note
    rows: Annotated[tuple[ListRow, ...], Field(max_length=limits.MAX_LIST_ROWS)] = ()
    at: Time

    @model_validator(mode="after")
    def _is_a_part(self) -> ListUpdate:
        if self.part > self.parts:
            raise ValueError("is a part beyond the last")
        return self
