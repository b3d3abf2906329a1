"""The bounded inbox of a session."""

import asyncio

import pytest

from chatbot.sessions.actor.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.domain.commands import SERVICE, Expire, RecordAccess
from chatbot.sessions.domain.rejections import Overloaded


def asked() -> Envelope:
    return Envelope(RecordAccess(), SERVICE)


async def test_envelopes_come_out_in_the_order_in_which_they_were_asked() -> None:
    mailbox = Mailbox(10)
    envelopes = [asked() for _ in range(5)]
    for envelope in envelopes:
        mailbox.ask(envelope)
    assert [await mailbox.take(1) for _ in range(5)] == envelopes


async def test_what_the_session_tells_itself_overtakes_and_is_never_refused() -> None:
    mailbox = Mailbox(1)
    mailbox.ask(asked())
    told = Envelope(Expire(), SERVICE)
    mailbox.tell(told)
    assert await mailbox.take(1) is told


async def test_a_full_mailbox_refuses() -> None:
    mailbox = Mailbox(2)
    mailbox.ask(asked())
    mailbox.ask(asked())
    with pytest.raises(Overloaded):
        mailbox.ask(asked())
    assert len(mailbox) == 2


async def test_taking_waits_for_an_arrival() -> None:
    mailbox = Mailbox(2)
    taking = asyncio.create_task(mailbox.take(10))
    await asyncio.sleep(0)
    envelope = asked()
    mailbox.ask(envelope)
    assert await taking is envelope


async def test_taking_gives_up_after_the_idle_timeout() -> None:
    assert await Mailbox(2).take(0.01) is None


async def test_a_closed_mailbox_hands_back_what_was_unread_and_takes_nothing_more() -> None:
    mailbox = Mailbox(2)
    envelope = asked()
    mailbox.ask(envelope)
    assert mailbox.close() == [envelope]
    with pytest.raises(MailboxClosed):
        mailbox.ask(asked())
    with pytest.raises(MailboxClosed):
        mailbox.tell(asked())
