"""Nobody outside its audience holds a byte of an incident, on disk, in a journal or on the wire.

One exchange is made with words that occur nowhere else, in every field that may hold an operator's
text, and then everything that the nodes left behind is searched for them in every form in which
software is likely to write them down.
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.app import open_service
from protocol import envelope, frontier
from protocol.errors import PeerError
from protocol.frames import Frame, Receipts, Summary
from protocol.log_frames import Head
from protocol.possession import SealChallenge
from tests.net.harness import Net, Node, Row, Tap, free_ports, incident, wait
from tests.net.puppet import Puppet
from tests.net.searching import hits

FIELDS = ("summary", "narrative", "party", "selector", "document")


def pieces(sealed: envelope.Envelope) -> list[bytes]:
    """Return what betrays that a file holds, or names, this envelope."""
    cut = [sealed.ciphertext[at : at + 32] for at in range(0, len(sealed.ciphertext) - 31, 32)]
    slots = [slot[at : at + 32] for slot in sealed.slots for at in range(0, len(slot) - 31, 32)]
    named = [sealed.id, sealed.header.stream, sealed.header.audience_digest, sealed.pre]
    audience = [] if sealed.audience is None else [sealed.audience.encode()]
    shown = [sealed.id.hex().encode(), sealed.header.stream.hex().encode()]
    return [*named, *shown, *audience, sealed.signature, *slots, *cut]


# --- the exchange ----------------------------------------------------------------------------
@dataclass
class Scene:
    """Everything that one exchange left behind."""

    net: Net
    tap: Tap
    words: list[str]
    secrets: list[str]
    incident_id: str
    written: Row
    sealed: list[envelope.Envelope]
    layers: list[list[str]]
    told: bytes
    overheard: list[Frame]
    overheard_bytes: bytes
    visible: bytes

    def files(self) -> list[Path]:
        """Return all files of all nodes, but for those in which operators keep passphrases."""
        found = [path for path in self.net.folder.rglob("*") if path.is_file()]
        return [path for path in found if path.suffix != ".passphrase"]

    def holders(self, piece: bytes) -> set[str]:
        """Return the nodes with a file that contains *piece*."""
        return {
            key
            for key, node in self.net.nodes.items()
            if any(piece in path.read_bytes() for path in node.files())
        }


def annex(words: dict[str, str]) -> Row:
    return {
        "narrative": f"It was said that {words['narrative']} and no more.",
        "parties": [
            {
                "role": "consignor",
                "kind": "org",
                "name": words["party"],
                "contacts": [{"kind": "email", "value": f"{words['selector']}@firm.example"}],
            }
        ],
        "documents": [{"type": "invoice", "number": words["document"]}],
    }


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Net, Tap]]:
    """Alder writes; birch reads, behind a tap; cedar carries; dogwood is outside; elm is down."""
    tapped, http_port = free_ports(2)
    with Net(tmp_path_factory.mktemp("secrecy")) as net:
        net.make("alder", endpoint=False, opens_itself=False, http_port=http_port)
        birch = net.make("birch", endpoint=tapped, peer__dial=False)
        for key in ("cedar", "dogwood", "elm"):
            net.make(key)
        with Tap(tapped, birch.port) as tap:
            net.start(*net.nodes)
            net["alder"].ask("POST", "/api/v1/unlock", {"passphrase": net["alder"].passphrase})
            net.pair(*((a, b) for a in net.nodes for b in net.nodes if a < b))
            net.stop("elm")
            wait(lambda: net["alder"].linked("birch", "cedar", "dogwood"), "the links of alder")
            yield net, tap
        net.check_journals()


@pytest.fixture(scope="module")
def puppets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Puppet, Puppet]]:
    """One who is to read what alder writes, and one who is not."""
    folder = tmp_path_factory.mktemp("puppets")
    with Puppet(folder, "reader") as reader, Puppet(folder, "outsider") as outsider:
        yield reader, outsider


@pytest.fixture(scope="module")
def scene(net: tuple[Net, Tap], puppets: tuple[Puppet, Puppet]) -> Scene:
    """Let it happen."""
    nodes, tap = net
    reader, outsider = puppets
    alder = nodes["alder"]
    for puppet in puppets:
        puppet.befriend(alder)
    near, far = reader.link(alder), outsider.link(alder)
    token = alder.ask("POST", "/api/v1/tokens", {"name": "desk", "scopes": ["incidents:read"]})
    words = {name: f"canary-{name}-{secrets.token_hex(12)}" for name in FIELDS}
    incident_id = alder.draft(incident(f"Seen: {words['summary']}.", annex=annex(words)))
    assert read_over_http(alder, token["token"]) == 200
    row = alder.release(
        incident_id, "birch", reader.name, "elm", annex_to=["birch", "elm"], carriers=["cedar"]
    )
    (wire,) = near.delivered()
    near.send(reader.receipts(wire, alder.id))
    wait(lambda: settled(alder, incident_id), "everybody who is up to hold it")
    # Whatever alder would tell the outsider comes before its answer to this.
    far.deliver(outsider.release("from outside", [alder.id]).wire)
    processes = [node for node in nodes.nodes.values() if node.process is not None]
    return Scene(
        net=nodes,
        tap=tap,
        words=[*words.values(), incident_id, row["ref"]],
        secrets=[
            token["token"],
            token["token"].split("_")[2],
            *(node.passphrase for node in nodes.nodes.values()),
        ],
        incident_id=incident_id,
        written=alder.incident(incident_id),
        sealed=[envelope.parse(alder.raw(incident_id, n)) for n in range(len(row["envelopes"]))],
        layers=[held["layers"] for held in row["envelopes"]],
        told=b"".join(near.payloads),
        overheard=list(far.frames),
        overheard_bytes=b"".join(far.payloads),
        visible=b"".join(node.visible() for node in processes),
    )


def read_over_http(node: Node, token: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=60)
    try:
        connection.request("GET", "/api/v1/incidents", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    finally:
        connection.close()


def settled(alder: Node, incident_id: str) -> bool:
    """Whether all who are up gave receipts, and the carrier has what elm is still to get."""
    items = alder.ask("GET", f"/api/v1/incidents/{incident_id}/deliveries")["items"]
    late = {"elm": "queued", "cedar": "carried"}
    return all(row["state"] == late.get(row["peer"], "received") for row in items)


# --- the search itself -----------------------------------------------------------------------
@pytest.mark.parametrize("before", [b"", b"x", b"xy", b"xyz"])
def test_the_search_finds_a_text_however_it_is_written(before: bytes) -> None:
    text = "canary-f00d-and-some-more"
    plain = before + text.encode() + b" and what follows"
    wide = (before.decode() + text + " and what follows").encode("utf-16-le")
    for data in (
        plain, wide, plain.decode().encode("utf-16-be"),
        plain.hex().encode(), plain.hex().upper().encode(),
        base64.b64encode(plain), base64.urlsafe_b64encode(plain), base64.b64encode(wide),
    ):  # fmt: skip
        assert hits(b"\0\1" + data, [text]) == [text], data
    assert hits(plain, [text + "?"]) == []


# --- who reads it ----------------------------------------------------------------------------
def test_the_named_recipient_reads_every_word_of_it(scene: Scene) -> None:
    read = scene.net["birch"].incident(scene.incident_id)
    assert (read["face"], read["annex"]) == (scene.written["face"], scene.written["annex"])
    shown = json.dumps(read)
    assert all(word in shown for word in scene.words)


def test_carrier_and_outsider_show_nothing_of_it(scene: Scene) -> None:
    for key in ("cedar", "dogwood"):
        node = scene.net[key]
        assert not node.reads(scene.incident_id)
        assert not node.reads(scene.written["ref"])
        assert node.received() == []
        assert node.ask("GET", "/api/v1/status")["incidents"]["quarantined"] == 0


# --- on disk ---------------------------------------------------------------------------------
def test_the_words_of_an_incident_stand_in_no_file_while_the_nodes_run(scene: Scene) -> None:
    files = scene.files()
    names = {path.name for path in files}
    assert {"node.db", "node.db-wal", "case.db", "fence", "keystore", "picket.toml"} <= names
    assert {f"{key}.log" for key in scene.net.nodes} <= names
    for path in files:
        assert not hits(path.read_bytes(), scene.words), path


def test_no_node_leaves_a_temporary_file(scene: Scene) -> None:
    assert list((scene.net.folder / "tmp").iterdir()) == []


def test_a_node_outside_the_audience_holds_no_byte_of_an_envelope(scene: Scene) -> None:
    for sealed in scene.sealed:
        found = pieces(sealed)
        assert scene.holders(sealed.id) == {"alder", "birch", "cedar"}
        assert scene.holders(sealed.ciphertext[:32]) == {"alder", "birch", "cedar"}
        for path in scene.net["dogwood"].files():
            data = path.read_bytes()
            assert not [piece for piece in found if piece in data], path


def test_passphrases_and_tokens_stand_in_no_file_and_no_process_table(scene: Scene) -> None:
    for path in scene.files():
        assert not hits(path.read_bytes(), scene.secrets), path
    assert b"node" in scene.visible
    assert not hits(scene.visible, scene.secrets)


# --- on the wire -----------------------------------------------------------------------------
def test_the_bytes_between_two_nodes_show_nothing_of_what_they_carry(scene: Scene) -> None:
    captured = scene.tap.captured
    assert len(captured) > sum(len(sealed.wire) for sealed in scene.sealed)
    assert not hits(captured, [*scene.words, *scene.secrets])
    for sealed in scene.sealed:
        assert not [piece for piece in pieces(sealed) if piece in captured]


def test_a_reader_of_the_face_is_sent_the_face_alone_and_sealed_inside_the_link_as_well(
    scene: Scene,
) -> None:
    face, inner = scene.sealed
    assert scene.layers == [["face"], ["annex"]]
    assert face.wire in scene.told
    assert not [piece for piece in pieces(inner) if piece in scene.told]
    assert not hits(scene.told, [*scene.words, *scene.secrets])


def test_a_linked_peer_outside_the_audience_hears_nothing_of_it(scene: Scene) -> None:
    # Its own envelope was answered, so it did listen to the end.
    # It is asked to show that it has the keys on its card, as every peer is.
    beside = (Summary, SealChallenge)
    answers = [frame for frame in scene.overheard if not isinstance(frame, beside)]
    own = [frame for frame in answers if isinstance(frame, Head)]
    assert {frame.note for frame in own} <= {b""}, "what was seen of its own log, which is nothing"
    assert [type(frame) for frame in answers if frame not in own] == [Receipts]
    first = next(frame for frame in scene.overheard if isinstance(frame, Summary))
    assert first.digest == frontier.digest(()), "as if there were nothing that it does not know"
    for sealed in scene.sealed:
        assert not [piece for piece in pieces(sealed) if piece in scene.overheard_bytes]
    assert not hits(scene.overheard_bytes, scene.words)


# --- afterwards ------------------------------------------------------------------------------
def test_a_carrier_cannot_open_what_it_holds_even_with_all_its_keys(scene: Scene) -> None:
    cedar = scene.net["cedar"]
    cedar.stop()
    with open_service(cedar.home.path) as service:
        assert service.core.vault is not None
        for sealed in scene.sealed:
            held = service.core.held(sealed.id)
            assert held is not None
            assert held.ciphertext == sealed.ciphertext
            with pytest.raises(PeerError):
                service.core.open(sealed.id)
    cedar.start()


def test_the_words_of_an_incident_stand_in_no_file_after_a_kill_or_an_orderly_end(
    scene: Scene,
) -> None:
    for node in scene.net.nodes.values():
        node.kill()
    for path in scene.files():
        assert not hits(path.read_bytes(), [*scene.words, *scene.secrets]), path
    scene.net.start("alder", "birch")
    assert scene.net["birch"].reads(scene.incident_id)
    scene.net.stop("alder", "birch")
    for path in scene.files():
        assert not hits(path.read_bytes(), [*scene.words, *scene.secrets]), path
