"""Model servers as processes of their own, which can be killed at any moment and started again on their port."""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any, Self

import httpx


class ModelServerProcess:
    """`python -m tests.support.model.model_server` on a port that it keeps."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        command = ("-m", "tests.support.model.model_server", "--port", str(self.port), "--delay-s", str(self.delay_s))
        self._process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = json.loads(await self._process.stdout.readline())["port"]

    async def kill(self) -> None:
        """kill -9, at this very instant."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def requests(self) -> list[Any]:
        """Those for replies that it has had."""
        async with httpx.AsyncClient() as client:
            return list((await client.get(f"{self.url}/_requests")).json())

    async def script(self, **fields: Any) -> None:
        async with httpx.AsyncClient() as client:
            await client.post(f"{self.url}/_script", json=fields)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.kill()


def several_servers(servers: Sequence[dict[str, Any]], **settings: str) -> dict[str, str]:
    """Settings of a service with several model servers instead of one."""
    return {
        "LLM_SERVER_URL": "",
        "CHATBOT_LLM_PROVIDER": "auto",
        "CHATBOT_LLM_SERVERS": json.dumps([{"protocol": "openai", **server} for server in servers]),
        **settings,
    }
