"""Peers show that they hold the sealing keys on their cards; who does not is told of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keys.trust import Level
from node import ownkeys
from protocol import limits, possession, suite
from protocol.errors import OpenError, ProofError
from protocol.possession import SealChallenge, SealProof
from tests.factories import seed
from tests.node.factories import DAY, MINUTE, World, copied, made_once
from tests.node.wiring import Web


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def lacks(world: World, one: str, other: str) -> bool:
    """Whether *other* has not shown its newest sealing key to *one* yet."""
    return world[one].core.seal_proofs.lacking(world[other].id) is not None


# --- the proof itself ------------------------------------------------------------------------
def test_only_who_holds_the_key_answers_and_only_to_whom_it_was_asked() -> None:
    mine = suite.seal_public_bytes(seed("a", "seal"))

    class Vault:
        def unseal(self, ekid: bytes, sealed: bytes, info: bytes) -> bytes:
            if ekid != suite.ekid(mine):
                raise OpenError("no such key")
            return suite.unseal_with(suite.seal_private(seed("a", "seal")), sealed, info)

    ends = {"challenger": seed("b", "id"), "holder": seed("a", "id")}
    secret = seed("b", "secret")
    asked = possession.make_challenge(mine, secret=secret, **ends)
    proof = possession.answer_challenge(asked, unsealer=Vault(), **ends)
    possession.check_proof(proof, secret=secret, ekid=suite.ekid(mine), **ends)
    swapped = {"challenger": ends["holder"], "holder": ends["challenger"]}
    with pytest.raises(OpenError):
        possession.answer_challenge(asked, unsealer=Vault(), **swapped)
    for wrong in (SealProof(proof.ekid, bytes(32)), SealProof(bytes(32), proof.answer)):
        with pytest.raises(ProofError):
            possession.check_proof(wrong, secret=secret, ekid=suite.ekid(mine), **ends)
    with pytest.raises(ProofError):
        possession.check_proof(proof, secret=bytes(32), ekid=suite.ekid(mine), **ends)
    info = possession._info(ends["challenger"], ends["holder"], suite.ekid(mine))
    short = suite.seal_to(mine, b"short", info)
    with pytest.raises(OpenError):
        possession.answer_challenge(
            SealChallenge(suite.ekid(mine), short), unsealer=Vault(), **ends
        )


def test_no_slot_of_an_envelope_can_be_opened_through_a_challenge(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    slots = alder.envelope(key).slots
    for slot in slots or ():
        for ekid in map(suite.ekid, birch.core.keys_open().seal_publics):
            with pytest.raises(OpenError):
                possession.answer_challenge(
                    SealChallenge(ekid, slot), challenger=alder.id, holder=birch.id,
                    unsealer=birch.core.keys_open(),
                )  # fmt: skip


# --- on links --------------------------------------------------------------------------------
def test_at_first_contact_each_shows_its_key_once(world: World) -> None:
    web = Web(world["alder"], world["birch"])
    assert lacks(world, "alder", "birch")
    web.link("alder", "birch")
    web.run(2)
    assert not lacks(world, "alder", "birch") and not lacks(world, "birch", "alder")
    web.cut("alder", "birch")
    web.link("alder", "birch")
    web.run(2)
    assert len(web.frames(SealChallenge, "alder")) == 1
    world["alder"].reopen()
    assert not lacks(world, "alder", "birch"), "it is written down"


def test_a_new_key_on_a_card_is_asked_for_on_the_same_link(world: World) -> None:
    web = Web(world["alder"], world["birch"])
    web.link("alder", "birch")
    web.run(2)
    world.clock.advance(MINUTE)
    ownkeys.rotate_sealing(world["birch"].core)
    assert not lacks(world, "alder", "birch"), "the card has not come yet"
    web.run(3)
    assert not lacks(world, "alder", "birch")
    asked = {frame.ekid for frame in web.frames(SealChallenge, "alder")}
    assert len(asked) == 2


def test_a_locked_peer_answers_once_it_is_unlocked_and_can_be_sealed_to_meanwhile(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    birch.reopen(locked=True)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(2)
    assert lacks(world, "alder", "birch") and not lacks(world, "birch", "alder")
    alder.release(1, birch)
    web.pump()
    assert "seal-key-unproven" not in alder.notices()
    world.clock.advance(limits.POSSESSION_PATIENCE_MS)
    assert "has not shown for a day" in alder.notices()["seal-key-unproven"]
    birch.core.unlock(birch.vault)
    web.run(2)
    assert not lacks(world, "alder", "birch")
    assert "seal-key-unproven" not in alder.notices()
    assert len(birch.shows()) == 1


def test_a_wrong_answer_is_told_at_once_and_blocks_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    web = Web(alder, birch)
    web.link("alder", "birch")
    (asked,) = web["alder"].gossip.key_talk._talks.values()
    birch.core.vault, vault = None, birch.core.vault
    web.run(1)
    assert asked.asked is not None
    web.say("birch", "alder", SealProof(asked.asked.ekid, bytes(32)))
    assert "showed wrongly" in alder.notices()["seal-key-unproven"]
    assert web.linked("alder", "birch")
    alder.release(1, birch)
    birch.core.vault = vault
    web.run(2)
    assert not lacks(world, "alder", "birch"), "the right answer came after it"
    assert "seal-key-unproven" not in alder.notices()


def test_an_answer_that_nobody_asked_for_counts_for_nothing(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.say("birch", "alder", *[SealProof(bytes(32), bytes(32))] * 20)
    assert not web.linked("alder", "birch")
    assert alder.core.store.scalar("SELECT count(*) FROM seal_proofs") == 0


def test_who_receives_nothing_is_not_asked(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.core.lower_peer(birch.id, Level.RELAY, by="A. Officer")
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(2)
    assert not web.frames(SealChallenge, "alder")
    assert web.frames(SealChallenge, "birch")
    world.clock.advance(10 * DAY)
    assert "seal-key-unproven" not in alder.notices()
