"""Several nodes over one log: failure detection, mirrors of remote replies, recovery of orphaned replies."""
