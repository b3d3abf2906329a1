"""Tells reasoning from text where a model server leaves `<think>` and `</think>` in the text. Pure."""

from collections.abc import Iterator
from typing import Literal

from chatbot.llm.providers.completion_chunk import TextPiece

ThinkTags = Literal["off", "tagged", "opened"]

BEGIN, END = "<think>", "</think>"
HELD_MAX_CHARS = 32  # before the opening tag: white space that is longer belongs to the text
BREAK_MAX = 2  # line breaks after `</think>` that only set it apart from the text


class ThinkTagSplitter:
    """Splits one reply. Reasoning is only looked for at its beginning: later a model may write about such tags.

    `tagged`: it may begin with `<think>`. `opened`: it begins inside, because the model's template has written the
    tag; one that comes all the same is left out. White space before the reasoning, and up to two line breaks after it,
    belong to neither. At most HELD_MAX_CHARS are held back.
    """

    def __init__(self, mode: Literal["tagged", "opened"]) -> None:
        self._state: Literal["start", "reasoning", "break", "text"] = "start"
        self._is_open = mode == "opened"
        self._held = ""  # may be the beginning of a tag
        self._breaks = 0
        self._has_reasoning = False

    def split(self, text: str) -> Iterator[TextPiece]:
        """The pieces that are certain by now."""
        text, self._held = self._held + text, ""
        if self._state == "start":
            text = self._skip_begin(text)
        if self._state == "reasoning":
            reasoning, text = self._cut_reasoning(text)
            if reasoning:
                yield "reasoning", reasoning
        if self._state == "break":
            text = self._skip_breaks(text)
        if text and self._state == "text":
            yield "text", text

    def stop(self) -> None:
        """The server tells reasoning apart itself: what comes is text."""
        if self._state == "start":
            self._state = "text"

    def end(self) -> Iterator[TextPiece]:
        """What is still held back, at the end of the reply."""
        held, self._held = self._held, ""
        if held:
            yield ("reasoning" if self._state == "reasoning" or self._is_open else "text"), held

    def _skip_begin(self, text: str) -> str:
        """What follows the opening tag, or all of `text` where there is none; "" while that is not certain."""
        begun = text.lstrip()
        if len(text) <= HELD_MAX_CHARS and len(begun) < len(BEGIN) and BEGIN.startswith(begun):
            self._held = text
            return ""
        if begun.startswith(BEGIN):
            self._state = "reasoning"
            return begun[len(BEGIN) :]
        self._state = "reasoning" if self._is_open else "text"
        return text

    def _cut_reasoning(self, text: str) -> tuple[str, str]:
        """The reasoning in `text`, and what follows the closing tag."""
        if not self._has_reasoning:
            text = text.lstrip()
        reasoning, tag, rest = text.partition(END)
        if tag:
            self._state = "break"
            return reasoning, rest
        length = next((length for length in range(len(END) - 1, 0, -1) if text.endswith(END[:length])), 0)
        if length:
            reasoning, self._held = text[:-length], text[-length:]
        self._has_reasoning = self._has_reasoning or bool(reasoning)
        return reasoning, ""

    def _skip_breaks(self, text: str) -> str:
        while text.startswith(("\n", "\r")) and self._breaks < BREAK_MAX:
            self._breaks += text[0] == "\n"
            text = text[1:]
        if text:
            self._state = "text"
        return text
