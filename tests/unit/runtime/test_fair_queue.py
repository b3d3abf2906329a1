"""Turns in a queue whose keys never stop coming."""

from chatbot.runtime.fair_queue import SERVED_MAX, FairQueue


def test_who_was_served_once_gets_its_second_turn_however_many_new_keys_come() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push(("patient",), "first")
    queue.push(("other",), "other")
    assert queue.pop("patient") == "first"
    queue.push(("patient",), "second")
    served = []
    for number in range(2 * SERVED_MAX):
        queue.push((f"new {number}",), f"new {number}")
        served.append(queue.pop(next(iter(queue.keys))))
    assert "second" in served
    assert len(queue.keys._served) <= SERVED_MAX + 2
