"""Evidence against a log: a rewrite is always provable, an honest log is never blamed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits, merkle
from protocol.canonical import encode
from protocol.checkpoint import (
    Checkpoint,
    cosign_ed25519,
    cosign_mldsa44,
    format_body,
    parse_body,
    sign_checkpoint,
)
from protocol.errors import DecodeError, LimitError, PeerError, ProofError, SignatureError
from protocol.log_fork import (
    LogFork,
    encode_log_fork,
    log_fork_digest,
    make_log_fork,
    parse_log_fork,
    verify_log_fork,
)
from protocol.note import ED25519, Note, NoteSignature, format_note, key_id, parse_note
from protocol.statement import NamedKeys

ORIGIN = "picket.example/node-a"
TIME = 1_700_000_005
SIZES = 40
LOG = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
LOG44 = MLDSA44PrivateKey.from_seed_bytes(bytes([4]) * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)
OTHER44 = MLDSA44PrivateKey.from_seed_bytes(bytes([9]) * 32)


def keys_of(name: str, ed25519: Ed25519PrivateKey, mldsa44: MLDSA44PrivateKey | None) -> NamedKeys:
    second = mldsa44.public_key().public_bytes_raw() if mldsa44 else b""
    return NamedKeys(name, ed25519.public_key().public_bytes_raw(), second)


KEYS = keys_of(ORIGIN, LOG, LOG44)
ONE_KEY = keys_of(ORIGIN, LOG, None)


class Tree:
    """A log of up to 40 entries that can be asked for each of its sizes."""

    def __init__(self, names: Sequence[bytes]) -> None:
        leaves = [merkle.leaf_hash(name) for name in names]
        grown = merkle.append(size=0, new_leaves=leaves, reader=self)
        self.tiles = {(level, index): data for level, index, data in grown.tiles}

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        return {key: self.tiles[key] for key in keys}

    def root(self, size: int) -> bytes:
        return merkle.root(size, self)

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(ORIGIN, size, self.root(size))

    def path(self, old: int, new: int) -> tuple[bytes, ...]:
        return merkle.prove_prefix(old, new, self)


@cache
def rewritten_at(index: int) -> Tree:
    """The same log, but for one entry that was replaced."""
    return Tree([b"entry %d" % each + b"!" * (each == index) for each in range(SIZES)])


TREE = rewritten_at(SIZES)


@cache
def signed(checkpoint: Checkpoint) -> bytes:
    return sign_checkpoint(checkpoint, ed25519=LOG, mldsa44=LOG44, now_s=TIME)


@cache
def quick(checkpoint: Checkpoint, key: Ed25519PrivateKey = LOG) -> bytes:
    """A note as a foreign log signs it; enough where the tree is what is tested."""
    text = format_body(checkpoint)
    shown = key_id(ORIGIN, ED25519, LOG.public_key().public_bytes_raw())
    line = NoteSignature(checkpoint.origin, shown, key.sign(text.encode()))
    return format_note(Note(text, (line,)))


def rewrite(old: int, new: int, index: int = 0) -> LogFork:
    """Evidence that the log replaced an entry between two sizes."""
    later = rewritten_at(index)
    return make_log_fork(
        signed(TREE.checkpoint(old)), signed(later.checkpoint(new)), later.path(old, new)
    )


FORK = rewrite(5, 9)
SPLIT = make_log_fork(signed(TREE.checkpoint(7)), signed(rewritten_at(2).checkpoint(7)))


# --- merkle paths ----------------------------------------------------------------------------
def test_a_prefix_path_computes_both_roots_of_each_pair_of_sizes() -> None:
    for new in range(2, SIZES + 1):
        for old in range(1, new):
            path = TREE.path(old, new)
            roots = merkle.prefix_roots(old_size=old, new_size=new, path=path)
            assert roots == (TREE.root(old), TREE.root(new))
            # RFC 6962 leaves out the first hash where it is the old root.
            assert path[-len(path) + (old & (old - 1) == 0) :] == merkle.prove_consistency(
                old, new, TREE
            )


def test_a_prefix_path_of_another_length_or_of_no_sizes_is_refused() -> None:
    for new in range(2, 12):
        for old in range(1, new):
            path = TREE.path(old, new)
            for wrong in (path[:-1], (*path, path[-1]), (*path[:-1], path[-1][:-1])):
                with pytest.raises(ProofError):
                    merkle.prefix_roots(old_size=old, new_size=new, path=wrong)
    for old, new in ((0, 5), (5, 5), (6, 5), (-1, 5)):
        with pytest.raises(ProofError):
            merkle.prefix_roots(old_size=old, new_size=new, path=TREE.path(4, 5))
        with pytest.raises(ValueError, match="old tree"):
            merkle.prove_prefix(old, new, TREE)


# --- a real contradiction --------------------------------------------------------------------
def test_each_rewrite_is_provable_with_a_path_from_the_rewritten_tree() -> None:
    proved = 0
    for new in range(1, SIZES):
        for old in range(1, new + 1):
            for index in {0, old // 2, old - 1}:
                later = rewritten_at(index)
                path = later.path(old, new) if old < new else ()
                first, second = TREE.checkpoint(old), later.checkpoint(new)
                fork = make_log_fork(quick(first), quick(second), path)
                assert parse_log_fork(encode_log_fork(fork)) == fork
                assert set(verify_log_fork(fork, logs=[ONE_KEY])) == {first, second}
                proved += 1
    assert proved > 2_000


def test_what_both_histories_hold_contradicts_nothing() -> None:
    for new in range(2, SIZES):
        for old in range(1, new):
            later = rewritten_at(old)  # the first entry that the old tree does not hold
            fork = LogFork(
                quick(TREE.checkpoint(old)), quick(later.checkpoint(new)), later.path(old, new)
            )
            with pytest.raises(ProofError, match="holds the first"):
                verify_log_fork(fork, logs=[ONE_KEY])


def test_both_checkpoints_come_back_in_order() -> None:
    expected = (TREE.checkpoint(5), rewritten_at(0).checkpoint(9))
    assert verify_log_fork(FORK, logs=[KEYS]) == expected
    other = keys_of(ORIGIN, OTHER, OTHER44)
    assert verify_log_fork(FORK, logs=[other, KEYS]) == expected


def test_an_empty_tree_with_another_root_contradicts_each_tree() -> None:
    empty = Checkpoint(ORIGIN, 0, bytes(32))
    for checkpoint in (TREE.checkpoint(0), TREE.checkpoint(7)):
        fork = make_log_fork(signed(checkpoint), signed(empty))
        assert verify_log_fork(fork, logs=[KEYS]) == (empty, checkpoint)
        with pytest.raises(ProofError):
            verify_log_fork(replace(fork, proof=(bytes(32),)), logs=[KEYS])
    with pytest.raises(ProofError):
        make_log_fork(signed(TREE.checkpoint(0)), signed(TREE.checkpoint(7)))


# --- one form --------------------------------------------------------------------------------
@pytest.mark.parametrize("fork", [FORK, SPLIT])
def test_the_order_of_the_two_notes_and_what_others_added_do_not_matter(fork: LogFork) -> None:
    again = make_log_fork(fork.second, fork.first, list(fork.proof))
    assert again == fork and log_fork_digest(again) == log_fork_digest(fork)
    witness = "picket.example/node-b/witness"
    notes = []
    for data in (fork.first, fork.second):
        note = parse_note(data)
        checkpoint = parse_body(note.text)
        lines = (
            cosign_ed25519(checkpoint, name=witness, key=OTHER, now_s=TIME),
            *note.signatures,
            cosign_mldsa44(checkpoint, name=witness, key=OTHER44, now_s=TIME),
        )
        notes.append(format_note(replace(note, signatures=lines)))
    assert make_log_fork(notes[0], notes[1], fork.proof) == fork
    cosigned = replace(fork, first=notes[0])
    with pytest.raises(DecodeError, match="signatures of others"):
        parse_log_fork(encode_log_fork(cosigned))
    with pytest.raises(DecodeError, match="signatures of others"):
        verify_log_fork(cosigned, logs=[KEYS])


@pytest.mark.parametrize("fork", [FORK, SPLIT])
def test_the_other_order_is_refused(fork: LogFork) -> None:
    turned = replace(fork, first=fork.second, second=fork.first)
    with pytest.raises(ProofError, match="wrong order"):
        verify_log_fork(turned, logs=[KEYS])
    with pytest.raises(ProofError, match="wrong order"):
        parse_log_fork(encode_log_fork(turned))


def test_the_digest_covers_all_of_the_evidence() -> None:
    resigned = replace(
        FORK,
        first=sign_checkpoint(TREE.checkpoint(5), ed25519=LOG, mldsa44=LOG44, now_s=TIME + 1),
    )
    longer = replace(FORK, proof=(*FORK.proof, bytes(32)))
    assert len({log_fork_digest(each) for each in (FORK, SPLIT, resigned, longer)}) == 4


def test_evidence_is_read_strictly() -> None:
    data = encode_log_fork(FORK)
    assert parse_log_fork(data) == FORK
    first, second, proof = FORK.first, FORK.second, list(FORK.proof)
    for value in (
        [],
        [first, second],
        [first, second, proof, None],
        {"first": first, "second": second, "proof": proof},
        [first, second, None],
        [first, second, b"".join(proof)],
        [first, second, [each.hex() for each in proof]],
        [first, second, [*proof[:-1], proof[-1][:-1]]],
        [first.decode(), second, proof],
        [b"", second, proof],
        [b"note", second, proof],
        [first[:-1], second, proof],
        [first, second + b"\n", proof],
        [first.replace(b"\n5\n", b"\n05\n"), second, proof],
    ):
        with pytest.raises(DecodeError):
            parse_log_fork(encode(value))
    for raw in (b"", data[:-1], data + b"\0", b"\xdc\0\3" + data[1:]):
        with pytest.raises(DecodeError):
            parse_log_fork(raw)


def test_evidence_is_bounded() -> None:
    with pytest.raises(LimitError):
        parse_log_fork(encode([FORK.first, FORK.second, [bytes(32)] * (limits.MAX_PROOF + 1)]))
    with pytest.raises(LimitError):
        parse_log_fork(encode([FORK.first, FORK.second, [bytes(limits.MAX_LOG_FORK)]]))


def test_a_log_cannot_escape_with_padded_notes() -> None:
    """Two notes as long as notes may be, with junk under the log's own name, make evidence."""
    padded = []
    for data in (FORK.first, FORK.second):
        room = limits.MAX_NOTE - len(data) - len(f"\u2014 {ORIGIN} \n".encode())
        junk = NoteSignature(ORIGIN, b"\0\0\0\0", bytes(room // 4 * 3 - 4))
        note = parse_note(data)
        padded.append(format_note(replace(note, signatures=(*note.signatures, junk))))
        assert limits.MAX_NOTE - 4 < len(padded[-1]) <= limits.MAX_NOTE
    fork = make_log_fork(padded[0], padded[1], FORK.proof)
    assert parse_log_fork(encode_log_fork(fork)) == fork
    verify_log_fork(fork, logs=[KEYS])
    longest = replace(fork, proof=(bytes(32),) * limits.MAX_PROOF)
    assert len(encode_log_fork(longest)) <= limits.MAX_LOG_FORK


# --- nobody is blamed for what it did not sign -----------------------------------------------
def test_an_unsigned_checkpoint_blames_nobody() -> None:
    first, second = TREE.checkpoint(5), rewritten_at(0).checkpoint(9)
    halves = [
        format_note(replace(note, signatures=(line,)))
        for note in [parse_note(FORK.second)]
        for line in note.signatures
    ]
    for note in (quick(second, OTHER), quick(second), *halves):
        with pytest.raises(SignatureError):
            verify_log_fork(replace(FORK, second=note), logs=[KEYS])
    with pytest.raises(SignatureError):
        verify_log_fork(replace(FORK, first=quick(first, OTHER)), logs=[ONE_KEY])
    with pytest.raises(DecodeError, match="lacks the signature"):
        cosigned = cosign_ed25519(first, name="someone", key=LOG, now_s=TIME)
        make_log_fork(format_note(Note(format_body(first), (cosigned,))), FORK.second, FORK.proof)


def test_the_keys_of_another_log_blame_nobody() -> None:
    for logs in (
        [],
        [keys_of(ORIGIN, OTHER, OTHER44)],
        [keys_of(ORIGIN, LOG, OTHER44)],
        [keys_of(ORIGIN, OTHER, LOG44)],
        [replace(KEYS, name="picket.example/node-b")],
    ):
        with pytest.raises(SignatureError):
            verify_log_fork(FORK, logs=logs)


def test_checkpoints_of_two_logs_blame_nobody() -> None:
    name = "picket.example/node-a/log2"
    other = replace(rewritten_at(0).checkpoint(9), origin=name)
    with pytest.raises(ProofError, match="different logs"):
        verify_log_fork(replace(FORK, second=signed(other)), logs=[KEYS, replace(KEYS, name=name)])


def test_one_checkpoint_signed_twice_blames_nobody() -> None:
    again = sign_checkpoint(TREE.checkpoint(5), ed25519=LOG, mldsa44=LOG44, now_s=TIME + 9)
    for proof in ((), FORK.proof, (bytes(32),)):
        with pytest.raises(ProofError):
            verify_log_fork(LogFork(FORK.first, again, proof), logs=[KEYS])
        with pytest.raises(ProofError):
            make_log_fork(FORK.first, again, proof)


def test_a_path_of_another_length_proves_nothing() -> None:
    for old in range(1, 12):
        for new in range(old + 1, 13):
            fork = rewrite(old, new)
            for proof in ((), fork.proof[:-1], fork.proof[1:], (*fork.proof, bytes(32))):
                with pytest.raises(ProofError):
                    verify_log_fork(replace(fork, proof=proof), logs=[KEYS])
    with pytest.raises(ProofError, match="none is needed"):
        verify_log_fork(replace(SPLIT, proof=(bytes(32),)), logs=[KEYS])


def blamed(fork: LogFork) -> bool:
    """Return whether anything in the chain from bytes to verdict takes *fork* for true."""
    try:
        verify_log_fork(fork, logs=[ONE_KEY])
    except PeerError:
        return False
    return True


def mutations(path: tuple[bytes, ...], pool: Sequence[bytes]) -> set[tuple[bytes, ...]]:
    """Return *path* and what one change makes of it: a hash replaced, dropped, doubled, moved."""
    made = {path, path[::-1], ()}
    for at in range(len(path)):
        made |= {(*path[:at], other, *path[at + 1 :]) for other in pool}
        made |= {(*path[:at], *path[at + 1 :]), (*path[: at + 1], *path[at:])}
        made.add((*path[at:], *path[:at]))
        made.add((*path[:at], bytes([path[at][0] ^ 1]) + path[at][1:], *path[at + 1 :]))
    return made


def test_an_honest_log_is_never_blamed_for_any_two_of_its_checkpoints() -> None:
    """All sizes below 40, each with its own path, all single changes of it, and other paths."""
    notes = [quick(TREE.checkpoint(size)) for size in range(SIZES)]
    tried = 0
    for new in range(SIZES):
        for old in range(SIZES):
            path = TREE.path(old, new) if 0 < old < new else (TREE.root(new),)
            pool = (bytes(32), TREE.root(old), TREE.root(new), rewritten_at(0).root(max(old, 1)))
            for proof in mutations(path, pool):
                assert not blamed(LogFork(notes[old], notes[new], proof)), (old, new, proof)
                tried += 1
    assert tried > 20_000


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_an_honest_log_is_never_blamed_whatever_the_path(data: st.DataObject) -> None:
    old, new = data.draw(st.integers(0, SIZES - 1)), data.draw(st.integers(0, SIZES - 1))
    index = data.draw(st.integers(0, SIZES - 1))
    hashes = [*map(TREE.root, range(SIZES)), *map(rewritten_at(index).root, range(SIZES))]
    if 0 < old < new:
        hashes += [*TREE.path(old, new), *rewritten_at(index).path(old, new)]
    one = st.sampled_from(hashes) | st.binary(min_size=32, max_size=32) | st.binary(max_size=33)
    proof = tuple(data.draw(st.lists(one, max_size=8)))
    fork = LogFork(quick(TREE.checkpoint(old)), quick(TREE.checkpoint(new)), proof)
    assert not blamed(fork)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_changed_byte_keeps_evidence_true(data: st.DataObject) -> None:
    whole = bytearray(encode_log_fork(data.draw(st.sampled_from([FORK, SPLIT]))))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(PeerError):
        verify_log_fork(parse_log_fork(bytes(whole)), logs=[KEYS])


@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_as_a_fault_of_the_peer(data: bytes) -> None:
    with pytest.raises(PeerError):
        parse_log_fork(data)
