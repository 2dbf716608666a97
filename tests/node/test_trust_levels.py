"""What each trust level allows, in the choice of an audience and in gossip: one table for both.

Levels are ours alone: what Alder thinks of Birch changes nothing of what Birch thinks of Alder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import pytest

from keys.trust import Level, Peer
from node.service import Service
from protocol.errors import UnknownRecipientError
from protocol.frames import Deliver
from protocol.statement import make_card
from tests.node.factories import DAY, Station, World, copied, incident, made_once, pass_on
from tests.node.test_statements import give, recovery, revoked
from tests.node.wiring import Web


@dataclass(frozen=True)
class May:
    """What a node of one level may do here."""

    link: bool = False
    """hold a link"""
    author: bool = False
    """have its envelopes taken"""
    audience: bool = False
    """be chosen to receive"""
    carrier: bool = False
    """be chosen to carry"""
    given: bool = False
    """be given, over a link, what was released to it before"""
    known: bool = True
    """have its old signatures verified"""


TABLE = {
    "unknown": May(known=False),
    "pinned": May(link=True),
    "observe": May(link=True, author=True),
    "relay": May(link=True, author=True, carrier=True, given=True),
    "share": May(link=True, author=True, audience=True, carrier=True, given=True),
    "held": May(),
    "frozen": May(),
    "revoked": May(),
    # No level of its own: a directory takes away for a while what a share level gives.
    "suspended": May(link=True, author=True),
}


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    names = ("alder", "birch", "cedar")
    with copied(made_once(tmp_path_factory), tmp_path, names) as opened:
        yield opened


def pin_again(here: Station, there: Station) -> None:
    """Set *there* back to what it is after it was added."""
    trust = here.core.trust
    old = trust.peer(there.id)
    peers = MappingProxyType({**trust.peers, there.id: Peer(old.chain, old.name, Level.PINNED)})
    here.core.change_trust(replace(trust, peers=peers), there.id, "added")


def contradict(here: Station, there: Station) -> None:
    """Let *there* have signed two cards of one number."""
    core = there.core
    for contact in ("one desk", "another desk"):
        card = make_card(
            replace(core.card, contact=contact), chain=core.trust.own,
            issued=there.clock.now(), signer=there.vault.identity,
        )  # fmt: skip
        trust = here.core.trust.learn(there.id, [card])
        here.core.change_trust(trust, there.id, "key statement")


def bring(here: Station, there: Station, state: str) -> None:
    """Bring *there*, which is at level share, to another *state* at *here*."""
    match state:
        case "unknown":
            trust = here.core.trust
            others = {key: peer for key, peer in trust.peers.items() if key != there.id}
            here.core.trust = replace(trust, peers=MappingProxyType(others))
        case "pinned":
            pin_again(here, there)
        case "observe" | "relay":
            here.core.lower_peer(there.id, Level(state), by="A. Officer")
        case "held":
            give(here, *recovery(there))
        case "frozen":
            contradict(here, there)
        case "revoked":
            give(here, revoked(there))
        case "suspended":
            here.core.trust = here.core.trust.suspend({there.id: here.clock.now() + DAY})
        case _:
            assert state == "share"
    peer = here.core.trust.peers.get(there.id)
    shown = "unknown" if peer is None else peer.level.value
    assert shown == ("share" if state == "suspended" else state)


def chosen(service: Service, *, to: str, carriers: tuple[str, ...] = ()) -> bool:
    """Whether an audience can be chosen so, in the preview and in the release alike."""
    key = service.create_draft(incident())["id"]

    def preview() -> None:
        service.preview(key, to=[to], annex_to=None, carriers=carriers)

    def release() -> None:
        service.release(
            key, to=[to], annex_to=None, carriers=carriers, separately=False, digest=None
        )

    found = []
    for act in (preview, release):
        try:
            act()
        except UnknownRecipientError:
            found.append(False)
        else:
            found.append(True)
    assert len(set(found)) == 1, "preview and release differ"
    return found[0]


@pytest.mark.parametrize("state", TABLE)
def test_the_choice_of_an_audience_follows_the_table(world: World, state: str) -> None:
    alder, birch, _ = world
    bring(alder, birch, state)
    service, may = alder.service(), TABLE[state]
    assert chosen(service, to="birch") is may.audience
    assert chosen(service, to="cedar", carriers=("birch",)) is may.carrier
    key = service.create_draft(incident())["id"]
    if state != "suspended":  # everybody at share then holds one that may not receive: refused
        everybody = service.preview(key, to=["all"], annex_to=None, carriers=())
        assert ("birch" in everybody["will_receive_face"]) is may.audience


@pytest.mark.parametrize("state", TABLE)
def test_gossip_follows_the_table(world: World, state: str) -> None:
    alder, birch, _ = world
    alder.release(1, birch)  # while it was at share
    birch.release(2, alder)
    bring(alder, birch, state)
    may, trust = TABLE[state], alder.core.trust
    anchors = {der for peer in trust.linkable() for der in peer.card.tls}
    assert set(birch.core.card.tls).issubset(anchors) is may.link
    assert (trust.by_certificate(birch.core.card.tls[0]) is not None) is may.link
    assert (trust.any_card_at(birch.id, 1) is not None) is may.known
    taken = pass_on(birch, alder)
    assert bool(taken.stored) is may.author
    assert bool(taken.refusals) is not may.author
    if may.known:  # one that is not can have no link at all; one that may not has one cut
        web = Web(alder, birch)
        web.link("alder", "birch")
        assert bool(web.frames(Deliver, "alder", "birch")) is may.given
        assert birch.shows() == ({row(2), row(1)} if may.given else {row(2)})


def row(number: int) -> str:
    from tests.node.factories import incident_id

    return incident_id(number)


@pytest.mark.parametrize("state", TABLE)
def test_levels_are_directional(world: World, state: str) -> None:
    alder, birch, _ = world
    before = birch.core.trust
    bring(alder, birch, state)
    assert birch.core.trust.peer(alder.id) == before.peer(alder.id)
    assert chosen(birch.service(), to="alder")


def test_the_table_holds_every_level() -> None:
    assert {level.value for level in Level} | {"unknown", "suspended"} == set(TABLE)
