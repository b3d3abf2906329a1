"""Clients of a drill: each does one thing after another in sessions that all share, and notes what it was told."""

import asyncio
import random
import time
import uuid
from typing import Any

import httpx
from msgspec import Struct

from tests.drills.drill_record import Operation
from tests.drills.load.client_requests import Targets, ask, new_client, note_chat, stream

ATTEMPTS_MAX = 6  # of one request with a key; then its outcome stays unknown
SESSIONS_MAX = 10
PAUSE_S = (0.02, 0.25)  # between a client's requests
TIMEOUTS_S = (0, 0, 0, 1, 2)  # of sessions: most never expire, others soon
RETRY_DELAY_S = (0.1, 0.6)  # before a request is made again
WORDS = ("안녕", "wörter", "👩‍👩‍👧‍👦", "line\n\nbreak", "plain", "data: x", "\u2028", "so", "on")
ACTS = {
    "stream": 30,
    "chat": 18,
    "read": 16,
    "cancel": 10,
    "regenerate": 8,
    "patch": 8,
    "edit": 5,
    "create": 4,
    "fork": 4,
    "list": 3,
    "delete": 2,
}


class SessionPool(Struct):
    """The sessions that clients and readers know of: those in use, with the messages that were seen in each."""

    sessions: dict[str, list[dict[str, Any]]] = {}

    def choose(self, rng: random.Random) -> str:
        return rng.choice(sorted(self.sessions))


class DrillClient:
    """`operations` is its history. All its choices come from `rng`; what they meet does not."""

    def __init__(self, name: str, targets: Targets, pool: SessionPool, seed: int) -> None:
        self.name = name
        self.operations: list[Operation] = []
        self._targets = targets
        self._pool = pool
        self._rng = random.Random(seed)
        self._http: httpx.AsyncClient

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; what it is at then it still finishes."""
        async with new_client() as self._http:
            while not stop.is_set():
                await self._act()
                await asyncio.sleep(self._rng.uniform(*PAUSE_S))

    async def _act(self) -> None:
        live = len(self._pool.sessions)
        kind = self._rng.choices(list(ACTS), weights=list(ACTS.values()))[0]
        if live < 3:
            kind = "create"
        elif kind in ("create", "fork") and live >= SESSIONS_MAX:
            kind = "delete"
        session_id = "" if kind in ("create", "list") else self._pool.choose(self._rng)
        match kind:
            case "create":
                await self._create()
            case "list":
                await self._list()
            case "fork":
                await self._fork(session_id)
            case "read":
                await self._read(session_id)
            case "patch":
                await self._patch(session_id)
            case "delete":
                await self._delete(session_id)
            case "cancel":
                await self._cancel(session_id)
            case _:
                await self._talk(kind, session_id)

    def _new_operation(self, kind: str, session_id: str = "", **more: Any) -> Operation:
        """An operation that is about to be invoked, on the record from now on."""
        target = self._targets.choose(self._rng)
        begun = Operation(
            client=self.name, kind=kind, target=target, invoked_s=time.time(), session_id=session_id, **more
        )
        self.operations.append(begun)
        return begun

    async def _ask(self, operation: Operation, method: str, path: str, body: Any = None) -> dict[str, Any]:
        told: dict[str, Any] = await ask(self._http, self._targets, operation, method, path, body)
        if operation.problem == "session-expired":
            self._pool.sessions.pop(operation.session_id, None)
        return told

    async def _create(self) -> None:
        key = str(uuid.UUID(int=self._rng.getrandbits(128)))
        timeout_s = self._rng.choice(TIMEOUTS_S)
        body = {"metadata": {"client": self.name}, "title": f"made with {key}", "timeout_hours": timeout_s / 3600}
        for _ in range(ATTEMPTS_MAX):
            made = self._new_operation("create", key=key, sent=body["title"])
            told = await self._ask(made, "POST", "/api/sessions", body)
            if made.is_told:
                made.session_id, made.version = told["session_id"], told["version"]
                self._pool.sessions.setdefault(made.session_id, [])
            if made.is_told or made.is_refused:
                return
            await self._wait()

    async def _fork(self, origin: str) -> None:
        """Half of them from some message on."""
        key = f"fork-{self._rng.getrandbits(64):x}"
        messages = [one["message_id"] for one in self._pool.sessions.get(origin, []) if one["status"] == "complete"]
        body = {"message_id": self._rng.choice(messages)} if messages and self._rng.random() < 0.5 else {}
        for _ in range(ATTEMPTS_MAX):
            forked = self._new_operation("fork", key=key)
            told = await self._ask(forked, "POST", f"/api/sessions/{origin}/fork", body)
            if forked.is_told:
                forked.session_id, forked.version = told["session_id"], told["version"]
                self._pool.sessions.setdefault(forked.session_id, [])
            if forked.is_told or forked.is_refused:
                return
            await self._wait()

    async def _read(self, session_id: str) -> Operation:
        read = self._new_operation("read", session_id)
        told = await self._ask(read, "GET", f"/api/sessions/{session_id}/messages?limit=1000")
        if read.status == 200:
            read.version, read.messages = told["version"], [_said(one) for one in told["messages"]]
            if session_id in self._pool.sessions:
                self._pool.sessions[session_id] = told["messages"]
        return read

    async def _list(self) -> None:
        listed = self._new_operation("list")
        told = await self._ask(listed, "GET", f"/api/sessions?limit=1000&metadata.client={self.name}")
        if listed.status == 200:
            ids = ("session_id", "version")
            listed.messages = [{name: one[name] for name in ids} for one in told["sessions"]]

    async def _patch(self, session_id: str) -> None:
        """Half of them only if nobody else was faster."""
        seen = (await self._read(session_id)).version if self._rng.random() < 0.5 else None
        title = f"title {self._rng.getrandbits(64):x}"
        patched = self._new_operation("patch", session_id, sent=title, if_version=seen)
        told = await self._ask(patched, "PATCH", f"/api/sessions/{session_id}", {"title": title})
        if patched.is_told:
            patched.version = told["version"]

    async def _delete(self, session_id: str) -> None:
        self._pool.sessions.pop(session_id, None)
        for _ in range(ATTEMPTS_MAX):
            deleted = self._new_operation("delete", session_id)
            await self._ask(deleted, "DELETE", f"/api/sessions/{session_id}")
            if deleted.is_told or deleted.status == 404:
                return
            await self._wait()

    async def _cancel(self, session_id: str) -> None:
        key = f"cancel-{self._rng.getrandbits(64):x}"
        for _ in range(ATTEMPTS_MAX):
            cancelled = self._new_operation("cancel", session_id, key=key)
            told = await self._ask(cancelled, "POST", f"/api/sessions/{session_id}/cancel")
            if cancelled.is_told:
                cancelled.reply_id, cancelled.reply_status = told["reply_id"], told.get("status") or ""
            if cancelled.is_told or cancelled.is_refused:
                return
            await self._wait()

    async def _talk(self, kind: str, session_id: str) -> None:
        """A message, an edited one, or another reply; whole or streamed; with a key, until something is told."""
        rng = self._rng
        key = f"{kind}-{rng.getrandbits(64):x}"
        body: dict[str, Any] = {"on_busy": rng.choices(["queue", "reject", "interrupt"], [8, 1, 1])[0]}
        interrupts = body["on_busy"] == "interrupt"
        sent = ""
        if kind != "regenerate":
            sent = " ".join([key, *rng.choices(WORDS, k=rng.randrange(1, 50))])
            body |= {"session_id": session_id, "message": sent}
        asked = [one for one in self._pool.sessions.get(session_id, []) if one["role"] == "user"]
        # A fork may end with a user's message: the next one follows it, and naming it as a parent is refused.
        asked = [one for one in asked if one["parent_id"] not in {other["message_id"] for other in asked}]
        if kind == "edit" and asked:
            body["parent_id"] = rng.choice(asked)["parent_id"]
        is_streamed = kind == "stream" or (kind != "chat" and rng.random() < 0.5)
        seen = (await self._read(session_id)).version if rng.random() < 0.1 else None
        for _ in range(ATTEMPTS_MAX):
            what = "chat" if kind == "stream" else kind
            said = self._new_operation(what, session_id, key=key, sent=sent, if_version=seen, interrupts=interrupts)
            if kind == "regenerate":
                path = f"/api/sessions/{session_id}/regenerate"
            else:
                path = "/api/chat/stream" if is_streamed else "/api/chat"
            if is_streamed:
                await stream(self._http, self._targets, said, path, body)
            else:
                note_chat(said, await self._ask(said, "POST", path, body))
            if said.reply_status or (said.is_refused and said.status != 429):
                return
            await self._wait()

    async def _wait(self) -> None:
        await asyncio.sleep(self._rng.uniform(*RETRY_DELAY_S))


def _said(message: dict[str, Any]) -> dict[str, Any]:
    """What the checker wants to know of a message that was read."""
    return {name: message[name] for name in ("message_id", "role", "status", "content")}
