"""What a server's list of models says, in any known shape: their names, and the sizes of their contexts. Pure."""

import re
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from typing import Any

NAMES_MAX = 10_000  # kept of one list: routers offer thousands
CONTEXT_MAX_TOKENS = 2**31 - 1
LIST_MAX_BYTES = 16_777_216  # of a list's JSON: some describe each model at length

# Models that do not chat, by name or by type: embeddings, rerankers, speech, images, moderation.
_OTHER_KIND = re.compile(
    r"embed|rerank|(?:^|[/_-])(?:bge|e5|gte)[_-]|whisper|(?:^|[/_.-])tts(?:[/_.-]|$)|moderation|dall-e|stable-diffusion"
    r"|(?:^|[/_-])(?:clip|colbert)[_-]|text-to-image|speech|transcri",
    re.IGNORECASE,
)


def read_names(document: Any) -> list[str] | None:
    """The names, those of models that chat first; None if `document` is no list of models.

    Known shapes: {"data": [...]} (openai), {"models": [...]} (Ollama, Gemini), a bare array; of objects with id,
    name or model, or of names.
    """
    listed = document
    for _ in range(2):  # {"data": {"models": [...]}}
        if isinstance(listed, dict):
            listed = next((listed[name] for name in ("data", "models", "result") if name in listed), None)
    if listed is None and isinstance(document, dict) and ("data" in document or "models" in document):
        return []  # "data": null
    if not isinstance(listed, list):
        return None
    chat: list[str] = []
    other: list[str] = []
    for one in listed[:NAMES_MAX]:
        if name := _name_of(one):
            (other if _is_other_kind(one, name) else chat).append(name)
    return chat + other


# vLLM; OpenRouter and LM Studio; Groq; Mistral.
_CONTEXT_NAMES = ("max_model_len", "context_length", "context_window", "max_context_length")


def read_context_sizes(document: Any) -> dict[str, int]:
    """The size of each model's context in tokens, of those whose size the list tells."""
    listed = document.get("data") if isinstance(document, dict) else None
    sizes: dict[str, int] = {}
    for one in listed[:NAMES_MAX] if isinstance(listed, list) else ():
        if isinstance(one, dict) and (name := _name_of(one)):
            meta = one.get("meta")  # llama.cpp
            told = [one.get(key) for key in _CONTEXT_NAMES] + [meta.get("n_ctx") if isinstance(meta, dict) else None]
            if size := next(filter(is_context_size, told), None):
                sizes[name] = size
    return sizes


def is_context_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= CONTEXT_MAX_TOKENS


def is_llama_cpp(document: Any) -> bool:
    """Whether the list is one of llama.cpp, whose `/props` say more."""
    listed = document.get("data") if isinstance(document, dict) else None
    models = listed if isinstance(listed, list) else ()
    return any(isinstance(one, dict) and one.get("owned_by") == "llamacpp" for one in models)


def _name_of(one: Any) -> str:
    if isinstance(one, dict):
        one = next((one[name] for name in ("id", "name", "model") if one.get(name)), "")
    return str(one) if isinstance(one, str | int) and not isinstance(one, bool) else ""


def _is_other_kind(one: Any, name: str) -> bool:
    kinds = [name]
    if isinstance(one, dict):
        kinds += [kind for key in ("type", "task", "object", "mode") if isinstance(kind := one.get(key), str)]
        listed = one.get("capabilities")
        capabilities = [str(each) for each in listed] if isinstance(listed, list) else []
        if not {"completion", "chat"} & set(capabilities):
            kinds += capabilities
    return any(map(_OTHER_KIND.search, kinds))


def is_offered(name: str, offered: AbstractSet[str]) -> bool:
    """Whether a server with the list `offered` accepts `name`.

    Ollama takes a name without a tag as that of the latest; LiteLLM lists patterns such as `openai/*`.
    """
    if name in offered or f"{name}:latest" in offered:
        return True
    return any(fnmatchcase(name, one) for one in offered if one.endswith("*"))
