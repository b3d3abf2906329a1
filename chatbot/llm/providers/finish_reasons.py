"""Reads why a model server ended a reply: its word for it, in whatever spelling, as one of few reasons. Pure."""

import re
from typing import Any

from msgspec import Struct

from chatbot.llm.http import lenient_json

DETAIL_MAX_CHARS = 64  # of a server's word that is kept: the longest known one has 28


class FinishReason(Struct, frozen=True):
    """`reason` is stop, length, tool_calls, content_filter or error; `detail` is the server's own word, '' where it is
    the same."""

    reason: str
    detail: str = ""


STOP = FinishReason("stop")

NO_REASON = ("", "null", "none")  # some servers say so in every chunk until the last one

# The parts of a word, in order of precedence: "malformed_function_call" is a fault, not a tool call.
_FAULTS = """abort aborted cancel canceled cancelled crash crashed disconnected error exception fail failed failure
    insufficient interrupted killed malformed overload overloaded preempted quota rate rejected timed timeout
    unavailable unexpected"""
_FILTERS = """blocked blocklist censored filter filtered guardrail moderation policy prohibited recitation refusal
    refused safety sensitive spii"""
_LENGTHS = "budget exceeded incomplete length limit max maximum overflow partial truncated window"
_PARTS = tuple(
    (reason, frozenset(parts.split()))
    for reason, parts in (
        ("error", _FAULTS),
        ("content_filter", _FILTERS),
        ("length", _LENGTHS),
        ("tool_calls", "function functions tool tools"),
    )
)


def read_finish_reason(word: Any) -> FinishReason | None:
    """The reason that a server gives; None if it gives none. Of an object, its `type` is read.

    An unknown word counts as stop: the server has ended the reply and reports no fault. `detail` keeps the word.
    """
    if word == "stop":
        return STOP
    if isinstance(word, dict):
        word = word.get("type")
    if word is None or word is False:
        return None
    text = " ".join(lenient_json.without_surrogates(str(word)).split())
    spelt = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower()  # maxTokens, FinishReason.MAX_TOKENS
    parts = [part for part in re.split(r"[^a-z0-9]+", spelt) if part]
    if parts[:2] == ["finish", "reason"]:
        parts = parts[2:]
    if "_".join(parts) in NO_REASON and spelt.isascii():
        return None
    reason = next((reason for reason, marks in _PARTS if not marks.isdisjoint(parts)), "stop")
    return FinishReason(reason, "" if text == reason else text[:DETAIL_MAX_CHARS])


def more_severe(known: FinishReason | None, new: FinishReason) -> FinishReason:
    """The one to keep of two reasons of one reply: a later stop does not replace another reason."""
    return known if known is not None and new.reason == "stop" and known.reason != "stop" else new
