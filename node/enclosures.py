"""What a person or a program may ask about attachments: list, put, get, fetch, drop, release.

- A file is named by its SHA-256. Whoever writes a record can claim any digest for any blob, so a
  blob counts as the file only after all of it was opened and hashed, once in a run of the node.
- Each audience gets an encryption of its own: a blob that two audiences share would show whoever
  holds it that both got the same file.
- Methods named after what they return run on the thread that owns the databases. The steps that
  they hand out (``Copies.make``, ``Upload.open`` and so on) read or write whole files: run them in
  another thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from node.access import OPERATOR
from node.attachments import Progress
from node.blobs import BlobStore, Writer
from node.clock import Clock, rfc3339
from node.core import Core
from node.locking import Lease
from protocol.access import ATTACHMENT
from protocol.blob import Blob, BlobRef
from protocol.errors import (
    ConflictError,
    DigestError,
    LockedError,
    NotFoundError,
    OpenError,
    PicketError,
    RequestError,
    StoreError,
)

if TYPE_CHECKING:
    from protocol.incident import Attachment, Incident

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_BEGINNING: Final = re.compile(r"[0-9a-f]{8,64}")
Row = dict[str, Any]
Audience = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Fetching:
    """What of fetching the engine does; a node that is not running only takes note."""

    fetch: Callable[[Blob], None] | None = None
    drop: Callable[[bytes], None] = lambda _blob_id: None
    progress: Callable[[], Mapping[bytes, Progress]] = dict
    faults: Mapping[bytes, int] = field(default_factory=dict)


class _Judge:
    """Tells which blobs are the file that is meant, and remembers it."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self._genuine: set[bytes] = set()

    def first(self, refs: Sequence[BlobRef]) -> BlobRef | None:
        """Return the first of *refs* that is here as a whole and is what it is said to be."""
        return next((ref for ref in refs if self._is_genuine(ref)), None)

    def _is_genuine(self, ref: BlobRef) -> bool:
        if not self.store.holds(ref.id):
            return False
        if ref.id not in self._genuine:
            try:
                self.store.check(ref)
            except (DigestError, OpenError, NotFoundError):
                return False
            self._genuine.add(ref.id)
        return True


@dataclass(frozen=True, slots=True)
class _Wish:
    """One attachment for one audience, and where its content may be taken from."""

    audience: Audience
    sha256: str
    sources: tuple[BlobRef, ...]


@dataclass(slots=True)
class Copies:
    """The encryptions that one release needs, one for each audience and file."""

    judge: _Judge
    wishes: tuple[_Wish, ...]
    unshared: set[bytes]
    lease: Lease
    made: dict[tuple[Audience, str], BlobRef] = field(default_factory=dict)
    new: list[bytes] = field(default_factory=list)

    def make(self) -> None:
        """Encrypt whatever has to be encrypted anew; what nobody was told of goes out as it is.

        Raises:
            BusyError: the quota or the disk has no room; nothing is left of it.
            BlobStoreError: the disk fails.
            LockedError: the node was locked meanwhile; nothing is left of it.
        """
        try:
            for wish in self.wishes:
                source = self.judge.first(wish.sources)
                if source is not None:
                    self.made[wish.audience, wish.sha256] = self._for_one(source)
        except BaseException:
            self.discard()
            raise

    def _for_one(self, source: BlobRef) -> BlobRef:
        if source.id in self.unshared:
            self.unshared.discard(source.id)
            return source
        store = self.judge.store
        with store.writer(source.size) as writer:
            for piece in store.read(source):
                self.lease.check()
                writer.write(piece)
            ref = writer.finish(sha256=source.sha256)
        self.new.append(ref.id)
        return ref

    def discard(self) -> None:
        """Delete what was encrypted for a release that did not come about."""
        while self.new:
            self.judge.store.delete(self.new.pop())

    def of(self, audience: Audience) -> dict[str, BlobRef]:
        """Return the blobs for one audience by the SHA-256 of the file (hex)."""
        return {sha256: ref for (to, sha256), ref in self.made.items() if to == audience}


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that a program is about to send."""

    judge: _Judge
    sha256: bytes
    known: tuple[BlobRef, ...]
    keep: Callable[[BlobRef | None], Row]
    lease: Lease

    def open(self, size: int) -> Writer | None:
        """Return what takes its *size* bytes; None if the file is here already."""
        return None if self.judge.first(self.known) else self.judge.store.writer(size)


@dataclass(frozen=True, slots=True)
class Download:
    """A file that a program asks for."""

    judge: _Judge
    sha256: bytes
    refs: tuple[BlobRef, ...]
    lease: Lease

    def open(self) -> BlobRef:
        """Return the blob that is the file; the first time all of it is opened and hashed.

        Raises:
            NotFoundError: it is not here.
            DigestError: what is here is another file than the record says.
        """
        found = self.judge.first(self.refs)
        if found is not None:
            return found
        if any(self.judge.store.holds(ref.id) for ref in self.refs):
            raise DigestError(
                "the attachment is not the file that the record names",
                fix="drop it, and ask its author to send it again",
            )
        raise NotFoundError("the attachment is not here", fix="fetch it first")

    def read(self, ref: BlobRef, start: int, stop: int) -> Iterator[bytes]:
        """Return the bytes *start* to *stop* piece by piece, until the node is locked."""
        for piece in self.judge.store.read(ref, start, stop):
            self.lease.check()
            yield piece


class Enclosures:
    """The attachments of one node."""

    def __init__(
        self, core: Core, *, clock: Clock, fetching: Fetching, name: Callable[[bytes], str]
    ) -> None:
        """Work on *core*; *name* says how to call a node id."""
        self._core, self._clock, self._fetching, self._name = core, clock, fetching, name
        self._judge: _Judge | None = None

    @property
    def judge(self) -> _Judge:
        """What tells genuine blobs from others."""
        if self._core.blobs is None:
            raise StoreError("the folder of attachments is not open")
        if self._judge is None:
            self._judge = _Judge(self._core.blobs)
        return self._judge

    # --- looking -----------------------------------------------------------------------------
    def rows(self, sha256: bytes | None = None) -> Row:
        """Return every attachment whose content this node has or can ask for.

        Raises:
            LockedError: the node is locked.
        """
        _, cases = self._core.opened()
        store, progress = self.judge.store, self._fetching.progress()
        partial = {blob.id for blob in store.partial()}
        items = []
        for row in cases.attachments(sha256=sha256):
            ref, author = row["ref"], row["author"]
            under_way = progress.get(ref.id)
            wanted = under_way is not None or ref.id in partial
            here = store.holds(ref.id)
            items.append(
                {
                    "sha256": ref.sha256.hex(), "size": ref.size,
                    "media_type": row["about"].get("media_type"),
                    "kind": row["about"].get("kind"), "caption": row["about"].get("caption"),
                    "incident_id": row["incident_id"],
                    "author": None if author is None else self._name(author),
                    "recorded_at": rfc3339(row["at"]),
                    "state": "here" if here else "fetching" if wanted else "absent",
                    "percent": 100 if here else _percent(under_way),
                    "source": self._source(under_way),
                    "trouble": under_way.trouble or None if under_way else None,
                }
            )  # fmt: skip
        return {"items": items}

    def _source(self, progress: Progress | None) -> str | None:
        if progress is None or progress.source is None:
            return None
        return self._name(progress.source)

    def find(self, text: str) -> bytes:
        """Return the SHA-256 that *text* is, or is the beginning of.

        Raises:
            NotFoundError: there is none, or more than one.
            RequestError: it is no beginning of one, of at least 8 digits.
        """
        if not _BEGINNING.fullmatch(text):
            raise RequestError(
                "an attachment is named by the lower-case hex digits of its SHA-256",
                fix="give all 64 of them, or at least the first 8",
            )
        _, cases = self._core.opened()
        found: set[bytes] = {row["ref"].sha256 for row in cases.attachments()}
        fitting = [each for each in found if each.hex().startswith(text)]
        if len(fitting) != 1:
            raise NotFoundError(
                f"{'no' if not fitting else 'more than one'} attachment {text}",
                fix="list them with: picket attachments list",
            )
        return fitting[0]

    def _refs(self, sha256: bytes) -> tuple[BlobRef, ...]:
        _, cases = self._core.opened()
        return tuple(row["ref"] for row in cases.attachments(sha256=sha256))

    # --- putting and getting -----------------------------------------------------------------
    def upload(self, text: str) -> Upload:
        """Return how to take in the file whose SHA-256 is *text*.

        Raises:
            RequestError: it is no SHA-256.
            LockedError: the node is locked.
        """
        if not _DIGEST.fullmatch(text):
            raise RequestError("the SHA-256 is not 64 lower-case hex digits", fix="compute it")
        sha256 = bytes.fromhex(text)
        lease = self._core.locking.lease()
        return Upload(self.judge, sha256, self._refs(sha256), self._keep(sha256, lease), lease)

    def _keep(self, sha256: bytes, lease: Lease) -> Callable[[BlobRef | None], Row]:
        def keep(ref: BlobRef | None) -> Row:
            from protocol.incident import Enclosed  # noqa: PLC0415  heavy (pydantic)

            try:
                lease.check()
            except LockedError:
                if ref is not None:
                    self.judge.store.delete(ref.id)  # its key is nowhere else
                raise
            _, cases = self._core.opened()
            if ref is not None:
                with cases.transaction():
                    cases.add_attachments([Enclosed(ref, {})], at=self._clock.now())
            row: Row = self.rows(sha256)["items"][0]
            return row

        return keep

    def download(self, text: str, *, who: str = OPERATOR) -> Download:
        """Return how to read the file whose SHA-256 is, or begins with, *text*.

        That *who* does is logged, unless nothing of it is here or it is part of drafts only.

        Raises:
            NotFoundError: no such attachment is known.
            LockedError: the node is locked.
            BusyError: the disk is full, and nothing is handed out that is not logged.
        """
        sha256 = self.find(text)
        _, cases = self._core.opened()
        rows = cases.attachments(sha256=sha256)
        refs = tuple(row["ref"] for row in rows)
        named = [row["envelope_id"] for row in rows if row["envelope_id"]]
        if named and any(self.judge.store.holds(ref.id) for ref in refs):
            self._core.access.record_reading(ATTACHMENT, named, who, sha256.hex()[:16])
        return Download(self.judge, sha256, refs, self._core.locking.lease())

    # --- fetching and dropping ---------------------------------------------------------------
    def fetch(self, text: str) -> tuple[Callable[[], list[Blob]], Callable[[list[Blob]], Row]]:
        """Return the two steps of beginning a fetch: reserve its place on disk, then begin.

        Raises:
            NotFoundError: no such attachment is known.
        """
        sha256 = self.find(text)
        refs, judge, begin = self._refs(sha256), self.judge, self._fetching.fetch

        def reserve() -> list[Blob]:
            if judge.first(refs):
                return []
            begun: list[Blob] = []
            faults: list[PicketError] = []
            for blob in {ref.blob for ref in refs}:
                try:
                    judge.store.begin(blob)
                except DigestError as error:
                    faults.append(error)  # a record that lies must not stand in the way of others
                    continue
                begun.append(blob)
                if begin is None:
                    judge.store.suspend(blob)
            if not begun and faults:
                raise faults[0]
            return begun

        def start(begun: list[Blob]) -> Row:
            for blob in begun:
                if begin is not None:
                    begin(blob)
            return self.rows(sha256)

        return reserve, start

    def drop(self, text: str) -> Callable[[], None]:
        """Forget the content of an attachment; return the step that deletes it.

        Raises:
            NotFoundError: no such attachment is known.
        """
        sha256 = self.find(text)
        ids = [ref.id for ref in self._refs(sha256)]
        for blob_id in ids:
            self._fetching.drop(blob_id)
        _, cases = self._core.opened()
        cases.remove_local_attachments(sha256)
        store = self.judge.store

        def delete() -> None:
            for blob_id in ids:
                store.delete(blob_id)

        return delete

    # --- releasing ---------------------------------------------------------------------------
    def copies(self, incident: Incident, audiences: Sequence[Audience]) -> Copies | None:
        """Return what a release of *incident* has to encrypt; None if it names no attachment."""
        named = incident.annex.attachments if incident.annex is not None else ()
        if not named or self._core.blobs is None:
            return None
        wishes, unshared = [], set()
        for each in named:
            sources = self._sources(each)
            unshared |= {ref.id for ref in sources if not self._core.blob_refs.known(ref.id)}
            wishes += [_Wish(audience, each.sha256, sources) for audience in audiences]
        lease = self._core.locking.lease()
        return Copies(self.judge, tuple(wishes), unshared, lease)

    def _sources(self, named: Attachment) -> tuple[BlobRef, ...]:
        refs = self._refs(bytes.fromhex(named.sha256))
        held = [ref for ref in refs if ref.size == named.size and self.judge.store.holds(ref.id)]
        return tuple(sorted(held, key=lambda ref: self._core.blob_refs.known(ref.id)))

    def without_content(self, incident: Incident) -> list[str]:
        """Return the SHA-256 of attachments that would be released without their content."""
        named = incident.annex.attachments if incident.annex is not None else ()
        return [each.sha256 for each in named if self._core.blobs and not self._sources(each)]

    def check_unshared(self, refs: Mapping[str, BlobRef]) -> None:
        """Check, inside the transaction of a release, that nobody was told of its blobs before.

        Raises:
            ConflictError: another release was quicker, or the file was dropped.
        """
        for ref in refs.values():
            if self._core.blob_refs.known(ref.id) or not self.judge.store.holds(ref.id):
                raise ConflictError(
                    "an attachment was released or dropped at the same moment", fix="try again"
                )


def _percent(progress: Progress | None) -> int | None:
    return None if progress is None else 100 * progress.have // progress.count
