"""Suite 1: the one set of primitives, each used under a label of its own; nothing is negotiated.

- digest: SHA-256 over ``picket/1/<label>`` NUL and the parts.
- sign: Ed25519 (RFC 8032); hybrid adds ML-DSA-65 (FIPS 204, empty context) over the same bytes.
- seal: HPKE base mode (RFC 9180 section 6.1) with X-Wing (KEM 0x647A), HKDF-SHA256,
  ChaCha20-Poly1305.
- body: C2SP chunked encryption, Cobblestone-256, which commits to key and context.

Public keys from outside pass one of the ``check_*`` functions before anything else touches them:
the library loads small-order and non-canonical keys without complaint.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, Protocol

from cryptography import x509
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PublicKey,
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import OpenError, SignatureError, WeakKeyError

DIGEST_SIZE: Final = 32
ED25519_SIZE: Final = 32
ED25519_SIGNATURE: Final = 64
MLDSA65_SIZE: Final = 1_952
MLDSA65_SIGNATURE: Final = 3_309
MLDSA44_SIZE: Final = 1_312
SEAL_SIZE: Final = 1_216
SEED_SIZE: Final = 32
KEY_SIZE: Final = 32
ZERO: Final = bytes(32)

_MLKEM_PUBLIC: Final = 1_184
_HPKE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, _P - 2, _P) % _P
# The y coordinates of the eight points of small order (RFC 8032 section 5.1 curve), reduced.
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            "little",
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            "little",
        ),
    }
)


class Signer(Protocol):
    """Whatever holds an Ed25519 private key: a file, a token, another process."""

    @property
    def public(self) -> bytes:
        """The public key."""
        ...

    def sign(self, message: bytes, source: bytes = b"") -> bytes:
        """Return the 64-byte signature over *message*.

        Where a message ends in the digest of something, *source* is that: a signer that checks what
        it signs reads it.
        """
        ...


class HybridSigner(Protocol):
    """Whatever holds an Ed25519 and an ML-DSA-65 private key."""

    @property
    def public(self) -> tuple[bytes, bytes]:
        """The public keys."""
        ...

    def sign(self, message: bytes, source: bytes = b"") -> tuple[bytes, bytes]:
        """Return the Ed25519 and ML-DSA-65 signatures over *message*; *source* as in ``Signer``."""
        ...


class Unsealer(Protocol):
    """Whatever holds the private halves of sealing keys."""

    def unseal(self, ekid: bytes, sealed: bytes, info: bytes) -> bytes:
        """Return what was sealed to the key *ekid*.

        Raises:
            OpenError: there is no such key here, or it does not open.
        """
        ...


def label(name: str) -> bytes:
    """Return the domain-separation prefix ``picket/1/<name>`` NUL."""
    return b"picket/1/" + name.encode("ascii") + b"\0"


def digest(name: str, *parts: bytes) -> bytes:
    """Return SHA-256 over the label *name* and the concatenated *parts*."""
    return hashlib.sha256(label(name) + b"".join(parts)).digest()


def derive(key: bytes, name: str, context: bytes = b"") -> bytes:
    """Return 32 bytes derived from *key* by HKDF-SHA256 (RFC 5869) for the purpose *name*."""
    return HKDF(SHA256(), KEY_SIZE, salt=None, info=label(name) + context).derive(key)


def network_id(name: str) -> bytes:
    """Return the 32-byte id of the network called *name*."""
    return digest("network", name.encode())


# --- signatures ------------------------------------------------------------------------------
def verify(name: str, public_key: bytes, message: bytes, signature: bytes) -> None:
    """Verify an Ed25519 *signature* over the label *name* and *message*.

    Raises:
        SignatureError: it does not verify.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, label(name) + message)
    except (InvalidSignature, ValueError):
        raise SignatureError(f"the {name} signature does not verify") from None


def verify_hybrid(
    name: str, public_keys: tuple[bytes, bytes], message: bytes, signatures: tuple[bytes, bytes]
) -> None:
    """Verify both an Ed25519 and an ML-DSA-65 signature over the label *name* and *message*.

    Raises:
        SignatureError: one of them does not verify.
    """
    verify(name, public_keys[0], message, signatures[0])
    try:
        MLDSA65PublicKey.from_public_bytes(public_keys[1]).verify(
            signatures[1], label(name) + message
        )
    except (InvalidSignature, ValueError):
        raise SignatureError(f"the {name} signature (ML-DSA-65) does not verify") from None


class Ed25519Signer:
    """A Signer over a key held in this process."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes, source: bytes = b"") -> bytes:
        """Return the 64-byte signature over *message*."""
        return self._key.sign(message)


class LocalHybridSigner:
    """A HybridSigner over keys held in this process."""

    def __init__(self, ed25519_seed: bytes, mldsa65_seed: bytes) -> None:
        self._ed = Ed25519PrivateKey.from_private_bytes(ed25519_seed)
        self._ml = MLDSA65PrivateKey.from_seed_bytes(mldsa65_seed)
        self.public = (
            self._ed.public_key().public_bytes_raw(),
            self._ml.public_key().public_bytes_raw(),
        )

    def sign(self, message: bytes, source: bytes = b"") -> tuple[bytes, bytes]:
        """Return the Ed25519 and ML-DSA-65 signatures over *message*."""
        return self._ed.sign(message), self._ml.sign(message)


# --- sealing ---------------------------------------------------------------------------------
@lru_cache(maxsize=1_024)
def ekid(seal_public: bytes) -> bytes:
    """Return the id of a sealing key: the digest of its 1,216 public bytes."""
    return digest("ekid", seal_public)


def seal_private(seed: bytes) -> MLKEM768X25519PrivateKey:
    """Expand a 32-byte X-Wing seed (draft-connolly-cfrg-xwing-kem section 5.2) to the key pair."""
    expanded = hashlib.shake_256(seed).digest(96)
    return MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        X25519PrivateKey.from_private_bytes(expanded[64:]),
    )


def seal_public_bytes(seed: bytes) -> bytes:
    """Return the 1,216 public bytes (ML-KEM-768 then X25519) that belong to *seed*."""
    expanded = hashlib.shake_256(seed).digest(96)
    return (
        MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).public_key().public_bytes_raw()
        + X25519PrivateKey.from_private_bytes(expanded[64:]).public_key().public_bytes_raw()
    )


@lru_cache(maxsize=1_024)  # a release to everybody loads each key; they change once a year
def _load_seal(public: bytes) -> MLKEM768X25519PublicKey:
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC]),
        X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC:]),
    )


def seal_to(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal *plaintext* to the sealing key *public*, bound to *info*.

    Raises:
        WeakKeyError: the key does not load or has a low-order half.
    """
    try:
        return _HPKE.encrypt(plaintext, _load_seal(public), info)
    except ValueError:
        raise WeakKeyError("a sealing key cannot be sealed to") from None


def unseal_with(private: MLKEM768X25519PrivateKey, sealed: bytes, info: bytes) -> bytes:
    """Open what ``seal_to`` made.

    Raises:
        OpenError: wrong key, wrong info or changed bytes; it does not say which.
    """
    try:
        return _HPKE.decrypt(sealed, private, info)
    except (InvalidTag, ValueError):
        raise OpenError("the slot does not open") from None


def encrypt_body(key: bytes, context: bytes, plaintext: bytes) -> bytes:
    """Encrypt *plaintext*; the result commits to *key* and *context*."""
    encryptor = Cobblestone256Encryptor(key, context)
    return encryptor.update(plaintext) + encryptor.finalize()


def decrypt_body(key: bytes, context: bytes, ciphertext: bytes) -> bytes:
    """Open what ``encrypt_body`` made; nothing is returned before all of it has verified.

    Raises:
        OpenError: wrong key, wrong context, or changed or truncated bytes.
    """
    decryptor = Cobblestone256Decryptor(key, context)
    try:
        return decryptor.update(ciphertext) + decryptor.finalize()
    except (InvalidTag, ValueError):
        raise OpenError("the body does not open") from None


def encryptor(key: bytes, context: bytes) -> Cobblestone256Encryptor:
    """Return what does as ``encrypt_body``, piece by piece, for what is too large for memory."""
    return Cobblestone256Encryptor(key, context)


def decryptor(key: bytes, context: bytes) -> Cobblestone256Decryptor:
    """Return what opens the like piece by piece; only ``finalize`` says that nothing was cut off.

    It raises InvalidTag for a wrong key, a wrong context, and changed bytes.
    """
    return Cobblestone256Decryptor(key, context)


# --- checks of public keys from outside ------------------------------------------------------
def check_ed25519(public: bytes, field: str) -> bytes:
    """Return *public* if it is a canonical Ed25519 key that is not of small order.

    Raises:
        WeakKeyError: it is not on the curve, not canonical, or of small order.
    """
    if len(public) != ED25519_SIZE:
        raise WeakKeyError(f"{field} is not a 32-byte Ed25519 key")
    y = int.from_bytes(public, "little") & (2**255 - 1)
    if y >= _P:
        raise WeakKeyError(f"{field} is not in canonical form (RFC 8032 section 5.1.3)")
    if y in _SMALL_ORDER_Y:
        raise WeakKeyError(f"{field} is a key of small order: anything would verify under it")
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    if pow(square, (_P - 1) // 2, _P) != 1:
        raise WeakKeyError(f"{field} is not a point of the curve")
    return public


def check_mldsa65(public: bytes, field: str) -> bytes:
    """Return *public* if it loads as an ML-DSA-65 key.

    Raises:
        WeakKeyError: it does not.
    """
    try:
        MLDSA65PublicKey.from_public_bytes(public)
    except ValueError:
        raise WeakKeyError(f"{field} is not an ML-DSA-65 key") from None
    return public


def check_mldsa44(public: bytes, field: str) -> bytes:
    """Return *public* if it loads as an ML-DSA-44 key.

    Raises:
        WeakKeyError: it does not.
    """
    try:
        MLDSA44PublicKey.from_public_bytes(public)
    except ValueError:
        raise WeakKeyError(f"{field} is not an ML-DSA-44 key") from None
    return public


def check_certificate(der: bytes, field: str) -> bytes:
    """Return *der* if it is one X.509 certificate (RFC 5280) of an acceptable Ed25519 key.

    Links are pinned to these bytes, so nothing else in it is believed.

    Raises:
        WeakKeyError: it does not parse, or has another or an unacceptable key.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise WeakKeyError(f"{field} is not an X.509 certificate") from None
    if not isinstance(public, Ed25519PublicKey):
        raise WeakKeyError(f"{field} is not the certificate of an Ed25519 key")
    check_ed25519(public.public_bytes_raw(), field)
    return der


def certificate_key(der: bytes) -> bytes:
    """Return the 32-byte Ed25519 key of a certificate that ``check_certificate`` passed."""
    public = x509.load_der_x509_certificate(der).public_key()
    assert isinstance(public, Ed25519PublicKey)  # noqa: S101  checked before
    return public.public_bytes_raw()


def check_seal(public: bytes, field: str) -> bytes:
    """Return *public* if a trial seal to it works and its X25519 half is canonical.

    Raises:
        WeakKeyError: it does not load, is not canonical, or has a low-order half.
    """
    if len(public) != SEAL_SIZE:
        raise WeakKeyError(f"{field} is not a 1,216-byte X-Wing key")
    if int.from_bytes(public[_MLKEM_PUBLIC:], "little") >= _P:
        raise WeakKeyError(f"{field} has an X25519 half that is not in canonical form")
    try:
        seal_to(public, ZERO, b"")
    except WeakKeyError:
        raise WeakKeyError(
            f"{field} cannot be sealed to: it is malformed or of low order"
        ) from None
    return public
