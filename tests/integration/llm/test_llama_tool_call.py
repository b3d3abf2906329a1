"""A tool call of a real llama.cpp: asked for with a history of calls and results, which the small model imitates."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatbot.llm.llm_options import EmbeddedOptions, LlmOptions
from chatbot.llm.provider import (
    TAKES_ALL,
    ChatMessage,
    LlmUnsupported,
    ModelMessage,
    PartsMessage,
)
from chatbot.llm.providers.embedded_provider import EmbeddedProvider
from chatbot.llm.providers.openai_provider import OpenAiProvider
from events.catalogue import Parameters
from events.schema.parts import Media, Text, ToolCall, ToolResult
from tests.support.model.provider_client import MakeProvider, PartsSink, ask
from tests.support.programs.external_programs import needs_model

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


@pytest.fixture
async def llama_url() -> AsyncIterator[str]:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.model.llama_server"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        async with asyncio.timeout(60):
            while not (line := (await program.stdout.readline()).decode()).startswith("http"):
                assert line, "the server ended before it served"
        yield line.strip()
    finally:
        program.stdin.close()
        try:
            async with asyncio.timeout(10):
                await program.wait()
        except TimeoutError:
            program.kill()
            await program.wait()


def turn(number: int, city: str) -> tuple[ModelMessage, ...]:
    call = ToolCall(f"c{number}", "get_weather", json.dumps({"city": city}))
    result = ToolResult(call.call_id, (Text("21"),))
    return (
        ChatMessage("user", f"What is the weather in {city}?"),
        PartsMessage("assistant", "", (call,)),
        PartsMessage("tool", "", (result,)),
        ChatMessage("assistant", "It is 21 degrees."),
    )


@needs_model
async def test_the_model_calls_a_tool_and_takes_its_result(llama_url: str, make_provider: MakeProvider) -> None:
    provider = make_provider(OpenAiProvider, server_url=llama_url)
    history = tuple(one for number, city in enumerate(("Paris", "Rome", "Oslo")) for one in turn(number, city))
    asked = ChatMessage("user", "What is the weather in Seoul?")
    sink = PartsSink()
    parameters = Parameters(tools=TOOLS, do_sample=False, max_new_tokens=60)
    finish = await provider.stream((*history, asked), parameters, sink)
    (call,) = sink.parts
    assert isinstance(call, ToolCall)
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Seoul"})
    assert len(sink.calls) > 2, "it came in pieces"
    assert finish.reason == "tool_calls"
    assert finish.usage is not None
    assert sink.usages == [finish.usage]
    assert provider.takes == TAKES_ALL - {"media"}
    assert provider.context_tokens("") == provider.context_tokens("any") == 2048

    results = PartsMessage("tool", "", (ToolResult(call.call_id, (Text("21"),)),))
    called, answered = PartsMessage("assistant", "", (call,)), PartsSink()
    finish = await provider.stream((*history, asked, called, results), parameters, answered)
    assert [part for part in answered.parts if isinstance(part, Text) and "21" in part.text]
    assert finish.reason == "stop"
    image = PartsMessage("user", "", (Media("0" * 64, "image/png", 1),), {"0" * 64: b"\x89PNG"})
    with pytest.raises(LlmUnsupported, match="does not take images"):
        await provider.stream((image,), Parameters(), PartsSink())


@needs_model
async def test_the_embedded_model_takes_no_tools_because_its_template_has_no_place_for_them() -> None:
    provider = EmbeddedProvider(EmbeddedOptions(context_tokens=512), LlmOptions())
    assert provider.takes is None
    with pytest.raises(LlmUnsupported, match="does not take tools"):
        await ask(provider, tools=TOOLS)
    assert provider.takes == TAKES_ALL - {"media", "tools"}
    assert provider.context_tokens("") == 512
    answer = await ask(provider, "A city?", response_format={"type": "json_object"}, max_new_tokens=40, do_sample=False)
    assert answer.text.lstrip().startswith("{")
    await provider.close()
