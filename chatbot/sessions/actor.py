"""The actor that owns one session: receive, decide, append, evolve, answer. One task; nobody else appends to its
stream in this process, and `expected_version` decides every race with other nodes: who loses it reads the tail and
decides again.
"""

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from chatbot.sessions import activate, elsewhere, errors
from chatbot.sessions.commands import (
    SERVICE,
    AskAgain,
    CancelReply,
    CatchUp,
    CheckpointReply,
    Command,
    CreateSession,
    DeleteSession,
    EndReply,
    Fork,
    InterruptReplies,
    PostMessage,
    Recover,
    Regenerate,
    StartReply,
    Stop,
    Touch,
)
from chatbot.sessions.decide import Decision, Rules, decide, gone, keyed
from chatbot.sessions.forking import Ask, fork, hand_over
from chatbot.sessions.idempotency import Answer, answer_again, forked, once_of
from chatbot.sessions.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies import Replies
from chatbot.sessions.reply import Reply
from chatbot.sessions.state import State, evolve
from events.catalogue import Event, ReplyCancelled, ReplyEnded, ReplyInterrupted
from events.errors import LogUnavailable, VersionConflict
from events.record import RecordedEvent
from projections.errors import ProjectionError
from projections.session import OpenReply

DECIDE_MAX = 8  # rounds lost to other nodes that write to the same stream before the asker is told to try again
CONTENDED = "others keep writing to this session; try again"
UNAVAILABLE = (LogUnavailable, ProjectionError)  # the disk's doing: nothing is wrong with the actor
RETRY_S = 1.0  # between attempts to record a reply's start or end while the disk refuses


class Actor:
    """`retire` is called once, when the actor has stopped. `is_new`: there is nothing to load yet."""

    def __init__(
        self,
        session_id: str,
        ports: Ports,
        retire: Callable[["Actor"], None],
        ask: Ask,
        *,
        is_new: bool = False,
    ) -> None:
        self.session_id = session_id
        self.mailbox = Mailbox(ports.limits.mailbox_max)
        self.failed = False
        self._ports = ports
        self._retire = retire
        self._ask = ask  # other sessions
        self._now = ports.rules
        self._state: State | None = None
        self._replies = Replies(ports, self.mailbox)
        self._in_hand: Envelope | None = None
        self._is_new = is_new
        # Whether the state has all that was recorded before the command in hand came. Always so without other nodes.
        self._is_level = not ports.log.is_shared
        self._is_told = False  # that there is more, by a CatchUp in the mailbox
        # A context of its own: the actor outlives the request that happened to activate it, whose id is not its own.
        self._task = asyncio.create_task(self._run(), name=f"session {session_id}", context=contextvars.Context())

    @property
    def is_idle(self) -> bool:
        return not self._replies.by_id and not self.mailbox and self._in_hand is None

    @property
    def replies(self) -> dict[str, Reply]:
        """Replies that run or wait, by id."""
        return self._replies.by_id

    def hear(self, version: int) -> None:
        """Another node may have recorded up to `version` of this session."""
        known = self._state.session.version if self._state else 0
        if version > known and not self._is_told:
            with suppress(MailboxClosed):
                self.mailbox.tell(Envelope(CatchUp(), SERVICE))
                self._is_told = True

    async def stopped(self) -> None:
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        unread: Exception = MailboxClosed()  # open the session again
        try:
            if not self._is_new:
                self._state = await activate.load(self._ports, self.session_id)
                await self._recover()
            await self._receive()
        except UNAVAILABLE as error:
            unread = error
            self._ports.logger.warning("actor.not_activated", error=type(error).__name__, reason=str(error))
        except Exception as error:
            self.failed = True
            self._ports.observe.actor_failed()
            self._ports.logger.exception("actor.failed", error=type(error).__name__)
            if self._in_hand is not None:
                self._in_hand.answer(errors.ActorFailed("internal error"))
        finally:
            for envelope in self.mailbox.close():
                envelope.answer(unread)
            self._retire(self)
            await self._replies.abandon()

    async def _receive(self) -> None:
        while True:
            envelope = await self.mailbox.take(self._ports.limits.idle_timeout_s)
            if envelope is None:
                if self.is_idle:
                    return
                continue
            if envelope.reply_to is not None and envelope.reply_to.done():
                continue  # the asker has left before anything was recorded
            self._in_hand = envelope
            try:
                answer = await self._handle(envelope)
            except (errors.Rejection, *UNAVAILABLE) as refusal:
                envelope.answer(refusal)
            else:
                envelope.answer(answer)
            self._in_hand = None
            if isinstance(envelope.command, Stop):
                return

    async def _handle(self, envelope: Envelope) -> Answer:
        self._is_level = not self._ports.log.is_shared
        for _ in range(DECIDE_MAX):
            if once_of(envelope.command) is not None and not self._is_level:
                await self._catch_up()  # the same request may have come to another node before
            again = await self._answer_again(envelope)
            if again is not None:
                return again
            try:
                return await self._carry_out(envelope)
            except VersionConflict:  # or it comes to another node just now
                await self._catch_up()
        raise LogUnavailable(CONTENDED)

    async def _carry_out(self, envelope: Envelope) -> Answer:
        """Raises VersionConflict where it has to be asked anew whether the request is a repeated one."""
        command = envelope.command
        match command:
            case CatchUp() | Recover():
                await self._catch_up()
                if isinstance(command, Recover):
                    await self._recover()
                return Answer(self._known())
            case CancelReply():
                return await self._cancel(envelope, command)
            case InterruptReplies() | Stop():
                return await self._leave(envelope)
            case Fork():
                return await self._fork(envelope, command)
            case DeleteSession():
                return await self._delete(envelope, command)
            case EndReply():
                return Answer(self._known(), await self._record_end(envelope, command))
            case StartReply():
                return Answer(self._known(), await self._until_recorded(envelope, command))
            case CheckpointReply():
                return await self._checkpoint(envelope)
            case PostMessage(on_busy="interrupt") | Regenerate(on_busy="interrupt"):
                await self._decide_and_append(envelope, CancelReply())  # is the session there, and the asker's?
                await activate.prepare(self._ports, self._state, command)  # is what it follows there?
                envelope.if_version = None  # the endings move the version on
                await self._end_replies(ReplyCancelled, "superseded", envelope)
        reply = await self._decide_and_append(envelope)
        return Answer(self._known(), reply)

    async def _decide_and_append(self, envelope: Envelope, command: Command | None = None) -> Reply | None:
        """Returns the reply that the recorded events concern. Raises Rejection or LogUnavailable."""
        asked = command or envelope.command
        for _ in range(DECIDE_MAX):
            try:
                decision = await self._decide(asked, envelope)
                reply = await self._append(decision.events, envelope)
            except VersionConflict:
                if once_of(asked) is not None:
                    raise
                await self._catch_up()
                continue
            except errors.Rejection:
                if self._is_level:
                    raise
                await self._catch_up()  # what the refusal rests on may not be so any more
                continue
            if not decision.events and not self._is_level:
                await self._catch_up()  # likewise
                continue
            if decision.rejection is not None:
                raise decision.rejection
            return reply
        raise LogUnavailable(CONTENDED)

    async def _decide(self, asked: Command, envelope: Envelope) -> Decision:
        """Raises the rejection itself where nothing is to be recorded."""
        self._check(asked, envelope)
        self._state, found = await activate.prepare(self._ports, self._state, asked)
        decision = decide(self._state, found, self._ports.clock(), self._rules(), envelope.asker, self.session_id)
        if decision.rejection is not None and not decision.events:
            raise decision.rejection
        return decision

    async def _catch_up(self) -> None:
        """Learn what other nodes have recorded, and let go of what they have ended of ours."""
        self._is_told = False
        ended: dict[str, RecordedEvent] = {}
        async for page in activate.tail(self._ports, self.session_id, self._state):
            for one in page:
                self._state = evolve(self._state, one, activate.recent_max(self._ports))
                if isinstance(one.event, ReplyEnded):
                    ended[one.event.reply_id] = one
            self._ports.feeds.publish(self.session_id, page)
            if page[-1].position > self._ports.log.head().position:
                await (
                    self._ports.log.latest()
                )  # whoever waits for the projections waits for the log's end as known here
        self._is_level = True
        if self._state is not None:
            await self._replies.reconcile(self._state, ended)

    async def _append(self, events: tuple[Event, ...], envelope: Envelope) -> Reply | None:
        if not events:
            return None
        version = self._state.session.version if self._state else 0
        recorded = await self._ports.log.append(self.session_id, version, events, envelope.metadata)
        return self._apply(recorded, envelope)

    def _apply(self, recorded: tuple[RecordedEvent, ...], envelope: Envelope) -> Reply | None:
        """Evolve, then do what the facts ask for."""
        for one in recorded:
            self._state = evolve(self._state, one, activate.recent_max(self._ports))
        self._ports.feeds.publish(self.session_id, recorded)
        touched: Reply | None = None
        for one in recorded:
            touched = self._replies.react(one, envelope, self._known()) or touched
        return touched

    async def _record_end(self, envelope: Envelope, command: EndReply) -> Reply | None:
        """A reply always ends: when the disk refuses, those who wait are told and the attempt is repeated."""
        try:
            return await self._until_recorded(envelope, command)
        except LogUnavailable as error:
            stalled = self._replies.by_id.get(command.event.reply_id)
            if stalled is not None:
                stalled.stall(error)
            raise

    async def _until_recorded(self, envelope: Envelope, command: EndReply | StartReply) -> Reply | None:
        """What nobody else would ask for again is tried until the disk takes it."""
        try:
            return await self._decide_and_append(envelope, command)
        except UNAVAILABLE as error:
            self._ports.logger.warning("reply.not_recorded", reason=str(error), retry_s=RETRY_S)
            again = Envelope(command, envelope.asker, cause=envelope.cause)
            asyncio.get_running_loop().call_later(RETRY_S, self._tell_again, again)
            raise

    async def _checkpoint(self, envelope: Envelope) -> Answer:
        try:
            await self._decide_and_append(envelope)
        except LogUnavailable as error:
            self._ports.logger.warning("reply.checkpoint_not_recorded", reason=str(error))
            if self._replies.running is not None:
                self._replies.running.checkpointed(None)
        return Answer(self._known())

    def _tell_again(self, envelope: Envelope) -> None:
        try:
            self.mailbox.tell(envelope)
        except MailboxClosed:
            self._ports.logger.warning("reply.left_open")  # recovery closes it at the next activation

    async def _cancel(self, envelope: Envelope, command: CancelReply) -> Answer:
        await self._decide_and_append(envelope)  # is the session there, and the asker's?
        running, written = self._replies.running, self._known().session.open_reply
        if running is None and written is not None:
            return Answer(self._known(), await self._cancel_elsewhere(envelope, command, written))
        if running is None:
            return Answer(self._known())
        await running.stop()
        ended = EndReply(keyed(running.ended_early(ReplyCancelled, command.cause), command.once))
        reply = await self._record_end(envelope, ended)
        return Answer(self._known(), reply)

    async def _cancel_elsewhere(self, envelope: Envelope, command: CancelReply, written: OpenReply) -> Reply | None:
        """Cancel a reply that another node writes: there, with all of its text, or by an append, with what is recorded.

        That node stops the model when it sees the append.
        """
        if not await self._ports.nodes.cancel(self.session_id, written, command, envelope.asker):
            text = await elsewhere.text_of(self._ports, self.session_id, written)
            ended = keyed(ReplyCancelled(written.reply_id, text, command.cause), command.once)
            await self._record_end(envelope, EndReply(ended))
        await self._catch_up()
        return await elsewhere.ended_reply(self._ports, self.session_id, written, envelope.asker)

    async def _leave(self, envelope: Envelope) -> Answer:
        """The service is going down. What is to be retried after a restart is asked for again, on the record."""
        owed, running = self._replies.owed(self._state) if self._state else (), self._replies.running
        self._replies.leaving = True
        await self._end_replies(ReplyInterrupted, "shutdown", envelope)
        done = running.reply.reply_id if running is not None and running.ended is not None else None
        again = tuple(one for one in owed if one.reply_id != done)
        if again:
            await self._decide_and_append(envelope, AskAgain(again))
        return Answer(self._known())

    async def _fork(self, envelope: Envelope, command: Fork) -> Answer:
        await self._decide_and_append(envelope, Touch())  # is the session there, and the asker's?
        forked = await fork(self._ports, self._known(), command, envelope.asker, envelope.metadata)
        if self._ports.log.is_shared:
            await self._hold_fork(envelope, command)
        return Answer(forked)

    async def _hold_fork(self, envelope: Envelope, command: Fork) -> None:
        """Another node may have erased this session meanwhile, and not have seen the fork whose texts lie here.

        So the fork is noted here, too: an erasure comes before, and the fork is taken back, or after, and sees it.
        """
        try:
            await self._decide_and_append(envelope, Touch(noted=True))
        except errors.Rejection:
            await self._ask(command.session_id, DeleteSession("origin_deleted"), SERVICE)
            raise

    async def _answer_again(self, envelope: Envelope) -> Answer | None:
        """What the same request was answered when it came first; None when it is new, or is to be refused."""
        if self._state is None:
            return None
        now_us, rules = self._ports.clock(), self._rules()
        if decide(self._state, Touch(), now_us, rules, envelope.asker, self.session_id).rejection is not None:
            return None
        if isinstance(envelope.command, Fork):  # its key is in the stream that it made
            return await forked(self._ports, envelope.command)
        return await answer_again(self._ports, self._state, envelope, self._replies.by_id)

    async def _end_replies(
        self, ending: type[ReplyCancelled | ReplyInterrupted], cause: str, envelope: Envelope
    ) -> None:
        """End those that wait, then the running one."""
        for reply in self._replies.waiting:
            await self._record_end(envelope, EndReply(ending(reply.reply_id, "", cause)))
        running = self._replies.running
        if running is not None:
            await running.stop()
            await self._record_end(envelope, EndReply(running.ended or running.ended_early(ending, cause)))
        if ending is ReplyCancelled and self._ports.log.is_shared:
            await self._cancel_all_elsewhere(envelope, cause)

    async def _cancel_all_elsewhere(self, envelope: Envelope, cause: str) -> None:
        """End what other nodes owe and write in this session: those that wait first."""
        await self._catch_up()
        for waiting in reversed(self._known().session.pending):
            await self._record_end(envelope, EndReply(ReplyCancelled(waiting.reply_id, "", cause)))
        written = self._known().session.open_reply
        if written is not None:
            await self._cancel_elsewhere(envelope, CancelReply(cause), written)

    async def _delete(self, envelope: Envelope, command: DeleteSession) -> Answer:
        self._check(command, envelope)
        envelope.if_version = None  # the endings below move the version on
        await self._end_replies(ReplyCancelled, "deleted", envelope)
        for _ in range(DECIDE_MAX):
            try:
                return await self._erase(envelope, command)
            except VersionConflict:
                await self._catch_up()
                self._check(command, envelope)  # another node may have deleted it
                await self._end_replies(ReplyCancelled, "deleted", envelope)
        raise LogUnavailable(CONTENDED)

    async def _erase(self, envelope: Envelope, command: DeleteSession) -> Answer:
        """Raises VersionConflict."""
        session = self._known().session
        await hand_over(self._ports, self._known(), self._ask)
        usage = await self._ports.queries.usage_of(session.no)
        last_words = decide(
            self._state, replace(command, usage=usage), self._ports.clock(), self._rules(), SERVICE, self.session_id
        ).events[0]
        try:
            recorded = await self._ports.log.erase(self.session_id, session.version, last_words, envelope.metadata)
        finally:
            self._ports.texts.drop()  # also when nobody knows whether it was erased
        self._apply(recorded, envelope)
        return Answer(self._known())

    async def _recover(self) -> None:
        """Close what a crash, or a node that is gone, has left open."""
        for envelope in await activate.left_open(self._ports, self._state, self._replies.by_id):
            await self._decide_and_append(envelope)
            self._ports.logger.info("reply.interrupted", cause="crash")
        if self._state is not None and self._state.session.pending:  # they are to be retried
            for asked in await activate.waiting_replies(self._ports, self._state, self._replies.by_id):
                self._replies.wait(asked, activate.asker_of(asked))
            self._replies.start_next(self._state)

    def _check(self, command: Command, envelope: Envelope) -> None:
        """First of all: a session that is gone, or a stranger's, says nothing of its version or its messages."""
        refused = gone(self._state, command, self._rules(), envelope.asker, self.session_id)
        if refused is not None and not isinstance(command, CreateSession):
            raise refused
        current = self._state.session.version if self._state else 0
        if envelope.if_version is not None and envelope.if_version != current:
            raise errors.VersionMismatch(envelope.if_version, current)

    def _rules(self) -> Rules:
        """With the provider's names as they are now: it may find out only later what it talks to."""
        rules, provider = self._now, self._ports.provider
        if (rules.provider, rules.model) != (provider.name, provider.model):
            rules = self._now = replace(rules, provider=provider.name, model=provider.model)
        return rules

    def _known(self) -> State:
        if self._state is None:
            raise errors.SessionNotFound(self.session_id)
        return self._state
