"""``picket followup``: ask holders of an incident, see who owes whom an answer, and answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from node.cli.releasing import (
    AlsoTo,
    Incident,
    Json,
    Yes,
    among,
    done,
    json_object,
    moment,
    release,
    seconds_words,
    text_of,
    value_words,
)
from node.cli.terminal import call, plain, read_text, say, show, show_json, table, usage, utc
from protocol import vocabulary as v

app = typer.Typer(
    help="Questions to other authorities about an incident, and their answers.",
    no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip
Request = Annotated[
    str, typer.Argument(metavar="REQUEST", help="Its id, or 6 characters of it or more.")
]
_ESCALATED: Final = ("", "late", "LATE", "VERY LATE")
_ANCHORS: Final = frozenset({"substances", "route", "annex"})
Row = dict[str, Any]


@app.command("ask")
def ask_(
    context: typer.Context,
    incident: Incident,
    *,
    kind: Annotated[list[str], typer.Option(help=f"Repeat it: {', '.join(v.REQUEST_KIND)}.")],
    to: Annotated[list[str], typer.Option(help="Who is asked; repeat it.")],
    question: Annotated[str, typer.Option(help="What you want to know.")] = "",
    question_file: Annotated[
        Path | None, typer.Option(readable=False, help="The question from a file, or -.")
    ] = None,
    priority: Annotated[
        str, typer.Option(help="routine (10 working days), urgent (72 h) or immediate (4 h).")
    ] = "routine",
    due: Annotated[
        str, typer.Option(help="Another time: 2026-03-01, '2026-03-01 08:30', 5d or 6h.")
    ] = "",
    also_to: AlsoTo = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Ask others that hold an incident. Its originator is told, too."""
    for each in kind:
        among("--kind", each, v.REQUEST_KIND)
    among("--priority", priority, v.PRIORITY)
    body: Row = {
        "incident": incident, "kinds": kind, "to": to, "priority": priority,
        "question": text_of(question, question_file, "--question"),
    }  # fmt: skip
    body |= {"due": moment(due, "--due")} if due else {}
    body |= {"also_to": also_to} if also_to else {}
    seen = release(
        context, "/followups", body, yes=yes, as_json=as_json,
        before=lambda preview: say(f"Due:                     {utc(preview['record']['due'])}"),
    )  # fmt: skip
    done(seen, f"Request {seen['id']}", as_json=as_json)


@app.command("list")
def list_(
    context: typer.Context,
    *,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only what is late.")] = False,
    mine: Annotated[bool, typer.Option("--mine", help="Only what this node asks.")] = False,
    theirs: Annotated[bool, typer.Option("--theirs", help="Only what others ask it.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also what is answered.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Cursor of the page before.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 100,
    as_json: Json = False,
) -> None:
    """List requests that wait for an answer, what is late first."""
    if (mine and theirs) or (overdue and everything):
        usage("these two options exclude each other. Leave one out")
    query: dict[str, object] = {"after": after, "limit": limit}
    query["state"] = "overdue" if overdue else "all" if everything else "open"
    query |= {"side": "mine"} if mine else {"side": "theirs"} if theirs else {}
    seen = call(context, "GET", f"/api/v1/followups?{urlencode(query)}", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    table(
        ("REQUEST", "INCIDENT", "FROM", "WAITS FOR", "DUE", "STATE", "ABOUT"),
        [
            (each["id"][:8], each["incident"]["ref"], each["author"],
             each["waiting_for"] or "nobody", utc(each["due"]), _state(each),
             ", ".join(each["kinds"]).replace("_", " "))
            for each in seen["items"]
        ],
    )  # fmt: skip
    if not seen["items"]:
        show("No request waits." if not everything else "There is no request.")
    elif seen["more"]:
        say(f"There are more: --after {seen['next']}")


def _state(row: Row) -> str:
    late = _ESCALATED[min(row["escalation"], len(_ESCALATED) - 1)]
    shown = late or row["state"]
    return f"{shown}, {row['priority']}" if row["priority"] != "routine" else shown


@app.command("show")
def show_(context: typer.Context, request: Request, as_json: Json = False) -> None:
    """Show a request with its answers and messages."""
    seen = call(context, "GET", f"/api/v1/followups/{quote(request, safe='')}", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    show(f"{seen['id']}  {_state(seen)}")
    show(f"incident  {seen['incident']['ref']} of {plain(seen['incident']['author'])}")
    show(f"asked     {utc(seen['at'])} by {plain(seen['author'])}, of {plain(seen['to'])}")
    show(f"due       {utc(seen['due'])}")
    show(f"kinds     {', '.join(seen['kinds']).replace('_', ' ')}")
    show(f"handling  TLP:{seen['handling']['tlp']}")
    _lines(seen["question"])
    for answer in seen["answers"]:
        show()
        show(f"{plain(answer['asked'])}: {answer['state']}{', LATE' if answer['overdue'] else ''}")
        for response in answer["responses"]:
            _response(response)
    for each in seen["thread"]:
        show()
        show(f"{utc(each['message']['at'])}  {plain(each['author'])} says")
        _lines(each["message"]["text"])
    if seen["response_s"] is not None:
        show()
        show(f"First answered after {seconds_words(seen['response_s'])}.")


def _response(response: Row) -> None:
    more = response.get("reason") or response.get("agency")
    told = f": {plain(more).replace('_', ' ')}" if more else ""
    show(f"  {utc(response['at'])}  {response['outcome']}{told}")
    if response.get("text"):
        _lines(response["text"])
    for name in ("substances", "route"):
        for each in response.get(name, ()):
            show(f"    {name}: {plain(value_words(each))}")
    for name, value in (response.get("annex") or {}).items():
        for each in value if isinstance(value, list) else [value]:
            show(f"    {plain(name)}: {plain(value_words(each))}")


def _lines(text: str) -> None:
    for line in text.split("\n"):
        show(f"    {plain(line)}")


@app.command()
def answer(
    context: typer.Context,
    request: Request,
    *,
    interim: Annotated[bool, typer.Option("--interim", help="A first answer; more comes.")] = False,
    final: Annotated[bool, typer.Option("--final", help="The whole answer.")] = False,
    negative: Annotated[bool, typer.Option("--negative", help="Nothing was found.")] = False,
    refused: Annotated[
        str, typer.Option(metavar="REASON", help=f"One of {', '.join(v.REFUSAL)}.")
    ] = "",
    redirected: Annotated[
        str, typer.Option(metavar="AGENCY", help="Who can answer in its place.")
    ] = "",
    text: Annotated[str, typer.Option(help="The answer in words.")] = "",
    text_file: Annotated[
        Path | None, typer.Option(readable=False, help="The words from a file, or -.")
    ] = None,
    anchors_file: Annotated[
        Path | None,
        typer.Option(readable=False, help="JSON with substances, route, annex, as in an incident."),
    ] = None,
    also_to: AlsoTo = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Answer a request to this node. What was found stands in fields, so that it is searched."""
    outcomes = {
        "interim": interim, "final": final, "negative": negative, "refused": bool(refused),
        "redirected": bool(redirected),
    }  # fmt: skip
    chosen = [name for name, given in outcomes.items() if given]
    if len(chosen) != 1:
        usage("say what answer it is. Give one of --interim, --final, --negative, --refused "
              "REASON, --redirected AGENCY")  # fmt: skip
    if refused:
        among("--refused", refused, v.REFUSAL)
    body: Row = {"outcome": chosen[0]}
    body |= {"reason": refused} if refused else {}
    body |= {"agency": redirected} if redirected else {}
    words = read_text(text_file).strip() if text_file is not None else text
    body |= {"text": words} if words else {}
    body |= _anchors(anchors_file) if anchors_file is not None else {}
    body |= {"also_to": also_to} if also_to else {}
    path = f"/followups/{quote(request, safe='')}/responses"
    seen = release(context, path, body, yes=yes, as_json=as_json)
    done(seen, f"Answered: {chosen[0]}.", as_json=as_json)


def _anchors(file: Path) -> Row:
    """Return the fields of a file that may be a whole incident, or what a response has of one."""
    given = json_object(file)
    face = given.get("face")
    if isinstance(face, dict):
        given = {**{n: face[n] for n in ("substances", "route") if n in face},
                 **({"annex": given["annex"]} if given.get("annex") else {})}  # fmt: skip
    if unknown := sorted(set(given) - _ANCHORS):
        usage(f"the file has {unknown[0]!r}. An answer has substances, route and annex")
    return given
