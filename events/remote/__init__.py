"""The log service: one process writes the log, others append through a Unix socket and read the file themselves."""
