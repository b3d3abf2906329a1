"""Events of who used a session without changing it."""

from events.schema.event import Event, Traits


class SessionAccessed(Event, frozen=True, tag="session_accessed"):
    """A client read the session. Recorded at most once per `access_resolution_s`.

    With an idempotency key: a client requested a change that had no effect (a cancel while no reply was running), and
    gets the same answer when it repeats the request.
    """

    traits = Traits(is_access=True, holds_message=False)

    idempotency_key: str | None = None
    fingerprint: str | None = None


class SessionRead(Event, frozen=True, tag="session_read"):
    """A client has shown all replies that ended at `version` of the session or before. No access: a client may mark
    sessions as read that nobody uses.
    """

    traits = Traits(is_access=False, holds_message=False)

    version: int


class SessionViewed(Event, frozen=True, tag="session_viewed"):
    """The key in the envelope has read `what` of the session: history, feed, export and so on. Recorded with
    the setting auth.record_reads, before the answer. No access: SessionAccessed says what postpones the expiry.
    """

    traits = Traits(is_access=False, holds_message=False)

    what: str
