"""A change of a key as the command line has it."""

from msgspec import UNSET, Struct, UnsetType

from chatbot.keys.key_state import OVERLAP_DEFAULT_S


class Change(Struct, frozen=True):
    """A change as the command line has it. `expires` unset: as before, None: never; `scopes` empty: as before."""

    name: str
    scopes: tuple[str, ...] = ()
    expires: str | UnsetType | None = UNSET
    overlap_s: int = OVERLAP_DEFAULT_S
