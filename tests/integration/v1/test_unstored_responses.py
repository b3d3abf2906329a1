"""A response that is not to be stored leaves nothing, though the service was killed while it was written."""

import asyncio
from pathlib import Path

import httpx
import pytest

from chatbot.api.openai_responses.response_creation import UNSTORED_S
from chatbot.runtime.clock import Reading, system_reading
from chatbot.sessions import erasure_job, expiry_timer
from tests.support.model.model_server import ModelServer
from tests.support.service import Program, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED, ANSWERED, NAMED = "a-question-of-mine", "an-answer-of-the-model ", "instructions-of-mine"
TEXTS = (ASKED, ANSWERED, NAMED)
BRISK = {"CHATBOT_STREAM_CHECKPOINT_INTERVAL_S": "0.05"}


def texts_on_disk(folder: Path) -> set[str]:
    """Those of our texts that a file of the service has somewhere."""
    found = b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return {text for text in TEXTS if text.strip().encode() in found}


async def test_a_response_that_is_not_stored_is_erased_after_a_kill(
    tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.script(pieces=(ANSWERED,), then="silence")
    body = {
        "model": "fake-model", "input": ASKED, "instructions": NAMED, "store": False, "stream": True,
        "metadata": {"topic": NAMED},
    }  # fmt: skip
    killed = await Program.start(tmp_path, model.url, **BRISK)
    async with (
        httpx.AsyncClient(base_url=killed.url, timeout=30) as client,
        client.stream("POST", "/v1/responses", json=body) as answer,
    ):
        assert answer.status_code == 200
        async with asyncio.timeout(10):
            while texts_on_disk(tmp_path) < set(TEXTS):
                await asyncio.sleep(0.02)
        session_id = answer.headers["x-session-id"]
        await killed.kill()
        with pytest.raises(httpx.TransportError):
            await answer.aread()
    passed_us = 0

    def read_clocks() -> Reading:
        reading = system_reading()
        return Reading(reading.wall_us + passed_us, reading.boot_us + passed_us)

    monkeypatch.setattr(expiry_timer, "system_reading", read_clocks)
    monkeypatch.setattr(expiry_timer, "SLEEP_MAX_S", 0.1)  # the timer looks at the clock that often
    monkeypatch.setattr(expiry_timer, "SLEEP_MIN_S", 0.1)
    monkeypatch.setattr(erasure_job, "POLL_S", 0.1)
    async with serving(tmp_path, model.url) as service:
        assert texts_on_disk(tmp_path)
        passed_us = UNSTORED_S * 1_000_000
        async with asyncio.timeout(10):
            while texts_on_disk(tmp_path):
                await asyncio.sleep(0.05)
        assert (await service.client.get(f"/v1/conversations/{session_id}")).status_code == 404
        assert (await service.client.get(f"/api/sessions/{session_id}/messages")).status_code == 404
    assert not texts_on_disk(tmp_path)
