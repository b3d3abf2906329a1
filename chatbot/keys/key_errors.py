"""Why a change of the keys is refused. The message is meant for the person who asked for it."""


class KeyRejection(Exception):
    """Base of all refusals."""


class KeyExists(KeyRejection):
    """The name has been given out before, and what was recorded under it stays its own."""

    def __init__(self, name: str, is_revoked: bool) -> None:
        state = "is revoked" if is_revoked else "exists"
        super().__init__(f"the key {name} {state}: rotate it for a new secret, or choose another name")


class KeyNotFound(KeyRejection):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is no key {name[:64]!r}")


class KeyConfigured(KeyRejection):
    """The name is one of CHATBOT_API_KEYS, which only the settings change."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the key {name} is configured: change it in CHATBOT_API_KEYS, or choose another name")


class KeyRevokedAlready(KeyRejection):
    def __init__(self, name: str) -> None:
        super().__init__(f"the key {name} is revoked already")


class TooManyKeys(KeyRejection):
    def __init__(self, keys_max: int) -> None:
        super().__init__(f"there are {keys_max} keys, revoked ones included: rotate one that is not used any more")


class InvalidKey(KeyRejection):
    """A value is not allowed; `field` is its name in the HTTP API."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
