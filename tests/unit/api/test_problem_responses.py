"""One table says which status each error gets; what nobody foresaw tells a stranger nothing."""

import inspect
import json
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from chatbot.api.problems import Problem, RequestFault, internal_error, problem_of, render
from chatbot.llm import provider as llm
from chatbot.sessions.actor.supervisor import Supervisor
from chatbot.sessions.domain import rejections as sessions
from events import errors as log
from projections import errors as projections
from tests.support.service import Running

# Every error of these modules; 500: never meant for a client, and told as an internal error.
EXPECTED: dict[type[Exception], int] = {
    sessions.Rejection: 500,
    sessions.SessionNotFound: 404,
    sessions.SessionExpired: 404,
    sessions.SessionDeleted: 404,
    sessions.VersionMismatch: 412,
    sessions.VersionBehind: 412,
    sessions.UnknownMessage: 422,
    sessions.UnknownReply: 422,
    sessions.ParentUnanswered: 422,
    sessions.UnknownModel: 422,
    sessions.InvalidMessage: 422,
    sessions.Unsupported: 422,
    sessions.CallsUnanswered: 422,
    sessions.TooManyRounds: 422,
    sessions.CallsOpen: 409,
    sessions.CallsClosed: 409,
    sessions.NoOpenCalls: 409,
    sessions.NothingToRegenerate: 422,
    sessions.KeyReused: 422,
    sessions.KeyConsumed: 422,
    sessions.TooLarge: 422,
    sessions.TooManyAdded: 422,
    sessions.ContextTooLong: 422,
    sessions.NameConsumed: 409,
    sessions.MessageNotFound: 404,
    sessions.NotQueued: 409,
    sessions.SessionBusy: 409,
    sessions.TooManyPending: 429,
    sessions.Overloaded: 503,
    sessions.OverShare: 429,
    sessions.SessionHeld: 409,
    sessions.Draining: 503,
    sessions.ActorFailed: 500,
    log.LogError: 500,
    log.VersionConflict: 500,
    log.LogUnavailable: 503,
    log.LogBusy: 503,
    log.LogStopped: 503,
    log.LogUnusable: 500,
    log.LogInUse: 500,
    log.LogDamaged: 500,
    log.OutcomeUnknown: 503,
    log.MigrationRefused: 500,
    log.NodesOutdated: 503,
    log.UnknownEvent: 503,
    llm.LlmError: 502,
    llm.LlmFailed: 502,
    llm.LlmUnavailable: 503,
    llm.ModelUnusable: 503,
    llm.LlmTimeout: 504,
    llm.LlmOverloaded: 503,
    llm.LlmUnsupported: 422,
    projections.ProjectionError: 503,
    projections.ProjectionLag: 503,
    projections.ProjectionsStopped: 503,
    projections.ProjectionsUnavailable: 503,
    projections.ProjectionsInUse: 503,
    projections.ProjectionsUnusable: 503,
    projections.InvalidProjection: 503,
    projections.LogReplaced: 503,
    projections.InvalidRebuild: 503,
}
PRIVATE = "PRIVATE /home/someone/key"


def errors_of(module: ModuleType) -> list[type[Exception]]:
    own = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == module.__name__]
    return [one for one in own if issubclass(one, Exception)]


def made(error: type[Exception]) -> Exception:
    """An instance, whatever its constructor asks for."""
    if not inspect.isfunction(error.__init__):
        return error("a sentence")
    wanted = [
        parameter
        for parameter in inspect.signature(error).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return error(*(made_value(str(parameter.annotation)) for parameter in wanted))


def made_value(annotation: str) -> object:
    if "frozenset" in annotation:
        return frozenset({3})
    return 3 if "int" in annotation else "x"


def answer(problem: Problem) -> tuple[web.Response, dict[str, Any]]:
    response = render(problem, make_mocked_request("GET", "/api/sessions"))
    assert isinstance(response.body, bytes)
    return response, json.loads(response.body)


@pytest.mark.parametrize("module", [sessions, log, llm, projections], ids=lambda module: module.__name__)
def test_no_error_is_without_a_decision(module: ModuleType) -> None:
    assert [error for error in errors_of(module) if error not in EXPECTED] == []


@pytest.mark.parametrize("error", EXPECTED, ids=lambda error: f"{error.__module__}.{error.__name__}")
def test_each_error_has_its_status_and_says_why_in_a_sentence(error: type[Exception]) -> None:
    one = made(error)
    problem = problem_of(one)
    if EXPECTED[error] == 500:
        assert problem is None
        return
    assert problem is not None
    assert problem.status == EXPECTED[error]
    response, body = answer(problem)
    assert (response.status, response.content_type) == (problem.status, "application/problem+json")
    assert {"type", "title", "status", "detail", "instance"} <= set(body)
    assert body["status"] == problem.status
    assert body["type"] == f"/problems/{problem.kind}"
    assert body["instance"] == "/api/sessions"
    if isinstance(one, log.LogUnavailable | projections.ProjectionError):  # their words name files of the machine
        assert "try again" in body["detail"]
    else:
        assert body["detail"] == str(one)


@pytest.mark.parametrize("error", EXPECTED, ids=lambda error: f"{error.__module__}.{error.__name__}")
def test_an_answer_that_may_be_asked_for_again_says_when(error: type[Exception]) -> None:
    response, _ = answer(problem_of(made(error)) or internal_error())
    assert ("Retry-After" in response.headers) == (response.status in (429, 503))


def test_a_subclass_of_a_known_error_gets_the_status_of_what_it_is() -> None:
    class Odd(sessions.SessionExpired):
        """More special than the table."""

    problem = problem_of(Odd("x"))
    assert problem is not None
    assert (problem.status, problem.kind) == (404, "session-expired")


def test_a_fault_in_a_body_points_at_it() -> None:
    problem = problem_of(RequestFault("expected `float` <= 2.0", "$.temperature"))
    assert problem is not None
    assert answer(problem)[1]["errors"] == [{"path": "$.temperature", "detail": "expected `float` <= 2.0"}]
    whole = problem_of(RequestFault("not JSON", status=400))
    assert whole is not None
    assert "errors" not in answer(whole)[1]


@pytest.mark.parametrize("error", [RuntimeError(PRIVATE), KeyError(PRIVATE), OSError(2, PRIVATE), ValueError(PRIVATE)])
def test_what_nobody_foresaw_is_no_known_problem(error: Exception) -> None:
    assert problem_of(error) is None
    assert "PRIVATE" not in json.dumps(answer(internal_error())[1])


@pytest.mark.parametrize("error", [RuntimeError(PRIVATE), sessions.ActorFailed(PRIVATE)])
async def test_a_stranger_sees_nothing_private_of_a_fault_of_ours(
    service: Running, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error from ValueError(PRIVATE)

    monkeypatch.setattr(Supervisor, "ask", fail)
    with capture_logs() as lines:
        answered = await service.client.post("/api/sessions", headers={"X-Request-ID": "find-me"})
    assert answered.status_code == 500
    assert answered.json()["detail"].startswith("internal error")
    assert answered.headers["X-Request-ID"] == "find-me"
    whole = answered.text + str(answered.headers)
    for private in ("PRIVATE", "Traceback", type(error).__name__, ".py"):
        assert private not in whole
    assert [line["error"] for line in lines if line["event"] == "request.failed"] == [type(error).__name__]
