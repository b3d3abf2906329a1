"""Opens connections to a model server: directly or through a proxy, with TLS for https."""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from ipaddress import ip_address

from aiohappyeyeballs import AddrInfoType, start_connection

from chatbot.llm.http.http_connection import HttpConnection
from chatbot.llm.http.server_address import Address, Proxy, find_proxy
from chatbot.llm.provider import LlmUnavailable

HAPPY_EYEBALLS_DELAY_S = 0.25  # before another of a host's addresses is tried beside the first (RFC 8305, 5)
PROXY_HEAD_MAX_BYTES = 16_384  # of a proxy's answer to CONNECT
PROXY_READ_BYTES = 1024


class Connector:
    """The route to one address. Made once: the proxy and the certificates are those of the first request.

    `target_prefix` comes before the path in a request's first line, `headers` are those of every request.
    """

    def __init__(self, address: Address, proxy: str, ca_file: str, environment: Mapping[str, str] = os.environ) -> None:
        """`proxy`: see find_proxy(). `ca_file`: PEM, trusted besides the system's certificates (or those that
        SSL_CERT_FILE names, which OpenSSL reads itself). Raises ValueError."""
        self._address = address
        self._proxy = find_proxy(proxy, address, environment)
        self._tls = _make_tls(ca_file) if address.is_tls else None
        self.target_prefix, self.headers = "", address.headers
        if self._proxy is not None and self._tls is None:  # a proxy wants whole URLs (RFC 9112, 3.2.2)
            self.target_prefix, self.headers = f"http://{address.netloc}", address.headers + self._proxy.headers

    @property
    def shown(self) -> str:
        """The address, and the proxy on the way, without credentials."""
        return self._address.origin + (f" through the proxy {self._proxy.origin}" if self._proxy else "")

    async def connect(self, make_connection: Callable[[], HttpConnection], timeout_s: float) -> HttpConnection:
        """Raises LlmUnavailable, whose cause says in a few words why there is no connection."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                sock = await self._open()
                name = self._address.host if self._tls is not None else None
                _, connection = await loop.create_connection(
                    make_connection, sock=sock, ssl=self._tls, server_hostname=name
                )
        except TimeoutError as error:
            raise LlmUnavailable from _with_cause(f"no connection within {timeout_s:g} s", error)
        except (OSError, ValueError) as error:  # ValueError: a host's name that cannot be one
            raise LlmUnavailable from _with_cause(_describe(error), error)
        return connection

    async def _open(self) -> socket.socket:
        """A connected socket to the server, through a tunnel where a proxy leads to a TLS server."""
        if self._proxy is None:
            return await _connect(self._address.host, self._address.port)
        try:
            sock = await _connect(self._proxy.host, self._proxy.port)
        except OSError as error:
            raise ConnectionError(f"the proxy cannot be reached: {_describe(error)}") from error
        if self._tls is not None:
            try:
                await _open_tunnel(sock, self._address, self._proxy)
            except BaseException:
                sock.close()
                raise
        return sock


async def _connect(host: str, port: int) -> socket.socket:
    """Tries all addresses of the host, IPv6 and IPv4 alternately, without waiting for each to fail (RFC 8305)."""
    loop = asyncio.get_running_loop()
    found = _literal_address(host, port) or await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sock = await start_connection(found, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY_S, interleave=1, loop=loop)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _literal_address(host: str, port: int) -> list[AddrInfoType]:
    """The address if `host` is one, which needs no resolver thread; empty if it is a name."""
    try:
        version = ip_address(host).version
    except ValueError:
        return []
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    return [] if "%" in host else [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]


async def _open_tunnel(sock: socket.socket, address: Address, proxy: Proxy) -> None:
    """Has the proxy connect to the server (RFC 9110, 9.3.6). Raises ConnectionError."""
    loop = asyncio.get_running_loop()
    host = f"[{address.host}]" if ":" in address.host else address.host.encode("idna").decode()
    authority = f"{host}:{address.port}"
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: chatbot\r\n{proxy.headers}\r\n"
    await loop.sock_sendall(sock, head.encode("ascii"))
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = await loop.sock_recv(sock, PROXY_READ_BYTES)
        answer += data
        if not data or len(answer) > PROXY_HEAD_MAX_BYTES:
            raise ConnectionError("the proxy's answer is no HTTP answer")
    words = answer.split(b" ", 2)
    if not answer.startswith(b"HTTP/1.") or len(words) < 3 or not words[1][:3].isdigit():
        raise ConnectionError("the proxy's answer is no HTTP answer")
    status = int(words[1][:3])
    if status not in range(200, 300):
        reason = " (its name and password are wrong or missing)" if status == 407 else ""
        raise ConnectionError(f"the proxy answered {status}{reason}")


def _make_tls(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            why = error.strerror if not isinstance(error, ssl.SSLError) else "it holds no certificate in PEM"
            raise ValueError(f"llm.ca_file cannot be read: {why}") from error
    return context


def _with_cause(reason: str, error: Exception) -> ConnectionError:
    cause = ConnectionError(reason)
    cause.__cause__ = error
    return cause


def _describe(error: Exception) -> str:
    """The reason in a few words. The most precise class comes first."""
    match error:
        case socket.gaierror():
            return f"the host's name was not found ({error.strerror})"
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLCertVerificationError():
            return f"its TLS certificate is not accepted ({error.verify_message})"
        case ssl.SSLError():
            return f"TLS failed ({error.reason or 'no reason given'})"
        case OSError(strerror=str(words)):
            return words.lower() if words.isupper() else words
        case _:
            return str(error) or type(error).__name__
