"""What a batch of events changes in the tables, computed without any table."""

import pytest
from msgspec.structs import replace

from events.catalogue import (
    AdoptedMessage,
    Event,
    HistoryAdopted,
    MessagePosted,
    MetadataChanged,
    Parameters,
    ReplyCancelled,
    ReplyEnded,
    ReplyFailed,
    ReplyInterrupted,
    SessionDeleted,
    SessionExpired,
    ToolCallsClosed,
    Usage,
    UsageTotal,
)
from events.schema.parts import Text, ToolCall, ToolResult
from projections.folds.batch import ROWS_PER_EVENT_MAX, Changes, SessionChanges, day_of, fold
from projections.folds.blind_index import compute_labels
from projections.folds.message import MessageUpdate, NewMessage
from projections.folds.session import Session
from tests.support.log.event_builders import completed, created, emptied, posted, started, turn
from tests.support.log.memory_log import START_US, STEP_US, MemoryLog

KEY = b"k" * 32
ONE_REPLY = UsageTotal("2025-01-01", "small", 1, 10, 20)


def changes_of(*batches: tuple[Event, ...]) -> Changes:
    """The changes of the last of `batches`, all of one session."""
    log, states = MemoryLog(), dict[str, Session]()
    for batch in batches:
        changes = fold(log.record("s", *batch), states, KEY)
        states["s"] = changes.sessions[0].session
    return changes


def only(changes: Changes) -> SessionChanges:
    (session,) = changes.sessions
    return session


def test_a_whole_turn_in_one_batch_is_two_rows_and_no_update() -> None:
    session = only(changes_of((created(), *turn(1))))
    at_us = START_US + STEP_US
    assert session.updates == {}
    assert session.inserts == {
        "m1": NewMessage(2 * ROWS_PER_EVENT_MAX, "m1", None, 1, "user", "complete", 2, 2, at_us + STEP_US),
        "r1": NewMessage(
            2 * ROWS_PER_EVENT_MAX + 1,
            "r1",
            "m1",
            2,
            "assistant",
            "complete",
            4,
            4,
            at_us + 2 * STEP_US,
            "small",
            10,
            20,
            "2025-01-01",
        ),
    }


def test_a_reply_that_began_in_an_older_batch_is_updated() -> None:
    session = only(changes_of((created(), posted("m1", reply_id="r1"), started("r1", "m1")), (completed("r1"),)))
    assert session.inserts == {}
    assert session.updates == {"r1": MessageUpdate("complete", 4, 4, None, "small", 10, 20, "2025-01-01")}


def test_start_and_end_in_one_later_batch_are_one_update_that_keeps_the_start() -> None:
    session = only(changes_of((created(), posted("m1", reply_id="r1")), (started("r1", "m1"), completed("r1"))))
    update = session.updates["r1"]
    assert (update.status, update.created_at_us, update.version) == ("complete", START_US + 3 * STEP_US, 4)


def test_the_depth_under_an_older_message_is_left_to_the_table() -> None:
    session = only(changes_of((created(), *turn(1)), turn(2, "r1")))
    assert [row.depth for row in session.inserts.values()] == [None, None]


def test_a_further_answer_to_a_message_is_a_row_of_its_own() -> None:
    session = only(changes_of((created(), *turn(1)), (started("r1b", "m1"), completed("r1b"))))
    row = session.inserts["r1b"]
    assert (row.parent_id, row.status, row.role) == ("m1", "complete", "assistant")


def test_replies_that_did_not_complete_count_no_usage_and_say_how_they_ended() -> None:
    ends = (
        ReplyFailed("r1", "", "llm_failed"),
        ReplyCancelled("r2", "", "client"),
        ReplyInterrupted("r3", "", "shutdown"),
    )
    posts = [posted(f"m{n}", None, f"r{n}") for n in (1, 2, 3)]
    changes = changes_of((created(), *posts, *ends))
    assert changes.usage == ()
    statuses = {row.message_id: row.status for row in only(changes).inserts.values() if row.role == "assistant"}
    assert statuses == {"r1": "failed", "r2": "cancelled", "r3": "interrupted"}


def test_a_failed_reply_whose_tokens_were_told_counts_them() -> None:
    ended = ReplyFailed("r1", "", "llm_failed", usage=Usage(10, 20, 30), model="small")
    batches = (created(), posted("m1", reply_id="r1"), started("r1", "m1")), (ended,)
    changes = changes_of(*batches)
    assert changes.usage == ((only(changes).session.owner or "", ONE_REPLY),)
    assert only(changes).updates == {"r1": MessageUpdate("failed", 4, 4, None, "small", 10, 20, "2025-01-01")}


@pytest.mark.parametrize(
    "ended",
    [
        ReplyCancelled("r1", "", "client", usage=Usage(10, 20, 30, 7, 3), model="small"),
        ReplyInterrupted("r1", "", "shutdown", usage=Usage(10, 20, 30, 7, 3), model="small"),
        replace(completed("r1"), usage=Usage(10, 20, 30, 7, 3)),
    ],
    ids=type,
)
def test_reasoning_and_cached_tokens_count_whatever_way_a_reply_ends(ended: ReplyEnded) -> None:
    batches = (created(), posted("m1", reply_id="r1"), started("r1", "m1")), (ended,)
    changes = changes_of(*batches)
    assert changes.usage == (("alice", UsageTotal("2025-01-01", "small", 1, 10, 20, 7, 3)),)
    (update,) = only(changes).updates.values()
    assert (update.reasoning_tokens, update.cached_tokens, update.day) == (7, 3, "2025-01-01")


def test_a_client_names_no_model_in_figures_by_cancelling_its_reply() -> None:
    started_event = replace(started("r1", "m1"), parameters=Parameters(model="a secret"))
    ended = ReplyCancelled("r1", "", "client", usage=Usage(1, 2, 3), model="a secret")
    changes = changes_of((created(), posted("m1", reply_id="r1"), started_event), (ended,))
    assert [used.model for _, used in changes.usage] == ["other"]


CALL = ToolCall("call_1", "weather", "{}")
RESULTS = MessagePosted("m2", "r1", "tool", "", "r2", parts=(ToolResult("call_1", (Text("21 degrees"),)),))
CALLED = replace(completed("r1"), content="", parts=(CALL,))
ASKED = (created(), posted("m1", reply_id="r1"), started("r1", "m1"))


@pytest.mark.parametrize(
    ("then", "calls"),
    [
        ((), "open"),
        ((RESULTS,), "answered"),
        ((ToolCallsClosed("r1", ("call_1",), "superseded"),), "closed"),
    ],
)
def test_the_row_of_a_reply_says_what_became_of_its_tool_calls(then: tuple[Event, ...], calls: str) -> None:
    assert only(changes_of((*ASKED, CALLED, *then))).inserts["r1"].calls == calls  # all in one batch
    assert only(changes_of(ASKED, (CALLED, *then))).updates["r1"].calls == calls
    assert only(changes_of((*ASKED, CALLED), then or (created(),))).calls == ({"r1": calls} if then else {})


@pytest.mark.parametrize("kind", [ReplyCancelled, ReplyInterrupted, ReplyFailed])
def test_only_completed_replies_have_open_calls(kind: type[ReplyCancelled]) -> None:
    ended = kind("r1", "", "client", parts=(CALL,))
    rows = only(changes_of((*ASKED, ended, RESULTS))).inserts
    assert (rows["r1"].calls, rows["m2"].role, rows["m2"].calls) == (None, "tool", None)


def test_a_fork_has_the_calls_of_its_origin() -> None:
    adopted = AdoptedMessage("r1", "m1", "assistant", "complete", 4, 1, calls="open")
    rows = only(changes_of((created(), HistoryAdopted((adopted,)), RESULTS))).inserts
    assert rows["r1"].calls == "answered"


def test_a_reply_ends_once() -> None:
    changes = changes_of((created(), *turn(1)), (completed("r1"), completed("r0")))
    assert (changes.usage, only(changes).updates) == ((), {})


def test_usage_is_added_by_day_owner_and_model() -> None:
    log = MemoryLog()
    log.record("a", created("alice"), *turn(1), *turn(2, "r1"))
    log.record("b", created(None), *turn(3))
    changes = fold(log.events, {}, KEY)
    assert changes.usage == (("alice", UsageTotal("2025-01-01", "small", 2, 20, 40)), ("", ONE_REPLY))


def test_statuses_are_counted_as_differences() -> None:
    assert changes_of((created(),)).counts == {"active": 1}
    assert changes_of((created(),), (SessionExpired(0),)).counts == {"active": -1, "expired": 1}
    assert changes_of((created(),), turn(1)).counts == {}


def test_labels_follow_the_newest_metadata() -> None:
    changes = changes_of((created(topic="sea"), MetadataChanged({"topic": "hill", "n": 1})))
    assert only(changes).labels == compute_labels(KEY, {"topic": "hill", "n": 1})
    assert only(changes_of((created(topic="sea"),), turn(1))).labels is None


def test_an_erasure_takes_back_what_its_batch_said_before_it() -> None:
    changes = changes_of((created(topic="sea"), *turn(1), emptied(ONE_REPLY), *turn(2)))
    session = only(changes)
    assert list(session.inserts) == ["m2", "r2"]
    assert (session.erased, session.labels, session.erased_usage) == (True, (), (ONE_REPLY,))
    assert changes.usage == (("alice", UsageTotal("2025-01-01", "small", 2, 20, 40)),)


def test_a_later_erasure_speaks_for_the_earlier_one() -> None:
    both = UsageTotal("2025-01-01", "small", 2, 20, 40)
    deleted = SessionDeleted("asked", "alice", (both,))
    changes = changes_of((created(), *turn(1), emptied(ONE_REPLY), *turn(2), deleted))
    assert changes.usage == (("alice", both),)
    assert only(changes).inserts == {}


def test_an_erased_event_changes_nothing_but_its_session() -> None:
    log = MemoryLog()
    log.record("s", created(topic="sea"), *turn(1))
    log.erase_now("s", emptied())
    session = only(fold(log.events[:-1], {}, KEY))
    assert (session.inserts, session.updates, session.labels) == ({}, {}, None)
    assert session.session.version == 4


def test_a_day_is_that_of_utc() -> None:
    assert day_of(1_735_689_599_999_999) == "2024-12-31"
    assert day_of(1_735_689_600_000_000) == "2025-01-01"
