"""Commands about where the signing keys are: in a token, or with a signer in another process."""

from __future__ import annotations

import os
import pwd
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from node.cli.terminal import (
    Exit,
    ask_passphrase,
    ask_pin,
    ask_pin_if_needed,
    confirm,
    fail,
    plain,
    say,
    show,
    show_json,
    state,
    usage,
)
from node.client import Client
from node.home import Home

app = typer.Typer(
    help="Where the signing keys are: a token, or a process of its own.",
    no_args_is_help=True, rich_markup_mode=None,
)  # fmt: skip

Hsm = Annotated[
    str, typer.Option("--hsm", metavar="MODULE", help="Keys in a token: its PKCS#11 module.")
]
TokenLabel = Annotated[str, typer.Option("--token", metavar="LABEL", help="Label of the token.")]
KeyLabel = Annotated[
    str, typer.Option("--hsm-identity", metavar="LABEL", help="Label of the identity key in it.")
]
MessageLabel = Annotated[
    str,
    typer.Option("--hsm-message", metavar="LABEL", help="Message key in the token too, so called."),
]
PinFile = Annotated[
    Path | None, typer.Option(readable=False, help="File that holds the PIN of the token.")
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", readable=False, help="File that holds the passphrase."),
]
SignerPassphraseFile = Annotated[
    Path | None,
    typer.Option(readable=False, help="File that holds the passphrase of the signer's keystore."),
]
Folder = Annotated[
    Path, typer.Argument(metavar="DIR", readable=False, help="The signer's own folder.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_KEYS: Final = {
    "identity/ed25519": "the Ed25519 half of the identity key",
    "identity/mldsa65": "the ML-DSA half of the identity key",
    "message": "the message key",
}


def settings(
    hsm: str, token: str, identity: str, message: str, pin_file: Path | None
) -> Mapping[str, Any]:
    """Return the settings of a new node whose keys are to be made in a token; none without one."""
    if not hsm:
        if token or identity or message or pin_file is not None:
            usage("--token, --hsm-identity, --hsm-message and --pin-file go with --hsm MODULE")
        return {}
    if not token:
        usage("--hsm needs --token LABEL")
    found: dict[str, Any] = {
        "signer.kind": "pkcs11", "signer.module": hsm, "signer.token": token,
        "signer.message": message,
    }  # fmt: skip
    if identity:
        found["signer.identity"] = identity
    if pin_file is not None:
        found["signer.pin_file"] = str(pin_file.absolute())
    return found


def _stopped(home: Path) -> None:
    if Client(home).running():
        fail("the node is running. Stop it first: systemctl stop picket", Exit.REFUSED)


def _told(done: list[str], where: str, *, as_json: bool) -> None:
    if as_json:
        show_json({"keys": done, "to": where})
        return
    for name in done:
        show(f"{_KEYS[name]} is in {plain(where)} now, and no more where it was.")


@app.command("status")
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show where the settings say that the signing keys are, and whether a signer answers there."""
    from node.config import load_config  # noqa: PLC0415
    from node.signer_client import answers  # noqa: PLC0415

    config = load_config(Home(state(context).home)).signer
    found = {
        "kind": config.kind, "module": config.module, "token": config.token,
        "socket": config.socket, "fault": None,
    }  # fmt: skip
    fault = answers(config)
    if fault is not None:
        found["fault"] = fault.diagnostics()
    if as_json:
        show_json(found)
    else:
        where = {
            "file": "in the keystore",
            "pkcs11": f"in the token {plain(config.token)}",
            "agent": f"with the signer at {plain(config.socket)}",
        }[config.kind]
        show(f"The identity key is {where}.")
        if fault is not None:
            show(f"! {plain(fault.diagnostics())}")
    if fault is not None:
        raise typer.Exit(Exit.TEMPORARY)


@app.command("import")
def import_(
    context: typer.Context,
    passphrase_file: PassphraseFile = None,
    pin_file: PinFile = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put the signing keys of a stopped node into the token that the settings name.

    The token never gives them out again. A copy of the keystore from before still holds them.
    """
    from node.app import open_core  # noqa: PLC0415
    from node.clock import SystemClock  # noqa: PLC0415
    from node.config import load_config  # noqa: PLC0415
    from node.signer_moves import import_keys  # noqa: PLC0415

    chosen = state(context)
    _stopped(chosen.home)
    home = Home(chosen.home)
    config = load_config(home)
    if not yes:
        say("The keys are put into the token and taken out of the keystore. They cannot come back.")
    if not yes and not confirm(chosen, "Put them into the token?", "--yes"):
        fail("nothing was changed", Exit.REFUSED)
    secret = ask_passphrase(chosen, file=passphrase_file or _named(config.keystore.passphrase_file))
    with open_core(home, config, SystemClock()) as core:
        done = import_keys(
            core, config, passphrase=secret,
            pin=lambda: ask_pin_if_needed(chosen, file=pin_file),
        )  # fmt: skip
    _told(done, f"the token {config.signer.token}", as_json=as_json)


def _named(path: str) -> Path | None:
    return Path(path) if path else None


@app.command("move")
def move(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    folder: Folder,
    message: Annotated[
        bool, typer.Option("--with-message", help="Move the message key, too.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    signer_passphrase_file: SignerPassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Take the identity key out of a stopped node's keystore, into a folder for its own signer.

    Then run it: picket signer run DIR --socket PATH, and set signer.kind and signer.socket.
    """
    from node.app import open_core  # noqa: PLC0415
    from node.clock import SystemClock  # noqa: PLC0415
    from node.config import load_config  # noqa: PLC0415
    from node.signer_moves import move_keys  # noqa: PLC0415

    chosen = state(context)
    _stopped(chosen.home)
    home = Home(chosen.home)
    config = load_config(home)
    secret = ask_passphrase(chosen, file=passphrase_file or _named(config.keystore.passphrase_file))
    if signer_passphrase_file is None:
        say("Now a passphrase for the signer, other than the node's.")
    new = not (folder / "keystore").exists()
    other = ask_passphrase(chosen, file=signer_passphrase_file, twice=new)
    with open_core(home, config, SystemClock()) as core:
        done = move_keys(
            core, folder.absolute(), passphrase=secret, signer_passphrase=other, message=message
        )
    _told(done, str(folder), as_json=as_json)
    say('Set in picket.toml, under [signer]:  kind = "agent"  and  socket = "PATH"')
    say(f"Then run it: picket signer run {folder} --socket PATH")


@app.command("return")
def return_(
    context: typer.Context,
    folder: Folder,
    passphrase_file: PassphraseFile = None,
    signer_passphrase_file: SignerPassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Put the keys of a signer's folder back into the keystore of a stopped node."""
    from node.app import open_core  # noqa: PLC0415
    from node.clock import SystemClock  # noqa: PLC0415
    from node.config import load_config  # noqa: PLC0415
    from node.signer_moves import return_keys  # noqa: PLC0415

    chosen = state(context)
    _stopped(chosen.home)
    home = Home(chosen.home)
    config = load_config(home)
    secret = ask_passphrase(chosen, file=passphrase_file or _named(config.keystore.passphrase_file))
    if signer_passphrase_file is None:
        say("Now the passphrase of the signer.")
    other = ask_passphrase(chosen, file=signer_passphrase_file)
    with open_core(home, config, SystemClock()) as core:
        done = return_keys(core, folder.absolute(), passphrase=secret, signer_passphrase=other)
    _told(done, str(home.keystore), as_json=as_json)
    say('Set in picket.toml, under [signer]:  kind = "file"')


@app.command("run")
def run(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    folder: Folder,
    socket: Annotated[
        Path, typer.Option(metavar="PATH", readable=False, help="Where the node finds it.")
    ],
    allow_user: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further user whose requests it answers; repeat it."),
    ] = None,
    signer_passphrase_file: SignerPassphraseFile = None,
    hsm: Hsm = "",
    token: TokenLabel = "",
    key_label: KeyLabel = "picket-identity",
    message_label: MessageLabel = "",
    pin_file: PinFile = None,
    sign_again: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Sign another key statement N: the node never kept the first one."
        ),
    ] = None,
) -> None:
    """Run the signer over the keys in DIR, until it is stopped.

    It signs only what its own node may say, and notes each signature in DIR/journal before.
    """
    from keys.signers import Place, parse_pin  # noqa: PLC0415
    from node.clock import SystemClock  # noqa: PLC0415
    from node.hardening import refuse_dumps  # noqa: PLC0415
    from node.signer_agent import opened, serve  # noqa: PLC0415

    refuse_dumps()
    chosen = state(context)
    if bool(hsm) != bool(token):
        usage("--hsm and --token go together")
    uids = frozenset({os.geteuid(), *map(_uid, allow_user or ())})
    secret = ask_passphrase(chosen, file=signer_passphrase_file)
    place, pin = (
        (Place(hsm, token), parse_pin(ask_pin(chosen, file=pin_file))) if hsm else (None, "")
    )
    signal.signal(signal.SIGTERM, _stop)
    with opened(
        folder.absolute(), secret, clock=SystemClock(), place=place, pin=pin,
        labels=(key_label, message_label),
    ) as signer:  # fmt: skip
        if sign_again is not None:
            signer.sign_again(sign_again)
        serve(
            signer, socket.absolute(), uids=uids, ready=lambda: say(f"The signer is at {socket}.")
        )


def _stop(number: int, frame: object) -> None:
    del number, frame
    raise typer.Exit(Exit.OK)


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        usage(f"--allow-user {name}: there is no such user on this machine")
