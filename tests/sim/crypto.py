"""Stand-ins for the primitives: of the same sizes, fast, and the same bytes in every run.

The library hedges signatures and sealing with random bytes, so that ids of envelopes would differ
from run to run. Here everything is SHA-256 over a secret that a table of this process finds by the
public key. The nodes never look into that table, so a signature can still be made only by whoever
holds the key, and a slot opened only by its recipient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from cryptography.exceptions import InvalidSignature

import keys.identity
from protocol import checkpoint, cosignatures, limits, policy, suite, witness
from protocol.errors import OpenError, WeakKeyError

_SECRETS: Final[dict[bytes, bytes]] = {}
_TAG: Final = 32
_CHUNK: Final = 16 * 1024
_BODY_HEAD: Final = 56
_CERTIFICATE: Final = b"certificate of "
_CERTIFICATE_SIZE: Final = 300


def _spread(size: int, *parts: bytes) -> bytes:
    """Return *size* bytes that depend on all *parts*."""
    digest = hashlib.sha256(b"".join(parts)).digest()
    return (digest * (size // _TAG + 1))[:size]


def _mask(size: int, *parts: bytes) -> int:
    return int.from_bytes(hashlib.shake_128(b"".join(parts)).digest(size), "big")


def _xor(data: bytes, mask: int) -> bytes:
    return (int.from_bytes(data, "big") ^ mask).to_bytes(len(data), "big")


# --- signatures ------------------------------------------------------------------------------
class _PublicKey:
    """A public key that verifies by looking up its secret."""

    size: ClassVar[int]
    signature_size: ClassVar[int]

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @classmethod
    def from_public_bytes(cls, raw: bytes) -> _PublicKey:
        if len(raw) != cls.size:
            raise ValueError("a public key of another size")
        return cls(raw)

    def public_bytes_raw(self) -> bytes:
        return self._raw

    def verify(self, signature: bytes, message: bytes) -> None:
        secret = _SECRETS.get(self._raw)
        if secret is None or signature != _spread(self.signature_size, secret, message):
            raise InvalidSignature


class _PrivateKey:
    """A private key of one kind of ``public``."""

    public: ClassVar[type[_PublicKey]]

    def __init__(self, seed: bytes) -> None:
        kind = self.public.__name__.encode()
        self._secret = _spread(_TAG, b"secret", kind, seed)
        self._raw = _spread(self.public.size, b"public", kind, seed)
        _SECRETS[self._raw] = self._secret

    @classmethod
    def from_private_bytes(cls, seed: bytes) -> _PrivateKey:
        return cls(seed)

    from_seed_bytes = from_private_bytes

    def public_key(self) -> _PublicKey:
        return self.public(self._raw)

    def sign(self, message: bytes) -> bytes:
        return _spread(self.public.signature_size, self._secret, message)


class Ed25519Public(_PublicKey):
    size, signature_size = suite.ED25519_SIZE, suite.ED25519_SIGNATURE


class Ed25519Private(_PrivateKey):
    public = Ed25519Public


class MLDSA65Public(_PublicKey):
    size, signature_size = suite.MLDSA65_SIZE, suite.MLDSA65_SIGNATURE


class MLDSA65Private(_PrivateKey):
    public = MLDSA65Public


class MLDSA44Public(_PublicKey):
    size, signature_size = suite.MLDSA44_SIZE, 2_420


class MLDSA44Private(_PrivateKey):
    public = MLDSA44Public


# --- sealing ---------------------------------------------------------------------------------
class SealPrivate:
    """The private half of a sealing key."""

    def __init__(self, seed: bytes) -> None:
        self.secret = _spread(_TAG, b"secret seal", seed)
        self.public = _spread(suite.SEAL_SIZE, b"public seal", seed)
        _SECRETS[self.public] = self.secret


def _seal_public_bytes(seed: bytes) -> bytes:
    return SealPrivate(seed).public


def _seal_to(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    secret = _SECRETS.get(public)
    if secret is None:
        raise WeakKeyError("a sealing key cannot be sealed to")
    tag = _spread(_TAG, secret, info, plaintext)
    sealed = tag + _xor(plaintext, _mask(len(plaintext), secret, info, tag))
    return sealed.ljust(len(plaintext) + limits.SLOT_SIZE - suite.KEY_SIZE, b"\0")


def _unseal_with(private: SealPrivate, sealed: bytes, info: bytes) -> bytes:
    size = len(sealed) - limits.SLOT_SIZE + suite.KEY_SIZE
    tag, hidden = sealed[:_TAG], sealed[_TAG : _TAG + max(size, 0)]
    plaintext = _xor(hidden, _mask(len(hidden), private.secret, info, tag))
    if size < 0 or sealed != _seal_to(private.public, plaintext, info):
        raise OpenError("the slot does not open")
    return plaintext


# --- bodies ----------------------------------------------------------------------------------
def _body_size(size: int) -> int:
    return _BODY_HEAD + size + 16 * (size // _CHUNK + 1)


def _encrypt_body(key: bytes, context: bytes, plaintext: bytes) -> bytes:
    tag = _spread(_TAG, b"body", key, context, plaintext)
    hidden = _xor(plaintext, _mask(len(plaintext), key, context, tag))
    return (len(plaintext).to_bytes(4, "big") + tag + hidden).ljust(
        _body_size(len(plaintext)), b"\0"
    )


def _decrypt_body(key: bytes, context: bytes, ciphertext: bytes) -> bytes:
    size = int.from_bytes(ciphertext[:4], "big")
    tag, hidden = ciphertext[4 : 4 + _TAG], ciphertext[4 + _TAG : 4 + _TAG + size]
    plaintext = _xor(hidden, _mask(len(hidden), key, context, tag))
    if ciphertext != _encrypt_body(key, context, plaintext):
        raise OpenError("the body does not open")
    return plaintext


# --- checks ----------------------------------------------------------------------------------
def _sized(size: int) -> Any:  # noqa: ANN401  stands for any of the check functions
    def check(public: bytes, field: str) -> bytes:
        if len(public) != size:
            raise WeakKeyError(f"{field} has another size")
        return public

    return check


def make_certificate(seed: bytes) -> bytes:
    """Return what stands for a certificate of the TLS key of *seed*."""
    return (_CERTIFICATE + Ed25519Private(seed).public_key().public_bytes_raw()).ljust(
        _CERTIFICATE_SIZE, b"\0"
    )


def _check_certificate(der: bytes, field: str) -> bytes:
    if not der.startswith(_CERTIFICATE) or len(der) != _CERTIFICATE_SIZE:
        raise WeakKeyError(f"{field} is not a certificate")
    return der


def _certificate_key(der: bytes) -> bytes:
    return der[len(_CERTIFICATE) : len(_CERTIFICATE) + suite.ED25519_SIZE]


_STANDINS: Final[tuple[tuple[Any, str, Any], ...]] = (
    (suite, "Ed25519PrivateKey", Ed25519Private),
    (suite, "Ed25519PublicKey", Ed25519Public),
    (suite, "MLDSA65PrivateKey", MLDSA65Private),
    (suite, "MLDSA65PublicKey", MLDSA65Public),
    (suite, "MLDSA44PublicKey", MLDSA44Public),
    (suite, "seal_private", SealPrivate),
    (suite, "seal_public_bytes", _seal_public_bytes),
    (suite, "seal_to", _seal_to),
    (suite, "unseal_with", _unseal_with),
    (suite, "encrypt_body", _encrypt_body),
    (suite, "decrypt_body", _decrypt_body),
    (suite, "check_ed25519", _sized(suite.ED25519_SIZE)),
    (suite, "check_mldsa65", _sized(suite.MLDSA65_SIZE)),
    (suite, "check_mldsa44", _sized(suite.MLDSA44_SIZE)),
    (suite, "check_seal", _sized(suite.SEAL_SIZE)),
    (suite, "check_certificate", _check_certificate),
    (suite, "certificate_key", _certificate_key),
    (checkpoint, "Ed25519PrivateKey", Ed25519Private),
    (checkpoint, "Ed25519PublicKey", Ed25519Public),
    (checkpoint, "MLDSA44PrivateKey", MLDSA44Private),
    (checkpoint, "MLDSA44PublicKey", MLDSA44Public),
    (cosignatures, "Ed25519PublicKey", Ed25519Public),
    (witness, "Ed25519PrivateKey", Ed25519Private),
    (witness, "Ed25519PublicKey", Ed25519Public),
    (witness, "MLDSA44PrivateKey", MLDSA44Private),
    (policy, "check_ed25519", _sized(suite.ED25519_SIZE)),
    (policy, "check_mldsa44", _sized(suite.MLDSA44_SIZE)),
    (keys.identity, "Ed25519PrivateKey", Ed25519Private),
    (keys.identity, "MLDSA44PrivateKey", MLDSA44Private),
)


@contextmanager
def standins() -> Iterator[None]:
    """Replace the primitives in ``protocol.suite`` and where else they are named."""
    kept = [(module, name, getattr(module, name)) for module, name, _ in _STANDINS]
    try:
        for module, name, standin in _STANDINS:
            setattr(module, name, standin)
        yield
    finally:
        for module, name, original in kept:
            setattr(module, name, original)
