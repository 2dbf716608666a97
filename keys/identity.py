"""The private keys of a node, in two bundles with different lives.

- The *vault* is sealed in the keystore and open only while the node is unlocked: identity key,
  message key, sealing keys, storage key.
- The *service keys* lie in a 0600 file, because a locked node must still link, log and receipt:
  TLS, link, log and witness keys. None of them can sign an incident or open one.

Every key has one purpose; none is ever used for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey

from keys.signers import Outside
from protocol import suite
from protocol.errors import KeystoreError, OpenError
from protocol.statement import (
    Card,
    Chain,
    Inception,
    NamedKeys,
    Rotation,
    SealKey,
    Statement,
    identity_digest,
    make_inception,
    revocation_digest,
)

Random: TypeAlias = Callable[[int], bytes]

_VAULT_NAMES = ("identity/ed25519", "identity/mldsa65", "message", "storage")
_SERVICE_NAMES = (
    "tls", "link/ed25519", "link/mldsa65", "log/ed25519", "log/mldsa44",
    "witness/ed25519", "witness/mldsa44",
)  # fmt: skip
_SEAL_PREFIX = "seal/"
IDENTITY_PREFIX: Final = "identity/"
"""What the names of both halves of the identity key begin with in a keystore."""
IDENTITY_ED25519: Final = "identity/ed25519"
IDENTITY_MLDSA65: Final = "identity/mldsa65"
MESSAGE_NAME: Final = "message"


@dataclass(frozen=True, slots=True)
class Vault:
    """The keys of an unlocked node; satisfies ``protocol.suite.Unsealer``."""

    identity: suite.HybridSigner = field(repr=False)
    message: suite.Signer = field(repr=False)
    storage: bytes = field(repr=False)
    seal_publics: tuple[bytes, ...]
    _seal: Mapping[bytes, MLKEM768X25519PrivateKey] = field(repr=False)
    outside: Outside = field(default=Outside(), repr=False)

    def close(self) -> None:
        """Forget what opens keys that are not in the keystore."""
        self.outside.close()

    def with_identity(self, signer: suite.HybridSigner) -> Vault:
        """Return the vault with the next identity key, which lies in the keystore."""
        outside = replace(self.outside, identity=None)
        if outside.message is None:
            self.outside.close()
        return replace(self, identity=signer, outside=outside)

    def with_sealing(self, seeds: Mapping[str, bytes]) -> Vault:
        """Return the vault with further sealing keys, the newest of *seeds* last."""
        found = [seeds[name] for name in sorted(seeds)]
        publics = tuple(suite.seal_public_bytes(seed) for seed in found)
        fresh = {
            suite.ekid(public): suite.seal_private(seed)
            for public, seed in zip(publics, found, strict=True)
        }
        known = tuple(public for public in self.seal_publics if public not in publics)
        return replace(self, seal_publics=(*known, *publics), _seal={**self._seal, **fresh})

    def without_sealing(self, ekids: frozenset[bytes]) -> Vault:
        """Return the vault without the sealing keys *ekids*."""
        return replace(
            self,
            seal_publics=tuple(p for p in self.seal_publics if suite.ekid(p) not in ekids),
            _seal={ekid: key for ekid, key in self._seal.items() if ekid not in ekids},
        )

    def unseal(self, ekid: bytes, sealed: bytes, info: bytes) -> bytes:
        """Return what was sealed to our key *ekid*.

        Raises:
            OpenError: we do not have that key, or it does not open.
        """
        private = self._seal.get(ekid)
        if private is None:
            raise OpenError("the slot does not open")
        return suite.unseal_with(private, sealed, info)


@dataclass(frozen=True, slots=True)
class ServiceKeys:
    """The keys a node works with while locked."""

    tls_seed: bytes = field(repr=False)
    link: suite.LocalHybridSigner = field(repr=False)
    log_ed25519: Ed25519PrivateKey = field(repr=False)
    log_mldsa44: MLDSA44PrivateKey = field(repr=False)
    witness_ed25519: Ed25519PrivateKey = field(repr=False)
    witness_mldsa44: MLDSA44PrivateKey = field(repr=False)

    def log_keys(self, origin: str) -> NamedKeys:
        """Return the public log keys under the name *origin*."""
        return NamedKeys(
            origin,
            self.log_ed25519.public_key().public_bytes_raw(),
            self.log_mldsa44.public_key().public_bytes_raw(),
        )

    def witness_keys(self, name: str) -> NamedKeys:
        """Return the public witness keys under *name*."""
        return NamedKeys(
            name,
            self.witness_ed25519.public_key().public_bytes_raw(),
            self.witness_mldsa44.public_key().public_bytes_raw(),
        )


@dataclass(frozen=True, slots=True)
class Offline:
    """What leaves the machine on paper: the next identity key's seed and the revocation code."""

    recovery: bytes = field(repr=False)
    revocation: bytes = field(repr=False)


def new_vault(random: Random) -> dict[str, bytes]:
    """Return fresh secrets for a keystore, one 32-byte seed a name."""
    names = (*_VAULT_NAMES, f"{_SEAL_PREFIX}1")
    return {name: random(suite.SEED_SIZE) for name in names}


def new_service(random: Random) -> dict[str, bytes]:
    """Return fresh secrets for the service-key file, one 32-byte seed a name."""
    return {name: random(suite.SEED_SIZE) for name in _SERVICE_NAMES}


def load_vault(secrets: Mapping[str, bytes], outside: Outside | None = None) -> Vault:
    """Return the keys that a keystore holds, with those that are *outside* it.

    Raises:
        KeystoreError: one is missing or has the wrong size.
    """
    outside = outside or Outside()
    sealing = sorted(name for name in secrets if name.startswith(_SEAL_PREFIX))
    here = [name for name in _VAULT_NAMES if not _is_outside(name, outside)]
    _check(secrets, (*here, *(sealing or [f"{_SEAL_PREFIX}1"])))
    seeds = [secrets[name] for name in sealing]
    publics = tuple(suite.seal_public_bytes(seed) for seed in seeds)
    privates = {
        suite.ekid(public): suite.seal_private(seed)
        for public, seed in zip(publics, seeds, strict=True)
    }
    return Vault(
        identity=outside.identity
        or suite.LocalHybridSigner(secrets["identity/ed25519"], secrets["identity/mldsa65"]),
        message=outside.message or suite.Ed25519Signer(secrets["message"]),
        storage=secrets["storage"],
        seal_publics=publics,
        _seal=privates,
        outside=outside,
    )


def _is_outside(name: str, outside: Outside) -> bool:
    """Whether the keystore does not need the key *name*, as a signer outside stands for it."""
    if name.startswith(IDENTITY_PREFIX):
        return outside.identity is not None
    return name == MESSAGE_NAME and outside.message is not None


def load_service(secrets: Mapping[str, bytes]) -> ServiceKeys:
    """Return the keys that a service-key file holds.

    Raises:
        KeystoreError: one is missing or has the wrong size.
    """
    _check(secrets, _SERVICE_NAMES)
    return ServiceKeys(
        tls_seed=secrets["tls"],
        link=suite.LocalHybridSigner(secrets["link/ed25519"], secrets["link/mldsa65"]),
        log_ed25519=Ed25519PrivateKey.from_private_bytes(secrets["log/ed25519"]),
        log_mldsa44=MLDSA44PrivateKey.from_seed_bytes(secrets["log/mldsa44"]),
        witness_ed25519=Ed25519PrivateKey.from_private_bytes(secrets["witness/ed25519"]),
        witness_mldsa44=MLDSA44PrivateKey.from_seed_bytes(secrets["witness/mldsa44"]),
    )


def _check(secrets: Mapping[str, bytes], names: Iterable[str]) -> None:
    for name in names:
        if len(secrets.get(name, b"")) != suite.SEED_SIZE:
            raise KeystoreError(
                f"the key {name!r} is missing or damaged", fix="restore the file from its backup"
            )


def recovery_signer(recovery: bytes) -> suite.LocalHybridSigner:
    """Return the next identity key, derived from the 32-byte recovery code on paper."""
    seeds = identity_secrets(recovery)
    return suite.LocalHybridSigner(seeds["identity/ed25519"], seeds["identity/mldsa65"])


def identity_secrets(recovery: bytes) -> dict[str, bytes]:
    """Return what a keystore holds of the identity key that the recovery code stands for."""
    return {
        "identity/ed25519": suite.derive(recovery, "next-identity/ed25519"),
        "identity/mldsa65": suite.derive(recovery, "next-identity/mldsa65"),
    }


def rotation_of(recovery: bytes, *, following: bytes) -> Rotation:
    """Return the rotation that shows the key of one code and commits to that of the *following*."""
    return Rotation(
        keys=(recovery_signer(recovery).public,),
        threshold=1,
        next_digests=(identity_digest(recovery_signer(following).public),),
        next_threshold=1,
    )


def incept(vault: Vault, offline: Offline, *, network: bytes, now: int) -> Statement:
    """Return the signed inception of a new node at *now* (ms)."""
    inception = Inception(
        keys=(vault.identity.public,),
        threshold=1,
        next_digests=(identity_digest(recovery_signer(offline.recovery).public),),
        next_threshold=1,
        revocation=revocation_digest(offline.revocation),
    )
    return make_inception(inception, network=network, issued=now, signers=[vault.identity])


@dataclass(frozen=True, slots=True)
class CardFields:
    """What an operator decides about a card."""

    authority: str
    country: str
    role: str
    contact: str
    endpoints: tuple[str, ...]
    expires: int


def make_card_body(
    fields: CardFields,
    *,
    chain: Chain,
    vault: Vault,
    service: ServiceKeys,
    certificate: bytes,
    seal_until: int,
    now: int,
) -> Card:
    """Return the card that lists the public halves of all keys in use."""
    name = f"picket.invalid/{chain.node_id.hex()[:16]}"
    return Card(
        authority=fields.authority,
        country=fields.country,
        role=fields.role,
        contact=fields.contact,
        endpoints=fields.endpoints,
        expires=fields.expires,
        min_suite=1,
        message=vault.message.public,
        seal=tuple(SealKey(public, now, seal_until) for public in vault.seal_publics),
        link=service.link.public,
        log=service.log_keys(f"{name}/log"),
        witness=service.witness_keys(f"{name}/witness"),
        tls=(certificate,),
    )
