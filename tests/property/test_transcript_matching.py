"""Matching a transcript against a tree of messages: the longest path from a root that says the same, and no other."""

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from chatbot.sessions.domain.rejections import InvalidMessage
from chatbot.sessions.domain.transcript import (
    TranscriptMessage,
    digest_message,
    find_candidates,
    match_transcript,
    path_to,
    read_transcript,
)
from events.schema.parts import Media, Part, Parts, Reasoning, Refusal, Text, ToolCall, ToolResult
from projections.folds.message import TreeMessage
from tests.support.nightly import scaled

EXAMPLES = settings(max_examples=scaled(200), deadline=None)
ROLES = ("user", "assistant", "system", "tool")

# Few roles and texts, so that different branches say the same things.
lines = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(ROLES[:2]), st.sampled_from("ab"), st.booleans()))
wanted = st.lists(st.tuples(st.sampled_from(ROLES[:2]), st.sampled_from("ab")), max_size=8)


class Tree:
    """Messages in the order of their events; a parent is an earlier one, or none."""

    def __init__(self, drawn: list[tuple[int, str, str, bool]]) -> None:
        self.messages: list[TreeMessage] = []
        self.said: dict[str, bytes] = {}
        for index, (parent, role, text, is_open) in enumerate(drawn):
            parent_id = f"m{parent}" if parent < index else None
            position = 0 if is_open and role == "assistant" else index + 1
            message = TreeMessage(index, f"m{index}", parent_id, role, position, None)
            self.messages.append(message)
            self.said[message.message_id] = role.encode() + text.encode()

    def paths(self) -> Iterator[list[TreeMessage]]:
        """Every path from a root, the empty one included."""
        yield []
        by_id = {one.message_id: one for one in self.messages}
        for message in self.messages:
            path = [message]
            while (parent_id := path[0].parent_id) is not None:
                path.insert(0, by_id[parent_id])
            yield path


@given(lines, wanted, st.integers(-1, 30))
@EXAMPLES
def test_the_longest_path_that_says_the_same_is_found(
    drawn: list[tuple[int, str, str, bool]], said: list[tuple[str, str]], head: int
) -> None:
    tree = Tree(drawn)
    digests = [role.encode() + text.encode() for role, text in said]
    selected = path_to(tree.messages, f"m{head}")
    candidates = find_candidates(tree.messages, [role for role, _ in said])
    found = match_transcript(candidates, tree.said, digests, selected)
    same = [
        path
        for path in tree.paths()
        if len(path) <= len(digests)
        and all(one.position and tree.said[one.message_id] == two for one, two in zip(path, digests, strict=False))
    ]
    longest = max(len(path) for path in same)
    best = [path for path in same if len(path) == longest]
    preferred = [path for path in best if path and path[-1].message_id in selected] or best
    assert found == max(preferred, key=lambda path: path[-1].no if path else 0)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
texts = names.map(Text)
files = st.sampled_from("ab").map(lambda one: Media(one * 64, "image/png", 3))
calls = st.builds(ToolCall, call_id=st.sampled_from(["c1", "c2"]), name=st.sampled_from("fg"), arguments=names)
of_roles: dict[str, st.SearchStrategy[Parts]] = {
    "user": st.lists(texts | files, max_size=3).map(tuple),
    "system": st.lists(texts, max_size=2).map(tuple),
    "assistant": st.lists(texts | calls | names.map(Refusal) | names.map(Reasoning), max_size=4).map(tuple),
    "tool": st.builds(ToolResult, call_id=st.sampled_from(["c1", "c2"]), parts=st.just(())).map(lambda one: (one,)),
}
messages = st.sampled_from(ROLES).flatmap(lambda role: of_roles[role].map(lambda parts: TranscriptMessage(role, parts)))


def model_words(message: TranscriptMessage) -> tuple[str, list[Part] | str]:
    """What a model is told by the message, as far as it can tell."""
    said: list[Part] = [one for one in message.parts if not isinstance(one, Reasoning)]
    if message.role != "assistant":
        return message.role, said
    text = "".join(one.text for one in said if isinstance(one, Text | Refusal)).strip()
    return message.role, [Text(text), *(one for one in said if isinstance(one, ToolCall))]


@given(messages, messages)
@EXAMPLES
def test_digests_are_the_same_exactly_where_a_model_is_told_the_same(
    one: TranscriptMessage, two: TranscriptMessage
) -> None:
    first, second = digest_message(one.role, one.parts), digest_message(two.role, two.parts)
    assert (first.said == second.said) == (model_words(one) == model_words(two))
    assert (first.exact == second.exact) == (one == two)


@given(st.lists(messages, max_size=6))
@EXAMPLES
def test_a_transcript_loses_nothing_but_empty_messages(sent: list[TranscriptMessage]) -> None:
    try:
        transcript = read_transcript(sent)
    except InvalidMessage:
        return
    kept = [part for message in transcript.messages for part in message.parts]
    leading = len([part for message in sent for part in message.parts]) - len(kept)
    assert kept == [part for message in sent for part in message.parts][leading:]
    assert len(transcript.paths) == len(transcript.messages)
    texts = [part.text for message in sent for part in message.parts if isinstance(part, Text)]
    assert (transcript.instructions or "").replace("\n\n", "") == "".join(texts[:leading]).replace("\n\n", "")
    for before, after in zip(transcript.messages, transcript.messages[1:], strict=False):
        assert not (before.role == after.role == "tool")
