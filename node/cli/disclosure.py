"""Commands that hand over or erase incidents, and that show who saw them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer
from typer.core import TyperGroup
from typing_extensions import override

from node.cli.terminal import (
    WHICH_ENVELOPE,
    Exit,
    call,
    confirm,
    fail,
    new_file,
    plain,
    read_text,
    say,
    show,
    show_json,
    state,
    table,
    usage,
    utc,
)
from node.words import counted
from protocol import limits

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Incident = Annotated[
    str, typer.Argument(metavar="INCIDENT", help="Reference or id, with @PEER if two have it.")
]
_REASONS: Final = ("legal_order", "personal_data_erasure", "retention", "entered_in_error")
_WORDS: Final = {
    "read": "read", "raw": "took the signed bytes", "proof": "took the proof",
    "attachment": "took an attachment", "disclose": "disclosed", "erase": "ERASED",
    "export-evidence": "exported evidence", "seal-again": "sealed it again for a reader",
    "opened-late": "opened it late",
}  # fmt: skip


def _path(key: str, verb: str) -> str:
    return f"/api/v1/incidents/{quote(key, safe='')}/{verb}"


def access(context: typer.Context, incident: Incident, as_json: Json = False) -> None:
    """Show who read, exported, disclosed or erased an incident here. Reading counts once a day."""
    seen = call(context, "GET", _path(incident, "access"), needs_keys=True)
    if as_json:
        show_json(seen)
        return
    table(
        ("WHEN", "WHO", "WHAT", "NOTE", "LOG"),
        [
            (utc(r["at"]), r["who"], _WORDS.get(r["what"], r["what"]), r["note"], r["log_index"])
            for r in seen["items"]
        ],
    )


# --- erasing ---------------------------------------------------------------------------------
def erase(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    incident: Incident,
    reason: Annotated[
        str, typer.Option(help="legal_order, personal_data_erasure, retention, entered_in_error.")
    ],
    by: Annotated[str, typer.Option(help="The officer who decided it.")],
    also_undelivered: Annotated[
        bool, typer.Option("--also-undelivered", help="Take back what is not delivered yet.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase an incident here for good: content, attachments and keys. The log stays provable."""
    chosen = state(context)
    if reason not in _REASONS:
        usage(f"{reason!r} is no reason. Give one of {', '.join(_REASONS)}")
    plan = call(context, "GET", _path(incident, "erasure"), needs_keys=True)
    if plan["undelivered"] and not also_undelivered:
        fail(
            f"it is still to be delivered to {plain(plan['undelivered'])}. Wait for their receipts,"
            " or take it back with --also-undelivered",
            Exit.REFUSED,
        )
    _warn(plan)
    if not yes and not confirm(chosen, f"Erase {plan['ref']}? This cannot be undone.", "--yes"):
        fail("nothing was erased", Exit.REFUSED)
    body = {"reason": reason, "by": by, "also_undelivered": also_undelivered}
    seen = call(context, "POST", _path(incident, "erase"), body, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    show(f"{seen['ref']} is erased here: {counted(len(seen['envelopes']), 'message')}.")
    if not seen["done"]:
        say("! The disk is full: the rest is overwritten when it has room, or at the next start.")
    say("Check the log with: picket log verify. Erase it in backups of this node too.")


def _warn(plan: dict[str, Any]) -> None:
    messages = counted(plan["envelopes"], "message")
    files = counted(plan["attachments"], "attachment")
    say(f"{plan['ref']} from {plain(plan['author'])}: {messages}, {files}.")
    say("Its content, attachments and keys are deleted on this node and cannot be brought back.")
    say("Its reference, the reason and the proof that it existed stay.")
    if plan["own"]:
        say("Whoever received it keeps it: ask them to erase it too.")
    else:
        say("Its author is told that it was erased here, with a proof.")
    if plan["undelivered"]:
        say(f"! Taken back from {plain(plan['undelivered'])}; what is on its way may still arrive.")
    if plan["strands"]:
        say(
            f"! {plain(plan['strands'])} may be unable to open later messages of the same series, "
            "because this one holds their key. Call them."
        )


# --- disclosing ------------------------------------------------------------------------------
class _Disclose(TyperGroup):
    """Takes an incident where a command is expected: ``picket disclose XA-2026-...``."""

    @override
    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        if args and args[0] not in self.commands:
            args = ["message", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Disclose, no_args_is_help=True, rich_markup_mode=None,
    context_settings={"ignore_unknown_options": True},
    help="Hand over one message, with the key that opens it, to an auditor or a court.",
)  # fmt: skip


@app.command("message")
def disclose_message(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="INCIDENT|ENVELOPE", help="Reference, id or envelope id.")
    ],
    out: Annotated[Path, typer.Option(help="A new file to write it to.")],
    to: Annotated[str, typer.Option(help="Who gets it.")],
    by: Annotated[str, typer.Option(help="The officer who decided it.")],
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    to_originator: Annotated[
        bool, typer.Option("--to-originator", help="It goes back to its author.")
    ] = False,
    number: Annotated[int | None, typer.Option("--envelope", min=0, help=WHICH_ENVELOPE)] = None,
    as_json: Json = False,
) -> None:
    """Write one message with its key to a file. Whoever has the file can read the message.

    It opens this message and no other. The log notes who got it, before the file is written.
    """
    body: dict[str, Any] = {"what": what, "to": to, "by": by, "reason": reason}
    if number is not None:
        body["number"] = number
    if to_originator:
        body["reader"] = "originator"
    # The file first: what cannot be handed over must not stand in the log as handed over.
    with new_file(out, room=2 * limits.MAX_DISCLOSURE) as write:
        seen = call(context, "POST", "/api/v1/disclosures", body, needs_keys=True)
        write(seen["disclosure"].encode("ascii"))
    if as_json:
        show_json({key: value for key, value in seen.items() if key != "disclosure"})
        return
    show(f"Message {seen['envelope_id']}, log entry {seen['log_index']}")
    for line in seen["handling_text"]:
        show(f"  {plain(line)}")
    for each in seen["attachments"]:
        say(f"! The record has the key of attachment {each['sha256'][:16]}; hand the file over "
            "apart, if it is meant to go too.")  # fmt: skip
    say(f"Written to {out}: it is readable to whoever has it. See it: picket disclose check {out}")


@app.command("check")
def disclose_check(
    file: Annotated[Path, typer.Argument(help="The file with the disclosure.")],
    author: Annotated[str, typer.Option(help="Node id that the message must come from.")] = "",
    network: Annotated[str, typer.Option(help="Name of the network.")] = "",
    as_json: Json = False,
) -> None:
    """Check a disclosed message and print it. It needs no node. Exit code 5 if it does not verify.

    Compare the author's node id with one that you have from elsewhere: names prove nothing.
    """
    from keys.fingerprint import parse_node_id  # noqa: PLC0415
    from node.handling import report_row  # noqa: PLC0415
    from protocol.disclosure import check_disclosure, dearmor_disclosure  # noqa: PLC0415
    from protocol.suite import network_id  # noqa: PLC0415

    text = read_text(file, maximum=2 * limits.MAX_DISCLOSURE)
    row = report_row(
        check_disclosure(
            dearmor_disclosure(text),
            network=network_id(network) if network else None,
            author=parse_node_id(author) if author else None,
        )
    )
    if as_json:
        show_json(row)
    else:
        _report(row)
    if not row["genuine"]:
        raise typer.Exit(Exit.UNVERIFIED)


def _report(row: dict[str, Any]) -> None:
    said = row["message"]
    if said is not None:
        show(f"message   {said['envelope_id']}")
        show(f"author    {plain(said['authority'])}, {said['author']}")
        show(f"made      {utc(said['created'])}")
        show(f"for       {len(said['recipients'])}: {', '.join(said['recipients'])}")
    for check in row["checks"]:
        mark = "ok  " if check["ok"] else "FAIL" if check["code"] else "-   "
        show(f"{mark}  {check['check']}: {plain(check['detail'])}")
    if row["genuine"]:
        show()
        tree(row["record"])
        for line in _handling(row["record"]):
            show(f"! {plain(line)}")
        show("\nThe author signed exactly this message.")
    else:
        show("It does NOT verify: believe nothing of it.")


def _handling(record: dict[str, Any]) -> tuple[str, ...]:
    """Return what a disclosed face, or what was written about an incident, asks of its reader."""
    from protocol.errors import InvalidIncidentError  # noqa: PLC0415
    from protocol.handling_text import handling_lines  # noqa: PLC0415
    from protocol.incident import parse_handling  # noqa: PLC0415

    given = (record.get("face") or record).get("handling")
    try:
        return () if given is None else handling_lines(parse_handling(given))
    except InvalidIncidentError:
        return ()  # it is shown above as it is; a later version may know more words


def tree(value: Any, depth: int = 0) -> None:  # noqa: ANN401
    """Print a record, one field a line."""
    pad = "  " * depth
    for key, item in value.items() if isinstance(value, dict) else enumerate(value, 1):
        nested = isinstance(item, dict) or (
            isinstance(item, list) and any(isinstance(part, dict) for part in item)
        )
        if nested:
            show(f"{pad}{key}")
            tree(item, depth + 1)
        else:
            show(f"{pad}{key}: {plain(item)}")
