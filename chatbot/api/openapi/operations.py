"""Every operation of the API, in one table. document.py makes the OpenAPI document from it; a test compares it with the
routes.
"""

from chatbot.api.openapi.audit_operations import AUDIT, EXPORT
from chatbot.api.openapi.erasure_operations import ERASE_QUERY, ERASURES, READ_RECEIPT, REDACT
from chatbot.api.openapi.key_operations import KEY_OPERATIONS
from chatbot.api.openapi.list_operations import FOLLOW_CHANGES, LIMIT, LIST_SESSIONS, MARK_READ, WITHDRAW_MESSAGE
from chatbot.api.openapi.schemas import HTML, SSE, Operation, QueryParameter, ResponseSpec
from chatbot.api.openapi.ticket_operations import ISSUE_TICKET
from chatbot.api.openapi.ui_operations import UI
from chatbot.api.openapi.v1_operations import V1
from chatbot.api.openapi.v1_response_operations import V1_RESPONSES
from chatbot.api.openapi.witness_operations import WITNESS
from chatbot.api.request_bodies import (
    BranchBody,
    CancelBody,
    ChangeSessionBody,
    ChatBody,
    CreateSessionBody,
    ForkBody,
    RegenerateBody,
)
from chatbot.api.response_bodies import (
    AcceptedView,
    BranchView,
    CancelView,
    ChatView,
    ErasureView,
    HealthView,
    LivenessView,
    MessageList,
    ModelsView,
    ReadinessView,
    SessionView,
    UploadView,
    UsageView,
)
from chatbot.api.streaming import frames
from chatbot.api.streaming.frames import CURSOR_PATTERN
from chatbot.web.assets import CONTENT_TYPES
from events.record import VERSION_MAX

DOCS_FILES, REDOC_FILES = ("text/css", "text/javascript", "image/png"), ("text/javascript", "image/svg+xml")
ASSET_FILES = tuple(dict.fromkeys(CONTENT_TYPES.values()))
EXPOSITIONS = ("text/plain", "application/openmetrics-text")
BODY = (400, 408, 413, 415, 422)  # statuses of an invalid body
CHANGE = (400, 404, 412, 503)  # statuses of a refused change to a session
FILE = (400, 408, 413, 415, 422, 429)  # statuses of a refused file
FILE_BODY = ("application/octet-stream",)  # what generators of clients take for a file; any type may be sent
FILES = (*FILE_BODY, "image/png", "image/jpeg", "image/gif", "image/webp")
REPLY = (409, 429, 500, 502, 504)  # statuses of a refused or failed reply
STATUS_MEANINGS = {
    400: "The request cannot be read.",
    401: "The key is missing or unknown.",
    403: "The key may not do this.",
    404: "There is nothing here, or it belongs to another key.",
    408: "The body did not arrive in time.",
    409: "A reply is running, and `on_busy` is reject; or a legal hold covers the session.",
    412: "The session has changed since the version in If-Match.",
    413: "The body is larger than {body_max_bytes} bytes, or the file than {file_max_bytes}.",
    415: "The body is not application/json, or compressed; or the file is of a type that is not accepted.",
    416: "The range begins behind the end of the file.",
    422: "A value is not allowed (`errors` says which), or the Idempotency-Key was used with another request before.",
    429: "Too many messages wait for the running reply, the key has its share of a limit, the caller has too many"
    " unused uploads, or its address has sent too many wrong keys.",
    500: "A fault of the service.",
    502: "The model failed.",
    503: "The model, the log or the service is temporarily unavailable.",
    504: "The model was too slow.",
}
KEY = "Idempotency-Key"
REPEATED = ("If-Match", KEY, "Prefer", "Last-Event-ID")
ETAG = ("ETag",)
_SESSION = ResponseSpec("The session.", SessionView, headers=ETAG)
_UNCHANGED = ResponseSpec("It has not changed since the ETag in If-None-Match.", headers=ETAG)
_ERASING = ResponseSpec(
    "Deleted; its content is erased once forks have copied the texts that they refer to.", ErasureView
)
_IDLE = ResponseSpec("Nothing was running, or the named reply had ended: `status` says how.", CancelView)
_ACCEPTED = ResponseSpec(
    "With `Prefer: respond-async`: the request is on disk.", AcceptedView, headers=("Location", "Preference-Applied")
)
_UNHEALTHY = ResponseSpec("The database is not available.", HealthView, example_name="unhealthy")
_NOT_READY = ResponseSpec("Not ready.", ReadinessView, example_name="draining")
_text = {"type": "string"}
_day = {"type": "string", "format": "date"}
_at_least = QueryParameter(
    "at_least",
    "A version that the session must have reached, such as one that a write on any node returned; else 412.",
    {"type": "integer", "minimum": 0, "maximum": VERSION_MAX},
)
_paging = (
    LIMIT,
    QueryParameter("before", "Only messages before this one: the `next` of the page before.", _text),
    QueryParameter("branch", "The branch that ends with this message; absent: the selected one.", _text),
    _at_least,
)
_after = QueryParameter(
    "after",
    "The `id` of the last frame that was read, or the `cursor` or the `version` of the messages.",
    {"type": "string", "pattern": f"^{CURSOR_PATTERN}$"},
    example="4:0",
)
_usage = (
    QueryParameter("by", "What to group by.", {"type": "string", "enum": ["day", "owner", "model"], "default": "day"}),
    QueryParameter("from", "The first day, in UTC.", _day, example="2026-01-01"),
    QueryParameter("to", "The last day, in UTC.", _day, example="2026-01-31"),
)
_session_id = QueryParameter(
    "session_id", "The session in which a message refers to it.", {"type": "string", "format": "uuid"}
)
_STREAM = """The answer is a stream of Server-Sent Events: each frame is an `id:` line, the cursor
`<version>:<offset>`, and a `data:` line of JSON. `start` comes once the message is on disk and before the model
answers, `complete` once the reply is; a reply that ends otherwise ends with `error`. Lines that begin with a colon
keep the connection open. A client that leaves does not stop the reply. If the request is repeated with its
Idempotency-Key and a Last-Event-ID, only the frames after that one are sent.
"""


_DELETE = """204: its content is erased from all files. 202 only if forks refer to more than a few of its texts: these
are copied first, also after a restart. Until then a further DELETE answers 202, all other calls 404; then it answers
404. While a legal hold covers the session, it is refused with 409. `reason_code` and `ticket` are recorded and are in
the receipt, which GET /api/sessions/{session_id}/receipt gives afterwards, too.
"""
_CANCEL = """`reply_id` names the reply, so that a second click on Stop does not cancel the next one: if it has already
ended, nothing happens. If it is still queued, it is removed from the queue, and the others stay. Without `reply_id` the
running reply is cancelled, whichever that is.
"""
_MODELS = """If the model server lists its models, a request that names another one is refused with 422. If it does not
(`complete` is false), any name is passed on to it. `suggested_max_new_tokens` is half of the model's context where that
is known, at most chat.max_tokens_ceiling; without `max_new_tokens` a reply has at most chat.default_max_tokens.
"""
_FORK = """No text is copied: the new session refers to the texts where they are. When the session that they belong to
is deleted, they are copied first, so that the fork keeps its history.
"""
_UPLOAD = """The body is the file, as it is; its type is detected by its first bytes. The answer's `sha256` names it in
parts of messages. A file that no message refers to is deleted at `expires_at`; one that messages refer to is kept as
long as they are. The same file again has the same answer.
"""
_READ_FILE = """For the key that uploaded it, and for readers of a session with a message that refers to it;
`session_id` names the session, as `url` in the parts of a history does. To all others it is 404.
"""
_REGENERATE = """`message_id` names a reply or the message that it answers; absent, the newest reply of the selected
branch. The new reply becomes the selected branch. With `Accept: text/event-stream` it is streamed, as by
/api/chat/stream.
"""
_FEED = """A stream of Server-Sent Events, for EventSource, curl -N and fetch. With a cursor it sends exactly what
is missing after that, then what happens, without end; without one it begins with the session as it is now. Each frame's
`id` is the cursor after it. Resume an interrupted stream with the last `id`: no character comes twice, none is missing.
After `expired` and `deleted` comes `[DONE]`; after `draining` the stream ends: resume it at another server, or at the
same one after its restart. `resync` says that the cursor is no longer valid: read the messages again.

To show a session and follow it, read its messages, then follow it after their `cursor`.

While the service is temporarily unavailable an EventSource gets an empty stream with a `retry:` line, because browsers
stop reconnecting after a status other than 200.
"""


def _document(path: str, name: str, summary: str, answer: ResponseSpec, *problems: int) -> Operation:
    answers = {200: answer, 304: _UNCHANGED}
    return Operation("GET", path, name, summary, answers, headers=("If-None-Match",), problems=problems)


_session, _sessions = "/api/sessions/{session_id}", "/api/sessions"

OPERATIONS: dict[str, tuple[Operation, ...]] = {
    "Sessions": (
        Operation(
            "POST", _sessions, "create_session", "Create a session",
            {201: ResponseSpec("The new session.", SessionView, headers=("Location", *ETAG))},
            body=CreateSessionBody, body_optional=True, headers=(KEY,), problems=(*BODY, 404, 503),
        ),
        LIST_SESSIONS,
        FOLLOW_CHANGES,
        Operation(
            "GET", _session, "read_session", "Read a session",
            {200: _SESSION, 304: _UNCHANGED},
            query=(_at_least,), headers=("If-None-Match",), problems=(404, 412, 422, 503),
        ),
        Operation(
            "PATCH", _session, "change_session", "Change a session's title, metadata, settings or pin", {200: _SESSION},
            body=ChangeSessionBody, headers=("If-Match",), problems=(*BODY, 404, 412, 503),
        ),
        MARK_READ,
        Operation(
            "DELETE", _session, "delete_session", "Delete a session; its messages are erased from the disk",
            {204: ResponseSpec("Deleted."), 202: _ERASING}, details=_DELETE, query=ERASE_QUERY, headers=("If-Match",),
            problems=(*CHANGE, 409, 422),
        ),
        READ_RECEIPT,
        REDACT,
        Operation(
            "GET", f"{_session}/messages", "list_messages", "List the newest messages, in chronological order",
            {200: ResponseSpec("One page.", MessageList, headers=ETAG)}, query=_paging, problems=(404, 412, 422, 503),
        ),
        WITHDRAW_MESSAGE,
        Operation(
            "GET", f"{_session}/stream", "follow_session", "Follow a session, after a cursor",
            {200: ResponseSpec("One frame in each `data:` line.", frames.FeedFrame, media=(SSE,))},
            details=_FEED, query=(_after,), headers=("Last-Event-ID",), problems=(404, 422, 503),
        ),
        Operation(
            "POST", f"{_session}/cancel", "cancel_reply", "Cancel a reply; its text so far is kept",
            {202: ResponseSpec("It was running or queued.", CancelView, example_name="cancelled"), 200: _IDLE},
            details=_CANCEL, body=CancelBody, body_optional=True, headers=("If-Match", KEY),
            problems=(*BODY, 404, 412, 503),
        ),
        Operation(
            "POST", f"{_session}/branch", "select_branch", "Select a branch: the conversation continues at its end",
            {200: ResponseSpec("The selected branch.", BranchView, headers=ETAG)},
            body=BranchBody, headers=("If-Match", KEY), problems=(*BODY, 404, 412, 503),
        ),
        Operation(
            "POST", f"{_session}/fork", "fork_session", "A new session that begins with this one's history",
            {201: ResponseSpec("The new session.", SessionView, headers=("Location", *ETAG))},
            details=_FORK, body=ForkBody, body_optional=True, headers=("If-Match", KEY),
            problems=(*BODY, 404, 409, 412, 503),
        ),
        EXPORT,
    ),
    "Chat": (
        Operation(
            "POST", "/api/chat", "chat", "Post a message and wait for the whole reply",
            {200: ResponseSpec("The reply, complete or cancelled.", ChatView), 202: _ACCEPTED},
            body=ChatBody, headers=("If-Match", KEY, "Prefer"), problems=(*BODY, *REPLY, 404, 412, 503),
        ),
        Operation(
            "POST", "/api/chat/stream", "chat_stream", "Post a message and stream the reply",
            {
                200: ResponseSpec("One frame in each `data:` line; the last is `[DONE]`.", frames.Frame, media=(SSE,)),
                202: _ACCEPTED,
            },
            details=_STREAM, body=ChatBody, headers=REPEATED, problems=(*BODY, 404, 409, 412, 429, 503),
        ),
        Operation(
            "POST", f"{_session}/regenerate", "regenerate", "Another reply to a message; the old one stays, too",
            {
                200: ResponseSpec("The reply, complete or cancelled.", ChatView, stream_type=frames.Frame),
                202: _ACCEPTED,
            },
            details=_REGENERATE, body=RegenerateBody, body_optional=True, headers=REPEATED,
            problems=(*BODY, *REPLY, 404, 412, 503),
        ),
    ),
    "OpenAI": (*V1, *V1_RESPONSES),
    "User interfaces": UI,
    "Files": (
        Operation(
            "POST", "/api/media", "upload_file", "Upload a file that messages may refer to",
            {201: ResponseSpec("It is on disk.", UploadView, headers=("Location",))},
            details=_UPLOAD, body_media=FILE_BODY, problems=(*FILE, 503),
        ),
        Operation(
            "GET", "/api/media/{sha256}", "read_file", "Read a file, or one range of it",
            {
                200: ResponseSpec("The file, as its own type.", bytes, FILES, ETAG),
                206: ResponseSpec("The range in `Range`.", bytes, FILES, ("Content-Range", *ETAG)),
                304: _UNCHANGED,
            },
            details=_READ_FILE, query=(_session_id,), headers=("If-None-Match", "Range"), problems=(404, 416, 422, 503),
        ),
    ),
    "Tickets": (ISSUE_TICKET,),
    "Keys": KEY_OPERATIONS,
    "Operations": (
        Operation(
            "GET", "/api/health", "health", "The service's health, and its model server's",
            {200: ResponseSpec("Healthy or degraded.", HealthView, example_name="healthy"), 503: _UNHEALTHY},
        ),
        Operation(
            "GET", "/api/models", "list_models", "The models that a request may name",
            {200: ResponseSpec("As of the last health check of the model server.", ModelsView)},
            details=_MODELS, problems=(422,),
        ),
        Operation("GET", "/livez", "livez", "Whether the process is alive", {200: ResponseSpec("Yes.", LivenessView)}),
        Operation(
            "GET", "/readyz", "readyz", "Whether to send requests here",
            {200: ResponseSpec("Ready.", ReadinessView, example_name="ready"), 503: _NOT_READY},
        ),
        Operation("GET", "/metrics", "metrics", "Metrics for Prometheus",
            {200: ResponseSpec("Metrics.", str, EXPOSITIONS)}),
        Operation(
            "GET", "/api/usage", "usage", "Tokens and replies",
            {200: ResponseSpec("A row for each day, owner or model.", UsageView)}, query=_usage, problems=(422, 503),
        ),
    ),
    "Audit": AUDIT,
    "Erasure": ERASURES,
    "Witness": WITNESS,
    "Documents": (
        _document("/", "page", "The chat page", ResponseSpec("A page.", str, (HTML,), ETAG), 404),
        _document("/assets/{version}/{path}", "asset", "A file of the chat page",
            ResponseSpec("The file.", str, ASSET_FILES, ETAG), 404),
        _document("/openapi.json", "openapi", "This document", ResponseSpec("OpenAPI 3.1.", dict, headers=ETAG)),
        _document("/docs", "docs", "This document in Swagger UI", ResponseSpec("A page.", str, (HTML,), ETAG)),
        _document("/redoc", "redoc", "This document in ReDoc", ResponseSpec("A page.", str, (HTML,), ETAG)),
        _document("/problems", "problems", "All types of problems", ResponseSpec("A page.", str, (HTML,), ETAG)),
        _document(
            "/problems/{name}", "problem", "What a problem's `type` means",
            ResponseSpec("A page.", str, (HTML,), ETAG), 404
        ),
        _document("/docs/{file}", "docs_file", "A file of Swagger UI",
            ResponseSpec("The file.", str, DOCS_FILES, ETAG), 404),
        _document("/redoc/{file}", "redoc_file", "A file of ReDoc",
            ResponseSpec("The file.", str, REDOC_FILES, ETAG), 404),
    ),
}  # fmt: skip
