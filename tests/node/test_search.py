"""Finding incidents: any script, any field, in step with the incidents, and gone with them."""

# ruff: noqa: ANN401, E501, RUF001  several scripts stand here on purpose
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import api
from node.calls import Request
from node.casebook import Casebook
from node.folding import asked, compact, fold, tokens
from node.search import VERSION, Candidate
from node.searching import expression, read_query
from node.service import Service
from protocol import limits
from protocol.erasure import ErasureAct, Reason
from protocol.errors import RequestError
from tests.node.factories import copied, incident, made_once, record, token

KEY = bytes(32)
AUTHOR = b"\2" * 32
NEWEST = 1 << 60
Row = dict[str, Any]


class Cases:
    """A casebook of its own, and how a test puts incidents into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.book = Casebook(path, KEY)

    def put(
        self, number: int, annex: Row | None = None, *, own: bool = False, **face: object
    ) -> None:
        value = incident()["face"] | face
        record = {
            "incident_id": f"0000-{number}", "ref": f"PI-XA-2026-{number:06d}", "revision": 1,
            "face": value,
        } | ({"annex": annex} if annex else {})  # fmt: skip
        with self.book.transaction():
            self.book.store_record(
                envelope_id=number.to_bytes(32, "big"), log_index=number, author=AUTHOR, own=own,
                record=record, at=1,
            )  # fmt: skip

    def find(
        self, text: str = "", *, before: int = NEWEST, limit: int = 50, **fields: Any
    ) -> list[int]:
        values = fields | ({"text": text} if text else {})
        wanted = expression(read_query(values))
        return self.book.search.find(wanted, before=before, limit=limit)

    def candidates(self) -> list[Candidate]:
        return self.book.search.candidates(before=NEWEST, limit=50)

    def sql(self, query: str) -> list[Any]:
        rows: list[Any] = self.book._connection.execute(query).fetchall()
        return rows


@pytest.fixture
def cases(tmp_path: Path) -> Iterator[Cases]:
    made = Cases(tmp_path / "case.db")
    yield made
    made.book.close()


def party(name: str, **rest: object) -> Row:
    return {"parties": [{"role": "consignor", "kind": "org", "name": name} | rest]}


# --- scripts -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("written", "typed"),
    [
        ("新标签覆盖旧标签", "标签"), ("新标签覆盖旧标签", "签"), ("新标签覆盖旧标签", "标签覆盖"),
        ("ฉลากใหม่ปิดทับฉลากเดิม", "ฉลาก"), ("ヘロインの原料", "原料"), ("무수초산 압수", "초산"),
        ("أُوقفت الشِّحنة في الميناء", "اوقفت الشحنه"), ("شركة إلى الأفق", "الي الافق"),
        ("رقم ١٢٣٤٥", "12345"), ("Ёмкости изъяты", "емкости"), ("ЦВЕТМЕТ", "цветмет"),
        ("Química Łódź Ørsted", "quimica lodz orsted"), ("STRASSE", "straße"),
        ("1-Boc-4-AP found", "1-boc-4-ap"), ("ﬁlter Ｆｕｌｌ", "filter full"),
    ],
)  # fmt: skip
def test_text_is_found_in_any_script(cases: Cases, written: str, typed: str) -> None:
    cases.put(1, summary=written)
    cases.put(2, summary="something else")
    assert cases.find(typed) == [1]


def test_words_must_all_match_and_a_star_stands_for_any_ending(cases: Cases) -> None:
    cases.put(1, summary="seized drums of toluene")
    cases.put(2, summary="seized bags")
    assert cases.find("seized") == [2, 1]
    assert cases.find("drums seized") == [1]
    assert cases.find("tolu") == []
    assert cases.find("tolu*") == [1]


def test_the_annex_and_the_names_of_the_list_are_found_too(cases: Cases) -> None:
    cases.put(1, {"narrative": "Labels over older labels", "documents": [
        {"type": "invoice", "number": "HRT-26-0211"}]})  # fmt: skip
    assert cases.find("older labels") == cases.find("HRT-26-0211") == cases.find("HRT260211") == [1]
    assert cases.find("acetic oxide") == cases.find("108-24-7") == [1]


# --- fields ------------------------------------------------------------------------------------
def test_any_part_of_a_container_number_is_found(cases: Cases) -> None:
    cases.put(1, {"containers": [{"no": "CSQU 305438-3"}]})
    cases.put(2, {"containers": [{"no": "XXXU3054175"}]})
    for typed in ("CSQU3054383", "csqu 3054", "054383", "4383", "SQU305"):
        assert cases.find(container=typed) == [1], typed
    assert cases.find("CSQU 305438 3") == cases.find("csqu3054") == [1]
    assert cases.find(container="3054") == [2, 1]


def test_fields_are_found_and_combined(cases: Cases) -> None:
    annex = {
        "parties": [{"role": "buyer", "kind": "org", "name": "云岭华新化工有限公司", "country": "CN",
                     "contacts": [{"kind": "phone", "value": "+999 123 456 789"},
                                  {"kind": "email", "value": "Sales@halden.example"}]}],
        "documents": [{"type": "cmr", "number": "ABCD-1234"}],
        "origins": [{"substance": 1, "batch_no": "B2026-0917-33", "country": "IN"}],
    }  # fmt: skip
    cases.put(1, annex, own=True, national_ref="NR 77/2026",
              route=[{"seq": 1, "mode": "3", "role": "origin", "origin": "TR", "destination": "XA"}])  # fmt: skip
    cases.put(2, incident_type="theft", detected_at="2025-12-31T23:59:00Z", status="concluded")
    found: dict[str, Any] = {
        "country": "IN", "mode": "road", "batch": "b2026-0917", "document": "abcd1234",
        "selector": "00999123456789", "party": "Yunling Hua Xin Chemical", "reference": "NR77/2026",
        "state": "released", "status": "open", "type": "seizure",
    }  # fmt: skip
    for name, value in found.items():
        assert cases.find(**{name: value}) == [1], name
    assert cases.find(**found, text="华新") == [1]
    assert cases.find(**(found | {"mode": "sea"})) == []
    assert cases.find(selector="sales@HALDEN.example") == cases.find(selector="0123456789") == [1]
    assert cases.find(reference="PI-XA-2026-000002") == cases.find(state="received") == [2]
    assert cases.find(country="Türkiye") == cases.find(country="TR") == [1]
    assert cases.find(substance="AA") == cases.find(substance="108-24-7") == [2, 1]


@pytest.mark.parametrize(
    ("since", "until", "wanted"),
    [("2026", "", [3, 2]), ("", "2025", [1]), ("2026-03-04", "2026-03-04", [2]),
     ("2025-12-31", "2026-03-03", [1]), ("2026-03-05", "2027-01", [3]), ("2024-02-29", "2024", [])],
)  # fmt: skip
def test_days_are_found_between_two_dates(
    cases: Cases, since: str, until: str, wanted: list[int]
) -> None:
    for number, day in enumerate(("2025-12-31", "2026-03-04", "2026-11-30"), start=1):
        cases.put(number, detected_at=f"{day}T00:00:00Z")
    fields: dict[str, Any] = {
        name: value for name, value in (("since", since), ("until", until)) if value
    }
    assert cases.find(**fields) == wanted


def test_pages_neither_skip_nor_repeat(cases: Cases) -> None:
    for number in range(25):
        cases.put(number, summary="seized")
    seen: list[int] = []
    before = NEWEST
    while page := cases.find("seized", before=before, limit=7):
        seen += page
        before = page[-1]
    assert seen == list(range(24, -1, -1))


# --- what is typed is never an error of syntax -----------------------------------------------------
@given(st.text(max_size=limits.MAX_SEARCH))
def test_whatever_is_typed_is_a_query_or_refused_by_name(text: str) -> None:
    try:
        wanted = expression(read_query({"text": text}), widen=len(text) % 2 == 0)
    except RequestError:
        return
    assert _index().search.find(wanted, before=NEWEST, limit=1) is not None


_OPEN: list[Casebook] = []


def _index() -> Casebook:
    if not _OPEN:
        _OPEN.append(Casebook(Path(_FOLDER[0]) / "case.db", KEY))
    return _OPEN[0]


_FOLDER: list[str] = []


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    _FOLDER.append(str(tmp_path_factory.mktemp("typed")))
    yield
    for book in _OPEN:
        book.close()
    _OPEN.clear()
    _FOLDER.clear()


@given(st.text(max_size=60))
def test_a_text_is_found_by_itself_as_far_as_it_has_tokens(text: str) -> None:
    held = list(tokens(text))
    assert all(not set(each) & set(' "=#*') for each in held)
    for wanted in asked(text):
        for part in wanted:
            assert any(each.startswith(part.rstrip("*")) for each in held)
    assert fold(fold(text)) == fold(text) or not compact(text)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "nothing"), ({"text": "?!"}, "no letter"), ({"texts": "a"}, "texts"),
        ({"text": 3}, "text"), ({"text": "x" * 201}, "text"), ({"text": "a " * 17}, "17 words"),
        ({"country": "Atlantis"}, "country"), ({"type": "party"}, "type"), ({"mode": "raft"}, "mode"),
        ({"since": "2026-13"}, "since"), ({"until": "tomorrow"}, "until"),
        ({"since": "2027", "until": "2026"}, "since"), ({"state": "draft"}, "state"),
        ({"container": "CS"}, "container"), ({"selector": "+"}, "selector"), ({"status": "x"}, "status"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_name(values: Row, name: str) -> None:
    with pytest.raises(RequestError, match=name) as refused:
        expression(read_query(values))
    assert refused.value.fix
    assert "Atlantis" not in str(refused.value)  # nothing of what was looked for


# --- in step -------------------------------------------------------------------------------------
def test_a_new_revision_replaces_what_is_found(cases: Cases) -> None:
    cases.put(1, party("Halden Reagents"), summary="before")
    cases.put(1, party("Orlanda Textile"), summary="after")
    assert cases.find("before") == cases.find(party="Halden Reagents") == []
    assert cases.find("after") == cases.find(party="Orlanda") == [1]


def test_what_is_undone_is_not_found(cases: Cases) -> None:
    with pytest.raises(ZeroDivisionError), cases.book.transaction():
        cases.book.store_record(
            envelope_id=bytes(32), log_index=1, author=AUTHOR, own=False, at=1,
            record={"incident_id": "1", "ref": "PI-XA-2026-000001", "revision": 1,
                    "face": incident("undone")["face"]},
        )  # fmt: skip
        raise ZeroDivisionError
    assert cases.find("undone") == []
    assert cases.sql("SELECT count(*) FROM search_dirty") == [(0,)]


def erase(cases: Cases, number: int, layers: str) -> None:
    act = ErasureAct(
        incident_id=f"0000-{number}", ref=f"PI-XA-2026-{number:06d}", revision=1, layers=layers,
        reason=Reason.LEGAL_ORDER, by="A. B.", who="operator", at=1,
    )  # fmt: skip
    with cases.book.transaction():
        cases.book.erase(
            envelope_id=number.to_bytes(32, "big"), log_index=number, author=AUTHOR, own=False,
            arrived=1, act=act,
        )  # fmt: skip


def test_what_is_erased_leaves_the_index_to_the_last_byte(cases: Cases) -> None:
    secret = {"narrative": "Kowalewski zx7secret", "containers": [{"no": "CSQU3054383"}]}
    for number in range(1, 40):
        cases.put(number, summary="usual words")
    cases.put(50, secret | party("Zx7secret Chemicals"))
    cases.put(51, {"containers": [{"no": "CSQU3054383"}]})
    assert len(cases.candidates()) == 1
    erase(cases, 50, "face annex")
    assert cases.find("zx7secret") == cases.find("kowalewski") == []
    assert cases.find(container="CSQU3054383") == [51]
    assert cases.candidates() == []
    for table, column in (("search_text_data", "block"), ("search_docs", "text"),
                          ("identifiers", "CAST(value AS BLOB)")):  # fmt: skip
        for (held,) in cases.sql(f"SELECT {column} FROM {table}"):
            assert b"zx7" not in held, table
            assert b"kowalewski" not in held, table


def test_erasing_the_annex_alone_leaves_what_the_face_says(cases: Cases) -> None:
    cases.put(1, party("Halden Reagents"), summary="face words")
    erase(cases, 1, "annex")
    assert cases.find("face words") == [1]
    assert cases.find(party="Halden") == []


def test_the_index_is_made_again_when_it_is_of_another_version(tmp_path: Path) -> None:
    first = Cases(tmp_path / "case.db")
    first.put(1, party("Halden Reagents", country="XA"), summary="kept")
    first.put(2, party("HALDEN REAGENTS LTD", country="XA"))
    (pair,) = first.candidates()
    with first.book.transaction():
        first.book.search.decide(pair.low, pair.high, pair.kind, "dismissed")
        first.book._connection.execute("UPDATE search_state SET version = ?", (VERSION - 1,))
        first.book._connection.execute("DELETE FROM identifiers")
    first.book.close()
    again = Cases(tmp_path / "case.db")
    assert again.find("kept") == [1]
    assert again.candidates() == []  # nobody has to say it twice
    assert [each.state for each in again.book.search.candidates_of(1)] == ["dismissed"]
    again.book.close()


def test_a_file_from_before_the_index_gets_one(tmp_path: Path) -> None:
    old = Cases(tmp_path / "case.db")
    old.put(1, summary="from before")
    with old.book.transaction():
        for name in ("search_insert", "search_update", "search_delete"):
            old.book._connection.execute(f"DROP TRIGGER {name}")
        for name in ("search_state", "search_dirty", "search_docs", "search_text", "identifiers",
                     "link_candidates"):  # fmt: skip
            old.book._connection.execute(f"DROP TABLE {name}")
        old.book.search.ready = False
    old.book.close()
    new = Cases(tmp_path / "case.db")
    assert new.find("before") == [1]
    new.book.close()


# --- candidates ----------------------------------------------------------------------------------
def test_a_candidate_is_found_when_the_second_incident_comes_and_goes_with_its_reason(
    cases: Cases,
) -> None:
    batch = {"origins": [{"substance": 1, "batch_no": "B2026-0917-33"}]}
    cases.put(1, batch)
    assert cases.candidates() == []
    cases.put(2, batch)
    (found,) = cases.candidates()
    assert (found.low, found.high, found.kind) == (1, 2, "same_batch")
    assert found.basis == "same batch B2026-0917-33"
    cases.put(2, {"origins": [{"substance": 1, "batch_no": "B2026-0917-34"}]})
    assert cases.candidates() == []


def test_what_was_dismissed_stays_dismissed(cases: Cases) -> None:
    batch = {"origins": [{"substance": 1, "batch_no": "B2026-0917-33"}]}
    cases.put(1, batch)
    cases.put(2, batch)
    with cases.book.transaction():
        assert cases.book.search.decide(1, 2, "same_batch", "dismissed") is not None
        assert cases.book.search.decide(1, 3, "same_batch", "dismissed") is None
    cases.put(2, batch | {"narrative": "a later revision"})
    assert cases.candidates() == []


def test_what_very_many_share_ties_nothing_together(cases: Cases) -> None:
    for number in range(70):
        cases.put(number, party("Northmere Freight Line", contacts=[
            {"kind": "phone", "value": "+999123456789"}]))  # fmt: skip
    assert not any(each.high > 66 for each in cases.candidates())


# --- over the endpoint ---------------------------------------------------------------------------
@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[Service]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch")) as world:
        alder = world["alder"]
        for number, summary in enumerate(("one drum of toluene", "two drums"), start=1):
            body = record(number, summary, annex=True)
            shipment = alder.ship(world["birch"], body=body, layers="face annex")
            alder.core.release(token(number), [shipment])
        alder.core.follow()
        yield alder.service()


def ask(
    node: Service, method: str, path: str, body: Row | None = None, *, status: int = 200,
    query: dict[str, str] | None = None,
) -> Row:  # fmt: skip
    data = b"" if body is None else json.dumps(body).encode()
    answer = api.dispatch(node, Request(method, f"/api/v1{path}", query or {}, data, operator=True))
    assert answer.status == status, answer.body
    value: Row = json.loads(answer.body)
    return value


def test_the_endpoint_finds_widens_and_pages(node: Service) -> None:
    found = ask(node, "POST", "/incidents/search", {"text": "drums", "limit": 1})
    assert [item["summary"] for item in found["items"]] == ["two drums"]
    assert (found["more"], found["widened"], found["next"]) == (False, False, None)
    wide = ask(node, "POST", "/incidents/search", {"text": "dru", "limit": 1})
    assert wide["widened"] and wide["more"]
    rest = ask(node, "POST", "/incidents/search", {"text": "dru", "cursor": wide["next"]})
    assert [item["summary"] for item in rest["items"]] == ["one drum of toluene"]
    refused = ask(node, "POST", "/incidents/search", {"text": "a", "cursor": "x"}, status=400)
    assert "cursor" in refused["detail"]
    assert ask(node, "POST", "/incidents/search", {"text": "a", "limit": 501}, status=400)["fix"]


def test_the_endpoint_shows_candidates_and_takes_a_decision(node: Service) -> None:
    (pair,) = ask(node, "GET", "/links/candidates")["items"]
    assert pair["basis"] == "same container CSQU3054383"
    assert [item["summary"] for item in pair["incidents"]] == ["two drums", "one drum of toluene"]
    (seen,) = ask(node, "GET", f"/incidents/{pair['incidents'][0]['id']}/candidates")["items"]
    assert seen["incident"]["ref"] == pair["incidents"][1]["ref"]
    path = f"/links/candidates/{pair['id']}"
    assert ask(node, "POST", f"{path}/dismiss", {})["state"] == "dismissed"
    assert ask(node, "GET", "/links/candidates")["items"] == []
    assert len(ask(node, "GET", "/links/candidates", query={"state": "dismissed"})["items"]) == 1
    assert ask(node, "POST", f"{path}/reopen", {})["state"] == "open"
    ask(node, "POST", "/links/candidates/1-2-same_mood/dismiss", {}, status=404)
    ask(node, "POST", "/links/candidates/nonsense/dismiss", {}, status=404)
    ask(node, "GET", "/links/candidates", query={"state": "maybe"}, status=400)
    candidate, low, high = node.search.candidate(pair["id"])
    assert (low["log_index"], high["log_index"]) == (candidate.low, candidate.high)


def test_what_is_looked_for_is_in_no_address(node: Service) -> None:
    paths = [each.path for each in api.ROUTES if "search" in each.path]
    assert paths == ["/api/v1/incidents/search"]
    assert all(each.method == "POST" for each in api.ROUTES if "search" in each.path)
