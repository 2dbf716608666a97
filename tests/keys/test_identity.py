"""The private keys of a node: two bundles, what each can do, and what none of them shows."""

from __future__ import annotations

from dataclasses import fields
from itertools import count

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.identity import (
    CardFields,
    Offline,
    ServiceKeys,
    Vault,
    incept,
    load_service,
    load_vault,
    make_card_body,
    new_service,
    new_vault,
    recovery_signer,
)
from protocol import suite
from protocol.errors import KeystoreError, OpenError, SignatureError, StatementError
from protocol.statement import (
    Chain,
    identity_digest,
    make_bundle,
    make_card,
    revocation_digest,
    verify_bundle,
)
from tests.factories import DAY, NETWORK, NOW, card_body, seed

OFFLINE = Offline(seed("alder", "recovery"), seed("alder", "revocation"))
DAMAGE = [None, b"", bytes(31), bytes(33)]
DAMAGE_NAMES = ["missing", "empty", "short", "long"]
FIELDS = CardFields(
    authority="Alder",
    country="XA",
    role="national-authority",
    contact="duty@alder.example",
    endpoints=("wss://127.0.0.1:8462",),
    expires=NOW + 300 * DAY,
)


class Counted:
    """A source of distinct, known bytes."""

    def __init__(self, name: str) -> None:
        self._name, self._calls = name, count()
        self.given: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        self.given.append(seed(self._name, str(next(self._calls)))[:size])
        return self.given[-1]


VAULT_SECRETS = new_vault(Counted("vault"))
SERVICE_SECRETS = new_service(Counted("service"))


@pytest.fixture(scope="module")
def vault() -> Vault:
    return load_vault(VAULT_SECRETS)


@pytest.fixture(scope="module")
def service() -> ServiceKeys:
    return load_service(SERVICE_SECRETS)


@pytest.fixture(scope="module")
def born(vault: Vault) -> Chain:
    return Chain.start(incept(vault, OFFLINE, network=NETWORK, now=NOW), network=NETWORK)


# --- making and loading ----------------------------------------------------------------------
def test_each_secret_is_32_bytes_of_its_own() -> None:
    for make, size in ((new_vault, 5), (new_service, 7)):
        random = Counted("fresh")
        secrets = make(random)
        assert sorted(secrets.values()) == sorted(random.given)
        assert len(set(secrets.values())) == len(secrets) == size
        assert {len(secret) for secret in secrets.values()} == {32}


def test_the_two_bundles_share_no_name() -> None:
    """What a locked node holds can neither sign an incident nor open one."""
    assert set(VAULT_SECRETS).isdisjoint(SERVICE_SECRETS)
    assert not any(name.startswith(("identity", "message", "seal")) for name in SERVICE_SECRETS)


def test_the_vault_holds_the_keys_that_the_seeds_give(vault: Vault) -> None:
    assert vault.message.public == suite.Ed25519Signer(VAULT_SECRETS["message"]).public
    assert vault.seal_publics == (suite.seal_public_bytes(VAULT_SECRETS["seal/1"]),)
    assert vault.storage == VAULT_SECRETS["storage"]
    suite.verify_hybrid(
        "test", vault.identity.public, b"text", vault.identity.sign(suite.label("test") + b"text")
    )


def test_the_service_keys_are_those_that_the_seeds_give(service: ServiceKeys) -> None:
    log, witness = service.log_keys("a.example/log"), service.witness_keys("a.example/witness")
    for keys, name in ((log, "log"), (witness, "witness")):
        private = Ed25519PrivateKey.from_private_bytes(SERVICE_SECRETS[f"{name}/ed25519"])
        post_quantum = MLDSA44PrivateKey.from_seed_bytes(SERVICE_SECRETS[f"{name}/mldsa44"])
        assert keys.name == f"a.example/{name}"
        assert keys.ed25519 == private.public_key().public_bytes_raw()
        assert keys.mldsa44 == post_quantum.public_key().public_bytes_raw()
    assert service.tls_seed == SERVICE_SECRETS["tls"]


@pytest.mark.parametrize("damage", DAMAGE, ids=DAMAGE_NAMES)
@pytest.mark.parametrize("name", sorted(set(VAULT_SECRETS) - {"seal/1"}))
def test_a_vault_key_that_is_missing_or_damaged_is_named(name: str, damage: bytes | None) -> None:
    secrets = {key: value for key, value in VAULT_SECRETS.items() if key != name}
    with pytest.raises(KeystoreError) as caught:
        load_vault(secrets if damage is None else {**secrets, name: damage})
    assert name in caught.value.message and caught.value.fix


@pytest.mark.parametrize("damage", DAMAGE, ids=DAMAGE_NAMES)
@pytest.mark.parametrize("name", sorted(SERVICE_SECRETS))
def test_a_service_key_that_is_missing_or_damaged_is_named(name: str, damage: bytes | None) -> None:
    secrets = {key: value for key, value in SERVICE_SECRETS.items() if key != name}
    with pytest.raises(KeystoreError) as caught:
        load_service(secrets if damage is None else {**secrets, name: damage})
    assert name in caught.value.message and caught.value.fix


@pytest.mark.parametrize("damage", DAMAGE, ids=DAMAGE_NAMES)
def test_a_sealing_key_that_is_missing_or_damaged_is_named(damage: bytes | None) -> None:
    """Any length would expand to some key, and one of no bytes to a key that everybody knows."""
    secrets = {key: value for key, value in VAULT_SECRETS.items() if key != "seal/1"}
    with pytest.raises(KeystoreError):
        load_vault(secrets if damage is None else {**secrets, "seal/1": damage})


def test_errors_show_no_secret() -> None:
    with pytest.raises(KeystoreError) as caught:
        load_vault({**VAULT_SECRETS, "message": VAULT_SECRETS["message"][:31]})
    shown = f"{caught.value!r} {caught.value.diagnostics()}"
    assert VAULT_SECRETS["message"][:31].hex() not in shown
    assert repr(VAULT_SECRETS["message"][:31]) not in shown


# --- unsealing -------------------------------------------------------------------------------
def test_the_vault_opens_what_was_sealed_to_each_of_its_keys() -> None:
    secrets = {**VAULT_SECRETS, "seal/2": seed("alder", "seal/2"), "seal/3": seed("alder", "s3")}
    vault = load_vault(secrets)
    assert len(vault.seal_publics) == 3
    for public in vault.seal_publics:
        sealed = suite.seal_to(public, b"epoch key", b"info")
        assert vault.unseal(suite.ekid(public), sealed, b"info") == b"epoch key"


def test_what_does_not_open_says_no_more_than_that(vault: Vault) -> None:
    """Whether we have a key, or had one, is told to nobody."""
    public = vault.seal_publics[0]
    stranger = suite.seal_public_bytes(seed("stranger", "seal"))
    sealed = suite.seal_to(public, b"epoch key", b"info")
    spoilt = sealed[:-1] + bytes([sealed[-1] ^ 1])
    said = set()
    for ekid, slot, info in (
        (suite.ekid(stranger), sealed, b"info"),
        (b"", sealed, b"info"),
        (suite.ekid(public), sealed, b"other info"),
        (suite.ekid(public), spoilt, b"info"),
        (suite.ekid(public), b"", b"info"),
        (suite.ekid(public), suite.seal_to(stranger, b"epoch key", b"info"), b"info"),
    ):
        with pytest.raises(OpenError) as caught:
            vault.unseal(ekid, slot, info)
        said.add(caught.value.diagnostics())
    assert len(said) == 1


# --- nothing shows ---------------------------------------------------------------------------
def test_nothing_that_is_printed_or_logged_shows_a_secret(
    vault: Vault, service: ServiceKeys
) -> None:
    shown = f"{vault!r} {service!r} {OFFLINE!r} {vault} {service} {OFFLINE}"
    secrets = [*VAULT_SECRETS.values(), *SERVICE_SECRETS.values(), OFFLINE.recovery,
               OFFLINE.revocation]  # fmt: skip
    for secret in secrets:
        assert secret.hex() not in shown and repr(secret) not in shown
    for kind in (Vault, ServiceKeys, Offline):
        printed = {field.name for field in fields(kind) if field.repr}
        assert printed <= {"seal_publics"}


# --- birth and recovery ----------------------------------------------------------------------
def test_an_inception_commits_to_the_key_that_the_paper_gives(born: Chain) -> None:
    recovered = recovery_signer(OFFLINE.recovery)
    assert born.inception.next_digests == (identity_digest(recovered.public),)
    assert born.inception.revocation == revocation_digest(OFFLINE.revocation)
    assert (born.inception.threshold, born.inception.next_threshold) == (1, 1)


def test_another_recovery_code_gives_another_key(born: Chain) -> None:
    wrong = OFFLINE.recovery[:-1] + bytes([OFFLINE.recovery[-1] ^ 1])
    other = recovery_signer(wrong).public
    assert identity_digest(other) not in born.inception.next_digests
    assert set(other).isdisjoint(recovery_signer(OFFLINE.recovery).public)


def test_the_paper_of_today_gives_the_same_key_in_every_later_version() -> None:
    halves = [
        HKDF(SHA256(), 32, salt=None, info=b"picket/1/next-identity/" + name + b"\0").derive(
            OFFLINE.recovery
        )
        for name in (b"ed25519", b"mldsa65")
    ]
    assert recovery_signer(OFFLINE.recovery).public == suite.LocalHybridSigner(*halves).public


def test_the_recovery_key_is_none_of_those_in_use(vault: Vault, born: Chain) -> None:
    recovered = recovery_signer(OFFLINE.recovery)
    assert born.inception.keys == (vault.identity.public,)
    assert set(recovered.public).isdisjoint(vault.identity.public)
    suite.verify_hybrid(
        "test", recovered.public, b"text", recovered.sign(suite.label("test") + b"text")
    )


def test_the_paper_keys_and_the_secrets_are_not_in_the_inception(born: Chain) -> None:
    wire = born.head.wire
    for secret in (OFFLINE.recovery, OFFLINE.revocation, *VAULT_SECRETS.values()):
        assert secret not in wire
    for public in recovery_signer(OFFLINE.recovery).public:
        assert public not in wire


def test_the_card_lists_the_public_half_of_each_key_in_use(
    vault: Vault, service: ServiceKeys, born: Chain
) -> None:
    certificate = card_body("alder").tls[0]
    body = make_card_body(
        FIELDS, chain=born, vault=vault, service=service, certificate=certificate,
        seal_until=NOW + 30 * DAY, now=NOW,
    )  # fmt: skip
    chain = born.extend(make_card(body, chain=born, issued=NOW, signer=vault.identity))
    card = verify_bundle(make_bundle(chain), network=NETWORK).card
    assert card == body
    assert (card.message, card.link, card.tls) == (
        vault.message.public, service.link.public, (certificate,)
    )  # fmt: skip
    assert [key.public for key in card.seal] == list(vault.seal_publics)
    assert card.seal_key(NOW).not_after == NOW + 30 * DAY
    assert card.log.name == f"picket.invalid/{born.node_id.hex()[:16]}/log"
    assert card.witness == service.witness_keys(card.log.name.replace("/log", "/witness"))
    assert (card.authority, card.country, card.contact) == ("Alder", "XA", "duty@alder.example")


def test_service_keys_cannot_make_a_card(vault: Vault, service: ServiceKeys, born: Chain) -> None:
    """Whoever steals them from a locked node cannot speak for it."""
    body = make_card_body(
        FIELDS, chain=born, vault=vault, service=service, certificate=card_body("alder").tls[0],
        seal_until=NOW + 30 * DAY, now=NOW,
    )  # fmt: skip
    forged = make_card(body, chain=born, issued=NOW, signer=service.link)
    with pytest.raises((SignatureError, StatementError)):
        born.extend(forged)
