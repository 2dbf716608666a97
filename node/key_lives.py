"""How long each kind of key lives, and what is to be done about it at a given time; pure.

- ``LIVES`` is the whole policy: one row a purpose.
- What this node renews by itself needs no person as long as it is unlocked; a person is told only
  if that did not come about. What needs a paper from a safe is told 30, 7 and 0 days ahead.
- A key that is only ever replaced because it was lost has no end.
- Since when a key is in use follows from this node's own statements, not from a clock or a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from protocol import suite
from protocol.statement import Card, Chain, HybridKey, Inception, Rotation

DAY_MS: Final = 86_400_000
YEAR_MS: Final = 365 * DAY_MS
SEALING_LIFE_MS: Final = 30 * DAY_MS
MESSAGE_LIFE_MS: Final = YEAR_MS
TLS_LIFE_MS: Final = 90 * DAY_MS
TLS_OVERLAP_MS: Final = 7 * DAY_MS
"""How long a new certificate stands on the card beside the old one, if a peer has not seen it."""
LEARNED_MS: Final = 60_000
"""How long a link has to last for us to say that its other end has our newest card."""
_GRACE_MS: Final = DAY_MS
"""How late this node may be with what it does by itself before a person hears of it."""


class Purpose(StrEnum):
    """What a key is for; none is ever used for another."""

    CARD = "card"
    IDENTITY = "identity"
    MESSAGE = "message"
    SEALING = "sealing"
    TLS = "tls"
    LINK = "link"
    LOG = "log"
    WITNESS = "witness"
    STORAGE = "storage"


class Renewal(StrEnum):
    """Who renews a key."""

    ITSELF = "itself"
    """The node, while it is unlocked."""
    PERSON = "person"
    """A person, with a paper."""
    LOSS = "loss"
    """Nobody, unless it was lost."""


@dataclass(frozen=True, slots=True)
class Life:
    """One row of the policy: how long a kind of key lives, who renews it, and how."""

    ms: int | None
    renewal: Renewal
    itself: str
    """What happens without anybody."""
    person: str
    """What a person has to do; empty if there is nothing."""


_UNLOCKED: Final = "keep the node unlocked"
_LOST: Final = "only if it was lost: picket keys recover"

LIVES: Final[Mapping[Purpose, Life]] = {
    Purpose.CARD: Life(
        YEAR_MS, Renewal.ITSELF, "renewed with every new key, about once a month", _UNLOCKED
    ),
    Purpose.IDENTITY: Life(
        2 * YEAR_MS, Renewal.PERSON, "", "every two years: picket keys rotate-identity"
    ),
    Purpose.MESSAGE: Life(
        MESSAGE_LIFE_MS, Renewal.ITSELF, "renewed once a year; the old one is destroyed", _UNLOCKED
    ),
    Purpose.SEALING: Life(
        SEALING_LIFE_MS,
        Renewal.ITSELF,
        "renewed once a month; old ones are destroyed 90 days after the last use",
        _UNLOCKED,
    ),
    Purpose.TLS: Life(
        TLS_LIFE_MS,
        Renewal.ITSELF,
        "renewed every 90 days; a new one is on the card before it is used",
        _UNLOCKED,
    ),
    Purpose.LINK: Life(None, Renewal.LOSS, "", _LOST),
    Purpose.LOG: Life(None, Renewal.LOSS, "", _LOST),
    Purpose.WITNESS: Life(None, Renewal.LOSS, "", _LOST),
    Purpose.STORAGE: Life(None, Renewal.LOSS, "", _LOST),
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key in use: what for, since when and until when (ms), and whether it can be renewed here.

    ``until`` is None where there is no end; ``rotatable`` is false for one that lies in a token or
    another process, which has to make the next one.
    """

    purpose: Purpose
    since: int
    until: int | None
    rotatable: bool = True


class Stage(IntEnum):
    """How near the end of a key is."""

    FINE = 0
    MONTH = 30
    WEEK = 7
    OVER = -1


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done about a key."""

    key: Key
    stage: Stage
    itself: bool
    """Whether this node does it by itself now."""
    person: bool
    """Whether a person has to be told."""


# --- what is to be done -----------------------------------------------------------------------
def due(keys: Iterable[Key], now: int) -> tuple[Due, ...]:
    """Return what is to be done at *now* about each of *keys* whose end is near or past."""
    found = []
    for key in keys:
        stage = stage_of(key, now)
        if stage is Stage.FINE or key.until is None:
            continue
        by_itself = LIVES[key.purpose].renewal is Renewal.ITSELF and key.rotatable
        late = now >= key.until + _GRACE_MS
        itself = by_itself and now >= key.until
        # Of what goes on by itself a person hears only when it did not.
        person = late if by_itself and key.purpose is not Purpose.CARD else True
        found.append(Due(key, stage, itself, person))
    return tuple(found)


def stage_of(key: Key, now: int) -> Stage:
    """Return how near the end of *key* is at *now*."""
    if key.until is None:
        return Stage.FINE
    left = key.until - now
    if left <= 0:
        return Stage.OVER
    if left <= Stage.WEEK * DAY_MS:
        return Stage.WEEK
    return Stage.MONTH if left <= Stage.MONTH * DAY_MS else Stage.FINE


def rotatable(signer: object) -> bool:
    """Whether the key of *signer* lies in this process, so that this node can make the next one."""
    return isinstance(signer, suite.Ed25519Signer | suite.LocalHybridSigner)


# --- what is in use ---------------------------------------------------------------------------
def keys_of(chain: Chain, card: Card, *, message_rotatable: bool = True) -> tuple[Key, ...]:
    """Return the keys that the own *chain* and its newest *card* put in use."""
    newest = max(key.not_before for key in card.seal)
    issued = max((s.issued for s in chain.statements if s.body == card), default=newest)
    ends = min(card.expires, *(key.not_after for key in card.seal))
    identity = _identity_since(chain)
    begun = chain.statements[0].issued
    return (
        Key(Purpose.CARD, issued, ends),
        _lived(Purpose.IDENTITY, identity),
        _lived(Purpose.MESSAGE, since(chain, lambda c: c.message), rotatable=message_rotatable),
        _lived(Purpose.SEALING, newest),
        _lived(Purpose.TLS, since(chain, lambda c: c.tls[-1])),
        _lived(Purpose.LINK, since(chain, lambda c: c.link)),
        _lived(Purpose.LOG, since(chain, lambda c: c.log)),
        _lived(Purpose.WITNESS, since(chain, lambda c: c.witness)),
        _lived(Purpose.STORAGE, begun),
    )


def _lived(purpose: Purpose, at: int, *, rotatable: bool = True) -> Key:
    life = LIVES[purpose].ms
    return Key(purpose, at, None if life is None else at + life, rotatable)


def since(chain: Chain, what: Callable[[Card], object]) -> int:
    """Return since when (ms) the newest cards of *chain*, without a break, say the same *what*."""
    cards = [(s.issued, s.body) for s in chain.statements if isinstance(s.body, Card)]
    if not cards:
        return chain.head.issued
    now, first = what(cards[-1][1]), cards[-1][0]
    for issued, card in reversed(cards):
        if what(card) != now:
            break
        first = issued
    return first


def _identity_since(chain: Chain) -> int:
    keys: tuple[HybridKey, ...] = chain.identity.keys
    for statement in reversed(chain.statements):
        if isinstance(statement.body, Inception | Rotation) and statement.body.keys == keys:
            return statement.issued
    return chain.statements[0].issued


# --- the certificate of links -----------------------------------------------------------------
class TlsStep(StrEnum):
    """What is next for the certificate of links."""

    WAIT = "wait"
    ANNOUNCE = "announce"
    """Put a new certificate on the card beside the one in use."""
    USE = "use"
    """Use the new one, and leave the old one off the card."""


def tls_step(
    *, since: int, announced: int | None, told: Iterable[int | None], now: int
) -> TlsStep:  # fmt: skip
    """Return what is next for the certificate of links.

    Args:
        since: when the newest certificate came on the card.
        announced: when a second one came on the card beside it; None if there is but one.
        told: for each peer, when it was linked first after that; None if it was not.
        now: UTC in ms.
    """
    if announced is None:
        return TlsStep.ANNOUNCE if now >= since + TLS_LIFE_MS else TlsStep.WAIT
    learned = all(at is not None and now >= at + LEARNED_MS for at in told)
    if learned or now >= announced + TLS_OVERLAP_MS:
        return TlsStep.USE
    return TlsStep.WAIT
