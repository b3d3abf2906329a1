"""Plain text renderings of a conversation and of its diff, safe to print on a terminal. Pure."""

from collections.abc import Sequence

import msgspec

from chatbot.audit.conversation import Conversation, MessageAsOf
from chatbot.audit.conversation_diff import Change
from chatbot.audit.part_rendering import readable_text
from chatbot.audit.printable_text import printable
from chatbot.runtime.clock import timestamp
from events.catalogue import Parameters


def render_text(conversation: Conversation) -> str:
    """The selected branch, message by message, under a header."""
    branch = conversation.branch()
    title = f"{conversation.title} · " if conversation.title else ""
    lines = [printable(f"{title}session {conversation.session_id} · {conversation.status} · {_when(conversation)}")]
    if conversation.erased:
        lines.append(f"the content of {conversation.erased} events is erased")
    if conversation.forked_from is not None:
        origin = conversation.forked_from
        lines.append(f"forked from session {printable(origin.session_id)}, version {origin.version}")
    if conversation.metadata:
        lines.append(f"metadata {_value(conversation.metadata)}")
    if conversation.parameters != Parameters():
        lines.append(f"parameters {_value(conversation.parameters)}")
    if conversation.system_prompt:
        lines += ["", "system:", _indented(conversation.system_prompt)]
    for message in branch:
        lines += ["", f"{_name(message)}:", _indented(readable_text(message.content, message.parts))]
    if len(branch) < len(conversation.messages):
        lines += ["", f"not shown, of other branches: {len(conversation.messages) - len(branch)} messages"]
    return "\n".join(lines)


def render_changes(before: Conversation | None, after: Conversation, changes: Sequence[Change]) -> str:
    """The changes, one per line, each followed by its added (+) and removed (-) lines."""
    since = _when(before) if before else "before it was created"
    lines = [printable(f"session {after.session_id} · from {since} · to {_when(after)}")]
    for change in changes:
        lines.append(_line(change))
        lines += [f"    {printable(line)}" for line in change.lines]
    if not changes:
        lines.append("nothing changed")
    return "\n".join(lines)


def _line(change: Change) -> str:
    subject = f" {printable(change.subject)}" if change.subject else ""
    if change.lines:
        return f"{change.what}{subject}:"
    return f"{change.what}{subject}: {_value(change.before)} -> {_value(change.after)}"


def _value(value: object) -> str:
    return "none" if value is None else printable(msgspec.json.encode(value).decode())


def _when(conversation: Conversation) -> str:
    return f"version {conversation.version}, {timestamp(conversation.at_us)}"


def _name(message: MessageAsOf) -> str:
    details = [timestamp(message.created_at_us), message.model]
    if message.imported:
        details.append("imported")
    details.append(message.finish_reason if message.status == "complete" else message.status)
    details.append(message.finish_detail)
    if message.usage is not None:
        details.append(f"{message.usage.prompt_tokens}+{message.usage.completion_tokens} tokens")
    return printable(f"{message.role} ({', '.join(one for one in details if one)})")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in printable(text).split("\n"))
