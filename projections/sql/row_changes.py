"""What a batch changes in the tables, as rows, and the statements for rare changes: the same for both stores."""

import msgspec
from msgspec.structs import astuple

from events.catalogue import UsageTotal
from projections.folds.batch import SessionChanges
from projections.folds.message import MessageUpdate, NewMessage
from projections.folds.session import Session
from projections.sql.common_queries import USAGE_OF_SESSION

Row = tuple[int | str | bytes | None, ...]

# For an upsert of a table with the alias u.
_NUMBERS = ("replies", "prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
ADDED = ", ".join(f"{name} = u.{name} + excluded.{name}" for name in _NUMBERS)

DROP_EMPTY_COUNTS = "DELETE FROM counts WHERE n = 0"  # as in a rebuild

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

_TAKE_BACK_USAGE = f"""
INSERT INTO usage AS u (day, owner, model, replies, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens)
SELECT day, :owner, model, -replies, -prompt, -completion, -reasoning, -cached
FROM ({USAGE_OF_SESSION}) AS earlier WHERE true
ON CONFLICT (day, owner, model) DO UPDATE SET {ADDED}
"""  # noqa: S608  the only things put in are the constants above

# Run in this order, each with `no` and, for the first, the `owner` as it was.
ERASE_SESSION = (
    _TAKE_BACK_USAGE,
    "DELETE FROM messages WHERE session_no = :no",
    "DELETE FROM erased_usage WHERE session_no = :no",
    "DELETE FROM keys WHERE session_no = :no",
)
DROP_EMPTIED_USAGE = "DELETE FROM usage WHERE replies = 0"

_encoder = msgspec.json.Encoder()


def encode_state(session: Session) -> str:
    """The session as the tables keep it."""
    return _encoder.encode(session).decode()


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
        encode_state(session),
    )


def insert_rows(changes: SessionChanges) -> list[Row]:
    """For INSERT_MESSAGE, parents before children."""
    no = changes.session.no
    return [
        (row.no, no, row.message_id, row.parent_id, row.depth, no, row.parent_id, row.role, *_changing_columns(row))
        for row in changes.inserts.values()
    ]


def update_rows(changes: SessionChanges) -> list[Row]:
    """For UPDATE_MESSAGE."""
    no = changes.session.no
    return [(*_changing_columns(row), no, message_id) for message_id, row in changes.updates.items()]


def _changing_columns(row: NewMessage | MessageUpdate) -> Row:
    """What a later event may change of a message's row."""
    return (
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


def usage_row(used: UsageTotal) -> Row:
    """For ADD_USAGE after the owner, for ADD_ERASED_USAGE after the session."""
    return astuple(used)
