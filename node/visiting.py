"""One request at the door of another node, without a certificate of our own.

- TLS 1.3; where certificates are expected the one that is shown must be, byte for byte, among them.
  Where none are, nothing that comes is believed: a card proves itself, and trust takes a person.
- One deadline for everything, one bound for the answer; no redirects, no proxies, no second try.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from protocol import limits
from protocol.errors import ConnectError, DecodeError, HandshakeError
from protocol.statement import check_endpoint

TIMEOUT_S: Final = limits.HELLO_TIMEOUT_MS / 1000
_MAX_HEAD: Final = 16 * 1024
_HTTPS_PORT: Final = 443
_WAIT: Final = "if it lasts, ask its operator: its node, a firewall or the network is down"
CARD_PATH: Final = "/card"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; ``date`` is the other end's clock (UTC ms), if it told it."""

    status: int
    body: bytes
    date: int | None


def endpoint_of(url: str) -> str:
    """Return the address ``wss://host:port`` that a person means with *url*.

    Raises:
        DecodeError: it is neither ``wss://host:port`` nor ``https://host[:port][/card]``.
    """
    text = url.strip()
    if text.startswith("https://"):
        netloc = text.removeprefix("https://").removesuffix(CARD_PATH).removesuffix("/")
        has_port = netloc.rpartition("]")[2].count(":") == 1
        text = f"wss://{netloc}" if has_port else f"wss://{netloc}:{_HTTPS_PORT}"
    try:
        check_endpoint(text)
    except DecodeError:
        raise DecodeError(
            f"{url!r} is no address of a node",
            fix="give it as wss://node.example.org:8462, as on its card",
        ) from None
    return text


async def fetch_card(endpoint: str) -> bytes:
    """Return the card bundle that the node at *endpoint* shows, as it came: unverified.

    Raises:
        ConnectError: nobody answers there.
        HandshakeError: it is no node, or shows no card.
    """
    answer = await visit(endpoint, "GET", CARD_PATH, maximum=limits.MAX_DOOR_BUNDLE)
    if answer.status != HTTPStatus.OK:
        raise HandshakeError(
            f"{_where(endpoint)} shows no card (HTTP status {answer.status})",
            fix="ask that authority for its card as a file",
        )
    return answer.body


async def visit(
    endpoint: str,
    method: str,
    path: str,
    *,
    body: Callable[[bytes], bytes] | None = None,
    expected: Collection[bytes] | None = None,
    maximum: int,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Make one request at *endpoint*.

    Args:
        endpoint: ``wss://host:port``.
        method: of the request.
        path: of the request.
        body: makes it, for the certificate (DER) that the other end has shown.
        expected: certificates (DER) of which it must be one; None takes any.
        maximum: bytes that the answer may have.
        timeout_s: for all of it.

    Raises:
        ConnectError: nobody answers there, or not in time.
        HandshakeError: it has another certificate, or answers with something else than HTTP.
    """
    where = _where(endpoint)
    try:
        async with asyncio.timeout(timeout_s):
            return await _visit(
                endpoint, method, path, body=body, expected=expected, maximum=maximum
            )
    except TimeoutError:
        raise ConnectError(f"{where} did not answer in {timeout_s:g} s", fix=_WAIT) from None
    except ssl.SSLError:
        raise HandshakeError(f"{where} does not speak TLS 1.3", fix=_WAIT) from None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it closed the connection"
        raise ConnectError(f"{where} cannot be reached: {reason}", fix=_WAIT) from None


async def _visit(
    endpoint: str,
    method: str,
    path: str,
    *,
    body: Callable[[bytes], bytes] | None,
    expected: Collection[bytes] | None,
    maximum: int,
) -> Answer:
    where, parts = _where(endpoint), urlsplit(endpoint)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=_context(), server_hostname=parts.hostname
    )
    try:
        secured = writer.get_extra_info("ssl_object")
        certificate = secured.getpeercert(binary_form=True) or b""
        if expected is not None and certificate not in expected:
            raise HandshakeError(
                f"the certificate of {where} is not the one on the peer's card",
                fix="something is in between, or the peer has a new card: ask its operator",
            )
        data = b"" if body is None else body(certificate)
        head = f"{method} {path} HTTP/1.1\r\nHost: {where}\r\nConnection: close\r\n"
        if body is not None:
            head += f"Content-Type: application/octet-stream\r\nContent-Length: {len(data)}\r\n"
        writer.write(head.encode("ascii") + b"\r\n" + data)
        await writer.drain()
        return _parsed(await _read(reader, where, maximum + _MAX_HEAD), where, maximum)
    finally:
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader, where: str, maximum: int) -> bytes:
    parts, size = [], 0
    while part := await reader.read(64 * 1024):
        size += len(part)
        if size > maximum:
            raise _too_much(where)
        parts.append(part)
    return b"".join(parts)


class _Received(io.BytesIO):
    """Bytes in the place of the socket that ``http.client`` reads from."""

    def makefile(self, mode: str) -> _Received:
        """Return itself; *mode* is always that of reading bytes."""
        del mode
        return self


def _parsed(data: bytes, where: str, maximum: int) -> Answer:
    if not data:
        raise HandshakeError(f"{where} ended the connection without an answer", fix=_WAIT)
    response = http.client.HTTPResponse(_Received(data))  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read(maximum + 1)
    except (http.client.HTTPException, ValueError):
        raise HandshakeError(f"{where} is no Picket node", fix="check the address") from None
    if len(body) > maximum:
        raise _too_much(where)
    return Answer(response.status, body, _date(response.getheader("Date")))


def _too_much(where: str) -> HandshakeError:
    return HandshakeError(f"{where} answered with too much", fix="check the address")


def _date(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(parsedate_to_datetime(text).timestamp() * 1000)
    except ValueError:
        return None


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whoever expects a certificate compares all of its bytes
    return context


def _where(endpoint: str) -> str:
    try:
        check_endpoint(endpoint)
    except DecodeError as error:
        raise ConnectError(error.message, fix="the peer must correct its card") from None
    return urlsplit(endpoint).netloc
