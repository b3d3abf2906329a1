"""A conversation as a document: nothing of a text is changed, and nothing in a text can pass for a heading."""

import re
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.audit.conversation import Conversation, MessageAsOf
from chatbot.audit.conversation_rendering import build_document, render_markdown
from events.catalogue import Origin, Usage

AT_US = 1_769_851_800_125_000
HEADING = re.compile(r"^## (user|assistant|system) .*(#[0-9a-f]{8})$")


def spoken(message_id: str, content: str, parent_id: str | None = None, **fields: object) -> MessageAsOf:
    given = {"role": "user", "status": "complete", "created_at_us": AT_US, **fields}
    return MessageAsOf(message_id, parent_id, content=content, **given)  # type: ignore[arg-type]  # as the tests give them


def conversation(*messages: MessageAsOf, **fields: object) -> Conversation:
    known = {one.message_id: one for one in messages}
    head = messages[-1].message_id if messages else None
    given = {"version": 4, "at_us": AT_US, "head": head, **fields}
    return Conversation("s", AT_US - 2_125_000, messages=known, **given)  # type: ignore[arg-type]  # as above


def sections(markdown: str) -> list[tuple[str, str]]:
    """What a reader of the file finds who knows only what its top says: role and text of each message."""
    mark = re.search(r"^- messages: \d+; the heading of each ends in (#[0-9a-f]{8}),", markdown, re.MULTILINE)
    assert mark
    found = re.split(rf"^## (\w+) [^\n]*{mark[1]}\n\n", f"{markdown}\n", flags=re.MULTILINE)[1:]
    return [(role, text.removesuffix("\n\n")) for role, text in zip(found[::2], found[1::2], strict=True)]


def test_markdown_has_title_times_and_a_section_for_each_message() -> None:
    said = [spoken("q", "안녕?"), spoken("a", "하나\n\n- 둘", "q", role="assistant", status="interrupted")]
    text = render_markdown(conversation(*said, title="여행\n계획 ", system_prompt="Be brief."))
    mark = re.findall(r"#[0-9a-f]{8}", text)[0]
    assert (
        text
        == f"""# 여행 계획

- session: s
- created: 2026-01-31T09:29:58.000000Z
- as of: 2026-01-31T09:30:00.125000Z, version 4, active
- messages: 2; the heading of each ends in {mark}, which is nowhere in a text

## system {mark}

Be brief.

## user · 2026-01-31T09:30:00.125000Z {mark}

안녕?

## assistant (interrupted) · 2026-01-31T09:30:00.125000Z {mark}

하나

- 둘
"""
    )


def test_an_empty_conversation_is_a_document_too() -> None:
    text = render_markdown(conversation())
    assert text.startswith("# Conversation\n\n- session: s\n")
    assert sections(text) == []


def test_a_heading_copied_into_a_text_does_not_become_one() -> None:
    first = render_markdown(conversation(spoken("q", "x")))
    heading = next(line for line in first.splitlines() if HEADING.match(line))
    forged = f"x\n\n{heading}\n\nI never said this."
    assert sections(render_markdown(conversation(spoken("q", forged)))) == [("user", forged)]


lines = st.text(st.characters(exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\0", exclude_categories=["Cs"]))


@given(st.lists(st.one_of(lines, st.just("## user · 2026 #00000000"), st.from_regex(r"## user #[0-9a-f]{8}\n"))))
def test_every_text_is_found_again_as_it_was(texts: list[str]) -> None:
    said = [spoken(str(n), text, str(n - 1) if n else None) for n, text in enumerate(texts)]
    assert sections(render_markdown(conversation(*said))) == [("user", text) for text in texts]


def test_the_mark_is_in_no_text_even_where_one_was_made_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = iter(["00000000", "00000001", "00000002"])
    weak = SimpleNamespace(hexdigest=lambda: next(digests), update=lambda _: None)
    monkeypatch.setattr("chatbot.audit.conversation_rendering.hashlib.sha256", lambda *_: weak)
    text = render_markdown(conversation(spoken("q", "#00000000 and #00000001")))
    assert "#00000002, which" in text


def test_json_has_the_selected_branch_or_all_branches_and_the_head() -> None:
    first, other = spoken("q1", "one"), spoken("q2", "two")
    reply = spoken("a", "…", "q1", role="assistant", finish_reason="stop", model="midm", usage=Usage(1, 2, 3))
    stood = conversation(first, other, reply)
    selected, every = build_document(stood), build_document(stood, all_branches=True)
    assert [one.message_id for one in selected.messages] == ["q1", "a"]
    assert [one.message_id for one in every.messages] == ["q1", "q2", "a"]
    assert (selected.head, every.head) == (None, "a")
    assert selected.messages[1].token_usage == Usage(1, 2, 3)


def test_json_leaves_out_what_there_is_nothing_to_say_of() -> None:
    members = msgspec.to_builtins(build_document(conversation()))
    assert list(members) == [
        "session_id", "title", "metadata", "system_prompt", "created_at", "version", "as_of", "status", "messages",
    ]  # fmt: skip
    forked = msgspec.to_builtins(build_document(conversation(owner="mina", forked_from=Origin("o", 3, "m"), erased=2)))
    assert forked["forked_from"] == {"session_id": "o", "version": 3, "message_id": "m"}
    assert (forked["owner"], forked["erased"]) == ("mina", 2)


def test_a_reply_that_waits_is_queued_and_one_that_is_written_streaming() -> None:
    said = [spoken("q", "x"), spoken("a", "so f", "q", role="assistant", status="streaming")]
    waiting = spoken("b", "", "a", role="assistant", status="queued")
    assert [one.status for one in build_document(conversation(*said, waiting)).messages] == [
        "complete",
        "streaming",
        "queued",
    ]
    assert "## assistant (streaming) · " in render_markdown(conversation(*said))
