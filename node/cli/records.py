"""Commands for the life of a released incident: amend, retract, acknowledge, link, talk, board."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from node.cli.releasing import (
    AlsoTo,
    Incident,
    Json,
    Yes,
    among,
    change_words,
    done,
    json_object,
    moment,
    release,
    seconds_words,
    text_of,
)
from node.cli.terminal import (
    ask,
    call,
    choose,
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
from protocol import vocabulary as v

_LAYERS: Final = ("face", "annex")
_TEXT_FIELDS: Final = frozenset({"summary", "narrative", "name", "mo_text", "text", "note"})
_LAWFUL: Final = frozenset({"legal_order", "personal_data_erasure"})
_SIMPLE: Final = (
    ("status", "Status", v.STATUS),
    ("summary", "One sentence for others, without names of persons", ()),
)
Row = dict[str, Any]


def _path(key: str, verb: str) -> str:
    return f"/incidents/{quote(key, safe='')}/{verb}"


# --- amending --------------------------------------------------------------------------------
def amend(
    context: typer.Context,
    incident: Incident,
    *,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field, such as /face/status=concluded; repeat it."),
    ] = None,
    removed: Annotated[
        list[str] | None, typer.Option("--remove", help="Leave a field out; repeat it.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(readable=False, help="JSON with the whole incident, or -.")
    ] = None,
    note: Annotated[str, typer.Option(help="What changed and why; name no person.")] = "",
    to: Annotated[
        list[str] | None, typer.Option("--also-to", help="A new recipient; repeat it.")
    ] = None,
    annex_to: Annotated[
        list[str] | None, typer.Option("--annex-also-to", help="Who gets the annex from now on.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Who gets this revision no more; keeps what it has.")
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Release a new revision of an incident of this node, after showing what changes for whom."""
    stands = call(context, "GET", f"/api/v1{_path(incident, 'amend')}", needs_keys=True)
    whole = stands["incident"] if file is None else json_object(file)
    if file is None and not changes and not removed and not (to or annex_to or without):
        whole = _asked(context, whole)
    for each in changes or ():
        pointer, found, value = each.partition("=")
        if not found:
            usage(f"--set {each!r} has no =. Give it as /face/status=concluded")
        put(whole, pointer, read_value(pointer, value))
    for pointer in removed or ():
        put(whole, pointer, None)
    body: Row = {"incident": whole} | ({"note": note} if note else {})
    body |= {name: given for name, given in (("also_to", to), ("annex_also_to", annex_to),
                                             ("without", without)) if given}  # fmt: skip
    seen = release(
        context, _path(incident, "amend"), body, yes=yes, as_json=as_json, before=_changes
    )
    done(seen, f"{stands['ref']} is amended: revision {stands['revision']}.", as_json=as_json)


def _asked(context: typer.Context, whole: Row) -> Row:
    """Ask a person for the fields that change most; Enter keeps what stands there."""
    chosen = state(context)
    if not chosen.interactive:
        usage("nothing would change. Give --set /face/FIELD=VALUE, or --file FILE")
    say("Enter keeps what stands there. For other fields: --set /face/FIELD=VALUE, or --file FILE")
    face = whole.get("face", {})
    for field, question, words in _SIMPLE:
        default = str(face.get(field, "open"))
        answer = (
            choose(chosen, question, "--set", words, default=default)
            if words
            else ask(chosen, question, "--set", default=default)
        )
        if answer != default:
            put(whole, f"/face/{field}", answer)
    for number, substance in enumerate(face.get("substances", ())):
        name = (substance.get("other") or {}).get("name") or substance.get("substance_id")
        default = substance.get("id_status", "declared_only")
        answer = choose(
            chosen, f"How {plain(name)} is known", "--set", v.ID_STATUS, default=default
        )
        if answer != default:
            put(whole, f"/face/substances/{number}/id_status", answer)
    return whole


def read_value(pointer: str, text: str) -> object:
    """Return the JSON value that was typed for a field: JSON where it is some, else the text.

    Numbers stay text, as quantities are decimal strings, unless they are lists or maps.
    """
    if pointer.rpartition("/")[2] in _TEXT_FIELDS:
        return text
    if text[:1] in {"[", "{"} or text in {"true", "false", "null"}:
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError):
            usage(f"{pointer}: {text!r} is not JSON. Correct it")
        return value
    return text


def put(whole: Row, pointer: str, value: object) -> None:
    """Set the field of *whole* at a JSON pointer; None takes it away, ``-`` appends to a list."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")]
    if parts[0] or len(parts) < 3 or parts[1] not in _LAYERS:  # noqa: PLR2004
        usage(f"{pointer!r} is no field. Begin with /face/ or /annex/, as in /face/status")
    at: Any = whole
    for part, following in pairwise(parts[1:]):
        number = following == "-" or following.isdecimal()
        at = _inside(at, part, pointer, new=[] if number else {})
    last = parts[-1]
    if isinstance(at, list):
        _put_in_list(at, last, pointer, value)
    elif not isinstance(at, dict):
        usage(f"{pointer}: what stands above it has no fields. Check the pointer")
    elif value is None:
        if last not in at:
            usage(f"{pointer} is not there. See it with: picket incidents show")
        del at[last]
    else:
        at[last] = value


def _inside(at: Any, part: str, pointer: str, *, new: object) -> Any:  # noqa: ANN401  any JSON
    if isinstance(at, list):
        if part == "-":
            at.append(new)
            return at[-1]
        return at[_place(at, part, pointer)]
    if not isinstance(at, dict):
        usage(f"{pointer}: what stands above it has no fields. Check the pointer")
    return at.setdefault(part, new)


def _put_in_list(at: list[Any], last: str, pointer: str, value: object) -> None:
    if last == "-" and value is not None:
        at.append(value)
    elif value is None:
        del at[_place(at, last, pointer)]
    else:
        at[_place(at, last, pointer)] = value


def _place(at: list[Any], part: str, pointer: str) -> int:
    if not part.isdecimal() or int(part) >= len(at):
        usage(f"{pointer}: the list has {counted(len(at), 'entry')}, counted from 0. Or append "
              "with -")  # fmt: skip
    return int(part)


def _changes(preview: Mapping[str, Any]) -> None:
    lines = [change_words(each, layer) for layer in _LAYERS for each in preview["changes"][layer]]
    say("This changes:" if lines else "This changes no field.")
    for line in lines:
        say(f"  {plain(line)}")
    for warning in preview["warnings"]:
        say(f"! {warning['pointer']}: {plain(warning['message'])}")
    for sha256 in preview["attachments_without_content"]:
        say(f"! The attachment {sha256[:16]} goes without its content: it is not here.")
    if gone := preview["left_out_keep_what_they_have"]:
        say(f"Left out, and keep what they have: {plain(gone)}")


def history(context: typer.Context, incident: Incident, as_json: Json = False) -> None:
    """Show each revision of an incident, and what it changed."""
    seen = call(context, "GET", f"/api/v1{_path(incident, 'history')}", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    for each in seen["items"]:
        note = f"  {plain(each['note'])}" if each["note"] else ""
        show(f"Revision {each['revision']}  {utc(each['at'])}  {plain(each['layers'])}{note}")
        if each["contested"]:
            show("  ! Its originator gave two different contents under this number. Call it.")
        elif each["follows"] is False:
            show("  ! It does not follow from the revision before that is here. Call its author.")
        elif each["follows"] is None:
            show("  ! The revision before is not here.")
        for change in each["changes"]:
            show(f"  {plain(change_words(change, change['layer']))}")
    if seen["retracted"]:
        show(f"Retracted {utc(seen['retracted']['at'])}: {_words(seen['retracted']['reason'])}")
    _ignored(seen["ignored"])


def _words(text: str) -> str:
    return text.replace("_", " ")


def _ignored(items: list[Row]) -> None:
    for each in items:
        show(f"! Not applied: {each['kind']} of {plain(each['author'])}: {plain(each['reason'])}")


# --- retracting, acknowledging, linking ------------------------------------------------------
def retract(
    context: typer.Context,
    incident: Incident,
    *,
    reason: Annotated[str, typer.Option(help=f"One of {', '.join(v.RETRACT_REASON)}.")],
    duplicate_of: Annotated[
        str, typer.Option(help="The incident that it duplicates, for the reason duplicate.")
    ] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Withdraw an incident of this node, for all who got it. It is final."""
    among("--reason", reason, v.RETRACT_REASON)
    body = {"reason": reason} | ({"duplicate_of": duplicate_of} if duplicate_of else {})

    def warn(_: Mapping[str, Any]) -> None:
        if reason in _LAWFUL:
            say("All who got it, and this node, erase it for good, with all that was written.")
        else:
            say("A retraction is final. The report stays readable and is marked as retracted.")

    seen = release(context, _path(incident, "retract"), body, yes=yes, as_json=as_json, before=warn)
    done(seen, f"{plain(incident)} is retracted: {_words(reason)}.", as_json=as_json)


def ack(
    context: typer.Context,
    incident: Incident,
    level: Annotated[str, typer.Argument(help="opened, assigned or actioned.")],
    *,
    unit: Annotated[str, typer.Option(help="The desk that has it, not a person.")] = "",
    also_to: AlsoTo = None,
    as_json: Json = False,
) -> None:
    """Tell the originator how far this node has got with an incident."""
    among("LEVEL", level, v.ACK_LEVEL)
    body: Row = {"level": level} | ({"unit": unit} if unit else {})
    body |= {"also_to": also_to} if also_to else {}
    seen = call(context, "POST", f"/api/v1{_path(incident, 'acks')}", body, needs_keys=True)
    done(seen, f"{plain(incident)}: {level}.", as_json=as_json)


def link(
    context: typer.Context,
    incident: Incident,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The incident it belongs to.")],
    *,
    kind: Annotated[str, typer.Option(help=f"One of {', '.join(v.LINK_KIND)}.")],
    basis: Annotated[str, typer.Option(help="What it rests on, in one sentence.")],
    also_to: AlsoTo = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Tell holders that two incidents belong together. Neither is changed by it."""
    among("--kind", kind, v.LINK_KIND)
    body: Row = {"target": other, "kind": kind, "basis": basis}
    body |= {"also_to": also_to} if also_to else {}
    seen = release(context, _path(incident, "links"), body, yes=yes, as_json=as_json)
    done(seen, f"{plain(incident)} and {plain(other)}: {_words(kind)}.", as_json=as_json)


# --- talking ---------------------------------------------------------------------------------
def thread(context: typer.Context, incident: Incident, as_json: Json = False) -> None:
    """Show what was asked, answered and said about an incident."""
    seen = call(context, "GET", f"/api/v1{_path(incident, 'thread')}", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    for each in seen["items"]:
        show(f"{utc(each['at'])}  {plain(each['author'])}  {_spoken(each)}  TLP:{each['tlp']}  "
             f"[{each['request'][:8]}]")  # fmt: skip
        for line in (each["text"] or "").split("\n"):
            show(f"    {plain(line)}")
        if each.get("anchors"):
            show("    It gives more: --json shows it, and picket followup show "
                 f"{each['request'][:8]}")  # fmt: skip
    if not seen["items"]:
        show("Nothing was asked about it. Ask with: picket followup ask")


def _spoken(item: Row) -> str:
    if item["what"] == "request":
        return f"asks {plain(item['to'])}: {_words(plain(item['kinds']))}"
    return f"answers: {item['outcome']}" if item["what"] == "response" else "says"


def say_(
    context: typer.Context,
    incident: Incident,
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="What to say.")] = "",
    *,
    file: Annotated[
        Path | None, typer.Option("--file", readable=False, help="Text from a file, or -.")
    ] = None,
    request: Annotated[str, typer.Option(help="The request, if there are several.")] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Write to the parties of a request about an incident."""
    body = {"text": text_of(text, file, "TEXT")} | ({"request": request} if request else {})
    seen = release(context, _path(incident, "thread"), body, yes=yes, as_json=as_json)
    done(seen, "The message is on its way.", as_json=as_json)


# --- board -----------------------------------------------------------------------------------
def board(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many of the newest.")] = 50,
    as_json: Json = False,
) -> None:
    """Show what others have not received, opened or answered yet; what is overdue comes first."""
    seen = call(context, "GET", f"/api/v1/board?limit={limit}", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    if seen["counterparts"]:
        table(
            ("PEER", "OWES US", "OVERDUE", "WAITS FOR US", "OVERDUE"),
            [(c["peer"], c["owes"], c["owes_overdue"], c["waits"], c["waits_overdue"])
             for c in seen["counterparts"]],
        )  # fmt: skip
        show()
    table(
        ("INCIDENT", "SHARED IN", "FIRST ACK", "REQUESTS", "OUTSTANDING"),
        [
            (each["ref"], seconds_words(each["time_to_share_s"]),
             seconds_words(each["first_ack_s"]), _asked_words(each), _outstanding(each))
            for each in seen["incidents"]
        ],
    )  # fmt: skip
    for name, what in (
        ("time_to_share_s", "from detection to release"),
        ("first_ack_s", "from there to the first acknowledgement by a country concerned"),
    ):
        if seen["clocks"][name] is not None:
            show(f"Median {what}: {seconds_words(seen['clocks'][name])}")
    if any(r["we_owe"] for r in seen["requests"]):
        say("What waits for this node: picket followup list --theirs")


def _asked_words(row: Row) -> str:
    if row["overdue_requests"]:
        return f"{row['open_requests']} open, {row['overdue_requests']} OVERDUE"
    return f"{row['open_requests']} open" if row["open_requests"] else "-"


def _outstanding(row: Row) -> str:
    left = [f"retracted: {_words(row['retracted'])}"] if row["retracted"] else []
    if row["not_told_of_retraction"]:
        names = ", ".join(map(plain, row["not_told_of_retraction"]))
        left.append(f"NOT TOLD of the retraction yet: {names}")
    waiting = [
        f"{r['peer']} (revision {', '.join(map(str, r['waiting']))})"
        for r in row["recipients"]
        if not r["received"]
    ]
    left += [f"not received: {', '.join(waiting)}"] if waiting else []
    silent = row["not_acknowledged"]
    left += [f"not acknowledged: {', '.join(silent)}"] if silent else []
    return "; ".join(left) or "nothing"


# --- figures ---------------------------------------------------------------------------------
def figures(
    context: typer.Context,
    *,
    since: Annotated[str, typer.Option(help="Detected from then on, such as 90d.")] = "",
    by_authority: Annotated[
        bool, typer.Option("--by-authority", help="Also for each authority, by name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how complete and how quick reports are: all, those of this node, and those received."""
    query = {"by_authority": "yes" if by_authority else "no"}
    if since:
        query["since"] = moment(since, "--since", ends=False, past=True)
    seen = call(context, "GET", f"/api/v1/figures?{urlencode(query)}", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    rows = [(name, seen[name]) for name in ("all", "own", "received")]
    rows += [(each["authority"], each) for each in seen.get("by_authority", ())]
    table(
        ("", "INCIDENTS", "SCORE (MEDIAN OF 8)", "ACTIONABLE", "SHARED IN (MEDIAN)", "9 OF 10 IN"),
        [
            (name, each["incidents"], each["median_score"] or "-", _share_words(each),
             seconds_words(each["time_to_share_s"]["median"]),
             seconds_words(each["time_to_share_s"]["p90"]))
            for name, each in rows
        ],
    )  # fmt: skip
    say("Actionable: with a route, a contact and one thing more to act on.")
    if seen["left_out"]:
        say(f"Left out, as the first report is not here: {seen['left_out']}")
    if seen["more"]:
        say("Only the newest are counted: narrow it with --since")


def _share_words(row: Row) -> str:
    share = row["actionable_share"]
    return "-" if share is None else f"{int(Decimal(share) * 100)} % ({row['actionable']})"


def register(incidents: typer.Typer) -> None:
    """Add what stands among the commands about incidents."""
    for name, command in (
        ("amend", amend), ("retract", retract), ("history", history), ("ack", ack),
        ("board", board), ("figures", figures), ("thread", thread), ("say", say_), ("link", link),
    ):  # fmt: skip
        incidents.command(name)(command)
