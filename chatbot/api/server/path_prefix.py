"""The path under which a proxy publishes the service, such as /chat: in what we tell, and off what we are asked."""

import re
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from aiohttp import web
from yarl import URL

from chatbot.api.services import SERVICES
from chatbot.config.sections.server_settings import PATH_PREFIX

HEADER = "X-Forwarded-Prefix"
PREFIX_MAX_CHARS = 200
_PREFIX = re.compile(PATH_PREFIX)


def prefix_of(request: web.Request) -> str:
    """What to put before our own paths, without a slash behind: of X-Forwarded-Prefix, where a proxy that is trusted
    sends it, else of the settings. Several proxies' prefixes follow each other; what is no such path is ignored.
    """
    server = request.app[SERVICES].settings.server
    given = request.headers.getall(HEADER, ())
    if not given or not is_trusted(request.remote, server.trusted_proxies):
        return server.path_prefix
    prefix = "".join(part.strip().rstrip("/") for line in given for part in line.split(","))
    return prefix if len(prefix) <= PREFIX_MAX_CHARS and _PREFIX.fullmatch(prefix) else server.path_prefix


def is_trusted(address: str | None, networks: tuple[str, ...]) -> bool:
    """Whether a connection comes from one of `networks`, also where IPv6 takes its IPv4 address."""
    try:
        remote = ip_address(address or "")
    except ValueError:  # no address, as of a connection that has gone
        return False
    if isinstance(remote, IPv6Address):
        remote = remote.ipv4_mapped or remote
    return any(remote in ip_network(one, strict=False) for one in networks)


def strip_prefix(prefix: str, make: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
    """A request factory for proxies that leave `prefix` in the path, as well as for those that take it off."""
    if not prefix:
        return make

    def made(message: Any, *rest: Any) -> web.BaseRequest:
        path = message.path
        if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("/", "?", ""):
            own, mark, query = path[len(prefix) :].partition("?")
            url = URL.build(path=own or "/", query_string=query, encoded=True)
            message = message._replace(path=f"{own or '/'}{mark}{query}", url=url)
        return make(message, *rest)

    return made
