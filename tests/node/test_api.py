"""The route table without sockets: what programs may ask, what they are refused, and how."""

from __future__ import annotations

import base64
import copy
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from keys.keystore import Argon2Params, load, save
from node.api import ROUTES, dispatch, openapi
from node.app import initialise, open_service
from node.calls import OPERATOR, PUBLIC, Request, Response, Route
from node.demo_incidents import load as demo_incidents
from node.home import Home
from node.service import SCOPES, Service
from protocol import envelope, limits, merkle
from protocol.armor import dearmor
from protocol.checkpoint import verify_checkpoint
from protocol.entry import parse_entry
from protocol.errors import ProofError
from protocol.statement import Card, verify_bundle
from protocol.suite import network_id

NETWORK: Final = "test.example"
PASSPHRASE: Final = b"correct horse battery"
CHEAP: Final = Argon2Params(memory_kib=19 * 1024, iterations=1)
CANARY: Final = "canary-7f3a"
PROBLEM: Final = "application/problem+json"
Row = dict[str, Any]


def incident(**changes: object) -> Row:
    found = copy.deepcopy(dict(demo_incidents()[0].incident))
    found["face"]["summary"] = f"{CANARY} Acetic anhydride stopped at a container port."
    return {**found, **changes}


# --- nodes -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Local:
    """One opened node, called as a program or as its operator."""

    service: Service

    def ask(
        self, method: str, path: str, body: object = None, *,
        query: Mapping[str, str] | None = None, token: str | None = None,
    ) -> Response:  # fmt: skip
        if isinstance(body, bytes):
            data = body
        else:
            data = b"" if body is None else json.dumps(body).encode()
        return dispatch(
            self.service,
            Request(
                method, path, query or {}, data, token, operator=token is None, request_id="r1"
            ),
        )

    def get(self, path: str, **query: str) -> Any:  # noqa: ANN401  JSON
        response = self.ask("GET", path, query=query)
        assert response.status == 200, response.body
        return json.loads(response.body)

    def post(self, path: str, body: object, status: int = 200) -> Any:  # noqa: ANN401  JSON
        response = self.ask("POST", path, body)
        assert response.status == status, response.body
        return json.loads(response.body)

    def token(self, *scopes: str) -> str:
        body = {"name": "test", "scopes": list(scopes)}
        return str(self.post("/api/v1/tokens", body, 201)["token"])

    def draft(self, **changes: object) -> str:
        return str(self.post("/api/v1/incidents", incident(**changes), 201)["id"])

    def release(self, key: str, to: str) -> Row:
        row: Row = self.post(f"/api/v1/incidents/{key}/release", {"to": [to]}, 202)
        return row

    def introduce(self, other: Local, name: str, *, level: str | None = "share") -> None:
        card = other.get("/api/v1/card")["card"]
        peer = self.post("/api/v1/peers", {"card": card, "name": name}, 201)
        if level is not None:
            body = {"level": level, "safety_number": peer["safety_number"], "method": "voice",
                    "by": "test"}  # fmt: skip
            self.post(f"/api/v1/peers/{name}/approve", body)

    def deliver(self, key: str, to: Local) -> None:
        """Hand the envelopes of an incident to another node, as a link would."""
        for number in range(len(self.get(f"/api/v1/incidents/{key}")["envelopes"])):
            wire = self.service.raw(key, number)
            taken = to.service.core.take([wire], giver=self.service.core.node_id)
            assert len(taken.stored) == 1, taken

    def count(self) -> tuple[int, int]:
        return (
            len(self.get("/api/v1/incidents", state="draft")["items"]),
            self.service.core.log.size,
        )


def make_home(path: Path, name: str, *, passphrase: bytes = PASSPHRASE) -> Path:
    initialise(
        path,
        {"node.authority": name, "node.country": "XA", "node.network": NETWORK,
         "node.contact": "duty desk"},
        passphrase,
    )  # fmt: skip
    keystore = Home(path).keystore
    save(keystore, load(keystore, passphrase), passphrase, CHEAP)
    return path


@contextmanager
def opened(path: Path) -> Iterator[Local]:
    with open_service(path, lambda: PASSPHRASE) as service:
        yield Local(service)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alder, who may send to Birch, knows Cedar only by its card; Birch accepts Alder."""
    folder = tmp_path_factory.mktemp("made")
    with ExitStack() as stack:
        alder, birch, cedar = (
            stack.enter_context(opened(make_home(folder / name.lower(), name)))
            for name in ("Alder", "Birch", "Cedar")
        )
        alder.introduce(birch, "birch")
        alder.introduce(cedar, "cedar", level=None)
        birch.introduce(alder, "alder")
    return folder


@pytest.fixture(scope="module")
def shared(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """One Alder for all tests that change nothing."""
    with opened(shutil.copytree(made, tmp_path_factory.mktemp("shared") / "n") / "alder") as local:
        yield local


@pytest.fixture
def nodes(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "n")


@pytest.fixture
def alder(nodes: Path) -> Iterator[Local]:
    with opened(nodes / "alder") as local:
        yield local


@pytest.fixture
def birch(nodes: Path) -> Iterator[Local]:
    with opened(nodes / "birch") as local:
        yield local


def problem_of(response: Response, status: int, code: str) -> Row:
    """Check that *response* is a whole problem document (RFC 9457) and return it."""
    assert response.status == status, response.body
    assert response.content_type == PROBLEM
    value: Row = json.loads(response.body)
    assert {"type", "title", "status", "detail", "code", "fix", "instance"} <= set(value)
    assert value["status"] == status
    assert value["code"] == code
    assert value["type"] == f"urn:picket:error:{code}"
    assert value["instance"] == "urn:picket:request:r1"
    assert "Traceback" not in value["detail"]
    return value


# --- scopes ----------------------------------------------------------------------------------
def name_of(route: Route) -> str:
    return f"{route.method} {route.path} {route.scope}"


def filled(route: Route) -> str:
    return route.path.replace("{name}", "nobody").replace("{id}", "none")


SCOPED: Final = [route for route in ROUTES if route.scope not in {PUBLIC, OPERATOR}]
OPERATORS: Final = [
    route
    for route in ROUTES
    if route.scope == OPERATOR and all(s.path != route.path or s.method != route.method
                                       for s in SCOPED)
]  # fmt: skip


@pytest.fixture(scope="module")
def tokens(shared: Local) -> dict[str, str]:
    """For each scope a token with nothing else (``x``) and one with all but it (``!x``)."""
    found = {scope: shared.token(scope) for scope in SCOPES}
    found |= {f"!{s}": shared.token(*(other for other in SCOPES if other != s)) for s in SCOPES}
    return found


@pytest.mark.parametrize("route", SCOPED, ids=name_of)
def test_a_route_opens_to_its_own_scope_and_to_no_other(
    shared: Local, tokens: dict[str, str], route: Route
) -> None:
    path = filled(route)
    refused = shared.ask(route.method, path, {}, token="")
    problem_of(refused, 401, "unauthorized")
    assert ("WWW-Authenticate", "Bearer") in refused.headers
    others = shared.ask(route.method, path, {}, token=tokens[f"!{route.scope}"])
    assert route.scope in problem_of(others, 403, "forbidden")["detail"]
    own = shared.ask(route.method, path, {}, token=tokens[route.scope])
    assert own.status not in {401, 403, 405, 500}, own.body


@pytest.mark.parametrize("route", OPERATORS, ids=name_of)
def test_an_operator_route_does_not_exist_for_any_token(shared: Local, route: Route) -> None:
    everything = shared.token(*SCOPES)
    response = shared.ask(route.method, filled(route), {}, token=everything)
    problem_of(response, 404, "not-found")
    assert shared.ask(route.method, filled(route), {}).status not in {401, 403}
    if route.path == "/api/v1/lock":
        shared.post("/api/v1/unlock", {"passphrase": PASSPHRASE.decode()})


def test_every_scope_opens_some_route_and_no_token_makes_tokens() -> None:
    assert {route.scope for route in SCOPED} == set(SCOPES)
    assert {r.path for r in OPERATORS} == {
        "/api/v1/approvals", "/api/v1/approvals/history", "/api/v1/approvals/{digest}",
        "/api/v1/approvals/{digest}/votes", "/api/v1/operators", "/api/v1/operators/reset",
        "/api/v1/backups", "/api/v1/backups/{id}", "/api/v1/backups/{id}/made",
        "/api/v1/restored", "/api/v1/restored/go-on", "/api/v1/restored/levels",
        "/api/v1/disclosures", "/api/v1/incidents/{id}/erase", "/api/v1/incidents/{id}/erasure",
        "/api/v1/keys", "/api/v1/keys/passphrase", "/api/v1/keys/revoke",
        "/api/v1/keys/rotate-identity", "/api/v1/keys/rotate-sealing",
        "/api/v1/log/audits/{name}", "/api/v1/log/export", "/api/v1/log/verification",
        "/api/v1/lock", "/api/v1/log/verify", "/api/v1/list-updates/{id}/accept",
        "/api/v1/list-updates/{id}/ignore", "/api/v1/imported-lists/{name}",
        "/api/v1/tokens", "/api/v1/tokens/{id}", "/api/v1/unlock",
        "/api/v1/keys/rotate-message", "/api/v1/keys/rotate-tls", "/api/v1/keys/exposed",
        "/api/v1/keys/exposures", "/api/v1/obligations/pics", "/api/v1/obligations/form-d",
        "/api/v1/incidents/{id}/pics", "/api/v1/incidents/{id}/permissions",
        "/api/v1/retention/run",
    }  # fmt: skip


def test_health_needs_no_token_and_tells_nothing_of_the_node(shared: Local) -> None:
    assert json.loads(shared.ask("GET", "/healthz", token="").body) == {"status": "ok"}
    ready = shared.ask("GET", "/readyz", token="")
    assert ready.status == 200
    assert b"Alder" not in ready.body


@pytest.mark.parametrize(
    "mangle",
    [
        lambda t: t[:-1],
        lambda t: t[:-2] + ("00" if t[-2:] != "00" else "11"),
        lambda t: t.replace("pkt_", "pkx_"),
        lambda t: t + "_00",
        lambda t: "pkt_" + "0" * 12 + "_" + t.split("_")[2],
        lambda t: t.split("_")[2],
        lambda t: "pkt__",
        lambda t: "pkt_' OR 1=1 --_00",
        lambda t: "pkt_\udcff_00",
        lambda t: "\udcff",
    ],
    ids=["cut", "changed", "other kind", "longer", "other id", "secret alone", "empty", "SQL",
         "bytes in the id", "bytes"],
)  # fmt: skip
def test_a_token_that_is_not_whole_is_no_token(
    shared: Local, tokens: dict[str, str], mangle: Callable[[str], str]
) -> None:
    whole = tokens["node:read"]
    assert shared.ask("GET", "/api/v1/node", token=whole).status == 200
    problem_of(shared.ask("GET", "/api/v1/node", token=mangle(whole)), 401, "unauthorized")


@dataclass
class SetClock:
    at: int

    def now(self) -> int:
        return self.at

    def monotonic(self) -> int:
        return self.at


def test_a_token_ends_with_its_last_day(alder: Local) -> None:
    old = alder.service
    clock = SetClock(1_790_000_000_000)
    timed = Local(Service(old.core, config=old.config, clock=clock, random=secrets.token_bytes))
    body = {"name": "x", "scopes": ["node:read"], "days": 1}
    token = timed.post("/api/v1/tokens", body, 201)["token"]
    clock.at += 86_400_000 - 1
    assert timed.ask("GET", "/api/v1/node", token=token).status == 200
    clock.at += 1
    problem_of(timed.ask("GET", "/api/v1/node", token=token), 401, "unauthorized")


def test_a_revoked_token_is_refused_at_once(alder: Local) -> None:
    token = alder.token("node:read")
    token_id = token.split("_")[1]
    assert alder.ask("DELETE", f"/api/v1/tokens/{token_id}").status == 204
    problem_of(alder.ask("GET", "/api/v1/node", token=token), 401, "unauthorized")
    problem_of(alder.ask("DELETE", f"/api/v1/tokens/{token_id}"), 404, "not-found")


def test_a_list_of_tokens_shows_their_use_and_no_secret(alder: Local) -> None:
    token = alder.token("node:read")
    assert alder.get("/api/v1/tokens")["items"][0]["last_used"] is None
    alder.ask("GET", "/api/v1/node", token=token)
    (row,) = alder.get("/api/v1/tokens")["items"]
    assert row["last_used"] is not None
    assert row["scopes"] == ["node:read"]
    assert token.split("_")[2] not in json.dumps(row)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "scopes": []},
        {"name": " ", "scopes": ["node:read"]},
        {"name": "x", "scopes": ["node:read"], "days": 0},
        {"name": "x", "scopes": ["node:read"], "days": 401},
        {"name": "x", "scopes": ["node:read"], "days": True},
        {"name": "x", "scopes": ["everything"]},
        {"name": "x", "scopes": "node:read"},
        {"name": "x", "scopes": ["node:read"], "admin": True},
    ],
)
def test_a_token_outside_its_bounds_is_not_made(shared: Local, body: Row) -> None:
    before = len(shared.get("/api/v1/tokens")["items"])
    problem_of(shared.ask("POST", "/api/v1/tokens", body), 400, "bad-request")
    assert len(shared.get("/api/v1/tokens")["items"]) == before


def test_the_contract_lists_what_tokens_reach_and_nothing_else(shared: Local) -> None:
    listed = {
        (method.upper(), path)
        for path, operations in openapi()["paths"].items()
        for method in operations
    }
    assert listed == {(r.method, r.path) for r in ROUTES if r.scope != OPERATOR}
    release = openapi()["paths"]["/api/v1/incidents/{id}/release"]["post"]
    assert "incidents:release" in release["description"]


# --- paths and methods -----------------------------------------------------------------------
@pytest.mark.parametrize(
    "path",
    ["/", "/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v1/incidents/", "/API/v1/node",
     "//api/v1/node", "/api/v1/node/", "/api/v1/node\n", "/api/v1/incidents/a/b/c",
     "/api/v1/" + "x" * 5_000, "/api/v1/\ud800"],
)  # fmt: skip
def test_an_unknown_path_is_not_found(shared: Local, path: str) -> None:
    problem_of(shared.ask("GET", path, token=""), 404, "not-found")


@pytest.mark.parametrize(
    "key", ["none", "PI-XA-2026-AAAAAA", "'", "%", "\x00", "\udcff", "x" * 256]
)
def test_an_unknown_incident_is_not_found(shared: Local, key: str) -> None:
    for verb in ("", "/deliveries", "/raw", "/proof"):
        problem_of(shared.ask("GET", f"/api/v1/incidents/{key}{verb}"), 404, "not-found")


def test_another_method_is_refused_with_those_that_are_allowed(shared: Local) -> None:
    response = shared.ask("PUT", "/api/v1/incidents", token="")
    assert ("Allow", "GET, POST") in response.headers
    problem_of(response, 405, "bad-method")


def test_a_locked_node_answers_health_and_asks_programs_to_come_back(
    nodes: Path, tokens: dict[str, str]
) -> None:
    with open_service(nodes / "alder") as service:
        locked = Local(service)
        assert locked.get("/readyz")["checks"]["keystore"] == "locked"
        assert locked.get("/api/v1/node")["locked"] is True
        response = locked.ask("GET", "/api/v1/incidents", token=tokens["incidents:read"])
        problem_of(response, 503, "locked")
        assert "Retry-After" in dict(response.headers)
        problem_of(locked.ask("POST", "/api/v1/incidents", incident()), 503, "locked")


def test_a_passphrase_opens_a_locked_node_however_its_characters_are_composed(
    tmp_path: Path,
) -> None:
    make_home(tmp_path / "n", "Alder", passphrase="pr\u00e9curseur \u00e0 froid".encode())
    with open_service(tmp_path / "n") as service:
        local = Local(service)
        problem_of(
            local.ask("POST", "/api/v1/unlock", {"passphrase": "wrong wrong"}),
            403, "wrong-passphrase",
        )  # fmt: skip
        decomposed = "pre\u0301curseur a\u0300 froid"
        assert local.post("/api/v1/unlock", {"passphrase": decomposed}) == {"locked": False}


# --- JSON ------------------------------------------------------------------------------------
BAD_JSON: Final = {
    "cut": b'{"face": ',
    "no object": b"[1]",
    "a number": b"1",
    "a key twice": b'{"face": {}, "face": {}}',
    "a key twice inside": b'{"face": {"tlp": 1, "tlp": 1}}',
    "a key twice by escape": b'{"face": 1, "f\\u0061ce": 2}',
    "NaN": b'{"face": NaN}',
    "infinity": b'{"face": -Infinity}',
    "nested arrays": b'{"face": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested maps": b'{"face": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "a huge number": b'{"face": ' + b"9" * 100_000 + b"}",
    "not UTF-8": b'{"face": "\xff"}',
    "UTF-16": json.dumps(incident()).encode("utf-16"),
    "two values": b"{} {}",
    "a comment": b"{} // done",
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_a_body_that_is_not_one_plain_json_object_is_refused(shared: Local, name: str) -> None:
    before = shared.count()
    problem_of(shared.ask("POST", "/api/v1/incidents", BAD_JSON[name]), 400, "bad-request")
    assert shared.count() == before


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 900 + b"]" * 900,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"9" * 4_000,
        b"1e999",
        b'"\\ud800"',
        b'{"\\ud800": 1}',
        b"null",
    ],
    ids=[
        "arrays",
        "maps",
        "a long number",
        "an overflow",
        "a lone surrogate",
        "such a key",
        "null",
    ],
)
@pytest.mark.parametrize("field", ["face", "annex", "nothing"])
def test_an_odd_value_in_an_incident_is_refused_as_an_incident(
    shared: Local, value: bytes, field: str
) -> None:
    before = shared.count()
    data = json.dumps(incident(**{field: "HERE"})).encode().replace(b'"HERE"', value)
    assert value in data
    response = shared.ask("POST", "/api/v1/incidents", data)
    if field == "annex" and value == b"null":
        assert response.status == 201, "no annex is an incident too"
        return
    assert response.status in {400, 422}, response.body
    assert response.content_type == PROBLEM
    json.loads(response.body)
    assert shared.count() == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/incidents", incident(external_ref="\ud800")),
        ("/api/v1/incidents", incident(**{"\ud800": 1})),
        ("/api/v1/peers", {"\ud800": 1}),
        ("/api/v1/peers", {"card": "\ud800"}),
        ("/api/v1/peers", {"card": "x", "name": "\ud800"}),
        ("/api/v1/tokens", {"name": "\ud800", "scopes": ["node:read"]}),
        ("/api/v1/tokens", {"name": "x", "scopes": ["\ud800"]}),
        ("/api/v1/unlock", {"passphrase": "\ud800"}),
        ("/api/v1/imports", {"lines": [], "dry_run": "\ud800"}),
    ],
    ids=["external_ref", "field", "key", "card", "peer name", "token name", "scope", "unlock",
         "dry_run"],
)  # fmt: skip
def test_a_lone_surrogate_is_refused_wherever_it_stands(
    shared: Local, path: str, body: Row
) -> None:
    before = shared.count()
    response = shared.ask("POST", path, body)
    assert response.status in {400, 422}, response.body
    assert response.content_type == PROBLEM
    response.body.decode()
    assert shared.count() == before


def test_a_lone_surrogate_in_who_approved_is_refused(alder: Local) -> None:
    peer = alder.get("/api/v1/peers/cedar")
    body = {"level": "share", "safety_number": peer["safety_number"], "method": "voice",
            "by": "\ud800"}  # fmt: skip
    before = alder.count()
    response = alder.ask("POST", "/api/v1/peers/cedar/approve", body)
    assert response.status in {400, 422}
    assert alder.count() == before
    assert alder.get("/api/v1/peers/cedar")["level"] == "pinned"


def test_a_body_over_the_bound_is_refused_as_too_large(shared: Local) -> None:
    data = b" " * (limits.MAX_REQUEST_IMPORT + 1)
    problem_of(shared.ask("POST", "/api/v1/imports", data), 413, "too-large")


def test_an_invalid_incident_lists_each_problem_with_its_pointer(shared: Local) -> None:
    body = incident()
    del body["face"]["summary"]
    body["face"]["nonsense"] = CANARY
    body["face"]["substances"][0]["qty"]["value"] = "20,160"
    value = problem_of(shared.ask("POST", "/api/v1/incidents", body), 422, "invalid-incident")
    assert {(e["pointer"], e["code"]) for e in value["errors"]} == {
        ("/face/summary", "missing"),
        ("/face/nonsense", "unknown-field"),
        ("/face/substances/0/qty/value", "bad-value"),
    }
    assert CANARY not in json.dumps(value), "a problem never repeats the text of an incident"


# --- external references ---------------------------------------------------------------------
def test_the_same_external_ref_makes_one_incident_before_and_after_release(alder: Local) -> None:
    first = alder.ask("POST", "/api/v1/incidents", incident(external_ref="CASE-1"))
    assert first.status == 201
    made = json.loads(first.body)
    assert ("Location", f"/api/v1/incidents/{made['id']}") in first.headers
    again = alder.post("/api/v1/incidents", incident(external_ref="CASE-1"), 200)
    assert (again["id"], again["duplicate"]) == (made["id"], True)
    alder.release(made["id"], "birch")
    after = alder.post("/api/v1/incidents", incident(external_ref="CASE-1"), 200)
    assert (after["id"], after["state"]) == (made["id"], "released")
    assert alder.get("/api/v1/incidents", state="draft")["items"] == []


def test_incidents_without_an_external_ref_are_never_taken_for_one_another(alder: Local) -> None:
    ids = {alder.draft() for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("value", ["", "x" * 257, 7, ["x"]])
def test_an_external_ref_out_of_bounds_is_refused(alder: Local, value: object) -> None:
    """An empty one above all: two different incidents would pass for the same."""
    response = alder.ask("POST", "/api/v1/incidents", incident(external_ref=value))
    assert response.status in {400, 422}, response.body
    assert alder.count()[0] == 0


def test_an_import_keeps_the_good_lines_and_names_the_bad_ones(alder: Local) -> None:
    lines = [
        incident(external_ref="A"), incident(face={}), incident(external_ref="A"), 5,
        incident(external_ref=""), incident(external_ref="\ud800"), incident(external_ref="B"),
    ]  # fmt: skip
    report = alder.post("/api/v1/imports", {"lines": lines})
    assert (report["accepted"], report["duplicate"], report["rejected"]) == (2, 1, 4)
    assert {error["line"] for error in report["errors"]} == {2, 4, 5, 6}
    assert alder.count()[0] == 2


def test_a_dry_run_foretells_the_import_and_stores_nothing(alder: Local) -> None:
    alder.draft(external_ref="OLD")
    lines = [incident(external_ref=ref) for ref in ("OLD", "NEW", "NEW")] + [incident(face={})]
    foretold = alder.post("/api/v1/imports", {"lines": lines, "dry_run": True})
    assert alder.count()[0] == 1
    done = alder.post("/api/v1/imports", {"lines": lines})
    counts = ("accepted", "duplicate", "rejected")
    assert [done[c] for c in counts] == [1, 2, 1]
    assert [foretold[c] for c in counts] == [done[c] for c in counts]


# --- paging ----------------------------------------------------------------------------------
def pages(local: Local, between: Callable[[], None], *, limit: int, **query: str) -> list[str]:
    """Follow ``next`` from 0, with something happening after each page; return all ids."""
    after, ids, turns = 0, [], 0
    while True:
        page = local.get("/api/v1/incidents", after=str(after), limit=str(limit), **query)
        assert len(page["items"]) <= limit
        assert page["next"] >= after
        ids += [row["id"] for row in page["items"]]
        after, turns = page["next"], turns + 1
        if turns <= 6:
            between()
        elif not page["more"]:
            return ids


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_a_reader_misses_and_repeats_nothing_while_incidents_arrive(
    alder: Local, birch: Local, limit: int
) -> None:
    own: list[str] = []
    received: list[str] = []

    def happen() -> None:
        own.append(alder.draft())
        alder.release(own[-1], "birch")
        key = birch.draft()
        birch.release(key, "alder")
        birch.deliver(key, alder)
        received.append(key)

    happen()
    happen()
    seen = pages(alder, happen, limit=limit)
    assert len(seen) == len(set(seen))
    assert set(seen) == {*own, *received}
    indexes = [alder.get(f"/api/v1/incidents/{key}")["log_index"] for key in seen]
    assert indexes == sorted(indexes)
    assert pages(alder, lambda: None, limit=limit, state="received") == received
    assert pages(alder, lambda: None, limit=limit, state="released") == own


def test_an_empty_page_has_a_cursor_from_which_the_next_arrival_is_seen(alder: Local) -> None:
    empty = alder.get("/api/v1/incidents")
    assert (empty["items"], empty["more"]) == ([], False)
    again = alder.get("/api/v1/incidents", after=str(empty["next"]))
    assert again == empty
    key = alder.draft()
    alder.release(key, "birch")
    page = alder.get("/api/v1/incidents", after=str(empty["next"]))
    assert [row["id"] for row in page["items"]] == [key]
    assert alder.get("/api/v1/incidents", after=str(page["next"]))["items"] == []


def test_the_list_of_drafts_says_when_there_are_more(alder: Local) -> None:
    made = {alder.draft() for _ in range(5)}
    page = alder.get("/api/v1/incidents", state="draft", limit="2")
    assert len(page["items"]) == 2
    assert page["more"] is True
    seen = pages(alder, lambda: None, limit=2, state="draft")
    assert len(seen) == len(set(seen))
    assert set(seen) == made


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"}, {"limit": "501"}, {"limit": "-1"}, {"limit": "1.5"}, {"limit": "\u0663"},
        {"limit": ""}, {"after": "-1"}, {"after": "01"}, {"after": "9" * 17}, {"after": " 1"},
        {"state": "lost"}, {"state": ""}, {"state": "\udcff"},
    ],
    ids=repr,
)  # fmt: skip
def test_a_query_out_of_bounds_is_refused(shared: Local, query: dict[str, str]) -> None:
    problem_of(shared.ask("GET", "/api/v1/incidents", query=query), 400, "bad-request")


# --- release ---------------------------------------------------------------------------------
def preview(local: Local, key: str, to: str, **query: str) -> Row:
    row: Row = local.get(f"/api/v1/incidents/{key}/recipients", to=to, **query)
    return row


def test_a_program_releases_only_what_it_has_previewed(alder: Local) -> None:
    token = alder.token("incidents:release")
    key = alder.draft()
    path = f"/api/v1/incidents/{key}/release"
    before = alder.count()
    shown = preview(alder, key, "birch")
    assert shown["will_receive_face"] == ["birch"]
    assert shown["will_not_receive"] == ["cedar"]
    problem_of(alder.ask("POST", path, {"to": ["birch"]}, token=token), 400, "bad-request")
    body = {"to": ["birch"], "digest": "00" * 32}
    problem_of(alder.ask("POST", path, body, token=token), 409, "conflict")
    other = {"to": ["birch"], "digest": shown["digest"], "separately": True}
    problem_of(alder.ask("POST", path, other, token=token), 409, "conflict")
    assert alder.count() == before
    body = {"to": ["birch"], "digest": shown["digest"]}
    done = alder.ask("POST", path, body, token=token)
    assert done.status == 202
    assert ("Location", f"/api/v1/incidents/{key}/deliveries") in done.headers
    (delivery,) = alder.get(f"/api/v1/incidents/{key}/deliveries")["items"]
    assert (delivery["peer"], delivery["state"]) == ("birch", "queued")
    problem_of(alder.ask("POST", path, body, token=token), 409, "conflict")


def test_a_preview_is_void_when_the_audience_means_somebody_else_now(alder: Local) -> None:
    key = alder.draft()
    digest = preview(alder, key, "all")["digest"]
    peer = alder.get("/api/v1/peers/cedar")
    alder.post("/api/v1/peers/cedar/approve", {
        "level": "share", "safety_number": peer["safety_number"], "method": "voice", "by": "x",
    })  # fmt: skip
    body = {"to": ["all"], "digest": digest}
    response = alder.ask("POST", f"/api/v1/incidents/{key}/release", body)
    problem_of(response, 409, "conflict")
    assert alder.get(f"/api/v1/incidents/{key}")["state"] == "draft"


@pytest.mark.parametrize("to", [["cedar"], ["nobody"], ["birch", "cedar"], [], [""]])
def test_a_release_to_whoever_may_not_receive_releases_to_nobody(
    alder: Local, to: list[str]
) -> None:
    key = alder.draft()
    before = alder.count()
    response = alder.ask("POST", f"/api/v1/incidents/{key}/release", {"to": to})
    problem_of(response, 422, "unknown-recipient")
    assert alder.count() == before
    assert alder.get("/api/v1/status")["outbox"] == 0


def test_an_incident_larger_than_an_envelope_stays_a_draft_with_the_reason(alder: Local) -> None:
    body = incident()
    body["annex"]["parties"] = [
        {**body["annex"]["parties"][0], "name": f"Firm {n}",
         "contacts": [{"kind": "email", "value": "v" * 1_000}] * 50}
        for n in range(5)
    ]  # fmt: skip
    key = alder.post("/api/v1/incidents", body, 201)["id"]
    before = alder.count()
    response = alder.ask("POST", f"/api/v1/incidents/{key}/release", {"to": ["birch"]})
    assert str(limits.MAX_BODY) in problem_of(response, 422, "invalid-incident")["detail"]
    assert alder.count() == before
    assert alder.get(f"/api/v1/incidents/{key}")["state"] == "draft"


def test_a_peer_may_not_take_the_name_that_means_everybody(nodes: Path) -> None:
    """``--to all`` meant for one peer of that name would go to all of them."""
    with opened(nodes / "birch") as birch, opened(nodes / "cedar") as cedar:
        card = cedar.get("/api/v1/card")["card"]
        response = birch.ask("POST", "/api/v1/peers", {"card": card, "name": "all"})
        assert response.status in {400, 409, 422}, response.body
        assert [peer["name"] for peer in birch.get("/api/v1/peers")["items"]] == ["alder"]


# --- proofs ----------------------------------------------------------------------------------
def own_card(local: Local) -> Card:
    bundle = dearmor(local.get("/api/v1/card")["card"])
    card = verify_bundle(bundle, network=network_id(NETWORK)).card
    assert card is not None
    return card


def test_a_proof_convinces_somebody_who_has_only_the_card(alder: Local) -> None:
    keys = [alder.draft() for _ in range(3)]
    for key in keys:
        alder.release(key, "birch")
    card = own_card(alder)
    for key in keys:
        row = alder.get(f"/api/v1/incidents/{key}/proof")
        checkpoint = verify_checkpoint(
            row["checkpoint"].encode(), origin=card.log.name, ed25519=card.log.ed25519,
            mldsa44=card.log.mldsa44,
        )  # fmt: skip
        wire = alder.ask("GET", f"/api/v1/incidents/{key}/raw").body
        held = envelope.parse(wire)
        envelope.verify(held, network=network_id(NETWORK), message_key=card.message)
        assert held.id.hex() == row["envelope_id"]
        entry = bytes.fromhex(row["entry"])
        assert parse_entry(entry).subject == held.id
        path = [base64.b64decode(node) for node in row["proof"]]
        place = {"index": row["index"], "size": checkpoint.size, "root": checkpoint.root}
        merkle.verify_inclusion(leaf=merkle.leaf_hash(entry), proof=path, **place)
        with pytest.raises(ProofError):
            merkle.verify_inclusion(leaf=merkle.leaf_hash(entry + b"x"), proof=path, **place)


def test_raw_bytes_and_proofs_are_counted_from_zero(alder: Local) -> None:
    key = alder.draft()
    alder.post(f"/api/v1/incidents/{key}/release", {"to": ["birch"], "separately": True}, 202)
    raw = alder.ask("GET", f"/api/v1/incidents/{key}/raw", query={"envelope": "0"})
    assert (raw.status, raw.content_type) == (200, "application/octet-stream")
    for verb in ("raw", "proof"):
        response = alder.ask("GET", f"/api/v1/incidents/{key}/{verb}", query={"envelope": "1"})
        problem_of(response, 404, "not-found")


def test_the_head_is_signed_with_the_keys_on_the_card(alder: Local) -> None:
    head = alder.get("/api/v1/log/head")
    log = own_card(alder).log
    checkpoint = verify_checkpoint(
        head["checkpoint"].encode(), origin=log.name, ed25519=log.ed25519, mldsa44=log.mldsa44
    )
    assert checkpoint.size == head["size"] == alder.service.core.log.size
    assert base64.b64encode(checkpoint.root).decode() == head["root"]


# --- peers -----------------------------------------------------------------------------------
def test_a_wrong_safety_number_approves_nobody(alder: Local) -> None:
    right = alder.get("/api/v1/peers/cedar")["safety_number"]
    wrong = ("1" if right[0] != "1" else "2") + right[1:]
    body = {"level": "share", "safety_number": wrong, "method": "voice", "by": "x"}
    response = alder.ask("POST", "/api/v1/peers/cedar/approve", body)
    problem_of(response, 409, "trust-conflict")
    assert alder.get("/api/v1/peers/cedar")["level"] == "pinned"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"level": "frozen"}, 409), ({"level": "pinned"}, 409), ({"method": "telepathy"}, 409),
        ({"by": " "}, 400), ({"by": "x" * 257}, 400), ({"level": 1}, 400), ({"extra": 1}, 400),
    ],
    ids=repr,
)  # fmt: skip
def test_an_approval_out_of_bounds_changes_nothing(shared: Local, change: Row, status: int) -> None:
    number = shared.get("/api/v1/peers/cedar")["safety_number"]
    body = {"level": "share", "safety_number": number, "method": "voice", "by": "x", **change}
    assert shared.ask("POST", "/api/v1/peers/cedar/approve", body).status == status
    assert shared.get("/api/v1/peers/cedar")["level"] == "pinned"


def test_adding_a_card_again_is_no_new_peer(alder: Local, birch: Local) -> None:
    card = birch.get("/api/v1/card")["card"]
    before = alder.count()
    assert alder.post("/api/v1/peers", {"card": card, "name": "other"}, 200)["name"] == "birch"
    assert alder.count() == before


def test_a_name_that_is_taken_is_refused(nodes: Path) -> None:
    with opened(nodes / "birch") as birch, opened(nodes / "cedar") as cedar:
        card = cedar.get("/api/v1/card")["card"]
        response = birch.ask("POST", "/api/v1/peers", {"card": card, "name": "alder"})
        problem_of(response, 409, "trust-conflict")
