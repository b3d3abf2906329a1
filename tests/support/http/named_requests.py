"""Requests that name a session or file: one of each operation in the OpenAPI document, valid but for the name."""

import re
import uuid
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
    "v1_create_response": {
        "model": "fake-model",
        "input": "hi",
        "previous_response_id": "resp_SESSION_DIGITSREPLY_DIGITS",
    },
    "v1_count_input_tokens": {"input": "hi", "conversation": "SESSION"},
    "v1_update_conversation": {"metadata": {"topic": "names"}},
    "v1_add_items": {"items": [{"role": "user", "content": "hi"}]},
}
HEADERS = {"v1_create_completion": {"X-Session-Id": "SESSION"}}
QUERIES = {"read_file": "?session_id=SESSION"}
UNKNOWN_STATUS = {"resume_ui_chat": 204}  # of an unknown name; 404 where it is not listed
ALWAYS_GIVEN = frozenset({"issue_ticket"})  # a ticket of a session opens only what its key may read
NAMES = (  # of parameters of paths, and what stands in their places
    ("session_id", "SESSION"),
    ("chat_id", "SESSION"),
    ("message_id", "MESSAGE"),
    ("sha256", "FILE"),
    ("conversation_id", "conv_SESSION_DIGITS"),
    ("response_id", "resp_SESSION_DIGITSREPLY_DIGITS"),
    ("item_id", "msg_MESSAGE_DIGITS_0"),
)
NOT_BY_OWNER = frozenset(  # need a scope that reaches all owners
    {"add_hold", "release_hold", "erase_sessions", "forget_ticket"}
)


class Named(Struct, frozen=True):
    """Names to put in: of a session, a message in it, a file, and the reply to that message."""

    session_id: str
    message_id: str
    sha256: str
    reply_id: str = str(uuid.UUID(int=0))

    def put_into(self, text: str) -> str:
        for word, name in _digits(self):
            text = text.replace(word, name)
        return text.replace("SESSION", self.session_id).replace("MESSAGE", self.message_id).replace("FILE", self.sha256)


def _digits(named: Named) -> tuple[tuple[str, str], ...]:
    """What stands in ids of /v1."""
    ids = (("SESSION", named.session_id), ("MESSAGE", named.message_id), ("REPLY", named.reply_id))
    return tuple((f"{word}_DIGITS", id_.replace("-", "")) for word, id_ in ids)


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
            is_named = any(f"{{{one}}}" in path for one, _ in NAMES) or "SESSION" in str(BODIES.get(name, ""))
            if name in NOT_BY_OWNER | ALWAYS_GIVEN or not (is_named or name in HEADERS):
                continue
            body = BODIES.get(name, {} if "requestBody" in operation else None)
            named_path = path
            for parameter, word in NAMES:
                named_path = named_path.replace(f"{{{parameter}}}", word)
            assert not re.search(r"[{}]", named_path), f"{named_path}: what does this name?"
            yield NamedRequest(name, method.upper(), named_path, body)
