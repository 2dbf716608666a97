"""Time stamps of RFC 3161, read with the rfc3161-client package where that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509

from protocol import limits
from protocol.errors import ConfigError, DecodeError
from protocol.evidence import Stamp

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

_SHA256: Final = "2.16.840.1.101.3.4.2.1"
_GRANTED: Final = frozenset({0, 1})
_UNNAMED: Final = "an authority without a certificate in it"


def load_authorities(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates in *pem*.

    Raises:
        ConfigError: there are none, or one is damaged.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        raise ConfigError(
            "the file of the time stamp authority holds no certificate", fix="give it as PEM"
        ) from None


def read_stamp(data: bytes, authorities: Sequence[x509.Certificate] = ()) -> Stamp:
    """Return what the time stamp *data* says, and whether it verifies under *authorities*.

    Raises:
        ConfigError: the package that reads time stamps is not installed.
        DecodeError: it is no time stamp over a SHA-256.
    """
    try:
        from rfc3161_client import decode_timestamp_response  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            "time stamps cannot be read: the package rfc3161-client is not installed",
            fix="run: pip install picket-node[timestamp]",
        ) from None
    try:
        response = decode_timestamp_response(data)
        status, info = response.status, response.tst_info
        imprint = info.message_imprint
        algorithm, digest = imprint.hash_algorithm.dotted_string, bytes(imprint.message)
        at = int(info.gen_time.timestamp() * 1000)
        authority = _authority(response)
    except ValueError:
        raise DecodeError("the time stamp is not one of RFC 3161") from None
    if status not in _GRANTED or algorithm != _SHA256:
        raise DecodeError("the time stamp was not granted, or is not over a SHA-256")
    trusted, fault = _verify(response, digest, authorities)
    return Stamp(digest, at, authority, trusted, fault)


def _authority(response: TimeStampResponse) -> str:
    """Return the subject of the certificate that signed."""
    signers = {(each.issuer, each.serial_number) for each in response.signed_data.signer_infos}
    for der in response.signed_data.certificates:
        certificate = x509.load_der_x509_certificate(der)
        if (certificate.issuer, certificate.serial_number) in signers:
            return certificate.subject.rfc4514_string()[: limits.MAX_NAME]
    return _UNNAMED


def _verify(
    response: TimeStampResponse, digest: bytes, authorities: Sequence[x509.Certificate]
) -> tuple[bool | None, str]:
    if not authorities:
        return None, ""
    from rfc3161_client import VerificationError, VerifierBuilder  # noqa: PLC0415

    options: dict[str, Any] = {"roots": list(authorities)}
    if not response.signed_data.certificates:
        options["tsa_certificate"] = authorities[0]
    try:
        VerifierBuilder(**options).build().verify(response, digest)
    except (VerificationError, ValueError) as error:
        return False, str(error)[: limits.MAX_NAME]
    return True, ""
