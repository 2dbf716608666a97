"""What ties two incidents together, what does not, and how names are matched across scripts."""

# ruff: noqa: E501, RUF001  several scripts stand here on purpose
from __future__ import annotations

from typing import Any

import pytest

from node.company import ALIKE, likeness, take_apart
from node.identifiers import (
    normal_email,
    normal_handle,
    normal_phone,
    normal_url,
    profile,
    same_phone,
)
from node.linking import compare

Row = dict[str, Any]
DAY = "2026-03-04T08:20:00Z"


def reasons(one: Row, other: Row, *, days: tuple[str, str] = (DAY, DAY)) -> dict[str, str]:
    first, second = (
        profile({"detected_at": day}, annex) for day, annex in zip(days, (one, other), strict=True)
    )
    found = compare(first, second)
    assert {reason.kind for reason in compare(second, first)} == {reason.kind for reason in found}
    return {reason.kind: reason.basis for reason in found}


def batch(number: str, maker: str | None = None) -> Row:
    return {"origins": [{"substance": 1, "batch_no": number}
                        | ({"manufacturer": maker} if maker else {})]}  # fmt: skip


def contact(kind: str, value: str) -> Row:
    return {"parties": [{"role": "buyer", "kind": "person", "name": "X",
                         "contacts": [{"kind": kind, "value": value}]}]}  # fmt: skip


def firm(name: str, country: str | None = "CN") -> Row:
    return {"parties": [{"role": "buyer", "kind": "org", "name": name}
                        | ({"country": country} if country else {})]}  # fmt: skip


# --- batches, containers, documents --------------------------------------------------------------
def test_one_batch_is_a_link_and_says_why() -> None:
    found = reasons(batch("B2026-0917-33"), batch("b2026 0917 33"))
    assert found == {"same_batch": "same batch B2026-0917-33 / b2026 0917 33"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (batch("B2026-0917-33"), batch("B2026-0917-38")),
        (batch("B2026-0917-33", "Karst Chemical Works"), batch("B2026-0917-33", "Ostrel Synthesis")),
        (batch("001"), batch("001")),
        (batch("LOT 1", "Karst"), batch("LOT 1", "Karst")),
        (batch("20260115"), batch("20260115")),
        ({"documents": [{"number": "INV-014"}]}, {"documents": [{"number": "INV-014"}]}),
        ({"containers": [{"no": "CSQU3054383"}]}, {"containers": [{"no": "CSQU3054384"}]}),
    ],
)  # fmt: skip
def test_what_is_near_or_usual_is_no_link(one: Row, other: Row) -> None:
    assert reasons(one, other) == {}


def test_a_batch_named_by_its_day_counts_with_its_maker() -> None:
    karst = batch("20260115", "Karst Chemical Works")
    assert "same_batch" in reasons(karst, batch("20260115", "KARST Chemical Works Ltd"))


def test_a_container_counts_for_some_months_only() -> None:
    box = {"containers": [{"no": "CSQU3054383"}]}
    written = {"containers": [{"no": "csqu 305438-3"}]}
    assert "same_conveyance" in reasons(box, written, days=(DAY, "2026-05-01T00:00:00Z"))
    assert reasons(box, written, days=(DAY, "2027-05-01T00:00:00Z")) == {}


def test_documents_plates_and_registrations_are_compared_without_their_signs() -> None:
    assert reasons({"documents": [{"number": "999-12345675"}]},
                   {"documents": [{"number": "99912345675"}]})  # fmt: skip
    assert reasons({"conveyances": [{"leg": 1, "plate": "XB-1234-CD"}]},
                   {"conveyances": [{"leg": 2, "trailer_plate": "xb 1234 cd"}]})  # fmt: skip
    one = {"parties": [{"kind": "person", "name": "A", "ids": [
        {"scheme": "vat", "value": "XA 4471902", "country": "XA"}]}]}  # fmt: skip
    other = {"parties": [{"kind": "person", "name": "B", "ids": [
        {"scheme": "vat", "value": "XA-4471902", "country": "XB"}]}]}  # fmt: skip
    assert reasons(one, one)
    assert reasons(one, other) == {}


# --- selectors ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    ["+999 123 456 789", "00999123456789", "(+999) 123-456-789", "+999 (0) 123456789",
     "＋９９９１２３４５６７８９", "٠٠٩٩٩١٢٣٤٥٦٧٨٩"],
)  # fmt: skip
def test_a_telephone_number_has_one_form(text: str) -> None:
    assert normal_phone(text) == "+999123456789"


def test_a_number_without_its_country_is_the_end_of_one_with_it() -> None:
    assert same_phone("+999123456789", normal_phone("0123 456 789"))
    assert not same_phone("+999123456789", "+998123456789")
    assert not same_phone("+999123456789", normal_phone("456789"))


@pytest.mark.parametrize(
    "text",
    ["sales.one@halden.example", "Sales.One@Halden.EXAMPLE", "sales.one [at] halden [dot] example",
     "mailto:sales.one@halden.example", "s\u0430les.\u043ene@halden.example"],
)  # fmt: skip
def test_a_mail_address_has_one_form(text: str) -> None:
    assert normal_email(text) == "sales.one@halden.example"


def test_dots_count_in_a_mailbox_but_for_the_provider_that_ignores_them() -> None:
    assert normal_email("a.bc+x@gmail.com") == normal_email("abc@googlemail.com")
    assert normal_email("a.bc@halden.example") != normal_email("abc@halden.example")
    assert normal_email("no address") == ""


def test_addresses_and_accounts_have_one_form() -> None:
    assert normal_url("hxxps://www.halden[.]example/x/") == normal_url("halden.example/x")
    assert normal_handle("@Halden_1") == normal_handle("https://t.me/halden_1")


def test_a_shared_selector_is_a_link() -> None:
    one, other = contact("phone", "+999123456789"), contact("phone", "00999 123 456 789")
    assert list(reasons(one, other)) == ["same_selector"]
    assert reasons(one, contact("phone", "+999123456780")) == {}


# --- names of firms ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("云岭华新化工有限公司", "Yunling Huaxin Chemical Co., Ltd."),
        ("云岭华新化工有限公司", "YUNLING HUA XIN CHEM"),
        ("ООО «Щерреактив Химия»", "Shcherreaktiv Khimiya OOO"),
        ("شركة مرجان الحديثة للكيماويات", "Murjan Al-Haditha Chemicals LLC"),
        ("บริษัท สยามทอง เคมี จำกัด", "Siamthong Chemical Co., Ltd."),
        ("Química Albarén S.A. de C.V.", "QUIMICA ALBAREN SA DE CV"),
        ("Halden Reagents Trading Ltd", "Halden Trading Limited"),
    ],
)  # fmt: skip
def test_one_firm_is_known_across_scripts(one: str, other: str) -> None:
    assert likeness(take_apart(one), take_apart(other)) >= ALIKE
    assert likeness(take_apart(other), take_apart(one)) >= ALIKE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("云岭华新化工有限公司", "Yunling Huasen Chemical Co., Ltd."),
        ("云岭华新化工有限公司", "云岭华欣化工有限公司"),
        ("云岭华新化工有限公司", "Yunling Huaxin Trading Co., Ltd."),
        ("Shanghai Chemical Co., Ltd.", "Trading Company Limited"),
        ("Halden Chemicals", "Holmen Chemicals"),
        ("Co., Ltd.", "Co., Ltd."),
    ],
)  # fmt: skip
def test_two_firms_are_told_apart(one: str, other: str) -> None:
    assert likeness(take_apart(one), take_apart(other)) < ALIKE


def test_firms_of_two_countries_are_not_one_and_persons_are_not_compared() -> None:
    latin = "Yunling Huaxin Chemical"
    assert "same_party" in reasons(firm("云岭华新化工有限公司"), firm(latin, None))
    assert reasons(firm("云岭华新化工有限公司"), firm(latin, "VN")) == {}
    person = {"parties": [{"kind": "person", "name": "Maria Garcia"}]}
    assert reasons(person, person) == {}
