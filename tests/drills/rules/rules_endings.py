"""Rules about the log alone: no gap in it, each reply ends once, what is deleted is erased."""

from collections import Counter
from collections.abc import Iterator

from tests.drills.drill_record import LoggedEvent, Violation
from tests.drills.rules.log_index import REPLY_REQUESTS, REPLY_STATUS, LogIndex


def check_gapless(index: LogIndex) -> Iterator[Violation]:
    """Positions and versions count 1, 2, 3 ..., and nothing follows a deletion."""
    for place, one in enumerate(index.log, start=1):
        if one.position != place:
            yield Violation("gapless", f"position {one.position} stands at place {place}", one.session_id, one.version)
            break
    for session_id, events in [*index.reserved.items(), *index.sessions.items()]:
        versions = [one.version for one in events]
        if versions != list(range(1, len(versions) + 1)):
            yield Violation("gapless", f"the versions are {versions}", session_id)
    for session_id, events in index.sessions.items():
        if [one.type for one in events].count("session_created") != 1 or events[0].type != "session_created":
            yield Violation("gapless", "a session begins with its creation, once", session_id)


def check_reply_endings(index: LogIndex) -> Iterator[Violation]:
    """Each reply that was owed or started has one end for each attempt, and says nothing after it."""
    for reply_id, reply in index.replies.items():
        owed, ends = len(reply.owed), len(reply.ended)
        place = reply.ended[-1].version if reply.ended else max([*reply.owed, *reply.started], default=None)
        if not owed:
            yield Violation("ends once", f"reply {reply_id} was never asked for", reply.session_id, place)
        elif ends < owed:
            yield Violation("ends once", f"reply {reply_id} is left open", reply.session_id, place)
        elif ends > owed:
            how = [one.type for one in reply.ended]
            yield Violation("ends once", f"reply {reply_id} has ended {ends} times: {how}", reply.session_id, place)
        elif len(reply.started) > owed:
            yield Violation("ends once", f"reply {reply_id} has started twice", reply.session_id, place)
        elif reply.progressed and reply.progressed[-1].version > reply.ended[-1].version:
            yield Violation("ends once", f"reply {reply_id} goes on after its end", reply.session_id, place)
        yield from _check_progress(reply_id, reply.progressed, set(reply.started))
    for session_id, events in index.sessions.items():  # erased events cannot be told apart, but they can be counted
        kinds = Counter(one.type for one in events)
        owed, ends = sum(kinds[one] for one in REPLY_REQUESTS), sum(kinds[one] for one in REPLY_STATUS)
        if index.is_deleted(session_id) and owed != ends:
            yield Violation("ends once", f"{owed} replies were owed and {ends} ended before it was deleted", session_id)


def _check_progress(reply_id: str, progressed: list[LoggedEvent], started: set[int]) -> Iterator[Violation]:
    """Each checkpoint goes on where the one before it stopped."""
    length, before = 0, 0
    for one in progressed:
        data = one.data or {}
        if any(before < version < one.version for version in started):
            length = 0
        if data.get("offset", 0) != length:
            what = f"reply {reply_id}: a checkpoint at {data.get('offset', 0)} after {length} characters"
            yield Violation("ends once", what, one.session_id, one.version)
        length, before = data.get("offset", 0) + len(data["text"]), one.version


def check_erased(index: LogIndex) -> Iterator[Violation]:
    """A deleted session holds no content and gets no more events."""
    for session_id, events in index.sessions.items():
        at = [one.version for one in events if one.type == "session_deleted"]
        if not at:
            continue
        if len(at) > 1 or events[-1].version != at[0]:
            yield Violation("deleted", f"it goes on after its deletion at {at[0]}", session_id, at[0])
        for one in events:
            if one.data is not None and one.version < at[0]:
                yield Violation("deleted", "the content is still there", session_id, one.version)
                break
