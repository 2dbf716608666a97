"""How much of an incident lets a counterpart act: the eight anchors, and figures over many.

- Anchors advise; they never stop a release, because a report in time beats a complete one.
- The face says which anchors the whole incident has, so figures need no annex.
- Figures are a pure function of a set of reports: their order, and repeated ones, change nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from protocol.incident import Incident, Record

ANCHORS: Final[Mapping[str, str]] = {
    "A1": "an identified party",
    "A2": "a transport or customs document number",
    "A3": "a container, vessel, flight, wagon or plate",
    "A4": "manufacturer and batch",
    "A5": "a route of more than one leg",
    "A6": "a telephone, mail, account or address on the internet",
    "A7": "a photo of label or document",
    "A8": "a contact for follow-up",
}
_PRIORITY: Final = ("A4", "A2", "A1", "A3", "A6", "A7")
_NEEDED: Final = frozenset({"A5", "A8"})
_ONE_OF: Final = frozenset({"A1", "A2", "A3", "A4", "A6"})
_IMAGES: Final = frozenset({"label_photo", "document_scan", "container_photo"})
_NINTH: Final = 9


@dataclass(frozen=True, slots=True)
class Completeness:
    """What is there, what to look for next, and whether a counterpart can act on it."""

    present: tuple[str, ...]
    missing: tuple[str, ...]
    actionable: bool

    @property
    def score(self) -> int:
        """How many of the eight anchors are there."""
        return len(self.present)


def completeness(incident: Incident) -> Completeness:
    """Return how complete *incident* is."""
    present = anchors(incident)
    return Completeness(present, missing_anchors(incident), _actionable(present))


def anchors(incident: Incident) -> tuple[str, ...]:
    """Return which of the eight anchors, that let a counterpart open a file, are present."""
    face, annex = incident.face, incident.annex
    present = {
        "A5": len(face.route) > 1 and any(leg.role == "origin" for leg in face.route),
        "A8": face.contact is not None,
    }
    if annex is not None:
        label = any(each.kind == "label_photo" for each in annex.attachments)
        present |= {
            "A1": any(p.ids or p.id_docs or p.address or p.licence_no for p in annex.parties),
            "A2": bool(annex.documents),
            "A3": bool(annex.containers)
            or any(
                c.imo or c.flight or c.plate or c.vessel_name or c.trailer_plate or c.wagon
                for c in annex.conveyances
            ),
            "A4": label or any(o.batch_no or o.label_text for o in annex.origins),
            "A6": any(party.contacts for party in annex.parties)
            or any(o.url or o.handle for o in annex.online),
            "A7": any(each.kind in _IMAGES for each in annex.attachments),
        }
    return tuple(sorted(name for name, there in present.items() if there))


def missing_anchors(incident: Incident) -> tuple[str, ...]:
    """Return what to look for next, most useful first."""
    present = anchors(incident)
    return tuple(name for name in _PRIORITY if name not in present)


def is_actionable(incident: Incident) -> bool:
    """Whether a counterpart can act on it: a route, a contact, and one more anchor."""
    return _actionable(anchors(incident))


def _actionable(present: Iterable[str]) -> bool:
    there = set(present)
    return there >= _NEEDED and not there.isdisjoint(_ONE_OF)


# --- countries -------------------------------------------------------------------------------
def countries_pointed_to(incident: Incident) -> dict[str, tuple[str, ...]]:
    """Return the countries concerned, and for each the JSON pointers of what points to it."""
    face, annex = incident.face, incident.annex
    found: dict[str, list[str]] = {}

    def point(country: str | None, pointer: str) -> None:
        if country is not None:
            found.setdefault(country, []).append(pointer)

    point(face.location.country, "/face/location/country")
    for at, leg in enumerate(face.route):
        point(leg.origin, f"/face/route/{at}/origin")
        point(leg.destination, f"/face/route/{at}/destination")
    if annex is not None:
        for at, party in enumerate(annex.parties):
            pointer = f"/annex/parties/{at}"
            point(party.country, f"{pointer}/country")
            point(party.nationality, f"{pointer}/nationality")
            for number, each in enumerate(party.ids):
                point(each.country, f"{pointer}/ids/{number}/country")
            for number, paper in enumerate(party.id_docs):
                point(paper.country, f"{pointer}/id_docs/{number}/country")
        for at, conveyance in enumerate(annex.conveyances):
            point(conveyance.plate_country, f"/annex/conveyances/{at}/plate_country")
        for at, origin in enumerate(annex.origins):
            point(origin.country, f"/annex/origins/{at}/country")
    return {country: tuple(found[country]) for country in sorted(found)}


def concerned_countries(incident: Incident) -> tuple[str, ...]:
    """Return the countries that place, route, parties, nationality or manufacturer point to."""
    return tuple(countries_pointed_to(incident))


# --- figures over many incidents -------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Report:
    """What the figures need of one revision of one incident."""

    author: bytes
    incident_id: str
    revision: int
    anchors: frozenset[str]
    detected_at: datetime.datetime
    first_shared_at: datetime.datetime


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the slow end of some times, in seconds; none where nothing was counted."""

    median: int | None
    ninth_decile: int | None


@dataclass(frozen=True, slots=True)
class Figures:
    """How complete and how quick a network reports; ``by_anchor`` counts incidents that have it.

    ``unclear`` counts incidents shared before they were detected, by their own times: these have
    no place in ``time_to_share``.
    """

    incidents: int
    median_score: Decimal | None
    median_first_score: Decimal | None
    actionable: int
    by_anchor: Mapping[str, int]
    time_to_share: Spread
    unclear: int


def report_of(author: bytes, record: Record) -> Report | None:
    """Return what the figures need of *record*; None for an exercise, or without its face."""
    face = record.face
    if face is None or face.exercise:
        return None
    return Report(
        author, record.incident_id, record.revision, frozenset(face.anchors),
        _time(face.detected_at), _time(record.first_shared_at),
    )  # fmt: skip


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def figures(reports: Iterable[Report]) -> Figures:
    """Return the figures over *reports*.

    An incident counts once: as complete as its latest revision is, and as quick as its first was.
    """
    first: dict[tuple[bytes, str], Report] = {}
    latest: dict[tuple[bytes, str], Report] = {}
    for report in sorted(set(reports), key=_order):
        key = (report.author, report.incident_id)
        first.setdefault(key, report)
        latest[key] = report
    scores = sorted(len(report.anchors) for report in latest.values())
    firsts = sorted(len(report.anchors) for report in first.values())
    delays = [report.first_shared_at - report.detected_at for report in first.values()]
    seconds = sorted(int(delay.total_seconds()) for delay in delays if delay.total_seconds() >= 0)
    return Figures(
        incidents=len(latest),
        median_score=_median(scores),
        median_first_score=_median(firsts),
        actionable=sum(_actionable(report.anchors) for report in latest.values()),
        by_anchor={
            name: sum(name in report.anchors for report in latest.values()) for name in ANCHORS
        },
        time_to_share=Spread(_whole(_median(seconds)), _ninth_decile(seconds)),
        unclear=len(delays) - len(seconds),
    )


def _order(report: Report) -> tuple[object, ...]:
    return (
        report.author, report.incident_id, report.revision, report.first_shared_at,
        report.detected_at, sorted(report.anchors),
    )  # fmt: skip


def _median(ordered: list[int]) -> Decimal | None:
    if not ordered:
        return None
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return Decimal(ordered[middle])
    return Decimal(ordered[middle - 1] + ordered[middle]) / 2


def _whole(value: Decimal | None) -> int | None:
    return None if value is None else int(value)


def _ninth_decile(ordered: list[int]) -> int | None:
    """Return the least value that nine in ten do not exceed (nearest rank)."""
    if not ordered:
        return None
    return ordered[(len(ordered) * _NINTH + 9) // 10 - 1]
