"""The seven questions of ``picket incidents new``: each answer is checked as it is given.

- What was typed is read as people write it, and said again as it was understood. The rules are
  those of the incident itself: an answer is tried in an incident that has no other fault.
- Each answer may be given with the command instead. A substance that the list does not have stays
  as it was typed.
"""

from __future__ import annotations

import datetime
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeVar

from node.cli.terminal import State, ask, ask_if_any, plain, say, usage, utc
from node.clock import SystemClock, rfc3339
from protocol import checks, reference
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
_WIDTH: Final = 79
_LIQUID: Final = frozenset({"LTR", "MLT", "MTQ", "HLT"})
_QUALIFIERS: Final = (
    (re.compile(r"(about|approximately|approx\.?|around|circa|ca\.?|~)\s*", re.IGNORECASE),
     "approximately"),
    (re.compile(r"(at least|more than|over|>)\s*", re.IGNORECASE), "at_least"),
    (re.compile(r"(at most|up to|less than|<)\s*", re.IGNORECASE), "at_most"),
)  # fmt: skip
_LOCODE: Final = re.compile(r"([A-Z]{2}) ?([A-Z2-9]{3})")
_PHONE: Final = re.compile(r"\+?[0-9][0-9 ()./-]{5,}")
_ROUTE_SPLIT: Final = re.compile(r"\s*(?:->|>|,|;|/|\bto\b)\s*|\s+")
_UNKNOWN_MODE: Final = "9"
_READ = TypeVar("_READ")
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


# --- reading answers -------------------------------------------------------------------------
def pick(words: Sequence[str], text: str) -> str:
    """Return the one of *words* that a number, name, beginning or part of it means.

    Raises:
        ValueError: none, or more than one, is meant; says which.
    """
    answer = "_".join(text.casefold().replace("-", " ").split())
    if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= len(words):
        return words[int(answer) - 1]
    found = (
        [w for w in words if w == answer]
        or [w for w in words if w.startswith(answer)]
        or [w for w in words if answer in w]
    )
    if not answer or len(found) != 1:
        if answer and found:
            raise ValueError(f"that may be {' or '.join(found[:4])}".replace("_", " "))
        raise ValueError("give one of them by its name or number")
    return found[0]


def read_country(text: str) -> str:
    """Return the code of a country that is given by code or name.

    Raises:
        ValueError: it is none.
    """
    code = text.strip().upper()
    if code in v.COUNTRIES:
        return code
    found = reference.find_country(text)
    if found is None:
        raise ValueError(f"{text.strip()!r} is no country: give its name, or a code such as NL")
    return found.code


def read_place(text: str) -> dict[str, str]:
    """Return the location that is given as a country, and behind it a UN/LOCODE or kind of place.

    Raises:
        ValueError: it is none; says what to give.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    words = parts if len(parts) > 1 else text.split()
    for count in range(len(words), 0, -1):
        first, rest = " ".join(words[:count]), words[count:]
        found = _LOCODE.fullmatch(first.upper())
        # A name that is misspelt, such as Itlay, is no code.
        code = found is not None and (first.isupper() or first.islower())
        if found and code and found[1] in v.COUNTRIES and reference.find_country(first) is None:
            return _placed({"country": found[1], "locode": found[1] + found[2]}, rest)
        try:
            return _placed({"country": read_country(first)}, rest)
        except ValueError:
            if count == 1:
                raise
    raise ValueError("give a country: its name, or a code such as NL")


def _placed(place: dict[str, str], rest: Sequence[str]) -> dict[str, str]:
    for each in rest:
        found = _LOCODE.fullmatch(each.upper())
        short = re.fullmatch(r"[A-Z2-9]{3}", each)
        if found is not None and found[1] == place["country"]:
            place["locode"] = found[1] + found[2]
        elif short is not None and "locode" not in place:
            place["locode"] = place["country"] + each
        else:
            place["facility_type"] = _facility(each)
    if wrong := fault({"location": place}):
        raise ValueError(wrong)
    return place


def _facility(text: str) -> str:
    try:
        return pick(v.FACILITY_TYPE, text)
    except ValueError:
        kinds = ", ".join(v.FACILITY_TYPE[:8]).replace("_", " ")
        raise ValueError(
            f"{text!r} is no place: give a UN/LOCODE such as NLRTM, or a kind such as {kinds}"
        ) from None


def read_quantity(text: str) -> tuple[dict[str, str], str]:
    """Return quantity and form of an amount such as ``about 25 kg powder`` or ``20160 L``.

    Raises:
        ValueError: it is none; says what to give.
    """
    left, qualifier = text.strip(), None
    for pattern, word in _QUALIFIERS:
        if (found := pattern.match(left)) is not None:
            left, qualifier = left[found.end() :], word
            break
    value, unit, form = _amount_and_form(left)
    quantity = {"value": value, "unit": unit}
    if qualifier is not None:
        quantity["qualifier"] = qualifier
    if form is None:
        form = "liquid" if unit in _LIQUID else "unknown"
    return quantity, form


def _amount_and_form(text: str) -> tuple[str, str, str | None]:
    try:
        return (*read_amount(text), None)
    except ValueError:
        amount, _, last = text.rpartition(" ")
        try:
            return (*read_amount(amount.rstrip(", ")), pick(v.FORM, last))
        except ValueError:
            pass
        raise


def named_substance(text: str) -> dict[str, Any]:
    """Return how an incident names a substance: by the list if it has it, else as it was typed."""
    name = text.strip()
    exact = reference.substances().exactly(name)
    if len(exact) == 1 and exact[0].salt is None:
        return {"substance_id": exact[0].substance.id}
    if checks.fault("cas", name) is None:
        salt = f"{exact[0].substance.name} ({exact[0].salt})" if exact else name
        return {"other": {"name": salt, "cas": name}}
    return {"other": {"name": name}}


def read_contact(text: str) -> dict[str, str]:
    """Return the contact in an answer such as ``Duty desk, duty@example.org, +31 20 555 0100``.

    Raises:
        ValueError: it names no unit.
    """
    contact: dict[str, str] = {}
    units = []
    for part in filter(None, map(str.strip, text.split(","))):
        if "@" in part and " " not in part:
            contact["mailbox"] = part
        elif _PHONE.fullmatch(part):
            contact["phone"] = part
        else:
            units.append(part)
    contact["unit"] = ", ".join(units) or "Duty desk"
    if wrong := fault({"contact": contact}):
        raise ValueError(wrong)
    return contact


def read_route(text: str) -> list[dict[str, Any]]:
    """Return the legs of a route such as ``CN > NL > PL``, by unknown means.

    Raises:
        ValueError: it is none; says what to give.
    """
    by_arrow = [part for part in re.split(r"\s*(?:->|>|,|;)\s*", text.strip()) if part]
    stops = by_arrow if len(by_arrow) > 1 else [p for p in _ROUTE_SPLIT.split(text.strip()) if p]
    codes = [read_country(stop) for stop in stops]
    if len(codes) < 2:  # noqa: PLR2004  from one to another
        raise ValueError("give at least two countries, such as CN > NL > PL")
    last = len(codes) - 2
    return [
        {
            "seq": at + 1, "mode": _UNKNOWN_MODE, "origin": one, "destination": other,
            "role": "origin" if at == 0 else "destination_declared" if at == last else "transit",
        }
        for at, (one, other) in enumerate(pairwise(codes))
    ]  # fmt: skip


def read_tlp(text: str) -> str:
    """Return the TLP marking that was typed.

    Raises:
        ValueError: it is none.
    """
    marking = text.strip().upper().removeprefix("TLP:")
    if marking not in v.TLP:
        raise ValueError(f"give one of {', '.join(v.TLP)}")
    return marking


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


# --- asking ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Answers that were given with the command; an empty one is asked for."""

    kind: str = ""
    place: str = ""
    when: str = ""
    substance: str = ""
    amount: str = ""
    form: str = ""
    summary: str = ""
    contact: str = ""
    route: str = ""
    tlp: str = ""
    exercise: bool = False


def ask_incident(
    chosen: State, node: Mapping[str, Any], given: Given, *, contact: str = ""
) -> dict[str, Any]:
    """Return the incident that seven answers describe; those not given are asked for.

    Args:
        chosen: the options before the command.
        node: who this node is.
        given: with the command.
        contact: whom others may ask, if Enter alone is the answer.
    """
    now = SystemClock().now()
    asker = _Asker(chosen)
    asker.choices("1/7 What happened:", v.INCIDENT_TYPE, if_none=given.kind)
    kind = asker.answer("1/7 Its name or number", "--type", given.kind,
                        lambda text: pick(v.INCIDENT_TYPE, text), shown=_human)  # fmt: skip
    place = asker.answer(
        "2/7 Where: country, and port or kind of place (NL, or NLRTM seaport)", "--place",
        given.place, read_place, default=node["country"], shown=_place_words,
    )  # fmt: skip
    when = asker.answer(
        "3/7 When detected, in UTC (such as 2026-03-01 08:30, or: now)", "--when", given.when,
        lambda text: read_time(text, now=now), shown=utc,
    )  # fmt: skip
    substance = asker.substance(given.substance, on=when[:10])
    quantity, form = asker.answer(
        "5/7 How much (such as 20160 L, or about 25 kg powder)", "--amount", given.amount,
        read_quantity, shown=_quantity_words,
    )  # fmt: skip
    summary = asker.answer(
        "6/7 One sentence for others, without names of persons", "--summary", given.summary,
        lambda text: _checked(text, {"summary": text}),
    )  # fmt: skip
    contact_given = asker.answer(
        "7/7 Whom others may ask (desk, mailbox, telephone)", "--contact", given.contact,
        read_contact, default=contact, shown=_contact_words,
    )  # fmt: skip
    tlp = asker.answer(
        f"    Handling: TLP ({', '.join(v.TLP)})", "--tlp", given.tlp, read_tlp, default="AMBER"
    )
    face: dict[str, Any] = {
        "incident_type": kind, "origin_country": node["country"], "detected_at": when,
        "location": place, "summary": summary, "contact": contact_given,
        "handling": {"tlp": tlp},
        "substances": [
            {**substance, "form": pick(v.FORM, given.form) if given.form else form,
             "qty": quantity}
        ],
    }  # fmt: skip
    route = asker.route(given.route)
    face |= {"route": route} if route else {}
    face |= {"exercise": True} if given.exercise else {}
    return {"face": face}


class _Asker:
    """Puts questions, each until it is answered; what was given with the command is not asked."""

    def __init__(self, chosen: State) -> None:
        self._chosen = chosen

    def choices(self, title: str, words: Sequence[str], *, if_none: str) -> None:
        if if_none or not self._chosen.interactive:
            return
        # A number must not be torn off its word at the end of a line.
        listed = "  ".join(
            f"{at}\xa0{_human(word)}".replace(" ", "\xa0") for at, word in enumerate(words, start=1)
        )
        for line in textwrap.wrap(f"{title} {listed}", _WIDTH, subsequent_indent="    "):
            say(line.replace("\xa0", " "))

    def answer(
        self, question: str, option: str, given: str, read: Callable[[str], _READ], *,
        default: str = "", shown: Callable[[_READ], str] | None = None,
    ) -> _READ:  # fmt: skip
        if given:
            return self._read(given, option, read)
        text = ask(self._chosen, question, option, default=default, fault=_refused(read))
        found = self._read(text, option, read)
        if shown is not None and self._chosen.interactive:
            said = shown(found)
            if said.casefold() != text.casefold():
                say(f"    understood: {plain(said)}")
        return found

    def _read(self, text: str, option: str, read: Callable[[str], _READ]) -> _READ:
        try:
            return read(text)
        except ValueError as error:
            usage(f"{option} {text!r} is not understood. {str(error)[:1].upper()}{str(error)[1:]}")

    def substance(self, given: str, *, on: str) -> dict[str, Any]:
        """Ask for a substance; what the list does not have is offered the nearest of it."""
        name: str = self.answer(
            "4/7 Which substance (name or CAS number)", "--substance", given,
            lambda text: _checked(text, {"substances": [_trial_substance(text)]}),
        )  # fmt: skip
        found = named_substance(name)
        if not self._chosen.interactive or given:
            return found
        if "substance_id" not in found:
            found = self._nearest(name, found)
        if "substance_id" in found:
            say(f"    understood: {_substance_words(found['substance_id'], on)}")
        return found

    def _nearest(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        near = [m.substance for m in reference.substances().find(name, limit=3) if m.salt is None]
        if not near or reference.substances().exactly(name):
            say("    not in the list of substances: kept as you wrote it")
            return found
        listed = ", ".join(f"{at} {each.name}" for at, each in enumerate(near, start=1))
        answer = ask_if_any(
            f"    not in the list. Is it {listed}? Number, or Enter to keep it as written",
            fault=lambda text: _number_fault(text, len(near)),
        )
        return {"substance_id": near[int(answer) - 1].id} if answer else found

    def route(self, given: str) -> list[dict[str, Any]]:
        if given:
            return self._read(given, "--route", read_route)
        if not self._chosen.interactive:
            return []
        text = ask_if_any("    The way it took, if known (CN > NL > PL; Enter for none)",
                          fault=_refused(read_route))  # fmt: skip
        return read_route(text) if text else []


def _number_fault(text: str, most: int) -> str:
    fine = text.isascii() and text.isdigit() and 1 <= int(text) <= most
    return "" if fine else f"give a number from 1 to {most}, or Enter alone"


def _checked(text: str, change: Mapping[str, Any]) -> str:
    if wrong := fault(change):
        raise ValueError(wrong)
    return text


def _trial_substance(name: str) -> dict[str, Any]:
    return {"other": {"name": name}, "form": "unknown", "qty": {"value": "1", "unit": "KGM"}}


def _human(word: str) -> str:
    return word.replace("_", " ")


def _place_words(place: Mapping[str, str]) -> str:
    known = reference.countries().get(place["country"])
    country = place["country"] if known is None else known.names["en"]
    more = [place[name] for name in ("locode", "facility_type") if name in place]
    return ", ".join([country, *map(_human, more)])


def _contact_words(contact: Mapping[str, str]) -> str:
    return ", ".join(contact[name] for name in ("unit", "mailbox", "phone") if name in contact)


def _quantity_words(answer: tuple[Mapping[str, str], str]) -> str:
    quantity, form = answer
    amount = f"{quantity['value']} {_UNITS[quantity['unit']][-1]} ({quantity['unit']})"
    qualifier = f"{_human(quantity['qualifier'])} " if "qualifier" in quantity else ""
    return f"{qualifier}{amount}, {_human(form) if form != 'unknown' else 'form unknown'}"


def _substance_words(substance_id: str, on: str) -> str:
    known = reference.substances()
    row = known.by_id[substance_id]
    status = known.control_status(substance_id, datetime.date.fromisoformat(on))
    if status.table is not None:
        control = f"Table {status.table}{'' if status.certain else ' (day unclear)'}"
    else:
        control = "not in Table I or II" if status.certain else "control unclear"
    return f"{row.name}{f', CAS {row.cas}' if row.cas else ''}, {control} on {on}"
