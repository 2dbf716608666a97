"""The command tree. Each command is one function; none holds a rule of its own."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from node import __version__
from node.cli import attachments, delivery, disclosure, evidence, keys, log
from node.cli import doctor as doctor_checks
from node.cli.terminal import (
    HOW_TO_START,
    Exit,
    State,
    ask,
    ask_passphrase,
    call,
    choose,
    confirm,
    exit_code,
    fail,
    plain,
    read_text,
    say,
    show,
    show_json,
    state,
    table,
    usage,
    utc,
    write_new,
)
from node.client import Client
from node.home import Home, default_home
from node.words import counted
from protocol.errors import PicketError

app = typer.Typer(
    name="picket", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Share precursor incidents with the authorities you trust, and nobody else.",
)  # fmt: skip
_SUB = {"no_args_is_help": True, "rich_markup_mode": None}
keys_app = typer.Typer(help="This node's keys and card.", **_SUB)  # type: ignore[arg-type]
peers_app = typer.Typer(help="The authorities this node knows.", **_SUB)  # type: ignore[arg-type]
incidents_app = typer.Typer(help="Drafts, released and received incidents.", **_SUB)  # type: ignore[arg-type]
tokens_app = typer.Typer(help="Tokens for programs on this machine.", **_SUB)  # type: ignore[arg-type]
config_app = typer.Typer(help="The settings.", **_SUB)  # type: ignore[arg-type]
for _name, _app in (
    ("keys", keys_app), ("peers", peers_app), ("incidents", incidents_app), ("log", log.app),
    ("attachments", attachments.app), ("evidence", evidence.app), ("delivery", delivery.app),
    ("disclose", disclosure.app),
    ("tokens", tokens_app), ("config", config_app),
):  # fmt: skip
    app.add_typer(_app, name=_name)
keys.register(keys_app, peers_app)
incidents_app.command("access")(disclosure.access)
incidents_app.command("erase")(disclosure.erase)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path | None, typer.Option(readable=False, help="Write it to this file.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", readable=False, help="File that holds the passphrase."),
]
Peer = Annotated[str, typer.Argument(metavar="PEER", help="Name or node id.")]
Incident = Annotated[
    str, typer.Argument(metavar="INCIDENT", help="Reference or id, with @PEER if two have it.")
]


def _version(value: bool) -> None:
    if value:
        show(f"picket {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    home: Annotated[
        Path | None,
        # What cannot be read is told by us, with who may.
        typer.Option("--home", readable=False, help="The node's folder (or PICKET_HOME)."),
    ] = None,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version
    context.obj = State(home=home or default_home(), no_input=no_input)


# --- the node --------------------------------------------------------------------------------
@app.command()
def init(
    context: typer.Context,
    authority: Annotated[str, typer.Option(help="Name of the authority.")] = "",
    country: Annotated[str, typer.Option(help="ISO country code.")] = "",
    network: Annotated[str, typer.Option(help="Network name, the same at all nodes.")] = "",
    contact: Annotated[str, typer.Option(help="Duty desk: mailbox or telephone.")] = "",
    listen: Annotated[str, typer.Option(help="Address where peers dial in.")] = "127.0.0.1:8462",
    http: Annotated[str, typer.Option(help="Address of the local endpoint.")] = "127.0.0.1:8463",
    endpoint: Annotated[
        list[str] | None, typer.Option(help="Address on the card, wss://host:port.")
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a new node: keys, card, databases."""
    from node.app import check_init, initialise  # noqa: PLC0415
    from node.config import fault_of  # noqa: PLC0415

    chosen = state(context)

    def setting(question: str, name: str) -> str:
        key = f"node.{name}"
        as_given = str.upper if name == "country" else str
        return ask(chosen, question, f"--{name}", fault=lambda text: fault_of(key, as_given(text)))

    values: dict[str, Any] = {
        "node.authority": authority or setting("Name of the authority", "authority"),
        "node.country": (country or setting("Country (ISO code)", "country")).upper(),
        "node.network": network or setting("Network name", "network"),
        "node.contact": contact or setting("Duty desk (mailbox or telephone)", "contact"),
        "peer.listen": listen,
        "http.listen": http,
        "peer.endpoints": endpoint or [],
    }
    if passphrase_file is not None:
        values["keystore.passphrase_file"] = str(passphrase_file.absolute())
    check_init(chosen.home, values)
    secret = ask_passphrase(chosen, file=passphrase_file, twice=True)
    made = initialise(chosen.home, values, secret)
    show(f"Node id  {made.node_id}")
    say(f"The node is in {chosen.home}.")
    say(f"Print {made.recovery_sheet}, lock the paper away, then delete the file.")
    say(f"Next: {HOW_TO_START[0].lower()}{HOW_TO_START[1:]}.")
    say("Then exchange cards: picket keys card --out my.card")


@app.command()
def run(context: typer.Context, passphrase_file: PassphraseFile = None) -> None:
    """Run the node until it is stopped."""
    chosen = state(context)
    from node import app as root  # noqa: PLC0415
    from node import journal  # noqa: PLC0415
    from node.config import load_config  # noqa: PLC0415

    config = load_config(Home(chosen.home))
    journal.set_up(config.log.level, config.log.format)

    def secret() -> bytes | None:
        if passphrase_file is not None:
            return ask_passphrase(chosen, file=passphrase_file)
        if chosen.interactive and not config.keystore.passphrase_file:
            return ask_passphrase(chosen)
        return None

    raise typer.Exit(root.run(chosen.home, secret))


@app.command()
def unlock(context: typer.Context, passphrase_file: PassphraseFile = None) -> None:
    """Open the keystore of the running node."""
    chosen = state(context)
    if not Client(chosen.home).running():
        fail(f"the node is not running. {HOW_TO_START}", Exit.FAILURE)
    if not call(context, "GET", "/api/v1/node")["locked"]:
        say("The node is unlocked already; nothing was changed.")
        return
    secret = ask_passphrase(chosen, file=passphrase_file)
    call(context, "POST", "/api/v1/unlock", {"passphrase": secret.decode()})
    say("The node is unlocked.")


@app.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show the node, its peers and what needs attention."""
    seen = call(context, "GET", "/api/v1/status")
    if as_json:
        show_json(seen)
        return
    who = f"{plain(seen['authority'])} ({seen['country']})"
    if seen["running"]:
        show(f"{who}  running{', LOCKED' if seen['locked'] else ''}")
    else:
        show(f"{who}  NOT RUNNING: it sends and receives nothing")
        show(f"  {HOW_TO_START}")
    show(f"Node id    {seen['node_id']}")
    show(f"Log        {counted(seen['log']['size'], 'entry')}{_confirmed(seen['witnesses'])}")
    counts = seen["incidents"]
    if counts:
        show(f"Incidents  {counts['received']} received, {counts['released']} released, "
             f"{counted(counts['drafts'], 'draft')}")  # fmt: skip
    waiting = seen["outbox"]
    show(f"Outbox     {counted(waiting, 'delivery waits', 'deliveries wait')}")
    show()
    if seen["peers"]:
        table(
            ("PEER", "LEVEL", "LINKED", "LAST CONTACT", "WAITING"),
            [(p["name"], p["level"], p["linked"], utc(p["last_contact"]), p["outbox"])
             for p in seen["peers"]],
        )  # fmt: skip
    else:
        show("No peers yet: picket peers add CARD")
    for notice in seen["notices"]:
        show(f"\n! {plain(notice['message'])}")
        if notice["fix"]:
            show(f"  {plain(notice['fix'])}")


def _confirmed(standing: dict[str, Any]) -> str:
    """Return what witnesses say of the log, to stand behind its size."""
    if standing["cosigned_at"]:
        return f", {standing['cosigned']} confirmed by witnesses at {utc(standing['cosigned_at'])}"
    return ", not confirmed by witnesses yet" if standing["needed"] else ""


@app.command()
def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check everything that can be checked, one line each."""
    checks = doctor_checks.run(state(context).home)
    if as_json:
        show_json([{"check": c.name, "ok": c.ok, "detail": c.detail} for c in checks])
    else:
        for check in checks:
            show(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {plain(check.detail)}")
    if not all(check.ok for check in checks):
        raise typer.Exit(Exit.FAILURE)


@app.command()
def demo(
    check: Annotated[bool, typer.Option("--check", help="For scripts: no display.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up and print addresses.")] = False,
) -> None:
    """Run three fictional authorities on this machine and show what happens."""
    from node.demo import run as run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(check=check, keep=keep))


# --- keys ------------------------------------------------------------------------------------
@keys_app.command("show")
def keys_show(context: typer.Context, as_json: Json = False) -> None:
    """Show the node id and when keys end."""
    seen = call(context, "GET", "/api/v1/status")
    if as_json:
        show_json({"node_id": seen["node_id"], "keys": seen["keys"]})
        return
    show(f"Node id  {seen['node_id']}")
    table(("KEY", "ENDS"), [(k["purpose"], utc(k["expires"])) for k in seen["keys"]])


@keys_app.command("card")
def keys_card(
    context: typer.Context,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Print this node's card, to hand to other authorities. It holds no secret."""
    seen = call(context, "GET", "/api/v1/card")
    if as_json:
        show_json(seen)
    elif out is None:
        sys.stdout.write(seen["card"])
    else:
        write_new(out, seen["card"], force=force)
        say(f"Written to {out}. Send it by any channel; compare the safety number by another.")


# --- peers -----------------------------------------------------------------------------------
@peers_app.command("add")
def peers_add(
    context: typer.Context,
    card: Annotated[
        Path, typer.Argument(readable=False, help="The other node's card file, or - for input.")
    ],
    name: Annotated[str, typer.Option(help="What to call it here.")] = "",
    as_json: Json = False,
) -> None:
    """Add a peer by its card. Nothing is shared with it before you approve it."""
    body = {"card": read_text(card)} | ({"name": name} if name else {})
    peer = call(context, "POST", "/api/v1/peers", body)
    if as_json:
        show_json(peer)
        return
    show(f"{plain(peer['name'])} ({peer['country']}) is known, at level {peer['level']}.")
    _safety_number(peer)
    say(f"Then: picket peers approve {_quoted(peer['name'])}")


def _safety_number(peer: Any) -> None:  # noqa: ANN401
    groups = peer["safety_number"].split()
    show(f"Safety number between this node and {plain(peer['name'])}:")
    for at in range(0, len(groups), 4):
        show("    " + "   ".join(groups[at : at + 4]))
    say("Read it to each other on a number you know, not one from the card.")


def _quoted(name: str) -> str:
    return f'"{plain(name)}"' if " " in name else plain(name)


def _peer_path(name: str, verb: str = "") -> str:
    return f"/api/v1/peers/{quote(name, safe='')}{verb}"


@peers_app.command("list")
def peers_list(context: typer.Context, as_json: Json = False) -> None:
    """List peers."""
    seen = call(context, "GET", "/api/v1/peers")
    if as_json:
        show_json(seen)
        return
    table(
        ("PEER", "COUNTRY", "LEVEL", "VERIFIED", "LINKED", "CARD ENDS"),
        [
            (p["name"], p["country"], p["level"], (p["verified"] or {}).get("method"),
             p["linked"], utc(p["card_expires"]))
            for p in seen["items"]
        ],
    )  # fmt: skip


@peers_app.command("show")
def peers_show(context: typer.Context, peer: Peer, as_json: Json = False) -> None:
    """Show one peer and its safety number."""
    seen = call(context, "GET", _peer_path(peer))
    if as_json:
        show_json(seen)
        return
    for key in ("name", "authority", "country", "level", "node_id", "endpoints", "linked"):
        show(f"{_LABELS.get(key, key):<12} {plain(seen[key])}")
    if seen["verified"]:
        check = seen["verified"]
        show(f"{'verified':<12} {check['method']} by {plain(check['by'])}, {utc(check['at'])}")
    _safety_number(seen)


_LABELS = {"node_id": "node id", "endpoints": "addresses"}
_LOWERED = {
    "observe": "it receives nothing more from this node, and carries nothing for it",
    "relay": "it receives nothing more from this node, and may carry for it",
}


@peers_app.command("approve")
def peers_approve(
    context: typer.Context,
    peer: Peer,
    level: Annotated[str, typer.Option(help="observe, relay or share.")] = "share",
    safety_number: Annotated[
        str, typer.Option(help="The 60 digits as the other side read them.")
    ] = "",
    method: Annotated[str, typer.Option(help="voice, in-person or note-verbale.")] = "",
    by: Annotated[str, typer.Option(help="Who compared it, or lowers the level.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Lower a level without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Give a peer a trust level after comparing the safety number. Lowering needs no number."""
    from keys.trust import Level, is_lower  # noqa: PLC0415

    chosen = state(context)
    if level not in {"observe", "relay", "share"}:
        usage(f"--level {level!r} is none of: observe, relay, share")
    row = call(context, "GET", _peer_path(peer))
    if not safety_number and is_lower(Level(level), than=Level(row["level"])):
        body = {"level": level, "by": by or ask(chosen, "Your name", "--by")}
        say(f"{plain(row['name'])} is at level {row['level']}. At {level} {_LOWERED[level]}.")
        if not yes and not confirm(chosen, f"Lower it to {level}?", "--yes"):
            fail("nothing was changed", Exit.REFUSED)
        seen = call(context, "POST", _peer_path(peer, "/approve"), body)
        if as_json:
            show_json(seen)
        else:
            show(f"{plain(seen['name'])} is lowered to level {seen['level']}.")
        return
    if not safety_number and chosen.interactive:
        say(f"Ask {plain(row['name'])} to read its 60 digits, and type what you hear.")
    digits = safety_number or ask(chosen, "Safety number as read to you", "--safety-number")
    body = {
        "level": level,
        "safety_number": digits,
        "method": method or choose(
            chosen, "How was it compared", "--method", ("voice", "in-person", "note-verbale")
        ),
        "by": by or ask(chosen, "Your name", "--by"),
    }  # fmt: skip
    seen = call(context, "POST", _peer_path(peer, "/approve"), body)
    if as_json:
        show_json(seen)
    else:
        show(f"{plain(seen['name'])} is approved at level {seen['level']}.")


# --- incidents -------------------------------------------------------------------------------
def _incident_path(key: str, verb: str = "") -> str:
    return f"/api/v1/incidents/{quote(key, safe='')}{verb}"


@incidents_app.command("new")
def incidents_new(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option(readable=False, help="JSON file with the incident, or - for input."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a draft: a few questions, or a file. Nothing leaves the node."""
    body = _json_object(read_text(file)) if file is not None else _asked(context)
    seen = call(context, "POST", "/api/v1/incidents", body, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    if seen.get("duplicate"):
        show(f"{seen['ref']} ({seen['state']}) has this external_ref: nothing new was made.")
        return
    show(f"Draft {seen['ref']}")
    for warning in seen["warnings"]:
        show(f"! {warning['pointer']}: {plain(warning['message'])}")
    if seen["missing_anchors"]:
        show(f"Would help others most: {', '.join(map(_anchor, seen['missing_anchors'][:3]))}.")
    if seen["concerned_countries"]:
        show(f"Countries concerned: {', '.join(seen['concerned_countries'])}")
    to = " ".join(f"--to {_quoted(name)}" for name in seen["suggested_recipients"])
    say(f"Next: picket incidents release {seen['ref']} {to or '--to PEER'}")


_ANCHORS = {
    "A1": "an identified party", "A2": "a transport document number",
    "A3": "a container, vessel, flight or plate", "A4": "manufacturer and batch",
    "A5": "the route", "A6": "a telephone, mail or account", "A7": "a photo of label or document",
    "A8": "a contact for follow-up",
}  # fmt: skip


def _anchor(name: str) -> str:
    return f"{_ANCHORS.get(name, name)} ({name})"


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        usage(f"the file is not JSON: {error}. Correct it")
    if not isinstance(value, dict):
        usage("the file does not hold one JSON object")
    return value


def _asked(context: typer.Context) -> dict[str, Any]:
    # Heavy: the rules of an incident.
    from node.cli.questions import ask_incident  # noqa: PLC0415

    chosen = state(context)
    if not chosen.interactive:
        usage("there is nobody to ask. Give --file FILE")
    return ask_incident(chosen, call(context, "GET", "/api/v1/node"))


@incidents_app.command("import")
def incidents_import(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(readable=False, help="NDJSON: one incident a line; - for input.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check.")] = False,
    as_json: Json = False,
) -> None:
    """Create many drafts. Nothing is released."""
    lines = [line for line in read_text(file).split("\n") if line.strip()]
    items = []
    for number, line in enumerate(lines, start=1):
        try:
            items.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            usage(f"line {number} is not JSON: {error}. Correct it; nothing was imported")
    body = {"lines": items, "dry_run": dry_run}
    seen = call(context, "POST", "/api/v1/imports", body, needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        verb = "would be accepted" if dry_run else "accepted"
        show(f"{seen['accepted']} {verb}, {seen['duplicate']} known, {seen['rejected']} rejected")
        for row in seen["errors"][:20]:
            show(f"  line {row['line']} {row['pointer']}: {plain(row['message'])}")
    if seen["rejected"]:
        raise typer.Exit(Exit.FAILURE)


@incidents_app.command("list")
def incidents_list(
    context: typer.Context,
    which: Annotated[
        str, typer.Option("--state", help="draft, released or received; else the last two.")
    ] = "",
    after: Annotated[int, typer.Option(help="Cursor of the page before.")] = 0,
    limit: Annotated[int, typer.Option(help="At most 500.")] = 100,
    as_json: Json = False,
) -> None:
    """List incidents."""
    query = {"after": after, "limit": limit} | ({"state": which} if which else {})
    seen = call(context, "GET", f"/api/v1/incidents?{urlencode(query)}", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    table(
        ("REFERENCE", "STATE", "FROM", "TLP", "TYPE", "WHAT"),
        [(r["ref"], r["state"], r["author"], r["tlp"], r["incident_type"],
          f"erased: {r['erased']['reason']}" if r["state"] == "erased" else r["summary_line"])
         for r in seen["items"]],
    )  # fmt: skip
    if seen["more"]:
        say(f"There are more: --after {seen['next']}")


@incidents_app.command("show")
def incidents_show(context: typer.Context, incident: Incident, as_json: Json = False) -> None:
    """Show one incident or draft in full."""
    seen = call(context, "GET", _incident_path(incident), needs_keys=True)
    if as_json:
        show_json(seen)
        return
    if seen["erased"]:
        gone = "It was erased here" if seen["state"] == "erased" else "Earlier parts were erased"
        show(f"{seen['ref']}  {gone} {utc(seen['erased']['at'])}: {seen['erased']['reason']}")
    if seen["state"] == "erased":
        show(f"from      {plain(seen['author'])}; it came {utc(seen['recorded_at'])}")
        delivery.deliveries(seen["deliveries"])
        return
    exercise = "  EXERCISE" if seen["exercise"] else ""
    show(f"{seen['ref']}  {seen['state']}  TLP:{seen['tlp']}{exercise}")
    show(f"from      {plain(seen['author'])}, revision {seen['revision']}")
    show(f"detected  {utc(seen['detected_at'])}")
    show(f"recorded  {utc(seen['recorded_at'])}")
    if seen["made"]:
        _made(seen["made"])
    show(f"what      {plain(seen['incident_type'])}: {plain(seen['summary_line'])}")
    show(f"          {plain(seen['summary'])}")
    for other in seen["also_claimed"]:
        show(f"! the same id or reference stands on another incident: {plain(other)}")
    for name in ("face", "annex"):
        show(f"\n{name.upper()}")
        disclosure.tree(seen[name], 1) if seen[name] else show("  (not received or not given)")
    if seen["deliveries"]:
        show()
        delivery.deliveries(seen["deliveries"])


def _made(made: dict[str, Any]) -> None:
    """Print between which times it was made, as far as witnesses show it."""
    first, last = made["not_before"], made["not_after"]
    if first and last:
        show(f"made      between {utc(first)} and {utc(last)}, as witnesses show")
    elif last:
        show(f"made      before {utc(last)}, as witnesses show")
    elif first:
        show(f"made      after {utc(first)}, as witnesses show")
    else:
        show("made      at a time that witnesses do not show")
    if not first:
        show(f"          {_earliest(made['anchor'])}")
    if not last:
        show("          too few witnesses have confirmed its log entry yet to say before when")


def _earliest(anchor: dict[str, Any] | None) -> str:
    """Return what is known of the earliest time, where that is no time."""
    if anchor is None:
        return "its author named no log head, so nothing says after when"
    entries = counted(anchor["size"], "entry")
    if anchor["own"]:
        return f"and after this node's log had {entries}; when that was is not known here any more"
    if anchor["owner"] is None:
        return f"and after a log that is not known here had {entries}"
    owner = plain(anchor["owner"])
    return f"and after the log of {owner} had {entries}: ask {owner} when that was"


@incidents_app.command("deliveries")
def incidents_deliveries(context: typer.Context, incident: Incident, as_json: Json = False) -> None:
    """Show who has received an incident and who has not."""
    seen = call(context, "GET", _incident_path(incident, "/deliveries"), needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        delivery.deliveries(seen["items"])


@incidents_app.command("release")
def incidents_release(
    context: typer.Context,
    incident: Incident,
    to: Annotated[list[str] | None, typer.Option(help="A recipient; repeat it, or 'all'.")] = None,
    annex_to: Annotated[
        list[str] | None, typer.Option(help="Who also gets the annex; default: all recipients.")
    ] = None,
    carrier: Annotated[
        list[str] | None, typer.Option(help="A peer that may store and forward, unread.")
    ] = None,
    separately: Annotated[
        bool, typer.Option("--separately", help="No recipient learns of the others.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Sign a draft and send it to exactly the named peers."""
    chosen = state(context)
    if not to:
        usage("nobody would receive it. Give --to PEER, or --to all")
    query: dict[str, Any] = {"to": to, "carriers": carrier or []}
    if annex_to:
        query["annex_to"] = annex_to
    if separately:
        query["separately"] = "true"
    path = _incident_path(incident, f"/recipients?{urlencode(query, doseq=True)}")
    preview = call(context, "GET", path, needs_keys=True)
    if not as_json:
        _preview(preview)
    if not yes and not confirm(chosen, "Release it to exactly these?", "--yes"):
        fail("nothing was released", Exit.REFUSED)
    body: dict[str, Any] = {
        "to": to, "carriers": carrier or [], "separately": separately, "digest": preview["digest"],
    }  # fmt: skip
    if annex_to:
        body["annex_to"] = annex_to
    seen = call(context, "POST", _incident_path(incident, "/release"), body, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    show(f"{seen['ref']} is released.")
    delivery.deliveries(seen["deliveries"])
    say(f"Receipts arrive here: picket incidents deliveries {seen['ref']}")


def _preview(preview: dict[str, Any]) -> None:
    say(f"Will receive the face:   {plain(preview['will_receive_face'])}")
    say(f"Will receive the annex:  {plain(preview['will_receive_annex'])}")
    if preview["carriers"]:
        say(f"Will carry it unread:    {plain(preview['carriers'])}")
    say(f"Will NOT receive it:     {plain(preview['will_not_receive'])}")
    for sha256 in preview["attachments_without_content"]:
        say(f"! The attachment {sha256[:16]} goes without its content: it is not here.")


# --- tokens, config --------------------------------------------------------------------------
@tokens_app.command("create")
def tokens_create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What uses it.")],
    scope: Annotated[list[str], typer.Option(help="A scope, such as incidents:read; repeat it.")],
    days: Annotated[int, typer.Option(help="How long it lives.")] = 90,
    as_json: Json = False,
) -> None:
    """Make a token for a program. It is shown once."""
    body = {"name": name, "scopes": scope, "days": days}
    seen = call(context, "POST", "/api/v1/tokens", body, needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        show(seen["token"])
        say(f"It ends {utc(seen['expires'])} and is not shown again.")


@tokens_app.command("list")
def tokens_list(context: typer.Context, as_json: Json = False) -> None:
    """List tokens."""
    seen = call(context, "GET", "/api/v1/tokens", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    table(
        ("ID", "NAME", "ENDS", "LAST USED", "SCOPES"),
        [(t["id"], t["name"], utc(t["expires"]), utc(t["last_used"]), t["scopes"])
         for t in seen["items"]],
    )  # fmt: skip


@tokens_app.command("revoke")
def tokens_revoke(
    context: typer.Context, token: Annotated[str, typer.Argument(metavar="ID", help="Its id.")]
) -> None:
    """Revoke a token."""
    call(context, "DELETE", f"/api/v1/tokens/{quote(token, safe='')}", needs_keys=True)
    say("The token is revoked.")


@config_app.command("show")
def config_show(context: typer.Context, as_json: Json = False) -> None:
    """Show every setting and where it came from."""
    _config(context, as_json=as_json)


@config_app.command("check")
def config_check(context: typer.Context, as_json: Json = False) -> None:
    """Check the settings, and show where each came from."""
    _config(context, as_json=as_json)
    say("The configuration is valid.")


def _config(context: typer.Context, *, as_json: bool) -> None:
    from node.config import FIELDS, load_config  # noqa: PLC0415

    config = load_config(Home(state(context).home))
    rows = []
    for field in FIELDS:
        section, name = field.key.split(".")
        value = getattr(getattr(config, section), name)
        rows.append({"key": field.key, "origin": config.origins[field.key], "value": value})
    if as_json:
        show_json(rows)
    else:
        table(("SETTING", "FROM", "VALUE"), [(r["key"], r["origin"], r["value"]) for r in rows])


def main() -> None:
    """Run the command line; every expected error is one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal cannot show must not hide the rest.
            stream.reconfigure(errors="replace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except PicketError as error:
        say(f"picket: {error.diagnostics()}")
        sys.exit(exit_code(error.code))
    except KeyboardInterrupt:
        say("picket: interrupted")
        sys.exit(Exit.INTERRUPTED)
    except UnicodeEncodeError:
        say("picket: something given is not UTF-8 text. Set the terminal to UTF-8, or correct it")
        sys.exit(Exit.USAGE)
    except OSError as error:
        _discard_output()
        if not isinstance(error, BrokenPipeError):
            say(f"picket: the output cannot be written: {error.strerror}. Free some disk space")
        sys.exit(Exit.FAILURE)


def _discard_output() -> None:
    """Let nothing be written any more, or Python would try again while it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
