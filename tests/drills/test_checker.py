"""The checker objects to each kind of fault, planted in a small history that it has nothing against."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.drills.checker import check
from tests.drills.drill_record import DrillRecord, FaultSpan, LoggedEvent, NodeView, Operation, ReceivedFrame

S, GONE, FORK, OLD = "session-1", "session-2", "session-3", "session-4"


def logged(log: list[LoggedEvent], session_id: str, kind: str, **data: Any) -> None:
    """One more event, a tenth of a second after the last."""
    version = 1 + sum(one.session_id == session_id for one in log)
    position = len(log) + 1
    log.append(LoggedEvent(position, session_id, version, kind, position / 10, data, f"digest {position}"))


def operation(kind: str, from_s: float, to_s: float, **more: Any) -> Operation:
    defaults: dict[str, Any] = {"client": "client 1", "target": "n1", "session_id": S, "told_s": to_s, "status": 200}
    return Operation(kind=kind, invoked_s=from_s, completed_s=to_s, **{**defaults, **more})


def heard(cursor: str, kind: str, **frame: Any) -> ReceivedFrame:
    return ReceivedFrame("reader 1", 1, 1, "n2", S, 1.5, cursor, {"type": kind, **frame})


def sound() -> DrillRecord:
    """A session with a reply that is completed and one that is cancelled, followed by a reader; a deleted session, a
    fork, and one that expired; and a key that was revoked.
    """
    log: list[LoggedEvent] = []
    logged(log, S, "session_created", metadata={}, idempotency_key="k1", title="made")
    logged(log, S, "message_posted", message_id="m1", role="user", content="hi", reply_id="r1", idempotency_key="k2")
    logged(log, S, "reply_started", reply_id="r1")
    logged(log, S, "reply_progressed", reply_id="r1", offset=0, text="Hel")
    logged(log, S, "reply_completed", reply_id="r1", content="Hello")
    logged(log, S, "metadata_changed", metadata={}, title="named")
    logged(log, S, "message_posted", message_id="m2", role="user", content="more", reply_id="r2", idempotency_key="k3")
    logged(log, S, "reply_started", reply_id="r2")
    logged(log, S, "reply_cancelled", reply_id="r2", content="By", idempotency_key="k4")
    logged(log, GONE, "session_created", metadata={})
    logged(log, GONE, "session_deleted", reason="requested")
    log[9].data = None
    inherited = [{"message_id": one, "status": "complete", "position": at} for one, at in (("m1", 2), ("r1", 5))]
    logged(
        log, FORK, "session_created", metadata={}, title="named", forked_from={"session_id": S}, idempotency_key="k6"
    )
    logged(log, FORK, "history_adopted", messages=inherited)
    logged(log, "keys", "key_added", name="key")
    logged(log, "keys", "key_revoked", name="key")
    logged(log, OLD, "session_created", metadata={}, timeout_s=2, idempotency_key="k7")
    logged(log, OLD, "session_expired", deadline_us=3_600_000)
    log[-1].recorded_s = 3.61
    first, second = {"message_id": "m1", "reply_id": "r1"}, {"message_id": "m2", "reply_id": "r2"}
    user = {"message_id": "m1", "role": "user", "status": "complete", "content": "hi"}
    reply = {"message_id": "r1", "role": "assistant", "status": "streaming", "content": "Hel"}
    whole = {"status": "complete", "content": "Hello"}
    operations = [
        operation("create", 0.05, 0.11, key="k1", sent="made", version=1, status=201),
        operation(
            "chat", 0.15, 0.55, key="k2", sent="hi", version=5, reply_status="complete", reply_text="Hello", **first
        ),
        operation("read", 0.41, 0.45, version=4, messages=[user, reply]),
        operation("patch", 0.56, 0.61, sent="named", version=6, if_version=5),
        operation(
            "chat", 0.65, 0.95, key="k3", sent="more", version=9, reply_status="cancelled", streamed="By", **second
        ),
        operation("cancel", 0.85, 0.93, key="k4", reply_id="r2", reply_status="cancelled", status=202),
        operation("patch", 0.94, 0.96, sent="too late", if_version=5, status=412, told_s=None),
        operation("create", 0.98, 1.01, session_id=GONE, key="k5", version=1, status=201, sent="made, too"),
        operation("delete", 1.05, 1.11, session_id=GONE, status=204),
        operation("list", 1.2, 1.3, session_id="", messages=[{"session_id": S}]),
        operation("read", 1.2, 1.3, session_id=GONE, status=404, told_s=None),
        operation("fork", 1.15, 1.25, session_id=FORK, key="k6", version=2, status=201),
        operation("read", 1.3, 1.35, session_id=FORK, version=2, messages=[user, {**reply, **whole}]),
        operation("create", 1.55, 1.65, session_id=OLD, version=1, status=201, key="k7"),
        operation("list", 3.603, 3.605, session_id="", messages=[{"session_id": one} for one in (S, FORK)]),
        operation("read", 3.7, 3.8, session_id=OLD, status=404, problem="session-expired", told_s=None),
        operation("follow", 9.0, 9.1, secret="key#1", status=401, told_s=None, heard_s=9.1),
        operation("key_add", 1.35, 1.45, session_id="", grants="key#1"),
        operation("try", 1.46, 1.47, session_id="", secret="key#1"),
        operation("follow", 1.46, 1.9, heard_s=1.8, secret="key#1"),
        operation("key_revoke", 1.48, 1.55, session_id="", ends=["key#1"], status=204),
        operation("try", 9.0, 9.1, session_id="", secret="key#1", status=401, told_s=None),
    ]
    frames = [
        heard("1:0", "session"),
        heard("2:0", "message", message_id="m1"),
        heard("3:0", "start", message_id="r1"),
        heard("3:2", "chunk", message_id="r1", content="He"),
        heard("3:5", "chunk", message_id="r1", content="llo"),
        heard("5:0", "complete", message_id="r1", full_response="Hello"),
        heard("6:0", "session"),
        heard("7:0", "message", message_id="m2"),
        heard("8:0", "start", message_id="r2"),
        heard("8:3", "chunk", message_id="r2", content="Bye"),
        heard("9:0", "error", message_id="r2", status="cancelled", length=2),
    ]
    histories = {S: {"version": 9}, GONE: None, FORK: {"version": 2}, OLD: None}
    seen = [NodeView(node, "one log", dict(histories), {"key#1": 401}) for node in ("n1", "n2", "n3")]
    return DrillRecord(operations, frames, log, seen)


def rules(record: DrillRecord) -> set[str]:
    return {violation.rule for violation in check(record)}


def test_it_has_nothing_against_a_sound_history() -> None:
    assert check(sound()) == []


def drop_ended(record: DrillRecord) -> None:
    """The log ends before what was acknowledged."""
    record.log = [one for one in record.log if one.session_id == S and one.version < 6]


def doubled_key(record: DrillRecord) -> None:
    logged(record.log, S, "message_posted", message_id="m3", role="user", content="hi", idempotency_key="k2")


def two_ids(record: DrillRecord) -> None:
    again = deepcopy(record.operations[1])
    again.reply_id, again.reply_text, again.reply_status = "r2", None, ""
    record.operations.append(again)


def two_ends(record: DrillRecord) -> None:
    logged(record.log, S, "reply_interrupted", reply_id="r1", content="Hel")


def left_open(record: DrillRecord) -> None:
    logged(record.log, S, "message_posted", message_id="m3", role="user", content="?", reply_id="r3")


def text_off_by_one(record: DrillRecord) -> None:
    record.operations[1].reply_text = "Hell"


def stream_off_by_one(record: DrillRecord) -> None:
    record.operations[4].streamed = "Bye"


def chunk_twice(record: DrillRecord) -> None:
    record.heard.insert(4, heard("3:4", "chunk", message_id="r1", content="He"))
    record.heard[5].cursor = "3:7"


def chunk_lost(record: DrillRecord) -> None:
    del record.heard[3]


def reader_keeps_too_much(record: DrillRecord) -> None:
    record.heard[-1].frame["length"] = 3


def event_not_told(record: DrillRecord) -> None:
    del record.heard[6]


def goes_back(record: DrillRecord) -> None:
    record.heard.append(heard("8:0", "start", message_id="r2"))


def stale_read(record: DrillRecord) -> None:
    record.operations.append(operation("read", 0.7, 0.72, version=5, messages=[]))


def read_from_the_future(record: DrillRecord) -> None:
    record.operations.append(operation("read", 0.7, 0.75, version=9, messages=[]))


def read_of_another_text(record: DrillRecord) -> None:
    assert record.operations[2].messages is not None
    record.operations[2].messages[1]["content"] = "He"


def versions_out_of_order(record: DrillRecord) -> None:
    """The title was set and acknowledged before the first message was sent."""
    record.operations[3].invoked_s, record.operations[3].told_s = 0.12, 0.13
    record.operations[3].if_version = None


def if_match_ignored(record: DrillRecord) -> None:
    record.operations[3].if_version = 4


def if_match_refused_for_nothing(record: DrillRecord) -> None:
    record.operations[6].if_version = 9


def refused_and_done(record: DrillRecord) -> None:
    record.operations[3].status, record.operations[3].told_s = 409, None


def lost_session(record: DrillRecord) -> None:
    record.operations.append(operation("read", 0.7, 0.75, status=404, told_s=None))


def internal_error(record: DrillRecord) -> None:
    record.operations.append(operation("read", 0.7, 0.75, status=500, told_s=None))


def not_listed(record: DrillRecord) -> None:
    record.operations[9].messages = []


def deleted_is_listed(record: DrillRecord) -> None:
    record.operations[9].messages = [{"session_id": S}, {"session_id": GONE}]


def deleted_is_back(record: DrillRecord) -> None:
    record.seen[1].histories[GONE] = {"version": 2}


def not_erased(record: DrillRecord) -> None:
    record.log[9].data = {"metadata": {}}


def gap(record: DrillRecord) -> None:
    record.log[-1].position += 1


def inherited_text_lost(record: DrillRecord) -> None:
    """The origin is erased, and nothing was copied."""
    record.log[1].data = None


def inherited_text_changed(record: DrillRecord) -> None:
    read = next(one for one in record.operations if one.kind == "read" and one.session_id == FORK)
    assert read.messages is not None
    read.messages[1]["content"] = "Hell"


def copied_wrong(record: DrillRecord) -> None:
    logged(record.log, FORK, "message_copied", message_id="m1", role="user", content="ho")


def expired_early(record: DrillRecord) -> None:
    record.log[-1].recorded_s = 3.5


def expired_twice(record: DrillRecord) -> None:
    logged(record.log, OLD, "session_expired", deadline_us=3_600_000)


def goes_on_after_expiry(record: DrillRecord) -> None:
    logged(record.log, OLD, "metadata_changed", metadata={})


def never_expired(record: DrillRecord) -> None:
    del record.log[-1]
    logged(record.log, S, "metadata_changed", metadata={})
    record.log[-1].recorded_s = 100.0


def expired_is_read(record: DrillRecord) -> None:
    record.operations.append(operation("read", 4.0, 4.1, session_id=OLD, version=2, messages=[]))


def key_change_lost(record: DrillRecord) -> None:
    record.operations.append(operation("key_rotate", 1.6, 1.7, session_id="", grants="key#2"))


def revoked_key_gets_something(record: DrillRecord) -> None:
    record.operations[-1].status = 200


def revoked_stream_goes_on(record: DrillRecord) -> None:
    record.operations[-3].heard_s = 5.0


def valid_key_refused(record: DrillRecord) -> None:
    del record.operations[-2]  # its revocation
    record.seen[0].keys["key#1"] = 200


def revoked_key_known_to_a_node(record: DrillRecord) -> None:
    record.seen[2].keys["key#1"] = 200


def shown_to_another_key(record: DrillRecord) -> None:
    (record.log[11].data or {})["owner"] = "key"


def no_secret_refused(record: DrillRecord) -> None:
    record.operations[2].status = 401


def other_log(record: DrillRecord) -> None:
    record.seen[2].log = "another"


def other_history(record: DrillRecord) -> None:
    record.seen[2].histories[S] = {"version": 8}


def chain_broken(record: DrillRecord) -> None:
    record.verify = "the digest at position 3 does not follow"


@pytest.mark.parametrize(
    ("plant", "rule"),
    [
        (drop_ended, "acknowledged"),
        (doubled_key, "once"),
        (two_ids, "once"),
        (two_ends, "ends once"),
        (left_open, "ends once"),
        (text_off_by_one, "acknowledged"),
        (stream_off_by_one, "acknowledged"),
        (chunk_twice, "readers"),
        (chunk_lost, "readers"),
        (reader_keeps_too_much, "readers"),
        (event_not_told, "readers"),
        (goes_back, "readers"),
        (stale_read, "order"),
        (read_from_the_future, "reads"),
        (read_of_another_text, "reads"),
        (versions_out_of_order, "order"),
        (if_match_ignored, "if-match"),
        (if_match_refused_for_nothing, "if-match"),
        (refused_and_done, "once"),
        (lost_session, "answers"),
        (internal_error, "answers"),
        (not_listed, "lists"),
        (deleted_is_listed, "lists"),
        (deleted_is_back, "deleted"),
        (not_erased, "deleted"),
        (gap, "gapless"),
        (inherited_text_lost, "forks"),
        (inherited_text_changed, "reads"),
        (copied_wrong, "forks"),
        (expired_early, "expiry"),
        (expired_twice, "expiry"),
        (goes_on_after_expiry, "expiry"),
        (never_expired, "expiry"),
        (expired_is_read, "deleted"),
        (key_change_lost, "keys"),
        (revoked_key_gets_something, "keys"),
        (revoked_stream_goes_on, "keys"),
        (valid_key_refused, "keys"),
        (revoked_key_known_to_a_node, "keys"),
        (shown_to_another_key, "keys"),
        (no_secret_refused, "answers"),
        (other_log, "nodes"),
        (other_history, "nodes"),
        (chain_broken, "chain"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_it_objects_to_a_planted_fault(plant: Callable[[DrillRecord], None], rule: str) -> None:
    record = sound()
    plant(record)
    assert rule in rules(record)


def test_a_reader_need_not_have_what_its_snapshot_did_not_show() -> None:
    record = sound()
    record.heard[:4] = [heard("3:2", "snapshot", messages=[])]  # another branch is shown; "He" was written by then
    assert check(record) == []


def test_a_fork_has_a_copy_of_what_its_origin_has_lost() -> None:
    record = sound()
    record.log[1].data = None
    record.operations = [one for one in record.operations if one.session_id == FORK]
    record.heard = []
    logged(record.log, FORK, "message_copied", message_id="m1", role="user", content="hi")
    assert not [one for one in check(record) if one.session_id == FORK]


def test_a_key_may_be_known_until_three_seconds_without_a_fault_have_passed() -> None:
    record = sound()
    record.operations[-1].status = 200
    record.faults = [FaultSpan("freeze a node", ["n1"], 4.0, 7.0)]
    assert check(record) == []
    record.faults = [FaultSpan("freeze a node", ["n1"], 5.0, 7.0)]
    assert rules(record) == {"keys"}


def test_an_unknown_outcome_may_have_taken_effect_or_not() -> None:
    record = sound()
    for one in record.operations[3], record.operations[4]:
        one.status, one.told_s, one.version, one.reply_status = 503, None, None, ""
    record.operations.append(operation("chat", 0.7, 0.75, key="k9", sent="never came", status=502, told_s=None))
    assert check(record) == []
