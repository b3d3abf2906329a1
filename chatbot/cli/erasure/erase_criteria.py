"""Which sessions an erasure selects, and why, by the options of the command line.

Projections know a session's present metadata only, so past metadata is searched for in the log.
"""

import argparse
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from chatbot.cli.exit_codes import UsageError
from chatbot.runtime.counted_noun import counted
from chatbot.sessions.domain.commands import DeleteSession
from chatbot.sessions.domain.reasons import find_reason_fault, find_ticket_fault
from events.catalogue import MetadataChanged, SessionCreated
from events.log import EventLog
from projections.folds.blind_index import metadata_matches, normalize_nfc

# The recorded reason, by the option that selected the sessions: constants only, never a name or a value.
REASONS = {
    "sessions": "erasure: session",
    "owner": "erasure: owner",
    "metadata": "erasure: metadata",
    "expired_before": "erasure: expired",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class EraseCriteria(Struct, frozen=True, kw_only=True):
    """Exactly one of the four criteria is set. `reason`, `reason_code` and `ticket` are recorded. Times are unix
    microseconds. `ever`: metadata that a session had in the past counts, too.
    """

    reason: str
    session_ids: tuple[str, ...] = ()
    owner: str | None = None
    metadata: Mapping[str, str] = {}
    expired_by_us: int | None = None
    ever: bool = False
    reason_code: str | None = None
    ticket: str | None = None

    @property
    def command(self) -> DeleteSession:
        """What is asked of each session's actor."""
        return DeleteSession(self.reason, reason_code=self.reason_code, ticket=self.ticket)


def add_criteria_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--session", dest="sessions", nargs="+", metavar="ID", help="these sessions")
    which.add_argument("--owner", metavar="NAME", help="all sessions of this API key's name")
    which.add_argument(
        "--metadata", nargs="+", metavar="NAME=VALUE", help="sessions whose metadata has all of these entries"
    )
    parser.add_argument(
        "--ever",
        action="store_true",
        help="with --metadata: also sessions that had these entries earlier (reads the log)",
    )
    which.add_argument(
        "--expired-before", metavar="DATE", help="sessions that expired before this day (UTC) or time with its zone"
    )


def add_reason_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason-code", metavar="CODE", help="why, such as gdpr-art-17: recorded, and in the receipt")
    parser.add_argument(
        "--ticket", metavar="TEXT", help="the number of the request that this answers: recorded, and in the receipt"
    )


def read_reason(options: argparse.Namespace) -> tuple[str | None, str | None]:
    """The reason code and the ticket of `add_reason_arguments`. Raises UsageError."""
    fault = find_reason_fault(options.reason_code)
    if fault is not None:
        raise UsageError(f"--reason-code: {fault}")
    fault = find_ticket_fault(options.ticket)
    if fault is not None:
        raise UsageError(f"--ticket: {fault}")
    return options.reason_code, options.ticket


def read_criteria(options: argparse.Namespace, now: datetime | None = None) -> EraseCriteria:
    """Parse the options of `add_criteria_arguments` and `add_reason_arguments`. Raises UsageError."""
    reason_code, ticket = read_reason(options)
    return replace(_read_selection(options, now), reason_code=reason_code, ticket=ticket)


def _read_selection(options: argparse.Namespace, now: datetime | None) -> EraseCriteria:
    if options.ever and not options.metadata:
        raise UsageError("--ever goes with --metadata")
    if options.sessions:
        ids = tuple(dict.fromkeys(one.lower() for one in options.sessions))
        return EraseCriteria(reason=REASONS["sessions"], session_ids=ids)
    if options.owner is not None:
        if not options.owner:  # in the projections '' stands for sessions without an owner
            raise UsageError("--owner needs the name of an API key")
        return EraseCriteria(reason=REASONS["owner"], owner=options.owner)
    if options.metadata:
        return EraseCriteria(reason=REASONS["metadata"], metadata=parse_entries(options.metadata), ever=options.ever)
    by = min(_parse_expiry(options.expired_before), now or datetime.now(UTC))  # only sessions that have expired
    return EraseCriteria(reason=REASONS["expired_before"], expired_by_us=(by - _EPOCH) // timedelta(microseconds=1) - 1)


def describe_no_match(criteria: EraseCriteria) -> str:
    """The note if no session is selected: a misspelt name must not look like a successful erasure."""
    hint = ""
    if criteria.metadata and not criteria.ever:
        hint = "; --ever also finds values that a session had earlier"
    return f"nothing matched: these criteria select no session that is not erased yet{hint}"


def describe_hold(session_id: str, reason: str) -> str:
    return f"session {session_id} is under a legal hold and was not erased: {reason}"


def describe_preview(sessions: int, messages: int, held: int) -> str:
    """The note after a dry run. `held`: sessions that match and are under a legal hold, which the others are not."""
    kept = f"; {held:,} under a legal hold would not" if held else ""
    return (
        f"{counted(sessions, 'session')} with {counted(messages, 'message')} would be erased{kept}; nothing was changed"
    )


def parse_entries(texts: list[str]) -> dict[str, str]:
    entries: dict[str, str] = {}
    for text in texts:
        name, equals, value = normalize_nfc(text).partition("=")
        if not (name and equals):
            raise UsageError(f"--metadata takes NAME=VALUE, such as user_id=42, and not {text!r}")
        if entries.setdefault(name, value) != value:
            raise UsageError(f"--metadata: no session has two values of {name}")
    return entries


def _parse_expiry(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise UsageError(f"--expired-before: {text!r} is no day such as 2026-01-31 and no time") from error
    if _DAY.fullmatch(text):
        return moment.replace(tzinfo=UTC)
    if moment.tzinfo is None:
        raise UsageError("--expired-before: a time must say its zone, as in 2026-01-31T09:30:00Z")
    return moment


HEADERS_PAGE = 1_000  # event headers (without contents) read at once
_METADATA_EVENTS = frozenset({"session_created", "metadata_changed"})


async def find_by_past_metadata(log: EventLog, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Ids of the sessions whose metadata had all these entries at the same time, the newest such event first.

    Reads the whole log; erased events are not found. Raises LogUnavailable.
    """
    found: dict[str, int] = {}
    after = 0
    while page := await log.event_headers(after=after, limit=HEADERS_PAGE):
        after = page[-1].position
        recorded = await log.read_at([one.position for one in page if one.type in _METADATA_EVENTS])
        for position in sorted(recorded):
            event = recorded[position].event
            if isinstance(event, SessionCreated | MetadataChanged) and metadata_matches(event.metadata, metadata):
                found.setdefault(recorded[position].stream_id, position)
    return tuple(sorted(found, key=lambda session_id: found[session_id], reverse=True))


class ErasePreview(Struct, frozen=True):
    """A session that would be erased. `messages` counts those of all branches."""

    session_id: str
    status: str
    messages: int
    last_accessed: str


class HeldPreview(Struct, frozen=True):
    """A session that matches and would not be erased. `held`: the reason of the legal hold."""

    session_id: str
    held: str
    hold_id: str
