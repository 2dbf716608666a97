"""Every rule in the words of the modules about keys has a test of the same name, here or beside."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from keys import trust
from protocol import chain, limits, statement, suite, suspension
from protocol.chain import KeyHistory, Standing
from protocol.errors import (
    PeerError,
    SignatureError,
    StatementError,
    UntrustedKeyError,
    WeakKeyError,
)
from protocol.statement import Chain, parse_statement
from protocol.suspension import Directory, parse_suspension, verify_suspension
from tests.factories import DAY, NETWORK, NOW, hybrid, inception_of, seed
from tests.protocol.test_chain import (
    AFTER,
    PAPER,
    THIEF,
    World,
    card,
    recover,
    rotate,
    rotation,
    settle,
)
from tests.protocol.test_suspension import DIRECTORY, KEYS, made

TESTS = Path(__file__).parents[1]
MODULES = (chain, statement, trust, suspension)
_WORDS = 5


def rules(docstring: str) -> list[str]:
    """The bullets of a docstring, each up to its first full stop, colon or semicolon."""
    found = re.findall(r"^- ((?:.|\n(?!- |\n))*)", docstring, re.MULTILINE)
    return [re.split(r"[.:;](?:\s|$)", " ".join(each.split()))[0] for each in found]


def slug(rule: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", rule.lower()).strip("_")


def names_of_tests() -> set[str]:
    paths = [*(TESTS / "protocol").glob("test_*.py"), *(TESTS / "keys").glob("test_*.py")]
    return {
        node.name.removeprefix("test_")
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def is_tested(rule: str, names: set[str]) -> bool:
    """Whether a test is called like *rule*, or like its beginning where that is long."""
    wanted = slug(rule)
    return any(
        name.startswith(wanted)
        or (wanted.startswith(name) and name.count("_") >= min(_WORDS, wanted.count("_")) - 1)
        for name in names
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_rule_has_a_test_of_the_same_name(module: object) -> None:
    names = names_of_tests()
    found = rules(str(module.__doc__))
    assert len(found) >= 3
    assert [rule for rule in found if not is_tested(rule, names)] == []


def test_a_rule_without_a_test_would_be_noticed() -> None:
    assert rules("Doc.\n\n- A rule of two\n  lines: because.\n- Another one.\n\nMore.\n") == [
        "A rule of two lines", "Another one",
    ]  # fmt: skip
    assert not is_tested("Statements may be signed by anybody", names_of_tests())
    assert not is_tested("A node that nobody has heard of is trusted", names_of_tests())


# --- protocol.chain --------------------------------------------------------------------------
@pytest.fixture(scope="module")
def born() -> Chain:
    return Chain.start(inception_of("alder"), network=NETWORK)


@pytest.fixture(scope="module")
def world(born: Chain) -> World:
    return World(born)


def test_the_keys_in_force_sign_cards(world: World) -> None:
    live = hybrid("alder", "identity")
    for on, signer in ((world.one, THIEF), (world.one, PAPER), (world.recovered, live)):
        with pytest.raises(SignatureError):
            KeyHistory(on).take([card(on, signer)])
    assert KeyHistory(world.one).take([world.two.head]).standing is Standing.CLEAR
    both = KeyHistory(world.one).take([world.two.head, world.rival.head])
    assert both.standing is Standing.CONTRADICTED


@pytest.mark.parametrize("settling", [rotate, recover])
def test_a_rotation_or_recovery_settles_that(settling: object, world: World) -> None:
    frozen = KeyHistory(world.one).take([world.two.head, world.rival.head, world.stolen.head])
    assert frozen.standing is Standing.CONTRADICTED
    put = settling(world.two)  # type: ignore[operator]
    settled = frozen.take([put])
    assert settled.standing is Standing.CLEAR
    assert settled.chain.statements == (*world.two.statements, put)
    assert {s.digest for s in settled.aside} == {world.rival.head.digest, world.stolen.head.digest}


def test_a_revocation_ends_everything_whenever_it_comes(world: World) -> None:
    life = [*world.final.statements[1:], world.rival.head, world.stolen.head]
    for at in range(len(life) + 1):
        history = settle(world.born, [*life[:at], world.revoked, *life[at:]])
        assert history.revocation == world.revoked


def test_a_skeleton_says_nothing_by_itself(world: World) -> None:
    bare = parse_statement(world.two.head.skeleton())
    with pytest.raises(UntrustedKeyError):
        KeyHistory(world.one).take([bare])
    stood_on = KeyHistory(world.one).take([bare, world.stolen.head])
    assert [s.n for s in stood_on.chain.statements] == [0, 1, 2, 3]


# --- protocol.statement ----------------------------------------------------------------------
def test_both_algorithms_sign_every_statement(world: World) -> None:
    for whole in (world.two, world.recovered, world.rotated):
        below = Chain(NETWORK, whole.node_id, whole.inception, whole.statements[:-1])
        head = whole.head
        for at in range(len(head.signatures)):
            for half in ("ed25519", "mldsa65"):
                bad = [
                    [s.index, s.ed25519, s.mldsa65] for s in head.signatures
                ]  # fmt: skip
                place = 1 if half == "ed25519" else 2
                bad[at][place] = bytes(len(bad[at][place]))  # type: ignore[arg-type]
                spoilt = parse_statement(_resigned(head.wire, bad))
                with pytest.raises(SignatureError):
                    below.extend(spoilt)


def _resigned(wire: bytes, signatures: list[list[object]]) -> bytes:
    from protocol.canonical import decode, encode

    fields = decode(wire, max_bytes=limits.MAX_STATEMENT)
    assert isinstance(fields, list)
    return encode([fields[0], fields[1], signatures])


def test_a_rotation_or_recovery_shows_keys_whose_digests_the_one_before_it_committed_to(
    world: World,
) -> None:
    for forged in (rotate(world.one, new=THIEF), recover(world.one, new=THIEF)):
        with pytest.raises(StatementError, match="nothing committed to"):
            world.one.extend(forged)
    with pytest.raises((StatementError, WeakKeyError)):
        world.one.extend(rotate(world.one, new=PAPER, following=PAPER))
    # The next ones are those that the last rotation committed to, not those of before.
    with pytest.raises(StatementError):
        world.settled.extend(rotate(world.settled, old=PAPER, new=THIEF, following=AFTER))
    assert rotation(PAPER, AFTER).next_digests != rotation(PAPER, THIEF).next_digests


def test_a_card_that_a_later_signed_statement_replaces_may_shrink_to_its_skeleton(
    world: World,
) -> None:
    bare = parse_statement(world.one.head.skeleton())
    assert bare.digest == world.one.head.digest and len(bare.wire) < 250
    chain_ = Chain.start(world.born.head, network=NETWORK).extend(bare).extend(world.two.head)
    assert chain_.card == world.two.card and chain_.card_at(1) is None
    with pytest.raises(PeerError):
        parse_statement(world.recovered.head.skeleton())


def test_a_parsed_statement_is_unverified(world: World) -> None:
    fields = [[s.index, bytes(64), bytes(3_309)] for s in world.two.head.signatures]
    forged = parse_statement(_resigned(world.two.head.wire, fields))
    assert forged.body == world.two.head.body, "it reads well"
    with pytest.raises(SignatureError):
        world.one.extend(forged)


# --- protocol.suspension ---------------------------------------------------------------------
def test_it_is_no_part_of_the_chain_of_the_node_that_it_is_about() -> None:
    suspended = made(*KEYS[:3])
    with pytest.raises(PeerError):
        parse_statement(suspended.wire)
    # Each receiver decides which keys count: the same bytes are nothing to another directory.
    verify_suspension(suspended, DIRECTORY, network=NETWORK, now=NOW)
    other = Directory(tuple(hybrid(f"other {n}", "key").public for n in range(3)), 1)
    with pytest.raises(UntrustedKeyError):
        verify_suspension(suspended, other, network=NETWORK, now=NOW)


def test_it_only_takes_away_and_ends_by_itself_within_14_days() -> None:
    suspended = made(*KEYS[:3])
    assert suspended.holds(NOW) and not suspended.holds(NOW + 14 * DAY)
    with pytest.raises(StatementError):
        made(*KEYS[:3], until=NOW + 14 * DAY + 1)
    fields = set(parse_suspension(suspended.wire).__dataclass_fields__)
    assert fields.isdisjoint({"keys", "level", "card", "seal"}), "it has no place for a key"


def test_of_several_about_one_node_the_one_that_was_issued_last_counts() -> None:
    early, late = made(*KEYS[:3]), made(*KEYS[:3], issued=NOW + 1, until=NOW + DAY)
    assert late.replaces(early) and not early.replaces(late)
    assert early.replaces(None)
    same = made(*KEYS[:3], reason="another reason")
    assert same.replaces(early) is not early.replaces(same)
    assert same.digest != early.digest and seed("x", "y") != suite.ZERO
