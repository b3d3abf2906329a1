"""Erasing while the service runs: its sessions are found and deleted over HTTP, as any client may.

Sessions are used, made and changed meanwhile. So the list is walked in the order of creation, which does not change,
and again and again until a whole pass finds nothing that is left.

A key sees its own sessions only, so that `--owner` means the owner of the key: whose that is, the settings here say.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Literal

import aiohttp
from msgspec import Struct

from chatbot.audit.desk import CommandFailed, Desk, Progress
from chatbot.audit.receipts import Receipt, WouldGo, moment_of
from chatbot.audit.wanted import Wanted, nothing_matched

PAGE = 1000  # sessions in one answer: the most that the service gives
PASSES_MAX = 100  # over the list: each but the last erases something
TIMEOUT_S = 120.0  # for one answer: a deletion may hand a long history over to forks
COPYING_MAX_S = 3600.0  # for the forks of one session to copy what they read of it: tens of millions of texts
COPYING_LOOK_S = 0.5  # between questions whether they have
REASON = "request"  # what the service records for every DELETE
UNTOLD = (
    "which owner this key is cannot be told from here: set CHATBOT_API_KEYS as the service has it, or use"
    " --session/--metadata"
)
_URL = re.compile(r"https?://[^\s/?#]+/?")


class Service(Struct, frozen=True):
    """Where it runs, and the key to ask it with; None where it asks for none."""

    url: str
    key: str | None
    dry_run: bool = False


class Done(Struct):
    """What has been done so far; `gone`: erased already; `missing`: the service knows no such session of this key."""

    erased: int = 0
    gone: int = 0
    missing: int = 0


async def erase_remotely(desk: Desk, wanted: Wanted, service: Service) -> int:
    """As `erase`, through a running service. Returns the exit code."""
    if not _URL.fullmatch(service.url):
        raise CommandFailed("--url is the service's address, such as http://127.0.0.1:8080", 2)
    key = _key(desk, wanted, service)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    patience = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(service.url, headers=headers, timeout=patience) as client:
            if wanted.owner is not None:
                await _must_ask_for_keys(service.url)
            if service.dry_run:
                return _tell(desk, await _views(client, wanted), wanted)
            return await _erase(desk, client, wanted)
    except aiohttp.ClientSSLError as error:
        raise CommandFailed(
            f"{service.url} cannot be asked in secret: its certificate is not valid here, or it speaks no TLS"
        ) from error
    except aiohttp.ClientConnectorError as error:
        raise CommandFailed(f"nothing answers at {service.url}: does the service run there?") from error
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise CommandFailed(f"{service.url} does not answer as the service does: {error or 'too slow'}") from error


def _key(desk: Desk, wanted: Wanted, service: Service) -> str | None:
    """The secret to ask with. Raises CommandFailed where it may be another owner's than the one who is meant: what
    the service would list is that owner's then, and only the settings here can tell.
    """
    if wanted.owner is None:
        return service.key
    key = desk.settings.auth.keys.get(wanted.owner)
    if key is None:
        raise CommandFailed(UNTOLD, 2)
    if service.key and service.key != key:
        raise CommandFailed(f"--key is not the key of {wanted.owner}, as the settings here have it", 2)
    return key


async def _must_ask_for_keys(url: str) -> None:
    """Without keys a service lists everybody's sessions to everybody: then nobody can be told from others there."""
    async with aiohttp.ClientSession(url) as stranger, stranger.get("/api/sessions?limit=1") as answer:
        if answer.status != 401:
            raise CommandFailed("this service asks for no keys, so it cannot tell whose sessions are whose: stop it")


async def _views(client: aiohttp.ClientSession, wanted: Wanted) -> list[dict[str, Any]]:
    """What the service says of the sessions that are meant, the newest first. All are held: about 1 KiB each."""
    if wanted.session_ids:
        return []
    found: dict[str, dict[str, Any]] = {}
    for status in ("expired",) if wanted.expired_by_us is not None else ("active", "expired"):
        query = {"status": status, "order": "created", "limit": str(PAGE)}
        query |= {f"metadata.{name}": value for name, value in wanted.metadata.items()}
        async for view in _listed(client, query):
            expires_at = view["expires_at"]  # null: it never expires
            if wanted.expired_by_us is None or (expires_at and expires_at <= moment_of(wanted.expired_by_us)):
                found[view["session_id"]] = {"state": status, **view}
    return sorted(found.values(), key=lambda view: str(view["created_at"]), reverse=True)


async def _listed(client: aiohttp.ClientSession, query: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
    while True:
        async with client.get("/api/sessions", params=query) as answer:
            if answer.status != 200:
                raise CommandFailed(f"the service refuses to list sessions: {await _says(answer)}")
            page = await answer.json()
        for view in page["sessions"]:
            yield view
        if "next" not in page:
            return
        query = {**query, "cursor": page["next"]}


def _tell(desk: Desk, views: list[dict[str, Any]], wanted: Wanted) -> int:
    if wanted.session_ids:
        raise CommandFailed("--dry-run cannot look at a session over HTTP: reading it would count as an access", 2)
    for view in views:
        desk.say_json(WouldGo(view["session_id"], view["state"], view["message_count"], view["last_accessed"]))
    messages = sum(view["message_count"] for view in views)
    desk.note(f"{len(views):,} sessions with {messages:,} messages would be erased; nothing was changed")
    if not views:
        desk.note(nothing_matched(wanted))
    return 0


async def _erase(desk: Desk, client: aiohttp.ClientSession, wanted: Wanted) -> int:
    """Returns the exit code. Raises CommandFailed while something that is meant is left."""
    done = Done()
    if wanted.session_ids:
        await _delete_all(desk, client, wanted.session_ids, done)
    for passes in range(0 if wanted.session_ids else PASSES_MAX + 1):
        ids = [view["session_id"] for view in await _views(client, wanted)]
        if not ids:
            break
        before = done.erased + done.gone
        if passes < PASSES_MAX:
            await _delete_all(desk, client, ids, done)
        if done.erased + done.gone == before:
            raise CommandFailed(
                f"{len(ids):,} sessions that are meant are left. Done so far: {done.erased:,} sessions; run this again"
            )
    if not (done.erased or done.missing):
        desk.note(nothing_matched(wanted))
    desk.note(f"erased: {done.erased:,} sessions")
    return 1 if done.missing else 0


async def _delete_all(desk: Desk, client: aiohttp.ClientSession, ids: list[str] | tuple[str, ...], done: Done) -> None:
    progress = Progress("erasing", done.erased + len(ids), "sessions")
    for session_id in ids:
        try:
            became = await _delete(client, session_id)
        except CommandFailed as error:
            raise CommandFailed(
                f"session {session_id} was not erased: {error}. Done so far: {done.erased:,} sessions; run this again"
                " to go on"
            ) from error
        if became == "erased":
            now = datetime.now(UTC)
            desk.say_json(Receipt(session_id, None, REASON, f"{now:%Y-%m-%dT%H:%M:%S.%f}Z"))
            done.erased += 1
        elif became == "missing":
            done.missing += 1
            desk.note(f"there is no session {session_id}, or it is not this key's")
        else:
            done.gone += 1
        progress.reach(done.erased)
    progress.close()


async def _delete(client: aiohttp.ClientSession, session_id: str) -> Literal["erased", "gone", "missing"]:
    """What has become of the session, once no file holds its content. Raises CommandFailed."""
    has_begun, give_up_s = False, time.monotonic() + COPYING_MAX_S
    while True:
        async with client.delete(f"/api/sessions/{session_id}") as answer:
            if answer.status == 204:
                return "erased"
            if answer.status == 404:
                kind = str((await answer.json()).get("type"))
                is_gone = kind.endswith("/problems/session-deleted")  # a path prefix may come first
                return "missing" if not is_gone else "erased" if has_begun else "gone"
            if answer.status != 202:
                raise CommandFailed(await _says(answer))
        has_begun = True
        if time.monotonic() > give_up_s:
            raise CommandFailed("it is deleted, and forks still copy what they read of it")
        await asyncio.sleep(COPYING_LOOK_S)


async def _says(answer: aiohttp.ClientResponse) -> str:
    """Why the service refuses, in its own words."""
    try:
        return str((await answer.json())["detail"])
    except (ValueError, KeyError, aiohttp.ClientError):
        return f"status {answer.status}"
