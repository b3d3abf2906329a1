"""The frames of the stream of changes in lists of sessions. Their ids are log positions."""

from typing import Literal

from msgspec import Struct

from chatbot.api.response_bodies import SessionView

CHANGED_MAX = 1_000  # sessions since a cursor: with more it is cheaper to list them again
POSITION_PATTERN = "[0-9]{1,18}"  # no more digits than SQLite counts


class ChangesReady(Struct, frozen=True, tag_field="type", tag="ready"):
    """The first frame: the stream is open, from the cursor in this frame's `id`."""


class SessionChanged(Struct, frozen=True, tag_field="type", tag="session"):
    """The session is new, or has changed: this is how a list shows it now."""

    session: SessionView


class SessionGone(Struct, frozen=True, tag_field="type", tag="gone"):
    """The session is in no list of active sessions any more. The client need not have seen it."""

    session_id: str
    reason: Literal["expired", "deleted"]


class ChangesResync(Struct, frozen=True, tag_field="type", tag="resync"):
    """Too much has changed since the cursor, or it is of another log: list the sessions again. The stream ends."""


class ChangesDraining(Struct, frozen=True, tag_field="type", tag="draining"):
    """The service stops, and the stream ends: reconnect after the time in its `retry:` line."""


ChangeFrame = ChangesReady | SessionChanged | SessionGone | ChangesResync | ChangesDraining
