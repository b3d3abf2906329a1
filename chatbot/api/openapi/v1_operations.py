"""The operations under /v1, in the form of OpenAI's API; operations.py has all others."""

from chatbot.api.openapi.schemas import Operation, ResponseSpec
from chatbot.api.v1.completion_bodies import CompletionBody
from chatbot.api.v1.completion_views import CompletionChunk, CompletionView, ModelObject, ModelObjects

_HEADERS = ("X-Session-Id", "Content-Location", "X-Ignored-Fields")
_COMPLETION = """Without a name each request is a session of its own, which is in no list and erased after a while.
`X-Session-Id`, `X-Conversation-Id`, `X-OpenWebUI-Chat-Id` or `session_id` in `metadata` name a conversation: the
messages are compared with its own, what is new is added to it, and the same messages again make another reply.

With `stream` true the answer is a stream of Server-Sent Events: chunks, then `[DONE]`. An error in the middle of it is
a `data:` line with an object `error`.
"""

V1 = (
    Operation(
        "GET", "/v1/models", "v1_list_models", "The models, in the form of OpenAI's API",
        {200: ResponseSpec("As of the last health check of the model server.", ModelObjects)}, v1=True,
    ),
    Operation(
        "GET", "/v1/models/{model}", "v1_read_model", "One model, in the form of OpenAI's API",
        {200: ResponseSpec("The model.", ModelObject)}, problems=(404,), v1=True,
    ),
    Operation(
        "POST", "/v1/chat/completions", "v1_create_completion", "A reply, in the form of OpenAI's API",
        {
            200: ResponseSpec(
                "The reply, or its chunks.", CompletionView, headers=_HEADERS, stream_type=CompletionChunk
            )
        },
        details=_COMPLETION, body=CompletionBody, headers=("X-Session-Id", "X-OpenWebUI-User-Id", "Idempotency-Key"),
        problems=(400, 404, 408, 409, 413, 415, 429, 500, 502, 503, 504), v1=True,
    ),
)  # fmt: skip
