"""``picket operations``: operations of limited time, and what each participant brought to them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from node.cli.releasing import (
    AlsoTo,
    Incident,
    Json,
    Tlp,
    Yes,
    done,
    moment,
    release,
    text_of,
)
from node.cli.terminal import call, plain, say, show, show_json, table, usage, utc
from node.words import counted
from protocol.vocabulary import UNIT_SYMBOL

app = typer.Typer(
    help="Operations of limited time, and their tallies.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
Operation = Annotated[
    str,
    typer.Argument(metavar="OPERATION", help="Its id, 6 characters of it or more, or its name."),
]
Row = dict[str, Any]


def _path(operation: str, verb: str = "") -> str:
    return f"/operations/{quote(operation, safe='')}{verb}"


@app.command("open")
def open_(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Option(help="What it is called.")],
    participant: Annotated[list[str], typer.Option(help="Repeat it, or 'all'.")],
    starts: Annotated[str, typer.Option(help="2026-03-01, '2026-03-01 08:30', or now.")],
    ends: Annotated[str, typer.Option(help="The same, or 10d.")],
    rule: Annotated[str, typer.Option(help="What participants report, and how soon.")] = "",
    rule_file: Annotated[
        Path | None, typer.Option(readable=False, help="The rule from a file, or -.")
    ] = None,
    substance: Annotated[list[str] | None, typer.Option(help="Its scope; repeat it.")] = None,
    mode: Annotated[
        list[str] | None, typer.Option(help="1 sea, 2 rail, 3 road, 4 air, 5 mail; repeat it.")
    ] = None,
    country: Annotated[list[str] | None, typer.Option(help="ISO code; repeat it.")] = None,
    tlp: Tlp = "AMBER",
    exercise: Annotated[bool, typer.Option("--exercise", help="Not real.")] = False,
    also_to: AlsoTo = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Open an operation as its convenor."""
    scope: Row = {
        "starts": moment(starts, "--starts", ends=False), "ends": moment(ends, "--ends"),
    }  # fmt: skip
    scope |= {"substances": substance} if substance else {}
    scope |= {"modes": mode} if mode else {}
    scope |= {"countries": [each.upper() for each in country]} if country else {}
    body: Row = {
        "name": name, "participants": participant, "scope": scope,
        "reporting_rule": text_of(rule, rule_file, "--rule"), "handling": {"tlp": tlp.upper()},
    }  # fmt: skip
    body |= {"exercise": True} if exercise else {}
    body |= {"also_to": also_to} if also_to else {}
    seen = release(context, "/operations", body, yes=yes, as_json=as_json)
    done(seen, f"Operation {seen['id']}", as_json=as_json)
    if not as_json:
        say(f"Participants tag their drafts: picket operations tag INCIDENT {seen['id'][:8]}")


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List operations, the newest first."""
    seen = call(context, "GET", "/api/v1/operations", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    table(
        ("OPERATION", "CONVENOR", "STATE", "FROM", "UNTIL", "PARTICIPANTS", "INCIDENTS", "NAME"),
        [
            (each["id"][:8], each["convenor"], each["state"], each["starts"][:10],
             each["ends"][:10], each["participants"], each["incidents"], each["name"])
            for each in seen["items"]
        ],
    )  # fmt: skip
    if not seen["items"]:
        show("There is no operation.")


@app.command("show")
def show_(context: typer.Context, operation: Operation, as_json: Json = False) -> None:
    """Show an operation: scope, participants, rule, news."""
    seen = call(context, "GET", f"/api/v1{_path(operation)}", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    for opened in seen["opened"]:
        exercise = "  EXERCISE" if opened.get("exercise") else ""
        show(f"{plain(opened['name'])}  {seen['state']}  TLP:{opened['handling']['tlp']}{exercise}")
        show(f"id            {seen['operation_id']}")
        show(f"convenor      {plain(seen['convenor'])}")
        show(f"from          {utc(opened['scope']['starts'])}")
        show(f"until         {utc(opened['scope']['ends'])}")
        for name in ("substances", "modes", "countries"):
            if opened["scope"].get(name):
                show(f"{name:<13} {plain(opened['scope'][name])}")
        show(f"participants  {plain(seen['participants'])}")
        for line in opened["reporting_rule"].split("\n"):
            show(f"    {plain(line)}")
    if len(seen["opened"]) > 1:
        show("! Its convenor opened it in two ways. Call it.")
    for notice in seen["notices"]:
        show()
        show(f"{utc(notice['at'])}  {plain(notice['title'])}")
        for line in notice["text"].split("\n"):
            show(f"    {plain(line)}")
    for closed in seen["closed"]:
        show()
        show(f"{utc(closed['at'])}  closed")
        if closed.get("note"):
            show(f"    {plain(closed['note'])}")
    for each in seen["ignored"]:
        show(f"! Not applied: {each['kind']} of {plain(each['author'])}: {plain(each['reason'])}")


@app.command()
def tag(
    context: typer.Context,
    incident: Incident,
    operation: Annotated[str, typer.Argument(metavar="[OPERATION]", help="Its id or name.")] = "",
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Take it out again.")] = False,
    as_json: Json = False,
) -> None:
    """Let a draft belong to an operation. What is released already is amended instead."""
    if remove == bool(operation):
        usage("one of OPERATION and --remove is needed. Name the operation, or take it out")
    body = {} if remove else {"operation": operation}
    path = f"/api/v1/incidents/{quote(incident, safe='')}/operation"
    seen = call(context, "POST", path, body, needs_keys=True)
    if as_json:
        show_json(seen)
    elif seen["operation_id"]:
        show(f"{seen['ref']} belongs to {plain(seen['operation'])}.")
    else:
        show(f"{seen['ref']} belongs to no operation.")


@app.command()
def notice(
    context: typer.Context,
    operation: Operation,
    *,
    title: Annotated[str, typer.Option(help="In one line.")],
    text: Annotated[str, typer.Option(help="The news.")] = "",
    text_file: Annotated[
        Path | None, typer.Option(readable=False, help="The text from a file, or -.")
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Inform those who take part in an operation of this node."""
    body = {"title": title, "text": text_of(text, text_file, "--text")}
    seen = release(context, _path(operation, "/notices"), body, yes=yes, as_json=as_json)
    done(seen, "The notice is on its way.", as_json=as_json)


@app.command()
def close(
    context: typer.Context,
    operation: Operation,
    *,
    note: Annotated[str, typer.Option(help="What came of it.")] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Close an operation of this node; all participants get its tally."""
    body = {"note": note} if note else {}
    seen = release(context, _path(operation, "/close"), body, yes=yes, as_json=as_json)
    done(seen, "The operation is closed.", as_json=as_json)


@app.command()
def tally(
    context: typer.Context,
    operation: Operation,
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, with a row for each sum.")] = False,
    as_json: Json = False,
) -> None:
    """Show what each participant brought, as this node's own log has it."""
    seen = call(context, "GET", f"/api/v1{_path(operation, '/tally')}", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    if as_csv:
        _csv(seen)
        return
    show(f"{plain(seen['name'])}  {seen['state']}, convened by {plain(seen['convenor'])}")
    table(
        ("PARTICIPANT", "INCIDENTS", "SUMS"),
        [(each["participant"], each["incidents"], _sums(each["totals"])) for each in seen["items"]],
    )
    show(f"Together: {counted(seen['incidents'], 'incident')}; {plain(_sums(seen['totals']))}")
    left = [
        f"{counted(seen[name], one)}"
        for name, one in (("duplicates", "duplicate"), ("retracted", "retracted incident"))
        if seen[name]
    ]
    if left:
        show(f"Not counted: {', '.join(left)}.")
    if seen["contested"]:
        many = counted(seen["contested"], "incident counts", "incidents count")
        show(f"! {many} without a quantity: its originator contradicts itself.")
    if seen["differing"]:
        show(f"! The convenor counted otherwise for {plain(seen['differing'])}.")


def _sums(totals: list[Row]) -> str:
    shown = [f"{t['substance']} {t['value']} {UNIT_SYMBOL.get(t['unit'], t['unit'])}"
             for t in totals]  # fmt: skip
    return ", ".join(shown) or "nothing"


def _csv(seen: Row) -> None:
    from protocol.sheets import Sheet, to_csv  # noqa: PLC0415

    rows = [
        (str(seen["name"]), each["participant"], str(each["incidents"]), total["substance"],
         total["unit"], total["value"])
        for each in seen["items"]
        for total in each["totals"] or [{"substance": "", "unit": "", "value": ""}]
    ]  # fmt: skip
    columns = ("operation", "participant", "incidents", "substance", "unit", "value")
    # The line ends of RFC 4180 are part of the file, which print would change on some systems.
    sys.stdout.flush()
    sys.stdout.buffer.write(to_csv(Sheet(title="", columns=columns, rows=tuple(rows))))
