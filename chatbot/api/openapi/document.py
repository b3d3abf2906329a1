"""The OpenAPI 3.1 document, made from the table of operations and the code's own types, with the limits in force."""

import re
from typing import Any

import msgspec

from chatbot.api.access.authorization import OTHER_ROUTES, ROUTE_SCOPES
from chatbot.api.access.ticket_scope import TICKET, TICKET_PATHS
from chatbot.api.middleware import PUBLIC_PATHS, PUBLIC_PREFIXES
from chatbot.api.openai_responses.item_views import Item
from chatbot.api.openapi.examples import (
    EXAMPLES,
    FILE_SHA256,
    QUESTION,
    SESSION,
    changes_transcript,
    feed_transcript,
    problems,
    transcript,
)
from chatbot.api.openapi.operations import OPERATIONS, STATUS_MEANINGS
from chatbot.api.openapi.schemas import (
    JSON,
    MARKDOWN,
    NDJSON,
    SSE,
    Kind,
    Operation,
    ProblemView,
    QueryParameter,
    ResponseSpec,
    Schema,
    make_schemas,
)
from chatbot.api.openapi.v1_examples import completion_transcript
from chatbot.api.openapi.v1_response_operations import V1_PARAMETERS
from chatbot.api.problem_types import PROBLEM_TYPES
from chatbot.api.problems import RETRY_AFTER_S
from chatbot.api.request_limits import IF_MATCH_TAGS_MAX
from chatbot.api.streaming import frames
from chatbot.api.streaming.change_frames import ChangeFrame
from chatbot.api.streaming.frames import CURSOR_PATTERN
from chatbot.api.v1.conversation_names import NAME_MAX_CHARS
from chatbot.api.v1.error_form import ErrorView
from chatbot.audit.report.entries import ReportLine
from chatbot.config.settings import Settings
from chatbot.keys.key_state import NAME_PATTERN
from chatbot.web.assets import VERSION_CHARS

PROBLEM = "application/problem+json"
FILE: Schema = {"schema": {"type": "string", "format": "binary"}}
RETRIED = (429, 503)  # answers with Retry-After, see problems.py
LINES = {  # media types that a client reads line by line
    SSE: "Server-Sent Events. The text behind `data: ` is a `{name}` as JSON, or `[DONE]`.",
    NDJSON: "One `{name}` as JSON in each line.",
}
UNIONS: dict[str, Kind] = {
    "Frame": frames.Frame,
    "FeedFrame": frames.FeedFrame,
    "ChangeFrame": ChangeFrame,
    "ReportLine": ReportLine,
    "ConversationItem": Item,
}
INTRODUCTION = """Sessions, their messages, and replies from a language model, complete or as a stream.

Times are RFC 3339 in UTC. Unknown fields and unknown query parameters are refused. Every error is
a problem (RFC 9457, `application/problem+json`) with a `detail` for people. Every answer carries `X-Request-ID`: quote
it to the operator.
"""
_TAG = r'(W/)?"[!#-~]*"'
IF_MATCH = rf"^(\*|{_TAG}(, ?{_TAG}){{0,{IF_MATCH_TAGS_MAX - 1}}})$"
IDEMPOTENCY_KEY = r'^("[!#-~]{1,255}"|[!#-~]{1,255})$'
_HEADERS: dict[str, Schema] = {
    "X-Request-ID": {"description": "The request's id, as the logs have it.", "schema": {"type": "string"}},
    "ETag": {"description": "The version of the answer.", "schema": {"type": "string"}, "example": '"4"'},
    "Location": {
        "description": "Where the new session or file is; of an accepted request, where to follow its reply.",
        "schema": {"type": "string", "format": "uri-reference"},
        "example": f"/api/sessions/{SESSION}",
    },
    "X-Session-Id": {"description": "The session that has the reply.", "schema": {"type": "string", "format": "uuid"}},
    "Content-Location": {
        "description": "Where to follow the session from the beginning of the reply.",
        "schema": {"type": "string", "format": "uri-reference"},
        "example": f"/api/sessions/{SESSION}/stream?after=2",
    },
    "Preference-Applied": {
        "description": "The preference that was honoured.",
        "schema": {"type": "string"},
        "example": "respond-async",
    },
    "Content-Range": {
        "description": "Which bytes of how many.",
        "schema": {"type": "string"},
        "example": "bytes 0-1023/10485760",
    },
    "Content-Disposition": {"description": "A name for the file.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer"},
        "example": RETRY_AFTER_S,
    },
    "X-Ignored-Fields": {
        "description": "Fields of the request that the model did not get, because its server takes none.",
        "schema": {"type": "string"},
        "example": "tools",
    },
    "X-Should-Retry": {
        "description": "Whether a repetition may help, where the status alone does not tell.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "WWW-Authenticate": {"description": "How to send a key.", "schema": {"type": "string"}, "example": "Bearer"},
}
_PARAMETERS: dict[str, Schema] = {
    "session_id": {"in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}, "example": SESSION},
    **V1_PARAMETERS,
    "origin_hash": {
        "in": "path",
        "required": True,
        "description": "SHA-256 of the log's name.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "example": "0" * 64,
    },
    "sha256": {
        "in": "path",
        "required": True,
        "description": "Of the file's bytes, in lower-case hexadecimal digits.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "example": FILE_SHA256,
    },
    "model": {
        "in": "path",
        "required": True,
        "description": "The model's name, which may have slashes.",
        "schema": {"type": "string"},
    },
    "message_id": {"in": "path", "required": True, "schema": {"type": "string", "maxLength": 64}, "example": QUESTION},
    "chat_id": {
        "in": "path",
        "required": True,
        "description": "The name that the client gave to the chat, or a session's id.",
        "schema": {"type": "string", "minLength": 1, "maxLength": NAME_MAX_CHARS},
        "example": "my-chat",
    },
    "hold_id": {"in": "path", "required": True, "schema": {"type": "string", "maxLength": 64}},
    "key_name": {
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": f"^{NAME_PATTERN}$"},
        "example": "app",
    },
    "name": {"in": "path", "required": True, "schema": {"type": "string", "enum": list(PROBLEM_TYPES)}},
    "file": {"in": "path", "required": True, "schema": {"type": "string"}},
    "version": {
        "in": "path",
        "required": True,
        "description": "Of the page's files. Those of another version are not to be kept.",
        "schema": {"type": "string", "pattern": f"^[0-9a-f]{{{VERSION_CHARS}}}$"},
    },
    "path": {
        "in": "path",
        "required": True,
        "description": "May contain slashes.",
        "schema": {"type": "string"},
        "example": "page/app.js",
    },
    "If-Match": {
        "in": "header",
        "description": "An ETag, or several separated by commas: refuse with 412 if the session has changed. A weak "
        "tag and one that a proxy has marked as compressed mean the same version.",
        "schema": {"type": "string", "pattern": IF_MATCH},
        "example": '"4"',
    },
    "Idempotency-Key": {
        "in": "header",
        "description": "1 to 255 visible ASCII characters that nobody else uses, such as a UUID: the same request with "
        "the same key takes effect once, and is answered as it was the first time, after a restart, too.",
        "schema": {"type": "string", "pattern": IDEMPOTENCY_KEY},
        "example": "7c2e5b1a-0f4d-4f0e-9d57-4b1f6a3c8e20",
    },
    "If-None-Match": {
        "in": "header",
        "description": "An ETag, or several separated by commas: answer 304 if nothing has changed.",
        "schema": {"type": "string"},
    },
    "Last-Event-ID": {
        "in": "header",
        "description": "The id of the last frame that was read, as browsers send it; it overrides `after`. In a POST "
        "it counts only with an Idempotency-Key.",
        "schema": {"type": "string", "pattern": f"^({CURSOR_PATTERN})?$"},
        "example": "4:0",
    },
    "Prefer": {
        "in": "header",
        "description": "`respond-async` (RFC 7240): answer 202 as soon as the request is on disk.",
        "schema": {"type": "string"},
        "example": "respond-async",
    },
    "Range": {
        "in": "header",
        "description": "One range of bytes (RFC 9110, 14); several are answered with the whole file.",
        "schema": {"type": "string"},
        "example": "bytes=0-1023",
    },
    "X-Session-Id": {
        "in": "header",
        "description": "Names the conversation: a name of yours, or the id of a session. Without a name the request is"
        " a session of its own.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "example": "a-name-of-yours",
    },
    "X-OpenWebUI-User-Id": {
        "in": "header",
        "description": "The end user, from a key that auth.front_ends names; else ignored.",
        "schema": {"type": "string"},
        "example": "example",
    },
    "X-Request-ID": {
        "in": "header",
        "description": "The request's id, if you have one: up to 64 letters, digits and `.`, `_`, `:`, `-`. Any other "
        "is ignored, and a new id is made.",
        "schema": {"type": "string"},
    },
}
_TRANSCRIPTS = {
    "chat_stream": transcript,
    "follow_session": feed_transcript,
    "follow_changes": changes_transcript,
    "v1_create_completion": completion_transcript,
}
_KEYS: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
_TICKET: dict[str, Schema] = {
    "ticket": {
        "type": "apiKey",
        "in": "query",
        "name": TICKET,
        "description": "From /api/tickets, where no header can be sent.",
    }
}


def build_openapi_document(
    settings: Settings, version: str, prefix: str = "", *, has_keys: bool | None = None
) -> dict[str, Any]:
    """The document of this service as it is configured, under the path `prefix`. It contains no secrets."""
    operations = [(tag, operation) for tag, listed in OPERATIONS.items() for operation in listed]
    kinds: set[Kind] = {
        kind for _, operation in operations for answer in operation.answers.values() for kind in answer.kinds
    } - {bytes}
    kinds |= {ProblemView, ErrorView} | {operation.body for _, operation in operations if operation.body}
    schemas, named = make_schemas(kinds, settings)
    for name, union in UNIONS.items():
        examples = [msgspec.json.decode(msgspec.json.encode(one)) for one in EXAMPLES[union].values()]
        named[name], schemas[union] = {**schemas[union], "examples": examples}, _ref("schemas", name)
    components: dict[str, Any] = {
        "schemas": named,
        "responses": _problem_responses(settings, schemas[ProblemView]) | {"Error": _error_response(schemas)},
        "headers": _HEADERS,
        "parameters": {name: {"name": name, **one} for name, one in _PARAMETERS.items()},
    }
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Chat backend",
            "version": version,
            "description": INTRODUCTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": prefix or "."}],  # relative to this document, wherever a proxy publishes it
        "tags": [{"name": tag} for tag in OPERATIONS],
        "paths": {},
        "components": components,
    }
    has_keys = bool(settings.auth.keys) if has_keys is None else has_keys
    if has_keys:
        components["securitySchemes"] = _KEYS | _TICKET
        document["security"] = [{name: []} for name in _KEYS]
    for tag, operation in operations:
        described = _describe(operation, schemas, has_keys=has_keys)
        described["externalDocs"] = {"description": "Call it in Swagger UI", "url": f"docs#/{tag}/{operation.name}"}
        document["paths"].setdefault(operation.path, {})[operation.method.lower()] = {"tags": [tag], **described}
    return document


def _describe(operation: Operation, schemas: dict[Kind, Schema], *, has_keys: bool) -> Schema:
    is_open = operation.path in PUBLIC_PATHS or operation.path.startswith(PUBLIC_PREFIXES)
    takes_ticket = has_keys and operation.method == "GET" and operation.path in TICKET_PATHS
    statuses = {*operation.problems, 401, 403, 429} if has_keys and not is_open else set(operation.problems)
    answers = {str(status): _answer(answer, schemas) for status, answer in operation.answers.items()}
    answers |= {
        str(status): _ref("responses", "Error" if operation.v1 else f"Problem{status}") for status in sorted(statuses)
    }
    named = [*re.findall(r"{(\w+)}", operation.path), *operation.headers, "X-Request-ID"]
    described: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*(_ref("parameters", name) for name in named), *map(_query, operation.query)],
        "responses": {**answers, "default": _ref("responses", "Error" if operation.v1 else "Problem")},
    }
    if operation.name in _TRANSCRIPTS:
        described["description"] = f"{operation.details}\n```\n{_TRANSCRIPTS[operation.name]()}```\n"
    elif operation.details:
        described["description"] = operation.details
    if operation.body:
        content = {JSON: _media(operation.body, schemas)}
        described["requestBody"] = {"required": not operation.body_optional, "content": content}
    if operation.body_media:
        described["requestBody"] = {"required": True, "content": dict.fromkeys(operation.body_media, FILE)}
    if has_keys:
        schemes = (*_KEYS, *_TICKET) if takes_ticket else tuple(_KEYS)
        scopes = () if is_open else sorted(ROUTE_SCOPES.get((operation.method, operation.path), OTHER_ROUTES))
        described["security"] = [{name: [scope]} for scope in scopes for name in schemes]  # one of them is enough
    return described


def _answer(answer: ResponseSpec, schemas: dict[Kind, Schema]) -> Schema:
    names = (*answer.headers, "X-Request-ID")
    described: Schema = {"description": answer.summary, "headers": {name: _ref("headers", name) for name in names}}
    if answer.body:
        described["content"] = {
            media: _content(media, answer.body, schemas, answer.example_name) for media in answer.media
        }
    if answer.stream_type:
        described["content"][SSE] = _content(SSE, answer.stream_type, schemas)
    if answer.line_type:
        described["content"][NDJSON] = _content(NDJSON, answer.line_type, schemas)
    if answer.markdown:
        described["content"][MARKDOWN] = {"schema": {"type": "string"}}
    return described


def _content(media: str, kind: Kind, schemas: dict[Kind, Schema], example_name: str | None = None) -> Schema:
    """The content of one media type. A stream is text, and its lines, which clients read one by one, have a schema."""
    if kind is bytes:
        return FILE
    if media not in LINES:
        return _media(kind, schemas, example_name)
    name = schemas[kind]["$ref"].rpartition("/")[2]
    return {"schema": {"type": "string", "description": LINES[media].format(name=name)}}


def _media(kind: Kind, schemas: dict[Kind, Schema], example_name: str | None = None) -> Schema:
    known = EXAMPLES.get(kind, {})
    names = [example_name] if example_name else list(known)
    found = {name: {"value": msgspec.to_builtins(known[name])} for name in names}
    return {"schema": schemas[kind], **({"examples": found} if found else {})}


def _query(query: QueryParameter) -> Schema:
    described: Schema = {"name": query.name, "in": "query", "description": query.summary, "schema": query.schema}
    if query.members:
        described |= {"style": "form", "explode": True}
    if query.example is not None:
        described["example"] = query.example
    return described


def _problem_responses(settings: Settings, schema: Schema) -> dict[str, Schema]:
    """A response for each status, with an example of each type of problem that has it; and one for all others."""
    responses = {"Problem": _problem_response(None, "Any other error.", schema)}
    for status, reason in STATUS_MEANINGS.items():
        summary = reason.format(body_max_bytes=settings.server.body_max_bytes, file_max_bytes=settings.media.max_bytes)
        responses[f"Problem{status}"] = _problem_response(status, summary, schema)
    for problem in problems():
        content = responses[f"Problem{problem.status}"]["content"][PROBLEM]
        kind = problem.type.rpartition("/")[2]
        content.setdefault("examples", {})[kind] = {"value": msgspec.to_builtins(problem)}
    return responses


def _problem_response(status: int | None, summary: str, schema: Schema) -> Schema:
    names = ["X-Request-ID"]
    if status in RETRIED:
        names.append("Retry-After")
    if status == 401:
        names.append("WWW-Authenticate")
    headers = {name: _ref("headers", name) for name in names}
    return {"description": summary, "headers": headers, "content": {PROBLEM: {"schema": schema}}}


def _error_response(schemas: dict[Kind, Schema]) -> Schema:
    headers = {name: _ref("headers", name) for name in ("X-Request-ID", "Retry-After", "X-Should-Retry")}
    return {
        "description": "Any error under /v1, in the form of OpenAI's API.",
        "headers": headers,
        "content": {JSON: _media(ErrorView, schemas)},
    }


def _ref(section: str, name: str) -> Schema:
    return {"$ref": f"#/components/{section}/{name}"}
