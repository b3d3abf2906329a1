"""Requests: headers, the session's id in the path, and the body, read within limits and checked.

Headers are preconditions (If-Match, at_least), Idempotency-Key, Prefer, and the cursor to resume a stream from. What is
wrong is refused with the path of the fault.
"""

import asyncio
import codecs
import hashlib
import json
import re
import uuid
from collections.abc import Callable
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from aiohttp import web
from msgspec import Struct, UnsetType

from chatbot.api.access.authorization import CALLER
from chatbot.api.json_checks import check_extra_body, check_json, check_tools, nul_fault
from chatbot.api.problems import DETAIL_MAX_CHARS, RequestFault, shorten_middle
from chatbot.api.request_bodies import (
    ChatBody,
    ParametersBody,
    ReplyBody,
)
from chatbot.api.request_limits import BODIES, IF_MATCH_TAGS_MAX
from chatbot.api.request_queries import check_query, query_int
from chatbot.api.streaming.frames import CURSOR_PATTERN
from chatbot.config.sections.chat_settings import ChatSettings
from chatbot.config.settings import Settings
from chatbot.sessions.domain.commands import IdempotencyKey
from chatbot.sessions.domain.reasons import find_reason_fault, find_ticket_fault
from chatbot.sessions.domain.rejections import SessionNotFound, VersionBehind
from events.catalogue import Parameters
from events.record import VERSION_MAX

Body = TypeVar("Body")
Id = TypeVar("Id")

_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
JSON = "application/json"
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_canonical_id = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_FIELD = re.compile(r"field `(?P<name>[^`]*)`")

_TAG = re.compile(r'(?:W/)?"([^"]*)"')
_ASYNC = re.compile(r"\s*respond-async\s*(=\s*(\"\"\s*)?)?(;|$)", re.IGNORECASE)
_VERSION = re.compile(r"([0-9]{1,18})(?:(?:--?|;)(?:gzip|br|deflate|zstd))?")  # as Apache, Jetty and others mark them
SESSION_ID_NAMESPACE = uuid.UUID("c0b3a9de-4f0c-4b52-9a3e-6f2f5d1f7a10")  # of session ids derived from a key

_encode = msgspec.json.Encoder(order="deterministic").encode


async def read_body(request: web.Request, kind: type[Body], timeout_s: float, *, optional: bool = False) -> Body:
    """The request's body as `kind`; if it is `optional`, an empty one counts as {}.

    Raises RequestFault, and what `read_raw` raises.
    """
    raw = await read_raw(request, request.client_max_size, timeout_s, optional=optional)
    return decode_body(raw, kind)


async def read_raw(request: web.Request, bytes_max: int, timeout_s: float, *, optional: bool = False) -> bytes:
    """The bytes of a JSON body; if it is `optional`, {} in place of an empty one.

    Raises RequestFault, HTTPRequestEntityTooLarge beyond `bytes_max`, Overloaded if the bodies that are arriving exceed
    their budget together.
    """
    if (request.content_length or 0) > bytes_max:  # known before a byte of it is read
        raise web.HTTPRequestEntityTooLarge(bytes_max, request.content_length or 0)
    try:
        if request.content.is_eof():  # the usual case: nothing to wait for
            raw = request.content.read_nowait()
            if len(raw) > bytes_max:
                raise web.HTTPRequestEntityTooLarge(bytes_max, len(raw))
        else:
            size = bytes_max if request.content_length is None else request.content_length
            with request.app[BODIES].reserve(size, request[CALLER].owner):
                async with asyncio.timeout(timeout_s):
                    raw = await _read_bounded(request, bytes_max)
    except TimeoutError:
        raise RequestFault("the body did not arrive in time", status=408, kind="timeout", title="Timeout") from None
    except web.RequestPayloadError as error:
        why = f"the body stopped before its end or is not what its headers say ({type(error).__name__})"
        raise RequestFault(why, status=400, kind="cut-body", title="Cut body") from error
    raw = raw.removeprefix(codecs.BOM_UTF8)  # some editors and shells write one
    if not raw and optional:
        return b"{}"
    if request.headers.get("Content-Type") != JSON and request.content_type != JSON:
        raise RequestFault(
            "send Content-Type: application/json", status=415, kind="media-type", title="Unsupported media type"
        )
    return raw


async def _read_bounded(request: web.Request, bytes_max: int) -> bytes:
    """As aiohttp's `Request.read`, with a limit of the route."""
    raw = await request.content.readany()
    pieces: list[bytes] = []
    size = len(raw)
    while raw:
        if size > bytes_max:
            raise web.HTTPRequestEntityTooLarge(bytes_max, size)
        pieces.append(raw)
        raw = await request.content.readany()
        size += len(raw)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def decode_body(raw: bytes, kind: type[Body]) -> Body:
    """Raises RequestFault: 400 for invalid JSON, 422 for JSON of another shape."""
    try:
        body: Body = _decoder(kind).decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = "a \\u escape is a lone surrogate" if _has_lone_surrogate(raw) else str(error)
        raise RequestFault(f"not JSON: {why}", status=400, kind="malformed", title="Malformed JSON") from None
    except RecursionError:
        raise RequestFault("nested too deeply", status=400, kind="malformed", title="Malformed JSON") from None
    else:
        return body


def _decoder(kind: type[Body]) -> msgspec.json.Decoder[Body]:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return decoder


def _has_lone_surrogate(raw: bytes) -> bool:
    """Whether `raw` has half of a UTF-16 pair, from software that cuts texts. To the decoder it is just truncated."""
    try:
        json.dumps(json.loads(raw), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def _invalid(message: str, kind: type) -> RequestFault:
    message = shorten_middle(message, 2 * DETAIL_MAX_CHARS)
    found = _WHERE.match(message)
    what = found["what"] if found else message
    path = (found["path"] if found else None) or "$"
    field = _FIELD.search(what)
    if field and what.startswith("Object"):  # unknown or missing: point at the field, not at its object
        holder, path = path, f"{path}.{field['name']}"
        if "unknown" in what:
            what += f"; known are {', '.join(sorted(_fields_at(kind, holder)))}"
    return RequestFault(what[:1].lower() + what[1:], path)


def _fields_at(kind: Any, path: str) -> tuple[str, ...]:
    """The names that the object at `path` of a body of type `kind` may have."""
    for name in path.split(".")[1:]:
        hint = get_type_hints(kind).get(name)
        kind = next((one for one in get_args(hint) if hasattr(one, "__struct_fields__")), object)
    return getattr(kind, "__struct_fields__", ())


def check_text(text: str, path: str, max_chars: int, *, blank: bool = False) -> None:
    """Raises RequestFault for a text that is too long, blank (unless `blank`), or has NUL characters."""
    if len(text) > max_chars:
        raise RequestFault(f"has {len(text)} characters; at most {max_chars} are allowed", path)
    if not blank and not text.strip():
        raise RequestFault("must not be empty or blank", path)
    if "\0" in text:
        raise nul_fault(path)


def check_options(body: ReplyBody | ParametersBody, path: str, limits: ChatSettings) -> None:
    """Check those parameters that the model server gets as they are. `path` leads to the object that has them.

    Raises RequestFault.
    """
    if isinstance(body, ReplyBody):
        if body.tools is not None:
            check_tools(body.tools, limits)
        if body.tool_choice is not None:
            check_json(body.tool_choice, "$.tool_choice", limits.tools_max_bytes)
    if isinstance(body.response_format, dict):
        check_json(body.response_format, f"{path}.response_format", limits.response_format_max_bytes)
    if isinstance(body.reasoning_effort, str):
        check_text(body.reasoning_effort, f"{path}.reasoning_effort", len(body.reasoning_effort))
    if isinstance(body.extra_body, dict):
        check_extra_body(body.extra_body, f"{path}.extra_body", limits)


def canonical_id(text: str) -> str | None:
    """The UUID `text` as the log writes UUIDs; None if it is not a UUID."""
    if _canonical_id.fullmatch(text):
        return text
    if len(text) != 36:
        return None
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def check_chat(body: ChatBody, settings: Settings) -> str:
    """Check what the types cannot express, but for a message in parts, see message_parts.py.

    Returns the session's id as the log writes it. Raises RequestFault.
    """
    session_id = canonical_id(body.session_id)
    if session_id is None:
        raise RequestFault("is not a UUID", "$.session_id")
    if isinstance(body.message, str):
        if body.role == "tool":
            raise RequestFault("must be a list of parts of type tool_result, as role is tool", "$.message")
        check_text(body.message, "$.message", settings.chat.message_max_chars)
    check_reply(body, settings)
    return session_id


def check_reply(body: ReplyBody, settings: Settings) -> None:
    """Check what the types of the parameters cannot express. Raises RequestFault."""
    check_tokens(body.max_new_tokens, "$.max_new_tokens", settings)
    check_options(body, "$", settings.chat)


def check_tokens(max_new_tokens: int | UnsetType | None, path: str, settings: Settings) -> None:
    """Raises RequestFault for more tokens than the ceiling of one reply."""
    ceiling = settings.chat.max_tokens_ceiling
    if isinstance(max_new_tokens, int) and max_new_tokens > ceiling:
        raise RequestFault(f"expected `int` <= {ceiling}", path)


def parameters_of(body: ReplyBody) -> Parameters:
    """The parameters that the request gives."""
    return Parameters(
        max_new_tokens=body.max_new_tokens,
        temperature=body.temperature,
        do_sample=body.do_sample,
        top_p=body.top_p,
        stop=tuple(body.stop or ()),
        seed=body.seed,
        model=body.model,
        tools=body.tools,
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=body.response_format,
        reasoning_effort=body.reasoning_effort,
        extra_body=body.extra_body,
        send_reasoning=body.send_reasoning,
    )


def if_match(request: web.Request) -> frozenset[int] | None:
    """The versions in If-Match; None without the header or for *. Raises RequestFault.

    Proxies that compress change a tag on its way to the client ("3" to W/"3" or "3-gzip"): it means the same version.
    """
    lines = request.headers.getall("If-Match", ())
    if not lines:
        return None
    text = ",".join(lines)
    if text.strip() == "*":
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


def read_explanation(request: web.Request) -> tuple[str | None, str | None]:
    """The query's `reason_code` and `ticket`: why something is erased. Raises RequestFault."""
    check_query(request, frozenset({"reason_code", "ticket"}))
    reason_code, ticket = request.query.get("reason_code"), request.query.get("ticket")
    for name, fault in (("reason_code", find_reason_fault(reason_code)), ("ticket", find_ticket_fault(ticket))):
        if fault is not None:
            raise RequestFault(fault, f"query.{name}")
    return reason_code, ticket


def prefers_async(request: web.Request) -> bool:
    """Whether the request has the preference respond-async (RFC 7240, 4.1); others are ignored.

    A preference without a value equals one with an empty value; its parameters are ignored.
    """
    lines = request.headers.getall("Prefer", ())
    return bool(lines) and any(_ASYNC.match(one) for one in ",".join(lines).split(","))


def session_id_for_key(idempotency_key: IdempotencyKey | None, new_id: str, *scope: str | None) -> str:
    """The id of a session to create: `new_id`, or for a request with a key the same id each time within `scope`."""
    if idempotency_key is None:
        return new_id
    return str(uuid.uuid5(SESSION_ID_NAMESPACE, _encode((*scope, idempotency_key.key)).decode()))


def session_id_of(request: web.Request) -> str:
    """The session id in the path. Raises SessionNotFound if it is not a UUID."""
    return id_in_path(request, "session_id", canonical_id)


def id_in_path(request: web.Request, name: str, read: Callable[[str], Id | None]) -> Id:
    """What `read` makes of that part of the path. Raises SessionNotFound if it is no such id (None)."""
    given = request.match_info[name]
    found = read(given)
    if found is None:
        raise SessionNotFound(given[:64])
    return found


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
