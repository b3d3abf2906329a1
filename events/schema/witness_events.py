"""The events of the reserved stream `witness`: checkpoints of other logs that this service has seen as a witness."""

from events.schema.event import ReservedEvent


class CheckpointWitnessed(ReservedEvent, frozen=True, tag="checkpoint_witnessed"):
    """The log `origin` had `size` events and the root `root` (hexadecimal digits), and contains every tree of it that
    was witnessed before. `note` is the checkpoint with its signature: evidence, if the log
    should show others another one.
    """

    origin: str
    size: int
    root: str
    note: str


WitnessEvent = CheckpointWitnessed
