"""The command erase: sessions that a person, an owner or their age names are deleted as DELETE deletes them.

Where the service runs, `erasing_remotely.py` asks it over HTTP; this works on the files, while no service runs. A log
in PostgreSQL is decided by version, so there it works beside the nodes, too.
"""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from chatbot.audit.desk import CommandFailed, Desk, Progress
from chatbot.audit.earlier_metadata import find_sessions
from chatbot.audit.erasing_remotely import Service, erase_remotely
from chatbot.audit.offline import Offline, offline
from chatbot.audit.receipts import Receipt, WouldGo, moment_of
from chatbot.audit.wanted import Wanted, nothing_matched, read_wanted, wanted_arguments
from chatbot.sessions import errors
from chatbot.sessions.commands import SERVICE, DeleteSession
from events.catalogue import MetadataChanged, SessionCreated
from events.errors import LogInUse, LogUnavailable
from events.leftover_scan import scan_leftovers
from events.leftovers import Leftover, find_leftover
from projections.erasable import Erasable
from projections.errors import ProjectionError
from projections.labels import matches
from projections.session import Session

PAGE = 500  # sessions looked up at once
PASSES_MAX = 100  # over all sessions that are meant: each but the last meets some that nodes have made meanwhile
EXIT_DATABASE = 3
IN_USE = (
    "{fact}: a running service is the only one that may write. Either stop it, or ask it: --url"
    " http://its-address:port, with --key - where it asks for API keys"
)
PENDING = (
    "another program is reading the log's file, so the write-ahead file beside it may still hold what was erased: stop"
    " that program; `chatbot erased --check TEXT` shows when it is gone"
)
PENDING_SHARED = (
    "a transaction that began before is still open, so old versions of rows still hold what was erased: end it, then"
    " VACUUM events (a node does so by itself as soon as it can)"
)


class Tally(Struct):
    """What has been done so far."""

    sessions: int = 0
    events: int = 0
    missing: int = 0  # named, and never there

    def __str__(self) -> str:
        return f"{self.sessions:,} sessions, {self.events:,} events"


def erase_arguments(parser: argparse.ArgumentParser) -> None:
    wanted_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and change nothing")
    parser.add_argument("--url", metavar="URL", help="ask the service that runs there in place of opening its files")
    parser.add_argument(
        "--key",
        metavar="SECRET",
        help="with --url: the API key whose sessions are meant; - reads it from"
        " standard input, where other users of this machine cannot see it",
    )


async def erase(desk: Desk, options: argparse.Namespace) -> int:
    """Erase sessions for good: one receipt a session on standard output, as lines of JSON.

    What is left are the envelopes and the day's token counts, so the chain still holds. Texts that forks read are
    handed over first. Asks nothing; run again after an interruption, it goes on with what is left. Exit code 0: nothing
    that was meant is left, also where nothing was found, which is said. 1: something is left, or an id is unknown.
    """
    wanted = read_wanted(options)
    return await (_erase_ever if wanted.ever else _erase)(desk, options, wanted)


async def _erase_ever(desk: Desk, options: argparse.Namespace, wanted: Wanted) -> int:
    """As `erase`. The log is read again and again until it has no such metadata: a running service makes sessions."""
    for passes in range(PASSES_MAX):
        async with desk.reading() as log:
            ids = await find_sessions(log, wanted.metadata)
        if not ids:
            if not passes:
                desk.note(nothing_matched(wanted))
            return 0
        code = await _erase(desk, options, replace(wanted, session_ids=ids))
        if code or options.dry_run:
            return code
    raise CommandFailed("sessions that are meant are made faster than they are erased: run this again")


async def _erase(desk: Desk, options: argparse.Namespace, wanted: Wanted) -> int:
    if options.url:
        key = _typed() if options.key == "-" else options.key
        return await erase_remotely(desk, wanted, Service(options.url, key, dry_run=options.dry_run))
    if options.key:
        raise CommandFailed("--key goes with --url: the files are open to whoever can write them", 2)
    try:
        async with offline(desk.settings) as inside:
            if options.dry_run:
                return await _tell(desk, inside, wanted)
            return await _erase_all(desk, inside, wanted)
    except LogInUse as error:
        raise CommandFailed(IN_USE.format(fact=error.fact), EXIT_DATABASE) from error
    except ProjectionError as error:
        raise CommandFailed(str(error), EXIT_DATABASE) from error


def _typed() -> str:
    """The secret, from one line of standard input; in no thread, for Ctrl-C would wait for it. Raises CommandFailed."""
    secret = sys.stdin.readline().strip()
    if not secret:
        raise CommandFailed("--key -: standard input has no line with the key", 2)
    return secret


async def _tell(desk: Desk, inside: Offline, wanted: Wanted) -> int:
    sessions, messages, tally = 0, 0, Tally()
    async for session in _found(desk, inside, wanted, tally):
        desk.say_json(
            WouldGo(session.session_id, session.status, session.message_count, moment_of(session.accessed_at_us))
        )
        sessions, messages = sessions + 1, messages + session.message_count
    for session in await _half_erased(inside, wanted):
        desk.say_json(WouldGo(session.session_id, session.status, 0, moment_of(session.accessed_at_us)))
        sessions += 1
    desk.note(f"{sessions:,} sessions with {messages:,} messages would be erased; nothing was changed")
    if not sessions:
        desk.note(nothing_matched(wanted))
    return 1 if tally.missing else 0


async def _erase_all(desk: Desk, inside: Offline, wanted: Wanted) -> int:
    tally = Tally()
    total, half_erased = await _count(desk, inside, wanted, tally), await _half_erased(inside, wanted)
    if not (total or half_erased):
        desk.note(nothing_matched(wanted))
    passes = 0
    while total:
        progress, before = Progress("erasing", tally.sessions + total, "sessions"), tally.sessions
        async for session in _found(None, inside, wanted, Tally()):
            await _to_its_end(_erase_one(desk, inside, wanted.reason, session, tally))
            progress.reach(tally.sessions)
        progress.close()
        passes += 1
        total = await _count(None, inside, wanted, Tally())
        if total and (passes == PASSES_MAX or tally.sessions == before):
            raise CommandFailed(f"{total:,} sessions that are meant are left, erased so far: {tally}; run this again")
    for session in half_erased:
        await _to_its_end(_erase_one(desk, inside, wanted.reason, session, tally))
    desk.note(f"erased: {tally}")
    if inside.ports.log.erasure_pending:
        desk.note(PENDING_SHARED if inside.ports.log.is_shared else PENDING)
    return 1 if tally.missing or inside.ports.log.erasure_pending else 0


async def _count(desk: Desk | None, inside: Offline, wanted: Wanted, tally: Tally) -> int:
    total = 0
    async for _ in _found(desk, inside, wanted, tally):
        total += 1
    return total


async def _erase_one(desk: Desk, inside: Offline, reason: str, session: Session, tally: Tally) -> None:
    """Delete it and print its receipt. Raises CommandFailed."""
    try:
        await inside.supervisor.ask(session.session_id, DeleteSession(reason), SERVICE, cause="erasure")
    except (errors.SessionNotFound, errors.SessionDeleted):  # gone by now
        return
    except (errors.Rejection, errors.ActorFailed, LogUnavailable) as error:
        raise CommandFailed(
            f"session {session.session_id} was not erased: {error}. Done so far: {tally}; run this again to go on"
        ) from error
    (recorded,) = await inside.ports.log.read(session.session_id, limit=1, backwards=True)
    (row,) = await inside.ports.log.rows(after=recorded.position - 1, limit=1)
    erased, at = recorded.version - 1, moment_of(recorded.recorded_at_us)
    desk.say_json(Receipt(session.session_id, erased, reason, at, recorded.position, row.digest.hex()))
    tally.sessions += 1
    tally.events += erased


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Ctrl-C waits for the session at hand: nothing is erased without its receipt."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _found(desk: Desk | None, inside: Offline, wanted: Wanted, tally: Tally) -> AsyncIterator[Session]:
    """The sessions that are meant, the newest first: a fork before what it was made from. `desk` hears of ids that
    no session has.
    """
    await inside.reader.catch_up()
    if wanted.session_ids:
        for session in await _named(desk, inside, wanted.session_ids, tally):
            yield session
        return
    before_no: int | None = None
    while True:
        await inside.reader.catch_up()
        page = await inside.ports.queries.erasable(
            Erasable(
                owner=wanted.owner,
                metadata=wanted.metadata,
                expired_by_us=wanted.expired_by_us,
                before_no=before_no,
                limit=PAGE,
            )
        )
        for session in await _really(inside, page, wanted.metadata):
            yield session
        if len(page) < PAGE:
            return
        before_no = page[-1].no


async def _half_erased(inside: Offline, wanted: Wanted) -> list[Session]:
    """Sessions that are meant and deleted, and of which content is still there: the projections know no more of them
    than their owner, so what is left tells the metadata. Named ones are found by `_named`.
    """
    if wanted.session_ids or not (wanted.owner is not None or wanted.metadata):
        return []
    found = []
    for left in await scan_leftovers(inside.ports.log):
        session = await inside.ports.queries.session(left.stream_id)
        if session is None or wanted.owner not in (None, session.owner):
            continue
        if not wanted.metadata or await _had(inside, left, wanted.metadata):
            found.append(session)
    return found


async def _had(inside: Offline, left: Leftover, metadata: Mapping[str, str]) -> bool:
    """Whether the session had this metadata when it was deleted."""
    last: Mapping[str, object] = {}
    after, page_max = 0, inside.ports.limits.read_page_max
    while page := await inside.ports.log.read(left.stream_id, after=after, limit=page_max):
        for recorded in page:
            if isinstance(recorded.event, SessionCreated | MetadataChanged):
                last = recorded.event.metadata
        after = page[-1].version
    return matches(last, metadata)


async def _really(inside: Offline, page: list[Session], metadata: Mapping[str, str]) -> list[Session]:
    """Those of `page` whose metadata is what was asked for: a label alone only makes it very likely."""
    if not metadata:
        return page
    return [one.session for one in await inside.reader.described(page) if matches(one.metadata, metadata)]


async def _named(desk: Desk | None, inside: Offline, session_ids: tuple[str, ...], tally: Tally) -> list[Session]:
    found: list[Session] = []
    for session_id in session_ids:
        session = await inside.ports.queries.session(session_id)
        if session is None:
            tally.missing += 1
            if desk is not None:
                desk.note(f"there is no session {session_id}")
        elif session.status != "deleted" or await find_leftover(inside.ports.log, session_id):
            found.append(session)
    return sorted(found, key=lambda one: one.no, reverse=True)
