"""Which `Prefer` headers ask for an answer before the work is done (RFC 7240)."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from chatbot.api.requests import prefers_async


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], False),
        ([""], False),
        (["respond-async"], True),
        (["Respond-Async"], True),
        ([" respond-async "], True),
        (["respond-async, wait=10"], True),
        (["wait=10,respond-async"], True),
        (["return=minimal", "respond-async"], True),
        (["respond-async; x=1"], True),
        (['respond-async=""'], True),
        (["respond-async="], True),
        (["respond-asynchronously"], False),
        (["respond-async=no"], False),
        (["x=respond-async"], False),
        (["wait=10"], False),
    ],
)
def test_only_respond_async_counts(lines: list[str], *, expected: bool) -> None:
    headers = CIMultiDict([("Prefer", line) for line in lines])
    assert prefers_async(make_mocked_request("POST", "/api/chat", headers=headers)) is expected


@pytest.mark.parametrize("start", ["respond-async=", 'respond-async=""', "respond-async", "wait"])
def test_a_long_header_is_read_in_one_pass(start: str) -> None:
    """In quadratic time this would take a quarter of an hour."""
    text = f"{start}{' ' * 300_000}x"
    assert not prefers_async(make_mocked_request("POST", "/api/chat", headers={"Prefer": text}))
