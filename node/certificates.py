"""The self-signed Ed25519 certificates that links are pinned to (RFC 8410).

- The certificate is compared byte for byte with the one on a card: nothing in it is believed, not
  its name and not its dates.
- It speaks for itself only (``CA:FALSE``) and cannot vouch for another.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

_BACK: Final = timedelta(days=1)
_LIFE: Final = timedelta(days=3650)
_NAME_MAX: Final = 64  # RFC 5280 appendix A, ub-common-name; here of bytes, as libraries differ


def make_certificate(seed: bytes, *, name: str, now: datetime) -> bytes:
    """Return a self-signed certificate (DER) for the Ed25519 key of *seed*.

    Back-dated by a day and valid for ten years: a node with a wrong clock must still be able to
    link, to be told so. Trust comes from the pin on the card, not from these dates.

    Args:
        seed: 32 bytes, kept secret.
        name: whose it is; cut to 64 bytes of UTF-8.
        now: with a time zone.

    Raises:
        ValueError: *seed* is not 32 bytes, *name* is empty or *now* has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("now must have a time zone")
    key = Ed25519PrivateKey.from_private_bytes(seed)
    common = name.encode()[:_NAME_MAX].decode(errors="ignore")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACK)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, None)
    )
    return certificate.public_bytes(Encoding.DER)


def certificate_digest(certificate: bytes) -> bytes:
    """Return the SHA-256 of a certificate (DER)."""
    return hashlib.sha256(certificate).digest()


def to_pem(certificate: bytes, seed: bytes) -> bytes:
    """Return key and certificate as one PEM file, which nobody else may read.

    Raises:
        ValueError: *certificate* is no certificate, or not that of the key of *seed*.
    """
    key = Ed25519PrivateKey.from_private_bytes(seed)
    parsed = x509.load_der_x509_certificate(certificate)
    if parsed.public_key() != key.public_key():
        raise ValueError("the certificate belongs to another key")
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + parsed.public_bytes(Encoding.PEM)


def seed_of(pem: bytes) -> bytes:
    """Return the 32-byte key in what ``to_pem`` made.

    Raises:
        ValueError: there is none in it.
    """
    key = load_pem_private_key(pem, None)
    if isinstance(key, Ed25519PrivateKey):
        return key.private_bytes_raw()
    raise ValueError("the key is of another kind")


def from_pem(pem: bytes) -> bytes:
    """Return the certificate (DER) in what ``to_pem`` made.

    Raises:
        ValueError: there is none in it.
    """
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
