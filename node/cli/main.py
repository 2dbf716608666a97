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
from node.cli import (
    alerts,
    approve,
    attachments,
    backup,
    corpus,
    delivery,
    directory,
    disclosure,
    evidence,
    followup,
    keys,
    lists,
    lock,
    log,
    obligations,
    operations,
    pairing,
    peer_test,
    records,
    reporting,
    search,
    shipments,
    signer,
)
from node.cli import doctor as doctor_checks
from node.cli.terminal import (
    HOW_TO_START,
    Exit,
    State,
    ask,
    ask_passphrase,
    ask_pin,
    ask_pin_if_needed,
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
    ("disclose", disclosure.app), ("directory", directory.app), ("signer", signer.app),
    ("approve", approve.app), ("operators", approve.operators_app),
    ("lists", lists.app), ("obligations", obligations.app), ("followup", followup.app),
    ("alerts", alerts.app), ("operations", operations.app), ("shipments", shipments.app),
    ("links", search.app), ("tokens", tokens_app), ("config", config_app),
):  # fmt: skip
    app.add_typer(_app, name=_name)
keys.register(keys_app, peers_app)
backup.register(app)
lock.register(app)
pairing.register(keys_app, peers_app)
peer_test.register(peers_app)
reporting.register(incidents_app)
obligations.register(incidents_app)
records.register(incidents_app)
search.register(incidents_app)
app.command("corpus")(corpus.corpus)
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
    hsm: signer.Hsm = "",
    token: signer.TokenLabel = "",
    key_label: signer.KeyLabel = "",
    message_label: signer.MessageLabel = "",
    pin_file: signer.PinFile = None,
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
    values |= signer.settings(hsm, token, key_label, message_label, pin_file)
    check_init(chosen.home, values)
    secret = ask_passphrase(chosen, file=passphrase_file, twice=True)
    pin = (lambda: ask_pin(chosen, file=pin_file)) if hsm else None
    made = initialise(chosen.home, values, secret, pin=pin)
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

    def pin() -> str | None:
        return ask_pin_if_needed(chosen) if chosen.interactive else None

    raise typer.Exit(root.run(chosen.home, secret, pin))


@app.command()
def unlock(
    context: typer.Context,
    passphrase_file: PassphraseFile = None,
    pin_file: signer.PinFile = None,
) -> None:
    """Open the keystore of the running node."""
    chosen = state(context)
    if not Client(chosen.home).running():
        fail(f"the node is not running. {HOW_TO_START}", Exit.FAILURE)
    if not call(context, "GET", "/api/v1/node")["locked"]:
        say("The node is unlocked already; nothing was changed.")
        return
    secret = ask_passphrase(chosen, file=passphrase_file)
    pin = ask_pin_if_needed(chosen, file=pin_file)
    given = {"passphrase": secret.decode()} | ({} if pin is None else {"pin": pin})
    call(context, "POST", "/api/v1/unlock", given)
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
    days = seen["backup"]["days"]
    made = "never made" if days is None else f"last made {counted(days, 'day')} ago"
    show(f"Backup     {made if days != 0 else 'last made today'}")
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


# --- peers -----------------------------------------------------------------------------------
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
    pairing.show_number(seen)


_LABELS = {"node_id": "node id", "endpoints": "addresses"}
_LOWERED = {
    "observe": "it receives nothing more from this node, and carries nothing for it",
    "relay": "nothing that is released from now on goes to it, and it may carry for this node",
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
    if row["level"] in {"held", "frozen", "revoked"}:
        # It is refused with the reason: nobody should read 60 digits for that.
        call(context, "POST", _peer_path(peer, "/approve"), {"level": level, "by": by})
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
          _what(r)) for r in seen["items"]],
    )  # fmt: skip
    if seen["more"]:
        say(f"There are more: --after {seen['next']}")


def _what(row: dict[str, Any]) -> str:
    """Return what an incident of a list is about, and what became of it."""
    if row["state"] == "erased":
        return f"erased: {row['erased']['reason']}"
    told = str(row["summary_line"])
    return f"RETRACTED, {row['retracted']}: {told}" if row["retracted"] else told


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
        _envelopes(seen["envelopes"])
        if seen["deliveries"]:
            show()
            delivery.deliveries(seen["deliveries"])
        return
    exercise = "  EXERCISE" if seen["exercise"] else ""
    show(f"{seen['ref']}  {seen['state']}  TLP:{seen['tlp']}{exercise}")
    show(f"from      {plain(seen['author'])}, revision {seen['revision']}")
    if seen["retracted"]:
        show(f"! It is RETRACTED: {seen['retracted']}")
    if seen["contested"]:
        show("! Its originator gave two different contents under one number. Call it.")
    show(f"detected  {utc(seen['detected_at'])}")
    show(f"recorded  {utc(seen['recorded_at'])}")
    if seen["made"]:
        _made(seen["made"])
    show(f"what      {plain(seen['incident_type'])}: {plain(seen['summary_line'])}")
    show(f"          {plain(seen['summary'])}")
    for other in seen["also_claimed"]:
        show(f"! the same id or reference stands on another incident: {plain(other)}")
    if seen["handling_text"]:
        show("\nHANDLING")
        obligations.handling(seen["handling_text"])
    for name in ("face", "annex"):
        show(f"\n{name.upper()}")
        disclosure.tree(seen[name], 1) if seen[name] else show("  (not received or not given)")
    _envelopes(seen["envelopes"])
    if seen["deliveries"]:
        show()
        delivery.deliveries(seen["deliveries"])


def _envelopes(items: list[dict[str, Any]]) -> None:
    """Print the envelopes of an incident that has several, to choose one of them."""
    if len(items) > 1:
        show()
        table(
            ("--envelope", "LAYERS", "LOG ENTRY", "ENVELOPE ID"),
            [
                (number, " ".join(each["layers"]), each["log_index"], each["envelope_id"])
                for number, each in enumerate(items)
            ],
        )


def _made(made: dict[str, Any]) -> None:
    """Print between which times it was made, as far as witnesses show it."""
    first, last = made["not_before"], made["not_after"]
    if first and last:
        show(f"made      between {_exact(first)} and {_exact(last)}, as witnesses show")
    elif last:
        show(f"made      before {_exact(last)}, as witnesses show")
    elif first:
        show(f"made      after {_exact(first)}, as witnesses show")
    else:
        show("made      at a time that witnesses do not show")
    if not first:
        show(f"          {_earliest(made['anchor'])}")
    if not last:
        show("          too few witnesses have confirmed its log entry yet to say before when")


def _exact(time: str) -> str:
    """Return a time to the second, as "before" it would be wrong of a minute that is cut off."""
    return utc(time, seconds=not time[16:].startswith(":00"))


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
    if not to:
        usage("nobody would receive it. Give --to PEER, or --to all")
    chosen = reporting.Choice(to=to, annex_to=annex_to, carrier=carrier, separately=separately)
    reporting.release(context, incident, chosen, yes=yes, as_json=as_json)


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
    from node.policy_file import read_policy  # noqa: PLC0415

    path = Home(state(context).home).witness_policy
    policy = read_policy(path, log=None)
    if policy is not None:
        # Which log is this node's only the node can say; it reads the file when it starts.
        name = call(context, "GET", "/api/v1/log/head")["checkpoint"].partition("\n")[0]
        if name not in {line.key.name for line in policy.logs}:
            fail(f"{path} has no line for the log of this node. Take it from the file that this "
                 "prints: picket log policy", Exit.USAGE)  # fmt: skip
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
        say(f"picket: {plain(error.diagnostics())}")
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
