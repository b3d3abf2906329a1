"""The queries of the projections in PostgreSQL, on the connections with which a process reads the log."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from events.catalogue import UsageTotal
from events.errors import LogBusy, LogUnavailable
from events.storage.postgres.postgres_read_pool import PostgresReadPool
from projections.errors import ProjectionsUnavailable
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
from projections.postgres import table_statements as sql
from projections.postgres.checked_query import TablesBehind, TablesReplaced, checked_query, checked_rows
from projections.postgres.message_window import OTHERS_MAX, page_in_window
from projections.postgres.projection_schema import PREFIX
from projections.postgres.storable_text import storable
from projections.sql import common_queries
from projections.sql.erase_candidates import ABOVE_LIMIT, LONG_EXPIRED, OLDEST_EXPIRED, erase_candidates_sql
from projections.sql.fork_references import FORKED_MESSAGES, FORKS_READING, TEXTS_READ_BY
from projections.sql.session_changes import changed_sessions_sql, count_changed_sql
from projections.sql.session_list import (
    LabelCount,
    has_rare_label,
    label_counts_sql,
    scan_end_sql,
    session_list_sql,
)

T = TypeVar("T")

KEY_READS_MAX = 3  # of the key of hashes for one query: tables are replaced rarely

_sessions = msgspec.json.Decoder(Session)
_GONE_CODES = frozenset({"42P01", "42703"})  # a table or a column is missing


class TableQueries:
    """Implements port.ProjectionQueries, in whose words the methods are described."""

    def __init__(
        self,
        pool: PostgresReadPool,
        on_trouble: Callable[[str | None], None],
        known_position: Callable[[], int] = lambda: 0,
        on_behind: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`on_trouble` is called with the reason to replace the tables, or with None if they cannot be read now;
        `on_behind` with the position of tables that are behind `known_position`: they answer nothing.
        """
        self._pool = pool
        self._on_trouble = on_trouble
        self._known_position = known_position
        self._on_behind = on_behind
        self._is_closed = False

    def close(self) -> None:
        """Refuse every further query."""
        self._is_closed = True

    async def session(self, session_id: str) -> Session | None:
        found = await self._states(sql.SESSION, (session_id,))
        return found[0] if found else None

    async def list_sessions(self, listing: SessionListQuery) -> SessionPage:
        if listing.metadata:
            return await self._with_key(lambda key: self._list_sessions(listing, key))
        return await self._list_sessions(listing, None)

    async def _list_sessions(self, listing: SessionListQuery, key: bytes | None) -> SessionPage:
        wanted: list[LabelCount] = []
        if key is not None:
            labels = _labels(key, listing.metadata)
            ((*counts,),) = await self._rows(label_counts_sql(labels), key=key)
            wanted = [LabelCount(sessions, label) for sessions, label in zip(counts, labels, strict=True)]
        last: tuple[int, int] | None = None
        if wanted and not has_rare_label(wanted):
            scan_end, scanned = scan_end_sql(listing)
            states, values = session_list_sql(listing, wanted, (0, 0))
            for name, bound in sql.SCAN_END_BOUNDS.items():
                states = states.replace(name, bound)
            query = sql.BOUNDED_STATES_AND_POSITION.format(states=_here(states), scan_end=scan_end)
            ((position, found, *end),) = await self._rows(
                query, {**_named(values), **_named(scanned)}, is_long=True, key=key
            )
            last = None if end[0] is None else (end[0], end[1])
        else:
            states, values = session_list_sql(listing, wanted)
            query = sql.STATES_AND_POSITION.format(states=_here(states))
            ((position, found),) = await self._rows(query, values, is_long=True, key=key)
        sessions = [self._session(state) for state in found]
        if len(sessions) == listing.limit:
            last = sessions[-1].accessed_at_us, sessions[-1].no
        return SessionPage(sessions, last, position)

    async def changed_sessions(self, changes: ChangesQuery) -> ChangedSessions:
        states, values = changed_sessions_sql(changes)
        ((position, found),) = await self._rows(sql.STATES_AND_POSITION.format(states=states), values)
        return ChangedSessions([self._session(state) for state in found], position)

    async def count_changed(self, changes: ChangesQuery) -> int:
        ((count,),) = await self._rows(*count_changed_sql(changes))
        return int(count)

    async def newest_messages(self, sessions: Sequence[Session]) -> list[NewestMessage]:
        asked = [(one.no, one.head) for one in sessions if one.head is not None]
        values = [no for no, _ in asked], [head for _, head in asked]
        return [NewestMessage(*row[:4]) for row in await self._rows(sql.NEWEST_MESSAGES, values, is_long=True)]

    async def path(self, session_no: int, leaf: str, *, limit: int, before: str | None = None) -> list[MessageRow]:
        values = {"no": session_no, "leaf": leaf, "before": before, "limit": limit}
        return [_message(row) for row in await self._rows(sql.PATH, values)]

    async def snapshot(
        self,
        session_id: str,
        *,
        branch: str | None = None,
        limit: int,
        before: str | None = None,
        owner: str | None = None,
    ) -> Snapshot | None:
        if before is None:
            rows_max = limit + OTHERS_MAX
            values: dict[str, Any] = {"session_id": session_id, "owner": owner, "rows": rows_max}
            found = await self._rows(sql.NEWEST_WINDOW, values)
            if not found:
                return None
            session = self._session(found[0][0])
            window = [row[1:] for row in found if row[1] is not None]
            leaf = session.head if branch is None else branch
            page = page_in_window(window, storable(leaf), limit=limit, is_whole=len(window) < rows_max)
            if page is not None:
                return Snapshot(session, page[-1].depth if page else None, True, page)
        values = {"session_id": session_id, "branch": branch, "limit": limit, "before": before, "owner": owner}
        for state, depth, knows_before, rows in await self._rows(sql.SNAPSHOT, values):
            return Snapshot(self._session(state), depth, knows_before, [_message(row) for row in rows])
        return None

    async def message(self, session_no: int, message_id: str) -> MessageRow | None:
        found = await self._rows(sql.MESSAGE, {"no": session_no, "message_id": message_id})
        return _message(found[0]) if found else None

    async def message_tree(self, session_no: int, *, limit: int) -> list[TreeMessage]:
        return [TreeMessage(*row) for row in await self._rows(sql.MESSAGE_TREE, (session_no, limit))]

    async def newest_leaf(self, session_no: int, message_id: str) -> str | None:
        values = {"no": session_no, "message_id": message_id}
        found = await self._rows(common_queries.NEWEST_LEAF, values, is_long=True)
        return found[0][0] if found else None

    async def positions_of_key(self, session_no: int, idempotency_key: str) -> list[int]:
        async def positions(key: bytes) -> list[int]:
            values = (session_no, compute_key_label(key, idempotency_key))
            return [row[0] for row in await self._rows(common_queries.POSITIONS_OF_KEY, values, key=key)]

        return await self._with_key(positions)

    async def open_sessions(self, *, limit: int, after: int = 0) -> list[Session]:
        return await self._states(common_queries.OPEN_SESSIONS, (after, limit))

    async def owed_by_other_nodes(self, node: str, *, limit: int, after: int = 0) -> list[Session]:
        return await self._states(sql.OWED_BY_OTHER_NODES, {"node": node, "after": after, "limit": limit})

    async def due(self, now_us: int, *, limit: int) -> list[Session]:
        return await self._states(common_queries.DUE, (now_us, limit))

    async def next_deadline(self) -> int | None:
        found = await self._rows(common_queries.NEXT_DEADLINE)
        deadline_us = int(found[0][0]) if found else NEVER_US
        return None if deadline_us == NEVER_US else deadline_us

    async def long_expired(self, by_us: int, *, limit: int, without: Sequence[int] = ()) -> list[Session]:
        return await self._states(LONG_EXPIRED, (by_us, list(without), limit))

    async def oldest_expired(self, *, without: Sequence[int] = ()) -> int | None:
        found = await self._rows(OLDEST_EXPIRED, (list(without),))
        return int(found[0][0]) if found else None

    async def above_limit(self, bytes_max: int, *, limit: int, without: Sequence[int] = ()) -> list[Session]:
        return await self._states(ABOVE_LIMIT, (bytes_max, list(without), limit), is_long=True)

    async def erasing(self, *, limit: int, after: int = 0) -> list[Session]:
        return await self._states(sql.ERASING, (after, limit))

    async def erase_candidates(self, wanted: EraseCandidatesQuery) -> list[Session]:
        async def candidates(key: bytes | None) -> list[Session]:
            labels = [] if key is None else _labels(key, wanted.metadata)
            return await self._states(*erase_candidates_sql(wanted, labels), is_long=True, key=key)

        return await (self._with_key(candidates) if wanted.metadata else candidates(None))

    async def texts_read_by_forks(self, session_no: int, *, after: str, limit: int) -> ReferencedTexts | None:
        values = {"no": session_no, "after": after, "limit": limit}
        ((last, positions),) = await self._rows(sql.TEXTS_READ_BY_FORKS, values)
        return None if last is None else ReferencedTexts(last, tuple(positions or ()))

    async def forks_reading(self, position: int, *, after: int, limit: int) -> list[ReferencingFork]:
        values = {"position": position, "after": after, "limit": limit}
        return [ReferencingFork(*row) for row in await self._rows(FORKS_READING, values)]

    async def texts_read_by(self, fork_no: int, *, after: int, limit: int) -> list[ForkReference]:
        values = {"fork_no": fork_no, "after": after, "limit": limit}
        return [ForkReference(*row) for row in await self._rows(TEXTS_READ_BY, values)]

    async def forked_messages(self, message_id: str, *, after: int, limit: int) -> list[ForkedMessage]:
        values = {"message_id": message_id, "after": after, "limit": limit}
        return [ForkedMessage(*row) for row in await self._rows(FORKED_MESSAGES, values)]

    async def has_owners(self) -> bool:
        return bool(await self._rows(sql.HAS_OWNERS))

    async def counts(self) -> dict[str, int]:
        return dict(await self._rows(sql.COUNTS))

    async def usage(self, by: UsageKey, from_day: str, to_day: str, owner: str | None = None) -> list[UsageRow]:
        values = {"from_day": from_day, "to_day": to_day, "owner": owner}
        rows = await self._rows(common_queries.USAGE.format(by=by), values, is_long=True)
        return [UsageRow(key, *map(int, numbers)) for key, *numbers in rows]

    async def usage_of(self, session_no: int) -> tuple[UsageTotal, ...]:
        rows = await self._rows(f"{common_queries.USAGE_OF_SESSION} ORDER BY day, model", {"no": session_no})
        return tuple(UsageTotal(day, model, *map(int, numbers)) for day, model, *numbers in rows)

    async def _with_key(self, ask: Callable[[bytes], Awaitable[T]]) -> T:
        """What `ask` returns for the key of hashes. It is repeated where that is no longer the key of the tables."""
        for _ in range(KEY_READS_MAX):
            ((key,),) = await self._rows(sql.LABEL_KEY)
            with suppress(TablesReplaced):
                return await ask(key)
        raise ProjectionsUnavailable("the projections are being rebuilt")

    async def _states(
        self, query: str, values: Any, *, is_long: bool = False, key: bytes | None = None
    ) -> list[Session]:
        return [self._session(state) for (state,) in await self._rows(query, values, is_long=is_long, key=key)]

    async def _rows(
        self, query: str, values: Any = (), *, is_long: bool = False, key: bytes | None = None
    ) -> list[Any]:
        """The rows of a query in SQLite's dialect. With `key`, of the tables with that key of hashes only.

        Raises ProjectionsUnavailable, and with `key` TablesReplaced.
        """
        if self._is_closed:
            raise ProjectionsUnavailable("the projections are closed")
        text, names = checked_query(query, PREFIX, is_keyed=key is not None)
        known = self._known_position()
        try:
            parameters = [*map(storable, [values[name] for name in names] or values)]
            if key is not None:
                parameters.append(key)
            return checked_rows(await self._pool.fetch(text, *parameters, is_long=is_long), known)
        except TablesBehind as behind:
            self._on_behind(behind.position)
            raise ProjectionsUnavailable("the projections are being rebuilt") from behind
        except TablesReplaced:
            if key is not None:
                raise
            raise self._damaged("its checkpoint is missing") from None
        except LogBusy as error:
            raise ProjectionsUnavailable(str(error)) from error
        except LogUnavailable as error:
            code = getattr(error.__cause__, "sqlstate", None)
            if code in _GONE_CODES:
                self._on_trouble(None)  # the store looks for its tables
                raise ProjectionsUnavailable("the projections are being rebuilt") from error
            self._on_trouble(None)
            raise ProjectionsUnavailable(f"the projections cannot be read: {error}") from error

    def _session(self, state: str) -> Session:
        try:
            return _sessions.decode(state)
        except msgspec.DecodeError as error:
            raise self._damaged(f"it is damaged ({error})") from error

    def _damaged(self, reason: str) -> ProjectionsUnavailable:
        self._on_trouble(reason)
        return ProjectionsUnavailable("the projections are being rebuilt")


def _here(states: str) -> str:
    return states.replace(sql.OVERDUE_SOURCE, sql.OVERDUE_SOURCE_HERE)


def _labels(key: bytes, metadata: Mapping[str, str]) -> list[int]:
    return [compute_label(key, name, text) for name, text in metadata.items()]


def _named(values: Any) -> dict[str, Any]:
    return dict(values)


def _message(row: Sequence[Any]) -> MessageRow:
    columns: list[Any] = [*row]
    columns[-1] = tuple(columns[-1])  # the siblings
    return MessageRow(*columns)
