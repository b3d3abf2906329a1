"""The SQL that writes a batch of changes, one statement per table and kind of change."""

import msgspec
from msgspec.structs import astuple

from events.catalogue import UsageTotal
from projections.folds.batch import SessionChanges
from projections.folds.session import Session
from projections.sqlite.schema import HASHES

Row = tuple[int | str | bytes | None, ...]

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
_NUMBERS = ("replies", "prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
_ADDED = ", ".join(f"{name} = {name} + excluded.{name}" for name in _NUMBERS)

DROP_EMPTY_COUNTS = "DELETE FROM counts WHERE n = 0"  # as in a rebuild

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

# Run in this order: what is below the withdrawn reply moves up to the parent of its message.
WITHDRAW_MESSAGE = (
    """
    WITH RECURSIVE below (message_id) AS (
        SELECT message_id FROM messages WHERE session_no = :no AND parent_id = :reply_id
        UNION ALL
        SELECT c.message_id FROM below b CROSS JOIN messages c ON c.session_no = :no AND c.parent_id = b.message_id
    )
    UPDATE messages SET depth = depth - 2
    WHERE session_no = :no AND message_id IN (SELECT message_id FROM below)
    """,
    "UPDATE messages SET parent_id = :parent_id WHERE session_no = :no AND parent_id = :reply_id",
    "DELETE FROM messages WHERE session_no = :no AND message_id IN (:message_id, :reply_id)",
)

DELETE_LABELS = "DELETE FROM labels WHERE no = ?"
ADD_LABEL = "INSERT INTO labels (label, no) VALUES (?, ?) ON CONFLICT DO NOTHING"

ADD_USAGE = f"""
INSERT INTO usage (owner, day, model, replies, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (day, owner, model) DO UPDATE SET {_ADDED}
"""  # noqa: S608  the only thing put in is the constant above

ADD_ERASED_USAGE = f"""
INSERT INTO erased_usage
    (session_no, day, model, replies, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (session_no, day, model) DO UPDATE SET {_ADDED}
"""  # noqa: S608  the only thing put in is the constant above

# The usage of one session: its completed replies, and the totals of earlier ones in its last erasure.
USAGE_OF_SESSION = """
SELECT day, model, sum(replies) AS replies, sum(prompt) AS prompt, sum(completion) AS completion,
       sum(reasoning) AS reasoning, sum(cached) AS cached FROM (
    SELECT day, coalesce(model, '') AS model, 1 AS replies, coalesce(prompt_tokens, 0) AS prompt,
           coalesce(completion_tokens, 0) AS completion, coalesce(reasoning_tokens, 0) AS reasoning,
           coalesce(cached_tokens, 0) AS cached
    FROM messages WHERE session_no = :no AND day IS NOT NULL
    UNION ALL
    SELECT day, model, replies, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens
    FROM erased_usage WHERE session_no = :no
) GROUP BY day, model
"""

_TAKE_BACK_USAGE = f"""
INSERT INTO usage (day, owner, model, replies, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens)
SELECT day, :owner, model, -replies, -prompt, -completion, -reasoning, -cached FROM ({USAGE_OF_SESSION}) WHERE true
ON CONFLICT (day, owner, model) DO UPDATE SET {_ADDED}
"""  # noqa: S608  the only things put in are the constants above

# Run in this order, each with `no` and, for the first, the `owner` as it was.
ERASE_SESSION = (
    _TAKE_BACK_USAGE,
    "DELETE FROM messages WHERE session_no = :no",
    "DELETE FROM erased_usage WHERE session_no = :no",
    "DELETE FROM keys WHERE session_no = :no",
)
DROP_EMPTIED_USAGE = "DELETE FROM usage WHERE replies = 0"

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

_encoder = msgspec.json.Encoder()


def session_row(session: Session) -> Row:
    """For UPSERT_SESSION."""
    return (
        session.no,
        session.session_id,
        session.owner or "",
        session.status,
        session.kind,
        int(session.pinned),
        session.accessed_at_us,
        session.expires_at_us,
        int(session.open_reply is not None or bool(session.pending)),
        session.changed_at,
        session.recorded_bytes,
        _encoder.encode(session).decode(),
    )


def moved_row(session: Session) -> Row:
    """For UPDATE_SESSION."""
    no, _, _, _, _, _, *moved = session_row(session)
    return (*moved, no)


def state_row(session: Session) -> Row:
    """For UPDATE_STATE."""
    return _encoder.encode(session).decode(), session.no


def insert_rows(changes: SessionChanges) -> list[Row]:
    """For INSERT_MESSAGE, parents before children."""
    session_no = changes.session.no
    return [
        (
            row.no,
            session_no,
            row.message_id,
            row.parent_id,
            row.depth,
            session_no,
            row.parent_id,
            row.role,
            row.status,
            row.position,
            row.version,
            row.created_at_us,
            row.model,
            row.prompt_tokens,
            row.completion_tokens,
            row.day,
            row.reasoning_tokens,
            row.cached_tokens,
            row.calls,
        )
        for row in changes.inserts.values()
    ]


def update_rows(changes: SessionChanges) -> list[Row]:
    """For UPDATE_MESSAGE."""
    session_no = changes.session.no
    return [
        (
            row.status,
            row.position,
            row.version,
            row.created_at_us,
            row.model,
            row.prompt_tokens,
            row.completion_tokens,
            row.day,
            row.reasoning_tokens,
            row.cached_tokens,
            row.calls,
            session_no,
            message_id,
        )
        for message_id, row in changes.updates.items()
    ]


def usage_row(used: UsageTotal) -> Row:
    """For ADD_USAGE after the owner, for ADD_ERASED_USAGE after the session."""
    return astuple(used)
