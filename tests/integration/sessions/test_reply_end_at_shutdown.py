"""The service goes down while a reply reaches its own end."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from chatbot.llm.provider import Finish
from chatbot.sessions.domain import commands
from chatbot.sessions.domain.commands import SERVICE
from events.catalogue import Event, Parameters, ReplyCompleted, ReplyInterrupted, ReplyRequested
from events.record import Metadata, RecordedEvent
from tests.support.sessions.sessions_harness import SessionsHarness

SESSION = "5b4f2c1e-0000-4000-8000-000000000009"


def post(number: int) -> commands.PostMessage:
    return commands.PostMessage(f"m{number}", f"r{number}", f"question {number}", Parameters())


async def test_a_reply_that_ends_by_itself_while_others_are_interrupted_is_complete_and_not_begun_anew(
    tmp_path: Path,
) -> None:
    sessions = SessionsHarness(tmp_path, retry_interrupted=1)
    await sessions.open()
    create = commands.CreateSession(None, {}, 3600, None, None)
    await sessions.supervisor.ask(SESSION, create, SERVICE)
    await sessions.supervisor.ask(SESSION, post(1), SERVICE)
    await sessions.supervisor.ask(SESSION, post(2), SERVICE)
    await sessions.until(lambda: bool(sessions.provider.calls), "the model is asked")
    (call,) = sessions.provider.calls
    append = sessions.log.append

    async def ends_meanwhile(
        stream_id: str, expected_version: int, events: Sequence[Event], metadata: Metadata
    ) -> tuple[RecordedEvent, ...]:
        """The disk takes its time over the interruption of the reply that waits, and the model is done meanwhile."""
        if isinstance(events[0], ReplyInterrupted) and not call.closed:
            call.given.put_nowait("the whole answer")
            call.given.put_nowait(Finish("stop", "hand-model"))
            while not call.closed:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
        return await append(stream_id, expected_version, events, metadata)

    sessions.log.append = ends_meanwhile  # type: ignore[method-assign]  # the disk's slowness, at one place
    await sessions.close()
    await sessions.open()
    told = [one.event for one in await sessions.log.read(SESSION, limit=100)]
    ends = [event for event in told if isinstance(event, ReplyCompleted | ReplyInterrupted)]
    assert [(event.reply_id, event.content) for event in ends] == [("r2", ""), ("r1", "the whole answer")]
    assert isinstance(ends[1], ReplyCompleted)
    assert [event.reply_id for event in told if isinstance(event, ReplyRequested)] == ["r2"]
    await sessions.close()
