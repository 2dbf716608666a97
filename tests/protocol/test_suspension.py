"""Suspensions by a directory: they take away, for a while, and never add anything."""

from __future__ import annotations

import pytest

from protocol import limits, suite
from protocol.canonical import decode, encode
from protocol.errors import (
    DecodeError,
    ExpiredError,
    LimitError,
    PeerError,
    SignatureError,
    StatementError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.suspension import (
    Directory,
    Suspension,
    make_suspension,
    parse_suspension,
    verify_suspension,
)
from tests.factories import DAY, NETWORK, NOW, hybrid, seed

KEYS = tuple(hybrid(f"directory {number}", "key") for number in range(5))
DIRECTORY = Directory(tuple(signer.public for signer in KEYS), 3)
STRANGER = hybrid("mallory", "directory")


def made(
    *signers: suite.LocalHybridSigner,
    issued: int = NOW,
    until: int = NOW + 14 * DAY,
    **changes: str,
) -> Suspension:
    return parse_suspension(
        make_suspension(
            network=NETWORK, node_id=seed("birch", "id"), issued=issued, until=until,
            reason=changes.get("reason", "keys stolen"),
            signers=[(signer.public, signer) for signer in signers],
        )
    )  # fmt: skip


def check(suspension: Suspension, *, directory: Directory = DIRECTORY, now: int = NOW) -> None:
    verify_suspension(suspension, directory, network=NETWORK, now=now)


def test_a_quorum_of_the_configured_directory_suspends() -> None:
    check(made(*KEYS[:3]))
    check(made(*KEYS))


def test_fewer_than_the_quorum_suspend_nobody() -> None:
    with pytest.raises(UntrustedKeyError, match="2 of"):
        check(made(*KEYS[:2]))


def test_keys_outside_the_directory_count_for_nothing() -> None:
    with pytest.raises(UntrustedKeyError):
        check(made(*KEYS[:2], STRANGER))
    check(made(*KEYS[:3], STRANGER))


def test_it_ends_within_14_days() -> None:
    with pytest.raises(StatementError, match="14 days"):
        made(*KEYS[:3], until=NOW + 14 * DAY + 1)
    with pytest.raises(StatementError):
        made(*KEYS[:3], until=NOW)
    suspension = made(*KEYS[:3])
    check(suspension, now=NOW + 14 * DAY - 1)
    with pytest.raises(ExpiredError):
        check(suspension, now=NOW + 14 * DAY)


def test_it_cannot_be_dated_ahead_to_last_longer() -> None:
    later = made(*KEYS[:3], issued=NOW + 30 * DAY, until=NOW + 44 * DAY)
    with pytest.raises(ExpiredError):
        check(later)


def test_both_algorithms_sign_it() -> None:
    outer = decode(made(*KEYS[:3]).wire, max_bytes=limits.MAX_SUSPENSION)
    assert isinstance(outer, list) and isinstance(outer[1], list)
    for half in (1, 2):
        signatures = [list(each) for each in outer[1]]  # type: ignore[arg-type]
        spoilt = signatures[0][half]
        assert isinstance(spoilt, bytes)
        signatures[0][half] = bytes([spoilt[0] ^ 1]) + spoilt[1:]
        with pytest.raises(SignatureError):
            check(parse_suspension(encode([outer[0], signatures])))


def test_it_counts_in_its_own_network_alone() -> None:
    with pytest.raises(WrongNetworkError):
        verify_suspension(made(*KEYS), DIRECTORY, network=suite.network_id("x"), now=NOW)


def test_the_one_issued_last_counts_whatever_came_first() -> None:
    old, new = made(*KEYS[:3]), made(*KEYS[:3], issued=NOW + 1)
    assert new.replaces(old) and not old.replaces(new) and old.replaces(None)
    one, other = made(*KEYS[:3], reason="a"), made(*KEYS[:3], reason="b")
    assert one.replaces(other) != other.replaces(one)


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, 2, VersionError),
        (1, b"x", DecodeError),
        (2, b"x" * 33, DecodeError),
        (3, -1, DecodeError),
        (4, True, DecodeError),
        (5, "", DecodeError),
        (5, "a\nb", DecodeError),
        (5, "x" * 257, LimitError),
    ],
)
def test_its_fields_have_bounds(at: int, value: object, error: type[PeerError]) -> None:
    outer = decode(made(KEYS[0]).wire, max_bytes=limits.MAX_SUSPENSION)
    assert isinstance(outer, list) and isinstance(outer[0], bytes)
    core = decode(outer[0], max_bytes=limits.MAX_HEADER)
    assert isinstance(core, list)
    changed = list[object](core)
    changed[at] = value
    with pytest.raises(error):
        parse_suspension(encode([encode(changed), outer[1]]))


def test_each_key_signs_once_and_in_order() -> None:
    outer = decode(made(*KEYS[:2]).wire, max_bytes=limits.MAX_SUSPENSION)
    assert isinstance(outer, list) and isinstance(outer[1], list)
    one, two = outer[1]
    for wrong in ([two, one], [one, one]):
        with pytest.raises(DecodeError):
            parse_suspension(encode([outer[0], wrong]))
