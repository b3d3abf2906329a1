"""The operations of audit and export; operations.py has all others."""

from chatbot.api.audit.event_queries import NAME_MAX_CHARS
from chatbot.api.audit_response_bodies import LogHeadView, TrailView, WalkView
from chatbot.api.openapi.schemas import NDJSON, Operation, QueryParameter, ResponseSpec
from chatbot.api.request_limits import (
    AFTER_MAX,
    FILTERS_MAX,
    LOG_DEFAULT,
    LOG_MAX,
    SCANNED_MAX,
    TRAIL_DEFAULT,
    TRAIL_MAX,
)
from chatbot.audit.conversation_rendering import ExportedConversation
from chatbot.audit.event_view import EventView

_session = "/api/sessions/{session_id}"
_number = {"type": "integer", "minimum": 0, "maximum": AFTER_MAX}
_name = {"type": "string", "minLength": 1, "maxLength": NAME_MAX_CHARS}
_filters = (
    QueryParameter("since", "Only events of this time or later: RFC 3339, or a day.", {"type": "string"}, "2026-01-01"),
    QueryParameter("until", "Only events of this time or earlier; a day ends with its last microsecond (UTC).",
                   {"type": "string"}, "2026-01-31"),
    QueryParameter("type", "Only events of these types.", {"type": "string"}, "session_deleted,message_posted"),
    QueryParameter("key", "Only events that this API key caused: the name in `actor`.", _name, "mina"),
    QueryParameter("request_id", "Only events of the request with this X-Request-ID.", _name, "0f3c9d51"),
)  # fmt: skip
_of_sessions = (
    QueryParameter("owner", "Only events of sessions that belong to this API key.", _name, "mina"),
    QueryParameter(
        "metadata", "Only events of sessions with these values in their metadata: metadata.user_id=42.",
        {
            "type": "object", "maxProperties": FILTERS_MAX, "propertyNames": {"pattern": r"^metadata\."},
            "additionalProperties": {"type": "string"},
        },
        example={"metadata.user_id": "42"}, members=True,
    ),
    QueryParameter(
        "ever", "Whether values count that a session had earlier.",
        {"type": "string", "enum": ["false", "true"], "default": "false"},
    ),
)  # fmt: skip
_FILTERED = f"""With a filter, one request looks at up to {SCANNED_MAX} events and may find none. Its last line is
`{{"next":...,"more":...}}`: continue after `next` while `more` is true. An erased session is found by its owner, not by
its metadata.
"""
_EVENT = """`data` is the very text that is stored, and so is `metadata`: with `salt` they give the `commitment`, and
with the `digest` of the event before it in the log its `digest`:

    commitment = SHA-256(salt || data)
    digest     = SHA-256(previous digest || position || version || schema_version || recorded_at
                         || session_id || type || metadata || commitment)

Integers are unsigned 64-bit big-endian, `recorded_at` as microseconds since 1970; texts are UTF-8 behind their length
as such an integer; the first digest follows 32 zero bytes. A salt has 16 bytes, a commitment and a digest 32: check
it, or bytes could be moved between salt and data. Hash `data` as it came, before a parser touches it: one that
writes it again may write it differently. `data` and `salt` are null once the content has been erased, which the chain
survives. An event of an older schema version is shown as it was recorded.
"""
_TRAIL = f"""For the session's owner and for auditors, also when the session has expired or was deleted. No access, and
nothing is appended. Continue after the `version` of the last event. A model server's own words about a failure are for
auditors only: for others the event has `withheld` true, and no `salt`. With a filter one request looks at up to
{SCANNED_MAX} events: continue after `next` while there is one, also where there are no events.

{_EVENT}"""
_LOG = f"""For auditors. One event in each line; continue after the `position` of the last one: the end is reached
when there is no line. With `Accept: text/event-stream` the answer follows the log without end and ignores `limit`. Each
frame's `id` is the position of its event; resume an interrupted stream with the last `id`: no event is missing or comes
twice. A stream is filtered by time, type, key and request_id only; a frame without data then only moves the `id`.
Before the service stops comes a last frame, `{{"type":"draining","position":...}}`. A position beyond
the end of the log is refused: the log has lost events, or it is another one.

{_FILTERED}
{_EVENT}"""
_WALK = """For auditors. The events after `from` up to `to` are checked against the chain, one by one. The digest stored
at `from` is trusted; compare it with one that you kept. The number of simultaneous verifications is limited: check a
long log in spans. The result is what the service says about itself; for a proof that does not trust the service, run
`chatbot verify` on a copy of the file.
"""
_EXPORT = """The selected branch, as it stands or, with `as_of`, as it stood. No access; nothing is appended. A reply
that was being written then has the text recorded by then; an `as_of` after the last event is now. In Markdown nothing
inside a text is escaped; the headings of messages end in a mark, named at the top, which is nowhere in a text.
"""

EXPORT = Operation(
    "GET", f"{_session}/export", "export_session", "Take a conversation away, as it stands or stood",
    {200: ResponseSpec("The conversation.", ExportedConversation, headers=("Content-Disposition",), markdown=True)},
    details=_EXPORT,
    query=(
        QueryParameter("format", "As what.", {"type": "string", "enum": ["json", "markdown"], "default": "json"}),
        QueryParameter(
            "as_of", "A version, a time as RFC 3339 has it, or a day (its end, in UTC); absent: now.",
            {"type": "string"}, example="2026-01-31T09:30:00Z",
        ),
        QueryParameter(
            "branch", "Which messages; all is for JSON.",
            {"type": "string", "enum": ["selected", "all"], "default": "selected"},
        ),
    ),
    problems=(404, 422, 503),
)  # fmt: skip

AUDIT = (
    Operation(
        "GET", f"{_session}/events", "read_trail", "Read a session's trail: its events, as they were recorded",
        {200: ResponseSpec("One page.", TrailView, line_type=EventView)}, details=_TRAIL,
        query=(
            QueryParameter("after", "Only events after this version: the `next` of the page before.", _number),
            QueryParameter(
                "limit", "How many at most.",
                {"type": "integer", "minimum": 1, "maximum": TRAIL_MAX, "default": TRAIL_DEFAULT},
            ),
            *_filters,
        ),
        problems=(404, 422, 503),
    ),
    Operation(
        "GET", "/api/events", "read_log", "Read or follow the whole log, in order",
        {200: ResponseSpec("One event in each line.", EventView, media=(NDJSON,), stream_type=EventView)}, details=_LOG,
        query=(
            QueryParameter("after", "Only events after this position.", _number),
            QueryParameter(
                "limit", "How many at most.",
                {"type": "integer", "minimum": 1, "maximum": LOG_MAX, "default": LOG_DEFAULT},
            ),
            *_filters, *_of_sessions,
        ),
        headers=("Last-Event-ID",), problems=(403, 422, 503),
    ),
    Operation(
        "GET", "/api/audit/head", "log_head", "The last event's position and digest: note them elsewhere",
        {200: ResponseSpec("The head.", LogHeadView)}, details="For auditors.\n", problems=(403, 503),
    ),
    Operation(
        "GET", "/api/audit/verify", "verify_log", "Walk along the chain: is every event as it was recorded?",
        {200: ResponseSpec("What the walk found.", WalkView)}, details=_WALK,
        query=(
            QueryParameter("from", "Begin after this position; 0: at the first event.", {**_number, "default": 0}),
            QueryParameter("to", "End with this position; absent: at the head.", _number),
        ),
        problems=(403, 422, 503),
    ),
)  # fmt: skip
