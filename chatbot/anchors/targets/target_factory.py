"""Opens the targets that settings and commands name."""

from chatbot.anchors.anchor_target import AnchorTarget
from chatbot.anchors.targets.object_store import StoreTarget
from chatbot.config.anchor_targets import FolderTarget, S3Target, WitnessUrl, parse_target


def open_target(text: str) -> AnchorTarget:
    """The target that `text` names; nothing is connected yet. What a target needs is imported only for it.

    Raises InvalidTarget, also where a library is missing.
    """
    target = parse_target(text)
    match target:
        case FolderTarget():
            from chatbot.anchors.targets.folder_store import FolderStore  # noqa: PLC0415

            return StoreTarget(FolderStore(target.folder))
        case S3Target():
            from chatbot.anchors.targets.s3_store import S3Store  # noqa: PLC0415

            return StoreTarget(S3Store(target))
        case WitnessUrl():
            from chatbot.anchors.targets.witness_target import WitnessTarget  # noqa: PLC0415

            return WitnessTarget(target)
