"""Tool calls over HTTP: a reply asks for them, a message of the role tool answers, and none blocks a conversation."""

import json
from typing import Any

import httpx

from tests.support.model.model_server import ModelServer
from tests.support.service import Running

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":'}}
DELTAS: tuple[dict[str, Any], ...] = (
    {"reasoning_content": "hm"},
    {"content": "Let me look."},
    {"tool_calls": [CALL]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '"Seoul"}'}}]},
)
PARTS = [
    {"type": "text", "text": "Let me look."},
    {"type": "tool_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Seoul"}'},
]
RESULT = {"type": "tool_result", "call_id": "call_1", "content": "21 °C"}


async def asked(service: Running, model: ModelServer) -> tuple[str, dict[str, Any]]:
    """A session whose newest reply has a tool call, and that reply."""
    model.script(deltas=DELTAS, finish_reason="tool_calls")
    session_id = await service.session()
    reply = await service.chat(session_id, "How warm is it?", tools=[TOOL], tool_choice="auto", reasoning_effort="low")
    return session_id, reply


async def post(service: Running, session_id: str, **members: Any) -> httpx.Response:
    return await service.client.post("/api/chat", json={"session_id": session_id, **members})


async def test_a_turn_with_a_tool_is_asked_answered_and_shown(service: Running, model: ModelServer) -> None:
    session_id, reply = await asked(service, model)
    first = model.requests[0].body
    assert (first["tools"], first["tool_choice"], first["reasoning_effort"]) == ([TOOL], "auto", "low")
    assert (reply["content"], reply["finish_reason"], reply["calls"]) == ("Let me look.", "tool_calls", "open")
    thought, *said = reply["parts"]
    assert (thought["type"], thought["text"]) == ("reasoning", "hm")
    assert said == PARTS
    model.script(pieces=("21 degrees.",))
    answer = await post(service, session_id, role="tool", message=[RESULT])
    assert (answer.status_code, answer.json()["content"]) == (200, "21 degrees."), answer.text
    question, calling, results, last = (await service.history(session_id))["messages"]
    assert (question["role"], calling["calls"], last["calls"]) == ("user", "answered", None)
    assert (results["role"], results["content"], results["parent_id"]) == ("tool", "", calling["message_id"])
    told = {"type": "tool_result", "call_id": "call_1", "parts": [{"type": "text", "text": "21 °C"}]}
    assert results["parts"] == [told]
    second = model.requests[1].body
    assert second["tools"] == [TOOL], "the turn's tools need not be sent again"
    user, assistant, tool = second["messages"]
    assert user == {"role": "user", "content": "How warm is it?"}
    (call,) = assistant["tool_calls"]
    assert (assistant["content"], call["id"], call["function"]["name"]) == ("Let me look.", "call_1", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "Seoul"}
    assert "hm" not in json.dumps(assistant), "reasoning is not sent back unless it is asked for"
    assert tool == {"role": "tool", "tool_call_id": "call_1", "content": "21 °C"}


async def test_what_does_not_fit_the_calls_is_refused_with_its_path(service: Running, model: ModelServer) -> None:
    session_id, reply = await asked(service, model)

    async def refused(status: int, kind: str, path: str | None = None, **members: Any) -> dict[str, Any]:
        answer = await post(service, session_id, **members)
        problem = dict(answer.json())
        assert (answer.status_code, problem["type"]) == (status, f"/problems/{kind}"), answer.text
        assert [fault["path"] for fault in problem.get("errors", [])] == ([path] if path else [])
        return problem

    await refused(422, "invalid", "$.message", role="tool", message="21 °C")
    other = {**RESULT, "call_id": "call_2"}
    await refused(422, "invalid", "$.message[0].call_id", role="tool", message=[other])
    await refused(422, "invalid", "$.message[0].type", message=[RESULT])
    problem = await refused(409, "calls-open", message="Never mind", on_busy="reject")
    assert (problem["reply_id"], problem["call_ids"]) == (reply["message_id"], ["call_1"])
    await refused(409, "no-open-calls", role="tool", message=[RESULT], parent_id=None)
    assert len((await service.history(session_id))["messages"]) == 2


async def test_a_message_of_the_user_closes_the_calls(service: Running, model: ModelServer) -> None:
    session_id, reply = await asked(service, model)
    model.script(pieces=("As you like.",))
    assert (await post(service, session_id, message="Never mind")).status_code == 200
    _, calling, *_ = (await service.history(session_id))["messages"]
    assert calling["calls"] == "closed"
    results = model.requests[1].body["messages"][2]
    assert (results["role"], results["tool_call_id"]) == ("tool", "call_1")
    late = await post(service, session_id, role="tool", message=[RESULT], parent_id=reply["message_id"])
    assert (late.status_code, late.json()["type"]) == (409, "/problems/calls-closed")


async def test_open_calls_are_cancelled_like_a_reply(service: Running, model: ModelServer) -> None:
    session_id, reply = await asked(service, model)
    path = f"/api/sessions/{session_id}/cancel"
    key = {"Idempotency-Key": "stop"}
    first = await service.client.post(path, json={}, headers=key)
    assert first.json() == {"reply_id": reply["message_id"], "status": "complete", "closed_calls": ["call_1"]}
    again = await service.client.post(path, json={}, headers=key)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert (await service.client.post(path, json={})).json() == {"reply_id": None}
    assert (await service.history(session_id))["messages"][-1]["calls"] == "closed"


async def test_a_repeated_message_of_results_has_the_same_answer(service: Running, model: ModelServer) -> None:
    session_id, _ = await asked(service, model)
    model.script(pieces=("21 degrees.",))
    body = {"session_id": session_id, "role": "tool", "message": [RESULT]}
    answers = [
        await service.client.post("/api/chat", json=body, headers={"Idempotency-Key": "results"}) for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    assert answers[0].status_code == 200
    assert len(model.requests) == 2
