"""Copies of other authorities' incidents: refused, permitted in the log, and always marked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.access import OPERATOR
from node.evidence import Export
from protocol.errors import ConflictError, RequestError
from protocol.handling_text import Reader
from tests.node.factories import Station, World, copied, incident, made_once, pass_on

Row = dict[str, Any]


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch")) as opened:
        yield opened


def received(world: World, **handling: Any) -> tuple[Station, str]:  # noqa: ANN401
    """Return birch, which got an incident of alder's under this handling, and its reference."""
    row = incident("Drums")
    row["face"]["handling"] |= handling
    service = world["alder"].service()
    ref = str(service.create_draft(row)["ref"])
    service.release(ref, to=["birch"], annex_to=None, carriers=[], separately=False, digest=None)
    pass_on(world["alder"], world["birch"])
    world["birch"].core.try_follow()
    return world["birch"], ref


def disclose(station: Station, ref: str, reader: Reader = Reader.COURT) -> Row:
    return station.service().handling.disclose(
        ref, number=None, to="X", by="J. Judge", reason="", who=OPERATOR, reader=reader
    )


def export(station: Station, ref: str) -> Export:
    evidence = station.service().evidence
    return evidence.plan(Export(evidence.of_incident(ref, None), who=OPERATOR, content=True))


def permit(station: Station, ref: str, basis: str) -> Row:
    return station.service().permit(
        ref, basis=basis, by="J. Smith", note="by telephone, 3 March", who=OPERATOR
    )


@pytest.mark.parametrize("act", [disclose, export])
def test_what_may_not_be_passed_on_is_refused_and_then_permitted(
    world: World,
    act: Any,  # noqa: ANN401
) -> None:
    birch, ref = received(world, onward="ask_originator")
    with pytest.raises(ConflictError, match="asks for permission of its author") as refused:
        act(birch, ref)
    assert f"picket incidents permit {ref} --basis originator" in (refused.value.fix or "")
    assert birch.service().handling.accesses(ref)["items"] == []
    permit(birch, ref, "originator")
    act(birch, ref)
    noted = birch.service().handling.accesses(ref)["items"][0]
    assert (noted["what"], noted["note"]) == (
        "permit-originator", "by J. Smith: by telephone, 3 March",
    )  # fmt: skip


def test_none_goes_back_to_its_author_alone_unless_the_law_says_otherwise(world: World) -> None:
    birch, ref = received(world, onward="none")
    permit(birch, ref, "originator")
    with pytest.raises(ConflictError, match="must not be passed on"):
        disclose(birch, ref)
    assert disclose(birch, ref, Reader.ORIGINATOR)["disclosure"]
    permit(birch, ref, "law")
    assert disclose(birch, ref)["disclosure"]


def test_a_permission_lasts_over_a_start(world: World) -> None:
    birch, ref = received(world, onward="ask_originator")
    permit(birch, ref, "originator")
    birch.close()
    birch.open()
    assert disclose(birch, ref)["disclosure"]


def test_what_others_wrote_about_our_incident_is_theirs(world: World) -> None:
    birch, ref = received(world, onward="peers_same_handling", evidence_use="allowed")
    birch.service().records.release(
        "followup.request",
        {"incident": ref, "kinds": ["trace_batch"], "to": ["alder"], "question": "Who?",
         "handling": {"tlp": "AMBER"}},
    )  # fmt: skip
    pass_on(birch, world["alder"])
    alder = world["alder"]
    alder.core.try_follow()
    (asked,) = alder.core.opened()[1].items(("followup.request",))
    with pytest.raises(ConflictError, match=f"what was written about {ref}"):
        disclose(alder, asked["envelope_id"].hex())
    assert disclose(alder, ref)["disclosure"]


def test_our_own_needs_no_permission_and_gets_none(world: World) -> None:
    _, ref = received(world, onward="none", hc=["H2"], tlp="RED")
    assert disclose(world["alder"], ref)["disclosure"]
    with pytest.raises(ConflictError, match="own"):
        permit(world["alder"], ref, "originator")


@pytest.mark.parametrize(
    "change", [{"basis": "hope"}, {"by": " "}, {"note": ""}, {"note": "x" * 501}, {"by": "a\nb"}]
)
def test_a_permission_says_who_and_why(world: World, change: Row) -> None:
    birch, ref = received(world)
    given = {"basis": "law", "by": "J. Smith", "note": "order 7", "who": OPERATOR, **change}
    with pytest.raises(RequestError):
        birch.service().permit(ref, **given)
    assert birch.service().handling.accesses(ref)["items"] == []


def test_what_is_shown_carries_its_handling(world: World) -> None:
    birch, ref = received(world, hc=["H1", "H3"], hc_text="Not by mail", pap="RED")
    text = "\n".join(birch.service().show(ref, who="token:abc")["handling_text"])
    for said in (
        "TLP:AMBER - ",
        "H1 - not to be used as evidence",
        "Restrictions: Not by mail",
        "PAP:RED - ",
        "Exported by token:abc at ",
        "(XB)" if "(XB)" in text else "node",
    ):
        assert said in text
