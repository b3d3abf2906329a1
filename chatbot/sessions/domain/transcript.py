"""Transcripts: whole conversations as clients send them, and how they are found in a session's tree of messages. Pure.

A session's message and one of a transcript are the same if they have the same role and say the same: texts, tool
calls, results and files. Reasoning is not compared, because most clients do not send it back, and neither is white
space around a reply, which some of them remove. Arguments of calls are compared as JSON.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.json import encode
from msgspec.structs import replace

from chatbot.sessions.domain import rejections
from events.schema.parts import (
    PARTS_MAX,
    Media,
    Part,
    Parts,
    Reasoning,
    Redacted,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    calls_of,
    count_bytes,
    find_faults,
    stored_parts,
    text_of,
)
from projections.folds.message import TreeMessage

MESSAGES_MAX = 10_000  # of one transcript, each of which may be an event of one append
INSTRUCTIONS_SEPARATOR = "\n\n"  # between the texts of several system messages
DIGEST_BYTES = 16
REDACTED_WORD = "[redacted]"  # what clients and models are shown in place of a redacted text, and send back
_REDACTED_TEXTS = frozenset({"text", "refusal", "media"})

_PARTS_OF_ROLES: Mapping[str, tuple[type[Part], ...]] = {
    "system": (Text, Media),
    "user": (Text, Media),
    "assistant": (Text, Refusal, Reasoning, ToolCall),
    "tool": (ToolResult,),
}


class TranscriptMessage(Struct, frozen=True):
    """A message as a client sends it. A tool's message has one result; `parts` of one that says nothing are empty."""

    role: str
    parts: Parts = ()


class Transcript(Struct, frozen=True):
    """`messages` as a session records them: results that follow one another are one message, and none is empty.

    `instructions` are the texts of the system messages before all others, which are `leading`. `paths` lead to the
    messages in the request.
    """

    messages: tuple[TranscriptMessage, ...]
    instructions: str | None = None
    paths: tuple[str, ...] = ()
    leading: tuple[TranscriptMessage, ...] = ()

    def with_leading_messages(self) -> "Transcript":
        """The same with the leading system messages among its messages, for a session that has them so."""
        paths = (*("$.messages" for _ in self.leading), *self.paths)
        return Transcript((*self.leading, *self.messages), None, paths)


class MessageDigests(Struct, frozen=True):
    """Of a message's role and parts: `said` of what is compared, `exact` of all."""

    said: bytes
    exact: bytes


def read_transcript(sent: Sequence[TranscriptMessage]) -> Transcript:
    """The transcript that a client sent, message by message. Raises InvalidMessage, TooLarge."""
    messages, paths = _merge_results(sent, continues=False)
    first = next((index for index, one in enumerate(messages) if one.role != "system"), len(messages) - 1)
    texts = [text_of(one.parts) for one in messages[:first]]
    instructions = INSTRUCTIONS_SEPARATOR.join(texts) if texts else None
    return Transcript(tuple(messages[first:]), instructions, tuple(paths[first:]), tuple(messages[:first]))


def read_added(sent: Sequence[TranscriptMessage], instructions: str | None, *, continues: bool) -> Transcript:
    """Messages that a client adds to a conversation, system messages included. `continues`: there may be a reply before
    them, of whose calls the first ones may be results. Raises InvalidMessage, TooLarge.
    """
    messages, paths = _merge_results(sent, continues=continues)
    return Transcript(tuple(messages), instructions, tuple(paths))


def _merge_results(sent: Sequence[TranscriptMessage], *, continues: bool) -> tuple[list[TranscriptMessage], list[str]]:
    """The messages that say something, consecutive results as one, and the path of each."""
    if len(sent) > MESSAGES_MAX:
        raise rejections.TooLarge(f"a request may have at most {MESSAGES_MAX} messages")
    messages: list[TranscriptMessage] = []
    paths: list[str] = []
    for index, message in enumerate(sent):
        path = f"$.messages[{index}]"
        _check(message, path)
        if not message.parts:
            continue
        if message.role == "tool" and messages and messages[-1].role == "tool":
            if len(messages[-1].parts) + len(message.parts) > PARTS_MAX:
                raise rejections.InvalidMessage(f"{path}.content", f"must have at most {PARTS_MAX} parts")
            messages[-1] = replace(messages[-1], parts=messages[-1].parts + message.parts)
        else:
            messages.append(message)
            paths.append(path)
        if message.role == "tool" and not (continues and len(messages) == 1):
            _check_result(messages, path)
    if not messages:
        raise rejections.InvalidMessage("$.messages", "must have a message that says something")
    return messages, paths


def _check(message: TranscriptMessage, path: str) -> None:
    allowed = _PARTS_OF_ROLES.get(message.role)
    if allowed is None:
        raise rejections.InvalidMessage(f"{path}.role", f"must be one of {', '.join(_PARTS_OF_ROLES)}")
    if not all(isinstance(part, allowed) for part in message.parts):
        raise rejections.InvalidMessage(f"{path}.content", "has a part that a message of this role may not have")
    for fault in find_faults(message.parts, f"{path}.content"):
        raise rejections.InvalidMessage(fault.path, fault.detail)


def _check_result(messages: Sequence[TranscriptMessage], path: str) -> None:
    """Raises InvalidMessage if the newest result is not of a call just before, or the second one of its call."""
    *earlier, newest = [part.call_id for part in messages[-1].parts if isinstance(part, ToolResult)]
    calls = calls_of(messages[-2].parts) if len(messages) > 1 else ()
    if newest in earlier or newest not in [call.call_id for call in calls]:
        detail = "has a result already" if newest in earlier else "is no tool call of the message before"
        raise rejections.InvalidMessage(f"{path}.tool_call_id", detail)


def has_other_parts(transcript: Transcript) -> bool:
    """Whether any message has other parts than one text."""
    return any(stored_parts(message.parts) for message in transcript.messages)


def count_transcript_bytes(transcript: Transcript) -> int:
    """Bytes of all its texts and files, instructions included."""
    texts = len((transcript.instructions or "").encode())
    return texts + sum(count_bytes(message.parts) for message in transcript.messages)


def digest_message(role: str, parts: Parts) -> MessageDigests:
    """`parts` are those that a model is sent of the message, and may have reasoning besides."""
    said = tuple(part for part in parts if not _is_reasoning(part))
    if role == "assistant":
        text = "".join(_words(part) for part in said).strip()
        calls = [_comparable(call) for call in calls_of(said)]
        others = [_comparable(part) for part in said if isinstance(part, Media) or _is_redacted_call(part)]
        compared = encode((role, text, calls, others))
    else:
        compared = encode((role, [_comparable(part) for part in said]))
    return MessageDigests(_digest(compared), _digest(encode((role, parts))))


def _words(part: Part) -> str:
    if isinstance(part, Redacted) and part.kind in _REDACTED_TEXTS:
        return REDACTED_WORD
    return part.text if isinstance(part, Text | Refusal) else ""


def _is_reasoning(part: Part) -> bool:
    return isinstance(part, Reasoning) or (isinstance(part, Redacted) and part.kind == "reasoning")


def _is_redacted_call(part: Part) -> bool:
    return isinstance(part, Redacted) and part.kind not in _REDACTED_TEXTS


def _comparable(part: Part) -> object:
    match part:
        case Text() | Refusal() | Reasoning():
            return part.text
        case Media():
            return [part.sha256]
        case ToolCall():
            return [part.call_id, part.name, _comparable_arguments(part.arguments)]
        case ToolResult():
            return [part.call_id, *(_comparable(one) for one in part.parts)]
        case Redacted():
            if part.kind in _REDACTED_TEXTS:
                return REDACTED_WORD
            return {"redacted": part.kind}  # unlike any part of a request: what is gone matches nothing
        case _:
            assert_never(part)


def _comparable_arguments(arguments: str) -> object:
    """Clients that parse arguments send them back with other white space, and members in another order."""
    try:
        return encode(msgspec.json.decode(arguments), order="deterministic")
    except (msgspec.DecodeError, RecursionError):
        return arguments


def _digest(encoded: bytes) -> bytes:
    return hashlib.blake2b(encoded, digest_size=DIGEST_BYTES).digest()


def find_candidates(tree: Iterable[TreeMessage], roles: Sequence[str]) -> list[TreeMessage]:
    """The messages that may be those of a transcript with these `roles`, as far as roles tell: parents first."""
    depths: dict[str | None, int] = {None: 0}
    found: list[TreeMessage] = []
    for message in tree:
        depth = depths.get(message.parent_id)
        if depth is not None and depth < len(roles) and message.role == roles[depth] and message.position:
            depths[message.message_id] = depth + 1
            found.append(message)
    return found


def match_transcript(
    candidates: Sequence[TreeMessage],
    said: Mapping[str, bytes],
    wanted: Sequence[bytes],
    preferred: frozenset[str] = frozenset(),
) -> list[TreeMessage]:
    """The longest path from a root whose messages say what the transcript's first ones do, root first.

    `candidates` come parents first; `said` has their digests by id, `wanted` those of the transcript. Among paths of
    one length, that whose last message is `preferred` wins, then the newest.
    """
    matched: dict[str | None, int] = {None: 0}
    best, best_rank = None, (0, False, 0)
    for message in candidates:
        depth = matched.get(message.parent_id)
        if depth is None or depth >= len(wanted) or said.get(message.message_id) != wanted[depth]:
            continue
        matched[message.message_id] = depth + 1
        rank = (depth + 1, message.message_id in preferred, message.no)
        if rank > best_rank:
            best, best_rank = message, rank
    by_id = {message.message_id: message for message in candidates}
    path: list[TreeMessage] = []
    while best is not None:
        path.append(best)
        best = by_id[best.parent_id] if best.parent_id is not None else None
    return path[::-1]


def path_to(tree: Iterable[TreeMessage], leaf: str | None) -> frozenset[str]:
    """The ids of the messages from the root to `leaf`."""
    parents = {message.message_id: message.parent_id for message in tree}
    path: set[str] = set()
    while leaf is not None and leaf in parents:
        path.add(leaf)
        leaf = parents[leaf]
    return frozenset(path)
