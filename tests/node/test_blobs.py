"""The folder of attachments: whole or not there, whatever crashes, rots, lies or fills up."""

from __future__ import annotations

import errno
import hashlib
import io
import linecache
import os
import resource
import shutil
import stat
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

from node import blobfile, blobs
from node.blobs import BlobStore
from protocol import limits
from protocol.blob import BLOB_CHUNK, BLOB_TAG, MAX_BLOB, Blob, BlobRef, proof_places
from protocol.errors import (
    BlobStoreError,
    BusyError,
    ConfigError,
    ConflictError,
    DecodeError,
    DigestError,
    NotFoundError,
    OpenError,
    PeerError,
    PicketError,
    ProofError,
    RequestError,
    TooLargeError,
)

KEY = bytes(range(32))
SIZE = 4 * BLOB_CHUNK + 1_000
STEP = BLOB_CHUNK + BLOB_TAG


def content(size: int = SIZE, name: str = "attachment") -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


PLAIN = content()
DIGEST = hashlib.sha256(PLAIN).digest()


def a_store(folder: Path, *, quota: int = 2**32, min_free: int = 0) -> BlobStore:
    return BlobStore(folder, quota=quota, min_free=min_free, new_key=lambda: KEY)


@pytest.fixture
def alder(tmp_path: Path) -> BlobStore:
    """The store of the author."""
    return a_store(tmp_path / "alder")


@pytest.fixture
def birch(tmp_path: Path) -> Iterator[BlobStore]:
    """The store of a recipient."""
    store = a_store(tmp_path / "birch")
    yield store
    store.close()


@pytest.fixture
def ref(alder: BlobStore) -> BlobRef:
    return alder.put(io.BytesIO(PLAIN), size=SIZE)


def fetch(source: BlobStore, target: BlobStore, blob: Blob) -> int:
    """Fetch what is missing, in order; return how many chunks travelled."""
    travelled = 0
    missing = target.begin(blob)
    while missing is not None:
        missing = target.accept(blob, missing, *source.chunk(blob.id, missing))
        travelled += 1
    return travelled


def plaintext(store: BlobStore, ref: BlobRef) -> bytes:
    return b"".join(store.read(ref))


def names(store: BlobStore) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def file_of(store: BlobStore, blob: Blob, suffix: str = "") -> Path:
    return store.folder / f"{blob.id.hex()}-{blob.padded:x}{suffix}"


# --- putting ---------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 1_024, BLOB_CHUNK - 1, BLOB_CHUNK, BLOB_CHUNK + 1, SIZE])
def test_what_was_put_is_served_and_opens(alder: BlobStore, tmp_path: Path, size: int) -> None:
    plain = content(size)
    ref = alder.put(io.BytesIO(plain), size=size)
    assert ref == BlobRef(id=ref.id, key=KEY, size=size, sha256=hashlib.sha256(plain).digest())
    assert alder.whole() == (ref.blob,)
    assert plaintext(alder, ref) == plain
    alder.check(ref)
    alder.open_to(ref, tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == plain


def test_a_file_a_stream_and_pieces_of_any_size_give_the_same_blob(
    alder: BlobStore, ref: BlobRef, tmp_path: Path
) -> None:
    (tmp_path / "in.bin").write_bytes(PLAIN)
    assert alder.put(tmp_path / "in.bin") == ref
    for step in (1_000, BLOB_CHUNK - 1, BLOB_CHUNK, 200_000, SIZE):
        with alder.writer(SIZE) as writer:
            for at in range(0, SIZE, step):
                writer.write(PLAIN[at : at + step])
            assert writer.finish(sha256=DIGEST) == ref
    assert alder.used == file_of(alder, ref.blob).stat().st_size


def test_each_blob_has_a_key_of_its_own(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs", min_free=0)
    one, two = (store.put(io.BytesIO(PLAIN), size=SIZE) for _ in range(2))
    assert one.key != two.key
    assert one.id != two.id
    assert plaintext(store, one) == plaintext(store, two) == PLAIN


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_only_the_owner_can_read_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        store = a_store(tmp_path / "blobs")
        ref = store.put(io.BytesIO(PLAIN), size=SIZE)
        store.begin(Blob(bytes(32), 1_024))
        store.open_to(ref, tmp_path / "out.bin")
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    for path in (tmp_path / "out.bin", *store.folder.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store.close()


def test_neither_the_file_nor_its_key_is_on_disk_in_clear(alder: BlobStore, ref: BlobRef) -> None:
    stored = b"".join(path.read_bytes() for path in alder.folder.iterdir())
    assert KEY not in stored
    for at in range(0, SIZE - 32, 4_096):
        assert PLAIN[at : at + 32] not in stored


@pytest.mark.parametrize(
    ("given", "said", "message"),
    [(SIZE - 1, SIZE, "ended after"), (SIZE + 1, SIZE, "longer than"), (1, 0, "empty")],
)
def test_a_stream_of_another_length_is_refused_and_leaves_nothing(
    alder: BlobStore, given: int, said: int, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        alder.put(io.BytesIO(content(given)), size=said)
    assert names(alder) == []
    assert alder.used == 0


def test_a_file_that_is_too_large_is_refused_before_any_work(
    alder: BlobStore, tmp_path: Path
) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BLOB + 1)
    with pytest.raises(TooLargeError, match=str(MAX_BLOB)):
        alder.put(tmp_path / "large")
    assert alder.used == 0


def test_a_file_with_another_digest_than_the_sender_named_is_refused(alder: BlobStore) -> None:
    with pytest.raises(DigestError, match="SHA-256"), alder.writer(SIZE) as writer:
        writer.write(PLAIN)
        writer.finish(sha256=bytes(32))
    assert names(alder) == []


def test_only_a_plain_file_can_be_put(alder: BlobStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, message in (
        (tmp_path / "missing", "No such file"),
        (tmp_path / "fifo", "not a plain file"),
        (tmp_path, "not a plain file"),
    ):
        with pytest.raises(RequestError, match=message):
            alder.put(path)
    assert names(alder) == []


def test_a_writer_that_failed_takes_nothing_more(alder: BlobStore) -> None:
    writer = alder.writer(SIZE)
    with largest_file(STEP), pytest.raises(BusyError):
        writer.write(PLAIN)
    with pytest.raises(ValueError, match="closed"):
        writer.write(PLAIN[: BLOB_CHUNK - 1000])
    assert names(alder) == []


# --- serving ---------------------------------------------------------------------------------
def test_what_is_not_whole_is_not_served(alder: BlobStore, birch: BlobStore, ref: BlobRef) -> None:
    with pytest.raises(NotFoundError):
        birch.chunk(ref.id, 0)
    birch.begin(ref.blob)
    birch.accept(ref.blob, 0, *alder.chunk(ref.id, 0))
    for call in (lambda: birch.chunk(ref.id, 0), lambda: birch.read(ref), lambda: birch.check(ref)):
        with pytest.raises(NotFoundError):
            call()
    assert birch.whole() == ()


@pytest.mark.parametrize("index", [-1, 5, 2**40])
def test_a_part_that_does_not_exist_is_not_served(
    alder: BlobStore, ref: BlobRef, index: int
) -> None:
    with pytest.raises(NotFoundError):
        alder.chunk(ref.id, index)


@pytest.mark.parametrize("at", [0, STEP + 5, 4 * STEP + 1, -1])
def test_a_rotten_byte_is_never_served_and_only_its_chunk_is_fetched_again(
    alder: BlobStore, birch: BlobStore, ref: BlobRef, at: int
) -> None:
    fetch(alder, birch, ref.blob)
    path = file_of(birch, ref.blob)
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)
    bad = []
    for index in range(ref.blob.count):
        try:
            birch.chunk(ref.id, index)
        except BlobStoreError as error:
            assert error.fix
            bad.append(index)
        except NotFoundError:
            assert bad, "served no more although nothing was found"
    assert len(bad) == 1
    assert birch.whole() == ()
    # A rotten hash of the tree spoils the proofs of several chunks.
    assert 1 <= fetch(alder, birch, ref.blob) <= ref.blob.count - 1
    assert plaintext(birch, ref) == PLAIN
    assert birch.used == path.stat().st_size


def test_a_whole_blob_that_was_cut_short_is_found_at_start(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    fetch(alder, birch, ref.blob)
    os.truncate(file_of(birch, ref.blob), 3 * STEP + 7)
    again = a_store(birch.folder)
    assert again.whole() == ()
    # The tree went with the end of the file, so no chunk can be judged any more.
    assert fetch(alder, again, ref.blob) == ref.blob.count
    assert plaintext(again, ref) == PLAIN


def test_a_blob_that_somebody_removed_is_simply_not_here(alder: BlobStore, ref: BlobRef) -> None:
    file_of(alder, ref.blob).unlink()
    with pytest.raises(NotFoundError, match="removed"):
        alder.chunk(ref.id, 0)
    assert alder.used == 0


# --- fetching --------------------------------------------------------------------------------
def test_a_fetched_blob_is_the_same_file_and_can_be_served_on(
    alder: BlobStore, birch: BlobStore, ref: BlobRef, tmp_path: Path
) -> None:
    assert fetch(alder, birch, ref.blob) == ref.blob.count
    assert fetch(alder, birch, ref.blob) == 0
    cedar = a_store(tmp_path / "cedar")
    fetch(birch, cedar, ref.blob)
    assert plaintext(cedar, ref) == PLAIN
    cedar.check(ref)


def test_chunks_may_come_in_any_order_and_twice(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    blob = ref.blob
    assert birch.begin(blob) == 0
    firsts = [birch.accept(blob, index, *alder.chunk(ref.id, index)) for index in (3, 0, 3, 4, 2)]
    assert firsts == [0, 1, 1, 1, 1]
    assert birch.missing(blob, 10) == (1,)
    assert birch.accept(blob, 1, *alder.chunk(ref.id, 1)) is None
    assert plaintext(birch, ref) == PLAIN


def test_missing_is_bounded_and_ascending(alder: BlobStore, birch: BlobStore, ref: BlobRef) -> None:
    birch.begin(ref.blob)
    birch.accept(ref.blob, 1, *alder.chunk(ref.id, 1))
    assert birch.missing(ref.blob, 3) == (0, 2, 3)
    assert birch.missing(ref.blob, 0) == ()


def test_a_forged_chunk_is_refused_and_nothing_is_written(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    blob = ref.blob
    birch.begin(blob)
    before = file_of(birch, blob, ".part").read_bytes()
    data, proof = alder.chunk(ref.id, 1)
    foreign = a_store(alder.folder.parent / "other").put(io.BytesIO(content(name="o")), size=SIZE)
    other, other_proof = a_store(alder.folder.parent / "other").chunk(foreign.id, 1)
    for index, forged, path in (
        (1, data[:-1] + bytes([data[-1] ^ 1]), proof),
        (1, data, proof[::-1]),
        (1, data, proof[:-1]),
        (2, data, proof),
        (1, other, other_proof),
        (1, other, proof),
        (1, data[:-1], proof),
        (4, data, proof),
        (5, data, proof),
        (-1, data, proof),
    ):
        with pytest.raises((ProofError, DecodeError)):
            birch.accept(blob, index, forged, path)
    assert file_of(birch, blob, ".part").read_bytes() == before
    assert birch.missing(blob, 9) == (0, 1, 2, 3, 4)


def test_nothing_is_accepted_that_was_not_begun(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    with pytest.raises(NotFoundError, match="no download"):
        birch.accept(ref.blob, 0, *alder.chunk(ref.id, 0))
    birch.begin(ref.blob)
    birch.suspend(ref.blob)
    with pytest.raises(NotFoundError, match="no download"):
        birch.accept(ref.blob, 0, *alder.chunk(ref.id, 0))


def test_a_record_that_lies_about_the_size_blocks_nobody(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    lie = Blob(ref.id, ref.blob.padded + 8_192)
    assert lie.count == ref.blob.count
    birch.begin(lie)
    with pytest.raises(ProofError):
        birch.accept(lie, 0, *alder.chunk(ref.id, 0))
    fetch(alder, birch, ref.blob)
    with pytest.raises(DigestError, match="size"):
        birch.begin(lie)
    assert plaintext(birch, ref) == PLAIN
    birch.delete(ref.id)
    assert names(birch) == []


def test_open_downloads_are_bounded(birch: BlobStore) -> None:
    for number in range(limits.MAX_DOWNLOADS):
        birch.begin(Blob(number.to_bytes(32, "big"), 1_024))
    late = Blob(bytes([255] * 32), 1_024)
    with pytest.raises(BusyError, match="64 attachments"):
        birch.begin(late)
    birch.suspend(Blob(bytes(32), 1_024))
    assert birch.begin(late) == 0


# --- resuming --------------------------------------------------------------------------------
@pytest.mark.parametrize("cut", range(5))
def test_a_download_resumes_at_the_first_missing_chunk(
    alder: BlobStore, birch: BlobStore, ref: BlobRef, cut: int
) -> None:
    birch.begin(ref.blob)
    for index in range(cut):
        birch.accept(ref.blob, index, *alder.chunk(ref.id, index))
    again = a_store(birch.folder)  # the first is never closed, as after a kill
    assert again.begin(ref.blob) == cut
    assert fetch(alder, again, ref.blob) == ref.blob.count - cut
    assert plaintext(again, ref) == PLAIN
    again.check(ref)


def zero(data: bytearray, start: int, stop: int) -> None:
    data[start:stop] = bytes(stop - start)


@pytest.mark.parametrize(
    ("tear", "lost"),
    [
        (lambda data, tree: zero(data, STEP + 4_096, 2 * STEP), {1}),
        (lambda data, tree: zero(data, 0, STEP), {0}),
        (lambda data, tree: zero(data, 2 * STEP - 1, 2 * STEP + 1), {1, 2}),
        # The chunks are there and the proofs are not.
        (lambda data, tree: zero(data, tree, len(data)), {0, 1, 2}),
        (lambda data, tree: data.__delitem__(slice(STEP + 9, None)), {0, 1, 2}),
        (lambda data, tree: data.clear(), {0, 1, 2}),
        (lambda data, tree: data.extend(b"more"), set()),
    ],
)
def test_what_a_crash_tore_is_missing_and_what_it_left_is_not(
    alder: BlobStore,
    birch: BlobStore,
    ref: BlobRef,
    tear: Callable[[bytearray, int], None],
    lost: set[int],
) -> None:
    birch.begin(ref.blob)
    for index in range(3):
        birch.accept(ref.blob, index, *alder.chunk(ref.id, index))
    path = file_of(birch, ref.blob, ".part")
    data = bytearray(path.read_bytes())
    tear(data, ref.blob.encrypted)
    path.write_bytes(data)
    again = a_store(birch.folder)
    again.begin(ref.blob)
    assert set(again.missing(ref.blob, 9)) == lost | {3, 4}
    assert fetch(alder, again, ref.blob) == len(lost) + 2
    assert plaintext(again, ref) == PLAIN
    assert again.used == file_of(again, ref.blob).stat().st_size


def test_a_download_that_was_cut_just_before_its_end_needs_no_chunk(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    fetch(alder, birch, ref.blob)
    file_of(birch, ref.blob).rename(file_of(birch, ref.blob, ".part"))
    again = a_store(birch.folder)
    assert again.whole() == ()
    assert again.begin(ref.blob) is None
    assert plaintext(again, ref) == PLAIN


def test_a_wrong_proof_on_disk_is_not_believed(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    birch.begin(ref.blob)
    for index in range(4):
        birch.accept(ref.blob, index, *alder.chunk(ref.id, index))
    place = proof_places(0, ref.blob.count)[-1]
    path = file_of(birch, ref.blob, ".part")
    data = bytearray(path.read_bytes())
    data[ref.blob.encrypted + 32 * place] ^= 1
    path.write_bytes(data)
    again = a_store(birch.folder)
    assert again.begin(ref.blob) == 0
    assert again.missing(ref.blob, 9) == (0, 1, 2, 3, 4)


# --- crashes between any two steps -----------------------------------------------------------
@contextmanager
def copies_at_every_line(store: BlobStore, into: Path) -> Iterator[list[Path]]:
    """Copy the folder before each line of the store runs: what a kill there would leave."""
    copies: list[Path] = []
    seen: set[bytes] = set()

    def copy() -> None:
        state = hashlib.sha256()
        for path in sorted(store.folder.iterdir()):
            state.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        if state.digest() not in seen:
            seen.add(state.digest())
            copies.append(into / f"{len(copies)}")
            shutil.copytree(store.folder, copies[-1])

    def trace(frame: FrameType, event: str, argument: object) -> object:
        if frame.f_code.co_filename not in {blobs.__file__, blobfile.__file__}:
            return None
        if event == "line":
            copy()
        return trace

    before = sys.gettrace()
    sys.settrace(cast(Any, trace))
    try:
        yield copies
    finally:
        sys.settrace(before)
    copy()


def judge(folder: Path, finished: BlobRef, source: BlobStore, wanted: BlobRef) -> bool:
    """Judge what a kill left: all that is served is whole, the rest resumes; was it finished?"""
    store = a_store(folder)
    assert not [name for name in names(store) if name.endswith(".put")]
    assert plaintext(store, finished) == PLAIN, "a finished one was lost"
    was_whole = wanted.blob in store.whole()
    for blob in store.whole():
        for index in range(blob.count):
            store.chunk(blob.id, index)
    fetch(source, store, wanted.blob)
    store.check(wanted)
    assert store.used == sum(path.stat().st_size for path in folder.iterdir())
    store.close()
    return was_whole


def test_a_kill_at_any_line_of_a_download_loses_and_shows_nothing(
    alder: BlobStore, birch: BlobStore, ref: BlobRef, tmp_path: Path
) -> None:
    fetch(alder, birch, ref.blob)
    plain = content(2 * BLOB_CHUNK + 5, "second")
    second = alder.put(io.BytesIO(plain), size=len(plain))
    with copies_at_every_line(birch, tmp_path / "copies") as copies:
        fetch(alder, birch, second.blob)
    outcomes = [judge(copy, ref, alder, second) for copy in copies]
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert outcomes == sorted(outcomes)
    assert len(copies) > 10, "each chunk and each hash of a proof is a step of its own"


def test_a_kill_at_any_line_of_a_put_loses_and_shows_nothing(
    alder: BlobStore, birch: BlobStore, ref: BlobRef, tmp_path: Path
) -> None:
    fetch(alder, birch, ref.blob)
    plain = content(2 * BLOB_CHUNK + 5, "second")
    with copies_at_every_line(birch, tmp_path / "copies") as copies:
        second = birch.put(io.BytesIO(plain), size=len(plain))
    outcomes = [judge(copy, ref, birch, second) for copy in copies]
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert outcomes == sorted(outcomes)
    assert len(copies) > 5


@contextmanager
def calls(*wanted: str) -> Iterator[list[str]]:
    """List the calls of the operating system named *wanted*, in order."""
    found: list[str] = []

    def profile(frame: FrameType, event: str, argument: object) -> None:
        name = getattr(argument, "__name__", "")
        if event == "c_call" and name in wanted:
            found.append(name)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield found
    finally:
        sys.setprofile(before)


def test_a_file_is_synced_before_it_gets_its_name_and_the_name_before_it_counts(
    alder: BlobStore, birch: BlobStore, ref: BlobRef, tmp_path: Path
) -> None:
    steps = ["pwrite", "fsync", "replace", "fsync"]
    with calls("pwrite", "fsync", "replace") as found:
        alder.put(io.BytesIO(PLAIN), size=SIZE)
    assert found[-4:] == steps
    for index in range(ref.blob.count - 1):
        birch.begin(ref.blob)
        birch.accept(ref.blob, index, *alder.chunk(ref.id, index))
    last = alder.chunk(ref.id, ref.blob.count - 1)
    with calls("pwrite", "fsync", "replace") as found:
        assert birch.accept(ref.blob, ref.blob.count - 1, *last) is None
    assert found[-4:] == steps
    with calls("pwrite", "fsync", "replace") as found:
        birch.open_to(ref, tmp_path / "out.bin")
    assert found[-4:] == steps


def test_a_long_download_is_synced_on_the_way(alder: BlobStore, birch: BlobStore) -> None:
    size = (limits.SYNC_CHUNKS + 2) * BLOB_CHUNK
    ref = alder.put(io.BytesIO(bytes(size)), size=size)
    birch.begin(ref.blob)
    with calls("fsync") as found:
        for index in range(limits.SYNC_CHUNKS):
            birch.accept(ref.blob, index, *alder.chunk(ref.id, index))
    assert found == ["fsync"]


# --- room ------------------------------------------------------------------------------------
@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file beyond *size* bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_quota_counts_whole_blobs_downloads_and_files_on_their_way(
    tmp_path: Path, alder: BlobStore, ref: BlobRef
) -> None:
    one = file_of(alder, ref.blob).stat().st_size
    store = a_store(tmp_path / "blobs", quota=3 * one + 10)
    other = Blob(bytes([7] * 32), ref.blob.padded)
    fetch(alder, store, ref.blob)
    store.begin(other)
    with store.writer(SIZE):
        assert store.used == 3 * one
        with pytest.raises(BusyError, match="does not fit") as refused:
            store.begin(Blob(bytes(32), 1_024))
        assert refused.value.fix
    with pytest.raises(BusyError, match="does not fit"):
        store.put(io.BytesIO(PLAIN * 2), size=2 * SIZE)
    assert store.used == 2 * one
    store.close()
    again = a_store(tmp_path / "blobs", quota=2 * one)
    assert again.used == 2 * one
    with pytest.raises(BusyError):
        again.writer(1)
    again.delete(other.id)
    again.put(io.BytesIO(b"x"), size=1)


def test_some_of_the_disk_is_left_to_the_databases(tmp_path: Path) -> None:
    store = a_store(tmp_path / "blobs", min_free=2**60)
    for call in (lambda: store.writer(SIZE), lambda: store.begin(Blob(bytes(32), 1_024))):
        with pytest.raises(BusyError, match="less than") as refused:
            call()
        assert refused.value.fix
    assert names(store) == []
    assert store.used == 0


def test_a_disk_that_fills_up_at_the_start_leaves_nothing(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    with largest_file(STEP + 100):
        with pytest.raises(BusyError, match="nothing was changed"):
            alder.put(io.BytesIO(PLAIN), size=SIZE)
        with pytest.raises(BusyError, match="nothing was changed"):
            birch.begin(ref.blob)
    assert names(birch) == []
    assert birch.used == 0
    assert alder.whole() == (ref.blob,)


def test_a_disk_that_fills_up_in_a_download_costs_only_the_chunk(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    birch.begin(ref.blob)
    birch.accept(ref.blob, 0, *alder.chunk(ref.id, 0))
    for limit in (STEP, STEP + 100, 2 * STEP, ref.blob.encrypted + 32):
        with largest_file(limit), pytest.raises(BusyError, match="nothing was changed"):
            birch.accept(ref.blob, 1, *alder.chunk(ref.id, 1))
        assert birch.missing(ref.blob, 1) == (1,)
    assert fetch(alder, birch, ref.blob) == ref.blob.count - 1
    assert plaintext(birch, ref) == PLAIN


def test_a_folder_that_is_gone_is_the_operators_to_put_right(
    alder: BlobStore, ref: BlobRef, tmp_path: Path
) -> None:
    shutil.rmtree(alder.folder)
    with pytest.raises(BlobStoreError, match="No such file") as refused:
        alder.put(io.BytesIO(PLAIN), size=SIZE)
    assert refused.value.fix
    with pytest.raises(NotFoundError):
        alder.chunk(ref.id, 0)


def test_a_name_that_could_not_be_given_is_given_later(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    # A folder in the way makes the renaming fail after all has been synced.
    birch.begin(ref.blob)
    obstacle = file_of(birch, ref.blob)
    obstacle.mkdir()
    for index in range(ref.blob.count - 1):
        birch.accept(ref.blob, index, *alder.chunk(ref.id, index))
    with pytest.raises(BlobStoreError):
        birch.accept(ref.blob, 4, *alder.chunk(ref.id, 4))
    assert birch.whole() == ()
    obstacle.rmdir()
    assert birch.begin(ref.blob) is None
    assert plaintext(birch, ref) == PLAIN


# --- the folder ------------------------------------------------------------------------------
def test_a_folder_that_others_can_look_into_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    folder.mkdir(mode=0o700)
    folder.chmod(0o750)
    with pytest.raises(ConfigError, match="other users") as refused:
        a_store(folder)
    assert "chmod 700" in refused.value.fix


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "blobs").write_bytes(b"")
    with pytest.raises(BlobStoreError, match="exists"):
        a_store(tmp_path / "blobs")


def test_other_files_in_the_folder_are_left_alone(alder: BlobStore, ref: BlobRef) -> None:
    strange = [
        "note.txt",
        f"{ref.id.hex()}-0400",
        f"{ref.id.hex().upper()}-400",
        f"{ref.id.hex()}-401",
        f"{ref.id.hex()}-40000000000",
        f"{ref.id.hex()}-400.part.old",
    ]
    for name in strange:
        (alder.folder / name).write_bytes(b"x")
    again = a_store(alder.folder)
    assert again.whole() == (ref.blob,)
    assert set(strange) < set(names(again))
    assert again.used == file_of(alder, ref.blob).stat().st_size


def test_a_link_in_the_place_of_a_blob_is_not_followed(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    file_of(birch, ref.blob, ".part").symlink_to(file_of(alder, ref.blob))
    again = a_store(birch.folder)
    with pytest.raises(BlobStoreError):
        again.begin(ref.blob)
    assert plaintext(alder, ref) == PLAIN


def test_a_start_clears_away_what_was_being_put(alder: BlobStore) -> None:
    writer = alder.writer(SIZE)
    writer.write(PLAIN[:100_000])
    assert names(alder)[0].endswith(".put")
    again = a_store(alder.folder)
    assert names(again) == []
    assert again.used == 0
    writer.abort()


# --- opening ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, SIZE), (0, 0), (0, 1), (BLOB_CHUNK - 1, BLOB_CHUNK + 1), (BLOB_CHUNK, 2 * BLOB_CHUNK),
     (70_000, 70_001), (SIZE - 1, SIZE), (SIZE, SIZE), (1, SIZE - 1)],
)  # fmt: skip
def test_any_range_of_the_file_can_be_read(
    alder: BlobStore, ref: BlobRef, start: int, stop: int
) -> None:
    assert b"".join(alder.read(ref, start, stop)) == PLAIN[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (2, 1), (0, SIZE + 1)])
def test_a_range_outside_the_file_is_refused_before_the_first_piece(
    alder: BlobStore, ref: BlobRef, start: int, stop: int
) -> None:
    with pytest.raises(RequestError, match="range"):
        alder.read(ref, start, stop)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"key": bytes(32)}, OpenError),
        ({"size": SIZE - 1}, OpenError),
        ({"size": SIZE + 1}, OpenError),
        ({"size": 10 * SIZE}, OpenError),
        ({"size": 1}, OpenError),
        ({"sha256": bytes(32)}, DigestError),
        ({"id": bytes(32)}, NotFoundError),
    ],
)
def test_a_wrong_reference_opens_nothing_and_leaves_no_file(
    alder: BlobStore, ref: BlobRef, tmp_path: Path, fields: dict[str, Any], error: type[Exception]
) -> None:
    wrong = replace(ref, **fields)
    (tmp_path / "out").mkdir()
    with pytest.raises(error):
        alder.check(wrong)
    with pytest.raises(error):
        alder.open_to(wrong, tmp_path / "out" / "file")
    assert list((tmp_path / "out").iterdir()) == []
    alder.check(ref)


def test_a_damaged_blob_leaves_no_file(alder: BlobStore, ref: BlobRef, tmp_path: Path) -> None:
    with file_of(alder, ref.blob).open("r+b") as file:
        file.seek(3 * STEP)
        file.write(b"rot")
    (tmp_path / "out").mkdir()
    with pytest.raises(BlobStoreError, match="part 3"):
        alder.open_to(ref, tmp_path / "out" / "file")
    assert list((tmp_path / "out").iterdir()) == []


def test_padding_chunks_are_judged_too(alder: BlobStore, tmp_path: Path) -> None:
    size = 2**25 + 1
    ref = alder.put(io.BytesIO(bytes(size)), size=size)
    last = ref.blob.count - 1
    assert last * BLOB_CHUNK > size
    alder.check(ref)
    with file_of(alder, ref.blob).open("r+b") as file:
        file.seek(last * STEP)
        file.write(b"rot")
    with pytest.raises(BlobStoreError, match=f"part {last}"):
        alder.open_to(ref, tmp_path / "file")


def test_an_existing_file_or_link_is_not_replaced(
    alder: BlobStore, ref: BlobRef, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for target in (tmp_path / "file", tmp_path / "link", tmp_path, Path()):
        with pytest.raises(ConflictError, match="exists"):
            alder.open_to(ref, target)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_target_that_cannot_be_written_is_the_requests_fault(
    alder: BlobStore, ref: BlobRef, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="cannot be written") as refused:
        alder.open_to(ref, tmp_path / "missing" / "file")
    assert refused.value.fix
    with largest_file(1_000), pytest.raises(RequestError, match="File too large"):
        alder.open_to(ref, tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alder"]


# --- deleting --------------------------------------------------------------------------------
def test_deleting_removes_the_blob_and_its_download(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    alder.delete(ref.id)
    alder.delete(ref.id)
    assert names(alder) == []
    assert alder.used == 0
    with pytest.raises(NotFoundError):
        alder.chunk(ref.id, 0)
    birch.begin(ref.blob)
    birch.delete(ref.id)
    assert names(birch) == []
    with pytest.raises(NotFoundError):
        birch.missing(ref.blob, 1)
    assert birch.begin(ref.blob) == 0


# --- several threads -------------------------------------------------------------------------
def test_serving_fetching_and_deleting_at_once_shows_nothing_half(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    finished = threading.Event()

    def fetching(order: int) -> None:
        for _ in range(30):
            with suppress(NotFoundError):  # it was deleted meanwhile
                birch.begin(ref.blob)
                for index in range(ref.blob.count)[::order]:
                    birch.accept(ref.blob, index, *alder.chunk(ref.id, index))

    def reading() -> None:
        while not finished.is_set():
            with suppress(NotFoundError):
                assert plaintext(birch, ref) == PLAIN

    def deleting() -> None:
        for _ in range(60):
            birch.delete(ref.id)

    with ThreadPoolExecutor(4) as pool:
        reader = pool.submit(reading)
        workers = [pool.submit(fetching, 1), pool.submit(fetching, -1), pool.submit(deleting)]
        wait(workers)
        finished.set()
    for work in (reader, *workers):
        work.result()
    fetch(alder, birch, ref.blob)
    assert plaintext(birch, ref) == PLAIN
    assert birch.used == sum(path.stat().st_size for path in birch.folder.iterdir())


@contextmanager
def just_before(function: str, line: str, act: Callable[[], object]) -> Iterator[None]:
    """Call *act* once, before *line* of *function* runs: another thread at the worst moment."""
    pending = [act]

    def trace(frame: FrameType, event: str, argument: object) -> object:
        if frame.f_code.co_filename != blobs.__file__ or frame.f_code.co_name != function:
            return None
        text = linecache.getline(blobs.__file__, frame.f_lineno).strip()
        if event == "line" and text == line and pending:
            pending.pop()()
        return trace

    before = sys.gettrace()
    sys.settrace(cast(Any, trace))
    try:
        yield
    finally:
        sys.settrace(before)
    assert not pending, "the line never ran"


@pytest.mark.parametrize("end", ["delete", "suspend"])
def test_a_download_that_ends_while_a_chunk_comes_in_takes_it_no_more(
    alder: BlobStore, birch: BlobStore, ref: BlobRef, end: str
) -> None:
    birch.begin(ref.blob)
    data, proof = alder.chunk(ref.id, 0)
    act = {"delete": lambda: birch.delete(ref.id), "suspend": lambda: birch.suspend(ref.blob)}
    with just_before("accept", "with download.lock:", act[end]), pytest.raises(NotFoundError):
        birch.accept(ref.blob, 0, data, proof)
    assert fetch(alder, birch, ref.blob) == ref.blob.count


def test_a_download_that_finishes_or_fails_while_it_is_begun_again_is_judged_anew(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    birch.begin(ref.blob)
    for index in range(4):
        birch.accept(ref.blob, index, *alder.chunk(ref.id, index))
    last = alder.chunk(ref.id, 4)

    def fail() -> None:
        birch._forget(birch._download(ref.blob))
        birch._drop(f"{ref.id.hex()}-{ref.blob.padded:x}.part")

    with just_before("begin", "with download.lock:", fail):
        assert birch.begin(ref.blob) == 0
    for index in range(4):
        birch.accept(ref.blob, index, *alder.chunk(ref.id, index))
    finish = lambda: birch.accept(ref.blob, 4, *last)  # noqa: E731  one call
    with just_before("begin", "with download.lock:", finish):
        assert birch.begin(ref.blob) is None
    assert plaintext(birch, ref) == PLAIN


def test_after_a_failed_sync_nothing_of_the_download_is_believed(
    alder: BlobStore, birch: BlobStore, ref: BlobRef
) -> None:
    birch.begin(ref.blob)
    for index in range(4):
        birch.accept(ref.blob, index, *alder.chunk(ref.id, index))
    last = alder.chunk(ref.id, 4)
    pipe = os.pipe()

    def spoil() -> None:  # a pipe cannot be synced
        os.dup2(pipe[1], birch._download(ref.blob).handle)

    with (
        just_before("_advance", "os.fsync(download.handle)", spoil),
        pytest.raises(BlobStoreError) as refused,
    ):
        birch.accept(ref.blob, 4, *last)
    for handle in pipe:
        os.close(handle)
    assert refused.value.fix
    assert names(birch) == []
    assert birch.used == 0
    assert fetch(alder, birch, ref.blob) == ref.blob.count
    assert plaintext(birch, ref) == PLAIN


# --- memory ----------------------------------------------------------------------------------
class Zeros:
    """A long file that is never in memory."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int, /) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def transfer(alder: BlobStore, birch: BlobStore, size: int, target: Path) -> dict[str, int]:
    """Put, fetch, resume and open a file of *size*; return the peak of memory of each step."""
    peaks: dict[str, int] = {}

    @contextmanager
    def measured(step: str) -> Iterator[None]:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        yield
        peaks[step] = tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        with measured("put"):
            ref = alder.put(Zeros(size), size=size)
        with measured("fetch"):
            assert fetch(alder, birch, ref.blob) == ref.blob.count
        file_of(birch, ref.blob).rename(file_of(birch, ref.blob, ".part"))
        again = a_store(birch.folder)
        with measured("resume"):
            assert again.begin(ref.blob) is None
        with measured("open"):
            again.open_to(ref, target)
    finally:
        tracemalloc.stop()
    assert target.stat().st_size == size
    return peaks


def test_64_mib_need_little_memory(alder: BlobStore, birch: BlobStore, tmp_path: Path) -> None:
    peaks = transfer(alder, birch, 64 * 2**20, tmp_path / "out.bin")
    assert max(peaks.values()) < 2 * 2**20, peaks


@pytest.mark.long
def test_1_gib_needs_little_memory(alder: BlobStore, birch: BlobStore, tmp_path: Path) -> None:
    peaks = transfer(alder, birch, MAX_BLOB, tmp_path / "out.bin")
    assert max(peaks.values()) < 8 * 2**20, peaks


def test_errors_have_a_code_of_their_own() -> None:
    assert BlobStoreError.code == "attachment-store"
    assert issubclass(BlobStoreError, PicketError)
    assert not issubclass(BlobStoreError, PeerError)
    assert errno.ENOSPC in blobfile._FULL
