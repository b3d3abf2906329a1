"""A node's name, as events record it: where other nodes reach it, and which of its lives it is."""

import re

from msgspec import Struct

_NAME = re.compile(r"(?P<url>http://[^/#\s]+)#(?P<boot>[0-9a-f]{8})")


class Address(Struct, frozen=True):
    """`boot` is drawn anew by each process, so that one which was started again owes nothing of what it did before."""

    url: str
    boot: str


def name_of(host: str, port: int, boot: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}#{boot}"


def address_of(name: str | None) -> Address | None:
    """None for what is no node's name: a process that served alone has recorded its machine's."""
    found = _NAME.fullmatch(name or "")
    return Address(found["url"], found["boot"]) if found else None
