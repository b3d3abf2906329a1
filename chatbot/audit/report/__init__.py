"""Reports on sessions for auditors and for the people whom the sessions are about, as HTML and as lines of JSON."""
