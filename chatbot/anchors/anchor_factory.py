"""Makes the anchor schedule and the witness from the settings. Their libraries are imported only if they are used."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from chatbot.anchors.anchoring import Anchoring
from chatbot.config.anchor_targets import InvalidTarget, parse_witnessed
from chatbot.config.sections.anchor_settings import AnchorSettings
from chatbot.config.sections.witness_settings import WitnessSettings
from chatbot.config.settings import Settings
from chatbot.runtime.background_tasks import run_in_background
from events.integrity.signed_checkpoint import COSIGNATURE, ED25519, InvalidCheckpoint, read_signer
from events.log import EventLog

if TYPE_CHECKING:
    from chatbot.anchors.anchor_schedule import AnchorObserver, AnchorSchedule
    from chatbot.anchors.witness import Witness


class AnchorsUnusable(Exception):
    """A key file cannot be read, or a library of a target is missing: the sentence names the setting."""


async def start_anchoring(
    settings: Settings, stack: AsyncExitStack, log: EventLog, observer: "AnchorObserver", *, is_first_worker: bool
) -> Anchoring:
    """Raises AnchorsUnusable. `stack` ends the schedule."""
    signer = read_key_file("anchors.key_file", settings.anchors.key_file)
    schedule = create_schedule(settings.anchors, signer, log, observer) if is_first_worker else None
    if schedule is not None:
        await stack.enter_async_context(run_in_background(schedule.run(), "anchors"))
    return Anchoring(signer, schedule, create_witness(settings.witness, log))


def read_key_file(name: str, path: str, algorithm: bytes = ED25519) -> str | None:
    """The secret key in the file that the setting `name` names; None without one. Raises AnchorsUnusable."""
    if not path:
        return None
    try:
        text = Path(path).read_text().strip()
        read_signer(text, algorithm)
    except (OSError, UnicodeDecodeError, InvalidCheckpoint) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise AnchorsUnusable(f"{name} = {path}: {reason}") from error
    return text


def create_schedule(
    settings: AnchorSettings, signer: str | None, log: EventLog, observer: "AnchorObserver"
) -> "AnchorSchedule | None":
    """None without targets. Raises AnchorsUnusable."""
    if signer is None or not settings.targets:
        return None
    from chatbot.anchors.anchor_schedule import AnchorSchedule  # noqa: PLC0415
    from chatbot.anchors.targets.target_factory import open_target  # noqa: PLC0415

    try:
        targets = [open_target(text) for text in settings.targets]
    except InvalidTarget as error:
        raise AnchorsUnusable(f"anchors.targets: {error}") from error
    return AnchorSchedule(log, targets, signer, settings.interval_s, observer)


def create_witness(settings: WitnessSettings, log: EventLog) -> "Witness | None":
    """None without a key. Raises AnchorsUnusable."""
    signer = read_key_file("witness.key_file", settings.key_file, COSIGNATURE)
    if signer is None:
        return None
    from chatbot.anchors.witness import Witness  # noqa: PLC0415

    logs: dict[str, list[str]] = {}
    for text in settings.logs:
        origin, verifier = parse_witnessed(text)
        logs.setdefault(origin, []).append(verifier)
    return Witness(log, logs, signer)
