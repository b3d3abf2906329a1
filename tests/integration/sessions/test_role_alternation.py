"""Model servers that want user and assistant in turn: a turn without a reply must not end the session with them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from chatbot.audit.model_calls import read_model_calls
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving


def sent(model: ModelServer) -> list[str]:
    """What the newest request shows the model: role and text of each message."""
    return [f"{one['role'][0]}:{one['content']}" for one in model.requests[-1].body["messages"]]


async def without_a_word(service: Running, model: ModelServer, session_id: str, message: str, how: str) -> str:
    """A turn that gets no text; gives its user message's id."""
    if how == "fail":
        model.script(status=400)
        await service.client.post("/api/chat", json={"session_id": session_id, "message": message})
    else:
        asked = len(model.requests) + 1
        model.script(pieces=("never",), hold_after=0)
        asking = asyncio.create_task(service.chat(session_id, message))
        await model.wait_requests(asked)
        if how == "cancel":
            await service.client.post(f"/api/sessions/{session_id}/cancel")
        else:
            await service.chat(session_id, "in its place", on_busy="interrupt")
        assert (await asking)["status"] == "cancelled"
    messages = (await service.history(session_id))["messages"]
    return next(str(one["message_id"]) for one in reversed(messages) if one["content"] == message)


async def requests_on_record(service: Running, session_id: str) -> list[list[dict[str, Any]]]:
    """The messages of each request, as the record alone tells them."""
    return [
        [{"role": one.role, "content": one.content} for one in asked.messages]
        async for asked in read_model_calls(service.services.log, session_id)
    ]


OPENAI = {"CHATBOT_LLM_PROVIDER": "openai"}


@pytest.mark.parametrize(
    ("unanswered", "next_turn", "again", "branch"),
    [
        ("omit", ["u:one", "a:1", "u:four"], ["u:one", "a:1", "u:three"], ["u:one", "a:1", "u:five"]),
        (
            "join",
            ["u:one", "a:1", "u:two\n\nthree\n\nfour"],
            ["u:one", "a:1", "u:two\n\nthree"],
            ["u:one", "a:1", "u:two\n\nfive"],
        ),
    ],
)
async def test_questions_without_a_reply_never_follow_each_other(
    tmp_path: Path, model: ModelServer, unanswered: str, next_turn: list[str], again: list[str], branch: list[str]
) -> None:
    async with serving(tmp_path, model.url, **OPENAI, CHATBOT_CHAT_UNANSWERED_MESSAGES=unanswered) as service:
        session_id = await service.session()
        model.script(pieces=("1",))
        await service.chat(session_id, "one")
        await without_a_word(service, model, session_id, "two", "fail")
        third = await without_a_word(service, model, session_id, "three", "cancel")
        lost = (await service.history(session_id))["messages"][3]["message_id"]
        await service.chat(session_id, "four")
        assert sent(model) == next_turn
        await service.client.post(f"/api/sessions/{session_id}/regenerate", json={"message_id": third})
        assert sent(model) == again
        await service.chat(session_id, "five", parent_id=lost)
        assert sent(model) == branch
        asked = [request.body["messages"] for request in model.requests]
        assert await requests_on_record(service, session_id) == asked


@pytest.mark.parametrize(("unanswered", "shown"), [("omit", "in its place"), ("join", "two\n\nin its place")])
async def test_a_question_that_took_anothers_place_is_asked_alone_or_with_it(
    tmp_path: Path, model: ModelServer, unanswered: str, shown: str
) -> None:
    async with serving(tmp_path, model.url, **OPENAI, CHATBOT_CHAT_UNANSWERED_MESSAGES=unanswered) as service:
        session_id = await service.session(system_prompt="Be kind.")
        await without_a_word(service, model, session_id, "two", "interrupt")
        assert sent(model) == ["s:Be kind.", f"u:{shown}"]
        await service.chat(session_id, "three")
        assert sent(model)[1:] == [f"u:{shown}", f"a:You said: {shown}", "u:three"]
        asked = [request.body["messages"] for request in model.requests]
        assert await requests_on_record(service, session_id) == asked


async def test_however_many_turns_fail_the_next_question_is_asked_with_what_was_answered(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url, **OPENAI, MAX_CONTEXT_MESSAGES="4") as service:
        session_id = await service.session()
        model.script(pieces=("1",))
        await service.chat(session_id, "one")
        for number in range(2):
            await without_a_word(service, model, session_id, f"lost {number}", "fail")
        await service.chat(session_id, "two")
        assert sent(model) == ["u:one", "a:1", "u:two"]
        for number in range(9):
            await without_a_word(service, model, session_id, f"lost {number}", "fail")
        await service.chat(session_id, "three")
        assert sent(model)[-1] == "u:three"
        assert [one[0] for one in sent(model)] == ["u", "a"] * (len(sent(model)) // 2) + ["u"]
