"""A session actor's bounded mailbox. One consumer; the session's messages to itself overtake those of clients."""

import asyncio
from collections import deque
from typing import Any

from msgspec import Struct

from chatbot.sessions.domain.commands import Caller, Command
from chatbot.sessions.domain.context import ContextMessage
from chatbot.sessions.domain.rejections import Overloaded
from chatbot.sessions.domain.state import State
from chatbot.sessions.replies.reply import Reply
from events.catalogue import ToolCallsClosed
from events.record import Metadata


class Envelope(Struct):
    """A command with its caller and the future that takes the answer. `if_versions`: refuse it at any other version.

    `cause` is recorded with the events: why the service acts by itself. `closed_calls`: what the command has closed.
    `messages`: as in Decision. `deadline_s`: when the caller stops waiting (AnswerTimer).
    """

    command: Command
    caller: Caller
    reply_to: asyncio.Future[Any] | None = None
    if_versions: frozenset[int] | None = None
    cause: str | None = None
    closed_calls: ToolCallsClosed | None = None
    messages: tuple[ContextMessage, ...] = ()
    deadline_s: float = 0.0

    @property
    def metadata(self) -> Metadata:
        """The metadata of every event that the command causes."""
        return Metadata(actor=self.caller.owner, request_id=self.caller.request_id, cause=self.cause)

    def answer(self, answer: Any) -> None:
        """Resolve the caller's future, exactly once. No-op if the caller has left. Exceptions are raised there, without
        the actor's traceback: its frames hold the envelope, and with it the exception, until they are collected as
        garbage.
        """
        if self.reply_to is None or self.reply_to.done():
            return
        if isinstance(answer, Exception):
            self.reply_to.set_exception(answer.with_traceback(None))
        else:
            self.reply_to.set_result(answer)


class AnswerTimer:
    """Ends the wait of callers that get no answer in time. One timer, set to the oldest caller: one for each would
    nearly always be made and cancelled for nothing.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waiting: dict[int, Envelope] = {}  # by id(), oldest first
        self._timer: asyncio.TimerHandle | None = None

    def add(self, envelope: Envelope) -> None:
        """Answer `envelope` with a TimeoutError at its deadline, from now on, unless it is removed before."""
        loop = asyncio.get_running_loop()
        envelope.deadline_s = loop.time() + self._timeout_s
        self._waiting[id(envelope)] = envelope
        if self._timer is None:
            self._timer = loop.call_at(envelope.deadline_s, self._time_out)

    def remove(self, envelope: Envelope) -> None:
        self._waiting.pop(id(envelope), None)

    def _time_out(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        expired: list[Envelope] = []
        for envelope in self._waiting.values():  # not one by one from the front: that takes a dict quadratic time
            if envelope.deadline_s > now_s:
                self._timer = loop.call_at(envelope.deadline_s, self._time_out)
                break
            expired.append(envelope)
        for envelope in expired:
            self.remove(envelope)
            envelope.answer(TimeoutError())


class CommandResult(Struct, frozen=True):
    """The session after a command; `reply` is the one that a message or a request gets, or that was cancelled.

    `request_version`: for a repeated request, the version of the event that the first one caused; else 0.
    `closed_calls`: what a CancelReply closed instead of a reply.
    """

    state: State
    reply: Reply | None = None
    request_version: int = 0
    closed_calls: ToolCallsClosed | None = None


class MailboxClosed(Exception):
    """The actor has stopped; open it again."""


class Mailbox:
    """Envelopes in order of arrival, at most `mailbox_max` of them from clients.

    The queue of the session's messages to itself needs no bound: a session has at most one running reply, which sends
    at most one checkpoint and one end at a time.
    """

    def __init__(self, mailbox_max: int) -> None:
        self._mailbox_max = mailbox_max
        self._client_queue: deque[Envelope] = deque()
        self._internal_queue: deque[Envelope] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._idle_deadline_s = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._client_queue) + len(self._internal_queue)

    def ask(self, envelope: Envelope) -> None:
        """Add a client's envelope. Raises Overloaded when full, MailboxClosed when the actor has stopped."""
        if len(self._client_queue) >= self._mailbox_max:
            raise Overloaded("this session has too many requests waiting")
        self._add(self._client_queue, envelope)

    def tell(self, envelope: Envelope) -> None:
        """Add a message of the session to itself, which expects no answer. Raises MailboxClosed."""
        self._add(self._internal_queue, envelope)

    async def take(self, idle_timeout_s: float) -> Envelope | None:
        """The next envelope, or None after `idle_timeout_s` without one."""
        if not self:
            loop = asyncio.get_running_loop()
            self._arrival = loop.create_future()
            self._idle_deadline_s = loop.time() + idle_timeout_s
            if self._idle_timer is None:
                self._idle_timer = loop.call_at(self._idle_deadline_s, self._check_idle)
            try:
                await self._arrival
            finally:
                self._arrival = None
        if self._internal_queue:
            return self._internal_queue.popleft()
        return self._client_queue.popleft() if self._client_queue else None

    def close(self) -> list[Envelope]:
        """Refuse new envelopes; returns the unread ones, for the actor to answer."""
        self._closed = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        left = [*self._internal_queue, *self._client_queue]
        self._internal_queue.clear()
        self._client_queue.clear()
        return left

    def _add(self, queue: deque[Envelope], envelope: Envelope) -> None:
        if self._closed:
            raise MailboxClosed
        queue.append(envelope)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _check_idle(self) -> None:
        """One timer serves all waits: when it fires during a later wait, it is set again for that one's deadline."""
        self._idle_timer = None
        loop = asyncio.get_running_loop()
        if self._arrival is None:
            return  # the actor is busy: its next wait sets the timer
        if loop.time() < self._idle_deadline_s:
            self._idle_timer = loop.call_at(self._idle_deadline_s, self._check_idle)
        elif not self._arrival.done():
            self._arrival.set_result(None)
