"""The file ``witness-policy`` in a node's folder: who has to cosign its log, if the operator chose.

It has the form of C2SP tlog-policy. What it needs besides: a line for the log of this node, and
addresses of witnesses that can be asked over HTTP.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from protocol import limits
from protocol.errors import ConfigError, PolicyError
from protocol.note import ED25519, format_vkey
from protocol.policy import Policy, parse_policy
from protocol.statement import NamedKeys

_SCHEMES: Final = frozenset({"http", "https"})
_PORTS: Final = range(1, 65_536)


def read_policy(path: Path, *, log: NamedKeys | None) -> Policy | None:
    """Return the policy in the file *path*; None if there is none.

    Args:
        path: of the file.
        log: the log of this node, which a line must name; None if that is not known.

    Raises:
        ConfigError: it cannot be read or used; says what to do.
    """
    try:
        with path.open("rb") as opened:
            data = opened.read(limits.MAX_POLICY + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", fix="check its permissions"
        ) from None
    if not data.strip():
        raise ConfigError(
            f"{path} is empty",
            fix="remove it, and more than half of the trusted peers have to confirm the log; to "
            "choose others, begin with the file that this prints: picket log policy",
        )
    try:
        policy = parse_policy(data)
    except PolicyError as error:
        raise ConfigError(f"{path}: {error.message}", fix=error.fix or "correct it") from None
    for line in policy.witnesses.values():
        if line.url and not _can_be_asked(line.url):
            raise ConfigError(
                f"{path}: the witness {line.name} has the address {line.url!r}, which cannot be "
                "asked over HTTP",
                fix="give one such as https://witness.example.org/, or none if it is a peer",
            )
    if log is not None and log.name not in {line.key.name for line in policy.logs}:
        vkey = format_vkey(log.name, ED25519, log.ed25519)
        raise ConfigError(
            f"{path} has no line for the log of this node", fix=f"add the line: log {vkey}"
        )
    return policy


def _can_be_asked(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = parts.scheme in _SCHEMES and parts.hostname and not (parts.query or parts.fragment)
    return bool(plain) and (port is None or port in _PORTS) and "@" not in parts.netloc
