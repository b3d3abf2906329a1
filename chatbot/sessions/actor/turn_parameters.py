"""Finds the parameters that are recorded for a turn, which apply to what continues or repeats it."""

from msgspec.structs import replace

from chatbot.sessions.domain.state import State
from chatbot.sessions.ports import Ports
from events.catalogue import LoggedEvent, MessagePosted, Parameters, ReplyRequested
from events.paging import read_pages
from projections.folds.batch import ROWS_PER_EVENT_MAX
from projections.folds.message import MessageRow


async def find_turn_parameters(ports: Ports, state: State, message_id: str) -> Parameters:
    """The parameters recorded for the turn of a reply or of a user's message, without the seed: with the seed the
    model would write the same text again; and without what only that one response is. Empty if their record is erased
    or belongs to another session.
    """
    if ports.runner.rebuilding:
        found = await _find_parameters_in_stream(ports, state.session.session_id, message_id)
    else:
        found = await _find_parameters_by_row(ports, state, message_id)
    return replace(found or Parameters(), seed=None, response=None)


async def _find_parameters_by_row(ports: Ports, state: State, message_id: str) -> Parameters | None:
    await ports.runner.wait_for(state.session.position)
    row = await ports.queries.message(state.session.no, message_id)
    found = await _read_parameters(ports, row, message_id)
    if found is None and row is not None and row.role == "assistant" and row.parent_id is not None:
        question = await ports.queries.message(state.session.no, row.parent_id)  # a fork has no event of its reply
        found = await _read_parameters(ports, question, row.parent_id)
    return found


async def _read_parameters(ports: Ports, row: MessageRow | None, message_id: str) -> Parameters | None:
    """From the event that made the row, or from the one with its text, which may be another session's."""
    if row is None:
        return None
    events = await ports.log.read_at(sorted({row.no // ROWS_PER_EVENT_MAX, row.position} - {0}))
    found = (_parameters_in(one.event, message_id) for one in events.values())
    return next((one for one in found if one is not None), None)


async def _find_parameters_in_stream(ports: Ports, session_id: str, message_id: str) -> Parameters | None:
    """During a rebuild of the projections."""
    async for page in read_pages(ports.log, session_id, page_max=ports.limits.read_page_max):
        found = (_parameters_in(one.event, message_id) for one in page)
        if (parameters := next((one for one in found if one is not None), None)) is not None:
            return parameters
    return None


def _parameters_in(event: LoggedEvent | None, message_id: str) -> Parameters | None:
    match event:
        case MessagePosted() if message_id in (event.message_id, event.reply_id):
            return event.parameters
        case ReplyRequested() if message_id == event.reply_id:
            return event.parameters
        case _:
            return None
