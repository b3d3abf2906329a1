"""Several nodes over one log, without a leader: failure detection, mirrors of remote replies, orphaned replies."""
