"""Sessions as actors: one task per live session decides, the log remembers. Knows nothing of HTTP."""
