"""How keys are shown, over HTTP and on the command line: everything but their secrets."""

from typing import Literal

from msgspec import Struct

from chatbot.keys.key_registry import KeyRegistry
from chatbot.keys.key_state import KeyState, Secret
from chatbot.runtime.clock import timestamp

KeyStatus = Literal["valid", "expired", "revoked", "overridden"]


class EarlierSecretView(Struct, frozen=True):
    """A secret that a rotation has replaced, and that is valid until the stated time."""

    prefix: str
    valid_until: str


class KeyView(Struct, frozen=True, kw_only=True):
    """`source`: settings for a key of CHATBOT_API_KEYS, of which the prefix and the time are not known.

    `status` overridden: the name is configured, too, so the recorded secrets do not count. `scopes` are those in force,
    with what the settings give to the name.
    """

    name: str
    source: Literal["log", "settings"] = "log"
    status: KeyStatus = "valid"
    scopes: list[str]
    prefix: str | None = None
    added_at: str | None = None
    expires_at: str | None = None
    earlier: list[EarlierSecretView] = []


class NewKeyView(Struct, frozen=True, kw_only=True):
    """A key with its new secret, which is shown this once. `earlier`: the secrets that it replaces, while they last."""

    name: str
    secret: str
    prefix: str
    scopes: list[str]
    expires_at: str | None = None
    earlier: list[EarlierSecretView] = []


def view_keys(registry: KeyRegistry, now_us: int) -> list[KeyView]:
    """All keys: the configured ones, then the recorded ones in the order in which they were added."""
    configured = [
        KeyView(name=name, source="settings", scopes=sorted(registry.scopes_of(name))) for name in registry.configured
    ]
    return configured + [_view(key, registry, now_us) for key in registry.recorded.values()]


def _view(key: KeyState, registry: KeyRegistry, now_us: int) -> KeyView:
    return KeyView(
        name=key.name,
        status=_status(key, registry, now_us),
        scopes=sorted(registry.scopes_of(key.name)),
        prefix=key.secrets[-1].prefix if key.secrets else None,
        added_at=timestamp(key.added_at_us),
        expires_at=_time(key.expires_at_us),
        earlier=_earlier(key, now_us),
    )


def view_new_key(key: KeyState, secret: str, registry: KeyRegistry, now_us: int) -> NewKeyView:
    return NewKeyView(
        name=key.name,
        secret=secret,
        prefix=key.secrets[-1].prefix,
        scopes=sorted(registry.scopes_of(key.name)),
        expires_at=_time(key.expires_at_us),
        earlier=_earlier(key, now_us),
    )


def _status(key: KeyState, registry: KeyRegistry, now_us: int) -> KeyStatus:
    if key.name in registry.configured:
        return "overridden"
    if key.is_revoked:
        return "revoked"
    return "expired" if key.has_expired(now_us) else "valid"


def _earlier(key: KeyState, now_us: int) -> list[EarlierSecretView]:
    return [_earlier_view(one, one.until_us) for one in key.valid_secrets(now_us) if one.until_us is not None]


def _earlier_view(secret: Secret, until_us: int) -> EarlierSecretView:
    return EarlierSecretView(secret.prefix, timestamp(until_us))


def _time(us: int | None) -> str | None:
    return None if us is None else timestamp(us)
