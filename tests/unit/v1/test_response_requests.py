"""Requests for responses are refused before much is made of them."""

from typing import Any

import msgspec
import pytest

from chatbot.api.openai_responses.create_bodies import InputTokensBody, ResponseBody
from chatbot.api.openai_responses.response_requests import checked_tools, read_response, response_parameters
from chatbot.api.problems import RequestFault
from chatbot.api.v1.transcript_checks import OTHER_FIELDS_MAX_BYTES
from chatbot.config.sections.chat_settings import ChatSettings

LIMITS = ChatSettings()
TOOL = {"type": "function", "name": "weather"}


@pytest.mark.parametrize("kind", [ResponseBody, InputTokensBody])
@pytest.mark.parametrize("field", ["tools", "metadata", "an_unknown_field", "input"])
def test_no_objects_are_made_of_large_fields_besides_texts(kind: Any, field: str) -> None:
    objects = b"{}," * (OTHER_FIELDS_MAX_BYTES // 3) + b"{}"
    with pytest.raises(RequestFault, match="besides input and instructions"):
        read_response(b'{"model":"m","%b":[%b],"input":"x"}' % (field.encode(), objects), kind)


@pytest.mark.parametrize("field", ["input", "instructions"])
def test_texts_may_be_larger_than_all_other_fields(field: str) -> None:
    text = "x" * (OTHER_FIELDS_MAX_BYTES + 1)
    body = read_response(msgspec.json.encode({"model": "m", field: text}), ResponseBody)
    assert getattr(body, field) == text


@pytest.mark.parametrize("kind", [ResponseBody, InputTokensBody])
@pytest.mark.parametrize(
    "tools",
    [[{"type": "files"}], [TOOL] * (LIMITS.tools_max + 1), [{**TOOL, "description": "x" * LIMITS.tools_max_bytes}]],
)
def test_tools_that_are_not_allowed_are_refused(kind: Any, tools: list[Any]) -> None:
    with pytest.raises(RequestFault) as refused:
        checked_tools(kind(model="m", tools=tools), LIMITS)
    assert (refused.value.path or "").startswith("$.tools")


def test_the_number_of_tools_is_checked_first() -> None:
    tools = [{"type": "files"}] * (LIMITS.tools_max + 1)
    with pytest.raises(RequestFault, match=f"at most {LIMITS.tools_max} are allowed"):
        checked_tools(ResponseBody(model="m", tools=tools), LIMITS)


def test_a_verbosity_has_no_nul() -> None:
    body = msgspec.convert({"model": "m", "input": "x", "text": {"verbosity": "lo\0w"}}, ResponseBody)
    with pytest.raises(RequestFault) as refused:
        response_parameters(body, LIMITS, 16, 1)
    assert refused.value.path == "$.text.verbosity"
