"""The stored vectors, against this implementation: what is accepted and why the rest is refused.

Each refusal names its stable code, so that neither a code nor the layout of a byte changes unseen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from keys import fingerprint, keystore
from protocol import envelope, errors, incident, limits, suite, vocabulary
from protocol.access import parse_access
from protocol.admission import Admitted, admit
from protocol.armor import dearmor
from protocol.blob import Blob, BlobChunk, ChunkCipher, chunk_hash, grow_tree, verify_chunk
from protocol.canonical import decode, encode
from protocol.cardlink import make_card_link, parse_card_link
from protocol.chain import KeyHistory
from protocol.checkpoint import Checkpoint, format_body, verify_mldsa44
from protocol.cosignatures import Cosigned as Met
from protocol.cosignatures import check_policy
from protocol.entry import local_digest, parse_entry
from protocol.erasure import parse_erasure
from protocol.errors import PicketError, TrustConflictError
from protocol.exposure import Exposed, ExposureHeard
from protocol.fork import parse_fork, verify_fork
from protocol.frames import (
    Frame,
    Frontier,
    ReceiptItem,
    Receipts,
    Refusal,
    Runs,
    Tagger,
    Transcript,
    Want,
    WantReceipts,
    WantStatements,
    decode_frame,
    encode_frame,
)
from protocol.frontier import (
    Item,
    author_digests,
    contradicts,
    digest,
    lacking,
    parse_item,
)
from protocol.introduction import parse_introduction, verify_introduction
from protocol.key_frames import Suspended
from protocol.knock import parse_knock, verify_knock
from protocol.log_fork import encode_log_fork, log_fork_digest, parse_log_fork, verify_log_fork
from protocol.log_frames import (
    Consistency,
    Cosign,
    Cosigned,
    Head,
    Heads,
    LogForked,
    LogPart,
    WantConsistency,
    WantHead,
    WantLog,
)
from protocol.merkle import prefix_roots
from protocol.note import parse_note
from protocol.policy import format_policy, parse_policy
from protocol.possession import SealChallenge, SealProof
from protocol.receipt import VerifiedReceipt, complete, single, verify_receipts, verify_runs
from protocol.reseal import SealedAgain, Unopened
from protocol.session import Close, Lane, Local, Remote, Send, Session
from protocol.statement import (
    Card,
    Chain,
    Inception,
    NamedKeys,
    Statement,
    make_bundle,
    parse_statement,
    verify_bundle,
)
from protocol.suspension import Directory, parse_suspension, verify_suspension
from protocol.tlog_proof import parse_tlog_proof, verify_tlog_proof
from protocol.witness import Accept, Seen, decide, parse_size
from tests.factories import card_body
from tests.vectors import bulk, generate, logs, lost, slots

Json: TypeAlias = dict[str, Any]

FILES: Final = {name: generate.read(name) for name in generate.FILES}
CASES: Final = [
    pytest.param(name, case, id=f"{name}: {case['name']}")
    for name, vectors in FILES.items()
    for case in vectors["cases"]
]
DOCUMENT: Final = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
NOW: Final = 1_000_000


class Scene:
    """One case, with what its file gives."""

    def __init__(self, vectors: Json, case: Json) -> None:
        self.vectors, self.case = vectors, case

    def given(self, name: str) -> bytes:
        return bytes.fromhex(self.vectors["given"][name])

    @property
    def data(self) -> bytes:
        """The input, put together as the file says."""
        given = self.case["input"]
        if isinstance(given, str):
            return bytes.fromhex(given)
        if "repeat" in given:
            return b"".join(bytes.fromhex(part) * times for part, times in given["repeat"])
        base, made, at = self.given(given["of"]), b"", 0
        for offset, dropped, put in given["splices"]:
            made += base[at:offset] + bytes.fromhex(put)
            at = offset + dropped
        return made + base[at:]


def shown(value: object) -> object:
    """Return a value as the files have it: bytes as hex, tuples as arrays."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, ReceiptItem):
        return shown((value.envelope_id, value.index, value.entry, value.proof))
    if isinstance(value, Refusal):
        return shown((value.envelope_id, value.code, value.retry_after))
    if isinstance(value, NamedKeys):
        return shown((value.name, value.ed25519, value.mldsa44))
    if isinstance(value, (tuple, list)):
        return [shown(item) for item in value]
    return value


def fields_of(value: object) -> Json:
    return {name: shown(getattr(value, name)) for name in value.__slots__}  # type: ignore[attr-defined]


# --- what each kind of case does -------------------------------------------------------------
def canonical_decode(scene: Scene) -> Json:
    value = decode(scene.data, max_bytes=2**20)
    assert encode(value) == scene.data
    return {"value": generate.plain(value)} if "value" in scene.case.get("expect", {}) else {}


def _statement(made: Statement) -> Json:
    result = {**fields_of(made), "digest": made.digest.hex(),
              "signers": [signature.index for signature in made.signatures]}  # fmt: skip
    if isinstance(made.body, Inception):
        return result | fields_of(made.body) | {"next": shown(made.body.next_digests)}
    if isinstance(made.body, Card):
        seal = [[key.public.hex(), key.not_before, key.not_after] for key in made.body.seal]
        ekids = [key.ekid.hex() for key in made.body.seal]
        return result | fields_of(made.body) | {"seal": seal, "ekids": ekids}
    return result


def statement_parse(scene: Scene) -> Json:
    return _statement(parse_statement(scene.data))


def chain_start(scene: Scene) -> Json:
    network = scene.given(scene.case["network"])
    return _statement(Chain.start(parse_statement(scene.data), network=network).head)


def chain_extend(scene: Scene) -> Json:
    first, *others = scene.case["chain"]
    chain = Chain.start(parse_statement(scene.given(first)), network=scene.given("network"))
    for name in others:
        chain = chain.extend(parse_statement(scene.given(name)))
    made = parse_statement(scene.data)
    after = chain.extend(made)
    assert after.statements[made.n].wire == scene.data
    return {**_statement(made), "length": len(after.statements)}


def history_take(scene: Scene) -> Json:
    first, *others = [parse_statement(scene.given(name)) for name in scene.case["held"]]
    chain = Chain.start(first, network=scene.given("network"))
    after = KeyHistory(chain).take(others).take([parse_statement(scene.data)])
    return {"standing": after.standing.value, "revoked": after.revocation is not None,
            "path": [made.digest.hex() for made in after.chain.statements]}  # fmt: skip


def suspension_verify(scene: Scene) -> Json:
    chosen = scene.vectors["directory"]
    keys = tuple((bytes.fromhex(ed), bytes.fromhex(ml)) for ed, ml in chosen["keys"])
    made, now = parse_suspension(scene.data), scene.case["now"]
    directory = Directory(keys, chosen["threshold"])
    verify_suspension(made, directory, network=scene.given("network"), now=now)
    return fields_of(made)


def bundle_verify(scene: Scene) -> Json:
    return _bundle(scene, scene.data)


def _bundle(scene: Scene, bundle: bytes) -> Json:
    chain = verify_bundle(bundle, network=scene.given("network"))
    assert make_bundle(chain) == bundle
    shown_id = fingerprint.format_node_id(chain.node_id)
    return {
        "node_id": chain.node_id.hex(), "n": chain.head.n, "head": chain.head.digest.hex(),
        "qr": make_card_link(shown_id, bundle),
    }  # fmt: skip


def armor_read(scene: Scene) -> Json:
    return _bundle(scene, dearmor(scene.data.decode()))


def knock_verify(scene: Scene) -> Json:
    chain = verify_knock(
        parse_knock(scene.data), network=scene.given("network"),
        certificates=[scene.given(scene.case["door"])], now=scene.case["now"],
    )  # fmt: skip
    return {"node_id": chain.node_id.hex(), "n": chain.head.n}


def introduction_verify(scene: Scene) -> Json:
    key = scene.given("introducer")
    chain = verify_introduction(
        parse_introduction(scene.data), network=scene.given("network"),
        to=scene.given(scene.case["to"]), now=scene.case["now"],
        link=(key[: suite.ED25519_SIZE], key[suite.ED25519_SIZE :]),
    )  # fmt: skip
    return {"node_id": chain.node_id.hex(), "n": chain.head.n}


def cardlink_read(scene: Scene) -> Json:
    link = parse_card_link(scene.data.decode())
    return {"node_id": fingerprint.parse_node_id(link.node).hex(), "at": list(link.at)}


def envelope_parse(scene: Scene) -> Json:
    made = envelope.parse(scene.data)
    return {**fields_of(made.header), **fields_of(made)}


def _verified(scene: Scene, wire: bytes) -> envelope.VerifiedEnvelope:
    case = scene.case
    return envelope.verify(
        envelope.parse(wire),
        network=scene.given(case.get("network", "network")),
        message_key=scene.given(case.get("message_key", "message_key")),
    )


def envelope_verify(scene: Scene) -> Json:
    made = _verified(scene, scene.data).envelope
    assert made.header.encode() == made.pre
    audience = None if made.audience is None else fields_of(made.audience)
    return {**fields_of(made.header), **fields_of(made), "audience": audience,
            "slots": len(made.slots)}  # fmt: skip


def _opener(scene: Scene) -> envelope.VerifiedEnvelope:
    name = scene.case["opener"]
    return _verified(scene, scene.data if name == "self" else scene.given(name))


def envelope_epoch(scene: Scene) -> Json:
    opener = _opener(scene).envelope
    assert opener.audience is not None
    envelope.check_epoch(_verified(scene, scene.data), opener.header, opener.audience)
    return {}


class Holder:
    """Opens slots with the sealing seed of one node of the file."""

    def __init__(self, node: Mapping[str, str]) -> None:
        self.ekid = bytes.fromhex(node["ekid"])
        self.private = suite.seal_private(bytes.fromhex(node["seal_seed"]))
        assert suite.seal_public_bytes(bytes.fromhex(node["seal_seed"])).hex() == node["seal"]

    def unseal(self, ekid: bytes, sealed: bytes, info: bytes) -> bytes:
        assert ekid == self.ekid
        return suite.unseal_with(self.private, sealed, info)


def envelope_open(scene: Scene) -> Json:
    node = scene.vectors["nodes"][scene.case["as"]]
    epoch = envelope.unseal_epoch(
        _opener(scene), node_id=bytes.fromhex(node["node_id"]), unsealer=Holder(node)
    )
    verified = _verified(scene, scene.data)
    key = envelope.content_key(verified, epoch)
    return {"epoch_key": epoch.key.hex(), "content_key": key.hex(),
            "body": envelope.open_body(verified, key).hex()}  # fmt: skip


def envelope_padding(scene: Scene) -> Json:
    sizes = [size for size, _ in scene.case["expect"]["sizes"]]
    return {"sizes": [[size, len(envelope.pad(bytes(size)))] for size in sizes]}


class Taker:
    """The view of one node of the file on what it is given; satisfies protocol.admission.View."""

    def __init__(self, scene: Scene) -> None:
        case = scene.case
        self.scene, self.carries = scene, bool(case["carries"])
        self.node_id = self.id_of(case["as"])
        self.network = scene.given(case["network"])
        held = [envelope.parse(scene.given(name)) for name in case["holds"]]
        self.held = {made.id: made for made in held}

    def id_of(self, name: str) -> bytes:
        return bytes.fromhex(self.scene.vectors["nodes"][name]["node_id"])

    def closed(self, header: envelope.Header, envelope_id: bytes) -> bool:
        return False

    def accepts_author(self, node_id: bytes) -> bool:
        return node_id in map(self.id_of, self.scene.case["accepts"])

    def card_at(self, node_id: bytes, n: int) -> Card | None:
        if n != 1 or node_id not in map(self.id_of, self.scene.case["cards"]):
            return None
        return card_body("alder", message=self.scene.given("message_key"))

    def holds(self, envelope_id: bytes) -> bool:
        return envelope_id in self.held

    def epoch(self, opener: bytes) -> tuple[envelope.Header, envelope.Audience] | None:
        made = self.held.get(opener)
        return None if made is None or made.audience is None else (made.header, made.audience)


def envelope_admit(scene: Scene) -> Json:
    taker, case = Taker(scene), scene.case
    decision = admit(scene.data, view=taker, giver=taker.id_of(case["giver"]), now=case["now"])
    return {"part": decision.part.value if isinstance(decision, Admitted) else "known"}


def fork_verify(scene: Scene) -> Json:
    fork = parse_fork(scene.data)
    assert fork.encode() == scene.data
    cards = {
        n: card_body("alder", message=scene.given("message_key"))
        for n in scene.case.get("cards", [1])
    }

    def card_at(node_id: bytes, n: int) -> Card | None:
        return cards.get(n) if node_id == scene.given("alder") else None

    network = scene.given(scene.case.get("network", "network"))
    verify_fork(fork, network=network, card_at=card_at)
    return {
        **fields_of(fork.key), "ids": shown((fork.first.id, fork.second.id)),
        "seqs": [fork.first.header.seq, fork.second.header.seq], "digest": fork.digest.hex(),
    }  # fmt: skip


def _item(row: list[Any]) -> Item:
    author, incarnation, stream, contiguous, head, beyond, forked = row
    value = [incarnation, bytes.fromhex(stream), contiguous, bytes.fromhex(head), beyond, forked]
    return parse_item(value, bytes.fromhex(author))


def frontier_digest(scene: Scene) -> Json:
    items = [_item(row) for row in scene.case["items"]]
    authors = [[author.hex(), value.hex()] for author, value in author_digests(items).items()]
    assert digest(items[::-1]) == digest(items)
    return {"digest": digest(items).hex(), "authors": sorted(authors)}


def frontier_compare(scene: Scene) -> Json:
    mine, theirs = (_item(scene.case[side])[1] for side in ("mine", "theirs"))
    assert contradicts(theirs, mine) == contradicts(mine, theirs)
    return {"wants": shown(lacking(mine, theirs)), "contradiction": contradicts(mine, theirs)}


def frame_decode(scene: Scene) -> Json:
    frame = decode_frame(scene.data)
    assert encode_frame(frame) == scene.data
    return {**_frame_fields(frame), "type": _name(frame)}


def _frame_fields(frame: Frame) -> Json:
    """Return the fields of *frame* as the document has them."""
    match frame:
        case Frontier(author, items):
            return {"author": author.hex(), "items": [generate.plain_item(i) for i in items]}
        case Want(key, ranges):
            return {**fields_of(key), "ranges": shown(ranges)}
        case WantReceipts(ids):
            return {"ids": shown(ids)}
        case Unopened() | SealedAgain():
            return slots.plain(frame)
        case Exposed() | ExposureHeard() | Suspended() | SealChallenge() | SealProof():
            return lost.plain(frame)
        case (
            Cosign() | Cosigned() | Heads() | WantHead() | Head() | WantConsistency()
            | Consistency() | LogForked() | WantLog() | LogPart()
        ):  # fmt: skip
            return logs.plain(frame)
        case Runs(recipient, checkpoint, runs):
            each = [bulk.plain_run(run) for run in runs]
            return {"recipient": shown(recipient), "checkpoint": shown(checkpoint), "runs": each}
        case _:
            return fields_of(frame)


def _name(frame: Frame) -> str:
    if isinstance(frame, BlobChunk):
        return "blob"
    return re.sub("(?<!^)([A-Z])", r"_\1", type(frame).__name__).lower()


def _transcript(scene: Scene) -> Transcript:
    return Transcript(
        scene.given("dialer_hello"), scene.given("acceptor_hello"),
        suite.digest("certificate", scene.given("dialer_certificate")),
        suite.digest("certificate", scene.given("acceptor_certificate")),
    )  # fmt: skip


def frame_tags(scene: Scene) -> Json:
    transcript = _transcript(scene)
    assert transcript.digest == scene.given("transcript")
    sender, payloads = Tagger(transcript, from_dialer=False), scene.case["expect"]["payloads"]
    messages = [sender.wrap(bytes.fromhex(payload)).hex() for payload in payloads]
    return {"payloads": payloads, "messages": messages}


def link(scene: Scene) -> Json:
    given, transcript = scene.vectors["given"], _transcript(scene)
    ed25519, mldsa65 = map(bytes.fromhex, given["alder_link_seeds"])
    held, head = scene.case.get("held", [1, given["birch_head"]])
    birch_link = tuple(map(bytes.fromhex, given["birch_link"]))
    session = Session(
        local=Local(
            scene.given("network"), scene.given("alder"), 1, scene.given("alder_head"),
            transcript.dialer_certificate, suite.LocalHybridSigner(ed25519, mldsa65),
        ),
        remote=Remote(
            scene.given("birch"), transcript.acceptor_certificate, (birch_link[0], birch_link[1]),
            held, bytes.fromhex(head),
        ),
        dialer=True, nonce=scene.given("alder_nonce"), now=NOW,
    )  # fmt: skip
    assert session.start() == [Send(scene.given("dialer_hello"), Lane.CONTROL, bare=True)]
    effects = [
        effect
        for name in scene.case["receives"]
        for effect in session.receive(bytes.fromhex(given["messages"][name]), NOW)
    ]
    closed = [effect for effect in effects if isinstance(effect, Close)]
    if closed and closed[0].error is not None:
        raise closed[0].error
    asked = [_payload(effect) for effect in effects if isinstance(effect, Send)]
    wanted = [frame.first for frame in asked if isinstance(frame, WantStatements)]
    return {"state": session.phase.value, "bye": closed[0].code if closed else None,
            "asks_from": wanted[0] if wanted else None}  # fmt: skip


def _payload(effect: Send) -> Frame:
    return decode_frame(effect.payload)


def _log(scene: Scene) -> NamedKeys:
    return _named(scene, scene.case["log"])


def _named(scene: Scene, log: str) -> NamedKeys:
    name, ed25519, mldsa44 = scene.vectors["given"][log]
    return NamedKeys(name, bytes.fromhex(ed25519), bytes.fromhex(mldsa44))


def receipt_verify(scene: Scene) -> Json:
    frame = decode_frame(scene.data)
    assert isinstance(frame, Receipts)
    log = _log(scene)
    items = verify_receipts(frame, log=log)
    return {
        **_checkpoint(items[0].checkpoint, frame.checkpoint, log),
        "recipient": frame.recipient.hex(), "items": _receipts(items),
    }  # fmt: skip


def _checkpoint(checkpoint: Checkpoint, note: bytes, log: NamedKeys) -> Json:
    time = verify_mldsa44(parse_note(note), checkpoint, name=log.name, public_key=log.mldsa44)
    return {**fields_of(checkpoint), "time": time, "text": format_body(checkpoint)}


def _receipts(items: Sequence[VerifiedReceipt]) -> list[list[object]]:
    return [[item.envelope_id.hex(), item.index, int(item.kind)] for item in items]


def _whole_runs(scene: Scene) -> Runs:
    frame = decode_frame(scene.data)
    assert isinstance(frame, Runs)
    if scene.case["known"] is None:
        return frame
    known = [bytes.fromhex(envelope_id) for envelope_id in scene.case["known"]]
    return complete(frame, {envelope_id[:8]: envelope_id for envelope_id in known})


def runs_verify(scene: Scene) -> Json:
    frame, log = _whole_runs(scene), _log(scene)
    items = verify_runs(frame, log=log)
    return {
        **_checkpoint(items[0].checkpoint, frame.checkpoint, log),
        "recipient": frame.recipient.hex(), "items": _receipts(items),
    }  # fmt: skip


def runs_single(scene: Scene) -> Json:
    frame, log = _whole_runs(scene), _log(scene)
    lone = single(frame, bytes.fromhex(scene.case["envelope_id"]), log=log)
    assert lone.checkpoint == frame.checkpoint
    (verified,) = verify_receipts(lone, log=log)
    (item,) = lone.items
    assert (item.envelope_id, item.index) == (verified.envelope_id, verified.index)
    return {**fields_of(item), "recipient": lone.recipient.hex()}


def _chunk(scene: Scene) -> BlobChunk:
    frame = decode_frame(scene.data)
    assert isinstance(frame, BlobChunk)
    return frame


def blob_seal(scene: Scene) -> Json:
    cipher = ChunkCipher(scene.given(scene.case["key"]), len(scene.data))
    chunks = [
        cipher.seal(i, scene.data[i * limits.BLOB_CHUNK :][: limits.BLOB_CHUNK])
        for i in range(cipher.count)
    ]
    blob_id, _ = grow_tree([chunk_hash(cipher.padded, data) for data in chunks])
    assert Blob(blob_id, cipher.padded).count == len(chunks)
    return {"padded": cipher.padded, "count": cipher.count, "blob": blob_id.hex(),
            "last": chunks[-1].hex()}  # fmt: skip


def blob_verify(scene: Scene) -> Json:
    frame = _chunk(scene)
    blob = Blob(frame.blob_id, scene.case["padded"])
    leaf = verify_chunk(blob, frame.index, frame.data, frame.proof)
    return {"index": frame.index, "leaf": leaf.hex()}


def blob_open(scene: Scene) -> Json:
    frame, case = _chunk(scene), scene.case
    cipher = ChunkCipher(scene.given(case["key"]), case["size"])
    return {"plain": cipher.open(frame.index, frame.data).hex()}


def entry_parse(scene: Scene) -> Json:
    entry = parse_entry(scene.data)
    return {**fields_of(entry), "kind": int(entry.kind), "local": entry.local_digest.hex()}


def entry_local(scene: Scene) -> Json:
    return {"local": local_digest(scene.data, bytes.fromhex(scene.case["blind"])).hex()}


def fingerprint_show(scene: Scene) -> Json:
    return {"text": fingerprint.format_node_id(scene.data)}


def fingerprint_read(scene: Scene) -> Json:
    return {"node_id": fingerprint.parse_node_id(scene.case["input"]).hex()}


def safety_compare(scene: Scene) -> Json:
    pair, network = [scene.given(name) for name in scene.case["nodes"]], scene.given("network")
    for a, b in (pair, pair[::-1]):
        fingerprint.verify_safety_number(scene.case["input"], a, b, network=network)
    return {"digits": fingerprint.safety_number(*pair, network=network)}


def keystore_open(scene: Scene) -> Json:
    passphrase = keystore.normalise_passphrase(scene.case["passphrase"])
    secrets = keystore.decrypt(scene.data, passphrase)
    return {"secrets": {name: secret.hex() for name, secret in secrets.items()}}


def policy_parse(scene: Scene) -> Json:
    policy = parse_policy(scene.data)
    assert parse_policy(format_policy(policy)) == policy
    return generate.policy_fields(policy, *scene.case["cosigned"])


def _met(found: Met) -> Json:
    return {**fields_of(found.checkpoint), "labels": sorted(found.labels),
            "not_after": found.not_after}  # fmt: skip


def cosigned_check(scene: Scene) -> Json:
    policy = parse_policy(scene.given(scene.case["policy"]))
    return _met(check_policy(scene.data, policy))


def proof_verify(scene: Scene) -> Json:
    policy, proof = parse_policy(scene.given(scene.case["policy"])), parse_tlog_proof(scene.data)
    found = verify_tlog_proof(proof, entry=scene.given(scene.case["entry"]), policy=policy)
    return {**_met(found), "index": proof.index, "extra": shown(proof.extra)}


def witness_decide(scene: Scene) -> Json:
    known = [_named(scene, log) for log in scene.case["logs"]]
    seen = scene.case["seen"]

    def keys(origin: str) -> list[NamedKeys]:
        return [log for log in known if log.name == origin]

    last = None if seen is None else Seen(seen[0], bytes.fromhex(seen[1]))
    answer = decide(scene.data, logs=keys, seen=lambda origin: last)
    if isinstance(answer, Accept):
        return {"status": 200, "size": None, "conflict": False}
    size = parse_size(answer.body) if answer.status == 409 else None
    return {"status": answer.status, "size": size, "conflict": answer.conflict is not None}


def consistency_roots(scene: Scene) -> Json:
    frame = decode_frame(scene.data)
    assert isinstance(frame, Consistency)
    roots = []
    for old, path in frame.items:
        before, after = prefix_roots(old_size=old, new_size=frame.size, path=path)
        if after.hex() != scene.case["head"]:
            raise errors.ProofError("the path leads to another head")
        roots.append([old, before.hex()])
    return {"roots": roots}


def logfork_verify(scene: Scene) -> Json:
    fork = parse_log_fork(scene.data)
    assert encode_log_fork(fork) == scene.data
    heads = verify_log_fork(fork, logs=[_named(scene, log) for log in scene.case["logs"]])
    return {"origin": heads[0].origin, "sizes": [head.size for head in heads],
            "digest": log_fork_digest(fork).hex()}  # fmt: skip


def access_parse(scene: Scene) -> Json:
    act = parse_access(scene.data)
    return {**fields_of(act), "subject": act.subject.hex()}


def erasure_parse(scene: Scene) -> Json:
    return fields_of(parse_erasure(scene.data))


OPERATIONS: Final[dict[str, Callable[[Scene], Json]]] = {
    operation.__name__.replace("_", ".", 1): operation
    for operation in (
        canonical_decode, statement_parse, chain_start, chain_extend, bundle_verify, armor_read,
        history_take, suspension_verify, knock_verify, introduction_verify, cardlink_read,
        envelope_parse, envelope_verify, envelope_epoch, envelope_open, envelope_padding,
        envelope_admit, fork_verify, frontier_digest, frontier_compare, frame_decode, frame_tags,
        link, receipt_verify, runs_verify, runs_single, entry_parse, entry_local,
        blob_seal, blob_verify, blob_open,
        fingerprint_show, fingerprint_read, safety_compare, keystore_open,
        policy_parse, cosigned_check, proof_verify, witness_decide, consistency_roots,
        logfork_verify, access_parse, erasure_parse,
    )
}  # fmt: skip


# --- tests -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_vector_is_accepted_as_it_says_or_refused_with_its_code(name: str, case: Json) -> None:
    scene, operation = Scene(FILES[name], case), OPERATIONS[case["op"]]
    if "code" in case:
        with pytest.raises(PicketError) as caught:
            operation(scene)
        assert caught.value.code == case["code"], caught.value
        return
    found = operation(scene)
    expected = case["expect"]
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize("name", FILES)
def test_a_file_refuses_more_than_it_accepts(name: str) -> None:
    cases = FILES[name]["cases"]
    refused = sum("code" in case or case["expect"].get("status", 200) != 200 for case in cases)
    assert refused > len(cases) - refused
    assert len({case["name"] for case in cases}) == len(cases)


@pytest.mark.parametrize("name", FILES)
def test_the_code_makes_the_same_vectors_again_but_for_randomised_bytes(name: str) -> None:
    assert generate.differences(name, FILES[name]) == []


def test_what_is_added_to_a_file_leaves_the_frozen_bytes_in_it_as_they_are() -> None:
    whole = generate.read("frames")
    added = {"hello", "blob 2"}
    messages = {n: m for n, m in whole["given"]["messages"].items() if n not in added}
    stored = {**whole, "cases": whole["cases"][3:], "given": {**whole["given"]}}
    stored["given"] |= {"messages": messages}
    made = json.loads(json.dumps(generate.FILES["frames"]()))
    assert made["given"]["messages"]["proof"] != messages["proof"], "ML-DSA is randomised"
    grown = generate.grown(stored, made)
    assert grown == whole
    assert list(grown["given"]["messages"]) == list(whole["given"]["messages"])


def test_no_case_is_added_that_is_made_from_other_bytes_than_the_frozen_ones() -> None:
    stored = generate.read("receipt")
    made = json.loads(json.dumps(generate.FILES["receipt"]()))
    assert generate.grown(stored, made) == stored
    stored["cases"] = [c for c in stored["cases"] if c["name"] != "a hash left out"]
    with pytest.raises(ValueError, match=r"'a hash left out' is made from 'receipts', .* frozen"):
        generate.grown(stored, made)


def test_a_changed_byte_in_a_stored_vector_is_found() -> None:
    stored = generate.read("frames")
    stored["given"]["acceptor_hello"] = "00" + stored["given"]["acceptor_hello"][2:]
    assert generate.differences("frames", stored) == ["/given/acceptor_hello"]


# --- the document ----------------------------------------------------------------------------
def section(title: str) -> str:
    """Return the text of the document below the heading *title*."""
    level = title.split(" ", 1)[0]
    _, found, rest = DOCUMENT.partition(f"\n{title}\n")
    assert found, title
    return re.split(rf"\n{level} ", rest)[0]


def test_the_document_states_each_bound_with_its_value() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([0-9,]+) \|", section("## 15. Bounds"), re.MULTILINE)
    assert len(rows) > 40
    assert {name: int(value.replace(",", "")) for name, value in rows} == {
        name: getattr(limits, name) for name, _ in rows
    }


def test_the_document_lists_the_words_of_each_vocabulary() -> None:
    rows = re.findall(r"^\| ([A-Z_]+) \| (.+) \|$", section("### 14.2 Words"), re.MULTILINE)
    known = {
        name: value
        for name, value in vars(vocabulary).items()
        if name.isupper() and isinstance(value, tuple)
    }
    assert {name: tuple(words.split()) for name, words in rows} == known


def test_the_document_lists_each_field_of_an_incident_and_whether_it_may_be_absent() -> None:
    rows = re.findall(r"^\| ([A-Za-z]+) \| (.+) \|$", section("### 14.1 Maps"), re.MULTILINE)
    listed = {
        name: {
            field: mark == "?" or starred == "*"
            for field, mark, starred in re.findall(r"(?:^|; )(\w+)(\??): (\*?)", fields)
        }
        for name, fields in rows
        if name != "Map"
    }
    models = {model.__name__: model for model in incident.Model.__subclasses__()}
    del models["Incident"]  # in an envelope the layers stand in the record itself
    assert listed == {
        name: {field: not info.is_required() for field, info in model.model_fields.items()}
        for name, model in models.items()
    }


def test_the_document_lists_each_code_that_a_peer_can_cause() -> None:
    listed = set(re.findall(r"`([a-z-]+)`", section("## 16. Error codes")))
    causes = {error.code for error in errors.PeerError.__subclasses__()}
    assert causes <= listed
    expected = {case["code"] for v in FILES.values() for case in v["cases"] if "code" in case}
    assert expected <= listed


def test_the_document_lists_each_label_of_the_code() -> None:
    listed = set(re.findall(r"`([a-z0-9/-]+)`", section("## 3. Labels and digests")))
    used = {"key/inception", "key/card", "link/dialer", "link/acceptor"}
    for folder in ("protocol", "keys", "node"):
        for path in (Path(__file__).parents[2] / folder).rglob("*.py"):
            calls = (
                r"(?:suite\.|\b)(?:digest|derive|label|verify)\((?:[a-z_.]+, )?\s*\"([a-z0-9/-]+)\""
            )
            used |= set(re.findall(calls, path.read_text(encoding="utf-8")))
    assert {"message", "frame-key", "own-stream", "content-key", "case-db", "safety"} <= used
    assert used <= listed


def test_the_bytes_that_the_document_works_out_are_those_of_the_vectors() -> None:
    bye = next(case for case in FILES["frames"]["cases"] if case["name"] == "a bye frame")
    for worked in (FILES["statement"]["given"]["network"], bye["input"]):
        assert f"`{worked}`" in DOCUMENT


def test_the_document_explains_each_operation_of_the_vectors() -> None:
    explained = set(re.findall(r"`([a-z.]+)`", section("## 19. The vectors")))
    assert set(OPERATIONS) <= explained


def test_a_wrong_safety_number_is_no_fault_of_the_peer() -> None:
    assert not issubclass(TrustConflictError, errors.PeerError)
