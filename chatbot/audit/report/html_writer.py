"""A report as one HTML file that loads nothing and runs nothing: sessions and what happened in them."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

import msgspec

from chatbot.audit.report.entries import (
    Entry,
    ErasedEntry,
    Happened,
    HoldEntry,
    MessageEntry,
    NoteEntry,
    ProofEntry,
    ReceiptEntry,
    ReportHead,
    SessionEntry,
    SessionSummary,
)
from chatbot.audit.report.html_summary import render_start
from chatbot.audit.report.html_text import block, code, escape, facts, folded, isolated, time
from events.schema.parts import Media, Part, Reasoning, Redacted, Refusal, Text, ToolCall, ToolResult

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})  # no SVG, which may have scripts
_ROLES = frozenset({"user", "assistant", "system", "tool"})


class HtmlWriter:
    """Implements chatbot.audit.report.report_pieces.ReportWriter."""

    def __init__(self) -> None:
        self._session = 0  # the number of the session that is written

    def head(self, head: ReportHead, sessions: Sequence[SessionSummary]) -> bytes:
        return _encode("".join(render_start(head, sessions)))

    def entry(self, entry: Entry, files: Mapping[str, bytes]) -> bytes:
        match entry:
            case SessionEntry():
                return _encode(self._begin_session(entry))
            case MessageEntry():
                return _encode(self._message(entry, files))
            case NoteEntry():
                details = folded("Details", code(entry.details)) if entry.details else ""
                return _encode(f'<div class="note"><p>{_happened(entry)}: {escape(entry.text)}</p>{details}</div>\n')
            case ErasedEntry():
                return _encode(_erased(entry))
            case ReceiptEntry():
                return _encode(_receipt(entry))
            case HoldEntry():
                return _encode(_hold(entry))
            case ProofEntry():
                return _encode(_proof(entry))
            case _:
                assert_never(entry)

    def end(self) -> bytes:
        last = "</section>\n" if self._session else ""
        return _encode(f"{last}</main>\n<footer><p>End of the report.</p></footer>\n</body>\n</html>\n")

    def _begin_session(self, entry: SessionEntry) -> str:
        last = "</section>\n" if self._session else ""
        self._session += 1
        name = f"s{self._session}"
        unnamed = "Erased session" if entry.status == "deleted" else "Session without a title"
        title = isolated(entry.title) if entry.title else unnamed
        forked = entry.forked_from
        listed = facts(
            (
                ("Session", f"<code>{escape(entry.session_id)}</code>"),
                ("Belongs to the key", isolated(entry.owner) if entry.owner else "none"),
                ("Status", escape(entry.status)),
                ("Created", time(entry.created_at)),
                ("Last event", f"{time(entry.last_event_at)}, version {entry.last_version:,}"),
                ("Messages", f"{entry.messages:,}"),
                ("Erased events", f"{entry.erased_events:,}" if entry.erased_events else ""),
                ("Kind", escape(entry.kind)),
                ("Forked from", f"session {escape(forked.session_id)}, version {forked.version}" if forked else ""),
                ("Metadata", code(entry.metadata) if entry.metadata else ""),
                ("System prompt", block(entry.system_prompt) if entry.system_prompt else ""),
                ("Parameters", code(entry.parameters) if entry.parameters else ""),
            )
        )
        return (
            f'{last}<section class="session" aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{listed}'
            "<h3>What was recorded, in order</h3>\n"
        )

    def _message(self, entry: MessageEntry, files: Mapping[str, bytes]) -> str:
        name = f"s{self._session}m{entry.number}" + (f"v{entry.version}" if entry.again else "")
        role = entry.role if entry.role in _ROLES else "other"
        branch = "" if entry.selected else " other-branch"
        told = [_happened(entry)]
        if entry.follows is not None:
            told.append(f'follows <a href="#s{self._session}m{entry.follows}">message {entry.follows}</a>')
        if not entry.selected:
            told.append("not on the selected branch")
        if entry.again:
            told.append("another attempt")
        told += [
            word for word, holds in (("imported", entry.imported), ("from another session", entry.adopted)) if holds
        ]
        parts = "".join(_part(one, files) for one in entry.parts)
        return (
            f'<article class="{role}{branch}" aria-labelledby="{name}"><h4 id="{name}">Message {entry.number},'
            f" {escape(entry.role)}{'' if entry.status == 'complete' else f', {escape(entry.status)}'}</h4>\n"
            f'<p class="facts">{"; ".join(told)}</p>\n{_reply_facts(entry)}{parts}{_request(entry)}</article>\n'
        )


def _happened(entry: Happened) -> str:
    told = [time(entry.at)]
    if entry.key:
        told.append(f"key {isolated(entry.key)}")
    if entry.request_id:
        told.append(f"request {isolated(entry.request_id)}")
    if entry.cause:
        told.append(f"by the service: {isolated(entry.cause)}")
    told.append(f"version {entry.version:,}, position {entry.position:,}")
    return ", ".join(told)


def _reply_facts(entry: MessageEntry) -> str:
    usage = entry.usage
    listed = (
        ("Model", isolated(entry.model) if entry.model else ""),
        ("Server", isolated(entry.server) if entry.server else ""),
        ("Requested", time(entry.requested_at) if entry.requested_at else ""),
        ("Duration", f"{entry.duration_us / 1e6:.3f} s" if entry.duration_us else ""),
        (
            "Ended",
            escape(entry.finish_reason or "") + (f" ({escape(entry.finish_detail)})" if entry.finish_detail else ""),
        ),
        ("Failure", escape(entry.failure) if entry.failure else ""),
        ("Tokens", f"{usage.prompt_tokens:,} read, {usage.completion_tokens:,} written" if usage else ""),
    )
    return facts(listed) if any(value for _, value in listed) else ""


def _request(entry: MessageEntry) -> str:
    if entry.request is not None:
        return folded("The request that the model was sent", code(entry.request))
    return f'<p class="facts">Request: {escape(entry.request_left_out)}</p>\n' if entry.request_left_out else ""


def _part(part: Part, files: Mapping[str, bytes]) -> str:
    match part:
        case Text():
            return block(part.text)
        case Reasoning():
            return folded("Reasoning", block(part.text, "reasoning"))
        case Refusal():
            return f'<p class="facts">Refusal</p>{block(part.text, "refusal")}'
        case ToolCall():
            what = f"Tool call {isolated(part.name)} ({isolated(part.call_id)})"
            return f'<p class="facts">{what}</p>\n<pre>{escape(part.arguments)}</pre>\n'
        case ToolResult():
            what = "Error" if part.is_error else "Result"
            inner = "".join(_part(one, files) for one in part.parts)
            return f'<p class="facts">{what} of tool call {isolated(part.call_id)}</p>\n{inner}'
        case Redacted():
            of = f" {isolated(part.name)}" if part.name else ""
            return f'<p class="facts">Redacted: {escape(part.kind)}{of}, reason {isolated(part.reason_code)}</p>\n'
        case Media():
            return _file(part, files.get(part.sha256))
        case _:
            assert_never(part)


def _file(media: Media, content: bytes | None) -> str:
    name = media.name or "without a name"
    kind, digest = escape(media.media_type), f"<code>{escape(media.sha256)}</code>"
    told = f"File {isolated(name)}, {kind}, {media.bytes:,} bytes, SHA-256 {digest}"
    if content is None or media.media_type not in IMAGE_TYPES:
        return f'<p class="facts">{told}</p>\n'
    encoded = base64.b64encode(content).decode()
    image = f'<img alt="Image {escape(name)}" src="data:{media.media_type};base64,{encoded}">'
    return f'<figure>{image}<figcaption class="facts">{told}</figcaption></figure>\n'


def _erased(entry: ErasedEntry) -> str:
    counted = ", ".join(f"{count:,} {escape(kind)}" for kind, count in entry.events.items())
    versions = f"versions {entry.first_version:,} to {entry.last_version:,}"
    return f'<div class="note"><p>The content of {versions} is erased: {counted}</p></div>\n'


def _receipt(entry: ReceiptEntry) -> str:
    a = "an" if entry.kind == "erasure" else "a"
    return (
        f'<div class="receipt"><h4>Receipt of {a} {escape(entry.kind)}</h4><p class="facts">{_happened(entry)}</p>\n'
        f"{code(entry.receipt)}</div>\n"
    )


def _hold(entry: HoldEntry) -> str:
    ticket = f", ticket {isolated(entry.ticket)}" if entry.ticket else ""
    since = f"since {time(entry.added_at)}{ticket}"
    return (
        f'<div class="receipt"><h4>Legal hold</h4><p>{isolated(entry.reason)}, {since}: nothing of this session is'
        f" erased before the hold <code>{escape(entry.hold_id)}</code> is released</p></div>\n"
    )


def _proof(entry: ProofEntry) -> str:
    return "".join(_proof_pieces(entry))


def _proof_pieces(entry: ProofEntry) -> Iterator[str]:
    yield "<h3>Proof</h3>\n"
    if entry.proof is None:
        yield f"<p>{escape(entry.left_out or 'There is none.')}</p>\n"
        return
    file = escape(f"proof-{entry.session_id}.json")
    yield (
        f"<p>Versions {entry.first_version:,} to {entry.last_version:,} of this session, without gaps, are in the log"
        f' of the checkpoint above: <a download="{file}" href="data:application/json;base64,'
    )
    yield base64.b64encode(msgspec.json.encode(entry.proof)).decode()
    yield f'">save {file}</a> and check it with <code>chatbot verify --proof {file} --key KEY</code></p>\n'


def _encode(text: str) -> bytes:
    return text.encode(errors="replace")
