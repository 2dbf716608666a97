"""What a test of a peer says: every way to fail has one cause and one fix, and ends the test."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from keys.trust import Level
from node.api import dispatch
from node.calls import Request
from node.config import load_config
from node.metrics import PEER_CLOCK_SKEW
from node.peer_clocks import PeerClocks, ahead, direction
from node.peer_seen import AtDoor, Greeting, Name, Seen, Tcp, Tls, Upgrade
from node.peer_test import Line, LinkState, Result, Stage, Subject, conclude, passed
from node.peer_test_desk import link_state
from node.service import Network, Service
from protocol import limits
from tests.node.factories import (
    DAY,
    MINUTE,
    NOW,
    ManualClock,
    Station,
    copied,
    made_once,
)
from tests.node.test_cli import NOT_FOUND, REFUSED, USAGE, Made, fine, made, picket, told
from tests.node.wiring import Web

__all__ = ["made"]  # a fixture

HOUR = 60 * MINUTE
THEIRS, OTHER = b"certificate of birch", b"another certificate"
LINKED = LinkState(age_ms=10 * MINUTE, given_ms=1_000)
SUBJECT = Subject(
    name="birch", own_id="IGSFDJQ", level=Level.SHARE, certificates=(THEIRS,), now=NOW,
    running=True, link=LINKED, is_witness=True, cosigned_at=NOW - 30_000, cosigned_size=12,
    card_until=NOW + DAY,
)  # fmt: skip
WHOLE = Seen(
    host="birch.example", port=8462, name=Name.FOUND, ip="192.0.2.7", tcp=Tcp.OPEN, tls=Tls.UP,
    certificate=THEIRS, upgrade=Upgrade.OPEN, greeting=Greeting.PROVEN, ahead_ms=0,
    pings_us=(2_000, 1_500, 9_000),
)  # fmt: skip
REFUSED_US = replace(WHOLE, upgrade=Upgrade.NOT_KNOWN, door=AtDoor.OURS, greeting=None, pings_us=())
Changes = dict[str, Any]


def said(seen: Seen | None = WHOLE, **changes: Any) -> dict[Stage, Line]:  # noqa: ANN401
    lines = conclude(replace(SUBJECT, **changes), seen)
    assert tuple(line.stage for line in lines) == tuple(Stage)
    results = [line.result for line in lines]
    if Result.FAILED in results:
        at = results.index(Result.FAILED)
        assert set(results[at + 1 :]) <= {Result.NOT_TRIED}
        assert not passed(lines)
    else:
        assert Result.NOT_TRIED not in results
        assert passed(lines)
    for line in lines:
        assert "\n" not in line.detail + line.fix
        assert bool(line.detail) is (line.result is not Result.NOT_TRIED)
        if line.result in {Result.FAILED, Result.WARNING}:
            assert line.fix, line
        if line.result in {Result.OK, Result.NOT_TRIED}:
            assert not line.fix, line
    return {line.stage: line for line in lines}


def test_a_peer_in_order_passes_all_stages() -> None:
    lines = said()
    assert {line.result for line in lines.values()} == {Result.OK}
    assert lines[Stage.NAME].detail == "birch.example is 192.0.2.7"
    assert lines[Stage.ROUND_TRIP].detail == "2.0 ms, median of 3 pings"
    assert lines[Stage.WITNESS].detail == "it confirmed 12 entries of the log 30 seconds ago"


def seen(**changes: Any) -> Seen:  # noqa: ANN401
    return replace(WHOLE, **changes)


@pytest.mark.parametrize(
    ("stage", "what", "cause"),
    [
        (Stage.NAME, seen(name=Name.UNKNOWN), "no host birch.example"),
        (Stage.NAME, seen(name=Name.SILENT), "gave no answer"),
        (Stage.TCP, seen(tcp=Tcp.CLOSED), "nothing answers"),
        (Stage.TCP, seen(tcp=Tcp.SILENT), "does not answer"),
        (Stage.TCP, seen(tcp=Tcp.NO_ROUTE), "no way to"),
        (Stage.TLS, seen(tls=Tls.NOT_TLS), "another program"),
        (Stage.TLS, seen(tls=Tls.ENDED), "ends each connection"),
        (Stage.TLS, seen(tls=Tls.SILENT), "says nothing"),
        (Stage.TLS, seen(certificate=OTHER), "not the one on its card"),
        (Stage.PROTOCOL, seen(upgrade=Upgrade.FULL), "no room"),
        (Stage.PROTOCOL, seen(upgrade=Upgrade.NO_WEBSOCKET, status=404), "HTTP status 404"),
        (Stage.PROTOCOL, seen(upgrade=Upgrade.SILENT), "says nothing"),
        (Stage.PROTOCOL, seen(greeting=Greeting.OTHER_NETWORK), "another Picket network"),
        (Stage.PROTOCOL, seen(greeting=Greeting.OTHER_VERSION), "no version"),
        (Stage.PROTOCOL, seen(greeting=Greeting.OTHER_NODE), "another node"),
        (Stage.PROTOCOL, seen(greeting=Greeting.UNPROVEN), "does not prove"),
        (Stage.PROTOCOL, seen(greeting=Greeting.CLOSED, code="shutdown"), "(shutdown)"),
        (Stage.PROTOCOL, seen(greeting=Greeting.GARBAGE), "no hello"),
        (Stage.PROTOCOL, seen(greeting=Greeting.SILENT), "says nothing"),
        (Stage.TRUST, REFUSED_US, "does not know this node yet"),
        (Stage.CLOCK, seen(ahead_ms=-3 * DAY), "3 days behind"),
        (Stage.ROUND_TRIP, seen(pings_us=()), "pings"),
    ],
)
def test_each_fault_that_can_be_seen_fails_its_stage(stage: Stage, what: Seen, cause: str) -> None:
    line = said(what)[stage]
    assert line.result is Result.FAILED
    assert cause in line.detail


def test_every_value_of_what_can_be_seen_is_judged() -> None:
    for kind, name in ((Name, "name"), (Tcp, "tcp"), (Tls, "tls"), (Upgrade, "upgrade"),
                       (Greeting, "greeting"), (AtDoor, "door")):  # fmt: skip
        for value in [*kind, *([] if kind is Name else [None])]:
            said(seen(**{name: value}))
            said(replace(REFUSED_US, **{name: value}))


@pytest.mark.parametrize(
    ("level", "cause", "fix"),
    [
        (Level.PINNED, "has not approved birch yet", "picket peers approve birch"),
        (Level.HELD, "held", "picket peers confirm birch"),
        (Level.FROZEN, "frozen", "call it"),
        (Level.REVOKED, "revoked", "new node"),
    ],
)
def test_our_own_level_of_it_comes_first(level: Level, cause: str, fix: str) -> None:
    for what in (WHOLE, REFUSED_US):
        line = said(what, level=level)[Stage.TRUST]
        assert cause in line.detail
        assert fix in line.fix


@pytest.mark.parametrize(
    ("known", "result", "detail"),
    [
        ({}, Result.OK, "share here; there relay or share (which cannot be seen)"),
        ({"received": 3}, Result.OK, "has released to it"),
        ({"level": Level.OBSERVE}, Result.OK, "observe here"),
        ({"suspended": True}, Result.WARNING, "suspended by the directory"),
        ({"refused": 2}, Result.FAILED, "not approved this node yet: 2 deliveries wait for it"),
        ({"link": LinkState(age_ms=HOUR, given_ms=None)}, Result.FAILED, "observe at most"),
        ({"link": LinkState(age_ms=HOUR, given_ms=HOUR // 2)}, Result.FAILED, "observe at most"),
        ({"link": LinkState(age_ms=900, given_ms=None)}, Result.UNSEEN, "not seen yet"),
        ({"link": None}, Result.WARNING, "no link is open now"),
        ({"link": None, "dials": False}, Result.WARNING, "does not dial"),
        ({"link": None, "running": False}, Result.UNSEEN, "not running"),
    ],
)
def test_trust_is_told_as_far_as_it_can_be_seen(
    known: Changes, result: Result, detail: str
) -> None:
    line = said(**known)[Stage.TRUST]
    assert (line.result, detail in line.detail) == (result, True), line


def test_who_has_not_approved_us_is_called_on_a_number_that_was_compared_or_is_known() -> None:
    asked = {"asked_at": NOW, "link": None}
    assert "on a number that you know" in said(REFUSED_US, **asked)[Stage.TRUST].fix
    line = said(REFUSED_US, **asked, contact="+31 70 555 0100")[Stage.TRUST]
    assert line.detail == "birch has not approved this node yet"
    assert line.fix.endswith("(+31 70 555 0100) and ask it to run: picket peers pending")
    line = said(refused=1)[Stage.TRUST]
    assert line.fix.endswith("ask it to run: picket peers approve IGSFDJQ")


def test_a_peer_that_takes_no_request_as_clocks_are_apart_is_told_so() -> None:
    late = replace(REFUSED_US, ahead_ms=DAY)
    line = said(late, link=None)[Stage.TRUST]
    assert "its clock is 1 day ahead of this one" in line.detail
    assert "clock" not in said(replace(late, ahead_ms=MINUTE), link=None)[Stage.TRUST].detail


def test_a_peer_that_knew_us_once_is_told_apart_from_one_that_never_did() -> None:
    assert "any more" in said(REFUSED_US, link=None, last_contact=NOW - DAY)[Stage.TRUST].detail


@pytest.mark.parametrize(
    ("known", "cause"),
    [
        ({"own_endpoints": False}, "neither card has an address"),
        ({"running": False}, "not running"),
        ({}, "never has"),
        ({"last_contact": NOW - DAY}, "is not linked"),
    ],
)
def test_a_peer_without_an_address_is_tested_by_its_link(known: Changes, cause: str) -> None:
    assert cause in said(None, link=None, **known)[Stage.NAME].detail
    lines = said(None, told_ahead_ms=0, answered_ms=35, **known)
    assert {line.result for line in lines.values()} == {Result.OK}
    assert lines[Stage.ROUND_TRIP].detail == "its last answer took 35 ms"
    lines = said(None, **known)
    assert lines[Stage.CLOCK].result is lines[Stage.ROUND_TRIP].result is Result.UNSEEN


@pytest.mark.parametrize(
    ("apart", "result"),
    [
        (0, Result.OK), (59_999, Result.OK), (-59_999, Result.OK), (60_000, Result.WARNING),
        (-limits.CLOCK_AHEAD_MS, Result.WARNING), (limits.CLOCK_AHEAD_MS + 1, Result.FAILED),
    ],
)  # fmt: skip
def test_clocks_are_judged_by_how_far_they_are_apart(apart: int, result: Result) -> None:
    assert said(seen(ahead_ms=apart))[Stage.CLOCK].result is result


@pytest.mark.parametrize(
    ("known", "result", "detail"),
    [
        ({"is_witness": False, "cosigned_at": None}, Result.OK, "not a witness"),
        ({"cosigned_at": NOW - HOUR}, Result.FAILED, "1 hour ago, and not since"),
        ({"cosigned_at": None}, Result.FAILED, "never confirmed"),
        ({"cosigned_at": NOW - HOUR, "link": LinkState(age_ms=900, given_ms=1)}, Result.UNSEEN,
         "1 hour ago"),
        ({"cosigned_at": None, "link": LinkState(age_ms=900, given_ms=1)}, Result.UNSEEN, "asked"),
        ({"cosigned_at": None, "approved_at": NOW - 170_000}, Result.UNSEEN, "asked"),
        ({"cosigned_at": None, "approved_at": NOW - 190_000}, Result.FAILED, "never confirmed"),
        ({"cosigned_at": None, "link": LinkState(age_ms=170_000, given_ms=1)}, Result.UNSEEN,
         "asked"),
    ],
)  # fmt: skip
def test_a_silent_witness_is_told(known: Changes, result: Result, detail: str) -> None:
    line = said(**known)[Stage.WITNESS]
    assert (line.result, detail in line.detail) == (result, True), line


# --- clocks ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("said_s", "asked", "answered", "apart"),
    [
        (100, 100_000, 100_900, 0),
        (100, 99_000, 140_000, 0),  # a slow link is no wrong clock
        (101, 99_000, 100_500, 500),
        (99, 100_200, 100_500, -200),
        (86_500, 100_000, 100_000, 86_400_000),
    ],
)
def test_a_clock_is_apart_only_by_what_the_time_on_the_way_cannot_explain(
    said_s: int, asked: int, answered: int, apart: int
) -> None:
    assert ahead(said_s, asked_ms=asked, answered_ms=answered) == apart


def test_apart_is_told_in_the_largest_unit() -> None:
    assert direction(-2 * DAY - 5) == "2 days behind this one"
    assert direction(HOUR) == "1 hour ahead of this one"
    assert direction(90_000) == "1 minute ahead of this one"
    assert direction(-1_500) == "1 second behind this one"
    assert direction(DAY - 2_000) == "1 day ahead of this one"


def read(clocks: PeerClocks, name: str, apart_s: int) -> None:
    clocks.read(name.encode(), NOW // 1000 + apart_s, asked_ms=NOW, answered_ms=NOW)


def test_a_clock_a_minute_off_is_a_notice_and_all_of_them_off_is_our_own() -> None:
    clocks = PeerClocks()
    read(clocks, "birch", 59)
    assert not list(clocks.notices(bytes.decode))
    read(clocks, "birch", -7_300)
    assert clocks.seconds(bytes.decode) == {"birch": -7_299}
    ((code, message, fix),) = clocks.notices(bytes.decode)
    assert (code, message) == ("clock-apart", "the clock of birch is 2 hours behind this one")
    assert "third clock" in fix
    read(clocks, "cedar", -7_200)
    ((_, message, fix),) = clocks.notices(bytes.decode)
    assert "all 2 peers" in message
    assert "this machine's own clock" in fix
    read(clocks, "dogwood", 0)
    assert len(list(clocks.notices(bytes.decode))) == 2


class Ahead(ManualClock):
    """A clock that is apart from another."""

    def __init__(self, clock: ManualClock, by_ms: int) -> None:
        self._clock, self._by = clock, by_ms

    @override
    def now(self) -> int:
        return self._clock.now() + self._by


@pytest.fixture
def web(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Web]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch")) as world:
        yield Web(world["alder"], world["birch"])


def told_of_birch(web: Web) -> tuple[LinkState | None, int | None]:
    """Return what alder knows of its link with birch, and of birch's clock."""
    gossip, birch = web["alder"].gossip, web["birch"].station.id
    reading = gossip.witnessing.clocks.of(birch)
    return link_state(gossip, web.clock, birch), None if reading is None else reading.ahead_ms


@pytest.mark.parametrize("apart", [0, 90_000, DAY, -DAY])
def test_a_witness_tells_its_clock_with_each_cosignature(web: Web, apart: int) -> None:
    web["birch"].core.witness._clock = Ahead(web.clock, apart)
    assert told_of_birch(web) == (None, None)
    web.link("alder", "birch")
    web.run(125)
    state, told = told_of_birch(web)
    assert told is not None
    assert 0 <= abs(apart) - abs(told) <= 1_000, "what is told is whole seconds"
    assert state is not None
    assert state.given_ms is not None and state.given_ms <= 60_000
    assert passed(conclude(replace(SUBJECT, link=state), WHOLE))


def test_a_peer_that_gives_nothing_says_nothing_of_streams(web: Web) -> None:
    birch = web["birch"].core
    alder = web["alder"].station.id
    birch.trust = birch.trust.lower(alder, Level.OBSERVE)
    web.link("alder", "birch")
    web.run(125)
    state, told = told_of_birch(web)
    assert state == LinkState(age_ms=125_000, given_ms=None)
    assert told is None or told == 0


# --- the local endpoint ----------------------------------------------------------------------
@pytest.fixture
def alder(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Station]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch")) as world:
        yield world["alder"]


def service_of(station: Station, **network: Any) -> Service:  # noqa: ANN401
    core = station.core
    return Service(
        core, config=load_config(core.home), clock=station.clock, random=bytes,
        network=Network(**network),
    )  # fmt: skip


def asked(service: Service, name: str) -> tuple[int, Any]:
    path = f"/api/v1/peers/{name}/test"
    response = dispatch(service, Request("POST", path, operator=True))
    return response.status, json.loads(response.body)


def test_the_route_answers_with_every_stage(alder: Station) -> None:
    status, row = asked(service_of(alder), "birch")
    assert status == 200
    assert (row["peer"], row["ok"], row["running"]) == ("birch", False, False)
    assert [check["stage"] for check in row["checks"]] == [str(stage) for stage in Stage]
    assert asked(service_of(alder), "nobody")[0] == 404


def test_only_so_many_tests_run_at_a_time(alder: Station) -> None:
    service = service_of(alder)
    room = service.peer_tests._room
    for _ in range(limits.MAX_PEER_TESTS):
        assert room.acquire(blocking=False)
    status, problem = asked(service, "birch")
    assert (status, problem["code"]) == (503, "busy")
    room.release()
    assert asked(service, "birch")[0] == 200
    assert isinstance(room, threading.BoundedSemaphore)


def test_clocks_of_peers_are_metrics_and_notices(alder: Station) -> None:
    clocks, birch = PeerClocks(), alder.core.trust.find("birch").node_id
    clocks.read(birch, NOW // 1000 + 90, asked_ms=NOW, answered_ms=NOW)
    service = service_of(alder, clocks=clocks)
    service.metrics_text()
    assert service.network.metrics.value(PEER_CLOCK_SKEW, "birch") == 90
    assert "clock-apart" in {notice["code"] for notice in service.status()["notices"]}


# --- the command -----------------------------------------------------------------------------
def test_the_command_tests_without_a_running_node_and_changes_nothing(
    made: Made, tmp_path: Path
) -> None:
    home = shutil.copytree(made.folder / "alder", tmp_path / "n")
    done = picket(home, "peers", "test", "birch")
    assert done.returncode == REFUSED
    assert "NOT RUNNING" in done.stderr
    first = done.stdout.splitlines()[0]
    assert first.startswith("name")
    assert first.endswith("FAILED")
    assert [line.split("  ")[0] for line in done.stdout.splitlines()][2:] == [
        str(stage) for stage in list(Stage)[1:]
    ]
    row = json.loads(picket(home, "peers", "test", "birch", "--json").stdout)
    assert row["checks"][0]["result"] == "failed"
    done = picket(home, "peers", "test", "--all")
    assert done.returncode == REFUSED
    assert done.stdout.splitlines()[1].split()[:2] == ["birch", "FAILED"]
    assert json.loads(picket(home, "peers", "test", "--all", "--json").stdout)["items"] == [row]


def test_the_command_refuses_what_it_cannot_test(made: Made) -> None:
    home = made.folder / "cedar"
    told(picket(home, "peers", "test"), USAGE)
    told(picket(home, "peers", "test", "birch", "--all"), USAGE)
    told(picket(home, "peers", "test", "birch"), NOT_FOUND)
    assert "No peers yet" in fine(picket(home, "peers", "test", "--all"))
