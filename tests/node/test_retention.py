"""Retention: announced before, erased after by whom the setting says, and never unannounced."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.access import OPERATOR
from node.retention import GRACE_DAYS, NOTICE_DAYS, RULE, Retention, Stage, decide
from protocol.errors import NotFoundError
from tests.factories import DAY
from tests.node.factories import (
    Station,
    World,
    copied,
    full_case_disk,
    incident,
    made_once,
    pass_on,
)

Row = dict[str, Any]
UNTIL = datetime.date(2026, 6, 30)


def day(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


# --- deciding --------------------------------------------------------------------------------
@pytest.mark.parametrize("until", ["2026-06-30", "2026-06"])
@pytest.mark.parametrize("erases", [True, False])
def test_a_month_ends_with_its_last_day_and_the_notice_comes_before(
    until: str, erases: bool
) -> None:
    long_ago = day("2026-01-01")
    last = {True: Stage.ERASE, False: Stage.OVER}[erases]
    for today, stage in (
        (UNTIL - datetime.timedelta(NOTICE_DAYS + 1), None),
        (UNTIL - datetime.timedelta(NOTICE_DAYS), Stage.SOON),
        (UNTIL, Stage.SOON),
        (UNTIL + datetime.timedelta(1), last),
    ):
        assert decide(until, today=today, noticed=long_ago, erases=erases) == stage


def test_a_year_is_kept_to_its_end() -> None:
    noticed = day("2025-12-02")
    assert decide("2026", today=day("2026-11-30"), noticed=None, erases=True) is None
    assert decide("2026", today=day("2026-12-31"), noticed=noticed, erases=True) is Stage.SOON
    assert decide("2026", today=day("2027-01-01"), noticed=noticed, erases=True) is Stage.ERASE


def test_nothing_is_erased_that_was_not_announced_long_enough() -> None:
    today = day("2026-09-01")
    for ago, stage in ((None, Stage.OVER), (GRACE_DAYS - 1, Stage.OVER), (GRACE_DAYS, Stage.ERASE)):
        noticed = None if ago is None else today - datetime.timedelta(ago)
        assert decide("2026-06-30", today=today, noticed=noticed, erases=True) is stage


# --- over a node -----------------------------------------------------------------------------
@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch", "cedar")) as opened:
        yield opened


def desk(station: Station, *, erases: bool = True) -> Retention:
    service = station.service()
    return Retention(
        station.core, clock=station.clock, erases=erases, name=service._name, drop=lambda _: None
    )


def until(station: Station, days: int) -> str:
    at = datetime.datetime.fromtimestamp(station.clock.now() // 1000, datetime.UTC)
    return (at.date() + datetime.timedelta(days)).isoformat()


def received(world: World, days: int, *, apart: bool = False, annex: bool = True) -> str:
    """Release an incident that may be kept for so many days; birch receives it."""
    alder = world["alder"]
    row = incident("Seized", annex=annex)
    row["face"]["handling"]["retain_until"] = until(alder, days)
    service = alder.service()
    ref = str(service.create_draft(row)["ref"])
    # With fewer readers of the annex it travels in an envelope of its own.
    to = ["birch", "cedar"] if apart else ["birch"]
    service.release(
        ref, to=to, annex_to=["birch"] if annex else None, carriers=[], separately=False,
        digest=None,
    )  # fmt: skip
    for name in ("birch", "cedar"):
        while pass_on(alder, world[name]).receipts:
            pass
        world[name].core.try_follow()
    return ref


def pass_days(station: Station, days: int) -> None:
    station.clock.advance(days * DAY)


def stages(retention: Retention) -> dict[str, str]:
    return {row["ref"]: row["stage"] for row in retention.due()["items"]}


def test_it_is_announced_and_then_erased_and_the_log_says_by_what(world: World) -> None:
    ref, birch = received(world, 40), world["birch"]
    retention = desk(birch)
    assert stages(retention) == {}
    pass_days(birch, 10)
    assert stages(retention) == {ref: "soon"}
    assert [code for code, _, _ in retention.notices()] == ["retention-soon"]
    assert retention.run(who=RULE) == {"erased": [], "waiting": [ref], "failed": []}
    pass_days(birch, 31)
    assert stages(retention) == {ref: "erase"}
    assert [code for code, _, _ in retention.notices()] == ["retention-over"]
    assert retention.run(who=RULE)["erased"] == [ref]
    shown = birch.service().incident(ref)
    assert (shown["state"], shown["face"], shown["annex"]) == ("erased", None, None)
    act = birch.service().handling.accesses(ref)["items"][-1]
    assert (act["what"], act["note"]) == ("erase", "retention, by retention rule")
    assert stages(retention) == {}
    assert list(retention.notices()) == []
    birch.core.verify()


def test_asking_erases_nothing_however_long_it_waits(world: World) -> None:
    ref, birch = received(world, 5), world["birch"]
    retention = desk(birch, erases=False)
    retention.due()
    pass_days(birch, 400)
    assert stages(retention) == {ref: "over"}
    assert retention.run(who=OPERATOR) == {"erased": [], "waiting": [ref], "failed": []}
    assert birch.service().incident(ref)["annex"] is not None


def test_what_comes_late_or_was_never_announced_waits(world: World) -> None:
    ref, birch = received(world, -100), world["birch"]
    retention = desk(birch)
    assert retention.run(who=RULE)["erased"] == []
    pass_days(birch, GRACE_DAYS - 1)
    assert desk(birch).run(who=RULE)["erased"] == []
    birch.close()
    birch.open()  # the announcement outlives the process
    pass_days(birch, 1)
    assert desk(birch).run(who=RULE)["erased"] == [ref]


def test_a_face_that_travelled_apart_stays_and_is_not_asked_about_again(world: World) -> None:
    ref, birch = received(world, 1, apart=True), world["birch"]
    retention = desk(birch)
    retention.due()
    pass_days(birch, 60)
    assert retention.run(who=RULE)["erased"] == [ref]
    shown = birch.service().incident(ref)
    assert shown["annex"] is None
    assert shown["face"]["summary"] == "Seized"
    assert stages(retention) == {}
    # Who got the face alone has nothing personal to erase.
    assert stages(desk(world["cedar"])) == {}


def test_what_somebody_is_still_owed_is_not_taken_back(world: World) -> None:
    alder = world["alder"]
    row = incident("Seized", annex=True)
    row["face"]["handling"]["retain_until"] = until(alder, 1)
    service = alder.service()
    ref = str(service.create_draft(row)["ref"])
    service.release(ref, to=["birch"], annex_to=None, carriers=[], separately=False, digest=None)
    retention = desk(alder)
    retention.due()
    pass_days(alder, 30)
    assert retention.run(who=RULE) == {"erased": [], "waiting": [ref], "failed": []}


def test_a_later_day_takes_the_announcement_back(world: World) -> None:
    ref, alder = received(world, 5), world["alder"]
    retention = desk(alder)
    assert stages(retention) == {ref: "soon"}
    row = incident("Seized", annex=True)
    row["face"]["handling"]["retain_until"] = until(alder, 500)
    alder.service().records.release_amend(ref, row)
    assert stages(retention) == {}
    pass_days(alder, 100)
    assert retention.run(who=RULE)["erased"] == []


def test_the_tick_passes_once_a_day_and_again_after_a_full_disk(world: World) -> None:
    ref, birch = received(world, 1), world["birch"]
    retention = desk(birch)
    with full_case_disk(birch):
        retention.tick()
    retention.tick()
    assert [code for code, _, _ in retention.notices()] == ["retention-soon"]
    pass_days(birch, GRACE_DAYS)
    retention.tick()
    assert birch.service().incident(ref)["state"] == "erased"
    with pytest.raises(NotFoundError):
        birch.service().raw(ref, 0)


def test_a_locked_node_waits(world: World) -> None:
    received(world, 1)
    birch = world["birch"]
    birch.close()
    birch.open(locked=True)
    retention = desk(birch)
    retention.tick()
    assert list(retention.notices()) == []
