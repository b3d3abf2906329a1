"""The position of the projections as a node knows it, whether it folds or follows."""

from projections.progress import Progress


class NodeProgress(Progress):
    """The position that this node knows. `target` is what was reached before, or the head at the start: below it
    answers are older than they were. A role of the node ends, its waiters stay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.target = 0

    def reach(self, position: int) -> None:
        """As Progress.reach."""
        if position < self.position:
            self.target = max(self.target, self.position)
        super().reach(position)

    def stop(self, reason: BaseException) -> None:
        """The node may go on with another role."""

    def end(self, reason: BaseException) -> None:
        """As Progress.stop."""
        super().stop(reason)
