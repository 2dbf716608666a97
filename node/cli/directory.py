"""Commands of the officers of a directory: their keys, and suspending a node. They need no node."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Final

import typer

from node.cli.terminal import (
    Exit,
    ask_passphrase,
    fail,
    plain,
    read_text,
    say,
    show,
    show_json,
    state,
    usage,
    utc,
    write_new,
)
from node.clock import SystemClock, rfc3339
from protocol import limits

_DAY_MS: Final = 86_400_000
_MOST_DAYS: Final = limits.MAX_SUSPENSION_MS // _DAY_MS
_WHAT: Final = "suspension"
app = typer.Typer(
    help="For the officers of a directory: suspend a node.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
Secret = Annotated[
    Path | None,
    typer.Option("--passphrase-file", readable=False, help="Passphrase of the officer's key."),
]
KeyFile = Annotated[Path, typer.Option("--key", readable=False, help="The officer's key file.")]
Out = Annotated[Path, typer.Option(help="File to write.")]


@app.command("new-key")
def new_key(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What the officer is called in the directory.")],
    out: Out,
    passphrase_file: Secret = None,
    as_json: Json = False,
) -> None:
    """Make the key of one officer, and show the line for everybody's file ``directory``."""
    from node.suspending import make_key  # noqa: PLC0415

    if not name or not name.isascii() or any(character.isspace() for character in name):
        usage("the name is one word of plain letters, as it stands in the file directory")
    if passphrase_file is None:
        say("A passphrase for the key, which only this officer knows.")
    secret = ask_passphrase(state(context), file=passphrase_file, twice=True)
    public = make_key(out, secret)
    line = f"key {name} {base64.b64encode(b''.join(public)).decode('ascii')}"
    if as_json:
        show_json({"file": str(out), "line": line})
        return
    show(line)
    say(f"Keep {out} where only this officer gets at it. The line above is public: it goes into")
    say("the file directory of each node that follows this directory.")


@app.command("sign")
def sign(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    key: KeyFile,
    out: Out,
    node: Annotated[str, typer.Option(help="Node id of the node to suspend.")] = "",
    network: Annotated[str, typer.Option(help="Name of the network.")] = "",
    days: Annotated[int, typer.Option(help=f"For how long, 1 to {_MOST_DAYS}.")] = _MOST_DAYS,
    reason: Annotated[str, typer.Option(help="Why, in one line that all will read.")] = "",
    add: Annotated[
        Path | None,
        typer.Option("--add", readable=False, help="Sign what another officer has begun."),
    ] = None,
    passphrase_file: Secret = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Suspend a node, or add a signature to a suspension that another officer has begun."""
    from keys.fingerprint import parse_node_id  # noqa: PLC0415
    from node.suspending import add_signature, begin, load_key  # noqa: PLC0415

    if add is None and not (node and network and reason):
        usage("say whom to suspend, where and why: --node, --network and --reason")
    if add is not None and (node or network or reason):
        usage("with --add the text stands already. Leave out --node, --network and --reason")
    if not 1 <= days <= _MOST_DAYS:
        usage(f"a suspension lasts 1 to {_MOST_DAYS} days. Renew it for longer")
    before = None if add is None else _read(add)
    if before is not None and not as_json:
        _show(before, as_json=False)  # an officer sees what is signed before the passphrase
    signer = load_key(key, ask_passphrase(state(context), file=passphrase_file))
    if before is None:
        now = SystemClock().now()
        made = begin(
            signer, network=_network_id(network), node_id=parse_node_id(node), issued=now,
            until=now + days * _DAY_MS, reason=reason,
        )  # fmt: skip
    else:
        made = add_signature(before, signer)
    write_new(out, _armored(made), force=force)
    _show(made, as_json=as_json)


@app.command("combine")
def combine(
    files: Annotated[list[Path], typer.Argument(readable=False, help="Signed by one or more.")],
    out: Out,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Put the signatures of several officers on the same suspension together."""
    from node.suspending import combine as put_together  # noqa: PLC0415

    made = put_together([_read(file) for file in files])
    write_new(out, _armored(made), force=force)
    _show(made, as_json=as_json)


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(readable=False, help="A suspension, or - for input.")],
    directory: Annotated[
        Path, typer.Option(readable=False, help="The file directory with the officers' keys.")
    ],
    network: Annotated[str, typer.Option(help="Name of the network.")],
    as_json: Json = False,
) -> None:
    """Say whether enough officers have signed a suspension, and until when it counts."""
    from node.directory import load_directory  # noqa: PLC0415
    from node.suspending import missing  # noqa: PLC0415

    known = load_directory(directory)
    if known is None:
        fail(f"there is no file {directory}. Ask the directory for it", Exit.USAGE)
    wire = _read(file)
    why = missing(wire, known, network=_network_id(network), now=SystemClock().now())
    if why:
        fail(
            f"it does not count: {why}. Let more officers sign: picket directory sign", Exit.REFUSED
        )
    _show(wire, as_json=as_json, counts=True)


def _network_id(name: str) -> bytes:
    from protocol.suite import network_id  # noqa: PLC0415

    return network_id(name)


def _armored(made: bytes) -> str:
    from protocol.armor import armor_block  # noqa: PLC0415

    return armor_block(_WHAT, made)


def _read(file: Path) -> bytes:
    from protocol.armor import dearmor_block  # noqa: PLC0415

    return dearmor_block(_WHAT, read_text(file), maximum=limits.MAX_SUSPENSION)


def _show(wire: bytes, *, as_json: bool, counts: bool | None = None) -> None:
    from keys.fingerprint import format_node_id  # noqa: PLC0415
    from protocol.suspension import parse_suspension  # noqa: PLC0415

    it = parse_suspension(wire)
    row = {
        "node_id": format_node_id(it.node_id), "issued": rfc3339(it.issued),
        "until": rfc3339(it.until), "reason": it.reason, "signatures": len(it.signatures),
    }  # fmt: skip
    if as_json:
        show_json(row if counts is None else {**row, "counts": counts})
        return
    show(f"Suspends {row['node_id']}")
    show(f"from {utc(rfc3339(it.issued))} until {utc(rfc3339(it.until))}: {plain(it.reason)}")
    show(f"Signed by {len(it.signatures)}.")
