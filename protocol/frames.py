"""What two linked nodes say to each other, and the envelope of bytes each saying travels in.

A frame is one WebSocket binary message. The hello goes bare; from the proof on every message is

    tag (16 bytes) || payload        tag = H("frame", key of this direction, u64 n, payload)[:16]

where the key comes from both hellos and both certificates, and n counts from 0 in each direction.
TLS protects the bytes on the wire. The tag is a check, not a second secret (whoever ends the TLS
connection can compute it): it ties each frame to this link, direction and place, so that one that
is altered, repeated, dropped or moved to another link is noticed.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, assert_never

from protocol import limits, suite
from protocol.blob import (
    BLOB,
    NO_BLOB,
    WANT_BLOB,
    BlobChunk,
    NoBlob,
    WantBlob,
    blob_frame_value,
    parse_blob_chunk,
    parse_no_blob,
    parse_want_blob,
)
from protocol.canonical import Value, decode, encode
from protocol.envelope import STREAM_SIZE
from protocol.errors import FrameError, LimitError
from protocol.frontier import (
    AUTHOR_DIGEST_SIZE,
    Item,
    Range,
    StreamKey,
    count,
    item_value,
    parse_item,
    parse_ranges,
)
from protocol.key_frames import KEY_READERS, KeyFrame, key_frame_value
from protocol.log_frames import LOG_READERS, LogFrame, log_frame_value
from protocol.reseal import (
    SEALED_AGAIN,
    UNOPENED,
    ResealFrame,
    SealedAgain,
    Unopened,
    parse_sealed_again,
    parse_unopened,
    reseal_frame_value,
)
from protocol.shape import array, octets, text, uint

_T = TypeVar("_T", bytes, StreamKey)

VERSION: Final = 1
TAG_SIZE: Final = 16
_COUNTER_SIZE: Final = 8
SHORT_ID: Final = 8
RUN_SECRETS: Final = 48


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is speaking, a fresh nonce, and how far its key statements go."""

    versions: tuple[int, ...]
    network: bytes
    node_id: bytes
    nonce: bytes
    chain_n: int
    chain_head: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """Both signatures of the sender's link key over the transcript of the link."""

    ed25519: bytes
    mldsa65: bytes


@dataclass(frozen=True, slots=True)
class WantStatements:
    """Ask for the key statements of a node from number *first* on."""

    node_id: bytes
    first: int


@dataclass(frozen=True, slots=True)
class Statements:
    """Key statements of one node, ascending."""

    node_id: bytes
    wires: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Deliver:
    """Envelopes, as their authors signed them."""

    wires: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ReceiptItem:
    """The proof that one envelope stands in a log."""

    envelope_id: bytes
    index: int
    entry: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Receipts:
    """Proofs of inclusion in the log of *recipient*, under one signed checkpoint of it."""

    recipient: bytes
    checkpoint: bytes
    items: tuple[ReceiptItem, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """Envelopes whose entries follow one another in a log.

    ``ids`` are their ids, or the first 8 bytes of each where the reader knows which are meant;
    ``secrets`` are, for each, the 32-byte local commitment and the 16-byte blind of its entry;
    ``proof`` is what ``merkle.verify_run`` needs.
    """

    first: int
    kind: int
    ids: tuple[bytes, ...]
    secrets: tuple[bytes, ...]
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Runs:
    """Receipts in bulk: runs of entries in the log of *recipient*, under one checkpoint of it."""

    recipient: bytes
    checkpoint: bytes
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an envelope was not taken, and after how long (ms) it may be offered again."""

    envelope_id: bytes
    code: str
    retry_after: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Envelopes that were not taken."""

    items: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """Receipts of third nodes, as (envelope id, recipient), that their author now holds durably.

    Until a carrier hears this it keeps passing the receipt on, once a link.
    """

    items: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The digest of what the sender holds of all streams that both ends read."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Authors:
    """The same for each author: (node id, 16-byte digest), ascending."""

    digests: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Frontier:
    """What the sender holds of streams of one author to which both ends belong."""

    author: bytes
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """Ask for the envelopes *ranges* of one stream."""

    key: StreamKey
    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class WantReceipts:
    """Ask for receipts of envelopes that the other end has said it holds."""

    envelope_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Forked:
    """Evidence that an author forked one of its streams: a proof as ``protocol.fork`` has it."""

    proof: bytes


@dataclass(frozen=True, slots=True)
class Bye:
    """The sender closes the link, and why."""

    code: str


_LinkFrame: TypeAlias = (
    Hello
    | Proof
    | WantStatements
    | Statements
    | Deliver
    | Receipts
    | Refuse
    | Bye
    | Settled
    | Summary
    | Authors
    | Frontier
    | Want
    | WantReceipts
    | Forked
    | Runs
    | WantBlob
    | BlobChunk
    | NoBlob
    | ResealFrame
    | LogFrame
)
Frame: TypeAlias = _LinkFrame | KeyFrame


# --- payloads --------------------------------------------------------------------------------
def encode_frame(frame: Frame) -> bytes:
    """Return the canonical payload of *frame*."""
    return encode(key_frame_value(frame) if isinstance(frame, KeyFrame) else _value(frame))


def _value(frame: _LinkFrame) -> list[object]:
    if isinstance(frame, LogFrame):
        return log_frame_value(frame)
    match frame:
        case Hello():
            return [
                1, frame.versions, frame.network, frame.node_id, frame.nonce, frame.chain_n,
                frame.chain_head,
            ]  # fmt: skip
        case Proof():
            return [2, frame.ed25519, frame.mldsa65]
        case WantStatements():
            return [3, frame.node_id, frame.first]
        case Statements():
            return [4, frame.node_id, frame.wires]
        case Deliver():
            return [5, frame.wires]
        case Receipts():
            items = [[i.envelope_id, i.index, i.entry, i.proof] for i in frame.items]
            return [6, frame.recipient, frame.checkpoint, items]
        case Refuse():
            return [7, [[i.envelope_id, i.code, i.retry_after] for i in frame.items]]
        case Bye():
            return [8, frame.code]
        case Settled():
            return [9, frame.items]
        case WantBlob() | BlobChunk() | NoBlob():
            return blob_frame_value(frame)
        case _:
            return _gossip_value(frame)


def _gossip_value(
    frame: Summary | Authors | Frontier | Want | WantReceipts | Forked | Runs | ResealFrame,
) -> list[object]:
    match frame:
        case Unopened() | SealedAgain():
            return reseal_frame_value(frame)
        case Summary():
            return [10, frame.digest]
        case Authors():
            return [11, frame.digests]
        case Frontier():
            return [12, frame.author, [item_value(item) for item in frame.items]]
        case Want():
            key = frame.key
            return [13, key.author, key.incarnation, key.stream, frame.ranges]
        case WantReceipts():
            return [14, frame.envelope_ids]
        case Forked():
            return [15, frame.proof]
        case Runs():
            runs = [
                [
                    r.first,
                    r.kind,
                    len(r.ids[0]),
                    b"".join(map(bytes.__add__, r.ids, r.secrets)),
                    r.proof,
                ]
                for r in frame.runs
            ]
            return [16, frame.recipient, frame.checkpoint, runs]
        case _:
            assert_never(frame)


def decode_frame(payload: bytes) -> Frame:
    """Return the frame that *payload* holds.

    Raises:
        FrameError: its type is not known.
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it, or a part of it, is beyond its bound.
    """
    fields = array(
        decode(payload, max_bytes=limits.MAX_FRAME), "frame", minimum=1, maximum=limits.MAX_ARRAY
    )
    number = uint(fields[0], "frame.type", maximum=255)
    if number not in _READERS:
        raise FrameError(f"frame type {number} is not known")
    size, read = _READERS[number]
    return read(array(fields, "frame", size=size))


def _hello(fields: list[Value]) -> Hello:
    versions = array(fields[1], "hello.versions", minimum=1, maximum=16)
    return Hello(
        tuple(uint(version, "hello.version", maximum=255) for version in versions),
        octets(fields[2], "hello.network", size=32),
        octets(fields[3], "hello.node_id", size=32),
        octets(fields[4], "hello.nonce", size=32),
        uint(fields[5], "hello.chain_n", maximum=limits.MAX_CHAIN - 1),
        octets(fields[6], "hello.chain_head", size=32),
    )


def _proof(fields: list[Value]) -> Proof:
    return Proof(
        octets(fields[1], "proof.ed25519", size=suite.ED25519_SIGNATURE),
        octets(fields[2], "proof.mldsa65", size=suite.MLDSA65_SIGNATURE),
    )


def _want_statements(fields: list[Value]) -> WantStatements:
    return WantStatements(
        octets(fields[1], "want_statements.node_id", size=32),
        uint(fields[2], "want_statements.first", maximum=limits.MAX_CHAIN - 1),
    )


def _statements(fields: list[Value]) -> Statements:
    wires = array(fields[2], "statements.wires", minimum=1, maximum=limits.MAX_FRAME_STATEMENTS)
    return Statements(
        octets(fields[1], "statements.node_id", size=32),
        tuple(octets(w, "statements.wire", maximum=limits.MAX_STATEMENT) for w in wires),
    )


def _deliver(fields: list[Value]) -> Deliver:
    wires = array(fields[1], "deliver.wires", minimum=1, maximum=limits.MAX_FRAME_ENVELOPES)
    return Deliver(tuple(octets(w, "deliver.wire", maximum=limits.MAX_ENVELOPE) for w in wires))


def _receipts(fields: list[Value]) -> Receipts:
    items = array(fields[3], "receipts.items", minimum=1, maximum=limits.MAX_FRAME_RECEIPTS)
    return Receipts(
        octets(fields[1], "receipts.recipient", size=32),
        octets(fields[2], "receipts.checkpoint", maximum=limits.MAX_SIGNED_HEAD),
        tuple(_receipt_item(item) for item in items),
    )


def _receipt_item(value: Value) -> ReceiptItem:
    envelope_id, index, entry, proof = array(value, "receipt", size=4)
    hashes = array(proof, "receipt.proof", maximum=limits.MAX_PROOF)
    return ReceiptItem(
        octets(envelope_id, "receipt.envelope_id", size=32),
        uint(index, "receipt.index", maximum=limits.MAX_LOG_SIZE),
        octets(entry, "receipt.entry", maximum=limits.MAX_ENTRY),
        tuple(octets(item, "receipt.proof.hash", size=32) for item in hashes),
    )


def _refuse(fields: list[Value]) -> Refuse:
    items = array(fields[1], "refuse.items", minimum=1, maximum=limits.MAX_FRAME_ENVELOPES)
    refusals = []
    for item in items:
        envelope_id, code, retry_after = array(item, "refusal", size=3)
        refusals.append(
            Refusal(
                octets(envelope_id, "refusal.envelope_id", size=32),
                _code(code, "refusal.code"),
                uint(retry_after, "refusal.retry_after", maximum=limits.MAX_LIFETIME_MS),
            )
        )
    return Refuse(tuple(refusals))


def _bye(fields: list[Value]) -> Bye:
    return Bye(_code(fields[1], "bye.code"))


def _settled(fields: list[Value]) -> Settled:
    items = array(fields[1], "settled.items", minimum=1, maximum=limits.MAX_FRAME_RECEIPTS)
    pairs = []
    for item in items:
        envelope_id, recipient = array(item, "settled.item", size=2)
        pairs.append(
            (
                octets(envelope_id, "settled.envelope_id", size=32),
                octets(recipient, "settled.recipient", size=32),
            )
        )
    return Settled(tuple(pairs))


def _summary(fields: list[Value]) -> Summary:
    return Summary(octets(fields[1], "summary.digest", size=32))


def _authors(fields: list[Value]) -> Authors:
    digests = []
    for item in array(fields[1], "authors.digests", maximum=limits.MAX_AUTHORS):
        author, value = array(item, "authors.item", size=2)
        digests.append(
            (
                octets(author, "authors.author", size=32),
                octets(value, "authors.digest", size=AUTHOR_DIGEST_SIZE),
            )
        )
    _check_ascending([author for author, _ in digests], "authors")
    return Authors(tuple(digests))


def _frontier(fields: list[Value]) -> Frontier:
    author = octets(fields[1], "frontier.author", size=32)
    values = array(fields[2], "frontier.items", minimum=1, maximum=limits.MAX_FRAME_ITEMS)
    items = tuple(parse_item(value, author) for value in values)
    _check_ascending([key for key, _ in items], "frontier.items")
    return Frontier(author, items)


def _want(fields: list[Value]) -> Want:
    key = StreamKey(
        octets(fields[1], "want.author", size=32),
        uint(fields[2], "want.incarnation", minimum=1, maximum=2**32 - 1),
        octets(fields[3], "want.stream", size=STREAM_SIZE),
    )
    ranges = parse_ranges(fields[4], "want.ranges", after=0, maximum=limits.MAX_WANT_RANGES)
    if not 0 < count(ranges) <= limits.MAX_WANT:
        raise LimitError(f"want.ranges names none, or more than {limits.MAX_WANT} envelopes")
    return Want(key, ranges)


def _want_receipts(fields: list[Value]) -> WantReceipts:
    ids = array(fields[1], "want_receipts.ids", minimum=1, maximum=limits.MAX_FRAME_RECEIPTS)
    return WantReceipts(tuple(octets(item, "want_receipts.id", size=32) for item in ids))


def _forked(fields: list[Value]) -> Forked:
    return Forked(octets(fields[1], "forked.proof", maximum=limits.MAX_FORK))


def _runs(fields: list[Value]) -> Runs:
    values = array(fields[3], "runs.runs", minimum=1, maximum=limits.MAX_RUNS)
    runs = tuple(_run(value) for value in values)
    if sum(len(run.ids) for run in runs) > limits.MAX_RUN:
        raise LimitError(f"runs has more than {limits.MAX_RUN} envelopes")
    return Runs(
        octets(fields[1], "runs.recipient", size=32),
        octets(fields[2], "runs.checkpoint", maximum=limits.MAX_SIGNED_HEAD),
        runs,
    )


def _run(value: Value) -> Run:
    first, kind, width, packed, proof = array(value, "run", size=5)
    size = uint(width, "run.id_size", maximum=32)
    if size not in {SHORT_ID, 32}:
        raise FrameError("run.id_size is neither 8 nor 32")
    step = size + RUN_SECRETS
    data = octets(packed, "run.items", maximum=limits.MAX_RUN * step)
    if len(data) % step:
        raise FrameError("run.items is cut short")
    hashes = array(proof, "run.proof", maximum=2 * limits.MAX_PROOF)
    return Run(
        uint(first, "run.first", maximum=limits.MAX_LOG_SIZE),
        uint(kind, "run.kind", maximum=255),
        tuple(data[at : at + size] for at in range(0, len(data), step)),
        tuple(data[at + size : at + step] for at in range(0, len(data), step)),
        tuple(octets(item, "run.proof.hash", size=32) for item in hashes),
    )


def _check_ascending(values: Sequence[_T], field: str) -> None:
    if list(values) != sorted(set(values)):
        raise FrameError(f"{field} is not in ascending order, or has one twice")


def _code(value: Value, field: str) -> str:
    code = text(value, field, maximum=limits.MAX_CODE)
    # Codes reach logs and terminals: nothing in them may be more than a word.
    if not all(
        character.isascii() and (character.isalnum() or character == "-") for character in code
    ):
        raise FrameError(f"{field} is not a code")
    return code


_READERS: Final[dict[int, tuple[int, Callable[[list[Value]], Frame]]]] = {
    1: (7, _hello),
    2: (3, _proof),
    3: (3, _want_statements),
    4: (3, _statements),
    5: (2, _deliver),
    6: (4, _receipts),
    7: (2, _refuse),
    8: (2, _bye),
    9: (2, _settled),
    10: (2, _summary),
    11: (2, _authors),
    12: (3, _frontier),
    13: (5, _want),
    14: (2, _want_receipts),
    15: (2, _forked),
    16: (4, _runs),
    WANT_BLOB: (4, parse_want_blob),
    BLOB: (5, parse_blob_chunk),
    NO_BLOB: (2, parse_no_blob),
    UNOPENED: (3, parse_unopened),
    SEALED_AGAIN: (3, parse_sealed_again),
    **KEY_READERS,
    **LOG_READERS,
}


# --- links -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Transcript:
    """Everything both ends of a link must agree on before they believe each other."""

    dialer_hello: bytes
    acceptor_hello: bytes
    dialer_certificate: bytes
    acceptor_certificate: bytes

    @property
    def digest(self) -> bytes:
        """Return the digest that both proofs sign."""
        parts = (
            self.dialer_hello, self.acceptor_hello,
            self.dialer_certificate, self.acceptor_certificate,
        )  # fmt: skip
        return suite.digest("link", encode(parts))


def proof_label(*, dialer: bool) -> str:
    """Return the signature label of a side, so that neither proof can be sent back as the other."""
    return "link/dialer" if dialer else "link/acceptor"


class Tagger:
    """Tags the frames of one direction of a link, or checks the tags of the other."""

    def __init__(self, transcript: Transcript, *, from_dialer: bool) -> None:
        self._key = suite.digest(
            "frame-key", b"dialer" if from_dialer else b"acceptor", transcript.digest
        )
        self._count = 0

    def _tag(self, payload: bytes) -> bytes:
        counter = self._count.to_bytes(_COUNTER_SIZE, "big")
        return suite.digest("frame", self._key, counter, payload)[:TAG_SIZE]

    def wrap(self, payload: bytes) -> bytes:
        """Return the message for *payload* and count it."""
        message = self._tag(payload) + payload
        self._count += 1
        return message

    def unwrap(self, message: bytes) -> bytes:
        """Return the payload of *message* and count it.

        Raises:
            FrameError: the tag is not that of the next frame of this link and direction.
        """
        tag, payload = message[:TAG_SIZE], message[TAG_SIZE:]
        if not hmac.compare_digest(tag, self._tag(payload)):
            raise FrameError("a frame was altered, lost, repeated or moved from another link")
        self._count += 1
        return payload
