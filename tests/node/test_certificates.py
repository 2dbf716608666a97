"""Certificates: deterministic key, bounded name, dates that forgive wrong clocks."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from node.certificates import certificate_digest, make_certificate, to_pem
from protocol import limits

SEED = bytes(range(32))
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_it_certifies_the_key_of_the_seed_and_nothing_else() -> None:
    parsed = x509.load_der_x509_certificate(make_certificate(SEED, name="Utopia", now=NOW))
    parsed.verify_directly_issued_by(parsed)
    assert parsed.public_key() == Ed25519PrivateKey.from_private_bytes(SEED).public_key()
    assert parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert parsed.subject.rfc4514_string() == "CN=Utopia"


def test_dates_forgive_wrong_clocks() -> None:
    parsed = x509.load_der_x509_certificate(make_certificate(SEED, name="Utopia", now=NOW))
    assert parsed.not_valid_before_utc == NOW - timedelta(days=1)
    assert parsed.not_valid_after_utc == NOW + timedelta(days=3650)


@pytest.mark.parametrize(
    ("name", "length"),
    [("x" * 64, 64), ("x" * 65, 64), ("é" * 200, 32), ("\N{KHMER LETTER KA}" * 64, 21)],
    ids=["fits", "ascii", "accents", "khmer"],
)
def test_long_name_is_cut_to_whole_characters(name: str, length: int) -> None:
    der = make_certificate(SEED, name=name, now=NOW)
    common = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(
        x509.NameOID.COMMON_NAME
    )
    assert [attribute.value for attribute in common] == [name[:length]]
    assert len(der) <= limits.MAX_CERTIFICATE


def test_two_certificates_of_one_key_differ() -> None:
    first = make_certificate(SEED, name="Utopia", now=NOW)
    assert first != make_certificate(SEED, name="Utopia", now=NOW)


def test_digest_is_sha256_of_the_der() -> None:
    der = make_certificate(SEED, name="Utopia", now=NOW)
    assert certificate_digest(der) == hashlib.sha256(der).digest()


def test_pem_holds_key_and_certificate() -> None:
    der = make_certificate(SEED, name="Utopia", now=NOW)
    pem = to_pem(der, SEED)
    key = load_pem_private_key(pem, None)
    assert isinstance(key, Ed25519PrivateKey)
    assert key.private_bytes_raw() == SEED
    assert x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER) == der


def test_pem_refuses_the_certificate_of_another_key() -> None:
    with pytest.raises(ValueError, match="another key"):
        to_pem(make_certificate(SEED, name="Utopia", now=NOW), bytes(32))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32"):
        make_certificate(bytes(length), name="Utopia", now=NOW)


def test_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match=">= 1"):
        make_certificate(SEED, name="", now=NOW)


def test_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        make_certificate(SEED, name="Utopia", now=NOW.replace(tzinfo=None))
