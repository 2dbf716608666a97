"""The local endpoint as one table of routes; synchronous, without sockets.

- ``dispatch`` is called for HTTP requests and, when no node runs, by the command line directly.
- A request over the control socket is the operator's and needs no token; over TCP a bearer token
  must carry the route's scope, and operator routes do not exist.
- Every refusal is problem+json (RFC 9457) with a stable code and, where there is one, the fix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from node import (
    access,
    approval_routes,
    backup_routes,
    key_routes,
    lists_routes,
    lock_routes,
    obligation_routes,
    pairing_routes,
    peer_test_routes,
    record_routes,
    search_routes,
)
from node.calls import (
    OPERATOR,
    PREFIX,
    PUBLIC,
    REPEATED,
    Begun,
    Call,
    Deferred,
    Request,
    Response,
    Route,
    get,
    known,
    names,
    problem,
    reply,
    route,
    whole_number,
)
from node.enclosures import Download, Upload
from node.evidence import Export
from node.metrics import CONTENT_TYPE
from node.outgoing import reader_of
from node.row_types import explained
from node.service import Service
from node.tiles import CHECKPOINT, CHECKPOINT_TYPE, Resource
from protocol import limits
from protocol.access import READ
from protocol.blob import Blob
from protocol.errors import (
    ForbiddenError,
    MethodError,
    NotFoundError,
    PicketError,
    RequestError,
    StoreError,
    TooLargeError,
    UnauthorizedError,
)
from protocol.handling_text import Reader
from protocol.note import strict_base64
from protocol.witness import Answer

_T = TypeVar("_T")
_WATCHING: Final = frozenset({PUBLIC, "node:read"})


def dispatch(service: Service, request: Request) -> Response:
    """Answer *request*; a PicketError becomes its problem document.

    Raises:
        StoreError: the node must stop; the caller answers and ends it.
    """
    begun = begin(service, request)
    if isinstance(begun, Response):
        return begun
    if not isinstance(begun, Deferred):
        error = RequestError(
            "files go over HTTP only", fix="start it, for example with: picket run"
        )
        return problem(error, request.request_id)
    with explained(service.core.store):
        return guarded(begun.at_once, request)


def begin(service: Service, request: Request) -> Begun:
    """Do as ``dispatch`` does, but leave what may be done together with others to the caller."""
    with explained(service.core.store):
        return guarded(lambda: _dispatch(service, request), request)


def guarded(act: Callable[[], _T], request: Request) -> _T | Response:
    """Run *act*; a PicketError becomes its problem document.

    Raises:
        StoreError: the node must stop; the caller answers and ends it.
    """
    try:
        return act()
    except StoreError:
        raise
    except PicketError as error:
        return problem(error, request.request_id)


def _dispatch(service: Service, request: Request) -> Begun:
    if not _is_text(request.path):
        raise NotFoundError("there is nothing at this path", fix="see docs/integrating.md")
    matches = [
        (each, found)
        for each in ROUTES
        if (found := each.pattern.fullmatch(request.path))
        and (request.operator or each.scope != OPERATOR)
    ]
    if not matches:
        raise NotFoundError(f"there is nothing at {request.path}", fix="see docs/integrating.md")
    for each, found in matches:
        if each.method == request.method:
            _authorize(service, each, request)
            parts = _parts(found)
            body = _body(each, request.body)
            call = Call(service, parts, _query(request), body, _who(request))
            # Whoever only watches the node does not use it, however often.
            with service.core.locking.asking(counts=each.scope not in _WATCHING):
                return each.handler(call)
    allowed = ", ".join(sorted({each.method for each, _ in matches}))
    raise MethodError(f"{request.method} is not possible here", allowed=allowed)


def _who(request: Request) -> str:
    """Return who asks, as the log names it; ``_authorize`` has looked at the token."""
    if request.operator:
        return access.OPERATOR
    parts = (request.token or "").split("_")
    return access.token_actor(parts[1] if len(parts) > 1 else "")


def _parts(found: re.Match[str]) -> dict[str, str]:
    try:
        return {name: unquote(part, errors="strict") for name, part in found.groupdict().items()}
    except UnicodeDecodeError:
        raise NotFoundError("the path is not UTF-8 text", fix="encode it as UTF-8") from None


def _query(request: Request) -> Mapping[str, str]:
    if not all(map(_is_text, request.query.values())):
        raise RequestError("the query is not UTF-8 text", fix="encode it as UTF-8")
    return request.query


def _body(found: Route, body: bytes) -> dict[str, Any]:
    if found.raw:
        return {"raw": body}
    value = _json(body)
    # An import judges each of its lines apart from the others.
    if found.handler is not _import and rb"\u" in body and not _is_text(value):
        raise RequestError(
            "the body has half of a surrogate pair, which is no character", fix="send whole ones"
        )
    return value


def _is_text(value: object) -> bool:
    """Whether all texts in *value* have a UTF-8 form."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _authorize(service: Service, found: Route, request: Request) -> None:
    if request.operator or found.scope == PUBLIC:
        return
    token = request.token
    scopes = service.token_scopes(token) if token and _is_text(token) else None
    if scopes is None:
        raise UnauthorizedError(
            "there is no valid token", fix="make one with: picket tokens create"
        )
    if found.scope not in scopes:
        raise ForbiddenError(
            f"the token lacks the scope {found.scope}", fix="make a token that has it"
        )


def _json(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    if len(body) > limits.MAX_REQUEST_IMPORT:
        raise TooLargeError(f"the body is longer than {limits.MAX_REQUEST_IMPORT} bytes")
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RequestError("the body is not JSON", fix="send one UTF-8 JSON object") from None
    if not isinstance(value, dict):
        raise RequestError("the body is not a JSON object", fix="send one JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise RequestError("the body has one key twice", fix="send each key once")
    return value


def _no_constant(name: str) -> object:
    raise RequestError(f"{name} is not a JSON number", fix="send quantities as decimal strings")


def _split(call: Call, key: str) -> list[str]:
    """Return the names in a parameter: repeated, or in one value with commas between them."""
    found: list[str] = []
    for value in call.query.get(key, "").split(REPEATED):
        whole = "," not in value or call.service.knows_peer(value)
        found += [value] if whole else value.split(",")
    return [name.strip() for name in found if name.strip()]


# --- handlers --------------------------------------------------------------------------------
def _health(_: Call) -> Response:
    return reply({"status": "ok"})


def _ready(call: Call) -> Response:
    return reply(call.service.ready())


def _node(call: Call) -> Response:
    return reply(call.service.node())


def _status(call: Call) -> Response:
    return reply(call.service.status())


def _card(call: Call) -> Response:
    return reply(call.service.card())


def _openapi(_: Call) -> Response:
    return reply(openapi())


def _peers(call: Call) -> Response:
    return reply(call.service.peers())


def _peer(call: Call) -> Response:
    return reply(call.service.peer(call.parts["name"]))


def _add_peer(call: Call) -> Response:
    known(call.body, "card", "name")
    row, new = call.service.add_peer(get(call.body, "card", str), get(call.body, "name", str, None))
    return reply(row, HTTPStatus.CREATED if new else HTTPStatus.OK)


def _approve(call: Call) -> Response:
    known(call.body, "level", "safety_number", "method", "by")
    return reply(
        call.service.approve_peer(
            call.parts["name"],
            level=get(call.body, "level", str),
            safety_digits=get(call.body, "safety_number", str, None),
            method=get(call.body, "method", str, None),
            by=get(call.body, "by", str),
            who=call.who,
        )
    )


def _incidents(call: Call) -> Response:
    return reply(
        call.service.incidents(
            after=whole_number(call.query, "after", 0),
            limit=whole_number(call.query, "limit", 100),
            state=call.query.get("state"),
        )
    )


def _create(call: Call) -> Response:
    body = dict(call.body)
    external = get(body, "external_ref", str, None)
    body.pop("external_ref", None)
    row = call.service.create_draft(body, external_ref=external)
    location = ("Location", f"{PREFIX}/incidents/{row['id']}")
    created = HTTPStatus.CREATED
    if "duplicate" in row:
        # What has this reference may be released long ago, and is shown in full.
        call.service.handling.note_reading(READ, row["id"], call.who)
        created = HTTPStatus.OK
    return reply(row, created, location)


def _incident(call: Call) -> Response:
    return reply(call.service.show(call.parts["id"], who=call.who))


def _recipients(call: Call) -> Response:
    return reply(
        call.service.preview(
            call.parts["id"],
            to=_split(call, "to"),
            annex_to=_split(call, "annex_to") if "annex_to" in call.query else None,
            carriers=_split(call, "carriers"),
            separately=call.query.get("separately") == "true",
        )
    )


def _release(call: Call, *, needs_digest: bool = True) -> Deferred:
    known(call.body, "to", "annex_to", "carriers", "separately", "digest")
    digest = get(call.body, "digest", str, None)
    if needs_digest and digest is None:
        raise RequestError(
            "digest is missing", fix="GET …/recipients first and repeat its digest here"
        )
    chosen = {
        "to": names(call.body, "to"),
        "annex_to": names(call.body, "annex_to", None),
        "carriers": names(call.body, "carriers", []),
        "separately": get(call.body, "separately", bool, False),
    }
    copies = call.service.plan_copies(call.parts["id"], **chosen)
    start = partial(
        call.service.start_release, call.parts["id"], **chosen, digest=digest, copies=copies
    )

    def answer(incident_id: str) -> Response:
        row = call.service.finish_release(incident_id)
        location = ("Location", f"{PREFIX}/incidents/{row['id']}/deliveries")
        return reply(row, HTTPStatus.ACCEPTED, location)

    if copies is None:
        return Deferred(start, answer)
    return Deferred(start, answer, prepare=copies.make, undo=copies.discard)


def _release_operator(call: Call) -> Deferred:
    return _release(call, needs_digest=False)


def _deliveries(call: Call) -> Response:
    return reply(call.service.deliveries(call.parts["id"]))


def _raw(call: Call) -> Response:
    number = whole_number(call.query, "envelope", 0)
    wire = call.service.raw(call.parts["id"], number, who=call.who)
    return Response(200, wire, "application/octet-stream")


def _proof(call: Call) -> Response:
    number = whole_number(call.query, "envelope", 0)
    return reply(call.service.proof(call.parts["id"], number, who=call.who))


def _accesses(call: Call) -> Response:
    return reply(call.service.handling.accesses(call.parts["id"]))


def _disclose(call: Call) -> Response:
    known(call.body, "what", "number", "to", "by", "reason", "reader")
    row = call.service.handling.disclose(
        get(call.body, "what", str),
        number=get(call.body, "number", int, None),
        to=get(call.body, "to", str),
        by=get(call.body, "by", str),
        reason=get(call.body, "reason", str, ""),
        who=call.who,
        reader=reader_of(get(call.body, "reader", str, Reader.COURT.value)),
    )
    return reply(row, HTTPStatus.CREATED)


def _erasure(call: Call) -> Response:
    return reply(call.service.handling.erasure(call.parts["id"]))


def _erase(call: Call) -> Response:
    known(call.body, "reason", "by", "also_undelivered")
    row = call.service.handling.erase(
        call.parts["id"],
        reason=get(call.body, "reason", str),
        by=get(call.body, "by", str),
        also_undelivered=get(call.body, "also_undelivered", bool, False),
        who=call.who,
    )
    return reply(row)


def _delivery_statement(call: Call) -> Response:
    return reply(call.service.delivery_statement(call.parts["id"]))


def _missing_receipts(call: Call) -> Response:
    limit = whole_number(call.query, "limit", limits.MAX_PAGE)
    return reply(call.service.missing_receipts(call.query.get("peer"), limit=limit))


def _envelope_proof(call: Call) -> Response:
    evidence = call.service.evidence
    return reply(evidence.proof(evidence.of_envelope(call.parts["id"]), who=call.who))


def _incident_tlog_proof(call: Call) -> Response:
    evidence = call.service.evidence
    number = whole_number(call.query, "envelope", 0) if "envelope" in call.query else None
    return reply(evidence.proof(evidence.of_incident(call.parts["id"], number), who=call.who))


def _evidence_of_incident(call: Call) -> Deferred:
    number = get(call.body, "envelope", int, None)
    return _evidence(call, call.service.evidence.of_incident(call.parts["id"], number))


def _evidence_of_envelope(call: Call) -> Deferred:
    return _evidence(call, call.service.evidence.of_envelope(call.parts["id"]))


def _evidence(call: Call, envelope_id: bytes) -> Deferred:
    known(call.body, "envelope", "content", "by", "reason", "timestamp", "proof")
    stamp, proof = (get(call.body, key, str, None) for key in ("timestamp", "proof"))
    evidence = call.service.evidence
    export = evidence.plan(
        Export(
            envelope_id,
            call.who,
            by=get(call.body, "by", str, ""),
            reason=get(call.body, "reason", str, ""),
            content=get(call.body, "content", bool, False),
            stamp=None if stamp is None else strict_base64(stamp, "timestamp"),
            stamped=None if proof is None else proof.encode(),
        )
    )

    def answer(index: int) -> Response:
        name = ("Content-Disposition", f'attachment; filename="{envelope_id.hex()[:16]}.zip"')
        bundle = evidence.bundle(export, index)
        return Response(HTTPStatus.OK.value, bundle, "application/zip", (name,))

    return Deferred(lambda: evidence.log(export), answer)


def _metrics(call: Call) -> Response:
    return Response(HTTPStatus.OK.value, call.service.metrics_text(), CONTENT_TYPE)


def _import(call: Call) -> Response:
    known(call.body, "lines", "dry_run")
    lines = get(call.body, "lines", list)
    return reply(call.service.import_drafts(lines, dry_run=get(call.body, "dry_run", bool, False)))


def _attach(call: Call) -> Response:
    known(call.body, "sha256", "media_type", "kind", "caption")
    return reply(
        call.service.attach(
            call.parts["id"],
            sha256=get(call.body, "sha256", str),
            media_type=get(call.body, "media_type", str),
            kind=get(call.body, "kind", str),
            caption=get(call.body, "caption", str, None),
        )
    )


def _attachments(call: Call) -> Response:
    return reply(call.service.enclosures.rows())


def _put_attachment(call: Call) -> Upload:
    return call.service.enclosures.upload(call.parts["sha256"])


def _get_attachment(call: Call) -> Download:
    return call.service.enclosures.download(call.parts["sha256"], who=call.who)


def _fetch_attachment(call: Call) -> Deferred:
    reserve, start = call.service.enclosures.fetch(call.parts["sha256"])
    begun: list[Blob] = []
    return Deferred(
        lambda: start(begun),
        lambda row: reply(row, HTTPStatus.ACCEPTED),
        prepare=lambda: begun.extend(reserve()),
    )


def _drop_attachment(call: Call) -> Deferred:
    delete = call.service.enclosures.drop(call.parts["sha256"])
    return Deferred(
        lambda: None, lambda _: Response(HTTPStatus.NO_CONTENT.value, b""), prepare=delete
    )


def _log_head(call: Call) -> Response:
    return reply(call.service.log_head())


def _log_checkpoint(call: Call) -> Response:
    return _file(call.service.log_file(CHECKPOINT))


def _log_tile(call: Call) -> Response:
    return _file(call.service.log_file(f"tile/{call.parts['path']}"))


def _log_bundle(call: Call) -> Response:
    return _file(call.service.log_file(f"tile/entries/{call.parts['path']}", entries=True))


def _file(resource: Resource) -> Response:
    headers = (("Cache-Control", resource.caching),)
    return Response(HTTPStatus.OK.value, resource.body, resource.content_type, headers)


def _log_export(call: Call) -> Response:
    known(call.body, "entries")
    entries = get(call.body, "entries", bool, False)
    return reply(call.service.log_export_begin(entries=entries, by=OPERATOR))


def _witnesses(call: Call) -> Response:
    return reply(call.service.logs.standing())


def _policy(call: Call) -> Response:
    return Response(HTTPStatus.OK.value, call.service.logs.policy(), "text/plain")


def _audit(call: Call) -> Response:
    known(call.body)
    return reply(call.service.logs.audit(call.service.core.trust.find(call.parts["name"])))


def _audited(call: Call) -> Response:
    return reply(call.service.logs.audited(call.service.core.trust.find(call.parts["name"])))


def _log_fork(call: Call) -> Response:
    return reply(call.service.logs.fork(call.service.core.trust.find(call.parts["name"])))


def _own_log_fork(call: Call) -> Response:
    return reply(call.service.logs.own_fork())


def _add_checkpoint(call: Call) -> Deferred:
    witness, body = call.service.core.witness, bytes(call.body["raw"])

    def answer(given: Answer) -> Response:
        return Response(given.status, given.body, given.content_type)

    return Deferred(lambda: witness.answer(body), answer)


def _cosigned_by_us(call: Call) -> Response:
    note = call.service.core.witness.monitored(call.parts["origin"])
    return Response(HTTPStatus.OK.value, note, CHECKPOINT_TYPE, (("Cache-Control", "no-cache"),))


def _log_verify(call: Call) -> Response:
    known(call.body, "since", "steps")
    since, steps = (get(call.body, name, bool, False) for name in ("since", "steps"))
    return reply(call.service.log_verify(since=since, steps=steps))


def _log_verification(call: Call) -> Response:
    return reply(call.service.log_verification())


def _tokens(call: Call) -> Response:
    return reply(call.service.tokens())


def _create_token(call: Call) -> Response:
    known(call.body, "name", "scopes", "days")
    row = call.service.create_token(
        name=get(call.body, "name", str),
        scopes=names(call.body, "scopes"),
        days=get(call.body, "days", int, 90),
    )
    return reply(row, HTTPStatus.CREATED)


def _revoke_token(call: Call) -> Response:
    call.service.revoke_token(call.parts["id"])
    return Response(HTTPStatus.NO_CONTENT.value, b"")


def _unlock(call: Call) -> Response:
    known(call.body, "passphrase", "passphrase_file", "pin")
    given = get(call.body, "passphrase", str, None)
    return reply(
        call.service.unlock(
            passphrase=None if given is None else given.encode(),
            passphrase_file=get(call.body, "passphrase_file", str, None),
            pin=get(call.body, "pin", str, None),
        )
    )


def _confirm(call: Call) -> Response:
    known(call.body, "safety_number", "method", "by")
    service = call.service
    return reply(
        service.keys.confirm(
            service.core.trust.find(call.parts["name"]),
            digits=get(call.body, "safety_number", str),
            method=get(call.body, "method", str),
            by=get(call.body, "by", str),
            who=call.who,
        )
    )


def _keys(call: Call) -> Response:
    return reply(call.service.keys.status())


def _rotate_identity(call: Call) -> Response:
    known(call.body, "passphrase", "code")
    given = (get(call.body, name, str) for name in ("passphrase", "code"))
    return reply(call.service.keys.rotate_identity(*given))


def _rotate_sealing(call: Call) -> Response:
    known(call.body)
    return reply(call.service.keys.rotate_sealing())


def _revoke(call: Call) -> Response:
    known(call.body, "code")
    return reply(call.service.keys.revoke(get(call.body, "code", str)))


def _passphrase(call: Call) -> Response:
    known(call.body, "old", "new")
    given = (get(call.body, name, str) for name in ("old", "new"))
    return reply(call.service.keys.change_passphrase(*given))


def _suspend(call: Call) -> Response:
    known(call.body, "suspension")
    return reply(call.service.keys.suspend(get(call.body, "suspension", str)))


ROUTES: Final = (
    route("GET", "/healthz", PUBLIC, _health, "Whether the process is alive"),
    route("GET", "/readyz", PUBLIC, _ready, "Whether databases and log can be used"),
    route("GET", "/node", "node:read", _node, "Who this node is"),
    route("GET", "/status", "node:read", _status, "Peers, outbox, notices"),
    route("GET", "/openapi.json", "node:read", _openapi, "This contract"),
    route("GET", "/card", "peers:read", _card, "This node's card, to hand to others"),
    route("GET", "/peers", "peers:read", _peers, "All peers"),
    route("POST", "/peers", "peers:admin", _add_peer, "Pin a node by its card"),
    route("GET", "/peers/{name}", "peers:read", _peer, "One peer"),
    route("POST", "/peers/{name}/confirm", "peers:admin", _confirm,
           "Confirm that a peer has recovered its identity"),
    route("POST", "/suspensions", "peers:admin", _suspend, "Follow a suspension by the directory"),
    route("GET", "/keys", OPERATOR, _keys, "This node's keys and statements"),
    route("POST", "/keys/rotate-identity", OPERATOR, _rotate_identity,
           "Put the next identity key in force"),
    route("POST", "/keys/rotate-sealing", OPERATOR, _rotate_sealing, "Make a new sealing key"),
    route("POST", "/keys/revoke", OPERATOR, _revoke, "End this node's identity for good"),
    route("POST", "/keys/passphrase", OPERATOR, _passphrase, "Change the passphrase"),
    route("POST", "/peers/{name}/approve", "peers:admin", _approve, "Give a peer a trust level"),
    route("GET", "/incidents", "incidents:read", _incidents, "Incidents in log order, or drafts"),
    route("POST", "/incidents", "incidents:write", _create, "Create a draft"),
    route("GET", "/incidents/{id}", "incidents:read", _incident, "One incident or draft"),
    route("GET", "/incidents/{id}/recipients", "incidents:write", _recipients,
           "Preview who would and would not receive a draft"),
    route("POST", "/incidents/{id}/release", OPERATOR, _release_operator,
           "Sign, log and send a draft"),
    route("POST", "/incidents/{id}/release", "incidents:release", _release,
           "Sign, log and send a draft; repeats the preview's digest"),
    route("GET", "/incidents/{id}/access", "log:audit", _accesses,
           "Who read, exported, disclosed or erased it, and when"),
    route("GET", "/incidents/{id}/erasure", OPERATOR, _erasure, "What erasing it would do"),
    route("POST", "/incidents/{id}/erase", OPERATOR, _erase,
           "Erase it here for good, with its attachments"),
    route("POST", "/disclosures", OPERATOR, _disclose,
           "Hand over one message with the key of its body"),
    route("GET", "/incidents/{id}/deliveries", "incidents:read", _deliveries,
           "What each recipient has"),
    route("GET", "/incidents/{id}/raw", "incidents:read", _raw, "The exact signed bytes"),
    route("GET", "/incidents/{id}/proof", "log:read", _proof, "Inclusion proof and checkpoint"),
    route("GET", "/envelopes/{id}/statement", "incidents:read", _delivery_statement,
           "Signed statement of who has an envelope"),
    route("GET", "/deliveries/missing", "incidents:read", _missing_receipts,
           "Receipts that are missing past their deadline, by peer"),
    route("GET", "/envelopes/{id}/proof", "log:read", _envelope_proof,
           "The log entry of an envelope and its proof, as a C2SP tlog-proof file"),
    route("GET", "/incidents/{id}/tlog-proof", "log:read", _incident_tlog_proof,
           "The same for an envelope of an incident"),
    route("POST", "/incidents/{id}/evidence", "evidence:export", _evidence_of_incident,
           "An evidence bundle of one envelope of an incident"),
    route("POST", "/envelopes/{id}/evidence", "evidence:export", _evidence_of_envelope,
           "An evidence bundle of an envelope"),
    route("GET", "/metrics", "node:read", _metrics, "Counts and states, for Prometheus"),
    route("POST", "/imports", "incidents:write", _import, "Create many drafts"),
    route("POST", "/incidents/{id}/attachments", "incidents:write", _attach,
           "Add an uploaded file to a draft"),
    route("GET", "/attachments", "attachments:read", _attachments,
           "Attachments whose content is here or can be fetched"),
    route("PUT", "/attachments/{sha256}", "attachments:write", _put_attachment,
           "Upload a file for a draft"),
    route("GET", "/attachments/{sha256}", "attachments:read", _get_attachment,
           "The content of an attachment"),
    route("POST", "/attachments/{sha256}/fetch", "attachments:write", _fetch_attachment,
           "Fetch an attachment from who holds it"),
    route("DELETE", "/attachments/{sha256}", "attachments:write", _drop_attachment,
           "Delete the content of an attachment here"),
    route("GET", "/log/head", "log:read", _log_head, "The newest signed checkpoint"),
    route("GET", "/log/checkpoint", "log:read", _log_checkpoint,
           "The newest signed checkpoint, as the file that it is"),
    # Before the tiles, which would take its paths under a lesser scope.
    route("GET", "/log/tile/entries/{path}", "log:audit", _log_bundle,
           "A bundle of log entries", rest=True),
    route("GET", "/log/tile/{path}", "log:read", _log_tile, "A tile of the log's hashes",
           rest=True),
    route("POST", "/log/export", OPERATOR, _log_export,
           "Log that the log is exported; return the checkpoint to export"),
    route("GET", "/log/witnesses", "log:read", _witnesses,
           "Who confirmed this log, and what logs of peers show"),
    route("GET", "/log/fork", "log:read", _own_log_fork,
           "The proof that this node's own log contradicts itself"),
    route("GET", "/log/policy", "log:read", _policy,
           "Whose cosignatures count (C2SP tlog-policy)"),
    route("POST", "/log/audits/{name}", OPERATOR, _audit, "Audit a peer's log"),
    route("GET", "/peers/{name}/audit", "log:read", _audited, "How far an audit has come"),
    route("GET", "/peers/{name}/log-fork", "log:read", _log_fork,
           "The proof that a peer's log contradicts itself"),
    route("POST", "/witness/add-checkpoint", "witness:add", _add_checkpoint,
           "Have a checkpoint of a peer's log cosigned (C2SP tlog-witness)", raw=True),
    route("GET", "/witness/{origin}/checkpoint", "log:read", _cosigned_by_us,
           "The checkpoint that was cosigned last, by the hex SHA-256 of its origin"),
    route("POST", "/log/verify", OPERATOR, _log_verify, "Verify log, envelopes and receipts"),
    route("GET", "/log/verification", OPERATOR, _log_verification,
           "Go on verifying for a moment: how far it is, or what came of it"),
    route("GET", "/tokens", OPERATOR, _tokens, "All tokens, without secrets"),
    route("POST", "/tokens", OPERATOR, _create_token, "Make a token"),
    route("DELETE", "/tokens/{id}", OPERATOR, _revoke_token, "Revoke a token"),
    route("POST", "/unlock", OPERATOR, _unlock, "Open the keystore"),
    *approval_routes.ROUTES,
    *backup_routes.ROUTES,
    *key_routes.ROUTES,
    *lists_routes.ROUTES,
    *lock_routes.ROUTES,
    *obligation_routes.ROUTES,
    *pairing_routes.ROUTES,
    *peer_test_routes.ROUTES,
    *record_routes.ROUTES,
    *search_routes.ROUTES,
)  # fmt: skip


def openapi() -> dict[str, Any]:
    """Return the contract of the routes that tokens reach, as OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    for each in ROUTES:
        if each.scope == OPERATOR:
            continue
        operation: dict[str, Any] = {
            "summary": each.summary,
            "responses": {
                "default": {
                    "description": "the answer, or problem+json with code and fix",
                }
            },
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"\{(\w+)\}", each.path)
            ],
        }
        if each.scope != PUBLIC:
            operation["security"] = [{"token": []}]
            operation["description"] = f"Needs the scope {each.scope}."
        if each.method == "POST":
            schema = {"schema": {"type": "object"}}
            operation["requestBody"] = {"content": {"application/json": schema}}
        paths.setdefault(each.path, {})[each.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Picket local endpoint", "version": "1"},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }
