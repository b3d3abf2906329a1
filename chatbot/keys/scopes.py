"""Scopes: what a key may do. A key has one or more; none contains another."""

CHAT = "chat"
METRICS = "metrics"
AUDIT = "audit"
ERASE = "erase"
HOLD = "hold"
ADMIN = "admin"

SCOPES: dict[str, str] = {
    CHAT: "converse, and read, change and delete the key's own sessions",
    METRICS: "read /metrics",
    AUDIT: "read the whole log: every session's events and texts, and the proofs",
    ERASE: "delete and redact sessions of any owner, without reading them",
    HOLD: "place and release legal holds, without deleting anything",
    ADMIN: "add, list, rotate and revoke keys",
}
ALL_SCOPES = frozenset(SCOPES)
CONFIGURED_SCOPES = frozenset({CHAT, METRICS})  # of a key in CHATBOT_API_KEYS, beside what settings give it by name
