"""The child process of the embedded provider: loads a model, serves it on a loopback port, ends when its parent does.

Run as a file, not as a module, so that it needs nothing but xllamacpp on its path. First line on standard output:
{"url", "api_key"}. The key keeps other users of the machine out; it travels in the pipe, never in an argument.
"""

import argparse
import contextlib
import json
import os
import secrets
import sys
import threading
import time
import traceback
from typing import Any

# Recommended by the model card of SmolLM2; without a penalty small models repeat themselves endlessly. They apply
# if a request sets no others.
TOP_P = 0.9
REPEAT_PENALTY = 1.1
LOG_S = 10.0  # after a failure: a thread of llama.cpp may still have to log the reason
NICENESS = 5  # a model uses all CPU time it gets: the service goes first


def end_with_parent() -> None:
    """End when standard input ends: it is a pipe to the parent, which closes however the parent ends."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def load(arguments: argparse.Namespace, api_key: str) -> Any:
    """The running server; it ends when the object is deleted."""
    import xllamacpp  # noqa: PLC0415 - after end_with_parent(): importing and loading may take long

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.name}
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # any free one
    params.api_keys = [api_key]
    params.n_parallel = arguments.parallel
    params.n_ctx = arguments.context_tokens * arguments.parallel
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.cache_ram_mib = 0  # keeps no prompts of ended conversations in memory
    params.ui = False
    params.endpoint_slots = False  # would show running prompts
    params.sampling.top_p = TOP_P
    params.sampling.penalty_repeat = REPEAT_PENALTY
    return xllamacpp.Server(params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--name", required=True, help="what the model is called in answers")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context-tokens", type=int, required=True, help="of one reply")
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--verbose", action="store_true", help="go on writing a log once the model is loaded")
    arguments = parser.parse_args()
    end_with_parent()
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    # llama.cpp logs partly to standard output: redirect that to standard error, and keep the pipe for the report.
    report = os.dup(1)
    os.dup2(2, 1)
    api_key = secrets.token_urlsafe(24)
    try:
        server = load(arguments, api_key)
    except Exception:  # noqa: BLE001  the parent reports it
        traceback.print_exc()
        os.write(report, b"\n")  # no report: the parent looks for the reason, then ends this process
        time.sleep(LOG_S)
        sys.exit(1)
    if not arguments.verbose:  # nobody reads it any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with os.fdopen(report, "w") as pipe:
        pipe.write(json.dumps({"url": server.listening_address, "api_key": api_key}) + "\n")
    threading.Event().wait()


if __name__ == "__main__":
    main()
