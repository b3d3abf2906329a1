"""The Origin of a request that cannot be parsed, which its answer's CORS headers depend on."""

import pytest

from chatbot.api.server.parse_errors import ORIGIN_MAX_BYTES, find_origin

LONGEST = "x" * ORIGIN_MAX_BYTES


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("GET / HTTP/9\r\nHost: a\r\nOrigin: https://a.example\r\n\r\n", "https://a.example"),
        ("GET / HTTP/9\r\norigin:\t https://a.example \t\r\nHost: a", "https://a.example"),
        ("GET / HTTP/9\nOrigin:https://a.example\nHost: a", "https://a.example"),
        (f"GET / HTTP/9\r\nOrigin: {LONGEST}\r\n", LONGEST),
        (f"GET / HTTP/9\r\nOrigin: {LONGEST}x\r\n", None),
        ("GET / HTTP/9\r\nOrigin: \r\nX: https://a.example\r\n", None),
        ("GET / HTTP/9\r\nX-Origin: https://a.example\r\n", None),
        ("GET /Origin:x HTTP/9\r\n\r\n", None),
        ("", None),
    ],
)
def test_the_origin_is_found_in_what_has_come(head: str, expected: str | None) -> None:
    assert find_origin(head.encode()) == expected


@pytest.mark.parametrize("value", [" " * 200_000 + "x" * 400, "x" * 200_000, "\t" * 200_000, "x " * 100_000])
def test_a_long_header_is_read_in_one_pass(value: str) -> None:
    """Anybody can send it; in more than linear time it would stop the whole service."""
    assert find_origin(f"GET / HTTP/9\r\nOrigin:{value}\r\n\r\n".encode()) is None
