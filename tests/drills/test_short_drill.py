"""Three nodes over PostgreSQL behind nginx, and all that can go wrong between them: no promise is broken.

The long drill is `python -m tests.drills.rounds`; this is a short one, with another seed each time.
"""

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.drills.checker import check
from tests.drills.drill import DrillPlan, drill
from tests.drills.drill_report import table, violation_context
from tests.drills.environment.drill_database import programs
from tests.drills.rounds import open_folder
from tests.support.programs.external_programs import requires_program

SECONDS = 25.0  # of faults; start, settling and checks take as long again
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
    await check_drill(DrillPlan(seed=random.randrange(2**31), seconds=SECONDS), open_folder())


async def test_one_node_over_sqlite_keeps_every_promise_while_it_is_killed_and_frozen() -> None:
    plan = DrillPlan(seed=random.randrange(2**31), seconds=10.0, nodes=1, postgres=False)
    await check_drill(plan, open_folder())
