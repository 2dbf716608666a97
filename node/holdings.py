"""What case.db holds of the records about incidents, and the states that follow from it.

- Reports are read again from their envelopes in node.db; all other kinds stand in case.db as they
  were opened, without the keys of attachments. A state is computed from both when it is asked for.
- The row of an incident in lists repeats its state: it is written anew whenever an amendment, a
  retraction or an erasure changes it.
- An incident whose originator retracted it under law is condemned until nothing of it is left here.
- All that writes here runs inside the transaction of case.db that follows the log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from node.casebook import Casebook
from node.erasure import Doomed
from node.store import Store
from node.streams import READER, Streams
from protocol import limits
from protocol.canonical import decode
from protocol.erasure import ABOUT_INCIDENT
from protocol.errors import PeerError
from protocol.frontier import StreamKey

if TYPE_CHECKING:
    from protocol.records import AnyItem, AnyRecord
    from protocol.state import IncidentState, Received

LASTING: Final = frozenset({"incident.retract", "ack"})
"""Kinds that stay when their incident is erased: they hold nothing of what it said."""


class Owner(Protocol):
    """What reading records needs of the node that it belongs to."""

    @property
    def node_id(self) -> bytes:
        """The id of this node."""
        ...

    def open(self, envelope_id: bytes) -> bytes:
        """Return the body of a stored envelope."""
        ...


class Holdings:
    """The records about incidents that this node holds."""

    def __init__(self, owner: Owner, *, store: Store, streams: Streams) -> None:
        self._owner, self._store, self._streams = owner, store, streams

    # --- following the log -------------------------------------------------------------------
    def keep(
        self, cases: Casebook, row: Mapping[str, Any], record: AnyItem, body: Mapping[str, Any]
    ) -> None:
        """Keep one opened *record* that is no report, and bring its incident up to date.

        Args:
            cases: case.db, in a transaction.
            row: the envelope that held the record.
            record: the record.
            body: its map, without the keys of attachments.
        """
        # Heavy (pydantic), and needed only where incidents are opened.
        from protocol.records import Amend, LinkAssert, Retract, subject_of  # noqa: PLC0415

        subject, owner = subject_of(record, row["author"].hex())
        about = (subject, bytes.fromhex(owner))
        target = record.target.incident_id if isinstance(record, LinkAssert) else None
        cases.store_item(
            envelope_id=row["id"], log_index=row["idx"], author=row["author"], kind=record.KIND,
            about=about, target=target, body=body, at=row["arrived"],
        )  # fmt: skip
        if isinstance(record, Amend | Retract):
            if isinstance(record, Amend):
                layers = [name for name in ("face", "annex") if name in body]
                cases.store_revision(
                    envelope_id=row["id"], log_index=row["idx"], author=row["author"],
                    incident_id=record.incident_id, revision=record.revision, layers=layers,
                    at=row["arrived"],
                )  # fmt: skip
            cases.found(
                record.incident_id, row["author"], ref=record.ref, log_index=row["idx"],
                own=row["author"] == self._owner.node_id, at=row["arrived"],
            )  # fmt: skip
            self.refresh(cases, *about)
        elif record.KIND not in LASTING:
            known = cases.standing(*about)
            if known is not None and known["retracted"] is not None:
                self.refresh(cases, *about)  # what came late must go as well

    def settle(self, cases: Casebook, incident_id: str, author: bytes) -> None:
        """Bring an incident up to date of which something came or went.

        Only what is amended or retracted has a state apart from its report.
        """
        if cases.standing(incident_id, author) is not None:
            self.refresh(cases, incident_id, author)

    def refresh(self, cases: Casebook, incident_id: str, author: bytes) -> None:
        """Write anew what lists show of an incident that is amended or retracted."""
        state = self.state(cases, incident_id, author, now=0)
        shown = {}
        for layer, found in (("face", state.face), ("annex", state.annex)):
            # In a conflict the first stands for both here; ``contested`` says so.
            head = found.heads[0] if found.heads else None
            shown[layer] = None if head is None else _plain(head.value)
        cases.show(
            incident_id, author, revision=state.revision, layers=shown,
            retracted=None if state.retracted is None else state.retracted.reason,
            contested=state.conflict,
            condemned=state.erased and bool(self.doomed(cases, incident_id, author)),
        )  # fmt: skip

    # --- reading -----------------------------------------------------------------------------
    def readers(self, envelope_id: bytes) -> frozenset[bytes]:
        """Return who can read an envelope, its author among them."""
        row = self._store.envelope(envelope_id)
        if row is None:
            return frozenset()
        key = StreamKey(row["author"], row["incarnation"], row["stream"])
        roles = self._streams.members(key)
        return frozenset(node_id for node_id, role in roles.items() if role == READER)

    def received(self, rows: Iterable[Mapping[str, Any]]) -> list[Received]:
        """Return the records of these rows of ``records`` and ``items`` that can be read."""
        from protocol.state import Received  # noqa: PLC0415

        found = []
        for row in rows:
            record = self._record(row)
            if record is not None:
                recipients = frozenset(each.hex() for each in self.readers(row["envelope_id"]))
                found.append(
                    Received(row["author"].hex(), row["envelope_id"].hex(), row["log_index"],
                             recipients, record)
                )  # fmt: skip
        return found

    def _record(self, row: Mapping[str, Any]) -> AnyRecord | None:
        from protocol.records import parse_record  # noqa: PLC0415

        try:
            if row.get("body") is not None:
                return parse_record(row["body"])
            body = self._owner.open(row["envelope_id"])
            return parse_record(decode(body, max_bytes=limits.MAX_BODY))
        except PeerError:
            return None  # erased, or its epoch does not open here any more

    def of_incident(self, cases: Casebook, incident_id: str, author: bytes) -> list[Received]:
        """Return all records about an incident, and those of others under its id."""
        items = cases.items_about(incident_id)
        known = {row["envelope_id"] for row in items}
        reports = [
            row for row in cases.revisions_of(incident_id) if row["envelope_id"] not in known
        ]
        return self.received([*items, *reports])

    def state(self, cases: Casebook, incident_id: str, author: bytes, *, now: int) -> IncidentState:
        """Return the state of an incident at *now*."""
        from protocol.state import incident_state  # noqa: PLC0415

        records = self.of_incident(cases, incident_id, author)
        return incident_state(incident_id, author.hex(), records, now=now)

    # --- erasing -----------------------------------------------------------------------------
    def doomed(self, cases: Casebook, incident_id: str, author: bytes) -> list[Doomed]:
        """Return all envelopes that tell something of an incident and are not erased."""
        row = cases.row_of(incident_id, author)
        if row is None:
            return []  # nothing of it came but what others wrote
        found = [
            Doomed(each["envelope_id"], incident_id, row["ref"], each["revision"], each["layers"])
            for each in cases.envelopes_of(incident_id, author)
        ]
        revisions = {each.envelope_id for each in found}
        found += [
            Doomed(each["envelope_id"], incident_id, row["ref"], row["revision"], ABOUT_INCIDENT)
            for each in cases.items_of(incident_id, author)
            if each["kind"] not in LASTING and each["envelope_id"] not in revisions
        ]
        return [each for each in found if not self._is_erased(each.envelope_id)]

    def _is_erased(self, envelope_id: bytes) -> bool:
        sql = "SELECT 1 FROM erasures WHERE envelope_id = ?"
        return self._store.scalar(sql, envelope_id) is not None


def _plain(value: Any) -> dict[str, Any]:  # noqa: ANN401  pydantic stays out of start-up
    shown: dict[str, Any] = value.model_dump(mode="json", exclude_defaults=True)
    for attachment in shown.get("attachments", ()):
        attachment.pop("blob", None)
        attachment.pop("key", None)
    return shown
