"""Responses: bodies built from what they show, JSON, static files, and large bodies sent in pieces, without a copy."""

import gzip
import hashlib
from typing import Any, assert_never

import msgspec
from aiohttp import ETag, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from msgspec import UNSET, Struct, UnsetType

from chatbot.api.response_bodies import (
    ChatView,
    MediaView,
    MessageView,
    ParametersView,
    PartView,
    PreviewView,
    SessionView,
    ToolResultView,
)
from chatbot.api.server.connection_limits import BoundedProtocol
from chatbot.api.server.path_prefix import prefix_of
from chatbot.api.services import SERVICES
from chatbot.runtime.clock import timestamp
from chatbot.sessions.domain.state import State
from chatbot.sessions.replies.reply import Outcome, Reply
from chatbot.sessions.session_previews import Preview
from chatbot.sessions.session_queries import MessageWithText, SessionWithMetadata
from events.schema.parts import (
    Media,
    Part,
    Parts,
    Reasoning,
    Redacted,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    call_ids_of,
)
from projections.folds.session import NEVER_US

REVALIDATE = "no-cache"  # a browser may keep it, but asks each time whether it has changed

encode = msgspec.json.Encoder().encode


class JsonResponse(web.Response):
    """An answer that the HTTP server usually sends in one piece."""


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    encoded = piecewise_body(encode(body))
    return JsonResponse(status=status, body=encoded, content_type="application/json", headers=headers)


def etag(version: int) -> dict[str, str]:
    return {"ETag": f'"{version}"'}


PIECE_BYTES = 65_536  # what aiohttp writes before it waits


class PiecewiseBody(Payload):
    """`body`, written in pieces as the client reads it. If `shared` by many answers, it does not count as unread."""

    def __init__(self, body: bytes, *, shared: bool = False) -> None:
        super().__init__(body)
        self._size = len(body)
        self._body = body
        self._shared = shared

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Raises ConnectionError if the client left or was disconnected."""
        protocol = getattr(writer, "protocol", None)
        with memoryview(self._body) as view:
            for start in range(0, len(view), PIECE_BYTES):
                if isinstance(protocol, BoundedProtocol) and not self._shared:
                    protocol.count_held_bytes(len(view))
                await writer.write(bytes(view[start : start + PIECE_BYTES]))
                await writer.drain()


def piecewise_body(body: bytes, *, shared: bool = False) -> bytes | PiecewiseBody:
    """The body for a response: `body` itself if it is small."""
    return body if len(body) <= PIECE_BYTES else PiecewiseBody(body, shared=shared)


def created_response(request: web.Request, state: State) -> web.Response:
    """201 with the new session, whose deadline the expiry timer is told."""
    session, services = state.session, request.app[SERVICES]
    services.expiry.notify(session.expires_at_us)
    prefix = prefix_of(request, services.settings.server)
    headers = {"Location": f"{prefix}/api/sessions/{session.session_id}", **etag(session.version)}
    return json_response(state_view(state), status=201, headers=headers)


class StaticFile(Struct, frozen=True):
    """A file as it is served, plain and compressed, with its fixed headers."""

    body: bytes
    compressed: bytes
    etag: str
    headers: dict[str, str]


def file_response(request: web.Request, found: StaticFile) -> web.Response:
    headers = {"ETag": f'W/"{found.etag}"', **found.headers}  # weak: of both encodings
    known = request.if_none_match or ()
    if ETag("*") in known or found.etag in [tag.value for tag in known]:
        return web.Response(status=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        compressed = piecewise_body(found.compressed, shared=True)
        return web.Response(body=compressed, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=piecewise_body(found.body, shared=True), headers=headers)


def make_file(body: bytes, content_type: str, cache_control: str) -> StaticFile:
    charset = "; charset=utf-8" if content_type.startswith("text/") else ""
    headers = {
        "Content-Type": content_type + charset,
        "Cache-Control": cache_control,
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    return StaticFile(body, gzip.compress(body, 6, mtime=0), hashlib.sha256(body).hexdigest()[:32], headers)


def session_view(described: SessionWithMetadata, *, is_expired: bool = False) -> SessionView:
    session = described.session
    running, parameters = session.open_reply, described.settings.parameters
    return SessionView(
        session_id=session.session_id,
        created_at=timestamp(session.created_at_us),
        last_accessed=timestamp(session.accessed_at_us),
        expires_at=None if session.expires_at_us == NEVER_US else timestamp(session.expires_at_us),
        metadata=described.metadata,
        title=described.title,
        version=session.version,
        message_count=session.message_count,
        status="expired" if is_expired else "replying" if running or session.pending else "active",
        active_reply=running.reply_id if running else None,
        queued_replies=[waiting.reply_id for waiting in session.pending],
        system_prompt=described.settings.system_prompt,
        model=parameters.model,
        parameters=ParametersView(
            max_new_tokens=parameters.max_new_tokens,
            temperature=parameters.temperature,
            do_sample=parameters.do_sample,
            top_p=parameters.top_p,
            stop=list(parameters.stop),
            seed=parameters.seed,
            parallel_tool_calls=parameters.parallel_tool_calls,
            response_format=parameters.response_format,
            reasoning_effort=parameters.reasoning_effort,
            extra_body=parameters.extra_body,
            send_reasoning=parameters.send_reasoning,
        ),
        pinned=session.pinned,
        unread=session.unread_at > 0,
        preview=_preview_view(described.preview),
        kind=session.kind or UNSET,  # type: ignore[arg-type]  # one of the words in KINDS
        named_by=UNSET if described.named_by is None else described.named_by,
    )


def _preview_view(preview: Preview | UnsetType | None) -> PreviewView | UnsetType | None:
    if preview is UNSET or preview is None:
        return preview
    return PreviewView(preview.message_id, preview.role, preview.text)  # type: ignore[arg-type]  # no other roles


def state_view(state: State) -> SessionView:
    return session_view(SessionWithMetadata(state.session, state.metadata, state.title, state.settings))


def message_view(message: MessageWithText, session_id: str, prefix: str = "") -> MessageView:
    """`prefix` is the path under which a proxy publishes the service."""
    row = message.row
    return MessageView(
        message_id=row.message_id,
        session_id=session_id,
        role=row.role,  # type: ignore[arg-type]  # the log holds no other roles
        content=message.content,
        created_at=timestamp(row.created_at_us),
        token_usage=message.usage,
        parent_id=row.parent_id,
        status=row.status,  # type: ignore[arg-type]  # one of these words
        finish_reason=message.finish_reason,  # type: ignore[arg-type]  # as it was recorded: one of these words
        finish_detail=message.finish_detail,
        model=message.model,
        siblings=list(row.siblings),
        parts=part_views(message.parts, message.content, session_id, prefix),
        calls=row.calls,  # type: ignore[arg-type]  # one of these words
        duration_us=message.duration_us,
        time_to_first_token_us=message.time_to_first_token_us,
        imported=True if message.imported else UNSET,
    )


def part_views(parts: Parts, content: str, session_id: str, prefix: str) -> list[PartView]:
    """The parts of a message of the session, recorded as `parts` or, where it is one text, as `content` alone."""
    if not parts:
        return [Text(content)] if content else []
    return [_part_view(part, session_id, prefix) for part in parts]


def _part_view(part: Part, session_id: str, prefix: str) -> PartView:
    match part:
        case Text() | Reasoning() | Refusal() | ToolCall() | Redacted():
            return part
        case Media():
            return _media_view(part, session_id, prefix)
        case ToolResult():
            nested = [one if isinstance(one, Text) else _media_view(one, session_id, prefix) for one in part.parts]
            return ToolResultView(part.call_id, nested, part.is_error)
        case _:
            assert_never(part)


def _media_view(media: Media, session_id: str, prefix: str) -> MediaView:
    url = f"{prefix}/api/media/{media.sha256}?session_id={session_id}"
    return MediaView(media.sha256, media.media_type, media.bytes, url, media.name)


def chat_view(session_id: str, reply: Reply, outcome: Outcome) -> ChatView:
    return ChatView(
        message_id=reply.reply_id,
        role="assistant",
        content=outcome.content,
        created_at=timestamp(outcome.created_at_us),
        token_usage=outcome.usage,
        session_id=session_id,
        user_message_id=reply.message_id,
        finish_reason=outcome.finish_reason,  # type: ignore[arg-type]  # as above
        finish_detail=outcome.finish_detail,
        model=outcome.model,
        status="complete" if outcome.status == "complete" else "cancelled",
        version=outcome.version,
        parts=part_views(outcome.parts, outcome.content, session_id, prefix=""),  # no model sends files
        calls="open" if outcome.parts and outcome.status == "complete" and call_ids_of(outcome.parts) else None,
    )
