"""The oracle: sees every disk and every message, and says which promise was broken, when.

After each step of a node it looks at what changed on its disk; of each message it looks at what is
in it and at who gets it. Promises are those of honest nodes. A node that was put back to an older
state (``restored``) may have lost what it acknowledged, and its log may contradict the lost one.
"""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgpack

from protocol import envelope, limits, suite
from protocol.entry import EntryKind
from protocol.errors import PeerError, StoreError
from protocol.frames import _READERS, RUN_SECRETS
from tests.sim.logs import LogOracle, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from node.line import Line
    from tests.sim.network import End
    from tests.sim.node import SimNode
    from tests.sim.process import Process
    from tests.sim.world import World

_TAG: Final = 16
_NEEDLE: Final = 8
_HELLO: Final = b"\x97\x01\x91"
_NAMES: Final = {
    number: read.__name__.strip("_").replace("_", "-") for number, (_, read) in _READERS.items()
}


@dataclass(frozen=True, slots=True)
class Known:
    """An envelope that exists somewhere in the world."""

    id: bytes
    number: int
    author: int
    place: tuple[int, int, bytes, int]
    readers: frozenset[int]
    carriers: frozenset[int]
    size: int

    @property
    def name(self) -> str:
        """What a trace calls it."""
        return f"e{self.number}"


@dataclass
class Record:
    """What the oracle knows of one node's disk."""

    held: set[bytes] = field(default_factory=set)
    acknowledged: dict[bytes, int] = field(default_factory=dict)
    next_index: int = 0
    changes: int = -1
    accused: set[int] = field(default_factory=set)


class Oracle:
    """Watches one world."""

    def __init__(self, world: World) -> None:
        """Know nothing yet."""
        self._world = world
        self.records = [Record() for _ in world.nodes]
        self.logs = LogOracle(world)
        self.known: dict[bytes, Known] = {}
        self.violations: list[str] = []
        self.copies: Counter[tuple[bytes, int]] = Counter()
        self.direct: Counter[tuple[bytes, int]] = Counter()
        self.frames: Counter[str] = Counter()
        self.frame_bytes: Counter[str] = Counter()
        self.arrivals: dict[tuple[bytes, int], int] = {}
        self.queue_high = 0
        self._needles: list[dict[bytes, str]] = [{} for _ in world.nodes]
        self._twins: dict[tuple[int, int, bytes, int], list[bytes]] = {}
        self._short: dict[bytes, bytes] = {}
        self._by_wire: dict[bytes, bytes] = {}
        self._index = {node.id: node.index for node in world.nodes}
        self.scan = True

    def index_of(self, node_id: bytes) -> int | None:
        """Return the index of the node of that id; None if there is none."""
        return self._index.get(node_id)

    def twin(self, node: SimNode) -> None:
        """Take up a second process of a node: what may not be told to it, neither may to this."""
        self.records.append(Record())
        self._needles.append(self._needles[node.person])
        self.look(node)

    def violated(self, node: SimNode | None, what: str) -> None:
        """Note a broken promise."""
        text = f"{node.name if node else 'world'}: {what}"
        self.violations.append(text)
        self._world.trace("ORACLE", text)

    # --- the lives of nodes ------------------------------------------------------------------
    def started(self, node: SimNode) -> None:
        """Look at a node that just started."""
        self.look(node)
        self._check_kept(node)
        self.logs.check_records(node)

    def ended(self, node: SimNode, process: Process | None = None) -> None:
        """Look at what a process left behind."""
        self.look(node)
        self.logs.ended(node, process)

    def restored(self, node: SimNode) -> None:
        """Forget what was promised before the disk was put back."""
        node.restored = True
        self.logs.restored(node)
        self.records[node.index] = Record()
        self.look(node)

    def written(self, node: SimNode, wire: bytes) -> None:
        """Take note of an envelope that a dishonest node keeps beside its disk."""
        self._register(node, wire)

    def stopped(self, node: SimNode, error: StoreError) -> None:
        """Judge a node that stopped itself."""
        if node.honest and not self._world.expects_stop(node):
            self.violated(node, f"stopped itself: {error.code}: {error.message}")

    def bug(self, node: SimNode, what: str, error: Exception) -> None:
        """Note an exception that no part of a node should let out, a dishonest one neither."""
        places = [
            f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)[-3:]
        ]
        self.violated(node, f"bug in {what}: {error!r} at {' > '.join(places)}")

    # --- disks -------------------------------------------------------------------------------
    def look(self, node: SimNode) -> None:
        """Look at what changed on the disk of a node."""
        disk, record = node.disk, self.records[node.index]
        if disk.connection.in_transaction:
            return
        if disk.connection.total_changes == record.changes:
            return
        record.changes = disk.connection.total_changes
        rows = disk.rows(
            "SELECT e.idx, e.kind, e.local, v.id, v.part, v.wire FROM entries e LEFT JOIN "
            "envelopes v ON v.log_index = e.idx WHERE e.idx >= ? ORDER BY e.idx",
            record.next_index,
        )
        for index, kind, local, envelope_id, part, wire in rows:
            record.next_index = index + 1
            if envelope_id is not None:
                self._appeared(node, record, envelope_id, part, wire)
            elif kind in {EntryKind.RECEIVED, EntryKind.RELEASED, EntryKind.CARRIED}:
                self.violated(node, f"log entry {index} has no envelope")
            if kind == EntryKind.EQUIVOCATION:
                self._accused(node, local)

    def _appeared(
        self, node: SimNode, record: Record, envelope_id: bytes, part: str, wire: bytes
    ) -> None:
        known = self.known.get(envelope_id)
        if known is None:
            if part != "author":
                self.violated(node, f"holds an envelope {envelope_id.hex()[:8]} that nobody wrote")
                return
            known = self._register(node, wire)
        if envelope_id in record.held:
            self.violated(node, f"stored {known.name} twice")
        record.held.add(envelope_id)
        self.arrivals.setdefault((envelope_id, node.person), self._world.events.now)
        allowed = node.person in known.readers or node.person in known.carriers
        if not allowed and node.honest:
            self.violated(node, f"holds {known.name} outside its audience")
        self._world.trace(node.name, f"  holds {known.name} as {part}")

    def _register(self, node: SimNode, wire: bytes) -> Known:
        held = envelope.parse(wire)
        header = held.header
        audience = held.audience
        if audience is None:
            opener = self.known[header.opener or b""]
            readers, carriers = opener.readers, opener.carriers
        else:
            readers = frozenset(
                {node.person, *(self._index[each] for each in audience.recipient_ids)}
            )
            carriers = frozenset(self._index[each] for each in audience.carriers)
        place = (node.person, header.incarnation, header.stream, header.seq)
        known = Known(held.id, len(self.known), node.person, place, readers, carriers, len(wire))
        self.known[held.id] = known
        self._short[held.id[:_NEEDLE]] = held.id
        self.logs.share(readers | carriers)
        twins = self._twins.setdefault(place, [])
        if twins and node.trusted:
            self.violated(node, f"{known.name} has the place of {self.known[twins[0]].name}")
        twins.append(held.id)
        self._world.trace(
            node.name,
            f"  wrote {known.name} {header.incarnation}/{header.stream.hex()[:6]}/{header.seq} for "
            f"{self._names(readers)}" + (f" by {self._names(carriers)}" if carriers else ""),
        )
        for index in self._index.values():
            needles = self._needles[index]  # those of a twin are the same
            if index not in readers | carriers:
                needles[header.stream] = f"the stream of {known.name}"
                needles[held.id[:_NEEDLE]] = f"the id of {known.name}"
                middle = len(held.ciphertext) // 2
                needles[held.ciphertext[middle - _TAG : middle]] = f"bytes of {known.name}"
        return known

    def _names(self, indexes: Iterable[int]) -> str:
        return ",".join(self._world.nodes[index].name for index in sorted(indexes))

    def _accused(self, node: SimNode, local: bytes) -> None:
        # The evidence names two envelopes, or the author.
        authors = set()
        for value in _flat(msgpack.unpackb(local)):
            if isinstance(value, bytes) and value in self.known:
                authors.add(self.known[value].author)
            if isinstance(value, bytes) and value in self._index:
                authors.add(self._index[value])
        log = "log" in msgpack.unpackb(local)
        for author in authors:
            accused = self._world.nodes[author]
            if log:
                self.logs.blame(node, accused)
            else:
                self.records[node.index].accused.add(author)
            what = "fork of its log" if log else "fork"
            self._world.trace(node.name, f"  accuses {accused.name} of a {what}")
            if accused.trusted and node.honest:
                self.violated(node, f"accuses the honest {accused.name} of a {what}")

    def _check_kept(self, node: SimNode) -> None:
        record = self.records[node.index]
        lost = [self.known[key].name for key in record.acknowledged if key not in record.held]
        stored = {row[0] for row in node.disk.rows("SELECT id FROM envelopes")}
        lost += [self.known[key].name for key in record.acknowledged if key not in stored]
        if lost and node.trusted:
            self.violated(node, f"lost {', '.join(sorted(set(lost)))}, which it acknowledged")

    # --- messages ----------------------------------------------------------------------------
    def told(self, node: SimNode, batch: Sequence[tuple[End, bytes]]) -> str:
        """Return what arrives, for the trace."""
        return ", ".join(
            f"{_kind(message)} of {self._world.nodes[end.other.host.index].name}"
            for end, message in batch
        )

    def sent(self, node: SimNode, peer: SimNode, message: bytes, line: Line) -> None:
        """Judge a message on its way from *node* to *peer*."""
        kind = _kind(message)
        self.frames[kind] += 1
        self.frame_bytes[kind] += len(message)
        if self._world.tracing:
            detail = self._detail(kind, message)
            self._world.trace(node.name, f"  -> {peer.name}: {kind} ({len(message)}){detail}")
        waiting = line.waiting
        self.queue_high = max(self.queue_high, waiting)
        if waiting > limits.MAX_LINK_QUEUE:
            self.violated(node, f"keeps {waiting} bytes for {peer.name}")
        if kind == "deliver":
            self._count_copies(node, peer, message)
        self.logs.sent(node, peer, kind, message)
        if not node.honest:
            return
        if node.disk.connection.in_transaction:
            self.violated(node, f"sends {kind} in the middle of a transaction")
        if kind in {"receipts", "runs"}:
            self._promised(node, message)
        if kind == "cosign":
            self._published(node, msgpack.unpackb(message[_TAG:])[1].partition(b"\n\n")[2])
        if self.scan:
            self._scan(node, peer, message, kind)

    def _detail(self, kind: str, message: bytes) -> str:
        """Return what a trace tells of a frame besides its kind."""
        try:
            if kind == "bye":
                return f" {msgpack.unpackb(message[_TAG:])[1]}"
            if kind == "deliver":
                names = [self._name(self.id_of(w)) for w in msgpack.unpackb(message[_TAG:])[1]]
                return f" {' '.join(names)}"
            if kind == "refuse":
                items = msgpack.unpackb(message[_TAG:])[1]
                return f" {' '.join(f'{self._name(item[0])}:{item[1]}' for item in items)}"
            if kind in {"receipts", "runs"}:
                ids = _receipted(kind, msgpack.unpackb(message[_TAG:])[3])
                return f" {' '.join(map(self._name, ids))}"
            if kind in {"cosign", "cosigned", "heads", "head", "want-head", "consistency",
                        "want-consistency"}:  # fmt: skip
                return f" {describe(kind, msgpack.unpackb(message[_TAG:]))}"
        except (ValueError, IndexError, TypeError, PeerError):
            return " (garbage)"
        return ""

    def _name(self, envelope_id: bytes) -> str:
        known = self.known.get(self._short.get(envelope_id[:_NEEDLE], b""))
        return known.name if known else envelope_id.hex()[:_NEEDLE]

    def _scan(self, node: SimNode, peer: SimNode, message: bytes, kind: str) -> None:
        for needle, what in self._needles[peer.index].items():
            if needle in message:
                self.violated(node, f"tells {peer.name} {what} in a frame {kind}")

    def id_of(self, wire: bytes) -> bytes:
        """Return the envelope id of a wire form."""
        found = self._by_wire.get(wire)
        if found is None:
            found = self._by_wire[wire] = suite.digest("envelope", msgpack.unpackb(wire)[0])
        return found

    def _count_copies(self, node: SimNode, peer: SimNode, message: bytes) -> None:
        try:
            ids = [self.id_of(wire) for wire in msgpack.unpackb(message[_TAG:])[1]]
        except (ValueError, IndexError, TypeError):
            return  # garbage of a dishonest node
        for envelope_id in ids:
            known = self.known.get(envelope_id)
            if known is not None and peer.index in known.readers:
                self.copies[envelope_id, peer.index] += 1
                self.direct[envelope_id, peer.index] += node.index == known.author

    def _published(self, node: SimNode, note: bytes) -> None:
        """Judge a checkpoint of a node's own log that leaves it."""
        head = self.logs.published(node, note)
        fence = node.disk.fence
        if node.trusted and (fence is None or fence[0] < head.size):
            self.violated(node, f"published size {head.size} before its fence")

    def _promised(self, node: SimNode, message: bytes) -> None:
        # Read without the node's own decoders, which is also much faster.
        number, recipient, note, items = msgpack.unpackb(message[_TAG:])
        if recipient != node.id:
            return
        record = self.records[node.index]
        self._published(node, note)
        for short in _receipted(_NAMES[number], items):
            envelope_id = self._short.get(short[:_NEEDLE], b"")
            if envelope_id not in record.held:
                self.violated(node, "acknowledged what it does not hold")
            else:
                record.acknowledged.setdefault(envelope_id, self._world.events.now)

    # --- the end -----------------------------------------------------------------------------
    def missing(self) -> list[str]:
        """Return what reachable members still lack; what is on no honest node is not owed."""
        lacks = []
        for known in self.known.values():
            readers = [self._world.nodes[index] for index in sorted(known.readers)]
            without = [node for node in readers if not self._has(node, known)]
            if without:
                reach = self._world.reachable(known)
                lacks += [
                    f"{node.name} lacks {known.name}" for node in without if node.index in reach
                ]
        return lacks

    def _has(self, node: SimNode, known: Known) -> bool:
        # Of two twins of a dishonest author one is enough: the evidence stands for the other.
        held = self.records[node.index].held
        return any(twin in held for twin in self._twins[known.place])

    def forked(self) -> list[Known]:
        """Return the envelopes of which another stands in the same place, if honest nodes saw two.

        A twin that never left its author is no evidence for anybody.
        """
        seen: set[bytes] = set()
        for node, record in zip(self._world.nodes, self.records, strict=True):
            seen |= record.held if node.honest else set()
        return [
            known
            for known in self.known.values()
            if sum(twin in seen for twin in self._twins[known.place]) > 1
        ]

    def slowest(self, which: Callable[[Known], bool]) -> int:
        """Return the longest time from the release of an envelope to its arrival at a reader."""
        times = [
            self.arrivals[known.id, index] - self.arrivals[known.id, known.author]
            for known in self.known.values()
            for index in known.readers
            if which(known) and (known.id, index) in self.arrivals
        ]
        return max(times, default=0)

    def owed(self) -> list[str]:
        """Return what honest authors hold no receipt for although the recipient is reachable."""
        owed = []
        for node in self._world.nodes:
            if not node.trusted or node.process is None:
                continue
            rows = node.disk.rows(
                "SELECT o.envelope_id, o.peer FROM outbox o JOIN envelopes v ON v.id = "
                "o.envelope_id WHERE o.route = 'direct' AND o.state = 'queued' "
                "AND v.part = 'author'"
            )
            for envelope_id, peer_id in rows:
                known, peer = self.known[envelope_id], self._world.nodes[self._index[peer_id]]
                if peer.trusted and self._world.can_link(node, peer):
                    owed.append(f"{node.name} has no receipt of {peer.name} for {known.name}")
        return owed

    def check_deliveries(self) -> None:
        """Check that nobody believes in a delivery that did not happen."""
        for node in self._world.nodes:
            if not node.trusted:
                continue
            rows = node.disk.rows(
                "SELECT envelope_id, peer, state FROM outbox WHERE state IN ('received', 'carried')"
            )
            for envelope_id, peer_id, state in rows:
                peer = self._world.nodes[self._index[peer_id]]
                if peer.trusted and envelope_id not in self.records[peer.index].held:
                    name = self.known[envelope_id].name
                    self.violated(node, f"believes that {peer.name} has {state} {name}")

    def finish(self, *, deep: bool) -> None:
        """Look at all disks once more, from the beginning."""
        self.check_deliveries()
        for node in self._world.nodes:
            if not node.honest:
                continue
            self._check_kept(node)
            self._check_copies(node)
            self._check_opened(node)
            if node.process is not None and deep and not self._world.genesis.bulk:
                self._verify(node)
        self.logs.finish()

    def _check_copies(self, node: SimNode) -> None:
        (entries,), (rows, ids) = (
            node.disk.rows(
                "SELECT count(*) FROM entries WHERE kind IN (?, ?, ?)", int(EntryKind.RECEIVED),
                int(EntryKind.RELEASED), int(EntryKind.CARRIED),
            )[0],
            node.disk.rows("SELECT count(*), count(DISTINCT id) FROM envelopes")[0],
        )  # fmt: skip
        if not entries == rows == ids == len(self.records[node.index].held):
            self.violated(node, f"has {entries} log entries for {ids} envelopes in {rows} rows")

    def _check_opened(self, node: SimNode) -> None:
        opened = [each.envelope_id for each in node.disk.cases.opened]
        if len(set(opened)) != len(opened):
            self.violated(node, "gave its agency an envelope twice")
        for each in node.disk.cases.opened:
            if each.body is None and self._world.nodes[self.known[each.envelope_id].author].honest:
                self.violated(node, f"cannot open {self.known[each.envelope_id].name}")

    def _verify(self, node: SimNode) -> None:
        assert node.process is not None
        try:
            node.process.core.verify()
        except Exception as error:  # noqa: BLE001  any is a finding
            self.violated(node, f"its own verification fails: {error!r}")


def _receipted(kind: str, items: list[Any]) -> list[bytes]:
    """Return the ids of what is receipted, or their first 8 bytes."""
    if kind == "receipts":
        return [item[0] for item in items]
    return [
        packed[at : at + width]
        for _, _, width, packed, _ in items
        for at in range(0, len(packed), width + RUN_SECRETS)
    ]


def _flat(value: Any) -> list[Any]:  # noqa: ANN401  whatever msgpack holds
    if isinstance(value, list):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]


def _kind(message: bytes) -> str:
    """Return the name of the frame in *message*."""
    if message.startswith(_HELLO):
        return "hello"
    if len(message) > _TAG + 1 and 0x90 <= message[_TAG] <= 0x9F:
        number = message[_TAG + 1]
        return _NAMES.get(number, f"frame-{number}")
    return "frame"
