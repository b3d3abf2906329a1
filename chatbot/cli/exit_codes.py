"""The exit codes, and the message that goes with a failure."""

from chatbot.observability.log_writer import LogWriter
from chatbot.runtime.standard_streams import note

EXIT_FAILED, EXIT_SETTINGS, EXIT_DATABASE, EXIT_LISTEN, EXIT_MODEL, EXIT_FAULT, EXIT_INTERRUPTED = (
    1,
    2,
    3,
    4,
    5,
    70,
    130,
)


def fail(code: int, message: str, stream: LogWriter | None = None) -> int:
    if stream is None:
        note(f"error: {message}")
    else:
        stream.write(f"error: {message}\n")
    return code
