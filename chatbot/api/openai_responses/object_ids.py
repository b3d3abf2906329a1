"""The ids of responses, conversations and items: made of the ids of sessions and messages, so that each is found
without an index. Pure.

    conv_<session>             a conversation: any session
    resp_<session><reply>      a response: any reply
    msg_<message>_<part>       an item: a part of a message; other kinds have other prefixes

`<session>` and the like are the 32 hexadecimal digits of a UUID.
"""

import re

from msgspec import Struct

CONVERSATION, RESPONSE = "conv_", "resp_"
MESSAGE, REASONING, CALL, RESULT = "msg_", "rs_", "fc_", "fco_"

_CONVERSATION = re.compile(r"conv_([0-9a-f]{32})\Z")
_SESSION = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_RESPONSE = re.compile(r"resp_([0-9a-f]{32})([0-9a-f]{32})\Z")
_ITEM = re.compile(r"(?:msg|rs|fc|fco)_([0-9a-f]{32})_([0-9]{1,4})\Z")


class ResponseKey(Struct, frozen=True):
    session_id: str
    reply_id: str


class ItemKey(Struct, frozen=True):
    """`part`: the number of the item's first part in the message."""

    message_id: str
    part: int


def conversation_id(session_id: str) -> str:
    return CONVERSATION + _digits(session_id)


def response_id(session_id: str, reply_id: str) -> str:
    return RESPONSE + _digits(session_id) + _digits(reply_id)


def item_id(prefix: str, message_id: str, part: int) -> str:
    return f"{prefix}{_digits(message_id)}_{part}"


def read_conversation_id(text: str) -> str | None:
    """The session's id; None if no session can have this id. The id of a session as `/api` has it is one, too."""
    found = _CONVERSATION.match(text)
    return _uuid(found[1]) if found else text if _SESSION.match(text) else None


def read_response_id(text: str) -> ResponseKey | None:
    found = _RESPONSE.match(text)
    return ResponseKey(_uuid(found[1]), _uuid(found[2])) if found else None


def read_item_id(text: str) -> ItemKey | None:
    found = _ITEM.match(text)
    return ItemKey(_uuid(found[1]), int(found[2])) if found else None


def _digits(uuid: str) -> str:
    return uuid.replace("-", "")


def _uuid(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
