"""Secrets of keys: 256 random bits, of which the SHA-256 is stored.

SHA-256 is enough because nobody can try 2^256 secrets; a slow hash is for passwords, which people choose.
"""

import base64
import hashlib
import hmac
import secrets

from chatbot.keys.key_state import NewSecret

SECRET_BYTES = 32
TICKET_PURPOSE = b"chatbot ticket"
PREFIX = "cb_"  # by which people and secret scanners recognize one
SHOWN_CHARS = len(PREFIX) + 6  # of a secret that lists and logs may show: 36 of its 256 bits


def make_secret() -> str:
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).decode().rstrip("=")


def hash_secret(secret: str) -> bytes:
    """The SHA-256. Any string has one, as a header may hold any bytes."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def ticket_key(secret_sha256: bytes) -> bytes:
    """The key that signs tickets for a secret: derived from the hash, as the secret is not stored."""
    return hmac.digest(secret_sha256, TICKET_PURPOSE, "sha256")


def stored_form(secret: str) -> NewSecret:
    return NewSecret(hash_secret(secret).hex(), secret[:SHOWN_CHARS])
