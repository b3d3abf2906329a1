"""The decision on a transcript: what the session does not know is recorded, the last message is answered. Pure."""

from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import CreateSession, Decision, PostTranscript
from chatbot.sessions.domain.context import ContextMessage
from chatbot.sessions.domain.model_request import plan_cut_reply, plan_whole_reply
from chatbot.sessions.domain.state import (
    Rules,
    State,
    close_calls,
    find_busy_refusal,
    merge_parameters,
    with_idempotency_key,
)
from chatbot.sessions.domain.transcript import TranscriptMessage
from events.catalogue import Event, MessagePosted, Parameters, ReplyRequested, SessionCreated
from events.schema.parts import calls_of, stored_parts, text_of
from projections.folds.message import CLOSED, OPEN


def post_transcript(state: State | None, command: PostTranscript, rules: Rules) -> Decision:
    """What is recorded of the transcript, in one append: the session, if it is new; messages that it does not know; and
    the request for the reply to the last one, which starts unless others run or wait.

    If the session knows all messages, another reply to the last one is requested. Messages before the last one are
    recorded as imported, and so is the last one if it is an assistant's.
    """
    events: list[Event] = []
    if state is None and command.create is not None:
        events.append(created_event(command.create))
    elif state is not None and (refused := find_busy_refusal(state.session, command.on_busy, rules)) is not None:
        return Decision(rejection=refused)
    parameters = transcript_parameters(state, command, rules)
    added = list(_added_messages(command))
    if command.adds_only:
        *first, last = map(_imported, added)
        return Decision(events=(*events, *first, with_idempotency_key(last, command.idempotency_key)))
    last_known = command.known[-1] if command.known else None
    if last_known is not None and last_known.calls == OPEN and (not added or added[0].role != "tool"):
        events.append(close_calls(last_known, "superseded"))
    if command.imports_only:
        return Decision(events=(*events, *(_imported(one) for one in added[:-1][: rules.added_max])))
    if len(added) > rules.added_max:
        return Decision(rejection=rejections.TooManyAdded())
    branch = (*command.known, *added)
    parent_id = branch[-1].message_id
    request = ReplyRequested(command.reply_id, parent_id, parameters)
    events += [_imported(one) for one in added[:-1]]
    events.append(_request_event(command, added, request, rules))
    if state is not None and state.session.is_busy:
        return Decision(events=tuple(events))
    if parameters.whole_context:
        planned = plan_whole_reply(branch, request, rules)
    else:
        prompt = state.settings.system_prompt if state is not None else None
        planned = plan_cut_reply(branch, request, rules, prompt, command.context_tokens)
    return Decision(events=(*events, planned.started), messages=planned.messages)


def created_event(command: CreateSession) -> SessionCreated:
    return SessionCreated(
        owner=command.owner,
        metadata=command.metadata,
        timeout_s=command.timeout_s,
        title=command.title,
        system_prompt=command.system_prompt,
        parameters=command.parameters,
        kind=command.kind,
        named_by=command.named_by,
    )


def transcript_parameters(state: State | None, command: PostTranscript, rules: Rules) -> Parameters:
    """As the request says, else as the session or the service does; with the transcript's system messages as
    instructions, and all of it to be sent, unless the request says otherwise.
    """
    fallbacks = (rules.defaults,) if state is None else (state.settings.parameters, rules.defaults)
    merged = merge_parameters(
        command.parameters, *fallbacks, without_stop=command.without_stop, tokens_max=rules.tokens_max
    )
    is_whole = command.parameters.whole_context is not False
    return replace(merged, instructions=command.transcript.instructions, whole_context=is_whole or None)


def _request_event(
    command: PostTranscript, added: Sequence[ContextMessage], request: ReplyRequested, rules: Rules
) -> MessagePosted | ReplyRequested:
    """The event that requests the reply: with the last message, if that is new."""
    if not added:
        again = replace(request, node=rules.owner_node, reply_client_id=command.reply_client_id)
        return with_idempotency_key(again, command.idempotency_key)
    message = added[-1]
    posted = MessagePosted(
        message_id=message.message_id,
        parent_id=message.parent_id,
        role=message.role,
        content=message.content,
        reply_id=request.reply_id,
        parameters=request.parameters,
        node=rules.owner_node,
        parts=message.parts,
        imported=message.role == "assistant",
        client_id=command.client_id,
        reply_client_id=command.reply_client_id,
    )
    return with_idempotency_key(posted, command.idempotency_key)


def _imported(message: ContextMessage) -> MessagePosted:
    return MessagePosted(
        message_id=message.message_id,
        parent_id=message.parent_id,
        role=message.role,
        content=message.content,
        parts=message.parts,
        imported=True,
    )


def _added_messages(command: PostTranscript) -> Iterator[ContextMessage]:
    """The messages that the session does not know, oldest first."""
    known = len(command.known)
    parent_id = command.known[-1].message_id if command.known else None
    first = known if command.is_matched else 0
    messages = command.transcript.messages
    for depth, (message, message_id) in enumerate(
        zip(messages[first:], command.message_ids[first:], strict=True), known + 1
    ):
        yield added_message(message, message_id, parent_id, depth)
        parent_id = message_id


def added_message(message: TranscriptMessage, message_id: str, parent_id: str | None, depth: int) -> ContextMessage:
    """A message of a transcript as a context has it."""
    parts = stored_parts(message.parts)
    calls = CLOSED if calls_of(parts) else None
    return ContextMessage(message_id, parent_id, message.role, text_of(message.parts), parts, calls, depth)
