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
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import unquote

from node import access
from node.enclosures import Download, Upload
from node.evidence import Export
from node.metrics import CONTENT_TYPE
from node.service import Service
from node.tiles import CHECKPOINT, CHECKPOINT_TYPE, Resource
from protocol import limits
from protocol.access import READ
from protocol.blob import Blob
from protocol.errors import (
    AlreadyRunningError,
    BusyError,
    ConflictError,
    ForbiddenError,
    InvalidIncidentError,
    KeystoreError,
    LockedError,
    MethodError,
    NotFoundError,
    OperatorError,
    PeerError,
    PicketError,
    RangeError,
    RequestError,
    StoreError,
    TooLargeError,
    TrustConflictError,
    UnauthorizedError,
    UnknownRecipientError,
    WrongPassphraseError,
)
from protocol.note import strict_base64
from protocol.witness import Answer

PUBLIC: Final = "public"
REPEATED: Final = "\x1f"
OPERATOR: Final = "operator"
_PREFIX: Final = "/api/v1"

# The first class that fits decides; subclasses stand before their bases.
_STATUS: Final[tuple[tuple[type[PicketError], HTTPStatus], ...]] = (
    (NotFoundError, HTTPStatus.NOT_FOUND),
    (MethodError, HTTPStatus.METHOD_NOT_ALLOWED),
    (RangeError, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE),
    (ConflictError, HTTPStatus.CONFLICT),
    (TrustConflictError, HTTPStatus.CONFLICT),
    (AlreadyRunningError, HTTPStatus.CONFLICT),
    (InvalidIncidentError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (UnknownRecipientError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (UnauthorizedError, HTTPStatus.UNAUTHORIZED),
    (ForbiddenError, HTTPStatus.FORBIDDEN),
    (WrongPassphraseError, HTTPStatus.FORBIDDEN),
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (LockedError, HTTPStatus.SERVICE_UNAVAILABLE),
    (BusyError, HTTPStatus.SERVICE_UNAVAILABLE),
    (RequestError, HTTPStatus.BAD_REQUEST),
    (KeystoreError, HTTPStatus.CONFLICT),
    (OperatorError, HTTPStatus.CONFLICT),
    (PeerError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (StoreError, HTTPStatus.INTERNAL_SERVER_ERROR),
)
_RETRY_S: Final = "5"


@dataclass(frozen=True, slots=True)
class Request:
    """One request; ``operator`` is true on the control socket.

    The path is percent-encoded, as it was sent. A parameter that occurs several times has its
    values joined by ``REPEATED``.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    token: str | None = None
    operator: bool = False
    request_id: str = ""


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Response:
    """One answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """What a handler gets: the service, the path's parts, the query, the parsed body, and who."""

    service: Service
    parts: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    who: str = access.OPERATOR


Handler = Callable[["Call"], "Begun"]


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the table."""

    method: str
    path: str
    scope: str
    handler: Handler
    summary: str
    pattern: re.Pattern[str]
    raw: bool = False
    """Whether the body is not JSON: it stands, as bytes, under ``raw``."""


def reply(value: object, status: HTTPStatus = HTTPStatus.OK, *headers: tuple[str, str]) -> Response:
    """Return *value* as JSON."""
    return Response(status.value, _encoded(value), headers=headers)


def _encoded(value: object) -> bytes:
    # A lone surrogate, which UTF-8 has no bytes for, becomes the JSON escape that names it.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def problem(error: PicketError, request_id: str) -> Response:
    """Return *error* as problem+json."""
    status = next(
        (status for kind, status in _STATUS if isinstance(error, kind)),
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    value: dict[str, Any] = {
        "type": f"urn:picket:error:{error.code}",
        "title": status.phrase,
        "status": status.value,
        "detail": error.message,
        "code": error.code,
        "fix": error.fix,
        "instance": f"urn:picket:request:{request_id}",
    }
    if isinstance(error, InvalidIncidentError):
        value["errors"] = [
            {"pointer": pointer, "code": code, "message": message}
            for pointer, code, message in error.problems
        ]
    headers: list[tuple[str, str]] = []
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append(("Retry-After", _RETRY_S))
    if status is HTTPStatus.UNAUTHORIZED:
        headers.append(("WWW-Authenticate", "Bearer"))
    if isinstance(error, MethodError):
        headers.append(("Allow", error.allowed))
    if isinstance(error, RangeError):
        headers.append(("Content-Range", f"bytes */{error.size}"))
    return Response(status.value, _encoded(value), "application/problem+json", tuple(headers))


@dataclass(frozen=True, slots=True)
class Deferred:
    """An answer in steps: *act* may share a transaction with others, *then* follows it.

    What takes long comes before both as *prepare*, in another thread; its work is undone by *undo*
    if *act* fails.
    """

    act: Callable[[], object]
    then: Callable[[Any], Response]
    prepare: Callable[[], object] | None = None
    undo: Callable[[], object] | None = None

    def at_once(self) -> Response:
        """Do all steps here and now."""
        if self.prepare is not None:
            self.prepare()
        try:
            done = self.act()
        except PicketError:
            if self.undo is not None:
                self.undo()
            raise
        return self.then(done)


Begun = Response | Deferred | Upload | Download


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
    return guarded(begun.at_once, request)


def begin(service: Service, request: Request) -> Begun:
    """Do as ``dispatch`` does, but leave what may be done together with others to the caller."""
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
        (route, found)
        for route in ROUTES
        if (found := route.pattern.fullmatch(request.path))
        and (request.operator or route.scope != OPERATOR)
    ]
    if not matches:
        raise NotFoundError(f"there is nothing at {request.path}", fix="see docs/integrating.md")
    for route, found in matches:
        if route.method == request.method:
            _authorize(service, route, request)
            parts = _parts(found)
            body = _body(route, request.body)
            return route.handler(Call(service, parts, _query(request), body, _who(request)))
    allowed = ", ".join(sorted({route.method for route, _ in matches}))
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


def _body(route: Route, body: bytes) -> dict[str, Any]:
    if route.raw:
        return {"raw": body}
    value = _json(body)
    # An import judges each of its lines apart from the others.
    if route.handler is not _import and rb"\u" in body and not _is_text(value):
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


def _authorize(service: Service, route: Route, request: Request) -> None:
    if request.operator or route.scope == PUBLIC:
        return
    token = request.token
    scopes = service.token_scopes(token) if token and _is_text(token) else None
    if scopes is None:
        raise UnauthorizedError(
            "there is no valid token", fix="make one with: picket tokens create"
        )
    if route.scope not in scopes:
        raise ForbiddenError(
            f"the token lacks the scope {route.scope}", fix="make a token that has it"
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


# --- reading fields --------------------------------------------------------------------------
def _get(body: Mapping[str, Any], key: str, kind: type, default: Any = ...) -> Any:  # noqa: ANN401
    value = body.get(key, default)
    if value is ...:
        raise RequestError(f"{key} is missing", fix=f"send {key}")
    if value is default:
        return value
    if type(value) is not kind:
        raise RequestError(f"{key} is not a {kind.__name__}", fix=f"send {key} as documented")
    return value


def _names(body: Mapping[str, Any], key: str, default: Any = ...) -> Any:  # noqa: ANN401
    value = _get(body, key, list, default)
    if value is not default and not all(type(item) is str for item in value):
        raise RequestError(f"{key} is not a list of names", fix=f"send {key} as documented")
    return value


def _known(body: Mapping[str, Any], *keys: str) -> None:
    if unknown := sorted(set(body) - set(keys)):
        raise RequestError(f"{unknown[0]} is not known here", fix=f"known are: {', '.join(keys)}")


def _number(query: Mapping[str, str], key: str, default: int) -> int:
    text = query.get(key, str(default))
    if not re.fullmatch(r"0|[1-9][0-9]{0,15}", text):
        raise RequestError(f"{key} is not a whole number", fix=f"send {key} as decimal digits")
    return int(text)


def _split(call: Call, key: str) -> list[str]:
    """Return the names in a parameter: repeated, or in one value with commas between them."""
    names: list[str] = []
    for value in call.query.get(key, "").split(REPEATED):
        whole = "," not in value or call.service.knows_peer(value)
        names += [value] if whole else value.split(",")
    return [name.strip() for name in names if name.strip()]


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
    _known(call.body, "card", "name")
    row, new = call.service.add_peer(
        _get(call.body, "card", str), _get(call.body, "name", str, None)
    )
    return reply(row, HTTPStatus.CREATED if new else HTTPStatus.OK)


def _approve(call: Call) -> Response:
    _known(call.body, "level", "safety_number", "method", "by")
    return reply(
        call.service.approve_peer(
            call.parts["name"],
            level=_get(call.body, "level", str),
            safety_digits=_get(call.body, "safety_number", str, None),
            method=_get(call.body, "method", str, None),
            by=_get(call.body, "by", str),
        )
    )


def _incidents(call: Call) -> Response:
    return reply(
        call.service.incidents(
            after=_number(call.query, "after", 0),
            limit=_number(call.query, "limit", 100),
            state=call.query.get("state"),
        )
    )


def _create(call: Call) -> Response:
    body = dict(call.body)
    external = _get(body, "external_ref", str, None)
    body.pop("external_ref", None)
    row = call.service.create_draft(body, external_ref=external)
    location = ("Location", f"{_PREFIX}/incidents/{row['id']}")
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
    _known(call.body, "to", "annex_to", "carriers", "separately", "digest")
    digest = _get(call.body, "digest", str, None)
    if needs_digest and digest is None:
        raise RequestError(
            "digest is missing", fix="GET …/recipients first and repeat its digest here"
        )
    chosen = {
        "to": _names(call.body, "to"),
        "annex_to": _names(call.body, "annex_to", None),
        "carriers": _names(call.body, "carriers", []),
        "separately": _get(call.body, "separately", bool, False),
    }
    copies = call.service.plan_copies(call.parts["id"], **chosen)
    start = partial(
        call.service.start_release, call.parts["id"], **chosen, digest=digest, copies=copies
    )

    def answer(incident_id: str) -> Response:
        row = call.service.finish_release(incident_id)
        location = ("Location", f"{_PREFIX}/incidents/{row['id']}/deliveries")
        return reply(row, HTTPStatus.ACCEPTED, location)

    if copies is None:
        return Deferred(start, answer)
    return Deferred(start, answer, prepare=copies.make, undo=copies.discard)


def _release_operator(call: Call) -> Deferred:
    return _release(call, needs_digest=False)


def _deliveries(call: Call) -> Response:
    return reply(call.service.deliveries(call.parts["id"]))


def _raw(call: Call) -> Response:
    number = _number(call.query, "envelope", 0)
    wire = call.service.raw(call.parts["id"], number, who=call.who)
    return Response(200, wire, "application/octet-stream")


def _proof(call: Call) -> Response:
    number = _number(call.query, "envelope", 0)
    return reply(call.service.proof(call.parts["id"], number, who=call.who))


def _accesses(call: Call) -> Response:
    return reply(call.service.handling.accesses(call.parts["id"]))


def _disclose(call: Call) -> Response:
    _known(call.body, "what", "number", "to", "by", "reason")
    row = call.service.handling.disclose(
        _get(call.body, "what", str),
        number=_get(call.body, "number", int, None),
        to=_get(call.body, "to", str),
        by=_get(call.body, "by", str),
        reason=_get(call.body, "reason", str, ""),
        who=call.who,
    )
    return reply(row, HTTPStatus.CREATED)


def _erasure(call: Call) -> Response:
    return reply(call.service.handling.erasure(call.parts["id"]))


def _erase(call: Call) -> Response:
    _known(call.body, "reason", "by", "also_undelivered")
    row = call.service.handling.erase(
        call.parts["id"],
        reason=_get(call.body, "reason", str),
        by=_get(call.body, "by", str),
        also_undelivered=_get(call.body, "also_undelivered", bool, False),
        who=call.who,
    )
    return reply(row)


def _delivery_statement(call: Call) -> Response:
    return reply(call.service.delivery_statement(call.parts["id"]))


def _missing_receipts(call: Call) -> Response:
    limit = _number(call.query, "limit", limits.MAX_PAGE)
    return reply(call.service.missing_receipts(call.query.get("peer"), limit=limit))


def _envelope_proof(call: Call) -> Response:
    evidence = call.service.evidence
    return reply(evidence.proof(evidence.of_envelope(call.parts["id"]), who=call.who))


def _incident_tlog_proof(call: Call) -> Response:
    evidence = call.service.evidence
    number = _number(call.query, "envelope", 0) if "envelope" in call.query else None
    return reply(evidence.proof(evidence.of_incident(call.parts["id"], number), who=call.who))


def _evidence_of_incident(call: Call) -> Deferred:
    number = _get(call.body, "envelope", int, None)
    return _evidence(call, call.service.evidence.of_incident(call.parts["id"], number))


def _evidence_of_envelope(call: Call) -> Deferred:
    return _evidence(call, call.service.evidence.of_envelope(call.parts["id"]))


def _evidence(call: Call, envelope_id: bytes) -> Deferred:
    _known(call.body, "envelope", "content", "by", "reason", "timestamp", "proof")
    stamp, proof = (_get(call.body, key, str, None) for key in ("timestamp", "proof"))
    evidence = call.service.evidence
    export = evidence.plan(
        Export(
            envelope_id,
            call.who,
            by=_get(call.body, "by", str, ""),
            reason=_get(call.body, "reason", str, ""),
            content=_get(call.body, "content", bool, False),
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
    _known(call.body, "lines", "dry_run")
    lines = _get(call.body, "lines", list)
    return reply(call.service.import_drafts(lines, dry_run=_get(call.body, "dry_run", bool, False)))


def _attach(call: Call) -> Response:
    _known(call.body, "sha256", "media_type", "kind", "caption")
    return reply(
        call.service.attach(
            call.parts["id"],
            sha256=_get(call.body, "sha256", str),
            media_type=_get(call.body, "media_type", str),
            kind=_get(call.body, "kind", str),
            caption=_get(call.body, "caption", str, None),
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
    _known(call.body, "entries")
    entries = _get(call.body, "entries", bool, False)
    return reply(call.service.log_export_begin(entries=entries, by=OPERATOR))


def _witnesses(call: Call) -> Response:
    return reply(call.service.logs.standing())


def _policy(call: Call) -> Response:
    return Response(HTTPStatus.OK.value, call.service.logs.policy(), "text/plain")


def _audit(call: Call) -> Response:
    _known(call.body)
    return reply(call.service.logs.audit(call.service.core.trust.find(call.parts["name"])))


def _audited(call: Call) -> Response:
    return reply(call.service.logs.audited(call.service.core.trust.find(call.parts["name"])))


def _log_fork(call: Call) -> Response:
    return reply(call.service.logs.fork(call.service.core.trust.find(call.parts["name"])))


def _add_checkpoint(call: Call) -> Deferred:
    witness, body = call.service.core.witness, bytes(call.body["raw"])

    def answer(given: Answer) -> Response:
        return Response(given.status, given.body, given.content_type)

    return Deferred(lambda: witness.answer(body), answer)


def _cosigned_by_us(call: Call) -> Response:
    note = call.service.core.witness.monitored(call.parts["origin"])
    return Response(HTTPStatus.OK.value, note, CHECKPOINT_TYPE, (("Cache-Control", "no-cache"),))


def _log_verify(call: Call) -> Response:
    _known(call.body, "since", "steps")
    since, steps = (_get(call.body, name, bool, False) for name in ("since", "steps"))
    return reply(call.service.log_verify(since=since, steps=steps))


def _log_verification(call: Call) -> Response:
    return reply(call.service.log_verification())


def _tokens(call: Call) -> Response:
    return reply(call.service.tokens())


def _create_token(call: Call) -> Response:
    _known(call.body, "name", "scopes", "days")
    row = call.service.create_token(
        name=_get(call.body, "name", str),
        scopes=_names(call.body, "scopes"),
        days=_get(call.body, "days", int, 90),
    )
    return reply(row, HTTPStatus.CREATED)


def _revoke_token(call: Call) -> Response:
    call.service.revoke_token(call.parts["id"])
    return Response(HTTPStatus.NO_CONTENT.value, b"")


def _unlock(call: Call) -> Response:
    _known(call.body, "passphrase", "passphrase_file")
    given = _get(call.body, "passphrase", str, None)
    return reply(
        call.service.unlock(
            passphrase=None if given is None else given.encode(),
            passphrase_file=_get(call.body, "passphrase_file", str, None),
        )
    )


def _confirm(call: Call) -> Response:
    _known(call.body, "safety_number", "method", "by")
    service = call.service
    return reply(
        service.keys.confirm(
            service.core.trust.find(call.parts["name"]),
            digits=_get(call.body, "safety_number", str),
            method=_get(call.body, "method", str),
            by=_get(call.body, "by", str),
        )
    )


def _keys(call: Call) -> Response:
    return reply(call.service.keys.status())


def _rotate_identity(call: Call) -> Response:
    _known(call.body, "passphrase", "code")
    given = (_get(call.body, name, str) for name in ("passphrase", "code"))
    return reply(call.service.keys.rotate_identity(*given))


def _rotate_sealing(call: Call) -> Response:
    _known(call.body)
    return reply(call.service.keys.rotate_sealing())


def _revoke(call: Call) -> Response:
    _known(call.body, "code")
    return reply(call.service.keys.revoke(_get(call.body, "code", str)))


def _passphrase(call: Call) -> Response:
    _known(call.body, "old", "new")
    given = (_get(call.body, name, str) for name in ("old", "new"))
    return reply(call.service.keys.change_passphrase(*given))


def _suspend(call: Call) -> Response:
    _known(call.body, "suspension")
    return reply(call.service.keys.suspend(_get(call.body, "suspension", str)))


_AT_ROOT: Final = frozenset({"/metrics"})


def _route(
    method: str, path: str, scope: str, handler: Handler, summary: str, *, rest: bool = False,
    raw: bool = False,
) -> Route:  # fmt: skip
    """Return a row of the table; with *rest* what the path names last may hold slashes.

    Such a rest holds no percent-encoding: what it is compared with has one form only.
    """
    full = path if scope == PUBLIC or path in _AT_ROOT else _PREFIX + path
    part = "[^%]" if rest else "[^/]"
    pattern = re.compile(re.sub(r"\{(\w+)\}", rf"(?P<\1>{part}{{1,256}})", full))
    return Route(method, full, scope, handler, summary, pattern, raw)


ROUTES: Final = (
    _route("GET", "/healthz", PUBLIC, _health, "Whether the process is alive"),
    _route("GET", "/readyz", PUBLIC, _ready, "Whether databases and log can be used"),
    _route("GET", "/node", "node:read", _node, "Who this node is"),
    _route("GET", "/status", "node:read", _status, "Peers, outbox, notices"),
    _route("GET", "/openapi.json", "node:read", _openapi, "This contract"),
    _route("GET", "/card", "peers:read", _card, "This node's card, to hand to others"),
    _route("GET", "/peers", "peers:read", _peers, "All peers"),
    _route("POST", "/peers", "peers:admin", _add_peer, "Pin a node by its card"),
    _route("GET", "/peers/{name}", "peers:read", _peer, "One peer"),
    _route("POST", "/peers/{name}/confirm", "peers:admin", _confirm,
           "Confirm that a peer has recovered its identity"),
    _route("POST", "/suspensions", "peers:admin", _suspend, "Follow a suspension by the directory"),
    _route("GET", "/keys", OPERATOR, _keys, "This node's keys and statements"),
    _route("POST", "/keys/rotate-identity", OPERATOR, _rotate_identity,
           "Put the next identity key in force"),
    _route("POST", "/keys/rotate-sealing", OPERATOR, _rotate_sealing, "Make a new sealing key"),
    _route("POST", "/keys/revoke", OPERATOR, _revoke, "End this node's identity for good"),
    _route("POST", "/keys/passphrase", OPERATOR, _passphrase, "Change the passphrase"),
    _route("POST", "/peers/{name}/approve", "peers:admin", _approve, "Give a peer a trust level"),
    _route("GET", "/incidents", "incidents:read", _incidents, "Incidents in log order, or drafts"),
    _route("POST", "/incidents", "incidents:write", _create, "Create a draft"),
    _route("GET", "/incidents/{id}", "incidents:read", _incident, "One incident or draft"),
    _route("GET", "/incidents/{id}/recipients", "incidents:write", _recipients,
           "Preview who would and would not receive a draft"),
    _route("POST", "/incidents/{id}/release", OPERATOR, _release_operator,
           "Sign, log and send a draft"),
    _route("POST", "/incidents/{id}/release", "incidents:release", _release,
           "Sign, log and send a draft; repeats the preview's digest"),
    _route("GET", "/incidents/{id}/access", "log:audit", _accesses,
           "Who read, exported, disclosed or erased it, and when"),
    _route("GET", "/incidents/{id}/erasure", OPERATOR, _erasure, "What erasing it would do"),
    _route("POST", "/incidents/{id}/erase", OPERATOR, _erase,
           "Erase it here for good, with its attachments"),
    _route("POST", "/disclosures", OPERATOR, _disclose,
           "Hand over one message with the key of its body"),
    _route("GET", "/incidents/{id}/deliveries", "incidents:read", _deliveries,
           "What each recipient has"),
    _route("GET", "/incidents/{id}/raw", "incidents:read", _raw, "The exact signed bytes"),
    _route("GET", "/incidents/{id}/proof", "log:read", _proof, "Inclusion proof and checkpoint"),
    _route("GET", "/envelopes/{id}/statement", "incidents:read", _delivery_statement,
           "Signed statement of who has an envelope"),
    _route("GET", "/deliveries/missing", "incidents:read", _missing_receipts,
           "Receipts that are missing past their deadline, by peer"),
    _route("GET", "/envelopes/{id}/proof", "log:read", _envelope_proof,
           "The log entry of an envelope and its proof, as a C2SP tlog-proof file"),
    _route("GET", "/incidents/{id}/tlog-proof", "log:read", _incident_tlog_proof,
           "The same for an envelope of an incident"),
    _route("POST", "/incidents/{id}/evidence", "evidence:export", _evidence_of_incident,
           "An evidence bundle of one envelope of an incident"),
    _route("POST", "/envelopes/{id}/evidence", "evidence:export", _evidence_of_envelope,
           "An evidence bundle of an envelope"),
    _route("GET", "/metrics", "node:read", _metrics, "Counts and states, for Prometheus"),
    _route("POST", "/imports", "incidents:write", _import, "Create many drafts"),
    _route("POST", "/incidents/{id}/attachments", "incidents:write", _attach,
           "Add an uploaded file to a draft"),
    _route("GET", "/attachments", "attachments:read", _attachments,
           "Attachments whose content is here or can be fetched"),
    _route("PUT", "/attachments/{sha256}", "attachments:write", _put_attachment,
           "Upload a file for a draft"),
    _route("GET", "/attachments/{sha256}", "attachments:read", _get_attachment,
           "The content of an attachment"),
    _route("POST", "/attachments/{sha256}/fetch", "attachments:write", _fetch_attachment,
           "Fetch an attachment from who holds it"),
    _route("DELETE", "/attachments/{sha256}", "attachments:write", _drop_attachment,
           "Delete the content of an attachment here"),
    _route("GET", "/log/head", "log:read", _log_head, "The newest signed checkpoint"),
    _route("GET", "/log/checkpoint", "log:read", _log_checkpoint,
           "The newest signed checkpoint, as the file that it is"),
    # Before the tiles, which would take its paths under a lesser scope.
    _route("GET", "/log/tile/entries/{path}", "log:audit", _log_bundle,
           "A bundle of log entries", rest=True),
    _route("GET", "/log/tile/{path}", "log:read", _log_tile, "A tile of the log's hashes",
           rest=True),
    _route("POST", "/log/export", OPERATOR, _log_export,
           "Log that the log is exported; return the checkpoint to export"),
    _route("GET", "/log/witnesses", "log:read", _witnesses,
           "Who confirmed this log, and what logs of peers show"),
    _route("GET", "/log/policy", "log:read", _policy,
           "Whose cosignatures count (C2SP tlog-policy)"),
    _route("POST", "/log/audits/{name}", OPERATOR, _audit, "Audit a peer's log"),
    _route("GET", "/peers/{name}/audit", "log:read", _audited, "How far an audit has come"),
    _route("GET", "/peers/{name}/log-fork", "log:read", _log_fork,
           "The proof that a peer's log contradicts itself"),
    _route("POST", "/witness/add-checkpoint", "witness:add", _add_checkpoint,
           "Have a checkpoint of a peer's log cosigned (C2SP tlog-witness)", raw=True),
    _route("GET", "/witness/{origin}/checkpoint", "log:read", _cosigned_by_us,
           "The checkpoint that was cosigned last, by the hex SHA-256 of its origin"),
    _route("POST", "/log/verify", OPERATOR, _log_verify, "Verify log, envelopes and receipts"),
    _route("GET", "/log/verification", OPERATOR, _log_verification,
           "Go on verifying for a moment: how far it is, or what came of it"),
    _route("GET", "/tokens", OPERATOR, _tokens, "All tokens, without secrets"),
    _route("POST", "/tokens", OPERATOR, _create_token, "Make a token"),
    _route("DELETE", "/tokens/{id}", OPERATOR, _revoke_token, "Revoke a token"),
    _route("POST", "/unlock", OPERATOR, _unlock, "Open the keystore"),
)  # fmt: skip


def openapi() -> dict[str, Any]:
    """Return the contract of the routes that tokens reach, as OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    for route in ROUTES:
        if route.scope == OPERATOR:
            continue
        operation: dict[str, Any] = {
            "summary": route.summary,
            "responses": {
                "default": {
                    "description": "the answer, or problem+json with code and fix",
                }
            },
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in re.findall(r"\{(\w+)\}", route.path)
            ],
        }
        if route.scope != PUBLIC:
            operation["security"] = [{"token": []}]
            operation["description"] = f"Needs the scope {route.scope}."
        if route.method == "POST":
            schema = {"schema": {"type": "object"}}
            operation["requestBody"] = {"content": {"application/json": schema}}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Picket local endpoint", "version": "1"},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }
