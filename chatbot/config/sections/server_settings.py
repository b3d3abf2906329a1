"""Settings of the HTTP server."""

from typing import Annotated

from msgspec import Meta, Struct

HostName = Annotated[str, Meta(pattern=r"^(\*|[^\s/:*\[\]]+|\[[0-9a-fA-F:.]+\])$")]
CorsOrigin = Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]
# A path as segments of unreserved characters (RFC 3986), none of them . or ..; with no slash behind, or nothing.
PATH_PREFIX = r"^(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*\Z"


class ServerSettings(Struct, frozen=True):
    """[server] The HTTP server."""

    host: Annotated[
        str,
        Meta(
            pattern=r"^[^\s/\[\]]+$",
            description="Address to listen on. This machine only, until you say otherwise; 0.0.0.0 for all networks.",
            extra={"env": "HOST", "allowed": "an address or host name, such as 127.0.0.1, 0.0.0.0 or ::1"},
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 takes any free one.", extra={"env": "PORT"})] = (
        8080
    )
    debug: Annotated[
        bool, Meta(description="Log at level debug, whatever logging.level says.", extra={"env": "DEBUG"})
    ] = False
    cors_origins: Annotated[
        tuple[CorsOrigin, ...],
        Meta(
            description="Web origins whose pages may call this service, besides its own; * is any; empty: none.",
            extra={"env": "CORS_ORIGINS", "allowed": "* or scheme://host[:port] each, with no path or slash behind"},
        ),
    ] = ()
    hosts: Annotated[
        tuple[HostName, ...],
        Meta(
            description="Host names under which this service may be called, besides localhost and the address called;"
            " * is any. Empty: no others on a loopback host, any on another.",
            extra={"allowed": "* or a host name or address each, such as chat.example.org, without a port"},
        ),
    ] = ()
    path_prefix: Annotated[
        str,
        Meta(
            pattern=PATH_PREFIX,
            max_length=200,
            description="Path under which a proxy publishes this service, such as /chat; it may pass that on or not.",
            extra={"allowed": "empty, or a path such as /chat, with no slash behind"},
        ),
    ] = ""
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses and networks of proxies whose X-Forwarded-Prefix counts in place of path_prefix.",
            extra={"allowed": "an address or network each, such as 127.0.0.1 or 10.0.0.0/8"},
        ),
    ] = ()
    body_max_bytes: Annotated[
        int,
        Meta(ge=1024, le=1 << 30, description="Largest request body, in bytes: what one request may hold in memory."),
    ] = 1048576
    headers_max_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=65536,
            description="Largest headers of a request together, in bytes: room for the cookies and tokens of others.",
        ),
    ] = 32768
    request_bodies_total_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16,
            le=1 << 40,
            description="Bytes that all request bodies over 64 KiB may take together while they arrive; more get 503.",
            extra={"formerly": ("server.bodies_max_bytes",)},
        ),
    ] = 134217728
    body_timeout_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="Seconds a client has to send its body, so that a slow one holds nothing."),
    ] = 30.0
    keepalive_timeout_s: Annotated[
        float,
        Meta(gt=0, le=86400, description="Seconds an idle connection stays open; above a proxy's own (often 60)."),
    ] = 75.0
    history_page_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16,
            le=1 << 30,
            description="Largest page of messages, in bytes; one cut short says in `next` where it goes on, and has one"
            " message at least.",
            extra={"formerly": ("server.history_max_bytes",)},
        ),
    ] = 8388608
    write_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86400,
            description="Seconds a client may take nothing of an answer that is no stream before its connection is"
            " closed; streams: stream.write_timeout_s.",
        ),
    ] = 60.0
    unsent_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 40,
            description="Bytes that all answers together hold while clients do not take them; beyond it the connection"
            " that is behind longest is closed.",
            extra={"formerly": ("server.unread_max_bytes",)},
        ),
    ] = 134217728
    connections_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Connections open at once in each process, above stream.readers_max; beyond it the one idle"
            " longest is closed. Fewer where the system allows fewer open files.",
        ),
    ] = 24000
    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Processes that serve one port together; about as many as there are cores. Each folds"
            " projections of its own.",
        ),
    ] = 1
    drain_pause_s: Annotated[
        float,
        Meta(ge=0, le=600, description="Seconds /readyz answers 503 before the listener closes, for load balancers."),
    ] = 0.0
    drain_grace_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="Seconds that running replies have to end by themselves at shutdown."),
    ] = 10.0
    reload_grace_s: Annotated[
        float,
        Meta(
            ge=0, le=86400, description="Seconds that running replies have to end when a worker is replaced (SIGHUP)."
        ),
    ] = 600.0
    stream_close_timeout_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="Seconds that open streams have at shutdown to send what is left.",
            extra={"formerly": ("server.feeds_grace_s",)},
        ),
    ] = 2.0
