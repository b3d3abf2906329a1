"""Examples of the audit's answers; examples.py has all others. The digests are those of a first event in a log."""

from typing import Any

import msgspec
from msgspec.structs import replace

from chatbot.api.audit_response_bodies import ChainFault, LogHeadView, TrailView, WalkView
from chatbot.api.openapi.schemas import Kind
from chatbot.audit.conversation_rendering import ExportedConversation, ExportedMessage
from chatbot.audit.event_view import EventView, event_view
from chatbot.audit.report.entries import (
    FORMAT_NAME,
    FORMAT_VERSION,
    ImageEntry,
    MessageEntry,
    NoteEntry,
    Recipient,
    ReportEnd,
    ReportHead,
    ReportLine,
    Retention,
    SessionEntry,
    Totals,
)
from events.catalogue import MessagePosted, SessionDeleted, Usage
from events.codec import encode, encode_metadata, event_type
from events.integrity.hash_chain import GENESIS, commit, link
from events.record import Metadata, StoredRow
from events.schema.parts import Text

_SESSION = "6f9e4c0a-51d3-4b8e-9a59-0d3c7f6a2b14"
_QUESTION, _REPLY = "0b7f3f5e-8d5c-4d0c-b0c5-3f1d5a7e9c21", "c4a1e2d7-2f60-4c58-8b0e-7e9d6b5a4f33"
_AT_US = 1_769_851_800_125_000  # 2026-01-31T09:30:00.125Z
_POSTED = MessagePosted(_QUESTION, None, "user", "안녕하세요!", _REPLY)


def _row(position: int, event: MessagePosted | SessionDeleted, *, erased: bool = False) -> StoredRow:
    salt, data, metadata = bytes(range(16)), encode(event), encode_metadata(Metadata("mina", "0f3c9d51"))
    commitment, kind = commit(salt, data), event_type(event)
    digest = link(GENESIS, (position, position, 1, _AT_US), (_SESSION, kind, metadata), commitment)
    row = StoredRow(position, _SESSION, position, kind, 1, _AT_US, metadata, data.decode(), salt, commitment, digest)
    return replace(row, data=None, salt=None) if erased else row


def _plain(value: object) -> Any:
    """As decoded from JSON, which embeds the stored text of an event."""
    return msgspec.json.decode(msgspec.json.encode(value))


_posted, _erased = event_view(_row(1, _POSTED)), event_view(_row(1, _POSTED, erased=True))
_deleted = event_view(_row(2, SessionDeleted(reason="requested", owner="mina")))
_asked = ExportedMessage(
    message_id=_QUESTION,
    parent_id=None,
    role="user",
    content=_POSTED.content,
    status="complete",
    created_at="2026-01-31T09:30:00.125000Z",
    finish_reason=None,
    finish_detail="",
    model=None,
    token_usage=None,
)
_answered = ExportedMessage(
    message_id=_REPLY,
    parent_id=_QUESTION,
    role="assistant",
    content="안녕하세요! 무엇을 도와드릴까요?",
    status="complete",
    created_at="2026-01-31T09:30:00.480000Z",
    finish_reason="stop",
    finish_detail="",
    model="midm",
    token_usage=Usage(12, 34, 46),
)
_conversation = ExportedConversation(
    session_id=_SESSION,
    title=None,
    metadata={"user_id": "example"},
    system_prompt=None,
    created_at="2026-01-31T09:29:58.000000Z",
    version=4,
    as_of="2026-01-31T09:30:00.930000Z",
    status="active",
    messages=[_asked, _answered],
    owner="mina",
)
_FAULT = ChainFault(2, "content, salt or commitment was changed")

_AT = "2026-01-31T09:30:00.125000Z"
_happened: dict[str, Any] = {"session_id": _SESSION, "at": _AT, "key": "mina", "request_id": "0f3c9d51"}
_report = {
    "report": ReportHead(
        format=FORMAT_NAME, version=FORMAT_VERSION, created_at="2026-02-01T00:00:00Z", program="chatbot 0.9.0",
        log=f"chatbot-log/{_posted.digest[:32]}", position=4, digest=_posted.digest, selected_by={"owner": "mina"},
        totals=Totals(sessions=1, messages=2, replies=1, files=0, events=4, erased_events=0, redactions=0),
        recipients=(Recipient(provider="midm", model="midm", requests=1),), retention=Retention(24.0, 0.0),
    ),
    "session": SessionEntry(
        session_id=_SESSION, status="active", created_at=_AT, last_event_at=_AT, last_version=4, messages=2,
        erased_events=0, owner="mina", metadata={"user_id": "example"},
    ),
    "message": MessageEntry(
        **_happened, position=2, version=2, message_id=_QUESTION, number=1, role="user", status="complete",
        parts=(Text(_POSTED.content),), selected=True,
    ),
    "note": NoteEntry(
        **_happened, position=1, version=1, event="session_created", text="the session was created",
        details={"owner": "mina"},
    ),
    "image": ImageEntry(
        session_id=_SESSION, message_id=_QUESTION, sha256=_posted.digest, media_type="image/gif", bytes=6,
        content="R0lGODlh",
    ),
    "end": ReportEnd(lines=4, sha256=_posted.digest),
}  # fmt: skip

EXAMPLES: dict[Kind, dict[str, Any]] = {
    EventView: {"posted": _plain(_posted), "erased": _plain(_erased), "deleted": _plain(_deleted)},
    TrailView: {"page": _plain(TrailView(_SESSION, [_posted], next=1))},
    LogHeadView: {"head": LogHeadView(1, _posted.digest, f"chatbot-log/{_posted.digest[:32]}")},
    WalkView: {
        "holds": WalkView(True, 0, 1, 1, 0, _posted.digest),
        "changed": WalkView(False, 0, 2, 1, 0, _posted.digest, _FAULT),
    },
    ExportedConversation: {"conversation": _conversation},
    ReportLine: _report,
}
