"""All published weak keys are refused wherever a card can come in: by file, link, door or paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from keys.fingerprint import format_code
from node.app import recover_anew
from protocol import introduction, knock, suite
from protocol.armor import armor
from protocol.bodies import card_value
from protocol.canonical import encode
from protocol.errors import PeerError, WeakKeyError
from protocol.frames import Statements
from protocol.statement import make_bundle
from tests.factories import hybrid, seed
from tests.node.factories import Station, World, copied, made_once
from tests.node.wiring import Web

P: Final = 2**255 - 19

ED25519: Final = {
    # The eight points of small order as RFC 8032 section 5.1.2 writes them.
    "order 1": "01" + "00" * 31,
    "order 2": "ec" + "ff" * 30 + "7f",
    "order 4": "00" * 32,
    "order 4, negative": "00" * 31 + "80",
    "order 8": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "order 8, negative": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "another of order 8": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "another, negative": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    # The six other encodings of them that lax readers take ("Taming the Many EdDSAs", table 6).
    "order 1, negative zero": "01" + "00" * 30 + "80",
    "order 2, negative zero": "ec" + "ff" * 31,
    "order 1, unreduced": "ee" + "ff" * 30 + "7f",
    "order 1, unreduced and negative": "ee" + "ff" * 31,
    "order 4, unreduced": "ed" + "ff" * 30 + "7f",
    "order 4, unreduced and negative": "ed" + "ff" * 31,
    "not on the curve": "02" + "00" * 31,
}
"""Encodings of Ed25519 keys under which signatures of others verify, and one that is no point."""

_EIGHT = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
X25519: Final = (
    0, 1, *_EIGHT, P - 1, P, P + 1, *(P + each for each in _EIGHT), 2 * P - 1, 2 * P, 2 * P + 1,
)  # fmt: skip
"""The twelve values that lead X25519 to a shared secret of zero (cr.yp.to/ecdh.html)."""

GOOD: Final = suite.seal_public_bytes(seed("x", "seal"))
MLKEM: Final = {
    "first coefficient is q": b"\x01\x0d" + GOOD[2:1_184] + GOOD[1_184:],
    "first coefficient is 4095": b"\xff\x0f" + GOOD[2:],
    "last coefficient is 4095": GOOD[:1_150] + b"\xf0\xff" + GOOD[1_152:],
    "all coefficients are 4095": b"\xff" * 1_184 + GOOD[1_184:],
    "one byte short": GOOD[:-1],
    "one byte long": GOOD + b"\0",
}
"""X-Wing keys whose ML-KEM half fails the check of FIPS 203 section 7.2."""

Change = tuple[str, object]


def changes() -> dict[str, Change]:
    """Every weak key, in every field of a card that can hold it: (field, its value)."""
    link, log44 = hybrid("x", "link").public, bytes(1_312)
    weak: dict[str, Change] = {}
    for name, text in ED25519.items():
        key = bytes.fromhex(text)
        weak[f"message: {name}"] = ("message", key)
        weak[f"link: {name}"] = ("link", [key, link[1]])
        weak[f"log: {name}"] = ("log", ["x.example/log", key, log44])
        weak[f"witness: {name}"] = ("witness", ["x.example/witness", key, log44])
    for number, value in enumerate(X25519):
        low = GOOD[:1_184] + value.to_bytes(32, "little")
        weak[f"seal: X25519 {number}"] = ("seal", [[low, 1, 2]])
    for name, key in MLKEM.items():
        weak[f"seal: {name}"] = ("seal", [[key, 1, 2]])
    for size in (0, 1_951, 1_953):
        weak[f"link: ML-DSA-65 of {size}"] = ("link", [link[0], bytes(size)])
    for size in (0, 1_311, 1_313):
        weak[f"log: ML-DSA-44 of {size}"] = ("log", ["x.example/log", link[0], bytes(size)])
    weak["tls: no certificate"] = ("tls", [b"no certificate"])
    return weak


WEAK: Final = changes()
SOME: Final = (
    "message: order 8, negative", "link: order 1, unreduced and negative", "log: order 2",
    "seal: X25519 0", "seal: X25519 11", "seal: first coefficient is q",
    "link: ML-DSA-65 of 1951", "log: ML-DSA-44 of 1313", "tls: no certificate",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path_factory.mktemp("weak")) as opened:
        yield opened


def weak_card(station: Station, change: Change) -> bytes:
    """Return the next card of *station* with a weak key on it, signed as it must be."""
    chain, (field, value) = station.core.trust.own, change
    body = encode({**card_value(station.core.card), field: value})
    core = encode(
        [
            1, "card", chain.network, chain.node_id, chain.head.n + 1, chain.head.digest,
            station.clock.now(), suite.digest("statement-body", body),
        ]
    )  # fmt: skip
    message = suite.label("key/card") + suite.digest("statement", core)
    return encode([core, body, [[0, *station.vault.identity.sign(message)]]])


def weak_bundle(station: Station, change: Change) -> bytes:
    wires = [s.wire for s in station.core.trust.own.statements]
    return encode([1, [*wires, weak_card(station, change)]])


# --- the ways in -----------------------------------------------------------------------------
def by_file(world: World, change: Change) -> None:
    world["alder"].service().add_peer(armor(weak_bundle(world["birch"], change)), "birch")


def by_link(world: World, change: Change) -> None:
    birch = world["birch"]
    world["alder"].core.take_statements(birch.id, [weak_card(birch, change)])


def by_introduction(world: World, change: Change) -> None:
    """Cedar introduces birch to alder."""
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    bundle, own = weak_bundle(birch, change), cedar.core.trust.own
    core = encode(
        [
            1, own.network, cedar.id, cedar.core.card_n, alder.id, birch.id,
            knock.bundle_digest(bundle), world.clock.now(),
        ]
    )  # fmt: skip
    signatures = cedar.core.keys.link.sign(
        suite.label(introduction.LABEL) + suite.digest(introduction.LABEL, core)
    )
    introduction.verify_introduction(
        introduction.parse_introduction(encode([core, bundle, *signatures])),
        network=own.network, to=alder.id, link=cedar.core.card.link, now=world.clock.now(),
    )  # fmt: skip


def by_knock(world: World, change: Change) -> None:
    """Birch knocks at alder's door."""
    alder, birch = world["alder"], world["birch"]
    bundle, own = weak_bundle(birch, change), birch.core.trust.own
    acceptor = suite.digest("certificate", alder.core.card.tls[0])
    core = encode(
        [1, own.network, birch.id, acceptor, world.clock.now(), knock.bundle_digest(bundle)]
    )
    signatures = birch.core.keys.link.sign(
        suite.label(knock.LABEL) + suite.digest(knock.LABEL, core)
    )
    knock.verify_knock(
        knock.parse_knock(encode([core, bundle, *signatures])),
        network=own.network, certificates=alder.core.card.tls, now=world.clock.now(),
    )  # fmt: skip


def by_recovery(world: World, change: Change) -> None:
    """Birch takes its identity back on a new machine, with a card that a peer sent."""
    recover_anew(
        world.folder / "fresh", {"node.network": "test.example"},
        card=armor(weak_bundle(world["birch"], change)), code=format_code(bytes(32)),
        passphrase=b"another passphrase",
    )  # fmt: skip
    raise AssertionError("it was taken")


WAYS: Final = (by_file, by_link, by_introduction, by_knock, by_recovery)


@pytest.mark.parametrize("name", WEAK)
def test_every_published_weak_key_is_refused_in_every_field(world: World, name: str) -> None:
    with pytest.raises((WeakKeyError, PeerError)) as caught:
        by_link(world, WEAK[name])
    expected = "bad-encoding" if "ML-DSA" in name or "byte" in name else "weak-key"
    assert caught.value.code == expected
    field = name.partition(":")[0]
    assert f"card.{field}" in caught.value.message


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_weak_keys_are_refused_on_every_way_in(
    world: World, way: Callable[[World, Change], None], name: str
) -> None:
    before = world["alder"].core.trust
    with pytest.raises(PeerError) as caught:
        way(world, WEAK[name])
    assert caught.value.code in {"weak-key", "bad-encoding"}
    assert world["alder"].core.trust is before
    assert not (world.folder / "fresh").exists()


def test_each_way_in_is_open_to_a_good_card(world: World, tmp_path: Path) -> None:
    """The refusals above come from the weak keys, not from the way."""
    good: Change = ("contact", "duty@elsewhere.example")
    for way in (by_file, by_introduction, by_knock):
        way(world, good)
    assert make_bundle(world["birch"].core.trust.own)
    assert world["alder"].core.trust.peer(world["birch"].id).card.contact == good[1]
    assert tmp_path.exists()


def test_a_peer_that_sends_one_over_a_link_loses_the_link(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with copied(made_once(tmp_path_factory), tmp_path) as world:
        alder, birch = world["alder"], world["birch"]
        web = Web(alder, birch)
        web.link("alder", "birch")
        bad = Statements(birch.id, (weak_card(birch, WEAK["message: order 1"]),))
        web.say("birch", "alder", bad)
        assert not web.linked("alder", "birch")
        assert "weak-key" in web["alder"].gossip.trouble[birch.id]
