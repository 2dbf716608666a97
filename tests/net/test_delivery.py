"""Delivery between real nodes: who reads what, what proves it, and that nothing waits in vain."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.demo import NETWORK
from protocol import envelope
from protocol.entry import EntryKind
from protocol.errors import PeerError
from protocol.frames import Receipts, decode_frame
from protocol.receipt import verify_receipts
from protocol.suite import network_id
from tests.net.harness import AnswerError, Net, Node, NodeDownError, incident, wait

ANNEX = {
    "narrative": "A narrative that only some may read.",
    "parties": [{"role": "consignor", "kind": "org", "name": "Example Reagents"}],
}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with Net(tmp_path_factory.mktemp("delivery")) as net:
        net.mesh("alder", "birch", "cedar", "dogwood")
        yield net
        net.check_journals()


def released(author: Node, *to: str, annex: bool = False, **options: object) -> str:
    """Release an incident and wait for every receipt."""
    text = f"incident {secrets.token_hex(8)}"
    incident_id = author.draft(incident(text, annex=ANNEX if annex else None))
    author.release(incident_id, *to, **options)
    wait(lambda: author.delivered(incident_id, *to), f"receipts of {to}")
    return incident_id


def parsed(node: Node, incident_id: str, number: int = 0) -> envelope.Envelope:
    return envelope.parse(node.raw(incident_id, number))


def audience_at(node: Node, sealed: envelope.Envelope) -> envelope.Audience:
    """Return the audience as *node* holds it, in the envelope that opened the epoch."""
    with node.database() as database:
        row = database.execute(
            "SELECT wire FROM envelopes WHERE id = ?", (sealed.header.opener or sealed.id,)
        ).fetchone()
    audience = envelope.parse(row["wire"]).audience
    assert audience is not None
    return audience


# --- one release -----------------------------------------------------------------------------
def test_each_named_recipient_reads_the_same_text_and_nobody_else_knows_of_it(net: Net) -> None:
    alder = net["alder"]
    incident_id = released(alder, "birch", "cedar", annex=True)
    written = alder.incident(incident_id)
    for key in ("birch", "cedar"):
        read = net[key].incident(incident_id)
        assert (read["state"], read["author"]) == ("received", "alder")
        assert (read["face"], read["annex"]) == (written["face"], written["annex"])
        assert net[key].raw(incident_id) == alder.raw(incident_id)
    outsider = net["dogwood"]
    assert outsider.status_of(f"/api/v1/incidents/{incident_id}") == 404
    assert outsider.status_of(f"/api/v1/incidents/{written['ref']}") == 404
    with outsider.database() as database:
        assert database.execute("SELECT count(*) FROM envelopes").fetchone()[0] == 0
        assert database.execute("SELECT count(*) FROM streams").fetchone()[0] == 0


def test_a_receipt_verifies_with_nothing_but_the_recipients_card(net: Net) -> None:
    alder, birch = net["alder"], net["birch"]
    incident_id = released(alder, "birch")
    sealed = parsed(alder, incident_id)
    with alder.database() as database:
        row = database.execute(
            "SELECT * FROM receipts WHERE envelope_id = ?", (sealed.id,)
        ).fetchone()
    frame = decode_frame(row["frame"])
    assert isinstance(frame, Receipts)
    card = birch.chain().card
    assert card is not None
    (receipt,) = verify_receipts(frame, log=card.log)
    assert receipt.envelope_id == sealed.id
    assert receipt.recipient == birch.id
    assert receipt.kind is EntryKind.RECEIVED
    assert receipt.index == birch.incident(incident_id)["envelopes"][0]["log_index"]

    other = net["cedar"].chain().card
    assert other is not None
    with pytest.raises(PeerError):
        verify_receipts(frame, log=other.log)


def test_a_released_incident_cannot_be_released_again(net: Net) -> None:
    alder = net["alder"]
    incident_id = released(alder, "birch")
    with pytest.raises(AnswerError, match="conflict"):
        alder.release(incident_id, "birch", "cedar")
    assert alder.deliveries(incident_id) == {"birch": "received"}
    assert not net["cedar"].reads(incident_id)


def test_every_node_verifies_its_log_after_a_hundred_incidents_in_all_directions(net: Net) -> None:
    keys = ("alder", "birch", "cedar")
    waiting: list[tuple[Node, str, tuple[str, ...]]] = []
    for number in range(102):
        author = net[keys[number % 3]]
        to = tuple(key for key in keys if key != author.key)[: 1 + number % 2]
        incident_id = author.draft(incident(f"number {number}"))
        author.release(incident_id, *to)
        waiting.append((author, incident_id, to))
    for author, incident_id, to in waiting:
        wait(lambda a=author, i=incident_id, t=to: a.delivered(i, *t), "every receipt")  # type: ignore[misc]
        for key in keys:
            assert net[key].reads(incident_id) == (key in {author.key, *to})
    for key in keys:
        seen = net[key].verify_log()
        assert seen["envelopes_checked"] == len(net[key].places())


# --- who gets which part ---------------------------------------------------------------------
def test_a_recipient_of_the_face_alone_holds_no_byte_of_the_annex(net: Net) -> None:
    alder = net["alder"]
    incident_id = alder.draft(incident("face for two, annex for one", annex=ANNEX))
    alder.release(incident_id, "birch", "cedar", annex_to=["birch"])
    wait(lambda: alder.delivered(incident_id, "birch", "cedar"), "both receipts")
    whole, part = net["birch"], net["cedar"]
    wait(lambda: whole.incident(incident_id)["annex"] is not None, "the annex at birch")
    assert whole.incident(incident_id)["annex"] == alder.incident(incident_id)["annex"]
    shown = part.incident(incident_id)
    assert shown["face"] == alder.incident(incident_id)["face"]
    assert (shown["annex"], shown["layers"]) == (None, ["face"])

    layers = {e["layers"][0]: e for e in alder.incident(incident_id)["envelopes"]}
    annex_id = bytes.fromhex(layers["annex"]["envelope_id"])
    annex = next(
        sealed for n in range(2) if (sealed := parsed(alder, incident_id, n)).id == annex_id
    )
    marks = (annex.id, annex.header.stream, annex.ciphertext[:32], annex.ciphertext[-32:])
    for path in part.files():
        data = path.read_bytes()
        assert not [mark for mark in marks if mark in data], path
    assert any(annex.ciphertext[:32] in path.read_bytes() for path in whole.files())


def test_a_separate_release_lets_no_recipient_learn_of_another(net: Net) -> None:
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    incident_id = released(alder, "birch", "cedar", separately=True)
    mine, theirs = parsed(birch, incident_id), parsed(cedar, incident_id)
    assert mine.id != theirs.id
    assert mine.header.stream != theirs.header.stream
    for node, own, other, peer in ((birch, mine, theirs, cedar), (cedar, theirs, mine, birch)):
        audience = audience_at(node, own)
        assert audience.recipient_ids == (node.id,)
        assert not audience.carriers
        assert peer.id not in own.wire
        assert other.id not in own.wire
        for path in node.files():
            data = path.read_bytes()
            assert other.id not in data, path
            assert other.header.stream not in data, path


def test_an_empty_audience_releases_nothing(net: Net) -> None:
    alder = net["alder"]
    incident_id = alder.draft(incident("for nobody"))
    before = alder.verified_acts()
    with pytest.raises(AnswerError, match="unknown-recipient"):
        alder.release(incident_id)
    with pytest.raises(AnswerError, match="unknown-recipient"):
        alder.release(incident_id, "elm")
    assert alder.verified_acts() == before
    assert alder.incident(incident_id)["state"] == "draft"


# --- nodes that are locked or down -----------------------------------------------------------
def test_a_locked_node_receives_logs_and_receipts_and_shows_it_once_unlocked(
    tmp_path: Path,
) -> None:
    with Net(tmp_path) as net:
        alder = net.make("alder")
        birch = net.make("birch", opens_itself=False)
        net.start("alder", "birch")
        unlock = {"passphrase": birch.passphrase}
        birch.ask("POST", "/api/v1/unlock", unlock)
        net.pair(("alder", "birch"))
        birch.stop()
        birch.start()
        assert birch.ask("GET", "/api/v1/node")["locked"] is True
        net.wait_linked("alder")
        incident_id = released(alder, "birch")

        assert birch.ask("GET", "/api/v1/node")["locked"] is True
        with pytest.raises(AnswerError, match="locked"):
            birch.incident(incident_id)
        assert birch.verify_log()["envelopes_checked"] == 1
        with pytest.raises(AnswerError, match="wrong-passphrase"):
            birch.ask("POST", "/api/v1/unlock", {"passphrase": alder.passphrase})
        with pytest.raises(AnswerError, match="locked"):
            birch.incident(incident_id)

        birch.ask("POST", "/api/v1/unlock", unlock)
        assert birch.incident(incident_id)["face"] == alder.incident(incident_id)["face"]
        net.check_journals()


def test_the_outbox_outlives_restarts_and_kills_of_both_sides(tmp_path: Path) -> None:
    with Net(tmp_path) as net:
        net.mesh("alder", "birch")
        alder, birch = net["alder"], net["birch"]
        birch.stop()
        ids = [alder.draft(incident(f"number {number}")) for number in range(5)]
        for incident_id in ids:
            alder.release(incident_id, "birch")
        assert alder.ask("GET", "/api/v1/status")["outbox"] == len(ids)
        alder.kill()
        alder.start()
        alder.stop()
        alder.start()
        assert alder.ask("GET", "/api/v1/status")["outbox"] == len(ids)
        assert {alder.deliveries(i)["birch"] for i in ids} <= {"queued", "sent"}
        birch.start()
        for incident_id in ids:
            wait(lambda i=incident_id: alder.delivered(i, "birch"), "the receipt")  # type: ignore[misc]
        assert [row["id"] for row in birch.received()] == ids
        assert alder.ask("GET", "/api/v1/status")["outbox"] == 0
        net.check_journals()


def test_a_carrier_brings_an_incident_between_nodes_that_are_never_up_together(
    tmp_path: Path,
) -> None:
    with Net(tmp_path) as net:
        net.mesh("alder", "birch", "cedar")
        alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
        cedar.stop()
        incident_id = alder.draft(incident("by way of birch"))
        written = alder.release(incident_id, "cedar", carriers=["birch"])
        wait(
            lambda: alder.deliveries(incident_id, "carrier") == {"birch": "carried"},
            "the carrier's receipt",
        )
        assert alder.deliveries(incident_id)["cedar"] == "queued"
        alder.stop()
        with pytest.raises(NodeDownError):
            alder.ask("GET", "/readyz")

        cedar.start()
        wait(lambda: cedar.reads(incident_id), "cedar to receive it from birch")
        assert cedar.incident(incident_id)["face"] == written["face"]
        assert cedar.incident(incident_id)["author"] == "alder"
        assert not birch.reads(incident_id)
        cedar.stop()

        # The receipt waits at the carrier, whatever happens to the carrier meanwhile.
        birch.kill()
        birch.start()
        alder.start()
        wait(lambda: alder.delivered(incident_id, "cedar"), "the receipt by way of birch")
        alder.verify_log()
        net.check_journals()


def test_a_carrier_is_not_asked_when_the_recipient_is_reached(net: Net) -> None:
    alder = net["alder"]
    incident_id = released(alder, "cedar", carriers=["dogwood"])
    wait(
        lambda: alder.deliveries(incident_id, "carrier") == {"dogwood": "spared"},
        "the carrier to be spared",
    )
    sealed = parsed(alder, incident_id)
    assert not [p for p in net["dogwood"].files() if sealed.id in p.read_bytes()]


def test_a_released_envelope_verifies_at_a_third_party_and_no_longer_with_any_bit_changed(
    net: Net,
) -> None:
    alder = net["alder"]
    wire = alder.raw(released(alder, "birch"))
    card = alder.chain().card
    assert card is not None
    network = network_id(NETWORK)
    whole = envelope.verify(envelope.parse(wire), network=network, message_key=card.message)
    assert whole.header.author == alder.id
    for at in range(0, len(wire), 7):
        changed = wire[:at] + bytes([wire[at] ^ 0x10]) + wire[at + 1 :]
        with pytest.raises(PeerError):
            envelope.verify(envelope.parse(changed), network=network, message_key=card.message)


def test_a_node_that_is_told_to_stop_ends_in_order_in_the_middle_of_its_work(
    tmp_path: Path,
) -> None:
    with Net(tmp_path) as net:
        net.mesh("alder", "birch")
        alder = net["alder"]
        for _ in range(6):
            stopped = threading.Event()
            askers = [threading.Thread(target=ask_on, args=(alder, stopped)) for _ in range(3)]
            for asker in askers:
                asker.start()
            incident_id = alder.draft(incident("just before the end"))
            alder.release(incident_id, "birch")
            try:
                alder.stop()
            finally:
                stopped.set()
                for asker in askers:
                    asker.join()
            alder.start()
            wait(lambda i=incident_id: alder.delivered(i, "birch"), "the receipt")  # type: ignore[misc]
        net.check_journals()


def ask_on(node: Node, stopped: threading.Event) -> None:
    """Ask the node something again and again for as long as it answers."""
    while not stopped.is_set():
        try:
            node.exchange("GET", "/healthz")
        except NodeDownError:
            return
