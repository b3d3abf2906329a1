"""Administrators of a drill: each makes keys, uses them, rotates and revokes them, and goes on using what has ended."""

import asyncio
import random
import time
from typing import Any

import httpx

from tests.drills.drill_record import Operation
from tests.drills.load.client_requests import ROOT_SECRET, Targets, ask, new_client, note_chat

ATTEMPTS_MAX = 6  # of one change; then its outcome stays unknown
NAMES_MAX = 400  # of each administrator: a log has 1,000 at most
USES = 4  # requests between two changes of a key
PAUSE_S = (0.1, 0.4)  # between requests
READ_TIMEOUT_S = 8.0  # longer than several pings: nobody is there any more


class KeyClient:
    """`operations` is its history; `secrets` what it was given, by `name#number`."""

    def __init__(self, name: str, targets: Targets, seed: int) -> None:
        self.name = name
        self.operations: list[Operation] = []
        self.secrets: dict[str, str] = {}
        self._targets = targets
        self._rng = random.Random(seed)
        self._admin: httpx.AsyncClient
        self._http: httpx.AsyncClient

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; a key's life it still finishes."""
        async with new_client(ROOT_SECRET) as self._admin, new_client("") as self._http:
            for number in range(NAMES_MAX):
                if stop.is_set():
                    return
                await self._live(f"{self.name.replace(' ', '-')}-{number}")
                await self._pause()

    async def _live(self, name: str) -> None:
        """One key, from its creation to some time after its revocation."""
        first, second = f"{name}#1", f"{name}#2"
        body = {"name": name, "scopes": ["chat"]}
        if not await self._change("key_add", "POST", "/api/keys", body, grants=first, attempts=1):
            return
        session_id = await self._create(first)
        following = [asyncio.create_task(self._follow(session_id, first))] if session_id else []
        try:
            for _ in range(USES):
                await self._use(session_id, first)
            last, rotate = first, f"/api/keys/{name}/rotate"
            if await self._change("key_rotate", "POST", rotate, {"overlap_seconds": 0}, ends=[first], grants=second):
                last = second
                following.append(asyncio.create_task(self._follow(session_id, second)))
                for _ in range(USES):
                    await self._use(session_id, self._rng.choice([first, second]))
            await self._change("key_revoke", "DELETE", f"/api/keys/{name}", ends=[first, second])
            for _ in range(USES):
                await self._use(session_id, last)
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)

    async def _change(
        self,
        kind: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        grants: str = "",
        ends: list[str] | None = None,
        attempts: int = ATTEMPTS_MAX,
    ) -> bool:
        """Whether it was acknowledged, after so many attempts at most."""
        for _ in range(attempts):
            change = self._new_operation(kind, grants=grants, ends=ends or [])
            told = await ask(self._admin, self._targets, change, method, path, body)
            if change.is_told:
                if grants:
                    self.secrets[grants] = told["secret"]
                return True
            if change.is_refused:
                return False
            await self._pause()
        return False

    async def _create(self, secret: str) -> str:
        """The session that it made; "" where that is not known."""
        key = f"create-{self._rng.getrandbits(64):x}"
        for _ in range(ATTEMPTS_MAX):
            made = self._new_operation("create", key=key, sent=f"made with {key}", secret=secret)
            told = await self._ask(made, "POST", "/api/sessions", {"title": made.sent})
            if made.is_told:
                made.session_id, made.version = told["session_id"], told["version"]
                return made.session_id
            await self._pause()
        return ""

    async def _use(self, session_id: str, secret: str) -> None:
        """A request with the secret, whether it is still valid or not."""
        if session_id and self._rng.random() < 0.5:
            key = f"chat-{self._rng.getrandbits(64):x}"
            said = self._new_operation("chat", session_id, key=key, sent=f"said with {key}", secret=secret)
            body = {"session_id": session_id, "message": said.sent}
            note_chat(said, await self._ask(said, "POST", "/api/chat", body))
        else:
            tried = self._new_operation("try", secret=secret)
            await self._ask(tried, "GET", "/api/sessions?limit=1")
        await self._pause()

    async def _follow(self, session_id: str, secret: str) -> None:
        """The session's stream, again and again, until cancelled."""
        while True:
            followed = self._new_operation("follow", session_id, secret=secret)
            url = f"{self._targets.urls[followed.target]}/api/sessions/{session_id}/stream"
            headers = {**self._authorization(secret), "Accept": "text/event-stream"}
            try:
                async with self._http.stream("GET", url, headers=headers, timeout=READ_TIMEOUT_S) as answer:
                    followed.status = answer.status_code
                    async for _ in answer.aiter_raw():
                        followed.heard_s = time.time()
            except httpx.HTTPError:
                pass
            followed.completed_s = time.time()
            await self._pause()

    def _new_operation(self, kind: str, session_id: str = "", **more: Any) -> Operation:
        target = self._targets.choose(self._rng)
        begun = Operation(
            client=self.name, kind=kind, target=target, invoked_s=time.time(), session_id=session_id, **more
        )
        self.operations.append(begun)
        return begun

    async def _ask(self, operation: Operation, method: str, path: str, body: Any = None) -> Any:
        headers = self._authorization(operation.secret)
        return await ask(self._http, self._targets, operation, method, path, body, more_headers=headers)

    def _authorization(self, secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[secret]}"}

    async def _pause(self) -> None:
        await asyncio.sleep(self._rng.uniform(*PAUSE_S))
