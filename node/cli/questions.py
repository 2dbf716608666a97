"""The questions of ``picket incidents new``: each answer is checked as it is given.

What was typed is read as people write it, and said again as it was understood. The rules are those
of the incident itself: an answer is tried in an incident that has no other fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from node.cli.terminal import State, ask, ask_if_any, choose, say, utc
from node.clock import SystemClock, rfc3339
from protocol import vocabulary as v
from protocol.errors import InvalidIncidentError
from protocol.incident import parse_incident

_UNITS: Final[Mapping[str, tuple[str, ...]]] = {
    "KGM": ("kg", "kgs", "kilo", "kilos", "kilogram", "kilograms"),
    "GRM": ("g", "gr", "gram", "grams"),
    "TNE": ("t", "tonne", "tonnes"),
    "LTR": ("l", "lt", "liter", "liters", "litre", "litres"),
    "MLT": ("ml", "milliliter", "milliliters", "millilitre", "millilitres"),
    "MTQ": ("m3", "m³", "cbm", "cubic metre", "cubic metres"),
    "HLT": ("hl", "hectolitre", "hectolitres"),
    "H87": ("pcs", "pc", "piece", "pieces"),
    "C62": ("unit", "units"),
}
"""How people write the units, the usual word last. Short and long tons differ from tonnes, so that
``ton`` is none of them."""
_CODE_OF: Final = {
    name: code for code, names in _UNITS.items() for name in (code.casefold(), *names)
}
_AMOUNT: Final = re.compile(r"([0-9][0-9.,' ]*)(.*)")
_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?")
_TIME: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2})? ?(?:Z|UTC)?)?",
    re.IGNORECASE,
)
_DAY_MS: Final = 86_400_000
_TRIAL: Final[Mapping[str, Any]] = {
    "incident_type": "seizure", "origin_country": "XA", "detected_at": "2026-01-01T00:00:00Z",
    "location": {"country": "XA"}, "summary": "-", "handling": {"tlp": "RED"},
    "substances": [
        {"other": {"name": "-"}, "form": "unknown", "qty": {"value": "1", "unit": "KGM"}}
    ],
}  # fmt: skip


def read_amount(text: str) -> tuple[str, str]:
    """Return number and unit code of an amount such as ``20160 L``, ``25kg`` or ``3 KGM``.

    Raises:
        ValueError: it is none; says what to give.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise ValueError("begin with the number, such as 25 kg")
    number, unit = found[1].strip(), " ".join(found[2].split()).casefold()
    if not _NUMBER.fullmatch(number):
        raise ValueError("write the number with digits and at most one point: 20160 or 1.5")
    if unit not in _CODE_OF:
        lacking = "give the unit too" if not unit else f"{unit!r} is no unit known here"
        raise ValueError(f"{lacking}: kg, g, t, L, mL, hL, m3 or pcs, or its UN/ECE code")
    return number, _CODE_OF[unit]


def read_time(text: str, *, now: int) -> str:
    """Return the RFC 3339 form of a time in UTC such as ``2026-03-01 08:30`` or ``now``.

    Raises:
        ValueError: it is none, or lies in the future; says what to give.
    """
    if text.casefold() == "now":
        return f"{rfc3339(now)[:19]}Z"
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError("give day and time in UTC, such as 2026-03-01 08:30, or: now")
    if found[2] is None:
        raise ValueError(f"give the time too, in UTC, such as {found[1]} 08:30")
    time = f"{found[1]}T{found[2]}{found[3] or ':00'}Z"
    if wrong := fault({"detected_at": time}):
        raise ValueError(wrong)
    if time > rfc3339(now + _DAY_MS):
        raise ValueError("that is in the future")
    return time


def read_contact(unit: str, reach: str) -> dict[str, str]:
    """Return the contact of a unit that a mailbox or telephone reaches."""
    if not reach:
        return {"unit": unit}
    return {"unit": unit, ("mailbox" if "@" in reach else "phone"): reach}


def fault(change: Mapping[str, Any]) -> str:
    """Return what the rules of an incident say against these fields of a face, or nothing."""
    try:
        parse_incident({"face": {**_TRIAL, **change}})
    except InvalidIncidentError as error:
        return f"it {error.problems[0][2]}"
    return ""


def _refused(read: Callable[[str], object]) -> Callable[[str], str]:
    def wrong(answer: str) -> str:
        try:
            read(answer)
        except ValueError as error:
            return str(error)
        return ""

    return wrong


def _substance(name: str) -> dict[str, Any]:
    return {"other": {"name": name}, "form": "unknown", "qty": {"value": "1", "unit": "KGM"}}


def ask_incident(chosen: State, node: Mapping[str, Any]) -> dict[str, Any]:
    """Ask a person for an incident: seven questions, and who answers for it.

    Args:
        chosen: the options before the command.
        node: who this node is.
    """
    now = SystemClock().now()
    kind = choose(chosen, "1/7 What happened", "--file", v.INCIDENT_TYPE)
    place = ask(
        chosen, "2/7 In which country (ISO code)", "--file", default=node["country"],
        fault=lambda text: fault({"location": {"country": text.upper()}}),
    ).upper()  # fmt: skip
    when = read_time(
        ask(
            chosen, "3/7 When detected, in UTC (such as 2026-03-01 08:30, or: now)", "--file",
            fault=_refused(lambda text: read_time(text, now=now)),
        ),
        now=now,
    )  # fmt: skip
    say(f"    understood: {utc(when)}")
    what = ask(
        chosen, "4/7 Which substance", "--file",
        fault=lambda text: fault({"substances": [_substance(text)]}),
    )  # fmt: skip
    amount = ask(
        chosen, "5/7 How much (such as 20160 L or 25 kg)", "--file", fault=_refused(read_amount)
    )
    value, unit = read_amount(amount)
    say(f"    understood: {value} {_UNITS[unit][-1]} ({unit})")
    form = choose(chosen, "    In what form", "--file", v.FORM)
    tlp = choose(chosen, "6/7 Handling (TLP)", "--file", v.TLP, default="AMBER")
    summary = ask(
        chosen, "7/7 One sentence for others, without names of persons", "--file",
        fault=lambda text: fault({"summary": text}),
    )  # fmt: skip
    face = {
        "incident_type": kind, "origin_country": node["country"], "detected_at": when,
        "location": {"country": place}, "summary": summary, "handling": {"tlp": tlp},
        "substances": [
            {"other": {"name": what}, "form": form, "qty": {"value": value, "unit": unit}}
        ],
    }  # fmt: skip
    return {"face": {**face, **_contact()}}


def _contact() -> dict[str, Any]:
    """Ask who answers for the incident; without that nobody can follow it up."""
    unit = ask_if_any(
        "Whom others may ask: a unit or desk, not a person (Enter for none)",
        fault=lambda text: fault({"contact": {"unit": text}}),
    )
    if not unit:
        return {}
    reach = ask_if_any(
        "    Its mailbox or telephone (Enter for none)",
        fault=lambda text: fault({"contact": read_contact(unit, text)}),
    )
    return {"contact": read_contact(unit, reach)}
