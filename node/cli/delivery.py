"""Commands about deliveries: who has an envelope, who still owes a receipt, and statements."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from node.cli.terminal import (
    HOW_TO_START,
    Exit,
    call,
    fail,
    plain,
    read_text,
    say,
    show,
    show_json,
    table,
    usage,
    utc,
    write_new,
)
from node.words import counted
from protocol import limits
from protocol.errors import PicketError

app = typer.Typer(
    help="Who has an envelope, and who owes a receipt.", no_args_is_help=True, rich_markup_mode=None
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path | None, typer.Option(readable=False, help="Write it to this file.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")]
_SHORT: Final = 16
"""Digits of an envelope id in a table; --json has all of them."""


# --- one incident ----------------------------------------------------------------------------
def deliveries(items: list[dict[str, Any]]) -> None:
    """Print what each recipient and carrier of an incident has."""
    table(
        ("RECIPIENT", "PART", "LAYERS", "SINCE", "STATE"),
        [
            (d["peer"], d["part"], d["layers"], utc(d["at"]) if d["at"] else "-",
             _delivery_state(d))
            for d in items
        ],
    )  # fmt: skip


_STATES = {
    "queued": "waiting", "sent": "sent, no receipt yet", "held": "held, not needed so far",
    "withdrawn": "taken back, not received",
}  # fmt: skip
_REFUSALS = {
    "untrusted-key": "it has not approved this node yet",
    "quota": "too much at once, it is sent again",
    "busy": "its disk is full, it is sent again",
    "custody-full": "the carrier has no room",
    "not-carrying": "it carries nothing for others",
    "unknown-card": "it lacks this node's card, it is sent again",
    "unknown-epoch": "it lacks what came before, it is sent again",
}


def _delivery_state(row: dict[str, Any]) -> str:
    state_word: str = _STATES.get(row["state"], row["state"])
    if row["erased_at"]:
        return f"{state_word}, ERASED there: proof of {utc(row['erased_at'])}"
    if not row["code"]:
        return state_word
    if row["state"] == "refused" and row["code"] in _REFUSALS:
        return f"{state_word}: {_REFUSALS[row['code']]} ({row['code']})"
    return f"{state_word} ({row['code']})"


# --- missing receipts ------------------------------------------------------------------------
@app.command("missing")
def missing(
    context: typer.Context,
    peer: Annotated[str, typer.Argument(metavar="[PEER]", help="Name or node id.")] = "",
    as_json: Json = False,
) -> None:
    """Show whose receipts are missing past their deadline.

    A receipt is due ten minutes after the sending, while the peer is linked; and a day after it was
    queued, if the peer was linked since. It works while the node is locked or stopped, too.
    """
    query = f"?{urlencode({'peer': peer})}" if peer else ""
    seen = call(context, "GET", f"/api/v1/deliveries/missing{query}")
    if as_json:
        show_json(seen)
        return
    if not seen["running"]:
        say(f"The node is not running, so this is as of when it stopped. {HOW_TO_START}")
    if not seen["peers"]:
        who = f" from {plain(peer)}" if peer else ""
        show(f"No receipt{who} is overdue.")
    for number, owed in enumerate(seen["peers"]):
        if number:
            show()
        _owed(owed)
    if seen["peers"] and seen["locked"]:
        say("References are shown once the node is unlocked: picket unlock")


def _owed(owed: dict[str, Any]) -> None:
    name, count = plain(owed["peer"]), owed["count"]
    show(f"{name} owes {counted(count, 'receipt')}, the oldest since {utc(owed['oldest'])}")
    table(
        ("INCIDENT", "ENVELOPE", "PART", "SINCE", "TRIES", "LAST ANSWER"),
        [
            (_incident(row), row["envelope_id"][:_SHORT], row["part"], utc(row["since"]),
             row["tries"], _answer(row))
            for row in owed["items"]
        ],
    )  # fmt: skip
    if count > len(owed["items"]):
        say(f"These are the {len(owed['items'])} oldest of {count}.")


def _incident(row: dict[str, Any]) -> str | None:
    reference: str | None = row["ref"]
    if reference is None and not row["own"]:
        return f"carried for {row['author']}"
    return reference


def _answer(row: dict[str, Any]) -> str:
    """Return in words what a peer said last of an envelope that it gave no receipt for."""
    if row["code"]:
        return f"{_REFUSALS.get(row['code'], 'it refused it')} ({row['code']})"
    return "none" if row["tries"] else "not sent yet"


# --- statements ------------------------------------------------------------------------------
@app.command("statement")
def statement(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="INCIDENT|ENVELOPE", help="Reference, id or envelope id.")
    ],
    out: Annotated[Path | None, typer.Option(readable=False, help="Write it to this file.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file if it exists.")
    ] = False,
) -> None:
    """Sign a statement of who has an incident, one for each of its envelopes.

    Anybody can check it: picket delivery check FILE. An envelope id works while the node is locked.
    """
    from node.delivery import parse_envelope_id  # noqa: PLC0415

    ids = [what]
    if parse_envelope_id(what) is None:
        seen = call(context, "GET", f"/api/v1/incidents/{quote(what, safe='')}", needs_keys=True)
        ids = [row["envelope_id"] for row in seen["envelopes"]]
        if not ids:
            fail("this is a draft: nobody has it. Release it first", Exit.REFUSED)
    path = "/api/v1/envelopes/{}/statement"
    text = "".join(call(context, "GET", path.format(each))["statement"] for each in ids)
    if out is None:
        sys.stdout.write(text)
        return
    write_new(out, text, force=force)
    say(f"Written to {out}. It names all recipients. See it with: picket delivery check {out}")


@app.command("check")
def check(
    file: Annotated[
        Path, typer.Argument(readable=False, help="File with statements, or - for input.")
    ],
    author: Annotated[str, typer.Option(help="Node id that it must come from.")] = "",
    network: Annotated[str, typer.Option(help="Name of the network.")] = "",
    as_json: Json = False,
) -> None:
    """Check delivery statements. It needs no node. Exit code 5 if one does not verify.

    Exit code 1 if all verify and one does not say that everybody reachable has the envelope.
    """
    from keys.fingerprint import parse_node_id  # noqa: PLC0415
    from node.delivery import report_row  # noqa: PLC0415
    from protocol.delivery_statement import check_statement, dearmor_statements  # noqa: PLC0415
    from protocol.suite import network_id  # noqa: PLC0415

    try:
        expected = parse_node_id(author) if author else None
    except PicketError as error:
        usage(f"--author is not a whole node id: {error.message}. Give all 8 groups of 7 letters")
    named = network_id(network) if network else None
    rows = [
        report_row(check_statement(data, network=named, author=expected))
        for data in dearmor_statements(read_text(file, maximum=2 * limits.MAX_DELIVERY_STATEMENT))
    ]
    if as_json:
        show_json(rows)
    else:
        for number, row in enumerate(rows, start=1):
            if len(rows) > 1:
                show(f"Statement {number} of {len(rows)}")
            _report(row)
    if not all(row["genuine"] for row in rows):
        raise typer.Exit(Exit.UNVERIFIED)
    if not all(row["holds"] for row in rows):
        raise typer.Exit(Exit.FAILURE)


_CLAIMS = {
    "holds": "Delivered to all that the author could reach.",
    "fails": "NOT delivered to all that the author could reach.",
    "open": "Made too early to tell: recipients could still be reached.",
}


def _report(row: dict[str, Any]) -> None:
    said = row["statement"]
    if said is not None and row["genuine"]:
        show(_CLAIMS[said["claim"]])
    else:
        show("It does NOT verify: believe nothing of it.")
    if said is not None:
        show(f"envelope  {said['envelope_id']}")
        show(f"author    {plain(said['authority'])}, {said['author']}")
        show(f"released  {utc(said['released'])}; recipients linked within {said['window_s']} s "
             "count as reachable")  # fmt: skip
        show(f"made      {utc(said['made'])}")
        show(f"facts     {said['facts']}")
        words = {"delivered": "delivered", "owed": "owed, linked", "unreachable": "last seen"}
        table(
            ("RECIPIENT", "NODE", "STATE"),
            [
                (r["authority"], r["node_id"][:23], words[r["state"]] + _since(r))
                for r in said["recipients"]
            ],
        )
    for check in row["checks"]:
        mark = "ok  " if check["ok"] else "FAIL" if check["code"] else "-   "
        show(f"{mark}  {check['check']}: {plain(check['detail'])}")
    show()


def _since(item: dict[str, Any]) -> str:
    if item["state"] == "delivered":
        return ""
    return " " + utc(item.get("linked_from") or item.get("last_seen"))
