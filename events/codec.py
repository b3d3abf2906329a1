"""The event codec: serializes events to the JSON of the column `data`, and decodes them, upcasting old versions.

`data` has the event's type first, then its fields, so that it can be read without the other columns. Unknown fields in
stored data are ignored, so an older program reads events with a newer program's optional fields. An unknown type or
a newer schema version raises UnknownEvent, because its meaning cannot be guessed.
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
# Types whose older versions need no upcaster: what the newest version adds has a default.
SAME_SHAPE = frozenset(name for name, cls in TYPES.items() if cls.traits.has_plain_version)
# What all processes must be able to read before a message with parts is recorded.
VERSIONS_WITH_PARTS = {name: TYPES[name].traits.schema_version for name in SAME_SHAPE}
# Types whose events a program that does not know them may ignore: they do not change the meaning of any other event.
IGNORABLE: frozenset[str] = frozenset()
_READ_AS_THEY_ARE = {name: (1 if name in SAME_SHAPE else newest, newest) for name, newest in SCHEMA_VERSIONS.items()}
_TOO_DEEP = "its JSON is nested too deeply"
_NAMES = {cls: tag for tag, cls in TYPES.items()}
_encoder = msgspec.json.Encoder()
_decoders: dict[str, msgspec.json.Decoder[Any]] = {tag: msgspec.json.Decoder(cls) for tag, cls in TYPES.items()}
_metadata_decoder: msgspec.json.Decoder[Metadata] = msgspec.json.Decoder(Metadata)


def event_type(event: Event) -> str:
    """The event's name in the log."""
    return _NAMES[type(event)]


def schema_version_of(kind: str, event: Event) -> int:
    """The schema version with which `event`, of type `kind`, is written: 1 if an older program can read it, too."""
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
    """The event in `data`, upcast to the current schema version.

    Raises UnknownEvent for a type or schema version newer than this program, ValueError for damaged data.
    """
    oldest, newest = _READ_AS_THEY_ARE.get(event_type, (0, -1))
    try:
        if not oldest <= schema_version <= newest:
            if event_type not in TYPES or schema_version > newest:
                raise UnknownEvent(event_type, schema_version)
            fields = upcast(event_type, schema_version, msgspec.json.decode(data))
            return cast(AnyEvent, msgspec.convert(fields, TYPES[event_type]))
        event: AnyEvent = _decoders[event_type].decode(data)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    return event


def decode_recorded(
    event_type: str, schema_version: int, data: bytes | str | None, metadata: Metadata
) -> LoggedEvent | None:
    """As `decode`, for a row of the log: None if its content is erased, IgnoredEvent for an unknown type whose metadata
    says `ignorable`. Raises as `decode`.
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
    """Whether this program can read such an event, or may ignore it. `metadata` is the stored JSON."""
    if is_known(event_type, schema_version):
        return True
    try:
        return decode_metadata(metadata).ignorable
    except ValueError:
        return False


def check(event_type: str, data: bytes) -> None:
    """Raises ValueError for data of the current schema version that `decode` would refuse."""
    _decoders[event_type].decode(data)


def encode_metadata(metadata: Metadata) -> str:
    """The JSON for the column `metadata`."""
    return _encoder.encode(metadata).decode()


def decode_metadata(text: str) -> Metadata:
    """The inverse of `encode_metadata`. Raises ValueError for any other text."""
    try:
        return _metadata_decoder.decode(text)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
