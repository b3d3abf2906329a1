"""Erasing through POST /api/erasures of a running service, with a key that has the scope erase."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct, field

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.erasure.erase_criteria import (
    EraseCriteria,
    ErasePreview,
    HeldPreview,
    describe_hold,
    describe_no_match,
    describe_preview,
)
from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.service_client import read_detail
from chatbot.runtime.clock import timestamp
from chatbot.runtime.counted_noun import counted

IDS_MAX = 1_000  # sessions that one request names
PASSES_MAX = 100  # over the sessions that match: each but the last erases something
ANSWER_TIMEOUT_S = 3_600.0  # for an answer of at most 1,000 erasures
COPYING_MAX_S = 3_600.0  # for what the forks of one session read of it
COPYING_POLL_S = 0.5
REFUSALS = (403, 404, 405)  # the key has not the scope, or the service is older: the caller goes another way


class BulkCounts(Struct):
    """Progress so far. `left`: sessions that are not erased, with the reason. `is_preview`: nothing is erased."""

    is_preview: bool
    erased: set[str] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)
    messages: int = 0

    @property
    def held(self) -> int:
        return sum(status == "held" for status in self.left.values())


class _Refused(Exception):
    """The service does not do this for this key."""


async def erase_in_bulk(
    context: CommandContext, client: aiohttp.ClientSession, criteria: EraseCriteria, *, dry_run: bool
) -> int | None:
    """As the command erase. Returns its exit code; None if the service does not do this for this key, which has changed
    nothing. Raises CommandFailed.
    """
    counts = BulkCounts(is_preview=dry_run)
    progress = ProgressBar("erasing", 0, "sessions")
    try:
        for ids in _batches(criteria.session_ids):
            for _ in range(PASSES_MAX):
                before = len(counts.erased)
                await _run_pass(context, client, {**_body(criteria, ids), "dry_run": dry_run}, counts, progress)
                if ids or dry_run or len(counts.erased) == before:
                    break
            else:
                raise CommandFailed(f"sessions that are meant come faster than they are erased: {_summary(counts)}")
    except _Refused:
        return None
    progress.close()
    if not (counts.erased or counts.left):
        context.print_note(describe_no_match(criteria))
    if dry_run:
        context.print_note(describe_preview(len(counts.erased), counts.messages, counts.held))
    else:
        context.print_note(_summary(counts))
    return 1 if counts.left else 0


def _batches(ids: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [ids[first : first + IDS_MAX] for first in range(0, len(ids), IDS_MAX)] or [()]


def _body(criteria: EraseCriteria, ids: tuple[str, ...]) -> dict[str, Any]:
    body: dict[str, Any] = {"reason_code": criteria.reason_code or "erasure"}
    if criteria.ticket is not None:
        body["ticket"] = criteria.ticket
    if ids:
        return {**body, "session_ids": list(ids)}
    if criteria.owner is not None:
        return {**body, "owner": criteria.owner}
    if criteria.expired_by_us is not None:
        return {**body, "expired_before": timestamp(criteria.expired_by_us + 1)}
    return {**body, "metadata": dict(criteria.metadata), "ever": criteria.ever}


async def _run_pass(
    context: CommandContext,
    client: aiohttp.ClientSession,
    body: dict[str, Any],
    counts: BulkCounts,
    progress: ProgressBar,
) -> None:
    """All that matches now, request by request. Raises CommandFailed, _Refused."""
    cursor: int | None = None
    for _ in range(PASSES_MAX * IDS_MAX):
        summary: dict[str, Any] | None = None
        async for line in _lines(client, body if cursor is None else {**body, "cursor": cursor}):
            summary = line.get("summary")
            await _take_line(context, client, line, counts)
            progress.reach(len(counts.erased))
        if summary is None:
            raise CommandFailed(f"the service's answer was cut. {_summary(counts)}; run this again to go on")
        cursor = summary.get("next")
        if cursor is None:
            return


async def _lines(client: aiohttp.ClientSession, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    headers = {"Accept": "application/x-ndjson"}
    async with client.post("/api/erasures", json=body, headers=headers, timeout=timeout) as answer:
        if answer.status in REFUSALS:
            raise _Refused
        if answer.status != 200:
            raise CommandFailed(f"the service refuses: {await read_detail(answer)}")
        async for line in answer.content:
            yield msgspec.json.decode(line)


async def _take_line(
    context: CommandContext, client: aiohttp.ClientSession, line: dict[str, Any], counts: BulkCounts
) -> None:
    if found := line.get("to_erase"):
        context.print_json(
            ErasePreview(found["session_id"], found["status"], found["messages"], found["last_accessed"])
        )
        counts.erased.add(found["session_id"])
        counts.messages += found["messages"]
    left = line.get("not_erased")
    receipt = line.get("receipt")
    if left is not None and left["status"] == "erasing":
        receipt = await _await_receipt(client, left["session_id"])
    elif left is not None and counts.left.get(left["session_id"]) is None:
        counts.left[left["session_id"]] = left["status"]
        if counts.is_preview and left["status"] == "held":
            context.print_json(HeldPreview(left["session_id"], left["reason"], left["hold_id"]))
        else:
            context.print_note(_describe(left))
    if receipt is not None and receipt["session_id"] not in counts.erased:
        context.print_json(receipt)
        counts.erased.add(receipt["session_id"])
        counts.left.pop(receipt["session_id"], None)


async def _await_receipt(client: aiohttp.ClientSession, session_id: str) -> dict[str, Any]:
    """The receipt, once forks have copied what they read of the session. Raises CommandFailed."""
    deadline_s = time.monotonic() + COPYING_MAX_S
    while time.monotonic() < deadline_s:
        async with client.get(f"/api/sessions/{session_id}/receipt") as answer:
            if answer.status == 200:
                receipt: dict[str, Any] = await answer.json()
                return receipt
            if answer.status != 202:
                raise CommandFailed(f"session {session_id} has no receipt: {await read_detail(answer)}")
        await asyncio.sleep(COPYING_POLL_S)
    raise CommandFailed(f"session {session_id} is deleted, and forks still copy what they read of it")


def _describe(left: dict[str, Any]) -> str:
    session_id = left["session_id"]
    if left["status"] == "held":
        return describe_hold(session_id, str(left.get("reason")))
    if left["status"] == "missing":
        return f"there is no session {session_id}"
    return f"session {session_id} was not erased: {left.get('reason')}"


def _summary(counts: BulkCounts) -> str:
    held = f"; under a legal hold: {counts.held:,}" if counts.held else ""
    return f"erased: {counted(len(counts.erased), 'session')}{held}"
