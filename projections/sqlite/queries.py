"""What the projections answer. One hop to the reader's thread each, and a bound on every answer.

An answer is as old as the projections are: to read your own writes, await `runner.wait_for` first. Every call
raises ProjectionsUnavailable while the file is being rebuilt or cannot be read.
"""

import sqlite3
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from events.catalogue import UsageTotal
from projections.folds.blind_index import compute_key_label, compute_label
from projections.folds.message import MessageRow
from projections.folds.session import NEVER_US, Session
from projections.sqlite.erase_candidates import (
    ERASING,
    LONG_EXPIRED,
    OLDEST_EXPIRED,
    EraseCandidatesQuery,
    erase_candidates_sql,
)
from projections.sqlite.fork_references import ForkReferences
from projections.sqlite.read_connection import Parameters, ReadConnection
from projections.sqlite.session_list import (
    LabelCount,
    SessionListQuery,
    SessionPage,
    has_rare_label,
    label_counts_sql,
    session_list_sql,
    walk_end_sql,
)
from projections.sqlite.statements import USAGE_OF_SESSION

T = TypeVar("T")

_SIBLINGS_MAX = 1_000  # answers to one message whose ids are told
_sessions = msgspec.json.Decoder(Session)
_messages = msgspec.json.Decoder(list[MessageRow])
_ids = msgspec.json.Decoder(tuple[str, ...])

_MESSAGE = f"""
    m.no, m.message_id, m.parent_id, m.depth, m.role, m.status, m.position, m.version, m.created_at_us, m.model,
    m.prompt_tokens, m.completion_tokens,
    (SELECT json_group_array(message_id) FROM (
        SELECT s.message_id FROM messages s WHERE s.session_no = m.session_no AND s.parent_id IS m.parent_id
        ORDER BY s.no LIMIT {_SIBLINGS_MAX}))
"""  # noqa: S608  the only thing put in is the constant above

# Walks from the newest message to its parents and stops at the limit, however long the session is.
PATH = f"""
WITH RECURSIVE branch (message_id) AS (
    SELECT iif(:before IS NULL, :leaf,
               (SELECT parent_id FROM messages WHERE session_no = :no AND message_id = :before))
    UNION ALL
    SELECT p.parent_id FROM branch b JOIN messages p ON p.session_no = :no AND p.message_id = b.message_id
    WHERE p.parent_id IS NOT NULL
    LIMIT :limit
)
SELECT {_MESSAGE} FROM branch b CROSS JOIN messages m ON m.session_no = :no AND m.message_id = b.message_id
ORDER BY m.depth
"""  # noqa: S608  the only thing put in is the constant above

_ROW = (
    "no, message_id, parent_id, depth, role, status, position, version, created_at_us, model, prompt_tokens,"
    " completion_tokens"
)

# One statement, so that session and messages are of the same moment, and one row: whoever steps through rows takes
# turns with the event loop for each. Nearly every message is the only one under its parent, which is quickly seen.
SNAPSHOT = f"""
WITH RECURSIVE asked (session_no, state, leaf) AS MATERIALIZED (
    SELECT no, state, coalesce(:branch, json_extract(state, '$.head')) FROM sessions WHERE session_id = :session_id
), branch (session_no, {_ROW}) AS (
    SELECT session_no, {_ROW} FROM messages
    WHERE (session_no, message_id) = (
        SELECT a.session_no, iif(:before IS NULL, a.leaf,
            (SELECT parent_id FROM messages WHERE session_no = a.session_no AND message_id = :before))
        FROM asked a)
    UNION ALL
    SELECT p.session_no, {", ".join(f"p.{column}" for column in _ROW.split(", "))}
    FROM branch b JOIN messages p ON p.session_no = b.session_no AND p.message_id = b.parent_id
    LIMIT :limit
)
SELECT a.state,
    (SELECT depth FROM messages WHERE session_no = a.session_no AND message_id = a.leaf),
    :before IS NULL OR EXISTS (SELECT 1 FROM messages WHERE session_no = a.session_no AND message_id = :before),
    (SELECT json_group_array(json_array({_ROW}, iif(
        EXISTS (SELECT 1 FROM messages s
            WHERE s.session_no = b.session_no AND s.parent_id IS b.parent_id AND s.no <> b.no),
        json((SELECT json_group_array(message_id) FROM (
            SELECT s.message_id FROM messages s WHERE s.session_no = b.session_no AND s.parent_id IS b.parent_id
            ORDER BY s.no LIMIT {_SIBLINGS_MAX}))),
        json_array(b.message_id))))
    FROM branch b)
FROM asked a
"""  # noqa: S608  the only things put in are the constants above

MESSAGES = f"SELECT {_MESSAGE} FROM messages m WHERE session_no = ? AND message_id = ?"  # noqa: S608  as above

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
SELECT {by}, sum(replies), sum(prompt_tokens), sum(completion_tokens) FROM usage
WHERE day >= :from_day AND day <= :to_day AND (:owner IS NULL OR owner = :owner)
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
OWED_ELSEWHERE = """
SELECT state FROM sessions INDEXED BY sessions_open
WHERE is_open = 1 AND no > :after AND (
    (json_extract(state, '$.open_reply') IS NOT NULL AND json_extract(state, '$.open_reply.node') IS NOT :node)
    OR EXISTS (SELECT 1 FROM json_each(state, '$.pending') WHERE json_extract(value, '$.node') IS NOT :node)
) ORDER BY no LIMIT :limit
"""


class UsageRow(Struct, frozen=True):
    """Completed replies and their tokens under one key: a day (UTC), an owner ('' for none) or a model."""

    key: str
    replies: int
    prompt_tokens: int
    completion_tokens: int


class Snapshot(Struct, frozen=True):
    """A session and messages of one branch as they were at one moment.

    `depth` is how many messages the branch has; None when the session has not got its last one. `knows_before`:
    whether it has the message that `before` named.
    """

    session: Session
    depth: int | None
    knows_before: bool
    messages: list[MessageRow]


class ProjectionQueries:
    """The read side of the projections. `texts`: which of them forks still read."""

    def __init__(self, reader: ReadConnection) -> None:
        self._reader = reader
        self.texts = ForkReferences(reader)

    async def session(self, session_id: str) -> Session | None:
        """The session, deleted and expired ones included."""
        found = await self._states("SELECT state FROM sessions WHERE session_id = ?", (session_id,))
        return found[0] if found else None

    async def list_sessions(self, listing: SessionListQuery) -> SessionPage:
        """Up to `listing.limit` sessions, and where the next page begins."""
        states, last = await self._reader.ask(lambda connection: _read_session_list(connection, listing), is_long=True)
        sessions = [self._decoded(_sessions, state) for state in states]
        if len(sessions) == listing.limit:
            return SessionPage(sessions, (sessions[-1].accessed_at_us, sessions[-1].no))
        return SessionPage(sessions, last)

    async def path(self, session_no: int, leaf: str, *, limit: int, before: str | None = None) -> list[MessageRow]:
        """The newest `limit` messages of the branch that ends in `leaf`, in time order.

        With `before`, those that lead to that message, whatever branch it is on. Empty when there is no such message.
        """
        values: Parameters = {"no": session_no, "leaf": leaf, "before": before, "limit": limit}
        return [_message(row) for row in await self._reader.rows(PATH, values)]

    async def snapshot(
        self, session_id: str, *, branch: str | None = None, limit: int, before: str | None = None
    ) -> Snapshot | None:
        """The session with the newest `limit` messages of `branch` (absent: the selected one), as `path` has them."""
        values: Parameters = {"session_id": session_id, "branch": branch, "limit": limit, "before": before}
        for state, depth, knows_before, listed in await self._reader.rows(SNAPSHOT, values):
            messages = self._decoded(_messages, listed)
            messages.sort(key=_depth)
            return Snapshot(self._decoded(_sessions, state), depth, bool(knows_before), messages)
        return None

    async def message(self, session_no: int, message_id: str) -> MessageRow | None:
        found = await self._reader.rows(MESSAGES, (session_no, message_id))
        return _message(found[0]) if found else None

    async def newest_leaf(self, session_no: int, message_id: str) -> str | None:
        """The newest message at or below `message_id`, which is where its branch goes on; None when there is none.

        Visits all messages below: about 2 us each.
        """
        values: Parameters = {"no": session_no, "message_id": message_id}
        found = await self._reader.rows(NEWEST_LEAF, values, is_long=True)
        return found[0][0] if found else None

    async def positions_of_key(self, session_no: int, idempotency_key: str) -> list[int]:
        """Positions of events that may hold this key: almost always one or none. Compare what the log holds."""
        ((key,),) = await self._reader.rows("SELECT label_key FROM meta")
        values: Parameters = (session_no, compute_key_label(key, idempotency_key))
        query = "SELECT position FROM keys WHERE session_no = ? AND label = ? ORDER BY position"
        return [row[0] for row in await self._reader.rows(query, values)]

    async def open_sessions(self, *, limit: int, after: int = 0) -> list[Session]:
        """Sessions in which a reply runs or waits, by `no`, beginning after that of `after`."""
        return await self._states(OPEN_SESSIONS, (after, limit))

    async def owed_by_other_nodes(self, node: str, *, limit: int, after: int = 0) -> list[Session]:
        """Those of `open_sessions` in which another node than `node` owes or writes a reply."""
        return await self._states(OWED_ELSEWHERE, {"node": node, "after": after, "limit": limit})

    async def due(self, now_us: int, *, limit: int) -> list[Session]:
        """Active sessions whose time is up and that owe no reply, the longest overdue first. Their actors decide."""
        return await self._states(DUE, (now_us, limit))

    async def next_deadline(self) -> int | None:
        """When the next of these sessions is due, in microseconds; None when none will ever be."""
        found = await self._reader.rows(NEXT_DEADLINE)
        deadline_us = int(found[0][0]) if found else NEVER_US
        return None if deadline_us == NEVER_US else deadline_us

    async def long_expired(self, by_us: int, *, limit: int) -> list[Session]:
        """Expired sessions whose deadline was at `by_us` or before, the oldest first: content is still there."""
        return await self._states(LONG_EXPIRED, (by_us, limit))

    async def oldest_expired(self) -> int | None:
        """The deadline of the first of these, in microseconds; None when there is none."""
        found = await self._reader.rows(OLDEST_EXPIRED)
        return int(found[0][0]) if found else None

    async def erasing(self, *, limit: int, after: int = 0) -> list[Session]:
        """Sessions that were deleted and whose content is still there, by `no`, beginning after that of `after`."""
        return await self._states(ERASING, (after, limit))

    async def erase_candidates(self, wanted: EraseCandidatesQuery) -> list[Session]:
        """Up to `wanted.limit` sessions that an erasure means, the newest first."""
        labels: list[int] = []
        if wanted.metadata:
            ((key,),) = await self._reader.rows("SELECT label_key FROM meta")
            labels = [compute_label(key, name, text) for name, text in wanted.metadata.items()]
        return await self._states(*erase_candidates_sql(wanted, labels), is_long=True)

    async def has_owners(self) -> bool:
        """Whether any session, also a deleted one, belongs to an API key."""
        return bool(await self._reader.rows("SELECT 1 FROM sessions WHERE owner > '' LIMIT 1"))

    async def counts(self) -> dict[str, int]:
        """Sessions by status: active, expired, deleted."""
        return dict(await self._reader.rows("SELECT status, n FROM counts"))

    async def usage(
        self, by: Literal["day", "owner", "model"], from_day: str, to_day: str, owner: str | None = None
    ) -> list[UsageRow]:
        """Usage of the days from `from_day` to `to_day`, both included (YYYY-MM-DD), of all owners or one."""
        values: Parameters = {"from_day": from_day, "to_day": to_day, "owner": owner}
        return [UsageRow(*row) for row in await self._reader.rows(USAGE.format(by=by), values, is_long=True)]

    async def usage_of(self, session_no: int) -> tuple[UsageTotal, ...]:
        """What one session counts in the usage, earlier erasures included: for the event that erases it."""
        rows = await self._reader.rows(f"{USAGE_OF_SESSION} ORDER BY day, model", {"no": session_no})
        return tuple(UsageTotal(*row) for row in rows)

    async def _states(self, query: str, parameters: Parameters, *, is_long: bool = False) -> list[Session]:
        rows = await self._reader.rows(query, parameters, is_long=is_long)
        return [self._decoded(_sessions, state) for (state,) in rows]

    def _decoded(self, decoder: msgspec.json.Decoder[T], text: str) -> T:
        try:
            return decoder.decode(text)
        except msgspec.DecodeError as error:
            raise self._reader.damaged(error) from error


def _read_session_list(
    connection: sqlite3.Connection, listing: SessionListQuery
) -> tuple[list[str], tuple[int, int] | None]:
    """The states of a page's sessions, and where the walk has ended where that was before the end of the list.

    All as of one moment: a session that was used between two queries would move, and others with it.
    """
    connection.execute("BEGIN")
    try:
        wanted: list[LabelCount] = []
        if listing.metadata:
            ((key,),) = connection.execute("SELECT label_key FROM meta")
            asked = [compute_label(key, name, text) for name, text in listing.metadata.items()]
            (counts,) = connection.execute(label_counts_sql(asked))
            wanted = [LabelCount(sessions, label) for sessions, label in zip(counts, asked, strict=True)]
        last: tuple[int, int] | None = None
        if wanted and not has_rare_label(wanted):
            last = connection.execute(*walk_end_sql(listing)).fetchone()
        return [state for (state,) in connection.execute(*session_list_sql(listing, wanted, last))], last
    finally:
        connection.execute("COMMIT")


def _message(row: tuple[Any, ...]) -> MessageRow:
    return MessageRow(*(*row[:-1], _ids.decode(row[-1])))


def _depth(message: MessageRow) -> int:
    return message.depth
