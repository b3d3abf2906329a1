"""Who is at the other end: the client's address, also behind proxies.

Only X-Forwarded-For is read, and only as far as trusted proxies wrote it: each proxy appends the address that it was
called from, so the entries are right from the end up to the first address that is no trusted proxy. A client can write
what it likes before that. RFC 7239's Forwarded is not read: a proxy passes on whichever of the two headers it does not
write itself, so a service that reads both believes its clients.
"""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp import web

from chatbot.api.server.path_prefix import is_trusted

HEADER = "X-Forwarded-For"
HOPS_MAX = 32  # entries that are looked at: a chain of proxies is shorter, and a header may have thousands
ENTRY_MAX_CHARS = 64  # an IPv6 address in brackets with zone and port
UNIX, UNKNOWN = "unix", "unknown"
IPV6_CLIENT_BITS = 64  # the smallest network that providers give to one customer (RFC 6177)

_PORT = r"(?::[0-9]{1,5})?"
_ADDRESS = re.compile(
    rf"\[(?P<bracketed>[0-9A-Fa-f:.]+)(?:%\w+)?\]{_PORT}|(?P<ipv4>[0-9.]+){_PORT}|(?P<bare>[0-9A-Fa-f:.]+)(?:%\w+)?"
)


def client_address(request: web.BaseRequest, trusted_proxies: tuple[str, ...]) -> str:
    """The address of the client: of the connection, or if a trusted proxy made it, of the one that called that proxy.

    An IPv4 address mapped to IPv6 is written as IPv4. "unix" for a Unix socket, "unknown" if the connection has none.
    """
    remote = request.remote
    if remote is None:
        return UNKNOWN
    address = parse_address(remote) or UNIX
    if not trusted_proxies or HEADER not in request.headers or not is_trusted(address, trusted_proxies):
        return address
    return _last_untrusted(",".join(request.headers.getall(HEADER)), address, trusted_proxies)


def _last_untrusted(forwarded: str, address: str, trusted_proxies: tuple[str, ...]) -> str:
    """The last entry that is no trusted proxy. `address`, of the proxy itself, if its own entry is no address."""
    for _ in range(HOPS_MAX):
        forwarded, comma, entry = forwarded.rpartition(",")
        found = parse_address(entry.strip())
        if found is None:
            return address
        address = found
        if not comma or not is_trusted(address, trusted_proxies):
            return address
    return address


def parse_address(text: str) -> str | None:
    """The address in `text`, with or without a port and a zone, in its usual form; None if there is none."""
    return _parse(text) if len(text) <= ENTRY_MAX_CHARS else None


@lru_cache(maxsize=4096)  # of clients' addresses, bounded by ENTRY_MAX_CHARS
def _parse(text: str) -> str | None:
    found = _ADDRESS.fullmatch(text)
    try:
        address = ip_address(found["bracketed"] or found["ipv4"] or found["bare"]) if found else None
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return None if address is None else str(address)


def client_network(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address, of which each client has all."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return address
    return str(ip_network((parsed, IPV6_CLIENT_BITS), strict=False))
