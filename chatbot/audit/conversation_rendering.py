"""Renderings of a conversation as a document: JSON for programs, Markdown for people. Pure.

In Markdown no text is escaped, so a text may contain lines that look like headings. The real headings of messages
therefore end in a mark, `#` and eight hexadecimal digits, which the top of the document names and which occurs in none
of its texts.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from chatbot.audit.conversation import Conversation, MessageAsOf
from chatbot.audit.part_rendering import readable_text
from chatbot.runtime.clock import timestamp
from events.catalogue import Origin, Parameters, Usage
from events.schema.parts import Parts
from projections.folds.message import COMPLETE

_LOOKS_LIKE_MARK = re.compile(r"#[0-9a-f]{8}")
_encode = msgspec.json.Encoder().encode


class ExportedMessage(Struct, frozen=True):
    """`parts` where the message is more than one text, `calls` where a reply asked for tools, `imported` where only a
    client says that the message was written.
    """

    message_id: str
    parent_id: str | None
    role: Literal["user", "assistant", "system", "tool"]
    content: str
    status: Literal["complete", "queued", "streaming", "failed", "cancelled", "interrupted"]
    created_at: str
    finish_reason: str | None
    finish_detail: str
    model: str | None
    token_usage: Usage | None
    parts: Parts | UnsetType = UNSET
    calls: Literal["open", "answered", "closed"] | UnsetType = UNSET
    imported: Literal[True] | UnsetType = UNSET


class ExportedConversation(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A session as of `version`, its last event covered, which was recorded at `as_of`.

    `head`, the last message of the selected branch, is present where `messages` has all branches. `erased` counts
    events without content.
    """

    session_id: str
    title: str | None
    metadata: dict[str, Any]
    system_prompt: str | None
    created_at: str
    version: int
    as_of: str
    status: Literal["active", "expired", "deleted"]
    messages: list[ExportedMessage]
    parameters: Parameters | None = None
    owner: str | None = None
    forked_from: Origin | None = None
    head: str | None = None
    erased: int = 0


def select_messages(conversation: Conversation, *, all_branches: bool) -> list[MessageAsOf]:
    """The messages of the selected branch, root first; or all messages, in the order of their events."""
    return list(conversation.messages.values()) if all_branches else conversation.branch()


def build_document(
    conversation: Conversation, *, all_branches: bool = False, encoded: list[Raw] | None = None
) -> ExportedConversation:
    """The document with the messages of `select_messages`. `encoded` replaces them: messages that are JSON already."""
    messages: Sequence[ExportedMessage | Raw] | None = encoded
    if messages is None:
        messages = [_exported_message(one) for one in select_messages(conversation, all_branches=all_branches)]
    return ExportedConversation(
        session_id=conversation.session_id,
        title=conversation.title,
        metadata=conversation.metadata,
        system_prompt=conversation.system_prompt,
        created_at=timestamp(conversation.created_at_us),
        version=conversation.version,
        as_of=timestamp(conversation.at_us),
        status=conversation.status,  # type: ignore[arg-type]  # one of the three words
        messages=messages,  # type: ignore[arg-type]  # as JSON both are the same
        parameters=None if conversation.parameters == Parameters() else conversation.parameters,
        owner=conversation.owner,
        forked_from=conversation.forked_from,
        head=conversation.head if all_branches else None,
        erased=conversation.erased,
    )


def render_markdown(conversation: Conversation) -> str:
    """The selected branch, root first, a section for each message."""
    messages = conversation.branch()
    texts = [conversation.system_prompt or "", *(readable_text(one.content, one.parts) for one in messages)]
    mark_finder = MarkFinder()
    for text in texts:
        mark_finder.add(text)
    mark = mark_finder.mark
    while any(mark in text for text in texts):
        mark = mark_finder.next()
    sections = (render_markdown_message(one, mark) for one in messages)
    return "".join((render_markdown_head(conversation, len(messages), mark), *sections))


def render_markdown_head(conversation: Conversation, messages: int, mark: str) -> str:
    """The document up to its first message."""
    title = " ".join((conversation.title or "").split()) or "Conversation"
    lines = [
        f"# {title}",
        "",
        f"- session: {conversation.session_id}",
        f"- created: {timestamp(conversation.created_at_us)}",
        f"- as of: {timestamp(conversation.at_us)}, version {conversation.version}, {conversation.status}",
        f"- messages: {messages}; the heading of each ends in {mark}, which is nowhere in a text",
    ]
    if conversation.parameters != Parameters():
        lines.append(f"- parameters: {_encode(conversation.parameters).decode()}")
    if conversation.system_prompt:
        lines += ["", f"## system {mark}", "", conversation.system_prompt]
    return "\n".join((*lines, ""))


def render_markdown_message(one: MessageAsOf, mark: str) -> str:
    """One message."""
    status = "" if one.status == COMPLETE else f"({one.status}) "
    if one.imported:
        status = "(imported) "
    heading = f"## {one.role} {status}· {timestamp(one.created_at_us)} {mark}"
    return "\n".join(("", heading, "", readable_text(one.content, one.parts), ""))


class MarkFinder:
    """Derives the mark of a document from its texts, added one by one: the system prompt, then the messages.

    Deterministic. An author of one text cannot choose a text that contains the mark, as it is a hash of all texts.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._separator = b""
        self._digest = ""
        self.is_unambiguous = True  # no text contains anything of the form of a mark

    def add(self, text: str) -> None:
        """Add the next text."""
        self._hash.update(self._separator + text.encode())
        self._separator = b"\0"
        self.is_unambiguous = self.is_unambiguous and _LOOKS_LIKE_MARK.search(text) is None

    @property
    def mark(self) -> str:
        """The candidate, once all texts are added."""
        self._digest = self._digest or self._hash.hexdigest()
        return f"#{self._digest[:8]}"

    def next(self) -> str:
        """The next candidate, where a text contains the last one."""
        self._digest = hashlib.sha256(self._digest.encode()).hexdigest()
        return self.mark


def encode_messages(messages: Sequence[MessageAsOf]) -> list[Raw]:
    """Each message as an element of the JSON document."""
    return [Raw(_encode(_exported_message(one))) for one in messages]


def _exported_message(one: MessageAsOf) -> ExportedMessage:
    return ExportedMessage(
        message_id=one.message_id,
        parent_id=one.parent_id,
        role=one.role,  # type: ignore[arg-type]  # the log holds no other roles
        content=one.content,
        status=one.status,  # type: ignore[arg-type]  # one of these words
        created_at=timestamp(one.created_at_us),
        finish_reason=one.finish_reason,
        finish_detail=one.finish_detail,
        model=one.model,
        token_usage=one.usage,
        parts=one.parts or UNSET,
        calls=one.calls or UNSET,  # type: ignore[arg-type]  # one of these words
        imported=True if one.imported else UNSET,
    )
