"""``picket obligations``: what is owed to the Board; and permissions and retention of incidents."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from node.cli.terminal import Exit, ask, call, fail, plain, say, show, show_json, state, table
from node.home import user_name
from node.words import counted

app = typer.Typer(
    help="What is owed to the Board: PICS entries, Form D totals.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
_FORMATS: Final = ("text", "csv", "xlsx")
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Incident = Annotated[str, typer.Argument(metavar="INCIDENT", help="Reference or id.")]
Out = Annotated[
    Path | None, typer.Option(readable=False, help="A new file; .csv or .xlsx says which form.")
]
Form = Annotated[str, typer.Option("--format", help="text, csv or xlsx.")]
By = Annotated[str, typer.Option(help="Who takes the copy; else the user of this command.")]
Bom = Annotated[bool, typer.Option("--bom", help="Mark CSV as UTF-8, for Excel.")]
_STATUS: Final = {
    "to_send": "to be sent",
    "undecided": "not decided",
    "sent": "sent",
    "via_pics": "sent",
    "not_intended": "not to be sent",
    "amended_since": "sent, and AMENDED since: send the newest",
    "retracted_since": "sent, and RETRACTED since: tell the Board",
}


# --- sheets ----------------------------------------------------------------------------------
def _form_of(form: str, out: Path | None) -> str:
    chosen = form or ("" if out is None else out.suffix.lstrip(".").lower())
    if not chosen or chosen == "txt":
        return "text"
    if chosen not in _FORMATS:
        fail(f"--format {chosen!r} is none of: {', '.join(_FORMATS)}", Exit.USAGE)
    if chosen == "xlsx" and out is None:
        fail("XLSX is no text. Give --out FILE.xlsx", Exit.USAGE)
    return chosen


def _deliver(seen: dict[str, Any], form: str, out: Path | None, *, bom: bool) -> None:
    """Print a sheet or write it to a new file that nobody else can read."""
    from node.obligations import rendered, sheet_of  # noqa: PLC0415  only where a sheet is made

    data = rendered(sheet_of(seen), form, bom=bom)
    if out is None:
        show(data.decode().rstrip("\r\n"))
        return
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(handle, "wb") as opened:  # noqa: PTH123  a handle
            opened.write(data)
    except FileExistsError:
        fail(f"{out} exists. Choose another name", Exit.REFUSED)
    except OSError as error:
        fail(f"{out} cannot be written: {error.strerror}. Check the path", Exit.FAILURE)
    say(f"Written to {out}: {counted(len(seen['rows']), 'row')}.")


def _check_form(form: str, out: Path | None) -> str:
    """Return the form of a sheet, before anything is asked for and logged."""
    chosen = _form_of(form, out)
    if out is not None and os.path.lexists(out):
        fail(f"{out} exists. Choose another name", Exit.REFUSED)
    if chosen == "xlsx":
        from importlib.util import find_spec  # noqa: PLC0415

        if find_spec("openpyxl") is None:
            fail("openpyxl, which writes XLSX, is not installed. Install picket-node[xlsx], or "
                 "choose csv", Exit.USAGE)  # fmt: skip
    return chosen


@app.command()
def pics(
    context: typer.Context,
    *,
    out: Out = None,
    form: Form = "",
    by: By = "",
    persons: Annotated[
        bool, typer.Option("--with-persons", help="Also what names a person, and the narrative.")
    ] = False,
    bom: Bom = False,
    as_json: Json = False,
) -> None:
    """Show the incidents still to be entered into PICS, field by field, ready to type."""
    chosen = _check_form(form, out)
    query = {"by": by or user_name(), **({"persons": "true"} if persons else {})}
    path = f"/api/v1/obligations/pics?{urlencode(query)}"
    seen = call(context, "GET", path, needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        _deliver(seen, chosen, out, bom=bom)


@app.command("form-d")
def form_d(
    context: typer.Context,
    *,
    year: Annotated[int, typer.Option(help="The calendar year.")],
    of: Annotated[str, typer.Option(help="A peer, whose incidents here are counted.")] = "",
    out: Out = None,
    form: Form = "",
    by: By = "",
    bom: Bom = False,
    as_json: Json = False,
) -> None:
    """Show the seizures of a year by substance and unit, for Form D."""
    chosen = _check_form(form, out)
    query = {"year": str(year), "by": by or user_name()}
    query |= {"of": of} if of else {}
    query |= {"leaves": "true"} if out is not None or chosen != "text" else {}
    seen = call(context, "GET", f"/api/v1/obligations/form-d?{urlencode(query)}", needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        _deliver(seen, chosen, out, bom=bom)


@app.command()
def incb(context: typer.Context, as_json: Json = False) -> None:
    """Show which incidents the Board has, and which it still has to get."""
    seen = call(context, "GET", "/api/v1/obligations/incb", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    table(
        ("REFERENCE", "DETECTED", "TYPE", "PICS", "COPY FOR THE BOARD"),
        [
            (each["ref"], (each["detected_at"] or "")[:10], each["incident_type"], each["pics_ref"],
             _STATUS.get(each["status"], each["status"]))
            for each in seen["items"]
        ],
    )  # fmt: skip


@app.command()
def sent(
    context: typer.Context,
    incident: Incident,
    *,
    pics_ref: Annotated[str, typer.Option("--pics-ref", help="Its number in PICS.")],
    by: Annotated[str, typer.Option(help="Who entered it; else the user of this command.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Correct a wrong number.")] = False,
    as_json: Json = False,
) -> None:
    """Note that an incident was entered into PICS. Doing it again changes nothing."""
    body = {"pics_ref": pics_ref, "by": by or user_name(), "replace": replace}
    path = f"/api/v1/incidents/{quote(incident, safe='')}/pics"
    seen = call(context, "POST", path, body, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    show(f"{seen['ref']}, revision {seen['revision']}, is noted as sent: {plain(seen['pics_ref'])}")


# --- incidents -------------------------------------------------------------------------------
def permit(
    context: typer.Context,
    incident: Incident,
    *,
    basis: Annotated[str, typer.Option(help="originator, or law such as a court's order.")] = "",
    by: Annotated[str, typer.Option(help="The officer who notes it.")] = "",
    note: Annotated[str, typer.Option(help="Who permitted it, when, for what.")] = "",
    as_json: Json = False,
) -> None:
    """Note in the log that another authority's incident may be handed on."""
    chosen = state(context)
    body = {
        "basis": basis or ask(chosen, "Basis (originator or law)", "--basis"),
        "by": by or ask(chosen, "Your name", "--by"),
        "note": note or ask(chosen, "Who permitted it, when, for what", "--note"),
    }
    path = f"/api/v1/incidents/{quote(incident, safe='')}/permissions"
    seen = call(context, "POST", path, body, needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        show(f"{seen['ref']}: the permission is noted as log entry {seen['log_index']}.")


def retention(
    context: typer.Context,
    run: Annotated[bool, typer.Option("--run", help="Apply it now, not only once a day.")] = False,
    as_json: Json = False,
) -> None:
    """Show which incidents must be erased soon, or should be by now."""
    done = call(context, "POST", "/api/v1/retention/run", {}, needs_keys=True) if run else None
    seen = call(context, "GET", "/api/v1/retention", needs_keys=True)
    if as_json:
        show_json({**seen, "done": done})
        return
    if done is not None:
        for word, what in (("erased", "Erased"), ("failed", "Could not be erased")):
            if done[word]:
                show(f"{what}: {', '.join(done[word])}")
    if not seen["items"]:
        show("No incident ends within 30 days.")
        return
    table(
        ("REFERENCE", "FROM", "KEEP UNTIL", "STATE"),
        [(each["ref"], each["author"], each["retain_until"], _STAGES[each["stage"]])
         for each in seen["items"]],
    )  # fmt: skip
    if seen["mode"] == "ask":
        say('Erase each with: picket incidents erase REFERENCE --reason retention. The setting '
            'incidents.retention = "erase" lets the node do it.')  # fmt: skip


_STAGES: Final = {
    "soon": "ends within 30 days",
    "over": "has ended",
    "erase": "has ended; erased by the next pass",
}


def register(incidents: typer.Typer) -> None:
    """Add what stands among the commands about incidents."""
    incidents.command("permit")(permit)
    incidents.command("retention")(retention)


def handling(lines: list[str]) -> None:
    """Print what an incident's handling asks for."""
    for line in lines:
        show(f"  {plain(line)}")
