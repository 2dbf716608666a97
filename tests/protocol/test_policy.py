"""Witness policies: the published grammar, what it refuses by line, and the one of Picket."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import product

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits
from protocol.errors import OperatorError, PolicyError
from protocol.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    VerifierKey,
    format_vkey,
    key_id,
    parse_vkey,
)
from protocol.policy import (
    Group,
    LogLine,
    Policy,
    WitnessLine,
    format_policy,
    make_policy,
    parse_policy,
)
from protocol.statement import NamedKeys


def seed(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def ed25519(name: str) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed(name)).public_key().public_bytes_raw()


def mldsa44(name: str) -> bytes:
    return MLDSA44PrivateKey.from_seed_bytes(seed(name)).public_key().public_bytes_raw()


def keys(name: str) -> NamedKeys:
    return NamedKeys(name, ed25519(name), mldsa44(name))


def vkey(name: str, type_byte: int = COSIGNATURE_ED25519) -> str:
    made = mldsa44(name) if type_byte == COSIGNATURE_MLDSA44 else ed25519(name)
    return format_vkey(f"{name}.example", type_byte, made)


LOG = f"log {vkey('log', ED25519)}"
WITNESSES = {name: f"witness {name} {vkey(name)}" for name in ("X1", "X2", "X3", "Y1", "Y2", "Y3")}
EXAMPLE = "\n".join(
    [
        LOG, "",
        *(WITNESSES[f"X{n}"] for n in (1, 2, 3)), "group X-witnesses 2 X1 X2 X3", "",
        *(WITNESSES[f"Y{n}"] for n in (1, 2, 3)), "group Y-witnesses any Y1 Y2 Y3", "",
        "group X-and-Y all X-witnesses Y-witnesses", "quorum X-and-Y", "",
    ]
)  # fmt: skip
"""The example of the specification, with keys."""


# --- what the grammar allows -----------------------------------------------------------------
def test_the_example_of_the_specification_is_read() -> None:
    policy = parse_policy(EXAMPLE)
    assert policy.logs == (LogLine(parse_vkey(vkey("log", ED25519))),)
    assert policy.witnesses == {
        name: WitnessLine(name, parse_vkey(vkey(name))) for name in WITNESSES
    }
    assert policy.groups == {
        "X-witnesses": Group("X-witnesses", 2, ("X1", "X2", "X3")),
        "Y-witnesses": Group("Y-witnesses", 1, ("Y1", "Y2", "Y3")),
        "X-and-Y": Group("X-and-Y", 2, ("X-witnesses", "Y-witnesses")),
    }
    assert policy.quorum == "X-and-Y"


def test_the_example_is_met_by_two_of_the_first_and_one_of_the_second() -> None:
    policy = parse_policy(EXAMPLE)
    for chosen in product((False, True), repeat=6):
        names = frozenset(n for n, there in zip(WITNESSES, chosen, strict=True) if there)
        met = sum(n[0] == "X" for n in names) >= 2 and any(n[0] == "Y" for n in names)
        assert policy.satisfied(names) == met, names
        assert bool(policy.missing(names)) != met, names


def test_comments_blank_lines_tabs_and_white_space_do_not_matter() -> None:
    loose = EXAMPLE.replace(" ", "\t ").replace("\n", " \t\n")
    loose = f"# a comment\n  \t\n\t# another, with tab\tand # in it\n{loose}\n#\n# no more\n"
    assert parse_policy(loose) == parse_policy(EXAMPLE)
    assert parse_policy(loose.encode()) == parse_policy(EXAMPLE)


def test_urls_are_kept_and_lines_may_follow_the_quorum() -> None:
    text = f"{WITNESSES['X1']} https://x.example/w\nquorum X1\n{LOG} https://log.example\n"
    policy = parse_policy(text)
    assert policy.witnesses["X1"].url == "https://x.example/w"
    assert policy.logs[0].url == "https://log.example"
    assert parse_policy(format_policy(policy)) == policy


def test_a_policy_may_name_no_log_and_no_witness() -> None:
    assert parse_policy("quorum none\n") == Policy((), {}, {}, None)
    assert parse_policy("quorum none\n").satisfied(())
    assert parse_policy("quorum none\n").missing(()) == ()
    assert parse_policy("quorum none\n").cosigners(()) == ()


def test_a_witness_can_be_the_quorum() -> None:
    policy = parse_policy(f"{WITNESSES['X1']}\n{WITNESSES['X2']}\nquorum X1\n")
    assert policy.satisfied({"X1"}) and not policy.satisfied({"X2"})
    assert policy.missing({"X2"}) == ("X1",)
    assert policy.cosigners({"X1", "X2"}) == ("X1",)


def test_both_kinds_of_key_make_a_log_or_a_witness() -> None:
    lines = [
        f"log {vkey('a', ED25519)}", f"log {vkey('b', COSIGNATURE_MLDSA44)}",
        f"witness c {vkey('c')}", f"witness d {vkey('d', COSIGNATURE_MLDSA44)}", "quorum none\n",
    ]  # fmt: skip
    policy = parse_policy("\n".join(lines))
    assert [log.key.type for log in policy.logs] == [1, 6]
    assert [line.key.type for line in policy.witnesses.values()] == [4, 6]


def test_names_are_compared_as_they_stand() -> None:
    """A Kelvin sign is no K, and a letter with an accent in one code point is not one in two."""
    others = {"K": "K", "\u212a": "X1", "\u00e9": "X2", "e\u0301": "X3"}
    lines = [f"witness {name} {vkey(key)}\n" for name, key in others.items()]
    policy = parse_policy("".join([*lines, f"group all all {' '.join(others)}\nquorum all\n"]))
    assert list(policy.witnesses) == list(others)
    assert policy.missing({"K"}) == ("\u212a", "\u00e9", "e\u0301")


def test_32_logs_witnesses_and_groups_are_accepted() -> None:
    lines = [f"log {vkey(f'log{n}', ED25519)}" for n in range(32)]
    lines += [f"witness w{n} {vkey(f'w{n}')}" for n in range(32)]
    lines += [f"group g{n} any w{n}" + (f" g{n - 1}" if n else "") for n in range(32)]
    policy = parse_policy("\n".join([*lines, "quorum g31", ""]))
    assert policy.satisfied({"w0"}) and not policy.satisfied({"w"})


# --- what it refuses, by line ----------------------------------------------------------------
X1, X2, X3 = (WITNESSES[name] for name in ("X1", "X2", "X3"))
BOTH = f"{X1}\n{X2}\n"
SMALL_ORDER = format_vkey("w.example", COSIGNATURE_ED25519, b"\1" + bytes(31))
REFUSED: dict[str, tuple[str | bytes, int, str]] = {
    "no newline at the end": (f"{LOG}\nquorum none", 2, "does not end in a newline"),
    "white space at the end": ("quorum none\n ", 2, "does not end in a newline"),
    "Windows line ends": (f"{LOG}\r\nquorum none\r\n", 1, "control character"),
    "a vertical tab": ("quorum\x0bnone\n", 1, "control character"),
    "a form feed": (f"{LOG}\n\x0c\nquorum none\n", 2, "control character"),
    "a zero byte": ("# \0\nquorum none\n", 1, "control character"),
    "a delete character in a comment": ("quorum none\n# \x7f\n", 2, "control character"),
    "half of a pair": ("quorum none\n# \ud800\n", 2, "control character"),
    "bytes that are not UTF-8": (b"quorum none\n# \xff\n", 2, "not UTF-8"),
    "a byte order mark": ("\ufeffquorum none\n", 1, "no keyword"),
    "an unknown keyword": (f"{LOG}\nmirror m {vkey('X1')}\n", 2, "'mirror', which is no keyword"),
    "a keyword in capitals": ("Quorum none\n", 1, "no keyword"),
    "a no-break space": (f"{X1}\nquorum\u00a0X1\n", 2, "no keyword"),
    "a comment behind a line": (f"{LOG} # ours\nquorum none\n", 1, "line of its own"),
    "a comment in a group": (f"{BOTH}group G 1 X1 #X2\nquorum G\n", 3, "line of its own"),
    "a name with a hash": (f"witness a#b {vkey('X1')}\nquorum none\n", 1, "line of its own"),
    "a log without key": ("log\nquorum none\n", 1, "too few or too many"),
    "a log with two addresses": (f"{LOG} a b\nquorum none\n", 1, "too few or too many"),
    "a witness without key": ("witness X1\nquorum none\n", 1, "too few or too many"),
    "a witness with two addresses": (f"{X1} a b\nquorum none\n", 1, "too few or too many"),
    "a group without members": (f"{X1}\ngroup G 1\nquorum G\n", 2, "too few or too many"),
    "a quorum of two": (f"{BOTH}quorum X1 X2\n", 3, "too few or too many"),
    "a quorum of nothing": (f"{X1}\nquorum\n", 2, "too few or too many"),
    "a second quorum": (f"{X1}\nquorum X1\nquorum X1\n", 3, "second quorum"),
    "a second quorum of none": ("quorum none\nquorum none\n", 2, "second quorum"),
    "a quorum defined below": (f"quorum X1\n{X1}\n", 1, "no line above defines"),
    "a quorum that is a log": (f"{LOG}\nquorum log.example\n", 2, "no line above defines"),
    "a member defined below": (f"group G any X1\n{X1}\nquorum G\n", 1, "no line above defines"),
    "a group in itself": (f"{X1}\ngroup G any X1 G\nquorum G\n", 2, "no line above defines"),
    "none as a member": (f"{X1}\ngroup G any X1 none\nquorum G\n", 2, "no line above defines"),
    "a member twice": (f"{X1}\ngroup G 2 X1 X1\nquorum G\n", 2, "in a group already"),
    "a member of two groups": (
        f"{BOTH}group G any X1\ngroup H any X1 X2\nquorum H\n", 4, "in a group already",
    ),
    "a group in two groups": (
        f"{BOTH}group G any X1\ngroup H any G\ngroup I any G X2\nquorum I\n", 5, "in a group",
    ),
    "a name twice": (f"{X1}\nwitness X1 {vkey('X2')}\nquorum X1\n", 2, "defines X1 again"),
    "a group called like a witness": (
        f"{BOTH}group X1 any X2\nquorum X1\n", 3, "defines X1 again",
    ),
    "a group twice": (f"{BOTH}group G any X1\ngroup G any X2\nquorum G\n", 4, "defines G again"),
    "a witness called none": (f"witness none {vkey('X1')}\nquorum none\n", 1, "reserved"),
    "a group called none": (f"{X1}\ngroup none any X1\nquorum none\n", 2, "reserved"),
    "a name of 257 letters": (f"witness {'x' * 257} {vkey('X1')}\nquorum none\n", 1, "256"),
    "a key twice": (f"{X1}\nwitness X2 {vkey('X1')}\nquorum X1\n", 2, "repeats the key"),
    "a key under another name": (
        f"{X1}\nwitness X2 {format_vkey('other', 4, ed25519('X1'))}\nquorum X1\n", 2, "repeats",
    ),
    "a log twice": (f"{LOG}\n{LOG}\nquorum none\n", 2, "repeats the key of log.example"),
    "a log under another name": (
        f"{LOG}\nlog {format_vkey('other', 1, ed25519('log'))}\nquorum none\n", 2, "repeats",
    ),
    "a log with a witness's key": (f"log {vkey('X1')}\nquorum none\n", 1, "no log key"),
    "a witness with a log's key": (
        f"witness w {vkey('X1', ED25519)}\nquorum none\n", 1, "type 0x01, which is no witness key",
    ),
    "a key of an unknown type": (
        f"witness w {format_vkey('w', 0xFF, bytes(32))}\nquorum none\n", 1, "type 0xff",
    ),
    "a key of small order": (f"witness w {SMALL_ORDER}\nquorum none\n", 1, "small order"),
    "an Ed25519 key of 33 bytes": (
        f"witness w {format_vkey('w', 4, bytes(33))}\nquorum none\n", 1, "32-byte",
    ),
    "an ML-DSA-44 key of 1311 bytes": (
        f"witness w {format_vkey('w', 6, bytes(1_311))}\nquorum none\n", 1, "not an ML-DSA-44",
    ),
    "a key name of 256 bytes": (
        f"witness w {format_vkey('w' * 256, 4, ed25519('X1'))}\nquorum none\n", 1, "255 bytes",
    ),
    "a key with a wrong id": (
        f"witness w {vkey('X1').replace('+', '+0', 1)}\nquorum none\n", 1, "key's id",
    ),
    "a key with its id in capitals": (
        f"witness w w+{key_id('w', 4, ed25519('X1')).hex().upper()}+"
        f"{format_vkey('w', 4, ed25519('X1')).split('+', 2)[2]}\nquorum none\n", 1, "key's id",
    ),
    "a key with a damaged end": (f"{X1[:-1]}*\nquorum none\n", 1, "not base64"),
    "a key without its id": ("witness w w.example\nquorum none\n", 1, "too short"),
    "a raw key in hex": (f"witness w {ed25519('X1').hex()}\nquorum none\n", 1, "too short"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_the_grammar_is_refused_with_its_line(name: str) -> None:
    text, line, why = REFUSED[name]
    with pytest.raises(PolicyError, match=f"^line {line} of the policy .*{why}"):
        parse_policy(text)


@pytest.mark.parametrize(
    "k",
    ["0", "3", "00", "01", "1.0", "+1", "-1", "1_0", "\u0661", "\uff11", "ALL", "both", "9" * 9],
)
def test_a_threshold_that_is_not_between_one_and_all_is_refused(k: str) -> None:
    with pytest.raises(PolicyError, match=r"^line 3 of the policy needs all, any or a number"):
        parse_policy(f"{BOTH}group G {k} X1 X2\nquorum G\n")


@pytest.mark.parametrize(("k", "wanted"), [("1", 1), ("2", 2), ("any", 1), ("all", 2)])
def test_thresholds_up_to_all_are_read(k: str, wanted: int) -> None:
    policy = parse_policy(f"{BOTH}group G {k} X1 X2\nquorum G\n")
    assert policy.groups["G"].k == wanted


@pytest.mark.parametrize("text", ["", "\n", "# quorum none\n", f"{LOG}\n{X1}\n"])
def test_a_policy_without_quorum_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="no quorum line") as caught:
        parse_policy(text)
    assert caught.value.fix and isinstance(caught.value, OperatorError)


def test_long_lines_and_many_lines_are_refused() -> None:
    most = limits.MAX_POLICY_LINE
    parse_policy(f"#{'x' * (most - 1)}\nquorum none\n")
    with pytest.raises(PolicyError, match=f"^line 1 of the policy is longer than {most} bytes"):
        parse_policy(f"#{'x' * most}\nquorum none\n")
    with pytest.raises(PolicyError, match=r"^line 2 of the policy is longer"):
        parse_policy("quorum none\n#" + "\u00e9" * (most // 2) + "\n")
    parse_policy("\n" * (limits.MAX_POLICY_LINES - 1) + "quorum none\n")
    with pytest.raises(PolicyError, match=f"^line {limits.MAX_POLICY_LINES + 1} of the policy"):
        parse_policy("\n" * limits.MAX_POLICY_LINES + "quorum none\n")
    with pytest.raises(PolicyError, match="longer than"):
        parse_policy("#" * (limits.MAX_POLICY + 1))


COLLISION = (9_274, 98_500)
"""Of keys with counted seeds the first two that have one id under the name w.example."""


def test_two_keys_of_one_name_and_id_are_refused() -> None:
    """Key ids have four bytes, so a witness could choose a key that spoils another's signatures."""
    one, other = (ed25519(f"collision {number}") for number in COLLISION)
    assert one != other and key_id("w.example", 4, one) == key_id("w.example", 4, other)
    lines = [
        f"witness {name} {format_vkey('w.example', 4, key)}"
        for name, key in (("A", one), ("B", other))
    ]
    with pytest.raises(PolicyError, match=r"^line 2 of the policy .*key id of another line"):
        parse_policy("\n".join([*lines, "quorum A", ""]))


def test_groups_nested_as_deep_as_a_file_is_long_are_judged() -> None:
    depth = limits.MAX_POLICY_LINES - 2
    lines = [X1, "group G0 any X1", *(f"group G{n} all G{n - 1}" for n in range(1, depth - 1))]
    policy = parse_policy("\n".join([*lines, f"quorum G{depth - 2}", ""]))
    assert policy.satisfied({"X1"}) and not policy.satisfied(())
    assert policy.missing(()) == (f"G{depth - 3}",)
    assert policy.cosigners({"X1"}) == (f"G{depth - 3}",)


# --- writing ---------------------------------------------------------------------------------
def test_a_policy_comes_back_from_its_plainest_form() -> None:
    policy = parse_policy(EXAMPLE)
    text = format_policy(policy)
    assert parse_policy(text) == policy
    assert format_policy(parse_policy(text)) == text
    assert text.splitlines()[-4:] == [
        "group X-witnesses 2 X1 X2 X3", "group Y-witnesses any Y1 Y2 Y3",
        "group X-and-Y all X-witnesses Y-witnesses", "quorum X-and-Y",
    ]  # fmt: skip


names = st.text("abN\u00e9-./#", min_size=1, max_size=4)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.text(max_size=6) | names, st.sampled_from("PQRSTUV")), max_size=5,
                unique_by=lambda pair: pair[1]), st.data())  # fmt: skip
def test_whatever_its_labels_a_policy_made_is_read_back(
    given_names: list[tuple[str, str]], data: st.DataObject
) -> None:
    k = data.draw(st.integers(0, len(given_names)))
    made = make_policy(keys("log"), [(label, KEYS[name]) for label, name in given_names], k)
    assert parse_policy(format_policy(made).encode()) == made
    assert len(made.witnesses) == 2 * len(given_names)


KEYS = {name: keys(name) for name in "PQRSTUV"}


# --- the policy of Picket --------------------------------------------------------------------
def test_a_witness_of_picket_is_two_lines_and_a_group() -> None:
    made = make_policy(keys("log"), [("NL", keys("nl/w")), ("DE", keys("de/w"))], 1)
    lines = [f"log {format_vkey('log', 1, ed25519('log'))}"]
    for label, name in (("NL", "nl/w"), ("DE", "de/w")):
        lines += [
            f"witness {label}.ed {format_vkey(name, 4, ed25519(name))}",
            f"witness {label}.mldsa {format_vkey(name, 6, mldsa44(name))}",
        ]
    lines += ["group NL all NL.ed NL.mldsa", "group DE all DE.ed DE.mldsa"]
    assert format_policy(made) == "\n".join([*lines, "group witnesses any NL DE",
                                             "quorum witnesses", ""])  # fmt: skip


def test_it_is_met_by_k_witnesses_with_both_of_their_keys() -> None:
    made = make_policy(keys("log"), [(name, KEYS[name]) for name in "PQR"], 2)
    assert made.satisfied({"P.ed", "P.mldsa", "R.ed", "R.mldsa"})
    half = {"P.ed", "P.mldsa", "Q.ed", "R.mldsa"}
    assert not made.satisfied(half)
    assert made.missing(half) == ("Q.mldsa", "R.ed")
    assert made.cosigners(half) == ("P", "Q.ed", "R.mldsa")
    assert made.missing({"P.ed", "P.mldsa"}) == ("Q", "R")
    assert made.missing(()) == ("P", "Q", "R")
    assert made.cosigners(made.witnesses) == ("P", "Q", "R")
    assert made.cosigners({"P", "witnesses", "nobody"}) == ()


def test_a_quorum_of_none_needs_nobody() -> None:
    made = make_policy(keys("log"), [("P", KEYS["P"])], 0)
    assert made.quorum is None and made.satisfied(())
    assert format_policy(made).endswith("group P all P.ed P.mldsa\nquorum none\n")
    assert make_policy(keys("log"), [], 0).witnesses == {}


def test_a_witness_from_outside_may_have_one_key() -> None:
    outside = NamedKeys("w.example", ed25519("w"), b"")
    made = make_policy(keys("log"), [("W", outside), ("P", KEYS["P"])], 2)
    assert list(made.witnesses) == ["W", "P.ed", "P.mldsa"]
    assert made.groups["witnesses"].members == ("W", "P")
    assert made.satisfied(made.witnesses)
    assert parse_policy(format_policy(made)) == made


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (["a b", "a-b", "a+b"], ["a-b", "a-b-2", "a-b-3"]),
        (["A", "A.ed", "A.mldsa"], ["A", "A.ed-2", "A.mldsa-2"]),
        (["A.ed", "A"], ["A.ed", "A-2"]),
        (["none", "", "#x"], ["none-2", "witness", "-x"]),
        (["witnesses", "all", "\u00c9tat"], ["witnesses", "all", "\u00c9tat"]),
        (["x\n\u2028y", "\u00a0", "\u200b"], ["x--y", "-", "--2"]),
        (["y" * 80, "y" * 90], ["y" * 64, "y" * 64 + "-2"]),
    ],
)
def test_labels_become_names_that_differ(labels: list[str], wanted: list[str]) -> None:
    made = make_policy(
        keys("log"), [(label, KEYS[n]) for label, n in zip(labels, "PQR", strict=False)], 1
    )
    assert list(made.groups)[:-1] == wanted
    assert parse_policy(format_policy(made)) == made


@pytest.mark.parametrize("k", [-1, 3])
def test_a_quorum_larger_than_the_witnesses_is_refused(k: int) -> None:
    with pytest.raises(PolicyError, match=f"{k} of 2 witnesses"):
        make_policy(keys("log"), [("P", KEYS["P"]), ("Q", KEYS["Q"])], k)


def test_a_witness_that_cannot_be_used_is_named() -> None:
    pair = [("P", KEYS["P"]), ("Q", replace(KEYS["Q"], ed25519=KEYS["P"].ed25519))]
    with pytest.raises(PolicyError, match=r"^the witness Q repeats the key of P"):
        make_policy(keys("log"), pair, 1)
    for name in ("a b", "", "a+b", "\u00e9" * 128, "a#b"):
        with pytest.raises(PolicyError, match=r"^the witness P "):
            make_policy(keys("log"), [("P", replace(KEYS["P"], name=name))], 1)
    with pytest.raises(PolicyError, match=r"^the log "):
        make_policy(replace(keys("log"), name="a b"), [], 0)


def test_the_lists_hold_verifier_keys() -> None:
    made = make_policy(keys("log"), [("P", KEYS["P"])], 1)
    line = made.witnesses["P.mldsa"]
    assert line.key == VerifierKey(
        "P", key_id("P", COSIGNATURE_MLDSA44, KEYS["P"].mldsa44), 0x06, KEYS["P"].mldsa44
    )
