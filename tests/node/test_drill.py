"""A sealing key is lost: what it has opened, a new one, and word to those who sealed to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node import drill, ownkeys
from node.clock import rfc3339
from node.drill import own_sealing, parse_moment
from protocol import exposure, limits
from protocol.errors import (
    AudienceError,
    LockedError,
    NotFoundError,
    PeerError,
    QuotaError,
    RequestError,
    SignatureError,
    StatementError,
    StoreError,
    UnknownCardError,
    UntrustedKeyError,
    WrongNetworkError,
)
from protocol.exposure import Exposed, ExposureHeard
from protocol.suite import Ed25519Signer
from tests.node.factories import DAY, MINUTE, Row, Station, World, copied, made_once
from tests.node.wiring import Web

DAY_OF_LOSS = "2026-09-21"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


@pytest.fixture
def web(world: World) -> Web:
    """Alder and cedar release to birch, which has lost its key."""
    web = Web(world["alder"], world["birch"], world["cedar"])
    web.link("alder", "birch", "cedar")
    return web


def tell(station: Station, **lost: str) -> Row:
    """Do what ``picket keys exposed --tell`` does at a running node."""
    desk = station.service().keys
    desk._running = True
    return desk.tell_exposed(**{"key": "", "since": "", "until": "", **lost})


def named(seen: Row) -> dict[str, int]:
    """How many messages of each author the first key opens."""
    return {row["name"]: row["envelopes"] for row in seen["keys"][0]["authors"]}


def items(station: Station, direction: str) -> list[Row]:
    told: list[Row] = station.service().keys.exposures()["items"]
    return [row for row in told if row["direction"] == direction]


def acts(station: Station, envelope_id: bytes) -> list[tuple[str, str]]:
    return [(each.act.what, each.act.who) for each in station.core.access.about([envelope_id])]


# --- what was lost ---------------------------------------------------------------------------
def test_it_lists_what_a_lost_key_opens_by_author(world: World, web: Web) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    ids = [alder.release(n, birch) for n in (1, 2)]  # the second by the key of the first
    cedar.release(3, birch)
    birch.release(4, alder)
    web.pump()
    seen = birch.service().keys.exposed(key="", since=DAY_OF_LOSS, until="")
    assert len(seen["keys"]) == 1 and seen["keys"][0]["in_use"]
    assert named(seen) == {"alder": 2, "cedar": 1, "this node": 1}
    (row,) = [row for row in seen["keys"][0]["authors"] if row["name"] == "alder"]
    assert row["ids"] == [each.hex() for each in ids]
    assert row["refs"] == ["PI-XA-2026-000001", "PI-XA-2026-000002"]
    assert not items(birch, "out"), "looking tells nobody"


def test_a_locked_node_knows_it_too_without_the_references(world: World, web: Web) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    web.pump()
    birch.reopen(locked=True)
    seen = birch.service().keys.exposed(key="", since=DAY_OF_LOSS, until="")
    assert named(seen) == {"alder": 1}
    assert seen["keys"][0]["authors"][0]["refs"] == []
    with pytest.raises(LockedError):
        tell(birch, since=DAY_OF_LOSS)


def test_of_several_keys_each_has_its_own_messages(world: World, web: Web) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    web.pump()
    world.clock.advance(DAY)
    ownkeys.rotate_sealing(birch.core)
    web.run(2)
    alder.release(2, birch)
    web.pump()
    seen = birch.service().keys.exposed(key="", since=DAY_OF_LOSS, until="")
    assert [[a["envelopes"] for a in key["authors"]] for key in seen["keys"]] == [[1], [1]]
    first, second = own_sealing(birch.core.trust.own)
    assert (first.until, second.until) == (second.since, None)
    one = birch.service().keys.exposed(key=first.ekid.hex()[:16], since="", until="")
    assert [key["key"] for key in one["keys"]] == [first.ekid.hex()]


@pytest.mark.parametrize(
    ("lost", "error"),
    [
        ({}, RequestError), ({"since": "yesterday"}, RequestError),
        ({"since": "2026-02-30"}, RequestError), ({"since": "2026-9-1"}, RequestError),
        ({"since": "2026-09-21T18:00"}, RequestError),
        ({"since": "2026-09-21", "until": "2026-09-20"}, RequestError),
        ({"key": "00" * 32}, NotFoundError), ({"key": ""}, RequestError),
        ({"key": "ab"}, NotFoundError),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line(
    world: World, lost: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        tell(world["birch"], **lost)
    assert "\n" not in str(caught.value)


def test_a_day_is_read_as_utc() -> None:
    assert parse_moment("1970-01-02") == DAY
    assert parse_moment("1970-01-01T00:01Z") == parse_moment("1970-01-01T00:01:00Z") == MINUTE


# --- telling ---------------------------------------------------------------------------------
def test_telling_makes_a_new_key_and_tells_each_author(world: World, web: Web) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    ids = [alder.release(n, birch) for n in (1, 2)]
    other = cedar.release(3, birch)
    web.pump()
    old = birch.core.card.seal[0]
    done = tell(birch, since=DAY_OF_LOSS)
    assert done["new_key"] and done["records"] == 2 and done["waits_for"] == ["alder", "cedar"]
    assert old.public not in {key.public for key in birch.core.card.seal}
    web.run(2)
    assert birch.service().keys.exposures()["waits_for"] == []
    assert alder.core.trust.peer(birch.id).card == birch.core.card, "nothing more is sealed to it"
    (heard,) = items(alder, "in")
    assert heard["ids"] == sorted(each.hex() for each in ids)
    assert heard["key"] == old.ekid.hex() and heard["from"].startswith(DAY_OF_LOSS)
    assert alder.notices()["exposed-there"] == (
        "birch has lost a key: who has it can read 2 messages "
        "(PI-XA-2026-000001, PI-XA-2026-000002) of this node"
    )
    assert items(cedar, "in")[0]["ids"] == [other.hex()], "nobody hears of what others wrote"
    for each in ids:
        assert ("exposed", "operator") in acts(birch, each)
        assert ("exposed-there", "node") in acts(alder, each)
    for station in (alder, birch, cedar):
        station.core.verify()
    world.clock.advance(31 * DAY)
    assert "exposed-there" not in alder.notices()


def test_who_is_away_hears_of_it_when_it_is_back_and_a_restart_forgets_nothing(
    world: World, web: Web
) -> None:
    alder, birch = world["alder"], world["birch"]
    key = alder.release(1, birch)
    web.pump()
    web.cut("alder", "birch")
    tell(birch, since=DAY_OF_LOSS)
    web.run(2)
    assert birch.notices()["exposure-waiting"] == "not told of the lost key yet: alder"
    web.restart("birch")
    web.link("alder", "birch")
    web.run(2)
    assert [row["ids"] for row in items(alder, "in")] == [[key.hex()]]
    assert "exposure-waiting" not in birch.notices()
    (row,) = items(birch, "out")
    assert row["told_at"] is not None


def test_telling_twice_says_nothing_twice(world: World, web: Web) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    web.pump()
    tell(birch, since=DAY_OF_LOSS)
    web.run(2)
    again = tell(birch, since=DAY_OF_LOSS, key=own_sealing(birch.core.trust.own)[0].ekid.hex())
    assert (again["new_key"], again["records"]) == (False, 0)
    web.cut("alder", "birch")
    web.link("alder", "birch")
    web.run(2)
    assert len(items(alder, "in")) == 1
    assert len(web.frames(Exposed, "birch", "alder")) == 1


def test_a_record_whose_acknowledgement_was_lost_comes_again_and_counts_once(
    world: World, web: Web
) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    web.pump()
    tell(birch, since=DAY_OF_LOSS)
    web.run(2)
    with birch.core.store.transaction():
        birch.core.store.run("UPDATE exposures SET told_at = NULL")
    web.run(57)
    assert len(web.frames(ExposureHeard, "alder", "birch")) == 1
    web.run(3)
    assert len(web.frames(ExposureHeard, "alder", "birch")) == 2
    assert len(items(alder, "in")) == 1
    assert items(birch, "out")[0]["told_at"] is not None


def test_what_comes_under_the_lost_key_afterwards_is_told_by_itself(world: World, web: Web) -> None:
    alder, birch = world["alder"], world["birch"]
    first = alder.release(1, birch)
    web.pump()
    web.cut("alder", "birch")
    late = alder.release(2, birch)  # alder has the old card still
    tell(birch, since=DAY_OF_LOSS)
    web.link("alder", "birch")
    web.run(2)
    assert birch.core.held(late) is not None
    assert birch.core.exposures.keep_up() == 1
    web.run(2)
    assert {each for row in items(alder, "in") for each in row["ids"]} == {first.hex(), late.hex()}
    assert birch.core.exposures.keep_up() == 0


def test_a_crash_before_the_records_is_made_good_by_a_second_call(
    world: World, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    web.pump()
    old = birch.core.card.seal[0]
    with monkeypatch.context() as patched:

        def crash(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(birch.core.access, "record", crash)
        with pytest.raises(KeyboardInterrupt):
            tell(birch, since=DAY_OF_LOSS)
    assert not items(birch, "out"), "all or nothing"
    assert birch.core.card.seal[0].ekid != old.ekid
    done = tell(birch, key=old.ekid.hex())
    assert (done["new_key"], done["records"]) == (False, 1)


def test_an_author_that_is_no_peer_any_more_is_named_for_a_call(world: World, web: Web) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    web.pump()
    trust = birch.core.trust
    kept = {key: peer for key, peer in trust.peers.items() if key != alder.id}
    birch.core.trust = replace(trust, peers=kept)
    seen = birch.service().keys.exposed(key="", since=DAY_OF_LOSS, until="")
    assert [row["can_be_told"] for row in seen["keys"][0]["authors"]] == [False]


# --- what is not believed --------------------------------------------------------------------
def said(holder: Station, author: Station, envelope_id: bytes, /, **changes: object) -> Exposed:
    core = holder.core
    record = exposure.Exposure(
        core.trust.own.network, holder.id, core.card_n, author.id, core.card.seal[0].ekid,
        1, 2, 3, (envelope_id,),
    )  # fmt: skip
    return exposure.sign_exposure(
        replace(record, **changes),  # type: ignore[arg-type]
        core.keys_open().message,
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"network": bytes(32)}, WrongNetworkError), ({"author": bytes(32)}, AudienceError),
        ({"holder": bytes(32)}, UnknownCardError), ({"card_n": 7}, UnknownCardError),
        ({"card_n": 0}, UntrustedKeyError),
    ],
)  # fmt: skip
def test_a_record_that_is_not_in_order_is_refused(
    world: World, changes: dict[str, object], error: type[PeerError]
) -> None:
    alder, birch = world["alder"], world["birch"]
    with pytest.raises(error):
        alder.core.exposures.take(said(birch, alder, bytes(32), **changes))
    assert not items(alder, "in")


def test_only_the_holder_can_say_that_its_key_is_lost(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    true = said(birch, alder, bytes(32))
    forged = exposure.sign_exposure(true.exposure, Ed25519Signer(bytes(32)))
    with pytest.raises(SignatureError):
        alder.core.exposures.take(forged)


def test_of_what_it_names_only_what_this_node_gave_it_is_shown(world: World, web: Web) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    not_for_birch = alder.release(1, cedar)
    web.pump()
    assert not alder.core.exposures.take(said(birch, alder, not_for_birch)), "nothing to keep"
    assert not items(alder, "in") and "exposed-there" not in alder.notices()
    mine = alder.release(2, birch)
    both = tuple(sorted((not_for_birch, mine)))
    assert alder.core.exposures.take(said(birch, alder, mine, envelope_ids=both))
    (row,) = items(alder, "in")
    assert (row["envelopes"], row["known"], row["ids"]) == (2, 1, [mine.hex()])
    assert acts(alder, not_for_birch) == []


def test_a_flood_of_invented_ids_leaves_nothing(world: World, web: Web) -> None:
    alder, birch = world["alder"], world["birch"]
    mine = alder.release(1, birch)
    for n in range(3):
        invented = tuple((n * 2_000 + at).to_bytes(32, "big") for at in range(limits.MAX_EXPOSED))
        assert not alder.core.exposures.take(said(birch, alder, mine, envelope_ids=invented))
    assert not items(alder, "in") and acts(alder, mine) == []
    for n in range(3):  # nor does saying the same thing over and over
        fresh = alder.core.exposures.take(said(birch, alder, mine, issued=n))
        assert fresh == (n == 0)
    assert len(items(alder, "in")) == 1
    assert [what for what, _ in acts(alder, mine)].count("exposed-there") == 1


def test_records_of_a_peer_are_bounded(
    world: World, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch = world["alder"], world["birch"]
    ids = [alder.release(n, birch) for n in (1, 2, 3)]
    monkeypatch.setattr(limits, "MAX_EXPOSURES_KEPT", 2)
    for each in ids[:2]:
        assert alder.core.exposures.take(said(birch, alder, each))
    with pytest.raises(QuotaError):
        alder.core.exposures.take(said(birch, alder, ids[2]))
    assert len(items(alder, "in")) == 2


def test_a_key_that_was_never_on_a_card_of_the_peer_is_refused(world: World, web: Web) -> None:
    alder, birch = world["alder"], world["birch"]
    mine = alder.release(1, birch)
    with pytest.raises(StatementError, match="no card"):
        alder.core.exposures.take(said(birch, alder, mine, ekid=bytes(32)))
    assert not items(alder, "in")


def test_a_key_whose_card_has_shrunk_is_known_by_what_was_sealed_to_it(
    world: World, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch = world["alder"], world["birch"]
    mine = alder.release(1, birch)
    monkeypatch.setattr(drill, "own_sealing", lambda _: ())
    assert alder.core.exposures.take(said(birch, alder, mine))


def test_status_does_not_go_through_the_records_each_time(
    world: World, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch = world["alder"], world["birch"]
    first, second = alder.release(1, birch), alder.release(2, birch)
    looked: list[object] = []
    whole = alder.core.exposures._ours

    def watched(it: exposure.Exposure) -> list[bytes]:
        looked.append(it)
        return whole(it)

    monkeypatch.setattr(alder.core.exposures, "_ours", watched)
    alder.core.exposures.take(said(birch, alder, first))
    assert "read 1 message " in alder.notices()["exposed-there"]
    before = len(looked)
    assert "read 1 message " in alder.notices()["exposed-there"]
    assert len(looked) == before
    alder.core.exposures.take(said(birch, alder, second))
    assert "read 2 messages " in alder.notices()["exposed-there"]


# --- a second call ---------------------------------------------------------------------------
def test_a_second_call_by_day_counts_the_new_key_not_as_lost(world: World, web: Web) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    web.pump()
    world.clock.advance(MINUTE)
    assert tell(birch, since=DAY_OF_LOSS)["new_key"]
    new = birch.core.card.seal
    for _ in range(2):
        world.clock.advance(DAY)
        again = tell(birch, since=DAY_OF_LOSS)
        assert (again["new_key"], again["records"]) == (False, 0)
    assert birch.core.card.seal == new
    # A later loss is another one, and so is the same one if a person says that it went on.
    seen = birch.service().keys.exposed(key="", since=DAY_OF_LOSS, until="2099-01-01")
    assert new[0].ekid.hex() in {key["key"] for key in seen["keys"]}
    later = rfc3339(world.clock.now())[:16] + "Z"
    assert tell(birch, since=later)["new_key"]
    assert birch.core.card.seal != new


def test_many_messages_are_told_in_several_records() -> None:
    ids = [n.to_bytes(32, "big") for n in range(limits.MAX_EXPOSED + 1, 0, -1)]
    first, second = exposure.parts([*ids, ids[0]])
    assert len(first) == limits.MAX_EXPOSED and second == (ids[0],)


def test_a_damaged_record_stops_the_node(world: World, web: Web) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    web.pump()
    tell(birch, since=DAY_OF_LOSS)
    with birch.core.store.transaction():
        birch.core.store.run("UPDATE exposures SET record = x'00'")
    with pytest.raises(StoreError, match="damaged"):
        birch.core.exposures.told()
