"""Bring a session's state back: its projected facts, the few events whose texts it needs, and its stream's tail.

Costs the same for ten messages and for ten thousand; only while the projections are made anew the stream is read whole.
"""

from collections.abc import AsyncIterator, Container

from msgspec import UNSET
from msgspec.structs import replace

from chatbot.llm.model_names import is_offered
from chatbot.llm.provider import Provider
from chatbot.sessions.actor.mailbox import Envelope
from chatbot.sessions.actor.turn_parameters import turn_parameters
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    Caller,
    CancelReply,
    ChangeMetadata,
    Command,
    CreateSession,
    EndReply,
    PostMessage,
    Regenerate,
    SelectBranch,
    StartReply,
)
from chatbot.sessions.domain.decide import is_due, parent_of
from chatbot.sessions.domain.reply_settings import settings_after
from chatbot.sessions.domain.state import CONTEXT_LOOK_BACK, ContextMessage, State, evolve, select_context
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.recorded_text import recorded_text
from events.catalogue import (
    MessageCopied,
    MessagePosted,
    MetadataChanged,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyRequested,
    ReplyStarted,
    SessionCreated,
)
from events.record import RecordedEvent
from projections.errors import ProjectionsUnavailable
from projections.folds.message import MessageRow
from projections.folds.session import Session


def recent_max(ports: Ports) -> int:
    """Messages kept at hand: what a context looks back over, the messages that wait, and as many replies."""
    return CONTEXT_LOOK_BACK * ports.rules.max_context_messages + 2 * ports.rules.pending_max + 2


async def load_state(ports: Ports, session_id: str) -> State | None:
    """The session's state at the end of its stream; None when there is no such stream."""
    head = ports.log.head().position
    was_current = ports.runner.position >= head
    session = await _read_projection(ports, session_id)
    state: State | None = None
    if session is not None:
        state = State(session=session, metadata={})
        first, described = session.no, session.described_at
        texts = await ports.log.read_at(sorted({first, described} - {0}))
        created = texts[first].event
        if isinstance(created, SessionCreated):
            state = State(session, created.metadata, created.title, created.settings, created.settings)
        changed = texts[described].event if described else None
        if isinstance(changed, MetadataChanged):
            settings = settings_after(changed, state.created)
            state = State(session, changed.metadata, changed.title, settings, state.created)
    if was_current and ports.runner.position >= head and not ports.log.is_shared:
        return state  # all that there was when it was asked for: no file took another's place, and nobody else appends
    return await _replay_tail(ports, session_id, state)


async def _read_projection(ports: Ports, session_id: str) -> Session | None:
    """The session as far as the projections have it. While they are made anew it may be missing: the stream has it."""
    try:
        return await ports.queries.session(session_id)
    except ProjectionsUnavailable:
        if ports.runner.rebuilding:
            return None
        raise


async def _replay_tail(ports: Ports, session_id: str, state: State | None) -> State | None:
    """The state after the tail of its stream."""
    async for page in read_tail(ports, session_id, state):
        for recorded in page:
            state = evolve(state, recorded, recent_max(ports))
    return state


async def read_tail(ports: Ports, session_id: str, state: State | None) -> AsyncIterator[list[RecordedEvent]]:
    """What was appended to the stream after `state`, page by page."""
    after, page_max = state.session.version if state else 0, ports.limits.read_page_max
    while page := await ports.log.read(session_id, after=after, limit=page_max):
        yield page
        if len(page) < page_max:
            return
        after = page[-1].version


async def load_branch(ports: Ports, state: State, leaf: str) -> dict[str, ContextMessage] | None:
    """The newest messages of the branch that ends in `leaf`; None when the session has no such message."""
    await ports.runner.wait_for(state.session.position)
    rows, texts = await _read_branch(ports, state, leaf)
    if any(recorded.event is None for recorded in texts.values()):
        # A session that this one was forked from is gone by now; its texts were copied here before.
        await ports.runner.wait_for((await ports.log.latest()).position)
        rows, texts = await _read_branch(ports, state, leaf)
    if not rows:
        return None
    loaded: dict[str, ContextMessage] = {}
    for row in rows:
        recorded = texts.get(row.position)
        event = recorded.event if recorded else None
        match event:
            case MessagePosted() | ReplyCompleted() | ReplyFailed() | ReplyCancelled() | ReplyInterrupted():
                content = event.content
            case MessageCopied():
                content = event.content
            case _:
                content = ""
        loaded[row.message_id] = ContextMessage(row.message_id, row.parent_id, row.role, content)
    return loaded


async def _read_branch(ports: Ports, state: State, leaf: str) -> tuple[list[MessageRow], dict[int, RecordedEvent]]:
    rows = await ports.queries.path(state.session.no, leaf, limit=recent_max(ports))
    return rows, await ports.log.read_at([row.position for row in rows if row.position])


async def prepare_command(ports: Ports, state: State | None, command: Command) -> tuple[State | None, Command]:
    """What deciding `command` needs at hand: the message that it means, and the texts of a context.

    Raises UnknownMessage, UnknownModel, UnknownReply, ParentUnanswered, NothingToRegenerate, Overloaded.
    """
    if isinstance(command, CreateSession) and state is None:
        _check_model(ports.provider, command.parameters.model)
    if state is None or state.session.status != "active" or is_due(state, ports.clock()):
        return state, command  # there is nothing to ask: decide says so
    if isinstance(command, PostMessage | Regenerate):
        _check_model(ports.provider, command.parameters.model)
    if isinstance(command, ChangeMetadata):
        _check_model(ports.provider, command.parameters.get("model"))
    state, command = await _resolve_message(ports, state, command)
    if isinstance(command, PostMessage | Regenerate | StartReply):
        state = await _with_context(ports, state, command)
    if isinstance(command, PostMessage):
        _check_parent(state, command)
    return state, command


def _check_model(provider: Provider, name: str | None) -> None:
    """Raises UnknownModel. Not before a request is known to be new: its repetition is answered as it was the first
    time, whatever the server offers by then.
    """
    if name is not None and provider.lists_models and not is_offered(name, provider.models):
        raise rejections.UnknownModel


def _check_parent(state: State, command: PostMessage) -> None:
    """Raises ParentUnanswered where the client names a message of the user: the model would be sent two in a row.

    Nobody names the parent where the selected branch ends in such a message, as a fork and old logs may have it.
    """
    parent = state.recent.get(command.parent_id) if isinstance(command.parent_id, str) else None
    if parent is not None and parent.role == "user":
        raise rejections.ParentUnanswered


async def _with_recent_from_stream(ports: Ports, state: State) -> State:
    """`state`; while projections are made anew with the newest messages of its stream, so that chat does not wait."""
    whole = await _replay_tail(ports, state.session.session_id, None) if ports.runner.rebuilding else None
    return replace(state, recent=whole.recent) if whole is not None else state


async def _resolve_message(ports: Ports, state: State, command: Command) -> tuple[State, Command]:
    """`command` with the message that it means in place of the one that it names, and what was read for that."""
    session = state.session
    if isinstance(command, SelectBranch):
        await ports.runner.wait_for(session.position)
        leaf = await ports.queries.newest_leaf(session.no, command.message_id)
        if leaf is None:
            raise rejections.UnknownMessage(command.message_id)
        return state, replace(command, message_id=leaf)
    if isinstance(command, CancelReply) and command.reply_id is not None:
        await _check_reply(ports, state, command.reply_id)
        return state, command
    if isinstance(command, Regenerate):
        named = command.message_id or session.head
        if named is None:
            raise rejections.NothingToRegenerate("the session has no reply yet")
        if named not in state.recent:
            state = await _with_recent_from_stream(ports, state)
        found: MessageRow | ContextMessage | None = state.recent.get(named)
        if found is None:
            await ports.runner.wait_for(session.position)
            found = await ports.queries.message(session.no, named)
        if found is None:
            raise rejections.UnknownMessage(named)
        turn = await turn_parameters(ports, state, named)
        question = found.parent_id if found.role == "assistant" else found.message_id
        return state, replace(command, message_id=question, turn=turn)
    return state, command


async def _check_reply(ports: Ports, state: State, reply_id: str) -> None:
    """Raises UnknownReply where the session has no such reply, whatever has become of it."""
    session = state.session
    if any(one is not None and one.reply_id == reply_id for one in (session.open_reply, *session.pending)):
        return
    found: MessageRow | ContextMessage | None = state.recent.get(reply_id)
    if found is None:
        await ports.runner.wait_for(session.position)
        found = await ports.queries.message(session.no, reply_id)
    if found is None or found.role != "assistant":
        raise rejections.UnknownReply(reply_id)


async def _with_context(ports: Ports, state: State, command: PostMessage | Regenerate | StartReply) -> State:
    """`state` with the texts at hand that the reply to `command` needs."""
    session, rules = state.session, ports.rules
    is_busy = bool(session.open_reply or session.pending)
    if isinstance(command, StartReply):
        leaf = session.pending[0].message_id if session.pending else None
    else:
        leaf = parent_of(state, command) if isinstance(command, PostMessage) else command.message_id
        if not is_busy and ports.limiter.is_full:
            raise rejections.Overloaded("too many replies run and wait already")
        if is_busy and isinstance(command, PostMessage) and _follows_head(session, command):
            return state  # its context is gathered when its turn comes
    if leaf is None:
        return state
    context = select_context(state.recent, leaf, rules.max_context_messages, rules.unanswered)
    if context is None:
        state = await _with_recent_from_stream(ports, state)
        context = select_context(state.recent, leaf, rules.max_context_messages, rules.unanswered)
    branch: dict[str, ContextMessage] | None
    if context is not None:
        newest_first = zip(reversed(context), reversed(state.recent), strict=False)
        if all(found.message_id == id_ for found, id_ in newest_first):
            return state  # they are the last already
        branch = {found.message_id: found for found in context}
    else:
        branch = await load_branch(ports, state, leaf)
    if branch is None:
        raise rejections.UnknownMessage(leaf)
    # To the end, where the oldest are not dropped from before the context is built.
    others = {id_: found for id_, found in state.recent.items() if id_ not in branch}
    return replace(state, recent={**others, **branch})


def _follows_head(session: Session, command: PostMessage) -> bool:
    """Whether the message follows the end of the selected branch, and is known to follow a reply where it names it."""
    if command.parent_id is UNSET:
        return True
    open_ids = [waiting.reply_id for waiting in session.pending]
    if session.open_reply is not None:
        open_ids.append(session.open_reply.reply_id)
    return command.parent_id == session.head and session.head in open_ids


async def plan_recovery(ports: Ports, state: State | None, in_memory: Container[str]) -> list[Envelope]:
    """How to close the replies that nobody will go on with: the running one keeps what had been recorded of it.

    Those are neither `held` by the session's actor nor in the hands of another node that lives. Where interrupted
    replies are retried, the running one is asked for again, and those that wait go on waiting.
    """
    if state is None:
        return []
    closing: list[Envelope] = []
    running, attempts = state.session.open_reply, ports.rules.retry_interrupted
    if running is not None and running.reply_id not in in_memory and await ports.nodes.is_gone(running.node):
        page = ports.limits.read_page_max
        text = await recorded_text(ports.log, state.session.session_id, running, page=page)
        (started,) = await ports.log.read(state.session.session_id, after=running.version - 1, limit=1)
        again: ReplyRequested | None = None
        if running.attempt <= attempts and isinstance(started.event, ReplyStarted):
            parameters = started.event.parameters
            attempt, owner_node = running.attempt + 1, ports.rules.owner_node
            again = ReplyRequested(running.reply_id, running.message_id, parameters, attempt, node=owner_node)
        closing.append(_recovery_envelope(EndReply(ReplyInterrupted(running.reply_id, text, "crash"), again), started))
    for waiting in state.session.pending if not attempts else ():
        if waiting.reply_id in in_memory or not await ports.nodes.is_gone(waiting.node):
            continue
        (asked,) = await ports.log.read(state.session.session_id, after=waiting.version - 1, limit=1)
        closing.append(_recovery_envelope(EndReply(ReplyInterrupted(waiting.reply_id, "", "crash")), asked))
    return closing


def _recovery_envelope(command: EndReply, cause: RecordedEvent) -> Envelope:
    return Envelope(command, caller_of(cause), cause="recovery")


def caller_of(recorded: RecordedEvent) -> Caller:
    """Who asked for what `recorded` says, for what the service does about it later."""
    return Caller(owner=recorded.metadata.actor, request_id=recorded.metadata.request_id, is_service=True)


async def orphaned_requests(ports: Ports, state: State, in_memory: Container[str]) -> list[RecordedEvent]:
    """The events that asked for the replies that wait and are nobody's, in their order."""
    asked: list[RecordedEvent] = []
    for waiting in state.session.pending:
        is_ours = ports.rules.is_shared and waiting.node == ports.rules.node
        if waiting.reply_id in in_memory or not (is_ours or await ports.nodes.is_gone(waiting.node)):
            continue
        asked += await ports.log.read(state.session.session_id, after=waiting.version - 1, limit=1)
    return asked
