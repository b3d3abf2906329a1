"""Node ids, as recorded in events: the URL at which other nodes reach a node, and its incarnation."""

import re

from msgspec import Struct

_NAME = re.compile(r"(?P<url>http://[^/#\s]+)#(?P<incarnation>[0-9a-f]{8})")


class NodeAddress(Struct, frozen=True):
    """`incarnation` is a random number of each process: a node that restarts is not taken for the one that was there
    before, and is not responsible for that one's replies.
    """

    url: str
    incarnation: str


def format_node_id(host: str, port: int, incarnation: str) -> str:
    """The id `http://<host>:<port>#<incarnation>`; an IPv6 address is put in brackets."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}#{incarnation}"


def parse_node_id(name: str | None) -> NodeAddress | None:
    """The address in a node id; None for other names: a process that serves alone records its host name."""
    found = _NAME.fullmatch(name or "")
    return NodeAddress(found["url"], found["incarnation"]) if found else None
