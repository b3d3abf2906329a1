"""The key registry: which secrets are valid now, and whose they are."""

import hashlib

from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.keys.principal import Principal
from chatbot.keys.scopes import ADMIN, AUDIT, CONFIGURED_SCOPES


class KeyRegistry:
    """Finds a key by the SHA-256 of its secret. How long that takes tells something of hashes, nothing of secrets."""

    def __init__(self, auth: AuthSettings) -> None:
        self._principals: dict[bytes, Principal] = {}
        for name, secret in auth.keys.items():
            digest = hash_secret(secret)
            self._principals[digest] = Principal(name, _configured_scopes(name, auth), digest)

    @property
    def is_open(self) -> bool:
        """Whether there is no authentication: no key was ever made."""
        return not self._principals

    def find(self, secret: str) -> Principal | None:
        """The principal of a secret that is valid now."""
        return self._principals.get(hash_secret(secret))

    def of_hash(self, secret_sha256: bytes) -> Principal | None:
        """As `find`, by the SHA-256 of the secret."""
        return self._principals.get(secret_sha256)

    def valid_hashes(self) -> list[bytes]:
        """The SHA-256 of each secret that is valid now."""
        return list(self._principals)


def hash_secret(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _configured_scopes(name: str, auth: AuthSettings) -> frozenset[str]:
    audit = {AUDIT} if name in auth.auditors else set()
    admin = {ADMIN} if name in auth.admins else set()
    return CONFIGURED_SCOPES | audit | admin
