"""Handling one incident beyond showing it: who saw it, disclosing a message, erasing all of it.

Everything is synchronous and runs on the thread that owns the databases. Whatever hands something
out logs it first; what is refused has changed nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from keys.fingerprint import format_node_id
from node.clock import Clock, rfc3339
from node.core import Core
from node.delivery import parse_envelope_id
from node.enclosures import Fetching
from node.erasure import Doomed
from node.outgoing import Outgoing
from node.words import counted
from protocol import envelope, limits
from protocol.access import DISCLOSE
from protocol.approval import Kind
from protocol.canonical import decode
from protocol.disclosure import DisclosureReport, armor_disclosure, make_disclosure
from protocol.envelope import VerifiedEnvelope
from protocol.erasure import Reason
from protocol.errors import ConflictError, LogCorruptionError, NotFoundError, RequestError
from protocol.handling_text import Reader
from protocol.statement import Chain

ERASE: Final = "erase"
"""How an erasure is called among the acts about an incident."""
Row = dict[str, Any]


class Handling:
    """What may be asked of one incident, as ``find`` returns it by what a person typed."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        fetching: Fetching,
        name: Callable[[bytes], str],
        find: Callable[[str], dict[str, Any]],
        outgoing: Outgoing,
    ) -> None:
        """Serve *core*; *name* says how to call a node id, *outgoing* what may be handed on."""
        self._core, self._clock, self._fetching = core, clock, fetching
        self._outgoing = outgoing
        self._name, self._find = name, find

    def _records(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        _, cases = self._core.opened()
        return cases.envelopes_of(row["incident_id"], row["author"])

    def _not_draft(self, key: str) -> dict[str, Any]:
        _, cases = self._core.opened()
        if cases.draft(key) is not None:
            raise ConflictError(
                "this is a draft: nothing of it has left or stands in the log",
                fix="release it first",
            )
        return self._find(key)

    # --- reading -----------------------------------------------------------------------------
    def note_reading(self, what: str, key: str, who: str) -> None:
        """Log, once a day, that *who* reads an incident; a draft is nobody else's yet.

        Call it before anything is handed out.

        Raises:
            NotFoundError: there is none of that id or reference.
            BusyError: the disk is full, so nothing may be handed out.
        """
        _, cases = self._core.opened()
        if cases.draft(key) is not None:
            return
        ids = [record["envelope_id"] for record in self._records(self._find(key))]
        held = [each for each in ids if not self._core.erasures.knows(each)]
        if held:
            self._core.access.record_reading(what, held, who)

    def accesses(self, key: str) -> Row:
        """Return who read, exported, disclosed or erased an incident, the oldest first.

        Raises:
            NotFoundError: there is none of that id or reference.
        """
        _, cases = self._core.opened()
        if cases.draft(key) is not None:
            return {"items": []}
        ids = [record["envelope_id"] for record in self._records(self._find(key))]
        items = [
            {
                "what": logged.act.what, "who": logged.act.who, "at": rfc3339(logged.act.at),
                "note": logged.act.note or None, "log_index": logged.index,
                "envelopes": [each.hex() for each in logged.act.ids],
            }
            for logged in self._core.access.about(ids)
        ]  # fmt: skip
        for erased in filter(None, map(self._core.erasures.get, ids)):
            act = erased.act
            items.append(
                {
                    "what": ERASE, "who": act.who, "at": rfc3339(act.at),
                    "note": f"{act.reason.value}, by {act.by}", "log_index": erased.log_index,
                    "envelopes": [erased.envelope_id.hex()],
                }
            )  # fmt: skip
        return {"items": sorted(items, key=lambda item: item["log_index"])}

    # --- disclosing --------------------------------------------------------------------------
    def disclose(
        self, what: str, *, number: int | None, to: str, by: str, reason: str, who: str,
        reader: Reader = Reader.COURT,
    ) -> Row:  # fmt: skip
        """Return one message with the key of its body, for an auditor; log it first.

        Args:
            what: an envelope id, or an incident; of one with several messages *number* (from 0).
            number: which message of an incident.
            to: who gets it.
            by: the officer who decides it.
            reason: why, or nothing.
            who: on which way it was asked for, see ``node.access``.
            reader: whether that is the originator itself, another authority, or a court.

        Raises:
            NotFoundError: there is no such message here, or it was erased.
            ConflictError: its handling does not allow it.
            RequestError: a text is missing or too long, or it is open which message is meant.
            ApprovalNeededError: other operators have to approve it.
            BusyError: the disk is full; nothing was handed out.
            PeerError: it does not open.
        """
        to, by = _line(to, "to"), _line(by, "by")
        reason = _line(reason, "reason", limits.MAX_REASON) if reason else ""
        note = f"to {to}, by {by}" + (f": {reason}" if reason else "")
        envelope_id = parse_envelope_id(what) or self._one_of(what, number)
        held, body = self._held(envelope_id)
        self._outgoing.check_envelope(envelope_id, reader)
        opener = held.header.opener or envelope_id
        key = envelope.content_key(VerifiedEnvelope(held), self._core.epoch(opener))
        known = self._core.opener(opener)
        if known is None:
            raise LogCorruptionError("the envelope that opened the epoch is missing")
        made = make_disclosure(
            VerifiedEnvelope(held), content_key=key, chain=self._chain(held.header.author),
            audience=known[1],
        )  # fmt: skip
        _, cases = self._core.opened()
        permit = self._core.approvals.require(
            Kind.DISCLOSE, (envelope_id, to, by, reason), who=who,
            about=cases.refs_of([envelope_id]).get(envelope_id, ""),
        )  # fmt: skip
        with self._core.logged():
            permit.use()
            index = self._core.access.record(DISCLOSE, [envelope_id], who, note)
        return {
            "envelope_id": envelope_id.hex(), "disclosure": armor_disclosure(made),
            "log_index": index, "attachments": _attachments(body),
            "handling_text": list(self._outgoing.marks(envelope_id, by=by)),
        }  # fmt: skip

    def _one_of(self, key: str, number: int | None) -> bytes:
        records = self._records(self._not_draft(key))
        if number is None and len(records) > 1:
            raise RequestError(
                f"the incident has {len(records)} messages",
                fix=f"choose one with --envelope, 0 to {len(records) - 1}: picket incidents show "
                "lists them",
            )
        number = number or 0
        if not 0 <= number < len(records):
            raise NotFoundError(
                f"the incident has {counted(len(records), 'message')}", fix="count from 0"
            )
        envelope_id: bytes = records[number]["envelope_id"]
        return envelope_id

    def _held(self, envelope_id: bytes) -> tuple[envelope.Envelope, bytes]:
        held = self._core.held(envelope_id)
        if held is None:
            if self._core.erasures.knows(envelope_id):
                raise NotFoundError(
                    "the message was erased here",
                    fix=f"its proof can still be had: picket log prove {envelope_id.hex()}",
                )
            raise NotFoundError(
                "no such message is held", fix="give its 64 hexadecimal digits, or the incident"
            )
        return held, self._core.open(envelope_id)

    def _chain(self, author: bytes) -> Chain:
        if author == self._core.node_id:
            return self._core.trust.own
        peer = self._core.trust.peers.get(author)
        if peer is None:
            raise LogCorruptionError("the author of a stored envelope is not a peer any more")
        return peer.chain

    # --- erasing -----------------------------------------------------------------------------
    def erasure(self, key: str) -> Row:
        """Return what erasing an incident would do, before anybody confirms it.

        Raises:
            NotFoundError: there is none of that id or reference.
            ConflictError: it is a draft, or erased already.
        """
        row, doomed = self._doomed(key)
        ids = [each.envelope_id for each in doomed]
        _, cases = self._core.opened()
        blobs = {blob for each in ids for blob in cases.blobs_of(each)}
        return {
            "id": row["incident_id"], "ref": row["ref"], "author": self._name(row["author"]),
            "own": bool(row["own"]), "envelopes": len(ids), "attachments": len(blobs),
            "undelivered": self._names(self._core.outbox.owed(ids)),
            "strands": self._names(self._core.erasures.others_waiting(ids)),
            "recipients_keep_it": bool(row["own"]),
        }  # fmt: skip

    def _names(self, node_ids: frozenset[bytes]) -> list[str]:
        return sorted(map(self._name, node_ids), key=str.casefold)

    def _doomed(self, key: str) -> tuple[dict[str, Any], list[Doomed]]:
        row = self._not_draft(key)
        _, cases = self._core.opened()
        doomed = self._core.holdings.doomed(cases, row["incident_id"], row["author"])
        if not doomed:
            raise ConflictError("this incident is erased already", fix="there is nothing to do")
        return row, doomed

    def erase(self, key: str, *, reason: str, by: str, also_undelivered: bool, who: str) -> Row:
        """Erase an incident with all its revisions and attachments here. It cannot be undone.

        Args:
            key: which incident.
            reason: one of ``protocol.erasure.Reason``.
            by: the officer who decided it.
            also_undelivered: take back what somebody has not received yet.
            who: on which way it was told to the node, see ``node.access``.

        Raises:
            NotFoundError: there is none of that id or reference.
            ConflictError: it is a draft, erased already, or still owed to somebody.
            RequestError: the reason is none, or *by* is missing or too long.
            BusyError: the disk is full; nothing was changed.
        """
        if reason not in list(Reason):
            raise RequestError(
                f"{reason!r} is no reason to erase", fix=f"choose one of {', '.join(Reason)}"
            )
        by = _line(by, "by")
        row, doomed = self._doomed(key)
        ids = [each.envelope_id for each in doomed]
        owed = self._names(self._core.outbox.owed(ids))
        if owed and not also_undelivered:
            raise ConflictError(
                f"it is still to be delivered to {', '.join(owed)}",
                fix="wait for their receipts, or take it back from them: --also-undelivered",
            )
        _, cases = self._core.opened()
        for blob_id in {blob for each in ids for blob in cases.blobs_of(each)}:
            if not self._needed(blob_id, ids):
                self._fetching.drop(blob_id)
        wiped = self._core.erase(doomed, reason=Reason(reason), by=by, who=who)
        return {
            "id": row["incident_id"], "ref": row["ref"], "reason": reason,
            "envelopes": [each.hex() for each in ids], "withdrawn_from": owed,
            "done": wiped and self._core.behind is None,
        }  # fmt: skip

    def _needed(self, blob_id: bytes, ids: Sequence[bytes]) -> bool:
        """Whether another envelope than *ids* names the blob."""
        return not self._core.blob_refs.naming(blob_id) <= frozenset(ids)


def _line(value: str, field: str, maximum: int = limits.MAX_NAME) -> str:
    """Return *value* as one line that can stand in the log.

    Raises:
        RequestError: it is empty, too long, or not printable.
    """
    text = unicodedata.normalize("NFC", value).strip()
    if not text or len(text) > maximum or not text.isprintable():
        raise RequestError(
            f"{field} is empty, longer than {maximum} characters or not printable",
            fix=f"give {field} as one line of text",
        )
    return text


def _attachments(body: bytes) -> list[Row]:
    # Heavy (pydantic), and needed only here.
    from protocol.incident import split_attachments  # noqa: PLC0415

    record = decode(body, max_bytes=limits.MAX_BODY)
    if not isinstance(record, dict):
        return []
    _, attached = split_attachments(record)
    return [{"sha256": each.ref.sha256.hex(), "size": each.ref.size} for each in attached]


# --- showing ---------------------------------------------------------------------------------
def report_row(report: DisclosureReport) -> Row:
    """Return *report* as a JSON-able value."""
    held = report.envelope
    row: Row = {
        "genuine": report.genuine,
        "checks": [
            {"check": c.name, "ok": c.ok, "detail": c.detail, "code": c.code or None}
            for c in report.checks
        ],
        "message": None,
        "record": _jsonable(report.record),
    }
    if held is None:
        return row
    return {
        **row,
        "message": {
            "envelope_id": held.id.hex(), "author": format_node_id(held.header.author),
            "authority": report.authority, "network_id": held.header.network.hex(),
            "created": rfc3339(held.header.created), "seq": held.header.seq,
            "recipients": [format_node_id(each) for each in report.recipients],
        },
    }  # fmt: skip


def _jsonable(value: Any) -> Any:  # noqa: ANN401  whatever a record holds
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value
