"""The operations on API keys, and examples of their bodies."""

from typing import Any

from chatbot.api.access.key_bodies import AddKeyBody, KeyList, RotateKeyBody
from chatbot.api.openapi.schemas import Kind, Operation, ResponseSpec
from chatbot.keys.key_views import EarlierSecretView, KeyView, NewKeyView
from chatbot.keys.scopes import SCOPES

_SCOPES = "\n".join(f"- `{name}`: {what}" for name, what in SCOPES.items())
_BODY = (400, 408, 413, 415, 422)
_LIST = """Also those of CHATBOT_API_KEYS (`source` settings), which only the settings change, and those that were
revoked: a name is never given out twice. No secret is shown.
"""
_ADD = f"""The answer has the secret, which is stored as its SHA-256 only and is never shown again. The key is valid in
every process of the service within a second. A key that may add keys can give them any scope. On a service without keys
this is refused: the first one is made on the server, with `chatbot key add`. Scopes:

{_SCOPES}
"""
_ROTATE = """A new secret for the same name, whose sessions it keeps. Earlier secrets stay valid for `overlap_seconds`,
so that clients can be changed one after the other; 0 ends them, for a secret that has leaked. Also brings back a key
that was revoked. `scopes` replaces the scopes, for all its secrets.
"""
_REVOKE = """Within a second no process accepts its secrets, and streams that are open with them are cut. What was
recorded under the name stays.
"""

KEY_OPERATIONS = (
    Operation(
        "GET", "/api/keys", "list_keys", "List the API keys", {200: ResponseSpec("All keys.", KeyList)}, details=_LIST,
        problems=(403, 422),
    ),
    Operation(
        "POST", "/api/keys", "add_key", "Add an API key",
        {201: ResponseSpec("The key with its secret.", NewKeyView, headers=("Location",))}, details=_ADD,
        body=AddKeyBody, problems=(*_BODY, 403, 409, 503),
    ),
    Operation(
        "POST", "/api/keys/{key_name}/rotate", "rotate_key", "Give an API key a new secret",
        {200: ResponseSpec("The key with its new secret.", NewKeyView)}, details=_ROTATE,
        body=RotateKeyBody, body_optional=True, problems=(*_BODY, 403, 404, 409, 503),
    ),
    Operation(
        "DELETE", "/api/keys/{key_name}", "revoke_key", "Revoke an API key",
        {204: ResponseSpec("No secret of it is valid any more.")}, details=_REVOKE, problems=(403, 404, 409, 503),
    ),
)  # fmt: skip

_MADE = "cb_Zk3xv0Qm1Gm5bV8yX2cJ7nL4pR9sT6wA0dF1hK3uE5o"
_ADDED, _EXPIRES = "2026-01-31T09:30:00.125000Z", "2026-12-31T23:59:59.999999Z"
_earlier = [EarlierSecretView("cb_Hq4w8z", "2026-02-01T09:30:00.125000Z")]
KEY_EXAMPLES: dict[Kind, dict[str, Any]] = {
    AddKeyBody: {
        "app": {"name": "app", "scopes": ["chat"]},
        "auditor": {"name": "eve", "scopes": ["audit"], "expires_at": "2026-12-31T00:00:00Z"},
    },
    RotateKeyBody: {"day": {}, "leaked": {"overlap_seconds": 0}, "hour": {"overlap_seconds": 3600}},
    NewKeyView: {
        "added": NewKeyView(name="eve", secret=_MADE, prefix=_MADE[:9], scopes=["audit"], expires_at=_EXPIRES),
        "rotated": NewKeyView(name="app", secret=_MADE, prefix=_MADE[:9], scopes=["chat"], earlier=_earlier),
    },
    KeyList: {
        "keys": KeyList(
            [
                KeyView(name="root", source="settings", scopes=["admin", "chat", "metrics"]),
                KeyView(name="eve", scopes=["audit"], prefix=_MADE[:9], added_at=_ADDED, expires_at=_EXPIRES),
                KeyView(name="old", status="revoked", scopes=["chat"], added_at=_ADDED),
            ]
        )
    },
}
