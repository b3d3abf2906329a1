"""prompt, replay and diff, on logs that the service made: they tell what was, and append nothing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatbot.config.loader import load
from events.catalogue import (
    AdoptedMessage,
    HistoryAdopted,
    MessagePosted,
    Origin,
    Parameters,
    ReplyStarted,
    SessionCreated,
    SessionDeleted,
)
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.command_processes import NO_MODEL, log_digest, run_command
from tests.support.fake_console import FakeConsole, run_in_process
from tests.support.http.service_requests import wait_for_last_message
from tests.support.log.event_builders import created, posted
from tests.support.model.model_server import ModelServer
from tests.support.service import ROOT, Running, environment, program, serving

PARAMETERS: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.5, "top_p": 0.9, "stop": ["\n\n", "끝"], "seed": 7}


async def prompt_of(folder: Path, reply_id: str, *arguments: str) -> Any:
    return (await run_command(folder, "prompt", "--reply", reply_id, *arguments)).json


async def fork(service: Running, session_id: str) -> str:
    answer = await service.client.post(f"/api/sessions/{session_id}/fork", json={})
    return str(answer.json()["session_id"])


@pytest.mark.parametrize("provider", ["openai", "midm"])
async def test_the_prompt_is_what_the_model_server_received(tmp_path: Path, model: ModelServer, provider: str) -> None:
    replies: list[str] = []

    async def chat(session_id: str, message: str, **body: Any) -> None:
        replies.append((await service.chat(session_id, message, **body))["message_id"])

    settings = {"CHATBOT_LLM_PROVIDER": provider, "MAX_CONTEXT_MESSAGES": "4", "CHATBOT_LLM_MODEL": "another"}
    keys = {"CHATBOT_API_KEYS": "mina:a-long-secret-of-hers"}
    async with serving(tmp_path, model.url, **settings, **keys) as service:
        service.client.headers["X-API-Key"] = "a-long-secret-of-hers"
        session_id = await service.session(system_prompt="Be kind.\n친절하게 👋")
        await chat(session_id, "one", **PARAMETERS)
        await chat(session_id, "two", do_sample=False, model="fake-model" if provider == "openai" else None)
        await chat(session_id, "three")
        await chat(session_id, "four", temperature=0)
        fork_id = await fork(service, session_id)
        await chat(fork_id, "five")
        await chat(await fork(service, fork_id), "six")
        again = await service.client.post(f"/api/sessions/{session_id}/regenerate", json={"message_id": replies[1]})
        replies.append(again.json()["message_id"])
        plain = await service.session()
        streamed = await service.client.post("/api/chat/stream", json={"session_id": plain, "message": "seven"})
        replies.append(streamed.text.split('"message_id":"')[1].split('"')[0])
        assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
    before = log_digest(tmp_path)
    assert len(model.requests) == len(replies) == 8
    for number, (reply_id, request) in enumerate(zip(replies, model.requests, strict=True)):
        if number in (0, 1, 2, 3, 6):  # of the session that is deleted
            gone = await run_command(tmp_path, "prompt", "--reply", reply_id)
            assert (gone.returncode, gone.stdout) == (1, "")
            assert reply_id in gone.stderr
            continue
        shown = await prompt_of(tmp_path, reply_id)
        assert shown["request"] == request.body
        assert (shown["provider"], shown["reply_id"], shown["actor"]) == (provider, reply_id, "mina")
        assert shown["model"] == (request.body.get("model") or "another")
    assert log_digest(tmp_path) == before


@pytest.mark.parametrize("provider", ["openai", "midm"])
async def test_the_prompt_of_every_turn_beside_the_running_service(
    tmp_path: Path, model: ModelServer, provider: str
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_LLM_PROVIDER=provider) as service:
        session_id = await service.session(system_prompt="Be brief.")
        bodies: tuple[dict[str, Any], ...] = (PARAMETERS, {"do_sample": False}, {"temperature": 0}, {})
        replies = [(await service.chat(session_id, f"no. {n}", **body))["message_id"] for n, body in enumerate(bodies)]
        head = service.services.log.head()
        for reply_id, request in zip(replies, model.requests, strict=True):
            whole = await run_command(tmp_path, "prompt", "--reply", reply_id, "--json")
            assert whole.json["request"] == request.body
            assert whole.stdout.count("\n") == 1
            assert await prompt_of(tmp_path, reply_id, "--session", session_id) == whole.json
        assert whole.json["context_ids"][-1] != replies[-1]
        assert len(whole.json["request"]["messages"]) == 8
        elsewhere = await run_command(tmp_path, "prompt", "--reply", replies[0], "--session", await service.session())
        assert elsewhere.returncode == 1
        assert service.services.log.head().position == head.position + 1


async def test_the_prompt_lacks_what_the_model_server_refused(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session()
        for refused in ("stream_options", "max_tokens", "seed"):
            model.script(status=400, body={"error": {"message": "unknown parameter", "param": refused}})
        replies = [(await service.chat(session_id, f"no. {n}", **PARAMETERS))["message_id"] for n in range(2)]
        for reply_id, request in zip(replies, model.requests[-2:], strict=True):
            assert (await prompt_of(tmp_path, reply_id, "--session", session_id))["request"] == request.body
    assert not {"stream_options", "max_tokens", "seed"} & request.body.keys()
    assert request.body["max_completion_tokens"] == PARAMETERS["max_new_tokens"]


async def test_each_attempt_of_a_retried_reply_has_its_prompt(tmp_path: Path, model: ModelServer) -> None:
    settings = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.05", "CHATBOT_SESSIONS_INTERRUPTED_RETRIES_MAX": "1"}
    async with program(tmp_path, model.url, **settings) as first, httpx.AsyncClient(base_url=first.url) as client:
        session_id = (await client.post("/api/sessions", json={"system_prompt": "Be kind."})).json()["session_id"]
        await client.post("/api/chat", json={"session_id": session_id, "message": "zero"})
        model.script(pieces=("kept ", "lost"), hold_after=1)
        body = {"session_id": session_id, "message": "one", "seed": 3}
        asking = asyncio.create_task(client.post("/api/chat", json=body))
        await wait_for_last_message(client, session_id, content="kept ")
        await first.kill()
        await asyncio.gather(asking, return_exceptions=True)
    async with program(tmp_path, model.url, **settings) as second, httpx.AsyncClient(base_url=second.url) as client:
        reply_id = (await wait_for_last_message(client, session_id, status="complete"))["message_id"]
        await second.stop()
    before = log_digest(tmp_path)
    last = await prompt_of(tmp_path, reply_id)
    one, two = [await prompt_of(tmp_path, reply_id, "--attempt", n) for n in "12"]
    assert [one["request"], two["request"]] == [request.body for request in model.requests[1:]]
    assert (one["attempt"], two["attempt"], last) == (1, 2, two)
    assert one["position"] < two["position"]
    assert (await run_command(tmp_path, "prompt", "--reply", reply_id, "--attempt", "3")).returncode == 1
    assert log_digest(tmp_path) == before


async def made_log(folder: Path, provider: str = "openai", *, erased: bool) -> None:
    """A fork that has read another session's text, which may be erased with no copy left."""
    log = await SqliteLog.open(folder / "chatbot.db")
    try:
        await log.append("origin", 0, [created(), posted("m1")], Metadata())
        adopted = AdoptedMessage("m1", None, "user", "complete", 2, 1)
        await log.append(
            "fork",
            0,
            [
                SessionCreated("alice", {}, 60, forked_from=Origin("origin", 2, "m1")),
                HistoryAdopted((adopted,)),
                MessagePosted("m2", "m1", "user", "two", "r2"),
                ReplyStarted("r2", "m2", "node", provider, "small", Parameters(), ("m1", "m2")),
            ],
            Metadata(),
        )
        if erased:
            await log.erase("origin", 2, SessionDeleted("test"), Metadata())
    finally:
        await log.close()


async def test_an_erased_text_of_the_context_is_named(tmp_path: Path) -> None:
    await made_log(tmp_path, erased=True)
    told = await run_command(tmp_path, "prompt", "--reply", "r2")
    assert (told.returncode, told.stdout) == (1, "")
    assert "message m1 is erased" in told.stderr
    assert "m2" not in told.stderr


async def test_a_protocol_that_was_not_known_yet_can_be_named(tmp_path: Path) -> None:
    await made_log(tmp_path, "auto", erased=False)
    refused = await run_command(tmp_path, "prompt", "--reply", "r2")
    assert (refused.returncode, "--as" in refused.stderr) == (2, True)
    said = [{"role": "user", "content": "words of m1"}, {"role": "user", "content": "two"}]
    assert (await prompt_of(tmp_path, "r2", "--as", "midm"))["request"] == {"messages": said, "max_new_tokens": 128}
    assert (await prompt_of(tmp_path, "r2", "--as", "openai"))["request"]["messages"] == said


async def a_life(service: Running, model: ModelServer) -> tuple[str, dict[int, dict[str, Any]]]:
    """A session in which all kinds of things happen, and its history as the API told it, by version."""
    session_id = await service.session(title="Sea", metadata={"topic": "sea"})
    stood: dict[int, dict[str, Any]] = {}

    async def note() -> None:
        view = (await service.client.get(f"/api/sessions/{session_id}")).json()
        stood[view["version"]] = view | await service.history(session_id, limit=100)

    await note()
    first = await service.chat(session_id, "one\nline")
    await note()
    await service.client.patch(f"/api/sessions/{session_id}", json={"title": "산", "metadata": {"topic": None, "n": 1}})
    await note()
    model.script(pieces=("half",), then="error")
    await service.client.post("/api/chat", json={"session_id": session_id, "message": "two"})
    await note()
    model.script(pieces=("a ", "b"), hold_after=1)
    asking = asyncio.create_task(service.chat(session_id, "three"))
    await wait_for_last_message(service.client, session_id, content="a ")
    await service.client.post(f"/api/sessions/{session_id}/cancel")
    await asking
    await note()
    await service.chat(session_id, "edited", parent_id=None)
    await note()
    await service.client.post(f"/api/sessions/{session_id}/branch", json={"message_id": first["message_id"]})
    await note()
    return session_id, stood


async def said(folder: Path, *arguments: str) -> str:
    """What a command writes, called in this process: many of them take long to start."""
    console = FakeConsole(load({}, environment=environment(folder, NO_MODEL), folder=ROOT).settings)
    assert await run_in_process(console, *arguments) == 0, console.stderr_lines
    return "\n".join(console.stdout_lines)


async def test_a_replay_at_each_version_is_the_history_as_it_was_then(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id, stood = await a_life(service, model)
        head = service.services.log.head()
        markdown = await run_command(tmp_path, "replay", "--session", session_id, "--format", "markdown")
        assert markdown.stdout.startswith("# 산\n")
        assert service.services.log.head() == head
    before = log_digest(tmp_path)
    for version, history in stood.items():
        shown = json.loads(await said(tmp_path, "replay", "--session", session_id, "--as-of", str(version), "--json"))
        path: list[Any] = []
        by_id = {one["message_id"]: one for one in shown["messages"]}
        at = shown.get("head")
        while at is not None:
            path.insert(0, by_id[at])
            at = by_id[at]["parent_id"]
        names = ("message_id", "parent_id", "role", "content", "status", "created_at", "finish_reason", "model")
        assert [[one[name] for name in names] for one in path] == [
            [one[name] for name in names] for one in history["messages"]
        ]
        assert (shown["title"], shown["metadata"]) == (history["title"], history["metadata"])
        assert (shown["version"], shown["status"]) == (version, "active")
        text = await said(tmp_path, "replay", "--session", session_id, "--as-of", shown["as_of"])
        assert all(one["content"].replace("\n", "\n  ") in text for one in path)
    assert log_digest(tmp_path) == before


async def test_the_difference_between_two_moments(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id, stood = await a_life(service, model)
    before = log_digest(tmp_path)
    versions = list(stood)

    async def differs(since: int, until: int) -> list[dict[str, Any]]:
        told = await run_command(
            tmp_path, "diff", "--session", session_id, "--from", str(since), "--to", str(until), "--json"
        )
        assert told.returncode == 0, told.stderr
        return told.lines

    changed = await differs(versions[1], versions[2])
    assert [(one["what"], one.get("subject"), one.get("before"), one.get("after")) for one in changed] == [
        ("title", None, "Sea", "산"),
        ("metadata", "n", None, 1),
        ("metadata", "topic", "sea", None),
    ]
    assert [one["what"] for one in await differs(versions[-2], versions[-1])] == ["selected branch"]
    assert [one["what"] for one in await differs(versions[0], versions[1])] == [
        "selected branch", "message added", "message added",
    ]  # fmt: skip
    assert await differs(versions[3], versions[3]) == []
    whole = await run_command(tmp_path, "diff", "--session", session_id, "--from", "0")
    assert "+one\n    +line" in whole.stdout
    grown = await differs(versions[1] - 1, versions[1])
    assert [one["what"] for one in grown] == ["reply status", "text"]
    assert grown[1]["lines"][-1] == "+line"
    assert log_digest(tmp_path) == before


async def test_what_is_not_there_or_makes_no_sense_is_refused(tmp_path: Path) -> None:
    await made_log(tmp_path, erased=False)
    refusals: list[tuple[int, str, tuple[str, ...]]] = [
        (1, "no session nowhere", ("replay", "--session", "nowhere")),
        (1, "none at that moment", ("replay", "--session", "fork", "--as-of", "1999-01-01")),
        (2, "--as-of must be a version", ("replay", "--session", "fork", "--as-of", "yesterday")),
        (2, "--session ID", ("replay",)),
        (2, "--session ID", ("replay", "--session", "fork", "--session", "origin")),
        (2, "--from must be", ("diff", "--session", "fork", "--from", "x")),
        (1, "no session nowhere", ("diff", "--session", "nowhere", "--from", "1")),
        (2, "--against is a URL", ("replay", "--against", "localhost:8000")),
        (2, "--limit", ("replay", "--against", "settings", "--limit", "0")),
        (2, "--limit", ("replay", "--against", "settings", "--limit", "3", "--session", "fork")),
        (2, "--concurrency", ("replay", "--against", "settings", "--concurrency", "1000")),
        (2, "--as-of", ("replay", "--against", "settings", "--as-of", "3")),
        (1, "no completed turn", ("replay", "--against", "settings")),
    ]
    for told, (code, word, arguments) in zip(
        await asyncio.gather(*(run_command(tmp_path, *arguments) for _, _, arguments in refusals)),
        refusals,
        strict=True,
    ):
        assert told.returncode == code, (arguments, told)
        assert word in told.stderr
