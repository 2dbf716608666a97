"""Making the file of a backup: asks the node for a snapshot, and seals that into one file.

Sealing is done by the command and not by the node, so that neither the code nor the work comes near
a node that runs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from keys.fingerprint import format_node_id
from keys.paper import PaperCode, Part, format_paper_code
from node.backup import listed
from node.backup_file import ALONE, About, BackupWriter, Contents, check_new, new_file
from node.client import Client, Exchange
from node.clock import rfc3339
from node.home import Home
from protocol.errors import BusyError

_POLL_S: Final = 0.1
_PROBLEM: Final = 400
_PATH: Final = "/api/v1/backups"
Row = dict[str, Any]
Draw = Callable[[str, int, int], None]
"""Shows a person how far it is: what is done, how much of it, and of how much."""


class RefusedError(Exception):
    """The node answered with a problem, which is kept whole."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail")))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Secret:
    """What a backup is sealed with, and what stands on its sheets."""

    secret: bytes
    salt: bytes
    codes: tuple[PaperCode, ...]


def make_backup(
    home: Home,
    path: Path,
    made_of: Secret,
    *,
    attachments: bool,
    keep_codes: Callable[[About], None],
    draw: Draw,
) -> Contents:
    """Write a backup of the node in *home* to *path*; return what is in it.

    Args:
        home: of the node, which may run.
        path: of the new file.
        made_of: fresh, for this file alone.
        attachments: whether they are part of it.
        keep_codes: writes the sheets, before the file is begun.
        draw: shows how far it is.

    Raises:
        RefusedError: the node refused.
        ConflictError: *path* exists.
        BusyError, ConfigError: the file or the snapshot cannot be written; nothing is left.
    """
    check_new(path)
    with Client(home.path).session() as exchange:
        row = _ask(exchange, "POST", _PATH, {"attachments": attachments})
        own = f"{_PATH}/{row['id']}"
        with _cancelled(exchange, own):
            while row["copying"]:
                draw("copied", row["done"], row["total"])
                time.sleep(_POLL_S)
                row = {**row, **_ask(exchange, "GET", own)}
            about = about_of(row)
            keep_codes(about)
            files = files_of(home, home.path / row["folder"])
            contents = seal(files, path, about, made_of, draw)
        size = path.stat().st_size
        _ask(exchange, "POST", f"{own}/made", {"manifest": contents.manifest.hex(), "size": size})
    return contents


@contextmanager
def _cancelled(exchange: Exchange, own: str) -> Iterator[None]:
    """Let nothing be left of the snapshot if the block fails."""
    try:
        yield
    except BaseException:
        exchange("DELETE", own, b"")
        raise


def _ask(exchange: Exchange, method: str, path: str, body: Row | None = None) -> Row:
    status, data = exchange(method, path, b"" if body is None else json.dumps(body).encode())
    value: Row = json.loads(data)
    if status >= _PROBLEM:
        raise RefusedError(value)
    return value


def about_of(row: Row) -> About:
    """Return what the node says of a snapshot."""
    return About(
        backup_id=bytes.fromhex(row["id"]), node_id=bytes.fromhex(row["node_id"]),
        authority=row["authority"], country=row["country"], network=row["network"],
        made_at=row["made_at"], origin=row["origin"], log_size=row["log_size"],
        log_root=bytes.fromhex(row["log_root"]), statement=row["statement"],
        version=row["version"], attachments=row["attachments"],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Files:
    """What goes into a backup, by name: files of the snapshot, and attachments of the home."""

    copied: list[tuple[str, Path]]
    attached: list[tuple[str, Path]]


def files_of(home: Home, folder: Path) -> Files:
    """Return what belongs to the snapshot in *folder*."""
    files = [(name, folder / name) for name in ALONE if (folder / name).exists()]
    files += [(f"tls/{pem.name}", pem) for pem in sorted((folder / "tls").glob("*.pem"))]
    attached = [(f"attachments/{name}", home.attachments / name) for name in listed(folder)]
    return Files(files, attached)


def seal(files: Files, path: Path, about: About, made_of: Secret, draw: Draw) -> Contents:
    """Seal *files* into the new file *path*.

    Raises:
        ConflictError: *path* exists.
        BusyError, ConfigError: it cannot be written, or a file of the snapshot is gone.
    """
    total = len(files.copied) + len(files.attached)
    halves = len(made_of.codes) > 1
    with new_file(path) as file:
        writer = BackupWriter(file, made_of.secret, made_of.salt, halves=halves)
        for done, (name, source) in enumerate([*files.copied, *files.attached]):
            draw("sealed", done, total)
            try:
                opened = source.open("rb")
            except FileNotFoundError:
                if done < len(files.copied):
                    raise BusyError(f"{name} is gone from the snapshot", fix="try again") from None
                continue  # an attachment that was deleted or erased meanwhile
            with opened:
                writer.add(name, os.fstat(opened.fileno()).st_size, opened)
        return writer.finish(about)


def backup_sheet(code: PaperCode, about: About, file: str) -> str:
    """Return the text of the sheet with *code*."""
    title = "PICKET BACKUP SHEET" + ("" if code.part is Part.WHOLE else f", {code.part.words}")
    if code.part is Part.WHOLE:
        use = "Whoever holds this code and the file can open the file."
    else:
        use = "Both sheets together open the file; one alone says nothing."
    return f"""{title}

Authority   {about.authority} ({about.country})
Network     {about.network}
Node        {format_node_id(about.node_id)}
Backup of   {rfc3339(about.made_at)}
File        {file}

BACKUP CODE

    {format_paper_code(code)}

{use}
Keep it apart from the file, and two sheets apart from each other. The
passphrase of the node is needed besides, to open what is restored.
To look whether all is well: picket restore FILE --verify
"""
