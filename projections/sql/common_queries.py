"""Queries that both stores of the projections run as they are here."""

# A child's `no` is always higher than its parent's, so the newest message of the subtree is a leaf.
NEWEST_LEAF = """
WITH RECURSIVE below (no, message_id) AS (
    SELECT no, message_id FROM messages WHERE session_no = :no AND message_id = :message_id
    UNION ALL
    SELECT c.no, c.message_id FROM below b JOIN messages c ON c.session_no = :no AND c.parent_id = b.message_id
)
SELECT message_id FROM below ORDER BY no DESC LIMIT 1
"""

USAGE = """
SELECT {by}, sum(replies), sum(prompt_tokens), sum(completion_tokens), sum(reasoning_tokens), sum(cached_tokens)
FROM usage
WHERE day >= :from_day AND day <= :to_day AND (CAST(:owner AS TEXT) IS NULL OR owner = :owner)
GROUP BY {by} ORDER BY {by}
"""


# Named indexes: left to itself, SQLite sorts all active sessions instead.
DUE = """
SELECT state FROM sessions INDEXED BY sessions_by_expiry
WHERE status = 'active' AND is_open = 0 AND expires_at_us <= ? ORDER BY expires_at_us LIMIT ?
"""
NEXT_DEADLINE = """
SELECT expires_at_us FROM sessions INDEXED BY sessions_by_expiry
WHERE status = 'active' AND is_open = 0 ORDER BY expires_at_us LIMIT 1
"""
OPEN_SESSIONS = "SELECT state FROM sessions INDEXED BY sessions_open WHERE is_open = 1 AND no > ? ORDER BY no LIMIT ?"
POSITIONS_OF_KEY = "SELECT position FROM keys WHERE session_no = ? AND label = ? ORDER BY position"

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
) AS used GROUP BY day, model
"""
