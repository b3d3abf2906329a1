"""Settings of the HTTP server."""

from typing import Annotated

from msgspec import Meta, Struct

HostName = Annotated[str, Meta(pattern=r"^(\*|[^\s/:*\[\]]+|\[[0-9a-fA-F:.]+\])$")]
CorsOrigin = Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/\s]+)$")]
# A path as segments of unreserved characters (RFC 3986), none of them . or .., without a trailing slash; or empty.
PATH_PREFIX = r"^(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)*\Z"


class ServerSettings(Struct, frozen=True):
    """[server] The HTTP server."""

    host: Annotated[
        str,
        Meta(
            pattern=r"^[^\s/\[\]]+$",
            description="Address to listen on. The default accepts only this machine; 0.0.0.0: all networks.",
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
            description="Path under which a proxy publishes this service, such as /chat; the proxy may remove it.",
            extra={"allowed": "empty, or a path such as /chat, with no slash behind"},
        ),
    ] = ""
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses and networks of proxies whose X-Forwarded-For says who called them, for logs and"
            " limits, and whose X-Forwarded-Prefix overrides path_prefix. Empty: none is believed.",
            extra={"allowed": "an address or network each, such as 127.0.0.1 or 10.0.0.0/8"},
        ),
    ] = ()
    chat_page: Annotated[bool, Meta(description="Serve the chat page at /. If false, / is not found.")] = True
    body_max_bytes: Annotated[
        int,
        Meta(ge=1024, le=1 << 30, description="Largest request body, in bytes."),
    ] = 1048576
    headers_max_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=65536,
            description="Largest total size of a request's headers, in bytes.",
        ),
    ] = 32768
    request_bodies_total_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16,
            le=1 << 40,
            description="Bytes of memory for all request bodies over 64 KiB while they arrive; more get 503, or 429 if"
            " the owner (API key) has more than its equal part. One body of each owner is always taken.",
            extra={"formerly": ("server.bodies_max_bytes",)},
        ),
    ] = 134217728
    owner_exports_max: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Exports of one owner (API key) at once, each of which keeps an outline of its conversation in"
            " memory; more get 429, also while there is room. 0: as many as of all owners, which is 64.",
        ),
    ] = 0
    owner_verifications_max: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Verifications of the log for one owner at once; more get 429, also while there is room. 0: as"
            " many as for all owners, which is 2.",
        ),
    ] = 0
    body_timeout_s: Annotated[
        float,
        Meta(
            gt=0, le=3600, description="Seconds a client has to send its body, so that slow clients do not keep memory."
        ),
    ] = 30.0
    keepalive_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86400,
            description="Seconds an idle connection stays open; must be longer than a proxy's own timeout (often 60).",
        ),
    ] = 75.0
    history_page_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16,
            le=1 << 30,
            description="Largest page of messages, in bytes. A page that is cut short has at least one message, and"
            " `next` to continue.",
            extra={"formerly": ("server.history_max_bytes",)},
        ),
    ] = 8388608
    write_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86400,
            description="Seconds for which a client may read nothing of a response before its connection is closed;"
            " for streams: stream.write_timeout_s.",
        ),
    ] = 60.0
    unsent_max_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 40,
            description="Bytes of memory for all responses that clients have not read yet; beyond that, the connection"
            " that is behind longest is closed.",
            extra={"formerly": ("server.unread_max_bytes",)},
        ),
    ] = 134217728
    connections_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Open connections of each process, above stream.readers_max; beyond that, the one idle longest"
            " is closed. Fewer if the system allows fewer open files.",
        ),
    ] = 24000
    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Processes that serve one port together; about as many as there are cores. With more than one"
            " and a log in a file, one process more writes the log and the projections.",
        ),
    ] = 1
    writer_silent_s: Annotated[
        float,
        Meta(
            ge=0.5,
            le=600,
            description="Seconds without a sign of life after which the process that writes the log is killed and"
            " started again. Shorter than database.busy_timeout_s, appends only wait for the next one.",
        ),
    ] = 2.0
    drain_pause_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="Seconds for which /readyz answers 503 before the shutdown goes on, for load balancers.",
        ),
    ] = 0.0
    drain_grace_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="Seconds that running replies have to finish during a graceful shutdown."),
    ] = 10.0
    reload_grace_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="Seconds that running replies have to finish when a worker is replaced (SIGHUP).",
        ),
    ] = 600.0
    stream_close_timeout_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="Seconds that open streams have at shutdown to send the rest.",
            extra={"formerly": ("server.feeds_grace_s",)},
        ),
    ] = 2.0
