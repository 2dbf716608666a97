"""Commands about the verifiable log."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from node.cli import evidence
from node.cli.terminal import (
    Exit,
    ask_passphrase,
    ask_pin_if_needed,
    call,
    confirm,
    exit_code,
    fail,
    fail_with,
    plain,
    say,
    show,
    show_json,
    state,
    utc,
)
from node.client import Client, Exchange
from node.words import counted

app = typer.Typer(help="The verifiable log.", no_args_is_help=True, rich_markup_mode=None)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_PREFIX: Final = "/api/v1/log/"
_PROBLEM: Final = 400
_POLL_S: Final = 0.3
_GROUP: Final = 4
_GROUPS: Final = 8
"""Of so many digits, and so many on a line: what one person can read to another."""


@app.command("verify")
def verify(
    context: typer.Context,
    new: Annotated[
        bool, typer.Option("--new", help="Leave out what was verified the last time.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify every entry, envelope and receipt, and all heads and proofs that are kept.

    The node goes on working meanwhile. Exit code 5 if anything does not verify. With --new
    something older that was changed since it was verified is not found: leave it out now and then.
    """
    with Client(state(context).home).session() as exchange:
        node = _Node(exchange)
        with _bar(drawn=sys.stderr.isatty() and not as_json) as draw:
            seen = node.verification("POST", "verify", {"since": new, "steps": True})
            while seen is not None and seen.get("running"):
                draw(seen)
                seen = node.verification("GET", "verification")
    if node.problem is not None:
        if exit_code(node.problem.get("code", "")) is Exit.UNVERIFIED:
            say("The log does NOT verify.")
        fail_with(node.problem)
    if as_json:
        show_json(seen)
    else:
        _verified(seen or {}, new=new)


def _verified(seen: dict[str, Any], *, new: bool) -> None:
    words = (("entries", "entry"), ("envelopes", "envelope"), ("receipts", "receipt"))
    counts = ", ".join(counted(seen[f"{name}_checked"], one) for name, one in words)
    if seen["full"]:
        show(f"The log verifies: {counts}.")
        if new:
            show("Nothing was verified before, so all of it was looked at.")
    else:
        show(f"What is new since {utc(seen['since'])} verifies: {counts}.")
        before = counted(seen["first_entry"], "entry")
        show(f"Not looked at again: what belongs to the {before} before. All was last verified "
             f"{utc(seen['last_full']['at'])}; to do so again: picket log verify")  # fmt: skip
    if seen["cosignatures_unknown"]:
        count = counted(seen["cosignatures_unknown"], "confirmation")
        show(f"Not checked: {count} by witnesses whose keys this node does not know any more.")
    if not seen["remembered"]:
        show("This could not be noted, as the disk is full: the next --new begins where this did.")


_WHAT: Final = {
    "rows": "tables", "entries": "log entries", "envelopes": "envelopes", "receipts": "receipts",
    "comparisons": "comparing with the log", "heads": "confirmed heads", "evidence": "proofs",
}  # fmt: skip
_BAR: Final = 30
_LINE: Final = 79


@contextlib.contextmanager
def _bar(*, drawn: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Give what draws how far something is, on one line that is gone in the end."""

    def draw(seen: dict[str, Any]) -> None:
        if drawn:
            done, total = seen["done"], max(seen["total"], 1)
            filled = "#" * (_BAR * done // total)
            text = f"[{filled:<{_BAR}}] {_WHAT[seen['what']]}: {done} of {seen['total']}"
            sys.stderr.write(f"\r{text:<{_LINE}}")
            sys.stderr.flush()

    try:
        yield draw
    finally:
        if drawn:
            sys.stderr.write(f"\r{'':<{_LINE}}\r")
            sys.stderr.flush()


@app.command("head")
def head(
    context: typer.Context,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the whole signed checkpoint, for programs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the newest signed head of the log, short enough to read to somebody."""
    seen = call(context, "GET", "/api/v1/log/head")
    if as_json:
        show_json(seen)
    elif raw:
        sys.stdout.write(seen["checkpoint"])
    else:
        root = base64.b64decode(seen["root"]).hex()
        groups = [root[at : at + _GROUP] for at in range(0, len(root), _GROUP)]
        show(f"log   {plain(seen['origin'])}")
        show(f"size  {counted(seen['size'], 'entry')}")
        for at in range(0, len(groups), _GROUPS):
            show(f"{'root' if not at else '':<4}  {' '.join(groups[at : at + _GROUPS])}")


app.command("prove")(evidence.prove)


@app.command("export")
def export(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder, or an earlier export.")
    ],
    entries: Annotated[
        bool,
        typer.Option(
            "--entries",
            help="Also write the entries. They hold no incidents, but tell what was done when, and "
            "whoever has an incident can find it among them: for auditors only.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the log as files that others can check: its checkpoint and hashes.

    The hashes show nobody what is in the log. An earlier export is continued. Each export is
    itself an entry of the log.
    """
    from node.export import export_log  # noqa: PLC0415

    drawn = sys.stderr.isatty()
    with Client(state(context).home).session() as exchange:
        try:
            done = export_log(
                folder, _Node(exchange), entries=entries,
                progress=_draw if drawn else lambda done, total: None,
            )  # fmt: skip
        finally:
            if drawn:
                say()
    if as_json:
        show_json({**asdict(done), "folder": str(folder), "entries": entries})
    else:
        show(
            f"Written to {folder}: a log of {counted(done.size, 'entry')} in "
            f"{counted(done.files, 'file')}, {done.new} of them new."
        )


def _draw(done: int, total: int) -> None:
    sys.stderr.write(f"\r{done} of {total} files")
    sys.stderr.flush()


class _Node:
    """The log of this node, by way of its local endpoint."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.problem: dict[str, Any] | None = None

    def verification(self, method: str, path: str, body: object = None) -> dict[str, Any] | None:
        """Return how far a verification is, or None where ``problem`` says why it ended."""
        data = b"" if body is None else json.dumps(body).encode()
        status, answer = self._exchange(method, _PREFIX + path, data)
        value: dict[str, Any] = json.loads(answer)
        if status >= _PROBLEM:
            self.problem = value
            return None
        return value

    def file(self, path: str) -> bytes:
        """Return the file at *path*; a problem ends the command."""
        return self._ask("GET", path)

    def begin(self, *, entries: bool) -> bytes:
        """Have the export logged, and return the checkpoint that it is to end at."""
        seen: dict[str, Any] = json.loads(self._ask("POST", "export", {"entries": entries}))
        return str(seen["checkpoint"]).encode()

    def _ask(self, method: str, path: str, body: object = None) -> bytes:
        data = b"" if body is None else json.dumps(body).encode()
        status, answer = self._exchange(method, _PREFIX + path, data)
        if status >= _PROBLEM:
            fail_with(json.loads(answer))
        return answer


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


@app.command("reopen")
def reopen(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File that holds the passphrase.")
    ] = None,
) -> None:
    """Begin a new log, where the old one cannot be gone on with.

    That is so when an old copy of the node was put back: what it signed since the copy was made
    is lost here, but peers have seen it. Nothing that is held is deleted. The node must be
    stopped; its peers are told by its next card.
    """
    chosen = state(context)
    if Client(chosen.home).running():
        fail("the node is running. Stop it first", Exit.REFUSED)
    say("If the newest node.db and fence can still be found, put those back instead.")
    say("All peers will see that this node began a new log, and will ask why.")
    if not yes and not confirm(chosen, "Begin a new log?", "--yes"):
        fail("nothing was changed", Exit.REFUSED)
    from node.app import reopen_log  # noqa: PLC0415

    def secret() -> bytes | None:
        if passphrase_file is None and not chosen.interactive:
            return None
        return ask_passphrase(chosen, file=passphrase_file)

    old, new = reopen_log(chosen.home, secret, lambda: ask_pin_if_needed(chosen))
    show(f"The new log is {new}; its first entry names the old one, {old}.")
    say("Start the node, and tell your peers why: picket status shows who is linked.")


@app.command("audit")
def audit(
    context: typer.Context,
    peer: Annotated[str, typer.Argument(metavar="PEER", help="Name or node id.")],
    as_json: Json = False,
) -> None:
    """Read the hashes of a peer's whole log and compare them with all that it ever showed us.

    Its entries are not read. Exit code 5 if anything does not fit.
    """
    name = quote(peer, safe="")
    seen = call(context, "POST", f"/api/v1/log/audits/{name}", {})
    drawn = sys.stderr.isatty() and not as_json
    while seen["running"]:
        if drawn:
            _draw(seen["done"], seen["total"])
        time.sleep(_POLL_S)
        seen = call(context, "GET", f"/api/v1/peers/{name}/audit")
    if drawn:
        say()
    if as_json:
        show_json(seen)
    else:
        name = plain(seen["peer"])
        verdict = "holds together" if seen["ok"] else "does NOT hold together"
        show(f"The log of {name} {verdict}.")
        for check in seen["checks"]:
            mark = {True: "ok  ", False: "FAIL", None: "-   "}[check["ok"]]
            show(f"{mark}  {check['check']}: {plain(check['detail'])}")
    if not seen["ok"]:
        raise typer.Exit(Exit.UNVERIFIED)


@app.command("policy")
def policy(context: typer.Context) -> None:
    """Print whose cosignatures count, as a file: the default, or that of `witness-policy`.

    Verifiers need it with a proof. To change it, write it to `witness-policy` in the node's folder.
    """
    sys.stdout.write(Client(state(context).home).call_bytes("GET", _PREFIX + "policy").decode())


@app.command("fork")
def fork(
    context: typer.Context,
    peer: Annotated[
        str, typer.Argument(metavar="[PEER]", help="Name or node id; without it, of this node.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Print the proof that a log contradicts itself: two heads that it signed."""
    place = f"peers/{quote(peer, safe='')}/log-fork" if peer else "log/fork"
    seen = call(context, "GET", f"/api/v1/{place}")
    if as_json:
        show_json(seen)
        return
    show(f"The log of {plain(seen['peer'])} signed both of these, and no log can hold both.\n")
    show(seen["first"])
    show(seen["second"])
    if seen["proof"]:
        show("Hashes that lead from the second head to another root than the first has:")
        for value in seen["proof"]:
            show(f"  {value}")


@app.command("watch")
def watch(
    context: typer.Context,
    every: Annotated[int, typer.Option(help="Seconds between looks.", min=1, max=3600)] = 5,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    as_json: Json = False,
) -> None:
    """Show how the log grows and who confirms it, a line for each change; Ctrl-C ends it.

    Exit code 5 with --once if a log contradicts itself.
    """
    before: Any = None
    while True:
        seen = call(context, "GET", "/api/v1/log/witnesses")
        if seen != before:
            if as_json:
                show_json(seen)
            else:
                _standing(seen, before or {})
        if once:
            break
        before = seen
        time.sleep(every)
    if seen["contradictions"] or seen["own_contradiction"]:
        raise typer.Exit(Exit.UNVERIFIED)


def _standing(seen: dict[str, Any], before: dict[str, Any]) -> None:
    if seen["size"] != before.get("size") or seen["signed"] != before.get("signed"):
        unsigned = seen["size"] - seen["signed"]
        more = f", {unsigned} not signed yet" if unsigned else ""
        show(f"log        {counted(seen['size'], 'entry')}{more}")
    if seen["cosigned_at"] != before.get("cosigned_at") or not before:
        if seen["cosigned_at"] is None:
            show(f"witnesses  not confirmed yet; needed: {seen['needed']} of "
                 f"{len(seen['witnesses'])}")  # fmt: skip
        else:
            show(f"witnesses  confirmed {counted(seen['cosigned'], 'entry')} at "
                 f"{utc(seen['cosigned_at'])}")  # fmt: skip
    if seen["missing"] != before.get("missing") and seen["missing"]:
        show(f"missing    {plain(', '.join(seen['missing']))}")
    if seen["own_contradiction"] and not before.get("own_contradiction"):
        show("ALARM      the log of this node contradicts itself: picket log fork")
    for name in seen["contradictions"]:
        if name not in before.get("contradictions", ()):
            show(f"ALARM      the log of {plain(name)} contradicts itself: "
                 f"picket log fork {plain(name)}")  # fmt: skip
    for name, count in seen["unproven"].items():
        if count > before.get("unproven", {}).get(name, 0):
            show(f"unproven   {counted(count, 'head')} of the log of {plain(name)}")
