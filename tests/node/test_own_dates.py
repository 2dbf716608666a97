"""A clock that was wrong: nothing is renewed by it unasked, and no key is lost to what was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keys.keystore import load
from keys.trust import Level
from node import message_rotation, own_dates, ownkeys, tls_rotation
from node.app import keep_up
from node.config import load_config
from protocol.errors import ConflictError
from tests.node.factories import DAY, MINUTE, PASSPHRASE, Station, World, copied, made_once
from tests.node.test_cli import ROOT
from tests.node.test_keys_cli import born, home, status
from tests.node.test_statements import CHEAP, FOLLOWING, consistent, give, offline, rotate

__all__ = ["born", "home"]
AHEAD = pytest.mark.parametrize("days", [400, 3_653])


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def misdated(world: World, days: int) -> Station:
    """Let alder make a card by a clock that is *days* ahead, and set the clock right again."""
    alder = world["alder"]
    world.clock.advance(days * DAY)
    ownkeys.rotate_sealing(alder.core)
    world.clock.advance(MINUTE - days * DAY)
    assert alder.core.trust.own.head.issued > alder.clock.now()
    return alder


def renew_all_but_identity(alder: Station) -> None:
    ownkeys.rotate_sealing(alder.core)
    message_rotation.rotate(alder.core)
    tls_rotation.announce(alder.core)
    tls_rotation.use(alder.core)


@AHEAD
def test_keys_are_renewed_under_a_card_of_the_future_and_peers_take_them(
    days: int, world: World
) -> None:
    alder, birch = misdated(world, days), world["birch"]
    renew_all_but_identity(alder)
    rotate(alder, offline(alder).recovery)
    give(birch, *alder.core.trust.own.statements)
    assert birch.core.trust.peer(alder.id).level is Level.SHARE
    assert birch.core.trust.peer(alder.id).chain == alder.core.trust.own
    sent = birch.release(1, alder)
    alder.core.take([birch.envelope(sent).wire], giver=birch.id)
    alder.core.try_follow()
    assert len(alder.shows()) == 1, "a peer whose clock is right can seal to it"
    alder.close()
    alder.secrets = load(alder.home.keystore, PASSPHRASE)
    alder.open()
    alder.core.verify()


@AHEAD
@pytest.mark.parametrize("cut", [False, True])
def test_a_recovery_after_a_clock_error_gives_an_identity_that_works(
    cut: bool, days: int, world: World
) -> None:
    alder, birch = misdated(world, days), world["birch"]
    last = alder.core.trust.own.head.n - 1 if cut else None
    ownkeys.recover(
        alder.core, code=offline(alder).recovery, following=FOLLOWING, sheet="sheet\n",
        passphrase=b"another passphrase", old=alder.secrets, after=last, params=CHEAP,
    )  # fmt: skip
    alder.close()
    alder.secrets = load(alder.home.keystore, b"another passphrase")
    alder.open()
    consistent(alder)
    renew_all_but_identity(alder)
    give(birch, *alder.core.trust.own.statements)
    assert birch.core.trust.peer(alder.id).level is Level.HELD
    ahead = "clock-was-ahead" in alder.notices()
    assert ahead is not cut, "the date goes with the card that is cut off"


def test_status_says_that_the_clock_was_wrong_and_what_works(world: World) -> None:
    assert "clock-was-ahead" not in world["alder"].notices()
    alder = misdated(world, 400)
    rows = {code: (message, fix) for code, message, fix in own_dates.ahead_notice(alder.core)}
    message, fix = rows["clock-was-ahead"]
    assert "was this machine's clock wrong?" in message and "keys rotate-seal" in fix
    right = alder.core.trust.own.head.n - 1
    assert ownkeys.sealing_due(alder.core), "nobody seals to a key of the future"
    ownkeys.rotate_sealing(alder.core)
    assert not ownkeys.sealing_due(alder.core)
    ((_, _, fix),) = own_dates.ahead_notice(alder.core)
    assert f"keys recover --after {right} " in fix
    rotate(alder, offline(alder).recovery)
    ((_, _, fix),) = own_dates.ahead_notice(alder.core)
    assert fix == "nothing has to be done", "the new paper fits no number before the rotation"
    world.clock.advance(400 * DAY)
    assert "clock-was-ahead" not in alder.notices()


def test_nothing_is_renewed_by_itself_when_the_clock_may_be_wrong(world: World) -> None:
    alder = world["alder"]
    config = load_config(alder.home)
    before = alder.core.trust.own.head
    world.clock.advance(before.issued + 180 * DAY - 1 - alder.clock.now())
    assert own_dates.jump(alder.core) is None
    world.clock.advance(1)
    with pytest.raises(ConflictError, match="180 days after"):
        keep_up(alder.core, config)
    assert alder.core.trust.own.head == before
    alder.service().keys.rotate_sealing()  # a person says that the clock is right
    keep_up(alder.core, config)
    assert len(alder.core.card.tls) == 2, "what was due is renewed then"


@pytest.mark.parametrize("renew", [ownkeys.rotate_sealing, message_rotation.rotate])
def test_no_clock_before_the_newest_statement_is_in_the_way(
    renew: Callable[..., object], world: World
) -> None:
    alder = world["alder"]
    world.clock.advance(-DAY)
    renew(alder.core)
    give(world["birch"], *alder.core.trust.own.statements)


def test_a_new_log_after_the_end_of_the_card_has_a_card_that_verifies(world: World) -> None:
    alder = world["alder"]
    world.clock.advance(500 * DAY)
    alder.close()
    alder.open(reopen=True)
    give(world["birch"], *alder.core.trust.own.statements)
    alder.reopen()


def test_one_command_with_a_clock_in_the_future_changes_no_key(home: Path) -> None:
    before = status(home)["statements"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.net.wrong_clock", str(400 * DAY), "--home", str(home),
         "status", "--json"],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    (told,) = [n for n in json.loads(done.stdout)["notices"] if n["code"] == "keys-not-renewed"]
    assert "400 days after" in told["message"] and "rotate-seal" in told["fix"]
    assert status(home)["statements"] == before
