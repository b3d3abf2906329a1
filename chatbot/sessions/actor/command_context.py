"""Loads what the decision on a command needs: the message that it refers to, and the texts of the model's context."""

from collections.abc import Sequence
from typing import TypeVar

from msgspec import UNSET
from msgspec.structs import replace

from chatbot.llm.model_names import is_offered
from chatbot.llm.provider import TAKES_ALL, Provider
from chatbot.sessions.actor.branch_loader import load_branch
from chatbot.sessions.actor.hydration import replay_tail
from chatbot.sessions.actor.transcript_context import load_whole_branch, with_known_messages
from chatbot.sessions.actor.turn_parameters import find_turn_parameters
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    Caller,
    CancelReply,
    ChangeMetadata,
    Command,
    CreateSession,
    PostMessage,
    PostTranscript,
    Regenerate,
    SelectBranch,
    StartReply,
    WithdrawMessage,
)
from chatbot.sessions.domain.context import ContextMessage, find_messages
from chatbot.sessions.domain.decide import is_due, parent_of, requested_parameters
from chatbot.sessions.domain.message_checks import check_message, check_transcript_size
from chatbot.sessions.domain.state import State, end_user_of, is_being_written, with_newest
from chatbot.sessions.domain.transcript import has_other_parts
from chatbot.sessions.domain.transcript_posting import transcript_parameters
from chatbot.sessions.ports import Ports
from events.catalogue import (
    Parameters,
)
from events.codec import VERSIONS_WITH_PARTS
from events.errors import NodesOutdated
from events.schema.parameters import UNNAMED
from events.schema.parts import Parts, media_of
from projections.folds.message import OPEN, MessageRow
from projections.folds.session import Session

Requesting = TypeVar("Requesting", PostMessage, Regenerate)
WithBranch = TypeVar("WithBranch", PostMessage, Regenerate, StartReply)

OUTDATED = "another process of this log is older than messages with parts; update it"


async def prepare_command(  # noqa: PLR0912  an arm for each command that needs more than the state
    ports: Ports, state: State | None, command: Command, caller: Caller, now_us: int, *, loads_branch: bool = False
) -> tuple[State | None, Command]:
    """The state and the command with what the decision needs: the referenced message, and the context's texts. If the
    state has the newest of them, the others are believed to be there, too, unless `loads_branch`: the decision says so.

    A command that starts a reply has a place in the limiter afterwards, which its actor gives back if it is not used.

    Raises UnknownMessage, UnknownModel, UnknownReply, ParentUnanswered, NothingToRegenerate, Overloaded, NodesOutdated,
    Unsupported, and what `check_message` does.
    """
    if state is None and isinstance(command, CreateSession | PostTranscript):
        _check_model(ports.provider, command.parameters.model)
        if isinstance(command, PostTranscript) and command.create is not None:
            command = await _prepare_transcript(ports, state, command, caller)
    if state is None or state.session.status != "active" or is_due(state, now_us):
        return state, command  # decide refuses it
    match command:
        case PostMessage():
            _check_model(ports.provider, command.parameters.model)
            state, command = await _resolve_message(ports, state, command, caller, loads_branch=loads_branch)
            command = await _with_request(ports, state, command)
        case Regenerate():
            _check_model(ports.provider, command.parameters.model)
            state, command = await _resolve_regenerate(ports, state, command)
            state = await _with_context(ports, state, command, caller, loads_branch=loads_branch)
            command = await _with_request(ports, state, command)
        case PostTranscript():
            _check_model(ports.provider, command.parameters.model)
            command = await _prepare_transcript(ports, state, command, caller)
        case StartReply():
            if command.parameters.whole_context:
                return state, await _with_branch(ports, state, command, command.parameters)
            state = await _with_context(ports, state, command, caller, loads_branch=loads_branch)
            tokens = ports.provider.context_tokens(command.parameters.model or ports.provider.model)
            command = replace(command, context_tokens=tokens)
        case ChangeMetadata():
            _check_model(ports.provider, command.parameters.get("model"))
        case WithdrawMessage():
            command = await _resolve_withdrawal(ports, state, command)
        case SelectBranch():
            command = await _resolve_branch(ports, state, command)
        case CancelReply():
            if command.reply_id is not None:
                await _check_reply(ports, state, command.reply_id)
            state = await _with_calls_to_cancel(ports, state, command)
        case _:
            pass  # its decision needs nothing but the state
    return state, command


def _check_model(provider: Provider, name: str | None) -> None:
    """Raises UnknownModel.

    Checked only once a request is known to be new: a repetition gets the first answer, whatever the server offers now.
    """
    if name is not None and provider.lists_models and not is_offered(name, provider.models):
        raise rejections.UnknownModel


def _check_parent(state: State, command: PostMessage) -> None:
    """Raises ParentUnanswered if the client names a message as parent that is no reply: the model would get two of the
    user in a row.

    A selected branch may end in such a message (in forks and old logs) if the client names no parent.
    """
    parent = state.recent.get(command.parent_id) if isinstance(command.parent_id, str) else None
    if parent is not None and parent.role != "assistant" and command.role == "user":
        raise rejections.ParentUnanswered


async def _resolve_message(
    ports: Ports, state: State, command: PostMessage, caller: Caller, *, loads_branch: bool
) -> tuple[State, PostMessage]:
    """The state with the texts of the message's context, and `command` with the parameters of the turn that it
    continues. Raises what makes the message unfit for the conversation.
    """
    rules, parent_id = ports.rules, parent_of(state, command)
    is_checked = bool(command.parts) or command.role != "user"  # against its turn
    if command.role == "user" or not is_being_written(state, parent_id):
        state = await _with_context(ports, state, command, caller, loads_branch=loads_branch or is_checked)
    _check_parent(state, command)
    if is_checked:
        check_message(state, command, parent_id, rules)
    if command.role == "tool" and parent_id is not None:
        command = replace(command, turn=await find_turn_parameters(ports, state, parent_id))
    return state, command


async def _with_request(ports: Ports, state: State, command: Requesting) -> Requesting:
    """`command` with all that its reply is asked for with, and the size of the model's context, where that is known.

    Raises Unsupported if the model server is known not to take what the request asks for, NodesOutdated if another
    process could not read what the request and its reply would record.
    """
    parameters = requested_parameters(state, command, ports.rules)
    provider, parts = ports.provider, command.parts if isinstance(command, PostMessage) else ()
    takes = provider.takes
    if takes is not None and not takes >= TAKES_ALL:
        _check_supported(parameters, parts, takes)
    if (parts or parameters.tools is not None) and not await ports.log.admits(VERSIONS_WITH_PARTS):
        raise NodesOutdated(OUTDATED)
    tokens = provider.context_tokens(parameters.model or provider.model)
    command = replace(command, requested=parameters, context_tokens=tokens)
    return await _with_branch(ports, state, command, parameters) if parameters.whole_context else command


def _check_supported(parameters: Parameters, parts: Parts, takes: frozenset[str], images_path: str = "") -> None:
    """`images_path`: where the request has images; empty: in the parts of its one message. Raises Unsupported."""
    for name, value in (
        ("tools", parameters.tools),
        ("response_format", parameters.response_format),
        ("reasoning_effort", parameters.reasoning_effort),
        ("extra_body", parameters.extra_body),
    ):
        if value is not None and name not in takes:
            raise rejections.Unsupported(name, f"$.{name}")
    for index, part in enumerate(parts if "media" not in takes else ()):
        if media_of((part,)):
            raise rejections.Unsupported("images", images_path or f"$.message[{index}]")


async def _prepare_transcript(
    ports: Ports, state: State | None, command: PostTranscript, caller: Caller
) -> PostTranscript:
    """`command` with what the session knows of the transcript.

    Raises Overloaded, Unsupported, NodesOutdated, ContextTooLong, TooLarge, InvalidMessage.
    """
    if not command.adds_only and (state is None or not state.session.is_busy):
        _reserve_slot(ports, state, command, caller)
    command = await with_known_messages(ports, state, command)
    parameters = transcript_parameters(state, command, ports.rules)
    parts = tuple(part for message in command.transcript.messages for part in message.parts)
    takes = ports.provider.takes
    if takes is not None:
        _check_supported(parameters, parts, takes, "$.messages")
    if (parameters.tools is not None or has_other_parts(command.transcript)) and not await ports.log.admits(
        VERSIONS_WITH_PARTS
    ):
        raise NodesOutdated(OUTDATED)
    tokens = ports.provider.context_tokens(parameters.model or ports.provider.model)
    if command.adds_only:
        return command
    check_transcript_size(command, parameters, ports.rules, tokens)
    return replace(command, context_tokens=tokens)


async def _with_branch(ports: Ports, state: State, command: WithBranch, parameters: Parameters) -> WithBranch:
    """`command`, whose reply has `parameters`, with all messages of the branch, if the model is to be sent them all and
    the reply can start.
    """
    if not parameters.whole_context or (state.session.is_busy and not isinstance(command, StartReply)):
        return command  # if another reply runs, they are loaded when the reply starts
    leaf = _leaf_of(state, command)
    if leaf is None:
        return command
    return replace(command, branch=await load_whole_branch(ports, state, leaf))


async def _resolve_branch(ports: Ports, state: State, command: SelectBranch) -> SelectBranch:
    """`command` with the newest message of the branch. Raises UnknownMessage."""
    await ports.runner.wait_for(state.session.position)
    leaf = await ports.queries.newest_leaf(state.session.no, command.message_id)
    if leaf is None:
        raise rejections.UnknownMessage(command.message_id)
    return replace(command, message_id=leaf)


async def _resolve_withdrawal(ports: Ports, state: State, command: WithdrawMessage) -> WithdrawMessage:
    """`command` with what the tree says of the message. Raises MessageNotFound."""
    await ports.runner.wait_for(state.session.position)
    queries, no = ports.queries, state.session.no
    message = await queries.message(no, command.message_id)
    if message is None:
        raise rejections.MessageNotFound(command.message_id)
    pending = next((one for one in state.session.pending if one.message_id == command.message_id), None)
    reply = await queries.message(no, pending.reply_id) if pending is not None else None
    reply_ids = reply.siblings if reply is not None else ()
    return replace(command, role=message.role, parent_id=message.parent_id, reply_ids=reply_ids)


async def _resolve_regenerate(ports: Ports, state: State, command: Regenerate) -> tuple[State, Regenerate]:
    """`command` with the question to answer once more and the parameters of its turn.

    Raises NothingToRegenerate, UnknownMessage.
    """
    named = command.message_id or state.session.head
    if named is None:
        raise rejections.NothingToRegenerate("the session has no reply yet")
    if named not in state.recent:
        state = await _with_recent_from_stream(ports, state)
    message = await _find_message(ports, state, named)
    if message is None:
        raise rejections.UnknownMessage(named)
    turn = await find_turn_parameters(ports, state, named)
    command = replace(command, turn=turn)
    question = message.parent_id if message.role == "assistant" else message.message_id
    return state, replace(command, message_id=question)


async def _check_reply(ports: Ports, state: State, reply_id: str) -> None:
    """Raises UnknownReply if the session has no such reply, open or ended."""
    session = state.session
    if any(one is not None and one.reply_id == reply_id for one in (session.open_reply, *session.pending)):
        return
    message = await _find_message(ports, state, reply_id)
    if message is None or message.role != "assistant":
        raise rejections.UnknownReply(reply_id)


async def _with_calls_to_cancel(ports: Ports, state: State, command: CancelReply) -> State:
    """`state` with the reply whose open tool calls the command closes, if there is one."""
    wanted = command.reply_id or state.session.head
    is_loaded = wanted is None or wanted in state.recent or is_being_written(state, wanted)
    if is_loaded or wanted is None or command.cause != "client":
        return state
    state = await _with_recent_from_stream(ports, state)
    found = await _find_message(ports, state, wanted)
    if not isinstance(found, MessageRow) or found.calls != OPEN:
        return state
    return with_newest(state, await load_branch(ports, state, wanted, 1))


async def _find_message(ports: Ports, state: State, message_id: str) -> MessageRow | ContextMessage | None:
    if message_id in state.recent:
        return state.recent[message_id]
    await ports.runner.wait_for(state.session.position)
    return await ports.queries.message(state.session.no, message_id)


async def _with_recent_from_stream(ports: Ports, state: State) -> State:
    """During a rebuild of the projections, `state` with the newest messages of its stream, so that chat goes on."""
    if not ports.runner.rebuilding:
        return state
    replayed = await replay_tail(ports, state.session.session_id, None)
    return state if replayed is None else replace(state, recent=replayed.recent)


def _reserve_slot(
    ports: Ports, state: State | None, command: PostMessage | Regenerate | PostTranscript, caller: Caller
) -> None:
    """Reserve a place for the command's reply. Raises Overloaded, OverShare."""
    end_user = command.end_user if isinstance(command, PostTranscript) else None
    if state is not None:
        end_user = end_user_of(state)
    excess = ports.limiter.reserve(command.reply_id, caller.owner, end_user)
    if excess is not None:
        ports.observer.refused("over_share" if excess == "over_share" else "queue_full")
        raise rejections.at_limit(excess, "too many replies run and wait already")


async def _with_context(
    ports: Ports, state: State, command: PostMessage | Regenerate | StartReply, caller: Caller, *, loads_branch: bool
) -> State:
    """`state` with the newest text that the reply to `command` needs, or with all as the newest of `recent`.

    Raises Overloaded, UnknownMessage.
    """
    leaf = _leaf_of(state, command)
    if isinstance(command, PostMessage | Regenerate):
        is_busy = bool(state.session.open_reply or state.session.pending)
        if not is_busy:
            _reserve_slot(ports, state, command, caller)
        if is_busy and isinstance(command, PostMessage) and _follows_head(state.session, command):
            return state  # it is queued: its context is loaded when its reply starts
    if leaf is None or (leaf in state.recent and not loads_branch):
        return state
    if (messages := _messages(ports, state, leaf)) is not None:
        return with_newest(state, messages)
    state = await _with_recent_from_stream(ports, state)
    for limit in (ports.rules.recent_max, ports.rules.tools_recent_max):
        if (messages := _messages(ports, state, leaf)) is not None:
            return with_newest(state, messages)
        state = with_newest(state, await load_branch(ports, state, leaf, limit))
    return state


def _leaf_of(state: State, command: PostMessage | Regenerate | StartReply) -> str | None:
    """The last message of the context; None: the reply has no context but its own message, or there is no reply."""
    match command:
        case PostMessage():
            return parent_of(state, command)
        case Regenerate():
            return command.message_id
        case StartReply():
            return state.session.pending[0].message_id if state.session.pending else None


def _messages(ports: Ports, state: State, leaf: str) -> Sequence[ContextMessage] | None:
    """What the texts in `state` give, by the number of messages: with tokens counted it is not more."""
    return find_messages(state.recent, leaf, ports.rules.context_limits(UNNAMED))


def _follows_head(session: Session, command: PostMessage) -> bool:
    """Whether a person's message continues the selected branch, and if it names its parent, that is an open reply."""
    if command.role != "user":
        return False
    if command.parent_id is UNSET:
        return True
    open_ids = [pending.reply_id for pending in session.pending]
    if session.open_reply is not None:
        open_ids.append(session.open_reply.reply_id)
    return command.parent_id == session.head and session.head in open_ids
