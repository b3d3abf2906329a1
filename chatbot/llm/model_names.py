"""Which names of models may appear in figures: what is configured or offered, never what a client made up. Pure."""

from collections.abc import Set as AbstractSet

from projections.message import OTHER_MODEL

OTHER = OTHER_MODEL


def counted_name(requested: str | None, answered: str, known: AbstractSet[str]) -> str:
    """The name under which a reply is counted.

    `requested` is the name that the client sent (None: it sent none), `answered` the one that the model server gave,
    `known` the names that are configured or offered. Many servers repeat the name that they were asked for, so the
    answer to an unknown name proves nothing.
    """
    if requested is None or requested in known or answered in known:
        return answered
    return OTHER
