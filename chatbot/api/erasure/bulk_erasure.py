"""Erasing many sessions: finds them in bounded steps, has each erased by its actor, and yields their receipts."""

from collections.abc import AsyncIterator, Mapping

from msgspec import Struct

from chatbot.api.erasure.erasure_bodies import EraseLine, EraseSummary, Left, SessionNotErased, SessionToErase
from chatbot.audit.receipt import read_receipt
from chatbot.runtime.clock import timestamp
from chatbot.runtime.throttle import DutyCycleThrottle
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import Caller, DeleteSession
from chatbot.sessions.ports import AskSession
from chatbot.sessions.session_queries import SessionQueries
from events.catalogue import MetadataChanged, SessionCreated
from events.errors import LogUnavailable
from events.log import EventLog
from projections.errors import ProjectionError
from projections.folds.blind_index import metadata_matches
from projections.folds.session import Session
from projections.port import EraseCandidatesQuery, ProjectionQueries

CANDIDATES_PAGE = 100  # sessions found at once
SCANNED_PAGE, SCANNED_MAX = 250, 50_000  # events of the log that one request looks at for past metadata
CAUSE = "erasure"  # what is recorded in the envelope of session_deleted


class BulkCriteria(Struct, frozen=True, kw_only=True):
    """Exactly one of the first four is set. `cursor`: go on after this one, of the answer before."""

    session_ids: tuple[str, ...] = ()
    owner: str | None = None
    metadata: Mapping[str, str] = {}
    expired_by_us: int | None = None
    ever: bool = False
    cursor: int | None = None
    limit: int = 1_000


class FoundSession(Struct, frozen=True):
    """`session` None: there is none. `cursor`: go on after this session."""

    session_id: str
    session: Session | None
    cursor: int | None


class BulkErasure:
    """One request's. `next` is the cursor of the next request once `run` or `preview` has ended; None: nothing is left
    to look at.
    """

    def __init__(
        self,
        log: EventLog,
        queries: ProjectionQueries,
        reader: SessionQueries,
        ask: AskSession,
        throttle: DutyCycleThrottle,
    ) -> None:
        self.next: int | None = None
        self.erased = 0
        self.not_erased = 0
        self._log = log
        self._queries = queries
        self._reader = reader
        self._ask_session = ask
        self._throttle = throttle

    async def run(self, criteria: BulkCriteria, command: DeleteSession, caller: Caller) -> AsyncIterator[EraseLine]:
        """A line for each session, at most `criteria.limit`, then the summary. Raises LogUnavailable, ProjectionError
        before the first erasure; later such an error ends the request, with a cursor to go on.
        """
        async for found in self._bounded(criteria):
            try:
                line = await self._erase(found, command, caller)
            except (LogUnavailable, ProjectionError, rejections.Rejection) as error:
                line = _left(found.session_id, "refused", str(error))
            self.erased += line.receipt is not None
            self.not_erased += line.not_erased is not None
            yield line
        yield EraseLine(summary=EraseSummary(self.erased, self.not_erased, self.next))

    async def preview(self, criteria: BulkCriteria) -> AsyncIterator[EraseLine]:
        """As `run`, but nothing is erased. Sessions under a legal hold are `not_erased` here, too."""
        async for found in self._bounded(criteria):
            session = found.session
            if session is None:
                self.not_erased += 1
                yield _left(found.session_id, "missing")
            elif session.status != "deleted":
                async with self._throttle.piece():
                    hold = await self._reader.find_hold(session)
                if hold is not None:
                    self.not_erased += 1
                    yield _left(session.session_id, "held", hold.reason, hold.hold_id)
                    continue
                accessed = timestamp(session.accessed_at_us)
                found_one = SessionToErase(session.session_id, session.status, session.message_count, accessed)
                yield EraseLine(to_erase=found_one)
        yield EraseLine(summary=EraseSummary(0, self.not_erased, self.next))

    async def _erase(self, found: FoundSession, command: DeleteSession, caller: Caller) -> EraseLine:
        """Raises LogUnavailable, ProjectionError, Rejection."""
        session_id = found.session_id
        if found.session is None:
            return _left(session_id, "missing")
        try:
            await self._ask_session(session_id, command, caller, cause=CAUSE)
        except rejections.SessionHeld as held:
            return _left(session_id, "held", held.members["reason"], held.members["hold_id"])
        except rejections.SessionDeleted:  # before: the receipt is that of then
            pass
        except rejections.SessionNotFound:
            return _left(session_id, "missing")
        receipt = await read_receipt(self._log, session_id)
        return _left(session_id, "erasing") if receipt is None else EraseLine(receipt=receipt)

    async def _bounded(self, criteria: BulkCriteria) -> AsyncIterator[FoundSession]:
        """At most `limit` sessions; sets `next` if there may be more."""
        count = 0
        async for found in self._find(criteria):
            if count == criteria.limit:
                return
            count += 1
            self.next = found.cursor
            yield found

    def _find(self, criteria: BulkCriteria) -> AsyncIterator[FoundSession]:
        if criteria.session_ids:
            return self._find_named(criteria.session_ids, criteria.cursor or 0)
        if criteria.ever:
            return self._find_by_past_metadata(criteria)
        return self._find_candidates(criteria)

    async def _find_named(self, session_ids: tuple[str, ...], after: int) -> AsyncIterator[FoundSession]:
        """Newest first, so that a fork comes before its source. The cursor is the number of sessions looked at."""
        await self._reader.catch_up()
        found = [(session_id, await self._queries.session(session_id)) for session_id in dict.fromkeys(session_ids)]
        ordered = sorted(found, key=lambda one: one[1].no if one[1] else 0, reverse=True)
        for number, (session_id, session) in enumerate(ordered[after:], start=after + 1):
            yield FoundSession(session_id, session, number)
        self.next = None

    async def _find_candidates(self, criteria: BulkCriteria) -> AsyncIterator[FoundSession]:
        """Newest first. The cursor is the `no` of the last session."""
        await self._reader.catch_up()
        before_no = criteria.cursor
        while True:
            async with self._throttle.piece():
                page = await self._queries.erase_candidates(
                    EraseCandidatesQuery(
                        owner=criteria.owner,
                        metadata=criteria.metadata,
                        expired_by_us=criteria.expired_by_us,
                        before_no=before_no,
                        limit=CANDIDATES_PAGE,
                    )
                )
                matching = await self._confirm(page, criteria.metadata)
            is_last = len(page) < CANDIDATES_PAGE
            for session in matching:
                yield FoundSession(session.session_id, session, session.no)
            if is_last:
                self.next = None
                return
            before_no = self.next = page[-1].no

    async def _confirm(self, page: list[Session], metadata: Mapping[str, str]) -> list[Session]:
        """The sessions of `page` that have this metadata; the blind index behind `page` may have false positives."""
        if not metadata:
            return page
        described = await self._reader.with_metadata(page)
        return [one.session for one in described if metadata_matches(one.metadata, metadata)]

    async def _find_by_past_metadata(self, criteria: BulkCriteria) -> AsyncIterator[FoundSession]:
        """In the log's order. The cursor is the position up to which the log was read; SCANNED_MAX events at most."""
        await self._reader.catch_up()
        after, scanned, seen = criteria.cursor or 0, 0, set[str]()
        while scanned < SCANNED_MAX:
            async with self._throttle.piece():
                page = await self._log.event_headers(after=after, limit=SCANNED_PAGE)
                described = [one.position for one in page if one.type in ("session_created", "metadata_changed")]
                recorded = await self._log.read_at(described)
            for position in sorted(recorded):
                session_id, event = recorded[position].stream_id, recorded[position].event
                if not isinstance(event, SessionCreated | MetadataChanged) or session_id in seen:
                    continue
                if metadata_matches(event.metadata, criteria.metadata):
                    seen.add(session_id)
                    yield FoundSession(session_id, await self._queries.session(session_id), position)
            if len(page) < SCANNED_PAGE:
                self.next = None
                return
            after = self.next = page[-1].position
            scanned += len(page)


def _left(session_id: str, status: Left, reason: str | None = None, hold_id: str | None = None) -> EraseLine:
    return EraseLine(not_erased=SessionNotErased(session_id, status, reason, hold_id))
