"""Settings of the HTTP API under /v1, which clients of OpenAI's chat completions use."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

# A header's name (RFC 9110, 5.1), or a field of the body's metadata.
ConversationField = Annotated[str, Meta(pattern=r"^(metadata\.)?[A-Za-z0-9_-]{1,64}$")]


class V1Settings(Struct, frozen=True):
    """[v1] The API under /v1, in the form of OpenAI's chat completions."""

    body_max_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 30,
            description="Largest request body under /v1, in bytes: clients send the whole conversation with its images"
            " each time.",
        ),
    ] = 67108864
    messages_max: Annotated[int, Meta(ge=1, le=10_000, description="Most messages of one request.")] = 2000
    message_max_chars: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000_000,
            description="Longest message of a request, in characters, and longest system messages together; images do"
            " not count.",
        ),
    ] = 1_000_000
    reasoning_field: Annotated[
        Literal["reasoning_content", "reasoning"],
        Meta(description="Field of messages and deltas that has the model's reasoning; clients differ."),
    ] = "reasoning_content"
    cancel_on_disconnect: Annotated[
        Literal["stateless", "always", "never"],
        Meta(
            description="Whose reply is cancelled when its client disconnects: that of requests that name no"
            " conversation (`stateless`), every one under /v1 (`always`), or none (`never`).",
        ),
    ] = "stateless"
    conversation_fields: Annotated[
        tuple[ConversationField, ...],
        Meta(
            description="Where a request may name its conversation: headers, or metadata.<name> of the body. The first"
            " that it has counts; without any it is a session of its own.",
            extra={"allowed": "a header's name or metadata.<name> each, such as X-Conversation-Id"},
        ),
    ] = ("X-Session-Id", "X-OpenWebUI-Chat-Id", "X-Conversation-Id", "metadata.session_id")
    user_jwt_secret: Annotated[
        str,
        Meta(
            description="Secret with which front ends sign the end user's JWT (header X-OpenWebUI-User-Jwt, HS256):"
            " Open WebUI's FORWARD_USER_INFO_HEADER_JWT_SECRET. With it, no end user is believed that is not signed."
            " Empty: no JWTs.",
            extra={"secret": True, "allowed": "empty, or 16 characters or more"},
        ),
    ] = ""
    responses_timeout_hours: Annotated[
        float,
        Meta(
            ge=0,
            le=876_000,
            description="Hours after its last use in which a session expires that a call of /v1/responses or"
            " /v1/conversations has made; 0: never.",
        ),
    ] = 0.0
    stateless_retention_hours: Annotated[
        float,
        Meta(
            gt=0,
            le=876_000,
            description="Hours after which a request that names no conversation is erased, with its reply.",
        ),
    ] = 24.0
    stateless_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 44,
            description="Bytes of such requests and replies that each API key may have; beyond that, the oldest ones"
            " that have ended are erased early.",
        ),
    ] = 268435456

    def __repr__(self) -> str:
        # the default repr would put the secret into log lines and tracebacks
        return f"V1Settings(body_max_bytes={self.body_max_bytes}, conversation_fields={self.conversation_fields})"
