"""Key files that change together with node.db, and in which order.

What changes both is made so: the new files beside the old ones, as ``NAME.next``; one transaction
of node.db that also notes their digests; the files put in place. A start after a crash finishes
what is noted, and throws away what is not.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Final

from keys.identity import Vault
from keys.keystore import load_message
from node.home import Home
from node.key_lives import rotatable
from node.store import Store
from protocol import suite
from protocol.statement import Card

_NEXT: Final = ".next"
_NOTED: Final = "keys-next"


def next_of(path: Path) -> Path:
    """Return where the file waits that will be *path*."""
    return path.with_name(path.name + _NEXT)


def _places(home: Home) -> tuple[Path, ...]:
    return (
        home.keystore, home.service_key, home.tls_pem, home.sealing, home.message_key,
        home.recovery_sheet,
    )  # fmt: skip


def _waiting(home: Home) -> dict[Path, bytes]:
    """Return the places for which new files wait, and the digest of each such file."""
    return {
        path: hashlib.sha256(next_of(path).read_bytes()).digest()
        for path in _places(home)
        if next_of(path).exists()
    }


def finish(home: Home, store: Store) -> None:
    """Put new key files in place if node.db knows of them; throw them away if not."""
    noted = store.meta(_NOTED) or b""
    known = {noted[at : at + 32] for at in range(0, len(noted), 32)}
    for path, digest in _waiting(home).items():
        if digest in known:
            next_of(path).replace(path)
        else:
            next_of(path).unlink()


def note(home: Home, store: Store) -> None:
    """Note the files that wait. Call inside the transaction that makes them the right ones."""
    store.set_meta(_NOTED, b"".join(_waiting(home).values()))


def forget_certificates(home: Home) -> None:
    """Destroy the TLS keys that are not in use: a recovery makes every key a new one."""
    for path in home.tls_others.glob("*"):
        path.unlink(missing_ok=True)


def message_in_force(vault: Vault, *, home: Home, card: Card) -> Vault:
    """Return *vault* with the message key that *card* names, if it was made since.

    Raises:
        KeystoreError: the file of those is damaged, or of another node.
    """
    if vault.message.public == card.message or not rotatable(vault.message):
        return vault
    for seed in load_message(home.message_key, vault.storage).values():
        signer = suite.Ed25519Signer(seed)
        if signer.public == card.message:
            return replace(vault, message=signer)
    return vault


def discard(home: Home, store: Store) -> None:
    """Throw the files away that wait, after a failure.

    What node.db knows of is put in place: the failure may have come after the commit.
    """
    finish(home, store)
