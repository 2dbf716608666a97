"""``picket incidents new`` and the release of a draft: from seven answers to the peers' desks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from node.cli import attachments, delivery
from node.cli.releasing import json_object
from node.cli.terminal import (
    Exit,
    State,
    ask_if_any,
    call,
    confirm,
    fail,
    plain,
    say,
    show,
    show_json,
    state,
    usage,
)

_ANCHORS = {
    "A1": "an identified party", "A2": "a transport document number",
    "A3": "a container, vessel, flight or plate", "A4": "manufacturer and batch",
    "A5": "the route", "A6": "a telephone, mail or account", "A7": "a photo of label or document",
    "A8": "a contact for follow-up",
}  # fmt: skip
_SHOWN_WARNINGS = 5
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who is to receive a draft."""

    to: list[str]
    annex_to: list[str] | None = None
    carrier: list[str] | None = None
    separately: bool = False


def _path(key: str, verb: str = "") -> str:
    return f"/api/v1/incidents/{quote(key, safe='')}{verb}"


def _quoted(name: str) -> str:
    return f'"{plain(name)}"' if " " in name else plain(name)


# --- reporting -------------------------------------------------------------------------------
def new(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option(readable=False, help="JSON file with the incident, or - for input."),
    ] = None,
    kind: Annotated[str, typer.Option("--type", help="What happened, such as seizure.")] = "",
    place: Annotated[
        str, typer.Option(help="Country, and port or kind of place: NL, or NLRTM seaport.")
    ] = "",
    when: Annotated[str, typer.Option(help="When detected, UTC: '2026-03-01 08:30', or now.")] = "",
    substance: Annotated[str, typer.Option(help="Its name or CAS number.")] = "",
    amount: Annotated[str, typer.Option(help="Such as 20160 L, or 'about 25 kg powder'.")] = "",
    form: Annotated[str, typer.Option(help="liquid, solid_powder, ...; else by the amount.")] = "",
    summary: Annotated[str, typer.Option(help="One sentence for others; names no person.")] = "",
    contact: Annotated[
        str, typer.Option(help="Whom others may ask: 'Duty desk, duty@example.org'.")
    ] = "",
    route: Annotated[str, typer.Option(help="The way it took, such as 'CN > NL > PL'.")] = "",
    tlp: Annotated[str, typer.Option(help="Handling; AMBER if not given.")] = "",
    exercise: Annotated[bool, typer.Option("--exercise", help="Not real.")] = False,
    operation: Annotated[str, typer.Option(help="The operation that it belongs to.")] = "",
    photo: Annotated[
        Path | None, typer.Option(readable=False, help="A photo of the label, for the annex.")
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option(help="Release it to these; repeat it, or 'all'.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Release without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Report an incident: seven questions, or a file. Nothing is released that you do not see."""
    chosen = state(context)
    answers = {
        "kind": kind, "place": place, "when": when, "substance": substance, "amount": amount,
        "form": form, "summary": summary, "contact": contact, "route": route, "tlp": tlp,
    }  # fmt: skip
    if file is not None:
        if any(answers.values()) or exercise:
            usage("the file says all of it. Leave out the other answers, or --file")
        body = json_object(file)
    else:
        body = _asked(context, answers, exercise=exercise)
    seen = call(context, "POST", "/api/v1/incidents", body, needs_keys=True)
    if seen.get("duplicate"):
        if as_json:
            show_json(seen)
        else:
            show(f"{seen['ref']} ({seen['state']}) has this external_ref: nothing new was made.")
        return
    if operation:
        path = _path(seen["ref"], "/operation")
        call(context, "POST", path, {"operation": operation}, needs_keys=True)
    if photo is not None:
        attachments.add_to(context, photo, seen["ref"], kind="label_photo")
        # With a photo of the label less is missing, which the node judges.
        seen = {**seen, **call(context, "GET", _path(seen["ref"]), needs_keys=True)}
    if as_json and not to:
        show_json(seen)
        return
    if not as_json:
        _drafted(seen)
    chosen_to = to or _recipients(chosen, seen)
    if chosen_to:
        release(context, seen["ref"], Choice(to=chosen_to), yes=yes, as_json=as_json)
    else:
        named = " ".join(f"--to {_quoted(name)}" for name in seen["suggested_recipients"])
        say(f"Next: picket incidents release {seen['ref']} {named or '--to PEER'}")


def _asked(context: typer.Context, answers: dict[str, str], *, exercise: bool) -> Row:
    # Heavy: the rules of an incident.
    from node.cli.questions import Given, ask_incident  # noqa: PLC0415
    from node.config import load_config  # noqa: PLC0415
    from node.home import Home  # noqa: PLC0415

    chosen = state(context)
    if not chosen.interactive and not any(answers.values()):
        usage("there is nobody to ask. Give --file FILE, or the answers: --type, --when, "
              "--substance, --amount, --summary, --contact")  # fmt: skip
    node = call(context, "GET", "/api/v1/node")
    # Whoever answers for the node answers for its incidents, if nothing else is said.
    desk = load_config(Home(chosen.home)).node.contact
    return ask_incident(chosen, node, Given(**answers, exercise=exercise), contact=desk)


def _drafted(seen: Row) -> None:
    """Print what a draft lacks, and whom it concerns."""
    show(f"Draft {seen['ref']}")
    for warning in seen["warnings"][:_SHOWN_WARNINGS]:
        show(f"! {warning['pointer']}: {plain(warning['message'])}")
    left = len(seen["warnings"]) - _SHOWN_WARNINGS
    if left > 0:
        show(f"! and {left} more: picket incidents show {seen['ref']}")
    enough = "others can act on it" if seen["actionable"] else "others cannot act on it yet"
    show(f"Complete: {seen['score']} of 8, {enough}.")
    if seen["missing_anchors"]:
        show(f"Would help others most: {', '.join(map(_anchor, seen['missing_anchors'][:3]))}.")
    if seen["concerned_countries"]:
        there = ", ".join(map(plain, seen["suggested_recipients"])) or "none"
        show(f"Countries concerned: {', '.join(seen['concerned_countries'])}. Peers there: {there}")


def _anchor(name: str) -> str:
    return f"{_ANCHORS.get(name, name)} ({name})"


def _recipients(chosen: State, seen: Row) -> list[str]:
    """Ask to whom a draft is to be released now; to nobody if there is nobody to ask."""
    if not chosen.interactive:
        return []
    suggested = seen["suggested_recipients"]
    if suggested:
        answer = ask_if_any(
            f"Release it to (Enter for {', '.join(map(plain, suggested))}; names with commas; "
            "- for nobody yet)",
            fault=lambda _: "",
        )
    else:
        answer = ask_if_any(
            "Release it to (names with commas, or all; Enter for nobody yet)", fault=lambda _: ""
        )
    if answer == "-" or not (answer or suggested):
        return []
    return [name.strip() for name in answer.split(",") if name.strip()] or list(suggested)


# --- releasing -------------------------------------------------------------------------------
def release(
    context: typer.Context, incident: str, choice: Choice, *, yes: bool, as_json: bool
) -> None:
    """Show who would receive a draft, ask, and release it to exactly these."""
    chosen = state(context)
    query: Row = {"to": choice.to, "carriers": choice.carrier or []}
    if choice.annex_to:
        query["annex_to"] = choice.annex_to
    if choice.separately:
        query["separately"] = "true"
    path = _path(incident, f"/recipients?{urlencode(query, doseq=True)}")
    preview = call(context, "GET", path, needs_keys=True)
    if not as_json:
        _preview(preview)
    if not yes and not confirm(chosen, "Release it to exactly these?", "--yes"):
        fail("nothing was released", Exit.REFUSED)
    body: Row = {
        "to": choice.to, "carriers": choice.carrier or [], "separately": choice.separately,
        "digest": preview["digest"],
    }  # fmt: skip
    if choice.annex_to:
        body["annex_to"] = choice.annex_to
    seen = call(context, "POST", _path(incident, "/release"), body, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    show(f"{seen['ref']} is released.")
    delivery.deliveries(seen["deliveries"])
    say(f"Receipts arrive here: picket incidents deliveries {seen['ref']}")


def _preview(preview: Row) -> None:
    say(f"Will receive the face:   {plain(preview['will_receive_face'])}")
    say(f"Will receive the annex:  {plain(preview['will_receive_annex'])}")
    if preview["carriers"]:
        say(f"Will carry it unread:    {plain(preview['carriers'])}")
    say(f"Will NOT receive it:     {plain(preview['will_not_receive'])}")
    for sha256 in preview["attachments_without_content"]:
        say(f"! The attachment {sha256[:16]} goes without its content: it is not here.")


def register(incidents: typer.Typer) -> None:
    """Add what stands among the commands about incidents."""
    incidents.command("new")(new)
