"""The queries of the tables in PostgreSQL that are written otherwise than in SQLite, for `sql_dialect.to_postgres`."""

from projections.postgres.message_window import SIBLINGS_MAX

_SIBLINGS = f"""CASE WHEN {{m}}.parent_id IS NULL
    THEN array(SELECT s.message_id FROM messages s WHERE s.session_no = {{m}}.session_no AND s.parent_id IS NULL
               ORDER BY s.no LIMIT {SIBLINGS_MAX})
    ELSE array(SELECT s.message_id FROM messages s
               WHERE s.session_no = {{m}}.session_no AND s.parent_id = {{m}}.parent_id
               ORDER BY s.no LIMIT {SIBLINGS_MAX}) END"""  # noqa: S608  constants
# A state can be read as JSON only without a NUL, which its ids do not have either: see storable_text.py.
_STATE = r"CAST(replace(state, '\u0000', '\ufffd') AS JSON)"
_COLUMNS = [
    "no", "message_id", "parent_id", "depth", "role", "status", "position", "version", "created_at_us", "model",
    "prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens", "calls",
]  # fmt: skip


def _message(name: str) -> str:
    return ", ".join(f"{name}.{column}" for column in _COLUMNS) + f", {_SIBLINGS.format(m=name)}"


MESSAGE = f"SELECT {_message('m')} FROM messages m WHERE m.session_no = :no AND m.message_id = :message_id"  # noqa: S608  constants

# Walks from the newest message to its parents and stops at the limit, however long the session is.
PATH = f"""
WITH RECURSIVE branch AS (
    SELECT m.*, 1 AS step FROM messages m
    WHERE m.session_no = :no AND m.message_id = CASE WHEN CAST(:before AS TEXT) IS NULL THEN CAST(:leaf AS TEXT)
          ELSE (SELECT parent_id FROM messages WHERE session_no = :no AND message_id = :before) END
    UNION ALL
    SELECT p.*, b.step + 1 FROM branch b JOIN messages p ON p.session_no = :no AND p.message_id = b.parent_id
    WHERE b.step < CAST(:limit AS BIGINT)
)
SELECT {_message("b")} FROM branch b ORDER BY b.depth
"""  # noqa: S608  constants

# A session and its newest messages, newest first: nearly always they have the page that is asked for. The state is in
# the first row alone. One statement, so that all is of one point in time. The messages are numbered as the index has
# them: a window over the join would sort them.
NEWEST_WINDOW = f"""
SELECT CASE WHEN m.nth > 1 THEN NULL ELSE s.state END,
       {", ".join(f"m.{column}" for column in _COLUMNS)}
FROM sessions s
LEFT JOIN LATERAL (SELECT *, row_number() OVER (ORDER BY no DESC) AS nth FROM messages m
                   WHERE m.session_no + 0 = s.no ORDER BY no DESC LIMIT :rows) m ON true
WHERE s.session_id = :session_id AND (CAST(:owner AS TEXT) IS NULL OR s.owner = '' OR s.owner = :owner)
"""  # noqa: S608  constants

# The same for any page of any branch, however many other messages the session has.
SNAPSHOT = f"""
WITH RECURSIVE asked AS MATERIALIZED (
    SELECT no AS session_no, state, coalesce(CAST(:branch AS TEXT), {_STATE} ->> 'head') AS leaf
    FROM sessions
    WHERE session_id = :session_id AND (CAST(:owner AS TEXT) IS NULL OR owner = '' OR owner = :owner)
), branch AS (
    SELECT m.*, 1 AS step FROM asked a JOIN messages m ON m.session_no = a.session_no
        AND m.message_id = CASE WHEN CAST(:before AS TEXT) IS NULL THEN a.leaf
            ELSE (SELECT parent_id FROM messages WHERE session_no = a.session_no AND message_id = :before) END
    UNION ALL
    SELECT p.*, b.step + 1 FROM branch b JOIN messages p ON p.session_no = b.session_no AND p.message_id = b.parent_id
    WHERE b.step < CAST(:limit AS BIGINT)
)
SELECT a.state,
    (SELECT depth FROM messages WHERE session_no = a.session_no AND message_id = a.leaf),
    CAST(:before AS TEXT) IS NULL
        OR EXISTS (SELECT 1 FROM messages WHERE session_no = a.session_no AND message_id = :before),
    array(SELECT ROW({_message("b")}) FROM branch b ORDER BY b.depth)
FROM asked a
"""  # noqa: S608  constants

MESSAGE_TREE = """
SELECT no, message_id, parent_id, role, position, calls FROM messages WHERE session_no + 0 = ? ORDER BY no LIMIT ?
"""

# The end of each branch, and its parent: while a reply is written, the message that it answers has the newest text.
NEWEST_MESSAGES = """
WITH newest AS (
    SELECT m.session_no, m.message_id, m.parent_id, m.role, m.position
    FROM unnest(?::bigint[], ?::text[]) AS a (session_no, head)
    JOIN messages m ON m.session_no = a.session_no AND m.message_id = a.head
)
SELECT session_no, message_id, role, position, 1 AS is_head FROM newest WHERE position > 0
UNION ALL
SELECT p.session_no, p.message_id, p.role, p.position, 0
FROM newest n JOIN messages p ON p.session_no = n.session_no AND p.message_id = n.parent_id
WHERE p.position > 0
ORDER BY 1, 5 DESC
"""

TEXTS_READ_BY_FORKS = """
SELECT max(own.message_id), array_agg(own.position ORDER BY own.message_id) FILTER (
    WHERE EXISTS (SELECT 1 FROM messages b
                  WHERE b.position = own.position AND b.position > 0 AND b.position < b.session_no))
FROM (SELECT message_id, CASE WHEN position > :no THEN position ELSE 0 END AS position FROM messages
      WHERE session_no = :no AND message_id > :after ORDER BY message_id LIMIT :limit) own
"""

ERASING = "SELECT state FROM sessions WHERE is_erasing = 1 AND no > ? ORDER BY no LIMIT ?"

OWED_BY_OTHER_NODES = f"""
SELECT s.state FROM (SELECT no, state, {_STATE} AS json FROM sessions
                     WHERE is_open = 1 AND no > :after ORDER BY no OFFSET 0) s
WHERE (s.json -> 'open_reply' ->> 'reply_id' IS NOT NULL
       AND s.json -> 'open_reply' ->> 'node' IS DISTINCT FROM CAST(:node AS TEXT))
   OR EXISTS (SELECT 1 FROM json_array_elements(s.json -> 'pending') AS waiting (one)
              WHERE waiting.one ->> 'node' IS DISTINCT FROM CAST(:node AS TEXT))
ORDER BY s.no LIMIT :limit
"""  # noqa: S608  constants

LABEL_KEY = "SELECT label_key FROM meta"
COUNTS = "SELECT status, n FROM counts"
HAS_OWNERS = "SELECT 1 FROM sessions WHERE owner > '' LIMIT 1"
SESSION = "SELECT state FROM sessions WHERE session_id = ?"

# The states that another query finds, and the position that both are as of.
STATES_AND_POSITION = "SELECT position, array({states}) FROM meta"

# The same for a list of which one request may scan only a part: `scan_end` finds its last session.
BOUNDED_STATES_AND_POSITION = """
WITH scan_end AS MATERIALIZED ({scan_end})
SELECT position, array({states}), (SELECT accessed_at_us FROM scan_end), (SELECT no FROM scan_end) FROM meta
"""
SCAN_END_BOUNDS = {
    ":last_at_us": "coalesce((SELECT accessed_at_us FROM scan_end), -1)",
    ":last_no": "coalesce((SELECT no FROM scan_end), -1)",
}

# Few sessions are overdue, and the planner cannot know that: it would look at all sessions of the list.
OVERDUE_SOURCE = "sessions s INDEXED BY sessions_by_expiry"
OVERDUE_SOURCE_HERE = """(SELECT * FROM sessions WHERE status = 'active' AND is_open = 0 AND expires_at_us <= :now_us
    ORDER BY expires_at_us OFFSET 0) s"""
