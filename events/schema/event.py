"""The base of all events, and the properties that each class of events has."""

from typing import ClassVar

from msgspec import Struct

# Explains that the content of the versions that it names is gone; types that explain an erasure do so for all earlier
# versions.
MESSAGE_REDACTED = "message_redacted"


class Traits(Struct, frozen=True, kw_only=True):
    """Properties of an event class. The first two have no default, so that every class must decide them.

    `is_access`: the event counts as use of its session and postpones its expiry. `holds_message`: it contains one
    complete message, to which forks, imports and searches refer. `explains_erasure`: the content of earlier events of
    its stream is erased. `schema_version`: the current one. `has_plain_version`: version 2 only adds parts, so events
    without parts are still written as version 1.
    """

    is_access: bool
    holds_message: bool
    explains_erasure: bool = False
    schema_version: int = 1
    has_plain_version: bool = False


class Event(Struct, frozen=True, tag_field="type", omit_defaults=True):
    """A fact. Subclasses name it; the envelope (`RecordedEvent`) says when and by whom."""

    traits: ClassVar[Traits]


class ReservedEvent(Event, frozen=True):
    """An event of a reserved stream, which is no session's: folds of sessions ignore it."""

    traits = Traits(is_access=False, holds_message=False)
