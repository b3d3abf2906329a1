"""What is known, and answered, of a request that is not valid HTTP."""

import re

from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, BadStatusLine, InvalidHeader, LineTooLong

from chatbot.api.problems import Problem

LINE_MAX_BYTES = 8190  # of the request line
REASON_MAX_CHARS = 200
ORIGIN_MAX_BYTES = 300
_ORIGIN = re.compile(rb"^Origin:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


def find_origin(data: bytes) -> str | None:
    """The Origin header in the bytes of a request that cannot be parsed; None if it is missing or too long.

    Takes linear time: the sender is not authenticated.
    """
    found = _ORIGIN.search(data)
    origin = found[1].strip(b" \t") if found else b""
    return origin.decode("latin-1") if 0 < len(origin) <= ORIGIN_MAX_BYTES else None


def problem_for_parse_error(error: BadHttpMessage) -> Problem:
    """What is wrong with a request that is not valid HTTP. Quotes none of its bytes: they may contain a secret."""
    if isinstance(error, LineTooLong):
        limit = error.args[1]
        if limit == LINE_MAX_BYTES:
            return Problem(414, "address-too-long", "Address too long", f"the path and query exceed {limit} bytes")
        return headers_too_large(f"a header exceeds {limit} bytes")
    if error.message.startswith("Too many headers"):
        return headers_too_large("there are too many headers")
    if isinstance(error, BadHttpMethod):
        why = "the request begins with no method of HTTP; this port speaks plain HTTP, not HTTPS"
    elif isinstance(error, BadStatusLine):
        why = "the request line is not valid"
    elif isinstance(error, InvalidHeader):
        why = "a header is not valid"
    else:
        why = error.message.splitlines()[0].rstrip(":")[:REASON_MAX_CHARS] if error.message else "not valid HTTP"
    return Problem(400, "bad-request", "Bad request", why)


def headers_too_large(why: str) -> Problem:
    """The refusal of headers beyond a limit."""
    return Problem(431, "headers-too-large", "Headers too large", why)
