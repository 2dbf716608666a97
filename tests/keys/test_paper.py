"""Codes on paper: how they are split, joined and typed, and which mistake is called what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.fingerprint import format_code
from keys.paper import (
    Part,
    backup_key,
    format_paper_code,
    join_codes,
    make_codes,
    parse_paper_code,
)
from protocol.errors import RequestError

SECRET, PAD = bytes(range(20)), bytes(range(100, 120))
SALT, OTHER = bytes(range(32)), bytes(range(1, 33))
SECRETS = st.binary(min_size=20, max_size=20)


@given(SECRETS, st.one_of(st.none(), SECRETS))
def test_what_is_typed_from_the_sheets_is_the_secret(secret: bytes, pad: bytes | None) -> None:
    codes = make_codes(secret, SALT, pad=pad)
    typed = [parse_paper_code(format_paper_code(code).lower().replace("-", " ")) for code in codes]
    assert join_codes(typed[::-1], SALT, halves=pad is not None) == secret


@given(SECRETS, SECRETS)
def test_a_half_says_nothing_of_the_secret(secret: bytes, pad: bytes) -> None:
    first, second = make_codes(secret, SALT, pad=pad)
    # The first is the pad. Whatever the secret, some pad gives the second.
    assert first.share == pad
    other = bytes(20)
    again = make_codes(
        other, SALT, pad=bytes(a ^ b for a, b in zip(second.share, other, strict=True))
    )
    assert again[1].share == second.share


def test_each_backup_has_a_key_of_its_own() -> None:
    assert backup_key(SECRET, SALT) != backup_key(SECRET, OTHER)


@pytest.mark.parametrize("at", range(56))
def test_a_mistyped_character_is_named_by_its_group(at: int) -> None:
    letters = list(format_paper_code(make_codes(SECRET, SALT)[0]).replace("-", ""))
    letters[at] = "A" if letters[at] != "A" else "B"
    with pytest.raises(RequestError, match="backup code") as caught:
        parse_paper_code("".join(letters))
    assert f"group {at // 7 + 1}" in caught.value.message or f"or {at // 7 + 1}" in (
        caught.value.message
    )


def test_the_recovery_code_is_not_taken_for_one() -> None:
    with pytest.raises(RequestError, match="not the code of a backup") as caught:
        parse_paper_code(format_code(bytes(32)))
    assert "not the recovery sheet" in caught.value.fix


def test_a_sheet_of_another_backup_is_named() -> None:
    first, second = make_codes(SECRET, SALT, pad=PAD)
    stranger = make_codes(SECRET, OTHER, pad=PAD)[1]
    with pytest.raises(RequestError, match=r"sheet 2 of 2\) is of another backup"):
        join_codes([first, stranger], SALT, halves=True)
    with pytest.raises(RequestError, match="sheet 1 of 2"):
        join_codes([first, second], OTHER, halves=True)


def test_a_missing_half_is_named_and_the_same_one_twice_does_not_do() -> None:
    first, second = make_codes(SECRET, SALT, pad=PAD)
    for given_ in ([first], [first, first]):
        with pytest.raises(RequestError, match="needs sheet 2 of 2"):
            join_codes(given_, SALT, halves=True)
    with pytest.raises(RequestError, match="needs sheet 1 of 2"):
        join_codes([second], SALT, halves=True)
    with pytest.raises(RequestError, match="needs the only sheet"):
        join_codes([first, second], SALT, halves=False)


def test_no_code_shows_itself_in_a_representation() -> None:
    (code,) = make_codes(SECRET, SALT)
    assert SECRET.hex() not in repr(code)
    assert repr(SECRET) not in repr(code)
    assert code.part is Part.WHOLE


@pytest.mark.parametrize(("secret", "salt", "pad"), [(b"", SALT, None), (SECRET, b"", None),
                                                      (SECRET, SALT, b"short")])  # fmt: skip
def test_lengths_are_checked(secret: bytes, salt: bytes, pad: bytes | None) -> None:
    with pytest.raises(ValueError, match="bytes"):
        make_codes(secret, salt, pad=pad)
