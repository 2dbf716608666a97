"""The field types and small parts that the records about incidents share; no kind of its own.

- Node ids and digests are text of 64 lower-case hex digits, so that a record reads the same as JSON
  and as canonical bytes.
- An incident is named by its id *and* its originator: anybody can write an id that another one
  used before, and must not reach the other's incident by it. The same holds for requests,
  operations and notifications.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from protocol import limits
from protocol.incident_fields import Hex32, Uuid
from protocol.incident_fields import clean as _clean
from protocol.incident_fields import word as _word

word = _word
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MS: Final = datetime.timedelta(milliseconds=1)

Note: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=limits.MAX_NOTE_TEXT), AfterValidator(_clean)
]
LongText: TypeAlias = Annotated[
    str, Field(min_length=1, max_length=limits.MAX_LONG_TEXT), AfterValidator(_clean)
]
Asked: TypeAlias = Annotated[tuple[Hex32, ...], Field(min_length=1, max_length=limits.MAX_ASKED)]


class Item(BaseModel):
    """Base of the records and of their parts: frozen, exact types, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class IncidentRef(Item):
    """An incident of its originator *author*."""

    incident_id: Uuid
    author: Hex32


class RequestRef(Item):
    """A follow-up request of *author*."""

    request_id: Uuid
    author: Hex32


class OperationRef(Item):
    """An operation that *convenor* opened."""

    operation_id: Uuid
    convenor: Hex32


class PenRef(Item):
    """A pre-export notification of *author*."""

    pen_id: Uuid
    author: Hex32


def to_ms(text: str) -> int:
    """Return a valid *Time* as UTC in ms."""
    return (datetime.datetime.fromisoformat(text) - _EPOCH) // _MS


def from_ms(ms: int) -> str:
    """Return UTC in ms as a *Time*."""
    moment = _EPOCH + _MS * ms
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"
