"""diff(before, after): what changed in a conversation, each difference once."""

from typing import Any

from msgspec.structs import replace

from chatbot.audit.conversation import Conversation, MessageAsOf
from chatbot.audit.conversation_diff import Change, diff_conversations, text_diff
from chatbot.audit.plain_text import render_changes, render_text
from chatbot.audit.printable_text import printable


def spoken(message_id: str, content: str, role: str = "user", status: str = "complete", **more: Any) -> MessageAsOf:
    return MessageAsOf(message_id, more.pop("parent_id", None), role, content, status, 1_000_000, **more)


def conversation(*messages: MessageAsOf, **fields: Any) -> Conversation:
    head = messages[-1].message_id if messages else None
    said = {message.message_id: message for message in messages}
    return Conversation(
        **{"session_id": "s", "created_at_us": 0, "version": 1, "head": head, "messages": said, **fields}
    )


def test_the_same_conversation_has_no_difference() -> None:
    one = conversation(spoken("m", "hello"), title="T", metadata={"a": 1})
    assert diff_conversations(one, one) == ()
    assert "nothing changed" in render_changes(one, one, ())


def test_title_system_prompt_status_and_each_key_of_the_metadata_are_told_apart() -> None:
    before = conversation(title="Sea", metadata={"a": 1, "b": {"deep": [1]}, "same": True}, owner="mina")
    after = conversation(
        title=None, metadata={"b": {"deep": [2]}, "c": "new", "same": True}, status="expired", owner="mina"
    )
    assert diff_conversations(before, after) == (
        Change("title", "", "Sea", None),
        Change("status", "", "active", "expired"),
        Change("metadata", "a", 1, None),
        Change("metadata", "b", {"deep": [1]}, {"deep": [2]}),
        Change("metadata", "c", None, "new"),
    )


def test_a_message_that_came_is_told_with_its_text_and_the_branch_that_it_made() -> None:
    before = conversation(spoken("m1", "one"))
    new = spoken("m2", "two\nlines", "assistant", parent_id="m1")
    after = conversation(spoken("m1", "one"), new)
    assert diff_conversations(before, after) == (
        Change("selected branch", "", "m1", "m2"),
        Change("message added", "m2", None, new, ("+assistant (complete)", "+two", "+lines")),
    )


def test_a_message_that_went_is_told_with_what_is_erased() -> None:
    said = spoken("m1", "one")
    changes = diff_conversations(conversation(said), conversation(erased=3, status="deleted"))
    assert changes == (
        Change("status", "", "active", "deleted"),
        Change("selected branch", "", "m1", None),
        Change("erased events", "", None, 3),
        Change("message removed", "m1", said, None, ("-user (complete)", "-one")),
    )


def test_a_reply_that_grew_and_ended_is_a_change_of_status_and_of_text() -> None:
    before = conversation(spoken("r", "a\nb", "assistant", "streaming"))
    after = conversation(spoken("r", "a\nb\nc", "assistant", "complete"))
    assert diff_conversations(before, after) == (
        Change("reply status", "r", "streaming", "complete"),
        Change("text", "r", "a\nb", "a\nb\nc", ("@@ -1,2 +1,3 @@", " a", " b", "+c")),
    )


def test_a_session_that_did_not_exist_yet_differs_in_all_that_it_has() -> None:
    after = conversation(spoken("m", "hi"), title="T")
    assert [change.what for change in diff_conversations(None, after)] == [
        "title",
        "status",
        "selected branch",
        "message added",
    ]
    assert "before it was created" in render_changes(None, after, diff_conversations(None, after))


def test_what_is_different_backwards_is_its_mirror() -> None:
    one, other = conversation(spoken("m", "a"), title="x"), conversation(spoken("n", "b"), metadata={"k": 1})
    there, back = diff_conversations(one, other), diff_conversations(other, one)
    swap = {"message added": "message removed", "message removed": "message added"}
    mirrored = {(swap.get(change.what, change.what), change.subject) for change in there}
    assert mirrored == {(change.what, change.subject) for change in back}


def test_texts_that_differ_in_nothing_but_their_last_line_end_are_still_a_change() -> None:
    changes = diff_conversations(conversation(spoken("m", "a")), conversation(spoken("m", "a\n")))
    assert [change.what for change in changes] == ["text"]
    assert text_diff("a", "a") == ()


def test_a_text_cannot_command_the_terminal_of_its_reader() -> None:
    evil = "\x1b[2Jgone\r\x07\x9b31m"
    assert printable(f"{evil}\n\t안녕 👋") == "\\x1b[2Jgone\\x0d\\x07\\x9b31m\n\t안녕 👋"
    one = conversation(
        spoken(evil, evil, model=evil), title=evil, metadata={evil: evil}, system_prompt=evil, session_id=evil
    )
    for text in (render_text(one), render_changes(None, one, diff_conversations(None, one))):
        assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in text)
        assert "\x9b" not in text


def test_the_text_of_a_conversation_shows_the_selected_branch_and_says_what_it_leaves_out() -> None:
    said = [
        spoken("m1", "one"),
        spoken("r1", "first\nline", "assistant", "failed", parent_id="m1"),
        spoken("m2", "two"),
    ]
    one = replace(conversation(*said, title="Sea"), head="r1", system_prompt="Be kind.")
    text = render_text(one)
    assert text.startswith("Sea · session s · active · version 1, 1970-01-01T00:00:00")
    assert "system:\n  Be kind." in text
    assert "failed):\n  first\n  line" in text
    assert "two" not in text
    assert text.endswith("not shown, of other branches: 1 messages")
