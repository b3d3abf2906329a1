"""How sessions are named and told apart, as recorded in events. Part of the format: see `catalogue.py`."""

from msgspec import Struct

CONVERSATION, STATELESS, TASK = "", "stateless", "task"  # the kinds of sessions


class ConversationName(Struct, frozen=True):
    """The name that a client of `/v1` gave to a conversation. `source` is the header or field that had it."""

    source: str
    value: str
