"""The queries of projections.db: SQL and the rows' decoding. Each takes one hop to the read connection's thread."""

import sqlite3
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from events.catalogue import UsageTotal
from projections.folds.blind_index import compute_key_label, compute_label
from projections.folds.message import MessageRow, TreeMessage
from projections.folds.session import NEVER_US, Session
from projections.fork_texts import ForkedMessage, ForkReference, ReferencedTexts, ReferencingFork
from projections.port import (
    ChangedSessions,
    ChangesQuery,
    EraseCandidatesQuery,
    NewestMessage,
    SessionListQuery,
    SessionPage,
    Snapshot,
    UsageKey,
    UsageRow,
)
from projections.sql.common_queries import (
    DUE,
    NEWEST_LEAF,
    NEXT_DEADLINE,
    OPEN_SESSIONS,
    POSITIONS_OF_KEY,
    USAGE,
    USAGE_OF_SESSION,
)
from projections.sql.erase_candidates import ABOVE_LIMIT, ERASING, LONG_EXPIRED, OLDEST_EXPIRED, erase_candidates_sql
from projections.sql.fork_references import FORKED_MESSAGES, FORKS_READING, TEXTS_READ_BY, TEXTS_READ_BY_FORKS
from projections.sql.parameters import QueryParameters
from projections.sql.session_changes import (
    NEWEST_MESSAGES,
    branch_ends,
    changed_sessions_sql,
    count_changed_sql,
)
from projections.sql.session_list import (
    LabelCount,
    has_rare_label,
    label_counts_sql,
    scan_end_sql,
    session_list_sql,
)
from projections.sqlite.read_connection import ReadConnection

T = TypeVar("T")

_SIBLINGS_MAX = 1_000  # ids of messages under one parent that a message lists
_sessions = msgspec.json.Decoder(Session)
_messages = msgspec.json.Decoder(list[MessageRow])
_tree = msgspec.json.Decoder(list[TreeMessage])
_positions = msgspec.json.Decoder(tuple[int, ...])
_ids = msgspec.json.Decoder(tuple[str, ...])

_MESSAGE = f"""
    m.no, m.message_id, m.parent_id, m.depth, m.role, m.status, m.position, m.version, m.created_at_us, m.model,
    m.prompt_tokens, m.completion_tokens, m.reasoning_tokens, m.cached_tokens, m.calls,
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
    " completion_tokens, reasoning_tokens, cached_tokens, calls"
)

# One statement, so that session and messages are of one point in time, and one row, because each row that is stepped
# through contends with the event loop for Python's lock. Nearly every message is the only one under its parent, which
# the index shows at once.
SNAPSHOT = f"""
WITH RECURSIVE asked (session_no, state, leaf) AS MATERIALIZED (
    SELECT no, state, coalesce(:branch, json_extract(state, '$.head')) FROM sessions
    WHERE session_id = :session_id AND (:owner IS NULL OR owner IN ('', :owner))
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

# One row, as above.
MESSAGE_TREE = """
SELECT json_group_array(json_array(no, message_id, parent_id, role, position, calls)) FROM (
    SELECT no, message_id, parent_id, role, position, calls FROM messages
    WHERE session_no = :no ORDER BY no LIMIT :limit)
"""

OWED_BY_OTHER_NODES = """
SELECT state FROM sessions INDEXED BY sessions_open
WHERE is_open = 1 AND no > :after AND (
    (json_extract(state, '$.open_reply') IS NOT NULL AND json_extract(state, '$.open_reply.node') IS NOT :node)
    OR EXISTS (SELECT 1 FROM json_each(state, '$.pending') WHERE json_extract(value, '$.node') IS NOT :node)
) ORDER BY no LIMIT :limit
"""


class SqliteQueries:
    """Implements port.ProjectionQueries, in whose words the methods are described."""

    def __init__(self, reader: ReadConnection) -> None:
        self._reader = reader

    async def session(self, session_id: str) -> Session | None:
        found = await self._states("SELECT state FROM sessions WHERE session_id = ?", (session_id,))
        return found[0] if found else None

    async def list_sessions(self, listing: SessionListQuery) -> SessionPage:
        states, last, position = await self._reader.ask(
            lambda connection: _read_session_list(connection, listing), is_long=True
        )
        sessions = [self._decoded(_sessions, state) for state in states]
        if len(sessions) == listing.limit:
            return SessionPage(sessions, (sessions[-1].accessed_at_us, sessions[-1].no), position)
        return SessionPage(sessions, last, position)

    async def changed_sessions(self, changes: ChangesQuery) -> ChangedSessions:
        states, position = await self._reader.ask(lambda connection: _read_changed_sessions(connection, changes))
        return ChangedSessions([self._decoded(_sessions, state) for state in states], position)

    async def count_changed(self, changes: ChangesQuery) -> int:
        ((count,),) = await self._reader.rows(*count_changed_sql(changes))
        return int(count)

    async def newest_messages(self, sessions: Sequence[Session]) -> list[NewestMessage]:
        rows = await self._reader.rows(NEWEST_MESSAGES, branch_ends(sessions), is_long=True)
        return [NewestMessage(*row[:4]) for row in rows]

    async def path(self, session_no: int, leaf: str, *, limit: int, before: str | None = None) -> list[MessageRow]:
        values: QueryParameters = {"no": session_no, "leaf": leaf, "before": before, "limit": limit}
        return [_message(row) for row in await self._reader.rows(PATH, values)]

    async def snapshot(
        self,
        session_id: str,
        *,
        branch: str | None = None,
        limit: int,
        before: str | None = None,
        owner: str | None = None,
    ) -> Snapshot | None:
        values: QueryParameters = {
            "session_id": session_id, "branch": branch, "limit": limit, "before": before, "owner": owner,
        }  # fmt: skip
        for state, depth, knows_before, listed in await self._reader.rows(SNAPSHOT, values):
            messages = self._decoded(_messages, listed)
            messages.sort(key=_depth)
            return Snapshot(self._decoded(_sessions, state), depth, bool(knows_before), messages)
        return None

    async def message(self, session_no: int, message_id: str) -> MessageRow | None:
        found = await self._reader.rows(MESSAGES, (session_no, message_id))
        return _message(found[0]) if found else None

    async def message_tree(self, session_no: int, *, limit: int) -> list[TreeMessage]:
        ((listed,),) = await self._reader.rows(MESSAGE_TREE, {"no": session_no, "limit": limit})
        return self._decoded(_tree, listed)

    async def newest_leaf(self, session_no: int, message_id: str) -> str | None:
        values: QueryParameters = {"no": session_no, "message_id": message_id}
        found = await self._reader.rows(NEWEST_LEAF, values, is_long=True)
        return found[0][0] if found else None

    async def positions_of_key(self, session_no: int, idempotency_key: str) -> list[int]:
        ((key,),) = await self._reader.rows("SELECT label_key FROM meta")
        values: QueryParameters = (session_no, compute_key_label(key, idempotency_key))
        return [row[0] for row in await self._reader.rows(POSITIONS_OF_KEY, values)]

    async def open_sessions(self, *, limit: int, after: int = 0) -> list[Session]:
        return await self._states(OPEN_SESSIONS, (after, limit))

    async def owed_by_other_nodes(self, node: str, *, limit: int, after: int = 0) -> list[Session]:
        return await self._states(OWED_BY_OTHER_NODES, {"node": node, "after": after, "limit": limit})

    async def due(self, now_us: int, *, limit: int) -> list[Session]:
        return await self._states(DUE, (now_us, limit))

    async def next_deadline(self) -> int | None:
        found = await self._reader.rows(NEXT_DEADLINE)
        deadline_us = int(found[0][0]) if found else NEVER_US
        return None if deadline_us == NEVER_US else deadline_us

    async def long_expired(self, by_us: int, *, limit: int, without: Sequence[int] = ()) -> list[Session]:
        return await self._states(LONG_EXPIRED, (by_us, _json(without), limit))

    async def oldest_expired(self, *, without: Sequence[int] = ()) -> int | None:
        found = await self._reader.rows(OLDEST_EXPIRED, (_json(without),))
        return int(found[0][0]) if found else None

    async def above_limit(self, bytes_max: int, *, limit: int, without: Sequence[int] = ()) -> list[Session]:
        return await self._states(ABOVE_LIMIT, (bytes_max, _json(without), limit), is_long=True)

    async def erasing(self, *, limit: int, after: int = 0) -> list[Session]:
        return await self._states(ERASING, (after, limit))

    async def erase_candidates(self, wanted: EraseCandidatesQuery) -> list[Session]:
        labels: list[int] = []
        if wanted.metadata:
            ((key,),) = await self._reader.rows("SELECT label_key FROM meta")
            labels = [compute_label(key, name, text) for name, text in wanted.metadata.items()]
        return await self._states(*erase_candidates_sql(wanted, labels), is_long=True)

    async def texts_read_by_forks(self, session_no: int, *, after: str, limit: int) -> ReferencedTexts | None:
        values: QueryParameters = {"no": session_no, "after": after, "limit": limit}
        ((last, positions),) = await self._reader.rows(TEXTS_READ_BY_FORKS, values)
        return None if last is None else ReferencedTexts(last, self._decoded(_positions, positions))

    async def forks_reading(self, position: int, *, after: int, limit: int) -> list[ReferencingFork]:
        values: QueryParameters = {"position": position, "after": after, "limit": limit}
        return [ReferencingFork(*row) for row in await self._reader.rows(FORKS_READING, values)]

    async def texts_read_by(self, fork_no: int, *, after: int, limit: int) -> list[ForkReference]:
        values: QueryParameters = {"fork_no": fork_no, "after": after, "limit": limit}
        return [ForkReference(*row) for row in await self._reader.rows(TEXTS_READ_BY, values)]

    async def forked_messages(self, message_id: str, *, after: int, limit: int) -> list[ForkedMessage]:
        values: QueryParameters = {"message_id": message_id, "after": after, "limit": limit}
        return [ForkedMessage(*row) for row in await self._reader.rows(FORKED_MESSAGES, values)]

    async def has_owners(self) -> bool:
        return bool(await self._reader.rows("SELECT 1 FROM sessions WHERE owner > '' LIMIT 1"))

    async def counts(self) -> dict[str, int]:
        return dict(await self._reader.rows("SELECT status, n FROM counts"))

    async def usage(self, by: UsageKey, from_day: str, to_day: str, owner: str | None = None) -> list[UsageRow]:
        values: QueryParameters = {"from_day": from_day, "to_day": to_day, "owner": owner}
        return [UsageRow(*row) for row in await self._reader.rows(USAGE.format(by=by), values, is_long=True)]

    async def usage_of(self, session_no: int) -> tuple[UsageTotal, ...]:
        rows = await self._reader.rows(f"{USAGE_OF_SESSION} ORDER BY day, model", {"no": session_no})
        return tuple(UsageTotal(*row) for row in rows)

    async def _states(self, query: str, parameters: QueryParameters, *, is_long: bool = False) -> list[Session]:
        rows = await self._reader.rows(query, parameters, is_long=is_long)
        return [self._decoded(_sessions, state) for (state,) in rows]

    def _decoded(self, decoder: msgspec.json.Decoder[T], text: str) -> T:
        try:
            return decoder.decode(text)
        except msgspec.DecodeError as error:
            raise self._reader.damaged(error) from error


def _read_changed_sessions(connection: sqlite3.Connection, changes: ChangesQuery) -> tuple[list[str], int]:
    """The states of the changed sessions, and the position that both are as of."""
    connection.execute("BEGIN")
    try:
        states = [state for (state,) in connection.execute(*changed_sessions_sql(changes))]
        return states, _position(connection)
    finally:
        connection.execute("COMMIT")


def _position(connection: sqlite3.Connection) -> int:
    ((position,),) = connection.execute("SELECT position FROM meta")
    return int(position)


def _read_session_list(
    connection: sqlite3.Connection, listing: SessionListQuery
) -> tuple[list[str], tuple[int, int] | None, int]:
    """The states of a page's sessions, the cursor at which the scan stopped, if that was before the list's end, and the
    position that all is as of.

    All in one transaction: a session that is used between two queries would move in the list.
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
            last = connection.execute(*scan_end_sql(listing)).fetchone()
        states = [state for (state,) in connection.execute(*session_list_sql(listing, wanted, last))]
        return states, last, _position(connection)
    finally:
        connection.execute("COMMIT")


def _message(row: tuple[Any, ...]) -> MessageRow:
    return MessageRow(*(*row[:-1], _ids.decode(row[-1])))


def _json(numbers: Sequence[int]) -> str:
    return msgspec.json.encode(numbers).decode()


def _depth(message: MessageRow) -> int:
    return message.depth
