"""Commands that back a node up, look into a backup, restore it, and look after it then."""

from __future__ import annotations

import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from node.cli.terminal import (
    Exit,
    State,
    ask,
    ask_passphrase,
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
    usage,
    utc,
)
from node.words import counted

if TYPE_CHECKING:
    from keys.paper import PaperCode
    from node.backup_file import About
    from node.restore import Report

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
By = Annotated[str, typer.Option("--by", help="Who decides it; it stands in the log.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", readable=False, help="File that holds the passphrase."),
]
Sheets = Annotated[
    list[Path] | None,
    typer.Option("--sheet", readable=False, help="File of a sheet; twice for two sheets."),
]
_SHOWN: Final = re.compile(r"^\s*([A-Z2-7]{7}(?:-[A-Z2-7]{7}){7})\s*$", re.MULTILINE)
_MAX_SHEET: Final = 16 * 1024
_MIB: Final = 2**20
Row = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the commands to the tree."""
    app.command()(backup)
    app.command()(restore)
    app.command()(restored)


# --- backing up ------------------------------------------------------------------------------
def backup(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    file: Annotated[Path, typer.Argument(readable=False, help="The new file.")],
    sheet: Sheets = None,
    two_sheets: Annotated[
        bool, typer.Option("--two-sheets", help="Split the code over two sheets.")
    ] = False,
    without_attachments: Annotated[
        bool, typer.Option("--without-attachments", help="Leave attachments out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Back this node up into one encrypted file, also while it runs. A sheet holds its code."""
    from node.backup_file import fresh_codes  # noqa: PLC0415
    from node.backup_making import RefusedError, Secret, make_backup  # noqa: PLC0415
    from node.home import Home  # noqa: PLC0415

    chosen = state(context)
    sheets = sheet or []
    _check_sheets(chosen, sheets, wanted=2 if two_sheets else 1, as_json=as_json)
    made_of = Secret(*fresh_codes(secrets.token_bytes, halves=two_sheets))
    written: list[Path] = []

    def keep(about: About) -> None:
        _write_sheets(made_of.codes, about, file, sheets, written)

    try:
        contents = make_backup(
            Home(chosen.home), file, made_of, attachments=not without_attachments,
            keep_codes=keep, draw=_drawing(as_json=as_json),
        )  # fmt: skip
    except BaseException as error:
        if not file.exists():
            for path in written:
                path.unlink(missing_ok=True)
        if isinstance(error, RefusedError):
            fail_with(error.problem)
        raise
    size = file.stat().st_size
    if as_json:
        show_json({
            "file": str(file), "size": size, "manifest": contents.manifest.hex(),
            "files": len(contents.items), "sheets": [str(path) for path in sheets],
            **_facts(contents.about),
        })  # fmt: skip
        return
    show(f"The backup is in {file}: {counted(len(contents.items), 'file')}, {_mib(size)}.")
    for path in sheets:
        say(f"Print {path}, lock the paper away, then delete that file.")
    say("Without its sheet nobody can open it. Now see whether it can be opened:")
    say(f"picket restore {file} --verify")


def _check_sheets(chosen: State, sheets: list[Path], *, wanted: int, as_json: bool) -> None:
    if not sheets and (as_json or not chosen.interactive):
        usage("the code has to go somewhere. Give --sheet FILE" + ", twice" * (wanted - 1))
    if sheets and len(sheets) != wanted:
        usage(f"{counted(wanted, 'sheet is', 'sheets are')} written. Give --sheet that often")
    if len(set(sheets)) != len(sheets):
        usage("both sheets would be one file. Give --sheet two names")
    for path in sheets:
        if path.exists() or path.is_symlink():
            fail(f"{path} exists; nothing was changed. Choose a new name", Exit.REFUSED)


def _write_sheets(
    codes: tuple[PaperCode, ...], about: About, file: Path, sheets: list[Path], written: list[Path]
) -> None:
    from keys.keystore import write_private  # noqa: PLC0415
    from node.backup_making import backup_sheet  # noqa: PLC0415

    texts = [backup_sheet(code, about, file.name) for code in codes]
    for path, text in zip(sheets, texts, strict=False):
        write_private(path, text.encode())
        written.append(path)
    if not sheets:
        say("Write this down now; it is shown this once.\n")
        for text in texts:
            say(text)


def _drawing(*, as_json: bool) -> Any:  # noqa: ANN401  a function
    drawn = sys.stderr.isatty() and not as_json

    def draw(what: str, done: int, total: int) -> None:
        if drawn:
            sys.stderr.write(f"\r{what} {100 * done // max(1, total)} % ")
            sys.stderr.flush()

    return draw


# --- looking and restoring -------------------------------------------------------------------
def restore(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    file: Annotated[Path, typer.Argument(readable=False, help="The file of the backup.")],
    home: Annotated[
        Path | None,
        typer.Option("--home", readable=False, help="The new folder; must not exist or be empty."),
    ] = None,
    look: Annotated[
        bool, typer.Option("--verify", help="Only look whether it could be restored.")
    ] = False,
    sheet: Sheets = None,
    passphrase_file: PassphraseFile = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Restore a node from a backup into a new folder, or look whether that would work.

    If the node still runs anywhere, stop it first: two of them would contradict each other.
    """
    from keys.keystore import read_passphrase_file  # noqa: PLC0415
    from node import restore as restoring  # noqa: PLC0415
    from node.clock import SystemClock  # noqa: PLC0415
    from node.home import Home  # noqa: PLC0415

    chosen = state(context)
    if look == (home is not None):
        usage("say what to do. Give --home NEW to restore it, or --verify to look only")
    if home is not None:
        Home(home.absolute()).check_empty()
    codes = _codes(chosen, file, sheet or [])
    if look:
        secret = None if passphrase_file is None else read_passphrase_file(passphrase_file)
        if secret is None and chosen.interactive and confirm_passphrase(chosen):
            secret = ask_passphrase(chosen)
        _show_report(restoring.verify(file, codes, secret), as_json=as_json, restored=None)
        return
    assert home is not None  # noqa: S101  one of the two was given
    if not yes:
        say("If this node still runs anywhere, stop it now and for good.")
    if not yes and not confirm(chosen, f"Restore it to {home}?", "--yes"):
        fail("nothing was changed", Exit.REFUSED)
    done = restoring.restore(file, codes, home, now=SystemClock().now())
    _show_report(done, as_json=as_json, restored=home)


def confirm_passphrase(chosen: State) -> bool:
    """Return whether the person wants to see whether the passphrase opens the keystore."""
    return confirm(chosen, "Try the passphrase of the node, too?", "--passphrase-file")


def _codes(chosen: State, file: Path, sheets: list[Path]) -> tuple[PaperCode, ...]:
    """Return the codes of a backup, from files or a prompt, never from the command line."""
    from keys.paper import parse_paper_code  # noqa: PLC0415
    from node.backup_file import read_head  # noqa: PLC0415

    _, halves = read_head(file)
    if sheets:
        return tuple(parse_paper_code(_code_in(path)) for path in sheets)
    names = ("BACKUP CODE on sheet 1 of 2", "BACKUP CODE on sheet 2 of 2")
    asked = names if halves else ("BACKUP CODE on the sheet",)
    return tuple(parse_paper_code(ask(chosen, name, "--sheet", fault=_fault)) for name in asked)


def _fault(typed: str) -> str:
    from keys.paper import parse_paper_code  # noqa: PLC0415
    from protocol.errors import RequestError  # noqa: PLC0415

    try:
        parse_paper_code(typed)
    except RequestError as error:
        return error.diagnostics()
    return ""


def _code_in(path: Path) -> str:
    """Return the code in a file that holds a sheet, or the code alone."""
    try:
        if str(path) == "-":
            text = sys.stdin.read(_MAX_SHEET)
        else:
            with path.open(encoding="utf-8") as opened:
                text = opened.read(_MAX_SHEET)
    except OSError as error:
        fail(denied(path, "read", error, otherwise="Give - in its place"), Exit.USAGE)
    except UnicodeDecodeError:
        usage(f"{path} is not text. Name the file of the sheet")
    found = _SHOWN.search(text)
    return text.strip() if found is None else found[1]


def _facts(about: About) -> Row:
    from keys.fingerprint import format_node_id  # noqa: PLC0415
    from node.clock import rfc3339  # noqa: PLC0415

    return {
        "authority": about.authority, "country": about.country, "network": about.network,
        "node_id": format_node_id(about.node_id), "made_at": rfc3339(about.made_at),
        "log": {"origin": about.origin, "size": about.log_size, "root": about.log_root.hex()},
        "statement": about.statement, "version": about.version, "attachments": about.attachments,
    }  # fmt: skip


def _show_report(report: Report, *, as_json: bool, restored: Path | None) -> None:
    about, items = report.about, report.contents.items
    facts, total = _facts(about), sum(item.size for item in items)
    if as_json:
        show_json({
            **facts, "ok": True, "files": len(items), "bytes": total,
            "manifest": report.contents.manifest.hex(),
            "passphrase_opens": report.passphrase_opens,
            "peers": [{"name": name, "level": level} for name, level in report.peers],
            "restored_to": None if restored is None else str(restored),
        })  # fmt: skip
        return
    show(f"Backup of   {plain(about.authority)} ({about.country}), network {plain(about.network)}")
    show(f"Node id     {facts['node_id']}")
    show(f"Made        {utc(facts['made_at'])}, {_age(about.made_at)}")
    show(f"Holds       {counted(len(items), 'file')}, {_mib(total)}"
         f"{'' if about.attachments else '; attachments were left out'}")  # fmt: skip
    show(f"Log         {counted(report.entries, 'entry')}, verified")
    show(f"Peers       {counted(len(report.peers), 'peer')}, at the levels of then")
    if report.passphrase_opens is not None:
        opens = "opens the keystore" if report.passphrase_opens else "does NOT open the keystore"
        show(f"Passphrase  {opens}")
    if restored is None:
        show("The backup is whole: all of it could be restored. Nothing was changed.")
        return
    show(f"The node is restored to {restored}.")
    say("It signs and releases nothing before it knows what its peers hold of its log.")
    say("What was drafted since the backup is lost. What was erased since then is back.")
    say(f"Next: picket --home {restored} run, and then: picket --home {restored} restored")


def _age(made_at: int) -> str:
    from node.clock import SystemClock  # noqa: PLC0415

    days = max(0, SystemClock().now() - made_at) // 86_400_000
    return f"{counted(days, 'day')} ago" if days else "less than a day ago"


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"


# --- afterwards ------------------------------------------------------------------------------
def restored(  # noqa: PLR0917  typer binds a command's parameters by name
    context: typer.Context,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Sign again: nobody who is missing can know more.")
    ] = False,
    levels_checked: Annotated[
        bool, typer.Option("--levels-checked", help="Release again: the levels are right.")
    ] = False,
    by: By = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Show what a restored node waits for, and what to do next."""
    seen = call(context, "GET", "/api/v1/restored")
    if go_on or levels_checked:
        _decide(context, seen, go_on=go_on, by=by, yes=yes)
        return
    if as_json:
        show_json(seen)
        return
    show(f"Restored  {utc(seen['restored_at'])}, from a backup of {utc(seen['made_at'])}")
    if not seen["signs"]:
        _show_waiting(seen)
        return
    show("It signs again. Go through these levels: a peer that was lowered or frozen since the")
    show("backup stands here as it did then. To lower one: picket peers approve PEER --level relay")
    show()
    table(
        ("PEER", "LEVEL", "VERIFIED BY"),
        [(row["name"], row["level"], row["verified_by"]) for row in seen["levels"]],
    )
    show()
    show("Incidents that were erased since the backup are back: erase them again.")
    show("All tokens have ended: make new ones with picket tokens create.")
    say("When the levels are right: picket restored --levels-checked --by NAME")


def _show_waiting(seen: Row) -> None:
    for name in seen["heard"]:
        show(f"  {plain(name)} holds no more of this log than is here")
    for name in seen["missing"]:
        show(f"  {plain(name)} has not shown yet what it holds")
    show("It signs and releases nothing until all have answered: let it run until they are linked.")
    show("If those who are missing are gone for good, and cannot have been linked with this node")
    show("since the backup: picket restored --go-on --by NAME")


def _decide(context: typer.Context, seen: Row, *, go_on: bool, by: str, yes: bool) -> None:
    chosen = state(context)
    name = by or ask(chosen, "Your name", "--by")
    if go_on:
        missing = ", ".join(map(plain, seen["missing"])) or "no peer was linked before the backup"
        say(f"Not heard: {missing}.")
        say("If one of them was linked with this node since the backup, two histories are signed,")
        say("and every peer will have the proof of it. Nobody can undo that.")
        if not yes and not confirm(chosen, "Sign again?", "--yes"):
            fail("nothing was changed", Exit.REFUSED)
        call(context, "POST", "/api/v1/restored/go-on", {"by": name})
        show("The node signs again. Next: picket restored")
        return
    if not yes and not confirm(chosen, "Are all trust levels right?", "--yes"):
        fail("nothing was changed", Exit.REFUSED)
    call(context, "POST", "/api/v1/restored/levels", {"by": name})
    show("The node releases again. Make a new backup now: picket backup FILE --sheet SHEET")
