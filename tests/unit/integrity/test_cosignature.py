"""A witness's cosignatures, and its keys."""

import base64

import pytest

from events.integrity.cosignature import check_cosignature, cosign, witness_line
from events.integrity.signed_checkpoint import COSIGNATURE, InvalidCheckpoint, LogCheckpoint, make_key, read, sign

CHECKPOINT = LogCheckpoint("chatbot-log/" + "a" * 32, 12, b"r" * 32, b"d" * 32, "2026-01-31T09:30:00Z")
TIME_S = 1_679_315_147


def test_a_cosigned_checkpoint_states_when_and_is_still_signed_by_its_log() -> None:
    signer, verifier = make_key("log")
    witness, witness_public = make_key("witness.example/w1", COSIGNATURE)
    note = sign(CHECKPOINT, signer)
    line = cosign(note, witness, TIME_S)
    assert line.startswith("\u2014 witness.example/w1 ")
    assert len(base64.b64decode(line.split(" ")[2])) == 4 + 8 + 64
    assert check_cosignature(note + line, witness_public) == TIME_S
    assert read(note + line, verifier) == CHECKPOINT


def test_a_changed_text_or_time_does_not_fit_a_cosignature() -> None:
    note = sign(CHECKPOINT, make_key("log")[0])
    witness, public = make_key("w", COSIGNATURE)
    line = cosign(note, witness, TIME_S)
    with pytest.raises(InvalidCheckpoint, match="does not fit"):
        check_cosignature(note.replace("\n12\n", "\n13\n") + line, public)
    raw = bytearray(base64.b64decode(line.split(" ")[2]))
    raw[11] ^= 1
    with pytest.raises(InvalidCheckpoint, match="does not fit"):
        check_cosignature(f"{note}\u2014 w {base64.b64encode(raw).decode()}\n", public)
    with pytest.raises(InvalidCheckpoint, match="another length"):
        check_cosignature(f"{note}\u2014 w {base64.b64encode(raw[:-1]).decode()}\n", public)
    with pytest.raises(InvalidCheckpoint, match="not signed by w"):
        check_cosignature(note, public)


def test_keys_of_logs_and_of_witnesses_do_not_replace_each_other() -> None:
    note = sign(CHECKPOINT, make_key("log")[0])
    with pytest.raises(InvalidCheckpoint, match="the key of a log's signer, not of a witness"):
        cosign(note, make_key("log")[0], TIME_S)
    with pytest.raises(InvalidCheckpoint, match="the key of a witness, not of a log's signer"):
        sign(CHECKPOINT, make_key("w", COSIGNATURE)[0])
    with pytest.raises(InvalidCheckpoint, match="the key of a witness, not of a log's signer"):
        read(note, make_key("w", COSIGNATURE)[1])


def test_only_the_line_of_the_witness_is_taken_from_its_answer() -> None:
    witness, public = make_key("w", COSIGNATURE)
    line = cosign(sign(CHECKPOINT, make_key("log")[0]), witness, TIME_S)
    others = "\u2014 w AAAA\nsomething\n\n" + "\u2014 other AAAA\n" * 1_000
    assert witness_line(others + line + others, public) == line
    with pytest.raises(InvalidCheckpoint, match="not signed by w"):
        witness_line(others, public)
