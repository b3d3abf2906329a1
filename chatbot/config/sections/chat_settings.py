"""Settings of the requests to the model: context, system prompt, defaults and limits of parameters."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

ExtraField = Annotated[str, Meta(pattern=r"^(\*|[A-Za-z_][A-Za-z0-9_]*)$", max_length=64)]
# What servers of the protocol of OpenAI take besides the fields that have a name here.
EXTRA_FIELDS = (
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "chat_template_kwargs",
    "grammar",
    "json_schema",
    "mirostat",
    "n_probs",
    "ignore_eos",
    "min_tokens",
    "verbosity",
    "provider",
    "transforms",
    "reasoning",
)


class ChatSettings(Struct, frozen=True):
    """[chat] The requests to the model."""

    max_context_messages: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Messages of the conversation, the newest ones, that the model is sent at most.",
            extra={"env": "MAX_CONTEXT_MESSAGES"},
        ),
    ] = 10
    context_tokens: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="Size of the model's context in tokens: the oldest messages that do not fit are left out. 0:"
            " the size that the server reports, or unlimited if it reports none.",
        ),
    ] = 0
    image_tokens: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Tokens that each image counts for, when the size of a request is estimated.",
        ),
    ] = 1024
    send_reasoning: Annotated[
        bool, Meta(description="Whether the model is sent its earlier reasoning, unless the request says otherwise.")
    ] = False
    tool_rounds_max: Annotated[
        int, Meta(ge=1, le=1000, description="Replies with tool calls that may follow one user message.")
    ] = 32
    unanswered_messages: Annotated[
        Literal["omit", "join"],
        Meta(
            description="What the model is sent of messages that got no reply: `omit` leaves them out, `join` puts them"
            " before the next one, in one message. Many model servers refuse two messages of one role in a row.",
            extra={"formerly": ("chat.unanswered",)},
        ),
    ] = "omit"
    default_max_tokens: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Most tokens of a reply if the request has no max_new_tokens.",
            extra={"env": "DEFAULT_MAX_TOKENS"},
        ),
    ] = 256
    max_tokens_ceiling: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Most tokens of a reply. Requests for more are refused, higher settings of sessions lowered.",
        ),
    ] = 4096
    default_temperature: Annotated[
        float,
        Meta(
            ge=0,
            le=2,
            description="Temperature if the request has none; 0 always selects the most likely token.",
            extra={"env": "DEFAULT_TEMPERATURE"},
        ),
    ] = 0.7
    default_do_sample: Annotated[
        bool, Meta(description="Whether to sample, unless the request says otherwise; false means temperature 0.")
    ] = True
    message_max_chars: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Longest message that a client may post, in characters.")
    ] = 32000
    message_max_parts: Annotated[
        int, Meta(ge=1, le=256, description="Most parts (texts, images, results of tools) of one posted message.")
    ] = 64
    tool_result_max_chars: Annotated[
        int,
        Meta(ge=1, le=10_000_000, description="Longest results of tools in one message, in characters, all together."),
    ] = 100_000
    tools_max: Annotated[int, Meta(ge=0, le=1024, description="Most tools that one request may offer.")] = 128
    tools_max_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 20,
            description="Largest JSON of a request's tools and of its tool_choice, each, in bytes: it is recorded with"
            " every reply.",
        ),
    ] = 65536
    response_format_max_bytes: Annotated[
        int, Meta(ge=0, le=1 << 20, description="Largest JSON of response_format, in bytes.")
    ] = 65536
    extra_body_max_bytes: Annotated[
        int, Meta(ge=0, le=1 << 20, description="Largest JSON of extra_body, in bytes.")
    ] = 16384
    extra_body_fields: Annotated[
        tuple[ExtraField, ...],
        Meta(
            description="Fields that extra_body may have, which the model server gets as they are; * is any but those"
            " that this service sets itself; empty: none.",
            extra={"allowed": "* or a field's name each"},
        ),
    ] = EXTRA_FIELDS
    system_prompt: Annotated[
        str,
        Meta(
            description="System prompt of sessions that have none of their own; empty: none.",
            extra={"allowed": "text of up to chat.system_prompt_max_chars", "prose": True},
        ),
    ] = ""
    system_prompt_max_chars: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Longest system prompt, in characters.")
    ] = 8000
