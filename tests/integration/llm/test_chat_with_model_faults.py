"""Whatever the model server does, the reply ends, the partial text is kept and the conversation goes on."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.model.model_server import ModelServer
from tests.support.service import frames, serving

AUDITOR, OTHER = "auditor-secret-of-24-chars", "other-secret-of-24-characters"

FAULTS: list[tuple[str, dict[str, Any], int]] = [
    ("4xx", {"status": 400, "error": "bad prompt"}, 502),
    ("5xx", {"status": 500, "error": "boom"}, 502),
    ("malformed JSON", {"pieces": ("par", "tial"), "then": "malformed"}, 502),
    ("cut stream", {"pieces": ("par", "tial"), "then": "cut"}, 502),
    ("ends without a word", {"pieces": ("par", "tial"), "then": "end"}, 502),
    ("error in the stream", {"pieces": ("par", "tial"), "then": "error"}, 502),
    ("empty reply", {"pieces": ()}, 502),
]


@pytest.mark.parametrize(("script", "status"), [(s, n) for _, s, n in FAULTS], ids=[name for name, *_ in FAULTS])
@pytest.mark.parametrize("protocol", ["midm", "openai"])
async def test_a_fault_of_the_model_fails_the_reply_and_keeps_its_text(
    tmp_path: Path, model: ModelServer, protocol: str, script: dict[str, Any], status: int
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_LLM_PROVIDER=protocol) as service:
        model.script(times=3, **script)  # the first attempt and two more
        session_id = await service.session()
        partial = "".join(script.get("pieces", ()))
        body = {"session_id": session_id, "message": "hi"}
        if protocol == "midm":  # which is asked for the whole reply at once when the client asks so
            streamed = frames((await service.client.post("/api/chat/stream", json=body)).text)
            assert (streamed[-2]["type"], streamed[-2]["status"]) == ("error", "failed")
            assert "".join(frame["content"] for frame in streamed if frame["type"] == "chunk") == partial
        else:
            answer = await service.client.post("/api/chat", json=body)
            assert answer.status_code == status, answer.text
            assert answer.json()["partial"] == partial
        last = (await service.history(session_id))["messages"][-1]
        assert (last["status"], last["content"]) == ("failed", partial)
        while model.take_script() != model._always:
            pass
        assert (await service.chat(session_id, "again"))["content"] == "You said: again"


@pytest.mark.parametrize(
    ("chunk", "reason", "detail"),
    [
        ('{"delta":{},"finish_reason":"length"}', "length limit before its first character", "length"),
        ('{"delta":{},"finish_reason":"SAFETY"}', "filtered the whole reply", "SAFETY"),
        ('{"delta":{},"finish_reason":"network_error"}', "ended the reply with an error", "network_error"),
    ],
)
async def test_a_reply_without_text_says_why_and_keeps_its_usage(
    tmp_path: Path, model: ModelServer, chunk: str, reason: str, detail: str
) -> None:
    usage = '"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}'
    model.script(times=3, raw=f'data: {{"choices":[{chunk}],{usage}}}\n\ndata: [DONE]\n\n')
    async with serving(
        tmp_path, model.url, CHATBOT_LLM_PROVIDER="openai", CHATBOT_LLM_RETRY_BACKOFF_S="0.01"
    ) as service:
        session_id = await service.session()
        answer = await service.client.post("/api/chat", json={"session_id": session_id, "message": "hi"})
        assert answer.status_code == 502
        assert reason in answer.json()["detail"]
        last = (await service.history(session_id))["messages"][-1]
        assert (last["status"], last["finish_reason"], last["finish_detail"]) == ("failed", "error", detail)
        assert last["token_usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        used = (await service.client.get("/api/usage", params={"by": "model"})).json()
        assert [(one["model"], one["total_tokens"]) for one in used["usage"]] == [("fake-model", 12)]


@pytest.mark.parametrize(("word", "reason"), [("MAX_TOKENS", "length"), ("content_filter", "content_filter")])
async def test_how_a_reply_ended_is_the_same_in_every_answer(
    tmp_path: Path, model: ModelServer, word: str, reason: str
) -> None:
    model.script(times=2, pieces=("cut ", "off"), finish_reason=word)
    async with serving(tmp_path, model.url, CHATBOT_LLM_PROVIDER="openai") as service:
        session_id = await service.session()
        body = {"session_id": session_id, "message": "hi"}
        answer = (await service.client.post("/api/chat", json=body)).json()
        frame = frames((await service.client.post("/api/chat/stream", json=body)).text)[-2]
        messages = (await service.history(session_id))["messages"]
        detail = "" if word == reason else word
        for told in (answer, frame, messages[1], messages[3]):
            assert (told["finish_reason"], told["finish_detail"]) == (reason, detail)


async def test_a_refused_connection_answers_as_the_seed_does(tmp_path: Path) -> None:
    async with serving(tmp_path, "http://127.0.0.1:9", CHATBOT_LLM_PROVIDER="openai") as service:
        session_id = await service.session()
        answer = await service.client.post("/api/chat", json={"session_id": session_id, "message": "hi"})
        assert answer.status_code == 503
        assert answer.json()["detail"] == "LLM server not available"
        assert answer.headers["Retry-After"]
        health = (await service.client.get("/api/health")).json()
        assert (health["status"], health["llm_server_available"], health["database_connected"]) == (
            "degraded", False, True,
        )  # fmt: skip
        streamed = await service.client.post("/api/chat/stream", json={"session_id": session_id, "message": "hi"})
        start, error, done = frames(streamed.text)
        assert start["type"] == "start"
        assert (error["type"], error["status"], error["detail"]) == ("error", "failed", "LLM server not available")
        assert done == {"type": "done"}


@pytest.mark.parametrize(
    ("script", "partial"),
    [({"pieces": ("x",), "hold_after": 0}, ""), ({"pieces": ("text ", "x"), "hold_after": 1}, "text ")],
    ids=["before the first token", "between tokens"],
)
async def test_a_model_that_is_too_slow_answers_504(
    tmp_path: Path, model: ModelServer, script: dict[str, Any], partial: str
) -> None:
    limits = {"CHATBOT_LLM_FIRST_TOKEN_TIMEOUT_S": "1", "CHATBOT_LLM_BETWEEN_TOKENS_TIMEOUT_S": "1"}
    async with serving(tmp_path, model.url, CHATBOT_LLM_PROVIDER="openai", **limits) as service:
        model.script(**script)
        session_id = await service.session()
        answer = await service.client.post("/api/chat", json={"session_id": session_id, "message": "hi"})
        assert answer.status_code == 504
        assert answer.json()["partial"] == partial
        assert (await service.chat(session_id, "again"))["status"] == "complete"


async def test_more_replies_than_may_run_and_wait_are_refused_before_anything_is_recorded(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_LLM_CONCURRENT_MAX="1", CHATBOT_LLM_QUEUE_MAX="1") as service:
        model.script(times=None, pieces=("a", "b"), hold_after=1)
        ids = [await service.session() for _ in range(3)]
        first, second = (asyncio.create_task(service.chat(session_id, "hi")) for session_id in ids[:2])
        async with asyncio.timeout(5):
            while service.services.limiter.waiting < 1:
                await asyncio.sleep(0.01)
        before = service.services.log.head().position
        refused = await service.client.post("/api/chat", json={"session_id": ids[2], "message": "hi"})
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"  # no reply has ended yet
        service.services.limiter.mean_s = 30.0
        refused = await service.client.post("/api/chat", json={"session_id": ids[2], "message": "hi"})
        assert refused.headers["Retry-After"] == "60"  # two such replies come first
        assert service.services.log.head().position == before
        model.release()
        assert {(await first)["content"], (await second)["content"]} == {"ab"}


async def test_the_wait_that_the_model_server_asks_for_is_passed_on(tmp_path: Path, model: ModelServer) -> None:
    options = {"CHATBOT_LLM_PROVIDER": "openai", "CHATBOT_LLM_FIRST_TOKEN_TIMEOUT_S": "1"}
    async with serving(tmp_path, model.url, **options) as service:
        model.script(status=429, error="slow down", headers={"Retry-After": "90.5"})
        session_id = await service.session()
        answer = await service.client.post("/api/chat", json={"session_id": session_id, "message": "hi"})
        assert answer.status_code == 503
        assert 85 <= int(answer.headers["Retry-After"]) <= 91
        unknown = await service.client.get("/api/sessions/nonsense")
        assert "Retry-After" not in unknown.headers


@pytest.mark.parametrize("key", [None, AUDITOR, OTHER, "wrong"])
async def test_what_was_asked_and_why_it_failed_is_for_the_operator(tmp_path: Path, key: str | None) -> None:
    keys = {"CHATBOT_API_KEYS": f"auditor:{AUDITOR},other:{OTHER}", "CHATBOT_AUTH_AUDITORS": "auditor"}
    url = "http://me:hidden@127.0.0.1:9/v1?key=hidden"
    async with serving(tmp_path, url, CHATBOT_LLM_PROVIDER="openai", **keys) as service:
        await service.services.health.refresh()
        headers = {"Authorization": f"Bearer {key}"} if key else {"Authorization": ""}
        answer = await service.client.get("/api/health", headers=headers)
        assert answer.status_code == 200
        told = "LLM server not available: connection refused (asked http://127.0.0.1:9/v1/models)"
        assert answer.json()["detail"] == (told if key == AUDITOR else None)


async def test_without_keys_everybody_is_the_operator(tmp_path: Path) -> None:
    async with serving(tmp_path, "http://127.0.0.1:9", CHATBOT_LLM_PROVIDER="openai") as service:
        await service.services.health.refresh()
        assert "connection refused" in (await service.client.get("/api/health")).json()["detail"]


async def test_midms_first_version_is_answered_in_one_chunk(tmp_path: Path, model: ModelServer) -> None:
    model.streams = False
    model.protocols = ("midm",)
    async with serving(tmp_path, model.url, CHATBOT_LLM_PROVIDER="auto") as service:
        session_id = await service.session()
        streamed = await service.client.post("/api/chat/stream", json={"session_id": session_id, "message": "hi"})
        kinds = [frame["type"] for frame in frames(streamed.text)]
        assert kinds == ["start", "chunk", "complete", "done"]
        assert (await service.client.get("/api/health")).json()["provider"] == "midm"


@pytest.mark.parametrize("protocol", ["midm", "openai"])
async def test_the_protocol_of_the_server_is_found_out(tmp_path: Path, model: ModelServer, protocol: str) -> None:
    model.protocols = (protocol,)
    async with serving(tmp_path, model.url, CHATBOT_LLM_PROVIDER="auto") as service:
        answer = await service.chat(await service.session(), "hi")
        assert answer["token_usage"]["completion_tokens"] == 3  # midm tells it to those who do not stream
        assert (await service.client.get("/api/health")).json()["provider"] == protocol
