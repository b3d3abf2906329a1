"""The request to the model that a started reply records. Pure."""

from msgspec import Struct

from chatbot.llm.provider import ChatMessage, ModelMessage
from chatbot.sessions.domain.state import State, join_consecutive
from events.catalogue import Parameters, ReplyStarted


class ModelRequest(Struct, frozen=True):
    """A request to the model."""

    messages: tuple[ModelMessage, ...]
    parameters: Parameters


def model_request(state: State, started: ReplyStarted) -> ModelRequest:
    """The request that `started` records. Its messages must be in `state.recent`."""
    prompt = state.settings.system_prompt
    system = (ChatMessage("system", prompt),) if prompt else ()
    context = tuple(ChatMessage(state.recent[id_].role, state.recent[id_].content) for id_ in started.context_ids)
    return ModelRequest(system + (join_consecutive(context) if started.joined else context), started.parameters)
