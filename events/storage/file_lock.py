"""Advisory file locks between processes, flock(2): the operating system releases them when a process ends, also by
`kill -9`.
"""

import fcntl
import os
from pathlib import Path


def try_lock(descriptor: int, *, is_shared: bool = False) -> bool:
    """Lock the file, unless another process has a lock on it that excludes this one. Never waits.

    A lock that this descriptor has already is kept. Raises OSError where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def identity(path: Path) -> tuple[int, int]:
    """Of the file that `path` names: its device and inode. Raises OSError."""
    found = path.stat()
    return found.st_dev, found.st_ino


def is_at(descriptor: int, path: Path) -> bool:
    """Whether `path` names the open file: it may have been deleted or replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
