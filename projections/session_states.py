"""The states of sessions that a store's writer has at hand, so that a busy session is not read for every batch."""

from collections import OrderedDict
from collections.abc import Sequence

from events.catalogue import SESSION_TYPES
from events.errors import LogUnusable
from events.record import RecordedEvent
from projections.errors import InvalidProjection
from projections.folds.batch import Changes
from projections.folds.session import Session
from projections.port import Checkpoint

STATES_MAX = 20_000  # sessions cached, about 1 KiB each


def require_following(batch: Sequence[RecordedEvent], checkpoint: Checkpoint) -> None:
    """Raises LogUnusable unless `batch` directly follows `checkpoint`, without a gap at its ends."""
    next_position = checkpoint.position + 1
    if (batch[0].position, batch[-1].position) != (next_position, next_position + len(batch) - 1):
        raise LogUnusable(f"the log has lost events after position {checkpoint.position}: verify it")


class SessionStates:
    """A cache of the folded sessions. Not for two threads."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, Session] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._states)

    def known(self, batch: Sequence[RecordedEvent]) -> tuple[dict[str, Session], set[str]]:
        """The cached states of the sessions in `batch` that are older than it, and the ids of those to be read."""
        old = {recorded.stream_id for recorded in batch}
        old.difference_update(recorded.stream_id for recorded in batch if recorded.version == 1)
        states = {session_id: self._states[session_id] for session_id in old if session_id in self._states}
        return states, old.difference(states)

    def keep(self, changes: Changes) -> None:
        """After `changes` were committed."""
        for changed in changes.sessions:
            self._states[changed.session.session_id] = changed.session
            self._states.move_to_end(changed.session.session_id)
        while len(self._states) > STATES_MAX:
            self._states.popitem(last=False)


def require_found(lost: set[str], batch: Sequence[RecordedEvent]) -> None:
    """Raises InvalidProjection for sessions among `lost`. Streams of another kind have none."""
    if lost:
        lost = lost & {recorded.stream_id for recorded in batch if recorded.type in SESSION_TYPES}
    if lost:
        raise InvalidProjection(f"it has lost {len(lost)} sessions")
