"""The writing side of shared projections: publishes what the runner does, and answers the processes that read."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from events.errors import LogUnavailable, UnknownEvent
from projections.errors import ProjectionError, ProjectionLag
from projections.runner import ProjectionRunner
from projections.shared import follower_messages as messages
from projections.shared.follower_messages import (
    ChangedPush,
    StatusPush,
    UnknownEventType,
    WaitAnswer,
)
from projections.shared.shared_progress import SharedProgress


class Follower(Protocol):
    """A process that reads the projections, as a connection."""

    def push(self, name: str, body: bytes) -> None:
        """Send without waiting."""
        ...


class ProjectionPublisher:
    """Publishes the progress of `runner`. `handlers` answer the requests of followers, by name.

    A new connection gets no status by itself: it sends LISTS first.
    """

    def __init__(self, runner: ProjectionRunner, progress: SharedProgress) -> None:
        self._runner = runner
        self._progress = progress
        self._followers: dict[Follower, bool] = {}  # whether it has readers of lists
        self._status = StatusPush()
        runner.on_status = self._publish
        runner.on_changed(self._push_changed)

    @property
    def handlers(self) -> Mapping[str, Callable[[Follower, bytes], Awaitable[bytes]]]:
        """By the name of the request."""
        return {
            messages.WAIT: self._wait,
            messages.RETRY: self._retry,
            messages.TROUBLE: self._note_trouble,
            messages.LISTS: self._note_lists,
        }

    def forget(self, follower: Follower) -> None:
        """Its connection is closed."""
        if self._followers.pop(follower, False):
            self._note_list_readers()

    def _publish(self) -> None:
        runner, seen = self._runner, self._progress
        # After a restart the runner is behind for a moment, but not behind what its predecessor has published.
        is_rebuilding = runner.rebuilding and (seen.rebuilding or runner.position < seen.position)
        self._progress.publish(runner.position, rebuilding=is_rebuilding)
        status = _status_of(runner)
        if status != self._status:
            self._status = status
            body = messages.encode(status)
            for follower in self._followers:
                follower.push(messages.STATUS, body)

    def _push_changed(self, owners: frozenset[str] | None, position: int) -> None:
        listeners = [follower for follower, has_readers in self._followers.items() if has_readers]
        if listeners:
            body = messages.encode(ChangedPush(owners, position))
            for follower in listeners:
                follower.push(messages.CHANGED, body)

    async def _wait(self, _: Follower, body: bytes) -> bytes:
        """Raises LogUnavailable if the position is not reached in time, or if this process is stopping."""
        request = messages.decode_wait(body)
        try:
            await self._runner.wait_for(request.position, timeout_s=request.timeout_s)
        except ProjectionLag:
            pass  # the answer says how far it is
        except ProjectionError as error:
            if self._runner.failure is None:
                raise LogUnavailable(str(error)) from error  # stopping: another process goes on
        return messages.encode(WaitAnswer(self._runner.position))

    async def _retry(self, _: Follower, _body: bytes) -> bytes:
        self._runner.retry()
        return b""

    async def _note_trouble(self, _: Follower, body: bytes) -> bytes:
        report = messages.decode_trouble(body)
        if report.generation == self._progress.generation:  # the file has not been replaced since
            self._runner.on_trouble(report.reason)
        return b""

    async def _note_lists(self, follower: Follower, body: bytes) -> bytes:
        self._followers[follower] = messages.decode_lists(body).has_readers
        self._note_list_readers()
        follower.push(messages.STATUS, messages.encode(self._status))
        return messages.encode(WaitAnswer(self._runner.position))

    def _note_list_readers(self) -> None:
        self._runner.set_list_readers(has_readers=any(self._followers.values()))


def _status_of(runner: ProjectionRunner) -> StatusPush:
    failure, unknown = runner.failure, runner.failure
    return StatusPush(
        failure=None if failure is None else str(failure),
        unknown_event=UnknownEventType(unknown.event_type, unknown.schema_version)
        if isinstance(unknown, UnknownEvent)
        else None,
        trouble=None if runner.trouble is None else str(runner.trouble),
    )
