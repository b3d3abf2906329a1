"""The sockets that several workers accept from."""

import socket
from contextlib import suppress

BACKLOG = 1024  # connections that wait to be accepted


def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of `host`, as a server alone would. Raises OSError."""
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            bound.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                with suppress(OSError):
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # With port 0 the first address takes a free one, and the others the same.
            one.bind((address[0], bound[0].getsockname()[1] if len(bound) > 1 else port, *address[2:]))
            one.listen(BACKLOG)
            one.setblocking(False)
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


def url_of(address: tuple[str | int, ...]) -> str:
    """The service's URL, by the address of a socket that it listens on."""
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"
