"""Anchors that the service writes by itself: when, where, and what its metrics and logs say of them."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from chatbot.anchors.anchor_factory import AnchorsUnusable
from tests.support.log.anchored_log import AnchoredLog
from tests.support.log.corruption import cut_off
from tests.support.service import Running, serving

NOBODY = "http://127.0.0.1:9"  # a model server that is not needed


def settings(log: AnchoredLog, *targets: Path, interval_s: float = 1) -> dict[str, str]:
    return {
        "CHATBOT_ANCHORS_KEY_FILE": str(log.key),
        "CHATBOT_ANCHORS_TARGETS": ",".join(map(str, targets)),
        "CHATBOT_ANCHORS_INTERVAL_S": str(interval_s),
    }


async def metrics(service: Running) -> dict[str, float]:
    text = (await service.client.get("/metrics")).text
    found = re.findall(r'^chatbot_anchor_(\w+)\{target="(\d)"\} (\S+)$', text, re.MULTILINE)
    return {f"{name} {target}": float(value) for name, target, value in found}


async def wait_for(service: Running, is_met: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    async with asyncio.timeout(30):
        while not is_met(now := await metrics(service)):
            await asyncio.sleep(0.05)
    return now


async def test_the_service_anchors_what_is_new_and_knows_it_after_a_restart(tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path)
    folder, gone = tmp_path / "a", tmp_path / "gone"
    folder.mkdir()
    async with serving(tmp_path, NOBODY, **settings(log, folder, gone)) as service:
        await service.session()
        now = await wait_for(service, lambda now: now.get("age_seconds 0") is not None and now["missing_events 0"] == 0)
        assert now["contradicted 0"] == 0
        assert "age_seconds 1" not in now
        assert now["missing_events 1"] == service.services.log.head().position
        assert now["failures_total 1"] >= 1
        assert "failures_total 0" not in now
        await service.session()
        await wait_for(service, lambda now: now["missing_events 0"] == 0)
    anchors = sorted(path.name for path in folder.glob("chatbot-log/*/0*"))
    assert len(anchors) >= 2
    async with serving(tmp_path, NOBODY, **settings(log, folder, interval_s=3600)) as service:
        now = await wait_for(service, lambda now: "age_seconds 0" in now)
        assert now["age_seconds 0"] < 600
        assert sorted(path.name for path in folder.glob("chatbot-log/*/0*")) == anchors  # it is due in an hour
    said, _ = await asyncio.to_thread(log.run, *log.verify_arguments(folder))
    assert f"it agrees with {len(anchors)} anchors" in said


async def test_a_log_that_was_rolled_back_is_told_and_not_signed(tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path)
    folder = tmp_path / "a"
    folder.mkdir()
    await asyncio.to_thread(log.write, 5)
    await asyncio.to_thread(log.anchor, folder)
    cut_off(log.path, 4)
    before = sorted(folder.rglob("*"))
    async with serving(tmp_path, NOBODY, **settings(log, folder, interval_s=3600)) as service:  # it is told at once
        now = await wait_for(service, lambda now: now.get("contradicted 0") == 1)
        assert now["failures_total 0"] >= 1
        assert sorted(folder.rglob("*")) == before
        health = (await service.client.get("/api/health")).json()
        assert health["status"] == "degraded"
        assert health["detail"] == "the log contradicts its anchors in target 0: rolled back, or rewritten"


async def test_a_service_with_a_bad_key_does_not_start(tmp_path: Path) -> None:
    log = AnchoredLog(tmp_path)
    log.key.write_text("nonsense")
    with pytest.raises(AnchorsUnusable, match=r"anchors.key_file = .*key: this is no signer's key"):
        async with serving(tmp_path, NOBODY, **settings(log, tmp_path)):
            pass
