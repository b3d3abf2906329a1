"""Rules about order: what was acknowledged before something else began comes before it, whichever nodes were asked."""

from collections import defaultdict
from collections.abc import Iterator

from msgspec import Struct

from tests.drills.drill_record import Operation, Violation
from tests.drills.rules.log_index import REPLY_STATUS, LogIndex

# What `on_busy: interrupt` brings about first: replies are cancelled, and until all are, the next in turn begins.
OF_INTERRUPTING = {"reply_cancelled", "reply_started", "reply_progressed"}


class Fact(Struct, frozen=True):
    """The session had reached `version` at some instant from `from_s` on; `to_s` is when somebody was told."""

    session_id: str
    version: int
    from_s: float
    to_s: float
    what: str
    is_read: bool = False


def check_order(index: LogIndex, operations: list[Operation]) -> Iterator[Violation]:
    """In each session, real-time order agrees with the order of versions: of writes, and of what reads show."""
    by_session: dict[str, list[Fact]] = defaultdict(list)
    for fact in _facts(index, operations):
        by_session[fact.session_id].append(fact)
    for session_id, facts in by_session.items():
        known, told = None, sorted(facts, key=lambda one: one.to_s)
        upcoming = 0
        for fact in sorted(facts, key=lambda one: one.from_s):
            while upcoming < len(told) and told[upcoming].to_s < fact.from_s:
                known = max(known or told[upcoming], told[upcoming], key=lambda one: one.version)
                upcoming += 1
            if known is None or fact.version > known.version or (fact.is_read and fact.version == known.version):
                continue
            what = f"{fact.what} is at version {fact.version}, though {known.what} had told version {known.version}"
            yield Violation("order", what, session_id, known.version, fact.from_s)


def _facts(index: LogIndex, operations: list[Operation]) -> Iterator[Fact]:
    first: dict[str, float] = {}  # a key's effect may be that of any attempt since the first
    for one in operations:
        if one.key is not None:
            first[one.key] = min(first.get(one.key, one.invoked_s), one.invoked_s)
    for one in operations:
        from_s = first.get(one.key or "", one.invoked_s)
        what = f"{one.kind} by {one.client} at {one.target}"
        if one.kind == "read" and one.status == 200 and one.version is not None and one.completed_s is not None:
            yield Fact(one.session_id, one.version, one.invoked_s, one.completed_s, what, is_read=True)
        effect = index.effect_of(one)
        if one.told_s is not None and effect is not None:
            yield Fact(effect.session_id, effect.version, from_s, one.told_s, what)
        end = index.event(one.session_id, one.version or 0)
        if one.kind != "read" and one.completed_s is not None and end is not None and end.type in REPLY_STATUS:
            yield Fact(one.session_id, end.version, from_s, one.completed_s, f"the end of {what}")


def check_if_match(index: LogIndex, operations: list[Operation]) -> Iterator[Violation]:
    """If-Match acknowledged: nothing lies between. Refused: the session had indeed moved on."""
    for one in operations:
        if one.if_version is None:
            continue
        effect = index.effect_of(one)
        if one.is_told and effect is not None:
            between = {event.type for event in index.sessions[one.session_id][one.if_version : effect.version - 1]}
            if effect.version <= one.if_version or between - (OF_INTERRUPTING if one.interrupts else set()):
                what = f"{one.kind} by {one.client} took effect at {effect.version} with If-Match {one.if_version}"
                yield Violation("if-match", what, one.session_id, effect.version, one.invoked_s)
        after = index.event(one.session_id, one.if_version + 1)
        if one.status == 412 and (after is None or after.recorded_s > (one.completed_s or 0)):
            what = f"{one.kind} by {one.client} at {one.target} was refused, though nothing followed"
            yield Violation("if-match", what, one.session_id, one.if_version, one.invoked_s)


def check_reads(index: LogIndex, operations: list[Operation]) -> Iterator[Violation]:
    """A history shows exactly what was on record at its version, and no version before it was recorded."""
    for one in operations:
        if one.kind != "read" or one.status != 200 or one.version is None:
            continue
        newest = index.event(one.session_id, one.version)
        if newest is None or newest.recorded_s > (one.completed_s or 0):
            what = f"{one.client} read version {one.version} at {one.target}, which was not there"
            yield Violation("reads", what, one.session_id, one.version, one.invoked_s)
        for said in [] if index.is_deleted(one.session_id) else one.messages or []:
            if fault := _fault_of(index, one.session_id, said, one.version):
                what = f"{one.client} read at {one.target} at version {one.version}: {fault}"
                yield Violation("reads", what, one.session_id, one.version, one.invoked_s)
                break


def _fault_of(index: LogIndex, session_id: str, said: dict[str, str], version: int) -> str:
    """What is wrong with a message that was read."""
    message_id, content = said["message_id"], said["content"]
    if inherited := index.adopted[session_id].get(message_id):
        kept = index.adopted_text(session_id, message_id)
        if said["status"] != inherited["status"]:
            return f"the inherited {message_id} is {said['status']} in place of {inherited['status']}"
        return "" if kept == content else f"the inherited {message_id} says {content!r} in place of {kept!r}"
    if said["role"] != "assistant":
        posted = index.posted.get(message_id)
        if posted is None or posted.version > version:
            return f"message {message_id} was not posted yet"
        kept = (posted.data or {}).get("content")
        return "" if kept == content else f"message {message_id} says {content!r} in place of {kept!r}"
    reply = index.replies.get(message_id)
    if reply is None:
        return f"reply {message_id} is not in the log"
    status = reply.status_at(version)
    if said["status"] != status:
        return f"reply {message_id} is {said['status']} in place of {status}"
    kept = reply.text_at(version)
    return "" if kept == content else f"reply {message_id} says {content!r} in place of {kept!r}"
