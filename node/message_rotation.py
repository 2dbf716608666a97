"""The message key of this node over its life: a new one each year, and the end of the old one.

- Message keys made since lie in a file of their own under a key derived from the storage key, so
  that an unlocked node renews its key without its passphrase.
- The new key is on the disk before a card names it: after a crash in between it is as good as a
  fresh one. Which key is in use follows from the card alone.
- The old one is destroyed once the card with the new one is durable. The first, which lies in the
  keystore, is destroyed when somebody unlocks the node, since only then can that be written.
- A key that lies in a token or another process is renewed there, or not at all.
- What the old key signed verifies by the card that named it: cards stay in the chain.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from keys.keystore import load_message, save, save_message
from node.core import Core
from node.key_lives import MESSAGE_LIFE_MS, rotatable, since
from node.own_dates import issue_time
from node.ownkeys import opened, renewed_card
from protocol import suite
from protocol.errors import ConflictError
from protocol.statement import Card, Statement, make_card

_KEPT: Final = "message"
"""Where the keystore has the first one."""
_PREFIX: Final = "message/"


def due(core: Core) -> bool:
    """Whether it is time for a new message key, and this node can make it."""
    vault, now = opened(core), core.clock.now()
    begun = since(core.trust.own, lambda card: card.message)
    return rotatable(vault.message) and now >= begun + MESSAGE_LIFE_MS


def rotate(core: Core) -> Statement:
    """Make a new message key and the card that names it; return the card.

    Raises:
        ConflictError: the key lies in a token or another process, or this node may sign no
            statement any more.
        KeystoreError: the disk is full; nothing was changed.
        BusyError: this node may sign no statement now.
    """
    vault, home, now = opened(core), core.home, core.clock.now()
    if not rotatable(vault.message):
        raise ConflictError(
            "the message key does not lie in this node's keystore",
            fix="make a new one where it lies, and name that one in picket.toml",
        )
    core.statements.check_own()
    seeds = load_message(home.message_key, vault.storage)
    named = {s.body.message for s in core.trust.own.statements if isinstance(s.body, Card)}
    # One that no card ever named is left of a crash: it is as good as a new one.
    spare = [name for name, seed in seeds.items() if _public(seed) not in named]
    if not spare:
        spare = [f"{_PREFIX}{now:016d}"]
        seeds[spare[0]] = secrets.token_bytes(suite.SEED_SIZE)
        save_message(home.message_key, seeds, vault.storage)
    signer = suite.Ed25519Signer(seeds[spare[0]])
    issued = issue_time(core.trust.own, now)
    body = renewed_card(core.card, issued, message=signer.public)
    card = make_card(body, chain=core.trust.own, issued=issued, signer=vault.identity)
    core.add_statement(card)
    core.vault = replace(opened(core), message=signer)
    destroy(core)
    return card


def destroy(core: Core) -> int:
    """Destroy the message keys in the file that the newest card does not name; return how many.

    Raises:
        KeystoreError: the file cannot be written; it is tried again.
    """
    vault, home = opened(core), core.home
    seeds = load_message(home.message_key, vault.storage)
    kept = {name: seed for name, seed in seeds.items() if _public(seed) == core.card.message}
    if len(kept) < len(seeds):
        save_message(home.message_key, kept, vault.storage)
    return len(seeds) - len(kept)


def destroy_first(core: Core, held: Mapping[str, bytes], passphrase: bytes) -> Mapping[str, bytes]:
    """Destroy the first message key, in the keystore, if another is in use; return what is held.

    Raises:
        KeystoreError: the keystore cannot be written; it is tried again at the next unlocking.
    """
    first, vault = held.get(_KEPT), opened(core)
    if first is None or not rotatable(vault.message):
        return held
    public, now = _public(first), core.card.message
    named = {s.body.message for s in core.trust.own.statements if isinstance(s.body, Card)}
    # One that no card ever named was put in the place of the first one.
    if public == now or public not in named or vault.message.public != now:
        return held
    # Another that nobody knows takes its place, so that every keystore has one.
    fresh = {**held, _KEPT: secrets.token_bytes(suite.SEED_SIZE)}
    save(core.home.keystore, fresh, passphrase)
    return fresh


def keep_up(core: Core) -> None:
    """Renew the message key if it is time, and destroy what is over.

    Raises:
        KeystoreError: the disk is full; it is tried again.
        BusyError: this node may sign no statement now.
    """
    if due(core):
        rotate(core)
    destroy(core)


def _public(seed: bytes) -> bytes:
    return suite.Ed25519Signer(seed).public
