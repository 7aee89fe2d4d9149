"""Every limit of the service that clients or peers can meet, with its unit last.

``docs/PROTOCOL.md`` A.2 lists the same names and values; a test compares the two.
"""

ID_CHARS_MAX = 128
TENANT_CHARS_MAX = 64
# Of a grant.
GRANT_CHARS_MAX = 8_192
TICKET_S_MAX = 30
TICKETS_MAX = 10_000
REVOCATIONS_MAX = 100_000
API_KEYS_MAX = 10_000
# Entries of one log of the audit log; the next begins another.
AUDIT_ENTRIES_MAX = 1_000
# Retention: how often a region walks through its sessions, how many tenants have a policy, how many
# sessions one walk chooses, and how many of them a second it deletes.
RETENTION_EVERY_S = 60
RETENTION_POLICIES_MAX = 1_000
RETENTION_SESSIONS_MAX = 10_000
RETENTION_DELETES_PER_S_MAX = 50
RETENTION_AGE_S_MIN = 60
RETENTION_AGE_S_MAX = 3_153_600_000
# Sessions that are exported by a region at once; a line of what is imported.
EXPORTS_MAX = 8
EXPORT_LINE_BYTES_MAX = 8_388_608
# Sessions that are looked through for what a subject has written.
FORGET_SESSIONS_PER_S_MAX = 50
TOKEN_TTL_S_DEFAULT = 900
TOKEN_TTL_S_MAX = 86_400
# How often a key set is read again; a key that is not in it any more is good for so long.
KEYS_REFRESH_S = 20
KEYS_HURRY_S = 5
KEYS_BYTES_MAX = 262_144
CLAIM_ID_CHARS_MIN = 8
ROLE_CHARS_MAX = 32
TOKEN_BYTES_MAX = 1_048_576
MARK_BYTES_MAX = 262_144
JSON_DEPTH_MAX = 64
APPEND_ITEMS_MAX = 4_096
# A token of TOKEN_BYTES_MAX control characters takes six bytes each in JSON ("\u0000").
BODY_BYTES_MAX = 8_388_608
BODY_READ_S_MAX = 30
HEAD_READ_S_MAX = 15
HEAD_BYTES_MAX = 65_536
MESSAGE_ITEMS_MAX = 2_000_000
MESSAGE_BYTES_MAX = 67_108_864
METADATA_BYTES_MAX = 65_536
METADATA_KEYS_MAX = 128
SNAPSHOT_MESSAGES_MAX = 200
PAGE_ITEMS_MAX = 1_000
PAGE_ITEMS_DEFAULT = 100
CURSOR_ENTRIES_MAX = 16
# While messages are held for a reader its cursor names those as well; beyond this it gets a
# snapshot when it comes back.
CURSOR_ENTRIES_HELD_MAX = 20
CURSOR_CHARS_MAX = 512
HOLD_MS = 30_000
KEEPALIVE_S = 10
FEED_BYTES_MAX = 1_048_576
READERS_MAX = 20_000
SOCKETS_MAX = 20_000
SOCKET_SESSIONS_MAX = 64
SOCKET_VERBS_MAX = 32
SOCKET_LANES_MAX = 256
POLL_WAIT_MS_MAX = 25_000
POLL_WAIT_MS_DEFAULT = 20_000
# A subscription waits so long for the next poll, and so many do.
POLL_KEEP_S = 30
POLLS_KEPT_MAX = 5_000
ACK_WAIT_MS_MAX = 10_000
CLOCK_AHEAD_MS_MAX = 60_000
DRAIN_S_MAX = 8
# Secrets that regions prove themselves with: the newest, and those that it replaces.
PEER_SECRETS_MAX = 4
# What a region is asked of itself over a link, and what it answers; answers at once on one link.
STATUS_BYTES_MAX = 1_048_576
STATUS_ANSWERS_MAX = 8
# Other regions that one knows.
PEERS_MAX = 64
REGIONS_GONE_MAX = 1_024
PEERS_FILE_BYTES_MAX = 65_536
# A link whose peer was known by a certificate is opened anew after so long.
PEER_LINK_S_MAX = 86_400
# How often it is looked whether the files of certificates have changed, and how long they may be.
CERTIFICATES_LOOK_S = 60
CERTIFICATE_FILE_BYTES_MAX = 1_048_576
# What a claim's header may carry of a base that is on no other disk yet.
REOPENING_BASE_BYTES_MAX = 1_048_576
SEQ_MAX = 2**53 - 1
EPOCH_COUNTER_MAX = 2**31 - 1
# Writes waiting for the disk; beyond it requests are refused with Retry-After.
WRITE_QUEUE_ITEMS_MAX = 20_000
# Requests that wait for their turn, and beyond it are refused with Retry-After.
REQUESTS_WAITING_MAX = 20_000
# A commit takes about so much from clients, and from peers: more at once gains nothing, and whoever
# comes meanwhile waits for all of it.
COMMIT_BYTES_MAX = 1_048_576
COMMIT_WRITES_MAX = 128
# A longer append is logged in several records: each must get over a slow link, and into a frame.
ITEMS_BYTES_TARGET = 262_144
# A session that nobody has used for so long leaves memory.
EVICT_IDLE_S = 60
# What a start replays at most of the log, in about this many bytes of records.
REPLAY_BYTES_MAX = 16_777_216
# A log is kept until every region has it on disk, but not longer, and not more of it.
LOG_AGE_S_MAX = 604_800
LOG_BYTES_MAX = 4_294_967_296
# A disk's keys: the first encrypts, the others are there until everything is rewritten.
STORAGE_KEYS_MAX = 16
# What is deleted is made gone from the disk at most so often, and so many things at a time.
ERASE_EVERY_S = 2
ERASE_SUBJECTS_MAX = 1_000
PRESENCE_DATA_BYTES_MAX = 4_096
PRESENCE_TTL_S_MAX = 3_600
PRESENCE_TTL_S_DEFAULT = 60
# A member whose connection has dropped is still here for so long.
PRESENCE_GRACE_S = 5
# How long an agent that says nothing is taken to be at work; and one whose lease is not seen.
LEASE_S_DEFAULT = 15
LEASE_S_MAX = 300
LEASE_UNSEEN_S = 3
RUN_INPUTS_MAX = 1_000
RUN_DETAIL_BYTES_MAX = 4_096
RUNS_OPEN_MAX = 10_000
SIGNAL_BYTES_MAX = 4_096
SIGNALS_PER_S_MAX = 20
SIGNALS_BURST_MAX = 50
SIGNALS_WAITING_MAX = 1_000
DOCUMENTS_MAX = 16
DOCUMENTS_EVER_MAX = 1_024
DOCUMENT_KEYS_MAX = 256
DOCUMENT_BYTES_MAX = 524_288
DOCUMENT_UPDATE_BYTES_MAX = 1_048_576
DOCUMENT_CLIENTS_MAX = 1_000
DOCUMENT_STRUCTS_MAX = 8_192
# What an update may cost: places among which each of its pieces may have to be sorted, each some
# tens of nanoseconds.
DOCUMENT_STEPS_MAX = 400_000
# Updates that wait for what they build on; beyond these a region has a gap, which a round closes.
DOCUMENT_PARKED_MAX = 256
DOCUMENT_PARKED_BYTES_MAX = 4_194_304
DOCUMENT_SOCKETS_MAX = 256
DOCUMENT_UPDATES_PER_S_MAX = 50
DOCUMENT_UPDATES_BURST_MAX = 200
# Connections and leases of members that a region holds itself.
PRESENCE_ENTRIES_MAX = 50_000
MEMBERS_MAX = 10_000
MEMBER_CONNECTIONS_MAX = 100
PRESENCE_EVENT_MEMBERS_MAX = 500
# Of an agent's lease it is "run/", the run and the epoch.
PRESENCE_CONNECTION_CHARS_MAX = 256
# An origin that was not heard for so long is hidden: with a digest every second, and a look every
# second, within 10 s of its last sign of life.
PRESENCE_HIDE_MS = 8_500
DEAD_ORIGINS_MAX = 4_096
# What a caller may ask for: units a second in the long run, and at once after a pause. A request
# is one unit, and what it brings costs more.
ADDRESS_UNITS_PER_S_MAX = 2_000
ADDRESS_UNITS_BURST_MAX = 4_000
KEY_UNITS_PER_S_MAX = 2_000
KEY_UNITS_BURST_MAX = 4_000
SUBJECT_UNITS_PER_S_MAX = 2_000
SUBJECT_UNITS_BURST_MAX = 4_000
TENANT_UNITS_PER_S_MAX = 5_000
TENANT_UNITS_BURST_MAX = 10_000
SESSION_UNITS_PER_S_MAX = 1_000
SESSION_UNITS_BURST_MAX = 2_000
GUESSES_PER_S_MAX = 1
GUESSES_BURST_MAX = 20
UNIT_ITEMS = 64
UNIT_BYTES = 16_384
ADDRESS_STREAMS_MAX = 5_000
SUBJECT_STREAMS_MAX = 2_000
TENANT_SESSIONS_MAX = 1_000_000
SESSION_MESSAGES_MAX = 1_000_000
# Names of one kind whose buckets owe something; those for which there is no room share these.
BUCKETS_MAX = 65_536
BUCKETS_SHARED_MAX = 1_024
# What has happened to sessions, as one region remembers it; and of one session.
JOURNAL_ENTRIES_MAX = 20_000
JOURNAL_SESSION_ENTRIES_MAX = 500
# Sessions of which is known when they were last written to.
RECENT_SESSIONS_MAX = 10_000
# Marks of how much was on disk when: more than half an hour by the second, and then fewer.
LAG_MARKS_MAX = 4_096
# Samples of the last minutes.
HISTORY_SAMPLES_MAX = 450
# Sessions of which a peer is asked at once whether it holds the same.
STATUS_SESSIONS_MAX = 100
# Sessions that one search looks at; messages that a page of a timeline is made of.
SEARCH_SESSIONS_MAX = 100_000
TIMELINE_MESSAGES_MAX = 100
# Operators who look at a region at once.
ADMIN_STREAMS_MAX = 32
# Connections of scrapers and probes at a port of their own.
OPS_CONNECTIONS_MAX = 64
# Spans of traces that wait to be sent; and messages whose first delivery is one.
TRACE_SPANS_WAITING_MAX = 2_048
TRACE_DELIVERIES_MAX = 1_000
# Combinations of the values of labels that a counter counts apart.
METER_SERIES_MAX = 1_024
