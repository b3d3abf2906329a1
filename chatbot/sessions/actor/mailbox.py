"""A session's bounded inbox. One consumer; what the session tells itself overtakes what clients ask."""

import asyncio
from collections import deque
from typing import Any

from msgspec import Struct

from chatbot.sessions.domain.commands import Caller, Command
from chatbot.sessions.domain.rejections import Overloaded
from events.record import Metadata
from events.storage.futures import resolve


class Envelope(Struct):
    """A command with its asker and the future that takes the answer. `if_versions`: refuse at any other."""

    command: Command
    caller: Caller
    reply_to: asyncio.Future[Any] | None = None
    if_versions: frozenset[int] | None = None
    cause: str | None = None

    @property
    def metadata(self) -> Metadata:
        """What is recorded with every event that this causes."""
        return Metadata(actor=self.caller.owner, request_id=self.caller.request_id, cause=self.cause)

    def answer(self, answer: Any) -> None:
        """Each asker gets exactly one answer, unless it has left. An exception is raised where it waits."""
        if self.reply_to is not None:
            resolve(self.reply_to, answer)


class MailboxClosed(Exception):
    """The actor has stopped; open it again."""


class Mailbox:
    """Envelopes in order of arrival, at most `mailbox_max` of them from clients.

    The lane of what the session tells itself needs no bound: a session has at most one running reply, which has
    at most one checkpoint and one end under way.
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
        """Add what the session tells itself. Raises MailboxClosed."""
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
        """Refuse what comes from now on; returns what was left unread, for the actor to answer."""
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
        self._notify()

    def _check_idle(self) -> None:
        """One timer watches over all waits: it is set again for whichever wait it meets."""
        self._idle_timer = None
        loop = asyncio.get_running_loop()
        if self._arrival is None:
            return  # at work: the next wait sets it
        if loop.time() >= self._idle_deadline_s:
            self._notify()
        else:
            self._idle_timer = loop.call_at(self._idle_deadline_s, self._check_idle)

    def _notify(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
