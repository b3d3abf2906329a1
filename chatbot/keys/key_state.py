"""The recorded keys: the fold of the stream `keys`, and the decisions on changes of it. Pure; times are Unix µs.

A name is never given out twice, as sessions belong to names: a revoked key comes back by rotation only. Each key has a
few secrets, of which the newest is the current one and earlier ones end at a time that their rotation stated.
"""

import re
from collections.abc import Iterable, Mapping
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from chatbot.keys.key_errors import InvalidKey, KeyExists, KeyNotFound, KeyRevokedAlready, TooManyKeys
from chatbot.keys.scopes import SCOPES
from events.catalogue import KeyAdded, KeyEvent, KeyRevoked, KeyRotated

KEYS_MAX = 1000  # names, revoked ones included: a ticket is compared with the secrets of all valid keys
UNCHANGED = -(2**63)  # as `expires_at_us` of a rotation: no time that can be written
EXPIRES_MAX_US = 253_402_300_799_999_999  # the end of the year 9999, the last that RFC 3339 can write
SECRETS_MAX = 4  # of one key that may be valid at once: rotations within the overlap of others
OVERLAP_DEFAULT_S = 24 * 3600  # for which the earlier secret stays valid: a working day to replace it everywhere
OVERLAP_MAX_S = 30 * 24 * 3600
NAME_PATTERN = r"[a-z0-9_-]{1,64}"
_NAME = re.compile(NAME_PATTERN)


class Secret(Struct, frozen=True):
    """`until_us` None: until the key ends; else the secret is valid before that time."""

    sha256: str
    prefix: str
    until_us: int | None = None


class KeyState(Struct, frozen=True):
    """A recorded key. `secrets`: the current one last; none if it is revoked. `expires_at_us`: None: never."""

    name: str
    scopes: tuple[str, ...]
    secrets: tuple[Secret, ...]
    expires_at_us: int | None
    added_at_us: int

    @property
    def is_revoked(self) -> bool:
        return not self.secrets

    def has_expired(self, now_us: int) -> bool:
        return self.expires_at_us is not None and now_us >= self.expires_at_us

    def valid_secrets(self, now_us: int) -> tuple[Secret, ...]:
        """The current one last."""
        if self.has_expired(now_us):
            return ()
        return tuple(one for one in self.secrets if one.until_us is None or now_us < one.until_us)


class RecordedKeys(Struct, frozen=True):
    """The state of the stream `keys` at `version`; 0: no key was ever recorded."""

    version: int = 0
    keys: Mapping[str, KeyState] = {}


def fold(state: RecordedKeys, events: Iterable[tuple[KeyEvent, int]]) -> RecordedKeys:
    """The state after more events of the stream, each with the time at which it was recorded."""
    version, keys = state.version, dict(state.keys)
    for event, recorded_at_us in events:
        version += 1
        match event:
            case KeyAdded():
                secret = Secret(event.secret_sha256, event.prefix)
                keys[event.name] = KeyState(event.name, event.scopes, (secret,), event.expires_at_us, recorded_at_us)
            case KeyRotated():
                keys[event.name] = _rotated(keys[event.name], event)
            case KeyRevoked():
                keys[event.name] = replace(keys[event.name], secrets=())
            case _:
                assert_never(event)
    return RecordedKeys(version, keys)


def _rotated(key: KeyState, event: KeyRotated) -> KeyState:
    end_us = event.earlier_until_us
    earlier = (
        replace(one, until_us=end_us if one.until_us is None else min(one.until_us, end_us)) for one in key.secrets
    )
    return replace(
        key,
        scopes=event.scopes or key.scopes,
        secrets=(*earlier, Secret(event.secret_sha256, event.prefix))[-SECRETS_MAX:],
        expires_at_us=event.expires_at_us,
    )


class NewSecret(Struct, frozen=True):
    """What is recorded of a secret."""

    sha256: str
    prefix: str


class AddKey(Struct, frozen=True):
    name: str
    scopes: tuple[str, ...]
    expires_at_us: int | None = None


class RotateKey(Struct, frozen=True):
    """`scopes` empty: as before. `expires_at_us` UNCHANGED: as before; None: never."""

    name: str
    overlap_s: int = OVERLAP_DEFAULT_S
    scopes: tuple[str, ...] = ()
    expires_at_us: int | None = UNCHANGED


class RevokeKey(Struct, frozen=True):
    name: str


KeyCommand = AddKey | RotateKey | RevokeKey


def decide(state: RecordedKeys, command: KeyCommand, secret: NewSecret, now_us: int) -> KeyEvent:
    """The event that the command leads to. `secret` is the one to give out. Raises KeyRejection."""
    match command:
        case AddKey():
            return _add(state, command, secret, now_us)
        case RotateKey():
            return _rotate(state, command, secret, now_us)
        case RevokeKey():
            key = _require(state, command.name)
            if key.is_revoked:
                raise KeyRevokedAlready(command.name)
            return KeyRevoked(command.name)
        case _:
            assert_never(command)


def _add(state: RecordedKeys, command: AddKey, secret: NewSecret, now_us: int) -> KeyEvent:
    if not _NAME.fullmatch(command.name):
        raise InvalidKey("name", "must be 1 to 64 of a-z 0-9 _ -")
    if not command.scopes:
        raise InvalidKey("scopes", "names no scope")
    _check_scopes(command.scopes)
    _check_expiry(command.expires_at_us, now_us)
    if known := state.keys.get(command.name):
        raise KeyExists(command.name, known.is_revoked)
    if len(state.keys) >= KEYS_MAX:
        raise TooManyKeys(KEYS_MAX)
    return KeyAdded(
        command.name, secret.sha256, secret.prefix, tuple(sorted(set(command.scopes))), command.expires_at_us
    )


def _rotate(state: RecordedKeys, command: RotateKey, secret: NewSecret, now_us: int) -> KeyEvent:
    key = _require(state, command.name)
    if not 0 <= command.overlap_s <= OVERLAP_MAX_S:
        raise InvalidKey("overlap_seconds", f"must be 0 to {OVERLAP_MAX_S}")
    _check_scopes(command.scopes)
    is_unchanged = command.expires_at_us == UNCHANGED
    expires_at_us = key.expires_at_us if is_unchanged else command.expires_at_us
    if is_unchanged and key.has_expired(now_us):
        raise InvalidKey("expires_at", "the key has expired: say until when the new secret is to be valid")
    _check_expiry(expires_at_us, now_us)
    return KeyRotated(
        command.name,
        secret.sha256,
        secret.prefix,
        now_us + command.overlap_s * 1_000_000,
        expires_at_us,
        tuple(sorted(set(command.scopes))),
    )


def _require(state: RecordedKeys, name: str) -> KeyState:
    key = state.keys.get(name)
    if key is None:
        raise KeyNotFound(name)
    return key


def _check_scopes(scopes: Iterable[str]) -> None:
    for one in scopes:
        if one not in SCOPES:
            raise InvalidKey("scopes", f"there is no scope {one[:64]!r}; there are {', '.join(SCOPES)}")


def _check_expiry(expires_at_us: int | None, now_us: int) -> None:
    if expires_at_us is not None and expires_at_us <= now_us:
        raise InvalidKey("expires_at", "is in the past")
    if expires_at_us is not None and expires_at_us > EXPIRES_MAX_US:
        raise InvalidKey("expires_at", "is after the year 9999")
