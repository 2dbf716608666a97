"""Commands by which two authorities come to know each other: cards, callers, numbers."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from node.cli.terminal import (
    Exit,
    call,
    denied,
    fail,
    plain,
    read_text,
    say,
    show,
    show_json,
    usage,
    utc,
    write_new,
)
from node.lookalikes import quoted
from protocol import limits
from protocol.errors import LinkError, PeerError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path | None, typer.Option(readable=False, help="Write it to this file.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")]
Peer = Annotated[str, typer.Argument(metavar="PEER", help="Name or node id.")]
Caller = Annotated[
    str,
    typer.Argument(metavar="CALLER", help="The first letters of its node id, as in: peers pending"),
]
Name = Annotated[str, typer.Option(help="What to call it here.")]
_PICTURES = {".svg": "svg", ".png": "png"}
_MAX_CARD = limits.MAX_REQUEST * 15 // 16
_BEGIN_INTRODUCTION = "-----BEGIN PICKET INTRODUCTION-----"
_SCHEMES = ("wss://", "https://", "picket-card:")
_SCALE = 6


def register(keys: typer.Typer, peers: typer.Typer) -> None:
    """Add the commands to *keys* and *peers*."""
    keys.command("card")(card)
    peers.command("add")(add)
    peers.command("number")(number)
    peers.command("pending")(pending)
    peers.command("accept")(accept)
    peers.command("ignore")(ignore)
    peers.command("later")(later)
    peers.command("undo")(undo)
    peers.command("introduce")(introduce)


# --- cards -----------------------------------------------------------------------------------
def card(
    context: typer.Context,
    qr: Annotated[
        bool,
        typer.Option("--qr", help="Show a link to it as QR code; with --out as .svg or .png."),
    ] = False,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Print this node's card, to hand to other authorities. It holds no secret."""
    seen = call(context, "GET", "/api/v1/card")
    if as_json:
        show_json(seen)
    elif qr:
        _show_qr(seen["qr"], out, force=force)
        if "&at=" not in seen["qr"]:
            say("No address stands on the card: who scans this must get the card as a file.")
    elif out is None:
        sys.stdout.write(seen["card"])
    else:
        write_new(out, seen["card"], force=force)
        say(f"Written to {out}. Send it by any channel; compare the safety number by another.")


def _show_qr(text: str, out: Path | None, *, force: bool) -> None:
    import segno  # noqa: PLC0415  few commands need it

    code = segno.make(text, error="m", micro=False)
    if out is None:
        shown = io.StringIO()
        code.terminal(shown, compact=True)
        sys.stdout.write(shown.getvalue())
        show(text)
        return
    kind = _PICTURES.get(out.suffix.lower())
    if kind is None:
        usage(f"{out} ends in neither .svg nor .png. Name a file that does")
    picture = io.BytesIO()
    code.save(picture, kind=kind, scale=_SCALE)
    try:
        with out.open("wb" if force else "xb") as opened:
            opened.write(picture.getvalue())
    except FileExistsError:
        fail(f"{out} exists. Choose another name, or give --force to overwrite it", Exit.REFUSED)
    except OSError as error:
        fail(denied(out, "written", error, otherwise="Choose another folder"), Exit.FAILURE)
    say(f"Written to {out}.")


def add(
    context: typer.Context,
    card: Annotated[
        str,
        typer.Argument(
            metavar="CARD",
            help="The other node's card: a file, - for input, its address (wss://host:port) or a "
            "card link (picket-card:...).",
        ),
    ],
    name: Name = "",
    as_json: Json = False,
) -> None:
    """Add a peer by its card. Nothing is shared with it before you approve it."""
    given = card.strip()
    text = given if given.startswith(_SCHEMES) else read_text(Path(card), maximum=_MAX_CARD)
    if text.strip().startswith(_BEGIN_INTRODUCTION):
        _introduced(context, text, as_json=as_json)
        return
    source = None
    if text.strip().startswith(_SCHEMES):
        text, source = _fetched(context, text.strip())
    body = {"card": text} | ({"name": name} if name else {})
    peer = call(context, "POST", "/api/v1/peers", body)
    if as_json:
        show_json(peer)
        return
    if source is not None:
        say(f"Fetched from {source}. That proves nothing of who it is: compare the number first.")
    show(f"{plain(peer['name'])} ({peer['country']}) is known, at level {peer['level']}.")
    if peer["level"] == "held":
        say("It says that it has recovered its identity. Call it on a number that you know.")
    if peer["level"] == "revoked":
        say("It has revoked its identity: ask for the card of its new node.")
        return
    show_number(peer)
    if peer["level"] in {"pinned", "held"}:
        say(f"Then: picket peers {_next_verb(peer)} {named(peer['name'])}")


def _next_verb(peer: Any) -> str:  # noqa: ANN401  JSON
    return "confirm" if peer["level"] == "held" else "approve"


def _fetched(context: typer.Context, text: str) -> tuple[str, str]:
    """Return the card that an address or card link leads to, as text, and where it was."""
    from node.visiting import endpoint_of  # noqa: PLC0415
    from protocol.armor import armor  # noqa: PLC0415
    from protocol.cardlink import is_card_link, parse_card_link, verify_card_link  # noqa: PLC0415

    if not is_card_link(text):
        try:
            endpoint = endpoint_of(text)
        except PeerError as error:  # typed here, by no peer
            usage(error.diagnostics())
        return armor(_fetch((endpoint,))[0]), endpoint
    try:
        link = parse_card_link(text)
    except PeerError as error:
        usage(error.diagnostics())
    if not link.at:
        usage("the link names no address of the node. Ask for the card as a file")
    bundle, endpoint = _fetch(link.at)
    verify_card_link(link, bundle, node=_node_of(context, bundle))
    return armor(bundle), endpoint


def _fetch(endpoints: tuple[str, ...]) -> tuple[bytes, str]:
    import asyncio  # noqa: PLC0415  few commands need it

    from node.visiting import fetch_card  # noqa: PLC0415

    fault: LinkError | None = None
    for endpoint in endpoints:
        try:
            return asyncio.run(fetch_card(endpoint)), endpoint
        except LinkError as error:
            fault = fault or error
    assert fault is not None  # noqa: S101  there is an endpoint
    raise fault


def _node_of(context: typer.Context, bundle: bytes) -> str:
    from keys.fingerprint import format_node_id  # noqa: PLC0415
    from protocol.statement import verify_bundle  # noqa: PLC0415
    from protocol.suite import network_id  # noqa: PLC0415

    network = call(context, "GET", "/api/v1/node")["network"]
    return format_node_id(verify_bundle(bundle, network=network_id(network)).node_id)


# --- numbers ---------------------------------------------------------------------------------
def named(name: str) -> str:
    """Return a peer's name as it is typed in a command."""
    return f'"{plain(name)}"' if " " in name else plain(name)


def show_number(peer: Any) -> None:  # noqa: ANN401  JSON
    """Show the safety number with a peer, and how to compare it."""
    groups = peer["safety_number"].split()
    show(f"Safety number between this node and {plain(peer['name'])}:")
    for at in range(0, len(groups), 4):
        show("    " + "   ".join(groups[at : at + 4]))
    say("Read it to each other on a number you know, not one from the card.")


def _peer_path(name: str, verb: str = "") -> str:
    return f"/api/v1/peers/{quote(name, safe='')}{verb}"


def number(
    context: typer.Context,
    peer: Peer,
    qr: Annotated[bool, typer.Option("--qr", help="Show it as QR code, to be scanned.")] = False,
    scanned: Annotated[
        str, typer.Option(help="What was scanned from the other side's screen: compare it.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Show or compare the safety number with a peer; it is the same on both sides."""
    from keys.fingerprint import parse_safety_number  # noqa: PLC0415
    from protocol.cardlink import NUMBER_SCHEME  # noqa: PLC0415

    row = call(context, "GET", _peer_path(peer))
    digits = row["safety_number"].replace(" ", "")
    same: bool | None = None
    if scanned:
        try:
            same = parse_safety_number(scanned.strip().removeprefix(NUMBER_SCHEME)) == digits
        except PeerError as error:  # scanned here, from a screen
            usage(error.diagnostics())
    if as_json:
        found = {"name": row["name"], "safety_number": row["safety_number"]}
        show_json(found | {"qr": NUMBER_SCHEME + digits} | ({} if same is None else {"same": same}))
    elif same:
        show(f"It is the number with {plain(row['name'])}: the right node.")
        method = f"--method in-person --safety-number {digits}"
        say(f"To trust it: picket peers {_next_verb(row)} {named(row['name'])} {method}")
    elif same is None and qr:
        _show_qr(NUMBER_SCHEME + digits, None, force=False)
        say("The other side scans it, and compares: picket peers number NAME --scanned TEXT")
    elif same is None:
        show_number(row)
    if same is False:
        fail(
            f"this is not the number with {plain(row['name'])}. Do not approve: it may be another "
            "node, or somebody is in between; scan it again",
            Exit.REFUSED,
        )


# --- callers ---------------------------------------------------------------------------------
def pending(context: typer.Context, as_json: Json = False) -> None:
    """List nodes that ask to be added. What they say of themselves proves nothing."""
    seen = call(context, "GET", "/api/v1/callers")
    if as_json:
        show_json(seen)
        return
    for row in seen["items"]:
        _show_caller(row)
    if not seen["items"]:
        show("No node asks to be added.")
        return
    say("Next: picket peers accept CALLER, or ignore CALLER, or later CALLER. None of it is final.")


def _show_caller(row: Any) -> None:  # noqa: ANN401  JSON
    show(f"{row['caller']}  {quoted(row['authority'])} ({row['country']})")
    show(f"         contact {quoted(row['contact'])}")
    where = f" from {plain(row['address'])}" if row["address"] else ""
    show(f"         asked {utc(row['first_seen'])}, last {utc(row['last_seen'])}{where}")
    if row["introduced_by"]:
        show(f"         introduced by {plain(row['introduced_by'])}; nobody trusts it by that")
    if row["state"] == "later":
        show(f"         put off until {utc(row['ask_at'])}")
    if row["imitates"]:
        show(f"       ! its name reads like {plain(row['imitates'])}, which it is NOT")


def _caller_path(caller: str, verb: str) -> str:
    return f"/api/v1/callers/{quote(caller, safe='')}/{verb}"


def accept(context: typer.Context, caller: Caller, name: Name = "", as_json: Json = False) -> None:
    """Add a node that asks to be added. Nothing is shared with it before you approve it."""
    body = {"name": name} if name else {}
    peer = call(context, "POST", _caller_path(caller, "accept"), body)
    if as_json:
        show_json(peer)
        return
    show(f"{plain(peer['name'])} ({peer['country']}) is known, at level {peer['level']}.")
    show_number(peer)
    say(f"Then: picket peers approve {named(peer['name'])}   (a mistake? picket peers undo)")


def ignore(context: typer.Context, caller: Caller, as_json: Json = False) -> None:
    """Forget a node that asks to be added; it does not come back, and is told nothing."""
    seen = call(context, "POST", _caller_path(caller, "ignore"), {})
    if as_json:
        show_json(seen)
        return
    show(f"{seen['caller']} is ignored.")
    say("A mistake? Within an hour: picket peers undo")


def later(context: typer.Context, caller: Caller, as_json: Json = False) -> None:
    """Put a node that asks to be added off for a day."""
    seen = call(context, "POST", _caller_path(caller, "later"), {})
    if as_json:
        show_json(seen)
    else:
        show(f"{seen['caller']} is shown again at {utc(seen['ask_at'])}.")


def undo(context: typer.Context, as_json: Json = False) -> None:
    """Take back the last accept, add, ignore or later of the last hour, if nothing followed."""
    last = call(context, "GET", "/api/v1/callers/undo")
    seen = call(context, "POST", "/api/v1/callers/undo", {"act": last["act"]})
    if as_json:
        show_json(seen)
        return
    show(f"Undone: {seen['node_id'][:7]} ({quoted(seen['name'])}) was {seen['what']}.")
    if seen["what"] != "added":
        say("It waits again: picket peers pending")


# --- introductions ---------------------------------------------------------------------------
def introduce(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    peer: Peer,
    to: Annotated[str, typer.Option(help="The peer that is to know it.")],
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write an introduction of a peer for another one. It says who they are, and gives no trust."""
    seen = call(context, "POST", _peer_path(peer, "/introduction"), {"to": to})
    if as_json:
        show_json(seen)
    elif out is None:
        sys.stdout.write(seen["introduction"])
    else:
        write_new(out, seen["introduction"], force=force)
        say(f"Written to {out}. Send it to {plain(seen['to'])}; there: picket peers add {out.name}")


def _introduced(context: typer.Context, text: str, *, as_json: bool) -> None:
    seen = call(context, "POST", "/api/v1/introductions", {"introduction": text})
    if as_json:
        show_json(seen)
        return
    _show_caller(seen)
    say(f"It waits. Next: picket peers accept {seen['caller']}, then compare the number with it.")
