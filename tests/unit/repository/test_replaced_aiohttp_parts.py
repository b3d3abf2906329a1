"""chatbot/api/server/http_server.py replaces a part of aiohttp, and relies on what others do."""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.web_protocol import RequestHandler

PARTS = {
    RequestHandler.finish_response: "b7eb53db8f4b",  # replaced for usual answers and for streams
    RequestHandler._handle_request: "a88a34ee65a2",  # calls it once for every answer, with what the handler returned
    RequestHandler.start: "2e565fd40c8e",  # discards the rest of a body, and takes the next request from the queue
    RequestHandler.data_received: "1ee57ebe052e",  # counts the requests, and adds them to the queue
}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__qualname__)
def test_aiohttp_is_as_it_was_when_its_parts_were_replaced(part: Callable[..., Any]) -> None:
    digest = hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:12]
    assert digest == PARTS[part], (
        f"aiohttp's {part.__qualname__} has changed: compare it with HttpProtocol, then note its new digest, {digest}"
    )
