"""Files and texts of operators (exports, checkpoints, settings, dates): what is wrong is refused with a reason."""

import io
import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chatbot.audit.point_in_time import parse_point_in_time, parse_time_bound
from chatbot.cli.erasure.erase_criteria import _parse_expiry
from chatbot.cli.exit_codes import CommandFailed
from chatbot.config.dotenv import DotenvError, parse_dotenv
from chatbot.config.sources import read_config, read_environment
from events.integrity.signed_checkpoint import (
    InvalidCheckpoint,
    LogCheckpoint,
    make_key,
    parse_tree_head,
    read_all,
    read_signer,
    read_verifier,
    sign,
)
from events.transfer.export_format import ExportFileError, ExportReader
from tests.fuzz.damage import damaged

SIGNER, VERIFIER = make_key("log.example")
NOTE = sign(LogCheckpoint("log.example", 3, b"r" * 32, b"d" * 32, "2026-01-31T09:00:00Z"), SIGNER)
EXPORT = [
    json.dumps({"format": "chatbot-log", "version": 2, "position": 1, "digest": "00" * 32, "is_whole": True}).encode()
    + b'\n{"position": 1, "stream_id": "s", "version": 1, "type": "session_created", "schema_version": 2, "data": "{}",'
    b' "metadata": "{}", "recorded_at_us": 1, "digest": "'
    + b"00" * 32
    + b'"}\n{"trailer": {"events": 1, "sha256": ""}}\n',
]
CONFIGS = [b'[server]\nport = 8080\nhosts = ["a"]\n[auth]\nkeys = {mina = "a-long-secret-of-minas"}\n', b"[llm]\n"]
DATES = st.text(max_size=30) | st.sampled_from(
    (
        "2026-01-31",
        "2026-01-31T09:00:00+09:00",
        "99999-01-01",
        "2026-02-30",
        "0000-00-00",
        "9999-12-31T23:59:59-14:00",
        "²",
    )
)


@given(damaged([NOTE.encode(), NOTE.encode() * 2]))
def test_a_damaged_checkpoint_is_none(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    if text in (NOTE, NOTE * 2):
        return
    with suppress(InvalidCheckpoint):
        for checkpoint in read_all(text, VERIFIER):
            assert checkpoint.size == 3, "signed, whatever stands around it"
    with suppress(InvalidCheckpoint):
        parse_tree_head(text)


@given(damaged([SIGNER.encode(), VERIFIER.encode()]))
def test_a_damaged_key_is_none(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for read in (read_signer, read_verifier):
        with suppress(InvalidCheckpoint):
            read(text)


@given(damaged(EXPORT, changes_max=5))
@example(EXPORT[0].replace(b'"s"', b"[" * 10_000))
@example(EXPORT[0].replace(b"true", b"[" * 10_000))
def test_a_damaged_export_is_refused_with_its_line(data: bytes) -> None:
    with pytest.raises(ExportFileError, match=r"line \d"):
        for _ in ExportReader(io.BytesIO(data)).items():
            pass


@given(
    damaged([b"A=1\nB='two words'\nexport C=\"x\\n${D}\"\n# no\n", b"CHATBOT_API_KEYS=mina:a-long-secret-of-minas\n"])
)
def test_a_damaged_dotenv_is_read_or_refused(data: bytes) -> None:
    with suppress(DotenvError):
        parse_dotenv(data.decode("utf-8", "replace"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=damaged(CONFIGS))
def test_a_damaged_configuration_is_read_or_refused_without_secrets(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(data)
    source = read_config(path, "config.toml", required=True)
    assert all("a-long-secret-of-minas" not in fault for fault in source.faults) or b"keys" not in data


@given(
    st.dictionaries(st.sampled_from(("CHATBOT_API_KEYS", "PORT", "CHATBOT_LLM_SERVERS", "DEBUG")), st.text(max_size=40))
)
def test_any_environment_is_read_or_refused(environment: dict[str, str]) -> None:
    read_environment(environment)


@given(DATES)
def test_a_date_is_read_or_refused(text: str) -> None:
    with suppress(ValueError):
        parse_point_in_time(text)
    for is_end in (True, False):
        with suppress(ValueError):
            parse_time_bound(text, is_end=is_end)
    with suppress(CommandFailed):
        _parse_expiry(text)
