"""Print the lowest version that pyproject.toml allows of each dependency, and of each of the extras named.

python .ci/lowest.py postgres > lowest.txt && pip install -r lowest.txt
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOWEST = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9][0-9A-Za-z.]*)")


def lowest(extras: list[str]) -> list[str]:
    """One `name==version` each. Raises SystemExit for a requirement that states no lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    pins = {}
    for requirement in wanted:
        found = LOWEST.match(requirement)
        if found is None:
            sys.exit(f"{requirement} states no lower bound")
        pins[found[1].lower()] = found[2]
    return [f"{name}=={version}" for name, version in sorted(pins.items())]


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
