"""``picket approve`` and ``picket operators``: what more than one person has to agree to.

A person's key is opened and used in this process alone: the node gets the signed vote, never the
key. What is shown before signing is made of the bytes that are signed.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from node.cli.terminal import (
    Exit,
    ask,
    ask_passphrase,
    call,
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

app = typer.Typer(
    help="Approve what one person may not do alone.", no_args_is_help=True, rich_markup_mode=None
)
operators_app = typer.Typer(
    help="Who may approve, and how many of them must.", no_args_is_help=True, rich_markup_mode=None
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Digest = Annotated[
    str, typer.Argument(metavar="DIGEST", help="The first digits of the request, as listed.")
]
Key = Annotated[
    Path,
    typer.Option("--key", readable=False, help="Your own key file; the node never gets the key."),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", readable=False, help="File with the passphrase of YOUR key."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Lines = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", readable=False, help="The operators' public key lines, or - for input."
    ),
]
Required = Annotated[
    int, typer.Option("--required", min=1, help="How many of them have to approve.")
]
_MAX_LINES: Final = 64 * 1024
"""Bytes of a list of operators, or of a code."""


# --- approving -------------------------------------------------------------------------------
@app.command("list")
def approve_list(context: typer.Context, as_json: Json = False) -> None:
    """List what waits for approvals."""
    seen = call(context, "GET", "/api/v1/approvals")
    if as_json:
        show_json(seen)
        return
    if not seen["items"]:
        say("Nothing waits for approvals.")
        return
    table(
        ("REQUEST", "APPROVED", "UNTIL", "WHAT"),
        [
            (
                each["digest"][:16], f"{len(each['approved_by'])} of {each['required']}",
                utc(each["ends"]), plain(each["what"]),
            )
            for each in seen["items"]
        ],
    )  # fmt: skip


@app.command("show")
def approve_show(context: typer.Context, digest: Digest, as_json: Json = False) -> None:
    """Show one request: what would be done, and who has approved it."""
    seen = _get(context, digest)
    if as_json:
        show_json(seen)
        return
    _describe(seen)
    _show_votes(seen)


@app.command("sign")
def approve_sign(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    digest: Digest,
    key: Key,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Approve a request with your own key. It cannot be taken back."""
    _vote(context, digest, key, passphrase_file, says_yes=True, sure=yes, as_json=as_json)


@app.command("reject")
def approve_reject(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    digest: Digest,
    key: Key,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Reject a request with your own key. It cannot be taken back."""
    _vote(context, digest, key, passphrase_file, says_yes=False, sure=yes, as_json=as_json)


@app.command("history")
def approve_history(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many acts.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what was asked, approved, done and refused, the newest first."""
    seen = call(context, "GET", f"/api/v1/approvals/history?limit={limit}")
    if as_json:
        show_json(seen)
        return
    table(
        ("ENTRY", "AT", "BY", "ACT"),
        [(e["log_index"], utc(e["at"]), e["by"], plain(e["act"])) for e in seen["items"]],
    )


def _get(context: typer.Context, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = call(context, "GET", f"/api/v1/approvals/{quote(digest, safe='')}")
    return found


def _describe(seen: dict[str, Any]) -> None:
    show(f"{plain(seen['what'])}")
    for each in seen["details"]:
        show(f"  {each['label']:<12} {plain(each['text'])}")


def _show_votes(seen: dict[str, Any]) -> None:
    show(f"Approved {len(seen['approved_by'])} of {seen['required']}"
         f"{': ' if seen['approved_by'] else ''}{_names(seen['approved_by'])}")  # fmt: skip
    if seen["rejected_by"]:
        show(f"Rejected by {_names(seen['rejected_by'])}")
    if seen["missing"]:
        show(f"Can still vote: {_names(seen['can_vote']) or 'nobody'}")
        say(f"An operator approves it with: picket approve sign {seen['digest'][:16]} --key FILE")
    else:
        show("Whoever asked can do it now: the same command again.")


def _names(names: list[str]) -> str:
    return ", ".join(map(plain, names))


def _vote(
    context: typer.Context,
    digest: str,
    key: Path,
    passphrase_file: Path | None,
    *,
    says_yes: bool,
    sure: bool,
    as_json: bool,
) -> None:
    from keys.operators import load_operator  # noqa: PLC0415
    from node.approval_words import details, what  # noqa: PLC0415
    from node.clock import SystemClock  # noqa: PLC0415
    from protocol.approval import make_vote, parse_action  # noqa: PLC0415

    chosen = state(context)
    seen = _get(context, digest)
    # What is signed is shown as its own bytes say it, whatever else the node says of it.
    action = parse_action(bytes.fromhex(seen["action"]))
    if not action.digest.hex().startswith(digest.strip().lower()):
        fail("the node shows another request than was asked for. Do not sign; find out why",
             Exit.UNVERIFIED)  # fmt: skip
    say(f"You {'approve' if says_yes else 'reject'}: {plain(what(action))}")
    for label, text in details(action):
        say(f"  {label:<12} {plain(text)}")
    word = "Approve" if says_yes else "Reject"
    if not sure and not confirm(chosen, f"{word} exactly this? It cannot be undone.", "--yes"):
        fail("nothing was signed", Exit.REFUSED)
    if passphrase_file is None:
        say("Now the passphrase of your own key.")
    opened = load_operator(key, ask_passphrase(chosen, file=passphrase_file))
    vote = make_vote(action, signer=opened.signer, yes=says_yes, at=SystemClock().now())
    path = f"/api/v1/approvals/{action.digest.hex()}/votes"
    after = call(context, "POST", path, {"vote": vote.wire.hex()})
    if as_json:
        show_json(after)
        return
    show(f"{plain(opened.name)} has {'approved' if says_yes else 'rejected'} it.")
    _show_votes(after)


# --- operators -------------------------------------------------------------------------------
@operators_app.command("new-key")
def new_key(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(readable=False, help="A new file for your key.")],
    name: Annotated[str, typer.Option(help="Your name, as your colleagues know it.")] = "",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make your own key for approvals. It needs no node. Hand on the line that it prints."""
    from keys.operators import format_line, new_operator  # noqa: PLC0415
    from node.clock import SystemClock  # noqa: PLC0415

    chosen = state(context)
    called = name or ask(chosen, "Your name", "--name")
    secret = ask_passphrase(chosen, file=passphrase_file, twice=True)
    made = new_operator(
        file, name=called, passphrase=secret, now=SystemClock().now(),
        random=secrets.token_bytes,
    )  # fmt: skip
    show(format_line(made))
    say(f"Your key is in {file}: keep it where only you can read it. It lasts one year.")
    say("Hand the line above to the administrator of the node, and read the key to each other: "
        f"{made.operator.id.hex()[:16]}")  # fmt: skip


@operators_app.command("list")
def operators_list(context: typer.Context, as_json: Json = False) -> None:
    """Show who may approve, and how many of them must."""
    seen = call(context, "GET", "/api/v1/operators")
    if as_json:
        show_json(seen)
        return
    if not seen["operators"]:
        say("No policy is set: one operator alone may do everything. See: picket operators set")
        return
    _show_policy(seen)
    how = ", with the recovery code" if seen["reset"] else ""
    show(f"Set at {utc(seen['set_at'])}{how}")


def _show_policy(seen: dict[str, Any]) -> None:
    show(f"{seen['required']} of {len(seen['operators'])} have to approve")
    table(
        ("OPERATOR", "KEY", "ENDS"),
        [
            (o["name"], o["key"][:16], f"{utc(o['ends'])}{'  ENDED' if o['ended'] else ''}")
            for o in seen["operators"]
        ],
    )


@operators_app.command("set")
def operators_set(
    context: typer.Context, file: Lines, required: Required, as_json: Json = False
) -> None:
    """Say who may approve and how many must. To change it, the operators of now have to approve."""
    body = {"required": required, "operators": _lines(file)}
    seen = call(context, "POST", "/api/v1/operators", body)
    if as_json:
        show_json(seen)
        return
    _show_policy(seen)
    say("From now on they have to approve: share with a peer, new identity keys, the end of the "
        "identity, disclosing, exporting, and any change of this.")  # fmt: skip


@operators_app.command("reset")
def operators_reset(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    file: Lines,
    required: Required,
    code_file: Annotated[
        Path | None,
        typer.Option(
            "--code-file", readable=False, help="File that holds the RECOVERY CODE, or -."
        ),
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Say so with the RECOVERY CODE from the safe, if too many operators lost their keys.

    The status shows it for 30 days, and the log for good.
    """
    chosen = state(context)
    if code_file is not None and str(code_file) == str(file) == "-":
        usage("only one of both can come from the input. Put the other one into a file")
    lines = _lines(file)
    if not yes:
        say("The operators of now are replaced, whatever they say. All will see that.")
    if not yes and not confirm(chosen, "Replace them?", "--yes"):
        fail("nothing was changed", Exit.REFUSED)
    code = (
        ask(chosen, "RECOVERY CODE on the recovery sheet", "--code-file")
        if code_file is None
        else read_text(code_file, maximum=_MAX_LINES).strip()
    )
    body = {"required": required, "operators": lines, "code": code}
    seen = call(context, "POST", "/api/v1/operators/reset", body)
    if as_json:
        show_json(seen)
        return
    _show_policy(seen)
    say("Lock the paper away again: the code on it still stands for the next identity key.")


def _lines(file: Path) -> str:
    return read_text(file, maximum=_MAX_LINES)
