"""Nodes over PostgreSQL behind nginx, or workers over a file, and all that can go wrong: no promise is broken.

The long drill is `python -m tests.drills.rounds`; this is a short one, with another seed each time.
"""

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.drills.checker import check
from tests.drills.drill import SHAPES, DrillPlan, drill
from tests.drills.drill_report import table, violation_context
from tests.drills.environment.drill_database import programs
from tests.drills.fault_injection import FaultPlan
from tests.drills.rounds import open_folder
from tests.support.programs.external_programs import requires_program

SECONDS = 14.0  # of faults; start, settling and checks take as long again
pytestmark = [pytest.mark.real_part, pytest.mark.timeout(300), requires_program("nginx")]


def say(text: str) -> None:
    print(f"{time.time():.3f} {text}")  # shown when it fails


async def check_drill(plan: DrillPlan, folder: Path) -> None:
    """Raises AssertionError with the first violation; the folder is then kept."""
    print(f"seed {plan.seed}, kept in {folder}")
    result = await drill(plan, folder, say)
    print(table(result))
    violations = check(result.record)
    assert not violations, (
        f"{len(violations)} violations; the first:\n{violation_context(result.record, violations[0])}"
    )
    assert result.injected, "nothing went wrong: that proves nothing"
    shutil.rmtree(folder)


@pytest.mark.skipif(programs() is None, reason="postgresql is not installed")
async def test_three_nodes_keep_every_promise_while_nodes_network_and_database_fail() -> None:
    """A standby is promoted each time; what else goes wrong differs."""
    faults = FaultPlan(first="promote", duration_max_s=4.5, interval_max_s=1.0)
    await check_drill(DrillPlan(random.randrange(2**31), SECONDS, SHAPES["nodes"], faults), open_folder())


async def test_one_node_over_sqlite_keeps_every_promise_while_its_processes_are_killed_and_frozen() -> None:
    faults = FaultPlan(first="worker", duration_max_s=3.0, interval_max_s=1.0)
    await check_drill(DrillPlan(random.randrange(2**31), 8.0, SHAPES["workers"], faults), open_folder())
