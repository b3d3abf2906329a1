"""Filters of the calls that read events, from the query string."""

from collections.abc import Callable
from typing import TypeVar

from aiohttp import web

from chatbot.api.problems import RequestFault
from chatbot.api.request_limits import FILTERS_MAX
from chatbot.api.request_queries import query_choice
from chatbot.audit.search.event_filter import (
    TYPES_MAX,
    EventFilter,
    SessionFilter,
    parse_since,
    parse_types,
    parse_until,
)

T = TypeVar("T")

EVENT_FILTERS = frozenset({"since", "until", "type", "key", "request_id"})
SESSION_FILTERS = frozenset({"owner", "ever"})
METADATA_PREFIX = "metadata."
NAME_MAX_CHARS = 200  # of a key's name or a request id: longer ones are refused where they are made


def read_event_filter(request: web.Request) -> EventFilter:
    """The filter by envelopes; without parameters it lets every event through. Raises RequestFault."""
    since_us, until_us = _parsed(request, "since", parse_since), _parsed(request, "until", parse_until)
    if since_us is not None and until_us is not None and until_us < since_us:
        raise RequestFault("must not be before since", "query.until")
    return EventFilter(
        since_us=since_us,
        until_us=until_us,
        types=_parsed(request, "type", _types) or frozenset(),
        actor=_parsed(request, "key", _name),
        request_id=_parsed(request, "request_id", _name),
    )


def read_session_filter(request: web.Request) -> SessionFilter:
    """The filter by sessions; without parameters it lets every session through. Raises RequestFault."""
    entries = {
        name.removeprefix(METADATA_PREFIX): value
        for name, value in request.query.items()
        if name.startswith(METADATA_PREFIX)
    }
    if len(entries) > FILTERS_MAX:
        raise RequestFault(f"at most {FILTERS_MAX} metadata filters are allowed", "query")
    ever = query_choice(request, "ever", ("false", "true")) == "true"
    if ever and not entries:
        raise RequestFault(f"goes with {METADATA_PREFIX}<key>", "query.ever")
    return SessionFilter(owner=_parsed(request, "owner", _name), metadata=entries, ever=ever)


def _parsed(request: web.Request, name: str, parse: Callable[[str], T]) -> T | None:
    text = request.query.get(name)
    if text is None:
        return None
    try:
        return parse(text)
    except ValueError as error:
        hint = " (in an address, write the + of a zone as %2B)" if " " in text else ""
        raise RequestFault(f"{error}{hint}", f"query.{name}") from error


def _types(text: str) -> frozenset[str]:
    names = text.split(",")
    if len(names) > TYPES_MAX:
        raise ValueError(f"at most {TYPES_MAX} types are allowed")
    return parse_types(names)


def _name(text: str) -> str:
    if not 0 < len(text) <= NAME_MAX_CHARS:
        raise ValueError(f"must have 1 to {NAME_MAX_CHARS} characters")
    return text
