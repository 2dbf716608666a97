"""The command that locks a node."""

from __future__ import annotations

from typing import Annotated

import typer

from node.cli.terminal import call, say, show_json, state
from node.client import Client


def lock(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Close the keystore at once, until somebody gives the passphrase: picket unlock."""
    running = Client(state(context).home).running()
    seen = call(context, "POST", "/api/v1/lock", {})
    if as_json:
        show_json(seen)
        return
    if not running:
        say("The node does not run. It will start locked, until: picket unlock")
        return
    say("The node is locked. It goes on to receive, log, give receipts and carry.")
    if not seen["kept"]:
        say("The disk is full, so a restart would not know of it. Free some disk space.")
    say("What waits is shown after: picket unlock")


def register(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command()(lock)
