"""A session's stream as its actor writes it: decide, append, evolve. Who loses a race with another node reads the tail
and decides again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

from msgspec.structs import replace

from chatbot.sessions import activate, errors
from chatbot.sessions.commands import SERVICE, CatchUp, Command, CreateSession
from chatbot.sessions.decide import Decision, Rules, decide, gone
from chatbot.sessions.idempotency import once_of
from chatbot.sessions.mailbox import Envelope, Mailbox, MailboxClosed
from chatbot.sessions.ports import Ports
from chatbot.sessions.replies import Replies
from chatbot.sessions.reply import Reply
from chatbot.sessions.state import State, evolve
from events.catalogue import Event, ReplyEnded, ReplyProgressed, ReplyStarted
from events.errors import LogUnavailable, VersionConflict
from events.record import RecordedEvent

LOOK_AGAIN_S = 1.0  # after the log could not be read
ROUNDS_MIN, CONTENDED_S = 8, 5.0  # rounds, and seconds, lost to others who write to the stream, before giving up
CONTENDED = "others keep writing to this session; try again"


def rounds(ports: Ports) -> Iterator[None]:
    """Rounds of deciding; none once the asker is to be told to try again."""
    yield  # nearly always the last: the clock is not looked at
    lost, begun_s = 1, ports.timer()
    while lost < ROUNDS_MIN or ports.timer() - begun_s < CONTENDED_S:
        yield
        lost += 1


class Ledger:
    """The state of one session, and the replies that its facts ask for. For one task.

    `is_level`: the state has all that was recorded before the command in hand came; always so alone.
    """

    def __init__(self, session_id: str, ports: Ports, mailbox: Mailbox) -> None:
        self.state: State | None = None
        self.replies = Replies(ports, mailbox)
        self.is_level = not ports.log.is_shared
        self._session_id = session_id
        self._ports = ports
        self._mailbox = mailbox
        self._rules = ports.rules
        self._is_told = False  # that there is more, by a CatchUp in the mailbox
        self._ended: dict[str, RecordedEvent] = {}  # read, and not told yet, where the log broke off meanwhile

    @property
    def known(self) -> State:
        """The state of a session that is there. Raises SessionNotFound."""
        if self.state is None:
            raise errors.SessionNotFound(self._session_id)
        return self.state

    @property
    def version(self) -> int:
        return self.state.session.version if self.state else 0

    @property
    def rules(self) -> Rules:
        """With the provider's names as they are now: it may find out only later what it talks to."""
        rules, provider = self._rules, self._ports.provider
        if (rules.provider, rules.model, rules.models) != (provider.name, provider.model, provider.models):
            names = {"provider": provider.name, "model": provider.model, "models": provider.models}
            rules = self._rules = replace(rules, **names)
        return rules

    @property
    def owes_unknowingly(self) -> bool:
        """Whether this node owes or writes a reply and does not hold it: the log's answer to that append never came.

        All others see that this node lives, so nobody else would close it.
        """
        if self.state is None or self.replies.leaving or not self._ports.log.is_shared:
            return False  # who leaves owes what the next life is to start
        session, node = self.state.session, self._rules.node
        own = {one.reply_id for one in session.pending if one.node == node}
        if session.open_reply is not None and session.open_reply.node == node:
            own.add(session.open_reply.reply_id)
        return not own <= self.replies.by_id.keys()

    def begin(self) -> None:
        """Another command is in hand."""
        self.is_level = not self._ports.log.is_shared

    def hear(self, version: int) -> None:
        """Another node may have recorded up to `version`: the actor is to read it, all at once."""
        if version > self.version:
            self._tell()

    def look_again(self) -> None:
        """The log could not be read. Nobody may say again that there is more, and a reply may wait for its turn."""
        if self._ports.log.is_shared:
            asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._tell)

    def _tell(self) -> None:
        if not self._is_told:
            with suppress(MailboxClosed):
                self._mailbox.tell(Envelope(CatchUp(), SERVICE))
                self._is_told = True

    async def record(self, envelope: Envelope, command: Command | None = None) -> Reply | None:
        """Decide `command` (None: the envelope's) and append; returns the reply that the recorded events concern.

        Raises Rejection, LogUnavailable, ProjectionError; and VersionConflict, for a request with a key, where it is to
        be asked anew whether the same one has come to another node.
        """
        asked = command or envelope.command
        for _ in rounds(self._ports):
            try:
                decision = await self._decide(asked, envelope)
                reply = await self._append(decision.events, envelope)
            except VersionConflict:
                await self.catch_up()
                if once_of(asked) is not None:
                    raise
                continue
            except errors.Rejection:
                if self.is_level:
                    raise
                await self.catch_up()  # what the refusal rests on may not be so any more
                continue
            if not decision.events and not self.is_level:
                await self.catch_up()  # likewise
                continue
            if decision.rejection is not None:
                raise decision.rejection
            return reply
        raise LogUnavailable(CONTENDED)

    def apply(self, recorded: tuple[RecordedEvent, ...], envelope: Envelope) -> Reply | None:
        """Evolve, then do what the facts ask for."""
        for one in recorded:
            self.state = evolve(self.state, one, activate.recent_max(self._ports))
        self._ports.feeds.publish(self._session_id, recorded)
        touched: Reply | None = None
        for one in recorded:
            touched = self.replies.react(one, envelope, self.known) or touched
        return touched

    async def catch_up(self) -> None:
        """Learn what other nodes have recorded, and let go of what they have ended of ours. Raises LogUnavailable."""
        self._is_told = False
        async for page in activate.tail(self._ports, self._session_id, self.state):
            for one in page:
                self.state = evolve(self.state, one, activate.recent_max(self._ports))
                if isinstance(one.event, ReplyEnded):
                    self._ended[one.event.reply_id] = one
            self._ports.feeds.publish(self._session_id, page)
            if page[-1].position > self._ports.log.head().position:
                await self._ports.log.latest()  # for who will wait until the projections have this, too
        self.is_level = True
        if self.state is not None:
            ended, self._ended = self._ended, {}
            await self.replies.reconcile(self.state, ended)

    def check(self, command: Command, envelope: Envelope) -> None:
        """First of all: a session that is gone, or a stranger's, says nothing of its version or its messages."""
        refused = gone(self.state, command, self.rules, envelope.asker, self._session_id)
        if refused is not None and not isinstance(command, CreateSession):
            raise refused
        if envelope.if_versions is not None and self.version not in envelope.if_versions:
            raise errors.VersionMismatch(envelope.if_versions, self.version)

    async def hold_version(self, envelope: Envelope, versions: frozenset[int] | None) -> None:
        """Replies have been ended for a command that is to hold at one of `versions` (None: at any), as it did until
        then: from now on it is to hold at this one. Raises VersionMismatch where another node has recorded more than
        what became of replies meanwhile.
        """
        if versions is None or not self._ports.log.is_shared:
            return
        version = max((one for one in versions if one <= self.version), default=0)
        page_max, after = self._ports.limits.read_page_max, version
        while page := await self._ports.log.read(self._session_id, after=after, limit=page_max):
            for one in page:
                if one.version <= self.version and not isinstance(
                    one.event, ReplyStarted | ReplyProgressed | ReplyEnded
                ):
                    raise errors.VersionMismatch(versions, self.version)
            if len(page) < page_max:
                break
            after = page[-1].version
        envelope.if_versions = frozenset((self.version,))

    async def _decide(self, asked: Command, envelope: Envelope) -> Decision:
        """Raises the rejection itself where nothing is to be recorded."""
        self.check(asked, envelope)
        self.state, found = await activate.prepare(self._ports, self.state, asked)
        decision = decide(self.state, found, self._ports.clock(), self.rules, envelope.asker, self._session_id)
        if decision.rejection is not None and not decision.events:
            raise decision.rejection
        return decision

    async def _append(self, events: tuple[Event, ...], envelope: Envelope) -> Reply | None:
        if not events:
            return None
        try:
            recorded = await self._ports.log.append(self._session_id, self.version, events, envelope.metadata)
        except LogUnavailable:
            self.look_again()  # perhaps it was recorded
            raise
        return self.apply(recorded, envelope)
