"""The directory that a node follows when it suspends: a file that its operator wrote.

    quorum 3
    key NAME BASE64

BASE64 is the Ed25519 key (32 bytes) and the ML-DSA-65 key (1,952 bytes), joined (RFC 4648
section 4). Lines that are empty or begin with # say nothing. No file: no directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from protocol import limits, suite
from protocol.bodies import HybridKey
from protocol.errors import ConfigError, PeerError
from protocol.note import strict_base64
from protocol.suspension import Directory

_KEY_WORDS: Final = 3
_MAX_FILE: Final = 64 * 1024


def load_directory(path: Path) -> Directory | None:
    """Return the directory that the file *path* names, None if there is none.

    Raises:
        ConfigError: it cannot be read, or a line is wrong; names it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise ConfigError(f"{path} is larger than a directory can be", fix="correct it")
        return parse_directory(data.decode("ascii"), str(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", fix="correct or remove it") from None


def parse_directory(text: str, name: str) -> Directory:
    """Return the directory in *text*.

    Raises:
        ConfigError: a line is wrong; names it.
    """
    quorum = ""
    keys: dict[str, HybridKey] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "quorum" and len(words) == _KEY_WORDS - 1 and not quorum:
            quorum = words[1]
        elif words[0] == "key" and len(words) == _KEY_WORDS and words[1] not in keys:
            keys[words[1]] = _key(words[2], f"{name}, line {number}")
        else:
            raise ConfigError(f"{name}, line {number} is neither quorum nor key", fix="correct it")
    wanted = {str(count): count for count in range(1, len(keys) + 1)}
    if quorum not in wanted or len(keys) > limits.MAX_DIRECTORY:
        raise ConfigError(
            f"{name}: the quorum is not a number from 1 to that of its keys, at most "
            f"{limits.MAX_DIRECTORY}",
            fix="correct it",
        )
    if len(set(keys.values())) != len(keys):
        raise ConfigError(f"{name} names one key twice", fix="correct it")
    return Directory(tuple(keys.values()), wanted[quorum])


def _key(text: str, where: str) -> HybridKey:
    try:
        data = strict_base64(text, where)
        return (
            suite.check_ed25519(data[: suite.ED25519_SIZE], where),
            suite.check_mldsa65(data[suite.ED25519_SIZE :], where),
        )
    except (PeerError, ValueError) as error:
        raise ConfigError(f"{where}: this is no directory key: {error}", fix="correct it") from None
