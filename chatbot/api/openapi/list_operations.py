"""The operations of lists of sessions: the lists, the stream of their changes, and read marks."""

from chatbot.api.openapi.schemas import SSE, Operation, QueryParameter, ResponseSpec
from chatbot.api.request_bodies import ReadBody
from chatbot.api.request_limits import (
    FILTERS_MAX,
    LIST_MAX,
    TITLE_FILTER_MAX_CHARS,
    TITLES_SCANNED_MAX,
)
from chatbot.api.response_bodies import SessionList, SessionView
from chatbot.api.streaming.change_frames import CHANGED_MAX, POSITION_PATTERN, ChangeFrame

_text, _page = {"type": "string"}, {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}
LIMIT = QueryParameter(
    "limit", "How many at most.", {"type": "integer", "minimum": 1, "maximum": LIST_MAX, "default": 100}
)
_filters = QueryParameter(
    "metadata",
    "Only sessions with these values in their metadata: metadata.user_id=example. Names and values are compared in"
    " Unicode's NFC form.",
    {
        "type": "object",
        "propertyNames": {"pattern": r"^metadata\."},
        "additionalProperties": _text,
        "maxProperties": FILTERS_MAX,
    },
    example={"metadata.user_id": "example"},
    members=True,
)
_listing = (
    LIMIT,
    QueryParameter("cursor", "The `next` of the page before, with the same `order`.", _page),
    QueryParameter(
        "order",
        "accessed: the latest access first, so a session that is used between two requests may be on no page; created:"
        " the newest first, an order that never changes.",
        {"type": "string", "enum": ["accessed", "created"], "default": "accessed"},
    ),
    QueryParameter("status", "Which sessions.", {"type": "string", "enum": ["active", "expired"], "default": "active"}),
    QueryParameter(
        "kind",
        "Conversations; or requests under /v1 that name none, or tasks of front ends, such as titles: each is a session"
        " of its own, which no other list shows.",
        {"type": "string", "enum": ["conversation", "stateless", "task"], "default": "conversation"},
    ),
    QueryParameter(
        "pinned",
        "Only pinned sessions, or only others.",
        {"type": "string", "enum": ["any", "true", "false"], "default": "any"},
    ),
    QueryParameter(
        "title",
        "Only sessions with these characters in their title, whatever their case and Unicode normalization. One request"
        f" compares {TITLES_SCANNED_MAX} titles at most: go on while there is a `next`.",
        {"type": "string", "maxLength": TITLE_FILTER_MAX_CHARS},
        example="여행",
    ),
    QueryParameter(
        "preview",
        "Whether each session has a `preview`.",
        {"type": "string", "enum": ["false", "true"], "default": "false"},
    ),
    _filters,
)
_after = QueryParameter(
    "after",
    "The `id` of the last frame that was read, or the `cursor` of a list of sessions; absent: from now.",
    {"type": "string", "pattern": f"^{POSITION_PATTERN}$"},
    example="128",
)
_CHANGES = f"""A stream of Server-Sent Events: what lists of active sessions show, as it changes. `ready` comes
first; then `session` is a session that is new or has changed, as it is now, and `gone` one that has expired or is
deleted. To keep a list, read it, follow its changes after the `cursor` of its first page, and put each `session` in its
place.

A session that changes often is sent at most about five times a second. The growing text of a reply is no change:
follow the session for that. Each frame's `id` is the cursor after it; any server can resume it, also after a restart.
`resync` says that the cursor is of another log, or that more than {CHANGED_MAX} sessions have changed: list them
again. After `draining` the stream ends: reconnect.
"""
_READ = """A session is `unread` when a reply has ended since a client posted to it or marked it as read, unless the
reply was cancelled. Marking it is no access: it does not postpone the expiry. With nothing unread up to `version`,
nothing is recorded. The request may be repeated.
"""

_WITHDRAW = """Only a message of a person whose reply is queued and has never started: it and its reply leave the
conversation, the model never sees it, and messages that were queued after it follow what it followed. A request that
waits for its reply gets the status `cancelled`. To change a queued message, remove it and post another.

The event that recorded the message stays on record until the session is erased. A queued reply that is cancelled
instead stays in the history with its message, as `cancelled`.
"""

WITHDRAW_MESSAGE = Operation(
    "DELETE",
    "/api/sessions/{session_id}/messages/{message_id}",
    "remove_queued_message",
    "Remove a queued message",
    {200: ResponseSpec("The session.", SessionView, headers=("ETag",))},
    details=_WITHDRAW,
    headers=("If-Match",),
    problems=(400, 404, 409, 412, 422, 503),
)
LIST_SESSIONS = Operation(
    "GET",
    "/api/sessions",
    "list_sessions",
    "List sessions, latest access first",
    {200: ResponseSpec("One page.", SessionList)},
    query=_listing,
    problems=(422, 503),
)
FOLLOW_CHANGES = Operation(
    "GET",
    "/api/sessions/changes",
    "follow_changes",
    "Follow what changes in lists of sessions",
    {200: ResponseSpec("One frame in each `data:` line.", ChangeFrame, media=(SSE,))},
    details=_CHANGES,
    query=(_after,),
    headers=("Last-Event-ID",),
    problems=(422, 503),
)
MARK_READ = Operation(
    "POST",
    "/api/sessions/{session_id}/read",
    "mark_read",
    "Mark a session's replies as read",
    {200: ResponseSpec("The session.", SessionView, headers=("ETag",))},
    details=_READ,
    body=ReadBody,
    body_optional=True,
    problems=(400, 408, 413, 415, 422, 404, 503),
)
