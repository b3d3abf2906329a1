"""The path prefix under which a reverse proxy publishes the service, such as /chat."""

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from aiohttp import web
from yarl import URL

from chatbot.config.sections.server_settings import PATH_PREFIX, ServerSettings

HEADER = "X-Forwarded-Prefix"
PREFIX_MAX_CHARS = 200
_PREFIX = re.compile(PATH_PREFIX)


def prefix_of(request: web.Request, server: ServerSettings) -> str:
    """The prefix for links to the service, without a slash at its end: X-Forwarded-Prefix if a trusted proxy sent it,
    else the setting. The prefixes of several proxies are joined; an invalid one is ignored.
    """
    given = request.headers.getall(HEADER, ())
    if not given or not is_trusted(request.remote, server.trusted_proxies):
        return server.path_prefix
    prefix = "".join(part.strip().rstrip("/") for line in given for part in line.split(","))
    return prefix if len(prefix) <= PREFIX_MAX_CHARS and _PREFIX.fullmatch(prefix) else server.path_prefix


@lru_cache(maxsize=4096)  # of addresses of connections, and of settings, which never change
def is_trusted(address: str | None, networks: tuple[str, ...]) -> bool:
    """Whether a connection comes from one of `networks`. An IPv4 address mapped to IPv6 counts as IPv4."""
    try:
        remote = ip_address(address or "")
    except ValueError:  # no address: a Unix socket, or the connection is closed
        return False
    if isinstance(remote, IPv6Address):
        remote = remote.ipv4_mapped or remote
    return any(remote in ip_network(one, strict=False) for one in networks)


def strip_prefix(prefix: str, make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """A request factory that removes `prefix` from the path, for proxies that leave it there; others remove it."""
    if not prefix:
        return make

    def made(message: Any, *rest: Any) -> web.BaseRequest:
        path = message.path
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("/", "?", ""):
            stripped, mark, query = path[len(prefix) :].partition("?")
            url = URL.build(path=stripped or "/", query_string=query, encoded=True)
            message = message._replace(path=f"{stripped or '/'}{mark}{query}", url=url)
        return make(message, *rest)

    return made
