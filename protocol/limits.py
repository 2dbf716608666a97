"""Every bound on what a peer or a client can send, and the reason for its value.

Sizes are bytes, times are integer milliseconds, unless the name says otherwise.
"""

from __future__ import annotations

from typing import Final

# --- canonical values -----------------------------------------------------------------------
MAX_DEPTH: Final = 16
"""Nesting of arrays and maps. The deepest structure of the protocol, an incident, needs 8."""
MAX_ARRAY: Final = 4_096
"""Elements of one array; the longest is a frame of receipts."""
MAX_MAP: Final = 256
"""Pairs of one map; an incident layer has fewer than 100 fields."""
MAX_TEXT: Final = 65_536
"""UTF-8 bytes of one text; a narrative is at most 8,000 characters of up to 4 bytes."""

# --- key statements and cards ----------------------------------------------------------------
MAX_STATEMENT: Final = 48 * 1024
"""One statement with its signatures; a card with 8 sealing keys is about 20 KiB."""
MAX_CHAIN: Final = 512
"""Statements of one node: two a month for twenty years."""
MAX_BUNDLE: Final = 1024 * 1024
"""A card bundle (a chain, old cards reduced to their skeleton), before armour."""
MAX_IDENTITY_KEYS: Final = 8
"""Identity keys that one inception or rotation may list."""
MAX_ASIDE: Final = 128
"""Statements of one node that are kept though they do not count: evidence, and what they signed."""
MAX_SUSPENSION_MS: Final = 14 * 86_400_000
"""Longest time for which a directory can suspend a node without saying so again."""
MAX_SUSPENSION: Final = 64 * 1024
"""One suspension with 16 signatures of 3.4 KiB."""
MAX_DIRECTORY: Final = 16
"""Keys of a directory that may suspend nodes."""
RECOVERY_HOLD_MS: Final = 72 * 3_600_000
"""How long a recovery is held before it counts: time for the owner of stolen paper to speak up."""
MAX_SEAL_KEYS: Final = 8
"""Sealing keys that one card may list (current, next, and late openers)."""
MAX_TLS_CERTIFICATES: Final = 4
MAX_OLDER_CERTIFICATES: Final = 16
"""Certificates of one node, the newest first, that a link with it may be begun with."""
MAX_CERTIFICATE: Final = 2_048
"""DER of one self-signed Ed25519 certificate is about 300 bytes."""
MAX_ENDPOINTS: Final = 8
MAX_NAME: Final = 256
"""Characters of a name, address, origin or other short text."""
MAX_CARD_LIFETIME_MS: Final = 400 * 86_400_000

# --- envelopes -------------------------------------------------------------------------------
MAX_RECIPIENTS: Final = 255
"""With the author's own that makes 256 slots; the United Nations has 193 members."""
MAX_CARRIERS: Final = 16
SLOT_SIZE: Final = 1_168
"""X-Wing encapsulation (1,120) + sealed 32-byte key (48): RFC 9180 single-shot output."""
MIN_PADDED: Final = 1_024
MAX_BODY: Final = 64 * 1024
"""Canonical body before padding; larger things travel as attachments."""
MAX_CIPHERTEXT: Final = MAX_BODY + 8 * 1024
"""Padding adds at most 12 %, chunked encryption 16 bytes per 16 KiB and a 72-byte head."""
MAX_HEADER: Final = 1_024
MAX_ENVELOPE: Final = 512 * 1024
"""256 slots (292 KiB), audience (17 KiB), body (72 KiB), header and signature fit."""
MAX_LIFETIME_MS: Final = 90 * 86_400_000
"""Longest time an envelope may be carried; also how long carriers keep custody."""
MAX_CUSTODY_RECIPIENT: Final = 64 * 2**20
"""Bytes that a carrier keeps for one recipient that has not fetched them, whoever gave them: some
30,000 usual envelopes, or weeks of a busy network while one authority is away."""
MAX_CUSTODY_GIVER: Final = 2**30
"""Bytes that a carrier keeps of what one peer gave: 200 peers at their bound still fit one disk."""
CUSTODY_RETRY_MS: Final = 600_000
"""When a carrier without room may be asked again: room comes with receipts, not at once."""
CLOCK_AHEAD_MS: Final = 600_000
"""How far an author's clock may be ahead of ours before its times are called doubtful."""
MAX_SEQ: Final = 2**53
"""Sequence numbers stay exact in every JSON reader."""

# --- log -------------------------------------------------------------------------------------
MAX_LOG_SIZE: Final = 2**48
MAX_ENTRY: Final = 256
"""One log entry is a blinded commitment of about 120 bytes; tlog-tiles allows 65,535."""
MAX_NOTE: Final = 192 * 1024
"""A signed note: its log's two signatures and those of 31 witnesses, two of 3.4 KiB each."""
MAX_NOTE_SIGNATURES: Final = 64
"""C2SP asks readers to accept 16."""
MAX_NOTE_NAME: Final = 255
"""UTF-8 bytes of a key name; ML-DSA-44 cosignatures have one byte for its length."""
MIN_NOTE_KEY: Final = 32
"""Bytes of the shortest public key in a verifier key."""
MAX_PROOF: Final = 64
"""Hashes of one proof; a tree of 2^48 leaves needs 48."""
MAX_TILE_PATH: Final = 64
"""Characters of the path of one tile or bundle; of a tree of 2^48 leaves the longest has 42."""
MAX_POLICY_LINE: Final = 8 * 1024
"""Bytes of one line of a witness policy: a verifier key of ML-DSA-44 takes 2 KiB."""
MAX_POLICY_LINES: Final = 1_024
"""Lines of a witness policy; three a witness, and C2SP asks readers to accept 32 of each kind."""
MAX_POLICY: Final = 1024 * 1024
"""Bytes of a witness policy."""
MAX_PROOF_EXTRA: Final = 64 * 1024
"""Bytes of extra data in a proof file; nobody signs them."""
MAX_PROOF_FILE: Final = MAX_NOTE + 2 * MAX_PROOF_EXTRA
"""Bytes of a proof file: extra data in base64, 64 hashes and a checkpoint."""
MAX_WITNESS_PROOF: Final = 63
"""Proof lines that one call to a witness may have (C2SP tlog-witness)."""
MAX_ADD_CHECKPOINT: Final = MAX_NOTE + 4 * 1024
"""Body of one call to a witness: a note, 63 lines of 45 bytes and the old size."""
MAX_LOG_FORK: Final = 2 * MAX_NOTE + 4 * 1024
"""Evidence against a log: two notes and one path. A log cannot escape it with padded notes."""

# --- frames and links ------------------------------------------------------------------------
MAX_FRAME: Final = 1024 * 1024
"""One WebSocket message; must exceed MAX_ENVELOPE."""
TARGET_FRAME: Final = 64 * 1024
"""Envelopes are packed into one frame up to about this size."""
MAX_FRAME_ENVELOPES: Final = 256
MAX_FRAME_RECEIPTS: Final = 256
MAX_RUN: Final = 512
"""Envelopes that one frame of runs is the receipt for: a quarter of the credit of a link."""
MAX_OFFERS: Final = 8_192
"""Streams of one peer that may wait to be pulled at a time: three of each of 1,000 authorities, and
room to spare. A peer may name streams that nobody else has heard of."""
BULK: Final = 256
"""Missing envelopes of one stream above which its author or carrier does not push them: whoever
lacks them asks at once, so that one of the two ends sets the pace and nothing travels twice."""
THROTTLED_OFFER: Final = 64
"""Envelopes offered a second to a peer that has lately refused some for its quota."""
THROTTLE_MS: Final = 60_000
"""How long an offer stays so after the last such refusal."""
MAX_RETRY_MS: Final = 3_600_000
"""Longest time that a peer can make an author wait before it offers an envelope again."""
MAX_UNANSWERED: Final = 768 * 1024
"""Bytes of envelopes that may be taken in bulk before they are receipted."""
MAX_RUNS: Final = 256
"""Runs in one such frame."""
MAX_FRAME_STATEMENTS: Final = 64
MAX_CODE: Final = 64
"""Characters of an error code in a refusal or goodbye."""
LINK_WINDOW: Final = 2_048
"""Envelopes offered on one link and not yet answered: the credit of its sender."""
LINK_WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Bytes of envelopes offered on one link and not yet answered; one may go beyond it."""
MAX_LINK_IDS: Final = 65_536
"""Ids of envelopes sent on one link that are kept, so that receipts may name them in short."""
MAX_FRAME_ITEMS: Final = 1_024
"""Streams in one frontier frame; more take another frame."""
MAX_ITEM_RANGES: Final = 1_024
"""Ranges held past the first gap that one item names; what lies further is named later."""
MAX_AUTHORS: Final = 2_048
"""Authors in one frame of digests; the plan is for 1,000 authorities."""
MAX_WANT_RANGES: Final = 256
"""Ranges of one stream in one want."""
MAX_WANT: Final = 4_096
"""Envelopes that one want may name."""
MAX_WANTS: Final = 1_024
"""Wants of one link that wait to be served; more are dropped and asked for again."""
MAX_FORK: Final = 3 * 1024
"""Two signed headers of up to 1 KiB."""
MAX_FORKS_PER_STREAM: Final = 8
"""Proofs kept of one stream; one is enough to freeze it."""
MAX_GAPS: Final = 16_384
"""Ranges held past the first gap of one stream; an envelope that would make more is refused."""
LINK_QUEUE: Final = 4 * 1024 * 1024
"""Bytes waiting to be written to one link, above which nothing more is offered on it."""
MAX_LINK_QUEUE: Final = LINK_QUEUE + LINK_WINDOW_BYTES + MAX_ENVELOPE
"""Bytes waiting to be written to one link, above which it is cut: its other end asks for more than
it reads. A full window on top of a full queue still fits."""
MAX_STATEMENTS_BYTES: Final = MAX_FRAME // 2
"""Bytes of the statements in one frame; the peer asks again for those that follow."""
HELLO_TIMEOUT_MS: Final = 10_000
RECEIPT_TIMEOUT_MS: Final = 30_000
"""After this an envelope without a receipt is offered again, and carriers are tried."""
HEARTBEAT_S: Final = 25
"""Many address translators drop a silent mapping after 30 to 60 s."""
SEND_TIMEOUT_S: Final = 60.0
"""Time in which the other end must take what was sent to it."""
FRAME_TIMEOUT_S: Final = 60.0
"""Longest time without one whole frame; a living link has a ping or its answer every 25 s."""
CLOSE_TIMEOUT_S: Final = 2.0
"""Time for the closing handshake of one link, after which it is cut."""
MAX_HALF_OPEN: Final = 64
"""Connections that have not become links yet."""
MAX_HALF_OPEN_PER_ADDRESS: Final = 16
"""Of one IPv4 address or IPv6 /64; several authorities may share an address translator."""
MAX_LINKS_PER_CERTIFICATE: Final = 8
"""One is the rule; a peer that lost its own may dial again before we notice, within 38 s."""
MAX_LOG_READERS: Final = 128
"""Connections on which peers read the files of our log at the same time."""
MAX_LOG_READERS_PER_PEER: Final = 4
"""Of one peer. A connection answers one request after the other."""
LOG_READS_PER_S: Final = 50
"""Files of our log that one peer may read: a tile takes less than 0.1 ms of the one thread that
owns the databases, so 20 peers at their bound take a tenth of it."""
LOG_READS_BURST: Final = 1_000
"""Saved up of that: a log of 250,000 entries is read at once."""
LOG_READER_IDLE_S: Final = 15.0
"""A connection on which nobody asks for a file is closed after this."""
MAX_REFUSALS_PER_LINK: Final = 10
"""Refused envelopes after which the link is closed."""

# --- the door and pairing ----------------------------------------------------------------------
MAX_DOOR_BUNDLE: Final = 160 * 1024
"""A card bundle that a stranger may hand in: a full chain of skeletons is 84 KiB, a card 20 KiB."""
MAX_KNOCK: Final = MAX_DOOR_BUNDLE + 8 * 1024
"""One knock: a bundle, two signatures (3.4 KiB) and six short fields."""
KNOCK_WINDOW_MS: Final = 600_000
"""How far the time of a knock may be from the acceptor's clock: later it cannot be replayed."""
MAX_AT_DOOR: Final = 8
"""Requests of strangers that are read and answered at a time; more are told to come back."""
MAX_AT_DOOR_PER_ADDRESS: Final = 2
KNOCKS_PER_MIN: Final = 1
"""Knocks from one address; a node knocks once in 10 min."""
KNOCKS_BURST: Final = 8
"""Several authorities may share an address translator."""
ALL_KNOCKS_PER_MIN: Final = 60
"""Knocks from everywhere: to verify one takes 3 ms, so this is a third of a percent of one core."""
ALL_KNOCKS_BURST: Final = 60
CARDS_PER_MIN: Final = 60
"""Times that one address may fetch the card, of about 20 KiB."""
CARDS_BURST: Final = 20
ALL_CARDS_PER_MIN: Final = 600
ALL_CARDS_BURST: Final = 200
MAX_DOOR_ADDRESSES: Final = 1_024
"""Addresses whose rates are kept; the one that was heard of longest ago goes first."""
KNOCK_EVERY_MS: Final = 600_000
"""How long a node waits at least before it knocks again at the same peer; each time twice that."""
KNOCK_EVERY_MAX_MS: Final = 14_400_000
MAX_CALLERS: Final = 64
"""Nodes that wait for an operator to look at them; beyond it one that nobody vouched for goes."""
MAX_CALLERS_PER_ADDRESS: Final = 4
MAX_IGNORED: Final = 1_024
"""Nodes that an operator ignores; 32 bytes each, the oldest go first."""
CALLER_LIFE_MS: Final = 14 * 86_400_000
"""How long after it was last heard of a caller is kept."""
CALLER_LATER_MS: Final = 86_400_000
"""When a caller that an operator put off is shown again."""
UNDO_MS: Final = 3_600_000
"""How long after it an act of pairing can be undone."""
MAX_UNDOABLE: Final = 16
MAX_CARD_LINK: Final = 1_024
"""Characters of a card link: they still fit a QR code that a telephone reads."""
MAX_INTRODUCTION: Final = MAX_DOOR_BUNDLE + 8 * 1024
INTRODUCTION_LIFE_MS: Final = 14 * 86_400_000
"""How long an introduction is taken after it was made."""

# --- testing a peer --------------------------------------------------------------------------
PEER_TEST_S: Final = 12.0
"""All steps of the test of one peer together; each has less."""
PEER_TEST_STEP_S: Final = 4.0
PEER_TEST_PINGS: Final = 5
PEER_TEST_ADDRESSES: Final = 4
"""IP addresses of one host name that are tried."""
MAX_PEER_TESTS: Final = 2
"""Tests that one node makes at a time; each has a thread of those that serve programs."""

# --- what links say about logs ---------------------------------------------------------------
MAX_COSIGNED: Final = 16 * 1024
"""The answer of a witness: two signature lines, or a size."""
MAX_SIGNED_HEAD: Final = 16 * 1024
"""A checkpoint with the two signatures of its log, 3.5 KiB, and room for a few others."""
MAX_HEADS: Final = 256
"""Logs of third nodes named in one frame; more take another frame."""
MAX_CONSISTENCY_PROOFS: Final = 64
"""Consistency proofs of one frame, each of up to 49 hashes."""
MAX_LOG_PATH: Final = 128
"""Characters of the path of a tile."""
MAX_LOG_PART: Final = MAX_NOTE
"""A tile has 8 KiB; a checkpoint grows with its cosignatures."""
MAX_PEER_HEADS: Final = 4_096
"""Checkpoints of one peer that wait for its proof that they are consistent."""
MAX_AUDIT_ENTRIES: Final = 2**28
"""Entries of a peer's log that an audit reads: 8 GiB of hashes. A beat a second for 8 years."""
MAX_LOG_OPENINGS: Final = 64
"""Entries that began new logs, which a node shows to its peers: about 350 bytes each."""

# --- sealing again -----------------------------------------------------------------------------
MAX_NOTICE: Final = 256
"""What a reader tells the author of an epoch that it cannot open: about 130 bytes."""
MAX_NEW_SLOT: Final = 2_048
"""A slot of 1,168 bytes, four ids and two numbers."""
RESEAL_WINDOW_MS: Final = MAX_LIFETIME_MS
"""Age of an opener up to which its author seals it again. What is older was sealed to keys that may
have been destroyed since, and whoever stole a vault must not get it back."""
RESEAL_RETRY_MS: Final = 60_000
"""When a notice is sent again that was not answered; each time it takes twice as long."""
RESEAL_RETRY_MAX_MS: Final = 3_600_000
MAX_RESEALS_PER_OPENER: Final = 4
"""Answers that one reader gets for one epoch in a day."""
MAX_RESEALS_PER_DAY: Final = 256
"""Answers that one reader gets in a day: whoever lost its key has its last 90 days of 20 streams
back at once. More wait for the next day."""
MAX_NOTICES: Final = 32
"""Notices sent, or answers given, on one link in a second."""

# --- lost keys, and proofs of having one -------------------------------------------------------
MAX_EXPOSED: Final = 1_024
"""Envelopes that one record of a lost key names."""
MAX_EXPOSURE: Final = 40 * 1024
"""That record: 1,024 ids of 34 bytes, four other ids and five numbers."""
MAX_EXPOSURES_KEPT: Final = 64
"""Records of lost keys that are kept of one peer: 65,536 envelopes."""
EXPOSED_PER_CHECK: Final = 32
"""Envelopes in such a record that cost its holder as much of its quota as one signature."""
MAX_SUSPENSIONS_TOLD: Final = 64
"""Suspensions that are passed on when a link opens."""
POSSESSION_PATIENCE_MS: Final = 86_400_000
"""How long a peer may leave a challenge unanswered before an operator hears of it: it is locked."""

# --- receipts that are missing -------------------------------------------------------------------
RECEIPT_OVERDUE_MS: Final = 600_000
"""A linked peer that was sent an envelope has to give its receipt within this time: a receipt takes
seconds, and a refusal is followed by another offer within ten minutes."""
DELIVERY_OVERDUE_MS: Final = 86_400_000
"""What has waited so long for a peer that was linked meanwhile is overdue, however it was sent."""

# --- delivery statements -----------------------------------------------------------------------
REACHABLE_WINDOW_MS: Final = 150_000
"""Whoever is linked within this time of a release could be reached: two rounds of anti-entropy and
a reconnection. A checker takes no shorter one, or an author could choose it to hide a debt."""
MAX_RECEIPT_FRAME: Final = MAX_SIGNED_HEAD + 4 * 1024
"""A receipts frame with one item: one note, one entry and one proof."""
MAX_AUDIENCE: Final = 32 * 1024
"""255 recipients of 69 bytes, 16 carriers and the author's key id take 18 KiB."""
MAX_DELIVERY_STATEMENT: Final = 32 * 1024 * 1024
"""128 KiB for each of 255 recipients: a card (10 to 20 KiB), an inception (6 KiB), a receipt (4 to
6 KiB) and the skeletons of a full chain (84 KiB). Usual are 20 KiB."""
MAX_STATEMENTS_IN_TEXT: Final = 2 * MAX_RECIPIENTS + 2
"""Statements in one file: an incident released separately, face and annex apart."""

# --- evidence --------------------------------------------------------------------------------
MAX_EVIDENCE: Final = 64 * 1024 * 1024
"""One evidence bundle; all its members at their bounds fit."""
MAX_EVIDENCE_TEXT: Final = 64 * 1024
"""The manifest or the report."""
MAX_EVIDENCE_CONTENT: Final = 4 * 1024 * 1024
"""The opened message: 64 KiB as indented JSON, at worst a number and 34 more characters a byte."""
MAX_EVIDENCE_ACCESS: Final = 16 * 1024 * 1024
"""The acts about one message: 1,000 of usually 3 KiB with their proofs, and of 30 at most."""
MAX_EVIDENCE_ACTS: Final = 1_000
"""Acts about one message that a bundle proves, the newest; the others are counted."""
MAX_EVIDENCE_RECEIPTS: Final = 32 * 1024 * 1024
"""128 KiB for each of 255 recipients, as in a delivery statement; usual are 20 KiB."""
MAX_TIMESTAMP: Final = 64 * 1024
"""A time stamp of RFC 3161 with its certificates takes 3 to 8 KiB."""
MAX_REASON: Final = 500
"""Characters of the reason that an operator gives for an act; it stands in the log."""

# --- access and disclosure -------------------------------------------------------------------
MAX_ACCESS_IDS: Final = 64
"""Envelopes that one access entry names; of more there are several entries."""
MAX_ACCESS_NOTE: Final = 2 * MAX_NAME + MAX_REASON + 64
"""Characters of what an access entry says besides: to whom a copy went, by whom, and why."""
MAX_ACCESS_ACT: Final = 8 * 1024
"""One act: 64 ids of 34 bytes, and texts of up to 4 bytes a character."""
MAX_ERASURE_ACT: Final = 4 * 1024
"""One act of erasure: six short texts of up to 4 bytes a character."""
MAX_DISCLOSURE: Final = MAX_CIPHERTEXT + MAX_BUNDLE + 2 * MAX_AUDIENCE + 16 * 1024
"""One disclosed envelope: its slots, reduced to digests, and its audience are up to 25 KiB."""

# --- approvals by several operators ------------------------------------------------------------
MAX_OPERATORS: Final = 16
"""Operators of one node who may vote."""
MAX_OPERATOR_NAME: Final = 64
"""Characters of an operator's name."""
MAX_OPERATOR_LINE: Final = 1_024
"""The public key line of one operator: its name twice, a key, a time and a signature."""
OPERATOR_KEY_LIFE_MS: Final = 365 * 86_400_000
APPROVAL_LIFE_MS: Final = 7 * 86_400_000
"""How long after it was asked something can be approved and done."""
MAX_APPROVAL_POLICY: Final = 8 * 1024
"""16 operators: a name of up to 4 bytes a character, a key of 34 bytes and a time each."""
MAX_APPROVAL_ACTION: Final = MAX_APPROVAL_POLICY + 4 * 1024
"""What is asked: a new policy, or texts of whom, by whom and why."""
MAX_APPROVAL_VOTE: Final = 256
"""Two digests, a signature and three numbers."""
MAX_APPROVAL_ACT: Final = 24 * 1024
"""A new policy with both signatures of an identity key, or what is asked."""
MAX_APPROVALS_OPEN: Final = 64
"""Requests that wait at the same time."""
MAX_APPROVALS_OF_TOKEN: Final = 8
"""Requests of one token that wait at the same time."""
APPROVAL_REFUSAL_EVERY_MS: Final = 600_000
"""After which the same refusal is logged once more: a program may ask every second."""

# --- records about incidents -----------------------------------------------------------------
MAX_NOTE_TEXT: Final = 500
"""Characters of a note that says why something changed, or on what a link rests."""
MAX_LONG_TEXT: Final = 4_000
"""Characters of a question, an answer, a message or an alert: two pages."""
MAX_ASKED: Final = 50
"""Authorities that one follow-up request or one notification names."""
MAX_PARTICIPANTS: Final = 255
"""Participants of an operation: as many as an envelope can have recipients."""
MAX_LIST_ROWS: Final = 200
"""Rows of a reference list in one record; of a longer list there are several parts."""
MAX_IMPORTED_ROWS: Final = 2_000
"""Rows of a list that an authority imports for itself; the special surveillance list has dozens."""
MAX_FIGURES: Final = 2_000
"""Incidents, the newest, over which figures are made at once: some half second of work."""
MAX_LIST_FIELDS: Final = 32
"""Fields of one such row."""
MAX_LIST_PARTS: Final = 100
"""Parts of one version of a reference list: 20,000 rows."""
MAX_DUE_MS: Final = 366 * 86_400_000
"""How far ahead the due time of a request may be."""
MAX_ALERT_MS: Final = 400 * 86_400_000
"""How long an alert may last: one that never ends is read by nobody."""

# --- attachments -----------------------------------------------------------------------------
MAX_BLOB: Final = 2**30
"""Bytes of one attachment. A power of two, so padding never exceeds it."""
BLOB_CHUNK: Final = 64 * 1024
"""Bytes of the file in one chunk: one frame of about the target size."""
BLOB_TAG: Final = 16
"""Bytes that encryption adds to one chunk."""
MAX_BLOB_CHUNKS: Final = MAX_BLOB // BLOB_CHUNK
MAX_BLOB_PROOF: Final = (MAX_BLOB_CHUNKS - 1).bit_length()
"""Hashes of the proof of one chunk."""
BLOB_WINDOW: Final = 16
"""Chunks (1 MiB) asked for on one link and not yet there; a frame may ask for as many, and its
reader keeps no more waiting: what goes beyond is not served."""
MAX_BLOBS_PER_LINK: Final = 4
"""Attachments that are fetched over one link at the same time."""
MAX_DOWNLOADS: Final = 64
"""Downloads that are open at once; each holds one file open."""
MAX_BLOB_STORE: Final = 64 * 2**30
"""Bytes of all attachments and downloads together."""
MIN_DISK_FREE: Final = 512 * 2**20
"""Bytes that attachments leave free on their disk: the databases must always be able to write."""
SYNC_CHUNKS: Final = 256
"""Chunks of a download after which it is synced, so that the last sync is not a long one."""

# --- local store and HTTP --------------------------------------------------------------------
MAX_OUTBOX: Final = 100_000
"""Undelivered (envelope, peer) pairs; a release beyond it is answered busy."""
MAX_REQUEST: Final = 256 * 1024
"""JSON body of one local request."""
MAX_REQUEST_IMPORT: Final = 32 * 1024 * 1024
"""JSON body of one import: 10,000 incidents of up to 3 KiB."""
REQUEST_TIMEOUT_S: Final = 60
"""Time in which the whole body of a local request must have arrived."""
MAX_SIGNER_FRAME: Final = MAX_STATEMENT + 8 * 1024
"""One request to a signer in a process of its own: a statement without signatures, or a header."""
SIGNER_TIMEOUT_S: Final = 3
"""Time in which such a signer must have been asked, and must have answered."""
MAX_IMPORT_LINES: Final = 10_000
MAX_DRAFTS: Final = 20_000
MAX_PAGE: Final = 500
MAX_SEARCH: Final = 200
"""Characters of one field of a search."""
MAX_SEARCH_WORDS: Final = 16
"""Words of one search: each is looked up in the index."""

# --- backups -----------------------------------------------------------------------------------
MAX_BACKUP_RECORD: Final = 8 * 1024
"""One record between the files of a backup: a name, a digest, or what is said of the whole."""
MAX_BACKUP_FILES: Final = 262_144
"""Files in one backup; all but some twenty are attachments, of which 64 GiB are kept at most."""
MAX_BACKUP_FILE: Final = 2**40
"""Bytes of one file in a backup."""
MAX_BACKUP_SMALL: Final = 1024 * 1024
"""Bytes of a file of settings or keys in a backup."""
