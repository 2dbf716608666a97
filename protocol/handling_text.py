"""What the handling of an incident says in words, and whether somebody may pass it on.

- ``watermark`` is what every copy that leaves the node carries: one function, so that no export
  says less than another. H1 and H3 stand there in full.
- ``onward_refusal`` answers for one copy to one kind of reader. Handling of the incidents that this
  authority wrote itself binds others: it may pass those on as it likes.
- The words for TLP are those of version 2.0 by FIRST, shortened; for H0 to H3 those of Europol's
  handling codes; for PAP those in use among CSIRTs.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from protocol.incident import Handling

_TLP: Final = {
    "RED": "for the named recipients only; no further disclosure",
    "AMBER+STRICT": "for those in the receiving organisation who need to know, and nobody else",
    "AMBER": "for those who need to know in the receiving organisation and among its clients",
    "GREEN": "may be shared within the community, not in public",
    "CLEAR": "may be shared without limit",
}
_CODES: Final = {
    "H0": "for the prevention and fight of crime, by the rules that hold for that",
    "H1": "not to be used as evidence in judicial proceedings without permission of its author",
    "H2": "not to be passed on without permission of its author",
    "H3": "other restrictions hold",
}
_PAP: Final = {
    "RED": "act on it only in ways that nobody outside can notice: no look-up of numbers or pages",
    "AMBER": "look it up in what others hold, but do not touch what belongs to those in the case",
    "GREEN": "acts that those in the case may notice are allowed",
    "CLEAR": "no limit on acts",
}
_ONWARD: Final = {
    "none": "must not be passed on",
    "ask_originator": "must not be passed on before its author permits it",
    "own_national_agencies": "may go to agencies of the receiving country, and to nobody else",
    "peers_same_handling": "may go to authorities that keep to the same handling",
}
_EVIDENCE: Final = {
    "intelligence_only": "intelligence, not evidence",
    "ask_originator": "evidence only with permission of its author",
    "allowed": "may be used as evidence",
}


class Reader(StrEnum):
    """Who is to get a copy."""

    ORIGINATOR = "originator"
    NATIONAL = "national"
    PEER = "peer"
    COURT = "court"
    OTHER = "other"


class Basis(StrEnum):
    """On what a recorded permission rests."""

    ORIGINATOR = "originator"
    LAW = "law"


def handling_lines(handling: Handling) -> tuple[str, ...]:
    """Return what *handling* asks of whoever holds a copy, one rule a line."""
    lines = [f"TLP:{handling.tlp} - {_TLP[handling.tlp]}"]
    lines += [f"{code} - {_CODES[code]}" for code in handling.hc]
    if handling.hc_text is not None:
        lines.append(f"Restrictions: {handling.hc_text}")
    if handling.pap is not None:
        lines.append(f"PAP:{handling.pap} - {_PAP[handling.pap]}")
    lines += [
        f"Passing on: {_ONWARD[handling.onward]}",
        f"Use: {_EVIDENCE[handling.evidence_use]}",
        f"Evaluation: source {handling.src_eval}, information {handling.info_eval}",
    ]
    if handling.confidential_12_11:
        lines.append(
            "Confidential under article 12, paragraph 11, of the 1988 Convention: trade, business "
            "and professional secrets"
        )
    if handling.retain_until is not None:
        lines.append(f"To be erased after {handling.retain_until}")
    return tuple(lines)


def exported_line(*, by: str, at: str, node: str) -> str:
    """Return the line that says where a copy comes from."""
    return f"Exported by {by} at {at} from node {node}"


def watermark(handling: Handling, *, by: str, at: str, node: str) -> tuple[str, ...]:
    """Return all that a copy of something under *handling* carries.

    Args:
        handling: of the incident, or the strictest of several.
        by: who exports it.
        at: when, as RFC 3339.
        node: name and country of the authority whose node it is.
    """
    return (*handling_lines(handling), exported_line(by=by, at=at, node=node))


def onward_refusal(
    handling: Handling, reader: Reader, *, permitted: frozenset[Basis] = frozenset()
) -> str | None:
    """Return why a copy of another authority's incident must not go to *reader*; None if it may.

    Args:
        handling: of the incident.
        reader: who is to get it.
        permitted: on what recorded permissions rest. A law or court order lifts every rule, what
            the originator said lifts all but ``none``: that one it lifts by an amendment.
    """
    if reader is Reader.ORIGINATOR or Basis.LAW in permitted:
        return None
    if handling.onward == "none":
        return "its handling says that it must not be passed on"
    if Basis.ORIGINATOR in permitted:
        return None
    if handling.onward == "ask_originator":
        return "its handling asks for permission of its author before it is passed on"
    if "H2" in handling.hc:
        return "its handling code H2 asks for permission of its author before it is passed on"
    if handling.tlp == "RED":
        return "it is TLP:RED, for the named recipients only"
    return _of_reader(handling, reader)


def _of_reader(handling: Handling, reader: Reader) -> str | None:
    if reader is Reader.NATIONAL:
        return None
    if reader is Reader.COURT:
        if "H1" in handling.hc:
            return "its handling code H1 asks for permission before it is used in proceedings"
        if handling.evidence_use != "allowed":
            return f"its handling says: {_EVIDENCE[handling.evidence_use]}"
        return None
    if handling.onward == "own_national_agencies":
        return "its handling allows agencies of this country only"
    if reader is Reader.OTHER:
        return "its handling allows authorities that keep to the same handling only"
    return None
