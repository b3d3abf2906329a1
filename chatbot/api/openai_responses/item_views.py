"""Items as types, and a message's parts as items: one item for each part of a reply, one for each other message and for
each result. Pure. The OpenAPI document is made from the same types.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, assert_never

from msgspec import Struct

from chatbot.api.openai_responses.object_ids import CALL, MESSAGE, REASONING, RESULT, item_id
from events.schema.parts import Media, Part, Parts, Reasoning, Redacted, Refusal, Text, ToolCall, ToolResult

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ItemRole = Literal["user", "assistant", "system"]
MediaUrl = Callable[[Media], str]


class OutputTextView(Struct, frozen=True):
    text: str
    type: Literal["output_text"] = "output_text"
    annotations: list[Any] = []
    logprobs: list[Any] = []


class RefusalView(Struct, frozen=True):
    refusal: str
    type: Literal["refusal"] = "refusal"


class InputTextView(Struct, frozen=True):
    text: str
    type: Literal["input_text"] = "input_text"


class InputImageView(Struct, frozen=True):
    """`image_url` is an address of this service."""

    image_url: str
    type: Literal["input_image"] = "input_image"
    detail: Literal["auto"] = "auto"
    file_id: None = None


class ReasoningTextView(Struct, frozen=True):
    text: str
    type: Literal["reasoning_text"] = "reasoning_text"


ContentView = OutputTextView | RefusalView | InputTextView | InputImageView


class _Item(Struct, frozen=True, tag_field="type"):
    """Subclasses are the kinds of items."""


class MessageItem(_Item, frozen=True, tag="message"):
    """A message; a reply's has one part of text, or a refusal."""

    id: str
    status: ItemStatus
    role: ItemRole
    content: list[Any]


class ReasoningItem(_Item, frozen=True, tag="reasoning"):
    """What the model thought, as it wrote it: there is no summary."""

    id: str
    status: ItemStatus
    content: list[ReasoningTextView]
    summary: list[Any] = []
    encrypted_content: None = None


class FunctionCallItem(_Item, frozen=True, tag="function_call"):
    """A call of a function. `arguments` are as the model wrote them: not necessarily valid JSON."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class FunctionResultItem(_Item, frozen=True, tag="function_call_output"):
    """The result of the call `call_id`: a text, or parts."""

    id: str
    status: ItemStatus
    call_id: str
    output: Any


Item = MessageItem | ReasoningItem | FunctionCallItem | FunctionResultItem


def output_items(message_id: str, parts: Parts, *, is_complete: bool) -> list[Item]:
    """The items of a reply. If it is not complete, its last item is not."""
    found = [(number, part) for number, part in enumerate(parts) if _is_output(part)]
    last = found[-1][0] if found else -1
    return [
        output_item(message_id, number, part, "completed" if is_complete or number != last else "incomplete")
        for number, part in found
    ]


def _is_output(part: Part) -> bool:
    return isinstance(part, Text | Refusal | Reasoning | ToolCall)


def output_item(message_id: str, number: int, part: Part, status: ItemStatus) -> Item:
    """The item of a reply's part. One without content is as it begins."""
    match part:
        case Text():
            text = [OutputTextView(part.text)] if part.text else []
            return MessageItem(item_id(MESSAGE, message_id, number), status, "assistant", text)
        case Refusal():
            refusal = [RefusalView(part.text)] if part.text else []
            return MessageItem(item_id(MESSAGE, message_id, number), status, "assistant", refusal)
        case Reasoning():
            thought = [ReasoningTextView(part.text)] if part.text else []
            return ReasoningItem(item_id(REASONING, message_id, number), status, thought)
        case ToolCall():
            id_ = item_id(CALL, message_id, number)
            return FunctionCallItem(id_, status, part.call_id, part.name, part.arguments)
        case ToolResult() | Media() | Redacted():
            raise ValueError("no reply has such a part")
        case _:
            assert_never(part)


def message_items(
    message_id: str, role: str, parts: Parts, media_url: MediaUrl, *, is_complete: bool = True
) -> list[Item]:
    """The items of a message of any role. What is redacted is none. `is_complete`: as of `output_items`."""
    if role == "assistant":
        return output_items(message_id, parts, is_complete=is_complete)
    if role == "tool":
        return [
            FunctionResultItem(
                item_id(RESULT, message_id, number), "completed", part.call_id, _output(part.parts, media_url)
            )
            for number, part in enumerate(parts)
            if isinstance(part, ToolResult)
        ]
    content = list(_content(parts, media_url))
    if not content:
        return []
    sender: ItemRole = "system" if role == "system" else "user"
    return [MessageItem(item_id(MESSAGE, message_id, 0), "completed", sender, content)]


def _output(parts: Sequence[Text | Media], media_url: MediaUrl) -> Any:
    if all(isinstance(part, Text) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, Text))
    return list(_content(parts, media_url))


def _content(parts: Sequence[Part], media_url: MediaUrl) -> Iterator[InputTextView | InputImageView]:
    for part in parts:
        if isinstance(part, Text):
            yield InputTextView(part.text)
        elif isinstance(part, Media):
            yield InputImageView(media_url(part))
