"""What commands share that release a record: the preview, the question, times as people type them.

Whoever releases sees first who will and who will not receive the record, and says yes to that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from node.cli.terminal import (
    Exit,
    call,
    confirm,
    fail,
    plain,
    read_text,
    say,
    show,
    show_json,
    state,
    usage,
)
from node.clock import SystemClock, rfc3339

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Incident = Annotated[
    str, typer.Argument(metavar="INCIDENT", help="Reference or id, with @PEER if two have it.")
]
AlsoTo = Annotated[list[str] | None, typer.Option("--also-to", help="Who else gets it; repeat it.")]
Tlp = Annotated[str, typer.Option(help="RED, AMBER+STRICT, AMBER, GREEN or CLEAR.")]
_MOMENT: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2})? ?(?:Z|UTC)?)?",
    re.IGNORECASE,
)
_LATER: Final = re.compile(r"\+?([1-9][0-9]{0,3}) ?([dh])(?:ays?|ours?)?")
_MS: Final = {"d": 86_400_000, "h": 3_600_000}
_BY_NUMBER: Final = re.compile(r"/(0|[1-9][0-9]*)(?=/|$)")


# --- releasing -------------------------------------------------------------------------------
def audience(preview: Mapping[str, Any]) -> None:
    """Print who will and who will not receive a record."""
    reached: dict[str, set[str]] = {"face": set(), "annex": set(), "": set()}
    carriers: set[str] = set()
    for each in preview["envelopes"]:
        for layer in each["layers"] or [""]:
            reached[layer] |= set(each["to"])
        carriers |= set(each["carriers"])
    if reached[""]:
        say(f"Will receive it:         {_listed(reached[''])}")
    else:
        say(f"Will receive the face:   {_listed(reached['face'])}")
        say(f"Will receive the annex:  {_listed(reached['annex'])}")
    if carriers:
        say(f"Will carry it unread:    {_listed(carriers)}")
    say(f"Will NOT receive it:     {_listed(preview['will_not_receive'])}")


def _listed(names: Sequence[str] | set[str]) -> str:
    return plain(sorted(names, key=str.casefold)) if names else "nobody"


def release(
    context: typer.Context,
    path: str,
    body: Mapping[str, Any],
    *,
    yes: bool,
    as_json: bool,
    before: Callable[[Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Show the preview of an act, ask, and do it; return what the node answers.

    Args:
        context: of the command.
        path: of the act, below ``/api/v1``.
        body: of the act.
        yes: not to ask.
        as_json: not to print the preview.
        before: prints what else the preview has, above who receives it.
    """
    where = f"/api/v1{path}"
    preview = call(context, "POST", f"{where}/preview", body, needs_keys=True)
    if not as_json:
        if before is not None:
            before(preview)
        audience(preview)
    if not yes and not confirm(state(context), "Release it to exactly these?", "--yes"):
        fail("nothing was released", Exit.REFUSED)
    digest = {"digest": preview["digest"]}
    seen: dict[str, Any] = call(context, "POST", where, {**body, **digest}, needs_keys=True)
    return seen


def done(seen: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print what was released: *text* for a person, or all of it as JSON."""
    if as_json:
        show_json(seen)
    else:
        show(text)
        say(f"To {plain(seen['recipients'])}; receipts arrive by themselves.")


# --- reading what is typed -------------------------------------------------------------------
def moment(text: str, option: str, *, ends: bool = True, past: bool = False) -> str:
    """Return the RFC 3339 form of a time in UTC: a day, a day and time, or ``3d`` or ``72h``.

    Args:
        text: as it was typed.
        option: that gave it, to be named if it is no time.
        ends: a day alone means its end, else its beginning.
        past: ``3d`` is that long ago, not that long from now.
    """
    found = _LATER.fullmatch(text.strip().casefold())
    if found is not None:
        away = int(found[1]) * _MS[found[2]]
        return rfc3339(SystemClock().now() + (-away if past else away))
    if text.strip().casefold() == "now":
        return rfc3339(SystemClock().now())
    day = _MOMENT.fullmatch(text.strip())
    if day is None:
        usage(f"{option} {text!r} is no time. Give 2026-03-01, 2026-03-01 08:30 (UTC), 5d or 72h")
    if day[2] is None:
        return f"{day[1]}T23:59:59Z" if ends else f"{day[1]}T00:00:00Z"
    return f"{day[1]}T{day[2]}{day[3] or ':00'}Z"


def text_of(text: str, file: Path | None, option: str) -> str:
    """Return what stands in *text* or in *file*; one of them must be given."""
    if file is not None:
        return read_text(file).strip()
    if not text:
        usage(f"{option} is missing. Give it, or {option}-file FILE")
    return text


def json_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file of the person."""
    try:
        value = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        usage(f"the file is not JSON: {error}. Correct it")
    if not isinstance(value, dict):
        usage("the file does not hold one JSON object")
    return value


def among(option: str, value: str, words: Sequence[str]) -> None:
    """End if *value*, given as *option*, is none of *words*."""
    if value not in words:
        usage(f"{option} {value!r} is not known. Choose one of {', '.join(words)}")


# --- showing ---------------------------------------------------------------------------------
def pointer_words(pointer: str) -> str:
    """Return a JSON pointer as people say it.

    ``/substances/0/id_status`` is ``substances 1, id status``.
    """
    counted = _BY_NUMBER.sub(lambda found: f" {int(found[1]) + 1}", pointer)
    parts = [part.replace("~1", "/").replace("~0", "~") for part in counted.split("/") if part]
    return ", ".join(part.replace("_", " ") for part in parts)


def value_words(value: object) -> str:
    """Return a JSON value in one line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(
                f"{str(name).replace('_', ' ')} {value_words(item)}" for name, item in value.items()
            )
        case list() | tuple():
            return "; ".join(map(value_words, value))
        case _:
            return str(value)


def change_words(change: Mapping[str, Any], layer: str) -> str:
    """Return one change in words."""
    where = pointer_words(change["pointer"])
    what = f"{layer}: {where}" if where else layer
    before, after = change["before"], change["after"]
    if before is None:
        return f"{what}: added {value_words(after)}"
    if after is None:
        return f"{what}: removed ({value_words(before)})"
    return f"{what}: {value_words(before)} -> {value_words(after)}"


def seconds_words(seconds: int | None) -> str:
    """Return a time span as people say it, in its two largest units."""
    if seconds is None:
        return "-"
    for unit, size, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60)):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"  # noqa: PLR2004
