"""Erasing an incident: nothing of it is left on disk, the log stays whole, the author has proof."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import sqlcipher3

from node import api
from node.access import OPERATOR
from node.blobs import BlobStore
from node.calls import Request
from node.clock import rfc3339
from node.core import EPOCH_LIFETIME_MS
from node.erasure import Doomed
from node.outbox import Route
from protocol import limits, suite
from protocol.blob import BlobRef
from protocol.canonical import encode
from protocol.delivery_statement import Delivered, check_statement, dearmor_statements
from protocol.entry import EntryKind
from protocol.erasure import Reason, keep_epoch, kept_epoch
from protocol.errors import (
    BusyError,
    ConflictError,
    LogCorruptionError,
    NotFoundError,
    OpenError,
    PeerError,
    ReceiptError,
    RequestError,
    UnknownEpochError,
)
from protocol.frames import Receipts, Settled
from protocol.incident import enclose, parse_incident, to_record
from tests.node.factories import (
    MINUTE,
    CrashError,
    FaultyStore,
    Station,
    World,
    copied,
    full_case_disk,
    full_disk,
    give,
    hand,
    incident,
    incident_id,
    made_once,
    pass_on,
    token,
)
from tests.node.wiring import Web

KEY: Final = incident_id(1)
CANARY: Final = "canary of plaintext in the summary"
CONTENT: Final = hashlib.shake_256(b"attachment").digest(300_000)
ERASE: Final = {
    "reason": "legal_order", "by": "J. Judge", "also_undelivered": False, "who": OPERATOR,
}  # fmt: skip


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch", "cedar")) as opened:
        yield opened


def give_store(station: Station) -> BlobStore:
    station.core.blobs = BlobStore(station.home.attachments, quota=2**30, min_free=0)
    return station.core.blobs


def send(
    author: Station, number: int, *to: Station, ref: BlobRef | None = None, revision: int = 1,
    summary: str = CANARY,
) -> bytes:  # fmt: skip
    """Release an incident, with an attachment if there is one, and let all receive it."""
    value = incident(summary)
    refs = {}
    if ref is not None:
        refs = {ref.sha256.hex(): ref}
        value["annex"] = {
            "attachments": [
                {"sha256": ref.sha256.hex(), "media_type": "image/jpeg", "size": ref.size,
                 "kind": "label_photo"}
            ]
        }  # fmt: skip
    layers = ("face", "annex") if ref else ("face",)
    body = to_record(
        enclose(parse_incident(value), refs), incident_id=incident_id(number),
        ref=f"PI-XA-2026-{number:06d}", revision=revision, prev=None, layers=frozenset(layers),
        first_shared_at="2026-03-04T09:00:00Z",
    )  # fmt: skip
    shipment = author.ship(*to, body=encode(body), layers=" ".join(layers))
    name = suite.digest("test", token(number), revision.to_bytes(4, "big"))
    blobs = () if ref is None else (ref.id,)
    (key,) = author.core.release(name, [replace(shipment, blobs=blobs)])
    author.core.try_follow()
    for each in to:
        pass_on(author, each)
        each.core.try_follow()
    return key


def erase(station: Station, key: str = KEY, **change: Any) -> dict[str, Any]:  # noqa: ANN401
    return station.service().handling.erase(key, **{**ERASE, **change})


def left_of(station: Station, *secrets: bytes) -> list[str]:
    """Return the files of the home that hold a part of one of *secrets*."""
    found = []
    for path in sorted(station.home.path.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found += [
                path.name
                for secret in secrets
                if any(secret[at : at + 24] in data for at in range(0, len(secret) - 23, 24))
            ]
    return found


# --- what is gone ----------------------------------------------------------------------------
def test_no_file_holds_bytes_of_an_erased_envelope_and_the_log_verifies(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    around = [send(alder, number, birch) for number in range(2, 12)]
    key = send(alder, 1, birch)
    around += [send(alder, number, birch) for number in range(12, 22)]
    held = birch.envelope(key)
    assert left_of(birch, held.ciphertext)
    before = birch.core.verify()
    assert erase(birch)["done"]
    assert not left_of(birch, held.ciphertext, CANARY.encode())
    assert birch.core.verify() == {**before, "entries": before["entries"] + 1}
    assert all(birch.envelope(each).ciphertext for each in around)
    birch.reopen()
    assert not left_of(birch, held.ciphertext, CANARY.encode())
    birch.core.verify()
    assert birch.core.held(key) is None


def test_many_erasures_among_others_leave_no_copies(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [
        send(alder, number, birch, summary=f"{CANARY} {'x' * (97 * number % 400)}")
        for number in range(1, 61)
    ]
    bodies = {key: birch.envelope(key).ciphertext for key in keys}
    gone = keys[::3]
    for number in range(1, 61, 3):
        erase(birch, incident_id(number))
    assert not left_of(birch, *(bodies[key] for key in gone))
    birch.core.verify()
    for key in set(keys) - set(gone):
        assert birch.core.open(key)


def test_the_attachments_go_with_it_and_those_of_others_stay(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    store, here = give_store(alder), give_store(birch)
    refs = []
    for number in (1, 2):
        with store.writer(len(CONTENT)) as writer:
            writer.write(CONTENT)
            refs.append(writer.finish())
        send(alder, number, birch, ref=refs[-1])
        path = store.folder / f"{refs[-1].id.hex()}-{refs[-1].blob.padded:x}"
        (here.folder / path.name).write_bytes(path.read_bytes())
    birch.core.blobs = BlobStore(birch.home.attachments, quota=2**30, min_free=0)
    assert birch.core.blobs.holds(refs[0].id)
    chunk = birch.core.blobs.chunk(refs[0].id, 0)[0]
    erase(birch)
    assert not birch.core.blobs.holds(refs[0].id)
    assert birch.core.blobs.holds(refs[1].id)
    assert not left_of(birch, chunk)
    _, cases = birch.core.opened()
    assert [row["ref"].id for row in cases.attachments()] == [refs[1].id]
    assert not birch.core.blob_refs.may_have(refs[0].id, alder.id)
    # Without case.db, which alone knew its key, nothing of it comes back.
    assert refs[0].key not in b"".join(each.key for each in map(_ref, cases.attachments()))


def _ref(row: dict[str, Any]) -> BlobRef:
    ref: BlobRef = row["ref"]
    return ref


def test_a_blob_that_another_incident_names_too_stays(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    store = give_store(alder)
    with store.writer(len(CONTENT)) as writer:
        writer.write(CONTENT)
        ref = writer.finish()
    send(alder, 1, birch, ref=ref)
    send(alder, 2, birch, ref=ref)
    erase(alder)
    assert store.holds(ref.id)
    erase(alder, incident_id(2))
    assert not store.holds(ref.id)


def test_case_db_has_nothing_of_it_but_a_tombstone(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    erase(birch)
    _, cases = birch.core.opened()
    row = cases.incident(KEY)
    assert (row["face"], row["annex"], row["layers"], row["external_ref"]) == (None, None, "", None)
    assert CANARY not in plain_dump(birch)
    assert (row["erased_for"], row["erased_at"]) == ("legal_order", birch.clock.now())
    assert not birch.home.case_db.with_name("case.db-wal").stat().st_size


def plain_dump(station: Station) -> str:
    """Return all that case.db holds, decrypted."""
    key = suite.derive(station.vault.storage, "case-db").hex()
    with closing(sqlcipher3.connect(str(station.home.case_db))) as database:
        database.execute(f"PRAGMA key = \"x'{key}'\"")
        names = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return repr([database.execute(f"SELECT * FROM {name}").fetchall() for (name,) in names])


def test_all_revisions_of_an_incident_go_together(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [send(alder, 1, birch, revision=number) for number in (1, 2, 3)]
    bodies = [birch.envelope(key).ciphertext for key in keys]
    assert erase(birch)["envelopes"] == [key.hex() for key in keys]
    assert not left_of(birch, *bodies)
    assert birch.service().incident(KEY)["state"] == "erased"


# --- what stays ------------------------------------------------------------------------------
def test_it_is_shown_and_listed_as_erased(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    erase(birch, reason="retention")
    service = birch.service()
    shown = service.show(KEY, who=OPERATOR)
    assert shown["state"] == "erased"
    assert shown["erased"]["reason"] == "retention"
    assert (shown["face"], shown["annex"], shown["summary"]) == (None, None, None)
    assert shown["envelopes"][0]["bytes"] is None
    (listed,) = service.incidents(after=0, limit=10, state=None)["items"]
    assert (listed["ref"], listed["state"]) == ("PI-XA-2026-000001", "erased")
    with pytest.raises(NotFoundError, match="erased"):
        service.raw(KEY, 0)
    assert service.proof(KEY, 0)["index"] == shown["envelopes"][0]["log_index"]
    assert [item["what"] for item in service.handling.accesses(KEY)["items"]] == ["erase", "proof"]


def test_a_duplicate_is_not_taken_in_again(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = send(alder, 1, birch)
    erase(birch)
    taken = hand(alder, birch, key)
    assert (taken.stored, taken.known, taken.refusals) == ((), 1, ())
    assert birch.core.held(key) is None
    assert birch.service().incident(KEY)["state"] == "erased"
    birch.core.verify()


def test_a_later_revision_is_shown_and_says_that_something_was_erased(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    erase(birch)
    send(alder, 1, birch, revision=2, summary="corrected")
    shown = birch.service().incident(KEY)
    assert (shown["state"], shown["summary"]) == ("received", "corrected")
    assert shown["erased"]["reason"] == "legal_order"
    erase(birch)
    assert birch.service().incident(KEY)["state"] == "erased"
    birch.core.verify()


def test_the_casebook_is_rebuilt_without_what_was_erased(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    for number in (1, 2):
        send(alder, number, birch)
    send(alder, 1, birch, revision=2)
    erase(birch)
    before = {key: birch.service().incident(key) for key in (KEY, incident_id(2))}
    birch.close()
    for path in birch.home.path.glob("case.db*"):
        path.unlink()
    birch.open()
    after = {key: birch.service().incident(key) for key in before}
    assert after == before
    assert birch.core.behind is None


def test_a_carrier_or_stranger_learns_nothing_of_why(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    erase(birch, by="Judge Canary")
    (receipts,) = birch.core.receipts.for_author(alder.id, passed=frozenset())
    assert b"Canary" not in receipts.items[0].entry
    assert b"legal_order" not in receipts.items[0].entry


# --- epochs ----------------------------------------------------------------------------------
def epoch_of(station: Station, *keys: bytes) -> set[bytes]:
    """Return the openers of these envelopes."""
    return {station.core.signed(key).header.opener or key for key in keys}  # type: ignore[union-attr]


def test_when_the_opener_goes_the_others_of_its_epoch_still_open(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [send(alder, number, birch) for number in (1, 2, 3)]
    assert epoch_of(birch, *keys) == {keys[0]}
    opener = birch.envelope(keys[0])
    slots = [slot for slot in opener.slots if len(slot) == limits.SLOT_SIZE]
    erase(birch)
    for key in keys[1:]:
        assert birch.core.open(key)
    birch.reopen()
    for key in keys[1:]:
        assert birch.core.open(key)
    # Neither the body nor any of the slots that came with it.
    assert not left_of(birch, opener.ciphertext, *slots)
    with pytest.raises(PeerError):
        birch.core.open(keys[0])


def test_the_kept_key_goes_with_the_last_that_needs_it(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [send(alder, number, birch) for number in (1, 2, 3)]
    erase(birch)
    kept = slot_of(birch, keys[0])
    assert kept is not None
    erase(birch, incident_id(2))
    assert slot_of(birch, keys[0]) == kept
    world.clock.advance(EPOCH_LIFETIME_MS)
    send(alder, 4, birch)
    assert birch.core.erasures.sweep() == 0
    erase(birch, incident_id(3))
    assert slot_of(birch, keys[0]) is None
    assert not left_of(birch, kept)
    with pytest.raises(UnknownEpochError):
        birch.core.epoch(keys[0])


def slot_of(station: Station, key: bytes) -> bytes | None:
    slot: bytes | None = station.core.store.scalar(
        "SELECT slot FROM erasures WHERE envelope_id = ?", key
    )
    return slot


def test_what_comes_later_in_the_epoch_of_an_erased_opener_opens(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [send(alder, 1, birch)]
    erase(birch)
    birch.reopen()
    keys.append(send(alder, 2, birch))
    assert epoch_of(birch, *keys) == {keys[0]}
    assert birch.core.open(keys[1])


def test_the_author_keeps_no_key_of_an_epoch_that_nothing_needs(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = send(alder, 1, birch)
    erase(alder)
    assert slot_of(alder, key) is None
    with pytest.raises(UnknownEpochError):
        alder.core.epoch(key)


@pytest.mark.parametrize("why", ["the next epoch has begun", "it is too old"])
def test_the_kept_key_goes_when_the_epoch_is_over(world: World, why: str) -> None:
    alder, birch = world["alder"], world["birch"]
    key = send(alder, 1, birch)
    erase(birch)
    kept = slot_of(birch, key)
    assert kept is not None
    assert birch.core.erasures.sweep() == 0
    world.clock.advance(EPOCH_LIFETIME_MS)
    if why == "it is too old":
        world.clock.advance(limits.MAX_LIFETIME_MS)
    else:
        assert send(alder, 2, birch) in epoch_of(birch, *birch_ids(birch))
    assert birch.core.erasures.sweep() == 1
    assert slot_of(birch, key) is None
    assert not left_of(birch, kept)
    with pytest.raises(UnknownEpochError):
        birch.core.epoch(key)
    birch.core.verify()


def birch_ids(station: Station) -> list[bytes]:
    return [row["id"] for row in station.core.store.rows("SELECT id FROM envelopes")]


def test_the_author_begins_a_new_epoch_after_erasing_an_opener(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [send(alder, number, birch) for number in (1, 2)]
    erase(alder)
    keys.append(send(alder, 3, birch))
    assert epoch_of(alder, *keys) == {keys[0], keys[2]}
    assert birch.core.open(keys[2])
    assert alder.core.open(keys[1])


def test_a_kept_key_opens_with_nothing_but_our_own_sealing_key(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = send(alder, 1, birch)
    epoch = birch.core.epoch(key)
    seal = birch.core.card.seal_key(birch.clock.now())
    kept = keep_epoch(epoch, ekid=seal.ekid, seal_key=seal.public)
    header = birch.envelope(key).header
    assert kept_epoch(kept, key, header, epoch.audience, birch.vault) == epoch
    with pytest.raises(OpenError):
        kept_epoch(kept, key, header, epoch.audience, alder.vault)
    with pytest.raises(OpenError):
        kept_epoch(kept, bytes(32), header, epoch.audience, birch.vault)


# --- what is refused -------------------------------------------------------------------------
def test_what_is_owed_to_somebody_is_taken_back_only_on_demand(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch, cedar)
    pass_on(alder, birch)
    with pytest.raises(ConflictError, match="cedar") as refused:
        erase(alder)
    assert "--also-undelivered" in refused.value.fix
    assert alder.service().handling.erasure(KEY)["undelivered"] == ["cedar"]
    assert alder.core.held(key) is not None
    seen = erase(alder, also_undelivered=True)
    assert seen["withdrawn_from"] == ["cedar"]
    assert (alder.state(key, birch), alder.state(key, cedar)) == ("received", "withdrawn")
    assert not alder.core.outbox.due(cedar.id, limit=9, skip=frozenset())
    assert alder.core.outbox.size() == 0
    alder.core.verify()


def test_who_got_it_after_all_still_counts_as_having_it(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    taken = hand(alder, birch, key)
    erase(alder, also_undelivered=True)
    for receipts in taken.receipts:
        alder.core.take_receipts(receipts)
    assert alder.state(key, birch) == "received"
    alder.core.verify()


def test_it_is_said_who_could_not_open_what_follows(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    for number in (1, 2):
        alder.release(number, birch)
    assert alder.service().handling.erasure(KEY)["strands"] == ["birch"]
    assert alder.service().handling.erasure(incident_id(2))["strands"] == []


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"reason": "because"}, RequestError),
        ({"by": " "}, RequestError),
        ({"by": "x" * 257}, RequestError),
        ({"by": "a\nb"}, RequestError),
        ({"key": incident_id(9)}, NotFoundError),
    ],
)
def test_a_bad_request_changes_nothing(
    world: World, change: dict[str, Any], error: type[Exception]
) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    before = birch.dump()
    with pytest.raises(error):
        erase(birch, **change)
    assert birch.dump() == before


def test_a_draft_and_what_is_erased_already_are_refused(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    draft = birch.service().create_draft(incident())["id"]
    with pytest.raises(ConflictError, match="draft"):
        erase(birch, draft)
    send(alder, 1, birch)
    erase(birch)
    with pytest.raises(ConflictError, match="already"):
        erase(birch)


def test_only_the_operator_can_erase(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    service = birch.service()
    token_text = service.create_token(name="t", scopes=["incidents:release"], days=1)["token"]
    body = json.dumps({"reason": "retention", "by": "x"}).encode()
    path = f"/api/v1/incidents/{KEY}/erase"
    asked = Request("POST", path, body=body, token=token_text)
    assert api.dispatch(service, asked).status == 404
    assert api.dispatch(service, replace(asked, operator=True)).status == 200
    (act,) = service.handling.accesses(KEY)["items"]
    assert (act["what"], act["who"], act["note"]) == ("erase", "operator", "retention, by x")


# --- the receipt of it -----------------------------------------------------------------------
def test_the_author_gets_a_receipt_that_it_verifies_and_keeps(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = send(alder, 1, birch)
    web = Web(alder, birch)
    erase(birch)
    alder.clock.advance(MINUTE)
    web.link("alder", "birch")
    (shown,) = alder.service().deliveries(KEY)["items"]
    assert (shown["state"], shown["erased_at"]) == ("received", rfc3339(alder.clock.now()))
    assert web.frames(Settled, "alder", "birch")
    assert not birch.core.receipts.for_author(alder.id, passed=frozenset())
    alder.reopen()
    alder.core.verify()
    kinds = {r["kind"] for r in alder.core.store.rows("SELECT kind FROM receipts")}
    assert kinds == {EntryKind.RECEIVED, EntryKind.ERASED}
    assert alder.state(key, birch) == "received"


def test_it_is_sent_until_the_author_has_it(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    erase(birch)
    birch.reopen()
    web = Web(alder, birch)
    web.join("alder", "birch")
    with full_disk_of_receipts(alder):
        web.pump()
    assert birch.core.receipts.for_author(alder.id, passed=frozenset())
    web = Web(alder, birch)
    web.link("alder", "birch")
    assert not birch.core.receipts.for_author(alder.id, passed=frozenset())
    before = len(web.frames(Receipts))
    web.cut("alder", "birch")
    web.link("alder", "birch")
    assert len(web.frames(Receipts)) == before


class full_disk_of_receipts:  # noqa: N801  used as a statement
    """Let a node take no receipts: its disk is full."""

    def __init__(self, station: Station) -> None:
        self._receipts = station.core.receipts
        self._take = self._receipts.take

    def __enter__(self) -> None:
        def refuse(_receipts: object) -> tuple[bytes, ...]:
            raise ReceiptError("not now")

        self._receipts.take = refuse  # type: ignore[method-assign, assignment]

    def __exit__(self, *_: object) -> None:
        self._receipts.take = self._take  # type: ignore[method-assign]


def test_a_delivery_statement_says_what_it_said(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = send(alder, 1, birch)
    alder.clock.advance(limits.REACHABLE_WINDOW_MS + 1)
    (before,) = dearmor_statements(alder.service().delivery_statement(key.hex())["statement"])
    erase(birch)
    for receipts in birch.core.receipts.for_author(alder.id, passed=frozenset()):
        alder.core.take_receipts(receipts)
    erase(alder)
    (after,) = dearmor_statements(alder.service().delivery_statement(key.hex())["statement"])
    reports = [check_statement(data) for data in (before, after)]
    assert all(report.holds for report in reports)
    assert reports[0].statement is not None
    assert reports[1].statement is not None
    assert reports[0].statement.facts == reports[1].statement.facts
    assert all(isinstance(item, Delivered) for item in reports[1].statement.items)


def erasure_receipt(reader: Station, author: Station) -> Receipts:
    (receipts,) = reader.core.receipts.for_author(author.id, passed=frozenset())
    return receipts


def test_an_erasure_is_no_delivery(world: World) -> None:
    """Who says only that it erased something has not said that it received it."""
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    hand(alder, birch, key)
    birch.core.try_follow()
    erase(birch)
    alder.core.take_receipts(erasure_receipt(birch, alder))
    assert alder.state(key, birch) == "queued"
    for receipts in hand(alder, birch, key).receipts:
        alder.core.take_receipts(receipts)
    assert alder.state(key, birch) == "received"
    alder.core.verify()


def test_an_erasure_of_an_envelope_of_somebody_else_is_refused(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    send(alder, 1, birch, cedar)
    erase(birch)
    with pytest.raises(ReceiptError, match="did not write"):
        cedar.core.take_receipts(erasure_receipt(birch, alder))


def test_a_forged_erasure_is_refused(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first, second = send(alder, 1, birch), send(alder, 2, birch)
    erase(birch)
    good = erasure_receipt(birch, alder)
    item = good.items[0]
    assert item.envelope_id == first
    for bad in (
        replace(item, envelope_id=second),
        replace(item, index=item.index - 1),
        replace(item, proof=item.proof[1:]),
    ):
        with pytest.raises(PeerError):
            alder.core.take_receipts(replace(good, items=(bad,)))
    with pytest.raises(PeerError):
        alder.core.take_receipts(replace(good, recipient=world["cedar"].id))
    alder.core.take_receipts(good)
    before = alder.core.log.size
    alder.core.take_receipts(good)
    assert alder.core.log.size == before


def test_our_own_erasure_is_owed_to_nobody(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    erase(alder)
    assert not alder.core.receipts.for_author(alder.id, passed=frozenset())


# --- crashes ---------------------------------------------------------------------------------
def test_a_crash_between_any_two_effects_loses_nothing_and_brings_nothing_back(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    homes, happened, crashed = made_once(tmp_path_factory), set(), True
    for step in range(1, 40):
        folder = tmp_path / str(step)
        folder.mkdir()
        with copied(homes, folder, ("alder", "birch")) as world:
            alder, birch = world["alder"], world["birch"]
            keys = [send(alder, number, birch) for number in (1, 2)]
            bodies = [birch.envelope(key).ciphertext for key in keys]
            core = birch.reopen(store=FaultyStore)
            assert isinstance(core.store, FaultyStore)
            core.store.arm(step)
            crashed = True
            with suppress(CrashError):
                erase(birch)
                crashed = False
            core.store.arm(0)
            birch.reopen()
            done = birch.core.erasures.knows(keys[0])
            happened.add((crashed, done))
            assert done or birch.core.open(keys[0])
            if not done:
                erase(birch)
            assert birch.service().incident(KEY)["state"] == "erased"
            assert not left_of(birch, bodies[0])
            assert birch.core.open(keys[1])
            birch.core.verify()
        if not crashed:
            break
    assert not crashed
    assert {(True, False), (False, True)} <= happened


@pytest.mark.parametrize("when", ["before the casebook", "in it", "before the last wipe"])
def test_a_crash_after_the_commit_is_made_good_at_the_next_start(
    world: World, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch = world["alder"], world["birch"]
    store = give_store(alder)
    with store.writer(len(CONTENT)) as writer:
        writer.write(CONTENT)
        ref = writer.finish()
    key = send(alder, 1, birch, ref=ref)
    body = alder.envelope(key).ciphertext

    def crash(*_: object, **__: object) -> None:
        raise CrashError(when)

    _, cases = alder.core.opened()
    target: tuple[object, str] = {
        "before the casebook": (alder.core.store, "wipe"), "in it": (cases, "erase"),
        "before the last wipe": (cases, "wipe"),
    }[when]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(*target, crash)
        with pytest.raises(CrashError):
            erase(alder)
    alder.close()
    alder.open(locked=True)
    give_store(alder)
    alder.core.unlock(alder.vault)
    assert alder.service().incident(KEY)["state"] == "erased"
    assert alder.core.blobs is not None
    assert not alder.core.blobs.holds(ref.id)
    assert not left_of(alder, body, CANARY.encode())
    alder.core.verify()


def test_a_full_disk_erases_nothing_or_all(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    before = birch.dump()
    try:
        with full_disk(birch):
            erase(birch)
    except BusyError:
        assert birch.dump() == before
        erase(birch)
    assert birch.service().incident(KEY)["state"] == "erased"


def test_a_full_casebook_is_made_good_later(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    with full_case_disk(birch):
        seen = erase(birch)
    if not seen["done"]:
        assert birch.core.behind is not None
    birch.core.try_follow()
    assert birch.service().incident(KEY)["state"] == "erased"


# --- verifying -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fault",
    [
        "DELETE FROM erasures",
        "UPDATE erasures SET log_index = log_index - 1",
        "DELETE FROM stubs",
        "UPDATE erasures SET envelope_id = zeroblob(32)",
    ],
)
def test_verifying_finds_an_erasure_that_was_tampered_with(world: World, fault: str) -> None:
    alder, birch = world["alder"], world["birch"]
    send(alder, 1, birch)
    send(alder, 2, birch)
    erase(birch)
    birch.core.verify()
    with birch.core.store.transaction():
        birch.core.store.run(fault)
    with pytest.raises(LogCorruptionError):
        birch.core.verify()


def test_bytes_that_vanish_without_a_log_entry_are_no_erasure(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    first, second = send(alder, 1, birch), send(alder, 2, birch)
    erase(birch)
    with birch.core.store.transaction():
        # As if the second had been erased like the first.
        stub = birch.core.store.stub(first)
        birch.core.store.run("UPDATE envelopes SET wire = NULL WHERE id = ?", second)
        birch.core.store.insert("stubs", {"envelope_id": second, "stub": stub})
        birch.core.store.insert(
            "erasures", {"envelope_id": second, "log_index": 3, "settled": 1, "slot": None}
        )
    with pytest.raises(LogCorruptionError):
        birch.core.verify()


def test_a_header_that_is_left_is_still_the_authors(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = send(alder, 1, birch)
    signed = birch.core.signed(key)
    erase(birch)
    assert birch.core.signed(key) == signed
    assert signed is not None
    suite.verify("message", alder.core.card.message, key, signed.signature)


# --- custody ---------------------------------------------------------------------------------
def test_carriers_that_were_not_asked_are_withdrawn_too(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch, carriers=[cedar])
    erase(alder, also_undelivered=True)
    rows = alder.core.store.rows("SELECT route, state FROM outbox WHERE envelope_id = ?", key)
    assert {(row["route"], row["state"]) for row in rows} == {
        (Route.DIRECT, "withdrawn"), (Route.CARRIER, "withdrawn"),
    }  # fmt: skip
    alder.core.outbox.ask_carriers(frozenset({cedar.id}))
    assert not alder.core.outbox.due(cedar.id, limit=9, skip=frozenset())


def test_erasing_needs_an_unlocked_node(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    key = send(alder, 1, birch)
    core = birch.reopen(locked=True)
    with pytest.raises(Exception, match="locked"):
        core.erase(
            [Doomed(key, KEY, "PI-XA-2026-000001", 1, "face")], reason=Reason.RETENTION, by="x",
            who=OPERATOR,
        )  # fmt: skip
    assert core.held(key) is not None
    give(alder, birch, alder.envelope(key).wire)
    assert birch.core.held(key) is not None
