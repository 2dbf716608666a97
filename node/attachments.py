"""Attachments over links: fetched on demand from whoever may hold them, served to whoever may.

- What is wanted stands on disk as a download, so a fetch outlives lost links, restarts and kills.
- A fetch has one source at a time: the author if it is linked, else any reader that is. Whoever
  sends one chunk that does not verify is no source of that attachment any more.
- Whether a peer may have a blob is decided by the rows of node.db before any disk is touched.
  Unknown, incomplete and not permitted are one answer.
- The disk is touched only in jobs, each about one chunk, which ``work`` may run in other threads.
  Their results wait until ``pump`` takes them: all else belongs to the thread of the databases.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog

from node import journal
from node.blobs import BlobStore
from node.clock import Clock
from node.core import Core
from node.line import Line
from protocol import limits
from protocol.blob import Blob, BlobChunk, BlobFrame, NoBlob, WantBlob
from protocol.errors import BlobStoreError, NotFoundError, PeerError, PicketError
from protocol.session import Effect

_log = structlog.get_logger()
_T = TypeVar("_T")
STALL_MS: Final = 30_000
"""A source that brings nothing of what it was asked for in this time is left for another."""
AVOID_MS: Final = 60_000
"""How long a source is left alone that stalled or said that it has nothing."""
_RETRY_MS: Final = 30_000
_LOOK_MS: Final = 1_000
Job = Callable[[], None]


def at_once(job: Job) -> None:
    """Run *job* here and now."""
    job()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch has come; *source* is the node id of who sends it now."""

    have: int
    count: int
    source: bytes | None
    trouble: str


@dataclass(slots=True, eq=False)
class _Fetch:
    """One attachment on its way in; times are monotonic ms."""

    blob: Blob
    todo: deque[int] | None = None  # None: the download must be opened first
    asked: set[int] = field(default_factory=set)
    writing: set[int] = field(default_factory=set)
    line: Line | None = None
    heard_at: int = 0
    idle_until: int = 0
    avoid: dict[bytes, int] = field(default_factory=dict)
    wrong: set[bytes] = field(default_factory=set)
    trouble: str = ""

    def leave(self) -> None:
        """Let the source go; what it was asked for and has not brought is to be asked again."""
        if self.todo is not None:
            self.todo.extendleft(sorted(self.asked, reverse=True))
        self.asked.clear()
        self.line = None

    @property
    def pending(self) -> int:
        """Chunks that take room in the window of the source's link."""
        return len(self.asked) + len(self.writing)


@dataclass(slots=True, eq=False)
class _Serving:
    """What one peer has asked for and not got: (blob id, chunk)."""

    waiting: deque[tuple[bytes, int]] = field(default_factory=deque)
    reading: bool = False


class Attachments:
    """Everything a node fetches and serves of attachments."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        links: Mapping[bytes, Line],
        perform: Callable[[Line, Iterable[Effect]], None],
    ) -> None:
        """Take up again what was being fetched when the last process ended."""
        self._core, self._clock = core, clock
        self._links, self._perform = links, perform
        self._fetches: dict[bytes, _Fetch] = {}
        self._serving: dict[Line, _Serving] = {}
        self._done: deque[Job] = deque()
        self._opening = False
        self.work: Callable[[Job], None] = at_once
        self.faults: dict[bytes, int] = {}
        """How many attachments each peer sent something wrong for."""
        for blob in core.blobs.partial() if core.blobs is not None else ():
            if core.blob_refs.known(blob.id):
                self.fetch(blob)

    # --- what the operator wants -------------------------------------------------------------
    def fetch(self, blob: Blob) -> None:
        """Fetch *blob* as soon as somebody is linked who may hold it.

        Repeated, it tries again everybody, also those who failed before.
        """
        if self._core.blobs is None or self._core.blobs.holds(blob.id):
            return
        fetch = self._fetches.setdefault(blob.id, _Fetch(blob))
        fetch.avoid.clear()
        fetch.wrong.clear()
        fetch.idle_until, fetch.trouble = 0, ""

    def drop(self, blob_id: bytes) -> None:
        """Stop fetching a blob; the caller deletes what is there of it."""
        self._fetches.pop(blob_id, None)

    def progress(self) -> dict[bytes, Progress]:
        """Return how far each fetch has come, by blob id."""
        return {key: _progress(fetch) for key, fetch in self._fetches.items()}

    # --- life of a link ----------------------------------------------------------------------
    def opened(self, line: Line) -> None:
        """Look at once whether the peer of *line* is a source of what is wanted."""
        del line
        for fetch in self._fetches.values():
            if fetch.line is None and not fetch.trouble:
                fetch.idle_until = 0

    def lost(self, line: Line) -> None:
        """Ask others for what the peer of *line* was asked for."""
        self._serving.pop(line, None)
        for fetch in self._fetches.values():
            if fetch.line is line:
                fetch.leave()

    def tick(self, now: int) -> None:
        """Leave sources that bring nothing."""
        for fetch in self._fetches.values():
            if fetch.line is not None and fetch.asked and now - fetch.heard_at >= STALL_MS:
                _log.warning("attachment-stalled", peer=self._name(fetch.line.peer))
                self._avoid(fetch, fetch.line.peer, now)

    def _avoid(self, fetch: _Fetch, peer: bytes, now: int) -> None:
        fetch.avoid[peer] = now + AVOID_MS
        fetch.leave()

    # --- what peers say ----------------------------------------------------------------------
    def heard(self, line: Line, frame: BlobFrame) -> None:
        """Take what a peer asks for, or brings, or does not have."""
        match frame:
            case WantBlob():
                self._wanted(line, frame)
            case BlobChunk():
                self._brought(line, frame)
            case NoBlob(blob_id):
                fetch = self._fetches.get(blob_id)
                if fetch is not None and fetch.line is line:
                    self._avoid(fetch, line.peer, self._clock.monotonic())

    def _wanted(self, line: Line, want: WantBlob) -> None:
        blobs = self._core.blobs
        allowed = self._core.trust.gives_to(line.peer) and self._core.blob_refs.may_have(
            want.blob_id, line.peer
        )
        if not allowed or blobs is None or not blobs.holds(want.blob_id):
            self._say(line, NoBlob(want.blob_id))
            return
        serving = self._serving.setdefault(line, _Serving())
        room = limits.BLOB_WINDOW - len(serving.waiting) - serving.reading
        chunks = range(want.first, want.first + want.count)
        serving.waiting.extend((want.blob_id, index) for index in chunks[:room])

    def _brought(self, line: Line, chunk: BlobChunk) -> None:
        fetch, blobs = self._fetches.get(chunk.blob_id), self._core.blobs
        if fetch is None or blobs is None or fetch.line is not line:
            return  # it comes late: somebody else was asked meanwhile
        if chunk.index not in fetch.asked:
            return
        fetch.heard_at = self._clock.monotonic()
        fetch.asked.discard(chunk.index)
        fetch.writing.add(chunk.index)
        self._do(
            lambda: blobs.accept(fetch.blob, chunk.index, chunk.data, chunk.proof),
            lambda result: self._accepted(fetch, line.peer, chunk.index, result),
        )

    def _accepted(
        self, fetch: _Fetch, peer: bytes, index: int, result: int | PicketError | None
    ) -> None:
        fetch.writing.discard(index)
        if self._fetches.get(fetch.blob.id) is not fetch:
            return  # it was dropped meanwhile
        if result is None:
            del self._fetches[fetch.blob.id]
            _log.info("attachment-fetched", peer=self._name(peer))
        elif isinstance(result, PicketError):
            if fetch.todo is not None:
                fetch.todo.appendleft(index)
            if isinstance(result, PeerError):
                self._lied(fetch, peer, result)
            else:
                self._fail(fetch, result)

    def _lied(self, fetch: _Fetch, peer: bytes, error: PeerError) -> None:
        if peer not in fetch.wrong:
            fetch.wrong.add(peer)
            self.faults[peer] = self.faults.get(peer, 0) + 1
            _log.warning("attachment-wrong", peer=self._name(peer), code=error.code)
        if fetch.line is not None and fetch.line.peer == peer:
            fetch.leave()

    def _fail(self, fetch: _Fetch, error: PicketError) -> None:
        """Leave a fetch alone for a while that our own disk stands in the way of."""
        fetch.leave()
        if isinstance(error, NotFoundError | BlobStoreError):
            fetch.todo = None  # what is there must be looked at again
        if not isinstance(error, NotFoundError):
            fetch.trouble = error.diagnostics()
            fetch.idle_until = self._clock.monotonic() + _RETRY_MS
            _log.error("attachment-failed", code=error.code)

    # --- moving on ---------------------------------------------------------------------------
    def pump(self) -> None:
        """Take the results of jobs; ask for more; serve more."""
        self._settle()
        now = self._clock.monotonic()
        for fetch in list(self._fetches.values()):
            if now >= fetch.idle_until:
                self._advance(fetch, now)
        for line, serving in list(self._serving.items()):
            self._serve(line, serving)

    def _do(self, act: Callable[[], _T], then: Callable[[_T | PicketError], None]) -> None:
        """Run *act* as a job, and *then* with its result here when ``pump`` comes to it."""

        def job() -> None:
            result: _T | PicketError
            try:
                result = act()
            except PicketError as error:
                result = error
            except Exception as error:  # noqa: BLE001  a bug met here must not end the node
                journal.bug(error)
                result = BlobStoreError("the node met a fault of its own", fix="report it")
            self._done.append(lambda: then(result))

        self.work(job)

    def _settle(self) -> None:
        while self._done:
            self._done.popleft()()

    def _advance(self, fetch: _Fetch, now: int) -> None:
        if fetch.todo is None and not fetch.writing:
            self._open(fetch)
        if fetch.todo is None:
            return
        if not (fetch.todo or fetch.pending):
            fetch.todo = None  # the download says that something is missing still
            return
        if fetch.todo and fetch.line is None:
            fetch.line, fetch.heard_at = self._source(fetch, now), now
        if fetch.line is None:
            fetch.idle_until = now + _LOOK_MS
        elif fetch.line.open:
            self._ask(fetch, fetch.line, fetch.todo, now)

    def _open(self, fetch: _Fetch) -> None:
        """Open the download; one after the other, for each may have to read all that is there."""
        blobs = self._core.blobs
        if self._opening or blobs is None:
            return
        self._opening = True

        def begin() -> tuple[int, ...]:
            if blobs.begin(fetch.blob) is None:
                return ()
            return blobs.missing(fetch.blob, fetch.blob.count)

        self._do(begin, lambda result: self._begun(fetch, result))
        self._settle()

    def _begun(self, fetch: _Fetch, result: tuple[int, ...] | PicketError) -> None:
        self._opening = False
        if (current := self._fetches.get(fetch.blob.id)) is not fetch:
            if current is None:  # dropped while it was made: what came of it is not wanted
                self._delete(fetch.blob.id)
            return
        if isinstance(result, PicketError):
            self._fail(fetch, result)
        elif not result:
            del self._fetches[fetch.blob.id]
        else:
            fetch.trouble = ""
            fetch.todo = deque(result)

    def _delete(self, blob_id: bytes) -> None:
        blobs = self._core.blobs
        if blobs is not None and not blobs.holds(blob_id):
            self._do(lambda: blobs.delete(blob_id), lambda _: None)

    def _source(self, fetch: _Fetch, now: int) -> Line | None:
        """Return the link of the first of those who may hold the blob that can be asked now."""
        busy = [each.line for each in self._fetches.values()]
        for peer in self._core.blob_refs.sources(fetch.blob.id):
            line = self._links.get(peer)
            if line is None or not line.open or not self._core.trust.accepts_author(peer):
                continue
            tried = peer in fetch.wrong or now < fetch.avoid.get(peer, now)
            if not tried and busy.count(line) < limits.MAX_BLOBS_PER_LINK:
                return line
        return None

    def _ask(self, fetch: _Fetch, line: Line, todo: deque[int], now: int) -> None:
        taken = sum(each.pending for each in self._fetches.values() if each.line is line)
        room = limits.BLOB_WINDOW - taken
        if room <= 0 or (room < limits.BLOB_WINDOW // 2 and fetch.asked and room < len(todo)):
            return  # few large questions instead of many small ones
        if not fetch.asked:
            fetch.heard_at = now
        indices = [todo.popleft() for _ in range(min(room, len(todo)))]
        fetch.asked.update(indices)
        for first, number in _runs(indices):
            self._say(line, WantBlob(fetch.blob.id, first, number))

    def _serve(self, line: Line, serving: _Serving) -> None:
        """Read the next chunk that a peer waits for, one at a time."""
        blobs = self._core.blobs
        while serving.waiting and not serving.reading:
            if not line.open or blobs is None or line.waiting > limits.LINK_QUEUE:
                return
            blob_id, index = serving.waiting.popleft()
            serving.reading = True
            self._read(blobs, line, serving, blob_id, index)
            self._settle()

    def _read(
        self, blobs: BlobStore, line: Line, serving: _Serving, blob_id: bytes, index: int
    ) -> None:
        def answer(result: tuple[bytes, tuple[bytes, ...]] | PicketError) -> None:
            serving.reading = False
            if not isinstance(result, PicketError):
                self._say(line, BlobChunk(blob_id, index, *result))
                return
            kept = [each for each in serving.waiting if each[0] != blob_id]
            serving.waiting = deque(kept)
            self._say(line, NoBlob(blob_id))
            self._mend(blobs, blob_id, result)

        self._do(lambda: blobs.chunk(blob_id, index), answer)

    def _mend(self, blobs: BlobStore, blob_id: bytes, error: PicketError) -> None:
        """Fetch what proved damaged here from others who hold it."""
        if isinstance(error, BlobStoreError):
            _log.error("attachment-damaged", code=error.code)
            for blob in blobs.partial():
                if blob.id == blob_id:
                    self.fetch(blob)

    def _say(self, line: Line, frame: BlobFrame) -> None:
        self._perform(line, line.session.say(frame))

    def _name(self, node_id: bytes) -> str:
        peer = self._core.trust.peers.get(node_id)
        return peer.name if peer is not None else "unknown"


def _progress(fetch: _Fetch) -> Progress:
    left = fetch.blob.count if fetch.todo is None else len(fetch.todo) + fetch.pending
    source = None if fetch.line is None else fetch.line.peer
    return Progress(fetch.blob.count - left, fetch.blob.count, source, fetch.trouble)


def _runs(indices: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Return (first, number) of the runs of neighbours in *indices*, in their order."""
    run: list[int] = []
    for index in indices:
        if run and index != run[-1] + 1:
            yield run[0], len(run)
            run = []
        run.append(index)
    if run:
        yield run[0], len(run)
