"""Suspensions: officers sign them, nodes that follow the directory pass them on, and they end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from keys.trust import Level
from node import suspending
from protocol import suite
from protocol.errors import (
    ConflictError,
    KeystoreError,
    PeerError,
    RequestError,
    UntrustedKeyError,
    WrongPassphraseError,
)
from protocol.key_frames import Suspended
from protocol.suspension import Directory, parse_suspension
from tests.factories import hybrid
from tests.node.factories import DAY, MINUTE, Station, World, copied, made_once
from tests.node.test_cli import fine, picket, told
from tests.node.wiring import Web

OFFICERS = tuple(hybrid(f"directory {number}", "key") for number in range(5))
DIRECTORY = Directory(tuple(signer.public for signer in OFFICERS), 3)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        for station in opened:
            station.core.statements.directory = DIRECTORY
        yield opened


def suspended(
    world: World, whom: Station, *officers: int, issued: int | None = None, days: int = 14
) -> bytes:
    """Return a suspension that these officers signed, one after the other."""
    begun = world.clock.now() if issued is None else issued
    first, *others = officers
    wire = suspending.begin(
        OFFICERS[first], network=whom.core.trust.own.network, node_id=whom.id, issued=begun,
        until=begun + days * DAY, reason="keys stolen",
    )  # fmt: skip
    for number in others:
        wire = suspending.add_signature(wire, OFFICERS[number])
    return wire


def until(station: Station, whom: Station) -> int | None:
    return station.core.trust.suspended.get(whom.id)


# --- officers --------------------------------------------------------------------------------
def test_signatures_are_put_together_in_any_order_and_each_counts_once(world: World) -> None:
    begun = suspended(world, world["birch"], 0)
    one = suspending.add_signature(begun, OFFICERS[1])
    two = suspending.add_signature(begun, OFFICERS[2])
    whole = {
        tuple(key for key, _, _ in parse_suspension(suspending.combine(order)).signatures)
        for order in itertools.permutations([begun, one, two, two])
    }
    assert len(whole) == 1 and len(whole.pop()) == 3
    with pytest.raises(ConflictError, match="signed it already"):
        suspending.add_signature(one, OFFICERS[0])
    with pytest.raises(RequestError, match="not suspend the same node"):
        suspending.combine([begun, suspended(world, world["cedar"], 1)])


def test_what_cannot_be_a_suspension_is_not_signed(world: World) -> None:
    for days, reason in ((15, "why"), (0, "why"), (14, ""), (14, "a\nb")):
        with pytest.raises(RequestError):
            suspending.begin(
                OFFICERS[0], network=bytes(32), node_id=bytes(32), issued=1, until=1 + days * DAY,
                reason=reason,
            )  # fmt: skip


def test_an_officers_key_lies_under_a_passphrase(tmp_path: Path, world: World) -> None:
    path = tmp_path / "officer.key"
    public = suspending.make_key(path, b"correct horse battery")
    assert suspending.load_key(path, b"correct horse battery").public == public
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(WrongPassphraseError):
        suspending.load_key(path, b"another horse battery")
    with pytest.raises(ConflictError, match="exists already"):
        suspending.make_key(path, b"correct horse battery")
    with pytest.raises(KeystoreError, match="no officer's key"):
        suspending.load_key(world["alder"].home.keystore, b"correct horse battery")


# --- what counts -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("officers", "why"), [((0,), "1 of"), ((0, 1), "2 of"), ((0, 1, 2), ""), ((4, 2, 0), "")]
)
def test_three_of_five_have_to_sign(world: World, officers: tuple[int, ...], why: str) -> None:
    alder, birch = world["alder"], world["birch"]
    wire = suspended(world, birch, *officers)
    network = alder.core.trust.own.network
    found = suspending.missing(wire, DIRECTORY, network=network, now=world.clock.now())
    assert (why in found) if why else not found
    if why:
        with pytest.raises(UntrustedKeyError):
            alder.core.statements.suspend(wire)
        assert suspending.take(alder.core, wire) is None
    else:
        assert suspending.take(alder.core, wire) is not None
    assert (until(alder, birch) is None) is bool(why)


def test_of_another_network_it_says_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    now = world.clock.now()
    wire = suspending.begin(
        OFFICERS[0], network=suite.network_id("elsewhere"), node_id=birch.id, issued=now,
        until=now + DAY, reason="why",
    )  # fmt: skip
    for number in (1, 2):
        wire = suspending.add_signature(wire, OFFICERS[number])
    assert "another Picket network" in suspending.missing(
        wire, DIRECTORY, network=alder.core.trust.own.network, now=now
    )
    assert suspending.take(alder.core, wire) is None and until(alder, birch) is None


def test_it_ends_by_itself_and_can_be_renewed_in_any_order(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    now = world.clock.now()
    first = suspended(world, birch, 0, 1, 2)
    renewed = suspended(world, birch, 2, 3, 4, issued=now + 10 * DAY)
    shorter = suspended(world, birch, 1, 2, 3, issued=now + 11 * DAY, days=1)
    world.clock.advance(11 * DAY)
    for order in itertools.permutations([first, renewed, shorter, first]):
        with alder.core.store.transaction():
            alder.core.store.run("DELETE FROM suspensions")
        alder.core.trust = alder.core.statements.load_suspensions()
        for wire in order:
            suspending.take(alder.core, wire)
        assert until(alder, birch) == now + 12 * DAY, "the one issued last counts"
    world.clock.advance(DAY)
    alder.core.statements.lapse()
    assert until(alder, birch) is None
    assert suspending.take(alder.core, first) is None, "the last word was that it ends now"
    assert until(alder, birch) is None
    assert alder.core.trust.peer(birch.id).level is Level.SHARE


# --- spreading -------------------------------------------------------------------------------
def test_who_follows_the_directory_passes_it_on_and_nobody_else(world: World) -> None:
    alder, birch, cedar, dogwood = world
    web = Web(*world)
    for one, other in (("alder", "cedar"), ("cedar", "dogwood")):
        web.link(one, other)
    wire = suspended(world, birch, 0, 1, 2)
    cedar.core.statements.directory = None
    alder.core.statements.suspend(wire)
    web.run(2)
    assert len(web.frames(Suspended, "alder", "cedar")) == 1
    assert until(cedar, birch) is None, "it follows no directory"
    assert not web.frames(Suspended, "cedar")
    cedar.core.statements.directory = DIRECTORY
    web.cut("alder", "cedar")
    web.link("alder", "cedar")
    web.run(2)
    assert until(cedar, birch) == until(alder, birch)
    web.run(2)
    assert until(dogwood, birch) == until(alder, birch), "over two links"
    web.run(60)
    assert len(web.frames(Suspended)) == 3, "once a link, and never back"
    assert "suspended" in dogwood.notices()
    for station in world:
        station.core.verify()


def test_the_suspended_node_is_not_told_by_those_who_suspend_it(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    web = Web(alder, birch)
    web.link("alder", "birch")
    alder.core.statements.suspend(suspended(world, birch, 0, 1, 2))
    web.run(2)
    assert not web.frames(Suspended) and web.linked("alder", "birch")


def test_another_directory_decides_for_itself(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    others = tuple(hybrid(f"other {number}", "key").public for number in range(3))
    cedar.core.statements.directory = Directory(others, 1)
    web = Web(alder, cedar)
    web.link("alder", "cedar")
    alder.core.statements.suspend(suspended(world, birch, 0, 1, 2))
    web.run(2)
    assert web.frames(Suspended, "alder", "cedar")
    assert until(cedar, birch) is None and web.linked("alder", "cedar"), "nobody is to blame"


def test_a_malformed_one_is_counted_against_who_sends_it(world: World) -> None:
    alder, cedar = world["alder"], world["cedar"]
    with pytest.raises(PeerError):
        suspending.take(alder.core, b"\x92")
    web = Web(alder, cedar)
    web.link("alder", "cedar")
    web.say("cedar", "alder", *[Suspended(b"\x92")] * 20)
    assert not web.linked("alder", "cedar")


def test_nothing_that_it_says_can_add_trust(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.core.lower_peer(birch.id, Level.OBSERVE, by="A. Officer")
    before = alder.core.trust.peers
    suspending.take(alder.core, suspended(world, birch, 0, 1, 2, 3, 4))
    assert alder.core.trust.peers == before
    stranger = suspending.begin(
        OFFICERS[0], network=alder.core.trust.own.network, node_id=bytes(32),
        issued=world.clock.now(), until=world.clock.now() + MINUTE, reason="why",
    )  # fmt: skip
    assert suspending.take(alder.core, stranger) is None


# --- at the command line ----------------------------------------------------------------------
def test_officers_suspend_a_node_with_the_command_line_alone(tmp_path: Path, world: World) -> None:
    lines = []
    for number in range(3):
        secret = tmp_path / f"secret{number}"
        secret.touch(mode=0o600)
        secret.write_text(f"the passphrase of officer {number}")
        done = picket(tmp_path, "directory", "new-key", "--name", f"officer{number}", "--out",
                      str(tmp_path / f"key{number}"), "--passphrase-file", str(secret))  # fmt: skip
        lines.append(fine(done).splitlines()[0])
    (tmp_path / "directory").write_text("\n".join(["quorum 2", *lines, ""]))

    def sign(number: int, out: str, *more: str) -> str:
        return fine(
            picket(tmp_path, "directory", "sign", "--key", str(tmp_path / f"key{number}"),
                   "--passphrase-file", str(tmp_path / f"secret{number}"), "--out",
                   str(tmp_path / out), *more)
        )  # fmt: skip

    def check(file: str) -> list[str]:
        return ["directory", "check", str(tmp_path / file), "--directory",
                str(tmp_path / "directory"), "--network", "test.example"]  # fmt: skip

    node = world["alder"].service().keys.status()["node_id"]
    sign(0, "one", "--node", node, "--network", "test.example", "--reason", "keys stolen")
    assert "2 must" in told(picket(tmp_path, *check("one")), 4)
    sign(1, "two", "--add", str(tmp_path / "one"))
    sign(2, "three", "--add", str(tmp_path / "one"))
    fine(picket(tmp_path, "directory", "combine", str(tmp_path / "two"), str(tmp_path / "three"),
                "--out", str(tmp_path / "all")))  # fmt: skip
    assert "Signed by 3" in fine(picket(tmp_path, *check("all")))
