"""POST /v1/responses and what is read of responses afterwards, as events and as whole objects."""

import json
from typing import Any

import httpx
import pytest

from tests.support.model.model_server import ModelServer
from tests.support.model.scenario_model import ONE_CALL, THINKING
from tests.support.service import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "fake-model"
WEATHER = {"type": "function", "name": "weather", "description": None, "parameters": {"type": "object"}, "strict": None}
UNSET = {
    "completed_at", "created_at", "id", "model", "output", "usage", "status", "object",
    "metadata", "parallel_tool_calls", "reasoning", "service_tier", "store", "text", "tool_choice", "tools",
    "temperature", "top_p", "top_logprobs", "truncation", "presence_penalty", "frequency_penalty", "background",
}  # fmt: skip


async def respond(service: Running, asked: Any = "Hi there", **fields: Any) -> dict[str, Any]:
    answer = await service.client.post("/v1/responses", json={"model": MODEL, "input": asked, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def events_of(service: Running, response_id: str, after: int | None = None) -> list[dict[str, Any]]:
    query = {"stream": "true"} | ({} if after is None else {"starting_after": str(after)})
    answer = await service.client.get(f"/v1/responses/{response_id}", params=query)
    assert answer.status_code == 200, answer.text
    return read_events(answer)


def read_events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream. Asserts their form: the name is that of the data, and the last line is [DONE]."""
    *events, done = [one for one in answer.text.split("\n\n") if one and not one.startswith(":")]
    assert done == "data: [DONE]"
    found = []
    for one in events:
        name, data = one.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


async def stream(service: Running, asked: Any = "Hi there", **fields: Any) -> list[dict[str, Any]]:
    body = {"model": MODEL, "input": asked, "stream": True, **fields}
    answer = await service.client.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    return read_events(answer)


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["sequence_number"] for event in events]


async def test_a_response_is_a_whole_object_with_nulls(service: Running) -> None:
    response = await respond(service)
    assert {name for name, value in response.items() if value is None} == response.keys() - UNSET
    (item,) = response["output"]
    assert item["content"] == [{"type": "output_text", "text": "You said: Hi there", "annotations": [], "logprobs": []}]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert response["status"] == "completed"
    assert response["usage"] == {
        "input_tokens": 2,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 6,
    }
    assert (await service.client.get(f"/v1/responses/{response['id']}")).json() == response


async def test_a_stream_has_the_events_of_the_protocol_in_order(service: Running) -> None:
    events = await stream(service, "one two three")
    assert numbers(events) == list(range(len(events)))
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 5,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["delta"] for event in events if "delta" in event] == ["You ", "said: ", "one ", "two ", "three"]
    final = events[-1]["response"]
    assert events[-2]["item"] == final["output"][0]
    assert {**events[0]["response"], "completed_at": None} == {
        **final, "status": "in_progress", "output": [], "usage": None, "completed_at": None
    }  # fmt: skip


@pytest.mark.parametrize("deltas", [ONE_CALL, THINKING, ({"refusal": "I will "}, {"refusal": "not."})])
async def test_a_stored_response_has_the_same_events_after_any_number(
    service: Running, model: ModelServer, deltas: tuple[dict[str, Any], ...]
) -> None:
    model.script(deltas=deltas, finish_reason="tool_calls" if "tool_calls" in str(deltas) else "stop")
    first = await stream(service, tools=[WEATHER])
    response_id = first[0]["response"]["id"]
    assert await events_of(service, response_id) == first
    for event in first:
        number = event["sequence_number"]
        assert await events_of(service, response_id, number) == first[number + 1 :]


@pytest.mark.parametrize("after", [3, 4])  # 4: the reader has all that there is
async def test_a_reader_in_the_middle_gets_the_rest_while_it_is_written(
    service: Running, model: ModelServer, after: int
) -> None:
    model.script(pieces=("one ", "two ", "three ", "four."), hold_after=2)
    answer = await service.client.post("/v1/responses", json={"model": MODEL, "input": "Go.", "background": True})
    response = answer.json()
    assert response["status"] in ("queued", "in_progress")
    assert response["background"] is True
    await model.wait_requests()
    url = f"/v1/responses/{response['id']}?stream=true"
    async with service.client.stream("GET", url) as reader:
        async for line in reader.aiter_lines():
            if '"delta":"one "' in line:  # the second piece may go on, and is held back
                break
    async with service.client.stream("GET", f"{url}&starting_after={after}") as reader:
        model.release()
        lines = [line async for line in reader.aiter_lines() if line.startswith("data: {")]
    got = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert numbers(got) == list(range(after + 1, after + 1 + len(got)))
    events = await events_of(service, response["id"])
    assert got == events[after + 1 :]
    assert "".join(event.get("delta", "") for event in events) == "one two three four."


async def test_a_cancelled_response_keeps_its_text_and_may_be_cancelled_again(
    service: Running, model: ModelServer
) -> None:
    model.script(pieces=("one ", "two ", "three "), then="silence")
    created = await service.client.post("/v1/responses", json={"model": MODEL, "input": "Go.", "background": True})
    url = f"/v1/responses/{created.json()['id']}"
    async with service.client.stream("GET", f"{url}?stream=true") as reader:
        async for line in reader.aiter_lines():
            if '"delta":"two "' in line:
                break
        first, second = [(await service.client.post(f"{url}/cancel")).json() for _ in range(2)]
    assert first == second
    assert (first["status"], first["output"][0]["status"]) == ("cancelled", "incomplete")
    events = await events_of(service, first["id"])
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"] == first
    assert numbers(events) == list(range(len(events)))


async def test_a_conversation_puts_its_items_before_the_input(service: Running, model: ModelServer) -> None:
    items = [{"role": "user", "content": "I am Mina."}, {"role": "assistant", "content": "Hello Mina."}]
    made = await service.client.post("/v1/conversations", json={"items": items, "metadata": {"topic": "names"}})
    conversation = made.json()
    assert {**conversation, "id": "", "created_at": 0} == {
        "id": "", "object": "conversation", "created_at": 0, "metadata": {"topic": "names"}
    }  # fmt: skip
    response = await respond(service, "Who am I?", conversation=conversation["id"], instructions="Be short.")
    assert response["conversation"] == {"id": conversation["id"]}
    assert model.requests[-1].body["messages"] == [
        {"role": "system", "content": "Be short."}, *items, {"role": "user", "content": "Who am I?"}
    ]  # fmt: skip
    listed = (await service.client.get(f"/v1/conversations/{conversation['id']}/items?order=asc")).json()
    assert [item["content"][0]["text"] for item in listed["data"]] == [
        "I am Mina.", "Hello Mina.", "Who am I?", "You said: Who am I?"
    ]  # fmt: skip
    assert listed["data"][-1] == response["output"][0]
    again = await respond(service, "And now?", conversation={"id": conversation["id"]})
    assert again["instructions"] is None
    assert [one["role"] for one in model.requests[-1].body["messages"]] == ["user", "assistant"] * 2 + ["user"]


async def test_the_items_of_a_conversation_come_in_pages(service: Running) -> None:
    made = (await service.client.post("/v1/conversations")).json()
    items = [{"type": "message", "role": "user", "content": f"Number {n}."} for n in range(5)]
    url = f"/v1/conversations/{made['id']}/items"
    added = (await service.client.post(url, json={"items": items})).json()
    ids = [item["id"] for item in added["data"]]
    assert (added["first_id"], added["last_id"], len(ids)) == (ids[0], ids[-1], 5)
    for order, wanted in (("asc", ids), ("desc", ids[::-1])):
        found: list[str] = []
        page: dict[str, Any] = {"has_more": True, "last_id": ""}
        while page["has_more"]:
            query = {"order": order, "limit": "2"} | ({"after": page["last_id"]} if found else {})
            page = (await service.client.get(url, params=query)).json()
            found += [item["id"] for item in page["data"]]
        assert found == wanted
    one = await service.client.get(f"{url}/{ids[2]}")
    assert one.json()["content"] == [{"type": "input_text", "text": "Number 2."}]
    deleted = await service.client.delete(f"{url}/{ids[2]}")
    assert deleted.json()["id"] == made["id"]
    left = (await service.client.get(f"{url}?order=asc")).json()
    assert [item["id"] for item in left["data"]] == [*ids[:2], *ids[3:]]
    assert (await service.client.get(f"{url}/{ids[2]}")).status_code == 404


async def test_metadata_is_replaced_and_a_deleted_conversation_is_erased(service: Running) -> None:
    made = (await service.client.post("/v1/conversations", json={"metadata": {"a": "1", "b": "2"}})).json()
    url = f"/v1/conversations/{made['id']}"
    changed = (await service.client.post(url, json={"metadata": {"b": "3"}})).json()
    assert changed == (await service.client.get(url)).json() == {**made, "metadata": {"b": "3"}}
    response = await respond(service, conversation=made["id"])
    assert (await service.client.delete(url)).json() == {
        "id": made["id"], "object": "conversation.deleted", "deleted": True
    }  # fmt: skip
    for gone in (url, f"{url}/items", f"/v1/responses/{response['id']}"):
        assert (await service.client.get(gone)).status_code == 404


async def test_a_previous_response_is_continued_from_any_point(service: Running, model: ModelServer) -> None:
    first = await respond(service, "One.", instructions="Count.")
    second = await respond(service, "Two.", previous_response_id=first["id"])
    other = await respond(service, "Three.", previous_response_id=first["id"])
    assert second["previous_response_id"] == other["previous_response_id"] == first["id"]
    assert [message["content"] for message in model.requests[-1].body["messages"]] == [
        "One.", "You said: One.", "Three."
    ]  # fmt: skip
    last = await respond(service, "Four.", previous_response_id=second["id"])
    assert [message["content"] for message in model.requests[-1].body["messages"]] == [
        "One.", "You said: One.", "Two.", "You said: Two.", "Four."
    ]  # fmt: skip
    items = (await service.client.get(f"/v1/responses/{last['id']}/input_items")).json()
    assert [item["content"][0]["text"] for item in items["data"]] == ["Four."]


async def test_calls_are_answered_by_the_next_request(service: Running, model: ModelServer) -> None:
    model.script(deltas=ONE_CALL, finish_reason="tool_calls")
    first = await respond(service, "How warm?", tools=[WEATHER], tool_choice={"type": "function", "name": "weather"})
    assert first["tools"] == [WEATHER]
    assert first["tool_choice"] == {"type": "function", "name": "weather"}
    said, call = first["output"]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == (
        "function_call",
        "weather",
        {"city": "Seoul"},
    )
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "21 °C"}
    second = await respond(service, [result], previous_response_id=first["id"], tools=[WEATHER])
    assert second["status"] == "completed"
    (listed,) = (await service.client.get(f"/v1/responses/{second['id']}/input_items")).json()["data"]
    assert (listed["call_id"], listed["output"]) == (call["call_id"], "21 °C")
    whole = [{"role": "user", "content": "How warm?"}, said, call, result]
    await respond(service, whole)
    assert model.requests[-1].body["messages"] == model.requests[-2].body["messages"]


async def test_a_response_that_is_not_stored_is_erased_at_its_end(service: Running, model: ModelServer) -> None:
    first = await respond(service, "One.")
    second = await respond(service, "Two.", previous_response_id=first["id"], store=False)
    assert second["store"] is False
    assert [message["content"] for message in model.requests[-1].body["messages"]] == [
        "One.", "You said: One.", "Two."
    ]  # fmt: skip
    assert (await service.client.get(f"/v1/responses/{second['id']}")).status_code == 404
    kinds = (await service.client.get("/api/sessions", params={"kind": "stateless"})).json()
    assert kinds["sessions"] == []


async def test_a_deleted_response_is_gone_and_others_of_its_session_stay(service: Running) -> None:
    first = await respond(service, "One.")
    second = await respond(service, "Two.", previous_response_id=first["id"])
    assert (await service.client.delete(f"/v1/responses/{second['id']}")).json() == {
        "id": second["id"], "object": "response", "deleted": True
    }  # fmt: skip
    assert (await service.client.get(f"/v1/responses/{second['id']}")).status_code == 404
    assert (await service.client.get(f"/v1/responses/{first['id']}")).json() == first
    alone = await respond(service, "Alone.")
    assert (await service.client.delete(f"/v1/responses/{alone['id']}")).status_code == 200
    session_id = alone["id"][5:37]
    assert (await service.client.get(f"/v1/conversations/{session_id}")).status_code == 404


async def test_a_request_with_a_key_takes_effect_once(service: Running) -> None:
    body = {"model": MODEL, "input": "Only once."}
    one, two = [
        await service.client.post("/v1/responses", json=body, headers={"Idempotency-Key": "response-1"})
        for _ in range(2)
    ]
    assert one.json() == two.json()


async def test_a_conversation_of_one_api_goes_on_in_the_others(service: Running, model: ModelServer) -> None:
    session_id = await service.session(system_prompt="Be kind.", timeout_hours=1)
    said = await service.chat(session_id, "One.")
    response = await respond(service, "Two.", conversation=session_id)
    assert [message["content"] for message in model.requests[-1].body["messages"]] == [
        "Be kind.", "One.", "You said: One.", "Two."
    ]  # fmt: skip
    completion = await service.client.post(
        "/v1/chat/completions",
        json={
            "model": MODEL,
            "messages": [
                {"role": "user", "content": "One."},
                {"role": "assistant", "content": "You said: One."},
                {"role": "user", "content": "Two."},
                {"role": "assistant", "content": "You said: Two."},
                {"role": "user", "content": "Three."},
            ],
        },
        headers={"X-Session-Id": session_id},
    )
    assert completion.status_code == 200
    last = await service.chat(session_id, "Four.")
    history = await service.history(session_id)
    assert [one["content"] for one in history["messages"]][::2] == ["One.", "Two.", "Three.", "Four."]
    items = (await service.client.get(f"/v1/conversations/{session_id}/items?order=asc")).json()["data"]
    assert [item["content"][0]["text"] for item in items] == [one["content"] for one in history["messages"]]
    hex_id = session_id.replace("-", "")
    for reply_id in (said["message_id"], last["message_id"]):  # a reply of another API is a response, too
        found = await service.client.get(f"/v1/responses/resp_{hex_id}{reply_id.replace('-', '')}")
        assert found.json()["status"] == "completed"
    events = await events_of(service, f"resp_{hex_id}{last['message_id'].replace('-', '')}")
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "You said: Four."
    branch = await service.client.post(f"/api/sessions/{session_id}/branch", json={"message_id": reply_of(response)})
    assert branch.status_code == 200, branch.text
    deleted = await service.client.delete(f"/api/sessions/{session_id}")
    assert deleted.status_code == 204
    assert (await service.client.get(f"/v1/responses/{response['id']}")).status_code == 404


def reply_of(response: dict[str, Any]) -> str:
    digits = response["id"][37:]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


async def test_sessions_of_responses_are_conversations_without_an_end(service: Running) -> None:
    response = await respond(service, "Stay.", metadata={"topic": "time"})
    session_id = response["id"][5:37]
    uuid = "-".join((session_id[:8], session_id[8:12], session_id[12:16], session_id[16:20], session_id[20:]))
    session = (await service.client.get(f"/api/sessions/{uuid}")).json()
    assert session["expires_at"] is None
    again = await service.chat(uuid, "Go on.")
    assert again["content"] == "You said: Go on."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].type",
        ),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(service: Running, fields: dict[str, Any], param: str) -> None:
    answer = await service.client.post("/v1/responses", json={"model": MODEL, "input": "Hi", **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, "unsupported_parameter")


async def test_unknown_ids_are_not_found(service: Running) -> None:
    unknown = "resp_" + "0" * 64
    body = {"model": MODEL, "input": "Hi", "previous_response_id": unknown}
    for answer in (
        await service.client.get(f"/v1/responses/{unknown}"),
        await service.client.get("/v1/responses/nonsense"),
        await service.client.post(f"/v1/responses/{unknown}/cancel"),
        await service.client.delete(f"/v1/responses/{unknown}"),
        await service.client.post("/v1/responses", json=body),
        await service.client.get("/v1/conversations/conv_" + "0" * 32),
    ):
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error"), answer.text


async def test_the_tokens_of_a_request_are_estimated(service: Running) -> None:
    body = {"model": MODEL, "input": "Hi there, how are you?", "instructions": "Be short."}
    answer = (await service.client.post("/v1/responses/input_tokens", json=body)).json()
    assert answer["object"] == "response.input_tokens"
    assert 5 < answer["input_tokens"] < 50


async def test_structured_text_and_parameters_reach_the_model(service: Running, model: ModelServer) -> None:
    schema = {"type": "object", "properties": {"result": {"type": "integer"}}}
    fields = {"type": "json_schema", "name": "product", "schema": schema, "strict": True, "description": None}
    response = await respond(
        service, "42?", text={"format": fields}, temperature=0.5, top_p=0.9, max_output_tokens=64,
        reasoning={"effort": "low"}, metadata={"a": "b"}, truncation="auto",
    )  # fmt: skip
    sent = model.requests[-1].body
    assert sent["response_format"]["json_schema"] == {"name": "product", "schema": schema, "strict": True}
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["reasoning_effort"]) == (0.5, 0.9, 64, "low")
    shown = {name: response[name] for name in ("temperature", "top_p", "max_output_tokens", "metadata", "truncation")}
    assert shown == {
        "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 64, "metadata": {"a": "b"}, "truncation": "auto"
    }  # fmt: skip
    assert response["text"]["format"] == fields
    assert response["reasoning"]["effort"] == "low"
