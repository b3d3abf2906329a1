"""The settings and commands of chatbot/anchors/README.md, as they are followed: a service, its witness, an auditor."""

import asyncio
import re
import shutil
import tomllib
from pathlib import Path

from chatbot.config.anchor_targets import parse_target
from chatbot.config.settings import inventory
from events.integrity.cosignature import check_cosignature
from events.integrity.log_identity import log_identity
from tests.support.documents import TEXTS, blocks
from tests.support.log.anchored_log import AnchoredLog
from tests.support.service import ROOT, serving, started, unblocked

DOCUMENT = TEXTS[ROOT / "chatbot" / "anchors" / "README.md"]
ANCHORS = "chatbot-log/*/0*"  # the folder of a log may begin with 0 itself
NOBODY = "http://127.0.0.1:9"  # a model server that is not needed


def test_the_blocks_of_settings_are_settings() -> None:
    for block in blocks(DOCUMENT, "toml"):
        for section, values in tomllib.loads(block).items():
            assert {f"{section}.{name}" for name in values} <= inventory().keys()
            for target in values.get("targets", ()):
                parse_target(target)


def test_the_targets_of_the_commands_are_targets() -> None:
    (commands,) = blocks(DOCUMENT, "sh")
    targets = re.findall(r"--(?:to|anchors) '?([^\s']+)", commands)
    assert len(targets) == 4
    for target in targets:
        parse_target(target)


async def test_a_service_that_is_witnessed_is_verified_by_an_auditor(tmp_path: Path) -> None:
    """Two services, each with its own log and key; then an auditor with a copy and two public keys."""
    witness_folder, folder = tmp_path / "witness", tmp_path / "service"
    for one in (witness_folder, folder, tmp_path / "worm"):
        one.mkdir()
    await asyncio.to_thread(AnchoredLog(witness_folder).run, "keygen", "--witness", str(witness_folder / "witness.key"))
    log = AnchoredLog(folder)
    async with serving(folder, NOBODY) as service:
        await service.session()
        origin = await log_identity(service.services.log)
    witness = {
        "CHATBOT_WITNESS_KEY_FILE": str(witness_folder / "witness.key"),
        "CHATBOT_WITNESS_LOGS": f"{origin} {log.public.read_text()}",
    }
    async with started(witness_folder, NOBODY, **witness) as witnessing:
        target = f"{witnessing.url.rstrip('/')}/witness#{(witness_folder / 'witness.key.pub').read_text().strip()}"
        anchors = {
            "CHATBOT_ANCHORS_KEY_FILE": str(log.key),
            "CHATBOT_ANCHORS_TARGETS": f"{tmp_path / 'worm'},{target}",
            "CHATBOT_ANCHORS_INTERVAL_S": "1",
        }
        async with started(folder, NOBODY, **anchors) as service:
            with unblocked():
                async with asyncio.timeout(30):
                    while not list((tmp_path / "worm").glob(ANCHORS)):
                        await asyncio.sleep(0.05)
            assert service.services.receipt_key == log.key.read_text()
        shutil.copy(folder / "chatbot.db", tmp_path / "copy.db")
        log.path = tmp_path / "copy.db"
        said, _ = await asyncio.to_thread(log.run, *log.verify_arguments(target, tmp_path / "worm"))
        assert "it agrees with 2 anchors in 2 targets" in said
        assert target.partition("#")[2].startswith("chatbot-witness+")
        (kept,) = (tmp_path / "worm").glob(ANCHORS)
        assert check_cosignature(kept.read_text(), target.partition("#")[2]) > 0
