"""Requests for completions to /v1, and what their streams say."""

import asyncio
import json
from typing import Any

import httpx
import msgspec

from chatbot.api.v1.completion_views import CompletionChunk
from tests.support.model.model_server import ModelServer
from tests.support.service import Running

MODEL = "fake-model"


def completion_body(text: str = "Hi there", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


async def complete(service: Running, *, headers: Any = None, json: Any = None, **fields: Any) -> httpx.Response:
    """`json` in place of the body that `completion_body` makes of `fields`."""
    body = completion_body(**fields) if json is None else json
    return await service.client.post("/v1/chat/completions", json=body, headers=headers)


def data_lines(text: str) -> list[str]:
    """The `data:` of each event of a stream. Asserts that it ends with [DONE] and that no event has other fields."""
    events = [event for event in text.split("\n\n") if event and not event.startswith(":")]
    assert all(event.startswith("data: ") and "\n" not in event for event in events), events
    assert events[-1] == "data: [DONE]"
    return [event.removeprefix("data: ") for event in events[:-1]]


def chunks_of(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream. Asserts that each has the documented form."""
    lines = data_lines(text)
    for line in lines:
        msgspec.json.decode(line, type=CompletionChunk)
    return [json.loads(line) for line in lines]


def joined(chunks: list[dict[str, Any]], reasoning_field: str = "reasoning_content") -> dict[str, Any]:
    """The message that the chunks make, as the clients join them."""
    message: dict[str, Any] = {"content": "", "refusal": "", reasoning_field: "", "tool_calls": []}
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for name in ("content", "refusal", reasoning_field):
                message[name] += delta.get(name) or ""
            for call in delta.get("tool_calls", ()):
                if call["index"] == len(message["tool_calls"]):
                    assert call["id"]
                    assert call["type"] == "function"
                    message["tool_calls"].append(
                        {"id": call["id"], "type": "function", "function": {"name": "", "arguments": ""}}
                    )
                function = message["tool_calls"][call["index"]]["function"]
                function["name"] += call["function"].get("name", "")
                function["arguments"] += call["function"].get("arguments", "")
    return message


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error in the form of OpenAI's API, which is all that the answer has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-request-id"]
    (name,) = answer.json()
    assert name == "error"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return dict(error)


async def leave(service: Running, model: ModelServer, *, headers: Any = None, **fields: Any) -> None:
    """Ask, and close the connection when the model has been asked, or has written its first words."""
    model.script(pieces=("Hello ", "there"), hold_after=1)
    if fields.get("stream"):
        async with service.client.stream(
            "POST", "/v1/chat/completions", json=completion_body(**fields), headers=headers
        ) as answer:
            async for piece in answer.aiter_text():
                if "Hello" in piece:
                    break
        return
    asking = asyncio.create_task(complete(service, headers=headers, **fields))
    await model.wait_requests(1)
    asking.cancel()
    await asyncio.wait([asking])


async def status_of_reply(service: Running, session_id: str) -> str:
    """How the newest reply has ended, once it has."""
    async with asyncio.timeout(20):
        while True:
            *_, last = (await service.history(session_id))["messages"]
            if last["status"] not in ("queued", "streaming"):
                return str(last["status"])
            await asyncio.sleep(0.01)
