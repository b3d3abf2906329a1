"""The entry point of `chatbot`, and of `python run.py` in a checkout: serves, or runs a command.

Installed, it is chatbot_backend/run.py, next to the packages (see pyproject.toml).
This file must parse with Python 3.8, so that an old Python prints a message and not a SyntaxError.
"""

import sys
from pathlib import Path

EXIT_USAGE = 2
OURS = ("chatbot", "events", "projections")
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -e '.[embedded]' && .venv/bin/python run.py"


def main() -> int:
    """Check the Python version and the installed packages, then run the command line. Returns the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036  this is for old versions
        return refuse(f"Python 3.11 or newer is needed; this is Python {sys.version.split()[0]} ({sys.executable})")
    folder = find_packages()
    sys.path.insert(0, str(folder))  # first: other distributions have packages of these names, such as PyPI's Events
    try:
        from chatbot.cli.main import main as run  # noqa: PLC0415  not before the version is known
        from chatbot.runtime.utf8 import use_utf8  # noqa: PLC0415
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in OURS:
            raise
        return refuse(f"the Python package {missing} is missing for {sys.executable}; in {folder} run: {INSTALL}")
    use_utf8()
    return run(sys.argv[1:])


def find_packages() -> Path:
    """The folder of our packages: this file's, or, in an editable install, the checkout that is on the path."""
    here = Path(__file__).resolve().parent
    candidates = (here, *map(Path, sys.path))
    return next((path for path in candidates if (path / "chatbot" / "cli" / "main.py").is_file()), here)


def refuse(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
