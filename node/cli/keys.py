"""Commands about this node's own keys over their life."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from node.cli.terminal import (
    Exit,
    State,
    ask,
    ask_passphrase,
    call,
    choose,
    confirm,
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
from node.words import counted
from protocol.errors import OperatorError

_FEW: Final = 8
_LINE: Final = 100
_NARROWEST: Final = 40
_MAX_CODE: Final = 4_096
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
    app.command("rotate-message")(rotate_message)
    app.command("rotate-tls")(rotate_tls)
    app.command("exposed")(exposed)
    app.command("exposures")(exposures)
    app.command("recover")(recover)
    app.command("revoke")(revoke)
    app.command("passphrase")(passphrase)
    peers.command("confirm")(confirm_peer)
    peers.command("suspend")(suspend)


def _code(chosen: State, file: Path | None, what: str) -> str:
    """Return a code from paper: from a file or a prompt, never from the command line."""
    if file is None:
        return ask(chosen, f"{what} on the recovery sheet", "--code-file")
    return read_text(file, maximum=_MAX_CODE).strip()


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
    table(("KEY", "SINCE", "NEXT DUE"), [_key_row(key) for key in seen["keys"]])
    for line in _key_notes(seen["keys"]):
        show(line)
    if seen["old_sealing_keys"]:
        old = counted(seen["old_sealing_keys"], "older sealing key is", "older sealing keys are")
        show(f"{old} kept for what is on its way")
    if seen["tls_waits_for"]:
        names = ", ".join(map(plain, seen["tls_waits_for"]))
        show(f"The new certificate is used once these were linked, or after a week: {names}")
    table(
        ("NUMBER", "STATEMENT", "ISSUED"),
        [(s["number"], s["type"], utc(s["issued"])) for s in seen["statements"][-10:]],
    )


def _key_row(key: dict[str, Any]) -> tuple[str, ...]:
    until = "-" if key["until"] is None else utc(key["until"])
    mark = "! " if key["due"] else ""
    return key["purpose"], utc(key["since"]), mark + until


def _key_notes(keys: list[dict[str, Any]]) -> Iterator[str]:
    """Yield in whole lines what happens to which keys by itself, and what a person has to do."""
    purposes: dict[str, list[str]] = {}
    for key in keys:
        said = [key["itself"]] * bool(key["itself"]) + [f"you: {key['person'] or 'nothing'}"]
        purposes.setdefault("; ".join(said), []).append(key["purpose"])
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _LINE
    for said_of, names in purposes.items():
        yield from textwrap.wrap(
            f"{', '.join(names)}: {said_of}", max(width, _NARROWEST), subsequent_indent="  "
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
    show("The next identity key is in force.")
    show(f"1. Print {seen['recovery_sheet']}, lock the paper away, then delete the file.")
    show("2. Destroy the paper with the code that you used: it stands for the key in use now.")


def rotate_seal(context: typer.Context, as_json: Json = False) -> None:
    """Make a new sealing key at once. The node does this by itself once a month."""
    seen = call(context, "POST", "/api/v1/keys/rotate-sealing", {}, needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        show(f"A new sealing key is on card {seen['number']}, which peers get at once.")


def rotate_message(context: typer.Context, as_json: Json = False) -> None:
    """Make a new message key at once. The node does this by itself once a year."""
    seen = call(context, "POST", "/api/v1/keys/rotate-message", {}, needs_keys=True)
    if as_json:
        show_json(seen)
    else:
        show(f"A new message key is on card {seen['number']}; the old one is destroyed.")


def rotate_tls(
    context: typer.Context,
    now: Annotated[
        bool, typer.Option("--now", help="Use it at once: the old one may be in other hands.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a new certificate for links. The node does this by itself every 90 days.

    It is used once all peers have the card with it, or after a week.
    """
    seen = call(context, "POST", "/api/v1/keys/rotate-tls", {"now": now}, needs_keys=True)
    if as_json:
        show_json(seen)
    elif seen["used"]:
        show(f"A new certificate is on card {seen['number']}, and used from now on.")
    else:
        show(f"A new certificate is on card {seen['number']} beside the old one.")
        if seen["waits_for"]:
            say(f"It is used once these were linked: {', '.join(map(plain, seen['waits_for']))}")


def exposed(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    since: Annotated[
        str, typer.Option(help="When it can have been lost at the earliest: 2026-03-04.")
    ] = "",
    until: Annotated[str, typer.Option(help="And at the latest; by default now.")] = "",
    key: Annotated[
        str, typer.Option(help="Id of one sealing key; by default all that were here.")
    ] = "",
    tell: Annotated[
        bool, typer.Option("--tell", help="Replace lost keys, and tell those who sealed to them.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Show which messages whoever has this node's lost sealing keys can read, by author."""
    from urllib.parse import urlencode  # noqa: PLC0415

    chosen = state(context)
    lost = {"key": key, "since": since, "until": until}
    if tell and not yes:
        say("A new sealing key is made, and the authors below are told what the lost one opened.")
        _show_exposed(call(context, "GET", f"/api/v1/keys/exposed?{urlencode(lost)}"), say)
        if not confirm(chosen, "Tell them?", "--yes"):
            fail("nothing was changed", Exit.REFUSED)
    if tell:
        seen = call(context, "POST", "/api/v1/keys/exposed", lost, needs_keys=True)
    else:
        seen = call(context, "GET", f"/api/v1/keys/exposed?{urlencode(lost)}")
    if as_json:
        show_json(seen)
        return
    _show_exposed(seen, show)
    if not tell:
        say("To replace lost keys and tell the authors, add --tell.")
        return
    if seen["new_key"]:
        show(f"A new sealing key is on card {seen['number']}; the lost one is not on it any more.")
    if seen["waits_for"]:
        show(f"Told when they are linked: {', '.join(map(plain, seen['waits_for']))}")


def _show_exposed(seen: dict[str, Any], out: Callable[[str], None]) -> None:
    out(f"Lost between {utc(seen['from'])} and {utc(seen['until'])}")
    for key in seen["keys"]:
        ends = "in use" if key["until"] is None else f"until {utc(key['until'])}"
        out(f"Key {key['key'][:16]}, since {utc(key['since'])}, {ends}")
        for author in key["authors"]:
            count = author["envelopes"]
            note = "" if author["can_be_told"] or author["own"] else "; no peer: call it yourself"
            out(f"  {plain(author['name'])}: {count} message{'s' * (count != 1)}{note}")
            if author["refs"]:
                out(f"    {', '.join(map(plain, author['refs']))}")
        if not key["authors"]:
            out("  nothing that is held here was sealed to it")


def exposures(context: typer.Context, as_json: Json = False) -> None:
    """Show what was told of lost keys: by this node, and by its peers."""
    seen = call(context, "GET", "/api/v1/keys/exposures")
    if as_json:
        show_json(seen)
        return
    for row in seen["items"]:
        lost = f"lost between {utc(row['from'])} and {utc(row['until'])}"
        if row["direction"] == "in":
            show(f"{plain(row['peer'])} says that its key {row['key'][:16]} was {lost}.")
            show(f"  It opens {counted(row['known'], 'message')} of this node:")
        else:
            told = "not told yet" if row["told_at"] is None else f"told {utc(row['told_at'])}"
            show(f"Key {row['key'][:16]} of this node was {lost}.")
            messages = counted(row["envelopes"], "message")
            show(f"  It opens {messages} of {plain(row['peer'])}; {told}:")
        refs = row["refs"] or [f"{each[:16]}…" for each in row["ids"][:_FEW]]
        show(f"  {', '.join(map(plain, refs)) or 'none that is still here'}")
    if not seen["items"]:
        show("No lost key was told of.")


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
            chosen.home, values, card=read_text(card), code=code, passphrase=secret,
            after=after or None,
        )  # fmt: skip
    show("The identity is taken back; all keys are new.")
    say(f"1. Print {done.recovery_sheet}, lock the paper away, then delete the file.")
    say("2. Destroy the paper with the code that you used: it stands for the key in use now.")
    say(f"3. {_new_passphrase(chosen.home, passphrase_file)}")
    say("4. Start the node, and send its new card to your peers: picket keys card --out my.card")
    if card is not None and not listen:
        _say_where_it_listens(chosen.home)


def _new_passphrase(home: Path, given: Path | None) -> str:
    """Return what is to be done where the service gets its passphrase; *given* has the new one."""
    from node.config import load_config  # noqa: PLC0415
    from node.home import Home  # noqa: PLC0415

    put = "Put the new passphrase where the service gets it, or it starts locked"
    try:
        file = load_config(Home(home)).keystore.passphrase_file
    except OperatorError:
        file = ""  # the passphrase is changed all the same
    if file and given is not None and Path(file) == given.absolute():
        return f"The service finds the new passphrase in {file} (keystore.passphrase_file)"
    if file:
        return f"{put}: the file {file} (keystore.passphrase_file)"
    return f"{put}: its credential picket-passphrase, if it has one"


def _say_where_it_listens(home: Path) -> None:
    """Say where a node on a new machine listens, if its card names an address."""
    from node.config import load_config  # noqa: PLC0415
    from node.home import Home  # noqa: PLC0415

    peer = load_config(Home(home)).peer
    if peer.endpoints:
        where = f"listens on {peer.listen}" if peer.listen else "does not listen"
        say(f"Its card says that peers reach it at {', '.join(map(plain, peer.endpoints))}.")
        say(f"It {where}. If nothing leads there: peer.listen and peer.endpoints in picket.toml")


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
    say(_new_passphrase(chosen.home, passphrase_file))


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
    seen = call(context, "POST", "/api/v1/suspensions", {"suspension": read_text(file)})
    if as_json:
        show_json(seen)
    else:
        show(f"Nothing is sent to {plain(seen['name'])} until {utc(seen['until'])}.")
