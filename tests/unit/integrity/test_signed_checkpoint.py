"""Signed checkpoints: the format byte for byte, and that nothing else passes for one."""

import argparse
import base64
import hashlib
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chatbot.cli.exit_codes import CommandFailed
from chatbot.cli.proof.keys import keygen
from chatbot.config.settings import Settings
from events.integrity.signed_checkpoint import InvalidCheckpoint, LogCheckpoint, make_key, parse, read, sign
from tests.support.fake_console import FakeConsole

# RFC 8032, 7.1, test 1: a key that everyone has, so that any other implementation can make the same note.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
NAME = "auditor"
KEY_ID = hashlib.sha256(NAME.encode() + b"\n\x01" + PUBLIC).digest()[:4]
SIGNER = f"PRIVATE+KEY+{NAME}+{KEY_ID.hex()}+{base64.b64encode(bytes([1]) + SEED).decode()}"
VERIFIER = f"{NAME}+{KEY_ID.hex()}+{base64.b64encode(bytes([1]) + PUBLIC).decode()}"
STATED = LogCheckpoint("chatbot-log/00ff", 7, bytes(range(32)), bytes(range(32, 64)), "2026-01-31T09:30:00Z")
BODY = (
    "chatbot-log/00ff\n7\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    "digest 202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f\ntime 2026-01-31T09:30:00Z\n"
)


def signature_line(name: str, key_id: bytes, signature: bytes) -> str:
    return f"\u2014 {name} {base64.b64encode(key_id + signature).decode()}\n"


def test_the_note_is_what_the_specification_makes_of_a_known_key_and_text() -> None:
    """Put together by hand here, with the signature as RFC 8032 has it: deterministic, over the body alone."""
    signature = Ed25519PrivateKey.from_private_bytes(SEED).sign(BODY.encode())
    note = sign(STATED, SIGNER)
    assert note == f"{BODY}\n{signature_line(NAME, KEY_ID, signature)}"
    assert hashlib.sha256(note.encode()).hexdigest() == (
        "f1391f0e1804fa5b6a60e0a2da64e97d235d9455695db2d034a3e731cee900c9"
    ), "the very bytes: a note signed years ago must still be read"
    assert read(note, VERIFIER) == parse(note) == STATED


def test_every_changed_byte_is_refused() -> None:
    note = sign(STATED, SIGNER).encode()
    for at, byte in enumerate(note):
        others = {byte ^ 1, byte ^ 2, byte ^ 0x20, byte ^ 0x80, 0x0A, 0x0B, 0x0D, 0x20, 0x1C}
        if at > len(note) - 8:  # several letters stand for the last bits of the signature
            others |= set(range(128))
        for other in others - {byte}:
            changed = note[:at] + bytes([other]) + note[at + 1 :]
            with pytest.raises((InvalidCheckpoint, UnicodeDecodeError)):
                read(changed.decode(), VERIFIER)


def test_a_cut_or_lengthened_note_is_refused() -> None:
    note = sign(STATED, SIGNER)
    for end in range(len(note) - 1):
        with pytest.raises(InvalidCheckpoint):
            read(note[:end], VERIFIER)
    for changed in (f"x\n{note}", f"\n{note}", note.replace("\n\n", "\nmore\n\n", 1)):
        with pytest.raises(InvalidCheckpoint):
            read(changed, VERIFIER)


def test_another_key_is_refused_even_under_the_same_name() -> None:
    note = sign(STATED, SIGNER)
    with pytest.raises(InvalidCheckpoint, match="not signed by auditor"):
        read(note, make_key(NAME)[1])
    with pytest.raises(InvalidCheckpoint, match="not signed by somebody"):
        read(note, make_key("somebody")[1])


def test_a_note_without_a_signature_is_none() -> None:
    for text in ("", BODY, BODY + "\n", "\n\n"):
        with pytest.raises(InvalidCheckpoint):
            read(text, VERIFIER)


def test_of_several_signatures_the_one_asked_for_counts() -> None:
    signer, verifier = make_key("witness")
    note = sign(STATED, SIGNER)
    theirs = sign(STATED, signer).partition("\n\n")[2]
    ours = note.partition("\n\n")[2]
    for lines in (theirs + ours, ours + theirs, "\u2014 stranger AAAA\n" + ours + theirs):
        both = f"{BODY}\n{lines}"
        assert read(both, VERIFIER) == read(both, verifier) == STATED


def test_a_false_signature_of_the_key_asked_for_is_not_made_good_by_another() -> None:
    forged = signature_line(NAME, KEY_ID, bytes(64))
    with pytest.raises(InvalidCheckpoint, match="does not fit"):
        read(f"{BODY}\n{forged}{sign(STATED, SIGNER).partition(chr(10) * 2)[2]}", VERIFIER)


@pytest.mark.parametrize("key", ["", "x", SIGNER, VERIFIER.replace("+", " "), VERIFIER[:-4], "other" + VERIFIER])
def test_a_damaged_verifiers_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidCheckpoint):
        read(sign(STATED, SIGNER), key)


@pytest.mark.parametrize("key", ["", VERIFIER, SIGNER[:-4], SIGNER.replace(NAME, "other")])
def test_a_damaged_signers_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidCheckpoint):
        sign(STATED, key)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "x" * 129])
def test_a_name_that_a_note_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(InvalidCheckpoint):
        make_key(name)


async def made(console: FakeConsole, file: Path) -> int:
    return await keygen(console, argparse.Namespace(file=file, name=NAME, witness=False))


async def test_keygen_writes_a_pair_that_only_its_owner_can_read(tmp_path: Path) -> None:
    console = FakeConsole(Settings())
    assert await made(console, tmp_path / "key") == 0
    public = (tmp_path / "key.pub").read_text()
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert read(sign(STATED, (tmp_path / "key").read_text()), public) == STATED
    assert console.stdout_lines == [public.strip()], "the secret is never printed"


@pytest.mark.parametrize("taken", ["key", "key.pub"])
async def test_keygen_overwrites_nothing_and_leaves_no_half_pair(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("precious")
    with pytest.raises(CommandFailed, match="it exists"):
        await made(FakeConsole(Settings()), tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "precious"
