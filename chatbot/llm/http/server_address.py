"""Address of a model server and of the proxy that leads to it, parsed from settings and environment. Pure."""

import base64
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urljoin, urlsplit

from msgspec import Struct

ACCEPT = "text/event-stream, application/json"
COMPLETIONS = "/chat/completions"
_ENDPOINTS = (COMPLETIONS, "/completions", "/models")  # what people paste in place of a base URL
_VERSION = re.compile(r"v\d\w*", re.IGNORECASE)  # v1, v4, v1beta


class Address(Struct, frozen=True):
    """`host` and `port` to connect to, `prefix` before midm's paths, `headers` of every request.

    `api_prefixes`: what may come before /chat/completions and /models, the likeliest first. `query` is added to every
    path ('' or '?api-version=...'), `netloc` is host and port as the Host header has them.
    """

    host: str
    port: int
    is_tls: bool
    netloc: str
    prefix: str
    api_prefixes: tuple[str, ...]
    query: str
    headers: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: what may be shown to people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"

    def resolve(self, target: str, location: str) -> str:
        """The URL to which an answer to a request for `target` redirects. Raises ValueError for what is no URL."""
        return urljoin(f"{self.origin}{target}", location)

    def target_of(self, url: str) -> str | None:
        """Path and query of `url`; None if its scheme, host or port is another. Raises ValueError."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if (parts.scheme == "https", parts.hostname, port) != (self.is_tls, self.host, self.port):
            return None
        return _sendable(parts.path or "/") + (f"?{_sendable(parts.query)}" if parts.query else "")


def shown_origin(url: str) -> str:
    """Scheme, host and port of any URL, for people: without credentials, path and query."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that is no URL"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{host}{port}"


def is_completions_endpoint(url: str) -> bool:
    """Whether this is the full address of the chat completions, which tells the server's protocol."""
    return urlsplit(url).path.rstrip("/").endswith(COMPLETIONS)


def parse_address(url: str, api_key: str) -> Address:
    """`url` may end in a version (/v1, /api/paas/v4), in an endpoint (/v1/chat/completions), or in neither; its query
    is kept. A name and password in it are sent as Basic (RFC 7617), a key as Bearer (RFC 6750).

    Raises ValueError for an address to which no request can be sent.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the model server's address is none of http://host or https://host")
    if parts.username and api_key:
        raise ValueError("the model server's address has a password, and there is a key beside it")
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    netloc = _host(parts.hostname, parts.port)
    # identity: a compressed stream is a buffered one.
    headers = {"Host": netloc, "Accept": ACCEPT, "Accept-Encoding": "identity"}
    if parts.username:
        headers["Authorization"] = basic_credentials(parts.username, parts.password)
    elif api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"a character that no header may hold would be sent in {name}")
    path, query = _sendable(parts.path.rstrip("/")), _sendable(parts.query)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return Address(
        host=parts.hostname,
        port=port,
        is_tls=is_tls,
        netloc=netloc,
        prefix=_root_of(path),
        api_prefixes=_api_prefixes(path),
        query=f"?{query}" if query else "",
        headers=f"{lines}User-Agent: chatbot\r\n",
    )


def basic_credentials(username: str, password: str | None) -> str:
    """The value of Authorization or Proxy-Authorization for the name and password of a URL."""
    pair = f"{unquote(username)}:{unquote(password or '')}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _api_prefixes(path: str) -> tuple[str, ...]:
    """A path with a version is taken as it is first; one without most likely lacks /v1."""
    for endpoint in _ENDPOINTS:
        if path.endswith(endpoint):
            return (path.removesuffix(endpoint),)
    versioned = f"{path}/v1"
    if path.rpartition("/")[2] == "v1":
        return (path,)
    return (path, versioned) if any(map(_VERSION.fullmatch, path.split("/"))) else (versioned, path)


def _root_of(path: str) -> str:
    """`path` without an endpoint and a version at its end."""
    for endpoint in (*_ENDPOINTS, "/chat/stream"):
        path = path.removesuffix(endpoint)
    head, _, last = path.rpartition("/")
    return head if _VERSION.fullmatch(last) else path


def _sendable(part: str) -> str:
    """`part` of a URL, checked for characters that a request's first line cannot carry. Raises ValueError."""
    if not part.isascii() or any(each <= " " for each in part):
        raise ValueError("the path of the model server's address must be percent-encoded")
    return part


def _host(name: str, port: int | None) -> str:
    """The Host header: no port where it is the scheme's own."""
    shown = f"[{name}]" if ":" in name else name.encode("idna").decode()
    return shown if port is None else f"{shown}:{port}"


NO_PROXY = "none"  # as a setting: no proxy, whatever the environment says
DEFAULT_PORT = 80


class Proxy(Struct, frozen=True):
    """An HTTP proxy. `headers` carry its credentials, if it has any; they are sent to the proxy only."""

    host: str
    port: int
    headers: str

    @property
    def origin(self) -> str:
        """What may be shown to people."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def find_proxy(setting: str, address: Address, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for a model server at `address`; None: it is asked directly.

    `setting`: a proxy's URL, `none`, or '': then HTTPS_PROXY or HTTP_PROXY, by the server's scheme, else ALL_PROXY
    counts, unless NO_PROXY names the server or it is on this machine. Lower-case names come first. Raises ValueError.
    """
    if setting == NO_PROXY:
        return None
    if setting:
        return parse_proxy(setting)
    if _is_on_this_machine(address.host) or _is_excepted(address, _value(environment, "no_proxy")):
        return None
    url = _value(environment, "https_proxy" if address.is_tls else "http_proxy") or _value(environment, "all_proxy")
    return parse_proxy(url) if url else None


def parse_proxy(url: str) -> Proxy:
    """`http://[name:password@]host[:port]`, or without the scheme. Raises ValueError, whose text quotes nothing."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("a proxy must be named as http://[name:password@]host[:port]")
    headers = ""
    if parts.username:
        headers = f"Proxy-Authorization: {basic_credentials(parts.username, parts.password)}\r\n"
    return Proxy(parts.hostname, parts.port or DEFAULT_PORT, headers)


def _value(environment: Mapping[str, str], name: str) -> str:
    return (environment.get(name) or environment.get(name.upper()) or "").strip()


def _is_on_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_excepted(address: Address, exceptions: str) -> bool:
    return any(_matches(one, address) for one in exceptions.replace(",", " ").lower().split())


def _matches(exception: str, address: Address) -> bool:
    """`*`, a name and all below it, an address, a network such as 10.0.0.0/8; a name or address may have a port."""
    host = address.host.lower()
    if exception == "*":
        return True
    try:
        return ip_address(host) in ip_network(exception.strip("[]"), strict=False)
    except ValueError:
        pass  # one of the two is a name, or has a port
    name, colon, port = exception.rpartition(":")
    if colon and port.isdecimal():
        if int(port) != address.port:
            return False
        exception = name
    exception = exception.strip("[]").removeprefix("*").removeprefix(".")
    return bool(exception) and (host == exception or host.endswith(f".{exception}"))
