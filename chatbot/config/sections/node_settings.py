"""Settings of what shares one log: nodes on many machines, and the workers of one."""

from typing import Annotated

from msgspec import Meta, Struct


class NodeSettings(Struct, frozen=True):
    """[nodes] How processes that share one log reach each other. Unused while one serves a SQLite file alone."""

    listen_host: Annotated[
        str,
        Meta(
            pattern=r"^[^\s/\[\]]+$",
            description="Address at which other nodes reach this one; a private network's, for several machines.",
            extra={"allowed": "an address or host name, such as 127.0.0.1 or 10.0.0.5"},
        ),
    ] = "127.0.0.1"
    listen_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            description="TCP port for other nodes; 0 takes any free one. Of several workers each takes a free one.",
        ),
    ] = 0
    advertise_host: Annotated[
        str,
        Meta(
            pattern=r"^[^\s/\[\]]*$",
            description="Host name by which others find this node, and no other one; empty: listen_host.",
            extra={"allowed": "an address or host name, or empty"},
        ),
    ] = ""
    secret: Annotated[
        str,
        Meta(
            description="Secret that all nodes share, by which they know each other; needed where listen_host is not"
            " this machine only.",
            extra={"secret": True, "allowed": "16 characters or more, the same on every node"},
        ),
    ] = ""
    probe_timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Seconds another node has to say that it lives, or to cancel a reply.")
    ] = 1.0
    failure_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=600,
            description="Seconds a node may neither answer nor record before its replies are closed as interrupted.",
            extra={"formerly": ("nodes.suspect_s",)},
        ),
    ] = 10.0
    sweep_interval_s: Annotated[
        float,
        Meta(
            gt=0,
            le=600,
            description="Seconds between two searches for open replies of nodes that are gone.",
            extra={"formerly": ("nodes.look_s",)},
        ),
    ] = 2.0
    remote_replies_max: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Replies of other nodes followed at once for readers here; of more, readers get the"
            " checkpoints.",
            extra={"formerly": ("nodes.mirrors_max",)},
        ),
    ] = 10000

    def __repr__(self) -> str:
        # a struct's own repr would carry the secret into any log line or traceback that shows it
        return f"NodeSettings(listen_host={self.listen_host}, listen_port={self.listen_port}, secret=<masked>)"
