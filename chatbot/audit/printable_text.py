"""Untrusted text made safe to print on a terminal, and to show in a document. Pure."""

# A log holds untrusted text: escape sequences in it must not reach the reader's terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """`text` with its control characters, except line feeds and tabs, replaced by escapes such as \\x1b."""
    return text.translate(_CONTROLS)
