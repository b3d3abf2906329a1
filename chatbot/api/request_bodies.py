"""Requests as types: what each body and query may hold, read with bounds, refused with the path of the fault."""

import asyncio
import codecs
import json
import re
import uuid
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from chatbot.api.request_limits import BODIES
from chatbot.config.settings import Settings

DEPTH_MAX = 32  # levels of nesting in metadata: more helps nobody and costs every reader a stack
STOPS_MAX = 8
DETAIL_MAX_CHARS, PATH_MAX_CHARS = 400, 200  # of a refusal: it quotes what was sent, which may be a megabyte
Body = TypeVar("Body")
MessageId = Annotated[str, Meta(max_length=64)]


MaxNewTokens = Annotated[int, Meta(ge=1)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Stops = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=STOPS_MAX)]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Model = Annotated[str, Meta(min_length=1, max_length=200)]


class ParametersBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a session's replies are sampled where a request does not say; null removes a parameter."""

    max_new_tokens: MaxNewTokens | UnsetType | None = UNSET
    temperature: Temperature | UnsetType | None = UNSET
    do_sample: bool | UnsetType | None = UNSET
    top_p: TopP | UnsetType | None = UNSET
    stop: Stops | UnsetType | None = UNSET
    seed: Seed | UnsetType | None = UNSET


class CreateSessionBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    metadata: dict[str, Any] | None = None
    title: str | None = None
    system_prompt: str | None = None
    timeout_hours: Annotated[float, Meta(ge=0, le=876_000)] | None = None
    model: Model | None = None
    parameters: ParametersBody | None = None


class ChangeSessionBody(Struct, frozen=True, forbid_unknown_fields=True):
    metadata: dict[str, Any] | UnsetType = UNSET
    title: str | UnsetType | None = UNSET
    system_prompt: str | UnsetType | None = UNSET
    model: Model | UnsetType | None = UNSET
    parameters: ParametersBody | UnsetType | None = UNSET


class ReplyBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """How a reply is to be written, and what to do while another one is."""

    max_new_tokens: MaxNewTokens | None = None
    temperature: Temperature | None = None
    do_sample: bool | None = None
    top_p: TopP | None = None
    stop: Stops | None = None
    seed: Seed | None = None
    model: Model | None = None
    on_busy: Literal["queue", "reject", "interrupt"] = "queue"


class ChatBody(ReplyBody, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    session_id: str
    message: str
    parent_id: MessageId | UnsetType | None = UNSET


class RegenerateBody(ReplyBody, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    message_id: MessageId | None = None


class BranchBody(Struct, frozen=True, forbid_unknown_fields=True):
    message_id: MessageId


class ForkBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    message_id: MessageId | None = None


class CancelBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`reply_id`: the reply to cancel, running or queued; None: the running one, whichever it is."""

    reply_id: MessageId | None = None


class RequestFault(Exception):
    """The request is not what it should be. `path` points at the fault, as in $.message; None: the body as a whole."""

    def __init__(
        self, detail: str, path: str | None = None, *, status: int = 422, kind: str = "invalid", title: str = "Invalid"
    ) -> None:
        super().__init__(detail)
        self.detail = shorten_middle(detail, DETAIL_MAX_CHARS)
        self.path = path and shorten_middle(path, PATH_MAX_CHARS)
        self.status = status
        self.kind = kind
        self.title = title

    @property
    def sentence(self) -> str:
        return f"{self.path}: {self.detail}" if self.path else self.detail


def shorten_middle(text: str, max_chars: int) -> str:
    """`text`, without its middle where it is longer: its ends tell the most."""
    if len(text) <= max_chars:
        return text
    half = (max_chars - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


_decoders: dict[type, msgspec.json.Decoder[Any]] = {
    body: msgspec.json.Decoder(body)
    for body in (CreateSessionBody, ChangeSessionBody, ChatBody, RegenerateBody, BranchBody, ForkBody, CancelBody)
}
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_canonical_id = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_FIELD = re.compile(r"field `(?P<name>[^`]*)`")


async def read_body(request: web.Request, kind: type[Body], timeout_s: float, *, optional: bool = False) -> Body:
    """The request's body as `kind`; an empty one counts as {} where it is `optional`.

    Raises BodyFault, HTTPRequestEntityTooLarge beyond the configured size, Overloaded while others send too much.
    """
    if (request.content_length or 0) > request.client_max_size:  # known before a byte of it is read
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, request.content_length or 0)
    try:
        if request.content.is_eof():  # as nearly always: then there is nothing to wait for
            raw = await request.read()
        else:
            size = request.client_max_size if request.content_length is None else request.content_length
            with request.app[BODIES].reserve(size):
                async with asyncio.timeout(timeout_s):
                    raw = await request.read()
    except TimeoutError:
        raise RequestFault("the body did not arrive in time", status=408, kind="timeout", title="Timeout") from None
    except web.RequestPayloadError as error:
        why = f"the body stopped before its end or is not what its headers say ({type(error).__name__})"
        raise RequestFault(why, status=400, kind="cut-body", title="Cut body") from error
    raw = raw.removeprefix(codecs.BOM_UTF8)  # some editors and shells write one
    if not raw and optional:
        raw = b"{}"
    elif request.content_type != "application/json":
        raise RequestFault(
            "send Content-Type: application/json", status=415, kind="media-type", title="Unsupported media type"
        )
    return decode_body(raw, kind)


def decode_body(raw: bytes, kind: type[Body]) -> Body:
    """Raises BodyFault: 400 for what is not JSON, 422 for JSON of another shape."""
    try:
        body: Body = _decoders[kind].decode(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        why = "a \\u escape is a lone surrogate" if _has_lone_surrogate(raw) else str(error)
        raise RequestFault(f"not JSON: {why}", status=400, kind="malformed", title="Malformed JSON") from None
    except RecursionError:
        raise RequestFault("nested too deeply", status=400, kind="malformed", title="Malformed JSON") from None
    else:
        return body


def _has_lone_surrogate(raw: bytes) -> bool:
    """Half of a UTF-16 pair, as software that cuts texts at bytes sends it. The decoder only says "truncated"."""
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
    if field and what.startswith("Object"):  # unknown or missing: point at the field, not at what should hold it
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
    """Raises BodyFault for a text that is too long, blank where it must not be, or cannot be stored."""
    if len(text) > max_chars:
        raise RequestFault(f"has {len(text)} characters; at most {max_chars} are allowed", path)
    if not blank and not text.strip():
        raise RequestFault("must not be empty or blank", path)
    if "\0" in text:
        raise RequestFault("must not contain NUL characters", path)


def check_metadata(metadata: dict[str, Any], settings: Settings) -> None:
    """Raises BodyFault for metadata that is too large, too deep, or holds NUL characters."""
    limits = settings.sessions
    if len(metadata) > limits.metadata_keys_max:
        raise RequestFault(f"has {len(metadata)} keys; at most {limits.metadata_keys_max} are allowed", "$.metadata")
    size = len(msgspec.json.encode(metadata))
    if size > limits.metadata_max_bytes:
        raise RequestFault(f"has {size} bytes; at most {limits.metadata_max_bytes} are allowed", "$.metadata")
    _check_value(metadata, "$.metadata", DEPTH_MAX)


def _check_value(value: object, path: str, depth: int) -> None:
    if depth == 0:
        raise RequestFault(f"is nested more than {DEPTH_MAX} levels deep", "$.metadata")
    if isinstance(value, str):
        check_text(value, path, len(value), blank=True)
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_text(key, path, len(key), blank=True)
            _check_value(inner, f"{path}.{key}", depth - 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_value(inner, f"{path}[{index}]", depth - 1)


def canonical_id(text: str) -> str | None:
    """`text` as a UUID is written in the log; None when it is none."""
    if _canonical_id.fullmatch(text):
        return text
    if len(text) != 36:
        return None
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def query_int(request: web.Request, name: str, default: int, lowest: int, highest: int) -> int:
    """A whole number of the query string. Raises BodyFault outside of its bounds."""
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", text) or not lowest <= int(text) <= highest:
        raise RequestFault(f"must be a whole number from {lowest} to {highest}", f"query.{name}")
    return int(text)


def check_query(request: web.Request, allowed: frozenset[str], prefix: str | None = None) -> None:
    """Raises BodyFault for a parameter that this call does not know, rather than ignore a misspelt filter, and for one
    that comes twice, rather than ignore one of the two.
    """
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise RequestFault("is there more than once", f"query.{name[:64]}")
        if name not in allowed and not (prefix and name.startswith(prefix)):
            known = sorted(allowed) + ([f"{prefix}<key>"] if prefix else [])
            raise RequestFault(f"unknown parameter; known are {', '.join(known)}", f"query.{name[:64]}")
