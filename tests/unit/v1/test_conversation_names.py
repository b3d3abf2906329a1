"""Which conversation a request to /v1 means: only what it names, in the order of the setting."""

from typing import Any

import pytest
from multidict import CIMultiDict

from chatbot.api.problems import RequestFault
from chatbot.api.v1.conversation_names import STATELESS, TASK, NamedConversation, conversation_of
from chatbot.config.sections.v1_settings import V1Settings

ID = "6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14"
CHAT = NamedConversation("", None, "x-openwebui-chat-id", ID)
FIELDS = V1Settings().conversation_fields


def conversation(
    headers: dict[str, str], metadata: Any = None, fields: tuple[str, ...] = FIELDS, *, stream: bool = True
) -> NamedConversation:
    return conversation_of(CIMultiDict(headers), metadata, fields, stream=stream)


@pytest.mark.parametrize(
    ("headers", "metadata", "expected"),
    [
        ({}, None, STATELESS),
        ({}, {"other": 1}, STATELESS),
        ({"X-Session-Id": ID}, None, NamedConversation("", ID)),
        ({"X-Session-Id": ID.upper()}, None, NamedConversation("", ID)),
        ({"X-Session-Id": "my chat"}, None, NamedConversation("", None, "x-session-id", "my chat")),
        ({"X-Conversation-Id": ID}, None, NamedConversation("", None, "x-conversation-id", ID)),
        ({"x-openwebui-chat-id": ID}, None, CHAT),
        ({}, {"session_id": ID}, NamedConversation("", None, "metadata.session_id", ID)),
        ({"X-Session-Id": " "}, {"session_id": "a"}, NamedConversation("", None, "metadata.session_id", "a")),
        ({"X-Conversation-Id": "b"}, {"session_id": "a"}, NamedConversation("", None, "x-conversation-id", "b")),
        ({"X-OpenWebUI-Chat-Id": ID, "X-OpenWebUI-Task": ""}, None, CHAT),
        ({"X-OpenWebUI-Chat-Id": ID, "X-OpenWebUI-Task": "title_generation"}, None, TASK),
        ({"X-OpenWebUI-Task": "title_generation"}, None, TASK),
        ({"X-OpenWebUI-Chat-Id": "local:abc"}, None, STATELESS),
        ({"X-OpenWebUI-Chat-Id": "temporary:abc"}, None, STATELESS),
        ({"X-OpenWebUI-Chat-Id": "channel:abc"}, None, STATELESS),
    ],
    ids=str,
)  # fmt: skip
def test_a_conversation_is_named_or_there_is_none(
    headers: dict[str, str], metadata: dict[str, Any] | None, expected: NamedConversation
) -> None:
    assert conversation(headers, metadata) == expected


def test_a_chat_of_open_webui_that_is_not_streamed_is_a_task() -> None:
    assert conversation({"X-OpenWebUI-Chat-Id": ID}, stream=False) == TASK
    assert conversation({"X-Conversation-Id": ID}, stream=False).value == ID


def test_the_setting_says_where_to_look() -> None:
    assert conversation({}, {"session_id": "a", "chat": "b"}, ("X-Mine", "metadata.chat")).value == "b"
    assert conversation({"x-mine": "c"}, {"chat": "b"}, ("X-Mine", "metadata.chat")).source == "x-mine"
    assert conversation({"X-Session-Id": ID}, {"session_id": "a"}, ()) == STATELESS


@pytest.mark.parametrize(
    ("headers", "metadata", "path"),
    [
        ({"X-Conversation-Id": "x" * 256}, None, "header.X-Conversation-Id"),
        ({"X-Conversation-Id": "a\x07b"}, None, "header.X-Conversation-Id"),
        ({"X-Conversation-Id": "a\udcffb"}, None, "header.X-Conversation-Id"),
        ({}, {"session_id": 7}, "$.metadata.session_id"),
        ({}, {"session_id": "a\nb"}, "$.metadata.session_id"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(
    headers: dict[str, str], metadata: dict[str, Any] | None, path: str
) -> None:
    with pytest.raises(RequestFault) as refused:
        conversation(headers, metadata)
    assert refused.value.path == path
