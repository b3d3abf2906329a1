"""Several processes that serve one port together: the master that starts them, and what each has from it."""
