"""A model's name that a client made up is a text: it goes with the session, and no figure keeps it."""

import argparse
from pathlib import Path

import pytest

from chatbot.cli.erasure.erasure_check import erased
from chatbot.config.loader import load
from events.catalogue import Event, MessagePosted, Parameters, ReplyCompleted, ReplyStarted, SessionCreated, Usage
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.fake_console import FakeConsole
from tests.support.http.service_requests import forget_projections, recorded
from tests.support.model.model_server import ModelServer
from tests.support.service import ROOT, Running, environment, started

PERSON = "Mina Kim, 12 Harbour Road"


async def models_used(service: Running) -> dict[str, int]:
    usage = (await service.client.get("/api/usage", params={"by": "model"})).json()["usage"]
    return {row["model"]: row["replies"] for row in usage}


async def found_on_disk(folder: Path) -> bool:
    settings = load({}, environment=environment(folder, "http://127.0.0.1:9"), folder=ROOT).settings
    return await erased(FakeConsole(settings), argparse.Namespace(texts=[PERSON], files=[])) == 1


async def test_a_name_that_nobody_offers_is_found_in_no_file_once_its_session_is_deleted(
    tmp_path: Path, model: ModelServer, capfd: pytest.CaptureFixture[str]
) -> None:
    model.status = 500  # a server that lists no models, and then repeats the name that it was asked for
    async with started(tmp_path, model.url) as service:
        session_id = await service.session()
        model.model = PERSON
        await service.chat(session_id, "hi", model=PERSON)
        model.script(pieces=("half",), then="error")
        await service.client.post("/api/chat", json={"session_id": session_id, "message": "hi", "model": PERSON})
        model.status, model.model = 200, "fake-model"
        await service.services.health.refresh()
        await service.chat(session_id, "hi", model="fake-model")
        await service.chat(session_id, "hi")
        assert await models_used(service) == {"fake-model": 2, "other": 1}
        shown = (await service.history(session_id))["messages"]
        assert [one["model"] for one in shown if one["role"] == "assistant"] == [
            PERSON,
            "other",
            "fake-model",
            "fake-model",
        ]
        assert PERSON not in (await service.client.get("/metrics")).text
        assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
        assert await models_used(service) == {"fake-model": 2, "other": 1}
    (usage,) = [data["usage"] for name, data in recorded(tmp_path) if name == "session_deleted"]
    assert sorted(one["model"] for one in usage) == ["fake-model", "other"]
    assert not await found_on_disk(tmp_path)
    captured = capfd.readouterr()
    assert PERSON not in captured.out + captured.err
    forget_projections(tmp_path)
    async with started(tmp_path, model.url) as service:
        assert await models_used(service) == {"fake-model": 2, "other": 1}


async def test_a_name_in_an_old_log_is_not_counted_and_goes_when_its_session_does(
    tmp_path: Path, model: ModelServer
) -> None:
    """An older version did not record whether a name was known."""
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    usage, session_id = Usage(1, 2, 3), "00000000-0000-4000-8000-000000000001"
    events: list[Event] = [SessionCreated(None, {}, 1_000_000_000)]
    for number, named in enumerate((PERSON, None)):
        asked, reply, parameters = f"m{number}", f"r{number}", Parameters(model=named)
        events += [
            MessagePosted(asked, None, "user", "hi", reply, parameters),
            ReplyStarted(reply, asked, "node", "openai", named or "small", parameters, (asked,)),
            ReplyCompleted(reply, "hello", "stop", named or "small", 1, usage),
        ]
    await log.append(session_id, 0, events, Metadata())
    await log.close()
    async with started(tmp_path, model.url) as service:
        assert await models_used(service) == {"small": 1, "other": 1}
        assert (await service.client.delete(f"/api/sessions/{session_id}")).status_code == 204
        assert await models_used(service) == {"small": 1, "other": 1}
    assert not await found_on_disk(tmp_path)
