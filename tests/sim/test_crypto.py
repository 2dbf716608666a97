"""The stand-ins have the sizes of the real primitives, and no node can forge with them."""

from __future__ import annotations

import pytest

from protocol import limits, suite
from protocol.errors import OpenError, SignatureError, WeakKeyError
from tests.sim import crypto

SEED = bytes(range(32))
OTHER = bytes(32)


def test_sizes_are_those_of_the_primitives() -> None:
    def sizes() -> list[int]:
        signer = suite.LocalHybridSigner(SEED, OTHER)
        public = suite.seal_public_bytes(SEED)
        bodies = [len(suite.encrypt_body(SEED, b"", bytes(n))) for n in (1, 1_024, 16_384, 70_000)]
        return [
            *map(len, signer.public), *map(len, signer.sign(b"m")), len(public),
            len(suite.seal_to(public, OTHER, b"info")), *bodies,
        ]  # fmt: skip

    real = sizes()
    with crypto.standins():
        assert sizes() == real
    assert real[5] == limits.SLOT_SIZE


def test_only_the_holder_of_the_key_signs() -> None:
    with crypto.standins():
        mine, other = suite.Ed25519Signer(SEED), suite.Ed25519Signer(OTHER)
        good = mine.sign(suite.label("message") + b"text")
        suite.verify("message", mine.public, b"text", good)
        for public, message, signature in (
            (other.public, b"text", good),
            (mine.public, b"another", good),
            (mine.public, b"text", other.sign(suite.label("message") + b"text")),
            (mine.public, b"text", mine.sign(suite.label("other") + b"text")),
            (bytes(32), b"text", good),
        ):
            with pytest.raises(SignatureError):
                suite.verify("message", public, message, signature)


def test_only_the_recipient_opens_a_slot() -> None:
    with crypto.standins():
        public = suite.seal_public_bytes(SEED)
        sealed = suite.seal_to(public, OTHER, b"info")
        private = suite.seal_private(SEED)
        assert suite.unseal_with(private, sealed, b"info") == OTHER
        changed = bytes([sealed[0] ^ 1]) + sealed[1:]
        for key, data, info in (
            (suite.seal_private(OTHER), sealed, b"info"),
            (private, sealed, b"other"),
            (private, changed, b"info"),
            (private, sealed[:-1], b"info"),
        ):
            with pytest.raises(OpenError):
                suite.unseal_with(key, data, info)
        with pytest.raises(WeakKeyError):
            suite.seal_to(bytes(suite.SEAL_SIZE), OTHER, b"info")


def test_a_body_opens_under_its_own_key_and_context_only() -> None:
    with crypto.standins():
        sealed = suite.encrypt_body(SEED, b"context", b"text")
        assert suite.decrypt_body(SEED, b"context", sealed) == b"text"
        assert b"text" not in sealed
        for key, context, data in (
            (OTHER, b"context", sealed),
            (SEED, b"other", sealed),
            (SEED, b"context", sealed[:-1]),
        ):
            with pytest.raises(OpenError):
                suite.decrypt_body(key, context, data)


def test_everything_is_put_back() -> None:
    before = suite.verify.__globals__["Ed25519PublicKey"]
    with crypto.standins():
        assert suite.verify.__globals__["Ed25519PublicKey"] is not before
    assert suite.verify.__globals__["Ed25519PublicKey"] is before
