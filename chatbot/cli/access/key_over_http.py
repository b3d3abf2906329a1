"""API keys of a running service, over HTTP."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from msgspec import UNSET

from chatbot.cli.access.key_change import Change
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.keys.key_views import KeyView, NewKeyView

TIMEOUT_S = 30.0  # for one answer
_URL = re.compile(r"https?://[^\s/?#]+/?")


@asynccontextmanager
async def open_remote_keys(url: str, key: str | None) -> AsyncIterator["RemoteKeys"]:
    """Raises UsageError, and CommandFailed for a service that cannot be asked."""
    if not _URL.fullmatch(url):
        raise UsageError("--url is the service's address, such as http://127.0.0.1:8080")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(url, headers=headers, timeout=timeout) as client:
            yield RemoteKeys(client)
    except aiohttp.ClientSSLError as error:
        raise CommandFailed(
            f"there is no secure connection to {url}: its certificate is not valid here, or it does not use TLS"
        ) from error
    except aiohttp.ClientConnectorError as error:
        raise CommandFailed(f"nothing answers at {url}: does the service run there?") from error
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        raise CommandFailed(f"{url} does not answer as the service does: {error or 'too slow'}") from error


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
            content = await answer.read()
        if answer.status < 300:
            return content
        raise CommandFailed(f"the service refuses: {_detail(content, answer.status)}")


def _detail(content: bytes, status: int) -> str:
    try:
        return str(msgspec.json.decode(content)["detail"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"status {status}"
