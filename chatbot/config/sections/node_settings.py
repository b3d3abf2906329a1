"""Settings of the processes that share one log: nodes on many machines, and workers on one."""

from typing import Annotated

from msgspec import Meta, Struct


class NodeSettings(Struct, frozen=True):
    """[nodes] How processes that share one log reach each other. Unused by a process that serves alone."""

    listen_host: Annotated[
        str,
        Meta(
            pattern=r"^[^\s/\[\]]+$",
            description="Address at which other nodes reach this one; with several machines, in a private network.",
            extra={"allowed": "an address or host name, such as 127.0.0.1 or 10.0.0.5"},
        ),
    ] = "127.0.0.1"
    listen_port: Annotated[
        int,
        Meta(
            ge=0,
            le=65535,
            description="TCP port for other nodes; 0 takes any free one. Workers always take a free one.",
        ),
    ] = 0
    advertise_host: Annotated[
        str,
        Meta(
            pattern=r"^[^\s/\[\]]*$",
            description="Host name that leads other nodes to this node only; empty: listen_host.",
            extra={"allowed": "an address or host name, or empty"},
        ),
    ] = ""
    secret: Annotated[
        str,
        Meta(
            description="Secret that all nodes share, to authenticate each other; required unless listen_host is a"
            " loopback address.",
            extra={"secret": True, "allowed": "16 characters or more, the same on every node"},
        ),
    ] = ""
    probe_timeout_s: Annotated[
        float,
        Meta(gt=0, le=60, description="Seconds another node has to answer a probe (heartbeat) or to cancel a reply."),
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
            description="Replies of other nodes that are followed for readers on this node; of further ones, readers"
            " get the checkpoints.",
            extra={"formerly": ("nodes.mirrors_max",)},
        ),
    ] = 10000

    def __repr__(self) -> str:
        # the default repr would put the secret into log lines and tracebacks
        return f"NodeSettings(listen_host={self.listen_host}, listen_port={self.listen_port}, secret=<masked>)"
