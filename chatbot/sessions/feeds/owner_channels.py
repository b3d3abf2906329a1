"""The channels of lists: which owner's sessions have changed, for readers that follow changes of lists of sessions.

They are channels of the registry of sessions' readers, under keys that are no session ids, with log positions in place
of versions. A reader asks the projections what has changed; the channel only says when.
"""

from chatbot.sessions.feeds.channels import ChannelRegistry

ANY_OWNER = "lists"  # the key of readers that see the sessions of all owners
_OF_OWNER = "lists of "


def owner_key(owner: str | None) -> str:
    """The channel's key for the sessions of one owner; None: for sessions without an owner."""
    return _OF_OWNER + (owner or "")


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
