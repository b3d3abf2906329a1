"""Settings of API keys (authentication)."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct


class AuthSettings(Struct, frozen=True):
    """[auth] API keys. None configured, none recorded: everyone who can connect may use the service."""

    keys: Annotated[
        Mapping[str, str],
        Meta(
            description="API keys, name = secret: each name owns its sessions. Others can be made without a"
            " restart. None of either: no authentication.",
            extra={
                "env": "CHATBOT_API_KEYS",
                "secret": True,
                "allowed": "name:secret pairs; names of 1 to 64 of a-z 0-9 _ -, secrets of 16 characters or more",
            },
        ),
    ] = {}
    auditors: Annotated[
        tuple[str, ...],
        Meta(
            description="Names of the keys that may read the whole log: all event histories, and /api/audit.",
            extra={"allowed": "names of keys"},
        ),
    ] = ()
    admins: Annotated[
        tuple[str, ...],
        Meta(
            description="Names of the keys that may manage API keys: add, list, rotate and revoke them.",
            extra={"allowed": "names of keys"},
        ),
    ] = ()
    front_ends: Annotated[
        tuple[str, ...],
        Meta(
            description="Names of the keys of front ends, such as Open WebUI: their requests under /v1 are believed"
            " when they say which end user sends them.",
            extra={"allowed": "names of keys"},
        ),
    ] = ()
    ticket_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description="Seconds for which a ticket opens feeds and files: addresses with it may be in a proxy's logs.",
        ),
    ] = 60
    failures_per_minute: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Wrong keys and tickets a minute, and at once, that one address (of IPv6: one /64 network) may"
            " send to each process; more get 429. A valid key is always accepted. The default leaves room for several"
            " clients behind one address that repeat an old key.",
        ),
    ] = 60
    record_reads: Annotated[
        bool,
        Meta(
            description="Record which key read what of a session, in the session's own events (session_viewed), at most"
            " once in sessions.access_resolution_s. A read that cannot be recorded is refused with 503.",
        ),
    ] = False
    require_keys: Annotated[
        bool, Meta(description="Refuse to start if there is no API key, neither configured nor recorded.")
    ] = False
    allow_anonymous: Annotated[
        bool,
        Meta(
            description="Start without API keys although sessions in the log belong to keys: everyone may then read and"
            " delete them.",
        ),
    ] = False

    def __repr__(self) -> str:
        # the default repr would put the secrets into log lines and tracebacks
        return f"AuthSettings(keys=<{len(self.keys)} masked>, auditors={self.auditors})"
