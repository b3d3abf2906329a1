"""The entries of a report, in the order in which they are written. Each is a line of the NDJSON form, with its type.

A report is a head, then for each session a SessionEntry, what happened in it, and its proof, and an end.
"""

from typing import Any

from msgspec import Struct

from chatbot.audit.session_proof import Proof
from events.catalogue import Origin, Parameters, Usage
from events.schema.parts import Parts

FORMAT_NAME = "chatbot-report"
FORMAT_VERSION = 1


class _Entry(Struct, frozen=True, tag_field="type", omit_defaults=True, kw_only=True):
    """Subclasses are the kinds of entries."""


class Recipient(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A model that was sent messages: the protocol and name of its server, as recorded, and its number of requests."""

    provider: str
    model: str
    requests: int
    server: str | None = None


class ErasedUsage(Struct, frozen=True):
    """Replies that a model completed and whose content is erased, as the erasures keep their number and tokens."""

    model: str
    replies: int
    prompt_tokens: int
    completion_tokens: int


class Retention(Struct, frozen=True):
    """How long sessions are kept, by the settings of the service, in hours; 0: without end."""

    expires_after_hours: float
    erased_after_expiry_hours: float


class Totals(Struct, frozen=True):
    """What the sessions of a report have together. `erased_events` have no content any more: they count as `redactions`
    and `events`, and not as anything else.
    """

    sessions: int
    messages: int
    replies: int
    files: int
    events: int
    erased_events: int
    redactions: int


class SessionSummary(Struct, frozen=True):
    """A session in the list at the beginning of a report."""

    session_id: str
    title: str | None
    status: str
    created_at: str
    last_event_at: str
    messages: int


class ReportHead(_Entry, frozen=True, kw_only=True, tag="report"):
    """What the report is about, and of which log. `position` and `digest` are those of the log's head at its beginning.

    `selected_by` is how the sessions were chosen. `checkpoint` is the signed statement that the proofs lead to.

    `recipients` are those of requests whose content is recorded. `erased_requests` are the others: an erasure leaves
    neither their server nor their protocol, and of the models only `erased_usage`.
    """

    format: str = ""
    version: int = 0
    created_at: str
    program: str
    log: str
    position: int
    digest: str
    selected_by: dict[str, Any]
    totals: Totals
    recipients: tuple[Recipient, ...]
    retention: Retention
    erased_requests: int = 0
    erased_usage: tuple[ErasedUsage, ...] = ()
    controller: str | None = None
    purpose: str | None = None
    checkpoint: str | None = None


class SessionEntry(_Entry, frozen=True, kw_only=True, tag="session"):
    """A session as it is. `messages` counts those with content, `erased_events` the events without it."""

    session_id: str
    status: str
    created_at: str
    last_event_at: str
    last_version: int
    messages: int
    erased_events: int
    owner: str | None = None
    title: str | None = None
    metadata: dict[str, Any] = {}
    system_prompt: str | None = None
    parameters: Parameters | None = None
    forked_from: Origin | None = None
    kind: str = ""


class Happened(_Entry, frozen=True, kw_only=True):
    """`key` is the name of the API key that caused the event, `cause` why the service acted by itself."""

    session_id: str
    at: str
    position: int
    version: int
    key: str | None = None
    request_id: str | None = None
    cause: str | None = None


class MessageEntry(Happened, frozen=True, kw_only=True, tag="message"):
    """A message, in the order of its event. `number` counts the messages of the session, `follows` is that of the
    message before it in its branch. `selected`: it is on the branch that was selected at the end.

    `again`: the message has had an entry before, as an attempt to generate it was interrupted.

    `request` is the body of the request that the model was sent, `requested_at` when. `adopted`: a fork has it from
    another session, in which it was written at `at`; the position is then that of its event there.
    """

    message_id: str
    number: int
    role: str
    status: str
    parts: Parts
    follows: int | None = None
    selected: bool = False
    again: bool = False
    imported: bool = False
    adopted: bool = False
    model: str | None = None
    provider: str | None = None
    server: str | None = None
    requested_at: str | None = None
    duration_us: int | None = None
    finish_reason: str | None = None
    finish_detail: str = ""
    usage: Usage | None = None
    failure: str | None = None
    request: dict[str, Any] | None = None
    request_left_out: str | None = None


class NoteEntry(Happened, frozen=True, kw_only=True, tag="note"):
    """Something else that happened: the type of the event, and what it says."""

    event: str
    text: str
    details: dict[str, Any] = {}


class ErasedEntry(_Entry, frozen=True, kw_only=True, tag="erased"):
    """Consecutive events whose content is erased, by type. Their envelopes are still in the log."""

    session_id: str
    first_version: int
    last_version: int
    events: dict[str, int]


class ReceiptEntry(Happened, frozen=True, kw_only=True, tag="receipt"):
    """An erasure or redaction, with its receipt (chatbot/audit/receipt.py), as far as the log has one."""

    kind: str
    receipt: dict[str, Any]


class HoldEntry(_Entry, frozen=True, kw_only=True, tag="hold"):
    """A legal hold that the session is under: nothing of it is erased before the hold is released."""

    session_id: str
    hold_id: str
    reason: str
    added_at: str
    ticket: str | None = None


class ProofEntry(_Entry, frozen=True, kw_only=True, tag="proof"):
    """The document that `chatbot prove` makes, for the versions `first_version` to `last_version` of the session.

    `left_out` says why there is none.
    """

    session_id: str
    first_version: int = 0
    last_version: int = 0
    proof: Proof | None = None
    left_out: str | None = None


class ImageEntry(_Entry, frozen=True, kw_only=True, tag="image"):
    """An image of the message of the entry before; `content` is base64 (RFC 4648, section 4)."""

    session_id: str
    message_id: str
    sha256: str
    media_type: str
    bytes: int
    content: str


class ReportEnd(_Entry, frozen=True, kw_only=True, tag="end"):
    """The last line: the number of lines before it and their SHA-256, line feeds included."""

    lines: int
    sha256: str


Entry = SessionEntry | MessageEntry | NoteEntry | ErasedEntry | ReceiptEntry | HoldEntry | ProofEntry
ReportLine = ReportHead | Entry | ImageEntry | ReportEnd
