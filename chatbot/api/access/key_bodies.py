"""Bodies of the operations on keys."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from chatbot.keys.key_state import NAME_PATTERN, OVERLAP_DEFAULT_S, OVERLAP_MAX_S
from chatbot.keys.key_views import KeyView
from chatbot.keys.scopes import SCOPES

Scope = Annotated[str, Meta(max_length=16)]
Scopes = Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=len(SCOPES))]
ExpiresAt = Annotated[str, Meta(max_length=40)]


class AddKeyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`expires_at`: a time with its zone, or a day, at whose end in UTC the key expires; null: never."""

    name: Annotated[str, Meta(pattern=f"^{NAME_PATTERN}$", description="The owner of the sessions made with the key.")]
    scopes: Scopes
    expires_at: ExpiresAt | None = None


class RotateKeyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`overlap_seconds`: for which earlier secrets stay valid; 0 for a secret that has leaked. `scopes` and
    `expires_at` absent: as before.
    """

    overlap_seconds: Annotated[int, Meta(ge=0, le=OVERLAP_MAX_S)] = OVERLAP_DEFAULT_S
    scopes: Scopes | UnsetType = UNSET
    expires_at: ExpiresAt | UnsetType | None = UNSET


class KeyList(Struct, frozen=True):
    keys: list[KeyView]
