"""Who asks a session is answered, or told that it takes too long, whatever the actor does just then."""

import asyncio
import time
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chatbot.runtime.gc_tuning import collection_paused
from chatbot.sessions.actor.mailbox import AnswerTimer, Envelope, MailboxClosed
from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.domain.commands import SERVICE, RecordAccess
from chatbot.sessions.domain.rejections import Overloaded
from chatbot.sessions.ports import Ports


async def test_patience_that_ends_as_the_actor_stops_is_not_forgotten() -> None:
    loop = asyncio.get_running_loop()
    refused: list[str] = []
    ports = SimpleNamespace(
        limits=SimpleNamespace(ask_timeout_s=0.05, live_max=1), observer=SimpleNamespace(refused=refused.append)
    )
    supervisor = Supervisor(cast(Ports, ports))
    ends_s = loop.time() + 0.05
    asked: list[Envelope] = []

    def ask(envelope: Envelope) -> None:
        asked.append(envelope)
        if len(asked) == 1:  # the old actor stops in the very turn in which patience ends
            loop.call_at(ends_s - 1e-9, envelope.answer, MailboxClosed())

    actor = SimpleNamespace(mailbox=SimpleNamespace(ask=ask))
    cast(Any, supervisor)._actor = lambda _, owner, is_new: actor
    asking = asyncio.create_task(supervisor.ask("s", RecordAccess(), SERVICE))
    await asyncio.sleep(0)
    time.sleep(0.1)  # the loop is late: both are due
    with pytest.raises(Overloaded, match="did not answer in time"):
        async with asyncio.timeout(2):
            await asking
    assert refused == ["timeout"]


async def test_each_caller_is_told_at_its_own_deadline_by_one_timer() -> None:
    loop = asyncio.get_running_loop()
    timer = AnswerTimer(0.05)
    envelopes = [Envelope(RecordAccess(), SERVICE, loop.create_future()) for _ in range(4)]
    first, answered, cancelled, last = envelopes
    for envelope in (first, answered, cancelled):
        timer.add(envelope)
    timer.remove(answered)
    cast("asyncio.Future[None]", cancelled.reply_to).cancel()
    await asyncio.sleep(0.03)
    timer.add(last)
    for envelope in (first, last):
        with pytest.raises(TimeoutError):
            await cast("asyncio.Future[None]", envelope.reply_to)
        assert loop.time() >= envelope.deadline_s
    assert not cast("asyncio.Future[None]", answered.reply_to).done()
    later = Envelope(RecordAccess(), SERVICE, loop.create_future())  # after a time without callers
    timer.add(later)
    with pytest.raises(TimeoutError):
        await cast("asyncio.Future[None]", later.reply_to)
    assert loop.time() >= later.deadline_s


async def test_a_refusal_is_freed_at_once_and_not_by_the_garbage_collector() -> None:
    """What its traceback refers to, the whole request, would else stay until a collection, which delays others."""
    ports = SimpleNamespace(limits=SimpleNamespace(ask_timeout_s=5.0, live_max=1))
    supervisor = Supervisor(cast(Ports, ports))

    def decide() -> None:
        raise Overloaded("full")

    def refuse(envelope: Envelope) -> None:
        try:
            decide()
        except Overloaded as refusal:
            envelope.answer(refusal)

    cast(Any, supervisor)._actor = lambda _, owner, is_new: SimpleNamespace(mailbox=SimpleNamespace(ask=refuse))
    refusals: list[weakref.ref[Overloaded]] = []
    with collection_paused():
        try:
            await supervisor.ask("s", RecordAccess(), SERVICE)
        except Overloaded as refusal:
            refusals.append(weakref.ref(refusal))
        assert [one() for one in refusals] == [None]
