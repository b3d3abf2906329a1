"""What a session should be after each command, in the simplest words: no log, no actors, no time but now."""

from typing import Any

from msgspec import Struct

from chatbot.sessions.domain.context import CONTEXT_LOOK_BACK
from chatbot.sessions.replies.reply import Reply

OPEN = ("queued", "streaming")


class MessageModel(Struct):
    """One message. `checkpointed` is how much of a running reply a crash would leave; `seed` tells replies apart.

    `home` is the session whose events hold the text of a message that has ended; '' for the one that shows it.
    """

    message_id: str
    parent_id: str | None
    role: str
    content: str
    status: str = "complete"
    checkpointed: int = 0
    live: Reply | None = None
    seed: int | None = None
    home: str = ""
    asked: list[tuple[str, str]] = []  # what the model was sent when its turn came

    @property
    def shown(self) -> str:
        return self.content[: self.checkpointed] if self.status in OPEN else self.content


class SessionModel(Struct):
    """One session. `owed` has the replies that run or wait, the running one first."""

    session_id: str
    timeout_us: int
    context_max: int
    accessed_us: int
    metadata: dict[str, Any]
    title: str | None = None
    version: int = 1
    status: str = "active"
    head: str | None = None
    lines: dict[str, MessageModel] = {}
    owed: list[MessageModel] = []
    tokens: int = 0

    @property
    def running(self) -> MessageModel | None:
        return self.owed[0] if self.owed else None

    def is_due(self, now_us: int) -> bool:
        return self.status == "active" and not self.owed and now_us >= self.accessed_us + self.timeout_us

    def branch(self, leaf: str | None) -> list[MessageModel]:
        """The messages that lead to `leaf`, oldest first."""
        found: list[MessageModel] = []
        while leaf is not None:
            found.insert(0, self.lines[leaf])
            leaf = found[0].parent_id
        return found

    def context(self, leaf: str | None) -> list[tuple[str, str]]:
        """What the model is to be sent for an answer to `leaf`."""
        said: list[tuple[str, str]] = []
        for line in reversed(self.branch(leaf)[-CONTEXT_LOOK_BACK * self.context_max :]):
            if line.content and len(said) < self.context_max and (not said or said[0][0] != line.role):
                said.insert(0, (line.role, line.content))
        while said and said[0][0] == "assistant":
            said.pop(0)
        return said

    def shown(self) -> list[tuple[str, str, str, str]]:
        """The history as clients see it: of a running reply, what has been recorded."""
        return [(line.message_id, line.role, line.status, line.shown) for line in self.branch(self.head)]

    def post(self, message: MessageModel, reply: MessageModel, now_us: int) -> None:
        self.lines[message.message_id] = message
        self.lines[reply.message_id] = reply
        self.head, self.accessed_us = reply.message_id, now_us
        self.owed.append(reply)
        self.version += 1
        self.start_next()

    def add_reply(self, reply: MessageModel, now_us: int) -> None:
        """Another reply to a message that is there."""
        self.lines[reply.message_id] = reply
        self.head, self.accessed_us = reply.message_id, now_us
        self.owed.append(reply)
        self.version += 1
        self.start_next()

    def newest_leaf(self, message_id: str) -> str:
        """The newest message at or below it."""
        below = {message_id}
        for line in self.lines.values():  # oldest first
            if line.parent_id in below:
                below.add(line.message_id)
        return next(line_id for line_id in reversed(self.lines) if line_id in below)

    def select(self, leaf: str, now_us: int) -> None:
        self.head, self.accessed_us = leaf, now_us
        self.version += 1

    def start_next(self) -> None:
        if self.owed and self.owed[0].status == "queued":
            self.owed[0].status = "streaming"
            self.owed[0].asked = self.context(self.owed[0].parent_id)
            self.version += 1

    def checkpoint(self) -> None:
        """Time has passed: what the log lacks of the running reply is recorded."""
        if self.owed and len(self.owed[0].content) > self.owed[0].checkpointed:
            self.owed[0].checkpointed = len(self.owed[0].content)
            self.version += 1

    def end(self, reply: MessageModel, status: str, now_us: int) -> None:
        reply.status = status
        self.owed.remove(reply)
        self.version += 1
        if status != "interrupted":  # that is no access: nobody was there
            self.accessed_us = now_us

    def end_all(self, status: str, now_us: int) -> None:
        for reply in reversed(list(self.owed)):
            self.end(reply, status, now_us)

    def expire(self) -> None:
        self.status = "expired"
        self.version += 1

    def delete(self, now_us: int) -> None:
        self.end_all("cancelled", now_us)
        self.status, self.head = "deleted", None
        self.lines = {}
        self.version += 1
