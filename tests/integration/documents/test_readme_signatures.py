"""What the stand-alone script for auditors says of checkpoints and proofs, without any of our programs."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from events.catalogue import HOLDS, HoldAdded, HoldReleased, HoldsForgotten, KeptEvent, MessageRedacted
from events.codec import encode
from events.integrity.signed_checkpoint import make_key
from events.schema.parts import Redacted
from events.storage.sqlite.sqlite_log import SqliteLog
from tests.support.documents import marked
from tests.support.log.anchored_log import AnchoredLog
from tests.support.log.corruption import cut_off
from tests.support.log.media import put_sample_files
from tests.support.log.sample_events import ASKED, EVERY_LIVING_EVENT, deleted, posted

SCRIPT = marked("auditors: stand-alone verification")


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", "-c", SCRIPT, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)


def functions() -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(SCRIPT.partition("\nif len(sys.argv)")[0], names)
    return names


FUNCTIONS = functions()


async def fill(path: Path) -> None:
    log = await SqliteLog.open(path)
    await put_sample_files(log)
    await log.append("gone", 0, [posted("one"), posted("둘")], ASKED)
    await log.erase("gone", 2, deleted(), ASKED)
    await log.append("every", 0, EVERY_LIVING_EVENT, ASKED)
    await log.append("b", 0, [posted("1"), posted("2"), posted("3")], ASKED)
    await log.append(HOLDS, 0, [HoldAdded("h", "litigation"), HoldReleased("h", "settled")], ASKED)
    await log.erase(HOLDS, 2, HoldsForgotten(()), ASKED)
    kept = KeptEvent(2, 2, encode(replace(posted("2"), content="", parts=(Redacted("text", "court-order"),))).decode())
    redacted = MessageRedacted("m", "court-order", versions=(2,), kept=(kept,), events_erased=1)
    await log.erase("b", 3, redacted, ASKED)
    await log.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of an auditor: copy.db, checkpoint.txt, proof.json, audit.key.pub; and the operator's `key`."""
    folder = tmp_path_factory.mktemp("auditor")
    log = AnchoredLog(folder)
    asyncio.run(fill(log.path))
    (folder / "checkpoint.txt").write_text(log.run("checkpoint", "--key", str(log.key))[0])
    checkpoint = str(folder / "checkpoint.txt")
    (folder / "proof.json").write_text(log.run("prove", "--session", "every", "--checkpoint", checkpoint)[0])
    partial = log.run("prove", "--session", "b", "--version", "2", "--partial", "--checkpoint", checkpoint)[0]
    (folder / "partial.json").write_text(partial)
    shutil.copy(log.path, folder / "copy.db")
    shutil.copy(log.public, folder / "audit.key.pub")
    return folder


@pytest.fixture
def auditor(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_log_that_was_signed_begins_with_what_was_signed(auditor: Path) -> None:
    AnchoredLog(auditor).write(2, auditor / "copy.db")
    done = check(auditor, "copy.db", "checkpoint.txt", "audit.key.pub")
    assert done.returncode == 0, done.stderr
    events = 10 + len(EVERY_LIVING_EVENT)
    assert done.stdout.splitlines()[0].startswith(f"{events + 2} ")
    assert f"begins with the {events} events of chatbot-log/" in done.stdout


def test_a_log_that_was_cut_off_or_rewritten_does_not_begin_with_what_was_signed(auditor: Path) -> None:
    cut_off(auditor / "copy.db", 9)
    assert check(auditor, "copy.db").returncode == 0
    done = check(auditor, "copy.db", "checkpoint.txt", "audit.key.pub")
    assert "the log does not begin with the" in done.stderr
    AnchoredLog(auditor).write(50, auditor / "copy.db")
    done = check(auditor, "copy.db", "checkpoint.txt", "audit.key.pub")
    assert (done.returncode, done.stdout) == (1, "")


def test_a_checkpoint_that_was_changed_or_is_signed_by_others_is_refused(auditor: Path) -> None:
    note = (auditor / "checkpoint.txt").read_text()
    size = note.split("\n")[1]
    for changed in (
        note.replace(f"\n{size}\n", "\n3\n"),
        note.replace("time 2", "time 3"),
        note.replace("— log", "— x"),
    ):
        (auditor / "changed.txt").write_text(changed)
        done = check(auditor, "copy.db", "changed.txt", "audit.key.pub")
        assert "the checkpoint is not signed with the key of log" in done.stderr
    (auditor / "other.pub").write_text(make_key("log")[1])
    assert "not signed" in check(auditor, "copy.db", "checkpoint.txt", "other.pub").stderr


def test_a_proof_names_its_session_and_versions(auditor: Path) -> None:
    done = check(auditor, "proof.json", "audit.key.pub")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == f"session every, versions 1 to {len(EVERY_LIVING_EVENT)}"
    assert second.startswith("are in the log of chatbot-log/")
    assert check(auditor, "partial.json", "audit.key.pub").stdout.startswith("PARTIAL: session b, versions 2 to 2\n")


def refused(proof: dict[str, Any], key: str) -> str:
    with pytest.raises(SystemExit) as refusal:
        FUNCTIONS["check_proof"](proof, key)
    return str(refusal.value)


def test_every_changed_field_of_a_proof_is_found(auditor: Path) -> None:
    text, key = (auditor / "proof.json").read_text(), (auditor / "audit.key.pub").read_text()
    changes: list[tuple[str, Any]] = [
        ("position", 1),
        ("version", 9),
        ("schema_version", 9),
        ("recorded_at", 1),
        ("stream_id", "x"),
        ("type", "session_read"),
        ("metadata", "{}"),
        ("data", '{"type":"x"}'),
        ("salt", "00" * 16),
        ("commitment", "00" * 32),
        ("previous", "00" * 32),
        ("path", []),
    ]
    for name, value in changes:
        proof = json.loads(text)
        proof["events"][5][name] = value
        assert "is not proven" in refused(proof, key), name
    proof = json.loads(text)
    del proof["events"][3]
    assert "not those that the proof states" in refused(proof, key)
    proof = json.loads(text)
    del proof["events"][0]
    proof["range"]["first_version"] = 2
    assert "not from its first version on" in refused(proof, key)
    proof = json.loads(text)
    proof["range"]["session"] = "b"
    assert "of another session" in refused(proof, key)
    assert "not signed" in refused(json.loads(text), make_key("log")[1])


# RFC 8032, 7.1: public key, message, signature.
VECTORS = (
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
)


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS)
def test_the_signatures_of_the_rfc_fit(public: str, message: str, signature: str) -> None:
    raw = bytes.fromhex(public), bytes.fromhex(message), bytes.fromhex(signature)
    assert FUNCTIONS["is_signed"](*raw)
    assert not FUNCTIONS["is_signed"](raw[0], raw[1] + b"x", raw[2])


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(0, 63))
def test_signatures_fit_as_the_library_of_the_program_says(seed: bytes, message: bytes, at: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = private.public_key().public_bytes_raw(), bytearray(private.sign(message))
    assert FUNCTIONS["is_signed"](public, message, bytes(signature))
    signature[at] ^= 1
    try:
        assert not FUNCTIONS["is_signed"](public, message, bytes(signature))
    except ValueError:
        assert at < 32  # no point of the curve


def test_openssl_checks_the_signature_alone(auditor: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    commands = marked("auditors: signature with openssl")

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", commands], cwd=auditor, capture_output=True, text=True, timeout=30, check=False
        )

    assert "Verified Successfully" in run().stdout
    note = auditor / "checkpoint.txt"
    note.write_text(note.read_text().replace("time 2", "time 3"))
    assert run().returncode != 0
