"""Suspensions by a directory: which are in force here, and making one with its officers' keys.

- What this node follows it passes on to its peers. Each of them verifies it anew against the keys
  that its own operator chose, and passes it on only if it follows it too: nobody can be made to.
- An officer signs with a key file of his own; what several signed of one text is put together.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from keys.keystore import load, save
from protocol import limits, suite
from protocol.bodies import HybridKey
from protocol.canonical import encode
from protocol.errors import ConflictError, KeystoreError, PeerError, RequestError
from protocol.suspension import (
    Directory,
    Suspension,
    make_suspension,
    parse_suspension,
    verify_suspension,
)

if TYPE_CHECKING:
    from node.core import Core

_ED25519: Final = "directory/ed25519"
_MLDSA65: Final = "directory/mldsa65"


@dataclass(frozen=True, slots=True)
class Followed:
    """A suspension that is in force here."""

    node_id: bytes
    digest: bytes
    wire: bytes


def followed(core: Core) -> tuple[Followed, ...]:
    """Return the suspensions that are in force here, by node id."""
    found = [
        Followed(row["node_id"], parse_suspension(row["wire"]).digest, row["wire"])
        for row in core.store.rows("SELECT node_id, wire FROM suspensions ORDER BY node_id")
        if row["node_id"] in core.trust.suspended
    ]
    return tuple(found[: limits.MAX_SUSPENSIONS_TOLD])


def take(core: Core, wire: bytes) -> Suspension | None:
    """Follow a suspension that a peer passed on, if this node's directory signed it.

    Return it if it is in force now; None if it says nothing to this node.

    Raises:
        DecodeError, VersionError, StatementError: it is malformed; its giver is to blame.
        BusyError: the disk is full; the next link brings it again.
    """
    suspension = parse_suspension(wire)
    if core.statements.directory is None or suspension.node_id not in core.trust.peers:
        return None
    if _is_followed(core, suspension):
        return suspension
    # Of another directory, over, or signed by too few: it may count elsewhere.
    with suppress(PeerError):
        core.statements.suspend(wire)
    return suspension if _is_followed(core, suspension) else None


def _is_followed(core: Core, suspension: Suspension) -> bool:
    return any(each.digest == suspension.digest for each in followed(core))


# --- officers of a directory ------------------------------------------------------------------
def make_key(path: Path, passphrase: bytes) -> HybridKey:
    """Write a new officer's key to *path*, sealed under *passphrase*; return its public half.

    Raises:
        ConflictError: there is a file already.
        KeystoreError: the passphrase is too short, or the file cannot be written.
    """
    if path.exists():
        raise ConflictError(f"{path} exists already", fix="choose another name: --out FILE")
    seeds = {name: secrets.token_bytes(suite.SEED_SIZE) for name in (_ED25519, _MLDSA65)}
    save(path, seeds, passphrase)
    return suite.LocalHybridSigner(seeds[_ED25519], seeds[_MLDSA65]).public


def load_key(path: Path, passphrase: bytes) -> suite.LocalHybridSigner:
    """Return the officer's key in the file *path*.

    Raises:
        KeystoreError: it is missing, damaged, or of another kind.
        WrongPassphraseError: it does not open.
    """
    held = load(path, passphrase)
    if set(held) != {_ED25519, _MLDSA65}:
        raise KeystoreError(
            f"{path} holds no officer's key", fix="make one with: picket directory new-key"
        )
    return suite.LocalHybridSigner(held[_ED25519], held[_MLDSA65])


def begin(
    signer: suite.LocalHybridSigner,
    *,
    network: bytes,
    node_id: bytes,
    issued: int,
    until: int,
    reason: str,
) -> bytes:
    """Return a new suspension with the signature of one officer.

    Raises:
        RequestError: a field is out of its bounds.
    """
    wire = make_suspension(
        network=network, node_id=node_id, issued=issued, until=until, reason=reason,
        signers=[(signer.public, signer)],
    )  # fmt: skip
    try:
        parse_suspension(wire)
    except PeerError as error:  # typed here, by no peer
        raise RequestError(error.message, fix="14 days at most, and a reason of one line") from None
    return wire


def add_signature(wire: bytes, signer: suite.LocalHybridSigner) -> bytes:
    """Return the suspension *wire* with the signature of one more officer.

    Raises:
        PeerError: it is malformed.
        ConflictError: this key has signed it already.
    """
    it = parse_suspension(wire)
    alone = make_suspension(
        network=it.network, node_id=it.node_id, issued=it.issued, until=it.until,
        reason=it.reason, signers=[(signer.public, signer)],
    )  # fmt: skip
    if parse_suspension(alone).signatures[0][0] in {key for key, _, _ in it.signatures}:
        raise ConflictError("this key has signed it already", fix="another officer has to sign")
    return combine([wire, alone])


def combine(wires: Sequence[bytes]) -> bytes:
    """Return one suspension with all signatures of *wires*, each key once.

    Raises:
        PeerError: one is malformed.
        RequestError: they are not all of the same text.
    """
    parsed = [parse_suspension(wire) for wire in wires]
    if len({each.core for each in parsed}) != 1:
        raise RequestError(
            "these files do not suspend the same node for the same time and reason",
            fix="let all officers sign the file of the first one: picket directory sign --add FILE",
        )
    signatures = {key: [key, one, two] for each in parsed for key, one, two in each.signatures}
    whole = encode([parsed[0].core, [signatures[key] for key in sorted(signatures)]])
    parse_suspension(whole)
    return whole


def missing(wire: bytes, directory: Directory, *, network: bytes, now: int) -> str:
    """Return why *wire* does not count for *directory* yet; empty if it does."""
    try:
        verify_suspension(parse_suspension(wire), directory, network=network, now=now)
    except PeerError as error:
        return error.message
    return ""
