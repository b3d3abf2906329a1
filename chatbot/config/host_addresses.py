"""Classifies hosts: loopback and unspecified addresses."""

from functools import lru_cache
from ipaddress import ip_address

HOST_MAX_CHARS = 255  # longer than any name of DNS


@lru_cache(maxsize=128)  # of names from settings and from clients' Host headers, which are bounded by HOST_MAX_CHARS
def is_loopback(host: str) -> bool:
    """Whether this name or address always means this machine, without DNS (RFC 6761, 6.3)."""
    if len(host) > HOST_MAX_CHARS:
        return False
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        name = host.lower().removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")


def is_unspecified(host: str) -> bool:
    """Whether it means all addresses of this machine, such as 0.0.0.0 and ::."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
