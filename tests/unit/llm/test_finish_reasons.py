"""What servers call the end of a reply, and what is recorded of it."""

from typing import Any

import pytest

from chatbot.llm.providers.finish_reasons import DETAIL_MAX_CHARS, FinishReason, more_severe, read_finish_reason


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
def test_a_reason_in_our_own_spelling_has_no_detail(reason: str) -> None:
    assert read_finish_reason(reason) == FinishReason(reason)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("stop", "STOP eos eos_token end_turn stop_sequence FinishReason.STOP <|im_end|> 완료 recited OTHER"),
        ("length", "MAX_TOKENS max_tokens maxTokens model_length LENGTH max_output_tokens incomplete token_limit"),
        ("length", "model_context_window_exceeded FINISH_REASON_MAX_TOKENS context_length_exceeded truncated"),
        ("tool_calls", "tool_use function_call TOOL_CALLS toolCalls"),
        ("content_filter", "SAFETY content_filtered sensitive RECITATION guardrail_intervened refusal blocklist"),
        ("error", "network_error insufficient_system_resource abort ABORTED internalError timeout cancelled"),
        (
            "error",
            "malformed_function_call rate_limit_exceeded model_overloaded UNEXPECTED_TOOL_CALL USER_CANCEL timed_out",
        ),
    ],
)
def test_other_words_are_understood_and_kept(reason: str, words: str) -> None:
    for word in words.split():
        assert read_finish_reason(word) == FinishReason(reason, word)


@pytest.mark.parametrize("word", [None, "", " ", "null", "NULL", "None", False, {}, {"type": None}])
def test_no_reason_is_none(word: Any) -> None:
    assert read_finish_reason(word) is None


@pytest.mark.parametrize(
    ("word", "detail"),
    [
        ({"type": "MAX_TOKENS", "matched": 2}, "MAX_TOKENS"),
        (7, "7"),
        ("two\n words", "two words"),
        ("half \ud83d", "half \ufffd"),
        ("x" * 1000, "x" * DETAIL_MAX_CHARS),
    ],
)
def test_what_is_kept_of_a_word_is_one_short_line_of_text(word: Any, detail: str) -> None:
    told = read_finish_reason(word)
    assert told is not None
    assert told.detail == detail


@pytest.mark.parametrize(
    ("told", "kept"),
    [(["length", "stop"], "length"), (["error", "stop"], "error"), (["stop", "length"], "length"), (["stop"], "stop")],
)
def test_a_stop_undoes_no_other_reason(told: list[str], kept: str) -> None:
    reason: FinishReason | None = None
    for word in told:
        reason = more_severe(reason, FinishReason(word))
    assert reason == FinishReason(kept)
