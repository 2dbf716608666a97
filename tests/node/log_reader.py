"""A reader of exported logs that shares no code with the program.

It knows the C2SP specifications (tlog-tiles, tlog-checkpoint, signed-note, tlog-cosignature) and
two public keys, as any auditor would.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey


def leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\0" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def tree(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 over leaf hashes."""
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256(b"").digest()
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return node(tree(hashes[:split]), tree(hashes[split:]))


def name(index: int) -> str:
    """The path elements of a tile's index."""
    digits = f"{index:03}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    return "/".join([*("x" + group for group in groups[:-1]), groups[-1]])


@dataclass(frozen=True)
class Keys:
    """The public keys of a log."""

    origin: str
    ed25519: bytes
    mldsa44: bytes


@dataclass
class Reader:
    """Reads the files of an exported log, and remembers which it has read."""

    folder: Path
    seen: set[str] = field(default_factory=set)

    def file(self, path: str) -> bytes:
        self.seen.add(path)
        return (self.folder / path).read_bytes()

    def there(self) -> set[str]:
        return {
            file.relative_to(self.folder).as_posix()
            for file in self.folder.rglob("*")
            if file.is_file()
        }

    def checkpoint(self, keys: Keys) -> tuple[int, bytes]:
        """Size and root of the checkpoint, after both signatures of the log were verified."""
        text, _, tail = self.file("checkpoint").decode().rpartition("\n\n")
        text += "\n"
        origin, size, root = text.splitlines()
        assert origin == keys.origin
        assert re.fullmatch("0|[1-9][0-9]*", size)
        decoded = base64.b64decode(root, validate=True)
        found: dict[bytes, bytes] = {}
        for line in tail.splitlines():
            dash, signer, data = line.split(" ")
            assert (dash, signer) == ("\N{EM DASH}", origin)
            raw = base64.b64decode(data, validate=True)
            found[raw[:4]] = raw[4:]
        first = found.pop(key_id(origin, 1, keys.ed25519))
        second = found.pop(key_id(origin, 6, keys.mldsa44))
        Ed25519PublicKey.from_public_bytes(keys.ed25519).verify(first, text.encode())
        short = origin.encode()
        message = b"".join(
            (b"subtree/v1\n\0", bytes([len(short)]), short, second[:8], bytes([len(short)]),
             short, bytes(8), int(size).to_bytes(8, "big"), decoded)
        )  # fmt: skip
        MLDSA44PublicKey.from_public_bytes(keys.mldsa44).verify(second[8:], message)
        assert found == {}
        return int(size), decoded

    def level(self, number: int, count: int) -> list[bytes]:
        """All hashes of one level, of which there are *count*."""
        hashes: list[bytes] = []
        for index in range(-(-count // 256)):
            width = min(256, count - index * 256)
            suffix = "" if width == 256 else f".p/{width}"
            data = self.file(f"tile/{number}/{name(index)}{suffix}")
            assert len(data) == width * 32
            hashes += [data[at : at + 32] for at in range(0, len(data), 32)]
        return hashes

    def entries(self, count: int) -> list[bytes]:
        found: list[bytes] = []
        for index in range(-(-count // 256)):
            width = min(256, count - index * 256)
            suffix = "" if width == 256 else f".p/{width}"
            data = self.file(f"tile/entries/{name(index)}{suffix}")
            bundle = []
            while data:
                length = int.from_bytes(data[:2], "big")
                assert len(data) >= 2 + length
                bundle.append(data[2 : 2 + length])
                data = data[2 + length :]
            assert len(bundle) == width
            found += bundle
        return found

    def verify(self, keys: Keys, *, entries: bool) -> list[bytes]:
        """Check every file of the folder against the others; return the entries, if any."""
        size, root = self.checkpoint(keys)
        leaves = self.level(0, size)
        assert tree(leaves) == root
        below, number = leaves, 1
        while count := len(below) // 256:
            hashes = self.level(number, count)
            assert hashes == [tree(below[at * 256 : at * 256 + 256]) for at in range(count)]
            below, number = hashes, number + 1
        found = self.entries(size) if entries else []
        if entries:
            assert [leaf(entry) for entry in found] == leaves
        assert self.there() == self.seen, "files that belong to no tree of this size"
        return found


def key_id(signer: str, kind: int, public: bytes) -> bytes:
    return hashlib.sha256(signer.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


def widths(folder: Path, level: str) -> list[int]:
    """How many files of a level of 8,192 bytes there are, then the widths of the partial ones."""
    files = [file for file in (folder / "tile" / level).rglob("*") if file.is_file()]
    full = [file for file in files if ".p" not in file.parent.name]
    partial = [int(file.name) for file in files if file.parent.name.endswith(".p")]
    return [len(full), *partial]
