"""The writer's socket: a listening Unix socket in a folder that only this user can enter."""

import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from events.storage.file_lock import is_at, try_lock

PREFIX = "chatbot-writer-"
NAME = "writer.sock"
BACKLOG = 1024  # connections of workers that wait while no writer runs: there are at most 256 workers
ADDRESS_MAX = 100  # bytes of a socket's path: 107 on Linux, 103 on macOS
FOLDER_CHARS = len(PREFIX) + 8  # of the name that tempfile gives
MADE_MAX = 16  # folders, before a start gives up


class PrivateSocket:
    """Made in the first folder for temporary files where its path is short enough. `close` it.

    The folder is locked as long as this process lives: those of killed processes are deleted by the next one, and
    programs that clean temporary files leave a locked folder alone.
    """

    def __init__(self) -> None:
        """Raises OSError."""
        parent = _short_parent()
        _delete_leftovers(parent)
        self._folder, self._lock = _make_folder(parent)
        self.address = str(self._folder / NAME)
        try:
            self._listener = self._bind()
        except BaseException:
            self.delete()
            os.close(self._lock)
            raise

    def listener(self) -> socket.socket:
        """The socket, to be inherited; made again if something has deleted its path. Raises OSError."""
        if not Path(self.address).exists():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not is_at(self._lock, self._folder) and (lock := _try_lock(self._folder)) is not None:
                os.close(self._lock)
                self._lock = lock
            replaced, self._listener = self._listener, self._bind()
            replaced.close()
        return self._listener

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self.address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        listener.setblocking(False)
        return listener

    def delete(self) -> None:
        """Delete the folder, for a process that exits without closing."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Close the socket and delete its folder."""
        self._listener.close()
        self.delete()
        os.close(self._lock)


def _short_parent() -> Path:
    candidates = (tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp")  # noqa: S108  with a folder of its own
    for candidate in candidates:
        length = len(os.fsencode(candidate)) + len("/") + FOLDER_CHARS + len("/") + len(NAME)
        if candidate and length <= ADDRESS_MAX and os.access(candidate, os.W_OK | os.X_OK):
            return Path(candidate)
    raise OSError(f"the path of the writer's socket may have {ADDRESS_MAX} bytes: set TMPDIR to a short path")


def _make_folder(parent: Path) -> tuple[Path, int]:
    for _ in range(MADE_MAX):
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):
            lock = _try_lock(folder)
            if lock is not None and is_at(lock, folder):
                return folder, lock
            if lock is not None:
                os.close(lock)
        # Another process has deleted it in between, as a leftover.
    raise OSError(f"folders in {parent} vanish as soon as they are made")


def _delete_leftovers(parent: Path) -> None:
    """Delete the folders of processes that were killed: those that are ours, hold nothing but a socket, and that no
    process has locked.
    """
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            holds_others = any(file.name != NAME for file in folder.iterdir())
            if holds_others or folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            if (lock := _try_lock(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _try_lock(folder: Path) -> int | None:
    """A descriptor of the folder, locked; None if another process has locked it. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if try_lock(descriptor):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
