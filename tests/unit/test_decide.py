"""Decisions of a session: pure, so each case is a state, a command and a time."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from chatbot.sessions import commands, errors
from chatbot.sessions.commands import SERVICE, Asker
from chatbot.sessions.decide import Decision, Rules, decide
from chatbot.sessions.state import State, evolve
from events.catalogue import (
    Event,
    MessagePosted,
    MetadataChanged,
    Parameters,
    ReplyCompleted,
    ReplyFailed,
    ReplyProgressed,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
)
from events.codec import event_type
from events.record import Metadata, RecordedEvent

SESSION = "5b4f2c1e-0000-4000-8000-000000000001"
RULES = Rules(
    node="here",
    provider="openai",
    model="tiny",
    max_context_messages=4,
    pending_max=2,
    access_resolution_us=60_000_000,
)
HOUR_US = 3_600_000_000


def record(state: State | None, events: Sequence[Event], at_us: int = 0) -> State:
    """The state once the log has taken `events`."""
    for event in events:
        version = state.session.version + 1 if state else 1
        recorded = RecordedEvent(version, SESSION, version, event_type(event), 1, at_us, Metadata(), event)
        state = evolve(state, recorded, recent_max=20)
    assert state is not None
    return state


def created(**fields: Any) -> State:
    return record(None, [SessionCreated(**{"owner": None, "metadata": {}, "timeout_s": 3600, **fields})])


def ask(state: State | None, command: commands.Command, now_us: int = 0, asker: Asker = SERVICE) -> Decision:
    return decide(state, command, now_us, RULES, asker, SESSION)


def post(number: int, **fields: Any) -> commands.PostMessage:
    return commands.PostMessage(f"m{number}", f"r{number}", f"question {number}", Parameters(), **fields)


def completed(number: int) -> ReplyCompleted:
    return ReplyCompleted(f"r{number}", f"answer {number}", "stop", "tiny", 1000)


def turn(state: State, number: int) -> State:
    """`state` after a whole turn."""
    state = record(state, ask(state, post(number)).events)
    return record(state, ask(state, commands.EndReply(completed(number))).events)


def test_a_message_to_an_idle_session_is_posted_and_its_reply_starts_at_once() -> None:
    posted, started = ask(created(), post(1)).events
    assert isinstance(posted, MessagePosted)
    assert (posted.message_id, posted.parent_id, posted.reply_id) == ("m1", None, "r1")
    assert isinstance(started, ReplyStarted)
    assert (started.reply_id, started.parent_id, started.context_ids) == ("r1", "m1", ("m1",))
    assert (started.provider, started.model, started.node) == ("openai", "tiny", "here")


def test_a_message_follows_the_newest_of_the_branch_and_the_context_has_the_newest_messages() -> None:
    state = turn(turn(turn(created(), 1), 2), 3)
    posted, started = ask(state, post(4)).events
    assert isinstance(posted, MessagePosted)
    assert posted.parent_id == "r3"
    assert isinstance(started, ReplyStarted)
    # the newest 4 are r2 m3 r3 m4: the orphaned r2 is left out
    assert started.context_ids == ("m3", "r3", "m4")


def test_a_reply_that_failed_without_a_word_is_not_in_the_context() -> None:
    state = record(created(), ask(created(), post(1)).events)
    state = record(state, ask(state, commands.EndReply(ReplyFailed("r1", "", "llm_failed"))).events)
    _, started = ask(state, post(2)).events
    assert isinstance(started, ReplyStarted)
    assert started.context_ids == ("m1", "m2")


def test_a_second_message_waits_and_a_third_follows_the_reply_to_come() -> None:
    state = record(created(), ask(created(), post(1)).events)
    (second,) = ask(state, post(2)).events
    assert isinstance(second, MessagePosted)
    assert second.parent_id == "r1"
    state = record(state, [second])
    (third,) = ask(state, post(3)).events
    assert isinstance(third, MessagePosted)
    assert third.parent_id == "r2"


def test_a_message_beyond_those_that_may_wait_is_refused_and_changes_nothing() -> None:
    state = record(created(), ask(created(), post(1)).events)
    for number in (2, 3):
        state = record(state, ask(state, post(number)).events)
    decision = ask(state, post(4))
    assert isinstance(decision.rejection, errors.TooManyPending)
    assert decision.events == ()


def test_on_busy_reject_refuses_while_a_reply_runs_only() -> None:
    assert ask(created(), post(1, on_busy="reject")).rejection is None
    state = record(created(), ask(created(), post(1)).events)
    assert isinstance(ask(state, post(2, on_busy="reject")).rejection, errors.SessionBusy)


def test_the_next_reply_starts_when_none_runs_with_the_finished_one_in_its_context() -> None:
    state = record(created(), ask(created(), post(1)).events)
    state = record(state, ask(state, post(2)).events)
    assert ask(state, commands.StartReply(Parameters())).events == ()
    state = record(state, ask(state, commands.EndReply(completed(1))).events)
    (started,) = ask(state, commands.StartReply(Parameters())).events
    assert isinstance(started, ReplyStarted)
    assert started.reply_id == "r2"
    assert started.context_ids == ("m1", "r1", "m2")


def test_a_reply_ends_once() -> None:
    state = record(created(), ask(created(), post(1)).events)
    state = record(state, ask(state, commands.EndReply(completed(1))).events)
    assert ask(state, commands.EndReply(ReplyFailed("r1", "", "llm_failed"))).events == ()
    assert ask(state, commands.CheckpointReply("r1", 0, "late")).events == ()


def test_a_checkpoint_is_recorded_while_the_reply_runs() -> None:
    state = record(created(), ask(created(), post(1)).events)
    assert ask(state, commands.CheckpointReply("r1", 3, "abc")).events == (ReplyProgressed("r1", 3, "abc"),)


def test_the_parent_may_be_named_or_be_none_for_a_new_root() -> None:
    state = turn(turn(created(), 1), 2)
    named, _ = ask(state, post(3, parent_id="r1")).events
    assert isinstance(named, MessagePosted)
    assert named.parent_id == "r1"
    root, started = ask(state, post(3, parent_id=None)).events
    assert isinstance(root, MessagePosted)
    assert root.parent_id is None
    assert isinstance(started, ReplyStarted)
    assert started.context_ids == ("m3",)


def test_metadata_merges_and_none_removes_a_key() -> None:
    state = created(metadata={"a": 1, "b": 2}, title="old")
    (changed,) = ask(state, commands.ChangeMetadata(metadata={"b": None, "c": 3})).events
    assert changed == MetadataChanged(metadata={"a": 1, "c": 3}, title="old")
    (titled,) = ask(state, commands.ChangeMetadata(title="new")).events
    assert titled == MetadataChanged(metadata={"a": 1, "b": 2}, title="new")


def test_a_change_that_changes_nothing_records_nothing() -> None:
    state = created(metadata={"a": 1}, title="t")
    assert ask(state, commands.ChangeMetadata(metadata={"a": 1}, title="t")).events == ()


def test_a_merge_that_grows_past_the_limit_is_refused() -> None:
    state = created(metadata={"a": "x" * 50})
    decision = ask(state, commands.ChangeMetadata(metadata={"b": "y" * 50}, metadata_max_bytes=100))
    assert isinstance(decision.rejection, errors.TooLarge)
    assert decision.events == ()


def test_reads_are_recorded_coarsely() -> None:
    state = created()
    assert ask(state, commands.Touch(), now_us=59_999_999).events == ()
    assert ask(state, commands.Touch(), now_us=60_000_000).events == (SessionAccessed(),)


def test_a_session_expires_at_its_deadline_and_not_before() -> None:
    state = created()
    assert ask(state, commands.Expire(), now_us=HOUR_US - 1).events == ()
    decision = ask(state, commands.Expire(), now_us=HOUR_US)
    assert decision == Decision(events=(SessionExpired(deadline_us=HOUR_US),))


def test_a_command_past_the_deadline_records_the_expiry_and_is_refused() -> None:
    decision = ask(created(), post(1), now_us=HOUR_US)
    assert decision.events == (SessionExpired(deadline_us=HOUR_US),)
    assert isinstance(decision.rejection, errors.SessionExpired)


def test_a_session_with_a_running_reply_does_not_expire() -> None:
    state = record(created(), ask(created(), post(1)).events)
    assert ask(state, commands.Expire(), now_us=2 * HOUR_US).events == ()


@pytest.mark.parametrize(
    ("last", "rejection"),
    [(SessionExpired(deadline_us=0), errors.SessionExpired), (SessionDeleted(reason="request"), errors.SessionDeleted)],
)
def test_a_session_that_is_gone_refuses_everything(last: Event, rejection: type[errors.Rejection]) -> None:
    state = record(created(), [last])
    for command in (post(1), commands.Touch(), commands.ChangeMetadata(title="x")):
        decision = ask(state, command)
        assert type(decision.rejection) is rejection
        assert decision.events == ()


def test_an_expired_session_can_be_deleted_and_a_deleted_one_cannot() -> None:
    expired = record(created(), [SessionExpired(deadline_us=0)])
    deleted = ask(expired, commands.DeleteSession())
    assert [type(event) for event in deleted.events] == [SessionDeleted]
    again = ask(record(expired, deleted.events), commands.DeleteSession())
    assert type(again.rejection) is errors.SessionDeleted
    assert again.events == ()


def test_an_unknown_session_is_not_found() -> None:
    assert type(ask(None, post(1)).rejection) is errors.SessionNotFound


def test_deleting_keeps_the_usage_on_the_books() -> None:
    (deleted,) = ask(created(owner="alice"), commands.DeleteSession()).events
    assert deleted == SessionDeleted(reason="request", owner="alice")


def test_a_foreign_session_is_not_found_when_there_are_keys() -> None:
    rules = replace(RULES, auth=True)
    state = created(owner="alice")
    for owner, refused in (("alice", False), ("bob", True), (None, True)):
        decision = decide(state, commands.Touch(), 0, rules, Asker(owner, "id"), SESSION)
        assert isinstance(decision.rejection, errors.SessionNotFound) is refused
