"""The request to a model: how a started reply records it, and how it is built from that. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from chatbot.llm.provider import ChatMessage, ModelMessage, PartsMessage
from chatbot.sessions.domain.context import Context, ContextMessage, has_content, select_context, sent_parts
from chatbot.sessions.domain.state import Rules, State
from chatbot.sessions.domain.transcript import REDACTED_WORD
from events.catalogue import Parameters, ReplyRequested, ReplyStarted
from events.schema.parts import (
    Media,
    Part,
    Parts,
    Redacted,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    calls_of,
    media_of,
    text_of,
)

MEDIA_LEFT_OUT = Text("[image left out]")
REDACTED_TEXT = Text(REDACTED_WORD)
NO_RESULT = (Text("cancelled"),)  # of a tool call to which the conversation has no result


class BranchNotLoaded(LookupError):
    """The state has not all messages of the branch that a reply is to be sent: load them, and decide again."""


class PlannedReply(NamedTuple):
    """The reply_started of a reply, and the messages that it names."""

    started: ReplyStarted
    messages: tuple[ContextMessage, ...]


def plan_reply(
    state: State, message: ContextMessage, request: ReplyRequested, rules: Rules, context_tokens: int | None
) -> PlannedReply:
    """The reply that answers `message`, which may not be in `state` yet, as `request` asks. `context_tokens`: see
    PostMessage. Raises BranchNotLoaded.
    """
    limits = rules.context_limits(request.parameters, state.settings.system_prompt, context_tokens)
    context = select_context(state.recent, message.message_id, limits, message)
    if context is None:
        raise BranchNotLoaded(message.message_id)
    return _planned(context, request, rules, joined=rules.unanswered == "join")


def plan_whole_reply(branch: Sequence[ContextMessage], request: ReplyRequested, rules: Rules) -> PlannedReply:
    """The reply whose model is sent all of `branch` that says anything, as it is, root first."""
    send_reasoning = bool(request.parameters.send_reasoning)
    said = tuple(one for one in branch if has_content(one, send_reasoning=send_reasoning))
    return _planned(Context(said), request, rules, joined=False)


def plan_cut_reply(
    branch: Sequence[ContextMessage],
    request: ReplyRequested,
    rules: Rules,
    system_prompt: str | None,
    context_tokens: int | None,
) -> PlannedReply:
    """The reply whose model is sent the newest messages of the whole branch `branch`, root first, that fit."""
    limits = rules.context_limits(request.parameters, system_prompt, context_tokens)
    context = select_context({one.message_id: one for one in branch}, request.parent_id, limits)
    if context is None:
        raise LookupError(f"the branch of message {request.parent_id} has a gap")
    return _planned(context, request, rules, joined=rules.unanswered == "join")


def _planned(context: Context, request: ReplyRequested, rules: Rules, *, joined: bool) -> PlannedReply:
    model = request.parameters.model
    started = ReplyStarted(
        reply_id=request.reply_id,
        parent_id=request.parent_id,
        node=rules.node,
        provider=rules.provider,
        model=model or rules.model,
        parameters=request.parameters,
        context_ids=tuple([one.message_id for one in context.messages]),
        attempt=request.attempt,
        joined=joined,
        counted_as=model if model in rules.models else None,
        context_left_out=context.left_out,
    )
    return PlannedReply(started, context.messages)


class ModelRequest(Struct, frozen=True):
    """A request to the model. `media` are the files of its messages, which are not loaded yet."""

    messages: tuple[ModelMessage, ...]
    parameters: Parameters
    media: tuple[Media, ...] = ()


def model_request(state: State, started: ReplyStarted, messages: Sequence[ContextMessage]) -> ModelRequest:
    """The request that `started` records; `messages` are those that it names."""
    sent = build_messages(
        system_prompt_of(started.parameters, state.settings.system_prompt),
        messages,
        joined=started.joined,
        send_reasoning=bool(started.parameters.send_reasoning),
        media_left_out=started.context_left_out.media if started.context_left_out is not None else 0,
    )
    with_parts = [message for message in sent if type(message) is PartsMessage]  # isinstance takes 4 times longer
    media = tuple(one for message in with_parts for one in media_of(message.parts))
    return ModelRequest(sent, started.parameters, media)


def system_prompt_of(parameters: Parameters, system_prompt: str | None) -> str | None:
    """The instructions of the turn, else the session's `system_prompt`."""
    return system_prompt if parameters.instructions is None else parameters.instructions


def build_messages(
    system_prompt: str | None,
    context: Sequence[ContextMessage],
    *,
    joined: bool,
    send_reasoning: bool = False,
    media_left_out: int = 0,
) -> tuple[ModelMessage, ...]:
    """The messages of a request. `joined`: neighbours of one role are sent as one. `media_left_out`: how many files,
    the oldest, are replaced by a text.

    Every tool call gets a result, which model servers insist on: `cancelled` where the conversation has none.
    """
    system = (ChatMessage("system", system_prompt),) if system_prompt else ()
    messages: tuple[ModelMessage, ...]
    if [message for message in context if message.parts]:
        messages = tuple(_build(context, send_reasoning, media_left_out))
    else:
        messages = tuple([ChatMessage(message.role, message.content) for message in context])
    return system + (join_consecutive(messages) if joined else messages)


def join_consecutive(messages: Iterable[ModelMessage]) -> tuple[ModelMessage, ...]:
    """`messages` with neighbours of one role merged, a blank line between their texts. Messages with tool calls or
    results stay as they are.
    """
    kept: list[ModelMessage] = []
    for message in messages:
        last = kept[-1] if kept else None
        if last is not None and last.role == message.role and _can_join(last) and _can_join(message):
            kept[-1] = _model_message(message.role, (*_parts_of(last), Text("\n\n"), *_parts_of(message)))
        else:
            kept.append(message)
    return tuple(kept)


def with_media(message: ModelMessage, change: Callable[[Media], Media | Text]) -> ModelMessage:
    """`message` with what `change` makes of each of its files."""
    if isinstance(message, ChatMessage):
        return message
    return _model_message(message.role, changed_media(message.parts, change))


def _build(
    context: Iterable[ContextMessage],
    send_reasoning: bool,
    media_left_out: int,
) -> Iterator[ModelMessage]:
    left_out = 0

    def without_oldest(media: Media) -> Media | Text:
        nonlocal left_out
        left_out += 1
        return MEDIA_LEFT_OUT if left_out <= media_left_out else media

    open_calls: list[str] = []  # of the reply before
    for message in context:
        sent = sent_parts(message, send_reasoning=send_reasoning)
        parts = changed_media(tuple(map(_without_redacted, sent)), without_oldest)
        if message.role == "tool":
            results = [part for part in parts if isinstance(part, ToolResult) and part.call_id in open_calls]
            answered = {result.call_id for result in results}
            parts = (*results, *_without_results(one for one in open_calls if one not in answered))
        elif open_calls:
            yield PartsMessage("tool", "", _without_results(open_calls))
        open_calls = [call.call_id for call in calls_of(parts)]
        if parts:
            yield _model_message(message.role, parts)
    if open_calls:
        yield PartsMessage("tool", "", _without_results(open_calls))


def _without_results(call_ids: Iterable[str]) -> tuple[ToolResult, ...]:
    return tuple(ToolResult(call_id, NO_RESULT, is_error=True) for call_id in call_ids)


def changed_media(parts: Parts, change: Callable[[Media], Media | Text]) -> Parts:
    """`parts` with what `change` makes of each file, also of those in results."""
    return tuple(_changed_part(part, change) for part in parts)


def _changed_part(part: Part, change: Callable[[Media], Media | Text]) -> Part:
    if isinstance(part, Media):
        return change(part)
    if isinstance(part, ToolResult):
        return replace(part, parts=tuple(change(one) if isinstance(one, Media) else one for one in part.parts))
    return part


def _without_redacted(part: Part) -> Part:
    """A redacted part as the model is sent it: its content is not known, and the conversation stays one that every
    model server accepts.
    """
    if not isinstance(part, Redacted):
        return part
    if part.kind == "tool_call":
        return ToolCall(part.call_id, part.name, "{}")
    return ToolResult(part.call_id, (REDACTED_TEXT,)) if part.kind == "tool_result" else REDACTED_TEXT


def _model_message(role: str, parts: Parts) -> ModelMessage:
    """A plain message where the parts are nothing but text."""
    if all(isinstance(part, Text | Refusal) for part in parts):
        return ChatMessage(role, "".join(part.text for part in parts if isinstance(part, Text | Refusal)))
    return PartsMessage(role, text_of(parts), parts)


def _parts_of(message: ModelMessage) -> Parts:
    return (Text(message.content),) if isinstance(message, ChatMessage) else message.parts


def _can_join(message: ModelMessage) -> bool:
    return isinstance(message, ChatMessage) or not any(isinstance(one, ToolCall | ToolResult) for one in message.parts)
