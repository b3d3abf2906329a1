"""The command keygen, and reading keys: the Ed25519 keys that sign checkpoints."""

import argparse
import os
from pathlib import Path

from chatbot.cli.cli_context import CommandContext
from chatbot.cli.exit_codes import UsageError
from events.integrity import signed_checkpoint
from events.integrity.signed_checkpoint import COSIGNATURE, InvalidCheckpoint, make_key


def add_keygen_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="where the secret key goes; the public one goes to FILE.pub")
    parser.add_argument("--name", help="the signer's name (default: chatbot-log, or chatbot-witness)")
    parser.add_argument("--witness", action="store_true", help="make the key of a witness, which signs other logs'")


async def keygen(context: CommandContext, options: argparse.Namespace) -> int:
    """Make a pair of keys. The secret one signs checkpoints; the public one is for auditors."""
    try:
        if options.witness:
            signer, verifier = make_key(options.name or "chatbot-witness", COSIGNATURE)
        else:
            signer, verifier = make_key(options.name or "chatbot-log")
    except InvalidCheckpoint as error:
        raise UsageError(str(error)) from error
    if not options.file.name or options.file.is_dir():
        raise UsageError(f"{options.file} is a directory: name the file that the secret key is to be in")
    public = options.file.with_name(options.file.name + ".pub")
    for file in (options.file, public):
        if file.exists():  # before either is written: half a pair is useless
            raise UsageError(f"cannot write {file}: it exists, and may have signed checkpoints")
    _write_new_file(options.file, signer, 0o600)
    _write_new_file(public, verifier, 0o644)
    others = "the logs that it signs" if options.witness else "the log"
    context.print_note(
        f"the secret key is in {options.file}: keep it away from everybody who can write {others}; give {public} away"
    )
    context.print_result(verifier)
    return 0


def read_text_file(path: Path) -> str:
    """The content of a text file in UTF-8. Raises UsageError."""
    try:
        return path.read_text().removeprefix(signed_checkpoint.BOM)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error


def read_public_key(text: str | None) -> str:
    """The public key that --key is, or that the file of this name holds. Raises UsageError for what is no such key."""
    (key,) = _read_keys(text, one=True)
    return key


def read_public_keys(text: str | None) -> list[str]:
    """As read_public_key, of a file with a key in each line: those that were used one after the other."""
    return _read_keys(text, one=False)


def _read_keys(text: str | None, *, one: bool) -> list[str]:
    if text is None:
        raise UsageError("whose signature? name the public key with --key")
    path = Path(text)
    is_file = path.is_file()
    content = read_text_file(path) if is_file else text
    keys = [content] if one else content.split() or [content]
    for key in keys:
        if key.lstrip().startswith("PRIVATE+KEY+"):
            which = f"{text} holds" if is_file else "--key is"
            raise UsageError(f"{which} the secret key: give the public one{f', {text}.pub' if is_file else ''}")
        try:
            signed_checkpoint.read_verifier(key)
        except InvalidCheckpoint as error:
            if is_file or "+" in text:
                raise UsageError(f"--key {text}: {error}") from error
            raise UsageError(f"no such file or key: {text}") from error
    return keys


def _write_new_file(path: Path, text: str, mode: int) -> None:
    """Write a new file; never overwrites, as that may be the key that signed earlier checkpoints. Raises UsageError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
