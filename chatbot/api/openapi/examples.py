"""Examples for the OpenAPI document: values of the actual types, so that they cannot become outdated unnoticed."""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from chatbot.api.openapi import audit_examples, erasure_operations, ui_operations, v1_examples, v1_response_examples
from chatbot.api.openapi.key_operations import KEY_EXAMPLES
from chatbot.api.openapi.schemas import FaultView, Kind, ProblemView
from chatbot.api.problems import CAUSES, STATUSES
from chatbot.api.request_bodies import (
    BranchBody,
    CancelBody,
    ChangeSessionBody,
    ChatBody,
    CreateSessionBody,
    ForkBody,
    ReadBody,
    RegenerateBody,
    TicketBody,
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
    MessageView,
    ModelsView,
    ModelView,
    ParametersView,
    PreviewView,
    ReadinessView,
    SessionList,
    SessionView,
    TicketView,
    UploadView,
    UsageRow,
    UsageView,
)
from chatbot.api.streaming import frames
from chatbot.api.streaming.change_frames import (
    ChangeFrame,
    ChangesDraining,
    ChangesReady,
    ChangesResync,
    SessionChanged,
    SessionGone,
)
from chatbot.api.streaming.response_stream import DONE, encode_event, encode_frame
from chatbot.sessions.domain.rejections import SessionNotFound
from events.catalogue import Usage
from events.schema.parts import Text

SESSION = "6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14"
QUESTION = "0b7f3f5e-8d5c-4d0c-b0c5-3f1d5a7e9c21"
REPLY = "c4a1e2d7-2f60-4c58-8b0e-7e9d6b5a4f33"
FILE_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
TICKET = "AgAGSau_bYVIb55MClHTS46aWQ08f2orFEEK4hn5XO31BfaMj3HRlIz6626lFZKikRUSvOZ4LqV1"
ASKED_AT, REPLIED_AT = "2026-01-31T09:30:00.125000Z", "2026-01-31T09:30:00.480000Z"
SAID, ANSWERED = "안녕하세요!", "안녕하세요! 무엇을 도와드릴까요?"
THOUGHT, REFUSED, ARGUMENTS = "A greeting, in Korean.", "I cannot help with that.", '{"city": "Seoul"}'
USAGE = Usage(prompt_tokens=12, completion_tokens=34, total_tokens=46)

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

_session = SessionView(
    session_id=SESSION,
    created_at="2026-01-31T09:29:58.000000Z",
    last_accessed=REPLIED_AT,
    expires_at="2026-02-01T09:30:00.480000Z",
    metadata={"user_id": "example"},
    title=None,
    version=4,
    message_count=2,
    status="active",
    active_reply=None,
    queued_replies=[],
    system_prompt="Answer briefly.",
    model=None,
    parameters=ParametersView(temperature=0.2),
    pinned=False,
    unread=True,
)
_listed = replace(_session, preview=PreviewView(REPLY, "assistant", ANSWERED))
_change_frames: dict[str, ChangeFrame] = {
    "ready": ChangesReady(),
    "session": SessionChanged(_listed),
    "gone": SessionGone(SESSION, "expired"),
    "resync": ChangesResync(),
    "draining": ChangesDraining(),
}
_question = MessageView(
    message_id=QUESTION,
    session_id=SESSION,
    role="user",
    content=SAID,
    created_at=ASKED_AT,
    token_usage=None,
    parent_id=None,
    status="complete",
    finish_reason=None,
    finish_detail="",
    model=None,
    siblings=[QUESTION],
    parts=[Text(SAID)],
    calls=None,
    duration_us=None,
    time_to_first_token_us=None,
)
_answer = MessageView(
    message_id=REPLY,
    session_id=SESSION,
    role="assistant",
    content=ANSWERED,
    created_at=REPLIED_AT,
    token_usage=USAGE,
    parent_id=QUESTION,
    status="complete",
    finish_reason="stop",
    finish_detail="",
    model="midm",
    siblings=[REPLY],
    parts=[Text(ANSWERED)],
    calls=None,
    duration_us=1_840_000,
    time_to_first_token_us=210_000,
)
_chat = ChatView(
    message_id=REPLY,
    role="assistant",
    content=ANSWERED,
    created_at=REPLIED_AT,
    token_usage=USAGE,
    session_id=SESSION,
    user_message_id=QUESTION,
    finish_reason="stop",
    finish_detail="",
    model="midm",
    status="complete",
    version=4,
    parts=[Text(ANSWERED)],
    calls=None,
)
_start = frames.Start(SESSION, REPLY, QUESTION, 3, "midm")
_complete = frames.Complete(REPLY, ANSWERED, "stop", USAGE, REPLIED_AT, 4, "", 1_840_000, 210_000)
_error = frames.Error("failed", "LLM server too slow", "no token for 60 s", "no token for 60 s", REPLY, 4, 0)
_frames: dict[str, frames.Frame] = {
    "start": _start,
    "chunk": frames.Chunk(ANSWERED),
    "reasoning": frames.ReasoningChunk(THOUGHT, 0),
    "refusal": frames.RefusalChunk(REFUSED, 1),
    "tool_call": frames.ToolCallChunk("call_1", "weather", ARGUMENTS, 1),
    "complete": _complete,
    "error": _error,
}
_feed_frames: dict[str, frames.FeedFrame] = {
    "session": frames.Session(SESSION, None, {"user_id": "example"}, 1),
    "message": frames.Message(QUESTION, None, "user", SAID, ASKED_AT, REPLY, 2),
    "queued": frames.Queued(SESSION, REPLY, QUESTION, 3),
    "start": _start,
    "chunk": frames.FeedChunk(ANSWERED, REPLY),
    "reasoning": frames.ReasoningChunk(THOUGHT, 0, REPLY),
    "refusal": frames.RefusalChunk(REFUSED, 1, REPLY),
    "tool_call": frames.ToolCallChunk("call_1", "weather", ARGUMENTS, 1, REPLY),
    "calls_closed": frames.CallsClosed(REPLY, ["call_1"], "superseded", 5),
    "complete": _complete,
    "error": _error,
    "branch": frames.Branch(REPLY, 5),
    "removed": frames.Removed(QUESTION, REPLY, None, 6),
    "redacted": frames.Redaction(QUESTION, None, "subject-request", 7),
    "expired": frames.Expired(6),
    "deleted": frames.Deleted(6),
    "resync": frames.Resync(4),
    "draining": frames.Draining(4),
}
_healthy = HealthView("healthy", REPLIED_AT, True, True, "0.1.0", "midm")
_unhealthy = HealthView("unhealthy", REPLIED_AT, True, False, "0.1.0", "midm")

# by the type that they are examples of; requests as a client writes them, without what it leaves out
EXAMPLES: dict[Kind, dict[str, Any]] = {
    CreateSessionBody: {
        "nothing": {},
        "metadata": {"metadata": {"user_id": "example"}},
        "everything": {
            "metadata": {},
            "title": "여행 계획",
            "system_prompt": "Answer briefly.",
            "timeout_hours": 0.5,
            "model": "midm",
            "parameters": {"temperature": 0.2, "max_new_tokens": 512},
        },
    },
    ChangeSessionBody: {
        "pin": {"pinned": True},
        "title": {"title": "여행 계획"},
        "metadata": {"metadata": {"user_id": None, "team": "example"}},
        "settings": {"system_prompt": None, "model": "midm", "parameters": {"temperature": None, "top_p": 0.9}},
    },
    ChatBody: {
        "hello": {"session_id": SESSION, "message": SAID},
        "parameters": {
            "session_id": SESSION,
            "message": SAID,
            "max_new_tokens": 256,
            "temperature": 0.7,
            "do_sample": True,
        },
        "branch": {"session_id": SESSION, "message": "Hello!", "parent_id": None, "on_busy": "interrupt"},
        "image": {
            "session_id": SESSION,
            "message": [{"type": "text", "text": "What is this?"}, {"type": "media", "sha256": FILE_SHA256}],
        },
        "results": {
            "session_id": SESSION,
            "role": "tool",
            "message": [{"type": "tool_result", "call_id": "call_1", "content": "21 °C"}],
            "parent_id": REPLY,
        },
        "tools": {"session_id": SESSION, "message": "How warm is it in Seoul?", "tools": [WEATHER]},
    },
    RegenerateBody: {"newest": {}, "hotter": {"message_id": REPLY, "temperature": 1.2}},
    CancelBody: {"running": {}, "named": {"reply_id": REPLY}},
    BranchBody: {"reply": {"message_id": REPLY}},
    ForkBody: {"now": {}, "earlier": {"message_id": QUESTION}},
    BranchView: {"selected": BranchView(SESSION, REPLY, 5)},
    SessionView: {"session": _session},
    SessionList: {
        "page": SessionList([_session], "128", next="MTc2OTg1MTgwMDQ4MDAwMDo3"),
        "previews": SessionList([_listed], "128"),
    },
    ReadBody: {"now": {}, "shown": {"version": 4}},
    ChangeFrame: _change_frames,
    **KEY_EXAMPLES,
    TicketBody: {"all": {}, "session": {"session_id": SESSION}},
    TicketView: {"ticket": TicketView(TICKET, "2026-01-31T09:31:00.125000Z"), "no-keys": TicketView(None, None)},
    MessageList: {"messages": MessageList(SESSION, [_question, _answer], 2, 4, "4:0")},
    ChatView: {"reply": _chat},
    AcceptedView: {"accepted": AcceptedView(SESSION, REPLY, QUESTION, 2, "2")},
    UploadView: {"image": UploadView(FILE_SHA256, "image/png", 10_485_760, "2026-02-01T09:30:00.000000Z")},
    ErasureView: {"erasing": ErasureView(SESSION, "erasing", "2026-01-31T12:00:00.000000Z")},
    CancelView: {
        "cancelled": CancelView(REPLY, "cancelled"),
        "had-ended": CancelView(REPLY, "complete"),
        "nothing-running": CancelView(None),
        "calls-closed": CancelView(REPLY, "complete", ["call_1"]),
    },
    frames.Frame: _frames,
    frames.FeedFrame: _feed_frames,
    HealthView: {"healthy": _healthy, "unhealthy": _unhealthy},
    ModelsView: {"one": ModelsView([ModelView("midm", default=True, suggested_max_new_tokens=2048)], complete=True)},
    LivenessView: {"alive": LivenessView("alive")},
    ReadinessView: {
        "ready": ReadinessView("ready"),
        "draining": ReadinessView("draining", "the service is shutting down"),
    },
    **audit_examples.EXAMPLES,
    **erasure_operations.EXAMPLES,
    **ui_operations.EXAMPLES,
    **v1_examples.EXAMPLES,
    **v1_response_examples.EXAMPLES,
    UsageView: {"by-day": UsageView("day", [UsageRow(3, 36, 102, 138, day="2026-01-31")])},
}


def transcript() -> str:
    """A reply as it is streamed, byte for byte."""
    sent = [(_frames["start"], 3, 0), (_frames["chunk"], 3, len(ANSWERED)), (_frames["complete"], 4, 0)]
    pieces = [*(encode_frame(*one) for one in sent), DONE]
    return b"".join(pieces).decode()


def feed_transcript() -> str:
    """A session's feed that was taken up after its creation, and left."""
    feed = _feed_frames
    sent = [(feed["message"], 2, 0), (feed["start"], 3, 0), (feed["chunk"], 3, len(ANSWERED)), (feed["complete"], 4, 0)]
    pieces = [encode_frame(*one, retry_ms=None if number else 1000) for number, one in enumerate(sent)]
    return b"".join(pieces).decode()


def changes_transcript() -> str:
    """What changed in a list after it was read."""
    sent = [(128, "ready", 1000), (129, "session", None), (131, "gone", None)]
    pieces = [
        encode_event(b"%d" % at, msgspec.json.encode(_change_frames[name]), retry_ms) for at, name, retry_ms in sent
    ]
    return b"".join(pieces).decode()


def problems() -> Iterator[ProblemView]:
    """One of each type of problem, from the tables that the handlers answer by."""
    yield _problem(401, "ticket-expired", "Ticket expired", "the ticket has expired")
    yield _problem(403, "ticket-scope", "Ticket of another session", "the ticket is for one session, not for this")
    yield _problem(404, "no-such-file", "File not found", "there is no such file, or it belongs to others")
    yield _problem(413, "file-too-large", "File too large", "the file has more than 20971520 bytes")
    yield _problem(415, "file-type", "File type not accepted", "the file is of another type by its first bytes")
    yield _problem(
        416, "range-not-satisfiable", "Range not satisfiable", "the file has 10485760 bytes", size=10_485_760
    )
    yield _problem(429, "media-quota", "Too many unused uploads", "uploads may have 268435456 bytes together")
    yield _problem(404, "no-receipt", "No receipt", "the session is not erased")
    yield _problem(404, "hold-not-found", "Hold not found", "no hold of this id is in force")
    yield _problem(409, "too-many-holds", "Too many holds", "there are 1000 holds already: release some")
    yield _problem(400, "malformed", "Malformed JSON", "not JSON: JSON is malformed: expected ':' (byte 12)")
    yield _problem(401, "unauthorized", "Unauthorized", "send a valid key as Authorization: Bearer")
    yield _problem(429, "too-many-failures", "Too many failures", "this address has sent too many wrong keys")
    yield _problem(403, "forbidden", "Forbidden", "this needs a key with the scope audit; this key has chat, metrics")
    yield _problem(403, "first-key", "No key yet", "this service has no keys")
    yield _problem(408, "timeout", "Timeout", "the body did not arrive in time")
    yield _problem(413, "body-too-large", "Body too large", "the body is too large")
    yield _problem(415, "media-type", "Unsupported media type", "send Content-Type: application/json")
    yield _problem(500, "internal-error", "Internal error", "internal error; the logs have it under this request id")
    fault = FaultView("$.message", "must not be empty or blank")
    yield _problem(422, "invalid", "Invalid", f"{fault.path}: {fault.detail}", errors=[fault])
    kinds = {"invalid"}
    for error, (status, kind, title) in STATUSES.items():
        if kind not in kinds:
            found = str(SessionNotFound(SESSION)) if issubclass(error, SessionNotFound) else _sentence(error)
            yield _problem(status, kind, title, found)
            kinds.add(kind)
    kept = {"partial": ANSWERED[:6], "message_id": REPLY, "user_message_id": QUESTION, "version": 4}
    for cause, (status, title) in CAUSES.items():
        yield _problem(status, cause.replace("_", "-"), title, title, **kept)


def _sentence(error: type[Exception]) -> str:
    """The message of an error, which is what its docstring begins with."""
    return (error.__doc__ or "").partition("\n")[0]


def _problem(status: int, kind: str, title: str, detail: str, **extra: Any) -> ProblemView:
    return ProblemView(f"/problems/{kind}", title, status, detail, "/api/chat", **extra)
