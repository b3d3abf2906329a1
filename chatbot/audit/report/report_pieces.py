"""Writes a report from the log, piece by piece: what all sessions have together, then one session after the other.

Each session is read twice, and its texts are in memory one page at a time; with requests, those of one session are.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from chatbot.audit.conversation import MessageAsOf, adopted_message
from chatbot.audit.event_view import format_time
from chatbot.audit.receipt import receipt_of
from chatbot.audit.report.entries import (
    FORMAT_NAME,
    FORMAT_VERSION,
    Entry,
    ErasedUsage,
    HoldEntry,
    MessageEntry,
    ProofEntry,
    ReceiptEntry,
    Recipient,
    ReportHead,
    SessionEntry,
    SessionSummary,
    Totals,
)
from chatbot.audit.report.recorded_requests import RecordedRequests
from chatbot.audit.report.report_query import ReportRequest
from chatbot.audit.report.session_outline import SessionOutline, add_usage
from chatbot.audit.report.timeline import Timeline, adopted_source
from chatbot.audit.session_proof import AuditPaths, ProofFailed, build_proof, read_audit_paths
from chatbot.holds.hold_state import HoldState, evolve
from chatbot.runtime.throttle import PIECE_BYTES, DutyCycleThrottle, batched
from events.catalogue import HOLDS, AdoptedMessage, HistoryAdopted, Parameters, ReplyEnded
from events.integrity.log_identity import log_identity
from events.log import EventLog
from events.media import MediaMissing
from events.paging import read_pages
from events.record import RecordedEvent, StoredRow
from events.schema.hold_events import Hold
from events.schema.parts import media_of

PAGE = 50  # events with contents read at once
ADOPTED_PAGE = 50  # messages of other sessions read at once
PROVEN_IN_ALL_MAX = 200_000  # of a report: about 250 bytes for each event
MESSAGE_BYTES = 300  # memory of a message of the session that is written, about
IMAGE_BYTES_MAX = 2**20  # of one image in a report; larger ones are only listed
IMAGES_BYTES_MAX = 64 * 2**20  # of all images in a report


class ReportWriter(Protocol):
    """A form of reports. Each method returns the next bytes of the document."""

    def head(self, head: ReportHead, sessions: Sequence[SessionSummary]) -> bytes: ...

    def entry(self, entry: Entry, files: Mapping[str, bytes]) -> bytes:
        """`files` has the bytes of those images of a message that are to be shown, by SHA-256."""
        ...

    def end(self) -> bytes: ...


class ReportSurvey(Struct):
    """The first pass over the sessions. `positions` are those of all events, if they are to be proven."""

    sessions: list[SessionSummary] = field(default_factory=list)
    sent: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    files: set[str] = field(default_factory=set)
    messages: int = 0
    replies: int = 0
    events: int = 0
    erased_events: int = 0
    erased_requests: int = 0
    erased_usage: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    redactions: int = 0
    positions: dict[str, list[int]] = field(default_factory=dict)

    def add(self, outline: SessionOutline) -> None:
        """Add a session."""
        self.sessions.append(
            SessionSummary(
                outline.session_id,
                outline.title,
                outline.status,
                format_time(outline.created_at_us),
                format_time(outline.last_at_us),
                len(outline.parents),
            )
        )
        self.sent.update(outline.sent)
        self.files |= outline.files
        self.messages += len(outline.parents)
        self.replies += outline.replies
        self.events += outline.version
        self.erased_events += outline.erased_events
        self.erased_requests += outline.erased_requests
        for model, used in outline.erased_usage.items():
            add_usage(self.erased_usage, model, used)
        self.redactions += outline.redactions

    @property
    def totals(self) -> Totals:
        return Totals(
            sessions=len(self.sessions),
            messages=self.messages,
            replies=self.replies,
            files=len(self.files),
            events=self.events,
            erased_events=self.erased_events,
            redactions=self.redactions,
        )

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        return tuple(
            Recipient(provider=provider, model=model, server=server or None, requests=count)
            for (provider, model, server), count in sorted(self.sent.items())
            if count
        )

    @property
    def usage_of_erased(self) -> tuple[ErasedUsage, ...]:
        return tuple(ErasedUsage(model, *used) for model, used in sorted(self.erased_usage.items()))


class Report:
    """One report, written by `pieces`, once."""

    def __init__(
        self,
        log: EventLog,
        request: ReportRequest,
        writer: ReportWriter,
        throttle: DutyCycleThrottle,
        hold_bytes: Callable[[int], None] = lambda _size: None,
    ) -> None:
        """`hold_bytes` is told about how many bytes of memory the session takes that is written next."""
        self._log = log
        self._request = request
        self._writer = writer
        self._throttle = throttle
        self._survey = ReportSurvey()
        self._paths: AuditPaths | None = None
        self._images_bytes = 0
        self._hold_bytes = hold_bytes
        self._holds = HoldState()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The document, in pieces of about PIECE_BYTES. Sessions that do not exist are left out.

        Raises LogUnavailable, UnknownEvent, ProofFailed where the log is not the one that was signed.
        """
        head = await self._log.latest()
        self._holds = await self._read_holds()
        for session_id in self._request.session_ids:
            await self._survey_session(session_id)
        if self._request.checkpoint is not None:
            positions = [one for page in self._survey.positions.values() for one in page]
            self._paths = await read_audit_paths(
                self._log, self._request.checkpoint[1], positions, throttle=self._throttle
            )
        request = self._request
        written = self._writer.head(
            ReportHead(
                format=FORMAT_NAME,
                version=FORMAT_VERSION,
                created_at=request.created_at,
                program=request.program,
                log=await log_identity(self._log),
                position=head.position,
                digest=head.digest.hex(),
                selected_by=request.selected_by,
                totals=self._survey.totals,
                recipients=self._survey.recipients,
                retention=request.retention,
                erased_requests=self._survey.erased_requests,
                erased_usage=self._survey.usage_of_erased,
                controller=request.controller,
                purpose=request.purpose,
                checkpoint=None if request.checkpoint is None else request.checkpoint[0],
            ),
            self._survey.sessions,
        )
        for summary in self._survey.sessions:
            async for entry in self._session(summary.session_id):
                files = await self._files(entry)
                with self._throttle.measure():
                    written += self._writer.entry(entry, files)
                if len(written) >= PIECE_BYTES:
                    yield written
                    written = b""
        yield written + self._writer.end()

    async def _survey_session(self, session_id: str) -> None:
        positions: list[int] = []
        outline = await self._outline(session_id, positions)
        if outline is None:
            return
        self._survey.add(outline)
        if self._request.checkpoint is not None:
            covered = [one for one in positions if one <= self._request.checkpoint[1].size]
            known = sum(map(len, self._survey.positions.values()))
            if len(covered) <= min(self._request.proven_events_max, PROVEN_IN_ALL_MAX - known):
                self._survey.positions[session_id] = covered

    async def _session(self, session_id: str) -> AsyncIterator[Entry]:
        outline = await self._outline(session_id)
        if outline is None:
            return
        self._hold_bytes(len(outline.parents) * MESSAGE_BYTES)
        yield _session_entry(outline)
        for hold in self._holds.holds.values():
            if hold.hold_id in outline.hold_ids:
                yield _hold_entry(session_id, hold)
        timeline = Timeline(outline)
        calls = RecordedRequests(self._log, session_id, self._throttle) if self._request.requests else None
        async for page in self._pages(session_id, until=outline.version):
            for recorded in page:
                async for entry in self._entries(recorded, outline, timeline):
                    if calls is not None and isinstance(entry, MessageEntry) and isinstance(recorded.event, ReplyEnded):
                        yield await calls.with_request(entry)
                    else:
                        yield entry
        for left in timeline.close():
            yield left
        if self._request.checkpoint is not None:
            yield await self._proof(session_id)

    async def _read_holds(self) -> HoldState:
        state = HoldState()
        async for page in read_pages(self._log, HOLDS, page_max=PAGE):
            for recorded in page:
                state = evolve(state, recorded)
        return state

    async def _entries(
        self, recorded: RecordedEvent, outline: SessionOutline, timeline: Timeline
    ) -> AsyncIterator[Entry]:
        if isinstance(recorded.event, HistoryAdopted):
            async for messages in self._adopted(recorded.event, outline):
                for adopted in timeline.adopt(recorded, messages):
                    yield adopted
        else:
            for entry in timeline.apply(recorded):
                receipt = await receipt_of(self._log, recorded) if isinstance(entry, ReceiptEntry) else None
                if receipt is not None and isinstance(entry, ReceiptEntry):
                    yield replace(entry, receipt=msgspec.to_builtins(receipt))
                else:
                    yield entry

    async def _outline(self, session_id: str, positions: list[int] | None = None) -> SessionOutline | None:
        """The session as it is; None if there is none. Adds the positions of its events to `positions`."""
        outline: SessionOutline | None = None
        async for page in self._pages(session_id):
            outline = outline or SessionOutline(session_id, page[0].recorded_at_us)
            for recorded in page:
                outline.apply(recorded)
                outline.note_holds(self._holds, recorded)
            if positions is not None:
                positions += [one.position for one in page]
        return outline

    async def _pages(self, session_id: str, until: int | None = None) -> AsyncIterator[list[RecordedEvent]]:
        after = 0
        while until is None or after < until:
            async with self._throttle.piece():
                page = await self._log.read(session_id, after=after, limit=PAGE, bytes_max=PIECE_BYTES)
            if not page:
                return
            yield [one for one in page if until is None or one.version <= until]
            after = page[-1].version

    async def _adopted(self, event: HistoryAdopted, outline: SessionOutline) -> AsyncIterator[list[MessageAsOf]]:
        for batch in batched(event.messages, ADOPTED_PAGE):
            async with self._throttle.piece():
                texts = await self._log.read_at([one.position for one in batch])
                copied = {
                    one.message_id: outline.copies[one.message_id] for one in batch if one.message_id in outline.copies
                }
                found = await self._log.read_at(list(copied.values()))
            copies = {message_id: found[position] for message_id, position in copied.items() if position in found}
            yield [_adopted(one, texts, copies) for one in batch]

    async def _files(self, entry: Entry) -> dict[str, bytes]:
        """The images of a message that fit into the report."""
        found: dict[str, bytes] = {}
        if not (self._request.images and isinstance(entry, MessageEntry)):
            return found
        for media in media_of(entry.parts):
            fits = media.bytes <= min(IMAGE_BYTES_MAX, IMAGES_BYTES_MAX - self._images_bytes)
            if fits and media.media_type.startswith("image/") and media.sha256 not in found:
                try:
                    found[media.sha256] = b"".join([piece async for piece in self._log.media.read(media.sha256)])
                except MediaMissing:
                    continue
                self._images_bytes += media.bytes
        return found

    async def _proof(self, session_id: str) -> ProofEntry:
        positions = self._survey.positions.get(session_id)
        if positions is None or self._paths is None or self._request.checkpoint is None:
            why = f"The session has too many events for a report: chatbot prove --session {session_id}"
            return ProofEntry(session_id=session_id, left_out=why)
        if not positions:
            return ProofEntry(session_id=session_id, left_out="The checkpoint is older than the session.")
        rows: list[StoredRow] = []
        while len(rows) < len(positions):
            async with self._throttle.piece():
                limit = min(PAGE, len(positions) - len(rows))
                page = await self._log.stream_rows(
                    session_id, after=rows[-1].version if rows else 0, limit=limit, bytes_max=PIECE_BYTES
                )
            if not page:
                break
            rows += page
        try:
            proof = build_proof(*self._request.checkpoint, rows, self._paths)
        except (ProofFailed, KeyError) as error:
            return ProofEntry(session_id=session_id, left_out=f"The events cannot be proven: {error}")
        first, last = rows[0].version, rows[-1].version
        return ProofEntry(session_id=session_id, first_version=first, last_version=last, proof=proof)


def _adopted(
    message: AdoptedMessage, texts: Mapping[int, RecordedEvent], copies: Mapping[str, RecordedEvent]
) -> MessageAsOf:
    return adopted_message(message, adopted_source(message, texts, copies))


def _session_entry(outline: SessionOutline) -> SessionEntry:
    settings = outline.settings
    return SessionEntry(
        session_id=outline.session_id,
        status=outline.status,
        created_at=format_time(outline.created_at_us),
        last_event_at=format_time(outline.last_at_us),
        last_version=outline.version,
        messages=len(outline.parents),
        erased_events=outline.erased_events,
        owner=outline.owner,
        title=outline.title,
        metadata=outline.metadata,
        system_prompt=settings.system_prompt,
        parameters=None if settings.parameters == Parameters() else settings.parameters,
        forked_from=outline.forked_from,
        kind=outline.kind,
    )


def _hold_entry(session_id: str, hold: Hold) -> HoldEntry:
    return HoldEntry(
        session_id=session_id,
        hold_id=hold.hold_id,
        reason=hold.reason,
        ticket=hold.ticket,
        added_at=format_time(hold.added_at_us),
    )
