"""Which logs and how many witnesses a verifier demands (C2SP tlog-policy), parsed strictly.

    log <vkey> [<url>]
    witness <name> <vkey> [<url>]
    group <name> all|any|<k> <member>...
    quorum <name>|none

- A member or quorum is defined on a line before it; a name is a member of one group at most, so
  that each witness counts once. There is exactly one quorum line.
- Two lines of one kind may not hold the same public key, whatever it is called.
- A ``#`` outside a comment line is refused: some readers cut the line there and others do not, so
  the same file would mean two things.
- A witness of Picket signs with two keys. It is two witness lines, and a group that needs both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from protocol import limits
from protocol.errors import PeerError, PolicyError
from protocol.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    VerifierKey,
    format_vkey,
    parse_vkey,
)
from protocol.statement import NamedKeys
from protocol.suite import check_ed25519, check_mldsa44

NONE: Final = "none"
"""The quorum that needs no witness; not a name that a line can define."""
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_THRESHOLD: Final = re.compile(r"[1-9][0-9]{0,4}")
_LOG_TYPES: Final = frozenset({ED25519, COSIGNATURE_MLDSA44})
_WITNESS_TYPES: Final = frozenset({COSIGNATURE_ED25519, COSIGNATURE_MLDSA44})
_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_LABEL: Final = 64


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log whose checkpoints are accepted; the key's name is the log's origin."""

    key: VerifierKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class WitnessLine:
    """One key of a witness, and the name that groups and the quorum know it by."""

    name: str
    key: VerifierKey
    url: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Holds when at least *k* of its members do."""

    name: str
    k: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole policy; groups are in the order of their definition, and refer only backwards."""

    logs: tuple[LogLine, ...]
    witnesses: Mapping[str, WitnessLine]
    groups: Mapping[str, Group]
    quorum: str | None

    def satisfied(self, names: Iterable[str]) -> bool:
        """Say whether cosignatures of the witness lines *names* meet the quorum."""
        return self.quorum is None or self.quorum in self._holding(names)

    def missing(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return who could still help to meet the quorum, if the witness lines *names* do not.

        A group of which nobody cosigned stands for its members.
        """
        given = self._given(names)
        holding, begun = self._holding(given), self._marked(given, fewest=1)
        if self.quorum is None or self.quorum in holding:
            return ()
        return tuple(
            name
            for name in self._descend(lambda each: each not in holding and each in begun)
            if name not in holding
        )

    def cosigners(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the witness lines *names* as a person knows them, as far as the quorum needs them.

        A group of which everybody cosigned stands for its members.
        """
        given = self._given(names)
        begun, whole = self._marked(given, fewest=1), self._marked(given, fewest=None)
        return tuple(
            name for name in self._descend(lambda each: each not in whole) if name in begun
        )

    def _given(self, names: Iterable[str]) -> frozenset[str]:
        return frozenset(name for name in names if name in self.witnesses)

    def _holding(self, names: Iterable[str]) -> set[str]:
        holding = set(self._given(names))
        for group in self.groups.values():
            if sum(member in holding for member in group.members) >= group.k:
                holding.add(group.name)
        return holding

    def _marked(self, given: frozenset[str], *, fewest: int | None) -> set[str]:
        """Return *given* and the groups with at least *fewest* marked members (None: all)."""
        marked = set(given)
        for group in self.groups.values():
            wanted = len(group.members) if fewest is None else fewest
            if sum(member in marked for member in group.members) >= wanted:
                marked.add(group.name)
        return marked

    def _descend(self, open_up: Callable[[str], bool]) -> Iterator[str]:
        """Yield names below the quorum in order; a group yields its members if *open_up* says so.

        Not by recursion: groups may be nested as deep as the file is long.
        """
        waiting = [] if self.quorum is None else [self.quorum]
        while waiting:
            name = waiting.pop()
            group = self.groups.get(name)
            if group is not None and (name == self.quorum or open_up(name)):
                waiting.extend(reversed(group.members))
            else:
                yield name


# --- reading ---------------------------------------------------------------------------------
def parse_policy(text: str | bytes) -> Policy:
    """Return the policy in *text*, a whole file.

    Raises:
        PolicyError: it breaks the grammar or a bound; names the line.
    """
    if len(text) > limits.MAX_POLICY:
        raise PolicyError(f"the policy is longer than {limits.MAX_POLICY} bytes")
    lines = _decode(text).split("\n")
    if lines.pop():
        raise PolicyError(f"line {len(lines) + 1} of the policy does not end in a newline")
    if len(lines) > limits.MAX_POLICY_LINES:
        raise PolicyError(
            f"line {limits.MAX_POLICY_LINES + 1} of the policy is one too many: it may have"
            f" {limits.MAX_POLICY_LINES}"
        )
    reader = _Reader()
    for number, line in enumerate(lines, 1):
        reader.read(line, where=f"line {number} of the policy")
    return reader.finish()


def _decode(text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        number = text.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"line {number} of the policy is not UTF-8") from None


class _Reader:
    """Reads one line after the other; ``where`` is how an error names it."""

    def __init__(self) -> None:
        self._where = ""
        self._logs: list[LogLine] = []
        self._witnesses: dict[str, WitnessLine] = {}
        self._groups: dict[str, Group] = {}
        self._quorum: str | None = None
        self._grouped: set[str] = set()
        self._ids: set[tuple[str, bytes]] = set()

    def read(self, line: str, *, where: str) -> None:
        self._where = where
        if len(line.encode(errors="replace")) > limits.MAX_POLICY_LINE:
            raise self._error(f"is longer than {limits.MAX_POLICY_LINE} bytes")
        if _FORBIDDEN.search(line):
            raise self._error("has a control character; only tab and newline are allowed")
        words = [word for word in re.split("[ \t]+", line) if word]
        if not words or words[0].startswith("#"):
            return
        if "#" in line:
            raise self._error("has a # in it; a comment needs a line of its own")
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                self._log(vkey, "".join(url))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self._witness(name, vkey, "".join(url))
            case ["group", name, threshold, *members] if members:
                self._group(name, threshold, members)
            case ["quorum", name]:
                self._set_quorum(name)
            case ["log" | "witness" | "group" | "quorum", *_]:
                raise self._error(f"has too few or too many words for a {words[0]} line")
            case _:
                raise self._error(f"begins with {words[0][:_LABEL]!r}, which is no keyword")

    def finish(self) -> Policy:
        if self._quorum is None:
            raise PolicyError(
                "the policy has no quorum line",
                fix="end it with one that names who has to cosign, such as: quorum witnesses",
            )
        quorum = None if self._quorum == NONE else self._quorum
        return Policy(tuple(self._logs), self._witnesses, self._groups, quorum)

    def _error(self, what: str) -> PolicyError:
        return PolicyError(f"{self._where} {what}")

    def _log(self, vkey: str, url: str) -> None:
        key = self._key(vkey, _LOG_TYPES, "log")
        self._check_key(key, self._logs)
        self._logs.append(LogLine(key, url))

    def _witness(self, name: str, vkey: str, url: str) -> None:
        self._check_new(name)
        key = self._key(vkey, _WITNESS_TYPES, "witness")
        self._check_key(key, self._witnesses.values())
        self._witnesses[name] = WitnessLine(name, key, url)

    def _group(self, name: str, threshold: str, members: Sequence[str]) -> None:
        self._check_new(name)
        for member in members:
            if member not in self._witnesses and member not in self._groups:
                raise self._error(f"names {member}, which no line above defines")
            if member in self._grouped:
                raise self._error(f"names {member}, which is in a group already")
            self._grouped.add(member)
        self._groups[name] = Group(name, self._k(threshold, len(members)), tuple(members))

    def _k(self, threshold: str, members: int) -> int:
        if threshold in {"all", "any"}:
            return members if threshold == "all" else 1
        if not _THRESHOLD.fullmatch(threshold) or int(threshold) > members:
            raise self._error(f"needs all, any or a number from 1 to {members} behind its name")
        return int(threshold)

    def _set_quorum(self, name: str) -> None:
        if self._quorum is not None:
            raise self._error("is a second quorum line")
        if name != NONE and name not in self._witnesses and name not in self._groups:
            raise self._error(f"names {name}, which no line above defines")
        self._quorum = name

    def _check_new(self, name: str) -> None:
        if name == NONE:
            raise self._error("defines the name none, which is reserved")
        if len(name) > limits.MAX_NAME:
            raise self._error(f"has a name of more than {limits.MAX_NAME} characters")
        if name in self._witnesses or name in self._groups:
            raise self._error(f"defines {name} again")

    def _key(self, vkey: str, types: frozenset[int], kind: str) -> VerifierKey:
        try:
            key = parse_vkey(vkey)
            if key.type in types:
                check = check_mldsa44 if key.type == COSIGNATURE_MLDSA44 else check_ed25519
                check(key.public_key, "the verifier key")
        except PeerError as error:
            raise self._error(f"has a bad verifier key: {error.message}") from None
        if key.type not in types:
            raise self._error(f"has a verifier key of type {key.type:#04x}, which is no {kind} key")
        if len(key.name.encode()) > limits.MAX_NOTE_NAME:
            raise self._error(f"has a key name of more than {limits.MAX_NOTE_NAME} bytes")
        return key

    def _check_key(self, key: VerifierKey, others: Iterable[LogLine | WitnessLine]) -> None:
        for other in others:
            if key.public_key == other.key.public_key:
                raise self._error(f"repeats the key of {other.key.name}")
        # Key ids have four bytes, so whoever picks a key can make it collide, and each signature of
        # the other key would then fail under this one and refuse the note that holds it.
        if (key.name, key.key_id) in self._ids:
            raise self._error(f"has the key name and key id of another line, {key.name}")
        self._ids.add((key.name, key.key_id))


# --- writing ---------------------------------------------------------------------------------
def format_policy(policy: Policy) -> str:
    """Return *policy* as a file in its plainest form, which reads back as the same policy."""
    return "".join(f"{line}\n" for line in _lines(policy))


def _lines(policy: Policy) -> Iterator[str]:
    for log in policy.logs:
        yield " ".join(("log", _vkey(log.key), *_url(log.url)))
    for witness in policy.witnesses.values():
        yield " ".join(("witness", witness.name, _vkey(witness.key), *_url(witness.url)))
    for group in policy.groups.values():
        yield " ".join(("group", group.name, _threshold(group), *group.members))
    yield f"quorum {NONE if policy.quorum is None else policy.quorum}"


def _vkey(key: VerifierKey) -> str:
    return format_vkey(key.name, key.type, key.public_key)


def _url(url: str) -> tuple[str, ...]:
    return (url,) if url else ()


def _threshold(group: Group) -> str:
    if group.k == len(group.members):
        return "all"
    return "any" if group.k == 1 else str(group.k)


def make_policy(log: NamedKeys, witnesses: Sequence[tuple[str, NamedKeys]], k: int) -> Policy:
    """Return the policy that accepts *log* when *k* of *witnesses*, each with a label, cosigned.

    A witness counts when both of its keys signed; one from outside may have no ML-DSA-44 key. Only
    the log's Ed25519 key is listed: some readers demand a signature under each log line, and not
    all of them know ML-DSA-44. Labels become names: what a name cannot hold is replaced, and a
    number keeps them apart.

    Raises:
        PolicyError: *k* is out of range, two witnesses share a key, or a key cannot be used.
    """
    if not 0 <= k <= len(witnesses):
        raise PolicyError(
            f"the quorum is {k} of {len(witnesses)} witnesses",
            fix="choose a smaller one, or name more witnesses",
        )
    reader = _Reader()
    where = f"the log {log.name}"
    reader.read(f"log {_new_vkey(log.name, ED25519, log.ed25519, where=where)}", where=where)
    names: list[str] = []
    taken: set[str] = set()
    for label, keys in witnesses:
        name = _free(label, taken)
        names.append(name)
        for line in _witness_lines(name, keys, where=f"the witness {label}"):
            reader.read(line, where=f"the witness {label}")
    quorum = NONE
    if k:
        quorum = _free("witnesses", taken)
        reader.read(f"group {quorum} {k} {' '.join(names)}", where="the group of all witnesses")
    reader.read(f"quorum {quorum}", where="the quorum")
    return reader.finish()


def _new_vkey(name: str, type_byte: int, public_key: bytes, *, where: str) -> str:
    try:
        return format_vkey(name, type_byte, public_key)
    except PeerError as error:
        raise PolicyError(f"{where} has a bad key name: {error.message}") from None


def _witness_lines(name: str, keys: NamedKeys, *, where: str) -> tuple[str, ...]:
    ed25519 = _new_vkey(keys.name, COSIGNATURE_ED25519, keys.ed25519, where=where)
    if not keys.mldsa44:
        return (f"witness {name} {ed25519}",)
    mldsa44 = _new_vkey(keys.name, COSIGNATURE_MLDSA44, keys.mldsa44, where=where)
    return (
        f"witness {name}.ed {ed25519}",
        f"witness {name}.mldsa {mldsa44}",
        f"group {name} all {name}.ed {name}.mldsa",
    )


def _free(label: str, taken: set[str]) -> str:
    """Return *label* as a name that is not *taken*, nor are those of its two keys; take them."""
    plain = "".join(c if c in _PLAIN or (c > "\x7f" and c.isalnum()) else "-" for c in label)
    base = plain[:_LABEL] or "witness"
    for number in count(1):
        name = base if number == 1 else f"{base}-{number}"
        wanted = {name, f"{name}.ed", f"{name}.mldsa"}
        if name != NONE and taken.isdisjoint(wanted):
            taken |= wanted
            return name
    raise AssertionError("the numbers never end")
