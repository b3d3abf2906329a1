"""What settings change under /v1: keys, limits, pings, the field of reasoning."""

import asyncio
from pathlib import Path

import pytest

from tests.support.http.completion_requests import (
    chunks_of,
    complete,
    completion_body,
    error_of,
    joined,
    leave,
    status_of_reply,
)
from tests.support.model.model_server import ModelServer
from tests.support.programs.openai_clients import IMAGE
from tests.support.service import serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "correct-horse-battery"


async def test_a_missing_or_wrong_key_is_401(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS=f"phone:{SECRET}") as service:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            for answer in (await complete(service, headers=headers), await service.client.get("/v1/models")):
                error = error_of(answer, 401)
                assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
        answer = await complete(service, headers={"Authorization": f"Bearer {SECRET}"})
        assert answer.status_code == 200


async def test_the_limits_of_v1_are_its_own(tmp_path: Path, model: ModelServer) -> None:
    limits = {
        "CHATBOT_V1_BODY_MAX_BYTES": "3000000",
        "CHATBOT_V1_MESSAGES_MAX": "2",
        "CHATBOT_V1_MESSAGE_MAX_CHARS": "9",
    }
    async with serving(tmp_path, model.url, **limits) as service:
        assert (await complete(service, text="x" * 9, user="x" * 2_000_000)).status_code == 200
        error = error_of(await complete(service, user="x" * 3_000_000), 413)
        assert error["code"] == "request_too_large"
        error = error_of(await complete(service, text="x" * 10), 400)
        assert error["param"] == "messages[0].content"
        messages = [{"role": "user", "content": "x"}] * 3
        assert error_of(await complete(service, messages=messages), 400)["param"] == "messages"


async def test_pings_keep_a_stream_alive_until_the_model_answers(tmp_path: Path, model: ModelServer) -> None:
    model.script(first_delay_s=0.3)
    async with serving(tmp_path, model.url, CHATBOT_STREAM_SSE_PING_S="0.1") as pinging_service:
        answer = await complete(pinging_service, stream=True)
    assert ": ping\n\n" in answer.text
    assert joined(chunks_of(answer.text))["content"] == "You said: Hi there"


async def test_reasoning_is_in_the_field_that_the_setting_names(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_V1_REASONING_FIELD="reasoning") as service:
        model.script(times=2, deltas=({"reasoning_content": "hm"}, {"content": "Yes."}))
        (choice,) = (await complete(service)).json()["choices"]
        assert (choice["message"]["reasoning"], "reasoning_content" in choice["message"]) == ("hm", False)
        chunks = chunks_of((await complete(service, stream=True)).text)
        assert joined(chunks, "reasoning")["reasoning"] == "hm"


async def test_the_setting_always_cancels_conversations_too(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_V1_CANCEL_ON_DISCONNECT="always") as service:
        session_id = await service.session()
        await leave(service, model, headers={"X-Session-Id": session_id}, stream=True)
        assert await status_of_reply(service, session_id) == "cancelled"
        assert (await service.history(session_id))["messages"][-1]["content"] == "Hello "


async def test_the_setting_never_lets_every_reply_end(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_V1_CANCEL_ON_DISCONNECT="never") as service:
        await leave(service, model, stream=True)
        model.release()
        async with asyncio.timeout(20):
            while not model.requests[0].ended_at:
                await asyncio.sleep(0.01)
        assert model.aborted == []


async def test_paths_have_the_prefix_of_a_proxy(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_SERVER_PATH_PREFIX="/chat") as service:
        for path in ("/v1/chat/completions", "/chat/v1/chat/completions"):
            answer = await service.client.post(path, json=completion_body())
            assert answer.headers["content-location"].startswith("/chat/api/sessions/")
        assert error_of(await service.client.get("/chat/v1/nothing"), 404)["code"] == "unknown_url"


async def test_images_for_a_model_that_takes_none_are_refused_where_they_are(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url, CHATBOT_LLM_PROVIDER="midm") as service:
        image = {"type": "image_url", "image_url": {"url": IMAGE}}
        (known,) = (await service.client.get("/v1/models")).json()["data"]
        answer = await complete(service, model=known["id"], messages=[{"role": "user", "content": [image]}])
        error = error_of(answer, 400)
        assert (error["param"], error["code"]) == ("messages", "unsupported_parameter")
        assert "does not take images" in error["message"]
        body = {"session_id": await service.session(), "message": [{"type": "text", "text": "see"}, image]}
        refused = (await service.client.post("/api/chat", json=body)).json()
        assert (refused["type"], refused["errors"][0]["path"]) == ("/problems/unsupported", "$.message[1]")
        assert await service.services.log.media.files(limit=1) == [], "nothing of what is refused is kept"
