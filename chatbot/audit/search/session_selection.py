"""Which sessions a search selects: from the log alone, or one by one with the help of the projections."""

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from chatbot.audit.search.event_filter import SessionFilter
from chatbot.runtime.throttle import PIECE_ROWS, DutyCycleThrottle
from events.catalogue import ContentErased, MetadataChanged, SessionCreated, SessionDeleted
from events.log import EventLog
from events.paging import read_pages
from events.record import RecordedEvent
from projections.folds.session import Session
from projections.port import EraseCandidatesQuery, ProjectionQueries, Projections

PAGE = 50  # events with contents read at once
SESSIONS_PAGE = 500  # sessions found at once
DESCRIBING_TYPES = frozenset({"session_created", "metadata_changed", "session_deleted", "content_erased"})


class SessionSelector(Protocol):
    """Decides which of some sessions a search selects."""

    async def select(self, session_ids: Iterable[str]) -> Collection[str]:
        """Those of the ids whose sessions are selected. Raises LogUnavailable."""
        ...


class EverySession:
    """Selects all, also the streams that are no sessions."""

    async def select(self, session_ids: Iterable[str]) -> Collection[str]:
        return frozenset(session_ids)


class KnownSessions:
    """Selects the sessions of a set."""

    def __init__(self, session_ids: Collection[str]) -> None:
        self._session_ids = session_ids

    async def select(self, session_ids: Iterable[str]) -> Collection[str]:
        return {one for one in session_ids if one in self._session_ids}


class SelectionFold:
    """Folds the describing events of a whole log into the ids of the selected sessions. Pure.

    The metadata of an erased session is gone, its owner is not: its erasing event names it.
    """

    def __init__(self, wanted: SessionFilter) -> None:
        self._wanted = wanted
        self._owned: dict[str, None] = {}  # by the owner; in the order of their creation
        self._described: dict[str, None] = {}  # by the metadata

    def apply(self, recorded: RecordedEvent) -> None:
        """Apply the next event of DESCRIBING_TYPES."""
        event, session_id = recorded.event, recorded.stream_id
        if isinstance(event, SessionCreated | SessionDeleted | ContentErased) and event.owner == self._wanted.owner:
            self._owned[session_id] = None
        if isinstance(event, SessionCreated | MetadataChanged) and self._wanted.matches_metadata(event.metadata):
            self._described[session_id] = None
        elif not self._wanted.ever and event is not None:
            self._described.pop(session_id, None)

    @property
    def session_ids(self) -> list[str]:
        """The ids after the events so far, the oldest session first."""
        if not self._wanted.metadata:
            return list(self._owned)
        return [one for one in self._described if self._wanted.owner is None or one in self._owned]


async def find_sessions(
    log: EventLog,
    wanted: SessionFilter,
    *,
    throttle: DutyCycleThrottle | None = None,
    on_progress: Callable[[int], None] = lambda _position: None,
) -> list[str]:
    """The ids of the selected sessions, the oldest first, for a `wanted` that is not empty. Reads the envelopes of the
    whole log. Memory: the ids of those that match. Raises LogUnavailable, UnknownEvent.
    """
    throttle = throttle or DutyCycleThrottle(rest_ratio=0)
    fold, after = SelectionFold(wanted), 0
    while True:
        async with throttle.piece():
            page = await log.envelopes(after=after, limit=PIECE_ROWS)
            described = [one.position for one in page if one.type in DESCRIBING_TYPES]
            recorded = await log.read_at(described) if described else {}
            for position in sorted(recorded):
                fold.apply(recorded[position])
        if not page:
            return fold.session_ids
        after = page[-1].position
        on_progress(after)


class ProjectedSessions:
    """Decides with the projections' read model of a session, and reads its recorded metadata in the log.

    Memory: an entry for each session asked for.
    """

    def __init__(self, log: EventLog, queries: ProjectionQueries, wanted: SessionFilter) -> None:
        self._log = log
        self._queries = queries
        self._wanted = wanted
        self._decided: dict[str, bool] = {}

    async def select(self, session_ids: Iterable[str]) -> Collection[str]:
        """As SessionSelector. Raises ProjectionError, too."""
        asked = set(session_ids)
        owned: list[Session] = []
        for session_id in asked - self._decided.keys():
            session = await self._queries.session(session_id)
            self._decided[session_id] = False
            if session is not None and self._wanted.owner in (None, session.owner):
                owned.append(session)
        if self._wanted.metadata:
            described = await self._log.read_at([one.described_at for one in owned])
            for session in owned:
                self._decided[session.session_id] = await self._has_metadata(session, described)
        else:
            self._decided |= {one.session_id: True for one in owned}
        return {one for one in asked if self._decided[one]}

    async def _has_metadata(self, session: Session, described: dict[int, RecordedEvent]) -> bool:
        recorded = described.get(session.described_at)
        if recorded is not None and self._matches(recorded):
            return True
        if not self._wanted.ever:
            return False
        async for page in read_pages(self._log, session.session_id, page_max=PAGE):
            if any(self._matches(one) for one in page):
                return True
        return False

    def _matches(self, recorded: RecordedEvent) -> bool:
        event = recorded.event
        return isinstance(event, SessionCreated | MetadataChanged) and self._wanted.matches_metadata(event.metadata)


async def find_projected(
    log: EventLog, projections: Projections, queries: ProjectionQueries, wanted: SessionFilter, most: int
) -> list[Session]:
    """The sessions that `wanted`, without `ever`, selects as of now, the oldest first: by the index of owners or of
    hashed metadata, which the log confirms. If there are more than `most`, the newest of them, more than `most`.

    Raises LogUnavailable, ProjectionError.
    """
    await projections.wait_for((await log.latest()).position)
    selector = ProjectedSessions(log, queries, wanted)
    found: list[Session] = []
    before_no: int | None = None
    while len(found) <= most:
        query = EraseCandidatesQuery(
            owner=wanted.owner, metadata=wanted.metadata, before_no=before_no, limit=SESSIONS_PAGE, with_deleted=True
        )
        page = await queries.erase_candidates(query)
        selected = await selector.select([one.session_id for one in page])
        found += [one for one in page if one.session_id in selected]
        if len(page) < SESSIONS_PAGE:
            break
        before_no = page[-1].no
    return found[::-1]
