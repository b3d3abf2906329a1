"""The port to the cluster: other processes that append to the same log and may write a session's replies."""

from typing import Protocol

from chatbot.sessions.domain.commands import Caller, CancelReply
from chatbot.sessions.replies.reply import Reply
from events.record import RecordedEvent
from projections.folds.session import OpenReply, Session


class Cluster(Protocol):
    """The other nodes. `name` is this node's, as events record it as owner of replies."""

    @property
    def name(self) -> str | None:
        """None if this process serves alone."""
        ...

    async def is_gone(self, node: str | None) -> bool:
        """Whether `node` (None: a process that served alone) is dead, so that its replies are orphaned."""
        ...

    async def cancel(self, session_id: str, running: OpenReply, command: CancelReply, caller: Caller) -> bool:
        """Have the node that writes a reply cancel it, with all of its text. False if it did not confirm that."""
        ...

    def running_reply(self, session_id: str) -> Reply | None:
        """The mirror of the session's reply that another node writes, if there is one."""
        ...

    async def watch(self, session: Session) -> Reply | None:
        """Mirror the reply that another node writes in this session, for readers of this node.

        None if no other node writes, or too many mirrors exist. Raises LogUnavailable.
        """
        ...

    async def await_reply(self, session_id: str, asked: RecordedEvent, caller: Caller) -> Reply | None:
        """The mirror of a reply that is queued or runs on another node. None if too many mirrors exist, or no node owes
        it any more. Raises LogUnavailable.
        """
        ...

    def begin_replies(self, session_id: str, *, is_waiting: bool) -> None:
        """The session has replies of this process; `is_waiting`: the next one waits for a reply of another process."""
        ...

    def end_replies(self, session_id: str) -> None:
        """The session has no replies of this process any more."""
        ...

    async def leave(self) -> None:
        """Graceful shutdown: readers of mirrors are told to reconnect to another node."""
        ...


class SingleNode:
    """Null object: no other node. An open reply that is not in this process's memory was left by a crash."""

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

    def begin_replies(self, session_id: str, *, is_waiting: bool) -> None: ...

    def end_replies(self, session_id: str) -> None: ...

    async def leave(self) -> None:
        """There are no mirrors."""


class ReadOnlyMember(SingleNode):
    """For a command that runs beside serving nodes: open replies may be theirs, and are left to them."""

    async def is_gone(self, node: str | None) -> bool:
        return False
