"""The AI SDK's own chat (npm's ai, unmodified) against the service, and what of its chats the rest of the API shows."""

import asyncio
from typing import Any

import pytest

from tests.support.programs.openai_clients import IMAGE, ClientRun, needs_openai_clients, run_client

pytestmark = [pytest.mark.real_part, pytest.mark.timeout(240), needs_openai_clients]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ClientRun:
    return asyncio.run(run_client(tmp_path_factory.mktemp("chat"), "ai_chat.mjs", folder_of_scripts="ui"))


def said(*texts: str) -> list[Any]:
    """Messages of one text each, of the user and the assistant in turn."""
    return [[("user", "assistant")[number % 2], [["text", text]]] for number, text in enumerate(texts)]


def recorded(run: ClientRun, session_id: str) -> list[str]:
    (session,) = [one for one in run.sessions if one["session_id"] == session_id]
    assert not [message for message in session["messages"] if message.get("imported")], "all of it was written here"
    return [message["content"] for message in session["messages"]]


def test_a_chat_is_one_session_that_all_other_calls_show(run: ClientRun) -> None:
    shown = run.results["plain"]
    texts = ["Good morning!", "You said: Good morning!", "And good night!", "You said: And good night!"]
    assert (shown["texts"], shown["errors"]) == (said(*texts), [])
    assert recorded(run, shown["session"]) == texts
    (session,) = [one for one in run.sessions if one["session_id"] == shown["session"]]
    assert session["messages"][-1]["message_id"] == shown["reply"]


def test_reasoning_and_refusals_are_shown(run: ClientRun) -> None:
    _, reply = run.results["reasoning"]["texts"]
    assert reply == ["assistant", [["reasoning", "Six sevens."], ["text", "It is 42."]]]
    _, reply = run.results["refusal"]["texts"]
    assert reply == ["assistant", [["text", "I will not."]]]


def test_tools_of_the_page_are_called_and_their_results_continue_the_message(run: ClientRun) -> None:
    shown = run.results["tools"]
    assert shown["calls"] == [["weather", {"city": "Seoul"}], ["weather", {"city": "Busan"}]]
    question, reply, *thanks = shown["texts"]
    steps = [["weather", "output-available", {"city": city}, f"{city} 21 °C"] for city in ("Seoul", "Busan")]
    assert (question[0], reply[1][:2]) == ("user", steps)
    assert reply[1][2:] == [["text", "There it is Seoul 21 °C and Busan 21 °C."]]
    assert (thanks, shown["errors"]) == (said("Thank you.", "You said: Thank you."), [])
    (asked,) = run.asked("Compare Seoul and Busan.")
    assert [tool["function"]["name"] for tool in asked.body["tools"]] == ["weather"]


def test_regenerating_makes_a_sibling_and_editing_a_branch(run: ClientRun) -> None:
    again, edited = run.results["regenerate"], run.results["edit"]
    assert (again["texts"], again["other"]) == (said("Good morning!", "You said: Good morning!"), True)
    (session,) = [one for one in run.sessions if one["session_id"] == again["session"]]
    assert len(session["messages"][-1]["siblings"]) == 2
    assert edited["texts"] == said("My name is Jisu.", "You said: My name is Jisu.")
    (session,) = [one for one in run.sessions if one["session_id"] == edited["session"]]
    assert len(session["messages"][0]["siblings"]) == 2


def test_an_image_is_kept_once_and_sent_back_by_its_url(run: ClientRun) -> None:
    shown = run.results["image"]
    first, *others = shown["texts"]
    assert first == ["user", [["file", "image/png"], ["text", "What is in this picture?"]]]
    expected = [["assistant", [["text", "A dot."]]], *said("Thank you.", "You said: Thank you.")]
    assert (others, shown["errors"]) == (expected, [])
    assert len(recorded(run, shown["session"])) == 4
    last = run.asked("Thank you.")[-1]
    urls = [part["image_url"]["url"] for part in last.body["messages"][0]["content"] if part["type"] == "image_url"]
    assert urls == [IMAGE]


def test_a_page_that_comes_back_shows_the_whole_reply_once(run: ClientRun) -> None:
    resumed = run.results["resume"]
    assert resumed["texts"] == resumed["recorded"] == said("Go on without me.", "I do go on.")
    assert resumed["ids"]


def test_a_page_that_comes_back_to_a_reply_after_tools_shows_all_of_its_steps(run: ClientRun) -> None:
    resumed = run.results["resume_tools"]
    call = ["weather", "output-available", {"city": "Seoul"}, "Go on without me."]
    reply = ["assistant", [["text", "Let me look."], call, ["text", "I do go on."]]]
    assert resumed["texts"][1:] == resumed["recorded"][1:] == [reply]
    assert resumed["ids"] == [True, True]


def test_without_a_running_reply_there_is_nothing_to_resume(run: ClientRun) -> None:
    assert run.results["nothing_to_resume"] == {"statuses": [204, 204], "errors": [], "count": 0, "status": 404}


def test_a_cancelled_reply_ends_as_aborted_and_a_broken_one_as_an_error(run: ClientRun) -> None:
    cancelled = run.results["cancelled"]
    assert cancelled["texts"][1] == ["assistant", [["text", "Once upon "]]]
    assert (cancelled["errors"], cancelled["status"], cancelled["stop"]) == ([], "ready", 202)
    broken = run.results["broken_off"]
    assert broken["texts"][1] == ["assistant", [["text", "Half a "]]]
    assert (broken["errors"], broken["status"]) == (1, "error")


def test_a_message_that_says_nothing_is_refused_with_its_path(run: ClientRun) -> None:
    fault = {"path": "$.messages[0]", "detail": "must not be empty or blank"}
    assert run.results["refused"] == {"errors": [[fault]], "status": "error"}
