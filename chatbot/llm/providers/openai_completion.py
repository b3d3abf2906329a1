"""Parses a reply of /v1/chat/completions, chunks of a stream or one complete document, and passes on its parts."""

from collections.abc import Iterator
from typing import Any

from chatbot.llm.http import lenient_json
from chatbot.llm.http.error_mapping import JSON_ERRORS, error_from_event, excerpt_of
from chatbot.llm.http.http_response import DONE, MALFORMED, TRUNCATED, read_usage
from chatbot.llm.provider import Finish, LlmError, LlmFailed, ReplySink
from chatbot.llm.providers.completion_chunk import (
    Choice,
    Chunk,
    Delta,
    PartKind,
    TextKind,
    TextPiece,
    decode_chunk,
    read_chunk,
)
from chatbot.llm.providers.finish_reasons import STOP, FinishReason, more_severe, read_finish_reason
from chatbot.llm.providers.think_tags import ThinkTags, ThinkTagSplitter
from chatbot.llm.providers.tool_call_assembler import TakesTexts, ToolCallAssembler, pass_text
from events.catalogue import Usage

HELD_MAX_CHARS = 100_000  # of calls that wait for another one to end


class Completion:
    """A reply as far as it has been received; its parts go to `sink`, the text of several chunks together.

    `is_final`: a finish reason has come, and no part after it. Only then may the reply end without [DONE] and without
    the end of its body: some servers name a reason in every chunk.
    """

    def __init__(
        self,
        model: str,
        secret: str,
        sink: ReplySink,
        *,
        think_tags: ThinkTags = "off",
        held_max_chars: int = HELD_MAX_CHARS,
    ) -> None:
        self.model = model
        self.usage: Usage | None = None
        self.reason: FinishReason | None = None
        self.done = False
        self.failure: LlmError | None = None
        self._bare_error: Any = None  # a sentence in place of choices: an error, should no end of the reply follow
        self._secret = secret
        self._sink = sink
        self._held_max_chars = held_max_chars
        self._texts: TakesTexts = sink  # the assembler from the first tool call on
        self._assembler: ToolCallAssembler | None = None
        self._splitter = None if think_tags == "off" else ThinkTagSplitter(think_tags)
        self._text = ""  # of this read, not passed on yet
        self._has_news = False  # a part came in this read
        self._part_after_reason = False  # something came after a finish reason
        self._has_text = False  # text or a refusal has come
        self._has_reasoning = False
        self._has_delta_text = False
        self._delta_kinds: set[PartKind] = set()  # besides text: what deltas have brought
        self._joiner: lenient_json.TextJoiner | None = None  # from the first split character on
        self._joined_kind: TextKind = "text"  # of the joiner's newest piece

    @property
    def is_final(self) -> bool:
        return self.reason is not None and not self._part_after_reason

    def add_events(self, events: list[bytes]) -> bool:
        """Pass on the parts in these events, up to a `failure`: what came in one read with it is kept. Whether there
        were any. Raises what the sink raises.
        """
        self._has_news = False
        for event in events:
            if event == DONE:
                self.done = True
                break
            try:
                try:
                    chunk = decode_chunk(event)
                except JSON_ERRORS:
                    self._add_leniently(event)
                else:
                    self._add_chunk(chunk)
            except LlmError as failure:
                self.failure = failure
                if self.usage is not None:
                    failure.finish = Finish("error", self.model, self.usage)
                break
        if self._splitter is not None:
            self._pass_text_on()
        else:
            text, self._text = self._text, ""
            if text:
                self._has_text = True
            self._texts.text(text)  # an empty one says that the server is alive
        return self._has_news

    def add_document(self, document: bytes) -> None:
        """Pass on the parts of a completion in one document. Raises LlmError."""
        try:
            chunk, is_clean = read_chunk(document)
        except JSON_ERRORS as error:
            raise LlmFailed(MALFORMED) from error
        if chunk is None or not (chunk.choices or chunk.error or chunk.object == "error"):
            raise LlmFailed(f"{MALFORMED}: {excerpt_of(document, self._secret)}")
        self._add_chunk(chunk, is_clean=is_clean)
        self._pass_text_on()

    def check_ended(self) -> None:
        """The body has ended without [DONE]. Raises LlmError if no finish reason has come either."""
        self._raise_bare_error()
        if self.reason is None:
            raise LlmFailed(TRUNCATED)

    def end(self) -> None:
        """No more will come: pass on what is held back, such as a replacement for a character whose second part has
        not come. Raises LlmFailed.
        """
        self._end_joined()
        if self._text:
            self._pass_text_on()
        if self._splitter is not None:
            self._pass_split_on(self._splitter.end())
        if self._assembler is not None:
            self._assembler.end()

    def finish(self) -> Finish:
        """How the reply ended. Raises LlmError where the server says that it could not finish it."""
        self._raise_bare_error()
        reason = self._finish_reason()
        has_parts = self._has_text or self._has_reasoning or self._assembler is not None
        no_text_reason = "" if has_parts else self._no_text_reason(reason)
        finish = Finish(reason.reason, self.model, self.usage, reason.detail, no_text_reason)
        if reason.reason == "error":
            word = f": {reason.detail}" if reason.detail else ""
            message = f"The model server ended the reply with an error{word}"
            raise LlmFailed(message, retryable=True, finish=finish)
        return finish

    def _finish_reason(self) -> FinishReason:
        """The server's reason, as far as it agrees with what came: calls are answered, whatever it calls their end."""
        reason = self.reason
        if self._assembler is not None:
            if reason is None:
                return FinishReason("tool_calls")
            if reason.reason == "stop":
                return FinishReason("tool_calls", reason.detail or reason.reason)
        elif reason is not None and reason.reason == "tool_calls":
            return FinishReason("stop", reason.detail or reason.reason)
        elif reason is None and self._has_reasoning and not self._has_text:
            return FinishReason("length")  # it ended in the middle of its reasoning
        return reason or STOP

    def _add_leniently(self, event: bytes) -> None:
        """Add an event that the strict decoder refuses. Raises LlmFailed."""
        if event.strip() == DONE:
            self.done = True
        if not event.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
            return  # a heartbeat: empty, `ping`, a comment, an array
        try:
            chunk, is_clean = read_chunk(event)
        except JSON_ERRORS as error:
            raise LlmFailed(MALFORMED) from error
        if chunk is not None:
            self._add_chunk(chunk, is_clean=is_clean)

    def _add_chunk(self, chunk: Chunk, *, is_clean: bool = True) -> None:
        """`is_clean`: its text holds no half of a character. Raises LlmError."""
        if chunk.error or chunk.object == "error":
            raise error_from_event(chunk.error or chunk.as_error(), self._secret)
        if chunk.usage is not None and (usage := read_usage(chunk.usage)) is not None:
            self.usage = usage
            self._sink.usage(usage)
        self.model = chunk.model or self.model
        if not chunk.choices:
            if chunk.message or chunk.detail:
                self._bare_error = chunk.as_error()
            return
        choice = chunk.choices[0]
        if choice.index != 0:
            found = next((one for one in chunk.choices if one.index == 0), None)
            if found is None:
                return
            choice = found
        delta = choice.delta
        if (
            delta is not None
            and is_clean
            and self._joiner is None
            and choice.message is None
            and not (
                delta.reasoning_content
                or delta.reasoning
                or delta.thinking
                or delta.reasoning_details
                or delta.thinking_blocks
                or delta.refusal
                or delta.tool_calls
                or delta.function_call
            )
        ):  # nothing but text, or not even that: the path of most tokens
            if delta.content:
                self._text += delta.content
                self._has_delta_text = self._has_news = True
                if self.reason is not None:
                    self._part_after_reason = True
        else:
            self._add_choice(choice, is_clean=is_clean)
        if choice.finish_reason == "stop" and self.reason is None:
            self.reason = STOP
        elif choice.finish_reason and (reason := read_finish_reason(choice.finish_reason)) is not None:
            self.reason = more_severe(self.reason, reason)

    def _add_choice(self, choice: Choice, *, is_clean: bool) -> None:
        """The parts of a delta, and those of a message which no delta has brought: it may only repeat them."""
        if choice.delta is not None:
            for kind in self._add_parts(choice.delta, set(), is_clean=is_clean):
                self._delta_kinds.add(kind)
        if choice.message is not None:
            if self._has_delta_text:
                self._delta_kinds.add("text")
            self._add_parts(choice.message, self._delta_kinds, is_clean=is_clean)

    def _add_parts(self, delta: Delta, known: set[PartKind], *, is_clean: bool) -> set[PartKind]:
        """Add what is not `known`; the kinds that were added."""
        added: set[PartKind] = set()
        for kind, piece in delta.texts():
            if kind not in known:
                added.add(kind)
                self._add_text(kind, piece, is_clean=is_clean)
        calls = delta.call_deltas()
        if calls and "tool_call" not in known:
            added.add("tool_call")
            self._note_part()
            self._end_joined()
            self._pass_text_on()
            if self._assembler is None:
                self._texts = self._assembler = ToolCallAssembler(self._sink, self._held_max_chars)
            for call in calls:
                self._assembler.add_call(call, is_clean=is_clean)
        return added

    def _add_text(self, kind: TextKind, piece: str, *, is_clean: bool) -> None:
        if self._joiner is not None or not is_clean:
            piece = self._join(kind, piece)
        if not piece:
            return
        self._note_part()
        if kind == "text":
            self._text += piece
            return
        self._has_text = self._has_text or kind == "refusal"
        self._has_reasoning = self._has_reasoning or kind == "reasoning"
        self._pass_text_on()
        if self._splitter is not None and kind == "reasoning":
            self._splitter.stop()
        pass_text(self._texts, kind, piece)

    def _note_part(self) -> None:
        self._has_news = True
        if self.reason is not None:
            self._part_after_reason = True

    def _join(self, kind: TextKind, piece: str) -> str:
        """The whole characters of `piece` and of what came before of its kind."""
        if kind != self._joined_kind:
            self._end_joined()
            self._joined_kind = kind
        self._joiner = self._joiner or lenient_json.TextJoiner()
        return self._joiner.join(piece)

    def _end_joined(self) -> None:
        """Pass on a replacement for a character that stays incomplete."""
        if self._joiner is None or not (rest := self._joiner.end()):
            return
        if self._joined_kind == "text":
            self._text += rest
        else:
            pass_text(self._texts, self._joined_kind, rest)

    def _pass_text_on(self) -> None:
        """Pass on the text of this read; an empty one, too, which says that the server is alive."""
        text, self._text = self._text, ""
        if self._splitter is None or not text:
            if text:
                self._has_text = True
            self._texts.text(text)
        else:
            self._pass_split_on(self._splitter.split(text))

    def _pass_split_on(self, pieces: Iterator[TextPiece]) -> None:
        for kind, piece in pieces:
            self._has_text = self._has_text or kind == "text"
            self._has_reasoning = self._has_reasoning or kind == "reasoning"
            pass_text(self._texts, kind, piece)

    def _raise_bare_error(self) -> None:
        """Some servers end a reply with {"message": "..."} or {"detail": "..."} and nothing else. Raises LlmError."""
        if self._bare_error and self.reason is None:
            raise error_from_event(self._bare_error, self._secret)

    def _no_text_reason(self, reason: FinishReason) -> str:
        """Why nothing at all has come."""
        if reason.reason == "content_filter":
            return "The model server filtered the whole reply"
        if self.usage is not None and self.usage.reasoning_tokens:
            return (
                "The model used all its tokens for reasoning, and none were left for the reply"
                if reason.reason == "length"
                else "The model gave its reasoning, and no reply"
            )
        return "The reply reached its length limit before its first character" if reason.reason == "length" else ""
