"""Settings of what a reply is made from."""

from typing import Annotated, Literal

from msgspec import Meta, Struct


class ChatSettings(Struct, frozen=True):
    """[chat] What a reply is made from."""

    max_context_messages: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Messages of the conversation that the model is sent, the newest ones.",
            extra={"env": "MAX_CONTEXT_MESSAGES"},
        ),
    ] = 10
    context_tokens: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="Size of the model's context in tokens, in which the oldest messages make room for newer ones;"
            " 0: what the server says of its model, or unlimited where it says nothing.",
        ),
    ] = 0
    image_tokens: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Tokens that an image counts as, in estimates of a request's size.")
    ] = 1024
    send_reasoning: Annotated[
        bool, Meta(description="Whether the model is shown its earlier reasoning where the request does not say.")
    ] = False
    tool_rounds_max: Annotated[
        int, Meta(ge=1, le=1000, description="Replies with tool calls that may follow one message of a person.")
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
            description="Tokens of a reply where the request names no max_new_tokens.",
            extra={"env": "DEFAULT_MAX_TOKENS"},
        ),
    ] = 256
    max_tokens_ceiling: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Most tokens of a reply. Requests for more are refused, older settings of sessions lowered.",
        ),
    ] = 4096
    default_temperature: Annotated[
        float,
        Meta(
            ge=0,
            le=2,
            description="Temperature where the request names none; 0 always takes the likeliest token.",
            extra={"env": "DEFAULT_TEMPERATURE"},
        ),
    ] = 0.7
    default_do_sample: Annotated[
        bool, Meta(description="Whether to sample where the request does not say; false means temperature 0.")
    ] = True
    message_max_chars: Annotated[
        int, Meta(ge=1, le=10_000_000, description="Longest message a person may post, in characters.")
    ] = 32000
    system_prompt: Annotated[
        str,
        Meta(
            description="Instructions to the model in sessions that bring none; empty: none.",
            extra={"allowed": "text of up to chat.system_prompt_max_chars", "prose": True},
        ),
    ] = ""
    system_prompt_max_chars: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Longest system prompt, in characters.")
    ] = 8000
