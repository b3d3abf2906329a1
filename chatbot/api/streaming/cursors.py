"""Where a reader says that it is: <version>:<offset>, as the ids of the frames say it."""

import re

from aiohttp import web
from msgspec import Struct

from chatbot.api.request_bodies import RequestFault

PATTERN = r"[0-9]{1,15}(:[0-9]{1,15})?"  # no more digits than any program can count exactly


class Cursor(Struct, frozen=True):
    """The last recorded event that the reader knows, and how many code points it has of the reply that is open there.

    `offset` None: as many as were recorded by then.
    """

    version: int
    offset: int | None = None


def read_cursor(request: web.Request) -> Cursor | None:
    """The cursor of Last-Event-ID, which wins, or of ?after; None where there is none. Raises BodyFault."""
    cursor = last_event_id(request)
    if cursor is None and "after" in request.query:
        return _parse(request.query["after"], "query.after")
    return cursor


def last_event_id(request: web.Request) -> Cursor | None:
    """The cursor of Last-Event-ID; None where there is none. Raises BodyFault."""
    text = request.headers.get("Last-Event-ID", "")
    return _parse(text, "header.Last-Event-ID") if text else None


def _parse(text: str, path: str) -> Cursor:
    if not re.fullmatch(PATTERN, text):
        raise RequestFault("is not a cursor that this service gave out", path)
    version, _, offset = text.partition(":")
    return Cursor(int(version), int(offset) if offset else None)
