"""Check digits and forms, against an independent library and against what people write."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum import casrn, iban, imo, iso6346, lei
from stdnum.iso7064 import mod_97_10

from protocol import checks
from protocol.checks import (
    awb_is_valid,
    cas_is_valid,
    container_is_valid,
    eori_is_valid,
    fault,
    hs_is_valid,
    iban_is_valid,
    imo_is_valid,
    inchikey_is_valid,
    lei_is_valid,
    locode_is_valid,
    phone_is_e164,
    s10_is_valid,
    subdivision_is_valid,
    vat_is_valid,
)

DIGITS = "0123456789"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def digits(low: int, high: int | None = None) -> st.SearchStrategy[str]:
    return st.text(DIGITS, min_size=low, max_size=high or low)


# --- against python-stdnum -------------------------------------------------------------------
@given(st.builds("{}-{}-{}".format, digits(2, 7), digits(2), digits(1)))
def test_cas_agrees_with_an_independent_library(number: str) -> None:
    # That library also takes numbers that begin with zero.
    assert cas_is_valid(number) == (casrn.is_valid(number) and number[0] != "0")


@given(st.builds("{}{}{}".format, st.text(UPPER, min_size=3, max_size=3),
                 st.sampled_from("UJZ"), digits(7)))  # fmt: skip
def test_container_numbers_agree_with_an_independent_library(number: str) -> None:
    assert container_is_valid(number) == iso6346.is_valid(number)


@given(digits(7))
def test_imo_numbers_agree_with_an_independent_library(number: str) -> None:
    assert imo_is_valid(number) == imo.is_valid(number)


@given(st.text(DIGITS + UPPER, min_size=18, max_size=18), digits(2))
def test_lei_agrees_with_an_independent_library(body: str, check: str) -> None:
    assert lei_is_valid(body + check) == lei.is_valid(body + check)
    right = f"{98 - int(''.join(str(int(c, 36)) for c in body + '00')) % 97:02d}"
    assert lei_is_valid(body + right)
    assert lei.is_valid(body + right)


@given(st.sampled_from(["GB82WEST12345698765432", "DE89370400440532013000",
                        "FR1420041010050500013M02606"]),
       st.integers(2, 21), st.sampled_from(DIGITS + UPPER))  # fmt: skip
def test_iban_agrees_with_an_independent_library(number: str, at: int, new: str) -> None:
    changed = number[:at] + new + number[at + 1 :]
    # Which letters stand where is a rule of each country, and none of ours.
    has_form = re.fullmatch(r"[A-Z]{2}[0-9]{2}[A-Z0-9]+", changed) is not None
    digits_fit = mod_97_10.is_valid(changed[4:] + changed[:4])
    assert iban_is_valid(changed) == (has_form and digits_fit)
    # That library also takes a letter where the two check digits belong.
    assert iban_is_valid(changed) or not (has_form and iban.is_valid(changed))


# --- check digits without an oracle there ----------------------------------------------------
@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        # The worked example of UPU S10, and one printed by a postal operator.
        (s10_is_valid, ["RA473124829US", "RA123456785DE"],
         ["RA473124828US", "RA743124829US", "ra473124829us", "R4473124829US", "RA473124829U", ""]),
        (awb_is_valid, ["020-12345675", "02012345675", "125-00000000"],
         ["020-12345676", "020-1234567", "20-12345675", "020-12345679", "020 12345675", ""]),
        (phone_is_e164, ["+31201234567", "+1234567"],
         ["0031201234567", "31201234567", "+0123456789", "+1234567890123456", "+31 201234567"]),
        (inchikey_is_valid, ["WFDIJRYMOXRFFG-UHFFFAOYSA-N", "KWGRBVOPPLSCSI-WPRPVWTQNA-N"],
         ["WFDIJRYMOXRFFG", "wfdijrymoxrffg-uhfffaoysa-n", "WFDIJRYMOXRFFG-UHFFFAOYSA",
          "WFDIJRYMOXRFF-UHFFFAOYSA-N", "WFDIJRYMOXRFFG-UHFFFAOYQA-N"]),
        (locode_is_valid, ["NLRTM", "CNSHA", "XAABC", "US2LA"],
         ["NLRT1", "ZZRTM", "nlrtm", "NLRTMX", "RTM", ""]),
        (subdivision_is_valid, ["NL-ZH", "US-CA", "GB-1"], ["NLZH", "ZZ-ZH", "NL-ABCD", "NL-", ""]),
        (hs_is_valid, ["291524", "2915240000", "29152400"],
         ["29152", "29152400000", "771524", "001524", "2915.24", ""]),
        (eori_is_valid, ["NL123456789", "XI123456789000", "PL1"],
         ["NL", "ZZ123", "NL1234567890123456", "nl123"]),
        (vat_is_valid, ["NL004495445B01", "XE4471902", "ATU13585627", "123456789"],
         ["NL1", "ABCDEFG", "", "nl004495445b01"]),
    ],
)  # fmt: skip
def test_forms_and_digits(check: Callable[[str], bool], good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not check(text)] == []
    assert [text for text in bad if check(text)] == []


@pytest.mark.parametrize(
    ("check", "before", "after"),
    [(s10_is_valid, "RA47312482", "US"), (awb_is_valid, "0201234567", "")],
)
def test_one_last_digit_at_most_is_right(
    check: Callable[[str], bool], before: str, after: str
) -> None:
    assert len([d for d in DIGITS if check(f"{before}{d}{after}")]) == 1


@given(digits(8))
def test_every_postal_number_has_one_check_digit(serial: str) -> None:
    assert sum(s10_is_valid(f"RA{serial}{d}US") for d in DIGITS) == 1


# --- as people write them --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "text", "wrong"),
    [
        ("container", "CSQU 305438-3", None),
        ("container", "CSQU 305438-4", "check-digit"),
        ("container", "CSQX3054383", "form"),
        ("imo", "IMO 9074729", None),
        ("imo", "IMO9074720", "check-digit"),
        ("imo", "907472", "form"),
        ("phone", "+31 (20) 123-4567", None),
        ("phone", "020 123 4567", "form"),
        ("hs", "2915.24.00", None),
        ("hs", "77.15.24", "form"),
        ("s10", "RA 473 124 829 US", None),
        ("s10", "RA 473 124 828 US", "check-digit"),
        ("awb", "020-1234 5675", None),
        ("lei", "5493001KJTIIGC8Y1R12", None),
        ("lei", "5493001KJTIIGC8Y1R13", "check-digit"),
        ("iban", "GB82 WEST 1234 5698 7654 32", None),
        ("iban", "GB82 WEST 1234 5698 7654 33", "check-digit"),
        ("cas", "108-24-8", "check-digit"),
        ("cas", "108247", "form"),
        ("un", "UN 1715", None),
        ("un", "171", "form"),
        ("email", "desk@alder.example", None),
        ("email", "desk at alder", "form"),
        ("formula", "C4H6O3", None),
        ("formula", "Na2S2O5 . 5H2O", None),
        ("formula", "acid", "form"),
        ("currency", "EUR", None),
    ],
)
def test_a_fault_is_told_as_form_or_check_digit(kind: str, text: str, wrong: str | None) -> None:
    assert fault(kind, text) == wrong


@given(st.sampled_from(sorted(checks.NAMES)), st.text(max_size=40))
def test_no_text_breaks_a_check(kind: str, text: str) -> None:
    assert fault(kind, text) in {None, checks.FORM, checks.CHECK_DIGIT}


def test_each_kind_has_a_name() -> None:
    assert set(checks.NAMES) == set(checks._CHECKS)
