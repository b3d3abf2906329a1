"""The tables of the projections in PostgreSQL, in the schema of the log. As in SQLite they contain no texts of users.

The table format is part of each name, so nodes of two versions of the program with different formats each keep a set.
Another set is being filled while a rebuild is under way; its tables then take the names of the present ones. So indexes
and constraints have no names of their own here.
"""

SCHEMA_VERSION = 1  # every change of a table increments it
PREFIX = f"projections_{SCHEMA_VERSION}_"
NEXT_PREFIX = f"{PREFIX}next_"  # of a rebuild, under way or finished

NAMES = ("meta", "sessions", "counts", "messages", "labels", "keys", "usage", "erased_usage")

# `owner` and ids are compared byte by byte: in the order of SQLite, and independent of the system's collations.
# Room is left in the pages of sessions, so that a change of `state` alone needs no new index entry.
_TABLES = """
CREATE TABLE {p}meta (
    one            integer PRIMARY KEY CHECK (one = 1),
    log_identity   bytea NOT NULL,    -- digest of the log's first event; empty while nothing is folded
    position       bigint NOT NULL,   -- the checkpoint: the last folded position, and its digest
    digest         bytea NOT NULL,
    label_key      bytea NOT NULL,    -- drawn for each set of tables, so it also tells one set from another
    is_stale       boolean NOT NULL,  -- old versions of rows with erased hashes may be left in pages
    is_complete    boolean NOT NULL   -- false while a rebuild fills the tables
) WITH (fillfactor = 10);

CREATE TABLE {p}sessions (
    no             bigint PRIMARY KEY,   -- position of session_created
    session_id     text COLLATE "C" NOT NULL UNIQUE,
    owner          text COLLATE "C" NOT NULL,  -- '' for none
    status         text COLLATE "C" NOT NULL,
    kind           text COLLATE "C" NOT NULL,  -- of session_created: '' for a conversation
    pinned         integer NOT NULL,
    accessed_at_us bigint NOT NULL,
    expires_at_us  bigint NOT NULL,
    is_open        integer NOT NULL,     -- 1: a reply runs or waits
    changed_at     bigint NOT NULL,      -- position of the newest event that lists of sessions show
    recorded_bytes bigint NOT NULL,      -- of the events of a session that is no conversation
    is_erasing     integer NOT NULL,     -- 1: deleted, and its content is not erased yet
    state          text NOT NULL         -- session.Session as JSON: what the actor starts from
) WITH (fillfactor = 70);
CREATE INDEX ON {p}sessions (owner, status, kind, accessed_at_us DESC, no DESC);
CREATE INDEX ON {p}sessions (status, kind, accessed_at_us DESC, no DESC);
CREATE INDEX ON {p}sessions (owner, status, kind, no DESC);
CREATE INDEX ON {p}sessions (status, kind, no DESC);
CREATE INDEX ON {p}sessions (owner, no DESC, recorded_bytes, is_open) WHERE status = 'active' AND kind <> '';
CREATE INDEX ON {p}sessions (owner, changed_at) WHERE kind = '';
CREATE INDEX ON {p}sessions (owner, status, accessed_at_us DESC, no DESC) WHERE pinned = 1;
CREATE INDEX ON {p}sessions (expires_at_us) WHERE status = 'active' AND is_open = 0;
CREATE INDEX ON {p}sessions (expires_at_us) WHERE status = 'expired';
CREATE INDEX ON {p}sessions (no) WHERE is_erasing = 1;
CREATE INDEX ON {p}sessions (no) WHERE is_open = 1;

CREATE TABLE {p}counts (status text COLLATE "C" PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 10);

CREATE TABLE {p}messages (
    no                bigint NOT NULL,  -- ROWS_PER_EVENT_MAX times the position of its event, plus its index in it
    session_no        bigint NOT NULL,
    message_id        text COLLATE "C" NOT NULL,
    parent_id         text COLLATE "C",
    depth             integer NOT NULL, -- messages from the root to this one; a root has 1
    role              text NOT NULL,
    status            text NOT NULL,
    position          bigint NOT NULL,  -- of the event that holds the text; 0 while the reply has not ended
    version           bigint NOT NULL,
    created_at_us     bigint NOT NULL,
    model             text,             -- the name in usage figures: never one that only a client uses
    prompt_tokens     bigint,
    completion_tokens bigint,
    day               text COLLATE "C", -- of the end of a reply that counts in `usage`
    reasoning_tokens  bigint,
    cached_tokens     bigint,
    calls             text,             -- of a reply with tool calls: open, answered or closed
    PRIMARY KEY (session_no, message_id)
);
-- These do not begin with session_no as the key does: a plan for an empty table might look up ids in them, one by one.
CREATE INDEX ON {p}messages (parent_id, session_no, no);
CREATE INDEX ON {p}messages ((session_no + 0), no);
-- Texts that a fork reads from events older than itself: another session's. By text, and by fork.
CREATE INDEX ON {p}messages (position, session_no) WHERE position > 0 AND position < session_no;
CREATE INDEX ON {p}messages (session_no, position) WHERE position > 0 AND position < session_no;
-- Messages with which a session began, as forks do: the event right after session_created has them.
CREATE INDEX ON {p}messages (message_id, session_no) WHERE no / 1048576 = session_no + 1;

CREATE TABLE {p}labels (label bigint NOT NULL, no bigint NOT NULL, PRIMARY KEY (label, no));
CREATE INDEX ON {p}labels (no);

CREATE TABLE {p}keys (                  -- requests with an Idempotency-Key, by a keyed hash of it
    session_no bigint NOT NULL,
    label      bigint NOT NULL,
    position   bigint NOT NULL,         -- of the event that holds the key itself
    PRIMARY KEY (session_no, label, position)
);

CREATE TABLE {p}usage (
    day               text COLLATE "C" NOT NULL,
    owner             text COLLATE "C" NOT NULL,
    model             text COLLATE "C" NOT NULL,
    replies           bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    reasoning_tokens  bigint NOT NULL,
    cached_tokens     bigint NOT NULL,
    PRIMARY KEY (day, owner, model)
) WITH (fillfactor = 20);

-- What an erased session still counts in `usage`, as its latest erasure says.
CREATE TABLE {p}erased_usage (
    session_no        bigint NOT NULL,
    day               text COLLATE "C" NOT NULL,
    model             text COLLATE "C" NOT NULL,
    replies           bigint NOT NULL,
    prompt_tokens     bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    reasoning_tokens  bigint NOT NULL,
    cached_tokens     bigint NOT NULL,
    PRIMARY KEY (session_no, day, model)
);
"""


def tables(prefix: str) -> str:
    """The statements that create the tables of one set."""
    return _TABLES.format(p=prefix)


def drop(prefix: str) -> str:
    """The statement that drops a set, as far as it is there."""
    return f"DROP TABLE IF EXISTS {', '.join(prefix + name for name in NAMES)}"
