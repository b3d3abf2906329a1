"""What the HTTP API knows of anchors and of the witness."""

from typing import Protocol

from msgspec import Struct

from chatbot.anchors.witness import Witness


class AnchorStatus(Struct, frozen=True):
    """`age_s` is that of the newest anchor, None if there is none yet; `missing` the events that are not in it."""

    target: int
    age_s: float | None
    missing: int
    is_contradicted: bool


class AnchorStatuses(Protocol):
    """The anchor schedule."""

    def status(self) -> list[AnchorStatus]:
        """Of each target, in the order of the setting."""
        ...


class Anchoring(Struct, frozen=True):
    """`signer` is the service's secret key; `schedule` is None without targets, and in all workers but one."""

    signer: str | None = None
    schedule: AnchorStatuses | None = None
    witness: Witness | None = None

    @property
    def fault(self) -> str | None:
        """What is wrong with the log by its anchors, as a sentence; None if nothing is known to be."""
        statuses = self.schedule.status() if self.schedule is not None else []
        named = [str(one.target) for one in statuses if one.is_contradicted]
        return (
            f"the log contradicts its anchors in target {', '.join(named)}: rolled back, or rewritten"
            if named
            else None
        )

    def __repr__(self) -> str:
        return "Anchoring()"  # for logs: nothing of the key
