"""What records about incidents come to, as people ask for it: history, talk, operations, alerts.

- What is named by a person is found by its id, the beginning of it, or its name, and the desk that
  writes records is then given the id alone.
- Whoever is shown what an incident or a shipment says stands in the log first.
- Which alerts were read stays on this node, and tells nobody anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from node import record_rows
from node.casebook import Casebook
from node.clock import Clock
from node.core import Core
from node.recording import Recording
from node.words import counted
from protocol.access import READ
from protocol.errors import ConflictError, NotFoundError

_NAMED: Final = {
    "operation.open": ("operation", "operation_id", "name", "picket operations list"),
    "pen.notification": ("shipment", "pen_id", "number", "picket shipments list"),
    "alert.special": ("alert", "alert_id", "title", "picket alerts list"),
}
"""What is found by a name: what it is, its id, its name, and where to see all."""
_LEAST_PREFIX: Final = 6
_PREFIX: Final = re.compile(r"[0-9a-f-]+")
_MINUTE_MS: Final = 60_000
_LAYERS: Final = ("face", "annex")
_SPOKEN: Final = ("request", "response", "message")
"""Of one time, in this order."""
Row = dict[str, Any]


class RecordViews:
    """The desk that shows what comes of records, over a Core."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        name: Callable[[bytes], str],
        records: Recording,
        note_reading: Callable[[str, str, str], None],
    ) -> None:
        """Serve *core*.

        Args:
            core: the node.
            clock: states depend on it.
            name: how to call a node id.
            records: the desk that computes states.
            note_reading: logs that somebody reads an incident.
        """
        self._core, self._clock, self._name = core, clock, name
        self._records, self._note_reading = records, note_reading
        self._noticed: tuple[tuple[int, int], tuple[tuple[str, str, str], ...]] | None = None

    # --- incidents ---------------------------------------------------------------------------
    def state(self, key: str, *, who: str) -> Row:
        """Return the state of an incident, once it is logged that *who* reads it.

        Raises:
            NotFoundError: there is none of that id or reference.
            ConflictError: it is a draft.
            BusyError: the disk is full, and nothing is shown that is not logged.
        """
        self._note_reading(READ, key, who)
        return self._records.state(key)

    def history(self, key: str, *, who: str) -> Row:
        """Return the revisions of an incident with what each changed, the first one first.

        Raises:
            As ``state``.
        """
        state = self.state(key, who=who)
        found: dict[int, Row] = {}
        for layer in _LAYERS:
            for version in state[layer]["versions"]:
                row = found.setdefault(
                    version["revision"],
                    {"revision": version["revision"], "at": version["shared_at"], "note": None,
                     "layers": [], "changes": [], "follows": True, "contested": False},
                )  # fmt: skip
                row["layers"] += [layer] if layer not in row["layers"] else []
                row["at"] = min(row["at"], version["shared_at"])
                row["note"] = row["note"] or version["note"]
                row["contested"] |= version["revision"] in state[layer]["conflicts"]
                if version["follows"] is not True:
                    row["follows"] = version["follows"]
                row["changes"] += [{"layer": layer, **each} for each in version["changes"]]
        for layer in _LAYERS:
            removed = state[layer]["removed_in"]
            if removed in found:
                found[removed]["changes"].append(
                    {"layer": layer, "pointer": "", "before": "as it was", "after": None}
                )
        return {
            "id": state["incident_id"], "originator": state["originator"],
            "items": [found[number] for number in sorted(found)],
            "retracted": state["retracted"], "duplicate_of": state["duplicate_of"],
            "ignored": state["ignored"],
        }  # fmt: skip

    def thread(self, key: str, *, who: str) -> Row:
        """Return what was asked, answered and said about an incident, in the order of its times.

        Raises:
            As ``state``.
        """
        from protocol.record_fields import to_ms  # noqa: PLC0415

        state = self.state(key, who=who)
        items = [
            {"what": "message", "author": each["author"], "at": each["message"]["at"],
             "request": each["message"]["request"]["request_id"],
             "text": each["message"]["text"], "tlp": each["handling"]["tlp"]}
            for each in state["thread"]
        ]  # fmt: skip
        for each in state["requests"]:
            request = each["request"]
            items.append(
                {"what": "request", "author": each["author"], "at": request["at"],
                 "request": request["request_id"], "text": request["question"],
                 "tlp": each["handling"]["tlp"], "kinds": request["kinds"], "to": request["to"],
                 "due": request["due"], "state": each["state"]}
            )  # fmt: skip
            items += [
                {"what": "response", "author": answer["asked"], "at": response["at"],
                 "request": request["request_id"], "text": response.get("text"),
                 "outcome": response["outcome"], "tlp": response["handling"]["tlp"],
                 "anchors": {name: response[name] for name in ("substances", "route", "annex")
                             if name in response}}
                for answer in each["answers"]
                for response in answer["responses"]
            ]  # fmt: skip
        items.sort(key=lambda item: (to_ms(item["at"]), _SPOKEN.index(item["what"])))
        return {"id": state["incident_id"], "items": items}

    # --- finding -----------------------------------------------------------------------------
    def resolve(self, kind: str, text: str) -> str:
        """Return by what the desk for records names an operation, a shipment or an alert.

        Args:
            kind: of the record that begins it.
            text: its id, at least the first 6 characters of it, or its name; and, behind ``@``,
                whose it is.

        Raises:
            NotFoundError: there is none, or more than one.
        """
        row = self._found(kind, text)
        return f"{row['subject']}@{self._name(row['owner'])}"

    def _found(self, kind: str, text: str) -> Row:
        what, own_id, named, where = _NAMED[kind]
        _, cases = self._core.opened()
        plain, _, author = text.strip().partition("@")
        folded = plain.strip().casefold()
        fits = len(folded) >= _LEAST_PREFIX and _PREFIX.fullmatch(folded)
        found: dict[tuple[str, bytes], Row] = {}
        for row in cases.items((kind,)):
            body = row["body"]
            by_name = bool(folded) and str(body.get(named, "")).casefold() == folded
            if by_name or (fits and body[own_id].startswith(folded)):
                found[row["subject"], row["owner"]] = row
        if author:
            found = {
                key: row
                for key, row in found.items()
                if self._name(row["owner"]).casefold() == author.strip().casefold()
            }
        if len(found) != 1:
            reason = f"no {what}" if not found else f"more than one {what}"
            raise NotFoundError(f"{reason} {text!r}", fix=f"take the id from: {where}")
        return next(iter(found.values()))

    # --- operations --------------------------------------------------------------------------
    def operations(self) -> Row:
        """Return all operations that are here, the newest first, without their tallies."""
        from protocol.state_operations import operation_state  # noqa: PLC0415

        _, cases = self._core.opened()
        items = []
        for operation_id, convenor in self._begun(cases, "operation.open"):
            records = self._core.holdings.received(cases.items_of(operation_id, convenor))
            state = operation_state(operation_id, convenor.hex(), records, now=self._clock.now())
            if not state.opened:
                continue
            last = state.opened[-1]
            items.append(
                {
                    "id": operation_id, "name": last.name, "convenor": self._name(convenor),
                    "own": convenor == self._core.node_id, "state": state.state,
                    "starts": last.scope.starts, "ends": last.scope.ends,
                    "participants": len(state.participants), "exercise": last.exercise,
                    "incidents": len(cases.of_operation(operation_id)),
                }
            )  # fmt: skip
        return {"items": items}

    def operation(self, text: str) -> Row:
        """Return one operation in full.

        Raises:
            NotFoundError: there is none, or more than one.
        """
        return self._records.operation(self.resolve("operation.open", text))

    def tally(self, text: str) -> Row:
        """Return what each participant brought to an operation, counted from this node's log.

        Raises:
            NotFoundError: there is none, or more than one.
        """
        state = self.operation(text)
        totals: dict[tuple[str, str], Decimal] = {}
        rows = []
        for each in state["tallies"]:
            amounts = []
            for substance, unit, value in each["totals"]:
                key = (substance, unit)
                totals[key] = totals.get(key, Decimal()) + Decimal(value)
                amounts.append({"substance": substance, "unit": unit, "value": value})
            rows.append(
                {"participant": each["participant"], "incidents": each["incidents"],
                 "totals": amounts}
            )  # fmt: skip
        return {
            "id": state["operation_id"], "convenor": state["convenor"], "state": state["state"],
            "name": state["opened"][-1]["name"] if state["opened"] else None,
            "items": rows,
            "incidents": sum(each["incidents"] for each in rows),
            "totals": [
                {"substance": substance, "unit": unit, "value": format(value, "f")}
                for (substance, unit), value in sorted(totals.items())
            ],
            "duplicates": len(state["duplicates"]), "retracted": len(state["retracted"]),
            "contested": len(state["contested"]), "differing": state["differing"],
        }  # fmt: skip

    def tag(self, key: str, operation: str | None) -> Row:
        """Let a draft belong to an operation, or with None to none.

        Raises:
            NotFoundError: there is no such draft or operation.
            ConflictError: it is released already, or the operation is over.
        """
        _, cases = self._core.opened()
        draft = cases.draft(key)
        if draft is None:
            cases.incident(key.partition("@")[0])
            raise ConflictError(
                "the incident is released already",
                fix="amend it: picket incidents amend REFERENCE --set /face/operation_id=ID",
            )
        face = {name: value for name, value in draft["data"]["face"].items()
                if name != "operation_id"}  # fmt: skip
        named = None
        if operation is not None:
            state = self.operation(operation)
            if state["state"] == "closed":
                raise ConflictError("the operation is closed", fix="name one that goes on")
            face["operation_id"] = state["operation_id"]
            named = state["opened"][-1]["name"]
        cases.change_draft(draft["incident_id"], {**draft["data"], "face": face})
        return {
            "id": draft["incident_id"], "ref": draft["ref"],
            "operation_id": face.get("operation_id"), "operation": named,
        }  # fmt: skip

    def _begun(self, cases: Casebook, kind: str) -> list[tuple[str, bytes]]:
        """Return what records of *kind* began, the newest first, each once."""
        rows = [(row["subject"], row["owner"]) for row in cases.items((kind,))]
        return list(dict.fromkeys(reversed(rows)))

    # --- shipments ---------------------------------------------------------------------------
    def shipments(self) -> Row:
        """Return all notified shipments that are here, those first that wait for this node."""
        _, cases = self._core.opened()
        begun = self._begun(cases, "pen.notification")
        items = [row for row in (self._shipment(cases, *each) for each in begun) if row]
        items.sort(key=lambda row: (not row["we_owe"], row["due"] if row["we_owe"] else ""))
        return {"items": items}

    def _shipment(self, cases: Casebook, pen_id: str, author: bytes) -> Row | None:
        from protocol.record_fields import from_ms  # noqa: PLC0415
        from protocol.state_operations import pen_state  # noqa: PLC0415

        records = self._core.holdings.received(cases.items_of(pen_id, author))
        state = pen_state(pen_id, author.hex(), records, now=self._clock.now())
        if not state.notified:
            return None
        last, own = state.notified[-1], self._core.node_id.hex()
        owing = {each.asked: each for each in state.answers
                 if each.answer in {None, "more_time"}}  # fmt: skip
        first = state.notified[0]
        due = from_ms(owing[own].due) if own in owing else first.reply_by
        return {
            "id": pen_id, "number": last.number, "author": self._name(author),
            "own": author == self._core.node_id, "state": state.state,
            "substances": [each.name for each in last.substances],
            "exporting_country": last.exporting_country,
            "importing_country": last.importing_country,
            "departs": last.departs, "due": due, "we_owe": own in owing,
            "overdue": owing[own].overdue if own in owing else state.state == "overdue",
            "waiting_for": [self._name(bytes.fromhex(node)) for node in sorted(owing)],
            "last_event": state.events[-1].event if state.events else None,
            "exercise": last.exercise,
        }  # fmt: skip

    def shipment(self, text: str, *, who: str) -> Row:
        """Return one notified shipment in full, once it is logged that *who* reads it.

        Raises:
            NotFoundError: there is none, or more than one.
            BusyError: the disk is full, and nothing is shown that is not logged.
        """
        row = self._found("pen.notification", text)
        self._core.access.record_reading(READ, [row["envelope_id"]], who)
        return self._records.shipment(f"{row['subject']}@{self._name(row['owner'])}")

    # --- alerts ------------------------------------------------------------------------------
    def alerts(self) -> Row:
        """Return the alerts that hold now, those not read here first."""
        _, cases = self._core.opened()
        read = self._read(cases)
        items = [
            {**each, "own": each["author"] == self._core.card.authority,
             "read": bytes.fromhex(each["envelope_id"]) in read}
            for each in self._records.alerts()["items"]
        ]  # fmt: skip
        items.sort(key=lambda row: row["read"] or row["own"])
        return {"items": items}

    def alert(self, text: str) -> Row:
        """Return one alert, which may have expired.

        Raises:
            NotFoundError: there is none, or more than one.
        """
        row = self._found("alert.special", text)
        active = {each["envelope_id"] for each in self._records.alerts()["items"]}
        shown: Row = record_rows.row(row["body"], self._name)
        shown.pop("record", None)
        return {
            "author": self._name(row["owner"]), "envelope_id": row["envelope_id"].hex(),
            "active": row["envelope_id"].hex() in active, "alert": shown,
        }  # fmt: skip

    def mark_read(self, text: str) -> Row:
        """Note that somebody here has read an alert.

        Raises:
            NotFoundError: there is none, or more than one.
            BusyError: the disk is full.
        """
        row = self._found("alert.special", text)
        _, cases = self._core.opened()
        with cases.transaction():
            cases.database.execute(
                "INSERT OR IGNORE INTO alerts_read "
                "SELECT envelope_id, ? FROM items WHERE kind = 'alert.special' "
                "AND subject = ? AND owner = ?",
                [self._clock.now(), row["subject"], row["owner"]],
            )
        self._noticed = None
        return {"id": row["subject"], "read": True}

    def _read(self, cases: Casebook) -> set[bytes]:
        rows = cases.database.query("SELECT envelope_id FROM alerts_read")
        return {row["envelope_id"] for row in list(rows)}

    # --- notices -----------------------------------------------------------------------------
    def notices(self) -> Iterator[tuple[str, str, str]]:
        """Return what a person must know: code, cause and fix. No title or text is in it."""
        cases = self._core.cases
        if cases is None:
            return
        key = (cases.next_index, self._clock.now() // _MINUTE_MS)
        if self._noticed is None or self._noticed[0] != key:
            self._noticed = (key, tuple(self._new_notices(cases)))
        yield from self._noticed[1]

    def _new_notices(self, cases: Casebook) -> Iterator[tuple[str, str, str]]:
        unread = self._unread(cases)
        if unread:
            said = f"{counted(len(unread), 'alert')} not read yet, from {_names(unread)}"
            yield "alerts-new", said, "see: picket alerts list"
        owed = self._owed(cases)
        if owed:
            first = min(owed, key=lambda row: str(row["due"]))
            waits = counted(len(owed), "notified shipment waits", "notified shipments wait")
            when = f"{first['due'][:10]} {first['due'][11:16]} UTC"
            past = "; it is past" if first["overdue"] else ""
            message = f"{waits} for the reply of this node, the first until {when}{past}"
            yield "shipments-waiting", message, "see: picket shipments list"

    def _unread(self, cases: Casebook) -> Sequence[str]:
        """Return whose alerts that hold now were not read here."""
        sql = "SELECT 1 FROM items WHERE kind = 'alert.special' AND author <> ? LIMIT 1"
        if not list(cases.database.query(sql, [self._core.node_id])):
            return ()
        return [
            each["author"] for each in self.alerts()["items"]
            if not each["read"] and not each["own"]
        ]  # fmt: skip

    def _owed(self, cases: Casebook) -> list[Row]:
        # Whoever asked for more time has replied, and owes another reply.
        rows = cases.database.query(
            "SELECT DISTINCT n.subject, n.owner FROM items n WHERE n.kind = 'pen.notification' "
            "AND EXISTS (SELECT 1 FROM json_each(n.body, '$.to') WHERE value = ?) "
            "AND NOT EXISTS (SELECT 1 FROM items r WHERE r.subject = n.subject "
            "AND r.owner = n.owner AND r.kind = 'pen.reply' AND r.author = ? "
            "AND json_extract(r.body, '$.answer') <> 'more_time')",
            [self._core.node_id.hex(), self._core.node_id],
        )  # fmt: skip
        found = [self._shipment(cases, row["subject"], row["owner"]) for row in list(rows)]
        return [row for row in found if row is not None and row["we_owe"]]


def _names(names: Sequence[str]) -> str:
    return ", ".join(sorted(set(names), key=str.casefold))
