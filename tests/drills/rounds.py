"""Drills for as long as you like: `python -m tests.drills.rounds --minutes 20 --seed 7`, in each shape of the service.

One that finds something keeps its folder: the histories, the log, and what each node and the database wrote.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.drills.checker import check
from tests.drills.drill import SHAPES, DrillPlan, drill
from tests.drills.drill_record import DrillRecord
from tests.drills.drill_report import table, violation_context
from tests.drills.fault_injection import FaultPlan

SHOWN_MAX = 12


async def one_drill(plan: DrillPlan, folder: Path) -> int:
    """Run, check, print. Returns how many violations there are."""
    begun_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.time():.3f} {time.monotonic() - begun_s:7.1f} s  {text}", flush=True)

    result = await drill(plan, folder, say)
    print(table(result), flush=True)
    return print_verdict(result.record, plan.seed)


def print_verdict(record: DrillRecord, seed: int) -> int:
    """Print what is wrong, the first with what stands around it. Returns how many violations there are."""
    violations = check(record)
    print(f"seed {seed}: {len(violations)} violations")
    for violation in violations[:SHOWN_MAX]:
        print(f"  {violation.rule}: {violation.what[:400]} ({violation.session_id} v{violation.version})")
    if violations:
        print(f"\nthe first, with what stands around it:\n{violation_context(record, violations[0])}", flush=True)
    return len(violations)


def open_folder() -> Path:
    """A fresh folder that the database's user can enter."""
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    folder.chmod(0o755)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of faults; a drill takes a minute more")
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="draws the same faults and requests")
    parser.add_argument("--shape", choices=SHAPES, help="only this one; otherwise each has its part of the minutes")
    parser.add_argument("--only", default="", help="words that the kind of each fault must have, such as 'freeze'")
    parser.add_argument("--check", type=Path, help="only check again what a drill left in this folder")
    options = parser.parse_args()
    if options.check:
        return 1 if print_verdict(DrillRecord.load(options.check), options.seed) else 0
    shapes = {options.shape: SHAPES[options.shape]} if options.shape else SHAPES
    found = 0
    for name, shape in shapes.items():
        seconds = options.minutes * 60 * shape.share / sum(one.share for one in shapes.values())
        plan = DrillPlan(options.seed, seconds, shape, FaultPlan(only=options.only))
        found += run_drill(name, plan)
    return 1 if found else 0


def run_drill(name: str, plan: DrillPlan) -> int:
    """One drill in a folder of its own, which is kept if it finds something. Returns how many violations there are."""
    folder = open_folder()
    print(f"{name}: seed {plan.seed}, {plan.seconds / 60:g} minutes, in {folder}", flush=True)
    found = 1
    try:
        found = asyncio.run(one_drill(plan, folder))
    except KeyboardInterrupt:
        found = 0
        raise
    finally:
        if found:
            print(f"kept: {folder}", flush=True)
        else:
            shutil.rmtree(folder)
    return found


if __name__ == "__main__":
    sys.exit(main())
