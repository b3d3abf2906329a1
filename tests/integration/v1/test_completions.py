"""POST /v1/chat/completions, complete and as chunks, in the form that clients of OpenAI's API read."""

import json
from typing import Any

import pytest

from tests.support.http.completion_requests import MODEL, chunks_of, complete, completion_body, joined
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALLS: tuple[dict[str, Any], ...] = (
    {"reasoning_content": "Let me "},
    {"reasoning_content": "see."},
    {"content": "I look."},
    {
        "tool_calls": [
            {"index": 0, "id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"c":'}}
        ]
    },
    {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
    {"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
)
CALLED = [
    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"c":1}'}},
    {"id": "b", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
]


async def test_a_completion_is_a_whole_object(service: Running) -> None:
    answer = await complete(service, text="Hi there")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("created") > 1_700_000_000
    message: dict[str, Any] = {"role": "assistant", "content": "You said: Hi there", "refusal": None, "annotations": []}
    assert body == {
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6},
    }


async def test_an_answer_says_where_our_own_clients_find_its_session(service: Running) -> None:
    for stream in (False, True):
        answer = await complete(service, stream=stream)
        session_id = answer.headers["x-session-id"]
        assert answer.headers["content-location"].startswith(f"/api/sessions/{session_id}/stream?after=")
        assert answer.headers["x-request-id"]
        history = await service.history(session_id)
        assert [one["content"] for one in history["messages"]] == ["Hi there", "You said: Hi there"]
        async with service.client.stream("GET", answer.headers["content-location"]) as feed:
            first = await anext(feed.aiter_lines())
            assert first.startswith(("retry:", "id:"))


async def test_a_stream_begins_with_the_role_and_ends_with_a_reason_and_no_text(
    service: Running, model: ModelServer
) -> None:
    model.script(pieces=("안", "녕", "하😀", "세요"), delay_s=0.01)
    answer = await complete(service, stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    first, *middle, last = chunks_of(answer.text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle) == "안녕하😀세요"
    assert len(middle) > 1
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in (first, *middle))
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert (
        len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in (first, *middle, last)}) == 1
    )
    assert not any("usage" in chunk for chunk in (first, *middle, last))


async def test_the_tokens_come_in_a_chunk_of_their_own_if_they_are_asked_for(service: Running) -> None:
    answer = await complete(service, stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    *others, last = chunks_of(answer.text)
    assert all(chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_with_reasoning_and_tool_calls(service: Running, model: ModelServer, *, stream: bool) -> None:
    model.script(deltas=CALLS, finish_reason="tool_calls")
    answer = await complete(service, tools=[TOOL], tool_choice="auto", parallel_tool_calls=True, stream=stream)
    if stream:
        chunks = chunks_of(answer.text)
        message, reason = joined(chunks), chunks[-1]["choices"][0]["finish_reason"]
    else:
        (choice,) = answer.json()["choices"]
        message, reason = choice["message"], choice["finish_reason"]
    assert reason == "tool_calls"
    assert message["content"] == "I look."
    assert message["reasoning_content"] == "Let me see."
    assert message["tool_calls"] == CALLED
    sent = model.requests[0].body
    assert (sent["tools"], sent["tool_choice"], sent["parallel_tool_calls"]) == ([TOOL], "auto", True)


async def test_the_content_of_a_reply_of_nothing_but_calls_is_null(service: Running, model: ModelServer) -> None:
    model.script(deltas=CALLS[3:], finish_reason="tool_calls")
    (choice,) = (await complete(service, tools=[TOOL])).json()["choices"]
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"] == CALLED


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_a_field_of_its_own(service: Running, model: ModelServer, *, stream: bool) -> None:
    model.script(deltas=({"refusal": "I may "}, {"refusal": "not."}))
    answer = await complete(service, stream=stream)
    message = joined(chunks_of(answer.text)) if stream else answer.json()["choices"][0]["message"]
    assert message["refusal"] == "I may not."
    assert not message["content"]


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_the_reason_of_an_end_is_passed_on(service: Running, model: ModelServer, reason: str) -> None:
    model.script(finish_reason=reason)
    model.script(finish_reason=reason)
    assert (await complete(service)).json()["choices"][0]["finish_reason"] == reason
    assert chunks_of((await complete(service, stream=True)).text)[-1]["choices"][0]["finish_reason"] == reason


async def test_what_clients_send_reaches_the_model(service: Running, model: ModelServer) -> None:
    answer = await complete(
        service,
        max_tokens=7,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.9,
        stop="END",
        seed=3,
        response_format={"type": "json_object"},
        reasoning_effort="low",
        verbosity="low",
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias={"5": 1},
        top_k=40,
    )
    assert answer.status_code == 200, answer.text
    sent = model.requests[0].body
    expected = {
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "seed": 3,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
        "verbosity": "low",
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "logit_bias": {"5": 1},
        "top_k": 40,
    }
    assert {name: sent[name] for name in expected} == expected
    assert 9 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))


async def test_what_asks_for_nothing_is_not_sent_on(service: Running, model: ModelServer) -> None:
    fields = {
        "n": 1,
        "logprobs": False,
        "tools": [],
        "tool_choice": "auto",
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "store": False,
        "service_tier": "auto",
        "user": "someone",
        "safety_identifier": "x",
        "prompt_cache_key": "k",
        "metadata": {"a": "b"},
        "prediction": {"type": "content", "content": "x"},
        "never_heard_of": {"x": 1},
        "stop": None,
    }
    answer = await complete(service, **fields)
    assert answer.status_code == 200, answer.text
    assert not model.requests[0].body.keys() & (fields.keys() - {"stop"})


async def test_more_tokens_than_a_reply_may_have_count_as_that_many(service: Running, model: ModelServer) -> None:
    for fields in ({"max_tokens": 1_000_000}, {}):
        assert (await complete(service, **fields)).status_code == 200
    assert [one.body.get("max_tokens") or one.body.get("max_completion_tokens") for one in model.requests] == [4096] * 2


async def test_the_models_are_listed_and_read(service: Running) -> None:
    listed = (await service.client.get("/v1/models")).json()
    assert listed["object"] == "list"
    (first,) = listed["data"]
    assert first["id"] == MODEL
    assert first["object"] == "model"
    assert (await service.client.get(f"/v1/models/{MODEL}")).json() == first


async def test_a_large_body_is_read_piece_by_piece(service: Running, model: ModelServer) -> None:
    body = completion_body()
    body["messages"].insert(0, {"role": "system", "content": "x" * 900_000})
    body["user"] = "y" * 2_000_000
    raw = json.dumps(body).encode()

    async def pieces() -> Any:
        for start in range(0, len(raw), 100_000):
            yield raw[start : start + 100_000]

    headers = {"Content-Type": "application/json"}
    answer = await service.client.post("/v1/chat/completions", content=pieces(), headers=headers)
    assert answer.status_code == 200, answer.text
