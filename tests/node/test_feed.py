"""Changes with a cursor: nothing is skipped or told twice, over crashes, late keys and rebuilds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.access import OPERATOR
from protocol.errors import RequestError
from tests.node.factories import (
    CrashError,
    FaultyStore,
    Station,
    World,
    copied,
    full_case_disk,
    incident,
    made_once,
    pass_on,
)

Row = dict[str, Any]


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch")) as opened:
        yield opened


def released(world: World, *, narrative: str = "") -> str:
    row = incident("Drums")
    if narrative:
        row["annex"] = {"narrative": narrative}
    service = world["alder"].service()
    ref = str(service.create_draft(row)["ref"])
    service.release(ref, to=["birch"], annex_to=None, carriers=[], separately=False, digest=None)
    return ref


def carry(world: World) -> None:
    for giver, taker in (("alder", "birch"), ("birch", "alder")):
        while pass_on(world[giver], world[taker]).receipts:
            pass
        world[taker].core.try_follow()


class Reader:
    """A program that keeps its cursor with what it read."""

    def __init__(self) -> None:
        self.after = 0
        self.read: list[tuple[str, str]] = []

    def pull(self, station: Station, *, limit: int = 2, pages: int = 100) -> None:
        for _ in range(pages):
            page = station.service().feed.changes(after=self.after, limit=limit)
            assert page["next"] >= self.after
            self.read += [(row["what"], row["ref"]) for row in page["items"]]
            self.after = page["next"]
            if not page["more"]:
                return


def test_what_changes_comes_again_and_nothing_else_does(world: World) -> None:
    reader, birch = Reader(), world["birch"]
    refs = [released(world) for _ in range(5)]
    carry(world)
    reader.pull(birch)
    assert reader.read == [("incident.report", ref) for ref in refs]
    reader.pull(birch)
    assert len(reader.read) == 5
    alder = world["alder"].service()
    alder.records.release_amend(refs[1], incident("Weighed"))
    birch.service().records.release("ack", {"incident": refs[2], "level": "opened"})
    alder.records.release("incident.retract", {"incident": refs[3], "reason": "duplicate"})
    carry(world)
    birch.service().handling.erase(
        refs[4], reason="legal_order", by="J. Judge", also_undelivered=False, who=OPERATOR
    )
    reader.pull(birch)
    assert reader.read[5:] == [
        ("ack", refs[2]), ("incident.amend", refs[1]), ("incident.retract", refs[3]),
        ("erased", refs[4]),
    ]  # fmt: skip
    # A reader that begins now is told of no content that is gone.
    late = Reader()
    late.pull(birch, limit=500)
    assert sorted(late.read) == sorted([item for item in reader.read if item[1] != refs[4]]
                                       + [("erased", refs[4])])  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_a_crash_between_pages_or_while_the_log_is_followed_skips_and_repeats_nothing(
    world: World, limit: int
) -> None:
    reader, birch = Reader(), world["birch"]
    refs = [released(world) for _ in range(4)]
    carry(world)
    reader.pull(birch, limit=limit, pages=1)
    birch.close()
    birch.open()
    refs += [released(world) for _ in range(2)]
    reader.pull(birch, limit=limit, pages=1)
    carry(world)
    birch.close()
    (birch.home.path / "case.db").unlink()
    birch.open()  # made anew from node.db: the cursor means the same
    birch.core.try_follow()
    reader.pull(birch, limit=limit)
    assert reader.read == [("incident.report", ref) for ref in refs]
    page = birch.service().incidents(after=0, limit=500, state="received")
    assert [row["ref"] for row in page["items"]] == refs


def test_what_is_in_node_db_and_not_opened_yet_is_told_once_it_is(world: World) -> None:
    reader, birch = Reader(), world["birch"]
    first = released(world)
    carry(world)
    reader.pull(birch)
    second = released(world, narrative="It came by sea. " * 500)
    with full_case_disk(birch):
        while pass_on(world["alder"], birch).receipts:
            pass
    # It stands in the log, and case.db has not followed: the cursor must not run ahead of it.
    assert birch.core.log.size > birch.core.opened()[1].next_index
    reader.pull(birch)
    assert reader.read == [("incident.report", first)]
    birch.core.try_follow()
    reader.pull(birch)
    assert reader.read == [("incident.report", first), ("incident.report", second)]


def test_a_store_that_crashes_at_any_write_loses_nothing(world: World) -> None:
    birch, reader = world["birch"], Reader()
    refs = []
    crashed = 0
    for step in range(1, 16):
        refs.append(released(world))
        core = birch.reopen(store=FaultyStore)
        assert isinstance(core.store, FaultyStore)
        core.store.arm(step)
        try:
            pass_on(world["alder"], birch)
            core.try_follow()
            reader.pull(birch, limit=1, pages=1)
        except CrashError:
            crashed += 1
        finally:
            core.store.arm(0)
    assert crashed > 3
    birch.reopen()
    carry(world)
    reader.pull(birch)
    assert reader.read == [("incident.report", ref) for ref in refs]


def test_a_page_has_a_bound(world: World) -> None:
    for limit in (0, 501):
        with pytest.raises(RequestError):
            world["birch"].service().feed.changes(after=0, limit=limit)
