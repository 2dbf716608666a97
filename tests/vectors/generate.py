"""Makes the vectors of docs/protocol.md again, from seeds and with the code of this repository.

    python -m tests.vectors.generate                    compare with the files; change nothing
    python -m tests.vectors.generate --add card ...     add what these files lack; change nothing
    python -m tests.vectors.generate --write card ...   write these files anew

Ed25519, digests and encodings are deterministic; ML-DSA signatures, HPKE and the salt of a body are
not. Such bytes are frozen: each file names in ``randomised`` what differs each time it is written,
and comparing leaves exactly that out. Whoever writes a file anew replaces vectors that others may
have tested against: do it for a change of the format, and say so in the changelog.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from keys import fingerprint, keystore
from protocol import envelope, limits, merkle, statement, suite
from protocol.access import AccessAct
from protocol.armor import armor
from protocol.canonical import decode, encode
from protocol.checkpoint import Checkpoint, format_body, sign_checkpoint
from protocol.cosignatures import add_signatures
from protocol.entry import EntryKind, local_digest, make_entry, parse_entry
from protocol.erasure import ErasureAct, Reason
from protocol.fork import Fork, SignedHeader, fork_of
from protocol.frames import (
    Authors,
    Bye,
    Deliver,
    Forked,
    Frame,
    Frontier,
    Hello,
    Proof,
    ReceiptItem,
    Receipts,
    Refusal,
    Refuse,
    Run,
    Runs,
    Settled,
    Statements,
    Summary,
    Tagger,
    Transcript,
    Want,
    WantReceipts,
    WantStatements,
    encode_frame,
)
from protocol.frontier import (
    NOTHING,
    Have,
    Item,
    StreamKey,
    author_digests,
    contradicts,
    digest,
    item_value,
    lacking,
)
from protocol.note import (
    Note,
    NoteSignature,
    VerifierKey,
    format_note,
    format_signature,
    format_vkey,
    parse_note,
    parse_vkey,
)
from protocol.policy import Policy, format_policy, make_policy, parse_policy
from protocol.statement import Chain, Statement, make_bundle, parse_statement
from protocol.tlog_proof import TlogProof, format_tlog_proof
from protocol.witness import cosign
from tests.factories import (
    BODY,
    DAY,
    NETWORK,
    NOW,
    TestNode,
    card_body,
    card_of,
    certificate_of,
    epoch_of,
    hybrid,
    inception_of,
    make_continuation,
    make_envelope,
    make_header,
    make_node,
    seed,
)
from tests.vectors import bulk, chains, logs, lost, pairing, slots

Json: TypeAlias = dict[str, Any]

FOLDER: Final = Path(__file__).parent
_NETWORK_NAME: Final = "test.example"
_SAME: Final = 16
_LONG: Final = 256
_P: Final = 2**255 - 19


# --- inputs and cases ------------------------------------------------------------------------
def _splices(base: bytes, changed: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (offset, bytes dropped, bytes put there) that turn *base* into *changed*."""
    at, done = 0, 0
    while (at, done) != (len(base), len(changed)):
        if at < len(base) and done < len(changed) and base[at] == changed[done]:
            at, done = at + 1, done + 1
            continue
        # The next stretch that both have ends the change; what is shorter is chance.
        for end in range(done, len(changed) - _SAME + 1):
            found = base.find(changed[end : end + _SAME], at)
            if found >= 0:
                break
        else:
            found, end = len(base), len(changed)
        yield at, found - at, changed[done:end]
        at, done = found, end


def _like(name: str, base: bytes, changed: bytes) -> Json:
    """Return *changed* as the differences from what the file gives under *name*."""
    splices = [[at, drop, put.hex()] for at, drop, put in _splices(base, changed)]
    return {"of": name, "splices": splices}


def _repeat(*parts: tuple[str, int]) -> Json:
    return {"repeat": [list(part) for part in parts]}


def _folded(data: bytes | Json) -> bytes | Json:
    """Return *data*, where one byte that stands in it very often in a row is written once."""
    if not isinstance(data, bytes):
        return data
    parts: list[tuple[str, int]] = []
    for byte, group in groupby(data):
        times = len(list(group))
        if times >= _LONG:
            parts.append((f"{byte:02x}", times))
        elif parts and parts[-1][1] == 1:
            parts[-1] = (parts[-1][0] + f"{byte:02x}" * times, 1)
        else:
            parts.append((f"{byte:02x}" * times, 1))
    return data if all(times == 1 for _, times in parts) else _repeat(*parts)


def _case(name: str, op: str, given: bytes | Json, **rest: object) -> Json:
    shown: object = given.hex() if isinstance(given, bytes) else given
    return {"name": name, "op": op, "input": shown, **rest}


def plain(value: object) -> object:
    """Return a canonical value as JSON: bytes as {"bytes": hex}, large integers as {"int": text}.

    A JSON number is exact up to 2^53 only.
    """
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return {"int": str(value)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {"map": [[key, plain(item)] for key, item in value.items()]}
    return value


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# --- canonical -------------------------------------------------------------------------------
def canonical_file() -> Json:
    """Return the vectors of section 2."""
    accepted: dict[str, object] = {
        "nil, false and true": [None, False, True],
        "integers of every length": [
            0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1, -1, -32, -33, -128,
            -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63),
        ],
        "byte strings of every length": [b"", b"\0", bytes(255), bytes(256)],
        "texts of every length": ["", "a" * 31, "a" * 32, "a" * 255, "a" * 256],
        "a newline, DEL and letters beyond ASCII in NFC": "line\n\x7f\u00e9\uac00\U0001f9ea",
        "an array of 16": [0] * 16,
        "a map in the order of its UTF-8 bytes": {"": 0, "B": 1, "a": 2, "aa": 3, "\u00e9": 4},
        "maps in maps": {"a": {"b": [{"c": None}]}},
    }  # fmt: skip
    cases = [
        _case(name, "canonical.decode", encode(value), expect={"value": plain(value)})
        for name, value in accepted.items()
    ]
    cases.append(
        _case("16 arrays around one value", "canonical.decode", _repeat(("91", 16), ("c0", 1)),
              expect={})
    )  # fmt: skip
    refused = {
        "nothing": "", "a byte after the value": "c0c0", "the unused byte": "c1",
        "a truncated byte string": "c40200", "a truncated array": "92c0",
        "a truncated integer": "cd01", "0 as u8": "cc00", "127 as u8": "cc7f",
        "255 as u16": "cd00ff",
        "65535 as u32": "ce0000ffff", "2^32 - 1 as u64": "cf00000000ffffffff", "5 as i8": "d005",
        "200 as i16": "d100c8", "-1 as i8": "d0ff", "-128 as i16": "d1ff80",
        "-32768 as i32": "d2ffff8000", "-2^31 as i64": "d3ffffffff80000000",
        "2^63": "cf8000000000000000", "2^64 - 1": "cfffffffffffffffff",
        "float 32": "ca3f800000", "float 64": "cb3ff0000000000000", "NaN": "cb7ff8000000000000",
        "an extension": "d40100", "a timestamp": "d6ff00000000", "an empty extension": "c70001",
        "a text of one byte as str 8": "d90161", "a text of one byte as str 16": "da000161",
        "bytes as bin 16": "c5000100", "bytes as bin 32": "c60000000100",
        "an array as array 16": "dc0001c0", "an array as array 32": "dd00000001c0",
        "a map as map 16": "de0001a161c0", "a map as map 32": "df00000001a161c0",
        "a key twice": "82a161c0a161c0", "keys out of order": "82a162c0a161c0",
        "a longer key before a shorter": "82a26161c0a161c0",
        "an integer as key": "8101c0", "bytes as key": "81c40161c0", "nil as key": "81c0c0",
        "a lone continuation byte": "a180", "an overlong slash": "a2c0af",
        "a surrogate": "a3eda080", "text beyond U+10FFFF": "a4f4908080",
        "NFD text": "a365cc81", "an NFD key": "81a365cc81c0", "a NUL in text": "a100",
        "a tab in text": "a109", "a carriage return in text": "a10d",
        "an escape in a key": "81a11bc0",
    }  # fmt: skip
    cases += [
        _case(name, "canonical.decode", bytes.fromhex(data), code="bad-encoding")
        for name, data in refused.items()
    ]
    bounds: dict[str, tuple[Json, str]] = {
        "17 arrays around one value": (_repeat(("91", 17), ("c0", 1)), "over-limit"),
        "17 maps around one value": (_repeat(("81a161", 17), ("c0", 1)), "over-limit"),
        "an array of 4097": (_repeat(("dc1001", 1), ("c0", 4_097)), "bad-encoding"),
        "a text of 65537 bytes": (_repeat(("db00010001", 1), ("61", 65_537)), "over-limit"),
        "1048577 bytes where 1048576 are allowed": (
            _repeat(("c60010000c", 1), ("00", 2**20 - 4)), "over-limit",
        ),
    }  # fmt: skip
    cases += [
        _case(name, "canonical.decode", given, code=code) for name, (given, code) in bounds.items()
    ]
    return {
        "about": "The one encoding of a value. At most 1,048,576 bytes are allowed here. In "
        "expected values bytes are {bytes: hex}, maps are {map: [[key, value], ...]} and integers "
        "beyond 2^53 are {int: text}.",
        "section": "2",
        "randomised": [],
        "given": {},
        "cases": cases,
    }


# --- statements ------------------------------------------------------------------------------
class _Parts:
    """A statement taken apart, so that one thing in it can be changed."""

    def __init__(self, made: Statement) -> None:
        outer = _list(decode(made.wire, max_bytes=limits.MAX_STATEMENT))
        self.core = _list(decode(_bytes(outer[0]), max_bytes=limits.MAX_HEADER))
        body = decode(_bytes(outer[1]), max_bytes=limits.MAX_STATEMENT)
        assert isinstance(body, dict)
        self.body: dict[str, object] = dict(body)
        self.signatures = _list(outer[2])

    def wire(self, *, digest: bool = True) -> bytes:
        """Return the wire form, with the signatures of the unchanged statement."""
        body = encode(self.body)
        if digest:
            self.core[7] = suite.digest("statement-body", body)
        return encode([encode(self.core), body, self.signatures])

    def signed(self, name: str, *, label: str = "key/card") -> bytes:
        """Return the wire form, signed anew by the identity key of *name*."""
        self.wire()
        core = encode(self.core)
        message = suite.label(label) + suite.digest("statement", core)
        self.signatures = [[0, *hybrid(name, "identity").sign(message)]]
        return self.wire()


def _list(value: object) -> list[Any]:
    assert isinstance(value, list)
    return list(value)


def _bytes(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def _with_core(made: Statement, at: int, value: object) -> bytes:
    parts = _Parts(made)
    parts.core[at] = value
    return parts.wire()


def _with_body(made: Statement, **changes: object) -> bytes:
    parts = _Parts(made)
    parts.body |= changes
    return parts.wire()


def _with_signatures(made: Statement, signatures: list[Any]) -> bytes:
    parts = _Parts(made)
    parts.signatures = signatures
    return parts.wire()


def _three_keys() -> Statement:
    """Return the inception of a node with three identity keys, two of which must sign."""
    signers = [hybrid("elder", f"identity {number}") for number in range(3)]
    body = statement.Inception(
        keys=tuple(signer.public for signer in signers),
        threshold=2,
        next_digests=tuple(
            statement.identity_digest(hybrid("elder", f"next {number}").public)
            for number in range(2)
        ),
        next_threshold=1,
        revocation=statement.revocation_digest(seed("elder", "revocation")),
    )
    made = statement.make_inception(body, network=NETWORK, issued=NOW - DAY, signers=signers)
    parts = _Parts(made)
    return parse_statement(_with_signatures(made, [parts.signatures[0], parts.signatures[2]]))


def _inception_fields(made: Statement) -> Json:
    body = made.body
    assert isinstance(body, statement.Inception)
    return {
        "core": made.core.hex(),
        "type": made.type,
        "network": made.network.hex(),
        "node_id": made.node_id.hex(),
        "n": made.n,
        "issued": made.issued,
        "digest": made.digest.hex(),
        "keys": [[part.hex() for part in key] for key in body.keys],
        "threshold": body.threshold,
        "next": [digest.hex() for digest in body.next_digests],
        "next_threshold": body.next_threshold,
        "revocation": body.revocation.hex(),
        "signers": [signature.index for signature in made.signatures],
    }


def statement_file() -> Json:
    """Return the vectors of sections 5.1, 5.2 and 5.4 for inceptions."""
    born, three = inception_of("alder"), _three_keys()
    parts = _Parts(born)
    good = parts.signatures[0]
    index, ed25519, mldsa65 = good
    keys = parts.body["keys"]
    small = (1).to_bytes(32, "little")

    def like(changed: bytes) -> Json:
        return _like("inception", born.wire, changed)

    extended = _Parts(born)
    extended.body["ext"] = {"later": 1}
    moved = _Parts(born)
    moved.core[5] = seed("any", "digest")
    moved.core[3] = b""
    moved.core[3] = suite.digest("node", encode(moved.core))
    lacking = _Parts(born)
    del lacking.body["revocation"]
    changed_body = _Parts(born)
    changed_body.body["threshold"] = 2
    alone = _with_signatures(three, _Parts(three).signatures[:1])
    parse: dict[str, tuple[bytes, str]] = {
        "a byte after it": (born.wire + b"\0", "bad-encoding"),
        "its last byte missing": (born.wire[:-1], "bad-encoding"),
        "two parts": (encode([born.core, encode(parts.body)]), "bad-encoding"),
        "core not a byte string": (encode([None, encode(parts.body), [good]]), "bad-encoding"),
        "version 2": (_with_core(born, 0, 2), "unsupported-version"),
        "type crown": (_with_core(born, 1, "crown"), "unsupported-version"),
        "type card over the body of an inception": (_with_core(born, 1, "card"), "bad-encoding"),
        "a network of 31 bytes": (_with_core(born, 2, NETWORK[:31]), "bad-encoding"),
        "number -1": (_with_core(born, 4, -1), "bad-encoding"),
        "number 513": (_with_core(born, 4, 513), "bad-encoding"),
        "number true": (_with_core(born, 4, True), "bad-encoding"),
        "a body that differs from its digest": (changed_body.wire(digest=False), "bad-encoding"),
        "no body": (encode([born.core, None, []]), "bad-encoding"),
        "the same index twice": (_with_signatures(born, [good, good]), "bad-encoding"),
        "indexes descending": (
            _with_signatures(born, [[1, ed25519, mldsa65], good]), "bad-encoding",
        ),
        "index 8": (_with_signatures(born, [[8, ed25519, mldsa65]]), "bad-encoding"),
        "an Ed25519 signature of 63 bytes": (
            _with_signatures(born, [[index, ed25519[:63], mldsa65]]), "bad-encoding",
        ),
        "no ML-DSA signature": (_with_signatures(born, [[index, ed25519]]), "bad-encoding"),
        "no identity key": (_with_body(born, keys=[]), "bad-encoding"),
        "nine commitments": (
            _with_body(born, next=[seed("next", str(n)) for n in range(9)]), "over-limit",
        ),
        "the same commitment twice": (_with_body(born, next=[small, small]), "weak-key"),
        "an identity key of small order": (
            _with_body(born, keys=[[small, _list(keys)[0][1]]]), "weak-key",
        ),
        "threshold 0": (_with_body(born, threshold=0), "bad-encoding"),
        "threshold 2 of one key": (_with_body(born, threshold=2), "bad-encoding"),
        "next threshold 2 of one": (_with_body(born, next_threshold=2), "bad-encoding"),
        "an unknown field": (_with_body(born, later=1), "bad-encoding"),
        "a field missing": (lacking.wire(), "bad-encoding"),
        "ext that is no map": (_with_body(born, ext=1), "bad-encoding"),
    }  # fmt: skip
    start: dict[str, tuple[bytes, str]] = {
        "a changed node id": (_with_core(born, 3, seed("other", "id")), "bad-statement"),
        "a predecessor": (moved.signed("alder", label="key/inception"), "bad-statement"),
        "no signature": (_with_signatures(born, []), "bad-statement"),
        "signed by a key that does not exist": (
            _with_signatures(born, [good, [1, ed25519, mldsa65]]), "bad-statement",
        ),
        "the Ed25519 signature changed": (
            _with_signatures(born, [[0, _flip(ed25519, 9), mldsa65]]), "bad-signature",
        ),
        "the ML-DSA signature changed": (
            _with_signatures(born, [[0, ed25519, _flip(mldsa65, 9)]]), "bad-signature",
        ),
        "signed under the label of a card": (_Parts(born).signed("alder"), "bad-signature"),
    }  # fmt: skip
    rest = {"network": "network"}
    cases = [
        _case("an inception", "chain.start", like(born.wire), **rest,
              expect=_inception_fields(born)),
        _case("an inception with three keys, two of which sign", "chain.start",
              _like("three_keys", three.wire, three.wire), **rest, expect=_inception_fields(three)),
        _case("a field of a later version in ext", "chain.start",
              like(_resigned_inception(extended)), **rest, expect={"type": "inception", "n": 0}),
        *(_case(n, "statement.parse", like(w), code=c) for n, (w, c) in parse.items()),
        _case("49153 bytes", "statement.parse", _repeat(("c500010000", 1), ("00", 49_148)),
              code="over-limit"),
        *(_case(n, "chain.start", like(w), **rest, code=c) for n, (w, c) in start.items()),
        _case("one signature where two are needed", "chain.start",
              _like("three_keys", three.wire, alone), **rest, code="bad-statement"),
        _case("the inception of another network", "chain.start", like(born.wire),
              network="other_network", code="wrong-network"),
    ]  # fmt: skip
    return {
        "about": "Inceptions. Bytes are hex. `of` names an entry of `given`; each splice is "
        "[offset in it, bytes dropped there, hex put there]. `repeat` is [hex, times], joined. "
        "Keys come from seeds: SHA-256 of the ASCII texts under `seeds`.",
        "section": "5",
        "randomised": ["/given/inception", "/given/three_keys", "/cases/*/input/splices"],
        "seeds": {
            "identity key of inception": ["alder/identity/ed", "alder/identity/ml"],
            "identity keys of three_keys": [
                [f"elder/identity {n}/ed", f"elder/identity {n}/ml"] for n in range(3)
            ],
            "next key of inception": ["alder/next/ed", "alder/next/ml"],
            "revocation code of inception": "alder/revocation",
        },
        "given": {
            "network_name": _NETWORK_NAME,
            "network": NETWORK.hex(),
            "other_network": suite.network_id("other.example").hex(),
            "inception": born.wire.hex(),
            "three_keys": three.wire.hex(),
        },
        "cases": cases,
    }


def _resigned_inception(parts: _Parts) -> bytes:
    parts.wire()
    parts.core[3] = b""
    parts.core[3] = suite.digest("node", encode(parts.core))
    return parts.signed("alder", label="key/inception")


# --- cards -----------------------------------------------------------------------------------
def _card_fields(made: Statement) -> Json:
    card = made.body
    assert isinstance(card, statement.Card)
    return {
        "core": made.core.hex(),
        "type": made.type,
        "n": made.n,
        "prev": made.prev.hex(),
        "issued": made.issued,
        "digest": made.digest.hex(),
        "authority": card.authority,
        "country": card.country,
        "role": card.role,
        "contact": card.contact,
        "endpoints": list(card.endpoints),
        "expires": card.expires,
        "min_suite": card.min_suite,
        "message": card.message.hex(),
        "seal": [[key.public.hex(), key.not_before, key.not_after] for key in card.seal],
        "ekids": [key.ekid.hex() for key in card.seal],
        "link": [part.hex() for part in card.link],
        "log": [card.log.name, card.log.ed25519.hex(), card.log.mldsa44.hex()],
        "witness": [card.witness.name, card.witness.ed25519.hex(), card.witness.mldsa44.hex()],
        "tls": [der.hex() for der in card.tls],
    }


def card_file() -> Json:
    """Return the vectors of sections 5.3 to 5.5 and 6."""
    born = inception_of("alder")
    chain = Chain.start(born, network=NETWORK)
    first = card_of(chain, "alder")
    longer = chain.extend(first)
    second = card_of(longer, "alder", issued=NOW, contact="night@alder.example")
    bundle = make_bundle(longer.extend(second))
    rival = card_of(chain, "alder", contact="rival@alder.example")
    text = armor(bundle)
    given = {
        "network": NETWORK.hex(), "inception": born.wire.hex(), "card": first.wire.hex(),
        "second": second.wire.hex(), "skeleton": first.skeleton().hex(), "bundle": bundle.hex(),
        "armor": text.encode().hex(),
    }  # fmt: skip
    return {
        "about": "Cards of one node, their chain, its bundle and its text form. `chain` names the "
        "statements that are held already. Other fields as in statement.json.",
        "section": "5.3 to 6",
        "randomised": [
            "/given/inception", "/given/card", "/given/second", "/given/bundle", "/given/armor",
            "/cases/*/input/splices", "/cases/*/expect/qr",
        ],
        "seeds": {
            "identity key": ["alder/identity/ed", "alder/identity/ml"],
            "message key": "alder/message", "sealing key": "alder/seal",
            "link key": ["alder/link/ed", "alder/link/ml"],
            "log keys": ["alder/log", "alder/log44"],
            "witness keys": ["alder/witness", "alder/wit44"], "TLS key": "alder/tls",
        },
        "given": given,
        "cases": [
            *_card_accepted(first, second, longer.extend(second), bundle),
            *_card_refused(born, first),
            *_chain_refused(born, first, second, rival),
            *_bundle_refused(born, first, second, bundle, text),
        ],
    }  # fmt: skip


def _card_accepted(first: Statement, second: Statement, chain: Chain, bundle: bytes) -> list[Json]:
    shown = fingerprint.format_node_id(chain.node_id)
    qr = f"picket-card:{shown}?sha256={suite.digest('card-bundle', bundle).hex()}"
    whole = {"node_id": chain.node_id.hex(), "n": 2, "head": chain.head.digest.hex()}
    return [
        _case("a card", "chain.extend", {"of": "card", "splices": []}, chain=["inception"],
              expect={**_card_fields(first), "length": 2}),
        _case("the card that follows", "chain.extend", {"of": "second", "splices": []},
              chain=["inception", "card"],
              expect={"n": 2, "prev": first.digest.hex(), "digest": second.digest.hex(),
                      "contact": "night@alder.example", "length": 3}),
        _case("the same card again", "chain.extend", {"of": "card", "splices": []},
              chain=["inception", "card", "second"], expect={"n": 1, "length": 3}),
        _case("a replaced card as its skeleton", "chain.extend", {"of": "second", "splices": []},
              chain=["inception", "skeleton"],
              expect={"n": 2, "length": 3, "prev": first.digest.hex()}),
        _case("the full card in place of its skeleton", "chain.extend",
              {"of": "card", "splices": []}, chain=["inception", "skeleton", "second"],
              expect={"n": 1, "length": 3}),
        _case("a bundle", "bundle.verify", {"of": "bundle", "splices": []}, expect=whole),
        _case("the text form of the bundle", "armor.read", {"of": "armor", "splices": []},
              expect={**whole, "qr": qr}),
    ]  # fmt: skip


def _card_refused(born: Statement, first: Statement) -> list[Json]:
    """Return cards with one bad field. The signatures are stale: a reader stops before them."""
    body = card_body("alder")
    public, low = body.seal[0].public, (1).to_bytes(32, "little")
    other = certificate_of("alder", ec.derive_private_key(7, ec.SECP256R1()))
    log, span = list(_bytes_of(body.log)), (NOW - DAY, NOW + 300 * DAY)
    ed25519, mldsa65 = body.link
    outside = "bad-encoding"
    fields: dict[str, tuple[Json, str]] = {
        "authority empty": ({"authority": ""}, outside),
        "authority with a line break": ({"authority": "Al\ner"}, outside),
        "authority of 257 characters": ({"authority": "a" * 257}, "over-limit"),
        "country in small letters": ({"country": "xa"}, outside),
        "country of three letters": ({"country": "XAA"}, "over-limit"),
        "a role that does not exist": ({"role": "national-authoritx"}, outside),
        "an endpoint without TLS": ({"endpoints": ["ws://127.0.0.1:84620"]}, outside),
        "an endpoint without port": ({"endpoints": ["wss://127.0.0.1.test"]}, outside),
        "an endpoint with a path": ({"endpoints": ["wss://127.0.0.1:846/"]}, outside),
        "an endpoint with a user": ({"endpoints": ["wss://a@127.0.0.1:84"]}, outside),
        "nine endpoints": ({"endpoints": ["wss://a:1"] * 9}, "over-limit"),
        "suite 0": ({"min_suite": 0}, outside),
        "a message key of small order": ({"message": low}, "weak-key"),
        "a message key with y = p": ({"message": _P.to_bytes(32, "little")}, "weak-key"),
        "a message key off the curve": ({"message": (2).to_bytes(32, "little")}, "weak-key"),
        "no sealing key": ({"seal": []}, outside),
        "a sealing key of 1215 bytes": ({"seal": [[public[:-1], *span]]}, outside),
        "a sealing key that ends as it begins": ({"seal": [[public, NOW, NOW]]}, outside),
        "a sealing key whose X25519 half has low order": (
            {"seal": [[public[:1_184] + low, *span]]}, "weak-key",
        ),
        "a sealing key whose X25519 half is not reduced": (
            {"seal": [[public[:1_184] + (_P + 9).to_bytes(32, "little"), *span]]}, "weak-key",
        ),
        "a sealing key whose ML-KEM half is not reduced": (
            {"seal": [[b"\xff\xff\xff" + public[3:], *span]]}, "weak-key",
        ),
        "a link key of small order": ({"link": [low, mldsa65]}, "weak-key"),
        "a link key used as message key too": ({"message": ed25519}, "weak-key"),
        "a plus sign in the name of the log": ({"log": ["alder+example/log", *log[1:]]}, outside),
        "a space in the name of the log": ({"log": ["alder example/log", *log[1:]]}, outside),
        "a log name of 256 bytes": ({"log": ["a" * 256, *log[1:]]}, "over-limit"),
        "no certificate": ({"tls": []}, outside),
        "a damaged certificate": ({"tls": [_flip(body.tls[0], 1)]}, "weak-key"),
        "the certificate of a P-256 key": ({"tls": [other]}, "weak-key"),
    }  # fmt: skip
    return [
        _case(name, "chain.extend", _like("card", first.wire, _with_body(first, **changes)),
              chain=["inception"], code=code)
        for name, (changes, code) in {
            **fields,
            "an identity key used as message key too": (
                {"message": hybrid("alder", "identity").public[0]}, "weak-key",
            ),
            "a life of more than 400 days": (
                {"expires": born.issued + 400 * DAY + 1}, "bad-statement",
            ),
        }.items()
    ]  # fmt: skip


def _bytes_of(keys: statement.NamedKeys) -> tuple[object, ...]:
    return keys.name, keys.ed25519, keys.mldsa44


def _chain_refused(
    born: Statement, first: Statement, second: Statement, rival: Statement
) -> list[Json]:
    index, ed25519, mldsa65 = _Parts(first).signatures[0]
    early = _Parts(first)
    early.core[6] = born.issued - 1
    born_again = _Parts(born)
    born_again.core[4], born_again.core[5] = 1, born.digest

    def card(changed: bytes) -> Json:
        return _like("card", first.wire, changed)

    alone, both = ["inception"], ["inception", "card"]
    named: list[tuple[str, Json, list[str], str]] = [
        ("of another network", card(_with_core(first, 2, suite.network_id("other.example"))),
         alone, "wrong-network"),
        ("of another node", card(_with_core(first, 3, seed("other", "id"))), alone,
         "bad-statement"),
        ("a number left out", {"of": "second", "splices": []}, alone, "bad-statement"),
        ("another predecessor", card(_with_core(first, 5, seed("any", "digest"))), alone,
         "bad-statement"),
        ("dated before its predecessor", card(early.signed("alder")), alone, "bad-statement"),
        ("a second inception", _like("inception", born.wire, born_again.signed(
            "alder", label="key/inception")), alone, "bad-statement"),
        ("no signature", card(_with_signatures(first, [])), alone, "bad-statement"),
        ("the Ed25519 signature changed",
         card(_with_signatures(first, [[index, _flip(ed25519, 40), mldsa65]])), alone,
         "bad-signature"),
        ("the ML-DSA signature changed",
         card(_with_signatures(first, [[index, ed25519, _flip(mldsa65, 40)]])), alone,
         "bad-signature"),
        ("signed by another node", card(_Parts(first).signed("birch")), alone, "bad-signature"),
        ("signed under the label of an inception",
         card(_Parts(first).signed("alder", label="key/inception")), alone, "bad-signature"),
        ("two signed statements of one number", card(rival.wire), both, "equivocation"),
        ("a contradiction without signature",
         _like("skeleton", first.skeleton(), rival.skeleton()), both, "bad-statement"),
        ("a contradiction with a stale signature",
         card(_with_core(first, 6, first.issued + 1)), both, "bad-signature"),
        ("a skeleton with a signature",
         _like("skeleton", first.skeleton(),
               encode([first.core, None, _Parts(first).signatures])), alone, "bad-encoding"),
    ]  # fmt: skip
    return [
        _case(name, "chain.extend", given, chain=chain, code=code)
        for name, given, chain, code in named
    ]


def _bundle_refused(
    born: Statement, first: Statement, second: Statement, bundle: bytes, text: str
) -> list[Json]:
    bundles: dict[str, tuple[bytes, str]] = {
        "a bundle of version 2": (
            encode([2, [born.wire, first.skeleton(), second.wire]]), "unsupported-version",
        ),
        "an empty bundle": (encode([1, []]), "bad-encoding"),
        "a bundle without card": (encode([1, [born.wire]]), "bad-statement"),
        "a bundle that ends in a skeleton": (
            encode([1, [born.wire, first.skeleton()]]), "bad-statement",
        ),
        "a bundle without inception": (encode([1, [first.wire, second.wire]]), "bad-statement"),
        "a bundle with a gap": (encode([1, [born.wire, second.wire]]), "bad-statement"),
        "a bundle with a byte after it": (bundle + b"\0", "bad-encoding"),
    }  # fmt: skip
    lines = text.splitlines()
    texts = {
        "no first line": "\n".join(lines[1:]),
        "no last line": "\n".join(lines[:-1]),
        "text before the block": "card:\n" + text,
        "a line left out": "\n".join([*lines[:5], *lines[6:]]),
        "a line of 63 characters": text.replace(lines[5], lines[5][:-1] + "\n" + lines[5][-1]),
        "a space inside": text.replace(lines[5], " " + lines[5][1:]),
        "an empty line inside": text.replace(lines[5], lines[5] + "\n"),
        "a character outside base64": text.replace(lines[5], "-" + lines[5][1:]),
        "no data": "\n".join([lines[0], lines[-1]]),
    }
    return [
        *(_case(name, "bundle.verify", _like("bundle", bundle, changed), code=code)
          for name, (changed, code) in bundles.items()),
        *(_case(f"text form: {name}", "armor.read",
                _like("armor", text.encode(), changed.encode()), code="bad-encoding")
          for name, changed in texts.items()),
    ]  # fmt: skip


# --- envelopes -------------------------------------------------------------------------------
def _wire_of(
    pre: bytes, author: TestNode, ciphertext: bytes, audience: object, slots: list[bytes] | None
) -> bytes:
    """Return an envelope of exactly these parts, signed."""
    digest = None
    if slots is not None:
        digest = suite.digest("slots", *(suite.digest("slot-digest", slot) for slot in slots))
    header = encode([pre, digest, suite.digest("ciphertext", ciphertext)])
    signature = author.message.sign(suite.label("message") + suite.digest("envelope", header))
    return encode([header, signature, ciphertext, audience, slots])


def _header_fields(made: envelope.Envelope) -> Json:
    header = made.header
    return {
        "pre": made.pre.hex(), "id": made.id.hex(), "network": header.network.hex(),
        "author": header.author.hex(), "card_n": header.card_n,
        "incarnation": header.incarnation, "stream": header.stream.hex(), "seq": header.seq,
        "prev": header.prev.hex(), "created": header.created, "expires": header.expires,
        "kind": header.kind, "epoch": header.epoch,
        "opener": None if header.opener is None else header.opener.hex(),
        "audience_digest": header.audience_digest.hex(),
        "slots_digest": None if made.slots_digest is None else made.slots_digest.hex(),
        "ciphertext_digest": made.ciphertext_digest.hex(), "signature": made.signature.hex(),
    }  # fmt: skip


class _Scene:
    """One epoch of two envelopes, and what can go wrong with them."""

    def __init__(self) -> None:
        self.alder, self.birch, self.cedar, self.dogwood, self.elm = self.nodes = tuple(
            map(make_node, ("alder", "birch", "cedar", "dogwood", "elm"))
        )
        self.opener = make_envelope(self.alder, [self.birch, self.cedar], [self.dogwood])
        self.long_body = encode({"text": "b" * 20_000})
        self.continuation = make_continuation(self.alder, self.opener, body=self.long_body)
        self.short = make_continuation(self.alder, self.opener, seq=3, prev=self.continuation.id)
        self.epoch = epoch_of(self.opener, self.alder)
        self.pruned = envelope.prune(self.opener, keep=frozenset({self.alder.id, self.birch.id}))

    def outer(self) -> list[Any]:
        return _list(decode(self.opener.wire, max_bytes=limits.MAX_ENVELOPE))

    def with_outer(self, at: int, value: object) -> bytes:
        parts = self.outer()
        parts[at] = value
        return encode(parts)

    def with_pre(self, at: int, value: object, made: envelope.Envelope | None = None) -> bytes:
        """Return the envelope with one field of pre changed and signed by the author again."""
        made = made or self.opener
        pre = _list(decode(made.pre, max_bytes=limits.MAX_HEADER))
        pre[at] = value
        audience = None if made.audience is None else made.audience.encode()
        slots = list(made.slots) or None
        return _wire_of(encode(pre), self.alder, made.ciphertext, audience, slots)

    def with_audience(self, audience: list[Any]) -> bytes:
        data = encode(audience)
        pre = _list(decode(self.opener.pre, max_bytes=limits.MAX_HEADER))
        pre[14] = suite.digest("audience", data)
        slots = list(self.opener.slots)
        return _wire_of(encode(pre), self.alder, self.opener.ciphertext, data, slots)

    def sealed(self, key: bytes) -> bytes:
        """Return the opener with *key* sealed to birch in place of the epoch key."""
        assert self.opener.audience is not None
        public = self.birch.card.seal[0].public
        info = suite.label("slot") + suite.digest("pre", self.opener.pre) + suite.ekid(public)
        return self.with_slot(suite.seal_to(public, key, info))

    def with_slot(self, slot: bytes) -> bytes:
        """Return the opener with another slot for birch, signed by the author again."""
        assert self.opener.audience is not None
        slots = list(self.opener.slots)
        slots[1 + self.opener.audience.recipient_ids.index(self.birch.id)] = slot
        return _wire_of(
            self.opener.pre, self.alder, self.opener.ciphertext, self.opener.audience.encode(),
            slots,
        )  # fmt: skip

    def continuation_with(self, *, audience: object = None, slots: object = None) -> bytes:
        parts = _list(decode(self.continuation.wire, max_bytes=limits.MAX_ENVELOPE))
        return encode([*parts[:3], audience, slots])

    def with_plaintext(self, padded: bytes, key: bytes | None = None) -> bytes:
        """Return the short envelope around another plaintext, signed by the author again."""
        pre = self.short.pre
        digest = suite.digest("pre", pre)
        key = key or suite.derive(self.epoch.key, "content-key", digest)
        context = suite.label("body") + digest + suite.ZERO
        return self.with_ciphertext(suite.encrypt_body(key, context, padded))

    def with_ciphertext(self, ciphertext: bytes) -> bytes:
        return _wire_of(self.short.pre, self.alder, ciphertext, None, None)


def envelope_file() -> Json:
    """Return the vectors of section 8."""
    scene = _Scene()
    nodes = {
        made.name: {
            "node_id": made.id.hex(),
            "seal_seed": made.seal_seed.hex(),
            "ekid": made.card.seal[0].ekid.hex(),
            "seal": made.card.seal[0].public.hex(),
        }
        for made in scene.nodes
    }
    return {
        "about": "One epoch: an opener from alder to birch and cedar, carried by dogwood, and the "
        "envelopes that continue it. `as` is the node that opens with its sealing seed, or that "
        "takes an envelope in; elm has no part in it. Other fields as in statement.json.",
        "section": "8",
        "randomised": [
            "/given/opener", "/given/continuation", "/given/short", "/given/pruned",
            "/cases/*/input/splices",
            "/cases/*/expect/pre", "/cases/*/expect/id", "/cases/1/expect/prev",
            "/cases/*/expect/opener", "/cases/*/expect/slots_digest",
            "/cases/*/expect/ciphertext_digest", "/cases/*/expect/signature",
            "/cases/*/expect/content_key",
        ],
        "given": {
            "network": NETWORK.hex(),
            "other_network": suite.network_id("other.example").hex(),
            "message_key": scene.alder.card.message.hex(),
            "other_key": scene.birch.card.message.hex(),
            "opener": scene.opener.wire.hex(),
            "continuation": scene.continuation.wire.hex(),
            "short": scene.short.wire.hex(),
            "pruned": scene.pruned.wire.hex(),
        },
        "nodes": nodes,
        "cases": [
            *_envelope_accepted(scene), *_envelope_malformed(scene), *_envelope_unverified(scene),
            *_envelope_closed(scene), *_envelope_admitted(scene),
        ],
    }  # fmt: skip


def _envelope_accepted(scene: _Scene) -> list[Json]:
    opener, continuation = scene.opener, scene.continuation
    assert opener.audience is not None
    audience = {
        "author_ekid": opener.audience.author_ekid.hex(),
        "recipients": [[a.hex(), b.hex()] for a, b in opener.audience.recipients],
        "carriers": [carrier.hex() for carrier in opener.audience.carriers],
    }

    def opened(made: envelope.Envelope, body: bytes) -> Json:
        key = envelope.content_key(envelope.VerifiedEnvelope(made), scene.epoch)
        return {"epoch_key": scene.epoch.key.hex(), "content_key": key.hex(), "body": body.hex()}

    whole: Json = {"of": "opener", "splices": []}
    later: Json = {"of": "continuation", "splices": []}
    before = seed("any", "id")
    linked = scene.with_pre(8, before)
    sizes = (0, 1, 1_020, 1_021, 1_024, 1_500, 2_044, 2_045, 20_000, 65_535, 65_536)
    return [
        _case("an opener", "envelope.verify", whole,
              expect={**_header_fields(opener), "audience": audience, "slots": 3}),
        _case("an envelope of the same epoch", "envelope.verify", later,
              expect={**_header_fields(continuation), "audience": None, "slots": 0}),
        _case("an opener with one slot dropped", "envelope.verify",
              {"of": "pruned", "splices": []},
              expect={"id": opener.id.hex(), "signature": opener.signature.hex(), "slots": 3}),
        _case("the first of a stream names the head of an earlier one", "envelope.parse",
              _like("opener", opener.wire, linked), expect={"seq": 1, "prev": before.hex()}),
        _case("it belongs to its epoch", "envelope.epoch", later, opener="opener", expect={}),
        _case("a recipient opens the opener", "envelope.open", whole, opener="opener",
              **{"as": "birch"}, expect=opened(opener, BODY)),
        _case("the author opens the opener", "envelope.open", whole, opener="opener",
              **{"as": "alder"}, expect=opened(opener, BODY)),
        _case("a recipient opens the envelope that continues", "envelope.open", later,
              opener="opener", **{"as": "birch"}, expect=opened(continuation, scene.long_body)),
        _case("padded sizes", "envelope.padding", b"",
              expect={"sizes": [[size, len(envelope.pad(bytes(size)))] for size in sizes]}),
    ]  # fmt: skip


def _envelope_malformed(scene: _Scene) -> list[Json]:
    outer = scene.outer()
    header, slots = _list(decode(outer[0], max_bytes=limits.MAX_HEADER)), outer[4]
    author_ekid, recipients, carriers = _list(decode(outer[3], max_bytes=limits.MAX_ENVELOPE))
    first, second = recipients
    pre, audience = scene.with_pre, scene.with_audience
    encoding = "bad-encoding"
    changed: dict[str, tuple[bytes, str]] = {
        "a byte after it": (scene.opener.wire + b"\0", encoding),
        "its last byte missing": (scene.opener.wire[:-1], encoding),
        "four parts": (encode(outer[:4]), encoding),
        "a header of two fields": (scene.with_outer(0, encode(header[:2])), encoding),
        "a signature of 63 bytes": (scene.with_outer(1, outer[1][:63]), encoding),
        "no ciphertext": (scene.with_outer(2, b""), encoding),
        "version 2": (pre(0, 2), "unsupported-version"),
        "suite 2": (pre(1, 2), "unsupported-version"),
        "kind 2": (pre(11, 2), "unsupported-version"),
        "incarnation 0": (pre(5, 0), encoding),
        "a stream of 15 bytes": (pre(6, bytes(15)), encoding),
        "seq 0": (pre(7, 0), encoding),
        "seq 2^53 + 1": (pre(7, 2**53 + 1), encoding),
        "number 2 without predecessor": (pre(7, 2), encoding),
        "number 2^53 without predecessor": (pre(7, 2**53), encoding),
        "expired when created": (pre(10, NOW), encoding),
        "a life of more than 90 days": (pre(10, NOW + 90 * DAY + 1), encoding),
        "epoch 0": (pre(12, 0), encoding),
        "an anchor of two fields": (pre(15, ["origin", 1]), encoding),
        "an opener that names an opener": (pre(13, seed("any", "id")), encoding),
        "an opener without audience": (scene.with_outer(3, None), encoding),
        "an opener without slots": (scene.with_outer(4, None), encoding),
        "a slot of 1167 bytes": (scene.with_outer(4, [slots[0][:-1], *slots[1:]]), encoding),
        "one slot": (scene.with_outer(4, slots[:1]), encoding),
        "two slots for three": (scene.with_outer(4, slots[:2]), "wrong-audience"),
        "four slots for three": (scene.with_outer(4, [*slots, slots[0]]), "wrong-audience"),
        "nobody in the audience": (audience([author_ekid, [], carriers]), encoding),
        "recipients descending": (
            audience([author_ekid, [second, first], carriers]), "wrong-audience",
        ),
        "a recipient twice": (audience([author_ekid, [first, first], carriers]), "wrong-audience"),
        "the author as recipient": (
            audience([author_ekid, sorted([[scene.alder.id, author_ekid], first]), carriers]),
            "wrong-audience",
        ),
        "the author as carrier": (
            audience([author_ekid, recipients, [scene.alder.id]]), "wrong-audience",
        ),
        "a recipient as carrier": (
            audience([author_ekid, recipients, [first[0]]]), "wrong-audience",
        ),
        "17 carriers": (
            audience([author_ekid, recipients, sorted(seed("c", str(n)) for n in range(17))]),
            "over-limit",
        ),
    }  # fmt: skip
    later = {
        "an envelope that continues, with slots": scene.continuation_with(slots=slots),
        "an envelope that continues, with an audience": scene.continuation_with(audience=outer[3]),
    }
    large = _repeat(("c600080000", 1), ("00", 2**19 - 4))
    return [
        *(_case(name, "envelope.parse", _like("opener", scene.opener.wire, wire), code=code)
          for name, (wire, code) in changed.items()),
        *(_case(name, "envelope.parse", _like("continuation", scene.continuation.wire, wire),
                code=encoding) for name, wire in later.items()),
        _case("524289 bytes", "envelope.parse", large, code="over-limit"),
    ]  # fmt: skip


def _envelope_unverified(scene: _Scene) -> list[Json]:
    outer = scene.outer()
    slots = outer[4]
    author_ekid, recipients, _ = _list(decode(outer[3], max_bytes=limits.MAX_ENVELOPE))
    fewer = encode([author_ekid, recipients, []])
    named: dict[str, tuple[bytes, str]] = {
        "the signature changed": (scene.with_outer(1, _flip(outer[1], 5)), "bad-signature"),
        "the header changed": (
            _flip(scene.opener.wire, scene.opener.wire.index(scene.opener.ciphertext_digest)),
            "bad-signature",
        ),
        "the ciphertext changed": (scene.with_outer(2, _flip(outer[2], 99)), "bad-digest"),
        "a carrier left out": (scene.with_outer(3, fewer), "bad-digest"),
        "a slot changed": (
            scene.with_outer(4, [slots[0], _flip(slots[1], 0), slots[2]]), "bad-digest",
        ),
        "two slots exchanged": (scene.with_outer(4, [slots[0], slots[2], slots[1]]), "bad-digest"),
        "a slot replaced by another digest": (
            scene.with_outer(4, [slots[0], bytes(32), slots[2]]), "bad-digest",
        ),
    }  # fmt: skip
    other = {
        "another epoch number": (12, 2),
        "another stream": (6, bytes(16)),
        "another incarnation": (5, 2),
        "another audience": (14, seed("any", "audience")),
        "another author": (3, scene.birch.id),
    }
    whole: Json = {"of": "opener", "splices": []}
    return [
        _case("under the key of another node", "envelope.verify", whole, message_key="other_key",
              code="bad-signature"),
        _case("in another network", "envelope.verify", whole, network="other_network",
              code="wrong-network"),
        *(_case(name, "envelope.verify", _like("opener", scene.opener.wire, wire), code=code)
          for name, (wire, code) in named.items()),
        *(_case(f"{name} than the opener has", "envelope.epoch",
                _like("continuation", scene.continuation.wire,
                      scene.with_pre(at, value, scene.continuation)),
                opener="opener", code="bad-digest")
          for name, (at, value) in other.items()),
    ]  # fmt: skip


def _envelope_closed(scene: _Scene) -> list[Json]:
    """Return envelopes that are signed and whole, and do not open."""
    padded, ciphertext = envelope.pad(BODY), scene.short.ciphertext
    long = scene.continuation
    cut = _wire_of(long.pre, scene.alder, long.ciphertext[: 56 + 16_400], None, None)
    replayed = make_envelope(scene.alder, [scene.birch, scene.cedar], created=NOW + 1)
    assert replayed.audience is not None
    slot = replayed.slots[1 + replayed.audience.recipient_ids.index(scene.birch.id)]
    length = len(BODY)
    openers = {
        "a slot that does not open": scene.with_slot(bytes(limits.SLOT_SIZE)),
        "the slot of another envelope": scene.with_slot(slot),
        "a slot with another epoch key": scene.sealed(seed("another", "epoch")),
    }
    bodies = {
        "a body under another key": scene.with_plaintext(padded, seed("another", "key")),
        "a body with a changed byte": scene.with_ciphertext(_flip(ciphertext, 60)),
        "a body with another commitment": scene.with_ciphertext(_flip(ciphertext, 30)),
        "a body of 20 bytes": scene.with_ciphertext(ciphertext[:20]),
        "padding that is not zero": scene.with_plaintext(padded[:-1] + b"\1"),
        "padding of another size": scene.with_plaintext(padded + bytes(512)),
        "a length beyond the padding": scene.with_plaintext(
            (2**31).to_bytes(4, "big") + padded[4:]
        ),
        "a length that cuts the body": scene.with_plaintext(
            (length - 1).to_bytes(4, "big") + padded[4:]
        ),
    }
    birch = {"as": "birch", "opener": "opener"}
    whole: Json = {"of": "opener", "splices": []}
    return [
        _case("a carrier has no slot", "envelope.open", whole, opener="opener",
              **{"as": "dogwood"}, code="wrong-audience"),
        _case("a slot that was dropped", "envelope.open", {"of": "pruned", "splices": []},
              opener="pruned", **{"as": "cedar"}, code="cannot-open"),
        *(_case(name, "envelope.open", _like("opener", scene.opener.wire, wire), opener="self",
                **{"as": "birch"}, code="cannot-open") for name, wire in openers.items()),
        *(_case(name, "envelope.open", _like("short", scene.short.wire, wire), **birch,
                code="cannot-open") for name, wire in bodies.items()),
        _case("a body without its last chunk", "envelope.open",
              _like("continuation", long.wire, cut), **birch, code="cannot-open"),
    ]  # fmt: skip


def _envelope_admitted(scene: _Scene) -> list[Json]:
    """Return what a node decides on an envelope that a peer delivers (section 12.2)."""
    late = NOW + 90 * DAY
    whole: Json = {"of": "opener", "splices": []}
    later: Json = {"of": "continuation", "splices": []}
    forged = _like("opener", scene.opener.wire, scene.with_outer(1, bytes(64)))
    moved = _like(
        "continuation", scene.continuation.wire, scene.with_pre(12, 2, scene.continuation)
    )

    def admit(name: str, given: Json, **changes: object) -> Json:
        rest = {
            "as": "birch", "giver": "alder", "accepts": ["alder"], "cards": ["alder"],
            "holds": [], "carries": True, "now": NOW, "network": "network", **changes,
        }  # fmt: skip
        return _case(name, "envelope.admit", given, **rest)

    def pruned(*keep: TestNode) -> Json:
        copy = envelope.prune(scene.opener, keep=frozenset(node.id for node in keep))
        return _like("opener", scene.opener.wire, copy.wire)

    held = {"holds": ["opener"]}
    carrier = {"as": "dogwood"}
    own = {"as": "alder", "accepts": [], "giver": "birch"}
    author = {"expect": {"part": "author"}}
    recipient = {"expect": {"part": "recipient"}}
    return [
        admit("taken from its author", whole, **recipient),
        admit("taken from another recipient", whole, giver="cedar", **recipient),
        admit("taken from a carrier after it has expired", whole, giver="dogwood", now=late,
              **recipient),
        admit("taken by a carrier", whole, **carrier, expect={"part": "carrier"}),
        admit("taken once its opener is held", later, **held, **recipient),
        admit("held already", whole, **held, giver="cedar", expect={"part": "known"}),
        admit("held already, from a node without part in it", whole, **held, giver="elm",
              code="wrong-audience"),
        admit("an author who is not accepted", whole, accepts=[], code="untrusted-key"),
        admit("the same with a bad signature", forged, accepts=[], code="untrusted-key"),
        admit("a card that is not held", whole, cards=[], code="unknown-card"),
        admit("in another network, delivered", whole, network="other_network",
              code="wrong-network"),
        admit("a bad signature, delivered", forged, code="bad-signature"),
        admit("our own, which we do not hold", whole, **own, **author),
        admit("our own after it has expired, from a carrier", whole,
              **{**own, "giver": "dogwood"}, now=late, **author),
        admit("our own without the slots of others", pruned(scene.alder), **own, **author),
        admit("our own without our slot", pruned(scene.birch, scene.cedar), **own,
              code="bad-digest"),
        admit("our own from a node without part in it", whole, **{**own, "giver": "elm"},
              code="wrong-audience"),
        admit("what only claims to be our own", forged, **own, code="bad-signature"),
        admit("our own whose opener is not held", later, **own, code="unknown-epoch"),
        admit("our own, which we hold", whole, **own, **held, expect={"part": "known"}),
        admit("a copy with the slot of the recipient only", pruned(scene.birch), **recipient),
        admit("a copy without the slot of the recipient", pruned(scene.alder, scene.cedar),
              code="bad-digest"),
        admit("a copy without the slot of one recipient, to carry",
              pruned(scene.alder, scene.cedar), **carrier, code="bad-digest"),
        admit("a copy without the slot of the author, to carry",
              pruned(scene.birch, scene.cedar), **carrier, expect={"part": "carrier"}),
        admit("an opener that is not held", later, code="unknown-epoch"),
        admit("another epoch than that of its opener", moved, **held, code="bad-digest"),
        admit("from a node without part in it", whole, giver="elm", code="wrong-audience"),
        admit("taken by a node without part in it", whole, **{"as": "elm"}, code="wrong-audience"),
        admit("a carrier that carries for nobody", whole, **carrier, carries=False,
              code="not-carrying"),
        admit("a carrier after it has expired", whole, **carrier, now=late, code="expired"),
        admit("a carrier as it expires", whole, **carrier, now=scene.opener.header.expires,
              code="expired"),
    ]  # fmt: skip


# --- frames and links ------------------------------------------------------------------------
def _one_of_each() -> dict[str, tuple[Frame, Json]]:
    node, peer, head, one = (seed("a", name) for name in ("id", "peer", "head", "envelope"))
    versions, nonce = (1, 2), seed("a", "nonce")
    return {
        "hello": (
            Hello(versions, NETWORK, node, nonce, 3, head),
            {"versions": list(versions), "network": NETWORK.hex(), "node_id": node.hex(),
             "nonce": nonce.hex(), "chain_n": 3, "chain_head": head.hex()},
        ),
        "proof": (
            Proof(b"\1" * 64, b"\2" * 3_309),
            {"ed25519": "01" * 64, "mldsa65": "02" * 3_309},
        ),
        "want_statements": (WantStatements(node, 2), {"node_id": node.hex(), "first": 2}),
        "statements": (
            Statements(node, (b"one", b"two")),
            {"node_id": node.hex(), "wires": [b"one".hex(), b"two".hex()]},
        ),
        "deliver": (
            Deliver((b"one", b"two")), {"wires": [b"one".hex(), b"two".hex()]},
        ),
        "receipts": (
            Receipts(peer, b"note", (ReceiptItem(one, 7, b"entry", (head, node)),)),
            {"recipient": peer.hex(), "checkpoint": b"note".hex(),
             "items": [[one.hex(), 7, b"entry".hex(), [head.hex(), node.hex()]]]},
        ),
        "refuse": (
            Refuse((Refusal(one, "unknown-card", 1_000), Refusal(head, "expired", 0))),
            {"items": [[one.hex(), "unknown-card", 1_000], [head.hex(), "expired", 0]]},
        ),
        "bye": (Bye("second-link"), {"code": "second-link"}),
        "settled": (
            Settled(((one, peer), (head, node))),
            {"items": [[one.hex(), peer.hex()], [head.hex(), node.hex()]]},
        ),
        **_gossip_of_each(node, peer, one),
        **bulk.of_each(node, peer, one),
        **slots.of_each(node, peer, one),
        **lost.of_each(node, peer, one),
        **logs.of_each(node, peer, one),
    }  # fmt: skip


def _gossip_of_each(node: bytes, peer: bytes, one: bytes) -> dict[str, tuple[Frame, Json]]:
    low, high = sorted((node, peer))
    first, second = StreamKey(node, 1, b"\1" * 16), StreamKey(node, 1_790_000_000, bytes(16))
    items: tuple[Item, ...] = (
        (first, Have(7, b"8 bytes!", ((9, 9), (12, 400)), forked=True)),
        (second, Have(0, bytes(8), ((2, 2),))),
    )
    return {
        "summary": (Summary(one), {"digest": one.hex()}),
        "authors": (
            Authors(((low, b"\1" * 16), (high, b"\2" * 16))),
            {"digests": [[low.hex(), "01" * 16], [high.hex(), "02" * 16]]},
        ),
        "frontier": (
            Frontier(node, items),
            {"author": node.hex(), "items": [plain_item(item) for item in items]},
        ),
        "want": (
            Want(second, ((1, 1), (3, 4_000))),
            {"author": node.hex(), "incarnation": second.incarnation,
             "stream": second.stream.hex(), "ranges": [[1, 1], [3, 4_000]]},
        ),
        "want_receipts": (WantReceipts((one, peer)), {"ids": [one.hex(), peer.hex()]}),
        "forked": (Forked(b"proof"), {"proof": b"proof".hex()}),
    }  # fmt: skip


def plain_item(item: Item) -> list[object]:
    """Return an item of a frontier as the files have it."""
    incarnation, stream, contiguous, head, beyond, forked = item_value(item)
    assert isinstance(stream, bytes) and isinstance(head, bytes)
    return [incarnation, stream.hex(), contiguous, head.hex(), beyond, forked]


def _payload_cases() -> list[Json]:
    frames = _one_of_each()
    accepted = [
        _case(
            f"a {name} frame", "frame.decode", encode_frame(frame), expect={"type": name, **shown}
        )
        for name, (frame, shown) in frames.items()
    ]

    def fields(name: str) -> list[Any]:
        return _list(decode(encode_frame(frames[name][0]), max_bytes=limits.MAX_FRAME))

    def having(name: str, at: int, value: object) -> bytes:
        changed = fields(name)
        changed[at] = value
        return encode(changed)

    item = fields("receipts")[3][0]
    encoding, limit = "bad-encoding", "over-limit"
    changed: dict[str, tuple[bytes, str]] = {
        "no array": (encode({"type": 8}), encoding),
        "an empty array": (encode([]), encoding),
        "a byte after it": (encode([8, "shutdown"]) + b"\0", encoding),
        "type 0": (encode([0]), "bad-frame"),
        "type 255": (encode([255, b"later"]), "bad-frame"),
        "type 256": (encode([256, b"later"]), encoding),
        "type true": (encode([True, b"later"]), encoding),
        "a bye with two fields": (encode([8, "shutdown", 1]), encoding),
        "a hello without versions": (having("hello", 1, []), encoding),
        "a hello with 17 versions": (having("hello", 1, [1] * 17), limit),
        "a hello with a nonce of 31 bytes": (having("hello", 4, bytes(31)), encoding),
        "a hello with number 513": (having("hello", 5, 513), encoding),
        "a hello with number 512": (having("hello", 5, 512), encoding),
        "a proof without ML-DSA": (having("proof", 2, b""), encoding),
        "want_statements from -1": (having("want_statements", 2, -1), encoding),
        "no statements": (having("statements", 2, []), encoding),
        "65 statements": (having("statements", 2, [b"one"] * 65), limit),
        "an empty statement": (having("statements", 2, [b""]), encoding),
        "no envelopes": (having("deliver", 1, []), encoding),
        "257 envelopes": (having("deliver", 1, [b"one"] * 257), limit),
        "an envelope as text": (having("deliver", 1, ["one"]), encoding),
        "no receipts": (having("receipts", 3, []), encoding),
        "257 receipts": (having("receipts", 3, [item] * 257), limit),
        "a receipt at 2^48 + 1": (
            having("receipts", 3, [[item[0], 2**48 + 1, *item[2:]]]), encoding,
        ),
        "a receipt with an entry of 257 bytes": (
            having("receipts", 3, [[*item[:2], bytes(257), item[3]]]), limit,
        ),
        "a receipt with a proof of 65": (
            having("receipts", 3, [[*item[:3], [bytes(32)] * 65]]), limit,
        ),
        "a receipt with a hash of 31 bytes": (
            having("receipts", 3, [[*item[:3], [bytes(31)]]]), encoding,
        ),
        "a refusal with a space in its code": (
            having("refuse", 1, [[item[0], "not now", 0]]), "bad-frame",
        ),
        "a refusal with a code of 65": (having("refuse", 1, [[item[0], "a" * 65, 0]]), limit),
        "a refusal for more than 90 days": (
            having("refuse", 1, [[item[0], "busy", 90 * DAY + 1]]), encoding,
        ),
        "a bye with an escape": (having("bye", 1, "a\u009bb"), "bad-frame"),
        "an empty bye": (having("bye", 1, ""), encoding),
        "a settled item of one field": (having("settled", 1, [[item[0]]]), encoding),
        "257 settled items": (having("settled", 1, [[item[0], item[0]]] * 257), limit),
    }  # fmt: skip
    changed |= _gossip_refused(having, fields("frontier")[2], item[0])
    none = _case("an authors frame of nobody", "frame.decode", having("authors", 1, []),
                 expect={"type": "authors", "digests": []})  # fmt: skip
    accepted.append(none)
    late = [
        *(_case(name, "frame.decode", _folded(data), expect=expect)
          for name, (data, expect) in bulk.at_the_bounds(frames).items()),
        *(_case(name, "frame.decode", _folded(data), code=code)
          for name, (data, code) in bulk.refused(frames).items()),
        *(_case(name, "frame.decode", data, expect=expect)
          for name, (data, expect) in slots.accepted(item[0], item[0]).items()),
        *(_case(name, "frame.decode", data, code=code)
          for name, (data, code) in slots.refused(frames).items()),
        *(_case(name, "frame.decode", data, expect=expect)
          for name, (data, expect) in lost.accepted(item[0], item[0]).items()),
        *(_case(name, "frame.decode", _folded(data), code=code)
          for name, (data, code) in lost.refused(frames).items()),
        *(_case(name, "frame.decode", _folded(data), expect=expect)
          for name, (data, expect) in logs.at_the_bounds(item[0]).items()),
        *(_case(name, "frame.decode", _folded(data), code=code)
          for name, (data, code) in logs.refused(frames).items()),
    ]  # fmt: skip
    return [
        *accepted,
        *(_case(name, "frame.decode", data, code=code) for name, (data, code) in changed.items()),
        *late,
    ]


def _gossip_refused(
    having: Callable[[str, int, object], bytes], items: list[Any], one: bytes
) -> dict[str, tuple[bytes, str]]:
    encoding, limit, frame = "bad-encoding", "over-limit", "bad-frame"
    first, second = items
    digests = [[low, bytes(16)] for low in (bytes(32), b"\1" * 32)]

    def item(at: int, value: object) -> bytes:
        return having("frontier", 2, [[*first[:at], value, *first[at + 1 :]]])

    many = [[9 + 2 * n, 9 + 2 * n] for n in range(1_025)]
    single = [[n, n] for n in range(1, 2 * 257, 2)]
    return {
        "a summary of 31 bytes": (having("summary", 1, bytes(31)), encoding),
        "a summary of 33 bytes": (having("summary", 1, bytes(33)), encoding),
        "authors descending": (having("authors", 1, digests[::-1]), frame),
        "an author twice": (having("authors", 1, digests[:1] * 2), frame),
        "a digest of an author of 32 bytes": (having("authors", 1, [[one, one]]), encoding),
        "an author without digest": (having("authors", 1, [[one]]), encoding),
        "2049 authors": (
            having("authors", 1, [[n.to_bytes(32, "big"), bytes(16)] for n in range(2_049)]), limit,
        ),
        "a frontier of no streams": (having("frontier", 2, []), encoding),
        "streams descending": (having("frontier", 2, [second, first]), frame),
        "a stream twice": (having("frontier", 2, [first, first]), frame),
        "1025 streams": (
            having("frontier", 2, [[n, *first[1:]] for n in range(1, 1_026)]), limit,
        ),
        "an item of five fields": (having("frontier", 2, [first[:5]]), encoding),
        "an item of seven fields": (having("frontier", 2, [[*first, 0]]), encoding),
        "an item of incarnation 0": (item(0, 0), encoding),
        "an item of incarnation 2^32": (item(0, 2**32), encoding),
        "a stream id of 15 bytes": (item(1, bytes(15)), encoding),
        "contiguous up to 2^53 + 1": (item(2, 2**53 + 1), encoding),
        "a head of 7 bytes": (item(3, bytes(7)), encoding),
        "no head where something is contiguous": (item(3, bytes(8)), encoding),
        "a head where nothing is contiguous": (
            having("frontier", 2, [[*second[:3], b"8 bytes!", *second[4:]]]), encoding,
        ),
        "a range that joins what is contiguous": (item(4, [[8, 9]]), encoding),
        "a range inside what is contiguous": (item(4, [[5, 9]]), encoding),
        "a range of number 1 where nothing is contiguous": (
            having("frontier", 2, [[*second[:4], [[1, 1]], 0]]), encoding,
        ),
        "two ranges that join": (item(4, [[9, 9], [10, 12]]), encoding),
        "two ranges that overlap": (item(4, [[9, 12], [11, 13]]), encoding),
        "ranges descending": (item(4, [[12, 13], [9, 9]]), encoding),
        "a range that ends before it begins": (item(4, [[10, 9]]), encoding),
        "a range of three numbers": (item(4, [[9, 9, 9]]), encoding),
        "a range up to 2^53 + 1": (item(4, [[9, 2**53 + 1]]), encoding),
        "1025 ranges": (item(4, many), limit),
        "forked 2": (item(5, 2), encoding),
        "forked true": (item(5, True), encoding),
        "a want of nothing": (having("want", 4, []), limit),
        "a want of number 0": (having("want", 4, [[0, 1]]), encoding),
        "a want of 4097 envelopes": (having("want", 4, [[1, 4_097]]), limit),
        "a want of 2^53 envelopes": (having("want", 4, [[1, 2**53]]), limit),
        "a want of 4097 envelopes in two ranges": (
            having("want", 4, [[1, 4_000], [5_000, 5_096]]), limit,
        ),
        "a want of 257 ranges": (having("want", 4, single), limit),
        "a want of ranges that join": (having("want", 4, [[1, 1], [2, 2]]), encoding),
        "a want of incarnation 0": (having("want", 2, 0), encoding),
        "a want of a stream of 17 bytes": (having("want", 3, bytes(17)), encoding),
        "no receipts wanted": (having("want_receipts", 1, []), encoding),
        "257 receipts wanted": (having("want_receipts", 1, [one] * 257), limit),
        "a receipt wanted by a short id": (having("want_receipts", 1, [one[:8]]), encoding),
        "no proof of a fork": (having("forked", 1, b""), encoding),
        "a proof of a fork of 3073 bytes": (having("forked", 1, bytes(3_073)), limit),
        "a proof of a fork as text": (having("forked", 1, "proof"), encoding),
    }  # fmt: skip


class _Wire:
    """Both ends of one link, as what each sends."""

    def __init__(self) -> None:
        self.alder, self.birch = make_node("alder"), make_node("birch")
        self.hellos = {
            "dialer": self.hello(self.alder, "dialer"),
            "acceptor": self.hello(self.birch, "acceptor"),
        }
        self.transcript = Transcript(
            self.hellos["dialer"], self.hellos["acceptor"],
            suite.digest("certificate", self.alder.card.tls[0]),
            suite.digest("certificate", self.birch.card.tls[0]),
        )  # fmt: skip
        self.proof = self.sign("link/acceptor", self.birch)

    @staticmethod
    def hello(node: TestNode, nonce: str, **changes: object) -> bytes:
        head = node.chain.head
        made = Hello((1,), NETWORK, node.id, seed(nonce, "nonce"), head.n, head.digest)
        return encode_frame(replace(made, **changes))  # type: ignore[arg-type]

    def sign(self, label: str, node: TestNode) -> bytes:
        message = suite.label(label) + self.transcript.digest
        return encode_frame(Proof(*node.link.sign(message)))

    def sent(self, *payloads: bytes, from_dialer: bool = False) -> list[bytes]:
        tagger = Tagger(self.transcript, from_dialer=from_dialer)
        return [tagger.wrap(payload) for payload in payloads]


def frames_file() -> Json:
    """Return the vectors of sections 10 and 11."""
    wire = _Wire()
    certificates = (wire.alder.card.tls[0], wire.birch.card.tls[0])
    keys = [
        suite.digest("frame-key", side, wire.transcript.digest).hex()
        for side in (b"dialer", b"acceptor")
    ]
    settled = encode_frame(_one_of_each()["settled"][0])
    tagged = wire.sent(settled, settled)
    return {
        "about": "Payloads of the frames, and one link that alder dials to birch. A `link` "
        "case is what the dialer receives, in order: it expects the state it is in after that, or "
        "the code with which it closes. `held` is what it holds of birch's chain.",
        "section": "10 and 11",
        "randomised": ["/given/proof", "/given/messages"],
        "given": {
            "network": NETWORK.hex(),
            "alder": wire.alder.id.hex(),
            "birch": wire.birch.id.hex(),
            "alder_link_seeds": [seed("alder", "link/ed").hex(), seed("alder", "link/ml").hex()],
            "alder_head": wire.alder.chain.head.digest.hex(),
            "alder_nonce": seed("dialer", "nonce").hex(),
            "birch_link": [part.hex() for part in wire.birch.card.link],
            "birch_head": wire.birch.chain.head.digest.hex(),
            "dialer_certificate": certificates[0].hex(),
            "acceptor_certificate": certificates[1].hex(),
            "dialer_hello": wire.hellos["dialer"].hex(),
            "acceptor_hello": wire.hellos["acceptor"].hex(),
            "transcript": wire.transcript.digest.hex(),
            "frame_keys": keys,
            "proof": wire.proof.hex(),
            "settled": settled.hex(),
            "messages": {
                name: data.hex() for name, data in _messages(wire, settled).items()
            },
        },
        "cases": [
            *_payload_cases(),
            _case("the first two frames of the acceptor", "frame.tags", b"",
                  expect={"payloads": [settled.hex()] * 2, "messages": [t.hex() for t in tagged]}),
            *_link_cases(wire),
        ],
    }  # fmt: skip


def _messages(wire: _Wire, settled: bytes) -> dict[str, bytes]:
    """Return everything that the acceptor, or somebody in between, may send to the dialer."""
    proof, bye, hello = wire.proof, encode_frame(Bye("shutdown")), wire.hellos["acceptor"]
    fields = _list(decode(proof, max_bytes=limits.MAX_FRAME))
    bad_ed = encode([2, _flip(fields[1], 3), fields[2]])
    bad_ml = encode([2, fields[1], _flip(fields[2], 3)])
    proved, first, second, third = wire.sent(proof, settled, settled, bye)
    echoed = wire.sent(wire.sign("link/dialer", wire.alder), from_dialer=True)[0]
    frames = {name: encode_frame(frame) for name, (frame, _) in _one_of_each().items()}
    summary, asked = frames["summary"], [frames[name] for name in ("want_blob", "blob", "no_blob")]
    strange = Run(7, 1, (seed("never", "sent")[:8],), (bytes(48),), ())
    unsent = encode_frame(Runs(wire.birch.id, b"note", (strange,)))
    apart = replace(strange, ids=(seed("never", "sent"),))
    of_third = encode_frame(Runs(seed("third", "node"), b"note", (apart,)))
    return {
        "hello": hello,
        "hello 2": wire.hello(wire.birch, "acceptor", versions=(2, 3)),
        "hello 1 and 2": wire.hello(wire.birch, "acceptor", versions=(1, 2)),
        "hello other network": wire.hello(
            wire.birch, "acceptor", network=suite.network_id("other.example")
        ),
        "hello other node": wire.hello(wire.birch, "acceptor", node_id=seed("other", "id")),
        "hello again": wire.hellos["dialer"],
        "bare bye": bye,
        "proof": proved,
        "proof ed25519 changed": wire.sent(bad_ed)[0],
        "proof mldsa65 changed": wire.sent(bad_ml)[0],
        "proof of another node": wire.sent(wire.sign("link/acceptor", wire.alder))[0],
        "proof with the label of the dialer": wire.sent(wire.sign("link/dialer", wire.birch))[0],
        "proof of the dialer": echoed,
        "proof without tag": proof,
        "proof tag changed": _flip(proved, 0),
        "no proof": wire.sent(settled)[0],
        "frame 1": first,
        "frame 2": second,
        "bye 3": third,
        "frame 1 changed": _flip(first, 20),
        "frame 1 of the other direction": wire.sent(settled, settled, from_dialer=True)[1],
        "hello 1 tagged": wire.sent(proof, hello)[1],
        "proof 1 tagged": wire.sent(proof, proof)[1],
        "type 255 tagged": wire.sent(proof, encode([255, 0]))[1],
        "summary 1": wire.sent(proof, summary)[1],
        "summary instead of proof": wire.sent(summary)[0],
        "summary of 31 bytes": wire.sent(proof, encode([10, bytes(31)]))[1],
        **dict(zip(("want_blob 1", "blob 2", "no_blob 3"), wire.sent(proof, *asked)[1:],
                   strict=True)),
        "blob instead of proof": wire.sent(frames["blob"])[0],
        "want_blob of 17 chunks": wire.sent(proof, encode([17, bytes(32), 0, 17]))[1],
        "runs of a third node": wire.sent(proof, of_third)[1],
        "runs of what was not sent": wire.sent(proof, unsent)[1],
    }  # fmt: skip


def _link_cases(wire: _Wire) -> list[Json]:
    up = ["hello", "proof"]
    accepted: list[tuple[str, list[str], Json]] = [
        ("after hello", ["hello"], {"state": "proof"}),
        ("after a hello with a later version too", ["hello 1 and 2"], {"state": "proof"}),
        ("after the proof", up, {"state": "open"}),
        ("after a summary", [*up, "summary 1"], {"state": "open"}),
        ("after two frames and bye", [*up, "frame 1", "frame 2", "bye 3"],
         {"state": "closed", "bye": "shutdown"}),
        ("after a want_blob, and a chunk and a no_blob that were not asked for",
         [*up, "want_blob 1", "blob 2", "no_blob 3"], {"state": "open"}),
    ]  # fmt: skip
    refused = {
        "no version in common": (["hello 2"], "unsupported-version"),
        "another network": (["hello other network"], "wrong-network"),
        "another node than its certificate": (["hello other node"], "untrusted-key"),
        "our own hello sent back": (["hello again"], "untrusted-key"),
        "bye instead of hello": (["bare bye"], "bad-frame"),
        "a proof whose Ed25519 signature was changed": (
            ["hello", "proof ed25519 changed"], "bad-signature",
        ),
        "a proof whose ML-DSA signature was changed": (
            ["hello", "proof mldsa65 changed"], "bad-signature",
        ),
        "a proof by another node": (["hello", "proof of another node"], "bad-signature"),
        "a proof under the label of the dialer": (
            ["hello", "proof with the label of the dialer"], "bad-signature",
        ),
        "our own proof sent back": (["hello", "proof of the dialer"], "bad-frame"),
        "a proof without tag": (["hello", "proof without tag"], "bad-frame"),
        "a proof with another tag": (["hello", "proof tag changed"], "bad-frame"),
        "another frame than proof": (["hello", "no proof"], "bad-frame"),
        "a proof over another transcript": (["hello 1 and 2", "proof"], "bad-frame"),
        "a changed frame": ([*up, "frame 1 changed"], "bad-frame"),
        "a lost frame": ([*up, "frame 2"], "bad-frame"),
        "a repeated frame": ([*up, "frame 1", "frame 1"], "bad-frame"),
        "a repeated proof": ([*up, "proof"], "bad-frame"),
        "a frame of the other direction": ([*up, "frame 1 of the other direction"], "bad-frame"),
        "a second hello": ([*up, "hello 1 tagged"], "bad-frame"),
        "a second proof": ([*up, "proof 1 tagged"], "bad-frame"),
        "a frame of a later version": ([*up, "type 255 tagged"], "bad-frame"),
        "a summary before the proof": (["hello", "summary instead of proof"], "bad-frame"),
        "a malformed frame on an open link": ([*up, "summary of 31 bytes"], "bad-encoding"),
        "a chunk before the proof": (["hello", "blob instead of proof"], "bad-frame"),
        "a want_blob of 17 chunks on an open link": (
            [*up, "want_blob of 17 chunks"], "bad-encoding",
        ),
        "receipts in bulk of a third node": ([*up, "runs of a third node"], "bad-receipt"),
        "receipts in bulk of what was not sent": (
            [*up, "runs of what was not sent"], "bad-receipt",
        ),
    }  # fmt: skip
    head = wire.birch.chain.head
    asks = [
        ("it asks for the statements that it lacks", 0, seed("any", "digest"), 1),
        ("it asks for the other of two heads of one number", 1, seed("any", "digest"), 1),
        ("it asks for nothing that it has", 1, head.digest, None),
    ]
    return [
        *(_case(name, "link", b"", receives=names, expect=expect)
          for name, names, expect in accepted),
        *(_case(name, "link", b"", receives=up, held=[n, digest.hex()],
                expect={"state": "open", "asks_from": first}) for name, n, digest, first in asks),
        *(_case(name, "link", b"", receives=names, code=code)
          for name, (names, code) in refused.items()),
    ]  # fmt: skip


# --- streams ---------------------------------------------------------------------------------
def _signed(author: TestNode, text: str = "", **changes: object) -> SignedHeader:
    """Return a signed header of an envelope whose ciphertext is the seed of *text*."""
    header = make_header(author, **changes)
    ciphertext = suite.digest("ciphertext", seed("ciphertext", text))
    header_bytes = encode([header.encode(), None, ciphertext])
    envelope_id = suite.digest("envelope", header_bytes)
    signature = author.message.sign(suite.label("message") + envelope_id)
    return SignedHeader(header_bytes, signature, envelope_id, header)


def _pair(one: SignedHeader, other: SignedHeader) -> bytes:
    """Return a proof as its bytes, whether it proves anything or not."""
    return Fork(one, other).encode()


class _Branches:
    """Forks of one stream of alder: two number 4, and a number 5 that names another number 4."""

    def __init__(self) -> None:
        self.alder, self.birch = make_node("alder"), make_node("birch")
        place = {"seq": 4, "prev": seed("envelope", "3")}
        one, other = (_signed(self.alder, text, **place) for text in ("one", "other"))
        self.low, self.high = sorted((one, other), key=lambda each: each.id)
        self.next = _signed(self.alder, seq=5, prev=self.low.id)
        self.strange = _signed(self.alder, seq=5, prev=seed("envelope", "4"))
        twins, neighbours = fork_of(one, other), fork_of(self.low, self.strange)
        assert twins is not None and neighbours is not None
        self.twins, self.neighbours = twins, neighbours

    def like(self, text: str, **changes: object) -> SignedHeader:
        """Return a header beside the low number 4, with *changes*."""
        return _signed(self.alder, text, **{"seq": 4, "prev": seed("envelope", "3"), **changes})


def streams_file() -> Json:
    """Return the vectors of section 9."""
    branches = _Branches()
    return {
        "about": "Evidence that alder forked a stream, and frontiers. `fork.verify` reads a proof "
        "and verifies it for a reader who holds card number 1 of alder (unless `cards` is empty). "
        "`items` of a frontier have their author first.",
        "section": "9",
        "randomised": [],
        "given": {
            "network": NETWORK.hex(),
            "other_network": suite.network_id("other.example").hex(),
            "alder": branches.alder.id.hex(),
            "message_key": branches.alder.card.message.hex(),
            "twins": branches.twins.encode().hex(),
            "neighbours": branches.neighbours.encode().hex(),
        },
        "cases": [*_forks(branches), *_forks_refused(branches), *_frontiers()],
    }


def _forks(branches: _Branches) -> list[Json]:
    def fork(name: str, shown: str, made: Fork) -> Json:
        expect = {
            "author": made.key.author.hex(), "incarnation": made.key.incarnation,
            "stream": made.key.stream.hex(), "ids": [made.first.id.hex(), made.second.id.hex()],
            "seqs": [made.first.header.seq, made.second.header.seq], "digest": made.digest.hex(),
        }  # fmt: skip
        return _case(name, "fork.verify", {"of": shown, "splices": []}, expect=expect)

    return [
        fork("two envelopes in one place", "twins", branches.twins),
        fork("a number 5 that names another number 4", "neighbours", branches.neighbours),
    ]


def _forks_refused(branches: _Branches) -> list[Json]:
    low, high, alder = branches.low, branches.high, branches.alder
    twins = branches.twins.encode()
    pair = _list(decode(twins, max_bytes=limits.MAX_FORK))
    forger = replace(alder, message=branches.birch.message)
    place = {"seq": 4, "prev": seed("envelope", "3")}
    forged = _signed(forger, "forged", **place)
    other_label = replace(
        high, signature=alder.message.sign(suite.label("network") + high.id)
    )  # fmt: skip
    outer = _list(decode(low.header_bytes, max_bytes=limits.MAX_HEADER))
    pre = _list(decode(outer[0], max_bytes=limits.MAX_HEADER))
    later = encode([encode([2, *pre[1:]]), *outer[1:]])
    long = encode([bytes(1_020), None, bytes(32)])

    def sorted_pair(one: SignedHeader, other: SignedHeader) -> bytes:
        return _pair(*sorted((one, other), key=lambda each: (each.header.seq, each.id)))

    encoding, signature = "bad-encoding", "bad-signature"
    changed: dict[str, tuple[bytes, str]] = {
        "one header twice": (_pair(low, low), encoding),
        "the one with the higher id first": (_pair(high, low), encoding),
        "the one with the higher number first": (_pair(branches.strange, low), encoding),
        "a number 5 that names its number 4": (_pair(low, branches.next), encoding),
        "a number 6 behind a number 4": (
            _pair(low, branches.like("six", seq=6, prev=seed("envelope", "5"))), encoding,
        ),
        "two streams": (sorted_pair(low, branches.like("b", stream=bytes(16))), encoding),
        "two incarnations": (sorted_pair(low, branches.like("b", incarnation=2)), encoding),
        "two authors": (
            sorted_pair(low, _signed(branches.birch, "b", stream=low.header.stream, **place)),
            encoding,
        ),
        "the first of a stream and the last of the one before": (
            sorted_pair(low, branches.like("b", incarnation=2, seq=1, prev=high.id)), encoding,
        ),
        "one header": (encode(pair[:1]), encoding),
        "three headers": (encode([*pair, pair[1]]), encoding),
        "a header without signature": (encode([pair[0][:1], pair[1]]), encoding),
        "a signature of 63 bytes": (
            encode([[pair[0][0], pair[0][1][:63]], pair[1]]), encoding,
        ),
        "a header as text": (encode([["header", pair[0][1]], pair[1]]), encoding),
        "a byte after a header": (encode([[pair[0][0] + b"\0", pair[0][1]], pair[1]]), encoding),
        "a byte after the proof": (twins + b"\0", encoding),
        "its last byte missing": (twins[:-1], encoding),
        "a header of version 2": (
            encode([[later, pair[0][1]], pair[1]]), "unsupported-version",
        ),
        "a header of more than 1024 bytes": (encode([[long, pair[0][1]], pair[1]]), "over-limit"),
        "a header that another node signed": (sorted_pair(low, forged), signature),
        "the signature of the other header": (
            _pair(low, replace(high, signature=low.signature)), signature,
        ),
        "a signature for another purpose": (_pair(low, other_label), signature),
        "the first signature changed": (
            _pair(replace(low, signature=_flip(low.signature, 5)), high), signature,
        ),
        "the second signature changed": (
            _pair(low, replace(high, signature=_flip(high.signature, 5))), signature,
        ),
        "the second number 4 of another network": (
            _pair(*sorted(
                (low, branches.like("n", network=suite.network_id("other.example"))),
                key=lambda each: each.id,
            )),
            "wrong-network",
        ),
        "a header under a card that is not held": (
            sorted_pair(low, branches.like("c", card_n=2)), "unknown-card",
        ),
    }  # fmt: skip
    whole: Json = {"of": "twins", "splices": []}
    return [
        *(_case(name, "fork.verify", _like("twins", twins, data), code=code)
          for name, (data, code) in changed.items()),
        _case("a proof of 3073 bytes", "fork.verify", _repeat(("c5", 1), ("00", 3_072)),
              code="over-limit"),
        _case("no card of the author", "fork.verify", whole, cards=[], code="unknown-card"),
        _case("in another network", "fork.verify", whole, network="other_network",
              code="wrong-network"),
    ]  # fmt: skip


def _frontiers() -> list[Json]:
    alder, birch = sorted((make_node("alder").id, make_node("birch").id))
    one, two = StreamKey(alder, 1, b"\1" * 16), StreamKey(alder, 1_790_000_000, bytes(16))
    items: list[Item] = [
        (StreamKey(birch, 3, b"\3" * 16), Have(2, b"birch  2", (), forked=True)),
        (two, Have(0, bytes(8), ((2, 2), (5, 400)))),
        (one, Have(2**53, b"alder  !")),
    ]

    def summed(name: str, held: list[Item]) -> Json:
        shown = [[key.author.hex(), *plain_item((key, have))] for key, have in held]
        of_each = sorted((a.hex(), value.hex()) for a, value in author_digests(held).items())
        expect = {"digest": digest(held).hex(), "authors": [list(pair) for pair in of_each]}
        return _case(name, "frontier.digest", b"", items=shown, expect=expect)

    def compared(name: str, mine: Have, theirs: Have) -> Json:
        found = {
            "wants": [list(each) for each in lacking(mine, theirs)],
            "contradiction": contradicts(mine, theirs),
        }
        sides = {
            side: [alder.hex(), *plain_item((one, have))]
            for side, have in (("mine", mine), ("theirs", theirs))
        }
        return _case(name, "frontier.compare", b"", **sides, expect=found)

    same, other = Have(3, b"number 3", ((5, 7),)), Have(3, b"branch 3", ((6, 9),))
    return [
        summed("the digest of nothing", []),
        summed("the digest of one stream", items[:1]),
        summed("the digest of three streams of two authors", items),
        compared("in step", same, same),
        compared("all of it is new", NOTHING, same),
        compared("gaps in ours", Have(1, b"number 1", ((3, 5), (8, 8))), Have(9, b"number 9")),
        compared("two heads of one number", same, other),
        compared("two heads of one number that is known to be forked", same,
                 replace(other, forked=True)),
        compared("heads of two numbers", same, Have(4, b"branch 4")),
    ]  # fmt: skip


# --- receipts --------------------------------------------------------------------------------
class _Leaves:
    """The first hashes of one small tree, as tiles."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[int, int], bytes] = {}

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        return {key: self.tiles[key] for key in keys}


_SEVEN: Final = (
    EntryKind.LOG_OPENED, EntryKind.RECEIVED, EntryKind.TRUST_CHANGE, EntryKind.RECEIVED,
    EntryKind.CARRIED, EntryKind.RECEIPT, EntryKind.RELEASED,
)  # fmt: skip
_MANY: Final = (
    EntryKind.LOG_OPENED, *[EntryKind.RECEIVED] * 5, *[EntryKind.CARRIED] * 2,
    EntryKind.TRUST_CHANGE, *[EntryKind.RECEIVED] * 2,
)  # fmt: skip


_ERASED: Final = (
    EntryKind.LOG_OPENED, EntryKind.RECEIVED, EntryKind.HEARTBEAT, EntryKind.ERASED,
    EntryKind.ACCESS,
)  # fmt: skip


class _Register:
    """A small log, and receipts for the envelopes in it."""

    def __init__(self, kinds: Sequence[EntryKind] = _SEVEN) -> None:
        self.node = make_node("birch")
        self.kinds = kinds
        self.ids = [seed("envelope", str(number)) for number in range(len(kinds))]
        self.entries = [
            make_entry(
                kind, envelope_id, blind=seed("blind", str(number))[:16],
                local_commitment=local_digest(encode([number]), seed("local", str(number))[:16]),
            )
            for number, (kind, envelope_id) in enumerate(zip(kinds, self.ids, strict=True))
        ]  # fmt: skip
        leaves = [merkle.leaf_hash(entry) for entry in self.entries]
        self.reader = _Leaves()
        grown = merkle.append(size=0, new_leaves=leaves, reader=self.reader)
        self.reader.tiles = {(level, index): data for level, index, data in grown.tiles}
        self.checkpoint = Checkpoint(self.node.card.log.name, grown.size, grown.root)
        self.note = self.signed(self.checkpoint)

    def signed(self, checkpoint: Checkpoint) -> bytes:
        return sign_checkpoint(
            checkpoint, ed25519=self.node.log_ed25519, mldsa44=self.node.log_mldsa44,
            now_s=NOW // 1_000,
        )  # fmt: skip

    def item(self, index: int) -> ReceiptItem:
        proof = tuple(merkle.prove_inclusion(index, len(self.entries), self.reader))
        return ReceiptItem(self.ids[index], index, self.entries[index], proof)

    def frame(self, *items: ReceiptItem, note: bytes | None = None) -> bytes:
        note = self.note if note is None else note
        return encode_frame(Receipts(self.node.id, note, items))

    def run(self, first: int, last: int) -> Run:
        """Return the run of entries *first* to *last*, with whole ids."""
        made = [parse_entry(entry) for entry in self.entries[first : last + 1]]
        proof = merkle.prove_run(first, last, len(self.entries), self.reader)
        secrets = tuple(entry.local_digest + entry.blind for entry in made)
        kind = int(self.kinds[first])
        return Run(first, kind, tuple(self.ids[first : last + 1]), secrets, proof)

    def bulk(self, *runs: Run, note: bytes | None = None) -> bytes:
        note = self.note if note is None else note
        return encode_frame(Runs(self.node.id, note, runs))


def receipt_file() -> Json:
    """Return the vectors of sections 13.2 to 13.5."""
    register, many, erased = _Register(), _Register(_MANY), _Register(_ERASED)
    log = register.node.card.log
    other = make_node("alder").card.log
    both = register.frame(register.item(1), register.item(4))
    parsed = parse_entry(register.entries[1])
    single = {"log": "log"}
    return {
        "about": "Receipts of birch for two envelopes: one received, one to carry. The inputs are "
        "payloads of receipts frames. Other fields as in statement.json. `runs.verify` and "
        "`runs.single` are about a longer log; their inputs are payloads of runs frames. `erased` "
        "is the receipt of an erasure. `access.parse` and `erasure.parse` take what "
        "an entry keeps to the node.",
        "section": "13",
        "randomised": [
            "/given/receipts", "/given/checkpoint", "/given/runs", "/given/erased",
            "/cases/*/input/splices",
        ],
        "given": {
            "log": [log.name, log.ed25519.hex(), log.mldsa44.hex()],
            "other_log": [log.name, other.ed25519.hex(), other.mldsa44.hex()],
            "other_origin": [other.name, log.ed25519.hex(), log.mldsa44.hex()],
            "entries": [entry.hex() for entry in register.entries],
            "checkpoint": register.note.hex(),
            "receipts": both.hex(),
            "runs": many.bulk(*map(_shortened, _three_runs(many))).hex(),
            "erased": erased.frame(erased.item(3)).hex(),
        },
        "cases": [
            _case("an entry", "entry.parse", register.entries[1],
                  expect={"kind": int(parsed.kind), "subject": parsed.subject.hex(),
                          "local": parsed.local_digest.hex(), "blind": parsed.blind.hex()}),
            _case("what the entry keeps to the node", "entry.local", encode([1]),
                  blind=seed("local", "1")[:16].hex(),
                  expect={"local": parsed.local_digest.hex()}),
            _case("the receipts of two envelopes", "receipt.verify",
                  {"of": "receipts", "splices": []}, **single,
                  expect={"recipient": register.node.id.hex(),
                          "origin": log.name, "size": 7, "root": register.checkpoint.root.hex(),
                          "text": format_body(register.checkpoint),
                          "time": NOW // 1_000,
                          "items": [[register.ids[1].hex(), 1, 1], [register.ids[4].hex(), 4, 3]]}),
            *_entries_refused(register),
            *_receipts_refused(register, both),
            *_bulk_accepted(many), *_bulk_unknown(many), *_bulk_refused(many),
            *_erasures(erased), *_acts(),
        ],
    }  # fmt: skip


def _entries_refused(register: _Register) -> list[Json]:
    fields = _list(decode(register.entries[1], max_bytes=limits.MAX_ENTRY))
    changed: dict[str, list[Any]] = {
        "an entry of version 2": [2, *fields[1:]],
        "an entry of kind 0": [1, 0, *fields[2:]],
        "an entry of kind 14": [1, 14, *fields[2:]],
        "an entry with a blind of 15 bytes": [*fields[:4], bytes(15)],
        "an entry of four fields": fields[:4],
    }
    return [
        *(_case(name, "entry.parse", encode(value), code="bad-encoding")
          for name, value in changed.items()),
        _case("an entry of 257 bytes", "entry.parse", bytes(257), code="over-limit"),
    ]  # fmt: skip


def _receipts_refused(register: _Register, both: bytes) -> list[Json]:
    note = parse_note(register.note)
    ed25519, mldsa44 = note.signatures
    checkpoint, one = register.checkpoint, register.item(1)
    root, proof = checkpoint.root, one.proof
    timeless = replace(mldsa44, signature=b"\x80" + mldsa44.signature[1:])

    def noted(**changes: object) -> bytes:
        return register.frame(one, note=format_note(replace(note, **changes)))  # type: ignore[arg-type]

    def text(data: bytes) -> bytes:
        return register.frame(one, note=data)

    plain_text = register.note.decode()
    signature, proofs = "bad-signature", "bad-proof"
    changed: dict[str, tuple[bytes, str]] = {
        "without the Ed25519 signature": (noted(signatures=(mldsa44,)), signature),
        "without the ML-DSA signature": (noted(signatures=(ed25519,)), signature),
        "the Ed25519 signature changed": (
            noted(signatures=(replace(ed25519, signature=_flip(ed25519.signature, 7)), mldsa44)),
            signature,
        ),
        "the ML-DSA signature changed": (
            noted(signatures=(ed25519, replace(mldsa44, signature=_flip(mldsa44.signature, 70)))),
            signature,
        ),
        "the time changed": (
            noted(signatures=(ed25519, replace(mldsa44, signature=_flip(mldsa44.signature, 7)))),
            signature,
        ),
        "a time of 2^63": (noted(signatures=(ed25519, timeless)), signature),
        "another size": (
            noted(text=format_body(Checkpoint(checkpoint.origin, 8, root))), signature,
        ),
        "another root": (
            noted(text=format_body(Checkpoint(checkpoint.origin, 7, bytes(32)))), signature,
        ),
        "one signature twice": (noted(signatures=(ed25519, ed25519, mldsa44)), "bad-encoding"),
        "an extension line": (noted(text=note.text + "later\n"), "bad-encoding"),
        "a size with a leading zero": (
            noted(text=note.text.replace("\n7\n", "\n07\n")), "bad-encoding",
        ),
        "a root of 31 bytes": (
            noted(text=note.text.rsplit("\n", 2)[0] + "\n" + "A" * 40 + "AA==\n"), "bad-encoding",
        ),
        "a note without its empty line": (
            text(plain_text.replace("\n\n", "\n").encode()), "bad-encoding",
        ),
        "a note with a tab": (
            text(plain_text.replace("\n7\n", "\n7\t\n").encode()), "bad-encoding",
        ),
        "a note without its last newline": (text(register.note[:-1]), "bad-encoding"),
        "a hyphen for the dash": (
            text(plain_text.replace("\u2014", "-").encode()), "bad-encoding",
        ),
        "a hash of the proof changed": (
            register.frame(replace(one, proof=(bytes(32), *proof[1:]))), proofs,
        ),
        "a hash left out": (register.frame(replace(one, proof=proof[:-1])), proofs),
        "a hash too many": (register.frame(replace(one, proof=(*proof, bytes(32)))), proofs),
        "another index": (register.frame(replace(one, index=3)), proofs),
        "an index beyond the tree": (register.frame(replace(one, index=7)), proofs),
        "the entry of another envelope": (
            register.frame(replace(one, entry=register.entries[3])), "bad-receipt",
        ),
        "an entry that is no delivery": (register.frame(register.item(5)), "bad-receipt"),
        "an entry of a release": (register.frame(register.item(6)), "bad-receipt"),
        "a malformed entry": (register.frame(replace(one, entry=b"entry")), "bad-receipt"),
        "one good receipt and one bad": (
            register.frame(one, replace(register.item(4), proof=proof)), proofs,
        ),
    }  # fmt: skip
    whole: Json = {"of": "receipts", "splices": []}
    return [
        _case("under the keys of another log", "receipt.verify", whole, log="other_log",
              code=signature),
        _case("of another origin", "receipt.verify", whole, log="other_origin", code=signature),
        *(_case(name, "receipt.verify", _like("receipts", both, data), log="log", code=code)
          for name, (data, code) in changed.items()),
        *(_signed_often(register, times, code)
          for times, code in ((64, "bad-encoding"), (65, "over-limit"))),
    ]  # fmt: skip


def _signed_often(register: _Register, times: int, code: str) -> Json:
    """Return a receipt whose note has one line so many times; Ed25519 alone, so it stays as is."""
    line = parse_note(register.note).signatures[0]
    data = register.frame(
        register.item(1), note=logs.unsigned_note(register.checkpoint, line, times)
    )
    shown = format_signature(line).encode()
    head, tail = data.split(shown * times)
    parts = ((head.hex(), 1), (shown.hex(), times), (tail.hex(), 1))
    name = f"{times} signatures, all of one key"
    return _case(name, "receipt.verify", _repeat(*parts), log="log", code=code)


# --- what is kept of acts --------------------------------------------------------------------
def _erasures(register: _Register) -> list[Json]:
    """Return receipts of erasures, and what else a reader of receipts lets pass."""
    whole, item = register.frame(register.item(3)), register.item(3)
    strange = NoteSignature(register.checkpoint.origin, bytes(4), b"\7" * 9)
    note = parse_note(register.note)
    twice = format_note(replace(note, signatures=(strange, *note.signatures, strange)))
    good = {"items": [[register.ids[3].hex(), 3, 11]]}
    return [
        _case("an entry that an envelope was erased", "entry.parse", register.entries[3],
              expect={"kind": 11, "subject": register.ids[3].hex()}),
        _case("a receipt that an envelope was erased", "receipt.verify",
              {"of": "erased", "splices": []}, log="log", expect=good),
        _case("two lines of one unknown key under the name of the log", "receipt.verify",
              _like("erased", whole, register.frame(item, note=twice)), log="log", expect=good),
        _case("a run of erasures", "frame.decode", register.bulk(register.run(3, 3), note=b"note"),
              expect={"type": "runs", "checkpoint": b"note".hex()}),
        _case("an erasure in the name of another envelope", "receipt.verify",
              _like("erased", whole, register.frame(replace(item, envelope_id=bytes(32)))),
              log="log", code="bad-receipt"),
        _case("erasures in bulk prove nothing", "runs.verify",
              _like("erased", whole, register.bulk(register.run(3, 3))), log="log", known=[],
              code="bad-receipt"),
    ]  # fmt: skip


def _acts() -> list[Json]:
    """Return what entries of kinds 7 and 11 keep of their acts."""
    ids = [seed("envelope", "1"), seed("envelope", "2")]
    read = AccessAct("read", tuple(ids), "token:9f1912e27094", NOW)
    given = AccessAct("disclose", (ids[0],), "operator", NOW, "to a court, by A. Operator")
    whole = AccessAct("export-log", (), "operator", NOW, "with entries")
    erased = ErasureAct(
        incident_id="0190a3b2-6c00-7000-8000-0000000000a1", ref="PI-XA-2026-7K3F9Q", revision=1,
        layers="face annex", reason=Reason.RETENTION, by="A. Operator", who="operator", at=NOW,
    )  # fmt: skip

    def shown(act: AccessAct) -> Json:
        return {"what": act.what, "ids": [each.hex() for each in act.ids], "who": act.who,
                "at": act.at, "note": act.note, "subject": act.subject.hex()}  # fmt: skip

    accepted = {"an act of reading": read, "an act of disclosing": given,
                "an act about the log": whole}  # fmt: skip
    first, last = list(read.local), list(erased.local)
    access: dict[str, tuple[object, str]] = {
        "an act of four fields": (first[:4], "bad-encoding"),
        "an act in capitals": (["Read", *first[1:]], "bad-encoding"),
        "an act of 33 letters": (["a" * 33, *first[1:]], "bad-encoding"),
        "an act of 65 envelopes": (["read", [bytes(32)] * 65, *first[2:]], "over-limit"),
        "an act of a short id": (["read", [bytes(8)], *first[2:]], "bad-encoding"),
        "an act of nobody": ([*first[:2], "", *first[3:]], "bad-encoding"),
        "an act at no time": ([*first[:3], -1, ""], "bad-encoding"),
        "an act with a note of two lines": ([*first[:4], "a\nb"], "bad-encoding"),
        "an act with nil for a note": ([*first[:4], None], "bad-encoding"),
        "an act with a note of 1077 characters": ([*first[:4], "a" * 1_077], "over-limit"),
    }
    erasure: dict[str, list[object]] = {
        "an erasure of seven fields": last[:7],
        "an erasure of revision 0": [*last[:2], 0, *last[3:]],
        "an erasure of no layers": [*last[:3], "", *last[4:]],
        "an erasure of its layers in another order": [*last[:3], "annex face", *last[4:]],
        "an erasure for an unknown reason": [*last[:4], "tidying", *last[5:]],
        "an erasure by nobody": [*last[:5], "", *last[6:]],
    }
    return [
        *(_case(name, "access.parse", encode(list(act.local)), expect=shown(act))
          for name, act in accepted.items()),
        _case("an act of erasing", "erasure.parse", encode(last),
              expect={"incident_id": last[0], "ref": last[1], "revision": 1, "layers": last[3],
                      "reason": "retention", "by": "A. Operator", "who": "operator", "at": NOW}),
        *(_case(name, "access.parse", encode(value), code=code)
          for name, (value, code) in access.items()),
        *(_case(name, "erasure.parse", encode(value), code="bad-encoding")
          for name, value in erasure.items()),
    ]  # fmt: skip


# --- receipts in bulk ------------------------------------------------------------------------
def _three_runs(register: _Register) -> list[Run]:
    return [register.run(1, 5), register.run(6, 7), register.run(9, 10)]


def _shortened(run: Run) -> Run:
    return replace(run, ids=tuple(each[:8] for each in run.ids))


def _bulk_case(
    register: _Register, name: str, data: bytes, *, op: str = "runs.verify", **rest: object
) -> Json:
    base = register.bulk(*map(_shortened, _three_runs(register)))
    return _case(name, op, _like("runs", base, data), **{"log": "log", "known": [], **rest})


def _bulk_accepted(register: _Register) -> list[Json]:
    runs = _three_runs(register)
    short, whole = register.bulk(*map(_shortened, runs)), register.bulk(*runs)
    known = [each.hex() for run in runs for each in run.ids]
    checkpoint = register.checkpoint

    def expect(*indexes: int) -> Json:
        items = [[register.ids[n].hex(), n, int(register.kinds[n])] for n in indexes]
        return {
            "recipient": register.node.id.hex(), "origin": checkpoint.origin, "size": 11,
            "root": checkpoint.root.hex(), "text": format_body(checkpoint), "time": NOW // 1_000,
            "items": items,
        }  # fmt: skip

    def accepted(name: str, data: bytes, *indexes: int, known: Sequence[str] = ()) -> Json:
        return _bulk_case(register, name, data, known=list(known), expect=expect(*indexes))

    def single(name: str, data: bytes, n: int, known: Sequence[str] = ()) -> Json:
        item = register.item(n)
        found = {
            "recipient": register.node.id.hex(), "envelope_id": item.envelope_id.hex(),
            "index": n, "entry": item.entry.hex(), "proof": [hash_.hex() for hash_ in item.proof],
        }  # fmt: skip
        return _bulk_case(
            register, name, data, op="runs.single", known=list(known),
            envelope_id=item.envelope_id.hex(), expect=found,
        )  # fmt: skip

    everything = (*range(1, 8), 9, 10)
    twin = register.ids[3][:8] + bytes(24)
    return [
        accepted("receipts in bulk as they are on a link", short, *everything, known=known),
        accepted("receipts in bulk with whole ids", whole, *everything),
        accepted("receipts in bulk with whole ids and short ones",
                 register.bulk(runs[0], _shortened(runs[1])), *range(1, 8), known=known),
        accepted("runs in any order, some of them twice",
                 register.bulk(runs[2], runs[0], register.run(2, 4), runs[0]),
                 9, 10, *range(1, 6), 2, 3, 4, *range(1, 6)),
        accepted("a run of one envelope", register.bulk(register.run(7, 7)), 7),
        accepted("a run at the end of the log", register.bulk(register.run(10, 10)), 10),
        accepted("of two ids that begin alike the one that was sent last", short, *everything,
                 known=[twin.hex(), *known]),
        single("the receipt for one envelope in the middle of a run", short, 3, known=known),
        single("the receipt for the first envelope of a run", whole, 6),
        single("the receipt for the last envelope of the log", whole, 10),
    ]  # fmt: skip


def _bulk_unknown(register: _Register) -> list[Json]:
    runs = _three_runs(register)
    short, whole = register.bulk(*map(_shortened, runs)), register.bulk(*runs)
    known = [each.hex() for run in runs for each in run.ids]
    twin = register.ids[3][:8] + bytes(24)
    moved = replace(runs[0], first=2)

    def refused(
        name: str, data: bytes, code: str, *, op: str = "runs.verify", **rest: object
    ) -> Json:
        return _bulk_case(register, name, data, op=op, code=code, **rest)

    return [
        refused("receipts in bulk under the keys of another log", whole, "bad-signature",
                log="other_log"),
        refused("receipts in bulk of another origin", whole, "bad-signature", log="other_origin"),
        refused("short ids of which none is known", short, "bad-receipt"),
        refused("short ids in a frame that was kept", short, "bad-receipt", known=None),
        refused("short ids of which one is not known", short, "bad-receipt",
                known=[*known[:-1], twin.hex()]),
        refused("of two ids that begin alike the one that was sent first", short, "bad-proof",
                known=[*known, twin.hex()]),
        refused("the receipt for an envelope that is in no run", whole, "bad-receipt",
                op="runs.single", envelope_id=register.ids[8].hex()),
        refused("the receipt for one envelope of a run in another place",
                register.bulk(moved), "bad-proof", op="runs.single",
                envelope_id=register.ids[3].hex()),
    ]  # fmt: skip


def _bulk_refused(register: _Register) -> list[Json]:
    one, carried, last = _three_runs(register)
    (a, b, *ids), (s, r, *secrets), proof = one.ids, one.secrets, one.proof
    proofs, receipt = "bad-proof", "bad-receipt"
    changed: dict[str, tuple[Run, str]] = {
        "an id changed": (replace(one, ids=(_flip(a, 31), b, *ids)), proofs),
        "two ids exchanged": (replace(one, ids=(b, a, *ids)), proofs),
        "two whole envelopes exchanged": (
            replace(one, ids=(b, a, *ids), secrets=(r, s, *secrets)), proofs,
        ),
        "an id twice in a run": (replace(one, ids=(a, a, *ids)), proofs),
        "a commitment changed": (replace(one, secrets=(_flip(s, 0), r, *secrets)), proofs),
        "a blind changed": (replace(one, secrets=(_flip(s, 47), r, *secrets)), proofs),
        "a run one place further": (replace(one, first=2), proofs),
        "a run one place before": (replace(one, first=0), proofs),
        "a run that ends beyond the log": (replace(one, first=7), proofs),
        "a run that begins beyond the log": (replace(one, first=11), proofs),
        "a run at 2^48": (replace(one, first=2**48), proofs),
        "a run behind the log with the root for a proof": (
            replace(one, first=11, proof=(register.checkpoint.root,)), proofs,
        ),
        "the last two in the place before them": (replace(last, first=8), proofs),
        "the first envelope of a run left out": (
            replace(one, first=2, ids=(b, *ids), secrets=(r, *secrets)), proofs,
        ),
        "the last envelope of a run left out": (
            replace(one, ids=(a, b, *ids[:-1]), secrets=(s, r, *secrets[:-1])), proofs,
        ),
        "a carried envelope at the end of received ones": (
            replace(one, ids=(*one.ids, carried.ids[0]),
                    secrets=(*one.secrets, carried.secrets[0]),
                    proof=register.run(1, 6).proof), proofs,
        ),
        "received where it was carried": (replace(carried, kind=1), proofs),
        "carried where it was received": (replace(one, kind=3), proofs),
        "a hash of a run changed": (replace(one, proof=(_flip(proof[0], 0), *proof[1:])), proofs),
        "a hash of a run left out": (replace(one, proof=proof[:-1]), proofs),
        "a hash of a run too many": (replace(one, proof=(*proof, bytes(32))), proofs),
        "the hashes of a run exchanged": (replace(one, proof=proof[::-1]), proofs),
        "a run without hashes": (replace(one, proof=()), proofs),
        "the hashes of another run": (replace(one, proof=carried.proof), proofs),
        "the audit path for the hashes of a run": (
            replace(register.run(10, 10), proof=register.item(10).proof), proofs,
        ),
        "a run of a trust decision": (register.run(8, 8), receipt),
        "a run of kind 0": (replace(one, kind=0), receipt),
        "a run of releases": (replace(one, kind=2), receipt),
        "a run of receipts": (replace(one, kind=4), receipt),
        "a run of kind 255": (replace(one, kind=255), receipt),
    }  # fmt: skip
    return [
        *(_bulk_case(register, name, register.bulk(run), code=code)
          for name, (run, code) in changed.items()),
        _bulk_case(register, "a good run and a bad one",
                   register.bulk(one, replace(carried, first=5)), code=proofs),
        _bulk_case(register, "a bad run and a good one",
                   register.bulk(replace(carried, kind=2), one), code=receipt),
        *_bulk_notes_refused(register),
    ]  # fmt: skip


def _bulk_notes_refused(register: _Register) -> list[Json]:
    run, note = register.run(1, 5), parse_note(register.note)
    origin, ten = register.checkpoint.origin, merkle.root(10, register.reader)
    ed25519, mldsa44 = note.signatures
    larger = replace(register.checkpoint, size=12)
    notes: dict[str, tuple[bytes, str]] = {
        "runs under a checkpoint before the last entry": (
            register.signed(Checkpoint(origin, 10, ten)), "bad-proof",
        ),
        "runs under a checkpoint of nothing": (
            register.signed(Checkpoint(origin, 0, merkle.EMPTY_ROOT)), "bad-proof",
        ),
        "runs without the Ed25519 signature": (
            format_note(replace(note, signatures=(mldsa44,))), "bad-signature",
        ),
        "runs without the ML-DSA signature": (
            format_note(replace(note, signatures=(ed25519,))), "bad-signature",
        ),
        "runs under a changed checkpoint": (
            format_note(replace(note, text=format_body(larger))), "bad-signature",
        ),
        "runs under a note without its last newline": (register.note[:-1], "bad-encoding"),
    }  # fmt: skip
    # In a tree of 12 the place of entry 10 has another neighbour; that of the others looks alike.
    end = register.bulk(register.run(9, 10), note=register.signed(larger))
    return [
        *(_bulk_case(register, name, register.bulk(run, note=data), code=code)
          for name, (data, code) in notes.items()),
        _bulk_case(register, "the end of the log under a checkpoint of a larger size", end,
                   code="bad-proof"),
    ]  # fmt: skip


# --- attachments -----------------------------------------------------------------------------
def blob_file() -> Json:
    """Return the vectors of section 12.10."""
    large, small = bulk.Sealed(3 * 2**16 + 1_000), bulk.Sealed(900)
    other = bulk.Sealed(large.size, seed("blob", "other key"))
    whole: Json = {"of": "chunk", "splices": []}
    files = {
        "a file of one byte": 1, "a file of 1024 bytes": 1_024, "a file of 1025 bytes": 1_025,
        "a file of 65537 bytes": 2**16 + 1, "a file of 197608 bytes": large.size,
    }  # fmt: skip
    plain = bulk.file_of(large.size)[3 * 2**16 :]
    return {
        "about": "Files that count from 0 to 255 over and over, and their blobs. `chunk` is a "
        "blob frame with the last of four chunks of the largest, `small` one with all of a file "
        "of 900 bytes. `padded` is the padded size that the reader knows, `size` that of the file.",
        "section": "12.10",
        "randomised": [],
        "given": {
            "key": bulk.KEY.hex(), "other_key": other.key.hex(), "chunk": large.last().hex(),
            "small": small.last().hex(),
        },
        "cases": [
            *(_case(name, "blob.seal", _counted(size), key="key", expect=_sealed(size))
              for name, size in files.items()),
            _case("an empty file", "blob.seal", b"", key="key", code="bad-encoding"),
            _case("the last chunk of four", "blob.verify", whole, padded=large.padded,
                  expect={"index": 3, "leaf": merkle.leaf_hash(_leaf(large)).hex()}),
            _case("the only chunk", "blob.verify", {"of": "small", "splices": []}, padded=1_024,
                  expect={"index": 0, "leaf": small.id.hex()}),
            _case("the last chunk of four, opened", "blob.open", whole, key="key",
                  size=large.size, expect={"plain": plain.hex()}),
            _case("the only chunk, opened", "blob.open", {"of": "small", "splices": []},
                  key="key", size=900, expect={"plain": bulk.file_of(900).hex()}),
            *(_case(name, "blob.verify", _like("chunk", large.last(), data), padded=padded,
                    code=code)
              for name, (data, padded, code) in bulk.unproven(large, other).items()),
            *(_case(name, "blob.open", _like("chunk", large.last(), data), key=key, size=size,
                    code="cannot-open")
              for name, (data, key, size) in bulk.unopened(large).items()),
        ],
    }  # fmt: skip


def _counted(size: int) -> Json:
    rounds, rest = divmod(size, 256)
    return _repeat((bulk.COUNTING.hex(), rounds), (bulk.COUNTING[:rest].hex(), 1))


def _sealed(size: int) -> Json:
    made = bulk.Sealed(size)
    return {
        "padded": made.padded, "count": made.count, "blob": made.id.hex(),
        "last": made.chunks[-1].hex(),
    }  # fmt: skip


def _leaf(made: bulk.Sealed) -> bytes:
    return suite.label("blob") + made.padded.to_bytes(8, "big") + made.chunks[-1]


# --- what people compare ---------------------------------------------------------------------
def fingerprint_file() -> Json:
    """Return the vectors of section 7."""
    ids = {"zeros": bytes(32), "ones": b"\xff" * 32, "counting": bytes(range(32)),
           "alder": make_node("alder").id, "birch": make_node("birch").id}  # fmt: skip
    texts = {name: fingerprint.format_node_id(node_id) for name, node_id in ids.items()}
    shown = texts["counting"]
    letters = shown.replace("-", "")
    spoken = letters.replace("O", "0").replace("I", "1").replace("B", "8").lower()
    number = fingerprint.safety_number(ids["alder"], ids["birch"], network=NETWORK)

    def read(name: str, text: str, **rest: object) -> Json:
        return {"name": name, "op": "fingerprint.read", "input": text, **rest}

    def compare(name: str, text: str, **rest: object) -> Json:
        return {"name": name, "op": "safety.compare", "input": text, "nodes": ["alder", "birch"],
                **rest}  # fmt: skip

    good = [
        *({"name": f"the text form of {name}", "op": "fingerprint.show", "input": node_id.hex(),
           "expect": {"text": texts[name]}} for name, node_id in ids.items()),
        read("small letters, no dashes, 0 1 8 for O I B", spoken,
             expect={"node_id": ids["counting"].hex()}),
        read("spaces and line breaks", f" {shown[:31]}\n{shown[31:].replace('-', ' ')} ",
             expect={"node_id": ids["counting"].hex()}),
        compare("the safety number", number, expect={"digits": number}),
        compare("the safety number in one row", number.replace(" ", ""),
                expect={"digits": number}),
    ]  # fmt: skip
    at = next(n for n in range(60) if number.replace(" ", "")[n] != "0")
    other = number.replace(" ", "")
    other = other[:at] + "0" + other[at + 1 :]
    wrong = {
        "a wrong letter in the first block": ("C" if letters[0] != "C" else "D") + letters[1:],
        "a wrong check character": letters[:13]
        + ("A" if letters[13] != "A" else "C")
        + letters[14:],
        "two letters exchanged": _exchanged(letters),
        "a letter missing": letters[:-1],
        "a letter too many": letters + "A",
        "a group missing": letters[7:],
        "the digit 9": "9" + letters[1:],
        "a letter beyond ASCII": "\u00c4" + letters[1:],
        "an underscore for a dash": shown.replace("-", "_"),
        "nothing": "",
        "a last letter that no 32 bytes have": _impossible(letters),
    }
    bad = [read(name, text, code="bad-encoding") for name, text in wrong.items()]
    bad += [
        compare("another digit", other, code="trust-conflict"),
        compare("the number of another network", fingerprint.safety_number(
            ids["alder"], ids["birch"], network=suite.network_id("other.example")),
            code="trust-conflict"),
        compare("59 digits", number[:-1], code="bad-encoding"),
        compare("61 digits", number + "0", code="bad-encoding"),
        compare("a letter for a digit", "O" + number[1:], code="bad-encoding"),
        compare("Arabic-Indic digits", "\u0663" * 60, code="bad-encoding"),
    ]  # fmt: skip
    return {
        "about": "Text forms of node ids, and the safety number of two nodes.",
        "section": "7",
        "randomised": [],
        "given": {"network": NETWORK.hex(), **{name: node.hex() for name, node in ids.items()}},
        "cases": [*good, *bad],
    }


def _exchanged(letters: str) -> str:
    at = next(n for n in range(12) if letters[n] != letters[n + 1])
    return letters[:at] + letters[at + 1] + letters[at] + letters[at + 2 :]


def _impossible(letters: str) -> str:
    """Return *letters* with a bit set that stands for nothing, and the check character to match."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    block = letters[42:54] + alphabet[alphabet.index(letters[54]) | 1]
    total = 0
    for place, letter in enumerate(block):
        product = alphabet.index(letter) * (2 - place % 2)
        total += product // 32 + product % 32
    return letters[:42] + block + alphabet[-total % 32]


# --- keystore --------------------------------------------------------------------------------
def keystore_file() -> Json:
    """Return the vectors of section 18."""
    passphrase = "correct h\u00f6rse battery"
    secrets = {name: seed("vault", name) for name in ("identity/ed25519", "message", "seal/1")}
    params = keystore.Argon2Params(memory_kib=19_456, iterations=1)
    salt, nonce = seed("keystore", "salt")[:16], seed("keystore", "nonce")[:12]
    typed = keystore.normalise_passphrase(passphrase)
    blob = keystore.encrypt(secrets, typed, salt=salt, nonce=nonce, params=params)
    empty = keystore.encrypt({}, typed, salt=salt, nonce=nonce, params=params)
    fields = _list(decode(blob, max_bytes=keystore.MAX_FILE))

    def having(at: int, value: object) -> bytes:
        return encode([*fields[:at], value, *fields[at + 1 :]])

    changed: dict[str, tuple[bytes, str]] = {
        "another kind of file": (having(0, "picket-keystork"), "bad-keystore"),
        "version 2": (having(1, 2), "bad-keystore"),
        "another derivation": (having(2, "argon2i"), "bad-keystore"),
        "19455 KiB": (having(3, 19_455), "bad-keystore"),
        "more than 1 GiB": (having(3, 2**20 + 1), "bad-keystore"),
        "no iteration": (having(4, 0), "bad-keystore"),
        "11 iterations": (having(4, 11), "bad-keystore"),
        "two lanes": (having(5, 2), "bad-keystore"),
        "a salt of 15 bytes": (having(6, salt[:15]), "bad-keystore"),
        "a nonce of 11 bytes": (having(7, nonce[:11]), "bad-keystore"),
        "no ciphertext": (having(8, b""), "bad-keystore"),
        "its last byte missing": (blob[:-1], "bad-keystore"),
        "a byte after it": (blob + b"\0", "bad-keystore"),
        "another salt": (having(6, _flip(salt, 0)), "wrong-passphrase"),
        "another nonce": (having(7, _flip(nonce, 0)), "wrong-passphrase"),
        "more iterations than it was made with": (having(4, 2), "wrong-passphrase"),
        "a changed ciphertext": (having(8, _flip(fields[8], 0)), "wrong-passphrase"),
        "another tag": (having(8, _flip(fields[8], len(fields[8]) - 1)), "wrong-passphrase"),
    }
    shown = {name: secret.hex() for name, secret in secrets.items()}
    return {
        "about": "A keystore with the lowest cost that is allowed. `passphrase` is as typed.",
        "section": "18",
        "randomised": [],
        "given": {"keystore": blob.hex()},
        "cases": [
            _case("a keystore", "keystore.open", blob, passphrase=passphrase,
                  expect={"secrets": shown}),
            _case("the passphrase typed with a combining mark", "keystore.open", blob,
                  passphrase="correct ho\u0308rse battery\n", expect={"secrets": shown}),
            _case("a keystore without keys", "keystore.open", empty, passphrase=passphrase,
                  expect={"secrets": {}}),
            *(_case(name, "keystore.open", _like("keystore", blob, data), passphrase=passphrase,
                    code=code) for name, (data, code) in changed.items()),
            _case("another passphrase", "keystore.open", blob,
                  passphrase="correct horse battery", code="wrong-passphrase"),
            _case("a passphrase of 7 characters", "keystore.open", blob, passphrase="correct",
                  code="bad-keystore"),
        ],
    }  # fmt: skip


# --- policies, cosigned checkpoints and proof files ------------------------------------------
class _Witnessed:
    """A log of alder with three entries; two of its three witnesses cosigned the checkpoint."""

    TIMES: Final = {"birch": NOW // 1_000 + 5, "cedar": NOW // 1_000 + 9}

    def __init__(self) -> None:
        self.node = make_node("alder")
        self.entries = [f"entry {n}".encode() for n in range(3)]
        leaves = [merkle.leaf_hash(entry) for entry in self.entries]
        self.path = (leaves[0], leaves[2])
        root = merkle.node_hash(merkle.node_hash(*leaves[:2]), leaves[2])
        self.checkpoint = Checkpoint(self.node.card.log.name, 3, root)
        self.signed = sign_checkpoint(
            self.checkpoint, ed25519=self.node.log_ed25519, mldsa44=self.node.log_mldsa44,
            now_s=NOW // 1_000,
        )  # fmt: skip
        both = [self.cosign(name, time) for name, time in self.TIMES.items()]
        self.note = add_signatures(self.signed, [line for pair in both for line in pair])
        self.proof = TlogProof(None, 1, self.path, self.note)
        names = {"BI": "birch", "CE": "cedar", "DO": "dogwood"}
        witnesses = [(label, card_body(name).witness) for label, name in names.items()]
        self.policy = make_policy(self.node.card.log, witnesses, 2)
        self.nobody = make_policy(self.node.card.log, witnesses, 0)

    def cosign(
        self, name: str, time: int, checkpoint: Checkpoint | None = None
    ) -> tuple[NoteSignature, NoteSignature]:
        return cosign(
            checkpoint or self.checkpoint,
            name=card_body(name).witness.name,
            ed25519=Ed25519PrivateKey.from_private_bytes(seed(name, "witness")),
            mldsa44=MLDSA44PrivateKey.from_seed_bytes(seed(name, "wit44")),
            now_s=time,
        )

    def with_line(self, at: int, signature: bytes) -> bytes:
        note = parse_note(self.note)
        lines = list(note.signatures)
        lines[at] = replace(lines[at], signature=signature)
        return format_note(replace(note, signatures=tuple(lines)))


def policy_file() -> Json:
    """Return the vectors of section 13.7."""
    scene = _Witnessed()
    plain_text = _example_policy()
    return {
        "about": "Policies, a checkpoint of alder that birch and cedar cosigned, and a proof file "
        "for the entry at index 1. `plain` is the example of C2SP tlog-policy with keys.",
        "section": "13",
        "randomised": ["/given/note", "/given/proof", "/cases/*/input/splices"],
        "given": {
            "policy": format_policy(scene.policy).encode().hex(),
            "nobody": format_policy(scene.nobody).encode().hex(),
            "plain": plain_text.encode().hex(),
            "entry": scene.entries[1].hex(),
            "other_entry": scene.entries[2].hex(),
            "note": scene.note.hex(),
            "proof": format_tlog_proof(scene.proof).hex(),
        },
        "cases": [
            *_policies(scene, plain_text), *_policies_refused(plain_text),
            *_cosigned(scene), *_cosigned_refused(scene),
            *_proofs(scene), *_proofs_refused(scene),
        ],
    }  # fmt: skip


_EXAMPLE: Final = ("X1", "X2", "X3", "Y1", "Y2", "Y3")


def _example_policy() -> str:
    def vkey(name: str, kind: int = 0x04) -> str:
        public = suite.Ed25519Signer(seed(name, "policy")).public
        return format_vkey(f"{name.lower()}.example", kind, public)

    lines = [f"log {vkey('log', 0x01)}", *(f"witness {name} {vkey(name)}" for name in _EXAMPLE)]
    lines += [
        "group X-witnesses 2 X1 X2 X3", "group Y-witnesses any Y1 Y2 Y3",
        "group X-and-Y all X-witnesses Y-witnesses", "quorum X-and-Y", "",
    ]  # fmt: skip
    return "\n".join(lines)


def policy_fields(policy: Policy, *asked: Sequence[str]) -> Json:
    """Return *policy* as the vectors have it, and whether each of *asked* meets it."""
    return {
        "logs": [[*_key_fields(log.key), log.url] for log in policy.logs],
        "witnesses": [
            [line.name, *_key_fields(line.key), line.url] for line in policy.witnesses.values()
        ],
        "groups": [[each.name, each.k, list(each.members)] for each in policy.groups.values()],
        "quorum": policy.quorum,
        "satisfied": [policy.satisfied(names) for names in asked],
    }


def _key_fields(key: VerifierKey) -> tuple[object, ...]:
    return key.name, key.type, key.key_id.hex()


def _policies(scene: _Witnessed, plain_text: str) -> list[Json]:
    own = [
        [], ["BI.ed", "BI.mldsa", "DO.ed", "DO.mldsa"], ["BI.ed", "BI.mldsa", "CE.ed"],
        ["BI.ed", "CE.ed", "DO.ed"], ["BI", "CE"], list(scene.policy.witnesses),
    ]  # fmt: skip
    subsets = [["X1", "X3", "Y2"], ["X1", "X2", "X3"], ["X1", "Y1", "Y2", "Y3"], list(_EXAMPLE)]
    example = parse_policy(plain_text)
    loose = plain_text.replace(" ", " \t").replace("\n", " \n")
    loose = f"# with comments\n\n  # and # here\n{loose}\t\n#\n"
    url = plain_text.replace("\nwitness X2", " https://x1.example\nwitness X2")
    after = "quorum none\n" + plain_text.split("\n", 1)[0] + "\n"

    def read(name: str, made: Policy, given: bytes | Json, *asked: Sequence[str]) -> Json:
        return _case(name, "policy.parse", given, cosigned=asked,
                     expect=policy_fields(made, *asked))  # fmt: skip

    return [
        read("a policy of two of three witnesses with two keys each", scene.policy,
             {"of": "policy", "splices": []}, *own),
        read("the example of the specification", example, {"of": "plain", "splices": []}, *subsets),
        read("the same with comments, blank lines, tabs and more spaces", example, loose.encode(),
             *subsets),
        read("a witness with an address", parse_policy(url),
             _like("plain", plain_text.encode(), url.encode())),
        read("a quorum of none, which is met by nobody", parse_policy("quorum none\n"),
             b"quorum none\n", []),
        read("a log behind the quorum", parse_policy(after), after.encode(), []),
    ]  # fmt: skip


def _policies_refused(whole: str) -> list[Json]:
    lines = whole.split("\n")
    log, first, second = lines[:3]
    vkey, other = first.split(" ")[2], second.split(" ")[2]
    public = parse_vkey(vkey).public_key

    def having(old: str, new: str) -> str:
        assert old in whole
        return whole.replace(old, new, 1)

    changed = {
        "nothing": "",
        "no quorum": having("quorum X-and-Y\n", ""),
        "two quorums": whole + "quorum X-and-Y\n",
        "a quorum that is not defined": having("quorum X-and-Y", "quorum X-or-Y"),
        "a quorum before its definition": f"quorum X1\n{first}\n",
        "a quorum without name": having("quorum X-and-Y", "quorum"),
        "a quorum of two names": having("quorum X-and-Y", "quorum X-and-Y X1"),
        "no newline at the end": whole[:-1],
        "Windows line ends": whole.replace("\n", "\r\n"),
        "a vertical tab": having("quorum X", "quorum\x0bX"),
        "DEL in a comment": whole + "# \x7f\n",
        "a no-break space": having("quorum X", "quorum\u00a0X"),
        "an unknown keyword": whole + f"mirror M {vkey}\n",
        "a keyword in capitals": having("quorum", "QUORUM"),
        "a comment behind a line": having("quorum X-and-Y", "quorum X-and-Y # both"),
        "a log without key": having(log, "log"),
        "a witness without key": having(first, "witness X1"),
        "a witness with two addresses": having(first, f"{first} a b"),
        "a group without members": having("all X-witnesses Y-witnesses", "all"),
        "a threshold of 0": having("witnesses 2 X1", "witnesses 0 X1"),
        "a threshold of 4 of 3": having("witnesses 2 X1", "witnesses 4 X1"),
        "a threshold with a leading zero": having("witnesses 2 X1", "witnesses 02 X1"),
        "a threshold with a sign": having("witnesses 2 X1", "witnesses +2 X1"),
        "a threshold of an Arabic digit": having("witnesses 2 X1", "witnesses \u0662 X1"),
        "a threshold in capitals": having("any Y1", "ANY Y1"),
        "a member that is not defined": having("Y1 Y2 Y3", "Y1 Y2 Y4"),
        "a member defined below": having("2 X1 X2 X3", "2 X1 X2 Y-witnesses"),
        "a group in itself": having("any Y1", "any Y-witnesses Y1"),
        "a member twice": having("2 X1 X2 X3", "2 X1 X2 X2"),
        "a member of two groups": having("any Y1", "any X1 Y1"),
        "none as a member": having("any Y1", "any none Y1"),
        "a witness called none": having("witness X1", "witness none"),
        "a name twice": having("witness X2", "witness X1"),
        "a group called like a witness": having("group Y-witnesses", "group X1"),
        "a name of 257 letters": whole + f"group {'g' * 257} all X-and-Y\n",
        "a key twice": having(other, vkey),
        "a key under another name": having(other, format_vkey("other", 0x04, public)),
        "a log twice": having(log, f"{log}\n{log}"),
        "a log with the key of a witness": having(log, f"log {vkey}"),
        "a witness with the key of a log": having(vkey, format_vkey("w", 0x01, public)),
        "a key of type ff": having(vkey, format_vkey("w", 0xFF, public)),
        "a key of small order": having(vkey, format_vkey("w", 0x04, b"\1" + bytes(31))),
        "an Ed25519 key of 33 bytes": having(vkey, format_vkey("w", 0x04, public + b"\1")),
        "an ML-DSA-44 key of 1311 bytes": having(vkey, format_vkey("w", 0x06, bytes(1_311))),
        "a key name of 256 bytes": having(vkey, format_vkey("w" * 256, 0x04, public)),
        "a key with another id": having(vkey, vkey.replace("+", "+0", 1)),
        "a key id in capitals": having(vkey, _capital_id(vkey)),
        "a key without padding": having(vkey, format_vkey("w", 0x04, public + b"\1").rstrip("=")),
        "a raw key in hex": having(vkey, public.hex()),
        "two keys with one name and id": _collision(),
        "a line of 8193 bytes": whole + "#" + "x" * limits.MAX_POLICY_LINE + "\n",
        "1025 lines": "\n" * limits.MAX_POLICY_LINES + "quorum none\n",
    }
    base = whole.encode()
    return [
        *(_case(name, "policy.parse", _slim("plain", base, data.encode()), code="bad-policy")
          for name, data in changed.items()),
        _case("bytes that are not UTF-8", "policy.parse", _like("plain", base, base + b"#\xff\n"),
              code="bad-policy"),
        _case("a policy of more than 1 MiB", "policy.parse", _repeat(("0a", 2**20 + 1)),
              code="bad-policy"),
    ]  # fmt: skip


def _slim(name: str, base: bytes, data: bytes) -> bytes | Json:
    """Return *data* as differences from *base* or by itself, whichever is shorter."""
    folded = _folded(data)
    if not isinstance(folded, bytes) or len(data) < _LONG:
        return folded
    return _like(name, base, data)


def _capital_id(vkey: str) -> str:
    name, shown, key = vkey.split("+", 2)
    assert shown != shown.upper()
    return f"{name}+{shown.upper()}+{key}"


def _collision() -> str:
    """Return a policy with the first two of counted keys that have one id under one name."""
    keys = [
        suite.Ed25519Signer(suite_seed).public
        for suite_seed in (sha256(f"collision {n}".encode()).digest() for n in (9_274, 98_500))
    ]
    lines = [
        f"witness {name} {format_vkey('w.example', 0x04, key)}"
        for name, key in zip("AB", keys, strict=True)
    ]
    return "\n".join([*lines, "quorum A", ""])


def _cosigned_expect(scene: _Witnessed) -> Json:
    return {
        "origin": scene.checkpoint.origin, "size": 3, "root": scene.checkpoint.root.hex(),
        "labels": ["BI.ed", "BI.mldsa", "CE.ed", "CE.mldsa"], "not_after": scene.TIMES["cedar"],
    }  # fmt: skip


def _noted(scene: _Witnessed, name: str, data: bytes, **rest: object) -> Json:
    return _case(name, "cosigned.check", _like("note", scene.note, data),
                 **{"policy": "policy", **rest})  # fmt: skip


def _cosigned(scene: _Witnessed) -> list[Json]:
    good, note = _cosigned_expect(scene), parse_note(scene.note)
    strange = [
        NoteSignature("else.example", note.signatures[2].key_id, bytes(72)),
        NoteSignature(note.signatures[2].name, bytes(4), bytes(72)),
    ]
    turned = format_note(replace(note, signatures=note.signatures[::-1]))
    return [
        _noted(scene, "a checkpoint that two of three cosigned", scene.note, expect=good),
        _noted(scene, "lines of unknown keys between", add_signatures(scene.note, strange),
               expect=good),
        _noted(scene, "the lines in another order", turned, expect=good),
        _noted(scene, "where nobody is needed there is no time", scene.note, policy="nobody",
               expect={**good, "not_after": None}),
        _noted(scene, "nobody is needed and nobody cosigned", scene.signed, policy="nobody",
               expect={**good, "labels": [], "not_after": None}),
    ]  # fmt: skip


def _cosigned_refused(scene: _Witnessed) -> list[Json]:
    note = parse_note(scene.note)
    lines = note.signatures

    def having(*signatures: NoteSignature, text: str = note.text) -> bytes:
        return format_note(Note(text, signatures))

    other = replace(scene.checkpoint, size=4)
    untimed = scene.cosign("cedar", 0)
    later = (scene.TIMES["birch"] + 1).to_bytes(8, "big")
    text = note.text
    proof, signature, form = "bad-proof", "bad-signature", "bad-encoding"
    refused = {
        "no cosignature": (scene.signed, proof),
        "one witness of two": (having(*lines[:4]), proof),
        "a witness with its Ed25519 key only": (having(*lines[:5]), proof),
        "a witness with its ML-DSA-44 key only": (having(*lines[:4], lines[5]), proof),
        "an ML-DSA-44 cosignature of time 0": (having(*lines[:5], untimed[1]), proof),
        "an Ed25519 cosignature of time 0": (having(*lines[:4], untimed[0], lines[5]), proof),
        "without the log's Ed25519 signature": (having(*lines[1:]), signature),
        "a bad signature of the log": (
            scene.with_line(0, _flip(lines[0].signature, 9)), signature,
        ),
        "an edited Ed25519 cosignature": (
            scene.with_line(2, _flip(lines[2].signature, 40)), signature,
        ),
        "an Ed25519 cosignature with another time": (
            scene.with_line(2, later + lines[2].signature[8:]), signature,
        ),
        "an ML-DSA-44 cosignature with another time": (
            scene.with_line(3, later + lines[3].signature[8:]), signature,
        ),
        "an Ed25519 cosignature of time 2^63": (
            scene.with_line(2, (2**63).to_bytes(8, "big") + lines[2].signature[8:]), signature,
        ),
        "a cosignature cut short": (scene.with_line(2, lines[2].signature[:-1]), signature),
        "a cosignature of another size": (
            having(*lines[:4], scene.cosign("cedar", 9, other)[0], lines[5]), signature,
        ),
        "a cosignature of another size that nobody needs": (
            having(*lines, scene.cosign("dogwood", 9, other)[0]), signature,
        ),
        "a cosignature twice": (having(*lines, lines[2]), form),
        "another size": (having(*lines, text=text.replace("\n3\n", "\n4\n")), signature),
        "a size with a leading zero": (
            having(*lines, text=text.replace("\n3\n", "\n03\n")), form,
        ),
        "a size with a sign": (having(*lines, text=text.replace("\n3\n", "\n+3\n")), form),
        "a line more": (having(*lines, text=text + "more\n"), form),
        "Windows line ends in a cosigned note": (scene.note.replace(b"\n", b"\r\n"), form),
        "a space behind a cosignature": (scene.note[:-1] + b" \n", form),
        "a cosigned note without its last newline": (scene.note[:-1], form),
    }  # fmt: skip
    return [
        *(_noted(scene, name, data, code=code) for name, (data, code) in refused.items()),
        _noted(scene, "the log of another policy", scene.note, policy="plain", code=signature),
        _noted(scene, "a bad cosignature where nobody is needed",
               scene.with_line(2, _flip(lines[2].signature, 40)), policy="nobody", code=signature),
    ]  # fmt: skip


def _proved(scene: _Witnessed, name: str, data: bytes, **rest: object) -> Json:
    base = format_tlog_proof(scene.proof)
    return _case(name, "proof.verify", _like("proof", base, data),
                 **{"policy": "policy", "entry": "entry", **rest})  # fmt: skip


def _proofs(scene: _Witnessed) -> list[Json]:
    good = {**_cosigned_expect(scene), "index": 1, "extra": None}
    extra = replace(scene.proof, extra=b"hello")
    last = TlogProof(None, 2, (merkle.node_hash(*map(merkle.leaf_hash, scene.entries[:2])),),
                     scene.note)  # fmt: skip
    return [
        _proved(scene, "a proof file", format_tlog_proof(scene.proof), expect=good),
        _proved(scene, "a proof file with extra data", format_tlog_proof(extra),
                expect={**good, "extra": b"hello".hex()}),
        _proved(scene, "a proof file for the last entry", format_tlog_proof(last),
                entry="other_entry", expect={**good, "index": 2}),
    ]  # fmt: skip


def _proofs_refused(scene: _Witnessed) -> list[Json]:
    whole, proof = format_tlog_proof(scene.proof), scene.proof
    head, _, note = whole.partition(b"\n\n")
    version, index, first, second = head.decode().split("\n")

    def lines(*each: str) -> bytes:
        return "\n".join([*each, "", ""]).encode() + note

    form, over = "bad-encoding", "over-limit"
    sole = parse_note(note).signatures[:1]  # Ed25519, so that each run makes the same bytes
    large = TlogProof(
        bytes(limits.MAX_PROOF_EXTRA + 1),
        1,
        proof.hashes,
        format_note(replace(parse_note(note), signatures=sole)),
    )
    changed: dict[str, tuple[bytes, str]] = {
        "another index": (format_tlog_proof(replace(proof, index=0)), "bad-proof"),
        "an index beyond the log": (format_tlog_proof(replace(proof, index=3)), "bad-proof"),
        "a hash too few": (lines(version, index, first), "bad-proof"),
        "a hash too many": (lines(version, index, first, second, second), "bad-proof"),
        "the hashes exchanged": (lines(version, index, second, first), "bad-proof"),
        "a checkpoint that too few cosigned": (
            format_tlog_proof(replace(proof, checkpoint=scene.signed)), "bad-proof",
        ),
        "a checkpoint with an edited time": (
            whole.replace(note, scene.with_line(2, b"\0" * 7 + b"\1" +
                          parse_note(note).signatures[2].signature[8:])), "bad-signature",
        ),
        "no checkpoint": (head + b"\n\n", form),
        "an empty line too many": (head + b"\n\n\n" + note, form),
        "no empty line": (head + b"\n" + note, form),
        "Windows line ends in the head": (head.replace(b"\n", b"\r\n") + b"\r\n\r\n" + note, form),
        "a proof file without its last newline": (whole[:-1], form),
        "another version": (whole.replace(b"@v1", b"@v2"), form),
        "no index": (lines(version, first, second), form),
        "two indexes": (lines(version, index, index, first, second), form),
        "an index with a leading zero": (lines(version, "index 01", first, second), form),
        "an index with a sign": (lines(version, "index +1", first, second), form),
        "an index with a space": (lines(version, "index  1", first, second), form),
        "an index with an underscore": (lines(version, "index 1_0", first, second), form),
        "an index of 2^48": (lines(version, f"index {2**48}", first, second), form),
        "extra data behind the index": (lines(version, index, "extra aGk=", first, second), form),
        "extra data of nothing": (lines(version, "extra ", index, first, second), form),
        "extra data without padding": (lines(version, "extra aGk", index, first, second), form),
        "extra data that is not canonical": (
            lines(version, "extra aGl=", index, first, second), form,
        ),
        "a hash without padding": (lines(version, index, first[:-1], second), form),
        "a hash of 31 bytes": (lines(version, index, "A" * 40 + "AA==", second), form),
        "a hash with a space behind it": (lines(version, index, f"{first} ", second), form),
        "65 hashes": (lines(version, index, *[first] * 65), over),
    }  # fmt: skip
    return [
        *(_proved(scene, name, data, code=code) for name, (data, code) in changed.items()),
        _case("65537 bytes of extra data", "proof.verify", _folded(format_tlog_proof(large)),
              policy="policy", entry="entry", code=over),
        _proved(scene, "another entry", whole, entry="other_entry", code="bad-proof"),
        _proved(scene, "a proof under the policy of another log", whole, policy="plain",
                code="bad-signature"),
    ]  # fmt: skip


# --- witnesses, consistency and evidence of a rewritten log ------------------------------------
def witness_file() -> Json:
    """Return the vectors of sections 13.9 and 13.10."""
    scene = logs.Scene()
    given = scene.given()
    shown, bad = logs.consistencies(scene)
    return {
        "about": "Requests to a witness of the log of alder, what it answers, proofs that alder "
        "gives of its log, and evidence that it was rewritten. `older_log` has the name of `log` "
        "and other keys; `other_log` another name. Other fields as in statement.json.",
        "section": "13",
        "randomised": list(logs.RANDOMISED),
        "given": given,
        "cases": [
            *(_case(name, "witness.decide", _from(given, each.given, each.body),
                    logs=each.logs,
                    seen=None if each.seen is None else [each.seen[0], each.seen[1].hex()],
                    expect={"status": each.status, "size": each.size, "conflict": each.conflict})
              for name, each in logs.asked(scene).items()),
            *(_case(each["name"], "consistency.roots", each["payload"], head=each["head"],
                    expect={"roots": each["roots"]}) for each in shown),
            *(_case(name, "consistency.roots", _plain_input(data), head=scene.true.root(7).hex(),
                    code=code) for name, (data, code) in bad.items()),
            *(_case(name, "logfork.verify", _from(given, base, data), logs=against,
                    expect={**expect, "digest": suite.digest("log-fork", data).hex()})
              for name, (base, data, against, expect) in logs.forks(scene).items()),
            *(_case(name, "logfork.verify", _from(given, "fork", data), logs=against, code=code)
              for name, (data, against, code) in logs.forks_refused(scene).items()),
            *(_case(name, "logfork.verify", _folded(data), logs=["log"], code=code)
              for name, (data, code) in logs.forks_too_long().items()),
        ],
    }  # fmt: skip


def _plain_input(data: bytes | Json) -> bytes:
    assert isinstance(data, bytes)
    return data


def _from(given: Json, name: str, data: bytes) -> Json:
    return _like(name, bytes.fromhex(given[name]), data)


# --- chains ----------------------------------------------------------------------------------
def chain_file() -> Json:
    """Return the vectors of sections 5.6 to 5.8."""
    told = chains.story()
    given: Json = {name: wire.hex() for name, wire in told.given.items()}
    digests = {n: parse_statement(w).digest.hex() for n, w in told.given.items()
               if n != "suspension"}  # fmt: skip
    directory = [[part.hex() for part in signer.public] for signer in chains.DIRECTORY]
    return {
        "about": "Rotations, recoveries and revocations of one node, and suspensions of it. `held` "
        "names the statements that are held already; `path` has the digests of those that count "
        "then, where the node is not frozen. Other fields as in statement.json.",
        "section": "5.6 to 5.8",
        "randomised": list(chains.RANDOMISED),
        "seeds": {
            "keys of inception": ["alder/identity/ed", "alder/identity/ml"],
            "keys that recover and rotate show": ["alder/next/ed", "alder/next/ml"],
            "keys that these commit to": ["alder/next 2/ed", "alder/next 2/ml"],
            "revocation code": "alder/revocation",
        },
        "given": {"network": NETWORK.hex(), **given},
        "directory": {"keys": directory, "threshold": 2},
        "cases": [
            *(_case(name, "history.take", {"of": comes, "splices": []}, held=held,
                    expect={"standing": standing, "revoked": revoked,
                            **({"path": [digests[each] for each in path]} if path else {})})
              for name, (comes, held, standing, path, revoked) in chains.accepted().items()),
            *(_case(name, "history.take", _from(given, like, data), held=held, code=code)
              for name, (data, like, code, held) in chains.refused(told).items()),
            *(_case(name, "suspension.verify", _from(given, "suspension", data), now=now,
                    **({"expect": {"node_id": told.chains["card"].node_id.hex()}} if code is None
                       else {"code": code}))
              for name, (data, now, code) in chains.suspensions(told).items()),
        ],
    }  # fmt: skip


# --- pairing ---------------------------------------------------------------------------------
def pairing_file() -> Json:
    """Return the vectors of sections 6.1, 6.2 and 11.7."""
    made = pairing.given()
    given = {name: data.hex() for name, data in made.items()}

    def case(name: str, op: str, like: str, told: pairing.Case) -> Json:
        data, rest, code = told
        outcome = {"code": code} if code else {"expect": pairing.expected()}
        return _case(name, op, _from(given, like, data), **rest, **outcome)

    return {
        "about": "Knocks of one node at a door, introductions of it, and links to its card. `door` "
        "and `to` name the certificate and the node id of the reader, `introducer` is the link key "
        "of the introducer, both parts joined. The input of `cardlink.read` is text.",
        "section": "6.1, 6.2, 11.7",
        "randomised": list(pairing.RANDOMISED),
        "seeds": {"link keys": ["birch/link/ed", "birch/link/ml"],
                  "link keys of the introducer": ["alder/link/ed", "alder/link/ml"]},
        "given": {"network": NETWORK.hex(), **given},
        "cases": [
            *(case(n, "knock.verify", "knock", c)
              for n, c in pairing.knocks(made["knock"]).items()),
            *(case(n, "introduction.verify", "introduction", c)
              for n, c in pairing.introductions(made["introduction"]).items()),
            *(_case(n, "cardlink.read", _from(given, "link", data),
                    **({"code": code} if code else {"expect": told}))
              for n, (data, told, code) in pairing.links(made["link"]).items()),
        ],
    }  # fmt: skip


# --- files -----------------------------------------------------------------------------------
FILES: Final[dict[str, Callable[[], Json]]] = {
    "canonical": canonical_file,
    "statement": statement_file,
    "card": card_file,
    "chain": chain_file,
    "envelope": envelope_file,
    "streams": streams_file,
    "frames": frames_file,
    "receipt": receipt_file,
    "blob": blob_file,
    "fingerprint": fingerprint_file,
    "keystore": keystore_file,
    "policy": policy_file,
    "witness": witness_file,
    "pairing": pairing_file,
}


def read(name: str) -> Json:
    """Return the vectors that are stored under *name*."""
    stored: Json = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return stored


def render(vectors: Json) -> str:
    """Return the text of a file: one case a line, so that a change shows as what it is."""
    head = {key: value for key, value in vectors.items() if key != "cases"}
    cases = ",\n".join(f"    {json.dumps(case, ensure_ascii=True)}" for case in vectors["cases"])
    return json.dumps(head, indent=2)[:-2] + f',\n  "cases": [\n{cases}\n  ]\n}}\n'


def grown(stored: Json, made: Json) -> Json:
    """Return *stored* with what only *made* has.

    Raises:
        ValueError: a new case changes a given value whose stored bytes are others.
    """
    held = {case["name"]: case for case in stored["cases"]}
    for case in made["cases"]:
        base = case["input"].get("of") if isinstance(case["input"], dict) else None
        old, new = stored["given"].get(base), made["given"].get(base)
        if case["name"] not in held and old not in {None, new}:
            raise ValueError(f"{case['name']!r} is made from {base!r}, which is frozen")
    return {
        **made,
        "given": _united(stored["given"], made["given"]),
        "cases": [held.get(case["name"], case) for case in made["cases"]],
    }


def _united(old: Json, new: Json) -> Json:
    """Return *new*, where what *old* has is as it was."""
    return {
        key: _united(old[key], value)
        if isinstance(value, dict) and isinstance(old.get(key), dict)
        else old.get(key, value)
        for key, value in new.items()
    }


def differences(name: str, stored: Json) -> list[str]:
    """Return where *stored* differs from what this code makes, randomised bytes left out."""
    # As JSON has it: tuples are lists there, and keys are text.
    made: Json = json.loads(json.dumps(FILES[name]()))
    frozen = [pattern.split("/")[1:] for pattern in made["randomised"]]
    return list(_compare(stored, made, (), frozen))


def _compare(
    old: object, new: object, path: tuple[str, ...], frozen: list[list[str]]
) -> Iterator[str]:
    if any(_fits(path, pattern) for pattern in frozen):
        return
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key in old:
            yield from _compare(old[key], new[key], (*path, key), frozen)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _compare(a, b, (*path, str(at)), frozen)
    elif old != new:
        yield "/" + "/".join(path)


def _fits(path: tuple[str, ...], pattern: list[str]) -> bool:
    return len(path) == len(pattern) and all(
        wanted in {"*", part} for part, wanted in zip(path, pattern, strict=True)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or write the files that are named after --add or --write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for option in ("--add", "--write"):
        parser.add_argument(option, nargs="+", choices=sorted(FILES), metavar="NAME", default=[])
    options = parser.parse_args(arguments)
    write: list[str] = options.write
    for name in options.add:
        added = grown(read(name), json.loads(json.dumps(FILES[name]())))
        (FOLDER / f"{name}.json").write_text(render(added), encoding="utf-8")
        sys.stdout.write(f"{name}.json has {len(added['cases'])} cases now\n")
    for name in write:
        made = FILES[name]()
        (FOLDER / f"{name}.json").write_text(render(made), encoding="utf-8")
        fresh = ", ".join(made["randomised"]) or "nothing"
        sys.stdout.write(f"{name}.json written; differs each time: {fresh}\n")
    if write or options.add:
        return 0
    found = [f"{name}.json{where}" for name in FILES for where in differences(name, read(name))]
    sys.stdout.write("".join(f"differs: {where}\n" for where in found) or "no differences\n")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
