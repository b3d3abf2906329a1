"""The digests of messages that transcripts were compared with, so that most requests read no earlier text."""

from collections import OrderedDict

from chatbot.sessions.domain.transcript import MessageDigests

DIGESTS_MAX = 32_768  # about 8 MiB


class DigestCache:
    """By the position of the event that holds the text, which changes only by a redaction: that drops all. The least
    recently used are dropped. `drops` counts: what was read before the last one is not kept.
    """

    def __init__(self) -> None:
        self.drops = 0
        self._kept: OrderedDict[int, MessageDigests] = OrderedDict()

    def get(self, position: int) -> MessageDigests | None:
        digests = self._kept.get(position)
        if digests is not None:
            self._kept.move_to_end(position)
        return digests

    def keep(self, position: int, digests: MessageDigests, drops: int) -> None:
        """`drops`: its value before the text was read."""
        if drops != self.drops:
            return
        self._kept[position] = digests
        if len(self._kept) > DIGESTS_MAX:
            self._kept.popitem(last=False)

    def drop(self) -> None:
        """Some text was redacted."""
        self.drops += 1
        self._kept.clear()
