"""The self-signed Ed25519 certificates that links are pinned to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

_BACK: Final = timedelta(days=1)
_LIFE: Final = timedelta(days=3650)
_NAME_MAX: Final = 64


def make_certificate(seed: bytes, *, name: str, now: datetime) -> bytes:
    """Return a self-signed certificate (DER) for the Ed25519 key of *seed*.

    Back-dated by a day and valid for ten years: a node with a wrong clock must still be able to
    link, to be told so. Trust comes from the pin on the card, not from these dates.
    """
    key = Ed25519PrivateKey.from_private_bytes(seed)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_NAME_MAX])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACK)
        .not_valid_after(now + _LIFE)
        .sign(key, None)
    )
    return certificate.public_bytes(Encoding.DER)


def to_pem(certificate: bytes, seed: bytes) -> bytes:
    """Return key and certificate as one PEM file."""
    key = Ed25519PrivateKey.from_private_bytes(seed).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return key + x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)
