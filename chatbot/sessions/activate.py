"""Bring a session's state back: its projected facts, the few events whose texts it needs, and its stream's tail.

Costs the same for ten messages and for ten thousand.
"""

from msgspec.structs import replace

from chatbot.sessions import errors
from chatbot.sessions.commands import EndReply, PostMessage, StartReply
from chatbot.sessions.context import LOOK_BACK, context_of
from chatbot.sessions.decide import parent_of
from chatbot.sessions.ports import Ports
from chatbot.sessions.state import Remembered, State, evolve
from events.catalogue import (
    MessagePosted,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    SessionCreated,
)
from projections.session import OpenReply


def recent_max(ports: Ports) -> int:
    """Messages kept at hand: what a context looks back over, the messages that wait, and as many replies."""
    return LOOK_BACK * ports.rules.max_context_messages + 2 * ports.rules.pending_max + 2


async def load(ports: Ports, session_id: str) -> State | None:
    """The session's state at the end of its stream; None when there is no such stream."""
    session = await ports.queries.session(session_id)
    state: State | None = None
    if session is not None:
        state = State(session=session, metadata={})
        first, described = session.no, session.described_at
        texts = await ports.log.read_at(sorted({first, described} - {0}))
        created = texts[first].event
        if isinstance(created, SessionCreated):
            state = State(session, created.metadata, created.title, created.system_prompt)
        changed = texts[described].event if described else None
        if isinstance(changed, MetadataChanged):
            state = State(session, changed.metadata, changed.title, state.system_prompt)
    return await catch_up(ports, session_id, state)


async def catch_up(ports: Ports, session_id: str, state: State | None) -> State | None:
    """`state` with what was appended to its stream since."""
    while True:
        after = state.session.version if state else 0
        tail = await ports.log.read(session_id, after=after, limit=ports.limits.read_page_max)
        for recorded in tail:
            state = evolve(state, recorded, recent_max(ports))
        if len(tail) < ports.limits.read_page_max:
            return state


async def remember_branch(ports: Ports, state: State, leaf: str) -> dict[str, Remembered] | None:
    """The newest messages of the branch that ends in `leaf`; None when the session has no such message."""
    await ports.runner.wait_for(state.session.position)
    rows = await ports.queries.path(state.session.no, leaf, limit=recent_max(ports))
    if not rows:
        return None
    texts = await ports.log.read_at([row.position for row in rows if row.position])
    remembered: dict[str, Remembered] = {}
    for row in rows:
        recorded = texts.get(row.position)
        event = recorded.event if recorded else None
        match event:
            case MessagePosted() | ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
                content = event.content
            case _:
                content = ""
        remembered[row.message_id] = Remembered(row.message_id, row.parent_id, row.role, content)
    return remembered


async def prepare(ports: Ports, state: State | None, command: PostMessage | StartReply) -> State | None:
    """`state` with the texts at hand that the reply to `command` needs. Raises UnknownMessage, Overloaded."""
    if state is None or state.session.status != "active":
        return state
    session = state.session
    is_busy = bool(session.open_reply or session.pending)
    if isinstance(command, StartReply):
        leaf = session.pending[0].message_id if session.pending else None
    else:
        leaf = parent_of(state, command)
        if not is_busy and ports.gate.is_full:
            raise errors.Overloaded("too many replies run and wait already")
        if is_busy and leaf == session.head:
            return state  # its context is gathered when its turn comes
    if leaf is None:
        return state
    context = context_of(state.recent, leaf, ports.rules.max_context_messages)
    branch: dict[str, Remembered] | None
    if context is not None:
        branch = {said.message_id: said for said in context}
    else:
        branch = await remember_branch(ports, state, leaf)
    if branch is None:
        raise errors.UnknownMessage(leaf)
    # At the end, where the oldest are not dropped from before the context is built.
    others = {id_: said for id_, said in state.recent.items() if id_ not in branch}
    return replace(state, recent={**others, **branch})


async def left_open(ports: Ports, state: State | None) -> list[EndReply]:
    """How to close the replies that a crash left open: the running one keeps what had been recorded of it."""
    if state is None:
        return []
    closing: list[EndReply] = []
    running = state.session.open_reply
    if running is not None:
        text = await checkpointed_text(ports, state.session.session_id, running)
        closing.append(EndReply(ReplyInterrupted(running.reply_id, text, "crash")))
    return closing + [EndReply(ReplyInterrupted(waiting.reply_id, "", "crash")) for waiting in state.session.pending]


async def checkpointed_text(ports: Ports, session_id: str, running: OpenReply) -> str:
    """What the log has of a reply that never ended."""
    text = ""
    after = running.version
    while True:
        page = await ports.log.read(session_id, after=after, limit=ports.limits.read_page_max)
        for recorded in page:
            if isinstance(recorded.event, ReplyProgressed) and recorded.event.reply_id == running.reply_id:
                text = text[: recorded.event.offset] + recorded.event.text
        if len(page) < ports.limits.read_page_max:
            return text
        after = page[-1].version
