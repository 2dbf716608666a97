"""What a person or a program asks of a node: whom a release reaches, and what is found by a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keys.trust import Level, Verification
from protocol.errors import (
    ConflictError,
    NotFoundError,
    RequestError,
    UnknownRecipientError,
)
from tests.node.factories import NOW, World, copied, incident, incident_id, made_once, pass_on


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def released(world: World, key: str, **choice: Any) -> dict[str, Any]:  # noqa: ANN401
    options = {"annex_to": None, "carriers": [], "separately": False, "digest": None, **choice}
    return world["alder"].service().release(key, **options)


def draft(world: World, *, annex: bool = True) -> str:
    return str(world["alder"].service().create_draft(incident(annex=annex))["id"])


# --- whom a release reaches ------------------------------------------------------------------
def test_face_and_annex_go_in_envelopes_of_their_own_to_their_own_recipients(world: World) -> None:
    key = draft(world)
    seen = released(world, key, to=["birch", "cedar"], annex_to=["birch"])
    assert {(d["peer"], *d["layers"]) for d in seen["deliveries"]} == {
        ("birch", "face"), ("cedar", "face"), ("birch", "annex"),
    }  # fmt: skip
    for name in ("birch", "cedar"):
        pass_on(world["alder"], world[name])
    assert world["birch"].service().incident(key)["annex"] == incident(annex=True)["annex"]
    assert world["cedar"].service().incident(key)["annex"] is None


def test_released_separately_each_recipient_gets_an_envelope_that_names_it_alone(
    world: World,
) -> None:
    seen = released(world, draft(world), to=["birch", "cedar"], separately=True)
    assert len(seen["envelopes"]) == 2
    audiences = []
    for each in seen["envelopes"]:
        audience = world["alder"].envelope(bytes.fromhex(each["envelope_id"])).audience
        assert audience is not None
        audiences.append(audience.recipient_ids)
    assert sorted(audiences) == sorted([(world["birch"].id,), (world["cedar"].id,)])


def test_all_means_the_peers_at_level_share_and_no_other(world: World) -> None:
    alder = world["alder"]
    check = Verification("voice", "test", NOW)
    alder.core.approve_peer(world["cedar"].id, Level.RELAY, check)
    seen = released(world, draft(world), to=["all"])
    assert "cedar" not in {d["peer"] for d in seen["deliveries"]}
    assert "birch" in {d["peer"] for d in seen["deliveries"]}


@pytest.mark.parametrize(
    ("choice", "error"),
    [
        ({"to": []}, UnknownRecipientError),
        ({"to": ["nobody"]}, UnknownRecipientError),
        ({"to": ["birch"], "annex_to": ["cedar"]}, UnknownRecipientError),
        ({"to": ["birch"], "carriers": ["birch"]}, UnknownRecipientError),
        ({"to": ["birch"], "carriers": ["cedar"], "separately": True}, RequestError),
        ({"to": ["birch"], "digest": "0" * 64}, ConflictError),
    ],
)
def test_a_choice_that_cannot_be_meant_releases_nothing(
    world: World, choice: dict[str, Any], error: type[Exception]
) -> None:
    key, size = draft(world), world["alder"].core.log.size
    with pytest.raises(error):
        released(world, key, **choice)
    assert world["alder"].core.log.size == size
    assert world["alder"].service().incident(key)["state"] == "draft"


def test_the_digest_of_a_preview_changes_with_everything_that_was_chosen(world: World) -> None:
    key, service = draft(world), world["alder"].service()
    choices: list[dict[str, Any]] = [
        {"to": ["birch"], "annex_to": None, "carriers": []},
        {"to": ["birch", "cedar"], "annex_to": None, "carriers": []},
        {"to": ["birch", "cedar"], "annex_to": ["birch"], "carriers": []},
        {"to": ["birch"], "annex_to": None, "carriers": ["cedar"]},
        {"to": ["birch"], "annex_to": None, "carriers": [], "separately": True},
    ]
    digests = {service.preview(key, **choice)["digest"] for choice in choices}
    assert len(digests) == len(choices)


# --- what is found by a key ------------------------------------------------------------------
def test_nobody_hides_an_incident_by_using_its_id_and_reference_again(world: World) -> None:
    """A recipient knows both, so it could; whoever was here first is shown, and the other named."""
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    alder.release(1, cedar)
    pass_on(alder, cedar)
    birch.release(1, cedar, alder)
    pass_on(birch, cedar)
    pass_on(birch, alder)
    for reader in (cedar, alder):
        for key in (incident_id(1), "PI-XA-2026-000001"):
            seen = reader.service().incident(key)
            assert seen["author"] == ("Alder" if reader is alder else "alder")
            assert seen["also_claimed"] == [f"{incident_id(1)}@birch"]
        assert reader.service().incident(f"{incident_id(1)}@birch")["author"] == "birch"
    assert alder.service().deliveries(incident_id(1))["items"][0]["state"] == "received"


def test_an_incident_of_an_author_who_has_none_of_that_key_is_not_found(world: World) -> None:
    world["alder"].release(1, world["cedar"])
    pass_on(world["alder"], world["cedar"])
    for key in (f"{incident_id(1)}@birch", f"{incident_id(1)}@nobody", "PI-XA-2026-000002"):
        with pytest.raises(NotFoundError):
            world["cedar"].service().incident(key)
