"""What a person or a program may ask of a node, as functions from JSON-able values to others.

The local endpoint and the command line both call these; names, ids and times are formatted here and
nowhere else. Everything is synchronous and runs on the thread that owns the databases.
"""

from __future__ import annotations

import base64
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from keys.fingerprint import format_node_id, safety_number, verify_safety_number
from keys.identity import Random
from keys.keystore import read_passphrase_file
from keys.trust import METHODS, Level, Peer, Verification, is_lower
from node import __version__, delivery
from node.access import OPERATOR
from node.approval_desk import ApprovalDesk
from node.audit import Reader
from node.board import Board
from node.clock import Clock, rfc3339
from node.config import Config
from node.confirming import Confirming
from node.core import Core, Shipment
from node.enclosures import Copies, Enclosures, Fetching
from node.evidence import Evidence
from node.feed import Feed
from node.figures import FigureDesk
from node.follow_up import FollowUp
from node.handling import Handling
from node.keydesk import KeyDesk
from node.knocking import ask_to_confirm
from node.list_updates import ListUpdates
from node.lists import ListDesk
from node.logview import LogView
from node.metrics import (
    CUSTODY_BYTES,
    CUSTODY_GIVEN,
    CUSTODY_KEPT_OUT,
    GAPS_OPEN,
    KEY_EXPIRES,
    LINKS_OPEN,
    LOG_SIZE,
    OUTBOX_DEPTH,
    PEER_CLOCK_SKEW,
    RECEIPTS_OVERDUE,
    Metrics,
)
from node.obligations import ObligationDesk
from node.outgoing import Outgoing
from node.overdue import Overdue
from node.pairing import PairingDesk
from node.peer_clocks import PeerClocks
from node.peer_test import LinkState
from node.peer_test_desk import PeerTests
from node.record_views import RecordViews
from node.recording import Recording
from node.retention import Retention
from node.search_desk import SearchDesk
from node.tiles import CHECKPOINT, LogFiles, Resource
from node.verifying import Verifier, shown
from node.words import counted, minute, quoted
from protocol import envelope, limits, suite
from protocol.access import EXPORT_LOG, PROOF, RAW, READ
from protocol.approval import Kind
from protocol.armor import armor, dearmor
from protocol.canonical import encode
from protocol.cardlink import make_card_link
from protocol.custody import Bound
from protocol.delivery_statement import armor_statement
from protocol.entry import EntryKind
from protocol.errors import (
    BusyError,
    ConflictError,
    DecodeError,
    InvalidIncidentError,
    NotFoundError,
    PeerError,
    PicketError,
    RequestError,
    TrustConflictError,
    UnknownRecipientError,
    UntrustedKeyError,
)
from protocol.statement import Card, make_bundle, verify_bundle

DAY_MS: Final = 86_400_000
_LAYERS: Final = ("face", "annex")
_EVERYBODY: Final = "all"
_EXPIRY_NOTICE_DAYS: Final = 30
SCOPES: Final = (
    "node:read", "incidents:read", "incidents:write", "incidents:release", "log:read",
    "log:audit", "witness:add", "evidence:export", "peers:read", "peers:admin", "attachments:read",
    "attachments:write",
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Network:
    """What the engine knows of links; a node that is not running has none."""

    running: bool = False
    linked: Callable[[], frozenset[bytes]] = frozenset
    trouble: Mapping[bytes, str] | None = None
    metrics: Metrics = field(default_factory=Metrics)
    over_quota: Callable[[], Mapping[bytes, int]] = dict
    barred: Callable[[], Mapping[bytes, int]] = dict
    stalled: Mapping[bytes, int] = field(default_factory=dict)
    pulling: Callable[[], int] = int
    in_flight: Callable[[bytes], frozenset[bytes]] = lambda peer: frozenset()
    fetching: Fetching = field(default_factory=Fetching)
    read_log: Reader | None = None
    stop_reading: Callable[[bytes], None] = lambda peer: None
    asked: Mapping[bytes, int] = field(default_factory=dict)
    clocks: PeerClocks = field(default_factory=PeerClocks)
    link_state: Callable[[bytes], LinkState | None] = lambda peer: None


@dataclass(frozen=True, slots=True)
class Audience:
    """Who is to receive what, as chosen for one release."""

    face: tuple[Peer, ...]
    annex: tuple[Peer, ...]
    carriers: tuple[Peer, ...]
    separately: bool

    @property
    def digest(self) -> str:
        """A digest of the choice, which a release repeats to show that it was looked at."""
        parts = [[p.node_id for p in group] for group in (self.face, self.annex, self.carriers)]
        return suite.digest("release-preview", encode([*parts, self.separately])).hex()


class Service:
    """All operations of a node, over a Core."""

    def __init__(
        self,
        core: Core,
        *,
        config: Config,
        clock: Clock,
        random: Random,
        network: Network | None = None,
    ) -> None:
        """Serve *core*; *network* says what is linked when the node runs."""
        self.core, self.config = core, config
        self._clock, self._random = clock, random
        self.network = network or Network()
        self.enclosures = Enclosures(
            core, clock=clock, fetching=self.network.fetching, name=self._name
        )
        self.outgoing = Outgoing(core, clock=clock)
        self.handling = Handling(
            core, clock=clock, fetching=self.network.fetching, name=self._name, find=self._find,
            outgoing=self.outgoing,
        )  # fmt: skip
        self.obligations = ObligationDesk(
            core, clock=clock, outgoing=self.outgoing, find=self._find,
            peer=self._peer_named,
        )  # fmt: skip
        self.retention = Retention(
            core, clock=clock, erases=config.incidents.retention == "erase", name=self._name,
            drop=self.network.fetching.drop,
        )  # fmt: skip
        self.feed = Feed(core, name=self._name)
        self.lists = ListDesk(core, clock=clock)
        self.list_updates = ListUpdates(core, clock=clock, lists=self.lists, find=core.trust.find)
        self.records = Recording(
            core, clock=clock, random=random, enclosures=self.enclosures, name=self._name,
            find=self._find, choose=self._choose, known=self.lists.known,
        )  # fmt: skip
        self.views = RecordViews(
            core, clock=clock, name=self._name, records=self.records,
            note_reading=self.handling.note_reading,
        )  # fmt: skip
        self.follow_up = FollowUp(
            core, clock=clock, name=self._name, note_reading=self.handling.note_reading
        )
        self.board = Board(core, clock=clock, name=self._name, follow_up=self.follow_up)
        self.figures = FigureDesk(core, name=self._name)
        core.drop_fetch = self.network.fetching.drop
        self.logs = LogView(
            core, clock=clock, name=self._name, read=self.network.read_log,
            stop_reading=self.network.stop_reading, linked=self.network.linked,
        )  # fmt: skip
        self.overdue = Overdue(
            core, clock=clock, name=self._name,
            linked=lambda: self.network.linked() if self.network.running else None,
        )  # fmt: skip
        self.keys = KeyDesk(
            core,
            config=config,
            clock=clock,
            random=random,
            name=self._name,
            running=self.network.running,
        )
        self.pairing = PairingDesk(
            core, clock=clock, name=self._name, peer_row=self._peer_row, asked=self.network.asked,
            linked=self.network.linked,
        )  # fmt: skip
        self.peer_tests = PeerTests(core, config=config, clock=clock, network=self.network)
        self.approvals = ApprovalDesk(core.approvals, clock=clock)
        self.evidence = Evidence(
            core, clock=clock, network=config.node.network, envelopes_of=self._envelope_ids,
            outgoing=self.outgoing,
        )  # fmt: skip
        self.verifier = Verifier(core)
        self.search = SearchDesk(core, row=self._incident_row, find=self._find)
        self.confirming = Confirming(
            core, name=self._name, records=self.records, search=self.search
        )

    # --- the node ----------------------------------------------------------------------------
    def node(self) -> Row:
        """Return who this node is and where its log stands."""
        card = self.core.card
        return {
            "authority": card.authority,
            "country": card.country,
            "network": self.config.node.network,
            "node_id": format_node_id(self.core.node_id),
            "version": __version__,
            "locked": self.core.vault is None,
            "lock": self.core.locking.row(),
            "log": self._log_head(),
            "endpoints": list(card.endpoints),
            "limits": {
                "request_bytes": limits.MAX_REQUEST,
                "page": limits.MAX_PAGE,
                "recipients": limits.MAX_RECIPIENTS,
                "import_lines": limits.MAX_IMPORT_LINES,
            },
        }

    def _log_head(self) -> Row:
        size = self.core.log.signed_size
        root = base64.b64encode(self.core.log.root(size)).decode()
        return {"origin": self.core.log.origin, "size": size, "root": root}

    def status(self) -> Row:
        """Return what an officer on duty wants to see first."""
        cases = self.core.opened()[1] if self.core.vault is not None else None
        return {
            **self.node(),
            "running": self.network.running,
            "peers": [self._peer_state(peer) for peer in self._peers()],
            "incidents": cases.counts() if cases else None,
            "outbox": self.core.outbox.size(),
            "witnesses": self.logs.standing(),
            "backup": self.core.backups.row(),
            "notices": self._notices(),
            "keys": [
                {"purpose": "card", "expires": rfc3339(self.core.card.expires)},
                *(
                    {"purpose": "sealing", "expires": rfc3339(key.not_after)}
                    for key in self.core.card.seal
                ),
            ],
        }

    def _notices(self) -> list[Row]:
        """Return what needs a person: plain words, and what to do."""
        found = [
            *self._own_notices(),
            *self.logs.notices(),
            *self.keys.notices(),
            *self.approvals.notices(),
            *self.retention.notices(),
            *self.records.notices(),
            *self.follow_up.notices(),
            *self.views.notices(),
            *self.list_updates.notices(),
            *self.pairing.notices(),
            *self.network.clocks.notices(self._name),
            *self._peer_notices(),
        ]
        return [{"code": code, "message": message, "fix": fix} for code, message, fix in found]

    def _own_notices(self) -> Iterator[tuple[str, str, str]]:
        if self.network.running and (lock := self.core.locking.notice()) is not None:
            yield "locked", *lock
        if self.core.restored.waits:
            yield "restored-waits", *self.core.restored.words()
        elif self.core.restored.mark is not None:
            yield "restored-unchecked", *self.core.restored.unchecked_words()
        old = self.core.backups.notice(self.core.trust.own.statements[0].issued)
        if old is not None:
            yield "backup-old", *old
        if self.core.behind is not None:
            message = f"received incidents cannot be shown yet: {self.core.behind.message}"
            yield "behind", message, self.core.behind.fix
        if self.core.home.recovery_sheet.exists():
            message = "the recovery sheet is still on this machine"
            fix = "print it, lock the paper away, then delete recovery-sheet.txt"
            yield "recovery-sheet", message, fix
        ends = min(self.core.card.expires, *(key.not_after for key in self.core.card.seal))
        if ends - self._clock.now() < _EXPIRY_NOTICE_DAYS * DAY_MS:
            message = f"this node's card or sealing key ends {rfc3339(ends)}"
            yield "key-expiring", message, "peers cannot seal to it after that"
        quarantined = self.core.cases.counts()["quarantined"] if self.core.cases else 0
        quarantined -= sum(told.envelopes for told in self.core.resealing.unopened())
        if quarantined > 0:
            message = f"{counted(quarantined, 'received envelope')} could not be shown"
            fix = "ask their authors to send them again; they stand in the log"
            yield "quarantined", message, fix

    def _peer_notices(self) -> Iterator[tuple[str, str, str]]:
        for row in self.core.store.rows("SELECT DISTINCT author FROM streams WHERE forked = 1"):
            name = self._name(row["author"])
            message = f"{name} signed two different envelopes in one place of a stream"
            yield "equivocation", message, f"both are kept; its keys may be stolen: call {name}"
        for node_id, count in sorted(self.network.over_quota().items()):
            name = self._name(node_id)
            put_off = counted(count, "envelope was put off", "envelopes were put off")
            message = f"{name} sent more than its quota: {put_off}"
            yield "over-quota", message, f"it sends them again later; if it goes on, call {name}"
        yield from self._resealing_notices()
        yield from self._custody_notices()
        for node_id, left in sorted(self.network.barred().items()):
            name = self._name(node_id)
            message = f"{name} is kept out for {-(-left // 1000)} s: it sent what does not verify"
            yield "kept-out", message, f"call {name}: its node is broken, or somebody poses as it"
        for node_id, times in sorted(self.network.stalled.items()):
            name = self._name(node_id)
            often = counted(times, "time")
            message = f"{name} said {often} that it holds envelopes and did not send them"
            yield "stalled", message, "they are asked of others; call it if they stay missing"
        for node_id, times in sorted(self.network.fetching.faults.items()):
            name = self._name(node_id)
            message = f"{name} sent parts of {counted(times, 'attachment')} that do not verify"
            yield "bad-attachment", message, "they are fetched from others; its disk may be failing"
        yield from self._approval_notices()
        for node_id, late in sorted(self.overdue.by_peer().items()):
            name = self._name(node_id)
            message = (
                f"{name} owes {counted(late.count, 'receipt')}; "
                f"the oldest is missing since {minute(late.oldest)}"
            )
            yield "receipts-missing", message, f"see: picket delivery missing {quoted(name)}"
        if self.network.running:
            yield from self._link_notices()

    def _approval_notices(self) -> Iterator[tuple[str, str, str]]:
        rows = self.core.store.rows(
            "SELECT peer, count(*) AS waiting FROM outbox WHERE state = 'queued' AND code = ? "
            "AND route <> 'forward' GROUP BY peer", UntrustedKeyError.code,
        )  # fmt: skip
        for row in rows:
            if not self.core.trust.gives_to(row["peer"]) or self.core.statements.revoked:
                continue
            name = self._name(row["peer"])
            waiting = counted(row["waiting"], "delivery waits", "deliveries wait")
            last = self._last_contact(self.core.trust.peer(row["peer"]))
            if self.core.statements.recovered_since(last):
                message = f"{name} has not confirmed yet that this node recovered: {waiting}"
                yield "not-approved", message, ask_to_confirm(name)
                continue
            message = f"{name} has not approved this node yet: {waiting}"
            # By the id it is found whatever they call this node.
            own = format_node_id(self.core.node_id)[:7]
            fix = f"ask {name} to compare the safety number with you, and to run: "
            yield "not-approved", message, f"{fix}picket peers approve {own}"

    def _link_notices(self) -> Iterator[tuple[str, str, str]]:
        linked, trouble = self.network.linked(), self.network.trouble or {}
        for peer in self._peers():
            if peer.node_id in linked or self.pairing.waits_for(peer.node_id):
                continue
            contact = self._last_contact(peer)
            if peer.node_id in trouble:
                since = "has never been linked" if contact is None else (
                    f"is not linked, last seen {minute(contact)}"
                )  # fmt: skip
                cause, fix = _trouble(peer.name, trouble[peer.node_id])
                yield "peer-trouble", f"{peer.name} {since}: {cause}", fix
            elif contact is None and not peer.card.endpoints and peer.level is not Level.FROZEN:
                fix = "send it this node's card: picket keys card --out my.card"
                message = f"{peer.name} has never been linked: it does not know this node yet"
                if not self.core.card.endpoints:
                    message = f"{peer.name} cannot be linked: neither card has an address"
                    fix = "one of the two must set peer.listen and peer.endpoints in picket.toml"
                yield "peer-trouble", message, fix

    def _resealing_notices(self) -> Iterator[tuple[str, str, str]]:
        for told in self.core.resealing.unopened():
            name = self._name(told.peer)
            message = f"{counted(told.envelopes, 'envelope')} of {name} could not be opened here"
            fix = f"they are shown once it has answered; if it does not, call {name}"
            if told.at is None:
                message += f"; {name} will be asked to seal them again"
            else:
                message += f"; {name} was asked to seal them again, last at {minute(told.at)}"
            if told.wrong:
                message += f"; {counted(told.wrong, 'answer')} did not open either"
                fix = f"call {name}: its node is broken, or it leaves this one out on purpose"
            if told.too_old:
                message += f"; {told.too_old} of them are too old for that"
                fix = f"ask {name} to release what is in them once more"
            yield "unopened", message, fix
        for told in self.core.resealing.asked_of_us():
            name = self._name(told.peer)
            message = f"{name} could not open {counted(told.envelopes, 'envelope')} of this node"
            fix = f"if {name} did not lose or change its keys, call it: somebody may pose as it"
            if told.at is not None:
                message += f"; their key was sealed to it again, last at {minute(told.at)}"
            if told.wrong:
                message += "; some of them could not be sealed again"
                fix = f"check the card of {name}, or release what is in them once more"
            if told.owed:
                message += "; some of them wait to be sealed again"
                fix = f"unlock this node, and see that it is linked with {name}"
            yield "sealed-again", message, fix

    def _custody_notices(self) -> Iterator[tuple[str, str, str]]:
        custody = self.core.outbox.custody
        for note in custody.kept_out():
            name = self._name(note.room.node_id)
            put_off = counted(note.count, "envelope was put off", "envelopes were put off")
            fix = f"they wait at their authors; if it goes on, call {name}"
            if note.room.bound is Bound.GIVER:
                message = f"{name} gave more to carry than one peer may: {put_off}"
            else:
                message = f"no more is carried for {name} until it fetches what waits: {put_off}"
                most = custody.most_from(note.room.node_id)
                if most is not None and most != note.room.node_id:
                    message += f"; most of that is of {self._name(most)}"
                    fix += f", and {self._name(most)}"
            yield "custody-full", message, fix

    def metrics_text(self) -> bytes:
        """Return all counts and states in the text format of Prometheus."""
        counts, custody = self.network.metrics, self.core.outbox.custody
        counts.put(LOG_SIZE, value=self.core.log.size)
        counts.put(LINKS_OPEN, value=len(self.network.linked()))
        counts.put(GAPS_OPEN, value=self.core.streams.gaps() + self.network.pulling())
        given = custody.given()
        counts.put(CUSTODY_BYTES, value=sum(given.values()))
        counts.replace(CUSTODY_GIVEN, {self._name(giver): size for giver, size in given.items()})
        kept_out: Counter[str] = Counter()
        for note in custody.kept_out():
            kept_out[self._name(note.room.node_id)] += note.count
        counts.replace(CUSTODY_KEPT_OUT, kept_out)
        waiting = {peer.name: self.core.outbox.size(peer.node_id) for peer in self._peers()}
        counts.replace(OUTBOX_DEPTH, waiting)
        late = self.overdue.by_peer()
        counts.replace(
            RECEIPTS_OVERDUE,
            {p.name: late[p.node_id].count if p.node_id in late else 0 for p in self._peers()},
        )
        counts.replace(KEY_EXPIRES, self.keys.ends())
        counts.replace(PEER_CLOCK_SKEW, self.network.clocks.seconds(self._name))
        return counts.render()

    def ready(self) -> Row:
        """Return the checks behind /readyz.

        Raises:
            StoreError: the database or the log's head cannot be read.
        """
        self.core.log.checkpoint()
        keystore = "locked" if self.core.vault is None else "unlocked"
        checks = {"node_db": "ok", "log": "ok", "keystore": keystore}
        return {"status": "ready", "checks": checks}

    def card(self) -> Row:
        """Return this node's card, as text to hand to other authorities."""
        bundle = make_bundle(self.core.trust.own)
        shown = format_node_id(self.core.node_id)
        link = make_card_link(shown, bundle, endpoints=self.core.card.endpoints)
        return {"card": armor(bundle), "node_id": shown, "qr": link}

    def unlock(
        self, *, passphrase: bytes | None, passphrase_file: str | None, pin: str | None = None
    ) -> Row:
        """Open the keystore, catch up with what arrived meanwhile, and renew the card if need be.

        Raises:
            WrongPassphraseError: it does not open.
            KeystoreError: the file is missing, unreadable or damaged.
        """
        if self.core.vault is None:
            if passphrase is None:
                if passphrase_file is None:
                    raise RequestError("no passphrase", fix="give passphrase or passphrase_file")
                passphrase = read_passphrase_file(Path(passphrase_file))
            # The composition root makes services, so it can only be met here.
            from node.app import unlock  # noqa: PLC0415

            unlock(self.core, self.config, lambda: passphrase, lambda: pin)
            self.core.locking.unlocked()
        return {"locked": False}

    # --- peers -------------------------------------------------------------------------------
    def _peers(self) -> list[Peer]:
        return sorted(self.core.trust.peers.values(), key=lambda peer: peer.name.casefold())

    def _peer_named(self, name: str) -> Peer:
        # Looked up each time: every change of trust makes a new store.
        return self.core.trust.find(name)

    def _name(self, node_id: bytes) -> str:
        if node_id == self.core.node_id:
            return self.core.card.authority
        peer = self.core.trust.peers.get(node_id)
        return peer.name if peer else format_node_id(node_id)[:7]

    def _peer_state(self, peer: Peer) -> Row:
        contact = self._last_contact(peer)
        return {
            "name": peer.name,
            "level": peer.level.value,
            "linked": peer.node_id in self.network.linked(),
            "last_contact": None if contact is None else rfc3339(contact),
            "outbox": self.core.outbox.size(peer.node_id),
        }

    def _last_contact(self, peer: Peer) -> int | None:
        contact: int | None = self.core.store.scalar(
            "SELECT last_contact FROM peers WHERE node_id = ?", peer.node_id
        )
        return contact

    def _peer_row(self, peer: Peer) -> Row:
        check = peer.verification
        verified = None
        if check is not None:
            verified = {"method": check.method, "by": check.by, "at": rfc3339(check.at)}
        return {
            **self._peer_state(peer),
            "authority": peer.card.authority,
            "country": peer.card.country,
            "node_id": format_node_id(peer.node_id),
            "verified": verified,
            "endpoints": list(peer.card.endpoints),
            "card_expires": rfc3339(peer.card.expires),
            "safety_number": safety_number(
                self.core.node_id, peer.node_id, network=self.core.trust.own.network
            ),
        }

    def peers(self) -> Row:
        """Return all peers."""
        return {"items": [self._peer_row(peer) for peer in self._peers()]}

    def knows_peer(self, name: str) -> bool:
        """Whether *name* finds exactly one peer."""
        try:
            self.core.trust.find(name)
        except NotFoundError:
            return False
        return True

    def peer(self, name: str) -> Row:
        """Return one peer, by name or node id.

        Raises:
            NotFoundError: none, or more than one, matches.
        """
        return self._peer_row(self.core.trust.find(name))

    def add_peer(self, card: str, name: str | None) -> tuple[Row, bool]:
        """Pin the node whose armoured *card* this is; False if it was known.

        Raises:
            PeerError: the card is damaged, weak, expired or of another network.
            TrustConflictError: it is our own, or the name is taken.
        """
        try:
            chain = verify_bundle(dearmor(card), network=self.core.trust.own.network)
        except PeerError as error:
            error.fix = error.fix or "the card was changed on its way: ask for it again, as a file"
            raise
        newest = chain.card
        if newest is not None:
            self.pairing.check_current(newest)
        known = chain.node_id in self.core.trust.peers
        if chain.node_id == self.core.node_id:
            raise TrustConflictError(
                "this is this node's own card", fix="exchange cards: add the card of the other node"
            )
        chosen = self.pairing.check_name(
            name or (newest.authority if newest else ""), but=chain.node_id
        )
        return self._peer_row(self.core.add_peer(chain, chosen)), not known

    def approve_peer(
        self, name: str, *, level: str, safety_digits: str | None, method: str | None, by: str,
        who: str = OPERATOR,
    ) -> Row:  # fmt: skip
        """Give a peer a trust level: after its safety number was compared, or a lower one at once.

        Args:
            name: of the peer, or its node id.
            level: observe, relay or share.
            safety_digits: as the other side read them; to lower a level none are needed.
            method: how they were compared.
            by: who compared them, or who lowers the level.
            who: on which way it was asked for, see ``node.access``.

        Raises:
            ApprovalNeededError: other operators have to approve the level share.
            TrustConflictError: the digits differ, or the level or method is none.
            RequestError: the digits, or something else that is needed, are missing.
        """
        peer = self.core.trust.find(name)
        if level not in {"observe", "relay", "share"}:
            raise TrustConflictError(
                f"{level!r} is not a level to approve", fix="choose observe, relay or share"
            )
        self.core.trust.check_approvable(peer, Level(level))
        if not by.strip() or len(by) > limits.MAX_NAME:
            raise RequestError("by is empty or too long", fix="say who compared the number")
        if safety_digits is None and is_lower(Level(level), than=peer.level):
            return self._peer_row(self.core.lower_peer(peer.node_id, Level(level), by=by.strip()))
        if safety_digits is None or method is None:
            missing = "safety_number" if safety_digits is None else "method"
            raise RequestError(
                f"{missing} is missing", fix="compare the safety number; lowering alone needs none"
            )
        if method not in METHODS:
            raise TrustConflictError(
                f"{method!r} is no way of comparing", fix=f"choose one of {', '.join(METHODS)}"
            )
        try:
            verify_safety_number(
                safety_digits, self.core.node_id, peer.node_id, network=self.core.trust.own.network
            )
        except DecodeError as error:  # typed here, by no peer
            raise RequestError(error.message, fix=error.fix) from None
        verification = Verification(method, by.strip(), self._clock.now())
        wanted = Level(level)
        if wanted is not Level.SHARE or peer.level is wanted:
            return self._peer_row(self.core.approve_peer(peer.node_id, wanted, verification))
        self.core.trust.approve(peer.node_id, wanted, verification)  # may it have it at all?
        permit = self.core.approvals.require(
            Kind.RAISE_TRUST, (peer.node_id, method, verification.by), who=who, about=peer.name
        )
        after = self.core.approve_peer(peer.node_id, wanted, verification, also=permit.use)
        return self._peer_row(after)

    # --- drafts ------------------------------------------------------------------------------
    def create_draft(self, data: Mapping[str, Any], *, external_ref: str | None = None) -> Row:
        """Check an incident and keep it as a draft.

        Raises:
            InvalidIncidentError: it breaks the model; lists every problem.
            BusyError: the disk is full.
        """
        from protocol import incident as model  # noqa: PLC0415

        _, cases = self.core.opened()
        external_ref = _checked_external(external_ref)
        parsed = model.parse_incident(data)
        if external_ref is not None and (old := cases.by_external_ref(external_ref)):
            return {**self.incident(old), "duplicate": True}
        if cases.counts()["drafts"] >= limits.MAX_DRAFTS:
            raise ConflictError("there are too many drafts", fix="release or remove some")
        now = self._clock.now()
        incident_id = str(uuid.UUID(bytes=self._random(16), version=4))
        ref = model.make_ref(parsed.face.origin_country, int(rfc3339(now)[:4]), self._random(8))
        cases.add_draft(
            incident_id=incident_id, ref=ref, data=data, external_ref=external_ref, now=now
        )
        return {"id": incident_id, "ref": ref, "state": "draft", **self._advice(parsed)}

    def _advice(self, parsed: Any) -> Row:  # noqa: ANN401  pydantic stays out of start-up
        from protocol.classification import personal_data  # noqa: PLC0415
        from protocol.completeness import completeness, countries_pointed_to  # noqa: PLC0415
        from protocol.doubts import warnings  # noqa: PLC0415

        countries = countries_pointed_to(parsed)
        complete = completeness(parsed)
        return {
            "warnings": [
                {"pointer": w.pointer, "code": w.code, "message": w.message}
                for w in warnings(parsed, self.lists.known())
            ],
            "score": complete.score,
            "missing_anchors": list(complete.missing),
            "actionable": complete.actionable,
            "personal_data": personal_data(parsed),
            "concerned_countries": list(countries),
            "concerned_because": {code: list(why) for code, why in countries.items()},
            "suggested_recipients": [
                peer.name
                for peer in self._peers()
                if peer.card.country in countries and peer.level is Level.SHARE
            ],
        }

    def import_drafts(self, items: Sequence[Any], *, dry_run: bool) -> Row:
        """Check many incidents and keep the good ones as drafts; a bad one stops no other."""
        from protocol import incident as model  # noqa: PLC0415

        _, cases = self.core.opened()
        if len(items) > limits.MAX_IMPORT_LINES:
            raise RequestError(
                f"{len(items)} lines; at most {limits.MAX_IMPORT_LINES} at once",
                fix="split the file",
            )
        accepted, duplicate = 0, 0
        foretold: set[str] = set()
        errors: list[Row] = []
        ids: list[str] = []
        for line, item in enumerate(items, start=1):
            try:
                data, external = _split_external(item)
                if dry_run:
                    model.parse_incident(data)
                    known = external is not None and (
                        external in foretold or cases.by_external_ref(external) is not None
                    )
                    foretold |= set() if external is None else {external}
                    duplicate += known
                    accepted += not known
                    continue
                row = self.create_draft(data, external_ref=external)
            except InvalidIncidentError as error:
                errors += [
                    {"line": line, "pointer": pointer, "code": code, "message": message}
                    for pointer, code, message in error.problems
                ]
                continue
            except RequestError as error:
                errors.append(
                    {"line": line, "pointer": "", "code": error.code, "message": str(error)}
                )
                continue
            duplicate += "duplicate" in row
            accepted += "duplicate" not in row
            ids.append(row["id"])
        rejected = len({error["line"] for error in errors})
        return {
            "accepted": accepted, "duplicate": duplicate, "rejected": rejected,
            "errors": errors, "ids": ids, "dry_run": dry_run,
        }  # fmt: skip

    def attach(
        self, key: str, *, sha256: str, media_type: str, kind: str, caption: str | None
    ) -> Row:
        """Add a file that is here to a draft.

        Raises:
            NotFoundError: there is no such draft or file.
            InvalidIncidentError: the annex with it breaks the model.
        """
        from protocol import incident as model  # noqa: PLC0415

        _, cases = self.core.opened()
        draft, _ = self._draft(key)
        digest = self.enclosures.find(sha256)
        known = self.enclosures.rows(digest)["items"][0]
        item = {"sha256": digest.hex(), "media_type": media_type, "size": known["size"],
                "kind": kind, **({} if caption is None else {"caption": caption})}  # fmt: skip
        annex = draft["data"].get("annex") or {}
        attachments = [*annex.get("attachments", ()), item]
        data = {**draft["data"], "annex": {**annex, "attachments": attachments}}
        model.parse_incident(data)
        cases.change_draft(draft["incident_id"], data)
        return self.incident(draft["incident_id"])

    # --- incidents ---------------------------------------------------------------------------
    def incidents(self, *, after: int, limit: int, state: str | None) -> Row:
        """Return a page of incidents in log order, or the drafts.

        Args:
            after: the ``next`` of the page before, 0 at first.
            limit: at most MAX_PAGE.
            state: draft, released, received, or None for released and received.
        """
        _, cases = self.core.opened()
        if not 1 <= limit <= limits.MAX_PAGE:
            raise RequestError(f"limit is outside 1 to {limits.MAX_PAGE}", fix="ask for less")
        if state == "draft":
            drafts = cases.drafts(after=after, limit=limit + 1)
            following = (
                drafts[limit - 1]["number"] + 1
                if len(drafts) >= limit
                else (drafts[-1]["number"] + 1 if drafts else after)
            )
            items = [self._draft_row(row) for row in drafts[:limit]]
            return {"items": items, "next": following, "more": len(drafts) > limit}
        if state not in {None, "released", "received"}:
            raise RequestError(
                f"state {state!r} is not known", fix="use draft, released or received"
            )
        own = None if state is None else state == "released"
        rows = cases.incidents(after=after, limit=limit + 1, own=own)
        items = [self._incident_row(row) for row in rows[:limit]]
        following = rows[limit - 1]["log_index"] + 1 if len(rows) >= limit else cases.next_index
        return {"items": items, "next": following, "more": len(rows) > limit}

    def _draft_row(self, draft: Mapping[str, Any]) -> Row:
        from protocol.completeness import anchors  # noqa: PLC0415
        from protocol.incident import parse_incident  # noqa: PLC0415

        parsed = parse_incident(draft["data"])
        face = parsed.face.model_dump(mode="json", exclude_none=True)
        layers = ["face"] if parsed.annex is None else list(_LAYERS)
        return {
            "id": draft["incident_id"], "ref": draft["ref"], "state": "draft", "erased": None,
            "log_index": None, "author": self.core.card.authority, "revision": 1,
            "recorded_at": rfc3339(draft["created"]), "layers": layers,
            "retracted": None, "contested": False,
            **self._face_fields(face), "anchors": list(anchors(parsed)),
        }  # fmt: skip

    def _incident_row(self, row: Mapping[str, Any]) -> Row:
        state = "released" if row["own"] else "received"
        erased = None
        if row["erased_at"] is not None:
            # A later revision may have come since: then there is something to show again.
            state = state if row["layers"] else "erased"
            erased = {"reason": row["erased_for"], "at": rfc3339(row["erased_at"])}
        return {
            "id": row["incident_id"], "ref": row["ref"],
            "state": state, "erased": erased, "log_index": row["log_index"],
            "author": self._name(row["author"]), "revision": row["revision"],
            "recorded_at": rfc3339(row["at"]), "layers": row["layers"].split(),
            "retracted": row["retracted"], "contested": bool(row["contested"]),
            **self._face_fields(row["face"] or {}),
        }  # fmt: skip

    def _face_fields(self, face: Mapping[str, Any]) -> Row:
        from protocol import incident as model  # noqa: PLC0415

        handling = face.get("handling", {})
        return {
            "incident_type": face.get("incident_type"),
            "summary_line": model.summary_line(face),
            "summary": face.get("summary"),
            "tlp": handling.get("tlp"),
            "origin_country": face.get("origin_country"),
            "detected_at": face.get("detected_at"),
            "exercise": face.get("exercise", False),
            "anchors": list(face.get("anchors", ())),
        }

    def show(self, key: str, *, who: str) -> Row:
        """Return what ``incident`` does, once it is logged that *who* read it.

        Raises:
            NotFoundError: there is none of that id or reference.
            BusyError: the disk is full, and nothing is shown that is not logged.
        """
        self.handling.note_reading(READ, key, who)
        row = self.incident(key)
        return {**row, "handling_text": self.outgoing.lines(row["face"], who=who)}

    def permit(self, key: str, *, basis: str, by: str, note: str, who: str) -> Row:
        """Note in the log that another authority's incident may be handed on.

        Raises:
            As ``Outgoing.permit``; NotFoundError: there is none of that id or reference.
        """
        return self.outgoing.permit(self._find(key), basis=basis, by=by, note=note, who=who)

    def incident(self, key: str) -> Row:
        """Return one incident or draft with everything known of it, for the node itself.

        Raises:
            NotFoundError: there is none of that id or reference.
        """
        from protocol import incident as model  # noqa: PLC0415

        _, cases = self.core.opened()
        draft = cases.draft(key)
        if draft is not None:
            parsed = model.parse_incident(draft["data"])
            layers = parsed.model_dump(mode="json", exclude_defaults=True)
            return {
                **self._draft_row(draft), "face": layers["face"], "annex": layers.get("annex"),
                **self._advice(parsed), "also_claimed": [], "envelopes": [], "deliveries": [],
                "made": None,
            }  # fmt: skip
        row = self._find(key)
        return {
            **self._incident_row(row),
            "face": row["face"],
            "annex": row["annex"],
            "also_claimed": [f"{i}@{self._name(author)}" for i, author in row["others"]],
            "envelopes": [self._envelope_row(e) for e in self._records(row)],
            "deliveries": self._deliveries(row),
            "made": self._made(row),
        }

    def _made(self, row: Mapping[str, Any]) -> Row | None:
        """Return between which times the newest envelope of an incident was made."""
        records = self._records(row)
        header = self.core.header(records[-1]["envelope_id"]) if records else None
        if header is None:
            return None
        held = self.core.store.envelope(header[0])
        return None if held is None else self.logs.bracket(held["log_index"], header[1].anchor)

    def _find(self, key: str) -> dict[str, Any]:
        """Return an incident by id or reference, or by one of these, ``@`` and its author."""
        _, cases = self.core.opened()
        plain, _, name = key.partition("@")
        if not name:
            return cases.incident(plain)
        own = name.casefold() == self.core.card.authority.casefold()
        author = self.core.node_id if own else self.core.trust.find(name).node_id
        return cases.incident(plain, author=author)

    def _records(self, row: Mapping[str, Any]) -> list[Row]:
        _, cases = self.core.opened()
        return cases.envelopes_of(row["incident_id"], row["author"])

    def _envelope_row(self, record: Mapping[str, Any]) -> Row:
        held = self.core.store.envelope(record["envelope_id"])
        if held is None:
            raise NotFoundError("the envelope is not held any more")
        return {
            "envelope_id": held["id"].hex(), "layers": record["layers"].split(),
            "seq": held["seq"], "log_index": held["log_index"],
            "expires": rfc3339(held["expires"]),
            "bytes": None if held["wire"] is None else len(held["wire"]),
        }  # fmt: skip

    def deliveries(self, key: str) -> Row:
        """Return what each recipient and carrier has of an incident; of a draft nobody."""
        _, cases = self.core.opened()
        if cases.draft(key) is not None:
            return {"items": []}
        return {"items": self._deliveries(self._find(key))}

    def _deliveries(self, row: Mapping[str, Any]) -> list[Row]:
        return [
            self._delivery(waiting, record)
            for record in self._records(row)
            for waiting in self.core.store.rows(
                "SELECT o.*, r.log_index AS receipt_index, x.at AS erased_at FROM outbox o "
                "LEFT JOIN receipts r ON r.envelope_id = o.envelope_id AND r.recipient = o.peer "
                "AND r.kind = CASE o.route WHEN 'carrier' THEN ? ELSE ? END "
                "LEFT JOIN receipts x ON x.envelope_id = o.envelope_id AND x.recipient = o.peer "
                "AND x.kind = ? WHERE o.envelope_id = ? ORDER BY o.route DESC, o.peer",
                int(EntryKind.CARRIED),
                int(EntryKind.RECEIVED),
                int(EntryKind.ERASED),
                record["envelope_id"],
            )
        ]

    def _delivery(self, waiting: Mapping[str, Any], record: Mapping[str, Any]) -> Row:
        state = waiting["state"]
        if state == "queued":
            flying = self.network.in_flight(waiting["peer"])
            sent = waiting["first_at"] is not None or waiting["envelope_id"] in flying
            state = "refused" if waiting["code"] else "sent" if sent else "queued"
        at = waiting["settled_at"] or waiting["first_at"]
        return {
            "peer": self._name(waiting["peer"]), "layers": record["layers"].split(),
            "part": "carrier" if waiting["route"] == "carrier" else "recipient",
            "state": state, "at": None if at is None else rfc3339(at),
            "erased_at": None if waiting["erased_at"] is None else rfc3339(waiting["erased_at"]),
            "log_index": waiting["receipt_index"], "code": waiting["code"],
        }  # fmt: skip

    def delivery_statement(self, envelope_id: str) -> Row:
        """Return the signed delivery statement of an envelope of this node, as text to hand on.

        A locked node makes it too.

        Raises:
            NotFoundError: no such envelope is held.
            ConflictError: it is another node's, or what was linked then is not known any more.
        """
        wanted = delivery.parse_envelope_id(envelope_id)
        if wanted is None:
            raise RequestError("an envelope id has 64 hexadecimal digits", fix="correct it")
        now = self._clock.now()
        data = delivery.make(self.core, self.core.presence, wanted, now=now)
        return {"envelope_id": wanted.hex(), "statement": armor_statement(data)}

    def missing_receipts(self, name: str | None, *, limit: int) -> Row:
        """Return the deliveries whose receipt is missing past its deadline, by peer.

        Raises:
            NotFoundError: no peer, or more than one, has that name.
            RequestError: *limit* is out of bounds.
        """
        peer = None if name is None else self.core.trust.find(name)
        return self.overdue.listed(peer, limit=limit)

    def raw(self, key: str, number: int, *, who: str = OPERATOR) -> bytes:
        """Return the exact signed bytes of envelope *number* (from 0) of an incident.

        Raises:
            NotFoundError: there is no such envelope, or it was erased.
            BusyError: the disk is full, and nothing is shown that is not logged.
        """
        envelope_id = self._envelope_id(key, number)
        held = self.core.held(envelope_id)
        if held is None:
            raise NotFoundError("the envelope was erased", fix="its proof can still be had")
        self.core.access.record_reading(RAW, [envelope_id], who)
        return held.wire

    def proof(self, key: str, number: int = 0, *, who: str = OPERATOR) -> Row:
        """Return the inclusion proof of an incident's envelope under the newest checkpoint.

        Raises:
            NotFoundError: there is no such envelope.
            BusyError: the disk is full, and nothing is shown that is not logged.
        """
        wire_id = self._envelope_id(key, number)
        row = self.core.store.envelope(wire_id)
        if row is None:
            raise NotFoundError("the envelope is not held")
        self.core.access.record_reading(PROOF, [wire_id], who)
        self.core.seal()
        receipts = self.core.log.receipts([(wire_id, row["log_index"])])
        item = receipts.items[0]
        return {
            "envelope_id": wire_id.hex(),
            "index": item.index,
            "entry": item.entry.hex(),
            "proof": [base64.b64encode(node).decode() for node in item.proof],
            "checkpoint": receipts.checkpoint.decode(),
        }

    def _envelope_ids(self, key: str) -> list[bytes]:
        return [record["envelope_id"] for record in self._records(self._find(key))]

    def _envelope_id(self, key: str, number: int) -> bytes:
        records = self._records(self._find(key))
        if not 0 <= number < len(records):
            has = counted(len(records), "envelope")
            raise NotFoundError(f"the incident has {has}", fix="count from 0")
        envelope_id: bytes = records[number]["envelope_id"]
        return envelope_id

    # --- release -----------------------------------------------------------------------------
    def _audience(
        self, *, to: Sequence[str], annex_to: Sequence[str] | None, carriers: Sequence[str],
        separately: bool, has_annex: bool,
    ) -> Audience:  # fmt: skip
        face = self._choose(to)
        annex = face if annex_to is None else self._choose(annex_to)
        if not has_annex:
            annex = ()
        named = {p.node_id for p in face}
        if stray := [p.name for p in annex if p.node_id not in named]:
            raise UnknownRecipientError(
                f"{stray[0]} would receive the annex but not the face",
                fix="name it among the recipients of the face too",
            )
        chosen = self._choose(carriers) if carriers else ()
        if double := [p.name for p in chosen if p.node_id in named]:
            raise UnknownRecipientError(
                f"{double[0]} is both recipient and carrier",
                fix="a recipient needs no carrier part",
            )
        if separately and chosen:
            raise RequestError(
                "separate release and carriers do not go together",
                fix="a carrier would see that there are several recipients",
            )
        self.core.trust.recipients([p.node_id for p in face], now=self._clock.now())
        self.core.trust.carriers(p.node_id for p in chosen)
        return Audience(face, annex, chosen, separately)

    def _choose(self, names: Sequence[str]) -> tuple[Peer, ...]:
        if list(names) == [_EVERYBODY]:
            chosen = [peer for peer in self._peers() if peer.level is Level.SHARE]
        else:
            chosen = []
            for name in names:
                try:
                    chosen.append(self.core.trust.find(name))
                except NotFoundError as error:
                    raise UnknownRecipientError(error.message, fix=error.fix) from None
        unique = {peer.node_id: peer for peer in chosen}
        if not unique:
            raise UnknownRecipientError(
                "nobody would receive it", fix="name at least one peer at level share"
            )
        return tuple(sorted(unique.values(), key=lambda peer: peer.name.casefold()))

    def preview(
        self, key: str, *, to: Sequence[str], annex_to: Sequence[str] | None,
        carriers: Sequence[str], separately: bool = False,
    ) -> Row:  # fmt: skip
        """Return exactly who would and would not receive a draft, and the digest of that."""
        parsed = self._draft(key)[1]
        chosen = self._audience(
            to=to, annex_to=annex_to, carriers=carriers, separately=separately,
            has_annex=parsed.annex is not None,
        )  # fmt: skip
        involved = {p.node_id for p in (*chosen.face, *chosen.carriers)}
        return {
            "will_receive_face": [p.name for p in chosen.face],
            "will_receive_annex": [p.name for p in chosen.annex],
            "carriers": [p.name for p in chosen.carriers],
            "will_not_receive": [p.name for p in self._peers() if p.node_id not in involved],
            "separately": separately,
            "attachments_without_content": self.enclosures.without_content(parsed),
            "digest": chosen.digest,
        }

    def _draft(self, key: str) -> tuple[Row, Any]:
        from protocol import incident as model  # noqa: PLC0415

        _, cases = self.core.opened()
        draft = cases.draft(key)
        if draft is None:
            self._find(key)
            raise ConflictError(
                "this incident was released already", fix="see: picket incidents show " + key
            )
        return draft, model.parse_incident(draft["data"])

    def release(
        self, key: str, *, to: Sequence[str], annex_to: Sequence[str] | None,
        carriers: Sequence[str], separately: bool, digest: str | None,
    ) -> Row:  # fmt: skip
        """Sign, log and queue a draft for exactly the chosen audience.

        Raises:
            ConflictError: it was released before, or the preview's digest differs.
            UnknownRecipientError: somebody chosen may not receive; nothing was released.
            BusyError: the outbox or disk is full; nothing was released.
        """
        copies = self.plan_copies(
            key, to=to, annex_to=annex_to, carriers=carriers, separately=separately
        )
        if copies is not None:
            copies.make()
        try:
            started = self.start_release(
                key, to=to, annex_to=annex_to, carriers=carriers, separately=separately,
                digest=digest, copies=copies,
            )  # fmt: skip
        except PicketError:
            if copies is not None:
                copies.discard()
            raise
        return self.finish_release(started)

    def plan_copies(
        self, key: str, *, to: Sequence[str], annex_to: Sequence[str] | None,
        carriers: Sequence[str], separately: bool,
    ) -> Copies | None:  # fmt: skip
        """Return what a release has to encrypt first: each audience gets its own attachments."""
        parsed = self._draft(key)[1]
        chosen = self._audience(
            to=to, annex_to=annex_to, carriers=carriers, separately=separately,
            has_annex=parsed.annex is not None,
        )  # fmt: skip
        audiences = [_ids(peers) for peers, layers in _groups(chosen) if "annex" in layers]
        return self.enclosures.copies(parsed, audiences)

    def start_release(
        self, key: str, *, to: Sequence[str], annex_to: Sequence[str] | None,
        carriers: Sequence[str], separately: bool, digest: str | None,
        copies: Copies | None = None,
    ) -> str:  # fmt: skip
        """Do the part of ``release`` that many releases can share a transaction for.

        Returns:
            The incident id, for ``finish_release`` once the transaction is durable.
        """
        draft, parsed = self._draft(key)
        chosen = self._audience(
            to=to, annex_to=annex_to, carriers=carriers, separately=separately,
            has_annex=parsed.annex is not None,
        )  # fmt: skip
        if digest is not None and digest != chosen.digest:
            raise ConflictError(
                "the audience is not the one of the preview", fix="look at the preview again"
            )
        token = suite.digest("release", draft["incident_id"].encode(), b"1")
        self.core.release(token, self._shipments(draft, parsed, chosen, copies))
        incident_id: str = draft["incident_id"]
        return incident_id

    def finish_release(self, incident_id: str) -> Row:
        """Return the released incident.

        Raises:
            BusyError, LockedError: it is released, but cannot be shown yet.
        """
        self.core.locking.check_released(incident_id)
        self.core.try_follow()
        if self.core.behind is not None:
            raise BusyError(
                f"{incident_id} is released and will be delivered, but case.db cannot be written",
                fix="free some disk space; do not release it again",
            )
        return self.incident(incident_id)

    def _shipments(
        self, draft: Row, parsed: Any, chosen: Audience, copies: Copies | None  # noqa: ANN401
    ) -> list[Shipment]:  # fmt: skip
        return [
            self._shipment(draft, parsed, peers, layers, chosen=chosen, copies=copies)
            for peers, layers in _groups(chosen)
        ]

    def _shipment(
        self, draft: Row, parsed: Any, peers: Sequence[Peer], layers: Sequence[str],  # noqa: ANN401
        *, chosen: Audience, copies: Copies | None,
    ) -> Shipment:  # fmt: skip
        from protocol import incident as model  # noqa: PLC0415

        named = copies is not None and "annex" in layers
        refs = copies.of(_ids(peers)) if copies is not None and named else {}
        self.enclosures.check_unshared(refs)
        record = model.to_record(
            model.enclose(parsed, refs),
            incident_id=draft["incident_id"],
            ref=draft["ref"],
            revision=1,
            prev=None,
            layers=frozenset(layers),
            first_shared_at=rfc3339(self._clock.now()),
        )
        cards: dict[bytes, Card] = self.core.trust.recipients(
            [peer.node_id for peer in peers], now=self._clock.now()
        )
        carriers = tuple(peer.node_id for peer in chosen.carriers)
        try:
            body = encode(record)
            envelope.pad(body)
        except PeerError as error:
            raise InvalidIncidentError(
                f"the incident cannot be sealed: {error.message}",
                fix=error.fix or "remove the named characters",
                problems=[("", error.code, error.message)],
            ) from None
        blobs = tuple(ref.id for ref in refs.values())
        return Shipment(body, " ".join(layers), cards, carriers, blobs)

    # --- log ---------------------------------------------------------------------------------
    def log_head(self) -> Row:
        """Return the newest signed checkpoint."""
        self.core.seal()
        return {**self._log_head(), "checkpoint": self.core.log.checkpoint()[1].decode()}

    def log_file(self, path: str, *, entries: bool = False) -> Resource:
        """Return a file of the log (C2SP tlog-tiles); with *entries* also bundles of entries.

        Raises:
            NotFoundError: there is none at *path*.
        """
        if path == CHECKPOINT:
            self.core.seal()
        return LogFiles(self.core.log).resolve(path, entries=entries)

    def log_export_begin(self, *, entries: bool, by: str) -> Row:
        """Log that *by* exports the log, and return the checkpoint that the export is to end at.

        Raises:
            ApprovalNeededError: other operators have to approve it.
            BusyError: the disk is full; nothing may be exported that is not logged.
        """
        what = "log-with-entries" if entries else "log"
        permit = self.core.approvals.require(Kind.EXPORT_LOG, (int(entries),), who=by)
        with self.core.logged():
            permit.use()
            self.core.access.record(EXPORT_LOG, (), by, what)
        return self.log_head()

    def log_verify(self, *, since: bool = False, steps: bool = False) -> Row:
        """Verify the log and all that is stored; with *since* only what is new since the last time.

        With *steps* it is begun, or the one that goes on is joined; ``log_verification`` goes on.

        Raises:
            LogCorruptionError: something does not verify; names what.
        """
        if not steps:
            self.verifier.at_once(since=since)
            return self._verified(None)
        return self._verified(self.verifier.begin(since=since))

    def log_verification(self) -> Row:
        """Go on with the verification for a moment; return how far it is, or what came of it.

        Raises:
            LogCorruptionError: something does not verify; names what.
            NotFoundError: none was begun.
        """
        return self._verified(self.verifier.go_on())

    def _verified(self, going: Row | None) -> Row:
        if going is not None:
            return {"running": True, **going}
        assert self.verifier.last is not None  # noqa: S101  it has just ended
        return {"running": False, "ok": True, **self._log_head(), **shown(*self.verifier.last)}

    # --- tokens ------------------------------------------------------------------------------
    def create_token(self, *, name: str, scopes: Sequence[str], days: int) -> Row:
        """Make a token for the local endpoint; its secret is shown this once.

        Raises:
            RequestError: a scope is unknown, or the name or life is out of bounds.
        """
        _, cases = self.core.opened()
        if unknown := sorted(set(scopes) - set(SCOPES)):
            raise RequestError(f"no scope {unknown[0]!r}", fix=f"choose of {', '.join(SCOPES)}")
        if not scopes or not name.strip() or not 1 <= days <= 400:  # noqa: PLR2004
            raise RequestError(
                "a token needs a name, at least one scope and 1 to 400 days", fix="see --help"
            )
        token_id, secret = self._random(6).hex(), self._random(32)
        now = self._clock.now()
        expires = now + days * DAY_MS
        cases.add_token(
            token_id=token_id, name=name.strip()[: limits.MAX_NAME], secret=secret,
            scopes=sorted(set(scopes)), now=now, expires=expires,
        )  # fmt: skip
        return {
            "id": token_id, "token": f"pkt_{token_id}_{secret.hex()}",
            "scopes": sorted(set(scopes)), "expires": rfc3339(expires),
        }  # fmt: skip

    def tokens(self) -> Row:
        """Return all tokens, without secrets."""
        _, cases = self.core.opened()
        items = []
        for row in cases.tokens():
            times = {
                name: None if row[name] is None else rfc3339(row[name])
                for name in ("created", "expires", "last_used")
            }
            items.append({**row, **times, "scopes": row["scopes"].split()})
        return {"items": items}

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token.

        Raises:
            NotFoundError: there is none of that id.
        """
        self.core.opened()[1].remove_token(token_id)

    def token_scopes(self, token: str) -> frozenset[str] | None:
        """Return the scopes of a bearer token that is valid now; else None.

        Raises:
            LockedError: the node is locked, so tokens cannot be checked.
        """
        _, cases = self.core.opened()
        parts = token.split("_")
        if len(parts) != 3 or parts[0] != "pkt":  # noqa: PLR2004
            return None
        try:
            secret = bytes.fromhex(parts[2])
        except ValueError:
            return None
        return cases.token(parts[1], secret, self._clock.now())


def _groups(chosen: Audience) -> list[tuple[tuple[Peer, ...], tuple[str, ...]]]:
    """Split a release into envelopes: by layer if the annex goes to fewer, or one a peer."""
    groups: list[tuple[tuple[Peer, ...], tuple[str, ...]]]
    if chosen.annex == chosen.face:
        groups = [(chosen.face, _LAYERS)]
    else:
        groups = [(chosen.face, ("face",))]
        if chosen.annex:
            groups.append((chosen.annex, ("annex",)))
    if chosen.separately:
        groups = [((peer,), layers) for peers, layers in groups for peer in peers]
    return groups


def _trouble(name: str, text: str) -> tuple[str, str]:
    """Return cause and fix of what went wrong with the peer *name*, from a line that tells both."""
    said = text.removeprefix(f"{name} ")
    if said != text and (code := said.removeprefix("ended: ")) != said:
        if code == UntrustedKeyError.code:
            return "it does not accept this node any more", f"call {name}"
        return f"it ended the link ({code})", f"if it goes on, call {name}"
    cause, _, fix = text.partition(". ")
    return cause, fix or f"this node goes on trying; if it lasts, call {name}"


def _ids(peers: Sequence[Peer]) -> tuple[bytes, ...]:
    return tuple(peer.node_id for peer in peers)


def _split_external(item: Any) -> tuple[Mapping[str, Any], str | None]:  # noqa: ANN401  any JSON
    if not isinstance(item, dict):
        raise RequestError("the line is not a JSON object", fix="one incident a line")
    external = _checked_external(item.get("external_ref"))
    return {key: value for key, value in item.items() if key != "external_ref"}, external


def _checked_external(external: object) -> str | None:
    """Return an external reference that can be told apart from every other.

    Raises:
        RequestError: it is no text of 1 to 256 printable characters.
    """
    if external is None:
        return None
    fine = isinstance(external, str) and 0 < len(external) <= limits.MAX_NAME
    if not isinstance(external, str) or not fine or not external.isprintable():
        raise RequestError(
            "external_ref is not a text of 1 to 256 printable characters", fix="correct it"
        )
    return external
