"""Forks: a session that begins with another's history, shares its texts, and outlives it."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from events.integrity.chain_verifier import verify
from tests.support.http.service_requests import (
    bytes_on_disk,
    event_counts,
    forget_projections,
    messages,
    recorded,
    said,
    sent,
    wait_for_last_message,
)
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, serving

KEYS = {"CHATBOT_API_KEYS": "mina:a-long-secret-of-hers,jun:another-long-secret"}
MARK = "MARK-of-this-text"


async def ask_fork(service: Running, session_id: str, **body: Any) -> httpx.Response:
    return await service.client.post(f"/api/sessions/{session_id}/fork", json=body)


async def fork(service: Running, session_id: str, **body: Any) -> str:
    answer = await ask_fork(service, session_id, **body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["session_id"])


async def delete(service: Running, session_id: str) -> int:
    return (await service.client.delete(f"/api/sessions/{session_id}")).status_code


async def whole(client: httpx.AsyncClient, session_id: str) -> list[dict[str, Any]]:
    """The history without what names the session."""
    return [{**message, "session_id": ""} for message in await messages(client, session_id)]


async def every_ending(service: Running, model: ModelServer, **body: Any) -> str:
    """A session with a complete reply, one cut at its length, a failed and a cancelled one."""
    session_id = await service.session(**body)
    await service.chat(session_id, f"one {MARK}")
    model.script(pieces=("long ", "answer"), finish_reason="length")
    await service.chat(session_id, "two")
    model.script(pieces=("half",), finish_reason="network_error")  # fails, with usage and a word for it
    failed = await service.client.post("/api/chat", json={"session_id": session_id, "message": "three"})
    assert failed.status_code == 502
    model.script(pieces=("a ", "b"), hold_after=1)
    cancelled = asyncio.create_task(service.chat(session_id, "four"))
    await wait_for_last_message(service.client, session_id, content="a ")
    await service.client.post(f"/api/sessions/{session_id}/cancel")
    assert (await cancelled)["status"] == "cancelled"
    return session_id


async def test_a_fork_begins_with_the_same_description_and_history_and_copies_no_text(
    service: Running, model: ModelServer, tmp_path: Path
) -> None:
    session_id = await every_ending(
        service, model, metadata={"a": 1}, title="T", system_prompt="Be kind.", timeout_hours=2
    )
    await service.client.patch(f"/api/sessions/{session_id}", json={"metadata": {"b": 2}})
    written = bytes_on_disk(tmp_path).count(MARK.encode())
    answer = await ask_fork(service, session_id)
    view, origin = answer.json(), (await service.client.get(f"/api/sessions/{session_id}")).json()
    assert answer.headers["Location"] == f"/api/sessions/{view['session_id']}"
    assert answer.headers["ETag"] == f'"{view["version"]}"'
    for name in ("metadata", "title", "message_count", "status", "active_reply"):
        assert view[name] == origin[name]
    assert (view["metadata"], view["title"], view["message_count"]) == ({"a": 1, "b": 2}, "T", 8)
    assert view["session_id"] != session_id
    assert await whole(service.client, view["session_id"]) == await whole(service.client, session_id)
    assert (await service.client.get(answer.headers["Location"])).json() == view
    assert bytes_on_disk(tmp_path).count(MARK.encode()) == written
    adopting = [data for name, data in recorded(tmp_path) if name == "history_adopted"]
    assert len(adopting) == 1
    created = next(data for name, data in reversed(recorded(tmp_path)) if name == "session_created")
    assert (created["timeout_s"], created["forked_from"]["session_id"]) == (7200, session_id)


async def test_the_two_go_their_own_ways(service: Running, model: ModelServer) -> None:
    session_id = await service.session(system_prompt="Be kind.")
    first = await service.chat(session_id, "one")
    await service.chat(session_id, "two")
    fork_id = await fork(service, session_id, message_id=first["message_id"])
    assert await said(service.client, fork_id) == ["one", "You said: one"]
    await service.chat(fork_id, "other")
    assert sent(model) == ["Be kind.", "one", "You said: one", "other"]
    again = await service.client.post(f"/api/sessions/{fork_id}/regenerate", json={"message_id": first["message_id"]})
    assert again.status_code == 200
    assert sent(model) == ["Be kind.", "one"]
    assert await said(service.client, session_id) == ["one", "You said: one", "two", "You said: two"]
    await service.chat(session_id, "three")
    assert sent(model) == ["Be kind.", "one", "You said: one", "two", "You said: two", "three"]
    at_question = await fork(service, session_id, message_id=first["user_message_id"])
    assert await said(service.client, at_question) == ["one"]
    answered = await service.client.post(f"/api/sessions/{at_question}/regenerate")
    assert (answered.json()["content"], sent(model)) == ("You said: one", ["Be kind.", "one"])


async def test_a_fork_takes_the_selected_branch_and_its_own_branches_can_be_selected(service: Running) -> None:
    session_id = await service.session()
    first = await service.chat(session_id, "one")
    await service.chat(session_id, "edited", parent_id=None)
    await service.client.post(f"/api/sessions/{session_id}/branch", json={"message_id": first["message_id"]})
    fork_id = await fork(service, session_id)
    assert await said(service.client, fork_id) == ["one", "You said: one"]
    await service.chat(fork_id, "two", parent_id=None)
    selected = await service.client.post(
        f"/api/sessions/{fork_id}/branch", json={"message_id": first["user_message_id"]}
    )
    assert selected.json()["message_id"] == first["message_id"]
    assert len((await messages(service.client, fork_id))[0]["siblings"]) == 2


async def test_a_fork_belongs_to_the_caller_that_asked_for_it(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session()
        await service.chat(session_id, "one")
    async with serving(tmp_path, model.url, **KEYS) as service:
        mina, jun = ({"X-API-Key": one.split(":")[1]} for one in KEYS["CHATBOT_API_KEYS"].split(","))
        made = await service.client.post(f"/api/sessions/{session_id}/fork", json={}, headers=mina)
        path = made.headers["Location"]
        assert (await service.client.get(path, headers=mina)).status_code == 200
        assert (await service.client.get(path, headers=jun)).status_code == 404


async def test_what_cannot_be_forked_is_refused(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SESSIONS_FORK_MESSAGES_MAX="4") as service:
        session_id = await service.session()
        empty = await ask_fork(service, session_id)
        assert (empty.status_code, empty.json()["message_count"]) == (201, 0)
        assert (await service.chat(empty.json()["session_id"], "hi"))["content"] == "You said: hi"
        for text in ("one", "two"):
            await service.chat(session_id, text)
        before = event_counts(tmp_path)
        unknown = await ask_fork(service, session_id, message_id="nowhere")
        assert (unknown.status_code, unknown.json()["type"]) == (422, "/problems/unknown-message")
        assert event_counts(tmp_path) == before
        assert (await ask_fork(service, session_id)).status_code == 201
        first = await service.chat(session_id, "three")
        too_long = await ask_fork(service, session_id)
        assert (too_long.status_code, "4" in too_long.json()["detail"]) == (422, True)
        assert first["status"] == "complete"
        missing = await ask_fork(service, "5b4f2c1e-0000-4000-8000-000000000001")
        assert missing.status_code == 404


async def test_a_fork_of_a_running_conversation_leaves_out_the_turn_that_is_not_finished(
    service: Running, model: ModelServer
) -> None:
    session_id = await service.session()
    await service.chat(session_id, "one")
    model.script(pieces=("a ", "b"), hold_after=1)
    running = [asyncio.create_task(service.chat(session_id, "two"))]
    await model.wait_requests(2)
    running.append(asyncio.create_task(service.chat(session_id, "three")))
    ids: list[str] = []
    while len(ids) < 6:
        ids = [message["message_id"] for message in await messages(service.client, session_id)]
    fork_id = await fork(service, session_id)
    assert await said(service.client, fork_id) == ["one", "You said: one"]
    for unfinished in (ids[3], ids[4], ids[5]):
        refused = await ask_fork(service, session_id, message_id=unfinished)
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/session-busy")
    assert await said(service.client, await fork(service, session_id, message_id=ids[2])) == [
        "one", "You said: one", "two",
    ]  # fmt: skip
    model.release()
    await asyncio.gather(*running)
    assert (await said(service.client, await fork(service, session_id)))[-1] == "You said: three"
    assert await said(service.client, fork_id) == ["one", "You said: one"]


async def test_a_fork_keeps_a_message_that_its_origin_takes_back(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    model.script(pieces=("a ", "b"), hold_after=1)
    running = asyncio.create_task(service.chat(session_id, "one"))
    await model.wait_requests()
    body = {"session_id": session_id, "message": MARK, "parent_id": None}
    queued = (await service.client.post("/api/chat", json=body, headers={"Prefer": "respond-async"})).json()
    forks = [await fork(service, session_id, message_id=queued["user_message_id"])]
    forks.append(await fork(service, forks[0]))
    before = [await whole(service.client, one) for one in forks]
    assert [await said(service.client, one) for one in forks] == [[MARK], [MARK]]
    message = f"/api/sessions/{session_id}/messages/{queued['user_message_id']}"
    assert (await service.client.delete(message)).status_code == 200
    assert [await whole(service.client, one) for one in forks] == before
    model.release()
    await running
    assert await delete(service, session_id) == 204
    assert [await whole(service.client, one) for one in forks] == before


@pytest.mark.parametrize("without_projections", [False, True])
async def test_forks_outlive_the_session_that_they_came_from_unchanged(
    tmp_path: Path, model: ModelServer, without_projections: bool
) -> None:
    async with serving(tmp_path, model.url, MAX_CONTEXT_MESSAGES="50") as service:
        session_id = await every_ending(service, model, title="ONLY-the-origins")
        await service.client.patch(f"/api/sessions/{session_id}", json={"title": "T"})
        elsewhere = await service.chat(session_id, "ONLY-on-another-branch", parent_id=None)
        main = (await service.client.get(f"/api/sessions/{session_id}/messages")).json()
        assert main["messages"][-1]["message_id"] == elsewhere["message_id"]
        root = (await whole(service.client, session_id))[0]
        branch = next(one for one in root["siblings"] if one != root["message_id"])
        await service.client.post(f"/api/sessions/{session_id}/branch", json={"message_id": branch})
        forks = [await fork(service, session_id)]
        forks.append(await fork(service, forks[0]))
        await service.chat(forks[1], "further")
        forks.append(await fork(service, forks[1]))
        before = [await whole(service.client, one) for one in forks]
        assert [len(history) for history in before] == [8, 10, 10]
        usage = (await service.client.get("/api/usage")).json()
        assert await delete(service, session_id) == 204
        assert [await whole(service.client, one) for one in forks] == before
        assert (await service.client.get("/api/usage")).json() == usage
        assert await delete(service, forks[1]) == 204
        written = bytes_on_disk(tmp_path)
        assert b"ONLY" not in written
        log = await service.services.log.read(session_id, limit=1000)
        assert [one.event for one in log[:-1]] == [None] * (len(log) - 1)
        assert (await verify(service.services.log))[1] is None
    if without_projections:
        forget_projections(tmp_path)
    async with serving(tmp_path, model.url, MAX_CONTEXT_MESSAGES="50") as service:
        for fork_id, history in ((forks[0], before[0]), (forks[2], before[2])):
            assert await whole(service.client, fork_id) == history
            await service.chat(fork_id, "go on")
            assert sent(model)[:2] == [f"one {MARK}", f"You said: one {MARK}"]
            view = (await service.client.get(f"/api/sessions/{fork_id}")).json()
            assert view["message_count"] == len(history) + 2
        for fork_id in (forks[0], forks[2]):
            assert await delete(service, fork_id) == 204
        assert MARK.encode() not in bytes_on_disk(tmp_path)
        assert (await verify(service.services.log))[1] is None


async def test_more_texts_than_are_copied_at_once_are_kept(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    for number in range(40):
        await service.chat(session_id, f"m{number}")
    forks = [await fork(service, session_id) for _ in range(2)]
    before = await whole(service.client, session_id)
    assert await delete(service, session_id) == 204
    assert [await whole(service.client, one) for one in forks] == [before, before]
    assert event_counts(tmp_path)["message_copied"] == 160


async def test_deleting_a_fork_leaves_its_origin_whole(service: Running, tmp_path: Path) -> None:
    session_id = await service.session()
    await service.chat(session_id, "one")
    fork_id = await fork(service, session_id)
    await service.chat(fork_id, "SECRET")
    before = await whole(service.client, session_id)
    assert await delete(service, fork_id) == 204
    assert await whole(service.client, session_id) == before
    assert b"SECRET" not in bytes_on_disk(tmp_path)
    assert event_counts(tmp_path)["message_copied"] == 0
    assert (await service.chat(session_id, "two"))["status"] == "complete"


async def test_an_expired_fork_is_kept_whole_too(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session(timeout_hours=3 / 3600)
        await service.chat(session_id, "one")
        fork_id = await fork(service, session_id)
        await until_gone(service, fork_id)
        await until_gone(service, session_id)
        assert await delete(service, session_id) == 204
    copied = [data["content"] for name, data in recorded(tmp_path) if name == "message_copied"]
    assert copied == ["one", "You said: one"]


async def until_gone(service: Running, session_id: str) -> None:
    async with asyncio.timeout(10):
        while (await service.client.get(f"/api/sessions/{session_id}")).status_code == 200:
            await asyncio.sleep(0.7)


async def test_usage_counts_a_reply_once_however_many_sessions_show_it(service: Running) -> None:
    session_id = await service.session()
    await service.chat(session_id, "one")
    one = (await service.client.get("/api/usage")).json()["usage"]
    forks = [await fork(service, session_id) for _ in range(3)]
    assert (await service.client.get("/api/usage")).json()["usage"] == one
    for gone in (session_id, *forks):
        assert await delete(service, gone) == 204
        assert (await service.client.get("/api/usage")).json()["usage"] == one


async def test_a_fork_made_while_its_origin_is_deleted_is_whole_or_is_not_made(service: Running) -> None:
    made = 0
    for _ in range(20):
        session_id = await service.session()
        for text in ("one", "two"):
            await service.chat(session_id, text)
        answers = await asyncio.gather(
            *(ask_fork(service, session_id) for _ in range(3)),
            service.client.delete(f"/api/sessions/{session_id}"),
            *(ask_fork(service, session_id) for _ in range(3)),
        )
        assert answers[3].status_code == 204
        for answer in (*answers[:3], *answers[4:]):
            assert answer.status_code in (201, 404), answer.text
            if answer.status_code == 201:
                made += 1
                history = await said(service.client, answer.json()["session_id"])
                assert history == ["one", "You said: one", "two", "You said: two"]
    assert made


async def test_generations_of_forks_that_are_forked_and_deleted_at_once_end_whole_or_gone(service: Running) -> None:
    for _ in range(10):
        first = await service.session()
        await service.chat(first, "one")
        second = await fork(service, first)
        third = await fork(service, second)
        answers = await asyncio.gather(
            service.client.delete(f"/api/sessions/{second}"),
            ask_fork(service, second),
            service.client.delete(f"/api/sessions/{first}"),
            ask_fork(service, third),
            ask_fork(service, second),
            service.client.delete(f"/api/sessions/{second}"),
        )
        assert answers[2].status_code == 204, answers[2].text
        assert sorted((answers[0].status_code, answers[5].status_code)) == [204, 404]
        alive = [third, *(a.json()["session_id"] for a in (answers[1], answers[3], answers[4]) if a.status_code == 201)]
        for session_id in alive:
            assert await said(service.client, session_id) == ["one", "You said: one"]
        assert (await verify(service.services.log))[1] is None


async def test_a_conversation_in_a_fork_goes_on_while_its_origin_is_deleted(
    service: Running, model: ModelServer
) -> None:
    session_id = await service.session()
    await service.chat(session_id, "one")
    fork_id = await fork(service, session_id)
    model.script(pieces=("a ", "b"), hold_after=1)
    running = asyncio.create_task(service.chat(fork_id, "two"))
    await model.wait_requests(2)
    assert await delete(service, session_id) == 204
    model.release()
    assert (await running)["content"] == "a b"
    await service.chat(fork_id, "three")
    assert sent(model) == ["one", "You said: one", "two", "a b", "three"]
    assert (await said(service.client, fork_id))[:4] == ["one", "You said: one", "two", "a b"]
