"""Rules about the beginning and the end of sessions: forks keep what they began with, and each expires in its time."""

from collections.abc import Iterator

from tests.drills.drill_record import LoggedEvent, Violation
from tests.drills.rules.log_index import REPLY_REQUESTS, REPLY_STATUS, LogIndex

# Each begins the timeout again: they are what a client does, and the replies that end for it.
ACCESSES = {
    "session_created", "metadata_changed", "session_accessed", "message_posted", "message_withdrawn",
    "reply_requested", "reply_completed", "reply_failed", "reply_cancelled", "tool_calls_closed", "branch_selected",
}  # fmt: skip
AFTER_EXPIRY = {"session_deleted", "message_copied"}  # it is deleted later, or its origin is while it is a fork
CLOCK_S = 0.001
EXPIRY_GRACE_S = 90.0  # from the end of the timeout to the expiry: the timer's longest sleep, and a fault


def check_forks(index: LogIndex) -> Iterator[Violation]:
    """A fork that is not deleted has the text of each message that it inherited, whatever became of its origin."""
    for session_id, messages in index.adopted.items():
        for message_id in messages if not index.is_deleted(session_id) else ():
            if index.adopted_text(session_id, message_id) is None:
                yield Violation("forks", f"the text of the inherited message {message_id} is lost", session_id)
    for (session_id, message_id), copy in index.copied.items():
        source = index.posted.get(message_id)
        text = (source.data or {}).get("content") if source is not None else None
        if text is not None and (copy.data or {}).get("content") != text:
            what = f"message {message_id} was copied as {(copy.data or {}).get('content')!r}, and is {text!r}"
            yield Violation("forks", what, session_id, copy.version)


def check_expiry(index: LogIndex) -> Iterator[Violation]:
    """A session expires once, not before its time nor long after it, with no reply open, and then is at rest."""
    end_s = index.log[-1].recorded_s if index.log else 0.0
    for session_id, events in index.sessions.items():
        expiries = [one for one in events if one.type == "session_expired" and not (one.data or {}).get("erase_reason")]
        if len(expiries) > 1:
            yield Violation("expiry", "it expired more than once", session_id, expiries[1].version)
        later = [one.type for one in events[expiries[0].version :]] if expiries else []
        if set(later) - AFTER_EXPIRY:
            yield Violation("expiry", f"after its expiry came {later}", session_id, expiries[0].version)
        timeout_s = (events[0].data or {}).get("timeout_s")
        if not timeout_s or index.is_deleted(session_id):
            continue  # it never expires, or what it held is erased
        before = events[: expiries[0].version - 1] if expiries else events
        due_s = max(one.recorded_s for one in before if one.type in ACCESSES) + timeout_s
        if _has_open_reply(before):
            if expiries:
                yield Violation("expiry", "it expired while a reply was open", session_id, expiries[0].version)
        elif not expiries and due_s + EXPIRY_GRACE_S < end_s:
            yield Violation("expiry", f"it was due at {due_s:.3f} and has not expired", session_id, None, due_s)
        elif expiries and expiries[0].recorded_s < due_s - CLOCK_S:
            what = f"it expired {due_s - expiries[0].recorded_s:.3f} s before its time"
            yield Violation("expiry", what, session_id, expiries[0].version, expiries[0].recorded_s)


def _has_open_reply(events: list[LoggedEvent]) -> bool:
    owed = sum(one.type in REPLY_REQUESTS and bool((one.data or {}).get("reply_id")) for one in events)
    return owed > sum(one.type in REPLY_STATUS for one in events)
