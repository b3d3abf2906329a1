"""What a report is asked for."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from chatbot.audit.report.entries import Retention
from chatbot.config.sections.session_settings import SessionSettings
from events.integrity.signed_checkpoint import LogCheckpoint

SESSIONS_MAX = 10_000  # of a report, whose list of sessions is in memory: about 500 bytes each
PROVEN_EVENTS_MAX = 20_000  # of one session: its proof is in memory, about 2.5 kB for each event


class ReportRequest(Struct, frozen=True, kw_only=True):
    """What to report. `selected_by` is told at the beginning; `checkpoint`: its text, and what it states."""

    session_ids: Sequence[str]
    selected_by: dict[str, Any]
    created_at: str
    program: str
    retention: Retention
    controller: str | None = None
    purpose: str | None = None
    requests: bool = False
    images: bool = False
    checkpoint: tuple[str, LogCheckpoint] | None = None
    proven_events_max: int = PROVEN_EVENTS_MAX


def retention_of(settings: SessionSettings) -> Retention:
    """What the settings say of how long sessions are kept."""
    return Retention(settings.timeout_hours, settings.erase_expired_after_hours)
