"""The SQL that selects sessions to erase, newest first.

A fork is newer than its origin and so comes first: no text is copied to a fork that is erased next.
"""

from collections.abc import Sequence

from projections.port import EraseCandidatesQuery
from projections.sql.parameters import QueryParameters

# Expired sessions that a retention setting erases, the longest overdue first.
LONG_EXPIRED = """
SELECT state FROM sessions INDEXED BY sessions_expired
WHERE status = 'expired' AND expires_at_us <= ? AND no NOT IN (SELECT value FROM json_each(?))
ORDER BY expires_at_us LIMIT ?
"""
OLDEST_EXPIRED = """
SELECT expires_at_us FROM sessions INDEXED BY sessions_expired
WHERE status = 'expired' AND no NOT IN (SELECT value FROM json_each(?)) ORDER BY expires_at_us LIMIT 1
"""

# Sessions that are no conversations, of each owner from the newest on until they have more than the given bytes: those
# after that which owe no reply. Only these are looked up, all others are counted in the index.
ABOVE_LIMIT = """
SELECT s.state FROM (
    SELECT no, is_open, sum(recorded_bytes) OVER (PARTITION BY owner ORDER BY no DESC) AS total_bytes
    FROM sessions INDEXED BY sessions_of_other_kinds WHERE status = 'active' AND kind <> ''
) t CROSS JOIN sessions s ON s.no = t.no
WHERE t.total_bytes > ? AND t.is_open = 0 AND t.no NOT IN (SELECT value FROM json_each(?)) ORDER BY t.no LIMIT ?
"""

# Sessions that were deleted and wait for their erasure, by `no`.
ERASING = """
SELECT state FROM sessions INDEXED BY sessions_erasing
WHERE status = 'expired' AND json_extract(state, '$.erasure') IS NOT NULL AND no > ? ORDER BY no LIMIT ?
"""


def erase_candidates_sql(wanted: EraseCandidatesQuery, labels: Sequence[int]) -> tuple[str, QueryParameters]:
    """The query for the sessions' states, and its parameters.

    With labels it scans the sessions that have the first one; otherwise the whole table, once over all pages: sorting
    an owner's sessions again for each page would cost more.
    """
    statuses = "'active', 'expired', 'deleted'" if wanted.with_deleted else "'active', 'expired'"
    source, number, terms = "sessions s NOT INDEXED", "s.no", [f"s.status IN ({statuses})"]
    if labels:
        source, number = "labels d CROSS JOIN sessions s ON s.no = d.no", "d.no"
        terms.append(f"d.label = {int(labels[0])}")
        terms += [f"EXISTS (SELECT 1 FROM labels WHERE label = {int(label)} AND no = d.no)" for label in labels[1:]]  # noqa: S608  integers
    if wanted.before_no is not None:
        terms.append(f"{number} < :before_no")
    if wanted.owner is not None:
        terms.append("s.owner = :owner")
    if wanted.expired_by_us is not None:
        terms.append("s.is_open = 0 AND s.expires_at_us <= :expired_by_us")
    query = f"SELECT s.state FROM {source} WHERE {' AND '.join(terms)} ORDER BY {number} DESC LIMIT :limit"  # noqa: S608  the above
    return query, {
        "before_no": wanted.before_no,
        "owner": wanted.owner,
        "expired_by_us": wanted.expired_by_us,
        "limit": wanted.limit,
    }
