"""How replies are made and what they use, as events record it. Part of the format, with the rules of `catalogue.py`."""

from typing import Any

from msgspec import Struct


class Parameters(Struct, frozen=True, omit_defaults=True):
    """What a reply is asked for with, besides messages. None means that nobody asked for a value.

    `tools` to `reasoning_effort` and what is in `extra_body` go to the model server as they are given.
    `send_reasoning`: earlier reasoning is shown to the model again. Compared, never hashed.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    do_sample: bool | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    model: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    extra_body: dict[str, Any] | None = None
    send_reasoning: bool | None = None


UNNAMED = Parameters()  # as a default, only this very object is left out of an event


class ReplySettings(Struct, frozen=True, omit_defaults=True):
    """What a session's replies are made with, unless a request asks for something else."""

    system_prompt: str | None = None
    parameters: Parameters = UNNAMED


class ContextLeftOut(Struct, frozen=True, omit_defaults=True):
    """What a reply's request does not hold of the branch that it answers.

    `messages` were left out because of `limit`: messages, tokens or look_back (how far back is looked at all).
    `size_tokens` is the size of the model's context where tokens are counted, `estimated_tokens` what the request has
    of them. `media` were left out of messages that are there.
    """

    messages: int
    limit: str
    size_tokens: int | None = None
    estimated_tokens: int | None = None
    media: int = 0


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens of one call to a model, as the model server counts them. Those of reasoning are among the completion's,
    cached ones among the prompt's; None where it does not tell.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


class UsageTotal(Struct, frozen=True, omit_defaults=True):
    """What a session used on one day (UTC, YYYY-MM-DD) of one model: numbers that outlive its texts."""

    day: str
    model: str
    replies: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0
