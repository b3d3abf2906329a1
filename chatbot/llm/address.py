"""Where a model server is, and the head of every request to it. Pure."""

import base64
from urllib.parse import unquote, urlsplit

from msgspec import Struct

ACCEPT = "text/event-stream, application/json"


class Address(Struct, frozen=True):
    """`host` and `port` to connect to, `prefix` before every path, `headers` of every request."""

    host: str
    port: int
    is_tls: bool
    prefix: str
    headers: str

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A whole HTTP/1.1 request; a body is JSON."""
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        return f"{method} {self.prefix}{path} HTTP/1.1\r\n{self.headers}{length}\r\n".encode("ascii") + body


def parse_address(url: str, api_key: str) -> Address:
    """`url` with or without /v1 at its end; a name and password in it are sent as Basic (RFC 7617), a key as Bearer.

    Raises ValueError for what cannot be asked.
    """
    parts = urlsplit(url.rstrip("/").removesuffix("/v1"))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the model server's address is none of http://host or https://host")
    if parts.username and api_key:
        raise ValueError("the model server's address has a password, and there is a key beside it")
    is_tls = parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    # identity: a compressed stream is a buffered one.
    headers = {"Host": _host(parts.hostname, parts.port), "Accept": ACCEPT, "Accept-Encoding": "identity"}
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    elif api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"a character that no header may hold would be sent in {name}")
    prefix = parts.path.rstrip("/")
    if not prefix.isascii() or any(each <= " " for each in prefix):
        raise ValueError("the path of the model server's address must be percent-encoded")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return Address(parts.hostname, port, is_tls, prefix, f"{lines}User-Agent: chatbot\r\n")


def _host(name: str, port: int | None) -> str:
    """The Host header: no port where it is the scheme's own."""
    shown = f"[{name}]" if ":" in name else name.encode("idna").decode()
    return shown if port is None else f"{shown}:{port}"
