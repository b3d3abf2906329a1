"""The whole service with its log in PostgreSQL."""

from pathlib import Path

import pytest

from events.integrity.chain_verifier import verify
from tests.support.command_processes import run_command
from tests.support.model.model_server import ModelServer
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import serving

pytestmark = pytest.mark.real_part


async def test_a_conversation_is_there_after_a_restart_and_gone_after_its_deletion(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the projections are a file of the current folder
    url = await postgres.schema()
    async with serving(tmp_path, model.url, DATABASE_URL=url) as running:
        session = await running.session()
        said = await running.chat(session, "안녕하세요")
        before = await running.history(session)
        assert said["content"] in str(before)
    async with serving(tmp_path, model.url, DATABASE_URL=url) as running:
        assert (await running.history(session))["messages"] == before["messages"]
        assert (await running.client.delete(f"/api/sessions/{session}")).status_code in (200, 204)
        rows = await running.services.log.rows(limit=100)
        assert {row.data for row in rows if row.type in ("message_posted", "reply_completed")} == {None}
        assert (await verify(running.services.log))[1] is None
    told = await run_command(tmp_path, "verify", DATABASE_URL=url)
    assert (told.returncode, "the log holds" in told.stdout) == (0, True)
