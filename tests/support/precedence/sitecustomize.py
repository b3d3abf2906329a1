"""Imported by each Python that a test starts: the product's commands keep the scheduling class of the tests.

Beside a service they take only time that nobody wants (SCHED_IDLE). Pytest's other workers want all of it: a command of
0.3 s took up to a minute.
"""

import os

if hasattr(os, "sched_setscheduler"):
    os.sched_setscheduler = lambda *_: None
