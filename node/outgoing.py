"""Copies of incidents that leave the node: what they carry, and whether they may go.

- ``watermark`` is the only way by which an export gets its handling text.
- Whoever hands out an incident of another authority calls ``check`` first. A permission is an entry
  of the log: it lasts as long as the log, and says who noted it and on what it rests.
- Showing an incident on this node is no export; what is printed carries its handling all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

import structlog

from node.access import OPERATOR
from node.clock import Clock, rfc3339
from node.core import Core
from protocol import limits
from protocol.errors import ConflictError, NotFoundError, RequestError
from protocol.handling_text import Basis, Reader, handling_lines, onward_refusal, watermark

if TYPE_CHECKING:
    from protocol.incident import Handling

_PERMIT: Final = "permit-"
"""Begins the name of an act by which a permission is noted; the basis follows."""
_log = structlog.get_logger()
Row = dict[str, Any]


class Outgoing:
    """The rules of what goes out, over a Core."""

    COLUMNS: ClassVar = ("Handling", "Exported")

    def __init__(self, core: Core, *, clock: Clock) -> None:
        """Serve *core*."""
        self._core, self._clock = core, clock

    # --- what a copy carries -----------------------------------------------------------------
    def handling(self, face: Mapping[str, Any]) -> Handling:
        """Return the handling that the JSON form of a face has."""
        from protocol.incident import parse_handling  # noqa: PLC0415

        return parse_handling(face["handling"])

    def strictest(self, handlings: Iterable[Handling]) -> Handling:
        """Return one handling that asks for all that any of *handlings*, at least one, does."""
        from protocol.records_followup import strictest  # noqa: PLC0415

        first, *others = handlings
        for other in others:
            first = strictest(first, other)
        return first

    def person(self, by: str, who: str) -> str:
        """Return who takes a copy: what was typed, else on which way it was asked for."""
        text = "".join(c for c in by if c.isprintable()).strip()[: limits.MAX_NAME]
        return text or ("the operator" if who == OPERATOR else who)

    def watermark(self, handling: Handling, *, by: str) -> tuple[str, ...]:
        """Return what a copy carries that *by* takes now."""
        card = self._core.card
        node = f"{card.authority} ({card.country})"
        return watermark(handling, by=by, at=rfc3339(self._clock.now()), node=node)

    def cells(self, handling: Handling, *, by: str) -> tuple[str, str]:
        """Return the same for one row of a sheet, in the order of COLUMNS."""
        *rules, exported = self.watermark(handling, by=by)
        return "\n".join(rules), exported

    def lines(self, face: Mapping[str, Any] | None, *, who: str) -> list[str]:
        """Return what is printed with an incident that is shown; nothing without a face."""
        if face is None:
            return []
        return list(self.watermark(self.handling(face), by=self.person("", who)))

    def rules(self, face: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what the handling of a face asks for, in words."""
        return handling_lines(self.handling(face))

    # --- whether it may go -------------------------------------------------------------------
    def check_row(self, row: Mapping[str, Any], reader: Reader) -> None:
        """Check that an incident, as a row of case.db, may be handed to *reader*.

        Raises:
            ConflictError: its handling does not allow it.
        """
        if row["own"]:
            return
        ids = self._ids(row)
        handling = None if row["face"] is None else self.handling(row["face"])
        self.check(handling, reader, ref=row["ref"], ids=ids)

    def check_envelope(self, envelope_id: bytes, reader: Reader) -> None:
        """Check that what one envelope says may be handed to *reader*.

        What others wrote about an incident is under the stricter of its own handling and that of
        the incident.

        Raises:
            ConflictError: its handling does not allow it.
        """
        held = self._core.store.envelope(envelope_id)
        if held is None:
            return
        row, written = self._about(envelope_id)
        if row is not None:
            self.check_row(row, reader)
        if written is not None and held["author"] != self._core.node_id:
            ref = "the message" if row is None else f"what was written about {row['ref']}"
            ids = [envelope_id] if row is None else [envelope_id, *self._ids(row)]
            self.check(written, reader, ref=ref, ids=ids)

    def _about(self, envelope_id: bytes) -> tuple[Row | None, Handling | None]:
        """Return the incident that an envelope is about, and the handling of what others wrote."""
        _, cases = self._core.opened()
        item = cases.item(envelope_id)
        found = cases.database.query(
            "SELECT incident_id, author FROM records WHERE envelope_id = ?", [envelope_id]
        )
        keys = [(row["incident_id"], row["author"]) for row in found]
        keys += [] if item is None else [(item["subject"], item["owner"])]
        written = None if item is None else item["body"].get("handling")
        handling = None if written is None else self.handling({"handling": written})
        for key, author in keys:
            with suppress(NotFoundError):  # it is about a shipment or an operation, or of none here
                return cases.incident(key, author=author), handling
        return None, handling

    def _ids(self, row: Mapping[str, Any]) -> list[bytes]:
        _, cases = self._core.opened()
        return [r["envelope_id"] for r in cases.envelopes_of(row["incident_id"], row["author"])]

    def marks(self, envelope_id: bytes, *, by: str) -> tuple[str, ...]:
        """Return what a copy of one envelope's content carries."""
        row, handling = self._about(envelope_id)
        if row is not None and row["face"] is not None:
            base = self.handling(row["face"])
            handling = base if handling is None else self.strictest([base, handling])
        return () if handling is None else self.watermark(handling, by=by)

    def check(
        self, handling: Handling | None, reader: Reader, *, ref: str, ids: Sequence[bytes]
    ) -> None:
        """Check that an incident of another authority may be handed to *reader*.

        Args:
            handling: of the incident; None if its face is not here, which allows the least.
            reader: who is to get it.
            ref: of the incident.
            ids: its envelopes, by which a permission is found.

        Raises:
            ConflictError: its handling does not allow it; says what would.
        """
        permitted = self.permitted(ids)
        if handling is None:
            held = reader is Reader.ORIGINATOR or bool(permitted)
            refusal = None if held else "its face, which says how it may be used, is not here"
        else:
            refusal = onward_refusal(handling, reader, permitted=permitted)
        if refusal is None:
            return
        _log.warning("onward-refused", code=reader.value)
        none = handling is not None and handling.onward == "none"
        basis = "law" if none else "originator"
        how = "ask its author for an amendment" if none else "ask its author"
        raise ConflictError(
            f"{ref} may not be handed on: {refusal}",
            fix=f"{how}; a permission is noted with: picket incidents permit {ref} --basis {basis}",
        )

    def permitted(self, ids: Sequence[bytes]) -> frozenset[Basis]:
        """Return on what the permissions rest that are noted for envelopes *ids*."""
        acts = {logged.act.what for logged in self._core.access.about(ids)}
        return frozenset(basis for basis in Basis if f"{_PERMIT}{basis.value}" in acts)

    def permit(self, row: Mapping[str, Any], *, basis: str, by: str, note: str, who: str) -> Row:
        """Note in the log that an incident of another authority may be handed on.

        Args:
            row: the incident.
            basis: originator, who said so, or law, such as the order of a court.
            by: the officer who notes it.
            note: who permitted it, when, and for what.
            who: on which way it was noted, see ``node.access``.

        Raises:
            ConflictError: it is this authority's own.
            RequestError: a text is missing or too long, or the basis is none.
            BusyError: the disk is full; nothing was noted.
        """
        if row["own"]:
            raise ConflictError(
                "this incident is this authority's own", fix="it needs no permission to pass it on"
            )
        if basis not in list(Basis):
            raise RequestError(f"{basis!r} is no basis", fix=f"choose one of {', '.join(Basis)}")
        by, note = _line(by, "by", limits.MAX_NAME), _line(note, "note", limits.MAX_REASON)
        ids = self._ids(row)
        index = self._core.access.record(f"{_PERMIT}{basis}", ids, who, f"by {by}: {note}")
        return {"id": row["incident_id"], "ref": row["ref"], "basis": basis, "log_index": index}


def reader_of(text: str) -> Reader:
    """Return the kind of reader that *text* names.

    Raises:
        RequestError: there is none.
    """
    if text not in list(Reader):
        raise RequestError(f"{text!r} is no reader", fix=f"choose one of {', '.join(Reader)}")
    return Reader(text)


def _line(value: str, field: str, maximum: int) -> str:
    text = value.strip()
    if not text or len(text) > maximum or not text.isprintable():
        raise RequestError(
            f"{field} is empty, longer than {maximum} characters or not printable",
            fix=f"give {field} as one line of text",
        )
    return text
