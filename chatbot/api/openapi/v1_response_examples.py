"""Examples of the operations of responses and conversations under /v1, as values of the actual types."""

from typing import Any

from chatbot.api.openai_responses.create_bodies import (
    ChangeConversationBody,
    CreateConversationBody,
    CreateItemsBody,
    InputTokensBody,
    ResponseBody,
)
from chatbot.api.openai_responses.item_lists import ItemList, page_of
from chatbot.api.openai_responses.item_views import (
    FunctionCallItem,
    FunctionResultItem,
    InputTextView,
    Item,
    MessageItem,
    OutputTextView,
    ReasoningItem,
    ReasoningTextView,
)
from chatbot.api.openai_responses.object_ids import CALL, MESSAGE, REASONING, RESULT, conversation_id, item_id
from chatbot.api.openai_responses.response_objects import (
    ConversationView,
    DeletedConversation,
    DeletedResponse,
    InputTokens,
    RequestedResponse,
    ResponseEvent,
    ResponseView,
    response_view,
)
from chatbot.api.openapi.schemas import Kind
from chatbot.api.openapi.v1_examples import ANSWERED, CREATED, MODEL, SAID
from chatbot.sessions.replies.reply import Outcome
from events.catalogue import Parameters, Usage
from events.schema.parameters import ResponseOptions

SESSION, REPLY = "6f1c1f0e-1f39-4b4c-9a57-0c5a8f0b7d11", "c4a1e2d7-2f60-4c58-8b0e-7e9d6b5a4f33"
QUESTION = "0b8f3c52-3c3e-4a57-9d0e-5d8b6c1f2a47"
CONVERSATION = conversation_id(SESSION)
_OUTCOME = Outcome("complete", ANSWERED, 4, CREATED * 1_000_000, finish_reason="stop", usage=Usage(12, 34, 46))
_PARAMETERS = Parameters(model=MODEL, whole_context=True, response=ResponseOptions(1))
_RESPONSE = RequestedResponse(SESSION, REPLY, CREATED * 1_000_000, MODEL, _PARAMETERS)
_SAID = MessageItem(item_id(MESSAGE, QUESTION, 0), "completed", "user", [InputTextView(SAID)])
_ANSWERED = MessageItem(item_id(MESSAGE, REPLY, 0), "completed", "assistant", [OutputTextView(ANSWERED)])
_CALL = FunctionCallItem(item_id(CALL, REPLY, 1), "completed", "call_1", "weather", '{"city": "Seoul"}')
_RESULT = FunctionResultItem(item_id(RESULT, QUESTION, 0), "completed", "call_1", "21 °C")
_THOUGHT = ReasoningItem(item_id(REASONING, REPLY, 0), "completed", [ReasoningTextView("Six sevens.")])
_QUESTION = {"role": "user", "content": SAID}
_WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}

EXAMPLES: dict[Kind, dict[str, Any]] = {
    ResponseBody: {
        "text": {"model": MODEL, "input": SAID, "instructions": "Answer briefly."},
        "items": {"model": MODEL, "input": [_QUESTION], "stream": True, "metadata": {"topic": "greeting"}},
        "conversation": {"model": MODEL, "input": SAID, "conversation": CONVERSATION},
        "previous": {"model": MODEL, "input": "And in Busan?", "previous_response_id": _RESPONSE.id},
        "background": {"model": MODEL, "input": SAID, "background": True},
        "tools": {"model": MODEL, "input": "How warm is it in Seoul?", "tools": [_WEATHER]},
    },
    InputTokensBody: {"text": {"model": MODEL, "input": SAID}},
    CreateConversationBody: {"items": {"items": [_QUESTION], "metadata": {"topic": "greeting"}}},
    ChangeConversationBody: {"metadata": {"metadata": {"topic": "weather"}}},
    CreateItemsBody: {"message": {"items": [_QUESTION]}},
    ResponseView: {"response": response_view(_RESPONSE, _OUTCOME)},
    ResponseEvent: {"event": ResponseEvent("response.created", 0)},
    DeletedResponse: {"deleted": DeletedResponse(_RESPONSE.id)},
    InputTokens: {"estimate": InputTokens(14)},
    ItemList: {"page": page_of([_SAID, _ANSWERED])},
    Item: {"message": _SAID, "call": _CALL, "result": _RESULT, "reasoning": _THOUGHT},
    ConversationView: {"conversation": ConversationView(CONVERSATION, CREATED, {"topic": "greeting"})},
    DeletedConversation: {"deleted": DeletedConversation(CONVERSATION)},
}
