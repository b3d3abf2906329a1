"""The commands of the record, and how --help groups all commands."""

import argparse
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import Struct

from chatbot.audit import (
    archive,
    backup,
    erased,
    erasing,
    migrating,
    projecting,
    prompt,
    proofs,
    proving,
    rebuilding,
    replaying,
    salvaging,
)
from chatbot.audit.desk import Desk


class Command(Struct, frozen=True):
    """A command of the record. `says` is its line in --help; `run` returns the exit code."""

    says: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Desk, argparse.Namespace], Coroutine[Any, Any, int]]


COMMANDS = {
    "export": Command("write events as lines of JSON", archive.export_arguments, archive.export),
    "import": Command("copy an export into the log", archive.import_arguments, archive.import_command),
    "backup": Command("copy the log while it is served, and verify the copy", backup.backup_arguments, backup.backup),
    "salvage": Command("copy what holds of a damaged log", salvaging.salvage_arguments, salvaging.salvage),
    "migrate": Command("copy the log into another store", migrating.migrate_arguments, migrating.migrate_command),
    "prompt": Command("print the request behind a reply", prompt.prompt_arguments, prompt.prompt),
    "replay": Command("print a conversation as it stood", replaying.replay_arguments, replaying.replay),
    "diff": Command("print what changed in a conversation", replaying.diff_arguments, replaying.diff_command),
    "rebuild": Command("make the projections anew", rebuilding.rebuild_arguments, rebuilding.rebuild_command),
    "project": Command("run a projection of your own", projecting.project_arguments, projecting.project),
    "verify": Command("check that nobody has changed the log", proving.verify_arguments, proving.verify_command),
    "keygen": Command("make the keys that sign checkpoints", proving.keygen_arguments, proving.keygen),
    "checkpoint": Command("print a signed statement of the head", proving.checkpoint_arguments, proving.checkpoint),
    "prove": Command("prove a session's events to someone without the log", proofs.prove_arguments, proofs.prove),
    "erase": Command("erase sessions for good", erasing.erase_arguments, erasing.erase),
    "erased": Command("look for a text in the files' bytes", erased.erased_arguments, erased.erased),
}

OTHERS = {
    "serve": "serve the HTTP API (also without a command)",
    "health": "ask the running service whether it is ready: exit code 0 or 1 (for HEALTHCHECK)",
    "config": "print the settings in force",
}
GROUPS = {
    "serve": ("serve", "health", "config"),
    "read conversations": ("replay", "diff", "prompt", "project"),
    "prove": ("verify", "keygen", "checkpoint", "prove"),
    "erase": ("erase", "erased"),
    "copy and move": ("backup", "export", "import", "migrate"),
    "repair": ("salvage", "rebuild"),
}


def overview() -> str:
    """All commands by purpose, a line for each."""
    says = {**OTHERS, **{name: command.says for name, command in COMMANDS.items()}}
    width = max(map(len, says))
    groups = (
        "\n".join([f"{title}:", *(f"  {name:<{width}}  {says[name]}" for name in names)])
        for title, names in GROUPS.items()
    )
    return "\n\n".join(groups)
