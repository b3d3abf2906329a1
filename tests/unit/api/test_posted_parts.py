"""Messages in parts: what is accepted, what is refused and with which path, and what is recorded of them."""

import base64
import json
from typing import Any

import pytest

from chatbot.api.message_parts import check_message, decode_data_url, files_of, parts_of_message
from chatbot.api.part_bodies import PartBody
from chatbot.api.problems import RequestFault
from chatbot.api.request_bodies import ChatBody, RegenerateBody
from chatbot.api.requests import check_chat, check_reply, decode_body
from chatbot.config.sections.chat_settings import ChatSettings
from chatbot.config.settings import Settings
from events.schema.parts import Media, Text, ToolResult

SESSION = "6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14"
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
SMALL = ChatSettings(message_max_parts=3, message_max_chars=10, tool_result_max_chars=12)
TEXT = {"type": "text", "text": "Hi"}
MEDIA = {"type": "media", "sha256": SHA256}
RESULT = {"type": "tool_result", "call_id": "call_1", "content": "21 °C"}


def body_of(message: Any, **members: Any) -> ChatBody:
    given = {"session_id": SESSION, "message": message, **members}
    return decode_body(json.dumps(given).encode(), ChatBody)


def parts_fault(message: Any, role: str = "user") -> RequestFault:
    with pytest.raises(RequestFault) as caught:
        check_message(parts_in(message), role, SMALL)
    return caught.value


def parts_in(message: list[Any]) -> list[PartBody]:
    """The parts of a body with this message. Raises RequestFault."""
    decoded = body_of(message).message
    assert not isinstance(decoded, str)
    return decoded


@pytest.mark.parametrize(
    ("message", "role", "path"),
    [
        ([], "user", "$.message"),
        ([TEXT] * 4, "user", "$.message"),
        ([{"type": "text", "text": "a" * 6}] * 2, "user", "$.message"),
        ([{"type": "text", "text": " \n"}], "user", "$.message"),
        ([TEXT, {"type": "text", "text": ""}], "user", "$.message[1].text"),
        ([TEXT, {"type": "text", "text": "a\0b"}], "user", "$.message[1].text"),
        ([{**MEDIA, "name": "a\0b"}], "user", "$.message[0].name"),
        ([TEXT, RESULT], "user", "$.message[1].type"),
        ([TEXT], "tool", "$.message[0].type"),
        ([RESULT, RESULT], "tool", "$.message[1].call_id"),
        ([{**RESULT, "call_id": "a\0b"}], "tool", "$.message[0].call_id"),
        ([{**RESULT, "content": "a" * 13}], "tool", "$.message"),
        ([{**RESULT, "content": [TEXT, {"type": "text", "text": ""}]}], "tool", "$.message[0].content[1].text"),
        ([{"type": "video"}], "user", "$.message[0].type"),
        ([{"type": "text"}], "user", "$.message[0].text"),
        ([{"type": "text", "text": "a", "colour": "red"}], "user", "$.message[0].colour"),
        ([{"type": "media", "sha256": SHA256.upper()}], "user", "$.message[0].sha256"),
        ([{**RESULT, "content": [RESULT]}], "tool", "$.message[0].content[0].type"),
        ([{**RESULT, "content": [TEXT] * 65}], "tool", "$.message[0].content"),
        ([{**RESULT, "call_id": "c" * 257}], "tool", "$.message[0].call_id"),
        ([{"type": "image_url", "image_url": "data:"}], "user", "$.message[0].image_url"),
    ],
)
def test_what_is_not_allowed_is_refused_with_its_path(message: Any, role: str, path: str) -> None:
    fault = parts_fault(message, role)
    assert (fault.status, fault.path) == (422, path), fault.detail


def test_an_image_needs_no_text() -> None:
    message = parts_in([MEDIA, {"type": "text", "text": " "}])
    check_message(message, "user", SMALL)


def test_the_texts_of_results_have_a_limit_of_their_own() -> None:
    message = parts_in([{**RESULT, "content": "a" * 12}])
    check_message(message, "tool", SMALL)


def test_parts_are_recorded_as_they_were_sent() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}}
    message = parts_in([TEXT, {**MEDIA, "name": "a.png"}, image])
    files = {file.path: Media(SHA256, "image/png", 3, "a.png") for file in files_of(message)}
    assert list(files) == ["$.message[1]", "$.message[2]"]
    assert parts_of_message(message, files) == (Text("Hi"), *files.values())


def test_results_are_recorded_with_their_calls() -> None:
    several = {"type": "tool_result", "call_id": "call_2", "content": [TEXT, MEDIA], "is_error": True}
    message = parts_in([RESULT, several, {**RESULT, "content": "", "call_id": "call_3"}])
    media = Media(SHA256, "image/png", 3)
    assert [file.path for file in files_of(message)] == ["$.message[1].content[1]"]
    assert parts_of_message(message, {"$.message[1].content[1]": media}) == (
        ToolResult("call_1", (Text("21 °C"),)),
        ToolResult("call_2", (Text("Hi"), media), is_error=True),
        ToolResult("call_3", ()),
    )


def test_a_data_url_has_a_type_and_bytes() -> None:
    url = f"DATA:image/PNG;charset=x;base64,{base64.b64encode(bytes(range(256))).decode()}"
    assert decode_data_url(url, "$") == ("image/png", bytes(range(256)))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.org/a.png", "POST /api/media"),
        ("HTTP://169.254.169.254/latest", "POST /api/media"),
        ("data:image/png,abc", "data:<type>;base64,<data>"),
        ("file:///etc/passwd", "data:<type>;base64,<data>"),
        ("data:image/png;base64,ab!c", "base64"),
        ("data:image/png;base64,abc", "base64"),
        ("data:image/png;base64,é", "base64"),
    ],
)
def test_no_other_address_is_accepted_and_none_is_fetched(url: str, words: str) -> None:
    with pytest.raises(RequestFault, match=words) as caught:
        decode_data_url(url, "$.message[0].image_url.url")
    assert caught.value.path == "$.message[0].image_url.url"


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"tools": [{"type": "web_search"}]}, "$.tools[0].type"),
        ({"tools": [TOOL, {"type": "function", "function": {}}]}, "$.tools[1].function.name"),
        ({"tools": [{"type": "function"}]}, "$.tools[0].function.name"),
        ({"tools": [TOOL] * 129}, "$.tools"),
        ({"tools": [{**TOOL, "x": "a" * 65_536}]}, "$.tools"),
        ({"tools": [{**TOOL, "x": "a\0"}]}, "$.tools[0].x"),
        ({"tool_choice": ""}, "$.tool_choice"),
        ({"tool_choice": {"x": "a" * 65_536}}, "$.tool_choice"),
        ({"response_format": {"x": "a" * 65_536}}, "$.response_format"),
        ({"reasoning_effort": "a\0"}, "$.reasoning_effort"),
        ({"extra_body": {"unheard_of": 1}}, "$.extra_body.unheard_of"),
        ({"extra_body": {"model": "x"}}, "$.extra_body.model"),
        ({"extra_body": {"top_k": "a" * 16_384}}, "$.extra_body"),
    ],
)
def test_parameters_for_the_model_server_have_limits(members: dict[str, Any], path: str) -> None:
    with pytest.raises(RequestFault) as caught:
        check_reply(decode_body(json.dumps(members).encode(), RegenerateBody), Settings())
    assert (caught.value.status, caught.value.path) == (422, path)


def test_json_for_the_model_server_has_a_depth() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = {"a": deep}
    with pytest.raises(RequestFault, match="32 levels") as caught:
        check_reply(decode_body(json.dumps({"response_format": deep}).encode(), RegenerateBody), Settings())
    assert caught.value.path == "$.response_format"


def test_a_star_allows_any_extra_field_but_those_that_the_service_sets() -> None:
    settings = Settings(chat=ChatSettings(extra_body_fields=("*",)))
    check_chat(body_of("Hi", extra_body={"unheard_of": 1}), settings)
    with pytest.raises(RequestFault):
        check_chat(body_of("Hi", extra_body={"messages": []}), settings)


@pytest.mark.parametrize("name", ["response_format", "extra_body", "tool_choice"])
def test_json_of_any_depth_is_refused_and_never_a_failure(name: str) -> None:
    for depth in (33, 500, 900, 5000):
        body = f'{{"{name}": {{"top_k": ' + '{"a":' * depth + "1" + "}" * depth + "}}"
        with pytest.raises(RequestFault):
            check_reply(decode_body(body.encode(), RegenerateBody), Settings())
