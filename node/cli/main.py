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
from node.cli import attachments, log
from node.cli import doctor as doctor_checks
from node.cli.terminal import (
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
    say,
    show,
    show_json,
    state,
    table,
    usage,
    utc,
)
from node.client import Client
from node.home import Home, default_home
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
delivery_app = typer.Typer(help="Statements of who has an envelope.", **_SUB)  # type: ignore[arg-type]
tokens_app = typer.Typer(help="Tokens for programs on this machine.", **_SUB)  # type: ignore[arg-type]
config_app = typer.Typer(help="The settings.", **_SUB)  # type: ignore[arg-type]
for _name, _app in (
    ("keys", keys_app), ("peers", peers_app), ("incidents", incidents_app), ("log", log.app),
    ("attachments", attachments.app), ("delivery", delivery_app),
    ("tokens", tokens_app), ("config", config_app),
):  # fmt: skip
    app.add_typer(_app, name=_name)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File that holds the passphrase.")
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
        Path | None, typer.Option("--home", help="The node's folder (or PICKET_HOME).")
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
    chosen = state(context)
    values: dict[str, Any] = {
        "node.authority": authority or ask(chosen, "Name of the authority", "--authority"),
        "node.country": country or ask(chosen, "Country (ISO code)", "--country"),
        "node.network": network or ask(chosen, "Network name", "--network"),
        "node.contact": contact or ask(chosen, "Duty desk (mailbox or telephone)", "--contact"),
        "peer.listen": listen,
        "http.listen": http,
        "peer.endpoints": endpoint or [],
    }
    if passphrase_file is not None:
        values["keystore.passphrase_file"] = str(passphrase_file.absolute())
    secret = ask_passphrase(chosen, file=passphrase_file, twice=True)
    from node.app import initialise  # noqa: PLC0415

    made = initialise(chosen.home, values, secret)
    show(f"Node id  {made.node_id}")
    say(f"The node is in {chosen.home}.")
    say(f"Print {made.recovery_sheet}, lock the paper away, then delete the file.")
    say("Next: picket run, then exchange cards: picket keys card --out my.card")


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
        fail("the node is not running. Start it with: picket run", Exit.FAILURE)
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
    running = "running" if seen["running"] else "NOT RUNNING: start it with picket run"
    locked = ", locked" if seen["locked"] else ""
    show(f"{plain(seen['authority'])} ({seen['country']})  {running}{locked}")
    show(f"Node id  {seen['node_id']}")
    show(f"Log      {seen['log']['size']} entries")
    counts = seen["incidents"]
    if counts:
        show(f"Incidents  {counts['received']} received, {counts['released']} released, "
             f"{counts['drafts']} drafts")  # fmt: skip
    show(f"Outbox   {seen['outbox']} deliveries wait")
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
    out: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Print this node's card, to hand to other authorities. It holds no secret."""
    seen = call(context, "GET", "/api/v1/card")
    if as_json:
        show_json(seen)
    elif out is None:
        sys.stdout.write(seen["card"])
    else:
        try:
            out.write_text(seen["card"], encoding="ascii")
        except OSError as error:
            fail(f"{out} cannot be written: {error.strerror}", Exit.FAILURE)
        say(f"Written to {out}. Send it by any channel; compare the safety number by another.")


# --- peers -----------------------------------------------------------------------------------
@peers_app.command("add")
def peers_add(
    context: typer.Context,
    card: Annotated[Path, typer.Argument(help="The other node's card file, or - for input.")],
    name: Annotated[str, typer.Option(help="What to call it here.")] = "",
    as_json: Json = False,
) -> None:
    """Add a peer by its card. Nothing is shared with it before you approve it."""
    body = {"card": _read(card)} | ({"name": name} if name else {})
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


def _read(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}. Check the path", Exit.USAGE)
    except UnicodeDecodeError:
        fail(f"{path} is not text. Ask for the file again", Exit.USAGE)


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
        show(f"{key:<12} {plain(seen[key])}")
    if seen["verified"]:
        check = seen["verified"]
        show(f"{'verified':<12} {check['method']} by {plain(check['by'])}, {utc(check['at'])}")
    _safety_number(seen)


@peers_app.command("approve")
def peers_approve(
    context: typer.Context,
    peer: Peer,
    level: Annotated[str, typer.Option(help="observe, relay or share.")] = "share",
    safety_number: Annotated[
        str, typer.Option(help="The 60 digits as the other side read them.")
    ] = "",
    method: Annotated[str, typer.Option(help="voice, in-person or note-verbale.")] = "",
    by: Annotated[str, typer.Option(help="Who compared it.")] = "",
    as_json: Json = False,
) -> None:
    """Give a peer a trust level after comparing the safety number."""
    chosen = state(context)
    row = call(context, "GET", _peer_path(peer))
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
        Path | None, typer.Option(help="JSON file with the incident, or - for input.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a draft: seven questions, or a file. Nothing leaves the node."""
    body = _json_object(_read(file)) if file is not None else _seven(state(context), context)
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


def _seven(chosen: State, context: typer.Context) -> dict[str, Any]:
    from protocol import vocabulary as v  # noqa: PLC0415

    if not chosen.interactive:
        usage("there is nobody to ask. Give --file FILE")
    node = call(context, "GET", "/api/v1/node")
    kind = choose(chosen, "1/7 What happened", "--file", v.INCIDENT_TYPE)
    place = ask(chosen, "2/7 In which country (ISO code)", "--file", default=node["country"])
    when = ask(chosen, "3/7 When detected (UTC, such as 2026-03-01T08:30:00Z)", "--file")
    what = ask(chosen, "4/7 Which substance", "--file")
    amount = ask(chosen, "5/7 How much (such as 20160 LTR or 25 KGM)", "--file")
    form = choose(chosen, "    In what form", "--file", v.FORM)
    tlp = choose(chosen, "6/7 Handling (TLP)", "--file", v.TLP, default="AMBER")
    summary = ask(chosen, "7/7 One sentence for others, without names of persons", "--file")
    value, _, unit = amount.partition(" ")
    return {
        "face": {
            "incident_type": kind, "origin_country": node["country"], "detected_at": when,
            "location": {"country": place.upper()}, "summary": summary, "handling": {"tlp": tlp},
            "substances": [
                {"other": {"name": what}, "form": form,
                 "qty": {"value": value, "unit": unit.strip().upper() or "KGM"}}
            ],
        }
    }  # fmt: skip


@incidents_app.command("import")
def incidents_import(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="NDJSON: one incident a line; - for input.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check.")] = False,
    as_json: Json = False,
) -> None:
    """Create many drafts. Nothing is released."""
    lines = [line for line in _read(file).split("\n") if line.strip()]
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
        [(r["ref"], r["state"], r["author"], r["tlp"], r["incident_type"], r["summary_line"])
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
    exercise = "  EXERCISE" if seen["exercise"] else ""
    show(f"{seen['ref']}  {seen['state']}  TLP:{seen['tlp']}{exercise}")
    show(f"from      {plain(seen['author'])}, revision {seen['revision']}")
    show(f"detected  {utc(seen['detected_at'])}")
    show(f"recorded  {utc(seen['recorded_at'])}")
    show(f"what      {plain(seen['incident_type'])}: {plain(seen['summary_line'])}")
    show(f"          {plain(seen['summary'])}")
    for other in seen["also_claimed"]:
        show(f"! the same id or reference stands on another incident: {plain(other)}")
    for name in ("face", "annex"):
        show(f"\n{name.upper()}")
        _tree(seen[name], 1) if seen[name] else show("  (not received or not given)")
    if seen["deliveries"]:
        show()
        _deliveries(seen["deliveries"])


def _tree(value: Any, depth: int) -> None:  # noqa: ANN401
    pad = "  " * depth
    for key, item in value.items() if isinstance(value, dict) else enumerate(value, 1):
        nested = isinstance(item, dict) or (
            isinstance(item, list) and any(isinstance(part, dict) for part in item)
        )
        if nested:
            show(f"{pad}{key}")
            _tree(item, depth + 1)
        else:
            show(f"{pad}{key}: {plain(item)}")


def _deliveries(items: list[dict[str, Any]]) -> None:
    words = {"queued": "waiting", "sent": "sent, no receipt yet"}
    table(
        ("RECIPIENT", "PART", "LAYERS", "SINCE", "STATE"),
        [
            (d["peer"], d["part"], d["layers"], utc(d["at"]) if d["at"] else "-",
             words.get(d["state"], d["state"]) + (f" ({d['code']})" if d["code"] else ""))
            for d in items
        ],
    )  # fmt: skip


@incidents_app.command("deliveries")
def incidents_deliveries(context: typer.Context, incident: Incident, as_json: Json = False) -> None:
    """Show who has received an incident and who has not."""
    seen = call(context, "GET", _incident_path(incident, "/deliveries"), needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        _deliveries(seen["items"])


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
    _deliveries(seen["deliveries"])
    say(f"Receipts arrive here: picket incidents deliveries {seen['ref']}")


def _preview(preview: dict[str, Any]) -> None:
    say(f"Will receive the face:   {plain(preview['will_receive_face'])}")
    say(f"Will receive the annex:  {plain(preview['will_receive_annex'])}")
    if preview["carriers"]:
        say(f"Will carry it unread:    {plain(preview['carriers'])}")
    say(f"Will NOT receive it:     {plain(preview['will_not_receive'])}")
    for sha256 in preview["attachments_without_content"]:
        say(f"! The attachment {sha256[:16]} goes without its content: it is not here.")


# --- delivery --------------------------------------------------------------------------------
@delivery_app.command("statement")
def delivery_statement(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="INCIDENT|ENVELOPE", help="Reference, id or envelope id.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write it to this file.")] = None,
) -> None:
    """Sign a statement of who has an incident, one for each of its envelopes.

    Anybody can check it: picket delivery check FILE. An envelope id works while the node is locked.
    """
    from node.delivery import parse_envelope_id  # noqa: PLC0415

    ids = [what]
    if parse_envelope_id(what) is None:
        seen = call(context, "GET", _incident_path(what), needs_keys=True)
        ids = [row["envelope_id"] for row in seen["envelopes"]]
        if not ids:
            fail("this is a draft: nobody has it. Release it first", Exit.REFUSED)
    path = "/api/v1/envelopes/{}/statement"
    text = "".join(call(context, "GET", path.format(each))["statement"] for each in ids)
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, encoding="ascii")
    except OSError as error:
        fail(f"{out} cannot be written: {error.strerror}", Exit.FAILURE)
    say(f"Written to {out}. It names all recipients. See it with: picket delivery check {out}")


@delivery_app.command("check")
def delivery_check(
    file: Annotated[Path, typer.Argument(help="File with statements, or - for input.")],
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

    expected = parse_node_id(author) if author else None
    named = network_id(network) if network else None
    rows = [
        report_row(check_statement(data, network=named, author=expected))
        for data in dearmor_statements(_read(file))
    ]
    if as_json:
        show_json(rows)
    else:
        for row in rows:
            _delivery_report(row)
    if not all(row["genuine"] for row in rows):
        raise typer.Exit(Exit.UNVERIFIED)
    if not all(row["holds"] for row in rows):
        raise typer.Exit(Exit.FAILURE)


_CLAIMS = {
    "holds": "Delivered to all that the author could reach.",
    "fails": "NOT delivered to all that the author could reach.",
    "open": "Made too early to tell: recipients could still be reached.",
}


def _delivery_report(row: dict[str, Any]) -> None:
    said = row["statement"]
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
    if said is not None and row["genuine"]:
        show(_CLAIMS[said["claim"]])
    else:
        show("It does NOT verify: believe nothing of it.")
    show()


def _since(item: dict[str, Any]) -> str:
    if item["state"] == "delivered":
        return ""
    return " " + utc(item.get("linked_from") or item.get("last_seen"))


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
