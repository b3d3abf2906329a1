"""A log with sessions of API keys is not opened to everybody because the keys are missing."""

from pathlib import Path

import pytest

from chatbot.config.sections.auth_settings import AuthSettings
from chatbot.sessions.owner_check import SAMPLED_EVENTS, OwnersWithoutKeys, check_owners
from events.catalogue import SessionAccessed, SessionCreated
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from projections.errors import ProjectionsUnavailable
from projections.sqlite.queries import SqliteQueries
from tests.support.command_processes import run_command_blocking
from tests.support.model.model_server import ModelServer
from tests.support.service import serving

KEYS = {"CHATBOT_API_KEYS": "mina:a-long-secret-of-hers"}
BEARER = {"Authorization": "Bearer a-long-secret-of-hers"}


async def owned_session(folder: Path, model: ModelServer) -> str:
    async with serving(folder, model.url, **KEYS) as service:
        created = await service.client.post("/api/sessions", headers=BEARER)
        return str(created.json()["session_id"])


@pytest.mark.parametrize("projections", ["kept", "deleted"])
async def test_without_its_keys_the_service_does_not_start_and_says_how(
    tmp_path: Path, model: ModelServer, projections: str
) -> None:
    session_id = await owned_session(tmp_path, model)
    if projections == "deleted":
        (tmp_path / "projections.db").unlink()
    with pytest.raises(OwnersWithoutKeys) as refused:
        async with serving(tmp_path, model.url):
            pass
    assert "auth.allow_anonymous" in str(refused.value)
    async with serving(tmp_path, model.url, CHATBOT_AUTH_ALLOW_ANONYMOUS="true") as service:
        assert (await service.client.get(f"/api/sessions/{session_id}")).status_code == 200
    async with serving(tmp_path, model.url, **KEYS) as service:
        assert (await service.client.get(f"/api/sessions/{session_id}")).status_code == 401


async def test_the_program_ends_with_the_exit_code_of_wrong_settings_and_one_sentence(
    tmp_path: Path, model: ModelServer
) -> None:
    await owned_session(tmp_path, model)
    refused = run_command_blocking(tmp_path, LLM_SERVER_URL=model.url, CHATBOT_LLM_PROVIDER="openai", PORT="0")
    assert refused.returncode == 2
    (error,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert "CHATBOT_AUTH_ALLOW_ANONYMOUS" in error
    assert "Traceback" not in refused.stderr


async def test_sessions_made_without_keys_need_none(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as service:
        session_id = await service.session()
    async with serving(tmp_path, model.url) as service:
        assert (await service.client.get(f"/api/sessions/{session_id}")).status_code == 200


class Rebuilding(SqliteQueries):
    """Projections that cannot tell yet."""

    def __init__(self) -> None:
        pass

    async def has_owners(self) -> bool:
        raise ProjectionsUnavailable("the projections are being rebuilt")


async def write(log: SqliteLog, owned: int | None, name: str = "s") -> None:
    """A log of 2,500 events, of which the stream with number `owned` (of 250) belongs to a key."""
    for stream in range(250):
        owner = "mina" if stream == owned else None
        events = [SessionCreated(owner, {}, 60), *(SessionAccessed() for _ in range(9))]
        await log.append(f"{name}{stream}", 0, events, Metadata())


@pytest.mark.parametrize("owner", [None, "mina"])
async def test_whose_a_session_is_its_first_event_says_not_who_wrote_to_it(tmp_path: Path, owner: str | None) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    try:
        await write(log, None)
        await log.append("old", 0, [SessionCreated(owner, {}, 60)], Metadata())
        await write(log, None, "later")
        await log.append("old", 1, [SessionAccessed()], Metadata(actor="mina"))
        if owner is None:
            await check_owners(log, Rebuilding(), AuthSettings(), has_keys=False)
        else:
            with pytest.raises(OwnersWithoutKeys):
                await check_owners(log, Rebuilding(), AuthSettings(), has_keys=False)
    finally:
        await log.close()


@pytest.mark.parametrize("owned", [0, 249])
async def test_while_projections_are_rebuilt_both_ends_of_the_log_tell(tmp_path: Path, owned: int) -> None:
    log = await SqliteLog.open(tmp_path / "log.db")
    try:
        await write(log, owned)
        with pytest.raises(OwnersWithoutKeys):
            await check_owners(log, Rebuilding(), AuthSettings(), has_keys=False)
        await check_owners(log, Rebuilding(), AuthSettings(allow_anonymous=True), has_keys=False)
        await check_owners(log, Rebuilding(), AuthSettings(), has_keys=True)
    finally:
        await log.close()


async def test_the_look_at_the_log_is_bounded_and_asked_again_once_the_projections_can_tell(
    tmp_path: Path, model: ModelServer
) -> None:
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    await write(log, 2 * SAMPLED_EVENTS // 10 - 75)
    await check_owners(log, Rebuilding(), AuthSettings(), has_keys=False)  # neither end tells
    await log.close()
    with pytest.raises(OwnersWithoutKeys):
        async with serving(tmp_path, model.url):
            pass
