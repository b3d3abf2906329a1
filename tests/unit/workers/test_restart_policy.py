"""When the master starts a process again that has ended."""

from chatbot.runtime.backoff import Backoff
from chatbot.workers.restart_policy import ATTEMPTS_MAX, STABLE_AFTER_S, RestartPolicy


def test_the_pause_grows_with_failures_in_a_row_and_a_long_life_ends_the_row() -> None:
    policy = RestartPolicy(Backoff(first_s=0.1, max_s=5.0))
    pauses = []
    for _ in range(ATTEMPTS_MAX):
        assert not policy.is_exhausted
        policy.note_end(0.1, was_ready=True)
        pauses.append(policy.pause_s)
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[1] > 0
    assert policy.is_exhausted
    policy.note_end(STABLE_AFTER_S, was_ready=False)
    assert policy.is_exhausted, "it never served, so its life does not count"
    policy.note_end(STABLE_AFTER_S, was_ready=True)
    assert (policy.is_exhausted, policy.pause_s) == (False, 0)
