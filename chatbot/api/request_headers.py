"""Request headers: preconditions (If-Match, at_least), Idempotency-Key, Prefer, and the cursor to resume a stream from.

Also the session's id in the path.
"""

import hashlib
import re
import uuid

import msgspec
from aiohttp import web
from msgspec import Struct

from chatbot.api.problems import RequestFault
from chatbot.api.request_bodies import canonical_id
from chatbot.api.request_limits import IF_MATCH_TAGS_MAX
from chatbot.api.request_queries import query_int
from chatbot.api.streaming.frames import CURSOR_PATTERN
from chatbot.sessions.domain.commands import IdempotencyKey
from chatbot.sessions.domain.rejections import SessionNotFound, VersionBehind
from events.record import VERSION_MAX

_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_ASYNC = re.compile(r"\s*respond-async\s*(=\s*(\"\"\s*)?)?(;|$)", re.IGNORECASE)
_VERSION = re.compile(r"([0-9]{1,18})(?:(?:--?|;)(?:gzip|br|deflate|zstd))?")  # as Apache, Jetty and others mark them
SESSION_ID_NAMESPACE = uuid.UUID("c0b3a9de-4f0c-4b52-9a3e-6f2f5d1f7a10")  # of session ids derived from a key

_encode = msgspec.json.Encoder(order="deterministic").encode


def if_match(request: web.Request) -> frozenset[int] | None:
    """The versions in If-Match; None without the header or for *. Raises RequestFault.

    Proxies that compress change a tag on its way to the client ("3" to W/"3" or "3-gzip"): it means the same version.
    """
    lines = request.headers.getall("If-Match", ())
    text = ",".join(lines)
    if not lines or text.strip() == "*":
        return None
    versions = _versions(text)
    if not versions or len(versions) > IF_MATCH_TAGS_MAX:
        why = f'must be * or 1 to {IF_MATCH_TAGS_MAX} versions as ETags have them, such as "3"'
        raise RequestFault(why, "header.If-Match", status=400)
    return versions


def matches_if_none_match(request: web.Request, version: int) -> bool:
    """Whether If-None-Match says that the client has this version. A malformed header matches nothing."""
    text = ",".join(request.headers.getall("If-None-Match", ()))
    return text.strip() == "*" or version in (_versions(text) or ())


def _versions(text: str) -> frozenset[int] | None:
    """The versions in a list of entity tags; other tags are ignored. None if the list is malformed."""
    if _TAG.sub("", text).strip(", \t") or not _TAG.search(text):
        return None
    found = (_VERSION.fullmatch(tag) for tag in _TAG.findall(text))
    return frozenset(int(version[1]) for version in found if version)


def check_at_least(request: web.Request, version: int) -> None:
    """Refuse to answer with an older version than `at_least`, which the client knows from another node.

    A read shows everything recorded before it at any node, so a missing version never existed or is lost.
    Raises RequestFault, VersionBehind.
    """
    wanted = query_int(request, "at_least", 0, 0, VERSION_MAX)
    if version < wanted:
        raise VersionBehind(wanted, version)


def read_idempotency_key(request: web.Request, call: str, body: Struct) -> IdempotencyKey | None:
    """The request's Idempotency-Key and a fingerprint of the request; None without the header.

    The key may be quoted, as in the IETF draft, or bare, as most clients send it. The fingerprint is a SHA-256 of the
    decoded body: whitespace, the order of members, and members with default values do not count.
    Raises RequestFault.
    """
    text = request.headers.get("Idempotency-Key")
    if text is None:
        return None
    found = re.fullmatch(r'(?P<quote>"?)(?P<key>[\x21\x23-\x7e]{1,255})(?P=quote)', text.strip())
    if not found:
        why = "must be 1 to 255 visible ASCII characters, such as a UUID"
        raise RequestFault(why, "header.Idempotency-Key", status=400)
    return IdempotencyKey(found["key"], hashlib.sha256(_encode((call, body))).hexdigest())


def prefers_async(request: web.Request) -> bool:
    """Whether the request has the preference respond-async (RFC 7240, 4.1); others are ignored.

    A preference without a value equals one with an empty value; its parameters are ignored.
    """
    preferences = ",".join(request.headers.getall("Prefer", ())).split(",")
    return any(_ASYNC.match(one) for one in preferences)


def session_id_for_key(idempotency_key: IdempotencyKey | None, new_id: str, *scope: str | None) -> str:
    """The id of a session to create: `new_id`, or for a request with a key the same id each time within `scope`."""
    if idempotency_key is None:
        return new_id
    return str(uuid.uuid5(SESSION_ID_NAMESPACE, _encode((*scope, idempotency_key.key)).decode()))


def session_id_of(request: web.Request) -> str:
    """The session id in the path. Raises SessionNotFound if it is not a UUID."""
    given = request.match_info["session_id"]
    session_id = canonical_id(given)
    if session_id is None:
        raise SessionNotFound(given[:64])
    return session_id


class Cursor(Struct, frozen=True):
    """A reader's position in a session, `<version>:<offset>` in frame ids and requests: the last recorded event that it
    knows, and how many code points it has of the reply that is open there. `offset` None: as many as were recorded.
    """

    version: int
    offset: int | None = None


def read_cursor(request: web.Request) -> Cursor | None:
    """The cursor in Last-Event-ID, else in ?after; None without either. Raises RequestFault."""
    cursor = last_event_id(request)
    if cursor is None and "after" in request.query:
        return _parse_cursor(request.query["after"], "query.after")
    return cursor


def last_event_id(request: web.Request) -> Cursor | None:
    """The cursor in Last-Event-ID; None without the header. Raises RequestFault."""
    text = request.headers.get("Last-Event-ID", "")
    return _parse_cursor(text, "header.Last-Event-ID") if text else None


def _parse_cursor(text: str, path: str) -> Cursor:
    if not re.fullmatch(CURSOR_PATTERN, text):
        raise RequestFault("is not a cursor that this service gave out", path)
    version, _, offset = text.partition(":")
    return Cursor(int(version), int(offset) if offset else None)
