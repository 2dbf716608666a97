"""Commands about the verifiable log."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from node.cli.terminal import Exit, call, confirm, fail, say, show, show_json, state

app = typer.Typer(help="The verifiable log.", no_args_is_help=True, rich_markup_mode=None)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("verify")
def verify(context: typer.Context, as_json: Json = False) -> None:
    """Verify every entry, envelope and receipt. Exit code 5 if anything does not."""
    seen = call(context, "POST", "/api/v1/log/verify", {})
    if as_json:
        show_json(seen)
    else:
        counts = (seen[f"{what}_checked"] for what in ("entries", "envelopes", "receipts"))
        show("The log verifies: {} entries, {} envelopes, {} receipts.".format(*counts))


@app.command("head")
def head(context: typer.Context, as_json: Json = False) -> None:
    """Print the newest signed checkpoint."""
    seen = call(context, "GET", "/api/v1/log/head")
    if as_json:
        show_json(seen)
    else:
        sys.stdout.write(seen["checkpoint"])


@app.command("accept")
def accept(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take node.db for its newest copy, where the file `fence` is lost.

    If it is an older copy, this node will sign a second history and its peers will notice.
    """
    chosen = state(context)
    say("If node.db is an older copy, peers will see this node contradict itself.")
    if not yes and not confirm(chosen, "Are you certain that node.db is the newest?", "--yes"):
        fail("nothing was changed", Exit.REFUSED)
    from node.app import accept_database  # noqa: PLC0415

    show(f"Accepted, with {accept_database(chosen.home)} log entries.")
