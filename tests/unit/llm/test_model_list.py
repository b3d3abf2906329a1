"""Lists of models in the shapes that servers give."""

from typing import Any

import pytest

from chatbot.llm.model_names import NAMES_MAX, read_names


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ({"object": "list", "data": [{"id": "a"}, {"id": "b"}]}, ["a", "b"]),
        ([{"id": "a"}], ["a"]),
        (["a", "b", 7, None, True, [], ""], ["a", "b", "7"]),
        ({"models": [{"name": "llama3:latest", "model": "llama3:latest"}]}, ["llama3:latest"]),
        ({"models": [{"model": "a"}], "object": "list"}, ["a"]),
        ({"data": {"models": [{"id": "a"}]}}, ["a"]),
        ({"result": [{"name": "@cf/a"}]}, ["@cf/a"]),
        ({"data": []}, []),
        ({"data": None}, []),
        ([], []),
        ({"error": "no"}, None),
        ({"data": "a"}, None),
        ("a", None),
        (None, None),
        ({"data": [{"id": None, "name": "a"}, {"object": "model"}, 1.5]}, ["a"]),
    ],
)
def test_names_are_found_in_any_shape(document: Any, names: list[str] | None) -> None:
    assert read_names(document) == names


@pytest.mark.parametrize(
    "other",
    [
        {"id": "text-embedding-3-small"},
        {"id": "nomic-embed-text:latest"},
        {"id": "BAAI/bge-m3"},
        {"id": "intfloat/e5-large"},
        {"id": "Qwen3-Reranker-4B"},
        {"id": "whisper-1"},
        {"id": "tts-1-hd"},
        {"id": "omni-moderation-latest"},
        {"id": "dall-e-3"},
        {"id": "x", "type": "embedding"},
        {"id": "x", "type": "embeddings", "object": "model"},
        {"id": "x", "task": "text-to-image"},
        {"name": "x", "capabilities": ["embedding"]},
    ],
)
def test_models_that_do_not_chat_come_last(other: dict[str, Any]) -> None:
    names = read_names({"data": [other, {"id": "chat", "type": "llm", "capabilities": ["completion", "embedding"]}]})
    assert names is not None
    assert (names[0], len(names)) == ("chat", 2)


@pytest.mark.parametrize("name", ["bge", "big-e5", "mistral-large", "gemma-3-clipper", "llama-tts2", "member-7b"])
def test_a_name_that_only_sounds_so_is_a_chat_model(name: str) -> None:
    assert read_names([name, "z"]) == [name, "z"]


def test_the_number_of_names_is_bounded() -> None:
    assert len(read_names([str(number) for number in range(NAMES_MAX + 5)]) or ()) == NAMES_MAX
