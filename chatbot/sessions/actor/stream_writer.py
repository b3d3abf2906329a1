"""A session's stream as its actor writes it: decide, append, evolve. Who loses a race with another node reads the tail
and decides again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from msgspec.structs import replace

from chatbot.sessions.actor import command_context
from chatbot.sessions.actor.idempotency import idempotency_key_of
from chatbot.sessions.actor.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.actor.reply_queue import ReplyQueue
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import SERVICE, CatchUp, Command, CreateSession
from chatbot.sessions.domain.decide import Decision, Rules, decide, find_refusal
from chatbot.sessions.domain.state import State, evolve
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.reply import Reply
from events.catalogue import Event, ReplyEnded, ReplyProgressed, ReplyStarted
from events.errors import LogUnavailable, VersionConflict
from events.record import RecordedEvent

CATCH_UP_RETRY_S = 1.0  # after the log could not be read
ROUNDS_MIN, CONTENTION_MAX_S = 8, 5.0  # rounds, and seconds, lost to others who write to the stream, before giving up
CONTENDED = "others keep writing to this session; try again"


def retry_rounds(ports: Ports) -> Iterator[None]:
    """Rounds of deciding; none once the asker is to be told to try again."""
    yield  # nearly always the last: the clock is not looked at
    lost, begun_s = 1, ports.timer()
    while lost < ROUNDS_MIN or ports.timer() - begun_s < CONTENTION_MAX_S:
        yield
        lost += 1


class SessionStream:
    """The state of one session, and the replies that its facts ask for. For one task.

    `is_level`: the state has all that was recorded before the command in hand came; always so alone.
    """

    def __init__(self, session_id: str, ports: Ports, mailbox: Mailbox) -> None:
        self.state: State | None = None
        self.replies = ReplyQueue(ports, mailbox)
        self.is_current = not ports.log.is_shared
        self._session_id = session_id
        self._ports = ports
        self._mailbox = mailbox
        self._rules = ports.rules
        self._catch_up_is_queued = False  # that there is more, by a CatchUp in the mailbox
        self._unapplied_ends: dict[str, RecordedEvent] = {}  # read, and not told yet, where the log broke off meanwhile

    @property
    def existing_state(self) -> State:
        """The state of a session that is there. Raises SessionNotFound."""
        if self.state is None:
            raise rejections.SessionNotFound(self._session_id)
        return self.state

    @property
    def version(self) -> int:
        return self.state.session.version if self.state else 0

    @property
    def rules(self) -> Rules:
        """With the provider's names as they are now: it may find out only later what it talks to."""
        rules, provider = self._rules, self._ports.provider
        if (rules.provider, rules.model, rules.models) != (provider.name, provider.model, provider.models):
            names = {"provider": provider.name, "model": provider.model, "models": provider.models}
            rules = self._rules = replace(rules, **names)
        return rules

    @property
    def has_lost_reply(self) -> bool:
        """Whether this node owes or writes a reply and does not hold it: the log's answer to that append never came.

        All others see that this node lives, so nobody else would close it.
        """
        if self.state is None or self.replies.shutting_down or not self._ports.log.is_shared:
            return False  # who leaves owes what the next life is to start
        session, node = self.state.session, self._rules.node
        own = {one.reply_id for one in session.pending if one.node == node}
        if session.open_reply is not None and session.open_reply.node == node:
            own.add(session.open_reply.reply_id)
        return not own <= self.replies.by_id.keys()

    def begin_command(self) -> None:
        """Another command is in hand."""
        self.is_current = not self._ports.log.is_shared

    def on_remote_append(self, version: int) -> None:
        """Another node may have recorded up to `version`: the actor is to read it, all at once."""
        if version > self.version:
            self._enqueue_catch_up()

    def schedule_catch_up(self) -> None:
        """The log could not be read. Nobody may say again that there is more, and a reply may wait for its turn."""
        if self._ports.log.is_shared:
            asyncio.get_running_loop().call_later(CATCH_UP_RETRY_S, self._enqueue_catch_up)

    def _enqueue_catch_up(self) -> None:
        if not self._catch_up_is_queued:
            with suppress(MailboxClosed):
                self._mailbox.tell(Envelope(CatchUp(), SERVICE))
                self._catch_up_is_queued = True

    async def record(self, envelope: Envelope, command: Command | None = None) -> Reply | None:
        """Decide `command` (None: the envelope's) and append; returns the reply that the recorded events concern.

        Raises Rejection, LogUnavailable, ProjectionError; and VersionConflict, for a request with a key, where it is to
        be asked anew whether the same one has come to another node.
        """
        command_to_decide = command or envelope.command
        for _ in retry_rounds(self._ports):
            try:
                decision = await self._decide(command_to_decide, envelope)
                reply = await self._append(decision.events, envelope)
            except VersionConflict:
                await self.catch_up()
                if idempotency_key_of(command_to_decide) is not None:
                    raise
                continue
            except rejections.Rejection:
                if self.is_current:
                    raise
                await self.catch_up()  # what the refusal rests on may not be so any more
                continue
            if not decision.events and not self.is_current:
                await self.catch_up()  # likewise
                continue
            if decision.rejection is not None:
                raise decision.rejection
            return reply
        raise LogUnavailable(CONTENDED)

    def apply(self, recorded: tuple[RecordedEvent, ...], envelope: Envelope) -> Reply | None:
        """Evolve, then do what the facts ask for."""
        for one in recorded:
            self.state = evolve(self.state, one, command_context.recent_max(self._ports))
        self._ports.feeds.publish(self._session_id, recorded)
        touched: Reply | None = None
        for one in recorded:
            touched = self.replies.on_recorded(one, envelope, self.existing_state) or touched
        return touched

    async def catch_up(self) -> None:
        """Learn what other nodes have recorded, and let go of what they have ended of ours. Raises LogUnavailable."""
        self._catch_up_is_queued = False
        async for page in command_context.read_tail(self._ports, self._session_id, self.state):
            for one in page:
                self.state = evolve(self.state, one, command_context.recent_max(self._ports))
                if isinstance(one.event, ReplyEnded):
                    self._unapplied_ends[one.event.reply_id] = one
            self._ports.feeds.publish(self._session_id, page)
            if page[-1].position > self._ports.log.head().position:
                await self._ports.log.latest()  # for who will wait until the projections have this, too
        self.is_current = True
        if self.state is not None:
            ended, self._unapplied_ends = self._unapplied_ends, {}
            await self.replies.reconcile(self.state, ended)

    def check(self, command: Command, envelope: Envelope) -> None:
        """First of all: a session that is gone, or a stranger's, says nothing of its version or its messages."""
        refused = find_refusal(self.state, command, self.rules, envelope.caller, self._session_id)
        if refused is not None and not isinstance(command, CreateSession):
            raise refused
        if envelope.if_versions is not None and self.version not in envelope.if_versions:
            raise rejections.VersionMismatch(envelope.if_versions, self.version)

    async def expect_version(self, envelope: Envelope, versions: frozenset[int] | None) -> None:
        """Replies have been ended for a command that is to hold at one of `versions` (None: at any), as it did until
        then: from now on it is to hold at this one. Raises VersionMismatch where another node has recorded more than
        what became of replies meanwhile.
        """
        if versions is None or not self._ports.log.is_shared:
            return
        version = max((one for one in versions if one <= self.version), default=0)
        page_max, after = self._ports.limits.read_page_max, version
        while page := await self._ports.log.read(self._session_id, after=after, limit=page_max):
            for one in page:
                if one.version <= self.version and not isinstance(
                    one.event, ReplyStarted | ReplyProgressed | ReplyEnded
                ):
                    raise rejections.VersionMismatch(versions, self.version)
            if len(page) < page_max:
                break
            after = page[-1].version
        envelope.if_versions = frozenset((self.version,))

    async def _decide(self, command_to_decide: Command, envelope: Envelope) -> Decision:
        """Raises the rejection itself where nothing is to be recorded."""
        self.check(command_to_decide, envelope)
        self.state, found = await command_context.prepare_command(self._ports, self.state, command_to_decide)
        decision = decide(self.state, found, self._ports.clock(), self.rules, envelope.caller, self._session_id)
        if decision.rejection is not None and not decision.events:
            raise decision.rejection
        return decision

    async def _append(self, events: tuple[Event, ...], envelope: Envelope) -> Reply | None:
        if not events:
            return None
        try:
            recorded = await self._ports.log.append(self._session_id, self.version, events, envelope.metadata)
        except LogUnavailable:
            self.schedule_catch_up()  # perhaps it was recorded
            raise
        return self.apply(recorded, envelope)
