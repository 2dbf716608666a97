"""What ``generate`` says of rotations, recoveries, revocations and suspensions: chain.json.

Each function returns inputs by the name of their case, with a code or with what is expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from protocol import limits, suite
from protocol.bodies import identity_value
from protocol.canonical import decode, encode
from protocol.statement import (
    SHOWN,
    Chain,
    Rotation,
    Statement,
    identity_digest,
    make_card,
    make_recover,
    make_revocation,
    make_rotate,
)
from protocol.suspension import make_suspension
from tests.factories import DAY, NETWORK, NOW, card_body, hybrid, inception_of, seed

Json: TypeAlias = dict[str, Any]
_LIVE: Final = hybrid("alder", "identity")
_NEXT: Final = hybrid("alder", "next")
_AFTER: Final = hybrid("alder", "next 2")
_THIEF: Final = hybrid("mallory", "identity")
DIRECTORY: Final = tuple(hybrid(f"directory {number}", "key") for number in range(3))
RANDOMISED: Final = (
    *(f"/given/{name}" for name in (
        "inception", "card", "stolen", "rival", "recover", "renewed", "rotate", "after",
        "suspension",
    )),
    "/cases/*/input/splices",
)  # fmt: skip
"""The revocation has no signature: it is the same each time."""


@dataclass(frozen=True)
class Story:
    """One identity, its owner and a thief of the live key, and what they signed."""

    given: dict[str, bytes]
    chains: dict[str, Chain]


def _card(chain: Chain, signer: suite.LocalHybridSigner, contact: str) -> Statement:
    return make_card(card_body("alder", contact=contact), chain=chain, issued=NOW, signer=signer)


def _body(shown: suite.LocalHybridSigner, following: suite.LocalHybridSigner) -> Rotation:
    return Rotation((shown.public,), 1, (identity_digest(following.public),), 1)


def story() -> Story:
    """Return all statements of the file by name, and the chains that they make."""
    born = Chain.start(inception_of("alder"), network=NETWORK)
    card = born.extend(_card(born, _LIVE, "desk"))
    stolen = card.extend(_card(card, _LIVE, "thief"))
    rival = born.extend(_card(born, _LIVE, "rival"))
    recovered = card.extend(
        make_recover(_body(_NEXT, _AFTER), chain=card, issued=NOW, signers=[_NEXT])
    )
    renewed = recovered.extend(_card(recovered, _NEXT, "new desk"))
    rotated = card.extend(
        make_rotate(_body(_NEXT, _AFTER), chain=card, issued=NOW, old={0: _LIVE}, new=[_NEXT])
    )
    after = rotated.extend(_card(rotated, _NEXT, "after"))
    chains = {
        "inception": born, "card": card, "stolen": stolen, "rival": rival, "recover": recovered,
        "renewed": renewed, "rotate": rotated, "after": after,
    }  # fmt: skip
    given = {name: chain.head.wire for name, chain in chains.items()}
    given["revoke"] = make_revocation(
        network=NETWORK, node_id=born.node_id, code=seed("alder", "revocation")
    ).wire
    given["suspension"] = suspension(born.node_id, DIRECTORY[:2])
    return Story(given, chains)


def suspension(
    node_id: bytes,
    signers: Sequence[suite.LocalHybridSigner],
    *,
    until: int = NOW + 14 * DAY,
    issued: int = NOW,
    network: bytes = NETWORK,
) -> bytes:
    """Return a suspension by *signers*."""
    return make_suspension(
        network=network, node_id=node_id, issued=issued, until=until, reason="keys stolen",
        signers=[(signer.public, signer) for signer in signers],
    )  # fmt: skip


Settled: TypeAlias = tuple[str, list[str], str, list[str], bool]
"""What comes, what is held, the standing, the names of what counts, whether it is revoked."""


def accepted() -> dict[str, Settled]:
    """Return what statements come to."""
    old, new = ["inception", "card"], ["inception", "card", "recover"]
    return {
        "a recovery": ("recover", old, "clear", new, False),
        "a card after a recovery": ("renewed", new, "clear", [*new, "renewed"], False),
        "a rotation": ("rotate", old, "clear", [*old, "rotate"], False),
        "a card after a rotation": (
            "after", [*old, "rotate"], "clear", [*old, "rotate", "after"], False,
        ),
        "a recovery supersedes a thief's card": ("recover", [*old, "stolen"], "clear", new, False),
        "a thief's card after the recovery": ("stolen", new, "clear", new, False),
        "a recovery settles a contradiction": ("recover", [*old, "rival"], "clear", new, False),
        "a contradiction that is settled already": ("rival", new, "clear", new, False),
        "a recovery after a rotation with the same keys": (
            "recover", [*old, "rotate"], "spent", [], False,
        ),
        "a rotation after a recovery with the same keys": ("rotate", new, "spent", [], False),
        "two cards of one number": ("rival", old, "contradicted", [], False),
        "a revocation": ("revoke", old, "clear", old, True),
        "a revocation after a recovery": ("revoke", new, "clear", new, True),
        "a card of a revoked node": ("stolen", [*old, "revoke"], "clear", [*old, "stolen"], True),
    }  # fmt: skip


def _parts(wire: bytes) -> tuple[list[Any], dict[str, Any], list[Any]]:
    outer: Any = decode(wire, max_bytes=limits.MAX_STATEMENT)
    core: Any = decode(outer[0], max_bytes=limits.MAX_HEADER)
    body: Any = decode(outer[1], max_bytes=limits.MAX_STATEMENT)
    return list(core), dict(body), [list(each) for each in outer[2]]


def _wire(core: list[Any], body: dict[str, Any], signatures: list[Any]) -> bytes:
    data = encode(body)
    return encode([encode([*core[:7], suite.digest("statement-body", data)]), data, signatures])


def _changed(wire: bytes, **changes: object) -> bytes:
    core, body, signatures = _parts(wire)
    return _wire(core, body | changes, signatures)


def _placed(wire: bytes, at: int, value: object) -> bytes:
    core, body, signatures = _parts(wire)
    core[at] = value
    return _wire(core, body, signatures)


def _signed(wire: bytes, signatures: list[Any]) -> bytes:
    core, body, _ = _parts(wire)
    return _wire(core, body, signatures)


def _flip(signature: list[Any], half: int) -> list[Any]:
    changed = list(signature)
    changed[half] = changed[half][:9] + bytes([changed[half][9] ^ 1]) + changed[half][10:]
    return changed


def _forged(chain: Chain) -> dict[str, tuple[bytes, str, str]]:
    body = _body(_THIEF, _AFTER)
    forged = make_recover(body, chain=chain, issued=NOW, signers=[_THIEF]).wire
    rotated = make_rotate(body, chain=chain, issued=NOW, old={0: _LIVE}, new=[_THIEF]).wire
    back = make_recover(_body(_NEXT, _LIVE), chain=chain, issued=NOW, signers=[_NEXT]).wire
    alone = make_recover(_body(_NEXT, _AFTER), chain=chain, issued=NOW, signers=[_THIEF]).wire
    return {
        "a recovery with keys that nothing committed to": (forged, "recover", "bad-statement"),
        "a rotation to keys that nothing committed to": (rotated, "rotate", "bad-statement"),
        "a recovery that commits to the old keys": (back, "recover", "weak-key"),
        "a recovery signed by other keys": (alone, "recover", "bad-signature"),
    }


def refused(told: Story) -> dict[str, tuple[bytes, str, str, list[str]]]:
    """Return what is refused: bytes, what they resemble, the code, and what is held."""
    old = ["inception", "card"]
    recover, rotate = told.given["recover"], told.given["rotate"]
    revoke = told.given["revoke"]
    by_old, by_new = _parts(rotate)[2]
    sole = _parts(recover)[2][0]
    small = (1).to_bytes(32, "little")
    found = {
        name: (data, like, code, old)
        for name, (data, like, code) in _forged(told.chains["card"]).items()
    }
    late = _card(told.chains["recover"], _LIVE, "old keys").wire
    identity = make_card(
        card_body("alder", message=_LIVE.public[0]), chain=told.chains["recover"], issued=NOW,
        signer=_NEXT,
    ).wire  # fmt: skip
    other = make_revocation(
        network=NETWORK, node_id=told.chains["card"].node_id, code=seed("any", "code")
    ).wire
    plain = identity_value(_body(_NEXT, _AFTER))
    return found | {
        "a rotation without the old keys": (
            _signed(rotate, [by_new]), "rotate", "bad-statement", old,
        ),
        "a rotation without the new keys": (
            _signed(rotate, [by_old]), "rotate", "bad-statement", old,
        ),
        "a rotation whose old Ed25519 signature is changed": (
            _signed(rotate, [_flip(by_old, 1), by_new]), "rotate", "bad-signature", old,
        ),
        "a rotation whose old ML-DSA signature is changed": (
            _signed(rotate, [_flip(by_old, 2), by_new]), "rotate", "bad-signature", old,
        ),
        "a rotation whose new Ed25519 signature is changed": (
            _signed(rotate, [by_old, _flip(by_new, 1)]), "rotate", "bad-signature", old,
        ),
        "a rotation whose new ML-DSA signature is changed": (
            _signed(rotate, [by_old, _flip(by_new, 2)]), "rotate", "bad-signature", old,
        ),
        "a rotation signed with index 16": (
            _signed(rotate, [by_old, [2 * SHOWN, *by_new[1:]]]), "rotate", "bad-encoding", old,
        ),
        "a recovery signed with index 8": (
            _signed(recover, [[SHOWN, *sole[1:]]]), "recover", "bad-encoding", old,
        ),
        "a recovery without signature": (_signed(recover, []), "recover", "bad-statement", old),
        "a recovery signed by a key that does not exist": (
            _signed(recover, [sole, [1, *sole[1:]]]), "recover", "bad-statement", old,
        ),
        "a recovery passed off as a rotation": (
            _placed(recover, 1, "rotate"), "recover", "bad-statement", old,
        ),
        "a recovery with a revocation code": (
            _changed(recover, revocation=small), "recover", "bad-encoding", old,
        ),
        "a recovery with a key of small order": (
            _changed(recover, keys=[[small, _NEXT.public[1]]]), "recover", "weak-key", old,
        ),
        "a recovery that commits to its own key": (
            _changed(recover, next=[identity_digest(_NEXT.public)]), "recover", "weak-key", old,
        ),
        "a recovery without next keys": (
            _changed(recover, next=[]), "recover", "bad-encoding", old,
        ),
        "a recovery with threshold 2 of one key": (
            _changed(recover, threshold=2), "recover", "bad-encoding", old,
        ),
        "a recovery on what is not held": (recover, "recover", "bad-statement", ["inception"]),
        "a recovery of another network": (
            _placed(recover, 2, suite.network_id("other.example")), "recover", "wrong-network", old,
        ),
        "a recovery without body": (
            encode([encode(_parts(recover)[0]), None, []]), "recover", "bad-encoding", old,
        ),
        "a card of the old keys on a recovery": (
            late, "renewed", "bad-signature", [*old, "recover"],
        ),
        "a card that uses an old identity key": (
            identity, "renewed", "weak-key", [*old, "recover"],
        ),
        "a revocation with another code": (other, "revoke", "bad-statement", old),
        "a revocation with a number": (_placed(revoke, 4, 1), "revoke", "bad-encoding", old),
        "a revocation with a predecessor": (
            _placed(revoke, 5, seed("any", "digest")), "revoke", "bad-encoding", old,
        ),
        "a revocation with a time": (_placed(revoke, 6, NOW), "revoke", "bad-encoding", old),
        "a revocation with a signature": (
            _signed(revoke, [sole]), "revoke", "bad-encoding", old,
        ),
        "a revocation with something more": (
            _changed(revoke, ext={}), "revoke", "bad-encoding", old,
        ),
        "a revocation over the body of a recovery": (
            _wire(_parts(revoke)[0], plain, []), "revoke", "bad-encoding", old,
        ),
    }  # fmt: skip


def suspensions(told: Story) -> dict[str, tuple[bytes, int, str | None]]:
    """Return suspensions: bytes, the time at which they are read, the code if they are refused."""
    node_id, good = told.chains["card"].node_id, told.given["suspension"]
    outer: Any = decode(good, max_bytes=limits.MAX_SUSPENSION)
    core, (one, two) = outer
    return {
        "a suspension by two of three": (good, NOW, None),
        "a suspension that is over": (good, NOW + 14 * DAY, "expired"),
        "a suspension from the future": (good, NOW - 600_001, "expired"),
        "a suspension by one of three": (
            suspension(node_id, DIRECTORY[:1]), NOW, "untrusted-key",
        ),
        "a suspension by a stranger": (
            suspension(node_id, [DIRECTORY[0], _THIEF]), NOW, "untrusted-key",
        ),
        "a suspension of another network": (
            suspension(node_id, DIRECTORY[:2], network=suite.network_id("other.example")), NOW,
            "wrong-network",
        ),
        "a suspension of 14 days and 1 ms": (
            encode([encode([1, NETWORK, node_id, NOW, NOW + 14 * DAY + 1, "x"]), [one, two]]), NOW,
            "bad-statement",
        ),
        "a suspension whose signatures are out of order": (
            encode([core, [two, one]]), NOW, "bad-encoding",
        ),
        "a suspension with a changed Ed25519 signature": (
            encode([core, [_flip(one, 1), two]]), NOW, "bad-signature",
        ),
        "a suspension with a changed ML-DSA signature": (
            encode([core, [one, _flip(two, 2)]]), NOW, "bad-signature",
        ),
        "a suspension of version 2": (
            encode([encode([2, NETWORK, node_id, NOW, NOW + DAY, "x"]), [one]]), NOW,
            "unsupported-version",
        ),
        "a suspension without signatures": (encode([core, []]), NOW, "bad-encoding"),
    }  # fmt: skip
