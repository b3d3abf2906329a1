"""The names in a server's list of models, in any of the shapes there are. Pure.

Which names of models are offered, and which may appear in figures: none that a client made up. Pure.
"""

import re
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from typing import Any

from projections.folds.message import OTHER_MODEL

NAMES_MAX = 10_000  # kept of one list: routers offer thousands
LIST_MAX_BYTES = 16_777_216  # of a list's JSON: some describe each model at length

# Models that do not chat, by name or by type: embeddings, rerankers, speech, images, moderation.
_OTHER_KIND = re.compile(
    r"embed|rerank|(?:^|[/_-])(?:bge|e5|gte)[_-]|whisper|(?:^|[/_.-])tts(?:[/_.-]|$)|moderation|dall-e|stable-diffusion"
    r"|(?:^|[/_-])(?:clip|colbert)[_-]|text-to-image|speech|transcri",
    re.IGNORECASE,
)


def read_names(document: Any) -> list[str] | None:
    """The names, those of models that chat first; None for what is no list of models.

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


def _name_of(one: Any) -> str:
    if isinstance(one, dict):
        one = next((one[name] for name in ("id", "name", "model") if one.get(name)), "")
    return str(one) if isinstance(one, str | int) and not isinstance(one, bool) else ""


def _is_other_kind(one: Any, name: str) -> bool:
    kinds = [name]
    if isinstance(one, dict):
        kinds += [told for key in ("type", "task", "object", "mode") if isinstance(told := one.get(key), str)]
        can = one.get("capabilities")
        if isinstance(can, list) and can and not {"completion", "chat"} & {str(each) for each in can}:
            kinds += [str(each) for each in can]
    return any(map(_OTHER_KIND.search, kinds))


OTHER = OTHER_MODEL


def is_offered(name: str, offered: AbstractSet[str]) -> bool:
    """Whether a server with this list answers to `name`.

    Ollama takes a name without its tag for the latest one; LiteLLM lists patterns such as `openai/*`.
    """
    if name in offered or f"{name}:latest" in offered:
        return True
    return any(fnmatchcase(name, one) for one in offered if one.endswith("*"))


def counted_name(requested: str | None, answered: str, known: AbstractSet[str]) -> str:
    """The name under which a reply is counted.

    `requested` is the name that the client sent (None: it sent none), `answered` the one that the model server gave,
    `known` the names that are configured or offered. Many servers repeat the name that they were asked for, so the
    answer to an unknown name proves nothing.
    """
    if requested is None or requested in known or answered in known:
        return answered
    return OTHER
