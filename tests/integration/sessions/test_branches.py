"""Other replies to the same message, and which branch the conversation goes on with."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import Caller, CreateSession, Fork, PostMessage, Regenerate, SelectBranch
from events.catalogue import Parameters
from tests.support.http.service_requests import (
    event_counts,
    forget_projections,
    messages,
    said,
    sent,
    wait_for_last_message,
)
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, frames, serving
from tests.support.sessions.sessions_harness import SessionsHarness


async def regenerate(service: Running, session_id: str, **body: Any) -> httpx.Response:
    return await service.client.post(f"/api/sessions/{session_id}/regenerate", json=body)


async def select(service: Running, session_id: str, message_id: str) -> httpx.Response:
    return await service.client.post(f"/api/sessions/{session_id}/branch", json={"message_id": message_id})


async def count(service: Running, session_id: str) -> int:
    return int((await service.client.get(f"/api/sessions/{session_id}")).json()["message_count"])


async def test_a_regenerated_reply_is_a_new_sibling_and_the_selected_one(service: Running, model: ModelServer) -> None:
    session_id = await service.session(system_prompt="Be kind.")
    await service.chat(session_id, "one")
    first = await service.chat(session_id, "two")
    model.script(pieces=("Another ", "answer"))
    again = await regenerate(service, session_id, temperature=1.5, seed=3, max_new_tokens=9)
    assert again.status_code == 200
    second = again.json()
    assert set(second) == set(first)
    assert (second["content"], second["user_message_id"]) == ("Another answer", first["user_message_id"])
    assert second["message_id"] != first["message_id"]
    assert sent(model) == ["Be kind.", "one", "You said: one", "two"]
    body = model.requests[-1].body
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (1.5, 3, 9)
    history = await messages(service.client, session_id)
    assert [m["content"] for m in history] == ["one", "You said: one", "two", "Another answer"]
    assert history[-1]["siblings"] == [first["message_id"], second["message_id"]]
    assert await count(service, session_id) == 5
    assert await said(service.client, session_id, branch=first["message_id"]) == [
        "one", "You said: one", "two", "You said: two",
    ]  # fmt: skip
    await service.chat(session_id, "three")
    assert sent(model)[-2:] == ["Another answer", "three"]


async def test_an_older_reply_or_the_message_that_it_answers_can_be_named(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    first = await service.chat(session_id, "one")
    await service.chat(session_id, "two")
    for named in ("message_id", "user_message_id"):
        again = await regenerate(service, session_id, message_id=first[named])
        assert again.json()["user_message_id"] == first["user_message_id"]
        assert sent(model) == ["one"]
    history = await messages(service.client, session_id)
    assert [m["content"] for m in history] == ["one", "You said: one"]
    assert len(history[-1]["siblings"]) == 3
    assert await count(service, session_id) == 6


async def test_a_branch_from_the_oldest_message_at_hand_keeps_its_context(tmp_path: Path, model: ModelServer) -> None:
    """What is at hand is full: the new message has the oldest dropped, which must not be one that its reply needs."""
    settings = {"MAX_CONTEXT_MESSAGES": "3", "CHATBOT_SESSIONS_QUEUED_MESSAGES_MAX": "1"}
    async with serving(tmp_path, model.url, **settings) as service:
        session_id = await service.session()
        turns = [await service.chat(session_id, f"{number}") for number in range(1, 6)]
        await service.chat(session_id, "again", parent_id=turns[0]["message_id"])
    assert sent(model) == ["1", "You said: 1", "again"]


async def test_regenerating_what_is_not_there_is_refused_and_records_nothing(service: Running, tmp_path: Path) -> None:
    session_id, other = await service.session(), await service.session()
    empty = await regenerate(service, session_id)
    assert (empty.status_code, empty.json()["type"]) == (422, "/problems/nothing-to-regenerate")
    foreign = (await service.chat(other, "one"))["message_id"]
    before = event_counts(tmp_path)
    for message_id in ("nowhere", foreign):
        unknown = await regenerate(service, session_id, message_id=message_id)
        assert (unknown.status_code, unknown.json()["type"]) == (422, "/problems/unknown-message")
        assert (await select(service, session_id, message_id)).json()["type"] == "/problems/unknown-message"
    for body, path in (
        ({"temperature": 3}, "$.temperature"),
        ({"max_new_tokens": 10**9}, "$.max_new_tokens"),
        ({"x": 1}, "$.x"),
    ):
        wrong = await regenerate(service, session_id, **body)
        assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, path)
    assert event_counts(tmp_path) == before


async def test_regenerate_streams_for_a_client_that_accepts_an_event_stream(
    service: Running, model: ModelServer
) -> None:
    session_id = await service.session()
    first = await service.chat(session_id, "one")
    model.script(pieces=("an", "other"))
    path, headers = f"/api/sessions/{session_id}/regenerate", {"Accept": "text/event-stream"}
    answer = await service.client.post(path, headers=headers)  # the body is optional
    assert answer.headers["content-type"].startswith("text/event-stream")
    start, *_, complete, _ = frames(answer.text)
    assert start["user_message_id"] == first["user_message_id"]
    assert complete["full_response"] == "another"
    assert complete["message_id"] == (await messages(service.client, session_id))[-1]["message_id"]


async def test_while_a_reply_runs_another_waits_is_refused_or_takes_its_place(
    service: Running, model: ModelServer
) -> None:
    session_id = await service.session()
    model.script(pieces=("a ", "b"), hold_after=1)
    first = asyncio.create_task(service.chat(session_id, "one"))
    await model.wait_requests()
    assert (await regenerate(service, session_id, on_busy="reject")).status_code == 409
    waiting = asyncio.create_task(regenerate(service, session_id))
    await wait_for_last_message(service.client, session_id, status="queued", content="")
    while await count(service, session_id) < 3:
        await asyncio.sleep(0.01)
    later = asyncio.create_task(service.chat(session_id, "two"))
    while await count(service, session_id) < 5:
        await asyncio.sleep(0.01)
    assert len(model.requests) == 1
    model.release()
    assert (await first)["content"] == "a b"
    second = (await waiting).json()
    assert (second["content"], (await later)["status"]) == ("You said: one", "complete")
    assert [sent(model, number) for number in (1, 2)] == [["one"], ["one", "You said: one", "two"]]
    # and now one that takes the place of the running one
    model.released.clear()
    model.script(pieces=("c ", "d"), hold_after=1)
    third = asyncio.create_task(service.chat(session_id, "three"))
    await model.wait_requests(4)
    taken = await regenerate(service, session_id, on_busy="interrupt")
    assert (await third)["status"] == "cancelled"
    assert (taken.json()["content"], taken.json()["user_message_id"]) == (
        "You said: three", (await third)["user_message_id"],
    )  # fmt: skip
    assert len(model.aborted) == 1


async def test_an_interrupting_request_that_names_nothing_here_leaves_the_running_reply_alone(
    service: Running, model: ModelServer
) -> None:
    session_id = await service.session()
    model.script(pieces=("a ", "b"), hold_after=1)
    running = asyncio.create_task(service.chat(session_id, "one"))
    await model.wait_requests()
    refused = await regenerate(service, session_id, message_id="nowhere", on_busy="interrupt")
    assert refused.status_code == 422
    model.release()
    assert (await running)["content"] == "a b"


async def follow(service: Running, session_id: str, parent_id: str, **body: Any) -> httpx.Response:
    asked = {"session_id": session_id, "message": "next", "parent_id": parent_id, **body}
    return await service.client.post("/api/chat", json=asked)


@pytest.mark.parametrize("at_hand", [True, False])
async def test_a_message_does_not_follow_a_message_of_the_user(
    tmp_path: Path, model: ModelServer, at_hand: bool
) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session()
        first = await service.chat(session_id, "one")
        await service.chat(session_id, "two")
        if at_hand:
            await refused_parent(service, tmp_path, session_id, first["user_message_id"])
    async with serving(tmp_path, model.url) as service:
        await refused_parent(service, tmp_path, session_id, first["user_message_id"])
        assert (await follow(service, session_id, first["message_id"])).status_code == 200
        assert sent(model) == ["one", "You said: one", "next"]


async def refused_parent(service: Running, folder: Path, session_id: str, parent_id: str) -> None:
    before = event_counts(folder)
    refused = await follow(service, session_id, parent_id)
    assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.parent_id")
    assert event_counts(folder) == before


async def test_a_refused_parent_interrupts_nothing(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    model.script(pieces=("a ", "b"), hold_after=1)
    running = asyncio.create_task(service.chat(session_id, "one"))
    await model.wait_requests()
    (question, _) = await messages(service.client, session_id)
    for on_busy in ("queue", "interrupt"):
        refused = await follow(service, session_id, question["message_id"], on_busy=on_busy)
        assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, "$.parent_id")
    model.release()
    assert (await running)["content"] == "a b"


async def test_a_message_follows_a_reply_without_text_and_one_that_still_runs(
    service: Running, model: ModelServer
) -> None:
    session_id = await service.session()
    for _ in range(3):  # tried again twice
        model.script(then="error", pieces=())
    assert (await follow_first(service, session_id)).status_code == 502
    failed = (await messages(service.client, session_id))[-1]
    model.script(pieces=("a ", "b"), hold_after=1)
    running = asyncio.create_task(follow(service, session_id, failed["message_id"]))
    await model.wait_requests(4)
    written = (await messages(service.client, session_id))[-1]["message_id"]
    waiting = asyncio.create_task(follow(service, session_id, written))
    while await count(service, session_id) < 6:
        await asyncio.sleep(0.01)
    model.release()
    assert ((await running).status_code, (await waiting).status_code) == (200, 200)
    assert sent(model) == ["next", "a b", "next"]


async def follow_first(service: Running, session_id: str) -> httpx.Response:
    return await service.client.post("/api/chat", json={"session_id": session_id, "message": "one"})


async def test_a_fork_that_ends_in_a_question_goes_on_all_the_same(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    question = (await service.chat(session_id, "one"))["user_message_id"]
    forked = await service.client.post(f"/api/sessions/{session_id}/fork", json={"message_id": question})
    fork_id = forked.json()["session_id"]
    assert (await follow(service, fork_id, question)).status_code == 422
    await service.chat(fork_id, "two")
    assert sent(model) == ["two"]  # the question has no answer there, so the model is not sent two in a row


async def test_a_cancelled_or_failed_regeneration_keeps_the_old_reply(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    first = await service.chat(session_id, "one")
    model.script(pieces=("half",), then="error")
    failed = await regenerate(service, session_id)
    assert (failed.status_code, failed.json()["partial"]) == (502, "half")
    history = await messages(service.client, session_id)
    assert (history[-1]["status"], len(history[-1]["siblings"])) == ("failed", 2)
    back = await select(service, session_id, first["message_id"])
    assert back.json()["message_id"] == first["message_id"]
    assert await said(service.client, session_id) == ["one", "You said: one"]


async def tree(service: Running) -> tuple[str, dict[str, dict[str, Any]]]:
    """one - 1 - two - 2, and under 1 also: edited - 3 - four - 4. The last one is selected."""
    session_id, turns = await service.session(), dict[str, dict[str, Any]]()
    turns["one"] = await service.chat(session_id, "one")
    turns["two"] = await service.chat(session_id, "two")
    turns["edited"] = await service.chat(session_id, "edited", parent_id=turns["one"]["message_id"])
    turns["four"] = await service.chat(session_id, "four")
    return session_id, turns


async def test_a_branch_is_selected_at_its_newest_leaf_by_any_message_of_it(
    service: Running, model: ModelServer
) -> None:
    session_id, turns = await tree(service)
    for named, leaf in (
        (turns["two"]["user_message_id"], "two"),
        (turns["edited"]["message_id"], "four"),
        (turns["two"]["message_id"], "two"),
        (turns["one"]["user_message_id"], "four"),
        (turns["two"]["message_id"], "two"),
    ):
        answer = await select(service, session_id, named)
        assert answer.status_code == 200
        assert answer.json()["message_id"] == turns[leaf]["message_id"]
        assert answer.headers["ETag"] == f'"{answer.json()["version"]}"'
        assert (await messages(service.client, session_id))[-1]["message_id"] == turns[leaf]["message_id"]
    await service.chat(session_id, "three")
    assert sent(model) == ["one", "You said: one", "two", "You said: two", "three"]
    assert (await said(service.client, session_id))[2:] == ["two", "You said: two", "three", "You said: three"]
    assert await count(service, session_id) == 10


async def test_selecting_what_is_selected_records_nothing(service: Running, tmp_path: Path) -> None:
    session_id, turns = await tree(service)
    before = event_counts(tmp_path)
    answer = await select(service, session_id, turns["four"]["message_id"])
    assert (answer.status_code, event_counts(tmp_path)) == (200, before)


@pytest.mark.parametrize("without_projections", [False, True])
async def test_branches_and_siblings_are_remembered_over_a_restart(
    tmp_path: Path, model: ModelServer, without_projections: bool
) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id, turns = await tree(service)
        await regenerate(service, session_id, message_id=turns["two"]["message_id"])
        await select(service, session_id, turns["edited"]["message_id"])
        queries = [{}, {"branch": turns["two"]["message_id"]}, {"limit": 1}]
        before = [await messages(service.client, session_id, **query) for query in queries]
        view = (await service.client.get(f"/api/sessions/{session_id}")).json()
    if without_projections:
        forget_projections(tmp_path)
    async with serving(tmp_path, model.url) as service:
        assert [await messages(service.client, session_id, **query) for query in queries] == before
        assert (await service.client.get(f"/api/sessions/{session_id}")).json() == view
        assert len(before[1][-1]["siblings"]) == 2
        await service.chat(session_id, "five")
        assert sent(model) == ["one", "You said: one", "edited", "You said: edited", "four", "You said: four", "five"]
        again = await regenerate(service, session_id)
        assert again.json()["content"] == "You said: five"
        assert sent(model, -1) == sent(model, -2)


async def test_another_branch_can_be_selected_while_a_reply_runs_and_the_reply_ends_where_it_was_asked_for(
    service: Running, model: ModelServer
) -> None:
    session_id, turns = await tree(service)
    model.script(pieces=("a ", "b"), hold_after=1)
    running = asyncio.create_task(service.chat(session_id, "five"))
    await model.wait_requests(5)
    assert (await select(service, session_id, turns["two"]["message_id"])).status_code == 200
    waiting = asyncio.create_task(service.chat(session_id, "three"))
    while await count(service, session_id) < 12:
        await asyncio.sleep(0.01)
    model.release()
    ended = await running
    await waiting
    assert sent(model) == ["one", "You said: one", "two", "You said: two", "three"]
    on_the_other = await said(service.client, session_id, branch=ended["message_id"])
    assert on_the_other[2:] == ["edited", "You said: edited", "four", "You said: four", "five", "a b"]
    assert (await said(service.client, session_id))[-2:] == ["three", "You said: three"]


@pytest.mark.parametrize(
    "command",
    [
        SelectBranch("nowhere"),
        Regenerate("r", None, Parameters()),
        Regenerate("r", "nowhere", Parameters()),
        PostMessage("m", "r", "words", Parameters(), parent_id="nowhere"),
        Fork("f", "nowhere"),
    ],
    ids=lambda command: type(command).__name__,
)
async def test_a_session_past_its_deadline_has_expired_whatever_is_asked_of_it(tmp_path: Path, command: Any) -> None:
    real, caller = SessionsHarness(tmp_path), Caller(owner="mina")
    await real.open()
    await real.supervisor.ask("s", CreateSession("mina", {}, 60, None, None), caller)
    real.now_us += 61_000_000
    with pytest.raises(rejections.SessionExpired):
        await real.supervisor.ask("s", command, caller)
    assert [one.type for one in await real.log.read("s", limit=9)] == ["session_created", "session_expired"]
    await real.close()
