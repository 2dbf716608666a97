"""A thief of the disk finds no secret and no text of an incident: every file of a node is read.

One node does all that a node does, with words that occur nowhere else in every field that holds a
person's text. Then all its files are read as they are while it is locked, after a kill while it was
open, and after an orderly end. Only then is it opened with its passphrase, to learn every key that
it had, and each of these images is searched for all of them.
"""

from __future__ import annotations

import hashlib
import http.client
import secrets
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest

from keys.fingerprint import parse_code
from keys.identity import identity_secrets
from keys.keystore import load, load_message, load_sealing
from node.app import open_service
from node.home import Home
from protocol import envelope, suite
from protocol.canonical import decode
from protocol.envelope import Envelope, VerifiedEnvelope
from protocol.errors import LockedError, OpenError, SignatureError
from protocol.statement import make_card
from tests.net.harness import Net, Node, Row, free_ports, incident, wait
from tests.net.searching import hits
from tests.net.test_attachments import request
from tests.net.test_key_loss import codes_in

SERVICE_FILES: Final[Mapping[str, tuple[str, ...]]] = {
    "service.key": (
        "tls", "link/ed25519", "link/mldsa65", "log/ed25519", "log/mldsa44", "witness/ed25519",
        "witness/mldsa44",
    ),
    "tls.pem": ("tls",),
}  # fmt: skip
"""What lies in the clear by design (ADR 0003), by file: keys that sign or open no incident."""
STATES: Final = ("locked", "killed", "stopped")
Image = dict[Path, bytes]


@dataclass
class Thief:
    """What a thief has of one node, and what it looks for."""

    folder: Path
    home: Home
    passphrase: str
    images: dict[str, Image] = field(default_factory=dict)
    visible: dict[str, bytes] = field(default_factory=dict)
    nameless: dict[str, bytes] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    keys: dict[str, bytes] = field(default_factory=dict)
    service: dict[str, bytes] = field(default_factory=dict)
    sent: bytes = b""

    def take(self, state: str) -> None:
        """Read every file of the node's folder, journal and place for temporary files."""
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        self.images[state] = {path: path.read_bytes() for path in found}

    def file(self, state: str, name: str) -> bytes:
        return self.images[state][self.home.path / name]


class Words:
    """Makes words that occur nowhere else."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def __call__(self, what: str) -> str:
        self.all.append(f"canary-{what}-{secrets.token_hex(10)}")
        return self.all[-1]


def report(word: Words, attachment: Row) -> Row:
    """Return an incident with such a word in every field that takes a free text."""
    value = incident(f"Seen: {word('summary')}.")
    value["face"] |= {
        "national_ref": word("ref"),
        "contact": {"unit": word("unit"), "mailbox": word("mailbox"), "phone": word("phone"),
                    "hours": word("hours")},
        "equipment": [{"type": word("equipment"), "qty": 1}],
        "drugs": [word("drug")],
    }  # fmt: skip
    value["face"]["handling"]["hc_text"] = word("notice")
    value["face"]["substances"][0] |= {
        "declared_as": word("declared"),
        "intended_drug": word("intended"),
    }
    value["annex"] = {
        "narrative": f"It was said that {word('narrative')} and no more.",
        "parties": [
            {
                "role": "consignor", "kind": "org", "name": word("party"),
                "aliases": [word("alias")], "address": word("address"),
                "licence_no": word("licence"),
                "contacts": [{"kind": "email", "value": f"{word('selector')}@firm.example"}],
            }
        ],
        "documents": [{"type": "invoice", "number": word("document"), "issuer": word("issuer")}],
        "conveyances": [{"leg": 1, "carrier": word("carrier"), "vessel_name": word("vessel")}],
        "attachments": [attachment],
    }  # fmt: skip
    return value


def file_of(word: Words) -> bytes:
    """Return the content of a file that says such words now and then."""
    line = f"{word('content')} {word('more-content')}\n".encode()
    return line * (200_000 // len(line))


def named(word: Words, data: bytes) -> Row:
    """Return how a record names this file, which is called by such a word."""
    return {
        "sha256": hashlib.sha256(data).hexdigest(), "media_type": "image/jpeg", "size": len(data),
        "kind": "label_photo", "caption": f"{word('file-name')}.jpg {word('caption')}",
    }  # fmt: skip


def put(node: Node, data: bytes) -> None:
    path = f"/api/v1/attachments/{hashlib.sha256(data).hexdigest()}"
    assert request(node, "PUT", path, data).status == 201


def unlock(node: Node) -> None:
    node.ask("POST", "/api/v1/unlock", {"passphrase": node.passphrase})


# --- what happens ----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def thief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thief]:
    """Let alder live a day, and hand over what a thief finds of it."""
    (http_port,) = free_ports(1)
    with Net(tmp_path_factory.mktemp("image")) as net:
        net.make("alder", opens_itself=False, http_port=http_port, witness__beat=1)
        net.make("birch", opens_itself=False, witness__beat=1)
        thief = Thief(net.folder, net["alder"].home, net["alder"].passphrase)
        thief.texts += [net[key].passphrase for key in ("alder", "birch")]
        thief.texts += keep_paper(thief, net["alder"])
        net.start("alder", "birch")
        for key in ("alder", "birch"):
            unlock(net[key])
        net.pair(("alder", "birch"))
        net.wait_linked("alder", "birch")
        live(net, thief)
        alder = net["alder"]
        net.stop("birch")
        look_at(alder, thief, "unlocked")
        alder.ask("POST", "/api/v1/lock", {})
        look_at(alder, thief, "locked")
        thief.take("locked")
        unlock(alder)
        assert alder.received()
        alder.kill()
        thief.take("killed")
        alder.start()
        unlock(alder)
        assert alder.received()
        alder.stop()
        thief.take("stopped")
        learn(thief)
        net.check_journals()
        yield thief


def keep_paper(thief: Thief, node: Node) -> list[str]:
    """Take the codes to the safe; return how they read."""
    recovery, revocation = codes_in(node.home.recovery_sheet.read_text())
    node.home.recovery_sheet.unlink()
    thief.keys |= {"recovery code": parse_code(recovery), "revocation code": parse_code(revocation)}
    thief.keys |= {
        f"next {name}": seed for name, seed in identity_secrets(parse_code(recovery)).items()
    }
    found = [recovery, revocation]
    return [*found, *(code.replace("-", "") for code in found)]


def live(net: Net, thief: Thief) -> None:
    """Release, receive, draft, attach, fetch, give a token, read, erase."""
    alder, birch, word = net["alder"], net["birch"], Words()
    thief.words = word.all
    for author, recipient in ((alder, birch), (birch, alder)):
        data = file_of(word)
        put(author, data)
        key = author.draft(report(word, named(word, data)) | {"external_ref": word("external")})
        author.release(key, recipient.key)
        wait(lambda a=author, k=key, r=recipient: a.delivered(k, r.key), f"{key} to arrive")  # type: ignore[misc]
        assert recipient.incident(key)["annex"]
        path = f"/api/v1/attachments/{hashlib.sha256(data).hexdigest()}"
        assert request(recipient, "POST", f"{path}/fetch").status == 202
        wait(lambda r=recipient, p=path: request(r, "GET", p).status == 200, f"the file at {path}")  # type: ignore[misc]
    gone = birch.draft(report(word, named(word, b"no content")))
    birch.release(gone, "alder")
    wait(lambda: birch.delivered(gone, "alder"), "what is to be erased")
    assert alder.reads(gone)
    alder.ask(
        "POST", f"/api/v1/incidents/{gone}/erase", {"reason": "retention", "by": "duty officer"}
    )
    data = file_of(word)
    put(alder, data)
    alder.draft(report(word, named(word, data)))
    token = alder.ask(
        "POST", "/api/v1/tokens", {"name": word("token-name"), "scopes": ["incidents:read"]}
    )["token"]
    thief.texts += [token, token.split("_")[2]]
    thief.keys["token"] = bytes.fromhex(token.split("_")[2])
    assert read_by_token(alder, token) == 200


def read_by_token(node: Node, token: str) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=60)) as calling:
        calling.request("GET", "/api/v1/incidents", headers={"Authorization": f"Bearer {token}"})
        return calling.getresponse().status


def look_at(node: Node, thief: Thief, state: str) -> None:
    """Note what the process table shows, and what files without a name the process has open."""
    thief.visible[state] = node.visible()
    thief.nameless |= node.nameless()


def learn(thief: Thief) -> None:
    """Open the stopped node with its passphrase, and note every key that it has."""
    found = load(thief.home.keystore, thief.passphrase.encode())
    storage = found["storage"]
    found |= {f"sealing {n}": s for n, s in load_sealing(thief.home.sealing, storage).items()}
    found |= {f"message {n}": s for n, s in load_message(thief.home.message_key, storage).items()}
    for name in ("case-db", "sealing-keys", "message-keys"):
        found[name] = suite.derive(storage, name)
    with open_service(thief.home.path, thief.passphrase.encode) as service:
        core = service.core
        _, cases = core.opened()
        for row in core.store.rows("SELECT id, opener, wire FROM envelopes WHERE wire NOT NULL"):
            epoch = core.epoch(row["opener"] or row["id"])
            held = VerifiedEnvelope(envelope.parse(row["wire"]))
            found[f"epoch {row['id'].hex()[:8]}"] = epoch.key
            found[f"content {row['id'].hex()[:8]}"] = envelope.content_key(held, epoch)
            thief.sent = row["wire"] if row["opener"] is None else thief.sent
        for row in cases.attachments():
            found[f"attachment {row['ref'].id.hex()[:8]}"] = row["ref"].key
        shown = [row for row in cases.incidents(after=0, limit=9, own=None) if row["face"]]
        drafts = service.incidents(after=0, limit=9, state="draft")["items"]
        # Of an erased incident id and reference stay, and are told to its author.
        thief.texts += [row[name] for row in shown for name in ("incident_id", "ref")]
        thief.texts += [row[name] for row in drafts for name in ("id", "ref")]
        assert (len(shown), len(drafts)) == (2, 1)
    thief.keys |= found
    service_secrets = decode(thief.home.service_key.read_bytes(), max_bytes=4_096)
    assert isinstance(service_secrets, dict)
    thief.service = {n: bytes(s) for n, s in service_secrets.items() if isinstance(s, bytes)}


# --- what is found ---------------------------------------------------------------------------
def test_the_node_did_all_that_is_searched_for(thief: Thief) -> None:
    assert len(thief.words) > 80
    kinds = {name.split(" ")[0] for name in thief.keys}
    assert kinds >= {
        "identity/ed25519", "identity/mldsa65", "message", "storage", "seal/1", "case-db",
        "sealing-keys", "epoch", "content", "attachment", "token", "recovery", "revocation", "next",
    }  # fmt: skip
    for state in STATES:
        names = {path.name for path in thief.images[state]}
        assert {"node.db", "case.db", "fence", "keystore", "service.key", "alder.log"} <= names
        assert "node.db-wal" in names or state == "stopped"
        assert len([path for path in thief.images[state] if "attachments" in path.parts]) >= 3
    assert "case.db-wal" in {path.name for path in thief.images["killed"]}
    assert "case.db-wal" not in {path.name for path in thief.images["locked"]}


@pytest.mark.parametrize("state", STATES)
def test_no_word_of_an_incident_stands_in_any_file(thief: Thief, state: str) -> None:
    for path, data in thief.images[state].items():
        assert not hits(data, thief.words), path
        assert not hits(bytes(str(path), "utf-8"), thief.words), path


@pytest.mark.parametrize("state", STATES)
def test_no_key_passphrase_code_or_token_stands_in_any_file(thief: Thief, state: str) -> None:
    for path, data in thief.images[state].items():
        assert not hits(data, thief.texts), path
        found = hits(data, list(thief.keys.values()))
        assert not [name for name, key in thief.keys.items() if key in found], path


@pytest.mark.parametrize("state", STATES)
def test_the_service_keys_stand_in_their_two_files_and_nowhere_else(
    thief: Thief, state: str
) -> None:
    homes = [thief.home.path]
    for path, data in thief.images[state].items():
        found = hits(data, list(thief.service.values()))
        names = {name for name, seed in thief.service.items() if seed in found}
        expected = SERVICE_FILES.get(path.name, ()) if path.parent in homes else ()
        assert names == set(expected), path
    assert thief.service.keys() == set(SERVICE_FILES["service.key"])


@pytest.mark.parametrize("state", STATES)
def test_no_temporary_file_is_left(thief: Thief, state: str) -> None:
    assert not [path for path in thief.images[state] if path.is_relative_to(thief.folder / "tmp")]
    assert not thief.nameless


def test_the_process_table_shows_no_secret(thief: Thief) -> None:
    for state, shown in thief.visible.items():
        assert b"node" in shown
        assert not hits(shown, [*thief.texts, *thief.words]), state
        assert not hits(shown, list(thief.keys.values())), state


# --- what the keys that lie in the clear are worth -------------------------------------------
def test_a_copy_of_the_files_opens_and_writes_nothing(thief: Thief) -> None:
    with open_service(thief.home.path) as service:
        assert service.node()["locked"] is True
        (key, *_) = service.core.store.rows("SELECT id FROM envelopes WHERE wire NOT NULL")
        for act in (
            lambda: service.core.open(key["id"]),
            lambda: service.incidents(after=0, limit=1, state=None),
            lambda: service.create_draft(incident("forged")),
            lambda: service.core.release(b"token", []),
            service.core.reopen_log,
        ):
            with pytest.raises(LockedError):
                act()


class OneSeed:
    """Tries one seed on every slot."""

    def __init__(self, seed: bytes) -> None:
        self._private = suite.seal_private(seed)

    def unseal(self, ekid: bytes, sealed: bytes, info: bytes) -> bytes:
        del ekid
        return suite.unseal_with(self._private, sealed, info)


def test_no_service_key_opens_an_incident(thief: Thief) -> None:
    held = VerifiedEnvelope(envelope.parse(thief.sent))
    with open_service(thief.home.path, thief.passphrase.encode) as service:
        node_id, vault = service.core.node_id, service.core.keys_open()
        assert envelope.unseal_epoch(held, node_id=node_id, unsealer=vault).opener == held.id
    for seed in thief.service.values():
        with pytest.raises(OpenError):
            envelope.unseal_epoch(held, node_id=node_id, unsealer=OneSeed(seed))


def signed(held: Envelope, signer: suite.Signer) -> Envelope:
    return replace(held, signature=signer.sign(suite.label("message") + held.id))


def test_no_service_key_signs_an_incident(thief: Thief) -> None:
    held = envelope.parse(thief.sent)
    with open_service(thief.home.path, thief.passphrase.encode) as service:
        card, genuine = service.core.card, service.core.keys_open().message
    network = held.header.network
    envelope.verify(signed(held, genuine), network=network, message_key=card.message)
    for seed in thief.service.values():
        forged = signed(held, suite.Ed25519Signer(seed))
        with pytest.raises(SignatureError):
            envelope.verify(forged, network=network, message_key=card.message)


def test_no_service_key_puts_another_key_on_the_card(thief: Thief) -> None:
    with open_service(thief.home.path) as service:
        chain, card, now = service.core.trust.own, service.core.card, service.core.clock.now()
    seeds = list(thief.service.values())
    for classical in seeds:
        for other in seeds:
            signer = suite.LocalHybridSigner(classical, other)
            with pytest.raises(SignatureError):
                chain.extend(
                    make_card(
                        replace(card, message=suite.Ed25519Signer(bytes(32)).public),
                        chain=chain, issued=now, signer=signer,
                    )
                )  # fmt: skip
