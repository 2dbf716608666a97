"""What a route of the local endpoint takes and gives, and how its fields are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from node import access
from node.enclosures import Download, Upload
from node.service import Service
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

PUBLIC: Final = "public"
REPEATED: Final = "\x1f"
OPERATOR: Final = "operator"
PREFIX: Final = "/api/v1"

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
    return Response(status.value, encoded(value), headers=headers)


def encoded(value: object) -> bytes:
    """Return *value* as the bytes of JSON."""
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
    return Response(status.value, encoded(value), "application/problem+json", tuple(headers))


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


# --- reading fields --------------------------------------------------------------------------
def get(body: Mapping[str, Any], key: str, kind: type, default: Any = ...) -> Any:  # noqa: ANN401
    """Return the field *key*, which must be a *kind*; without *default* it must be there.

    Raises:
        RequestError: it is missing or of another type.
    """
    value = body.get(key, default)
    if value is ...:
        raise RequestError(f"{key} is missing", fix=f"send {key}")
    if value is default:
        return value
    if type(value) is not kind:
        raise RequestError(f"{key} is not a {kind.__name__}", fix=f"send {key} as documented")
    return value


def names(body: Mapping[str, Any], key: str, default: Any = ...) -> Any:  # noqa: ANN401
    """Return the field *key*, which must be a list of texts.

    Raises:
        RequestError: it is missing or something else.
    """
    value = get(body, key, list, default)
    if value is not default and not all(type(item) is str for item in value):
        raise RequestError(f"{key} is not a list of names", fix=f"send {key} as documented")
    return value


def known(body: Mapping[str, Any], *keys: str) -> None:
    """Check that *body* has no other fields than *keys*.

    Raises:
        RequestError: it has; names the first.
    """
    if unknown := sorted(set(body) - set(keys)):
        raise RequestError(f"{unknown[0]} is not known here", fix=f"known are: {', '.join(keys)}")


def whole_number(query: Mapping[str, str], key: str, default: int) -> int:
    """Return a parameter of decimal digits.

    Raises:
        RequestError: it is something else.
    """
    text = query.get(key, str(default))
    if not re.fullmatch(r"0|[1-9][0-9]{0,15}", text):
        raise RequestError(f"{key} is not a whole number", fix=f"send {key} as decimal digits")
    return int(text)


_AT_ROOT: Final = frozenset({"/metrics"})


def route(
    method: str, path: str, scope: str, handler: Handler, summary: str, *, rest: bool = False,
    raw: bool = False,
) -> Route:  # fmt: skip
    """Return a row of the table; with *rest* what the path names last may hold slashes.

    Such a rest holds no percent-encoding: what it is compared with has one form only.
    """
    full = path if scope == PUBLIC or path in _AT_ROOT else PREFIX + path
    part = "[^%]" if rest else "[^/]"
    pattern = re.compile(re.sub(r"\{(\w+)\}", rf"(?P<\1>{part}{{1,256}})", full))
    return Route(method, full, scope, handler, summary, pattern, raw)
