"""Anchors in an S3 bucket: created once, locked, and after the loss of anything one object or a clear failure."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chatbot.anchors.anchor_target import NewAnchor, TargetContradicts, TargetUnavailable
from chatbot.anchors.targets import s3_store
from chatbot.anchors.targets.object_store import StoreTarget
from chatbot.anchors.targets.target_factory import open_target
from chatbot.runtime.backoff import Backoff
from events.integrity.consistency_proof import ConsistencyTree
from events.integrity.signed_checkpoint import LogCheckpoint, make_key, sign
from tests.support.log.anchored_log import AnchoredLog
from tests.support.log.corruption import cut_off
from tests.support.programs.faulty_proxy import FaultyProxy
from tests.support.programs.s3_server import BUCKET, CREDENTIALS, S3Server, s3_server

ORIGIN = "chatbot-log/" + "a" * 32
SIGNER = make_key("log")[0]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    server.empty()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_store, "BACKOFF", Backoff(0.01, 0.02))
    monkeypatch.setattr(s3_store, "READ_TIMEOUT_S", 1.0)
    return server


def target_of(port: int, options: str = "") -> StoreTarget:
    target = open_target(f"s3://{BUCKET}/anchors?endpoint=http://127.0.0.1:{port}{options}")
    assert isinstance(target, StoreTarget)
    return target


def anchor(size: int, root: bytes = b"r" * 32, second: int = 0) -> tuple[LogCheckpoint, str]:
    checkpoint = LogCheckpoint(ORIGIN, size, root, b"d" * 32, f"2026-01-31T09:30:{second:02}Z")
    return checkpoint, sign(checkpoint, SIGNER)


async def write(target: StoreTarget, one: tuple[LogCheckpoint, str]) -> bool:
    return await target.write(NewAnchor(*one, ConsistencyTree()))


async def test_an_anchor_is_created_once_and_listed_by_size(bucket: S3Server) -> None:
    target = target_of(bucket.port)
    assert await target.newest(ORIGIN) is None
    assert await target.origins() == []
    for size in (12, 5, 100):
        assert await write(target, anchor(size))
    assert not await write(target, anchor(12, second=7))  # another node, seven seconds later
    assert [one.name for one in await target.read_all(ORIGIN)] == [f"{ORIGIN}/{size:020}" for size in (5, 12, 100)]
    assert await target.newest(ORIGIN) == anchor(100)[1]
    assert await target.origins() == [ORIGIN]
    assert bucket.objects()[f"anchors/{ORIGIN}/{12:020}"] == anchor(12)[1].encode()
    with pytest.raises(TargetContradicts, match="another tree of 12 events"):
        await write(target, anchor(12, root=b"x" * 32))
    await target.close()


async def test_more_names_than_one_answer_has_are_all_listed(bucket: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_store, "LIST_PAGE", 2)
    target = target_of(bucket.port)
    for size in range(1, 6):
        await write(target, anchor(size))
    assert len(await target.read_all(ORIGIN)) == 5
    await target.close()


async def test_a_locked_anchor_cannot_be_deleted_before_its_time(bucket: S3Server) -> None:
    target = target_of(bucket.port, "&lock=compliance&retain_days=30")
    await write(target, anchor(5))
    name = f"anchors/{ORIGIN}/{5:020}"
    found = bucket.client.head_object(Bucket=BUCKET, Key=name)
    assert found["ObjectLockMode"] == "COMPLIANCE"
    left = found["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
    with pytest.raises(bucket.client.exceptions.ClientError, match="AccessDenied"):
        bucket.client.delete_object(Bucket=BUCKET, Key=name, VersionId=found["VersionId"])
    await target.close()


LOSSES = ("request", "answer", "answer and connection", "every connection for a moment", "two answers in a row")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("step", ["first", "again", "list", "read"])
async def test_after_the_loss_of_a_request_or_an_answer_there_is_one_object(
    bucket: S3Server, loss: str, step: str
) -> None:
    async with FaultyProxy(bucket.port) as line:
        target = target_of(line.port)
        if step != "first":
            await write(target, anchor(5))
        lose(line, loss)
        match step:
            case "first":
                await write(target, anchor(5))
            case "again":
                assert not await write(target, anchor(5, second=3))
            case "list":
                assert [one.text for one in await target.read_all(ORIGIN)] == [anchor(5)[1]]
            case _:
                assert await target.newest(ORIGIN) == anchor(5)[1]
        assert line.cuts >= 1 or loss == "every connection for a moment"
        await target.close()
    assert bucket.objects() == {f"anchors/{ORIGIN}/{5:020}": anchor(5)[1].encode()}


def lose(line: FaultyProxy, loss: str) -> None:
    match loss:
        case "request":
            line.drops_request = True
        case "answer":
            line.drops_answer = line.keeps_server_side = True
        case "answer and connection":
            line.drops_answer = True
        case "two answers in a row":
            line.drops_answer = True
            asyncio.get_running_loop().call_later(0.03, setattr, line, "drops_answer", True)
        case _:
            line.down = True
            line.drop_connections()
            asyncio.get_running_loop().call_later(0.02, setattr, line, "down", False)


async def test_a_server_that_is_away_is_a_failure_that_names_no_secret(
    bucket: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FaultyProxy(bucket.port) as line:
        line.down = True
        target = target_of(line.port)
        with pytest.raises(TargetUnavailable) as failure:
            await write(target, anchor(5))
        assert str(failure.value).startswith("put_object: ")
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in str(failure.value)
        await target.close()
    missing = open_target(f"s3://other/anchors?endpoint={bucket.url}")
    with pytest.raises(TargetUnavailable, match="NoSuchBucket"):
        await missing.newest(ORIGIN)
    await missing.close()
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    nobody = target_of(bucket.port)
    with pytest.raises(TargetUnavailable, match="NoCredentialsError"):
        await nobody.newest(ORIGIN)
    await nobody.close()
    assert bucket.objects() == {}


def test_the_commands_write_verify_and_find_a_rolled_back_log(bucket: S3Server, tmp_path: Path) -> None:
    log, target = AnchoredLog(tmp_path), f"s3://{BUCKET}?endpoint={bucket.url}"
    log.write(3)
    (tmp_path / "a").mkdir()
    assert [one["outcome"] for one in log.anchor(target, tmp_path / "a")] == ["written", "written"]
    log.write(2)
    assert log.anchor(target) == [{"target": f"s3://{BUCKET}", "outcome": "written", "events": 5}]
    assert "it agrees with 3 anchors in 2 targets" in log.run(*log.verify_arguments(target, tmp_path / "a"))[0]
    cut_off(log.path, 4)
    why = log.refused(*log.verify_arguments(target))
    assert "the log was rolled back: it has 4 events" in why
    assert f"in s3://{BUCKET}" in why
