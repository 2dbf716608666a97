"""``picket attachments``: files that travel apart from the record, between disk and node.

A file goes to a running node over its socket, piece by piece; without one it goes to the databases
directly. So the node needs no access to the operator's folders.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import mimetypes
import os
import secrets
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from node.cli.terminal import (
    Exit,
    State,
    asker,
    call,
    confirm,
    denied,
    fail,
    fail_with,
    plain,
    say,
    show,
    show_json,
    state,
    table,
)
from node.client import Client, ControlConnection
from node.home import Home
from node.words import counted

app = typer.Typer(
    help="Files that belong to incidents.", no_args_is_help=True, rich_markup_mode=None
)
_PIECE: Final = 1024 * 1024
_PROBLEM: Final = 400
_PATH: Final = "/api/v1/attachments"
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Digest = Annotated[
    str, typer.Argument(metavar="SHA256", help="The digest, or at least its first 8 digits.")
]


def _path(sha256: str, verb: str = "") -> str:
    return f"{_PATH}/{quote(sha256, safe='')}{verb}"


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List attachments whose content is here or can be fetched."""
    seen = call(context, "GET", _PATH, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    table(
        ("SHA256", "BYTES", "STATE", "FROM", "KIND", "TYPE", "CAPTION"),
        [
            (r["sha256"][:16], r["size"], _state(r), r["author"] or "not released", r["kind"],
             r["media_type"], r["caption"])
            for r in seen["items"]
        ],
    )  # fmt: skip
    for row in seen["items"]:
        if row["trouble"]:
            say(f"! {row['sha256'][:16]}: {plain(row['trouble'])}")


def _state(row: dict[str, Any]) -> str:
    if row["state"] != "fetching" or row["percent"] is None:
        return str(row["state"])
    source = f" from {plain(row['source'])}" if row["source"] else ", nobody is linked who has it"
    return f"{row['percent']} %{source}"


@app.command()
def add(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(readable=False, help="The file. It is copied, encrypted.")
    ],
    draft: Annotated[str, typer.Option(help="Add it to this draft (reference or id).")] = "",
    kind: Annotated[str, typer.Option(help="Such as label_photo or document_scan.")] = "other",
    caption: Annotated[str, typer.Option(help="What it shows.")] = "",
    media_type: Annotated[str, typer.Option(help="Such as image/jpeg; else by its name.")] = "",
    as_json: Json = False,
) -> None:
    """Take a file into the node, for a draft. Nothing leaves the node before the release."""
    sha256, size = _digest(file)
    seen = _put(state(context), file, sha256, size)
    body = _about(file, sha256, kind, caption=caption, media_type=media_type)
    if draft:
        seen = call(context, "POST", _of_draft(draft), body, needs_keys=True)
    if as_json:
        show_json(seen)
        return
    show(f"{sha256}  {counted(size, 'byte')}")
    if draft:
        say(f"It is part of the annex of {plain(seen['ref'])} now.")
    else:
        say("Name it in the annex of a draft: " + json.dumps({**body, "size": size}))


def add_to(context: typer.Context, file: Path, draft: str, *, kind: str) -> None:
    """Take a file into the node and into the annex of a draft, and print nothing."""
    sha256, size = _digest(file)
    _put(state(context), file, sha256, size)
    call(context, "POST", _of_draft(draft), _about(file, sha256, kind), needs_keys=True)


def _of_draft(draft: str) -> str:
    return f"/api/v1/incidents/{quote(draft, safe='')}/attachments"


def _about(
    file: Path, sha256: str, kind: str, *, caption: str = "", media_type: str = ""
) -> dict[str, str]:
    said = media_type or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    about = {"sha256": sha256, "media_type": said, "kind": kind}
    return about | ({"caption": caption} if caption else {})


def _digest(file: Path) -> tuple[str, int]:
    found, size = hashlib.sha256(), 0
    try:
        with file.open("rb") as opened:
            while data := opened.read(_PIECE):
                found.update(data)
                size += len(data)
    except OSError as error:
        otherwise = "Copy it to a folder that this user may read"
        fail(denied(file, "read", error, otherwise=otherwise), Exit.USAGE)
    return found.hexdigest(), size


def _put(chosen: State, file: Path, sha256: str, size: int) -> Any:  # noqa: ANN401  JSON
    client = Client(chosen.home, asker(chosen))
    if not client.running():
        from node.app import open_service  # noqa: PLC0415

        with open_service(chosen.home, asker(chosen)) as service:
            upload = service.enclosures.upload(sha256)
            writer = upload.open(size)
            if writer is None:
                return upload.keep(None)
            with writer, file.open("rb") as opened:
                while data := opened.read(_PIECE):
                    writer.write(data)
                return upload.keep(writer.finish(sha256=upload.sha256))
    connection = ControlConnection(Home(chosen.home).control_sock)
    try:
        with file.open("rb") as opened:
            connection.request("PUT", _path(sha256), opened, {"Content-Length": str(size)})
        response = connection.getresponse()
        value = json.loads(response.read())
    except (OSError, http.client.HTTPException) as error:
        say(f"  {plain(error)}")
        fail("the node stopped answering. See its journal", Exit.UNREACHABLE)
    finally:
        connection.close()
    if response.status >= _PROBLEM:
        fail_with(value)
    return value


@app.command()
def fetch(context: typer.Context, sha256: Digest, as_json: Json = False) -> None:
    """Fetch the content from its author or another recipient, now or when one is linked."""
    seen = call(context, "POST", _path(sha256, "/fetch"), needs_keys=True)
    if as_json:
        show_json(seen)
        return
    here = any(row["state"] == "here" for row in seen["items"])
    show("It is here." if here else "It is being fetched; see: picket attachments list")


@app.command()
def save(
    context: typer.Context,
    sha256: Digest,
    target: Annotated[Path, typer.Argument(help="A new file to write it to, in clear.")],
) -> None:
    """Write the content to a file. It appears when all of it was verified.

    It comes from another authority as it is: open it only where a harmful file does no harm.
    """
    chosen = state(context)
    if os.path.lexists(target):
        fail(f"{target} exists. Choose another name", Exit.REFUSED)
    if not Client(chosen.home).running():
        from node.app import open_service  # noqa: PLC0415

        with open_service(chosen.home, asker(chosen)) as service:
            ref = service.enclosures.download(sha256).open()
            service.enclosures.judge.store.open_to(ref, target)
    else:
        _save_running(chosen, sha256, target)
    say(f"Written to {target}. Nobody has checked that it is harmless.")


def _save_running(chosen: State, sha256: str, target: Path) -> None:
    connection = ControlConnection(Home(chosen.home).control_sock)
    temporary = target.parent / f".picket-{secrets.token_hex(8)}"
    try:
        connection.request("GET", _path(sha256))
        response = connection.getresponse()
        if response.status >= _PROBLEM:
            fail_with(json.loads(response.read()))
        found = hashlib.sha256()
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(handle, "wb") as opened:  # noqa: PTH123  a handle
            while data := response.read(_PIECE):
                found.update(data)
                opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        if f'"{found.hexdigest()}"' != response.headers["ETag"]:
            fail("the file did not come whole. Try again", Exit.FAILURE)
        if os.path.lexists(target):
            fail(f"{target} exists. Choose another name", Exit.REFUSED)
        temporary.replace(target)
    except (OSError, http.client.HTTPException) as error:
        if not isinstance(error, OSError):
            fail("the node stopped answering. See its journal", Exit.UNREACHABLE)
        otherwise = "Choose a folder where this user may write"
        fail(denied(target, "written", error, otherwise=otherwise), Exit.FAILURE)
    finally:
        connection.close()
        temporary.unlink(missing_ok=True)


@app.command()
def drop(
    context: typer.Context,
    sha256: Digest,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the content here. What came from others can be fetched again, if they have it still.

    What this node wrote may be here alone: it asks before it deletes that.
    """
    if not yes and (warning := _only_copy(context, sha256)):
        say(warning)
        if not confirm(state(context), "Delete it here?", "--yes"):
            fail("nothing was deleted", Exit.REFUSED)
    call(context, "DELETE", _path(sha256), needs_keys=True)
    show("It is deleted here.")


def _only_copy(context: typer.Context, sha256: str) -> str:
    """Return the warning that nobody else may have it, where this node wrote it; else nothing."""
    rows = call(context, "GET", _PATH, needs_keys=True)["items"]
    authors = [row["author"] for row in rows if row["sha256"].startswith(sha256)]
    own = call(context, "GET", "/api/v1/node")["authority"]
    if own in authors:
        return (
            "This node released it. Whether any recipient has fetched it is not known here: "
            "if none has, nobody can get it any more."
        )
    if None in authors:
        return "It is not released: if you have no other copy of the file, it is gone for good."
    return ""
