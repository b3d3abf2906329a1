"""The events of the reserved stream `keys`: which API keys exist, what each may do, and until when."""

from events.schema.event import ReservedEvent


class KeyAdded(ReservedEvent, frozen=True, tag="key_added"):
    """A key `name` exists; the sessions made with it belong to that name.

    `secret_sha256` is the SHA-256 of the secret in UTF-8, as hexadecimal digits: the secret itself is not stored.
    `prefix` is the beginning of the secret, by which people recognize it. `scopes` as in `chatbot/keys/scopes.py`.
    `expires_at_us` None: valid until it is revoked.
    """

    name: str
    secret_sha256: str
    prefix: str
    scopes: tuple[str, ...]
    expires_at_us: int | None = None


class KeyRotated(ReservedEvent, frozen=True, tag="key_rotated"):
    """The key `name` has a new secret. Earlier secrets that were valid are so until `earlier_until_us` at the latest.

    `scopes` empty: as before.
    """

    name: str
    secret_sha256: str
    prefix: str
    earlier_until_us: int
    expires_at_us: int | None = None
    scopes: tuple[str, ...] = ()


class KeyRevoked(ReservedEvent, frozen=True, tag="key_revoked"):
    """No secret of the key `name` is valid any more."""

    name: str


KeyEvent = KeyAdded | KeyRotated | KeyRevoked
