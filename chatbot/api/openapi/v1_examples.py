"""Examples of the operations under /v1, as values of the actual types."""

from typing import Any

import msgspec

from chatbot.api.openapi.schemas import Kind
from chatbot.api.v1.completion_bodies import CompletionBody
from chatbot.api.v1.completion_views import (
    CalledFunctionView,
    ChunkChoice,
    CompletionChoice,
    CompletionChunk,
    CompletionDelta,
    CompletionMessage,
    CompletionUsage,
    CompletionView,
    FinishWord,
    ModelObject,
    ModelObjects,
    ToolCallView,
)
from chatbot.api.v1.error_form import ErrorBody, ErrorView

ID, CREATED, MODEL = "chatcmpl-c4a1e2d7-2f60-4c58-8b0e-7e9d6b5a4f33", 1769851800, "llama-3.2-3b"
SAID, ANSWERED = "안녕하세요!", "안녕하세요! 무엇을 도와드릴까요?"
_MODEL = ModelObject(MODEL, 0, "chatbot")
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_ASKED = {"role": "user", "content": "How warm is it in Seoul?"}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Seoul"}'}}
_DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
_SCHEMA = {"type": "object", "properties": {"result": {"type": "integer"}}, "required": ["result"]}
_QUESTION = {
    "model": MODEL,
    "messages": [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": SAID}],
}


def _chunk(delta: CompletionDelta, finish: FinishWord | None = None) -> CompletionChunk:
    return CompletionChunk(ID, "chat.completion.chunk", CREATED, MODEL, [ChunkChoice(0, delta, None, finish)])


def _reply(message: CompletionMessage, finish: FinishWord) -> CompletionView:
    choice = CompletionChoice(0, message, None, finish)
    return CompletionView(ID, "chat.completion", CREATED, MODEL, [choice], CompletionUsage(12, 34, 46))


def _error(message: str, kind: str, param: str | None, code: str) -> ErrorView:
    return ErrorView(ErrorBody(message, kind, param, code))


_CALLED = CalledFunctionView("weather", '{"city": "Seoul"}')
EXAMPLES: dict[Kind, dict[str, Any]] = {
    CompletionBody: {
        "question": _QUESTION,
        "stream": {**_QUESTION, "stream": True, "stream_options": {"include_usage": True}},
        "parameters": {**_QUESTION, "temperature": 0.2, "max_completion_tokens": 256, "seed": 7, "stop": ["\n"]},
        "conversation": {
            "model": MODEL,
            "messages": [
                {"role": "user", "content": SAID},
                {"role": "assistant", "content": ANSWERED},
                {"role": "user", "content": "What is my name?"},
            ],
            "metadata": {"session_id": "a name of yours"},
        },
        "image": {
            "model": MODEL,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {"type": "image_url", "image_url": {"url": _DOT}},
                    ],
                }
            ],
        },
        "tools": {"model": MODEL, "messages": [_ASKED], "tools": [_WEATHER], "tool_choice": "auto"},
        "results": {
            "model": MODEL,
            "messages": [
                _ASKED,
                {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                {"role": "tool", "tool_call_id": "call_1", "content": "21 °C"},
            ],
            "tools": [_WEATHER],
        },
        "json-schema": {
            "model": MODEL,
            "messages": [{"role": "user", "content": "What is 6 times 7?"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "product", "schema": _SCHEMA}},
        },
    },
    CompletionView: {
        "reply": _reply(CompletionMessage("assistant", ANSWERED, None, []), "stop"),
        "reasoning": _reply(
            CompletionMessage("assistant", "It is 42.", None, [], reasoning_content="Six sevens."), "stop"
        ),
        "tool-calls": _reply(
            CompletionMessage("assistant", None, None, [], tool_calls=[ToolCallView("call_1", _CALLED)]), "tool_calls"
        ),
    },
    CompletionChunk: {"text": _chunk(CompletionDelta(content="안녕")), "last": _chunk(CompletionDelta(), "stop")},
    ModelObject: {"model": _MODEL},
    ModelObjects: {"models": ModelObjects([_MODEL])},
    ErrorView: {
        "no-such-model": _error("the model x does not exist", "invalid_request_error", "model", "model_not_found"),
        "invalid-value": _error("expected `float` <= 2.0", "invalid_request_error", "temperature", "invalid_value"),
        "not-supported": _error(
            "must be 1: a request gets one reply", "invalid_request_error", "n", "unsupported_parameter"
        ),
        "no-key": _error("send a valid key as Authorization: Bearer", "invalid_request_error", None, "invalid_api_key"),
        "overloaded": _error("LLM server overloaded", "server_error", None, "llm_overloaded"),
    },
}


def completion_transcript() -> str:
    """A streamed reply, as ChunkView makes it."""
    chunks = [
        _chunk(CompletionDelta(role="assistant", content="")),
        _chunk(CompletionDelta(content=ANSWERED)),
        _chunk(CompletionDelta(), "stop"),
    ]
    return "".join(f"data: {msgspec.json.encode(chunk).decode()}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
