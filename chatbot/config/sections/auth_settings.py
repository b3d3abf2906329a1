"""Settings of API keys."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct


class AuthSettings(Struct, frozen=True):
    """[auth] API keys. None configured: everyone who can connect may use the service."""

    keys: Annotated[
        Mapping[str, str],
        Meta(
            description="API keys, name = secret: each name owns its sessions. None: no key is asked for.",
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
            description="Names of the keys that may read the whole log, every session's trail and the audit's calls.",
            extra={"allowed": "names of configured keys"},
        ),
    ] = ()
    require_keys: Annotated[bool, Meta(description="Refuse to start where no API key is configured.")] = False
    allow_anonymous: Annotated[
        bool,
        Meta(
            description="Start without API keys although sessions in the log belong to some: everyone may then read and"
            " delete them.",
        ),
    ] = False

    def __repr__(self) -> str:
        # a struct's own repr would carry the secrets into any log line or traceback that shows it
        return f"AuthSettings(keys=<{len(self.keys)} masked>, auditors={self.auditors})"
