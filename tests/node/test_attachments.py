"""Attachments between whole nodes without sockets: who gets them, from whom, what goes wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from keys.trust import Level, Verification
from node.attachments import AVOID_MS, STALL_MS, Job
from node.blobs import BlobStore
from node.config import load_config
from node.enclosures import Fetching
from node.service import Network, Service
from protocol import limits
from protocol.blob import BLOB_CHUNK, Blob, BlobChunk, BlobRef, NoBlob, WantBlob
from protocol.canonical import encode
from protocol.errors import DigestError, InvalidIncidentError, NotFoundError
from protocol.frames import Deliver
from protocol.incident import enclose, parse_incident, to_record
from tests.node.factories import Station, World, copied, full_disk, incident, incident_id, made_once
from tests.node.factories import token as token_of
from tests.node.wiring import SECOND, Web

CHUNKS: Final = 40
CONTENT: Final = hashlib.shake_256(b"attachment").digest(CHUNKS * BLOB_CHUNK - 1_000)
NAMES: Final = ("alder", "birch", "cedar", "dogwood")


def give_store(station: Station) -> BlobStore:
    station.core.blobs = BlobStore(station.home.attachments, quota=2**30, min_free=0)
    return station.core.blobs


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        for station in opened:
            give_store(station)
        yield opened


def blobs(station: Station) -> BlobStore:
    store = station.core.blobs
    assert store is not None
    return store


def put(station: Station, content: bytes = CONTENT) -> BlobRef:
    with blobs(station).writer(len(content)) as writer:
        writer.write(content)
        return writer.finish()


def release(
    author: Station, ref: BlobRef, *to: Station, number: int = 1, carriers: tuple[Station, ...] = ()
) -> bytes:
    """Release an incident whose annex names *ref*."""
    value = incident("drums")
    value["annex"] = {
        "attachments": [
            {
                "sha256": ref.sha256.hex(), "media_type": "image/jpeg", "size": ref.size,
                "kind": "label_photo",
            }
        ]
    }  # fmt: skip
    parsed = enclose(parse_incident(value), {ref.sha256.hex(): ref})
    body = to_record(
        parsed, incident_id=incident_id(number), ref=f"PI-XA-2026-{number:06d}", revision=1,
        prev=None, layers=frozenset({"face", "annex"}), first_shared_at="2026-03-04T09:00:00Z",
    )  # fmt: skip
    shipment = author.ship(*to, body=encode(body), carriers=carriers, layers="face annex")
    (key,) = author.core.release(token_of(number), [replace(shipment, blobs=(ref.id,))])
    # Nothing was opened yet: the rows came with the release itself.
    assert author.core.blob_refs.known(ref.id)
    author.core.try_follow()
    return key


def wanted(station: Station) -> Blob:
    """Return the one attachment that the station's records name."""
    _, cases = station.core.opened()
    (row,) = cases.attachments()
    ref: BlobRef = row["ref"]
    return ref.blob


def reads(station: Station, content: bytes = CONTENT) -> bool:
    """Whether the station holds and opens the attachment."""
    _, cases = station.core.opened()
    ref: BlobRef = cases.attachments()[0]["ref"]
    if not blobs(station).holds(ref.id):
        return False
    blobs(station).check(ref)
    return b"".join(blobs(station).read(ref)) == content


def fetch(web: Web, name: str) -> None:
    web[name].gossip.attachments.fetch(wanted(web[name].station))
    web.pump()


def chunks(web: Web, giver: str = "", taker: str = "") -> list[int]:
    return [frame.index for frame in web.frames(BlobChunk, giver, taker)]


def faults(web: Web, name: str) -> dict[bytes, int]:
    return web[name].gossip.attachments.faults


def four(world: World) -> tuple[Station, Station, Station, Station]:
    return world["alder"], world["birch"], world["cedar"], world["dogwood"]


def shared(world: World, *names: str) -> Web:
    """Let alder release one attachment to birch and cedar, with all *names* linked."""
    alder, birch, cedar, _ = four(world)
    web = Web(*(world[name] for name in names))
    web.link(*names)
    release(alder, put(alder), birch, cedar)
    web.pump()
    return web


# --- from whom -------------------------------------------------------------------------------
def test_a_member_fetches_from_the_author_and_each_chunk_travels_once(world: World) -> None:
    web = shared(world, "alder", "birch", "cedar")
    assert not web.frames(WantBlob)
    fetch(web, "birch")
    assert reads(world["birch"])
    assert sorted(chunks(web, "alder", "birch")) == list(range(CHUNKS))
    assert len(chunks(web)) == CHUNKS
    assert web["birch"].gossip.attachments.progress() == {}
    assert not blobs(world["cedar"]).whole()


def test_what_is_on_the_way_stays_within_the_window(world: World) -> None:
    web = shared(world, "alder", "birch")
    gossip = web["birch"].gossip
    gossip.attachments.fetch(wanted(world["birch"]))
    for _ in range(10_000):
        progress = gossip.attachments.progress()
        if not progress:
            break
        line = web.line("alder", "birch")
        assert line.waiting <= limits.BLOB_WINDOW * (BLOB_CHUNK + 2_000)
        gossip.pump()
        web.pump(1)
    assert reads(world["birch"])
    assert all(want.count <= limits.BLOB_WINDOW for want in web.frames(WantBlob))
    assert len(web.frames(WantBlob)) <= CHUNKS // (limits.BLOB_WINDOW // 2) + 2


def test_another_member_gives_it_when_the_author_is_away(world: World) -> None:
    web = shared(world, "alder", "birch", "cedar")
    fetch(web, "birch")
    web.stop("alder")
    web.passed.clear()
    fetch(web, "cedar")
    assert reads(world["cedar"])
    assert len(chunks(web, "birch", "cedar")) == CHUNKS


def test_the_author_is_asked_before_other_members(world: World) -> None:
    web = shared(world, "alder", "birch", "cedar")
    fetch(web, "birch")
    web.passed.clear()
    fetch(web, "cedar")
    assert len(chunks(web, "alder", "cedar")) == CHUNKS
    assert not chunks(web, "birch", "cedar")


def test_a_member_that_lacks_it_is_left_for_one_that_has_it(world: World) -> None:
    alder, birch, cedar, dogwood = four(world)
    web = Web(alder, birch, cedar, dogwood)
    web.link(*NAMES)
    release(alder, put(alder), birch, cedar, dogwood)
    web.pump()
    holder = max((birch, cedar), key=lambda station: station.id)
    fetch(web, holder.name)
    web.stop("alder")
    fetch(web, "dogwood")
    assert reads(dogwood)
    assert chunks(web, holder.name, "dogwood")


def test_a_locked_node_serves_what_it_had_opened_before(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    release(alder, put(alder), birch, cedar)
    alder.close()
    alder.open(locked=True)
    give_store(alder)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(2)
    fetch(web, "birch")
    assert reads(birch)


def test_an_author_to_which_nothing_is_given_is_a_source_all_the_same(world: World) -> None:
    web = shared(world, "alder", "birch")
    verification = Verification("voice", "test", 1)
    world["birch"].core.approve_peer(world["alder"].id, Level.OBSERVE, verification)
    fetch(web, "birch")
    assert reads(world["birch"])


def test_four_attachments_at_a_time_share_the_window_of_a_link(world: World) -> None:
    alder, birch, *_ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    refs = [put(alder, CONTENT + bytes([number])) for number in range(6)]
    for number, ref in enumerate(refs):
        release(alder, ref, birch, number=number)
    web.pump()
    attachments = web["birch"].gossip.attachments
    for ref in refs:
        attachments.fetch(ref.blob)
    busiest = 0
    for _ in range(10_000):
        web["birch"].gossip.pump()
        at_once = [each for each in attachments.progress().values() if each.source is not None]
        busiest = max(busiest, len(at_once))
        asked = sum(want.count for want in web.frames(WantBlob))
        assert asked - len(chunks(web)) <= limits.BLOB_WINDOW
        if not attachments.progress():
            break
        web.clock.advance(200)
        web.pump(1)
    assert busiest == limits.MAX_BLOBS_PER_LINK
    assert all(blobs(birch).holds(ref.id) for ref in refs)


# --- who gets nothing ------------------------------------------------------------------------
@pytest.mark.parametrize("who", ["dogwood", "cedar"], ids=["outsider", "carrier"])
def test_whoever_may_not_read_it_gets_the_answer_for_what_does_not_exist(
    world: World, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch, cedar, dogwood = four(world)
    web = Web(alder, birch, cedar, dogwood)
    web.link(*NAMES)
    ref = put(alder)
    for other in ("alder", "cedar", "dogwood"):
        web.cut("birch", other)
    release(alder, ref, birch, carriers=(cedar,))
    web.run(60)
    if who == "cedar":
        assert cedar.core.store.scalar("SELECT count(*) FROM envelopes WHERE part = 'carrier'")
    touched: list[bytes] = []
    monkeypatch.setattr(BlobStore, "chunk", lambda _self, key, _index: touched.append(key))
    web.passed.clear()
    unknown = bytes(32)
    web.say(who, "alder", WantBlob(ref.id, 0, 1), WantBlob(unknown, 0, 1))
    answers = [each for each in web.between("alder", who) if isinstance(each.frame, NoBlob)]
    assert [each.frame for each in answers] == [NoBlob(ref.id), NoBlob(unknown)]
    assert len({each.size for each in answers}) == 1
    assert not touched
    assert not chunks(web)


def test_a_member_gets_the_same_answer_for_what_is_not_whole_here(world: World) -> None:
    web = shared(world, "alder", "birch", "cedar")
    blob = wanted(world["birch"])
    blobs(world["birch"]).begin(blob)
    web.say("cedar", "birch", WantBlob(blob.id, 0, 1))
    assert web.frames(NoBlob, "birch", "cedar") == [NoBlob(blob.id)]


def test_a_peer_to_which_nothing_is_given_any_more_gets_nothing(world: World) -> None:
    web = shared(world, "alder", "birch")
    alder = world["alder"]
    verification = Verification("voice", "test", 1)
    alder.core.approve_peer(world["birch"].id, Level.OBSERVE, verification)
    assert not alder.core.trust.gives_to(world["birch"].id)
    blob = wanted(world["birch"])
    web.say("birch", "alder", WantBlob(blob.id, 0, 1))
    assert web.frames(NoBlob, "alder", "birch") == [NoBlob(blob.id)]


def test_a_peer_cannot_let_more_wait_than_the_window(world: World) -> None:
    web = shared(world, "alder", "birch")
    blob = wanted(world["birch"])
    line = web.line("alder", "birch")
    serve = web["alder"].gossip.attachments
    for _ in range(50):
        serve.heard(line, WantBlob(blob.id, 0, limits.BLOB_WINDOW))
    web.pump()
    assert len(chunks(web, "alder", "birch")) == limits.BLOB_WINDOW


def test_chunks_that_nobody_asked_for_are_not_taken(world: World) -> None:
    web = shared(world, "alder", "birch", "cedar")
    blob = wanted(world["birch"])
    data, proof = blobs(world["alder"]).chunk(blob.id, 0)
    web.say("cedar", "birch", BlobChunk(blob.id, 0, data, proof))
    assert not blobs(world["birch"]).partial()
    assert web.linked("birch", "cedar")


def test_a_source_cannot_bring_more_than_it_was_asked_for(world: World) -> None:
    web = shared(world, "alder", "birch")
    web["alder"].gossip.attachments.work = lambda _job: None  # it says nothing by itself
    fetch(web, "birch")
    blob = wanted(world["birch"])
    beyond = limits.BLOB_WINDOW + 3
    for index in (beyond, beyond, 0, 0):
        web.say(
            "alder",
            "birch",
            BlobChunk(blob.id, index, *blobs(world["alder"]).chunk(blob.id, index)),
        )
    (progress,) = web["birch"].gossip.attachments.progress().values()
    assert progress.have == 1
    assert blobs(world["birch"]).missing(blob, 1) == (1,)
    assert beyond in blobs(world["birch"]).missing(blob, CHUNKS)


# --- what goes wrong -------------------------------------------------------------------------
def lying(station: Station, monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    """Let a node serve chunk number *bad* with one bit changed."""
    store, honest = blobs(station), blobs(station).chunk

    def chunk(key: bytes, index: int) -> tuple[bytes, tuple[bytes, ...]]:
        data, proof = honest(key, index)
        return (bytes([data[0] ^ (index == bad)]) + data[1:]), proof

    monkeypatch.setattr(store, "chunk", chunk)


def test_a_wrong_chunk_ends_only_that_source(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    web = shared(world, "alder", "birch", "cedar")
    fetch(web, "cedar")
    lying(world["alder"], monkeypatch, bad=20)
    web.passed.clear()
    fetch(web, "birch")
    assert reads(world["birch"])
    assert faults(web, "birch") == {world["alder"].id: 1}
    assert 20 in chunks(web, "alder", "birch")
    assert 20 in chunks(web, "cedar", "birch")
    # What came before the wrong chunk was kept, and the link goes on for everything else.
    assert not set(range(20)) & set(chunks(web, "cedar", "birch"))
    assert web.linked("alder", "birch")
    release(world["alder"], put(world["alder"], b"other"), world["birch"], number=2)
    web.pump()
    assert len(world["birch"].shows()) == 2


def test_with_one_dishonest_source_nothing_is_taken_and_it_is_not_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = shared(world, "alder", "birch")
    with monkeypatch.context() as patched:
        lying(world["alder"], patched, bad=0)
        fetch(web, "birch")
        web.run(200)
        assert chunks(web, "alder", "birch").count(0) == 1
    assert not blobs(world["birch"]).whole()
    fetch(web, "birch")  # the operator asks again
    assert reads(world["birch"])


def test_a_source_that_falls_silent_is_left_after_a_while(world: World) -> None:
    web = shared(world, "alder", "birch", "cedar")
    fetch(web, "cedar")
    web["alder"].gossip.attachments.work = lambda _job: None  # its disk hangs
    web.passed.clear()
    fetch(web, "birch")
    assert not chunks(web)
    web.run(STALL_MS // SECOND + 2)
    assert reads(world["birch"])
    assert len(chunks(web, "cedar", "birch")) == CHUNKS


def test_a_source_that_lacked_it_is_asked_again_later(world: World) -> None:
    web = shared(world, "alder", "birch")
    blob = wanted(world["birch"])
    kept = blobs(world["alder"])._whole.pop(blob.id)
    fetch(web, "birch")
    assert web.frames(NoBlob, "alder", "birch")
    blobs(world["alder"])._whole[blob.id] = kept
    web.run(AVOID_MS // SECOND + 3)
    assert reads(world["birch"])


def cut_in_the_middle(web: Web, after: int) -> None:
    web["birch"].gossip.attachments.fetch(wanted(web["birch"].station))
    for _ in range(10_000):
        if len(chunks(web, "alder", "birch")) >= after:
            return
        web.pump(1)
    raise AssertionError("nothing came")


def test_after_a_cut_only_what_is_missing_is_fetched(world: World) -> None:
    web = shared(world, "alder", "birch")
    cut_in_the_middle(web, 10)
    came = chunks(web, "alder", "birch")
    web.cut("alder", "birch")
    web.passed.clear()
    web.link("alder", "birch")
    web.run(2)
    assert reads(world["birch"])
    assert sorted(came + chunks(web, "alder", "birch")) == list(range(CHUNKS))


def test_after_a_restart_it_goes_on_by_itself_with_what_is_missing(world: World) -> None:
    web = shared(world, "alder", "birch")
    cut_in_the_middle(web, 10)
    came = chunks(web, "alder", "birch")
    birch = web.stop("birch")
    web.passed.clear()
    birch.open()
    give_store(birch)
    birch_party = Web(world["alder"], birch)
    birch_party.link("alder", "birch")
    birch_party.run(2)
    assert reads(birch)
    assert sorted(came + chunks(birch_party, "alder", "birch")) == list(range(CHUNKS))


def test_a_full_disk_puts_it_off_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    web = shared(world, "alder", "birch")
    monkeypatch.setattr(blobs(world["birch"]), "quota", 1_000)
    fetch(web, "birch")
    (progress,) = web["birch"].gossip.attachments.progress().values()
    assert "does not fit" in progress.trouble
    monkeypatch.setattr(blobs(world["birch"]), "quota", 2**30)
    web.run(40)
    assert reads(world["birch"])


def test_dropping_while_the_download_is_made_leaves_nothing(world: World) -> None:
    web = shared(world, "alder", "birch")
    attachments, jobs = web["birch"].gossip.attachments, list[Job]()
    attachments.work = jobs.append
    fetch(web, "birch")
    blob = wanted(world["birch"])
    attachments.drop(blob.id)
    blobs(world["birch"]).delete(blob.id)
    while jobs:
        jobs.pop()()
        web.pump()
    assert not blobs(world["birch"]).partial()
    assert not attachments.progress()


def test_the_status_names_who_sent_what_does_not_verify(world: World) -> None:
    alder, birch, *_ = four(world)
    service = Service(
        birch.core, config=load_config(birch.home), clock=birch.clock, random=birch.random,
        network=Network(fetching=Fetching(faults={alder.id: 2})),
    )  # fmt: skip
    notices = {row["code"]: row["message"] for row in service.status()["notices"]}
    assert notices["bad-attachment"].startswith("alder sent parts of 2 attachments")


def test_dropping_ends_a_fetch(world: World) -> None:
    web = shared(world, "alder", "birch")
    cut_in_the_middle(web, 5)
    blob = wanted(world["birch"])
    web["birch"].gossip.attachments.drop(blob.id)
    blobs(world["birch"]).delete(blob.id)
    web.pump()
    assert not blobs(world["birch"]).partial()
    with pytest.raises(NotFoundError):
        blobs(world["birch"]).chunk(blob.id, 0)
    fetch(web, "birch")
    assert reads(world["birch"])


def test_what_rots_at_a_member_is_mended_from_another(world: World) -> None:
    web = shared(world, "alder", "birch")
    fetch(web, "birch")
    blob = wanted(world["birch"])
    path = blobs(world["alder"]).folder / f"{blob.id.hex()}-{blob.padded:x}"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    web.passed.clear()
    web.say("birch", "alder", WantBlob(blob.id, 0, 1))
    assert web.frames(NoBlob, "alder", "birch") == [NoBlob(blob.id)]
    web.run(2)
    assert blobs(world["alder"]).holds(blob.id)
    assert chunks(web, "birch", "alder") == [0]


# --- beside everything else ------------------------------------------------------------------
def test_what_is_released_meanwhile_overtakes_the_chunks(world: World) -> None:
    web = shared(world, "alder", "birch")
    web["birch"].gossip.attachments.fetch(wanted(world["birch"]))
    web["birch"].gossip.pump()
    line, there = web.line("birch", "alder"), web.line("alder", "birch")
    while (message := line.next_message()) is not None:
        web.handle("alder", (there, message))
    web["alder"].gossip.pump()
    assert there.waiting > 10 * BLOB_CHUNK
    world["alder"].release(7, world["birch"])
    web.passed.clear()
    web["alder"].gossip.pump()
    web.pump(1)
    assert any(isinstance(each.frame, Deliver) for each in web.passed[:2])


def test_release_and_the_rows_that_let_it_be_served_are_one_transaction(world: World) -> None:
    alder, birch, *_ = four(world)
    ref = put(alder)
    before = alder.dump()
    with full_disk(alder), pytest.raises(Exception, match="disk"):
        for number in range(1, 100):
            release(alder, ref, birch, number=number)
    after = alder.dump()
    assert len(after["blob_refs"]) == len(after["envelopes"]) - len(before["envelopes"])


def test_the_casebook_shows_no_key(world: World) -> None:
    alder, birch, *_ = four(world)
    ref = put(alder)
    release(alder, ref, birch)
    shown: dict[str, Any] = alder.service().incident(incident_id(1))
    assert ref.id.hex() not in repr(shown)
    assert ref.key.hex() not in repr(shown)
    assert shown["annex"]["attachments"][0]["sha256"] == ref.sha256.hex()
    assert ref.key not in alder.home.node_db.read_bytes()


def test_a_record_that_lies_about_a_digest_does_not_hide_the_genuine_file(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    # Cedar knows the digest and claims it first, for other bytes.
    sha256 = hashlib.sha256(CONTENT).digest()
    false = put(cedar, bytes(len(CONTENT)))
    release(cedar, replace(false, sha256=sha256), birch, number=2)
    web.pump()
    enclosures = birch.service().enclosures
    web["birch"].gossip.attachments.fetch(false.blob)
    web.pump()
    with pytest.raises(DigestError, match="not the file that the record names"):
        enclosures.download(sha256.hex()).open()
    genuine = put(alder)
    release(alder, genuine, birch)
    web.pump()
    reserve, _ = enclosures.fetch(sha256.hex())
    for blob in reserve():
        web["birch"].gossip.attachments.fetch(blob)
    web.run(2)
    assert enclosures.download(sha256.hex()).open() == genuine


# --- at unlock -------------------------------------------------------------------------------
def test_what_a_crash_left_of_a_release_is_deleted_at_unlock_and_nothing_else(world: World) -> None:
    alder, birch, *_ = four(world)
    released, uploaded, orphan = put(alder), put(alder, b"uploaded"), put(alder, b"orphan")
    release(alder, released, birch)
    upload = alder.service().enclosures.upload(uploaded.sha256.hex())
    upload.keep(uploaded)
    alder.close()
    core = alder.open(locked=True)
    store = give_store(alder)
    core.unlock(alder.vault)
    assert store.holds(released.id)
    assert store.holds(uploaded.id)
    assert not store.holds(orphan.id)


def test_a_casebook_of_before_attachments_is_taken_over(world: World) -> None:
    alder = world["alder"]
    alder.release(1, world["birch"])
    _, cases = alder.core.opened()
    cases._connection.execute("DROP TABLE attachments")
    cases._connection.execute("PRAGMA user_version = 1")
    alder.reopen()
    give_store(alder)
    assert alder.shows() == {incident_id(1)}
    assert alder.service().enclosures.rows() == {"items": []}


@pytest.mark.parametrize(
    "names", [{"blob": "0" * 64}, {"key": "0" * 64}, {"blob": "0" * 64, "key": "0" * 64}]
)
def test_a_draft_cannot_choose_blob_or_key(world: World, names: dict[str, str]) -> None:
    value = incident("drums")
    value["annex"] = {
        "attachments": [
            {"sha256": "0" * 64, "media_type": "image/jpeg", "size": 1, "kind": "other", **names}
        ]
    }
    with pytest.raises(InvalidIncidentError) as raised:
        world["alder"].service().create_draft(value)
    assert raised.value.problems[0][0].startswith("/annex/attachments/0")
