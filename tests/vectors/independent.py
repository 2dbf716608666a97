"""A second reader of the protocol: it follows docs/protocol.md and nothing else.

    python tests/vectors/independent.py            read every vector in this folder

It shares no code with Picket: the standard library, cryptography and msgpack are all it imports.
X-Wing, HPKE and the body encryption are put together here from their parts, as the document has
them. Numbers in comments are sections of the document.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import sys
import unicodedata
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import msgpack
from cryptography import x509
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

Value: TypeAlias = Any  # nothing is known of it before it is checked
Json: TypeAlias = dict[str, Value]
Check: TypeAlias = Callable[[Value], Value]

FOLDER: Final = Path(__file__).parent
FILES: Final = (
    "canonical", "statement", "card", "chain", "envelope", "streams", "frames", "receipt", "blob",
    "fingerprint", "keystore", "policy", "witness", "pairing",
)  # fmt: skip
ZERO: Final = bytes(32)
P: Final = 2**255 - 19
MIB: Final = 2**20
DAY: Final = 86_400_000


class Refused(Exception):  # noqa: N818  the document's word
    """An input that the document tells a reader to refuse, with the code that it gives."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def need(good: object, code: str = "bad-encoding") -> None:
    """Refuse with *code* unless *good*."""
    if not good:
        raise Refused(code)


# --- 2: canonical encoding -------------------------------------------------------------------
def enc(value: object) -> bytes:
    """Return the encoding of a value whose maps are in order."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def read(data: bytes, bound: int) -> Value:
    """Return the value in *data*."""
    need(len(data) <= bound, "over-limit")
    try:
        value = msgpack.unpackb(
            data, raw=False, strict_map_key=False, max_ext_len=0, max_array_len=4_096,
            max_map_len=256, object_pairs_hook=_pairs,
        )  # fmt: skip
    except (ValueError, TypeError, msgpack.UnpackException):
        raise Refused("bad-encoding") from None
    _walk(value, 0)
    need(enc(value) == data)
    return value


def _pairs(pairs: list[tuple[Value, Value]]) -> Json:
    keys = [key for key, _ in pairs]
    need(all(type(key) is str for key in keys))
    raw = [key.encode() for key in keys]
    need(all(a < b for a, b in pairwise(raw)))
    return dict(pairs)


def _walk(value: Value, depth: int) -> None:
    if isinstance(value, str):
        need(len(value.encode()) <= 65_536, "over-limit")
        need(unicodedata.is_normalized("NFC", value))
        need(not any(character < " " and character != "\n" for character in value))
    elif type(value) is int:
        need(-(2**63) <= value < 2**63)
    elif isinstance(value, (list, dict)):
        need(depth < 16, "over-limit")
        for item in value if isinstance(value, list) else [*value, *value.values()]:
            _walk(item, depth + 1)
    else:
        need(value is None or type(value) in {bool, bytes})


# --- 1: field types --------------------------------------------------------------------------
def uint(low: int = 0, high: int = 2**63 - 1) -> Check:
    """uint(a..b)."""

    def check(value: Value) -> Value:
        need(type(value) is int and low <= value <= high)
        return value

    return check


def fixed(size: int) -> Check:
    """bin(n)."""

    def check(value: Value) -> Value:
        need(type(value) is bytes and len(value) == size)
        return value

    return check


def upto(most: int) -> Check:
    """bin(..m)."""

    def check(value: Value) -> Value:
        need(type(value) is bytes and value)
        need(len(value) <= most, "over-limit")
        return value

    return check


def text(most: int = 256) -> Check:
    """text(m)."""

    def check(value: Value) -> Value:
        need(type(value) is str and value and "\n" not in value)
        need(len(value) <= most, "over-limit")
        return value

    return check


def row(*checks: Check) -> Check:
    """array(n), each element with its own type."""

    def check(value: Value) -> Value:
        need(type(value) is list and len(value) == len(checks))
        return [each(item) for each, item in zip(checks, value, strict=True)]

    return check


def many(low: int, high: int, each: Check) -> Check:
    """array(a..b) of one type."""

    def check(value: Value) -> Value:
        need(type(value) is list and len(value) >= low)
        need(len(value) <= high, "over-limit")
        return [each(item) for item in value]

    return check


def maybe(each: Check) -> Check:
    """A type, or nil."""
    return lambda value: None if value is None else each(value)


def record(**checks: Check) -> Check:
    """map{...}, possibly with ext."""

    def check(value: Value) -> Value:
        need(type(value) is dict and set(checks) <= set(value) <= {*checks, "ext"})
        need(type(value.get("ext", {})) is dict)
        return {name: each(value[name]) for name, each in checks.items()}

    return check


bin32, bin64 = fixed(32), fixed(64)


# --- 3: labels and digests -------------------------------------------------------------------
def label(name: str) -> bytes:
    """label(name)."""
    return b"picket/1/" + name.encode() + b"\0"


def h(name: str, *parts: bytes) -> bytes:
    """H(name, ...)."""
    return hashlib.sha256(label(name) + b"".join(parts)).digest()


def _extract(salt: bytes, key: bytes) -> bytes:
    return hmac.new(salt, key, hashlib.sha256).digest()


def _expand(key: bytes, info: bytes, size: int) -> bytes:
    found, block = b"", b""
    while len(found) < size:
        block = hmac.new(key, block + info + bytes([len(found) // 32 + 1]), hashlib.sha256).digest()
        found += block
    return found[:size]


def derive(key: bytes, name: str, context: bytes) -> bytes:
    """derive(key, name, context)."""
    return _expand(_extract(ZERO, key), label(name) + context, 32)


# --- 4: primitives ---------------------------------------------------------------------------
def verify(name: str, key: bytes, message: bytes, signature: bytes) -> None:
    """Verify an Ed25519 signature."""
    verify_raw(key, label(name) + message, signature)


def verify_raw(key: bytes, message: bytes, signature: bytes) -> None:
    """Verify an Ed25519 signature over bytes without label."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        raise Refused("bad-signature") from None


def verify_hybrid(name: str, keys: list[bytes], message: bytes, signatures: list[bytes]) -> None:
    """Verify both signatures."""
    verify(name, keys[0], message, signatures[0])
    try:
        MLDSA65PublicKey.from_public_bytes(keys[1]).verify(signatures[1], label(name) + message)
    except InvalidSignature:
        raise Refused("bad-signature") from None


def _private(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    expanded = hashlib.shake_256(seed).digest(96)
    return (
        MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        X25519PrivateKey.from_private_bytes(expanded[64:]),
    )


def seal_public(seed: bytes) -> bytes:
    """Return the public sealing key of a seed (4.1)."""
    mlkem, x25519 = _private(seed)
    return mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()


def unseal(seed: bytes, sealed: bytes, info: bytes) -> bytes:
    """Open HPKE base mode with X-Wing, HKDF-SHA256 and ChaCha20-Poly1305 (4.1)."""
    mlkem, x25519 = _private(seed)
    pk = x25519.public_key().public_bytes_raw()
    ct_m, ct_x, ciphertext = sealed[:1_088], sealed[1_088:1_120], sealed[1_120:]
    try:
        ss_m = mlkem.decapsulate(ct_m)
        ss_x = x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
    except ValueError:
        raise Refused("cannot-open") from None
    secret = hashlib.sha3_256(ss_m + ss_x + ct_x + pk + bytes.fromhex("5c2e2f2f5e5c")).digest()
    suite = b"HPKE" + bytes.fromhex("647a00010003")
    start = b"HPKE-v1" + suite  # RFC 9180 sections 4 and 5.1

    def extract(salt: bytes, name: bytes, key: bytes) -> bytes:
        return _extract(salt or ZERO, start + name + key)

    def expand(key: bytes, name: bytes, context: bytes, size: int) -> bytes:
        return _expand(key, size.to_bytes(2, "big") + start + name + context, size)

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    key = extract(secret, b"secret", b"")
    try:
        return ChaCha20Poly1305(expand(key, b"key", context, 32)).decrypt(
            expand(key, b"base_nonce", context, 12), ciphertext, None
        )
    except InvalidTag:
        raise Refused("cannot-open") from None


def decrypt_body(key: bytes, context: bytes, data: bytes) -> bytes:
    """Open C2SP chunked encryption with SHA-512 and AES-256-GCM (4.2)."""
    salt, commitment, rest = data[:24], data[24:56], data[56:]
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + salt + context
    derived = HKDFExpand(SHA512(), 76, info).derive(key)
    need(hmac.compare_digest(commitment, derived[44:]), "cannot-open")
    aead, base = AESGCM(derived[:32]), int.from_bytes(derived[32:44], "big")
    size = 16_384 + 16
    chunks = [rest[at : at + size] for at in range(0, len(rest), size)]
    need(chunks and len(chunks[-1]) < size, "cannot-open")
    try:
        return b"".join(
            aead.decrypt((base ^ number).to_bytes(12, "big"), chunk, None)
            for number, chunk in enumerate(chunks)
        )
    except (InvalidTag, ValueError):
        raise Refused("cannot-open") from None


# --- 4.3: checks of public keys --------------------------------------------------------------
def ed25519(value: Value) -> Value:
    """A bin(32) that is an acceptable Ed25519 key."""
    bin32(value)
    y = int.from_bytes(value, "little") & (2**255 - 1)
    need(y < P, "weak-key")
    d = -121665 * pow(121666, -1, P) % P
    square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    need(x * x % P == square, "weak-key")
    for _ in range(3):  # eight times a point of small order is the neutral element
        product = d * x * x * y * y
        x, y = (
            2 * x * y * pow(1 + product, -1, P) % P,
            (y * y + x * x) * pow(1 - product, -1, P) % P,
        )
    need((x, y) != (0, 1), "weak-key")
    return value


def sealing(value: Value) -> Value:
    """A bin(1216) that is an acceptable sealing key."""
    fixed(1_216)(value)
    need(int.from_bytes(value[1_184:], "little") < P, "weak-key")
    try:
        MLKEM768PublicKey.from_public_bytes(value[:1_184])
        trial = X25519PrivateKey.from_private_bytes(b"\x40" * 32)
        trial.exchange(X25519PublicKey.from_public_bytes(value[1_184:]))
    except ValueError:
        raise Refused("weak-key") from None
    return value


def certificate(value: Value) -> Value:
    """A bin(..2048) that is a certificate with an acceptable Ed25519 key."""
    upto(2_048)(value)
    certificate_key(value)
    return value


def certificate_key(der: bytes) -> bytes:
    """Return the Ed25519 key in a certificate."""
    try:
        key = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise Refused("weak-key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise Refused("weak-key")
    public: bytes = ed25519(key.public_bytes_raw())
    return public


hybrid: Final = row(ed25519, fixed(1_952))


# --- 5: key statements -----------------------------------------------------------------------
_WIRE: Final = row(
    upto(1_024), maybe(upto(49_152)), many(0, 16, row(uint(0, 15), bin64, fixed(3_309)))
)
_CORE: Final = row(
    uint(), text(), bin32, bin32, uint(0, 512), bin32, uint(), bin32
)  # fmt: skip


def _inception(body: Value) -> Json:
    return _identity(body, revocation=bin32)


def _identity(body: Value, **more: Check) -> Json:
    found: Json = record(
        keys=many(1, 8, hybrid), threshold=uint(1), next=many(1, 8, bin32),
        next_threshold=uint(1), **more,
    )(body)  # fmt: skip
    need(found["threshold"] <= len(found["keys"]))
    need(found["next_threshold"] <= len(found["next"]))
    _distinct([part for key in found["keys"] for part in key] + found["next"])
    need(not _commitments(found["keys"]) & set(found["next"]), "weak-key")
    return found


def _commitments(keys: list[list[bytes]]) -> set[bytes]:
    return {h("identity-key", *key) for key in keys}


def _revocation(body: Value) -> Json:
    need(type(body) is dict and set(body) == {"code"})
    return {"code": bin32(body["code"])}


def _distinct(keys: list[bytes]) -> None:
    need(len(set(keys)) == len(keys), "weak-key")


def _key_name(value: Value) -> Value:
    text()(value)
    need(len(value.encode()) <= 255, "over-limit")
    need("+" not in value and not any(character.isspace() for character in value))
    return value


def _endpoint(value: Value) -> Value:
    text()(value)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise Refused("bad-encoding") from None
    need(parts.hostname and port and value == f"wss://{parts.netloc}" and "@" not in value)
    return value


def _seal_key(value: Value) -> Value:
    found = row(sealing, uint(), uint())(value)
    need(found[1] < found[2])
    return found


def _card(body: Value) -> Json:
    named = row(_key_name, ed25519, fixed(1_312))
    found: Json = record(
        authority=text(), country=text(2), role=text(), contact=text(),
        endpoints=many(0, 8, _endpoint), expires=uint(), min_suite=uint(1, 255), message=ed25519,
        seal=many(1, 8, _seal_key), link=hybrid, log=named, witness=named,
        tls=many(1, 4, certificate),
    )(body)  # fmt: skip
    need(re.fullmatch("[A-Z]{2}", found["country"]))
    roles = {"national-authority", "regional-centre", "international-organisation"}
    need(found["role"] in roles)
    _distinct(_card_keys(found))
    return found


def _card_keys(card: Json) -> list[bytes]:
    return [
        card["message"], *card["link"], *card["log"][1:], *card["witness"][1:],
        *(key for key, _, _ in card["seal"]), *map(certificate_key, card["tls"]),
    ]  # fmt: skip


def read_statement(wire: bytes) -> Json:
    """Return a statement, well-formed and unverified (5.1)."""
    core, body, signatures = _WIRE(read(wire, 49_152))
    fields = read(core, 1_024)
    need(type(fields) is list and len(fields) == 8)
    need(uint()(fields[0]) == 1, "unsupported-version")
    _, kind, network, node_id, n, prev, issued, digest = _CORE(fields)
    indexes = [index for index, _, _ in signatures]
    need(indexes == sorted(set(indexes)))
    if kind != "rotate":
        need(len(indexes) <= 8, "over-limit")
        need(all(index < 8 for index in indexes))
    found = {
        "wire": wire, "core": core, "type": kind, "network": network, "node_id": node_id, "n": n,
        "prev": prev, "issued": issued, "digest": h("statement", core), "body": None,
        "signatures": signatures, "signers": indexes,
    }  # fmt: skip
    if body is None:
        need(kind == "card" and not signatures)
        return found
    need(h("statement-body", body) == digest)
    readers = {"inception": _inception, "card": _card, "rotate": _identity,
               "recover": _identity, "revoke": _revocation}  # fmt: skip
    need(kind in readers, "unsupported-version")
    if kind == "revoke":
        need((n, prev, issued, signatures) == (0, ZERO, 0, []))
    return {**found, "body": readers[kind](read(body, 49_152))}


def start(first: Json, network: bytes) -> list[Json]:
    """Verify statement 0; return the chain (5.2, 5.4)."""
    need(first["network"] == network, "wrong-network")
    need((first["n"], first["type"], first["prev"]) == (0, "inception", ZERO), "bad-statement")
    fields = read(first["core"], 1_024)
    fields[3] = b""
    need(h("node", enc(fields)) == first["node_id"], "bad-statement")
    _signed(first, (0, first["body"]["keys"], first["body"]["threshold"]))
    return [first]


def _signed(made: Json, *groups: tuple[int, list[list[bytes]], int]) -> None:
    known: dict[int, list[bytes]] = {}
    for first, keys, needed in groups:
        group = {first + at: key for at, key in enumerate(keys)}
        need(len(group.keys() & set(made["signers"])) >= needed, "bad-statement")
        known |= group
    for index, *signatures in made["signatures"]:
        need(index in known, "bad-statement")
        verify_hybrid(f"key/{made['type']}", known[index], made["digest"], signatures)


def extend(chain: list[Json], made: Json) -> list[Json]:
    """Verify a statement as the next one, or as one that is held (5.4)."""
    need(made["network"] == chain[0]["network"], "wrong-network")
    need(made["node_id"] == chain[0]["node_id"], "bad-statement")
    n = made["n"]
    if n < len(chain):
        if chain[n]["digest"] != made["digest"]:
            need(made["body"], "bad-statement")
            _later(chain, made)
            raise Refused("equivocation")
        if chain[n]["body"] is None and made["body"] is not None:
            _later(chain, made)
            return [*chain[:n], made, *chain[n + 1 :]]
        return chain
    need(n == len(chain) and made["prev"] == chain[-1]["digest"], "bad-statement")
    need(made["issued"] >= chain[-1]["issued"], "bad-statement")
    if made["body"] is not None:
        _later(chain, made)
    return [*chain, made]


def _later(chain: list[Json], made: Json) -> None:
    need(made["type"] in {"card", "rotate", "recover"}, "bad-statement")
    below = [each for each in chain[: made["n"]] if each["type"] != "card"]
    before, body = below[-1]["body"], made["body"]
    used = [key for each in below for key in each["body"]["keys"]]
    if made["type"] == "card":
        need({part for key in used for part in key}.isdisjoint(_card_keys(body)), "weak-key")
        need(body["expires"] - made["issued"] <= 400 * DAY, "bad-statement")
        _signed(made, (0, before["keys"], before["threshold"]))
        return
    need(_commitments(body["keys"]) <= set(before["next"]), "bad-statement")
    need(not _commitments(used) & set(body["next"]), "weak-key")
    needed = max(before["next_threshold"], body["threshold"])
    if made["type"] == "recover":
        _signed(made, (0, body["keys"], needed))
    else:
        _signed(made, (0, before["keys"], before["threshold"]), (8, body["keys"], needed))


# --- 5.7: what counts ------------------------------------------------------------------------
def settle(statements: list[Json], network: bytes) -> Json:
    """Return what statements of one node, given from the inception on, come to."""
    chain = start(statements[0], network)
    branches = {chain[0]["digest"]: chain}
    revoked = False
    for made in statements[1:]:
        need(made["network"] == network, "wrong-network")
        if made["type"] == "revoke":
            code = h("revocation-code", made["body"]["code"])
            need(code == chain[0]["body"]["revocation"], "bad-statement")
            need(made["node_id"] == chain[0]["node_id"], "bad-statement")
            revoked = True
        elif made["digest"] not in branches:
            need(made["prev"] in branches, "bad-statement")
            branches[made["digest"]] = extend(branches[made["prev"]], made)
    root, standing, path = chain[0]["digest"], "clear", chain
    while True:
        under = [root]
        for made in sorted((b[-1] for b in branches.values()), key=lambda each: each["n"]):
            if made["type"] == "card" and made["prev"] in under:
                under.append(made["digest"])
        after = [
            made for made in (b[-1] for b in branches.values())
            if made["type"] in {"rotate", "recover"} and made["prev"] in under
        ]  # fmt: skip
        if len(after) == 1:
            root = after[0]["digest"]
            continue
        names = [branches[each][-1]["prev"] for each in under[1:]]
        path = max((branches[each] for each in under), key=len)
        if after:
            standing = "spent"
        elif len(set(names)) < len(names):
            standing = "contradicted"
        return {
            "standing": standing, "revoked": revoked, "path": [made["digest"] for made in path],
        }  # fmt: skip


# --- 5.8: suspensions ------------------------------------------------------------------------
def read_suspension(data: bytes) -> Json:
    """Return a suspension, well-formed and unverified."""
    outer = read(data, 65_536)
    core, signatures = row(
        upto(1_024), many(1, 16, row(bin32, bin64, fixed(3_309)))
    )(outer)  # fmt: skip
    fields = read(core, 1_024)
    need(type(fields) is list and len(fields) == 6)
    need(uint()(fields[0]) == 1, "unsupported-version")
    _, network, node_id, issued, until, reason = row(
        uint(), bin32, bin32, uint(), uint(), text()
    )(fields)  # fmt: skip
    need(0 < until - issued <= 14 * DAY, "bad-statement")
    names = [name for name, _, _ in signatures]
    need(names == sorted(set(names)))
    return {
        "core": core, "network": network, "node_id": node_id, "issued": issued, "until": until,
        "reason": reason, "signatures": signatures,
    }  # fmt: skip


def verify_suspension(made: Json, directory: Json, network: bytes, now: int) -> None:
    """Verify that the directory has signed it and that it counts now."""
    need(made["network"] == network, "wrong-network")
    need(made["issued"] <= now + 600_000 and now < made["until"], "expired")
    keys = [[bytes.fromhex(part) for part in key] for key in directory["keys"]]
    known = {h("identity-key", *key): key for key in keys}
    digest = h("suspend", made["core"])
    count = 0
    for name, *signatures in made["signatures"]:
        if name in known:
            verify_hybrid("suspend", known[name], digest, signatures)
            count += 1
    need(count >= directory["threshold"], "untrusted-key")


def read_bundle(data: bytes, network: bytes) -> list[Json]:
    """Verify a bundle; return the chain (6)."""
    outer = read(data, MIB)
    need(type(outer) is list and len(outer) == 2)
    need(uint()(outer[0]) == 1, "unsupported-version")
    first, *others = map(read_statement, many(1, 512, upto(49_152))(outer[1]))
    chain = start(first, network)
    for made in others:
        chain = extend(chain, made)
    need(chain[-1]["type"] == "card" and chain[-1]["body"], "bad-statement")
    return chain


# --- 6.1, 6.2, 11.7: links, introductions, knocks --------------------------------------------
def read_card_link(shown: str) -> Json:
    """Return what a card link says."""
    shown = shown.strip()
    need(len(shown) <= 1_024, "over-limit")
    found = re.fullmatch(
        r"picket-card:((?:[A-Z2-7]{7}-){7}[A-Z2-7]{7})\?sha256=([0-9a-f]{64})((?:&at=[^&\s]+)*)",
        shown,
    )
    need(found)
    assert found is not None
    at = found[3].split("&at=")[1:]
    need(len(at) <= 8)
    return {
        "node_id": read_id(found[1]), "digest": bytes.fromhex(found[2]),
        "at": [_endpoint(each) for each in at],
    }  # fmt: skip


def _of_bundle(data: bytes, *core: Check) -> Json:
    """Return what a knock or an introduction is made of."""
    core_bytes, bundle, *signatures = row(
        upto(1_024), upto(163_840), bin64, fixed(3_309)
    )(read(data, 172_032))  # fmt: skip
    fields = read(core_bytes, 1_024)
    need(type(fields) is list and len(fields) == len(core))
    need(uint()(fields[0]) == 1, "unsupported-version")
    return {
        "core": core_bytes, "fields": row(*core)(fields), "bundle": bundle,
        "signatures": signatures,
    }  # fmt: skip


def verify_knock(data: bytes, network: bytes, certificate: bytes, now: int) -> Json:
    """Verify a knock at the door with this certificate (11.7)."""
    made = _of_bundle(data, uint(), bin32, bin32, bin32, uint(), bin32)
    _, of, node_id, acceptor, time, digest = made["fields"]
    need(of == network, "wrong-network")
    need(acceptor == h("certificate", certificate), "untrusted-key")
    need(abs(time - now) <= 600_000, "expired")
    need(digest == h("card-bundle", made["bundle"]), "bad-digest")
    head = read_bundle(made["bundle"], network)[-1]
    need(head["node_id"] == node_id, "bad-statement")
    verify_hybrid("knock", head["body"]["link"], h("knock", made["core"]), made["signatures"])
    need(now < head["body"]["expires"], "expired")
    return head


def verify_introduction(data: bytes, network: bytes, to: bytes, key: bytes, now: int) -> Json:
    """Verify an introduction for the node *to* by the link key of its introducer (6.2)."""
    made = _of_bundle(data, uint(), bin32, bin32, uint(0, 511), bin32, bin32, bin32, uint())
    _, of, _, _, reader, node_id, digest, at = made["fields"]
    need(of == network, "wrong-network")
    need(reader == to, "wrong-audience")
    need(-600_000 <= now - at <= 14 * DAY, "expired")
    signed = h("introduction", made["core"])
    verify_hybrid("introduction", [key[:32], key[32:]], signed, made["signatures"])
    need(digest == h("card-bundle", made["bundle"]), "bad-digest")
    head = read_bundle(made["bundle"], network)[-1]
    need(head["node_id"] == node_id, "bad-statement")
    need(now < head["body"]["expires"], "expired")
    return head


def read_armor(block: str) -> bytes:
    """Return the bundle in its text form (6)."""
    need(len(block) <= 2 * MIB, "over-limit")
    block = block.replace("\r\n", "\n").strip()
    begin, end = (f"-----{word} PICKET CARD-----" for word in ("BEGIN", "END"))
    lines = block.split("\n")
    need(lines[0] == begin and lines[-1] == end)
    try:
        bundle = base64.b64decode("".join(lines[1:-1]), validate=True)
    except ValueError:
        raise Refused("bad-encoding") from None
    shown = base64.b64encode(bundle).decode()
    wrapped = [shown[at : at + 64] for at in range(0, len(shown), 64)]
    need(bundle and lines == [begin, *wrapped, end])
    return bundle


# --- 7: what people compare ------------------------------------------------------------------
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def _luhn(block: str) -> str:
    total = 0
    for place, letter in enumerate(block):
        product = _ALPHABET.index(letter) * (1 if place % 2 else 2)
        total += product // 32 + product % 32
    return _ALPHABET[(32 - total % 32) % 32]


def show_id(node_id: bytes) -> str:
    """Return the text form of a node id (7.1)."""
    letters = base64.b32encode(node_id).decode().rstrip("=")
    blocks = [letters[at : at + 13] for at in range(0, 52, 13)]
    shown = "".join(block + _luhn(block) for block in blocks)
    return "-".join(shown[at : at + 7] for at in range(0, 56, 7))


def read_id(shown: str) -> bytes:
    """Return the node id in its text form (7.1)."""
    letters = re.sub(r"[ \n-]", "", shown.strip().upper())
    letters = letters.replace("0", "O").replace("1", "I").replace("8", "B")
    need(len(letters) == 56 and set(letters) <= set(_ALPHABET))
    blocks = [letters[at : at + 14] for at in range(0, 56, 14)]
    need(all(_luhn(block[:13]) == block[13] for block in blocks))
    node_id = base64.b32decode("".join(block[:13] for block in blocks) + "====")
    need(show_id(node_id).replace("-", "") == letters)
    return node_id


def safety_number(a: bytes, b: bytes, network: bytes) -> str:
    """Return the 60 digits of two nodes (7.2)."""
    sides = []
    for node_id in (a, b):
        d = label("safety") + network + node_id
        for _ in range(5_200):
            d = hashlib.sha512(d + node_id).digest()
        groups = [int.from_bytes(d[at : at + 5], "big") % 100_000 for at in range(0, 30, 5)]
        sides.append("".join(f"{group:05}" for group in groups))
    digits = "".join(sorted(sides))
    return " ".join(digits[at : at + 5] for at in range(0, 60, 5))


# --- 8: envelopes ----------------------------------------------------------------------------
_ENVELOPE: Final = row(
    upto(1_024), bin64, upto(73_728), maybe(upto(524_288)), maybe(many(2, 256, upto(1_168)))
)
_HEADER: Final = row(upto(1_024), maybe(bin32), bin32)
_AUDIENCE: Final = row(bin32, many(1, 255, row(bin32, bin32)), many(0, 16, bin32))
_PRE: Final = (
    ("version", uint()), ("suite", uint()), ("network", bin32), ("author", bin32),
    ("card_n", uint(0, 512)), ("incarnation", uint(1, 2**32 - 1)), ("stream", fixed(16)),
    ("seq", uint(1, 2**53)), ("prev", bin32), ("created", uint()), ("expires", uint()),
    ("kind", uint(0, 255)), ("epoch", uint(1, 2**32 - 1)), ("opener", maybe(bin32)),
    ("audience_digest", bin32), ("anchor", maybe(row(text(), uint(0, 2**48), bin32))),
)  # fmt: skip


def read_header(header: bytes) -> Json:
    """Return the fields of a signed header (8.1)."""
    pre, slots_digest, ciphertext_digest = _HEADER(read(header, 1_024))
    values = read(pre, 1_024)
    need(type(values) is list and len(values) == len(_PRE))
    need(uint()(values[0]) == 1 and uint()(values[1]) == 1, "unsupported-version")
    found: Json = {name: check(value) for (name, check), value in zip(_PRE, values, strict=True)}
    need(found["kind"] == 1, "unsupported-version")
    need(0 < found["expires"] - found["created"] <= 90 * DAY)
    need(found["seq"] == 1 or found["prev"] != ZERO)
    return {
        **found, "pre": pre, "id": h("envelope", header), "slots_digest": slots_digest,
        "ciphertext_digest": ciphertext_digest,
    }  # fmt: skip


def read_envelope(wire: bytes) -> Json:
    """Return an envelope, well-formed and unverified (8.1 to 8.3)."""
    header, signature, ciphertext, audience, slots = _ENVELOPE(read(wire, 524_288))
    found = read_header(header)
    later = [part is None for part in (audience, slots, found["slots_digest"])]
    need(all(later) if found["opener"] is not None else not any(later))
    found |= {
        "signature": signature, "ciphertext": ciphertext, "audience_bytes": audience,
        "audience": None, "slots": slots or [],
    }  # fmt: skip
    if audience is not None:
        need(all(len(slot) in {32, 1_168} for slot in slots))
        found["audience"] = _read_audience(audience, found["author"], len(slots))
    return found


def _read_audience(data: bytes, author: bytes, slots: int) -> Json:
    ekid, recipients, carriers = _AUDIENCE(read(data, 524_288))
    ids = [node_id for node_id, _ in recipients]
    good = ids == sorted(set(ids)) and carriers == sorted(set(carriers))
    need(good and len({author, *ids, *carriers}) == 1 + len(ids) + len(carriers), "wrong-audience")
    need(slots == 1 + len(ids), "wrong-audience")
    return {"author_ekid": ekid, "recipients": recipients, "carriers": carriers}


def verify_envelope(made: Json, network: bytes, message_key: bytes) -> None:
    """Verify an envelope, steps 2 to 4 (8.5)."""
    need(made["network"] == network, "wrong-network")
    verify("message", message_key, made["id"], made["signature"])
    need(h("ciphertext", made["ciphertext"]) == made["ciphertext_digest"], "bad-digest")
    if made["audience"] is not None:
        need(h("audience", made["audience_bytes"]) == made["audience_digest"], "bad-digest")
        digests = [slot if len(slot) == 32 else h("slot-digest", slot) for slot in made["slots"]]
        need(h("slots", *digests) == made["slots_digest"], "bad-digest")


def check_epoch(made: Json, opener: Json) -> None:
    """Check that an envelope belongs to the epoch of its opener (8.3)."""
    for name in ("author", "stream", "incarnation", "epoch", "audience_digest"):
        need(made[name] == opener[name], "bad-digest")


def open_slot(opener: Json, node_id: bytes, seed: bytes) -> bytes:
    """Return the epoch key out of our slot (8.3)."""
    audience = opener["audience"]
    members = [[opener["author"], audience["author_ekid"]], *audience["recipients"]]
    places = [at for at, (member, _) in enumerate(members) if member == node_id]
    need(places, "wrong-audience")
    slot, ekid = opener["slots"][places[0]], members[places[0]][1]
    need(len(slot) == 1_168, "cannot-open")
    need(h("ekid", seal_public(seed)) == ekid, "cannot-open")
    return unseal(seed, slot, label("slot") + h("pre", opener["pre"]) + ekid)


def admit(made: Json, view: Json, giver: bytes, now: int) -> str:
    """Return our part in an envelope that *giver* delivered (12.2, steps 2 to 12)."""

    def whole_for(audience: Json, needed: list[bytes]) -> None:
        if made["slots"]:
            members = [made["author"], *(node_id for node_id, _ in audience["recipients"])]
            for member, slot in zip(members, made["slots"], strict=True):
                need(member not in needed or len(slot) == 1_168, "bad-digest")

    def given_by_member(audience: Json) -> None:
        members = [made["author"], *(node_id for node_id, _ in audience["recipients"])]
        need(giver in [*members, *audience["carriers"]], "wrong-audience")

    opener = view["held"].get(made["opener"] or made["id"])
    if made["id"] in view["held"]:
        need(opener, "unknown-epoch")
        given_by_member(opener["audience"])
        return "known"
    own = made["author"] == view["node_id"]
    need(own or made["author"] in view["accepts"], "untrusted-key")
    need((made["author"], made["card_n"]) in view["cards"], "unknown-card")
    message_key = view["cards"][made["author"], made["card_n"]]
    verify_envelope(made, view["network"], message_key)
    audience = made["audience"]
    if audience is None:
        need(opener, "unknown-epoch")
        check_epoch(made, opener)
        audience = opener["audience"]
    given_by_member(audience)
    recipients = [node_id for node_id, _ in audience["recipients"]]
    if own or view["node_id"] in recipients:
        whole_for(audience, [view["node_id"]])
        return "author" if own else "recipient"
    need(view["node_id"] in audience["carriers"], "wrong-audience")
    need(view["carries"], "not-carrying")
    need(now < made["expires"], "expired")
    whole_for(audience, recipients)
    return "carrier"


def padded_size(size: int) -> int:
    """Return the padded size of L = *size* (8.4)."""
    if size <= 1_024:
        return 1_024
    e = size.bit_length() - 1
    step = 1 << (e - e.bit_length())
    return -(-size // step) * step


def open_envelope(made: Json, epoch_key: bytes) -> tuple[bytes, bytes]:
    """Return content key and body (8.4)."""
    digest = h("pre", made["pre"])
    key = derive(epoch_key, "content-key", digest)
    context = label("body") + digest + (made["slots_digest"] or ZERO)
    padded = decrypt_body(key, context, made["ciphertext"])
    size = int.from_bytes(padded[:4], "big")
    good = size <= 65_536 and len(padded) == padded_size(4 + size) and not any(padded[4 + size :])
    need(good, "cannot-open")
    return key, padded[4 : 4 + size]


# --- 9: streams ------------------------------------------------------------------------------
_FORK: Final = row(row(upto(1_024), bin64), row(upto(1_024), bin64))


def read_fork(data: bytes) -> Json:
    """Return a proof that an author forked a stream, unverified (9.3)."""
    pairs = _FORK(read(data, 3_072))
    one, other = ({**read_header(header), "signature": signature} for header, signature in pairs)
    need(all(one[name] == other[name] for name in ("author", "incarnation", "stream")))
    place = one["seq"] == other["seq"] and one["id"] < other["id"]
    need(place or (one["seq"] + 1 == other["seq"] and other["prev"] != one["id"]))
    return {
        "author": one["author"], "incarnation": one["incarnation"], "stream": one["stream"],
        "ids": [one["id"], other["id"]], "seqs": [one["seq"], other["seq"]],
        "digest": h("fork", data), "headers": [one, other],
    }  # fmt: skip


def verify_fork(fork: Json, network: bytes, cards: dict[tuple[bytes, int], bytes]) -> None:
    """Verify both headers of a proof (9.3)."""
    for header in fork["headers"]:
        need(header["network"] == network, "wrong-network")
        need((header["author"], header["card_n"]) in cards, "unknown-card")
        key = cards[header["author"], header["card_n"]]
        verify("message", key, header["id"], header["signature"])


def ranges(after: int, most: int) -> Check:
    """ranges(a, m): ascending, with a gap between neighbours, beginning above a."""

    def check(value: Value) -> Value:
        pairs = many(0, most, row(uint(1, 2**53), uint(1, 2**53)))(value)
        end = after
        for first, last in pairs:
            need(end < first <= last)
            end = last + 1
        return pairs

    return check


def _item(value: Value) -> Value:
    need(type(value) is list and len(value) == 6)
    beyond = ranges(uint(0, 2**53)(value[2]) + 1, 1_024)
    each = (uint(1, 2**32 - 1), fixed(16), uint(0, 2**53), fixed(8), beyond, uint(0, 1))
    found = row(*each)(value)
    need((found[2] == 0) == (found[3] == bytes(8)))
    return found


def _ascending(values: list[Value]) -> None:
    need(all(a < b for a, b in pairwise(values)), "bad-frame")


def _authors(value: Value) -> Value:
    found = many(0, 2_048, row(bin32, fixed(16)))(value)
    _ascending([author for author, _ in found])
    return found


def _items(value: Value) -> Value:
    found = many(1, 1_024, _item)(value)
    _ascending([item[:2] for item in found])
    return found


def _want(value: Value) -> Value:
    found = ranges(0, 256)(value)
    need(0 < sum(last - first + 1 for first, last in found) <= 4_096, "over-limit")
    return found


def frontier_digest(items: list[list[Value]]) -> bytes:
    """Return the digest of items with their authors in front (9.4)."""
    return h("frontier", enc(sorted(items, key=lambda item: item[:3])))


def _held(item: list[Value]) -> list[list[int]]:
    return [*([[1, item[3]]] if item[3] else []), *item[5]]


def lacking(mine: list[Value], theirs: list[Value]) -> list[list[int]]:
    """Return the ranges that one item has and another lacks (9.4)."""
    found = []
    for start, last in _held(theirs):
        first = start
        for low, high in _held(mine):
            if low <= last and high >= first:
                if low > first:
                    found.append([first, low - 1])
                first = high + 1
        if first <= last:
            found.append([first, last])
    return found


def contradict(mine: list[Value], theirs: list[Value]) -> bool:
    """Whether two items have two envelopes under one number, and none is known as forked (9.4)."""
    forked = mine[6] or theirs[6]
    return bool(mine[3] == theirs[3] > 0 and mine[4] != theirs[4] and not forked)


# --- 10 and 11: frames and links -------------------------------------------------------------
def _code(value: Value) -> Value:
    text(64)(value)
    need(re.fullmatch("[A-Za-z0-9-]+", value), "bad-frame")
    return value


def _run(value: Value) -> Value:
    """A run (13.5)."""
    need(type(value) is list and len(value) == 5)
    width = uint(0, 32)(value[2])
    need(width in {8, 32}, "bad-frame")
    items = upto(512 * (width + 48))
    found = row(uint(0, 2**48), uint(0, 255), uint(), items, many(0, 128, bin32))(value)
    need(len(found[3]) % (width + 48) == 0, "bad-frame")
    return found


def _run_items(run: list[Value]) -> list[bytes]:
    step = run[2] + 48
    return [run[3][at : at + step] for at in range(0, len(run[3]), step)]


def _runs(value: Value) -> Value:
    found = many(1, 256, _run)(value)
    need(sum(len(_run_items(run)) for run in found) <= 512, "over-limit")
    return found


def _first_version(value: Value) -> Value:
    need(uint()(value) == 1, "unsupported-version")
    return value


def _fault(value: Value) -> Value:
    need(text(64)(value) in {"cannot-open", "wrong-key"})
    return value


def _inner(most: int, *checks: Check) -> Check:
    """enc(array(n)) of at most so many bytes, a version first (12.11)."""

    def check(value: Value) -> Value:
        row(_first_version, *checks)(read(upto(most)(value), most))
        return value

    return check


_notice: Final = _inner(256, bin32, bin32, uint(0, 511), bin32, _fault, uint())
_new_slot: Final = _inner(
    2_048, bin32, bin32, uint(0, 511), bin32, bin32, bin32, fixed(1_168), uint()
)


def _ids(value: Value) -> Value:
    found = many(1, 1_024, bin32)(value)
    need(all(a < b for a, b in pairwise(found)))
    return found


def _exposure(value: Value) -> Value:
    """A record of a lost key (12.12)."""
    fields = _inner(40_960, bin32, bin32, uint(0, 511), bin32, bin32, uint(), uint(), uint(), _ids)(
        value
    )
    _, _, _, _, _, _, start, end, _, _ = read(value, 40_960)
    need(start <= end, "bad-statement")
    return fields


_RECEIPT: Final = row(bin32, uint(0, 2**48), upto(256), many(0, 64, bin32))
size_of_log: Final = uint(1, 2**48)
_proven: Final = row(size_of_log, many(0, 64, bin32))


def _heads(value: Value) -> Value:
    found = many(1, 256, row(bin32, size_of_log, bin32))(value)
    _ascending([node for node, _, _ in found])
    return found


def _before(frame: Json) -> None:
    """The sizes in a want_consistency or consistency frame ascend, up to its own size."""
    olds = frame["olds"] if "olds" in frame else [old for old, _ in frame["items"]]
    need(all(old <= frame["size"] for old in olds))
    _ascending(olds)


_FRAMES: Final[dict[int, tuple[str, dict[str, Check]]]] = {
    1: ("hello", {"versions": many(1, 16, uint(0, 255)), "network": bin32, "node_id": bin32,
                  "nonce": bin32, "chain_n": uint(0, 511), "chain_head": bin32}),
    2: ("proof", {"ed25519": bin64, "mldsa65": fixed(3_309)}),
    3: ("want_statements", {"node_id": bin32, "first": uint(0, 511)}),
    4: ("statements", {"node_id": bin32, "wires": many(1, 64, upto(49_152))}),
    5: ("deliver", {"wires": many(1, 256, upto(524_288))}),
    6: ("receipts", {"recipient": bin32, "checkpoint": upto(16_384),
                     "items": many(1, 256, _RECEIPT)}),
    7: ("refuse", {"items": many(1, 256, row(bin32, _code, uint(0, 7_776_000_000)))}),
    8: ("bye", {"code": _code}),
    9: ("settled", {"items": many(1, 256, row(bin32, bin32))}),
    10: ("summary", {"digest": bin32}),
    11: ("authors", {"digests": _authors}),
    12: ("frontier", {"author": bin32, "items": _items}),
    13: ("want", {"author": bin32, "incarnation": uint(1, 2**32 - 1), "stream": fixed(16),
                  "ranges": _want}),
    14: ("want_receipts", {"ids": many(1, 256, bin32)}),
    15: ("forked", {"proof": upto(3_072)}),
    16: ("runs", {"recipient": bin32, "checkpoint": upto(16_384), "runs": _runs}),
    17: ("want_blob", {"blob_id": bin32, "first": uint(0, 16_383), "count": uint(1, 16)}),
    18: ("blob", {"blob_id": bin32, "index": uint(0, 16_383), "data": upto(65_552),
                  "proof": many(0, 14, bin32)}),
    19: ("no_blob", {"blob_id": bin32}),
    20: ("unopened", {"notice": _notice, "signature": bin64}),
    21: ("sealed_again", {"slot": _new_slot, "signature": bin64}),
    24: ("cosign", {"request": upto(200_704)}),
    25: ("cosigned", {"status": uint(200, 599), "body": maybe(upto(16_384))}),
    26: ("heads", {"items": _heads}),
    27: ("want_head", {"node_id": bin32, "size": size_of_log}),
    28: ("head", {"node_id": bin32, "note": maybe(upto(16_384))}),
    29: ("want_consistency", {"size": size_of_log, "olds": many(1, 64, size_of_log)}),
    30: ("consistency", {"size": size_of_log, "items": many(0, 64, _proven)}),
    31: ("log_forked", {"node_id": bin32, "proof": upto(397_312)}),
    32: ("want_log", {"path": text(128)}),
    33: ("log_part", {"path": text(128), "body": maybe(upto(196_608))}),
    35: ("exposed", {"record": _exposure, "signature": bin64}),
    36: ("exposure_heard", {"digest": bin32}),
    37: ("suspended", {"wire": upto(65_536)}),
    38: ("seal_challenge", {"ekid": bin32, "sealed": fixed(1_168)}),
    39: ("seal_proof", {"ekid": bin32, "answer": bin32}),
}  # fmt: skip


def read_frame(payload: bytes) -> Json:
    """Return a frame (10)."""
    value = read(payload, MIB)
    need(type(value) is list and value)
    number = uint(0, 255)(value[0])
    need(number in _FRAMES, "bad-frame")
    name, checks = _FRAMES[number]
    fields = row(*checks.values())(value[1:])
    frame = {"type": name, **dict(zip(checks, fields, strict=True))}
    if name in {"want_consistency", "consistency"}:
        _before(frame)
    return frame


def transcript(dialer: bytes, acceptor: bytes, dialer_der: bytes, acceptor_der: bytes) -> bytes:
    """Return T of two hellos and two certificates (11.3)."""
    digests = [h("certificate", der) for der in (dialer_der, acceptor_der)]
    return h("link", enc([dialer, acceptor, *digests]))


def frame_key(side: str, t: bytes) -> bytes:
    """Return the key of what *side* sends (11.4)."""
    return h("frame-key", side.encode(), t)


def tag(key: bytes, n: int, payload: bytes) -> bytes:
    """Return the tag of the n-th frame of a direction (11.4)."""
    return h("frame", key, n.to_bytes(8, "big"), payload)[:16]


class Dialer:
    """The dialing end of one link, as far as it receives (11.5)."""

    def __init__(self, given: Json, held: tuple[int, bytes]) -> None:
        self.given, self.held = given, held
        self.state, self.n, self.t = "hello", 0, b""
        self.peer_chain: tuple[int, bytes] = (0, b"")
        self.bye: str | None = None
        self.asks_from: int | None = None

    def receive(self, message: bytes) -> None:
        """Take one message."""
        need(len(message) <= MIB, "over-limit")
        if self.state == "hello":
            self._hello(message)
            return
        key, payload = frame_key("acceptor", self.t), message[16:]
        need(hmac.compare_digest(message[:16], tag(key, self.n, payload)), "bad-frame")
        self.n += 1
        frame = read_frame(payload)
        if self.state == "proof":
            self._proof(frame)
            return
        need(frame["type"] not in {"hello", "proof"}, "bad-frame")
        if frame["type"] == "runs":
            need(frame["recipient"] == self.given["birch"], "bad-receipt")
            make_whole(frame, [])  # nothing has been sent on this link
        if frame["type"] == "bye":
            self.state, self.bye = "closed", frame["code"]

    def _hello(self, message: bytes) -> None:
        frame, given = read_frame(message), self.given
        need(frame["type"] == "hello", "bad-frame")
        need(1 in frame["versions"], "unsupported-version")
        need(frame["network"] == given["network"], "wrong-network")
        need(frame["node_id"] == given["birch"], "untrusted-key")
        need(message != given["dialer_hello"], "untrusted-key")
        self.peer_chain = (frame["chain_n"], frame["chain_head"])
        self.t = transcript(
            given["dialer_hello"], message, given["dialer_certificate"],
            given["acceptor_certificate"],
        )  # fmt: skip
        self.state = "proof"

    def _proof(self, frame: Json) -> None:
        need(frame["type"] == "proof", "bad-frame")
        signatures = [frame["ed25519"], frame["mldsa65"]]
        verify_hybrid("link/acceptor", self.given["birch_link"], self.t, signatures)
        self.state = "open"
        (n, head), (known, known_head) = self.peer_chain, self.held
        if n > known:
            self.asks_from = known + 1
        elif n == known and head != known_head:
            self.asks_from = n


# --- 13: the log and receipts ----------------------------------------------------------------
_ENTRY: Final = row(uint(1, 1), uint(1, 13), bin32, bin32, fixed(16))


def read_entry(data: bytes) -> Json:
    """Return a log entry (13.2)."""
    _, kind, subject, local, blind = _ENTRY(read(data, 256))
    return {"kind": kind, "subject": subject, "local": local, "blind": blind}


def _base64(shown: str) -> bytes:
    try:
        data = base64.b64decode(shown, validate=True)
    except ValueError:
        raise Refused("bad-encoding") from None
    need(base64.b64encode(data).decode() == shown)
    return data


Lines: TypeAlias = list[tuple[str, bytes, bytes]]


def read_note(data: bytes) -> tuple[str, Lines]:
    """Return text and signature lines of a signed note: name, key id, signature (13.3)."""
    need(len(data) <= 196_608, "over-limit")
    try:
        whole = data.decode()
    except UnicodeDecodeError:
        raise Refused("bad-encoding") from None
    need(not any(character < " " and character != "\n" for character in whole))
    body, found, tail = whole.rpartition("\n\n")
    need(found and body and tail.endswith("\n"))
    lines = tail[:-1].split("\n")
    need(len(lines) <= 64, "over-limit")
    signatures: Lines = []
    for line in lines:
        match = re.fullmatch("\u2014 ([^ ]+) ([^ ]+)", line)
        if match is None:
            raise Refused("bad-encoding")
        name, signature = _key_name(match[1]), _base64(match[2])
        need(len(signature) > 4)
        signatures.append((name, signature[:4], signature[4:]))
    return body + "\n", signatures


def line_of(lines: Lines, name: str, kind: int, key: bytes) -> bytes | None:
    """Return the signature of a known key, which signs once (13.3)."""
    found = [line for by, made, line in lines if (by, made) == (name, key_id(name, kind, key))]
    need(len(found) <= 1)
    return found[0] if found else None


def key_id(name: str, kind: int, key: bytes) -> bytes:
    """Return the id of a note key (13.3)."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + key).digest()[:4]


def read_checkpoint(data: bytes, log: list[Value]) -> Json:
    """Verify a checkpoint under the keys of its log (13.4)."""
    name, ed_key, ml_key = log
    body, signatures = read_note(data)
    origin, size, root = _read_body(body)
    need(origin == name, "bad-signature")
    first, second = line_of(signatures, name, 1, ed_key), line_of(signatures, name, 6, ml_key)
    if first is None or second is None:
        raise Refused("bad-signature")
    _verify_line(1, ed_key, first, name, body)
    _verify_line(6, ml_key, second, name, body)
    time = int.from_bytes(second[:8], "big")
    return {"origin": origin, "size": size, "root": root, "time": time, "text": body}


def check_inclusion(index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes) -> None:
    """Verify that a leaf is in a tree (RFC 9162 section 2.1.3.2)."""
    need(index < size, "bad-proof")
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        need(sn, "bad-proof")
        if fn % 2 or fn == sn:
            r = hashlib.sha256(b"\1" + p + r).digest()
            while fn % 2 == 0 and fn:
                fn, sn = fn // 2, sn // 2
        else:
            r = hashlib.sha256(b"\1" + r + p).digest()
        fn, sn = fn // 2, sn // 2
    need(sn == 0 and r == root, "bad-proof")


def verify_receipts(frame: Json, log: list[Value]) -> Json:
    """Verify a receipts frame, steps 2 to 4 (13.5)."""
    checkpoint = read_checkpoint(frame["checkpoint"], log)
    items = []
    for envelope_id, index, data, proof in frame["items"]:
        try:
            entry = read_entry(data)
        except Refused:
            raise Refused("bad-receipt") from None
        need(entry["subject"] == envelope_id and entry["kind"] in {1, 3, 11}, "bad-receipt")
        leaf = hashlib.sha256(b"\0" + data).digest()
        check_inclusion(index, checkpoint["size"], leaf, proof, checkpoint["root"])
        items.append([envelope_id, index, entry["kind"]])
    return {**checkpoint, "recipient": frame["recipient"], "items": items}


def make_whole(frame: Json, known: list[bytes]) -> Json:
    """Return a runs frame with whole ids, of those sent on the link (13.5, step 2 for runs)."""
    begins = {envelope_id[:8]: envelope_id for envelope_id in known}
    runs = []
    for run in frame["runs"]:
        first, kind, width, _, proof = run
        made = b""
        for item in _run_items(run):
            need(width == 32 or item[:8] in begins, "bad-receipt")
            made += item if width == 32 else begins[item[:8]] + item[8:]
        runs.append([first, kind, 32, made, proof])
    return {**frame, "runs": runs}


class Walk:
    """The way through a tree of *size* leaves beside and inside one run of it (13.5)."""

    def __init__(self, first: int, leaves: list[bytes], size: int, proof: list[bytes]) -> None:
        self.first, self.leaves, self.end = first, leaves, first + len(leaves)
        need(self.end <= size, "bad-proof")
        self.left = list(proof)
        self.met: dict[tuple[int, int], bytes] = {}
        self.root = self._walk(0, size)
        need(not self.left, "bad-proof")

    def _walk(self, low: int, high: int) -> bytes:
        if high <= self.first or self.end <= low:
            need(self.left, "bad-proof")
            found = self.left.pop(0)
        elif high - low == 1:
            found = self.leaves[low - self.first]
        else:
            k = _halfway(low, high)
            left = self._walk(low, k)
            found = hashlib.sha256(b"\1" + left + self._walk(k, high)).digest()
        self.met[low, high] = found
        return found

    def path(self, index: int, size: int) -> list[bytes]:
        """Return the audit path of one leaf of the run (RFC 9162 section 2.1.3.1)."""
        low, high = 0, size
        found: list[bytes] = []
        while high - low > 1:
            k = _halfway(low, high)
            beside = (k, high) if index < k else (low, k)
            low, high = (low, k) if index < k else (k, high)
            found.insert(0, self.met[beside])
        return found


def _halfway(low: int, high: int) -> int:
    """Return where a subtree of more than one leaf parts."""
    step = 1
    while 2 * step < high - low:
        step *= 2
    return low + step


def verify_runs(frame: Json, log: list[Value]) -> tuple[Json, list[Json]]:
    """Verify a runs frame with whole ids, steps 3 to 5; also return what each receipt is (13.5)."""
    checkpoint = read_checkpoint(frame["checkpoint"], log)
    size, made = checkpoint["size"], []
    for run in frame["runs"]:
        first, kind = run[:2]
        need(kind in {1, 3}, "bad-receipt")
        need(run[2] == 32, "bad-receipt")
        items = _run_items(run)
        entries = [enc([1, kind, item[:32], item[32:64], item[64:]]) for item in items]
        leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in entries]
        walk = Walk(first, leaves, size, run[4])
        need(walk.root == checkpoint["root"], "bad-proof")
        for index, (item, entry) in enumerate(zip(items, entries, strict=True), first):
            made.append({
                "envelope_id": item[:32], "index": index, "kind": kind, "entry": entry,
                "proof": walk.path(index, size),
            })  # fmt: skip
    shown = [[each["envelope_id"], each["index"], each["kind"]] for each in made]
    return {**checkpoint, "recipient": frame["recipient"], "items": shown}, made


# --- 13.7: policies, cosigned checkpoints and proof files -------------------------------------
def read_policy(data: bytes) -> Json:
    """Return a policy: its lines, where keys are (name, type, key, address)."""
    try:
        return _read_policy(data)
    except (Refused, UnicodeDecodeError):
        raise Refused("bad-policy") from None


def _read_policy(data: bytes) -> Json:
    need(len(data) <= MIB and data.endswith(b"\n") and data.count(b"\n") <= 1_024)
    need(all(byte in {9, 10} or (byte >= 32 and byte != 127) for byte in data))
    made: Json = {"logs": [], "witnesses": {}, "groups": {}, "quorum": None}
    quorums, used, ids = 0, set[str](), set[tuple[str, bytes]]()
    for line in data[:-1].split(b"\n"):
        need(len(line) <= 8_192)
        words = [word for word in line.decode().replace("\t", " ").split(" ") if word]
        if not words or words[0][0] == "#":
            continue
        need(b"#" not in line)
        kind, label = words[0], words[1] if len(words) > 1 else ""
        if kind == "log":
            need(2 <= len(words) <= 3)
            made["logs"].append(_policy_key(words[1:], {1, 6}, made["logs"], ids))
        elif kind == "witness":
            need(3 <= len(words) <= 4)
            _fresh(label, made)
            others = made["witnesses"].values()
            made["witnesses"][label] = _policy_key(words[2:], {4, 6}, others, ids)
        elif kind == "group":
            need(len(words) >= 4)
            _fresh(label, made)
            members = words[3:]
            for member in members:
                need(member in {**made["witnesses"], **made["groups"]} and member not in used)
                used.add(member)
            made["groups"][label] = (_threshold(words[2], len(members)), members)
        else:
            need(kind == "quorum" and len(words) == 2)
            quorums += 1
            need(label in {**made["witnesses"], **made["groups"], "none": 0})
            made["quorum"] = None if label == "none" else label
    need(quorums == 1)
    return made


def _fresh(label: str, made: Json) -> None:
    need(label != "none" and len(label) <= 256)
    need(label not in made["witnesses"] and label not in made["groups"])


def _threshold(word: str, members: int) -> int:
    if word in {"all", "any"}:
        return members if word == "all" else 1
    need(re.fullmatch("[1-9][0-9]{0,4}", word) and int(word) <= members)
    return int(word)


def _policy_key(
    words: list[str], kinds: set[int], others: Value, ids: set[tuple[str, bytes]]
) -> tuple[str, int, bytes, str]:
    parts = words[0].split("+", 2)
    need(len(parts) == 3)
    name, raw = _key_name(parts[0]), _base64(parts[2])
    need(raw and raw[0] in kinds)
    kind, key = raw[0], raw[1:]
    if kind == 6:
        need(len(key) == 1_312)
    else:
        ed25519(key)
    made = key_id(name, kind, key)
    need(made.hex() == parts[1] and (name, made) not in ids)
    need(all(key != other[2] for other in others))
    ids.add((name, made))
    return name, kind, key, words[1] if len(words) > 1 else ""


def quorum_met(policy: Json, labels: list[str]) -> bool:
    """Say whether witness lines with these labels meet the quorum of a policy."""
    met = {label for label in labels if label in policy["witnesses"]}
    for label, (k, members) in policy["groups"].items():
        if len(met & set(members)) >= k:
            met.add(label)
    return policy["quorum"] is None or policy["quorum"] in met


def check_cosigned(data: bytes, policy: Json) -> Json:
    """Verify a checkpoint with its cosignatures against a policy."""
    body, signatures = read_note(data)
    origin, size, root = _read_body(body)
    signed = 0
    for name, kind, key, _ in policy["logs"]:
        line = line_of(signatures, name, kind, key) if name == origin else None
        if line is not None:
            _verify_line(kind, key, line, name, body)
            signed += 1
    need(signed, "bad-signature")
    times: dict[str, int] = {}
    for label, (name, kind, key, _) in policy["witnesses"].items():
        line = line_of(signatures, name, kind, key)
        if line is not None:
            _verify_line(kind, key, line, name, body)
            times[label] = int.from_bytes(line[:8], "big")
    times = {label: time for label, time in times.items() if time}
    need(quorum_met(policy, list(times)), "bad-proof")
    enough = [
        time
        for time in times.values()
        if quorum_met(policy, [label for label, other in times.items() if other <= time])
    ]
    return {
        "origin": origin, "size": size, "root": root, "labels": sorted(times),
        "not_after": None if policy["quorum"] is None else min(enough),
    }  # fmt: skip


def _verify_line(kind: int, key: bytes, line: bytes, name: str, body: str) -> None:
    if kind == 1:
        need(len(line) == 64, "bad-signature")
        verify_raw(key, body.encode(), line)
        return
    need(len(line) == (72 if kind == 4 else 2_428), "bad-signature")
    time = int.from_bytes(line[:8], "big")
    need(time < 2**63, "bad-signature")
    if kind == 4:
        verify_raw(key, f"cosignature/v1\ntime {time}\n{body}".encode(), line[8:])
        return
    origin, size, root = _read_body(body)
    named, of = name.encode(), origin.encode()
    message = b"subtree/v1\n\0" + bytes([len(named)]) + named + line[:8]
    message += bytes([len(of)]) + of + bytes(8) + size.to_bytes(8, "big") + root
    try:
        MLDSA44PublicKey.from_public_bytes(key).verify(line[8:], message)
    except InvalidSignature:
        raise Refused("bad-signature") from None


def _read_body(body: str) -> tuple[str, int, bytes]:
    match = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]*)\n([^\n]+)\n", body)
    if match is None:
        raise Refused("bad-encoding")
    origin, size, root = _key_name(match[1]), int(match[2]), _base64(match[3])
    need(size <= 2**48 and len(root) == 32)
    return origin, size, root


def verify_proof_file(data: bytes, entry: bytes, policy: Json) -> Json:
    """Verify that an entry is in a log, by a proof file."""
    head, found, note = data.partition(b"\n\n")
    need(found and head.isascii())
    lines = head.decode().split("\n")
    need(lines.pop(0) == "c2sp.org/tlog-proof@v1")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = _base64(lines.pop(0)[6:])
        need(extra)
        need(len(extra) <= 65_536, "over-limit")
    match = re.fullmatch("index (0|[1-9][0-9]{0,15})", lines.pop(0) if lines else "")
    if match is None:
        raise Refused("bad-encoding")
    index = int(match[1])
    need(index < 2**48)
    need(len(lines) <= 64, "over-limit")
    hashes = [_base64(line) for line in lines]
    need(all(len(each) == 32 for each in hashes))
    made = check_cosigned(note, policy)
    leaf = hashlib.sha256(b"\0" + entry).digest()
    check_inclusion(index, made["size"], leaf, hashes, made["root"])
    return {**made, "index": index, "extra": extra}


# --- 13.9 and 13.10: witnesses, consistency, evidence of a rewritten log -------------------------
def prefix_roots(old: int, new: int, path: list[bytes]) -> tuple[bytes, bytes]:
    """Return the roots of both sizes that a path computes; it begins in the old tree (13.10)."""
    need(0 < old < new and path, "bad-proof")
    fn, sn = old - 1, new - 1
    while fn % 2:
        fn, sn = fn // 2, sn // 2
    fr = sr = path[0]
    for c in path[1:]:
        need(sn, "bad-proof")
        if fn % 2 or fn == sn:
            fr, sr = (hashlib.sha256(b"\1" + c + r).digest() for r in (fr, sr))
            while fn % 2 == 0 and fn:
                fn, sn = fn // 2, sn // 2
        else:
            sr = hashlib.sha256(b"\1" + sr + c).digest()
        fn, sn = fn // 2, sn // 2
    need(sn == 0, "bad-proof")
    return fr, sr


EMPTY: Final = hashlib.sha256(b"").digest()


def check_consistency(old: tuple[int, bytes], new: tuple[int, bytes], proof: list[bytes]) -> None:
    """Verify that one tree, of a size and root, extends another (RFC 9162 section 2.1.4.2)."""
    if old[0] in {0, new[0]}:
        need(not proof and (old[0] or old[1] == EMPTY), "bad-proof")
        need(old[0] != new[0] or old == new, "bad-proof")
        return
    path = [old[1], *proof] if old[0] & (old[0] - 1) == 0 else proof
    need(prefix_roots(old[0], new[0], path) == (old[1], new[1]), "bad-proof")


def signed_by(lines: Lines, body: str, logs: list[list[Value]]) -> bool:
    """Whether one of some logs of this origin signed with both keys; a bad signature is refused."""
    origin, signed = _read_body(body)[0], False
    for name, ed_key, ml_key in logs:
        if name == origin:
            found = [line_of(lines, name, kind, key) for kind, key in ((1, ed_key), (6, ml_key))]
            for kind, key, line in zip((1, 6), (ed_key, ml_key), found, strict=True):
                if line is not None:
                    _verify_line(kind, key, line, name, body)
            signed = signed or None not in found
    return signed


def read_log_fork(data: bytes) -> Json:
    """Return evidence that a log contradicts itself, its signatures unverified (13.10)."""
    first, second, path = row(upto(196_608), upto(196_608), many(0, 64, bin32))(read(data, 397_312))
    heads = []
    for note in (first, second):
        body, lines = read_note(note)
        origin, size, root = _read_body(body)
        need(all(name == origin for name, _, _ in lines))
        heads.append((origin, size, root, body, lines))
    (one, old, before, *_), (other, new, after, *_) = heads
    need(one == other and (old, before) < (new, after), "bad-proof")
    if old in {0, new}:
        need(not path and (old == new or before != EMPTY), "bad-proof")
    else:
        found, led = prefix_roots(old, new, path)
        need(led == after and found != before, "bad-proof")
    return {"origin": one, "sizes": [old, new], "heads": heads, "digest": h("log-fork", data)}


def verify_log_fork(data: bytes, logs: list[list[Value]]) -> Json:
    """Verify that a log of *logs* signed both heads of evidence (13.10)."""
    fork = read_log_fork(data)
    for *_, body, lines in fork.pop("heads"):
        need(signed_by(lines, body, logs), "bad-signature")
    return fork


def read_request(data: bytes) -> tuple[int, list[bytes], bytes]:
    """Return old size, proof and note of a request to a witness (13.9)."""
    need(len(data) <= 200_704)
    head, found, note = data.partition(b"\n\n")
    need(found and note and not note.startswith(b"\n") and head.isascii())
    first, *hashes = head.decode().split("\n")
    match = re.fullmatch("old (0|[1-9][0-9]{0,15})", first)
    need(match and len(hashes) <= 63)
    proof = [_base64(each) for each in hashes]
    need(all(len(each) == 32 for each in proof))
    return int(first[4:]), proof, note


def decide(data: bytes, logs: list[list[Value]], seen: tuple[int, bytes] | None) -> Json:
    """Return what a witness that cosigned *seen* answers to a request (13.9)."""

    def answer(status: int, size: int | None = None, conflict: bool = False) -> Json:
        return {"status": status, "size": size, "conflict": conflict}

    try:
        old, proof, note = read_request(data)
        body, lines = read_note(note)
        origin, size, root = _read_body(body)
    except Refused:
        return answer(400)
    if not any(name == origin for name, _, _ in logs):
        return answer(404)
    try:
        need(signed_by(lines, body, logs))
    except Refused:
        return answer(403)
    last = seen or (0, EMPTY)
    conflict = seen is not None and _contradicts(old, proof, (size, root), seen)
    if old > size:
        return answer(400, conflict=conflict)
    if old != last[0]:
        return answer(409, last[0], conflict)
    try:
        check_consistency(last, (size, root), proof)
    except Refused:
        return answer(422, conflict=conflict)
    return answer(200)


def _contradicts(
    old: int, proof: list[bytes], new: tuple[int, bytes], seen: tuple[int, bytes]
) -> bool:
    if new[0] == seen[0]:
        return new[1] != seen[1]
    if old != seen[0]:
        return False
    try:
        found, led = prefix_roots(seen[0], new[0], proof)
    except Refused:
        return False
    return led == new[1] and found != seen[1]


# --- 13.8: what a log keeps of acts ------------------------------------------------------------
def read_access(data: bytes) -> Json:
    """Return an act of reading or giving away, and the subject of its entry."""
    what, ids, who, at, note = row(
        text(), many(0, 64, bin32), text(), uint(),
        lambda value: value if value == "" else text(1_076)(value),
    )(read(data, 8_192))  # fmt: skip
    need(re.fullmatch("[a-z][a-z-]{0,31}", what))
    subject = h("access-act", data)
    return {"what": what, "ids": ids, "who": who, "at": at, "note": note, "subject": subject}


def read_erasure(data: bytes) -> Json:
    """Return an act of erasing."""
    names = ("incident_id", "ref", "revision", "layers", "reason", "by", "who", "at")
    found = row(text(), text(), uint(1), text(), text(), text(), text(), uint())(read(data, 4_096))
    need(found[3] in {"face", "annex", "face annex"})
    reasons = {"legal_order", "personal_data_erasure", "retention", "entered_in_error"}
    need(found[4] in reasons)
    return dict(zip(names, found, strict=True))


# --- 12.10: attachments ----------------------------------------------------------------------
PART: Final = 65_536


def blob_padded(size: int) -> int:
    """Return the padded size of a file."""
    need(size >= 1)
    need(size <= 2**30, "over-limit")
    return padded_size(size)


def blob_count(padded: int) -> int:
    """Return how many chunks a blob has."""
    return (padded + PART - 1) // PART


def blob_aead(key: bytes, size: int) -> AESGCM:
    """Return what encrypts the chunks of a file of *size* bytes."""
    return AESGCM(derive(key, "blob", size.to_bytes(8, "big")))


def blob_leaf(padded: int, data: bytes) -> bytes:
    """Return the leaf hash of a chunk."""
    head = b"\0" + label("blob") + padded.to_bytes(8, "big")
    return hashlib.sha256(head + data).digest()


def tree_root(leaves: list[bytes]) -> bytes:
    """Return the root over leaf hashes (RFC 6962 section 2.1)."""
    if len(leaves) == 1:
        return leaves[0]
    k = _halfway(0, len(leaves))
    return hashlib.sha256(b"\1" + tree_root(leaves[:k]) + tree_root(leaves[k:])).digest()


def seal_blob(file: bytes, key: bytes) -> Json:
    """Return what becomes of a file."""
    padded, aead = blob_padded(len(file)), blob_aead(key, len(file))
    whole, chunks = file + bytes(padded - len(file)), []
    for i in range(blob_count(padded)):
        part = whole[i * PART : (i + 1) * PART]
        chunks.append(aead.encrypt(i.to_bytes(12, "big"), part, None))
    blob = tree_root([blob_leaf(padded, chunk) for chunk in chunks])
    return {"padded": padded, "count": len(chunks), "blob": blob, "last": chunks[-1]}


def verify_blob(frame: Json, padded: int) -> Json:
    """Make the first two checks of a blob frame."""
    index, data, count = frame["index"], frame["data"], blob_count(padded)
    need(index < count)
    need(len(data) == min(PART, padded - index * PART) + 16)
    leaf = blob_leaf(padded, data)
    check_inclusion(index, count, leaf, frame["proof"], frame["blob_id"])
    return {"index": index, "leaf": leaf}


def open_blob(frame: Json, key: bytes, size: int) -> Json:
    """Make the third check of a blob frame; return the bytes of the file in it."""
    try:
        part = blob_aead(key, size).decrypt(frame["index"].to_bytes(12, "big"), frame["data"], None)
    except InvalidTag:
        raise Refused("cannot-open") from None
    end = max(0, size - frame["index"] * PART)
    need(not any(part[end:]), "cannot-open")
    return {"plain": part[:end]}


# --- 18: the keystore ------------------------------------------------------------------------
_KEYSTORE: Final = row(
    text(), uint(), text(), uint(19_456, MIB), uint(1, 10), uint(1, 1), fixed(16), fixed(12),
    upto(65_536),
)  # fmt: skip


def open_keystore(data: bytes, passphrase: str) -> dict[str, bytes]:
    """Return the secrets in a keystore file."""
    typed = unicodedata.normalize("NFC", passphrase.removesuffix("\n"))
    need(8 <= len(typed) <= 1_024, "bad-keystore")
    try:
        fields = _KEYSTORE(read(data, 65_536))
    except Refused:
        raise Refused("bad-keystore") from None
    need(fields[:3] == ["picket-keystore", 1, "argon2id"], "bad-keystore")
    memory, iterations, lanes, salt, nonce, ciphertext = fields[3:]
    key = Argon2id(
        salt=salt, length=32, iterations=iterations, lanes=lanes, memory_cost=memory
    ).derive(typed.encode())
    try:
        plain = AESGCM(key).decrypt(nonce, ciphertext, enc(fields[:8]))
    except InvalidTag:
        raise Refused("wrong-passphrase") from None
    secrets: dict[str, bytes] = read(plain, 65_536)
    return secrets


# --- the vectors -----------------------------------------------------------------------------
class Case:
    """One case of a file."""

    def __init__(self, vectors: Json, case: Json) -> None:
        self.vectors, self.case, self.op = vectors, case, case["op"]

    def given(self, name: str) -> bytes:
        """Return what the file gives under *name*."""
        return bytes.fromhex(self.vectors["given"][name])

    @property
    def data(self) -> bytes:
        """The input, put together."""
        source = self.case["input"]
        if isinstance(source, str):
            return bytes.fromhex(source)
        if "repeat" in source:
            return b"".join(bytes.fromhex(part) * times for part, times in source["repeat"])
        data = self.given(source["of"])
        for at, dropped, put in reversed(source["splices"]):
            data = data[:at] + bytes.fromhex(put) + data[at + dropped :]
        return data


def _plain(value: Value) -> Value:
    """Return bytes as hex, as the expected values have them."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _tagged(value: Value) -> Value:
    """Return a value as canonical.json describes."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if type(value) is int and abs(value) > 2**53:
        return {"int": str(value)}
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if isinstance(value, dict):
        return {"map": [[key, _tagged(item)] for key, item in value.items()]}
    return value


def _canonical(case: Case) -> Json:
    value = read(case.data, MIB)
    return {"value": _tagged(value)} if "value" in case.case.get("expect", {}) else {}


def _shown(made: Json) -> Json:
    body = made["body"] or {}
    ekids = [h("ekid", key) for key, _, _ in body.get("seal", [])]
    return {**made, **body, "ekids": ekids}


def _statement(case: Case) -> Json:
    made = read_statement(case.data)
    if case.op == "statement.parse":
        return _shown(made)
    if case.op == "chain.start":
        return _shown(start(made, case.given(case.case["network"]))[0])
    first, *others = [read_statement(case.given(name)) for name in case.case["chain"]]
    chain = start(first, case.given("network"))
    for other in others:
        chain = extend(chain, other)
    return {**_shown(made), "length": len(extend(chain, made))}


def _history(case: Case) -> Json:
    held = [read_statement(case.given(name)) for name in case.case["held"]]
    return settle([*held, read_statement(case.data)], case.given("network"))


def _suspension(case: Case) -> Json:
    made = read_suspension(case.data)
    verify_suspension(made, case.vectors["directory"], case.given("network"), case.case["now"])
    return made


def _bundle(case: Case) -> Json:
    bundle = case.data if case.op == "bundle.verify" else read_armor(case.data.decode())
    head = read_bundle(bundle, case.given("network"))[-1]
    qr = f"picket-card:{show_id(head['node_id'])}?sha256={h('card-bundle', bundle).hex()}"
    return {"node_id": head["node_id"], "n": head["n"], "head": head["digest"], "qr": qr}


def _knock(case: Case) -> Json:
    door = case.given(case.case["door"])
    return verify_knock(case.data, case.given("network"), door, case.case["now"])


def _introduced(case: Case) -> Json:
    to, key = case.given(case.case["to"]), case.given("introducer")
    return verify_introduction(case.data, case.given("network"), to, key, case.case["now"])


def _card_link(case: Case) -> Json:
    return read_card_link(case.data.decode())


def _envelope(case: Case) -> Json:
    def verified(wire: bytes) -> Json:
        made = read_envelope(wire)
        network, key = (
            case.given(case.case.get(name, name)) for name in ("network", "message_key")
        )
        verify_envelope(made, network, key)
        return made

    if case.op == "envelope.padding":
        sizes = [size for size, _ in case.case["expect"]["sizes"]]
        return {"sizes": [[size, padded_size(4 + size)] for size in sizes]}
    if case.op == "envelope.parse":
        return read_envelope(case.data)
    if case.op == "envelope.admit":
        return {"part": _admit(case)}
    made = verified(case.data)
    if case.op == "envelope.verify":
        return {**made, "slots": len(made["slots"])}
    name = case.case["opener"]
    opener = made if name == "self" else verified(case.given(name))
    if made["id"] != opener["id"]:
        check_epoch(made, opener)
    if case.op == "envelope.epoch":
        return {}
    node = case.vectors["nodes"][case.case["as"]]
    epoch_key = open_slot(opener, bytes.fromhex(node["node_id"]), bytes.fromhex(node["seal_seed"]))
    key, body = open_envelope(made, epoch_key)
    return {"epoch_key": epoch_key, "content_key": key, "body": body}


def _admit(case: Case) -> str:
    rest = case.case

    def node(name: str) -> bytes:
        return bytes.fromhex(case.vectors["nodes"][name]["node_id"])

    held = [read_envelope(case.given(name)) for name in rest["holds"]]
    view = {
        "node_id": node(rest["as"]), "network": case.given(rest["network"]),
        "accepts": list(map(node, rest["accepts"])), "carries": rest["carries"],
        "cards": {(node(name), 1): case.given("message_key") for name in rest["cards"]},
        "held": {made["id"]: made for made in held},
    }  # fmt: skip
    return admit(read_envelope(case.data), view, node(rest["giver"]), rest["now"])


def _fork(case: Case) -> Json:
    fork = read_fork(case.data)
    alder, key = case.given("alder"), case.given("message_key")
    cards = {(alder, n): key for n in case.case.get("cards", [1])}
    verify_fork(fork, case.given(case.case.get("network", "network")), cards)
    return fork


def _frontier(case: Case) -> Json:
    def item(shown: list[Value]) -> list[Value]:
        author, incarnation, stream, contiguous, head, *rest = shown
        raw = [bytes.fromhex(each) for each in (author, stream, head)]
        return [raw[0], incarnation, raw[1], contiguous, raw[2], *rest]

    if case.op == "frontier.compare":
        mine, theirs = item(case.case["mine"]), item(case.case["theirs"])
        return {"wants": lacking(mine, theirs), "contradiction": contradict(mine, theirs)}
    items = [item(shown) for shown in case.case["items"]]
    authors = sorted({each[0] for each in items})
    of_each = [[a, frontier_digest([i for i in items if i[0] == a])[:16]] for a in authors]
    return {"digest": frontier_digest(items), "authors": of_each}


def _frame(case: Case) -> Json:
    if case.op == "frame.decode":
        return read_frame(case.data)
    names = ("dialer_hello", "acceptor_hello", "dialer_certificate", "acceptor_certificate")
    t = transcript(*(case.given(name) for name in names))
    need(t == case.given("transcript"), "transcript")
    keys = [frame_key(side, t) for side in ("dialer", "acceptor")]
    need([key.hex() for key in keys] == case.vectors["given"]["frame_keys"], "frame_keys")
    payloads = [bytes.fromhex(payload) for payload in case.case["expect"]["payloads"]]
    tagged = [tag(keys[1], n, payload) + payload for n, payload in enumerate(payloads)]
    return {"payloads": payloads, "messages": tagged}


def _link(case: Case) -> Json:
    names = ("network", "birch", "dialer_hello", "dialer_certificate", "acceptor_certificate")
    given: Json = {name: case.given(name) for name in names}
    given["birch_link"] = [bytes.fromhex(key) for key in case.vectors["given"]["birch_link"]]
    n, head = case.case.get("held", [1, case.vectors["given"]["birch_head"]])
    dialer = Dialer(given, (n, bytes.fromhex(head)))
    for name in case.case["receives"]:
        dialer.receive(bytes.fromhex(case.vectors["given"]["messages"][name]))
    return {"state": dialer.state, "bye": dialer.bye, "asks_from": dialer.asks_from}


def _log(case: Case) -> Json:
    if case.op == "entry.parse":
        return read_entry(case.data)
    if case.op == "entry.local":
        return {"local": h("log-local", bytes.fromhex(case.case["blind"]), case.data)}
    name, *keys = case.vectors["given"][case.case["log"]]
    log, frame = [name, *map(bytes.fromhex, keys)], read_frame(case.data)
    if case.op == "receipt.verify":
        return verify_receipts(frame, log)
    if case.case["known"] is not None:
        known = [bytes.fromhex(envelope_id) for envelope_id in case.case["known"]]
        frame = make_whole(frame, known)
    found, made = verify_runs(frame, log)
    if case.op == "runs.verify":
        return found
    named = [m for m in made if m["envelope_id"].hex() == case.case["envelope_id"]]
    need(named, "bad-receipt")
    return {**named[0], "recipient": frame["recipient"]}


def _blob(case: Case) -> Json:
    if case.op == "blob.seal":
        return seal_blob(case.data, case.given(case.case["key"]))
    frame = read_frame(case.data)
    if case.op == "blob.verify":
        return verify_blob(frame, case.case["padded"])
    return open_blob(frame, case.given(case.case["key"]), case.case["size"])


def _people(case: Case) -> Json:
    if case.op == "fingerprint.show":
        return {"text": show_id(case.data)}
    shown = case.case["input"]
    if case.op == "fingerprint.read":
        return {"node_id": read_id(shown)}
    digits = re.sub(r"[\s-]", "", shown)
    need(re.fullmatch("[0-9]{60}", digits))
    a, b = (case.given(name) for name in case.case["nodes"])
    number = safety_number(a, b, case.given("network"))
    need(number.replace(" ", "") == digits, "trust-conflict")
    return {"digits": number}


def _keystore(case: Case) -> Json:
    return {"secrets": open_keystore(case.data, case.case["passphrase"])}


def _policy(case: Case) -> Json:
    policy = read_policy(case.data)
    asked = case.case["cosigned"] if "expect" in case.case else []
    return {
        "logs": [
            [name, kind, key_id(name, kind, key), url] for name, kind, key, url in policy["logs"]
        ],
        "witnesses": [
            [label, name, kind, key_id(name, kind, key), url]
            for label, (name, kind, key, url) in policy["witnesses"].items()
        ],
        "groups": [[label, k, members] for label, (k, members) in policy["groups"].items()],
        "quorum": policy["quorum"],
        "satisfied": [quorum_met(policy, labels) for labels in asked],
    }


def _cosigned(case: Case) -> Json:
    return check_cosigned(case.data, read_policy(case.given(case.case["policy"])))


def _proof(case: Case) -> Json:
    policy, entry = read_policy(case.given(case.case["policy"])), case.given(case.case["entry"])
    return verify_proof_file(case.data, entry, policy)


def _named(case: Case) -> list[list[Value]]:
    shown = [case.vectors["given"][name] for name in case.case["logs"]]
    return [[name, *map(bytes.fromhex, keys)] for name, *keys in shown]


def _witness(case: Case) -> Json:
    seen = case.case["seen"]
    return decide(
        case.data, _named(case), None if seen is None else (seen[0], bytes.fromhex(seen[1]))
    )


def _consistency(case: Case) -> Json:
    frame, roots = read_frame(case.data), []
    for old, path in frame["items"]:
        before, after = prefix_roots(old, frame["size"], path)
        need(after.hex() == case.case["head"], "bad-proof")
        roots.append([old, before])
    return {"roots": roots}


def _act(case: Case) -> Json:
    return read_access(case.data) if case.op == "access.parse" else read_erasure(case.data)


_READERS: Final[dict[str, Callable[[Case], Json]]] = {
    "canonical": _canonical, "statement": _statement, "chain": _statement, "bundle": _bundle,
    "history": _history, "suspension": _suspension,
    "knock": _knock, "introduction": _introduced, "cardlink": _card_link,
    "armor": _bundle, "envelope": _envelope, "fork": _fork, "frontier": _frontier,
    "frame": _frame, "link": _link, "receipt": _log, "runs": _log, "blob": _blob,
    "entry": _log, "fingerprint": _people, "safety": _people, "keystore": _keystore,
    "policy": _policy, "cosigned": _cosigned, "proof": _proof, "witness": _witness,
    "consistency": _consistency, "access": _act, "erasure": _act,
    "logfork": lambda case: verify_log_fork(case.data, _named(case)),
}  # fmt: skip


def load(name: str) -> Json:
    """Return one file of vectors."""
    vectors: Json = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return vectors


def examine(vectors: Json, case: Json) -> str | None:
    """Return what is wrong with a case, or None if it is read as it says."""
    reader = _READERS[case["op"].split(".")[0]]
    try:
        found = _plain(reader(Case(vectors, case)))
    except Refused as refused:
        wanted = case.get("code", "accepted")
        return None if refused.code == wanted else f"{refused.code} instead of {wanted}"
    if "code" in case:
        return f"accepted instead of {case['code']}"
    wrong = [key for key, value in case["expect"].items() if found.get(key) != value]
    return f"another {', '.join(wrong)}" if wrong else None


def main() -> int:
    """Read all vectors and say what differs."""
    failures = 0
    for name in FILES:
        vectors = load(name)
        wrong = [(c["name"], examine(vectors, c)) for c in vectors["cases"]]
        bad = [f"  {case}: {why}\n" for case, why in wrong if why is not None]
        failures += len(bad)
        sys.stdout.write(f"{name}: {len(wrong)} cases, {len(bad)} differ\n{''.join(bad)}")
    return int(bool(failures))


if __name__ == "__main__":
    raise SystemExit(main())
