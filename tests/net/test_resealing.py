"""Real nodes whose slots do not open: they say so, get new ones, and read what came before."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from keys.keystore import Argon2Params, load, save
from node.core import Shipment
from protocol import reseal, suite
from protocol.canonical import encode
from protocol.envelope import Envelope
from protocol.frames import Deliver
from protocol.incident import parse_incident, to_record
from protocol.reseal import Fault, SealedAgain, Unopened
from protocol.statement import SealKey
from tests.net.harness import Net, Node, incident, wait
from tests.net.puppet import Puppet

CHEAP = Argon2Params(memory_kib=19 * 1024, iterations=1)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with Net(tmp_path) as net:
        yield net
        net.check_journals()


def notices(node: Node, code: str) -> list[str]:
    """Return the notices of that code which the operator sees in ``picket status``."""
    found = node.ask("GET", "/api/v1/status")["notices"]
    return [notice["message"] for notice in found if notice["code"] == code]


def lose_sealing_key(node: Node) -> None:
    """Give a stopped node another sealing key, and a reason to make a new card."""
    passphrase = node.passphrase.encode()
    vault = load(node.home.keystore, passphrase)
    vault["seal/1"] = secrets.token_bytes(32)
    save(node.home.keystore, vault, passphrase, CHEAP)
    text = node.home.config.read_text()
    assert f"duty@{node.key}.example" in text
    node.home.config.write_text(text.replace(f"duty@{node.key}.example", "new@here.example"))


def test_a_node_that_lost_its_sealing_key_reads_what_was_sealed_to_the_old_one(net: Net) -> None:
    net.mesh("alder", "birch")
    alder, birch = net["alder"], net["birch"]
    net.stop("birch")
    waiting = [alder.draft(incident(f"number {n}")) for n in range(3)]
    for incident_id in waiting:
        alder.release(incident_id, "birch")
    lose_sealing_key(birch)
    birch.start()
    net.wait_linked("alder", "birch")
    wait(lambda: all(map(birch.reads, waiting)), "birch to read what was sealed to its old key")
    assert not notices(birch, "unopened")
    assert not notices(birch, "quarantined")
    (said,) = notices(alder, "sealed-again")
    assert said.startswith("birch could not open 3 envelopes of this node; their key was sealed")
    assert all(alder.delivered(incident_id, "birch") for incident_id in waiting)
    later = alder.draft(incident("later"))
    alder.release(later, "birch")
    wait(lambda: birch.reads(later), "what is released later")
    for node in (alder, birch):
        node.verify_log()
        node.places()


def badly_released(author: Puppet, reader: bytes) -> tuple[Envelope, str]:
    """Let a puppet release an incident whose slot for *reader* is for a key of nobody."""
    card = author.core.trust.peer(reader).card
    nobody = SealKey(suite.seal_public_bytes(secrets.token_bytes(32)), 0, card.expires)
    incident_id = f"{secrets.token_hex(4)}-0000-4000-8000-{secrets.token_hex(6)}"
    record = to_record(
        parse_incident(incident("left out")), incident_id=incident_id, ref="PI-XP-2026-7K3F9Q",
        revision=1, prev=None, layers=frozenset({"face"}),
        first_shared_at="2026-03-04T08:20:00Z",
    )  # fmt: skip
    shipment = Shipment(encode(record), "face", {reader: replace(card, seal=(nobody,))}, ())
    (envelope_id,) = author.core.release(secrets.token_bytes(32), [shipment])
    held = author.core.held(envelope_id)
    assert held is not None
    return held, incident_id


def new_slot(author: Puppet, opener: Envelope, reader: bytes, key: bytes) -> SealedAgain:
    """Return a new slot with any *key* in it."""
    core = author.core
    vault, _ = core.opened()
    return reseal.seal_again(
        replace(core.epoch(opener.id), key=key), author=(opener.header, core.card_n),
        reader=reader, card=core.trust.peer(reader).card, now=core.clock.now(),
        signer=vault.message,
    )  # fmt: skip


def test_an_author_that_leaves_one_reader_out_is_named_and_may_mend_it_after_a_kill(
    net: Net,
) -> None:
    birch = net.make("birch")
    birch.start()
    with Puppet(net.folder, "mallory") as mallory:
        mallory.befriend(birch)
        link = mallory.link(birch)
        opener, incident_id = badly_released(mallory, birch.id)
        link.deliver(opener.wire)
        (said,) = link.expect(Unopened)
        assert (said.notice.opener, said.notice.reader) == (opener.id, birch.id)
        assert said.notice.fault is Fault.SLOT
        card = mallory.core.trust.peer(birch.id).card
        suite.verify("unopened", card.message, said.notice.encode(), said.signature)

        link.send(new_slot(mallory, opener, birch.id, bytes(32)))
        wait(
            lambda: any(
                "1 answer did not open either" in text for text in notices(birch, "unopened")
            ),
            "the operator of birch to be told",
        )
        assert not birch.reads(incident_id)
        birch.verify_log()

        birch.kill()
        birch.start()
        assert "1 answer did not open either" in notices(birch, "unopened")[0]
        link = mallory.link_again(birch)
        link.send(new_slot(mallory, opener, birch.id, mallory.core.epoch(opener.id).key))
        wait(lambda: birch.reads(incident_id), "birch to read it")
        assert not notices(birch, "unopened")
        link.send(Deliver((opener.wire,)))  # once more: it is known, and stays read
        assert birch.reads(incident_id)
