"""Signing keys on their way: made inside a token, put into one, or moved to a signer and back.

- A key is durable, and read back, where it goes to before it is taken from where it was. A crash in
  between leaves it in both places, and the same command ends what it began.
- Nothing here changes which key is in force: the chain says that, and each move checks it first.
- The node does not run meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from keys.identity import (
    IDENTITY_ED25519,
    IDENTITY_MLDSA65,
    IDENTITY_PREFIX,
    MESSAGE_NAME,
    Random,
    new_vault,
)
from keys.keystore import load, load_message, save, save_message
from keys.signers import Outside, Place, SplitSigner, Token, TokenSigner
from node.config import Config
from node.core import Core
from node.signer_client import Pin, pin_of
from protocol import suite
from protocol.errors import ConfigError, ConflictError, KeystoreError

NETWORK: Final = "about/network"
NODE: Final = "about/node"
"""Under these names a signer's keystore says whose keys it holds."""
KEYSTORE: Final = "keystore"
"""What the file with the keys is called in a signer's folder."""


@contextmanager
def new_keys(
    config: Config, random: Random, pin: Pin | None
) -> Iterator[tuple[dict[str, bytes], Outside]]:
    """Give fresh secrets for a keystore, and the keys made outside it, where the settings say.

    What was made in a token is destroyed again if the block fails.

    Raises:
        ConfigError: a new node cannot begin with a signer, or the token has such a key already.
        PicketError: the token cannot be used.
    """
    held, signer = new_vault(random), config.signer
    if signer.kind == "agent":
        raise ConfigError(
            "a new node cannot begin with signer.kind agent",
            fix="make it with file or pkcs11, then: picket signer move",
        )
    if signer.kind == "file":
        yield held, Outside()
        return
    token = Token(Place(signer.module, signer.token), pin_of(signer, pin))
    made: list[str] = []
    try:
        for label, name in ((signer.identity, IDENTITY_ED25519), (signer.message, MESSAGE_NAME)):
            if label:
                token.generate(label)
                made.append(label)
                del held[name]
        yield (
            held,
            Outside(
                SplitSigner(TokenSigner(token, signer.identity), held[IDENTITY_MLDSA65]),
                TokenSigner(token, signer.message) if signer.message else None,
            ),
        )
    except BaseException:
        for label in made:
            token.destroy(label)
        raise
    finally:
        token.close()


# --- into a token ----------------------------------------------------------------------------
def import_keys(core: Core, config: Config, *, passphrase: bytes, pin: Pin | None) -> list[str]:
    """Put the Ed25519 keys in the keystore that belong into the token there; return which.

    Such a key was outside before, so whoever copied the keystore then has it still.

    Raises:
        ConfigError: the settings name no token, or it holds another key in force under that label.
        ConflictError: the keystore holds none of them.
        PicketError: the keystore or the token cannot be used.
    """
    signer = config.signer
    if signer.kind != "pkcs11":
        raise ConfigError(
            f"signer.kind is {signer.kind}",
            fix="set signer.kind, signer.module and signer.token, then repeat it",
        )
    held = load(core.home.keystore, passphrase)
    found = {}
    if IDENTITY_ED25519 in held:
        _check_identity(core, held)
        found[IDENTITY_ED25519] = signer.identity
    message = _message_seed(core, held) if signer.message else None
    if message is not None:
        found[MESSAGE_NAME] = signer.message
    if not found:
        raise ConflictError(
            "the keystore holds no key that belongs into the token", fix="nothing is left to do"
        )
    token = Token(Place(signer.module, signer.token), pin_of(signer, pin))
    try:
        for name, label in found.items():
            seed = held[name] if name == IDENTITY_ED25519 else message
            assert seed is not None  # noqa: S101  it was found
            _put(core, token, label, seed)
    finally:
        token.close()
    _leave(core, held, set(found), passphrase)
    return list(found)


def _put(core: Core, token: Token, label: str, seed: bytes) -> None:
    public = suite.Ed25519Signer(seed).public
    if token.has(label):
        there = token.public(label)
        if there == public:
            return  # a crash came after it was put there
        in_force = {core.card.message, *(key[0] for key in core.trust.own.identity.keys)}
        if there in in_force:
            raise ConfigError(
                f"the token holds another key in force under the label {label!r}",
                fix="set another label for this one",
            )
        token.destroy(label)  # the one before a rotation, which signs nothing any more
    token.take(label, seed)
    probe = suite.label("probe") + label.encode()
    suite.verify("probe", public, label.encode(), token.sign(label, probe))


# --- to a signer of its own ------------------------------------------------------------------
def move_keys(
    core: Core, folder: Path, *, passphrase: bytes, signer_passphrase: bytes, message: bool
) -> list[str]:
    """Take the identity key, and with *message* the message key, out of the keystore into *folder*.

    Return the names of what was taken.

    Raises:
        ConflictError: there is nothing to move, or the folder is of another node.
        PicketError: a keystore cannot be read or written; the key is where it was.
    """
    home = core.home
    held = load(home.keystore, passphrase)
    taken = {name: held[name] for name in held if name.startswith(IDENTITY_PREFIX)}
    if IDENTITY_ED25519 in taken:
        _check_identity(core, held)
    seed = _message_seed(core, held) if message else None
    if seed is not None:
        taken[MESSAGE_NAME] = seed
    if not taken:
        raise ConflictError(
            "the keystore holds no key to move", fix="it was moved before: picket signer run"
        )
    target = folder / KEYSTORE
    before = load(target, signer_passphrase) if target.exists() else {}
    about = {NETWORK: core.trust.own.network, NODE: core.node_id}
    if before and any(before.get(name) != value for name, value in about.items()):
        raise ConflictError(f"{folder} holds the keys of another node", fix="choose another folder")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KeystoreError(
            f"{folder} cannot be made: {error.strerror}", fix="choose another folder"
        ) from None
    whole = {**before, **taken, **about}
    save(target, whole, signer_passphrase)
    if load(target, signer_passphrase) != whole:
        raise KeystoreError(f"{target} does not hold what was written", fix="check the disk")
    _leave(core, held, set(taken), passphrase)
    return sorted(taken)


def return_keys(
    core: Core, folder: Path, *, passphrase: bytes, signer_passphrase: bytes
) -> list[str]:
    """Put the keys in a signer's *folder* back into the keystore; return their names.

    Raises:
        ConflictError: they are of another node, or not in force any more.
        PicketError: a keystore cannot be read or written; the keys are where they were.
    """
    home, target = core.home, folder / KEYSTORE
    there = load(target, signer_passphrase)
    if there.get(NODE) != core.node_id or there.get(NETWORK) != core.trust.own.network:
        raise ConflictError(
            f"{folder} holds the keys of another node", fix="name the signer's folder of this one"
        )
    held = load(home.keystore, passphrase)
    back = {name: there[name] for name in there if name not in {NETWORK, NODE}}
    if IDENTITY_ED25519 in back:
        _check_identity(core, back)
    whole = {**held, **back}
    save(home.keystore, whole, passphrase)
    if load(home.keystore, passphrase) != whole:
        raise KeystoreError(f"{home.keystore} does not hold what was written", fix="check the disk")
    target.unlink()
    return sorted(back)


def _check_identity(core: Core, held: Mapping[str, bytes]) -> None:
    """Check that *held* has the whole identity key that is in force.

    Raises:
        ConflictError: it does not; a move would leave the node without its key.
    """
    both = (held.get(IDENTITY_ED25519, b""), held.get(IDENTITY_MLDSA65, b""))
    whole = all(len(seed) == suite.SEED_SIZE for seed in both)
    if not whole or suite.LocalHybridSigner(*both).public not in core.trust.own.identity.keys:
        raise ConflictError(
            "the identity key there is not the one in force",
            fix="put files of one node together; do not mix backups",
        )


def _message_seed(core: Core, held: Mapping[str, bytes]) -> bytes | None:
    """Return the message key in force, if it lies in this home."""
    since = load_message(core.home.message_key, held["storage"]).values()
    for seed in (*(held[name] for name in held if name == MESSAGE_NAME), *since):
        if suite.Ed25519Signer(seed).public == core.card.message:
            return seed
    return None


def _leave(core: Core, held: Mapping[str, bytes], gone: set[str], passphrase: bytes) -> None:
    """Write the keystore without the keys *gone*, which are durable elsewhere."""
    rest = {name: secret for name, secret in held.items() if name not in gone}
    if MESSAGE_NAME in gone and core.home.message_key.exists():
        save_message(core.home.message_key, {}, held["storage"])
    save(core.home.keystore, rest, passphrase)
