"""Compares a recorded reply with what a model answers to the same request now. Pure."""

import difflib
import re

import msgspec
from msgspec import UNSET, Struct, UnsetType

from chatbot.audit.conversation_diff import text_diff
from chatbot.audit.model_calls import ModelCall
from chatbot.audit.printable_text import printable
from events.catalogue import ReplyCompleted, Usage
from events.schema.parts import calls_of

WORDS_MAX = 4_000  # compared for similarity, which takes about a second; later words are ignored
_WORDS = re.compile(r"\w+|[^\w\s]")


class AnswerCall(Struct, frozen=True):
    """A tool that an answer calls. It is not carried out."""

    name: str
    arguments: str


class ModelAnswer(Struct, frozen=True):
    """One answer of a model. `duration_us` is from the request to the last piece of it. `calls` are those of tools, if
    there are any.
    """

    model: str
    finish_reason: str
    usage: Usage | None
    duration_us: int
    content: str
    calls: list[AnswerCall] | UnsetType = UNSET


class Comparison(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The comparison of one call: of texts, and of calls of tools by name and arguments. `similarity`, 0 to 1, is the
    share of words that both have in the same order. `error` says why there is no answer `now`.

    `noise` are the similarities of the recorded model's own new answers, `outside` whether `now` is less similar than
    all of them (chatbot/audit/noise_band.py); without a noise band they are absent.
    """

    session_id: str
    reply_id: str
    position: int
    recorded: ModelAnswer
    now: ModelAnswer | None = None
    identical: bool = False
    similarity: float = 0.0
    diff: tuple[str, ...] = ()
    error: str | None = None
    noise: tuple[float, ...] = ()
    outside: bool | UnsetType = UNSET


def compare(turn: ModelCall, now: ReplyCompleted | None = None, error: str | None = None) -> Comparison:
    """Compare `turn` with `now`, or with the `error` that came instead. Raises ValueError for an open `turn`."""
    recorded = turn.completed
    if recorded is None:
        raise ValueError("a turn that did not complete has nothing to compare with")
    return Comparison(
        session_id=turn.recorded.stream_id,
        reply_id=turn.started.reply_id,
        position=turn.recorded.position,
        recorded=_model_answer(recorded),
        now=_model_answer(now) if now else None,
        identical=now is not None and _answer_text(now) == _answer_text(recorded),
        similarity=similarity(_answer_text(recorded), _answer_text(now)) if now else 0.0,
        diff=text_diff(_answer_text(recorded), _answer_text(now)) if now else (),
        error=error,
    )


def answer_similarity(recorded: ReplyCompleted, again: ReplyCompleted) -> float:
    """How similar two answers are, by their texts and calls of tools."""
    return similarity(_answer_text(recorded), _answer_text(again))


def _answer_text(completed: ReplyCompleted) -> str:
    """What is compared of an answer: its text and a line for each call of a tool, without the call's id."""
    calls = calls_of(completed.parts)
    return "\n".join((completed.content, *(f"[call {one.name} {_canonical(one.arguments)}]" for one in calls)))


def _canonical(arguments: str) -> str:
    """Arguments that are JSON with one spelling, however the model spaced and ordered them."""
    try:
        return msgspec.json.encode(msgspec.json.decode(arguments), order="sorted").decode()
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return arguments


def similarity(before: str, after: str) -> float:
    """1 for equal texts; otherwise difflib's ratio over the first WORDS_MAX words of each."""
    if before == after:
        return 1.0
    old, new = _WORDS.findall(before)[:WORDS_MAX], _WORDS.findall(after)[:WORDS_MAX]
    return round(difflib.SequenceMatcher(None, old, new, autojunk=False).ratio(), 4)


def render_comparison(one: Comparison) -> str:
    """A few lines for people: the recorded answer in the left column, the present one in the right."""
    title = f"reply {one.reply_id} of session {one.session_id}"
    if one.now is None:
        return printable(f"{title}: FAILED, {one.error}")
    verdict = "the same text" if one.identical else f"another text, similarity {one.similarity:.2f}"
    old, new = _cells(one.recorded), _cells(one.now)
    if one.noise:
        verdict += f", noise {min(one.noise):.2f} to {max(one.noise):.2f}: {'OUTSIDE' if one.outside else 'inside'}"
    lines = [f"{title}: {verdict}"]
    lines += [f"  {name:<9} {old[name]:<30} {new[name]}" for name in old]
    lines += [f"    {line}" for line in one.diff]
    return printable("\n".join(lines))


def _model_answer(completed: ReplyCompleted) -> ModelAnswer:
    return ModelAnswer(
        completed.model,
        completed.finish_reason,
        completed.usage,
        completed.duration_us,
        completed.content,
        [AnswerCall(one.name, one.arguments) for one in calls_of(completed.parts)] or UNSET,
    )


def _cells(answer: ModelAnswer) -> dict[str, str]:
    usage = answer.usage
    return {
        "model": answer.model,
        "ended": answer.finish_reason,
        "tokens": f"{usage.prompt_tokens}+{usage.completion_tokens}" if usage else "not told",
        "duration": f"{answer.duration_us / 1_000_000:.3f} s",
    }
