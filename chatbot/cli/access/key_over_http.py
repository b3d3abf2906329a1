"""API keys of a running service, over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from msgspec import UNSET

from chatbot.cli.access.key_change import Change
from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.service_client import ServiceAddress, open_service, read_detail
from chatbot.keys.key_views import KeyView, NewKeyView

TIMEOUT_S = 30.0  # for one answer


@asynccontextmanager
async def open_remote_keys(service: ServiceAddress) -> AsyncIterator["RemoteKeys"]:
    """Raises CommandFailed for a service that cannot be asked."""
    async with open_service(service, TIMEOUT_S) as client:
        yield RemoteKeys(client)


class RemoteKeys:
    """The keys of the service that `client` speaks to."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client

    async def list(self) -> list[KeyView]:
        listed = msgspec.json.decode(await self._ask("GET", ""), type=dict[str, list[KeyView]])
        return listed.get("keys", [])

    async def add(self, change: Change) -> NewKeyView:
        body: dict[str, Any] = {"name": change.name, "scopes": change.scopes}
        if change.expires is not UNSET:
            body["expires_at"] = change.expires
        return msgspec.json.decode(await self._ask("POST", "", body), type=NewKeyView)

    async def rotate(self, change: Change) -> NewKeyView:
        body: dict[str, Any] = {"overlap_seconds": change.overlap_s}
        if change.scopes:
            body["scopes"] = change.scopes
        if change.expires is not UNSET:
            body["expires_at"] = change.expires
        return msgspec.json.decode(await self._ask("POST", f"/{change.name}/rotate", body), type=NewKeyView)

    async def revoke(self, name: str) -> None:
        await self._ask("DELETE", f"/{name}")

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """The body of a successful answer. Raises CommandFailed with the service's reason."""
        async with self._client.request(method, f"/api/keys{path}", json=body) as answer:
            if answer.status >= 300:
                raise CommandFailed(f"the service refuses: {await read_detail(answer)}")
            return await answer.read()
