"""Settings of files that messages refer to."""

from typing import Annotated

from msgspec import Meta, Struct

MediaType = Annotated[str, Meta(pattern=r"^image/(png|jpeg|gif|webp)$")]


class MediaSettings(Struct, frozen=True):
    """[media] Files that messages refer to, such as images."""

    max_bytes: Annotated[int, Meta(ge=1024, le=1 << 30, description="Largest file, in bytes.")] = 20971520
    types: Annotated[
        tuple[MediaType, ...],
        Meta(
            description="Types of files that are accepted, as their first bytes show them; empty: no files.",
            extra={"allowed": "image/png, image/jpeg, image/gif and image/webp, or some of them"},
        ),
    ] = ("image/png", "image/jpeg", "image/gif", "image/webp")
    orphan_hours: Annotated[
        float,
        Meta(gt=0, le=8760, description="Hours after which an upload that no message refers to is deleted."),
    ] = 24.0
    unused_max_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 40,
            description="Bytes of such uploads that one API key may have; more are refused with 429.",
        ),
    ] = 268435456
