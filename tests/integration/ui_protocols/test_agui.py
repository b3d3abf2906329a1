"""AG-UI's own client (npm's @ag-ui/client) and validator (PyPI's ag-ui-validate), unmodified, against the service."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.model.model_server import ModelServer
from tests.support.programs.client_tools import FOLDER, run_tool
from tests.support.programs.openai_clients import ClientRun, address_of, needs_openai_clients, run_client
from tests.support.service import started

pytestmark = [pytest.mark.real_part, pytest.mark.timeout(240), needs_openai_clients]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ClientRun:
    return asyncio.run(run_client(tmp_path_factory.mktemp("agent"), "agui_agent.mjs", folder_of_scripts="ui"))


def said(*texts: str) -> list[dict[str, Any]]:
    """Messages of the user and the assistant in turn."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def test_a_thread_is_one_session_that_all_other_calls_show(run: ClientRun) -> None:
    shown = run.results["plain"]
    texts = ["Good morning!", "You said: Good morning!", "And good night!", "You said: And good night!"]
    assert shown["messages"] == said(*texts)
    (session,) = [one for one in run.sessions if one["messages"][0]["content"] == texts[0] and len(one["messages"]) > 2]
    assert [message["content"] for message in session["messages"]] == texts
    assert session["messages"][1]["message_id"] == shown["reply"]
    assert not [message for message in session["messages"] if message.get("imported")], "all of it was written here"


def test_a_run_has_its_id_outcome_and_tokens(run: ClientRun) -> None:
    shown = run.results["plain"]
    assert (shown["types"][0], shown["types"][-1]) == ("RUN_STARTED", "RUN_FINISHED")
    assert (shown["run"], shown["outcome"]) == ("run-1", {"type": "success"})
    assert shown["tokens"] == {"model": "fake-model", "inputTokens": 2, "outputTokens": 4, "totalTokens": 6}


def test_reasoning_is_a_message_of_its_own(run: ClientRun) -> None:
    shown = run.results["reasoning"]["messages"]
    assert shown == [
        {"role": "user", "content": "What is 6 times 7?"},
        {"role": "reasoning", "content": "Six sevens."},
        {"role": "assistant", "content": "It is 42."},
    ]


def test_tools_of_the_client_are_called_and_the_history_is_the_same(run: ClientRun) -> None:
    shown = run.results["tools"]
    question, calls, *results, answer = shown["messages"]
    assert question["content"] == "Compare Seoul and Busan."
    assert calls["calls"] == [["weather", {"city": "Seoul"}], ["weather", {"city": "Busan"}]]
    assert [result["content"] for result in results] == ["Seoul 21 °C", "Busan 21 °C"]
    assert answer["content"] == "There it is Seoul 21 °C and Busan 21 °C."
    assert shown["history"] == shown["messages"]


def test_the_model_is_told_the_context_first(run: ClientRun) -> None:
    (asked,) = run.asked("Who am I?")
    assert asked.body["messages"][0] == {"role": "system", "content": "The user's name: Mina\n\nBe short."}


def test_an_image_of_the_history_can_be_sent_back(run: ClientRun) -> None:
    shown = run.results["image"]
    assert shown == {"roles": ["user", "assistant", "user", "assistant"], "last": "You said: Thank you."}
    (session,) = [one for one in run.sessions if "picture" in one["messages"][0]["content"]]
    assert len(session["messages"]) == 4


def test_the_same_run_again_is_the_same_reply(run: ClientRun) -> None:
    assert run.results["repeated"] == {"same": True}


def test_a_cancelled_run_says_so_and_a_failed_one_is_an_error(run: ClientRun) -> None:
    cancelled = run.results["cancelled"]
    assert (cancelled["outcome"], cancelled["stop"]) == ({"type": "cancelled"}, 202)
    assert cancelled["messages"] == said("Never end.", "Once upon ")
    assert run.results["broken_off"] == {"errors": ["llm_failed"], "messages": said("Break off.", "Half a ")}


def test_a_thread_that_does_not_exist_yet_has_an_empty_history(run: ClientRun) -> None:
    types = ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    assert run.results["unknown_thread"] == {"types": types, "messages": []}


async def test_the_protocols_validator_finds_nothing(tmp_path: Path) -> None:
    async with ModelServer() as model, started(tmp_path, model.url) as service:
        command = (FOLDER / "clients" / "bin" / "ag-ui-validate", "--json", "--fail-on", "warning")
        report = json.loads(await run_tool(tmp_path, *command, f"{address_of(service)}/api/agui"))
    assert report["summary"]["errors"] == report["summary"]["warnings"] == 0, report
