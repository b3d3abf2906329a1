"""The parameters that a request for a completion gives, and what of it reaches the model server."""

import json
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from chatbot.api.problems import RequestFault
from chatbot.api.v1.completion_requests import (
    check_completion,
    completion_parameters,
    read_completion,
)
from chatbot.api.v1.transcript_checks import OTHER_FIELDS_MAX_BYTES
from chatbot.config.sections.chat_settings import ChatSettings
from events.catalogue import Parameters

LIMITS = ChatSettings()
TOOL = {"type": "function", "function": {"name": "weather"}}


def parameters(limits: ChatSettings = LIMITS, *, takes_tools: bool = True, **fields: Any) -> Parameters:
    raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}).encode()
    body = read_completion(raw)
    check_completion(body, 10)
    return completion_parameters(body, raw, limits, 100, takes_tools=takes_tools)


def test_a_request_that_gives_nothing_asks_for_nothing() -> None:
    assert parameters() == Parameters(max_new_tokens=100, model="m")


def test_the_newer_name_of_the_most_tokens_wins() -> None:
    assert parameters(max_tokens=5).max_new_tokens == 5
    assert parameters(max_tokens=5, max_completion_tokens=6).max_new_tokens == 6
    assert parameters(max_tokens=10**9).max_new_tokens == LIMITS.max_tokens_ceiling


def test_stops_are_one_text_or_several() -> None:
    assert parameters(stop="a").stop == ("a",)
    assert parameters(stop=["a", "b"]).stop == ("a", "b")
    assert parameters(stop="").stop == ()
    assert parameters(stop=None).stop == ()


def test_tools_that_the_model_may_leave_uncalled_are_left_out_where_it_takes_none() -> None:
    given = parameters(tools=[TOOL], tool_choice="auto", parallel_tool_calls=False, takes_tools=False)
    assert (given.tools, given.tool_choice, given.parallel_tool_calls) == (None, None, None)
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        assert parameters(tools=[TOOL], tool_choice=choice, takes_tools=False).tools == [TOOL], "refused later, by name"


def test_further_fields_are_passed_on_if_the_setting_names_them() -> None:
    assert parameters(top_k=4, min_p=None, unheard_of=1).extra_body == {"top_k": 4}
    any_field = replace(LIMITS, extra_body_fields=("*",))
    assert parameters(any_field, unheard_of=1, store=True, service_tier="auto", user="u").extra_body == {
        "unheard_of": 1
    }
    none = replace(LIMITS, extra_body_fields=())
    assert parameters(none, top_k=4).extra_body is None
    with pytest.raises(RequestFault) as refused:
        parameters(none, presence_penalty=1)
    assert refused.value.path == "$.presence_penalty"


@pytest.mark.parametrize("value", [b'"\xff"', b'{"a":"\xff"}'])
def test_bytes_that_are_no_text_are_not_passed_on(value: bytes) -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"x"}],"grammar":%b}' % value
    with pytest.raises(RequestFault) as refused:
        completion_parameters(read_completion(raw), raw, LIMITS, 100)
    assert refused.value.status == 400


def test_what_is_passed_on_is_bounded() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    for fields in ({"grammar": "x" * 20_000}, {"grammar": deep}, {"grammar": "a\0"}, {"verbosity": "x" * 20_000}):
        with pytest.raises(RequestFault):
            parameters(**fields)


@pytest.mark.parametrize(
    "large",
    [
        b'"messages":%(messages)s,"store":[%(objects)s]',
        b'"messages":%(messages)s,"metadata":{"a":[%(objects)s]}',
        b'"messages":%(messages)s,"an_unknown_field":[%(objects)s]',
        b'"messages":%(messages)s,"store":[%(objects)s],"store":1',
        b'"messages":[%(objects)s],"messages":%(messages)s',
        b'"store":[%(objects)s]',
    ],
)
def test_no_objects_are_made_of_large_fields_besides_messages(large: bytes) -> None:
    objects = b"{}," * (OTHER_FIELDS_MAX_BYTES // 3) + b"{}"
    messages = b'[{"role":"user","content":"x"}]'
    with pytest.raises(RequestFault, match="besides messages"):
        read_completion(b'{"model":"m",%b}' % (large % {b"messages": messages, b"objects": objects}))


def test_messages_may_be_larger_than_all_other_fields() -> None:
    text = "x" * (OTHER_FIELDS_MAX_BYTES + 1)
    body = read_completion(msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": text}]}))
    (message,) = body.messages
    assert message.content == text
