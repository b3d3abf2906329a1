"""run.py erase and erased, as an operator uses them: offline on the files, and through a running service."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from events.catalogue import SessionDeleted
from events.storage.sqlite.sqlite_log import SqliteLog
from events.storage.sqlite.sqlite_schema import APPLICATION_ID
from tests.support.command_processes import run_command, run_command_blocking
from tests.support.model.model_server import ModelServer
from tests.support.service import ROOT, Program, Running, environment, program, serving

KEYS = "mina:a-long-secret-of-hers,jun:another-long-secret"
MINA, JUN = "a-long-secret-of-hers", "another-long-secret"


@asynccontextmanager
async def asking(running: Program | Running, secret: str = "") -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=30) as client:
        yield client


async def told(client: httpx.AsyncClient, text: str, **body: Any) -> str:
    """A session in which `text` was said."""
    session_id = str((await client.post("/api/sessions", json=body)).json()["session_id"])
    assert (await client.post("/api/chat", json={"session_id": session_id, "message": text})).status_code == 200
    return session_id


async def erase(folder: Path, *arguments: str, **settings: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, receipts, and what people are told."""
    done = await run_command(folder, *arguments, **settings)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


async def verified(folder: Path) -> bool:
    return (await run_command(folder, "verify")).returncode == 0


async def reasons(folder: Path) -> list[tuple[str, str, str | None]]:
    """Session, reason and cause of each session_deleted."""
    log = await SqliteLog.open(folder / "chatbot.db", read_only=True)
    recorded = await log.read_all(limit=10_000)
    await log.close()
    return [
        (one.stream_id, one.event.reason, one.metadata.cause)
        for one in recorded
        if isinstance(one.event, SessionDeleted)
    ]


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_an_owners_sessions_go_with_receipts_and_all_else_stays(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS=KEYS) as running:
        async with asking(running, MINA) as client:
            mine = [await told(client, f"SECRET-{number}") for number in range(3)]
        async with asking(running, JUN) as client:
            his = await told(client, "KEPT")
    code, listed, said = await erase(tmp_path, "erase", "--owner", "mina", "--dry-run")
    assert code == 0
    assert [one["session_id"] for one in listed] == mine[::-1]
    assert all((one["messages"], one["status"]) == (2, "active") for one in listed)
    assert "3 sessions with 6 messages would be erased" in said
    assert b"SECRET-1" in bytes_on_disk(tmp_path)

    code, receipts, said = await erase(tmp_path, "erase", "--owner", "mina")
    assert code == 0
    assert [one["session_id"] for one in receipts] == mine[::-1]
    assert "erased: 3 sessions, 12 events" in said
    assert b"SECRET" not in bytes_on_disk(tmp_path)
    assert b"KEPT" in bytes_on_disk(tmp_path)
    assert await verified(tmp_path)
    assert await reasons(tmp_path) == [(one, "erasure: owner", "erasure") for one in mine[::-1]]
    log = await SqliteLog.open(tmp_path / "chatbot.db", read_only=True)
    for receipt in receipts:
        (row,) = await log.rows(after=receipt["position"] - 1, limit=1)
        assert (row.stream_id, row.type, row.digest.hex()) == (
            receipt["session_id"],
            "session_deleted",
            receipt["digest"],
        )
        assert (receipt["events_erased"], receipt["reason"]) == (row.version - 1, "erasure: owner")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", receipt["at"])
    await log.close()

    assert (await erase(tmp_path, "erase", "--owner", "mina"))[:2] == (0, [])
    async with serving(tmp_path, model.url, CHATBOT_API_KEYS=KEYS) as running:
        async with asking(running, JUN) as client:
            messages = (await client.get(f"/api/sessions/{his}/messages")).json()["messages"]
            usage = (await client.get("/api/usage")).json()["usage"]
        async with asking(running, MINA) as client:
            assert (await client.get(f"/api/sessions/{mine[0]}")).json()["type"] == "/problems/session-deleted"
            assert (await client.get("/api/sessions")).json()["sessions"] == []
            usage += (await client.get("/api/usage")).json()["usage"]
    assert [one["content"] for one in messages] == ["KEPT", "You said: KEPT"]
    assert sum(row["replies"] for row in usage) == 4, "usage outlives erasure"


async def test_metadata_names_a_person_in_active_and_expired_sessions(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as running, asking(running) as client:
        person = {"user_id": "예 42", "app": "web"}
        first = await told(client, "SECRET-1", metadata=person, timeout_hours=3 / 3600)
        second = await told(client, "SECRET-2", metadata={**person, "app": "phone"})
        await told(client, "KEPT-1", metadata={"user_id": "43", "app": "web"})
        await asyncio.sleep(3.6)
    code, receipts, _ = await erase(tmp_path, "erase", "--metadata", "user_id=예 42", "app=web")
    assert (code, [one["session_id"] for one in receipts]) == (0, [first])
    code, receipts, _ = await erase(tmp_path, "erase", "--metadata", "user_id=예 42")
    assert (code, [one["session_id"] for one in receipts]) == (0, [second])
    assert b"SECRET" not in bytes_on_disk(tmp_path)
    assert b"KEPT-1" in bytes_on_disk(tmp_path)
    assert {reason for _, reason, _ in await reasons(tmp_path)} == {"erasure: metadata"}
    assert "예".encode() not in bytes_on_disk(tmp_path)
    assert await verified(tmp_path)


async def test_a_fork_that_stays_keeps_its_history_and_one_that_goes_is_not_filled_first(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url) as running, asking(running) as client:
        origin = await told(client, "SHARED words", metadata={"user_id": "mina"})
        forks = [(await client.post(f"/api/sessions/{origin}/fork", json={})).json()["session_id"] for _ in range(2)]
        changed = await client.patch(f"/api/sessions/{forks[1]}", json={"metadata": {"user_id": "jun"}})
        assert changed.status_code == 200
    code, receipts, _ = await erase(tmp_path, "erase", "--metadata", "user_id=mina")
    assert (code, [one["session_id"] for one in receipts]) == (0, [forks[0], origin])
    log = await SqliteLog.open(tmp_path / "chatbot.db", read_only=True)
    copied = [one.stream_id for one in await log.read_all(limit=1000) if one.type == "message_copied"]
    await log.close()
    assert copied == [forks[1]] * 2
    assert await verified(tmp_path)
    async with serving(tmp_path, model.url) as running, asking(running) as client:
        messages = (await client.get(f"/api/sessions/{forks[1]}/messages")).json()["messages"]
    assert [one["content"] for one in messages] == ["SHARED words", "You said: SHARED words"]


async def test_named_sessions_go_and_an_unknown_id_is_told(tmp_path: Path, model: ModelServer) -> None:
    async with serving(tmp_path, model.url) as running, asking(running) as client:
        session_id = await told(client, "SECRET")
    unknown = "00000000-0000-4000-8000-000000000000"
    code, receipts, said = await erase(tmp_path, "erase", "--session", session_id.upper(), unknown)
    assert (code, [one["session_id"] for one in receipts]) == (1, [session_id])
    assert f"there is no session {unknown}" in said
    assert await reasons(tmp_path) == [(session_id, "erasure: session", "erasure")]
    assert (await erase(tmp_path, "erase", "--session", session_id))[:2] == (0, [])


async def test_what_expired_before_a_date_goes_recorded_as_expired_or_not(tmp_path: Path, model: ModelServer) -> None:
    async with program(tmp_path, model.url) as running, asking(running) as client:
        old = await told(client, "SECRET-old", timeout_hours=3 / 3600)
        await told(client, "KEPT", timeout_hours=24)
        async with asyncio.timeout(10):
            while (await client.get(f"/api/sessions/{old}")).status_code == 200:
                await asyncio.sleep(0.3)
        late = await told(client, "SECRET-late", timeout_hours=3 / 3600)
        await running.kill()  # before the timer notes it
    await asyncio.sleep(3.1)
    assert (await erase(tmp_path, "erase", "--expired-before", "2020-01-01"))[:2] == (0, [])
    code, receipts, _ = await erase(tmp_path, "erase", "--expired-before", "2999-01-01")
    assert (code, [one["session_id"] for one in receipts]) == (0, [late, old])
    assert b"SECRET" not in bytes_on_disk(tmp_path)
    assert b"KEPT" in bytes_on_disk(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--metadata", "user_id"], "NAME=VALUE"),
        (["--metadata", "a=1", "a=2"], "two values"),
        (["--owner", ""], "name of an API key"),
        (["--expired-before", "yesterday"], "no day"),
        (["--expired-before", "2026-01-31T10:00:00"], "zone"),
        (["--owner", "mina", "--key", "x"], "--url"),
        (["--owner", "mina", "--url", "http://127.0.0.1:9"], "CHATBOT_API_KEYS"),
        (["--owner", "mina", "--url", "127.0.0.1:9"], "such as http://127.0.0.1:8080"),
        (["--metadata", "a=1", "--url", "http://127.0.0.1:9", "--key", "-"], "standard input has no line"),
        ([], "required"),
        (["--owner", "mina", "--session", "x"], "not allowed"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(tmp_path: Path, arguments: list[str], says: str) -> None:
    refused = run_command_blocking(tmp_path, "erase", *arguments)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for arguments in (["erase", "--owner", "mina"], ["erased", "--check", "x"]):
        refused = run_command_blocking(tmp_path, *arguments)
        assert refused.returncode == 3
        assert "does not exist" in refused.stderr
    assert not list(tmp_path.iterdir())


async def test_beside_a_running_service_it_names_two_ways_and_the_second_works(
    tmp_path: Path, model: ModelServer
) -> None:
    async with program(tmp_path, model.url, CHATBOT_API_KEYS=KEYS) as running:
        async with asking(running, MINA) as client:
            mine = [await told(client, f"SECRET-{number}", metadata={"n": number}) for number in range(2)]
        async with asking(running, JUN) as client:
            his = await told(client, "KEPT", metadata={"n": 0})
        code, receipts, said = await erase(tmp_path, "erase", "--owner", "mina")
        assert (code, receipts) == (3, [])
        assert "stop it" in said
        assert "--url" in said
        assert "DATABASE_URL" not in said, "another database has not what is to be erased"
        by_http = ("--url", running.url, "--key", MINA)
        assert (await erase(tmp_path, "erase", "--metadata", "n=0", "--dry-run", *by_http))[1][0]["messages"] == 2
        code, receipts, _ = await erase(tmp_path, "erase", "--metadata", "n=0", *by_http)
        assert (code, [one["session_id"] for one in receipts]) == (0, [mine[0]])
        code, receipts, _ = await erase(tmp_path, "erase", "--owner", "mina", *by_http, CHATBOT_API_KEYS=KEYS)
        assert (code, [one["session_id"] for one in receipts]) == (0, [mine[1]])
        assert (await erase(tmp_path, "erase", "--owner", "mina", *by_http, CHATBOT_API_KEYS=KEYS))[:2] == (0, [])
        code, _, said = await erase(tmp_path, "erase", "--session", his, *by_http)
        assert (code, "not this key's" in said) == (1, True)
        wrong = await erase(tmp_path, "erase", "--owner", "jun", *by_http, CHATBOT_API_KEYS=KEYS)
        assert (wrong[0], "not the key of jun" in wrong[2]) == (2, True)
        refused = await erase(tmp_path, "erase", "--metadata", "n=0", "--url", running.url)
        assert (refused[0], "refuses" in refused[2]) == (1, True)
        async with asking(running, JUN) as client:
            assert (await client.get(f"/api/sessions/{his}")).status_code == 200
    assert {reason for _, reason, _ in await reasons(tmp_path)} == {"request"}


async def test_a_service_without_keys_is_never_asked_for_one_owners_sessions(
    tmp_path: Path, model: ModelServer
) -> None:
    """It would list everybody's."""
    async with program(tmp_path, model.url) as running, asking(running) as client:
        session_id = await told(client, "KEPT")
        owner = ("--owner", "mina", "--key", MINA)
        code, receipts, said = await erase(tmp_path, "erase", *owner, "--url", running.url, CHATBOT_API_KEYS=KEYS)
        assert (code, receipts, "asks for no keys" in said) == (1, [], True)
        assert (await client.get(f"/api/sessions/{session_id}")).status_code == 200


async def test_ctrl_c_leaves_no_erasure_without_its_receipt_and_the_next_run_goes_on(
    tmp_path: Path, model: ModelServer
) -> None:
    async with serving(tmp_path, model.url) as service:
        everyone = {await service.session(metadata={"user_id": "x"}) for _ in range(150)}
    command = [sys.executable, str(ROOT / "run.py"), "erase", "--metadata", "user_id=x"]
    env = {"PATH": "/usr/bin:/bin", **environment(tmp_path, "http://127.0.0.1:9")}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as stopped:
        assert stopped.stdout is not None
        first = await asyncio.to_thread(stopped.stdout.readline)
        stopped.send_signal(signal.SIGINT)
        rest, said = await asyncio.to_thread(stopped.communicate)
    assert stopped.returncode == 130, said
    told_of = [json.loads(line)["session_id"] for line in (first + rest).splitlines()]
    assert [session_id for session_id, *_ in await reasons(tmp_path)] == told_of
    assert len(told_of) < 150
    code, receipts, _ = await erase(tmp_path, "erase", "--metadata", "user_id=x")
    assert code == 0
    assert {*told_of, *(one["session_id"] for one in receipts)} == everyone
    assert len(told_of) + len(receipts) == 150
    assert await verified(tmp_path)


async def test_erased_finds_a_text_where_it_is_and_nowhere_once_it_is_erased(tmp_path: Path, service: Running) -> None:
    text = 'She said "바다\\산"\nand left'
    session_id = await service.session(title="plain title")
    await service.chat(session_id, text)
    version = (await service.client.get(f"/api/sessions/{session_id}")).json()["version"]
    code, finds, said = await erase(tmp_path, "erased", "--check", text, "--check", "nobody wrote this")
    assert code == 1
    assert {one["check"] for one in finds} == {1}
    places = {one["position"] for one in finds if "position" in one}
    assert places == {2, version}, "the message, and the reply that repeats it"
    assert any(one["file"].endswith("chatbot.db-wal") and "offset" in one for one in finds)
    assert "바다" not in said
    assert (await erase(tmp_path, "erased", "--check", "plain title"))[0] == 1
    await service.client.delete(f"/api/sessions/{session_id}")
    code, finds, said = await erase(tmp_path, "erased", "--check", text, "--check", "plain title")
    assert (code, finds) == (0, [])
    assert "found nowhere" in said


async def test_erased_finds_a_text_in_a_backup_in_the_same_folder(tmp_path: Path, service: Running) -> None:
    session_id = await service.session(title="plain title")
    for name in ("old-backup.db", "elsewhere/another.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        assert (await erase(tmp_path, "backup", str(tmp_path / name)))[0] == 0
    (tmp_path / "notes.txt").write_text("plain title")
    await service.client.delete(f"/api/sessions/{session_id}")
    code, finds, said = await erase(tmp_path, "erased", "--check", "plain title")
    assert (code, {one["file"] for one in finds}) == (1, {str(tmp_path / "old-backup.db")})
    (tmp_path / "old-backup.db").unlink()
    code, finds, said = await erase(tmp_path, "erased", "--check", "plain title")
    assert (code, finds, "another.db" in said) == (0, [], False)


def test_erased_reads_texts_from_standard_input(tmp_path: Path) -> None:
    mark = APPLICATION_ID.to_bytes(4, "big")  # a log by its mark, and damaged beyond reading
    (tmp_path / "chatbot.db").write_bytes(bytes(68) + mark + b"and a secret in it")
    command = [sys.executable, str(ROOT / "run.py"), "erased", "--check", "-"]
    env = {"PATH": "/usr/bin:/bin", **environment(tmp_path, "http://127.0.0.1:9")}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, input="other\nsecret\n", capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"check": 2, "file": str(tmp_path / "chatbot.db"), "offset": 78}
    assert "not looked at one by one" in done.stderr
