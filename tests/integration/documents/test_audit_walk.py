"""The chapters for auditors and on data-subject requests, walked as printed, with only their commands."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from events.catalogue import MetadataChanged
from events.record import Metadata
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.documents import marked
from tests.support.log.event_builders import created, turns
from tests.support.programs.external_programs import requires_program
from tests.support.service import environment

WALK_TIMEOUT_S = 300  # fourteen commands one after the other
SESSIONS = [f"00000000-0000-4000-8000-00000000000{n}" for n in "abc"]


@requires_program("jq")
async def test_the_chapters_for_auditors_and_on_data_subject_requests_can_be_walked_as_printed(tmp_path: Path) -> None:
    log = await SqliteLog.open(tmp_path / "chatbot.db")
    for session_id, user in zip(SESSIONS, ("42", "42", "43"), strict=True):
        await log.append(session_id, 0, [created("mina", user_id=user), *turns(2)], Metadata(actor="mina"))
    await log.append(SESSIONS[1], 7, [MetadataChanged({"user_id": "gone"})], Metadata(actor="mina"))
    await log.close()
    settings = environment(tmp_path, "http://127.0.0.1:9")
    settings["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    chapters = "\n".join((marked("walk: an auditor"), marked("walk: a person's data")))
    script = f"cd {tmp_path}\n{chapters}"
    command = ("bash", "-euo", "pipefail", "-c", script)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env={**os.environ, **settings})
    async with asyncio.timeout(WALK_TIMEOUT_S):
        written = (await process.communicate())[0].decode()
    assert process.returncode == 0, written
    lines = written.splitlines()
    assert "it agrees with the checkpoint of 22 events" in written
    posted = [json.loads(line) for line in lines if line.startswith('{"position"')]
    assert [(one["session_id"], one["type"]) for one in posted] == [(SESSIONS[0], "message_posted")] * 2
    assert f"session {SESSIONS[0]}, versions 1 to 7" in written
    assert [line.split()[0] for line in lines if "events, version" in line] == [SESSIONS[0], SESSIONS[0], SESSIONS[1]]
    page, data = (tmp_path / "report.html").read_text(), (tmp_path / "data.html").read_text()
    assert (SESSIONS[0] in page, SESSIONS[1] in page) == (True, False)
    assert (SESSIONS[1] in data, SESSIONS[2] in data, "Customer support" in data) == (True, False, True)
    entries = [json.loads(line) for line in (tmp_path / "data.ndjson").read_text().splitlines()]
    assert [one["session_id"] for one in entries if one["type"] == "session"] == SESSIONS[:2]
    assert {json.loads(line)["session_id"] for line in lines if line.startswith('{"session_id"')} == set(SESSIONS[:2])
