"""Names of a database file under which SQLite would not find its write-ahead log: hard links and mounts of the file.

SQLite keeps the write-ahead log beside the name under which it opened the database. A hard link has another one beside
it; for a file that is mounted by itself (`docker run -v ./chat.db:/app/chat.db`) it is in a file system that is
discarded with the container, together with everything acknowledged since the last checkpoint.
"""

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")  # Linux: proc_pid_mountinfo(5)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def link_count(path: Path) -> int:
    """The number of names (hard links) of the file, 0 if it does not exist. Raises OSError."""
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0


def is_mount_point(path: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether the file `path` is mounted by itself, from this file system or another. Raises OSError."""
    file = path.resolve()
    if not file.exists():
        return False
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except (
        OSError
    ):  # not Linux, where device numbers differ without a mount (overlayfs) or are equal with one (bind mounts)
        return file.stat().st_dev != file.parent.stat().st_dev
    return any(_mount_point(line) == str(file) for line in lines)


def _mount_point(line: str) -> str | None:
    """The fifth field, in which white space and backslashes are escaped in octal."""
    fields = line.split(" ")
    if len(fields) < 5:
        return None
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4])
