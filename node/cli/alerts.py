"""``picket alerts``: warnings about a method or a substance, of no single incident."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from node.cli.releasing import Json, Tlp, Yes, done, moment, release, text_of, value_words
from node.cli.terminal import call, plain, say, show, show_json, table, utc

app = typer.Typer(
    help="Warnings to other authorities about a method or a substance.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
Alert = Annotated[
    str, typer.Argument(metavar="ALERT", help="Its id, 6 characters of it or more, or its title.")
]


@app.command()
def new(
    context: typer.Context,
    *,
    title: Annotated[str, typer.Option(help="In one line.")],
    to: Annotated[list[str], typer.Option(help="Who gets it; repeat it, or 'all'.")],
    text: Annotated[str, typer.Option(help="What to look out for.")] = "",
    text_file: Annotated[
        Path | None, typer.Option(readable=False, help="The text from a file, or -.")
    ] = None,
    substance: Annotated[list[str] | None, typer.Option(help="Repeat it.")] = None,
    country: Annotated[list[str] | None, typer.Option(help="ISO code; repeat it.")] = None,
    expires: Annotated[str, typer.Option(help="2026-03-01, or 30d.")] = "90d",
    tlp: Tlp = "AMBER",
    exercise: Annotated[bool, typer.Option("--exercise", help="Not real.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Send a warning. It names no person and no single incident."""
    body: dict[str, Any] = {
        "title": title, "text": text_of(text, text_file, "--text"), "to": to,
        "expires": moment(expires, "--expires"), "handling": {"tlp": tlp.upper()},
    }  # fmt: skip
    body |= {"substances": substance} if substance else {}
    body |= {"countries": [each.upper() for each in country]} if country else {}
    body |= {"exercise": True} if exercise else {}
    seen = release(context, "/alerts", body, yes=yes, as_json=as_json)
    done(seen, f"Alert {seen['id']}", as_json=as_json)


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List the alerts that hold now, those not read here first."""
    seen = call(context, "GET", "/api/v1/alerts", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    table(
        ("ALERT", "FROM", "TLP", "UNTIL", "READ", "TITLE"),
        [
            (each["alert"]["alert_id"][:8], each["author"], each["alert"]["handling"]["tlp"],
             utc(each["alert"]["expires"]), "own" if each["own"] else each["read"],
             each["alert"]["title"])
            for each in seen["items"]
        ],
    )  # fmt: skip
    if not seen["items"]:
        show("No alert holds now.")


@app.command("show")
def show_(context: typer.Context, alert: Alert, as_json: Json = False) -> None:
    """Show an alert, and note that it was read here."""
    path = f"/api/v1/alerts/{quote(alert, safe='')}"
    seen = call(context, "GET", path, needs_keys=True)
    call(context, "POST", f"{path}/read", {}, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    told = seen["alert"]
    exercise = "  EXERCISE" if told.get("exercise") else ""
    show(f"{plain(told['title'])}  TLP:{told['handling']['tlp']}{exercise}")
    show(f"from      {plain(seen['author'])}, {utc(told['at'])}")
    show(f"until     {utc(told['expires'])}{'' if seen['active'] else ', and holds no more'}")
    for name in ("substances", "countries", "mo"):
        if told.get(name):
            show(f"{name:<9} {plain(value_words(told[name]))}")
    show()
    for line in told["text"].split("\n"):
        show(plain(line))
    say(f"Its id: {told['alert_id']}")
