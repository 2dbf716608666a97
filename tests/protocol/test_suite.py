"""The primitives: published vectors, weak keys, and labels that keep purposes apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hpke import rust_openssl  # type: ignore[attr-defined]

from protocol import suite
from protocol.errors import OpenError, SignatureError, WeakKeyError
from tests.factories import hybrid, seed

VECTOR = json.loads((Path(__file__).parent.parent / "vectors" / "xwing.json").read_text())
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P


def test_seed_expansion_gives_the_published_public_key() -> None:
    assert suite.seal_public_bytes(bytes.fromhex(VECTOR["skRm"])).hex() == VECTOR["pkRm"]


def test_the_published_ciphertext_opens_in_the_library_with_our_key() -> None:
    """The vector has associated data, which single-shot sealing has not; the key is what we own."""
    private = suite.seal_private(bytes.fromhex(VECTOR["skRm"]))
    sealed = bytes.fromhex(VECTOR["enc"] + VECTOR["ct"])
    opened = rust_openssl.hpke._decrypt_with_aad(
        suite._HPKE, sealed, private, bytes.fromhex(VECTOR["info"]), bytes.fromhex(VECTOR["aad"])
    )
    assert opened.hex() == VECTOR["pt"]


def test_sealed_keys_have_the_size_that_slots_have() -> None:
    public = suite.seal_public_bytes(seed("a", "seal"))
    sealed = suite.seal_to(public, bytes(32), b"info")
    assert len(sealed) == 1_168
    private = suite.seal_private(seed("a", "seal"))
    assert suite.unseal_with(private, sealed, b"info") == bytes(32)
    for wrong, info in ((sealed[:-1], b"info"), (sealed, b"other"), (b"", b"info")):
        with pytest.raises(OpenError):
            suite.unseal_with(private, wrong, info)


# --- Ed25519 ---------------------------------------------------------------------------------
def edwards_double(x: int, y: int) -> tuple[int, int]:
    common = D * x * x * y * y
    return (
        2 * x * y * pow(1 + common, -1, P) % P,
        (y * y + x * x) * pow(1 - common, -1, P) % P,
    )


def x_of(y: int) -> int | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    for candidate in (root, root * pow(2, (P - 1) // 4, P) % P):
        if candidate * candidate % P == square:
            return candidate
    return None


def test_the_refused_points_are_exactly_those_of_small_order() -> None:
    """Three doublings lead every point of order 1, 2, 4 or 8, and no other, to the neutral one."""
    for y in suite._SMALL_ORDER_Y:
        x = x_of(y)
        assert x is not None
        point = (x, y)
        for _ in range(3):
            point = edwards_double(*point)
        assert point == (0, 1)
    # With both signs of x these five y make the eight points of the torsion subgroup.
    assert sum(1 if x_of(y) == 0 else 2 for y in suite._SMALL_ORDER_Y) == 8


SMALL = sorted(suite._SMALL_ORDER_Y)
WEAK = {
    **{f"small order {n}, sign {s}": y | s << 255 for n, y in enumerate(SMALL) for s in (0, 1)},
    **{f"small order {n} unreduced": y + P for n, y in enumerate(SMALL) if y + P < 2**255},
    "y equal to p": P,
    "y above p": 2**255 - 1,
    "not on the curve": 2,
}


@pytest.mark.parametrize("name", WEAK)
def test_weak_ed25519_keys_are_refused(name: str) -> None:
    with pytest.raises(WeakKeyError) as caught:
        suite.check_ed25519(WEAK[name].to_bytes(32, "little"), "card.message")
    assert "card.message" in str(caught.value)


def test_ed25519_keys_of_other_lengths_are_refused() -> None:
    for size in (0, 31, 33):
        with pytest.raises(WeakKeyError):
            suite.check_ed25519(bytes([1]) * size, "card.message")


def test_good_ed25519_keys_pass() -> None:
    for number in range(50):
        key = suite.Ed25519Signer(seed(str(number), "key")).public
        assert suite.check_ed25519(key, "key") == key


# --- X-Wing ----------------------------------------------------------------------------------
LOW_ORDER_X25519 = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    P - 1,
    P,
    P + 1,
)


@pytest.mark.parametrize("u", LOW_ORDER_X25519)
def test_low_order_or_unreduced_x25519_halves_are_refused(u: int) -> None:
    good = suite.seal_public_bytes(seed("a", "seal"))
    with pytest.raises(WeakKeyError):
        suite.check_seal(good[:1_184] + u.to_bytes(32, "little"), "card.seal")


def test_malformed_seal_keys_are_refused() -> None:
    good = suite.seal_public_bytes(seed("a", "seal"))
    suite.check_seal(good, "card.seal")
    for bad in (good[:-1], good + b"\0", b"\xff" * 1_184 + good[1_184:]):
        with pytest.raises(WeakKeyError):
            suite.check_seal(bad, "card.seal")


def test_malformed_mldsa_keys_are_refused() -> None:
    for size in (0, 1_311, 1_313, 1_951, 1_953):
        with pytest.raises(WeakKeyError):
            suite.check_mldsa65(bytes(size), "card.link")
        with pytest.raises(WeakKeyError):
            suite.check_mldsa44(bytes(size), "card.log")


# --- signatures ------------------------------------------------------------------------------
def test_both_halves_of_a_hybrid_signature_are_needed() -> None:
    signer, other = hybrid("a", "key"), hybrid("b", "key")
    message = suite.label("purpose") + b"text"
    ed, ml = signer.sign(message)
    suite.verify_hybrid("purpose", signer.public, b"text", (ed, ml))
    other_ed, other_ml = other.sign(message)
    for bad in ((other_ed, ml), (ed, other_ml), (bytes(64), ml), (ed, bytes(3_309))):
        with pytest.raises(SignatureError):
            suite.verify_hybrid("purpose", signer.public, b"text", bad)


def test_a_signature_for_one_purpose_is_none_for_another() -> None:
    signer = suite.Ed25519Signer(seed("a", "key"))
    signature = signer.sign(suite.label("message") + b"text")
    suite.verify("message", signer.public, b"text", signature)
    with pytest.raises(SignatureError):
        suite.verify("key/card", signer.public, b"text", signature)


def test_bodies_commit_to_key_and_context() -> None:
    sealed = suite.encrypt_body(bytes(32), b"context", b"text")
    assert suite.decrypt_body(bytes(32), b"context", sealed) == b"text"
    for key, context, data in (
        (bytes([1]) * 32, b"context", sealed),
        (bytes(32), b"other", sealed),
        (bytes(32), b"context", sealed[:-1]),
        (bytes(32), b"context", sealed + b"\0"),
        (bytes(32), b"context", b""),
    ):
        with pytest.raises(OpenError):
            suite.decrypt_body(key, context, data)
