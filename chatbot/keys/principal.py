"""The principal: on whose behalf a request is made, and what it may do."""

from msgspec import Struct

from chatbot.keys.scopes import ALL_SCOPES


class Principal(Struct, frozen=True):
    """`name` is the key's name: the owner of its sessions. None: the service is open, or the request has no key.

    `secret_sha256`: of the secret that the request was made with; empty without a key.
    """

    name: str | None
    scopes: frozenset[str]
    secret_sha256: bytes = b""

    def __repr__(self) -> str:
        return f"Principal(name={self.name!r}, scopes={sorted(self.scopes)})"  # for logs: nothing of the secret


EVERYONE = Principal(None, ALL_SCOPES)  # where the service is open: no key exists
UNKNOWN = Principal(None, frozenset())  # a request without a key, where keys exist: public paths only
