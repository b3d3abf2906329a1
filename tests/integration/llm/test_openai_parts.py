"""Parts of replies and of requests, over a real socket."""

import base64
import random
from typing import Any

import pytest

from chatbot.llm.llm_options import LlmOptions
from chatbot.llm.provider import ChatMessage, LlmFailed, LlmUnsupported, PartsMessage
from chatbot.llm.providers.openai_provider import OpenAiProvider
from chatbot.llm.resilient_provider import ResilientProvider
from events.catalogue import Parameters
from events.schema.parts import Media, Reasoning, Text, ToolCall
from tests.support.model.model_server import ModelServer
from tests.support.model.provider_client import MakeProvider, PartsSink, ask
from tests.support.model.raw_model_server import RawServer


@pytest.fixture
def provider(model: ModelServer, make_provider: MakeProvider) -> OpenAiProvider:
    return make_provider(OpenAiProvider, server_url=model.url, api_key="secret-1")


CALL = '{"index":0,"id":"c","function":{"name":"f","arguments":"{\\"a\\":1"}}'
WAITING = '{"index":1,"id":"d","function":{"name":"g","arguments":"{}"}}'
CALLING = f'data: {{"choices":[{{"delta":{{"reasoning":"hm","tool_calls":[{CALL},{WAITING}]}}}}]}}\n\n'


@pytest.mark.parametrize("then", ["cut", "error", "malformed"])
async def test_the_parts_of_a_reply_that_fails_are_kept_those_that_waited_too(
    model: ModelServer, provider: OpenAiProvider, then: str
) -> None:
    model.script(raw=CALLING, then=then)
    sink = PartsSink()
    with pytest.raises(LlmFailed):
        await provider.stream((ChatMessage("user", "hi"),), Parameters(), sink)
    assert sink.parts == (Reasoning("hm"), ToolCall("c", "f", '{"a":1'), ToolCall("d", "g", "{}"))


@pytest.mark.parametrize(
    ("status", "error", "parameters"),
    [
        (400, "m does not support tools", {"tools": [{"type": "function"}]}),
        (500, "tools param requires --jinja flag", {"tools": [{"type": "function"}]}),
        (404, "No endpoints found that support tool use", {"tools": [{"type": "function"}]}),
        (400, "This response_format type is unavailable now", {"response_format": {"type": "json_object"}}),
    ],
)
async def test_what_the_server_cannot_do_is_unsupported_and_asked_once(
    model: ModelServer, provider: OpenAiProvider, status: int, error: str, parameters: dict[str, Any]
) -> None:
    await ask(provider)
    model.script(status=status, error=error, times=9)
    with pytest.raises(LlmUnsupported, match="does not take"):
        await ask(ResilientProvider(provider, LlmOptions(retry_backoff_s=0.01)), **parameters)
    refused = [request for request in model.requests[1:] if request.path.endswith("/v1/chat/completions")]
    assert len(refused) == 1


async def test_a_parameter_of_tools_that_is_refused_is_left_out_and_told(
    model: ModelServer, provider: OpenAiProvider
) -> None:
    message = "Unsupported parameter: 'parallel_tool_calls' is not supported with this model."
    model.script(status=400, body={"error": {"message": message, "param": "parallel_tool_calls"}})
    answer = await ask(provider, tools=[{"type": "function"}], parallel_tool_calls=False)
    assert answer.finish is not None
    assert answer.finish.refused_parameters == ("parallel_tool_calls",)
    assert "tools" in model.requests[-1].body


async def test_ten_megabytes_of_an_image_arrive_byte_for_byte(model: ModelServer, provider: OpenAiProvider) -> None:
    image = random.Random(1).randbytes(10_000_000)
    part = Media("0" * 64, "image/png", len(image))
    asked = PartsMessage("user", "See", (Text("See"), part), {part.sha256: image})
    model.script(pieces=("Seen",))
    sink = PartsSink()
    await provider.stream((asked,), Parameters(), sink)
    url = model.requests[0].body["messages"][0]["content"][1]["image_url"]["url"]
    assert base64.b64decode(url.partition(",")[2]) == image
    assert sink.parts == (Text("Seen"),)


async def test_the_context_of_a_model_is_known_from_the_list(
    raw_server: RawServer, make_provider: MakeProvider
) -> None:
    listed = b'{"data":[{"id":"m","max_model_len":4096},{"id":"n"}]}'
    raw_server.answers.append(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(listed), listed))
    provider = make_provider(OpenAiProvider, server_url=raw_server.url)
    assert provider.context_tokens("m") is None
    await provider.health()
    assert [provider.context_tokens(name) for name in ("", "m", "n", "other")] == [4096, 4096, None, None]


async def test_think_tags_are_read_where_the_setting_says_so(model: ModelServer, make_provider: MakeProvider) -> None:
    for tags, parts in (("off", (Text("<think>hm</think>Hi"),)), ("tagged", (Reasoning("hm"), Text("Hi")))):
        model.script(pieces=("<thi", "nk>hm</th", "ink>H", "i"))
        provider = make_provider(OpenAiProvider, server_url=model.url, think_tags=tags)
        sink = PartsSink()
        await provider.stream((ChatMessage("user", "hi"),), Parameters(), sink)
        assert sink.parts == parts
