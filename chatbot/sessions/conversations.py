"""Transcripts of clients to sessions: which session a request means, and the command that it is given.

A named conversation's session id is computed from who names it and how, so that it needs no index, and two first
requests that come together make one session.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType
from msgspec.json import encode
from msgspec.structs import replace

from chatbot.sessions.actor.mailbox import CommandResult
from chatbot.sessions.domain import rejections
from chatbot.sessions.domain.commands import USER_ID, Caller, CreateSession, IdempotencyKey, PostTranscript
from chatbot.sessions.domain.transcript import (
    Transcript,
    TranscriptMessage,
    count_transcript_bytes,
    read_added,
    read_transcript,
)
from chatbot.sessions.ports import AskSession
from events.catalogue import ConversationName, Parameters
from events.schema.naming import CONVERSATION

GENERATIONS_MAX = 64  # sessions that one name may have had one after the other, as each is deleted or expires
GENERATIONS_KEPT = 4_096  # names whose present session is remembered; others are found again from the first


class TranscriptRequest(Struct, frozen=True, kw_only=True):
    """A request for a reply to a transcript.

    `kind`: a conversation is `session_id`, an existing session, or has a `name`; requests of other kinds have neither.
    `end_user` is whom a trusted front end names: sessions and Idempotency-Keys of its other users are not found.
    `reply_client_id`: without an `idempotency_key`, a request with the same one and the same messages gets the same
    reply. `instructions` None: those of the leading system messages; else these (empty: none), and system messages are
    recorded like others. `timeout_s` of a new session; None: as its kind has it. `metadata`: of a new session. The rest
    is as in PostTranscript.
    """

    messages: Sequence[TranscriptMessage]
    parameters: Parameters
    kind: str = CONVERSATION
    session_id: str | None = None
    name: ConversationName | None = None
    end_user: str | None = None
    idempotency_key: IdempotencyKey | None = None
    client_id: str | None = None
    reply_client_id: str | None = None
    on_busy: str = "queue"
    stream: bool = True
    without_stop: bool = False
    instructions: str | None = None
    timeout_s: int | None = None
    metadata: dict[str, Any] = {}
    is_matched: bool = True
    parent_id: str | UnsetType | None = UNSET
    adds_only: bool = False


class ConversationOptions(Struct, frozen=True):
    """`timeout_s` of named conversations; the others' `retention_s`, 0: never, and how large one may be."""

    timeout_s: int
    retention_s: int
    stateless_max_bytes: int


class Conversations:
    """`new_id` makes random ids. `on_deadline` hears of the deadlines of sessions."""

    def __init__(
        self,
        ask: AskSession,
        options: ConversationOptions,
        new_id: Callable[[], str],
        on_deadline: Callable[[int], None],
    ) -> None:
        self._ask_session = ask
        self._options = options
        self._new_id = new_id
        self._on_deadline = on_deadline
        self._generations: OrderedDict[str, str] = OrderedDict()  # by first id, least recently used first

    async def post(self, request: TranscriptRequest, caller: Caller) -> CommandResult:
        """The session and the reply. Raises as AskSession, InvalidMessage, TooLarge, NameConsumed."""
        if request.instructions is None:
            transcript = read_transcript(request.messages)
        else:
            continues = not request.is_matched
            transcript = read_added(request.messages, request.instructions or None, continues=continues)
        if request.kind != CONVERSATION and count_transcript_bytes(transcript) > self._options.stateless_max_bytes:
            raise rejections.TooLarge("the messages have more bytes than the setting v1.stateless_max_bytes allows")
        command = self._command(request, transcript, caller)
        if request.session_id is not None:
            result = await self._send(request.session_id, command, caller)
        elif request.name is not None:
            result = await self._post_to_named(request.name, request, command, caller)
        else:
            result = await self._post_to_new(request, command, caller)
        self._on_deadline(result.state.session.expires_at_us)
        return result

    def session_ids(self, name: ConversationName, end_user: str | None, caller: Caller) -> Iterator[str]:
        """The ids of the sessions that `name` may mean, one after the other: those that existed have all ended but the
        last one.
        """
        return self._session_ids(_first_id(name, end_user, caller))

    async def _post_to_named(
        self, name: ConversationName, request: TranscriptRequest, command: PostTranscript, caller: Caller
    ) -> CommandResult:
        first = _first_id(name, request.end_user, caller)
        for session_id in self._session_ids(first):
            try:
                result = await self._send(session_id, command, caller)
            except rejections.SessionNotFound:  # deleted or expired
                continue
            self._remember(first, session_id)
            return result
        raise rejections.NameConsumed(f"{GENERATIONS_MAX} conversations of this name have ended: use another name")

    async def _send(self, session_id: str, command: PostTranscript, caller: Caller) -> CommandResult:
        """The reply to the transcript. If more of it is new than one append may hold, it is recorded in several: what a
        crash leaves of them is what a retry begins with.
        """
        for _ in range(len(command.message_ids)):
            try:
                return await self._ask_session(session_id, command, caller)
            except rejections.TooManyAdded:
                if not command.is_matched:  # it would be added once more
                    raise
                imports = replace(command, imports_only=True, idempotency_key=None)
                await self._ask_session(session_id, imports, caller)
                command = replace(command, is_new=False)
        return await self._ask_session(session_id, command, caller)

    def _session_ids(self, first: str) -> Iterator[str]:
        """The ids of a name's sessions one after the other, from the newest one that is known."""
        session_id = self._generations.get(first, first)
        for _ in range(GENERATIONS_MAX):
            yield session_id
            session_id = derive_id("after", session_id)

    def _remember(self, first: str, session_id: str) -> None:
        if session_id == first:
            return
        self._generations[first] = session_id
        self._generations.move_to_end(first)
        if len(self._generations) > GENERATIONS_KEPT:
            self._generations.popitem(last=False)

    async def _post_to_new(self, request: TranscriptRequest, command: PostTranscript, caller: Caller) -> CommandResult:
        """A session of its own, the same one for the same Idempotency-Key."""
        key = request.idempotency_key
        if key is None:
            return await self._send(self._new_id(), command, caller)
        session_id = derive_id("request", caller.owner, request.end_user, key.key)
        try:
            return await self._send(session_id, command, caller)
        except rejections.SessionNotFound:
            raise rejections.KeyConsumed("the session that this Idempotency-Key made is gone: use a new key") from None

    def _command(self, request: TranscriptRequest, transcript: Transcript, caller: Caller) -> PostTranscript:
        options = self._options
        key = request.idempotency_key or _key_of_generation(request, transcript)
        create: CreateSession | None = None
        if request.session_id is None:
            end_user = {} if request.end_user is None else {USER_ID: request.end_user}
            metadata: dict[str, Any] = {**request.metadata, **end_user}
            create = CreateSession(
                owner=caller.owner,
                metadata=metadata,
                timeout_s=_timeout_s(request, options),
                title=None,
                system_prompt=None,
                kind=request.kind,
                named_by=request.name,
            )
        return PostTranscript(
            transcript=transcript,
            message_ids=tuple(self._new_id() for _ in transcript.messages),
            reply_id=self._new_id(),
            parameters=request.parameters,
            create=create,
            is_new=request.session_id is None and request.name is None and request.idempotency_key is None,
            client_id=request.client_id,
            reply_client_id=request.reply_client_id,
            on_busy=request.on_busy,
            stream=request.stream,
            idempotency_key=key,
            without_stop=request.without_stop,
            end_user=None if create is not None else request.end_user,  # else the session's id is made of it
            is_matched=request.is_matched,
            parent_id=request.parent_id,
            adds_only=request.adds_only,
        )


def _timeout_s(request: TranscriptRequest, options: ConversationOptions) -> int:
    if request.timeout_s is not None:
        return request.timeout_s
    return options.timeout_s if request.kind == CONVERSATION else options.retention_s


def _first_id(name: ConversationName, end_user: str | None, caller: Caller) -> str:
    """The id of the first session of this name."""
    return derive_id("conversation", caller.owner, end_user, name.source, name.value)


def _key_of_generation(request: TranscriptRequest, transcript: Transcript) -> IdempotencyKey | None:
    """A front end's id of a reply is used for every request of that reply, so it is a key only with the messages."""
    if request.reply_client_id is None or request.kind != CONVERSATION:
        return None
    return generation_key(request.reply_client_id, transcript.messages)


def generation_key(reply_client_id: str, messages: Sequence[TranscriptMessage]) -> IdempotencyKey:
    """By which a repetition of a request for the reply `reply_client_id` to `messages` is recognised."""
    digest = hashlib.sha256(encode(messages)).hexdigest()
    return IdempotencyKey(f"{reply_client_id} {digest}", digest)


def derive_id(*names: str | None) -> str:
    """A version 8 UUID (RFC 9562, 5.8) from `names`: the same for the same names."""
    digest = bytearray(hashlib.sha256(encode(names)).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return str(UUID(bytes=bytes(digest)))
