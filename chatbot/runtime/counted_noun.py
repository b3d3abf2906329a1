"""A number with its noun, in texts for people."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Such as "1 file" or "1,024 files". `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
