"""Which web pages may call the service: the checks of `Host` and `Origin` that protect a person's browser.

A browser sends requests to this service for any page that it shows. A page of a foreign origin is not let read answers
(CORS), but its writes would take effect; and a page whose own name its DNS server points to 127.0.0.1 (DNS rebinding)
counts as our own. Programs other than browsers send no `Origin` and an ordinary `Host`, and are not affected.
"""

import re

from aiohttp import web

from chatbot.api.problems import Problem
from chatbot.config.host_addresses import is_loopback
from chatbot.config.sections.server_settings import ServerSettings

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # they change nothing; what they answer is hidden by CORS
PROBES = frozenset({"/livez", "/readyz"})  # load balancers call by any name, and the answers tell a state only
SHOWN_MAX_CHARS = 100
DEFAULT_PORTS = {"http": ":80", "https": ":443"}

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+)(:[0-9]{1,5})?")


def check_host_and_origin(request: web.Request, server: ServerSettings) -> None:
    """Raises Problem 403 for a name that is not this service's, and for a write by a page of a foreign origin."""
    _check_host(request, server)
    if request.method not in SAFE_METHODS:
        _check_origin(request, server)


def _check_host(request: web.Request, server: ServerSettings) -> None:
    """Where other machines reach the listener, only configured names are checked: which others lead to it is not known
    here. With API keys DNS rebinding gains nothing there, since no browser adds a key by itself.
    """
    host = request.headers.get("Host")
    if host is None or "*" in server.hosts or request.path in PROBES:
        return  # every browser sends it
    if not server.hosts and not is_loopback(server.host):
        return
    found = _HOST.fullmatch(host)
    name = found["name"].lower().removesuffix(".") if found else ""
    is_configured = any(name == known.lower() for known in server.hosts)
    if not (is_loopback(name) or is_configured or name.strip("[]") == _own_address(request)):
        raise Problem(
            403,
            "host-not-allowed",
            "Host not allowed",
            f"the request's Host is {_quoted(host)}, which is not a name of this service; server.hosts"
            " (CHATBOT_SERVER_HOSTS) lists the names under which it may be called",
        )


def _own_address(request: web.Request) -> str | None:
    """The address at which the connection arrived. Probes in a cluster call by that; DNS has no part in it."""
    address = request.get_extra_info("sockname")
    return str(address[0]).removeprefix("::ffff:") if isinstance(address, tuple) else None


def _check_origin(request: web.Request, server: ServerSettings) -> None:
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if "*" in server.cors_origins or origin in server.cors_origins:
        return
    if site == "same-origin":  # set by the browser, not by the page; true behind a proxy that changes Host, too
        return
    if origin is None:
        is_foreign = site in ("cross-site", "same-site")
    else:
        is_foreign = site == "cross-site" or not _is_same_host(origin, request.headers.get("Host", ""))
    if is_foreign:
        seen = f"Sec-Fetch-Site is {site}" if origin is None else f"Origin is {_quoted(origin)}"
        raise Problem(
            403,
            "origin-not-allowed",
            "Origin not allowed",
            f"the request's {seen}: pages of other origins may not change anything here; server.cors_origins"
            " (CORS_ORIGINS) lists the origins that may, and a proxy in front has to pass the Host header on",
        )


def _is_same_host(origin: str, host: str) -> bool:
    """Whether a page of `origin` was loaded from `host`. The scheme is not compared: a proxy in front may speak TLS."""
    scheme, _, authority = origin.lower().partition("://")
    port = DEFAULT_PORTS.get(scheme, "")
    return bool(authority) and authority.removesuffix(port) == host.lower().removesuffix(port)


def _quoted(value: str) -> str:
    """A header's value for a person's eyes, bounded."""
    return repr(value if len(value) <= SHOWN_MAX_CHARS else value[:SHOWN_MAX_CHARS] + "…")
