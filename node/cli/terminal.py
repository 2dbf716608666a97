"""What every command needs: the node, its answers, prompts, tables and exit codes."""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NoReturn

import typer

from node.client import Client
from node.home import user_name
from protocol import errors as e
from protocol import limits

_QUANTITY: Final = re.compile(r" [0-9][0-9.,]*( [^ ]{1,8})?$")
_NARROWEST: Final = 20


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
WHICH_ENVELOPE: Final = (
    "Which envelope of an incident that has several, from 0: picket incidents show lists them."
)
HOW_TO_START: Final = "Start it, for example with: picket run, or: systemctl start picket"


class Exit(IntEnum):
    """Exit codes; cron can tell a broken log from an unreachable peer."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNVERIFIED = 5
    UNREACHABLE = 6
    TEMPORARY = 75
    INTERRUPTED = 130


# The first class that fits decides; subclasses stand before their bases.
_EXITS: Final[tuple[tuple[type[e.PicketError], Exit], ...]] = (
    (e.NotFoundError, Exit.NOT_FOUND),
    (e.LockedError, Exit.TEMPORARY),
    (e.BusyError, Exit.TEMPORARY),
    (e.AlreadyRunningError, Exit.TEMPORARY),
    (e.ConfigError, Exit.USAGE),
    (e.InvalidIncidentError, Exit.USAGE),
    (e.ConflictError, Exit.REFUSED),
    (e.UnknownRecipientError, Exit.REFUSED),
    (e.UnauthorizedError, Exit.REFUSED),
    (e.ForbiddenError, Exit.REFUSED),
    (e.TrustConflictError, Exit.REFUSED),
    (e.WrongPassphraseError, Exit.REFUSED),
    (e.RequestError, Exit.USAGE),
    (e.LogCorruptionError, Exit.UNVERIFIED),
    (e.PeerError, Exit.UNVERIFIED),
    (e.RollbackError, Exit.UNVERIFIED),
    (e.BackupError, Exit.UNVERIFIED),
    (e.LogBehindError, Exit.UNVERIFIED),
    (e.LinkError, Exit.UNREACHABLE),
)


def _classes(base: type[e.PicketError]) -> list[type[e.PicketError]]:
    return [base, *(leaf for child in base.__subclasses__() for leaf in _classes(child))]


def exit_code(code: str) -> Exit:
    """Return the exit code for the error *code* of a problem document."""
    kind = next((kind for kind in _classes(e.PicketError) if kind.code == code), e.PicketError)
    return next((code for base, code in _EXITS if issubclass(kind, base)), Exit.FAILURE)


@dataclass
class State:
    """Options that stand before the command, and what was typed once: passphrase and PIN."""

    home: Path
    no_input: bool = False
    typed: bytes | None = field(default=None, repr=False)
    pin: str | None = field(default=None, repr=False)

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked."""
        return not self.no_input and sys.stdin.isatty() and sys.stderr.isatty()


def state(context: typer.Context) -> State:
    """Return the options of this invocation."""
    found: State = context.obj
    return found


def say(text: str = "") -> None:
    """Print one line for the person at the terminal; nothing in it moves the cursor."""
    print("".join(c if c.isprintable() or c == "\n" else " " for c in text), file=sys.stderr)


def show(text: str = "") -> None:
    """Print one line of data."""
    print(text)


def fail(message: str, code: Exit) -> NoReturn:
    """End with one line on standard error."""
    say(f"picket: {plain(message)}")
    raise typer.Exit(code)


def usage(message: str) -> NoReturn:
    """End because an option is missing."""
    fail(message, Exit.USAGE)


def show_json(value: object) -> None:
    """Print *value* as JSON."""
    show(json.dumps(value, ensure_ascii=False, indent=2))


# --- the node --------------------------------------------------------------------------------
def call(
    context: typer.Context,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    needs_keys: bool = False,
) -> Any:  # noqa: ANN401  JSON
    """Call the node; a problem ends the command with its line and exit code.

    Args:
        context: of the command.
        method: of the request.
        path: of the request.
        body: of the request.
        needs_keys: ask for the passphrase if the node does not run.
    """
    chosen = state(context)
    client = Client(
        chosen.home,
        asker(chosen) if needs_keys else None,
        (lambda: ask_pin_if_needed(chosen)) if needs_keys else None,
    )
    status, value = client.call(method, path, body)
    if status >= 400:  # noqa: PLR2004
        fail_with(value)
    return value


def asker(chosen: State) -> Callable[[], bytes | None]:
    """Return what gets the passphrase of a node that does not run; it asks a person once."""

    def secret() -> bytes | None:
        from node.config import load_config  # noqa: PLC0415
        from node.home import Home  # noqa: PLC0415

        if load_config(Home(chosen.home)).keystore.passphrase_file:
            return None
        if chosen.typed is None:
            chosen.typed = ask_passphrase(chosen)
        return chosen.typed

    return secret


def fail_with(problem: Mapping[str, Any]) -> NoReturn:
    """End with what a problem document says, and the exit code of its error."""
    for item in problem.get("errors", ())[1:10]:
        say(plain(f"  {item['pointer']}: {item['message']}"))
    fix = problem.get("fix", "")
    detail = problem.get("detail", "the call failed")
    fail(f"{detail}. {fix}" if fix else detail, exit_code(problem.get("code", "")))


# --- asking ----------------------------------------------------------------------------------
def ask_passphrase(chosen: State, *, file: Path | None = None, twice: bool = False) -> bytes:
    """Return a passphrase from *file* or, where there is one, the person."""
    from keys.keystore import normalise_passphrase, read_passphrase_file  # noqa: PLC0415

    if file is not None:
        return read_passphrase_file(file)
    if not chosen.interactive:
        usage("a passphrase is needed. Give --passphrase-file FILE")
    with _interruptible():
        first = getpass.getpass("Passphrase: ", stream=sys.stderr)
        secret = normalise_passphrase(first)
        if twice and getpass.getpass("Again: ", stream=sys.stderr) != first:
            usage("the two passphrases differ. Nothing was changed")
    return secret


def ask_pin_if_needed(chosen: State, *, file: Path | None = None) -> str | None:
    """Return the PIN of the token with the node's signing keys; None if nobody has to give it."""
    from node.config import load_config  # noqa: PLC0415
    from node.home import Home  # noqa: PLC0415
    from node.signer_client import needs_pin  # noqa: PLC0415

    if file is None and not needs_pin(load_config(Home(chosen.home)).signer):
        return None
    return ask_pin(chosen, file=file)


def ask_pin(chosen: State, *, file: Path | None = None) -> str:
    """Return the PIN of a token from *file* or, where there is one, the person."""
    from node.signer_client import read_pin_file  # noqa: PLC0415

    if file is not None:
        return read_pin_file(file)
    if not chosen.interactive:
        usage("the PIN of the token is needed. Give --pin-file FILE")
    if chosen.pin is None:
        with _interruptible():
            chosen.pin = getpass.getpass("PIN of the token: ", stream=sys.stderr)
    return chosen.pin


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """End the command with one line where a person ends a question with Ctrl-C or Ctrl-D."""
    try:
        yield
    except (KeyboardInterrupt, EOFError):
        say()
        fail("interrupted; nothing was changed", Exit.INTERRUPTED)


def _answer(prompt: str) -> str:
    with _interruptible():
        sys.stderr.write(prompt)
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
    return line.strip()


def ask(
    chosen: State,
    question: str,
    option: str,
    *,
    default: str = "",
    fault: Callable[[str], str] | None = None,
) -> str:
    """Return the answer to *question*, or end by naming the *option* that would give it.

    Args:
        chosen: the options before the command.
        question: to put to the person.
        option: that gives the answer without asking.
        default: what Enter alone means.
        fault: says what is wrong with an answer, to ask again; nothing if it is right.
    """
    if not chosen.interactive:
        if default:
            return default
        usage(f"{option} is missing, and there is nobody to ask. Give it with the command")
    shown = f" [{default}]" if default else ""
    while True:
        answer = _answer(f"{question}{shown}: ") or default
        if not answer:
            continue
        wrong = fault(answer) if fault is not None else ""
        if not wrong:
            return answer
        say(f"  {plain(wrong)}")


def ask_if_any(question: str, *, fault: Callable[[str], str]) -> str:
    """Return the answer of a person to a question that Enter alone may leave open."""
    while True:
        answer = _answer(f"{question}: ")
        wrong = fault(answer) if answer else ""
        if not wrong:
            return answer
        say(f"  {plain(wrong)}")


def choose(
    chosen: State, question: str, option: str, words: Sequence[str], *, default: str = ""
) -> str:
    """Return one of *words*, by name, number or unique beginning."""
    if chosen.interactive:
        for start in range(0, len(words), 3):
            row = [f"{n + 1:>3} {words[n]:<28}" for n in range(start, min(start + 3, len(words)))]
            say("".join(row).rstrip())
    while True:
        answer = ask(chosen, question, option, default=default)
        if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= len(words):
            return _understood(chosen, answer, words[int(answer) - 1])
        matches = [w for w in words if w == answer] or [w for w in words if w.startswith(answer)]
        if len(matches) == 1:
            return _understood(chosen, answer, matches[0])
        if not chosen.interactive:
            usage(f"{option} {answer!r} is none of: {', '.join(words)}")
        say(f"{answer!r} is none of these; give a name or number")


def _understood(chosen: State, answer: str, word: str) -> str:
    if chosen.interactive and answer != word:
        say(f"    understood: {word}")
    return word


def confirm(chosen: State, question: str, option: str) -> bool:
    """Return whether the person says yes; without one, name the *option* that says so."""
    if not chosen.interactive:
        usage(f"{question} There is nobody to ask: give {option}")
    return _answer(f"{question} [y/N] ").lower() in {"y", "yes"}


# --- files -----------------------------------------------------------------------------------
def denied(path: Path, verb: str, error: OSError, *, otherwise: str) -> str:
    """Return in one line why a file of the person cannot be read or written, and what to do.

    Args:
        path: of the file.
        verb: read or written.
        error: that the system gave.
        otherwise: what to do where the file may not be opened, which a wrapper with sudo brings
            about: the command is then another user than the person.
    """
    if not isinstance(error, PermissionError):
        return f"{path} cannot be {verb}: {error.strerror}. Check the path"
    return f"{path} cannot be {verb} by the user {user_name()}, who runs this command. {otherwise}"


def read_text(path: Path, *, maximum: int = limits.MAX_REQUEST_IMPORT) -> str:
    """Return the text in a file of the person, or in what is handed over for ``-``.

    What is longer than *maximum* bytes ends the command: it may have no end.
    """
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(maximum + 1)
        else:
            with path.open("rb") as opened:
                data = opened.read(maximum + 1)
        if len(data) > maximum:
            fail(f"{path} is longer than {maximum} bytes. Name the right file", Exit.USAGE)
        # As a text file is read: line ends of other systems are line ends.
        return data.decode().replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        otherwise = f"Give - in its place, and hand it over with: < {path}"
        fail(denied(path, "read", error, otherwise=otherwise), Exit.USAGE)
    except UnicodeDecodeError:
        fail(f"{path} is not text. Ask for the file again", Exit.USAGE)


def write_new(path: Path, text: str, *, force: bool) -> None:
    """Write *text* to a file that does not exist yet, or end; *force* writes over one."""
    try:
        with path.open("w" if force else "x", encoding="ascii") as opened:
            opened.write(text)
    except FileExistsError:
        fail(f"{path} exists. Choose another name, or give --force to overwrite it", Exit.REFUSED)
    except OSError as error:
        otherwise = f"Leave out --out and redirect the output: > {path}"
        fail(denied(path, "written", error, otherwise=otherwise), Exit.FAILURE)


@contextlib.contextmanager
def new_file(path: Path, *, room: int) -> Iterator[Callable[[bytes], None]]:
    """Make a file that only its owner can read, with *room* bytes on the disk; give what fills it.

    It is gone if the block ends with an error, so what was refused leaves nothing behind.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        fail(f"{path} exists. Choose another name", Exit.REFUSED)
    except (FileNotFoundError, NotADirectoryError):
        fail(f"the folder {path.parent} does not exist. Make it first", Exit.USAGE)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}. Check the path", Exit.FAILURE)

    def write(data: bytes) -> None:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[opened.write(rest) :]
            opened.truncate()
            os.fsync(handle)
        except OSError as error:
            fail(
                f"{path} cannot be written: {error.strerror}. Free some space and do it again; "
                "the log has this time too",
                Exit.FAILURE,
            )

    try:
        with open(handle, "wb", buffering=0) as opened:  # noqa: PTH123  a handle
            try:
                os.posix_fallocate(handle, 0, room)
            except OSError as error:
                if error.errno in _FULL:
                    fail(
                        f"{path} cannot be written: {error.strerror}. Free some space; nothing "
                        "was handed over",
                        Exit.FAILURE,
                    )
            yield write
    except BaseException:
        path.unlink(missing_ok=True)
        raise


# --- showing ---------------------------------------------------------------------------------
def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns; on a terminal the last one is cut to what is left of its width."""
    cells = [[_plain(cell) for cell in row] for row in rows]
    widths = [max(len(c[n]) for c in [list(columns), *cells]) for n in range(len(columns))]
    room = widths[-1]
    if sys.stdout.isatty():
        taken = sum(widths[:-1]) + 2 * (len(columns) - 1)
        room = max(_NARROWEST, shutil.get_terminal_size().columns - taken)
    for row in [list(columns), *cells]:
        head = "  ".join(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False))
        last = _cut(row[-1], room)
        show(f"{head}  {last}".rstrip() if head else last)


def _cut(text: str, room: int) -> str:
    """Return *text* in so many columns; a quantity at its end stays whole: 24 is not 2400."""
    if len(text) <= room:
        return text
    found = _QUANTITY.search(text)
    tail = found[0] if found is not None and len(found[0]) < room else ""
    return f"{text[: room - 1 - len(tail)]}…{tail}"


def _plain(cell: object) -> str:
    """Return text that cannot move the cursor or change the terminal."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, (list, tuple)):
        cell = ", ".join(map(str, cell)) or "-"
    return "".join(c if c.isprintable() else " " for c in str(cell))


def plain(text: object) -> str:
    """Return *text* fit for a terminal."""
    return _plain(text)


def utc(text: str | None, *, seconds: bool = False) -> str:
    """Return an RFC 3339 time as people read it, to the minute or to the second."""
    return "never" if not text else f"{text[:10]} {text[11 : 19 if seconds else 16]} UTC"
