"""Legal holds: which sessions may not be erased, as the log's stream `holds` says."""
