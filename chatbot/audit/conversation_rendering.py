"""A conversation as a document: JSON for programs, Markdown for people. Pure.

In Markdown nothing inside a text is escaped, so a text may well contain lines that look like headings. Those of
messages therefore end in a mark, `#` and eight hexadecimal digits, which the document names at its top and which is
chosen so that no text in it contains it.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from chatbot.audit.conversation import Conversation, MessageAsOf
from chatbot.runtime.timestamps import timestamp
from events.catalogue import Origin, Parameters, Usage
from projections.folds.message import COMPLETE

_LOOKS_LIKE_MARK = re.compile(r"#[0-9a-f]{8}")
_encode = msgspec.json.Encoder().encode


class ExportedMessage(Struct, frozen=True):
    message_id: str
    parent_id: str | None
    role: Literal["user", "assistant", "system"]
    content: str
    status: Literal["complete", "queued", "streaming", "failed", "cancelled", "interrupted"]
    created_at: str
    finish_reason: str | None
    finish_detail: str
    model: str | None
    token_usage: Usage | None


class ExportedConversation(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A session as it stood at `version`, the last event in it, which was recorded at `as_of`.

    `head` comes with all branches: the last message of the selected one. `erased` counts events without content.
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
    """The messages of the selected branch, root first; or every message, in the order in which they came."""
    return list(conversation.messages.values()) if all_branches else conversation.branch()


def build_document(
    conversation: Conversation, *, all_branches: bool = False, encoded: list[Raw] | None = None
) -> ExportedConversation:
    """What `said_in` tells, and the head where that is all branches. `encoded`: these messages, as JSON already."""
    said: Sequence[ExportedMessage | Raw] | None = encoded
    if said is None:
        said = [_exported_message(one) for one in select_messages(conversation, all_branches=all_branches)]
    return ExportedConversation(
        session_id=conversation.session_id,
        title=conversation.title,
        metadata=conversation.metadata,
        system_prompt=conversation.system_prompt,
        created_at=timestamp(conversation.created_at_us),
        version=conversation.version,
        as_of=timestamp(conversation.at_us),
        status=conversation.status,  # type: ignore[arg-type]  # one of the three words
        messages=said,  # type: ignore[arg-type]  # as JSON both are the same
        parameters=None if conversation.parameters == Parameters() else conversation.parameters,
        owner=conversation.owner,
        forked_from=conversation.forked_from,
        head=conversation.head if all_branches else None,
        erased=conversation.erased,
    )


def render_markdown(conversation: Conversation) -> str:
    """The selected branch, root first, a section for each message."""
    said = conversation.branch()
    texts = [conversation.system_prompt or "", *(one.content for one in said)]
    mark_finder = MarkFinder()
    for text in texts:
        mark_finder.add(text)
    mark = mark_finder.mark
    while any(mark in text for text in texts):
        mark = mark_finder.next()
    sections = (render_markdown_message(one, mark) for one in said)
    return "".join((render_markdown_head(conversation, len(said), mark), *sections))


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
    heading = f"## {one.role} {status}· {timestamp(one.created_at_us)} {mark}"
    return "\n".join(("", heading, "", one.content, ""))


class MarkFinder:
    """Finds the mark of a document from its texts, one after the other: the system prompt, then the messages.

    The same for the same texts. Whoever wrote one of them could not know it: it depends on them all.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._separator = b""
        self._digest = ""
        self.is_unambiguous = True  # no text contains anything that looks like a mark

    def add(self, text: str) -> None:
        """The next text."""
        self._hash.update(self._separator + text.encode())
        self._separator = b"\0"
        self.is_unambiguous = self.is_unambiguous and _LOOKS_LIKE_MARK.search(text) is None

    @property
    def mark(self) -> str:
        """The mark to try first, once all texts are added."""
        self._digest = self._digest or self._hash.hexdigest()
        return f"#{self._digest[:8]}"

    def next(self) -> str:
        """Another, where a text contains the last one."""
        self._digest = hashlib.sha256(self._digest.encode()).hexdigest()
        return self.mark


def encode_messages(said: Sequence[MessageAsOf]) -> list[Raw]:
    """Each as `as_json` tells it."""
    return [Raw(_encode(_exported_message(one))) for one in said]


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
    )
