"""Loads messages of a session with their texts: those of a branch, or those at given places in its tree."""

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.context import ContextMessage
from chatbot.sessions.domain.message_events import as_message_event
from chatbot.sessions.domain.state import State
from chatbot.sessions.ports import Ports
from events.record import RecordedEvent
from projections.folds.message import MessageRow, TreeMessage


async def load_branch(ports: Ports, state: State, leaf: str, limit: int) -> tuple[ContextMessage, ...]:
    """The newest `limit` messages of the branch that ends in `leaf`, oldest first. Raises UnknownMessage."""
    await ports.runner.wait_for(state.session.position)
    rows, texts = await _read_branch(ports, state, leaf, limit)
    if any(recorded.event is None for recorded in texts.values()):
        # A session that this one was forked from has just been erased; its texts were copied here before.
        await ports.runner.wait_for((await ports.log.latest()).position)
        rows, texts = await _read_branch(ports, state, leaf, limit)
    if not rows:
        raise rejections.UnknownMessage(leaf)
    return tuple(message_of(row, texts.get(row.position), row.depth) for row in rows)


async def _read_branch(
    ports: Ports, state: State, leaf: str, limit: int
) -> tuple[list[MessageRow], dict[int, RecordedEvent]]:
    rows = await ports.queries.path(state.session.no, leaf, limit=limit)
    return rows, await ports.log.read_at([row.position for row in rows if row.position])


def message_of(row: MessageRow | TreeMessage, recorded: RecordedEvent | None, depth: int) -> ContextMessage:
    """The message at `depth`, without text and parts while its reply has not ended, and once they are erased."""
    event = as_message_event(recorded.event if recorded else None)
    content, parts = ("", ()) if event is None else (event.content, event.parts)
    return ContextMessage(row.message_id, row.parent_id, row.role, content, parts, row.calls, depth)
