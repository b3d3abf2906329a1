"""Other processes that append to the same log: found, asked, mirrored, and cleaned up after."""
