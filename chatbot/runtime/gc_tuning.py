"""Python's cycle collector, set for a process that holds many objects for long."""

import gc

# Allocations, less what was freed, before the young are looked through; and of how many such looks one goes further.
# With the defaults (700, 10, 10) a full look, which takes longer the more readers there are, came every few seconds.
THRESHOLDS = (10_000, 20, 100)


def freeze_heap() -> None:
    """To be called once the service is ready: what it is made of stays, and is not looked through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
