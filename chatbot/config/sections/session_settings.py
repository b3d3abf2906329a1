"""Settings of sessions and of their actors: lifetimes and limits."""

from typing import Annotated

from msgspec import Meta, Struct


class SessionSettings(Struct, frozen=True):
    """[sessions] Lifetimes and limits of sessions and of their actors."""

    timeout_hours: Annotated[
        float,
        Meta(
            ge=0,
            le=876_000,
            description="Hours after its last access at which a session expires; 0: never. Sessions may have their own"
            " timeout.",
            extra={"env": "SESSION_TIMEOUT_HOURS"},
        ),
    ] = 24.0
    access_resolution_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="Seconds between two recorded accesses of a session, so that few reads append an event.",
        ),
    ] = 60.0
    erase_expired_after_hours: Annotated[
        float,
        Meta(
            ge=0, le=876_000, description="Hours after its expiry at which a session is erased permanently; 0: never."
        ),
    ] = 0.0
    erase_after_clock_stable_hours: Annotated[
        float,
        Meta(
            ge=0,
            le=8_760,
            description="Hours that the clock must have run without a jump, since the start or the last one, before"
            " expired sessions are erased: a wrong clock erases nothing.",
            extra={"formerly": ("sessions.erase_after_consistent_hours",)},
        ),
    ] = 1.0
    idle_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86400,
            description="Seconds without a command after which an idle actor is removed from memory (passivation).",
        ),
    ] = 60.0
    active_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Actors in memory; beyond that, idle ones are removed; if none is idle, requests get 503, or"
            " 429 if the owner (API key) has more than its equal part; an owner with less gets further actors.",
            extra={"formerly": ("sessions.live_max",)},
        ),
    ] = 10000
    mailbox_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Commands that wait in one actor's mailbox; more are refused.")
    ] = 64
    queued_messages_max: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Messages that wait for one session's running reply; more are refused.",
            extra={"formerly": ("sessions.pending_max",)},
        ),
    ] = 8
    interrupted_retries_max: Annotated[
        int,
        Meta(
            ge=0,
            le=10,
            description="Retries of a reply that was interrupted by a stop or crash, after the restart; 0: none.",
            extra={"formerly": ("sessions.retry_interrupted",)},
        ),
    ] = 0
    fork_messages_max: Annotated[
        int, Meta(ge=1, le=100_000, description="Longest history that a fork begins with, in messages.")
    ] = 10000
    command_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Seconds a request waits for its session's actor before it gets 503.",
            extra={"formerly": ("sessions.ask_timeout_s",)},
        ),
    ] = 30.0
    metadata_max_bytes: Annotated[
        int, Meta(ge=2, le=1_048_576, description="Largest metadata of a session, in bytes of JSON.")
    ] = 16384
    metadata_keys_max: Annotated[int, Meta(ge=1, le=10_000, description="Most keys in a session's metadata.")] = 64
    title_max_chars: Annotated[int, Meta(ge=1, le=10_000, description="Longest title of a session, in characters.")] = (
        200
    )
