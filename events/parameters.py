"""How replies are made, as events record it. Part of the format: the rules of `catalogue.py` hold here, too."""

from msgspec import Struct


class Parameters(Struct, frozen=True, omit_defaults=True):
    """How a reply is sampled. None means that nobody asked for a value."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    do_sample: bool | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    model: str | None = None


UNNAMED = Parameters()  # as a default, only this very object is left out of an event


class ReplySettings(Struct, frozen=True, omit_defaults=True):
    """What a session's replies are made with, unless a request asks for something else."""

    system_prompt: str | None = None
    parameters: Parameters = UNNAMED
