"""The command find: events, or the sessions that have them, by time, type, key, request, owner and metadata."""

import argparse
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from chatbot.audit.event_view import EventView, encode_row, event_view, format_time
from chatbot.audit.printable_text import printable
from chatbot.audit.search.event_filter import (
    EventFilter,
    SessionFilter,
    parse_entry,
    parse_since,
    parse_types,
    parse_until,
)
from chatbot.audit.search.event_search import SearchQuery, read_rows, scan_events, search_events
from chatbot.audit.search.session_selection import EverySession, KnownSessions, SessionSelector, find_sessions
from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import UsageError
from chatbot.cli.progress_bar import ProgressBar
from chatbot.runtime.counted_noun import counted
from chatbot.runtime.throttle import DutyCycleThrottle
from chatbot.sessions.domain.reasons import recorded_code
from events.catalogue import MESSAGE_REDACTED, RESERVED_STREAMS
from events.log import EventLog
from events.record import Envelope

S = TypeVar("S")
T = TypeVar("T")

LIMIT_DEFAULT = 1000
LIMIT_MAX = 1_000_000  # sessions of which the command keeps a line in memory, or events that it prints
PAGE = 500  # events searched for at once
EXPLAINING = frozenset({"session_deleted", MESSAGE_REDACTED})  # their lines say why, and for which ticket


class FoundSession(Struct):
    """A session with events that match. Times and versions are those of the first and the last of them."""

    session_id: str
    events: int
    first_version: int
    last_version: int
    first_at: str
    last_at: str


def add_filter_arguments(parser: argparse.ArgumentParser) -> None:
    """The filters that find and export have in common, but for --owner."""
    parser.add_argument("--since", metavar="TIME", help="events of this time or later: RFC 3339, or a day (UTC)")
    parser.add_argument(
        "--until", metavar="TIME", help="events of this time or earlier; a day ends with its last second"
    )
    parser.add_argument("--type", dest="types", nargs="+", default=[], metavar="TYPE", help="events of these types")
    parser.add_argument("--key", metavar="NAME", help="events that this API key caused")
    parser.add_argument("--request-id", metavar="ID", help="events of the request with this X-Request-ID")
    parser.add_argument(
        "--metadata", nargs="+", default=[], metavar="NAME=VALUE", help="events of sessions with all of these entries"
    )
    parser.add_argument("--ever", action="store_true", help="with --metadata: also of sessions that had them earlier")


def add_find_arguments(parser: argparse.ArgumentParser) -> None:
    add_filter_arguments(parser)
    parser.add_argument("--owner", metavar="NAME", help="events of sessions that belong to this API key")
    parser.add_argument(
        "--session", dest="sessions", nargs="+", default=[], metavar="ID", help="events of these sessions"
    )
    parser.add_argument("--events", action="store_true", help="print the events instead of their sessions")
    parser.add_argument("--json", action="store_true", help="one object of JSON a line")
    parser.add_argument("--after", type=int, default=0, metavar="POSITION", help="begin after this event of the log")
    parser.add_argument(
        "--limit", type=int, default=LIMIT_DEFAULT, metavar="N", help=f"print at most N (default: {LIMIT_DEFAULT})"
    )


async def find(context: CommandContext, options: argparse.Namespace) -> int:
    """Find sessions, or with --events their events, also while a server runs, or in a copied file. Appends nothing.

    Exit code 0: something was found; 1: nothing was.
    """
    events, sessions = read_filters(options)
    if not 1 <= options.limit <= LIMIT_MAX:
        raise UsageError(f"--limit is 1 to {LIMIT_MAX}")
    async with context.open_read_only() as log:
        selector = await select_sessions(log, sessions, tuple(options.sessions))
        printed = await (_print_events if options.events else _print_sessions)(context, options, log, events, selector)
    if not printed:
        hint = (
            "; --ever also finds values that a session had earlier" if sessions.metadata and not sessions.ever else ""
        )
        context.print_note(f"nothing was found{hint}")
    return 0 if printed else 1


def read_filters(options: argparse.Namespace) -> tuple[EventFilter, SessionFilter]:
    """The filters of `add_filter_arguments` and --owner. Raises UsageError."""
    if options.ever and not options.metadata:
        raise UsageError("--ever goes with --metadata")
    if options.owner == "":
        raise UsageError("--owner needs the name of an API key")
    entries = parse_entries(options.metadata)
    events = EventFilter(
        since_us=None if options.since is None else _parsed("--since", parse_since, options.since),
        until_us=None if options.until is None else _parsed("--until", parse_until, options.until),
        types=_parsed("--type", parse_types, options.types),
        actor=options.key,
        request_id=options.request_id,
    )
    return events, SessionFilter(owner=options.owner, metadata=entries, ever=options.ever)


def parse_entries(texts: Sequence[str]) -> dict[str, str]:
    """Metadata entries written as NAME=VALUE. Raises UsageError."""
    entries = dict(_parsed("--metadata", parse_entry, one) for one in texts)
    if len(entries) < len(texts):
        raise UsageError("--metadata: no session has two values of one name")
    return entries


async def select_sessions(log: EventLog, wanted: SessionFilter, session_ids: tuple[str, ...]) -> SessionSelector:
    """Reads the envelopes of the whole log where `wanted` has conditions. Raises LogUnavailable."""
    chosen = {one.lower() for one in session_ids}
    if wanted.is_empty:
        return KnownSessions(chosen) if chosen else EverySession()
    progress = ProgressBar("selecting sessions", log.head().position)
    found = await find_sessions(log, wanted, on_progress=progress.reach)
    progress.close()
    return KnownSessions(chosen & set(found) if chosen else set(found))


async def _print_events(
    context: CommandContext, options: argparse.Namespace, log: EventLog, events: EventFilter, selector: SessionSelector
) -> int:
    printed, after, throttle = 0, options.after, DutyCycleThrottle(rest_ratio=0)
    end = log.head().position
    progress = ProgressBar("searching", end)
    while after < end and printed < options.limit:
        limit = min(PAGE, options.limit - printed)
        query = SearchQuery(events=events, after=after, end=end, limit=limit, scanned_max=end)
        page = await search_events(log, query, selector, throttle)
        async for rows in read_rows(log, page.positions, throttle):
            for row in rows:
                if options.json:
                    context.print_result(encode_row(row).decode())
                else:
                    context.print_result(_event_line(event_view(row)))
        printed, after = printed + len(page.positions), page.next
        progress.reach(after)
    progress.close()
    if after < end:
        context.print_note(f"there may be more: continue with --after {after}")
    return printed


async def _print_sessions(
    context: CommandContext, options: argparse.Namespace, log: EventLog, events: EventFilter, selector: SessionSelector
) -> int:
    found: dict[str, FoundSession] = {}
    others, end = 0, log.head().position
    progress = ProgressBar("searching", end)
    async for piece in scan_events(log, events, selector, DutyCycleThrottle(rest_ratio=0), (options.after, end)):
        for one in piece.found:
            if one.stream_id in RESERVED_STREAMS:
                continue
            if one.stream_id not in found and len(found) >= options.limit:
                others += 1
                continue
            _count(found, one)
        progress.reach(piece.reached)
    progress.close()
    for session in found.values():
        context.print_json(session) if options.json else context.print_result(_session_line(session))
    if others:
        more = counted(others, "more event matches", "more events match")
        context.print_note(f"{more}, of sessions that are not shown: raise --limit")
    return len(found)


def _count(found: dict[str, FoundSession], one: Envelope) -> None:
    at = format_time(one.recorded_at_us)
    known = found.get(one.stream_id)
    if known is None:
        found[one.stream_id] = FoundSession(one.stream_id, 1, one.version, one.version, at, at)
    else:
        known.events, known.last_version, known.last_at = known.events + 1, one.version, at


def _session_line(one: FoundSession) -> str:
    versions = f"version {one.first_version} to {one.last_version}"
    return printable(f"{one.session_id}  {one.first_at} to {one.last_at}  {counted(one.events, 'event')}, {versions}")


class _Explanation(Struct, frozen=True):
    """What an event that explains an erasure or a redaction says of it."""

    reason_code: str | None = None
    ticket: str | None = None
    reason: str = "redaction"
    message_id: str | None = None
    part: int | None = None

    def __str__(self) -> str:
        message = "" if self.message_id is None else f"message {self.message_id} "
        part = "" if self.part is None else f"part {self.part} "
        ticket = "" if self.ticket is None else f" ticket {self.ticket}"
        return f"{message}{part}reason {recorded_code(self.reason, self.reason_code)}{ticket}"


def _explanation(view: EventView) -> str:
    if view.type not in EXPLAINING or view.data is None:
        return ""
    try:
        return str(msgspec.json.decode(view.data, type=_Explanation))
    except msgspec.MsgspecError:  # tampered with: `verify` tells
        return ""


def _event_line(view: EventView) -> str:
    caused_by = [f"key {view.actor}" if view.actor else "", f"request {view.request_id}" if view.request_id else ""]
    cause = f"cause {view.cause}" if view.cause else ""
    what = " ".join(one for one in (*caused_by, cause, _explanation(view)) if one)
    erased = " (erased)" if view.data is None else ""
    line = f"{view.position:>10}  {view.recorded_at}  {view.session_id}  {view.version:>6}  {view.type}{erased}  {what}"
    return printable(line.rstrip()).replace("\n", "\\n")


def _parsed(option: str, parse: Callable[[S], T], value: S) -> T:
    try:
        return parse(value)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
