"""``picket shipments``: notified before export, answered in time, and followed on their way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from node.cli.releasing import (
    AlsoTo,
    Json,
    Tlp,
    Yes,
    among,
    done,
    json_object,
    moment,
    release,
    value_words,
)
from node.cli.terminal import call, plain, show, show_json, table, usage, utc
from protocol import vocabulary as v

app = typer.Typer(
    help="Shipments that are notified before their export.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
Shipment = Annotated[
    str,
    typer.Argument(metavar="SHIPMENT", help="Its id, 6 characters of it or more, or its number."),
]
Row = dict[str, Any]


def _path(shipment: str, verb: str = "") -> str:
    return f"/shipments/{quote(shipment, safe='')}{verb}"


@app.command()
def notify(
    context: typer.Context,
    *,
    to: Annotated[list[str], typer.Option(help="Who is asked to reply; repeat it.")],
    reply_by: Annotated[
        str, typer.Option("--reply-by", help="2026-03-01, '2026-03-01 08:30', 5d or 72h.")
    ],
    file: Annotated[
        Path | None, typer.Option(readable=False, help="JSON with the fields, or -.")
    ] = None,
    substance: Annotated[str, typer.Option(help="Name, CAS number or id.")] = "",
    amount: Annotated[str, typer.Option(help="Such as 20160 L or 25 kg.")] = "",
    form: Annotated[str, typer.Option(help="liquid, solid_powder, ...")] = "unknown",
    exporter: Annotated[str, typer.Option(help="The firm that exports.")] = "",
    importer: Annotated[str, typer.Option(help="The firm that imports.")] = "",
    source: Annotated[str, typer.Option("--from", help="Exporting country.")] = "",
    destination: Annotated[str, typer.Option("--into", help="Importing country.")] = "",
    departs: Annotated[str, typer.Option(help="The day, as 2026-03-01.")] = "",
    number: Annotated[str, typer.Option(help="Its number, such as that of PEN Online.")] = "",
    tlp: Tlp = "",
    also_to: AlsoTo = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Tell the authorities on its way of a shipment before its export, and ask for a reply."""
    body: Row = json_object(file) if file is not None else {}
    body |= {"to": to, "reply_by": moment(reply_by, "--reply-by")}
    if tlp or "handling" not in body:
        body["handling"] = {"tlp": (tlp or "AMBER").upper()}
    if substance:
        body["substances"] = [_substance(substance, amount, form)]
    for role, firm in (("exporter", exporter), ("importer", importer)):
        if firm:
            body[role] = {"role": role, "kind": "org", "name": firm}
    for field, value in (
        ("exporting_country", source.upper()), ("importing_country", destination.upper()),
        ("departs", departs), ("number", number),
    ):  # fmt: skip
        body |= {field: value} if value else {}
    body |= {"also_to": also_to} if also_to else {}
    seen = release(context, "/shipments", body, yes=yes, as_json=as_json)
    done(seen, f"Shipment {seen['id']}", as_json=as_json)


def _substance(name: str, amount: str, form: str) -> Row:
    # Heavy: the rules of an incident.
    from node.cli.questions import named_substance, read_amount  # noqa: PLC0415

    if not amount:
        usage("--amount is missing. Give it as 20160 L or 25 kg")
    try:
        value, unit = read_amount(amount)
    except ValueError as error:
        usage(f"--amount {amount!r}: {error}. Correct it")
    return {**named_substance(name), "form": form, "qty": {"value": value, "unit": unit}}


@app.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """List notified shipments, those that wait for this node first."""
    seen = call(context, "GET", "/api/v1/shipments", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    table(
        ("SHIPMENT", "NUMBER", "FROM", "WAY", "REPLY BY", "STATE", "SUBSTANCES"),
        [
            (each["id"][:8], each["number"], each["author"],
             f"{each['exporting_country']}-{each['importing_country']}", utc(each["due"]),
             _state(each), each["substances"])
            for each in seen["items"]
        ],
    )  # fmt: skip
    if not seen["items"]:
        show("No shipment was notified.")


def _state(row: Row) -> str:
    if row["we_owe"]:
        return "REPLY IS LATE" if row["overdue"] else "waits for this node"
    event = f", {row['last_event']}" if row["last_event"] else ""
    return f"{row['state']}{event}".replace("_", " ")


@app.command("show")
def show_(context: typer.Context, shipment: Shipment, as_json: Json = False) -> None:
    """Show a notified shipment, the replies and what happened to it."""
    seen = call(context, "GET", f"/api/v1{_path(shipment)}", needs_keys=True)
    if as_json:
        show_json(seen)
        return
    show(f"{seen['pen_id']}  {seen['state'].replace('_', ' ')}  from {plain(seen['author'])}")
    if len(seen["notified"]) > 1:
        show("! It was notified in two ways. Call the exporting authority.")
    for notified in seen["notified"]:
        show(f"reply by   {utc(notified['reply_by'])}")
        for name, value in notified.items():
            if name not in {"pen_id", "reply_by", "at", "to"}:
                show(f"{plain(name).replace('_', ' '):<10} {plain(value_words(value))}")
    for answer in seen["answers"]:
        said = (answer["answer"] or "no reply yet").replace("_", " ")
        why = f": {answer['reason']}" if answer["reason"] else ""
        late = ", LATE" if answer["overdue"] else ""
        show(f"{plain(answer['asked'])}: {plain(said + why)}{late}")
    for event in seen["events"]:
        rest = {name: value for name, value in event.items()
                if name in {"place", "location", "containers", "note"}}  # fmt: skip
        show(f"{utc(event['happened'])}  {event['event'].replace('_', ' ')}"
             f"{'  ' + plain(value_words(rest)) if rest else ''}")  # fmt: skip
    for each in seen["ignored"]:
        show(f"! Not applied: {each['kind']} of {plain(each['author'])}: {plain(each['reason'])}")


@app.command()
def reply(
    context: typer.Context,
    shipment: Shipment,
    *,
    no_objection: Annotated[bool, typer.Option("--no-objection", help="It may go.")] = False,
    objection: Annotated[str, typer.Option(metavar="REASON", help="It must not go; why.")] = "",
    more_time: Annotated[
        str, typer.Option(metavar="UNTIL", help="You reply by then: 2026-03-01, or 5d.")
    ] = "",
    also_to: AlsoTo = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Reply to a notification that asks this node."""
    if sum((no_objection, bool(objection), bool(more_time))) != 1:
        usage("say what the reply is. Give one of --no-objection, --objection REASON, "
              "--more-time UNTIL")  # fmt: skip
    body: Row = {"answer": "no_objection"}
    if objection:
        body = {"answer": "objection", "reason": objection}
    elif more_time:
        body = {"answer": "more_time", "until": moment(more_time, "--more-time")}
    body |= {"also_to": also_to} if also_to else {}
    seen = release(context, _path(shipment, "/replies"), body, yes=yes, as_json=as_json)
    done(seen, f"Replied: {body['answer'].replace('_', ' ')}.", as_json=as_json)


@app.command()
def event(
    context: typer.Context,
    shipment: Shipment,
    what: Annotated[str, typer.Argument(help=f"One of {', '.join(v.CONSIGNMENT_EVENT)}.")],
    *,
    happened: Annotated[str, typer.Option(help="'2026-03-01 08:30' (UTC), or now.")] = "now",
    country: Annotated[str, typer.Option(help="Where: ISO code.")] = "",
    locode: Annotated[str, typer.Option(help="Where: UN/LOCODE.")] = "",
    place: Annotated[str, typer.Option(help="Where, in words.")] = "",
    container: Annotated[list[str] | None, typer.Option(help="Repeat it.")] = None,
    note: Annotated[str, typer.Option(help="More, in one sentence.")] = "",
    also_to: AlsoTo = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Tell all who were told of a shipment what happened to it."""
    among("WHAT", what, v.CONSIGNMENT_EVENT)
    if locode and not country:
        country = locode[:2]
    body: Row = {"event": what, "happened": moment(happened, "--happened", past=True)}
    if country:
        body["location"] = {"country": country.upper()} | (
            {"locode": locode.upper()} if locode else {}
        )
    body |= {"place": place} if place else {}
    body |= {"containers": [{"no": each} for each in container]} if container else {}
    body |= {"note": note} if note else {}
    body |= {"also_to": also_to} if also_to else {}
    seen = release(context, _path(shipment, "/events"), body, yes=yes, as_json=as_json)
    done(seen, f"Told: {what.replace('_', ' ')}.", as_json=as_json)
