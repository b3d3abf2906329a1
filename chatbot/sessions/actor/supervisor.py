"""The supervisor of session actors: activates and passivates them, restarts failed ones with exponential backoff, and
shuts down gracefully in stages.
"""

import asyncio
import contextvars
from collections import OrderedDict
from contextlib import suppress

from chatbot.runtime.backoff import Backoff
from chatbot.runtime.fair_limit import FairLimit
from chatbot.sessions.actor.actor import Actor
from chatbot.sessions.actor.mailbox import AnswerTimer, CommandResult, Envelope, MailboxClosed
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    SERVICE,
    Caller,
    Command,
    CreateSession,
    InterruptReplies,
    PostTranscript,
    RecordAccess,
    Stop,
)
from chatbot.sessions.domain.state import may_access
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies.reply import Reply
from events.errors import LogUnavailable
from projections.errors import ProjectionError

FAILURES_MAX = 1024  # sessions whose failures are remembered; the oldest entry is evicted first
RESTART_BACKOFF = Backoff(first_s=0.1, max_s=30.0)
STRANGER_CHECK_S = 1.0  # for which a command to a session that is not in memory waits for the projections
DRAIN_POLL_S = 0.02  # between checks whether replies still run
RECOVER_ATTEMPTS_MAX = 10
RECOVER_PAUSE_S = 0.2  # after the first attempt; grows with each
RECOVER_CONCURRENCY_MAX = 32  # sessions recovered concurrently at start


class Supervisor:
    """All live sessions of this process, by id."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._actors: OrderedDict[str, Actor] = OrderedDict()  # least recently used first
        self._actors_of = FairLimit(ports.limits.live_max)  # by the owner whose command activated them
        self._failures: OrderedDict[str, tuple[int, float]] = (
            OrderedDict()
        )  # count, no restart before (monotonic seconds)
        self._answer_timer = AnswerTimer(ports.limits.ask_timeout_s)
        self._recoveries: set[asyncio.Task[None]] = set()
        self._draining = False
        self._closed = False

    @property
    def draining(self) -> bool:
        return self._draining

    def replies(self, session_id: str) -> dict[str, Reply]:
        """The session's replies that run or are queued in this process, by id; a copy."""
        actor = self._actors.get(session_id)
        return dict(actor.replies) if actor else {}

    def running_reply(self, session_id: str) -> Reply | None:
        """The session's reply that has started and not ended: this process's own, or the mirror of another node's."""
        own = next((one for one in self.replies(session_id).values() if one.version and one.outcome is None), None)
        return own or self._ports.cluster.running_reply(session_id)

    def on_remote_append(self, session_id: str, version: int) -> None:
        """Another node may have recorded up to `version` of this session."""
        actor = self._actors.get(session_id)
        if actor is not None:
            actor.on_remote_append(version)

    def count_replies(self) -> int:
        return sum(len(actor.replies) for actor in self._actors.values())

    async def ask(
        self,
        session_id: str,
        command: Command,
        caller: Caller,
        *,
        if_versions: frozenset[int] | None = None,
        cause: str | None = None,
    ) -> CommandResult:
        """As AskSession."""
        if not (caller.is_service or caller.any_owner or _may_create(command)):
            await self._refuse_strangers(session_id, caller)
        loop = asyncio.get_running_loop()
        envelope = Envelope(command, caller, loop.create_future(), if_versions, cause)
        self._answer_timer.add(envelope)
        try:
            return await self._await_answer(session_id, envelope)
        except TimeoutError:
            _drop_answer(envelope)
            self._ports.observer.refused("timeout")
            raise rejections.Overloaded("the session did not answer in time; it may still do what was asked") from None
        except BaseException:
            _drop_answer(envelope)
            raise
        finally:
            self._answer_timer.remove(envelope)

    async def _refuse_strangers(self, session_id: str, caller: Caller) -> None:
        """Refuse a session of another owner like one that does not exist, and in the same time: by the projections.

        An actor would take longer for an id that is unknown than for a session that it has in memory. While the
        projections are behind, actors decide: chat goes on, and the time may tell. Raises SessionNotFound.
        """
        actor, ports = self._actors.get(session_id), self._ports
        if (actor is not None and actor.is_of(caller)) or ports.runner.rebuilding:
            return
        try:
            await ports.runner.wait_for((await ports.log.latest()).position, timeout_s=STRANGER_CHECK_S)
            session = await ports.queries.session(session_id)
        except (ProjectionError, LogUnavailable):
            return
        if session is None or not may_access(session.owner, caller):
            raise rejections.SessionNotFound(session_id)

    async def _await_answer(self, session_id: str, envelope: Envelope) -> CommandResult:
        """The answer, from a new actor if the present one stops first. Raises TimeoutError, and what `ask` raises."""
        command = envelope.command
        while envelope.reply_to is not None:
            try:
                is_new = isinstance(command, CreateSession) and command.idempotency_key is None
                is_new = is_new or (isinstance(command, PostTranscript) and command.is_new)
                self._enqueue(self._actor(session_id, envelope.caller.owner, is_new=is_new), envelope)
                answer: CommandResult = await envelope.reply_to
            except MailboxClosed:  # lost the race with a stopping actor: activate it again
                loop = asyncio.get_running_loop()
                if loop.time() >= envelope.deadline_s:  # the timer has fired for the old future and ends no other
                    raise TimeoutError from None
                envelope.reply_to = loop.create_future()
                await asyncio.sleep(0)
            else:
                self._failures.pop(session_id, None)
                return answer
        raise RuntimeError("the envelope has no future for the answer")

    def _enqueue(self, actor: Actor, envelope: Envelope) -> None:
        try:
            actor.mailbox.ask(envelope)
        except rejections.Overloaded:
            self._ports.observer.refused("mailbox_full")
            raise

    async def recover(self) -> int:
        """Crash recovery: activate the sessions with open replies, which closes these. Returns how many sessions."""
        done, after = 0, 0
        at_once = max(1, min(RECOVER_CONCURRENCY_MAX, self._ports.limits.live_max // 2))  # leave room for clients
        while page := await self._ports.queries.open_sessions(limit=at_once, after=after):
            after = page[-1].no
            todo = [one.session_id for one in page if one.session_id not in self._actors]
            done += sum(await asyncio.gather(*(self._recover(session_id) for session_id in todo)))
        return done

    async def _recover(self, session_id: str) -> bool:
        """Whether its replies are closed. Temporary failures are retried for a while."""
        for attempt in range(RECOVER_ATTEMPTS_MAX):
            try:
                await self.ask(session_id, RecordAccess(), SERVICE, cause="recovery")
            except rejections.SessionNotFound:
                return True  # expired meanwhile: its activation has closed the replies
            except (rejections.Overloaded, LogUnavailable, ProjectionError) as error:
                self._ports.logger.warning("recovery.waits", reason=str(error), attempt=attempt)
                await asyncio.sleep(RECOVER_PAUSE_S * (attempt + 1))
            except Exception as error:
                self._ports.logger.exception("recovery.failed", error=type(error).__name__)
                return False
            else:
                return True
        self._ports.logger.error("recovery.given_up")  # the session's next command closes them
        return False

    async def drain(self, grace_s: float) -> None:
        """No new replies; running ones get `grace_s`, then end as interrupted, as recorded facts."""
        self._draining = True
        deadline = self._ports.timer() + grace_s
        # Polling is simpler than an event that tracks every actor, and happens once in a process's life.
        while self.count_replies() and self._ports.timer() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_S)
        busy = [session_id for session_id, actor in self._actors.items() if actor.replies]
        answers = await asyncio.gather(
            *(self.ask(session_id, InterruptReplies(), SERVICE, cause="shutdown") for session_id in busy),
            return_exceptions=True,
        )
        for failure in (answer for answer in answers if isinstance(answer, BaseException)):
            self._ports.logger.error("drain.interrupt_failed", reason=str(failure))

    async def close(self) -> None:
        """Stop all actors; each answers the commands in its mailbox first."""
        self._draining = self._closed = True
        for task in self._recoveries:
            task.cancel()
        actors = list(self._actors.values())
        for actor in actors:
            self._stop(actor)
        if actors:
            await asyncio.gather(*(actor.stopped() for actor in actors))

    def _actor(self, session_id: str, owner: str | None, *, is_new: bool) -> Actor:
        actor = self._actors.get(session_id)
        if actor is not None:
            self._actors.move_to_end(session_id)
            return actor
        if self._closed:
            raise rejections.Draining("the service is shutting down")
        if self._ports.timer() < self._failures.get(session_id, (0, 0.0))[1]:
            raise rejections.Overloaded("the session failed and is about to start again")
        if len(self._actors) >= self._ports.limits.live_max:
            self._passivate_idle(owner)
        actor = Actor(session_id, self._ports, self._on_actor_stopped, self.ask, is_new=is_new, owner=owner)
        self._actors[session_id] = actor
        self._actors_of.add(owner)
        self._ports.observer.actors(len(self._actors))
        return actor

    def _passivate_idle(self, owner: str | None) -> None:
        """Passivate the least recently used idle actor. If none is idle, an owner with less than its part of the actors
        gets one more. Raises Overloaded, OverShare.
        """
        idle = next((actor for actor in self._actors.values() if actor.is_idle), None)
        if idle is not None:
            self._forget(idle)
            self._stop(idle)
            return
        excess = self._actors_of.excess(owner)
        if excess is not None:
            self._ports.observer.refused("over_share" if excess == "over_share" else "live_max")
            raise rejections.at_limit(excess, "too many sessions are active")

    def _forget(self, actor: Actor) -> None:
        del self._actors[actor.session_id]
        self._actors_of.remove(actor.owner)

    def _stop(self, actor: Actor) -> None:
        with suppress(MailboxClosed):  # then it is stopping already
            actor.mailbox.tell(Envelope(Stop(), SERVICE, cause="shutdown"))

    def _recover_later(self, session_id: str, wait_s: float) -> None:
        """An actor has failed with open replies: have them closed even if no command comes for the session."""

        async def recover() -> None:
            await asyncio.sleep(wait_s)
            await self._recover(session_id)

        task = asyncio.create_task(recover(), name=f"recover {session_id}", context=contextvars.Context())
        self._recoveries.add(task)
        task.add_done_callback(self._recoveries.discard)

    def _on_actor_stopped(self, actor: Actor) -> None:
        if self._actors.get(actor.session_id) is actor:
            self._forget(actor)
        self._ports.observer.actors(len(self._actors))
        if actor.failed:
            count = self._failures.pop(actor.session_id, (0, 0.0))[0] + 1
            wait_s = RESTART_BACKOFF.delay_s(count)
            self._failures[actor.session_id] = (count, self._ports.timer() + wait_s)
            if actor.replies and not self._closed:
                self._recover_later(actor.session_id, wait_s)
            while len(self._failures) > FAILURES_MAX:
                self._failures.popitem(last=False)


def _may_create(command: Command) -> bool:
    """Whether the session need not exist yet; its id is then new, or follows from the caller and its key."""
    return isinstance(command, CreateSession) or (isinstance(command, PostTranscript) and command.create is not None)


def _drop_answer(envelope: Envelope) -> None:
    """The caller is done with the answer. An exception is marked as retrieved: it may have come after the caller was
    cancelled. It is also dropped: it refers to the caller's frames, and so to the envelope, until garbage collection.
    After a timeout it stays: the actor is to see that the caller has left.
    """
    reply_to = envelope.reply_to
    if reply_to is None or not reply_to.done() or reply_to.cancelled():
        return
    error = reply_to.exception()
    if error is not None and not isinstance(error, TimeoutError):
        envelope.reply_to = None
