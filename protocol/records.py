"""All kinds of records about incidents: what the body of an envelope may hold.

- A body is a map whose ``record`` names its kind; each kind is one frozen model that refuses
  unknown fields. A kind that is not known is a RecordError: it is set aside, and a later version
  may open it.
- Who wrote a record and who got it is not in it: the envelope says so. What of a record counts is
  decided by ``protocol.state``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from pydantic import ValidationError

from protocol.errors import InvalidIncidentError, RecordError
from protocol.incident import RECORD, Record, _problem, _tuples, from_record
from protocol.record_fields import IncidentRef, Item, OperationRef, PenRef
from protocol.records_followup import FollowupRequest, FollowupResponse, ThreadMessage
from protocol.records_incident import Ack, Alert, Amend, LinkAssert, Retract
from protocol.records_operations import (
    ConsignmentEvent,
    ListUpdate,
    OperationClose,
    OperationNotice,
    OperationOpen,
    PenNotification,
    PenReply,
)

AnyItem: TypeAlias = (
    Amend | Retract | Ack | LinkAssert | Alert | FollowupRequest | FollowupResponse
    | ThreadMessage | OperationOpen | OperationNotice | OperationClose | PenNotification
    | PenReply | ConsignmentEvent | ListUpdate
)  # fmt: skip
AnyRecord: TypeAlias = Record | AnyItem
_MODELS: Final[dict[str, type[AnyItem]]] = {
    model.KIND: model
    for model in (
        Amend, Retract, Ack, LinkAssert, Alert, FollowupRequest, FollowupResponse, ThreadMessage,
        OperationOpen, OperationNotice, OperationClose, PenNotification, PenReply,
        ConsignmentEvent, ListUpdate,
    )
}  # fmt: skip
KINDS: Final = (RECORD, *_MODELS)
INCIDENT_KINDS: Final = frozenset(
    model.KIND
    for model in (Amend, Retract, Ack, LinkAssert, FollowupRequest, FollowupResponse, ThreadMessage)
)
"""Kinds that are about one incident."""


def parse_record(data: object) -> AnyRecord:
    """Return the record that an opened body holds.

    Raises:
        RecordError: it breaks the schema, or is of a kind that is not known.
    """
    if not isinstance(data, dict) or type(data.get("record")) is not str:
        raise RecordError("the record has no kind")
    kind = data["record"]
    if kind == RECORD:
        return from_record(data)
    model = _MODELS.get(kind)
    if model is None:
        raise RecordError("the record is of a kind that is not known")
    fields = {name: value for name, value in data.items() if name != "record"}
    try:
        return model.model_validate(_tuples(fields))
    except ValidationError as error:
        raise RecordError(f"the record breaks the model in {error.error_count()} places") from None


def make_record(kind: str, data: Mapping[str, object]) -> AnyItem:
    """Return the record of this *kind* that a person or program describes by *data*.

    Raises:
        InvalidIncidentError: it breaks the model; lists every problem with its JSON pointer.
    """
    model = _MODELS.get(kind)
    if model is None:
        text = "is no kind of record that is made this way"
        raise InvalidIncidentError(text, problems=[("/record", "bad-value", text)])
    try:
        return model.model_validate(_tuples(dict(data)))
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors(include_url=False)]
        pointer, _, message = problems[0]
        more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InvalidIncidentError(
            f"{pointer or kind}: {message}{more}",
            fix="correct the field and send it again; nothing was stored",
            problems=problems,
        ) from None


def to_body(record: AnyItem) -> dict[str, Any]:
    """Return the canonical value of *record*, ready to encode."""
    return {"record": record.KIND, **record.model_dump(mode="json", exclude_defaults=True)}


def subject_of(record: AnyItem, author: str) -> tuple[str, str]:
    """Return what a record of *author* is about: an id or name, and whose that is.

    By this pair records that belong together are found.
    """
    match record:
        case Amend() | Retract():
            return record.incident_id, author
        case Ack() | LinkAssert() | FollowupRequest() | FollowupResponse() | ThreadMessage():
            return record.incident.incident_id, record.incident.author
        case OperationNotice() | OperationClose():
            return record.operation.operation_id, record.operation.convenor
        case PenReply() | ConsignmentEvent():
            return record.pen.pen_id, record.pen.author
        case Alert():
            return record.alert_id, author
        case OperationOpen():
            return record.operation_id, author
        case PenNotification():
            return record.pen_id, author
        case ListUpdate():
            return record.name, author


__all__ = [
    "INCIDENT_KINDS", "KINDS", "Ack", "Alert", "Amend", "AnyItem", "AnyRecord", "ConsignmentEvent",
    "FollowupRequest", "FollowupResponse", "IncidentRef", "Item", "LinkAssert", "ListUpdate",
    "OperationClose", "OperationNotice", "OperationOpen", "OperationRef", "PenNotification",
    "PenRef", "PenReply", "Record", "Retract", "ThreadMessage", "make_record", "parse_record",
    "subject_of", "to_body",
]  # fmt: skip
