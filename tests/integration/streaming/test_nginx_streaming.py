"""Behind a real nginx that buffers, compresses and cuts, every frame arrives when it is sent, and none is lost."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.http.stream_reader import StreamReader, reading, text_of
from tests.support.model.model_server import ModelServer
from tests.support.programs.external_programs import requires_program
from tests.support.programs.nginx import READ_TIMEOUT_S, Nginx, nginx
from tests.support.service import ROOT, Running, serving

pytestmark = [pytest.mark.real_part, requires_program("nginx")]

PIECES = ("안", "녕하", "세요 ", "👩‍👩‍👧‍👦 ", "line\n\nbreak ", "\u2028", "data: x", "!")
TEXT = "".join(PIECES)
HTTP_1_1 = 'proxy_http_version 1.1; proxy_set_header Connection "";'
VERSIONS = [pytest.param("", id="http-1.0"), pytest.param(HTTP_1_1, id="http-1.1")]


@pytest.fixture(params=VERSIONS)
async def proxy(request: pytest.FixtureRequest, tmp_path: Path, service: Running) -> AsyncIterator[Nginx]:
    """nginx before the service; it asks in HTTP 1.0, as by default, and in 1.1."""
    async with nginx(tmp_path / "nginx", str(service.client.base_url), request.param) as started:
        yield started


@pytest.fixture
async def browser(proxy: Nginx) -> AsyncIterator[httpx.AsyncClient]:
    """A client that asks nginx."""
    async with httpx.AsyncClient(base_url=proxy.url, timeout=30) as client:
        yield client


def asking(session_id: str, message: str = "hi") -> dict[str, Any]:
    return {"session_id": session_id, "message": message}


async def check_one_by_one(reader: StreamReader, model: ModelServer) -> None:
    """The model says the next piece only when the one before has been read."""
    for number in range(len(PIECES)):
        model.step()
        await reader.text("".join(PIECES[: number + 1]))
    assert (await reader.until("complete"))["full_response"] == TEXT


async def test_nginx_would_compress_whatever_it_passes_on(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/api/health", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"


async def test_each_frame_of_a_streamed_reply_passes_nginx_before_the_next_is_written(
    browser: httpx.AsyncClient, service: Running, model: ModelServer
) -> None:
    model.script(pieces=PIECES, stepwise=True)
    body = asking(await service.session())
    async with reading(browser, "/api/chat/stream", body) as reader:
        assert (await reader.until("start"))["session_id"] == body["session_id"]
        await check_one_by_one(reader, model)
        await reader.until("done")


async def test_each_frame_of_the_feed_passes_nginx_before_the_next_is_written(
    browser: httpx.AsyncClient, service: Running, model: ModelServer
) -> None:
    model.script(pieces=PIECES, stepwise=True)
    session_id = await service.session()
    async with reading(browser, f"/api/sessions/{session_id}/stream") as reader:
        await reader.until("session")
        chatting = asyncio.create_task(service.chat(session_id, "hi"))
        assert (await reader.until("message"))["content"] == "hi"
        await reader.until("start")
        await check_one_by_one(reader, model)
        await chatting


async def test_frames_pass_two_nginxes_if_the_inner_one_passes_the_header_on_that_the_outer_one_needs(
    tmp_path: Path, service: Running, model: ModelServer
) -> None:
    model.script(pieces=PIECES, stepwise=True)
    body = asking(await service.session())
    async with (
        nginx(tmp_path / "inner", str(service.client.base_url), "proxy_pass_header X-Accel-Buffering;") as inner,
        nginx(tmp_path / "outer", inner.url) as outer,
        httpx.AsyncClient(base_url=outer.url, timeout=30) as browser,
        reading(browser, "/api/chat/stream", body) as reader,
    ):
        await reader.until("start")
        await check_one_by_one(reader, model)


async def test_a_reader_resumes_exactly_however_often_nginx_goes_away(
    proxy: Nginx, browser: httpx.AsyncClient, service: Running, model: ModelServer
) -> None:
    model.script(pieces=PIECES, stepwise=True)
    session_id = await service.session()
    seen: list[dict[str, Any]] = []
    body: Any = asking(session_id)
    path = "/api/chat/stream"
    for number in range(len(PIECES)):
        async with reading(browser, path, body, after=seen[-1]["cursor"] if seen else "") as reader:
            reader.frames = seen
            model.step()
            await reader.text("".join(PIECES[: number + 1]))
            await proxy.stop()
            await reader.to_the_end()
        await proxy.start()
        path, body = f"/api/sessions/{session_id}/stream", None
    if seen[-1]["type"] != "complete":  # on a busy machine the end can come before the last cut
        async with reading(browser, path, after=seen[-1]["cursor"]) as reader:
            reader.frames = seen
            await reader.until("complete")
    assert text_of(seen) == seen[-1]["full_response"] == TEXT
    assert [frame["type"] for frame in seen if frame["type"] != "chunk"] == ["start", "complete"]


async def test_a_reader_that_leaves_nginx_leaves_the_service(
    browser: httpx.AsyncClient, service: Running, model: ModelServer
) -> None:
    path = f"/api/sessions/{await service.session()}/stream"
    async with reading(browser, path) as reader:
        await reader.until("session")
        assert service.services.feeds.count == 1
    async with asyncio.timeout(5):
        while service.services.feeds.count:
            await asyncio.sleep(0.01)


async def test_pings_carry_a_silent_stream_past_nginxs_timeout(tmp_path: Path, model: ModelServer) -> None:
    model.script(pieces=PIECES, hold_after=1)
    async with (
        serving(tmp_path, model.url, CHATBOT_STREAM_SSE_PING_S="1") as service,
        nginx(tmp_path / "nginx", str(service.client.base_url)) as proxy,
        httpx.AsyncClient(base_url=proxy.url, timeout=30) as browser,
    ):
        session_id = await service.session()
        async with (
            reading(browser, f"/api/sessions/{session_id}/stream") as feed,
            reading(browser, "/api/chat/stream", asking(session_id)) as reply,
        ):
            for reader in (feed, reply):
                await reader.text(PIECES[0])
            for reader in (feed, reply):
                while reader.pings < READ_TIMEOUT_S + 2:
                    await reader.block()
            model.release()
            for reader in (feed, reply):
                assert (await reader.until("complete"))["full_response"] == text_of(reader.frames) == TEXT
        assert "upstream timed out" not in proxy.error_log


async def test_without_pings_nginx_cuts_a_silent_stream_and_its_reader_resumes_exactly(
    tmp_path: Path, model: ModelServer
) -> None:
    model.script(pieces=PIECES, hold_after=2)
    async with (
        serving(tmp_path, model.url, CHATBOT_STREAM_SSE_PING_S="60") as service,
        nginx(tmp_path / "nginx", str(service.client.base_url)) as proxy,
        httpx.AsyncClient(base_url=proxy.url, timeout=30) as browser,
    ):
        session_id = await service.session()
        path = f"/api/sessions/{session_id}/stream"
        async with (
            reading(browser, path) as feed,
            reading(browser, "/api/chat/stream", asking(session_id)) as reply,
        ):
            cut = (feed, reply)
            for reader in cut:
                await reader.text("".join(PIECES[:2]))
            await asyncio.gather(*(reader.to_the_end() for reader in cut))
        assert proxy.error_log.count("upstream timed out") == 2
        for reader in cut:
            assert text_of(reader.frames) == "".join(PIECES[:2])
        model.release()
        for before in cut:
            async with reading(browser, path, after=before.cursor) as after:
                complete = await after.until("complete")
            assert text_of(before.frames + after.frames) == complete["full_response"] == TEXT
            assert not any(frame["type"] in ("start", "message", "session") for frame in after.frames)


async def test_browsers_pass_the_readmes_nginx_with_the_settings_printed_beside_it(
    tmp_path: Path, model: ModelServer
) -> None:
    readme = (ROOT / "chatbot/nodes/README.md").read_text()
    (printed,) = re.findall(r"^```nginx\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (hosts,) = re.findall(r"^export CHATBOT_SERVER_HOSTS=(\S+)", readme, re.MULTILINE)
    async with serving(tmp_path, model.url, CHATBOT_SERVER_HOSTS=hosts) as service:
        proxy = Nginx(tmp_path / "nginx", str(service.client.base_url))
        file, address = tmp_path / "nginx" / "nginx.conf", proxy.url.removeprefix("http://")
        head = file.read_text().partition("upstream")[0]
        ours = f"{{ server {service.client.base_url.netloc.decode()}; }}"
        site = re.sub(r"(?<=upstream chatbot )\{.*\}", ours, printed).replace("listen 80;", f"listen {address};")
        assert ours in site
        file.write_text(f"{head}{site}}}")
        await proxy.start()
        try:
            async with httpx.AsyncClient(base_url=proxy.url) as browser:
                for host, origin in ((address, proxy.url), (hosts, f"https://{hosts}"), (hosts, f"http://{hosts}")):
                    headers = {"Host": host, "Origin": origin}
                    assert (await browser.post("/api/sessions", headers=headers)).status_code == 201
                foreign = {"Host": hosts, "Origin": "https://evil.example"}
                assert (await browser.post("/api/sessions", headers=foreign)).status_code == 403
                assert (await browser.get("/api/sessions", headers={"Host": "evil.example"})).status_code == 403
        finally:
            await proxy.stop()
