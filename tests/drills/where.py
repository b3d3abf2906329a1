"""Where a part of a drill runs: its address, and its namespace, if it has one."""

from msgspec import Struct


class Where(Struct, frozen=True):
    """`inside` goes before its command: what leads into its namespace. Other nodes reach a node at `peers_port`."""

    address: str
    port: int
    peers_port: int = 0
    inside: tuple[str, ...] = ()
