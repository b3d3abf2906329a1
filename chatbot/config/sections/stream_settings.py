"""Settings of event streams (SSE) to clients."""

from typing import Annotated

from msgspec import Meta, Struct


class StreamSettings(Struct, frozen=True):
    """[stream] Event streams to readers."""

    sse_ping_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Seconds between pings (heartbeats) on an idle stream; proxies close it after about 60.",
        ),
    ] = 15.0
    checkpoint_interval_s: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="Seconds between two recordings of a running reply's text: what a crash loses at most.",
        ),
    ] = 1.0
    write_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86400,
            description="Seconds for which a client may read nothing of a stream before its connection is closed.",
        ),
    ] = 600.0
    sse_retry_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Seconds after which a disconnected client should reconnect (the field `retry` of SSE).",
            extra={"formerly": ("stream.retry_s",)},
        ),
    ] = 1.0
    readers_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Open streams of replies and sessions; more get 503. Where several owners (API keys) have some,"
            " one with more than its equal part gets 429, and one with less is admitted beyond this number.",
        ),
    ] = 20000
    owner_readers_max: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Open streams of one owner; more get 429, also while there is room. 0: as many as of all.",
        ),
    ] = 0

    @property
    def retry_ms(self) -> int:
        """`sse_retry_s` in the unit of the field `retry` (WHATWG HTML, 9.2)."""
        return round(self.sse_retry_s * 1000)
