"""The page in an evidence bundle that a person without this program reads first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from keys.fingerprint import format_node_id
from node.clock import rfc3339
from protocol.evidence import Check
from protocol.statement import Card

_WIDTH: Final = 96
_INDENT: Final = "  "
_LATER: Final = frozenset({"bundle", "exporter"})
"""What can be checked only once the report itself is in the bundle."""
_LIMITS: Final = (
    "It does not prove that what the message says is true, only who signed it, and when at the "
    "latest.",
    "A name such as that of an authority is what its owner wrote on its own card. What is proven "
    "is the node id. Compare it with one that you have from the authority itself.",
    "Times by the clock of the author or of the holder are what they say. Only cosignatures and "
    "time stamps are times that others vouch for.",
    "Who had to cosign (policy.txt) was chosen by the holder. Use your own choice of witnesses if "
    "you have one.",
    "The list of acts (access.json) has what the holder's program did. A copy that was made "
    "outside of it is in no list, and the holder may have left acts out.",
    "A receipt proves that a message reached a node, not that a person read it.",
)
_CHECKING: Final = (
    "With Picket: picket evidence verify FILE.zip (add --node and --author with node ids that you "
    "have from elsewhere, and --policy with your own choice of witnesses).",
    "The files: sha256sum, against the list in manifest.json.",
    "The log: any tool for C2SP tlog-proof, with entry.bin, proof.tlog-proof and policy.txt.",
    "The rest, step by step with openssl: see docs/evidence.md of Picket.",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the report tells; times are UTC in ms, author and holder a card and a node id."""

    network: str
    envelope_id: bytes
    author: tuple[Card, bytes]
    holder: tuple[Card, bytes]
    created: int
    arrived: int
    made: int
    act: int
    who: str
    by: str
    reason: str
    content: bool
    handling: tuple[str, ...]
    checks: tuple[Check, ...]


def format_report(facts: Facts) -> bytes:
    """Return the report as UTF-8 text."""
    return ("\n".join(_lines(facts)) + "\n").encode()


def _lines(facts: Facts) -> Iterator[str]:
    found = {check.name: check for check in facts.checks}
    yield "EVIDENCE OF ONE MESSAGE"
    yield ""
    yield from _wrapped(
        "This file goes with a message about a precursor incident that was sent over the network "
        f"{facts.network} and that a node recorded in its log. The files beside it let anybody "
        "check that, without access to that node and without trust in it.",
        "",
    )
    yield from _section("The message")
    yield from _field("Identifier", facts.envelope_id.hex())
    yield from _field("Signed by", _who(*facts.author))
    yield from _field("Recorded by", _who(*facts.holder))
    yield from _field("As", found["entry"].detail)
    yield from _field("Addressed to", found["audience"].detail)
    content = "included (content.json)" if facts.content else "not disclosed"
    yield from _field("Content", content)
    if facts.handling:
        yield from _section("How it may be used")
        yield from _list(facts.handling)
    yield from _section("When")
    yield from _field("Not before", found["anchor"].detail)
    yield from _field("Author's clock", rfc3339(facts.created))
    yield from _field("Holder's clock", rfc3339(facts.arrived))
    latest = found["quorum"] if found["quorum"].ok else found["cosignatures"]
    yield from _field("Not after", latest.detail)
    yield from _field("Time stamp", found["time stamp"].detail)
    yield from _section("This export")
    by = f"{facts.by} ({facts.who})" if facts.by else facts.who
    yield from _field("Made by", by)
    yield from _field("Reason", facts.reason or "none was given")
    yield from _field("Made at", f"{rfc3339(facts.made)}, by the holder's clock")
    yield from _field("In the log", f"entry {facts.act}, before anything was handed out")
    yield from _section("What was checked when it was made")
    made = [check for check in facts.checks if check.name not in _LATER]
    yield from _field("Held", ", ".join(check.name for check in made if check.ok))
    yield from _field("Not there", ", ".join(c.name for c in made if c.ok is None) or "nothing")
    yield from _section("What it does not prove")
    yield from _list(_LIMITS)
    yield from _section("How to check it yourself")
    yield from _list(_CHECKING)


def _who(card: Card, node_id: bytes) -> str:
    return f"{card.authority} ({card.country}), node id {format_node_id(node_id)}"


def _section(title: str) -> Iterator[str]:
    yield ""
    yield title.upper()


def _field(name: str, value: str) -> Iterator[str]:
    yield from _wrapped(f"{name + ':':<16}{value}", " " * 16)


def _list(items: Sequence[str]) -> Iterator[str]:
    for item in items:
        yield from _wrapped(f"- {item}", _INDENT)


def _wrapped(text: str, indent: str) -> list[str]:
    printable = "".join(c if c.isprintable() else " " for c in text)
    # Identifiers stay whole, however long: they are there to be compared and searched for.
    return textwrap.wrap(
        printable, _WIDTH, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
