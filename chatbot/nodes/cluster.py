"""This node among the others: what sessions ask of them (sessions.nodes.Nodes)."""

from chatbot.nodes.liveness import Liveness
from chatbot.nodes.mirrors import Mirrors
from chatbot.nodes.name import address_of
from chatbot.nodes.peers import Peers
from chatbot.sessions.commands import Asker, CancelReply
from chatbot.sessions.reply import Reply
from events.record import RecordedEvent
from projections.session import OpenReply, Session


class Cluster:
    """Knows no list of nodes: their names are in the events of what they owe."""

    def __init__(self, name: str, peers: Peers, liveness: Liveness, mirrors: Mirrors) -> None:
        self.name: str | None = name
        self._peers = peers
        self._liveness = liveness
        self._mirrors = mirrors

    async def is_gone(self, node: str | None) -> bool:
        """As Nodes.is_gone."""
        return await self._liveness.is_gone(node)

    async def cancel(self, session_id: str, running: OpenReply, command: CancelReply, asker: Asker) -> bool:
        """As Nodes.cancel."""
        address = address_of(running.node)
        if address is None or await self._liveness.is_gone(running.node):
            return False
        return await self._peers.cancel(address, (session_id, running.reply_id), command, asker)

    def running_reply(self, session_id: str) -> Reply | None:
        """As Nodes.running_reply."""
        return self._mirrors.running_reply(session_id)

    async def watch(self, session: Session) -> Reply | None:
        """As Nodes.watch."""
        written = session.open_reply
        if written is None or written.node == self.name:
            return None
        return await self._mirrors.follow(session.session_id, written)

    async def leave(self) -> None:
        """As Nodes.leave."""
        await self._mirrors.close()

    async def await_reply(self, session_id: str, asked: RecordedEvent, asker: Asker) -> Reply | None:
        """As Nodes.await_reply."""
        return await self._mirrors.expect(session_id, asked, asker)
