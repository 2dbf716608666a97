"""Knocking at a peer that refuses us: at once, then rarely, and told apart from other faults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from keys.trust import Level, Peer
from node.door import Porter
from node.knocking import Knocker
from node.visiting import visit
from protocol import limits
from protocol.errors import (
    ConnectError,
    ExpiredError,
    HandshakeError,
    LinkError,
    NotApprovedError,
    NotKnownError,
    WrongNetworkError,
)
from protocol.knock import make_knock, parse_knock, verify_knock
from tests.factories import card_of, make_node
from tests.node.factories import DAY, MINUTE, NOW, Station, copied, made_once
from tests.node.test_door import House, client, house, make, server, stranger
from tests.node.test_transport import Identity

__all__ = ["client", "make", "server", "stranger"]  # fixtures

REFUSED = NotKnownError("it hung up")


@pytest.fixture
def alder(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Station]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder",)) as world:
        yield world["alder"]


def peer_at(identity: Identity) -> Peer:
    """Return a peer whose card names the certificate of *identity*."""
    chain = make_node("egret").chain
    chain = chain.extend(card_of(chain, "egret", issued=NOW, tls=(identity.der,)))
    return Peer(chain, "egret", Level.PINNED)


async def ask(knocker: Knocker, peer: Peer, at: House, error: LinkError = REFUSED) -> LinkError:
    knocker.begin(peer.node_id)
    return await knocker.explain(peer, at.endpoint, error)


async def test_a_refused_node_knocks_at_once_and_says_what_to_do(
    alder: Station, server: Identity
) -> None:
    peer, knocker = peer_at(server), Knocker(alder.core, clock=alder.clock)
    async with house(server) as at:
        said = await ask(knocker, peer, at)
    assert isinstance(said, NotApprovedError)
    assert said.message.startswith("egret has not approved this node yet")
    assert said.fix.endswith("picket peers number egret")
    assert knocker.asked == {peer.node_id: NOW}
    (wire, _) = at.taken[0]
    network = alder.core.trust.own.network
    chain = verify_knock(
        parse_knock(wire), network=network, certificates=[server.der], now=alder.clock.now()
    )
    assert chain == alder.core.trust.own


async def test_it_knocks_again_after_ten_minutes_and_then_ever_more_rarely(
    alder: Station, server: Identity
) -> None:
    peer, knocker = peer_at(server), Knocker(alder.core, clock=alder.clock)
    came: list[int] = []
    async with house(server) as at:
        for minute in range(24 * 60):
            at.now = minute * MINUTE
            await ask(knocker, peer, at)
            if len(at.taken) > len(came):
                came.append(minute)
            alder.clock.advance(MINUTE)
    assert came == [0, 10, 30, 70, 150, 310, 550, 790, 1030, 1270]
    knocker.linked(peer.node_id)
    assert knocker.asked == {}


@pytest.mark.parametrize(
    "error", [ConnectError("nobody"), HandshakeError("another certificate"), LinkError("cut")]
)
async def test_other_faults_are_told_as_they_are_and_nobody_is_knocked_at(
    alder: Station, server: Identity, error: LinkError
) -> None:
    peer, knocker = peer_at(server), Knocker(alder.core, clock=alder.clock)
    async with house(server) as at:
        await ask(knocker, peer, at)
        assert await ask(knocker, peer, at, error) is error
        assert len(at.taken) == 1
        assert knocker.asked == {}, "what it says now is that it cannot be reached"
        assert isinstance(await ask(knocker, peer, at), NotApprovedError)
        assert len(at.taken) == 1


async def test_a_node_without_a_door_or_with_another_certificate_is_not_said_to_have_been_asked(
    alder: Station, server: Identity, stranger: Identity
) -> None:
    async with house(stranger) as at:
        knocker = Knocker(alder.core, clock=alder.clock)
        said = await ask(knocker, peer_at(server), at)
        assert type(said) is NotKnownError and said.fix
        assert at.taken == [] and knocker.asked == {}


@pytest.mark.parametrize(
    ("fault", "off", "words"),
    [
        (ExpiredError("x"), DAY, "its clock is 24 h behind this one"),
        (ExpiredError("x"), -DAY, "its clock is 24 h ahead of this one"),
        (WrongNetworkError("x"), 0, r"does not take its request \(wrong-network\)"),
    ],
)
async def test_why_a_knock_is_not_taken_is_one_line(
    alder: Station, server: Identity, fault: Exception, off: int, words: str
) -> None:
    alder.clock.at = int(time.time() * 1000) + off + (MINUTE if off > 0 else -MINUTE)
    peer, knocker = peer_at(server), Knocker(alder.core, clock=alder.clock)
    async with house(server) as at:
        at.fault = fault
        said = await ask(knocker, peer, at)
    assert type(said) is NotKnownError and said.fix
    with pytest.raises(NotKnownError, match=words):
        raise said
    assert knocker.asked == {}


# --- the porter ------------------------------------------------------------------------------
async def test_the_answer_does_not_wait_for_what_becomes_of_it(
    alder: Station, server: Identity
) -> None:
    noted: list[object] = []

    async def desk(act: object) -> None:
        noted.append(act)

    porter = Porter(alder.core, clock=alder.clock, desk=desk, show_card=True)  # type: ignore[arg-type]
    egret = make_node("egret")
    async with house(server) as at:
        at.door._take = porter.take
        tls = alder.core.card.tls[0]

        wire = make_knock(egret.chain, certificate=tls, now=alder.clock.now(), signer=egret.link)
        answer = await visit(
            at.endpoint, "POST", "/knock", body=lambda _: wire, maximum=limits.MAX_KNOCK
        )
        assert (answer.status, answer.body) == (200, b'{"state": "waiting"}')
        await porter.stop()
    assert len(noted) == 1


def test_the_card_is_kept_back_if_the_operator_wants_it(alder: Station) -> None:
    async def desk(act: object) -> None:
        del act

    for shows in (True, False):
        porter = Porter(alder.core, clock=alder.clock, desk=desk, show_card=shows)  # type: ignore[arg-type]
        assert (porter._card() is not None) is shows
