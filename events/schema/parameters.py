"""Parameters of replies and their token usage, as recorded in events. Part of the format: see `catalogue.py`."""

from typing import Any

from msgspec import Struct


class ResponseOptions(Struct, frozen=True, omit_defaults=True):
    """What a request for a response (`/v1/responses`) says besides the parameters of the model, so that the same
    response can be shown again.

    `delta_rule`: the number of the rule by which its text is cut into stream events, so that a later rule does not
    number them differently. `input_messages`: how many messages the request added, the last of them answered.
    `others` are fields that are shown as they came, such as metadata.
    """

    delta_rule: int
    input_messages: int = 1
    previous_response_id: str | None = None
    in_conversation: bool = False
    background: bool = False
    is_stored: bool = True
    others: dict[str, Any] = {}


class Parameters(Struct, frozen=True, omit_defaults=True):
    """The parameters of a request to a model, besides its messages. None: not requested.

    `tools` to `reasoning_effort`, and the fields in `extra_body`, are passed to the model server unchanged.
    `send_reasoning`: the model is sent its earlier reasoning. `instructions` replace the session's system prompt;
    `whole_context`: the model is sent all messages of the branch, or none. `response` is not for the model: what
    belongs to a response of `/v1/responses` alone. Values can be compared, but not hashed.
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
    instructions: str | None = None
    whole_context: bool | None = None
    response: ResponseOptions | None = None


UNNAMED = Parameters()  # msgspec omits a default only if the value is the identical object


class ReplySettings(Struct, frozen=True, omit_defaults=True):
    """A session's settings for its replies; a request may override them."""

    system_prompt: str | None = None
    parameters: Parameters = UNNAMED


class ContextLeftOut(Struct, frozen=True, omit_defaults=True):
    """What was left out of a request to the model, of the branch that it answers.

    `messages`: how many were left out because of `limit`, which is messages, tokens or look_back (the number of
    messages that are considered at all), or media where only files were left out. `size_tokens` is the size of the
    model's context, if tokens are counted, and `estimated_tokens` the size of the request. `media`: how many were left
    out of messages that were sent.
    """

    messages: int
    limit: str
    size_tokens: int | None = None
    estimated_tokens: int | None = None
    media: int = 0


class Usage(Struct, frozen=True, omit_defaults=True):
    """Tokens of one call to a model, as the model server counts them. `completion_tokens` includes `reasoning_tokens`,
    `prompt_tokens` includes `cached_tokens`; these two are None if the server does not report them.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


class UsageTotal(Struct, frozen=True, omit_defaults=True):
    """The usage of one session, model and day (UTC, YYYY-MM-DD). Kept when the session's texts are erased."""

    day: str
    model: str
    replies: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0
