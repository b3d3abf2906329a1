"""What a search for events asks for, shared by the HTTP API, `chatbot find` and `chatbot export`. Pure.

An EventFilter looks at envelopes: time, type, name of the API key, request id. A SessionFilter looks at the session of
an event: its owner and its metadata.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from msgspec import Struct

from chatbot.audit.point_in_time import parse_time_bound
from events.catalogue import EVENT_TYPES
from events.codec import decode_metadata
from events.record import Metadata
from projections.folds.blind_index import metadata_matches, normalize_nfc

TYPES_MAX = 64  # names in one filter: more than there are types


class HasEnvelope(Protocol):
    """An envelope or a row."""

    @property
    def type(self) -> str: ...

    @property
    def recorded_at_us(self) -> int: ...

    @property
    def metadata(self) -> str: ...


class EventFilter(Struct, frozen=True, kw_only=True):
    """Every condition that is set must hold. Times are unix microseconds; both ends are included.

    `actor` is the name of the API key that an event's envelope has, `request_id` the response's X-Request-ID.
    """

    since_us: int | None = None
    until_us: int | None = None
    types: frozenset[str] = frozenset()
    actor: str | None = None
    request_id: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it lets every event through."""
        return self == EventFilter()

    def matches(self, row: HasEnvelope) -> bool:
        """Whether the event passes. Never raises: an envelope that no log writes has no key name and no request id."""
        if self.types and row.type not in self.types:
            return False
        if self.since_us is not None and row.recorded_at_us < self.since_us:
            return False
        if self.until_us is not None and row.recorded_at_us > self.until_us:
            return False
        if self.actor is None and self.request_id is None:
            return True
        envelope = read_metadata(row.metadata)
        return self.actor in (None, envelope.actor) and self.request_id in (None, envelope.request_id)


class SessionFilter(Struct, frozen=True, kw_only=True):
    """Every condition that is set must hold. `ever`: metadata that a session had at some time counts, too, if it had
    all entries at the same time.
    """

    owner: str | None = None
    metadata: Mapping[str, str] = {}
    ever: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it lets every session through."""
        return self.owner is None and not self.metadata

    def matches_metadata(self, metadata: Mapping[str, object]) -> bool:
        """Whether `metadata` has every wanted entry, compared in Unicode NFC."""
        return metadata_matches(metadata, self.metadata)


def read_metadata(text: str) -> Metadata:
    """The envelope's metadata; empty for a text that no log writes."""
    try:
        return decode_metadata(text)
    except (ValueError, UnicodeEncodeError):
        return Metadata()


def parse_types(names: Iterable[str]) -> frozenset[str]:
    """The names of event types. Raises ValueError for a name that no type has: a misspelt filter must not look like an
    empty log.
    """
    types = frozenset(names)
    for name in sorted(types):
        if name not in EVENT_TYPES:
            raise ValueError(f"{name[:64]!r} is no event type; types are {', '.join(sorted(EVENT_TYPES))}")
    return types


def parse_since(text: str) -> int:
    """The time at which a range begins, from a time with its zone or a day (its start, in UTC). Raises ValueError."""
    return parse_time_bound(text, is_end=False)


def parse_until(text: str) -> int:
    """The time at which a range ends, from a time with its zone or a day (its end, in UTC). Raises ValueError."""
    return parse_time_bound(text, is_end=True)


def parse_entry(text: str) -> tuple[str, str]:
    """A metadata entry written as NAME=VALUE. Raises ValueError."""
    name, equals, value = normalize_nfc(text).partition("=")
    if not (name and equals):
        raise ValueError(f"metadata is NAME=VALUE, such as user_id=42, and not {text!r}")
    return name, value
