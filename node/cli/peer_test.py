"""``picket peers test``: why a peer does not answer, stage by stage."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from node.cli.terminal import (
    HOW_TO_START,
    Exit,
    call,
    plain,
    say,
    show,
    show_json,
    table,
    usage,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_STAGE: Final = 12
_DETAIL: Final = 58
_FAILED: Final = "failed"
_SAID: Final = {"warning": "LOOK", "failed": "FAILED", "unseen": "not seen"}


def register(peers: typer.Typer) -> None:
    """Add the command to *peers*."""
    peers.command("test")(test)


def test(
    context: typer.Context,
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Name or node id.")] = "",
    everybody: Annotated[bool, typer.Option("--all", help="Test every peer.")] = False,
    as_json: Json = False,
) -> None:
    """Test the way to a peer: name, TCP, TLS, protocol, trust, clock, witness, round trip."""
    if bool(peer) is everybody:
        usage("name one peer, or give --all. See: picket peers list")
    rows = _test_all(context) if everybody else [_test(context, peer)]
    if as_json:
        show_json({"items": rows} if everybody else rows[0])
    else:
        _show(rows, everybody=everybody)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(Exit.REFUSED)


def _test(context: typer.Context, peer: str) -> Any:  # noqa: ANN401  JSON
    return call(context, "POST", f"/api/v1/peers/{quote(peer, safe='')}/test", {})


def _test_all(context: typer.Context) -> list[Any]:
    rows = []
    for peer in call(context, "GET", "/api/v1/peers")["items"]:
        if sys.stderr.isatty():
            say(f"Testing {plain(peer['name'])} …")
        rows.append(_test(context, peer["node_id"]))
    return rows


def _show(rows: list[Any], *, everybody: bool) -> None:
    if rows and not rows[0]["running"]:
        say(f"The node is NOT RUNNING: what its links would show is not seen. {HOW_TO_START}.")
    if not everybody:
        _show_one(rows[0])
    elif rows:
        table(("PEER", "RESULT", "STAGE", "CAUSE"), [_summary(row) for row in rows])
        if not all(row["ok"] for row in rows):
            say("What to do about one of them: picket peers test PEER")
    else:
        show("No peers yet: picket peers add CARD")


def _show_one(row: Any) -> None:  # noqa: ANN401  JSON
    for check in row["checks"]:
        said = _SAID.get(check["result"], check["result"])
        line = f"{check['stage']:<{_STAGE}}{plain(check['detail']):<{_DETAIL}}  {said}"
        show(line)
        if check["fix"]:
            fix = plain(check["fix"])
            show(f"{'':<{_STAGE}}{fix[:1].upper()}{fix[1:]}")


def _summary(row: Any) -> tuple[str, str, str, str]:  # noqa: ANN401  JSON
    """Return one line of the table: the stage that failed, or else the first to look at."""
    for result in (_FAILED, "warning"):
        for check in row["checks"]:
            if check["result"] == result:
                return row["peer"], _SAID[result], check["stage"], check["detail"]
    return row["peer"], "ok", "", ""
