"""Hydration: load a session's state into memory from the projections, the events with its texts, and the stream's tail.

Costs the same for ten messages and for ten thousand. Only while the projections are rebuilt, the whole stream is read.
"""

from chatbot.sessions.domain.context import ContextMessage
from chatbot.sessions.domain.state import State, evolve, settings_after
from chatbot.sessions.ports import Ports
from events.catalogue import HistoryAdopted, MetadataChanged, SessionCreated
from events.paging import read_pages
from projections.errors import ProjectionsUnavailable
from projections.folds.session import Session


async def load_state(ports: Ports, session_id: str) -> State | None:
    """The session's state at the end of its stream; None when there is no such stream."""
    head = ports.log.head().position
    was_current = ports.runner.position >= head
    session = await _read_projection(ports, session_id)
    state: State | None = None
    if session is not None:
        state = State(session=session, metadata={})
        first, described = session.no, session.described_at
        texts = await ports.log.read_at(sorted({first, described} - {0}))
        created = texts[first].event
        if isinstance(created, SessionCreated):
            state = State(session, created.metadata, created.title, created.settings, created.settings)
        changed = texts[described].event if described else None
        if isinstance(changed, MetadataChanged):
            settings = settings_after(changed, state.created)
            state = State(session, changed.metadata, changed.title, settings, state.created)
    if was_current and ports.runner.position >= head and not ports.log.is_shared:
        return state  # the projection was current before and after the read, and no other process writes: no tail
    return await replay_tail(ports, session_id, state)


async def replay_tail(ports: Ports, session_id: str, state: State | None) -> State | None:
    """`state` with the rest of its stream folded in; from None, the whole stream."""
    after = state.session.version if state else 0
    async for page in read_pages(ports.log, session_id, after=after, page_max=ports.limits.read_page_max):
        for recorded in page:
            state = evolve(state, recorded, ports.rules.recent_max, ports.rules.tools_recent_max)
    return state


async def replay_messages(ports: Ports, session_id: str, messages_max: int) -> dict[str, ContextMessage] | None:
    """All messages of a stream that have ended, by id, old to new. None if they are more than `messages_max`, or if the
    session has adopted earlier ones, whose texts are in other streams.
    """
    state: State | None = None
    async for page in read_pages(ports.log, session_id, page_max=ports.limits.read_page_max):
        for recorded in page:
            if isinstance(recorded.event, HistoryAdopted):
                return None
            state = evolve(state, recorded, messages_max + 1)
    recent = {} if state is None else state.recent
    return recent if len(recent) <= messages_max else None


async def _read_projection(ports: Ports, session_id: str) -> Session | None:
    """The projected session. During a rebuild it may be missing: then the stream has everything."""
    try:
        return await ports.queries.session(session_id)
    except ProjectionsUnavailable:
        if ports.runner.rebuilding:
            return None
        raise
