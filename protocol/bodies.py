"""What key statements say: the body of each type, written and read in one exact form.

- Every public key from outside passes a check of ``protocol.suite`` before anything else sees it.
- No key may stand in two roles of one body.
- A body that is read here is well-formed; whether its node said it is for ``protocol.statement``.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from protocol import limits, suite
from protocol.canonical import Value
from protocol.errors import DecodeError, ExpiredError, LimitError, WeakKeyError
from protocol.shape import array, exact_map, octets, text, uint

ROLES: Final = ("national-authority", "regional-centre", "international-organisation")
_IDENTITY_PAIR: Final = 2
_COUNTRY: Final = re.compile(r"[A-Z]{2}")
# A registered name of RFC 3986 section 3.2.2 without its rarer characters, or an IPv6 literal.
_ENDPOINT: Final = re.compile(
    r"wss://(?:[A-Za-z0-9._-]+|\[(?P<ipv6>[0-9A-Fa-f:.]+)\]):(?P<port>[1-9][0-9]{0,4})"
)
_MAX_PORT: Final = 65_535
_IDENTITY_KEYS: Final = ("keys", "threshold", "next", "next_threshold")
_INCEPTION_KEYS: Final = (*_IDENTITY_KEYS, "revocation")
_CARD_KEYS: Final = (
    "authority", "country", "role", "contact", "endpoints", "expires", "min_suite",
    "message", "seal", "link", "log", "witness", "tls",
)  # fmt: skip

HybridKey: TypeAlias = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Inception:
    """Statement 0: the identity keys, and the digests of those that may one day replace them."""

    keys: tuple[HybridKey, ...]
    threshold: int
    next_digests: tuple[bytes, ...]
    next_threshold: int
    revocation: bytes


@dataclass(frozen=True, slots=True)
class Rotation:
    """Identity keys that were committed to before, now shown: what rotate and recover say."""

    keys: tuple[HybridKey, ...]
    threshold: int
    next_digests: tuple[bytes, ...]
    next_threshold: int


Identity: TypeAlias = Inception | Rotation
"""What puts identity keys in force."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """The code from paper whose digest stands in the inception: this identity is over."""

    code: bytes


@dataclass(frozen=True, slots=True)
class SealKey:
    """A sealing key and the time (ms) in which others may seal to it."""

    public: bytes
    not_before: int
    not_after: int

    @property
    def ekid(self) -> bytes:
        """The id under which envelopes name this key."""
        return suite.ekid(self.public)


@dataclass(frozen=True, slots=True)
class NamedKeys:
    """A signed-note key name with its Ed25519 and ML-DSA-44 keys (a log or a witness)."""

    name: str
    ed25519: bytes
    mldsa44: bytes


@dataclass(frozen=True, slots=True)
class Card:
    """What others need in order to reach, check and seal to a node."""

    authority: str
    country: str
    role: str
    contact: str
    endpoints: tuple[str, ...]
    expires: int
    min_suite: int
    message: bytes
    seal: tuple[SealKey, ...]
    link: HybridKey
    log: NamedKeys
    witness: NamedKeys
    tls: tuple[bytes, ...]

    def seal_key(self, now: int) -> SealKey:
        """Return the newest sealing key that may be used at *now*.

        Raises:
            ExpiredError: the card or all its sealing keys are out of their time.
        """
        usable = [key for key in self.seal if key.not_before <= now < key.not_after]
        if now >= self.expires or not usable:
            raise ExpiredError(f"the card of {self.authority} has no sealing key valid now")
        return max(usable, key=lambda key: key.not_before)


def identity_digest(key: HybridKey) -> bytes:
    """Return the digest by which an inception commits to the next identity *key*."""
    return suite.digest("identity-key", *key)


def revocation_digest(code: bytes) -> bytes:
    """Return the digest by which an inception commits to the 32-byte revocation *code*."""
    return suite.digest("revocation-code", code)


# --- writing ----------------------------------------------------------------------------------
def inception_value(inception: Inception) -> dict[str, object]:
    """Return the body of an inception."""
    return {**identity_value(inception), "revocation": inception.revocation}


def identity_value(identity: Identity) -> dict[str, object]:
    """Return the body of a rotation, and what an inception shares with it."""
    return {
        "keys": identity.keys,
        "threshold": identity.threshold,
        "next": identity.next_digests,
        "next_threshold": identity.next_threshold,
    }


def card_value(card: Card) -> dict[str, object]:
    """Return the body of a card."""
    return {
        "authority": card.authority,
        "country": card.country,
        "role": card.role,
        "contact": card.contact,
        "endpoints": card.endpoints,
        "expires": card.expires,
        "min_suite": card.min_suite,
        "message": card.message,
        "seal": [[key.public, key.not_before, key.not_after] for key in card.seal],
        "link": card.link,
        "log": [card.log.name, card.log.ed25519, card.log.mldsa44],
        "witness": [card.witness.name, card.witness.ed25519, card.witness.mldsa44],
        "tls": card.tls,
    }


# --- reading ----------------------------------------------------------------------------------
def parse_inception(value: Value) -> Inception:
    """Return the inception that a decoded body holds.

    Raises:
        PeerError: a field is missing, unknown, out of bounds, or a key that must not be used.
    """
    fields = exact_map(value, "inception", _INCEPTION_KEYS)
    keys, threshold, following, next_threshold = _identity(fields, "inception")
    revocation = octets(fields["revocation"], "inception.revocation", size=32)
    return Inception(keys, threshold, following, next_threshold, revocation)


def parse_rotation(value: Value) -> Rotation:
    """Return the rotation that a decoded body holds.

    Raises:
        PeerError: as for ``parse_inception``.
    """
    return Rotation(*_identity(exact_map(value, "rotation", _IDENTITY_KEYS), "rotation"))


def parse_revocation(value: Value) -> Revocation:
    """Return the revocation that a decoded body holds.

    Raises:
        DecodeError: it has another shape; not even ``ext``, so that there is one of each node.
    """
    if not isinstance(value, dict) or set(value) != {"code"}:
        raise DecodeError("the revocation does not hold exactly a code")
    return Revocation(octets(value["code"], "revocation.code", size=32))


def _identity(
    fields: dict[str, Value], name: str
) -> tuple[tuple[HybridKey, ...], int, tuple[bytes, ...], int]:
    most = limits.MAX_IDENTITY_KEYS
    keys = tuple(
        _hybrid(item, f"{name}.keys")
        for item in array(fields["keys"], f"{name}.keys", minimum=1, maximum=most)
    )
    following = tuple(
        octets(item, f"{name}.next", size=32)
        for item in array(fields["next"], f"{name}.next", minimum=1, maximum=most)
    )
    _distinct([part for key in keys for part in key] + list(following), name)
    if not set(following).isdisjoint(map(identity_digest, keys)):
        raise WeakKeyError(f"{name} commits to a key that is in force already")
    return (
        keys,
        uint(fields["threshold"], f"{name}.threshold", minimum=1, maximum=len(keys)),
        following,
        uint(fields["next_threshold"], f"{name}.next_threshold", minimum=1, maximum=len(following)),
    )


def parse_card(value: Value) -> Card:
    """Return the card that a decoded body holds.

    Raises:
        PeerError: as for ``parse_inception``.
    """
    fields = exact_map(value, "card", _CARD_KEYS)
    country = text(fields["country"], "card.country", maximum=2)
    if not _COUNTRY.fullmatch(country):
        raise DecodeError("card.country is not an ISO 3166-1 alpha-2 code")
    role = text(fields["role"], "card.role")
    if role not in ROLES:
        raise DecodeError(f"card.role is none of {', '.join(ROLES)}")
    seal = tuple(
        _seal_key(item)
        for item in array(fields["seal"], "card.seal", minimum=1, maximum=limits.MAX_SEAL_KEYS)
    )
    tls = tuple(
        suite.check_certificate(
            octets(item, "card.tls", maximum=limits.MAX_CERTIFICATE), "card.tls"
        )
        for item in array(fields["tls"], "card.tls", minimum=1, maximum=limits.MAX_TLS_CERTIFICATES)
    )
    card = Card(
        authority=text(fields["authority"], "card.authority"),
        country=country,
        role=role,
        contact=text(fields["contact"], "card.contact"),
        endpoints=tuple(
            _endpoint(item)
            for item in array(fields["endpoints"], "card.endpoints", maximum=limits.MAX_ENDPOINTS)
        ),
        expires=uint(fields["expires"], "card.expires"),
        min_suite=uint(fields["min_suite"], "card.min_suite", minimum=1, maximum=255),
        message=suite.check_ed25519(
            octets(fields["message"], "card.message", size=32), "card.message"
        ),
        seal=seal,
        link=_hybrid(fields["link"], "card.link"),
        log=_named(fields["log"], "card.log"),
        witness=_named(fields["witness"], "card.witness"),
        tls=tls,
    )
    _distinct(card_keys(card), "card")
    return card


def card_keys(card: Card) -> list[bytes]:
    """Return every public key that stands on a card."""
    return [
        card.message, *card.link, card.log.ed25519, card.log.mldsa44, card.witness.ed25519,
        card.witness.mldsa44, *(key.public for key in card.seal),
        *map(suite.certificate_key, card.tls),
    ]  # fmt: skip


def _distinct(keys: list[bytes], field: str) -> None:
    if len(set(keys)) != len(keys):
        raise WeakKeyError(f"{field} uses one key in two roles")


def _hybrid(value: Value, field: str) -> HybridKey:
    pair = array(value, field, size=_IDENTITY_PAIR)
    return (
        suite.check_ed25519(octets(pair[0], field, size=suite.ED25519_SIZE), f"{field}[0]"),
        suite.check_mldsa65(octets(pair[1], field, size=suite.MLDSA65_SIZE), f"{field}[1]"),
    )


def _seal_key(value: Value) -> SealKey:
    public, not_before, not_after = array(value, "card.seal", size=3)
    key = SealKey(
        suite.check_seal(octets(public, "card.seal", size=suite.SEAL_SIZE), "card.seal"),
        uint(not_before, "card.seal.not_before"),
        uint(not_after, "card.seal.not_after"),
    )
    if key.not_after <= key.not_before:
        raise DecodeError("card.seal ends before it begins")
    return key


def _named(value: Value, field: str) -> NamedKeys:
    name, ed25519, mldsa44 = array(value, field, size=3)
    checked = text(name, f"{field}.name")
    if len(checked.encode()) > limits.MAX_NOTE_NAME:
        raise LimitError(f"{field}.name is longer than {limits.MAX_NOTE_NAME} bytes")
    if "+" in checked or any(character.isspace() for character in checked):
        raise DecodeError(f"{field}.name has a space or a plus sign (C2SP signed-note)")
    return NamedKeys(
        checked,
        suite.check_ed25519(octets(ed25519, field, size=suite.ED25519_SIZE), f"{field}.ed25519"),
        suite.check_mldsa44(octets(mldsa44, field, size=suite.MLDSA44_SIZE), f"{field}.mldsa44"),
    )


def _endpoint(value: Value) -> str:
    endpoint = text(value, "card.endpoints")
    check_endpoint(endpoint)
    return endpoint


def check_endpoint(endpoint: str) -> None:
    """Check that *endpoint* has the form ``wss://host:port``.

    Raises:
        DecodeError: it has another form.
    """
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or int(found["port"]) > _MAX_PORT:
        raise DecodeError(f"endpoint {endpoint!r} is not of the form wss://host:port")
    if found["ipv6"] is not None:
        try:
            ipaddress.IPv6Address(found["ipv6"])
        except ValueError:
            raise DecodeError(f"endpoint {endpoint!r} holds no IPv6 address") from None
