"""Who read what: each act is a log entry before anything is shown, once a day for plain reading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from node import api
from node.access import OPERATOR, AccessBook
from node.blobs import BlobStore
from node.calls import Request, Response
from node.enclosures import Download
from protocol import limits
from protocol.access import EXPORT_LOG, READ, AccessAct, parse_access
from protocol.canonical import encode
from protocol.entry import EntryKind, parse_entry
from protocol.errors import BusyError, DecodeError, LimitError, LogCorruptionError, NotFoundError
from protocol.incident import enclose, parse_incident, to_record
from tests.node.factories import (
    DAY,
    MINUTE,
    Station,
    World,
    copied,
    full_disk,
    incident,
    incident_id,
    made_once,
    pass_on,
    token,
)

KEY: Final = incident_id(1)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch")) as opened:
        yield opened


@pytest.fixture
def birch(world: World) -> Station:
    """A node that received incident 1."""
    world["alder"].release(1, world["birch"])
    pass_on(world["alder"], world["birch"])
    return world["birch"]


def ask(station: Station, path: str, **request: Any) -> Response:  # noqa: ANN401
    wanted = Request("GET", f"/api/v1{path}", **{"operator": True, **request})
    answer = api.dispatch(station.service(), wanted)
    assert isinstance(answer, Response)
    return answer


def acts(station: Station) -> list[AccessAct]:
    rows = station.core.store.rows(
        "SELECT local FROM entries WHERE kind = ? ORDER BY idx", int(EntryKind.ACCESS)
    )
    return [parse_access(row["local"]) for row in rows]


def bearer(station: Station, *scopes: str) -> str:
    made = station.service().create_token(name="test", scopes=list(scopes), days=1)
    return str(made["token"])


# --- what counts as reading ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "what"),
    [("", "read"), ("/raw", "raw"), ("/proof", "proof")],
)
def test_showing_an_incident_its_bytes_or_its_proof_is_logged(
    birch: Station, path: str, what: str
) -> None:
    assert ask(birch, f"/incidents/{KEY}{path}").status == 200
    (act,) = acts(birch)
    assert (act.what, act.who, act.at) == (what, OPERATOR, birch.clock.now())
    assert act.ids == (birch.core.opened()[1].envelopes_of(KEY, alder_id(birch))[0]["envelope_id"],)


def alder_id(station: Station) -> bytes:
    return station.core.trust.find("alder").node_id


def test_the_act_is_durable_and_signed_before_the_answer(birch: Station) -> None:
    ask(birch, f"/incidents/{KEY}")
    assert birch.core.log.signed_size == birch.core.log.size
    birch.reopen()
    assert [act.what for act in acts(birch)] == ["read"]
    assert birch.core.verify()["entries"] == birch.core.log.size


@pytest.mark.parametrize("path", ["/incidents", "/status", f"/incidents/{KEY}/deliveries"])
def test_listing_is_not_logged(birch: Station, path: str) -> None:
    assert ask(birch, path).status == 200
    assert not acts(birch)


def test_a_draft_is_not_logged(birch: Station) -> None:
    key = birch.service().create_draft(incident())["id"]
    assert ask(birch, f"/incidents/{key}").status == 200
    assert ask(birch, f"/incidents/{key}/access").body == b'{"items":[]}'
    assert not acts(birch)


def test_what_is_not_found_is_not_logged(birch: Station) -> None:
    assert ask(birch, f"/incidents/{incident_id(9)}").status == 404
    assert ask(birch, f"/incidents/{KEY}/raw", query={"envelope": "7"}).status == 404
    assert not acts(birch)


def test_a_draft_that_is_made_twice_shows_the_released_one_and_that_is_logged(
    world: World,
) -> None:
    alder = world["alder"]
    service = alder.service()
    key = service.create_draft(incident(), external_ref="case 7")["id"]
    body = json.dumps({**incident(), "external_ref": "case 7"}).encode()
    again = Request("POST", "/api/v1/incidents", body=body, operator=True)
    assert api.dispatch(service, again).status == 200
    assert not acts(alder)
    service.release(key, to=["birch"], annex_to=None, carriers=[], separately=False, digest=None)
    assert api.dispatch(service, again).status == 200
    assert [act.what for act in acts(alder)] == ["read"]


# --- who -------------------------------------------------------------------------------------
def test_a_program_is_named_by_its_token_and_never_by_its_secret(birch: Station) -> None:
    secret = bearer(birch, "incidents:read")
    got = ask(birch, f"/incidents/{KEY}", operator=False, token=secret)
    assert got.status == 200
    (act,) = acts(birch)
    _, token_id, hidden = secret.split("_")
    assert act.who == f"token:{token_id}"
    assert hidden.encode() not in b"".join(
        row["local"] for row in birch.core.store.rows("SELECT local FROM entries")
    )


def test_who_has_no_right_to_it_leaves_no_act(birch: Station) -> None:
    secret = bearer(birch, "node:read")
    assert ask(birch, f"/incidents/{KEY}", operator=False, token=secret).status == 403
    assert ask(birch, f"/incidents/{KEY}", operator=False).status == 401
    assert not acts(birch)


def test_who_acted_is_shown_with_the_log_entry(birch: Station) -> None:
    ask(birch, f"/incidents/{KEY}")
    secret = bearer(birch, "incidents:read", "log:audit")
    ask(birch, f"/incidents/{KEY}/raw", operator=False, token=secret)
    shown = ask(birch, f"/incidents/{KEY}/access", operator=False, token=secret)
    items = json.loads(shown.body)["items"]
    assert [(i["what"], i["who"].split(":")[0]) for i in items] == [
        ("read", "operator"), ("raw", "token"),
    ]  # fmt: skip
    for item in items:
        entry = parse_entry(birch.core.log.entry(item["log_index"]))
        assert entry.kind is EntryKind.ACCESS
    plain = bearer(birch, "incidents:read")
    assert ask(birch, f"/incidents/{KEY}/access", operator=False, token=plain).status == 403


# --- once a day ------------------------------------------------------------------------------
def test_plain_reading_counts_once_a_utc_day_for_each_reader(birch: Station) -> None:
    secret = bearer(birch, "incidents:read")
    for _ in range(5):
        ask(birch, f"/incidents/{KEY}")
        ask(birch, f"/incidents/{KEY}", operator=False, token=secret)
    assert [act.who.split(":")[0] for act in acts(birch)] == ["operator", "token"]
    birch.clock.at = (birch.clock.now() // DAY + 1) * DAY
    ask(birch, f"/incidents/{KEY}")
    assert len(acts(birch)) == 3


def test_a_restart_forgets_no_reading_of_the_day(birch: Station) -> None:
    ask(birch, f"/incidents/{KEY}")
    birch.reopen()
    birch.clock.advance(MINUTE)
    ask(birch, f"/incidents/{KEY}")
    assert len(acts(birch)) == 1


def test_another_incident_and_another_way_count_by_themselves(world: World, birch: Station) -> None:
    world["alder"].release(2, birch)
    pass_on(world["alder"], birch)
    ask(birch, f"/incidents/{KEY}")
    ask(birch, f"/incidents/{incident_id(2)}")
    ask(birch, f"/incidents/{KEY}/raw")
    assert [act.what for act in acts(birch)] == ["read", "read", "raw"]


def test_a_revision_that_came_meanwhile_counts_anew(birch: Station) -> None:
    book = birch.core.access
    assert book.record_reading(READ, [bytes(32)], OPERATOR) is not None
    assert book.record_reading(READ, [bytes(32)], OPERATOR) is None
    assert book.record_reading(READ, [bytes(32), b"\1" * 32], OPERATOR) is not None


def test_exports_are_logged_each_time(birch: Station) -> None:
    first = birch.core.access.record(EXPORT_LOG, (), OPERATOR, "log")
    second = birch.core.access.record(EXPORT_LOG, (), OPERATOR, "log")
    assert second == first + 1
    assert [(act.what, act.ids) for act in acts(birch)] == [(EXPORT_LOG, ())] * 2


def test_of_many_envelopes_there_are_several_entries_and_each_is_found(birch: Station) -> None:
    ids = [number.to_bytes(32, "big") for number in range(2 * limits.MAX_ACCESS_IDS + 1)]
    last = birch.core.access.record(READ, ids, OPERATOR)
    assert [len(act.ids) for act in acts(birch)] == [64, 64, 1]
    assert [each.index for each in birch.core.access.about(ids[:1])] == [last - 2]
    assert [each.index for each in birch.core.access.about(ids)] == [last - 2, last - 1, last]
    birch.core.verify()


# --- a full disk -----------------------------------------------------------------------------
def test_nothing_is_shown_that_cannot_be_logged(birch: Station) -> None:
    for number in range(100):  # until the file has no room of its own left
        try:
            with full_disk(birch):
                birch.core.access.record(READ, [bytes(32)], OPERATOR, f"{number} " + "x" * 700)
        except BusyError:
            break
    before = len(acts(birch))
    with full_disk(birch):
        answer = ask(birch, f"/incidents/{KEY}")
    assert answer.status == 503
    assert json.loads(answer.body)["code"] == "busy"
    assert b"drums" not in answer.body
    assert len(acts(birch)) == before
    assert ask(birch, f"/incidents/{KEY}").status == 200


# --- attachments -----------------------------------------------------------------------------
def with_attachment(world: World) -> tuple[Station, str]:
    alder, birch = world["alder"], world["birch"]
    alder.core.blobs = BlobStore(alder.home.attachments, quota=2**30, min_free=0)
    content = b"a label" * 100
    with alder.core.blobs.writer(len(content)) as writer:
        writer.write(content)
        ref = writer.finish()
    value = incident("drums")
    sha256 = hashlib.sha256(content).hexdigest()
    value["annex"] = {
        "attachments": [
            {"sha256": sha256, "media_type": "image/jpeg", "size": ref.size, "kind": "label_photo"}
        ]
    }
    body = to_record(
        enclose(parse_incident(value), {sha256: ref}), incident_id=KEY, ref="PI-XA-2026-000001",
        revision=1, prev=None, layers=frozenset({"face", "annex"}),
        first_shared_at="2026-03-04T09:00:00Z",
    )  # fmt: skip
    shipment = alder.ship(birch, body=encode(body), layers="face annex")
    alder.core.release(token(1), [replace(shipment, blobs=(ref.id,))])
    alder.core.try_follow()
    return alder, sha256


def test_fetching_the_content_of_an_attachment_is_logged(world: World) -> None:
    alder, sha256 = with_attachment(world)
    wanted = Request("GET", f"/api/v1/attachments/{sha256}", operator=True)
    for _ in range(3):
        assert isinstance(api.begin(alder.service(), wanted), Download)
    (act,) = acts(alder)
    assert (act.what, act.note) == ("attachment", sha256[:16])


def test_what_is_not_here_is_not_handed_out_and_not_logged(world: World) -> None:
    alder, sha256 = with_attachment(world)
    pass_on(alder, world["birch"])
    birch = world["birch"]
    birch.core.blobs = BlobStore(birch.home.attachments, quota=2**30, min_free=0)
    download = birch.service().enclosures.download(sha256)
    with pytest.raises(NotFoundError):
        download.open()
    assert not acts(birch)


# --- verifying -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fault",
    [
        "DELETE FROM accesses",
        "INSERT INTO accesses VALUES (zeroblob(32), 1)",
        "UPDATE accesses SET idx = idx - 1",
    ],
)
def test_verifying_finds_an_act_that_was_hidden_or_invented(birch: Station, fault: str) -> None:
    ask(birch, f"/incidents/{KEY}")
    birch.core.verify()
    with birch.core.store.transaction():
        birch.core.store.run(fault)
    with pytest.raises(LogCorruptionError, match="act"):
        birch.core.verify()


def test_an_act_in_the_log_cannot_be_changed(birch: Station) -> None:
    ask(birch, f"/incidents/{KEY}")
    act = replace(acts(birch)[0], who="somebody")
    with birch.core.store.transaction():
        birch.core.store.run("UPDATE entries SET local = ? WHERE kind = 7", encode(list(act.local)))
    with pytest.raises(LogCorruptionError, match="was changed"):
        birch.core.verify()


# --- the form of an act ----------------------------------------------------------------------
ACT: Final = AccessAct(READ, (bytes(32),), OPERATOR, 5, "to a court")


def test_an_act_has_one_form() -> None:
    assert parse_access(encode(list(ACT.local))) == ACT
    bare = replace(ACT, ids=(), note="")
    assert parse_access(encode(list(bare.local))) == bare


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"what": "Read"}, DecodeError),
        ({"what": "r" * 33}, DecodeError),
        ({"ids": (bytes(31),)}, DecodeError),
        ({"ids": (bytes(32),) * 65}, LimitError),
        ({"who": ""}, DecodeError),
        ({"at": -1}, DecodeError),
        ({"note": "a\nb"}, DecodeError),
        ({"note": "x" * (limits.MAX_ACCESS_NOTE + 1)}, LimitError),
    ],
)
def test_an_act_of_another_form_is_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_access(encode(list(replace(ACT, **change).local)))


def test_the_book_needs_nothing_but_a_log(birch: Station) -> None:
    book = AccessBook(
        store=birch.core.store, log=birch.core.log, clock=birch.clock, logged=birch.core.logged
    )
    index = book.record(READ, [bytes(32)], OPERATOR)
    assert birch.core.access.about([bytes(32)])[0].index == index
