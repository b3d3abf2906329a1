"""Short ways to ask the service over HTTP, and to see what its log holds of it."""

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct

from tests.support.model.model_server import ModelServer

PAUSE_S = 0.01


class PostRequest(Struct, frozen=True):
    """A POST, to be sent as often as one likes."""

    path: str
    body: dict[str, Any] | None = None
    headers: dict[str, str] = {}

    async def send(self, client: httpx.AsyncClient, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.post(self.path, json=self.body, headers={**self.headers, **named})


def told(answer: httpx.Response) -> tuple[int, str, str | None, str | None]:
    """All of an answer that is to be the same each time."""
    return answer.status_code, answer.text, answer.headers.get("ETag"), answer.headers.get("Location")


def recorded(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Type and content of every event in the log; {} for what is erased."""
    with closing(sqlite3.connect(folder / "chatbot.db")) as log:
        rows = log.execute("SELECT type, coalesce(data, '{}') FROM events ORDER BY position").fetchall()
    return [(name, json.loads(data)) for name, data in rows]


def event_counts(folder: Path) -> Counter[str]:
    """How many events of each type the log holds; checkpoints, which time decides, left out."""
    return Counter(name for name, _ in recorded(folder) if name != "reply_progressed")


def bytes_on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


async def messages(client: httpx.AsyncClient, session_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get(f"/api/sessions/{session_id}/messages", params=query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["messages"])


async def said(client: httpx.AsyncClient, session_id: str, **query: Any) -> list[str]:
    """The texts of the history."""
    return [message["content"] for message in await messages(client, session_id, **query)]


async def wait_for_last_message(client: httpx.AsyncClient, session_id: str, **fields: Any) -> dict[str, Any]:
    """The last message, once it has these fields."""
    async with asyncio.timeout(10):
        while True:
            found = await messages(client, session_id)
            if found and all(found[-1][name] == value for name, value in fields.items()):
                return found[-1]
            await asyncio.sleep(PAUSE_S)


def sent(model: ModelServer, number: int = -1) -> list[str]:
    """The texts of a context that the model was shown, the newest unless another is named."""
    return [message["content"] for message in model.requests[number].body["messages"]]


def forget_projections(folder: Path) -> None:
    for path in folder.glob("projections.db*"):
        if not path.name.endswith("-lock"):
            path.unlink()
