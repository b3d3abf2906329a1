"""The digests of messages that transcripts were compared with, so that most requests read no earlier text."""

from collections import OrderedDict

from chatbot.sessions.domain.transcript import MessageDigests

DIGESTS_MAX = 32_768  # about 8 MiB


class DigestCache:
    """By the position of the event that holds the text, which never changes. The least recently used are dropped."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, MessageDigests] = OrderedDict()

    def get(self, position: int) -> MessageDigests | None:
        digests = self._kept.get(position)
        if digests is not None:
            self._kept.move_to_end(position)
        return digests

    def keep(self, position: int, digests: MessageDigests) -> None:
        self._kept[position] = digests
        if len(self._kept) > DIGESTS_MAX:
            self._kept.popitem(last=False)
