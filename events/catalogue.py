"""The event catalogue: all event types, each a fact named in the past tense.

Names never change: a class's tag is the value of the column `type`, whatever the class is called. A field may be added
with a default, never renamed or removed. A default is part of the format, because fields equal to their default are
not written. Any other change raises the class's `schema_version` and adds a step to `upcasters.py`.

Texts are Unicode strings; offsets count code points; durations and times are microseconds (`_us`).

An event that was caused by a request with an idempotency key has that key and a fingerprint of the request's body, by
which a repeated request is recognized. Both are content: they are erased with the event.
"""

from typing import get_args

from events.schema.adoption import AdoptedMessage, Origin
from events.schema.event import MESSAGE_REDACTED, Event, ReservedEvent, Traits
from events.schema.hold_events import HoldAdded, HoldEvent, HoldReleased, HoldsForgotten
from events.schema.kept_event import KeptEvent
from events.schema.key_events import KeyAdded, KeyEvent, KeyRevoked, KeyRotated
from events.schema.naming import ConversationName
from events.schema.parameters import Parameters, ReplySettings, Usage, UsageTotal
from events.schema.session_events import (
    BranchSelected,
    ContentErased,
    HistoryAdopted,
    MessageCopied,
    MessagePosted,
    MessageRedacted,
    MessageWithdrawn,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionEvent,
    SessionExpired,
    SessionRead,
    SessionViewed,
    ToolCallsClosed,
)
from events.schema.witness_events import CheckpointWitnessed, WitnessEvent

__all__ = [
    "ACCESS_TYPES",
    "CONTENT_REMOVING_TYPES",
    "ERASURE_TYPES",
    "EVENT_TYPES",
    "HOLDS",
    "KEYS",
    "MESSAGE_REDACTED",
    "MESSAGE_TYPES",
    "RESERVED_STREAMS",
    "SCHEMA_VERSIONS",
    "SESSION_TYPES",
    "WITNESS",
    "AdoptedMessage",
    "AnyEvent",
    "BranchSelected",
    "CheckpointWitnessed",
    "ContentErased",
    "ConversationName",
    "Event",
    "HistoryAdopted",
    "HoldAdded",
    "HoldEvent",
    "HoldReleased",
    "HoldsForgotten",
    "IgnoredEvent",
    "KeptEvent",
    "KeyAdded",
    "KeyEvent",
    "KeyRevoked",
    "KeyRotated",
    "LoggedEvent",
    "MessageCopied",
    "MessageEvent",
    "MessagePosted",
    "MessageRedacted",
    "MessageWithdrawn",
    "MetadataChanged",
    "Origin",
    "Parameters",
    "ReplyCancelled",
    "ReplyCompleted",
    "ReplyEnded",
    "ReplyFailed",
    "ReplyInterrupted",
    "ReplyProgressed",
    "ReplyRequested",
    "ReplySettings",
    "ReplyStarted",
    "ReservedEvent",
    "SessionAccessed",
    "SessionCreated",
    "SessionDeleted",
    "SessionEvent",
    "SessionExpired",
    "SessionRead",
    "SessionViewed",
    "ToolCallsClosed",
    "Traits",
    "Usage",
    "UsageTotal",
    "WitnessEvent",
]


def types_of(union: object) -> frozenset[str]:
    """The types, as in the column `type`, of the classes in `union`."""
    return frozenset(str(cls.__struct_config__.tag) for cls in get_args(union) or (union,))


AnyEvent = SessionEvent | KeyEvent | HoldEvent | WitnessEvent

# Streams that are no session's, and the events of each. Their ids are no UUIDs, so no session can have one.
KEYS, HOLDS, WITNESS = "keys", "holds", "witness"
RESERVED_STREAMS: dict[str, frozenset[str]] = {
    KEYS: types_of(KeyEvent),
    HOLDS: types_of(HoldEvent),
    WITNESS: types_of(WitnessEvent),
}


class IgnoredEvent(Event, frozen=True, tag="ignored"):
    """Replaces an event of an unknown type whose metadata says `ignorable`. Never recorded."""

    traits = Traits(is_access=False, holds_message=False)


LoggedEvent = AnyEvent | IgnoredEvent  # what reading the log can return: each fold has a case for every class

ReplyEnded = ReplyCompleted | ReplyFailed | ReplyCancelled | ReplyInterrupted
MessageEvent = MessagePosted | MessageCopied | ReplyEnded  # those that hold a message

EVENT_TYPES: dict[str, type[Event]] = {str(cls.__struct_config__.tag): cls for cls in get_args(AnyEvent)}
SESSION_TYPES = types_of(SessionEvent)  # types that occur only in streams of sessions

# The current schema version of each type. session_created has 2: version 1 had its timeout in hours.
SCHEMA_VERSIONS: dict[str, int] = {name: cls.traits.schema_version for name, cls in EVENT_TYPES.items()}

ACCESS_TYPES = frozenset(name for name, cls in EVENT_TYPES.items() if cls.traits.is_access)
MESSAGE_TYPES = frozenset(name for name, cls in EVENT_TYPES.items() if cls.traits.holds_message)
ERASURE_TYPES = frozenset(name for name, cls in EVENT_TYPES.items() if cls.traits.explains_erasure)
CONTENT_REMOVING_TYPES = ERASURE_TYPES | {MESSAGE_REDACTED}  # after them, content that was read before is gone
