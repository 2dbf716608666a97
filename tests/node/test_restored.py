"""What a restored node must not do, and until when; with a clock by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from keys.paper import PaperCode
from keys.trust import Level
from node.home import Home
from node.restore import restore
from node.restored import MARK
from node.witnessing import START_MS
from protocol.checkpoint import parse_body
from protocol.entry import EntryKind
from protocol.errors import (
    BusyError,
    ConflictError,
    LogBehindError,
    RequestError,
    RollbackError,
    StoreError,
)
from protocol.note import parse_note
from tests.node.factories import DAY, Station, World, copied, incident_id, made_once
from tests.node.test_backup import sealed
from tests.node.wiring import Web

BEAT = 61


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def net(world: World, *names: str) -> Web:
    """Link nodes that have shared something, and let their logs be cosigned."""
    web = Web(*(world[name] for name in names))
    web.link(*names)
    first, *others = (world[name] for name in names)
    first.release(1, *others)
    web.run(2 * BEAT)
    return web


def put_back(web: Web, station: Station, tmp_path: Path, *, days: int = 0) -> Home:
    """Back a running node up, let *days* pass without it, and restore it; return the lost home."""
    codes = sealed(station, tmp_path / "file")
    for _ in range(days):
        web.clock.advance(DAY)
    web.stop(station.name)
    return replaced(station, tmp_path, codes, now=web.clock.now())


def replaced(station: Station, tmp_path: Path, codes: Sequence[PaperCode], now: int) -> Home:
    lost = Home(station.home.path.rename(tmp_path / "lost"))
    restore(tmp_path / "file", codes, station.home.path, now=now)
    return lost


def signed(station: Station) -> int:
    return station.core.log.signed_size


# --- while it waits ----------------------------------------------------------------------------
def test_it_signs_nothing_however_long_it_runs_alone(world: World, tmp_path: Path) -> None:
    web, alder = net(world, "alder", "birch", "cedar"), world["alder"]
    put_back(web, alder, tmp_path)
    web.start(alder)
    before = signed(alder)
    web.run(START_MS // 1_000 + 5)
    web.clock.advance(3 * DAY)
    web.run(BEAT)
    assert alder.core.signing_waits
    assert signed(alder) == before
    assert "birch, cedar" in alder.notices()["restored-waits"]
    with pytest.raises(BusyError, match="signs nothing"):
        alder.release(2, world["birch"])
    with pytest.raises(BusyError, match="signs nothing"):
        alder.core.heartbeat()
    web.restart("alder")  # a start does not shorten it
    web.run(START_MS // 1_000 + 5)
    assert alder.core.signing_waits


def test_a_command_on_a_restored_node_that_does_not_run_signs_nothing(
    world: World, tmp_path: Path
) -> None:
    web, alder = net(world, "alder", "birch"), world["alder"]
    put_back(web, alder, tmp_path)
    core = alder.open()
    before = signed(alder)
    core.access.record("read", (), "operator")
    assert (core.log.size, signed(alder)) == (before + 1, before)
    alder.reopen()
    assert signed(alder) == before
    with pytest.raises(BusyError):
        alder.renew_card(contact="other")


def test_it_signs_again_once_all_who_were_around_have_shown_what_they_hold(
    world: World, tmp_path: Path
) -> None:
    web, alder = net(world, "alder", "birch", "cedar"), world["alder"]
    put_back(web, alder, tmp_path)
    web.start(alder)
    before = signed(alder)
    web.link("alder", "birch")
    web.run(START_MS // 1_000 + 5)
    assert signed(alder) == before, "cedar may know more"
    row = alder.core.restored.row()
    assert row is not None
    assert (row["heard"], row["missing"]) == (["birch"], ["cedar"])
    web.link("alder", "cedar")
    web.run(2 * BEAT)
    assert signed(alder) > before
    assert EntryKind.BACKUP in alder.kinds()[before:]
    assert "restored-waits" not in alder.notices()
    for station in (alder, world["birch"], world["cedar"]):
        assert station.core.witness.forks() == {}
        assert station.core.verify()


def test_who_was_not_around_for_a_month_is_not_waited_for(world: World, tmp_path: Path) -> None:
    web, alder = net(world, "alder", "birch", "cedar"), world["alder"]
    web.stop("cedar")
    web.run(BEAT)
    web.clock.advance(31 * DAY)
    web.run(2 * BEAT)
    put_back(web, alder, tmp_path)
    web.start(alder)
    assert [peer.name for peer in alder.core.restored.wanted()] == ["birch"]
    web.link("alder", "birch")
    web.run(2 * BEAT)
    assert not alder.core.signing_waits


def test_a_node_that_knew_nobody_waits_for_its_operator(world: World, tmp_path: Path) -> None:
    alder = world["alder"]
    web = Web(alder)
    put_back(web, alder, tmp_path)
    web.start(alder)
    web.run(START_MS // 1_000 + 5)
    assert alder.core.signing_waits
    assert "no peer was linked" in alder.notices()["restored-waits"]
    with pytest.raises(RequestError, match="by is empty"):
        alder.core.restored.go_on(" ")
    alder.core.restored.go_on("duty officer")
    before = signed(alder)
    web.run(BEAT)
    assert signed(alder) > before
    alder.reopen()
    assert alder.core.verify()
    with pytest.raises(ConflictError, match="does not wait"):
        alder.core.restored.go_on("duty officer")


# --- three days later --------------------------------------------------------------------------
def test_after_three_days_it_stops_and_a_new_log_brings_all_back(
    world: World, tmp_path: Path
) -> None:
    web = net(world, "alder", "birch", "cedar")
    alder, birch, cedar = (world[name] for name in ("alder", "birch", "cedar"))
    codes = sealed(alder, tmp_path / "file")
    ids = []
    for day in range(3):
        web.clock.advance(DAY)
        web.run(BEAT)
        ids += [alder.release(10 + day, birch, cedar), birch.release(20 + day, alder, cedar)]
        web.run(2 * BEAT)
    number, far = alder.core.trust.own.head.n, signed(alder)
    places = alder.dump()["envelopes"]
    web.stop("alder")
    replaced(alder, tmp_path, codes, web.clock.now())
    web.start(alder)
    before = signed(alder)
    with pytest.raises(ConflictError, match="no peer has shown yet"):
        alder.core.reopen_log()
    with pytest.raises(LogBehindError, match="was restored from a backup of") as told:
        web.link("alder", "birch")
    assert f"up to {far}" in told.value.message
    assert "picket log reopen" in told.value.fix
    assert signed(alder) == before
    web.stop("alder")
    with pytest.raises(RollbackError, match="was restored from a backup of"):
        alder.open()
    web.start(alder, reopen=True)
    web.link("alder", "birch", "cedar")
    web.run(3 * BEAT)

    assert alder.core.log.origin.endswith("/log2")
    assert alder.core.trust.own.head.n >= number + 1
    held = {row[0]: row[2:5] for row in alder.dump()["envelopes"]}
    assert set(ids) <= set(held)
    assert {row[0] for row in places} <= set(held)
    assert len(set(held.values())) == len(held), "no place in a stream is there twice"
    assert len(alder.shows()) == 7
    with pytest.raises(ConflictError, match="releases nothing"):
        alder.release(30, birch)
    with pytest.raises(ConflictError, match="would be released twice"):
        alder.core.restored.levels_checked("me", fetching=2)
    alder.core.restored.levels_checked("me", fetching=0)
    fresh = alder.envelope(alder.release(30, birch, cedar)).header
    assert fresh.incarnation > max(row[2] for row in places if row[1] == alder.id)
    web.run(2 * BEAT)
    found = alder.core.cosigning.cosigned()
    assert found is not None
    assert parse_body(parse_note(found[1]).text).origin == alder.core.log.origin
    for station in (alder, birch, cedar):
        assert station.core.witness.forks() == {}
        assert station.core.verify()
        assert not {"equivocation", "log-fork", "identity-misused"} & set(station.notices())
    assert incident_id(30) in birch.shows()


def test_a_second_restore_of_the_same_backup_is_told_of_the_first(
    world: World, tmp_path: Path
) -> None:
    web = net(world, "alder", "birch", "cedar")
    alder = world["alder"]
    codes = sealed(alder, tmp_path / "file")
    web.run(2 * BEAT)
    web.stop("alder")
    replaced(alder, tmp_path, codes, web.clock.now())
    web.start(alder)
    with pytest.raises(LogBehindError):
        web.link("alder", "birch")
    web.stop("alder")
    web.start(alder, reopen=True)
    web.link("alder", "birch", "cedar")
    web.run(2 * BEAT)
    web.stop("alder")
    shutil.rmtree(alder.home.path)
    restore(tmp_path / "file", codes, alder.home.path, now=web.clock.now())
    web.start(alder)
    with pytest.raises(LogBehindError, match="was restored"):
        web.link("alder", "birch")
    web.stop("alder")
    web.start(alder, reopen=True)
    assert alder.core.log.origin.endswith("/log3")
    web.link("alder", "birch", "cedar")
    web.run(2 * BEAT)
    for station in (alder, world["birch"], world["cedar"]):
        assert station.core.witness.forks() == {}
        assert station.core.verify()


# --- what comes back with it -------------------------------------------------------------------
def test_all_tokens_of_the_backup_end_once(world: World, tmp_path: Path) -> None:
    web, alder = net(world, "alder", "birch"), world["alder"]
    service = alder.service()
    token = service.create_token(name="old", scopes=["node:read"], days=9)["token"]
    put_back(web, alder, tmp_path)
    alder.open(locked=True)
    alder.reopen()
    assert alder.service().tokens()["items"] == []
    assert alder.service().token_scopes(token) is None
    made = alder.service().create_token(name="new", scopes=["node:read"], days=9)["token"]
    alder.reopen()
    assert alder.service().token_scopes(made) == frozenset({"node:read"})


def test_who_was_trusted_less_since_gets_nothing_before_the_levels_were_gone_through(
    world: World, tmp_path: Path
) -> None:
    web = net(world, "alder", "birch", "cedar")
    alder, birch = world["alder"], world["birch"]
    codes = sealed(alder, tmp_path / "file")
    alder.core.lower_peer(birch.id, Level.OBSERVE, by="me")
    web.stop("alder")
    replaced(alder, tmp_path, codes, web.clock.now())
    alder.open()
    alder.core.restored.go_on("me")
    assert alder.core.trust.peer(birch.id).level is Level.SHARE
    row = alder.core.restored.row()
    assert row is not None
    assert {"name": "birch", "level": "share", "verified_by": "test"} in row["levels"]
    with pytest.raises(ConflictError, match="trusted less since"):
        alder.release(2, birch)


def test_a_damaged_mark_stops_it(world: World, tmp_path: Path) -> None:
    web, alder = net(world, "alder", "birch"), world["alder"]
    put_back(web, alder, tmp_path)
    alder.open()
    alder.core.store.set_meta(MARK, b"\x00")
    alder.close()
    with pytest.raises(StoreError, match="says that it was restored"):
        alder.open()
    assert alder.home.node_db.exists()
