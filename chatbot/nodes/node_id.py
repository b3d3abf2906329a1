"""A node's name, as events record it: where other nodes reach it, and which of its lives it is."""

import re

from msgspec import Struct

_NAME = re.compile(r"(?P<url>http://[^/#\s]+)#(?P<boot>[0-9a-f]{8})")


class NodeAddress(Struct, frozen=True):
    """`boot` is drawn anew by each process, so that one which was started again owes nothing of what it did before."""

    url: str
    incarnation: str


def format_node_id(host: str, port: int, incarnation: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}#{incarnation}"


def parse_node_id(name: str | None) -> NodeAddress | None:
    """None for what is no node's name: a process that served alone has recorded its machine's."""
    found = _NAME.fullmatch(name or "")
    return NodeAddress(found["url"], found["boot"]) if found else None
