"""Decisions of a session: pure, so each case is a state, a command and a time."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
from msgspec.structs import replace

from chatbot.sessions.domain import commands, rejections
from chatbot.sessions.domain.commands import SERVICE, Caller, Decision, IdempotencyKey
from chatbot.sessions.domain.decide import decide
from chatbot.sessions.domain.state import Rules, State, evolve
from events.catalogue import (
    AnyEvent,
    BranchSelected,
    Event,
    MessageCopied,
    MessagePosted,
    MetadataChanged,
    Parameters,
    ReplyCancelled,
    ReplyCompleted,
    ReplyFailed,
    ReplyInterrupted,
    ReplyProgressed,
    ReplyRequested,
    ReplyStarted,
    SessionAccessed,
    SessionCreated,
    SessionDeleted,
    SessionExpired,
)
from events.codec import event_type
from events.record import Metadata, RecordedEvent
from events.schema.parts import Text

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
        recorded = RecordedEvent(
            version, SESSION, version, event_type(event), 1, at_us, Metadata(), cast(AnyEvent, event)
        )
        state = evolve(state, recorded, recent_max=20)
    assert state is not None
    return state


def created(**fields: Any) -> State:
    return record(None, [SessionCreated(**{"owner": None, "metadata": {}, "timeout_s": 3600, **fields})])


def ask(state: State | None, command: commands.Command, now_us: int = 0, caller: Caller = SERVICE) -> Decision:
    return decide(state, command, now_us, RULES, caller, SESSION)


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


@pytest.mark.parametrize(
    ("named", "answered", "at_start", "at_end"),
    [
        (None, "tiny-v2", None, None),  # the service's own, whatever the server calls it
        ("tiny", "tiny-v2", "tiny", None),
        ("made up", "made up", None, None),
        ("alias", "tiny", None, "tiny"),
    ],
)
def test_a_clients_name_for_a_model_is_counted_only_if_it_is_known(
    named: str | None, answered: str, at_start: str | None, at_end: str | None
) -> None:
    rules, state = replace(RULES, models=frozenset({"tiny"})), created()
    asked = replace(post(1), parameters=Parameters(model=named))
    events = decide(state, asked, 0, rules, SERVICE, SESSION).events
    begun = events[1]
    assert isinstance(begun, ReplyStarted)
    assert (begun.model, begun.counted_as) == (named or "tiny", at_start)
    state = record(state, events)
    for ended in (replace(completed(1), model=answered), ReplyFailed("r1", "", "filtered", model=answered)):
        (told,) = decide(state, commands.EndReply(ended), 0, rules, SERVICE, SESSION).events
        assert isinstance(told, ReplyCompleted | ReplyFailed)
        assert (told.model, told.counted_as) == (answered, at_end)


def test_a_message_follows_the_newest_of_the_branch_and_the_context_has_the_newest_messages() -> None:
    state = turn(turn(turn(created(), 1), 2), 3)
    posted, started = ask(state, post(4)).events
    assert isinstance(posted, MessagePosted)
    assert posted.parent_id == "r3"
    assert isinstance(started, ReplyStarted)
    # the newest 4 are r2 m3 r3 m4: the orphaned r2 is left out
    assert started.context_ids == ("m3", "r3", "m4")


def test_a_reply_that_failed_without_a_word_is_not_in_the_context_nor_is_its_question() -> None:
    state = record(created(), ask(created(), post(1)).events)
    state = record(state, ask(state, commands.EndReply(ReplyFailed("r1", "", "llm_failed"))).events)
    _, started = ask(state, post(2)).events
    assert isinstance(started, ReplyStarted)
    assert (started.context_ids, started.joined) == (("m2",), False)
    rules = replace(RULES, unanswered="join")
    _, started = decide(state, post(2), 0, rules, SERVICE, SESSION).events
    assert isinstance(started, ReplyStarted)
    assert (started.context_ids, started.joined) == (("m1", "m2"), True)


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
    assert isinstance(decision.rejection, rejections.TooManyPending)
    assert decision.events == ()


def test_on_busy_reject_refuses_while_a_reply_runs_only() -> None:
    assert ask(created(), post(1, on_busy="reject")).rejection is None
    state = record(created(), ask(created(), post(1)).events)
    assert isinstance(ask(state, post(2, on_busy="reject")).rejection, rejections.SessionBusy)


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
    assert ask(state, commands.CheckpointReply("r1", (ReplyProgressed("r1", 0, "late"),))).events == ()


def test_a_checkpoint_is_recorded_while_the_reply_runs() -> None:
    state = record(created(), ask(created(), post(1)).events)
    grown = (ReplyProgressed("r1", 3, "abc"), ReplyProgressed("r1", 6, "", 1, "tool_call", "c1", "weather"))
    assert ask(state, commands.CheckpointReply("r1", grown)).events == grown


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
    assert isinstance(decision.rejection, rejections.TooLarge)
    assert decision.events == ()


def test_reads_are_recorded_coarsely() -> None:
    state = created()
    assert ask(state, commands.RecordAccess(), now_us=59_999_999).events == ()
    assert ask(state, commands.RecordAccess(), now_us=60_000_000).events == (SessionAccessed(),)


def test_a_session_expires_at_its_deadline_and_not_before() -> None:
    state = created()
    assert ask(state, commands.Expire(), now_us=HOUR_US - 1).events == ()
    decision = ask(state, commands.Expire(), now_us=HOUR_US)
    assert decision == Decision(events=(SessionExpired(deadline_us=HOUR_US),))


def test_a_command_past_the_deadline_records_the_expiry_and_is_refused() -> None:
    decision = ask(created(), post(1), now_us=HOUR_US)
    assert decision.events == (SessionExpired(deadline_us=HOUR_US),)
    assert isinstance(decision.rejection, rejections.SessionExpired)


def test_a_session_with_a_running_reply_does_not_expire() -> None:
    state = record(created(), ask(created(), post(1)).events)
    assert ask(state, commands.Expire(), now_us=2 * HOUR_US).events == ()


@pytest.mark.parametrize(
    ("last", "rejection"),
    [
        (SessionExpired(deadline_us=0), rejections.SessionExpired),
        (SessionDeleted(reason="request"), rejections.SessionDeleted),
    ],
)
def test_a_session_that_is_gone_refuses_everything(last: Event, rejection: type[rejections.Rejection]) -> None:
    state = record(created(), [last])
    for command in (post(1), commands.RecordAccess(), commands.ChangeMetadata(title="x")):
        decision = ask(state, command)
        assert type(decision.rejection) is rejection
        assert decision.events == ()


def test_an_expired_session_can_be_deleted_and_a_deleted_one_cannot() -> None:
    expired = record(created(), [SessionExpired(deadline_us=0)])
    deleted = ask(expired, commands.DeleteSession())
    assert [type(event) for event in deleted.events] == [SessionDeleted]
    again = ask(record(expired, deleted.events), commands.DeleteSession())
    assert type(again.rejection) is rejections.SessionDeleted
    assert again.events == ()


def test_an_unknown_session_is_not_found() -> None:
    assert type(ask(None, post(1)).rejection) is rejections.SessionNotFound


def test_deleting_keeps_the_usage_on_the_books() -> None:
    (deleted,) = ask(created(owner="alice"), commands.DeleteSession()).events
    assert deleted == SessionDeleted(reason="request", owner="alice")


def test_a_foreign_session_is_not_found_when_there_are_keys() -> None:
    state = created(owner="alice")
    for owner, any_owner, refused in (
        ("alice", False, False),
        ("bob", False, True),
        (None, False, True),
        (None, True, False),
    ):
        caller = Caller(owner, "id", any_owner=any_owner)
        decision = decide(state, commands.RecordAccess(), 0, RULES, caller, SESSION)
        assert isinstance(decision.rejection, rejections.SessionNotFound) is refused


def regenerate(number: int, message_id: str, **fields: Any) -> commands.Regenerate:
    return commands.Regenerate(f"r{number}", message_id, Parameters(seed=number), **fields)


ONCE = IdempotencyKey("key", "f" * 64)


def test_a_regenerated_reply_is_requested_and_starts_at_once_with_a_context_that_ends_in_the_question() -> None:
    state = turn(turn(created(), 1), 2)
    requested, started = ask(state, regenerate(9, "m1")).events
    assert requested == ReplyRequested("r9", "m1", Parameters(seed=9))
    assert isinstance(started, ReplyStarted)
    assert (started.reply_id, started.parent_id, started.context_ids) == ("r9", "m1", ("m1",))
    assert (started.parameters, started.attempt) == (Parameters(seed=9), 1)
    after = record(state, [requested, started]).session
    assert (after.head, after.message_count, after.pending) == ("r9", 5, ())


def test_a_regeneration_waits_counts_among_those_that_wait_and_is_refused_as_a_message_is() -> None:
    state = record(created(), ask(created(), post(1)).events)
    assert isinstance(ask(state, regenerate(9, "m1", on_busy="reject")).rejection, rejections.SessionBusy)
    for number in (8, 9):
        (requested,) = ask(state, regenerate(number, "m1")).events
        state = record(state, [requested])
    assert [waiting.reply_id for waiting in state.session.pending] == ["r8", "r9"]
    assert isinstance(ask(state, regenerate(10, "m1")).rejection, rejections.TooManyPending)
    assert isinstance(ask(state, post(4)).rejection, rejections.TooManyPending)


def test_where_none_may_wait_an_idle_session_still_answers() -> None:
    rules = replace(RULES, pending_max=0)
    assert decide(created(), post(1), 0, rules, SERVICE, SESSION).rejection is None
    state = record(created(), ask(created(), post(1)).events)
    refused = decide(state, post(2), 0, rules, SERVICE, SESSION)
    assert isinstance(refused.rejection, rejections.TooManyPending)


def test_selecting_the_selected_branch_records_nothing_unless_it_must_be_known_again() -> None:
    state = turn(turn(created(), 1), 2)
    assert ask(state, commands.SelectBranch("r2")).events == ()
    assert ask(state, commands.SelectBranch("r1")).events == (BranchSelected("r1"),)
    keyed = BranchSelected("r2", ONCE.key, ONCE.fingerprint)
    assert ask(state, commands.SelectBranch("r2", idempotency_key=ONCE)).events == (keyed,)


def test_the_key_of_a_request_is_in_the_one_event_that_it_caused() -> None:
    new, state = created(), turn(created(), 1)
    create = commands.CreateSession(None, {}, 60, None, None, idempotency_key=ONCE)
    cases: list[tuple[State | None, commands.Command]] = [
        (None, create),
        (new, post(1, idempotency_key=ONCE)),
        (record(new, ask(new, post(2)).events), post(1, idempotency_key=ONCE)),
        (state, regenerate(9, "m1", idempotency_key=ONCE)),
        (state, commands.CancelReply(idempotency_key=ONCE)),
    ]
    for before, command in cases:
        events = ask(before, command).events
        keys = [(getattr(e, "idempotency_key", None), getattr(e, "fingerprint", None)) for e in events]
        assert [key for key in keys if key != (None, None)] == [(ONCE.key, ONCE.fingerprint)], command
        assert not any(
            getattr(event, "idempotency_key", None)
            for event in ask(before, replace(command, idempotency_key=None)).events
        )


def test_a_cancel_with_a_key_is_remembered_only_where_it_finds_nothing() -> None:
    running = record(created(), ask(created(), post(1)).events)
    assert (
        ask(running, commands.CancelReply(idempotency_key=ONCE)).events == ()
    )  # the key is in the reply_cancelled to come
    assert ask(created(), commands.CancelReply(idempotency_key=ONCE)).events == (
        SessionAccessed(ONCE.key, ONCE.fingerprint),
    )
    assert ask(created(), commands.CancelReply()).events == ()


def test_a_session_whose_id_was_made_from_a_key_is_not_made_twice() -> None:
    refused = ask(created(), commands.CreateSession(None, {}, 60, None, None, idempotency_key=ONCE))
    assert isinstance(refused.rejection, rejections.KeyReused)
    assert refused.events == ()


def test_an_interrupted_reply_that_is_asked_for_again_goes_before_those_that_wait() -> None:
    state = record(created(), ask(created(), post(1)).events)
    state = record(state, ask(state, post(2)).events)
    again = ReplyRequested("r1", "m1", Parameters(seed=1), 2)
    ended = commands.EndReply(ReplyInterrupted("r1", "part", "crash"), again)
    events = ask(state, ended).events
    assert events == (ended.event, again)
    state = record(state, events)
    assert [(waiting.reply_id, waiting.attempt) for waiting in state.session.pending] == [("r1", 2), ("r2", 1)]
    assert (state.session.head, state.session.message_count) == ("r2", 4)
    (started,) = ask(state, commands.StartReply(Parameters(seed=1))).events
    assert isinstance(started, ReplyStarted)
    assert (started.reply_id, started.attempt, started.context_ids) == ("r1", 2, ("m1",))
    state = record(state, [started])
    assert state.session.open_reply is not None
    assert state.session.open_reply.attempt == 2
    assert ask(record(state, [completed(1)]), ended).events == ()  # it has ended otherwise meanwhile


def test_an_expired_session_keeps_texts_that_its_origin_is_to_lose_and_refuses_the_rest() -> None:
    copy = commands.CopyTexts((MessageCopied("m1", "user", "text"),))
    due = created()
    assert ask(due, copy, now_us=HOUR_US).events == copy.events
    expired = record(due, [SessionExpired(deadline_us=HOUR_US)])
    assert ask(expired, copy).events == copy.events
    for command in (regenerate(1, "m1"), commands.SelectBranch("m1"), commands.Fork("f")):
        assert type(ask(expired, command).rejection) is rejections.SessionExpired
    gone = record(expired, [SessionDeleted(reason="request")])
    assert type(ask(gone, copy).rejection) is rejections.SessionDeleted


def test_the_late_end_of_an_attempt_that_was_interrupted_is_not_heard() -> None:
    state = record(created(), ask(created(), post(1)).events)
    again = ReplyRequested("r1", "m1", Parameters(), 2)
    state = record(state, ask(state, commands.EndReply(ReplyInterrupted("r1", "answer 1", "shutdown"), again)).events)
    assert ask(state, commands.EndReply(completed(1))).events == ()
    assert ask(state, commands.EndReply(ReplyFailed("r1", "", "llm_failed"))).events == ()
    interrupted = ReplyInterrupted("r1", "", "shutdown")
    assert ask(state, commands.EndReply(interrupted)).events == (interrupted,)
    state = record(state, ask(state, commands.StartReply(Parameters())).events)
    assert state.session.open_reply is not None
    first, second = 3, state.session.open_reply.version  # the versions at which the attempts started
    assert first < second
    growth = (ReplyProgressed("r1", 0, "answer"),)
    for started, events in ((first, ()), (second, growth)):
        assert ask(state, commands.CheckpointReply("r1", growth, started)).events == events
    for end in (completed(1), interrupted):
        assert ask(state, commands.EndReply(end, started=first)).events == ()
        assert ask(state, commands.EndReply(end, started=second)).events == (end,)


def test_a_reply_that_waits_again_already_is_not_requested_once_more() -> None:
    state = record(created(), ask(created(), post(1)).events)
    state = record(state, ask(state, commands.EndReply(ReplyInterrupted("r1", "", "shutdown"))).events)
    again = commands.RequeueReplies((ReplyRequested("r1", "m1", Parameters(), 2),))
    assert ask(state, again).events == again.events
    state = record(state, again.events)
    assert ask(state, again).events == ()


def test_a_cancel_of_an_earlier_attempt_ends_the_next_one_without_its_text() -> None:
    state = record(created(), ask(created(), post(1)).events)
    again = ReplyRequested("r1", "m1", Parameters(), 2)
    state = record(state, ask(state, commands.EndReply(ReplyInterrupted("r1", "answer 1", "shutdown"), again)).events)
    from_before = ReplyCancelled("r1", "answer 1", "superseded", parts=(Text("answer 1"),))
    without_text = (ReplyCancelled("r1", "", "superseded"),)
    assert ask(state, commands.EndReply(from_before)).events == without_text
    state = record(state, ask(state, commands.StartReply(Parameters())).events)
    assert ask(state, commands.EndReply(from_before, started=3)).events == without_text
