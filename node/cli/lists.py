"""``picket lists``: reference lists of substances, countries, units, packages and modes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from node.cli.releasing import Yes, done, release
from node.cli.terminal import (
    Exit,
    call,
    confirm,
    fail,
    plain,
    read_text,
    say,
    show,
    show_json,
    state,
    table,
    utc,
)
from node.clock import SystemClock, rfc3339
from node.words import counted

app = typer.Typer(
    help="Substances, countries, units, and lists of your own.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
_PAGE: Final = 500
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="LIST", help="Name of the list.")]


def _path(name: str, **query: str) -> str:
    given = urlencode({key: value for key, value in query.items() if value})
    return f"/api/v1/lists/{quote(name, safe='')}" + (f"?{given}" if given else "")


def _own(name: str) -> str:
    return f"/api/v1/imported-lists/{quote(name, safe='')}"


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show which lists there are, in which version, and from where."""
    seen = call(context, "GET", "/api/v1/lists")
    if as_json:
        show_json(seen)
        return
    rows = [
        (each["name"], each["version"], each["rows"], each["origin"], each["source"])
        for each in seen["items"]
    ]
    table(("LIST", "VERSION", "ROWS", "ORIGIN", "SOURCE"), rows)
    for each in seen["items"]:
        if doubtful := each.get("rows_with_unchecked_fields"):
            some = counted(doubtful, "row")
            say(f"{each['name']}: as of {each['as_of']}; {some} with fields that no second source "
                "was found for.")  # fmt: skip
        if each["origin"] == "imported":
            say(f"{plain(each['name'])} was imported {utc(each['imported'])}.")
    if not seen["imported_shown"]:
        say("Lists of your own are shown after: picket unlock")


@app.command("show")
def show_(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Print a list."""
    seen = call(context, "GET", _path(name, limit=str(_PAGE)))
    while seen["more"]:
        page = call(context, "GET", _path(name, limit=str(_PAGE), after=str(seen["next"])))
        seen = {**page, "items": [*seen["items"], *page["items"]]}
    _print(seen, as_json=as_json)


@app.command()
def find(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help="A name, CAS number, InChIKey or code.")],
    name: Annotated[str, typer.Option("--in", help="The list.")] = "substances",
    on: Annotated[str, typer.Option(help="The day for the control status, as 2026-03-01.")] = "",
    as_json: Json = False,
) -> None:
    """Find a substance, or a row of another list. Case, accents and hyphens do not matter."""
    seen = call(context, "GET", _path(name, q=text, on=on))
    if not seen["items"] and not as_json:
        fail(f"nothing in {name} is like {text!r}. Try a CAS number or a part of the name",
             Exit.FAILURE)  # fmt: skip
    _print(seen, as_json=as_json)


def _print(seen: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(seen)
        return
    items = seen["items"]
    if seen["name"] == "substances":
        columns = ("ID", "CAS", f"ON {seen['on']}", "LISTS", "NAME")
        rows = [
            (each["id"], each.get("cas", ""), _table_of(each["status"]), " ".join(each["lists"]),
             f"{each['name']} ({each['salt']})" if each["salt"] else each["name"])
            for each in items
        ]  # fmt: skip
        table(columns, rows)
        if items and items[0]["found_by"] in {"similar", "skeleton"}:
            say("No exact match; these are the nearest.")
    elif seen["name"] == "countries":
        table(("CODE", "ALPHA-3", "NAME"),
              [(each["code"], each["alpha3"], each["names"]["en"]) for each in items])  # fmt: skip
    else:
        for each in items:
            show("  ".join(plain(value) for value in each.values() if isinstance(value, str)))
    if seen["more"]:
        say("There is more: use a longer text.")


def _table_of(status: dict[str, Any]) -> str:
    if status["table"] is None:
        return "not controlled" if status["certain"] else "unknown"
    return f"Table {status['table']}" + ("" if status["certain"] else " (day unclear)")


@app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(readable=False, help="CSV or JSON, or - for input.")],
    name: Annotated[str, typer.Option(help="Name of the list.")] = "special-surveillance",
    version: Annotated[str, typer.Option(help="Version, such as its date.")] = "",
    source: Annotated[str, typer.Option(help="Where it comes from.")] = "",
    *,
    as_json: Json = False,
) -> None:
    """Take in a list of this authority's own. It stays in this node, encrypted.

    Columns: name, and any of cas, inchikey, substance_id, note, since, until.
    """
    given = _someof(read_text(file))
    body = {
        "version": version or given.get("version", ""),
        "source": source or given.get("source", "") or file.name,
        "rows": given["rows"],
    }
    if not body["version"]:
        fail("the version is missing. Give it with --version, such as its date", Exit.USAGE)
    seen = call(context, "PUT", _own(name), body, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    for each in seen["warnings"]:
        say(f"! row {each['row']}: {each['message']}; kept as written")
    show(f"{plain(seen['name'])} {plain(seen['version'])}: {counted(seen['rows'], 'row')}")


def _someof(text: str) -> dict[str, Any]:
    if text.lstrip()[:1] in {"[", "{"}:
        try:
            value = json.loads(text)
        except ValueError as error:
            fail(f"the file is not JSON: {error}. Check it", Exit.USAGE)
        given = {"rows": value} if isinstance(value, list) else value
        if not isinstance(given.get("rows"), list):
            fail("the file has no rows. Give a list of objects with a name", Exit.USAGE)
        return given
    # Spreadsheets mark UTF-8 at the start, and separate by what their country has for a comma.
    plain_text = text.removeprefix("\ufeff")
    head = plain_text.partition("\n")[0]
    separator = max((",", ";", "\t"), key=head.count)
    reader = csv.DictReader(io.StringIO(plain_text), delimiter=separator)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    rows = [{key: value for key, value in row.items() if value} for row in reader]
    if any(None in row for row in rows):
        fail("a line has more columns than the first. Check the file", Exit.USAGE)
    return {"rows": [row for row in rows if row]}


@app.command()
def remove(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Delete an imported list."""
    seen = call(context, "DELETE", _own(name), needs_keys=True)
    if as_json:
        show_json(seen)
        return
    show(f"{plain(seen['name'])} is deleted.")


# --- updates of peers ------------------------------------------------------------------------
Proposal = Annotated[str, typer.Argument(metavar="ID", help="As picket lists proposals names it.")]


def _update(proposal: str, verb: str = "") -> str:
    return f"/api/v1/list-updates/{quote(proposal, safe='')}" + (f"/{verb}" if verb else "")


@app.command()
def proposals(context: typer.Context, as_json: Json = False) -> None:
    """List versions of lists that peers propose. Nothing is taken by itself."""
    seen = call(context, "GET", "/api/v1/list-updates", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    for each in seen["items"]:
        _proposed(each)
    if not seen["items"]:
        show("Nothing is proposed.")


@app.command("show-update")
def show_update(context: typer.Context, proposal: Proposal, as_json: Json = False) -> None:
    """Show a proposed version: what it brings, changes and leaves out, and its rows."""
    seen = call(context, "GET", _update(proposal), needs_keys=True)
    if as_json:
        show_json(seen)
        return
    _proposed(seen)
    for what in ("new", "changed", "gone"):
        for key in seen[what]:
            show(f"  {what}: {plain(key)}")
    for row in seen["items"]:
        days = " to ".join(row.get(name, "...") for name in ("since", "until") if name in row)
        fields = ", ".join(f"{name} {text}" for name, text in row["fields"].items())
        show(plain(f"{row['key']}: {fields}" + (f" ({days})" if days else "")))


def _proposed(row: dict[str, Any]) -> None:
    show(f"{plain(row['id'])}: {counted(row['rows'], 'row')}, {len(row['new'])} new, "
         f"{len(row['changed'])} changed, {len(row['gone'])} gone")  # fmt: skip
    show(f"  from {plain(row['effective'])}, {plain(row['source'])}")
    if row["refused"] is not None:
        say(f"  It cannot be taken: {plain(row['refused'])}")


@app.command()
def accept(
    context: typer.Context, proposal: Proposal, yes: Yes = False, as_json: Json = False
) -> None:
    """Take a proposed version; picket lists remove gives it up again."""
    seen = call(context, "GET", _update(proposal), needs_keys=True)
    if not as_json:
        _proposed(seen)
    if not yes and not confirm(state(context), "Take it?", "--yes"):
        fail("nothing was taken", Exit.REFUSED)
    seen = call(context, "POST", _update(proposal, "accept"), {}, needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        show(f"{plain(seen['name'])} {seen['version']} of {plain(seen['peer'])} is taken.")


@app.command()
def ignore(context: typer.Context, proposal: Proposal, as_json: Json = False) -> None:
    """Show a proposed version no more; a newer one is shown again."""
    seen = call(context, "POST", _update(proposal, "ignore"), {}, needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        show("It is not shown again.")


@app.command()
def propose(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(readable=False, help="CSV or JSON, or - for input.")],
    to: Annotated[list[str], typer.Option("--to", help="Who gets it, or all; repeat it.")],
    version: Annotated[int, typer.Option(min=1, help="A number, higher than the last.")],
    *,
    name: Annotated[str, typer.Option(help="Name of the list.")] = "substances",
    source: Annotated[str, typer.Option(help="What it rests on.")] = "",
    effective: Annotated[str, typer.Option(help="From when it holds, as 2026-03-01.")] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Propose a whole version of a list to peers; each of them decides whether to take it.

    Columns: key (for substances their id) or name, since, until, and any others.
    """
    given = _someof(read_text(file))
    body = {
        "name": name, "version": version, "rows": list(map(_list_row, given["rows"])), "to": to,
        "effective": effective or rfc3339(SystemClock().now())[:10],
        "source": source or str(given.get("source", "")) or file.name,
    }  # fmt: skip
    seen = release(context, "/list-updates", body, yes=yes, as_json=as_json)
    done(seen, f"Version {version} of {plain(name)} is proposed.", as_json=as_json)


def _list_row(row: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in row.items() if value not in {"", None}}
    key = rest.pop("key", None) or rest.pop("id", None) or rest.get("name")
    days: dict[str, Any] = {name: rest.pop(name) for name in ("since", "until") if name in rest}
    return {"key": key, **days, "fields": rest}
