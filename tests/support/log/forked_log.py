"""A log with a session whose texts forks read, made without asking for each turn."""

from collections.abc import Sequence

from events.catalogue import AdoptedMessage, HistoryAdopted, MessagePosted, Origin, SessionCreated
from events.log import EventLog
from events.record import Metadata

PAGE = 500  # events in one append
TIMEOUT_S = 10_000_000


async def origin_of(log: EventLog, session_id: str, texts: int, owner: str | None = None) -> list[AdoptedMessage]:
    """A session of so many messages in one line; returns them as a fork adopts them."""
    await log.append(session_id, 0, [SessionCreated(owner, {}, TIMEOUT_S)], Metadata())
    adopted: list[AdoptedMessage] = []
    for start in range(0, texts, PAGE):
        posted = [
            MessagePosted(f"{session_id}-m{n}", f"{session_id}-m{n - 1}" if n else None, "user", f"text {n} of it")
            for n in range(start, min(start + PAGE, texts))
        ]
        for one in await log.append(session_id, 1 + start, posted, Metadata()):
            assert isinstance(one.event, MessagePosted)
            asked = one.event
            places = (asked.message_id, asked.parent_id, asked.role, "complete", one.position, one.recorded_at_us)
            adopted.append(AdoptedMessage(*places))
    return adopted


async def fork_of(
    log: EventLog, fork_id: str, origin_id: str, messages: Sequence[AdoptedMessage], owner: str | None = None
) -> None:
    """A session that begins with these messages of another one."""
    origin = Origin(origin_id, 1 + len(messages), messages[-1].message_id)
    created = SessionCreated(owner, {}, TIMEOUT_S, forked_from=origin)
    await log.append(fork_id, 0, [created, HistoryAdopted(tuple(messages))], Metadata())
