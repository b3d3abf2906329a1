"""The states of the projection runner, and which may follow which."""

from enum import Enum


class State(Enum):
    """What the runner is doing."""

    OPENING = "opening"  # not started, or the store is being opened
    CATCHING_UP = "catching up"  # behind the head as it was when the store was opened or replaced: answers are old
    CURRENT = "current"  # has reached that head, and follows the log
    REPLACING = "replacing"  # the content is invalid: the store is being emptied
    REBUILDING_IN_SUBPROCESS = "rebuilding in subprocess"  # waits for a child process that folds the log
    FAILED = "failed"  # an error that no retry cures, such as an event of a newer version
    STOPPED = "stopped"  # `stop` was called: the batch at hand is finished, and nothing more is done


ENDED = (State.FAILED, State.STOPPED)
_TRANSITIONS = {
    State.OPENING: {State.CATCHING_UP, State.REPLACING, State.STOPPED},
    State.CATCHING_UP: {State.CURRENT, State.REPLACING, State.FAILED, State.STOPPED},
    State.CURRENT: {State.REPLACING, State.FAILED, State.STOPPED},
    State.REPLACING: {State.CATCHING_UP, State.REBUILDING_IN_SUBPROCESS, State.FAILED, State.STOPPED},
    State.REBUILDING_IN_SUBPROCESS: {State.CATCHING_UP, State.REPLACING, State.FAILED, State.STOPPED},
    State.FAILED: {State.STOPPED},
    State.STOPPED: set[State](),
}


def transition(present: State, following: State) -> State:
    """The state after `present`: `following`, except that nothing follows STOPPED: what was begun before `stop` may end
    afterwards. Raises RuntimeError for a change that no case needs.
    """
    if present is State.STOPPED:
        return present
    if following not in _TRANSITIONS[present]:
        raise RuntimeError(f"the projection runner cannot go from {present.value} to {following.value}")
    return following
