"""Whose sessions an erasure means, as the command line says it.

Sessions by metadata that they have or once had: the projections know the present one only, the log knows all.

What erase prints: a line of JSON for each session.
"""

import argparse
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from chatbot.cli.exit_codes import UsageError
from events.catalogue import MetadataChanged, SessionCreated
from events.log import EventLog
from projections.folds.blind_index import metadata_matches, normalize_nfc

# What is recorded as the reason, by what named the sessions: these words and no others, never a name or a value.
REASONS = {
    "sessions": "erasure: session",
    "owner": "erasure: owner",
    "metadata": "erasure: metadata",
    "expired_before": "erasure: expired",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class EraseCriteria(Struct, frozen=True, kw_only=True):
    """One of the four says which; `reason` is recorded. Times are microseconds.

    `ever`: metadata that a session had earlier counts, too.
    """

    reason: str
    session_ids: tuple[str, ...] = ()
    owner: str | None = None
    metadata: Mapping[str, str] = {}
    expired_by_us: int | None = None
    ever: bool = False


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


def read_criteria(options: argparse.Namespace, now: datetime | None = None) -> EraseCriteria:
    """Raises CommandFailed with a sentence for whoever typed it."""
    if options.ever and not options.metadata:
        raise UsageError("--ever goes with --metadata")
    if options.sessions:
        ids = tuple(dict.fromkeys(one.lower() for one in options.sessions))
        return EraseCriteria(reason=REASONS["sessions"], session_ids=ids)
    if options.owner is not None:
        if not options.owner:  # in the projections '' is nobody: all sessions that were made without keys
            raise UsageError("--owner needs the name of an API key")
        return EraseCriteria(reason=REASONS["owner"], owner=options.owner)
    if options.metadata:
        return EraseCriteria(reason=REASONS["metadata"], metadata=_parse_entries(options.metadata), ever=options.ever)
    by = min(_parse_expiry(options.expired_before), now or datetime.now(UTC))  # what has not expired yet never goes
    return EraseCriteria(reason=REASONS["expired_before"], expired_by_us=(by - _EPOCH) // timedelta(microseconds=1) - 1)


def describe_no_match(criteria: EraseCriteria) -> str:
    """What is said where no session is left that is meant: a misspelt name must not look like an erasure."""
    hint = ""
    if criteria.metadata and not criteria.ever:
        hint = " now; --ever also finds values that a session had earlier"
    return f"nothing matched: no session that is not erased yet is meant by this{hint}"


def _parse_entries(texts: list[str]) -> dict[str, str]:
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


OUTLINES_PAGE = 1_000  # events looked at together, without their contents
_METADATA_EVENTS = frozenset({"session_created", "metadata_changed"})


async def find_by_past_metadata(log: EventLog, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Ids of the sessions whose metadata had all these entries at one time, the newest such event first.

    Reads the whole log. What is erased is not found. Raises LogUnavailable.
    """
    found: dict[str, int] = {}
    after = 0
    while page := await log.event_headers(after=after, limit=OUTLINES_PAGE):
        after = page[-1].position
        recorded = await log.read_at([one.position for one in page if one.type in _METADATA_EVENTS])
        for position in sorted(recorded):
            event = recorded[position].event
            if isinstance(event, SessionCreated | MetadataChanged) and metadata_matches(event.metadata, metadata):
                found.setdefault(recorded[position].stream_id, position)
    return tuple(sorted(found, key=lambda session_id: found[session_id], reverse=True))


class Receipt(Struct, frozen=True):
    """The content of `events_erased` events of a session is gone. `reason` is what session_deleted says, `at` when.

    That event is at `position` of the log, with `digest` in its chain: `verify --from POSITION:DIGEST` begins there.
    None where the service was asked over HTTP, which does not tell.
    """

    session_id: str
    events_erased: int | None
    reason: str
    at: str
    position: int | None = None
    digest: str | None = None


class ErasePreview(Struct, frozen=True):
    """A session that would be erased; `messages` of all its branches."""

    session_id: str
    status: str
    messages: int
    last_accessed: str


def moment_of(at_us: int) -> str:
    """RFC 3339, UTC, as the API writes times."""
    return f"{datetime.fromtimestamp(at_us / 1e6, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
