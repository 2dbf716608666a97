"""Commands about this node's own keys over their life."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.terminal import (
    Exit,
    State,
    ask,
    ask_passphrase,
    call,
    choose,
    confirm,
    denied,
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

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CodeFile = Annotated[
    Path | None,
    typer.Option("--code-file", readable=False, help="File that holds the code, or - for input."),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", readable=False, help="File that holds the passphrase."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def register(app: typer.Typer, peers: typer.Typer) -> None:
    """Add the commands to *app*, and those about peers to *peers*."""
    app.command("status")(status)
    app.command("rotate-identity")(rotate_identity)
    app.command("rotate-seal")(rotate_seal)
    app.command("recover")(recover)
    app.command("revoke")(revoke)
    app.command("passphrase")(passphrase)
    peers.command("confirm")(confirm_peer)
    peers.command("suspend")(suspend)


def _code(chosen: State, file: Path | None, what: str) -> str:
    """Return a code from paper: from a file or a prompt, never from the command line."""
    if file is None:
        return ask(chosen, f"{what} on the recovery sheet", "--code-file")
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError):
            fail(denied(file, "read", error, otherwise="Give - in its place"), Exit.USAGE)
        usage(f"{file} is not text. Type the code into it as it stands on the sheet")
    return text.strip()


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="ascii")
    except OSError as error:
        fail(denied(file, "read", error, otherwise="Give - in its place"), Exit.USAGE)
    except UnicodeDecodeError:
        usage(f"{file} is not text. Ask for the file again")


def status(context: typer.Context, as_json: Json = False) -> None:
    """Show which keys are in force, when they end, and what this node has said of them."""
    seen = call(context, "GET", "/api/v1/keys")
    if as_json:
        show_json(seen)
        return
    show(f"Node id   {seen['node_id']}{'  REVOKED' if seen['revoked'] else ''}")
    if seen["misused"]:
        show("! Somebody else signed with this node's identity key: picket keys recover")
    show(f"Card      number {seen['card']['number']}, ends {utc(seen['card']['expires'])}")
    for key in seen["sealing"]:
        show(f"Sealing   since {utc(key['since'])}, ends {utc(key['expires'])}")
    show(f"          {seen['old_sealing_keys']} older kept for what is still on its way")
    table(
        ("NUMBER", "STATEMENT", "ISSUED"),
        [(s["number"], s["type"], utc(s["issued"])) for s in seen["statements"][-10:]],
    )


def rotate_identity(
    context: typer.Context,
    code_file: CodeFile = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Put the next identity key in force. It needs the recovery code from the safe.

    If keys were stolen, use recover instead: a rotation lets the old cards go on.
    """
    chosen = state(context)
    code = _code(chosen, code_file, "RECOVERY CODE")
    secret = chosen.typed or ask_passphrase(chosen, file=passphrase_file)
    chosen.typed = secret
    body = {"code": code, "passphrase": secret.decode()}
    seen = call(context, "POST", "/api/v1/keys/rotate-identity", body, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    show("The next identity key is in force. Destroy the paper with the code that you used.")
    say(f"Print {seen['recovery_sheet']}, lock the paper away, then delete the file.")


def rotate_seal(context: typer.Context, as_json: Json = False) -> None:
    """Make a new sealing key at once. The node does this by itself once a month."""
    seen = call(context, "POST", "/api/v1/keys/rotate-sealing", {}, needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        show(f"A new sealing key is on card {seen['number']}, which peers get at once.")


def recover(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    code_file: CodeFile = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", readable=False, help="File with the NEW passphrase."),
    ] = None,
    old_passphrase_file: Annotated[
        Path | None,
        typer.Option(readable=False, help="File with the passphrase of the old keystore."),
    ] = None,
    keystore_lost: Annotated[
        bool, typer.Option("--keystore-lost", help="The old keystore cannot be opened any more.")
    ] = False,
    after: Annotated[
        int, typer.Option(help="Number of the last statement that is yours; default: the newest.")
    ] = 0,
    card: Annotated[
        Path | None,
        typer.Option(readable=False, help="On a new machine: the old card, from any peer."),
    ] = None,
    network: Annotated[str, typer.Option(help="With --card: the name of the network.")] = "",
    listen: Annotated[str, typer.Option(help="With --card: where peers dial in.")] = "",
    yes: Yes = False,
) -> None:
    """Take the identity back after keys were lost or stolen, with the code from the safe.

    Every key of this node becomes a new one. Peers stop using the old keys as soon as they hear of
    it, and use the new ones once their operators have confirmed it and 72 hours have passed.
    """
    from node.app import recover as recover_node  # noqa: PLC0415
    from node.app import recover_anew  # noqa: PLC0415

    chosen = state(context)
    if Client(chosen.home).running():
        fail("the node is running. Stop it first: systemctl stop picket", Exit.REFUSED)
    if not yes:
        say("Every key of this node is replaced. Its peers must confirm that by telephone.")
    if not yes and not confirm(chosen, "Take the identity back?", "--yes"):
        fail("nothing was changed", Exit.REFUSED)
    code = _code(chosen, code_file, "RECOVERY CODE")
    old = None
    if card is None and not keystore_lost:
        if old_passphrase_file is None:
            say("First the passphrase that opened the old keystore.")
        old = ask_passphrase(chosen, file=old_passphrase_file)
    if passphrase_file is None:
        say("Now a new passphrase.")
    secret = ask_passphrase(chosen, file=passphrase_file, twice=True)
    if card is None:
        done = recover_node(chosen.home, code=code, passphrase=secret, old=old, after=after or None)
    else:
        values = {"node.network": network or ask(chosen, "Network name", "--network")}
        values |= {"peer.listen": listen} if listen else {}
        if passphrase_file is not None:
            values["keystore.passphrase_file"] = str(passphrase_file.absolute())
        done = recover_anew(
            chosen.home, values, card=_text(card), code=code, passphrase=secret,
            after=after or None,
        )  # fmt: skip
    show("The identity is taken back; all keys are new.")
    say("Destroy the paper with the code that you used: it stands for the key in use now.")
    say(f"Print {done.recovery_sheet}, lock the paper away, then delete the file.")
    say("Start the node, and send its new card to your peers: picket keys card --out my.card")


def revoke(
    context: typer.Context,
    from_paper: Annotated[
        bool, typer.Option("--from-paper", help="With the REVOCATION CODE from the safe.")
    ] = False,
    code_file: CodeFile = None,
    yes: Yes = False,
) -> None:
    """End this node's identity for good. Nobody can undo it."""
    chosen = state(context)
    if not from_paper:
        usage("it takes the code from the safe. Give --from-paper")
    code = _code(chosen, code_file, "REVOCATION CODE")
    if not yes:
        say("This identity ends for good; peers take nothing of it any more. Nobody can undo it.")
    if not yes and not confirm(chosen, "End it?", "--yes"):
        fail("nothing was changed", Exit.REFUSED)
    call(context, "POST", "/api/v1/keys/revoke", {"code": code})
    show("The identity is revoked. Let the node run until its peers have heard of it.")


def passphrase(
    context: typer.Context,
    old_passphrase_file: Annotated[
        Path | None, typer.Option(readable=False, help="File with the passphrase of now.")
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", readable=False, help="File with the new passphrase."),
    ] = None,
) -> None:
    """Change the passphrase of the keystore."""
    chosen = state(context)
    old = ask_passphrase(chosen, file=old_passphrase_file)
    if passphrase_file is None:
        say("Now the new passphrase.")
    new = ask_passphrase(chosen, file=passphrase_file, twice=True)
    body = {"old": old.decode(), "new": new.decode()}
    call(context, "POST", "/api/v1/keys/passphrase", body)
    show("The passphrase is changed.")
    say("If the node finds its passphrase in a file, put the new one there.")


# --- peers -----------------------------------------------------------------------------------
def confirm_peer(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Name or node id.")],
    safety_number: Annotated[
        str, typer.Option(help="The 60 digits as the other side read them.")
    ] = "",
    method: Annotated[str, typer.Option(help="voice, in-person or note-verbale.")] = "",
    by: Annotated[str, typer.Option(help="Who spoke to them.")] = "",
    as_json: Json = False,
) -> None:
    """Confirm that a peer itself says that it has recovered its identity.

    Call it on a number that you know, never on one that came with the new card.
    """
    from urllib.parse import quote  # noqa: PLC0415

    chosen = state(context)
    path = f"/api/v1/peers/{quote(peer, safe='')}"
    row = call(context, "GET", path)
    if not safety_number and chosen.interactive:
        say(f"Ask {plain(row['name'])} whether its keys were lost or stolen, and why.")
        say("Then let it read its 60 digits, and type what you hear.")
    body: dict[str, Any] = {
        "safety_number": safety_number
        or ask(chosen, "Safety number as read to you", "--safety-number"),
        "method": method
        or choose(chosen, "How did you speak", "--method", ("voice", "in-person", "note-verbale")),
        "by": by or ask(chosen, "Your name", "--by"),
    }
    seen = call(context, "POST", f"{path}/confirm", body)
    if as_json:
        show_json(seen)
    elif seen["counts"]:
        show(f"The new keys of {plain(seen['name'])} count from now on.")
    else:
        show(f"Noted. The new keys of {plain(seen['name'])} count from {utc(seen['counts_from'])}.")
        say("Until then nobody uses the old ones or the new ones.")


def suspend(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(readable=False, help="The directory's suspension, or - for input.")
    ],
    as_json: Json = False,
) -> None:
    """Stop sending to a peer for a while, because the directory asks for it."""
    seen = call(context, "POST", "/api/v1/suspensions", {"suspension": _text(file)})
    if as_json:
        show_json(seen)
    else:
        show(f"Nothing is sent to {plain(seen['name'])} until {utc(seen['until'])}.")
