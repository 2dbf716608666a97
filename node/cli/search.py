"""Commands that find incidents, and that show which may belong together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from node.cli.releasing import Yes, audience, done
from node.cli.terminal import (
    Exit,
    call,
    confirm,
    fail,
    plain,
    say,
    show,
    show_json,
    state,
    table,
    utc,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Candidate = Annotated[str, typer.Argument(metavar="CANDIDATE", help="As the list names it.")]
_SUB: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}
app = typer.Typer(help="Incidents that may belong together, found on this node.", **_SUB)


def find(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    text: Annotated[
        list[str] | None,
        typer.Argument(help="Words or numbers, in any script; a * at the end for any ending."),
    ] = None,
    substance: Annotated[str, typer.Option(help="Name, CAS number or id.")] = "",
    country: Annotated[str, typer.Option(help="Any country concerned.")] = "",
    kind: Annotated[str, typer.Option("--type", help="Type of incident.")] = "",
    mode: Annotated[str, typer.Option(help="sea, rail, road, air, mail, or the code.")] = "",
    status: Annotated[str, typer.Option(help="open, concluded, ...")] = "",
    since: Annotated[str, typer.Option(help="Detected from: 2026, 2026-03 or 2026-03-01.")] = "",
    until: Annotated[str, typer.Option(help="Detected until.")] = "",
    container: Annotated[str, typer.Option(help="Four characters of it or more.")] = "",
    document: Annotated[str, typer.Option(help="Number, or its beginning.")] = "",
    batch: Annotated[str, typer.Option(help="Number, or its beginning.")] = "",
    selector: Annotated[str, typer.Option(help="Phone, mail, account, web address.")] = "",
    party: Annotated[str, typer.Option(help="Name, also as written in other scripts.")] = "",
    reference: Annotated[str, typer.Option(help="PI-..., or a national one.")] = "",
    state: Annotated[str, typer.Option(help="released or received.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    cursor: Annotated[str, typer.Option(help="Go on where the last page ended.")] = "",
    as_json: Json = False,
) -> None:
    """Find incidents, the newest first."""
    asked = {
        "text": " ".join(text or ()), "substance": substance, "country": country, "type": kind,
        "mode": mode, "status": status, "since": since, "until": until, "container": container,
        "document": document, "batch": batch, "selector": selector, "party": party,
        "reference": reference, "state": state,
    }  # fmt: skip
    body: dict[str, Any] = {name: value for name, value in asked.items() if value}
    body |= {"limit": limit} | ({"cursor": cursor} if cursor else {})
    seen = call(context, "POST", "/api/v1/incidents/search", body, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    if seen["widened"]:
        say("Nothing has exactly this; these begin so.")
    table(
        ("REF", "STATE", "FROM", "DETECTED", "WHAT"),
        [
            (i["ref"], i["state"], i["author"], utc(i["detected_at"]), i["summary_line"])
            for i in seen["items"]
        ],
    )
    if not seen["items"]:
        show("Nothing was found.")
    elif seen["more"]:
        say(f"There are more: add --cursor {seen['next']}")


@app.command("list")
def links_list(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    incident: Annotated[str, typer.Option(help="Only those of this one.")] = "",
    state: Annotated[str, typer.Option(help="open, dismissed or confirmed.")] = "open",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    before: Annotated[int, typer.Option(min=0, help="Go on where the last page ended.")] = 0,
    as_json: Json = False,
) -> None:
    """List pairs that may belong together, with the reason. Nobody else is told."""
    if incident:
        path = f"/api/v1/incidents/{quote(incident, safe='')}/candidates"
    else:
        query = {"state": state, "limit": limit} | ({"before": before} if before else {})
        path = f"/api/v1/links/candidates?{urlencode(query)}"
    seen = call(context, "GET", path, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    for each in seen["items"]:
        pair = each.get("incidents") or [each["incident"]]
        names = " and ".join(f"{i['ref']} ({plain(i['author'])})" for i in pair)
        told = "" if each["state"] == "open" else f"  [{each['state']}]"
        show(f"{names}{told}")
        show(f"  {plain(each['basis'])}")
        show(f"  {each['id']}")
    if not seen["items"]:
        show("No links were found.")
    elif seen.get("next"):
        say(f"There are more: add --before {seen['next']}")


@app.command("dismiss")
def links_dismiss(context: typer.Context, candidate: Candidate, as_json: Json = False) -> None:
    """Say that two incidents do not belong together; they are not shown again."""
    _decide(context, candidate, "dismiss", "They are not shown again.", as_json=as_json)


@app.command("reopen")
def links_reopen(context: typer.Context, candidate: Candidate, as_json: Json = False) -> None:
    """Take back that two incidents do not belong together."""
    _decide(context, candidate, "reopen", "They are shown again.", as_json=as_json)


@app.command("confirm")
def links_confirm(
    context: typer.Context, candidate: Candidate, yes: Yes = False, as_json: Json = False
) -> None:
    """Say that two incidents belong together, to those alone who hold both."""
    path = f"/api/v1/links/{quote(candidate, safe='')}/confirm"
    preview = call(context, "POST", f"{path}/preview", {}, needs_keys=True)
    if not as_json:
        _pair(preview)
    question = "Note it on this node?" if preview["local"] else "Release it to exactly these?"
    if not yes and not confirm(state(context), question, "--yes"):
        fail("nothing was released", Exit.REFUSED)
    seen = call(context, "POST", path, {"digest": preview["digest"]}, needs_keys=True)
    if seen["local"]:
        done_here = "It is noted on this node; nobody was told."
        show_json(seen) if as_json else show(done_here)
    elif seen["new"]:
        done(seen, "They belong together, and the holders are told.", as_json=as_json)
    else:
        told = f"It was released before, to {plain(seen['recipients'])}; nothing is sent again."
        show_json(seen) if as_json else show(told)


def _pair(preview: Mapping[str, Any]) -> None:
    """Print both incidents, the reason, and who will and will not be told."""
    pair = preview["candidate"]
    for each in pair["incidents"]:
        show(f"{each['ref']}  {plain(each['author'])}  {utc(each['detected_at'])}")
        show(f"  {plain(each['summary_line'])}")
    show(f"{pair['kind'].replace('_', ' ')}: {plain(pair['basis'])}")
    if preview["local"]:
        say("Nobody else who may receive it is known to hold both, so nobody is told.")
    else:
        audience(preview)
    if preview["not_reached"]:
        say(f"Holds both, but may not receive now: {plain(preview['not_reached'])}")


def _decide(context: typer.Context, candidate: str, verb: str, told: str, *, as_json: bool) -> None:
    path = f"/api/v1/links/candidates/{quote(candidate, safe='')}/{verb}"
    seen = call(context, "POST", path, {}, needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        show(told)


def register(incidents_app: typer.Typer) -> None:
    """Add the commands that stand under others' names."""
    incidents_app.command("find")(find)
