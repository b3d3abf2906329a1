"""chatbot/api/server/http_server.py replaces parts of aiohttp, and others rely on what these do."""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler

REPLACED = {
    RequestHandler.start: "2e565fd40c8e",
    RequestHandler._handle_request: "a88a34ee65a2",
    RequestHandler._make_error_handler: "b73dcf1dd177",
    BaseProtocol.resume_reading: "21dee847a31a",
}
RELYING = {
    RequestHandler.connection_lost: "df2fe6e95fd0",
    RequestHandler.shutdown: "5eb4bd473db6",
    RequestHandler.data_received: "1ee57ebe052e",
    RequestHandler._resume_reading_if_drained: "27f2a6fbbb3a",
    RequestHandler._process_keepalive: "b472e0fb8445",
    RequestHandler.finish_response: "b7eb53db8f4b",
}


@pytest.mark.parametrize("part", REPLACED | RELYING, ids=lambda part: part.__qualname__)
def test_aiohttp_is_as_it_was_when_its_parts_were_replaced(part: Callable[..., Any]) -> None:
    digest = hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:12]
    assert digest == (REPLACED | RELYING)[part], (
        f"aiohttp's {part.__qualname__} has changed: compare it with HttpProtocol, then note its new digest, {digest}"
    )
