"""The same request again, by its Idempotency-Key: one effect, and the same answer whenever it comes."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http.service_requests import (
    PostRequest,
    bytes_on_disk,
    event_counts,
    forget_projections,
    messages,
    said,
    told,
    wait_for_last_message,
)
from tests.support.model.model_server import ModelServer
from tests.support.service import Running, frames, program, serving

TWENTY = 20
KEYS = {"CHATBOT_API_KEYS": "mina:a-long-secret-of-hers,jun:another-long-secret"}
CALLS = ["create", "chat", "regenerate", "branch", "fork", "cancel"]
EFFECTS = {
    "create": {"session_created": 1},
    "chat": {"message_posted": 1, "reply_started": 1, "reply_completed": 1},
    "regenerate": {"reply_requested": 1, "reply_started": 1, "reply_completed": 1},
    "branch": {"branch_selected": 1},
    "fork": {"session_created": 1, "history_adopted": 1},
    "cancel": {"session_accessed": 1},
}


def call(name: str, session_id: str, message_id: str = "", key: str = "key-1") -> PostRequest:
    """A request with a key; `message_id` is of a message of the session."""
    path = f"/api/sessions/{session_id}"
    calls: dict[str, tuple[str, dict[str, Any] | None]] = {
        "create": ("/api/sessions", {"title": "T", "metadata": {"a": 1, "b": [2]}}),
        "chat": ("/api/chat", {"session_id": session_id, "message": "two"}),
        "regenerate": (f"{path}/regenerate", {"seed": 7}),
        "branch": (f"{path}/branch", {"message_id": message_id}),
        "fork": (f"{path}/fork", {}),
        "cancel": (f"{path}/cancel", None),
    }
    return PostRequest(*calls[name], headers={"Idempotency-Key": key})


def changed(call: PostRequest) -> PostRequest | None:
    """Another request under the same key; None where all requests to its path ask for the same."""
    bodies: dict[str, dict[str, Any]] = {
        "chat": {"message": "another"},
        "branch": {"message_id": "another"},
        "sessions": {"title": "another"},
    }
    bodies |= {"fork": {"message_id": "another"}, "regenerate": {"seed": 8}}
    body = bodies.get(call.path.rpartition("/")[2])
    return None if body is None else PostRequest(call.path, {**(call.body or {}), **body}, call.headers)


async def first_turn(service: Running) -> tuple[str, str]:
    """A session with one turn, and that reply's id."""
    session_id = await service.session()
    return session_id, (await service.chat(session_id, "one"))["message_id"]


async def stream(client: httpx.AsyncClient, call: PostRequest) -> list[dict[str, Any]]:
    answer = await call.send(client)
    assert answer.status_code == 200, answer.text
    return frames(answer.text)


def gist(streamed: list[dict[str, Any]]) -> tuple[Any, ...]:
    """What two readers of one reply have in common, however the text was cut into chunks."""
    start, *chunks, last, done = streamed
    text = "".join(chunk["content"] for chunk in chunks)
    ids = start["message_id"], start["user_message_id"], start["session_id"], start["version"]
    return *ids, text, tuple(sorted((name, str(value)) for name, value in last.items())), done["type"]


@pytest.mark.parametrize("name", CALLS)
async def test_twenty_identical_requests_at_once_have_one_effect_and_identical_answers(
    service: Running, tmp_path: Path, name: str
) -> None:
    session_id, reply_id = await first_turn(service)
    before = event_counts(tmp_path)
    asked = call(name, session_id, reply_id)
    answers = await asyncio.gather(*(asked.send(service.client) for _ in range(TWENTY)))
    assert answers[0].is_success, answers[0].text
    assert len({told(answer) for answer in answers}) == 1
    assert event_counts(tmp_path) - before == Counter(EFFECTS[name])
    assert told(await asked.send(service.client)) == told(answers[0])


async def test_twenty_identical_cancels_of_a_running_reply_are_told_the_same(
    service: Running, model: ModelServer, tmp_path: Path
) -> None:
    session_id = await service.session()
    model.script(pieces=("a ", "b"), hold_after=1)
    chatting = asyncio.create_task(service.chat(session_id, "one"))
    await model.wait_requests()
    asked = call("cancel", session_id)
    answers = await asyncio.gather(*(asked.send(service.client) for _ in range(TWENTY)))
    cancelled = await chatting
    assert {told(answer) for answer in answers} == {told(answers[0])}
    assert (answers[0].status_code, answers[0].json()["reply_id"]) == (202, cancelled["message_id"])
    # A later reply is not cancelled by the same request that comes late.
    model.script(pieces=("c ", "d"), hold_after=1)
    chatting = asyncio.create_task(service.chat(session_id, "two"))
    await model.wait_requests(2)
    assert told(await asked.send(service.client)) == told(answers[0])
    model.release()
    assert (await chatting)["status"] == "complete"
    assert event_counts(tmp_path)["reply_cancelled"] == 1


@pytest.mark.parametrize("path", ["/api/chat/stream", "regenerate"])
async def test_twenty_identical_streams_at_once_tell_of_one_reply_and_a_late_one_replays_it(
    service: Running, model: ModelServer, tmp_path: Path, path: str
) -> None:
    session_id, _ = await first_turn(service)
    body = {"session_id": session_id, "message": "two"}
    asked = PostRequest(path, body, {"Idempotency-Key": "k"})
    if path == "regenerate":
        headers = {"Idempotency-Key": "k", "Accept": "text/event-stream"}
        asked = PostRequest(f"/api/sessions/{session_id}/regenerate", {}, headers)
    model.script(pieces=tuple("안녕 하세요 😀 !"), delay_s=0.01)
    streamed = await asyncio.gather(*(stream(service.client, asked) for _ in range(TWENTY)))
    assert len({gist(one) for one in streamed}) == 1
    assert gist(streamed[0])[4] == "안녕 하세요 😀 !"
    assert gist(await stream(service.client, asked)) == gist(streamed[0])
    assert len(model.requests) == 2
    assert event_counts(tmp_path)["reply_completed"] == 2


async def test_a_stream_joins_a_reply_that_another_request_waits_for(service: Running, model: ModelServer) -> None:
    session_id = await service.session()
    model.script(pieces=("one ", "two ", "three"), hold_after=2)
    body, headers = {"session_id": session_id, "message": "hi"}, {"Idempotency-Key": "k"}
    waiting = asyncio.create_task(service.client.post("/api/chat", json=body, headers=headers))
    await model.wait_requests()
    joining = asyncio.create_task(stream(service.client, PostRequest("/api/chat/stream", body, headers)))
    async with service.client.stream("POST", "/api/chat/stream", json=body, headers=headers) as left:
        async for piece in left.aiter_text():
            if "two" in piece:
                break  # this reader leaves; the others and the reply go on
    model.release()
    whole, streamed = (await waiting).json(), await joining
    assert whole["content"] == streamed[-2]["full_response"] == gist(streamed)[4] == "one two three"
    assert whole["message_id"] == streamed[0]["message_id"]
    assert len(model.requests) == 1


@pytest.mark.parametrize("without_projections", [False, True])
async def test_answers_are_the_same_after_a_restart(
    tmp_path: Path, model: ModelServer, without_projections: bool
) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id, reply_id = await first_turn(service)
        calls = [call(name, session_id, reply_id, key=f"key-{name}") for name in CALLS]
        before = [told(await one.send(service.client)) for one in calls]
        at_first = event_counts(tmp_path)
    if without_projections:
        forget_projections(tmp_path)
    async with serving(tmp_path, model.url) as service:
        assert [told(await one.send(service.client)) for one in calls] == before
        asked = PostRequest("/api/chat/stream", calls[1].body, calls[1].headers)
        streamed = await stream(service.client, asked)
        assert streamed[-2]["full_response"] == "You said: two"
        for one in filter(None, map(changed, calls)):
            refused = await one.send(service.client)
            assert (refused.status_code, refused.json()["type"]) == (422, "/problems/key-reused"), one
    assert event_counts(tmp_path) == at_first


@pytest.mark.parametrize("pieces", [(), ("par", "tial")])
async def test_a_reply_that_failed_fails_the_same_again_and_the_model_is_not_asked(
    tmp_path: Path, model: ModelServer, pieces: tuple[str, ...]
) -> None:
    async with serving(tmp_path, model.url) as service:
        asked = call("chat", await service.session())
        model.script(pieces=pieces, then="error", times=None)
        first = await asked.send(service.client)
        assert (first.status_code, first.json()["partial"]) == (502, "".join(pieces))
        assert told(await asked.send(service.client)) == told(first)
    asked_so_far = len(model.requests)
    async with serving(tmp_path, model.url) as service:
        assert told(await asked.send(service.client)) == told(first)
        streamed = await stream(service.client, PostRequest("/api/chat/stream", asked.body, asked.headers))
        assert (streamed[-2]["type"], streamed[-2]["detail"]) == ("error", first.json()["detail"])
        assert gist(streamed)[4] == first.json()["partial"]
    assert len(model.requests) == asked_so_far


@pytest.mark.parametrize("on_busy", ["queue", "reject", "interrupt"])
async def test_a_key_is_looked_up_before_if_match_on_busy_and_the_bound_of_those_that_wait(
    tmp_path: Path, model: ModelServer, on_busy: str
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SESSIONS_QUEUED_MESSAGES_MAX="0") as service:
        session_id, reply_id = await first_turn(service)
        body = {"session_id": session_id, "message": "two", "on_busy": on_busy}
        asked = PostRequest("/api/chat", body, {"Idempotency-Key": "k", "If-Match": '"4"'})
        calls = [call(name, session_id, reply_id, key=f"key-{name}") for name in ("branch", "fork", "cancel")]
        first = [told(await one.send(service.client, If_Match='"4"')) for one in calls[:1]]
        first += [told(await one.send(service.client, If_Match='"5"')) for one in calls[1:]]
        assert [status for status, *_ in first] == [200, 201, 200]
        model.script(pieces=("a ", "b"), hold_after=1)
        asked.headers["If-Match"] = '"6"'
        chatting = asyncio.create_task(asked.send(service.client))
        await model.wait_requests(2)
        again = asyncio.create_task(asked.send(service.client))
        last = [told(await one.send(service.client, If_Match='"4"')) for one in calls]
        model.release()
        assert told(await again) == told(await chatting)
        assert (await again).json()["status"] == "complete"
        assert last == first
        assert (await service.client.post("/api/chat", json=body, headers={"If-Match": '"4"'})).status_code == 412


@pytest.mark.parametrize("key", ["", '""', '"', '"a', 'a"', "a b", "a\tb", "é", "x" * 256])
async def test_a_bad_key_is_refused_with_its_path(service: Running, key: str) -> None:
    answer = await service.client.post("/api/sessions", headers=[(b"Idempotency-Key", key.encode())])
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["path"] == "header.Idempotency-Key"


async def test_a_quoted_key_and_a_bare_one_are_the_same(service: Running) -> None:
    keys = ("8e03978e-40d5-43e8-bc93-6894a57f9324", '"8e03978e-40d5-43e8-bc93-6894a57f9324"', "x" * 255)
    bare, quoted, other = [await service.client.post("/api/sessions", headers={"Idempotency-Key": key}) for key in keys]
    assert told(bare) == told(quoted)
    assert bare.json()["session_id"] != other.json()["session_id"]


async def test_the_same_key_in_another_session_is_another_request(service: Running) -> None:
    (one, one_reply), (two, two_reply) = await first_turn(service), await first_turn(service)
    for name in ("chat", "regenerate", "branch", "fork", "cancel"):
        first = await call(name, one, one_reply, key=name).send(service.client)
        second = await call(name, two, two_reply, key=name).send(service.client)
        assert first.is_success
        assert first.status_code == second.status_code
        assert name == "cancel" or told(first) != told(second)
    for session_id in (one, two):
        assert await said(service.client, session_id) == ["one", "You said: one", "two", "You said: two"]


async def test_another_owners_key_is_another_request_and_reveals_nothing(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, **KEYS) as service:
        mina, jun = ({"Authorization": f"Bearer {one.split(':')[1]}"} for one in KEYS["CHATBOT_API_KEYS"].split(","))
        asked = call("create", "")
        hers = await asked.send(service.client, **mina)
        his = await asked.send(service.client, **jun)
        assert hers.status_code == his.status_code == 201
        assert hers.json()["session_id"] != his.json()["session_id"]
        chat = call("chat", hers.json()["session_id"], key="key-2")
        assert (await chat.send(service.client, **mina)).status_code == 200
        for one in (chat, call("fork", hers.json()["session_id"], key="key-3")):
            assert (await one.send(service.client, **jun)).status_code == 404


async def test_members_in_another_order_and_members_with_their_defaults_make_no_other_request(
    service: Running,
) -> None:
    session_id = await service.session()
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    bodies = [
        f'{{"session_id":"{session_id}","message":"h\u00e9","temperature":1}}',
        f'{{ "temperature": 1.0, "message": "h\\u00e9",\n "session_id": "{session_id}" }}',
        f'{{"session_id":"{session_id}","message":"h\u00e9","temperature":1,"on_busy":"queue","seed":null}}',
    ]
    answers = [await service.client.post("/api/chat", content=body.encode(), headers=headers) for body in bodies]
    assert len({told(answer) for answer in answers}) == 1
    assert answers[0].status_code == 200
    other = await service.client.post("/api/chat", content=bodies[0].replace("1", "2").encode(), headers=headers)
    assert other.status_code in (404, 422)
    from_the_start = bodies[0].replace("}", ',"parent_id":null}')
    refused = await service.client.post("/api/chat", content=from_the_start.encode(), headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/key-reused")
    created = [
        await service.client.post("/api/sessions", content=body, headers=headers)
        for body in (b'{"metadata":{"a":1,"b":{"c":2,"d":3}}}', b'{"title":null,"metadata":{"b":{"d":3,"c":2},"a":1}}')
    ]
    assert told(created[0]) == told(created[1])


async def test_a_deleted_sessions_keys_make_nothing_anew_and_no_file_holds_them_any_more(
    service: Running, tmp_path: Path
) -> None:
    created = await PostRequest("/api/sessions", {}, {"Idempotency-Key": "SECRET-create"}).send(service.client)
    session_id = created.json()["session_id"]
    reply_id = (await service.chat(session_id, "one"))["message_id"]
    calls = [call(name, session_id, reply_id, key=f"SECRET-{name}") for name in CALLS if name not in ("create", "fork")]
    for one in calls:
        assert (await one.send(service.client)).is_success
    written = bytes_on_disk(tmp_path)
    assert all(one.headers["Idempotency-Key"].encode() in written for one in calls)
    prints = {data["fingerprint"] for data in await events_of(service, session_id) if "fingerprint" in data}
    assert len(prints) == 5
    assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
    for one in calls:
        assert (await one.send(service.client)).status_code == 404, one
    spent = await PostRequest("/api/sessions", {}, {"Idempotency-Key": "SECRET-create"}).send(service.client)
    assert (spent.status_code, spent.json()["type"]) == (422, "/problems/key-spent")
    written = bytes_on_disk(tmp_path)
    assert b"SECRET" not in written
    assert not any(one.encode() in written for one in prints)


async def events_of(service: Running, session_id: str) -> list[dict[str, Any]]:
    import msgspec

    found = await service.services.log.read(session_id, limit=1000)
    return [msgspec.to_builtins(one.event) for one in found]


@pytest.mark.parametrize("retry_as", ["/api/chat", "/api/chat/stream"])
async def test_a_retry_after_kill_9_is_told_how_the_turn_ended_and_doubles_nothing(
    tmp_path: Path, model: ModelServer, retry_as: str
) -> None:
    model.script(pieces=("kept ", "text ", "lost"), hold_after=2)
    settings = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.05"}
    async with (
        program(tmp_path, model.url, **settings) as first,
        httpx.AsyncClient(base_url=first.url) as client,
    ):
        created = await PostRequest("/api/sessions", {}, {"Idempotency-Key": "c"}).send(client)
        session_id = created.json()["session_id"]
        asked = call("chat", session_id)
        chatting = asyncio.create_task(asked.send(client))
        await wait_for_last_message(client, session_id, content="kept text ")
        before = await messages(client, session_id)
        await first.kill()
        with pytest.raises(httpx.TransportError):
            await chatting
    async with program(tmp_path, model.url, **settings) as second, httpx.AsyncClient(base_url=second.url) as client:
        assert told(await PostRequest("/api/sessions", {}, {"Idempotency-Key": "c"}).send(client)) == told(created)
        again = [await PostRequest(retry_as, asked.body, asked.headers).send(client) for _ in range(2)]
        assert again[0].text == again[1].text
        if retry_as == "/api/chat":
            problem = again[0].json()
            assert (again[0].status_code, problem["partial"]) == (503, "kept text ")
            assert [problem["user_message_id"], problem["message_id"]] == [one["message_id"] for one in before]
        else:
            start, chunk, error, _ = frames(again[0].text)
            assert [start["user_message_id"], start["message_id"]] == [one["message_id"] for one in before]
            assert (chunk["content"], error["status"], error["length"]) == ("kept text ", "interrupted", 10)
        assert await said(client, session_id) == ["two", "kept text "]
        await second.stop()
    counts = event_counts(tmp_path)
    assert (counts["session_created"], counts["message_posted"], counts["reply_interrupted"]) == (1, 1, 1)
    assert len(model.requests) == 1


async def test_a_retry_after_kill_9_of_a_whole_turn_is_answered_with_that_turn(
    tmp_path: Path, model: ModelServer
) -> None:
    async with program(tmp_path, model.url) as first, httpx.AsyncClient(base_url=first.url) as client:
        session_id = (await client.post("/api/sessions")).json()["session_id"]
        reply_id = (await client.post("/api/chat", json={"session_id": session_id, "message": "1"})).json()[
            "message_id"
        ]
        calls = [call(name, session_id, reply_id, key=f"key-{name}") for name in CALLS]
        answers = [told(await one.send(client)) for one in calls]
        await first.kill()
    at_first = event_counts(tmp_path)
    async with program(tmp_path, model.url) as second, httpx.AsyncClient(base_url=second.url) as client:
        assert [told(await one.send(client)) for one in calls] == answers
        await second.kill()
    assert event_counts(tmp_path) == at_first
