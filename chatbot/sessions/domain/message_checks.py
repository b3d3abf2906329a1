"""What messages with results of tools, or with files, must be like to fit their conversation. Pure.

All calls of a reply are answered by one message, so its calls are open, answered or closed, and nothing in between.
"""

from collections.abc import Sequence

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import PostMessage, PostTranscript
from chatbot.sessions.domain.context import ContextMessage, estimate_tokens
from chatbot.sessions.domain.state import Rules, State, is_being_written
from events.catalogue import Parameters
from events.schema.parts import Media, Text, ToolResult, call_ids_of, media_of
from projections.folds.message import CLOSED

ESTIMATE_FACTOR = 2  # an estimate may be this many times too high; above it the context is certainly too small


def check_message(state: State, command: PostMessage, parent_id: str | None, rules: Rules) -> None:
    """Raises InvalidMessage, SessionBusy, NoOpenCalls, CallsClosed, CallsUnanswered, TooManyRounds.

    The parent must be in `state.recent`, with its turn.
    """
    for index, part in enumerate(command.parts):
        is_allowed = isinstance(part, ToolResult) if command.role == "tool" else isinstance(part, Text | Media)
        if not is_allowed:
            kinds = "only results" if command.role == "tool" else "no results, tool calls or reasoning"
            raise rejections.InvalidMessage(f"$.message[{index}].type", f"a message of this role has {kinds}")
    if command.role == "tool":
        _check_results(state, command, parent_id, rules.tool_rounds_max)
    _check_media_size(command, rules.request_media_max_bytes)


def check_transcript_size(
    command: PostTranscript, parameters: Parameters, rules: Rules, context_tokens: int | None
) -> None:
    """Raises ContextTooLong if the model's context, as far as it is known, is certainly too small, and InvalidMessage
    if the files have more bytes than one request to a model may have: nothing is left out.
    """
    transcript = command.transcript
    files = (one.bytes for message in transcript.messages for one in media_of(message.parts))
    if sum(files) > rules.request_media_max_bytes:
        detail = "the files have more bytes than the setting llm.request_media_max_bytes allows"
        raise rejections.InvalidMessage("$.messages", detail)
    limits = rules.context_limits(parameters, transcript.instructions, context_tokens)
    if limits.size_tokens is None or not parameters.whole_context:
        return
    messages = [ContextMessage("", None, one.role, "", one.parts, calls="") for one in transcript.messages]
    continued = () if command.is_matched else command.known
    estimated = limits.other_tokens + sum(estimate_tokens(one, limits) for one in (*continued, *messages))
    if estimated > ESTIMATE_FACTOR * limits.size_tokens:
        raise rejections.ContextTooLong(estimated, limits.size_tokens)


def check_first_results(known: Sequence[ContextMessage], command: PostTranscript) -> None:
    """Raises InvalidMessage, CallsClosed if results with which the transcript begins are not of open calls of the reply
    that it continues. Calls may stay without a result: the model is then told so.
    """
    transcript = command.transcript
    first = transcript.messages[0]
    if first.role != "tool":
        return
    path = transcript.paths[0] if transcript.paths else "$.messages[0]"
    calls = call_ids_of(known[-1].parts) if known else ()
    seen: set[str] = set()
    for part in first.parts:
        call_id = part.call_id if isinstance(part, ToolResult) else ""
        if call_id not in calls or call_id in seen:
            detail = "has a result already" if call_id in seen else "is no tool call of the reply that is continued"
            raise rejections.InvalidMessage(f"{path}.call_id", detail)
        seen.add(call_id)
    if known[-1].calls == CLOSED:
        raise rejections.CallsClosed


def _check_media_size(command: PostMessage, bytes_max: int) -> None:
    """Raises InvalidMessage if the message's own files are more than one request to a model may have."""
    left = bytes_max
    for index, part in enumerate(command.parts):
        left -= sum(media.bytes for media in media_of((part,)))
        if left < 0:
            detail = "the files of the message have more bytes than the setting llm.request_media_max_bytes allows"
            raise rejections.InvalidMessage(f"$.message[{index}]", detail)


def media_path(command: PostMessage | PostTranscript, sha256: str) -> str:
    """The path of the file in the request's body."""
    if isinstance(command, PostTranscript):
        return next(
            (
                path
                for message, path in zip(command.transcript.messages, command.transcript.paths, strict=True)
                if any(one.sha256 == sha256 for one in media_of(message.parts))
            ),
            "$.messages",
        )
    for index, part in enumerate(command.parts):
        if isinstance(part, Media) and part.sha256 == sha256:
            return f"$.message[{index}].sha256"
        for nested, inner in enumerate(part.parts if isinstance(part, ToolResult) else ()):
            if isinstance(inner, Media) and inner.sha256 == sha256:
                return f"$.message[{index}].content[{nested}].sha256"
    return "$.message"


def _check_results(state: State, command: PostMessage, parent_id: str | None, rounds_max: int) -> None:
    if is_being_written(state, parent_id):
        raise rejections.SessionBusy("the reply that these results follow is still being written")
    reply = state.recent.get(parent_id) if parent_id is not None else None
    if reply is None or reply.calls is None:
        raise rejections.NoOpenCalls
    if reply.calls == CLOSED:
        raise rejections.CallsClosed
    missing = dict.fromkeys(call_ids_of(reply.parts))
    known = frozenset(missing)
    for index, part in enumerate(command.parts):
        if isinstance(part, ToolResult):
            if part.call_id not in missing:
                detail = "has a result already" if part.call_id in known else "is no tool call of that reply"
                raise rejections.InvalidMessage(f"$.message[{index}].call_id", detail)
            del missing[part.call_id]
    if missing:
        raise rejections.CallsUnanswered(tuple(missing))
    if _count_rounds(state, reply) > rounds_max:
        raise rejections.TooManyRounds(rounds_max)


def _count_rounds(state: State, reply: ContextMessage) -> int:
    """Replies with tool calls in the turn that ends in `reply`."""
    rounds = 0
    message: ContextMessage | None = reply
    while message is not None and message.role != "user":
        rounds += message.calls is not None
        message = state.recent.get(message.parent_id) if message.parent_id is not None else None
    return rounds
