"""Reads what llama.cpp's `/props` say of its model. Pure."""

from typing import Any

from msgspec import Struct

from chatbot.llm.model_names import is_context_size
from chatbot.llm.provider import TAKES_ALL


class LlamaProps(Struct, frozen=True):
    """`context_tokens`: of one reply, None if that is not told. `takes`: see Provider.takes."""

    context_tokens: int | None
    takes: frozenset[str]


def read_props(document: Any) -> LlamaProps:
    """What is not told counts as present, as with servers that have no such list."""
    size = _field(_field(document, "default_generation_settings"), "n_ctx")
    takes = set(TAKES_ALL)
    if _field(_field(document, "chat_template_caps"), "supports_tools") is False:
        takes.remove("tools")
    if _field(_field(document, "modalities"), "vision") is False:
        takes.remove("media")
    return LlamaProps(size if is_context_size(size) else None, frozenset(takes))


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
