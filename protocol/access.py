"""What a log says of whoever read, exported or disclosed an incident: the act behind its digest.

    act     = [what, [envelope id, ...], who, at, note]
    subject = H("access-act", act)

- The entry commits to the act twice: by its subject and by its local part, which is the act. Both
  are blinded, so the log shows outsiders that something was looked at, but not what or by whom.
- No text of an incident stands in an act: it names envelopes, and what an operator typed of whom a
  copy went to and why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.errors import DecodeError
from protocol.shape import array, octets, text, uint

READ: Final = "read"
RAW: Final = "raw"
PROOF: Final = "proof"
ATTACHMENT: Final = "attachment"
DISCLOSE: Final = "disclose"
EXPORT_LOG: Final = "export-log"
EXPORT_EVIDENCE: Final = "export-evidence"
_WHAT: Final = re.compile(r"[a-z][a-z-]{0,31}")


@dataclass(frozen=True, slots=True)
class AccessAct:
    """Somebody saw or took something of the envelopes *ids*, at *at* (UTC in ms)."""

    what: str
    ids: tuple[bytes, ...]
    who: str
    at: int
    note: str = ""

    @property
    def local(self) -> tuple[object, ...]:
        """What the log entry keeps beside itself."""
        return (self.what, self.ids, self.who, self.at, self.note)

    @property
    def subject(self) -> bytes:
        """The subject of its log entry."""
        return suite.digest("access-act", encode(self.local))


def parse_access(data: bytes) -> AccessAct:
    """Return the act that *data*, the local part of an access entry, holds.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it, or a part of it, is beyond its bound.
    """
    fields = array(decode(data, max_bytes=limits.MAX_ACCESS_ACT), "access", size=5)
    what = text(fields[0], "access.what")
    if not _WHAT.fullmatch(what):
        raise DecodeError("access.what is no short word")
    ids = array(fields[1], "access.ids", maximum=limits.MAX_ACCESS_IDS)
    return AccessAct(
        what,
        tuple(octets(each, "access.id", size=32) for each in ids),
        text(fields[2], "access.who"),
        uint(fields[3], "access.at"),
        _note(fields[4]),
    )


def _note(value: Value) -> str:
    return "" if value == "" else text(value, "access.note", maximum=limits.MAX_ACCESS_NOTE)
