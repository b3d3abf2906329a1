"""The verdict on a drill, from its record alone: which promise was broken, where, and what was said.

In the style of Jepsen: clients and readers wrote down what they asked and were told; here it is held against the final
log, which is held against itself. An answer that never came, or a 5xx, may have taken effect or not.
"""

from collections import defaultdict
from collections.abc import Iterator

from tests.drills.drill_record import NEVER_S, DrillRecord, Operation, Violation
from tests.drills.rules.log_index import REPLY_STATUS, LogIndex
from tests.drills.rules.rules_endings import check_erased, check_gapless, check_reply_endings
from tests.drills.rules.rules_keys import SHARED_OWNER, check_keys
from tests.drills.rules.rules_lifetime import check_expiry, check_forks
from tests.drills.rules.rules_order import check_if_match, check_order, check_reads
from tests.drills.rules.rules_readers import check_readers

EXPECTED = {0, 200, 201, 202, 204, 404, 409, 412, 422, 429, 502, 503, 504}
REFUSALS = {"nothing-to-regenerate", "key-spent"}  # the 422 that a correct client may meet


def check(record: DrillRecord) -> list[Violation]:
    """Every violation found, the log's own first. Pure."""
    index = LogIndex(record.log)
    found: list[Violation] = []
    if record.verify:
        found.append(Violation("chain", record.verify))
    found += [Violation("parts", complaint) for complaint in record.complaints]
    for rules in (check_gapless, check_reply_endings, check_erased, check_forks, check_expiry):
        found += rules(index)
    for judge in (
        check_acknowledged,
        check_once,
        check_answers,
        check_gone,
        check_lists,
        check_order,
        check_if_match,
        check_reads,
    ):
        found += judge(index, record.operations)
    found += check_readers(index, record.heard)
    found += check_nodes(index, record)
    found += check_keys(index, record)
    return found


def check_acknowledged(index: LogIndex, operations: list[Operation]) -> Iterator[Violation]:
    """What was acknowledged is in the log, to the last character."""
    for one in operations:
        for fault in _faults(index, one) if one.is_told and one.session_id else []:
            what = f"{one.kind} by {one.client} at {one.target}: {fault}"
            yield Violation("acknowledged", what, one.session_id, one.version, one.told_s)


def _faults(index: LogIndex, one: Operation) -> Iterator[str]:
    if one.session_id not in index.sessions:
        yield "the session is lost"
        return
    if one.version is not None and index.event(one.session_id, one.version) is None:
        yield f"version {one.version} is lost"
    if one.kind == "delete" and not index.is_deleted(one.session_id):
        yield "it was never deleted"
    if index.is_deleted(one.session_id):
        return  # what it held is erased
    if one.kind in ("patch", "create", "fork", "chat", "edit", "regenerate") and index.effect_of(one) is None:
        yield "no event tells of it"
    if one.message_id is not None and one.message_id not in index.adopted[one.session_id]:
        posted = index.posted.get(one.message_id)
        if posted is None:
            yield f"message {one.message_id} is lost"
        elif one.sent and (posted.data or {}).get("content") != one.sent:
            yield f"message {one.message_id} is not what was sent"
    if one.reply_status and one.reply_id is not None:
        yield from _reply_faults(index, one, one.reply_id)


def _reply_faults(index: LogIndex, one: Operation, reply_id: str) -> Iterator[str]:
    reply = index.replies.get(reply_id)
    if reply is None or reply.end is None:
        yield f"the end of reply {reply_id} is lost"
        return
    end = next((end for end in reply.ended if end.version == one.version), reply.end)  # of this attempt, or the last
    status, kept = REPLY_STATUS[end.type], (end.data or {}).get("content", "")
    if one.reply_status not in (status, "ended") or (one.reply_status == "ended" and status == "complete"):
        yield f"reply {reply_id} was told to be {one.reply_status}, and is {status}"
    for text in (one.reply_text, one.streamed):
        if text is not None and text != kept:
            yield f"reply {reply_id} was told to be {text!r}, and is {kept!r}"
    if one.kind != "cancel" and one.version not in (None, end.version):
        yield f"reply {reply_id} was told to end at {one.version}, and did at {end.version}"


def check_once(index: LogIndex, operations: list[Operation]) -> Iterator[Violation]:
    """A key, and a text that was sent once, took effect at most once; not at all where all attempts were refused."""
    attempts: dict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        if one.key or one.sent:
            attempts[one.key or one.sent].append(one)
    for key, tries in attempts.items():
        found = {one.position: one for one in [*index.by_key.get(key, []), *index.by_text.get(tries[0].sent, [])]}
        effects = sorted(found.values(), key=lambda one: one.position)
        first = tries[0]
        if len(effects) > 1:
            places = [f"{one.type} at {one.position}" for one in effects]
            what = f"{first.kind} by {first.client} took effect {len(effects)} times: {places}"
            yield Violation("once", what, first.session_id, effects[1].version, first.invoked_s)
        if effects and all(one.is_refused for one in tries):
            what = f"{first.kind} by {first.client} was refused ({first.status}) and took effect all the same"
            yield Violation("once", what, first.session_id, effects[0].version, first.invoked_s)
        for name in ("session_id", "message_id", "reply_id"):
            told = {getattr(one, name) for one in tries if one.is_told and getattr(one, name)}
            if len(told) > 1:
                what = f"{first.kind} by {first.client} with one key was told several of {name}: {sorted(told)}"
                yield Violation("once", what, first.session_id, None, first.invoked_s)


def check_answers(index: LogIndex, operations: list[Operation]) -> Iterator[Violation]:
    """No answer that a correct client cannot get; no 404 for what is there."""
    created: dict[str, float] = {}
    deleting: dict[str, float] = {}
    for one in operations:
        if one.kind in ("create", "fork") and one.told_s is not None:
            created[one.session_id] = min(one.told_s, created.get(one.session_id, one.told_s))
        if one.kind == "delete":
            deleting[one.session_id] = min(one.invoked_s, deleting.get(one.session_id, one.invoked_s))
    for one in operations:
        what = f"{one.kind} by {one.client} at {one.target} was answered {one.status} {one.problem}"
        is_expected = one.status in EXPECTED or (one.status == 401 and one.secret)
        if not is_expected or (one.status == 422 and one.problem not in REFUSALS):
            yield Violation("answers", what, one.session_id, None, one.invoked_s)
        was_there = created.get(one.session_id, NEVER_S) < one.invoked_s
        expiry = index.expiry_of(one.session_id)
        if expiry is not None and expiry.recorded_s < (one.completed_s or 0):
            continue
        if one.status == 404 and was_there and deleting.get(one.session_id, NEVER_S) > (one.completed_s or 0):
            yield Violation("answers", f"{what}, though nobody deleted it", one.session_id, None, one.invoked_s)


def check_gone(index: LogIndex, operations: list[Operation]) -> Iterator[Violation]:
    """Once a session was told to be deleted, or expired, nobody reads it any more."""
    told_s: dict[str, float] = {}
    for one in operations:
        is_told = one.told_s if one.kind == "delete" else one.completed_s if one.problem == "session-expired" else None
        if is_told is not None:
            told_s[one.session_id] = min(is_told, told_s.get(one.session_id, NEVER_S))
    for one in operations:
        if one.kind != "read" or one.status != 200 or told_s.get(one.session_id, NEVER_S) > one.invoked_s:
            continue
        if index.is_gone(one.session_id):
            what = f"{one.client} read version {one.version} at {one.target} of a session that is gone"
            yield Violation("deleted", what, one.session_id, None, one.invoked_s)


def check_lists(index: LogIndex, operations: list[Operation]) -> Iterator[Violation]:
    """A list of a client's own sessions has those that it made, and none that was deleted before."""
    deletes = [one for one in operations if one.kind == "delete"]
    for listed in operations:
        if listed.kind != "list" or listed.status != 200 or listed.completed_s is None:
            continue
        ids = {one["session_id"] for one in listed.messages or []}
        gone = {one.session_id for one in deletes if one.told_s is not None and one.told_s < listed.invoked_s}
        going = {one.session_id for one in deletes if one.invoked_s < listed.completed_s}
        for one in operations:
            made = one.kind == "create" and one.client == listed.client and one.told_s is not None
            deadline_s = index.deadline_of(one.session_id)
            if deadline_s is not None and deadline_s < listed.completed_s:  # lists leave it out before it is recorded
                continue
            if made and (one.told_s or 0) < listed.invoked_s and one.session_id not in ids | going:
                what = f"{listed.client} does not find its session in the list of {listed.target}"
                yield Violation("lists", what, one.session_id, None, listed.invoked_s)
        for session_id in ids & gone:
            what = f"{listed.client} finds a deleted session in the list of {listed.target}"
            yield Violation("lists", what, session_id, None, listed.invoked_s)


def check_nodes(index: LogIndex, record: DrillRecord) -> Iterator[Violation]:
    """All nodes have one log and tell the same of each session; what is deleted is gone on each."""
    for one in record.seen[1:]:
        if one.log != record.seen[0].log:
            yield Violation("nodes", f"the logs of {one.node} and {record.seen[0].node} differ")
    for session_id in index.sessions:
        told = {one.node: one.histories.get(session_id) for one in record.seen}
        if index.is_gone(session_id):
            back = [node for node, history in told.items() if history is not None]
            if back:
                yield Violation("deleted", f"it is back on {back}", session_id)
        elif index.owner_of(session_id) not in (None, SHARED_OWNER):
            shown = [node for node, history in told.items() if history is not None]
            if shown:
                yield Violation("keys", f"it is another key's, and shown on {shown}", session_id)
        elif any(history is None for history in told.values()):
            yield Violation("nodes", f"it is not found on {[n for n, h in told.items() if h is None]}", session_id)
        elif any(history != record.seen[0].histories[session_id] for history in told.values()):
            yield Violation("nodes", f"{sorted(told)} tell different histories of it", session_id)
