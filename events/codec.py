"""Events to and from the `data` column: JSON that any SQLite tool can read.

`data` holds the event's fields and, first, its type, so that the bytes stand alone. Unknown fields in stored data are
ignored, so that a newer program's optional fields do not stop an older one; an unknown type or a newer schema
version does, because its meaning cannot be guessed.
"""

from typing import Any, cast

import msgspec

from events import catalogue
from events.catalogue import EVENT_TYPES, SCHEMA_VERSIONS, AnyEvent, Event, IgnoredEvent, LoggedEvent, ReplyProgressed
from events.errors import UnknownEvent
from events.integrity.commitments import with_parts_first
from events.record import Metadata
from events.upcasters import upcast

TYPES = EVENT_TYPES
# Types whose older data needs no step: what the newest version has besides has a default.
SAME_SHAPE = frozenset(name for name, cls in TYPES.items() if cls.traits.has_plain_version)
# What a process must read before a message with parts is made.
VERSIONS_WITH_PARTS = {name: TYPES[name].traits.schema_version for name in SAME_SHAPE}
# Types whose events a program that does not know them may ignore: they do not change the meaning of any other event.
IGNORABLE: frozenset[str] = frozenset()
_READ_AS_THEY_ARE = {name: (1 if name in SAME_SHAPE else newest, newest) for name, newest in SCHEMA_VERSIONS.items()}
_NAMES = {cls: tag for tag, cls in TYPES.items()}
_encoder = msgspec.json.Encoder()
_decoders: dict[str, msgspec.json.Decoder[Any]] = {tag: msgspec.json.Decoder(cls) for tag, cls in TYPES.items()}
_metadata_decoder: msgspec.json.Decoder[Metadata] = msgspec.json.Decoder(Metadata)


def event_type(event: Event) -> str:
    """The event's name in the log."""
    return _NAMES[type(event)]


def schema_version_of(kind: str, event: Event) -> int:
    """The version that `event`, of type `kind`, is written with: 1 where an older program can read it, too."""
    if kind not in SAME_SHAPE:
        return catalogue.SCHEMA_VERSIONS[kind]
    if isinstance(event, ReplyProgressed):
        return 1 if event.part == 0 and event.kind == "text" else 2
    return 2 if event.parts else 1  # type: ignore[attr-defined]  # all others in SAME_SHAPE have parts


def encode(event: Event) -> bytes:
    """The event's data: a JSON object in UTF-8. Raises ValueError for text that is not Unicode."""
    data = _encoder.encode(event)
    return with_parts_first(data) if getattr(event, "parts", ()) else data


def decode(event_type: str, schema_version: int, data: bytes | str) -> AnyEvent:
    """The event that `data` holds, lifted to its current shape.

    Raises UnknownEvent for a type or schema version newer than this program, ValueError for damaged data.
    """
    oldest, newest = _READ_AS_THEY_ARE.get(event_type, (0, -1))
    if not oldest <= schema_version <= newest:
        if event_type not in TYPES or schema_version > newest:
            raise UnknownEvent(event_type, schema_version)
        fields = upcast(event_type, schema_version, msgspec.json.decode(data))
        return cast(AnyEvent, msgspec.convert(fields, TYPES[event_type]))
    event: AnyEvent = _decoders[event_type].decode(data)
    return event


def decode_recorded(
    event_type: str, schema_version: int, data: bytes | str | None, metadata: Metadata
) -> LoggedEvent | None:
    """As `decode`, of an event in the log: None once its content is erased, IgnoredEvent where its metadata allows to
    pass over it.
    """
    if data is None:
        return None
    try:
        return decode(event_type, schema_version, data)
    except UnknownEvent:
        if metadata.ignorable:
            return IgnoredEvent()
        raise


def is_known(event_type: str, schema_version: int) -> bool:
    """Whether this program can read events of this type and schema version."""
    return schema_version <= SCHEMA_VERSIONS.get(event_type, 0)


def is_readable(event_type: str, schema_version: int, metadata: str) -> bool:
    """Whether this program can read such an event, or may pass over it. `metadata` is as stored."""
    if is_known(event_type, schema_version):
        return True
    try:
        return _metadata_decoder.decode(metadata).ignorable
    except (msgspec.DecodeError, UnicodeError):
        return False


def check(event_type: str, data: bytes) -> None:
    """Raises ValueError for data of the current schema version that `decode` would not take."""
    _decoders[event_type].decode(data)


def encode_metadata(metadata: Metadata) -> str:
    """What the `metadata` column holds: JSON."""
    return _encoder.encode(metadata).decode()


def decode_metadata(text: str) -> Metadata:
    """Raises ValueError for text that is no metadata."""
    return _metadata_decoder.decode(text)
