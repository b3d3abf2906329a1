"""How messages with parts are sent to /v1/chat/completions and to midm."""

import base64
import hashlib
from typing import Any

import msgspec
import pytest

from chatbot.llm.provider import (
    ChatMessage,
    LlmUnsupported,
    ModelMessage,
    PartsMessage,
    require_features,
    used_features,
)
from chatbot.llm.providers import midm_provider, openai_provider
from events.catalogue import Parameters
from events.schema.parts import Media, Parts, Reasoning, Refusal, Text, ToolCall, ToolResult, text_of

IMAGE = bytes(range(256)) * 700  # more than is encoded at once
SHA = hashlib.sha256(IMAGE).hexdigest()
PNG = Media(SHA, "image/png", len(IMAGE), "a.png")
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


def message(role: str, *parts: Any, media: bytes | None = IMAGE) -> PartsMessage:
    held: Parts = tuple(Text(one) if isinstance(one, str) else one for one in parts)
    return PartsMessage(role, text_of(held), held, {} if media is None else {SHA: media})


def sent(*messages: ModelMessage, **options: Any) -> list[dict[str, Any]]:
    body = openai_provider.request_body(messages, Parameters(**options), "m")
    return list(msgspec.json.decode(msgspec.json.encode(body))["messages"])


def test_messages_of_text_are_sent_as_they_are() -> None:
    messages = (ChatMessage("user", "hi"),)
    assert openai_provider.request_body(messages, Parameters(), "m")["messages"] is messages


def test_an_image_is_sent_byte_for_byte() -> None:
    (one,) = sent(message("user", "What is this?", PNG, "And", " why?"))
    text, image, rest = one["content"]
    assert text == {"type": "text", "text": "What is this?"}
    head, _, data = image["image_url"]["url"].partition(",")
    assert (image["type"], head, base64.b64decode(data)) == ("image_url", "data:image/png;base64", IMAGE)
    assert rest == {"type": "text", "text": "And why?"}


@pytest.mark.parametrize("size", [1, 2, 3, 49_151, 49_152, 49_153])
def test_an_image_of_any_size_is_padded_right(size: int) -> None:
    (one,) = sent(message("user", PNG, media=IMAGE[:size]))
    assert base64.b64decode(one["content"][0]["image_url"]["url"].partition(",")[2], validate=True) == IMAGE[:size]


def test_an_image_without_bytes_is_named_or_left_out() -> None:
    asked = message("user", "What is this? ", PNG, media=None)
    assert sent(asked) == [{"role": "user", "content": "What is this? [image left out]"}]
    body = openai_provider.request_body((asked,), Parameters(), "m", refer_to_media=True)
    assert body["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": f"media:{SHA}"}}


def test_a_reply_is_sent_with_its_calls_and_its_reasoning_only_if_asked() -> None:
    reply = message(
        "assistant", Reasoning("hm"), "Let me look.", ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "g", "")
    )
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    plain = {"role": "assistant", "content": "Let me look.", "tool_calls": calls}
    assert sent(reply) == [plain]
    assert sent(reply, send_reasoning=True) == [plain | {"reasoning_content": "hm"}]
    assert sent(message("assistant", ToolCall("c1", "f", '{"a":1}'))) == [
        {"role": "assistant", "content": None, "tool_calls": calls[:1]}
    ]
    assert sent(message("assistant", Reasoning("hm"))) == []
    assert sent(message("assistant", Refusal("No."))) == [{"role": "assistant", "content": "No."}]


def test_each_result_is_a_message_of_its_own() -> None:
    results = message(
        "tool",
        ToolResult("c1", (Text("21"), Text(" degrees"))),
        ToolResult("c2", (Text("no network"),), is_error=True),
        ToolResult("c3", (Text("see"), PNG)),
        ToolResult("c4", ()),
    )
    one, two, three, four = sent(results)
    assert one == {"role": "tool", "tool_call_id": "c1", "content": "21 degrees"}
    assert two == {"role": "tool", "tool_call_id": "c2", "content": "Error: no network"}
    assert [part["type"] for part in three["content"]] == ["text", "image_url"]
    assert four == {"role": "tool", "tool_call_id": "c4", "content": ""}


def test_what_a_client_asks_for_is_passed_on_as_it_is() -> None:
    given: dict[str, Any] = {
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
    }
    body = openai_provider.request_body((), Parameters(**given), "m")
    assert body == {"messages": (), "stream": True, "model": "m"} | given


def test_extra_fields_replace_none_of_ours() -> None:
    extra = {"top_k": 5, "temperature": 9, "messages": [], "stream": False, "stream_options": {}, "model": "x", "n": 2}
    body = openai_provider.request_body((), Parameters(temperature=0.5, extra_body=extra), "")
    assert body == {"messages": (), "stream": True, "temperature": 0.5, "top_k": 5}


def test_midm_gets_the_text_of_earlier_messages_and_nothing_else() -> None:
    history = (
        ChatMessage("system", "Be kind."),
        message("user", "What is this?", PNG),
        message("assistant", Reasoning("hm"), ToolCall("c", "f", "{}")),
        message("tool", ToolResult("c", (Text("a cat"),))),
        message("assistant", Reasoning("hm"), "A cat."),
        ChatMessage("user", "Thanks"),
    )
    assert midm_provider.request_body(history, Parameters())["messages"] == (
        ChatMessage("system", "Be kind."),
        ChatMessage("user", "What is this?"),
        ChatMessage("assistant", "A cat."),
        ChatMessage("user", "Thanks"),
    )


@pytest.mark.parametrize(
    ("newest", "parameters", "used"),
    [
        (ChatMessage("user", "hi"), Parameters(temperature=0.1, seed=1), []),
        (message("user", "hi", PNG), Parameters(), ["media"]),
        (message("tool", ToolResult("c", (PNG,))), Parameters(), ["media", "tools"]),
        (ChatMessage("user", "hi"), Parameters(tools=TOOLS), ["tools"]),
        (ChatMessage("user", "hi"), Parameters(response_format={"type": "text"}), ["response_format"]),
        (
            ChatMessage("user", "hi"),
            Parameters(reasoning_effort="low", extra_body={"top_k": 1}),
            ["reasoning_effort", "extra_body"],
        ),
    ],
)
def test_what_a_request_needs_is_known_before_it_is_sent(
    newest: ModelMessage, parameters: Parameters, used: list[str]
) -> None:
    assert used_features(newest, parameters) == used
    require_features(frozenset(used), newest, parameters)
    for missing in used:
        with pytest.raises(LlmUnsupported, match="The model server does not take"):
            require_features(frozenset(used) - {missing}, newest, parameters)
