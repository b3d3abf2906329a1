"""The SQL of what changes in lists of sessions: which sessions have changed, and their newest messages."""

from collections.abc import Sequence

import msgspec

from projections.folds.session import Session
from projections.port import ChangesQuery
from projections.sql.parameters import QueryParameters

# The index by change begins with the owner. Without keys there is nearly always only one, so each is looked up in turn.
_OWNERS = """
WITH RECURSIVE owners (owner) AS (
    SELECT min(owner) FROM sessions
    UNION ALL
    SELECT (SELECT min(s.owner) FROM sessions s WHERE s.owner > o.owner) FROM owners o WHERE o.owner IS NOT NULL
)
"""
_ONE_OWNER = "sessions s WHERE s.owner = :owner AND s.changed_at > :after AND s.kind = ''"
_ANY_OWNER = "owners o CROSS JOIN sessions s ON s.owner = o.owner AND s.changed_at > :after AND s.kind = ''"

# The end of each branch, and its parent: while a reply is written, the message that it answers has the newest text.
NEWEST_MESSAGES = """
WITH asked (session_no, head) AS MATERIALIZED (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:asked)
), newest (session_no, message_id, parent_id, role, position) AS (
    SELECT m.session_no, m.message_id, m.parent_id, m.role, m.position
    FROM asked a CROSS JOIN messages m ON m.session_no = a.session_no AND m.message_id = a.head
)
SELECT session_no, message_id, role, position, 1 AS is_head FROM newest WHERE position > 0
UNION ALL
SELECT p.session_no, p.message_id, p.role, p.position, 0
FROM newest n CROSS JOIN messages p ON p.session_no = n.session_no AND p.message_id = n.parent_id
WHERE p.position > 0
ORDER BY 1, 5 DESC
"""

_encode = msgspec.json.Encoder().encode


def changed_sessions_sql(changes: ChangesQuery) -> tuple[str, QueryParameters]:
    """The query for the changed sessions' states, in the order of their changes."""
    common, source = _source(changes)
    return f"{common} SELECT s.state FROM {source} ORDER BY s.changed_at LIMIT :limit", _parameters(changes)  # noqa: S608  constants


def count_changed_sql(changes: ChangesQuery) -> tuple[str, QueryParameters]:
    """The query for the number of changed sessions, up to the limit."""
    common, source = _source(changes)
    return f"SELECT count(*) FROM ({common} SELECT 1 FROM {source} LIMIT :limit) AS changed", _parameters(changes)  # noqa: S608  constants


def branch_ends(sessions: Sequence[Session]) -> QueryParameters:
    """The parameters of NEWEST_MESSAGES."""
    return {"asked": _encode([(one.no, one.head) for one in sessions if one.head is not None]).decode()}


def _source(changes: ChangesQuery) -> tuple[str, str]:
    return (_OWNERS, _ANY_OWNER) if changes.any_owner else ("", _ONE_OWNER)


def _parameters(changes: ChangesQuery) -> QueryParameters:
    return {"owner": changes.owner or "", "after": changes.after, "limit": changes.limit}
