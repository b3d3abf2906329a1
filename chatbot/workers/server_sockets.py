"""The sockets that the service listens at."""

import errno
import os
import socket
from typing import Any

BACKLOG = 1024  # connections that wait to be accepted
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # of a system or a network without it


class CannotListen(Exception):
    """An address cannot be listened on; the sentence says why, and which settings choose another."""

    def __init__(self, host: str, port: int, error: OSError, settings: str = "HOST, PORT or --port") -> None:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        super().__init__(f"cannot listen on {host}:{port}: {reason}; choose another with {settings}")


def bind(host: str, port: int) -> list[socket.socket]:
    """A socket bound to each address of `host`. `::` is one for IPv6 and IPv4. Raises CannotListen."""
    bound: list[socket.socket] = []
    try:
        found = list(dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)))
        has_ipv4 = any(family == socket.AF_INET for family, *_ in found)
        for family, *_, address in found:
            # With port 0 the first address takes a free one, and the others the same.
            own = (address[0], bound[0].getsockname()[1] if bound else port, *address[2:])
            try:
                bound.append(_bound(family, own, takes_ipv4=address[0] == "::" and not has_ipv4))
            except OSError as error:
                # Such as localhost in a container: its name has an address of IPv6, its network has none.
                if not (has_ipv4 and family == socket.AF_INET6 and error.errno in NO_IPV6):
                    raise
    except OSError as error:
        for one in bound:
            one.close()
        raise CannotListen(host, port, error) from error
    return bound


def _bound(family: int, address: tuple[Any, ...], *, takes_ipv4: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if takes_ipv4 else 1)
        one.bind(address)
        one.setblocking(False)
    except BaseException:
        one.close()
        raise
    return one


def start_listening(bound: list[socket.socket]) -> None:
    """Let connections wait at sockets of `bind`. Raises CannotListen where another process was faster."""
    for one in bound:
        host, port = one.getsockname()[:2]
        try:
            one.listen(BACKLOG)
        except OSError as error:
            raise CannotListen(host, port, error) from error


def service_url(address: tuple[str | int, ...]) -> str:
    """The service's URL, by the address of a socket that it listens on."""
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"
