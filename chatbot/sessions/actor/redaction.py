"""Redacts a message in one session, in its actor: records a message_redacted, with which the content goes."""

from functools import partial

from msgspec.structs import replace

from chatbot.sessions.actor.mailbox import CommandResult, Envelope
from chatbot.sessions.actor.stream_writer import SessionStream, retry_on_conflict
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import RedactMessage
from chatbot.sessions.domain.decide import decide
from chatbot.sessions.ports import Ports
from events.catalogue import MessageRedacted
from events.integrity.incomplete_erasures import finish_erasure
from events.message_content import read_content


async def redact_message(
    ports: Ports, stream: SessionStream, envelope: Envelope, command: RedactMessage
) -> CommandResult:
    """The result's `request_version` is that of the message_redacted, also where an earlier one has done the same; 0
    where nothing is recorded.

    Raises SessionBusy, SessionHeld, InvalidMessage, LogUnavailable, and what refuses any command.
    """
    async with ports.reserve.released_if_full():
        return await retry_on_conflict(ports.timer, partial(_attempt, ports, stream, envelope, command))


async def _attempt(ports: Ports, stream: SessionStream, envelope: Envelope, command: RedactMessage) -> CommandResult:
    """Raises VersionConflict, also where a hold was added meanwhile."""
    stream.begin_command()
    if not stream.is_current:
        await stream.catch_up()
    stream.check(command, envelope)
    state = stream.existing_state
    session = state.session
    content = await read_content(ports.log, session.session_id, command.message_id)
    earlier = content.find_redaction(command.part)
    if earlier is not None:
        if not command.checks_only:  # where the log was written without its triggers, the content may still be there
            await finish_erasure(ports.log, session.session_id)
        return CommandResult(state, request_version=earlier)
    found = await ports.holds.find(session.session_id, session.owner, state.metadata)
    if command.holds_version not in (None, found.unchanged.version):
        return CommandResult(state)
    if found.hold is not None:
        ports.observer.erasure_held()
    parts = content.parts
    if parts is not None and command.part is not None and command.part >= len(parts):
        raise rejections.InvalidMessage("$.part", f"the message has {len(parts)} parts, numbered from 0")
    event = content.redact(MessageRedacted(command.message_id, command.reason_code, command.part, command.ticket))
    event = await _without_lost_files(ports, event)
    prepared = replace(command, hold=found.hold, event=event)
    stream.check(prepared, envelope)
    decision = decide(state, prepared, ports.clock(), stream.rules, envelope.caller, session.session_id)
    if decision.rejection is not None:
        raise decision.rejection
    if not decision.events:
        return CommandResult(state)
    try:
        recorded = await ports.log.erase(
            session.session_id, session.version, decision.events[0], envelope.metadata, unchanged=found.unchanged
        )
    finally:  # also if it is unknown whether it was recorded
        ports.texts.drop()
        ports.digests.drop()
    ports.logger.info(
        "message.redacted",
        events=event.events_erased,
        reason_code=event.reason_code,
        by=envelope.caller.owner,
        request_id=envelope.caller.request_id,
    )
    stream.apply(recorded, envelope)
    return CommandResult(stream.existing_state, request_version=recorded[-1].version)


async def _without_lost_files(ports: Ports, event: MessageRedacted) -> MessageRedacted:
    """`event` without the files that the log has lost: no event may refer to them, and the redaction must go on."""
    kept = await ports.log.media.stat(event.files) if event.files else {}
    return replace(event, files=tuple(sha256 for sha256 in event.files if sha256 in kept))
