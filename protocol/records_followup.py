"""Follow-up of an incident: a request to holders of it, their responses, and the talk about it.

- Whatever is written about an incident is handled at least as strictly as the incident itself.
- What a response finds stands in the fields of an incident, not in prose: it links and is searched.
- When an answer is due is fixed by who asks, at the time of asking; nobody's clock decides later.
"""

from __future__ import annotations

import datetime
from typing import Annotated, ClassVar, Final

from pydantic import Field, model_validator

from protocol import limits
from protocol import vocabulary as v
from protocol.incident import (
    Annex,
    Handling,
    Language,
    Leg,
    Many,
    Short,
    Substance,
    Time,
    Uuid,
)
from protocol.record_fields import Asked, IncidentRef, Item, LongText, RequestRef, to_ms, word

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
ROUTINE_DAYS: Final = 10
"""Working days until a routine request is due."""
WITHIN_MS: Final = {"urgent": 72 * HOUR_MS, "immediate": 4 * HOUR_MS}
CLOSING: Final = frozenset({"final", "negative", "refused", "redirected"})
"""Outcomes after which nothing more is owed."""
_SATURDAY: Final = 5


class FollowupRequest(Item):
    """A question of one holder of an incident to others."""

    KIND: ClassVar[str] = "followup.request"
    request_id: Uuid
    incident: IncidentRef
    kinds: Annotated[
        tuple[Annotated[str, word(v.REQUEST_KIND)], ...],
        Field(min_length=1, max_length=len(v.REQUEST_KIND)),
    ]
    to: Asked
    question: LongText
    priority: Annotated[str, word(v.PRIORITY)] = "routine"
    lang: Language = "en"
    handling: Handling
    at: Time
    due: Time

    @model_validator(mode="after")
    def _is_due(self) -> FollowupRequest:
        if not 0 < to_ms(self.due) - to_ms(self.at) <= limits.MAX_DUE_MS:
            raise ValueError("is due before it was asked, or more than 366 days later")
        return self


class FollowupResponse(Item):
    """What one of those asked answers; new anchors stand in the fields of an incident."""

    KIND: ClassVar[str] = "followup.response"
    response_id: Uuid
    incident: IncidentRef
    request: RequestRef
    outcome: Annotated[str, word(v.OUTCOME)]
    reason: Annotated[str, word(v.REFUSAL)] | None = None
    agency: Short | None = None
    text: LongText | None = None
    lang: Language = "en"
    substances: tuple[Substance, ...] = Many
    route: tuple[Leg, ...] = Many
    annex: Annex | None = None
    handling: Handling
    at: Time

    @model_validator(mode="after")
    def _says_why(self) -> FollowupResponse:
        if (self.reason is not None) != (self.outcome == "refused"):
            raise ValueError("a refusal, and nothing else, has a reason")
        if (self.agency is not None) != (self.outcome == "redirected"):
            raise ValueError("a redirection, and nothing else, names the agency")
        return self

    @property
    def closes(self) -> bool:
        """Whether nothing more is owed after it."""
        return self.outcome in CLOSING


class ThreadMessage(Item):
    """A message between the parties to a request."""

    KIND: ClassVar[str] = "thread.message"
    message_id: Uuid
    incident: IncidentRef
    request: RequestRef
    text: LongText
    lang: Language = "en"
    handling: Handling
    at: Time


# --- due times -------------------------------------------------------------------------------
def default_due(priority: str, at: int) -> int:
    """Return when a request of this *priority*, asked at *at*, is due (UTC in ms).

    Saturday and Sunday do not count as working days. Other weekends and holidays are not known
    here: whoever asks can set another time.
    """
    if priority in WITHIN_MS:
        return at + WITHIN_MS[priority]
    days, left = 0, ROUTINE_DAYS
    first = datetime.datetime.fromtimestamp(at // 1000, datetime.UTC).weekday()
    while left:
        days += 1
        left -= (first + days) % 7 < _SATURDAY
    return at + days * DAY_MS


# --- handling --------------------------------------------------------------------------------
_RESTRICTING: Final = ("H1", "H2", "H3")
_EVIDENCE: Final = v.EVIDENCE_USE
"""From the strictest to the freest, as are TLP, PAP and ONWARD."""


def is_at_least(handling: Handling, base: Handling) -> bool:
    """Tell whether *handling* is nowhere freer than *base*."""
    return strictest(base, handling) == strictest(handling, handling)


def strictest(base: Handling, other: Handling) -> Handling:
    """Return *other* with whatever is stricter in *base* put in its place.

    How a source was judged stays that of *other*: it is no restriction.
    """
    codes = {*base.hc, *other.hc}
    strict = tuple(code for code in _RESTRICTING if code in codes)
    text = other.hc_text
    if base.hc_text is not None and base.hc_text not in (other.hc_text or ""):
        text = base.hc_text if other.hc_text is None else _joined(base.hc_text, other.hc_text)
    return other.model_copy(
        update={
            "tlp": _stricter(v.TLP, base.tlp, other.tlp),
            "hc": strict or tuple(code for code in v.HANDLING_CODE if code in codes),
            "hc_text": text,
            "pap": _stricter_pap(base.pap, other.pap),
            "confidential_12_11": base.confidential_12_11 or other.confidential_12_11,
            "onward": _stricter(v.ONWARD, base.onward, other.onward),
            "evidence_use": _stricter(_EVIDENCE, base.evidence_use, other.evidence_use),
            "retain_until": _earlier(base.retain_until, other.retain_until),
        }
    )


def _joined(one: str, other: str) -> str:
    both = f"{one}; {other}"
    return both if len(both) <= limits.MAX_NAME else one


def _stricter(order: tuple[str, ...], one: str, other: str) -> str:
    return min(one, other, key=order.index)


def _stricter_pap(one: str | None, other: str | None) -> str | None:
    given = [each for each in (one, other) if each is not None]
    return min(given, key=v.PAP.index) if given else None


def _earlier(one: str | None, other: str | None) -> str | None:
    given = [each for each in (one, other) if each is not None]
    # Dates of a coarser precision end with their period, so "2027" is later than "2027-03".
    return min(given, key=lambda date: (date + "-99-99")[:10]) if given else None
