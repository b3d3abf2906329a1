"""The command erase: deletes sessions, selected by id, owner, metadata or age, as DELETE of the HTTP API does.

While the service runs, erase_over_http.py deletes them through it; this works on the files, while no service runs. A
log in PostgreSQL has optimistic concurrency control between processes, so there this works while nodes run, too.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from chatbot.audit.receipt import read_receipt
from chatbot.audit.receipt_signature import sign_receipt
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.erasure.erase_criteria import (
    EraseCriteria,
    ErasePreview,
    HeldPreview,
    add_criteria_arguments,
    add_reason_arguments,
    describe_hold,
    describe_no_match,
    describe_preview,
    find_by_past_metadata,
    read_criteria,
)
from chatbot.cli.erasure.offline_service import OfflineService, open_offline_service
from chatbot.cli.erasure.receipt_command import add_signer_argument, read_signer_option
from chatbot.cli.exit_codes import CommandFailed, ExitCode, UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.cli.remedies import with_remedy
from chatbot.cli.service_client import ServiceAddress, add_service_arguments, read_service
from chatbot.runtime.clock import timestamp
from chatbot.runtime.counted_noun import counted
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import SERVICE
from events.catalogue import MetadataChanged, SessionCreated
from events.errors import LogInUse, LogUnavailable
from events.integrity.incomplete_erasure_scan import scan_incomplete_erasures
from events.integrity.incomplete_erasures import IncompleteErasure, find_incomplete_erasure
from events.paging import read_pages
from projections.errors import ProjectionError
from projections.folds.blind_index import metadata_matches
from projections.folds.session import Session
from projections.port import EraseCandidatesQuery

PAGE = 500  # sessions queried at once
PASSES_MAX = 100  # over all selected sessions: each but the last finds some that nodes have created since
IN_USE_HINT = (
    "{fact}: a running service is the only one that may write. Either stop it, or ask it: --url"
    " http://its-address:port, with --key - where it asks for API keys"
)
ERASURE_PENDING_SQLITE = (
    "another program is reading the log's file, so the write-ahead file beside it may still hold what was erased: stop"
    " that program; `chatbot erased --check TEXT` shows when it is gone"
)
ERASURE_PENDING_POSTGRES = (
    "a transaction that began before is still open, so old versions of rows still hold what was erased: end it, then"
    " VACUUM events (a node does so by itself as soon as it can)"
)


class EraseCounts(Struct):
    """Progress so far."""

    sessions: int = 0
    events: int = 0
    missing: int = 0  # ids that no session has
    held: set[str] = field(default_factory=set)  # sessions under a legal hold

    def __str__(self) -> str:
        held = f"; under a legal hold: {len(self.held):,}" if self.held else ""
        return f"{counted(self.sessions, 'session')}, {counted(self.events, 'event')}{held}"


def add_erase_arguments(parser: argparse.ArgumentParser) -> None:
    add_criteria_arguments(parser)
    add_reason_arguments(parser)
    add_signer_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="list what would be erased, and change nothing")
    add_service_arguments(parser, "erase")


async def erase(context: CommandContext, options: argparse.Namespace) -> int:
    """Erase sessions permanently. Prints one receipt per session on standard output, as lines of JSON.

    The envelopes and token counts per day stay, so the chain can still be verified. Texts that forks read are copied
    into them first. Does not ask for confirmation. After an interruption, run it again: it continues with what is left.
    Sessions under a legal hold stay, and are named, also by --dry-run. With --url, a key with the scope erase erases
    sessions of any owner, another one its own. Exit code 0: no selected session is left, also if none was found, which
    is reported. 1: some are left (--dry-run: would be left), or an id is unknown.
    """
    criteria, address, signer = read_criteria(options), read_service(options), read_signer_option(options)
    if address is not None and signer is not None:
        raise UsageError("--sign-with works on the files; a service signs with a key of its own, anchors.key_file")
    place = Place(address, signer, dry_run=options.dry_run)
    if criteria.ever and address is not None:
        from chatbot.cli.erasure.erase_over_http import erase_by_service  # noqa: PLC0415  an HTTP client

        code = await erase_by_service(context, criteria, address, dry_run=options.dry_run)
        if code is not None:
            return code
    return await (_erase_by_past_metadata if criteria.ever else _erase)(context, criteria, place)


async def _erase_by_past_metadata(context: CommandContext, criteria: EraseCriteria, place: "Place") -> int:
    """As `erase`. The log is read repeatedly until it has no such metadata, as a running service creates sessions."""
    for passes in range(PASSES_MAX):
        async with context.open_read_only() as log:
            ids = await find_by_past_metadata(log, criteria.metadata)
        if not ids:
            if not passes:
                context.print_note(describe_no_match(criteria))
            return 0
        code = await _erase(context, replace(criteria, session_ids=ids), place)
        if code or place.dry_run:
            return code
    raise CommandFailed("sessions with this metadata are created faster than they are erased: run this again")


class Place(Struct, frozen=True):
    """Where to erase: through the service at `address`, None: in the files. `signer`: the key that signs receipts."""

    address: ServiceAddress | None
    signer: str | None
    dry_run: bool


async def _erase(context: CommandContext, criteria: EraseCriteria, place: Place) -> int:
    address = place.address
    if address is not None:
        from chatbot.cli.erasure.erase_over_http import Service, erase_over_http  # noqa: PLC0415  an HTTP client

        return await erase_over_http(context, criteria, Service(address.url, address.key, dry_run=place.dry_run))
    try:
        async with open_offline_service(context) as service:
            if place.dry_run:
                return await _preview(context, service, criteria)
            return await _erase_all(context, service, criteria, place.signer)
    except LogInUse as error:
        raise CommandFailed(IN_USE_HINT.format(fact=error), ExitCode.DATABASE) from error
    except ProjectionError as error:
        raise CommandFailed(with_remedy(error), ExitCode.DATABASE) from error


async def _preview(context: CommandContext, service: OfflineService, criteria: EraseCriteria) -> int:
    sessions, messages, counts = 0, 0, EraseCounts()
    async for session in _select_sessions(context, service, criteria, counts):
        hold = await service.reader.find_hold(session) if session.status != "deleted" else None
        if hold is not None:
            context.print_json(HeldPreview(session.session_id, hold.reason, hold.hold_id))
            counts.held.add(session.session_id)
            continue
        context.print_json(
            ErasePreview(session.session_id, session.status, session.message_count, timestamp(session.accessed_at_us))
        )
        sessions, messages = sessions + 1, messages + session.message_count
    for session in await _find_half_erased(service, criteria):
        context.print_json(ErasePreview(session.session_id, session.status, 0, timestamp(session.accessed_at_us)))
        sessions += 1
    context.print_note(describe_preview(sessions, messages, len(counts.held)))
    if not (sessions or counts.held):
        context.print_note(describe_no_match(criteria))
    return 1 if counts.missing or counts.held else 0


async def _erase_all(
    context: CommandContext, service: OfflineService, criteria: EraseCriteria, signer: str | None
) -> int:
    counts = EraseCounts()
    total, half_erased = (
        await _count_sessions(context, service, criteria, counts),
        await _find_half_erased(service, criteria),
    )
    if not (total or half_erased):
        context.print_note(describe_no_match(criteria))
    passes = 0
    while total:
        progress, before = ProgressBar("erasing", counts.sessions + total, "sessions"), counts.sessions
        async for session in _select_sessions(None, service, criteria, EraseCounts()):
            if session.session_id not in counts.held:
                await _run_to_completion(_erase_one(context, service, criteria, session, counts, signer))
            progress.reach(counts.sessions)
        progress.close()
        passes += 1
        total = await _count_sessions(None, service, criteria, EraseCounts(held=counts.held))
        if total and (passes == PASSES_MAX or counts.sessions == before):
            raise CommandFailed(f"{total:,} sessions that are meant are left, erased so far: {counts}; run this again")
    for session in half_erased:
        await _run_to_completion(_erase_one(context, service, criteria, session, counts, signer))
    context.print_note(f"erased: {counts}")
    if service.ports.log.erasure_pending:
        context.print_note(ERASURE_PENDING_POSTGRES if service.ports.log.is_shared else ERASURE_PENDING_SQLITE)
    return 1 if counts.missing or counts.held or service.ports.log.erasure_pending else 0


async def _count_sessions(
    context: CommandContext | None, service: OfflineService, criteria: EraseCriteria, counts: EraseCounts
) -> int:
    total = 0
    async for session in _select_sessions(context, service, criteria, counts):
        total += session.session_id not in counts.held
    return total


async def _erase_one(
    context: CommandContext,
    service: OfflineService,
    criteria: EraseCriteria,
    session: Session,
    counts: EraseCounts,
    signer: str | None,
) -> None:
    """Delete it and print its receipt. Raises CommandFailed."""
    try:
        await service.supervisor.ask(session.session_id, criteria.command, SERVICE, cause="erasure")
    except rejections.SessionHeld as held:
        counts.held.add(session.session_id)
        context.print_note(describe_hold(session.session_id, held.members["reason"]))
        return
    except (rejections.SessionNotFound, rejections.SessionDeleted):  # deleted in the meantime
        return
    except (rejections.Rejection, rejections.ActorFailed, LogUnavailable) as error:
        raise CommandFailed(
            f"session {session.session_id} was not erased: {with_remedy(error)}. Done so far: {counts}; run this again"
            " to go on"
        ) from error
    receipt = await read_receipt(service.ports.log, session.session_id)
    if receipt is None:
        raise CommandFailed(f"session {session.session_id} was erased, and the log does not say so: verify it")
    context.print_json(receipt if signer is None else sign_receipt(receipt, signer))
    counts.sessions += 1
    counts.events += receipt.events_erased or 0


async def _run_to_completion(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end even if cancelled (Ctrl-C): no session is erased without its receipt."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _select_sessions(
    context: CommandContext | None, service: OfflineService, criteria: EraseCriteria, counts: EraseCounts
) -> AsyncIterator[Session]:
    """The selected sessions, newest first, so that a fork comes before its source. Ids that no session has are noted
    through `context`.
    """
    await service.reader.catch_up()
    if criteria.session_ids:
        for session in await _find_named(context, service, criteria.session_ids, counts):
            yield session
        return
    before_no: int | None = None
    while True:
        await service.reader.catch_up()
        page = await service.ports.queries.erase_candidates(
            EraseCandidatesQuery(
                owner=criteria.owner,
                metadata=criteria.metadata,
                expired_by_us=criteria.expired_by_us,
                before_no=before_no,
                limit=PAGE,
            )
        )
        for session in await _confirm_metadata(service, page, criteria.metadata):
            yield session
        if len(page) < PAGE:
            return
        before_no = page[-1].no


async def _find_half_erased(service: OfflineService, criteria: EraseCriteria) -> list[Session]:
    """Selected sessions that are deleted while content of them is left (incomplete erasures). Projections know only
    their owner, so the metadata is read from that content. Sessions selected by id are found by `_find_named`.
    """
    if criteria.session_ids or not (criteria.owner is not None or criteria.metadata):
        return []
    found = []
    for left in await scan_incomplete_erasures(service.ports.log):
        session = await service.ports.queries.session(left.stream_id)
        if session is None or criteria.owner not in (None, session.owner):
            continue
        if not criteria.metadata or await _had_metadata(service, left, criteria.metadata):
            found.append(session)
    return found


async def _had_metadata(service: OfflineService, left: IncompleteErasure, metadata: Mapping[str, str]) -> bool:
    """Whether the session had this metadata when it was deleted."""
    last: Mapping[str, object] = {}
    async for page in read_pages(service.ports.log, left.stream_id, page_max=service.ports.limits.read_page_max):
        for recorded in page:
            if isinstance(recorded.event, SessionCreated | MetadataChanged):
                last = recorded.event.metadata
    return metadata_matches(last, metadata)


async def _confirm_metadata(service: OfflineService, page: list[Session], metadata: Mapping[str, str]) -> list[Session]:
    """The sessions of `page` that have this metadata; the blind index behind `page` may have false positives."""
    if not metadata:
        return page
    return [one.session for one in await service.reader.with_metadata(page) if metadata_matches(one.metadata, metadata)]


async def _find_named(
    context: CommandContext | None, service: OfflineService, session_ids: tuple[str, ...], counts: EraseCounts
) -> list[Session]:
    found: list[Session] = []
    for session_id in session_ids:
        session = await service.ports.queries.session(session_id)
        if session is None:
            counts.missing += 1
            if context is not None:
                context.print_note(f"there is no session {session_id}")
        elif session.status != "deleted" or await find_incomplete_erasure(service.ports.log, session_id):
            found.append(session)
    return sorted(found, key=lambda one: one.no, reverse=True)
