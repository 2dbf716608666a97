"""Card links: one form, bounded, and bound to one card."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.fingerprint import format_node_id
from protocol import limits
from protocol.cardlink import (
    CardLink,
    is_card_link,
    make_card_link,
    parse_card_link,
    verify_card_link,
)
from protocol.errors import DecodeError, DigestError, LimitError, PeerError
from protocol.knock import bundle_digest
from protocol.statement import make_bundle
from tests.factories import card_of, make_node

ALDER = make_node("alder")
NODE = format_node_id(ALDER.id)
BUNDLE = make_bundle(ALDER.chain)
AT = ("wss://alder.example:8462", "wss://[2001:db8::1]:443")
LINK = make_card_link(NODE, BUNDLE, endpoints=AT)
HEX = bundle_digest(BUNDLE).hex()


def test_a_link_is_read_as_it_was_made() -> None:
    assert f"picket-card:{NODE}?sha256={HEX}&at={AT[0]}&at={AT[1]}" == LINK
    assert parse_card_link(LINK) == CardLink(NODE, bundle_digest(BUNDLE), AT)
    assert parse_card_link(f"\n {LINK} \r\n").at == AT
    assert parse_card_link(make_card_link(NODE, BUNDLE)).at == ()
    assert is_card_link(f" {LINK}") and not is_card_link(f"x{LINK}")


def test_a_link_is_as_long_as_its_bound_at_most() -> None:
    long = tuple(f"wss://{'a' * 60}.{'b' * 60}.{number}.example:1" for number in range(10))
    link = make_card_link(NODE, BUNDLE, endpoints=long)
    assert len(link) <= limits.MAX_CARD_LINK
    found = parse_card_link(link)
    assert found.at == long[: len(found.at)]
    assert 0 < len(found.at) <= limits.MAX_ENDPOINTS
    with pytest.raises(LimitError):
        parse_card_link(LINK + "&at=wss://a:1" * 100)


@pytest.mark.parametrize(
    "link",
    [
        "", "picket-card:", f"picket-card:{NODE}", f"picket-card:{NODE}:{HEX}",
        LINK.replace("picket-card", "Picket-card"), LINK.replace("sha256", "SHA256"),
        LINK.replace(HEX, HEX.upper()), LINK.replace(HEX, HEX[:-1]), LINK.replace(HEX, HEX + "0"),
        LINK.replace(NODE, NODE.lower()), LINK.replace(NODE, NODE.replace("-", "")),
        LINK.replace(NODE, NODE.replace("-", "_")), LINK + "&", LINK + "&at=", LINK + "#x",
        LINK + "&x=1", LINK + " &at=wss://a:1", LINK + "&at=https://a:1", LINK + "&at=wss://a",
        LINK + "&at=wss://a:01", LINK + "&at=wss://u@a:1", LINK + "&at=wss://a:1/x",
        LINK.replace("?", "&"), f"picket-card:{NODE}?at=wss://a:1&sha256={HEX}",
        make_card_link(NODE, BUNDLE) + "&at=wss://a:1" * 9, LINK.replace("wss", "w\u0441\u0455"),
        LINK.replace(HEX, "\u0661" * 64),
    ],
)  # fmt: skip
def test_another_form_is_no_link(link: str) -> None:
    with pytest.raises(DecodeError):
        parse_card_link(link)


@given(st.integers(0, len(LINK) - 1), st.characters(codec="utf-8"))
def test_what_is_read_is_written_the_same(at: int, letter: str) -> None:
    changed = LINK[:at] + letter + LINK[at + 1 :]
    try:
        found = parse_card_link(changed)
    except PeerError:
        return
    written = f"picket-card:{found.node}?sha256={found.digest.hex()}"
    assert written + "".join(f"&at={each}" for each in found.at) == changed.strip()


def test_a_link_means_one_card_of_one_node() -> None:
    link = parse_card_link(LINK)
    verify_card_link(link, BUNDLE, node=NODE)
    renewed = ALDER.chain.extend(card_of(ALDER.chain, "alder", contact="night desk"))
    with pytest.raises(DigestError, match="renewed since, or exchanged"):
        verify_card_link(link, make_bundle(renewed), node=NODE)
    other = make_node("birch")
    with pytest.raises(DigestError, match="another node"):
        verify_card_link(link, make_bundle(other.chain), node=format_node_id(other.id))
