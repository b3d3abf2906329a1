"""Settings of the model server: address, timeouts, retries and limits of the requests to it."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from chatbot.config.sections.llm_server import SERVERS_MAX, LlmServer


class LlmSettings(Struct, frozen=True):
    """[llm] The model server."""

    provider: Annotated[
        Literal["auto", "midm", "openai", "embedded"],
        Meta(description="The server's protocol; auto: embedded without a server_url, otherwise detected."),
    ] = "auto"
    server_url: Annotated[
        str,
        Meta(
            pattern=r"^(https?://[^\s/?#]+[^\s#]*)?$",
            description="The model server, with or without the path of its API; empty: the embedded model.",
            extra={"env": "LLM_SERVER_URL", "allowed": "http://host[:port] or https://..., without #"},
        ),
    ] = ""
    model: Annotated[str, Meta(description="Name of the model; empty: the first one that the server offers.")] = ""
    api_key: Annotated[
        str, Meta(description="Secret sent to the model server as a bearer token; empty: none.", extra={"secret": True})
    ] = ""
    proxy: Annotated[
        str,
        Meta(
            pattern=r"^(none|http://[^\s/?#]+/?)?$",
            description="HTTP proxy to the model server; empty: what HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY"
            " say; none: no proxy.",
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
        float,
        Meta(
            gt=0, le=3600, description="Seconds to the first token: the model must read the prompt, which may be long."
        ),
    ] = 60.0
    between_tokens_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds of silence between two tokens before a reply counts as failed.")
    ] = 60.0
    reply_timeout_s: Annotated[float, Meta(gt=0, le=86400, description="Longest duration of a reply, in seconds.")] = (
        600.0
    )
    retries_max: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="Retries before the first token; there are none after it, so no text is sent twice.",
        ),
    ] = 2
    retry_backoff_s: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="Seconds before the first retry; doubled with each further one (exponential backoff).",
        ),
    ] = 0.25
    concurrent_max: Annotated[int, Meta(ge=1, le=10_000, description="Concurrent replies.")] = 256
    queue_max: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Replies that wait for a free slot; more get 503 with Retry-After. Where several owners wait,"
            " one with more than its equal part gets 429, and one with less is admitted beyond this number.",
        ),
    ] = 1024
    owner_concurrent_max: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Concurrent replies of one owner (API key), also while slots are free; 0: as many as of all"
            " owners. While others wait, an owner gets no more than its equal part in any case.",
        ),
    ] = 0
    owner_queue_max: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Replies of one owner that wait, also while others need no place; more get 429, except of its"
            " end users that have less than an equal part of this number. 0: as many as of all owners.",
        ),
    ] = 0
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
    request_media_max_bytes: Annotated[
        int,
        Meta(ge=0, le=1 << 32, description="Bytes of images in one request; the oldest beyond that are left out."),
    ] = 33_554_432
    media_memory_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 40,
            description="Bytes of memory for the images of all requests that are being sent; further requests wait. An"
            " image takes three times its size. A request that needs more than this limit is sent alone.",
        ),
    ] = 268_435_456
    read_coalesce_max_s: Annotated[
        float,
        Meta(
            ge=0,
            le=0.25,
            description="Seconds at most that a token waits, so that the sockets of many replies are read together, at"
            " less CPU time. No token waits while fewer than about four replies have news in such a time. 0: never.",
            extra={"formerly": ("llm.beat_max_s",)},
        ),
    ] = 0.01
    think_tags: Annotated[
        Literal["off", "tagged", "opened"],
        Meta(
            description="For servers that leave `<think>` in the text. tagged: a reply may begin with that tag; opened:"
            " replies begin after it, because the model's template writes it; off: such tags are text."
        ),
    ] = "off"
    health_interval_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds for which an answer about the server's health is kept.")
    ] = 10.0
    health_timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="Seconds to wait for an answer about its health.")
    ] = 3.0

    # The last one: in TOML, the lines after a table belong to it.
    servers: Annotated[
        tuple[LlmServer, ...],
        Meta(
            max_length=SERVERS_MAX,
            description="Several model servers instead of llm.server_url, a table [[llm.servers]] each. Replies go to"
            " those that may serve the model; a session stays on one of them.",
            extra={"secret": True, "allowed": f"up to {SERVERS_MAX} tables; in a variable: a JSON list of objects"},
        ),
    ] = ()

    def __repr__(self) -> str:
        # the default repr would put the secret into log lines and tracebacks
        return f"LlmSettings(provider={self.provider!r}, model={self.model!r}, ...)"
