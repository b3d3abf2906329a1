"""What servers tell of their models, and how they refuse what those cannot do."""

from typing import Any

import pytest

from chatbot.llm.http.error_mapping import error_from_status
from chatbot.llm.http.http_response import read_usage
from chatbot.llm.model_names import is_llama_cpp, read_context_sizes
from chatbot.llm.provider import TAKES_ALL
from chatbot.llm.providers.llama_props import read_props
from events.catalogue import Usage


@pytest.mark.parametrize(
    ("document", "sizes"),
    [
        ({"data": [{"id": "a", "max_model_len": 8192}]}, {"a": 8192}),
        ({"data": [{"id": "a", "context_length": 1000}, {"id": "b"}]}, {"a": 1000}),
        ({"data": [{"id": "a", "meta": {"n_ctx": 4096, "n_ctx_train": 8192}, "owned_by": "llamacpp"}]}, {"a": 4096}),
        ({"data": [{"id": "a", "max_model_len": "8192"}, {"id": "b", "context_length": -1}, "c", None]}, {}),
        ({"data": [{"id": "a", "max_model_len": True}, {"id": "b", "meta": []}]}, {}),
        ({"data": None}, {}),
        ([{"id": "a", "max_model_len": 8192}], {}),
        (None, {}),
    ],
)
def test_the_sizes_of_contexts_are_read_from_the_list(document: Any, sizes: dict[str, int]) -> None:
    assert read_context_sizes(document) == sizes
    assert is_llama_cpp(document) == ("llamacpp" in str(document))


def test_llama_cpp_tells_what_its_model_takes() -> None:
    read = read_props(
        {
            "default_generation_settings": {"n_ctx": 2048},
            "chat_template_caps": {"supports_tools": False},
            "modalities": {"vision": False},
        }
    )
    assert (read.context_tokens, read.takes) == (2048, TAKES_ALL - {"tools", "media"})
    odds: tuple[Any, ...] = (None, [], {}, {"default_generation_settings": {"n_ctx": "big"}, "modalities": 7})
    for odd in odds:
        assert (read_props(odd).context_tokens, read_props(odd).takes) == (None, TAKES_ALL)


@pytest.mark.parametrize(
    ("status", "message", "feature"),
    [
        (
            500,
            "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
            "media",
        ),
        (400, "registry.ollama.ai/library/gemma:2b does not support tools", "tools"),
        (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', "tools"),
        (500, "tools param requires --jinja flag", "tools"),
        (400, "At most 0 image(s) may be provided in one prompt.", "media"),
        (400, "Invalid content type. image_url is only supported by certain models.", "media"),
        (404, 'No endpoints found that support tool use. Try disabling "f".', "tools"),
        (404, "No endpoints found that support image input", "media"),
        (400, "messages[0]: unknown variant `image_url`, expected `text`", "media"),
        (400, "This response_format type is unavailable now", "response_format"),
        (400, "m does not support parameters: ['response_format']", "response_format"),
        (400, "temperature must be at most 1", None),
        (400, "too many tools: at most 128 functions are supported", None),
        (500, "the tool parser crashed", None),
        (400, "model not supported", None),
    ],
)
def test_a_refused_feature_is_known_by_the_servers_words(status: int, message: str, feature: str | None) -> None:
    assert error_from_status(status, b'{"error":{"message":%b}}' % _json(message)).feature == feature


def _json(text: str) -> bytes:
    return b'"%b"' % text.replace('"', '\\"').encode()


COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@pytest.mark.parametrize(
    ("told", "reasoning", "cached"),
    [
        ({"completion_tokens_details": {"reasoning_tokens": 1}, "prompt_tokens_details": {"cached_tokens": 2}}, 1, 2),
        ({"output_tokens_details": {"reasoning_tokens": 1}, "input_tokens_details": {"cached_tokens": 2}}, 1, 2),
        ({"cache_read_input_tokens": 2}, None, 2),
        ({"prompt_cache_hit_tokens": 2}, None, 2),
        ({"completion_tokens_details": None, "prompt_tokens_details": []}, None, None),
        ({"completion_tokens_details": {"reasoning_tokens": -1}, "cache_read_input_tokens": "2"}, None, None),
        ({"completion_tokens_details": {"reasoning_tokens": 0}}, 0, None),
    ],
)
def test_tokens_of_reasoning_and_of_a_cached_prompt_are_read(
    told: dict[str, Any], reasoning: int | None, cached: int | None
) -> None:
    assert read_usage(COUNTS | told) == Usage(3, 2, 5, reasoning, cached)
