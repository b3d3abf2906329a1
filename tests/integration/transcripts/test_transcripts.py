"""Transcripts, as clients of /v1 send them: what is recorded of one, and what the model is sent."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import to_builtins

from chatbot.api.responses import message_view
from chatbot.audit.conversation import Conversation, load_conversation
from chatbot.audit.conversation_rendering import build_document, render_markdown
from chatbot.audit.model_calls import read_model_calls
from chatbot.llm.provider import Finish, ModelMessage, PartsMessage
from chatbot.sessions.actor import actor
from chatbot.sessions.actor.mailbox import CommandResult
from chatbot.sessions.conversations import TranscriptRequest
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import (
    Caller,
    CreateSession,
    DeleteSession,
    IdempotencyKey,
    PostMessage,
    Regenerate,
)
from chatbot.sessions.domain.transcript import TranscriptMessage
from events.catalogue import ConversationName, MessagePosted, Parameters, ReplyRequested, ReplyStarted, SessionCreated
from events.codec import encode
from events.record import RecordedEvent
from events.schema.naming import CONVERSATION, STATELESS, TASK
from events.schema.parts import Media, Parts, Text, ToolCall, ToolResult
from projections.port import SessionListQuery
from tests.support.log.sample_events import IMAGE, IMAGE_BYTES
from tests.support.model.manual_provider import PartPiece, ProviderCall
from tests.support.sessions.sessions_harness import CONVERSATIONS, SessionsHarness

MINA, JUN = Caller(owner="mina", request_id="r1"), Caller(owner="jun", request_id="r2")
CHAT = ConversationName("x-session-id", "chat-1")


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[SessionsHarness]:
    harness = SessionsHarness(tmp_path)
    await harness.open()
    yield harness
    await harness.close()


def said(*texts: str) -> list[TranscriptMessage]:
    """Messages such as "u:Hello"."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [TranscriptMessage(roles[one[0]], (Text(one[2:]),) if one[2:] else ()) for one in texts]


def words(messages: tuple[ModelMessage, ...]) -> list[str]:
    return [f"{one.role[0]}:{one.content}" for one in messages]


async def next_call(real: SessionsHarness, before: int) -> ProviderCall:
    await real.until(lambda: len(real.provider.calls) > before, "the model is asked")
    return real.provider.calls[-1]


async def post(
    real: SessionsHarness,
    messages: list[TranscriptMessage],
    reply: str | None = "yes",
    *,
    caller: Caller = MINA,
    name: ConversationName | None = CHAT,
    **fields: object,
) -> CommandResult:
    """Post the transcript, and have the model reply (None: not yet)."""
    before = len(real.provider.calls)
    request = TranscriptRequest(messages=messages, parameters=Parameters(), name=name, **fields)  # type: ignore[arg-type]
    result = await real.conversations.post(request, caller)
    if reply is not None:
        await finish(await next_call(real, before), reply, result)
    return result


async def finish(call: ProviderCall, reply: str, result: CommandResult) -> None:
    call.given.put_nowait(reply)
    call.given.put_nowait(Finish("stop", "hand-model", None))
    assert result.reply is not None
    await result.reply.wait_end()


def sent(real: SessionsHarness) -> list[str]:
    return words(real.provider.calls[-1].messages)


def id_of(result: CommandResult) -> str:
    return result.state.session.session_id


async def conversation_of(real: SessionsHarness, result: CommandResult) -> Conversation:
    found = await load_conversation(real.log, id_of(result))
    assert found is not None
    return found


async def outline(real: SessionsHarness, result: CommandResult) -> list[str]:
    """All messages, such as "user/2 Hello *": role, depth, text, whether it is imported."""
    conversation = await conversation_of(real, result)
    return [
        f"{one.role}/{len(conversation.branch(one.message_id))} {one.content}{' *' if one.imported else ''}"
        for one in conversation.messages.values()
    ]


async def events_of(real: SessionsHarness, result: CommandResult) -> list[RecordedEvent]:
    return await real.log.read(id_of(result), limit=1000)


async def test_a_conversation_goes_on_where_its_transcript_does(real: SessionsHarness) -> None:
    first = await post(real, said("s:Be brief.", "u:Hello"), "Hi")
    assert sent(real) == ["s:Be brief.", "u:Hello"]
    second = await post(real, said("s:It is Monday.", "u:Hello", "a:Hi", "u:How?"), "So")
    assert id_of(first) == id_of(second)
    assert sent(real) == ["s:It is Monday.", "u:Hello", "a:Hi", "u:How?"]
    assert await outline(real, second) == ["user/1 Hello", "assistant/2 Hi", "user/3 How?", "assistant/4 So"]


async def test_a_new_session_is_one_append_with_its_name_and_its_person(real: SessionsHarness) -> None:
    result = await post(real, said("u:Hello"), None, end_user="person-7")
    created, posted, started = await events_of(real, result)
    assert created.recorded_at_us == posted.recorded_at_us == started.recorded_at_us
    assert created.event == SessionCreated(
        owner="mina",
        metadata={"user_id": "person-7"},
        timeout_s=CONVERSATIONS.timeout_s,
        named_by=CHAT,
    )
    assert real.told_deadlines == [result.state.session.expires_at_us]


async def test_what_the_session_did_not_know_is_marked_as_the_clients_claim(real: SessionsHarness) -> None:
    result = await post(real, said("u:One", "a:claimed", "u:Two"), "2")
    assert sent(real) == ["u:One", "a:claimed", "u:Two"]
    assert await outline(real, result) == ["user/1 One *", "assistant/2 claimed *", "user/3 Two", "assistant/4 2"]
    again = await post(real, said("u:One", "a:claimed", "u:Two", "a:2", "u:Three"), "3")
    assert (await outline(real, again))[4:] == ["user/5 Three", "assistant/6 3"]
    page = await real.reader.history(id_of(again), None, 10, None)
    assert [one.imported for one in page.messages] == [True, True, False, False, False, False]
    views = [to_builtins(message_view(one, "s")) for one in page.messages]
    exported = to_builtins(build_document(await conversation_of(real, again)))["messages"]
    for messages in (views, exported):
        assert [one.get("imported") for one in messages] == [True, True, None, None, None, None]
    assert render_markdown(await conversation_of(real, again)).count("(imported)") == 2


async def test_the_same_question_again_gets_another_reply(real: SessionsHarness) -> None:
    first = await post(real, said("u:Hello"), "Hi", reply_client_id="g1")
    again = await post(real, said("u:Hello"), "Hey", reply_client_id="g2")
    assert await outline(real, again) == ["user/1 Hello", "assistant/2 Hi", "assistant/2 Hey"]
    assert first.reply is not None
    assert again.reply is not None
    assert first.reply.message_id == again.reply.message_id
    on_first = await post(real, said("u:Hello", "a:Hi", "u:And?"), "1")
    on_second = await post(real, said("u:Hello", "a:Hey", "u:And?"), "2")
    assert sent(real) == ["u:Hello", "a:Hey", "u:And?"]
    assert len((await conversation_of(real, on_second)).messages) == 7
    assert on_first.reply is not None
    assert on_second.reply is not None
    assert on_first.reply.message_id != on_second.reply.message_id


async def test_an_edited_question_begins_another_branch(real: SessionsHarness) -> None:
    await post(real, said("u:One"), "1")
    await post(real, said("u:One", "a:1", "u:Two"), "2")
    edited = await post(real, said("u:One", "a:1", "u:Zwei"), "II")
    assert sent(real) == ["u:One", "a:1", "u:Zwei"]
    assert await outline(real, edited) == [
        "user/1 One", "assistant/2 1", "user/3 Two", "assistant/4 2", "user/3 Zwei", "assistant/4 II",
    ]  # fmt: skip


async def test_nothing_is_matched_across_branches(real: SessionsHarness) -> None:
    await post(real, said("u:A"), "a")
    await post(real, said("u:B"), "b")
    result = await post(real, said("u:A", "a:b", "u:C"), "c")
    assert (await outline(real, result))[4:] == ["assistant/2 b *", "user/3 C", "assistant/4 c"]


async def test_white_space_around_a_reply_is_not_compared(real: SessionsHarness) -> None:
    await post(real, said("u:One"), "\n\n1\n")
    result = await post(real, said("u:One", "a:1", "u:Two"), "2")
    assert sent(real) == ["u:One", "a:\n\n1\n", "u:Two"]
    assert len((await conversation_of(real, result)).messages) == 4


async def test_a_retry_gets_the_same_reply(real: SessionsHarness) -> None:
    key = IdempotencyKey("once", "f" * 64)
    first = await post(real, said("u:Hello"), "Hi", idempotency_key=key)
    again = await post(real, said("u:Hello"), None, idempotency_key=key)
    assert first.reply is not None
    assert again.reply is not None
    assert (again.reply.reply_id, again.request_version) == (first.reply.reply_id, 2)
    with pytest.raises(rejections.KeyReused):
        await post(real, said("u:Bye"), None, idempotency_key=IdempotencyKey("once", "0" * 64))
    generation = await post(real, said("u:Bye"), "By", reply_client_id="g")
    repeated = await post(real, said("u:Bye"), None, reply_client_id="g")
    assert repeated.reply is not None
    assert generation.reply is not None
    assert repeated.reply.reply_id == generation.reply.reply_id
    other = await post(real, said("u:Bye"), "Ciao", reply_client_id="g2")
    other_again = await post(real, said("u:Bye"), None, reply_client_id="g2")
    assert other.reply is not None
    assert other_again.reply is not None
    assert other_again.reply.reply_id == other.reply.reply_id
    assert len(real.provider.calls) == 3


async def test_one_generation_may_ask_several_times(real: SessionsHarness) -> None:
    """Open WebUI sends one id with each round of tools."""
    await post(real, said("u:Hello"), "Hi", reply_client_id="g")
    await post(real, said("u:Hello", "a:Hi", "u:More"), "Ho", reply_client_id="g")
    assert len(real.provider.calls) == 2


async def test_two_first_requests_that_come_together_make_one_session(real: SessionsHarness) -> None:
    results = await asyncio.gather(
        post(real, said("u:Hello"), None), post(real, said("u:Hello"), None), post(real, said("u:Bye"), None)
    )
    assert len({id_of(one) for one in results}) == 1
    assert await outline(real, results[0]) == [
        "user/1 Hello", "assistant/2 ", "assistant/2 ", "user/1 Bye", "assistant/2 ",
    ]  # fmt: skip


async def test_names_belong_to_a_key_and_a_person(real: SessionsHarness) -> None:
    ids = {
        id_of(await post(real, said("u:Hello"))),
        id_of(await post(real, said("u:Hello"), caller=JUN)),
        id_of(await post(real, said("u:Hello"), end_user="a")),
        id_of(await post(real, said("u:Hello"), end_user="b")),
        id_of(await post(real, said("u:Hello"), name=ConversationName("x-conversation-id", "chat-1"))),
    }
    assert len(ids) == 5
    stranger = TranscriptRequest(messages=said("u:Hello"), parameters=Parameters(), session_id=ids.pop())
    with pytest.raises(rejections.SessionNotFound):
        await real.conversations.post(stranger, Caller(owner="eve"))


async def test_a_deleted_conversation_begins_again_under_its_name(real: SessionsHarness) -> None:
    first = await post(real, said("u:Hello"), "Hi")
    await real.supervisor.ask(id_of(first), DeleteSession(), MINA)
    second = await post(real, said("u:Hello", "a:Hi", "u:More"), "Ho")
    assert id_of(first) != id_of(second)
    assert await outline(real, second) == ["user/1 Hello *", "assistant/2 Hi *", "user/3 More", "assistant/4 Ho"]
    third = await post(real, said("u:Hello", "a:Hi", "u:More", "a:Ho", "u:Yes"))
    assert id_of(second) == id_of(third)


async def test_a_session_of_the_api_is_continued_by_its_id(real: SessionsHarness) -> None:
    await real.supervisor.ask("own", CreateSession("mina", {}, 0, None, "Be kind."), MINA)
    before = len(real.provider.calls)
    asked = await real.supervisor.ask("own", PostMessage("m1", "r1", "Hello", Parameters()), MINA)
    await finish(await next_call(real, before), "Hi", asked)
    result = await post(real, said("u:Hello", "a:Hi", "u:More"), "Ho", name=None, session_id="own")
    assert sent(real) == ["s:Be kind.", "u:Hello", "a:Hi", "u:More"]
    assert (await outline(real, result))[2:] == ["user/3 More", "assistant/4 Ho"]
    with pytest.raises(rejections.SessionNotFound):
        await post(real, said("u:Hello"), None, name=None, session_id="none")


async def test_the_whole_branch_is_sent_and_recorded(real: SessionsHarness) -> None:
    """The context of other turns has at most four messages here."""
    texts = [f"{'ua'[index % 2]}:{index}" for index in range(41)]
    result = await post(real, said("s:All.", *texts))
    assert sent(real) == ["s:All.", *texts]
    calls = [call async for call in read_model_calls(real.log, id_of(result))]
    assert [words(call.messages) for call in calls] == [["s:All.", *texts]]
    reply_id = result.reply.reply_id if result.reply else ""
    before = len(real.provider.calls)
    again = await real.supervisor.ask(id_of(result), Regenerate("r-again", reply_id, Parameters()), MINA)
    await finish(await next_call(real, before), "again", again)
    assert sent(real) == ["s:All.", *texts]


@pytest.mark.parametrize("kind", [STATELESS, CONVERSATION])
async def test_a_long_transcript_is_recorded_in_several_appends(tmp_path: Path, kind: str) -> None:
    real = SessionsHarness(tmp_path, added_max=4)
    await real.open()
    texts = [f"{'ua'[index % 2]}:{index}" for index in range(23)]
    result = await post(real, said("s:All.", *texts), name=None if kind else CHAT, kind=kind)
    assert sent(real) == ["s:All.", *texts]
    imported = [one.imported for one in (await conversation_of(real, result)).messages.values()]
    assert imported == [True] * 22 + [False] * 2
    await real.close()


async def test_a_queued_transcript_is_sent_whole_once_its_turn_comes(real: SessionsHarness) -> None:
    first = await post(real, said("u:Hello"), None)
    call = await next_call(real, 0)
    texts = [f"{'ua'[index % 2]}:{index}" for index in range(31)]
    queued = await post(real, said("s:All.", *texts), None)
    assert len(real.provider.calls) == 1
    await finish(call, "Hi", first)
    await finish(await next_call(real, 1), "done", queued)
    assert sent(real) == ["s:All.", *texts]


async def test_tools_take_turns(real: SessionsHarness) -> None:
    call = ToolCall("c1", "weather", '{"city":"Seoul"}')
    asked = await post(real, said("u:Weather?"), None)
    given = (await next_call(real, 0)).given
    given.put_nowait(PartPiece("tool_call", call.arguments, "c1", "weather"))
    given.put_nowait(Finish("tool_calls", "hand-model", None))
    assert asked.reply is not None
    await asked.reply.wait_end()
    answered = said("u:Weather?")
    answered += [TranscriptMessage("assistant", (call,)), TranscriptMessage("tool", (ToolResult("c1", (Text("21"),)),))]
    result = await post(real, answered, "Warm")
    conversation = await conversation_of(real, result)
    assert [(one.role, one.calls, one.imported) for one in conversation.messages.values()] == [
        ("user", None, False), ("assistant", "answered", False), ("tool", None, False), ("assistant", None, False),
    ]  # fmt: skip
    sent_parts: list[Parts] = [one.parts for one in real.provider.calls[-1].messages if isinstance(one, PartsMessage)]
    assert sent_parts == [(call,), (ToolResult("c1", (Text("21"),)),)]


async def test_calls_of_a_transcripts_reply_can_be_answered_through_the_api(real: SessionsHarness) -> None:
    texts = [f"{'ua'[index % 2]}:{index}" for index in range(11)]
    asked = await post(real, said("s:All.", *texts), None)
    given = (await next_call(real, 0)).given
    given.put_nowait(PartPiece("tool_call", "{}", "c1", "weather"))
    given.put_nowait(Finish("tool_calls", "hand-model", None))
    assert asked.reply is not None
    await asked.reply.wait_end()
    results = PostMessage("t1", "r1", "", Parameters(), role="tool", parts=(ToolResult("c1", (Text("21"),)),))
    answered = await real.supervisor.ask(id_of(asked), results, MINA)
    await finish(await next_call(real, 1), "Warm", answered)
    assert sent(real) == ["s:All.", *texts, "a:", "t:"], "the whole transcript, and its instructions"


async def test_open_calls_are_closed_where_the_transcript_goes_on_without_them(real: SessionsHarness) -> None:
    asked = await post(real, said("u:Weather?"), None)
    given = (await next_call(real, 0)).given
    given.put_nowait(PartPiece("tool_call", "{}", "c1", "weather"))
    given.put_nowait(Finish("tool_calls", "hand-model", None))
    assert asked.reply is not None
    await asked.reply.wait_end()
    messages = [*said("u:Weather?"), TranscriptMessage("assistant", (ToolCall("c1", "weather", "{}"),)), *said("u:No")]
    result = await post(real, messages, "Fine")
    assert [one.calls for one in (await conversation_of(real, result)).messages.values()] == [
        None,
        "closed",
        None,
        None,
    ]
    assert [one.role for one in real.provider.calls[-1].messages] == ["user", "assistant", "tool", "user"]


async def test_a_transcript_may_end_with_an_assistants_text(real: SessionsHarness) -> None:
    result = await post(real, said("u:Count", "a:1, 2"), ", 3")
    assert sent(real) == ["u:Count", "a:1, 2"]
    assert await outline(real, result) == ["user/1 Count *", "assistant/2 1, 2 *", "assistant/3 , 3"]
    await post(real, said("u:Count", "a:1, 2"), ", III")
    assert len((await conversation_of(real, result)).messages) == 4


@pytest.mark.parametrize("kind", [STATELESS, TASK])
async def test_requests_without_a_name_are_sessions_of_their_own_outside_of_lists(
    real: SessionsHarness, kind: str
) -> None:
    first = await post(real, said("u:Hello"), name=None, kind=kind)
    second = await post(real, said("u:Hello"), name=None, kind=kind)
    named = await post(real, said("u:Hello"))
    await real.runner.wait_for(real.log.head().position)
    listed = await real.ports.queries.list_sessions(SessionListQuery(owner="mina"))
    assert [one.session_id for one in listed.sessions] == [id_of(named)]
    others = await real.ports.queries.list_sessions(SessionListQuery(owner="mina", kind=kind))
    assert {one.session_id for one in others.sessions} == {id_of(first), id_of(second)}
    sizes = [
        sum(len(encode(event.event)) for event in await events_of(real, one) if event.event is not None)
        for one in (second, first)
    ]
    assert [one.recorded_bytes for one in others.sessions] == sizes


async def test_an_idempotency_key_names_a_request_without_a_name(real: SessionsHarness) -> None:
    key = IdempotencyKey("once", "f" * 64)
    first = await post(real, said("u:Hello"), name=None, kind=STATELESS, idempotency_key=key)
    again = await post(real, said("u:Hello"), None, name=None, kind=STATELESS, idempotency_key=key)
    assert id_of(first) == id_of(again)
    await real.supervisor.ask(id_of(first), DeleteSession(), MINA)
    with pytest.raises(rejections.KeyConsumed):
        await post(real, said("u:Hello"), None, name=None, kind=STATELESS, idempotency_key=key)


async def test_a_request_that_is_too_large_is_refused(real: SessionsHarness) -> None:
    large = said("u:" + "x" * 10_001)
    with pytest.raises(rejections.TooLarge):
        await post(real, large, None, name=None, kind=STATELESS)
    await post(real, large)


async def test_what_cannot_be_sent_whole_is_refused(real: SessionsHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real.provider, "context_tokens", lambda _model: 100)
    await post(real, said("u:" + "x" * 560))
    with pytest.raises(rejections.ContextTooLong) as refused:
        await post(real, said("u:" + "x" * 610), None)
    assert refused.value.members == {"estimated_tokens": 212, "context_tokens": 100}


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        ([], "$.messages"),
        (said("u:", "a:"), "$.messages"),
        ([*said("u:Hi"), TranscriptMessage("tool", (ToolResult("c1", ()),))], "$.messages[1].tool_call_id"),
        ([TranscriptMessage("user", (ToolCall("c1", "f", "{}"),))], "$.messages[0].content"),
        ([TranscriptMessage("narrator", (Text("x"),))], "$.messages[0].role"),
        ([TranscriptMessage("user", (Media("0" * 64, "image/png", 3),))], "$.messages[0]"),
    ],
)
async def test_a_transcript_that_no_model_could_be_sent_is_refused(
    real: SessionsHarness, messages: list[TranscriptMessage], path: str
) -> None:
    with pytest.raises(rejections.InvalidMessage) as refused:
        await post(real, messages, None)
    assert refused.value.path == path
    assert real.log.head().position == 0


async def test_files_are_compared_by_their_bytes(real: SessionsHarness) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield IMAGE_BYTES

    due_at_us = real.now_us + 3_600_000_000
    await real.log.media.put("image/png", pieces(), holder="mina", due_at_us=due_at_us, bytes_max=1_000)
    shown = TranscriptMessage("user", (Text("What?"), IMAGE))
    first = await post(real, [shown], "A sea")
    second = await post(real, [shown, *said("a:A sea", "u:Where?")], "There")
    assert id_of(first) == id_of(second)
    assert second.state.session.message_count == 4
    first_message = real.provider.calls[-1].messages[0]
    assert isinstance(first_message, PartsMessage)
    assert [one for one in first_message.parts if isinstance(one, Media)] == [IMAGE]


async def test_a_requests_texts_leave_memory_soon_after_it(
    real: SessionsHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "STATELESS_IDLE_S", 0.01)
    await post(real, said("u:Hello"), name=None, kind=STATELESS)
    await post(real, said("u:Hello"))
    await real.until(lambda: real.seen.live == 1, "only the conversation is live")


async def test_ids_of_front_ends_are_recorded(real: SessionsHarness) -> None:
    first = await post(real, said("u:Hello"), client_id="u1", reply_client_id="g1")
    await post(real, said("u:Hello"), client_id="u1", reply_client_id="g2")
    found = [one.event for one in await events_of(real, first)]
    posted = [(one.client_id, one.reply_client_id) for one in found if isinstance(one, MessagePosted)]
    assert posted == [("u1", "g1")]
    assert [one.reply_client_id for one in found if isinstance(one, ReplyRequested)] == ["g2"]
    assert [one.parameters.whole_context for one in found if isinstance(one, ReplyStarted)] == [True, True]
