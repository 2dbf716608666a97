"""Which of two incidents may belong together, and why; pure, and all of it local to one node.

- ``compare`` looks at two profiles and returns the reasons, each with the value as it was written:
  an officer has to see why. Nothing is asked of, or told to, another node.
- A reason names the kind of link of the domain's vocabulary, so that confirming it makes a
  ``link.assert`` of that kind.
- A value that many incidents share tells nothing; whoever looks up others leaves it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from node import identifiers as ids
from node.company import ALIKE, Firm, likeness, take_apart
from node.identifiers import Identifier, Profile, same_phone

BATCH, CONSIGNMENT, CONVEYANCE, PARTY, SELECTOR = (
    "same_batch", "same_consignment", "same_conveyance", "same_party", "same_selector",
)  # fmt: skip
_KIND: Final = {
    ids.BATCH: BATCH, ids.CONTAINER: CONVEYANCE, ids.DOCUMENT: CONSIGNMENT, ids.PHONE: SELECTOR,
    ids.EMAIL: SELECTOR, ids.URL: SELECTOR, ids.HANDLE: SELECTOR, ids.ACCOUNT: SELECTOR,
    ids.REGISTRATION: PARTY, ids.PLATE: CONVEYANCE, ids.VOYAGE: CONVEYANCE,
}  # fmt: skip
_WORDS: Final = {
    ids.BATCH: "batch", ids.CONTAINER: "container", ids.DOCUMENT: "document", ids.PHONE: "phone",
    ids.EMAIL: "e-mail", ids.URL: "web address", ids.HANDLE: "account",
    ids.ACCOUNT: "payment account",
    ids.REGISTRATION: "registration", ids.PLATE: "plate", ids.VOYAGE: "vessel and voyage",
}  # fmt: skip
LINKING: Final = tuple(_KIND)
"""Kinds of identifiers that tie incidents together; a seal alone is too weak."""
CONTAINER_DAYS: Final = 120
"""A container goes round the world and is somebody else's after a few months."""
_TELLING: Final = 4
"""Digits that a batch or document number must have to mean anything at all: not LOT 1, INV-014."""
_OWN_BATCH: Final = 6
"""A batch number of fewer characters means something only together with its manufacturer."""
_OWN_NUMBER: Final = 8
"""A document number of fewer characters means something only together with its issuer."""
_DAY: Final = re.compile(r"(19|20)[0-9]{2}(0[1-9]|1[0-2])([0-2][0-9]|3[01])")
"""A batch that is named by its day: another maker has one of the same name."""
_SURE: Final = 100
COMMON: Final = 64
"""Other incidents that share a value; one that more share tells two cases apart no longer."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why two incidents may belong together."""

    kind: str
    basis: str
    score: int


def compare(one: Profile, other: Profile) -> list[Reason]:
    """Return the reasons why two incidents may belong together; one for each kind, the best."""
    best: dict[str, Reason] = {}
    for reason in (*_shared(one, other), *_named(one, other)):
        known = best.get(reason.kind)
        if known is None or reason.score > known.score:
            best[reason.kind] = reason
    return list(best.values())


def _shared(one: Profile, other: Profile) -> Iterator[Reason]:
    theirs: dict[str, list[Identifier]] = {}
    for each in other.identifiers:
        theirs.setdefault(each.kind, []).append(each)
    for mine in one.identifiers:
        for their in theirs.get(mine.kind, ()):
            if mine.kind in _KIND and _same(mine, their, abs(one.day - other.day)):
                basis = f"same {_WORDS[mine.kind]} {mine.shown}"
                if mine.shown != their.shown:
                    basis += f" / {their.shown}"
                yield Reason(_KIND[mine.kind], basis, _SURE)


def _same(mine: Identifier, their: Identifier, days: int) -> bool:
    if mine.kind == ids.PHONE:
        return same_phone(mine.value, their.value)
    if mine.value != their.value:
        return False
    match mine.kind:
        case ids.BATCH:
            weak = len(mine.value) < _OWN_BATCH or _DAY.fullmatch(mine.value) is not None
            return _telling(mine.value) and _agree(mine, their, needed=weak)
        case ids.CONTAINER:
            return days <= CONTAINER_DAYS
        case ids.DOCUMENT:
            weak = len(mine.value) < _OWN_NUMBER
            return _telling(mine.value) and _agree(mine, their, needed=weak)
        case ids.REGISTRATION | ids.PLATE:
            return not (mine.context and their.context and mine.context != their.context)
        case _:
            return True


def _telling(value: str) -> bool:
    return sum(c.isdigit() for c in value) >= _TELLING and len(value) > _TELLING


def _agree(mine: Identifier, their: Identifier, *, needed: bool) -> bool:
    """Whether manufacturer or issuer do not contradict; where *needed*, both must be known."""
    if not (mine.context and their.context):
        return not needed
    one, other = take_apart(mine.context), take_apart(their.context)
    return bool(one.core) and (one.core == other.core or likeness(one, other) >= ALIKE)


def _named(one: Profile, other: Profile) -> Iterator[Reason]:
    for mine in one.names:
        for their in other.names:
            if mine.country and their.country and mine.country != their.country:
                continue
            alike = likeness(take_apart(mine.name), take_apart(their.name))
            if alike >= ALIKE:
                basis = f"same firm {mine.name}"
                if mine.name != their.name:
                    basis = f"perhaps the same firm: {mine.name} / {their.name}"
                yield Reason(PARTY, basis, alike)


def name_keys(given: Profile) -> frozenset[str]:
    """Return the keys under which incidents with like names of firms are looked up."""
    firms: list[Firm] = [take_apart(each.name) for each in given.names]
    return frozenset(key for firm in firms for key in firm.skeletons())
