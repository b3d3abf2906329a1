"""The schedule of checkpoints: copy in the background, finish between two commits, empty only at the limit."""

from events.storage.sqlite.wal import NEW_PAGES, PAGE_BYTES, PASSES_MAX, TAIL_PAGES, CheckpointSchedule, CheckpointStep

LIMIT_PAGES = 10 * NEW_PAGES


def schedule_with(pages: int) -> CheckpointSchedule:
    made = CheckpointSchedule(LIMIT_PAGES * PAGE_BYTES)
    made.add(pages)
    return made


def copy_in_background(schedule: CheckpointSchedule, *, added: int = 0) -> None:
    """A pass in the background that copies all pages, while `added` are committed."""
    schedule.begin_pass()
    before = schedule.pages
    schedule.add(added)
    schedule.end_pass(before, before)


def test_a_short_log_is_left_alone() -> None:
    assert schedule_with(NEW_PAGES - 1).next_step(is_copying=False) is CheckpointStep.NOTHING


def test_a_long_log_is_copied_in_the_background_and_finished_when_little_is_left() -> None:
    schedule = schedule_with(NEW_PAGES)
    assert schedule.next_step(is_copying=False) is CheckpointStep.COPY
    assert schedule.next_step(is_copying=True) is CheckpointStep.NOTHING
    copy_in_background(schedule, added=TAIL_PAGES + 1)
    assert schedule.next_step(is_copying=False) is CheckpointStep.COPY
    copy_in_background(schedule, added=TAIL_PAGES)
    assert schedule.next_step(is_copying=False) is CheckpointStep.FINISH
    schedule.finish(0, schedule.pages, schedule.pages)
    assert schedule.pages == 0
    assert schedule.next_step(is_copying=False) is CheckpointStep.NOTHING


def test_after_so_many_passes_all_the_rest_is_copied_between_two_commits() -> None:
    schedule = schedule_with(NEW_PAGES)
    for _ in range(PASSES_MAX):
        assert schedule.next_step(is_copying=False) is CheckpointStep.COPY
        copy_in_background(schedule, added=2 * TAIL_PAGES)
    assert schedule.next_step(is_copying=False) is CheckpointStep.FINISH


def test_a_pass_that_failed_leaves_the_rest_to_the_one_between_two_commits() -> None:
    schedule = schedule_with(NEW_PAGES)
    schedule.begin_pass()
    schedule.fail_pass()
    assert schedule.next_step(is_copying=False) is CheckpointStep.FINISH


def test_pages_that_a_reader_uses_are_not_tried_again_at_every_commit() -> None:
    schedule = schedule_with(NEW_PAGES)
    schedule.finish(0, NEW_PAGES, NEW_PAGES // 2)
    assert schedule.pages == NEW_PAGES
    schedule.add(NEW_PAGES - 1)
    assert schedule.next_step(is_copying=False) is CheckpointStep.NOTHING
    schedule.add(1)
    assert schedule.next_step(is_copying=False) is CheckpointStep.COPY


def test_at_the_limit_the_log_is_emptied_though_a_pass_is_under_way() -> None:
    assert schedule_with(LIMIT_PAGES).next_step(is_copying=True) is CheckpointStep.EMPTY
