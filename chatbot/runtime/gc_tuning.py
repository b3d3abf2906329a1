"""Tuning of the garbage collector for a process with many long-lived objects."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Of generations 0, 1 and 2 (gc.set_threshold). With the defaults (700, 10, 10) a full collection, which takes
# longer the more readers there are, ran every few seconds. Requests and replies leave no cycles, so collections come
# only while the number of objects grows; small young generations keep each at a few milliseconds: with 10,000 and 20
# one took 110 ms while a queue filled.
THRESHOLDS = (2_000, 5, 2_000)


def freeze_heap() -> None:
    """Call this once the service is ready: objects that exist by then are not scanned again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


@contextmanager
def collection_paused() -> Iterator[None]:
    """For imports of many modules: they leave no garbage, and collections take a fifth of their time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
