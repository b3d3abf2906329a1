"""Unmodified clients of OpenAI's API: what they get from the service, what the model is sent, and what is recorded."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clients.expectations import BUSY, CLIENTS, ERRORS, EXPECTED, Client
from tests.support.model.model_server import Request
from tests.support.programs.openai_clients import IMAGE, ClientRun, needs_openai_clients, run_client

pytestmark = [pytest.mark.real_part, pytest.mark.timeout(240), needs_openai_clients]
AT_ONCE = 3  # clients that run at the same time: more only wait for processors

PYTHON = [client for client in CLIENTS if client.script == "openai_python.txt"]

Runs = dict[str, ClientRun | BaseException]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All clients, each with a service and a model server of its own."""
    return asyncio.run(run_all(tmp_path_factory))


async def run_all(folders: pytest.TempPathFactory) -> Runs:
    limit = asyncio.Semaphore(AT_ONCE)

    async def run(one: Client, folder: Path) -> ClientRun:
        async with limit:
            return await run_client(folder, one.script, one.environment)

    ran = (run(one, folders.mktemp("client")) for one in CLIENTS)
    ended = await asyncio.gather(*ran, return_exceptions=True)
    return dict(zip((one.name for one in CLIENTS), ended, strict=True))


def name_of(client: Client) -> str:
    return client.name


@pytest.fixture(params=CLIENTS, ids=name_of)
def client(request: pytest.FixtureRequest) -> Client:
    found: Client = request.param
    return found


@pytest.fixture
def run(runs: Runs, client: Client) -> ClientRun:
    ended = runs[client.name]
    if isinstance(ended, BaseException):
        raise ended
    return ended


CASES = [
    pytest.param(client, case, id=f"{client.name}-{case}")
    for client in CLIENTS
    for case in EXPECTED
    if case not in client.lacks
]


@pytest.mark.parametrize(("client", "case"), CASES, indirect=["client"])
def test_a_client_gets_what_its_program_expects(run: ClientRun, client: Client, case: str) -> None:
    assert_includes(run.results[case], client.expected(case))


def assert_includes(shown: dict[str, Any], expected: dict[str, Any]) -> None:
    """Clients that show less leave members out; those that they show are as expected."""
    common = {name: value for name, value in shown.items() if name in expected}
    assert common == {name: expected[name] for name in common}, shown
    assert common, shown


def test_errors_have_the_kind_and_the_words_that_a_client_reads(run: ClientRun, client: Client) -> None:
    expected = ERRORS | client.differs.get("errors", {})
    for fault, (_, *shown) in run.results["errors"].items():
        assert shown == expected[fault], fault
    if "gives_up" in run.results:
        _, *shown = run.results["gives_up"]["error"]
        assert shown == BUSY


def test_a_client_repeats_what_failed_for_a_while_by_itself(run: ClientRun) -> None:
    assert len(run.asked("Be busy once. Please.")) == 2
    assert len(run.asked("Be down once. Please.")) == 2
    assert len(run.asked("Be busy once. Now.")) <= 1, "a client that was told not to repeat does not"


def test_a_reply_that_breaks_off_is_an_error_for_the_client(run: ClientRun) -> None:
    assert run.results["broken_off"]["error"]
    assert len(run.asked("Break off.")) == 1, "text was sent: neither the service nor the client may begin again"


def test_the_model_gets_what_the_client_sent(run: ClientRun) -> None:
    (plain,) = [each.body for each in run.asked("Good morning!") if "seed" in each.body]
    assert (plain["temperature"], plain["max_tokens"], plain["seed"]) == (0.5, 50, 7)
    (last,) = run.asked("Who am I?")
    roles = [(each["role"], each["content"]) for each in last.body["messages"]]
    assert roles[0] == ("system", "Be short.")
    assert roles[1] == ("user", "My name is Mina.")
    assert [role for role, _ in roles] == ["system", "user", "assistant", "user"]
    (picture,) = [each.body["messages"] for each in run.requests if is_about_picture(each)]
    assert [part["image_url"]["url"] for part in picture[-1]["content"] if part["type"] == "image_url"] == [IMAGE]
    (product,) = run.asked("What is 6 times 7, as JSON?")
    assert product.body["response_format"]["type"] == "json_schema"


def is_about_picture(request: Request) -> bool:
    return "What is in this picture?" in json.dumps(request.body["messages"])


def test_results_of_tools_reach_the_model_with_their_calls(run: ClientRun) -> None:
    asked, told = [each.body for each in run.requests if "Compare Seoul" in json.dumps(each.body["messages"])]
    assert asked["tools"][0]["function"]["name"] == "weather"
    assert told["tools"] == asked["tools"]
    question, calls, *results = told["messages"]
    assert question["role"] == "user"
    assert [call["function"]["name"] for call in calls["tool_calls"]] == ["weather", "weather"]
    assert [result["role"] for result in results] == ["tool", "tool"]
    assert [call["id"] for call in calls["tool_calls"]] == [result["tool_call_id"] for result in results]


def test_a_named_conversation_is_one_session(run: ClientRun) -> None:
    texts = ["You said: One.", "You said: Two.", "You said: Two."]
    result = run.results["conversation"]
    assert result["texts"] == texts[: len(result["texts"])]
    (session,) = [one for one in run.conversations() if "You said: One." in said(one)]
    assert said(session) == ["One.", "You said: One.", "Two.", "You said: Two."]
    assert not [each for each in session["messages"] if each.get("imported")], "all of it was written here"
    last = session["messages"][-1]
    assert len(last["siblings"]) == len(result["texts"]) - 1, "the same question again is another reply to it"
    if "sessions" in result:
        assert set(result["sessions"]) == {session["session_id"]}


@pytest.mark.parametrize("client", PYTHON, indirect=True, ids=name_of)
def test_a_reply_in_a_conversation_goes_on_without_its_client(run: ClientRun) -> None:
    (session,) = [one for one in run.conversations() if "Go on without me." in said(one)]
    assert run.results["left_conversation"]["feed"].startswith(f"/api/sessions/{session['session_id']}/stream?after=")
    assert (said(session)[-1], session["messages"][-1]["status"]) == ("I do go on.", "complete")


@pytest.mark.parametrize("client", PYTHON, indirect=True, ids=name_of)
def test_a_client_that_repeats_in_a_conversation_asks_once(run: ClientRun) -> None:
    question = "Be busy once. In a conversation."
    (session,) = [one for one in run.conversations() if question in said(one)]
    assert said(session) == [question, f"You said: {question}"]
    assert len(session["messages"][-1]["siblings"]) == 2, "the reply that failed, and the one to the repetition"


@pytest.mark.parametrize("client", PYTHON, indirect=True, ids=name_of)
def test_a_client_is_told_not_to_repeat_with_a_key_what_has_failed(run: ClientRun) -> None:
    _, *shown = run.results["retried_with_key"]["error"]
    assert shown == BUSY
    assert len(run.asked("Be busy once. With a key.")) == 1


def said(session: dict[str, Any]) -> list[str]:
    return [each["content"] for each in session["messages"]]


@pytest.mark.parametrize("client", [one for one in CLIENTS if "repeated" not in one.lacks], indirect=True, ids=name_of)
def test_a_repeated_request_with_its_key_is_answered_from_the_record(run: ClientRun) -> None:
    result = run.results["repeated"]
    assert all(result["same"])
    assert len(run.asked("Only once.")) == len(result["same"])


def test_requests_without_a_conversation_are_recorded_and_in_no_list(run: ClientRun) -> None:
    hidden = [one for one in run.sessions if one["kind"] == "stateless"]
    assert len(hidden) > 10
    listed = [text for one in run.conversations() for text in said(one)]
    assert "Good morning!" not in listed
    assert "Good morning!" in [text for one in hidden for text in said(one)]


def test_the_reply_of_a_client_that_leaves_is_cancelled(run: ClientRun) -> None:
    (request,) = run.asked("Never end.")
    assert request.aborted_at is not None
    (session,) = [one for one in run.sessions if "Never end." in said(one)]
    assert session["messages"][-1]["status"] == "cancelled"
    assert session["messages"][-1]["content"].startswith(run.results["abandoned"]["text"])
