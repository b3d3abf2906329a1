"""The bodies of requests and answers about erasures and legal holds."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from chatbot.api.problems import RequestFault
from chatbot.audit.receipt import Receipt
from chatbot.runtime.clock import timestamp
from chatbot.sessions.domain.reasons import REASON_CODE, TICKET_MAX_CHARS
from events.schema.hold_events import Hold
from events.schema.parts import PARTS_MAX

ERASE_MAX = 1_000  # sessions that one request erases; the next one goes on
VALUES_MAX = 8  # metadata entries of one criterion
REASON_MAX_CHARS = 1_000  # of a hold

ReasonCode = Annotated[str, Meta(pattern=f"^{REASON_CODE}$", examples=["gdpr-art-17"])]
TicketNumber = Annotated[
    str, Meta(min_length=1, max_length=TICKET_MAX_CHARS, pattern=r"^[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$")
]
Reason = Annotated[str, Meta(min_length=1, max_length=REASON_MAX_CHARS)]
SessionId = Annotated[str, Meta(min_length=36, max_length=36)]
Owner = Annotated[str, Meta(min_length=1, max_length=200)]
Value = Annotated[str, Meta(max_length=16_384)]
Entries = Annotated[dict[str, Value], Meta(min_length=1, max_length=VALUES_MAX)]


class HoldBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of `session_id`, `owner` and `metadata`. `reason` is told to those who are refused an erasure."""

    reason: Reason
    ticket: TicketNumber | None = None
    session_id: SessionId | None = None
    owner: Owner | None = None
    metadata: Entries | None = None


class ReleaseBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    reason: Reason
    ticket: TicketNumber | None = None


class HoldView(Struct, frozen=True):
    """`session_status`: of the session that a new hold names; deleted: it was too late, its content is gone."""

    hold_id: str
    reason: str
    ticket: str | None
    session_id: str | None
    owner: str | None
    metadata: dict[str, str] | None
    added_at: str
    added_by: str | None
    session_status: Literal["active", "expired", "erasing", "deleted"] | None = None


class HoldList(Struct, frozen=True):
    """`released`: holds that have ended and that the log still describes; POST /api/holds/forget erases that."""

    holds: list[HoldView]
    released: int


class ForgottenView(Struct, frozen=True):
    """What the log said of `holds` released holds is erased; the event that says so is at `position`, with `digest`."""

    holds: int
    at: str | None = None
    position: int | None = None
    digest: str | None = None


class EraseBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of `session_ids`, `owner`, `metadata` and `expired_before`. `ever`: also sessions that had the
    metadata earlier. `cursor`: the `next` of the answer before.
    """

    reason_code: ReasonCode
    ticket: TicketNumber | None = None
    session_ids: Annotated[list[SessionId], Meta(min_length=1, max_length=ERASE_MAX)] | None = None
    owner: Owner | None = None
    metadata: Entries | None = None
    expired_before: Annotated[str, Meta(max_length=40)] | None = None
    ever: bool = False
    dry_run: bool = False
    limit: Annotated[int, Meta(ge=1, le=ERASE_MAX)] = ERASE_MAX
    cursor: Annotated[int, Meta(ge=0, le=10**18)] | None = None


class RedactBody(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`part`: the number of the part in the message's `parts`, from 0; without it all of the message is redacted."""

    reason_code: ReasonCode
    ticket: TicketNumber | None = None
    part: Annotated[int, Meta(ge=0, lt=PARTS_MAX)] | None = None


def check_explanation(body: EraseBody | RedactBody | HoldBody | ReleaseBody) -> None:
    """Raises RequestFault for a line feed at the end of a code or ticket: in a pattern, $ stands before one, too."""
    for name in ("reason_code", "ticket"):
        if (getattr(body, name, None) or "").endswith("\n"):
            raise RequestFault("ends with a line feed", f"$.{name}")


Left = Literal["held", "erasing", "missing", "refused"]


class SessionNotErased(Struct, frozen=True, omit_defaults=True):
    """Why a session is not erased, or not yet: a legal hold, the copying of texts that forks read, no such session, or
    for now.
    """

    session_id: str
    status: Left
    reason: str | None = None
    hold_id: str | None = None


class SessionToErase(Struct, frozen=True):
    """With `dry_run`: a session that would be erased. `messages` counts those of all branches."""

    session_id: str
    status: str
    messages: int
    last_accessed: str


class EraseSummary(Struct, frozen=True):
    """The last line. `next`: more sessions may match; send it as `cursor`. Null: all were looked at."""

    erased: int
    not_erased: int
    next: int | None


class EraseLine(Struct, frozen=True, omit_defaults=True):
    """Exactly one of the members."""

    receipt: Receipt | None = None
    not_erased: SessionNotErased | None = None
    to_erase: SessionToErase | None = None
    summary: EraseSummary | None = None


class EraseAnswer(Struct, frozen=True):
    """A line for each session, the last one with the summary. As NDJSON, each line comes as soon as it is known."""

    lines: list[EraseLine]


def hold_view(hold: Hold, session_status: Literal["active", "expired", "erasing", "deleted"] | None = None) -> HoldView:
    return HoldView(
        hold_id=hold.hold_id,
        reason=hold.reason,
        ticket=hold.ticket,
        session_id=hold.session_id,
        owner=hold.owner,
        metadata=hold.metadata,
        added_at=timestamp(hold.added_at_us),
        added_by=hold.added_by,
        session_status=session_status,
    )
