"""Files over HTTP, piece by piece: what is uploaded is encrypted as it comes, and the other way.

Nothing is kept whole in memory, and the disk is touched in threads only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import web

from node.blobs import Writer
from node.enclosures import Download, Upload
from protocol import limits
from protocol.blob import BlobRef
from protocol.errors import PicketError, RangeError, RequestError, TooLargeError

_log = structlog.get_logger()
_RANGE: Final = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


# --- uploads ---------------------------------------------------------------------------------
async def receive(raw: web.Request, upload: Upload) -> tuple[BlobRef | None, bool]:
    """Take in the body of *raw*; return its blob and True, or None and False if it was here.

    Raises:
        RequestError: its length is not known, or it has another.
        TooLargeError: it is beyond 1 GiB, or comes too slowly.
        DigestError: it has another SHA-256 than the path says.
        BusyError: there is no room for it.
        LockedError: the node was locked meanwhile.
    """
    size = raw.content_length
    if size is None:
        raise RequestError("Content-Length is missing", fix="send the exact size of the file")
    writer = await asyncio.to_thread(upload.open, size)
    if writer is None:
        async for _ in _pieces(raw, size):
            pass  # read all the same: a client sees no answer before it has sent all
        return None, False
    try:
        async for piece in _pieces(raw, size):
            upload.lease.check()
            await asyncio.to_thread(writer.write, piece)
        return await asyncio.to_thread(_finish, writer, upload.sha256), True
    finally:
        await asyncio.to_thread(writer.abort)


def _finish(writer: Writer, sha256: bytes) -> BlobRef:
    return writer.finish(sha256=sha256)


async def _pieces(raw: web.Request, size: int) -> AsyncIterator[bytes]:
    """Yield the body in pieces of about one chunk, counted here."""
    rest = bytearray()
    taken = 0
    try:
        while True:
            async with asyncio.timeout(limits.REQUEST_TIMEOUT_S):
                data = await raw.content.readany()
            if not data:
                break
            taken += len(data)
            if taken > size:
                raise TooLargeError(f"the body is longer than {size} bytes", fix="send its size")
            rest += data
            if len(rest) >= limits.BLOB_CHUNK:
                yield bytes(rest)
                rest.clear()
    except (web.RequestPayloadError, ConnectionError):
        raise RequestError("the body is damaged", fix="send it again, as its headers say") from None
    except TimeoutError:
        raise TooLargeError("the body came too slowly", fix="send it at once") from None
    if rest:
        yield bytes(rest)


# --- downloads -------------------------------------------------------------------------------
async def send(
    raw: web.Request, download: Download, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer *raw* with the file, or the range of it that is asked for.

    Raises:
        NotFoundError: it is not here.
        DigestError: what is here is another file than the record says.
        RangeError: the range lies outside the file.
    """
    ref = await asyncio.to_thread(download.open)
    start, stop = requested(raw.headers.get("Range"), ref.size)
    partial = (start, stop) != (0, ref.size)
    name = ref.sha256.hex()
    response = web.StreamResponse(
        status=HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK,
        headers={
            **headers,
            # Whatever the author calls it: no program is to run or show it unasked.
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f'attachment; filename="{name}.bin"',
            "Content-Length": str(stop - start),
            "Accept-Ranges": "bytes",
            "ETag": f'"{name}"',
            **({"Content-Range": f"bytes {start}-{stop - 1}/{ref.size}"} if partial else {}),
        },
    )
    await response.prepare(raw)
    if raw.method == "HEAD" or await _pour(raw, response, download.read(ref, start, stop)):
        await response.write_eof()
    return response


async def _pour(raw: web.Request, response: web.StreamResponse, pieces: Iterator[bytes]) -> bool:
    """Write *pieces*; if that fails half way, cut the connection and return False."""
    try:
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            async with asyncio.timeout(limits.SEND_TIMEOUT_S):
                await response.write(piece)
    except (PicketError, TimeoutError, ConnectionError) as error:
        # The head has gone out: all that is left to say is that the body is not whole.
        code = error.code if isinstance(error, PicketError) else "link-lost"
        _log.warning("attachment-cut", code=code)
        if raw.transport is not None:
            raw.transport.abort()
        return False
    return True


def requested(text: str | None, size: int) -> tuple[int, int]:
    """Return where the range of a Range header begins and ends (RFC 9110 section 14.2).

    What is no single range of bytes counts as none, and the whole file is sent.

    Raises:
        RangeError: it lies outside the file.
    """
    found = _RANGE.fullmatch(text.strip()) if text is not None else None
    if found is None or not (found[1] or found[2]):
        return 0, size
    if not found[1]:
        start, stop = max(0, size - int(found[2])), size
    else:
        start = int(found[1])
        stop = min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return 0, size
    if start >= size or start >= stop:
        raise RangeError(
            f"the range lies outside the {size} bytes of the file", fix="ask for less", size=size
        )
    return start, stop
