"""The configuration: picket.toml in the node's home, overridden by PICKET_SECTION__KEY.

Every key is in one table with its type, default, check and comment. A key that is not in the table
is an error, in the file and in the environment: a misspelt setting never goes unnoticed.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from node.home import Home, owner_of, user_name
from protocol.errors import ConfigError

_PREFIX: Final = "PICKET_"
_RESERVED: Final = frozenset({"PICKET_HOME"})
_ROLES: Final = ("national-authority", "regional-centre", "international-organisation")
_LEVELS: Final = ("debug", "info", "warning", "error")
_FORMATS: Final = ("json", "console")
_SIGNERS: Final = ("file", "pkcs11", "agent")
_MAX_TEXT: Final = 256
_MAX_LABEL: Final = 32
_MAX_PORT: Final = 65_535
_MAX_ENDPOINTS: Final = 8
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class NodeSection:
    """Who runs the node."""

    authority: str
    country: str
    network: str
    role: str
    contact: str
    language: str


@dataclass(frozen=True, slots=True)
class PeerSection:
    """Links to other nodes."""

    listen: str
    endpoints: tuple[str, ...]
    carry: bool
    dial: bool
    quota_envelopes: int
    quota_kib: int
    recovery_hold: int
    show_card: bool

    @property
    def listen_address(self) -> Address | None:
        """Host and port to listen on, or None."""
        return parse_address(self.listen) if self.listen else None


@dataclass(frozen=True, slots=True)
class HttpSection:
    """The local endpoint."""

    listen: str
    allow_remote: bool
    hosts: tuple[str, ...]

    @property
    def listen_address(self) -> Address | None:
        """Host and port to listen on, or None."""
        return parse_address(self.listen) if self.listen else None


@dataclass(frozen=True, slots=True)
class KeystoreSection:
    """How the keystore is opened at start."""

    passphrase_file: str
    lock_after: int


@dataclass(frozen=True, slots=True)
class SignerSection:
    """Where the signing keys are that are not in the keystore."""

    kind: str
    module: str
    token: str
    identity: str
    message: str
    pin_file: str
    socket: str


@dataclass(frozen=True, slots=True)
class IncidentsSection:
    """What is done with incidents by itself."""

    retention: str


@dataclass(frozen=True, slots=True)
class WitnessSection:
    """How the log is shown to witnesses."""

    beat: int


@dataclass(frozen=True, slots=True)
class LogSection:
    """The journal on standard error."""

    level: str
    format: str


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, and where each came from."""

    node: NodeSection
    peer: PeerSection
    http: HttpSection
    keystore: KeystoreSection
    signer: SignerSection
    incidents: IncidentsSection
    witness: WitnessSection
    log: LogSection
    origins: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Field:
    """One setting."""

    key: str
    kind: type
    default: Any
    check: Callable[[Any], str]
    comment: str


def parse_address(text: str) -> Address:
    """Return host and port of ``host:port`` or ``[ipv6]:port``.

    Raises:
        ValueError: it has another form.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):(0|[1-9][0-9]{0,4})", text)
    if match is None or int(match[3]) > _MAX_PORT:
        raise ValueError(text)
    return match[1] or match[2], int(match[3])


# --- checks: an empty text means fine, another says what to send instead ---------------------
def _text(value: str) -> str:
    fine = value.strip() and len(value) <= _MAX_TEXT and value.isprintable()
    return "" if fine else "1 to 256 printable characters"


def _country(value: str) -> str:
    return "" if re.fullmatch(r"[A-Z]{2}", value) else "an ISO 3166-1 code of two capital letters"


def _one_of(*allowed: str) -> Callable[[Any], str]:
    return lambda value: "" if value in allowed else f"one of {', '.join(allowed)}"


def _address(value: str) -> str:
    if not value:
        return ""
    try:
        parse_address(value)
    except ValueError:
        return 'an address such as "127.0.0.1:8462" or "[::1]:8462", or "" for none'
    return ""


def _endpoints(value: tuple[str, ...]) -> str:
    if len(value) > _MAX_ENDPOINTS:
        return f"at most {_MAX_ENDPOINTS} endpoints"
    for item in value:
        address = item.removeprefix("wss://")
        if not address or address == item or _address(address):
            return "addresses such as wss://node.example.org:443"
    return ""


def _path(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        return "a path that is UTF-8 text"
    return ""


def _label(value: str) -> str:
    fine = len(value.encode("utf-8", "replace")) <= _MAX_LABEL and value.isprintable()
    return "" if fine else "at most 32 printable characters"


def _whole(low: int, high: int) -> Callable[[Any], str]:
    return lambda value: "" if low <= value <= high else f"a whole number, {low:,} to {high:,}"


def _anything(_: object) -> str:
    return ""


FIELDS: Final = (
    Field("node.authority", str, ..., _text, "Name of the authority, as others will see it"),
    Field("node.country", str, ..., _country, "ISO 3166-1 alpha-2 code"),
    Field("node.network", str, ..., _text, "Name of the network; the same at all its nodes"),
    Field("node.role", str, _ROLES[0], _one_of(*_ROLES), ", ".join(_ROLES)),
    Field("node.contact", str, ..., _text, "Duty desk: mailbox or telephone"),
    Field("node.language", str, "en", _one_of("ar", "en", "es", "fr", "ru", "zh"), "Language"),
    Field("peer.listen", str, "127.0.0.1:8462", _address, 'Where peers dial in; "" dials out only'),
    Field("peer.endpoints", list, (), _endpoints, "Addresses on the card: wss://host:port"),
    Field("peer.carry", bool, True, _anything, "Carry ciphertext for others when they ask"),
    Field("peer.dial", bool, True, _anything, "Dial peers"),
    Field("peer.quota_envelopes", int, 50, _whole(1, 100_000), "Envelopes a second from one peer"),
    Field("peer.quota_kib", int, 1_024, _whole(64, 10_000_000), "KiB a second from one peer"),
    Field(
        "peer.recovery_hold",
        int,
        72,
        _whole(0, 720),
        "Hours for which the recovery of a peer is held",
    ),
    Field("peer.show_card", bool, True, _anything, "Give the card to whoever asks the peer port"),
    Field("http.listen", str, "127.0.0.1:8463", _address, 'Local endpoint; "" turns it off'),
    Field("http.allow_remote", bool, False, _anything, "Allow an address other than loopback"),
    Field("http.hosts", list, (), _anything, "Further names accepted in the Host header"),
    Field("keystore.passphrase_file", str, "", _path, "File that holds the passphrase"),
    Field("keystore.lock_after", int, 0, _whole(0, 10_080), "Minutes without use to its lock"),
    Field("signer.kind", str, "file", _one_of(*_SIGNERS), "Where the identity key is"),
    Field("signer.module", str, "", _path, "pkcs11: the module that speaks to the token"),
    Field("signer.token", str, "", _label, "pkcs11: label of the token"),
    Field("signer.identity", str, "picket-identity", _label, "pkcs11: label of the identity key"),
    Field("signer.message", str, "", _label, 'pkcs11: label of the message key; "" keeps it here'),
    Field("signer.pin_file", str, "", _path, "pkcs11: file that holds the PIN"),
    Field("signer.socket", str, "", _path, "agent: where the signer process listens"),
    Field(
        "incidents.retention",
        str,
        "ask",
        _one_of("ask", "erase"),
        "What is done when the time to keep an incident has ended: ask a person, or erase",
    ),
    Field(
        "witness.beat", int, 60, _whole(1, 3_600), "Seconds from one head for witnesses to the next"
    ),
    Field("log.level", str, "info", _one_of(*_LEVELS), ", ".join(_LEVELS)),
    Field("log.format", str, "json", _one_of(*_FORMATS), ", ".join(_FORMATS)),
)
_BY_KEY: Final = {field.key: field for field in FIELDS}
_SECTIONS: Final = {
    "node": NodeSection, "peer": PeerSection, "http": HttpSection, "keystore": KeystoreSection,
    "signer": SignerSection, "incidents": IncidentsSection,
    "witness": WitnessSection, "log": LogSection,
}  # fmt: skip


def load_config(home: Home) -> Config:
    """Return the configuration of the node in *home*.

    Raises:
        ConfigError: a file is missing or malformed, or a key or value is refused; names it.
    """
    name = home.config.name
    values = {field.key: field.default for field in FIELDS}
    origins = dict.fromkeys(values, "default")
    for key, value in _from_file(home).items():
        values[key], origins[key] = _typed(_BY_KEY[key], value, name), name
    for variable, key, text in _from_environment():
        values[key] = _typed(_BY_KEY[key], _parse(_BY_KEY[key], text), variable)
        origins[key] = variable
    for field in FIELDS:
        if values[field.key] is ...:
            raise ConfigError(f"{name}: {field.key} is missing", fix=f"set it: {field.comment}")
        if wanted := field.check(values[field.key]):
            raise ConfigError(
                f"{origins[field.key]}: {field.key} is {values[field.key]!r}", fix=f"give {wanted}"
            )
    config = _build(values, origins)
    _check_http(config)
    _check_signer(config)
    return config


def _build(values: Mapping[str, Any], origins: Mapping[str, str]) -> Config:
    sections = {}
    for section, kind in _SECTIONS.items():
        prefix = section + "."
        own = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        sections[section] = kind(**own)
    return Config(**sections, origins=origins)


def _check_http(config: Config) -> None:
    address = config.http.listen_address
    if address and not config.http.allow_remote and address[0] not in _LOOPBACK:
        raise ConfigError(
            f"{config.origins['http.listen']}: http.listen is {config.http.listen!r}, "
            "which other machines can reach",
            fix="use 127.0.0.1, or set http.allow_remote = true behind a TLS proxy",
        )


def _check_signer(config: Config) -> None:
    signer = config.signer
    wanted = {"pkcs11": ("module", "token", "identity"), "agent": ("socket",)}
    for name in wanted.get(signer.kind, ()):
        if not getattr(signer, name):
            raise ConfigError(
                f"{config.origins['signer.kind']}: signer.kind is {signer.kind}, and "
                f"signer.{name} is missing",
                fix=f"set signer.{name}",
            )


_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def _from_file(home: Home) -> dict[str, Any]:
    try:
        with home.config.open("rb") as file:
            tree = tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no node in {home.path}", fix="make one with: picket init"
        ) from None
    except PermissionError:
        raise ConfigError(
            f"{home.config} cannot be read by the user {user_name()}, who runs this command",
            fix=_as_owner(home),
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{home.config} cannot be read: {error.strerror}", fix="check its permissions"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{home.config} is not valid TOML: {error}", fix="correct it") from None
    found = {}
    for section, keys in tree.items():
        if not isinstance(keys, dict):
            raise _unknown(home.config.name, section)
        for key, value in keys.items():
            if f"{section}.{key}" not in _BY_KEY:
                raise _unknown(home.config.name, f"{section}.{key}")
            found[f"{section}.{key}"] = value
    return found


def _as_owner(home: Home) -> str:
    owner = owner_of(home.config)
    if owner is None:
        return f"give its owner the right to: chmod 600 {home.config}"
    return f"it belongs to {owner}: run the command as that user, with: sudo -u {owner} picket …"


def _from_environment() -> list[tuple[str, str, str]]:
    found = []
    for variable, text in sorted(os.environ.items()):
        if not variable.startswith(_PREFIX) or variable in _RESERVED:
            continue
        key = variable.removeprefix(_PREFIX).lower().replace("__", ".", 1)
        if key not in _BY_KEY:
            raise _unknown(f"environment variable {variable}", key)
        found.append((variable, key, text))
    return found


def _unknown(where: str, key: str) -> ConfigError:
    close = difflib.get_close_matches(key, _BY_KEY, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else "see: picket config show"
    return ConfigError(f"{where}: there is no setting {key!r}", fix=hint)


def _parse(field: Field, text: str) -> Any:  # noqa: ANN401  the type is the field's
    if field.kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if field.kind is int:
        return int(text) if re.fullmatch(r"0|[1-9][0-9]{0,8}", text) else text
    if field.kind is list:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text


def _typed(field: Field, value: Any, where: str) -> Any:  # noqa: ANN401
    if type(value) is not field.kind:
        words = {
            str: "text in quotes", bool: "true or false", list: "a list of texts",
            int: "a whole number",
        }  # fmt: skip
        raise ConfigError(
            f"{where}: {field.key} has the wrong type", fix=f"give {words[field.kind]}"
        )
    if not isinstance(value, list):
        return value
    if not all(type(item) is str for item in value):
        raise ConfigError(
            f"{where}: {field.key} holds something else than texts", fix="put each in quotes"
        )
    return tuple(value)


# --- checking what was given ------------------------------------------------------------------
def fault_of(key: str, value: Any) -> str:  # noqa: ANN401  the type is the field's
    """Return what to give instead of *value* for the setting *key*; nothing if it is right."""
    wanted = _BY_KEY[key].check(tuple(value) if isinstance(value, list) else value)
    return f"give {wanted}" if wanted else ""


def check_values(values: Mapping[str, Any]) -> None:
    """Check settings before anything is made of them.

    Raises:
        ConfigError: a key is unknown or missing, or a value is refused.
    """
    for key, value in values.items():
        if key not in _BY_KEY:
            raise _unknown("the given settings", key)
        if fix := fault_of(key, value):
            raise ConfigError(f"{key} is {value!r}", fix=fix)
    for field in FIELDS:
        if field.default is ... and field.key not in values:
            raise ConfigError(f"{field.key} is missing", fix=f"give it: {field.comment}")
    whole = {field.key: values.get(field.key, field.default) for field in FIELDS}
    origins = dict.fromkeys(whole, "the given settings")
    for variable, key, text in _from_environment():
        whole[key] = _typed(_BY_KEY[key], _parse(_BY_KEY[key], text), variable)
        origins[key] = variable
    config = _build(whole, origins)
    _check_http(config)
    _check_signer(config)


# --- writing ---------------------------------------------------------------------------------
def write_config(home: Home, values: Mapping[str, Any]) -> None:
    """Write the first configuration of a node, with a comment per key.

    Raises:
        ConfigError: there is one already, or a key is unknown.
    """
    check_values(values)
    lines = ["# Settings of this Picket node. Each can be overridden by PICKET_SECTION__KEY.", ""]
    for section in _SECTIONS:
        lines.append(f"[{section}]")
        for field in FIELDS:
            if field.key.startswith(section + "."):
                lines += _lines(field, values)
        lines.append("")
    try:
        with home.config.open("x", encoding="utf-8") as file:
            file.write("\n".join(lines))
    except FileExistsError:
        raise ConfigError(f"{home.config} exists already", fix="edit it instead") from None


def _lines(field: Field, values: Mapping[str, Any]) -> list[str]:
    name = field.key.partition(".")[2]
    value = values.get(field.key, field.default)
    mark = "" if field.key in values else "# "
    return [f"# {field.comment}", f"{mark}{name} = {_toml(value)}"]


def _toml(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's too, but for the one control character that JSON leaves.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "[" + ", ".join(_toml(item) for item in value) + "]"
