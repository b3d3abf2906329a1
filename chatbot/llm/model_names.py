"""Which names of models are offered, and which may appear in figures: none that a client made up. Pure."""

from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase

from projections.message import OTHER_MODEL

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
