"""A session's facts, folded from its events one by one."""

import pytest

from events.catalogue import (
    BranchSelected,
    Event,
    MetadataChanged,
    ReplyCancelled,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    SessionAccessed,
    SessionDeleted,
    SessionExpired,
    SessionRead,
)
from projections.folds.session import Erasure, OpenReply, PendingReply, Session, evolve
from tests.support.log.event_builders import TIMEOUT_S, completed, created, emptied, posted, started, turn
from tests.support.log.memory_log import START_US, STEP_US, MemoryLog


def folded(*events: Event) -> Session:
    log = MemoryLog()
    log.record("other", created())
    log.record("s", *events)
    return fold_log(log)


def fold_log(log: MemoryLog) -> Session:
    session: Session | None = None
    for recorded in log.events:
        if recorded.stream_id == "s":
            session = evolve(session, recorded)
    assert session is not None
    return session


def test_a_new_session_is_numbered_by_the_position_of_its_first_event() -> None:
    at_us = START_US + 2 * STEP_US
    assert folded(created("bob")) == Session(
        no=2,
        session_id="s",
        owner="bob",
        timeout_s=TIMEOUT_S,
        created_at_us=at_us,
        accessed_at_us=at_us,
        version=1,
        position=2,
        described_at=2,
        changed_at=2,
    )


def test_a_session_expires_its_timeout_after_its_last_access() -> None:
    session = folded(created(), SessionAccessed())
    assert session.expires_at_us == START_US + 3 * STEP_US + TIMEOUT_S * 1_000_000


def test_a_deleted_session_waits_for_its_erasure_and_no_longer() -> None:
    waiting = folded(created(), SessionExpired(1, "request", "n"))
    assert (waiting.status, waiting.is_deleted, waiting.erasure) == ("expired", True, Erasure("request", "n"))
    assert folded(created(), SessionExpired(1, "request"), SessionExpired(2)).erasure == Erasure("request")
    gone = folded(created(), SessionExpired(1, "request"), SessionDeleted("request"))
    assert (gone.status, gone.is_deleted, gone.erasure) == ("deleted", True, None)
    assert not folded(created(), SessionExpired(1)).is_deleted


@pytest.mark.parametrize(
    ("event", "counts"),
    [
        (SessionAccessed(), True),
        (MetadataChanged({}), True),
        (posted("m2"), True),
        (BranchSelected("m1"), True),
        (completed("r1"), True),
        (ReplyFailed("r1", "", "llm_failed"), True),
        (ReplyCancelled("r1", "", "client"), True),
        (ReplyInterrupted("r1", "", "shutdown"), False),
        (ReplyProgressed("r1", 0, "a"), False),
        (started("r1", "m1"), False),
        (SessionExpired(0), False),
    ],
)
def test_what_a_person_does_or_a_reply_ends_is_an_access(event: Event, counts: bool) -> None:
    session = folded(created(), posted("m1", reply_id="r1"), event)
    assert session.accessed_at_us == START_US + (4 if counts else 3) * STEP_US


def test_a_posted_message_waits_for_its_reply_which_becomes_the_head() -> None:
    session = folded(created(), posted("m1", reply_id="r1"))
    assert session.pending == (PendingReply("m1", "r1", 2),)
    assert (session.head, session.message_count, session.open_reply) == ("r1", 2, None)


def test_a_message_without_reply_counts_alone() -> None:
    session = folded(created(), posted("m1"))
    assert (session.head, session.message_count, session.pending) == ("m1", 1, ())


def test_a_started_reply_is_open_and_waits_no_more() -> None:
    session = folded(created(), posted("m1", reply_id="r1"), posted("m2", "r1", "r2"), started("r1", "m1"))
    assert session.open_reply == OpenReply("r1", "m1", 4, node="node")
    assert [waiting.reply_id for waiting in session.pending] == ["r2"]


@pytest.mark.parametrize(
    "end",
    [
        completed("r1"),
        ReplyFailed("r1", "", "llm_failed"),
        ReplyCancelled("r1", "", "client"),
        ReplyInterrupted("r1", "", "shutdown"),
    ],
)
@pytest.mark.parametrize("begun", [True, False], ids=["started", "waiting"])
def test_every_ending_closes_the_reply(end: Event, begun: bool) -> None:
    start = (started("r1", "m1"),) if begun else ()
    session = folded(created(), posted("m1", reply_id="r1"), *start, end)
    assert (session.open_reply, session.pending) == (None, ())


def test_the_end_of_one_reply_leaves_another_open() -> None:
    session = folded(created(), posted("m1", reply_id="r1"), started("r1", "m1"), completed("r0"))
    assert session.open_reply == OpenReply("r1", "m1", 3, node="node")


def test_the_selected_branch_ends_in_the_selected_message() -> None:
    assert folded(created(), *turn(1), BranchSelected("m1")).head == "m1"


def test_the_newest_description_is_where_metadata_and_title_are_read() -> None:
    assert folded(created(), SessionAccessed(), MetadataChanged({"a": 1})).described_at == 4


@pytest.mark.parametrize(
    ("ended", "is_unread"),
    [
        (completed("r1"), True),
        (ReplyFailed("r1", "", "llm_failed"), True),
        (ReplyInterrupted("r1", "", "crash"), True),
        (ReplyCancelled("r1", "", "client"), False),
    ],
)
def test_a_reply_that_nobody_stopped_is_unread(ended: Event, is_unread: bool) -> None:
    session = folded(created(), posted("m1", None, "r1"), started("r1", "m1"), ended)
    assert session.unread_at == (4 if is_unread else 0)


def test_a_session_is_unread_until_a_client_has_shown_its_newest_reply() -> None:
    session = folded(created(), *turn(1), *turn(2, "r1"), SessionRead(4))
    assert session.unread_at == 7
    assert folded(created(), *turn(1), *turn(2, "r1"), SessionRead(7)).unread_at == 0
    assert folded(created(), *turn(1), posted("m2", "r1", "r2")).unread_at == 0


def test_a_read_mark_postpones_no_expiry() -> None:
    events = (created(), *turn(1))
    assert folded(*events, SessionRead(4)).accessed_at_us == folded(*events).accessed_at_us


def test_a_pin_lasts_until_a_change_takes_it_back() -> None:
    pinned = MetadataChanged({}, "a title", pinned=True)
    assert folded(created(), pinned, *turn(1)).pinned
    assert not folded(created(), pinned, MetadataChanged({}, "a title")).pinned


def test_checkpoints_of_a_reply_change_nothing_that_lists_show() -> None:
    began = (created(), posted("m1", None, "r1"), started("r1", "m1"))
    checkpoint = ReplyProgressed("r1", 0, "wor")
    assert folded(*began, checkpoint).changed_at == folded(*began).changed_at == 4
    assert folded(*began, checkpoint, completed("r1")).changed_at == 6


def test_an_expired_session_keeps_its_messages() -> None:
    session = folded(created(), *turn(1), SessionExpired(0))
    assert (session.status, session.message_count) == ("expired", 2)


def test_a_deleted_session_is_a_tombstone_with_its_owner() -> None:
    session = folded(created(), posted("m1", reply_id="r1"), SessionDeleted("asked", "alice"))
    assert (session.status, session.owner, session.head, session.pending) == ("deleted", "alice", None, ())
    assert session.described_at == 0


def test_an_emptied_session_goes_on_without_its_past() -> None:
    session = folded(created(), *turn(1), emptied(), posted("m2"))
    assert (session.status, session.head, session.message_count) == ("active", "m2", 1)
    assert session.timeout_s == TIMEOUT_S


@pytest.mark.parametrize("end", [emptied(), SessionDeleted("asked", "alice")], ids=["emptied", "deleted"])
def test_a_past_that_was_erased_folds_to_the_same_session(end: Event) -> None:
    past = (created(), *turn(1), MetadataChanged({"a": 1}), emptied(), *turn(2), SessionExpired(0))
    kept, erased = MemoryLog(), MemoryLog()
    kept.record("s", *past, end)
    erased.record("s", *past)
    erased.erase_now("s", end)
    assert fold_log(erased) == fold_log(kept)
