"""Any transcripts against real sessions: the model is sent what the client sent, and nothing is recorded twice."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from chatbot.audit.conversation import Conversation, load_conversation
from chatbot.audit.model_calls import read_model_calls
from chatbot.llm.provider import Finish, ModelMessage
from chatbot.sessions.conversations import TranscriptRequest
from chatbot.sessions.domain.commands import Caller
from chatbot.sessions.domain.transcript import TranscriptMessage
from events.catalogue import ConversationName, MessagePosted, Parameters, ReplyStarted
from events.integrity.chain_verifier import verify
from events.schema.parts import Text
from tests.support.nightly import scaled
from tests.support.sessions.sessions_harness import SessionsHarness, TimeTravelLoop

MINA = Caller(owner="mina", request_id="r")
WORDS = ("a", "b", " c\n")

# A transcript: where to begin (a message of an earlier one, by number), and what follows; and the model's reply to it.
follows = st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.sampled_from(WORDS)), max_size=4)
transcripts = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), follows, st.sampled_from(WORDS)), min_size=1, max_size=5
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, SessionsHarness]]:
    with asyncio.Runner(loop_factory=TimeTravelLoop) as runner:
        real = SessionsHarness(Path(tmp_path_factory.mktemp("transcripts")))
        runner.run(real.open())
        yield runner, real
        runner.run(real.close())


names = itertools.count()


@given(drawn=transcripts)
@settings(max_examples=scaled(30), deadline=None)
def test_the_model_is_sent_what_the_client_sent(
    world: tuple[asyncio.Runner, SessionsHarness], drawn: list[tuple[int, int, list[tuple[str, str]], str]]
) -> None:
    runner, real = world
    with capture_logs():
        runner.run(_carry_out(real, drawn))


async def _carry_out(real: SessionsHarness, drawn: list[tuple[int, int, list[tuple[str, str]], str]]) -> None:
    name = ConversationName("x-session-id", f"chat-{next(names)}")
    earlier: list[list[tuple[str, str]]] = [[]]  # what the client has: transcripts with their replies
    for which, length, more, reply in drawn:
        sent = [*earlier[which % len(earlier)][:length], *more]
        sent = sent or [("user", "a")]
        session_id = await _post(real, name, sent, reply)
        earlier.append([*sent, ("assistant", reply)])
        before = await _conversation(real, session_id)
        await _post(real, name, sent, reply)
        after = await _conversation(real, session_id)
        assert len(after.messages) == len(before.messages) + 1, "the same transcript adds nothing but a reply"
    events = [one.event for one in await real.log.read(session_id, limit=10_000)]
    posted = [one for one in events if isinstance(one, MessagePosted)]
    parents = {one.message_id for one in posted} | {one.reply_id for one in events if isinstance(one, ReplyStarted)}
    assert all(one.parent_id is None or one.parent_id in parents for one in posted)
    said = [
        (one.parent_id, one.role, one.content.strip() if one.role == "assistant" else one.content) for one in posted
    ]
    assert len(set(said)) == len(said), "no message is recorded twice under one parent"
    calls = [call async for call in read_model_calls(real.log, session_id)]
    asked = [call.messages for call in real.provider.calls[-len(calls) :]]
    assert [call.messages for call in calls] == asked, "the record tells what the model was sent"
    _, fault = await verify(real.log)
    assert fault is None


async def _post(real: SessionsHarness, name: ConversationName, sent: list[tuple[str, str]], reply: str) -> str:
    """The session's id. The model was sent what the client sent."""
    before = len(real.provider.calls)
    messages = tuple(TranscriptMessage(role, (Text(text),)) for role, text in sent)
    result = await real.conversations.post(
        TranscriptRequest(messages=messages, parameters=Parameters(), name=name), MINA
    )
    await real.until(lambda: len(real.provider.calls) > before, "the model is asked")
    call = real.provider.calls[-1]
    call.given.put_nowait(reply)
    call.given.put_nowait(Finish("stop", "hand-model", None))
    assert result.reply is not None
    await result.reply.wait_end()
    assert told(call.messages) == expected(sent)
    return result.state.session.session_id


def told(messages: tuple[ModelMessage, ...]) -> list[tuple[str, str]]:
    return [compared(one.role, one.content) for one in messages]


def compared(role: str, text: str) -> tuple[str, str]:
    return role, text.strip() if role == "assistant" else text


def expected(sent: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The leading system messages are one, unless nothing follows: then the last of them is the turn."""
    first = next((index for index, (role, _) in enumerate(sent) if role != "system"), len(sent) - 1)
    leading = "\n\n".join(text for _, text in sent[:first])
    system = [("system", leading)] if first else []
    return system + [compared(role, text) for role, text in sent[first:]]


async def _conversation(real: SessionsHarness, session_id: str) -> Conversation:
    found = await load_conversation(real.log, session_id)
    assert found is not None
    return found
