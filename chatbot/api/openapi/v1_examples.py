"""Examples of the operations under /v1, as values of the actual types."""

from typing import Any

from chatbot.api.openapi.schemas import Kind
from chatbot.api.v1.completion_bodies import CompletionBody
from chatbot.api.v1.completion_views import (
    ChunkChoice,
    CompletionChoice,
    CompletionChunk,
    CompletionDelta,
    CompletionMessage,
    CompletionUsage,
    CompletionView,
    ModelObject,
    ModelObjects,
)
from chatbot.api.v1.error_form import ErrorBody, ErrorView

ID, CREATED, MODEL = "chatcmpl-c4a1e2d7-2f60-4c58-8b0e-7e9d6b5a4f33", 1769851800, "llama-3.2-3b"
SAID, ANSWERED = "안녕하세요!", "안녕하세요! 무엇을 도와드릴까요?"
_MODEL = ModelObject(MODEL, 0, "chatbot")
_QUESTION = {
    "model": MODEL,
    "messages": [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": SAID}],
}

EXAMPLES: dict[Kind, dict[str, Any]] = {
    CompletionBody: {"question": _QUESTION},
    CompletionView: {
        "reply": CompletionView(
            ID,
            "chat.completion",
            CREATED,
            MODEL,
            [CompletionChoice(0, CompletionMessage("assistant", ANSWERED, None, []), None, "stop")],
            CompletionUsage(12, 34, 46),
        )
    },
    CompletionChunk: {
        "text": CompletionChunk(
            ID, "chat.completion.chunk", CREATED, MODEL, [ChunkChoice(0, CompletionDelta(content="안녕"), None, None)]
        )
    },
    ModelObject: {"model": _MODEL},
    ModelObjects: {"models": ModelObjects([_MODEL])},
    ErrorView: {
        "no-such-model": ErrorView(
            ErrorBody("the model gpt-x does not exist", "invalid_request_error", "model", "model_not_found")
        )
    },
}
