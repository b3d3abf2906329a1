"""A conversation over real sockets: message in, reply out, whole and streamed."""

import asyncio

import pytest

from tests.support.model.model_server import ModelServer
from tests.support.service import Running, frames

TEXTS = [
    "안녕하세요!",
    "👩‍👩‍👧‍👦 emoji",
    "e\u0301 combining",
    "שלום עולם",
    "line\nbreak\ttab",
    '"quotes" \\ back',
    "\u2028 separator",
]


async def test_a_chat_answers_with_the_seeds_fields_and_ours(service: Running) -> None:
    session_id = await service.session(metadata={"user_id": "example"})
    answer = await service.chat(session_id, "안녕하세요!", max_new_tokens=256, temperature=0.7, do_sample=True)
    assert answer["role"] == "assistant"
    assert answer["content"] == "You said: 안녕하세요!"
    assert set(answer["token_usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert answer["session_id"] == session_id
    assert answer["status"] == "complete"
    assert answer["finish_reason"] == "stop"
    history = await service.history(session_id)
    assert [m["message_id"] for m in history["messages"]] == [answer["user_message_id"], answer["message_id"]]
    assert history["version"] == answer["version"]


@pytest.mark.parametrize("text", TEXTS)
async def test_text_comes_back_byte_for_byte(service: Running, model: ModelServer, text: str) -> None:
    session_id = await service.session()
    model.script(pieces=tuple(text))
    answer = await service.chat(session_id, text)
    assert answer["content"] == text
    history = await service.history(session_id)
    assert [m["content"] for m in history["messages"]] == [text, text]
    body = model.requests[0].body
    assert body["messages"][-1]["content"] == text


async def test_how_long_a_reply_took_is_in_its_last_frame_and_in_the_history(
    service: Running, model: ModelServer
) -> None:
    session_id = await service.session()
    streamed = await service.client.post("/api/chat/stream", json={"session_id": session_id, "message": "hi"})
    complete = frames(streamed.text)[-2]
    model.script(pieces=("Half",), then="error")
    await service.client.post("/api/chat", json={"session_id": session_id, "message": "and?"})
    question, answer, _, failed = (await service.history(session_id))["messages"]
    assert 0 < complete["time_to_first_token_us"] <= complete["duration_us"]
    for name in ("duration_us", "time_to_first_token_us"):
        assert (question[name], answer[name]) == (None, complete[name])
    assert (failed["status"], failed["duration_us"] > 0, failed["time_to_first_token_us"]) == ("failed", True, None)


async def test_a_stream_has_start_chunks_complete_and_done_each_with_a_cursor(
    service: Running, model: ModelServer
) -> None:
    model.delay_s = 0.02
    model.script(pieces=("안", "녕", "하😀", "세요"))
    session_id = await service.session()
    async with service.client.stream(
        "POST", "/api/chat/stream", json={"session_id": session_id, "message": "hi"}
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        assert answer.headers["x-accel-buffering"] == "no"
        text = "".join([piece async for piece in answer.aiter_text()])
    start, *chunks, complete, done = frames(text)
    assert start["type"] == "start"
    assert start["session_id"] == session_id
    offset = 0
    for chunk in chunks:
        assert chunk["type"] == "chunk"
        offset += len(chunk["content"])
        assert chunk["cursor"] == f"{start['version']}:{offset}"
    assert len(chunks) > 1
    assert "".join(chunk["content"] for chunk in chunks) == "안녕하😀세요"
    assert complete["type"] == "complete"
    assert complete["full_response"] == "안녕하😀세요"
    assert complete["message_id"] == start["message_id"]
    assert complete["cursor"] == f"{complete['version']}:0"
    assert done == {"type": "done"}


async def test_start_comes_before_the_model_answers_and_pings_follow(
    model: ModelServer, pinging_service: Running
) -> None:
    service = pinging_service
    model.script(pieces=("late",), hold_after=0)
    session_id = await service.session()
    seen = ""
    async with service.client.stream(
        "POST", "/api/chat/stream", json={"session_id": session_id, "message": "hi"}
    ) as answer:
        async for piece in answer.aiter_text():
            seen += piece
            if seen.count(": ping") >= 2:
                assert frames(seen)[0]["type"] == "start"
                model.release()
    assert frames(seen)[-2]["full_response"] == "late"


async def test_the_reply_goes_on_when_the_client_leaves(service: Running, model: ModelServer) -> None:
    model.script(pieces=("one ", "two ", "three"), hold_after=1)
    session_id = await service.session()
    async with service.client.stream(
        "POST", "/api/chat/stream", json={"session_id": session_id, "message": "hi"}
    ) as answer:
        async for piece in answer.aiter_text():
            if "one" in piece:
                break
    model.release()
    for _ in range(200):
        history = await service.history(session_id)
        if history["messages"][-1]["status"] == "complete":
            break
        await asyncio.sleep(0.01)
    assert history["messages"][-1]["content"] == "one two three"
    assert not model.aborted


async def test_the_context_has_the_system_prompt_and_the_newest_messages(service: Running, model: ModelServer) -> None:
    session_id = await service.session(system_prompt="Be kind.")
    for number in range(7):
        await service.chat(session_id, f"m{number}")
    sent = [(m["role"], m["content"]) for m in model.requests[-1].body["messages"]]
    assert sent[0] == ("system", "Be kind.")
    # MAX_CONTEXT_MESSAGES is 10: m2's answer would come first, orphaned, and is left out
    assert sent[1] == ("user", "m2")
    assert sent[-1] == ("user", "m6")
    assert len(sent) == 1 + 9


async def test_a_second_message_waits_its_turn_and_sees_the_first_reply(service: Running, model: ModelServer) -> None:
    model.script(pieces=("first ", "reply"), hold_after=1)
    session_id = await service.session()
    first = asyncio.create_task(service.chat(session_id, "one"))
    while len(model.requests) < 1:
        await asyncio.sleep(0.01)
    second = asyncio.create_task(service.chat(session_id, "two"))
    async with asyncio.timeout(10):
        while (view := (await service.client.get(f"/api/sessions/{session_id}")).json())["message_count"] < 4:
            await asyncio.sleep(0.01)
    assert view["status"] == "replying"
    assert len(model.requests) == 1
    model.release()
    await asyncio.gather(first, second)
    sent = [m["content"] for m in model.requests[1].body["messages"]]
    assert sent == ["one", "first reply", "two"]
    history = await service.history(session_id)
    assert [m["content"] for m in history["messages"]] == ["one", "first reply", "two", "You said: two"]


async def test_on_busy_reject_and_interrupt(service: Running, model: ModelServer) -> None:
    model.script(pieces=("partial ", "never"), hold_after=1)
    session_id = await service.session()
    first = asyncio.create_task(service.chat(session_id, "one"))
    await reply_text(service, session_id, "partial ")
    body = {"session_id": session_id, "message": "two", "on_busy": "reject"}
    refused = await service.client.post("/api/chat", json=body)
    assert refused.status_code == 409
    answer = await service.chat(session_id, "three", on_busy="interrupt")
    assert answer["content"] == "You said: three"
    interrupted = await first
    assert (interrupted["status"], interrupted["content"]) == ("cancelled", "partial ")
    assert len(model.aborted) == 1


async def test_cancel_keeps_the_partial_text_stops_the_model_and_is_idempotent(
    service: Running, model: ModelServer
) -> None:
    model.script(pieces=("partial ", "never"), hold_after=1)
    session_id = await service.session()
    first = asyncio.create_task(service.chat(session_id, "one"))
    await reply_text(service, session_id, "partial ")
    cancelled = await service.client.post(f"/api/sessions/{session_id}/cancel")
    assert cancelled.status_code == 202
    assert cancelled.json()["status"] == "cancelled"
    answer = await first
    assert (answer["status"], answer["content"]) == ("cancelled", "partial ")
    again = await service.client.post(f"/api/sessions/{session_id}/cancel")
    assert (again.status_code, again.json()) == (200, {"reply_id": None})
    assert len(model.aborted) == 1


async def reply_text(service: Running, session_id: str, text: str) -> None:
    """Wait until the running reply reads `text`."""
    async with asyncio.timeout(5):
        while True:
            messages = (await service.history(session_id))["messages"]
            if messages and messages[-1]["content"] == text:
                return
            await asyncio.sleep(0.01)


async def test_the_parent_can_be_chosen_and_siblings_are_listed(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    first = await service.chat(session_id, "one")
    second = await service.chat(session_id, "two")
    edited = await service.chat(session_id, "two, edited", parent_id=first["message_id"])
    history = await service.history(session_id)
    assert [m["content"] for m in history["messages"]] == [
        "one", "You said: one", "two, edited", "You said: two, edited",
    ]  # fmt: skip
    original = (await service.history(session_id, branch=second["message_id"]))["messages"][2]
    siblings = [second["user_message_id"], edited["user_message_id"]]
    assert (original["siblings"], history["messages"][2]["siblings"]) == (siblings, siblings)
    assert [m["siblings"] for m in history["messages"][:2]] == [[first["user_message_id"]], [first["message_id"]]]
    assert [m["content"] for m in model.requests[-1].body["messages"]] == ["one", "You said: one", "two, edited"]
    assert edited["status"] == "complete"
    unknown = await service.client.post(
        "/api/chat", json={"session_id": session_id, "message": "x", "parent_id": "not-there"}
    )
    assert unknown.status_code == 422


async def test_an_old_message_can_be_answered_anew_however_long_the_session(
    service: Running, model: ModelServer
) -> None:
    session_id = await service.session()
    first = await service.chat(session_id, "one")
    for number in range(40):
        await service.chat(session_id, f"m{number}")
    edited = await service.chat(session_id, "edited", parent_id=first["message_id"])
    assert edited["status"] == "complete"
    assert [m["content"] for m in model.requests[-1].body["messages"]] == ["one", "You said: one", "edited"]


async def test_a_conversation_goes_on_after_many_replies_without_a_word(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    await service.chat(session_id, "one")
    model.script(times=60, status=400)
    for number in range(30):
        body = {"session_id": session_id, "message": f"m{number}"}
        assert (await service.client.post("/api/chat", json=body)).status_code == 502
    while model.take_script() != model._always:
        pass
    assert (await service.chat(session_id, "at last"))["content"] == "You said: at last"


async def test_a_reader_never_sees_a_reply_shrink(service: Running, model: ModelServer) -> None:
    for _ in range(5):
        model.script(pieces=tuple("a b c d e f g "), delay_s=0.003)
        session_id = await service.session()
        chatting = asyncio.create_task(service.chat(session_id, "hi"))
        longest = ""
        while not chatting.done():
            messages = (await service.history(session_id))["messages"]
            text = messages[-1]["content"] if len(messages) == 2 else ""
            assert text.startswith(longest)
            longest = text
        await chatting
