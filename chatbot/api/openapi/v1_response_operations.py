"""The operations of responses and conversations under /v1, in the form of OpenAI's API."""

from chatbot.api.openai_responses.create_bodies import (
    ChangeConversationBody,
    CreateConversationBody,
    CreateItemsBody,
    InputTokensBody,
    ResponseBody,
)
from chatbot.api.openai_responses.item_lists import ItemList
from chatbot.api.openai_responses.item_views import Item
from chatbot.api.openai_responses.response_objects import (
    ConversationView,
    DeletedConversation,
    DeletedResponse,
    InputTokens,
    ResponseEvent,
    ResponseView,
)
from chatbot.api.openapi.schemas import Operation, QueryParameter, ResponseSpec, Schema

EXAMPLE_SESSION, EXAMPLE_REPLY = "6f1c1f0e1f394b4c9a570c5a8f0b7d11", "c4a1e2d72f604c588b0e7e9d6b5a4f33"
EXAMPLE_RESPONSE = f"resp_{EXAMPLE_SESSION}{EXAMPLE_REPLY}"
EXAMPLE_CONVERSATION = f"conv_{EXAMPLE_SESSION}"
EXAMPLE_ITEM = f"msg_{EXAMPLE_REPLY}_0"
_HEADERS = ("X-Session-Id", "Content-Location", "X-Ignored-Fields")
_READ = (400, 404, 503)
_CHANGE = (400, 404, 409, 503)
_BODY = (400, 404, 408, 413, 415, 503)
_STREAM = """Its events are those of OpenAI's API, numbered from 0 by `sequence_number` without gaps. The same event has
the same number whenever it is sent: `GET /v1/responses/{response_id}?stream=true&starting_after=` goes on after any.
"""
_PAGE = (
    QueryParameter("after", "The id of the last item of the page before.", {"type": "string"}),
    QueryParameter("limit", "Items of a page.", {"type": "integer", "minimum": 1, "maximum": 100}),
    QueryParameter("order", "The newest first, or the oldest.", {"type": "string", "enum": ["desc", "asc"]}),
)
_LIST = ResponseSpec("A page of items.", ItemList)
_RESPONSE = ResponseSpec("The response as it is.", ResponseView)
_CONVERSATION = ResponseSpec("The conversation.", ConversationView)

V1_PARAMETERS: dict[str, Schema] = {
    "response_id": {
        "in": "path",
        "required": True,
        "description": "As an answer has it.",
        "schema": {"type": "string", "pattern": "^resp_[0-9a-f]{64}$"},
        "example": EXAMPLE_RESPONSE,
    },
    "conversation_id": {
        "in": "path",
        "required": True,
        "description": "As an answer has it; the id of a session is one, too.",
        "schema": {"type": "string", "pattern": "^(conv_)?[0-9a-f-]{32,36}$"},
        "example": EXAMPLE_CONVERSATION,
    },
    "item_id": {
        "in": "path",
        "required": True,
        "schema": {"type": "string", "maxLength": 64},
        "example": EXAMPLE_ITEM,
    },
}

V1_RESPONSES = (
    Operation(
        "POST", "/v1/responses", "v1_create_response", "A response, in the form of OpenAI's API",
        {200: ResponseSpec("The response, or its events.", ResponseView, headers=_HEADERS, stream_type=ResponseEvent)},
        details=f"With `stream` true the answer is a stream of Server-Sent Events. {_STREAM}", body=ResponseBody,
        headers=("Idempotency-Key", "X-OpenWebUI-User-Id"),
        problems=(400, 404, 408, 409, 413, 415, 429, 500, 502, 503, 504), v1=True,
    ),
    Operation(
        "GET", "/v1/responses/{response_id}", "v1_read_response", "A response, or its events after any of them",
        {200: ResponseSpec("The response, or its events.", ResponseView, stream_type=ResponseEvent)},
        details=_STREAM,
        query=(
            QueryParameter("stream", "Whether the answer is a stream of events.", {"type": "boolean"}),
            QueryParameter(
                "starting_after", "The number of the last event that the reader has.", {"type": "integer"}
            ),
        ),
        problems=(*_READ, 429), v1=True,
    ),
    Operation(
        "DELETE", "/v1/responses/{response_id}", "v1_delete_response", "Erase a response",
        {200: ResponseSpec("Erased.", DeletedResponse)}, problems=_CHANGE, v1=True,
        details="With its session, if that has nothing else; otherwise the reply and its input are redacted, but what"
        " the request said besides, such as instructions, metadata and user, stays until the session is erased.",
    ),
    Operation(
        "POST", "/v1/responses/{response_id}/cancel", "v1_cancel_response", "Stop a response",
        {200: _RESPONSE}, problems=_CHANGE, v1=True, details="One that has ended is left as it is.",
    ),
    Operation(
        "GET", "/v1/responses/{response_id}/input_items", "v1_list_input_items", "What a response answers",
        {200: _LIST}, query=_PAGE, problems=_READ, v1=True,
    ),
    Operation(
        "POST", "/v1/responses/input_tokens", "v1_count_input_tokens", "An estimate of the tokens of a request",
        {200: ResponseSpec("The estimate.", InputTokens)}, body=InputTokensBody, problems=_BODY, v1=True,
    ),
    Operation(
        "POST", "/v1/responses/compact", "v1_compact", "Refused: nothing is compacted",
        {}, problems=(400,), v1=True,
    ),
    Operation(
        "POST", "/v1/conversations", "v1_create_conversation", "A conversation, in the form of OpenAI's API",
        {200: _CONVERSATION}, body=CreateConversationBody, body_optional=True, headers=("Idempotency-Key",),
        problems=_BODY, v1=True,
    ),
    Operation(
        "GET", "/v1/conversations/{conversation_id}", "v1_read_conversation", "One conversation",
        {200: _CONVERSATION}, problems=_READ, v1=True,
    ),
    Operation(
        "POST", "/v1/conversations/{conversation_id}", "v1_update_conversation", "Replace a conversation's metadata",
        {200: _CONVERSATION}, body=ChangeConversationBody, problems=_BODY, v1=True,
    ),
    Operation(
        "DELETE", "/v1/conversations/{conversation_id}", "v1_delete_conversation", "Erase a conversation",
        {200: ResponseSpec("Erased, with all its items.", DeletedConversation)}, problems=_CHANGE, v1=True,
    ),
    Operation(
        "GET", "/v1/conversations/{conversation_id}/items", "v1_list_items", "Items of the selected branch",
        {200: _LIST}, query=_PAGE, problems=_READ, v1=True,
    ),
    Operation(
        "POST", "/v1/conversations/{conversation_id}/items", "v1_add_items", "Add items after the newest one",
        {200: _LIST}, body=CreateItemsBody, headers=("Idempotency-Key",), problems=(*_BODY, 409), v1=True,
    ),
    Operation(
        "GET", "/v1/conversations/{conversation_id}/items/{item_id}", "v1_read_item", "One item",
        {200: ResponseSpec("The item.", Item)}, problems=_READ, v1=True,
    ),
    Operation(
        "DELETE", "/v1/conversations/{conversation_id}/items/{item_id}", "v1_delete_item", "Redact an item",
        {200: _CONVERSATION}, problems=_CHANGE, v1=True,
    ),
)  # fmt: skip
