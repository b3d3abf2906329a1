"""Parts of a posted message as requests write them. `chatbot/api/message_parts.py` checks them."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from events.schema.parts import CALL_ID_MAX_CHARS, MEDIA_NAME_MAX_CHARS, NESTED_PARTS_MAX

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


class _PartBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, tag_field="type"):
    """Subclasses are the kinds of parts."""


class TextBody(_PartBody, frozen=True, tag="text"):
    text: str


class ImageUrl(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`url` is data:<type>;base64,<data>. `detail` is accepted and not kept."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImageUrlBody(_PartBody, frozen=True, tag="image_url"):
    """An image in the request itself, as OpenAI's clients send it."""

    image_url: ImageUrl


class MediaBody(_PartBody, frozen=True, tag="media"):
    """A file that is there already. `media_type` and `bytes`, where they are given, must be right; `url` is not read,
    so that a part of the history can be sent as it is.
    """

    sha256: Sha256
    name: Annotated[str, Meta(max_length=MEDIA_NAME_MAX_CHARS)] | None = None
    media_type: str | None = None
    bytes: int | None = None
    url: Any = None


NestedBody = TextBody | ImageUrlBody | MediaBody
NestedParts = Annotated[list[NestedBody], Meta(max_length=NESTED_PARTS_MAX)]


class ToolResultBody(_PartBody, frozen=True, tag="tool_result"):
    """What a tool gave for the call `call_id` of the reply that the message follows."""

    call_id: Annotated[str, Meta(min_length=1, max_length=CALL_ID_MAX_CHARS)]
    content: str | NestedParts
    is_error: bool = False


PartBody = TextBody | ImageUrlBody | MediaBody | ToolResultBody
