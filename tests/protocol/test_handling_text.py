"""What handling says in words, and who may be handed a copy of another authority's incident."""

from __future__ import annotations

from typing import Any

import pytest

from protocol import vocabulary as v
from protocol.handling_text import (
    Basis,
    Reader,
    handling_lines,
    onward_refusal,
    watermark,
)
from protocol.incident import Handling, parse_handling

OPEN: dict[str, Any] = {
    "tlp": "AMBER", "onward": "peers_same_handling", "evidence_use": "allowed",
}  # fmt: skip


def handling(**change: object) -> Handling:
    return parse_handling({**OPEN, **change})


def allowed(given: Handling, permitted: frozenset[Basis] = frozenset()) -> set[Reader]:
    return {
        reader for reader in Reader if onward_refusal(given, reader, permitted=permitted) is None
    }


@pytest.mark.parametrize("tlp", v.TLP)
@pytest.mark.parametrize("pap", (None, *v.PAP))
@pytest.mark.parametrize("onward", v.ONWARD)
@pytest.mark.parametrize("evidence", v.EVIDENCE_USE)
def test_every_word_of_handling_has_its_words(
    tlp: str, pap: str | None, onward: str, evidence: str
) -> None:
    given = {"tlp": tlp, "onward": onward, "evidence_use": evidence}
    if pap is not None:
        given["pap"] = pap
    text = "\n".join(handling_lines(parse_handling(given)))
    assert f"TLP:{tlp} - " in text
    assert ("PAP:" in text) == (pap is not None)
    assert text.count("\n") >= 3


def test_h1_and_h3_stand_in_full_and_so_does_the_secrecy_of_trade() -> None:
    text = "\n".join(
        watermark(
            handling(
                hc=["H1", "H2", "H3"], hc_text="Not to the embassy of X", confidential_12_11=True,
                retain_until="2031-12-31",
            ),
            by="J. Smith", at="2026-11-25T10:00:00Z", node="Alder (XA)",
        )
    )  # fmt: skip
    assert "H1 - not to be used as evidence in judicial proceedings without permission" in text
    assert "H3 - other restrictions hold" in text
    assert "Restrictions: Not to the embassy of X" in text
    assert "article 12, paragraph 11" in text
    assert "To be erased after 2031-12-31" in text
    assert text.endswith("Exported by J. Smith at 2026-11-25T10:00:00Z from node Alder (XA)")


EVERYBODY = set(Reader)
BACK = {Reader.ORIGINATOR}


@pytest.mark.parametrize(
    ("change", "readers"),
    [
        ({}, EVERYBODY - {Reader.OTHER}),
        ({"onward": "none"}, BACK),
        ({"onward": "ask_originator"}, BACK),
        ({"onward": "own_national_agencies"}, BACK | {Reader.NATIONAL, Reader.COURT}),
        ({"hc": ["H2"]}, BACK),
        ({"tlp": "RED"}, BACK),
        ({"hc": ["H1"]}, BACK | {Reader.NATIONAL, Reader.PEER}),
        ({"evidence_use": "intelligence_only"}, BACK | {Reader.NATIONAL, Reader.PEER}),
        ({"evidence_use": "ask_originator"}, BACK | {Reader.NATIONAL, Reader.PEER}),
    ],
)
def test_who_may_be_handed_a_copy(change: dict[str, Any], readers: set[Reader]) -> None:
    assert allowed(handling(**change)) == readers


@pytest.mark.parametrize("onward", v.ONWARD)
def test_what_the_originator_permits_lifts_all_but_none_and_a_law_lifts_that_too(
    onward: str,
) -> None:
    given = handling(onward=onward, hc=["H1", "H2"], tlp="RED", evidence_use="intelligence_only")
    said = allowed(given, frozenset({Basis.ORIGINATOR}))
    assert said == (BACK if onward == "none" else EVERYBODY)
    assert allowed(given, frozenset({Basis.LAW})) == EVERYBODY


def test_what_is_not_said_is_the_strict_default() -> None:
    assert allowed(parse_handling({"tlp": "GREEN"})) == BACK
