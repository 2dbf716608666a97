"""What people compare: the text of a node id, and the safety number of two nodes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.fingerprint import (
    format_code,
    format_node_id,
    parse_code,
    parse_node_id,
    parse_safety_number,
    safety_number,
    verify_safety_number,
)
from protocol import suite
from protocol.errors import DecodeError, TrustConflictError
from tests.factories import NETWORK, seed

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
A, B = seed("alder", "id"), seed("birch", "id")
CODE = st.binary(min_size=32, max_size=32)


def check_character(block: str) -> str:
    """Luhn mod 32 in the words of the module docstring, with its tables written out."""
    doubled = [*range(0, 32, 2), *range(1, 32, 2)]
    values = [ALPHABET.index(letter) for letter in block]
    total = sum(v if place % 2 else doubled[v] for place, v in enumerate(values))
    return ALPHABET[(32 - total % 32) % 32]


# --- the text form ---------------------------------------------------------------------------
@settings(deadline=None)
@given(CODE)
def test_the_text_form_comes_back(code: bytes) -> None:
    assert parse_code(format_code(code)) == code
    assert parse_node_id(format_node_id(code)) == code


@settings(deadline=None)
@given(CODE)
def test_the_text_form_is_base32_with_a_check_character_after_each_13(code: bytes) -> None:
    groups = format_code(code).split("-")
    assert [len(group) for group in groups] == [7] * 8
    letters = "".join(groups)
    blocks = [letters[at : at + 14] for at in range(0, 56, 14)]
    assert base64.b32decode("".join(block[:13] for block in blocks) + "====") == code
    assert [block[13] for block in blocks] == [check_character(block[:13]) for block in blocks]


def test_the_text_of_a_known_code_never_changes() -> None:
    zero = "AAAAAAA-AAAAAAA"
    assert format_code(bytes(32)) == "-".join([zero] * 4)
    assert parse_code("-".join([zero] * 4)) == bytes(32)


@settings(deadline=None)
@given(CODE, st.data())
def test_case_spaces_and_dashes_do_not_matter(code: bytes, data: st.DataObject) -> None:
    text = format_code(code)
    spaced = "".join(
        data.draw(st.sampled_from(["", " ", "-", "\n"]))
        + data.draw(st.sampled_from([c, c.lower()]))
        for c in text.replace("-", "")
    )
    assert parse_code(f" {spaced}\n") == code


@pytest.mark.parametrize(("typed", "meant"), [("0", "O"), ("1", "I"), ("8", "B")])
def test_a_digit_that_looks_like_a_letter_is_read_as_that_letter(typed: str, meant: str) -> None:
    text = next(
        text for n in range(1_000) if meant in (text := format_code(seed(str(n), meant)))[:40]
    )
    assert parse_code(text.replace(meant, typed)) == parse_code(text)


# --- mistakes --------------------------------------------------------------------------------
def test_every_single_wrong_character_is_caught_and_its_groups_named() -> None:
    text = format_code(A)
    letters = text.replace("-", "")
    for at, right in enumerate(letters):
        first = at // 14 * 2 + 1
        for wrong in set(ALPHABET) - {right}:
            with pytest.raises(DecodeError) as caught:
                parse_code(letters[:at] + wrong + letters[at + 1 :])
            assert f"group {first} or {first + 1}" in caught.value.message
            assert caught.value.fix


@settings(deadline=None)
@given(CODE, st.integers(0, 55), st.sampled_from(ALPHABET))
def test_a_wrong_character_in_any_code_is_caught(code: bytes, at: int, letter: str) -> None:
    letters = format_code(code).replace("-", "")
    if letters[at] == letter:
        assert parse_code(letters) == code
        return
    with pytest.raises(DecodeError):
        parse_code(letters[:at] + letter + letters[at + 1 :])


def test_two_neighbours_exchanged_are_caught() -> None:
    """All but A with 7, which Luhn misses."""
    letters = format_code(A).replace("-", "")
    for at in range(55):
        pair = letters[at : at + 2]
        if pair[0] == pair[1] or set(pair) == {"A", "7"}:
            continue
        with pytest.raises(DecodeError):
            parse_code(letters[:at] + pair[::-1] + letters[at + 2 :])


@pytest.mark.parametrize("letter", ["9", "*", "É", "\u0391", "_", "\t"])
def test_a_character_that_never_occurs_is_named_with_its_group(letter: str) -> None:
    text = format_code(A)
    with pytest.raises(DecodeError) as caught:
        parse_code(text[:16] + letter + text[17:])
    assert "group 3" in caught.value.message and repr(letter) in caught.value.message


@pytest.mark.parametrize("length", [0, 1, 7, 49, 55, 57, 63, 112])
def test_a_code_too_short_or_too_long_is_refused_with_both_counts(length: int) -> None:
    letters = (format_code(A) * 2).replace("-", "")[:length]
    with pytest.raises(DecodeError) as caught:
        parse_code(letters)
    assert f"{length} characters instead of 56" in caught.value.message and caught.value.fix


def test_the_last_letter_has_one_form_only() -> None:
    """It carries one bit; base32 would ignore the other four."""
    letters = format_code(A).replace("-", "")
    value = ALPHABET.index(letters[54])
    assert value in {0, 16}
    for stray in range(1, 16):
        block = letters[42:54] + ALPHABET[value + stray]
        with pytest.raises(DecodeError, match="last group"):
            parse_code(letters[:42] + block + check_character(block))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_only_32_bytes_have_a_text_form(size: int) -> None:
    with pytest.raises(ValueError, match="32"):
        format_code(bytes(size))


# --- safety numbers --------------------------------------------------------------------------
def test_a_safety_number_is_12_groups_of_5_digits() -> None:
    groups = safety_number(A, B, network=NETWORK).split(" ")
    assert len(groups) == 12
    assert all(len(group) == 5 and group.isascii() and group.isdigit() for group in groups)


@settings(max_examples=15, deadline=None)
@given(CODE, CODE)
def test_both_sides_see_the_same_safety_number(a: bytes, b: bytes) -> None:
    number = safety_number(a, b, network=NETWORK)
    assert number == safety_number(b, a, network=NETWORK)
    assert len(parse_safety_number(number)) == 60


def test_another_node_or_network_gives_another_number_on_its_own_side_only() -> None:
    other = bytes([A[0] ^ 1]) + A[1:]
    mine, theirs = (
        {number[:35], number[36:]}
        for number in (
            safety_number(A, B, network=NETWORK),
            safety_number(other, B, network=NETWORK),
        )
    )
    assert len(mine & theirs) == 1
    elsewhere = safety_number(A, B, network=suite.network_id("elsewhere"))
    assert mine.isdisjoint({elsewhere[:35], elsewhere[36:]})


def test_a_safety_number_is_accepted_however_it_is_laid_out() -> None:
    number = safety_number(A, B, network=NETWORK)
    digits = number.replace(" ", "")
    for text in (
        number,
        digits,
        number.replace(" ", "-"),
        number.replace(" ", "\n"),
        f" {number} ",
    ):
        assert parse_safety_number(text) == digits
        verify_safety_number(text, B, A, network=NETWORK)


@pytest.mark.parametrize("group", range(12))
def test_a_wrong_safety_number_is_refused_at_its_first_wrong_group(group: int) -> None:
    groups = safety_number(A, B, network=NETWORK).split(" ")
    for at in {group, 11}:
        groups[at] = f"{(int(groups[at]) + 1) % 100_000:05d}"
    with pytest.raises(TrustConflictError) as caught:
        verify_safety_number(" ".join(groups), A, B, network=NETWORK)
    assert f"group {group + 1} of 12" in caught.value.message
    assert "do not approve" in caught.value.fix


def test_a_refusal_does_not_say_what_the_number_should_be() -> None:
    number = safety_number(A, B, network=NETWORK)
    with pytest.raises(TrustConflictError) as caught:
        verify_safety_number("0" * 60, A, B, network=NETWORK)
    assert [group for group in number.split() if group in caught.value.diagnostics()] == []


@pytest.mark.parametrize(
    "text",
    ["", "0" * 59, "0" * 61, *("0" * 59 + last for last in "x\u0660\u00b2"), "+" + "0" * 59],
)
def test_what_is_not_60_digits_is_no_safety_number(text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        verify_safety_number(text, A, B, network=NETWORK)
    assert "60 digits" in caught.value.message and caught.value.fix
