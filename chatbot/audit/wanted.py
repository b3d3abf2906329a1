"""Whose sessions an erasure means, as the command line says it."""

import argparse
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from chatbot.audit.desk import CommandFailed
from projections.labels import composed

# What is recorded as the reason, by what named the sessions: these words and no others, never a name or a value.
REASONS = {
    "sessions": "erasure: session",
    "owner": "erasure: owner",
    "metadata": "erasure: metadata",
    "expired_before": "erasure: expired",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class Wanted(Struct, frozen=True, kw_only=True):
    """One of the four says which; `reason` is recorded. Times are microseconds.

    `ever`: metadata that a session had earlier counts, too.
    """

    reason: str
    session_ids: tuple[str, ...] = ()
    owner: str | None = None
    metadata: Mapping[str, str] = {}
    expired_by_us: int | None = None
    ever: bool = False


def wanted_arguments(parser: argparse.ArgumentParser) -> None:
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


def read_wanted(options: argparse.Namespace, now: datetime | None = None) -> Wanted:
    """Raises CommandFailed with a sentence for whoever typed it."""
    if options.ever and not options.metadata:
        raise CommandFailed("--ever goes with --metadata", 2)
    if options.sessions:
        ids = tuple(dict.fromkeys(one.lower() for one in options.sessions))
        return Wanted(reason=REASONS["sessions"], session_ids=ids)
    if options.owner is not None:
        if not options.owner:  # in the projections '' is nobody: all sessions that were made without keys
            raise CommandFailed("--owner needs the name of an API key", 2)
        return Wanted(reason=REASONS["owner"], owner=options.owner)
    if options.metadata:
        return Wanted(reason=REASONS["metadata"], metadata=_entries(options.metadata), ever=options.ever)
    by = min(_moment(options.expired_before), now or datetime.now(UTC))  # what has not expired yet never goes
    return Wanted(reason=REASONS["expired_before"], expired_by_us=(by - _EPOCH) // timedelta(microseconds=1) - 1)


def nothing_matched(wanted: Wanted) -> str:
    """What is said where no session is left that is meant: a misspelt name must not look like an erasure."""
    hint = ""
    if wanted.metadata and not wanted.ever:
        hint = " now; --ever also finds values that a session had earlier"
    return f"nothing matched: no session that is not erased yet is meant by this{hint}"


def _entries(texts: list[str]) -> dict[str, str]:
    entries: dict[str, str] = {}
    for text in texts:
        name, equals, value = composed(text).partition("=")
        if not (name and equals):
            raise CommandFailed(f"--metadata takes NAME=VALUE, such as user_id=42, and not {text!r}", 2)
        if entries.setdefault(name, value) != value:
            raise CommandFailed(f"--metadata: no session has two values of {name}", 2)
    return entries


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise CommandFailed(f"--expired-before: {text!r} is no day such as 2026-01-31 and no time", 2) from error
    if _DAY.fullmatch(text):
        return moment.replace(tzinfo=UTC)
    if moment.tzinfo is None:
        raise CommandFailed("--expired-before: a time must say its zone, as in 2026-01-31T09:30:00Z", 2)
    return moment
