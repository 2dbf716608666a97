"""Whether peers have shown that they hold the sealing keys on their cards.

- A peer that receives from us is challenged once a link, until it has answered for its newest key.
- No answer, or a wrong one, is told to an operator and stops nothing: a locked peer answers later,
  and what cannot be opened comes back as a notice and is sealed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keys.identity import Random
from keys.trust import Level, Peer
from node.clock import Clock
from node.store import Store
from protocol import limits, possession
from protocol.errors import PeerError, ProofError
from protocol.possession import SealChallenge, SealProof
from protocol.statement import SealKey

if TYPE_CHECKING:
    from node.core import Core

_KEPT_MS: Final = 400 * 86_400_000


@dataclass(frozen=True, slots=True)
class Asked:
    """A challenge that was sent on one link, and the secret that answers it."""

    ekid: bytes
    secret: bytes


class SealProofs:
    """The table of proofs, and the challenges that lead to them."""

    def __init__(self, core: Core, *, store: Store, clock: Clock, random: Random) -> None:
        """Serve *core*."""
        self._core, self._store, self._clock, self._random = core, store, clock, random
        self._proven: set[tuple[bytes, bytes]] | None = None

    # --- asking ------------------------------------------------------------------------------
    def lacking(self, node_id: bytes) -> SealKey | None:
        """Return the sealing key that *node_id* has to show yet; None if there is none."""
        peer = self._core.trust.peers.get(node_id)
        key = None if peer is None or peer.level is not Level.SHARE else self._newest(peer)
        if key is None or (node_id, key.ekid) in self._known():
            return None
        return key

    def _newest(self, peer: Peer) -> SealKey | None:
        try:
            return peer.card.seal_key(self._clock.now())
        except PeerError:
            return None  # its card has run out: nothing is sealed to it

    def _known(self) -> set[tuple[bytes, bytes]]:
        if self._proven is None:
            rows = self._store.rows(
                "SELECT peer, ekid FROM seal_proofs WHERE proven_at IS NOT NULL"
            )
            self._proven = {(row["peer"], row["ekid"]) for row in rows}
        return self._proven

    def ask(self, node_id: bytes, key: SealKey) -> tuple[SealChallenge, Asked]:
        """Return a challenge for *key* of *node_id*, and what answers it; note that it is asked.

        Raises:
            WeakKeyError: the key cannot be sealed to.
            BusyError: the disk is full.
        """
        secret = self._random(possession.SECRET_SIZE)
        challenge = possession.make_challenge(
            key.public, secret=secret, challenger=self._core.node_id, holder=node_id
        )
        now = self._clock.now()
        with self._store.transaction():
            self._store.run(
                "INSERT INTO seal_proofs (peer, ekid, asked_at, proven_at, wrong) "
                "VALUES (?, ?, ?, NULL, 0) ON CONFLICT DO NOTHING", node_id, key.ekid, now,
            )  # fmt: skip
            self._store.run("DELETE FROM seal_proofs WHERE asked_at < ?", now - _KEPT_MS)
        return challenge, Asked(key.ekid, secret)

    # --- hearing -----------------------------------------------------------------------------
    def take(self, node_id: bytes, asked: Asked | None, proof: SealProof) -> None:
        """Note what *node_id* answered to what it was *asked* on this link.

        Raises:
            ProofError: it was not asked, or the answer is wrong.
            BusyError: the disk is full; it is asked again on the next link.
        """
        if asked is None:
            raise ProofError("a proof of a sealing key that was not asked for")
        try:
            possession.check_proof(
                proof, secret=asked.secret, challenger=self._core.node_id, holder=node_id,
                ekid=asked.ekid,
            )  # fmt: skip
        except ProofError:
            self._note("wrong = wrong + 1", node_id, asked.ekid)
            raise
        self._note(f"proven_at = {self._clock.now():d}", node_id, asked.ekid)
        self._known().add((node_id, asked.ekid))

    def _note(self, what: str, node_id: bytes, ekid: bytes) -> None:
        with self._store.transaction():
            self._store.run(
                f"UPDATE seal_proofs SET {what} WHERE peer = ? AND ekid = ?",  # noqa: S608  constants
                node_id, ekid,
            )  # fmt: skip

    # --- what operators see -------------------------------------------------------------------
    def doubtful(self) -> list[tuple[str, bool]]:
        """Return the peers that have not shown their newest key in time, and whether they erred."""
        now, found = self._clock.now(), []
        for peer in sorted(self._core.trust.peers.values(), key=lambda each: each.name):
            key = self.lacking(peer.node_id)
            row = key and self._store.row(
                "SELECT * FROM seal_proofs WHERE peer = ? AND ekid = ?", peer.node_id, key.ekid
            )
            if row and (row["wrong"] or now >= row["asked_at"] + limits.POSSESSION_PATIENCE_MS):
                found.append((peer.name, bool(row["wrong"])))
        return found
