"""``picket evidence``: bundles that stand without this node, and ``picket log prove``.

``verify`` needs no node, no home and no network: only the file, and what the person knows.
"""

from __future__ import annotations

import base64
import json
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from node.cli.terminal import (
    WHICH_ENVELOPE,
    Exit,
    asker,
    call,
    fail,
    fail_with,
    new_file,
    plain,
    say,
    show,
    show_json,
    state,
)
from node.client import Client
from node.words import counted
from protocol import limits
from protocol.errors import PicketError

app = typer.Typer(
    help="Evidence that stands without this node.", no_args_is_help=True, rich_markup_mode=None
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Target = Annotated[
    str,
    typer.Argument(metavar="INCIDENT|ENVELOPE_ID", help="Reference, id, or envelope id (64 hex)."),
]
Number = Annotated[int | None, typer.Option("--envelope", min=0, help=WHICH_ENVELOPE)]
_HEX: Final = 64
_PROBLEM: Final = 400
_UNCONFIRMED: Final = (
    "No witness has confirmed this yet: until then nothing but the word of this node says when it "
    "was there. Make it again in a few minutes; picket log watch shows who is missing."
)
_ROOM: Final = 2 * 1024 * 1024
"""Bytes that are kept free for a bundle before its export is logged; few are longer."""
_MARKS: Final = {True: "ok", False: "FAIL", None: "-"}


def prove(
    context: typer.Context,
    target: Target,
    number: Number = None,
    out: Annotated[
        Path | None, typer.Option(help="A new file for the proof; else named after the envelope.")
    ] = None,
    entry: Annotated[
        Path | None, typer.Option(help="A new file for the log entry; else named after the proof.")
    ] = None,
) -> None:
    """Write the proof that an envelope is in this node's log (C2SP tlog-proof), and the entry.

    Others need both files to check it.
    """
    _check_new(out)
    _check_new(entry)
    known = _is_envelope_id(target)
    if known:
        place = f"envelopes/{target.lower()}/proof"
    else:
        chosen = "" if number is None else f"?envelope={number}"
        place = f"incidents/{quote(target, safe='')}/tlog-proof{chosen}"
    seen = call(context, "GET", f"/api/v1/{place}", needs_keys=not known)
    path = out or Path(f"{seen['envelope_id'][:16]}.tlog-proof")
    beside = entry or path.with_name(f"{path.name.removesuffix('.tlog-proof')}.entry")
    _check_new(path)
    _check_new(beside)
    if path.absolute() == beside.absolute():
        fail(f"{path} cannot be both files. Choose another name for one", Exit.USAGE)
    _write(path, seen["tlog_proof"].encode())
    _write(beside, bytes.fromhex(seen["entry"]))
    say(f"Entry {seen['index']} of {seen['size']}. The proof is in {path}, the entry in {beside}.")
    if not seen["confirmed"]:
        say(_UNCONFIRMED)


def _is_envelope_id(text: str) -> bool:
    try:
        return len(text) == _HEX and len(bytes.fromhex(text)) == _HEX // 2
    except ValueError:
        return False


# --- exporting -------------------------------------------------------------------------------
@app.command("export")
def export(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    target: Target,
    out: Annotated[Path, typer.Option(help="A new file for the bundle, such as case.zip.")],
    content: Annotated[
        bool, typer.Option("--content", help="Include the opened message and its key.")
    ] = False,
    by: Annotated[str, typer.Option(help="Who exports it; stands in the log.")] = "",
    reason: Annotated[str, typer.Option(help="Why; stands in the log.")] = "",
    timestamp: Annotated[
        Path | None, typer.Option(help="A time stamp (RFC 3161) over a proof of it.")
    ] = None,
    proof: Annotated[
        Path | None, typer.Option(help="The proof file that was stamped, if not the newest.")
    ] = None,
    number: Number = None,
) -> None:
    """Write everything that proves one message into one file. The export itself is logged first.

    With --content whoever has the file can read this message, and no other.
    """
    from protocol.evidence_zip import POLICY, read_zip  # noqa: PLC0415
    from protocol.policy import parse_policy  # noqa: PLC0415

    _check_new(out)
    body: dict[str, Any] = {"content": content, "by": by, "reason": reason}
    if timestamp is not None:
        stamp = _read(timestamp, limits.MAX_TIMESTAMP)
        body["timestamp"] = base64.b64encode(stamp).decode()
    if proof is not None:
        body["proof"] = _read(proof, limits.MAX_PROOF_FILE).decode("utf-8", "replace")
    known = _is_envelope_id(target)
    if not known and number is not None:
        body["envelope"] = number
    kind = "envelopes" if known else "incidents"
    path = f"/api/v1/{kind}/{quote(target.lower() if known else target, safe='')}/evidence"
    chosen = state(context)
    client = Client(chosen.home, asker(chosen) if content or not known else None)
    # The file first: what cannot be handed over must not stand in the log as handed over.
    with new_file(out, room=_ROOM) as write, client.session() as exchange:
        status, data = exchange("POST", path, json.dumps(body, ensure_ascii=False).encode())
        if status >= _PROBLEM:
            fail_with(json.loads(data))
        write(data)
    say(f"Written to {out}. Check it with: picket evidence verify {out}")
    if parse_policy(read_zip(data)[0].get(POLICY, b"")).quorum is None:
        say(_UNCONFIRMED)
    if content:
        say("It holds the key of this message: whoever has the file can read it.")


# --- verifying -------------------------------------------------------------------------------
@app.command("verify")
def verify(  # noqa: PLR0917  typer binds a command's parameters by name
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle.")],
    node: Annotated[str, typer.Option(help="Node id that the holder must have.")] = "",
    author: Annotated[str, typer.Option(help="Node id that the author must have.")] = "",
    policy: Annotated[
        Path | None, typer.Option(help="Your own witness policy (C2SP tlog-policy).")
    ] = None,
    network: Annotated[str, typer.Option(help="Name that the network must have.")] = "",
    tsa_ca: Annotated[
        Path | None, typer.Option("--tsa-ca", help="Certificates of time stamp authorities (PEM).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a bundle, offline and without a node. Exit code 5 if a check fails."""
    from keys.fingerprint import format_node_id, parse_node_id  # noqa: PLC0415
    from node.stamps import load_authorities, read_stamp  # noqa: PLC0415
    from protocol.evidence import Expected, holds, verify_evidence  # noqa: PLC0415
    from protocol.evidence_zip import read_zip  # noqa: PLC0415
    from protocol.policy import parse_policy  # noqa: PLC0415

    try:
        authorities = () if tsa_ca is None else load_authorities(_read(tsa_ca, limits.MAX_BUNDLE))
        expected = Expected(
            policy=None if policy is None else parse_policy(_read(policy, limits.MAX_POLICY)),
            holder=parse_node_id(node) if node else None,
            author=parse_node_id(author) if author else None,
            network=network or None,
            read_stamp=partial(read_stamp, authorities=authorities),
            show=format_node_id,
        )
    except PicketError as error:
        fail(error.diagnostics(), Exit.USAGE)
    files, faults = read_zip(_read(bundle, limits.MAX_EVIDENCE))
    if not files and not as_json:
        why = faults[0].removeprefix("it is no bundle: ")
        show(f"{plain(bundle)} is not an evidence bundle: {plain(why)}.")
        say("Check that it is the file that you were given.")
        raise typer.Exit(Exit.UNVERIFIED)
    checks = verify_evidence(files, faults=faults, expected=expected)
    good = holds(checks)
    confirmed = any(check.name == "quorum" and check.ok for check in checks)
    if as_json:
        rows = [
            {"check": c.name, "ok": c.ok, "detail": c.detail, "code": c.code or None}
            for c in checks
        ]  # fmt: skip
        own = policy is not None
        show_json({
            "holds": good, "confirmed": confirmed, "policy": "given" if own else "bundle",
            "checks": rows,
        })  # fmt: skip
    else:
        failed, made = sum(c.ok is False for c in checks), sum(c.ok is not None for c in checks)
        if good and confirmed:
            show(f"The evidence holds: {counted(made, 'check')} made, none failed.")
        elif good:
            show("Nothing in it is wrong, but NO witness confirmed when it was in the log: "
                 f"{counted(made, 'check')} made, none failed.")  # fmt: skip
        else:
            show(f"The evidence does NOT hold: {failed} of {counted(made, 'check')} failed.")
        for check in checks:
            show(f"{_MARKS[check.ok]:<5} {check.name:<15} {plain(check.detail)}")
        if policy is None:
            say("Who had to cosign was chosen by the holder. Bring your own choice with --policy.")
    if not good:
        raise typer.Exit(Exit.UNVERIFIED)


# --- files -----------------------------------------------------------------------------------
def _read(path: Path, maximum: int) -> bytes:
    """Return the bytes of a file, or one more than *maximum* so that it is seen to be too long."""
    try:
        with path.open("rb") as opened:
            return opened.read(maximum + 1)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}. Check the path", Exit.USAGE)


def _check_new(path: Path | None) -> None:
    """End before anything is logged if *path* is there already."""
    if path is not None and os.path.lexists(path):
        fail(f"{path} exists. Choose another name", Exit.REFUSED)
    if path is not None and not path.parent.is_dir():
        fail(f"the folder {path.parent} does not exist. Make it first", Exit.USAGE)


def _write(path: Path, data: bytes) -> None:
    """Write a file that did not exist and that only its owner can read."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        fail(f"{path} exists. Choose another name", Exit.REFUSED)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}. Check the path", Exit.FAILURE)
    try:
        with open(handle, "wb") as opened:  # noqa: PTH123  a handle
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        fail(f"{path} cannot be written: {error.strerror}. Free some space", Exit.FAILURE)
