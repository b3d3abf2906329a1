"""The request to the model: every call has a result, and what the model is not to see is not in it."""

from chatbot.llm.provider import ChatMessage, ModelMessage, PartsMessage
from chatbot.sessions.domain.context import ContextMessage
from chatbot.sessions.domain.model_request import build_messages, join_consecutive, with_media
from events.schema.parts import Media, Parts, Reasoning, Refusal, Text, ToolCall, ToolResult

CALLS = (ToolCall("call_1", "weather", "{}"), ToolCall("call_2", "weather", "{}"))
RESULTS = (ToolResult("call_1", (Text("21 °C"),)), ToolResult("call_2", (Text("-3 °C"),)))
LOST = tuple(ToolResult(call.call_id, (Text("cancelled"),), is_error=True) for call in CALLS)
IMAGE = Media("a" * 64, "image/png", 3)


def said(role: str, content: str = "", parts: Parts = (), calls: str | None = None) -> ContextMessage:
    return ContextMessage("m", None, role, content, parts, calls)


def built(*context: ContextMessage, **options: bool | int) -> tuple[ModelMessage, ...]:
    return build_messages(None, context, joined=bool(options.pop("joined", False)), **options)  # type: ignore[arg-type]


def test_plain_messages_stay_plain() -> None:
    assert build_messages("Be brief.", [said("user", "hi")], joined=False) == (
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "hi"),
    )


def test_a_call_without_a_result_gets_one() -> None:
    called = said("assistant", "Let me look.", (Text("Let me look."), *CALLS), "closed")
    sent = built(said("user", "hi"), called, said("user", "never mind"))
    assert sent[1:] == (
        PartsMessage("assistant", "Let me look.", called.parts),
        PartsMessage("tool", "", LOST),
        ChatMessage("user", "never mind"),
    )
    assert built(said("user", "hi"), called)[-1] == PartsMessage("tool", "", LOST)
    again = built(said("user", "hi"), called, called, said("tool", "", RESULTS))
    assert [message.role for message in again] == ["user", "assistant", "tool", "assistant", "tool"]


def test_results_of_an_odd_history_are_completed_and_strangers_are_dropped() -> None:
    called = said("assistant", "", CALLS, "answered")
    stranger = ToolResult("call_9", (Text("?"),))
    sent = built(said("user", "hi"), called, said("tool", "", (RESULTS[0], stranger)))
    assert sent[-1] == PartsMessage("tool", "", (RESULTS[0], LOST[1]))
    assert built(said("user", "hi"), said("tool", "", RESULTS)) == (ChatMessage("user", "hi"),)


def test_reasoning_is_sent_only_if_it_is_asked_for() -> None:
    thought = said("assistant", "yes", (Reasoning("hm"), Text("yes")))
    assert built(said("user", "hi"), thought)[1] == ChatMessage("assistant", "yes")
    assert built(said("user", "hi"), thought, send_reasoning=True)[1] == PartsMessage("assistant", "yes", thought.parts)


def test_a_call_that_was_cut_is_not_sent() -> None:
    cut = said("assistant", "Let me", (Text("Let me"), ToolCall("call_1", "weather", '{"ci')))
    assert built(said("user", "hi"), cut)[1:] == (ChatMessage("assistant", "Let me"),)


def test_a_refusal_is_sent_as_text() -> None:
    assert built(said("assistant", "", (Refusal("I will not."),))) == (ChatMessage("assistant", "I will not."),)


def test_the_oldest_files_become_texts() -> None:
    first = said("user", "", (IMAGE,))
    results = said("tool", "", (ToolResult("call_1", (IMAGE,)), RESULTS[1]))
    context = (first, said("assistant", "", CALLS, "answered"), results)
    text = Text("[image left out]")
    assert built(*context)[0] == PartsMessage("user", "", (IMAGE,))
    sent = built(*context, media_left_out=1)
    assert (sent[0], sent[2]) == (ChatMessage("user", text.text), PartsMessage("tool", "", results.parts))
    sent = built(*context, media_left_out=2)
    assert sent[2] == PartsMessage("tool", "", (ToolResult("call_1", (text,)), RESULTS[1]))


def test_neighbours_are_joined_with_their_files_but_not_with_calls() -> None:
    look, more = PartsMessage("user", "look", (Text("look"), IMAGE)), ChatMessage("user", "more")
    joined = (Text("look"), IMAGE, Text("\n\n"), Text("more"))
    assert join_consecutive((look, more)) == (PartsMessage("user", "look\n\nmore", joined),)
    called, text = PartsMessage("assistant", "", CALLS), ChatMessage("assistant", "text")
    assert join_consecutive((called, text, text)) == (called, ChatMessage("assistant", "text\n\ntext"))
    tool = PartsMessage("tool", "", RESULTS)
    assert join_consecutive((tool, tool)) == (tool, tool)


def test_what_stands_for_a_file_may_be_text() -> None:
    message = PartsMessage("user", "", (IMAGE, ToolResult("c", (IMAGE,))))
    changed = with_media(message, lambda media: Text(media.media_type))
    assert changed == PartsMessage("user", "image/png", (Text("image/png"), ToolResult("c", (Text("image/png"),))))
    assert with_media(ChatMessage("user", "hi"), lambda media: media) == ChatMessage("user", "hi")
