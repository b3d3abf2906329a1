"""Requests that name a session or file: one of each operation in the OpenAPI document, valid but for the name."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
from msgspec import Struct

from chatbot.api.openapi.document import build_openapi_document
from chatbot.config.settings import Settings

# What a request needs besides the name; an operation that is not listed needs nothing, or {} as its body.
BODIES: dict[str, Any] = {
    "redact_message": {"reason_code": "subject-request"},
    "select_branch": {"message_id": "MESSAGE"},
    "chat": {"session_id": "SESSION", "message": "hi"},
    "chat_stream": {"session_id": "SESSION", "message": "hi"},
    "v1_create_completion": {"model": "fake-model", "messages": [{"role": "user", "content": "hi"}]},
    "issue_ticket": {"session_id": "SESSION"},
}
HEADERS = {"v1_create_completion": {"X-Session-Id": "SESSION"}}
QUERIES = {"read_file": "?session_id=SESSION"}
ALWAYS_GIVEN = frozenset({"issue_ticket"})  # a ticket of a session opens only what its key may read
NOT_BY_OWNER = frozenset(  # need a scope that reaches all owners
    {"add_hold", "release_hold", "erase_sessions", "forget_ticket"}
)


class Named(Struct, frozen=True):
    """Names to put in: of a session, a message in it, and a file."""

    session_id: str
    message_id: str
    sha256: str

    def put_into(self, text: str) -> str:
        return text.replace("SESSION", self.session_id).replace("MESSAGE", self.message_id).replace("FILE", self.sha256)


class NamedRequest(Struct, frozen=True):
    """One request, with SESSION, MESSAGE and FILE in the places of names."""

    operation: str
    method: str
    path: str
    body: Any = None

    def build(self, client: httpx.AsyncClient, named: Named, **headers: str) -> httpx.Request:
        all_headers = {name: named.put_into(value) for name, value in HEADERS.get(self.operation, {}).items()}
        path = named.put_into(self.path + QUERIES.get(self.operation, ""))
        body = _put_into(self.body, named)
        return client.build_request(self.method, path, json=body, headers=all_headers | headers)


def _put_into(body: Any, named: Named) -> Any:
    if isinstance(body, dict):
        return {name: _put_into(value, named) for name, value in body.items()}
    return named.put_into(body) if isinstance(body, str) else body


def named_requests() -> Iterator[NamedRequest]:
    """One for each operation that names something of an owner."""
    document = build_openapi_document(Settings(), "0", has_keys=True)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            name = operation["operationId"]
            is_named = "{session_id}" in path or "{sha256}" in path or "SESSION" in str(BODIES.get(name, ""))
            if name in NOT_BY_OWNER | ALWAYS_GIVEN or not (is_named or name in HEADERS):
                continue
            body = BODIES.get(name, {} if "requestBody" in operation else None)
            for parameter, word in (("session_id", "SESSION"), ("message_id", "MESSAGE"), ("sha256", "FILE")):
                path = path.replace(f"{{{parameter}}}", word)  # noqa: PLW2901
            assert not re.search(r"[{}]", path), f"{path}: what does this name?"
            yield NamedRequest(name, method.upper(), path, body)
