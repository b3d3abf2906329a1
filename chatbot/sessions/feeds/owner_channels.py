"""The channels of lists: which owner's sessions have changed, for readers that follow changes of lists of sessions.

They are channels of the registry of sessions' readers, under keys that are no session ids, with log positions in place
of versions. A reader asks the projections what has changed; the channel only says when.
"""

from typing import Protocol

from chatbot.sessions.feeds.channels import ChannelRegistry

ANY_OWNER = "lists"  # the key of readers that see the sessions of all owners
_OF_OWNER = "lists of "


def owner_key(owner: str | None) -> str:
    """The channel's key for the sessions of one owner; None: for sessions without an owner."""
    return _OF_OWNER + (owner or "")


class SetListReaders(Protocol):
    """As projections.port.Projections.set_list_readers."""

    def __call__(self, *, has_readers: bool) -> None: ...


class ListReaders:
    """Tells the projections whether this process has readers of lists. Implements channels.KeyHolder."""

    def __init__(self, set_list_readers: SetListReaders) -> None:
        self._set_list_readers = set_list_readers
        self._keys: set[str] = set()

    def hold(self, key: str, /) -> None:
        """The list of this key has its first reader."""
        self._keys.add(key)
        self._set_list_readers(has_readers=True)

    def release(self, key: str, /) -> None:
        """The list of this key has lost its last reader."""
        self._keys.discard(key)
        self._set_list_readers(has_readers=bool(self._keys))


class OwnerChannels:
    """Wakes the readers of the lists that have changed. Called by the projections after each batch."""

    def __init__(self, feeds: ChannelRegistry) -> None:
        self._feeds = feeds

    def on_changed(self, owners: frozenset[str] | None, position: int) -> None:
        """As projections.port.OnChanged."""
        keys = self._feeds.keys() if owners is None else map(owner_key, owners)
        for key in (ANY_OWNER, *keys):
            if key == ANY_OWNER or key.startswith(_OF_OWNER):
                channel = self._feeds.find(key)
                if channel is not None:
                    channel.advance_to(position)
