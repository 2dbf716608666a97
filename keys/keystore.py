"""Secrets at rest: the keystore file and other private files.

    file = ["picket-keystore", 1, "argon2id", memory_kib, iterations, lanes, salt, nonce,
            ciphertext]

- Canonical msgpack; AES-256-GCM under a key of its own for each write (fresh salt), with all fields
  before the ciphertext as associated data.
- Stored parameters are bounded before anything is derived from them: a weakened or inflated file is
  refused.
- Files are replaced whole: a crash leaves the old one or the new one.
"""

from __future__ import annotations

import errno
import os
import secrets as random
import shlex
import stat
import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from protocol.canonical import Value, decode, encode
from protocol.errors import DecodeError, KeystoreError, PeerError, WrongPassphraseError
from protocol.shape import array, octets, text, uint
from protocol.suite import derive

MAGIC: Final = "picket-keystore"
VERSION: Final = 1
_SEALING: Final = "picket-sealing"
_MESSAGE: Final = "picket-message"
_SINCE: Final = {_SEALING: "sealing-keys", _MESSAGE: "message-keys"}
MAX_FILE: Final = 64 * 1024
MIN_PASSPHRASE: Final = 8
MAX_PASSPHRASE: Final = 1_024
_MAX_PASSPHRASE_FILE: Final = 4 * MAX_PASSPHRASE + 2
_KDF: Final = "argon2id"
_SALT: Final = 16
_NONCE: Final = 12
_KEY: Final = 32
_MIN_MEMORY: Final = 19 * 1024
_MAX_MEMORY: Final = 1024 * 1024
_MAX_ITERATIONS: Final = 10
# Two derivations at once deadlock in the pinned release of cryptography when lanes >= 2; lanes is
# fixed to one, and one lock keeps memory use to one derivation at a time as well.
_DERIVING: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Argon2Params:
    """Cost of one derivation (RFC 9106): memory in KiB and passes."""

    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 1


DEFAULT: Final = Argon2Params()


# --- the file format -------------------------------------------------------------------------
def encrypt(
    secrets: Mapping[str, bytes],
    passphrase: bytes,
    *,
    salt: bytes,
    nonce: bytes,
    params: Argon2Params = DEFAULT,
) -> bytes:
    """Return the keystore file that holds *secrets*; *salt* and *nonce* must be fresh."""
    head = [
        MAGIC, VERSION, _KDF, params.memory_kib, params.iterations, params.lanes, salt, nonce,
    ]  # fmt: skip
    key = _derive(passphrase, salt, params)
    return encode([*head, AESGCM(key).encrypt(nonce, encode(dict(secrets)), encode(head))])


def decrypt(blob: bytes, passphrase: bytes) -> dict[str, bytes]:
    """Return the secrets in a keystore file.

    Raises:
        KeystoreError: it is damaged, or its parameters are refused.
        WrongPassphraseError: the passphrase does not open it.
    """
    try:
        fields = array(decode(blob, max_bytes=MAX_FILE), "keystore", size=9)
        if text(fields[0], "magic") != MAGIC or uint(fields[1], "version") != VERSION:
            raise DecodeError("it is of another kind or version")
        if text(fields[2], "kdf") != _KDF:
            raise DecodeError("kdf is not argon2id")
        params = _bounded(fields)
        salt = octets(fields[6], "salt", size=_SALT)
        nonce = octets(fields[7], "nonce", size=_NONCE)
        ciphertext = octets(fields[8], "ciphertext", maximum=MAX_FILE)
    except PeerError as error:
        raise KeystoreError(
            f"the keystore is damaged: {error.message}", fix="restore it from a backup"
        ) from None
    try:
        plain = AESGCM(_derive(passphrase, salt, params)).decrypt(
            nonce, ciphertext, encode(fields[:8])
        )
    except InvalidTag:
        raise WrongPassphraseError(
            "the passphrase does not open the keystore, or the file was altered",
            fix="try again; mind the keyboard layout",
        ) from None
    try:
        value = decode(plain, max_bytes=MAX_FILE)
        if not isinstance(value, dict):
            raise DecodeError("it holds no keys")
        return {name: octets(secret, name, maximum=MAX_FILE) for name, secret in value.items()}
    except PeerError as error:
        raise KeystoreError(
            f"the keystore was not written by Picket: {error.message}",
            fix="restore it from a backup",
        ) from None


def _bounded(fields: list[Value]) -> Argon2Params:
    return Argon2Params(
        uint(fields[3], "memory_kib", minimum=_MIN_MEMORY, maximum=_MAX_MEMORY),
        uint(fields[4], "iterations", minimum=1, maximum=_MAX_ITERATIONS),
        uint(fields[5], "lanes", minimum=1, maximum=1),
    )


def _derive(passphrase: bytes, salt: bytes, params: Argon2Params) -> bytes:
    with _DERIVING:
        return Argon2id(
            salt=salt,
            length=_KEY,
            iterations=params.iterations,
            lanes=params.lanes,
            memory_cost=params.memory_kib,
        ).derive(passphrase)


# --- keys made since -------------------------------------------------------------------------
def save_sealing(path: Path, seeds: Mapping[str, bytes], storage: bytes) -> None:
    """Replace the file of sealing keys, sealed under a key derived from the storage key.

    A node that is unlocked makes new ones and destroys old ones without its passphrase.

    Raises:
        KeystoreError: it cannot be written; what was there stands.
    """
    _save_since(path, seeds, storage, magic=_SEALING)


def save_message(path: Path, seeds: Mapping[str, bytes], storage: bytes) -> None:
    """Replace the file of message keys in the same way, under a key of its own.

    Raises:
        KeystoreError: it cannot be written; what was there stands.
    """
    _save_since(path, seeds, storage, magic=_MESSAGE)


def _save_since(path: Path, seeds: Mapping[str, bytes], storage: bytes, *, magic: str) -> None:
    nonce = random.token_bytes(_NONCE)
    head = [magic, VERSION, nonce]
    sealed = AESGCM(derive(storage, _SINCE[magic])).encrypt(
        nonce, encode(dict(seeds)), encode(head)
    )
    write_private(path, encode([*head, sealed]))


def load_sealing(path: Path, storage: bytes) -> dict[str, bytes]:
    """Return the sealing keys in the file *path*, none if there is no such file.

    Raises:
        KeystoreError: it is damaged, or of another node.
    """
    return _load_since(path, storage, magic=_SEALING)


def load_message(path: Path, storage: bytes) -> dict[str, bytes]:
    """Return the message keys in the file *path*, none if there is no such file.

    Raises:
        KeystoreError: it is damaged, or of another node.
    """
    return _load_since(path, storage, magic=_MESSAGE)


def _load_since(path: Path, storage: bytes, *, magic: str) -> dict[str, bytes]:
    if not path.exists():
        return {}
    what = f"the file of {_SINCE[magic].replace('-', ' ')}"
    blob = read_private(path, what=what, max_bytes=MAX_FILE)
    try:
        fields = array(decode(blob, max_bytes=MAX_FILE), magic, size=4)
        if text(fields[0], "magic") != magic or uint(fields[1], "version") != VERSION:
            raise DecodeError("it is of another kind or version")
        nonce = octets(fields[2], "nonce", size=_NONCE)
        plain = AESGCM(derive(storage, _SINCE[magic])).decrypt(
            nonce, octets(fields[3], "ciphertext", maximum=MAX_FILE), encode(fields[:3])
        )
        value = decode(plain, max_bytes=MAX_FILE)
        if not isinstance(value, dict):
            raise DecodeError("it holds no keys")
        return {name: octets(seed, name, size=_KEY) for name, seed in value.items()}
    except (PeerError, InvalidTag) as error:
        raise KeystoreError(
            f"{path} is damaged or of another node: {error}", fix="restore it from a backup"
        ) from None


# --- passphrases -----------------------------------------------------------------------------
def normalise_passphrase(typed: str) -> bytes:
    """Return the bytes of a passphrase, the same however the keyboard composes its characters.

    Raises:
        KeystoreError: it is shorter than 8 or longer than 1,024 characters, or no text.
    """
    if any("\ud800" <= character <= "\udfff" for character in typed):
        raise KeystoreError(
            "the passphrase was typed in another encoding than UTF-8",
            fix="set the terminal to UTF-8, or give --passphrase-file FILE",
        )
    composed = unicodedata.normalize("NFC", typed.removesuffix("\n").removesuffix("\r"))
    if not MIN_PASSPHRASE <= len(composed) <= MAX_PASSPHRASE:
        raise KeystoreError(
            f"a passphrase has {MIN_PASSPHRASE} to {MAX_PASSPHRASE} characters",
            fix="choose five or six random words",
        )
    return composed.encode()


def read_passphrase_file(path: Path) -> bytes:
    """Return the passphrase in the file *path*.

    Raises:
        KeystoreError: it is missing, unreadable, not text, or too short.
    """
    wrong = f"the passphrase file {path}"
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PASSPHRASE_FILE + 1)
        if len(data) > _MAX_PASSPHRASE_FILE:
            data = b""  # judged like one that is too short
        return normalise_passphrase(data.decode())
    except OSError as error:
        raise KeystoreError(
            f"{wrong} cannot be read: {error.strerror}", fix="correct the path or its permissions"
        ) from None
    except UnicodeDecodeError:
        raise KeystoreError(f"{wrong} is not UTF-8 text", fix="name the right file") from None
    except KeystoreError as error:
        raise KeystoreError(f"{wrong}: {error.message}", fix=error.fix) from None


# --- files -----------------------------------------------------------------------------------
def save(
    path: Path, secrets: Mapping[str, bytes], passphrase: bytes, params: Argon2Params = DEFAULT
) -> None:
    """Write *secrets* to *path*, sealed under *passphrase*.

    Raises:
        KeystoreError: the passphrase is too short, or the file cannot be written.
    """
    salt, nonce = random.token_bytes(_SALT), random.token_bytes(_NONCE)
    blob = encrypt(secrets, _normal(passphrase), salt=salt, nonce=nonce, params=params)
    if len(blob) > MAX_FILE:
        raise KeystoreError(f"the keys take {len(blob)} bytes; a keystore may have {MAX_FILE}")
    write_private(path, blob)


def load(path: Path, passphrase: bytes) -> dict[str, bytes]:
    """Return the secrets in the keystore *path*.

    Raises:
        KeystoreError: the file is missing, unreadable, open to others or damaged.
        WrongPassphraseError: the passphrase does not open it.
    """
    blob = read_private(path, what="the keystore", max_bytes=MAX_FILE)
    try:
        normal = _normal(passphrase)
    except KeystoreError as error:  # it cannot have sealed any
        raise WrongPassphraseError(error.message, fix=error.fix) from None
    return decrypt(blob, normal)


def _normal(passphrase: bytes) -> bytes:
    try:
        return normalise_passphrase(passphrase.decode())
    except UnicodeDecodeError:
        raise KeystoreError("the passphrase is not UTF-8 text") from None


def change_passphrase(path: Path, old: bytes, new: bytes) -> None:
    """Seal the keystore *path* anew under the passphrase *new*.

    Raises:
        KeystoreError: as for ``load`` and ``save``; the old file stands.
        WrongPassphraseError: *old* does not open it.
    """
    save(path, load(path, old), new)


def write_private(path: Path, data: bytes) -> None:
    """Replace *path* by a file with *data* that only its owner can read, durably.

    Raises:
        KeystoreError: it cannot be written; what was there stands.
    """
    temporary = path.with_name(f".{path.name}.{random.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise KeystoreError(
            f"{path} cannot be written: {error.strerror}", fix="check the disk and permissions"
        ) from None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_private(path: Path, *, what: str, max_bytes: int) -> bytes:
    """Return the bytes of a file that only its owner may read.

    Raises:
        KeystoreError: it is missing, no plain file, unreadable, too large, or open to others.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeystoreError(
            f"{what} is missing: {path}", fix="restore it from a backup of this node"
        ) from None
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise KeystoreError(
            f"{what} cannot be read: {path}: {why}", fix="check the file and its permissions"
        ) from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise KeystoreError(f"{what} is not a plain file: {path}", fix="restore it")
    with os.fdopen(handle, "rb") as file:
        if status.st_mode & 0o077:
            raise KeystoreError(
                f"{what} can be read by other users: {path}",
                fix=f"chmod 600 {shlex.quote(str(path))}",
            )
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise KeystoreError(f"{what} is larger than it can be: {path}", fix="restore it")
    return data
