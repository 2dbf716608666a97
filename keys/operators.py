"""The keys of persons who approve: one Ed25519 key each, in a file under a passphrase of its own.

    file = a keystore file (``keys.keystore``) with the secrets ``operator``, ``operator-name`` and
           ``operator-made``
    line = "picket-operator 1 " name " " base64(enc([1, name, ed25519, made, signature]))

- The file belongs to a person, not to a node: no node ever reads it, and the key never reaches one.
- The line is public. It is signed with the key that it names, so whoever hands it over has the key.
- A key lasts one year from when it was made; who made it again has another key.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keys.keystore import DEFAULT, MAX_FILE, Argon2Params, decrypt, read_private, save
from protocol import limits, suite
from protocol.approval import Operator, check_operator_name
from protocol.canonical import decode, encode
from protocol.errors import (
    DecodeError,
    KeystoreError,
    LimitError,
    PeerError,
    VersionError,
    WrongPassphraseError,
)
from protocol.shape import array, octets, text, uint

LINE: Final = "picket-operator"
VERSION: Final = 1
_LABEL: Final = "operator-key"
_SEED, _NAME, _MADE = "operator", "operator-name", "operator-made"
_TIME_SIZE: Final = 8


@dataclass(frozen=True, slots=True)
class OperatorKey:
    """The private key of one person, open in this process."""

    name: str
    made: int
    signer: suite.Ed25519Signer

    @property
    def operator(self) -> Operator:
        """What a policy says of this person."""
        return _operator(self.name, self.signer.public, self.made)


def _operator(name: str, public: bytes, made: int) -> Operator:
    return Operator(name, public, made + limits.OPERATOR_KEY_LIFE_MS)


# --- files -----------------------------------------------------------------------------------
def new_operator(
    path: Path,
    *,
    name: str,
    passphrase: bytes,
    now: int,
    random: Callable[[int], bytes],
    params: Argon2Params = DEFAULT,
) -> OperatorKey:
    """Make the key of the person *name* in the new file *path*, sealed under *passphrase*.

    Raises:
        KeystoreError: the file exists or cannot be written, or the passphrase is too short.
        DecodeError: the name is none.
    """
    check_operator_name(name)
    if os.path.lexists(path):
        raise KeystoreError(f"{path} exists", fix="choose another name; a key is never replaced")
    seed = random(suite.SEED_SIZE)
    secrets = {_SEED: seed, _NAME: name.encode(), _MADE: now.to_bytes(_TIME_SIZE, "big")}
    save(path, secrets, passphrase, params)
    return OperatorKey(name, now, suite.Ed25519Signer(seed))


def load_operator(path: Path, passphrase: bytes) -> OperatorKey:
    """Return the key in the file *path*.

    Raises:
        KeystoreError: the file is missing, unreadable, open to others, damaged, or no operator key.
        WrongPassphraseError: the passphrase does not open it.
    """
    blob = read_private(path, what="the operator key", max_bytes=MAX_FILE)
    try:
        secrets = decrypt(blob, passphrase)
    except WrongPassphraseError:
        raise WrongPassphraseError(
            f"the passphrase does not open {path}, or the file was altered",
            fix="try again; it is your own passphrase, not that of the node",
        ) from None
    except KeystoreError as error:
        raise KeystoreError(f"{path} is no operator key: {error.message}", fix=_FIX) from None
    try:
        if set(secrets) != {_SEED, _NAME, _MADE}:
            raise DecodeError("it holds other keys")
        name = check_operator_name(secrets[_NAME].decode())
        seed = octets(secrets[_SEED], _SEED, size=suite.SEED_SIZE)
        made = int.from_bytes(octets(secrets[_MADE], _MADE, size=_TIME_SIZE), "big")
    except (PeerError, UnicodeDecodeError) as error:
        raise KeystoreError(f"{path} is no operator key: {error}", fix=_FIX) from None
    return OperatorKey(name, made, suite.Ed25519Signer(seed))


_FIX: Final = "name the file that was made with: picket operators new-key"


# --- public lines ----------------------------------------------------------------------------
def format_line(key: OperatorKey) -> str:
    """Return the public key line of *key*, to hand to the administrator of a node."""
    core = [VERSION, key.name, key.signer.public, key.made]
    signature = key.signer.sign(suite.label(_LABEL) + encode(core))
    return _line(key.name, encode([*core, signature]))


def _line(name: str, data: bytes) -> str:
    return f"{LINE} {VERSION} {name} {base64.b64encode(data).decode('ascii')}"


def parse_line(line: str) -> Operator:
    """Return the operator whose public key line it is; its signature is verified.

    Raises:
        DecodeError: it is no such line, or was damaged.
        LimitError: it is too long.
        VersionError: it is of a later version.
        WeakKeyError: the key is malformed or weak.
        SignatureError: it was not made with the key that it names.
    """
    if len(line) > limits.MAX_OPERATOR_LINE:
        raise LimitError("the line is too long for a public key")
    start, _, rest = line.partition(" ")
    if start != LINE or not rest.startswith(f"{VERSION} "):
        raise DecodeError(
            f"the line does not begin with {LINE} {VERSION}",
            fix="take the whole line that picket operators new-key printed",
        )
    try:
        data = base64.b64decode(line.rpartition(" ")[2], validate=True)
    except (binascii.Error, ValueError):
        raise DecodeError(
            "the end of the line is damaged", fix="ask its owner for the line again"
        ) from None
    fields = array(decode(data, max_bytes=limits.MAX_OPERATOR_LINE), "operator", size=5)
    if uint(fields[0], "operator.version") != VERSION:
        raise VersionError("the version of the key is not known; update Picket")
    name = check_operator_name(text(fields[1], "operator.name", maximum=limits.MAX_OPERATOR_NAME))
    public = suite.check_ed25519(octets(fields[2], "operator.key", size=32), "operator.key")
    made = uint(fields[3], "operator.made")
    signature = octets(fields[4], "operator.signature", size=suite.ED25519_SIGNATURE)
    if _line(name, data) != line:
        raise DecodeError(
            "the name at the front of the line is not the one inside",
            fix="ask its owner for the line again",
        )
    suite.verify(_LABEL, public, encode(fields[:4]), signature)
    return _operator(name, public, made)


def parse_lines(lines: str) -> Sequence[Operator]:
    """Return the operators in a file of public key lines; empty lines and those with # are none.

    Raises:
        PeerError: as for ``parse_line``; names the line.
    """
    found = []
    for number, line in enumerate(lines.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            found.append(parse_line(line.strip()))
        except PeerError as error:
            error.message = f"line {number}: {error.message}"
            error.args = (error.message,)
            raise
    return found
