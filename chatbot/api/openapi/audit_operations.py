"""The operations of audit and export; operations.py has all others."""

from chatbot.api.audit.event_queries import NAME_MAX_CHARS
from chatbot.api.audit_response_bodies import LogHeadView, TrailView, WalkView
from chatbot.api.openapi.schemas import HTML, NDJSON, Operation, QueryParameter, ResponseSpec
from chatbot.api.request_limits import (
    AFTER_MAX,
    CHECKPOINT_MAX_CHARS,
    FILTERS_MAX,
    LOG_DEFAULT,
    LOG_MAX,
    SCANNED_MAX,
    TRAIL_DEFAULT,
    TRAIL_MAX,
)
from chatbot.audit.conversation_rendering import ExportedConversation
from chatbot.audit.event_view import EventView
from chatbot.audit.report.entries import ReportLine

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
_metadata = QueryParameter(
    "metadata", "Only of sessions with these values in their metadata: metadata.user_id=42.",
    {
        "type": "object", "maxProperties": FILTERS_MAX, "propertyNames": {"pattern": r"^metadata\."},
        "additionalProperties": {"type": "string"},
    },
    example={"metadata.user_id": "42"}, members=True,
)  # fmt: skip
_ever = QueryParameter(
    "ever", "Whether values count that a session had earlier.",
    {"type": "string", "enum": ["false", "true"], "default": "false"},
)  # fmt: skip
_of_sessions = (
    QueryParameter("owner", "Only events of sessions that belong to this API key.", _name, "mina"),
    _metadata, _ever,
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
_EXPORT = """For the session's owner, and for auditors also when the session has expired. The selected branch, as it
stands or, with `as_of`, as it stood. No access; nothing is appended. A reply that was being written then has the text
recorded by then; an `as_of` after the last event is now. In Markdown nothing inside a text is escaped; the headings of
messages end in a mark, named at the top, which is nowhere in a text.
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

_REPORT = """For auditors. What is recorded of some sessions, for the people whom they are about: messages of all
branches, who asked, which model answered and when, reasoning, tools, files, erasures with their receipts, legal holds.
Exactly one of `session_id`, `owner` and `metadata` selects the sessions. The page loads nothing and runs nothing; the
last line of the NDJSON form has the SHA-256 of all lines before it. With a `checkpoint` each session of up to 2,000
events comes with a proof, which `chatbot verify --proof` checks; longer ones are for `chatbot report`.
"""
_flag = {"type": "string", "enum": ["false", "true"], "default": "false"}
_report_query = (
    QueryParameter(
        "session_id", "These sessions, with commas between.", {"type": "string"},
        example="6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14",
    ),
    QueryParameter("owner", "All sessions that belong to this API key, also erased ones.", _name),
    _metadata, _ever,
    QueryParameter("format", "As what.", {"type": "string", "enum": ["html", "ndjson"], "default": "html"}),
    QueryParameter("requests", "Whether each reply has the request that the model was sent.", _flag),
    QueryParameter("images", "Whether the report has the images of messages, of up to 1 MiB each.", _flag),
    QueryParameter("checkpoint", "The text of a signed checkpoint, to prove the sessions against.",
                   {"type": "string", "maxLength": CHECKPOINT_MAX_CHARS}),
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
    Operation(
        "GET", "/api/audit/report", "report_sessions", "Report on sessions, for the people whom they are about",
        {
            200: ResponseSpec(
                "The report.", str, (HTML,), headers=("Content-Disposition",), line_type=ReportLine
            ),
        },
        details=_REPORT, query=_report_query, problems=(403, 404, 422, 503),
    ),
)  # fmt: skip
