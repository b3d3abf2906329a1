"""At how many common moments replies record their checkpoints."""

import pytest

from chatbot.sessions.actor.reply_task import CHECKPOINT_SLOTS_MAX, checkpoint_slots


@pytest.mark.parametrize(("running", "slots"), [(0, 2), (1, 2), (16, 2), (17, 5), (40, 5), (41, 10), (10_000, 10)])
def test_more_replies_have_more_moments_for_their_checkpoints(running: int, slots: int) -> None:
    assert checkpoint_slots(running) == slots


def test_the_moments_of_few_replies_are_moments_of_many_or_common_to_all() -> None:
    assert {CHECKPOINT_SLOTS_MAX % checkpoint_slots(running) for running in range(100)} == {0}
