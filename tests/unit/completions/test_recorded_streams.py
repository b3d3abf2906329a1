"""Streams of real servers, or in the shape that they have, as the parts of a reply: at once, and byte by byte."""

from pathlib import Path

import pytest

from chatbot.llm.http.http_response import SseParser
from chatbot.llm.provider import Finish
from chatbot.llm.providers.openai_completion import Completion
from events.catalogue import Usage
from events.schema.parts import Parts, Reasoning, Text, ToolCall
from tests.support.model.provider_client import PartsSink

STREAMS = Path(__file__).with_name("streams")
SEOUL = '{"city": "Seoul"}'

RECORDED: dict[str, tuple[Parts, Finish]] = {
    "vllm": (
        (
            Reasoning("The user wants the weather.\n"),
            Text("\n\n"),
            ToolCall("chatcmpl-tool-1b2c", "get_weather", SEOUL),
            ToolCall("chatcmpl-tool-3d4e", "get_time", "{}"),
        ),
        Finish("tool_calls", "Qwen/Qwen3-8B", Usage(190, 50, 240)),
    ),
    "llamacpp": (
        (ToolCall("GwoiUjOW9oldehP5pF9bfAuOCRiM8f8N", "get_weather", SEOUL),),
        Finish("tool_calls", "SmolLM2-135M-Instruct"),
    ),
    "llamacpp-reasoning": (
        (Reasoning("We greet."), Text("Hello \U0001f44b")),
        Finish("stop", "gpt-oss-20b", Usage(70, 9, 79, cached_tokens=64)),
    ),
    "ollama": (
        (
            Reasoning("Two cities, two calls."),
            ToolCall("call_a1b2c3d4", "get_weather", '{"city":"Seoul"}'),
            ToolCall("call_e5f6a7b8", "get_weather", '{"city":"Paris"}'),
        ),
        Finish("tool_calls", "qwen3:8b", Usage(160, 70, 230)),
    ),
    "deepseek": (
        (Reasoning("9.11 < 9.8"), Text("9.8 is larger.")),
        Finish("stop", "deepseek-reasoner", Usage(18, 30, 48, reasoning_tokens=20, cached_tokens=0)),
    ),
    "openrouter": (
        (Reasoning("I need the weather."), Text("I will look."), ToolCall("toolu_01A", "get_weather", SEOUL)),
        Finish(
            "tool_calls", "anthropic/claude-sonnet-4.5", Usage(395, 86, 481, reasoning_tokens=16, cached_tokens=128)
        ),
    ),
    "litellm": (
        (Reasoning("Let me see."), Text("Looking it up."), ToolCall("toolu_02B", "get_weather", SEOUL)),
        Finish("tool_calls", "claude-sonnet-4-5", Usage(420, 81, 501, reasoning_tokens=9, cached_tokens=400)),
    ),
    "mistral": (
        (
            Reasoning("A greeting, so I greet. Done."),
            Text("Hello 안녕!"),
            ToolCall("D681PevKs", "get_weather", SEOUL),
        ),
        Finish("tool_calls", "magistral-medium-2509", Usage(12, 28, 40)),
    ),
}


def test_each_stream_is_tried() -> None:
    assert {path.stem for path in STREAMS.iterdir()} == RECORDED.keys()


@pytest.mark.parametrize("server", RECORDED)
@pytest.mark.parametrize("bytes_at_once", [1, 100, 1_000_000])
def test_a_recorded_stream_becomes_parts(server: str, bytes_at_once: int) -> None:
    data = STREAMS.joinpath(f"{server}.sse").read_bytes()
    sink, parser = PartsSink(), SseParser(1_048_576)
    reply = Completion("asked", "", sink)
    for start in range(0, len(data), bytes_at_once):
        if events := parser.feed(data[start : start + bytes_at_once]):
            reply.add_events(events)
            assert reply.failure is None
    reply.end()
    parts, finish = RECORDED[server]
    assert (sink.parts, reply.finish()) == (parts, finish)
    assert sink.usages == ([finish.usage] if finish.usage else [])
    assert reply.done
