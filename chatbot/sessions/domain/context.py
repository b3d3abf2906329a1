"""The messages that a model is sent, chosen from a branch of a conversation by their number and their tokens. Pure.

A turn is a message of a person with all that follows it, up to the next one: replies with tool calls, their results,
and the last reply. A turn with tool calls is sent whole or not at all, so that no call is cut from its result.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, assert_never

from msgspec import Struct

from events.schema.parameters import ContextLeftOut
from events.schema.parts import Media, Part, Parts, Reasoning, Redacted, Refusal, Text, ToolCall, ToolResult, media_of

CONTEXT_LOOK_BACK = 2  # times the context's limit: how far back to search when some of the newest messages are empty

# Estimates of tokens: tokenizers make three to four bytes of most languages into one.
TOKEN_BYTES = 3
REDACTED_TOKENS = 4  # of what the model is sent in place of a redacted part
MESSAGE_TOKENS = 8  # of a message besides its text: its role and its borders
SPARE_SHARE = 20  # one part in so many of the model's context stays free, because the rest is estimated

# Messages without a reply: many model servers refuse two messages of one role in a row.
Unanswered = Literal["omit", "join"]


class ContextMessage(Struct, frozen=True):
    """A message with its text, loaded for the next context. `parts` and `calls` are as in its event and its row.

    `depth` counts from the root of its branch, which has 1; 0: unknown.
    """

    message_id: str
    parent_id: str | None
    role: str
    content: str
    parts: Parts = ()
    calls: str | None = None
    depth: int = 0

    @property
    def is_of_tools(self) -> bool:
        """Whether it has tool calls that can be answered, or their results."""
        return self.calls is not None or self.role == "tool"


class ContextLimits(Struct, frozen=True):
    """What a context may hold. `size_tokens`: of the model's context; None: unknown, then tokens are not counted.
    `reply_tokens` are kept for the reply, if that is not more than half; `other_tokens` are those of the system prompt
    and the tools. `media_bytes` bounds the files of one request; None: not at all.
    """

    messages: int
    unanswered: Unanswered = "omit"
    tool_rounds: int = 32
    send_reasoning: bool = False
    size_tokens: int | None = None
    reply_tokens: int = 0
    other_tokens: int = 0
    image_tokens: int = 1024
    media_bytes: int | None = None

    @property
    def look_back(self) -> int:
        """Messages searched where there are no tool calls."""
        return CONTEXT_LOOK_BACK * self.messages

    @property
    def tools_look_back(self) -> int:
        """Messages searched where there are tool calls: at least a whole turn."""
        return max(self.look_back, 2 * self.tool_rounds + 2)


class Context(Struct, frozen=True):
    """The messages to send, oldest first, and what of the branch is not among them; None: nothing is missing."""

    messages: tuple[ContextMessage, ...]
    left_out: ContextLeftOut | None = None


class _Found(NamedTuple):
    """What a search has found: the messages of the branch, those chosen of them, both newest first, and the limit that
    ended the search.
    """

    path: list[ContextMessage]
    chosen: list[ContextMessage]
    reason: str | None


def select_context(
    recent: Mapping[str, ContextMessage],
    leaf: str | None,
    limits: ContextLimits,
    leaf_message: ContextMessage | None = None,
) -> Context | None:
    """The newest messages of the branch that ends in `leaf`; None when `recent` has a gap. `leaf_message`: that one, if
    `recent` need not have it.

    Skips empty messages (a reply that failed before its first token), which model servers refuse. With `omit`, also
    skips a message whose successor in the context has the same role, so that roles alternate. The context never starts
    with an assistant message, whose question would be missing.
    """
    found = _search(recent, leaf, limits, leaf_message)
    return None if found is None else _fitted(found, limits)


def find_messages(
    recent: Mapping[str, ContextMessage], leaf: str | None, limits: ContextLimits
) -> Sequence[ContextMessage] | None:
    """The messages that `select_context` selects, and those that are too much for the model; None when `recent` has a
    gap.
    """
    found = _search(recent, leaf, limits)
    return None if found is None else found.chosen[::-1]


def _search(
    recent: Mapping[str, ContextMessage],
    leaf: str | None,
    limits: ContextLimits,
    leaf_message: ContextMessage | None = None,
) -> _Found | None:
    path: list[ContextMessage] = []  # newest first, as `chosen`
    chosen: list[ContextMessage] = []
    messages_max, joins, role = limits.messages, limits.unanswered == "join", ""
    next_id, message = leaf, leaf_message
    for _ in range(limits.look_back):
        if next_id is None or len(chosen) == messages_max:
            break
        message = message or recent.get(next_id)
        if message is None:
            return None
        message_role = message.role
        if message_role == "tool" or message.calls is not None:
            return _search_turns(recent, leaf, limits, leaf_message)
        path.append(message)
        alternates = joins or message_role != role
        if alternates and (message.content or has_content(message, send_reasoning=limits.send_reasoning)):
            chosen.append(message)
            role = message_role
        next_id, message = message.parent_id, None
    reason = None
    if next_id is not None:
        reason = "messages" if len(chosen) == messages_max else "look_back"
    while chosen and chosen[-1].role == "assistant":
        chosen.pop()
    return _Found(path, chosen, reason)


def _search_turns(
    recent: Mapping[str, ContextMessage],
    leaf: str | None,
    limits: ContextLimits,
    leaf_message: ContextMessage | None,
) -> _Found | None:
    """As _search, of whole turns: the newest one, and older ones while there is room."""
    path: list[ContextMessage] = []  # newest first, as `chosen` and `turn`
    chosen: list[ContextMessage] = []
    turn: list[ContextMessage] = []
    next_id, message, reason = leaf, leaf_message, None
    while next_id is not None:
        if chosen and len(chosen) + len(turn) >= limits.messages:
            reason = "messages"
            break
        if len(path) == limits.tools_look_back:
            reason = "look_back"
            break
        message = message or recent.get(next_id)
        if message is None:
            return None
        path.append(message)
        next_id = message.parent_id
        if has_content(message, send_reasoning=limits.send_reasoning):
            turn.append(message)
        if message.role == "user":
            is_unanswered = len(turn) == 1 and bool(chosen)
            if not (is_unanswered and limits.unanswered == "omit"):
                chosen += turn
            turn = []
        message = None
    if not chosen:  # the newest turn is longer than the search, or the branch does not begin with a person
        while turn and turn[-1].role == "tool":
            turn.pop()
        chosen = turn
    return _Found(path, chosen, reason)


def _fitted(found: _Found, limits: ContextLimits) -> Context:
    """The context of what was found, without what is too much for the model."""
    messages, reason = found.chosen[::-1], found.reason
    estimated: int | None = None
    if limits.size_tokens is not None:
        messages, estimated, has_all = _fit_tokens(messages, limits, limits.size_tokens)
        reason = reason if has_all else "tokens"
    media = _count_excess_media(messages, limits.media_bytes)
    if reason is None and media:
        reason = "media"
    if reason is None:
        return Context(tuple(messages))
    older = _count_older(found.path, messages[0] if messages else None)
    return Context(tuple(messages), ContextLeftOut(older, reason, limits.size_tokens, estimated, media))


def _fit_tokens(
    messages: list[ContextMessage], limits: ContextLimits, size_tokens: int
) -> tuple[list[ContextMessage], int, bool]:
    """The newest turns of `messages` (oldest first) that fit, their estimate with all else that is sent, and whether
    nothing is too much. The newest turn is kept whatever its size: the server decides what it refuses.
    """
    budget = size_tokens - min(limits.reply_tokens, size_tokens // 2) - size_tokens // SPARE_SHARE
    total = kept_tokens = limits.other_tokens
    first = len(messages)
    for index in range(len(messages) - 1, -1, -1):
        total += estimate_tokens(messages[index], limits)
        if messages[index].role == "user" or index == 0:
            if total > budget and first < len(messages):
                return messages[first:], kept_tokens, False
            first, kept_tokens = index, total
    return messages, kept_tokens, kept_tokens <= budget


def _count_excess_media(messages: Iterable[ContextMessage], bytes_max: int | None) -> int:
    """How many files, the oldest of `messages`, are too much for one request."""
    parts = [part for message in messages if message.parts for part in message.parts]
    if bytes_max is None or not parts:
        return 0
    sizes = [media.bytes for media in media_of(parts)]
    left = bytes_max
    for index in range(len(sizes) - 1, -1, -1):
        left -= sizes[index]
        if left < 0:
            return index + 1
    return 0


def _count_older(path: Sequence[ContextMessage], first: ContextMessage | None) -> int:
    """Messages of the branch that are older than `first`; without one, all. `path` is the branch's newest part, newest
    first. At least as many as are known, where the depth of none is.
    """
    sent = len(path) if first is not None else 0
    while sent and path[sent - 1] is not first:  # it is among the oldest
        sent -= 1
    for index, message in enumerate(path):
        if message.depth:
            return message.depth + index - sent
    return len(path) - sent


def has_content(message: ContextMessage, *, send_reasoning: bool) -> bool:
    """Whether the model can be sent anything of the message."""
    return bool(message.content) or any(_is_sent(part, message, send_reasoning) for part in message.parts)


def sent_parts(message: ContextMessage, *, send_reasoning: bool) -> Parts:
    """The parts of the message that the model is sent: no earlier reasoning unless it is asked for, and no tool call of
    a reply that was cut within it.
    """
    if not message.parts:
        return (Text(message.content),) if message.content else ()
    return tuple(part for part in message.parts if _is_sent(part, message, send_reasoning))


def _is_sent(part: Part, message: ContextMessage, send_reasoning: bool) -> bool:
    match part:
        case Text() | Refusal() | Media() | ToolResult():
            return True
        case Reasoning():
            return send_reasoning
        case ToolCall() | Redacted(kind="tool_call"):
            return message.calls is not None
        case Redacted():
            return part.kind != "reasoning"
        case _:
            assert_never(part)


def estimate_tokens(message: ContextMessage, limits: ContextLimits) -> int:
    """The tokens of the message, without asking a tokenizer: the same for the same message everywhere."""
    if not message.parts:
        return MESSAGE_TOKENS + estimate_text_tokens(message.content)
    parts = sent_parts(message, send_reasoning=limits.send_reasoning)
    return MESSAGE_TOKENS + sum(_part_tokens(part, limits.image_tokens) for part in parts)


def _part_tokens(part: Part, image_tokens: int) -> int:
    match part:
        case Text() | Reasoning() | Refusal():
            return estimate_text_tokens(part.text)
        case ToolCall():
            return estimate_text_tokens(part.name) + estimate_text_tokens(part.arguments)
        case Media():
            return image_tokens
        case Redacted():
            return estimate_text_tokens(part.name) + REDACTED_TOKENS
        case ToolResult():
            return MESSAGE_TOKENS + sum(_part_tokens(nested, image_tokens) for nested in part.parts)
        case _:
            assert_never(part)


def estimate_text_tokens(text: str) -> int:
    """A third of its bytes in UTF-8."""
    size = len(text) if text.isascii() else len(text.encode())
    return -(-size // TOKEN_BYTES)
