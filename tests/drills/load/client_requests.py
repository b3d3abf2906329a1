"""One request as a client makes it, written down: what was asked, when, and what was told."""

import asyncio
import json
import random
import time
from collections.abc import Mapping
from typing import Any

import httpx
from msgspec import Struct

from tests.drills.drill_record import Operation

ATTEMPT_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 2.0
ROOT_SECRET, SHARED_SECRET = "the-secret-of-root", "the-secret-that-clients-share"


class Targets(Struct):
    """Whom clients can ask: the proxy, and each node by its name."""

    urls: dict[str, str]

    def choose(self, rng: random.Random) -> str:
        """Mostly the proxy, as in earnest; at times a node of one's choice."""
        nodes = [name for name in self.urls if name != "proxy"]
        return "proxy" if "proxy" in self.urls and rng.random() < 0.6 else rng.choice(nodes)


def new_client(secret: str = SHARED_SECRET) -> httpx.AsyncClient:
    """Asks with this API key; "": with none, unless a request has its own."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    timeout = httpx.Timeout(ATTEMPT_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    return httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_keepalive_connections=20), headers=headers)


async def ask(
    http: httpx.AsyncClient,
    targets: Targets,
    operation: Operation,
    method: str,
    path: str,
    body: Any = None,
    *,
    more_headers: Mapping[str, str] | None = None,
) -> Any:
    """Make the request, and note in `operation` what came of it. Returns the answer's body; {} where none came."""
    headers = {**_headers(operation), **(more_headers or {})}
    try:
        async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
            answer = await http.request(method, targets.urls[operation.target] + path, json=body, headers=headers)
    except (httpx.HTTPError, TimeoutError):
        return {}
    operation.completed_s, operation.status = time.time(), answer.status_code
    told = _json(answer)
    operation.problem = "" if answer.is_success else str(told.get("type", "")).rpartition("/")[2]
    if answer.is_success or "user_message_id" in told:
        operation.told_s = operation.completed_s
    return told


async def stream(
    http: httpx.AsyncClient, targets: Targets, operation: Operation, path: str, body: dict[str, Any]
) -> None:
    """POST, and read the reply as it comes, to its end or until the stream breaks."""
    headers = {**_headers(operation), "Accept": "text/event-stream"}
    try:
        async with (
            asyncio.timeout(ATTEMPT_TIMEOUT_S),
            http.stream("POST", targets.urls[operation.target] + path, json=body, headers=headers) as answer,
        ):
            operation.status = answer.status_code
            if not answer.is_success:
                await answer.aread()
                operation.completed_s = time.time()
                operation.problem = str(_json(answer).get("type", "")).rpartition("/")[2]
                return
            text, rest = "", ""
            async for piece in answer.aiter_text():
                *lines, rest = (rest + piece).split("\n")  # aiter_lines() would split at other characters, too
                for line in lines:
                    if line.startswith("data: {"):
                        text = _note(operation, json.loads(line.removeprefix("data: ")), text)
    except (httpx.HTTPError, TimeoutError):
        return


def note_chat(operation: Operation, told: dict[str, Any]) -> None:
    """The answer to a plain chat: its reply, or the problem that the reply ended in."""
    if not operation.is_told:
        return
    operation.message_id, operation.reply_id = told["user_message_id"], told["message_id"]
    operation.version = told["version"]
    operation.reply_status = told["status"] if operation.status == 200 else "ended"
    operation.reply_text = told["content"] if operation.status == 200 else told.get("partial")


def _note(operation: Operation, frame: dict[str, Any], text: str) -> str:
    """What a frame of a streamed reply tells. Returns the text so far."""
    if frame["type"] == "start":
        operation.told_s = time.time()
        operation.message_id, operation.reply_id = frame["user_message_id"], frame["message_id"]
        return ""
    if frame["type"] == "chunk":
        return text + str(frame["content"])
    if frame["type"] in ("complete", "error") and frame.get("status") != "unrecorded":
        operation.completed_s = time.time()
        operation.version = frame["version"]
        operation.reply_status = frame.get("status", "complete")
        operation.reply_text = frame.get("full_response")
        short = frame["type"] == "error" and len(text) < frame["length"]
        operation.streamed = text[: frame.get("length")] + ("[characters are missing]" if short else "")
    return text


def _headers(operation: Operation) -> dict[str, str]:
    headers = {} if operation.key is None else {"Idempotency-Key": operation.key}
    if operation.if_version is not None:
        headers["If-Match"] = f'"{operation.if_version}"'
    return headers


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        told = answer.json()
    except ValueError:  # a proxy's own page
        return {}
    return told if isinstance(told, dict) else {}
