"""What a request says about when it may take effect, or be answered: If-Match, Idempotency-Key, at_least, Prefer."""

import hashlib
import re
import uuid

import msgspec
from aiohttp import web
from msgspec import Struct

from chatbot.api.request_bodies import RequestFault, query_int
from chatbot.sessions.domain.commands import IdempotencyKey
from chatbot.sessions.domain.rejections import VersionBehind
from events.storage.append_batch import VERSION_MAX

IF_MATCH_TAGS_MAX = 32  # in If-Match: more than anybody has versions of one session at hand
_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_ASYNC = re.compile(r"\s*respond-async\s*(=\s*(\"\"\s*)?)?(;|$)", re.IGNORECASE)
_VERSION = re.compile(r"([0-9]{1,18})(?:(?:--?|;)(?:gzip|br|deflate|zstd))?")  # as Apache, Jetty and others mark them
SESSION_ID_NAMESPACE = uuid.UUID(
    "c0b3a9de-4f0c-4b52-9a3e-6f2f5d1f7a10"
)  # the namespace of ids that are made from a key

_encode = msgspec.json.Encoder(order="deterministic").encode


def if_match(request: web.Request) -> frozenset[int] | None:
    """The versions that If-Match names; None where there are none, or any will do. Raises BodyFault.

    Proxies that compress change a tag on its way to the client ("3" to W/"3" or "3-gzip"): it names the same version.
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
    """Whether the client has this version, by If-None-Match. A text that is no list of tags names none."""
    text = ",".join(request.headers.getall("If-None-Match", ()))
    return text.strip() == "*" or version in (_versions(text) or ())


def _versions(text: str) -> frozenset[int] | None:
    """The versions in a list of entity tags; tags of another kind name none. None where it is no such list."""
    if _TAG.sub("", text).strip(", \t") or not _TAG.search(text):
        return None
    found = (_VERSION.fullmatch(tag) for tag in _TAG.findall(text))
    return frozenset(int(version[1]) for version in found if version)


def check_at_least(request: web.Request, version: int) -> None:
    """Refuse to answer with less than the version that `at_least` names, which the client knows from another node.

    Reads show all that was recorded before them, wherever; so what is not there never was, or is lost.
    Raises BodyFault, VersionBehind.
    """
    wanted = query_int(request, "at_least", 0, 0, VERSION_MAX)
    if version < wanted:
        raise VersionBehind(wanted, version)


def read_idempotency_key(request: web.Request, call: str, body: Struct) -> IdempotencyKey | None:
    """The request's Idempotency-Key and a fingerprint of what it asks for; None where it has no key.

    The key may be quoted, as the IETF draft has it, or bare, as most clients send it. The fingerprint is a SHA-256 of
    the body's meaning: spaces, the order of members and members with their default values do not count.
    Raises BodyFault.
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
    """Whether the request asks for an answer before its work is done (RFC 7240, 4.1). Other preferences do not count.

    A preference without a value and one with an empty value are the same; parameters of it mean nothing.
    """
    preferences = ",".join(request.headers.getall("Prefer", ())).split(",")
    return any(_ASYNC.match(one) for one in preferences)


def session_id_for_key(idempotency_key: IdempotencyKey | None, new_id: str, *scope: str | None) -> str:
    """The id of a session to be made: `new_id`, or, for a request with a key, always the same one within `scope`."""
    if idempotency_key is None:
        return new_id
    return str(uuid.uuid5(SESSION_ID_NAMESPACE, _encode((*scope, idempotency_key.key)).decode()))
