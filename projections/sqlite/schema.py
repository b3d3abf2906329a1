"""The tables of projections.db. They contain no texts of users: those are read from the log, by position.

This is for erasure, not to save space. SQLite leaves stale copies of cells in pages that it rebalances, even with
`secure_delete`, so a text that was ever in a table with random inserts cannot be erased reliably. Labels represent
metadata as keyed hashes.

Every change of a table increments SCHEMA_VERSION; older files are then rebuilt from the log automatically.
"""

SCHEMA_VERSION = 9
APPLICATION_ID = 0x43485052  # "CHPR": tells projections from any other SQLite file

# Hashes by which sessions and requests are found. Rewritten after an erasure: see ProjectionWriter.purge_erased_hashes.
HASHES = """
CREATE TABLE labels (
    label INTEGER NOT NULL,
    no INTEGER NOT NULL,
    PRIMARY KEY (label, no)
) STRICT, WITHOUT ROWID;
CREATE INDEX labels_of_session ON labels (no);

CREATE TABLE keys (               -- requests with an Idempotency-Key, by a keyed hash of it
    session_no INTEGER NOT NULL,
    label INTEGER NOT NULL,
    position INTEGER NOT NULL,    -- of the event that holds the key itself
    PRIMARY KEY (session_no, label, position)
) STRICT, WITHOUT ROWID;
"""

TABLES = (
    HASHES
    + """
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    schema_version INTEGER NOT NULL,
    log_identity BLOB NOT NULL,   -- digest of the log's first event; empty while nothing is folded
    position INTEGER NOT NULL,    -- the checkpoint: the last folded position, and its digest
    digest BLOB NOT NULL,
    label_key BLOB NOT NULL,
    is_stale INTEGER NOT NULL     -- 1: copies of erased hashes may be left in pages of this file
) STRICT;

CREATE TABLE sessions (
    no INTEGER PRIMARY KEY,       -- position of session_created
    session_id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,          -- '' for none, so that one index serves both
    status TEXT NOT NULL,
    kind TEXT NOT NULL,           -- of session_created: '' for a conversation
    accessed_at_us INTEGER NOT NULL,
    expires_at_us INTEGER NOT NULL,
    is_open INTEGER NOT NULL,     -- 1: a reply runs or waits
    changed_at INTEGER NOT NULL,  -- position of the newest event that lists of sessions show
    pinned INTEGER NOT NULL,
    recorded_bytes INTEGER NOT NULL,  -- of the events of a session that is no conversation
    state TEXT NOT NULL           -- session.Session as JSON: what the actor starts from
) STRICT;
CREATE INDEX sessions_of_owner ON sessions (owner, status, kind, accessed_at_us DESC, no DESC);
CREATE INDEX sessions_by_access ON sessions (status, kind, accessed_at_us DESC, no DESC);
CREATE INDEX sessions_of_owner_by_creation ON sessions (owner, status, kind, no DESC);
CREATE INDEX sessions_by_creation ON sessions (status, kind, no DESC);
CREATE INDEX sessions_of_other_kinds ON sessions (owner, no DESC, recorded_bytes, is_open)
    WHERE status = 'active' AND kind <> '';
CREATE INDEX sessions_by_change ON sessions (owner, changed_at) WHERE kind = '';
CREATE INDEX sessions_pinned ON sessions (owner, status, accessed_at_us DESC, no DESC) WHERE pinned = 1;
CREATE INDEX sessions_by_expiry ON sessions (expires_at_us) WHERE status = 'active' AND is_open = 0;
CREATE INDEX sessions_expired ON sessions (expires_at_us) WHERE status = 'expired';
CREATE INDEX sessions_erasing ON sessions (no)
    WHERE status = 'expired' AND json_extract(state, '$.erasure') IS NOT NULL;
CREATE INDEX sessions_open ON sessions (no) WHERE is_open = 1;

CREATE TABLE counts (status TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE messages (
    no INTEGER PRIMARY KEY,       -- ROWS_PER_EVENT_MAX times the position of its event, plus its index in that event
    session_no INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    parent_id TEXT,
    depth INTEGER NOT NULL,       -- messages from the root to this one; a root has 1
    role TEXT NOT NULL,
    status TEXT NOT NULL,
    position INTEGER NOT NULL,    -- of the event that holds the text; 0 while the reply has not ended
    version INTEGER NOT NULL,
    created_at_us INTEGER NOT NULL,
    model TEXT,                   -- the name in usage figures: never one that only a client uses
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    day TEXT,                     -- of the end of a reply that counts in `usage`
    reasoning_tokens INTEGER,
    cached_tokens INTEGER,
    calls TEXT,                   -- of a reply with tool calls: open, answered or closed
    UNIQUE (session_no, message_id)
) STRICT;
CREATE INDEX messages_by_parent ON messages (session_no, parent_id);
-- Texts that a fork reads from events older than itself: another session's. By text, and by fork.
CREATE INDEX messages_borrowed ON messages (position, session_no) WHERE position > 0 AND position < session_no;
CREATE INDEX messages_of_others ON messages (session_no, position) WHERE position > 0 AND position < session_no;
-- Messages with which a session began, as forks do: the event right after session_created has them.
CREATE INDEX messages_adopted ON messages (message_id, session_no) WHERE no / 1048576 = session_no + 1;

CREATE TABLE usage (
    day TEXT NOT NULL,
    owner TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL,
    replies INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    PRIMARY KEY (day, owner, model)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_emptied ON usage (day) WHERE replies = 0;   -- found after an erasure, and deleted

-- What an erased session still counts in `usage`, as its latest erasure says. A later erasure of the same session
-- takes it back and says it again, because by then the earlier one may be erased itself.
CREATE TABLE erased_usage (
    session_no INTEGER NOT NULL,
    day TEXT NOT NULL,
    model TEXT NOT NULL,
    replies INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    PRIMARY KEY (session_no, day, model)
) STRICT, WITHOUT ROWID;
"""
)
