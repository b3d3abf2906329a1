"""Erasing while the service runs. With a key that has the scope erase, the service does it (bulk_erase_client.py). With
another one, sessions are found and deleted over HTTP, as any client can do.

Sessions are created and changed in the meantime. So the list is read in the order of creation, which is stable, and
repeatedly until a complete pass finds no session that is left.

Such a key sees its own sessions only, so `--owner` must name the owner of the key, which the settings here tell.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

import aiohttp
from msgspec import Struct, field

from chatbot.audit.receipt import Receipt
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.erasure.bulk_erase_client import erase_in_bulk
from chatbot.cli.erasure.erase_criteria import (
    EraseCriteria,
    ErasePreview,
    describe_hold,
    describe_no_match,
    describe_preview,
)
from chatbot.cli.exit_codes import CommandFailed, UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.service_client import ServiceAddress, check_url, open_service, read_detail
from chatbot.runtime.clock import timestamp
from chatbot.runtime.counted_noun import counted

PAGE = 1000  # sessions in one answer: the maximum of the service
PASSES_MAX = 100  # over the list: each but the last erases something
COPYING_MAX_S = 3600.0  # for copying what the forks of one session read of it: tens of millions of texts
COPYING_POLL_S = 0.5  # between two requests whether the copying is done
REASON = "request"  # what the service records for every DELETE
OWNER_UNKNOWN = (
    "which owner this key is cannot be told from here: use --key with a key of the scope erase, set"
    " CHATBOT_API_KEYS as the service has it, or use --session/--metadata"
)

HOLDS_UNKNOWN = "legal holds were not looked at: only a preview with a key of the scope erase knows them"


class Service(Struct, frozen=True):
    """The service's base URL and the API key for it; None where it needs none."""

    url: str
    key: str | None
    dry_run: bool = False


class RemoteCounts(Struct):
    """Progress so far. `already_erased`: before this command; `missing`: this key has no such session; `held`: under a
    legal hold.
    """

    erased: int = 0
    already_erased: int = 0
    missing: int = 0
    held: set[str] = field(default_factory=set)


async def erase_over_http(context: CommandContext, criteria: EraseCriteria, service: Service) -> int:
    """As `erase`, through a running service. Returns the exit code. Raises CommandFailed."""
    check_url(service.url)
    if criteria.owner is None or service.key:
        if criteria.owner is not None:
            await _require_authentication(service.url)
        address = ServiceAddress(service.url, service.key)
        code = await erase_by_service(context, criteria, address, dry_run=service.dry_run)
        if code is not None:
            return code
    key = _key(context, criteria, service)
    async with open_service(ServiceAddress(service.url, key)) as client:
        if criteria.owner is not None:
            await _require_authentication(service.url)
        if service.dry_run:
            return _preview(context, await _find_sessions(client, criteria), criteria)
        return await _erase(context, client, criteria)


async def erase_by_service(
    context: CommandContext, criteria: EraseCriteria, address: ServiceAddress, *, dry_run: bool
) -> int | None:
    """As `erase_in_bulk`, with a client of its own."""
    async with open_service(address) as client:
        return await erase_in_bulk(context, client, criteria, dry_run=dry_run)


def _key(context: CommandContext, criteria: EraseCriteria, service: Service) -> str | None:
    """The API key to use. Raises UsageError where it may be another owner's than `criteria` names: the service would
    then list that owner's sessions, which only the settings here can tell.
    """
    if criteria.owner is None:
        return service.key
    key = context.settings.auth.keys.get(criteria.owner)
    if key is None:
        raise UsageError(OWNER_UNKNOWN)
    if service.key and service.key != key:
        raise UsageError(f"--key is not the key of {criteria.owner}, as the settings here have it")
    return key


async def _require_authentication(url: str) -> None:
    """Raises CommandFailed for a service without API keys: it lists all sessions to every client."""
    async with open_service(ServiceAddress(url, None)) as client, client.get("/api/sessions?limit=1") as answer:
        if answer.status != 401:
            raise CommandFailed("this service asks for no keys, so it cannot tell whose sessions are whose: stop it")


async def _find_sessions(client: aiohttp.ClientSession, criteria: EraseCriteria) -> list[dict[str, Any]]:
    """The service's views of the selected sessions, newest first. All are in memory: about 1 KiB each."""
    if criteria.session_ids:
        return []
    found: dict[str, dict[str, Any]] = {}
    for status in ("expired",) if criteria.expired_by_us is not None else ("active", "expired"):
        query = {"status": status, "order": "created", "limit": str(PAGE)}
        query |= {f"metadata.{name}": value for name, value in criteria.metadata.items()}
        async for view in _list_sessions(client, query):
            expires_at = view["expires_at"]  # null: it never expires
            if criteria.expired_by_us is None or (expires_at and expires_at <= timestamp(criteria.expired_by_us)):
                found[view["session_id"]] = {"state": status, **view}
    return sorted(found.values(), key=lambda view: str(view["created_at"]), reverse=True)


async def _list_sessions(client: aiohttp.ClientSession, query: dict[str, str]) -> AsyncIterator[dict[str, Any]]:
    while True:
        async with client.get("/api/sessions", params=query) as answer:
            if answer.status != 200:
                raise CommandFailed(f"the service refuses to list sessions: {await read_detail(answer)}")
            page = await answer.json()
        for view in page["sessions"]:
            yield view
        if "next" not in page:
            return
        query = {**query, "cursor": page["next"]}


def _preview(context: CommandContext, views: list[dict[str, Any]], criteria: EraseCriteria) -> int:
    if criteria.session_ids:
        raise UsageError("--dry-run cannot look at a session over HTTP: reading it would count as an access")
    for view in views:
        context.print_json(
            ErasePreview(view["session_id"], view["state"], view["message_count"], view["last_accessed"])
        )
    messages = sum(view["message_count"] for view in views)
    context.print_note(describe_preview(len(views), messages, 0))
    context.print_note(HOLDS_UNKNOWN)
    if not views:
        context.print_note(describe_no_match(criteria))
    return 0


async def _erase(context: CommandContext, client: aiohttp.ClientSession, criteria: EraseCriteria) -> int:
    """Returns the exit code. Raises CommandFailed where selected sessions are left."""
    done = RemoteCounts()
    if criteria.session_ids:
        await _delete_all(context, client, criteria, criteria.session_ids, done)
    for passes in range(0 if criteria.session_ids else PASSES_MAX + 1):
        found = [view["session_id"] for view in await _find_sessions(client, criteria)]
        ids = [session_id for session_id in found if session_id not in done.held]
        if not ids:
            break
        before = done.erased + done.already_erased
        if passes < PASSES_MAX:
            await _delete_all(context, client, criteria, ids, done)
        if done.erased + done.already_erased == before and not done.held.issuperset(ids):
            raise CommandFailed(
                f"{len(ids):,} sessions that are meant are left. Done so far: {done.erased:,} sessions; run this again"
            )
    if not (done.erased or done.missing or done.held):
        context.print_note(describe_no_match(criteria))
    context.print_note(f"erased: {counted(done.erased, 'session')}")
    return 1 if done.missing or done.held else 0


async def _delete_all(
    context: CommandContext,
    client: aiohttp.ClientSession,
    criteria: EraseCriteria,
    ids: list[str] | tuple[str, ...],
    done: RemoteCounts,
) -> None:
    progress = ProgressBar("erasing", done.erased + len(ids), "sessions")
    for session_id in ids:
        try:
            outcome = await _delete(client, session_id, criteria)
        except _Held as held:
            done.held.add(session_id)
            context.print_note(describe_hold(session_id, str(held)))
            continue
        except CommandFailed as error:
            raise CommandFailed(
                f"session {session_id} was not erased: {error}. Done so far: {done.erased:,} sessions; run this again"
                " to go on"
            ) from error
        if outcome == "erased":
            context.print_json(await _read_receipt(client, session_id))
            done.erased += 1
        elif outcome == "missing":
            done.missing += 1
            context.print_note(f"there is no session {session_id}, or it is not this key's")
        else:
            done.already_erased += 1
        progress.reach(done.erased)
    progress.close()


class _Held(Exception):
    """The session is under a legal hold; the message is the hold's reason."""


async def _read_receipt(client: aiohttp.ClientSession, session_id: str) -> object:
    """The service's receipt; of one that gives none, what is known here."""
    async with client.get(f"/api/sessions/{session_id}/receipt") as answer:
        if answer.status == 200:
            return await answer.json()
    return Receipt(session_id, None, REASON, timestamp(time.time_ns() // 1000))


async def _delete(
    client: aiohttp.ClientSession, session_id: str, criteria: EraseCriteria
) -> Literal["erased", "already_erased", "missing"]:
    """Delete the session and wait until its content is erased from every file. Raises CommandFailed, _Held."""
    has_begun, deadline_s = False, time.monotonic() + COPYING_MAX_S
    given = {"reason_code": criteria.reason_code, "ticket": criteria.ticket}
    query = {name: text for name, text in given.items() if text is not None}
    while True:
        async with client.delete(f"/api/sessions/{session_id}", params=query) as answer:
            if answer.status == 204:
                return "erased"
            if answer.status == 404:
                kind = str((await answer.json()).get("type"))
                is_deleted = kind.endswith("/problems/session-deleted")  # a path prefix may come first
                return "missing" if not is_deleted else "erased" if has_begun else "already_erased"
            if answer.status == 409:
                raise _Held(str((await answer.json()).get("reason")))
            if answer.status != 202:
                raise CommandFailed(await read_detail(answer))
        has_begun = True
        if time.monotonic() > deadline_s:
            raise CommandFailed("it is deleted, and forks still copy what they read of it")
        await asyncio.sleep(COPYING_POLL_S)
