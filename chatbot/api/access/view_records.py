"""auth.record_reads: who read which session is in the session's own stream, as session_viewed.

The event is recorded before the session is read, so there is no read without its record: if nothing can be recorded,
the read is refused (503). It may be that a read is recorded whose request is then refused, such as for a query that is
not allowed. Lists of sessions, and the whole log (/api/events), are not reads of a session.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, Protocol

from aiohttp import web
from msgspec import Struct
from msgspec.structs import replace

from chatbot.api.access.authorization import CALLER, is_auditor
from chatbot.api.openai_responses.object_ids import read_conversation_id, read_response_id
from chatbot.api.requests import canonical_id
from chatbot.runtime.throttle import batched
from chatbot.sessions.domain.commands import Caller, RecordView
from chatbot.sessions.domain.rejections import SessionNotFound
from projections.folds.session import Session

ViewKind = Literal["session", "history", "feed", "export", "events", "media", "report"]

VIEWS_MAX = 10_000  # that are remembered: about 3 MB. The oldest is forgotten, so its next read is recorded again
REPORTED_AT_ONCE = 32  # sessions of a report that are recorded at the same time
_MEDIA = "/api/media/{sha256}"
VIEWED_ROUTES: dict[str, ViewKind] = {
    "/api/sessions/{session_id}": "session",
    "/api/sessions/{session_id}/messages": "history",
    "/api/sessions/{session_id}/stream": "feed",
    "/api/sessions/{session_id}/export": "export",
    "/api/sessions/{session_id}/events": "events",
    _MEDIA: "media",
    "/v1/conversations/{conversation_id}": "session",
    "/v1/conversations/{conversation_id}/items": "history",
    "/v1/conversations/{conversation_id}/items/{item_id}": "history",
    "/v1/responses/{response_id}": "history",
    "/v1/responses/{response_id}/input_items": "history",
}


class _View(Struct, frozen=True):
    """`owner`: the name of the key that reads."""

    owner: str | None
    session_id: str
    what: ViewKind


class FindSession(Protocol):
    """As SessionQueries.find_recorded."""

    async def __call__(self, session_id: str, caller: Caller, *, any_owner: bool = False) -> Session: ...


RecordCommand = Callable[[str, RecordView, Caller], Awaitable[object]]


class ViewRecorder:
    """Records reads, each kind of each session by each key at most once in sessions.access_resolution_s."""

    def __init__(self, find: FindSession, record: RecordCommand, clock: Callable[[], int], interval_s: float) -> None:
        """`record` gives the session a command. `clock`: Unix microseconds."""
        self._find = find
        self._record_command = record
        self._clock = clock
        self._interval_us = round(interval_s * 1_000_000)
        self._recorded_us: OrderedDict[_View, int] = OrderedDict()
        self._pending: dict[_View, asyncio.Task[None]] = {}

    async def record(self, request: web.Request) -> None:
        """Record what a GET request reads, if that is a session that the caller may read.

        Raises LogUnavailable, Overloaded, Draining, ProjectionError.
        """
        view = self._view_of(request)
        if view is not None:
            any_owner = view.what in ("events", "export") and is_auditor(request)
            await self._record(view, request[CALLER], any_owner=any_owner)

    async def record_named(self, session_id: str, what: ViewKind, caller: Caller) -> None:
        """Record that a request reads this session, which it has named otherwise. Raises as `record`."""
        await self._record(_View(caller.owner, session_id, what), caller, any_owner=False)

    async def record_report(self, session_ids: Sequence[str], caller: Caller) -> None:
        """Record that an auditor reads these sessions in a report. Raises as `record`."""
        for batch in batched(session_ids, REPORTED_AT_ONCE):
            await asyncio.gather(
                *(self._record(_View(caller.owner, one, "report"), caller, any_owner=True) for one in batch)
            )

    async def _record(self, view: _View, caller: Caller, *, any_owner: bool) -> None:
        try:
            session = await self._find(view.session_id, caller, any_owner=any_owner)
        except SessionNotFound:
            return  # the handler answers that
        recorded_us = self._recorded_us.get(view)
        is_recent = recorded_us is not None and self._clock() - recorded_us < self._interval_us
        if session.is_deleted or is_recent:  # of a deleted session there is nothing to read
            return
        task = self._pending.get(view)
        if task is None:
            command = self._append(view, caller)
            task = self._pending[view] = asyncio.get_running_loop().create_task(command)
            task.add_done_callback(lambda done: self._on_done(view, done))
        await asyncio.shield(task)  # others may wait for the same record

    async def _append(self, view: _View, caller: Caller) -> None:
        anyone = replace(caller, any_owner=True)  # checked above, for an auditor differently
        await self._record_command(view.session_id, RecordView(view.what), anyone)
        self._recorded_us[view] = self._clock()
        self._recorded_us.move_to_end(view)
        if len(self._recorded_us) > VIEWS_MAX:
            self._recorded_us.popitem(last=False)

    def _on_done(self, view: _View, task: asyncio.Task[None]) -> None:
        del self._pending[view]
        if not task.cancelled():
            task.exception()  # every waiter may have left

    def _view_of(self, request: web.Request) -> _View | None:
        resource = request.match_info.route.resource
        what = VIEWED_ROUTES.get(resource.canonical) if resource is not None and request.method == "GET" else None
        if what is None:
            return None
        path = request.match_info
        if what == "media":
            session_id = canonical_id(request.query.get("session_id", ""))
        elif "session_id" in path:
            session_id = canonical_id(path["session_id"])
        elif "conversation_id" in path:
            session_id = read_conversation_id(path["conversation_id"])
        else:
            key = read_response_id(path["response_id"])
            session_id = key.session_id if key is not None else None
        return _View(request[CALLER].owner, session_id, what) if session_id is not None else None


VIEWS: web.AppKey[ViewRecorder] = web.AppKey("views", ViewRecorder)
