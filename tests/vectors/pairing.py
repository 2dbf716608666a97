"""What ``generate`` says of knocks, introductions and card links: pairing.json."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from keys.fingerprint import format_node_id
from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.cardlink import make_card_link
from protocol.introduction import make_introduction
from protocol.knock import bundle_digest, make_knock
from protocol.statement import make_bundle
from tests.factories import DAY, NOW, TestNode, card_of, certificate_of, make_node

Json: TypeAlias = dict[str, Any]
RANDOMISED: Final = (
    "/given/knock", "/given/introduction", "/given/link", "/cases/*/input/splices",
)  # fmt: skip
AT: Final = ("wss://birch.example:8462", "wss://[2001:db8::1]:443")
WINDOW: Final = limits.KNOCK_WINDOW_MS
_ALDER: Final = make_node("alder")
_BIRCH: Final = make_node("birch")
_CEDAR: Final = make_node("cedar")
_ENCODING: Final = "bad-encoding"
Case: TypeAlias = tuple[bytes, Json, str | None]
"""Bytes, what the operation needs besides, and the code if they are refused."""


def given() -> dict[str, bytes]:
    """Return what the cases share."""
    bundle = make_bundle(_BIRCH.chain)
    return {
        "door": certificate_of("cedar"),
        "other_door": certificate_of("dogwood"),
        "introducer": b"".join(_ALDER.card.link),
        "reader": _CEDAR.id,
        "other_reader": _ALDER.id,
        "knock": make_knock(
            _BIRCH.chain, certificate=certificate_of("cedar"), now=NOW, signer=_BIRCH.link
        ),
        "introduction": make_introduction(
            _BIRCH.chain, introducer=_ALDER.chain, to=_CEDAR.id, now=NOW, signer=_ALDER.link
        ),
        "link": make_card_link(format_node_id(_BIRCH.id), bundle, endpoints=AT).encode(),
    }


def expected() -> Json:
    """Return what is read of the good knock and the good introduction."""
    return {"node_id": _BIRCH.id.hex(), "n": 1}


def _parts(wire: bytes) -> tuple[list[Value], list[Value]]:
    outer = decode(wire, max_bytes=limits.MAX_KNOCK)
    assert isinstance(outer, list) and isinstance(outer[0], bytes)
    core = decode(outer[0], max_bytes=limits.MAX_HEADER)
    assert isinstance(core, list)
    return outer, core


def _signed(label: str, core: list[Value], bundle: Value, signer: TestNode) -> bytes:
    data = encode(core)
    signatures = signer.link.sign(suite.label(label) + suite.digest(label, data))
    return encode([data, bundle, *signatures])


def _changed(
    label: str, wire: bytes, signer: TestNode, fields: dict[int, Value], bundle: bytes = b""
) -> bytes:
    """Return *wire* with other fields, signed by *signer*."""
    outer, core = _parts(wire)
    changed = [fields.get(at, value) for at, value in enumerate(core)]
    return _signed(label, changed, bundle or outer[1], signer)


def _damaged(wire: bytes, at: int) -> bytes:
    """Return *wire* with the first byte of its element *at* changed."""
    outer, _ = _parts(wire)
    part = outer[at]
    assert isinstance(part, bytes)
    outer[at] = bytes([part[0] ^ 1]) + part[1:]
    return encode(outer)


def _shapes(label: str, wire: bytes, signer: TestNode) -> dict[str, tuple[bytes, str]]:
    outer, core = _parts(wire)
    longer = make_bundle(_BIRCH.chain.extend(card_of(_BIRCH.chain, "birch", contact="night")))
    other = suite.network_id("other.example")
    return {
        f"a byte after a {label}": (wire + b"\0", _ENCODING),
        f"a {label} of three elements": (encode(outer[:3]), _ENCODING),
        f"a {label} whose core lacks a field": (
            _signed(label, core[:-1], outer[1], signer), _ENCODING,
        ),
        f"a {label} of a later version": (
            _changed(label, wire, signer, {0: 2}), "unsupported-version",
        ),
        f"a {label} of another network": (
            _changed(label, wire, signer, {1: other}), "wrong-network",
        ),
        f"a {label} with a changed Ed25519 signature": (_damaged(wire, 2), "bad-signature"),
        f"a {label} with a changed ML-DSA signature": (_damaged(wire, 3), "bad-signature"),
        f"a {label} signed by another node": (
            _changed(label, wire, make_node("mallory"), {}), "bad-signature",
        ),
        f"a {label} with another bundle than was signed": (
            _changed(label, wire, signer, {}, longer), "bad-digest",
        ),
    }  # fmt: skip


def knocks(made: bytes) -> dict[str, Case]:
    """Return knocks."""
    here: Json = {"door": "door", "now": NOW}
    named = _changed("knock", made, _BIRCH, {2: _ALDER.id})
    over = _BIRCH.chain.extend(card_of(_BIRCH.chain, "birch", expires=NOW))
    expired = make_knock(over, certificate=certificate_of("cedar"), now=NOW, signer=_BIRCH.link)
    return {
        "a knock": (made, here, None),
        "a knock 10 min after its time": (made, here | {"now": NOW + WINDOW}, None),
        "a knock 10 min before its time": (made, here | {"now": NOW - WINDOW}, None),
        "a knock 10 min and 1 ms after its time": (
            made, here | {"now": NOW + WINDOW + 1}, "expired",
        ),
        "a knock 10 min and 1 ms before its time": (
            made, here | {"now": NOW - WINDOW - 1}, "expired",
        ),
        "a knock at another door": (made, here | {"door": "other_door"}, "untrusted-key"),
        "a knock in the name of another": (named, here, "bad-statement"),
        "a knock with a card that is over": (expired, here, "expired"),
        **{name: (data, here, code) for name, (data, code) in _shapes(
            "knock", made, _BIRCH).items()},
    }  # fmt: skip


def introductions(made: bytes) -> dict[str, Case]:
    """Return introductions."""
    here: Json = {"to": "reader", "now": NOW}
    other = make_bundle(_CEDAR.chain)
    swapped = _changed("introduction", made, _ALDER, {6: bundle_digest(other)}, other)
    return {
        "an introduction": (made, here, None),
        "an introduction of 14 days ago": (made, here | {"now": NOW + 14 * DAY}, None),
        "an introduction of 14 days and 1 ms ago": (
            made, here | {"now": NOW + 14 * DAY + 1}, "expired",
        ),
        "an introduction from the future": (made, here | {"now": NOW - 600_001}, "expired"),
        "an introduction for another reader": (
            made, here | {"to": "other_reader"}, "wrong-audience",
        ),
        "an introduction with the bundle of another node": (swapped, here, "bad-statement"),
        "an introduction whose card number is too large": (
            _changed("introduction", made, _ALDER, {3: limits.MAX_CHAIN}), here, _ENCODING,
        ),
        **{name: (data, here, code) for name, (data, code) in _shapes(
            "introduction", made, _ALDER).items()},
    }  # fmt: skip


def links(made: bytes) -> dict[str, tuple[bytes, Json | None, str | None]]:
    """Return card links: text, what is read of it, or the code if it is refused."""
    text = made.decode()
    plain, digest = text.partition("&at=")[0], text.partition("sha256=")[2][:64]
    node = format_node_id(_BIRCH.id)
    refused = {
        "a link without its digest": f"picket-card:{node}",
        "a link with a colon": f"picket-card:{node}:{digest}",
        "a link with a digest in capitals": plain.replace(digest, digest.upper()[:-1] + "F"),
        "a link with a digest of 63 digits": plain[:-1],
        "a link with a node id in small letters": plain.replace(node, node.lower()),
        "a link with a node id without dashes": plain.replace(node, node.replace("-", "")),
        "a link with an empty address": f"{text}&at=",
        "a link with an address of another scheme": f"{text}&at=https://a:1",
        "a link with an address without port": f"{text}&at=wss://a",
        "a link with nine addresses": plain + "&at=wss://a:1" * 9,
        "a link with another parameter": f"{text}&x=1",
        "a link with its parts in another order": text.replace("?sha256", "?at=wss://a:1&sha256"),
        "a link with a space in it": text.replace("&", " &", 1),
    }
    return {
        "a card link": (made, {"node_id": _BIRCH.id.hex(), "at": list(AT)}, None),
        "a card link without an address": (
            plain.encode(), {"node_id": _BIRCH.id.hex(), "at": []}, None,
        ),
        "a card link with white space around it": (
            b" \r\n" + made + b"\n", {"at": list(AT)}, None,
        ),
        **{name: (shown.encode(), None, _ENCODING) for name, shown in refused.items()},
        "a link of more than 1024 characters": (
            text.encode() + b"&at=wss://a:1" * 100, None, "over-limit",
        ),
    }  # fmt: skip
