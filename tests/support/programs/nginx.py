"""A real nginx in front of a service: it buffers, compresses and cuts as it does by default, and in the worst case."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.support.programs.external_programs import free_port

READ_TIMEOUT_S = 5  # nginx's own default is 60
START_TIMEOUT_S = 30.0
CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_types *;
    gzip_min_length 1;
    gzip_proxied any;
    gzip_http_version 1.0;
    upstream service {{
        {servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        location {location} {{
            proxy_pass http://service{target};
            proxy_set_header Host $http_host;
            proxy_read_timeout {read_timeout_s}s;
            {extra}
        }}
    }}
}}
"""


class Nginx:
    """Proxies `url` to the services at `upstreams`, one after the other, with proxy_buffering on, as by default."""

    def __init__(
        self,
        folder: Path,
        *upstreams: str,
        extra: str = "",
        read_timeout_s: float = READ_TIMEOUT_S,
        location: str = "/",
        target: str = "",
    ) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        folder.mkdir()
        servers = "".join(f"server {httpx.URL(one).netloc.decode()} fail_timeout=1s; " for one in upstreams)
        text = CONFIG.format(
            folder=folder,
            servers=servers,
            port=port,
            read_timeout_s=f"{read_timeout_s:g}",
            extra=extra,
            location=location,
            target=target,
        )
        (folder / "nginx.conf").write_text(text)

    @property
    def error_log(self) -> str:
        return (self._folder / "error.log").read_text()

    async def start(self) -> None:
        """Started and listening; after stop() again on the same port. Raises AssertionError with nginx's complaint."""
        self._process = process = await asyncio.create_subprocess_exec(
            *("nginx", "-p", str(self._folder), "-c", str(self._folder / "nginx.conf")),
            *("-e", str(self._folder / "error.log")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient(base_url=self.url) as client:
            while process.returncode is None:
                with contextlib.suppress(httpx.TransportError):
                    await client.get("/livez")  # 502 will do, where the service is not up
                    return
                await asyncio.sleep(0.01)
        raise AssertionError(self.error_log)

    async def stop(self) -> None:
        """At once: every connection is cut."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def nginx(
    folder: Path, upstream: str, extra: str = "", *, location: str = "/", target: str = ""
) -> AsyncIterator[Nginx]:
    """Runs in `folder`, which it makes; `extra` are more directives of its `location`, of which `target` takes the
    place in what is asked upstream (empty: the path stays as it is)."""
    started = Nginx(folder, upstream, extra=extra, location=location, target=target)
    try:
        await started.start()
        yield started
    finally:
        await started.stop()
