"""Which conversation a request means. It says so, or it has none: nothing is guessed from its messages. Pure."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from chatbot.api.problems import RequestFault
from chatbot.api.requests import canonical_id
from events.schema import naming

SESSION_FIELD = "x-session-id"  # a session's id in it means that session
CHAT_FIELD, TASK_FIELD = "x-openwebui-chat-id", "x-openwebui-task"  # of Open WebUI
UNKEPT = ("temporary:", "local:", "channel:")  # how Open WebUI begins the ids of chats that it does not keep
BODY_PREFIX = "metadata."
NAME_MAX_CHARS = 255


class NamedConversation(Struct, frozen=True):
    """`kind` as of sessions: conversation, stateless, or task, a title or the like for a conversation, which leaves the
    conversation alone. A conversation is the session `session_id`, or has the name `value` in the field `source`.
    """

    kind: str
    session_id: str | None = None
    source: str = ""
    value: str = ""


STATELESS, TASK = NamedConversation(naming.STATELESS), NamedConversation(naming.TASK)


def conversation_of(
    headers: Mapping[str, str], metadata: Mapping[str, Any] | None, fields: tuple[str, ...], *, stream: bool
) -> NamedConversation:
    """The conversation that the first of `fields` names that the request has; an empty header is none.

    Open WebUI sends the chat's id with tasks, too, which are never streamed. Raises RequestFault.
    """
    if headers.get(TASK_FIELD, "").strip():
        return TASK
    for field in fields:
        source = field.lower()
        value = _value_of(headers, metadata or {}, field)
        if not value:
            continue
        session_id = canonical_id(value) if source == SESSION_FIELD else None
        if session_id is not None:
            return NamedConversation(naming.CONVERSATION, session_id)
        if source == CHAT_FIELD and value.startswith(UNKEPT):
            return STATELESS
        if source == CHAT_FIELD and not stream:
            return TASK
        return NamedConversation(naming.CONVERSATION, None, source, value)
    return STATELESS


def _value_of(headers: Mapping[str, str], metadata: Mapping[str, Any], field: str) -> str:
    is_header = not field.startswith(BODY_PREFIX)
    value = headers.get(field) if is_header else metadata.get(field.removeprefix(BODY_PREFIX))
    return checked_name(value, f"header.{field}" if is_header else f"$.{field}")


def checked_name(value: Any, path: str) -> str:
    """A name from outside, without spaces at its ends; '' for None. Raises RequestFault."""
    if value is None:
        return ""
    name = value.strip() if isinstance(value, str) else None
    if name is None or len(name) > NAME_MAX_CHARS or not name.isprintable():
        raise RequestFault(f"must be a text of up to {NAME_MAX_CHARS} visible characters", path)
    return name
