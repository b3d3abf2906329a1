"""Which proxy leads to a model server: the setting's, or the one that the environment names. Pure."""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from msgspec import Struct

from chatbot.llm.address import Address, basic_credentials

DIRECT = "none"  # as a setting: no proxy, whatever the environment says
DEFAULT_PORT = 80


class Proxy(Struct, frozen=True):
    """An HTTP proxy. `headers` carry its credentials, if it has any, and go to nobody else."""

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
    if setting == DIRECT:
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
