"""`chatbot health`: the readiness check for containers and monitoring: asks the service on this machine at /readyz."""

from http.client import HTTPConnection, HTTPException, HTTPResponse

from msgspec import DecodeError, Struct
from msgspec.json import decode

from chatbot.cli.cli_context import print_result
from chatbot.cli.exit_codes import CommandFailed
from chatbot.config.host_addresses import is_unspecified

TIMEOUT_S = 4.0  # for each operation on the socket; container checks usually have five seconds in all
ANSWER_MAX_BYTES = 4096  # /readyz answers with two short texts


class _Readiness(Struct, frozen=True):
    status: str
    reason: str | None = None


def check_health(host: str, port: int) -> int:
    """Print the service's status. Returns 0 if it is ready.

    `host` and `port` are the address that the service listens on. Raises CommandFailed (exit code 1), with the reason,
    where the service is not ready or cannot be reached.
    """
    if port == 0:
        raise CommandFailed("server.port is 0, so the port is not known here: name it with --port")
    if is_unspecified(host):
        host = "::1" if ":" in host else "127.0.0.1"
    try:
        status, answer = _request_readiness(host, port)
    except (OSError, HTTPException) as error:
        raise CommandFailed(f"the service at {host} port {port} does not answer: {_reason(error)}") from error
    described = _describe_readiness(answer)
    if status != 200 or described != "ready":  # another program may also answer 200
        raise CommandFailed(f"the service at {host} port {port} is not ready: {described or f'HTTP {status}'}")
    print_result(described)
    return 0


def _request_readiness(host: str, port: int) -> tuple[int, bytes]:
    """Status and body of the answer. Raises OSError, HTTPException."""
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer: HTTPResponse = connection.getresponse()
        return answer.status, answer.read(ANSWER_MAX_BYTES)
    finally:
        connection.close()


def _describe_readiness(answer: bytes) -> str:
    """Status and reason from the answer of /readyz; empty where another program answered."""
    try:
        readiness = decode(answer, type=_Readiness)
    except (DecodeError, RecursionError):
        return ""
    return f"{readiness.status}, {readiness.reason}" if readiness.reason else readiness.status


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {TIMEOUT_S:g} s"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
