"""JSON schemas of the types of requests and answers, with the limits of the settings.

Also the types that describe an operation of the API.
"""

from types import UnionType
from typing import Any

import msgspec
from msgspec import Struct

from chatbot.api.openapi.v1_notes import v1_notes
from chatbot.api.streaming.change_frames import POSITION_PATTERN
from chatbot.api.streaming.frames import CURSOR_PATTERN
from chatbot.config.settings import Settings

Schema = dict[str, Any]
Kind = type | UnionType

FORMATS = {
    "session_id": "uuid",
    "created_at": "date-time",
    "last_accessed": "date-time",
    "expires_at": "date-time",
    "timestamp": "date-time",
}

CURSOR = {"pattern": f"^{CURSOR_PATTERN}$"}
ON_BUSY = {
    "description": "While a reply is running: queue waits for it, reject answers 409, interrupt cancels it."
    " Absent: queue."
}
CALLS = (
    "Of a reply with tool calls: open until their results are posted (answered) or the conversation goes on without"
    " them (closed). null: there are none."
)
FINISH_DETAIL = "The model server's own word for the finish reason if it differs; else empty."
TIMES = {
    "duration_us": {
        "description": "Of a reply, in microseconds, from the request to the model server to its end. null: unknown."
    },
    "time_to_first_token_us": {
        "description": "Of a complete reply, in microseconds, from the request to the model server to its first token."
        " null: unknown."
    },
}


class FaultView(Struct, frozen=True):
    """One fault of a request. `path` points at it: $.message in the body, query.limit, header.If-Match."""

    path: str
    detail: str


class ProblemView(Struct, frozen=True, omit_defaults=True):
    """An error (RFC 9457). `type` is for programs, `detail` for people.

    A reply that did not complete adds `partial`, the text there was, and the ids under which it is kept. `size` is that
    of a file in bytes, where a range begins behind its end.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FaultView] = []
    allow: list[str] = []
    partial: str = ""
    message_id: str = ""
    user_message_id: str = ""
    version: int = 0
    size: int = 0


def make_schemas(kinds: set[Kind], settings: Settings) -> tuple[dict[Kind, Schema], dict[str, Schema]]:
    """A schema for each of `kinds`, and the named schemas that they refer to."""
    ordered = sorted(kinds, key=str)  # the same document at every start
    found, named = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    for schema in named.values():
        for name, field in schema["properties"].items():
            _complete(field)
            if name in FORMATS:
                field["format"] = FORMATS[name]
    for kind, fields in (_notes(settings) | v1_notes(settings)).items():
        for name, note in fields.items() if kind in named else ():
            named[kind]["properties"][name].update(note)
    return dict(zip(ordered, found, strict=True)), named


def _complete(field: Schema) -> None:
    """Make explicit what generators of clients would guess wrongly.

    A default makes a field required in the types of some of them, an object without `additionalProperties` an empty
    one, and an enumeration without `type` a value of any type. What may be null is a type of two names: pages then show
    its limits with it, not two alternatives. An enumeration with null among its types would have to list null, too.
    Of truth values, and of what is in an array of anything, some cannot make types at all.
    """
    field.pop("default", None)
    if field.get("enum") == [True]:
        del field["enum"]
        field["type"] = "boolean"
    if "enum" in field:
        field["type"] = "string"
    if field.get("type") == "array":
        field.setdefault("items", {})
    if field.get("type") == "object":
        field.setdefault("additionalProperties", True)
    for inner in (*field.get("anyOf", ()), field.get("items"), field.get("additionalProperties")):
        if isinstance(inner, dict):
            _complete(inner)
    match field.get("anyOf"):
        case [{"type": str(kind)} as typed, {"type": "null"}] if "enum" not in typed:
            del field["anyOf"]
            field.update(typed, type=[kind, "null"])


def _notes(settings: Settings) -> dict[str, dict[str, Schema]]:
    """What the types do not express: the meaning of fields, and their limits in the configured service."""
    sessions, chat = settings.sessions, settings.chat
    title = {"minLength": 1, "maxLength": sessions.title_max_chars}
    metadata = {"maxProperties": sessions.metadata_keys_max}
    sizes = f"Up to {sessions.metadata_max_bytes} bytes of JSON"
    return {
        "CreateSessionBody": {
            "metadata": {**metadata, "description": f"Yours; the model never sees it. {sizes}."},
            "title": title,
            "system_prompt": {
                "maxLength": chat.system_prompt_max_chars,
                "description": "Instructions to the model; empty: none. Absent: those of the configuration.",
            },
            "timeout_hours": {
                "description": "Hours after its last access at which the session expires; 0: never."
                f" Absent: {sessions.timeout_hours:g}.",
            },
            "model": {"description": "The model of the session's replies; absent: that of the configuration."},
            "parameters": {"description": "For the session's replies, where a request does not say."},
        },
        "ChangeSessionBody": {
            "metadata": {**metadata, "description": f"Merged into what is there; null removes a key. {sizes} in all."},
            "title": {**title, "description": "null removes the title."},
            "system_prompt": {
                "maxLength": chat.system_prompt_max_chars,
                "description": "Instructions to the model from the next reply on; null or empty: none.",
            },
            "model": {"description": "The model of the session's replies; null: that of the configuration."},
            "parameters": {"description": "Merged into what is there; null removes a parameter, or all of them."},
            "pinned": {"description": "For clients that show some sessions before the others."},
        },
        "ParametersBody": {"max_new_tokens": {"maximum": chat.max_tokens_ceiling}, **_option_notes(settings)},
        "CancelBody": {"reply_id": {"description": "A reply that runs or is queued. Absent: the running one."}},
        "CancelView": {
            "reply_id": {"description": "null: nothing was running."},
            "status": {"description": "How that reply has ended: cancelled, or as it had ended before."},
        },
        "ChatBody": _chat_notes(settings),
        "RegenerateBody": {
            "max_new_tokens": {"maximum": chat.max_tokens_ceiling},
            "on_busy": ON_BUSY,
            **_option_notes(settings),
            **_tool_notes(settings),
        },
        "AcceptedView": {"cursor": CURSOR},
        "SessionList": {
            "next": {"description": "The `cursor` of the next page; absent on the last."},
            "cursor": {
                "pattern": f"^{POSITION_PATTERN}$",
                "description": "Follow the changes after this: of the first page, if there are several.",
            },
        },
        "ReadBody": {"version": {"description": "The `version` of the messages that were shown. Absent: now."}},
        "SessionView": {
            "version": {"description": "Of the session, as in its ETag: it grows with every event."},
            "expires_at": {"description": "null: it never expires."},
            "active_reply": {"description": "The reply that is being written."},
            "model": {"description": "null: that of the configuration."},
            "queued_replies": {"description": "Queued replies, the next one first."},
            "unread": {"description": "Whether a reply has ended that no client has marked as read."},
            "preview": {"description": "null: no message has text. Absent: not asked for."},
        },
        "MessageList": {
            "cursor": {
                **CURSOR,
                "description": "Follow the session after this: nothing is missed, nothing comes twice.",
            },
            "next": {"description": "The `before` of the next page, further back; absent on the last."},
        },
        "MessageView": {
            "content": {"description": "The text of all parts of type text."},
            "parts": {"description": "All that the message says, in order: text, reasoning, refusals, calls, files."},
            "calls": {"description": CALLS},
            "siblings": {
                "description": "All messages with the same parent, this one included, in the order of their creation:"
                " one for each branch. At most the first 1,000."
            },
            "finish_detail": {"description": FINISH_DETAIL},
            **TIMES,
        },
        "ChatView": {
            "content": {"description": "The text of all parts of type text."},
            "calls": {"description": CALLS},
            "finish_detail": {"description": FINISH_DETAIL},
        },
        "UsageRow": {
            "reasoning_tokens": {"description": "Among the completion's; absent: 0."},
            "cached_tokens": {"description": "Among the prompt's; absent: 0."},
        },
        "UploadView": {"sha256": {"description": "Names the file in parts of messages."}},
        "ExportedMessage": {"finish_detail": {"description": FINISH_DETAIL}},
        "Complete": {"finish_detail": {"description": FINISH_DETAIL}, **TIMES},
    }


def _chat_notes(settings: Settings) -> dict[str, Schema]:
    chat = settings.chat
    return {
        "message": {
            "minLength": 1,
            "maxLength": chat.message_max_chars,
            "minItems": 1,
            "maxItems": chat.message_max_parts,
            "description": "A text that is not blank, or a list of parts.",
        },
        **_option_notes(settings),
        **_tool_notes(settings),
        "max_new_tokens": {
            "maximum": chat.max_tokens_ceiling,
            "description": f"Tokens of the reply at most. Absent: the session's, or {chat.default_max_tokens}.",
        },
        "temperature": {
            "description": "0 always takes the likeliest token. Absent: the session's, or"
            f" {chat.default_temperature:g}.",
        },
        "do_sample": {
            "description": "false means temperature 0. Absent: the session's, or"
            f" {str(chat.default_do_sample).lower()}.",
        },
        "stop": {"description": "Texts at which the reply ends."},
        "model": {"description": "Absent: the session's model, or that of the configuration."},
        "parent_id": {
            "description": "The message that this one follows; null: it starts the conversation again. "
            "Absent: the newest of the selected branch. Posting under an earlier one makes a branch and selects it.",
        },
        "on_busy": ON_BUSY,
    }


def _option_notes(settings: Settings) -> dict[str, Schema]:
    """Parameters that the model server gets as they are."""
    chat = settings.chat
    return {
        "parallel_tool_calls": {"description": "Whether a reply may have several tool calls."},
        "response_format": {
            "description": f"What the reply is to look like, up to {chat.response_format_max_bytes} bytes of JSON."
        },
        "reasoning_effort": {"description": "How long to think, in the model server's own words."},
        "extra_body": {
            "description": f"Further fields, up to {chat.extra_body_max_bytes} bytes of JSON:"
            f" {'any' if '*' in chat.extra_body_fields else ', '.join(chat.extra_body_fields) or 'none'}."
        },
        "send_reasoning": {"description": "Whether the model is shown its earlier reasoning again."},
    }


def _tool_notes(settings: Settings) -> dict[str, Schema]:
    chat = settings.chat
    return {
        "tools": {
            "maxItems": chat.tools_max,
            "description": "Functions that the model may call, as OpenAI has them; up to"
            f" {chat.tools_max_bytes} bytes of JSON. A message of results has those of the turn.",
        },
        "tool_choice": {"description": "none, auto, required, or a function, as OpenAI has it."},
    }


JSON, SSE, HTML = "application/json", "text/event-stream", "text/html"
NDJSON, MARKDOWN = "application/x-ndjson", "text/markdown"


class ResponseSpec(Struct, frozen=True):
    """`body` None: the answer has none. `example_name`: the only example that fits. If `media` is a stream of lines,
    `body` is the type of each line.

    `stream_type`: the frames for a client that accepts an event stream; `line_type`: the type of each line for one that
    accepts NDJSON; `markdown`: the answer is also available as Markdown.
    """

    summary: str
    body: Kind | None = None
    media: tuple[str, ...] = (JSON,)
    headers: tuple[str, ...] = ()
    example_name: str | None = None
    stream_type: Kind | None = None
    line_type: Kind | None = None
    markdown: bool = False

    @property
    def kinds(self) -> set[Kind]:
        """The types that need a schema."""
        return {kind for kind in (self.body, self.stream_type, self.line_type) if kind is not None}


class QueryParameter(Struct, frozen=True):
    """A parameter of the query string. `members`: one parameter for each member of an object."""

    name: str
    summary: str
    schema: dict[str, Any]
    example: Any = None
    members: bool = False


class Operation(Struct, frozen=True):
    """`headers` are the request's, `problems` the statuses of errors that a client should expect. `body_media`: the
    media types of a body that is no JSON, but a file. `v1`: errors have the form of OpenAI's API.
    """

    method: str
    path: str
    name: str
    summary: str
    answers: dict[int, ResponseSpec]
    details: str = ""
    body: type | None = None
    body_optional: bool = False
    body_media: tuple[str, ...] = ()
    query: tuple[QueryParameter, ...] = ()
    headers: tuple[str, ...] = ()
    problems: tuple[int, ...] = ()
    v1: bool = False
