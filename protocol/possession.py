"""Who lists a sealing key shows that it has it: a challenge that only its private half answers.

    challenge = [ekid, sealed];  sealed = HPKE of 32 random bytes, info =
                label("possession") || challenger || holder || ekid
    proof     = [ekid, H("possession-proof", secret, challenger, holder, ekid)]

- Both go over the link, which says who is at either end; nobody else can use either.
- The info is that of nothing else, and the answer is a digest: who asks has no way to let the
  holder open a slot for it.
- It is a warning, never a condition. A locked holder answers later; sealing goes on meanwhile, and
  a key that opens nothing shows by the notices of sealing again.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from protocol import limits, suite
from protocol.canonical import Value
from protocol.errors import OpenError, ProofError
from protocol.shape import octets

SECRET_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class SealChallenge:
    """A secret, sealed to the key *ekid* of the other end."""

    ekid: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class SealProof:
    """The digest of the secret that was sealed to the key *ekid* of the sender."""

    ekid: bytes
    answer: bytes


def make_challenge(
    public: bytes, *, secret: bytes, challenger: bytes, holder: bytes
) -> SealChallenge:
    """Return a challenge to the sealing key *public* of *holder*; *secret* is 32 fresh bytes.

    Raises:
        WeakKeyError: the key cannot be sealed to.
    """
    ekid = suite.ekid(public)
    return SealChallenge(ekid, suite.seal_to(public, secret, _info(challenger, holder, ekid)))


def answer_challenge(
    challenge: SealChallenge, *, challenger: bytes, holder: bytes, unsealer: suite.Unsealer
) -> SealProof:
    """Return the proof that *unsealer* holds the key that was challenged.

    Raises:
        OpenError: it does not hold it, or the challenge is for another holder or challenger.
    """
    ekid = challenge.ekid
    secret = unsealer.unseal(ekid, challenge.sealed, _info(challenger, holder, ekid))
    if len(secret) != SECRET_SIZE:
        raise OpenError("the challenge does not hold a secret")
    return SealProof(ekid, _answer(secret, challenger, holder, ekid))


def check_proof(
    proof: SealProof, *, secret: bytes, challenger: bytes, holder: bytes, ekid: bytes
) -> None:
    """Check that *proof* answers the challenge of *secret* to the key *ekid*.

    Raises:
        ProofError: it does not.
    """
    right = _answer(secret, challenger, holder, ekid)
    if proof.ekid != ekid or not hmac.compare_digest(proof.answer, right):
        raise ProofError("the peer does not have the sealing key that its card lists")


def _info(challenger: bytes, holder: bytes, ekid: bytes) -> bytes:
    return suite.label("possession") + challenger + holder + ekid


def _answer(secret: bytes, challenger: bytes, holder: bytes, ekid: bytes) -> bytes:
    return suite.digest("possession-proof", secret, challenger, holder, ekid)


# --- frames ----------------------------------------------------------------------------------
def read_challenge(fields: list[Value]) -> SealChallenge:
    """Return the challenge that these *fields* of a frame hold.

    Raises:
        DecodeError: a field has the wrong shape.
    """
    return SealChallenge(
        octets(fields[1], "seal_challenge.ekid", size=32),
        octets(fields[2], "seal_challenge.sealed", size=limits.SLOT_SIZE),
    )


def read_proof(fields: list[Value]) -> SealProof:
    """Return the proof that these *fields* of a frame hold.

    Raises:
        DecodeError: a field has the wrong shape.
    """
    return SealProof(
        octets(fields[1], "seal_proof.ekid", size=32),
        octets(fields[2], "seal_proof.answer", size=32),
    )
