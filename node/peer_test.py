"""What a test of a peer says: from what was seen and what this node knows to one line a stage.

- Stages go in order, and the first that fails ends the test: whatever comes after depends on it.
- Each line that is not in order has one cause and one next step.
- What cannot be seen from this side is said to be unseen, never guessed.
- Pure: no socket, no clock, no table. ``node.peer_test_run`` looks, ``node.peer_test_desk`` knows.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from keys.trust import Level
from node.peer_clocks import WORTH_TELLING_MS, direction, span
from node.peer_seen import AtDoor, Greeting, Name, Seen, Tcp, Tls, Upgrade
from node.words import counted
from protocol import limits

_MINUTE_MS: Final = 60_000
_SUMMARIES_MS: Final = 150_000
"""A peer that gives to us compares streams once a minute; after this it does not any more."""
_SETTLED_MS: Final = 10_000
"""How long after a link has opened its peer has said what it says at the opening."""
_COSIGNED_LATE_MS: Final = 900_000
_FIRST_BEATS_MS: Final = 180_000
"""Three beats of witnessing, within which a new witness answers for the first time."""
_WAIT: Final = "wait a minute; this node dials again by itself"


class Stage(StrEnum):
    """What is tested, in this order."""

    NAME = "name"
    TCP = "tcp"
    TLS = "tls"
    PROTOCOL = "protocol"
    TRUST = "trust"
    CLOCK = "clock"
    WITNESS = "witness"
    ROUND_TRIP = "round trip"


class Result(StrEnum):
    """What came of a stage."""

    OK = "ok"
    WARNING = "warning"
    UNSEEN = "unseen"
    FAILED = "failed"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Line:
    """One stage: what came of it, in words, and what to do if it is not in order."""

    stage: Stage
    result: Result
    detail: str = ""
    fix: str = ""


# --- what this node knows --------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """The open link with a peer: its age, and since when the peer gave nothing on it (ms)."""

    age_ms: int
    given_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What this node knows of the peer that is tested; times are UTC ms.

    ``contact`` is set only if the card was compared. ``refused`` is how many deliveries wait as
    the peer took us for unknown, ``asked_at`` when it took our request to be added.
    """

    name: str
    own_id: str
    level: Level
    certificates: tuple[bytes, ...]
    now: int
    running: bool
    endpoints: tuple[str, ...] = ()
    own_endpoints: bool = True
    dials: bool = True
    older: frozenset[bytes] = frozenset()
    others: Mapping[bytes, str] = field(default_factory=dict)
    own: frozenset[bytes] = frozenset()
    contact: str | None = None
    card_until: int | None = None
    suspended: bool = False
    link: LinkState | None = None
    last_contact: int | None = None
    asked_at: int | None = None
    refused: int = 0
    received: int = 0
    trouble: str | None = None
    is_witness: bool = False
    cosigned_at: int | None = None
    cosigned_size: int = 0
    approved_at: int | None = None
    told_ahead_ms: int | None = None
    answered_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What came of one stage."""

    result: Result
    detail: str
    fix: str = ""


def _ok(detail: str) -> Said:
    return Said(Result.OK, detail)


def _failed(detail: str, fix: str) -> Said:
    return Said(Result.FAILED, detail, fix)


def conclude(subject: Subject, seen: Seen | None) -> tuple[Line, ...]:
    """Return a line for each stage; *seen* is None if the peer's card has no address."""
    lines: list[Line] = []
    failed = False
    for stage, judge in _JUDGES.items():
        if failed:
            lines.append(Line(stage, Result.NOT_TRIED))
            continue
        said = judge(subject, seen)
        lines.append(Line(stage, said.result, said.detail, said.fix))
        failed = said.result is Result.FAILED
    return tuple(lines)


def passed(lines: tuple[Line, ...]) -> bool:
    """Whether no stage failed."""
    return all(line.result is not Result.FAILED for line in lines)


# --- the way to it ---------------------------------------------------------------------------
def _name(subject: Subject, seen: Seen | None) -> Said:
    if seen is None:
        return _dials_us(subject)
    match seen.name:
        case Name.LITERAL:
            return _ok(f"{seen.host} is an address already")
        case Name.FOUND:
            return _ok(f"{seen.host} is {seen.ip}")
        case Name.UNKNOWN:
            return _failed(
                f"no host {seen.host} is known here",
                f"check the DNS of this machine; if it works, ask {subject.name} for its new card",
            )
        case Name.SILENT:
            return _failed(
                f"the DNS of this machine gave no answer about {seen.host}",
                "check the network and the DNS of this machine",
            )


def _dials_us(subject: Subject) -> Said:
    """Judge a peer that has no address: only the present link can be looked at."""
    if subject.link is not None:
        return _ok("its card has no address: it dials this node, and is linked now")
    if not subject.own_endpoints:
        return _failed(
            "neither card has an address, so nobody can dial",
            "one of the two must set peer.listen and peer.endpoints in picket.toml",
        )
    if not subject.running:
        return _failed(
            "its card has no address: it dials this node, which is not running",
            "start this node, and test again a minute later",
        )
    if subject.last_contact is None:
        return _failed(
            "its card has no address: it must dial this node, and never has",
            f"send {subject.name} this node's card: picket keys card --out my.card",
        )
    return _failed(
        "its card has no address: it must dial this node, and is not linked",
        f"call {subject.name}: its node or its network is down",
    )


def _tcp(subject: Subject, seen: Seen | None) -> Said:
    if seen is None:
        return _ok("the open link shows it")
    where = f"port {seen.port} of {seen.ip}"
    match seen.tcp:
        case Tcp.OPEN:
            return _ok(f"{where} is open")
        case Tcp.CLOSED:
            return _failed(
                f"nothing answers at {where}",
                f"call {subject.name}: its node is stopped, or listens elsewhere",
            )
        case Tcp.NO_ROUTE:
            return _failed(
                f"the network of this machine has no way to {seen.ip}",
                "check the network of this machine",
            )
        case Tcp.SILENT | None:
            return _failed(
                f"{where} does not answer",
                f"a firewall here or there drops it: allow outbound TCP to port {seen.port}, then "
                f"call {subject.name}",
            )


def _tls(subject: Subject, seen: Seen | None) -> Said:
    fault = None if seen is None else _check_shown(subject, seen)
    fault = fault or _check_card(subject)
    if fault is not None:
        return fault
    return _ok("TLS 1.3 with the certificate on its card" if seen else "the open link shows it")


def _check_shown(subject: Subject, seen: Seen) -> Said | None:
    where = f"{seen.host}:{seen.port}"
    match seen.tls:
        case Tls.UP:
            pass
        case Tls.NOT_TLS:
            return _failed(
                f"another program answers at {where}: it does not speak TLS 1.3",
                f"call {subject.name} and compare the address on its card with its peer.listen",
            )
        case Tls.ENDED:
            return _failed(
                f"{where} ends each connection before it says anything",
                "a firewall or proxy on the way does that, or its node has too many callers: call "
                f"{subject.name}",
            )
        case Tls.SILENT | None:
            return _failed(
                f"{where} takes connections and says nothing",
                f"call {subject.name}: its node hangs, or a firewall holds it back",
            )
    if seen.certificate not in subject.certificates:
        return _wrong_certificate(subject, seen.certificate)
    return None


def _wrong_certificate(subject: Subject, shown: bytes) -> Said:
    ask = f"ask {subject.name} for its new card, then: picket peers add CARD"
    if shown in subject.own:
        return _failed("it is this node itself that answers there", ask)
    if shown in subject.others:
        return _failed(f"it is {subject.others[shown]} that answers there", ask)
    if shown in subject.older:
        return _failed(
            "it shows a certificate that is only on an older card of it",
            f"call {subject.name}: its node may run from an old copy",
        )
    return _failed(
        "the certificate there is not the one on its card",
        f"something opens TLS on the way, or it has a new card: {ask}",
    )


def _check_card(subject: Subject) -> Said | None:
    if subject.card_until is not None and subject.card_until <= subject.now:
        return _failed(
            f"its card ended {span(subject.now - subject.card_until)} ago, by this clock",
            f"ask {subject.name} for its new card, then: picket peers add CARD",
        )
    return None


# --- the node that answers -------------------------------------------------------------------
def _protocol(subject: Subject, seen: Seen | None) -> Said:
    if seen is None:
        return _ok("the open link shows it")
    match seen.upgrade:
        case Upgrade.OPEN:
            return _greeted(subject, seen)
        case Upgrade.NOT_KNOWN:
            return _at_door(subject, seen)
        case Upgrade.FULL:
            return _failed(
                "it has no room for another connection of this node just now",
                "test again in a minute",
            )
        case Upgrade.NO_WEBSOCKET:
            said = "" if seen.status is None else f" (HTTP status {seen.status})"
            return _failed(
                f"it does not open a link{said}",
                f"call {subject.name}: another program has the port, or a proxy stands before it",
            )
        case Upgrade.SILENT | None:
            return _failed(
                "it took the request for a link and says nothing",
                f"call {subject.name}: its node hangs and must be restarted",
            )


def _at_door(subject: Subject, seen: Seen) -> Said:
    match seen.door:
        case AtDoor.OURS:
            return _ok("a Picket node of this network, as its door shows")
        case AtDoor.OTHER_NETWORK:
            return _other_network(subject)
        case AtDoor.OTHER_NODE:
            return _other_node(subject)
        case AtDoor.SHUT | None:
            return Said(Result.UNSEEN, "it shows nothing to a node that it does not link with")


def _greeted(subject: Subject, seen: Seen) -> Said:
    match seen.greeting:
        case Greeting.PROVEN:
            return _ok("WebSocket, hello, version, network and its key are right")
        case Greeting.OTHER_NETWORK:
            return _other_network(subject)
        case Greeting.OTHER_NODE:
            return _other_node(subject)
        case Greeting.OTHER_VERSION:
            return _failed(
                "no version of the protocol in common",
                f"compare with {subject.name}: picket --version; the older side must be updated",
            )
        case Greeting.UNPROVEN:
            return _failed(
                "it does not prove the key on its card",
                f"ask {subject.name} for its new card, then: picket peers add CARD",
            )
        case Greeting.CLOSED:
            return _closed(subject, seen.code)
        case Greeting.GARBAGE:
            return _failed(
                "what it says is no hello of a Picket node",
                f"call {subject.name}: its node is broken, or another program has the port",
            )
        case Greeting.SILENT | None:
            return _failed(
                "it opened the link and says nothing",
                f"call {subject.name}: its node hangs and must be restarted",
            )


def _closed(subject: Subject, code: str) -> Said:
    if code == "backoff":
        return _failed(
            "it keeps this node out for now: something of this node did not verify there",
            f"run picket doctor, then call {subject.name}",
        )
    reason = f" ({code})" if code else ""
    return _failed(f"it closes the link at once{reason}", f"call {subject.name} with that code")


def _other_network(subject: Subject) -> Said:
    return _failed(
        "it is on another Picket network",
        f"compare node.network in picket.toml with {subject.name}; the two must be the same",
    )


def _other_node(subject: Subject) -> Said:
    return _failed(
        "it is another node than the one on the card",
        f"ask {subject.name} for its new card, then: picket peers add CARD",
    )


# --- trust -----------------------------------------------------------------------------------
def _trust(subject: Subject, seen: Seen | None) -> Said:
    if (ours := _check_ours(subject)) is not None:
        return ours
    if seen is not None and seen.upgrade is Upgrade.NOT_KNOWN:
        return _not_known(subject, seen)
    here = f"{subject.level} here"
    if subject.suspended:
        return Said(
            Result.WARNING, f"{here}, and suspended by the directory: nothing is sent to it",
            "wait until that has ended, or ask the directory",
        )  # fmt: skip
    if subject.refused:
        waiting = counted(subject.refused, "delivery waits", "deliveries wait")
        return _not_approved(subject, f"{waiting} for it")
    if subject.link is None:
        return _unlinked(subject, here)
    return _given(subject, subject.link, here)


def _check_ours(subject: Subject) -> Said | None:
    name = shlex.quote(subject.name)
    match subject.level:
        case Level.PINNED:
            return _failed(
                f"this node has not approved {subject.name} yet",
                f"compare the safety number, then: picket peers approve {name}",
            )
        case Level.HELD:
            return _failed(
                f"{subject.name} is held here: it says that it has recovered its identity",
                f"call it, then: picket peers confirm {name}",
            )
        case Level.FROZEN:
            return _failed(
                f"{subject.name} is frozen here: its key statements contradict each other",
                "call it: its keys may be stolen; it must recover, or make a new node",
            )
        case Level.REVOKED:
            return _failed(
                f"{subject.name} has revoked its identity", "ask it for the card of its new node"
            )
        case Level.OBSERVE | Level.RELAY | Level.SHARE:
            return None


def _not_known(subject: Subject, seen: Seen) -> Said:
    apart = seen.ahead_ms or 0
    if subject.last_contact is not None:
        return _failed(
            f"{subject.name} does not accept this node any more",
            f"{_call(subject)} and ask why: it has frozen this node, or has an old card of it "
            "(picket keys card --out my.card)",
        )
    if subject.asked_at is None and abs(apart) > limits.KNOCK_WINDOW_MS:
        return _failed(
            f"{subject.name} does not know this node, and takes no request: its clock is "
            f"{direction(apart)}",
            "set the clock that is wrong; this node asks again by itself",
        )
    if subject.asked_at is None:
        return _failed(
            f"{subject.name} does not know this node yet",
            "send it this node's card (picket keys card --out my.card) and ask it to run: "
            "picket peers add my.card",
        )
    return _failed(
        f"{subject.name} has not approved this node yet",
        f"{_call(subject)} and ask it to run: picket peers pending",
    )


def _not_approved(subject: Subject, why: str) -> Said:
    return _failed(
        f"{subject.name} has not approved this node yet: {why}",
        f"{_call(subject)}, compare the safety number, and ask it to run: "
        f"picket peers approve {subject.own_id}",
    )


def _call(subject: Subject) -> str:
    # A contact on a card that nobody compared may lead to whoever made that card.
    shown = "on a number that you know" if subject.contact is None else f"({subject.contact})"
    return f"call the duty desk of {subject.name} {shown}"


def _unlinked(subject: Subject, here: str) -> Said:
    if not subject.running:
        return Said(
            Result.UNSEEN, f"{here}; it accepts this node, which is not running",
            "start this node to see the rest",
        )  # fmt: skip
    if not subject.dials:
        return Said(
            Result.WARNING, f"{here}; it accepts this node, which does not dial",
            "set peer.dial = true in picket.toml, or wait until it dials",
        )  # fmt: skip
    return Said(
        Result.WARNING, f"{here}; it accepts this node, but no link is open now",
        subject.trouble or _WAIT,
    )  # fmt: skip


def _given(subject: Subject, link: LinkState, here: str) -> Said:
    """Judge by what the peer says on the link: to whom it gives nothing, it says nothing."""
    if link.given_ms is not None and link.given_ms <= _SUMMARIES_MS:
        if subject.received:
            return _ok(f"{here}; it gives to this node, and has released to it")
        return _ok(f"{here}; there relay or share (which cannot be seen)")
    if link.age_ms < _SETTLED_MS:
        return Said(
            Result.UNSEEN, f"{here}; what level it gives this node is not seen yet",
            "test again in a minute",
        )  # fmt: skip
    return _not_approved(subject, "it links, and gives nothing (observe at most)")


# --- the rest --------------------------------------------------------------------------------
def _clock(subject: Subject, seen: Seen | None) -> Said:
    apart = seen.ahead_ms if seen is not None else None
    if apart is None:
        apart = subject.told_ahead_ms
    if apart is None:
        return Said(Result.UNSEEN, "it has not told its time")
    size = abs(apart)
    if size < WORTH_TELLING_MS:
        return _ok("less than a minute apart" if size else "the same as here")
    detail = f"its clock is {direction(apart)}"
    fix = "compare both with a third clock, and set the one that is wrong; keep NTP on"
    if size <= limits.CLOCK_AHEAD_MS:
        return Said(Result.WARNING, detail, fix)
    return _failed(detail, fix)


def _witness(subject: Subject, seen: Seen | None) -> Said:
    del seen
    if not subject.is_witness:
        return _ok("not a witness of this node's log")
    if subject.cosigned_at is None:
        if subject.link is None or _asked_ms(subject, subject.link) < _FIRST_BEATS_MS:
            return Said(Result.UNSEEN, "it has not been asked for long enough to confirm the log")
        return _failed(
            "it has never confirmed this node's log, though it is linked",
            f"call {subject.name}: its disk may be full; then see: picket log head",
        )
    age = max(0, subject.now - subject.cosigned_at)
    said = f"it confirmed {counted(subject.cosigned_size, 'entry')} of the log"
    said += f" {span(age)} ago"
    if age < _COSIGNED_LATE_MS:
        return _ok(said)
    if subject.link is None or subject.link.age_ms < _SUMMARIES_MS:
        return Said(Result.UNSEEN, f"{said}; it was not linked since long enough to do it again")
    return _failed(
        f"{said}, and not since, though it is linked",
        f"call {subject.name}: its disk may be full, or its clock wrong",
    )


def _asked_ms(subject: Subject, link: LinkState) -> int:
    """Return for how long the peer can have been asked: linked, and approved here."""
    if subject.approved_at is None:
        return link.age_ms
    return min(link.age_ms, max(0, subject.now - subject.approved_at))


def _round_trip(subject: Subject, seen: Seen | None) -> Said:
    if seen is None:
        if subject.answered_ms is None:
            return Said(Result.UNSEEN, "it has answered nothing on this link yet")
        return _ok(f"its last answer took {subject.answered_ms} ms")
    if not seen.pings_us:
        return _failed(
            "it does not answer pings",
            f"call {subject.name}: its node hangs, or the way there loses much",
        )
    middle = sorted(seen.pings_us)[len(seen.pings_us) // 2]
    return _ok(f"{middle / 1000:.1f} ms, median of {counted(len(seen.pings_us), 'ping')}")


_JUDGES: Final[Mapping[Stage, Callable[[Subject, Seen | None], Said]]] = {
    Stage.NAME: _name,
    Stage.TCP: _tcp,
    Stage.TLS: _tls,
    Stage.PROTOCOL: _protocol,
    Stage.TRUST: _trust,
    Stage.CLOCK: _clock,
    Stage.WITNESS: _witness,
    Stage.ROUND_TRIP: _round_trip,
}
