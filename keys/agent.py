"""What a signer in a process of its own is asked, what it answers, and what it signs at all.

    frame   = length (u32 big-endian), canonical msgpack
    request = [1, "about"] | [1, "sign", key, message, source]
    answer  = [1, "about", network, node_id, [ed25519, mldsa65], ed25519 | nil]
            | [1, "signed", [signature, ...]]
            | [1, "refused", code, message, fix]

- One connection carries one request and one answer.
- *key* is ``identity`` or ``message``; *source* is what the message holds only the digest of.
- Nothing is signed that the signer has not read: the identity key signs cards and rotations of its
  own node, the message key what its own node says in envelopes, notices, new slots and reports of
  lost keys. A process that asks for anything else is broken, or somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from protocol import envelope, exposure, limits, reseal, suite
from protocol.canonical import Value, decode, encode
from protocol.errors import DecodeError, LimitError, PeerError, SignatureError, VersionError
from protocol.shape import array, octets, text, uint
from protocol.statement import CARD, ROTATE, HybridKey, parse_statement

VERSION: Final = 1
IDENTITY: Final = "identity"
MESSAGE: Final = "message"
LENGTH_SIZE: Final = 4
_MAX_SIGNATURES: Final = 2
_MAX_SIGNED: Final = limits.MAX_EXPOSURE + 64
_MAX_TEXT: Final = 1_024
_NO_SIGNATURE: Final = bytes(suite.ED25519_SIGNATURE)


@dataclass(frozen=True, slots=True)
class About:
    """Asks whose keys the signer holds."""


@dataclass(frozen=True, slots=True)
class Sign:
    """Asks for the signature of one key over *message*."""

    key: str
    message: bytes
    source: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """Whose keys a signer holds: the public halves; ``message`` is None if it has no such key."""

    network: bytes
    node_id: bytes
    identity: HybridKey
    message: bytes | None


@dataclass(frozen=True, slots=True)
class Signed:
    """The signatures that were asked for: one, or for the identity key two."""

    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing was signed: the code of an error, its message and what to do."""

    code: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What a signature would say, for the signer's journal: in words, and the digest of it."""

    what: str
    digest: bytes
    n: int | None = None
    """The number of a key statement: of two that differ at one number, peers follow neither."""


Asked: TypeAlias = About | Sign
Answer: TypeAlias = Held | Signed | Refused


# --- frames ----------------------------------------------------------------------------------
def frame(data: bytes) -> bytes:
    """Return *data* with its length in front.

    Raises:
        LimitError: it is too long.
    """
    if len(data) > limits.MAX_SIGNER_FRAME:
        raise LimitError(f"a frame has at most {limits.MAX_SIGNER_FRAME} bytes")
    return len(data).to_bytes(LENGTH_SIZE, "big") + data


def frame_size(head: bytes) -> int:
    """Return how many bytes follow the *head* of a frame.

    Raises:
        DecodeError: more than a frame may have, or none.
    """
    size = int.from_bytes(head, "big")
    if len(head) != LENGTH_SIZE or not 0 < size <= limits.MAX_SIGNER_FRAME:
        raise DecodeError(f"a frame has 1 to {limits.MAX_SIGNER_FRAME} bytes")
    return size


def encode_request(request: Asked) -> bytes:
    """Return the canonical bytes of *request*."""
    match request:
        case About():
            return encode([VERSION, "about"])
        case Sign(key, message, source):
            return encode([VERSION, "sign", key, message, source])


def parse_request(data: bytes) -> Asked:
    """Return the request that *data* holds.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it is too long.
        VersionError: it is of another version.
    """
    fields, kind = _fields(data)
    if kind == "about" and len(fields) == 2:  # noqa: PLR2004
        return About()
    if kind != "sign":
        raise DecodeError(f"there is no request {kind!r}")
    fields = array(fields, "request", size=5)
    key = text(fields[2], "request.key")
    if key not in {IDENTITY, MESSAGE}:
        raise DecodeError(f"there is no key {key!r}")
    message = octets(fields[3], "request.message", maximum=_MAX_SIGNED)
    if fields[4] == b"":
        return Sign(key, message, b"")
    return Sign(key, message, octets(fields[4], "request.source", maximum=limits.MAX_STATEMENT))


def encode_answer(answer: Answer) -> bytes:
    """Return the canonical bytes of *answer*."""
    match answer:
        case Held(network, node_id, identity, message):
            return encode([VERSION, "about", network, node_id, list(identity), message])
        case Signed(signatures):
            return encode([VERSION, "signed", list(signatures)])
        case Refused(code, message, fix):
            return encode([VERSION, "refused", code, message, fix])


def parse_answer(data: bytes) -> Answer:
    """Return the answer that *data* holds.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it is too long.
        VersionError: it is of another version.
    """
    fields, kind = _fields(data)
    match kind:
        case "about":
            fields = array(fields, "answer", size=6)
            ed25519, mldsa65 = array(fields[4], "answer.identity", size=2)
            return Held(
                octets(fields[2], "answer.network", size=32),
                octets(fields[3], "answer.node_id", size=32),
                (
                    octets(ed25519, "answer.ed25519", size=suite.ED25519_SIZE),
                    octets(mldsa65, "answer.mldsa65", size=suite.MLDSA65_SIZE),
                ),
                None if fields[5] is None
                else octets(fields[5], "answer.message", size=suite.ED25519_SIZE),
            )  # fmt: skip
        case "signed":
            fields = array(fields, "answer", size=3)
            made = array(fields[2], "answer.signatures", minimum=1, maximum=_MAX_SIGNATURES)
            return Signed(tuple(
                octets(each, "answer.signature", maximum=suite.MLDSA65_SIGNATURE) for each in made
            ))  # fmt: skip
        case "refused":
            fields = array(fields, "answer", size=5)
            fix = "" if fields[4] == "" else text(fields[4], "answer.fix", maximum=_MAX_TEXT)
            return Refused(
                text(fields[2], "answer.code"),
                text(fields[3], "answer.message", maximum=_MAX_TEXT),
                fix,
            )
        case _:
            raise DecodeError(f"there is no answer {kind!r}")


def _fields(data: bytes) -> tuple[list[Value], str]:
    fields = array(decode(data, max_bytes=limits.MAX_SIGNER_FRAME), "frame", minimum=2, maximum=6)
    if (version := uint(fields[0], "frame.version")) != VERSION:
        raise VersionError(f"version {version} of the signer is not known; update Picket")
    return fields, text(fields[1], "frame.kind")


# --- what is signed --------------------------------------------------------------------------
def judge(request: Sign, *, network: bytes, node_id: bytes) -> Judged:
    """Return what *request* asks a signer of the node *node_id* to say.

    Raises:
        PeerError: it is nothing that this key of this node ever says.
    """
    found = _statement(request) if request.key == IDENTITY else _said(request)
    if found.network != network:
        raise DecodeError("it is for another network")
    if found.node_id != node_id:
        raise DecodeError("it is for another node")
    return found.judged


@dataclass(frozen=True, slots=True)
class _Found:
    network: bytes
    node_id: bytes
    judged: Judged


def _statement(request: Sign) -> _Found:
    outer = array(decode(request.source, max_bytes=limits.MAX_STATEMENT), "statement", size=2)
    statement = parse_statement(encode([*outer, []]))
    if statement.body is None or statement.type not in {CARD, ROTATE}:
        raise DecodeError(f"a statement of type {statement.type!r} is not signed here")
    _same(request, suite.label(f"key/{statement.type}") + statement.digest)
    what = f"key statement {statement.n}, {statement.type}"
    judged = Judged(what, statement.digest, statement.n)
    return _Found(statement.network, statement.node_id, judged)


def _said(request: Sign) -> _Found:
    """Return what the message key is asked to say: each label stands before one kind of bytes."""
    said, message = _label(request.message)
    match said:
        case "message":
            header = envelope.parse_header(request.source)
            digest = suite.digest("envelope", request.source)
            _same(request, suite.label("message") + digest)
            what = f"envelope {header.incarnation}/{header.seq}"
            return _Found(header.network, header.author, Judged(what, digest))
        case "unopened":
            notice = reseal.parse_unopened([reseal.UNOPENED, message, _NO_SIGNATURE]).notice
            judged = Judged("notice of an epoch that does not open", suite.digest(said, message))
            return _Found(notice.network, notice.reader, judged)
        case "sealed-again":
            slot = reseal.parse_sealed_again([reseal.SEALED_AGAIN, message, _NO_SIGNATURE]).slot
            judged = Judged("new slot for a reader", suite.digest(said, message))
            return _Found(slot.network, slot.author, judged)
        case exposure.LABEL:
            told = exposure.parse_exposed(message, _NO_SIGNATURE).exposure
            return _Found(
                told.network, told.holder, Judged("report of a lost sealing key", told.digest)
            )
        case _:
            raise DecodeError("the message key signs nothing under that label")


def _label(message: bytes) -> tuple[str, bytes]:
    """Return the label in front of *message*, and what follows it."""
    for name in ("message", "unopened", "sealed-again", exposure.LABEL):
        if message.startswith(suite.label(name)):
            return name, message.removeprefix(suite.label(name))
    return "", message


def _same(request: Sign, expected: bytes) -> None:
    if request.message != expected:
        raise DecodeError("what is to be signed is not the digest of what was shown")


def check_signatures(request: Sign, signed: Signed, held: Held) -> None:
    """Check that *signed* is what was asked for, whoever answered.

    Raises:
        SignatureError: it is not.
    """
    label, _, message = request.message.partition(b"\0")
    name = label.removeprefix(b"picket/1/").decode("ascii", "replace")
    try:
        if request.key == IDENTITY:
            ed25519, mldsa65 = signed.signatures
            suite.verify_hybrid(name, held.identity, message, (ed25519, mldsa65))
        else:
            (signature,) = signed.signatures
            suite.verify(name, held.message or b"", message, signature)
    except (ValueError, PeerError):
        raise SignatureError("the signer answered with something else than its signature") from None
