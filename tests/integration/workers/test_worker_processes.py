"""`python run.py --workers 2` as an operator meets it: real processes, killed, replaced and stopped."""

import asyncio
import json
import os
import re
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from events.storage.sqlite.sqlite_schema import FORMAT
from tests.support.command_processes import is_alive, run_command
from tests.support.http.feed_reader import following
from tests.support.log.log_files import foreign
from tests.support.model.model_server import ModelServer
from tests.support.programs.postgres_server import PostgresServer
from tests.support.service import frames, program
from tests.support.worker_processes import TWO, WAIT_TIMEOUT_S, create, metrics, pids, two_workers, until


async def test_both_workers_serve_the_one_port(tmp_path: Path, model: ModelServer) -> None:
    async with two_workers(tmp_path, model) as started:
        seen: set[str] = set()
        async with asyncio.timeout(WAIT_TIMEOUT_S):
            while len(seen) < 2:
                texts = await asyncio.gather(*(metrics(started.url) for _ in range(8)))
                seen |= set(re.findall(r'chatbot_build_info\{.*worker="(\d)"', "".join(texts)))
        assert seen == {"1", "2"}
        assert len(started.log("server.ready")) == 1
        assert {line["url"] for line in started.log("server.listening")} == {started.url}
        assert await started.stop() == 0
    assert not any(is_alive(pid) for pid in pids(started))
    assert (tmp_path / "projections.db").exists()
    assert not (tmp_path / "projections-2.db").exists()
    assert not (tmp_path / "chatbot.db-wal").exists()


async def test_a_killed_worker_is_replaced_and_requests_go_on(tmp_path: Path, model: ModelServer) -> None:
    async with two_workers(tmp_path, model) as started:
        async with httpx.AsyncClient(base_url=started.url) as client:
            session_id = await create(client)
            await client.post("/api/chat", json={"session_id": session_id, "message": "kept"})
        os.kill(pids(started)[0], signal.SIGKILL)
        for _ in range(5):
            async with httpx.AsyncClient(base_url=started.url) as client:
                assert (await client.get("/livez")).status_code == 200
        await until(lambda: len(pids(started)) == 3)
        (died,) = started.log("worker.ended")
        assert (died["worker"], died["code"], died["again_in_s"]) == (1, -signal.SIGKILL, 0)
        for _ in range(5):
            async with httpx.AsyncClient(base_url=started.url) as client:
                history = (await client.get(f"/api/sessions/{session_id}/messages")).json()
                assert [one["content"] for one in history["messages"]] == ["kept", "You said: kept"]
        async with asyncio.timeout(WAIT_TIMEOUT_S):  # the master tells it to the workers
            while "chatbot_worker_restarts_total 1.0" not in await metrics(started.url):
                await asyncio.sleep(0.05)


async def test_a_second_server_is_refused(tmp_path: Path, model: ModelServer) -> None:
    async with two_workers(tmp_path, model) as started:
        for arguments in ((), TWO):
            second = await run_command(tmp_path, *arguments)
            assert second.returncode == 3
            assert f"is in use by process {started.process.pid}" in second.stderr


async def test_workers_of_a_killed_master_end_and_until_then_keep_the_database(
    tmp_path: Path, model: ModelServer
) -> None:
    model.script(hold_after=1)
    async with (
        two_workers(tmp_path, model, CHATBOT_SERVER_DRAIN_GRACE_S="60") as started,
        httpx.AsyncClient(base_url=started.url, timeout=60) as client,
    ):
        session_id = await create(client)
        asked = asyncio.create_task(client.post("/api/chat", json={"session_id": session_id, "message": "one two"}))
        await model.wait_requests()
        started.process.kill()
        await until(lambda: not is_alive(started.process.pid))
        assert (await run_command(tmp_path)).returncode == 3
        model.release()
        assert (await asked).json()["content"] == "You said: one two"
        await until(lambda: not any(is_alive(pid) for pid in pids(started)))
    async with program(tmp_path, model.url) as alone, httpx.AsyncClient(base_url=alone.url) as client:
        history = (await client.get(f"/api/sessions/{session_id}/messages")).json()
        assert [one["content"] for one in history["messages"]] == ["one two", "You said: one two"]


async def test_a_second_signal_ends_all_at_once(tmp_path: Path, model: ModelServer) -> None:
    model.script(hold_after=1)
    async with two_workers(tmp_path, model) as started, httpx.AsyncClient(base_url=started.url) as client:
        session_id = await create(client)
        asked = asyncio.create_task(client.post("/api/chat", json={"session_id": session_id, "message": "one two"}))
        await model.wait_requests()
        started.process.send_signal(signal.SIGINT)
        await until(lambda: started.log("drain.replies"))
        assert all(is_alive(pid) for pid in pids(started)[:1]) or is_alive(pids(started)[1])
        started.process.send_signal(signal.SIGTERM)
        assert await started.ended(timeout_s=5) == 130
        await until(lambda: not any(is_alive(pid) for pid in pids(started)))
        with pytest.raises(httpx.TransportError):
            await asked


async def test_a_reload_under_load_cuts_no_stream_and_refuses_no_request(tmp_path: Path, model: ModelServer) -> None:
    pieces = tuple(f"w{number} " for number in range(30))
    model.script(times=None, pieces=pieces, delay_s=0.05, hold_after=15)
    whole, done = "".join(pieces), False

    async def stream(client: httpx.AsyncClient) -> str:
        """A reply, read as it grows, that ends after a worker has begun to leave."""
        session_id = await create(client)
        body = {"session_id": session_id, "message": "go"}
        async with client.stream("POST", "/api/chat/stream", json=body) as answer:
            return "".join([piece async for piece in answer.aiter_text()])

    async def ask(client: httpx.AsyncClient) -> int:
        """Requests without a pause, over a connection that is kept."""
        answered = 0
        while not done:
            answer = await client.post("/api/sessions")
            assert answer.status_code == 201, answer.text
            answered += 1
        return answered

    limits = httpx.Limits(max_keepalive_connections=1)
    async with two_workers(tmp_path, model) as started, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=started.url, limits=limits, timeout=20))
            for _ in range(20)
        ]
        streams = [asyncio.create_task(stream(client)) for client in clients[:16]]
        asking = [asyncio.create_task(ask(client)) for client in clients[16:]]
        await model.wait_requests(16, timeout_s=30)
        started.process.send_signal(signal.SIGHUP)
        await until(lambda: started.log("retire.replies"))
        model.release()
        await until(lambda: started.log("roll.done"))
        done = True
        for text in await asyncio.gather(*streams):
            seen = frames(text)
            assert "".join(frame["content"] for frame in seen if frame["type"] == "chunk") == whole
            assert [frame["type"] for frame in seen[-2:]] == ["complete", "done"]
        assert min(await asyncio.gather(*asking)) > 10
        assert len(pids(started)) == 4
        assert not started.log("worker.killed")
        assert not started.log("drain.interrupt_failed")
        # Both had streams at the time, or this has shown nothing.
        assert all(line["running"] for line in started.log("retire.replies")[:1])


async def test_a_feed_is_sent_away_at_a_reload_and_resumes_exactly_elsewhere(
    tmp_path: Path, model: ModelServer
) -> None:
    async with two_workers(tmp_path, model) as started:
        async with httpx.AsyncClient(base_url=started.url, timeout=WAIT_TIMEOUT_S) as client:
            session_id = await create(client)
            await client.post("/api/chat", json={"session_id": session_id, "message": "first"})
            async with following(client, session_id) as feed:
                before = [await feed.next()]
                started.process.send_signal(signal.SIGHUP)
                before += await feed.until("draining")
                assert await feed.next() == {"type": "end"}
        await until(lambda: started.log("roll.done"))
        async with httpx.AsyncClient(base_url=started.url, timeout=WAIT_TIMEOUT_S) as client:
            await client.post("/api/chat", json={"session_id": session_id, "message": "second"})
            async with following(client, session_id, before[-1]["cursor"]) as feed:
                after = await feed.until("complete")
        assert [frame["type"] for frame in after] == ["message", "start", "chunk", "complete"]
        assert after[2]["content"] == "You said: second"


async def test_a_reload_with_a_wrong_setting_keeps_the_workers_that_serve(tmp_path: Path, model: ModelServer) -> None:
    async with two_workers(tmp_path, model) as started:
        (tmp_path / "config.toml").write_text('[sessions]\nlive_max = "many"\n')
        started.process.send_signal(signal.SIGHUP)
        await until(lambda: started.log("roll.stopped"))
        assert "sessions.active_max" in "".join(started.output)
        assert all(is_alive(pid) for pid in pids(started))
        async with httpx.AsyncClient(base_url=started.url) as client:
            await create(client)
        writer = int(started.log("writer.ready")[-1]["pid"])
        os.kill(writer, signal.SIGHUP)  # only the master reloads
        (tmp_path / "config.toml").write_text('[database]\nprojections_path = "others.db"\n')
        started.process.send_signal(signal.SIGHUP)
        await until(lambda: len(started.log("writer.not_replaced")) == 2)
        assert "others.db" in started.log("writer.not_replaced")[-1]["reason"]
        assert not (tmp_path / "others.db").exists()
        (tmp_path / "config.toml").unlink()
        foreign(tmp_path / "chatbot.db", "PRAGMA user_version=4242").close()
        started.process.send_signal(signal.SIGHUP)
        await until(lambda: len(started.log("writer.not_replaced")) == 3)
        assert "newer version" in started.log("writer.not_replaced")[-1]["reason"]
        foreign(tmp_path / "chatbot.db", f"PRAGMA user_version={FORMAT}").close()
        async with httpx.AsyncClient(base_url=started.url) as client:
            await create(client)
        assert is_alive(writer)
        assert not started.log("writer.ended")
        started.process.send_signal(signal.SIGHUP)
        await until(lambda: started.log("roll.done"))
        assert await started.stop() == 0


@pytest.mark.real_part
async def test_a_reload_onto_another_postgresql_database_keeps_the_workers_that_serve(
    tmp_path: Path, model: ModelServer, postgres: PostgresServer
) -> None:
    def use(url: str) -> None:
        (tmp_path / "config.toml").write_text(f"[database]\nurl = {json.dumps(url)}\n")

    first, second = await postgres.schema(), await postgres.schema()
    use(first)
    async with two_workers(tmp_path, model, DATABASE_URL="") as started:  # empty: the file's is in force
        await until(lambda: len(pids(started)) == 2)
        serving = pids(started)
        use(second)
        started.process.send_signal(signal.SIGHUP)
        await until(lambda: started.log("roll.stopped"))
        assert "a reload cannot change it" in "".join(started.output)
        async with httpx.AsyncClient(base_url=started.url) as client:
            await create(client)
        assert pids(started) == serving
        assert all(is_alive(pid) for pid in serving)
        use(f"{first}&application_name=reloaded")
        started.process.send_signal(signal.SIGHUP)
        await until(lambda: started.log("roll.done"))
        assert await started.stop() == 0


async def test_what_is_wrong_is_told_once_with_its_exit_code(tmp_path: Path, model: ModelServer) -> None:
    refused = await run_command(tmp_path, "--workers", "0")
    assert (refused.returncode, "server.workers" in refused.stderr) == (2, True)
    refused = await run_command(tmp_path, "--reload", *TWO)
    assert (refused.returncode, "leave out --workers" in refused.stderr) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = await run_command(tmp_path, *TWO, "--port", str(taken.getsockname()[1]))
    assert (refused.returncode, "cannot listen on 127.0.0.1" in refused.stderr) == (4, True)
    foreign(tmp_path / "projections.db", "CREATE TABLE of_another_program (x)").close()
    refused = await run_command(tmp_path, *TWO)
    assert (refused.returncode, refused.stderr.count("error: ")) == (3, 1)
