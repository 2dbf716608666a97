"""Builders of records about incidents, and of what an envelope says of each."""

from __future__ import annotations

import hashlib
from typing import Any

from protocol.incident import Incident, Record, parse_incident
from protocol.record_fields import from_ms
from protocol.records import AnyItem, AnyRecord, make_record
from protocol.records_incident import layer_digest
from protocol.state import Received, canonical, kind_of

NOW = 1_790_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR
UUID = "00000000-0000-4000-8000-000000000001"
REF = "PI-XA-2026-000001"
HANDLING = {"tlp": "AMBER"}


def node(name: str) -> str:
    """Return the id of the node that is called *name* here."""
    return hashlib.sha256(name.encode()).hexdigest()


def uuid(number: int) -> str:
    """Return a UUID."""
    return f"00000000-0000-4000-8000-{number:012d}"


def at(ms: int = 0) -> str:
    """Return the time *ms* after NOW."""
    return from_ms(NOW + ms)


def content(summary: str = "drums", *, plate: str | None = None, **face: Any) -> Incident:  # noqa: ANN401
    """Return an incident, with an annex if it has a *plate*."""
    data: dict[str, Any] = {
        "face": {
            "incident_type": "seizure", "origin_country": "XA",
            "detected_at": "2026-03-04T08:20:00Z", "summary": summary, "handling": HANDLING,
            "location": {"country": "XA"},
            "substances": [
                {"substance_id": "acetic-anhydride", "form": "liquid",
                 "qty": {"value": "20160", "unit": "LTR"}}
            ],
            **face,
        }
    }  # fmt: skip
    if plate is not None:
        data["annex"] = {"conveyances": [{"leg": 1, "plate": plate}]}
    return parse_incident(data)


def report(
    incident: Incident, *, incident_id: str = UUID, layers: str = "face annex", shared: int = 0
) -> Record:
    """Return the first revision of an incident."""
    return Record(
        incident_id, REF, 1, None, at(shared), incident.face if "face" in layers else None,
        incident.annex if "annex" in layers else None,
    )  # fmt: skip


def digests(record: AnyRecord) -> dict[str, str]:
    """Return the digests of the layers of a report or amendment."""
    prev = getattr(record, "prev", None)
    return {
        name: layer_digest(
            name, value, incident_id=record.incident_id, revision=record.revision,  # type: ignore[union-attr]
            prev=getattr(prev, name, None),
        )
        for name in ("face", "annex")
        if (value := getattr(record, name, None)) is not None
    }  # fmt: skip


def amend(
    incident: Incident,
    before: AnyRecord,
    *,
    audience: str = "face annex",
    **change: Any,  # noqa: ANN401
) -> AnyItem:
    """Return the revision after *before*, for an *audience* of these layers."""
    whole = incident.model_dump(mode="json", exclude_defaults=True)
    parts: dict[str, Any] = {
        name: whole[name] for name in ("face", "annex") if name in whole and name in audience
    }
    prev = {name: value for name, value in digests(before).items() if name in parts}
    data: dict[str, Any] = {
        "incident_id": before.incident_id, "ref": REF, "revision": before.revision + 1,  # type: ignore[union-attr]
        "prev": prev, "layers": [name for name in ("face", "annex") if name in whole],
        "shared_at": at(HOUR), **parts, **change,
    }  # fmt: skip
    return make_record("incident.amend", data)


def item(kind: str, /, **fields: Any) -> AnyItem:  # noqa: ANN401
    """Return a record of *kind*, with fields that it needs and that do not matter here."""
    ref = {"incident_id": UUID, "author": node("alder")}
    request = {"request_id": uuid(50), "author": node("birch")}
    pen = {"pen_id": uuid(70), "author": node("alder")}
    operation = {"operation_id": uuid(60), "convenor": node("alder")}
    handled = {"handling": HANDLING, "at": at()}
    usual: dict[str, dict[str, Any]] = {
        "incident.retract": {
            "incident_id": UUID, "ref": REF, "revision": 1, "reason": "entered_in_error",
            "at": at(),
        },
        "ack": {"incident": ref, "revision": 1, "level": "opened", "at": at()},
        "link.assert": {
            "link_id": uuid(40), "incident": ref, "kind": "same_batch",
            "target": {"incident_id": uuid(2), "author": node("birch")}, "basis": "batch 33",
            **handled,
        },
        "alert.special": {
            "alert_id": uuid(80), "title": "New cover", "text": "Sold as a cleaner.",
            "expires": at(DAY), **handled,
        },
        "followup.request": {
            "request_id": uuid(50), "incident": ref, "kinds": ["trace_batch"],
            "to": [node("alder")], "question": "Who bought it?", "due": at(DAY), **handled,
        },
        "followup.response": {
            "response_id": uuid(51), "incident": ref, "request": request, "outcome": "final",
            **handled, "at": at(HOUR),
        },
        "thread.message": {
            "message_id": uuid(52), "incident": ref, "request": request, "text": "Thank you.",
            **handled,
        },
        "operation.open": {
            "operation_id": uuid(60), "name": "Acronym",
            "scope": {"starts": at(), "ends": at(10 * DAY)},
            "participants": [node("birch"), node("cedar")], "reporting_rule": "Within a day.",
            **handled,
        },
        "operation.notice": {
            "notice_id": uuid(61), "operation": operation, "title": "Day 1", "text": "Begin.",
            **handled,
        },
        "operation.close": {"operation": operation, **handled},
        "pen.notification": {
            "pen_id": uuid(70), "to": [node("birch")],
            "substances": [
                {"substance_id": "acetic-anhydride", "form": "liquid",
                 "qty": {"value": "100", "unit": "KGM"}}
            ],
            "exporter": {"role": "exporter", "kind": "org", "name": "Ex Ltd"},
            "importer": {"role": "importer", "kind": "org", "name": "Im Ltd"},
            "exporting_country": "XA", "importing_country": "XB", "reply_by": at(7 * DAY),
            **handled,
        },
        "pen.reply": {"pen": pen, "answer": "no_objection", **handled, "at": at(HOUR)},
        "consignment.event": {
            "event_id": uuid(71), "pen": pen, "event": "departed", "happened": at(HOUR), **handled,
        },
        "list.update": {
            "name": "substances", "version": 1, "effective": "2026-01-01", "source": "INCB",
            "rows": [{"key": "acetic-anhydride", "fields": {"cas": "108-24-7"}}], "at": at(),
        },
    }  # fmt: skip
    return make_record(kind, {**usual[kind], **fields})


def received(author: str, record: AnyRecord, *to: str, copy: int = 0) -> Received:
    """Return *record* as it comes in an envelope of *author* to these nodes."""
    body = repr(record).encode() if isinstance(record, Record) else canonical(record)
    name = hashlib.sha256(
        b"\0".join((author.encode(), kind_of(record).encode(), body, *map(str.encode, to),
                    bytes([copy])))
    )  # fmt: skip
    recipients = frozenset({node(author), *map(node, to)})
    return Received(node(author), name.hexdigest(), 0, recipients, record)
