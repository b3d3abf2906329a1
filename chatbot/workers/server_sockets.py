"""The service's listening sockets."""

import errno
import os
import socket
from typing import Any

BACKLOG = 1024  # connections that wait for accept
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # errors of a system or network without IPv6


class CannotListen(Exception):
    """An address cannot be bound: the message says why, and which settings choose another."""

    def __init__(self, host: str, port: int, error: OSError, settings: str = "HOST, PORT or --port") -> None:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        super().__init__(f"cannot listen on {host}:{port}: {reason}; choose another with {settings}")


def bind_sockets(host: str, port: int) -> list[socket.socket]:
    """A socket bound to each address of `host`. `::` is one for IPv6 and IPv4. Raises CannotListen."""
    bound: list[socket.socket] = []
    try:
        found = list(dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)))
        has_ipv4 = any(family == socket.AF_INET for family, *_ in found)
        for family, *_, address in found:
            # With port 0 the first address gets a free port, and the others use the same.
            own = (address[0], bound[0].getsockname()[1] if bound else port, *address[2:])
            try:
                bound.append(_bound(family, own, takes_ipv4=address[0] == "::" and not has_ipv4))
            except OSError as error:
                # For example localhost in a container: the name has an IPv6 address, the network has none.
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
    """Start to listen on sockets of `bind_sockets`. Raises CannotListen if another process was faster."""
    for one in bound:
        host, port = one.getsockname()[:2]
        try:
            one.listen(BACKLOG)
        except OSError as error:
            raise CannotListen(host, port, error) from error


def service_url(address: tuple[str | int, ...]) -> str:
    """The service's URL, from the address of a listening socket."""
    host, port = address[:2]
    return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"
