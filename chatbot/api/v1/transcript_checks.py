"""Checks of transcripts that all protocols in which clients send whole ones have in common. Pure."""

from functools import cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import asdict

from chatbot.api.problems import RequestFault
from chatbot.api.requests import decode_body
from chatbot.sessions.domain.transcript import MESSAGES_MAX, TranscriptMessage
from events.schema.parts import PARTS_MAX, Text

# Of all fields besides the transcript. JSON of any form takes up to thirty times its bytes in memory: a list of {}, for
# one.
OTHER_FIELDS_MAX_BYTES = 4 * 2**20


class _Message(Struct):
    """What may be a list in a message of some protocol."""

    content: Raw | UnsetType = UNSET
    parts: Raw | UnsetType = UNSET
    tool_calls: Raw | UnsetType = UNSET
    toolCalls: Raw | UnsetType = UNSET  # noqa: N815  as AG-UI has it


_decode_messages = msgspec.json.Decoder(list[_Message]).decode


def check_fields(raw: bytes, *names: str) -> None:
    """Before objects are made of a body: raises RequestFault if a list in one of the fields `names`, or in an entry of
    it, has more entries than any transcript may have, or if the other fields are large.
    """
    members = decode_body(raw, dict[str, Raw])
    given = {name: members[name] for name in names if name in members}
    others = len(raw) - sum(memoryview(value).nbytes for value in given.values())
    if others > OTHER_FIELDS_MAX_BYTES:
        why = f"has {others} bytes besides {' and '.join(names)}; at most {OTHER_FIELDS_MAX_BYTES} are allowed"
        raise RequestFault(why, "$")
    if raw.count(b",") < MESSAGES_MAX:  # whatever they separate: too few to matter
        return
    for name, value in given.items():
        _check_list(value, MESSAGES_MAX, "entries", f"$.{name}")
        _check_messages(value, f"$.{name}")


def _check_messages(value: Raw, path: str) -> None:
    try:
        messages = _decode_messages(value)
    except msgspec.ValidationError:  # a text, or what will be refused
        return
    for index, message in enumerate(messages):
        for name, entries in asdict(message).items():
            if entries is not UNSET:
                _check_list(entries, PARTS_MAX, "parts", f"{path}[{index}].{name}")


def _check_list(value: Raw, most: int, what: str, path: str) -> None:
    encoded = memoryview(value)
    if encoded.nbytes < 2 * most or encoded[0] != ord("["):
        return
    try:
        _list_decoder(most).decode(value)
    except msgspec.ValidationError:
        raise RequestFault(f"has more {what} than the {most} that are allowed", path) from None


@cache
def _list_decoder(most: int) -> msgspec.json.Decoder[Any]:
    """Stops at the first entry beyond. The `max_length` of a list is looked at once objects are made of all entries."""
    fields = [(f"entry_{number}", Raw | UnsetType, UNSET) for number in range(most)]
    return msgspec.json.Decoder(msgspec.defstruct("Entries", fields, array_like=True, forbid_unknown_fields=True))


def check_newest(message: TranscriptMessage, path: str) -> None:
    """Of a transcript's last message: the user's must say something. Earlier ones may be blank, because clients keep
    what they once sent. Raises RequestFault.
    """
    if message.role == "user" and all(isinstance(part, Text) and not part.text.strip() for part in message.parts):
        raise RequestFault("must not be empty or blank", path)
