"""Settings of one of several model servers: a table of [[llm.servers]]."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

SERVERS_MAX = 64  # each is polled, and has series of its own in the metrics

ModelName = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^*]*\*?$")]


class LlmServer(Struct, frozen=True, kw_only=True):
    """[[llm.servers]] One model server. What it has no field for is as in [llm]."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$",
            description="Its name in logs, metrics, /api/health and the record; each server has another one.",
            extra={"allowed": "1 to 32 of a-z 0-9 _ -, not beginning with _ or -", "example": "gpu-1"},
        ),
    ]
    url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^\s/?#]+[^\s#]*$",
            description="Its address, as in llm.server_url.",
            extra={"allowed": "http://host[:port] or https://..., without #", "example": "http://gpu-1:8000"},
        ),
    ]
    protocol: Annotated[
        Literal["auto", "midm", "openai"],
        Meta(description="What it speaks; auto: detected. The embedded model cannot be one of several servers."),
    ] = "auto"
    key: Annotated[
        str, Meta(description="Secret sent to it as a bearer token; empty: none.", extra={"secret": True})
    ] = ""
    models: Annotated[
        tuple[ModelName, ...],
        Meta(
            description="Names of the models that it is asked for; one that ends in * stands for those of its own list"
            " that begin so. Empty: its own list.",
            extra={"allowed": "a list of names, with * at the end at most"},
        ),
    ] = ()
    weight: Annotated[
        float,
        Meta(
            gt=0,
            le=1000,
            description="Its share of the sessions, and of concurrent replies, compared with the other servers'.",
        ),
    ] = 1.0
    concurrency: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000,
            description="Concurrent replies that each process asks it for; more wait. 0: no limit but"
            " llm.concurrent_max.",
        ),
    ] = 0
    think_tags: Annotated[
        Literal["", "off", "tagged", "opened"], Meta(description="As llm.think_tags; empty: what that says.")
    ] = ""

    def __repr__(self) -> str:
        # the default repr would put the secret into log lines and tracebacks
        return f"LlmServer(name={self.name!r}, models={self.models!r}, ...)"
