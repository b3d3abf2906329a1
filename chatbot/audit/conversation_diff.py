"""The diff of a conversation between two points in time. Pure."""

import difflib
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from chatbot.audit.conversation import Conversation, MessageAsOf
from chatbot.audit.part_rendering import readable_text

_FIELDS = {
    "owner": "owner",
    "title": "title",
    "system_prompt": "system prompt",
    "parameters": "parameters",
    "status": "status",
    "head": "selected branch",
    "erased": "erased events",
}
_HEADER_LINES = 2  # of a unified diff: file names, which do not exist here


class Change(Struct, frozen=True, omit_defaults=True):
    """One difference. `before` and `after` are values, None for absent.

    `what` is one of owner, title, system prompt, parameters, status, selected branch (the id of its last message),
    erased events, metadata (`subject`: the key), and for messages (`subject`: the id) message added, message removed,
    text, parts (of a message that is more than one text), tool calls (open, answered or closed), reply status. `lines`
    are the text's lines as in a unified diff.
    """

    what: str
    subject: str = ""
    before: Any = None
    after: Any = None
    lines: tuple[str, ...] = ()


def diff_conversations(before: Conversation | None, after: Conversation) -> tuple[Change, ...]:
    """Every difference between `before` and `after`; `before` is None where the session did not exist yet."""
    before = before or Conversation(after.session_id, after.created_at_us, status="")
    pairs = ((what, getattr(before, name), getattr(after, name)) for name, what in _FIELDS.items())
    changes = [Change(what, "", old or None, new or None) for what, old, new in pairs if (old or None) != (new or None)]
    changes += _metadata_changes(before.metadata, after.metadata)
    for message_id in before.messages | after.messages:
        changes += _message_changes(message_id, before.messages.get(message_id), after.messages.get(message_id))
    return tuple(changes)


def text_diff(before: str, after: str) -> tuple[str, ...]:
    """The removed (-) and added (+) lines, with three lines of context."""
    return tuple(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm=""))[_HEADER_LINES:]


def _metadata_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    keys = sorted({*before, *after})
    return [
        Change("metadata", key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    ]


def _message_changes(message_id: str, before: MessageAsOf | None, after: MessageAsOf | None) -> list[Change]:
    if before is None:
        return [Change("message added", message_id, None, after, _message_lines(after, "+"))]
    if after is None:
        return [Change("message removed", message_id, before, None, _message_lines(before, "-"))]
    changes = []
    if before.status != after.status:
        changes.append(Change("reply status", message_id, before.status, after.status))
    if before.calls != after.calls:
        changes.append(Change("tool calls", message_id, before.calls, after.calls))
    if before.parts or after.parts:
        if (before.content, before.parts) != (after.content, after.parts):
            lines = text_diff(_readable(before), _readable(after))
            changes.append(Change("parts", message_id, before.parts, after.parts, lines))
    elif before.content != after.content:
        lines = text_diff(before.content, after.content)
        changes.append(Change("text", message_id, before.content, after.content, lines))
    return changes


def _message_lines(message: MessageAsOf | None, sign: str) -> tuple[str, ...]:
    if message is None:
        return ()
    return (f"{sign}{message.role} ({message.status})", *(f"{sign}{line}" for line in _readable(message).splitlines()))


def _readable(message: MessageAsOf) -> str:
    return readable_text(message.content, message.parts)
