"""run.py erase --metadata on the files: letters in either form, values of earlier times, and nothing found."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from chatbot.cli.erasure import bulk_erase_client
from chatbot.cli.erasure.erase import erase
from chatbot.cli.erasure.erasure_check import erased
from chatbot.config.loader import load
from events.catalogue import MetadataChanged, SessionCreated
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.fake_console import FakeConsole
from tests.support.model.model_server import ModelServer
from tests.support.service import ROOT, environment, started

DECOMPOSED, COMPOSED = "Zoe\u0308", "Zo\u00eb"


def tray_of(folder: Path) -> FakeConsole:
    return FakeConsole(load({}, environment=environment(folder, "http://127.0.0.1:9"), folder=ROOT).settings)


async def run_erase(folder: Path, *entries: str, **said: Any) -> tuple[int, list[str], str]:
    """Exit code, erased or named sessions, and what people are told."""
    options = {"sessions": None, "owner": None, "metadata": list(entries), "expired_before": None, "ever": False}
    options |= {"url": None, "key": None, "dry_run": False}
    options |= {"reason_code": None, "ticket": None, "sign_with": None, **said}
    console = tray_of(folder)
    code = await erase(console, argparse.Namespace(**options))
    return code, [json.loads(line)["session_id"] for line in console.stdout_lines], "\n".join(console.stderr_lines)


async def log_of(folder: Path, sessions: dict[str, list[dict[str, Any]]]) -> None:
    """Each session has had these metadata, one after the other."""
    log = await SqliteLog.open(folder / "chatbot.db")
    for session_id, states in sessions.items():
        events = [SessionCreated(None, states[0], 3600), *(MetadataChanged(state) for state in states[1:])]
        await log.append(session_id, 0, events, Metadata())
    await log.close()


@pytest.mark.parametrize("asked", [DECOMPOSED, COMPOSED])
async def test_a_name_is_found_in_either_form_and_gone_in_both(tmp_path: Path, asked: str) -> None:
    await log_of(tmp_path, {"a": [{"name": DECOMPOSED}], "b": [{"name": COMPOSED}], "c": [{"name": "Zoe"}]})
    assert (await run_erase(tmp_path, f"name={asked}"))[:2] == (0, ["b", "a"])
    check = argparse.Namespace(texts=[asked], files=[])
    assert await erased(tray_of(tmp_path), check) == 0


@pytest.mark.parametrize("dry_run", [False, True])
async def test_a_misspelt_name_is_told_from_an_erasure(tmp_path: Path, *, dry_run: bool) -> None:
    await log_of(tmp_path, {"a": [{"name": "Mina"}]})
    code, found, said = await run_erase(tmp_path, "name=Nina", dry_run=dry_run)
    assert (code, found) == (0, [])
    assert "nothing matched" in said
    assert "--ever" in said
    assert "nothing matched" not in (await run_erase(tmp_path, "name=Mina", dry_run=dry_run))[2]


async def test_values_that_a_session_had_earlier_are_found_when_asked_for(tmp_path: Path) -> None:
    await log_of(
        tmp_path,
        {
            "now": [{"name": COMPOSED, "app": "web"}],
            "once": [{"name": DECOMPOSED, "app": "web"}, {"app": "web"}, {"name": "Jun"}],
            "apart": [{"name": COMPOSED}, {"app": "web"}],
            "never": [{"name": "Jun", "app": "web"}],
        },
    )
    entries = (f"name={COMPOSED}", "app=web")
    assert (await run_erase(tmp_path, *entries, dry_run=True))[:2] == (0, ["now"])
    assert (await run_erase(tmp_path, *entries, dry_run=True, ever=True))[:2] == (0, ["once", "now"])
    assert (await run_erase(tmp_path, *entries, ever=True))[:2] == (0, ["once", "now"])
    code, found, said = await run_erase(tmp_path, *entries, ever=True)
    assert (code, found) == (0, [])
    assert "nothing matched" in said
    assert (await run_erase(tmp_path, f"name={COMPOSED}", ever=True))[:2] == (0, ["apart"])


async def test_earlier_values_are_found_beside_a_running_service(tmp_path: Path, model: ModelServer) -> None:
    async with started(tmp_path, model.url) as service:
        session_id = await service.session(metadata={"name": "Mina"})
        await service.client.patch(f"/api/sessions/{session_id}", json={"metadata": {"name": "Jun"}})
        other = await service.session(metadata={"name": "Jun"})
        url = str(service.client.base_url).rstrip("/")
        assert (await run_erase(tmp_path, "name=Mina", url=url))[:2] == (0, [])
        assert (await run_erase(tmp_path, "name=Mina", url=url, ever=True, dry_run=True))[:2] == (0, [session_id])
        assert (await run_erase(tmp_path, "name=Mina", url=url, ever=True))[:2] == (0, [session_id])
        assert (await service.client.get(f"/api/sessions/{session_id}")).status_code == 404
        assert (await service.client.get(f"/api/sessions/{other}")).status_code == 200


async def test_a_session_that_comes_after_the_log_was_searched_goes_too(
    tmp_path: Path, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = bulk_erase_client._take_line
    async with started(tmp_path, model.url) as service:
        mine = [await service.session(metadata={"name": "Mina"}) for _ in range(2)]

        async def and_another(*line: Any) -> None:
            if len(mine) < 4:
                mine.append(await service.session(metadata={"name": "Mina"}))
            await take(*line)

        monkeypatch.setattr(bulk_erase_client, "_take_line", and_another)
        url = str(service.client.base_url).rstrip("/")
        code, gone, _ = await run_erase(tmp_path, "name=Mina", url=url, ever=True)
        assert (code, sorted(gone)) == (0, sorted(mine))
        assert (await service.client.get("/api/sessions")).json()["sessions"] == []
