"""The SQL that writes a batch of changes, one statement per table and kind of change."""

from projections.folds.session import Session
from projections.sql.row_changes import ADDED, Row, encode_state, session_row
from projections.sqlite.schema import HASHES

UPSERT_SESSION = """
INSERT INTO sessions
    (no, session_id, owner, status, kind, pinned, accessed_at_us, expires_at_us, is_open, changed_at, recorded_bytes,
     state)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (no) DO UPDATE SET owner = excluded.owner, status = excluded.status, kind = excluded.kind,
    pinned = excluded.pinned, accessed_at_us = excluded.accessed_at_us, expires_at_us = excluded.expires_at_us,
    is_open = excluded.is_open, changed_at = excluded.changed_at, recorded_bytes = excluded.recorded_bytes,
    state = excluded.state
"""

# For most changes: owner, status, kind and pin stay, so the indexes that begin with them are not touched.
UPDATE_SESSION = """
UPDATE sessions SET accessed_at_us = ?, expires_at_us = ?, is_open = ?, changed_at = ?, recorded_bytes = ?, state = ?
WHERE no = ?
"""

# For checkpoints of running replies, which touch no index.
UPDATE_STATE = "UPDATE sessions SET state = ? WHERE no = ?"

ADD_COUNT = "INSERT INTO counts (status, n) VALUES (?, ?) ON CONFLICT (status) DO UPDATE SET n = n + excluded.n"

# A parent is always an earlier row; the child of an erased one is a root. An id that occurs twice keeps its first row.
INSERT_MESSAGE = """
INSERT INTO messages (no, session_no, message_id, parent_id, depth, role, status, position, version,
                      created_at_us, model, prompt_tokens, completion_tokens, day, reasoning_tokens, cached_tokens,
                      calls)
VALUES (?, ?, ?, ?,
        coalesce(?, 1 + (SELECT depth FROM messages WHERE session_no = ? AND message_id = ?), 1),
        ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

UPDATE_MESSAGE = """
UPDATE messages SET status = ?, position = ?, version = ?, created_at_us = coalesce(?, created_at_us),
    model = coalesce(?, model), prompt_tokens = ?, completion_tokens = ?, day = ?, reasoning_tokens = ?,
    cached_tokens = ?, calls = ?
WHERE session_no = ? AND message_id = ?
"""

UPDATE_TEXT_POSITION = "UPDATE messages SET position = ? WHERE session_no = ? AND message_id = ?"
UPDATE_CALLS = "UPDATE messages SET calls = ? WHERE session_no = ? AND message_id = ? AND calls IS NOT NULL"
ADD_KEY = "INSERT INTO keys (session_no, label, position) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"

DELETE_LABELS = "DELETE FROM labels WHERE no = ?"
ADD_LABEL = "INSERT INTO labels (label, no) VALUES (?, ?) ON CONFLICT DO NOTHING"

ADD_USAGE = f"""
INSERT INTO usage AS u (owner, day, model, replies, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (day, owner, model) DO UPDATE SET {ADDED}
"""  # noqa: S608  the only thing put in is the constant above

ADD_ERASED_USAGE = f"""
INSERT INTO erased_usage AS u
    (session_no, day, model, replies, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (session_no, day, model) DO UPDATE SET {ADDED}
"""  # noqa: S608  the only thing put in is the constant above

MARK_STALE = "UPDATE meta SET is_stale = 1"
IS_STALE = "SELECT is_stale FROM meta"
CLEAR_STALE = "UPDATE meta SET is_stale = 0"
COUNT_HASHES = "SELECT count(*) FROM (SELECT 1 FROM labels UNION ALL SELECT 1 FROM keys LIMIT ?)"

# The old tables' pages are zeroed when freed (secure_delete); the new tables are written in order, without rebalancing.
REWRITE_HASHES = f"""
BEGIN IMMEDIATE;
ALTER TABLE labels RENAME TO old_labels;
ALTER TABLE keys RENAME TO old_keys;
DROP INDEX labels_of_session;
{HASHES}
INSERT INTO labels SELECT * FROM old_labels ORDER BY label, no;
INSERT INTO keys SELECT * FROM old_keys ORDER BY session_no, label, position;
DROP TABLE old_labels;
DROP TABLE old_keys;
COMMIT;
"""  # noqa: S608  the only thing put in is the constant above

MOVE_CHECKPOINT = "UPDATE meta SET position = ?, digest = ?, log_identity = ?"
STATES = "SELECT state FROM sessions WHERE session_id IN (SELECT value FROM json_each(?))"


def moved_row(session: Session) -> Row:
    """For UPDATE_SESSION."""
    no, _, _, _, _, _, *moved = session_row(session)
    return (*moved, no)


def state_row(session: Session) -> Row:
    """For UPDATE_STATE."""
    return encode_state(session), session.no
