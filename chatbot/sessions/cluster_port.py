"""Other nodes, as a session sees them: processes that append to the same log and may write its replies."""

from typing import Protocol

from chatbot.sessions.domain.commands import Caller, CancelReply
from chatbot.sessions.replies.reply import Reply
from events.record import RecordedEvent
from projections.folds.session import OpenReply, Session


class Cluster(Protocol):
    """What is asked of them and about them. `name` is what this one is called in the events of what it owes."""

    @property
    def name(self) -> str | None:
        """None: this process serves alone."""
        ...

    async def is_gone(self, node: str | None) -> bool:
        """Whether nobody will go on with what `node` (None: a process that served alone) owes or writes."""
        ...

    async def cancel(self, session_id: str, running: OpenReply, command: CancelReply, caller: Caller) -> bool:
        """Have the node that writes a reply cancel it, with all of its text. False: it did not answer that it has."""
        ...

    def running_reply(self, session_id: str) -> Reply | None:
        """The mirror of the session's reply that another node writes, if it is watched."""
        ...

    async def watch(self, session: Session) -> Reply | None:
        """From now on mirror the reply that another node writes in this session, for who reads it here.

        None: no other node writes, or too many are watched already. Raises LogUnavailable.
        """
        ...

    async def await_reply(self, session_id: str, asked: RecordedEvent, caller: Caller) -> Reply | None:
        """The mirror of a reply that another node owes: it waits there, or runs. None: too many are watched already,
        or nobody owes it any more. Raises LogUnavailable.
        """
        ...

    async def leave(self) -> None:
        """The service is going down: who reads what another node writes is to come back elsewhere."""
        ...


class SingleNode:
    """No other node: whatever is left open and not in this process's hands, a crash has left."""

    name = None

    async def is_gone(self, node: str | None) -> bool:
        return True

    async def cancel(self, session_id: str, running: OpenReply, command: CancelReply, caller: Caller) -> bool:
        return False

    def running_reply(self, session_id: str) -> Reply | None:
        return None

    async def watch(self, session: Session) -> Reply | None:
        return None

    async def await_reply(self, session_id: str, asked: RecordedEvent, caller: Caller) -> Reply | None:
        return None

    async def leave(self) -> None:
        """Nobody reads what another node writes."""


class ReadOnlyMember(SingleNode):
    """A command beside nodes that serve: what is open may be in their hands, and is left to them."""

    async def is_gone(self, node: str | None) -> bool:
        return False
