"""replay --against: recorded turns asked again, and the answers compared with the record."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_processes import log_digest, run_command, running_command
from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import needs_model
from tests.support.service import serving

NO_BAND = ("--repeats", "0")


@pytest.fixture
async def sessions(tmp_path: Path, model: ModelServer) -> list[str]:
    """Two sessions with three turns that completed, one that failed, and the requests of all of them."""
    async with serving(tmp_path, model.url) as service:
        ids = [await service.session(system_prompt="Be kind."), await service.session()]
        await service.chat(ids[0], "one", seed=7, temperature=0.25)
        await service.chat(ids[1], "a b c d")
        model.script(pieces=("half",), then="error")
        await service.client.post("/api/chat", json={"session_id": ids[0], "message": "fails"})
        await service.chat(ids[0], "two", max_new_tokens=9)
    return ids


def turns(lines: list[Any]) -> list[Any]:
    return [line for line in lines if "summary" not in line]


async def test_the_same_model_answers_the_same_to_the_same_requests(
    tmp_path: Path, model: ModelServer, sessions: list[str]
) -> None:
    before, asked = log_digest(tmp_path), [model.requests[n].body for n in (0, 1, 3)]
    model.requests.clear()
    model.protocols = ("openai",)
    told = await run_command(tmp_path, "replay", "--against", model.url, "--json", *NO_BAND)
    assert told.returncode == 0, told.stderr
    assert told.lines[-1] == {"summary": {"turns": 3, "identical": 3, "failed": 0, "mean_similarity": 1.0, "below": 0}}
    again = [request.body for request in model.requests]
    assert sorted(map(str, again)) == sorted(map(str, asked))
    for one in turns(told.lines):
        assert one["recorded"]["content"] == one["now"]["content"]
        assert one["recorded"]["usage"] == one["now"]["usage"]
        assert one["now"]["duration_us"] > 0
        assert one["session_id"] in sessions
    assert log_digest(tmp_path) == before


async def test_another_answer_is_shown_side_by_side_and_is_no_failure_unless_asked_for(
    tmp_path: Path, model: ModelServer, sessions: list[str]
) -> None:
    model.model = "newer-model"
    model.protocols = ("openai",)
    model.script(times=None, pieces=("You ", "said: ", "one"), finish_reason="length")
    one = ("replay", "--against", model.url, "--session", sessions[1], *NO_BAND)
    told = await run_command(tmp_path, *one)
    assert told.returncode == 0
    for part in (
        "another text, similarity 0.",
        "fake-model",
        "newer-model",
        "length",
        "-You said: a b c d",
        "+You said",
    ):
        assert part in told.stdout
    assert told.stdout.splitlines()[-1].startswith("1 turns: 0 identical, 0 failed, mean similarity 0.")
    assert (await run_command(tmp_path, *one, "--fail-below", "0.3")).returncode == 0
    strict = await run_command(tmp_path, *one, "--fail-below", "0.9")
    assert (strict.returncode, "1 less alike than 0.9" in strict.stdout) == (1, True)
    named = await run_command(tmp_path, *one, "--model", "third", "--json")
    assert named.lines[0]["now"]["model"] == "third"


async def test_midm_is_found_by_asking_and_tells_its_tokens(
    tmp_path: Path, model: ModelServer, sessions: list[str]
) -> None:
    told = await run_command(tmp_path, "replay", "--against", model.url, "--limit", "1", "--json", *NO_BAND)
    (one,) = turns(told.lines)
    assert (one["identical"], one["now"]["model"], one["now"]["usage"]["completion_tokens"]) == (True, "midm", 3)
    assert model.requests[-1].path == "/chat"
    assert one["recorded"]["content"] == "You said: two"


async def test_the_settings_key_and_model_go_to_the_settings_server_only(
    tmp_path: Path, model: ModelServer, sessions: list[str]
) -> None:
    model.requests.clear()
    secret = {"CHATBOT_LLM_API_KEY": "sk-secret", "CHATBOT_LLM_MODEL": "ours"}
    for against in (model.url, "settings"):
        one = ("replay", "--against", against, "--limit", "1", *NO_BAND)
        assert (await run_command(tmp_path, *one, model_url=model.url, **secret)).returncode == 0
    elsewhere, ours = model.requests
    assert ("authorization" in elsewhere.headers, "sk-secret" in str(elsewhere)) == (False, False)
    assert (ours.headers["authorization"], ours.body["model"]) == ("Bearer sk-secret", "ours")


async def test_a_turn_that_cannot_be_asked_is_told_and_the_others_are_asked(
    tmp_path: Path, model: ModelServer, sessions: list[str]
) -> None:
    model.script(status=403, error="no such parameter")
    told = await run_command(
        tmp_path, "replay", "--against", "settings", "--concurrency", "1", *NO_BAND, model_url=model.url
    )
    assert told.returncode == 1
    assert told.stdout.count("FAILED") == 1
    assert "no such parameter" in told.stdout
    assert told.stdout.splitlines()[-1] == "3 turns: 2 identical, 1 failed, mean similarity 1.00"


async def test_no_more_turns_are_asked_at_a_time_than_is_said(
    tmp_path: Path, model: ModelServer, sessions: list[str]
) -> None:
    model.requests.clear()
    model.script(times=None, first_delay_s=0.2)
    told = await run_command(
        tmp_path, "replay", "--against", "settings", "--concurrency", "2", *NO_BAND, model_url=model.url
    )
    assert told.returncode == 0
    one, two, three = sorted(model.requests, key=lambda request: request.received_at)
    assert one.ended_at is not None
    assert two.received_at < one.ended_at
    assert three.received_at > one.ended_at


async def test_ctrl_c_ends_with_what_is_known_so_far(tmp_path: Path, model: ModelServer, sessions: list[str]) -> None:
    model.requests.clear()
    model.script()
    model.script(times=None, hold_after=0)
    command = ("replay", "--against", "settings", "--concurrency", "1", *NO_BAND)
    async with running_command(tmp_path, *command, model_url=model.url) as process:
        await model.wait_requests(2, timeout_s=20)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            out, err = await process.communicate()
    assert process.returncode == 130, err
    assert out.decode().splitlines()[-1] == "1 turns: 1 identical, 0 failed, mean similarity 1.00"
    assert b"Traceback" not in err
    await model.wait_aborted()


@needs_model
async def test_the_embedded_model_can_be_asked(tmp_path: Path, model: ModelServer, sessions: list[str]) -> None:
    told = await run_command(tmp_path, "replay", "--against", "embedded", "--session", sessions[0], "--json", *NO_BAND)
    assert told.returncode == 0, told.stderr
    assert {one["now"]["model"] for one in turns(told.lines)} == {"SmolLM2-135M-Instruct"}


async def test_only_turns_outside_the_noise_of_the_recorded_model_are_shown(
    tmp_path: Path, model: ModelServer, sessions: list[str]
) -> None:
    """The recorded model answers one turn in varying words; the new model answers another turn in other words."""
    for pieces in (("You said: one",), ("You said: uno",), ("You said: two",), ("You said: three",)):
        model.script(pieces=pieces)
    async with ModelServer() as newer:
        newer.script(pieces=("You said: uno",))
        newer.script(pieces=("Something quite different",))
        html = tmp_path / "regression.html"
        command = ("replay", "--against", newer.url, "--session", sessions[0], "--repeats", "2", "--concurrency", "1")
        told = await run_command(tmp_path, *command, "--json", "--html", str(html), model_url=model.url)
    assert told.returncode == 0, told.stderr
    (outside,) = turns(told.lines)
    assert (outside["now"]["content"], outside["noise"], outside["outside"]) == (
        "Something quite different", [1.0, pytest.approx(0.75)], True,
    )  # fmt: skip
    band = told.lines[-1]["summary"]["band"]
    assert (band["turns"], band["outside"], band["expected"]) == (2, 1, pytest.approx(0.67))
    assert band["chance"] == pytest.approx(1 - (2 / 3) ** 2)
    assert "2 turns: 6 calls to models, 4 of them to the model of the settings" in told.stderr
    page = html.read_text()
    assert "Something quite different" in page
    assert "uno" not in page, "inside the band"


async def test_calls_beyond_the_limit_and_an_unreachable_recorded_model_are_refused(
    tmp_path: Path, model: ModelServer, sessions: list[str]
) -> None:
    model.requests.clear()
    command = ("replay", "--against", model.url)
    told = await run_command(tmp_path, *command, "--calls-max", "11", model_url=model.url)
    assert (told.returncode, "3 turns: 12 calls" in told.stderr, model.requests) == (2, True, [])
    told = await run_command(tmp_path, *command)
    assert (told.returncode, "--baseline" in told.stderr) == (1, True)
