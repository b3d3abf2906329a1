"""Tickets: short-lived signed permissions to read, for addresses that cannot carry a header (EventSource, <img>).

A ticket is base64url of its kind, the time at which it ends, the session that it is for, and an HMAC-SHA-256 of these.
The byte of its kind also has the bucket of its key, so that a ticket is compared with the keys of one bucket, not with
a thousand: comparing costs 8 us a key, and a ticket may be anybody's invention.
The HMAC's key is derived from the SHA-256 of the caller's secret, so every process with the same configuration can
check a ticket, none has to remember it, and it ends with its key. It contains no name, as proxies log addresses.
"""

import base64
import binascii
import hmac
import uuid
from collections.abc import Callable, Mapping

from msgspec import Struct

from chatbot.keys.secrets import ticket_key

TICKET_MAX_CHARS = 128  # a ticket has 76
_OF_ALL, _OF_SESSION = 1, 2  # kinds; other formats get other numbers
_KIND_BITS = 2
_PAYLOAD_BYTES = 1 + 8 + 16
_MAC_BYTES = 32


class Ticket(Struct, frozen=True):
    """`secret_sha256` is of the secret of the key that got it; `session_id` None: all feeds and files of that key.
    `expires_at_us`: Unix.
    """

    secret_sha256: bytes
    session_id: str | None
    expires_at_us: int


def sign_ticket(ticket: Ticket, bucket: int) -> str:
    """The ticket as text, signed with the secret of its key, which is in `bucket` (0 to 63)."""
    kind = _OF_ALL if ticket.session_id is None else _OF_SESSION
    session = uuid.UUID(int=0) if ticket.session_id is None else uuid.UUID(ticket.session_id)
    payload = bytes([bucket << _KIND_BITS | kind]) + ticket.expires_at_us.to_bytes(8, "big") + session.bytes
    return base64.urlsafe_b64encode(payload + _mac(payload, ticket_key(ticket.secret_sha256))).decode().rstrip("=")


def verify_ticket(text: str, keys_of: Callable[[int], Mapping[bytes, bytes]]) -> Ticket | None:
    """The ticket, if one of the keys in its bucket has signed it, whether it has expired or not. `keys_of` a bucket are
    the keys of tickets by the SHA-256 of the secret. Compares with each one in constant time.
    """
    signed = _decode(text)
    payload, mac = signed[:_PAYLOAD_BYTES], signed[_PAYLOAD_BYTES:]
    if len(signed) != _PAYLOAD_BYTES + _MAC_BYTES:
        return None
    bucket, kind = divmod(payload[0], 1 << _KIND_BITS)
    if kind not in (_OF_ALL, _OF_SESSION):
        return None
    found: bytes | None = None
    for secret_sha256, key in keys_of(bucket).items():
        if hmac.compare_digest(mac, _mac(payload, key)):
            found = secret_sha256
    if found is None:
        return None
    session_id = str(uuid.UUID(bytes=payload[9:])) if kind == _OF_SESSION else None
    return Ticket(found, session_id, int.from_bytes(payload[1:9], "big"))


def _decode(text: str) -> bytes:
    """The bytes of a ticket; empty if it is none."""
    if len(text) > TICKET_MAX_CHARS:
        return b""
    try:
        return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeError):
        return b""


def _mac(payload: bytes, key: bytes) -> bytes:
    return hmac.digest(key, payload, "sha256")
