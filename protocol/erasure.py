"""Erasure: what a log says of an envelope whose content was deleted for good.

    act = [incident_id, ref, revision, layers, reason, by, who, at]

- The subject of the entry is the envelope id, so an inclusion proof of it is a receipt: whoever
  gave it says under its own log key that it holds the content no more.
- The act is the local part of the entry. It goes to nobody with the receipt; a court may have it
  opened. It names the incident, so that what was erased is known as such after everything else of
  it is gone, and holds nothing of what the incident said.
- What is left of an erased envelope is its stub (``protocol.custody``). If it opened an epoch that
  other envelopes still need, the epoch key is left too, sealed to this node alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocol import limits, suite
from protocol.canonical import decode, encode
from protocol.envelope import Audience, Epoch, Header
from protocol.errors import DecodeError, OpenError
from protocol.shape import array, octets, text, uint

ABOUT_INCIDENT: Final = "record"
"""In the place of layers: what was erased is no revision, but was written about the incident."""
_LAYERS: Final = ("face", "annex", "face annex", ABOUT_INCIDENT)


class Reason(StrEnum):
    """Why something is erased."""

    LEGAL_ORDER = "legal_order"
    PERSONAL_DATA = "personal_data_erasure"
    RETENTION = "retention"
    ENTERED_IN_ERROR = "entered_in_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureAct:
    """One envelope of an incident was erased, at *at* (UTC in ms)."""

    incident_id: str
    ref: str
    revision: int
    layers: str
    reason: Reason
    by: str
    who: str
    at: int

    @property
    def local(self) -> tuple[object, ...]:
        """What the log entry keeps beside itself."""
        return (
            self.incident_id, self.ref, self.revision, self.layers, self.reason.value, self.by,
            self.who, self.at,
        )  # fmt: skip


def parse_erasure(data: bytes) -> ErasureAct:
    """Return the act that *data*, the local part of an erasure entry, holds.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it, or a part of it, is beyond its bound.
    """
    fields = array(decode(data, max_bytes=limits.MAX_ERASURE_ACT), "erasure", size=8)
    layers, reason = text(fields[3], "erasure.layers"), text(fields[4], "erasure.reason")
    if layers not in _LAYERS:
        raise DecodeError("erasure.layers are none")
    if reason not in list(Reason):
        raise DecodeError("erasure.reason is not known")
    return ErasureAct(
        incident_id=text(fields[0], "erasure.incident_id"),
        ref=text(fields[1], "erasure.ref"),
        revision=uint(fields[2], "erasure.revision", minimum=1),
        layers=layers,
        reason=Reason(reason),
        by=text(fields[5], "erasure.by"),
        who=text(fields[6], "erasure.who"),
        at=uint(fields[7], "erasure.at"),
    )


# --- the key of an epoch whose opener is erased ----------------------------------------------
def keep_epoch(epoch: Epoch, *, ekid: bytes, seal_key: bytes) -> bytes:
    """Return the key of *epoch*, sealed to our own *seal_key*, which *ekid* names.

    Raises:
        WeakKeyError: the key cannot be sealed to.
    """
    return encode([ekid, suite.seal_to(seal_key, epoch.key, _info(epoch.opener, ekid))])


def kept_epoch(
    data: bytes, opener: bytes, header: Header, audience: Audience, unsealer: suite.Unsealer
) -> Epoch:
    """Return the epoch that ``keep_epoch`` kept of the erased envelope *opener*.

    Raises:
        DecodeError: *data* is damaged.
        OpenError: it does not open.
    """
    fields = array(decode(data, max_bytes=2 * limits.SLOT_SIZE), "kept", size=2)
    ekid = octets(fields[0], "kept.ekid", size=32)
    sealed = octets(fields[1], "kept.slot", size=limits.SLOT_SIZE)
    key = unsealer.unseal(ekid, sealed, _info(opener, ekid))
    if len(key) != suite.KEY_SIZE:
        raise OpenError("the kept slot does not hold a key")
    return Epoch(opener, header.stream, header.epoch, audience, key)


def _info(opener: bytes, ekid: bytes) -> bytes:
    return suite.label("kept-epoch") + opener + ekid
