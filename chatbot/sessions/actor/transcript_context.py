"""Finds what a session has of a transcript: compares digests, which are kept, and reads texts where there are none. And
loads whole branches, which replies to transcripts are sent.
"""

from collections.abc import Sequence

from msgspec import UNSET
from msgspec.structs import replace

from chatbot.sessions.actor.branch_loader import load_branch, message_of
from chatbot.sessions.actor.hydration import replay_messages
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import PostTranscript
from chatbot.sessions.domain.context import ContextMessage, sent_parts
from chatbot.sessions.domain.message_checks import check_first_results
from chatbot.sessions.domain.state import State, is_being_written
from chatbot.sessions.domain.transcript import (
    MESSAGES_MAX,
    MessageDigests,
    digest_message,
    find_candidates,
    match_transcript,
    path_to,
)
from chatbot.sessions.domain.transcript_posting import added_message
from chatbot.sessions.ports import Ports
from projections.folds.message import TreeMessage

TREE_MESSAGES_MAX = 10_000  # of one session that can be continued with a transcript
TEXTS_READ_MAX = 256  # read at once to compute their digests


class TextErased(Exception):
    """A text was erased after its place had been read from the projections."""


async def with_known_messages(ports: Ports, state: State | None, command: PostTranscript) -> PostTranscript:
    """`command` with the messages of the session that its transcript begins with, or continues.

    Raises TooLarge, UnknownMessage, InvalidMessage.
    """
    if state is None:
        return command
    if not command.is_matched:
        return replace(command, known=await _load_continued(ports, state, command))
    if state.session.message_count == 0:
        return command
    if ports.runner.rebuilding and (found := await _find_in_stream(ports, state, command)) is not None:
        return replace(command, known=found)
    await ports.runner.wait_for(state.session.position)
    known = await _find_unerased(ports, state, command)
    leading = command.transcript.leading
    if not known and leading:  # the session may have these as messages
        ids = (*("" for _ in leading), *command.message_ids)
        whole = replace(command, transcript=command.transcript.with_leading_messages(), message_ids=ids)
        if len(known := await _find_unerased(ports, state, whole)) >= len(leading):
            return replace(whole, known=known)
        known = ()
    return replace(command, known=known)


async def _find_unerased(ports: Ports, state: State, command: PostTranscript) -> tuple[ContextMessage, ...]:
    """As _find_known. Raises TooLarge."""
    try:
        return await _find_known(ports, state, command)
    except TextErased:
        # A session that this one was forked from has just been erased; its texts were copied here before.
        await ports.runner.wait_for((await ports.log.latest()).position)
        return await _find_known(ports, state, command)


async def _load_continued(ports: Ports, state: State, command: PostTranscript) -> tuple[ContextMessage, ...]:
    """The branch that the transcript continues; of one that ends in a reply that is still written, only that reply: the
    rest is loaded when the next one starts.
    """
    parent_id = state.session.head if command.parent_id is UNSET else command.parent_id
    if parent_id is None:
        return ()
    if is_being_written(state, parent_id):
        if command.transcript.messages[0].role == "tool":
            raise rejections.SessionBusy("the reply that these results follow is still being written")
        return (ContextMessage(parent_id, None, "assistant", ""),)
    known = await load_whole_branch(ports, state, parent_id)
    check_first_results(known, command)
    return known


async def _find_known(ports: Ports, state: State, command: PostTranscript) -> tuple[ContextMessage, ...]:
    """Raises TextErased, TooLarge."""
    messages = command.transcript.messages
    tree = await ports.queries.message_tree(state.session.no, limit=TREE_MESSAGES_MAX + 1)
    if len(tree) > TREE_MESSAGES_MAX:
        raise rejections.TooLarge(f"the conversation has more than {TREE_MESSAGES_MAX} messages")
    candidates = find_candidates(tree, [message.role for message in messages])
    digests = await _read_digests(ports, candidates)
    wanted = [digest_message(message.role, message.parts) for message in messages]
    path = match_transcript(
        candidates,
        {one.message_id: digests[one.position].said for one in candidates},
        [one.said for one in wanted],
        path_to(tree, state.session.head),
    )
    return await _load(
        ports, command, path, [digests[one.position] == two for one, two in zip(path, wanted, strict=False)]
    )


async def _find_in_stream(ports: Ports, state: State, command: PostTranscript) -> tuple[ContextMessage, ...] | None:
    """As _find_known, while the projections are rebuilt, so that chat goes on; None if the stream is not enough."""
    recorded = await replay_messages(ports, state.session.session_id, TREE_MESSAGES_MAX)
    if recorded is None:
        return None
    tree = [
        TreeMessage(no, one.message_id, one.parent_id, one.role, no, one.calls)
        for no, one in enumerate(recorded.values(), 1)
    ]
    said = {
        one.message_id: digest_message(one.role, sent_parts(one, send_reasoning=False)).said
        for one in recorded.values()
    }
    wanted = [digest_message(message.role, message.parts).said for message in command.transcript.messages]
    path = match_transcript(tree, said, wanted, path_to(tree, state.session.head))
    return tuple(recorded[one.message_id] for one in path)


async def _read_digests(ports: Ports, candidates: Sequence[TreeMessage]) -> dict[int, MessageDigests]:
    """By position. Raises TextErased."""
    found = {one.position: kept for one in candidates if (kept := ports.digests.get(one.position)) is not None}
    missing = [one for one in candidates if one.position not in found]
    for start in range(0, len(missing), TEXTS_READ_MAX):
        page = missing[start : start + TEXTS_READ_MAX]
        drops = ports.digests.drops
        texts = await ports.log.read_at([one.position for one in page])
        for one in page:
            recorded = texts.get(one.position)
            if recorded is None or recorded.event is None:
                raise TextErased
            message = message_of(one, recorded, 0)
            digests = digest_message(one.role, sent_parts(message, send_reasoning=True))
            found[one.position] = digests
            ports.digests.keep(one.position, digests, drops)
    return found


async def _load(
    ports: Ports, command: PostTranscript, path: Sequence[TreeMessage], is_same: Sequence[bool]
) -> tuple[ContextMessage, ...]:
    """The messages of `path`, as the session has them. Only those are read that say the same in other parts."""
    others = [one.position for one, same in zip(path, is_same, strict=True) if not same]
    texts = await ports.texts.read(others) if others else {}
    known: list[ContextMessage] = []
    for depth, (one, same) in enumerate(zip(path, is_same, strict=True), 1):
        if same:
            sent = command.transcript.messages[depth - 1]
            message = added_message(sent, one.message_id, one.parent_id, depth)
            known.append(replace(message, calls=one.calls))
            continue
        recorded = texts.get(one.position)
        if recorded is None or recorded.event is None:
            raise TextErased
        known.append(message_of(one, recorded, depth))
    return tuple(known)


async def load_whole_branch(ports: Ports, state: State, leaf: str) -> tuple[ContextMessage, ...]:
    """All messages of the branch that ends in `leaf`, oldest first; while the projections are rebuilt, from the stream
    if that has them. Raises UnknownMessage.
    """
    recorded = None
    if ports.runner.rebuilding:
        recorded = await replay_messages(ports, state.session.session_id, MESSAGES_MAX)
    path: list[ContextMessage] = []
    next_id: str | None = leaf
    while recorded is not None and next_id in recorded:
        path.append(recorded[next_id])
        next_id = path[-1].parent_id
    if next_id is None:
        return tuple(reversed(path))
    return await load_branch(ports, state, leaf, MESSAGES_MAX)
