"""The identity of a log: the name by which checkpoints, exports and proofs refer to it."""

from events.log import EventLog, Snapshot


async def log_identity(log: EventLog | Snapshot) -> str:
    """`chatbot-log/` and the digest of the first event, which differs between any two logs. Raises LogUnavailable."""
    first = await log.rows(limit=1)
    return f"chatbot-log/{first[0].digest.hex()[:32]}" if first else "chatbot-log/empty"
